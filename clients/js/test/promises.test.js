// What the client promises, in the places where it is hard to keep.
import assert from "node:assert/strict";
import { once } from "node:events";
import { createServer } from "node:http";
import { describe, it } from "node:test";
import * as standard from "socket.io-parser";
import { Client } from "../dist/client.js";
import { socketIo } from "../dist/index.js";
import { createClient as createLive, live } from "../dist/live.js";
import { browser } from "../dist/page.js";
import { HeartlineError, SignedOut } from "../dist/types.js";
import { Clock, HELLO, connected, outcome, settled, start, thrown, token } from "./fake.js";
import { event, overLive, overSocketIo } from "./wires.js";

const RETRY = { kind: "retry", reason: "transport" };
const turn = () => new Promise((resolve) => setImmediate(resolve));
/** Whether it comes to be within a time that suffices on a machine that is busy. */
async function until(condition, ms = 30_000) {
  for (const end = Date.now() + ms; !condition(); await new Promise((r) => setTimeout(r, 10)))
    if (Date.now() > end) return false;
  return true;
}

describe("an attempt that ends", () => {
  /** A server that answers with what `answer` says, or accepts and says nothing. */
  async function silent(answer = () => {}) {
    const sockets = new Set();
    const asked = [];
    const server = createServer((request, response) => {
      asked.push(`${request.method} ${request.url}`);
      answer(request, response);
    }).listen(0, "127.0.0.1");
    server.on("upgrade", (request, socket) => {
      asked.push(`upgrade ${request.url}`);
      socket.resume().on("end", () => socket.destroy());
    });
    server.on("connection", (socket) => {
      sockets.add(socket);
      socket.on("error", () => {});
      socket.on("close", () => sockets.delete(socket));
    });
    await once(server, "listening");
    const url = `http://127.0.0.1:${server.address().port}`;
    return { url, sockets, asked, close: () => (server.closeAllConnections(), server.close()) };
  }
  const handshake = (upgrades) =>
    `0{"sid":"e1","upgrades":${upgrades},"pingInterval":25000,"pingTimeout":20000}`;

  it("asks for nothing any more, where a server accepts and says nothing", async () => {
    const server = await silent();
    const options = { connectTimeout: 100, backoff: 10, maxBackoff: 10 };
    const client = new Client(socketIo(server.url), options);
    let most = 0;
    const isAskedOften = await until(() => {
      most = Math.max(most, server.sockets.size);
      return server.asked.length >= 5;
    });
    client.disconnect();
    const isClean = await until(() => server.sockets.size === 0);
    server.close();
    assert.ok(isAskedOften, `asked ${server.asked.length} times`);
    assert.ok(most <= 2, `${most} requests at once`);
    assert.ok(isClean, "something is still asked");
  });

  it("leaves no poll behind, nor an upgrade that nobody answers", async () => {
    for (const upgrades of ["[]", '["websocket"]']) {
      const server = await silent(({ method, url }, response) => {
        if (method === "GET" && !url.includes("sid=")) response.end(handshake(upgrades));
      });
      const client = new Client(socketIo(server.url), { connectTimeout: 60_000 });
      const isAsked = (what) => server.asked.some((one) => what.test(one));
      const isPolled = () => isAsked(/GET.*sid=/) && (upgrades === "[]" || isAsked(/^upgrade/));
      assert.ok(await until(isPolled), `${server.asked}`);
      client.disconnect();
      // The goodbye has some time to be heard.
      const isClean = await until(() => server.sockets.size === 0);
      const left = server.sockets.size;
      server.close();
      assert.ok(isClean, `${left} are still held, with upgrades ${upgrades}`);
    }
  });

  it("ends what asks for a token, and has no more than one such question", async () => {
    const signals = [];
    const all = start({
      token: ({ signal }) => new Promise(() => signals.push(signal)),
    });
    await all.clock.pass(12_000);
    assert.deepEqual(
      [all.status, all.client.state.reason, all.client.state.cause],
      [
        "reconnecting",
        "token_unavailable",
        { what: "token", code: "TIMEOUT", message: "no token within 12000 ms" },
      ],
    );
    await all.clock.pass(30_000);
    assert.ok(signals.filter(({ aborted }) => !aborted).length <= 1);
    all.client.disconnect();
    assert.ok(signals.length >= 2 && signals.every(({ aborted }) => aborted));
    assert.ok(all.isClean());
  });

  it("has ended for a reason that can be known, when HTTP has answered", async () => {
    for (const [status, headers, expected] of [
      [503, {}, { reason: "unavailable", cause: { what: "unavailable", code: 503 } }],
      [
        429,
        { "retry-after": "7" },
        { reason: "unavailable", cause: { what: "rate_limited", code: 429 } },
      ],
      [404, {}, { reason: "transport", cause: { what: "unreachable", code: 404 } }],
    ]) {
      const server = await silent((_, response) => response.writeHead(status, headers).end());
      const client = new Client(socketIo(server.url, { transports: ["polling"] }));
      assert.ok(await until(() => client.state.status === "reconnecting"), client.state.status);
      const { reason, cause, nextRetryAt } = client.state;
      client.disconnect();
      server.close();
      assert.deepEqual({ reason, cause }, expected);
      if (status === 429) assert.ok(nextRetryAt - Date.now() > 6000);
    }
  });
});

describe("waking up", () => {
  it("by several events asks once, and does not forget that it has asked", async () => {
    for (const how of ["sleep", "oversleep"]) {
      const { clock, client, link } = connected();
      clock[how](3_600_000);
      clock.tell("awake");
      clock.tell("online");
      clock.tell("awake");
      assert.equal(client.state.status, "connected", how);
      assert.equal(link.find("ping").length, 1);
      await clock.pass(1999);
      assert.equal(client.state.status, "connected");
      await clock.pass(1);
      assert.equal(client.state.reason, "heartbeat_timeout");
      client.disconnect();
    }
  });

  it("to what had come before the sleep is no sign of life", async () => {
    const { clock, client, link } = connected();
    clock.sleep(3_600_000);
    clock.tell("awake");
    // It was in the socket's buffer.
    link.events.alive();
    await clock.pass(2000);
    assert.equal(client.state.reason, "heartbeat_timeout");
    client.disconnect();
  });

  it("to what comes later is one, also before the answer", async () => {
    const { clock, client, link } = connected();
    clock.sleep(3_600_000);
    clock.tell("awake");
    for (let time = 0; time < 7; time++) {
      await clock.pass(1100);
      link.events.alive();
    }
    assert.equal(client.state.status, "connected");
    for (const { reply } of link.find("ping")) reply();
    await clock.pass(40_000);
    assert.equal(client.state.status, "connected");
    client.disconnect();
  });
});

describe("a message that the server would not take", () => {
  const hello = { ...HELLO, maxPayload: 1000 };
  const large = "x".repeat(1000);

  it("is refused here, alone, and the others go on", async () => {
    const all = start();
    const early = all.client.send("message:send", { content: large });
    all.link.events.hello(hello);
    // Nobody knew the bound when it was given: the transport finds it out.
    const { emit } = all.link;
    all.link.emit = (...args) => emit(...args);
    const [sent] = all.link.find("message:send");
    sent.reply({ ok: true });
    assert.equal(await outcome(early), "done");
    const late = all.client.send("message:send", { content: large });
    const next = all.client.send("message:send", { content: "hi" });
    const error = await late.catch((error) => error);
    assert.deepEqual([error.code, error.sent, typeof error.tempId], ["TOO_LARGE", "no", "string"]);
    all.link.find("message:send")[1].reply({ ok: true });
    assert.equal(await outcome(next), "done");
    assert.equal(all.client.pending.count, 0);
  });

  it("never reaches a wire, whichever way it is said", async () => {
    const over = { live: overLive({}), "Socket.IO": await overSocketIo({}) };
    for (const [name, all] of Object.entries(over)) {
      // Given before anybody knew the bound.
      const early = all.client.send("message:send", { content: large });
      const behind = all.client.send("message:send", { content: "hi" });
      early.catch(() => {});
      behind.catch(() => {});
      if (name === "live") all.say({ type: "hello", ...hello });
      else {
        await all.say('0{"sid":"s1"}');
        await all.say(`2["server:hello",${JSON.stringify(hello)}]`);
      }
      await settled();
      assert.equal(await outcome(early), "TOO_LARGE", name);
      assert.equal(await outcome(behind), "pending");
      assert.equal(await outcome(all.client.request("q", { large })), "TOO_LARGE");
      assert.throws(() => all.client.emit("q", { large }), { code: "TOO_LARGE" });
      assert.ok(JSON.stringify(all.said).length < 500, name);
      assert.equal(all.client.state.status, "connected");
      all.client.disconnect();
      assert.equal(all.clock.timers, 0);
    }
  });

  it("is counted in bytes, not in characters", async () => {
    const all = start();
    all.link.events.hello(hello);
    const wide = all.client.send("message:send", { content: "€".repeat(334) });
    assert.equal(await outcome(wide), "TOO_LARGE");
    assert.equal(
      await outcome(all.client.send("message:send", { content: "€".repeat(300) })),
      "pending",
    );
    all.client.disconnect();
  });
});

describe("what JSON does not carry whole", () => {
  const circle = {};
  circle.circle = circle;
  const bad = {
    "a big number": { a: 1n },
    "a circle": circle,
    bytes: new Uint8Array([1, 2, 3]),
    "bytes within": { file: new Uint8Array([1]) },
    "a buffer": new ArrayBuffer(3),
    "a date": new Date(0),
    "a date within": { list: [{ at: new Date(0) }] },
    "a map": new Map([[1, 2]]),
    "an error": new Error("x"),
    "a blob": new Blob(["x"]),
    "a function": { call() {} },
    "no number": { n: NaN },
    "what has a JSON of its own": { toJSON: () => 1 },
    "a hole": { list: [undefined] },
  };
  for (const [name, data] of Object.entries(bad)) {
    it(`is refused at once, and holds nobody up: ${name}`, async () => {
      for (const all of [connected(), start()]) {
        const sent = all.client.send("e", data);
        const next = all.client.send("e", { ok: 1 });
        const error = await sent.catch((error) => error);
        assert.deepEqual([error.code, error.sent], ["INVALID_DATA", "no"]);
        if (!all.client.state.socketId) all.link.events.hello(HELLO);
        const said = all.link.find("e");
        assert.deepEqual([said.length, said[0].data.ok], [1, 1]);
        said[0].reply();
        assert.equal(await outcome(next), "done");
        await all.clock.pass(5000);
        all.client.disconnect();
      }
    });
  }

  it("is refused by live for every call, and leaves no question open", async () => {
    const all = overLive({});
    all.say({ type: "hello", ...HELLO });
    assert.equal(await outcome(all.client.request("q", { at: new Date(0) })), "INVALID_DATA");
    assert.throws(() => all.client.emit("q", new Uint8Array(1)), { code: "INVALID_DATA" });
    all.client.disconnect();
    assert.equal(all.clock.timers, 0);
  });

  it("is refused over Socket.IO as well, but for what goes beside it", async () => {
    const all = await overSocketIo({});
    await all.greet();
    const said = all.said.length;
    for (const [name, data] of Object.entries({ ...bad, "not a number": NaN, "a list": [undefined] })) {
      if (/^(bytes|a buffer|a blob)/.test(name)) continue;
      for (const sent of [all.client.request("q", data), all.client.publish("r", "e", { data })]) {
        const error = await sent.catch((error) => error);
        assert.ok(error instanceof HeartlineError, name);
        assert.equal(error.code, "INVALID_DATA", name);
      }
      assert.throws(() => all.client.emit("q", data), { code: "INVALID_DATA" }, name);
    }
    assert.equal(all.said.length, said);
    const carried = [new Uint8Array(2), new ArrayBuffer(2), { list: [Buffer.from("x")] }, undefined];
    for (const data of [...carried, { u: undefined }]) {
      assert.ok(all.client.emit("q", data));
      await new Promise((resolve) => setImmediate(resolve));
    }
    const packets = all.said.slice(said).filter((one) => typeof one === "string");
    // The wire of this test may hear a packet with its attachments twice.
    assert.deepEqual([...new Set(packets)], [
      '51-["q",{"_placeholder":true,"num":0}]',
      '51-["q",{"list":[{"_placeholder":true,"num":0}]}]',
      '2["q",null]',
      '2["q",{}]',
    ]);
    all.client.disconnect();
    assert.equal(all.clock.timers, 0);
  });

  it("is what a parser of the app's carries, which is measured alone", async () => {
    const said = [];
    class Encoder extends standard.Encoder {
      encode(packet) {
        if (packet.type !== standard.PacketType.EVENT) return super.encode(packet);
        said.push(packet.data);
        return ["2[]"];
      }
    }
    const all = await overSocketIo({}, { parser: { ...standard, Encoder } });
    await all.say('0{"sid":"s1"}');
    await all.say(event("server:hello", { ...HELLO, maxPayload: 200 }));
    const carried = [new Date(0), [undefined], NaN, { at: new Date(0), list: [{ n: Infinity }] }];
    for (const data of carried) {
      assert.equal(all.client.emit("q", data), true);
      void all.client.request("q", data).catch(() => {});
      void all.client.publish("r", "q", data).catch(() => {});
      assert.deepEqual(said.splice(0), [
        ["q", data],
        ["q", data],
        ["publish", { room: "r", event: "q", data }],
      ]);
    }
    for (const large of ["x".repeat(200), new Uint8Array(200), { at: new Date(0), text: "x".repeat(200) }]) {
      assert.throws(() => all.client.emit("q", large), { code: "TOO_LARGE" });
      assert.equal(await outcome(all.client.request("q", large)), "TOO_LARGE");
    }
    assert.deepEqual(said, []);
    // What waits is kept as JSON, whoever carries it.
    assert.equal(await outcome(all.client.send("q", { at: new Date(0) })), "INVALID_DATA");
    all.client.disconnect();
    assert.equal(all.clock.timers, 0);
  });

  it("is all there is: the rest arrives as it was given", async () => {
    const { client, link } = connected();
    const data = { a: [1, "ü", null, true, { b: undefined }], c: Object.create(null) };
    for (const [event, given] of Object.entries({
      e: data,
      list: [1, 2],
      text: "x",
      nothing: undefined,
    }))
      client.send(event, given).catch(() => {});
    const [{ data: said }] = link.find("e");
    assert.deepEqual(said, { a: [1, "ü", null, true, {}], c: {}, tempId: said.tempId });
    assert.deepEqual(
      ["list", "text", "nothing"].map((name) => link.find(name)[0].data),
      [[1, 2], "x", undefined],
    );
    client.disconnect();
  });
});

describe("a token function", () => {
  for (const [name, bad] of Object.entries({
    nothing: undefined,
    null: null,
    "an empty text": "",
    "the page of a proxy": "\n<!doctype html><title>502 Bad Gateway</title>",
    "an object": { token: "t" },
  })) {
    it(`that gives ${name} is asked again`, async () => {
      let asked = 0;
      const all = start({ token: async () => (++asked < 3 ? bad : "t") });
      await settled();
      assert.deepEqual(
        [all.status, all.client.state.reason],
        ["reconnecting", "token_unavailable"],
      );
      assert.equal(all.client.state.cause.code, "NO_TOKEN");
      await all.clock.pass(5000);
      assert.deepEqual([asked, all.link.token], [3, "t"]);
      all.client.disconnect();
    });
  }

  it("that throws is quoted", async () => {
    const all = start({ token: () => Promise.reject(new Error("502 from /my-token")) });
    await settled();
    assert.deepEqual(all.client.state.cause, { what: "token", message: "502 from /my-token" });
    all.client.disconnect();
  });

  it("that says that nobody is signed in is not asked again, also when it renews", async () => {
    let asked = 0;
    const early = start({
      token: () => {
        asked++;
        throw new SignedOut("gone");
      },
    });
    await early.clock.pass(600_000);
    const { status, reason, error } = early.client.state;
    assert.deepEqual([asked, status, reason, error.message], [1, "failed", "signed_out", "gone"]);
    assert.ok(early.isClean());
    const clock = new Clock();
    let number = 0;
    const late = start({
      platform: clock,
      token: async () => {
        if (++number > 1) throw new SignedOut();
        return token(clock, 60);
      },
    });
    await settled();
    late.link.events.hello(HELLO);
    await clock.pass(40_000);
    late.link.events.alive();
    await clock.pass(10_000);
    assert.deepEqual([late.status, late.client.state.reason], ["failed", "signed_out"]);
    assert.ok(late.isClean());
  });

  it("that fails when it renews is asked again before the token expires", async () => {
    const clock = new Clock();
    let number = 0;
    const all = start({
      platform: clock,
      token: async () => {
        if (++number === 2 || number === 3) throw new Error("502");
        return token(clock, 100);
      },
    });
    await settled();
    all.link.events.hello(HELLO);
    const stay = async (ms) => {
      for (let passed = 0; passed < ms; passed += 5000)
        (await clock.pass(5000), all.link.events.alive());
    };
    await stay(90_000);
    assert.equal(all.link.find("auth:refresh").length, 1);
    assert.equal(all.status, "connected");
    all.client.disconnect();
    assert.ok(all.isClean());
  });

  it("is asked in time by the server's clock, however wrong this one is", async () => {
    for (const ahead of [120_000, -120_000, 86_400_000]) {
      const clock = new Clock();
      let number = 0;
      // It lasts a minute by the server's clock.
      const make = () => token(clock, (60_000 - ahead) / 1000, `t${++number}`);
      const all = start({ platform: clock, token: async () => make() });
      await settled();
      all.link.events.hello({ ...HELLO, serverTime: clock.unix() - ahead });
      const counts = [];
      for (const second of [40, 10, 40, 10]) {
        for (let passed = 0; passed < second; passed += 5)
          (await clock.pass(5000), all.link.events.alive());
        const asked = all.link.find("auth:refresh");
        counts.push(asked.length);
        asked.at(-1)?.reply({ ok: true, expiresAt: clock.unix() - ahead + 60_000 });
        await settled();
      }
      assert.deepEqual([counts, all.status], [[0, 1, 1, 2], "connected"], `${ahead}`);
      all.client.disconnect();
      assert.ok(all.isClean());
    }
  });

  it("is asked in time by the server's clock, also where this one is set meanwhile", async () => {
    for (const by of [3_600_000, -3_600_000]) {
      const clock = new Clock();
      const begin = clock.unix() - clock.now();
      const server = () => begin + clock.now();
      // It lasts a minute by the server's clock.
      const make = () => token(clock, (server() - clock.unix()) / 1000 + 60);
      const all = start({ platform: clock, token: async () => make() });
      await settled();
      all.link.events.hello({ ...HELLO, serverTime: server() });
      clock.sleep(by);
      const counts = [];
      for (const second of [40, 10, 40, 10]) {
        for (let passed = 0; passed < second; passed += 5) {
          await clock.pass(5000);
          all.link.events.alive();
          for (const { reply } of all.link.find("ping")) reply({ timestamp: server() });
        }
        const asked = all.link.find("auth:refresh");
        counts.push(asked.length);
        asked.at(-1)?.reply({ ok: true, expiresAt: server() + 60_000 });
        await settled();
      }
      assert.deepEqual([counts, all.status], [[0, 1, 1, 2], "connected"], `${by}`);
      all.client.disconnect();
      assert.ok(all.isClean());
    }
  });

  it("that answers late does not take the place of a token that was given since", async () => {
    for (const late of ["old", "<html>", new SignedOut()]) {
      const clock = new Clock();
      let asks = 0;
      let answer;
      const all = start({
        platform: clock,
        token: () =>
          ++asks > 1
            ? new Promise((given, failed) => (answer = typeof late === "string" ? given : failed))
            : token(clock, 60),
      });
      await settled();
      all.link.events.hello(HELLO);
      for (const second of [24, 24]) {
        await clock.pass(second * 1000);
        all.link.events.alive();
      }
      const taken = all.client.setToken("new");
      await settled();
      answer(late);
      await settled();
      const asked = all.link.find("auth:refresh");
      assert.deepEqual(
        asked.map(({ data }) => data.token),
        ["new"],
      );
      asked[0].reply({ ok: true });
      assert.deepEqual([all.status, await outcome(taken)], ["connected", "done"]);
      // What was refused of the old one is not asked for again.
      await clock.pass(20_000);
      assert.equal(all.link.find("auth:refresh").length, 1);
      all.client.disconnect();
      assert.ok(all.isClean());
    }
  });

  it("is asked for again before the old one expires where a change has failed, whatever was under way", async () => {
    const clock = new Clock();
    let asks = 0;
    const give = () => (++asks > 1 ? new Promise(() => {}) : token(clock, 60));
    const all = start({ platform: clock, token: give });
    await settled();
    all.link.events.hello(HELLO);
    for (const second of [24, 24]) {
      await clock.pass(second * 1000);
      all.link.events.alive();
    }
    assert.equal(asks, 2);
    let fails = true;
    const changed = all.client.setToken(() => {
      if (fails) throw new Error("no");
      return "new";
    });
    assert.equal(await outcome(changed), "no");
    fails = false;
    await clock.pass(11_000);
    const [{ data, reply }] = all.link.find("auth:refresh");
    assert.equal(data.token, "new");
    reply({ ok: true });
    all.client.disconnect();
    assert.ok(all.isClean());
  });

  it("is not asked for again where a change has failed and nobody knows when the old one expires", async () => {
    const all = start({ token: "old" });
    all.link.events.hello(HELLO);
    let asks = 0;
    const changed = all.client.setToken(() => `other ${++asks}`);
    await settled();
    all.link.find("auth:refresh")[0].reply({ ok: false, code: "AUTH_TOKEN_INVALID" });
    assert.equal(await outcome(changed), "AUTH_TOKEN_INVALID");
    await all.clock.pass(20_000);
    assert.equal(asks, 1);
    all.client.disconnect();
  });

  it("may be changed: the connection has the new token, and so has the next attempt", async () => {
    const all = start({ token: "old" });
    all.link.events.hello(HELLO);
    const taken = all.client.setToken("new");
    await settled();
    const [{ data, reply }] = all.link.find("auth:refresh");
    assert.equal(data.token, "new");
    reply({ ok: true });
    assert.equal(await outcome(taken), "done");
    all.link.events.end(RETRY);
    await all.clock.pass(1000);
    assert.equal(all.link.token, "new");
    // Another user's is refused, and the connection stays what it was.
    all.link.events.hello(HELLO);
    const other = all.client.setToken(() => "other");
    await settled();
    all.link.find("auth:refresh")[0].reply({ ok: false, code: "AUTH_TOKEN_INVALID" });
    assert.equal(await outcome(other), "AUTH_TOKEN_INVALID");
    assert.equal(all.status, "connected");
    all.client.disconnect();
  });

  it("is tried at once when it is changed while one is waited for", async () => {
    const all = start({ token: () => Promise.reject(new Error("no")) });
    await settled();
    await all.client.setToken("t");
    assert.equal(all.link.token, "t");
    all.client.disconnect();
  });
});

describe("a token over live", () => {
  it("is in the first frame, and not in the address", async () => {
    const all = overLive({ token: "secret" });
    all.open();
    assert.equal(all.sockets[0].url, "ws://here/live");
    assert.deepEqual(all.said, [{ type: "auth", id: "0", token: "secret" }]);
    // Who may come as nobody is greeted so first.
    all.say({ type: "hello", ...HELLO, socketId: "nobody" });
    assert.equal(all.client.state.status, "connecting");
    all.say({ type: "hello", id: "0", ...HELLO });
    assert.equal(all.client.state.socketId, "s1");
    all.client.disconnect();
  });

  it("is not asked for where there is none", async () => {
    const all = overLive({});
    all.open();
    assert.deepEqual(all.said, []);
    all.say({ type: "hello", ...HELLO });
    assert.equal(all.client.state.status, "connected");
    all.client.disconnect();
  });
});

describe("a token that is given during an attempt", () => {
  it("is the one of the attempt from then on", async () => {
    for (const first of ["old", () => new Promise(() => {})]) {
      const all = start({ token: first });
      await settled();
      const { link: old } = all;
      await all.client.setToken("new");
      assert.equal(all.link.token, "new");
      old?.events.end({ kind: "token", reason: "auth_failed" });
      assert.equal(all.status, "connecting");
      all.link.events.hello(HELLO);
      assert.equal(all.status, "connected");
      all.client.disconnect();
    }
  });

  it("is the one of an attempt after a pause that was asked for, and ends no such pause", async () => {
    const all = connected({ token: "old" });
    all.link.events.end({ kind: "retry", reason: "unavailable", afterMs: 10_000 });
    await all.client.setToken("new");
    assert.equal(all.links.length, 1);
    await all.clock.pass(10_000);
    assert.equal(all.link.token, "new");
    await all.client.setToken("newer");
    assert.deepEqual([all.links.length, all.link.token], [3, "newer"]);
    all.client.disconnect();
    await all.client.setToken("newest");
    assert.deepEqual([all.links.length, all.status], [3, "disconnected"]);
  });
});

describe("a transport that cannot be", () => {
  it("ends in a state, not in an exception", async () => {
    for (const options of [{}, { token: async () => "t" }]) {
      const clock = new Clock();
      const client = new Client(live("http://"), { ...options, platform: clock });
      await settled();
      const { status, reason, error } = client.state;
      assert.deepEqual([status, reason, error.code], ["failed", "transport", "UNSUPPORTED"]);
      assert.equal(clock.timers + clock.watchers.size, 0);
    }
  });

  it("is tried with another WebSocket where there is none", async () => {
    const made = [];
    class Own {
      readyState = 0;
      constructor(url) {
        made.push(url);
      }
      close() {}
    }
    createLive("https://here/live?a=1", { WebSocket: Own }).disconnect();
    assert.deepEqual(made, ["wss://here/live?a=1"]);
  });

  it("may have an address that the page completes", () => {
    globalThis.location = { href: "https://app.example/chat/1" };
    try {
      const made = [];
      const client = new Client(
        live("/live", (url) => (made.push(url), { readyState: 0, close() {} })),
        { platform: new Clock() },
      );
      client.disconnect();
      assert.deepEqual(made, ["wss://app.example/live"]);
    } finally {
      delete globalThis.location;
    }
  });
});

describe("surroundings", () => {
  const names = ["window", "document", "navigator", "addEventListener", "removeEventListener"];
  const within = (what, call) => {
    const before = names.map((name) => Object.getOwnPropertyDescriptor(globalThis, name));
    for (const name of names)
      Object.defineProperty(globalThis, name, {
        value: what[name],
        configurable: true,
        writable: true,
      });
    try {
      return call();
    } finally {
      names.forEach((name, index) =>
        before[index]
          ? Object.defineProperty(globalThis, name, before[index])
          : delete globalThis[name],
      );
    }
  };

  it("may have a window and nothing else, as React Native's", () => {
    within({ window: {} }, () => browser.watch(() => {})());
  });

  it("of a worker are its network, without a document", () => {
    const target = new EventTarget();
    const heard = [];
    within(
      {
        addEventListener: target.addEventListener.bind(target),
        removeEventListener: target.removeEventListener.bind(target),
      },
      () => {
        const off = browser.watch((to) => heard.push(to));
        for (const name of ["offline", "online"]) target.dispatchEvent(new Event(name));
        off();
        target.dispatchEvent(new Event("online"));
      },
    );
    assert.deepEqual(heard, ["offline", "online"]);
  });

  it("of a page that begins without a network are told at once", async () => {
    const target = new EventTarget();
    const platform = new Clock();
    platform.watch = browser.watch;
    const { all } = within(
      {
        navigator: { onLine: false },
        addEventListener: target.addEventListener.bind(target),
        removeEventListener: target.removeEventListener.bind(target),
      },
      () => ({ all: start({ attempts: 1, platform }) }),
    );
    for (const pause of [0, 10_000]) {
      await all.clock.pass(pause);
      all.link.events.end({ kind: "retry", reason: "transport" });
      assert.equal(all.status, "reconnecting");
    }
    assert.equal(all.links.length, 2);
    target.dispatchEvent(new Event("online"));
    assert.equal(all.links.length, 3);
    all.client.disconnect();
  });

  it("of a page that is kept behind another one end with it, and begin again", () => {
    const target = new EventTarget();
    const heard = [];
    const tell = (name, persisted) =>
      target.dispatchEvent(Object.assign(new Event(name), { persisted }));
    within(
      {
        addEventListener: target.addEventListener.bind(target),
        removeEventListener: target.removeEventListener.bind(target),
      },
      () => {
        const off = browser.watch((to) => heard.push(to));
        tell("pageshow", false);
        tell("pagehide", true);
        tell("pageshow", true);
        tell("pagehide", false);
        off();
      },
    );
    assert.deepEqual(heard, ["offline", "online"]);
  });

  it("of a page that is shown again without a network are those of one without", () => {
    const target = new EventTarget();
    const navigator = { onLine: true };
    const heard = [];
    within(
      {
        navigator,
        addEventListener: target.addEventListener.bind(target),
        removeEventListener: target.removeEventListener.bind(target),
      },
      () => {
        const off = browser.watch((to) => heard.push(to));
        const tell = (name) =>
          target.dispatchEvent(Object.assign(new Event(name), { persisted: true }));
        tell("pagehide");
        navigator.onLine = false;
        tell("pageshow");
        assert.ok(!heard.includes("online"));
        target.dispatchEvent(new Event("online"));
        off();
      },
    );
    assert.equal(heard.at(-1), "online");
  });
});

describe("pauses", () => {
  it("that the server has asked for are kept, whatever wakes up", async () => {
    const all = connected();
    all.link.events.end({ kind: "retry", reason: "unavailable", afterMs: 10_000 });
    for (const what of ["awake", "online", "awake"]) all.clock.tell(what);
    await all.clock.pass(9_999);
    assert.equal(all.links.length, 1);
    await all.clock.pass(1);
    assert.equal(all.links.length, 2);
    // Somebody's own wish is another thing.
    all.link.events.end({ kind: "retry", reason: "unavailable", afterMs: 10_000 });
    all.client.connect();
    assert.equal(all.links.length, 3);
    all.client.disconnect();
  });

  it("that are over by the clock on the wall, after a sleep, are over", () => {
    const all = connected();
    all.link.events.end({ kind: "retry", reason: "unavailable", afterMs: 10_000 });
    all.clock.sleep(60_000);
    all.clock.tell("awake");
    assert.equal(all.links.length, 2);
    all.client.disconnect();
  });

  it("are never longer than a timer can be, and never no number", async () => {
    for (const afterMs of [3e9, Infinity]) {
      const all = connected();
      all.link.events.end({ ...RETRY, afterMs });
      assert.ok(all.client.state.nextRetryAt - all.clock.unix() <= 2 ** 31 - 1);
      await all.clock.pass(60_000);
      assert.equal(all.links.length, 1);
      all.client.disconnect();
    }
    for (const afterMs of [NaN, -1, "x"]) {
      const all = connected();
      all.link.events.end({ ...RETRY, afterMs });
      assert.equal(all.client.state.nextRetryAt - all.clock.unix(), 1000, `${afterMs}`);
      all.client.disconnect();
    }
  });

  it("of a server that does not say when it pings are the usual ones", async () => {
    const all = start();
    all.link.events.hello({ socketId: "s1" });
    await all.clock.pass(44_000);
    assert.equal(all.status, "connected");
    await all.clock.pass(1_000);
    assert.equal(all.client.state.reason, "heartbeat_timeout");
    all.client.disconnect();
  });

  it("without a network cost no attempts", async () => {
    const all = connected({ attempts: 3 });
    all.clock.tell("offline");
    for (let minute = 0; minute < 5; minute++) {
      await all.clock.pass(60_000);
      if (all.links.at(-1).closed === 0) all.link.events.end(RETRY);
    }
    assert.equal(all.status, "reconnecting");
    all.clock.tell("online");
    all.link.events.hello(HELLO);
    assert.equal(all.status, "connected");
    all.client.disconnect();
  });

  it("and attempts are told apart", async () => {
    const all = connected();
    all.link.events.end(RETRY);
    const before = all.states.length;
    await all.clock.pass(400);
    assert.ok(all.client.state.nextRetryAt > all.clock.unix());
    all.client.connect();
    assert.equal(all.client.state.nextRetryAt, all.clock.unix());
    // An attempt that begins when it was said to is no other state.
    all.link.events.end(RETRY);
    await all.clock.pass(2000);
    assert.deepEqual([all.links.length, all.states.length], [3, before + 2]);
    all.client.disconnect();
  });
});

describe("the cause of an end", () => {
  const cause = ({ client }) => client.state.cause;

  it("says what a browser can know", async () => {
    const never = start();
    never.link.events.end(RETRY);
    assert.deepEqual(cause(never), { what: "unreachable" });
    const lost = connected();
    lost.link.events.end(RETRY);
    assert.deepEqual(cause(lost), { what: "lost" });
    const away = connected();
    away.clock.tell("offline");
    assert.deepEqual(cause(away), { what: "offline" });
    const slow = start();
    await slow.clock.pass(12_000);
    assert.deepEqual(cause(slow), { what: "timeout" });
    for (const all of [never, lost, away, slow]) all.client.disconnect();
  });

  it("has the code and the words of the server", async () => {
    for (const [code, words, expected] of [
      [1001, "drained", { what: "unavailable", code: 1001, message: "drained" }],
      [4429, "rate_limited", { what: "rate_limited", code: 4429, message: "rate_limited" }],
      [4401, "AUTH_TOKEN_INVALID", { what: "token", code: 4401, message: "AUTH_TOKEN_INVALID" }],
      [4403, "kicked", { what: "kicked", code: 4403, message: "kicked" }],
      [1009, "", { what: "protocol", code: 1009 }],
    ]) {
      const all = overLive({ token: "t" });
      all.say({ type: "hello", ...HELLO });
      all.close(code, words);
      assert.deepEqual(cause(all), expected);
      all.client.disconnect();
    }
    const drained = overLive({});
    drained.say({ type: "hello", ...HELLO });
    drained.say({ type: "server:drain", data: { reconnectInMs: 700 } });
    drained.close(1001, "drained");
    assert.equal(cause(drained).what, "drained");
    drained.client.disconnect();
    const refused = await overSocketIo({ token: "t" });
    await refused.say('4{"message":"Old","data":{"code":"UPDATE"}}');
    assert.deepEqual(cause(refused), { what: "refused", code: "UPDATE", message: "Old" });
  });

  it("stays known when the attempts are exhausted", () => {
    const all = start({ attempts: 0 });
    all.link.events.end({ ...RETRY, code: 1006 });
    assert.equal(all.client.state.reason, "attempts_exhausted");
    assert.deepEqual(cause(all), { what: "unreachable", code: 1006 });
  });
});

describe("what is logged", () => {
  it("says what happens, and neither data nor tokens", async () => {
    const lines = [];
    const all = start({ token: "a-secret-token", debug: (line) => lines.push(line) });
    all.link.events.hello(HELLO);
    all.client.join("lobby");
    all.client.send("message:send", { content: "private words" }).catch(() => {});
    all.link.events.event("news", { content: "private words" }, "lobby");
    all.link.events.end({ ...RETRY, code: 1006 });
    all.client.disconnect();
    const text = lines.join("\n");
    for (const part of ["state connected", "heard news", "say message:send", "transport 1006"])
      assert.ok(text.includes(part), `${part} in ${text}`);
    assert.doesNotMatch(text, /secret|private/);
  });

  it("disturbs nobody when the logger throws", async () => {
    const all = start({
      autoConnect: false,
      debug: (line) => {
        if (line.startsWith("end")) throw new Error("mine");
      },
    });
    const errors = await thrown(() => {
      all.client.connect();
      all.link.events.end(RETRY);
      assert.equal(all.status, "reconnecting");
      all.client.disconnect();
    });
    assert.equal(errors[0].message, "mine");
  });
});

describe("a listener that throws at once", () => {
  it("can still be taken away", async () => {
    const { client } = start();
    let calls = 0;
    let off;
    const errors = await thrown(() => {
      off = client.subscribe(() => {
        calls++;
        throw new Error("mine");
      });
    });
    assert.equal(errors[0].message, "mine");
    off();
    client.disconnect();
    assert.equal(calls, 1);
  });
});

describe("frames of live", () => {
  it("that are none are no sign of life, and no exception", async () => {
    const all = overLive({});
    all.say({ type: "hello", ...HELLO });
    const [socket] = all.sockets;
    for (let at = 0; at < 45; at += 5) {
      for (const data of ["<html>", "null", "7", "{}", '{"type":7}']) socket.onmessage({ data });
      await all.clock.pass(5000);
    }
    assert.equal(all.client.state.reason, "heartbeat_timeout");
    all.client.disconnect();
  });

  it("say in which room and where an event was said", async () => {
    const all = overLive({});
    all.say({ type: "hello", ...HELLO });
    const heard = [];
    all.client.on("at", (data) => heard.push([data, all.client.place]));
    all.say({ type: "at", topic: "a", data: null, offset: 7 });
    all.say({ type: "at", data: 2 });
    assert.deepEqual(heard, [
      [null, { room: "a", offset: 7 }],
      [2, {}],
    ]);
    all.client.disconnect();
  });

  it("that refuse say how long the pause is", async () => {
    const all = overLive({});
    all.say({ type: "hello", ...HELLO });
    const asked = all.client.request("q", 1);
    const { id } = all.said.at(-1);
    all.say({ type: "error", id, code: "RATE_LIMITED", message: "slower", retryAfterMs: 700 });
    const error = await asked.catch((error) => error);
    assert.deepEqual(
      [error.code, error.retryAfterMs, error.message],
      ["RATE_LIMITED", 700, "slower"],
    );
    all.client.disconnect();
  });

  it("go nowhere while the socket closes, and that is said", () => {
    const all = overLive({});
    all.say({ type: "hello", ...HELLO });
    all.sockets[0].readyState = 2;
    assert.equal(all.client.emit("e", 1), false);
    all.client.disconnect();
  });
});
