// Three nodes and what they keep together, and what is done to them.
import { ask } from "../e2e/lib/redis.js";
import { BINARY, serve } from "../e2e/lib/server.js";
import { freePort, until } from "../lib/wait.js";
import { Dice } from "./dice.js";
import { STORES, kept, pause } from "./stores.js";

export const NODES = 3;

export class Cluster {
  nodes = [];
  #settings;
  /** One thing at a time is done to the store. */
  #turn = Promise.resolve();

  /** `other`: another build of the binary, which the last node is at first. */
  static async start(topology, settings, { clock, other } = {}) {
    const cluster = new Cluster();
    cluster.store = await STORES[topology].start(NODES, clock);
    cluster.#settings = settings;
    cluster.clock = clock;
    cluster.builds = other ? [BINARY, other] : [BINARY];
    for (let index = 0; index < NODES; index++) {
      const build = other && index === NODES - 1 ? 1 : 0;
      cluster.nodes.push({ index, id: `n${index}`, build, port: await freePort() });
    }
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
    const binary = this.builds[node.build];
    node.process = kept(await serve(set, { port: node.port, patience: 15_000, binary }));
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
    await this.#storeIsWhole();
  }

  async #storeIsWhole() {
    if (this.store.isWhole) await until(() => this.store.isWhole(), "a replica", 30_000);
  }

  /** Those nodes that a roll gives another build, by number: all get the one that not all have. */
  nextToReplace(first) {
    const build = 1 - this.nodes[first].build;
    const order = this.nodes.map((_, index) => (first + index) % NODES);
    return order.filter((index) => this.nodes[index].build !== build);
  }

  async kill() {
    this.isOver = true;
    for (const { process } of this.nodes) await process?.kill();
    await this.store.kill();
  }

  /**
   * Does it, and mends it when its time is over. Says `begins` before the one, and `ends` after the
   * other. What is done to the store waits for what was done to it before.
   */
  async hurt(fault, begins, ends) {
    if (fault.node !== undefined) return this.#hurtNode(fault, begins, ends);
    const before = this.#turn;
    this.#turn = before.catch(() => {}).then(() => this.#hurtStore(fault, begins, ends));
    return this.#turn;
  }

  async #hurtNode({ kind, node: index, ms, late }, begins, ends) {
    const node = this.nodes[index];
    begins();
    if (kind === "cut") {
      this.store.cut(index);
      await pause(ms);
      this.store.heal(index);
    } else if (kind === "slow") {
      this.store.links[index].slow(late);
      await pause(ms);
      this.store.links[index].slow(0);
    } else if (kind === "stop") {
      node.process.child.kill("SIGSTOP");
      await pause(ms);
      node.process.child.kill("SIGCONT");
    } else {
      node.isUp = false;
      await (kind === "kill" ? node.process.kill() : node.process.stop());
      await pause(ms);
      if (kind === "replace") node.build = 1 - node.build;
      await this.#begin(node);
    }
    ends();
  }

  async #hurtStore({ kind, ms, ...rest }, begins, ends) {
    const { store } = this;
    if (/failover|split|shard|handover/.test(kind)) await this.#storeIsWhole();
    begins();
    if (kind === "outage") {
      for (const { index } of this.nodes) store.cut(index);
      await pause(ms);
      for (const { index } of this.nodes) store.heal(index);
    } else if (kind === "stall") {
      store.stall("SIGSTOP");
      await pause(ms);
      store.stall("SIGCONT");
    } else if (kind === "restart") {
      await store.restart(ms);
    } else if (kind === "wipe") {
      await store.wipe();
    } else if (kind === "evict") {
      const keys = (await ask(store.port, "KEYS", "{hl}*")).split("\n").sort();
      const key = new Dice(rest.key).one(keys);
      await ask(store.port, "DEL", key);
      return ends({ key });
    } else if (kind === "failover" || kind === "shard") {
      await store.failover("SIGKILL", kind === "failover");
    } else if (kind === "split") {
      await store.failover("SIGSTOP");
    } else if (kind === "handover") {
      await store.handover();
    } else if (kind === "reshard") {
      await store.reshard(ms);
    } else if (kind === "step") {
      this.clock.step(rest.by);
    }
    ends();
  }
}
