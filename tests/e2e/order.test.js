// Events of one socket take effect in the order in which they were sent, also where what is said
// goes by a Redis.
import assert from "node:assert/strict";
import { after, before, describe, it } from "node:test";
import { Live, WebSocket, socketIo } from "./lib/clients.js";
import { ask, redis } from "./lib/redis.js";
import { serve, token, until } from "./lib/server.js";

const OPEN = {
  "recovery.window": "60s",
  "limits.messages": "off",
  "limits.events": "off",
  "limits.joins": "off",
  "limits.connects_per_ip": "off",
};

/** Steps in a room that is joined, left and joined again: "ac" is what the own socket hears. */
const STEPS = ["join", "a", "leave", "b", "join", "c"];
const ROUNDS = 10;

const asEvent = (step, room) =>
  step.length > 1 ? [step, { room }] : ["publish", { room, event: step, data: 1 }];
const asFrame = (step, topic) =>
  step.length > 1
    ? { type: step === "join" ? "subscribe" : "unsubscribe", topic }
    : { type: "publish", topic, event: step, data: 1 };
const asPackets = (steps, room) => steps.map((step) => `42${JSON.stringify(asEvent(step, room))}`);

/** A client over a WebSocket that keeps the names of one letter that it hears. */
async function raw(node, name) {
  const ws = new WebSocket(
    `${node.live.replace(/\/live$/, "")}/socket.io/?EIO=4&transport=websocket`,
  );
  const heard = [];
  ws.on("message", (data) => heard.push(data.toString()));
  await new Promise((resolve) => ws.on("open", resolve));
  ws.send(`40${JSON.stringify({ token: token(name) })}`);
  await until(() => heard.some((text) => text.includes("server:hello")), "a hello");
  return { ws, heard };
}

/** What a polling client hears that says all of it in one request. */
async function polled(node, packets) {
  const base = `${node.http}/socket.io/?EIO=4&transport=polling`;
  const { sid } = JSON.parse((await (await fetch(base)).text()).slice(1));
  const url = `${base}&sid=${sid}`;
  const post = (body) => fetch(url, { method: "POST", body });
  const get = async () => (await (await fetch(url)).text()).split("\x1e");
  await post(`40${JSON.stringify({ token: token("p") })}`);
  const heard = [];
  while (!heard.some((text) => text.includes("server:hello"))) heard.push(...(await get()));
  await post([...packets, '429["ping"]'].join("\x1e"));
  while (!heard.some((text) => text.includes('["pong"'))) heard.push(...(await get()));
  await post("1");
  return heard;
}

const letters = (texts) => texts.map((text) => text.match(/^42\["(.)"/)?.[1] ?? "").join("");

describe("events of one socket take effect in their order", { timeout: 120000 }, () => {
  let store;
  const started = [];
  before(async () => {
    store = await redis();
  });
  after(async () => {
    for (const end of started.reverse()) await end();
    store.kill();
  });
  const start = async (set) => {
    const node = await serve({ ...OPEN, "cluster.url": store.url, ...set });
    started.push(() => node.kill());
    await until(async () => (await node.api("/readyz")).body?.status === "ready", "it is ready");
    return node;
  };

  it("who hears a publication is decided at its place among joins and leaves", async () => {
    const node = await start({ "cluster.prefix": "joins" });
    const heard = { raw: [], client: [], live: [], polling: [], left: [] };
    for (let round = 0; round < ROUNDS; round++) {
      const room = `r${round}`;
      const { ws, heard: texts } = await raw(node, "ann");
      for (const packet of asPackets(STEPS, room)) ws.send(packet);
      ws.send('42["ping"]');
      await until(() => texts.some((text) => text.includes('["pong"')), "a pong");
      await until(() => letters(texts).endsWith("c"), "the last");
      heard.raw.push(letters(texts));
      ws.close();

      const client = socketIo(node.http, {
        auth: { token: token("bob") },
        transports: ["websocket"],
      });
      await client.hear("server:hello");
      for (const step of STEPS) client.emit(...asEvent(step, room));
      await client.hear("c");
      heard.client.push(
        client.heard.map(({ event }) => event).filter((event) => event.length === 1),
      );
      // In the room already.
      client.heard.length = 0;
      client.emit(...asEvent("d", room));
      await client.ask(...asEvent("leave", room));
      heard.left.push(client.count("d"));
      client.disconnect();

      const live = await Live.connect(node.live, token("joe"));
      for (const step of STEPS) live.send(asFrame(step, room));
      await live.hear("c");
      heard.live.push(live.heard.map(({ type }) => type).filter((type) => type.length === 1));
      live.close();

      heard.polling.push(letters(await polled(node, asPackets([...STEPS, "leave"], room))));
    }
    const all = (what) => Array(ROUNDS).fill(what);
    assert.deepEqual(heard, {
      raw: all("ac"),
      client: all(["a", "c"]),
      live: all(["a", "c"]),
      polling: all("ac"),
      left: all(1),
    });
  });

  it("what is not kept comes behind what was kept before it, on all nodes", async () => {
    const set = {
      "cluster.prefix": "rooms",
      "recovery.rooms": '["k*","conversation:*"]',
    };
    const nodes = [await start(set), await start(set)];
    const listeners = [];
    for (const node of nodes) {
      const client = socketIo(node.http, {
        auth: { token: token("bob") },
        transports: ["websocket"],
      });
      const live = await Live.connect(node.live, token("joe"));
      await client.hear("server:hello");
      for (const room of ["k", "u", "conversation:c"]) {
        assert.ok((await client.ask("join", { room })).ok);
        await live.ask({ type: "subscribe", topic: room });
      }
      const short = (name) => (name === "message:new" ? "m" : name);
      const names = (all) => all.map(short).filter((name) => name.length === 1);
      listeners.push(
        () => names(client.heard.map(({ event }) => event)),
        () => names(live.heard.map(({ type }) => type)),
      );
      started.push(
        () => client.disconnect(),
        () => live.close(),
      );
    }
    const ann = socketIo(nodes[0].http, {
      auth: { token: token("ann") },
      transports: ["websocket"],
    });
    started.push(() => ann.disconnect());
    await ann.hear("server:hello");
    const expected = [];
    for (let round = 0; round < ROUNDS; round++) {
      ann.emit("publish", { room: "k", event: "a", data: round });
      ann.emit("publish", { room: "u", event: "b", data: round });
      ann.emit("message:send", { conversationId: "c", content: `x${round}` });
      ann.emit("publish", { room: "u", event: "d", data: round });
      ann.emit("publish", { room: "k", event: "e", data: round });
      expected.push("a", "b", "m", "d", "e");
    }
    const [here, elsewhere] = [listeners.slice(0, 2), listeners.slice(2)];
    for (const names of listeners) {
      await until(() => names().length >= expected.length, "all of it");
    }
    for (const names of here) assert.deepEqual(names(), expected);
    // What is not kept takes another way to other nodes, behind what was kept before it.
    for (const names of elsewhere) {
      const places = (name) => names().flatMap((one, index) => (one === name ? [index] : []));
      for (const [before, behind] of ["ab", "md", "ae", "bd"]) {
        const [first, second] = [places(before), places(behind)];
        assert.ok(
          first.every((place, index) => place < second[index]),
          `${behind} comes behind ${before}: ${names().join("")}`,
        );
      }
    }
  });

  it("hundreds of publications of one socket do not wait for each other", async () => {
    const node = await start({ "cluster.prefix": "many" });
    const client = socketIo(node.http, {
      auth: { token: token("ann") },
      transports: ["websocket"],
    });
    started.push(() => client.disconnect());
    await client.hear("server:hello");
    const calls = async () => {
      const info = await ask(store.port, "INFO", "commandstats");
      return Number(info.match(/cmdstat_evalsha:calls=(\d+)/)[1]);
    };
    await client.ask("join", { room: "k" });
    const before = await calls();
    const all = Array.from({ length: 500 }, (_, data) =>
      client.ask("publish", { room: "k", event: "n", data }),
    );
    const offsets = (await Promise.all(all)).map(({ offset }) => offset);
    assert.deepEqual(
      offsets,
      offsets.map((_, index) => index + 1),
    );
    await until(() => client.count("n") === 500, "all of them");
    assert.ok((await calls()) - before < 400, "many are in one call");
  });
});
