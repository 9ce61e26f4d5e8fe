// What is tortured: a gateway, or Socket.IO on Node, on one port over all its lives.
import { spawn } from "node:child_process";
import { once } from "node:events";
import { fileURLToPath } from "node:url";
import { freePort, serve, until, within } from "../e2e/lib/server.js";
import { EVERYBODY } from "../e2e/lib/witness.js";

/** Time between pings, and to answer one, in milliseconds: a stopped cable is noticed soon. */
const PING = { interval: 2000, timeout: 2000 };
/** After so long without a ping a connection is lost, whoever looks. */
export const SILENCE = PING.interval + PING.timeout + 500;

/** How long the answer to a publication may take, milliseconds: more than a gateway is stopped. */
const ANSWER = 20_000;
/** The same of what is only asked to be told of it. */
const WORD = 3000;

const OFF = Object.fromEntries(
  ["messages", "events", "joins", "connects_per_ip"].map((of) => [`limits.${of}`, "off"]),
);

/** What still runs when this process is told to end. */
export const living = new Set();
process.on("exit", () => living.forEach((server) => server.discard()));
for (const signal of ["SIGINT", "SIGTERM"]) process.on(signal, () => process.exit(1));

/** A gateway as it is shipped: what is set is the window, heartbeats, and no limits. */
export class Heartline {
  static title = "Heartline";
  /** Why clients began afresh or went on, over all lives. */
  outcomes = new Map();
  /** Publications that were not answered at all, by a gateway that was not killed meanwhile. */
  unanswered = [];
  /** Its lives, each with the time of its end. */
  #lives = [];
  /** What it said in earlier lives. */
  #said = "";

  constructor(set = {}) {
    this.set = {
      ...OFF,
      "recovery.window": "60s",
      "heartbeat.interval": `${PING.interval}ms`,
      "heartbeat.timeout": `${PING.timeout}ms`,
      "server.drain_timeout": "200ms",
      // As with the others. With hundreds of clients that come and go it is most of all events.
      "presence.announce": "off",
      "log.level": "warn",
      ...set,
    };
  }

  async start() {
    living.add(this);
    this.port ??= await freePort();
    this.node = await serve(this.set, { port: this.port, patience: 30000 });
    this.#lives.push({ name: `${this.set["server.node_id"] ?? "n"}.${this.#lives.length + 1}` });
  }

  /** Says something in its scope: `by` which life it was acknowledged and which `way`, if it was. */
  async publish(data) {
    const life = this.#lives.at(-1);
    const way = wayOf(data);
    const body = { event: "news", data };
    const signal = AbortSignal.timeout(ANSWER);
    try {
      const { status } = await this.node.api(way, { method: "POST", body, signal });
      return status === 200 && { by: life.name, way };
    } catch {
      if (signal.aborted && !life.endAt)
        this.unanswered.push(`${life.name} does not answer within ${ANSWER} ms: ${way}`);
      return false;
    }
  }

  /** What it answers, if it does. */
  ask(path) {
    const answer = this.node.api(path, { signal: AbortSignal.timeout(WORD) });
    return answer.then(
      ({ body, text }) => body ?? text,
      (error) => `${error}`,
    );
  }

  /** Adds up what the metrics of this life say. */
  async count() {
    const text = `${await this.ask("/metrics")}`;
    for (const [, why, count] of text.matchAll(
      /^heartline_resumes_total\{outcome="(\w+)"\} (\d+)/gm,
    ))
      this.outcomes.set(why, (this.outcomes.get(why) ?? 0) + Number(count));
  }

  async kill() {
    // What comes between this and the end is not counted.
    await this.count();
    this.#lives.at(-1).endAt = Date.now();
    await this.node.kill();
    this.#said += this.node.log;
  }

  /** What it said in all lives. */
  get log() {
    return this.#said + (this.node?.log ?? "");
  }

  signal(name) {
    this.node.child.kill(name);
  }

  async end() {
    await this.count();
    const code = await this.node.stop();
    if (code !== 0) throw new Error(`the gateway ended with ${code}: ${this.node.log}`);
  }

  discard() {
    this.node?.child.kill("SIGKILL");
  }
}

/** How a backend says something: to everybody, to a user in one of two ways, or in a room. */
function wayOf({ room, number }) {
  if (room === EVERYBODY) return "/v1/broadcast";
  const [, user] = room.split("user:");
  const isEmit = user !== undefined && number % 2 === 1;
  return isEmit ? `/v1/users/${user}/emit` : `/v1/rooms/${room}/publish`;
}

/** Socket.IO on Node; with a Redis it uses the adapter for streams. */
export class Node {
  outcomes = new Map();

  constructor(redis) {
    this.redis = redis;
  }

  async start() {
    living.add(this);
    this.port ??= await freePort();
    const args = [fileURLToPath(new URL("peer.js", import.meta.url)), `${this.port}`];
    if (this.redis) args.push(this.redis.url);
    this.child = spawn(process.execPath, args, {
      stdio: ["ignore", "ignore", "inherit"],
      env: {
        ...process.env,
        PING_INTERVAL_MS: `${PING.interval}`,
        PING_TIMEOUT_MS: `${PING.timeout}`,
      },
    });
    this.exited = once(this.child, "exit");
    const url = `http://127.0.0.1:${this.port}`;
    const listens = () =>
      fetch(`${url}/healthz`).then(
        () => true,
        () => false,
      );
    await until(listens, "Node listens", 15000);
    this.url = url;
  }

  publish(data) {
    const body = JSON.stringify({ event: "news", data });
    return fetch(`${this.url}/v1/rooms/${data.room}/publish`, { method: "POST", body }).then(
      async (response) => {
        await response.text();
        return response.ok;
      },
      () => false,
    );
  }

  async kill() {
    this.child.kill("SIGKILL");
    await within(this.exited, "Node's end");
  }

  signal(name) {
    this.child.kill(name);
  }

  end() {
    return this.kill();
  }

  discard() {
    this.child?.kill("SIGKILL");
  }
}
