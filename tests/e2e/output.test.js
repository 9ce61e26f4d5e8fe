// What a node logs and what commands print, when nobody reads it.
import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { once } from "node:events";
import { createServer } from "node:net";
import { after, describe, it } from "node:test";
import WebSocket from "ws";
import { Live } from "./lib/clients.js";
import { BINARY, SECRET, freePort, serve, token, until, within } from "./lib/server.js";

const nodes = [];
after(() => Promise.all(nodes.map((node) => node.kill())));

async function start(set = {}, options = {}) {
  const node = await serve({ "log.level": "debug", ...set }, options);
  nodes.push(node);
  return node;
}

/** Drains the node while a client looks on; the code that the client is closed with. */
async function drain(node) {
  const client = await Live.connect(node.live, token("onlooker"));
  assert.equal(await node.stop(), 0);
  return (await client.end()).code;
}

/**
 * Runs a command whose standard output or error nobody reads from the beginning;
 * its exit code, and what came by the other.
 */
async function unread(stream, args, { script = 'exec "$0" "$@"' } = {}) {
  const child = spawn("sh", ["-c", `read go; ${script}`, BINARY, ...args], { stdio: "pipe" });
  const other = stream === "stdout" ? "stderr" : "stdout";
  let text = "";
  child[other].on("data", (data) => (text += data));
  child[stream].destroy();
  await once(child[stream], "close");
  child.stdin.end("go\n");
  const [code, signal] = await within(once(child, "close"), args.join(" "));
  return { code, signal, [other]: text };
}

const secret = ["--set", `auth.jwt.secret=${SECRET}`];

describe("a node whose log has lost its reader", () => {
  it("answers bad packets as before, lets new clients in, and drains in good order", async () => {
    const node = await start();
    node.child.stderr.destroy();
    await once(node.child.stderr, "close");
    for (const packet of ["junk", "4", "49", "42", "40[]", '451-["x",{"_placeholder":true,"num":0}]']) {
      const socket = new WebSocket(`ws://127.0.0.1:${node.port}/socket.io/?EIO=4&transport=websocket`);
      const closed = new Promise((resolve) => socket.on("close", resolve));
      await within(new Promise((resolve) => socket.once("message", resolve)), "the open packet");
      socket.send(packet);
      // A packet that is not refused is followed by one that is.
      socket.send("b4");
      await within(closed, `the end of who sent ${packet}`);
    }
    for (let i = 0; i < 20; i++) {
      const client = await Live.connect(node.live, token(`user-${i}`));
      client.send("not JSON");
      await client.hear("error");
      client.close();
    }
    assert.equal((await node.api("/readyz")).status, 200);
    assert.equal(await drain(node), 1001);
  });

  it("ends with the code of what was wrong, if something was", async () => {
    const none = await unread("stderr", ["serve"]);
    assert.deepEqual(none, { code: 2, signal: null, stdout: "" });
    const taken = createServer().listen(0, "127.0.0.1");
    await once(taken, "listening");
    const { port } = taken.address();
    const busy = await unread("stderr", ["serve", ...secret, "--set", `server.listen=127.0.0.1:${port}`]);
    taken.close();
    assert.deepEqual(busy, { code: 1, signal: null, stdout: "" });
  });
});

describe("a node whose log is not read for a while", () => {
  /** More than pipes and the node's queue hold: connections whose log lines are long. */
  async function fill(node) {
    node.child.stderr.pause();
    const name = "u".repeat(200);
    const args = ["load", "churn", "--protocol", "live", "--url", node.http, "-c", "20", "-d", "1s", "--tokens", ...secret,
      "--user-prefix", name];
    for (let size = 0; size < 2_000_000;) {
      const child = spawn(BINARY, args, { stdio: ["ignore", "pipe", "inherit"] });
      let out = "";
      child.stdout.on("data", (data) => (out += data));
      const ended = within(once(child, "close"), "the load's end");
      assert.deepEqual(await ended.finally(() => child.kill("SIGKILL")), [0, null]);
      const { operations } = JSON.parse(out);
      assert.ok(operations > 0, "nobody gets in any more");
      // Two lines each, both with the name.
      size += operations * 2 * name.length;
    }
  }

  it("serves on meanwhile, says afterwards how many lines are missing, and tears none", async () => {
    const node = await start();
    await fill(node);
    const client = await Live.connect(node.live, token("late"));
    assert.equal((await client.ask({ type: "ping" })).type, "pong");
    client.close();
    node.child.stderr.resume();
    await until(() => / WARN .*lines of this log were lost.* lines=[1-9]/.test(node.log), "the note");
    const torn = node.log.split("\n").filter((line) => line && !/^\d{4}-\d\d-\d\dT[\d:.]+Z +[A-Z]+ /.test(line));
    assert.deepEqual(torn, []);
    assert.equal(await node.stop(), 0);
    await until(() => /stopped\n$/.test(node.log), "its last line");
  });

  it("drains in good order although nobody reads", async () => {
    const node = await start();
    await fill(node);
    assert.equal(await drain(node), 1001);
  });
});

describe("a command whose output nobody reads", () => {
  for (const args of [["config", "docs"], ["config", "show"], ["config", "check", ...secret], ["token", "--user", "u", ...secret], ["--help"]]) {
    it(`\`${args.slice(0, 2).join(" ")}\` ends quietly`, async () => {
      assert.deepEqual(await unread("stdout", args), { code: 0, signal: null, stderr: "" });
    });
  }

  it("`load` ends quietly after its work", async () => {
    const node = await start();
    const args = ["load", "idle", "-c", "2", "-d", "100ms", "--warmup", "10ms", "--url", node.http, "--tokens", ...secret];
    assert.deepEqual(await unread("stdout", args), { code: 0, signal: null, stderr: "" });
    await node.stop();
  });

  it("`serve --dev` serves without its greeting", async () => {
    const [port, adminPort] = [await freePort(), await freePort()];
    const args = ["serve", "--dev", "--set", `server.listen=127.0.0.1:${port}`, "--set", `admin.listen=127.0.0.1:${adminPort}`];
    // It ends by itself, once it has answered.
    const script = `"$0" "$@" & until curl -sf http://127.0.0.1:${port}/ >/dev/null; do kill -0 $! || exit 9; sleep 0.02; done; kill $!; wait $!`;
    const { code, stderr } = await unread("stdout", args, { script });
    assert.equal(code, 0, stderr);
    assert.match(stderr, /stopped\n$/);
  });

  it("a full disk is no reader that has gone: that is said, with another exit code", async () => {
    const child = spawn("sh", ["-c", 'exec "$0" config docs >/dev/full', BINARY], { stdio: ["ignore", "ignore", "pipe"] });
    let log = "";
    child.stderr.on("data", (data) => (log += data));
    assert.deepEqual(await once(child, "close"), [1, null]);
    assert.match(log, /^heartline: standard output cannot be written: .*\n$/);
  });

  it("mistakes keep their exit code when nobody reads what they are", async () => {
    for (const args of [["config", "check", "--set", "nonsense=1"], ["token", "--user", "u"], ["load", "slow"]]) {
      assert.deepEqual(await unread("stderr", args), { code: 2, signal: null, stdout: "" }, args.join(" "));
    }
  });
});

describe("a signal to a node that starts", () => {
  it("ends it in good order while it waits for a Redis that does not answer", async () => {
    const redis = createServer(() => {}).listen(0, "127.0.0.1");
    await once(redis, "listening");
    const node = await start({ "cluster.url": `redis://127.0.0.1:${redis.address().port}` });
    // Its operators' listener answers only once it waits no longer.
    const early = fetch(`${node.admin}/healthz`).then(() => false, () => true);
    assert.equal(await node.stop(), 0);
    assert.equal(await early, true, "it had started already");
    await until(() => /draining[^]*stopped\n/.test(node.log), "its last line");
    redis.close();
  });
});

describe("an environment variable that is not UTF-8", () => {
  /** `heartline config check` with `name` set to one byte that is no text. */
  async function check(name) {
    const child = spawn("sh", ["-c", `${name}=$(printf '\\377') exec "$0" config check ${secret.join(" ")}`, BINARY], { stdio: ["ignore", "pipe", "pipe"] });
    let out = "", log = "";
    child.stdout.on("data", (data) => (out += data));
    child.stderr.on("data", (data) => (log += data));
    const [code] = await once(child, "close");
    return { code, out, log };
  }

  it("is a mistake in the configuration if it is one of Heartline's", async () => {
    const { code, log } = await check("HEARTLINE__LOG__LEVEL");
    assert.deepEqual([code, log], [2, "heartline: the environment variable HEARTLINE__LOG__LEVEL is not UTF-8\n"]);
  });

  it("is nothing to Heartline otherwise", async () => {
    for (const name of ["LANG", "HEARTLINE_LOG", "RUST_LOG"]) {
      const { code, out } = await check(name);
      assert.equal(code, 0, name);
      assert.match(out, /^the configuration is good\nretention is done next at \w+ 20.* UTC\n$/);
    }
  });
});
