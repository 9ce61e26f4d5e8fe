// The Engine.IO layer alone, against what the protocol document says.
import assert from "node:assert/strict";
import { after, before, describe, it } from "node:test";
import http from "node:http";
import { setTimeout as delay } from "node:timers/promises";
import { INTERVAL, LATE, MAX_PAYLOAD, Socket, TIMEOUT, start, until, within } from "./lib.js";

let server;
const path = (query) => `/engine.io/?${query}`;
const url = (query, to = server) => to.http + path(query);
const wsUrl = (query, to = server) => to.ws + path(query);

before(async () => {
  server = await start("engineio_echo");
});
after(() => server.stop());

async function handshake(to) {
  const response = await fetch(url("EIO=4&transport=polling", to));
  const body = await response.text();
  assert.equal(response.status, 200);
  return { response, body, ...JSON.parse(body.slice(1)) };
}
const poll = (sid, options, to) => fetch(url(`EIO=4&transport=polling&sid=${sid}`, to), options);
const post = (sid, body, headers, to) => poll(sid, { method: "POST", body, headers }, to);
const known = async (sid) => (await post(sid, "3")).status === 200;

async function webSocket(to) {
  const socket = new Socket(wsUrl("EIO=4&transport=websocket", to));
  const open = await socket.next();
  return Object.assign(socket, { open: JSON.parse(open.slice(1)) });
}

describe("handshake", () => {
  it("over polling tells exactly five things", async () => {
    const { response, body } = await handshake();
    assert.match(response.headers.get("content-type"), /^text\/plain/);
    assert.equal(body[0], "0");
    const open = JSON.parse(body.slice(1));
    assert.deepEqual(Object.keys(open), [
      "sid",
      "upgrades",
      "pingInterval",
      "pingTimeout",
      "maxPayload",
    ]);
    assert.deepEqual(open.upgrades, ["websocket"]);
    assert.equal(open.pingInterval, INTERVAL);
    assert.equal(open.pingTimeout, TIMEOUT);
    assert.equal(open.maxPayload, MAX_PAYLOAD);
  });

  it("over WebSocket offers no upgrade", async () => {
    const socket = await webSocket();
    assert.deepEqual(socket.open.upgrades, []);
    assert.equal(typeof socket.open.sid, "string");
    socket.terminate();
  });

  const refusals = [
    ["EIO=4", 400, 0, "Transport unknown"],
    ["EIO=4&transport=abc", 400, 0, "Transport unknown"],
    ["EIO=4&transport=polling&sid=unknown", 400, 1, "Session ID unknown"],
    ["EIO=4&transport=websocket", 400, 3, "Bad request"],
    ["EIO=3&transport=polling", 400, 5, "Unsupported protocol version"],
    ["transport=polling", 400, 5, "Unsupported protocol version"],
  ];
  for (const [query, status, code, message] of refusals) {
    it(`refuses ?${query}`, async () => {
      const response = await fetch(url(query));
      assert.equal(response.status, status);
      assert.equal(response.headers.get("content-type"), "application/json");
      assert.deepEqual(await response.json(), { code, message });
    });
  }

  it("refuses to begin with POST", async () => {
    const response = await fetch(url("EIO=4&transport=polling"), { method: "POST", body: "4x" });
    assert.equal(response.status, 400);
    assert.deepEqual(await response.json(), { code: 2, message: "Bad handshake method" });
  });

  for (const query of [
    "EIO=3&transport=websocket",
    "EIO=4&transport=abc",
    "EIO=4&transport=websocket&sid=unknown",
  ]) {
    it(`refuses a WebSocket with ?${query} before the upgrade`, async () => {
      const socket = new Socket(wsUrl(query));
      await assert.rejects(socket.opened, /400/);
    });
  }
});

describe("messages over polling", () => {
  it("come back", async () => {
    const { sid } = await handshake();
    const pushed = await post(sid, "4hello");
    assert.equal(pushed.status, 200);
    assert.equal(await pushed.text(), "ok");
    assert.equal(await (await poll(sid)).text(), "4hello");
  });

  it("several in a payload, in order", async () => {
    const { sid } = await handshake();
    await post(sid, "4test1\x1e4test2\x1e4test3");
    assert.equal(await (await poll(sid)).text(), "4test1\x1e4test2\x1e4test3");
  });

  it("binary as base64", async () => {
    const { sid } = await handshake();
    await post(sid, "bAQIDBA==");
    assert.equal(await (await poll(sid)).text(), "bAQIDBA==");
  });

  for (const body of ["abc", "4ok\x1e", "9", "b!!!"]) {
    it(`${JSON.stringify(body)} ends the session`, async () => {
      const { sid } = await handshake();
      assert.equal((await post(sid, body)).status, 400);
      assert.equal((await poll(sid)).status, 400);
    });
  }

  it("octet streams are of another time", async () => {
    const { sid } = await handshake();
    const refused = await post(sid, "4hello", { "content-type": "application/octet-stream" });
    assert.equal(refused.status, 400);
    assert.equal(await known(sid), false);
  });

  it("a body that is too large gets 413, and the session goes on", async () => {
    const { sid } = await handshake();
    assert.equal((await post(sid, "4" + "x".repeat(MAX_PAYLOAD))).status, 413);
    assert.equal(await known(sid), true);
  });

  it("other methods are not for this", async () => {
    const { sid } = await handshake();
    assert.equal((await poll(sid, { method: "PUT", body: "4x" })).status, 405);
  });
});

describe("messages over WebSocket", () => {
  it("text and binary come back", async () => {
    const socket = await webSocket();
    socket.send("4hello");
    assert.equal(await socket.say(), "4hello");
    socket.send(Buffer.from([1, 2, 3]));
    assert.deepEqual(await socket.say(), Buffer.from([1, 2, 3]));
    socket.terminate();
  });

  it("are answered with base64 where that was asked for", async () => {
    const socket = new Socket(wsUrl("EIO=4&transport=websocket&b64=1"));
    await socket.next();
    socket.send(Buffer.from([1, 2, 3]));
    assert.equal(await socket.say(), "bAQID");
    socket.send("bAQID");
    assert.equal(await socket.say(), "bAQID");
    socket.terminate();
  });

  for (const packet of ["abc", "", "2", "8"]) {
    it(`${JSON.stringify(packet)} ends the connection`, async () => {
      const socket = await webSocket();
      socket.send(packet);
      await socket.end();
    });
  }

  it("up to the largest message, and not a byte more", async () => {
    const socket = await webSocket();
    socket.send("4" + "x".repeat(MAX_PAYLOAD - 1));
    assert.equal((await socket.say()).length, MAX_PAYLOAD);
    socket.send("4" + "x".repeat(MAX_PAYLOAD));
    assert.equal((await socket.end()).code, 1009);
  });
});

// Side by side, as most of it is waiting: no more than four, since first pings that would leave
// together are spread.
describe("heartbeat", { concurrency: true }, () => {
  // Milliseconds, of `quick` alone.
  const SOON = LATE;
  const END = SOON + SOON;
  const TIMES = ["--ping-interval", `${SOON}ms`, "--ping-timeout", `${SOON}ms`];
  let quick;
  before(async () => {
    quick = await start("engineio_echo", TIMES);
  });
  after(() => quick.stop());
  const listen = (sid, to = quick) => poll(sid, {}, to);
  const say = (sid, body, to = quick) => post(sid, body, {}, to);

  it("pings over polling, and lives as long as it is answered", async () => {
    const { sid } = await handshake(quick);
    for (let i = 0; i < 3; i++) {
      const began = Date.now();
      assert.equal(await (await listen(sid)).text(), "2");
      const gap = Date.now() - began;
      assert.ok(gap < SOON + LATE, `${gap} ms`);
      assert.equal((await say(sid, "3")).status, 200);
    }
  });

  it("ends a silent polling session at interval + timeout", async () => {
    const began = Date.now();
    const { sid } = await handshake(quick);
    assert.equal(await (await listen(sid)).text(), "2");
    // A GET that waits at that moment hears of it.
    const response = await listen(sid);
    const took = Date.now() - began;
    assert.ok(took >= END - 20 && took < END + LATE, `${took} ms`);
    assert.deepEqual([response.status, await response.text()], [200, "1"]);
    assert.equal((await listen(sid)).status, 400);
  });

  it("knows a silent polling session no more at interval + timeout, none of ten", async () => {
    const crowded = await start("engineio_echo", TIMES);
    const one = async (_, i) => {
      const { sid } = await handshake(crowded);
      // Not before, in which case this GET would hear the ping.
      await delay(END);
      const response = i % 2 ? await listen(sid, crowded) : await say(sid, "3", crowded);
      assert.equal(response.status, 400);
      assert.equal((await response.json()).message, "Session ID unknown");
    };
    await Promise.all(Array.from({ length: 10 }, one)).finally(crowded.stop);
  });

  it("pings over WebSocket in its rhythm", async () => {
    const began = Date.now();
    const socket = await webSocket(quick);
    let last = Date.now();
    for (let i = 1; i <= 3; i++) {
      assert.equal(await socket.next(), "2");
      const now = Date.now();
      assert.ok(now - last < SOON + LATE, `${now - last} ms`);
      // From the beginning, as a ping that came late makes the time to the next shorter.
      assert.ok(now - began >= i * (SOON - 20), `${i} pings in ${now - began} ms`);
      last = now;
      socket.send("3");
    }
    socket.terminate();
  });

  it("ends a silent WebSocket with 4408", async () => {
    const began = Date.now();
    const socket = await webSocket(quick);
    assert.equal((await socket.end()).code, 4408);
    const took = Date.now() - began;
    assert.ok(took >= END - 20 && took < END + LATE, `${took} ms`);
  });

  it("takes a pong that nobody asked for", async () => {
    const socket = await webSocket();
    socket.send("3");
    socket.send("3");
    socket.send("4x");
    assert.equal(await socket.say(), "4x");
    socket.terminate();
  });
});

describe("requests of one session", () => {
  it("two GETs at once end it", async () => {
    const { sid } = await handshake();
    const first = poll(sid);
    // The second must not overtake the first: it follows on the same socket's heels.
    await new Promise((resolve) => setImmediate(resolve));
    const second = poll(sid);
    const [one, two] = await Promise.all([first, second]);
    const statuses = [one.status, two.status].sort();
    assert.deepEqual(statuses, [200, 400]);
    assert.equal(await (one.status === 200 ? one : two).text(), "1");
    assert.equal((await poll(sid)).status, 400);
  });

  it("two POSTs at once end it", async () => {
    const { sid } = await handshake();
    const slow = http.request(url(`EIO=4&transport=polling&sid=${sid}`), { method: "POST" });
    slow.on("error", () => {});
    const answer = new Promise((resolve) =>
      slow.on("response", (response) => resolve(response.statusCode)),
    );
    slow.write("4x");
    let second;
    do {
      // Until the first has arrived, this one is the only POST.
      second = await post(sid, "3");
    } while (second.status === 200);
    assert.equal(second.status, 400);
    assert.equal(await within(answer, "answer to the first"), 400);
    assert.equal((await poll(sid)).status, 400);
    slow.destroy();
  });

  it("an aborted GET ends it", async () => {
    // From here nobody sees whether a GET has arrived before it is aborted. A session that
    // has not seen it goes on, and another one is tried.
    await until(async () => {
      const { sid } = await handshake();
      const controller = new AbortController();
      const abandoned = poll(sid, { signal: controller.signal });
      // A round trip behind it, on another connection.
      assert.equal(await known(sid), true);
      controller.abort();
      await assert.rejects(abandoned, /abort/);
      const began = Date.now();
      while (Date.now() - began < LATE) if (!(await known(sid))) return true;
      return false;
    }, "the end of a session whose GET was aborted");
  });

  it("a close packet lets the GET go and ends it", async () => {
    // A GET that comes behind the close packet finds no session; then another one is tried.
    const answer = await until(async () => {
      const { sid } = await handshake();
      const waiting = poll(sid);
      assert.equal((await post(sid, "1")).status, 200);
      const response = await within(waiting, "an answer to the GET");
      assert.equal((await poll(sid)).status, 400);
      return response.status === 200 && response.text();
    }, "a GET that was there before the close packet");
    assert.equal(answer, "6");
  });

  it("a close packet over WebSocket ends it at once", async () => {
    const socket = await webSocket();
    socket.send("1");
    await socket.end();
  });
});

describe("upgrade", () => {
  async function probe(sid) {
    const socket = new Socket(wsUrl(`EIO=4&transport=websocket&sid=${sid}`));
    await socket.opened;
    socket.send("2probe");
    assert.equal(await socket.next(), "3probe");
    return socket;
  }

  it("takes the session over", async () => {
    const { sid } = await handshake();
    const socket = await probe(sid);
    socket.send("5");
    socket.send("4hello");
    assert.equal(await socket.say(), "4hello");
    const late = await poll(sid);
    assert.equal(late.status, 400);
    assert.deepEqual(await late.json(), { code: 3, message: "Bad request" });
    assert.equal((await post(sid, "4x")).status, 400);
    socket.terminate();
  });

  it("lets the waiting GET go", async () => {
    const { sid } = await handshake();
    const waiting = poll(sid);
    // A round trip behind it; but also a GET that comes during the probe is let go.
    assert.equal(await known(sid), true);
    const socket = await probe(sid);
    const answer = await within(waiting, "an answer to the GET");
    assert.equal(await answer.text(), "6");
    socket.send("5");
    socket.terminate();
  });

  it("keeps the order across the switch", async () => {
    const { sid } = await handshake();
    await post(sid, "41\x1e42\x1e43");
    const socket = await probe(sid);
    socket.send("5");
    socket.send("44");
    for (const expected of ["41", "42", "43", "44"]) assert.equal(await socket.say(), expected);
    socket.terminate();
  });

  it("is refused to a second WebSocket, and the first lives on", async () => {
    const { sid } = await handshake();
    const socket = await probe(sid);
    const second = new Socket(wsUrl(`EIO=4&transport=websocket&sid=${sid}`));
    await second.end();
    socket.send("5");
    const third = new Socket(wsUrl(`EIO=4&transport=websocket&sid=${sid}`));
    await third.end();
    socket.send("4hello");
    assert.equal(await socket.say(), "4hello");
    socket.terminate();
  });

  it("that begins with anything else leaves the session polling", async () => {
    const { sid } = await handshake();
    const socket = new Socket(wsUrl(`EIO=4&transport=websocket&sid=${sid}`));
    await socket.opened;
    socket.send("4hello");
    await socket.end();
    assert.equal(await known(sid), true);
  });

  it("that breaks off leaves the session polling", async () => {
    const { sid } = await handshake();
    const socket = await probe(sid);
    socket.terminate();
    await socket.end();
    await post(sid, "4still");
    let text;
    do text = await (await poll(sid)).text();
    while (text === "6");
    assert.equal(text, "4still");
  });
});

describe("browsers", () => {
  it("see responses and errors of allowed origins", async () => {
    for (const query of ["EIO=4&transport=polling", "EIO=4&transport=abc"]) {
      const response = await fetch(url(query), { headers: { origin: "https://app.example" } });
      assert.equal(response.headers.get("access-control-allow-origin"), "https://app.example");
      assert.equal(response.headers.get("access-control-allow-credentials"), "true");
    }
  });

  it("get their preflight answered", async () => {
    const headers = { origin: "https://app.example", "access-control-request-headers": "x-a" };
    const response = await fetch(url("EIO=4&transport=polling"), { method: "OPTIONS", headers });
    assert.equal(response.status, 204);
    assert.equal(response.headers.get("access-control-allow-headers"), "x-a");
    assert.match(response.headers.get("access-control-allow-methods"), /POST/);
  });
});
