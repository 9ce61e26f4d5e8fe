// Messages in a database: what is acknowledged is there, once, in its place.
import assert from "node:assert/strict";
import { execFileSync, spawnSync } from "node:child_process";
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, before, describe, it } from "node:test";
import { Live } from "./lib/clients.js";
import { postgres } from "./lib/postgres.js";
import { redis } from "./lib/redis.js";
import { BINARY, SECRET, freePort, serve, token, until } from "./lib/server.js";
import { Load, history } from "./lib/writers.js";

let folder;
before(() => (folder = mkdtempSync(join(tmpdir(), "heartline-durable-"))));
after(() => rmSync(folder, { recursive: true, force: true }));

const start = (path, set = {}, options = {}) =>
  serve(
    {
      "store.url": `sqlite://${path}`,
      "limits.messages": "off",
      "limits.events": "off",
      "server.drain_timeout": "200ms",
      ...set,
    },
    options,
  );

describe("messages in SQLite", () => {
  it("an acknowledged message is there once and in its place after kill -9 under load", async () => {
    const path = join(folder, "killed.db");
    const load = new Load();
    for (let round = 0; round < 4; round++) {
      const node = await start(path);
      const running = load.run([node], () => false);
      await load.more(400);
      await node.kill();
      await running;
    }
    const node = await start(path);
    assert.ok(load.unanswered > 0, "the load was there when the node was killed");
    await load.check([node]);
    assert.equal(await node.stop(), 0);
  });

  it("a second node in one directory, where no file was named, keeps its messages in memory and says so", async () => {
    const cwd = mkdtempSync(join(folder, "usual-"));
    const unset = { "store.url": undefined };
    const first = await serve(unset, { cwd });
    const second = await serve(unset, { cwd });
    await until(() => /heartline\.db is in use by another gateway.*memory/.test(second.log), "a warning");
    assert.doesNotMatch(first.log, /heartline\.db/);
    assert.equal(await second.stop(), 0);
    assert.equal(await first.stop(), 0);
  });

  it("a second node on the same file says so and ends", async () => {
    const path = join(folder, "shared.db");
    const node = await start(path);
    await assert.rejects(start(path), /shared\.db is in use by another gateway/);
    assert.equal(await node.stop(), 0);
    const next = await start(path);
    assert.equal(await next.stop(), 0);
  });

  const mount = (on) => spawnSync("mount", ["-t", "tmpfs", "-o", "size=8m", "none", on]).status === 0;

  it("on a full disk senders are told to come back, and everything else goes on", async (t) => {
    const disk = join(folder, "disk");
    mkdirSync(disk);
    if (!mount(disk)) return t.skip("no mounts may be made here");
    const ballast = join(disk, "ballast");
    writeFileSync(ballast, Buffer.alloc(4 << 20));
    const node = await start(join(disk, "full.db"));
    try {
      const client = await Live.connect(node.live, token("ann"));
      const say = async (number) => {
        const data = { conversationId: "c", content: "😀".repeat(9000), tempId: `t${number}` };
        return (await client.ask({ type: "emit", event: "message:send", data })).data;
      };
      let number = 0;
      let answer;
      while ((answer = await say(number)).ok) {
        assert.equal(answer.message.offset, ++number);
        assert.ok(number < 300, "the disk is never full");
      }
      assert.equal(answer.code, "SEND_FAILED");
      assert.ok(answer.retryAfterMs > 0);
      const ready = await node.api("/readyz");
      assert.deepEqual([ready.status, ready.body.status, ready.body.store], [200, "degraded", "failing"]);
      const pong = await client.ask({ type: "ping" });
      assert.equal(pong.type, "pong");
      rmSync(ballast);
      const kept = await say(number);
      assert.equal(kept.message.offset, number + 1);
      const messages = await history(node, "c");
      assert.deepEqual(messages.map(({ tempId }) => tempId), messages.map((_, index) => `t${index}`));
      assert.equal(messages.length, number + 1);
      assert.equal((await node.api("/readyz")).body.status, "ready");
      client.close();
      assert.equal(await node.stop(), 0);
    } finally {
      node.child.kill("SIGKILL");
      await node.exited;
      execFileSync("umount", [disk]);
    }
  });

  it("after a failed sync the sender hears it, /readyz says so, and the next message is kept", async () => {
    const disk = mkdtempSync(join(folder, "sync-"));
    const library = join(disk, "disk.so");
    const source = new URL("../../crates/store/tests/disk.c", import.meta.url).pathname;
    execFileSync("cc", ["-shared", "-fPIC", "-o", library, source, "-ldl", "-lpthread"]);
    const env = { LD_PRELOAD: library, FAILING_DISK: disk };
    const node = await start(join(disk, "heartline.db"), {}, { env });
    const client = await Live.connect(node.live, token("ann"));
    const say = async (tempId) => {
      const data = { conversationId: "c", content: "hello", tempId };
      return (await client.ask({ type: "emit", event: "message:send", data })).data;
    };
    const ready = async () => (await node.api("/readyz")).body;
    assert.equal((await say("one")).message.offset, 1);
    writeFileSync(join(disk, "fail"), "-wal");
    const refused = await say("two");
    assert.equal(refused.code, "SEND_FAILED");
    assert.ok(refused.retryAfterMs > 0);
    assert.deepEqual(await ready(), { status: "degraded", store: "failing" });
    await until(() => /the disk has failed/.test(node.log), "a line of the log");
    assert.equal((await say("two")).message.offset, 2);
    assert.deepEqual(await ready(), { status: "ready" });
    const kept = await history(node, "c");
    assert.deepEqual(kept.map(({ tempId }) => tempId), ["one", "two"]);
    client.close();
    assert.equal(await node.stop(), 0);
  });
});

describe("messages in PostgreSQL", () => {
  let database, keeper;
  before(async () => {
    database = await postgres();
    keeper = await redis();
  });
  after(async () => {
    database?.remove();
    await keeper?.kill();
  });

  const node = (set = {}) =>
    serve({
      "store.url": database.url,
      "cluster.url": keeper.url,
      "limits.messages": "off",
      "limits.events": "off",
      "server.drain_timeout": "200ms",
      ...set,
    });

  it("two gateways share it, and lose nothing when one of them is killed, or PostgreSQL, under load", async () => {
    // While PostgreSQL recovers for longer than a message waits for it, senders are told so.
    const load = new Load({ refusals: ["SEND_FAILED", "OVERLOADED"] });
    let [first, second] = [await node(), await node()];
    for (let round = 0; round < 3; round++) {
      let enough = false;
      const running = load.run([first, second], () => enough);
      await load.more(400);
      await first.kill();
      enough = true;
      await running;
      assert.ok(load.unanswered > 0, "the load was there when the node was killed");
      // What was sent to the one that is gone goes to the other now, with the same tempIds.
      [first, second] = [second, await node()];
    }
    for (let round = 0; round < 2; round++) {
      let enough = false;
      const running = load.run([first, second], () => enough);
      await load.more(400);
      database.stop("immediate");
      await until(async () => {
        const ready = await first.api("/readyz");
        return ready.status === 200 && ready.body.store === "failing";
      }, "it is told");
      database.up();
      await load.more(100);
      enough = true;
      await running;
    }
    await load.check([second, first]);
    for (const one of [first, second]) {
      await until(async () => (await one.api("/readyz")).body.status === "ready", "it is ready");
      assert.doesNotMatch(one.log, /secret/);
      assert.equal(await one.stop(), 0);
    }
  });

  it("what it does not keep is refused as that, and is not to be sent again", async () => {
    const one = await node();
    const ann = await Live.connect(one.live, token("ann"));
    const data = { conversationId: "c1", content: "hello", tempId: "a\0b" };
    const refused = await ann.ask({ type: "emit", event: "message:send", data });
    assert.equal(refused.data.code, "INVALID_DATA");
    const nobody = new Live(`${one.live}?token=${token("a\0b")}`);
    assert.deepEqual(await nobody.end(), { code: 4401, reason: "AUTH_TOKEN_INVALID" });
    for (const [path, options] of [
      ["/v1/invites", { method: "POST", body: { conversationId: "c1", label: "a\0b" } }],
      ["/v1/conversations/c1/members", { method: "PUT", body: { users: ["a\0b"] } }],
      ["/v1/conversations/c%00/messages"],
      ["/v1/conversations/c1/messages?tenantId=%00"],
    ])
      assert.equal((await one.api(path, options)).status, 400, path);
    assert.doesNotMatch(one.log, /ERROR/);
    assert.equal(await one.stop(), 0);
  });

  it("what one gateway keeps is told to those who are with the other", async () => {
    const [first, second] = [await node(), await node()];
    const [ann, bob] = [
      await Live.connect(first.live, token("ann")),
      await Live.connect(second.live, token("bob")),
    ];
    const topic = { type: "subscribe", topic: "conversation:told" };
    const open = { type: "emit", event: "message:send" };
    const say = (client, content) =>
      client.ask({ ...open, data: { conversationId: "told", content, tempId: content } });
    // Who writes is a member, and may come in.
    for (const [client, content] of [[ann, "one"], [bob, "two"]]) {
      const { data } = await say(client, content);
      assert.ok(data.ok, JSON.stringify(data));
      const subscribed = await client.ask(topic);
      assert.equal(subscribed.type, "subscribed");
    }
    const { data } = await say(ann, "three");
    assert.equal(data.message.offset, 3);
    const heard = await bob.hear("message:new", (frame) => frame.data.content === "three");
    assert.deepEqual(heard.data, data.message);
    for (const one of [first, second]) assert.equal(await one.stop(), 0);
  });

  it("a node that cannot get in says why, and what to do, without the password", async () => {
    const refused = async (url) => {
      const set = { "store.url": url, "auth.jwt.secret": SECRET };
      set["server.listen"] = `127.0.0.1:${await freePort()}`;
      set["admin.listen"] = `127.0.0.1:${await freePort()}`;
      const flags = Object.entries(set).flatMap(([key, value]) => ["--set", `${key}=${value}`]);
      const { status, stderr } = spawnSync(BINARY, ["serve", ...flags], { encoding: "utf8" });
      assert.equal(status, 1);
      assert.doesNotMatch(stderr, /hunter2/);
      return stderr;
    };
    const wrong = await refused(database.url.replace("secret", "hunter2"));
    assert.match(wrong, /password authentication failed.*store\.url/);
    const nobody = `postgres://heartline:hunter2@127.0.0.1:${await freePort()}/postgres`;
    assert.match(await refused(nobody), /cannot be reached for 10 seconds.*PostgreSQL runs there/);
  });
});
