// Bad input and bad manners: each costs its sender, and nobody else.
import assert from "node:assert/strict";
import { after, before, describe, it } from "node:test";
import net from "node:net";
import WebSocket from "ws";
import { Live, socketIo } from "./lib/clients.js";
import { serve, token, until, within } from "./lib/server.js";

let node, good;
before(async () => {
  node = await serve({ "heartbeat.interval": "2s" });
  good = await socketIo(node.http, { auth: { token: token("good") } }).connection();
  await good.ask("join", { room: "calm" });
});
after(async () => {
  assert.equal(good.connected, true);
  assert.equal((await good.ask("ping")).timestamp > 0, true);
  assert.equal(good.count("server:hello"), 1, "the good client was never disturbed");
  good.close();
  assert.equal(await node.stop(), 0);
});

const raw = (data, ms = 5000) =>
  within(
    new Promise((resolve) => {
      const socket = net.connect(node.port, "127.0.0.1", () => socket.write(data));
      let answer = "";
      socket.on("data", (chunk) => (answer += chunk.toString("latin1")));
      socket.on("error", () => {});
      socket.on("close", () => resolve(answer));
    }),
    "the end of the connection",
    ms,
  );

describe("on HTTP", () => {
  it("nonsense is refused and closed", async () => {
    assert.match(await raw("\x16\x03\x01\x02\x00nonsense\r\n\r\n"), /^(HTTP\/1\.1 400|$)/);
    assert.match(await raw(`GET / HTTP/1.1\r\nhost: x\r\nx: ${"y".repeat(100_000)}\r\n\r\n`), /^(HTTP\/1\.1 4|$)/);
  });

  it("headers that trickle in are given up on", async () => {
    const began = Date.now();
    await raw("GET /socket.io/?EIO=4&transport=polling HTTP/1.1\r\nhost: x\r\n", 15000);
    assert.ok(Date.now() - began < 14000);
  });

  it("a hundred half-open handshakes are in nobody's way", async () => {
    const held = Array.from({ length: 100 }, () => net.connect(node.port, "127.0.0.1").on("error", () => {}));
    for (const socket of held) socket.write("GET /live HTTP/1.1\r\n");
    const client = await Live.connect(node.live, token("through"));
    client.close();
    for (const socket of held) socket.destroy();
  });

  it("WebSocket handshakes that are none are refused", async () => {
    const ask = (headers) => raw(`GET /live HTTP/1.1\r\nhost: x\r\nconnection: upgrade, close\r\nupgrade: websocket\r\n${headers}\r\n\r\n`);
    assert.match(await ask("sec-websocket-version: 13"), /^HTTP\/1\.1 400/);
    assert.match(await ask("sec-websocket-version: 13\r\nsec-websocket-key: short"), /^HTTP\/1\.1 400/);
    const old = await ask("sec-websocket-version: 8\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==");
    assert.match(old, /^HTTP\/1\.1 426/);
    assert.match(old, /sec-websocket-version: 13/i);
  });
});

describe("on Socket.IO", () => {
  const packets = ["junk", "4", "49", "42", "40[]", '40{"token":', "2probe", "6", "b4", '451-["x",{"_placeholder":true,"num":0}]',
    `40${JSON.stringify({ token: "x".repeat(50_000) })}`, `40/${"n".repeat(10_000)},`, '42["' + "\\ud800".repeat(10) + '"]'];

  it("bad packets end at worst their own connection", async () => {
    for (const packet of packets) {
      const socket = new WebSocket(`ws://127.0.0.1:${node.port}/socket.io/?EIO=4&transport=websocket`);
      const closed = new Promise((resolve) => socket.on("close", resolve));
      await within(new Promise((resolve) => socket.on("message", resolve)), "the open packet");
      socket.send(packet);
      const answered = new Promise((resolve) => socket.on("message", resolve));
      await within(Promise.race([closed, answered, new Promise((resolve) => setTimeout(resolve, 100))]), "an answer");
      socket.terminate();
      await closed;
    }
  });

  it("bad data in good packets is answered", async () => {
    const socket = await socketIo(node.http, { auth: { token: token("bad-data") } }).connection();
    for (const event of ["join", "leave", "publish", "message:send", "chat:send", "presence:get", "auth:refresh", "heartbeat:response", "join:round"]) {
      for (const data of [null, 7, "", [], { room: { a: 1 } }, { users: "x" }, { room: "x".repeat(5000), event: "e" }, "\u0000"]) {
        const answer = await socket.ask(event, data);
        assert.equal(typeof answer, "object", event);
      }
    }
    assert.equal(socket.connected, true);
    socket.close();
  });

  it("the hundred-and-first room is one too many", async () => {
    const socket = await socketIo(node.http, { auth: { token: token("joiner") } }).connection();
    const answers = await Promise.all(Array.from({ length: 101 }, (_, i) => socket.ask("join", { room: `r${i}` })));
    assert.equal(answers.filter((answer) => answer.ok).length, 100);
    assert.equal(answers[100].code, "ROOM_LIMIT");
    assert.equal((await socket.ask("join", { room: "r5" })).ok, true);
    let limited;
    for (let i = 0; i < 600 && !limited; i++) limited = (await socket.ask("join", { room: "more" })).code === "RATE_LIMITED";
    assert.ok(limited);
    socket.close();
    await until(async () => (await node.metric("heartline_rooms")) === 1, "the rooms' end");
  });

  it("whoever is over a limit by far is closed", async () => {
    const socket = await Live.connect(node.live, token("flooder"));
    for (let i = 0; i < 300; i++) socket.send({ type: "emit", event: "message:send", data: { conversationId: "1", content: "x" } });
    assert.equal((await socket.end()).code, 4429);
  });
});

describe("crowds", () => {
  it("of a thousand come and go and leave nothing behind", async () => {
    for (let round = 0; round < 5; round++) {
      const crowd = await Promise.all(Array.from({ length: 200 }, (_, i) => Live.connect(node.live, token(`c${i}`))));
      await Promise.all(crowd.map((one, i) => one.ask({ type: "subscribe", topic: `crowd-${i % 7}` })));
      crowd.forEach((one, i) => (i % 2 ? one.ws.close() : one.ws.terminate()));
    }
    await until(async () => (await node.metric('heartline_connections{transport="live",namespace="/"}')) === 0, "no live connection", 10000);
    for (const [name, value] of [["heartline_rooms", 1], ["heartline_users_online", 1], ["heartline_transports", 1]]) {
      await until(async () => (await node.metric(name)) === value, name);
    }
  });

  it("are not pinged all at once", async () => {
    const own = await serve({ "heartbeat.interval": "2s" });
    const times = [];
    const crowd = await Promise.all(Array.from({ length: 400 }, (_, i) => Live.connect(own.live, token(`p${i}`))));
    await within(
      Promise.all(crowd.map((one) => new Promise((resolve) => one.ws.once("ping", () => resolve(times.push(Date.now())))))),
      "everybody's ping",
      4000,
    );
    const slots = new Map();
    for (const time of times) slots.set(Math.floor(time / 50), (slots.get(Math.floor(time / 50)) ?? 0) + 1);
    assert.ok(Math.max(...slots.values()) < 120, `${Math.max(...slots.values())} of 400 pings in 50 ms`);
    for (const one of crowd) one.close();
    assert.equal(await own.stop(), 0);
  });
});
