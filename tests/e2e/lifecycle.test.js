// How connections live and end, with short settings.
import assert from "node:assert/strict";
import { afterEach, describe, it } from "node:test";
import WebSocket from "ws";
import { Live, socketIo } from "./lib/clients.js";
import { SLACK, serve, token, until, within } from "./lib/server.js";

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
});

describe("heartbeats", () => {
  // However busy this machine is, the real client has to answer in time.
  const short = { "heartbeat.interval": "300ms", "heartbeat.timeout": "5s" };

  it("find a silent client out, and keep the real one, which answers", async () => {
    const node = await start(short);
    const observer = await client(node, "observer").connection();
    const silent = new WebSocket(
      `ws://127.0.0.1:${node.port}/socket.io/?EIO=4&transport=websocket`,
    );
    const closed = new Promise((resolve) => silent.on("close", (code) => resolve(code)));
    silent.on("open", () => silent.send(`40${JSON.stringify({ token: token("silent") })}`));
    assert.equal(await within(closed, "close"), 4408);
    await observer.hear("user:offline", (data) => data.userId === "silent");
    assert.equal(await node.metric('heartline_disconnects_total{reason="heartbeat_timeout"}'), 1);
    await until(() => /heartbeat_timeout/.test(node.log), "a line of the log");
    // Nobody else is there to answer.
    const answers = async () => (await node.metric("heartline_heartbeats_total")) >= 2;
    await until(answers, "the observer's answers");
    assert.deepEqual([observer.connected, observer.count("server:hello")], [true, 1]);
  });
});

describe("tokens that expire", () => {
  const soon = () => Math.floor(Date.now() / 1000) + 6;

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
    node.child.kill("SIGTERM");
    const drain = await socket.hear("server:drain");
    assert.ok(drain.reconnectInMs >= 0 && drain.reconnectInMs <= 60000);
    await polling.hear("server:drain");
    await onLive.hear("server:drain");
    assert.equal((await onLive.end()).code, 1001);
    assert.equal(await rawClosed, 1001);
    // Not told to stay away: a transport's end is one that clients come back from.
    assert.deepEqual(await Promise.all(ended), ["transport close", "transport error"]);
    const { code } = await within(node.exited, "the end");
    assert.equal(code, 0);
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

  it("does not wait for ever for those who do not answer", async () => {
    const node = await start({ "server.drain_timeout": "500ms" });
    const deaf = await live(node, "deaf");
    deaf.ws._socket.pause();
    node.child.kill("SIGTERM");
    // A second after the timeout.
    assert.equal((await within(node.exited, "the end", 1500 + SLACK)).code, 0);
  });

  it("ends at once on a second signal", async () => {
    const node = await start({ "server.drain_timeout": "30s" });
    const deaf = await live(node, "deaf");
    deaf.ws._socket.pause();
    node.child.kill("SIGTERM");
    await until(async () => (await node.api("/readyz")).status === 503, "readyz 503");
    node.child.kill("SIGTERM");
    assert.equal((await within(node.exited, "the end")).code, 1);
  });
});
