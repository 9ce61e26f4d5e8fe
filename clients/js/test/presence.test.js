// The mirror of what the server tells of users: whatever is lost on the way, it is right while
// it says that it is complete.
import assert from "node:assert/strict";
import { describe, it } from "node:test";
import { watchRoom, watchUsers } from "../dist/presence.js";
import { presenceOf } from "../dist/together.js";
import { HELLO, connected, settled, start, thrown } from "./fake.js";

const user = (userId, online, rev = 1, more = {}) => ({ userId, online, rev, ...more });
const answer = (rev, users, more = {}) => ({
  epoch: "e",
  rev,
  head: rev,
  users,
  recovered: false,
  ...more,
});
const change = (rev, users, more = {}) => ({ epoch: "e", rev, users, ...more });

/** A client with a mirror, and what happens to it. */
function mirrored(make = (client) => watchUsers(client, ["bob", "ann"]), all = connected()) {
  const watching = make(all.client);
  const states = [];
  watching.subscribe(({ state }) => states.push(state.status));
  return {
    ...all,
    watching,
    states,
    get link() {
      return all.link;
    },
    asked: () => all.link.find("presence:watch"),
    async reply(what) {
      all.link.find("presence:watch").at(-1).reply(what);
      await settled();
    },
    tell: (what) => all.link.events.event("presence:change", what),
    get state() {
      return watching.picture.state;
    },
    online: () =>
      [...watching.picture.values()].filter(({ online }) => online).map(({ userId }) => userId),
  };
}

it("a picture is complete from the answer on, and each change is in it", async () => {
  const all = mirrored();
  assert.equal(all.state.status, "catching-up");
  assert.deepEqual(all.asked()[0].data, { users: ["ann", "bob"] });
  await all.reply(answer(7, [user("ann", true), user("bob", false, 0, { lastSeenAt: 5 })]));
  assert.deepEqual([all.state.status, all.online()], ["complete", ["ann"]]);
  assert.equal(all.watching.picture.get("bob").lastSeenAt, 5);
  const before = all.watching.picture;
  all.tell(change(8, [user("bob", true, 2)]));
  assert.deepEqual(all.online(), ["ann", "bob"]);
  // Pictures are never changed, and what was told before is told no more.
  assert.equal(before.get("bob").online, false);
  all.tell(change(8, [user("ann", false, 9)]));
  all.tell({ ...change(9, [user("ann", false, 9)]), epoch: "other" });
  assert.deepEqual(all.online(), ["ann", "bob"]);
});

it("a hole is seen and filled from where it stands", async () => {
  const all = mirrored();
  await all.reply(answer(1, [user("ann", true), user("bob", true)]));
  all.tell(change(3, [user("bob", false, 3)]));
  assert.equal(all.state.status, "catching-up");
  assert.deepEqual(all.online(), ["ann", "bob"]);
  assert.deepEqual(all.asked().at(-1).data.after, { epoch: "e", rev: 1 });
  // What comes while it asks is told again.
  all.tell(change(4, [user("bob", true, 4)]));
  assert.equal(all.asked().length, 2);
  await all.reply(answer(1, [], { head: 3, recovered: true }));
  assert.equal(all.state.status, "catching-up");
  all.tell(change(2, [user("ann", false, 2)]));
  assert.equal(all.state.status, "catching-up");
  all.tell(change(3, [user("bob", false, 3)]));
  assert.deepEqual([all.state.status, all.online()], ["complete", []]);
});

it("a change in one breath with the answer is not lost", async () => {
  const all = mirrored();
  all.asked()[0].reply(answer(3, [user("ann", true)]));
  all.tell(change(4, [user("ann", false, 2)]));
  all.tell(change(5, [user("bob", true, 3)]));
  await settled();
  assert.deepEqual([all.state.status, all.online()], ["complete", ["bob"]]);
});

it("where the server cannot go on, the new picture counts alone", async () => {
  const all = mirrored();
  await all.reply(answer(1, [user("ann", true), user("bob", true)]));
  all.tell(change(9, []));
  await all.reply({ ...answer(0, [user("ann", false, 3), user("bob", true)]), epoch: "f" });
  assert.deepEqual([all.state.status, all.online()], ["complete", ["bob"]]);
  all.tell(change(2, [user("bob", false, 4)]));
  assert.deepEqual(all.online(), ["bob"]);
});

it("without a connection it is stale since then, and goes on with the next", async () => {
  const all = mirrored();
  await all.reply(answer(4, [user("ann", true), user("bob", false)]));
  await all.clock.pass(1000);
  const lost = all.clock.unix();
  all.link.events.end({ kind: "retry", reason: "transport" });
  assert.deepEqual(all.state, { status: "stale", since: lost });
  assert.deepEqual(all.online(), ["ann"]);
  await all.clock.pass(60_000);
  assert.deepEqual(all.state, { status: "stale", since: lost });
  all.link.events.hello(HELLO);
  assert.equal(all.state.status, "catching-up");
  assert.deepEqual(all.asked()[0].data.after, { epoch: "e", rev: 4 });
  await all.reply(answer(4, [], { recovered: true }));
  assert.deepEqual([all.state.status, all.online()], ["complete", ["ann"]]);
});

it("a server in doubt makes it stale, until it is sure again", async () => {
  const all = mirrored();
  await all.reply(answer(1, [user("ann", true)], { stale: true }));
  assert.equal(all.state.status, "stale");
  all.tell(change(2, [user("ann", false, 2)]));
  assert.equal(all.state.status, "complete");
  all.tell(change(3, [], { stale: true }));
  assert.equal(all.state.status, "stale");
  all.tell(change(4, [user("ann", true, 4)]));
  assert.deepEqual([all.state.status, all.online()], ["complete", ["ann"]]);
});

it("a refusal that passes is asked again, and another one is said", async () => {
  const all = mirrored();
  await all.reply({ ok: false, code: "RATE_LIMITED", error: "slow", retryAfterMs: 300 });
  assert.equal(all.state.status, "catching-up");
  await all.clock.pass(299);
  assert.equal(all.asked().length, 1);
  await all.clock.pass(1);
  assert.equal(all.asked().length, 2);
  await all.reply({ ok: false, code: "TOO_LARGE", error: "so many" });
  assert.deepEqual([all.state.status, all.state.code], ["stale", "TOO_LARGE"]);
  await all.clock.pass(20_000);
  assert.equal(all.asked().length, 2);
});

it("a room has whoever is in it and online; a watch that ended with it begins with it", async () => {
  const all = mirrored((client) => watchRoom(client, "r"));
  assert.deepEqual(all.asked()[0].data, { room: "r" });
  await all.reply(answer(0, [user("ann", true), user("bob", true), user("cid", true)]));
  all.tell(change(1, [user("ann", true, 1, { in: false })]));
  all.tell(change(2, [user("bob", false, 2)]));
  assert.deepEqual([...all.watching.picture.keys()], ["cid"]);
  all.tell(change(2, [], { ended: "LEFT" }));
  assert.deepEqual([all.state.status, all.state.code], ["stale", "LEFT"]);
  void all.client.join("r");
  all.link.find("join")[0].reply({ ok: true });
  await settled();
  assert.equal(all.state.status, "catching-up");
  assert.deepEqual(all.asked().at(-1).data, { room: "r", after: { epoch: "e", rev: 2 } });
  // An end from before the answer, perhaps: it is asked for once more.
  all.tell(change(2, [], { ended: "FORBIDDEN" }));
  await all.reply(answer(2, [], { recovered: true }));
  assert.deepEqual([all.state.status, all.asked().length], ["catching-up", 3]);
  await all.reply(answer(2, [], { recovered: true }));
  assert.equal(all.state.status, "complete");
  all.tell(change(2, [], { ended: "TIMEOUT" }));
  await all.clock.pass(1_000);
  assert.equal(all.asked().length, 4);
});

it("who watches the same shares one watch; the last one ends it, and leaves nothing", async () => {
  const all = mirrored();
  const second = watchUsers(all.client, ["ann", "bob", "bob"]);
  assert.equal(all.asked().length, 1);
  await all.reply(answer(1, [user("ann", true)]));
  assert.equal(second.picture.get("ann").online, true);
  all.watching.close();
  all.watching.close();
  assert.deepEqual(all.link.find("presence:unwatch"), []);
  second.close();
  assert.deepEqual(all.link.find("presence:unwatch")[0].data, { users: ["ann", "bob"] });
  all.client.disconnect();
  assert.ok(all.isClean());
});

it("many are watched in parts that the server takes, and are as true as the worst", async () => {
  const names = Array.from({ length: 150 }, (_, index) => `u${String(index).padStart(3, "0")}`);
  const all = mirrored((client) => watchUsers(client, names));
  const [first, second] = all.asked();
  assert.deepEqual([first.data.users.length, second.data.users.length], [100, 50]);
  first.reply(answer(1, first.data.users.map((name) => user(name, true))));
  await settled();
  assert.equal(all.state.status, "catching-up");
  second.reply({ ...answer(1, second.data.users.map((name) => user(name, true))), epoch: "f" });
  await settled();
  assert.deepEqual([all.state.status, all.watching.picture.size], ["complete", 150]);
});

/** Numbers by chance that come again with the same seed. */
function dice(seed) {
  return (below) => {
    seed = (seed * 1_664_525 + 1_013_904_223) % 2 ** 32;
    return Math.floor((seed / 2 ** 32) * below);
  };
}

it("over 2 000 random histories it is never wrong while it is complete", async () => {
  const NAMES = ["ann", "bob", "cid"];
  for (let seed = 1; seed <= 2_000; seed++) {
    const roll = dice(seed);
    const all = mirrored((client) => watchUsers(client, NAMES), connected());
    const truth = new Map(NAMES.map((name) => [name, user(name, false, 0)]));
    let log = { epoch: "0", rev: 0, changes: [] };
    const say = ({ rev, users }) => all.tell({ epoch: log.epoch, rev, users });
    const serve = () => {
      const asked = all.asked().filter((one) => !one.isDone).at(-1);
      if (!asked) return;
      asked.isDone = true;
      const { after } = asked.data;
      const recovered = after?.epoch === log.epoch;
      const rev = recovered ? after.rev : log.rev;
      const users = recovered ? [] : [...truth.values()];
      asked.reply({ epoch: log.epoch, rev, head: log.rev, users, recovered });
      return recovered ? log.changes.filter((one) => one.rev > rev) : [];
    };
    for (let step = 0; step < 30; step++) {
      const what = roll(10);
      let lossless = true;
      if (what < 5) {
        const name = NAMES[roll(3)];
        const { online, rev } = truth.get(name);
        truth.set(name, user(name, !online, rev + 1));
        const one = { rev: ++log.rev, users: [truth.get(name)] };
        log.changes.push(one);
        // Some are lost, some come twice.
        const times = [0, 1, 1, 1, 2][roll(5)];
        lossless = times > 0;
        for (let time = 0; time < times; time++) say(one);
      } else if (what < 8) {
        const rest = serve();
        await settled();
        for (const one of rest ?? []) say(one);
      } else if (what === 8) {
        log = { epoch: String(seed + step), rev: 0, changes: [] };
        all.link.events.end({ kind: "retry", reason: "transport" });
        all.client.connect();
        all.link.events.hello(HELLO);
      } else if (log.changes.length > 0) say(log.changes[roll(log.changes.length)]);
      await settled();
      // A change that was lost can be seen with the next one only.
      if (!lossless) {
        const name = NAMES[roll(3)];
        const known = truth.get(name);
        truth.set(name, user(name, !known.online, known.rev + 1));
        const one = { rev: ++log.rev, users: [truth.get(name)] };
        log.changes.push(one);
        say(one);
        await settled();
      }
      if (all.state.status !== "complete") continue;
      for (const name of NAMES)
        assert.equal(
          all.watching.picture.get(name)?.online,
          truth.get(name).online,
          `seed ${seed}, step ${step}: ${name}`,
        );
    }
    for (let time = 0; all.state.status !== "complete" && time < 5; time++) {
      const rest = serve();
      await settled();
      for (const one of rest ?? []) say(one);
      await settled();
    }
    assert.equal(all.state.status, "complete", `seed ${seed}`);
  }
});

it("a client that is not connected yet watches when it is", async () => {
  const all = mirrored(undefined, start());
  assert.equal(all.state.status, "stale");
  all.link.events.hello(HELLO);
  assert.equal(all.state.status, "catching-up");
  await all.reply(answer(0, []));
  assert.equal(all.state.status, "complete");
});

it("whoever is told and throws disturbs neither the watch nor the others", async () => {
  const all = mirrored(undefined, start());
  const heard = [];
  const errors = await thrown(async () => {
    all.watching.subscribe(() => {
      throw new Error("mine");
    });
    all.watching.subscribe(({ state }) => heard.push(state.status));
    all.link.events.hello(HELLO);
    await all.reply(answer(1, [user("ann", true)]));
  });
  assert.deepEqual(heard, ["catching-up", "complete"]);
  assert.deepEqual(
    errors.map(({ message }) => message),
    ["mine", "mine"],
  );
});

it("a pause is never longer than a timer can be", async () => {
  const all = mirrored();
  const { setTimeout } = all.clock;
  let last;
  all.clock.setTimeout = (call, ms) => setTimeout(call, (last = ms));
  await all.reply({ ok: false, code: "RATE_LIMITED", error: "slow", retryAfterMs: 2 ** 40 });
  assert.deepEqual([all.state.status, last], ["catching-up", 2 ** 31 - 1]);
});

it("who is watched anew is shown as known, and as no newer than that", async () => {
  const all = mirrored();
  await all.reply(answer(1, [user("ann", true), user("bob", false)]));
  const before = watchUsers(all.client, ["ann", "cid"]);
  assert.deepEqual([before.picture.state.status, before.picture.size], ["catching-up", 1]);
  before.close();
  await all.clock.pass(1000);
  const lost = all.clock.unix();
  all.link.events.end({ kind: "retry", reason: "transport" });
  await all.clock.pass(500);
  const after = watchUsers(all.client, ["ann", "cid"]);
  assert.deepEqual(after.picture.state, { status: "stale", since: lost });
  assert.deepEqual([...after.picture.keys()], ["ann"]);
  // Of others nothing is known at all.
  assert.equal(watchUsers(all.client, ["dan"]).picture.state.since, lost + 500);
  await all.clock.pass(500);
  all.link.events.hello(HELLO);
  const { data, reply } = all.asked().find(({ data }) => data.users.includes("cid"));
  assert.equal(data.after, undefined);
  reply(answer(9, [user("cid", true)]));
  await settled();
  assert.deepEqual([...after.picture.keys()], ["cid"]);
});

describe("presence for bindings", () => {
  /** What is shown of each of these users, who were asked for one by one; all but the last are known. */
  async function shownOneByOne(all, count) {
    const shown = {};
    const names = Array.from({ length: count }, (_, index) => `u${index}`);
    for (const name of names) {
      if (all.link.find("presence:watch").length > 0) {
        const { data, reply } = all.link.find("presence:watch").at(-1);
        reply(answer(1, data.users.map((one) => user(one, true))));
        await settled();
      }
      presenceOf(all.client, [name]).subscribe((picture) => (shown[name] = picture));
      await all.clock.pass(0);
    }
    return shown;
  }

  it("shows who is known while many watches become one", async () => {
    const all = connected();
    const { u16: last, ...shown } = await shownOneByOne(all, 17);
    // The last has made one of all of them, which nobody has answered yet.
    const { data, reply } = all.link.find("presence:watch").at(-1);
    assert.equal(data.users.length, 17);
    assert.equal(last.size, 0);
    for (const [name, picture] of Object.entries(shown))
      assert.deepEqual([picture.get(name)?.online, picture.state.status], [true, "catching-up"]);
    reply(answer(1, data.users.map((one) => user(one, one !== "u0"))));
    await settled();
    all.client.disconnect();
  });

  it("goes on where somebody who is told throws, also at once", async () => {
    const all = connected();
    const heard = [];
    const errors = await thrown(async () => {
      const store = presenceOf(all.client, ["ann"]);
      const off = store.subscribe(() => {
        throw new Error("mine");
      });
      store.subscribe(({ state }) => heard.push(state.status));
      await all.clock.pass(0);
      all.link.find("presence:watch")[0].reply(answer(1, [user("ann", true)]));
      await settled();
      off();
    });
    assert.deepEqual(heard, ["catching-up", "complete"]);
    assert.equal(errors.length, 2);
    all.client.disconnect();
  });

  it("asks for devices as seldom as a timer can wait, and no more often", async () => {
    const all = connected();
    const errors = await thrown(async () => {
      presenceOf(all.client, ["ann"], { refresh: 2 ** 40 }).subscribe(() => {});
      await all.clock.pass(20_000);
    });
    assert.deepEqual(errors, []);
    assert.equal(all.link.find("presence:get").length, 1);
    all.client.disconnect();
  });
});
