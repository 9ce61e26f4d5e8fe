// The demo page in a real browser.
import assert from "node:assert/strict";
import { after, before, it } from "node:test";
import { artifacts, launch, watch } from "./lib/browser.js";
import { freePort, serve, until } from "./lib/server.js";

let browser, port, node;
const problems = [];

before(async () => {
  port = await freePort();
  node = await serve({}, { dev: true, port });
  browser = await launch();
});
after(async () => {
  await browser?.close();
  if (node.child.exitCode === null) assert.equal(await node.stop(), 0);
});

async function visit(name, options) {
  const context = await browser.newContext(options);
  const page = await context.newPage();
  await page.addInitScript((name) => (localStorage.name ??= name), name);
  watch(page, problems);
  await page.goto(node.http);
  await page.waitForFunction(() => document.getElementById("state").dataset.state === "connected");
  return page;
}
const text = (page, id) => page.locator(id).innerText();

it("two people see each other, talk, and come back after the server died", async () => {
  const ann = await visit("ann", { viewport: { width: 1280, height: 800 } });
  const bob = await visit("bob", { viewport: { width: 390, height: 844 }, colorScheme: "dark" });
  await until(async () => /bob/.test(await text(ann, "#online")), "bob at ann's");
  assert.match(await text(bob, "#online"), /ann/);

  await ann.fill("#text", "Hello Bob, can you hear me?");
  await ann.press("#text", "Enter");
  await bob.locator("#messages", { hasText: "Hello Bob" }).waitFor();
  await bob.fill("#text", "Loud and clear.");
  await bob.click("#send");
  await ann.locator("#messages", { hasText: "Loud and clear" }).waitFor();
  await until(async () => /ms/.test(await text(ann, "#latency")), "a round trip");

  await bob.fill("#room", "kitchen");
  await bob.press("#room", "Enter");
  await bob.locator("#story", { hasText: "Joined room kitchen" }).waitFor();
  await bob.fill("#text", "anybody here?");
  await bob.press("#text", "Enter");
  await bob.locator("#messages", { hasText: "anybody here?" }).waitFor();
  // What ann says after that reaches her after that, and it alone.
  await ann.fill("#text", "Did you say something?");
  await ann.press("#text", "Enter");
  await ann.locator("#messages", { hasText: "Did you say something?" }).waitFor();
  assert.equal(await ann.locator("#messages", { hasText: "anybody" }).count(), 0);
  const wide = await bob.evaluate(() => document.documentElement.scrollWidth > innerWidth);
  assert.equal(wide, false, "the phone's page scrolls sideways");
  await ann.screenshot({ path: `${artifacts}demo-desktop.png` });
  await bob.screenshot({ path: `${artifacts}demo-phone.png`, fullPage: true });

  await node.kill();
  await ann.waitForFunction(
    () => document.getElementById("state").dataset.state === "reconnecting",
  );
  await ann.screenshot({ path: `${artifacts}demo-reconnecting.png` });
  node = await serve({}, { dev: true, port });
  await ann.waitForFunction(
    () => document.getElementById("state").dataset.state === "connected",
    undefined,
    { timeout: 180000 },
  );
  assert.match(await text(ann, "#story"), /Back after/);

  await bob.close();
  await until(async () => !/bob/.test(await text(ann, "#online")), "bob's end at ann's", 30000);
  assert.deepEqual(problems, []);
});
