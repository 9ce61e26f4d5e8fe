// What clients watch: whoever is told that a picture is complete is told the truth.
import assert from "node:assert/strict";
import { after, afterEach, before, describe, it } from "node:test";
import { Live, socketIo } from "./lib/clients.js";
import { redis } from "./lib/redis.js";
import { PATIENCE, killAll, serve, token, until } from "./lib/server.js";

const LEASE = 3000;
const LEASES = { "cluster.lease_ttl": "3s", "cluster.lease_refresh": "1s" };

const open = [];
afterEach(() => killAll(open));

async function start(set = {}) {
  const node = await serve(set);
  open.push(node);
  return node;
}
async function io(node, user, claims = {}) {
  const auth = { token: token(user, claims) };
  const client = socketIo(node.http, { auth, transports: ["websocket"] });
  open.push({ kill: () => client.close() });
  return client.connection();
}
async function live(node, user) {
  const client = await Live.connect(node.live, token(user));
  open.push({ kill: () => client.close() });
  return client;
}

/** A picture of what a client watches, by the rules of docs/clients.md. */
async function watch(client, what) {
  const { epoch, rev, users, stale } = await client.ask("presence:watch", what);
  const picture = { rev, stale: !!stale, users: new Map(), holes: 0, ended: undefined };
  for (const user of users) picture.users.set(user.userId, user);
  let told = 0;
  const take = () => {
    const changes = client.heard.filter(({ event }) => event === "presence:change");
    for (const { args } of changes.slice(told)) {
      told++;
      const [change] = args;
      if (change.epoch !== epoch) continue;
      if (change.ended) {
        picture.ended = change.ended;
        continue;
      }
      if (change.rev !== picture.rev + 1) picture.holes++;
      picture.rev = change.rev;
      picture.stale = !!change.stale;
      for (const user of change.users) {
        if (user.in === false) picture.users.delete(user.userId);
        else picture.users.set(user.userId, user);
      }
    }
    return picture;
  };
  const online = () =>
    [...take().users.values()]
      .filter(({ online }) => online)
      .map(({ userId }) => userId)
      .sort();
  const becomes = (names, ms = PATIENCE) =>
    until(() => `${online()}` === `${names}`, `${names} are online, not ${online()}`, ms);
  return { take, online, becomes, epoch };
}

describe("presence that is watched on one node", { timeout: 180000 }, () => {
  it("is a picture and changes without a hole, of users and of a room", async () => {
    const node = await start();
    const ann = await io(node, "ann"),
      bob = await io(node, "bob");
    for (const client of [ann, bob]) await client.ask("join", { room: "r" });
    const users = await watch(ann, { users: ["bob", "cid"] }),
      room = await watch(ann, { room: "r" });
    assert.deepEqual([users.online(), room.online()], [["bob"], ["ann", "bob"]]);
    const cid = await live(node, "cid");
    await cid.ask({ type: "subscribe", topic: "r" });
    await Promise.all([users.becomes(["bob", "cid"]), room.becomes(["ann", "bob", "cid"])]);
    bob.close();
    await Promise.all([users.becomes(["cid"]), room.becomes(["ann", "cid"])]);
    await cid.ask({ type: "unsubscribe", topic: "r" });
    await room.becomes(["ann"]);
    for (const { take } of [users, room]) {
      const { holes, stale, rev } = take();
      assert.deepEqual([holes, stale], [0, false]);
      assert.ok(rev >= 2);
    }
    await ann.ask("leave", { room: "r" });
    await until(() => room.take().ended === "LEFT", "the watch ends with the room");
  });

  it("orders users' changes by rev, also over a restart of the node", async () => {
    const node = await start();
    const ann = await io(node, "ann"),
      bob = await io(node, "bob");
    const { rev } = await ann.hear("user:online", ({ userId }) => userId === "bob");
    bob.close();
    const gone = await ann.hear("user:offline", ({ userId }) => userId === "bob");
    assert.ok(gone.rev > rev);
    const asked = await ann.ask("presence:get", { users: ["bob"] });
    assert.equal(asked.users[0].rev, gone.rev);
    assert.ok(Math.abs(asked.asOf - Date.now()) < 30000);
    await node.kill();
    const again = await start();
    const eve = await io(again, "eve");
    await io(again, "bob");
    const back = await eve.hear("user:online", ({ userId }) => userId === "bob");
    assert.ok(back.rev > gone.rev);
  });

  it("is of one's own tenant alone, and a room's only for who may join it", async () => {
    const node = await start();
    const ann = await io(node, "ann", { tenantId: "t1", rooms: ["a"] });
    await io(node, "bob", { tenantId: "t2" });
    const users = await watch(ann, { users: ["bob"] });
    const room = await watch(ann, { room: "a" });
    assert.equal((await ann.ask("presence:watch", { room: "b" })).code, "FORBIDDEN");
    const other = await io(node, "cid", { tenantId: "t2" });
    await other.ask("join", { room: "a" });
    const own = await io(node, "dan", { tenantId: "t1" });
    await own.ask("join", { room: "a" });
    await room.becomes(["dan"]);
    assert.deepEqual(users.online(), []);
  });
});

describe("presence that is watched on two nodes", { timeout: 240000 }, () => {
  let store;
  before(async () => (store = await redis()));
  after(() => store.kill());

  it("is right after kill -9 of the other one, with consecutive numbers throughout", async () => {
    const cluster = { "cluster.url": store.url, ...LEASES };
    const [one, two] = await Promise.all(
      ["n1", "n2"].map((id) => start({ "server.node_id": id, ...cluster })),
    );
    const ready = async (node) => (await node.api("/readyz")).body?.status === "ready";
    for (const node of [one, two]) await until(() => ready(node), "the node is ready");
    const ann = await io(one, "ann"),
      bob = await io(two, "bob");
    for (const client of [ann, bob]) await client.ask("join", { room: "r" });
    const users = await watch(ann, { users: ["bob", "cid", "dan"] }),
      room = await watch(ann, { room: "r" });
    await Promise.all([users.becomes(["bob"]), room.becomes(["ann", "bob"])]);
    await until(() => !room.take().stale, "the room's picture is complete");
    const cid = await live(two, "cid");
    await cid.ask({ type: "subscribe", topic: "r" });
    await Promise.all([users.becomes(["bob", "cid"]), room.becomes(["ann", "bob", "cid"])]);
    // One of them is here as well, and stays.
    const here = await io(one, "cid");
    const dan = await io(two, "dan");
    await dan.ask("join", { room: "r" });
    await room.becomes(["ann", "bob", "cid", "dan"]);
    dan.close();
    await Promise.all([users.becomes(["bob", "cid"]), room.becomes(["ann", "bob", "cid"])]);
    await two.kill();
    await users.becomes(["cid"]);
    await until(() => !room.online().includes("bob"), "bob is out of the room");
    assert.ok(here.connected);
    // A node that comes after the watch began is asked as well.
    const three = await start({ "server.node_id": "n3", ...cluster });
    await until(() => ready(three), "the node is ready");
    const eve = await io(three, "eve");
    await eve.ask("join", { room: "r" });
    await until(() => room.online().includes("eve"), "eve is in the room");
    await until(() => !users.take().stale, "the users' picture is complete");
    assert.deepEqual([users.take().holes, room.take().holes], [0, 0]);
  });

  it("is stale while Redis is away, except for who is on this very node", async () => {
    const own = await redis();
    const cluster = { "cluster.url": own.url, ...LEASES };
    const [one, two] = await Promise.all(
      ["n1", "n2"].map((id) => start({ "server.node_id": id, ...cluster })),
    );
    const status = async (node) => (await node.api("/readyz")).body?.status;
    for (const node of [one, two])
      await until(async () => (await status(node)) === "ready", "the node is ready");
    const ann = await io(one, "ann"),
      bob = await io(two, "bob");
    await io(one, "cid");
    const users = await watch(ann, { users: ["bob", "cid"] });
    await users.becomes(["bob", "cid"]);
    await until(() => !users.take().stale, "it is certain");
    const before = await ann.ask("presence:get", { users: ["bob", "cid", "ann"] });
    await own.kill();
    await until(() => users.take().stale, "it is stale");
    const asked = await ann.ask("presence:get", { users: ["bob", "cid"] });
    assert.equal(asked.users[1].online, true);
    assert.ok(asked.users.every(({ stale }) => stale));
    // A question says what the picture does, and so does the API; and nothing goes back.
    const watched = await ann.ask("presence:watch", { users: ["ann", "bob"] });
    const get = await ann.ask("presence:get", { users: ["ann", "bob"] });
    const told = ({ users }) =>
      users.map(({ userId, online, rev }) => [userId, online, rev]).sort(([a], [b]) => (a < b ? -1 : 1));
    assert.deepEqual(told(get), told(watched));
    assert.ok(told(get).every(([, online, rev]) => online && rev > 0), JSON.stringify(get));
    const { body } = await one.api("/v1/users/bob/presence");
    assert.deepEqual(told({ users: [body] }), told(get).slice(1));
    for (const { asOf } of [watched, get, body]) assert.equal(asOf, asked.asOf);
    assert.ok(before.asOf <= asked.asOf && asked.asOf <= Date.now());
    bob.close();
    const again = await redis(own.port);
    open.push(again);
    await until(() => !users.take().stale, "it is complete again", 10 * LEASE);
    await users.becomes(["cid"]);
    assert.equal(users.take().holes, 0);
  });
});
