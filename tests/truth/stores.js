// What nodes of a cluster keep together, in each of the ways in which Redis is run, and what may be
// done to it.
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import {
  ask,
  clusterNodes,
  clusterServer,
  clusterUrl,
  link,
  masterOf,
  moveSlot,
  redis,
  redisCluster,
  start,
} from "../e2e/lib/redis.js";
import { freePort, until } from "../lib/wait.js";

/** The key that stands for all that nodes know of users: it is in one slot. */
const PRESENCE = "{hl}";
/** `cluster-node-timeout`, in milliseconds: a master that is silent for longer is replaced. */
const PATIENCE = 1000;

const children = new Set();
process.on("exit", () => children.forEach((child) => child.kill("SIGKILL")));
/** What is started here does not outlive this process. */
export const kept = (started) => {
  children.add(started.child);
  started.child.once("exit", () => children.delete(started.child));
  return started;
};
export const pause = (ms) => new Promise((resolve) => setTimeout(resolve, ms));

const role = (port) => ask(port, "ROLE").catch(() => "");

/** One Redis, and a link to it for each node. */
class Plain {
  static async start(nodes, clock) {
    const store = new Plain();
    store.clock = clock;
    store.server = kept(await redis(undefined, [], clock?.env));
    store.port = store.server.port;
    store.cuts = Array(nodes).fill(0);
    store.links = await Promise.all(Array.from({ length: nodes }, () => link(store.port)));
    return store;
  }

  url(node) {
    return this.links[node].url;
  }

  async kill() {
    this.links.forEach((one) => one.close());
    await this.server.kill();
  }

  /** Of two who have cut a link, the last to heal it does. */
  cut(node) {
    this.cuts[node]++;
    this.links[node].cut();
  }

  heal(node) {
    if (--this.cuts[node] === 0) this.links[node].heal();
  }

  async restart(ms) {
    await this.server.kill();
    await pause(ms);
    this.server = kept(await redis(this.port, [], this.clock?.env));
  }

  stall(signal) {
    this.server.child.kill(signal);
  }

  async wipe() {
    await ask(this.port, "FLUSHALL");
  }
}

/** A master, a replica, and a Sentinel who watches them. */
class Sentinel {
  static async start() {
    const store = new Sentinel();
    const master = kept(await redis());
    store.servers = [master, kept(await redis(undefined, replicaOf(master.port)))];
    store.port = master.port;
    store.own = await freePort();
    store.folder = mkdtempSync(join(tmpdir(), "heartline-sentinel-"));
    const config = join(store.folder, "sentinel.conf");
    const lines = [
      `port ${store.own}`,
      "bind 127.0.0.1",
      `sentinel monitor main 127.0.0.1 ${master.port} 1`,
      "sentinel down-after-milliseconds main 500",
      "sentinel failover-timeout main 2000",
    ];
    writeFileSync(config, lines.join("\n") + "\n");
    store.sentinel = kept(await start([config, "--sentinel"], /\+slave slave/));
    return store;
  }

  url() {
    return `redis+sentinel://127.0.0.1:${this.own}/main`;
  }

  async kill() {
    for (const one of [...this.servers, this.sentinel]) await one.kill();
    rmSync(this.folder, { recursive: true, force: true });
  }

  /** Takes the master away, and waits until another one is there. */
  async failover(how) {
    const old = this.servers.find(({ port }) => port === this.port);
    old.child.kill(how);
    const named = () => ask(this.own, "SENTINEL", "GET-MASTER-ADDR-BY-NAME", "main");
    const isThere = async () => {
      const port = Number((await named()).split("\n")[1]);
      return port !== this.port && (await role(port)).startsWith("master") && port;
    };
    this.port = await until(isThere, "another master", 20_000);
    if (how === "SIGSTOP") {
      await wake(old);
    } else {
      this.servers = this.servers.filter((one) => one !== old);
      await old.kill();
      this.servers.push(kept(await redis(undefined, replicaOf(this.port))));
    }
  }

  async wipe() {
    await ask(this.port, "FLUSHALL");
  }

  /** Until the next failover is possible. */
  async isWhole() {
    const info = await ask(this.port, "INFO", "replication").catch(() => "");
    return /slave0:.*state=online/.test(info);
  }
}

const replicaOf = (port) => ["--replicaof", "127.0.0.1", `${port}`];

/** Lets a master go on that was replaced meanwhile, until it knows that. */
async function wake(old) {
  old.child.kill("SIGCONT");
  // Until then there are two masters.
  const isReplica = async () => (await role(old.port)).startsWith("slave");
  await until(isReplica, "the old master is a replica", 40_000);
}

/** A Redis Cluster of three masters with a replica each. */
class Sharded {
  static async start() {
    const store = new Sharded();
    store.servers = await redisCluster({ replicas: 1, patience: PATIENCE, keep: kept });
    await until(() => store.isWhole(), "the Redis Cluster is whole", 30_000);
    await store.look();
    return store;
  }

  url() {
    return clusterUrl(this.servers);
  }

  async kill() {
    for (const one of this.servers) await one.kill();
  }

  /** Finds the master that has what nodes know of users: `port` is its. */
  async look() {
    this.port = (await masterOf(this.servers[0].port, PRESENCE)).port;
  }

  /** Those who are masters, each with its replica. */
  async masters() {
    const all = await clusterNodes(this.port);
    const masters = all.filter(({ isMaster }) => isMaster);
    return masters.map((one) => ({ ...one, replica: all.find(({ master }) => master === one.id) }));
  }

  /** Takes the master of presence away, or one of the others, until its replica has its place. */
  async failover(how, isOfPresence = true) {
    const masters = await this.masters();
    const { id, port, replica } = masters.find((one) => (one.port === this.port) === isOfPresence);
    const old = this.servers.find((one) => one.port === port);
    old.child.kill(how);
    const isThere = async () => (await role(replica.port)).startsWith("master");
    await until(isThere, "another master", 20_000);
    if (isOfPresence) this.port = replica.port;
    if (how === "SIGSTOP") {
      await wake(old);
    } else {
      this.servers = this.servers.filter((one) => one !== old);
      await old.kill();
      await this.join(replica.id, id);
    }
  }

  /** A new server becomes the replica of a master, and one that has died is forgotten. */
  async join(master, dead) {
    const server = kept(await clusterServer(PATIENCE));
    for (const { port } of this.servers) await ask(port, "CLUSTER", "FORGET", dead);
    await ask(this.port, "CLUSTER", "MEET", "127.0.0.1", `${server.port}`, `${server.bus}`);
    this.servers.push(server);
    // It has to have heard of its master first.
    const isReplica = async () => {
      await ask(server.port, "CLUSTER", "REPLICATE", master);
      return (await role(server.port)).startsWith("slave");
    };
    await until(isReplica, "the new server is a replica", 20_000);
  }

  /** The replica takes the master's place, as by hand; nothing is lost. */
  async handover() {
    const own = (await this.masters()).find(({ port }) => port === this.port);
    await ask(own.replica.port, "CLUSTER", "FAILOVER");
    const isThere = async () => (await role(own.replica.port)).startsWith("master");
    await until(isThere, "the replica is the master", 20_000);
    this.port = own.replica.port;
  }

  /** What nodes know of users moves to another master, and is between the two for so long. */
  async reshard(ms) {
    await moveSlot(this.port, PRESENCE, () => pause(ms));
    await this.look();
  }

  async wipe() {
    const masters = await this.masters();
    await Promise.all(masters.map(({ port }) => ask(port, "FLUSHALL")));
  }

  /** Until the next failover is possible: each master has a replica, and all say that all is well. */
  async isWhole() {
    const isWell = async ({ port }) => {
      const [info, own] = await Promise.all([ask(port, "CLUSTER", "INFO"), role(port)]);
      const isLinked = own.startsWith("master") || own.includes("\nconnected\n");
      return info.includes("cluster_state:ok") && isLinked;
    };
    const all = await Promise.all(this.servers.map((one) => isWell(one).catch(() => false)));
    if (!all.every(Boolean)) return false;
    this.port ??= this.servers[0].port;
    return (await this.masters()).every(({ replica }) => replica);
  }
}

export const STORES = { plain: Plain, sentinel: Sentinel, cluster: Sharded };
