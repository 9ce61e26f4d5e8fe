// The servers that are compared: how each is started, and what it speaks.
import { execFileSync, spawn } from "node:child_process";
import { mkdtempSync, rmSync } from "node:fs";
import { connect } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { freePort } from "../tests/e2e/lib/server.js";

const here = (path) => fileURLToPath(new URL(path, import.meta.url));
export const BINARY = process.env.HEARTLINE_BIN ?? here("../target/release/heartline");
export const SECRET = "a-secret-that-the-benchmarks-alone-use";

// Limits are off, as none of the peers has any; heartbeats, registry, presence
// and metrics are on, as they always are.
const OFF = ["limits.messages=off", "limits.events=off", "limits.joins=off", "limits.connects_per_ip=off"];

/** A certificate for this run, made when it is first asked for. */
let made;
export function certificate() {
  if (made) return made;
  const folder = mkdtempSync(join(tmpdir(), "heartline-bench-"));
  process.on("exit", () => rmSync(folder, { recursive: true }));
  const [cert, key] = ["cert.pem", "key.pem"].map((name) => join(folder, name));
  const kind = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"];
  const files = ["-keyout", key, "-out", cert];
  const args = ["req", "-x509", ...kind, "-days", "1", "-subj", "/CN=localhost", ...files];
  execFileSync("openssl", args, { stdio: "ignore" });
  return (made = { cert, key });
}

const encrypted = (tls) =>
  tls ? [`server.tls.cert=${certificate().cert}`, `server.tls.key=${certificate().key}`] : [];

/** Heartline as shipped. `announce` is off: the other servers know no presence. */
const heartline = (threads, set = [], binary = BINARY) => (port, admin) => [
  binary, "serve",
  ...[`server.listen=0.0.0.0:${port}`, `admin.listen=127.0.0.1:${admin}`, `server.worker_threads=${threads}`,
    `auth.jwt.secret=${SECRET}`, "auth.mode=optional", "presence.announce=off", "log.level=warn",
    "store.url=memory:", ...OFF, ...set,
  ].flatMap((pair) => ["--set", pair]),
];

/** A smoke run takes what the tests have built: its figures are nobody's. */
const ECHO = here(`../target/${process.env.QUICK ? "debug" : "release"}/examples/echo`);
const echo = (threads, program = ECHO) => (port) =>
  [program, "--listen", `0.0.0.0:${port}`, "--threads", `${threads}`];
const bun = (port) => [here("peers/bun/node_modules/.bin/bun"), here("peers/bun/server.js"), `${port}`];
const uws = (port) => [here("peers/uws/target/bench-peer-uws"), `${port}`];
const node = (port) => ["node", here("peers/node/server.js"), `${port}`];
const socketioxide = (port) => [here("peers/socketioxide/target/release/bench-peer-socketioxide"), `${port}`];
const bare = (port) => [here("peers/bare/target/release/bench-peer-bare"), `${port}`];

/** By key: a name, a protocol, and the command for everything but `echo`. */
export const PEERS = {
  live: { name: "Heartline, live", protocol: "live", command: heartline(1), echo: echo(1), ours: true },
  socketio: { name: "Heartline, Socket.IO", protocol: "socketio", command: heartline(1), echo: echo(1), ours: true },
  bunLive: { name: "Bun, the same JSON", protocol: "live", command: bun },
  bun: { name: "Bun, plain frames", protocol: "raw", command: bun },
  uws: { name: "uWebSockets in C++, plain frames", protocol: "raw", command: uws },
  node: { name: "Socket.IO on Node", protocol: "socketio", command: node },
  socketioxide: { name: "socketioxide", protocol: "socketio", command: socketioxide },
  bare: { name: "bare loop", protocol: "raw", command: bare },
};

/** Heartline as an earlier build has it, in a folder like `target/release`. */
export function before(key, folder, { threads = 1, set = [], tls } = {}) {
  return {
    ...PEERS[key],
    name: `${PEERS[key].name}, before`,
    command: heartline(threads, [...set, ...encrypted(tls)], `${folder}/heartline`),
    echo: echo(threads, `${folder}/examples/echo`),
  };
}

/** Heartline with its own variations. */
export const variant = (key, { threads = 1, set = [], tls }) => ({
  ...PEERS[key],
  command: heartline(threads, [...set, ...encrypted(tls)]),
  echo: echo(threads),
});

const listens = (port) =>
  new Promise((resolve) => {
    const socket = connect({ port, host: "127.0.0.1" }, () => resolve(true));
    socket.on("error", () => resolve(false));
    socket.on("connect", () => socket.destroy());
  });

/** Starts a server, pinned to `cpu` where there is one to spare. */
export async function start(command, { cpu, pingInterval, tls } = {}) {
  const port = await freePort();
  const pin = cpu === undefined ? [] : ["taskset", "-c", `${cpu}`];
  const [program, ...args] = [...pin, ...command(port, await freePort())];
  const child = spawn(program, args, {
    stdio: ["ignore", "ignore", "pipe"],
    env: {
      ...process.env,
      ...(pingInterval && { PING_INTERVAL_MS: `${pingInterval}` }),
      ...(tls && { TLS_CERT: certificate().cert, TLS_KEY: certificate().key }),
    },
  });
  let log = "";
  child.stderr.on("data", (data) => (log += data));
  let ended = false;
  const exit = new Promise((resolve) => {
    child.on("error", (error) => (log += error.message));
    child.on("close", () => resolve((ended = true)));
  });
  for (const end = Date.now() + 60_000; ; ) {
    if ((await listens(port)) && !ended) break;
    if (ended || Date.now() > end) throw new Error(`${program} ${args.join(" ")} does not listen: ${log}`);
    await new Promise((resolve) => setTimeout(resolve, 25));
  }
  return {
    port,
    url: `${tls ? "https" : "http"}://127.0.0.1:${port}`,
    // taskset becomes the program.
    pid: child.pid,
    async stop() {
      child.kill("SIGKILL");
      await exit;
    },
  };
}
