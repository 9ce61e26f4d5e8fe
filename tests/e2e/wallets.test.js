// Sign-in with a wallet: a text, its signature, a token.
import assert from "node:assert/strict";
import { spawnSync } from "node:child_process";
import { createHash, createPublicKey, generateKeyPairSync, sign, verify } from "node:crypto";
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, before, describe, it } from "node:test";
import { Live, socketIo } from "./lib/clients.js";
import { redis } from "./lib/redis.js";
import { BINARY, PATIENCE, serve, until } from "./lib/server.js";

const APP = "http://app.example";

/** A wallet with an address of its own. */
function wallet() {
  const { publicKey, privateKey } = generateKeyPairSync("ed25519");
  const key = publicKey.export({ format: "der", type: "spki" }).subarray(-32);
  const body = Buffer.concat([Buffer.from([6 << 3]), key]);
  let sum = 0;
  for (const byte of body) {
    sum ^= byte << 8;
    for (let bit = 0; bit < 8; bit++) sum = sum & 0x8000 ? (sum << 1) ^ 0x1021 : sum << 1;
  }
  const all = Buffer.concat([body, Buffer.from([sum & 255, (sum >> 8) & 255])]);
  const bits = [...all].map((byte) => byte.toString(2).padStart(8, "0")).join("");
  const letter = (five) => "ABCDEFGHIJKLMNOPQRSTUVWXYZ234567"[parseInt(five, 2)];
  const address = bits
    .match(/.{5}/g)
    .map(letter)
    .join("");
  const raw = (text) => sign(null, Buffer.from(text), privateKey);
  /** As SEP-53 says. */
  const signed = (text) => {
    const message = Buffer.from(`Stellar Signed Message:\n${text}`);
    return sign(null, createHash("sha256").update(message).digest(), privateKey);
  };
  return { address, key, raw, signed };
}

let callers = 0;
/** Asks from an address of its own, unless one is given: limits count by it. */
async function ask(node, path, body, { from, headers, method = "POST" } = {}) {
  callers++;
  from ??= `10.9.${callers >> 8}.${callers & 255}`;
  const response = await fetch(node.http + path, {
    method,
    body: typeof body === "string" || body === undefined ? body : JSON.stringify(body),
    headers: { "content-type": "application/json", "x-forwarded-for": from, ...headers },
  });
  const text = await response.text();
  return { status: response.status, headers: response.headers, body: text && JSON.parse(text) };
}

async function challenge(node, address, options) {
  const { status, body } = await ask(node, "/auth/challenge", { walletAddress: address }, options);
  assert.equal(status, 200, JSON.stringify(body));
  return body.challenge;
}

const connect = (node, walletAddress, challenge, signature, options) =>
  ask(node, "/auth/connect", { walletAddress, challenge, signature }, options);

const SETTINGS = {
  "auth.wallet.enabled": "true",
  "auth.wallet.domain": "app.example",
  "server.trusted_proxies": '["127.0.0.1"]',
  "server.allowed_origins": `["${APP}"]`,
};

for (const store of ["memory:", "sqlite://"])
  describe(`sign-in with a wallet, ${store}`, { timeout: 180000 }, () => {
    let node, folder, url;
    before(async () => {
      folder = mkdtempSync(join(tmpdir(), "heartline-wallets-"));
      url = store === "memory:" ? store : `sqlite://${join(folder, "heartline.db")}`;
      node = await serve({ ...SETTINGS, "store.url": url, "auth.wallet.user_type": "player" });
    });
    after(async () => {
      await node.kill();
      rmSync(folder, { recursive: true, force: true });
    });

    it("gives a token for a signed text, on both protocols", async () => {
      const { address, signed } = wallet();
      const asked = await ask(node, "/auth/challenge", { walletAddress: address });
      assert.equal(asked.status, 200);
      const { challenge, expiresAt } = asked.body;
      assert.ok(expiresAt > Date.now() + 290_000 && expiresAt <= Date.now() + 300_000);
      const [first, second, ...rest] = challenge.split("\n");
      assert.equal(first, "app.example wants you to sign in with your Stellar account:");
      assert.equal(second, address);
      assert.match(rest.join("\n"), /^\nURI: https:\/\/app.example\nNonce: [\w-]{22}\nIssued At: /);
      assert.ok(challenge.endsWith(`Expiration Time: ${new Date(expiresAt).toISOString()}`));
      assert.equal(asked.headers.get("cache-control"), "no-store");

      const signature = signed(challenge).toString("base64");
      const { status, body } = await connect(node, address, challenge, signature);
      assert.equal(status, 200);
      const user = { userId: address, walletAddress: address, userType: "player" };
      assert.deepEqual(body.user, user);
      assert.ok(body.expiresAt > Date.now() + 11 * 3_600_000);

      const client = socketIo(node.http, { auth: { token: body.token } });
      const hello = await client.hear("connection:success");
      assert.deepEqual([hello.userId, hello.userType], [address, "player"]);
      client.close();
      const live = new Live(`${node.live}?token=${body.token}`);
      assert.equal((await live.hear("hello")).userId, address);
      live.close();
    });

    it("takes a key and a signature however they are written", async () => {
      for (const by of ["signed", "raw"])
        for (const form of ["base64", "base64url", "hex"]) {
          const one = wallet();
          const key = one.key.toString(form);
          const text = await challenge(node, key);
          const { status, body } = await connect(node, key, text, one[by](text).toString(form));
          assert.equal(status, 200, `${by} ${form}`);
          assert.equal(body.user.userId, one.address);
        }
    });

    it("is not moved by anything that is no proof, and says what is wrong", async () => {
      const [one, other] = [wallet(), wallet()];
      const text = await challenge(node, one.address);
      const good = one.signed(text).toString("base64");
      const stranger = await connect(node, other.address, text, other.signed(text).toString("hex"));
      assert.equal(stranger.status, 401);
      assert.deepEqual(stranger.body, { error: "Challenge does not match wallet address" });
      const changed = await connect(node, one.address, text.replace("app.", "bad."), good);
      assert.equal(changed.status, 401);
      assert.deepEqual(changed.body, { error: "Invalid or expired challenge" });
      // The stranger has burnt nothing.
      assert.equal((await connect(node, one.address, text, good)).status, 200);
      const again = await connect(node, one.address, text, good);
      assert.equal(again.status, 401);
      assert.deepEqual(again.body, { error: "Invalid or expired challenge" });
    });

    it("allows one guess for each challenge", async () => {
      const [one, other] = [wallet(), wallet()];
      const text = await challenge(node, one.address);
      const wrong = await connect(node, one.address, text, other.signed(text).toString("hex"));
      assert.equal(wrong.status, 401);
      assert.deepEqual(wrong.body, { error: "Invalid signature" });
      const right = await connect(node, one.address, text, one.signed(text).toString("hex"));
      assert.deepEqual(right.body, { error: "Invalid or expired challenge" });
    });

    it("gives one token where several race for it, on one machine too", async () => {
      for (let round = 0; round < 20; round++) {
        const { address, signed } = wallet();
        const text = await challenge(node, address);
        const signature = signed(text).toString("base64");
        const from = round % 2 ? "127.0.0.1" : undefined;
        const racers = Array.from({ length: 20 }, () =>
          connect(node, address, text, signature, { from }),
        );
        const answers = await Promise.all(racers);
        const late = answers.filter(({ status }) => status !== 200);
        assert.equal(late.length, 19);
        for (const { status, body } of late)
          assert.deepEqual([status, body], [401, { error: "Invalid or expired challenge" }]);
      }
    });

    it("refuses what is no request of its kind with a sentence", async () => {
      const { address } = wallet();
      const muxed = `M${"A".repeat(68)}`;
      const contract = `C${"A".repeat(55)}`;
      for (const [path, body, why] of [
        ["/auth/challenge", "", /object of JSON/],
        ["/auth/challenge", "[]", /object of JSON/],
        ["/auth/challenge", "{", /object of JSON/],
        ["/auth/challenge", {}, /walletAddress is missing/],
        ["/auth/challenge", { walletAddress: 7 }, /walletAddress must be text/],
        ["/auth/challenge", { walletAddress: muxed }, /muxed/],
        ["/auth/challenge", { walletAddress: contract }, /contract/],
        ["/auth/challenge", { walletAddress: `${address.slice(0, -1)}?` }, /walletAddress/],
        ["/auth/challenge", { walletAddress: "0".repeat(64) }, /small order/],
        ["/auth/connect", { walletAddress: address }, /challenge is missing/],
        ["/auth/connect", { walletAddress: address, challenge: "x" }, /signature is missing/],
        ["/auth/connect", { walletAddress: address, challenge: "x", signature: "x" }, /64 bytes/],
      ]) {
        // More than the limits allow: what is refused so is not counted.
        const refused = await ask(node, path, body, { from: "10.8.0.1" });
        assert.equal(refused.status, 400, JSON.stringify(body));
        assert.equal(refused.body.error, "Validation Error");
        assert.match(refused.body.message, why);
      }
      const large = JSON.stringify({ walletAddress: address, more: "x".repeat(100_000) });
      const response = await fetch(`${node.http}/auth/challenge`, { method: "POST", body: large });
      assert.equal(response.status, 413);
      const get = await ask(node, "/auth/challenge", undefined, { method: "GET" });
      assert.deepEqual([get.status, get.headers.get("allow")], [405, "POST, OPTIONS"]);
    });

    it("says when to try again to who tries too often, by address and by wallet", async () => {
      const { address, signed } = wallet();
      const from = "10.7.0.1";
      for (let count = 0; count < 10; count++) await challenge(node, wallet().address, { from });
      const body = { walletAddress: wallet().address };
      const refused = await ask(node, "/auth/challenge", body, { from });
      assert.equal(refused.status, 429);
      assert.equal(refused.body.error, "Too Many Requests");
      const wait = Number(refused.headers.get("retry-after"));
      assert.ok(wait > 800 && wait <= 900, `${wait}`);
      // Others are not disturbed, and a client cannot choose its address.
      await challenge(node, address, { from: "10.7.0.2" });
      const behind = await ask(node, "/auth/challenge", body, { from: `10.1.1.1, ${from}` });
      assert.equal(behind.status, 429);

      const other = wallet();
      for (let count = 0; count < 5; count++) {
        const text = await challenge(node, address);
        const wrong = await connect(node, address, text, other.signed(text).toString("hex"));
        assert.deepEqual(wrong.body, { error: "Invalid signature" });
      }
      const text = await challenge(node, address);
      const sixth = await connect(node, address, text, signed(text).toString("hex"));
      assert.equal(sixth.status, 429);
    });

    it("may be used by the pages that may connect, and by no others", async () => {
      const options = (origin) => ({
        method: "OPTIONS",
        headers: {
          origin,
          "access-control-request-method": "POST",
          "access-control-request-headers": "content-type",
        },
      });
      const allowed = await ask(node, "/auth/connect", undefined, options(APP));
      assert.equal(allowed.status, 204);
      assert.equal(allowed.headers.get("access-control-allow-origin"), APP);
      assert.equal(allowed.headers.get("access-control-allow-headers"), "content-type");
      const foreign = await ask(node, "/auth/connect", undefined, options("http://evil.example"));
      assert.equal(foreign.headers.get("access-control-allow-origin"), null);
      const body = { walletAddress: wallet().address };
      const page = await ask(node, "/auth/challenge", body, { headers: { origin: APP } });
      assert.equal(page.status, 200);
      assert.equal(page.headers.get("access-control-allow-origin"), APP);
      const evil = { headers: { origin: "http://evil.example" } };
      assert.equal((await ask(node, "/auth/challenge", body, evil)).status, 403);
      // Errors can be read by the page too.
      const refused = await ask(node, "/auth/challenge", {}, { headers: { origin: APP } });
      assert.equal(refused.headers.get("access-control-allow-origin"), APP);
    });

    it("is described in the API's document", async () => {
      const { body } = await node.api("/openapi.json");
      const { post } = body.paths["/auth/connect"];
      const { required } = post.requestBody.content["application/json"].schema;
      assert.deepEqual(required, ["walletAddress", "challenge", "signature"]);
    });
  });

describe("sign-in with a wallet", { timeout: 180000 }, () => {
  let folder;
  before(() => (folder = mkdtempSync(join(tmpdir(), "heartline-wallets-"))));
  after(() => rmSync(folder, { recursive: true, force: true }));

  it("does not take a challenge twice, whether or not the process was killed between", async () => {
    const set = { ...SETTINGS, "store.url": `sqlite://${join(folder, "killed.db")}` };
    let node = await serve(set);
    const [used, open] = [wallet(), wallet()];
    const texts = [await challenge(node, used.address), await challenge(node, open.address)];
    const [first, second] = [used.signed(texts[0]), open.signed(texts[1])];
    assert.equal((await connect(node, used.address, texts[0], first.toString("hex"))).status, 200);
    await node.kill();
    node = await serve(set);
    const again = await connect(node, used.address, texts[0], first.toString("hex"));
    assert.deepEqual(again.body, { error: "Invalid or expired challenge" });
    const other = await connect(node, open.address, texts[1], second.toString("hex"));
    assert.equal(other.status, 200);
    await node.kill();
  });

  it("takes a challenge until its time is over", async () => {
    const node = await serve({ ...SETTINGS, "auth.wallet.ttl": "1ms" });
    const { address, signed } = wallet();
    const asked = await ask(node, "/auth/challenge", { walletAddress: address });
    const { challenge: text, expiresAt } = asked.body;
    await until(() => Date.now() > expiresAt, "the end of the challenge");
    const late = await connect(node, address, text, signed(text).toString("hex"));
    assert.deepEqual(late.body, { error: "Invalid or expired challenge" });
    await node.kill();
  });

  it("signs tokens with a key of its own that others can verify", async () => {
    const { publicKey, privateKey } = generateKeyPairSync("ed25519");
    const file = join(folder, "key.pem");
    writeFileSync(file, privateKey.export({ format: "pem", type: "pkcs8" }));
    const set = { ...SETTINGS, "auth.wallet.key": file, "auth.jwt.secret": undefined };
    const node = await serve({ ...set, "auth.jwt.issuer": "heartline", "auth.jwt.audience": "app" });
    const { address, signed } = wallet();
    const text = await challenge(node, address);
    const { body } = await connect(node, address, text, signed(text).toString("base64"));
    const [head, claims, signature] = body.token.split(".");
    const decoded = (part) => JSON.parse(Buffer.from(part, "base64url"));
    assert.equal(decoded(head).alg, "EdDSA");
    const { exp, ...said } = decoded(claims);
    assert.equal(exp * 1000, body.expiresAt);
    assert.deepEqual(said, { sub: address, walletAddress: address, iss: "heartline", aud: "app" });
    const bytes = Buffer.from(`${head}.${claims}`);
    const key = createPublicKey(publicKey.export({ format: "pem", type: "spki" }));
    assert.ok(verify(null, bytes, key, Buffer.from(signature, "base64url")));
    const client = socketIo(node.http, { auth: { token: body.token } });
    assert.equal((await client.hear("connection:success")).userId, address);
    client.close();
    await node.kill();
  });

  it("works over the nodes of a cluster, and gives one token where they race", async () => {
    const store = await redis();
    const set = { ...SETTINGS, "cluster.url": store.url, "store.url": undefined };
    const nodes = [await serve(set), await serve(set)];
    for (let round = 0; round < 10; round++) {
      const { address, signed } = wallet();
      const text = await challenge(nodes[0], address);
      const signature = signed(text).toString("base64");
      const racers = Array.from({ length: 4 }, (_, index) =>
        connect(nodes[index % 2], address, text, signature),
      );
      const statuses = (await Promise.all(racers)).map((one) => one.status).sort();
      assert.deepEqual(statuses, [200, 401, 401, 401]);
    }
    const { address, signed } = wallet();
    const text = await challenge(nodes[1], address);
    await store.kill();
    const away = await connect(nodes[0], address, text, signed(text).toString("hex"));
    assert.equal(away.status, 503);
    assert.ok(away.headers.get("retry-after"));
    await Promise.all(nodes.map((node) => node.kill()));
  });

  it("is nothing where it is off, and says what it needs where it cannot be", async () => {
    const node = await serve();
    const response = await fetch(`${node.http}/auth/challenge`, { method: "POST", body: "{}" });
    assert.equal(response.status, 404);
    assert.equal((await response.json()).error, "Not Found");
    await node.kill();
    const asked = (command, ...set) => {
      const flags = set.flatMap((pair) => ["--set", pair]);
      const { status, stderr } = spawnSync(BINARY, [...command, ...flags], { timeout: PATIENCE });
      return { status, said: stderr.toString() };
    };
    const checked = (...set) => asked(["config", "check"], ...set);
    const on = ["auth.wallet.enabled=true", "auth.wallet.domain=app.example"];
    const jwks = "auth.jwt.jwks_url=https://issuer.example/keys";
    for (const [set, why] of [
      [["auth.wallet.enabled=true", "auth.jwt.secret=0123456789abcdef0123456789abcdef"], /domain/],
      [[...on, jwks], /either set auth\.jwt\.secret .* or auth\.wallet\.key/],
      [[...on, "auth.wallet.key=/nowhere.pem"], /auth\.wallet\.key: \/nowhere\.pem cannot be read: /],
      // It may be a key.
      [[...on, "auth.wallet.key=nowhere"], /auth\.wallet\.key: (?!.*nowhere).* nor the name of a file/],
      [["auth.wallet.domain=https://app.example"], /must be a host/],
      [["auth.wallet.ttl=2h"], /at most 1h/],
    ]) {
      const { status, said } = checked(...set);
      assert.equal(status, 2, said);
      assert.match(said, why);
    }
    assert.equal(checked(...on, "auth.jwt.secret=0123456789abcdef0123456789abcdef").status, 0);
    // Nobody needs a token to come in, and wallets need a key all the same.
    const open = [...on, "auth.mode=off"];
    const places = ["server.listen=127.0.0.1:0", "admin.listen=127.0.0.1:0", "store.url=memory:"];
    for (const command of [["config", "check"], ["serve"]]) {
      const { status, said } = asked(command, ...open, ...places);
      assert.equal(status, 2, said);
      assert.match(said, /needs a key that signs tokens, and there is none: either set/);
    }
    // There it makes one.
    const dev = asked(["config", "check", "--dev"], ...open);
    assert.equal(dev.status, 0, dev.said);
  });

  it("has with --dev the key that is made for the run", async () => {
    const node = await serve({ ...SETTINGS, "auth.mode": "off" }, { dev: true });
    const { address, signed } = wallet();
    const text = await challenge(node, address);
    const { status, body } = await connect(node, address, text, signed(text).toString("base64"));
    assert.equal(status, 200);
    assert.equal(body.user.userId, address);
    await node.kill();
  });
});
