// What an event may do that somebody else in a room might have sent: nothing, until the
// end of the connection says the same.
import assert from "node:assert/strict";
import { describe, it } from "node:test";
import { HELLO, connected, outcome, settled, start } from "./fake.js";

/** What may follow an event. */
const ENDS = {
  nothing: () => {},
  lost: ({ link }) => link.events.end({ kind: "retry", reason: "transport" }),
  unavailable: ({ link }) => link.events.end({ kind: "retry", reason: "unavailable" }),
  silent: ({ link }) => link.events.end({ kind: "retry", reason: "heartbeat_timeout" }),
  paused: ({ link }) => link.events.end({ kind: "retry", reason: "unavailable", afterMs: 900 }),
  kicked: ({ link }) => link.events.end({ kind: "final", reason: "kicked" }),
  limit: ({ link }) => link.events.end({ kind: "final", reason: "device_limit" }),
  token: ({ link }) => link.events.end({ kind: "token", reason: "auth_expired" }),
};
/** What follows from each end by itself: the state, its reason, the pause. */
const ALONE = {
  nothing: "connected",
  lost: "reconnecting transport 1000",
  unavailable: "reconnecting unavailable 1000",
  silent: "reconnecting heartbeat_timeout 1000",
  paused: "reconnecting unavailable 900",
  kicked: "failed kicked",
  limit: "failed device_limit",
  token: "reconnecting auth_expired 0",
};
const DRAINED = {
  lost: "reconnecting transport 7300",
  unavailable: "reconnecting unavailable 7300",
};
const CLAMPED = {
  lost: "reconnecting transport 60000",
  unavailable: "reconnecting unavailable 60000",
};
const REPLACED = { kicked: "failed replaced", limit: "failed replaced" };
const EXPIRED = { code: "AUTH_TOKEN_EXPIRED", message: "…" };

/** Events and their data, and where an end then means something else. */
const EVENTS = [
  ["connection:replaced", { message: "…", by: {} }, REPLACED],
  ["connection:replaced", undefined, REPLACED],
  ["auth:error", EXPIRED, { lost: "reconnecting auth_expired 1000" }],
  ["auth:error", { code: "AUTH_REQUIRED" }],
  ["auth:error", null],
  ["server:drain", { reconnectInMs: 7300 }, DRAINED],
  ["server:drain", { reconnectInMs: 1e15 }, CLAMPED],
  ["server:drain", { reconnectInMs: Infinity }, CLAMPED],
  ["server:drain", { reconnectInMs: -1 }],
  ["server:drain", { reconnectInMs: NaN }],
  ["server:drain", { reconnectInMs: "7300" }],
  ["server:drain", { reconnectInMs: null }],
  ["server:drain", "soon"],
  ["server:hello", { ...HELLO, socketId: "forged", pingInterval: 1, pingTimeout: 1 }],
  ["connection:success", { userId: "forged", socketId: "forged" }],
  ["session:resume", { metadata: {}, rooms: ["forged"] }],
  ["heartbeat", { timestamp: 0 }],
  ["heartbeat", { timestamp: "x".repeat(100) }],
  ["room:joined", { room: "forged" }],
  ["room:left", { room: "a" }],
  ["room:left", { room: "a", reason: "forbidden" }],
  ["room:left", { room: { toString: null }, reason: "forbidden" }],
  ["room:gap", { room: "a" }],
  ["room:in", { room: "forged" }],
  ["room:lost", { room: "a", code: "FORBIDDEN" }],
  ["message:error", { code: "RATE_LIMITED", retryAfterMs: 1e15 }],
  ["message:new", { content: "hi" }],
  ["user:offline", { userId: "u" }],
  ["disconnect", "io server disconnect"],
];

/** A client in room `a`, and its state in words. */
async function inRoom() {
  const all = start({ token: () => "t" });
  await settled();
  all.link.events.hello(HELLO);
  const joined = all.client.join("a");
  all.link.find("join")[0].reply({ ok: true });
  assert.equal(await outcome(joined), "done");
  return all;
}
function inWords({ client, clock }) {
  const { status, reason, nextRetryAt } = client.state;
  const pause = nextRetryAt && nextRetryAt - clock.unix();
  return [status, reason, pause].filter((part) => part !== undefined).join(" ");
}
const short = (data) => (JSON.stringify(data) ?? "nothing").slice(0, 50);

for (const [where, room] of [
  ["from nobody knows where", undefined],
  ["in a room", "a"],
]) {
  for (const [name, data, instead = {}] of EVENTS) {
    describe(`${name} ${short(data)}, said ${where}`, () => {
      for (const [end, alone] of Object.entries(ALONE)) {
        const expected = room === undefined ? (instead[end] ?? alone) : alone;
        it(`then ${end} → ${expected}`, async () => {
          const all = await inRoom();
          const before = all.client.state;
          all.link.events.event(name, data, room);
          await settled();
          assert.equal(all.client.state, before);
          assert.ok(all.client.isIn("a"));
          ENDS[end](all);
          await settled();
          assert.equal(inWords(all), expected);
          all.client.disconnect();
          assert.ok(all.isClean(), "something was left");
        });
      }

      it("is forgotten when the connection outlives it, and with the connection", async () => {
        for (const [end, alone] of Object.entries(ALONE)) {
          const all = await inRoom();
          all.link.events.event(name, data, room);
          for (let second = 0; second <= 30; second++) {
            await all.clock.pass(1000);
            all.link.events.alive();
          }
          ENDS[end](all);
          await settled();
          assert.equal(inWords(all), alone, end);
        }
        const all = await inRoom();
        all.link.events.event(name, data, room);
        ENDS.lost(all);
        const { nextRetryAt } = all.client.state;
        await all.clock.pass(nextRetryAt - all.clock.unix());
        all.link.events.hello(HELLO);
        ENDS.unavailable(all);
        // The second failure in a row.
        assert.equal(inWords(all), "reconnecting unavailable 2000");
      });
    });
  }
}

describe("an application", () => {
  it("hears in the server's name only what was not said in a room", async () => {
    const all = await inRoom();
    const heard = [];
    for (const name of new Set(EVENTS.map(([name]) => name)))
      all.client.on(name, () => heard.push(name));
    const tell = (room) => {
      heard.length = 0;
      for (const [name, data] of EVENTS) all.link.events.event(name, data, room);
      return [...new Set(heard)].sort();
    };
    assert.deepEqual(tell("a"), ["disconnect", "message:new", "user:offline"]);
    const own = ["room:in", "room:lost"];
    const names = [...new Set(EVENTS.map(([name]) => name))].filter((name) => !own.includes(name));
    assert.deepEqual(tell(undefined), names.sort());
  });
});

describe("a heartbeat", () => {
  it("is answered once a second at most, and never when it was said in a room", async () => {
    const { clock, link } = connected();
    const answers = () => link.find("heartbeat:response").map(({ data }) => data.timestamp);
    link.events.event("heartbeat", { timestamp: 1 }, "a");
    for (let n = 2; n < 100; n++) link.events.event("heartbeat", { timestamp: n });
    assert.deepEqual(answers(), [2]);
    await clock.pass(999);
    link.events.event("heartbeat", { timestamp: 100 });
    await clock.pass(1);
    link.events.event("heartbeat", { timestamp: 101 });
    assert.deepEqual(answers(), [2, 101]);
  });

  it("that asks for more than the time to come back is not answered", () => {
    const { link } = connected();
    for (const data of [undefined, null, {}, { timestamp: "x".repeat(1e6) }, { timestamp: {} }]) {
      link.events.event("heartbeat", data);
    }
    assert.deepEqual(link.names(), []);
  });

  it("whose answer is refused tells no latency", async () => {
    const { client, link } = connected();
    link.events.event("heartbeat", { timestamp: 1 });
    link.find("heartbeat:response")[0].reply({ ok: false, code: "RATE_LIMITED" });
    await settled();
    assert.equal(client.latency, undefined);
  });
});

describe("a room that was taken away", () => {
  const LEFT = { room: "a", reason: "forbidden" };

  it("is asked for, and lost when the server refuses", async () => {
    const all = await inRoom();
    const lost = [];
    all.client.on("room:lost", (room) => lost.push(room));
    all.link.events.event("room:left", LEFT);
    assert.equal(all.link.find("join").length, 2);
    all.link.find("join")[1].reply({ ok: false, code: "FORBIDDEN" });
    await settled();
    assert.deepEqual(lost, [{ room: "a", code: "FORBIDDEN" }]);
    assert.equal(all.client.isIn("a"), false);
    all.link.events.end({ kind: "retry", reason: "transport" });
    await all.clock.pass(1000);
    all.link.events.hello(HELLO);
    assert.deepEqual(all.link.names(), []);
  });

  it("is kept when the server lets this client in again, and nobody is told of it", async () => {
    const all = await inRoom();
    const told = [];
    for (const event of ["room:in", "room:lost"]) all.client.on(event, () => told.push(event));
    all.link.events.event("room:left", LEFT);
    all.link.find("join")[1].reply({ ok: true });
    await settled();
    assert.deepEqual([told, all.client.isIn("a")], [[], true]);
  });

  it("is asked for once a second at most, and only if this client was in it", async () => {
    const all = await inRoom();
    const asked = () => all.link.find("join").length - 1;
    for (let n = 0; n < 100; n++) {
      all.link.events.event("room:left", LEFT);
      all.link.events.event("room:left", { room: `b${n}`, reason: "forbidden" });
    }
    assert.equal(asked(), 1);
    all.link.find("join")[1].reply({ ok: true });
    await all.clock.pass(999);
    all.link.events.event("room:left", LEFT);
    assert.equal(asked(), 1);
    await all.clock.pass(1);
    all.link.events.event("room:left", LEFT);
    assert.equal(asked(), 2);
    all.client.disconnect();
    await settled();
    assert.ok(all.isClean(), "something was left");
  });
});
