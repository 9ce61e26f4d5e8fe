// The unmodified socket.io-client against the release binary, over each transport.
import assert from "node:assert/strict";
import { after, before, describe, it } from "node:test";
import msgpack from "socket.io-msgpack-parser";
import { Live, socketIo } from "./lib/clients.js";
import { freePort, serve, token, until } from "./lib/server.js";

let node;
const open = [];
function client(user, options = {}, namespace = "") {
  const auth = user === undefined ? {} : { token: user.includes?.(".") ? user : token(user) };
  const socket = socketIo(node.http + namespace, { auth, ...options });
  open.push(socket);
  return socket;
}

before(async () => {
  node = await serve({
    'namespaces."/chat".auth.mode': "optional",
    "limits.messages": '{count=10,window="60s"}',
  });
});
after(async () => {
  for (const socket of open) socket.close();
  assert.equal(await node.stop(), 0);
});

const ways = {
  "default options": {},
  "polling alone": { transports: ["polling"] },
  "WebSocket alone": { transports: ["websocket"] },
  msgpack: { parser: msgpack },
};

for (const [way, options] of Object.entries(ways)) {
  const user = (name) => `${name}-${way.replaceAll(" ", "-")}`;
  describe(way, () => {
    it("says hello and success, and names the socket", async () => {
      const socket = await client(
        token(user("hello"), { userType: "driver", deviceId: "d1" }),
        options,
      ).connection();
      const hello = await socket.hear("server:hello");
      assert.equal(hello.socketId, socket.id);
      assert.deepEqual([hello.pingInterval, hello.pingTimeout], [25000, 10000]);
      assert.deepEqual([hello.authenticated, hello.recovered], [true, false]);
      assert.deepEqual(
        [hello.userId, hello.userType, hello.deviceId],
        [user("hello"), "driver", "d1"],
      );
      assert.ok(Math.abs(hello.serverTime - Date.now()) < 30000);
      assert.equal(typeof hello.nodeId, "string");
      const success = await socket.hear("connection:success");
      assert.deepEqual(
        [success.userId, success.userType, success.socketId],
        [user("hello"), "driver", socket.id],
      );
    });

    it("refuses who has no good token, with a code", async () => {
      const expired = token("x", { exp: Math.floor(Date.now() / 1000) - 60 });
      const cases = [
        [undefined, "AUTH_REQUIRED"],
        ["not.a.token", "AUTH_TOKEN_INVALID"],
        [expired, "AUTH_TOKEN_EXPIRED"],
      ];
      for (const [given, code] of cases) {
        const error = await client(given, options).refusal();
        assert.equal(error.data.code, code);
        assert.equal(typeof error.message, "string");
      }
    });

    it("takes the token from the Authorization header as well", async () => {
      const headers = { Authorization: `Bearer ${token(user("header"))}` };
      const socket = await client(undefined, { ...options, extraHeaders: headers }).connection();
      assert.equal((await socket.hear("server:hello")).userId, user("header"));
    });

    it("knows the namespaces it has and no others", async () => {
      const anonymous = await client(undefined, options, "/chat").connection();
      assert.equal((await anonymous.hear("server:hello")).authenticated, false);
      // It would have come before this answer.
      await anonymous.ask("ping");
      assert.equal(anonymous.count("connection:success"), 0);
      const error = await client(user("x"), options, "/nowhere").refusal();
      assert.equal(error.message, "Invalid namespace");
    });

    it("lets join and leave", async () => {
      const socket = await client(user("join"), options).connection();
      assert.deepEqual(await socket.ask("join", { room: "lobby" }), { ok: true, room: "lobby" });
      assert.deepEqual(await socket.hear("room:joined"), { room: "lobby" });
      assert.deepEqual(await socket.ask("join:round", "42"), { ok: true, room: "round:42" });
      assert.deepEqual(await socket.ask("join:round", { roundId: "43" }), {
        ok: true,
        room: "round:43",
      });
      assert.deepEqual(await socket.ask("join:round"), { ok: true, room: "round" });
      assert.deepEqual(await socket.ask("leave", { room: "lobby" }), { ok: true, room: "lobby" });
      assert.deepEqual(await socket.hear("room:left"), { room: "lobby" });
      assert.equal((await socket.ask("join", { room: "" })).code, "INVALID_ROOM");
      const unnamed = await socket.ask("join", { what: 1 });
      assert.equal(unnamed.code, "INVALID_ROOM");
      assert.match(unnamed.error, /^room is missing/);
      const unsaid = await socket.ask("chat:send", { text: "hello" });
      assert.deepEqual([unsaid.code, unsaid.error], ["INVALID_CONTENT", "content is missing"]);
      const private_ = await socket.ask("join", { room: "user:somebody" });
      assert.deepEqual([private_.ok, private_.code], [false, "FORBIDDEN"]);
    });

    it("publishes to a room, binary as well", async () => {
      const [a, b] = await Promise.all([
        client(user("pa"), options).connection(),
        client(user("pb"), options).connection(),
      ]);
      await b.ask("join", { room: user("room") });
      await a.ask("publish", {
        room: user("room"),
        event: "position",
        data: { x: 1, raw: Buffer.from([1, 2, 3]) },
      });
      const got = await b.hear("position");
      assert.equal(got.x, 1);
      assert.deepEqual(Buffer.from(got.raw), Buffer.from([1, 2, 3]));
      assert.equal(
        (await a.ask("publish", { room: "user:x", event: "e", data: 1 })).code,
        "FORBIDDEN",
      );
    });

    it("answers ping, and every event that asks", async () => {
      const socket = await client(user("ping"), options).connection();
      const answer = await socket.ask("ping");
      assert.equal((await socket.hear("pong")).timestamp, answer.timestamp);
      assert.equal((await socket.ask("no-such-event", 1)).ok, false);
    });

    it("stores a message, then tells everybody once", async () => {
      const sender = await client(user("sender"), options).connection();
      const member = await client(user("member"), options).connection();
      const away = await client(user("away"), options).connection();
      const conversation = user("c");
      for (const socket of [sender, member, away])
        await socket.ask("join", { room: `conversation:${conversation}` });
      await away.ask("leave", { room: `conversation:${conversation}` });
      const ack = await sender.ask("message:send", {
        conversationId: conversation,
        content: "hi",
        tempId: "t1",
      });
      assert.equal(ack.ok, true);
      const fresh = await member.hear("message:new");
      assert.deepEqual(
        [fresh.content, fresh.conversationId, fresh.senderId],
        ["hi", conversation, user("sender")],
      );
      const sent = await sender.hear("message:sent");
      assert.deepEqual([sent.tempId, sent.message.id], ["t1", fresh.id]);
      const notification = await away.hear("message:notification");
      assert.deepEqual(
        [notification.conversationId, notification.message.id],
        [conversation, fresh.id],
      );
      const again = await sender.ask("message:send", {
        conversationId: conversation,
        content: "hi",
        tempId: "t1",
      });
      assert.equal(again.message.id, fresh.id);
      await until(() => sender.count("message:sent") === 2, "the second answer");
      const later = await sender.ask("message:send", {
        conversationId: conversation,
        content: "later",
        tempId: "t2",
      });
      // What follows from the same sender shows that nothing more of it is to come.
      await away.ask("join", { room: user("after") });
      await sender.ask("publish", {
        room: `conversation:${conversation}`,
        event: "marker",
        data: 1,
      });
      await sender.ask("publish", { room: user("after"), event: "marker", data: 1 });
      await Promise.all([member.hear("marker"), away.hear("marker")]);
      const news = member.heard
        .filter((one) => one.event === "message:new")
        .map((one) => one.args[0].id);
      assert.deepEqual(news, [fresh.id, later.message.id]);
      assert.deepEqual([away.count("message:new"), away.count("message:notification")], [0, 2]);
      assert.equal(member.count("message:notification"), 0);
    });

    it("chats in open rooms, within limits of content", async () => {
      const socket = await client(user("chat"), options).connection();
      await socket.ask("join", { room: user("open") });
      const ack = await socket.ask("chat:send", { content: "x".repeat(500), room: user("open") });
      assert.equal(ack.ok, true);
      assert.equal((await socket.hear("message:new")).id, ack.message.id);
      for (const content of ["", "x".repeat(501), undefined, 7]) {
        const refused = await socket.ask("chat:send", { content, room: user("open") });
        assert.deepEqual([refused.ok, refused.code], [false, "INVALID_CONTENT"]);
      }
      const anonymous = await client(undefined, options, "/chat").connection();
      assert.equal((await anonymous.ask("chat:send", { content: "x" })).code, "AUTH_REQUIRED");
    });

    it("refuses the eleventh message and disturbs nobody else", async () => {
      const socket = await client(user("eager"), options).connection();
      const other = await client(user("calm"), options).connection();
      const second = await client(user("eager"), options).connection();
      for (let i = 0; i < 10; i++) {
        const ack = await (i % 2 ? socket : second).ask("message:send", {
          conversationId: "1",
          content: "x",
          tempId: `e${i}`,
        });
        assert.equal(ack.ok, true, JSON.stringify(ack));
      }
      socket.emit("message:send", { conversationId: "1", content: "x", tempId: "e10" });
      const error = await socket.hear("message:error");
      assert.equal(error.error, "Rate limit exceeded. Please slow down.");
      assert.deepEqual([error.code, error.tempId], ["RATE_LIMITED", "e10"]);
      assert.ok(error.retryAfterMs > 0 && error.retryAfterMs <= 60_000);
      assert.equal(
        (await other.ask("message:send", { conversationId: "1", content: "x" })).ok,
        true,
      );
      const back = await client(user("eager"), options).connection();
      assert.equal(
        (await back.ask("message:send", { conversationId: "1", content: "x" })).code,
        "RATE_LIMITED",
      );
    });

    it("announces a user once, and gone with the last device", async () => {
      const observer = await client(user("observer"), options).connection();
      const they = (data) => data.userId === user("they");
      const one = await client(user("they"), options).connection();
      const online = await observer.hear("user:online", they);
      assert.ok(Math.abs(online.at - Date.now()) < 30000);
      const two = await client(user("they"), options).connection();
      const users = [user("they"), user("nobody")];
      const known = (await observer.ask("presence:get", { users })).users;
      assert.deepEqual(
        known.map(({ userId, online, devices }) => [userId, online, devices]),
        [
          [users[0], true, 2],
          [users[1], false, 0],
        ],
      );
      one.close();
      await until(
        async () => (await observer.ask("presence:get", { users })).users[0].devices === 1,
        "one device",
      );
      two.close();
      await observer.hear("user:offline", they);
      const edges = observer.heard.filter(
        (one) => one.event.startsWith("user:") && they(one.args[0]),
      );
      assert.deepEqual(
        edges.map((one) => one.event),
        ["user:online", "user:offline"],
      );
      assert.ok((await observer.ask("presence:get", { users })).users[0].lastSeenAt > 0);
    });

    it("tells metrics to admins only", async () => {
      const admin = await client(token(user("admin"), { admin: true }), options).connection();
      admin.emit("metrics:request");
      const metrics = await admin.hear("metrics:response");
      assert.deepEqual(Object.keys(metrics).sort(), [
        "connectedUsers",
        "connections",
        "heartbeats",
        "rateLimitEntries",
        "uptime",
      ]);
      const other = await client(user("curious"), options).connection();
      assert.equal((await other.ask("metrics:request")).code, "FORBIDDEN");
      assert.equal(other.count("metrics:response"), 0);
    });

    it("comes back after the node was killed", async () => {
      const port = await freePort();
      const first = await serve({}, { port });
      const socket = socketIo(first.http, { auth: { token: token("back") }, ...options });
      open.push(socket);
      await socket.connection();
      const id = socket.id;
      const gone = socket.ending();
      await first.kill();
      await gone;
      const second = await serve({}, { port });
      await until(() => socket.connected, "the reconnection");
      assert.notEqual(socket.id, id);
      await until(() => socket.count("server:hello") === 2, "the second hello");
      socket.close();
      assert.equal(await second.stop(), 0);
    });
  });
}

describe("binary of a msgpack client", () => {
  const bytes = (length) => Uint8Array.from({ length }, (_, at) => at * 7);
  const values = {
    "a Uint8Array": bytes(3),
    "an ArrayBuffer": bytes(4).buffer,
    "a Float32Array": Float32Array.of(1.5, -2),
    "an empty Uint8Array": bytes(0),
    "an empty Buffer": Buffer.alloc(0),
    "one byte": Uint8Array.of(7),
    "one byte of 0": Uint8Array.of(0),
    // As long as a date.
    "a Float64Array": Float64Array.of(1.25),
    "300 bytes": bytes(300),
    "70 000 bytes": bytes(70_000),
    "a Buffer": Buffer.from([9, 8]),
  };
  const plain = (value) => Buffer.from(value.buffer ?? value, value.byteOffset, value.byteLength);
  const polling = { parser: msgpack, transports: ["polling"] };

  for (const [way, options] of Object.entries({
    "by WebSocket": { parser: msgpack, transports: ["websocket"] },
    "by polling": polling,
  })) {
    it(`reaches everybody, ${way}`, async () => {
      const room = `binary ${way}`;
      const [sender, ...readers] = await Promise.all(
        [options, options, polling, { transports: ["websocket"] }].map((one, at) =>
          client(`b${at} ${way}`, one).connection(),
        ),
      );
      const live = await Live.connect(node.live, token(`live ${way}`));
      open.push(live);
      for (const reader of readers) await reader.ask("join", { room });
      await live.ask({ type: "subscribe", topic: room });
      for (const [event, value] of Object.entries(values)) {
        const data = { a: value, b: [value] };
        assert.equal((await sender.ask("publish", { room, event, data })).ok, true, event);
        const expected = plain(value);
        for (const reader of readers) {
          const { a, b } = await reader.hear(event);
          for (const got of [a, b[0]]) assert.deepEqual(plain(got), expected, event);
        }
        const base64 = expected.toString("base64");
        assert.deepEqual((await live.hear(event)).data, { a: base64, b: [base64] }, event);
      }
    });
  }

  for (const way of ["msgpack", "default options"]) {
    it(`is base64 in what it acknowledges the API with: ${way}`, async () => {
      const answering = await client(`answering by ${way}`, ways[way]).connection();
      answering.on("ask", (name, answer) => answer({ a: [values[name]] }, 1));
      for (const name of Object.keys(values)) {
        const path = `/v1/connections/${encodeURIComponent(answering.id)}/emit`;
        const body = { event: "ask", data: name, ackWithinMs: 20_000 };
        const answered = await node.api(path, { method: "POST", body });
        const base64 = plain(values[name]).toString("base64");
        assert.deepEqual(answered.body.ack, [{ a: [base64] }, 1], name);
      }
    });
  }

  it("is neither undefined nor a date", async () => {
    const [sender, reader] = await Promise.all([
      client("dated", ways.msgpack).connection(),
      client("reading", ways.msgpack).connection(),
    ]);
    await reader.ask("join", { room: "dates" });
    const data = [undefined, new Date(1e12), Uint8Array.of(0)];
    await sender.ask("publish", { room: "dates", event: "date", data });
    const [nothing, date, byte] = await reader.hear("date");
    assert.deepEqual([nothing, date], [null, "2001-09-09T01:46:40.000Z"]);
    assert.deepEqual(plain(byte), Buffer.from([0]));
  });
});

describe("tokens", () => {
  it("say which rooms may be joined and published to", async () => {
    const limited = token("limited", { rooms: ["conversation:*", "lobby"], publish: ["lobby"] });
    const socket = await client(limited).connection();
    assert.equal((await socket.ask("join", { room: "conversation:1" })).ok, true);
    assert.equal((await socket.ask("join", { room: "lobby" })).ok, true);
    assert.equal((await socket.ask("join", { room: "backstage" })).code, "FORBIDDEN");
    assert.equal((await socket.ask("publish", { room: "lobby", event: "e", data: 1 })).ok, true);
    assert.equal(
      (await socket.ask("publish", { room: "conversation:1", event: "e", data: 1 })).code,
      "FORBIDDEN",
    );
  });

  it("keep tenants apart", async () => {
    const enter = async (tenantId, name) => {
      const socket = await client(token(name, { tenantId })).connection();
      await socket.ask("join", { room: "shared" });
      return socket;
    };
    const b = await enter("t2", "bob"),
      a = await enter("t1", "ann"),
      c = await enter("t1", "cid");
    await a.ask("publish", { room: "shared", event: "secret", data: 1 });
    await c.hear("secret");
    assert.equal((await b.ask("presence:get", { users: ["ann"] })).users[0].online, false);
    // The same from b's own tenant, by the same ways and later: what comes first did not come.
    const d = await enter("t2", "dan");
    await d.ask("publish", { room: "shared", event: "marker", data: 1 });
    await b.hear("marker");
    await b.hear("user:online", ({ userId }) => userId === "dan");
    const online = b.heard
      .filter((one) => one.event === "user:online")
      .map((one) => one.args[0].userId);
    assert.deepEqual([b.count("secret"), online], [0, ["dan"]]);
  });

  it("of a conversation make a member who never joined", async () => {
    const reader = await client(token("reader", { rooms: ["conversation:77"] })).connection();
    const writer = await client("writer").connection();
    await writer.ask("message:send", { conversationId: "77", content: "hi" });
    assert.equal((await reader.hear("message:notification")).conversationId, "77");
  });
});
