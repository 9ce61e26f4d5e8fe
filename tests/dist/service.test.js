// The unit for systemd, as far as that can be tried where systemd does not run.
import assert from "node:assert/strict";
import { readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { test } from "node:test";
import {
  BINARY, IS_ROOT, ROOT, SECRET, connect, folder, freePort, needs, output, packed, run, serve,
} from "./lib.js";

const PATH = join(ROOT, "packaging/heartline.service");
const UNIT = readFileSync(PATH, "utf8");

/** The last value of a setting; the values of all its lines with `all`. */
function setting(name, { all = false } = {}) {
  const values = [...UNIT.matchAll(new RegExp(`^${name}=(.*)$`, "gm"))].map(([, value]) => value);
  return all ? values : values.at(-1);
}

/** A duration of the configuration in seconds. */
function seconds(text) {
  const [, count, unit] = text.match(/^(\d+)(ms|s|m)$/);
  return Number(count) * { ms: 0.001, s: 1, m: 60 }[unit];
}

test("systemd understands the unit", (t) => {
  const path = join(folder(t), "heartline.service");
  writeFileSync(path, UNIT.replace("ExecStart=/usr/bin/heartline", `ExecStart=${BINARY}`));
  const { status, stderr } = run(["systemd-analyze", "verify", "--man=no", path]);
  assert.deepEqual([status, stderr], [0, ""]);
});

test("systemd finds little that the unit leaves open", () => {
  // In tenths: 1.4 of 10; what is left is the network, and priorities of its own threads.
  const { status, stdout, stderr } = run(["systemd-analyze", "security", "--offline=true",
    "--threshold=15", PATH]);
  assert.equal(status, 0, stdout + stderr);
});

test("what the unit starts and reads is in the package", () => {
  const names = output(["dpkg-deb", "--fsys-tarfile", packed(".deb")], { encoding: "buffer" });
  const listed = output(["tar", "--list"], { input: names }).split("\n");
  const command = setting("ExecStart").split(" ").filter((word) => word.startsWith("/"));
  assert.equal(command.length, 2, setting("ExecStart"));
  const document = setting("Documentation").replace("file://", "");
  for (const path of [...command, document]) {
    assert.ok(listed.includes(`.${path}`), `${path} in: ${listed}`);
  }
});

test("systemd waits longer for the end than a drain takes", () => {
  const example = readFileSync(join(ROOT, "packaging/heartline.toml"), "utf8");
  const value = (key) => seconds(example.match(new RegExp(`^#${key} = "(.*)"$`, "m"))[1]);
  const drain = value("drain_spread") + value("drain_timeout");
  assert.ok(Number(setting("TimeoutStopSec")) >= drain + 10);
});

/** The system calls that the unit allows. */
function allowed() {
  const calls = (set) =>
    output(["systemd-analyze", "syscall-filter", set])
      .split("\n")
      .map((line) => line.trim())
      .filter((line) => line && !line.startsWith("#") && line !== set)
      .flatMap((line) => (line.startsWith("@") ? calls(line) : [line]));
  const found = new Set();
  for (const line of setting("SystemCallFilter", { all: true })) {
    const set = line.replace("~", "");
    for (const call of calls(set)) {
      if (line.startsWith("~")) found.delete(call);
      else found.add(call);
    }
  }
  return found;
}

test("a node needs no system call that the unit forbids", needs("strace"), async (t) => {
  const trace = join(folder(t), "trace");
  const port = await freePort();
  const command = ["strace", "--follow-forks", "--quiet=all", "--output", trace, BINARY, "serve",
    "--set", `server.listen=127.0.0.1:${port}`, "--set", "admin.listen=localhost:0",
    "--set", `auth.jwt.secret=${SECRET}`, "--set", "server.max_connections=1000",
    "--set", `store.url=sqlite://${join(folder(t), "heartline.db")}`];
  const node = await serve(t, command, port);
  const token = output([BINARY, "token", "--set", `auth.jwt.secret=${SECRET}`, "--user", "ann"]);
  assert.match(await connect(node.http, token.trim()), /^40\{"sid"/);
  const pid = readFileSync(trace, "utf8").match(/^\d+/)[0];
  process.kill(Number(pid), "SIGHUP"); // strace lets it through
  process.kill(Number(pid), "SIGTERM");
  assert.deepEqual(await node.stop(), { code: 0, signal: null });
  const text = readFileSync(trace, "utf8");
  const called = new Set([...text.matchAll(/^\d+ +(?:<\.\.\. )?([a-z_0-9]+)(?:\(| resumed>)/gm)]
    .map(([, call]) => call));
  assert.ok(called.has("epoll_ctl") && called.has("accept4"), [...called].join(" "));
  const may = allowed();
  // SQLite gives its files to whom the database belongs, if it is root; the service never is.
  if (IS_ROOT) may.add("fchown");
  assert.deepEqual([...called].filter((call) => !may.has(call)), []);
});
