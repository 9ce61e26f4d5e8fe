// Three nodes and their Redis, and what is done to them.
import { execFile } from "node:child_process";
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { promisify } from "node:util";
import { link, redis, start } from "../e2e/lib/redis.js";
import { serve } from "../e2e/lib/server.js";
import { freePort, until } from "../lib/wait.js";
import { Dice } from "./dice.js";

const run = promisify(execFile);
export const NODES = 3;
const children = new Set();
process.on("exit", () => children.forEach((child) => child.kill("SIGKILL")));
const kept = (started) => {
  children.add(started.child);
  started.child.once("exit", () => children.delete(started.child));
  return started;
};
const pause = (ms) => new Promise((resolve) => setTimeout(resolve, ms));

/** One Redis, and a link to it for each node. */
class Plain {
  static async start(clock) {
    const store = new Plain();
    store.clock = clock;
    store.server = kept(await redis(undefined, [], clock?.env));
    store.port = store.server.port;
    store.cuts = Array(NODES).fill(0);
    store.links = await Promise.all(Array.from({ length: NODES }, () => link(store.port)));
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
      if (port === this.port) return false;
      const role = await ask(port, "ROLE").catch(() => "");
      return role.startsWith("master") && port;
    };
    this.port = await until(isThere, "another master", 20_000);
    if (how === "SIGSTOP") {
      old.child.kill("SIGCONT");
      // Until the Sentinel takes its part away there are two masters.
      const isReplica = async () =>
        (await ask(old.port, "ROLE").catch(() => "")).startsWith("slave");
      await until(isReplica, "the old master is a replica", 40_000);
    } else {
      this.servers = this.servers.filter((one) => one !== old);
      await old.kill();
      this.servers.push(kept(await redis(undefined, replicaOf(this.port))));
    }
  }

  /** Until the next failover is possible. */
  async isWhole() {
    const info = await ask(this.port, "INFO", "replication").catch(() => "");
    return /slave0:.*state=online/.test(info);
  }
}

const replicaOf = (port) => ["--replicaof", "127.0.0.1", `${port}`];

async function ask(port, ...words) {
  const { stdout } = await run("redis-cli", ["-p", `${port}`, ...words], { timeout: 5000 });
  return stdout.trim();
}

export class Cluster {
  nodes = [];
  #settings;

  static async start(topology, settings, clock) {
    const cluster = new Cluster();
    cluster.topology = topology;
    cluster.store = await (topology === "plain" ? Plain.start(clock) : Sentinel.start());
    cluster.#settings = settings;
    cluster.clock = clock;
    for (let index = 0; index < NODES; index++)
      cluster.nodes.push({ index, id: `n${index}`, port: await freePort() });
    await Promise.all(cluster.nodes.map((node) => cluster.#begin(node)));
    return cluster;
  }

  async #begin(node) {
    if (this.isOver) return;
    const set = {
      "server.node_id": node.id,
      "cluster.url": this.store.url(node.index),
      ...this.#settings,
    };
    node.process = kept(await serve(set, { port: node.port, patience: 15_000 }));
    await this.#ready(node, 20_000);
    node.isUp = true;
  }

  async #ready(node, ms) {
    const status = async () =>
      (await node.process.api("/readyz").catch(() => undefined))?.body?.status;
    await until(async () => (await status()) === "ready", `${node.id} is ready`, ms);
  }

  get up() {
    return this.nodes.filter(({ isUp }) => isUp);
  }

  /** Until everything is as it was. */
  async whole() {
    await Promise.all(this.nodes.map((node) => this.#ready(node, 30_000)));
    if (this.store.isWhole) await until(() => this.store.isWhole(), "a replica", 20_000);
  }

  async kill() {
    this.isOver = true;
    for (const { process } of this.nodes) await process?.kill();
    await this.store.kill();
  }

  /** Does it, and mends it when its time is over. Says `begins` before the one, and `ends` after the other. */
  async hurt({ kind, node: index, ms, ...rest }, begins, ends) {
    const node = this.nodes[index];
    begins();
    if (kind === "cut") {
      this.store.cut(index);
      await pause(ms);
      this.store.heal(index);
    } else if (kind === "slow") {
      this.store.links[index].slow(rest.late);
      await pause(ms);
      this.store.links[index].slow(0);
    } else if (kind === "stop") {
      node.process.child.kill("SIGSTOP");
      await pause(ms);
      node.process.child.kill("SIGCONT");
    } else if (kind === "kill" || kind === "drain") {
      node.isUp = false;
      await (kind === "kill" ? node.process.kill() : node.process.stop());
      await pause(ms);
      await this.#begin(node);
    } else if (kind === "outage") {
      for (const { index } of this.nodes) this.store.cut(index);
      await pause(ms);
      for (const { index } of this.nodes) this.store.heal(index);
    } else if (kind === "stall") {
      this.store.stall("SIGSTOP");
      await pause(ms);
      this.store.stall("SIGCONT");
    } else if (kind === "restart") {
      await this.store.restart(ms);
    } else if (kind === "wipe") {
      await ask(this.store.port, "FLUSHALL");
    } else if (kind === "evict") {
      const keys = (await ask(this.store.port, "KEYS", "{hl}*")).split("\n").sort();
      const key = new Dice(rest.key).one(keys);
      await ask(this.store.port, "DEL", key);
      ends({ key });
      return;
    } else if (kind === "failover") {
      await this.store.failover("SIGKILL");
    } else if (kind === "split") {
      await this.store.failover("SIGSTOP");
    } else if (kind === "step") {
      this.clock.step(rest.by);
    }
    ends();
  }
}
