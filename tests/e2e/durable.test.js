// Messages in SQLite: what is acknowledged is there, once, in its place.
import assert from "node:assert/strict";
import { execFileSync, spawnSync } from "node:child_process";
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, before, describe, it } from "node:test";
import { Live } from "./lib/clients.js";
import { serve, token, until } from "./lib/server.js";

let folder;
before(() => (folder = mkdtempSync(join(tmpdir(), "heartline-durable-"))));
after(() => rmSync(folder, { recursive: true, force: true }));

const start = (path, set = {}) =>
  serve({
    "store.url": `sqlite://${path}`,
    "limits.messages": "off",
    "limits.events": "off",
    "server.drain_timeout": "200ms",
    ...set,
  });

/** All that is kept of a conversation, read in parts as a backend does. */
async function history(node, conversation) {
  const all = [];
  for (;;) {
    const path = `/v1/conversations/${conversation}/messages?limit=200&after=${all.length}`;
    const { status, body } = await node.api(path);
    assert.equal(status, 200);
    assert.ok(body.complete && body.floor === 0);
    all.push(...body.messages);
    if (all.length === body.head) return all;
    assert.ok(body.messages.length > 0, `a part without messages before ${body.head}`);
  }
}

describe("messages in SQLite", () => {
  it("an acknowledged message is there once and in its place after kill -9 under load", async () => {
    const path = join(folder, "killed.db");
    const [USERS, CONVERSATIONS, IN_FLIGHT] = [6, 4, 24];
    const acknowledged = new Map(); // by sender and tempId
    const waiting = Array.from({ length: USERS }, () => []); // sent, or still to be sent
    let next = 0;

    /** One user's messages, until the connection ends or `enough` says so. */
    const send = async (client, user, enough) => {
      const again = waiting[user].splice(0);
      const one = async () => {
        while (!client.ended && (again.length > 0 || !enough())) {
          const message = again.pop() ?? {
            conversationId: `c${next % CONVERSATIONS}`,
            content: `message ${next}`,
            tempId: `t${next++}`,
          };
          waiting[user].push(message);
          const frame = { type: "emit", event: "message:send", data: message };
          const ack = await Promise.race([client.ask(frame), client.closed]).catch(() => undefined);
          if (ack?.type !== "ack") return;
          assert.ok(ack.data.ok, JSON.stringify(ack));
          acknowledged.set(`u${user} ${message.tempId}`, ack.data.message);
          waiting[user].splice(waiting[user].indexOf(message), 1);
        }
      };
      await Promise.all(Array.from({ length: IN_FLIGHT }, one));
      waiting[user].push(...again);
    };
    const run = async (node, enough) => {
      const clients = await Promise.all(
        waiting.map((_, user) => Live.connect(node.live, token(`u${user}`))),
      );
      for (const client of clients) client.closed.then(() => (client.ended = true));
      return Promise.all(clients.map((client, user) => send(client, user, enough)));
    };

    for (let round = 0; round < 4; round++) {
      const node = await start(path);
      const before = acknowledged.size;
      const running = run(node, () => false);
      await until(() => acknowledged.size > before + 400, "messages under way");
      await node.kill();
      await running;
    }
    const node = await start(path);
    const unanswered = waiting.flat().length;
    assert.ok(unanswered > 0, "the load was there when the node was killed");
    await run(node, () => true);
    assert.equal(waiting.flat().length, 0);
    assert.equal(acknowledged.size, next);

    const kept = new Map();
    for (let number = 0; number < CONVERSATIONS; number++) {
      const messages = await history(node, `c${number}`);
      messages.forEach((message, index) => assert.equal(message.offset, index + 1));
      for (const message of messages) {
        const key = `${message.senderId} ${message.tempId}`;
        assert.ok(!kept.has(key), `${key} is there twice`);
        kept.set(key, message);
      }
    }
    assert.equal(kept.size, next);
    for (const [key, message] of acknowledged) assert.deepEqual(kept.get(key), message);
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
});
