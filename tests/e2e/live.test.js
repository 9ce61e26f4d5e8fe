// The live protocol with a plain WebSocket.
import assert from "node:assert/strict";
import { after, before, describe, it } from "node:test";
import WebSocket from "ws";
import { Live, socketIo } from "./lib/clients.js";
import { serve, token, until } from "./lib/server.js";

let node;
const open = [];
const keep = (socket) => (open.push(socket), socket);
const live = async (user, claims) => keep(await Live.connect(node.live, token(user, claims)));

before(async () => {
  node = await serve({
    "limits.messages": "off",
    "limits.events": "off",
    "server.send_buffer": "200KB",
  });
});
after(async () => {
  for (const socket of open) socket.close();
  assert.equal(await node.stop(), 0);
});

describe("a wish that is neither true nor false", () => {
  it("is refused on both transports, and so is a member that is there twice", async () => {
    const client = await live("wisher");
    for (const frame of [
      { type: "subscribe", topic: "wishes", members: "yes" },
      { type: "publish", topic: "wishes", event: "e", self: "no" },
    ]) {
      const { type, code, message } = await client.ask(frame);
      assert.deepEqual([type, code], ["error", "protocol-violation"], frame.type);
      assert.match(message, /must be true or false/);
    }
    const io = keep(socketIo(node.http, { auth: { token: token("wisher") } }));
    await io.connection();
    for (const [event, data] of [
      ["join", { room: "wishes", members: "yes" }],
      ["publish", { room: "wishes", event: "e", self: "no" }],
    ]) {
      assert.equal((await io.ask(event, data)).code, "INVALID_DATA", event);
    }
    for (const [event, data] of [
      ["join", { room: "wishes", members: null }],
      ["join:wish", { wishId: "7", members: false }],
      ["join:wish", { id: "7", members: ["an app's own"] }],
      ["leave", { room: "wishes", members: ["an app's own"] }],
      ["join:members", { members: "7" }],
    ]) {
      assert.equal((await io.ask(event, data)).ok, true, event);
    }
    const twice = `{"type":"emit","event":"join","id":"twice","data":{"room":"a","room":"b"}}`;
    client.send(twice);
    const { data } = await client.hear("ack", ({ id }) => id === "twice");
    assert.deepEqual([data.ok, data.code], [false, "INVALID_DATA"]);
  });
});

describe("authentication", () => {
  it("by query, header or first frame ends in a hello", async () => {
    const byQuery = keep(new Live(`${node.live}?token=${token("q")}`));
    const byHeader = keep(
      new Live(node.live, { headers: { authorization: `Bearer ${token("h")}` } }),
    );
    const byFrame = keep(new Live(node.live));
    await byFrame.opened;
    byFrame.send({ type: "auth", token: token("f"), id: "a1" });
    for (const [socket, user] of [
      [byQuery, "q"],
      [byHeader, "h"],
      [byFrame, "f"],
    ]) {
      const hello = await socket.hear("hello");
      assert.deepEqual([hello.userId, hello.authenticated, hello.recovered], [user, true, false]);
      assert.deepEqual([hello.pingInterval, hello.pingTimeout], [25000, 10000]);
      assert.equal(typeof hello.socketId, "string");
      const success = await socket.hear("connection:success");
      assert.equal(success.data.userId, user);
    }
    assert.equal((await byFrame.hear("hello")).id, "a1");
  });

  const expired = () => token("x", { exp: 1000 });
  for (const [what, url] of [
    ["a bad", () => "?token=junk"],
    ["an expired", () => `?token=${expired()}`],
  ]) {
    it(`with ${what} token is accepted, then closed with 4401`, async () => {
      const socket = new Live(node.live + url());
      await socket.opened;
      assert.equal((await socket.end()).code, 4401);
    });
  }

  it("comes before everything else", async () => {
    const socket = new Live(node.live);
    await socket.opened;
    socket.send({ type: "subscribe", topic: "lobby", id: 1 });
    assert.equal((await socket.end()).code, 4401);
    assert.equal(socket.count("subscribed"), 0);
  });

  it("again keeps the connection and its user", async () => {
    const socket = await live("again");
    assert.equal((await socket.ask({ type: "auth", token: token("again") })).data.ok, true);
    assert.equal(
      (await socket.ask({ type: "auth", token: token("another") })).data.code,
      "FORBIDDEN",
    );
  });
});

describe("topics", () => {
  it("bring events with offsets that rise by one", async () => {
    const [a, b] = [await live("a"), await live("b")];
    const subscribed = await a.ask({ type: "subscribe", topic: "map" });
    assert.equal(subscribed.type, "subscribed");
    assert.deepEqual(
      [subscribed.topic, subscribed.offset, subscribed.recovered],
      ["map", 0, false],
    );
    assert.ok(subscribed.epoch.length > 0 && Array.isArray(subscribed.snapshot));
    for (let x = 1; x <= 3; x++) {
      const ack = await b.ask({ type: "publish", topic: "map", event: "position", data: { x } });
      assert.deepEqual([ack.type, ack.data.ok], ["ack", true]);
    }
    await a.hear("position", (frame) => frame.data.x === 3);
    const positions = a.heard.filter((frame) => frame.type === "position");
    assert.deepEqual(
      positions,
      [1, 2, 3].map((x) => ({ type: "position", topic: "map", data: { x }, offset: x })),
    );
    const late = await b.ask({ type: "subscribe", topic: "map" });
    assert.deepEqual([late.offset, late.epoch], [3, subscribed.epoch]);
    assert.deepEqual(await a.ask({ type: "unsubscribe", topic: "map" }), {
      type: "unsubscribed",
      topic: "map",
      id: "q2",
    });
    // What b publishes reaches a in that order: the second shows that the first did not come.
    await a.ask({ type: "subscribe", topic: "elsewhere" });
    await b.ask({ type: "publish", topic: "map", event: "position", data: { x: 4 } });
    await b.ask({ type: "publish", topic: "elsewhere", event: "marker", data: 1 });
    await Promise.all([a.hear("marker"), b.hear("position")]);
    assert.equal(a.count("position"), 3);
  });

  it("are shared with Socket.IO's rooms, both ways", async () => {
    const plain = await live("plain");
    const io = keep(socketIo(node.http, { auth: { token: token("io") } }));
    await io.connection();
    await plain.ask({ type: "subscribe", topic: "mixed" });
    await io.ask("join", { room: "mixed" });
    await io.ask("publish", { room: "mixed", event: "from-io", data: { a: 1 } });
    assert.deepEqual((await plain.hear("from-io")).data, { a: 1 });
    await plain.ask({ type: "publish", topic: "mixed", event: "from-live", data: [2] });
    assert.deepEqual(await io.hear("from-live"), [2]);
  });

  it("that are not open are refused", async () => {
    const socket = await live("s", { rooms: ["a:*"] });
    for (const [topic, code] of [
      ["b", "FORBIDDEN"],
      ["user:other", "FORBIDDEN"],
      ["", "INVALID_ROOM"],
    ]) {
      const answer = await socket.ask({ type: "subscribe", topic });
      assert.deepEqual([answer.type, answer.code], ["error", code]);
    }
    assert.equal((await socket.ask({ type: "subscribe", topic: "a:1" })).type, "subscribed");
    assert.equal(
      (await socket.ask({ type: "publish", topic: "user:other", event: "e" })).data.code,
      "FORBIDDEN",
    );
    assert.equal(
      (await socket.ask({ type: "publish", topic: "a:1", event: "ack", data: 1 })).data.ok,
      false,
    );
  });
});

describe("frames", () => {
  it("emit runs the handler of a Socket.IO event", async () => {
    const socket = await live("emit");
    const joined = await socket.ask({ type: "emit", event: "join", data: { room: "r" } });
    assert.deepEqual(joined.data, { ok: true, room: "r" });
    const sent = await socket.ask({
      type: "emit",
      event: "chat:send",
      data: { content: "hi", room: "r" },
    });
    assert.equal((await socket.hear("message:new")).data.id, sent.data.message.id);
    const answer = await socket.ask({ type: "emit", event: "nobody", data: 1 });
    assert.deepEqual([answer.type, answer.data.code], ["ack", "not-implemented"]);
  });

  it("ping is answered with the time", async () => {
    const socket = await live("ping");
    const pong = await socket.ask({ type: "ping" });
    assert.equal(pong.type, "pong");
    assert.ok(Math.abs(pong.timestamp - Date.now()) < 30000);
  });

  it("that fit nothing are told so, twenty times", async () => {
    const socket = await live("v");
    const bad = [
      "no json",
      "[]",
      "{}",
      '{"type":7}',
      '{"type":"what"}',
      '{"type":"subscribe"}',
      '{"type":"publish","topic":"x"}',
    ];
    for (let i = 0; i < 20; i++) socket.send(bad[i % bad.length]);
    await until(() => socket.count("error") === 20, "twenty errors");
    assert.ok(
      socket.heard
        .filter((frame) => frame.type === "error")
        .every((frame) => frame.code === "protocol-violation"),
    );
    await socket.ask({ type: "ping" });
    for (let i = 0; i < 21; i++) socket.send("x");
    assert.equal((await socket.end()).code, 1008);
  });

  const closes = [
    ["a message over the limit", 1009, (socket) => socket.send("x".repeat(1_000_001))],
    ["bad UTF-8", 1007, (socket) => socket.ws.send(Buffer.from([0x80, 0xff]), { binary: false })],
    ["binary", 1003, (socket) => socket.send(Buffer.from([1]))],
    [
      "an unmasked frame",
      1002,
      (socket) => socket.ws._socket.write(Buffer.from([0x81, 0x01, 0x78])),
    ],
    [
      "a reserved opcode",
      1002,
      (socket) => socket.ws._socket.write(Buffer.from([0x83, 0x80, 0, 0, 0, 0])),
    ],
    ["its own close", 1000, (socket) => socket.ws.close(1000)],
  ];
  for (const [what, code, act] of closes) {
    it(`${what} closes with ${code}`, async () => {
      const socket = await live("closing");
      act(socket);
      assert.equal((await socket.end()).code, code);
    });
  }
});

describe("slow consumers", () => {
  const filler = "x".repeat(20_000);

  it("are closed with 4413, and hold nobody up", async () => {
    const [slow, quick, publisher] = [await live("slow"), await live("quick"), await live("pub")];
    for (const socket of [slow, quick]) await socket.ask({ type: "subscribe", topic: "flood" });
    slow.ws._socket.pause();
    let sent = 0;
    await until(
      async () => {
        for (let i = 0; i < 10; i++)
          (publisher.send({ type: "publish", topic: "flood", event: "e", data: filler }), sent++);
        // At the quick one's pace, however busy this machine is.
        await until(() => quick.count("e") === sent, "everything at the quick one");
        return (await node.metric('heartline_disconnects_total{reason="slow_consumer"}')) > 0;
      },
      "the slow one's end",
      30000,
    );
    slow.ws._socket.resume();
    assert.equal((await slow.end()).code, 4413);
    assert.equal(await node.metric('heartline_disconnects_total{reason="slow_consumer"}'), 1);
    const online = async (user) => (await node.api(`/v1/users/${user}`)).body.online;
    await until(async () => !(await online("slow")), "the slow one is offline");
    assert.deepEqual([await online("quick"), await online("pub")], [true, true]);
    // Whoever is still connected to this test, and nobody else.
    const there = open.filter((one) =>
      one.ws ? one.ws.readyState === WebSocket.OPEN : one.connected,
    );
    const users = there.map((one) =>
      one.heard.find((frame) => frame.type === "hello" || frame.event === "server:hello"),
    );
    const ids = new Set(users.map((hello) => hello.userId ?? hello.args[0].userId));
    await until(
      async () => (await node.metric("heartline_users_online")) === ids.size,
      `${ids.size} users are online`,
    );
  });

  it("get fewer positions instead of older ones, where there is a key", async () => {
    const [slow, publisher] = [await live("slow2"), await live("pub2")];
    await slow.ask({ type: "subscribe", topic: "vehicles" });
    slow.ws._socket.pause();
    let last = 0;
    const conflated = () => node.metric('heartline_deliveries_dropped_total{reason="conflated"}');
    await until(
      async () => {
        for (let i = 0; i < 100; i++) {
          last++;
          publisher.send({
            type: "publish",
            topic: "vehicles",
            event: "position",
            key: `v${last % 3}`,
            data: { last, filler },
          });
        }
        await publisher.ask({ type: "ping" });
        return (await conflated()) > 100;
      },
      "conflation",
      30000,
    );
    slow.ws._socket.resume();
    for (let v = 0; v < 3; v++)
      await slow.hear("position", (frame) => frame.data.last === last - v);
    const order = slow.heard
      .filter((frame) => frame.type === "position")
      .map((frame) => frame.data.last);
    assert.ok(order.length < last, `${order.length} of ${last}`);
    assert.deepEqual(
      order,
      [...order].sort((a, b) => a - b),
    );
    assert.equal(slow.ws.readyState, WebSocket.OPEN);
  });
});

it("a foreign origin is refused before the upgrade, and no plain request served", async () => {
  const foreign = new Live(node.live, { origin: "http://evil.example" });
  await assert.rejects(foreign.opened, /403/);
  const friendly = keep(
    new Live(`${node.live}?token=${token("o")}`, { origin: "http://app.example" }),
  );
  await friendly.hear("hello");
  assert.equal((await fetch(`${node.http}/live`)).status, 426);
});
