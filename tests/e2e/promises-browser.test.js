// What @heartline/client promises and only a browser can show: requests, storage, sleep.
import assert from "node:assert/strict";
import { once } from "node:events";
import { createServer } from "node:http";
import { createRequire } from "node:module";
import { fileURLToPath } from "node:url";
import { after, afterEach, before, describe, it } from "node:test";
import { launch } from "./lib/browser.js";
import { SLACK, freePort, serve, token, until } from "./lib/server.js";

const root = fileURLToPath(new URL("../../clients/js/", import.meta.url));
const its = createRequire(`${root}package.json`);

let browser, site, origin, port;
const open = [];

before(async () => {
  const { outputFiles } = await its("esbuild").build({
    stdin: {
      contents: `
        export { createClient } from "./dist/index.js";
        export { createClient as createLive } from "./dist/live.js";
        export * from "./dist/outbox.js";`,
      resolveDir: root,
    },
    bundle: true,
    write: false,
    format: "iife",
    globalName: "lib",
  });
  const page = `<!doctype html><html lang="en"><head><meta charset="utf-8"><title>Page</title>
    <script src="/lib.js"></script></head><body></body></html>`;
  site = createServer((request, response) => {
    const isScript = request.url === "/lib.js";
    response.setHeader("content-type", isScript ? "text/javascript" : "text/html");
    response.end(isScript ? outputFiles[0].contents : page);
  }).listen(0, "127.0.0.1");
  await once(site, "listening");
  origin = `http://127.0.0.1:${site.address().port}`;
  browser = await launch({ ignoreDefaultArgs: ["--disable-back-forward-cache"] });
});
afterEach(async () => {
  for (const one of open.splice(0).reverse()) await (one.kill?.() ?? one.close());
});
after(async () => {
  await browser?.close();
  site?.close();
});

async function node(set = {}) {
  port ??= await freePort();
  const started = await serve({ "server.allowed_origins": `["${origin}"]`, ...set }, { port });
  open.push(started);
  return started;
}
async function visit() {
  const context = await browser.newContext();
  open.push(context);
  const page = await context.newPage();
  await page.goto(origin);
  return page;
}
const status = (page) => page.evaluate(() => window.client.state.status);

/** Opens pages of one browser, which share what it stores. */
async function tabs(count) {
  const context = await browser.newContext();
  open.push(context);
  const pages = [];
  for (let n = 0; n < count; n++) pages.push(await context.newPage());
  for (const page of pages) await page.goto(origin);
  return pages;
}
/**
 * Opens the page's outbox, for a client of the server at `url`, or for one that is not connected;
 * with `isAgain`, by the store that it had. In the page, `give` gives it a message, and resolves when
 * the client has that; `taken` is what earlier pages have left and the server has taken, `unkept` what
 * could not be kept.
 */
const openIn = (page, url, { autoConnect = !!url, isAgain = false } = {}) =>
  page.evaluate(
    async ([url, options, isAgain]) => {
      window.client ??= lib.createLive(url ?? "ws://127.0.0.1:9/live", options);
      if (!isAgain) window.store = lib.indexedDb("ann");
      window.taken ??= [];
      window.unkept ??= [];
      window.outbox = lib.openOutbox(client, store, {
        sent: ({ data }) => taken.push(data.content),
        unkept: (_, message) => unkept.push(message?.data.content ?? "all"),
      });
      window.give = (content) => {
        const { count } = client.pending;
        outbox.send("message:send", { conversationId: "1", content }).catch(() => {});
        return new Promise((resolve) =>
          client.subscribePending((pending) => pending.count > count && resolve()),
        );
      };
      await outbox.ready;
    },
    [url, { token: token("ann"), autoConnect }, isAgain],
  );
/** What is kept for the user, in its order. */
const kept = (page) =>
  page.evaluate(async () => {
    const result = (request) =>
      new Promise((resolve, reject) => {
        request.onsuccess = () => resolve(request.result);
        request.onerror = () => reject(request.error);
      });
    const database = await result(indexedDB.open("heartline ann"));
    const rows = await result(database.transaction("messages").objectStore("messages").getAll());
    database.close();
    return rows.map(({ data }) => data.content);
  });
const takes = async (page, contents) => {
  await until(
    async () => (await page.evaluate(() => taken.length)) >= contents.length,
    `${contents} to be taken`,
  );
  assert.deepEqual(await page.evaluate(() => taken), contents);
};

describe("the client in a browser", { timeout: 300000 }, () => {
  it("leaves the page its requests, where a server accepts them and says nothing", async () => {
    const held = new Set();
    const silent = createServer((request, response) => {
      response.setHeader("access-control-allow-origin", origin);
      if (request.url === "/ok") return response.end("ok");
      held.add(request);
      request.on("close", () => held.delete(request));
    }).listen(0, "127.0.0.1");
    open.push({ close: () => (silent.closeAllConnections(), silent.close()) });
    await once(silent, "listening");
    const page = await visit();
    const url = `http://127.0.0.1:${silent.address().port}`;
    const attempts = await page.evaluate(async (url) => {
      const options = { connectTimeout: 150, backoff: 10, maxBackoff: 10 };
      window.client = lib.createClient(url, options);
      return new Promise((resolve) =>
        client.subscribe(({ attempt }) => attempt === 9 && resolve(attempt)),
      );
    }, url);
    assert.equal(attempts, 9);
    await until(() => held.size <= 2, "no more than two are held");
    const ok = await page.evaluate(
      async (url) => (await fetch(`${url}/ok`, { signal: AbortSignal.timeout(20_000) })).text(),
      url,
    );
    assert.equal(ok, "ok");
    await page.evaluate(() => client.disconnect());
    await until(() => held.size === 0, "nothing is held");
  });

  it("is woken twice, and asks once whether it lives", async () => {
    const one = await node();
    const page = await visit();
    await page.evaluate(
      ([url, token]) => {
        window.client = lib.createLive(url, { token });
        window.states = [];
        client.subscribe(({ status, reason }) => states.push(reason ?? status));
      },
      [one.live, token("ann")],
    );
    await until(async () => (await status(page)) === "connected", "a connection");
    await one.freeze();
    try {
      const took = await page.evaluate(() => {
        // An hour's sleep, by the clock on the wall.
        const now = Date.now;
        Date.now = () => now() + 3_600_000;
        const before = performance.now();
        document.dispatchEvent(new Event("visibilitychange"));
        window.dispatchEvent(new Event("online"));
        return new Promise((resolve) =>
          client.subscribe(
            ({ status }) => status !== "connected" && resolve(performance.now() - before),
          ),
        );
      });
      // Two seconds; by the heartbeats it would be half a minute.
      assert.ok(took > 1500 && took < 2000 + 2 * SLACK, `${took} ms`);
    } finally {
      one.child.kill("SIGCONT");
    }
    assert.equal((await page.evaluate(() => states)).at(-1), "heartbeat_timeout");
  });

  it("has kept over a reload what was not sent before it, and sends it once", async () => {
    const one = await node();
    await one.kill();
    const page = await visit();
    const connect = (page) =>
      page.evaluate(
        ([url, token]) => {
          window.client = lib.createLive(url, { token, backoff: 100, maxBackoff: 200 });
          window.taken = [];
          window.outbox = lib.openOutbox(client, lib.indexedDb("ann"), {
            sent: ({ data }) => taken.push(data.content),
          });
        },
        [one.live, token("ann")],
      );
    await connect(page);
    await page.evaluate(async () => {
      for (const content of ["one", "two"])
        outbox.send("message:send", { conversationId: "1", content }).catch(() => {});
      // What is given to the client has been kept before.
      await new Promise((resolve) =>
        client.subscribePending(({ count }) => count === 2 && resolve()),
      );
    });
    await page.reload();
    await connect(page);
    await node();
    await until(
      async () => (await page.evaluate(() => taken.length)) === 2,
      "both are taken",
    );
    // The answers may come in another order than what they answer was done in.
    assert.deepEqual(await page.evaluate(() => taken.sort()), ["one", "two"]);
    // Nothing is left for the next page, and nothing is in the conversation twice.
    await page.reload();
    await connect(page);
    const [left, messages] = await page.evaluate(async () => {
      await outbox.ready;
      const { reply, off } = await new Promise((resolve) => {
        const off = client.subscribe(async ({ status }) => {
          if (status !== "connected") return;
          resolve({ reply: await client.request("history:get", { conversationId: "1" }), off });
        });
      });
      off();
      return [client.pending.count, reply.messages.map(({ content }) => content)];
    });
    assert.deepEqual([left, messages], [0, ["one", "two"]]);
  });

  it("sends what a page has left that was closed, and leaves alone what one has that is open", async () => {
    const one = await node();
    const [first, second] = await tabs(2);
    // The first is never connected.
    await openIn(first);
    await first.evaluate(() => give("left"));
    await openIn(second, one.live);
    await second.evaluate(() =>
      outbox.send("message:send", { conversationId: "1", content: "own" }),
    );
    assert.deepEqual(await second.evaluate(() => taken), []);
    await first.close();
    await takes(second, ["left"]);
  });

  it("sends what a page leaves that had nothing when this one was opened", async () => {
    const one = await node();
    const [first, second] = await tabs(2);
    await openIn(first, one.live);
    await first.evaluate(() =>
      outbox.send("message:send", { conversationId: "1", content: "sent" }),
    );
    await until(async () => (await kept(first)).length === 0, "nothing to be kept");
    await openIn(second, one.live);
    await first.evaluate(() => {
      client.disconnect();
      outbox.send("message:send", { conversationId: "1", content: "left" }).catch(() => {});
    });
    await until(async () => (await kept(first)).length === 1, "it to be kept");
    await first.close();
    await takes(second, ["left"]);
  });

  it("sends what a page had taken over that was closed in its turn", async () => {
    const one = await node();
    const [first, second, third] = await tabs(3);
    await openIn(first);
    await first.evaluate(() => give("left"));
    // It takes what the first has left, and cannot send it.
    await openIn(second);
    await openIn(third, one.live);
    await first.close();
    await second.evaluate(
      () => new Promise((resolve) => client.subscribePending(({ count }) => count && resolve())),
    );
    assert.deepEqual(await third.evaluate(() => taken), []);
    await second.close();
    await takes(third, ["left"]);
  });

  for (const isAgain of [false, true])
    it(`leaves what it keeps to the page's next outbox, by ${isAgain ? "the same" : "another"} store`, async () => {
      const one = await node();
      const page = await visit();
      await openIn(page, one.live, { autoConnect: false });
      await page.evaluate(async () => {
        await give("one");
        outbox.close();
      });
      await openIn(page, one.live, { isAgain });
      await page.evaluate(() => client.connect());
      await takes(page, ["one"]);
      await until(async () => (await kept(page)).length === 0, "nothing to be kept");
      assert.deepEqual(await page.evaluate(() => unkept), []);
    });

  it("leaves what it keeps to a page that is open, when it is closed", async () => {
    const one = await node();
    const [first, second] = await tabs(2);
    await openIn(first);
    await first.evaluate(() => give("left"));
    await openIn(second, one.live);
    assert.deepEqual(await second.evaluate(() => taken), []);
    await first.evaluate(() => outbox.close());
    await takes(second, ["left"]);
  });

  it("leaves to the next outbox what it was given when it was closed", async () => {
    const one = await node();
    for (const isSame of [false, true]) {
      const page = await visit();
      await openIn(page, one.live);
      const refused = await page.evaluate((isSame) => {
        const sent = outbox.send("message:send", { conversationId: "1", content: "late" });
        outbox.close();
        // It looks for what is left in the same moment, by the same object or by another one.
        window.next = lib.openOutbox(client, isSame ? store : lib.indexedDb("ann"), {
          sent: ({ data }) => taken.push(data.content),
        });
        return sent.catch(({ code, sent }) => [code, sent]);
      }, isSame);
      assert.deepEqual(refused, ["DISCONNECTED", "no"]);
      await takes(page, ["late"]);
    }
  });

  it("leaves to the others what a page has left, when it is closed itself", async () => {
    const one = await node();
    const [first, second, third] = await tabs(3);
    await openIn(second);
    await second.evaluate(() => give("left"));
    // They wait for it in this order.
    await openIn(first, one.live);
    await openIn(third, one.live);
    await first.evaluate(() => outbox.close());
    await second.close();
    await takes(third, ["left"]);
    assert.deepEqual(await first.evaluate(() => taken), []);
  });

  it("keeps again what comes when a storage that has failed is well, and says what it has not kept", async () => {
    const page = await visit();
    await page.evaluate(() => {
      window.unhandled = [];
      addEventListener("unhandledrejection", ({ reason }) => unhandled.push(`${reason}`));
      window.opens = IDBFactory.prototype.open;
      IDBFactory.prototype.open = () => {
        throw new Error("not now");
      };
    });
    await openIn(page);
    await page.evaluate(async () => {
      await give("one");
      IDBFactory.prototype.open = opens;
      // As on a full disk.
      const { add } = IDBObjectStore.prototype;
      IDBObjectStore.prototype.add = function (row) {
        const request = add.call(this, row);
        this.transaction.abort();
        return request;
      };
      await give("two");
      IDBObjectStore.prototype.add = add;
      await give("three");
    });
    assert.deepEqual(await kept(page), ["three"]);
    const [unkept, unhandled] = await page.evaluate(() => [window.unkept, window.unhandled]);
    assert.deepEqual([unkept, unhandled], [["all", "one", "two"], []]);
  });

  it("sends what a page has left where nothing can be written any more, from one page alone", async () => {
    const one = await node();
    const [first, second, third] = await tabs(3);
    await openIn(first);
    await first.evaluate(() => give("left"));
    await second.evaluate(() => {
      IDBObjectStore.prototype.put = function () {
        this.transaction.abort();
      };
      // Nor is anything forgotten.
      IDBObjectStore.prototype.delete = IDBObjectStore.prototype.put;
    });
    await openIn(second, one.live);
    await openIn(third, one.live);
    await first.close();
    await takes(second, ["left"]);
    assert.deepEqual(await third.evaluate(() => taken), []);
    assert.deepEqual(await kept(third), ["left"]);
    // It is the next one's when that page is gone.
    await second.close();
    await takes(third, ["left"]);
  });

  it("lets go of its database for whoever deletes that, and keeps what comes then", async () => {
    const [first, second] = await tabs(2);
    await openIn(first);
    await first.evaluate(() => give("one"));
    const result = await second.evaluate(
      (ms) =>
        new Promise((resolve) => {
          setTimeout(() => resolve("it is waited for"), ms);
          const request = indexedDB.deleteDatabase("heartline ann");
          request.onsuccess = () => resolve("deleted");
        }),
      SLACK,
    );
    assert.equal(result, "deleted");
    await first.evaluate(() => give("two"));
    assert.deepEqual(await kept(first), ["two"]);
    assert.deepEqual(await first.evaluate(() => unkept), []);
  });

  it("comes back with a page that was kept behind another one", async () => {
    const one = await node();
    const page = await visit();
    await page.evaluate(
      ([url, token]) => {
        window.client = lib.createLive(url, { token });
        window.shown = [];
        addEventListener("pageshow", ({ persisted }) => shown.push(persisted));
      },
      [one.live, token("ann")],
    );
    await until(async () => (await status(page)) === "connected", "a connection");
    await page.goto(`${origin}/?elsewhere`);
    // Nobody is online on a page that nobody sees.
    await until(
      async () => (await one.api("/v1/users/ann/connections")).body.items.length === 0,
      "no connection",
    );
    await page.evaluate(() => void history.back());
    await until(async () => !page.url().includes("elsewhere"), "the page before");
    await until(async () => await page.evaluate(() => window.shown?.length), "pageshow");
    assert.deepEqual(await page.evaluate(() => shown), [true], "the page was kept");
    // It has closed its socket meanwhile: the state says so, and then there is another.
    await until(
      () =>
        page.evaluate(() =>
          client.ping().then(
            () => client.state.status === "connected",
            () => false,
          ),
        ),
      "a connection that lives",
    );
  });
});
