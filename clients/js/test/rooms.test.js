// Rooms: who wants to be in them, in whatever order that is said, and rooms as objects.
import assert from "node:assert/strict";
import { describe, it } from "node:test";
import { roomOf } from "../dist/bindings.js";
import { watchRoom } from "../dist/presence.js";
import { HELLO, collected, connected, outcome, settled, start, thrown } from "./fake.js";
import { overLive } from "./wires.js";

const RETRY = { kind: "retry", reason: "transport" };
const ANSWERS = {
  join: {},
  "history:get": { messages: [], head: 0, floor: 0, complete: true },
};
const answer = async (all, ok = true) => {
  for (const said of all.link.said.filter(({ event, done }) => ANSWERS[event] && !done)) {
    said.done = true;
    said.reply(ok ? { ok, ...ANSWERS[said.event] } : { ok, code: "FORBIDDEN" });
  }
  await settled();
};

describe("a room", () => {
  it("is in or out as the last wish has it, in any order of wishes and answers", async () => {
    const { client, link } = connected();
    const first = client.join("a");
    client.leave("a");
    const second = client.join("a");
    assert.equal(await outcome(first), "LEFT");
    assert.deepEqual(link.names(), ["join", "leave", "join"]);
    const [one, , two] = link.said;
    one.reply({ ok: true });
    await settled();
    // That was the first one's.
    assert.deepEqual([await outcome(second), client.isIn("a")], ["pending", false]);
    two.reply({ ok: false, code: "FORBIDDEN" });
    assert.deepEqual([await outcome(second), client.isIn("a")], ["FORBIDDEN", false]);
    client.disconnect();
  });

  it("is joined once, however often that is said, and at once where it has been", async () => {
    const all = start();
    all.client.subscribe(({ status }) => status === "connected" && all.client.join("a"));
    all.client.join("a");
    all.link.events.hello(HELLO);
    const late = all.client.join("a");
    assert.deepEqual(all.link.names(), ["join"]);
    await answer(all);
    assert.equal(await outcome(late), "done");
    assert.equal(await outcome(all.client.join("a")), "done");
    assert.deepEqual(all.link.names(), ["join"]);
    all.client.disconnect();
  });

  it("that nothing came of before disconnect is not joined by the next connection", async () => {
    const all = connected();
    all.client.join("kept");
    await answer(all);
    const late = all.client.join("late");
    all.client.disconnect();
    assert.equal(await outcome(late), "DISCONNECTED");
    all.client.connect();
    all.link.events.hello(HELLO);
    assert.deepEqual(
      all.link.find("join").map(({ data }) => data),
      ["kept"],
    );
    all.client.disconnect();
  });

  it("that the server asks to wait for is not asked for by all at the same moment", async () => {
    const all = connected();
    all.clock.chance = 0;
    all.client.join("a");
    all.link.find("join")[0].reply({ ok: false, code: "RATE_LIMITED", retryAfterMs: 1000 });
    await all.clock.pass(1249);
    assert.equal(all.link.find("join").length, 1);
    await all.clock.pass(1);
    assert.equal(all.link.find("join").length, 2);
    all.client.disconnect();
  });

  it("is told of when it was left", async () => {
    const all = connected();
    const heard = [];
    all.client.on("room:out", ({ room }) => heard.push([room, all.client.isIn(room)]));
    all.client.join("a");
    await answer(all);
    all.client.leave("a");
    assert.deepEqual(heard, [["a", false]]);
    // Nobody else can say so.
    all.link.events.event("room:out", { room: "b" });
    assert.equal(heard.length, 1);
    all.client.disconnect();
  });
});

describe("a room as an object", () => {
  it("is left when the last of its users has left it", async () => {
    const all = connected();
    const one = all.client.room("a"),
      two = all.client.room("a");
    const joined = [one.join(), two.join(), all.client.join("a"), one.join()];
    await answer(all);
    assert.deepEqual(await Promise.all(joined.map(outcome)), ["done", "done", "done", "done"]);
    assert.deepEqual(all.link.names(), ["join"]);
    one.leave();
    one.leave();
    all.client.leave("a");
    assert.ok(two.joined && one.state.status === "out");
    assert.deepEqual(all.link.names(), ["join"]);
    two.leave();
    assert.deepEqual(all.link.names(), ["join", "leave"]);
    assert.equal(all.client.isIn("a"), false);
    // And again, which is one more wish.
    two.join();
    await answer(all);
    assert.deepEqual([two.state.status, one.state.status], ["in", "out"]);
    all.client.disconnect();
  });

  it("says how it stands, over reconnections and refusals", async () => {
    const all = connected();
    const room = all.client.room("a");
    const states = [];
    room.subscribe(({ status, code }) => states.push(code ? `${status} ${code}` : status));
    room.join();
    await answer(all);
    all.link.events.end(RETRY);
    await all.clock.pass(1000);
    all.link.events.hello(HELLO);
    await answer(all);
    all.link.events.end(RETRY);
    await all.clock.pass(2000);
    all.link.events.hello(HELLO);
    await answer(all, false);
    room.join();
    await answer(all);
    all.client.disconnect();
    assert.deepEqual(states, [
      "out",
      "joining",
      "in",
      "joining",
      "in",
      "joining",
      "refused FORBIDDEN",
      "joining",
      "in",
      "out",
    ]);
    assert.ok(all.isClean());
  });

  it("says after the end of all what the next connection makes of it", async () => {
    const all = connected();
    const [kept, late, left] = ["kept", "late", "left"].map((name) => all.client.room(name));
    for (const room of [kept, left]) room.join();
    await answer(all);
    left.leave();
    late.join().catch(() => {});
    const states = () => [kept, late, left].map(({ state }) => state.status);
    all.client.disconnect();
    assert.deepEqual(states(), ["out", "out", "out"]);
    all.client.connect();
    assert.deepEqual(states(), ["joining", "out", "out"]);
    all.link.events.hello(HELLO);
    await answer(all);
    assert.deepEqual(states(), ["in", "out", "out"]);
    all.client.disconnect();
  });

  it("keeps nothing of whoever hears no more", async () => {
    const all = connected();
    const room = all.client.room("a");
    const heard = Array.from({ length: 10 }, (_, number) => {
      const handler = () => number;
      room.on("at", handler)();
      return new WeakRef(handler);
    });
    await collected(...heard);
    room.close();
    all.client.disconnect();
  });

  it("hears what was said in it, and nothing else, whoever forges the name", () => {
    const all = overLive({});
    all.say({ type: "hello", ...HELLO });
    const [a, b] = ["a", "b"].map((name) => all.client.room(name));
    const heard = [];
    for (const room of [a, b]) {
      room.join();
      room.on("at", (data, { offset }) => heard.push([room.name, data, offset]));
    }
    all.say({ type: "at", topic: "a", data: 1, offset: 4 });
    all.say({ type: "at", topic: "b", data: { room: "a" }, offset: 9 });
    all.say({ type: "at", data: { room: "a" } });
    assert.deepEqual(heard, [
      ["a", 1, 4],
      ["b", { room: "a" }, 9],
    ]);
    assert.deepEqual([a.offset, b.offset], [4, 9]);
    a.close();
    all.say({ type: "at", topic: "a", data: 2, offset: 5 });
    assert.equal(heard.length, 2);
    all.client.disconnect();
  });

  it("hears over Socket.IO what the gateway says of a conversation", async () => {
    const all = connected();
    const conversation = all.client.room("conversation:1"),
      open = all.client.room("1");
    const heard = [];
    for (const room of [conversation, open]) {
      room.on("message:new", ({ id }) => heard.push([room.name, id]));
      room.on("member:joined", ({ userId }) => heard.push([room.name, userId]));
      room.on("position", () => assert.fail("nobody knows where that was said"));
    }
    const message = { conversationId: "1", offset: 1 };
    const say = (name, data) => all.link.events.event(name, data);
    conversation.join();
    await answer(all);
    say("message:new", { ...message, id: "m1" });
    say("member:joined", { conversationId: "1", userId: "ann" });
    say("position", { room: "1" });
    conversation.leave();
    open.join();
    await answer(all);
    say("message:new", { ...message, id: "m2" });
    conversation.join();
    await answer(all);
    // Of two of one name, nobody can tell.
    say("message:new", { ...message, id: "m3" });
    assert.deepEqual(heard, [
      ["conversation:1", "m1"],
      ["conversation:1", "ann"],
      ["1", "m2"],
    ]);
    all.client.disconnect();
  });

  it("publishes to itself, and tells its history and who is there", async () => {
    const all = connected();
    const room = all.client.room("conversation:1");
    room.publish("typing", { on: true }, "ann").catch(() => {});
    const history = room.history({ after: 3 });
    const watching = watchRoom(room);
    const [publish] = all.link.find("publish");
    assert.deepEqual(publish.data, {
      room: "conversation:1",
      event: "typing",
      data: { on: true },
      key: "ann",
    });
    const [asked] = all.link.find("history:get");
    assert.deepEqual(asked.data, { conversationId: "1", after: 3 });
    asked.reply({ ok: true, messages: [], head: 3, floor: 0, complete: true });
    assert.equal((await history).head, 3);
    assert.deepEqual(all.link.find("presence:watch")[0].data, { room: "conversation:1" });
    watching.close();
    all.client.disconnect();
  });
});

it("a room for bindings goes on where somebody who is told throws, also at once", async () => {
  const all = connected();
  const heard = [];
  const errors = await thrown(async () => {
    const room = roomOf(all.client, "a");
    const off = room.subscribe(() => {
      throw new Error("mine");
    });
    room.subscribe(({ joined }) => heard.push(joined));
    await answer(all);
    off();
  });
  assert.deepEqual(heard, [false, true]);
  assert.equal(errors.length, 2);
  all.client.disconnect();
});
