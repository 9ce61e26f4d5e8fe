// The demo as `make demo` starts it, in a real browser.
import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { once } from "node:events";
import { fileURLToPath } from "node:url";
import { after, before, it } from "node:test";
import { launch, look, watch } from "./lib/browser.js";
import { BINARY, freePort, until } from "./lib/server.js";

let browser,
  demo,
  url,
  log = "";
const problems = [];

before(async () => {
  const port = await freePort();
  demo = spawn(
    process.execPath,
    [fileURLToPath(new URL("../../examples/demo/run.js", import.meta.url))],
    {
      env: { ...process.env, PORT: String(port), HEARTLINE_BIN: BINARY },
      stdio: ["ignore", "pipe", "pipe"],
    },
  );
  demo.stdout.on("data", (data) => (log += data));
  demo.stderr.on("data", (data) => (log += data));
  url = await until(() => log.match(/The demo: (\S+)/)?.[1], "the demo's address", 30000).catch(
    () => assert.fail(log),
  );
  browser = await launch();
});
after(async () => {
  await browser?.close();
  demo?.kill("SIGTERM");
  if (demo) assert.deepEqual(await once(demo, "exit"), [0, null]);
});

async function enter(name, options, before = () => {}) {
  const page = await (await browser.newContext(options)).newPage();
  await before(page);
  watch(page, problems);
  await page.goto(url);
  await page.getByLabel("Your name").fill(name);
  await page.getByRole("button", { name: "Come in" }).click();
  await page.locator(".heartline-status[data-status=connected]").waitFor({ timeout: 30000 });
  return page;
}
const say = async (page, text) => {
  await page.getByLabel("Message", { exact: true }).fill(text);
  await page.getByRole("button", { name: "Send" }).click();
};
const there = (page, text) => page.locator(".messages p", { hasText: text }).waitFor();

it(
  "is a chat with rooms, presence, typing, devices and a status light",
  { timeout: 180000 },
  async () => {
    const ann = await enter("Ann", { viewport: { width: 1280, height: 720 } });
    const bob = await enter("Bob", { viewport: { width: 390, height: 844 }, colorScheme: "dark" });
    await ann.locator("aside li[data-online=true]", { hasText: "Bob" }).waitFor();
    await bob.locator("aside li[data-online=true]", { hasText: "Ann" }).waitFor();

    await say(ann, "Did the deploy go through?");
    await there(bob, "Did the deploy");
    await bob.getByLabel("Message", { exact: true }).pressSequentially("Ye");
    await ann.locator(".typing", { hasText: "Bob is typing" }).waitFor();
    await say(bob, "Yes, and nobody noticed.");
    await there(ann, "nobody noticed");
    await until(
      async () => (await ann.locator(".typing").innerText()) === "",
      "Bob has stopped typing",
    );

    // Another device of Bob's; another room.
    const laptop = await enter("Bob");
    await ann.locator("aside li", { hasText: "2 devices" }).waitFor();
    await laptop.getByRole("button", { name: "kitchen" }).click();
    await say(laptop, "Only in the kitchen.");
    await there(laptop, "Only in the kitchen");
    // What Ann says after that reaches her after that, and it alone.
    await say(ann, "Where did you go?");
    await there(ann, "Where did you go?");
    assert.equal(await ann.locator(".messages p", { hasText: "kitchen" }).count(), 0);
    await look(ann, "demo-chat-desktop");
    await look(bob, "demo-chat-phone");

    // Said without a network, delivered when it is back.
    await bob.context().setOffline(true);
    await bob.locator(".heartline-status[data-status=reconnecting]").waitFor();
    await say(bob, "On the train.");
    await bob.locator(".messages em", { hasText: "sending" }).waitFor();
    await look(bob, "demo-offline-phone");
    await bob.context().setOffline(false);
    await there(ann, "On the train.");
    await until(
      async () => (await bob.locator(".messages em").count()) === 0,
      "the message is sent",
    );
    assert.equal(await ann.locator(".messages p", { hasText: "On the train." }).count(), 1);

    for (const page of [bob, laptop]) await page.getByRole("button", { name: "Leave" }).click();
    await ann.locator("aside li[data-online=false]", { hasText: "Bob" }).waitFor();
    assert.deepEqual(problems, []);
    for (const page of [ann, bob, laptop]) await page.context().close();
  },
);

it("shows on, whatever is said in its room", { timeout: 180000 }, async () => {
  let socket;
  const forge = (event, data) => socket.send(`42${JSON.stringify([event, data])}`);
  const ann = await enter("Ann", { viewport: { width: 1280, height: 720 } }, (page) =>
    page.routeWebSocket(/socket\.io/, (one) => (socket = one).connectToServer()),
  );
  await say(ann, "Before.");
  await ann.locator(".messages em").waitFor({ state: "detached" });
  await until(() => socket, "a WebSocket");
  const forged = [
    { id: "1", conversationId: "lobby", senderId: "Ann", content: "no time" },
    { id: "2", conversationId: "lobby", senderId: {}, content: "no sender", createdAt: 1e300 },
    { id: "3", conversationId: "lobby", senderId: "Ann", content: { no: "text" }, createdAt: 1 },
    { id: {}, conversationId: {}, senderId: [], content: [] },
    { userId: {}, lastSeenAt: 1e300 },
    { user: {}, in: "lobby" },
    null,
    "text",
    7,
  ];
  for (const event of ["message:new", "typing", "user:online", "user:offline", "presence:change"])
    for (const data of forged) forge(event, data);
  await there(ann, "no sender");
  await say(ann, "After.");
  await there(ann, "After.");
  assert.equal(await ann.getByRole("alert").count(), 0);
  assert.equal(await ann.locator(".messages li:not(.end)").count(), 4);
  await look(ann, "demo-forged-desktop");
  // And if it breaks all the same, it says so, and can be shown again.
  await ann.evaluate(() => {
    window.toISOString = Date.prototype.toISOString;
    Date.prototype.toISOString = () => {
      throw new Error("out of order");
    };
  });
  await say(ann, "Too much.");
  await ann.getByRole("alert").getByText("out of order").waitFor();
  await ann.evaluate(() => void (Date.prototype.toISOString = window.toISOString));
  await look(ann, "demo-broken-desktop");
  await ann.getByRole("button", { name: "Show it again" }).click();
  await say(ann, "Here again.");
  await there(ann, "Here again.");
  assert.deepEqual(problems.splice(0), []);
  await ann.context().close();
});

it("misses nothing when its node is killed", { timeout: 180000 }, async () => {
  const ann = await enter("Ann", { viewport: { width: 1280, height: 720 } });
  const bob = await enter("Bob", { viewport: { width: 390, height: 844 } });
  const texts = (page) => page.locator(".messages p").allInnerTexts();
  const status = (page, is) => page.locator(`.heartline-status[data-status=${is}]`).waitFor();
  await say(ann, "Before.");
  for (const page of [ann, bob]) await there(page, "Before.");
  // Bob is in a tunnel when Ann speaks, and still is when the node is killed.
  await bob.context().setOffline(true);
  await status(bob, "reconnecting");
  await say(ann, "While Bob was away.");
  await there(ann, "While Bob was away.");
  await ann.locator(".messages em").waitFor({ state: "detached" });
  await ann.getByRole("button", { name: "Kill the node" }).click();
  await status(ann, "reconnecting");
  await say(ann, "While there was no node.");
  await ann.locator(".messages em", { hasText: "sending" }).waitFor();
  await look(ann, "demo-killed-desktop");
  await bob.context().setOffline(false);
  for (const page of [ann, bob]) {
    await status(page, "connected");
    await there(page, "While there was no node.");
  }
  await say(bob, "After.");
  for (const page of [ann, bob]) await there(page, "After.");
  const all = ["Before.", "While Bob was away.", "While there was no node.", "After."];
  for (const page of [ann, bob]) assert.deepEqual(await texts(page), all);
  await look(ann, "demo-back-desktop");
  assert.deepEqual(problems.splice(0), []);
});
