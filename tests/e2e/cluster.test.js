// Three nodes and a Redis: one gateway.
import assert from "node:assert/strict";
import { once } from "node:events";
import { createServer, request as httpRequest } from "node:http";
import { connect } from "node:net";
import { after, afterEach, before, describe, it } from "node:test";
import { Live, socketIo } from "./lib/clients.js";
import { link, redis } from "./lib/redis.js";
import { SLACK, freePort, killAll, serve, token, until } from "./lib/server.js";

// Short leases: what takes 15 s in production takes 3 s here.
const LEASE = 3000;
const LEASES = { "cluster.lease_ttl": "3s", "cluster.lease_refresh": "1s" };

let store;
const open = [];
// What killed nodes leave behind is no other test's concern.
let turn = 0;
const cluster = (url = store.url) => ({
  "cluster.url": url,
  "cluster.prefix": `t${turn}`,
  ...LEASES,
});
/** Starts nodes `n1`, `n2`, … and waits until they are one cluster. */
async function nodes(count, set = {}, url = () => store.url) {
  const started = await Promise.all(
    Array.from({ length: count }, (_, index) =>
      serve({ "server.node_id": `n${index + 1}`, ...cluster(url(index)), ...set }),
    ),
  );
  open.push(...started);
  await Promise.all(started.map(ready));
  return started;
}
const status = async (node) => (await node.api("/readyz")).body?.status;
const ready = (node) =>
  until(async () => (await status(node)) === "ready", "the node is ready");

async function io(node, user, claims = {}, options = {}) {
  const auth = { token: token(user, claims) };
  const client = socketIo(node.http, { auth, transports: ["websocket"], ...options });
  open.push({ kill: () => client.close() });
  return client.connection();
}
async function live(node, user, claims = {}) {
  const client = await Live.connect(node.live, token(user, claims));
  open.push({ kill: () => client.close() });
  return client;
}
/** Says something to a Redis itself. */
async function say(redis, command) {
  const socket = connect(redis.port, "127.0.0.1");
  socket.write(`${command}\r\n`);
  const [answer] = await once(socket, "data");
  socket.destroy();
  assert.match(`${answer}`, /^:[1-9]/);
}
/** How many users this Redis was asked about: nothing but a question reads a hash's length. */
async function askedAbout(redis) {
  const socket = connect(redis.port, "127.0.0.1");
  socket.write("INFO commandstats\r\nPING\r\n");
  let text = "";
  for await (const data of socket) {
    text += data;
    if (text.endsWith("+PONG\r\n")) break;
  }
  return Number(/cmdstat_hlen:calls=(\d+)/.exec(text)?.[1] ?? 0);
}
/** Events of this name about this user. */
const about = (client, event, user) =>
  client.heard.filter((one) => one.event === event && one.args[0].userId === user).length;
const presence = async (node, ...users) =>
  (await node.api("/v1/presence", { method: "POST", body: { users } })).body.users;
const isOnline = async (node, user) => (await presence(node, user))[0].online;

before(async () => {
  store = await redis();
});
afterEach(async () => {
  turn++;
  await killAll(open);
});
after(() => store.kill());

describe("a cluster's rooms", { timeout: 180000 }, () => {
  it("are the same on all nodes, for both protocols", async () => {
    const [one, two, three] = await nodes(3);
    const ann = await io(one, "ann"),
      bob = await live(two, "bob"),
      eve = await io(three, "eve");
    await ann.ask("join", { room: "lobby" });
    await bob.ask({ type: "subscribe", topic: "lobby" });
    await eve.ask("join", { room: "attic" });

    await bob.ask({ type: "publish", topic: "lobby", event: "hi", data: { from: "bob" } });
    assert.deepEqual(await ann.hear("hi"), { from: "bob" });
    await ann.ask("publish", {
      room: "lobby",
      event: "bytes",
      data: { raw: Buffer.from([1, 2, 3]) },
    });
    assert.equal((await bob.hear("bytes")).data.raw, "AQID");
    const published = await three.api("/v1/rooms/lobby/publish", {
      method: "POST",
      body: { event: "news", data: 1 },
    });
    assert.equal(published.status, 200);
    await Promise.all([ann.hear("news"), bob.hear("news")]);

    await three.api("/v1/broadcast", { method: "POST", body: { event: "all", data: 2 } });
    await Promise.all([ann.hear("all"), bob.hear("all"), eve.hear("all")]);
    assert.deepEqual(
      [ann.count("hi"), ann.count("news"), bob.count("news"), eve.count("news")],
      [1, 1, 1, 0],
    );
    assert.deepEqual([ann.count("all"), bob.count("all"), eve.count("all")], [1, 1, 1]);
  });

  it("keep the order of what one publishes", async () => {
    const [one, two] = await nodes(2);
    const ann = await io(one, "ann"),
      bob = await live(two, "bob");
    await bob.ask({ type: "subscribe", topic: "numbers" });
    for (let number = 0; number < 500; number++)
      ann.emit("publish", { room: "numbers", event: "number", data: number });
    await bob.hear("number", (frame) => frame.data === 499);
    const numbers = bob.heard.filter((frame) => frame.type === "number").map((frame) => frame.data);
    assert.deepEqual(
      numbers,
      Array.from({ length: 500 }, (_, number) => number),
    );
  });

  it("end with the same of each key, though several nodes publish at once", async () => {
    const started = await nodes(3);
    const all = await Promise.all(started.map((node, index) => live(node, `user${index}`)));
    await Promise.all(all.map((one) => one.ask({ type: "subscribe", topic: "map" })));
    for (let round = 0; round < 20; round++) {
      const publish = (one, index) =>
        one.ask({
          type: "publish",
          topic: "map",
          event: "at",
          key: "bus",
          data: `${round}.${index}`,
        });
      await Promise.all(all.map(publish));
      // What one publishes now, everybody hears behind all that came before.
      const end = all[round % 3];
      await end.ask({ type: "publish", topic: "map", event: `end${round}`, data: null });
      const last = async (one) => {
        await one.hear(`end${round}`);
        return one.heard.filter(({ type }) => type === "at").at(-1).data;
      };
      await until(async () => new Set(await Promise.all(all.map(last))).size === 1, "they agree");
    }
  });

  it("stay apart by tenant and namespace", async () => {
    const [one, two] = await nodes(2, { 'namespaces."/chat".auth.mode': "required" });
    const a = await live(one, "ann", { tenantId: "a" }),
      b = await live(two, "bob", { tenantId: "b" });
    const same = await live(two, "cid", { tenantId: "a" });
    const chat = socketIo(`${two.http}/chat`, {
      auth: { token: token("dan", { tenantId: "a" }) },
      transports: ["websocket"],
    });
    open.push({ kill: () => chat.close() });
    await chat.connection();
    await chat.ask("join", { room: "r" });
    for (const client of [a, b, same]) await client.ask({ type: "subscribe", topic: "r" });
    await a.ask({ type: "publish", topic: "r", event: "hi", data: 1 });
    await same.hear("hi");
    // From the same node to the same ones, and later: what comes first did not come.
    const other = await live(one, "eve", { tenantId: "b" });
    await other.ask({ type: "publish", topic: "r", event: "marker", data: 1 });
    const auth = { token: token("fay", { tenantId: "a" }) };
    const chatting = socketIo(`${one.http}/chat`, { auth, transports: ["websocket"] });
    open.push({ kill: () => chatting.close() });
    await chatting.connection();
    await chatting.ask("publish", { room: "r", event: "marker", data: 1 });
    await Promise.all([b.hear("marker"), chat.hear("marker")]);
    assert.deepEqual([b.count("hi"), chat.count("hi")], [0, 0]);
  });
});

describe("a cluster's conversations", { timeout: 180000 }, () => {
  for (const [way, set] of [
    ["that keeps nothing", {}],
    ["that keeps events", { "recovery.window": "1m" }],
  ]) {
    it(`are those of all namespaces, in one ${way}`, async () => {
      const [one, two] = await nodes(2, {
        'namespaces."/chat".auth.mode': "required",
        ...set,
      });
      const rooms = ["conversation:c"];
      const inChat = (node, user) => io({ http: `${node.http}/chat` }, user, { rooms });
      const sender = await inChat(one, "ann");
      const near = await io(one, "near", { rooms }),
        far = await io(two, "far", { rooms }),
        other = await io(two, "other", { rooms });
      for (const client of [near, far]) await client.ask("join:conversation", "c");
      // Without a database each node has members of its own.
      const body = { users: ["other"] };
      await one.api("/v1/conversations/c/members", { method: "PUT", body });
      for (const content of ["one", "two"])
        await sender.ask("message:send", { conversationId: "c", content });
      const second = (message) => message.content === "two";
      await Promise.all([near.hear("message:new", second), far.hear("message:new", second)]);
      await other.hear("message:notification", ({ message }) => second(message));
      for (const client of [near, far]) {
        const count = ["message:new", "message:notification"].map((name) => client.count(name));
        assert.deepEqual(count, [2, 0]);
      }
      assert.deepEqual([other.count("message:new"), other.count("message:notification")], [0, 2]);
    });
  }
});

describe("a cluster's users", { timeout: 180000 }, () => {
  it("are told wherever they are", async () => {
    const [one, two, three] = await nodes(3);
    const phone = await io(one, "ann"),
      laptop = await live(two, "ann"),
      bob = await io(one, "bob");
    await three.api("/v1/users/ann/emit", { method: "POST", body: { event: "mail", data: 1 } });
    await Promise.all([phone.hear("mail"), laptop.hear("mail")]);
    await three.api("/v1/rooms/user:ann/publish", {
      method: "POST",
      body: { event: "post", data: 1 },
    });
    await Promise.all([phone.hear("post"), laptop.hear("post")]);
    // Whatever went astray would have come before this.
    await three.api("/v1/users/bob/emit", { method: "POST", body: { event: "marker", data: 1 } });
    await bob.hear("marker");
    assert.deepEqual([phone.count("mail"), laptop.count("mail")], [1, 1]);
    assert.deepEqual([bob.count("mail"), bob.count("post")], [0, 0]);
  });

  it("come and go once, whatever number of nodes and devices", async () => {
    const [one, two, three] = await nodes(3);
    const watchers = [await io(one, "w1"), await io(two, "w2"), await io(three, "w3")];
    const first = await io(one, "ann"),
      second = await live(two, "ann");
    for (const watcher of watchers)
      await watcher.hear("user:online", (user) => user.userId === "ann");
    const [known] = await presence(three, "ann");
    assert.deepEqual([known.online, known.devices], [true, 2]);
    assert.equal((await watchers[2].ask("presence:get", { users: ["ann"] })).users[0].devices, 2);
    first.close();
    await until(async () => (await presence(three, "ann"))[0].devices === 1, "one device is left");
    second.close();
    for (const watcher of watchers)
      await watcher.hear("user:offline", (user) => user.userId === "ann");
    const [gone] = await presence(one, "ann");
    assert.equal(gone.online, false);
    assert.ok(Math.abs(gone.lastSeenAt - Date.now()) < 30000);
    for (const watcher of watchers) {
      assert.deepEqual(
        [about(watcher, "user:online", "ann"), about(watcher, "user:offline", "ann")],
        [1, 1],
      );
    }
    // Nobody hears of themselves.
    assert.equal(about(watchers[0], "user:online", "w1"), 0);
    // Whoever asks about them again and again asks their own node.
    const ask = async () => (await watchers[1].ask("presence:get", { users: ["ann", "zoe"] })).users;
    const before = await askedAbout(store);
    for (let times = 0; times < 100; times++)
      assert.deepEqual((await ask()).map((user) => user.online), [false, false]);
    // Not two hundred times: both once, and by each node that compares what it keeps with what
    // there is, as all do every ten seconds: ann three times, zoe once.
    const questions = (await askedAbout(store)) - before;
    assert.ok(questions <= 20, `${questions}`);
    await io(one, "zoe");
    await watchers[1].hear("user:online", (user) => user.userId === "zoe");
    const [, zoe] = await ask();
    assert.deepEqual([zoe.online, zoe.devices], [true, 1]);
    // Nor are their devices asked for again: the node is told.
    const asked = await askedAbout(store);
    await io(one, "zoe");
    await until(async () => (await ask())[1].devices === 2, "another device");
    const more = (await askedAbout(store)) - asked;
    assert.ok(more <= 8, `${more}`);
  });

  it("are told to those who share a room, where that is wanted, after kill -9 too", async () => {
    const [one, two, three] = await nodes(3, { "presence.announce": "rooms" });
    const friend = await io(one, "friend"),
      mate = await live(two, "mate"),
      stranger = await io(one, "stranger");
    await friend.ask("join", { room: "a" });
    await friend.ask("join", { room: "b" });
    await mate.ask({ type: "subscribe", topic: "b" });
    await stranger.ask("join", { room: "c" });

    // Two devices on two nodes: each room hears once that their user is there.
    const phone = await io(two, "guest"),
      laptop = await io(three, "guest");
    await phone.ask("join", { room: "a" });
    await friend.hear("user:online", (user) => user.userId === "guest");
    for (const device of [phone, laptop]) await device.ask("join", { room: "b" });
    await mate.hear("user:online", (frame) => frame.data.userId === "guest");
    // Somebody who comes to one of the guest's rooms late still hears that the guest goes.
    const late = await io(one, "late");
    await late.ask("join", { room: "a" });
    phone.close();
    await until(async () => (await presence(one, "guest"))[0].devices === 1, "one device is left");
    await three.kill();
    await Promise.all([
      friend.hear("user:offline", (user) => user.userId === "guest"),
      late.hear("user:offline", (user) => user.userId === "guest"),
      mate.hear("user:offline", (frame) => frame.data.userId === "guest"),
    ]);
    assert.deepEqual(
      [about(friend, "user:online", "guest"), about(friend, "user:offline", "guest")],
      [1, 1],
    );
    assert.equal(about(late, "user:online", "guest"), 0);
    const heard = mate.heard
      .filter((frame) => frame.data?.userId === "guest")
      .map((frame) => frame.type);
    assert.deepEqual(heard, ["user:online", "user:offline"]);
    // Somebody whom the stranger may know of comes later, and is the first.
    const neighbour = await io(two, "neighbour");
    await neighbour.ask("join", { room: "c" });
    await stranger.hear("user:online");
    const known = stranger.heard.filter((one) => one.event.startsWith("user:"));
    assert.deepEqual(
      known.map((one) => one.args[0].userId),
      ["neighbour"],
    );
  });

  it("who come back within the grace were never away", async () => {
    const [one, two] = await nodes(2, { "presence.offline_grace": "6s" });
    const watcher = await io(one, "watcher"),
      ann = await io(one, "ann");
    await watcher.hear("user:online", (user) => user.userId === "ann");
    ann.close();
    await until(async () => (await presence(one, "ann"))[0].devices === 0, "no device");
    const again = await io(two, "ann");
    const bob = await io(two, "bob");
    bob.close();
    await watcher.hear("user:offline", (user) => user.userId === "bob");
    assert.deepEqual(
      [about(watcher, "user:online", "ann"), about(watcher, "user:offline", "ann")],
      [1, 0],
    );
    again.close();
    await watcher.hear("user:offline", (user) => user.userId === "ann");
  });
});

describe("a cluster's devices", { timeout: 180000 }, () => {
  it("replace each other across nodes", async () => {
    const [one, two] = await nodes(2);
    const old = await io(one, "ann", { deviceId: "phone" });
    await io(two, "ann", { deviceId: "phone" });
    const told = await old.hear("connection:replaced");
    assert.deepEqual(told.by, { deviceId: "phone", nodeId: "n2" });
    await until(() => !old.connected, "the old one is closed");
    await until(async () => (await presence(one, "ann"))[0].devices === 1, "one device is left");
  });

  it("never outnumber the limit, though they race", async () => {
    const set = { "devices.policy": "limit", "devices.max": 2 };
    const three = await nodes(3, set);
    const attempts = await Promise.allSettled(
      Array.from({ length: 18 }, (_, index) =>
        io(three[index % 3], "ann", { deviceId: `d${index}` }, { reconnection: false }),
      ),
    );
    assert.equal(attempts.filter((attempt) => attempt.status === "fulfilled").length, 2);
    for (const { reason } of attempts.filter((attempt) => attempt.status === "rejected")) {
      assert.equal(reason.data.code, "DEVICE_LIMIT");
    }
    await until(async () => (await presence(three[0], "ann"))[0].devices === 2, "two devices");
  });

  it("lock nobody out for good when a node has died that held a place", async () => {
    const [one, two] = await nodes(2, { "devices.policy": "limit", "devices.max": 1 });
    const attempt = () => io(two, "ann", {}, { reconnection: false });
    const held = await io(one, "ann");
    const refusal = (error) => error.data;
    const final = await attempt().then(assert.fail, refusal);
    assert.deepEqual(final, { code: "DEVICE_LIMIT" });
    await one.kill();
    // Redis hears of the death from its kernel.
    const waits = () => attempt().then(assert.fail, refusal).then((data) => data.retryAfterMs);
    const wait = await until(waits, "the refusal is passing");
    assert.ok(wait <= 1000, `${wait}`);
    held.close();
    await until(() => attempt().then(() => true, () => false), "a place is free");
  });

  it("leave one standing under replace, though they race", async () => {
    const three = await nodes(3, { "devices.policy": "replace" });
    const clients = await Promise.all(
      Array.from({ length: 12 }, (_, index) =>
        io(three[index % 3], "ann", {}, { reconnection: false }),
      ),
    );
    await until(() => clients.filter((client) => client.connected).length === 1, "one is left");
    await until(async () => (await presence(three[0], "ann"))[0].devices === 1, "one device");
  });
});

/** A proxy that gives each request to the next node, sessions or not. */
async function roundRobin(targets) {
  let turn = 0;
  const sockets = new Set();
  const server = createServer((request, response) => {
    const { port } = targets[turn++ % targets.length];
    const { method, url, headers } = request;
    const onward = httpRequest(
      { host: "127.0.0.1", port, method, path: url, headers },
      (answer) => {
        response.writeHead(answer.statusCode, answer.headers);
        answer.pipe(response);
      },
    );
    onward.on("error", () => response.destroy());
    response.on("close", () => onward.destroy());
    request.pipe(onward);
  });
  server.on("upgrade", (request, near) => {
    const far = connect(targets[turn++ % targets.length].port, "127.0.0.1", () => {
      const { rawHeaders } = request;
      const lines = rawHeaders
        .filter((_, index) => index % 2 === 0)
        .map((name, index) => `${name}: ${rawHeaders[index * 2 + 1]}`);
      far.write(`GET ${request.url} HTTP/1.1\r\n${lines.join("\r\n")}\r\n\r\n`);
      near.pipe(far);
      far.pipe(near);
    });
    for (const socket of [near, far]) socket.on("error", () => {});
  });
  server.on("connection", (socket) => {
    sockets.add(socket);
    socket.on("close", () => sockets.delete(socket));
  });
  server.listen(0, "127.0.0.1");
  await once(server, "listening");
  open.push({
    kill() {
      for (const socket of sockets) socket.destroy();
      server.close();
    },
  });
  return `http://127.0.0.1:${server.address().port}`;
}

describe("a cluster behind a proxy without sticky sessions", { timeout: 180000 }, () => {
  it("serves a client that only polls", async () => {
    const three = await nodes(3);
    const url = await roundRobin(three);
    const client = await io({ http: url }, "ann", {}, { transports: ["polling"] });
    const bob = await live(three[1], "bob");
    await bob.ask({ type: "subscribe", topic: "r" });
    await client.ask("join", { room: "r" });
    for (let number = 0; number < 20; number++) {
      await client.ask("publish", {
        room: "r",
        event: "number",
        data: { number, bytes: Buffer.from([number]) },
      });
      await bob.ask({ type: "publish", topic: "r", event: "back", data: number });
    }
    await client.hear("back", (number) => number === 19);
    const numbers = bob.heard
      .filter((frame) => frame.type === "number")
      .map((frame) => frame.data.number);
    assert.deepEqual(
      numbers,
      Array.from({ length: 20 }, (_, number) => number),
    );
    assert.equal(client.io.engine.transport.name, "polling");
    assert.equal(client.connected, true);
    const ids = (await Promise.all(three.map((node) => node.api("/v1/nodes")))).map(({ body }) =>
      body.nodes.map((node) => node.nodeId).sort(),
    );
    assert.deepEqual(ids, [
      ["n1", "n2", "n3"],
      ["n1", "n2", "n3"],
      ["n1", "n2", "n3"],
    ]);
  });

  it("hands an upgrade to the node that has the session", async () => {
    const three = await nodes(3);
    const url = await roundRobin(three);
    const clients = await Promise.all(
      Array.from({ length: 6 }, (_, index) =>
        io({ http: url }, `user${index}`, {}, { transports: ["polling", "websocket"] }),
      ),
    );
    await Promise.all(
      clients.map((client) =>
        until(() => client.io.engine.transport.name === "websocket", "upgraded"),
      ),
    );
    for (const client of clients) await client.ask("join", { room: "r" });
    await clients[0].ask("publish", { room: "r", event: "hi", data: "x".repeat(100000) });
    await Promise.all(clients.map((client) => client.hear("hi")));
    for (const client of clients) client.close();
    await until(
      async () =>
        (await presence(three[0], ...clients.map((_, index) => `user${index}`))).every(
          (user) => !user.online,
        ),
      "all are gone",
    );
  });

  it("tells who brings the id of no session, or of a node that is gone", async () => {
    const [one, two] = await nodes(2);
    const opened = await (await fetch(`${two.http}/socket.io/?EIO=4&transport=polling`)).text();
    const { sid } = JSON.parse(opened.slice(1));
    const ask = async (sid) =>
      (await fetch(`${one.http}/socket.io/?EIO=4&transport=polling&sid=${sid}`)).json();
    assert.deepEqual(await ask("A".repeat(32)), { code: 1, message: "Session ID unknown" });
    const post = await fetch(`${one.http}/socket.io/?EIO=4&transport=polling&sid=${sid}`, {
      method: "POST",
      body: `40${JSON.stringify({ token: token("ann") })}`,
    });
    assert.equal(await post.text(), "ok");
    await two.kill();
    assert.deepEqual(await ask(sid), { code: 1, message: "Session ID unknown" });
  });

  it("keeps strangers off the nodes' own listener", async () => {
    const port = await freePort();
    await nodes(1, { "cluster.listen": `127.0.0.1:${port}` });
    for (const headers of [{}, { "heartline-cluster": "guess" }]) {
      const answer = await fetch(`http://127.0.0.1:${port}/heartline/ask`, {
        method: "POST",
        headers,
        body: '"Node"',
      });
      assert.equal(answer.status, 403);
    }
  });
});

describe("a cluster's operators", { timeout: 180000 }, () => {
  it("see the connections of all nodes, page by page", async () => {
    const three = await nodes(3);
    const clients = [];
    for (let index = 0; index < 15; index++)
      clients.push(await live(three[index % 3], `user${index}`));
    for (const node of three) {
      const seen = [];
      let cursor = "";
      do {
        const { status, body } = await node.api(`/v1/connections?limit=4&cursor=${cursor}`);
        assert.equal(status, 200);
        seen.push(...body.items);
        cursor = body.nextCursor;
      } while (cursor);
      assert.deepEqual(new Set(seen.map((entry) => entry.userId)).size, 15);
      assert.equal(seen.length, 15);
      assert.deepEqual([...new Set(seen.map((entry) => entry.nodeId))].sort(), ["n1", "n2", "n3"]);
    }
    assert.equal((await three[0].api("/v1/connections?cursor=nonsense")).status, 400);
  });

  it("reach a socket, a user and a room wherever they are", async () => {
    const [one, two] = await nodes(2);
    const ann = await io(two, "ann", { userType: "driver" });
    await ann.ask("join", { room: "r" });
    await (await live(one, "bob")).ask({ type: "subscribe", topic: "r" });
    const { body: entry } = await one.api(`/v1/connections/${ann.id}`);
    assert.deepEqual(
      [entry.userId, entry.nodeId, entry.transport, entry.rooms],
      ["ann", "n2", "websocket", ["r", "user:ann"]],
    );
    assert.equal((await one.api("/v1/users/ann")).body.connections[0].socketId, ann.id);
    assert.equal((await one.api("/v1/rooms/r")).body.members, 2);
    assert.deepEqual(
      (await one.api("/v1/rooms")).body.items.map((room) => [room.room, room.members]),
      [["r", 2]],
    );

    ann.on("question", (data, answer) => answer({ heard: data }, 2));
    const asked = await one.api(`/v1/connections/${ann.id}/emit`, {
      method: "POST",
      body: { event: "question", data: 1, ackWithinMs: 20_000 },
    });
    assert.deepEqual(asked.body, { delivered: 1, ack: [{ heard: 1 }, 2] });
    const silent = await one.api(`/v1/connections/${ann.id}/emit`, {
      method: "POST",
      body: { event: "silence", ackWithinMs: 100 },
    });
    assert.equal(silent.status, 504);
    assert.equal(
      (await one.api(`/v1/connections/${ann.id}/emit`, { method: "POST", body: { event: "told" } }))
        .body.delivered,
      1,
    );
    await ann.hear("told");
    // As much as a message may have, and twice as much on its way to the other node.
    const data = Array(230_000).fill("a");
    const large = { method: "POST", body: { event: "large", data } };
    assert.deepEqual((await one.api(`/v1/connections/${ann.id}/emit`, large)).body, { delivered: 1 });
    assert.equal((await ann.hear("large")).length, data.length);
    const many = { method: "POST", body: { users: Array(1001).fill("ann") } };
    assert.equal((await one.api("/v1/rooms/r/members", many)).status, 400);
    // What was sent to one node under a key is not done again by another.
    const answers = [];
    for (const node of [one, two, one]) {
      const headers = { "idempotency-key": "told-once" };
      const wish = { method: "POST", body: { event: "told" }, headers };
      const { status, body, headers: had } = await node.api(`/v1/connections/${ann.id}/emit`, wish);
      answers.push([status, body, had.get("idempotency-replayed")]);
    }
    const delivered = { delivered: 1 };
    assert.deepEqual(answers, [null, "true", "true"].map((again) => [200, delivered, again]));
    assert.deepEqual(
      (await one.api("/v1/users/ann/emit", { method: "POST", body: { event: "mail" } })).body,
      { delivered: 1 },
    );
    await ann.hear("mail");
    assert.equal(ann.count("told"), 2);

    const { id } = ann,
      ending = ann.ending();
    assert.equal((await one.api(`/v1/connections/${id}`, { method: "DELETE" })).status, 200);
    assert.equal(await ending, "io server disconnect");
    assert.equal((await one.api(`/v1/connections/${id}`)).status, 404);
    const again = await io(two, "ann");
    assert.deepEqual((await one.api("/v1/users/ann/disconnect", { method: "POST" })).body, {
      disconnected: 1,
    });
    await until(() => !again.connected, "it is disconnected");
  });

  it("are told which nodes do not answer", async () => {
    // Longer than it takes to ask twice: a node whose lease is over is swept.
    const [one, two] = await nodes(2, {
      "cluster.lease_ttl": "30s",
      "cluster.failure_timeout": "off",
    });
    await two.freeze();
    const { body } = await one.api("/v1/nodes");
    assert.deepEqual(
      body.nodes.map((node) => [node.nodeId, node.state]),
      [
        ["n1", "ready"],
        ["n2", "unreachable"],
      ],
    );
    assert.deepEqual((await one.api("/v1/connections")).body.unreachable, ["n2"]);
    two.child.kill("SIGCONT");
    await until(
      async () => (await one.api("/v1/nodes")).body.nodes.every((node) => node.state === "ready"),
      "both are ready",
      10 * LEASE,
    );
  });
});

describe("a cluster that was set up wrongly", { timeout: 180000 }, () => {
  it("says once which setting differs, and which node is not reached", async () => {
    const set = (id) => ({ "server.node_id": id, ...cluster() });
    const one = await serve({ ...set("n1"), "presence.offline_grace": "2s", "server.max_payload": "1MB",
      "namespaces./chat.auth.mode": "optional" });
    const two = await serve({ ...set("n2"), "cluster.advertise": `127.0.0.1:${await freePort()}`,
      "server.max_payload": "1_000_000", "namespaces./chat": "true" });
    open.push(one, two);
    await Promise.all([one, two].map(ready));
    const says = (node, text) => node.log.split(text).length - 1;
    await until(() => says(one, "does not reach another") > 0, "the address is named", 30000);
    assert.match(one.log, /node=n2 address=127/);
    await until(() => says(two, "presence.offline_grace is") > 0, "the setting is named");
    assert.equal(says(one, 'presence.offline_grace is "2s" on this node and "0s" on node n2'), 1);
    assert.equal(says(two, 'presence.offline_grace is "0s" on this node and "2s" on node n1'), 1);
    assert.equal(says(one, 'namespaces."/chat".auth.mode is "optional" on this node and "required" on node n2'), 1);
    assert.equal(says(one, "max_payload is"), 0);
    assert.equal(says(two, "does not reach another"), 0);
    assert.equal(says(one, "lease_ttl is"), 0);
  });
});

describe("a cluster in trouble", { timeout: 240000 }, () => {
  it("kill -9: everybody there is offline within a lease and a second, and told once", async () => {
    const [one, two, three] = await nodes(3);
    const watcher = await io(one, "watcher"),
      other = await live(three, "other");
    const users = Array.from({ length: 1000 }, (_, index) => `user${index}`);
    for (let start = 0; start < users.length; start += 100) {
      await Promise.all(users.slice(start, start + 100).map((user) => live(two, user)));
    }
    const gone = () =>
      new Set(
        watcher.heard
          .filter((one) => one.event === "user:offline")
          .map((one) => one.args[0].userId),
      );
    await until(() => watcher.count("user:online") >= 1000, "all are online");
    const killed = Date.now();
    await two.kill();
    await until(() => gone().size === 1000, "all are offline");
    assert.ok(Date.now() - killed < LEASE + 1000 + SLACK, `after ${Date.now() - killed} ms`);
    for (const user of users) {
      assert.deepEqual(
        [about(watcher, "user:online", user), about(watcher, "user:offline", user)],
        [1, 1],
        user,
      );
    }
    assert.ok((await presence(three, ...users.slice(0, 500))).every((user) => !user.online));
    assert.ok(watcher.connected);
    assert.equal(other.ws.readyState, 1);
    assert.equal(await isOnline(three, "other"), true);
    const repairs = await Promise.all(
      [one, three].map((node) => node.metric("heartline_cluster_repairs_total")),
    );
    assert.deepEqual(repairs, [0, 0]);
  });

  it("kill -9: who was there is offline within two seconds, whatever the lease", async () => {
    // A second of standing still is to be short beside it, whatever a busy machine adds.
    const [one, two, three] = await nodes(3, {
      "cluster.lease_ttl": "60s",
      "cluster.failure_timeout": "4s",
    });
    const watcher = await io(one, "watcher");
    const ann = await live(two, "ann");
    await live(three, "bob");
    for (const user of ["ann", "bob"])
      await watcher.hear("user:online", ({ userId }) => userId === user);
    // Who stands still for a second is no crash.
    await two.freeze();
    const stopped = Date.now();
    await until(() => Date.now() - stopped > 1000, "a second has passed");
    two.child.kill("SIGCONT");
    await until(async () => (await two.api("/healthz")).status === 200, "it goes on");

    const killed = Date.now();
    await three.kill();
    await watcher.hear("user:offline", ({ userId }) => userId === "bob");
    assert.ok(Date.now() - killed < 2000 + SLACK, `after ${Date.now() - killed} ms`);
    assert.deepEqual(
      ["user:online", "user:offline"].map((event) => about(watcher, event, "bob")),
      [1, 1],
    );
    assert.equal(about(watcher, "user:offline", "ann"), 0);
    assert.equal(ann.ws.readyState, 1);
    assert.equal(await two.metric("heartline_cluster_incarnations_total"), 1);
    // The last but one is missed by the last.
    const again = Date.now();
    await two.kill();
    await watcher.hear("user:offline", ({ userId }) => userId === "ann");
    assert.ok(Date.now() - again < 2000 + SLACK, `after ${Date.now() - again} ms`);
  });

  it("kill -9 where nodes do not ask each other: the lease decides", async () => {
    // Of which so much is left that it is told from a failure that is found, whenever it was renewed.
    const [one, two] = await nodes(2, {
      "cluster.failure_timeout": "off",
      "cluster.lease_ttl": "10s",
    });
    const watcher = await io(one, "watcher");
    await live(two, "ann");
    await watcher.hear("user:online", ({ userId }) => userId === "ann");
    const killed = Date.now();
    await two.kill();
    await watcher.hear("user:offline", ({ userId }) => userId === "ann");
    // It was renewed a second before, and what a busy machine adds.
    assert.ok(Date.now() - killed > 10_000 - 1000 - SLACK, `after ${Date.now() - killed} ms`);
  });

  it("SIGSTOP for two leases, then SIGCONT: no ghost, nobody lost", async () => {
    const [one, two] = await nodes(2);
    const watcher = await io(one, "watcher");
    const stays = await live(two, "stays"),
      leaves = await live(two, "leaves");
    await watcher.hear("user:online", (user) => user.userId === "leaves");
    await two.freeze();
    const stopped = Date.now();
    await watcher.hear("user:offline", (user) => user.userId === "stays");
    await watcher.hear("user:offline", (user) => user.userId === "leaves");
    leaves.close();
    await until(() => Date.now() - stopped > 2 * LEASE, "two leases have passed");
    two.child.kill("SIGCONT");
    await until(() => about(watcher, "user:online", "stays") === 2, "it is back");
    await until(
      async () => !(await isOnline(one, "leaves")) && (await isOnline(one, "stays")),
      "presence is right",
    );
    // Whatever else was on its way has come by the time that somebody new is seen.
    await live(two, "new");
    await watcher.hear("user:online", (user) => user.userId === "new");
    assert.equal(await isOnline(one, "leaves"), false);
    assert.equal(stays.ws.readyState, 1);
    assert.deepEqual(
      [about(watcher, "user:online", "stays"), about(watcher, "user:offline", "stays")],
      [2, 1],
    );
  });

  it("a Redis that comes back empty: presence is right in a lease, nobody is told", async () => {
    const own = await redis();
    const [one, two] = await nodes(2, {}, () => own.url);
    const watcher = await io(one, "watcher"),
      ann = await live(two, "ann");
    await ann.ask({ type: "subscribe", topic: "r" });
    await watcher.hear("user:online", (user) => user.userId === "ann");
    await own.kill();
    await until(async () => (await status(one)) === "degraded", "the node says that it is alone");
    // Local service goes on.
    await watcher.ask("join", { room: "local" });
    const here = await live(one, "here");
    await here.ask({ type: "publish", topic: "local", event: "hi", data: 1 });
    await watcher.hear("hi");
    assert.equal((await watcher.ask("presence:get", { users: ["here"] })).users[0].stale, true);
    const again = await redis(own.port);
    open.push(again);
    const back = Date.now();
    await until(
      async () => (await isOnline(one, "ann")) && (await isOnline(two, "here")),
      "presence is right",
    );
    assert.ok(Date.now() - back < LEASE + SLACK, `after ${Date.now() - back} ms`);
    await Promise.all([one, two].map(ready));
    await watcher.hear("user:online", (user) => user.userId === "here");
    // Rooms work across nodes again.
    await watcher.ask("publish", { room: "r", event: "again", data: 1 });
    await ann.hear("again");
    assert.deepEqual(
      [about(watcher, "user:online", "ann"), about(watcher, "user:offline", "ann")],
      [1, 0],
    );
    ann.close();
    await watcher.hear("user:offline", (user) => user.userId === "ann");
  });

  it("a link to Redis that is cut and healed", async () => {
    const cable = await link(store.port);
    open.push({ kill: () => cable.close() });
    const [one, two] = await nodes(2, {}, (index) => (index === 1 ? cable.url : store.url));
    const watcher = await io(one, "watcher"),
      ann = await live(two, "ann"),
      bob = await live(two, "bob");
    await watcher.ask("join", { room: "r" });
    await watcher.hear("user:online", (user) => user.userId === "bob");
    cable.cut();
    await watcher.hear("user:offline", (user) => user.userId === "ann");
    await until(async () => (await status(two)) === "degraded", "the node says that it is alone");
    bob.close();
    // Those who are there are served, and new ones too.
    const late = await live(two, "late");
    await late.ask({ type: "subscribe", topic: "r" });
    await ann.ask({ type: "publish", topic: "r", event: "hi", data: 1 });
    await late.hear("hi");
    cable.heal();
    await until(() => about(watcher, "user:online", "ann") === 2, "ann is back");
    await watcher.hear("user:online", (user) => user.userId === "late");
    assert.equal(await isOnline(one, "bob"), false);
    await ready(two);
    await ann.ask({ type: "publish", topic: "r", event: "back", data: 1 });
    await watcher.hear("back");
    assert.ok((await two.metric("heartline_cluster_errors_total")) > 0);
  });

  it("subscriptions that Redis ends: the members of each room are told once", async () => {
    const own = await redis();
    open.push(own);
    const [one, two] = await nodes(2, {}, () => own.url);
    const ann = await io(one, "ann"),
      bob = await live(two, "bob");
    await ann.ask("join", { room: "r" });
    const { epoch } = await bob.ask({ type: "subscribe", topic: "r" });
    await ann.ask("publish", { room: "r", event: "hi", data: 1 });
    const { offset } = await bob.hear("hi");

    await say(own, "CLIENT KILL TYPE pubsub");
    const gap = await bob.hear("gap", (frame) => frame.topic === "r");
    await bob.hear("gap", (frame) => frame.topic === "user:bob");
    await ann.hear("room:gap", ({ room }) => room === "r");
    await ann.hear("room:gap", ({ room }) => room === "user:ann");
    assert.notEqual(gap.epoch, epoch);
    assert.equal(gap.offset, offset);
    // Whoever asks is told the new epoch, and the next event has the next number in it.
    assert.equal((await bob.ask({ type: "subscribe", topic: "r" })).epoch, gap.epoch);
    await ann.ask("publish", { room: "r", event: "again", data: 1 });
    assert.equal((await bob.hear("again")).offset, offset + 1);
    assert.deepEqual(
      [ann.count("room:gap"), bob.heard.filter(({ type }) => type === "gap").length],
      [2, 2],
    );
    assert.equal(await one.metric("heartline_cluster_subscription_gaps_total"), 1);
  });

  it("what waits out an outage is not told as news, but as a gap", async () => {
    const cable = await link(store.port);
    open.push({ kill: () => cable.close() });
    const [one, two] = await nodes(2, {}, (index) => (index === 1 ? cable.url : store.url));
    const ann = await io(one, "ann"),
      bob = await live(two, "bob");
    await ann.ask("join", { room: "r" });
    await bob.ask({ type: "subscribe", topic: "r" });
    await bob.ask({ type: "publish", topic: "r", event: "hi", data: 1 });
    await ann.hear("hi");
    cable.cut();
    await bob.ask({ type: "publish", topic: "r", event: "late", data: 1 });
    await bob.hear("late");
    // Two seconds are as long as anything waits; what is given up first may be something else.
    const heard = Date.now();
    await until(() => Date.now() - heard > 2100, "it has waited for as long as anything does");
    await until(
      async () => (await two.metric("heartline_cluster_publications_undelivered_total")) > 0,
      "the node gives it up",
    );
    cable.heal();
    // Ann's node was not cut off: the other one says what it has lost.
    await ann.hear("room:gap", ({ room }) => room === "r");
    await bob.hear("gap", ({ topic }) => topic === "r");
    await ready(two);
    await bob.ask({ type: "publish", topic: "r", event: "back", data: 1 });
    await ann.hear("back");
    // Of her own room she is told as well, if the node had something to say to users meanwhile.
    const gaps = ann.heard.filter(({ event, args }) => event === "room:gap" && args[0].room === "r");
    assert.deepEqual([ann.count("late"), gaps.length], [0, 1]);
  });

  it("no Redis at the start: the node serves alone, and joins when there is one", async () => {
    const own = await redis();
    await own.kill();
    const node = await serve(cluster(own.url));
    open.push(node);
    assert.equal(await status(node), "degraded");
    await live(node, "ann");
    open.push(await redis(own.port));
    await ready(node);
    const known = await presence(node, "ann");
    assert.deepEqual([known[0].online, known[0].stale], [true, undefined]);
  });

  it("two nodes of one name: a mistake, and nobody is lost by it", async () => {
    const [one] = await nodes(1);
    await live(one, "ann");
    const twin = await serve({ "server.node_id": "n1", ...cluster() });
    open.push(twin);
    await ready(twin);
    // It takes the first one for its own past, which protests.
    await until(() => one.log.includes("lease was over"), "the first one noticed");
    await until(() => isOnline(twin, "ann"), "its user is there");
    await live(twin, "bob");
    assert.equal(await isOnline(one, "bob"), true);
  });
});
