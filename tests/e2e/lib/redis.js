// A Redis of a test's own, and a link to it that can be cut.
import { spawn } from "node:child_process";
import { once } from "node:events";
import { mkdtempSync, rmSync } from "node:fs";
import { connect, createServer } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { freePort, until } from "./server.js";

/** Starts a Redis that keeps nothing on disk. `args` are for its command line. */
export async function redis(port, args = [], env = {}) {
  port ??= await freePort();
  const given = [
    "--port",
    `${port}`,
    "--bind",
    "127.0.0.1",
    "--save",
    "",
    "--appendonly",
    "no",
    ...args,
  ];
  return {
    ...(await start(given, /Ready to accept connections/, env)),
    port,
    url: `redis://127.0.0.1:${port}`,
  };
}

/** Starts `redis-server` in a folder of its own and waits for a line of its log. */
export async function start(args, ready, env = {}) {
  const folder = mkdtempSync(join(tmpdir(), "heartline-redis-"));
  const child = spawn("redis-server", args, {
    cwd: folder,
    stdio: ["ignore", "pipe", "inherit"],
    env: { ...process.env, ...env },
  });
  let log = "",
    failure;
  child.on("error", (error) => (failure = error));
  child.stdout.on("data", (data) => (log += data));
  const exited = once(child, "exit");
  exited.catch(() => {});
  const isReady = () => {
    if (failure)
      throw new Error(
        "redis-server is needed for these tests; scripts/install-test-tools installs it: " +
          failure.message,
      );
    if (child.exitCode !== null) throw new Error(`redis-server ended: ${log}`);
    return ready.test(log);
  };
  await until(isReady, "redis-server is ready", 10000);
  return {
    child,
    folder,
    async kill() {
      if (child.exitCode === null && child.signalCode === null) {
        child.kill("SIGKILL");
        await exited;
      }
      rmSync(folder, { recursive: true, force: true });
    },
  };
}

/**
 * A TCP link to a port. While it is cut, nothing gets through and nobody is told; while it is
 * slow, all of it does, so many milliseconds later.
 */
export async function link(target) {
  const pairs = new Set();
  let isCut = false;
  let late = 0;
  const server = createServer((near) => {
    const far = connect(target, "127.0.0.1");
    const pair = [near, far];
    pairs.add(pair);
    const flow = (from, to) => {
      let last = Promise.resolve();
      let waiting = 0;
      const pass = (data) => isCut || to.destroyed || to.write(data);
      from.on("data", (data) => {
        if (late === 0 && waiting === 0) return pass(data);
        // Behind what waits already, whatever that was late by.
        waiting++;
        const passed = new Promise((resolve) => setTimeout(resolve, late));
        last = Promise.all([last, passed]).then(() => {
          waiting--;
          pass(data);
        });
      });
      from.on("error", () => {});
      from.on("close", () => {
        pairs.delete(pair);
        // The end of a connection does not get through either.
        if (!isCut) to.destroy();
      });
    };
    flow(near, far);
    flow(far, near);
  });
  server.listen(0, "127.0.0.1");
  await once(server, "listening");
  const endAll = () => [...pairs].flat().forEach((socket) => socket.destroy());
  return {
    port: server.address().port,
    url: `redis://127.0.0.1:${server.address().port}`,
    cut() {
      isCut = true;
    },
    heal() {
      isCut = false;
      // What was swallowed cannot be made up for: those connections are broken.
      endAll();
    },
    slow(ms) {
      late = ms;
    },
    close() {
      endAll();
      server.close();
    },
  };
}
