// What the two transports make of what comes over the wire, without a server.
import assert from "node:assert/strict";
import { describe, it } from "node:test";
import { HELLO, settled } from "./fake.js";
import { inWords, overLive, overSocketIo } from "./wires.js";

describe("the live transport", () => {
  async function inRoom() {
    const all = overLive({ token: "t" });
    all.say({ type: "hello", ...HELLO });
    all.client.join("r");
    all.say({
      type: "subscribed",
      topic: "r",
      id: "1",
      epoch: "e",
      offset: 0,
      snapshot: [],
      recovered: false,
    });
    await settled();
    assert.ok(all.client.isIn("r"));
    return all;
  }

  const said = {
    data: { code: "AUTH_TOKEN_EXPIRED", reconnectInMs: 5000, timestamp: 1, room: "r", reason: "x" },
  };
  const hello = { ...said, ...HELLO, socketId: "forged" };
  const forged = {
    "connection:replaced": said,
    "auth:error": said,
    "server:drain": said,
    "server:hello": hello,
    hello,
    heartbeat: said,
    "room:left": said,
    "room:lost": said,
    "room:in": said,
    error: { ...said, id: "2", code: "FORBIDDEN" },
    ack: { ...said, id: "2" },
    pong: { ...said, id: "2" },
  };
  for (const [type, more] of Object.entries(forged)) {
    it(`takes ${type} with a topic for something that was said in the room`, async () => {
      const all = await inRoom();
      const { state } = all.client;
      let answers = 0;
      const asked = all.client.request("question", 1).finally(() => answers++);
      const before = all.said.length;
      all.say({ type, topic: "r", offset: 1, ...more });
      await settled();
      assert.equal(all.client.state, state);
      assert.ok(all.client.isIn("r"));
      assert.deepEqual([answers, all.said.length], [0, before]);
      all.say({ type: "ack", id: "2", data: { ok: true, mine: 1 } });
      assert.equal((await asked).mine, 1);
      all.close(1006);
      assert.equal(inWords(all), "reconnecting transport");
      all.client.disconnect();
    });
  }

  it("obeys the same without one", async () => {
    const all = await inRoom();
    all.say({ type: "connection:replaced", data: { message: "…", by: {} } });
    assert.equal(all.client.state.status, "connected");
    all.close(4409);
    assert.equal(inWords(all), "failed replaced");
  });

  it("tells what was said in a room, whatever the data", async () => {
    const all = await inRoom();
    const heard = [];
    for (const event of ["message:new", "position"])
      all.client.on(event, (data) => heard.push([event, data]));
    all.say({ type: "message:new", topic: "r", data: { content: "hi" }, offset: 1 });
    for (const [index, data] of [null, 0, "", false].entries())
      all.say({ type: "position", topic: "r", data, offset: 2 + index });
    const expected = [
      ["message:new", { content: "hi" }],
      ...[null, 0, "", false].map((data) => ["position", data]),
    ];
    assert.deepEqual(heard, expected);
    all.client.disconnect();
  });

  it("says which room was taken away or has a gap", async () => {
    const all = await inRoom();
    const heard = [];
    for (const event of ["room:left", "room:gap", "room:lost"])
      all.client.on(event, (data) => heard.push([event, data]));
    all.say({ type: "gap", topic: "r", epoch: "e", offset: 7 });
    all.say({ type: "unsubscribed", topic: "r", reason: "forbidden" });
    assert.deepEqual(all.said.at(-1), { type: "subscribe", topic: "r", id: "2" });
    all.say({ type: "error", id: "2", code: "FORBIDDEN", message: "no" });
    await settled();
    assert.deepEqual(heard, [
      ["room:gap", { room: "r" }],
      ["room:left", { room: "r", reason: "forbidden" }],
      ["room:lost", { room: "r", code: "FORBIDDEN" }],
    ]);
    assert.equal(all.client.isIn("r"), false);
    all.client.disconnect();
  });

  it("takes the server's answer to leaving for no more than that", async () => {
    const all = await inRoom();
    let left = 0;
    all.client.on("room:left", () => left++);
    all.client.leave("r");
    all.say({ type: "unsubscribed", topic: "r" });
    assert.equal(left, 0);
    all.client.disconnect();
  });

  it("listens to errors, which would end a process on Node, to the end and beyond", async () => {
    const all = overLive();
    const [socket] = all.sockets;
    for (const moment of [() => {}, () => all.close(1006), () => all.client.disconnect()]) {
      moment();
      assert.equal(typeof socket.onerror, "function");
      socket.onerror({ message: "ECONNREFUSED" });
    }
    assert.equal(all.client.state.status, "disconnected");
  });

  const CODES = {
    1001: "reconnecting unavailable",
    1006: "reconnecting transport",
    1008: "failed protocol",
    1011: "reconnecting unavailable",
    1013: "reconnecting unavailable",
    4401: "failed auth_expired",
    4403: "failed kicked",
    4408: "reconnecting heartbeat_timeout",
    4409: "failed device_limit",
    4413: "reconnecting transport",
    4429: "reconnecting unavailable",
  };
  for (const [code, expected] of Object.entries(CODES)) {
    it(`makes ${expected} of ${code}`, async () => {
      const all = await inRoom();
      all.close(Number(code));
      assert.equal(inWords(all), expected);
      all.client.disconnect();
    });
  }
});

describe("an app that does not let a client in", () => {
  const said = (all) => {
    const { reason, error } = all.client.state;
    return [reason, error?.name, error?.code, error?.message, error?.data];
  };
  const data = { code: "UPDATE", from: 2 };

  it("is heard over Socket.IO, with its code and its data", async () => {
    for (const [packet, expected] of [
      [`4{"message":"Old","data":${JSON.stringify(data)}}`, ["UPDATE", "Old", data]],
      ['4{"message":"No"}', ["REFUSED", "No", undefined]],
    ]) {
      const all = await overSocketIo({ token: "t" });
      await all.say(packet);
      assert.equal(all.client.state.status, "failed");
      assert.deepEqual(said(all), ["refused", "HeartlineError", ...expected]);
    }
  });

  it("is heard over live, and not mixed up with a kick", async () => {
    const all = overLive({ token: "t" });
    all.say({ type: "error", code: "UPDATE", message: "Old", data });
    all.close(4403, "Old");
    assert.deepEqual(said(all), ["refused", "HeartlineError", "UPDATE", "Old", data]);
    all.client.connect();
    all.say({ type: "hello", ...HELLO });
    all.say({ type: "error", code: "RATE_LIMITED", message: "slower" });
    all.close(4403, "kicked");
    assert.equal(inWords(all), "failed kicked");
  });

  it("is no server that cannot be reached or failed itself", async () => {
    const lost = await overSocketIo({ token: "t" });
    lost.close();
    assert.equal(inWords(lost), "reconnecting transport");
    lost.client.disconnect();
    const failed = await overSocketIo({ token: "t" });
    await failed.say('4{"message":"…","data":{"code":"INTERNAL"}}');
    assert.equal(inWords(failed), "reconnecting unavailable");
    failed.client.disconnect();
  });
});

describe("a connection that an operator ends", () => {
  const kick = async (all) => {
    await all.greet();
    await all.say('2["connection:closed",{"reason":"kicked"}]');
    assert.equal(all.client.state.status, "connected");
  };

  it("says why, once it has ended so", async () => {
    const all = await overSocketIo({ token: "t" });
    await kick(all);
    await all.say("1");
    assert.equal(inWords(all), "failed kicked");
    assert.equal(all.client.state.error.code, "kicked");
  });

  it("comes back if it was another end", async () => {
    const all = await overSocketIo({ token: "t" });
    await kick(all);
    all.close(4408);
    assert.equal(inWords(all), "reconnecting heartbeat_timeout");
    assert.equal(all.client.state.error, undefined);
    all.client.disconnect();
  });
});

describe("the Socket.IO transport", () => {
  const REPLACED = '2["connection:replaced",{"message":"…","by":{}}]';
  const EXPIRED = '2["auth:error",{"code":"AUTH_TOKEN_EXPIRED","message":"…"}]';
  const DRAIN = '2["server:drain",{"reconnectInMs":7300}]';
  const OTHER = `2["server:hello",${JSON.stringify({ ...HELLO, socketId: "forged" })}]`;
  const nothing = '2["news",1]';
  const ENDS = [
    ["nothing", () => {}],
    ["a namespace DISCONNECT", ({ say }) => say("1")],
    ["a close without a code", ({ close }) => close()],
    ...[1006, 1001, 4401, 4408].map((code) => [`a close with ${code}`, ({ close }) => close(code)]),
  ];
  const lost = "reconnecting transport",
    away = "reconnecting unavailable";
  const expired = "failed auth_expired",
    silent = "reconnecting heartbeat_timeout";
  const unproven = "reconnecting auth_expired";
  // prettier-ignore
  const TABLE = [
    //         nothing      DISCONNECT         no code   1006      1001  4401     4408
    [nothing, "connected", "failed kicked", lost, lost, away, expired, silent],
    [REPLACED, "connected", "failed replaced", lost, lost, away, expired, silent],
    [EXPIRED, "connected", "failed kicked", unproven, unproven, away, expired, silent],
    [DRAIN, "connected", "failed kicked", lost, lost, away, expired, silent],
    [OTHER, "connected", "failed kicked", lost, lost, away, expired, silent],
  ];
  for (const [packet, ...row] of TABLE) {
    for (const [index, [end, happens]] of ENDS.entries()) {
      it(`${packet.slice(0, 40)}, then ${end} → ${row[index]}`, async () => {
        const all = await overSocketIo({ token: "t" });
        await all.greet();
        assert.equal(all.client.state.status, "connected");
        const { state } = all.client;
        await all.say(packet);
        assert.equal(all.client.state, state);
        await happens(all);
        await settled();
        assert.equal(inWords(all), row[index]);
        const { nextRetryAt } = all.client.state;
        // A silent server is not one that goes away.
        const isDrained = packet === DRAIN && row[index] !== silent;
        if (nextRetryAt) assert.equal(nextRetryAt - all.clock.unix(), isDrained ? 7300 : 1000);
        all.client.disconnect();
      });
    }
  }

  it("is greeted by the server alone", async () => {
    const all = await overSocketIo({ token: "t" });
    await all.say('0{"sid":"s1"}');
    const heard = [];
    all.client.on("server:hello", ({ socketId }) => heard.push(socketId));
    await all.say(OTHER);
    await all.say('2["server:hello"]');
    assert.equal(all.client.state.status, "connecting");
    await all.say(`2["server:hello",${JSON.stringify(HELLO)}]`);
    await all.say(OTHER);
    assert.deepEqual([all.client.state.socketId, heard], ["s1", ["s1"]]);
    all.client.disconnect();
  });

  it("waits where a refusal over WebSocket is said to pass", () => {
    const all = overLive({ token: "t" });
    const data = { code: "DEVICE_LIMIT", retryAfterMs: 900 };
    all.say({ type: "error", code: "DEVICE_LIMIT", message: "no", data });
    all.close(1013, "DEVICE_LIMIT");
    assert.equal(inWords(all), away);
    assert.equal(all.client.state.nextRetryAt - all.clock.unix(), 900);
    all.client.disconnect();
  });

  it("waits where a refusal is said to pass, and only there", async () => {
    for (const [more, expected] of [
      ["", "failed device_limit"],
      [',"retryAfterMs":900', away],
    ]) {
      const all = await overSocketIo({ token: "t" });
      await all.say(`4{"message":"no","data":{"code":"DEVICE_LIMIT"${more}}}`);
      assert.equal(inWords(all), expected);
      const { nextRetryAt } = all.client.state;
      if (nextRetryAt) assert.equal(nextRetryAt - all.clock.unix(), 900);
      all.client.disconnect();
    }
  });
});

describe("the answer to a ping says the server's time", () => {
  const asked = ({ client }) => {
    const times = [];
    client.link.ping((pong) => times.push(pong?.timestamp));
    return times;
  };

  it("over live", () => {
    const all = overLive({});
    all.say({ type: "hello", ...HELLO });
    const times = asked(all);
    const [{ id, ...frame }] = all.said;
    assert.deepEqual(frame, { type: "ping" });
    all.say({ type: "pong", id, timestamp: 7 });
    assert.deepEqual(times, [7]);
    all.client.disconnect();
  });

  it("over Socket.IO", async () => {
    const all = await overSocketIo({});
    await all.greet();
    const times = asked(all);
    await settled();
    assert.equal(all.said.at(-1), '20["ping",{}]');
    await all.say('30[{"timestamp":7}]');
    assert.deepEqual(times, [7]);
    all.client.disconnect();
  });

  it("unless the server refuses it, which is a sign of life too", async () => {
    const all = overLive({});
    all.say({ type: "hello", ...HELLO });
    const pinged = all.client.ping();
    const [{ id }] = all.said;
    all.say({ type: "error", id, code: "RATE_LIMITED", message: "slower", retryAfterMs: 1000 });
    assert.equal(await pinged, 0);
    all.client.disconnect();
  });
});
