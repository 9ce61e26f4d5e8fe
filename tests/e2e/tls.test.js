// TLS, and certificates read again on SIGHUP.
import assert from "node:assert/strict";
import { execFileSync, spawnSync } from "node:child_process";
import { copyFileSync, mkdtempSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, before, it } from "node:test";
import tls from "node:tls";
import { Live, socketIo } from "./lib/clients.js";
import { BINARY, SECRET, serve, token, until } from "./lib/server.js";

const folder = mkdtempSync(join(tmpdir(), "heartline-tls-"));
const cert = join(folder, "cert.pem"),
  key = join(folder, "key.pem");
const make = (days = "90") =>
  execFileSync(
    "openssl",
    [
      "req",
      "-x509",
      "-newkey",
      "ec",
      "-pkeyopt",
      "ec_paramgen_curve:P-256",
      "-nodes",
      "-keyout",
      key,
      "-out",
      cert,
      "-days",
      days,
      "-subj",
      "/CN=localhost",
      "-addext",
      "subjectAltName=IP:127.0.0.1",
    ],
    { stdio: "ignore" },
  );
let node;

before(async () => {
  make();
  process.env.NODE_TLS_REJECT_UNAUTHORIZED = "0";
  node = await serve({ "server.tls.cert": cert, "server.tls.key": key }, { scheme: "https" });
});
after(async () => {
  if (node) assert.equal(await node.stop(), 0);
  rmSync(folder, { recursive: true });
});

const fingerprint = () =>
  new Promise((resolve, reject) => {
    const socket = tls.connect(
      { port: node.port, host: "127.0.0.1", rejectUnauthorized: false },
      () => {
        resolve(socket.getPeerX509Certificate().fingerprint256);
        socket.destroy();
      },
    );
    socket.on("error", reject);
  });

it("carries both protocols, large messages and bursts", async () => {
  const url = `https://127.0.0.1:${node.port}`;
  const clients = [{}, { transports: ["polling"] }, { transports: ["websocket"] }].map((options) =>
    socketIo(url, { auth: { token: token("tls") }, rejectUnauthorized: false, ...options }),
  );
  const live = new Live(`wss://127.0.0.1:${node.port}/live?token=${token("live")}`, {
    rejectUnauthorized: false,
  });
  await live.hear("hello");
  await live.ask({ type: "subscribe", topic: "t" });
  for (const client of clients) {
    await client.connection();
    await client.ask("join", { room: "t" });
  }
  const large = "x".repeat(400_000);
  await clients[2].ask("publish", { room: "t", event: "large", data: large });
  assert.equal((await live.hear("large")).data.length, large.length);
  for (const client of clients) assert.equal((await client.hear("large")).length, large.length);
  for (let i = 0; i < 200; i++) live.send({ type: "publish", topic: "t", event: "n", data: i });
  await until(() => live.count("n") === 200, "all of the burst");
  assert.deepEqual(
    live.heard.filter((frame) => frame.type === "n").map((frame) => frame.data),
    [...Array(200).keys()],
  );
  for (const client of clients) client.close();
  live.close();
});

it("carries what the load generator says, over each protocol", async () => {
  for (const protocol of ["socketio", "polling", "live"]) {
    const args = ["load", "broadcast", "--url", `https://127.0.0.1:${node.port}`, "--protocol", protocol,
      "--connections", "10", "--publish-rate", "30", "--duration", "200ms", "--warmup", "20ms", "--tokens", "--set", `auth.jwt.secret=${SECRET}`];
    const { status, stdout, stderr } = spawnSync(BINARY, args, { encoding: "utf8" });
    assert.equal(status, 0, stderr);
    const { connected, operations, lost, failures } = JSON.parse(stdout);
    assert.deepEqual({ connected, lost, failures }, { connected: 10, lost: 0, failures: {} });
    assert.ok(operations > 0, stdout);
  }
});

it("reads its certificate again on SIGHUP, and keeps the old one if the new is none", async () => {
  const first = await fingerprint();
  make();
  node.child.kill("SIGHUP");
  await until(async () => (await fingerprint()) !== first, "the new certificate");
  const second = await fingerprint();
  copyFileSync(key, cert);
  assert.ok(readFileSync(cert, "utf8").includes("PRIVATE KEY"));
  node.child.kill("SIGHUP");
  await until(() => /old certificates stay/.test(node.log), "the complaint");
  assert.equal(await fingerprint(), second);
});

it("warns of a certificate that expires soon: in the check, at the start and on SIGHUP", async () => {
  make("2");
  const set = { "server.tls.cert": cert, "server.tls.key": key };
  const warning = /server\.tls\.cert: .*cert\.pem holds a certificate that expires on 20\d\d-/;
  const check = () =>
    spawnSync(BINARY, ["config", "check", ...Object.entries(set).flatMap(
      ([name, value]) => ["--set", `${name}=${value}`])], { encoding: "utf8" });
  assert.equal(check().status, 0);
  assert.match(check().stderr, warning);
  const warned = async (node, times) =>
    until(() => node.log.match(new RegExp(warning, "g"))?.length === times, `warning ${times}`);
  const aging = await serve(set, { scheme: "https" });
  await warned(aging, 1);
  aging.child.kill("SIGHUP");
  await warned(aging, 2);
  make("90");
  assert.doesNotMatch(check().stderr, warning);
  assert.equal(await aging.stop(), 0);
});

it("says of a key under a passphrase that it is one, and of a file that is not there", () => {
  make();
  const locked = join(folder, "locked.pem");
  const lock = ["pkey", "-in", key, "-aes256", "-passout", "pass:x", "-out", locked];
  execFileSync("openssl", lock, { stdio: "ignore" });
  for (const [file, words] of [
    [locked, /server\.tls\.key: .*locked\.pem .*passphrase.*openssl pkey/],
    [join(folder, "gone.pem"), /server\.tls\.key: .*gone\.pem cannot be read: No such file/],
  ]) {
    const set = ["--set", `server.tls.cert=${cert}`, "--set", `server.tls.key=${file}`];
    const { status, stderr } = spawnSync(BINARY, ["config", "check", ...set]);
    assert.equal(status, 2);
    assert.match(stderr.toString(), words);
  }
});
