// The rooms of several tabs on one connection: that is lost and goes on, that goes to another tab.
import assert from "node:assert/strict";
import { describe, it } from "node:test";
import { HELLO, outcome } from "./fake.js";
import { WAYS_BACK, connected, heard, leave, status, two } from "./shared.js";

describe("a connection that is recovered", () => {
  it("keeps the rooms of each tab, where rooms are not joined again", async () => {
    const { all, a, b } = await two();
    await all.enter(a, b);
    await all.lose();
    await all.pass(1000);
    assert.deepEqual(all.link.earlier, { of: 0 });
    await all.goOn();
    assert.deepEqual(
      [a, b].map(({ client }) => client.state.recovered),
      [true, true],
    );
    assert.equal(all.link.find("join").length, 0);
    all.link.events.event("note", 1, "lobby");
    await heard();
    for (const tab of [a, b]) assert.ok(tab.names().includes("note"));
    await leave(a);
    assert.equal(all.link.find("leave").length, 0);
    // Who comes now was not there before.
    const c = all.open("c");
    await heard();
    assert.equal(c.client.state.recovered, false);
  });

  for (const [where, link] of WAYS_BACK)
    it(`tells a tab that is late what was missed before it came, where ${where}`, async () => {
      const { all, a, b } = await two(link);
      await all.enter(a, b);
      b.sleep();
      await all.comeBack();
      all.link.find("join")[0]?.reply({ ok: true, recovered: true });
      all.link.events.event("note", "missed", "lobby");
      all.link.events.event("note", "elsewhere", "another room");
      await heard();
      b.wake();
      await heard();
      await all.pass(1000);
      all.link.events.event("note", "new", "lobby");
      await heard();
      assert.equal(b.client.state.recovered, true);
      for (const tab of [a, b]) {
        assert.deepEqual(tab.notes(), ["missed", "new"]);
        assert.ok(!tab.names().includes("room:missed"));
      }
    });

  it("begins afresh for a tab that comes after more than is kept", async () => {
    const { all, b } = await two();
    await all.enter(b);
    b.sleep();
    await all.lose();
    await all.pass(1000);
    all.link.events.hello({ ...HELLO, recovered: true });
    for (let n = 0; n < 501; n++) all.link.events.event("note", n, "lobby");
    await heard();
    b.wake();
    await heard();
    await all.pass(1000);
    await all.answerJoin();
    assert.equal(b.client.state.recovered, false);
    assert.deepEqual(b.events.at(-1), ["room:missed", { room: "lobby", filled: false }]);
  });

  it("tells each tab of each room whether something was missed, where they are", async () => {
    const { all, a, b } = await two({ isByRoom: true, isDeaf: true });
    await all.enter(a, b);
    await all.comeBack();
    assert.equal(all.link.find("join").length, 1);
    await all.answerJoin({ ok: true, recovered: true });
    assert.ok(a.client.isIn("lobby") && b.client.isIn("lobby"));
    for (const tab of [a, b]) assert.ok(!tab.names().includes("room:missed"));
  });
});

describe("the rooms of a tab that is closed", () => {
  /** Three tabs, each with its own timers; the first carries, two are in the lobby, one elsewhere. */
  async function three(link) {
    const { all, tabs } = await connected("abc", "abc", link);
    for (const name of ["a", "b"]) for (const room of ["lobby", name]) void tabs[name].client.join(room);
    await heard();
    for (const { reply } of all.link.find("join")) reply({ ok: true });
    await heard();
    return { all, tabs };
  }
  const pass = async (tabs, ms) => {
    for (const { clock } of tabs) await clock.pass(ms);
    await heard();
  };

  for (const [where, link] of WAYS_BACK)
    for (const who of ["a", "b"])
      for (const isLost of [false, true])
        it(`are left on a connection that goes on: ${who}, ${isLost ? "lost" : "there"}, where ${where}`, async () => {
          const { all, tabs } = await three(link);
          const { [who]: closed, ...others } = tabs;
          if (isLost) await all.lose();
          closed.close();
          await heard();
          if (!isLost && who === "b") {
            // The one that carries has it leave at once.
            assert.deepEqual(all.said("leave"), ["b"]);
            return;
          }
          for (const ms of [50, 1000, 50]) await pass(Object.values(others), ms);
          assert.equal(all.links.length, 2);
          await all.goOn();
          for (const { client } of Object.values(others)) assert.equal(client.state.recovered, true);
          assert.deepEqual(all.said("leave"), [who]);
        });

  it("are left by the next that carries, of one that never comes to that", async () => {
    for (const isGoneBefore of [false, true]) {
      const { all, tabs } = await three();
      void tabs.c.client.join("lobby");
      await heard();
      tabs.c.sleep();
      tabs.a.close();
      if (isGoneBefore) tabs.c.crash();
      await heard();
      await pass([tabs.b], 50);
      await all.goOn();
      assert.deepEqual([all.link.tab, tabs.b.client.state.recovered], ["b", true]);
      if (!isGoneBefore) tabs.c.crash();
      await heard();
      assert.deepEqual(all.said("leave"), ["a"]);
      await leave(tabs.b);
      assert.deepEqual(all.said("leave"), ["a", "lobby"]);
    }
  });

  it("are left also if it ends before it has joined them again", async () => {
    const { all, tabs } = await three({ isByRoom: true, isDeaf: true });
    await all.lose();
    await pass(Object.values(tabs), 1000);
    // It waits for this attempt, and hears nothing of what comes of it.
    tabs.b.sleep();
    await all.goOn();
    assert.deepEqual(all.said("leave"), []);
    tabs.b.crash();
    await heard();
    assert.deepEqual(all.said("leave"), ["b"]);
    await leave(tabs.a);
    assert.deepEqual(all.said("leave"), ["b", "lobby"]);
  });

  it("stay joined for one that is late and was in there", async () => {
    const { all, tabs } = await three();
    tabs.b.sleep();
    await all.lose();
    await pass([tabs.a, tabs.c], 1000);
    await all.goOn();
    await leave(tabs.a);
    assert.deepEqual(all.said("leave"), []);
    all.link.events.event("note", 1, "lobby");
    await heard();
    tabs.b.wake();
    await heard();
    await pass([tabs.b], 1000);
    assert.equal(tabs.b.client.state.recovered, true);
    assert.deepEqual(tabs.b.notes(), [1]);
    await leave(tabs.b);
    assert.deepEqual(all.said("leave"), ["lobby"]);
  });

  it("are not left by one that has lost its network alone, until the connection is known to live", async () => {
    for (const isAlive of [true, false]) {
      const { all, tabs } = await three();
      tabs.b.clock.tell("offline");
      await heard();
      assert.deepEqual(all.said("leave"), []);
      if (isAlive) {
        all.link.find("ping")[0].reply();
        await heard();
        assert.deepEqual(all.said("leave"), ["b"]);
        // What is said now it misses.
        await all.lose();
      } else await pass([tabs.a], 2000);
      await pass([tabs.a, tabs.c], 1000);
      await all.goOn();
      tabs.b.clock.tell("online");
      await heard();
      assert.deepEqual(status(tabs.b), ["connected"]);
      assert.equal(tabs.b.client.state.recovered, !isAlive);
    }
  });
});

describe("a room that was left", () => {
  const joins = (all) => all.link.find("join");
  /** Two tabs over live, the first of which was in a room and goes on in it. */
  async function resumed() {
    const { all, a, b } = await two({ isByRoom: true, isDeaf: true });
    await all.enter(a);
    await all.comeBack();
    return { all, a, b };
  }
  const snapshots = ({ client }) => {
    const told = [];
    client.on("room:snapshot", ({ snapshot }) => told.push(snapshot));
    return told;
  };

  it("is joined anew on a connection that goes on", async () => {
    const { all, a } = await resumed();
    await all.answerJoin({ ok: true, recovered: true });
    assert.ok(a.client.isIn("lobby"));
    await leave(a);
    assert.equal(all.link.find("leave").length, 1);
    const again = a.client.join("lobby");
    await heard();
    assert.equal(joins(all).length, 2);
    assert.equal(await outcome(again), "pending");
    await all.answerJoin({ ok: true }, 1);
    assert.equal(await outcome(again), "done");
  });

  it("is joined anew by a tab that has left it while another one is in there", async () => {
    const { all, a, b } = await resumed();
    joins(all)[0].reply({ ok: true, recovered: true });
    void b.client.join("lobby");
    await heard();
    await all.answerJoin({ ok: true }, 1);
    const told = snapshots(a);
    a.client.leave("lobby");
    void a.client.join("lobby");
    await heard();
    assert.equal(all.link.find("leave").length, 0);
    await all.answerJoin({ ok: true, snapshot: [1] }, 2);
    assert.deepEqual(told, [[1]]);
  });

  for (const [who, go] of [
    ["the tab that joins again", (a) => (a.client.leave("lobby"), a)],
    ["another tab", (a, b) => (a.client.leave("lobby"), b)],
    ["a tab that is closed", (a, b) => (b.close(), a)],
  ])
    it(`before it was joined is joined anew, where ${who} did so`, async () => {
      const { all, a, b } = await two();
      void (who.endsWith("closed") ? b : a).client.join("lobby");
      await heard();
      const next = go(a, b);
      await heard();
      const joined = next.client.join("lobby");
      await heard();
      const said = all.link.said.map(({ event }) => event);
      assert.deepEqual(said, ["join", "leave", "join"]);
      // What is answered to the first is not what the second waits for.
      await all.answerJoin({ ok: false, code: "FORBIDDEN" });
      assert.equal(await outcome(joined), "pending");
      await all.answerJoin({ ok: true }, 1);
      assert.equal(await outcome(joined), "done");
      next.client.leave("lobby");
      await heard();
      assert.equal(all.link.find("leave").length, 2);
    });

  it("that goes on for one tab begins for another, with all that is in it", async () => {
    for (const isLate of [true, false]) {
      const { all, a, b } = await resumed();
      const told = snapshots(b);
      if (isLate) joins(all)[0].reply({ ok: true, recovered: true });
      void b.client.join("lobby");
      await heard();
      if (!isLate) joins(all)[0].reply({ ok: true, recovered: true });
      await heard();
      assert.ok(a.client.isIn("lobby"));
      assert.equal(joins(all).length, 2);
      assert.ok(!b.client.isIn("lobby"));
      await all.answerJoin({ ok: true, snapshot: [1] }, 1);
      assert.deepEqual([b.client.isIn("lobby"), told], [true, [[1]]]);
    }
  });

  it("was refused to all who waited for it is left when the last who is in there leaves", async () => {
    const { all, a, b } = await two();
    for (const { client } of [a, b]) void client.join("lobby");
    await heard();
    await all.answerJoin({ ok: false, code: "FORBIDDEN" });
    void a.client.join("lobby");
    await heard();
    await all.answerJoin({ ok: true }, 1);
    await leave(a);
    assert.equal(all.link.find("leave").length, 1);
  });
});

