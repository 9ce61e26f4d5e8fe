// Where a token may come from, and which of several counts.
import assert from "node:assert/strict";
import { after, before, describe, it } from "node:test";
import WebSocket from "ws";
import { Live, socketIo } from "./lib/clients.js";
import { serve, token, until } from "./lib/server.js";

const APP = "http://app.example";
const both = [["polling"], ["websocket"]];

describe("a token", { timeout: 180000 }, () => {
  let node;
  before(async () => {
    node = await serve({
      "auth.mode": "optional",
      "auth.jwt.cookie": "session",
      "server.allowed_origins": `["${APP}"]`,
    });
  });
  after(() => node.kill());

  /** Who a Socket.IO client is, by the node's own word; undefined for nobody. */
  async function who(options) {
    const client = socketIo(node.http, { reconnection: false, ...options });
    try {
      await client.connection();
      return (await client.hear("server:hello")).userId;
    } finally {
      client.close();
    }
  }
  /** The same of a live client. */
  async function whoLive(query, options) {
    const client = new Live(`${node.live}${query}`, options);
    try {
      return (await client.hear("hello")).userId;
    } finally {
      client.close();
    }
  }
  const cookie = (user) => `theme=dark; session=${token(user)}`;

  for (const transports of both) {
    const by = `over ${transports}`;
    it(`is found in the query, ${by}`, async () => {
      assert.equal(await who({ transports, query: { token: token("ann") } }), "ann");
      const query = { token: `Bearer ${token("ann")}` };
      assert.equal(await who({ transports, query }), "ann");
      assert.equal(await who({ transports, query: { token: "" } }), undefined);
    });

    it(`is found in the cookie of a page that may connect, ${by}`, async () => {
      for (const origin of [APP, node.http])
        assert.equal(
          await who({ transports, extraHeaders: { cookie: cookie("bob"), origin } }),
          "bob",
        );
    });

    it(`counts in this order: auth, header, query, cookie, ${by}`, async () => {
      const given = {
        auth: { token: token("by-auth") },
        extraHeaders: {
          authorization: `Bearer ${token("by-header")}`,
          cookie: cookie("by-cookie"),
          origin: APP,
        },
        query: { token: token("by-query") },
        transports,
      };
      assert.equal(await who(given), "by-auth");
      delete given.auth;
      assert.equal(await who(given), "by-header");
      delete given.extraHeaders.authorization;
      assert.equal(await who(given), "by-query");
      delete given.query;
      assert.equal(await who(given), "by-cookie");
    });

    it(`that is bad is refused wherever it was found, ${by}`, async () => {
      for (const options of [
        { query: { token: "bad" } },
        { extraHeaders: { cookie: "session=bad", origin: APP } },
      ]) {
        const client = socketIo(node.http, { transports, reconnection: false, ...options });
        assert.equal((await client.refusal()).data.code, "AUTH_TOKEN_INVALID");
        client.close();
      }
    });
  }

  it("is found on the live protocol in the same places", async () => {
    assert.equal(await whoLive(`?token=${token("ann")}`), "ann");
    const headers = { cookie: cookie("bob") };
    assert.equal(await whoLive("", { headers, origin: APP }), "bob");
    assert.equal(await whoLive("", { headers: {}, origin: APP }), undefined);
    assert.equal(await whoLive(`?token=${token("cid")}`, { headers, origin: APP }), "cid");
  });

  it("in a cookie does not let a foreign page in", async () => {
    const headers = { cookie: cookie("bob") };
    const attempt = (url) =>
      new Promise((resolve) => {
        const socket = new WebSocket(url, { headers, origin: "http://evil.example" });
        socket.on("unexpected-response", (_, response) => resolve(response.statusCode));
        socket.on("open", () => resolve("open"));
        socket.on("error", () => {});
      });
    assert.equal(await attempt(node.live), 403);
    const url = `${node.http.replace("http", "ws")}/socket.io/?EIO=4&transport=websocket`;
    assert.equal(await attempt(url), 403);
    // A request without Origin that a foreign page's browser says is one.
    for (const [site, user] of [
      ["cross-site", undefined],
      ["same-site", undefined],
      ["same-origin", "bob"],
    ]) {
      const extraHeaders = { ...headers, "sec-fetch-site": site };
      assert.equal(await who({ transports: ["polling"], extraHeaders }), user, site);
    }
  });

  it("stays out of the log, wherever it came from", async () => {
    const strict = await serve({
      "auth.jwt.cookie": "session",
      "log.level": "trace",
      "server.allowed_origins": `["${APP}"]`,
    });
    try {
      const secrets = ["query-secret", "cookie-secret", "live-secret"];
      const cookies = { cookie: `session=${secrets[1]}`, origin: APP };
      for (const options of [{ query: { token: secrets[0] } }, { extraHeaders: cookies }]) {
        const client = socketIo(strict.http, { reconnection: false, ...options });
        await client.refusal();
        client.close();
      }
      const live = new Live(`${strict.live}?token=${secrets[2]}`);
      assert.equal((await live.end()).code, 4401);
      await until(() => strict.log.includes("refused"), "a line of the log");
      for (const secret of secrets) assert.ok(!strict.log.includes(secret), strict.log);
    } finally {
      await strict.kill();
    }
  });

  it("in query and cookie can be switched off, and the parameter named", async () => {
    const other = await serve({ "auth.jwt.query": "jwt" });
    const off = await serve({ "auth.jwt.query": "off" });
    try {
      const refused = async (node, query) => {
        const client = socketIo(node.http, { reconnection: false, query });
        const { data } = await client.refusal();
        client.close();
        return data.code;
      };
      assert.equal(await refused(off, { token: token("ann") }), "AUTH_REQUIRED");
      assert.equal(await refused(other, { token: token("ann") }), "AUTH_REQUIRED");
      const client = socketIo(other.http, { query: { jwt: token("ann") } });
      await client.connection();
      client.close();
      // There is no cookie unless one is named.
      const extraHeaders = { cookie: cookie("bob"), origin: APP };
      const without = socketIo(off.http, { reconnection: false, extraHeaders });
      assert.equal((await without.refusal()).data.code, "AUTH_REQUIRED");
      without.close();
    } finally {
      await Promise.all([other.kill(), off.kill()]);
    }
  });
});
