// The small client over live: what it does by itself, what it takes by name, and how it fares
// without that.
import assert from "node:assert/strict";
import { basename, join } from "node:path";
import { describe, it } from "node:test";
import { build } from "esbuild";
import { page, resuming, rooms } from "../dist/live.js";
import { HELLO, outcome, settled, token } from "./fake.js";
import { overSmall } from "./wires.js";

const greet = (all, more = {}) => all.say({ type: "hello", ...HELLO, ...more });
const emitted = ({ said }) => said.filter(({ type }) => type === "emit");
/** What handlers of these events hear, each with its name. */
function listen({ client }, ...names) {
  const heard = [];
  for (const name of names) client.on(name, (data) => heard.push([name, data]));
  return heard;
}
/** It is lost without a word, and the next attempt is on its way. */
async function lose(all) {
  all.close(1006);
  await all.clock.pass(1000);
  all.open();
}
function end(all) {
  all.client.disconnect();
  assert.equal(all.clock.timers, 0);
}

describe("a small client by itself", () => {
  it("sends what waits in its order, and again by the same names after a loss", async () => {
    const all = overSmall();
    const sent = ["one", "two"].map((content) => all.client.send("message:send", { content }));
    assert.equal(all.client.pending.count, 2);
    greet(all);
    const data = emitted(all).map(({ data }) => data);
    assert.deepEqual(
      data.map(({ content }) => content),
      ["one", "two"],
    );
    await lose(all);
    assert.deepEqual(
      [all.client.state.reason, all.client.state.cause],
      ["transport", { what: "lost", code: 1006 }],
    );
    greet(all);
    assert.deepEqual(
      emitted(all).map(({ data }) => data),
      data,
    );
    for (const { id } of emitted(all)) all.say({ type: "ack", id, data: { ok: true } });
    assert.deepEqual(await Promise.all(sent.map(outcome)), ["done", "done"]);
    assert.equal(all.client.pending.count, 0);
    end(all);
  });

  it("refuses at once what cannot be sent", async () => {
    const all = overSmall();
    greet(all, { maxPayload: 100 });
    const refused = (data) => outcome(all.client.send("message:send", data));
    assert.equal(await refused({ at: new Date(0) }), "INVALID_DATA");
    assert.equal(await refused({ content: "x".repeat(200) }), "TOO_LARGE");
    assert.deepEqual(all.said, []);
    end(all);
    assert.equal(await refused({ content: "late" }), "DISCONNECTED");
  });

  it("begins each connection afresh, and says so", async () => {
    const all = overSmall();
    const back = listen(all, "session:back");
    greet(all, { resume: "r1" });
    all.say({ type: "subscribed", topic: "lobby", epoch: "e", offset: 3 });
    await lose(all);
    assert.deepEqual(all.said, []);
    greet(all);
    assert.equal(all.client.state.recovered, false);
    assert.deepEqual(back, [["session:back", { recovered: false }]]);
    end(all);
  });

  it("has no rooms, and hears of those that the server puts it into", () => {
    const all = overSmall();
    for (const name of ["join", "leave", "isIn", "publish"]) assert.ok(!(name in all.client), name);
    const heard = listen(all, "hi", "room:left", "room:gap", "server:drain", "room:missed");
    const places = [];
    all.client.on("hi", () => places.push(all.client.place));
    greet(all);
    all.say({ type: "subscribed", topic: "lobby", epoch: "e", offset: 3 });
    all.say({ type: "hi", topic: "lobby", data: 1, offset: 4 });
    all.say({ type: "gap", topic: "lobby", epoch: "e", offset: 9 });
    all.say({ type: "unsubscribed", topic: "lobby", reason: "forbidden" });
    // Said in a room, it is not the server's.
    all.say({ type: "server:drain", topic: "lobby", data: { reconnectInMs: 1 }, offset: 10 });
    all.say({ type: "room:missed", data: { room: "lobby", filled: true } });
    assert.deepEqual(heard, [
      ["hi", 1],
      ["room:gap", { room: "lobby" }],
      ["room:left", { room: "lobby", reason: "forbidden" }],
    ]);
    assert.deepEqual(places, [{ room: "lobby", offset: 4 }]);
    end(all);
  });

  it("notices silence, and asks after a sleep, without a word of the page", async () => {
    const silent = overSmall();
    greet(silent);
    await silent.clock.pass(45_000);
    assert.equal(silent.client.state.reason, "heartbeat_timeout");
    end(silent);
    const asleep = overSmall();
    greet(asleep);
    asleep.clock.sleep(3_600_000);
    await asleep.clock.pass(5_000);
    assert.deepEqual(
      asleep.said.map(({ type }) => type),
      ["ping"],
    );
    await asleep.clock.pass(2_000);
    assert.equal(asleep.client.state.reason, "heartbeat_timeout");
    end(asleep);
  });

  it("counts what fails for want of a network, and says what it can know of it", async () => {
    const all = overSmall({ attempts: 1 });
    all.close(1006);
    assert.equal(all.client.state.cause.what, "unreachable");
    await all.clock.pass(1000);
    all.close(1006);
    assert.deepEqual(
      [all.client.state.status, all.client.state.reason],
      ["failed", "attempts_exhausted"],
    );
    end(all);
  });

  it("renews its token on the connection that is", async () => {
    const all = overSmall({ token: () => token(all.clock, 20), autoConnect: false });
    all.client.connect();
    await settled();
    all.open();
    greet(all, { id: "0" });
    await all.clock.pass(16_000);
    assert.deepEqual(
      emitted(all).map(({ event }) => event),
      ["auth:refresh"],
    );
    end(all);
  });

  it("keeps the pause that a server asks for, and says why it ended", async () => {
    const all = overSmall();
    greet(all);
    all.say({ type: "server:drain", data: { reconnectInMs: 7_000 } });
    all.close(1001);
    assert.equal(all.client.state.cause.what, "drained");
    await all.clock.pass(6_900);
    assert.equal(all.sockets.length, 1);
    await all.clock.pass(100);
    assert.equal(all.sockets.length, 2);
    greet(all);
    all.say({ type: "connection:replaced", data: { message: "…", by: {} } });
    all.close(4403);
    assert.deepEqual([all.client.state.status, all.client.state.reason], ["failed", "replaced"]);
    end(all);
  });
});

describe("a small client that takes", () => {
  /** Is in the lobby, where the third event was the last. */
  async function inLobby(parts) {
    const all = overSmall({ rooms, ...parts });
    const joined = all.client.join("lobby");
    greet(all, { resume: "r1" });
    const [{ id, ...frame }] = all.said;
    assert.deepEqual(frame, { type: "subscribe", topic: "lobby" });
    all.say({ type: "subscribed", topic: "lobby", id, epoch: "e", offset: 3 });
    await joined;
    return all;
  }

  it("rooms, joins them again, and tells that something was missed", async () => {
    const all = await inLobby();
    const heard = listen(all, "room:missed", "hi");
    await lose(all);
    assert.equal(all.client.isIn("lobby"), false);
    greet(all);
    assert.deepEqual(
      all.said.map(({ type, topic }) => [type, topic]),
      [["subscribe", "lobby"]],
    );
    all.say({ type: "subscribed", topic: "lobby", id: all.said[0].id, epoch: "e", offset: 5 });
    await settled();
    all.say({ type: "hi", topic: "lobby", data: 1, offset: 6 });
    assert.deepEqual(heard, [
      ["room:missed", { room: "lobby", filled: false }],
      ["hi", 1],
    ]);
    assert.equal(all.client.isIn("lobby"), true);
    all.client.publish("lobby", "hi", 2).catch(() => {});
    assert.deepEqual(emitted(all).at(-1).data, { room: "lobby", event: "hi", data: 2 });
    end(all);
  });

  it("rooms, and leaves them for good", async () => {
    const all = await inLobby();
    all.client.leave("lobby");
    assert.deepEqual(
      all.said.slice(1).map(({ type, topic }) => [type, topic]),
      [["unsubscribe", "lobby"]],
    );
    all.say({ type: "unsubscribed", topic: "lobby", id: all.said[1].id });
    await lose(all);
    greet(all);
    assert.deepEqual(all.said, []);
    end(all);
  });

  it("resuming, goes on in no room that was left before it was joined", async () => {
    const all = await inLobby({ resuming });
    all.client.join("kitchen").catch(() => {});
    all.client.leave("kitchen");
    const [{ id }, { id: left }] = all.said.slice(-2);
    all.say({ type: "subscribed", topic: "kitchen", id, epoch: "e", offset: 7 });
    all.say({ type: "unsubscribed", topic: "kitchen", id: left });
    await lose(all);
    assert.deepEqual(Object.keys(all.said[0].topics), ["lobby"]);
    // It is left, and joined again, before it is said how it goes on.
    greet(all, { id: "0", recovered: true, resume: "r2" });
    all.client.leave("lobby");
    all.client.join("lobby").catch(() => {});
    assert.deepEqual(
      all.said.slice(1).map(({ type, topic }) => [type, topic]),
      [
        ["unsubscribe", "lobby"],
        ["subscribe", "lobby"],
      ],
    );
    end(all);
  });

  it("resuming, goes on where it was lost, and tells no event twice", async () => {
    const all = await inLobby({ resuming });
    const heard = listen(all, "hi", "room:missed", "session:back");
    all.say({ type: "note", data: 1, place: "p1" });
    all.say({ type: "hi", topic: "lobby", data: 1, offset: 4 });
    await lose(all);
    assert.deepEqual(all.said, [
      {
        type: "auth",
        id: "0",
        token: "",
        resume: "r1",
        place: "p1",
        topics: { lobby: { epoch: "e", offset: 4 } },
      },
    ]);
    greet(all, { id: "0", recovered: true, resume: "r2" });
    assert.equal(all.client.state.recovered, true);
    all.say({ type: "subscribed", topic: "lobby", epoch: "e", offset: 4, recovered: true });
    await settled();
    for (const offset of [4, 5]) all.say({ type: "hi", topic: "lobby", data: offset, offset });
    assert.deepEqual(heard, [
      ["hi", 1],
      ["session:back", { recovered: true }],
      ["hi", 5],
    ]);
    assert.equal(all.said.length, 1);
    end(all);
  });

  it("resuming without rooms, hears what was said to it alone meanwhile", async () => {
    const all = overSmall({ resuming });
    greet(all, { resume: "r1" });
    all.say({ type: "note", data: 1, place: "p1" });
    await lose(all);
    assert.deepEqual(all.said, [
      { type: "auth", id: "0", token: "", resume: "r1", place: "p1", topics: {} },
    ]);
    greet(all, { id: "0", recovered: true, resume: "r2" });
    assert.equal(all.client.state.recovered, true);
    end(all);
  });

  it("the page, hears of its network at once, and no more when it is disconnected", () => {
    const target = new EventTarget();
    const listening = new Set();
    const names = ["addEventListener", "removeEventListener"];
    names.forEach((name, index) => {
      globalThis[name] = (type, hear) => {
        target[name](type, hear);
        if (index) listening.delete(type);
        else listening.add(type);
      };
    });
    try {
      const all = overSmall({ page });
      greet(all);
      target.dispatchEvent(new Event("offline"));
      assert.equal(all.client.state.cause.what, "offline");
      target.dispatchEvent(new Event("online"));
      assert.equal(all.sockets.length, 2);
      end(all);
      assert.equal(listening.size, 0);
      const without = overSmall();
      assert.equal(listening.size, 0);
      end(without);
    } finally {
      for (const name of names) delete globalThis[name];
    }
  });
});

describe("what a page does not take by name", () => {
  const PARTS = { rooms: "core.js", resuming: "resuming.js", page: "page.js" };
  const WHOLE = ["client.js", "missed.js", "room.js"];

  /** The modules that a bundle has something of. */
  async function bundled(names) {
    const path = join(import.meta.dirname, "../dist/live.js");
    const { metafile } = await build({
      stdin: {
        contents: `export { ${names} } from ${JSON.stringify(path)}`,
        resolveDir: import.meta.dirname,
      },
      bundle: true,
      write: false,
      metafile: true,
      format: "esm",
    });
    const [{ inputs }] = Object.values(metafile.outputs);
    return Object.entries(inputs)
      .filter(([, { bytesInOutput }]) => bytesInOutput > 0)
      .map(([name]) => basename(name));
  }

  it("is not in its bundle", async () => {
    const inIt = await bundled("createSmallClient");
    assert.ok(inIt.includes("queue.js"));
    assert.deepEqual(
      [...Object.values(PARTS), ...WHOLE].filter((name) => inIt.includes(name)),
      [],
    );
    for (const [part, module] of Object.entries(PARTS)) {
      const inIt = await bundled(`createSmallClient, ${part}`);
      assert.deepEqual(
        [...Object.values(PARTS), ...WHOLE].filter((name) => inIt.includes(name)),
        [module],
      );
    }
  });
});
