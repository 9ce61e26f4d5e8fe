// Heartline beside Socket.IO servers on Node: the real adapter and emitter.
import assert from "node:assert/strict";
import { createServer } from "node:http";
import { once } from "node:events";
import { after, before, describe, it } from "node:test";
import { createAdapter, createShardedAdapter } from "@socket.io/redis-adapter";
import { Emitter } from "@socket.io/redis-emitter";
import { createClient } from "redis";
import { Server } from "socket.io";
import { Live, socketIo } from "./lib/clients.js";
import { redis } from "./lib/redis.js";
import { PATIENCE, serve, token, until } from "./lib/server.js";

let store, heartlines, server, http, url, emitter, connections;
const clients = [];
before(async () => {
  store = await redis();
  connections = await Promise.all(
    Array.from({ length: 3 }, async () => {
      const client = createClient({ url: store.url });
      // The Redis of this test ends before it.
      client.on("error", () => {});
      return client.connect();
    }),
  );
  const [publisher, subscriber, emitting] = connections;
  http = createServer();
  server = new Server(http, { adapter: createAdapter(publisher, subscriber, { requestsTimeout: PATIENCE }) });
  server.on("connection", (socket) => {
    socket.on("join", (room, ack) => (socket.join(room), ack()));
    socket.on("say", (room, event, ...args) => socket.to(room).emit(event, ...args));
  });
  http.listen(0, "127.0.0.1");
  await once(http, "listening");
  url = `http://127.0.0.1:${http.address().port}`;
  emitter = new Emitter(emitting);
  const set = { "cluster.url": store.url, "cluster.socketio_adapter": "true" };
  heartlines = await Promise.all(["h1", "h2"].map((id) => serve({ ...set, "server.node_id": id })));
  for (const node of heartlines)
    await until(async () => (await node.api("/readyz")).body.status === "ready", "ready");
});
after(async () => {
  for (const client of clients) client.close();
  await server.close();
  await Promise.all(heartlines.map((node) => node.kill()));
  for (const client of connections) client.destroy();
  await store.kill();
});

async function ours(node, user) {
  const client = await socketIo(node.http, {
    auth: { token: token(user) },
    transports: ["websocket"],
  }).connection();
  clients.push(client);
  return client;
}
async function theirs() {
  const client = await socketIo(url, { transports: ["websocket"] }).connection();
  clients.push(client);
  return client;
}

describe("Socket.IO servers on Node beside Heartline", { timeout: 180000 }, () => {
  it("broadcast to its rooms, and it to theirs", async () => {
    const [one, two] = [await ours(heartlines[0], "ann"), await ours(heartlines[1], "bob")];
    const live = await Live.connect(heartlines[0].live, token("cid"));
    clients.push(live);
    const node = await theirs();
    await Promise.all([
      one.ask("join", { room: "r" }),
      two.ask("join", { room: "r" }),
      live.ask({ type: "subscribe", topic: "r" }),
      node.ask("join", "r"),
    ]);

    server.to("r").emit("hi", { from: "node" }, Buffer.from([1, 2]));
    for (const client of [one, two]) {
      await client.hear("hi");
      const { args } = client.heard.find((event) => event.event === "hi");
      assert.deepEqual([args[0], Buffer.from(args[1])], [{ from: "node" }, Buffer.from([1, 2])]);
    }
    assert.deepEqual((await live.hear("hi")).data, [{ from: "node" }, "AQI="]);
    await one.ask("publish", { room: "r", event: "back", data: { raw: Buffer.from([3]) } });
    assert.deepEqual(Buffer.from((await node.hear("back")).raw), Buffer.from([3]));
    await two.hear("back");

    // A speaker does not hear themselves; a room of one socket is that socket.
    const other = await theirs();
    await other.ask("join", "r");
    other.emit("say", "r", "said", 1);
    await Promise.all([one, two, node].map((client) => client.hear("said")));
    server.to(one.id).emit("direct", 1);
    server.emit("last", 1);
    await Promise.all([one, two, node, other].map((client) => client.hear("last")));
    assert.deepEqual(
      [one, two, node].map((client) => [
        client.count("hi"),
        client.count("back"),
        client.count("said"),
      ]),
      Array(3).fill([1, 1, 1]),
    );
    assert.deepEqual(
      [one, two, node, other].map((client) => client.count("direct")),
      [1, 0, 0, 0],
    );
    assert.equal(other.count("said"), 0);
    assert.equal(live.count("hi"), 1);
  });

  it("are told who is connected to Heartline, and in which rooms", async () => {
    const [node, one] = [await theirs(), await ours(heartlines[0], "gus")];
    await one.ask("join", { room: "who" });
    const sockets = await server.fetchSockets();
    assert.ok(sockets.some((socket) => socket.id === node.id));
    const [found, ...others] = await server.in("who").fetchSockets();
    assert.deepEqual([found.id, found.data.userId, others.length], [one.id, "gus", 0]);
    assert.ok(found.rooms.has("who") && found.rooms.has(one.id));
  });

  it("are not kept waiting for answers of code that Heartline does not have", async () => {
    // One answer, which says nothing, for each node.
    assert.deepEqual(await server.serverSideEmitWithAck("anybody?"), [null, null]);
  });
});

describe("an emitter", { timeout: 180000 }, () => {
  it("reaches rooms, users and sockets, and leaves out whom it is told to", async () => {
    const [one, two] = [await ours(heartlines[0], "dan"), await ours(heartlines[1], "eve")];
    await Promise.all([one.ask("join", { room: "e" }), two.ask("join", { room: "e" })]);
    emitter.to("e").emit("room", 1);
    emitter.to("user:eve").emit("user", 2);
    emitter.to("e").except(one.id).emit("except", 3);
    emitter.emit("all", 4);
    await Promise.all([one.hear("all"), two.hear("all")]);
    const heard = (client) => ["room", "user", "except", "all"].map((event) => client.count(event));
    assert.deepEqual(
      [heard(one), heard(two)],
      [
        [1, 0, 0, 1],
        [1, 1, 1, 1],
      ],
    );
  });

  it("makes sockets join, leave and go", async () => {
    const one = await ours(heartlines[0], "fay");
    await one.ask("join", { room: "f" });
    emitter.in("f").socketsJoin("g");
    const room = (name) => heartlines[0].api(`/v1/rooms/${name}`);
    await until(async () => (await room("g")).status === 200, "joined");
    emitter.in("g").socketsLeave("f");
    await until(async () => (await room("f")).status === 404, "left");
    emitter.in("g").disconnectSockets();
    assert.equal(await one.ending(), "io server disconnect");
  });
});

/** Heartline and two Socket.IO servers on one Redis: `adapter` makes theirs. */
async function pair(adapter, set) {
  const store = await redis();
  const connections = [];
  const connect = async () => {
    const client = createClient({ url: store.url });
    client.on("error", () => {});
    connections.push(client);
    return client.connect();
  };
  const servers = await Promise.all(
    [1, 2].map(async () => {
      const http = createServer();
      const server = new Server(http, { adapter: adapter(await connect(), await connect()) });
      server.on("connection", (socket) => {
        socket.on("join", (room, ack) => (socket.join(room), ack()));
      });
      http.listen(0, "127.0.0.1");
      await once(http, "listening");
      return Object.assign(server, { url: `http://127.0.0.1:${http.address().port}` });
    }),
  );
  const nodes = await Promise.all(
    ["p1", "p2"].map((id) => serve({ "cluster.url": store.url, ...set, "server.node_id": id })),
  );
  for (const node of nodes)
    await until(async () => (await node.api("/readyz")).body.status === "ready", "ready");
  return {
    store,
    servers,
    nodes,
    connect,
    async close() {
      for (const server of servers) await server.close();
      await Promise.all(nodes.map((node) => node.kill()));
      // What the adapters still say is waited for.
      await Promise.all(connections.map((client) => client.close()));
      await store.kill();
    },
  };
}

const adapters = {
  "the classic adapter with a key of its own": [
    (publisher, subscriber) => createAdapter(publisher, subscriber, { key: "app", requestsTimeout: PATIENCE }),
    { "cluster.socketio_adapter": "classic", "cluster.socketio_key": "app" },
  ],
  "the sharded adapter": [
    (publisher, subscriber) => createShardedAdapter(publisher, subscriber),
    { "cluster.socketio_adapter": "sharded" },
  ],
  "the sharded adapter with channels for sockets": [
    (publisher, subscriber) =>
      createShardedAdapter(publisher, subscriber, {
        subscriptionMode: "dynamic-private",
        channelPrefix: "app",
      }),
    { "cluster.socketio_adapter": "sharded", "cluster.socketio_key": "app" },
  ],
};

for (const [name, [adapter, set]] of Object.entries(adapters)) {
  describe(name, { timeout: 180000 }, () => {
    let both, one, two, live, node;
    before(async () => {
      both = await pair(adapter, set);
      [one, two] = [await ours(both.nodes[0], "ann"), await ours(both.nodes[1], "bob")];
      live = await Live.connect(both.nodes[0].live, token("cid"));
      node = await socketIo(both.servers[1].url, { transports: ["websocket"] }).connection();
      clients.push(live, node);
      await Promise.all([
        one.ask("join", { room: "r" }),
        two.ask("join", { room: "r" }),
        live.ask({ type: "subscribe", topic: "r" }),
        node.ask("join", "r"),
      ]);
    });
    after(() => both?.close());

    it("brings events to rooms, users and sockets in both directions, each once", async () => {
      const [server] = both.servers;
      server.to("r").emit("hi", { from: "node" }, Buffer.from([1, 2]));
      await Promise.all([one, two, node].map((client) => client.hear("hi")));
      assert.deepEqual((await live.hear("hi")).data, [{ from: "node" }, "AQI="]);
      server.to("user:bob").emit("user", 1);
      server.to(one.id).emit("direct", 1);
      server.to("r").except("user:ann").emit("but", 1);
      server.emit("all", 1);
      await two.ask("publish", { room: "r", event: "back", data: { raw: Buffer.from([3]) } });
      await one.ask("publish", { room: "r", event: "plain", data: [1] });
      assert.deepEqual(Buffer.from((await node.hear("back")).raw), Buffer.from([3]));
      assert.deepEqual(await node.hear("plain"), [1]);
      await one.hear("direct");
      await two.hear("user");
      await Promise.all([one, two, node].map((client) => client.hear("all")));
      await two.hear("but");
      const last = ["back", "plain"];
      const all = [one, two, node];
      await until(
        () => all.every((client) => last.every((event) => client.count(event) > 0)),
        "everybody to hear of the last",
      );
      const heard = (client) =>
        ["hi", "user", "direct", "but", "all", "back", "plain"].map((event) => client.count(event));
      assert.deepEqual(heard(one), [1, 0, 1, 0, 1, 1, 1]);
      assert.deepEqual(heard(two), [1, 1, 0, 1, 1, 1, 1]);
      assert.deepEqual(heard(node), [1, 0, 0, 1, 1, 1, 1]);
    });

    it("brings an event that wants acknowledgements, and all of them back", async () => {
      const [server] = both.servers;
      for (const client of [one, two, node])
        client.on("sum?", (a, ack) => ack({ from: client.id, sum: a + 1 }));
      const answers = await server.to("r").timeout(PATIENCE).emitWithAck("sum?", 1);
      const expected = [one, two, node].map(({ id }) => ({ from: id, sum: 2 }));
      const sorted = (list) => list.toSorted((a, b) => (a.from < b.from ? -1 : 1));
      assert.deepEqual(sorted(answers), sorted(expected));
      // The live protocol cannot answer, but hears it.
      assert.equal((await live.hear("sum?")).data, 1);
      one.on("raw?", (ack) => ack(Buffer.from([7])));
      const [raw] = await server.to(one.id).timeout(PATIENCE).emitWithAck("raw?");
      assert.deepEqual(Buffer.from(raw), Buffer.from([7]));
      assert.deepEqual(await server.to("nobody").timeout(PATIENCE).emitWithAck("sum?", 1), []);
    });

    it("tells that somebody did not acknowledge", async () => {
      const [server] = both.servers;
      for (const client of [one, node]) client.on("slow?", (ack) => ack("here"));
      await assert.rejects(server.to("r").timeout(3000).emitWithAck("slow?"), (error) => {
        assert.deepEqual(error.responses.toSorted(), ["here", "here"]);
        return true;
      });
      assert.equal(two.count("slow?"), 1);
    });

    it("counts Heartline's sockets, and moves and ends them", async () => {
      const [server] = both.servers;
      const ids = (await server.in("r").fetchSockets()).map(({ id }) => id);
      assert.equal(ids.length, 4);
      for (const client of [one, two, node]) assert.ok(ids.includes(client.id));
      server.in("user:ann").socketsJoin("moved");
      await until(async () => (await server.in("moved").fetchSockets()).length === 1, "joined");
      server.to("moved").emit("to the moved", 1);
      await one.hear("to the moved");
      server.in("moved").socketsLeave("moved");
      await until(async () => (await server.in("moved").fetchSockets()).length === 0, "left");
      server.in(two.id).disconnectSockets();
      assert.equal(await two.ending(), "io server disconnect");
      assert.ok(one.connected);
    });
  });
}

describe("the sharded adapter, where lost connections are resumed", { timeout: 180000 }, () => {
  let both;
  before(async () => {
    const [adapter, set] = adapters["the sharded adapter"];
    both = await pair(adapter, { ...set, "recovery.window": "1m", "devices.policy": "limit", "devices.max": "1" });
  });
  after(() => both?.close());

  it("reaches who has come back by the id that it has kept", async () => {
    const [server] = both.servers;
    const one = await ours(both.nodes[0], "ann");
    const { id } = one;
    server.to(id).emit("direct", 1);
    await one.hear("direct");
    for (const turn of [2, 3]) {
      const lost = one.ending();
      one.io.engine.close();
      await lost;
      await until(() => one.connected, "the return");
      assert.deepEqual([one.recovered, one.id], [true, id]);
      server.to(id).emit("direct", turn);
      await one.hear("direct", (number) => number === turn);
    }
    assert.equal(one.count("direct"), 3);
  });

  it("reaches who is in a room whose name is a number, and who was put into a new one", async () => {
    const [server] = both.servers;
    const two = await ours(both.nodes[1], "bob");
    server.in("user:bob").socketsJoin(42);
    await until(async () => (await server.in(42).fetchSockets()).length === 1, "joined");
    server.to(42).emit(7, "x");
    assert.equal(await two.hear("7"), "x");
    const body = { event: "news", data: 1 };
    assert.equal((await both.nodes[0].api("/v1/rooms/42/publish", { method: "POST", body })).status, 200);
    assert.equal(await two.hear("news"), 1);
    assert.equal(two.count("room:gap"), 0);
  });

  it("leaves no channel behind of who is not let in", async () => {
    const client = await both.connect();
    const one = await ours(both.nodes[0], "cid");
    const channels = async () => (await client.sendCommand(["PUBSUB", "SHARDCHANNELS"])).toSorted().join(" ");
    await until(async () => (await channels()).includes(`#${one.id}#`), "its channel");
    const before = await channels();
    for (let count = 0; count < 50; count++) {
      const refused = socketIo(both.nodes[0].http, { auth: { token: token("cid") }, reconnection: false });
      assert.match((await refused.refusal()).message, /device/i);
      refused.close();
    }
    await one.ask("join", { room: "last" });
    const later = before.split(" ").concat("socket.io#/#last#").toSorted().join(" ");
    await until(async () => (await channels()) === later, "the same channels");
  });
});

describe("what does not fit together", { timeout: 180000 }, () => {
  it("is named in the log: the streams adapter, and a node id that two nodes have", async () => {
    const store = await redis();
    const client = createClient({ url: store.url });
    client.on("error", () => {});
    await client.connect();
    await client.xAdd("socket.io", "*", { uid: "x", nsp: "/", type: "2" });
    const set = {
      "cluster.url": store.url,
      "cluster.socketio_adapter": "true",
      "cluster.lease_ttl": "1500ms",
      "cluster.lease_refresh": "300ms",
      "server.node_id": "twin",
    };
    const one = await serve(set);
    await until(() => /redis-streams-adapter/.test(one.log), "a word on the streams adapter");
    const other = await serve(set);
    await until(() => /same server\.node_id/.test(one.log), "a word on the collision");
    assert.equal(one.log.match(/redis-streams-adapter/g).length, 1, "once");
    await Promise.all([one.kill(), other.kill()]);
    client.destroy();
    await store.kill();
  });
});

describe("a backend", { timeout: 180000 }, () => {
  let both, one, two, live;
  before(async () => {
    both = await pair((publisher, subscriber) => createAdapter(publisher, subscriber), {
      'namespaces."/x".auth.mode': "required",
    });
    [one, two] = [await ours(both.nodes[0], "ann"), await ours(both.nodes[1], "bob")];
    live = await Live.connect(both.nodes[1].live, token("ann", { userType: "driver" }));
    clients.push(live);
  });
  after(() => both?.close());
  const post = (path, body) => both.nodes[0].api(path, { method: "POST", body });

  it("puts users and sockets of all nodes into rooms, and takes them out", async () => {
    const joined = await post("/v1/rooms/b/members", { users: ["ann"], sockets: [two.id] });
    assert.deepEqual([joined.status, joined.body], [200, { joined: 3 }]);
    const members = async (room) => (await both.nodes[0].api(`/v1/rooms/${room}/members`)).body;
    assert.deepEqual(await members("b"), {
      members: [
        { userId: "ann", devices: 1 },
        { userId: "ann", userType: "driver", devices: 1 },
        { userId: "bob", devices: 1 },
      ],
    });
    assert.deepEqual(await members("user:bob"), { members: [{ userId: "bob", devices: 1 }] });
    await post("/v1/rooms/b/publish", { event: "b", data: 1 });
    await Promise.all([one.hear("b"), two.hear("b"), live.hear("b")]);
    const others = await post("/v1/rooms/c/members", { rooms: ["b"], except: ["user:ann"] });
    assert.deepEqual(others.body, { joined: 1 });
    const left = await post("/v1/rooms/b/members/leave", { users: ["bob"] });
    assert.deepEqual(left.body, { left: 1 });
    assert.deepEqual((await members("b")).members.length, 2);
    assert.deepEqual((await post("/v1/rooms/b/members/leave", {})).body, { left: 2 });
    assert.deepEqual(await members("b"), { members: [] });
    assert.equal((await post("/v1/rooms/b/members", {})).status, 400);
    assert.equal((await post("/v1/rooms/user:x/members", { users: ["ann"] })).status, 400);
    assert.equal((await post("/v1/rooms/b/members", { user: ["ann"] })).status, 400);
  });

  it("leaves out whom it is told to", async () => {
    await post("/v1/rooms/d/members", { users: ["ann", "bob"] });
    const body = { event: "but", data: 1, except: ["user:bob"] };
    assert.equal((await post("/v1/rooms/d/publish", body)).status, 200);
    await post("/v1/broadcast", { event: "all but", data: 1, except: [one.id] });
    await post("/v1/broadcast", { event: "last", data: 1 });
    await Promise.all([one.hear("last"), two.hear("last")]);
    const heard = (client) => ["but", "all but"].map((event) => client.count(event));
    assert.deepEqual(
      [heard(one), heard(two)],
      [
        [1, 0],
        [0, 1],
      ],
    );
    assert.equal((await post("/v1/rooms/d/publish", { ...body, key: "k" })).status, 400);
  });

  it("lists every socket once, and no more at once than it asks for", async () => {
    const more = await Promise.all(
      Array.from({ length: 9 }, (_, index) => ours(both.nodes[index % 2], `u${index}`)),
    );
    // Two sockets of one connection, on different pages.
    const second = one.io.socket("/x", { auth: { token: token("ann") } });
    await until(() => second.connected, "the second namespace");
    for (const limit of [1, 2, 5, 13]) {
      const [ids, cursors, users] = [[], [], []];
      let cursor = "";
      do {
        const path = `/v1/connections?limit=${limit}&cursor=${cursor}`;
        const { body } = await both.nodes[0].api(path);
        assert.ok(body.items.length <= limit && body.items.length > 0);
        ids.push(...body.items.map((entry) => entry.socketId));
        users.push(...body.items.map((entry) => entry.userId));
        cursor = body.nextCursor;
        cursors.push(cursor);
      } while (cursor);
      assert.equal(ids.length, 13, `${users}`);
      assert.equal(new Set(ids).size, 13);
      assert.equal(cursors.length, Math.ceil(13 / limit), "no page without anything");
    }
    for (const client of [second, ...more]) client.close();
  });
});
