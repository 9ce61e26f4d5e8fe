// Heartline beside Socket.IO servers on Node: the real adapter and emitter.
import assert from "node:assert/strict";
import { createServer } from "node:http";
import { once } from "node:events";
import { after, before, describe, it } from "node:test";
import { createAdapter } from "@socket.io/redis-adapter";
import { Emitter } from "@socket.io/redis-emitter";
import { createClient } from "redis";
import { Server } from "socket.io";
import { Live, socketIo } from "./lib/clients.js";
import { redis } from "./lib/redis.js";
import { serve, token, until } from "./lib/server.js";

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
  server = new Server(http, { adapter: createAdapter(publisher, subscriber) });
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

describe("Socket.IO servers on Node beside Heartline", { timeout: 30000 }, () => {
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

  it("are not kept waiting by nodes that do not answer their questions", async () => {
    const node = await theirs();
    const sockets = await server.fetchSockets();
    assert.ok(sockets.some((socket) => socket.id === node.id));
  });
});

describe("an emitter", { timeout: 30000 }, () => {
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
