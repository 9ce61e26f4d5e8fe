// How connections live and end, with short settings.
import assert from "node:assert/strict";
import { after, afterEach, describe, it } from "node:test";
import WebSocket from "ws";
import { Live, socketIo } from "./lib/clients.js";
import { serve, token, until, within } from "./lib/server.js";

const nodes = [],
  open = [];
async function start(set, options) {
  const node = await serve(set, options);
  nodes.push(node);
  return node;
}
function client(node, user, claims, options = {}) {
  const socket = socketIo(node.http, { auth: { token: token(user, claims) }, ...options });
  open.push(socket);
  return socket;
}
async function live(node, user, claims) {
  const socket = await Live.connect(node.live, token(user, claims));
  open.push(socket);
  return socket;
}
afterEach(async () => {
  for (const socket of open.splice(0)) socket.close();
  for (const node of nodes.splice(0))
    if (node.child.exitCode === null) assert.equal(await node.stop(), 0);
});
after(() => assert.equal(nodes.length, 0));

describe("devices", () => {
  it("replace: the newcomer wins, and the old one stays away", async () => {
    const node = await start({ "devices.policy": "replace" });
    const old = await client(node, "u", { deviceId: "phone" }).connection();
    const ended = old.ending();
    const fresh = await client(node, "u", { deviceId: "desk" }).connection();
    const told = await old.hear("connection:replaced");
    assert.equal(told.by.deviceId, "desk");
    assert.equal(typeof told.by.nodeId, "string");
    assert.equal(await ended, "io server disconnect");
    assert.equal(old.active, false);
    assert.equal(fresh.connected, true);
    const page = await node.api("/v1/users/u");
    assert.deepEqual([page.body.online, page.body.devices], [true, 1]);
    assert.equal(await node.metric('heartline_disconnects_total{reason="replaced"}'), 1);
  });

  it("replace on live closes with 4409", async () => {
    const node = await start({ "devices.policy": "replace" });
    const old = await live(node, "u");
    await live(node, "u");
    await old.hear("connection:replaced");
    assert.equal((await old.end()).code, 4409);
  });

  it("the same device always replaces itself", async () => {
    const node = await start();
    const old = await client(node, "u", { deviceId: "phone" }).connection();
    await client(node, "u", { deviceId: "desk" }).connection();
    const ended = old.ending();
    await client(node, "u", { deviceId: "phone" }).connection();
    assert.equal(await ended, "io server disconnect");
    assert.equal((await node.api("/v1/users/u")).body.devices, 2);
  });

  it("limit: the one too many is refused", async () => {
    const node = await start({ "devices.policy": "limit", "devices.max": 2 });
    await client(node, "u").connection();
    await client(node, "u").connection();
    const refused = client(node, "u");
    assert.equal((await refused.refusal()).data.code, "DEVICE_LIMIT");
    const onLive = new Live(`${node.live}?token=${token("u")}`);
    assert.equal((await onLive.end()).code, 4409);
    assert.equal((await node.api("/v1/users/u")).body.devices, 2);
  });

  it("limit: or the oldest goes", async () => {
    const node = await start({
      "devices.policy": "limit",
      "devices.max": 2,
      "devices.on_excess": "evict_oldest",
    });
    const oldest = await client(node, "u").connection();
    const second = await client(node, "u").connection();
    const ended = oldest.ending();
    await client(node, "u").connection();
    assert.equal(await ended, "io server disconnect");
    assert.equal(second.connected, true);
    assert.equal((await node.api("/v1/users/u")).body.devices, 2);
  });

  it("many that race: never more than the limit stay", async () => {
    const node = await start({ "devices.policy": "limit", "devices.max": 3 });
    const all = Array.from({ length: 12 }, () =>
      client(node, "u", {}, { transports: ["websocket"] }),
    );
    const outcomes = await Promise.all(
      all.map((socket) =>
        socket.connection().then(
          () => true,
          () => false,
        ),
      ),
    );
    assert.equal(outcomes.filter(Boolean).length, 3);
  });
});

describe("heartbeats", () => {
  const short = { "heartbeat.interval": "300ms", "heartbeat.timeout": "200ms" };

  it("find a silent client out in time", async () => {
    const node = await start(short);
    const began = Date.now();
    const silent = new WebSocket(
      `ws://127.0.0.1:${node.port}/socket.io/?EIO=4&transport=websocket`,
    );
    const closed = new Promise((resolve) => silent.on("close", (code) => resolve(code)));
    silent.on("open", () => silent.send(`40${JSON.stringify({ token: token("silent") })}`));
    const observer = await client(node, "observer").connection();
    assert.equal(await within(closed, "close"), 4408);
    const took = Date.now() - began;
    assert.ok(took >= 480 && took < 900, `${took} ms`);
    await observer.hear("user:offline", (data) => data.userId === "silent");
    assert.equal(await node.metric('heartline_disconnects_total{reason="heartbeat_timeout"}'), 1);
    assert.match(node.log, /heartbeat_timeout/);
  });

  it("find a silent live client out with ping frames", async () => {
    const node = await start(short);
    const socket = new Live(`${node.live}?token=${token("u")}`, { autoPong: false });
    assert.equal((await socket.end()).code, 4408);
  });

  it("keep whoever answers, however quiet", async () => {
    const node = await start({
      ...short,
      "heartbeat.sweep_interval": "100ms",
      "heartbeat.stale_after": "700ms",
    });
    const quiet = await client(node, "quiet").connection();
    const quietLive = await live(node, "quiet-live");
    await until(
      async () => (await node.metric("heartline_heartbeats_total")) >= 12,
      "a dozen heartbeats",
      10000,
    );
    assert.equal(quiet.connected, true);
    assert.equal(quietLive.ws.readyState, WebSocket.OPEN);
    const { body } = await node.api("/v1/users/quiet");
    const [entry] = body.connections;
    assert.ok(entry.rttMs > 0);
    assert.ok(entry.lastSeenAt > entry.lastActivityAt);
  });

  it("are also events, where that is wanted", async () => {
    const node = await start({ "heartbeat.app_interval": "200ms" });
    const socket = await client(node, "u").connection();
    await until(() => socket.count("heartbeat") >= 3, "three heartbeats");
    const { timestamp } = await socket.hear("heartbeat");
    assert.ok((await socket.ask("heartbeat:response", { timestamp })).latencyMs >= 0);
  });

  it("do not keep the idle, where idleness ends", async () => {
    const node = await start({ "heartbeat.idle_timeout": "600ms", ...short });
    const idle = await client(node, "idle", {}, { reconnection: false }).connection();
    const busy = await client(node, "busy").connection();
    const busying = setInterval(() => busy.emit("ping"), 100);
    assert.equal(await idle.ending(), "transport close");
    assert.equal(busy.connected, true);
    clearInterval(busying);
    assert.equal(await node.metric('heartline_disconnects_total{reason="idle_timeout"}'), 1);
  });
});

describe("tokens that expire", () => {
  const soon = () => Math.floor(Date.now() / 1000) + 1;

  it("end their connections, so that the client comes back with a new one", async () => {
    const node = await start({ "auth.jwt.leeway": "0s" });
    let current = token("u", { exp: soon() });
    const socket = socketIo(node.http, { auth: (give) => give({ token: current }) });
    open.push(socket);
    await socket.connection();
    current = token("u");
    const ended = socket.ending();
    const error = await socket.hear("auth:error");
    assert.equal(error.code, "AUTH_TOKEN_EXPIRED");
    assert.equal(await ended, "transport close");
    await until(() => socket.connected, "the reconnection");
    const onLive = await live(node, "u2", { exp: soon() });
    assert.equal((await onLive.end()).code, 4401);
    assert.ok(onLive.count("auth:error") === 1);
  });

  it("may be refreshed by their user", async () => {
    const node = await start({ "auth.jwt.leeway": "0s" });
    const socket = await client(node, "u", { exp: soon() + 1 }).connection();
    assert.equal((await socket.ask("auth:refresh", { token: token("somebody") })).ok, false);
    assert.equal((await socket.ask("auth:refresh", { token: "junk" })).code, "AUTH_TOKEN_INVALID");
    assert.equal((await socket.ask("auth:refresh", { token: token("u") })).ok, true);
    const other = await client(
      node,
      "v",
      { exp: soon() + 1 },
      { reconnection: false },
    ).connection();
    await other.ending();
    // The first token has expired by now as well; this is still the same connection.
    await socket.ask("ping");
    assert.deepEqual([socket.count("server:hello"), socket.count("auth:error")], [1, 0]);
  });
});

describe("the drain", () => {
  it("tells everybody, closes with 1001, and ends with 0", async () => {
    const node = await start();
    const socket = await client(node, "u", {}, { reconnection: false }).connection();
    const polling = await client(
      node,
      "p",
      {},
      { transports: ["polling"], reconnection: false },
    ).connection();
    const onLive = await live(node, "l");
    const raw = new WebSocket(`ws://127.0.0.1:${node.port}/socket.io/?EIO=4&transport=websocket`);
    const rawClosed = new Promise((resolve) => raw.on("close", resolve));
    await new Promise((resolve) => raw.on("open", resolve));
    const ended = [socket.ending(), polling.ending()];
    const began = Date.now();
    node.child.kill("SIGTERM");
    const drain = await socket.hear("server:drain");
    assert.ok(drain.reconnectInMs >= 0 && drain.reconnectInMs <= 60000);
    await polling.hear("server:drain");
    await onLive.hear("server:drain");
    assert.equal((await onLive.end()).code, 1001);
    assert.equal(await rawClosed, 1001);
    // Not told to stay away: a transport's end is one that clients come back from.
    assert.deepEqual(await Promise.all(ended), ["transport close", "transport error"]);
    const { code } = await within(node.exited, "the end", 6000);
    assert.equal(code, 0);
    assert.ok(Date.now() - began < 6000);
  });

  it("brings polling clients back when the node is there again", async () => {
    const node = await start();
    const socket = await client(node, "p", {}, { transports: ["polling"] }).connection();
    const ended = socket.ending();
    node.child.kill("SIGTERM");
    await socket.hear("server:drain");
    assert.equal(await ended, "transport error");
    assert.equal(socket.active, true);
    assert.equal((await within(node.exited, "the end")).code, 0);
    const before = socket.count("server:hello");
    await start({}, { port: node.port });
    await until(() => socket.count("server:hello") > before, "the client is back");
    assert.deepEqual(await socket.ask("join", { room: "r" }), { ok: true, room: "r" });
  });

  it("spreads clients and their returns", async () => {
    const node = await start({ "server.drain_spread": "1s" });
    const all = await Promise.all(Array.from({ length: 30 }, (_, i) => live(node, `u${i}`)));
    const ends = all.map((socket) => socket.closed.then(() => Date.now()));
    node.child.kill("SIGTERM");
    await until(async () => (await node.api("/readyz")).status === 503, "readyz 503");
    const late = new WebSocket(node.live);
    await within(new Promise((resolve) => late.on("error", resolve)), "the refusal of a newcomer");
    const times = await within(Promise.all(ends), "all gone", 5000);
    assert.ok(Math.max(...times) - Math.min(...times) > 400);
    const delays = new Set(
      await Promise.all(
        all.map(async (socket) => (await socket.hear("server:drain")).data.reconnectInMs),
      ),
    );
    assert.ok(delays.size > 20);
    assert.equal((await within(node.exited, "the end")).code, 0);
  });

  it("does not wait for ever for those who do not answer", async () => {
    const node = await start({ "server.drain_timeout": "500ms" });
    const deaf = await live(node, "deaf");
    deaf.ws._socket.pause();
    const began = Date.now();
    node.child.kill("SIGTERM");
    assert.equal((await within(node.exited, "the end")).code, 0);
    assert.ok(Date.now() - began < 1500);
  });

  it("ends at once on a second signal", async () => {
    const node = await start({ "server.drain_timeout": "30s" });
    const deaf = await live(node, "deaf");
    deaf.ws._socket.pause();
    node.child.kill("SIGTERM");
    await until(async () => (await node.api("/readyz")).status === 503, "readyz 503");
    node.child.kill("SIGTERM");
    assert.equal((await within(node.exited, "the end", 1000)).code, 1);
  });

  it("lets a user be away for a moment", async () => {
    const node = await start({ "presence.offline_grace": "1s" });
    const observer = await client(node, "observer").connection();
    const first = await client(node, "u").connection();
    first.close();
    await until(async () => (await node.api("/v1/users/u")).body.devices === 0, "no device");
    await client(node, "u").connection();
    const third = await client(node, "w").connection();
    third.close();
    await observer.hear("user:offline", (data) => data.userId === "w");
    const edges = observer.heard.filter(
      (one) => one.event.startsWith("user:") && one.args[0].userId === "u",
    );
    assert.deepEqual(
      edges.map((one) => one.event),
      ["user:online"],
    );
  });

  it("announces to shared rooms only, where that is wanted", async () => {
    const node = await start({ "presence.announce": "rooms" });
    const names = ["friend", "stranger", "guest"];
    const [friend, stranger, guest] = await Promise.all(
      names.map((name) => client(node, name).connection()),
    );
    for (const room of ["a", "b"]) await friend.ask("join", { room });
    await stranger.ask("join", { room: "c" });
    for (const room of ["a", "b"]) await guest.ask("join", { room });
    await friend.hear("user:online", (data) => data.userId === "guest");
    guest.close();
    await friend.hear("user:offline", (data) => data.userId === "guest");
    const edges = friend.heard.filter(
      (one) => one.event.startsWith("user:") && one.args[0].userId === "guest",
    );
    assert.deepEqual(
      edges.map((one) => one.event),
      ["user:online", "user:offline"],
    );
    // Somebody whom the stranger may know of comes later, and is the first.
    const neighbour = await client(node, "neighbour").connection();
    await neighbour.ask("join", { room: "c" });
    await stranger.hear("user:online");
    const heard = stranger.heard.filter((one) => one.event.startsWith("user:"));
    assert.deepEqual(
      heard.map((one) => one.args[0].userId),
      ["neighbour"],
    );
  });
});
