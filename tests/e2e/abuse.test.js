// Bad input and bad manners: each costs its sender, and nobody else.
import assert from "node:assert/strict";
import { after, before, describe, it } from "node:test";
import net from "node:net";
import WebSocket from "ws";
import { Live, socketIo } from "./lib/clients.js";
import { serve, token, until, within } from "./lib/server.js";

let node, good;
before(async () => {
  node = await serve({ "heartbeat.interval": "2s" });
  good = await socketIo(node.http, { auth: { token: token("good") } }).connection();
  await good.ask("join", { room: "calm" });
});
after(async () => {
  assert.equal(good.connected, true);
  assert.equal((await good.ask("ping")).timestamp > 0, true);
  assert.equal(good.count("server:hello"), 1, "the good client was never disturbed");
  good.close();
  assert.equal(await node.stop(), 0);
});

/** The rows of a table, each packet once: the last of two that are equal. */
const unique = (rows) => [...new Map(rows.map((row) => [String(row[0]), row])).values()];

const raw = (data) =>
  within(
    new Promise((resolve) => {
      const socket = net.connect(node.port, "127.0.0.1", () => socket.write(data));
      let answer = "";
      socket.on("data", (chunk) => (answer += chunk.toString("latin1")));
      socket.on("error", () => {});
      socket.on("close", () => resolve(answer));
    }),
    "the end of the connection",
  );

describe("on HTTP", () => {
  it("nonsense is refused and closed", async () => {
    assert.match(await raw("\x16\x03\x01\x02\x00nonsense\r\n\r\n"), /^(HTTP\/1\.1 400|$)/);
    assert.match(
      await raw(`GET / HTTP/1.1\r\nhost: x\r\nx: ${"y".repeat(100_000)}\r\n\r\n`),
      /^(HTTP\/1\.1 4|$)/,
    );
  });

  it("a hundred half-open handshakes are in nobody's way", async () => {
    const held = Array.from({ length: 100 }, () =>
      net.connect(node.port, "127.0.0.1").on("error", () => {}),
    );
    for (const socket of held) socket.write("GET /live HTTP/1.1\r\n");
    const client = await Live.connect(node.live, token("through"));
    client.close();
    for (const socket of held) socket.destroy();
  });

  it("WebSocket handshakes that are none are refused", async () => {
    const ask = (headers) =>
      raw(
        "GET /live HTTP/1.1\r\nhost: x\r\nconnection: upgrade, close\r\nupgrade: websocket\r\n" +
          `${headers}\r\n\r\n`,
      );
    assert.match(await ask("sec-websocket-version: 13"), /^HTTP\/1\.1 400/);
    assert.match(
      await ask("sec-websocket-version: 13\r\nsec-websocket-key: short"),
      /^HTTP\/1\.1 400/,
    );
    const old = await ask(
      "sec-websocket-version: 8\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==",
    );
    assert.match(old, /^HTTP\/1\.1 426/);
    assert.match(old, /sec-websocket-version: 13/i);
  });
});

describe("on Socket.IO", () => {
  /** How a connection fares that has said something: `close CODE`, or what it hears. */
  const BEFORE = [
    ["junk", "close 1008"],
    ["", "close 1008"],
    ["4", "close 1008"],
    ["49", "close 1008"],
    ["40[]", "close 1008"],
    ['40{"token":', "close 1008"],
    [`40${JSON.stringify({ token: "x".repeat(5000) })}`, /^44\{.*"AUTH_TOKEN_INVALID"/],
    [`40/${"n".repeat(10_000)},`, /^44\/n+,\{"message":"Invalid namespace"\}$/],
    ["40", /^44\{.*"AUTH_REQUIRED"/],
    ["41", "close 1008"],
    ["42", "close 1008"],
    ['42["early"]', "close 1008"],
    ["43", "close 1008"],
    ["1", "close 1000"],
    ["2", "close 1008"],
    ["2probe", "close 1008"],
    ["3", "nothing"],
    ["5", "nothing"],
    ["6", "nothing"],
    ["b4", "close 1008"],
    [`4${"x".repeat(1_000_000)}`, "close 1009"],
    [Buffer.from([4]), "close 1008"],
  ];
  const AFTER = [
    ...BEFORE.filter(([packet]) => !/^4[01]/.test(packet)),
    ["40", "close 1008"],
    [`40/${"n".repeat(10_000)},`, /^44\/n+,\{"message":"Invalid namespace"\}$/],
    ["41{}", "close 1008"],
    ["42{}", "close 1008"],
    ["42[]", "close 1008"],
    ["42[{}]", "close 1008"],
    ['42["connect"]', "close 1008"],
    ['42["early"]', "nothing"],
    [`42["${"\\ud800".repeat(10)}"]`, "nothing"],
    ['43abc["x"]', "close 1008"],
    ['451-["x",{"_placeholder":true,"num":0}]', "close 1008"],
    ['451-["x",{"_placeholder":true,"num":1}]', "close 1008"],
  ];
  /** What follows it: to a connection that lives it brings an answer. */
  const NEXT = [() => `40${JSON.stringify({ token: token("bad") })}`, () => '427["ping"]'];
  const GOOD = [/^40\{"sid"/, /^437\[\{/];

  for (const [index, table] of [BEFORE, AFTER].entries()) {
    const when = ["before it has connected", "once it has connected"][index];
    for (const [packet, expected] of unique(table)) {
      const name = Buffer.isBuffer(packet) ? "binary" : JSON.stringify(packet.slice(0, 30));
      it(`${name} ${when} costs its sender ${expected}, and nobody else anything`, async (test) => {
        const socket = new WebSocket(
          `ws://127.0.0.1:${node.port}/socket.io/?EIO=4&transport=websocket`,
        );
        test.after(() => socket.terminate());
        let fate;
        const heard = [];
        socket.on("close", (code) => (fate ??= `close ${code}`));
        socket.on("message", (data) => heard.push(String(data)));
        const hears = (what) =>
          until(() => heard.find((one) => what.test(one)), `${what}; heard ${heard}`);
        await hears(/^0\{/);
        if (index === 1) {
          socket.send(NEXT[0]());
          await hears(/server:hello/);
        }
        const before = heard.length;
        socket.send(packet);
        // A connection that lives answers what comes next, and one that is closed never does.
        socket.send(NEXT[index]());
        const answer = () =>
          heard.slice(before).find((one) => expected.test?.(one) || GOOD[index].test(one));
        await until(() => (fate ??= answer()), `an end of ${name}`);
        if (expected === "nothing") assert.match(fate, GOOD[index]);
        else if (typeof expected === "string") assert.equal(fate, expected);
        else {
          assert.match(fate, expected);
          await hears(GOOD[index]);
        }
        assert.ok((await good.ask("ping")).timestamp > 0);
      });
    }
  }

  const ANSWERED = [
    null,
    7,
    "",
    [],
    { room: { a: 1 } },
    { users: "x" },
    { room: "x".repeat(5000), event: "e" },
    "\u0000",
  ];
  /** Whether no such data could mean anything to it. */
  const EVENTS = {
    join: false,
    leave: false,
    "join:round": false,
    "heartbeat:response": false,
    publish: true,
    "message:send": true,
    "chat:send": true,
    "presence:get": true,
    "auth:refresh": true,
  };
  for (const [event, isRefused] of Object.entries(EVENTS)) {
    it(`bad data in ${event} is answered`, async () => {
      const socket = await socketIo(node.http, {
        auth: { token: token(`bad-data-${event}`) },
      }).connection();
      for (const data of ANSWERED) {
        const answer = await socket.ask(event, data);
        const what = `${event} ${JSON.stringify(data)?.slice(0, 30)}: ${JSON.stringify(answer)}`;
        assert.ok(answer !== null && typeof answer === "object", what);
        if (isRefused) assert.equal(answer.ok, false, what);
        if (answer.ok === false) {
          assert.match(answer.code, /^(INVALID_[A-Z]+|AUTH_TOKEN_INVALID|FORBIDDEN)$/, what);
          assert.ok(answer.error.length > 0, what);
        }
      }
      assert.ok((await socket.ask("ping")).timestamp > 0);
      assert.equal(socket.count("server:hello"), 1);
      socket.close();
    });
  }

  it("whoever is over a limit by far is closed", async () => {
    const socket = await Live.connect(node.live, token("flooder"));
    for (let i = 0; i < 300; i++)
      socket.send({
        type: "emit",
        event: "message:send",
        data: { conversationId: "1", content: "x" },
      });
    assert.equal((await socket.end()).code, 4429);
  });
});
