// What a client wants to find again: checkpoints, and what is told of them after the hello.
import assert from "node:assert/strict";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, before, describe, it } from "node:test";
import { Live, socketIo } from "./lib/clients.js";
import { PATIENCE, serve, token, until } from "./lib/server.js";

let folder, files;
before(() => {
  folder = mkdtempSync(join(tmpdir(), "heartline-sessions-"));
  files = 0;
});
after(() => rmSync(folder, { recursive: true, force: true }));

const file = () => join(folder, `${files++}.db`);
const start = (path, set = {}) =>
  serve({
    "store.url": `sqlite://${path}`,
    "server.drain_timeout": "200ms",
    "auth.mode": "optional",
    ...set,
  });

/** A Socket.IO client of a user, connected. */
async function client(node, user, claims = {}) {
  const auth = user ? { token: token(user, claims) } : {};
  const socket = socketIo(node.http, { auth, transports: ["websocket"], reconnection: false });
  await socket.connection();
  return socket;
}

/** Nothing of this name has come by the time that a question asked now is answered. */
async function hearsNo(socket, event) {
  await socket.ask("ping");
  await socket.ask("ping");
  assert.equal(socket.count(event), 0);
}

const keep = (socket, ...args) => socket.ask("session:checkpoint", ...args);

for (const store of ["memory:", "sqlite"])
  describe(`a checkpoint, ${store}`, { timeout: 180000 }, () => {
    let node;
    before(async () => {
      const set = store === "memory:" ? { "store.url": store } : {};
      node = await start(file(), { ...set, "checkpoint.rooms": '["*"]' });
    });
    after(() => node.kill());

    it("is told after the hello to who comes back, with the rooms that there were", async () => {
      const first = await client(node, "ann");
      await hearsNo(first, "session:resume");
      assert.deepEqual(await keep(first, { bet: { on: 7, size: 2 }, tab: "live" }), {
        ok: true,
        version: 1,
      });
      assert.deepEqual(await keep(first, { bet: { size: null } }), { ok: true, version: 2 });
      for (const room of ["lobby", "game:1", "game:2"]) await first.ask("join", room);
      await first.ask("leave", "lobby");
      const before = Date.now();
      first.close();
      const second = await client(node, "ann");
      const resumed = await second.hear("session:resume");
      const { lastSeenAt, ...rest } = resumed;
      assert.deepEqual(rest, {
        metadata: { bet: { on: 7 }, tab: "live" },
        rooms: ["game:2", "game:1"],
        version: 2,
      });
      assert.ok(lastSeenAt >= before - 1 && lastSeenAt <= Date.now());
      const order = second.heard.map((one) => one.event);
      assert.deepEqual(order.slice(0, 3), ["server:hello", "connection:success", "session:resume"]);
      // The rooms are named, not joined.
      await second.ask("publish", { room: "game:1", event: "e", data: 1 });
      await hearsNo(second, "e");
      second.close();
    });

    it("belongs to its user alone", async () => {
      const driver = await client(node, "eve", { userType: "driver" });
      await keep(driver, { a: 1 });
      for (const claims of [{}, { userType: "rider" }, { tenantId: "t", userType: "driver" }]) {
        const other = await client(node, "eve", claims);
        await hearsNo(other, "session:resume");
        other.close();
      }
      driver.close();
    });

    it("says to the slower of two devices what there is", async () => {
      const [phone, tablet] = [await client(node, "bob"), await client(node, "bob")];
      assert.equal((await keep(phone, { a: 1 }, { ifVersion: 0 })).version, 1);
      const conflict = await keep(tablet, { a: 2 }, { ifVersion: 0 });
      const { error, ...rest } = conflict;
      assert.ok(error);
      assert.deepEqual(rest, { ok: false, code: "CONFLICT", version: 1, metadata: { a: 1 } });
      assert.equal((await keep(tablet, { a: 2 }, { ifVersion: 1 })).version, 2);
      const both = await Promise.all([
        keep(phone, { by: "phone" }, { ifVersion: 2 }),
        keep(tablet, { by: "tablet" }, { ifVersion: 2 }),
      ]);
      assert.deepEqual(both.map((one) => one.code ?? "kept").sort(), ["CONFLICT", "kept"]);
      phone.close();
      tablet.close();
    });

    it("answers each of ten that come together", async () => {
      const socket = await client(node, "cid");
      const all = Array.from({ length: 10 }, (_, number) => keep(socket, { [number]: number }));
      const versions = (await Promise.all(all)).map((one) => one.version);
      assert.deepEqual(versions, [1, 2, 3, 4, 5, 6, 7, 8, 9, 10]);
      socket.close();
    });

    it("has bounds, and says what there would have been", async () => {
      const socket = await client(node, "dan");
      const long = await keep(socket, { a: "x".repeat(5000) });
      assert.deepEqual([long.ok, long.code, long.size, long.max], [false, "TOO_LARGE", 5008, 4096]);
      const many = Object.fromEntries(Array.from({ length: 129 }, (_, name) => [name, 1]));
      const members = await keep(socket, many);
      assert.deepEqual([members.code, members.size, members.max], ["TOO_LARGE", 129, 128]);
      let deep = {};
      for (let level = 1; level < 17; level++) deep = { deep };
      const depth = await keep(socket, deep);
      assert.deepEqual([depth.code, depth.size, depth.max], ["TOO_LARGE", 17, 16]);
      for (const [...args] of [
        [1],
        ["text"],
        [null],
        [[]],
        [],
        [{}, { ifVersion: "1" }],
        [{}, { ifVersion: -1 }],
        [{}, {}, {}],
        [{ image: Buffer.from("bytes") }],
      ])
        assert.equal((await keep(socket, ...args)).code, "INVALID_DATA", JSON.stringify(args));
      // None of it has left anything behind.
      assert.equal((await keep(socket, {}, {})).version, 1);
      socket.close();
      const nobody = await client(node);
      assert.equal((await keep(nobody, { a: 1 })).code, "AUTH_REQUIRED");
      nobody.close();
    });

    it("is kept and told on the live protocol as well", async () => {
      const frame = (data) => ({ type: "emit", event: "session:checkpoint", data });
      const first = await Live.connect(node.live, token("fay"));
      assert.deepEqual((await first.ask(frame({ a: 1 }))).data, { ok: true, version: 1 });
      const both = await first.ask(frame([{ b: 2 }, { ifVersion: 1 }]));
      assert.deepEqual(both.data, { ok: true, version: 2 });
      const late = await first.ask(frame([{ b: 3 }, { ifVersion: 1 }]));
      assert.deepEqual([late.data.code, late.data.metadata], ["CONFLICT", { a: 1, b: 2 }]);
      await first.ask({ type: "subscribe", topic: "news" });
      first.close();
      const second = await Live.connect(node.live, token("fay"));
      const { data } = await second.hear("session:resume");
      assert.deepEqual([data.metadata, data.rooms, data.version], [{ a: 1, b: 2 }, ["news"], 2]);
      second.close();
    });
  });

describe("checkpoints", { timeout: 240000 }, () => {
  it("keep only the rooms that they are told to keep, the newest of too many", async () => {
    const node = await start(file(), { "checkpoint.rooms": '["game:*","lobby"]' });
    const first = await client(node, "ann");
    await keep(first, {});
    for (const room of ["lobby", "chat", "game"]) await first.ask("join", room);
    for (let game = 0; game < 40; game++) await first.ask("join", `game:${game}`);
    first.close();
    const second = await client(node, "ann");
    const { rooms } = await second.hear("session:resume");
    assert.deepEqual(
      rooms,
      Array.from({ length: 32 }, (_, index) => `game:${39 - index}`),
    );
    second.close();
    await node.kill();
  });

  it("bring their rooms along where that is wanted, as far as the token grants them", async () => {
    const node = await start(file(), { "session.rejoin": "true" });
    const first = await client(node, "ann");
    await keep(first, {});
    for (const room of ["a", "b", "c"]) await first.ask("join", room);
    first.close();
    const second = await client(node, "ann", { rooms: ["a", "c"] });
    assert.deepEqual((await second.hear("session:resume")).rooms, ["c", "b", "a"]);
    const joined = () => second.heard.filter((one) => one.event === "room:joined");
    await until(() => joined().length === 2, "both rooms");
    assert.deepEqual(
      joined().map((one) => one.args[0].room),
      ["a", "c"],
    );
    const other = await client(node, "bob");
    for (const room of ["a", "b", "c"])
      await other.ask("publish", { room, event: "said", data: room });
    await second.hear("said", (room) => room === "c");
    assert.deepEqual(
      second.heard.filter((one) => one.event === "said").map((one) => one.args[0]),
      ["a", "c"],
    );
    await node.kill();
  });

  it("are not told to who is recovered, who has everything", async () => {
    const node = await start(file(), { "recovery.window": "20s" });
    const auth = { token: token("ann") };
    const first = socketIo(node.http, { auth, transports: ["websocket"] });
    await first.connection();
    const { id } = first;
    await keep(first, { a: 1 });
    await first.ask("join", "lobby");
    first.io.engine.close();
    await until(() => first.connected && first.recovered, "a recovery");
    assert.equal(first.id, id);
    await hearsNo(first, "session:resume");
    first.disconnect();
    const second = await client(node, "ann");
    const resumed = await second.hear("session:resume");
    assert.deepEqual([resumed.metadata, resumed.rooms], [{ a: 1 }, ["lobby"]]);
    await node.kill();
  });

  it("remember rooms and the last moment over a restart", async () => {
    const path = file();
    let node = await start(path);
    const first = await client(node, "ann");
    await keep(first, { a: 1 });
    await first.ask("join", "lobby");
    const before = Date.now();
    assert.equal(await node.stop(), 0);
    node = await start(path);
    const second = await client(node, "ann");
    const resumed = await second.hear("session:resume");
    assert.deepEqual([resumed.metadata, resumed.rooms], [{ a: 1 }, ["lobby"]]);
    assert.ok(resumed.lastSeenAt >= before - 1);
    await node.kill();
  });

  it("that were acknowledged are there after kill -9 under load", async () => {
    const path = file();
    const users = Array.from({ length: 8 }, (_, number) => `u${number}`);
    const acked = new Map(users.map((user) => [user, 0]));
    for (let round = 0; round < 4; round++) {
      const node = await start(path, { "limits.events": "off" });
      const sockets = await Promise.all(users.map((user) => client(node, user)));
      if (round > 0)
        for (const [index, user] of users.entries()) {
          const { metadata, version } = await sockets[index].hear("session:resume");
          assert.ok(version >= acked.get(user), `${user}: ${version} of ${acked.get(user)}`);
          // Each patch had the number that its version has.
          assert.equal(metadata.done, version);
          acked.set(user, version);
        }
      let stop = false;
      const load = users.map(async (user, index) => {
        let next = acked.get(user);
        const send = async () => {
          while (!stop) {
            const done = ++next;
            const asked = sockets[index].timeout(PATIENCE).emitWithAck("session:checkpoint", { done });
            const answer = await asked.catch(() => undefined);
            if (!answer) return;
            assert.ok(answer.ok, JSON.stringify(answer));
            acked.set(user, Math.max(acked.get(user), answer.version));
          }
        };
        await Promise.all(Array.from({ length: 5 }, send));
      });
      const had = new Map(acked);
      const all = () => users.every((user) => acked.get(user) > had.get(user) + 8);
      await until(all, "acknowledgements of all");
      await node.kill();
      stop = true;
      sockets.forEach((socket) => socket.close());
      await Promise.all(load);
    }
  });
});
