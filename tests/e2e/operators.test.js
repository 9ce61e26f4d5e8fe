// What operators and backends ask, and what the command line says.
import assert from "node:assert/strict";
import { execFile } from "node:child_process";
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, before, describe, it } from "node:test";
import WebSocket from "ws";
import { Live, socketIo } from "./lib/clients.js";
import { postgres } from "./lib/postgres.js";
import { redis } from "./lib/redis.js";
import { BINARY, SECRET, freePort, serve, token, until, within } from "./lib/server.js";

let node, io, live;
before(async () => {
  node = await serve({ "server.node_id": "n1" });
  io = await socketIo(node.http, {
    auth: {
      token: token("ann", {
        deviceId: "phone",
        tenantId: "acme",
        userType: "driver",
        walletAddress: "0x1",
      }),
    },
    transports: ["websocket"],
    extraHeaders: { "user-agent": "test-agent" },
  }).connection();
  await io.ask("join", { room: "lobby" });
  live = await Live.connect(node.live, token("bob"));
  await live.ask({ type: "subscribe", topic: "lobby" });
});
after(async () => {
  io.close();
  live.close();
  if (node.child.exitCode === null) assert.equal(await node.stop(), 0);
});

function heartline(...args) {
  return new Promise((resolve) => {
    execFile(BINARY, args, { timeout: 180000 }, (error, stdout, stderr) => {
      resolve({ code: error ? error.code : 0, stdout, stderr });
    });
  });
}

describe("health and metrics", () => {
  it("are there for probes and scrapers", async () => {
    const methods = ["GET", "HEAD", "OPTIONS"];
    for (const address of [
      `${node.http}/healthz`,
      `${node.admin}/healthz`,
      `${node.admin}/readyz`,
    ]) {
      for (const method of methods) {
        const answer = await fetch(address, { method });
        assert.equal(answer.status, 200, `${method} ${address}`);
        const allowed = method === "OPTIONS" ? methods : undefined;
        assert.deepEqual(answer.headers.get("allow")?.split(/, ?/), allowed, address);
      }
      for (const method of ["POST", "PUT", "DELETE"]) {
        const refused = await fetch(address, { method });
        assert.equal(refused.status, 405, `${method} ${address}`);
        assert.deepEqual(refused.headers.get("allow").split(/, ?/).sort(), methods, address);
      }
    }
    assert.equal((await node.api("/readyz")).body.status, "ready");
    const { text, headers } = await node.api("/metrics");
    assert.equal(headers.get("content-type"), "text/plain; version=0.0.4; charset=utf-8");
    assert.ok(text.includes("\n# TYPE heartline_connects_total counter\n"), text);
    assert.ok(!text.includes("# EOF"));
    const accept = "application/openmetrics-text;version=1.0.0,text/plain;version=0.0.4;q=0.5";
    const open = await node.api("/metrics", { headers: { accept } });
    const type = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    assert.equal(open.headers.get("content-type"), type);
    assert.ok(open.text.includes("\n# TYPE heartline_connects counter\n"), open.text);
    assert.ok(open.text.endsWith("\n# EOF\n"));
    for (const line of [
      'heartline_connections{transport="websocket",namespace="/"} 1',
      'heartline_connections{transport="live",namespace="/"} 1',
      "heartline_users_online 2",
      "heartline_rooms 2",
    ]) {
      assert.ok(text.includes(`${line}\n`), `${line}\n---\n${text}`);
    }
    for (const name of [
      "connects_total",
      "disconnects_total{",
      "messages_inbound_total{",
      "messages_outbound_total{",
      "deliveries_total",
      "deliveries_dropped_total{",
      "heartbeat_rtt_seconds_bucket{",
      "rate_limited_total{limit=",
    ]) {
      assert.ok(text.includes(`\nheartline_${name}`), name);
    }
  });

  it("the API describes itself", async () => {
    const { body } = await node.api("/openapi.json");
    assert.ok(body.openapi.startsWith("3."));
    assert.ok(body.paths["/v1/connections"].get);
    const answers = body.paths["/metrics"].get.responses["2XX"].content;
    assert.deepEqual(Object.keys(answers).sort(), ["application/openmetrics-text", "text/plain"]);
    const members = body.paths["/v1/rooms/{room}/members"].get.responses["2XX"].content;
    const { $ref } = members["application/json"].schema;
    const shape = body.components.schemas[$ref.split("/").at(-1)].properties.members;
    assert.deepEqual(shape.items, { $ref: "#/components/schemas/Member" });
  });
});

describe("/v1", () => {
  it("lists and inspects connections", async () => {
    const { body } = await node.api("/v1/connections");
    assert.equal(body.items.length, 2);
    const ann = body.items.find((one) => one.userId === "ann");
    assert.deepEqual(
      [
        ann.socketId,
        ann.userType,
        ann.tenantId,
        ann.deviceId,
        ann.walletAddress,
        ann.nodeId,
        ann.transport,
        ann.namespace,
        ann.state,
      ],
      [io.id, "driver", "acme", "phone", "0x1", "n1", "websocket", "/", "connected"],
    );
    assert.deepEqual(
      [ann.remoteAddr, ann.userAgent, ann.rooms],
      ["127.0.0.1", "test-agent", ["lobby", "user:ann"]],
    );
    assert.ok(ann.connectedAt <= ann.lastSeenAt && ann.lastActivityAt <= Date.now() + 1000);
    assert.deepEqual((await node.api(`/v1/connections/${io.id}`)).body.userId, "ann");
    const filtered = await node.api("/v1/connections?userId=bob");
    assert.deepEqual(
      filtered.body.items.map((one) => one.transport),
      ["live"],
    );
  });

  it("pages through them", async () => {
    const extra = await Promise.all(
      Array.from({ length: 23 }, (_, i) => Live.connect(node.live, token(`page${i}`))),
    );
    const seen = [];
    let cursor = "";
    do {
      const { body } = await node.api(`/v1/connections?limit=5&cursor=${cursor}`);
      assert.ok(body.items.length <= 5);
      seen.push(...body.items.map((one) => one.socketId));
      cursor = body.nextCursor ?? "";
    } while (cursor);
    assert.equal(new Set(seen).size, 25);
    assert.equal(seen.length, 25);
    for (const one of extra) one.close();
    await until(
      async () => (await node.api("/v1/nodes")).body.nodes[0].connections === 2,
      "the extra ones' end",
    );
    for (const query of ["cursor=zzz", "cursor=lost.x", "limit=0", "limit=many", "state=gone"]) {
      assert.equal((await node.api(`/v1/connections?${query}`)).status, 400);
    }
  });

  it("knows users", async () => {
    const { body } = await node.api("/v1/users/ann?tenantId=acme");
    assert.deepEqual(
      [body.userId, body.online, body.devices, body.connections.length],
      ["ann", true, 1, 1],
    );
    assert.equal((await node.api("/v1/users/ann")).body.online, false);
    assert.equal((await node.api("/v1/users/bob/presence")).body.online, true);
    for (const of of ["/v1/users/bob", "/v1/users/bob/presence"]) {
      const { body } = await node.api(`${of}?userType=nobody`);
      assert.deepEqual([body.online, body.devices, body.lastSeenAt], [false, 0, undefined], of);
      assert.ok(Math.abs(Date.now() - body.asOf) < 5000, `${of} says until when that is`);
    }
    assert.equal((await node.api("/v1/users/bob/connections")).body.items.length, 1);
    const many = await node.api("/v1/presence", {
      method: "POST",
      body: { users: ["bob", "carl"] },
    });
    assert.deepEqual(
      many.body.users.map((user) => user.online),
      [true, false],
    );
  });

  it("emits, publishes and broadcasts", async () => {
    const emitted = await node.api("/v1/users/bob/emit", {
      method: "POST",
      body: { event: "note", data: { a: 1 } },
    });
    assert.deepEqual([emitted.status, emitted.body.delivered], [200, 1]);
    assert.deepEqual((await live.hear("note")).data, { a: 1 });
    const published = await node.api("/v1/rooms/lobby/publish", {
      method: "POST",
      body: { event: "news", data: [1], tenantId: "acme" },
    });
    assert.deepEqual([published.body.delivered, published.body.offset], [1, 1]);
    assert.deepEqual(await io.hear("news"), [1]);
    const all = await node.api("/v1/broadcast", {
      method: "POST",
      body: { event: "all", data: null },
    });
    assert.equal(all.body.delivered, 1);
    await live.hear("all");
    // The other tenant's news would have come before that.
    assert.equal(live.count("news"), 0);
    const nobody = await node.api("/v1/rooms/empty/publish", {
      method: "POST",
      body: { event: "news" },
    });
    assert.deepEqual([nobody.status, nobody.body.delivered], [200, 0]);
    const toUser = await node.api(`/v1/rooms/${encodeURIComponent("user:bob")}/publish`, {
      method: "POST",
      body: { event: "private", data: 1 },
    });
    assert.equal(toUser.body.delivered, 1);
    await live.hear("private");
  });

  it("lists rooms", async () => {
    const { body } = await node.api("/v1/rooms");
    assert.deepEqual(
      body.items.map(({ room, tenantId, members }) => [room, tenantId, members]),
      [
        ["lobby", undefined, 1],
        ["lobby", "acme", 1],
      ],
    );
    const first = await node.api("/v1/rooms?limit=1");
    const second = await node.api(`/v1/rooms?limit=1&cursor=${first.body.nextCursor}`);
    assert.deepEqual([...first.body.items, ...second.body.items], body.items);
    assert.equal(second.body.nextCursor, undefined);
    assert.equal((await node.api("/v1/rooms/lobby")).body.members, 1);
    assert.equal((await node.api("/v1/rooms/none")).status, 404);
  });

  it("says what is wrong as problem details", async () => {
    const cases = [
      ["/v1/connections/nobody", {}, 404],
      ["/v1/nothing", {}, 404],
      ["/v1/connections", { method: "PUT" }, 405],
      ["/v1/broadcast", { method: "POST", body: { event: "" } }, 400],
      ["/v1/broadcast", { method: "POST", body: { event: "ack" } }, 400],
      ["/v1/broadcast", { method: "POST", body: { nothing: 1 } }, 400],
      ["/v1/broadcast", { method: "POST", body: { event: "e", namespace: "/none" } }, 400],
      ["/v1/connections", { headers: { origin: "http://evil.example" } }, 403],
    ];
    for (const [path, options, status] of cases) {
      const answer = await node.api(path, options);
      assert.equal(answer.status, status, path);
      assert.equal(answer.headers.get("content-type"), "application/problem+json");
      assert.deepEqual(
        [answer.body.status, typeof answer.body.title, typeof answer.body.detail],
        [status, "string", "string"],
      );
    }
  });

  it("gives each problem the code that clients have for it", async () => {
    const post = (body, headers) => ({ method: "POST", body, headers });
    const long = "i".repeat(257);
    const quiet = await socketIo(node.http, { auth: { token: token("quiet") } }).connection();
    const { socketId } = await live.hear("hello");
    const asks = { event: "silence", ackWithinMs: 50 };
    const text = { "content-type": "text/plain" };
    const zipped = { "content-encoding": "gzip" };
    const cases = [
      [`/v1/connections/${quiet.id}/emit`, post(asks), 504, "TIMEOUT"],
      [`/v1/connections/${socketId}/emit`, post(asks), 409, "NOT_SUPPORTED"],
      ["/v1/connections/nobody/emit", post(asks), 404, "DISCONNECTED"],
      ["/v1/connections/nobody/emit", post({ event: "e" }), 404, "DISCONNECTED"],
      ["/v1/connections/nobody", {}, 404, "DISCONNECTED"],
      ["/v1/connections/nobody", { method: "DELETE" }, 404, "DISCONNECTED"],
      ["/v1/nothing", {}, 404, "NOT_FOUND"],
      ["/v1/rooms/none", {}, 404, "NOT_FOUND"],
      ["/v1/nodes/none/shed", post({ share: 1 }), 404, "NOT_FOUND"],
      ["/v1/connections", { method: "PUT" }, 405, "METHOD_NOT_ALLOWED"],
      ["/v1/connections", { headers: { origin: "http://evil.example" } }, 403, "FORBIDDEN"],
      ["/v1/broadcast", post({ event: "e", data: "x".repeat(1e6) }), 413, "PAYLOAD_TOO_LARGE"],
      ["/v1/broadcast", post({ event: "e", data: "x".repeat(2e6) }), 413, "PAYLOAD_TOO_LARGE"],
      ["/v1/drain", post({ data: "x".repeat(70000) }), 413, "PAYLOAD_TOO_LARGE"],
      ["/v1/broadcast", post({ event: "e" }, text), 415, "UNSUPPORTED_MEDIA_TYPE"],
      ["/v1/broadcast", post({ event: "e" }, zipped), 415, "UNSUPPORTED_MEDIA_TYPE"],
      ["/v1/connections/nobody/disconnect", post({}, zipped), 415, "UNSUPPORTED_MEDIA_TYPE"],
      ["/v1/broadcast", post({ nothing: 1 }), 400, "INVALID_DATA"],
      ["/v1/rooms/r/publish", post({ event: "e", except: ["a", "b\n"] }), 400, "INVALID_ROOM"],
      ["/v1/connections?limit=many", {}, 400, "INVALID_DATA"],
      ["/v1/connections?limit=0", {}, 400, "INVALID_DATA"],
      ["/v1/connections?cursor=zzz", {}, 400, "INVALID_DATA"],
      ["/v1/connections?state=gone", {}, 400, "INVALID_DATA"],
      ["/v1/conversations/c/messages?after=x", {}, 400, "INVALID_DATA"],
      ["/v1/users/%zz", {}, 400, "INVALID_DATA"],
      ["/v1/users/ann?tenantId=%a", {}, 400, "INVALID_DATA"],
      [`/v1/conversations/${"c".repeat(244)}/messages`, {}, 400, "INVALID_ROOM"],
      [`/v1/rooms/${long}`, {}, 400, "INVALID_ROOM"],
      [`/v1/rooms/${long}/members`, {}, 400, "INVALID_ROOM"],
      ["/v1/rooms/a%01/publish", post({ event: "e" }), 400, "INVALID_ROOM"],
      ["/v1/connections?room=a%01", {}, 400, "INVALID_ROOM"],
    ];
    for (const namespace of ["/none", "chat"]) {
      const there = `namespace=${encodeURIComponent(namespace)}`;
      cases.push(
        [`/v1/connections?${there}`, {}, 400, "Invalid namespace"],
        [`/v1/rooms?${there}`, {}, 400, "Invalid namespace"],
        [`/v1/rooms/a?${there}`, {}, 400, "Invalid namespace"],
        [`/v1/rooms/a/members?${there}`, {}, 400, "Invalid namespace"],
        ["/v1/broadcast", post({ event: "e", namespace }), 400, "Invalid namespace"],
        ["/v1/rooms/a/publish", post({ event: "e", namespace }), 400, "Invalid namespace"],
        ["/v1/rooms/a/members", post({ users: ["u"], namespace }), 400, "Invalid namespace"],
        ["/v1/users/u/emit", post({ event: "e", namespace }), 400, "Invalid namespace"],
      );
    }
    for (const [path, options, status, code] of cases) {
      const answer = await node.api(path, options);
      const what = `${options.method ?? "GET"} ${path.slice(0, 80)}: ${answer.body?.detail}`;
      assert.deepEqual([answer.status, answer.body.code], [status, code], what);
      assert.equal(answer.headers.get("content-type"), "application/problem+json");
      assert.doesNotMatch(answer.body.detail, /deserialize|Failed to|buffer|digit found/i, what);
    }
    quiet.close();
  });

  it("minds a Content-Encoding only of a body, and only one that changes its bytes", async () => {
    const body = { event: "e" };
    for (const coding of ["utf-8", "identity, identity", ""]) {
      const headers = { "content-encoding": coding };
      const answer = await node.api("/v1/broadcast", { method: "POST", body, headers });
      assert.equal(answer.status, 200, coding);
    }
    const headers = { "content-encoding": "gzip" };
    assert.equal((await node.api("/v1/connections", { headers })).status, 200);
    const disconnect = "/v1/users/nobody/disconnect";
    assert.equal((await node.api(disconnect, { method: "POST", headers })).status, 200);
  });

  it("says which of many ids is none", async () => {
    const users = Array.from({ length: 100 }, (_, index) => `u${index}`);
    for (const [bad, why] of [
      ["", /users\[57\] must be an id of 1 to 256 bytes/],
      ["i".repeat(257), /users\[57\] must be an id of 1 to 256 bytes/],
      ["a\0", /users\[57\]" has a NUL/],
      [7, /users\[57\] must be text/],
    ])
      for (const [method, path] of [
        ["POST", "/v1/presence"],
        ["POST", "/v1/rooms/r/members"],
        ["PUT", "/v1/conversations/c/members"],
      ]) {
        const answer = await node.api(path, { method, body: { users: users.with(57, bad) } });
        assert.deepEqual([answer.status, answer.body.code], [400, "INVALID_DATA"], path);
        assert.match(answer.body.detail, why, path);
      }
  });

  it("refuses what is no id in the same way, wherever it stands", async () => {
    for (const id of ["i".repeat(257), "a\u0001"]) {
      const there = encodeURIComponent(id);
      const event = { event: "e" };
      const cases = [
        ["GET", `/v1/users/${there}`],
        ["GET", `/v1/users/${there}/presence`],
        ["GET", `/v1/users/${there}/connections`],
        ["DELETE", `/v1/users/${there}/connections`],
        ["POST", `/v1/users/${there}/disconnect`],
        ["POST", `/v1/users/${there}/emit`, event],
        ["GET", `/v1/users/u?tenantId=${there}`],
        ["GET", `/v1/users/u?userType=${there}`],
        ["GET", `/v1/connections?userId=${there}`],
        ["GET", `/v1/rooms?tenantId=${there}`],
        ["POST", "/v1/presence", { users: ["u", id] }],
        ["POST", "/v1/presence", { users: ["u"], tenantId: id }],
        ["POST", "/v1/broadcast", { ...event, tenantId: id }],
        ["POST", "/v1/rooms/r/publish", { ...event, tenantId: id }],
        ["POST", "/v1/rooms/r/members", { users: [id] }],
        ["PUT", "/v1/conversations/c/members", { users: [id] }],
        ["PUT", `/v1/conversations/c/members/${there}`],
        ["POST", "/v1/invites/join", { code: "c", userId: id }],
      ];
      for (const [method, path, body] of cases) {
        const answer = await node.api(path, { method, body });
        const what = `${method} ${path.slice(0, 60)}`;
        assert.deepEqual([answer.status, answer.body.code], [400, "INVALID_DATA"], what);
        assert.match(answer.body.detail, /must be an id of 1 to 256 bytes/, what);
      }
    }
    const nobody = await node.api("/v1/presence", { method: "POST", body: { users: [""] } });
    assert.equal(nobody.status, 400);
  });

  it("says why a room is none that can be moved or published to", async () => {
    const body = { users: ["ann"] };
    for (const path of ["/v1/rooms/user:ann/members", "/v1/rooms/user:ann/members/leave"]) {
      const answer = await node.api(path, { method: "POST", body });
      assert.deepEqual([answer.status, answer.body.code], [400, "INVALID_ROOM"]);
      assert.match(answer.body.detail, /exactly this user's sockets/);
    }
    const to = "/v1/rooms/conversation:/publish";
    const answer = await node.api(to, { method: "POST", body: { event: "e" } });
    assert.equal(answer.status, 400);
    assert.match(answer.body.detail, /a conversation's an id/);
  });

  it("answers of a user's room as of any other", async () => {
    assert.deepEqual((await node.api("/v1/rooms/user:bob")).body, {
      room: "user:bob",
      namespace: "/",
      members: 1,
    });
    const { body } = await node.api("/v1/rooms/user:bob/members");
    assert.deepEqual(body.members, [{ userId: "bob", devices: 1 }]);
    assert.equal((await node.api("/v1/rooms/user:ann?tenantId=acme")).body.members, 1);
    assert.equal((await node.api("/v1/rooms/user:nobody")).status, 404);
  });

  it("knows the room of a user with the longest id", async () => {
    const id = "l".repeat(256);
    const room = `user:${id}`;
    assert.equal((await node.api(`/v1/rooms/${room}`)).status, 404);
    const socket = socketIo(node.http, { auth: { token: token(id) } });
    await socket.connection();
    try {
      assert.equal((await node.api(`/v1/rooms/${room}`)).body.members, 1);
      const { members } = (await node.api(`/v1/rooms/${room}/members`)).body;
      assert.deepEqual(members, [{ userId: id, devices: 1 }]);
      const { items } = (await node.api(`/v1/connections?room=${room}`)).body;
      assert.deepEqual(
        items.map((item) => item.userId),
        [id],
      );
      const post = (path, body) => node.api(path, { method: "POST", body });
      const heard = socket.hear("e");
      const published = await post(`/v1/rooms/${room}/publish`, { event: "e", data: 1 });
      assert.deepEqual(published.body, { delivered: 1 });
      assert.equal(await heard, 1);
      const joined = await post("/v1/rooms/ofLong/members", { users: [id] });
      assert.deepEqual(joined.body, { joined: 1 });
      assert.equal((await socket.ask("join", { room })).ok, true);
    } finally {
      socket.close();
    }
    for (const more of [`${room}l`, `user:${"l".repeat(300)}`]) {
      const answer = await node.api(`/v1/rooms/${more}`);
      assert.deepEqual([answer.status, answer.body.code], [400, "INVALID_ROOM"]);
    }
  });

  it("takes a name with a NUL for an event, as from clients", async () => {
    await live.ask({ type: "subscribe", topic: "nul" });
    const answer = await live.ask({ type: "publish", topic: "nul", event: "c\0", data: 1 });
    assert.equal(answer.data.ok, true);
    const body = { event: "a\0", data: 2, key: "\0" };
    assert.equal((await node.api("/v1/rooms/nul/publish", { method: "POST", body })).status, 200);
    await live.hear("a\0");
    await live.ask({ type: "unsubscribe", topic: "nul" });
  });

  it("takes data as deep as its receivers do, from whomever it comes", async () => {
    const nested = (levels) => {
      let data = 1;
      for (let level = 0; level < levels; level++) data = [data];
      return data;
    };
    await live.ask({ type: "subscribe", topic: "deep" });
    const from = {
      "Socket.IO": (data) => io.ask("publish", { room: "deep", event: "e", data }),
      "live's publish": async (data) =>
        (await live.ask({ type: "publish", topic: "deep", event: "e", data })).data,
      "live's emit": async (data) => {
        const asked = { room: "deep", event: "e", data };
        return (await live.ask({ type: "emit", event: "publish", data: asked })).data;
      },
      "the API": async (data) => {
        const body = { event: "e", data };
        const { status, body: problem } = await node.api("/v1/rooms/deep/publish", {
          method: "POST",
          body,
        });
        return { ok: status === 200, code: problem.code };
      },
    };
    for (const [who, publish] of Object.entries(from)) {
      assert.equal((await publish(nested(512))).ok, true, who);
      assert.equal((await publish(nested(513))).code, "INVALID_DATA", who);
    }
    await live.ask({ type: "unsubscribe", topic: "deep" });
  });

  it("declares the failures that there can be", async () => {
    const { body } = await node.api("/openapi.json");
    const declared = (path, method) =>
      Object.keys(body.paths[path][method].responses).filter((status) => status > "5");
    assert.deepEqual(declared("/healthz", "get"), []);
    assert.deepEqual(declared("/readyz", "get"), ["503"]);
    assert.deepEqual(declared("/v1/connections/{socketId}", "get"), ["502"]);
    const emit = declared("/v1/connections/{socketId}/emit", "post");
    assert.deepEqual(emit, ["502", "503", "504"]);
    assert.deepEqual(declared("/v1/invites/{code}", "get"), ["503"]);
    assert.deepEqual(declared("/v1/broadcast", "post"), ["503"]);
  });

  it("says so of a name in the path that is not UTF-8, too", async () => {
    const { body } = await node.api("/openapi.json");
    const named = Object.entries(body.paths).filter(([path]) => path.includes("{"));
    assert.ok(named.length > 10);
    for (const [path, methods] of named)
      for (const method of Object.keys(methods)) {
        const options = method === "post" ? { method, body: {} } : { method };
        const answer = await node.api(path.replace(/\{\w+\}/, "%ff"), options);
        assert.equal(answer.status, 400, `${method} ${path}`);
        assert.equal(answer.headers.get("content-type"), "application/problem+json");
        assert.match(answer.body.detail, /UTF-8/);
      }
  });

  it("does once what is sent twice under an Idempotency-Key, and answers it as it did", async () => {
    const invite = (key, conversationId, headers = {}) =>
      node.api("/v1/invites", {
        method: "POST",
        body: { conversationId },
        headers: { ...headers, "idempotency-key": key },
      });
    const first = await invite("a-key", "7");
    const again = await invite("a-key", "7");
    assert.deepEqual([first.status, again.status], [201, 201]);
    assert.deepEqual(again.body, first.body);
    assert.equal(again.headers.get("content-type"), first.headers.get("content-type"));
    const replayed = [first, again].map((one) => one.headers.get("idempotency-replayed"));
    assert.deepEqual(replayed, [null, "true"]);
    const other = await invite("a-key", "8");
    assert.deepEqual([other.status, other.body.code], [422, "IDEMPOTENCY_KEY_REUSED"]);
    assert.equal((await invite("", "8")).body.code, "IDEMPOTENCY_KEY_INVALID");
    // Who may not ask is not told of it.
    const stranger = await invite("a-key", "7", { origin: "http://evil.example" });
    assert.equal(stranger.status, 403);
    assert.equal((await node.api("/v1/invites")).body.invites.length, 1);
  });

  it("disconnects, and clients stay away", async () => {
    const kicked = await socketIo(node.http, { auth: { token: token("kick") } }).connection();
    const ended = kicked.ending();
    assert.equal(
      (await node.api(`/v1/connections/${kicked.id}`, { method: "DELETE" })).body.disconnected,
      1,
    );
    assert.equal(await ended, "io server disconnect");
    const onLive = await Live.connect(node.live, token("kick"));
    assert.equal(
      (await node.api("/v1/users/kick/disconnect", { method: "POST" })).body.disconnected,
      1,
    );
    assert.equal((await onLive.end()).code, 4403);
    assert.equal(
      (await node.api(`/v1/connections/${kicked.id}`, { method: "DELETE" })).status,
      404,
    );
  });

  it("disconnects a client in the middle of its upgrade, which hears why", async () => {
    const url = `${node.http}/socket.io/?EIO=4&transport=polling`;
    const { sid } = JSON.parse((await (await fetch(url)).text()).slice(1));
    const session = `${url}&sid=${sid}`;
    await fetch(session, { method: "POST", body: `40${JSON.stringify({ token: token("mid") })}` });
    let heard = "";
    while (!heard.includes("40{")) heard += await (await fetch(session)).text();
    const socket = new WebSocket(session.replace("http", "ws").replace("polling", "websocket"));
    const frames = [];
    const next = () =>
      within(
        new Promise((resolve) =>
          socket.once("message", (data) => resolve(frames.push(String(data)))),
        ),
        "a frame",
      );
    const closed = new Promise((resolve) => socket.once("close", resolve));
    await within(new Promise((resolve) => socket.once("open", resolve)), "open");
    socket.send("2probe");
    await next();
    assert.equal(
      (await node.api("/v1/users/mid/disconnect", { method: "POST" })).body.disconnected,
      1,
    );
    socket.on("message", (data) => frames.push(String(data)));
    socket.send("5");
    await within(closed, "the close");
    assert.deepEqual([frames[0], frames.at(-1)], ["3probe", "41"]);
  });

  it("wants the token, where there is one", async () => {
    const guarded = await serve({ "admin.token": "sesame" });
    const stranger = await guarded.api("/v1/nodes");
    assert.deepEqual([stranger.status, stranger.body.code], [401, "AUTH_REQUIRED"]);
    const wrong = await guarded.api("/v1/nodes", { headers: { authorization: "Bearer wrong" } });
    assert.deepEqual([wrong.status, wrong.body.code], [401, "AUTH_TOKEN_INVALID"]);
    assert.equal(
      (await guarded.api("/v1/nodes", { headers: { authorization: "Bearer sesame" } })).status,
      200,
    );
    assert.equal((await guarded.api("/metrics")).status, 200);
    assert.equal(await guarded.stop(), 0);
  });

  for (const address of ["0.0.0.0", "[::]"]) {
    it(`does not answer on ${address} without a token, whoever asks for what`, async () => {
      const open = await serve({ "admin.listen": `${address}:${await freePort()}` });
      const client = await Live.connect(open.live, token("u"));
      const { socketId } = await client.hear("hello");
      const body = { event: "e", data: 1 };
      const requests = [
        ["/v1/nodes"],
        ["/v1/connections"],
        ["/v1/users/u"],
        ["/v1/rooms"],
        ["/v1/presence", { method: "POST", body: { users: ["u"] } }],
        ["/v1/broadcast", { method: "POST", body }],
        ["/v1/rooms/r/publish", { method: "POST", body }],
        ["/v1/users/u/emit", { method: "POST", body }],
        ["/v1/users/u/disconnect", { method: "POST" }],
        [`/v1/connections/${socketId}`, { method: "DELETE" }],
        ["/v1/drain", { method: "POST" }],
        ["/v1/nodes", { headers: { authorization: "Bearer " } }],
        ["/v1/nodes", { headers: { authorization: "Bearer guess" } }],
        ["/v1/nodes", { headers: { "x-forwarded-for": "127.0.0.1" } }],
      ];
      for (const [path, options] of requests) {
        const answer = await open.api(path, options);
        assert.equal(answer.status, 403, path);
        assert.equal(answer.headers.get("content-type"), "application/problem+json");
        assert.match(answer.body.detail, /admin\.token/);
      }
      for (const path of ["/healthz", "/readyz", "/metrics"]) {
        assert.equal((await open.api(path)).status, 200, path);
      }
      // Nothing of what was asked for has happened.
      assert.equal((await client.ask({ type: "ping" })).type, "pong");
      assert.deepEqual([client.count("e"), client.count("server:drain")], [0, 0]);
      client.close();
      assert.equal(await open.stop(), 0);
    });
  }

  it("answers on a public listener to the token alone", async () => {
    const set = { "admin.listen": `0.0.0.0:${await freePort()}`, "admin.token": "sesame" };
    const open = await serve(set);
    const ask = async (headers) => (await open.api("/v1/nodes", { headers })).status;
    assert.equal(await ask({}), 401);
    assert.equal(await ask({ authorization: "Bearer sesam" }), 401);
    assert.equal(await ask({ authorization: "Bearer sesame" }), 200);
    // Nor is anybody else told what there is.
    const headers = { authorization: "Bearer sesame" };
    for (const [path, method, status] of [
      ["/v1/connections", "PUT", 405],
      ["/v1/conversations/c/members/u", "GET", 405],
      ["/v1/none", "GET", 404],
      ["/v1/connections/c/none", "POST", 404],
      ["/v1", "GET", 404],
    ]) {
      assert.equal((await open.api(path, { method })).status, 401, path);
      const answer = await open.api(path, { method, headers });
      assert.equal(answer.status, status, path);
      assert.equal(answer.headers.get("content-type"), "application/problem+json");
    }
    // A browser asks so before it may send a token.
    assert.equal((await open.api("/v1/connections", { method: "OPTIONS" })).status, 405);
    assert.equal((await open.api("/none")).status, 404);
    assert.equal(await open.stop(), 0);
  });

  it("takes bodies as large as twice the largest message", async () => {
    const large = await serve({ "server.max_payload": "5MB" });
    const publish = async (bytes, headers) => {
      const body = { event: "e", data: "x".repeat(bytes) };
      return large.api("/v1/rooms/r/publish", { method: "POST", body, headers });
    };
    for (const headers of [{}, { "idempotency-key": "k" }]) {
      assert.equal((await publish(3e6, headers)).status, 200);
      const over = await publish(10e6, headers);
      assert.deepEqual([over.status, over.body.code], [413, "PAYLOAD_TOO_LARGE"]);
      assert.match(over.body.detail, /at most 10000000 bytes/);
    }
    const over = await publish(6e6);
    assert.deepEqual([over.status, over.body.code], [413, "PAYLOAD_TOO_LARGE"]);
    assert.equal(await large.stop(), 0);
  });

  it("answers a drain before the node ends, also with nobody connected", async () => {
    for (let round = 0; round < 30; round++) {
      const going = await serve();
      const answer = await going.api("/v1/drain", { method: "POST" });
      assert.deepEqual([answer.status, answer.body], [202, { draining: true }]);
      // Also with connections on which nothing is asked.
      assert.equal((await within(going.exited, "the end")).code, 0);
    }
  });

  it("drains", async () => {
    const going = await serve();
    const client = await Live.connect(going.live, token("u"));
    assert.equal((await going.api("/v1/drain", { method: "POST" })).status, 202);
    assert.equal((await client.end()).code, 1001);
    assert.equal((await going.exited).code, 0);
  });
});

describe("a node without its Redis, its database and its neighbour", () => {
  const opened = [];
  after(async () => {
    for (const close of opened.reverse()) await close();
  });

  it("fails in no way that /openapi.json does not declare", async () => {
    const server = await redis();
    opened.push(() => server.kill());
    const database = await postgres();
    opened.push(() => database.remove());
    const started = (id) =>
      serve({
        "cluster.url": server.url,
        "store.url": database.url,
        "server.node_id": id,
        "recovery.window": "20s",
        "recovery.unreachable": "refuse",
      });
    const [left, gone] = await Promise.all([started("left"), started("gone")]);
    opened.push(
      () => left.kill(),
      () => gone.kill(),
    );
    const client = await Live.connect(gone.live, token("ann"));
    const { socketId } = await client.hear("hello");
    const nodes = async () => (await left.api("/v1/nodes")).body.nodes.length;
    await until(async () => (await nodes()) === 2, "both nodes");
    await gone.kill();
    await server.kill();
    database.stop();
    const isDegraded = async () => (await left.api("/readyz")).body.status === "degraded";
    await until(isDegraded, "the node to miss its Redis");

    const given = {
      socketId,
      userId: "ann",
      room: "lobby",
      conversationId: "c",
      code: "k3Jd81LmQz",
      nodeId: "gone",
      event: "e",
      users: ["ann"],
      share: 1,
    };
    const { paths } = (await left.api("/openapi.json")).body;
    const walked = [];
    for (const [path, methods] of Object.entries(paths))
      for (const [method, { responses, requestBody, servers }] of Object.entries(methods)) {
        // The one ends the node, the other is on the public listener.
        if (path === "/v1/drain" || servers) continue;
        const known = requestBody?.content["application/json"].schema.properties ?? {};
        const names = Object.keys(known).filter((name) => name in given);
        const body = requestBody && Object.fromEntries(names.map((name) => [name, given[name]]));
        const there = path.replace(/\{(\w+)\}/g, (_, name) => given[name]);
        walked.push(
          left.api(there, { method: method.toUpperCase(), body }).then(({ status, body }) => {
            const isDeclared = status < 500 || `${status}` in responses;
            assert.ok(isDeclared, `${method} ${path}: ${status} ${JSON.stringify(body)}`);
            return status;
          }),
        );
      }
    const seen = new Set(await Promise.all(walked));
    assert.ok(walked.length > 30 && seen.has(200), [...seen].join());
    assert.ok(seen.has(502) && seen.has(503), [...seen].join());
  });
});

describe("the command line", () => {
  const folder = mkdtempSync(join(tmpdir(), "heartline-"));
  after(() => rmSync(folder, { recursive: true }));

  it("refuses to serve without authentication, and names both ways out", async () => {
    const { code, stderr } = await heartline("serve");
    assert.equal(code, 2);
    assert.match(stderr, /auth\.jwt/);
    assert.match(stderr, /--dev/);
  });

  it("names the key that was probably meant", async () => {
    const file = join(folder, "bad.toml");
    writeFileSync(file, '[heartbeat]\nintervall = "5s"\n');
    const { code, stderr } = await heartline("config", "check", "--config", file);
    assert.equal(code, 2);
    assert.match(stderr, /heartbeat\.interval\b/);
    assert.match(stderr, /bad\.toml/);
  });

  it("checks and shows, secrets masked", async () => {
    const file = join(folder, "good.toml");
    writeFileSync(
      file,
      `[auth.jwt]\nsecret = "${SECRET}"\n[limits]\nmessages = { count = 5, window = "1s" }\n` +
        `[namespaces."/chat".auth]\nmode = "optional"\n`,
    );
    assert.equal((await heartline("config", "check", "--config", file)).code, 0);
    const { code, stdout } = await heartline(
      "config",
      "show",
      "--config",
      file,
      "--set",
      "server.max_payload=2MB",
    );
    assert.equal(code, 0);
    assert.ok(!stdout.includes(SECRET));
    assert.match(stdout, /max_payload = "2MB"/);
    assert.match(stdout, /\[namespaces\."\/chat"\]/);
  });

  it("shows what can be read again", async () => {
    const file = join(folder, "shown.toml");
    const settings = ["presence.offline_grace=3s", "namespaces./chat=true", "auth.mode=off"];
    const given = settings.flatMap((one) => ["--set", one]);
    const { stdout } = await heartline("config", "show", ...given);
    writeFileSync(file, stdout);
    const { code, stderr } = await heartline("config", "check", "--config", file);
    assert.deepEqual([code, stderr], [0, ""]);
  });

  it("makes tokens that are accepted", async () => {
    const made = await heartline(
      "token",
      "--user",
      "cli",
      "--type",
      "bot",
      "--device",
      "d",
      "--room",
      "a:*",
      "--ttl",
      "5m",
      "--set",
      `auth.jwt.secret=${SECRET}`,
    );
    assert.equal(made.code, 0);
    const client = await Live.connect(node.live, made.stdout.trim());
    const hello = await client.hear("hello");
    assert.deepEqual([hello.userId, hello.userType, hello.deviceId], ["cli", "bot", "d"]);
    assert.equal((await client.ask({ type: "subscribe", topic: "b" })).code, "FORBIDDEN");
    client.close();
    // None that every node would refuse.
    for (const wrong of [
      ["--user", ""],
      ["--user", "u".repeat(257)],
      ["--user", "u", "--type", ""],
      ["--user", "u", "--room", ""],
      ["--user", "u", "--publish", "r".repeat(257)],
      ["--user", "u", "--ttl", "500000000000y"],
      ["--user", "u", "--ttl", "0s"],
    ]) {
      const given = ["--set", `auth.jwt.secret=${SECRET}`];
      const { code, stdout } = await heartline("token", ...wrong, ...given);
      assert.deepEqual([code, stdout], [2, ""], `${wrong}`);
    }
    assert.equal((await heartline("token", "--user", "x")).code, 2);
    assert.equal((await heartline("token")).code, 2);
    assert.equal((await heartline("fly")).code, 2);
  });

  it("says who has the port", async () => {
    const { code, stderr } = await heartline(
      "serve",
      "--dev",
      "--set",
      `server.listen=127.0.0.1:${node.port}`,
    );
    assert.equal(code, 1);
    assert.match(stderr, /server\.listen/);
  });

  it("--dev prints the URLs and a token that works", async () => {
    const dev = await serve({ "auth.jwt.secret": "" }, { dev: true });
    const [made] = await until(() => dev.out.match(/eyJ[\w.-]+/), "a token in the greeting");
    const client = await Live.connect(dev.live, made);
    assert.equal((await client.hear("hello")).userId, "alice");
    const anonymous = await Live.connect(dev.live);
    assert.equal((await anonymous.hear("hello")).authenticated, false);
    assert.ok(dev.out.includes(dev.http));
    client.close();
    anonymous.close();
    assert.equal(await dev.stop(), 0);
  });
});
