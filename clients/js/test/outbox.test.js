// An outbox that outlives the page.
import assert from "node:assert/strict";
import { describe, it } from "node:test";
import { memory, openOutbox, warnBeforeUnload } from "../dist/outbox.js";
import { HELLO, connected, outcome, settled, start, thrown } from "./fake.js";

const turn = () => new Promise((resolve) => setImmediate(resolve));
const contents = (link) => link.find("message:send").map(({ data }) => data.content);
/** What was kept: one message of each size, as JSON in bytes, by the names "0", "1", and so on. */
const sizes = (...all) =>
  new Map(
    all.map((size, n) => {
      const data = { tempId: `${n}`, x: "" };
      data.x = "x".repeat(size - JSON.stringify(data).length);
      return [data.tempId, { tempId: data.tempId, event: "e", data, at: 0 }];
    }),
  );
const send = (outbox, content) => outbox.send("message:send", { content, tempId: `t ${content}` });

describe("an outbox", () => {
  it("gives the next page what this one has not sent, before what is new, by the same names", async () => {
    const kept = new Map();
    const first = start();
    const before = openOutbox(first.client, memory(kept));
    for (const content of ["one", "two"]) send(before, content).catch(() => {});
    await turn();
    first.link.events.hello(HELLO);
    const [said] = first.link.find("message:send");
    // The page is gone before the answer.
    before.close();
    const names = [...kept.keys()];
    assert.equal(names.length, 2);

    const next = connected();
    const sent = [];
    const after = openOutbox(next.client, memory(kept), {
      sent: ({ data }, { n }) => sent.push([data.content, n]),
    });
    const third = send(after, "three");
    await turn();
    assert.deepEqual(contents(next.link), ["one", "two", "three"]);
    const again = next.link.find("message:send");
    assert.equal(again[0].data.tempId, said.data.tempId);
    again.forEach(({ reply }, n) => reply({ ok: true, n }));
    await turn();
    assert.deepEqual(
      [(await third).n, sent],
      [
        2,
        [
          ["one", 0],
          ["two", 1],
        ],
      ],
    );
    assert.equal(kept.size, 0);
    after.close();
    next.client.disconnect();
    first.client.disconnect();
  });

  it("knows two messages of one name in two conversations apart", async () => {
    const kept = new Map([["old", { tempId: "old", event: "e", data: { tempId: "old" }, at: 0 }]]);
    const all = connected();
    all.clock.random = Math.random;
    const outbox = openOutbox(all.client, memory(kept));
    for (const conversationId of ["1", "2"])
      outbox.send("message:send", { conversationId, tempId: "t" }).catch(() => {});
    await turn();
    const [first, second] = all.link.find("message:send");
    first.reply({ ok: true });
    await turn();
    const left = () => [...kept.values()].map(({ data }) => data.conversationId ?? data.tempId);
    assert.deepEqual(left(), ["old", "2"]);
    second.reply({ ok: true });
    // One that an earlier version has kept is known by its name.
    all.link.find("e")[0].reply({ ok: true });
    await turn();
    assert.deepEqual(left(), []);
    all.client.disconnect();
  });

  it("tells an app's own store which message to forget by its name first, then by its key", async () => {
    const kept = new Map([["old", { tempId: "old", event: "e", data: { tempId: "old" }, at: 0 }]]);
    const removed = [];
    const store = {
      load: async (found) => found([...kept.values()]),
      put: async (message) => void kept.set(message.tempId, message),
      remove: async (...names) => {
        removed.push(names);
        kept.delete(names[0]);
      },
    };
    const all = connected();
    const outbox = openOutbox(all.client, store);
    const sent = send(outbox, "one");
    await turn();
    const { key } = kept.get("t one");
    for (const { reply } of [...all.link.find("e"), ...all.link.find("message:send")]) reply({ ok: true });
    assert.equal(await outcome(sent), "done");
    await turn();
    assert.equal(kept.size, 0);
    assert.deepEqual(removed, [
      ["old", undefined],
      ["t one", key],
    ]);
    all.client.disconnect();
  });

  it("keeps what was not sent over a disconnect, and sends it after the next connect", async () => {
    const kept = new Map();
    const all = start();
    const outbox = openOutbox(all.client, memory(kept));
    const sent = ["one", "two"].map((content) => send(outbox, content));
    await turn();
    all.client.disconnect();
    await turn();
    assert.deepEqual([await outcome(sent[0]), kept.size], ["pending", 2]);
    all.client.connect();
    all.link.events.hello(HELLO);
    await turn();
    assert.deepEqual(contents(all.link), ["one", "two"]);
    for (const { reply } of all.link.find("message:send")) reply({ ok: true });
    assert.deepEqual(await Promise.all(sent.map(outcome)), ["done", "done"]);
    await turn();
    assert.equal(kept.size, 0);
    outbox.close();
    all.client.disconnect();
  });

  it("forgets what the server refuses, and says so, of an earlier page's too", async () => {
    const kept = new Map();
    const first = start();
    send(openOutbox(first.client, memory(kept)), "old").catch(() => {});
    await turn();
    const all = connected();
    const failed = [];
    const outbox = openOutbox(all.client, memory(kept), {
      failed: ({ data }, { code }) => failed.push([data.content, code]),
    });
    const sent = send(outbox, "new");
    await turn();
    for (const { reply } of all.link.find("message:send")) reply({ ok: false, code: "FORBIDDEN" });
    assert.equal(await outcome(sent), "FORBIDDEN");
    await turn();
    assert.deepEqual([failed, kept.size], [[["old", "FORBIDDEN"]], 0]);
    for (const { client } of [all, first]) client.disconnect();
  });

  it("sends what cannot be kept all the same, and says so", async () => {
    const all = connected();
    const full = () => Promise.reject(new Error("the disk is full"));
    const unkept = [];
    const outbox = openOutbox(
      all.client,
      { load: full, put: full, remove: full },
      { unkept: (error, message) => unkept.push(message?.data.content) },
    );
    const sent = send(outbox, "one");
    await turn();
    all.link.find("message:send")[0].reply({ ok: true });
    assert.equal(await outcome(sent), "done");
    await turn();
    assert.deepEqual(unkept, [undefined, "one", "one"]);
    all.client.disconnect();
  });

  it("loses no message to a store that throws, nor to an app that throws when it is told", async () => {
    const all = connected();
    const broken = () => {
      throw new Error("the disk is gone");
    };
    const told = [];
    const errors = await thrown(async () => {
      const outbox = openOutbox(
        all.client,
        { load: broken, put: broken, remove: broken },
        {
          unkept: ({ message }, { data }) => {
            told.push(data.content);
            throw new Error(`${message} for ${data.content}`);
          },
        },
      );
      const sent = ["one", "two"].map((content) => send(outbox, content));
      await outbox.ready;
      await turn();
      assert.deepEqual(contents(all.link), ["one", "two"]);
      for (const { reply } of all.link.find("message:send")) reply({ ok: true });
      for (const one of sent) assert.equal(await outcome(one), "done");
    });
    // There is no message that the load is about.
    assert.equal(errors[0] instanceof TypeError, true);
    assert.deepEqual(told, ["one", "two", "one", "two"]);
    assert.deepEqual(
      errors.slice(1).map(({ message }) => message),
      told.map((content) => `the disk is gone for ${content}`),
    );
    all.client.disconnect();
  });

  it("forgets what is settled, whatever the app throws about it", async () => {
    const old = (tempId) => [tempId, { tempId, event: "e", data: { tempId }, at: 0 }];
    const kept = new Map(["taken", "refused"].map(old));
    const all = connected();
    const errors = await thrown(async () => {
      openOutbox(all.client, memory(kept), {
        sent: () => {
          throw new Error("sent");
        },
        failed: () => {
          throw new Error("failed");
        },
      });
      await turn();
      const [taken, refused] = all.link.find("e");
      taken.reply({ ok: true });
      refused.reply({ ok: false, code: "FORBIDDEN" });
      await turn();
    });
    assert.deepEqual(
      errors.map(({ message }) => message),
      ["sent", "failed"],
    );
    assert.equal(kept.size, 0);
    all.client.disconnect();
  });

  it("keeps the order of the calls where the client's queue is full", async () => {
    const all = connected({ queue: 2 });
    const outbox = openOutbox(all.client, memory());
    const sent = ["one", "two", "three"].map((content) => send(outbox, content));
    await turn();
    assert.deepEqual(contents(all.link), ["one", "two"]);
    const answer = async () => {
      for (const { reply } of all.link.said.splice(0)) reply({ ok: true });
      await turn();
    };
    all.link.said.shift().reply({ ok: true });
    await turn();
    // There is room for one more: that is not for the one that came last.
    sent.push(send(outbox, "four"));
    await turn();
    assert.deepEqual(contents(all.link), ["two"]);
    await answer();
    assert.deepEqual(contents(all.link), ["three", "four"]);
    await answer();
    for (const one of sent) assert.equal(await outcome(one), "done");
    all.client.disconnect();
  });

  it("lets no small message overtake a large one that waits for room", async () => {
    const all = connected({ queueBytes: 100 });
    openOutbox(all.client, memory(sizes(60, 60, 30)));
    await turn();
    const names = () => all.link.find("e").map(({ data }) => data.tempId);
    assert.deepEqual(names(), ["0"]);
    all.link.find("e")[0].reply({ ok: true });
    await turn();
    assert.deepEqual(names(), ["0", "1", "2"]);
    all.client.disconnect();
  });

  it("sends what is behind one that the client's queue could never hold", async () => {
    const all = connected({ queueBytes: 100 });
    const failed = [];
    openOutbox(all.client, memory(sizes(200, 60, 300, 30)), {
      failed: ({ tempId }, { code }) => failed.push([tempId, code]),
    });
    for (const tempId of ["1", "3"]) {
      await turn();
      const said = all.link.said.splice(0);
      assert.deepEqual(
        said.map(({ data }) => data.tempId),
        [tempId],
      );
      said[0].reply({ ok: true });
    }
    assert.deepEqual(failed, [
      ["0", "QUEUE_FULL"],
      ["2", "QUEUE_FULL"],
    ]);
    all.client.disconnect();
  });

  it("refuses what the client's queue could never hold", async () => {
    const all = start({ queueBytes: 100 });
    const outbox = openOutbox(all.client, memory());
    assert.equal(await outcome(send(outbox, "x".repeat(100))), "QUEUE_FULL");
    all.client.disconnect();
  });

  it("keeps what it has not sent when it is closed, and says so to whoever waits for it", async () => {
    const kept = new Map([["old", { tempId: "old", event: "e", data: { tempId: "old" }, at: 0 }]]);
    const all = connected();
    const ends = [];
    const outbox = openOutbox(
      all.client,
      { ...memory(kept), close: () => ends.push("closed") },
      { failed: ({ tempId }) => ends.push(tempId) },
    );
    const give = (content) =>
      send(outbox, content).catch(({ code, sent, tempId }) => ends.push([tempId, code, sent]));
    give("out");
    await turn();
    all.client.disconnect();
    give("parked");
    await turn();
    assert.deepEqual(ends, []);
    give("given");
    outbox.close();
    give("late");
    await turn();
    assert.deepEqual(ends, [
      "closed",
      ["t out", "DISCONNECTED", "unknown"],
      ["t parked", "DISCONNECTED", "no"],
      [undefined, "DISCONNECTED", "no"],
      ["t given", "DISCONNECTED", "no"],
    ]);
    assert.deepEqual(
      [...kept.values()].map(({ tempId }) => tempId),
      ["old", "t out", "t parked", "t given"],
    );
  });

  it("keeps what the client has when it is closed, until the server has taken it", async () => {
    const kept = new Map();
    const first = start();
    const before = openOutbox(first.client, memory(kept));
    const sent = send(before, "one");
    await turn();
    before.close();
    assert.equal(await outcome(sent), "pending");
    first.client.disconnect();
    assert.equal(await outcome(sent), "DISCONNECTED");
    await turn();
    assert.equal(kept.size, 1);

    const next = start();
    const after = openOutbox(next.client, memory(kept));
    await turn();
    after.close();
    next.link.events.hello(HELLO);
    next.link.find("message:send")[0].reply({ ok: true });
    await turn();
    assert.equal(kept.size, 0);
    next.client.disconnect();
  });

  it("leaves what it has yet to keep to the next one of the same store, and that to the one after it", async () => {
    let closes = 0;
    const store = { ...memory(), close: () => closes++ };
    const all = connected();
    all.clock.random = Math.random;
    const ends = [];
    let first;
    for (const content of ["one", "two"]) {
      const outbox = openOutbox(all.client, store);
      first ??= outbox;
      send(outbox, content).catch(({ code, sent }) => ends.push([code, sent]));
      outbox.close();
    }
    const last = openOutbox(all.client, store);
    first.close();
    const sent = send(last, "three");
    await last.ready;
    await turn();
    assert.deepEqual(contents(all.link), ["one", "two", "three"]);
    const left = ["DISCONNECTED", "no"];
    assert.deepEqual([ends, closes], [[left, left], 2]);
    for (const { reply } of all.link.find("message:send")) reply({ ok: true });
    assert.equal(await outcome(sent), "done");
    last.close();
    all.client.disconnect();
  });

  it("asks nothing of its store after it was closed", async () => {
    const all = connected();
    let asks = 0;
    const store = { ...memory(), load: async () => void asks++ };
    const outbox = openOutbox(all.client, store);
    outbox.close();
    await outbox.ready;
    assert.equal(asks, 0);
    all.client.disconnect();
  });

  it("takes nothing that JSON does not carry, and nothing without a name", async () => {
    const all = connected();
    const outbox = openOutbox(all.client, memory());
    for (const bad of [{ at: new Date(0) }, "text", [1], null])
      assert.equal(await outcome(outbox.send("e", bad)), "INVALID_DATA");
    all.client.disconnect();
  });
});

describe("whoever closes the page", () => {
  it("is asked while something waits, and only then", async () => {
    const target = new EventTarget();
    const names = ["addEventListener", "removeEventListener"];
    for (const name of names) globalThis[name] = target[name].bind(target);
    try {
      const all = connected();
      const off = warnBeforeUnload(all.client);
      const isAsked = () => {
        const event = new Event("beforeunload", { cancelable: true });
        Object.defineProperty(event, "returnValue", { value: "", writable: true });
        return !target.dispatchEvent(event) && event.returnValue === true;
      };
      assert.equal(isAsked(), false);
      all.client.send("e", 1).catch(() => {});
      assert.equal(isAsked(), true);
      all.link.find("e")[0].reply();
      await settled();
      assert.equal(isAsked(), false);
      all.client.send("e", 2).catch(() => {});
      off();
      assert.equal(isAsked(), false);
      all.client.disconnect();
    } finally {
      for (const name of names) delete globalThis[name];
    }
  });
});
