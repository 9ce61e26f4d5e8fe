// @heartline/client comes back to real nodes, and misses nothing or says what it has missed.
import assert from "node:assert/strict";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterEach, describe, it } from "node:test";
import WebSocket from "ws";
import { Client } from "../../clients/js/dist/client.js";
import { socketIo } from "../../clients/js/dist/index.js";
import { live } from "../../clients/js/dist/live.js";
import { proxy } from "./lib/proxy.js";
import { freePort, serve, token, until, within } from "./lib/server.js";

const open = [];
afterEach(async () => {
  for (const one of open.splice(0).reverse())
    await (one.disconnect ? one.disconnect() : one.kill());
});

const folder = () => {
  const path = mkdtempSync(join(tmpdir(), "heartline-back-"));
  open.push({ kill: () => rmSync(path, { recursive: true, force: true }) });
  return path;
};
async function node(set, options) {
  const started = await serve(
    { "recovery.window": "1m", "auth.jwt.leeway": "0s", ...set },
    options,
  );
  open.push(started);
  return started;
}
/** A node that goes on where the one before it was killed: its port and its files are those. */
async function lasting(set = {}) {
  const [port, where] = [await freePort(), folder()];
  const files = {
    "recovery.journal": join(where, "journal"),
    "store.url": `sqlite://${join(where, "heartline.db")}`,
  };
  return { port, start: () => node({ ...files, ...set }, { port }) };
}

const FAST = { backoff: 50, maxBackoff: 200 };
const TRANSPORTS = {
  "Socket.IO": ({ http }, options) =>
    new Client(socketIo(http, { transports: ["websocket"] }), { ...FAST, ...options }),
  "Socket.IO, polling": ({ http }, options) =>
    new Client(socketIo(http, { transports: ["polling"] }), { ...FAST, ...options }),
  live: (to, options) =>
    new Client(
      live(to.live, (url) => new WebSocket(url)),
      { ...FAST, ...options },
    ),
};
const ROOM = "conversation:1";
const numbers = (from, to) => Array.from({ length: to - from + 1 }, (_, index) => from + index);

for (const [name, make] of Object.entries(TRANSPORTS)) {
  /** A client in a room and a conversation, and what its handlers hear. */
  async function enter(to, user, options = {}) {
    const client = make(to, { token: token(user), ...options });
    open.push(client);
    const heard = [];
    const extra = [];
    const hear = (more) => (data) => {
      heard.push(more(data));
    };
    client.on("n", (...all) => (extra.push(all.length), heard.push(all[0].n)));
    client.on(
      "text",
      hear((text) => text),
    );
    client.on(
      "message:new",
      hear(({ content }) => content),
    );
    client.on(
      "message:notification",
      hear(({ message }) => `note ${message.content}`),
    );
    client.on(
      "room:missed",
      hear(({ room, filled }) => `${room} ${filled ? "filled" : "missed"}`),
    );
    client.on(
      "session:back",
      hear(({ recovered }) => (recovered ? "recovered" : "afresh")),
    );
    await Promise.all([client.join("map"), client.join(ROOM)]);
    return { client, heard, extra };
  }
  const reached = (client, status) =>
    until(
      () => client.state.status === status,
      `${status}: ${JSON.stringify(client.state)}`,
      30000,
    );
  const all = (heard, count) =>
    until(() => heard.length >= count, `${count} of ${JSON.stringify(heard)}`, 30000);
  const say = (client, from, to) =>
    Promise.all(numbers(from, to).map((n) => client.publish("map", "n", { n })));
  const write = async (client, from, to) => {
    for (const n of numbers(from, to))
      await client.request("message:send", { conversationId: "1", content: `m${n}` });
  };

  describe(`coming back over ${name}`, { timeout: 180000 }, () => {
    it("goes on after a cut cable, with all that was said meanwhile", async () => {
      const one = await node({ "limits.messages": "off" });
      const cable = await proxy(one.port);
      open.push(cable);
      const { client: bob } = await enter(one, "bob");
      const { client: ann, heard, extra } = await enter(cable, "ann");
      const { socketId } = ann.state;
      let from = 0;
      for (let cut = 1; cut <= 3; cut++) {
        await say(bob, from + 1, from + 2);
        await bob.publish("map", "text", `text ${cut}`);
        await all(heard, 3);
        cable.cut();
        await reached(ann, "reconnecting");
        await say(bob, from + 3, from + 5);
        await write(bob, cut, cut);
        await bob.publish("map", "text", `later ${cut}`);
        cable.mend();
        await reached(ann, "connected");
        await all(heard, 9);
        assert.deepEqual(
          [ann.state.recovered, ann.state.socketId, ann.isIn("map"), ann.isIn(ROOM)],
          [true, socketId, true, true],
        );
        const [first, second] = numbers(from + 1, from + 2);
        // Of two topics of live, each comes in its own order.
        const told = heard.splice(0);
        const before = [first, second, `text ${cut}`, "recovered"];
        assert.deepEqual(told.slice(0, 4), before);
        assert.deepEqual(
          told.slice(4).filter((one) => one !== `m${cut}`),
          [...numbers(from + 3, from + 5), `later ${cut}`],
        );
        assert.ok(told.includes(`m${cut}`));
        from += 5;
      }
      assert.deepEqual(new Set(extra), new Set([1]));
      assert.equal(await one.metric('heartline_resumes_total{outcome="recovered"}'), 3);
    });

    it("goes on after the only node was killed, with what was said before that", async () => {
      const { port, start } = await lasting();
      const first = await start();
      const cable = await proxy(port);
      open.push(cable);
      const { client: bob, heard: bobHeard } = await enter(first, "bob");
      const seen = new Promise((resolve) =>
        bob.on("user:online", ({ userId }) => userId === "ann" && resolve()),
      );
      const { client: ann, heard } = await enter(cable, "ann");
      // Bob's coming is announced before hers: were it said once she is cut off, nobody would know
      // whether a live client had heard it.
      await within(seen, "ann's coming");
      const { socketId } = ann.state;
      await say(bob, 1, 2);
      await all(heard, 2);
      cable.cut();
      await reached(ann, "reconnecting");
      await say(bob, 3, 5);
      await write(bob, 1, 2);
      await first.kill();
      await reached(bob, "reconnecting");
      const later = bob.send("message:send", { conversationId: "1", content: "m3" });
      const second = await start();
      cable.mend();
      await later;
      await all(heard, 9);
      const { text } = await second.api("/metrics");
      const why = `${heard}\n${text.match(/^heartline_resumes_total.* [1-9].*$/gm)}`;
      assert.deepEqual([ann.state.recovered, ann.state.socketId], [true, socketId], why);
      assert.deepEqual(
        heard.filter((one) => typeof one === "number"),
        [1, 2, 3, 4, 5],
      );
      assert.deepEqual(
        heard.filter((one) => `${one}`.startsWith("m")),
        ["m1", "m2", "m3"],
      );
      await all(bobHeard, 9);
      assert.equal(bob.state.recovered, true);
      assert.equal(bobHeard.filter((one) => one === "m3").length, 1);
    });

    it("goes on after a drain and a restart", async () => {
      const { start } = await lasting();
      const first = await start();
      const { client: ann, heard } = await enter(first, "ann");
      await say(ann, 1, 3);
      await all(heard, 3);
      await first.stop();
      await reached(ann, "reconnecting");
      await start();
      await reached(ann, "connected");
      await say(ann, 4, 4);
      await all(heard, 5);
      assert.deepEqual(heard, [1, 2, 3, "recovered", 4]);
    });

    it("goes on with a new token after the old one has expired", async () => {
      const one = await node();
      const { client: bob } = await enter(one, "bob");
      let there;
      const soon = () => ({ exp: Math.ceil(Date.now() / 1000) + 4 });
      const { client: ann, heard } = await enter(one, "ann", {
        token: () => {
          // It cannot be had in time.
          if (there?.state.status === "connected") throw new Error("no token");
          return token("ann", there ? {} : soon());
        },
      });
      there = ann;
      const { socketId } = ann.state;
      const reasons = [];
      ann.subscribe(({ reason }) => reason && reasons.push(reason));
      await until(() => heard.includes("recovered"), "the return", 30000);
      await say(bob, 1, 2);
      await all(heard, 3);
      assert.deepEqual([heard, ann.state.socketId], [["recovered", 1, 2], socketId]);
      // Each attempt to come back says it once more.
      assert.deepEqual([...new Set(reasons)], ["auth_expired"]);
    });

    it("goes on where nobody needs a token, with one and without", async () => {
      for (const [mode, given] of [
        ["optional", { token: token("ann") }],
        ["off", { token: undefined }],
      ]) {
        const one = await node({ "auth.mode": mode });
        const cable = await proxy(one.port);
        open.push(cable);
        const client = make(cable, given);
        open.push(client);
        const heard = [];
        client.on("n", ({ n }) => heard.push(n));
        client.on("session:back", ({ recovered }) => heard.push(recovered));
        await client.join("map");
        const { socketId, userId } = client.state;
        cable.cut();
        await reached(client, "reconnecting");
        const body = { event: "n", data: { n: 1 } };
        await one.api("/v1/rooms/map/publish", { method: "POST", body });
        cable.mend();
        await all(heard, 2);
        assert.deepEqual(heard, [true, 1], mode);
        assert.deepEqual([client.state.socketId, client.state.userId], [socketId, userId]);
        client.disconnect();
      }
    });

    it("fills conversations from their history where nothing can be resumed", async () => {
      const { port, start } = await lasting({
        "recovery.journal": "off",
        "limits.messages": "off",
      });
      const first = await start();
      const cable = await proxy(port);
      open.push(cable);
      const { client: bob } = await enter(first, "bob");
      const { client: ann, heard } = await enter(cable, "ann");
      await write(bob, 1, 2);
      await all(heard, 2);
      cable.cut();
      await reached(ann, "reconnecting");
      await say(bob, 1, 2);
      await write(bob, 3, 250);
      await first.kill();
      await start();
      const more = bob.send("message:send", { conversationId: "1", content: "m251" });
      cable.mend();
      await more;
      await until(
        () => heard.includes("map missed") && heard.includes(`${ROOM} filled`),
        "both",
        30000,
      );
      await until(() => heard.includes("m251"), "the last message");
      assert.equal(ann.state.recovered, false);
      assert.deepEqual(
        heard.filter((one) => one.startsWith("m") && one !== "map missed"),
        numbers(1, 251).map((n) => `m${n}`),
      );
      assert.equal(heard[2], "afresh");
    });

    it("fills what was more than a gateway keeps", async () => {
      const one = await node({ "recovery.events": "5", "limits.messages": "off" });
      const cable = await proxy(one.port);
      open.push(cable);
      const { client: bob } = await enter(one, "bob");
      const { client: ann, heard } = await enter(cable, "ann");
      await write(bob, 1, 1);
      await all(heard, 1);
      cable.cut();
      await reached(ann, "reconnecting");
      await write(bob, 2, 40);
      cable.mend();
      await until(() => heard.includes(`${ROOM} filled`), "the history", 30000);
      assert.deepEqual(
        heard.filter((one) => /^m\d/.test(one)),
        numbers(1, 40).map((n) => `m${n}`),
      );
    });
  });
}

it("no message is missing or comes twice in many cuts and kills", { timeout: 180000 }, async () => {
  const off = Object.fromEntries(
    ["messages", "events", "joins"].map((of) => [`limits.${of}`, "off"]),
  );
  const { port, start } = await lasting({ ...off, "limits.connects_per_ip": "off" });
  let one = await start();
  const all = [];
  for (const make of Object.values(TRANSPORTS)) {
    const cable = await proxy(port);
    const client = make(cable, { token: token("ann"), backoff: 30, maxBackoff: 100 });
    open.push(cable, client);
    const heard = { messages: [], numbers: [], missed: [], back: 0 };
    client.on("message:new", ({ offset }) => heard.messages.push(offset));
    client.on("n", ({ n }) => heard.numbers.push(n));
    client.on("room:missed", ({ room, filled }) => {
      // What was heard by then tells which way of coming back it was.
      const { messages, numbers, back } = heard;
      if (!filled) heard.missed.push({ room, messages: messages.at(-1), n: numbers.at(-1), back });
    });
    client.on("session:back", ({ recovered }) => (heard.back += Number(recovered)));
    await Promise.all([client.join("map"), client.join(ROOM)]);
    all.push({ cable, client, heard });
  }
  const bob = TRANSPORTS["Socket.IO"](one, { token: token("bob") });
  open.push(bob);
  // On a slow machine longer, until each has come back some times.
  const from = Date.now();
  const isOver = () => {
    const time = Date.now() - from;
    return time > 40000 || (time > 8000 && all.every(({ heard }) => heard.back > 5));
  };
  const often = async (pause, call) => {
    while (!isOver()) {
      await new Promise((resolve) => setTimeout(resolve, pause()));
      await call();
    }
  };
  let number = 0;
  await Promise.all([
    // At a pace at which nobody misses more than is kept, however fast the gateway is.
    often(
      () => 10,
      () => bob.publish("map", "n", { n: ++number }).catch(() => {}),
    ),
    often(
      () => 10,
      () => bob.send("message:send", { conversationId: "1", content: "…" }),
    ),
    often(
      () => 2000,
      async () => {
        await one.kill();
        one = await start();
      },
    ),
    ...all.map(({ cable }) =>
      often(
        () => Math.random() * 400,
        async () => {
          cable.cut();
          await new Promise((resolve) => setTimeout(resolve, Math.random() * 200));
          cable.mend();
        },
      ),
    ),
  ]);
  const last = (await bob.send("message:send", { conversationId: "1", content: "the last" }))
    .message;
  await bob.publish("map", "n", { n: ++number });
  for (const { client, heard } of all) {
    await until(() => heard.messages.at(-1) === last.offset, "the last message", 30000);
    await until(() => heard.numbers.at(-1) === number, "the last number", 30000);
    assert.deepEqual(heard.messages, numbers(1, last.offset));
    // What was published while there was no node was heard by nobody; all heard the rest.
    assert.deepEqual(heard.numbers, all[0].heard.numbers);
    assert.deepEqual(
      heard.numbers,
      [...new Set(heard.numbers)].sort((a, b) => a - b),
    );
    assert.deepEqual([heard.missed, client.state.recovered, heard.back > 5], [[], true, true]);
  }
});
