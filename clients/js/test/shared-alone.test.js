// A tab by itself: what the browser does not let it share, and what nobody wants any more.
import assert from "node:assert/strict";
import { describe, it } from "node:test";
import { Clock, HELLO } from "./fake.js";
import { connected, heard, status, two, world } from "./shared.js";

const RETRY = { kind: "retry", reason: "transport" };
/** What a browser says to a page whose site may keep nothing, or which has no origin. */
const denied = () => new DOMException("denied in this context", "SecurityError");

/** Each is what a browser has for such a page. */
const BROWSERS = {
  "refuses locks": (browser) => {
    let asked = 0;
    // Whoever goes on asking would freeze the page.
    const request = () => (++asked > 50 ? new Promise(() => {}) : Promise.reject(denied()));
    return { ...browser, locks: { request } };
  },
  "refuses channels": (browser) => ({
    ...browser,
    channel: () => {
      throw denied();
    },
  }),
};

describe("where the browser", () => {
  for (const [what, refusing] of Object.entries(BROWSERS))
    it(`${what}, each tab has its own connection, and goes on with its own`, async () => {
      const all = world();
      const open = (name) => all.open(name, { browser: refusing(all.tabs.open().browser) });
      const tabs = ["a", "b"].map(open);
      await heard();
      await all.pass(0);
      assert.deepEqual(
        all.links.map(({ tab }) => tab),
        ["a", "b"],
      );
      for (const { events } of all.links) events.hello(HELLO);
      await heard();
      assert.deepEqual(status(...tabs), ["connected", "connected"]);
      all.links[0].events.end(RETRY);
      await all.pass(2000);
      assert.deepEqual([all.links.length, all.link.tab, all.link.earlier], [3, "a", { of: 0 }]);
      for (const { client } of tabs) client.disconnect();
      await heard();
      assert.deepEqual([all.tabs.left, all.clock.timers], [0, 0]);
    });

  it("refuses locks later, a tab has its own connection from then on, which begins afresh", async () => {
    const all = world();
    const a = all.open("a", { platform: new Clock() });
    const { browser } = all.tabs.open();
    const request = (name, how, held) =>
      how.steal ? Promise.reject(denied()) : browser.locks.request(name, how, held);
    const b = all.open("b", { browser: { ...browser, locks: { request } } });
    await heard();
    await all.greet();
    assert.deepEqual(status(a, b), ["connected", "connected"]);
    a.sleep();
    await all.pass(50_000);
    assert.deepEqual([all.links.length, all.link.tab, all.link.earlier], [2, "b", undefined]);
    await all.greet();
    assert.deepEqual(status(b), ["connected"]);
    b.client.disconnect();
  });
});

describe("a tab that disconnects", () => {
  const WHILE = {
    "a connection is looked for": ({ all }) => all.link.events.end(RETRY),
    "there is none any more": ({ all }) => all.link.events.end({ kind: "final", reason: "kicked" }),
    "it has no network": ({ a }) => a.clock.tell("offline"),
  };
  for (const [what, happens] of Object.entries(WHILE))
    it(`while ${what} leaves nothing behind, and begins afresh later`, async () => {
      const one = await connected("a");
      const { all, a } = one;
      happens(one);
      await heard();
      a.client.disconnect();
      await heard();
      assert.deepEqual([all.tabs.left, all.clock.timers], [0, 0]);
      a.client.connect();
      await heard();
      assert.deepEqual([all.links.length, all.link.earlier], [2, undefined]);
      a.client.disconnect();
      await heard();
      assert.equal(all.tabs.left, 0);
    });

  it("while a connection is looked for leaves the others where they were", async () => {
    const { all, a, b } = await connected("ab", "a");
    await all.lose();
    a.client.disconnect();
    await heard();
    await all.pass(1000);
    assert.deepEqual([all.links.length, all.link.tab, all.link.earlier], [2, "b", { of: 0 }]);
    await all.goOn();
    assert.equal(b.client.state.recovered, true);
    b.client.disconnect();
    await heard();
    assert.equal(all.tabs.left, 0);
  });
});

it("a tab that asks whether the connection lives hears the server's time, whoever carries", async () => {
  const { all, a, b } = await two();
  const times = [];
  for (const { client } of [a, b]) client.link.ping((pong) => times.push(pong?.timestamp));
  await heard();
  for (const { reply } of all.link.find("ping")) reply({ timestamp: 7 });
  await heard();
  assert.deepEqual(times, [7, 7]);
  for (const { client } of [a, b]) client.disconnect();
});
