// Connections that are lost and come back, with the real client: what the network does to them
// is done by a proxy.
import assert from "node:assert/strict";
import { request as httpRequest } from "node:http";
import { mkdtemp, readFile, readdir, rm, stat, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterEach, beforeEach, describe, it } from "node:test";
import parser from "socket.io-msgpack-parser";
import { Live, Returning, socketIo } from "./lib/clients.js";
import { Proxy } from "./lib/proxy.js";
import { PATIENCE, freePort, serve, token, until } from "./lib/server.js";
import { Book, Witness, liveWitness, socketIoWitness } from "./lib/witness.js";

const PLACE = /^hl\.[0-9a-z]+\.[0-9a-z]+$/;
const OPEN = {
  "recovery.window": "60s",
  "limits.messages": "off",
  "limits.events": "off",
  "limits.joins": "off",
};

/** What was started in a test, ended after it. */
const started = [];
async function world(set = {}) {
  const node = await serve({ ...OPEN, ...set });
  const proxy = await Proxy.to(node.port);
  started.push(
    () => proxy.close(),
    () => node.kill(),
  );
  return { node, proxy };
}
afterEach(async () => {
  for (const end of started.splice(0).reverse()) await end();
});

function client(proxy, user = "ann", options = {}) {
  const { claims, path = "", ...rest } = options;
  const socket = socketIo(proxy.http + path, {
    auth: { token: token(user, claims) },
    transports: ["websocket"],
    ...rest,
  });
  started.push(() => socket.disconnect());
  return socket;
}

/** One in another namespace, on the same connection; each keeps it from ending. */
function beside(socket, namespace) {
  const other = socket.io.socket(namespace, { auth: socket.auth });
  started.push(() => other.disconnect());
  return other;
}

const say = (node, room, event, data) =>
  node.api(`/v1/rooms/${room}/publish`, { method: "POST", body: { event, data } });
const sayToAll = (node, event, data) =>
  node.api("/v1/broadcast", { method: "POST", body: { event, data } });
const sayTo = (node, user, event, data) =>
  node.api(`/v1/users/${user}/emit`, { method: "POST", body: { event, data } });
const outcome = (node, what) => node.metric(`heartline_resumes_total{outcome="${what}"}`);

/** The data of the events of one name, in the order in which they came. */
const got = (socket, event) =>
  socket.heard.filter((one) => one.event === event).map((one) => one.args[0]);

/** Waits until a client has noticed that its connection is gone. */
const lost = (socket) => until(() => !socket.connected, "the loss");
/** Waits until it is back. */
async function back(socket) {
  await until(() => socket.connected, "the return");
  await until(() => socket.count("server:hello") > (socket.hellos ?? 1), "another hello");
  socket.hellos = socket.count("server:hello");
  return socket.heard.filter((one) => one.event === "server:hello").at(-1).args[0];
}

/** Cuts the client off, does `meanwhile`, and lets it come back. */
async function away(proxy, socket, meanwhile = () => {}, how = "cut") {
  proxy.refusing = true;
  proxy.all(how);
  await lost(socket);
  await meanwhile();
  proxy.refusing = false;
  return back(socket);
}

async function joined(socket, ...rooms) {
  await socket.connection();
  await socket.hear("server:hello");
  for (const room of rooms) assert.ok((await socket.ask("join", { room })).ok);
  return socket;
}

describe("socket.io-client comes back", { timeout: 180000 }, () => {
  for (const [name, options] of [
    ["by WebSocket", {}],
    ["by polling", { transports: ["polling"] }],
    ["by polling that upgrades", { transports: ["polling", "websocket"] }],
    ["with the msgpack parser", { parser }],
    ["with msgpack by polling", { parser, transports: ["polling"] }],
  ]) {
    it(`${name}: with its id, its rooms and what it missed`, async () => {
      const { node, proxy } = await world();
      const socket = await joined(client(proxy, "ann", options), "lobby");
      const order = [];
      socket.on("connect", () => order.push("connect"));
      socket.onAny((event) => order.push(`${event} ${socket.connected} ${socket.recovered}`));
      const id = socket.id;
      assert.equal(socket.recovered, false);
      await say(node, "lobby", "news", 1);
      await socket.hear("news");
      order.length = 0;
      const hello = await away(proxy, socket, async () => {
        await say(node, "lobby", "news", 2);
        await sayToAll(node, "all", 3);
        await sayTo(node, "ann", "own", 4);
        await say(node, "lobby", "news", "text");
      });
      assert.equal(socket.id, id);
      assert.equal(socket.recovered, true);
      assert.deepEqual([hello.recovered, hello.socketId], [true, id]);
      const missed = ["news true true", "all true true", "own true true", "news true true"];
      // As on Node, where all comes in one response. By WebSocket what comes before the answer
      // might come again, and would be heard twice.
      const isWhole = socket.io.opts.transports[0] === "polling" && !options.transports?.[1];
      const expected = order[0] === "connect" ? ["connect", ...missed] : [...missed, "connect"];
      assert.deepEqual(order.slice(0, 5), expected);
      if (isWhole) assert.equal(order[0], "news true true");
      assert.deepEqual(got(socket, "news"), [1, 2, "text"]);
      // It is in its rooms, and known by its id.
      await say(node, "lobby", "news", 5);
      await until(() => got(socket, "news").length === 4, "what comes after");
      const { body } = await node.api(`/v1/connections/${id}`);
      assert.deepEqual([body.socketId, body.rooms], [id, ["lobby", "user:ann"]]);
      assert.equal(await outcome(node, "recovered"), 1);
    });
  }

  it("by polling, although a POST was still on its way when the client gave up", async () => {
    const { node } = await world();
    const at = (sid) => `${node.http}/socket.io/?EIO=4&transport=polling${sid && `&sid=${sid}`}`;
    const connected = async (more) => {
      const { sid } = JSON.parse((await (await fetch(at(""))).text()).slice(1));
      const body = `40${JSON.stringify({ token: token("ann"), ...more })}`;
      await fetch(at(sid), { method: "POST", body });
      const packets = (await (await fetch(at(sid))).text()).split("\x1e");
      const answer = packets.find((packet) => packet.startsWith("40"));
      return { url: at(sid), ...JSON.parse(answer.slice(2)) };
    };
    const { url, pid, sid } = await connected();
    const slow = httpRequest(url, { method: "POST" });
    started.push(() => slow.destroy());
    const refused = new Promise((resolve) => slow.on("response", resolve));
    slow.on("error", () => {}).write("4");
    // Until the first has arrived, this one is the only POST.
    const second = () => fetch(url, { method: "POST", body: "3" });
    await until(async () => (await second()).status === 400, "two at once");
    assert.equal((await refused).statusCode, 400);
    assert.equal((await connected({ pid })).sid, sid);
    assert.equal(await outcome(node, "recovered"), 1);
  });

  it("the token comes in each CONNECT, and the place as one more argument of each event", async () => {
    const { node, proxy } = await world({ "namespaces./chat.auth.mode": "required" });
    const root = await joined(client(proxy));
    const chat = beside(root, "/chat");
    await until(() => chat.connected, "another namespace");
    assert.match(root._pid, /^[\w-]{20,}$/);
    assert.match(chat._pid, /^[\w-]{20,}$/);
    assert.notEqual(root._pid, chat._pid);
    await say(node, "user:ann", "one", { a: 1 });
    await sayToAll(node, "two", [1, 2]);
    for (const event of ["one", "two"]) {
      await root.hear(event);
      const [, place, ...more] = root.heard.find((one) => one.event === event).args;
      assert.match(place, PLACE);
      assert.deepEqual(more, []);
    }
  });

  it("without a window the CONNECT is as ever, and so are the events", async () => {
    const { node, proxy } = await world({ "recovery.window": "off" });
    const socket = await joined(client(proxy), "lobby");
    assert.equal(socket._pid, undefined);
    await say(node, "lobby", "news", "text");
    await socket.hear("news");
    assert.deepEqual(socket.heard.find((one) => one.event === "news").args, ["text"]);
    const id = socket.id;
    const hello = await away(proxy, socket);
    assert.ok(socket.id !== id && !socket.recovered && !hello.recovered);
    assert.ok(!("resume" in hello));
  });

  it("who has received no event yet is recovered", async () => {
    const { node, proxy } = await world();
    const socket = client(proxy);
    // Even the hello is lost: the answer to CONNECT is the last that comes.
    let pair;
    proxy.onPair = (one) => (pair = one);
    await socket.connection();
    const id = socket.id;
    proxy.refusing = true;
    pair.cut();
    await lost(socket);
    socket._lastOffset = undefined;
    await sayToAll(node, "all", 1);
    proxy.refusing = false;
    await until(() => socket.connected && socket.id === id, "the same socket");
    assert.equal(socket.recovered, true);
    await socket.hear("all");
    assert.equal(socket.count("all"), 1);
  });

  it("an idle client in a busy house is recovered: only its own rooms count", async () => {
    const { node, proxy } = await world({ "recovery.events": 10 });
    const idle = await joined(client(proxy), "quiet");
    const busy = await joined(client(proxy, "bob"), "loud");
    for (let number = 0; number < 40; number++) await say(node, "loud", "news", number);
    await until(() => busy.count("news") === 40, "the noise");
    proxy.refusing = true;
    proxy.all("cut");
    await lost(idle);
    for (let number = 0; number < 40; number++) await say(node, "loud", "news", number);
    await say(node, "quiet", "word", 1);
    proxy.refusing = false;
    assert.equal((await back(idle)).recovered, true);
    assert.deepEqual(got(idle, "word"), [1]);
    assert.equal((await back(busy)).recovered, false);
    assert.equal(await outcome(node, "trimmed"), 1);
  });

  it("events without arguments, texts and attachments mislead nobody", async () => {
    const { node, proxy } = await world();
    const ann = await joined(client(proxy), "lobby");
    const bob = await joined(client(proxy, "bob"), "lobby");
    const echo = (event, ...data) => bob.ask("publish", { room: "lobby", event, data: data[0] });
    await echo("nothing");
    await echo("text", "connected");
    await echo("bytes", Buffer.from([1, 2, 3]));
    await ann.hear("bytes");
    assert.match(ann._lastOffset, PLACE);
    for (let round = 0; round < 3; round++) {
      const missed = async () => {
        proxy.refusing = false;
        await bob.connection();
        await until(() => bob.connected, "bob");
        await echo("bytes", { a: Buffer.from([round]), b: "x" });
        await echo("nothing");
      };
      // Bob goes on alone; Ann is told afterwards.
      ann.io.engine.close();
      await lost(ann);
      await missed();
      assert.equal((await back(ann)).recovered, true);
    }
    await until(() => got(ann, "bytes").length === 4, "all bytes");
    assert.deepEqual([...got(ann, "bytes")[0]], [1, 2, 3]);
    assert.deepEqual(
      got(ann, "bytes")
        .slice(1)
        .map((one) => [...one.a]),
      [[0], [1], [2]],
    );
    assert.equal(ann.count("nothing"), 4);
  });

  it("a failed recovery leaves an old place behind, which does no harm", async () => {
    const { node, proxy } = await world({ "recovery.window": "5s" });
    const socket = await joined(client(proxy), "lobby");
    await say(node, "lobby", "news", 1);
    await socket.hear("news");
    const stale = socket._lastOffset;
    // Beyond the window.
    const id = socket.id;
    proxy.refusing = true;
    proxy.all("cut");
    await lost(socket);
    await until(async () => (await node.metric("heartline_suspended")) === 0, "the end");
    proxy.refusing = false;
    assert.equal((await back(socket)).recovered, false);
    assert.notEqual(socket.id, id);
    assert.deepEqual(socket.heard.filter((one) => one.event === "news").length, 1);
    // As if nothing had come since: the place is that of the session before.
    await socket.ask("join", { room: "lobby" });
    socket._lastOffset = stale;
    proxy.refusing = true;
    proxy.all("cut");
    await lost(socket);
    await say(node, "lobby", "news", 2);
    proxy.refusing = false;
    assert.equal((await back(socket)).recovered, true);
    assert.deepEqual(got(socket, "news"), [1, 2]);
  });

  it("a half-open connection is taken over at once, and its node learns that it is over", async () => {
    const { node, proxy } = await world();
    const socket = await joined(client(proxy), "lobby");
    const id = socket.id;
    for (let round = 1; round <= 3; round++) {
      const hello = await away(
        proxy,
        socket,
        async () => {
          await say(node, "lobby", "news", round);
          const { body } = await node.api("/v1/connections");
          assert.equal(body.items.length, 1, "the node does not know");
        },
        "halfOpen",
      );
      assert.deepEqual([hello.recovered, socket.id], [true, id]);
    }
    assert.deepEqual(got(socket, "news"), [1, 2, 3]);
    const { body } = await node.api("/v1/connections");
    assert.deepEqual(
      body.items.map((one) => one.socketId),
      [id],
    );
  });

  it("of two connections with one token one goes on, and the other is new", async () => {
    const { node, proxy } = await world();
    const one = await joined(client(proxy, "ann", { reconnection: false }), "lobby");
    const { _pid: pid, _lastOffset: offset, id } = one;
    one.io.engine.close();
    await lost(one);
    await say(node, "lobby", "news", 1);
    const auth = { token: token("ann"), pid, offset };
    const two = [1, 2].map(() => client(proxy, "ann", { auth, reconnection: false }));
    await Promise.all(two.map((socket) => socket.connection()));
    for (const socket of two) await socket.hear("server:hello");
    // The later one may have taken over, as if the first had been half-open.
    const hellos = two.map(
      (socket) => socket.heard.find((one) => one.event === "server:hello").args[0],
    );
    const alive = (await node.api("/v1/connections")).body.items.map((one) => one.socketId);
    assert.equal(new Set(alive).size, alive.length);
    assert.equal(alive.filter((one) => one === id).length, 1);
    assert.ok(hellos.some((hello) => hello.recovered));
    // Nobody else's.
    const other = client(proxy, "eve", { auth: { token: token("eve"), pid, offset } });
    await other.connection();
    assert.equal((await other.hear("server:hello")).recovered, false);
    assert.equal(other.count("news"), 0);
  });

  it("disconnect() is a goodbye, and the engine's end is none", async () => {
    const { node, proxy } = await world();
    const socket = await joined(client(proxy), "lobby");
    const id = socket.id;
    socket.io.engine.close();
    assert.equal((await back(socket)).recovered, true);
    assert.equal(socket.id, id);
    socket.disconnect();
    await until(async () => (await node.api("/v1/connections")).body.items.length === 0, "the end");
    await say(node, "lobby", "news", 1);
    socket.connect();
    assert.equal((await back(socket)).recovered, false);
    assert.notEqual(socket.id, id);
    assert.equal(socket.count("news"), 0);
    assert.equal(await node.metric("heartline_suspended"), 0);
  });

  it("two namespaces on one connection come back each with its own", async () => {
    const { node, proxy } = await world({ "namespaces./chat.auth.mode": "required" });
    const root = await joined(client(proxy), "lobby");
    const chat = beside(root, "/chat");
    const heard = [];
    chat.onAny((event, data) => heard.push([event, data]));
    await until(() => chat.connected, "another namespace");
    await new Promise((resolve) => chat.emit("join", { room: "lobby" }, resolve));
    const ids = [root.id, chat.id];
    await away(proxy, root, async () => {
      await say(node, "lobby", "news", "root");
      await node.api("/v1/rooms/lobby/publish", {
        method: "POST",
        body: { event: "news", data: "chat", namespace: "/chat" },
      });
    });
    await until(() => chat.connected, "both");
    assert.deepEqual([root.id, chat.id], ids);
    assert.ok(root.recovered && chat.recovered);
    assert.deepEqual(got(root, "news"), ["root"]);
    await until(() => heard.some(([event]) => event === "news"), "the other's");
    assert.deepEqual(
      heard.filter(([event]) => event === "news"),
      [["news", "chat"]],
    );
  });

  it("whatever byte a connection is cut at, each event comes once and in order", async () => {
    const { node, proxy } = await world();
    const socket = await joined(client(proxy), "lobby");
    const id = socket.id;
    let said = 0;
    for (let round = 0; round < 25; round++) {
      const pair = [...proxy.pairs].find((one) => !one.client.destroyed && !one.held);
      pair.after(round * 7, (one) => (round % 2 ? one.cut() : one.reset()));
      while (!pair.client.destroyed) await say(node, "lobby", "news", ++said);
      const hello = await back(socket);
      assert.deepEqual([hello.recovered, socket.id], [true, id], `round ${round}`);
    }
    await say(node, "lobby", "news", ++said);
    await until(() => got(socket, "news").includes(said), "the last");
    assert.deepEqual(
      got(socket, "news"),
      Array.from({ length: said }, (_, index) => index + 1),
    );
  });
});

describe("who comes back is who left", { timeout: 180000 }, () => {
  const renewed = (socket, user, claims) => (socket.auth = { token: token(user, claims) });

  it("with another user's token everything is fresh", async () => {
    const { node, proxy } = await world();
    const socket = await joined(client(proxy), "lobby");
    const hello = await away(proxy, socket, async () => {
      renewed(socket, "bob");
      await say(node, "lobby", "news", 1);
    });
    assert.deepEqual([hello.recovered, hello.userId], [false, "bob"]);
    assert.equal(socket.count("news"), 0);
    assert.equal(await outcome(node, "foreign"), 1);
  });

  it("with a token that has lost a room it is told, and hears nothing of that room", async () => {
    const { node, proxy } = await world();
    const socket = await joined(client(proxy, "ann", { claims: { rooms: ["a", "b"] } }), "a", "b");
    const hello = await away(proxy, socket, async () => {
      renewed(socket, "ann", { rooms: ["a"] });
      await say(node, "b", "news", "b");
      await say(node, "a", "news", "a");
    });
    assert.equal(hello.recovered, true);
    assert.deepEqual(await socket.hear("room:left"), { room: "b", reason: "forbidden" });
    assert.deepEqual(got(socket, "news"), ["a"]);
  });

  it("an expired token is refused, and with a new one the session goes on", async () => {
    const { node, proxy } = await world();
    const exp = Math.ceil(Date.now() / 1000) + 4;
    const socket = await joined(client(proxy, "ann", { claims: { exp } }), "lobby");
    const id = socket.id;
    renewed(socket, "ann");
    proxy.refusing = true;
    // The node lets it go.
    await socket.hear("auth:error");
    await lost(socket);
    await say(node, "lobby", "news", 1);
    proxy.refusing = false;
    assert.deepEqual([(await back(socket)).recovered, socket.id], [true, id]);
    assert.deepEqual(got(socket, "news"), [1]);
  });

  it("who was sent away begins afresh", async () => {
    const { node, proxy } = await world();
    const socket = await joined(client(proxy), "lobby");
    const { id } = socket;
    // It had come back before: it is known by its id all the same.
    await away(proxy, socket);
    assert.equal(socket.id, id);
    assert.equal((await node.api(`/v1/connections/${id}`, { method: "DELETE" })).status, 200);
    await lost(socket);
    socket.connect();
    assert.equal((await back(socket)).recovered, false);
    // While it was away.
    const next = socket.id;
    proxy.refusing = true;
    proxy.all("cut");
    await lost(socket);
    await until(async () => (await node.metric("heartline_suspended")) === 1, "it waits");
    const { body } = await node.api(`/v1/connections/${next}`);
    assert.deepEqual(
      [body.state, body.transport, body.remoteAddr, body.rooms],
      ["suspended", "websocket", "127.0.0.1", ["user:ann"]],
    );
    assert.equal((await node.api(`/v1/connections/${next}`, { method: "DELETE" })).status, 200);
    assert.equal((await node.api(`/v1/connections/${next}`)).status, 404);
    proxy.refusing = false;
    assert.equal((await back(socket)).recovered, false);
  });

  it("who was replaced begins afresh", async () => {
    const { proxy } = await world({ "devices.policy": "replace" });
    const first = await joined(client(proxy));
    const second = await joined(client(proxy));
    await first.hear("connection:replaced");
    await lost(first);
    first.connect();
    assert.equal((await back(first)).recovered, false);
    second.disconnect();
  });

  for (const set of [
    { "devices.policy": "replace" },
    { "devices.policy": "limit", "devices.max": 1 },
  ]) {
    it(`a half-open connection does not stand in its own way: ${set["devices.policy"]}`, async () => {
      const { node, proxy } = await world(set);
      const socket = await joined(client(proxy, "ann", { claims: { deviceId: "d" } }), "lobby");
      const nameless = await joined(client(proxy, "bob"), "lobby");
      const ids = [socket.id, nameless.id];
      proxy.refusing = true;
      proxy.all("halfOpen");
      await lost(socket);
      await lost(nameless);
      await say(node, "lobby", "news", 1);
      proxy.refusing = false;
      for (const one of [socket, nameless]) {
        assert.equal((await back(one)).recovered, true);
        assert.equal(one.count("connection:replaced"), 0);
        assert.deepEqual(got(one, "news"), [1]);
      }
      assert.deepEqual([socket.id, nameless.id], ids);
    });
  }

  it("the others hear that it went and came, or nothing within the grace", async () => {
    for (const grace of ["0s", "1m"]) {
      const { node, proxy } = await world({ "presence.offline_grace": grace });
      const watching = await joined(socketIo(node.http, { auth: { token: token("bob") } }));
      started.push(() => watching.disconnect());
      const socket = await joined(client(proxy));
      await watching.hear("user:online", (data) => data.userId === "ann");
      const heard = () =>
        watching.heard
          .filter((one) => one.args[0]?.userId === "ann" && one.event.startsWith("user:"))
          .map((one) => one.event);
      await away(proxy, socket, async () => {
        if (grace === "0s") await watching.hear("user:offline");
      });
      assert.equal(socket.recovered, true);
      // Half-open: it was never away.
      await away(proxy, socket, () => {}, "halfOpen");
      assert.equal(socket.recovered, true);
      await sayToAll(node, "end", 1);
      await watching.hear("end");
      const went = grace === "0s" ? ["user:offline", "user:online"] : [];
      assert.deepEqual(heard(), ["user:online", ...went]);
      // Nobody hears of themselves.
      assert.deepEqual(
        socket.heard.filter(
          (one) => one.args[0]?.userId === "ann" && one.event.startsWith("user:"),
        ),
        [],
      );
    }
  });

  it("after a shedding it goes on where it was", async () => {
    const { node, proxy } = await world();
    const socket = await joined(client(proxy), "lobby");
    const id = socket.id;
    const { body } = await node.api("/v1/nodes");
    const shed = { method: "POST", body: { share: 1, overMs: 0 } };
    const asked = await node.api(`/v1/nodes/${body.nodes[0].nodeId}/shed`, shed);
    assert.ok(asked.status < 300, asked.text);
    await lost(socket);
    await say(node, "lobby", "news", 1);
    assert.deepEqual([(await back(socket)).recovered, socket.id], [true, id]);
    assert.deepEqual(got(socket, "news"), [1]);
  });

  it("who was too slow goes on, or is told", async () => {
    const { node, proxy } = await world({ "server.send_buffer": "64KB" });
    const socket = await joined(client(proxy), "lobby");
    const [pair] = proxy.pairs;
    pair.node.pause();
    const text = "x".repeat(30000);
    for (let number = 1; pair.node && number <= 400; number++) {
      await say(node, "lobby", "news", text + number);
      const slow = await node.metric(`heartline_disconnects_total{reason="slow_consumer"}`);
      if (slow > 0) break;
    }
    pair.cut();
    const hello = await back(socket);
    // More was missed than is kept or fits.
    assert.equal(hello.recovered, false);
    await socket.ask("join", { room: "lobby" });
    await say(node, "lobby", "news", "small");
    await socket.hear("news", (data) => data === "small");
  });
});

describe("what is kept", { timeout: 180000 }, () => {
  it("rooms by their names, and the others are as ever", async () => {
    const { node, proxy } = await world({ "recovery.rooms": '["kept:*"]' });
    const socket = await joined(client(proxy), "kept:a", "map");
    const missed = async () => {
      await say(node, "kept:a", "news", 1);
      await say(node, "map", "news", "not kept");
      await sayToAll(node, "news", "to all");
    };
    assert.equal((await away(proxy, socket, missed)).recovered, true);
    assert.deepEqual(got(socket, "news"), [1]);
    // A text that is not kept does not become a place.
    await say(node, "map", "news", "text");
    await socket.hear("news", (data) => data === "text");
    assert.match(socket._lastOffset, PLACE);
    assert.equal((await away(proxy, socket, missed)).recovered, true);
    assert.deepEqual(got(socket, "news"), [1, "text", 1]);
  });

  for (const [name, set, missed, why] of [
    ["events of a room", { "recovery.events": 5 }, 6, "trimmed"],
    ["bytes of a room", { "recovery.bytes": "2KB" }, 60, "trimmed"],
    ["bytes of a node", { "recovery.buffer": "2KB" }, 60, "trimmed"],
    ["events of one resume", { "recovery.max_replay": 5 }, 6, "too_much"],
  ]) {
    it(`more than the bound is no gap but a fresh start: ${name}`, async () => {
      const { node, proxy } = await world(set);
      const socket = await joined(client(proxy), "lobby");
      let said = 0;
      const few = async () => {
        for (let number = 0; number < 3; number++) await say(node, "lobby", "news", ++said);
      };
      assert.equal((await away(proxy, socket, few)).recovered, true);
      assert.deepEqual(got(socket, "news"), [1, 2, 3]);
      const many = async () => {
        for (let number = 0; number < missed; number++) await say(node, "lobby", "news", ++said);
      };
      assert.equal((await away(proxy, socket, many)).recovered, false);
      assert.deepEqual(got(socket, "news"), [1, 2, 3]);
      assert.equal(await outcome(node, why), 1);
    });
  }

  it("an event too large to be kept is no gap, whatever it went to", async () => {
    const { node, proxy } = await world();
    const large = "x".repeat(70000);
    for (const tell of [
      () => say(node, "lobby", "large", large),
      () => sayToAll(node, "large", large),
      () => sayTo(node, "ann", "large", large),
    ]) {
      const socket = await joined(client(proxy), "lobby");
      assert.equal((await away(proxy, socket, tell)).recovered, false);
      socket.disconnect();
    }
    assert.equal(await outcome(node, "trimmed"), 3);
  });

  it("of too many sessions the first that was lost is given up", async () => {
    const { node, proxy } = await world({ "recovery.sessions": 1 });
    const [first, second] = [await joined(client(proxy)), await joined(client(proxy, "bob"))];
    proxy.refusing = true;
    first.io.engine.close();
    await until(async () => (await node.metric("heartline_suspended")) === 1, "one waits");
    second.io.engine.close();
    const there = "/v1/connections?state=connected";
    const left = async () => (await node.api(there)).body.items.length === 0;
    await until(left, "both are lost");
    assert.equal(await node.metric("heartline_suspended"), 1);
    proxy.refusing = false;
    assert.equal((await back(first)).recovered, false);
    assert.equal((await back(second)).recovered, true);
  });

  it("what is kept is given back", async () => {
    const { node, proxy } = await world({
      "recovery.window": "3s",
      "heartbeat.interval": "1s",
      "heartbeat.timeout": "3s",
    });
    const socket = await joined(client(proxy), "lobby");
    await away(proxy, socket, () => say(node, "lobby", "news", 1));
    assert.ok((await node.metric("heartline_kept_bytes")) > 0);
    socket.disconnect();
    const nothing = async () =>
      (await node.metric("heartline_kept_bytes")) === 0 &&
      (await node.metric("heartline_suspended")) === 0;
    await until(nothing, "nothing is kept", 60_000);
  });
});

describe("a node that is stopped and starts again", { timeout: 180000 }, () => {
  /** A directory, and what starts a node in it, always on the same port. */
  async function home(set = {}) {
    const cwd = await mkdtemp(join(tmpdir(), "heartline-home-"));
    started.push(() => rm(cwd, { recursive: true, force: true }));
    const port = await freePort();
    const start = async (more = {}) => {
      const node = await serve({ ...OPEN, ...set, ...more }, { port, cwd });
      started.push(() => node.kill());
      return node;
    };
    return { cwd, port, start };
  }
  const left = (cwd) => readdir(cwd).then((names) => names.filter((name) => /resume/.test(name)));
  const emit = (node, id, event, data) =>
    node.api(`/v1/connections/${id}/emit`, { method: "POST", body: { event, data } });

  it("its clients are recovered, and nothing is missing or comes twice", async () => {
    const { cwd, port, start } = await home();
    let node = await start();
    const proxy = await Proxy.to(port);
    started.push(() => proxy.close());
    const ann = await joined(client(proxy), "lobby");
    const bob = await joined(client(proxy, "bob", { transports: ["polling"] }), "lobby");
    const [ids, both] = [
      [ann.id, bob.id],
      [ann, bob],
    ];
    await say(node, "lobby", "news", 1);
    await emit(node, ann.id, "news", 2);
    for (const one of both) await until(() => got(one, "news").includes(1), "the first");
    await until(() => got(ann, "news").includes(2), "the second");
    // Away when it stops: they have not got the rest.
    proxy.refusing = true;
    proxy.all("cut");
    for (const one of both) await lost(one);
    await say(node, "lobby", "news", 3);
    for (const one of both)
      assert.equal((await emit(node, ids[both.indexOf(one)], "news", 4)).status, 200);
    await sayTo(node, "ann", "news", 5);
    await sayToAll(node, "news", 6);
    assert.equal(await node.stop(), 0);
    assert.deepEqual(await left(cwd), ["heartline.resume"]);
    assert.equal((await stat(join(cwd, "heartline.resume"))).mode & 0o777, 0o600);
    node = await start();
    assert.deepEqual(await left(cwd), []);
    await say(node, "lobby", "news", 7);
    proxy.refusing = false;
    for (const one of both) {
      const hello = await back(one);
      assert.ok(one.recovered && hello.recovered);
    }
    assert.deepEqual([ann.id, bob.id], ids);
    await say(node, "lobby", "news", 8);
    for (const one of both) await until(() => got(one, "news").includes(8), "the last");
    assert.deepEqual(got(ann, "news"), [1, 2, 3, 4, 5, 6, 7, 8]);
    assert.deepEqual(got(bob, "news"), [1, 3, 4, 6, 7, 8]);
  });

  it("who is connected when it stops goes on as well, with or without something to miss", async () => {
    const { port, start } = await home();
    let node = await start();
    const ann = await joined(client({ http: `http://127.0.0.1:${port}` }), "lobby");
    for (let round = 1; round <= 3; round++) {
      await say(node, "lobby", "news", round);
      await node.stop();
      node = await start();
      await back(ann);
      assert.ok(ann.recovered);
      await say(node, "lobby", "news", -round);
    }
    await until(() => got(ann, "news").length >= 6, "all");
    assert.deepEqual(got(ann, "news"), [1, -1, 2, -2, 3, -3]);
  });

  it("and another one beside it, which starts later, does not take that from it", async () => {
    const { cwd, port, start } = await home();
    let node = await start();
    const other = await serve(OPEN, { port: await freePort(), cwd });
    started.push(() => other.kill());
    await until(() => /another gateway runs in this directory/.test(other.log), "its word");
    const ann = await joined(client({ http: `http://127.0.0.1:${port}` }), "lobby");
    await node.stop();
    assert.equal(await other.stop(), 0);
    assert.deepEqual(await left(cwd), ["heartline.resume"]);
    node = await start();
    await back(ann);
    assert.ok(ann.recovered);
  });

  it("without a window it leaves nothing, and what is damaged or foreign is no start", async () => {
    const { cwd, port, start } = await home({ "recovery.window": "off" });
    const off = await start();
    await off.stop();
    assert.deepEqual(await left(cwd), []);
    const file = join(cwd, "heartline.resume");
    await writeFile(file, "something else");
    let node = await start({ "recovery.window": "60s" });
    await until(() => /cannot be used.*damaged, or another program's/.test(node.log), "its word");
    const ann = await joined(client({ http: `http://127.0.0.1:${port}` }), "lobby");
    await node.stop();
    const bytes = await readFile(file);
    bytes[bytes.length >> 1] ^= 1;
    await writeFile(file, bytes);
    node = await start({ "recovery.window": "60s" });
    await back(ann);
    assert.ok(!ann.recovered);
    await until(() => /damaged/.test(node.log), "its word");
    // Nobody else reads what a node was offered that makes no use of it.
    await node.stop();
    assert.deepEqual(await left(cwd), ["heartline.resume"]);
    await (await start()).stop();
    assert.deepEqual(await left(cwd), []);
  });
});

describe("a live client comes back", { timeout: 180000 }, () => {
  const live = async (proxy, ...topics) => {
    const client = new Returning(proxy);
    started.push(() => client.live.close());
    await client.connect();
    await client.subscribe(...topics);
    return client;
  };
  const parked = (node) =>
    until(async () => (await node.metric("heartline_suspended")) > 0, "it waits");

  for (const how of ["cut", "reset", "halfOpen"]) {
    it(`to its id, its topics and what it missed of each: ${how}`, async () => {
      const { node, proxy } = await world();
      const client = await live(proxy, "a", "b");
      const { socketId } = client.hellos[0];
      await say(node, "a", "news", 1);
      await until(() => client.data("news").length === 1, "the first");
      await client.lose(how);
      if (how !== "halfOpen") await parked(node);
      for (const [topic, data] of [
        ["a", 2],
        ["b", 3],
        ["a", 4],
      ])
        await say(node, topic, "news", data);
      await sayToAll(node, "all", 5);
      const hello = await client.connect();
      assert.deepEqual([hello.recovered, hello.socketId], [true, socketId]);
      await until(() => client.data("news").length === 4, "the rest");
      assert.deepEqual(client.data("news"), [1, 2, 4, 3]);
      assert.deepEqual(client.data("all"), [5]);
      assert.ok(client.subscribed.a.recovered && client.subscribed.b.recovered);
      await say(node, "b", "news", 6);
      await until(() => client.data("news").length === 5, "what comes after");
    });
  }

  it("closing with 1000 is a goodbye; 1001, no code and no close are none", async () => {
    const { node, proxy } = await world();
    for (const [end, comes] of [
      [(ws) => ws.close(1000), false],
      [(ws) => ws.close(1001), true],
      [(ws) => ws.close(), true],
      [(ws) => ws.terminate(), true],
    ]) {
      const client = await live(proxy, "a");
      end(client.live.ws);
      await client.live.end();
      const there = "/v1/connections?state=connected";
      const gone = async () => (await node.api(there)).body.items.length === 0;
      await until(gone, "the node has seen it");
      assert.equal((await client.connect()).recovered, comes, end.toString());
      client.live.ws.close(1000);
      await client.live.end();
      await until(gone, "the node has seen it");
    }
  });

  it("topics that are not granted any more are left, and the others go on", async () => {
    const { node, proxy } = await world();
    const client = await live(proxy, "a", "b");
    await client.lose();
    await parked(node);
    await say(node, "b", "news", "secret");
    client.claims = { rooms: ["a"] };
    assert.equal((await client.connect()).recovered, true);
    await client.live.hear(
      "unsubscribed",
      (frame) => frame.topic === "b" && frame.reason === "forbidden",
    );
    await client.live.hear("subscribed", (frame) => frame.topic === "a" && frame.recovered);
    await client.live.ask({ type: "ping" });
    assert.deepEqual(client.data("news"), []);
  });

  it("more topics than a limit on joins allows come back together", async () => {
    const { node, proxy } = await world({ "limits.joins": '{ count = 30, window = "10s" }' });
    const client = await live(proxy, ...Array.from({ length: 25 }, (_, number) => `t${number}`));
    for (let round = 0; round < 3; round++) {
      await client.lose();
      await parked(node);
      assert.equal((await client.connect()).recovered, true);
      await client.live.ask({ type: "ping" });
      assert.deepEqual(
        client.data("error").length + client.got.filter(({ type }) => type === "error").length,
        0,
      );
    }
  });

  it("who subscribes again by itself is told of each topic", async () => {
    const { node, proxy } = await world({ "recovery.events": 4 });
    const client = await live(proxy, "a", "b");
    await client.lose();
    await parked(node);
    for (let number = 0; number < 3; number++) await say(node, "a", "news", number);
    for (let number = 0; number < 5; number++) await say(node, "b", "news", number);
    const other = await Live.connect(proxy.live, token("ann"));
    started.push(() => other.close());
    for (const [topic, recovered, offset, events] of [
      ["a", true, 0, 3],
      ["b", false, 5, 0],
    ]) {
      const recover = client.topics.get(topic);
      const answer = await other.ask({ type: "subscribe", topic, recover });
      assert.deepEqual([answer.recovered, answer.offset], [recovered, offset]);
      await other.ask({ type: "ping" });
      assert.equal(
        other.heard.filter(
          (one) => one.topic === topic && one.offset !== undefined && one.type === "news",
        ).length,
        events,
      );
    }
    // Nonsense is a fresh start, and no error.
    for (const recover of [
      { epoch: "x", offset: 3 },
      { epoch: client.topics.get("a").epoch, offset: 99 },
    ]) {
      assert.equal((await other.ask({ type: "subscribe", topic: "a", recover })).recovered, false);
    }
  });

  it("a newcomer gets the newest of each key, whoever said it", async () => {
    const { node, proxy } = await world();
    const client = await live(proxy, "map");
    for (const self of [true, false]) {
      for (const x of [1, 2]) {
        const key = `k${self}`;
        await client.live.ask({ type: "publish", topic: "map", event: "at", data: x, key, self });
      }
    }
    const other = await Live.connect(node.live, token("bob"));
    started.push(() => other.close());
    const { snapshot } = await other.ask({ type: "subscribe", topic: "map" });
    assert.deepEqual(
      snapshot.map(({ key, data }) => [key, data]),
      [
        ["ktrue", 2],
        ["kfalse", 2],
      ],
    );
    // Who said it for others does not hear it when it comes back.
    await client.lose();
    await parked(node);
    client.got = [];
    assert.equal((await client.connect()).recovered, true);
    await client.live.ask({ type: "ping" });
    assert.deepEqual(client.data("at"), []);
  });
});

describe("under torture", { timeout: 240000 }, () => {
  const [CLIENTS, ROOMS, MS, CUTS] = [100, 12, 12000, 100];

  it("each client has all of its rooms once and in order, or begins afresh and knows it", async (t) => {
    const { node, proxy } = await world({
      // Who comes back late on a busy machine is to find what there was.
      "recovery.window": "10m",
      "server.worker_threads": 2,
      "recovery.events": 4096,
      "recovery.bytes": "4MB",
      "recovery.max_replay": 4000,
      "server.send_buffer": "4MB",
    });
    let cuts = 0;
    const ways = ["cut", "cut", "cut", "reset", "reset", "halfOpen"];
    const pick = (list) => list[Math.floor(Math.random() * list.length)];
    const names = Array.from({ length: ROOMS }, (_, number) => `r${number}`);
    const book = new Book(names);
    const clients = Array.from({ length: CLIENTS }, (_, number) => {
      const witness = new Witness(
        book,
        [0, 3, 7].map((step) => names[(number + step) % ROOMS]),
      );
      // Whose connection breaks before it has come about is told of that.
      const timeout = PATIENCE;
      return number % 3 === 2
        ? liveWitness(proxy.live, `u${number}`, witness, { timeout })
        : socketIoWitness(proxy.http, `u${number}`, witness, {
            timeout,
            transports: number % 4 === 1 ? ["polling"] : ["websocket"],
            ...(number % 6 === 0 && { parser }),
          });
    });
    started.push(...clients.map((one) => () => one.close()));
    const begun = () => clients.every(({ witness }) => witness.fresh > 0);
    await until(begun, "all are there");
    // From here on connections break, each at some byte to either side.
    const breaks = (pair) => {
      // Some late enough for all that was missed to get through in one response.
      const bytes = Math.floor(Math.random() * pick([8000, 8000, 100_000]));
      const to = Math.random() < 0.2 ? "node" : "client";
      pair.after(bytes, (one) => (cuts++, one[pick(ways)]()), to);
    };
    for (const pair of proxy.pairs) breaks(pair);
    proxy.onPair = breaks;
    // A slow machine takes longer to come to as many.
    const from = Date.now();
    const isOver = () => {
      const time = Date.now() - from;
      return time > 10 * MS || (time > MS && cuts > CUTS);
    };
    const saying = (data) => say(node, data.room, "news", data);
    const publisher = async (rooms) => {
      while (!isOver()) for (const room of rooms) await book.say(room, saying);
    };
    const noise = setInterval(() => pick(clients).publish(pick(names), 1), 5);
    await Promise.all([0, 1, 2].map((part) => publisher(names.filter((_, at) => at % 3 === part))));
    clearInterval(noise);
    proxy.onPair = () => {};
    for (const pair of proxy.pairs) pair.after(Infinity, () => {});
    const late = () => clients.filter(({ witness }) => !witness.isDone()).length;
    // One last word, for those who begin afresh after the rest.
    for (const room of names) await book.say(room, saying);
    await until(() => late() === 0, "all have the last event", 30000).catch(() => {});
    const faults = clients.flatMap(({ witness }, number) => {
      const { gaps, duplicates, inversions } = witness.verdict();
      return [...gaps, ...duplicates, ...inversions].map((one) => `client ${number}, ${one}`);
    });
    const sum = (name) => clients.reduce((sum, { witness }) => sum + witness[name], 0);
    const [recovered, fresh] = [sum("recovered"), sum("fresh") - CLIENTS];
    const { text } = await node.api("/metrics");
    const outcomes = text
      .split("\n")
      .filter((line) => /^heartline_resumes_total.* [1-9]/.test(line));
    t.diagnostic(
      `${CLIENTS} clients, ${book.said} events, ${cuts} cuts, ${recovered} resumed, ${fresh} afresh; ${outcomes.join(" ")}`,
    );
    assert.deepEqual(faults.slice(0, 10), [], `${faults.length} faults`);
    assert.equal(late(), 0);
    assert.ok(cuts > CUTS && recovered >= 0.99 * (recovered + fresh), `${recovered} and ${fresh}`);
  });
});
