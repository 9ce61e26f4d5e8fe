// @heartline/client and its React binding in a real browser, against the release binary.
import assert from "node:assert/strict";
import { once } from "node:events";
import { mkdtempSync, rmSync } from "node:fs";
import { createServer } from "node:http";
import { createRequire } from "node:module";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { after, afterEach, before, describe, it } from "node:test";
import { artifacts, launch, look, watch } from "./lib/browser.js";
import { freePort, serve, token, until } from "./lib/server.js";

const root = fileURLToPath(new URL("../../clients/js/", import.meta.url));
const its = createRequire(`${root}package.json`);

let browser, site, port, node, origin;
let tokens = 0;
const problems = [];
const open = [];

before(async () => {
  const { outputFiles } = await its("esbuild").build({
    entryPoints: [fileURLToPath(new URL("./pages/client.jsx", import.meta.url))],
    bundle: true,
    write: false,
    format: "esm",
    jsx: "automatic",
    define: { "process.env.NODE_ENV": '"development"' },
    alias: Object.fromEntries(
      ["", "/live", "/react", "/shared"].map((entry) => [
        `@heartline/client${entry}`,
        `${root}dist${entry || "/index"}.js`,
      ]),
    ),
    nodePaths: [`${root}node_modules`],
  });
  const worker = await its("esbuild").build({
    stdin: {
      contents: `import { createClient } from "${root}dist/live.js";
        const { searchParams } = new URL(location);
        const heartline = createClient(searchParams.get("node"), { token: searchParams.get("token") });
        heartline.subscribe(({ status }) => postMessage(status));
        onmessage = () => heartline.disconnect();`,
      resolveDir: root,
    },
    bundle: true,
    write: false,
  });
  const page = `<!doctype html><html lang="en"><head><meta charset="utf-8">
    <meta name="viewport" content="width=device-width"><title>Lobby</title>
    <style>
      body { font: 16px/1.5 system-ui, sans-serif; margin: 2rem; max-width: 40rem }
      button { font: inherit; padding: .2em .8em }
    </style>
    </head><body><div id="app"></div><script type="module" src="/page.js"></script></body></html>`;
  site = createServer((request, response) => {
    const { pathname, searchParams } = new URL(request.url, "http://x");
    if (pathname === "/token") {
      tokens++;
      const exp = Math.floor(Date.now() / 1000) + Number(searchParams.get("seconds"));
      return response.end(token(searchParams.get("user"), { exp }));
    }
    const script = { "/page.js": outputFiles[0], "/worker.js": worker.outputFiles[0] }[pathname];
    response.setHeader("content-type", script ? "text/javascript" : "text/html");
    if (pathname === "/strict")
      response.setHeader("content-security-policy", "default-src 'self'; connect-src *");
    const html = pathname === "/strict" ? page.replace(/<style>[^]*<\/style>/, "") : page;
    response.end(script ? script.contents : html);
  }).listen(0, "127.0.0.1");
  await once(site, "listening");
  origin = `http://127.0.0.1:${site.address().port}`;
  browser = await launch();
});
afterEach(async () => {
  await Promise.all(open.splice(0).map((one) => one.close?.() ?? one.kill()));
  assert.deepEqual(problems.splice(0), []);
});
after(async () => {
  await browser?.close();
  site?.close();
});

async function start(set = {}) {
  port ??= await freePort();
  const allowed = {
    "server.allowed_origins": `["${origin}"]`,
    "heartbeat.interval": "2s",
    "heartbeat.timeout": "5s",
    "auth.jwt.leeway": "0s",
  };
  node = await serve({ ...allowed, ...set }, { port });
  open.push(node);
  return node;
}

/** Opens the page as somebody, in a browser of their own or in one that is given. */
async function visit(user, { path = "/", ...more } = {}, options = {}, context = undefined) {
  context ??= await browser.newContext(options);
  if (!open.includes(context)) open.push(context);
  const page = await context.newPage();
  watch(page, problems);
  page.on(
    "console",
    (message) =>
      message.type() === "error" &&
      !/net::ERR_|WebSocket connection|40[0-9]|Failed to load/.test(message.text()) &&
      problems.push(message.text()),
  );
  const query = new URLSearchParams({ user, seconds: 3600, node: node.http, ...more });
  await page.goto(`${origin}${path}?${query}`);
  return page;
}
const reached = (page, status) =>
  page.locator(`.heartline-status[data-status=${status}]`).waitFor({ timeout: 30000 });
const messages = (page) => page.locator("#messages li").allInnerTexts();
const state = (page) => page.evaluate(() => window.heartline.state);

for (const transport of ["socketio", "live"]) {
  describe(`in a browser, over ${transport}`, { timeout: 180000 }, () => {
    it("shows who is there, connects once, and leaves nothing when it is hidden", async () => {
      await start();
      const ann = await visit("ann", { transport });
      await reached(ann, "connected");
      await ann.locator("#joined", { hasText: /^in the room/ }).waitFor();
      await ann.locator("#presence", { hasText: "bob is offline" }).waitFor();
      const bob = await visit("bob", { transport });
      await ann.locator("#presence", { hasText: "bob is online" }).waitFor();
      // Strict mode shows everything twice; in the end there is one connection.
      await until(
        async () => (await node.api("/v1/users/ann/connections")).body.items.length === 1,
        "one connection",
      );
      await bob.evaluate(() => window.show(false));
      await ann.locator("#presence", { hasText: "bob is offline" }).waitFor();
      assert.equal((await state(bob)).status, "disconnected");
    });

    it("comes back by itself when the network does, at once", async () => {
      await start();
      const ann = await visit("ann", { transport });
      await reached(ann, "connected");
      await ann.context().setOffline(true);
      await reached(ann, "reconnecting");
      // A token that cannot be had without a network is the same cause, found a moment later.
      assert.match((await state(ann)).reason, /^(offline|token_unavailable)$/);
      await ann.locator("#joined", { hasText: "not in the room yet" }).waitFor();
      await ann.context().setOffline(false);
      await reached(ann, "connected");
      await ann.locator("#joined", { hasText: /^in the room/ }).waitFor();
    });

    it("goes on with what was said while there was no network, and after a kill", async () => {
      const folder = mkdtempSync(join(tmpdir(), "heartline-browser-"));
      open.push({ close: async () => rmSync(folder, { recursive: true, force: true }) });
      const lasting = { "recovery.window": "1m", "recovery.journal": join(folder, "journal") };
      const first = await start(lasting);
      const ann = await visit("ann", { transport });
      await ann.locator("#joined", { hasText: /^in the room/ }).waitFor();
      const { socketId } = await state(ann);
      await ann.context().setOffline(true);
      await reached(ann, "reconnecting");
      const body = { event: "message:new", data: { content: "one" } };
      await first.api("/v1/rooms/conversation:lobby/publish", { method: "POST", body });
      await first.kill();
      await start(lasting);
      await ann.context().setOffline(false);
      await until(async () => (await messages(ann)).length === 1, "what was said");
      const back = await state(ann);
      assert.deepEqual([back.recovered, back.socketId], [true, socketId]);
      assert.deepEqual(await messages(ann), ["one"]);
    });

    it("delivers what was sent while the server was dead, once and in order", async () => {
      const first = await start();
      const [ann, bob] = [await visit("ann", { transport }), await visit("bob", { transport })];
      for (const page of [ann, bob])
        await page.locator("#joined", { hasText: /^in the room/ }).waitFor();
      await first.kill();
      for (const page of [ann, bob]) await reached(page, "reconnecting");
      const sent = ann.evaluate(() =>
        Promise.all(
          ["one", "two", "three"].map((content) =>
            window.heartline.send("message:send", { conversationId: "lobby", content }),
          ),
        ).then((replies) => replies.map(({ ok }) => ok)),
      );
      await start();
      await reached(bob, "connected");
      assert.deepEqual(await sent, [true, true, true]);
      await until(async () => (await messages(ann)).length === 3, "her own messages");
      assert.deepEqual(await messages(ann), ["one", "two", "three"]);
    });

    it("renews its token in time, and stays", async () => {
      // However busy this machine is, only the token may end the connection.
      await start({ "heartbeat.interval": "20s", "heartbeat.timeout": "10s" });
      const ann = await visit("ann", { transport, seconds: 8 });
      await reached(ann, "connected");
      // Three tokens later it is the same connection.
      const { socketId } = await state(ann);
      const before = tokens;
      await until(() => tokens >= before + 3, "three tokens", 60_000);
      assert.equal((await state(ann)).socketId, socketId);
      assert.equal(await node.metric('heartline_disconnects_total{reason="token_expired"}'), 0);
    });

    it("gives its place up to another tab, and takes it back when asked", async () => {
      await start({ "devices.policy": "replace" });
      const first = await visit("ann", { transport });
      await reached(first, "connected");
      const second = await visit("ann", { transport });
      await reached(first, "failed");
      await first.getByRole("status").getByText("opened in another place").waitFor();
      await first.getByRole("button", { name: "Try again" }).click();
      // The button has gone; whoever goes on by keyboard is where it was.
      await first.locator("[role=status]:focus").waitFor();
      await reached(first, "connected");
      await reached(second, "failed");
    });
  });
}

for (const transport of ["shared", "shared-socketio"]) {
  describe(`tabs that share a connection, ${transport}`, { timeout: 180000 }, () => {
    it("are one device, and lose nothing when the one that carries is closed", async () => {
      await start({ "recovery.window": "1m" });
      const context = await browser.newContext();
      const tabs = [];
      for (let tab = 0; tab < 3; tab++) {
        tabs.push(await visit("ann", { transport }, {}, context));
        await tabs[tab].locator("#joined", { hasText: /^in the room/ }).waitFor();
      }
      const connections = async () => (await node.api("/v1/users/ann/connections")).body.items;
      assert.equal((await connections()).length, 1);
      const say = (tab, content) =>
        tab.evaluate((content) => {
          const message = { conversationId: "lobby", content };
          window.sent = window.heartline.send("message:send", message).then(({ ok }) => ok);
        }, content);
      await say(tabs[0], "one");
      for (const tab of tabs)
        await until(async () => (await messages(tab)).length === 1, "the first message");
      // Said in the same breath in which the first tab goes.
      await Promise.all([say(tabs[1], "two"), say(tabs[2], "three"), tabs[0].close()]);
      for (const tab of tabs.slice(1)) {
        assert.equal(await tab.evaluate(() => window.sent), true);
        await reached(tab, "connected");
        await until(async () => (await messages(tab)).length === 3, "all messages");
        assert.deepEqual((await messages(tab)).sort(), ["one", "three", "two"]);
      }
      assert.equal((await connections()).length, 1);
      await tabs[1].evaluate(() => window.show(false));
      await say(tabs[2], "four");
      assert.equal(await tabs[2].evaluate(() => window.sent), true);
      await tabs[2].evaluate(() => window.show(false));
      await until(async () => (await connections()).length === 0, "no connection");
    });
  });
}

describe("a page that is shown anew", { timeout: 180000 }, () => {
  it("by another key keeps its connection, and what it was given to send", async () => {
    const first = await start();
    const ann = await visit("ann", { transport: "live" });
    await reached(ann, "connected");
    const { socketId } = await state(ann);
    await ann.evaluate(() => window.remount());
    await ann.locator("#joined", { hasText: /^in the room/ }).waitFor();
    assert.equal((await state(ann)).socketId, socketId);
    await first.kill();
    await reached(ann, "reconnecting");
    const sent = ann.evaluate(() => {
      const message = { conversationId: "lobby", content: "hi" };
      const sent = window.heartline.send("message:send", message);
      window.remount();
      return sent.then(({ ok }) => ok);
    });
    await start();
    assert.equal(await sent, true);
  });
});

describe("the client", { timeout: 180000 }, () => {
  it("runs in a worker, and leaves nothing there", async () => {
    const { live } = await start();
    const ann = await visit("ann", { transport: "live" });
    await reached(ann, "connected");
    const told = await ann.evaluate(
      async (url) => {
        const worker = new Worker(url);
        const told = [];
        const status = (wanted) =>
          new Promise((resolve) => {
            worker.onmessage = ({ data }) => {
              told.push(data);
              if (data === wanted) resolve();
            };
          });
        await status("connected");
        worker.postMessage("enough");
        await status("disconnected");
        return told;
      },
      `/worker.js?${new URLSearchParams({ node: live, token: token("ann") })}`,
    );
    assert.deepEqual(told, ["connecting", "connected", "disconnected"]);
  });
});

describe("the status light", { timeout: 180000 }, () => {
  it("is laid out where a page's policy allows no inline styles", async () => {
    await start();
    const ann = await visit("ann", { transport: "live", path: "/strict" });
    await reached(ann, "connected");
    const style = () => getComputedStyle(document.querySelector(".heartline-status")).display;
    assert.equal(await ann.evaluate(style), "inline-flex");
  });

  it("has shapes where colours are forced", async () => {
    const first = await start();
    const ann = await visit("ann", { transport: "live" }, { forcedColors: "active" });
    const light = () => ann.locator(".heartline-status svg").screenshot({ scale: "css" });
    await reached(ann, "connected");
    await ann.screenshot({ path: `${artifacts}client-forced-connected.png` });
    const seen = [await light()];
    await first.kill();
    await reached(ann, "reconnecting");
    await ann.screenshot({ path: `${artifacts}client-forced-reconnecting.png` });
    seen.push(await light());
    assert.notDeepEqual(seen[0], seen[1]);
  });

  const SIZES = { desktop: { width: 1280, height: 720 }, phone: { width: 390, height: 844 } };

  it("is accessible in all states, and fits a phone", async () => {
    await start();
    for (const [size, viewport] of Object.entries(SIZES)) {
      const shows = async (page, status) => {
        await reached(page, status);
        await look(page, `client-${status}-${size}`);
      };
      const page = await visit("ann", { transport: "live" }, { viewport });
      await shows(page, "connected");
      await page.context().setOffline(true);
      await shows(page, "reconnecting");
      await page.context().setOffline(false);
      await reached(page, "connected");
      await page.evaluate(() => window.heartline.disconnect());
      await shows(page, "disconnected");
      const refused = await visit("ann", { transport: "live", token: "nonsense" }, { viewport });
      await shows(refused, "failed");
    }
  });
});
