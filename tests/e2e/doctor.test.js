// `heartline doctor`: what is planted is found, and nothing else.
import assert from "node:assert/strict";
import { execFileSync, spawnSync } from "node:child_process";
import { chmodSync, copyFileSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { createServer } from "node:net";
import { once } from "node:events";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, afterEach, describe, it } from "node:test";
import { fileURLToPath } from "node:url";
import { clusterServer, redis, start } from "./lib/redis.js";
import { BINARY, freePort, SECRET, serve } from "./lib/server.js";

/** Certificates that the crate's own tests are written for. */
const KEYS = fileURLToPath(new URL("../../crates/server/tests/keys", import.meta.url));

const folder = mkdtempSync(join(tmpdir(), "heartline-doctor-"));
after(() => rmSync(folder, { recursive: true }));

const open = [];
afterEach(async () => {
  for (const one of open.splice(0).reverse()) await one.kill();
});
const keep = (one) => (open.push(one), one);

/** A configuration with which nothing is wrong, on ports of its own. */
const well = async (set = {}) => ({
  "server.listen": `127.0.0.1:${await freePort()}`,
  "admin.listen": `127.0.0.1:${await freePort()}`,
  "auth.jwt.secret": `${SECRET}-and-some-more`,
  "store.url": `sqlite://${join(folder, "heartline.db")}`,
  "conversations.access": "open",
  ...set,
});

function run(set, ...more) {
  const flags = Object.entries(set).flatMap(([key, value]) => ["--set", `${key}=${value}`]);
  const ran = spawnSync(BINARY, ["doctor", ...flags, ...more], { encoding: "utf8", cwd: folder });
  assert.ok(!ran.stdout.includes(SECRET), "secrets are never printed");
  return ran;
}

/** What it says as JSON: exit status, and the checks that are not well as `name: status`. */
function diagnosis(set) {
  const ran = run(set, "--json");
  const { ok, checks } = JSON.parse(ran.stdout);
  assert.equal(ran.status, ok ? 0 : 1, ran.stdout + ran.stderr);
  for (const check of checks) {
    assert.deepEqual(Object.keys(check).sort(), ["found", "name", "status", "todo"]);
    assert.ok(["ok", "warning", "problem"].includes(check.status));
  }
  // What the machine that runs the tests is like is not the point.
  const ours = checks.filter(
    ({ name, found }) =>
      !["descriptors", "backlog", "conntrack", "clock"].includes(name) &&
      !/^a write takes/.test(found),
  );
  const unwell = ours.filter((check) => check.status !== "ok");
  return { ok, checks, unwell, short: unwell.map(({ name, status }) => `${name}: ${status}`) };
}

describe("doctor", () => {
  it("has no advice where all is well, and leaves nothing behind", async () => {
    const set = await well();
    const { ok, short, checks } = diagnosis(set);
    assert.deepEqual([ok, short], [true, []], JSON.stringify(checks));
    const ran = run(set);
    assert.equal(ran.status, 0);
    assert.match(ran.stdout, /^ok {7}ports {10}127\.0\.0\.1:\d+ is free \(server\.listen\)$/m);
    assert.match(ran.stdout, /\n\d+ checks, /);
    assert.ok(!ran.stdout.includes("\x1b"), "no colours where nobody sees them");
    assert.equal(execFileSync("ls", ["-A", folder], { encoding: "utf8" }), "");
  });

  it("ends with 2 when the command line or the configuration is wrong", async () => {
    assert.equal(run(await well(), "--frob").status, 2);
    const wrong = run(await well({ "server.lisen": "x" }));
    assert.equal(wrong.status, 2);
    assert.match(wrong.stderr, /did you mean server\.listen/);
    assert.equal(run({}, "--config", join(folder, "none.toml")).status, 2);
  });

  it("names a program that has a port, and lets a running node have its own", async () => {
    const server = createServer().listen(0, "127.0.0.1");
    await once(server, "listening");
    const taken = diagnosis(
      await well({ "server.listen": `127.0.0.1:${server.address().port}` }),
    );
    server.close();
    assert.deepEqual(taken.short, ["ports: problem"]);
    assert.match(taken.unwell[0].found, new RegExp(`process ${process.pid}`));
    const set = await well();
    const port = Number(set["server.listen"].split(":")[1]);
    const node = keep(await serve(set, { port }));
    const { short, checks } = diagnosis(set);
    assert.deepEqual(short, [], JSON.stringify(checks));
    const found = checks.map((check) => check.found).join("\n");
    assert.match(found, new RegExp(`a running heartline has .*: process ${node.child.pid}`));
    assert.match(found, new RegExp(`has it open, process ${node.child.pid}`));
    // Another node with this file, on other ports.
    const other = diagnosis(await well());
    assert.deepEqual(other.short, ["store: problem"]);
  });

  it("finds a certificate that has expired, a short secret and files that all can read", async () => {
    const [cert, key] = [join(folder, "cert.pem"), join(folder, "key.pem")];
    copyFileSync(join(KEYS, "expired.cert.pem"), cert);
    copyFileSync(join(KEYS, "tls.pem"), key);
    chmodSync(key, 0o644);
    const config = join(folder, "heartline.toml");
    writeFileSync(config, '[auth.jwt]\nsecret = "nineteen bytes long"\n', { mode: 0o644 });
    const { "auth.jwt.secret": _, ...set } = await well({
      "server.tls.cert": cert,
      "server.tls.key": key,
      "admin.listen": `0.0.0.0:${await freePort()}`,
    });
    const ran = run(set, "--config", config);
    assert.equal(ran.status, 1);
    assert.match(ran.stdout, /^problem +certificate .*expired.*app\.example.* -> .*SIGHUP/m);
    assert.match(ran.stdout, /^warning +certificate .*key\.pem.* -> chmod o-rwx/m);
    assert.match(ran.stdout, /^warning +configuration .*heartline\.toml.* -> chmod o-rwx/m);
    assert.match(ran.stdout, /^warning +tokens .*19 bytes.* -> openssl rand/m);
    assert.match(ran.stdout, /^warning +admin .*admin\.token is off.* -> openssl rand/m);
    assert.ok(!ran.stdout.includes("nineteen"));
  });

  it("finds a password in a URL that all can read, and that files to serve are not there", async () => {
    const config = join(folder, "shared.toml");
    const of = async (text, mode) => {
      writeFileSync(config, text);
      chmodSync(config, mode);
      return run(await well({ "server.client_files": folder }), "--config", config);
    };
    const url = '[auth.jwt]\njwks_url = "http://127.0.0.1:9/keys?api_key=hunter2"\n';
    const shared = await of(url, 0o644);
    assert.match(shared.stdout, /^warning +configuration .*shared\.toml.* -> chmod o-rwx/m);
    assert.ok(!shared.stdout.includes("hunter2"));
    assert.doesNotMatch((await of(url, 0o640)).stdout, /shared\.toml/);
    const gone = diagnosis(await well({ "server.client_files": join(folder, "none") }));
    assert.deepEqual(gone.short, ["configuration: problem"]);
  });

  it("finds a file that is none of ours, and one that is damaged", async () => {
    const path = join(folder, "other.db");
    writeFileSync(path, "this is no database, and it has some bytes".repeat(100));
    const before = readFileSync(path);
    const { short, unwell } = diagnosis(await well({ "store.url": `sqlite://${path}` }));
    assert.deepEqual(short, ["store: problem"]);
    assert.match(unwell[0].found, /is damaged, or is not a database/);
    assert.deepEqual(readFileSync(path), before);
    const nowhere = await well({ "store.url": `sqlite://${join(folder, "no/where.db")}` });
    const missing = diagnosis(nowhere);
    assert.deepEqual(missing.short, ["store: problem"]);
    assert.match(missing.unwell[0].todo, /^mkdir -p /);
  });

  it("looks at Redis as a node that starts does, and at the nodes there", async () => {
    const server = keep(await redis());
    const cli = (...args) => execFileSync("redis-cli", ["-p", `${server.port}`, ...args]);
    const set = await well({
      "cluster.url": server.url,
      "store.url": "memory:",
      "cluster.listen": `127.0.0.1:${await freePort()}`,
      "cluster.key": `${SECRET}-and-some-more`,
    });
    const good = diagnosis(set);
    assert.deepEqual(good.short, [], JSON.stringify(good.checks));
    assert.deepEqual(cli("dbsize").toString().trim(), "0", "nothing is written there");
    const here = { ...set, "server.node_id": "n1", "devices.policy": "replace" };
    const port = Number(here["server.listen"].split(":")[1]);
    keep(await serve(here, { port }));
    const { short, unwell } = diagnosis({ ...set, "cluster.key": `${SECRET}-and-no-more` });
    assert.deepEqual(short, ["cluster: warning", "cluster: warning"], JSON.stringify(unwell));
    const found = unwell.map((check) => check.found).join("\n");
    assert.match(found, /^devices\.policy is .* here and .* on node n1/m);
    assert.match(found, /^cluster\.key is the one of fingerprint \w{8} here/m);
    cli("config", "set", "maxmemory", "100mb");
    cli("config", "set", "maxmemory-policy", "allkeys-lru");
    const evicting = diagnosis(here);
    assert.deepEqual(evicting.short, ["cluster: warning"]);
    assert.match(evicting.unwell[0].todo, /CONFIG SET maxmemory-policy noeviction/);
    cli("replicaof", "127.0.0.1", "1");
    const replica = diagnosis({ ...(await well()), "store.url": "memory:", "cluster.url": server.url });
    assert.equal(replica.ok, false);
    assert.match(
      replica.unwell.find((check) => check.status === "problem").found,
      /is a replica, which takes no writes/,
    );
  });

  it("says what a user of Redis may not do, and what to grant", async () => {
    const server = keep(await redis());
    const cli = (...args) => execFileSync("redis-cli", ["-p", `${server.port}`, ...args]);
    const grants = ["~{hl}*", "+@read", "+@write", "+@connection", "+info", "+role", "+time"];
    cli("acl", "setuser", "hl", "on", `>${SECRET}`, "resetchannels", ...grants);
    const at = (user, password) => `redis://${user}:${password}@127.0.0.1:${server.port}`;
    const set = await well({ "store.url": "memory:", "cluster.url": at("hl", SECRET) });
    const problem = ({ unwell }) => unwell.find((check) => check.status === "problem");
    const found = problem(diagnosis(set));
    assert.match(found.found, /may not do EVAL, EVALSHA, SCRIPT LOAD, PUBLISH, SUBSCRIBE, /);
    assert.match(found.todo, /^ACL SETUSER /);
    cli("acl", "setuser", "hl", "+@pubsub", "+@scripting", "&{hl}:*", "&hl:*");
    assert.equal(problem(diagnosis(set)), undefined);
    for (const name of ["xread", "evalsha", "subscribe", "xadd", "role", "hset"]) {
      cli("acl", "setuser", "hl", `-${name}`);
      const { found } = problem(diagnosis(set));
      assert.match(found, new RegExp(`may not do ${name.toUpperCase()}, which a node needs$`));
      cli("acl", "setuser", "hl", `+${name}`);
    }
    const refused = problem(diagnosis({ ...set, "cluster.url": at("hl", "wrong") }));
    assert.match(refused.found, /WRONGPASS/);
    await server.kill();
    const gone = problem(diagnosis(set));
    assert.match(gone.found, /cannot be used/);
    assert.match(gone.todo, /redis-cli -h 127\.0\.0\.1 -p \d+ ping/);
  });

  it("calls a Redis of another kind than cluster.url says by its name", async () => {
    const alone = keep(await redis());
    const one = keep(await clusterServer());
    const port = await freePort();
    const file = join(folder, "sentinel.conf");
    writeFileSync(file, `sentinel monitor mymaster 127.0.0.1 ${alone.port} 1\n`);
    const sentinelArgs = [file, "--sentinel", "--port", `${port}`, "--bind", "127.0.0.1"];
    keep(await start(sentinelArgs, /Sentinel ID is/));
    const set = await well({ "store.url": "memory:" });
    const look = (url) => diagnosis({ ...set, "cluster.url": url });
    const healthy = look(`redis+sentinel://127.0.0.1:${port}/mymaster`).checks;
    const there = healthy.find(({ name }) => name === "cluster");
    assert.match(there.found, new RegExp(`at 127\\.0\\.0\\.1:${alone.port} answers in`));
    for (const [url, found, todo] of [
      [`redis+cluster://127.0.0.1:${alone.port}`, /no Redis Cluster/, /^write redis:\/\//],
      [`redis+sentinel://127.0.0.1:${alone.port}/m`, /no Sentinel/, /^write redis:\/\//],
      [`redis://127.0.0.1:${port}`, /is a Sentinel/, /^write redis\+sentinel:\/\//],
      [`redis+cluster://127.0.0.1:${port}`, /is a Sentinel/, /^write redis\+sentinel:\/\//],
      [one.url, /one of a Redis Cluster/, /^write redis\+cluster:\/\//],
      [`redis+sentinel://127.0.0.1:${one.port}/m`, /one of a Redis Cluster/, /redis\+cluster/],
    ]) {
      const { ok, unwell } = look(url);
      assert.equal(ok, false);
      const problems = unwell.filter(({ status }) => status === "problem");
      assert.equal(problems.length, 1, `${url}: ${JSON.stringify(unwell)}`);
      assert.match(problems[0].found, found, url);
      assert.match(problems[0].todo, todo, url);
    }
  });
});
