// Starts an example server on a free port, and speaks to it by hand.
import { spawn } from "node:child_process";
import { once } from "node:events";
import { fileURLToPath } from "node:url";
import WebSocket from "ws";
import { freePort, until, within } from "../lib/wait.js";

export { until, within };

// The defaults, milliseconds. Together they are longer than a test waits for anything: no silence
// ends the session of a client that is held up, nor a connection that something else is to end.
export const INTERVAL = 25_000;
export const TIMEOUT = 20_000;
export const MAX_PAYLOAD = 1_000_000;

/**
 * How much later than promised a busy machine may bring what has its time, milliseconds. The times
 * of a test that looks at the clock are not shorter, so that one of them that is waited for twice
 * is told from a delay.
 */
export const LATE = 2000;

/** Starts `name` from the release examples; `stop()` ends it. */
export async function start(name, extra = []) {
  const folder =
    process.env.EXAMPLES ??
    fileURLToPath(new URL("../../target/release/examples", import.meta.url));
  const port = await freePort();
  const flags = ["--listen", `127.0.0.1:${port}`];
  flags.push("--max-payload", String(MAX_PAYLOAD), ...extra);
  const child = spawn(`${folder}/${name}`, flags, { stdio: ["ignore", "pipe", "inherit"] });
  const exited = once(child, "exit");
  await Promise.race([
    once(child.stdout, "data"),
    exited.then(([code]) =>
      Promise.reject(new Error(`${name} ended with ${code} before it listened`)),
    ),
  ]);
  return {
    http: `http://127.0.0.1:${port}`,
    ws: `ws://127.0.0.1:${port}`,
    port,
    async stop() {
      child.kill("SIGKILL");
      await exited;
    },
  };
}

/** A WebSocket whose messages can be awaited one after the other. */
export class Socket {
  constructor(url, options) {
    this.ws = new WebSocket(url, options);
    this.messages = [];
    this.waiting = [];
    this.closed = new Promise((resolve) => {
      this.ws.on("close", (code, reason) => resolve({ code, reason: reason.toString() }));
    });
    this.ws.on("error", (error) => (this.error = error));
    this.opened = new Promise((resolve, reject) => {
      this.ws.on("open", resolve);
      this.ws.on("error", reject);
    });
    this.opened.catch(() => {});
    this.ws.on("message", (data, binary) => {
      const message = binary ? data : data.toString();
      const next = this.waiting.shift();
      if (next) next(message);
      else this.messages.push(message);
    });
  }

  send(message) {
    this.ws.send(message);
  }

  /** The next message, whatever it is. */
  next(ms) {
    if (this.messages.length > 0) return Promise.resolve(this.messages.shift());
    return within(new Promise((resolve) => this.waiting.push(resolve)), "message", ms);
  }

  /** The next message but pings, which are answered. */
  async say(ms) {
    for (;;) {
      const message = await this.next(ms);
      if (message !== "2") return message;
      this.send("3");
    }
  }

  /** Resolves when the server has ended the connection. */
  end(ms) {
    return within(this.closed, "close", ms);
  }

  terminate() {
    this.ws.terminate();
  }
}
