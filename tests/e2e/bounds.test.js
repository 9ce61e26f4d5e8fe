// What a message becomes on its way is bounded as the message is: a few bytes that stand
// for many cost nobody but their sender.
import assert from "node:assert/strict";
import { readFileSync, writeFileSync } from "node:fs";
import { after, before, describe, it } from "node:test";
import * as msgpack from "socket.io-msgpack-parser";
import WebSocket from "ws";
import { Live, socketIo } from "./lib/clients.js";
import { serve, token, until, within } from "./lib/server.js";

const P = '{"_placeholder":true,"num":0}';
/** What the node may need for messages of 1 MB: some of them at once, in several forms. */
const ENOUGH = 100_000_000;

let node, text, packed, live;
before(async () => {
  node = await serve();
  text = await socketIo(node.http, { auth: { token: token("text") } }).connection();
  packed = await socketIo(node.http, { auth: { token: token("packed") }, parser: msgpack, transports: ["websocket"] }).connection();
  live = await Live.connect(node.live, token("live"));
  assert.equal((await text.ask("join", { room: "r" })).ok, true);
  assert.equal((await packed.ask("join", { room: "r" })).ok, true);
  await live.ask({ type: "subscribe", topic: "r" });
});
after(async () => {
  // Whatever was sent, the members of the room were never disturbed.
  assert.equal((await text.ask("publish", { room: "r", event: "last", data: 1 })).ok, true);
  await Promise.all([text.hear("last"), packed.hear("last"), live.hear("last")]);
  for (const member of [text, packed]) assert.equal(member.count("server:hello"), 1);
  for (const member of [text, packed, live]) member.close();
  assert.equal(await node.stop(), 0);
});

/** The most memory the node has had, bytes. */
const peak = () => Number(/^VmHWM:\s+(\d+) kB$/m.exec(readFileSync(`/proc/${node.child.pid}/status`, "utf8"))[1]) * 1024;

/** Does something that may not cost the node more than [`ENOUGH`]. */
async function cheaply(work) {
  // From here on the peak is counted anew.
  writeFileSync(`/proc/${node.child.pid}/clear_refs`, "5");
  const earlier = peak();
  const result = await work();
  const grown = peak() - earlier;
  assert.ok(grown < ENOUGH, `the node grew by ${grown} bytes`);
  return result;
}

/** A Socket.IO client that says what no parser would. */
async function raw(name) {
  const ws = new WebSocket(`ws://127.0.0.1:${node.port}/socket.io/?EIO=4&transport=websocket`);
  const heard = [];
  ws.on("message", (data) => heard.push(data.toString()));
  const find = (start) => until(() => heard.find((packet) => packet.startsWith(start)), `a packet ${start}`);
  await find("0");
  ws.send(`40${JSON.stringify({ token: token(name) })}`);
  await find("40");
  return { ws, find, send: (...messages) => messages.forEach((message) => ws.send(message)), answer: async (id) => JSON.parse((await find(`43${id}[`)).slice(`43${id}`.length))[0] };
}

describe("attachments", () => {
  it("one that 15 000 placeholders name is refused, wherever they stand", async () => {
    const client = await raw("many");
    const places = [
      `[${Array(15_000).fill(P).join(",")}]`,
      `[${P},{"deep":[[${P}]]}]`,
      `{"a":${P},"b":{"num":0,"x":[1,{}],"_placeholder":true}}`,
    ];
    await cheaply(async () => {
      for (const [index, data] of places.entries()) {
        client.send(`451-${index}["publish",{"room":"r","event":"x","data":${data}}]`, Buffer.alloc(490_000));
        const { ok, code } = await client.answer(index);
        assert.deepEqual([ok, code], [false, "INVALID_DATA"]);
      }
    });
    client.send('427["publish",{"room":"r","event":"fine","data":1}]');
    assert.equal((await client.answer(7)).ok, true, "the sender is still there");
    client.ws.terminate();
    await Promise.all([text.hear("fine"), packed.hear("fine"), live.hear("fine")]);
    for (const member of [text, packed, live]) assert.equal(member.count("x"), 0);
  });

  it("that a msgpack client names twice are refused", async () => {
    const placeholder = { _placeholder: true, num: 0 };
    const data = [Buffer.alloc(400_000), ...Array(10_000).fill(placeholder)];
    const { ok, code } = await cheaply(() => packed.ask("publish", { room: "r", event: "x", data }));
    assert.deepEqual([ok, code], [false, "INVALID_DATA"]);
  });

  it("that are too large together are refused, and the sender stays", async () => {
    const data = [Buffer.alloc(600_000), Buffer.alloc(600_000)];
    const { ok, code } = await text.ask("publish", { room: "r", event: "x", data });
    assert.deepEqual([ok, code], [false, "PAYLOAD_TOO_LARGE"]);
  });

  it("of one event reach everybody, each in its form", async () => {
    const blob = Buffer.alloc(700_000, 7);
    assert.equal((await text.ask("publish", { room: "r", event: "blob", data: { blob, more: [1] } })).ok, true);
    const fits = ({ blob: there }) => Buffer.compare(Buffer.from(there), blob) === 0;
    await text.hear("blob", fits);
    await packed.hear("blob", fits);
    const { data } = await live.hear("blob");
    assert.deepEqual(data, { blob: blob.toString("base64"), more: [1] });
  });

  it("of an answer are held to the same, and whoever asked hears it", async () => {
    const client = await raw("answers");
    const { body } = await node.api("/v1/connections?userId=answers");
    const { socketId } = body.items.find((item) => item.userId === "answers");
    const asked = node.api(`/v1/connections/${socketId}/emit`, {
      method: "POST",
      body: { event: "ask", data: 1, ackWithinMs: 20_000 },
    });
    await client.find('420["ask"');
    client.send(`461-0[${P},${P}]`, Buffer.alloc(10));
    const { status, text: detail } = await within(asked, "the answer");
    assert.notEqual(status, 200);
    assert.match(detail, /INVALID_DATA|one placeholder/);
    client.send('429["ping"]');
    await client.answer(9);
    client.ws.terminate();
  });
});

describe("msgpack", () => {
  const multiplied = {
    "control characters": "\u0001".repeat(300_000),
    "small numbers": Array(450_000).fill(100),
    "words": Array(450_000).fill(false),
    "empty attachments": Array.from({ length: 100_000 }, () => Buffer.alloc(0)),
  };
  for (const [name, data] of Object.entries(multiplied)) {
    it(`that is over the limit as JSON is refused: ${name}`, async () => {
      const { ok, code } = await cheaply(() => packed.ask("publish", { room: "r", event: "x", data }));
      assert.deepEqual([ok, code], [false, "PAYLOAD_TOO_LARGE"]);
    });
  }

  it("of short floats reaches a msgpack client and costs the node a few messages", async () => {
    const data = Array(240_000).fill(1.5);
    await cheaply(() => text.ask("publish", { room: "r", event: "floats", data }));
    assert.equal((await packed.hear("floats")).length, data.length);
  });
});

describe("the operators' API", () => {
  const publish = (body) => node.api("/v1/rooms/r/publish", { method: "POST", body: { event: "api", data: 1, ...body } });

  it("says no more than a client may", async () => {
    assert.equal((await publish({ data: "x".repeat(1_000_001) })).status, 413);
    const { status, body } = await publish({ key: "k".repeat(257) });
    assert.deepEqual([status, body.detail], [400, "a key has at most 256 bytes"]);
    assert.equal((await publish({ key: "k".repeat(256), data: "x".repeat(900_000) })).status, 200);
  });
});

describe("keys", () => {
  it("over 256 bytes are refused", async () => {
    const { ok, code } = await text.ask("publish", { room: "r", event: "x", data: 1, key: "k".repeat(257) });
    assert.deepEqual([ok, code], [false, "INVALID_DATA"]);
  });

  it("of a reader that stopped count as what they are for", async () => {
    const slow = await Live.connect(node.live, token("slow"));
    await slow.ask({ type: "subscribe", topic: "keys" });
    slow.ws._socket.pause();
    const sender = await Live.connect(node.live, token("sender"));
    const gone = async () => (await node.api("/v1/connections?userId=slow")).body.items.every((item) => item.userId !== "slow");
    await cheaply(async () => {
      for (let number = 0; !(await gone()); number += 1000) {
        assert.ok(number < 200_000, "the slow reader is still there");
        for (let more = 0; more < 1000; more++) {
          sender.send({ type: "publish", topic: "keys", event: "e", data: 1, key: `${number + more}`.padStart(250, "k") });
        }
        await sender.ask({ type: "ping" });
      }
    });
    slow.close();
    sender.close();
  });
});
