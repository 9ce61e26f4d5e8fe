// Every transition, with a clock and a transport that do what they are told.
import assert from "node:assert/strict";
import { describe, it } from "node:test";
import { Clock, HELLO, connected, outcome, settled, start, token } from "./fake.js";

const RETRY = { kind: "retry", reason: "transport" };

/** Brings a client into a state. */
const INTO = {
  disconnected: () => start({ autoConnect: false }),
  connecting: () => start(),
  connected: () => connected(),
  waiting: () => {
    const all = connected();
    all.link.events.end(RETRY);
    return all;
  },
  trying: async () => {
    const all = INTO.waiting();
    await all.clock.pass(1000);
    return all;
  },
  failed: () => {
    const all = connected();
    all.link.events.end({ kind: "final", reason: "kicked" });
    return all;
  },
};
/** What may happen. */
const EVENTS = {
  connect: ({ client }) => client.connect(),
  disconnect: ({ client }) => client.disconnect(),
  hello: ({ link }) => link?.events.hello({ ...HELLO, socketId: "s2" }),
  lost: ({ link }) => link?.events.end(RETRY),
  final: ({ link }) => link?.events.end({ kind: "final", reason: "replaced" }),
  token: ({ link }) => link?.events.end({ kind: "token", reason: "auth_expired" }),
  online: ({ clock }) => clock.tell("online"),
  offline: ({ clock }) => clock.tell("offline"),
  minute: ({ clock }) => clock.pass(60_000),
};
const [D, C, R, F] = ["disconnected", "connecting", "reconnecting", "failed"];
/** State after each event, and how many attempts were made by then. */
// prettier-ignore
const TABLE = {
  //            disconnected    connecting      connected      waiting   trying         failed
  connect:    [`${C} 1`,       `${C} 1`,       "connected 1", `${R} 2`, `${R} 2`,      `${C} 2`],
  disconnect: [`${D} 0`,       `${D} 1`,       `${D} 1`,      `${D} 1`, `${D} 2`,      `${D} 1`],
  hello:      [`${D} 0`,       "connected 1",  "connected 1", `${R} 1`, "connected 2", `${F} 1`],
  lost:       [`${D} 0`,       `${R} 1`,       `${R} 1`,      `${R} 1`, `${R} 2`,      `${F} 1`],
  final:      [`${D} 0`,       `${F} 1`,       `${F} 1`,      `${R} 1`, `${F} 2`,      `${F} 1`],
  token:      [`${D} 0`,       `${F} 1`,       `${F} 1`,      `${R} 1`, `${F} 2`,      `${F} 1`],
  online:     [`${D} 0`,       `${C} 1`,       "connected 1", `${R} 2`, `${R} 2`,      `${F} 1`],
  offline:    [`${D} 0`,       `${R} 1`,       `${R} 1`,      `${R} 1`, `${R} 2`,      `${F} 1`],
  minute:     [`${D} 0`,       `${R} 4`,       `${R} 3`,      `${R} 5`, `${R} 5`,      `${F} 1`],
};

describe("each state", () => {
  for (const [event, row] of Object.entries(TABLE)) {
    for (const [index, state] of Object.keys(INTO).entries()) {
      it(`${state}: ${event} → ${row[index]}`, async () => {
        const all = await INTO[state]();
        await EVENTS[event](all);
        await settled();
        assert.equal(`${all.status} ${all.links.length}`, row[index]);
        // At most one attempt is open, and at the end there is none, nor a timer.
        assert.ok(all.links.filter(({ closed }) => closed === 0).length <= 1);
        all.client.disconnect();
        assert.ok(all.isClean(), "something was left");
        assert.ok(all.links.every(({ closed }) => closed > 0));
        await all.clock.pass(600_000);
        assert.equal(all.status, "disconnected");
      });
    }
  }
});

describe("the state", () => {
  it("is told at once, and each change once, until somebody has heard enough", () => {
    const { client, link, states } = start();
    const heard = [];
    const stop = client.subscribe(({ status }) => heard.push(status));
    link.events.hello(HELLO);
    stop();
    client.disconnect();
    assert.deepEqual(heard, ["connecting", "connected"]);
    assert.deepEqual(
      states.map(({ status }) => status),
      ["connecting", "connected", "disconnected"],
    );
  });

  it("survives listeners that throw, disconnect or unsubscribe while they are told", async () => {
    const { client, link } = start();
    const { queueMicrotask } = globalThis;
    const thrown = new Promise((resolve) => {
      globalThis.queueMicrotask = (throws) => {
        globalThis.queueMicrotask = queueMicrotask;
        assert.throws(throws, (error) => resolve(error) ?? true);
      };
    });
    client.subscribe(({ status }) => {
      if (status === "connected") throw new Error("mine");
    });
    let stop;
    stop = client.subscribe(() => stop?.());
    client.subscribe(({ status }) => status === "connected" && client.disconnect());
    link.events.hello(HELLO);
    assert.equal((await thrown).message, "mine");
    assert.equal(client.state.status, "disconnected");
  });

  it("says which attempt, when the next one is, and why", () => {
    const { client, clock, link } = connected();
    link.events.end(RETRY);
    assert.deepEqual(client.state, {
      status: "reconnecting",
      attempt: 1,
      nextRetryAt: clock.unix() + 1000,
      reason: "transport",
      cause: { what: "lost" },
    });
  });

  it("that a listener has changed is told in order", () => {
    for (const when of ["connecting", "connected"]) {
      const all = start({ autoConnect: false });
      const heard = [];
      all.client.subscribe(({ status }) => status === when && all.client.disconnect());
      all.client.subscribe(({ status }) => heard.push(status));
      all.client.connect();
      all.link?.events.hello(HELLO);
      assert.deepEqual(
        [heard.at(-1), all.status, all.links.length],
        ["disconnected", "disconnected", when === "connecting" ? 0 : 1],
      );
      assert.ok(all.isClean());
    }
  });

  it("ignores what another attempt says too late", async () => {
    const { client, clock, links } = connected();
    links[0].events.end(RETRY);
    await clock.pass(1000);
    links[0].events.hello(HELLO);
    links[0].events.end({ kind: "final", reason: "kicked" });
    assert.equal(client.state.status, "reconnecting");
    links[1].events.hello(HELLO);
    assert.equal(client.state.status, "connected");
  });
});

describe("reconnecting", () => {
  it("waits twice as long each time, up to the cap, half of it by chance", async () => {
    for (const [chance, expected] of [
      [1 - Number.EPSILON, [1000, 2000, 4000, 8000, 10000, 10000]],
      [0, [500, 1000, 2000, 4000, 5000, 5000]],
    ]) {
      const all = start();
      all.clock.chance = chance;
      const pauses = [];
      for (const _ of expected) {
        all.link.events.end(RETRY);
        const pause = all.client.state.nextRetryAt - all.clock.unix();
        pauses.push(Math.round(pause));
        await all.clock.pass(pause + 1);
      }
      assert.deepEqual(pauses, expected);
    }
  });

  it("begins anew after a connection that lasted, and only then", async () => {
    const all = start();
    for (const lasts of [100, 100, 5000]) {
      all.link.events.end(RETRY);
      await all.clock.pass(10_000);
      all.link.events.hello(HELLO);
      await all.clock.pass(lasts);
    }
    all.link.events.end(RETRY);
    assert.equal(all.client.state.attempt, 1);
  });

  it("gives up after as many attempts as were allowed, and tries again when asked", async () => {
    const all = start({ attempts: 2 });
    for (let attempt = 0; attempt < 3; attempt++) {
      all.link.events.end(RETRY);
      await all.clock.pass(5000);
    }
    assert.deepEqual(all.client.state, {
      status: "failed",
      reason: "attempts_exhausted",
      cause: { what: "unreachable" },
    });
    assert.equal(all.links.length, 3);
    assert.ok(all.isClean());
    all.client.connect();
    all.link.events.hello(HELLO);
    assert.equal(all.status, "connected");
  });

  it("comes back after a drain when the server said, and not before", async () => {
    const { clock, client, link, links } = connected();
    link.events.event("server:drain", { reconnectInMs: 7300 });
    link.events.end(RETRY);
    assert.equal(client.state.nextRetryAt, clock.unix() + 7300);
    await clock.pass(7299);
    assert.equal(links.length, 1);
    await clock.pass(1);
    assert.equal(links.length, 2);
  });

  it("does not come back when another connection took its place", async () => {
    const { clock, client, link, links } = connected();
    link.events.event("connection:replaced", { message: "…", by: {} });
    link.events.end({ kind: "final", reason: "kicked" });
    assert.deepEqual(client.state, {
      status: "failed",
      reason: "replaced",
      cause: { what: "replaced" },
    });
    await clock.pass(600_000);
    assert.equal(links.length, 1);
  });

  it("does not wait for a server that accepts and says nothing", async () => {
    const { clock, client, link } = start();
    await clock.pass(11_999);
    assert.equal(client.state.status, "connecting");
    await clock.pass(1);
    assert.deepEqual(
      [client.state.status, client.state.reason, link.closed],
      ["reconnecting", "connect_timeout", 1],
    );
  });

  it("survives a transport that ends while it is made", async () => {
    const all = start({ attempts: 3, onDial: ({ events }) => events.end(RETRY) });
    assert.equal(all.status, "reconnecting");
    await all.clock.pass(60_000);
    assert.equal(all.client.state.reason, "attempts_exhausted");
    assert.ok(all.isClean() && all.links.every(({ closed }) => closed === 1));
  });
});

describe("silence", () => {
  it("of interval and timeout is death, and not a moment less", async () => {
    const { clock, client, link } = connected();
    await clock.pass(30_000);
    link.events.alive();
    await clock.pass(44_999);
    assert.equal(client.state.status, "connected");
    await clock.pass(1);
    assert.deepEqual(
      [client.state.status, client.state.reason, link.closed],
      ["reconnecting", "heartbeat_timeout", 1],
    );
  });

  it("is asked about where pings cannot be heard", async () => {
    const { clock, client, link } = connected({}, { isDeaf: true });
    await clock.pass(25_000);
    assert.equal(link.find("ping").length, 1);
    link.find("ping")[0].reply();
    await clock.pass(44_999);
    assert.equal(client.state.status, "connected");
    await clock.pass(1);
    assert.equal(client.state.status, "reconnecting");
  });

  it("after an hour's sleep is asked about, and dead two seconds later", async () => {
    for (const how of ["sleep", "oversleep"]) {
      const { clock, client, link, links } = connected();
      clock[how](3_600_000);
      clock.tell("awake");
      assert.equal(link.find("ping").length, 1);
      await clock.pass(2000);
      assert.deepEqual(
        [client.state.status, client.state.reason],
        ["reconnecting", "heartbeat_timeout"],
      );
      clock.tell("online");
      assert.equal(links.length, 2);
    }
  });

  const beating = (pingInterval, pingTimeout, link) => {
    const all = start({}, link);
    all.link.events.hello({ ...HELLO, pingInterval, pingTimeout });
    return all;
  };

  it("that is answered is none, whatever the times, and though time goes on while one looks", async () => {
    const times = [2_000, 2_000, 1_000, 500, 5_000, 1_000, 7_000, 60_000, 25_000, 20_000];
    for (let index = 0; index < times.length; index += 2) {
      const clock = new Clock();
      const { now, setTimeout } = clock;
      let more = 0;
      clock.now = () => now() + (more += 0.1);
      // As those of Node, timers may be early by a part of a millisecond.
      clock.setTimeout = (call, ms) => setTimeout(call, Math.max(ms - 0.15, 0));
      const all = start({ platform: clock }, { isDeaf: true });
      // Each question is answered in a tenth of the time that there is.
      const [pingInterval, pingTimeout] = times.slice(index);
      all.link.ping = (reply) => clock.setTimeout(reply, pingTimeout / 10);
      all.link.events.hello({ ...HELLO, pingInterval, pingTimeout });
      for (let time = 0; time < 120_000; time += 10) await clock.pass(10);
      const words = all.states.map(({ status }) => status);
      assert.deepEqual(words, ["connecting", "connected"], `${pingInterval} ${pingTimeout}`);
      all.client.disconnect();
    }
  });

  it("that is found late is asked about first, and has the time of a ping for its answer", async () => {
    const { clock, client, link } = beating(2_000, 2_000, { isDeaf: true });
    // The page was busy.
    clock.oversleep(3_900);
    await clock.pass(1_900);
    assert.equal(link.find("ping").length, 1);
    assert.equal(client.state.status, "connected");
    link.find("ping")[0].reply();
    await clock.pass(3_999);
    assert.equal(client.state.status, "connected");
    await clock.pass(1);
    assert.equal(client.state.reason, "heartbeat_timeout");
    client.disconnect();
  });

  it("that a busy page finds too late is no death before what has come was read", async () => {
    for (const isDeaf of [false, true]) {
      const { clock, client, link } = beating(2_000, 2_000, { isDeaf });
      // Its question has been answered meanwhile, and what is to be read comes behind the timers.
      if (isDeaf) await clock.pass(2_000);
      clock.oversleep(isDeaf ? 2_500 : 4_500);
      await clock.pass(0);
      assert.equal(client.state.status, "connected");
      await clock.pass(1);
      for (const { reply } of link.find("ping")) reply();
      await clock.pass(3_999);
      assert.equal(client.state.status, "connected");
      // And an answer that never comes is the end.
      await clock.pass(1);
      assert.equal(client.state.reason, "heartbeat_timeout");
      client.disconnect();
    }
  });

  it("of a busy page that nobody breaks ends two seconds after it was looked at", async () => {
    const { clock, client } = beating(2_000, 2_000);
    clock.oversleep(4_500);
    await clock.pass(1_999);
    assert.equal(client.state.status, "connected");
    await clock.pass(1);
    assert.equal(client.state.reason, "heartbeat_timeout");
    client.disconnect();
  });

  it("of a hidden tab, whose timers wait for a minute, is asked about", async () => {
    const { clock, client, link } = connected({}, { isDeaf: true });
    for (let minute = 1; minute <= 3; minute++) {
      clock.oversleep(60_000);
      await clock.pass(0);
      link.find("ping").at(-1).reply();
      clock.oversleep(60_000);
      await clock.pass(0);
      assert.equal(client.state.status, "connected");
    }
  });

  /** A hidden tab's, whose timers are due with the next full step of milliseconds, or just after it. */
  const aligned = (step) => {
    const clock = new Clock();
    const { now, setTimeout } = clock;
    clock.unaligned = setTimeout;
    clock.setTimeout = (call, ms) =>
      setTimeout(call, Math.ceil((now() + ms) / step) * step + 3 - now());
    return clock;
  };
  for (const isDeaf of [false, true]) {
    for (const [step, most] of [
      [1_000, 55_000],
      // Two minutes from the first question, which waits for a minute itself.
      [60_000, 180_000],
    ]) {
      const where = `with timers each ${step} ms${isDeaf ? ", over live" : ""}`;
      it(`of a hidden tab ends, ${where}`, async () => {
        for (const phase of [1, 300, 0.5 * step, 0.8 * step, step - 1]) {
          const clock = aligned(step);
          await clock.pass(phase);
          const { client } = connected({ platform: clock }, { isDeaf });
          const began = clock.now();
          while (client.state.status === "connected" && clock.now() < began + 600_000)
            await clock.pass(500);
          assert.equal(client.state.reason, "heartbeat_timeout", `${phase}`);
          const took = clock.now() - began;
          assert.ok(took <= most, `${took} ms from ${phase}`);
          // And not in the time that the server has.
          assert.ok(took >= 45_000, `${took} ms from ${phase}`);
          client.disconnect();
        }
      });

      it(`of a hidden tab goes on by answers, ${where}`, async () => {
        const clock = aligned(step);
        await clock.pass(300);
        const all = start({ platform: clock }, { isDeaf });
        all.link.ping = (reply) => clock.unaligned(reply, 1_500);
        all.link.events.hello(HELLO);
        await clock.pass(600_000);
        const words = all.states.map(({ status }) => status);
        assert.deepEqual(words, ["connecting", "connected"]);
        all.client.disconnect();
      });
    }
  }

  it("is asked about twice where the machine sleeps again over each question, and then ends", async () => {
    for (const how of ["sleep", "oversleep"]) {
      const { clock, client, link } = connected();
      clock[how](3_600_000);
      clock.tell("awake");
      for (const asked of [1, 2]) {
        assert.equal(client.state.status, "connected");
        assert.equal(link.find("ping").length, asked);
        await clock.pass(1_000);
        clock[how](3_600_000);
        await clock.pass(1_000);
      }
      assert.equal(client.state.reason, "heartbeat_timeout", how);
      client.disconnect();
      assert.equal(clock.timers, 0);
    }
  });

  it("is no death when only a clock was set", async () => {
    const { clock, client, link } = connected();
    clock.sleep(3_600_000);
    await clock.pass(5000);
    link.find("ping")[0].reply();
    await clock.pass(2000);
    assert.equal(client.state.status, "connected");
    clock.sleep(-3_600_000);
    await clock.pass(4000);
    link.find("ping")[1].reply();
    await clock.pass(5000);
    assert.equal(client.state.status, "connected");
    client.disconnect();
    assert.equal(clock.timers, 0);
  });

  it("is answered to the server's heartbeat, which tells the latency", async () => {
    const { clock, client, link } = connected();
    link.events.event("heartbeat", { timestamp: 17 });
    const [{ data, reply }] = link.find("heartbeat:response");
    assert.deepEqual(data, { timestamp: 17 });
    await clock.pass(42);
    // Whoever made up the timestamp: the time it took is measured here.
    reply({ ok: true, latencyMs: 1_700_000_000_000 });
    await settled();
    assert.equal(client.latency, 42);
  });
});

describe("tokens", () => {
  it("are asked for before each attempt", async () => {
    let number = 0;
    const all = start({ token: async () => `t${++number}` });
    await settled();
    all.link.events.end(RETRY);
    await all.clock.pass(1000);
    assert.deepEqual(
      all.links.map(({ token }) => token),
      ["t1", "t2"],
    );
  });

  it("that cannot be had are asked for again, and come too late after disconnect", async () => {
    let asked = 0;
    const all = start({
      token: () =>
        ++asked < 3
          ? Promise.reject(new Error("no network"))
          : new Promise((resolve) => setImmediate(resolve, "t")),
    });
    await all.clock.pass(3000);
    assert.deepEqual(
      [asked, all.client.state.reason, all.links.length],
      [3, "token_unavailable", 0],
    );
    all.client.disconnect();
    await new Promise((resolve) => setImmediate(resolve));
    await settled();
    assert.equal(all.links.length, 0);
    assert.ok(all.isClean());
  });

  it("that throw are no exception", async () => {
    const { client } = start({
      token: () => {
        throw new Error("no");
      },
    });
    await settled();
    assert.equal(client.state.reason, "token_unavailable");
  });

  it("are renewed before they expire, in time", async () => {
    const clock = new Clock();
    let number = 0;
    const all = start({ platform: clock, token: () => token(clock, 600, `t${++number}`) });
    await settled();
    all.link.events.hello(HELLO);
    const stay = async (ms) => {
      for (let passed = 0; passed < ms; passed += 5000)
        (await clock.pass(5000), all.link.events.alive());
    };
    await stay(535_000);
    assert.equal(number, 1);
    await stay(10_000);
    const [{ data, reply }] = all.link.find("auth:refresh");
    assert.ok(JSON.parse(Buffer.from(data.token.split(".")[1], "base64url")).name === "t2");
    reply({ ok: true });
    await stay(545_000);
    assert.equal(all.link.find("auth:refresh").length, 2);
    all.client.disconnect();
    assert.ok(all.isClean());
  });

  it("that have expired are replaced at once, once", async () => {
    let number = 0;
    const all = start({ token: () => `t${++number}` });
    await settled();
    all.link.events.hello(HELLO);
    all.link.events.event("auth:error", { code: "AUTH_TOKEN_EXPIRED", message: "…" });
    all.link.events.end({ kind: "token", reason: "auth_expired" });
    await all.clock.pass(0);
    assert.deepEqual([all.links.length, all.link.token], [2, "t2"]);
    all.link.events.end({ kind: "token", reason: "auth_expired" });
    assert.deepEqual([all.status, all.client.state.reason], ["failed", "auth_expired"]);
  });

  it("that are only text are not had twice", () => {
    const { client, link } = start({ token: "t" });
    link.events.end({ kind: "token", reason: "auth_expired" });
    assert.deepEqual([client.state.status, client.state.reason], ["failed", "auth_expired"]);
  });
});

describe("rooms", () => {
  it("are joined, and again after a fresh reconnection, not after a recovered one", async () => {
    const all = connected();
    const joined = all.client.join("a");
    all.link.find("join")[0].reply({ ok: true, room: "a" });
    assert.equal(await outcome(joined), "done");
    assert.ok(all.client.isIn("a"));
    for (const [recovered, joins] of [
      [false, ["a"]],
      [true, []],
    ]) {
      all.link.events.end(RETRY);
      await all.clock.pass(10_000);
      assert.equal(all.client.isIn("a"), false);
      all.link.events.hello({ ...HELLO, recovered });
      assert.equal(all.client.isIn("a"), recovered);
      assert.deepEqual(
        all.link.find("join").map(({ data }) => data),
        joins,
      );
      all.link.find("join")[0]?.reply({ ok: true });
      await settled();
    }
  });

  it("that were left, or refused, are not joined again", async () => {
    const all = connected();
    const refused = all.client.join("secret");
    all.link.find("join")[0].reply({ ok: false, code: "FORBIDDEN", error: "no" });
    assert.equal(await outcome(refused), "FORBIDDEN");
    const left = all.client.join("b");
    all.client.leave("b");
    assert.equal(await outcome(left), "LEFT");
    all.link.events.end(RETRY);
    await all.clock.pass(1000);
    all.link.events.hello(HELLO);
    assert.deepEqual(all.link.names(), []);
  });

  it("are joined when there is a connection, and nobody waits for ever", async () => {
    const all = start();
    const early = all.client.join("a"),
      second = all.client.join("a");
    all.link.events.hello(HELLO);
    const [join] = all.link.find("join");
    all.link.events.end(RETRY);
    join.reply({ ok: true });
    assert.equal(await outcome(early), "pending");
    all.client.disconnect();
    assert.deepEqual(
      [await outcome(early), await outcome(second)],
      ["DISCONNECTED", "DISCONNECTED"],
    );
  });

  it("need nobody who waits for them", async () => {
    const unhandled = [];
    const hear = (error) => unhandled.push(error);
    process.on("unhandledRejection", hear);
    const { client } = connected();
    client.join("a");
    client.disconnect();
    await new Promise((resolve) => setImmediate(resolve));
    process.off("unhandledRejection", hear);
    assert.deepEqual(unhandled, []);
  });

  it("are tried again when the server asks for a pause, and are lost when it refuses", async () => {
    const all = connected();
    const lost = [];
    all.client.on("room:lost", (room) => lost.push(room));
    const joined = all.client.join("a");
    all.link.find("join")[0].reply({ ok: false, code: "RATE_LIMITED", retryAfterMs: 300 });
    await all.clock.pass(300);
    all.link.find("join")[1].reply({ ok: true });
    assert.equal(await outcome(joined), "done");
    all.link.events.end(RETRY);
    await all.clock.pass(1000);
    all.link.events.hello(HELLO);
    all.link.find("join")[0].reply({ ok: false, code: "FORBIDDEN" });
    await settled();
    assert.deepEqual(lost, [{ room: "a", code: "FORBIDDEN" }]);
  });
});

describe("events", () => {
  it("reach their handlers over reconnections, until those have heard enough", async () => {
    const all = connected();
    const heard = [];
    const handler = (data) => heard.push(data);
    const off = all.client.on("e", handler);
    all.link.events.event("e", 1);
    all.link.events.end(RETRY);
    await all.clock.pass(1000);
    all.link.events.event("e", 2);
    off();
    all.link.events.event("e", 3);
    assert.deepEqual(heard, [1, 2]);
  });

  it("go out now or not at all", async () => {
    const { client, link } = connected();
    assert.equal(client.emit("e", 1), true);
    const asked = client.request("q", 1),
      answered = client.request("q", 2),
      refused = client.request("q", 3);
    const [, second, third] = link.find("q");
    second.reply({ ok: true });
    third.reply({ ok: false, code: "NO", error: "no" });
    assert.deepEqual([await outcome(answered), await outcome(refused)], ["done", "NO"]);
    link.events.end(RETRY);
    assert.equal(await outcome(asked), "DISCONNECTED");
    assert.equal(client.emit("e", 1), false);
    assert.equal(await outcome(client.request("q", 4)), "DISCONNECTED");
  });

  it("that get no answer say so", async () => {
    const { client, clock } = connected();
    const asked = client.request("q", 1, 500);
    await clock.pass(500);
    assert.equal(await outcome(asked), "TIMEOUT");
  });
});

it("presence of many is asked for in parts that the server takes", async () => {
  const { client, link } = connected();
  const users = Array.from({ length: 250 }, (_, number) => String(number));
  const asked = client.presence(users);
  const parts = link.find("presence:get");
  assert.deepEqual(
    parts.map(({ data }) => data.users.length),
    [100, 100, 50],
  );
  for (const { data, reply } of parts.toReversed())
    reply({ users: data.users.map((userId) => ({ userId, online: false, devices: 0 })) });
  assert.deepEqual(
    (await asked).map(({ userId }) => userId),
    users,
  );
  const nobody = client.presence([]);
  link.find("presence:get").at(-1).reply({ users: [] });
  assert.deepEqual(await nobody, []);
  client.disconnect();
});

describe("messages", () => {
  it("wait for a connection, and go out in order, several at once", async () => {
    const all = start();
    const sent = [1, 2, 3].map((n) => all.client.send("message:send", { n }));
    assert.deepEqual(all.link.names(), []);
    all.link.events.hello(HELLO);
    const said = all.link.find("message:send");
    assert.deepEqual(
      said.map(({ data }) => data.n),
      [1, 2, 3],
    );
    for (const { data, reply } of said) reply({ ok: true, n: data.n });
    assert.deepEqual(
      (await Promise.all(sent)).map(({ n }) => n),
      [1, 2, 3],
    );
    await all.clock.pass(4000);
  });

  it("are sent again with the same name, more slowly each time, until it is no use", async () => {
    const all = connected();
    const sent = all.client.send("message:send", { n: 1 }, { timeout: 1000, retries: 2 });
    const other = all.client.send("plain", "text");
    const counts = [];
    for (const ms of [999, 1, 999, 1, 999, 1, 1999, 1, 999, 1, 3999]) {
      await all.clock.pass(ms);
      all.link.events.alive();
      counts.push(all.link.find("message:send").length);
    }
    assert.deepEqual(counts, [1, 1, 1, 2, 2, 2, 2, 3, 3, 3, 3]);
    assert.equal(new Set(all.link.find("message:send").map(({ data }) => data.tempId)).size, 1);
    assert.equal(await outcome(sent), "pending");
    await all.clock.pass(1);
    assert.equal(await outcome(sent), "UNCONFIRMED");
    assert.deepEqual(
      all.link.find("plain").map(({ data }) => data),
      ["text"],
    );
    all.link.find("plain")[0].reply(undefined);
    assert.equal(await outcome(other), "done");
  });

  it("whose connection was lost are sent again by the next one", async () => {
    const all = connected();
    const sent = all.client.send("message:send", { n: 1 });
    const [first] = all.link.find("message:send");
    all.link.events.end(RETRY);
    first.reply({ ok: true });
    await all.clock.pass(1000);
    all.link.events.hello(HELLO);
    const [second] = all.link.find("message:send");
    assert.deepEqual(second.data, first.data);
    second.reply({ ok: true });
    assert.equal(await outcome(sent), "done");
  });

  it("wait until the rooms are joined again", async () => {
    const all = connected();
    all.client.join("a");
    all.link.find("join")[0].reply({ ok: true });
    all.link.events.end(RETRY);
    const sent = all.client.send("message:send", {});
    await all.clock.pass(1000);
    all.link.events.hello(HELLO);
    assert.deepEqual(all.link.names(), ["join"]);
    all.link.find("join")[0].reply({ ok: false, code: "FORBIDDEN" });
    await settled();
    all.link.find("message:send")[0].reply({ ok: true });
    assert.equal(await outcome(sent), "done");
  });

  it("wait as long as the server asks, and fail when it refuses", async () => {
    const all = connected();
    const sent = all.client.send("message:send", {});
    all.link.find("message:send")[0].reply({ ok: false, code: "RATE_LIMITED", retryAfterMs: 700 });
    await all.clock.pass(699);
    assert.equal(all.link.find("message:send").length, 1);
    await all.clock.pass(1);
    all.link.find("message:send")[1].reply({ ok: false, code: "FORBIDDEN", error: "no" });
    assert.equal(await outcome(sent), "FORBIDDEN");
  });

  it("have a bound, and nobody waits for ever", async () => {
    const all = start({ queue: 2 });
    const kept = [all.client.send("e", {}), all.client.send("e", {})];
    assert.equal(await outcome(all.client.send("e", {})), "QUEUE_FULL");
    all.link.events.end({ kind: "final", reason: "kicked" });
    assert.deepEqual(await Promise.all(kept.map(outcome)), ["DISCONNECTED", "DISCONNECTED"]);
    assert.equal(await outcome(all.client.send("e", {})), "DISCONNECTED");
    assert.ok(all.isClean());
  });
});
