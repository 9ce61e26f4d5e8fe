// A Redis of a test's own, or a Redis Cluster, and a link to it that can be cut.
import { execFile, spawn } from "node:child_process";
import { once } from "node:events";
import { mkdtempSync, rmSync } from "node:fs";
import { connect, createServer } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { promisify } from "node:util";
import { freePort, until } from "./server.js";

const run = promisify(execFile);

/** What the server on a port answers to a command. */
export async function ask(port, ...words) {
  const { stdout } = await run("redis-cli", ["-p", `${port}`, ...words], { timeout: 60_000 });
  return stdout.trim();
}

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
  await until(isReady, "redis-server is ready").catch((error) => {
    // Nobody else knows of it.
    child.kill("SIGKILL");
    rmSync(folder, { recursive: true, force: true });
    throw error;
  });
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
 * A server that may become a part of a Redis Cluster; `bus` is its port for others. `patience` is
 * its `cluster-node-timeout`: who stands still for as long is taken for gone.
 */
export async function clusterServer(patience = 15_000) {
  // The bus has a port of its own, ten thousand above by default.
  const bus = await freePort();
  const args = ["--cluster-enabled", "yes", "--cluster-node-timeout", `${patience}`];
  return { ...(await redis(undefined, [...args, "--cluster-port", `${bus}`])), bus };
}

/** A Redis Cluster of three masters, with a replica each if `replicas` is 1: its servers. */
export async function redisCluster({ replicas = 0, patience, keep = (server) => server } = {}) {
  const servers = [];
  for (let index = 0; index < 3 * (1 + replicas); index++)
    servers.push(keep(await clusterServer(patience)));
  const hosts = servers.map(({ port }) => `127.0.0.1:${port}`);
  const many = ["--cluster-replicas", `${replicas}`, "--cluster-yes"];
  await run("redis-cli", ["--cluster", "create", ...hosts, ...many], { timeout: 60_000 });
  return servers;
}

/** As `cluster.url` names it. */
export const clusterUrl = (servers) =>
  `redis+cluster://${servers.map(({ port }) => `127.0.0.1:${port}`).join(",")}`;

/** The servers of a Redis Cluster as the one on a port knows them. */
export async function clusterNodes(port) {
  const lines = (await ask(port, "CLUSTER", "NODES")).split("\n");
  return lines.map((line) => {
    const [id, address, flags, master, , , , , ...slots] = line.split(" ");
    const isMaster = flags.includes("master") && !flags.includes("fail");
    const ranges = slots.map((range) => range.split("-").map(Number));
    const owns = (slot) => ranges.some(([from, to = from]) => from <= slot && slot <= to);
    return { id, port: Number(address.match(/:(\d+)@/)[1]), isMaster, master, owns };
  });
}

/** The master of the slot of a key, or of a sharded channel. */
export async function masterOf(port, key) {
  const slot = Number(await ask(port, "CLUSTER", "KEYSLOT", key));
  const nodes = await clusterNodes(port);
  return nodes.find(({ isMaster, owns }) => isMaster && owns(slot));
}

/** Moves the slot of a key or a sharded channel to another master, as resharding does. */
export async function moveSlot(port, key, underWay = async () => {}) {
  const slot = await ask(port, "CLUSTER", "KEYSLOT", key);
  const from = await masterOf(port, key);
  const masters = (await clusterNodes(port)).filter(({ isMaster }) => isMaster);
  const to = masters.find(({ id }) => id !== from.id);
  await ask(to.port, "CLUSTER", "SETSLOT", slot, "IMPORTING", from.id);
  await ask(from.port, "CLUSTER", "SETSLOT", slot, "MIGRATING", to.id);
  await underWay();
  for (;;) {
    const keys = await ask(from.port, "CLUSTER", "GETKEYSINSLOT", slot, "100");
    if (keys === "") break;
    const all = ["KEYS", ...keys.split("\n")];
    await ask(from.port, "MIGRATE", "127.0.0.1", `${to.port}`, "", "0", "5000", ...all);
  }
  for (const one of [to, from, ...masters])
    await ask(one.port, "CLUSTER", "SETSLOT", slot, "NODE", to.id);
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
