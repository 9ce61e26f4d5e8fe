// The kinds of Redis that `cluster.url` can name.
import assert from "node:assert/strict";
import { execFileSync } from "node:child_process";
import { readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { afterEach, describe, it } from "node:test";
import { Live, socketIo } from "./lib/clients.js";
import { ask, clusterUrl, moveSlot, redis, redisCluster, start } from "./lib/redis.js";
import { PATIENCE, freePort, serve, token, until } from "./lib/server.js";

const open = [];
afterEach(async () => {
  for (const one of open.splice(0).reverse()) await one.kill();
});
const keep = (one) => (open.push(one), one);

const ready = (node) =>
  until(
    async () => (await node.api("/readyz")).body.status === "ready",
    "the node is ready",
    30000,
  );

/** Two nodes that share `url` are one gateway. Gives a check that can be repeated. */
async function oneGateway(url, { env } = {}) {
  const set = { "cluster.url": url, "cluster.lease_ttl": "6s", "cluster.lease_refresh": "1s" };
  const nodes = await Promise.all(
    ["n1", "n2"].map((id) => serve({ ...set, "server.node_id": id }, { env })),
  );
  nodes.forEach(keep);
  await Promise.all(nodes.map(ready));
  const ann = await socketIo(nodes[0].http, {
    auth: { token: token("ann") },
    transports: ["websocket"],
  }).connection();
  keep({ kill: () => ann.close() });
  const bob = await Live.connect(nodes[1].live, token("bob"));
  keep({ kill: () => bob.close() });
  await ann.hear("user:online", (user) => user.userId === "bob");
  let turn = 0;
  const check = async () => {
    const room = `room${++turn}`;
    await ann.ask("join", { room });
    await bob.ask({ type: "subscribe", topic: room });
    await ann.ask("publish", { room, event: `to-${room}`, data: 1 });
    await bob.ask({ type: "publish", topic: room, event: `from-${room}`, data: 2 });
    await Promise.all([bob.hear(`to-${room}`), ann.hear(`from-${room}`)]);
    const { body } = await nodes[1].api("/v1/users/ann/emit", {
      method: "POST",
      body: { event: `mail-${room}` },
    });
    assert.equal(body.delivered, 1);
    await ann.hear(`mail-${room}`);
    const { users } = (
      await nodes[1].api("/v1/presence", {
        method: "POST",
        body: { users: ["ann", "bob", "nobody"] },
      })
    ).body;
    assert.deepEqual(
      users.map((user) => [user.online, user.stale]),
      [
        [true, undefined],
        [true, undefined],
        [false, undefined],
      ],
    );
  };
  await check();
  return { nodes, check, ann, bob };
}

describe("cluster.url", { timeout: 180000 }, () => {
  it("names a server with a password and a database", async () => {
    const store = keep(
      await redis(undefined, [
        "--user",
        "hl",
        "on",
        ">s3cr%t",
        "~*",
        "&*",
        "+@all",
        "--user",
        "default",
        "off",
      ]),
    );
    const { nodes } = await oneGateway(`redis://hl:s3cr%25t@127.0.0.1:${store.port}/3`);
    assert.ok(nodes.every((node) => !node.log.includes("s3cr")));
  });

  it("needs no more of a user of Redis than the documentation gives it", async () => {
    const page = readFileSync(new URL("../../docs/cluster.md", import.meta.url), "utf8");
    const rules = page
      .match(/^ACL SETUSER heartline (.*?)$/ms)[1]
      .replace("PASSWORD", "secret")
      .split(" ");
    const user = ["--user", "heartline", ...rules];
    const store = keep(await redis(undefined, user));
    const { nodes } = await oneGateway(`redis://heartline:secret@127.0.0.1:${store.port}`);
    for (const node of nodes) assert.doesNotMatch(node.log, /NOPERM|permission/);
    const denied = execFileSync("redis-cli", ["-p", `${store.port}`, "ACL", "LOG"]).toString();
    assert.equal(denied.trim(), "");
  });

  it("is refused at the start where it cannot work, with a sentence that says why", async () => {
    const master = keep(await redis());
    const replica = keep(await redis(undefined, ["--replicaof", "127.0.0.1", `${master.port}`]));
    await assert.rejects(serve({ "cluster.url": replica.url }), /is a replica, which takes no/);
    const port = `${await freePort()}`;
    const cluster = ["--cluster-enabled", "yes", "--cluster-port", port];
    const { url } = keep(await redis(undefined, cluster));
    await assert.rejects(serve({ "cluster.url": url }), /is one of a Redis Cluster: write redis\+/);
  });

  it("may be full: presence goes on", async () => {
    const full = ["--maxmemory", "8mb", "--maxmemory-policy", "noeviction"];
    const store = keep(await redis(undefined, full));
    const { nodes, check } = await oneGateway(store.url);
    const cli = (...args) => execFileSync("redis-cli", ["-p", `${store.port}`, ...args]).toString();
    for (let turn = 0; !/OOM/.test(cli("SETRANGE", `filler${turn}`, "100000", "x")); turn++);
    await check();
    // The lease of 6 s is renewed, or it ends.
    const ended = Date.now() + 7000;
    await until(() => Date.now() > ended, "more than a lease has passed");
    for (const node of nodes)
      assert.equal(await node.metric("heartline_cluster_incarnations_total"), 1);
    await check();
    for (const node of nodes) assert.equal((await node.api("/readyz")).body.status, "ready");
  });

  it("names a server that speaks TLS", async () => {
    const port = await freePort();
    const made = keep(await redis());
    const run = (...args) => execFileSync("openssl", args, { cwd: made.folder, stdio: "ignore" });
    run(
      "req",
      "-x509",
      "-newkey",
      "ec",
      "-pkeyopt",
      "ec_paramgen_curve:prime256v1",
      "-nodes",
      "-keyout",
      "ca.key",
      "-out",
      "ca.pem",
      "-days",
      "2",
      "-subj",
      "/CN=test CA",
    );
    run(
      "req",
      "-newkey",
      "ec",
      "-pkeyopt",
      "ec_paramgen_curve:prime256v1",
      "-nodes",
      "-keyout",
      "key.pem",
      "-out",
      "csr.pem",
      "-subj",
      "/CN=localhost",
    );
    writeFileSync(
      join(made.folder, "ext"),
      "subjectAltName=DNS:localhost\nbasicConstraints=CA:FALSE\n",
    );
    run(
      "x509",
      "-req",
      "-in",
      "csr.pem",
      "-CA",
      "ca.pem",
      "-CAkey",
      "ca.key",
      "-CAcreateserial",
      "-out",
      "cert.pem",
      "-days",
      "2",
      "-extfile",
      "ext",
    );
    const file = (name) => join(made.folder, name);
    keep(
      await redis(0, [
        "--tls-port",
        `${port}`,
        "--tls-cert-file",
        file("cert.pem"),
        "--tls-key-file",
        file("key.pem"),
        "--tls-ca-cert-file",
        file("ca.pem"),
        "--tls-auth-clients",
        "no",
      ]),
    );
    await oneGateway(`rediss://localhost:${port}`, { env: { SSL_CERT_FILE: file("ca.pem") } });
  });

  it("names Sentinels, and follows them to another master", async () => {
    const master = keep(await redis());
    keep(await redis(undefined, ["--replicaof", "127.0.0.1", `${master.port}`]));
    const port = await freePort();
    const made = keep(await redis());
    const config = join(made.folder, "sentinel.conf");
    writeFileSync(
      config,
      [
        `port ${port}`,
        "bind 127.0.0.1",
        `sentinel monitor main 127.0.0.1 ${master.port} 1`,
        // It decides when it is told to: a machine that is busy for a while is no dead server.
        "sentinel down-after-milliseconds main 3600000",
        "sentinel failover-timeout main 60000",
        "",
      ].join("\n"),
    );
    keep(await start([config, "--sentinel"], /\+slave slave/));
    const { nodes, check } = await oneGateway(`redis+sentinel://127.0.0.1:${port}/main`);
    await master.kill();
    await until(
      async () => (await nodes[0].api("/readyz")).body.status === "degraded",
      "the master is missed",
      30000,
    );
    const isOrdered = async () => (await ask(port, "SENTINEL", "FAILOVER", "main")) === "OK";
    await until(isOrdered, "the replica takes over", 30000);
    await Promise.all(nodes.map(ready));
    // Until all nodes have said who is there, answers are stale.
    const isKnown = async () => {
      const asked = { method: "POST", body: { users: ["ann"] } };
      return (await nodes[1].api("/v1/presence", asked)).body.users[0].stale === undefined;
    };
    await until(isKnown, "everybody is known again", 30000);
    await check();
  });

  it("names a Redis Cluster", async () => {
    const url = clusterUrl(await redisCluster({ keep }));
    const { check } = await oneGateway(url);
    // Rooms are of all slots.
    for (let turn = 0; turn < 5; turn++) await check();
  });

  it("names a Redis Cluster whose slots move", async () => {
    const servers = await redisCluster({ keep });
    const { check, ann, bob, nodes } = await oneGateway(clusterUrl(servers));
    const { port } = servers[0];
    await ann.ask("join", { room: "moved" });
    await bob.ask({ type: "subscribe", topic: "moved" });
    let turn = 0;
    const isTold = async (ms = 200) => {
      const event = `news-${++turn}`;
      await ann.ask("publish", { room: "moved", event, data: 1 });
      return bob.hear(event, () => true, ms).then(
        () => true,
        () => false,
      );
    };
    assert.ok(await isTold(PATIENCE));
    await moveSlot(port, "hl:r:1:/::moved");
    await until(() => isTold(), "the room is heard at its new place");
    // All that is known of users. Meanwhile nobody writes to the new place what is at the old.
    const isReady = async (node) => (await node.api("/readyz")).body.status === "ready";
    const areReady = async () => (await Promise.all(nodes.map(isReady))).every(Boolean);
    const isNoticed = async () => !(await areReady());
    await moveSlot(port, "{hl}", () => until(isNoticed, "the nodes notice it"));
    const again = async () => (await areReady()) && check().then(() => true, () => false);
    await until(again, "the nodes are one gateway", 60000);
    await check();
    // For longer than a lease.
    const end = Date.now() + 7000;
    await until(() => Date.now() > end, "a lease has passed");
    assert.ok(!ann.heard.some(({ event }) => event === "user:offline"), "nobody was away");
    await check();
  });
});
