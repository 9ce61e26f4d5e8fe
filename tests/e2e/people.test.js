// Who belongs to conversations: members, with socket.io-client and plain WebSockets.
import assert from "node:assert/strict";
import { mkdtempSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, before, describe, it } from "node:test";
import { Live, socketIo } from "./lib/clients.js";
import { redis } from "./lib/redis.js";
import { serve, token, until } from "./lib/server.js";

let folder;
before(() => (folder = mkdtempSync(join(tmpdir(), "heartline-people-"))));
after(() => rmSync(folder, { recursive: true, force: true }));

const start = (name, set = {}) =>
  serve({
    "store.url": `sqlite://${join(folder, name)}.db`,
    "conversations.access": undefined,
    "limits.messages": "off",
    "server.drain_timeout": "200ms",
    ...set,
  });

const client = (node, user, claims) =>
  socketIo(node.http, { auth: { token: token(user, claims) } }).connection();

const members = async (node, conversation) => {
  const { status, body } = await node.api(`/v1/conversations/${conversation}/members`);
  assert.equal(status, 200);
  return body.members.map(({ userId }) => userId);
};

const say = (conversationId, content) => ["message:send", { conversationId, content }];

describe("members of conversations", () => {
  it("only members and tokens that name it come in, on both transports, and it lasts over a restart", async () => {
    let node = await start("access");
    const stranger = await client(node, "eve");
    for (const [event, data] of [
      ["join", "conversation:c"],
      ["history:get", { conversationId: "c" }],
      say("c", "hello"),
      ["publish", { room: "conversation:c", event: "e", data: 1 }],
    ]) {
      assert.equal((await stranger.ask(event, data)).code, "FORBIDDEN", event);
    }
    const named = await client(node, "ann", { rooms: ["conversation:c"] });
    assert.ok((await named.ask("join", "conversation:c")).ok);
    const added = await node.api("/v1/conversations/c/members/eve", { method: "PUT" });
    assert.deepEqual([added.status, added.body], [200, { added: 1 }]);
    const many = { method: "PUT", body: { users: ["dan", "fay", "eve"] } };
    assert.deepEqual((await node.api("/v1/conversations/c/members", many)).body, { added: 2 });
    await named.hear("member:joined", ({ userId }) => userId === "eve");
    assert.deepEqual(await members(node, "c"), ["ann", "dan", "eve", "fay"]);
    assert.ok((await stranger.ask(...say("c", "I am in"))).ok);
    assert.equal((await named.hear("message:new")).content, "I am in");
    [stranger, named].forEach((socket) => socket.disconnect());
    assert.equal(await node.stop(), 0);

    node = await start("access");
    assert.deepEqual(await members(node, "c"), ["ann", "dan", "eve", "fay"]);
    const eve = await Live.connect(node.live, token("eve", { rooms: ["lobby"] }));
    const subscribed = await eve.ask({ type: "subscribe", topic: "conversation:c" });
    assert.equal(subscribed.type, "subscribed");
    // Who came by a token that named it may come without, but not with one that names others.
    const ann = await client(node, "ann");
    assert.ok((await ann.ask("join", "conversation:c")).ok);
    const elsewhere = await client(node, "ann", { rooms: ["lobby"] });
    assert.equal((await elsewhere.ask("join", "conversation:c")).code, "FORBIDDEN");
    const page = await node.api("/v1/conversations/c/members?limit=3");
    assert.equal(page.body.members.length, 3);
    const next = `/v1/conversations/c/members?limit=3&cursor=${page.body.nextCursor}`;
    assert.deepEqual((await node.api(next)).body.members.map(({ userId }) => userId), ["fay"]);

    const removed = await node.api("/v1/conversations/c/members/eve", { method: "DELETE" });
    assert.deepEqual(removed.body, { removed: 1 });
    const gone = await eve.hear("unsubscribed");
    assert.deepEqual([gone.topic, gone.reason], ["conversation:c", "forbidden"]);
    assert.deepEqual(await ann.hear("member:left"), { conversationId: "c", userId: "eve" });
    assert.ok((await ann.ask(...say("c", "without her"))).ok);
    await eve.ask({ type: "ping" });
    assert.equal(eve.count("message:new"), 0);
    assert.equal(eve.count("message:notification"), 0);
    eve.close();
    [ann, elsewhere].forEach((socket) => socket.disconnect());
    assert.equal(await node.stop(), 0);
  });

  it("members hear of messages when they are not in the room, and strangers do not", async () => {
    const node = await start("notified");
    await node.api("/v1/conversations/c/members", { method: "PUT", body: { users: ["ann", "ben"] } });
    const [ann, ben, eve] = await Promise.all(["ann", "ben", "eve"].map((who) => client(node, who)));
    assert.ok((await ann.ask(...say("c", "hello"))).ok);
    const heard = await ben.hear("message:notification");
    assert.deepEqual([heard.conversationId, heard.message.content], ["c", "hello"]);
    assert.ok((await eve.ask("ping")).timestamp > 0);
    assert.equal(eve.count("message:notification") + ann.count("message:notification"), 0);
    [ann, ben, eve].forEach((socket) => socket.disconnect());
    assert.equal(await node.stop(), 0);
  });

  it("nobody without a token gets into a conversation, whoever puts them there", async () => {
    const node = await start("anonymous", { "auth.mode": "optional" });
    const nobody = await socketIo(node.http).connection();
    assert.equal((await nobody.ask("join", "conversation:c")).code, "AUTH_REQUIRED");
    const body = { sockets: [nobody.id] };
    const moved = await node.api("/v1/rooms/conversation:c/members", { method: "POST", body });
    assert.deepEqual(moved.body, { joined: 0 });
    nobody.disconnect();
    assert.equal(await node.stop(), 0);
  });

  it("users, conversations and cursors that are none are refused", async () => {
    const node = await start("refused");
    for (const [path, method, body] of [
      ["/v1/conversations/c/members?cursor=!", "GET"],
      ["/v1/conversations/c/members?limit=0", "GET"],
      [`/v1/conversations/${"c".repeat(244)}/members/ann`, "PUT"],
      ["/v1/conversations/c%0a/members/ann", "PUT"],
      ["/v1/conversations/c/members", "PUT", { users: [""] }],
      ["/v1/conversations/c/members", "PUT", { user: ["ann"] }],
      ["/v1/conversations/c/members", "DELETE", {}],
    ]) {
      const { status } = await node.api(path, { method, body });
      assert.equal(status, 400, `${method} ${path}`);
    }
    const none = await node.api("/v1/conversations/c/members/ann", { method: "DELETE" });
    assert.deepEqual(none.body, { removed: 0 });
    assert.equal(await node.stop(), 0);
  });

  it("members on other nodes hear of messages, each once", async () => {
    const server = await redis();
    const set = { "store.url": "memory:", "cluster.url": server.url, "conversations.access": "open" };
    const nodes = await Promise.all([start("one", set), start("two", set)]);
    const [one, two] = nodes;
    await one.api("/v1/conversations/c/members", { method: "PUT", body: { users: ["ann", "ben", "off"] } });
    const ann = await client(one, "ann");
    const [ben, there] = [await client(two, "ben"), await client(two, "ben")];
    await there.ask("join", "conversation:c");
    await until(async () => (await one.api("/v1/users/ben/presence")).body.devices === 2, "ben is known");
    for (const content of ["first", "second"]) assert.ok((await ann.ask(...say("c", content))).ok);
    const heard = await ben.hear("message:notification", ({ message }) => message.content === "second");
    assert.equal(heard.message.offset, 2);
    await there.hear("message:new", ({ content }) => content === "second");
    assert.deepEqual([ben, there].map((socket) => socket.count("message:notification")), [2, 0]);
    [ann, ben, there].forEach((socket) => socket.disconnect());
    for (const node of nodes) assert.equal(await node.stop(), 0);
    await server.kill();
  });
});

describe("what has been read", () => {
  const add = (node, id, users) =>
    node.api(`/v1/conversations/${id}/members`, { method: "PUT", body: { users } });

  it("an acknowledged marker and what is unread last over kill -9, and other sockets hear of it", async () => {
    let node = await start("markers");
    await add(node, "c", ["ann", "ben"]);
    await add(node, "d", ["ann", "ben"]);
    const [ann, also, ben] = await Promise.all(["ann", "ann", "ben"].map((who) => client(node, who)));
    for (const content of ["one", "two", "three"]) assert.ok((await ben.ask(...say("c", content))).ok);
    assert.ok((await ben.ask(...say("d", "four"))).ok);
    const inbox = async (socket) => {
      const { ok, conversations } = await socket.ask("inbox:get");
      assert.ok(ok);
      return conversations.map(({ conversationId, head, readOffset, unread, last }) =>
        [conversationId, head, readOffset, unread, last?.content]);
    };
    assert.deepEqual(await inbox(ann), [["d", 1, 0, 1, "four"], ["c", 3, 0, 3, "three"]]);
    assert.deepEqual(await inbox(ben), [["d", 1, 1, 0, "four"], ["c", 3, 3, 0, "three"]]);
    const read = await ann.ask("read", { conversationId: "c", offset: 2 });
    assert.deepEqual(read, { ok: true, conversationId: "c", offset: 2 });
    assert.deepEqual(await also.hear("message:read"), { conversationId: "c", userId: "ann", offset: 2 });
    await node.kill();
    [ann, also, ben].forEach((socket) => socket.disconnect());

    node = await start("markers");
    const again = await client(node, "ann");
    assert.deepEqual(await inbox(again), [["d", 1, 0, 1, "four"], ["c", 3, 2, 1, "three"]]);
    const ahead = await again.ask("read", { conversationId: "c", offset: 99 });
    assert.equal(ahead.offset, 3);
    const back = await again.ask("read", { conversationId: "c", offset: 1 });
    assert.equal(back.offset, 3);
    const { body } = await node.api("/v1/conversations/c/members");
    assert.deepEqual(body.members.map(({ readOffset }) => readOffset), [3, 3]);
    again.disconnect();
    assert.equal(await node.stop(), 0);
  });

  it("with receipts the others in the room hear how far somebody has read", async () => {
    const node = await start("receipts", { "conversations.receipts": "true" });
    await add(node, "c", ["ann", "ben"]);
    const ann = await client(node, "ann");
    const ben = await Live.connect(node.live, token("ben"));
    await ben.ask({ type: "subscribe", topic: "conversation:c" });
    assert.ok((await ann.ask(...say("c", "hello"))).ok);
    const { data } = await ben.ask({ type: "emit", event: "read", data: { conversationId: "c", offset: 1 } });
    assert.deepEqual(data, { ok: true, conversationId: "c", offset: 1 });
    await ann.ask("join", "conversation:c");
    assert.ok((await ann.ask(...say("c", "and again"))).ok);
    await ben.ask({ type: "emit", event: "read", data: { conversationId: "c", offset: 2 } });
    assert.deepEqual(await ann.hear("message:read"), { conversationId: "c", userId: "ben", offset: 2 });
    assert.equal(ben.count("message:read"), 0);
    ann.disconnect();
    ben.close();
    assert.equal(await node.stop(), 0);
  });
});

describe("invites", () => {
  const invite = async (node, body) => {
    const answer = await node.api("/v1/invites", { method: "POST", body });
    assert.equal(answer.status, 201, answer.text);
    return answer.body;
  };

  it("a code or a link lets its bearer into the conversation, also after a restart", async () => {
    const set = { "invites.url": "https://app.example/invite/{code}" };
    let node = await start("invites", set);
    const made = await invite(node, { conversationId: "c", expiresIn: "7d", maxUses: 2, label: "team" });
    assert.match(made.code, /^[0-9A-Za-z]{10}$/);
    assert.equal(made.url, `https://app.example/invite/${made.code}`);
    assert.ok(made.expiresAt - made.createdAt === 7 * 86_400_000 && made.uses === 0);
    const ann = await client(node, "ann", { rooms: ["lobby"] });
    assert.equal((await ann.ask("join", "conversation:c")).code, "FORBIDDEN");
    const joined = await ann.ask("invite:join", { code: `${made.url}?from=mail#top` });
    assert.deepEqual(joined, { ok: true, conversationId: "c", room: "conversation:c" });
    assert.ok((await ann.ask("join", joined.room)).ok);
    ann.disconnect();
    await node.kill();

    node = await start("invites", set);
    const again = await client(node, "ann", { rooms: ["lobby"] });
    assert.ok((await again.ask("join", "conversation:c")).ok);
    assert.ok((await again.ask("invite:join", { code: made.code })).ok);
    const body = { code: made.code, userId: "ben" };
    const ben = await node.api("/v1/invites/join", { method: "POST", body });
    assert.deepEqual(ben.body, { ok: true, conversationId: "c", room: "conversation:c" });
    assert.deepEqual(await again.hear("member:joined"), { conversationId: "c", userId: "ben" });
    assert.equal((await node.api(`/v1/invites/${made.code}`)).body.uses, 2);
    assert.deepEqual(await members(node, "c"), ["ann", "ben"]);
    again.disconnect();
    assert.equal(await node.stop(), 0);
  });

  it("refusals have their codes and statuses, and invites are listed and taken back", async () => {
    const node = await start("refusals");
    const use = async (code, userId = "ann") => {
      const answer = await node.api("/v1/invites/join", { method: "POST", body: { code, userId } });
      return [answer.status, answer.body.code];
    };
    const one = await invite(node, { conversationId: "c", maxUses: 1 });
    assert.deepEqual(await use(one.code), [200, undefined]);
    assert.deepEqual(await use(one.code, "ben"), [410, "INVITE_EXHAUSTED"]);
    const soon = await invite(node, { conversationId: "c", expiresIn: "1ms" });
    await until(async () => (await use(soon.code))[1] === "INVITE_EXPIRED", "its time is over");
    assert.equal((await use(soon.code))[0], 410);
    const back = await invite(node, { conversationId: "d" });
    const revoked = await node.api(`/v1/invites/${back.code}`, { method: "DELETE" });
    assert.ok(revoked.status === 200 && revoked.body.revokedAt > 0);
    assert.deepEqual(await use(back.code), [410, "INVITE_REVOKED"]);
    assert.deepEqual(await use("https://app.example/"), [400, "INVALID_INVITE"]);
    for (let n = 0; n < 10; n++) assert.deepEqual(await use("0123456789"), [404, "INVITE_NOT_FOUND"]);
    assert.deepEqual(await use(one.code), [429, "RATE_LIMITED"]);
    assert.deepEqual(await use(one.code, "ben"), [410, "INVITE_EXHAUSTED"]);
    assert.equal((await node.api("/v1/invites/0123456789")).status, 404);
    assert.equal((await node.api("/v1/invites/0123456789", { method: "DELETE" })).status, 404);
    const first = await node.api("/v1/invites?limit=2");
    const rest = await node.api(`/v1/invites?limit=2&cursor=${first.body.nextCursor}`);
    const codes = [...first.body.invites, ...rest.body.invites].map(({ code }) => code);
    assert.deepEqual(codes, [one.code, soon.code, back.code].sort());
    assert.equal(rest.body.nextCursor, undefined);
    const ofOne = await node.api("/v1/invites?conversationId=d");
    assert.deepEqual(ofOne.body.invites.map(({ code }) => code), [back.code]);
    for (const body of [
      {},
      { conversationId: "" },
      { conversationId: "c", maxUses: 0 },
      { conversationId: "c", maxUses: 100_001 },
      { conversationId: "c", expiresIn: "soon" },
      { conversationId: "c", expiresIn: "0s" },
      { conversationId: "c", label: "x".repeat(201) },
    ]) {
      const { status } = await node.api("/v1/invites", { method: "POST", body });
      assert.equal(status, 400, JSON.stringify(body));
    }
    assert.equal(await node.stop(), 0);
  });

  it("what is pasted is read as the table of invites has it", async () => {
    const node = await start("table");
    const table = JSON.parse(readFileSync(new URL("../lib/invites.json", import.meta.url)));
    const seen = await Promise.all(
      table.map(async ([code], n) => {
        const body = { code, userId: `u${n}` };
        return (await node.api("/v1/invites/join", { method: "POST", body })).body.code;
      }),
    );
    const expected = table.map(([, code]) => (code === null ? "INVALID_INVITE" : "INVITE_NOT_FOUND"));
    assert.deepEqual(seen, expected);
    assert.equal(await node.stop(), 0);
  });

  it("of 200 users who race for seven places seven are in, though the node is killed in between", async () => {
    let node = await start("race", { "limits.events": "off" });
    const { code } = await invite(node, { conversationId: "c", maxUses: 7 });
    const users = Array.from({ length: 200 }, (_, n) => `u${n}`);
    const said = new Map();
    const race = () =>
      Promise.all(
        users.map(async (user) => {
          const live = await Live.connect(node.live, token(user)).catch(() => undefined);
          if (!live) return;
          const ask = { type: "emit", event: "invite:join", data: { code } };
          const answer = await Promise.race([live.ask(ask), live.closed]).catch(() => undefined);
          if (answer?.data) said.set(user, answer.data.ok || answer.data.code);
          live.close();
        }),
      );
    const racing = race();
    await until(() => [...said.values()].includes(true), "somebody is in");
    await node.kill();
    await racing;
    const before = [...said].filter(([, what]) => what === true).map(([user]) => user);
    node = await start("race", { "limits.events": "off" });
    await race();
    const there = await members(node, "c");
    assert.equal(there.length, 7);
    assert.equal((await node.api(`/v1/invites/${code}`)).body.uses, 7);
    for (const user of before) assert.ok(there.includes(user), `${user} was let in`);
    for (const user of users) {
      assert.equal(said.get(user), there.includes(user) || "INVITE_EXHAUSTED", user);
    }
    assert.equal(await node.stop(), 0);
  });
});
