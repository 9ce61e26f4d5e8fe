// What scripts/dist has packed, and the ways to look into it.
import assert from "node:assert/strict";
import { once } from "node:events";
import { spawn, spawnSync } from "node:child_process";
import { mkdtempSync, readdirSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join, relative } from "node:path";
import { fileURLToPath } from "node:url";
import { until, within } from "../lib/wait.js";

export { freePort, until, within } from "../lib/wait.js";

export const ROOT = fileURLToPath(new URL("../..", import.meta.url));
export const DIST = process.env.HEARTLINE_DIST ?? join(ROOT, "target/dist");
export const BINARY = join(DIST, "heartline");
export const SECRET = "a-secret-that-these-tests-alone-use";
export const IS_ROOT = process.getuid() === 0;
/** What stands before a command that has to believe that it is root. */
export const AS_ROOT = IS_ROOT ? [] : ["unshare", "--map-root-user"];

/** Runs a command to its end; its status and what it printed. */
export function run(command, { env = {}, ...options } = {}) {
  const done = spawnSync(command[0], command.slice(1), {
    encoding: "utf8",
    maxBuffer: 1 << 26,
    timeout: 120_000,
    ...options,
    env: { ...process.env, ...env },
  });
  if (done.error && done.error.code !== "ETIMEDOUT") throw done.error;
  return done;
}

/** What a command printed that must succeed. */
export function output(command, options) {
  const { status, stdout, stderr } = run(command, options);
  assert.equal(status, 0, `${command.join(" ")}: ${stdout}${stderr}`);
  return stdout;
}

/**
 * The options of a test that needs a tool, COMMAND or COMMAND=PACKAGE, in a version that `suits`:
 * without it the test is skipped with a word on what to install. Where CI is set nothing may be
 * missing.
 */
export function needs(tool, suits = () => true) {
  const [command, name = command] = tool.split("=");
  // PostgreSQL lies where nobody looks.
  const found = `PATH="$PATH:$(echo /usr/lib/postgresql/*/bin | tr ' ' :)" command -v ${command}`;
  if (run(["sh", "-c", found]).status === 0 && suits()) return {};
  const what = `${command} is missing or too old: apt-get install ${name}`;
  if (process.env.CI) throw new Error(what);
  return { skip: what };
}

/** A folder that is gone when the test is over. */
export function folder(t) {
  const path = mkdtempSync(join(tmpdir(), "heartline-dist-"));
  t.after(() => rmSync(path, { recursive: true, force: true }));
  return path;
}

/** The one file of the packed ones whose name ends so. */
export function packed(ending) {
  const found = readdirSync(DIST).filter((name) => name.endsWith(ending));
  assert.equal(found.length, 1, `one file *${ending} in ${DIST}: ${readdirSync(DIST)}`);
  return join(DIST, found[0]);
}

/** All files and folders below `root`, sorted, as paths from there. */
export function tree(root) {
  return readdirSync(root, { recursive: true, withFileTypes: true })
    .map((entry) => relative(root, join(entry.parentPath ?? entry.path, entry.name)))
    .sort();
}

export const version = () =>
  readFileSync(join(ROOT, "Cargo.toml"), "utf8").match(
    /\[workspace\.package\]\nversion = "(.*)"/,
  )[1];

/** Starts a node by `command`, waits until it answers on `port`, and ends it with the test. */
export async function serve(t, command, port, env = {}) {
  const child = spawn(command[0], command.slice(1), {
    stdio: ["ignore", "ignore", "pipe"],
    // Clients of these tests do not go by themselves.
    env: {
      ...process.env,
      HEARTLINE__SERVER__DRAIN_TIMEOUT: "200ms",
      // No file is left where the tests run.
      HEARTLINE__STORE__URL: "memory:",
      ...env,
    },
  });
  let log = "";
  child.stderr.on("data", (data) => (log += data));
  const exited = once(child, "exit").then(([code, signal]) => ({ code, signal }));
  t.after(() => child.kill("SIGKILL"));
  const http = `http://127.0.0.1:${port}`;
  await until(async () => {
    assert.equal(child.exitCode, null, `the node ended before it listened: ${log}`);
    return fetch(`${http}/healthz`).then(
      (response) => response.ok,
      () => false,
    );
  }, "healthz");
  return {
    child,
    http,
    get log() {
      return log;
    },
    /** Tells it to end, and waits for that. */
    async stop() {
      child.kill("SIGTERM");
      return within(exited, `the node's end: ${log}`);
    },
  };
}

/** Connects a Socket.IO client by long polling; the packet that answers its CONNECT. */
export async function connect(http, token) {
  const url = `${http}/socket.io/?EIO=4&transport=polling`;
  const open = await (await fetch(url)).text();
  const session = `${url}&sid=${JSON.parse(open.slice(1)).sid}`;
  await fetch(session, { method: "POST", body: `40${JSON.stringify({ token })}` });
  return (await fetch(session)).text();
}
