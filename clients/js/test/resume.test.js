// Coming back: what goes on, what is filled in, and what is told to be missing.
import assert from "node:assert/strict";
import { describe, it } from "node:test";
import { HELLO, connected, settled } from "./fake.js";
import { event, overLive, overSocketIo } from "./wires.js";

const RETRY = { kind: "retry", reason: "transport" };
const ROOM = "conversation:1";
const message = (offset, more = {}) => ({
  id: `m${offset}`,
  offset,
  conversationId: "1",
  senderId: "ann",
  content: `${offset}`,
  createdAt: 0,
  ...more,
});
const range = (from, to) => Array.from({ length: to - from + 1 }, (_, index) => from + index);
const OWN = ["message:new", "room:missed", "room:snapshot", "session:back", "room:gap"];

/** What a client's handlers hear, in words. */
function listen({ client }) {
  const heard = [];
  const words = {
    "message:new": ({ content }) => content,
    "room:missed": ({ room, filled }) => `${room} ${filled ? "filled" : "missed"}`,
    "room:snapshot": ({ snapshot }) => `snapshot of ${snapshot.map(({ key }) => key)}`,
    "session:back": ({ recovered }) => (recovered ? "recovered" : "afresh"),
    "room:gap": ({ room }) => `gap in ${room}`,
  };
  for (const name of OWN) client.on(name, (data) => heard.push(words[name](data)));
  return heard;
}

/** A server with a conversation of its own: it lets in, and tells its history. */
class Server {
  messages = [];
  floor = 0;
  most = 200;
  constructor(all) {
    this.all = all;
  }
  /** Answers all that was asked; what joins brought. */
  async answer({ except = [] } = {}) {
    for (let turn = 0; turn < 40; turn++) {
      const said = this.all.link.said.find(
        (said) => said.reply && !said.answered && !except.includes(said.event),
      );
      await settled();
      if (!said) continue;
      said.answered = true;
      if (said.event === "history:get") said.reply(this.history(said.data));
      else said.reply({ ok: true });
      await settled();
    }
  }
  history({ after, limit }) {
    const head = this.messages.at(-1)?.offset ?? 0;
    const first = Math.max(after ?? head - limit, this.floor);
    const messages = this.messages.filter(({ offset }) => offset > first).slice(0, limit);
    const complete = after === undefined || (after >= this.floor && after <= head);
    return { ok: true, messages, head, floor: this.floor, complete };
  }
  /** A message is stored, and told to the room unless nobody is there. */
  say(offset, isTold = true) {
    this.messages.push(message(offset));
    if (isTold) this.all.link.events.event("message:new", message(offset));
  }
}

/** A client that was in a conversation with ten messages, the last of which it heard. */
async function inConversation(options, link) {
  const all = connected(options, link);
  const server = new Server(all);
  for (const offset of range(1, 9)) server.say(offset, false);
  all.client.join(ROOM);
  await server.answer();
  const heard = listen(all);
  server.say(10);
  assert.deepEqual(heard.splice(0), ["10"]);
  const lose = async (hello = {}) => {
    all.link.events.end(RETRY);
    await all.clock.pass(10_000);
    if (hello) all.link.events.hello({ ...HELLO, ...hello });
  };
  return { ...all, all, server, heard, lose };
}

describe("a fresh start", () => {
  it("tells what was said in a conversation meanwhile, before what is said now", async () => {
    const { server, heard, lose } = await inConversation();
    for (const offset of [11, 12]) server.say(offset, false);
    await lose();
    // It is in the room before it knows what it has missed.
    await server.answer({ except: ["history:get"] });
    server.say(13);
    assert.deepEqual(heard.splice(0), ["afresh"]);
    await server.answer();
    server.say(14);
    assert.deepEqual(heard, ["11", "12", "13", `${ROOM} filled`, "14"]);
  });

  it("reads a long history part by part, and tells no message twice", async () => {
    const { server, heard, lose } = await inConversation();
    for (const offset of range(11, 700)) server.say(offset, false);
    await lose();
    await server.answer({ except: ["history:get"] });
    server.say(701);
    await server.answer();
    // What is stored is in the history a moment before the room hears of it.
    server.all.link.events.event("message:new", message(701));
    assert.deepEqual(heard, ["afresh", ...range(11, 701).map(String), `${ROOM} filled`]);
  });

  it("tells no message twice of the many that are said while it reads", async () => {
    const { all, server, heard, lose } = await inConversation();
    for (const offset of range(11, 300)) server.say(offset, false);
    await lose();
    await server.answer({ except: ["history:get"] });
    // All of these wait, and are in the history as well.
    for (const offset of range(301, 1_200)) server.say(offset);
    await server.answer();
    assert.deepEqual(heard, ["afresh", ...range(11, 1_200).map(String), `${ROOM} filled`]);
    // What waited and is next is not asked for again.
    assert.equal(all.link.find("history:get").length, 2);
  });

  it("fills in what is late from another node", async () => {
    const { server, heard, lose } = await inConversation();
    server.messages.push(message(11));
    server.say(12);
    await lose();
    await server.answer();
    assert.deepEqual(heard, ["afresh", "11", "12", `${ROOM} filled`]);
  });

  it("begins with what was said after joining, also when nobody had said anything", async () => {
    const all = connected();
    const server = new Server(all);
    for (const offset of range(1, 9)) server.say(offset, false);
    all.client.join(ROOM);
    await server.answer();
    const heard = listen(all);
    server.say(10, false);
    all.link.events.end(RETRY);
    await all.clock.pass(1000);
    all.link.events.hello(HELLO);
    await server.answer();
    assert.deepEqual(heard, ["afresh", "10", `${ROOM} filled`]);
  });

  it("says when something is gone, and tells what is left", async () => {
    const { server, heard, lose } = await inConversation();
    for (const offset of range(11, 20)) server.say(offset, false);
    server.floor = 15;
    server.messages.splice(0, 15);
    await lose();
    await server.answer();
    const left = range(16, 20).map(String);
    assert.deepEqual(heard.splice(0), ["afresh", ...left, `${ROOM} missed`]);
    // From then on it knows again.
    server.say(21, false);
    await lose();
    await server.answer();
    assert.deepEqual(heard, ["afresh", "21", `${ROOM} filled`]);
  });

  it("says so when the server has lost what it had, and hears what it has now", async () => {
    const { server, heard, lose } = await inConversation();
    server.messages = [];
    await lose();
    await server.answer({ except: ["history:get"] });
    const first = { ...message(1), id: "new" };
    server.messages.push(first);
    server.all.link.events.event("message:new", first);
    await server.answer();
    assert.deepEqual(heard, ["afresh", "1", `${ROOM} missed`]);
  });

  it("does not load a history that nobody would read", async () => {
    const { server, heard, lose } = await inConversation();
    server.messages.push(message(10_011));
    await lose();
    await server.answer();
    assert.deepEqual(heard, ["afresh", `${ROOM} missed`]);
    server.say(10_012);
    assert.equal(heard.at(-1), "10012");
  });

  it("goes on after a pause that the server asks for, and gives up when it refuses", async () => {
    const { all, server, heard, lose } = await inConversation();
    server.say(11, false);
    await lose();
    await server.answer({ except: ["history:get"] });
    const [asked] = all.link.find("history:get");
    asked.answered = true;
    asked.reply({ ok: false, code: "OVERLOADED", retryAfterMs: 700 });
    await all.clock.pass(700);
    await server.answer();
    assert.deepEqual(heard.splice(0), ["afresh", "11", `${ROOM} filled`]);
    server.say(12, false);
    await lose();
    await server.answer({ except: ["history:get"] });
    server.say(13);
    const [refused] = all.link.find("history:get");
    refused.answered = true;
    refused.reply({ ok: false, code: "NOT_IMPLEMENTED" });
    await settled();
    assert.deepEqual(heard, ["afresh", "13", `${ROOM} missed`]);
  });

  it("asks a server that fails less and less often, and no longer than messages can wait", async () => {
    const { all, server, heard, lose } = await inConversation();
    server.say(11, false);
    await lose();
    await server.answer({ except: ["history:get"] });
    server.say(12);
    heard.length = 0;
    const asked = () => all.link.find("history:get");
    const fails = async () => {
      asked().at(-1).answered = true;
      asked().at(-1).reply({ ok: false, code: "INTERNAL", retryAfterMs: 1_000 });
      await settled();
    };
    for (const [index, pause] of [1_000, 1_000, 1_000, 2_000].entries()) {
      await fails();
      await all.clock.pass(pause - 1);
      assert.equal(asked().length, index + 1);
      await all.clock.pass(1);
      assert.equal(asked().length, index + 2);
    }
    assert.deepEqual(heard, []);
    await fails();
    assert.deepEqual(heard, ["12", `${ROOM} missed`]);
    server.say(13);
    assert.equal(heard.at(-1), "13");
    await all.clock.pass(20_000);
    assert.equal(asked().length, 5);
  });

  it("gives up on a server that fails again and again, and not on one that answers in between", async () => {
    const { all, server, heard, lose } = await inConversation();
    for (let offset = 11; offset <= 1_210; offset++) server.say(offset, false);
    await lose();
    await server.answer({ except: ["history:get"] });
    const asked = () => all.link.find("history:get");
    for (let part = 0; part < 6; part++) {
      const count = asked().length;
      asked().at(-1).reply({ ok: false, code: "INTERNAL", retryAfterMs: 1_000 });
      await settled();
      await all.clock.pass(1_000);
      assert.equal(asked().length, count + 1);
      asked().at(-1).reply(server.history(asked().at(-1).data));
      await settled();
    }
    assert.equal(heard.at(-1), `${ROOM} filled`);
  });

  it("that is lost too is made up for by the next one", async () => {
    for (const recovered of [false, true]) {
      const { server, heard, lose } = await inConversation();
      for (const offset of [11, 12]) server.say(offset, false);
      await lose();
      await server.answer({ except: ["history:get"] });
      server.say(13);
      await lose({ recovered });
      await server.answer();
      const back = recovered ? "recovered" : "afresh";
      assert.deepEqual(heard, ["afresh", back, "11", "12", "13", `${ROOM} filled`]);
    }
  });

  it("leaves nothing behind while it is being filled", async () => {
    const { all, server, heard, lose } = await inConversation();
    server.say(11, false);
    await lose();
    await server.answer({ except: ["history:get"] });
    all.client.leave(ROOM);
    await server.answer();
    assert.deepEqual(heard, ["afresh"]);
    all.client.disconnect();
    assert.ok(all.isClean());
  });

  it("tells nothing of a room that a handler leaves as soon as it is joined", async () => {
    const { all, server, heard, lose } = await inConversation();
    server.say(11, false);
    all.client.on("room:in", () => all.client.leave(ROOM));
    await lose();
    await server.answer();
    assert.deepEqual(heard, ["afresh"]);
    assert.deepEqual(all.link.find("history:get"), []);
  });

  it("says of every other room that it may have missed something", async () => {
    const { all, heard, lose, server } = await inConversation();
    all.client.join("map");
    await server.answer();
    await lose();
    await server.answer();
    assert.deepEqual(heard, ["afresh", "map missed", `${ROOM} filled`]);
  });

  it("follows no connection at first", () => {
    const all = connected();
    assert.deepEqual(listen(all), []);
  });
});

describe("a connection that is recovered", () => {
  it("is in its rooms, and asks for nothing", async () => {
    const { all, heard, lose } = await inConversation();
    await lose({ recovered: true });
    assert.deepEqual(all.link.names(), []);
    assert.ok(all.client.isIn(ROOM));
    all.link.events.event("message:new", message(11));
    assert.deepEqual(heard, ["recovered", "11"]);
    assert.equal(all.client.state.recovered, true);
  });

  it("leaves the rooms that were left meanwhile, and joins those that it has not been in", async () => {
    const { all, server, lose } = await inConversation();
    all.client.join("gone");
    await server.answer();
    await lose(null);
    all.client.leave("gone");
    all.client.join("new");
    all.link.events.hello({ ...HELLO, recovered: true });
    assert.deepEqual(
      all.link.said.map(({ event, data }) => [event, data]),
      [
        ["leave", "gone"],
        ["join", "new"],
      ],
    );
    await server.answer();
    await lose({ recovered: true });
    assert.deepEqual(all.link.names(), []);
  });

  it("goes on from what the last one has left, until somebody says goodbye", async () => {
    const left = { number: 1 };
    const all = connected({}, { session: () => left });
    all.link.events.end(RETRY);
    assert.equal(all.links[0].forGood, false);
    await all.clock.pass(1000);
    assert.equal(all.links[1].earlier, left);
    all.client.disconnect();
    assert.equal(all.links[1].forGood, true);
    all.client.connect();
    assert.equal(all.links[2].earlier, undefined);
  });
});

describe("a hole in a conversation's offsets", () => {
  it("is filled before what comes after it, and that is no event", async () => {
    const { all, server, heard } = await inConversation();
    server.messages.push(message(11));
    server.say(12);
    server.say(13);
    assert.deepEqual(heard, []);
    await server.answer();
    // The other node was late.
    all.link.events.event("message:new", message(11));
    server.say(14);
    assert.deepEqual(heard, ["11", "12", "13", "14"]);
  });

  it("that its history does not fill is asked about once, as each node may count for itself", async () => {
    const { all, server, heard } = await inConversation();
    const told = (offset) =>
      all.link.events.event("message:new", message(offset, { id: `x${offset}` }));
    for (const offset of [90, 3, 95]) {
      told(offset);
      await server.answer();
    }
    // Nobody can say what is before it.
    assert.deepEqual(heard, ["90", `${ROOM} missed`, "3", "95"]);
    assert.equal(all.link.find("history:get").length, 2);
  });

  it("that comes about while its history is read is filled too, and so is the next one", async () => {
    for (const isGap of [false, true]) {
      const { all, server, heard } = await inConversation();
      const asked = () => all.link.find("history:get").at(-1);
      if (isGap) all.link.events.event("room:gap", { room: ROOM });
      server.say(11, false);
      server.say(12);
      const early = server.history(asked().data);
      asked().answered = true;
      server.say(13, false);
      server.say(14);
      asked().reply(early);
      await settled();
      const all12 = [...(isGap ? [`gap in ${ROOM}`] : []), "11", "12"];
      assert.deepEqual(heard.splice(0), all12);
      // The other node was late.
      all.link.events.event("message:new", message(13));
      await server.answer();
      assert.deepEqual(heard.splice(0), ["13", "14", ...(isGap ? [`${ROOM} filled`] : [])]);
      for (const offset of [15, 17, 18]) server.say(offset, false);
      server.say(19);
      await server.answer();
      assert.deepEqual(heard, ["15", "17", "18", "19"]);
    }
  });

  it("is told if its history has lost what was in it meanwhile", async () => {
    const { all, server, heard } = await inConversation();
    for (const offset of [11, 12]) server.say(offset, false);
    server.floor = 11;
    server.messages.splice(0, 11);
    server.say(13);
    await server.answer();
    assert.deepEqual(heard.splice(0), ["12", "13", `${ROOM} missed`]);
    server.say(14, false);
    server.say(15);
    await server.answer();
    assert.deepEqual(heard, ["14", "15"]);
    all.client.disconnect();
  });

  it("is told if the history knows nothing of it, and nobody asks for ever", async () => {
    const { all, server, heard } = await inConversation();
    server.say(12);
    const { history } = server;
    server.history = () => ({ ok: true, messages: [], head: 12, floor: 0, complete: true });
    await server.answer();
    assert.deepEqual(heard.splice(0), ["12", `${ROOM} missed`]);
    assert.equal(all.link.find("history:get").length, 2);
    server.history = history;
    server.say(13, false);
    server.say(14);
    await server.answer();
    assert.deepEqual(heard, ["13", "14"]);
  });

  it("is none where messages only overtake each other while its history is read", async () => {
    const { all, server, heard } = await inConversation();
    all.link.events.event("room:gap", { room: ROOM });
    const asked = all.link.find("history:get").at(-1);
    const early = server.history(asked.data);
    asked.answered = true;
    for (const offset of [13, 12, 11]) all.link.events.event("message:new", message(offset));
    asked.reply(early);
    await settled();
    assert.deepEqual(heard, [`gap in ${ROOM}`, "11", "12", "13", `${ROOM} filled`]);
  });

  it("is seen from the first message on, also of who does not know yet what was before", async () => {
    const all = connected();
    const heard = listen(all);
    const server = new Server(all);
    for (const offset of range(1, 9)) server.say(offset, false);
    all.client.join(ROOM);
    const [asked] = all.link.find("history:get");
    const early = server.history(asked.data);
    asked.answered = true;
    server.say(10, false);
    server.say(11);
    asked.reply(early);
    await settled();
    assert.deepEqual(heard, []);
    await server.answer();
    server.say(12);
    assert.deepEqual(heard, ["10", "11", "12"]);
  });

  it("that may be at the end is told if nobody can say, or something of it is gone", async () => {
    for (const isGone of [false, true]) {
      const { all, server, heard, lose } = await inConversation();
      await lose({ recovered: true, nodeId: "b" });
      if (isGone) {
        for (const offset of [11, 12]) server.say(offset, false);
        server.floor = 11;
        server.messages.splice(0, 11);
      } else {
        const asked = all.link.find("history:get").at(-1);
        asked.answered = true;
        asked.reply({ ok: false, code: "NOT_IMPLEMENTED" });
      }
      await server.answer();
      assert.deepEqual(heard, ["recovered", ...(isGone ? ["12"] : []), `${ROOM} missed`]);
    }
  });

  it("is told if nobody can say what is missing", async () => {
    const { all, server, heard } = await inConversation();
    server.say(12);
    const asked = all.link.find("history:get").at(-1);
    asked.answered = true;
    asked.reply({ ok: false, code: "NOT_IMPLEMENTED" });
    await server.answer();
    assert.deepEqual(heard, ["12", `${ROOM} missed`]);
  });

  it("at its end is looked for by whoever goes on with another process", async () => {
    for (const isByRoom of [false, true]) {
      const { all, server, heard, lose } = await inConversation({}, { isByRoom });
      const join = async () => {
        const joins = all.link.find("join");
        for (const { reply } of joins) reply({ recovered: true });
        joins.forEach((join) => (join.answered = true));
        await settled();
        await server.answer();
      };
      await lose({ recovered: true, nodeId: "a" });
      await join();
      server.messages.push(message(11));
      await lose({ recovered: true, nodeId: "a" });
      await join();
      assert.deepEqual(heard, ["recovered", "recovered"]);
      await lose({ recovered: true, nodeId: "b" });
      assert.deepEqual(heard.splice(0), ["recovered", "recovered", "recovered"]);
      // It is lost before that is known.
      await lose({ recovered: true, nodeId: "b" });
      await join();
      assert.deepEqual(heard, ["recovered", "11"]);
    }
  });

  it("among what comes by itself after a return is seen too", async () => {
    const { all, server, heard, lose } = await inConversation({}, { isByRoom: true });
    await lose({ recovered: true });
    server.messages.push(message(11));
    server.say(12);
    const [join] = all.link.find("join");
    join.answered = true;
    join.reply({ recovered: true });
    await server.answer();
    assert.deepEqual(heard, ["recovered", "11", "12"]);
  });
});

describe("a gap", () => {
  it("in a conversation is filled, and in another room is told", async () => {
    const { all, server, heard } = await inConversation();
    all.client.join("map");
    await server.answer();
    server.messages.push(message(11));
    all.link.events.event("room:gap", { room: ROOM });
    server.say(12);
    all.link.events.event("room:gap", { room: "map" });
    all.link.events.event("room:gap", { room: "user:ann" });
    await server.answer();
    const told = [`gap in ${ROOM}`, "map missed", "gap in map", "gap in user:ann"];
    assert.deepEqual(heard, [...told, "11", "12", `${ROOM} filled`]);
  });

  it("of a room that goes on is told of, also before the room is answered", async () => {
    const { all, server, heard, lose } = await inConversation({}, { isByRoom: true });
    await lose({ recovered: true });
    all.link.events.event("room:gap", { room: ROOM });
    server.say(11, false);
    server.say(12);
    const [join] = all.link.find("join");
    join.answered = true;
    join.reply({ recovered: true });
    await server.answer();
    assert.deepEqual(heard, ["recovered", `gap in ${ROOM}`, "11", "12", `${ROOM} filled`]);
  });

  it("while it is filled begins that anew", async () => {
    const { all, server, heard } = await inConversation();
    all.link.events.event("room:gap", { room: ROOM });
    server.messages.push(message(11));
    all.link.events.event("room:gap", { room: ROOM });
    await server.answer();
    assert.deepEqual(heard.slice(2), ["11", `${ROOM} filled`]);
  });
});

it("an open room and a conversation of one name are different things", async () => {
  const { all, server, heard } = await inConversation();
  all.client.join("1");
  await server.answer();
  all.link.events.event("message:new", { ...message(500), id: "open" });
  server.say(11);
  assert.deepEqual(heard, ["500", "11"]);
});

describe("over Socket.IO", () => {
  const PLACE = "hl.e.1a";
  const hello = (recovered, more) => event("server:hello", { ...HELLO, recovered }, ...more);
  async function withPid() {
    const all = await overSocketIo({ token: "t", backoff: 1 });
    await all.say('0{"sid":"s1","pid":"p1"}');
    await all.say(hello(false, []));
    const lose = async () => {
      all.close();
      await all.clock.pass(100);
      await new Promise((resolve) => setImmediate(resolve));
    };
    return { ...all, all, lose };
  }

  it("the place of an event reaches no handler, and the next CONNECT brings it back", async () => {
    const { all, lose } = await withPid();
    const heard = [];
    for (const name of ["a", "b", "c", "d"])
      all.client.on(name, (...data) => heard.push([name, ...data]));
    await all.say(event("a", { n: 1 }, "hl.e.1"));
    await all.say(event("b", "hl.e.2"));
    await all.say(event("c", "text", "hl.e.3"));
    await all.say(event("d", 4));
    assert.deepEqual(heard, [
      ["a", { n: 1 }],
      ["b", undefined],
      ["c", "text"],
      ["d", 4],
    ]);
    await lose();
    assert.deepEqual(JSON.parse(all.said[0].slice(1)), { pid: "p1", offset: "hl.e.3", token: "t" });
    all.client.disconnect();
  });

  it("what was missed comes with the hello, in order", async () => {
    const { all, lose } = await withPid();
    const heard = [];
    all.client.subscribe(({ status, recovered }) => heard.push(`${status} ${recovered ?? ""}`));
    all.client.on("session:back", ({ recovered }) => heard.push(recovered));
    all.client.on("news", (data) => heard.push(data));
    await all.say(event("news", 1, PLACE));
    heard.length = 0;
    await lose();
    await all.say(event("news", 2, "hl.e.1b"));
    await all.say('0{"sid":"s1","pid":"p1"}');
    assert.deepEqual(heard.splice(0), ["reconnecting "]);
    // Lost before the hello: it has not been told, and is asked for again.
    await lose();
    assert.equal(JSON.parse(all.said[0].slice(1)).offset, PLACE);
    await all.say(event("news", 2, "hl.e.1b"));
    await all.say('0{"sid":"s1","pid":"p1"}');
    await all.say(hello(true, []));
    await all.say(event("news", 3, "hl.e.1c"));
    assert.deepEqual(heard.slice(1), ["connected true", true, 2, 3]);
    await lose();
    assert.equal(JSON.parse(all.said[0].slice(1)).offset, "hl.e.1c");
    all.client.disconnect();
  });

  it("a fresh socket brings no place of the one before", async () => {
    const { all, lose } = await withPid();
    await all.say(event("news", 1, PLACE));
    await lose();
    await all.say('0{"sid":"s1","pid":"p2"}');
    await all.say(hello(false, []));
    await lose();
    assert.deepEqual(JSON.parse(all.said[0].slice(1)), { pid: "p2", token: "t" });
    all.client.disconnect();
  });

  it("a socket that has not greeted is not come back to", async () => {
    const { all, lose } = await withPid();
    await all.say(event("news", 1, PLACE));
    for (const pid of ["p2", "p1"]) {
      await lose();
      await all.say(`0{"sid":"s1","pid":"${pid}"}`);
      await lose();
      const asked = JSON.parse(all.said[0].slice(1));
      assert.deepEqual(asked, { pid: "p1", offset: PLACE, token: "t" });
    }
    all.client.disconnect();
    // Nor is the first one, of which nobody knows that it was there.
    const first = await overSocketIo({ token: "t", backoff: 1 });
    await first.say('0{"sid":"s1","pid":"p1"}');
    first.close();
    await first.clock.pass(100);
    await new Promise((resolve) => setImmediate(resolve));
    assert.deepEqual(JSON.parse(first.said[0].slice(1)), { token: "t" });
    first.client.disconnect();
  });

  it("a place is none in a socket that was not recovered, whatever its name", async () => {
    const { all, lose } = await withPid();
    await all.say(event("news", 1, PLACE));
    await lose();
    await all.say('0{"sid":"s1","pid":"p1"}');
    await all.say(hello(false, []));
    await lose();
    assert.deepEqual(JSON.parse(all.said[0].slice(1)), { pid: "p1", token: "t" });
    all.client.disconnect();
  });

  it("nothing is taken for a place where nothing can be resumed", async () => {
    const all = await overSocketIo({ token: "t" });
    await all.greet();
    const heard = [];
    all.client.on("a", (data) => heard.push(data));
    await all.say(event("a", "text"));
    assert.deepEqual(heard, ["text"]);
    all.client.disconnect();
  });

  it("only who says goodbye sends a DISCONNECT", async () => {
    const { all } = await withPid();
    all.client.disconnect();
    assert.ok(all.said.includes("1"));
    const silent = (await withPid()).all;
    await silent.clock.pass(45_000);
    assert.equal(silent.client.state.reason, "heartbeat_timeout");
    assert.ok(!silent.transports[0].said.includes("1"));
    silent.client.disconnect();
  });

  it("an app's own credentials come along, also from a function", async () => {
    for (const auth of [{ device: 7 }, (done) => done({ device: 7 })]) {
      const all = await overSocketIo({ token: "t" }, { auth });
      assert.deepEqual(JSON.parse(all.said[0].slice(1)), { device: 7, token: "t" });
      all.client.disconnect();
    }
  });
});

describe("over live", () => {
  const subscribed = (topic, offset, more = {}) => ({
    type: "subscribed",
    topic,
    epoch: "e",
    offset,
    snapshot: [],
    recovered: false,
    ...more,
  });
  const RESUMED = { type: "hello", ...HELLO, resume: "r1", recovered: true, id: "0" };
  async function withTopics(...topics) {
    const all = overLive({ token: "t", backoff: 1 });
    all.open();
    all.say({ type: "hello", ...HELLO, resume: "r1", id: "0" });
    for (const topic of topics) {
      all.client.join(topic);
      const { id } = all.said.find((said) => said.topic === topic);
      all.say(subscribed(topic, 0, { id }));
    }
    for (const { id, type } of all.said)
      if (type === "emit")
        all.say({ type: "ack", id, data: { ok: true, messages: [], head: 0, complete: true } });
    await settled();
    const heard = listen(all);
    all.client.on("at", (data) => heard.push(data));
    const lose = async () => {
      all.close(1006);
      await all.clock.pass(100);
      all.open();
    };
    return { ...all, all, heard, lose };
  }

  it("who is cut off before anything came goes on from the place of the hello", async () => {
    const all = overLive({ token: "t", backoff: 1 });
    all.open();
    all.say({ type: "hello", ...HELLO, resume: "r1", place: "hl.e.4", id: "0" });
    all.close(1006);
    await all.clock.pass(100);
    all.open();
    assert.equal(all.said[0].place, "hl.e.4");
  });

  it("the first frame says what came last, of topics and of the rest", async () => {
    const { all, heard, lose } = await withTopics("a", "b");
    for (const { url } of all.sockets) assert.doesNotMatch(url, /token/);
    all.say({ type: "at", topic: "a", data: "one", offset: 1 });
    all.say({ type: "at", data: "two", place: "hl.e.5" });
    await lose();
    assert.deepEqual(all.said, [
      {
        type: "auth",
        id: "0",
        token: "t",
        resume: "r1",
        place: "hl.e.5",
        topics: { a: { epoch: "e", offset: 1 }, b: { epoch: "e", offset: 0 } },
      },
    ]);
    // Who may come as nobody is greeted so first.
    all.say({ type: "hello", ...HELLO, socketId: "nobody" });
    assert.equal(all.client.state.status, "reconnecting");
    all.say(RESUMED);
    all.say({ type: "at", data: "three", place: "hl.e.6" });
    all.say(subscribed("a", 1, { recovered: true }));
    all.say({ type: "at", topic: "a", data: "four", offset: 2 });
    all.say(subscribed("b", 0, { recovered: true }));
    await settled();
    assert.deepEqual(heard, ["one", "two", "recovered", "three", "four"]);
    assert.deepEqual(
      ["a", "b"].map((topic) => all.client.isIn(topic)),
      [true, true],
    );
    assert.equal(all.said.length, 1);
    await lose();
    const [{ place, topics }] = all.said;
    assert.deepEqual([place, topics.a.offset], ["hl.e.6", 2]);
    all.client.disconnect();
    assert.equal(all.sockets.at(-1).closedWith, 1000);
  });

  it("each topic says for itself whether something is missing", async () => {
    const { all, heard, lose } = await withTopics("a", "b");
    await lose();
    all.say({ ...RESUMED, recovered: false, resume: "r2" });
    all.say(subscribed("a", 0, { recovered: true }));
    const snapshot = [{ key: "x", event: "at", data: 1, offset: 6 }];
    all.say(subscribed("b", 7, { snapshot }));
    await settled();
    assert.deepEqual(heard, ["afresh", "b missed", "snapshot of x"]);
    await lose();
    assert.deepEqual(all.said[0].topics.b, { epoch: "e", offset: 7 });
    assert.equal(all.said[0].resume, "r2");
    all.client.disconnect();
  });

  it("a topic that was left meanwhile is not asked for", async () => {
    const { all } = await withTopics("a", "b");
    all.close(1006);
    all.client.leave("b");
    await all.clock.pass(100);
    all.open();
    assert.deepEqual(Object.keys(all.said[0].topics), ["a"]);
    all.client.disconnect();
  });

  it("a refusal that names no topic is found out one by one", async () => {
    const { all, heard, lose } = await withTopics("a", "b");
    const lost = [];
    all.client.on("room:lost", ({ room }) => lost.push(room));
    await lose();
    all.say(RESUMED);
    all.say({ type: "error", code: "FORBIDDEN", message: "no" });
    const [, first, second] = all.said;
    assert.deepEqual(
      [first.topic, first.recover, second.topic],
      ["a", { epoch: "e", offset: 0 }, "b"],
    );
    all.say({ type: "error", id: first.id, code: "FORBIDDEN", message: "no" });
    all.say(subscribed("b", 0, { recovered: true }));
    all.say({ type: "at", topic: "b", data: "one", offset: 1 });
    all.say(subscribed("b", 0, { recovered: true, id: second.id }));
    // Both answers bring it.
    all.say({ type: "at", topic: "b", data: "one", offset: 1 });
    await settled();
    assert.deepEqual([lost, heard], [["a"], ["recovered", "one"]]);
    all.client.disconnect();
  });

  it("a topic that comes to nothing is asked for again when the server says, and alone", async () => {
    const { all, heard, lose } = await withTopics("a", "b", "c");
    const lost = [];
    all.client.on("room:lost", ({ room, code }) => lost.push(room, code));
    await lose();
    all.say(RESUMED);
    const error = { type: "error", code: "INTERNAL", message: "not in time" };
    all.say({ ...error, retryAfterMs: 3_000, data: { topic: "a" } });
    all.say(subscribed("b", 0, { recovered: true }));
    // Without a time it is over.
    all.say({ ...error, data: { topic: "c" } });
    await settled();
    assert.deepEqual([all.said.length, lost], [1, ["c", "INTERNAL"]]);
    await all.clock.pass(2_900);
    assert.equal(all.said.length, 1);
    await all.clock.pass(1_000);
    const again = all.said.at(-1);
    assert.deepEqual([all.said.length, again.type, again.topic], [2, "subscribe", "a"]);
    // The same by the answer to what it has asked, as often as it takes.
    all.say({ ...error, id: again.id, retryAfterMs: 3_000, data: { topic: "a" } });
    await settled();
    await all.clock.pass(4_000);
    const { id } = all.said.at(-1);
    assert.equal(all.said.length, 3);
    all.say(subscribed("a", 0, { id }));
    await settled();
    assert.equal(all.client.isIn("a"), true);
    assert.deepEqual(heard.slice(-1), ["a missed"]);
    all.client.disconnect();
  });

  it("a conversation that goes on by itself asks for no history", async () => {
    const { all, heard, lose } = await withTopics(ROOM);
    all.say({ type: "message:new", topic: ROOM, data: message(1), offset: 1 });
    await lose();
    all.say(RESUMED);
    all.say(subscribed(ROOM, 1, { recovered: true }));
    all.say({ type: "message:new", topic: ROOM, data: message(2), offset: 2 });
    await settled();
    assert.deepEqual(heard, ["1", "recovered", "2"]);
    assert.equal(all.said.length, 1);
    all.client.disconnect();
  });

  it("a conversation that was being filled is not gone on with behind what was told", async () => {
    const { all, lose } = await withTopics("a", ROOM);
    all.say({ type: "gap", topic: ROOM, epoch: "f", offset: 8 });
    all.say({ type: "message:new", topic: ROOM, data: message(9), offset: 9 });
    await lose();
    assert.deepEqual(Object.keys(all.said[0].topics), ["a"]);
    all.client.disconnect();
  });

  it("a gap is one of its topic, and the next attempt goes on behind it", async () => {
    const { all, heard, lose } = await withTopics("a");
    all.say({ type: "gap", topic: "a", epoch: "f", offset: 8 });
    assert.deepEqual(heard, ["a missed", "gap in a"]);
    await lose();
    assert.deepEqual(all.said[0].topics, { a: { epoch: "f", offset: 8 } });
    all.client.disconnect();
  });

  it("a connection that the client gives up says no goodbye", async () => {
    const { all } = await withTopics("a");
    await all.clock.pass(60_000);
    assert.equal(all.sockets[0].closedWith, "no code");
    all.client.disconnect();
  });
});
