// permessage-deflate with real clients: off unless configured, invisible where it is on.
import assert from "node:assert/strict";
import { after, before, describe, it } from "node:test";
import { Live, socketIo } from "./lib/clients.js";
import { serve, token, until } from "./lib/server.js";

const SENTENCE = "who is really there, and who only was? ".repeat(100);
const open = [];
const keep = (socket) => (open.push(socket), socket);

/** A live connection that offers `perMessageDeflate`, and what came over its socket. */
async function connect(node, user, perMessageDeflate) {
  const live = keep(new Live(`${node.live}?token=${token(user)}`, { perMessageDeflate }));
  await live.opened;
  await live.hear("hello");
  return live;
}

/** Bytes that `live` received while `act` ran. */
async function received(live, act) {
  const before = live.ws._socket.bytesRead;
  await act();
  return live.ws._socket.bytesRead - before;
}

async function publish(live, topic, data) {
  const publications = live.count("news");
  const answer = await live.ask({ type: "publish", topic, event: "news", data });
  assert.equal(answer.type, "ack");
  await until(() => live.count("news") > publications, "the publication");
}

describe("where it is not configured", () => {
  let node;
  before(async () => (node = await serve()));
  after(() => node.stop());

  it("every offer is declined", async () => {
    const live = await connect(node, "a", true);
    assert.equal(live.ws.extensions, "");
    await live.ask({ type: "subscribe", topic: "long" });
    assert.ok((await received(live, () => publish(live, "long", SENTENCE))) > SENTENCE.length);
    live.close();
  });
});

describe("where it is configured", () => {
  let node;
  before(
    async () =>
      (node = await serve({ "server.compression": "1KB", "server.max_payload": "100KB" })),
  );
  after(async () => {
    for (const socket of open) socket.close();
    assert.equal(await node.stop(), 0);
  });

  it("a client that offers nothing gets plain frames", async () => {
    const live = await connect(node, "plain", false);
    assert.equal(live.ws.extensions, "");
    await live.ask({ type: "subscribe", topic: "plain" });
    assert.ok((await received(live, () => publish(live, "plain", SENTENCE))) > SENTENCE.length);
  });

  for (const serverMaxWindowBits of [undefined, 15, 10]) {
    const bits = serverMaxWindowBits ?? "any";
    it(`with a server window of ${bits} bits, long messages shrink, short ones not`, async () => {
      const live = await connect(node, "w", { serverMaxWindowBits, threshold: 0 });
      assert.match(live.ws.extensions, /^permessage-deflate/);
      await live.ask({ type: "subscribe", topic: "window" });
      const long = await received(live, () => publish(live, "window", SENTENCE));
      assert.ok(long < SENTENCE.length / 4, `${long} bytes`);
      assert.equal(live.heard.findLast((frame) => frame.type === "news").data, SENTENCE);
      const short = await received(live, () => publish(live, "window", "x".repeat(500)));
      assert.ok(short > 500, `${short} bytes`);
    });
  }

  it("one broadcast reaches those who compress and those who do not", async () => {
    const clients = [await connect(node, "b1", true), await connect(node, "b2", false)];
    for (const live of clients) await live.ask({ type: "subscribe", topic: "both" });
    await publish(clients[0], "both", SENTENCE);
    for (const live of clients) assert.equal((await live.hear("news")).data, SENTENCE);
  });

  it("Socket.IO works over it, upgraded sessions and binary included", async () => {
    for (const transports of [["websocket"], ["polling", "websocket"]]) {
      const socket = keep(
        socketIo(node.http, {
          transports,
          auth: { token: token("s") },
          perMessageDeflate: { threshold: 0 },
        }),
      );
      await socket.connection();
      await until(() => socket.io.engine.transport.name === "websocket", "the upgrade");
      await socket.ask("join", { room: "bin" });
      const bytes = Buffer.alloc(5000, 7);
      assert.equal(
        (await socket.ask("publish", { room: "bin", event: "bytes", data: { bytes, SENTENCE } }))
          .ok,
        true,
      );
      const data = await socket.hear("bytes");
      assert.ok(bytes.equals(data.bytes) && data.SENTENCE === SENTENCE);
      assert.match(socket.io.engine.transport.ws.extensions, /^permessage-deflate/);
      socket.close();
    }
  });

  it("a small frame that becomes a huge message closes with 1009", async () => {
    const live = await connect(node, "bomb", { threshold: 0 });
    live.send({ type: "emit", event: "ping", data: "0".repeat(5_000_000) });
    assert.equal((await live.end()).code, 1009);
    assert.equal((await node.api("/healthz")).status, 200);
  });
});
