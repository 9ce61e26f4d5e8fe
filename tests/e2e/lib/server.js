// Runs the release binary on free ports, and asks its API.
import { spawn } from "node:child_process";
import { once } from "node:events";
import { createHmac } from "node:crypto";
import { mkdtemp, readFile, readdir, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join, resolve } from "node:path";
import { fileURLToPath } from "node:url";
import { PATIENCE, freePort, until, within } from "../../lib/wait.js";

export { PATIENCE, freePort, until, within };

/** What a busy machine may add to a time that is promised, milliseconds. */
export const SLACK = 5000;

export const BINARY =
  (process.env.HEARTLINE_BIN && resolve(process.env.HEARTLINE_BIN)) ??
  fileURLToPath(new URL("../../../target/release/heartline", import.meta.url));
export const SECRET = "a-secret-that-these-tests-alone-use";

const part = (value) => Buffer.from(JSON.stringify(value)).toString("base64url");

/** A token; `exp` is an hour away unless given. */
export function token(user, claims = {}, secret = SECRET) {
  const body = { sub: user, exp: Math.floor(Date.now() / 1000) + 3600, ...claims };
  if (user === undefined) delete body.sub;
  const head = `${part({ alg: "HS256", typ: "JWT" })}.${part(body)}`;
  return `${head}.${createHmac("sha256", secret).update(head).digest("base64url")}`;
}

/** Ends all that a test has opened, the newest first, each with `kill`. */
export const killAll = (open) =>
  Promise.all(
    open
      .splice(0)
      .reverse()
      .map((one) => one.kill()),
  );

/** Starts a node; `set` are configuration keys. */
export async function serve(
  set = {},
  { port, dev = false, env = {}, scheme = "http", cwd, patience = PATIENCE, binary = BINARY } = {},
) {
  port ??= await freePort();
  // What a node leaves to the next is in its directory: in none that others have.
  const own = cwd === undefined && set["recovery.window"] !== undefined;
  if (own) cwd = await mkdtemp(join(tmpdir(), "heartline-"));
  const given = {
    "server.listen": `127.0.0.1:${port}`,
    "admin.listen": `127.0.0.1:${await freePort()}`,
    // With --dev the node has a secret of its own, which its page needs.
    ...(dev ? {} : { "auth.jwt.secret": SECRET }),
    "server.allowed_origins": '["http://app.example"]',
    "store.url": "memory:",
    "conversations.access": "open",
    ...set,
  };
  // A key that is given as undefined is left to its default.
  const keys = Object.entries(given).filter(([, value]) => value !== undefined);
  const flags = keys.flatMap(([key, value]) => ["--set", `${key}=${value}`]);
  const child = spawn(binary, ["serve", ...(dev ? ["--dev"] : []), ...flags], {
    stdio: ["ignore", "pipe", "pipe"],
    env: { ...process.env, ...env },
    cwd,
  });
  let log = "",
    out = "";
  child.stderr.on("data", (data) => (log += data));
  child.stdout.on("data", (data) => (out += data));
  const exited = once(child, "exit").then(([code, signal]) => ({ code, signal }));
  // Unless it is to say no more than what is wrong.
  const saysIt = !["warn", "error"].includes(given["log.level"]);
  let ended = false;
  exited.then(() => {
    ended = true;
    if (own) return rm(cwd, { recursive: true, force: true });
  });
  const http = `${scheme}://127.0.0.1:${port}`;
  const admin = `http://127.0.0.1:${given["admin.listen"].split(":").at(-1)}`;
  await until(
    async () => {
      if (ended) throw new Error(`the node ended before it listened: ${log}`);
      if (saysIt && !/\bready\b/.test(log)) return false;
      // The greeting comes by another pipe than the log, and may be read after it.
      if (dev && !out.includes("Ctrl-C stops it.")) return false;
      return fetch(`${http}/healthz`).then(
        (response) => response.ok,
        () => false,
      );
    },
    "the node to be ready",
    patience,
  ).catch((error) => {
    // Nobody else knows of it.
    child.kill("SIGKILL");
    throw error;
  });
  const api = async (path, options = {}) => {
    const body = options.body === undefined ? undefined : JSON.stringify(options.body);
    const headers = { ...(body && { "content-type": "application/json" }), ...options.headers };
    const response = await fetch(admin + path, { ...options, body, headers });
    const text = await response.text();
    return {
      status: response.status,
      headers: response.headers,
      text,
      body: text.startsWith("{") ? JSON.parse(text) : undefined,
    };
  };
  return {
    port,
    http,
    admin,
    api,
    child,
    exited,
    live: `ws://127.0.0.1:${port}/live`,
    get log() {
      return log;
    },
    get out() {
      return out;
    },
    /** The value of a metric's line, labels included in the name, which must be there. */
    async metric(name) {
      const { text } = await api("/metrics");
      const found = text.split("\n").find((line) => line.startsWith(`${name} `));
      if (!found) throw new Error(`there is no metric ${name}`);
      return Number(found.slice(name.length + 1));
    },
    /** Ends the node in good order; its exit code. */
    async stop() {
      child.kill("SIGTERM");
      const { code } = await within(exited, "the node's end");
      return code;
    },
    /** Stops the node where it stands, and resolves when all its threads do; SIGCONT ends it. */
    async freeze() {
      child.kill("SIGSTOP");
      if (process.platform !== "linux") return;
      const threads = `/proc/${child.pid}/task`;
      // The state follows the name, which is in parentheses: proc_pid_stat(5).
      const isStopped = async (thread) =>
        /\) [TZX] [^)]*$/.test(await readFile(`${threads}/${thread}/stat`, "latin1"));
      await until(
        async () => (await Promise.all((await readdir(threads)).map(isStopped))).every(Boolean),
        "the node to stand still",
      );
    },
    async kill() {
      child.kill("SIGKILL");
      await exited;
    },
  };
}
