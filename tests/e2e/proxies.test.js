// Real nginx and HAProxy before a node, with the configurations that docs/proxies.md shows.
import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { once } from "node:events";
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, before, describe, it } from "node:test";
import { Live, socketIo } from "./lib/clients.js";
import { freePort, serve, token, until } from "./lib/server.js";

const example = (name) =>
  readFileSync(new URL(`../../examples/proxies/${name}`, import.meta.url), "utf8");

/** Replaces exactly one place: a configuration that has changed is noticed. */
function put(text, from, to) {
  assert.equal(text.split(from).length, 2, `${from} is there once`);
  return text.replace(from, to);
}

/** What the examples say, for one node on this machine and with short timeouts. */
const kinds = {
  nginx: {
    command: (folder, file) => ["nginx", "-p", folder, "-c", file, "-e", "stderr"],
    configuration(port, node) {
      let text = `daemon off;\nmaster_process off;\n${example("nginx.conf")}`;
      text = put(text, "listen 8080;", `listen 127.0.0.1:${port};`);
      text = put(text, "server 127.0.0.1:8081;", `server 127.0.0.1:${node};`);
      text = put(text, "server 127.0.0.1:8082;", "");
      text = put(text, "proxy_read_timeout 60s;", "proxy_read_timeout 5s;");
      text = put(text, "proxy_send_timeout 60s;", "proxy_send_timeout 5s;");
      const bodies = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"];
      const paths = bodies.map((name) => `    ${name}_temp_path ${name};\n`).join("");
      return put(text, "http {\n", `http {\n${paths}`);
    },
    log: (folder) => readFileSync(join(folder, "nginx-access.log"), "utf8"),
  },
  haproxy: {
    // With as many descriptors as a process may have anywhere.
    command: (folder, file) => ["sh", "-c", `ulimit -n 4096; exec haproxy -db -f ${file}`],
    configuration(port, node) {
      let text = put(example("haproxy.cfg"), "bind :8080", `bind 127.0.0.1:${port}`);
      text = put(text, "server one 127.0.0.1:8081", `server one 127.0.0.1:${node}`);
      text = put(text, "    server two 127.0.0.1:8082 check inter 1s\n", "");
      text = put(text, "timeout tunnel 60s", "timeout tunnel 5s");
      return text.replaceAll(/timeout (client|server) 60s/g, "timeout $1 5s");
    },
    log: (_, output) => output,
  },
};

async function start(kind, node) {
  const folder = mkdtempSync(join(tmpdir(), "heartline-proxy-"));
  const port = await freePort();
  const file = join(folder, "proxy.conf");
  writeFileSync(file, kinds[kind].configuration(port, node));
  const [command, ...args] = kinds[kind].command(folder, file);
  const path = `${process.env.PATH}:/usr/sbin`;
  const child = spawn(command, args, {
    cwd: folder,
    env: { ...process.env, PATH: path },
    stdio: ["ignore", "pipe", "pipe"],
  });
  let output = "",
    failure;
  child.on("error", (error) => (failure = error));
  for (const stream of [child.stdout, child.stderr])
    stream.on("data", (data) => (output += data));
  const exited = once(child, "exit");
  exited.catch(() => {});
  await until(
    async () => {
      if (failure)
        throw new Error(
          `${kind} is needed for this test; scripts/install-test-tools installs it: ` +
            failure.message,
        );
      if (child.exitCode !== null) throw new Error(`${kind} ended: ${output}`);
      return fetch(`http://127.0.0.1:${port}/healthz`).then(
        (response) => response.ok,
        () => false,
      );
    },
    `${kind} serves the node`,
    30000,
  );
  return {
    port,
    http: `http://127.0.0.1:${port}`,
    live: `ws://127.0.0.1:${port}/live`,
    log: () => kinds[kind].log(folder, output),
    async kill() {
      if (child.exitCode === null && child.signalCode === null) {
        child.kill("SIGKILL");
        await exited;
      }
      rmSync(folder, { recursive: true, force: true });
    },
  };
}

for (const kind of Object.keys(kinds)) {
  describe(`behind ${kind}`, { timeout: 180000 }, () => {
    let node, proxy;
    before(async () => {
      node = await serve({
        "server.trusted_proxies": "127.0.0.1",
        "heartbeat.interval": "500ms",
        "server.max_payload": "2MB",
        // A message may wait for the next poll.
        "server.send_buffer": "4MB",
      });
      proxy = await start(kind, node.port);
    });
    after(async () => {
      await proxy?.kill();
      await node?.kill();
    });
    const entry = async (user) =>
      (await node.api(`/v1/users/${user}/connections`)).body.items[0];

    it("a Socket.IO client comes from polling to a WebSocket", async () => {
      const client = socketIo(proxy.http, { auth: { token: token("ann") } });
      try {
        await client.connection();
        await until(() => client.io.engine.transport.name === "websocket", "the upgrade");
        assert.equal((await client.ask("join", { room: "lobby" })).ok, true);
        await until(async () => (await entry("ann")).transport === "websocket", "the entry");
      } finally {
        client.close();
      }
    });

    it("the live protocol works", async () => {
      const client = await Live.connect(proxy.live, token("bob"));
      const answer = await client.ask({ type: "subscribe", topic: "lobby" });
      assert.equal(answer.type, "subscribed");
      client.close();
    });

    it("a client has its own address, and cannot claim another", async () => {
      const headers = { "x-forwarded-for": "203.0.113.7" };
      const url = `${node.live}?token=${token("cid")}`;
      const direct = new Live(url, { headers });
      await direct.hear("hello");
      assert.equal((await entry("cid")).remoteAddr, "203.0.113.7");
      direct.close();
      const behind = new Live(`${proxy.live}?token=${token("dan")}`, {
        headers,
        localAddress: "127.0.0.9",
      });
      await behind.hear("hello");
      assert.equal((await entry("dan")).remoteAddr, "127.0.0.9");
      behind.close();
    });

    it("a token in the query stays out of the access log", async () => {
      const mine = token("eve", { deviceId: `device-of-${kind}` });
      const client = await Live.connect(proxy.live, mine);
      client.ws.close();
      const polled = socketIo(proxy.http, { query: { token: mine }, transports: ["polling"] });
      await polled.connection();
      polled.close();
      const logged = () => proxy.log().includes("GET /live") && proxy.log().includes("/socket.io/");
      await until(logged, `a line of the log; it has ${proxy.log()}`);
      assert.ok(!proxy.log().includes(mine.slice(0, 20)), proxy.log());
      assert.ok(!proxy.log().includes("token="), proxy.log());
    });

    it("connections that say nothing outlive the proxy's timeout", async () => {
      const live = await Live.connect(proxy.live, token("fay"));
      const options = { auth: { token: token("gil") }, transports: ["websocket"] };
      const socket = socketIo(proxy.http, options);
      await socket.connection();
      const polling = socketIo(proxy.http, { ...options, transports: ["polling"] });
      await polling.connection();
      let ended = 0;
      live.closed.then(() => ended++);
      for (const client of [socket, polling]) client.on("disconnect", () => ended++);
      // By the node's clock, so that the time has passed for it too.
      const pings = await node.metric("heartline_heartbeat_rtt_seconds_count");
      const from = Date.now();
      await until(() => Date.now() - from > 12_500, "two and a half timeouts");
      assert.equal(ended, 0);
      assert.ok((await node.metric("heartline_heartbeat_rtt_seconds_count")) > pings);
      for (const client of [live, socket, polling]) client.close();
    });

    it("a message as large as the node takes gets through", async () => {
      const transports = ["polling"];
      const client = socketIo(proxy.http, { auth: { token: token("hal") }, transports });
      await client.connection();
      await client.ask("join", { room: "large" });
      const data = "x".repeat(1_900_000);
      const answer = await client.ask("publish", { room: "large", event: "big", data });
      assert.equal(answer.ok, true);
      client.close();
    });
  });
}
