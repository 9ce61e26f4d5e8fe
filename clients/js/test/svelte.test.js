// Svelte's binding, in a document and on a server, with components as its compiler makes them.
import assert from "node:assert/strict";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, it } from "node:test";
import { pathToFileURL } from "node:url";
import { light, place } from "./dom.js";
import { build } from "esbuild";
import { compile } from "svelte/compiler";
import { HELLO, outcome, settled, start } from "./fake.js";

const COMPONENTS = {
  App: `<script>
    import { setHeartline } from "@heartline/client/svelte";
    import Page from "Page.svelte";
    let { client, ...rest } = $props();
    setHeartline(client);
  </script>
  <Page {...rest} />`,
  Page: `<script>
    import { onMount } from "svelte";
    import Row from "Row.svelte";
    import {
      connectionStatus, getHeartline, missed, presence, room, statusLight,
    } from "@heartline/client/svelte";
    let { heard = [], sent = [] } = $props();
    const client = getHeartline();
    const status = connectionStatus();
    const lobby = room("lobby");
    const rows = ["a", "b", "c"].map((id) => [id, presence([id])]);
    const people = presence(["a"]);
    $effect(() => client.on("note", (data) => heard.push(data)));
    $effect(() => missed(client, "lobby", () => heard.push("missed")));
    onMount(() => void sent.push(client.send("message:send", { content: "hi" })));
  </script>
  <p>{$status.status} {$lobby.joined} {$lobby.error?.code} {$people.get("a")?.online}</p>
  {#each rows as [id, of]}<Row {id} {of} />{/each}
  <span use:statusLight={{ client }}></span>`,
  Row: `<script>let { id, of } = $props();</script><i>{id} {$of.get(id)?.online}</i>`,
};

const folder = mkdtempSync(join(tmpdir(), "heartline-svelte-"));
after(() => rmSync(folder, { recursive: true, force: true }));

/** The app, and what mounts it in a document or renders it on a server. */
async function load(generate) {
  const outfile = join(folder, `${generate}.mjs`);
  await build({
    stdin: {
      contents: `export { default as App } from "App.svelte";
        export { mount, unmount, flushSync } from "svelte";
        ${generate === "server" ? 'export { render } from "svelte/server";' : ""}`,
      resolveDir: import.meta.dirname,
    },
    bundle: true,
    format: "esm",
    outfile,
    platform: generate === "server" ? "node" : "browser",
    alias: { "@heartline/client/svelte": join(import.meta.dirname, "../dist/svelte.js") },
    plugins: [
      {
        name: "svelte",
        setup({ onResolve, onLoad }) {
          onResolve({ filter: /^\w+\.svelte$/ }, ({ path }) => ({ path, namespace: "component" }));
          onLoad({ filter: /./, namespace: "component" }, ({ path }) => {
            const source = COMPONENTS[path.replace(".svelte", "")];
            const { js } = compile(source, { generate, filename: path });
            return { contents: js.code, resolveDir: import.meta.dirname };
          });
        },
      },
    ],
  });
  return import(pathToFileURL(outfile).href);
}

it("connects while it is shown, and leaves nothing behind", async () => {
  const { App, mount, unmount, flushSync } = await load("client");
  const all = start({ autoConnect: false });
  const [heard, sent] = [[], []];
  const target = place();
  let app = mount(App, { target, props: { client: all.client, heard, sent } });
  flushSync();
  const words = () => target.querySelector("p").textContent;
  assert.equal(words(), "connecting false  ");
  assert.equal(light(target).words, "Connecting…");

  // Shown anew in the same breath it is the same connection, and what was sent still waits.
  void unmount(app);
  app = mount(App, { target, props: { client: all.client, heard, sent } });
  flushSync();
  await all.clock.pass(0);
  assert.equal(all.links.length, 1);
  all.link.events.hello(HELLO);
  assert.deepEqual(await Promise.all(sent.map(outcome)), ["pending", "pending"]);

  assert.deepEqual(
    all.link.find("presence:watch").map(({ data }) => data.users.join()),
    ["a,b,c"],
  );
  const users = [{ userId: "a", online: true, rev: 1 }];
  all.link.find("presence:watch")[0].reply({ ok: true, epoch: "e", rev: 1, head: 1, users });
  all.link.find("join")[0].reply({ ok: true });
  await settled();
  flushSync();
  assert.equal(words(), "connected true  true");
  assert.match(target.textContent, /a true.*b.*c/);
  all.link.events.event("note", 1);
  all.link.events.event("room:gap", { room: "lobby" });
  assert.deepEqual(heard, [1, "missed"]);

  all.link.events.end({ kind: "final", reason: "replaced" });
  const { button, words: said, status } = light(target);
  assert.deepEqual([status, said], ["failed", "Connection failed: opened in another place"]);
  button.focus();
  button.click();
  assert.equal(light(target).button, undefined);
  assert.equal(document.activeElement, target.querySelector("[role=status]"));

  await unmount(app);
  await all.clock.pass(0);
  assert.equal(all.status, "disconnected");
  assert.ok(all.isClean());
});

it("renders on a server, and connects nothing there", async () => {
  const { App, render } = await load("server");
  const all = start({ autoConnect: false });
  const { window } = globalThis;
  Object.defineProperty(globalThis, "window", { configurable: true, value: undefined });
  const { body } = render(App, { props: { client: all.client } });
  Object.defineProperty(globalThis, "window", { configurable: true, value: window });
  assert.match(body, /<p>connecting false/);
  await all.clock.pass(0);
  assert.equal(all.links.length, 0);
  assert.ok(all.isClean());
});
