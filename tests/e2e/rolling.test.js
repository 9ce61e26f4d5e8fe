// Rolling restarts: who is let go comes back elsewhere without having been away, and a node
// that has everybody gives some of them back.
import assert from "node:assert/strict";
import { once } from "node:events";
import { connect } from "node:net";
import { after, afterEach, before, describe, it } from "node:test";
import { Live, socketIo } from "./lib/clients.js";
import { redis } from "./lib/redis.js";
import { killAll, serve, token, until } from "./lib/server.js";

let store;
const open = [];
let turn = 0;

async function nodes(count, set = {}) {
  const started = await Promise.all(
    Array.from({ length: count }, (_, index) =>
      serve({
        "server.node_id": `n${index + 1}`,
        "cluster.url": store.url,
        "cluster.prefix": `r${turn}`,
        "cluster.lease_ttl": "3s",
        "cluster.lease_refresh": "1s",
        ...set,
      }),
    ),
  );
  open.push(...started);
  for (const node of started)
    await until(
      async () => (await node.api("/readyz")).body?.status === "ready",
      "the node is ready",
      30000,
    );
  return started;
}
async function io(node, user, options = {}) {
  const auth = { token: token(user) };
  const client = socketIo(node.http, { auth, transports: ["websocket"], ...options });
  open.push({ kill: () => client.close() });
  return client.connection();
}
async function live(node, user) {
  const client = await Live.connect(node.live, token(user));
  open.push({ kill: () => client.close() });
  return client;
}
const edges = (client, user) =>
  client.heard
    .filter(({ event, args }) => event.startsWith("user:") && args[0].userId === user)
    .map(({ event }) => event);
const isOnline = async (node, user) =>
  (await node.api("/v1/presence", { method: "POST", body: { users: [user] } })).body.users[0]
    .online;

before(async () => {
  store = await redis();
});
afterEach(async () => {
  turn++;
  await killAll(open);
});
after(() => store.kill());

describe("a rolling restart", { timeout: 180000 }, () => {
  it("announces nobody offline who comes back when told", async () => {
    const [one, two] = await nodes(2);
    const watcher = await io(two, "watcher");
    const ann = await io(one, "ann", { reconnection: false });
    const bob = await live(one, "bob");
    await watcher.hear("user:online", ({ userId }) => userId === "bob");
    await watcher.hear("user:online", ({ userId }) => userId === "ann");
    const stopping = one.stop();
    const { reconnectInMs } = await ann.hear("server:drain");
    await bob.hear("server:drain");
    assert.equal(await stopping, 0);
    // Everything that this node had to say has been said, and its lease is given back.
    await until(
      async () => (await two.api("/v1/nodes")).body.nodes.length === 1,
      "the first node is gone",
    );
    assert.equal(await isOnline(two, "ann"), true);
    await io(two, "ann");
    await live(two, "bob");
    // Somebody who comes later is heard of later: the stream has nothing of the two.
    await io(two, "marker");
    await watcher.hear("user:online", ({ userId }) => userId === "marker");
    assert.deepEqual(edges(watcher, "ann"), ["user:online"]);
    assert.deepEqual(edges(watcher, "bob"), ["user:online"]);
    assert.ok(reconnectInMs >= 250);
  });

  it("announces who does not come back, after the time that was told and five seconds", async () => {
    const [one, two] = await nodes(2);
    const watcher = await io(two, "watcher");
    const ann = await io(one, "ann", { reconnection: false });
    await watcher.hear("user:online", ({ userId }) => userId === "ann");
    const stopping = one.stop();
    const { reconnectInMs } = await ann.hear("server:drain");
    const told = ann.heard.find(({ event }) => event === "server:drain").at;
    await stopping;
    await watcher.hear("user:offline", ({ userId }) => userId === "ann");
    const { at } = watcher.heard.find(
      ({ event, args }) => event === "user:offline" && args[0].userId === "ann",
    );
    const waited = at - told;
    assert.ok(waited >= reconnectInMs + 5000 - 50, `${waited} ms, told ${reconnectInMs}`);
    // A lease's renewal and a turn of maintenance later, and what a busy machine adds.
    assert.ok(waited < reconnectInMs + 5000 + 8000, `${waited} ms, told ${reconnectInMs}`);
    assert.equal(await isOnline(two, "ann"), false);
  });

  it("does not forget who is expected back when another device leaves", async () => {
    const [one, two] = await nodes(2);
    const watcher = await io(two, "watcher");
    await io(one, "ann", { reconnection: false });
    const second = await io(two, "ann");
    await one.stop();
    second.close();
    await io(two, "marker");
    await watcher.hear("user:online", ({ userId }) => userId === "marker");
    await io(two, "ann");
    await io(two, "later");
    await watcher.hear("user:online", ({ userId }) => userId === "later");
    assert.deepEqual(edges(watcher, "ann"), ["user:online"]);
    // And who is back may leave like everybody else.
    const third = await io(two, "dan");
    third.close();
    await watcher.hear("user:offline", ({ userId }) => userId === "dan", 4500);
  });
});

describe("shedding", { timeout: 180000 }, () => {
  const count = async (node, id) =>
    (await node.api("/v1/nodes")).body.nodes.find(({ nodeId }) => nodeId === id).connections;
  const shed = (node, id, body) =>
    node.api(`/v1/nodes/${id}/shed`, { method: "POST", body });

  it("lets a share of a node's connections go, asked on another node", async () => {
    const [one, two] = await nodes(2, { "server.worker_threads": 2 });
    const clients = await Promise.all(
      Array.from({ length: 20 }, (_, number) => io(one, `u${number}`, { reconnection: false })),
    );
    const polling = { transports: ["polling"], reconnection: false };
    clients.push(...(await Promise.all([20, 21].map((number) => io(one, `u${number}`, polling)))));
    const lives = await Promise.all(Array.from({ length: 8 }, (_, n) => live(one, `l${n}`)));
    const watcher = await io(two, "watcher");
    // Who has said nothing yet is no connection, and does not count.
    const silent = Array.from({ length: 5 }, () => connect(one.port, "127.0.0.1"));
    await Promise.all(silent.map((socket) => once(socket, "connect")));
    await until(async () => (await count(two, "n1")) === 30, "thirty connections");
    const answer = await shed(two, "n1", { share: 0.3, overMs: 1000 });
    assert.equal(answer.status, 202);
    assert.deepEqual(answer.body, { nodeId: "n1", connections: 9, overMs: 1000 });
    await until(async () => (await count(two, "n1")) === 21, "twenty-one connections");
    const everybody = [...clients, ...lives];
    const toldOnes = () => everybody.filter((client) => client.count("server:drain") > 0);
    await until(() => toldOnes().length === 9, "nine are told");
    const told = toldOnes();
    for (const client of lives.filter((client) => told.includes(client))) {
      assert.equal((await client.end()).code, 1001);
      assert.ok(client.heard.find(({ type }) => type === "server:drain").data.reconnectInMs >= 250);
    }
    for (const socket of silent) socket.destroy();
    // The node stays: it takes connections and is ready.
    assert.equal((await one.api("/readyz")).body.status, "ready");
    await io(one, "newcomer");
    // Nobody has gone, for the others.
    await watcher.hear("user:online", ({ userId }) => userId === "newcomer");
    assert.equal(watcher.count("user:offline"), 0);
    assert.equal(await one.metric('heartline_disconnects_total{reason="drained"}'), 9);
  });

  it("lets so many go as are asked for, not all at once", async () => {
    const [one] = await nodes(1);
    const clients = await Promise.all(
      Array.from({ length: 12 }, (_, number) => io(one, `u${number}`, { reconnection: false })),
    );
    const answer = await shed(one, "n1", { connections: 10, overMs: 8000 });
    assert.equal(answer.body.connections, 10);
    const told = () =>
      clients.flatMap(({ heard }) => heard.filter(({ event }) => event === "server:drain"));
    await until(() => told().length === 10, "ten are told");
    const times = told().map(({ at }) => at);
    // Ten moments within eight seconds: that all fall into a fifth of it has chance 10^-5. Who hears
    // of some of them late hears of them closer together.
    assert.ok(Math.max(...times) - Math.min(...times) > 1600, `${times}`);
    await until(async () => (await count(one, "n1")) === 2, "two stay");
  });

  it("refuses what makes no sense, and names it", async () => {
    const [one] = await nodes(1);
    for (const [body, says] of [
      [{}, /share|how many/],
      [{ share: 0 }, /share/],
      [{ share: 1.5 }, /share/],
      [{ connections: 0 }, /connections/],
      [{ share: 0.5, connections: 3 }, /either/],
      [{ share: 0.5, overMs: 4_000_000 }, /overMs/],
      [{ shar: 0.5 }, /did you mean \\?"share/],
    ]) {
      const answer = await shed(one, "n1", body);
      assert.equal(answer.status, 400, JSON.stringify(body));
      assert.match(answer.body.detail, says);
    }
    assert.equal((await shed(one, "nobody", { share: 0.5 })).status, 404);
    const paths = (await one.api("/openapi.json")).body.paths;
    assert.ok(paths["/v1/nodes/{nodeId}/shed"].post.requestBody);
  });
});
