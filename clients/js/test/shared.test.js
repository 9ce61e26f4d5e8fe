// One connection for several tabs.
import assert from "node:assert/strict";
import { describe, it } from "node:test";
import { setFlagsFromString } from "node:v8";
import { runInNewContext } from "node:vm";
import { live } from "../dist/live.js";
import { createClient } from "../dist/shared.js";
import { HeartlineError } from "../dist/types.js";
import { Clock, HELLO, outcome, settled } from "./fake.js";
import { Tabs } from "./tabs.js";

/** Lets what tabs say to each other arrive, and what follows from it. */
async function heard() {
  for (let turn = 0; turn < 8; turn++) await settled();
}

/** A browser with tabs, each with its client; and all real connections that came about. */
function world(link = {}) {
  const tabs = new Tabs();
  const clock = new Clock();
  const links = [];
  const dial = (tab) => (token, events, earlier) => {
    const one = {
      tab,
      token,
      earlier,
      events,
      said: [],
      closed: [],
      emit: (event, data, reply) => one.said.push({ event, data, reply }),
      join: (room, reply) => one.said.push({ event: "join", data: room, reply }),
      leave: (room, reply) => one.said.push({ event: "leave", data: room, reply }),
      ping: (reply) => one.said.push({ event: "ping", reply }),
      session: () => ({ of: links.indexOf(one) }),
      close: (forGood) => one.closed.push(forGood),
      find: (event) => one.said.filter((said) => said.event === event),
      ...link,
    };
    links.push(one);
    return one;
  };
  const open = (name, options = {}) => {
    const page = tabs.open();
    const client = createClient(dial(name), {
      name: "ann",
      token: name,
      platform: clock,
      browser: page.browser,
      ...options,
    });
    const events = [];
    for (const event of ["note", "server:hello", "session:back", "room:missed"])
      client.on(event, (data) => events.push([event, data]));
    return { ...page, client, events, names: () => events.map(([event]) => event) };
  };
  return {
    tabs,
    clock,
    links,
    open,
    get link() {
      return links.at(-1);
    },
  };
}

/** Two tabs with a connection, which the first one carries. */
async function two(link) {
  const all = world(link);
  const [a, b] = [all.open("a"), all.open("b")];
  await heard();
  all.link.events.hello(HELLO);
  await heard();
  return { ...all, a, b, all };
}
const status = (...tabs) => tabs.map(({ client }) => client.state.status);

describe("tabs that share a connection", () => {
  it("have one, and each knows what is true of it", async () => {
    const { all, a, b } = await two();
    assert.deepEqual(status(a, b), ["connected", "connected"]);
    assert.equal(all.links.length, 1);
    assert.deepEqual(
      [a, b].map(({ client }) => client.state.socketId),
      ["s1", "s1"],
    );
    all.link.events.event("server:hello", HELLO);
    const c = all.open("c");
    await heard();
    assert.deepEqual(status(c), ["connected"]);
    assert.equal(all.links.length, 1);
    for (const tab of [a, b, c]) assert.deepEqual(tab.names(), ["server:hello"]);
  });

  it("hear what is said in their own rooms, and leave one when the last of them does", async () => {
    const { all, a, b } = await two();
    for (const tab of [a, b]) void tab.client.join("lobby");
    void b.client.join("kitchen");
    await heard();
    assert.deepEqual(
      all.link.find("join").map(({ data }) => data),
      ["lobby", "kitchen"],
    );
    for (const { reply } of all.link.find("join")) reply({ ok: true });
    await heard();
    assert.ok(a.client.isIn("lobby") && b.client.isIn("lobby") && b.client.isIn("kitchen"));
    all.link.events.event("note", 1, "lobby");
    all.link.events.event("note", 2, "kitchen");
    all.link.events.event("note", 3);
    await heard();
    const notes = ({ events }) =>
      events.filter(([name]) => name === "note").map(([, data]) => data);
    assert.deepEqual(
      [notes(a), notes(b)],
      [
        [1, 3],
        [1, 2, 3],
      ],
    );
    b.client.leave("lobby");
    await heard();
    assert.equal(all.link.find("leave").length, 0);
    a.client.leave("lobby");
    await heard();
    assert.deepEqual(
      all.link.find("leave").map(({ data }) => data),
      ["lobby"],
    );
  });

  it("get each its own answers", async () => {
    const { all, a, b } = await two();
    const asked = [a, b].map(({ client }, n) => client.request("ask", { n }));
    await heard();
    for (const { data, reply } of all.link.find("ask")) reply({ ok: true, n: data.n });
    assert.deepEqual(
      (await Promise.all(asked)).map(({ n }) => n),
      [0, 1],
    );
  });

  it("are each refused what cannot be sent, and the one that carries goes on", async () => {
    const { all, a, b } = await two();
    all.link.emit = () => {
      throw new HeartlineError("INVALID_DATA", "JSON loses Date");
    };
    for (const { client } of [a, b]) {
      const unsaid = client.request("q", { f: () => 1 });
      const refused = client.request("q", { at: new Date(0) });
      await heard();
      assert.deepEqual([await outcome(unsaid), await outcome(refused)], ["INVALID_DATA", "INVALID_DATA"]);
      assert.throws(() => client.emit("q", { f: () => 1 }), HeartlineError);
      client.emit("q", { at: new Date(0) });
      await heard();
      assert.equal(client.state.status, "connected");
    }
    for (const { client } of [a, b]) client.disconnect();
  });

  it("keep nothing of what cannot be said", async () => {
    setFlagsFromString("--expose-gc");
    const collect = runInNewContext("gc");
    const { a, b } = await two();
    for (const { client } of [a, b]) {
      const kept = Array.from({ length: 10 }, (_, n) => {
        const reply = () => n;
        assert.throws(() => client.link.emit("q", { f: () => n }, reply), { code: "INVALID_DATA" });
        return new WeakRef(reply);
      });
      const isKept = () => kept.some((reply) => reply.deref());
      const deadline = Date.now() + 5_000;
      do {
        await new Promise((resolve) => setImmediate(resolve));
        collect();
      } while (isKept() && Date.now() < deadline);
      assert.ok(!isKept());
    }
    for (const { client } of [a, b]) client.disconnect();
  });

  it("end a watch when the last of them does", async () => {
    const { all, a, b } = await two();
    for (const { client } of [a, b]) client.emit("presence:watch", { room: "lobby" });
    a.client.emit("presence:unwatch", { room: "lobby" });
    await heard();
    assert.equal(all.link.find("presence:unwatch").length, 0);
    b.crash();
    await heard();
    assert.deepEqual(
      all.link.find("presence:unwatch").map(({ data }) => data),
      [{ room: "lobby" }],
    );
  });

  it("are told of the same end, and of a refusal with all that came with it", async () => {
    const { all, a, b } = await two();
    const { HeartlineError } = await import("../dist/types.js");
    const error = new HeartlineError("BANNED", "not today", undefined, { until: 5 });
    all.link.events.end({ kind: "final", reason: "refused", error });
    await heard();
    for (const { client } of [a, b]) {
      assert.equal(client.state.reason, "refused");
      assert.ok(client.state.error instanceof HeartlineError);
      assert.deepEqual(client.state.error.data, { until: 5 });
    }
    b.client.connect();
    await heard();
    all.link.events.hello(HELLO);
    await heard();
    assert.deepEqual(status(a, b), ["failed", "connected"]);
  });

  it("try together, and no more often than one would", async () => {
    const { all, a, b } = await two();
    for (const pause of [0, 1000, 2000, 4000]) {
      await all.clock.pass(pause);
      await heard();
      all.link.events.end({ kind: "retry", reason: "transport" });
      await heard();
    }
    assert.equal(all.links.length, 4);
    assert.deepEqual(
      [a, b].map(({ client }) => client.state.attempt),
      [4, 4],
    );
    await all.clock.pass(8000);
    await heard();
    all.link.events.hello(HELLO);
    await heard();
    assert.deepEqual(status(a, b), ["connected", "connected"]);
  });

  it("do not chase each other when an attempt fails at once", async () => {
    const { all } = await two();
    const before = all.links.length;
    all.links.push = function (one) {
      queueMicrotask(() => one.events.end({ kind: "retry", reason: "transport" }));
      return Array.prototype.push.call(this, one);
    };
    all.link.events.end({ kind: "retry", reason: "transport" });
    await heard();
    for (let second = 0; second < 20; second++) {
      await all.clock.pass(1000);
      await heard();
    }
    assert.ok(all.links.length - before <= 6, `${all.links.length - before} attempts in 20 s`);
  });
});

it("a tab whose locks take their time is not taken for one that has gone", async () => {
  const { all } = await two();
  const { browser } = all.tabs.open();
  const locks = { request: (...asked) => heard().then(() => browser.locks.request(...asked)) };
  const { client } = all.open("c", { browser: { ...browser, locks } });
  await heard();
  await heard();
  void client.join("lobby");
  await heard();
  assert.deepEqual(
    all.link.find("join").map(({ data }) => data),
    ["lobby"],
  );
});

describe("when one tab gives the connection up", () => {
  /** As it does whose page is put away. */
  const giveUp = async ({ all, b }) => {
    const own = b.clock.watchers;
    for (const tell of [...own]) tell("offline");
    await heard();
    return all;
  };
  async function three() {
    const all = world();
    const its = new Clock();
    const [a, b, c] = [all.open("a"), all.open("b", { platform: its }), all.open("c")];
    await heard();
    all.link.events.hello(HELLO);
    await heard();
    assert.deepEqual(status(a, b, c), ["connected", "connected", "connected"]);
    return { all, a, b: { ...b, clock: its }, c };
  }

  it("the others keep it, if it lives", async () => {
    const { all, a, b, c } = await three();
    await giveUp({ all, b });
    assert.deepEqual(status(a, b, c), ["connected", "reconnecting", "connected"]);
    all.link.find("ping")[0].reply();
    await all.clock.pass(3000);
    await heard();
    assert.equal(all.links.length, 1);
    b.clock.tell("online");
    await heard();
    assert.deepEqual(status(a, b, c), ["connected", "connected", "connected"]);
    assert.equal(b.client.state.recovered, false);
  });

  it("all lose it, if it does not answer, and nobody is let in before that is known", async () => {
    const { all, a, b, c } = await three();
    await giveUp({ all, b });
    b.clock.tell("online");
    await heard();
    assert.deepEqual(status(b), ["reconnecting"]);
    await all.clock.pass(2000);
    await heard();
    assert.deepEqual(status(a, b, c), ["reconnecting", "reconnecting", "reconnecting"]);
    assert.deepEqual(all.links[0].closed, [false]);
  });
});

describe("when the tab that carries", () => {
  it("is closed, the next takes over, and what it has to send is sent", async () => {
    const { all, a, b } = await two();
    const sent = b.client.send("message:send", { content: "hi" });
    await heard();
    const [{ data: first }] = all.link.find("message:send");
    a.close();
    await heard();
    assert.deepEqual(all.link.closed, [false]);
    await all.clock.pass(50);
    await heard();
    assert.equal(all.links.length, 2);
    assert.deepEqual([all.link.tab, all.link.token], ["b", "b"]);
    // It goes on from where the other one was.
    assert.deepEqual(all.link.earlier, { of: 0 });
    all.link.events.hello({ ...HELLO, recovered: true });
    await heard();
    assert.equal(b.client.state.recovered, true);
    const [again] = all.link.find("message:send");
    assert.equal(again.data.tempId, first.tempId);
    again.reply({ ok: true });
    await heard();
    assert.equal(await outcome(sent), "done");
  });

  it("has an earlier version and is closed, the next takes over afresh", async () => {
    const all = world();
    const page = all.tabs.open();
    // What such a one says to the next is by what the connection goes on, and no more.
    const channel = (name) => {
      const one = page.browser.channel(name);
      const say = one.postMessage;
      one.postMessage = ({ had, left, ...message }) => say(message);
      return one;
    };
    all.open("a", { browser: { ...page.browser, channel } });
    const b = all.open("b");
    await heard();
    all.link.events.hello(HELLO);
    await heard();
    void b.client.join("lobby");
    await heard();
    all.link.find("join")[0].reply({ ok: true });
    await heard();
    page.close();
    await heard();
    await all.clock.pass(50);
    await heard();
    all.link.events.hello(HELLO);
    await heard();
    assert.deepEqual([status(b), b.client.state.recovered], [["connected"], false]);
    // Nobody knows by now what the others were in: a connection that goes on would stay in there.
    assert.deepEqual([all.link.tab, all.link.earlier], ["b", undefined]);
    assert.deepEqual(
      all.link.find("join").map(({ data }) => data),
      ["lobby"],
    );
  });

  it("crashes, the next takes over afresh", async () => {
    const { all, a, b } = await two();
    void b.client.join("lobby");
    await heard();
    all.link.find("join")[0].reply({ ok: true });
    await heard();
    a.crash();
    await heard();
    await all.clock.pass(50);
    await heard();
    assert.equal(all.link.tab, "b");
    assert.equal(all.link.earlier, undefined);
    all.link.events.hello(HELLO);
    await heard();
    assert.deepEqual(
      all.link.find("join").map(({ data }) => data),
      ["lobby"],
    );
    assert.equal(b.client.state.recovered, false);
  });

  it("sleeps, another one takes its place, and it finds that when it wakes", async () => {
    const all = world();
    const its = new Clock();
    const [a, b] = [all.open("a", { platform: its }), all.open("b")];
    await heard();
    all.link.events.hello(HELLO);
    await heard();
    assert.deepEqual([status(a, b), all.link.tab], [["connected", "connected"], "a"]);
    a.sleep();
    await all.clock.pass(50_000);
    await heard();
    assert.equal(all.link.tab, "b");
    all.link.events.hello({ ...HELLO, socketId: "s2" });
    await heard();
    assert.deepEqual(status(b), ["connected"]);
    a.wake();
    await heard();
    await its.pass(0);
    await heard();
    assert.deepEqual(status(a, b), ["connected", "connected"]);
    assert.equal(a.client.state.socketId, "s2");
    assert.ok(all.links[0].closed.length > 0);
  });

  it("sleeps and wakes, the others hear what the one says that took its place", async () => {
    const all = world();
    const its = new Clock();
    const [a, b] = [all.open("a", { platform: its }), all.open("b")];
    await heard();
    all.link.events.hello(HELLO);
    await heard();
    a.sleep();
    await all.clock.pass(50_000);
    await heard();
    assert.equal(all.link.tab, "b");
    all.link.events.hello({ ...HELLO, socketId: "s2" });
    await heard();
    a.wake();
    await heard();
    all.link.events.event("note", 1);
    await heard();
    assert.deepEqual([status(b), b.client.state.socketId], [["connected"], "s2"]);
    assert.deepEqual(b.events.filter(([name]) => name === "note"), [["note", 1]]);
  });

  it("wants no connection any more, it goes on carrying for the others", async () => {
    const { all, a, b } = await two();
    a.client.disconnect();
    await heard();
    assert.deepEqual(status(a, b), ["disconnected", "connected"]);
    assert.deepEqual([all.links.length, all.link.closed.length], [1, 0]);
    b.client.disconnect();
    await heard();
    assert.deepEqual(all.link.closed, [true]);
    assert.equal(all.tabs.left, 0);
    assert.equal(all.clock.timers, 0);
    // And may come again.
    a.client.connect();
    await heard();
    all.link.events.hello(HELLO);
    await heard();
    assert.deepEqual(status(a), ["connected"]);
  });
});

describe("a connection that is recovered", () => {
  it("keeps the rooms of each tab, where rooms are not joined again", async () => {
    const { all, a, b } = await two();
    for (const tab of [a, b]) void tab.client.join("lobby");
    await heard();
    all.link.find("join")[0].reply({ ok: true });
    await heard();
    all.link.events.end({ kind: "retry", reason: "transport" });
    await heard();
    await all.clock.pass(1000);
    await heard();
    assert.deepEqual(all.link.earlier, { of: 0 });
    all.link.events.hello({ ...HELLO, recovered: true });
    await heard();
    assert.deepEqual(
      [a, b].map(({ client }) => client.state.recovered),
      [true, true],
    );
    assert.equal(all.link.find("join").length, 0);
    all.link.events.event("note", 1, "lobby");
    await heard();
    for (const tab of [a, b]) assert.ok(tab.names().includes("note"));
    a.client.leave("lobby");
    await heard();
    assert.equal(all.link.find("leave").length, 0);
    // Who comes now was not there before.
    const c = all.open("c");
    await heard();
    assert.equal(c.client.state.recovered, false);
  });

  for (const [where, link] of [
    ["rooms are not joined again", {}],
    ["they are", { isByRoom: true, isDeaf: true }],
  ])
    it(`tells a tab that is late what was missed before it came, where ${where}`, async () => {
      const { all, a, b } = await two(link);
      for (const tab of [a, b]) void tab.client.join("lobby");
      await heard();
      all.link.find("join")[0].reply({ ok: true });
      await heard();
      b.sleep();
      all.link.events.end({ kind: "retry", reason: "transport" });
      await heard();
      await all.clock.pass(1000);
      await heard();
      all.link.events.hello({ ...HELLO, recovered: true });
      await heard();
      all.link.find("join")[0]?.reply({ ok: true, recovered: true });
      all.link.events.event("note", "missed", "lobby");
      all.link.events.event("note", "elsewhere", "another room");
      await heard();
      b.wake();
      await heard();
      await all.clock.pass(1000);
      await heard();
      all.link.events.event("note", "new", "lobby");
      await heard();
      assert.equal(b.client.state.recovered, true);
      for (const tab of [a, b]) {
        const notes = tab.events.filter(([event]) => event === "note").map(([, data]) => data);
        assert.deepEqual(notes, ["missed", "new"]);
        assert.ok(!tab.names().includes("room:missed"));
      }
    });

  it("begins afresh for a tab that comes after more than is kept", async () => {
    const { all, b } = await two();
    void b.client.join("lobby");
    await heard();
    all.link.find("join")[0].reply({ ok: true });
    await heard();
    b.sleep();
    all.link.events.end({ kind: "retry", reason: "transport" });
    await heard();
    await all.clock.pass(1000);
    await heard();
    all.link.events.hello({ ...HELLO, recovered: true });
    for (let n = 0; n < 501; n++) all.link.events.event("note", n, "lobby");
    await heard();
    b.wake();
    await heard();
    await all.clock.pass(1000);
    await heard();
    all.link.find("join")[0].reply({ ok: true });
    await heard();
    assert.equal(b.client.state.recovered, false);
    assert.deepEqual(b.events.at(-1), ["room:missed", { room: "lobby", filled: false }]);
  });

  it("tells each tab of each room whether something was missed, where they are", async () => {
    const { all, a, b } = await two({ isByRoom: true, isDeaf: true });
    for (const tab of [a, b]) void tab.client.join("lobby");
    await heard();
    all.link.find("join")[0].reply({ ok: true });
    await heard();
    all.link.events.end({ kind: "retry", reason: "transport" });
    await heard();
    await all.clock.pass(1000);
    await heard();
    all.link.events.hello({ ...HELLO, recovered: true });
    await heard();
    assert.equal(all.link.find("join").length, 1);
    all.link.find("join")[0].reply({ ok: true, recovered: true });
    await heard();
    assert.ok(a.client.isIn("lobby") && b.client.isIn("lobby"));
    for (const tab of [a, b]) assert.ok(!tab.names().includes("room:missed"));
  });
});

describe("when a tab is closed while a connection is looked for", () => {
  for (const who of ["a", "b"])
    it(`the others go on where they were, where it is ${who}`, async () => {
      const all = world();
      const tabs = {};
      // The timers of a page that is closed are gone with it.
      for (const name of ["a", "b", "c"])
        tabs[name] = all.open(name, name === who ? { platform: new Clock() } : {});
      await heard();
      all.link.events.hello(HELLO);
      await heard();
      all.link.events.end({ kind: "retry", reason: "transport" });
      await heard();
      tabs[who].close();
      await heard();
      await all.clock.pass(1000);
      await heard();
      await all.clock.pass(50);
      await heard();
      assert.deepEqual([all.links.length, all.link.earlier], [2, { of: 0 }]);
      all.link.events.hello({ ...HELLO, recovered: true });
      await heard();
      delete tabs[who];
      for (const { client } of Object.values(tabs)) {
        assert.equal(client.state.recovered, true);
        client.disconnect();
      }
      await heard();
      assert.equal(all.tabs.left, 0);
    });

  it("nothing is kept if it was the last that wanted one", async () => {
    for (const isEarly of [true, false]) {
      const { all, a, b } = await two();
      if (isEarly) a.client.disconnect();
      all.link.events.end({ kind: "retry", reason: "transport" });
      await heard();
      if (!isEarly) a.client.disconnect();
      await heard();
      assert.deepEqual(status(a, b), ["disconnected", "reconnecting"]);
      b.close();
      await heard();
      assert.equal(all.tabs.left, 0);
    }
  });
});

describe("a token that is changed while two tabs wait for a connection", () => {
  const waiting = async () => {
    const all = world();
    const [a, b] = [all.open("a"), all.open("b")];
    await heard();
    assert.deepEqual([all.links.length, all.link.token], [1, "b"]);
    return { all, a, b };
  };

  for (const who of ["a", "b"])
    it(`begins the attempt anew, once for all who are given it, where ${who} is the first`, async () => {
      const { all, a, b } = await waiting();
      const [first, second] = who === "a" ? [a, b] : [b, a];
      const [old] = all.links;
      await first.client.setToken("new");
      await heard();
      await second.client.setToken("new");
      await heard();
      assert.deepEqual([all.links.length, all.link.token, old.closed], [2, "new", [false]]);
      // What is said of the old one is nobody's any more.
      const error = new HeartlineError("AUTH_TOKEN_INVALID", "no");
      old.events.end({ kind: "final", reason: "refused", error });
      all.link.events.hello(HELLO);
      await heard();
      assert.deepEqual(status(a, b), ["connected", "connected"]);
      for (const { client } of [a, b]) client.disconnect();
      await heard();
      assert.equal(all.tabs.left, 0);
    });

  it("begins nothing anew where it is the one that the tab had, or the first that it comes with", async () => {
    const { all, a, b } = await waiting();
    let asked = 0;
    const c = all.open("c", { token: async () => `c${++asked}` });
    await heard();
    await a.client.setToken("a");
    await heard();
    assert.deepEqual([all.links.length, all.link.closed, asked], [1, [], 1]);
    // The next attempt is another one, and a tab may come to it with another token.
    all.link.events.end({ kind: "retry", reason: "transport" });
    await heard();
    b.client.connect();
    await heard();
    assert.deepEqual([all.links.length, all.link.token, asked], [2, "b", 2]);
    all.link.events.hello(HELLO);
    await heard();
    assert.deepEqual(status(a, b, c), ["connected", "connected", "connected"]);
  });
});

it("a transport that cannot be ends in a state, for all tabs", async () => {
  const { clock, open } = world();
  const tabs = ["a", "b"].map((name) => {
    const { browser, close } = open(name, { autoConnect: false });
    const client = createClient(live("http://"), { name: "ann", platform: clock, browser });
    return { client, close };
  });
  await heard();
  for (const { client } of tabs) {
    const { status, reason, error } = client.state;
    assert.deepEqual([status, reason, error?.code], ["failed", "transport", "UNSUPPORTED"]);
  }
  for (const { close } of tabs) close();
  assert.equal(clock.timers, 0);
});

describe("the rooms of a tab that is closed", () => {
  const leaves = (all) => all.link.find("leave").map(({ data }) => data);
  /** Three tabs, each with its own timers; the first carries, two are in the lobby, one elsewhere. */
  async function three(link) {
    const all = world(link);
    const tabs = {};
    for (const name of ["a", "b", "c"]) tabs[name] = all.open(name, { platform: new Clock() });
    await heard();
    all.link.events.hello(HELLO);
    await heard();
    for (const name of ["a", "b"]) for (const room of ["lobby", name]) void tabs[name].client.join(room);
    await heard();
    for (const { reply } of all.link.find("join")) reply({ ok: true });
    await heard();
    return { all, tabs };
  }
  const lose = async (all) => {
    all.link.events.end({ kind: "retry", reason: "transport" });
    await heard();
  };
  const pass = async (tabs, ms) => {
    for (const { client } of tabs) await client.platform.pass(ms);
    await heard();
  };

  for (const [where, link] of [
    ["rooms are not joined again", {}],
    ["they are", { isByRoom: true, isDeaf: true }],
  ])
    for (const who of ["a", "b"])
      for (const isLost of [false, true])
        it(`are left on a connection that goes on: ${who}, ${isLost ? "lost" : "there"}, where ${where}`, async () => {
          const { all, tabs } = await three(link);
          const { [who]: closed, ...others } = tabs;
          if (isLost) await lose(all);
          closed.close();
          await heard();
          if (!isLost && who === "b") {
            // The one that carries has it leave at once.
            assert.deepEqual(leaves(all), ["b"]);
            return;
          }
          for (const ms of [50, 1000, 50]) await pass(Object.values(others), ms);
          assert.equal(all.links.length, 2);
          all.link.events.hello({ ...HELLO, recovered: true });
          await heard();
          for (const { client } of Object.values(others)) assert.equal(client.state.recovered, true);
          assert.deepEqual(leaves(all), [who]);
        });

  it("are left by the next that carries, of one that never comes to that", async () => {
    for (const isGoneBefore of [false, true]) {
      const { all, tabs } = await three();
      void tabs.c.client.join("lobby");
      await heard();
      tabs.c.sleep();
      tabs.a.close();
      if (isGoneBefore) tabs.c.crash();
      await heard();
      await pass([tabs.b], 50);
      all.link.events.hello({ ...HELLO, recovered: true });
      await heard();
      assert.deepEqual([all.link.tab, tabs.b.client.state.recovered], ["b", true]);
      if (!isGoneBefore) tabs.c.crash();
      await heard();
      assert.deepEqual(leaves(all), ["a"]);
      tabs.b.client.leave("lobby");
      await heard();
      assert.deepEqual(leaves(all), ["a", "lobby"]);
    }
  });

  it("are left also if it ends before it has joined them again", async () => {
    const { all, tabs } = await three({ isByRoom: true, isDeaf: true });
    await lose(all);
    await pass(Object.values(tabs), 1000);
    // It waits for this attempt, and hears nothing of what comes of it.
    tabs.b.sleep();
    all.link.events.hello({ ...HELLO, recovered: true });
    await heard();
    assert.deepEqual(leaves(all), []);
    tabs.b.crash();
    await heard();
    assert.deepEqual(leaves(all), ["b"]);
    tabs.a.client.leave("lobby");
    await heard();
    assert.deepEqual(leaves(all), ["b", "lobby"]);
  });

  it("stay joined for one that is late and was in there", async () => {
    const { all, tabs } = await three();
    tabs.b.sleep();
    await lose(all);
    await pass([tabs.a, tabs.c], 1000);
    all.link.events.hello({ ...HELLO, recovered: true });
    await heard();
    tabs.a.client.leave("lobby");
    await heard();
    assert.deepEqual(leaves(all), []);
    all.link.events.event("note", 1, "lobby");
    await heard();
    tabs.b.wake();
    await heard();
    await pass([tabs.b], 1000);
    assert.equal(tabs.b.client.state.recovered, true);
    assert.deepEqual(tabs.b.events.filter(([name]) => name === "note"), [["note", 1]]);
    tabs.b.client.leave("lobby");
    await heard();
    assert.deepEqual(leaves(all), ["lobby"]);
  });

  it("are not left by one that has lost its network alone, until the connection is known to live", async () => {
    for (const isAlive of [true, false]) {
      const { all, tabs } = await three();
      tabs.b.client.platform.tell("offline");
      await heard();
      assert.deepEqual(leaves(all), []);
      if (isAlive) {
        all.link.find("ping")[0].reply();
        await heard();
        assert.deepEqual(leaves(all), ["b"]);
        // What is said now it misses.
        await lose(all);
      } else await pass([tabs.a], 2000);
      await pass([tabs.a, tabs.c], 1000);
      all.link.events.hello({ ...HELLO, recovered: true });
      await heard();
      tabs.b.client.platform.tell("online");
      await heard();
      assert.deepEqual(status(tabs.b), ["connected"]);
      assert.equal(tabs.b.client.state.recovered, !isAlive);
    }
  });
});

describe("a room that was left", () => {
  const joins = (all) => all.link.find("join");
  /** Two tabs over live, the first of which was in a room and goes on in it. */
  async function resumed() {
    const { all, a, b } = await two({ isByRoom: true, isDeaf: true });
    void a.client.join("lobby");
    await heard();
    joins(all)[0].reply({ ok: true });
    await heard();
    all.link.events.end({ kind: "retry", reason: "transport" });
    await heard();
    await all.clock.pass(1000);
    await heard();
    all.link.events.hello({ ...HELLO, recovered: true });
    await heard();
    return { all, a, b };
  }
  const snapshots = ({ client }) => {
    const told = [];
    client.on("room:snapshot", ({ snapshot }) => told.push(snapshot));
    return told;
  };

  it("is joined anew on a connection that goes on", async () => {
    const { all, a } = await resumed();
    joins(all)[0].reply({ ok: true, recovered: true });
    await heard();
    assert.ok(a.client.isIn("lobby"));
    a.client.leave("lobby");
    await heard();
    assert.equal(all.link.find("leave").length, 1);
    const again = a.client.join("lobby");
    await heard();
    assert.equal(joins(all).length, 2);
    assert.equal(await outcome(again), "pending");
    joins(all)[1].reply({ ok: true });
    await heard();
    assert.equal(await outcome(again), "done");
  });

  it("is joined anew by a tab that has left it while another one is in there", async () => {
    const { all, a, b } = await resumed();
    joins(all)[0].reply({ ok: true, recovered: true });
    void b.client.join("lobby");
    await heard();
    joins(all)[1].reply({ ok: true });
    await heard();
    const told = snapshots(a);
    a.client.leave("lobby");
    void a.client.join("lobby");
    await heard();
    assert.equal(all.link.find("leave").length, 0);
    joins(all)[2].reply({ ok: true, snapshot: [1] });
    await heard();
    assert.deepEqual(told, [[1]]);
  });

  for (const [who, leave] of [
    ["the tab that joins again", (a) => (a.client.leave("lobby"), a)],
    ["another tab", (a, b) => (a.client.leave("lobby"), b)],
    ["a tab that is closed", (a, b) => (b.close(), a)],
  ])
    it(`before it was joined is joined anew, where ${who} did so`, async () => {
      const { all, a, b } = await two();
      void (who.endsWith("closed") ? b : a).client.join("lobby");
      await heard();
      const next = leave(a, b);
      await heard();
      const joined = next.client.join("lobby");
      await heard();
      const said = all.link.said.map(({ event }) => event);
      assert.deepEqual(said, ["join", "leave", "join"]);
      // What is answered to the first is not what the second waits for.
      joins(all)[0].reply({ ok: false, code: "FORBIDDEN" });
      await heard();
      assert.equal(await outcome(joined), "pending");
      joins(all)[1].reply({ ok: true });
      await heard();
      assert.equal(await outcome(joined), "done");
      next.client.leave("lobby");
      await heard();
      assert.equal(all.link.find("leave").length, 2);
    });

  it("that goes on for one tab begins for another, with all that is in it", async () => {
    for (const isLate of [true, false]) {
      const { all, a, b } = await resumed();
      const told = snapshots(b);
      if (isLate) joins(all)[0].reply({ ok: true, recovered: true });
      void b.client.join("lobby");
      await heard();
      if (!isLate) joins(all)[0].reply({ ok: true, recovered: true });
      await heard();
      assert.ok(a.client.isIn("lobby"));
      assert.equal(joins(all).length, 2);
      assert.ok(!b.client.isIn("lobby"));
      joins(all)[1].reply({ ok: true, snapshot: [1] });
      await heard();
      assert.deepEqual([b.client.isIn("lobby"), told], [true, [[1]]]);
    }
  });

  it("was refused to all who waited for it is left when the last who is in there leaves", async () => {
    const { all, a, b } = await two();
    for (const { client } of [a, b]) void client.join("lobby");
    await heard();
    joins(all)[0].reply({ ok: false, code: "FORBIDDEN" });
    await heard();
    void a.client.join("lobby");
    await heard();
    joins(all)[1].reply({ ok: true });
    await heard();
    a.client.leave("lobby");
    await heard();
    assert.equal(all.link.find("leave").length, 1);
  });
});

it("without locks each tab has its own connection", async () => {
  const all = world();
  for (const name of ["a", "b"]) all.open(name, { browser: undefined });
  await heard();
  assert.equal(all.links.length, 2);
});
