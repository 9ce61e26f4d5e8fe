// What is given to `send`: bounds, order, copies, and what an error says of it.
import assert from "node:assert/strict";
import { describe, it } from "node:test";
import { HELLO, connected, outcome, settled, start, thrown } from "./fake.js";

const RETRY = { kind: "retry", reason: "transport" };
const failed = (promise) => promise.then(assert.fail, (error) => error);
const numbers = (said) => said.map(({ data }) => data.n);

describe("messages on their way", () => {
  it("are several at once, bounded, and in order", async () => {
    const all = connected();
    const sent = Array.from({ length: 130 }, (_, n) => all.client.send("message:send", { n }));
    assert.equal(all.link.find("message:send").length, 32);
    for (let at = 0; at < 130; at++) all.link.find("message:send")[at].reply({ ok: true, at });
    assert.deepEqual(
      numbers(all.link.find("message:send")),
      Array.from({ length: 130 }, (_, n) => n),
    );
    assert.deepEqual(
      (await Promise.all(sent)).map(({ at }) => at),
      Array.from({ length: 130 }, (_, n) => n),
    );
    assert.equal(all.client.pending.count, 0);
    all.client.disconnect();
    assert.ok(all.isClean());
  });

  it("do not wait for one that is not answered", async () => {
    const all = connected();
    const lost = all.client.send("message:send", { n: 0 });
    const others = [1, 2, 3].map((n) => all.client.send("message:send", { n }));
    for (const { reply } of all.link.find("message:send").slice(1)) reply({ ok: true });
    assert.deepEqual(await Promise.all(others.map(outcome)), ["done", "done", "done"]);
    assert.equal(await outcome(lost), "pending");
    lost.catch(() => {});
    all.client.disconnect();
  });

  it("go on after one of which nobody has heard, where they go one at a time", async () => {
    const all = connected();
    const lost = all.client.send("message:send", { n: 0 }, { retries: 1 });
    const next = all.client.send("message:send", { n: 1 }, { retries: 1 });
    const limit = { ok: false, code: "RATE_LIMITED", retryAfterMs: 500 };
    all.link.find("message:send")[0].reply(limit);
    all.link.find("message:send")[1].reply(limit);
    lost.catch(() => {});
    for (let second = 0; second < 20; second += 5) {
      await all.clock.pass(5_000);
      all.link.events.alive();
    }
    assert.equal(await outcome(lost), "UNCONFIRMED");
    assert.deepEqual(numbers(all.link.find("message:send")).slice(2), [0, 1]);
    all.link.find("message:send").at(-1).reply({ ok: true });
    assert.equal(await outcome(next), "done");
    all.client.disconnect();
  });

  it("go one at a time after the server has asked for a pause, and none overtakes another", async () => {
    const all = connected();
    const sent = [0, 1, 2].map((n) => all.client.send("message:send", { n }));
    const limit = { ok: false, code: "RATE_LIMITED", retryAfterMs: 500 };
    for (const { reply } of all.link.find("message:send").splice(0)) reply(limit);
    all.client.send("message:send", { n: 3 }).catch(() => {});
    await all.clock.pass(499);
    assert.equal(all.link.find("message:send").length, 3);
    await all.clock.pass(1);
    const again = () => numbers(all.link.find("message:send").slice(3));
    for (let at = 0; at < 4; at++) {
      assert.deepEqual(again(), [0, 1, 2, 3].slice(0, at + 1));
      all.link.find("message:send")[3 + at].reply({ ok: true });
    }
    assert.deepEqual(await Promise.all(sent.map(outcome)), ["done", "done", "done"]);
    // Nothing has waited since: they may go together again.
    for (const n of [4, 5]) all.client.send("message:send", { n }).catch(() => {});
    assert.deepEqual(again(), [0, 1, 2, 3, 4, 5]);
    all.client.disconnect();
  });

  it("behind one that is refused over a limit cost nothing: it was not their fault", async () => {
    const all = connected();
    const sent = [0, 1].map((n) => all.client.send("message:send", { n }, { retries: 1 }));
    const limit = { ok: false, code: "RATE_LIMITED", retryAfterMs: 500 };
    for (const { reply } of all.link.find("message:send").splice(0)) reply(limit);
    await all.clock.pass(500);
    all.link.find("message:send")[2].reply({ ok: true });
    all.link.find("message:send")[3].reply(limit);
    await all.clock.pass(500);
    all.link.find("message:send")[4].reply({ ok: true });
    assert.deepEqual(await Promise.all(sent.map(outcome)), ["done", "done"]);
    all.client.disconnect();
  });

  it("are tried as often as it takes where no server was there to answer", async () => {
    const all = connected();
    const sent = all.client.send("message:send", { n: 0 }, { retries: 1 });
    for (let train = 0; train < 12; train++) {
      all.link.events.end(RETRY);
      await all.clock.pass(10_000);
      all.link.events.hello(HELLO);
    }
    assert.equal(await outcome(sent), "pending");
    all.link.find("message:send")[0].reply({ ok: true });
    assert.equal(await outcome(sent), "done");
    all.client.disconnect();
  });

  it("cost nothing where nothing is heard any more, and are sent by the next connection", async () => {
    const all = connected();
    const sent = all.client.send("message:send", { n: 0 }, { retries: 1 });
    await all.clock.pass(45_000);
    assert.deepEqual(
      [all.client.state.reason, await outcome(sent)],
      ["heartbeat_timeout", "pending"],
    );
    await all.clock.pass(1_000);
    all.link.events.hello(HELLO);
    all.link.find("message:send")[0].reply({ ok: true });
    assert.equal(await outcome(sent), "done");
    all.client.disconnect();
  });
});

describe("a message on a connection that is quiet", () => {
  it("is sent once, and again when something but its answer was heard, as often as was asked for", async () => {
    const all = connected();
    const times = () => all.link.find("message:send").length;
    const given = [0, 1].map((retries) => all.client.send("message:send", { retries }, { retries }));
    const ends = () => Promise.all(given.map(outcome));
    await all.clock.pass(20_000);
    assert.deepEqual([times(), await ends()], [2, ["pending", "pending"]]);
    all.link.events.alive();
    await all.clock.pass(11_000);
    assert.deepEqual([times(), await ends()], [3, ["UNCONFIRMED", "pending"]]);
    await all.clock.pass(10_000);
    all.link.events.alive();
    await all.clock.pass(12_000);
    assert.deepEqual([times(), await ends()], [3, ["UNCONFIRMED", "UNCONFIRMED"]]);
    all.client.disconnect();
    assert.ok(all.isClean());
  });

  it("hears its answer, however late that is", async () => {
    const all = connected();
    const sent = all.client.send("message:send", {}, { retries: 0, timeout: 0 });
    await all.clock.pass(13_000);
    const [said, ...others] = all.link.find("message:send");
    said.reply({ ok: true });
    assert.deepEqual([await outcome(sent), others], ["done", []]);
    all.client.disconnect();
  });
});

describe("a message's name", () => {
  it("is made where there is none, be it undefined", async () => {
    const all = connected();
    all.client.send("message:send", { tempId: undefined, n: 1 }).catch(() => {});
    all.client.send("message:send", { tempId: "mine", n: 2 }).catch(() => {});
    const [first, second] = all.link.find("message:send").map(({ data }) => data.tempId);
    assert.equal(typeof first, "string");
    assert.equal(second, "mine");
    all.client.disconnect();
  });

  it("is on every error, with what is known of the message", async () => {
    const never = start();
    const waiting = never.client.send("message:send", { tempId: "a" });
    never.client.disconnect();
    const gone = never.client.send("message:send", { tempId: "b" });
    const all = connected();
    const refused = all.client.send("message:send", { tempId: "c" });
    const lost = all.client.send("message:send", { tempId: "d" });
    const silent = all.client.send("message:send", { tempId: "e" }, { timeout: 1000, retries: 0 });
    all.link.find("message:send")[0].reply({ ok: false, code: "FORBIDDEN" });
    const errors = Promise.all([waiting, gone, refused, silent].map(failed));
    const last = failed(lost);
    await all.clock.pass(500);
    all.link.events.alive();
    await all.clock.pass(1500);
    all.client.disconnect();
    assert.deepEqual(
      [...(await errors), await last].map(({ code, tempId, sent }) => [code, tempId, sent]),
      [
        ["DISCONNECTED", "a", "no"],
        ["DISCONNECTED", "b", "no"],
        ["FORBIDDEN", "c", "refused"],
        ["UNCONFIRMED", "e", "unknown"],
        ["DISCONNECTED", "d", "unknown"],
      ],
    );
  });
});

describe("what waits", () => {
  it("has a bound in number and in bytes", async () => {
    const few = start({ queue: 1 });
    few.client.send("e", {}).catch(() => {});
    assert.equal((await failed(few.client.send("e", {}))).code, "QUEUE_FULL");
    const small = start({ queueBytes: 1000 });
    small.client.send("e", { text: "x".repeat(500) }).catch(() => {});
    const error = await failed(small.client.send("e", { text: "x".repeat(500) }));
    assert.deepEqual([error.code, error.sent, typeof error.tempId], ["QUEUE_FULL", "no", "string"]);
    for (const { client } of [few, small]) client.disconnect();
  });

  it("can be seen, and subscribed to", async () => {
    const all = start();
    const seen = [];
    const off = all.client.subscribePending((pending) => seen.push(pending));
    const at = all.clock.unix();
    const first = all.client.send("e", "text");
    await all.clock.pass(300);
    const second = all.client.send("e", "text");
    all.link.events.hello(HELLO);
    assert.equal(all.client.pending, seen.at(-1));
    all.link.find("e")[0].reply();
    all.link.find("e")[1].reply({ ok: false });
    await Promise.all([first, failed(second)]);
    off();
    all.client.send("e", "text").catch(() => {});
    assert.deepEqual(seen, [
      { count: 0, bytes: 0 },
      { count: 1, bytes: 6, oldest: at },
      { count: 2, bytes: 12, oldest: at },
      { count: 1, bytes: 6, oldest: at + 300 },
      { count: 0, bytes: 0 },
    ]);
    all.client.disconnect();
  });

  it("survives whoever is told of it", async () => {
    const all = connected();
    const errors = await thrown(async () => {
      all.client.subscribePending(({ count }) => {
        if (count) throw new Error("mine");
      });
      const sent = all.client.send("e", 1);
      all.link.find("e")[0].reply();
      assert.equal(await outcome(sent), "done");
    });
    assert.equal(errors[0].message, "mine");
    all.client.disconnect();
  });

  it("is what was given, whatever becomes of that afterwards", async () => {
    const all = start();
    const data = { list: [1], text: "before" };
    all.client.send("e", data).catch(() => {});
    data.text = "after";
    data.list.push(2);
    all.link.events.hello(HELLO);
    const [{ data: said }] = all.link.find("e");
    assert.deepEqual([said.text, said.list], ["before", [1]]);
    assert.ok(!("tempId" in data));
    all.client.disconnect();
  });

  it("ends with disconnect, also where nobody has ever connected, and so does a join", async () => {
    for (const isOver of [false, true]) {
      const { client, states, isClean } = start({ autoConnect: false });
      if (isOver) client.disconnect();
      const waiting = [client.send("e", {}), client.join("a")];
      client.disconnect();
      client.disconnect();
      for (const promise of waiting) assert.equal(await outcome(promise), "DISCONNECTED");
      assert.equal(client.pending.count, 0);
      assert.deepEqual(
        states.map(({ reason }) => reason),
        ["not_started", "client"],
      );
      assert.ok(isClean());
    }
  });

  it("may be given before anybody has connected", async () => {
    const all = start({ autoConnect: false });
    const sent = all.client.send("e", 1);
    assert.equal(await outcome(sent), "pending");
    all.client.connect();
    all.link.events.hello(HELLO);
    all.link.find("e")[0].reply();
    assert.equal(await outcome(sent), "done");
    all.client.disconnect();
  });

  it("waits for the rooms of a server that asks for a pause, and not for ever", async () => {
    const all = connected();
    all.client.join("a");
    all.link.find("join")[0].reply({ ok: true });
    await settled();
    all.link.events.end(RETRY);
    await all.clock.pass(1000);
    const sent = all.client.send("e", 1);
    all.link.events.hello(HELLO);
    all.link.find("join")[0].reply({ ok: false, code: "RATE_LIMITED", retryAfterMs: 1000 });
    await all.clock.pass(999);
    assert.deepEqual(all.link.names(), ["join"]);
    await all.clock.pass(1);
    assert.deepEqual(all.link.names(), ["join", "join"]);
    // Nobody answers: what it was for is not known, and the rest is not to wait for it.
    await all.clock.pass(3999);
    assert.deepEqual(all.link.names(), ["join", "join"]);
    await all.clock.pass(1);
    assert.deepEqual(all.link.names(), ["join", "join", "e"]);
    sent.catch(() => {});
    all.client.disconnect();
    assert.ok(all.isClean());
  });
});
