// @heartline/client against real nodes, on both transports.
import assert from "node:assert/strict";
import { generateKeyPairSync, sign } from "node:crypto";
import { afterEach, describe, it } from "node:test";
import WebSocket from "ws";
import { Client } from "../../clients/js/dist/client.js";
import { socketIo } from "../../clients/js/dist/index.js";
import { live } from "../../clients/js/dist/live.js";
import { watchRoom, watchUsers } from "../../clients/js/dist/presence.js";
import { checkpoint, inbox, joinByInvite, read, signIn } from "../../clients/js/dist/people.js";
import { freePort, serve, token, until, within } from "./lib/server.js";

const open = [];
afterEach(async () => {
  for (const one of open.splice(0).reverse())
    await (one.disconnect ? one.disconnect() : one.kill());
});

async function node(set = {}, options = {}) {
  const started = await serve(
    // However busy this machine is, only what a test does ends a connection.
    { "heartbeat.interval": "20s", "heartbeat.timeout": "10s", ...set },
    options,
  );
  open.push(started);
  return started;
}
const FAST = { backoff: 50, maxBackoff: 200 };
const TRANSPORTS = {
  "Socket.IO": ({ http }, options) => new Client(socketIo(http), { ...FAST, ...options }),
  "Socket.IO, polling": ({ http }, options) =>
    new Client(socketIo(http, { transports: ["polling"] }), { ...FAST, ...options }),
  live: (to, options) =>
    new Client(
      live(to.live, (url) => new WebSocket(url)),
      { ...FAST, ...options },
    ),
};
const reached = (client, status, ms) =>
  until(
    () => client.state.status === status,
    `${status}; it is ${JSON.stringify(client.state)}`,
    ms,
  );
const claims = (seconds) => ({ exp: Math.floor(Date.now() / 1000) + seconds });

for (const [name, make] of Object.entries(TRANSPORTS)) {
  const connect = async (to, options) => {
    const client = make(to, options);
    open.push(client);
    await reached(client, "connected");
    return client;
  };

  describe(`the client over ${name}`, { timeout: 180000 }, () => {
    it("connects, joins, talks and knows who is there", async () => {
      const one = await node();
      const ann = await connect(one, { token: token("ann") }),
        bob = await connect(one, { token: () => token("bob") });
      assert.deepEqual([ann.state.userId, ann.state.recovered], ["ann", false]);
      await Promise.all([ann.join("lobby"), bob.join("lobby")]);
      const heard = [];
      bob.on("hi", (data) => heard.push(data));
      assert.equal((await ann.publish("lobby", "hi", { n: 1 })).ok, true);
      await until(() => heard.length === 1, "the event");
      assert.deepEqual(heard, [{ n: 1 }]);
      const [known] = await ann.presence(["bob"]);
      assert.deepEqual([known.userId, known.online, known.devices], ["bob", true, 1]);
      const gone = new Promise((resolve) => ann.on("user:offline", resolve));
      bob.disconnect();
      assert.equal((await gone).userId, "bob");
    });

    it("shows who is there, and says how true that is, over a kill of the node", async () => {
      const port = await freePort();
      const first = await node({}, { port });
      const ann = await connect(first, { token: token("ann") }),
        bob = await connect(first, { token: token("bob") });
      await Promise.all([ann.join("lobby"), bob.join("lobby")]);
      const users = watchUsers(ann, ["bob"]),
        lobby = watchRoom(ann, "lobby");
      const states = [];
      users.subscribe(({ state }) => states.push(state.status));
      const is = ({ picture }, status, names) => {
        const online = [...picture.values()].filter(({ online }) => online);
        // Who left and came again before that was told is the last of the picture.
        const there = online.map(({ userId }) => userId).sort();
        return picture.state.status === status && `${there}` === names;
      };
      await until(() => is(users, "complete", "bob"), "bob is online");
      await until(() => is(lobby, "complete", "ann,bob"), "both are in the room");
      bob.leave("lobby");
      await until(() => is(lobby, "complete", "ann"), "bob has left");
      await first.kill();
      await until(() => is(users, "stale", "bob"), "nothing is known any more");
      bob.disconnect();
      await node({}, { port });
      await until(() => is(users, "complete", ""), "bob is offline");
      await until(() => is(lobby, "complete", "ann"), "ann is in the room again");
      const cid = await connect(first, { token: token("cid") });
      await cid.join("lobby");
      await until(() => is(lobby, "complete", "ann,cid"), "cid is in the room");
      ann.leave("lobby");
      await until(() => lobby.picture.state.code === "LEFT", "the room is watched no more");
      await ann.join("lobby");
      await until(() => is(lobby, "complete", "ann,cid"), "it is watched again");
      assert.ok(states.includes("catching-up"));
      users.close();
      lobby.close();
    });

    it("comes back to its rooms when the node was killed, and loses nothing", async () => {
      const port = await freePort();
      const first = await node({}, { port });
      const ann = await connect(first, { token: token("ann") });
      await ann.join("conversation:1");
      const heard = [];
      ann.on("message:new", ({ content }) => heard.push(content));
      await ann.send("message:send", { conversationId: "1", content: "zero" });
      await first.kill();
      await reached(ann, "reconnecting");
      const waiting = ["one", "two", "three"].map((content) =>
        ann.send("message:send", { conversationId: "1", content }),
      );
      await node({}, { port });
      await Promise.all(waiting);
      await until(() => heard.length >= 4, "the messages");
      assert.deepEqual(heard, ["zero", "one", "two", "three"]);
    });

    it("sends many at once, in order, also over a limit", async () => {
      // A window in which a busy machine takes all that are on their way: what is taken behind a
      // refused one is earlier than it.
      const one = await node({ "limits.messages": '{ count = 20, window = "5s" }' });
      const ann = await connect(one, { token: token("ann") });
      await ann.join("conversation:1");
      const heard = [];
      ann.on("message:new", ({ content }) => heard.push(Number(content)));
      const numbers = Array.from({ length: 40 }, (_, n) => n);
      await Promise.all(
        numbers.map((n) => ann.send("message:send", { conversationId: "1", content: `${n}` })),
      );
      await until(() => heard.length === 40, "the messages");
      assert.deepEqual(heard, numbers);
      assert.deepEqual(ann.pending, { count: 0, bytes: 0 });
    });

    it("says nothing that is too large for the server, and everything that is not", async () => {
      const one = await node({ "server.max_payload": "10000B", "limits.events": "off" });
      const ann = await connect(one, { token: token("ann") });
      await ann.join("lobby");
      const { socketId } = ann.state;
      const outcomes = [];
      for (let size = 9_500; size <= 10_100; size += 12)
        outcomes.push(
          await ann.publish("lobby", "at", "x".repeat(size)).then(
            ({ ok }) => ok,
            ({ code }) => code,
          ),
        );
      const first = outcomes.indexOf("TOO_LARGE");
      assert.ok(first > 0 && outcomes.slice(0, first).every((ok) => ok === true), `${outcomes}`);
      assert.ok(outcomes.slice(first).every((code) => code === "TOO_LARGE"));
      const large = ann.send("chat:send", { room: "lobby", content: "x".repeat(20_000) });
      await assert.rejects(large, { code: "TOO_LARGE", sent: "no" });
      await ann.send("chat:send", { room: "lobby", content: "hi" });
      assert.deepEqual([ann.state.status, ann.state.socketId], ["connected", socketId]);
    });

    it("goes on trying where nobody listens, and gives up without a sound", async () => {
      const port = await freePort();
      const nowhere = { http: `http://127.0.0.1:${port}`, live: `ws://127.0.0.1:${port}/live` };
      const ann = make(nowhere, { token: token("ann") });
      open.push(ann);
      await until(() => ann.state.attempt === 3, "the third attempt");
      const given = make(nowhere, { token: token("bob") });
      given.disconnect();
      await node({}, { port });
      await reached(ann, "connected");
      assert.equal(given.state.status, "disconnected");
    });

    it("obeys a drain", async () => {
      const one = await node();
      const ann = await connect(one, { token: token("ann") });
      const drain = new Promise((resolve) =>
        ann.on("server:drain", ({ reconnectInMs }) => resolve([Date.now(), reconnectInMs])),
      );
      const paused = new Promise((resolve) =>
        ann.subscribe(
          ({ attempt, nextRetryAt }) => attempt === 1 && resolve([nextRetryAt, Date.now()]),
        ),
      );
      one.child.kill("SIGTERM");
      const [told, reconnectInMs] = await within(drain, "server:drain");
      const [next, known] = await within(paused, "the end of the connection");
      // The connection ended between the two, however far a busy machine puts them apart.
      const [earliest, latest] = [told - 1 + reconnectInMs, known + 1 + reconnectInMs];
      assert.ok(next >= earliest && next <= latest, `${earliest} <= ${next} <= ${latest}`);
    });

    it("is not moved by what is said in a room in the server's name", async () => {
      const port = await freePort();
      const one = await node({}, { port });
      const ann = await connect(one, { token: token("ann") });
      await ann.join("r");
      const before = ann.state;
      const marker = new Promise((resolve) => ann.on("marker", resolve));
      const said = {
        "connection:replaced": { message: "…", by: {} },
        "auth:error": { code: "AUTH_TOKEN_EXPIRED", message: "…" },
        "server:hello": { socketId: "forged", pingInterval: 1, pingTimeout: 1 },
        "server:drain": { reconnectInMs: 1e15 },
        "room:left": { room: "r", reason: "forbidden" },
        "room:lost": { room: "r", code: "FORBIDDEN" },
        heartbeat: { timestamp: 0 },
        marker: 1,
      };
      for (const [event, data] of Object.entries(said)) {
        const body = { event, data };
        const { status } = await one.api("/v1/rooms/r/publish", { method: "POST", body });
        assert.equal(status, 200, event);
      }
      await within(marker, "the last event");
      assert.equal(ann.state, before);
      assert.ok(ann.isIn("r"));
      // The connection ends all the same, and for a reason of its own.
      await one.kill();
      await reached(ann, "reconnecting");
      assert.ok(ann.state.nextRetryAt - Date.now() <= 60_000);
      ann.connect();
      await node({}, { port });
      if (ann.state.status === "reconnecting") ann.connect();
      await reached(ann, "connected");
    });

    it("does not fight over its place", async () => {
      const one = await node({ "devices.policy": "replace" });
      const ann = await connect(one, { token: token("ann") });
      const again = await connect(one, { token: token("ann") });
      await reached(ann, "failed");
      assert.equal(ann.state.reason, "replaced");
      assert.equal(again.state.status, "connected");
      assert.equal(await one.metric('heartline_disconnects_total{reason="replaced"}'), 1);
    });

    it("says why it is not wanted, and stays away", async () => {
      const one = await node({
        "devices.policy": "limit",
        "devices.max": "1",
        "server.auth_timeout": "4s",
        "auth.jwt.leeway": "0s",
      });
      await connect(one, { token: token("ann") });
      const refusals = {
        auth_required: undefined,
        auth_invalid: token("x", {}, "another secret"),
        auth_expired: token("x", claims(-100)),
        device_limit: token("ann"),
      };
      for (const [reason, bad] of Object.entries(refusals)) {
        const client = make(one, { ...(bad && { token: bad }) });
        open.push(client);
        await reached(client, "failed");
        assert.equal(client.state.reason, reason);
      }
      const kicked = await connect(one, { token: token("bob") });
      await one.api("/v1/users/bob/disconnect", { method: "POST" });
      await reached(kicked, "failed");
      assert.equal(kicked.state.reason, "kicked");
    });

    it("has a new token in time, and when it was late", async () => {
      const one = await node({ "auth.jwt.leeway": "0s" });
      let asked = 0;
      const states = [];
      const ann = await connect(one, {
        token: () => (asked++, token("ann", claims(asked === 1 ? 6 : 3600))),
      });
      ann.subscribe(({ status }) => states.push(status));
      await until(() => asked === 2, "the renewal");
      const late = await connect(one, { token: token("bob", claims(6)) });
      await reached(late, "failed");
      assert.equal(late.state.reason, "auth_expired");
      // Six seconds are over by now.
      assert.deepEqual([states, asked], [["connected"], 2]);
    });

    it("finds again what was kept of its user, and hears of a conflict", async () => {
      const one = await node();
      const ann = await connect(one, { token: token("ann") });
      assert.equal(await checkpoint(ann, { tab: "orders", bet: 7 }), 1);
      assert.equal(await checkpoint(ann, { bet: null }, { ifVersion: 1 }), 2);
      await assert.rejects(
        checkpoint(ann, {}, { ifVersion: 1 }),
        ({ code, data }) => code === "CONFLICT" && data.version === 2,
      );
      const again = make(one, { token: token("ann") });
      open.push(again);
      const kept = await within(
        new Promise((resolve) => again.on("session:resume", resolve)),
        "session:resume",
      );
      assert.deepEqual([kept.metadata, kept.version], [{ tab: "orders" }, 2]);
    });

    it("comes into a conversation by an invite, and knows what is unread there", async () => {
      const one = await node({ "conversations.access": undefined });
      const body = { conversationId: "club", maxUses: 1 };
      const made = await one.api("/v1/invites", { method: "POST", body });
      const { code } = made.body;
      const ann = await connect(one, { token: token("ann", { rooms: ["conversation:club"] }) });
      const bob = await connect(one, { token: token("bob") });
      await assert.rejects(bob.join("conversation:club"), ({ code }) => code === "FORBIDDEN");
      const welcome = await joinByInvite(bob, `https://app.example/invite/${code}?from=mail`);
      assert.deepEqual(welcome, { conversationId: "club", room: "conversation:club" });
      assert.ok(bob.isIn("conversation:club"));
      const eve = await connect(one, { token: token("eve") });
      await assert.rejects(joinByInvite(eve, code), ({ code }) => code === "INVITE_EXHAUSTED");
      for (const content of ["one", "two"])
        await ann.send("message:send", { conversationId: "club", content });
      const unread = async () => (await inbox(bob)).conversations.map(({ unread }) => unread);
      assert.deepEqual(await unread(), [2]);
      assert.equal(await read(bob, "club", 1), 1);
      assert.deepEqual(await unread(), [1]);
    });

    it("signs in with a wallet", async () => {
      const one = await node({
        "auth.wallet.enabled": "true",
        "auth.wallet.domain": "app.example",
      });
      const { publicKey, privateKey } = generateKeyPairSync("ed25519");
      const key = publicKey.export({ format: "der", type: "spki" }).subarray(-32).toString("hex");
      const signed = (text) => sign(null, Buffer.from(text), privateKey).toString("hex");
      const { token: given, user } = await signIn(one.http, key, signed);
      const client = await connect(one, { token: given });
      assert.equal(client.state.userId, user.userId);
      await assert.rejects(
        signIn(one.http, key, () => "00".repeat(64)),
        ({ code }) => code === "INVALID_SIGNATURE",
      );
      await assert.rejects(
        signIn(one.http, "nobody", signed),
        ({ code }) => code === "INVALID_DATA",
      );
    });

    it("notices a node that stands still", async () => {
      const one = await node({ "heartbeat.interval": "1s", "heartbeat.timeout": "4s" });
      const ann = await connect(one, { token: token("ann") });
      await one.freeze();
      await reached(ann, "reconnecting");
      assert.equal(ann.state.reason, "heartbeat_timeout");
      one.child.kill("SIGCONT");
      await reached(ann, "connected");
    });
  });
}
