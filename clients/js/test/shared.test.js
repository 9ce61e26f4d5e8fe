// One connection for several tabs.
import assert from "node:assert/strict";
import { describe, it } from "node:test";
import { live } from "../dist/live.js";
import { createClient } from "../dist/shared.js";
import { HeartlineError } from "../dist/types.js";
import { HELLO, collected, outcome } from "./fake.js";
import { connected, heard, leave, status, two, world } from "./shared.js";

describe("tabs that share a connection", () => {
  it("have one, and each knows what is true of it", async () => {
    const { all, a, b } = await two();
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
    assert.deepEqual(all.said("join"), ["lobby", "kitchen"]);
    for (const { reply } of all.link.find("join")) reply({ ok: true });
    await heard();
    assert.ok(a.client.isIn("lobby") && b.client.isIn("lobby") && b.client.isIn("kitchen"));
    all.link.events.event("note", 1, "lobby");
    all.link.events.event("note", 2, "kitchen");
    all.link.events.event("note", 3);
    await heard();
    assert.deepEqual(a.notes(), [1, 3]);
    assert.deepEqual(b.notes(), [1, 2, 3]);
    await leave(b);
    assert.equal(all.link.find("leave").length, 0);
    await leave(a);
    assert.deepEqual(all.said("leave"), ["lobby"]);
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
    const { a, b } = await two();
    for (const { client } of [a, b]) {
      const kept = Array.from({ length: 10 }, (_, n) => {
        const reply = () => n;
        assert.throws(() => client.link.emit("q", { f: () => n }, reply), { code: "INVALID_DATA" });
        return new WeakRef(reply);
      });
      await collected(...kept);
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
    assert.deepEqual(all.said("presence:unwatch"), [{ room: "lobby" }]);
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
    await all.greet();
    assert.deepEqual(status(a, b), ["failed", "connected"]);
  });

  it("try together, and no more often than one would", async () => {
    const { all, a, b } = await two();
    for (const pause of [0, 1000, 2000, 4000]) {
      await all.pass(pause);
      await all.lose();
    }
    assert.equal(all.links.length, 4);
    assert.deepEqual(
      [a, b].map(({ client }) => client.state.attempt),
      [4, 4],
    );
    await all.pass(8000);
    await all.greet();
    assert.deepEqual(status(a, b), ["connected", "connected"]);
  });

  it("do not chase each other when an attempt fails at once", async () => {
    const { all } = await two();
    const before = all.links.length;
    all.links.push = function (one) {
      queueMicrotask(() => one.events.end({ kind: "retry", reason: "transport" }));
      return Array.prototype.push.call(this, one);
    };
    await all.lose();
    for (let second = 0; second < 20; second++) await all.pass(1000);
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
  assert.deepEqual(all.said("join"), ["lobby"]);
});

describe("when one tab gives the connection up", () => {
  const three = () => connected("abc", "b");
  /** As it does whose page is put away. */
  const giveUp = async ({ clock }) => {
    clock.tell("offline");
    await heard();
  };

  it("the others keep it, if it lives", async () => {
    const { all, a, b, c } = await three();
    await giveUp(b);
    assert.deepEqual(status(a, b, c), ["connected", "reconnecting", "connected"]);
    all.link.find("ping")[0].reply();
    await all.pass(3000);
    assert.equal(all.links.length, 1);
    b.clock.tell("online");
    await heard();
    assert.deepEqual(status(a, b, c), ["connected", "connected", "connected"]);
    assert.equal(b.client.state.recovered, false);
  });

  it("all lose it, if it does not answer, and nobody is let in before that is known", async () => {
    const { all, a, b, c } = await three();
    await giveUp(b);
    b.clock.tell("online");
    await heard();
    assert.deepEqual(status(b), ["reconnecting"]);
    await all.pass(2000);
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
    await all.pass(50);
    assert.equal(all.links.length, 2);
    assert.deepEqual([all.link.tab, all.link.token], ["b", "b"]);
    // It goes on from where the other one was.
    assert.deepEqual(all.link.earlier, { of: 0 });
    await all.goOn();
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
    await all.greet();
    await all.enter(b);
    page.close();
    await heard();
    await all.pass(50);
    await all.greet();
    assert.deepEqual([status(b), b.client.state.recovered], [["connected"], false]);
    // Nobody knows by now what the others were in: a connection that goes on would stay in there.
    assert.deepEqual([all.link.tab, all.link.earlier], ["b", undefined]);
    assert.deepEqual(all.said("join"), ["lobby"]);
  });

  it("crashes, the next takes over afresh", async () => {
    const { all, a, b } = await two();
    await all.enter(b);
    a.crash();
    await heard();
    await all.pass(50);
    assert.equal(all.link.tab, "b");
    assert.equal(all.link.earlier, undefined);
    await all.greet();
    assert.deepEqual(all.said("join"), ["lobby"]);
    assert.equal(b.client.state.recovered, false);
  });

  it("sleeps, another one takes its place, and it finds that when it wakes", async () => {
    const { all, a, b } = await connected("ab", "a");
    assert.equal(all.link.tab, "a");
    a.sleep();
    await all.pass(50_000);
    assert.equal(all.link.tab, "b");
    await all.greet({ socketId: "s2" });
    assert.deepEqual(status(b), ["connected"]);
    a.wake();
    await heard();
    await a.clock.pass(0);
    await heard();
    assert.deepEqual(status(a, b), ["connected", "connected"]);
    assert.equal(a.client.state.socketId, "s2");
    assert.ok(all.links[0].closed.length > 0);
  });

  it("sleeps and wakes, the others hear what the one says that took its place", async () => {
    const { all, a, b } = await connected("ab", "a");
    a.sleep();
    await all.pass(50_000);
    assert.equal(all.link.tab, "b");
    await all.greet({ socketId: "s2" });
    a.wake();
    await heard();
    all.link.events.event("note", 1);
    await heard();
    assert.deepEqual([status(b), b.client.state.socketId], [["connected"], "s2"]);
    assert.deepEqual(b.notes(), [1]);
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
    await all.greet();
    assert.deepEqual(status(a), ["connected"]);
  });
});

describe("when a tab is closed while a connection is looked for", () => {
  for (const who of ["a", "b"])
    it(`the others go on where they were, where it is ${who}`, async () => {
      // The timers of a page that is closed are gone with it.
      const { all, tabs } = await connected("abc", who);
      await all.lose();
      tabs[who].close();
      await heard();
      await all.pass(1000);
      await all.pass(50);
      assert.deepEqual([all.links.length, all.link.earlier], [2, { of: 0 }]);
      await all.goOn();
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
      await all.lose();
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
      await all.greet();
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
    await all.lose();
    b.client.connect();
    await heard();
    assert.deepEqual([all.links.length, all.link.token, asked], [2, "b", 2]);
    await all.greet();
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

it("without locks each tab has its own connection", async () => {
  const all = world();
  for (const name of ["a", "b"]) all.open(name, { browser: undefined });
  await heard();
  assert.equal(all.links.length, 2);
});
