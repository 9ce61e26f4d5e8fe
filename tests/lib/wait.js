// Waiting for what must happen, with a deadline; free ports.
import { once } from "node:events";
import { createServer } from "node:net";

// Test files run as processes of their own, and a node binds a port some time after it was chosen,
// or once more after a restart. So each process has a block of ports to itself, below those that
// the system gives to clients, for as long as it listens on the block's first port.
const BLOCK = 250;
// Browsers and fetch refuse 10080, as many below it: https://fetch.spec.whatwg.org/#port-blocking
const [LOWEST, HIGHEST] = [11000, 32000];
let block, next;

const listening = (port) =>
  new Promise((resolve) => {
    const server = createServer().unref();
    server.once("error", () => resolve(undefined));
    server.listen(port, "127.0.0.1", () => resolve(server));
  });

async function claim() {
  for (let first = LOWEST; first + BLOCK <= HIGHEST; first += BLOCK)
    if (await listening(first)) return first;
  throw new Error("no block of ports is free for this process");
}

/** A port of 127.0.0.1 that nobody listens on, and that no other process of the tests takes. */
export async function freePort() {
  const first = await (block ??= claim());
  for (let tries = 1; tries < BLOCK; tries++) {
    next = next === undefined || next + 1 === first + BLOCK ? first + 1 : next + 1;
    const port = next;
    const server = await listening(port);
    if (!server) continue;
    server.close();
    await once(server, "close");
    return port;
  }
  throw new Error(`each port of ${first} to ${first + BLOCK - 1} is taken`);
}

/** How long to wait for what comes soon on any machine that is not busy, milliseconds. */
export const PATIENCE = 30000;

/** Waits until `condition` gives something true, and gives that. */
export async function until(condition, what, ms = PATIENCE) {
  const end = Date.now() + ms;
  for (;;) {
    const value = await condition();
    if (value) return value;
    if (Date.now() > end) throw new Error(`not within ${ms} ms: ${what}`);
    await new Promise((resolve) => setTimeout(resolve, 10));
  }
}

/** A promise that fails when `ms` have passed. */
export function within(promise, what, ms = PATIENCE) {
  let timer;
  const late = new Promise((_, reject) => {
    timer = setTimeout(() => reject(new Error(`not within ${ms} ms: ${what}`)), ms);
  });
  return Promise.race([promise, late]).finally(() => clearTimeout(timer));
}
