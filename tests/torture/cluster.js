// A cluster under torture: three gateways on a Redis with a replica and a Sentinel. Whatever
// client comes, and whatever is published, goes to any of the gateways.
import { writeFileSync } from "node:fs";
import { connect } from "node:net";
import { join } from "node:path";
import { redis, start } from "../e2e/lib/redis.js";
import { freePort, until } from "../e2e/lib/server.js";
import { between, pause, pick } from "./rooms.js";
import { Heartline, living } from "./servers.js";

/** How long a Redis has to be silent before another takes its place, in milliseconds. */
const DOWN_AFTER = 500;

/** Says something to a Redis and gives what it answers at once; `""` if it does not. */
function ask(port, text) {
  return new Promise((resolve) => {
    const socket = connect(port, "127.0.0.1");
    let answer = "";
    const end = () => {
      socket.destroy();
      resolve(answer);
    };
    const late = setTimeout(end, 1000);
    socket.on("data", (data) => {
      answer += data;
      // Lists of connections are long.
      setTimeout(end, 30);
    });
    socket.on("error", () => {});
    socket.on("close", () => {
      clearTimeout(late);
      resolve(answer);
    });
    socket.write(`${text}\r\n`);
  });
}

/** Two Redis, of which one follows the other, and a Sentinel that says which. */
export class Pair {
  async start() {
    living.add(this);
    const first = await redis();
    const second = await redis(undefined, ["--replicaof", "127.0.0.1", `${first.port}`]);
    this.servers = [first, second];
    const port = await freePort();
    const config = join(first.folder, "sentinel.conf");
    const lines = [
      `port ${port}`,
      "bind 127.0.0.1",
      `sentinel monitor main 127.0.0.1 ${first.port} 1`,
      `sentinel down-after-milliseconds main ${DOWN_AFTER}`,
      "sentinel failover-timeout main 3000",
      "",
    ];
    writeFileSync(config, lines.join("\n"));
    this.sentinel = await start([config, "--sentinel"], /\+slave slave/);
    this.sentinelPort = port;
    this.url = `redis+sentinel://127.0.0.1:${port}/main`;
    await until(() => this.follows(this.servers[1]), "the replica follows", 15000);
    return this;
  }

  async follows(server) {
    return /role:slave[^]*master_link_status:up/.test(await ask(server.port, "INFO replication"));
  }

  /** The one that the Sentinel takes for the master, and the other one. */
  async roles() {
    const said = await ask(this.sentinelPort, "SENTINEL get-master-addr-by-name main");
    const [one, two] = this.servers;
    return said.includes(`${two.port}`) ? [two, one] : [one, two];
  }

  /** Breaks each second connection to the master, whosever it is. */
  async breakLinks() {
    const [master] = await this.roles();
    const list = await ask(master.port, "CLIENT LIST");
    const ids = [...list.matchAll(/^id=(\d+).* flags=[NP] /gm)].map(([, id]) => id);
    for (const id of ids.filter(() => Math.random() < 0.5))
      await ask(master.port, `CLIENT KILL ID ${id}`);
  }

  /** The master does nothing for so short a time that it stays the master. */
  async hold() {
    const [master] = await this.roles();
    master.child.kill("SIGSTOP");
    await pause(between(100, DOWN_AFTER * 0.6));
    master.child.kill("SIGCONT");
  }

  /**
   * The replica takes over, without what the master was told last; the master is killed, or
   * stopped and goes on as if it still was the master.
   */
  async failOver() {
    const [master, replica] = await this.roles();
    replica.child.kill("SIGSTOP");
    await pause(between(0, 300));
    const isKilled = Math.random() < 0.5;
    if (isKilled) await master.kill();
    else master.child.kill("SIGSTOP");
    replica.child.kill("SIGCONT");
    const isOver = async () => (await this.roles())[0] === replica;
    await until(isOver, "the other one is the master", 30000);
    await pause(between(0, 500));
    if (isKilled) {
      const args = ["--replicaof", "127.0.0.1", `${replica.port}`];
      this.servers[this.servers.indexOf(master)] = await redis(master.port, args);
    } else {
      master.child.kill("SIGCONT");
    }
    // On a busy machine the Sentinel may have decided once more by then.
    const isPair = async () => this.follows((await this.roles())[1]);
    await until(isPair, "one follows the other", 30000);
  }

  async end() {
    this.sentinel?.child.kill("SIGCONT");
    await this.sentinel?.kill();
    for (const one of this.servers ?? []) {
      one.child.kill("SIGCONT");
      await one.kill();
    }
  }

  discard() {
    for (const one of [this.sentinel, ...(this.servers ?? [])]) one?.child.kill("SIGKILL");
  }
}

/** Three gateways that are one. */
export class Cluster {
  constructor(pair) {
    this.pair = pair;
    this.nodes = [0, 1, 2].map(
      (index) =>
        new Heartline({
          "server.node_id": `n${index}`,
          "cluster.url": pair.url,
          "log.level": "info",
          "cluster.lease_ttl": "3s",
          "cluster.lease_refresh": "1s",
          // What is acknowledged is in Redis: nothing is told to some that others do not hear of.
          "recovery.unreachable": "refuse",
          // More than is said while somebody is away, as far as Redis knows of it.
          "recovery.events": 1024,
        }),
    );
  }

  /** Where the next connection goes. */
  get port() {
    return pick(this.nodes).port;
  }

  get outcomes() {
    const all = new Map();
    for (const node of this.nodes)
      for (const [why, count] of node.outcomes) all.set(why, (all.get(why) ?? 0) + count);
    return all;
  }

  /** What each of them said. */
  get log() {
    return this.nodes.map((node) => node.log.split("\n"));
  }

  get unanswered() {
    return this.nodes.flatMap((node) => node.unanswered);
  }

  /** What all of them answer. */
  ask(path) {
    return Promise.all(this.nodes.map((node) => node.ask(path)));
  }

  async start() {
    await Promise.all(this.nodes.map((node) => node.start()));
    await Promise.all(this.nodes.map((node) => this.isReady(node)));
  }

  isReady({ node }) {
    const ready = async () => (await node.api("/readyz")).body?.status === "ready";
    return until(ready, "the gateway is ready", 20000);
  }

  publish(data) {
    return pick(this.nodes).publish(data);
  }

  async killOne() {
    const node = pick(this.nodes);
    await node.kill();
    await node.start();
  }

  async stopOne() {
    const node = pick(this.nodes);
    node.signal("SIGSTOP");
    await pause(between(100, 6000));
    node.signal("SIGCONT");
  }

  async end() {
    await Promise.all(this.nodes.map((node) => node.end()));
  }

  discard() {
    for (const node of this.nodes) node.discard();
  }
}

/** What is done to it, and how often of all. */
export const HURTS = [
  ["kill -9", 8, (cluster) => cluster.killOne()],
  ["SIGSTOP", 1, (cluster) => cluster.stopOne()],
  ["links of Redis", 3, ({ pair }) => pair.breakLinks()],
  ["SIGSTOP of Redis", 2, ({ pair }) => pair.hold()],
  ["failover", 1, ({ pair }) => pair.failOver()],
];
