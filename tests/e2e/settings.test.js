// What is wrong with settings, tokens and questions is said where somebody looks for it.
import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { generateKeyPairSync, sign } from "node:crypto";
import { once } from "node:events";
import { request, createServer } from "node:http";
import { after, before, describe, it } from "node:test";
import WebSocket from "ws";
import { Live, socketIo } from "./lib/clients.js";
import { BINARY, SECRET, freePort, serve, token, until } from "./lib/server.js";

/** Runs the command to its end. */
async function heartline(args, input = "") {
  const child = spawn(BINARY, args, { env: { PATH: process.env.PATH } });
  let [stdout, stderr] = ["", ""];
  child.stdout.on("data", (data) => (stdout += data));
  child.stderr.on("data", (data) => (stderr += data));
  child.stdin.on("error", () => {}).end(input);
  const [code] = await once(child, "close");
  return { code, stdout, stderr };
}

/** The status of a GET that names another host. */
function status(url, host) {
  return new Promise((resolve, reject) => {
    const asked = request(url, { headers: { host } }, (response) => {
      response.resume();
      resolve(response.statusCode);
    });
    asked.on("error", reject).end();
  });
}

describe("a running node", () => {
  let node;
  before(async () => (node = await serve()));
  after(() => node.stop());

  const connect = (bearer) => {
    const socket = new WebSocket(`${node.live}?token=${bearer}`);
    return once(socket, "close").then(([code]) => code);
  };

  it("says at its start who may join and write to which rooms", async () => {
    await until(() => node.log.includes("rooms.default is open"), "the log");
  });

  it("logs why it refused a token, never the token, and not without end", async () => {
    const wrong = token("ann", {}, "another-secret-of-enough-bytes-here");
    assert.equal(await connect(wrong), 4401);
    await until(() => /signature is not made with .*auth\.jwt\.secret/.test(node.log), "the log");
    assert.equal(await connect(token("ann", { exp: undefined })), 4401);
    await until(() => node.log.includes("no claim `exp`"), "the log");
    await Promise.all(Array.from({ length: 40 }, () => connect(wrong)));
    await until(() => node.log.includes("more tokens were refused"), "the count of the rest");
    assert.ok(!node.log.includes(wrong.split(".")[1]));
    assert.ok(node.log.match(/a token was refused/g).length < 30, node.log);
  });

  it("does not answer operators' questions under a name that was pointed at it", async () => {
    for (const path of ["/metrics", "/v1/nodes", "/openapi.json", "/readyz"]) {
      assert.equal(await status(node.admin + path, "evil.example:9090"), 403, path);
      assert.equal(await status(node.admin + path, "b\u00fccher.example"), 403, path);
      assert.equal(await status(node.admin + path, "localhost:9090"), 200, path);
    }
  });

  it("refuses a filter or member that it does not know", async () => {
    for (const [path, meant] of [
      ["/v1/connections?user=p1", /userId/],
      ["/v1/rooms?namespce=/", /namespace/],
      ["/v1/nodes?x=1", /none here/],
      ["/v1/users/p1?tenant=t", /tenantId/],
    ]) {
      const { status, body, headers } = await node.api(path);
      assert.equal(status, 400, path);
      assert.match(headers.get("content-type"), /problem\+json/);
      assert.match(body.detail, meant);
    }
    const post = (path, body) => node.api(path, { method: "POST", body });
    for (const [path, body] of [
      ["/v1/rooms/r/publish", { event: "e", dta: 1 }],
      ["/v1/rooms/r/publish", { event: "e", keyy: "k" }],
      ["/v1/broadcast", { event: "e", key: "k" }],
      ["/v1/users/u/emit", { event: "e", tenantId: "t" }],
      ["/v1/presence", { users: [], user: "u" }],
      ["/v1/users/u/disconnect", { reason: "r" }],
    ]) {
      assert.equal((await post(path, body)).status, 400, path);
    }
    assert.equal((await post("/v1/rooms/r/publish", { event: "e", key: "k" })).status, 200);
    assert.equal((await post("/v1/users/u/disconnect", {})).status, 200);
    assert.equal((await post("/v1/users/u/disconnect")).status, 200);
  });
});

describe("--dev", () => {
  it("says how to get a token for another user", async () => {
    const node = await serve({}, { dev: true });
    const said = () => node.out.match(/for other users: curl "(.*)"/);
    const [, asked] = await until(said, "the greeting");
    const { token } = await (await fetch(asked)).json();
    const live = await Live.connect(node.live, token);
    assert.equal(live.heard[0].userId, "bob");
    live.close();
    await node.stop();
  });

  it("signs no token with a secret that is used elsewhere too", async () => {
    const set = { "auth.jwt.secret": SECRET, "rooms.default": "none" };
    const node = await serve(set, { dev: true });
    await until(() => node.log.includes("rooms.default is none"), "the log");
    const refused = await fetch(`${node.http}/dev/token?user=ann`);
    assert.equal(refused.status, 403);
    assert.match(await refused.text(), /heartline token/);
    await node.stop();
  });

  it("answers /dev only under this machine's names", async () => {
    const node = await serve({}, { dev: true });
    for (const path of ["/dev/token?user=ann", "/dev/online"]) {
      assert.equal(await status(node.http + path, "evil.example"), 403);
      assert.equal(await status(node.http + path, "b\u00fccher.example"), 403);
      assert.equal(await status(node.http + path, `localhost:${node.port}`), 200);
    }
    await node.stop();
  });
});

describe("a key set", () => {
  it("that cannot be reached makes the node degraded, and ready once it is there", async () => {
    const port = await freePort();
    const node = await serve({
      "auth.jwt.secret": "",
      "auth.jwt.jwks_url": `http://127.0.0.1:${port}/keys`,
    });
    const { status, body } = await until(async () => {
      const answer = await node.api("/readyz").catch(() => undefined);
      return answer?.status === 200 && answer;
    }, "an answer");
    assert.deepEqual([status, body.status, body.keys], [200, "degraded", "unreachable"]);
    const says = () => /key set of auth\.jwt\.jwks_url could not be fetched/.test(node.log);
    await until(says, "a line of the log");
    await node.stop();
    const issuer = createServer((_, response) => response.end('{"keys":[null]}'));
    issuer.listen(port, "127.0.0.1");
    await once(issuer, "listening");
    const later = await serve({
      "auth.jwt.secret": "",
      "auth.jwt.jwks_url": `http://127.0.0.1:${port}/keys`,
    });
    await until(async () => {
      const answer = await later.api("/readyz").catch(() => undefined);
      return answer?.body?.status === "ready";
    }, "ready");
    await later.stop();
    issuer.close();
  });

  it("that cannot be had for a while keeps nobody away, over either transport", async () => {
    const { publicKey, privateKey } = generateKeyPairSync("ec", { namedCurve: "P-256" });
    const port = await freePort();
    const node = await serve({
      "auth.jwt.secret": "",
      "auth.jwt.jwks_url": `http://127.0.0.1:${port}/keys`,
    });
    const part = (value) => Buffer.from(JSON.stringify(value)).toString("base64url");
    const claims = { sub: "ann", exp: Math.floor(Date.now() / 1000) + 3600 };
    const said = `${part({ alg: "ES256", typ: "JWT", kid: "1" })}.${part(claims)}`;
    const how = { key: privateKey, dsaEncoding: "ieee-p1363" };
    const token = `${said}.${sign("sha256", said, how).toString("base64url")}`;
    // What the requests are answered with: the one that waits, and the one that says CONNECT.
    const asked = `${node.http}/socket.io/?EIO=4&transport=polling`;
    const { sid } = JSON.parse((await (await fetch(asked)).text()).slice(1));
    const waits = fetch(`${asked}&sid=${sid}`);
    const body = `40${JSON.stringify({ token })}`;
    await fetch(`${asked}&sid=${sid}`, { method: "POST", body });
    assert.equal((await waits).status, 503);
    const clients = ["polling", "websocket"].map((transport) =>
      socketIo(node.http, { auth: { token }, transports: [transport] }),
    );
    const errors = [];
    for (const client of clients) client.on("connect_error", (error) => errors.push(error.type));
    let closed = 0;
    for (const client of clients) client.io.on("close", () => closed++);
    // After three fetches at once, one begins every five seconds, and tokens wait for it.
    await until(() => closed >= 4, "both have tried twice", 40_000);
    const key = { ...publicKey.export({ format: "jwk" }), kid: "1", use: "sig", alg: "ES256" };
    const issuer = createServer((_, response) => response.end(JSON.stringify({ keys: [key] })));
    issuer.listen(port, "127.0.0.1");
    await once(issuer, "listening");
    await until(() => clients.every((client) => client.connected), "both are in", 40_000);
    // A refusal would have no type, and keep its client away.
    assert.ok(
      errors.every((type) => type === "TransportError"),
      String(errors),
    );
    for (const client of clients) client.close();
    await node.stop();
    issuer.close();
  });
});

describe("the command line", () => {
  const secret = ["--set", `auth.jwt.secret=${SECRET}`];

  it("explains a token", async () => {
    const good = await heartline(["token", "check", token("ann"), ...secret]);
    assert.equal(good.code, 0, good.stderr);
    assert.match(good.stdout, /good[^]*ann[^]*expires/);
    const piped = await heartline(["token", "check", ...secret], `Bearer ${token("ann")}\n`);
    assert.equal(piped.code, 0, piped.stderr);
    const bad = await heartline(["token", "check", token(undefined), ...secret]);
    assert.equal(bad.code, 1);
    assert.match(bad.stdout, /AUTH_TOKEN_INVALID.*no claim `sub`/);
    assert.equal((await heartline(["token", "check", "x"])).code, 2);
  });

  it("finds at `config check` what would go wrong later", async () => {
    for (const [setting, words] of [
      ["server.listen=127.0.0.1:99999", /65535/],
      ["auth.jwt.secret=x", /32 random bytes/],
      ["server.allowed_origins=https://*.app.example", /list every origin/],
      ["server.live_path=/socket.io/", /server\.socketio_path/],
      ["heartbeat.stale_after=1s", /heartbeat\.interval/],
      ['namespaces."/a-*".auth.mode=off', /named in full/],
      ["store.url=postgres://u@h/d?sslmode=verify-full&sslrootcert=/nowhere.pem", /nowhere\.pem cannot be read/],
      ["auth.jwt.public_key=keys/none.pem", /auth\.jwt\.public_key: keys\/none\.pem cannot be read: .+/],
    ]) {
      const { code, stderr } = await heartline(["config", "check", "--set", setting]);
      assert.equal(code, 2, setting);
      assert.match(stderr, words);
    }
    // Folders are those of the machine that serves: `doctor` looks at them there, and a service makes its own.
    const journal = ["recovery.window=1m", "recovery.journal=/nowhere/journal"];
    assert.equal((await heartline(["config", "check", ...journal.flatMap((one) => ["--set", one])])).code, 0);
    const files = ["--set", "server.client_files=/nowhere/dist", "--set", `auth.jwt.secret=${SECRET}`];
    for (const command of [["config", "check"], ["token", "--user", "ann"]]) {
      assert.equal((await heartline([...command, ...files])).code, 0, command[0]);
    }
    const served = await heartline(["serve", ...files]);
    assert.equal(served.code, 2);
    assert.match(served.stderr, /server\.client_files must be a folder that is there, not "\/nowhere\/dist"/);
    const none = await heartline(["config", "check"]);
    // `serve --dev` takes it.
    assert.equal(none.code, 0);
    assert.match(none.stderr, /`serve` will refuse it all the same: no authentication is configured/);
    const weak = ["config", "check", "--set", "auth.jwt.secret=sixteen-bytes-ok"];
    const { code, stderr } = await heartline(weak);
    assert.equal(code, 0);
    assert.match(stderr, /HS256 wants 32/);
  });
});
