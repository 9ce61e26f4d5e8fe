// The examples of docs/javascript.md and of the README: what they import is there, and they do what
// the page says of them.
import assert from "node:assert/strict";
import { mkdtempSync, readFileSync, rmSync, symlinkSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, describe, it } from "node:test";
import { pathToFileURL } from "node:url";
import { transform } from "esbuild";
import { place } from "./dom.js";
import { act, createElement } from "react";
import { createRoot } from "react-dom/client";
import { compile } from "svelte/compiler";
import { parse, compileScript, compileTemplate } from "vue/compiler-sfc";
import { live } from "../dist/live.js";
import { Clock, HELLO, settled, start } from "./fake.js";

globalThis.IS_REACT_ACT_ENVIRONMENT = true;
const here = join(import.meta.dirname, "..");
const PAGES = { "javascript.md": "../../docs/javascript.md", "README.md": "README.md" };

/** Code blocks of a page, each under the heading that it is under. */
function blocks(path) {
  const text = readFileSync(join(here, path), "utf8");
  let heading = "";
  const all = [];
  for (const [, title, language, code] of text.matchAll(/^#+ (.*)$|^```(\w+)\n([^]*?)^```$/gm))
    if (title) heading = title;
    else all.push({ heading, language, code });
  return all;
}
const GUIDE = blocks(PAGES["javascript.md"]);
const block = (heading, language, number = 0) =>
  GUIDE.filter((one) => one.heading === heading && one.language === language)[number].code;

const folder = mkdtempSync(join(tmpdir(), "heartline-docs-"));
symlinkSync(join(here, "node_modules"), join(folder, "node_modules"));
after(() => rmSync(folder, { recursive: true, force: true }));
let files = 0;

/** Runs an example as a module; `names` are what it takes from elsewhere. */
async function run(code, names, language = "js") {
  globalThis.names = names;
  const taken = Object.keys(names).map((name) => `const ${name} = globalThis.names.${name};`);
  // What an example imports may be given instead.
  const own = code.replace(
    /import \{([^}]*)\} from "@heartline\/client([^"]*)";.*\n/g,
    (line, list, entry) => {
      const rest = list.split(",").filter((name) => !(name.trim() in names));
      const url = pathToFileURL(join(here, `dist${entry || "/index"}.js`));
      return rest.join("").trim() ? `import {${rest}} from "${url}";\n` : "";
    },
  );
  const { code: text } = await transform(`${taken.join("\n")}\n${own}`, {
    loader: language,
    jsx: "automatic",
  });
  const file = join(folder, `${++files}.mjs`);
  writeFileSync(file, text);
  return import(pathToFileURL(file).href);
}

/** `createClient` with a transport that does what the test says. */
function fake() {
  let all;
  return {
    createClient: (_, options) => (all = start(options)).client,
    get all() {
      return all;
    },
  };
}

describe("what examples import is there", () => {
  for (const [name, path] of Object.entries(PAGES))
    for (const { heading, language, code } of blocks(path)) {
      const imports = [...code.matchAll(/import \{([^}]*)\} from "@heartline\/client([^"]*)"/g)];
      if (imports.length === 0) continue;
      it(`in ${name}, ${heading}, ${language}`, async () => {
        for (const [, list, entry] of imports) {
          const module = await import(`../dist${entry || "/index"}.js`);
          for (const one of list
            .split(",")
            .map((one) => one.trim())
            .filter(Boolean))
            assert.ok(one in module, `${one} of @heartline/client${entry}`);
        }
      });
    }
});

describe("the first example", () => {
  // Nobody waits here for what is sent.
  const example = block("Plain JavaScript", "js").replace(
    /^await (.*\));/gm,
    "$1.catch(() => {});",
  );
  /** The example with an app's server that answers so. */
  async function first(answer) {
    const made = fake();
    const console = { log() {} };
    await run(example, { createClient: made.createClient, fetch: answer, console });
    await settled();
    return made.all;
  }
  const page = (status, text) => async () => ({ ok: status < 400, status, text: async () => text });

  it("connects with the token that it has fetched, and joins", async () => {
    const all = await first(page(200, "t"));
    assert.equal(all.link.token, "t");
    all.link.events.hello(HELLO);
    assert.deepEqual(
      all.link.find("join").map(({ data }) => data),
      ["conversation:42"],
    );
    all.link.find("join")[0].reply({ ok: true });
    await settled();
    all.client.disconnect();
  });

  it("asks again when the app's server is out of order, whatever page it sends", async () => {
    const all = await first(page(502, "<h1>Bad Gateway</h1>"));
    assert.equal(all.links.length, 0);
    assert.deepEqual(
      [all.client.state.status, all.client.state.reason],
      ["reconnecting", "token_unavailable"],
    );
    all.client.disconnect();
  });

  it("asks no more when nobody is signed in", async () => {
    const all = await first(page(401, "Who are you?"));
    assert.deepEqual([all.client.state.status, all.client.state.reason], ["failed", "signed_out"]);
    assert.ok(all.isClean());
  });
});

describe("the client that is written by hand", () => {
  const example = block("No package at all", "js");
  async function byHand(tokens) {
    const clock = new Clock();
    const sockets = [];
    class WebSocket {
      sent = [];
      constructor(url) {
        this.url = url;
        sockets.push(this);
      }
      send = (text) => this.sent.push(JSON.parse(text));
      hear = (frame) => this.onmessage({ data: JSON.stringify(frame) });
    }
    const { setTimeout, clearTimeout } = clock;
    const console = { log() {} };
    const fetchToken = async () => tokens.shift()();
    await run(example, { WebSocket, setTimeout, clearTimeout, console, fetchToken });
    await settled();
    return { clock, sockets };
  }
  const good = () => "t";
  const bad = () => {
    throw new Error("no token");
  };

  it("connects by itself, and tries again when there is no token", async () => {
    const { clock, sockets } = await byHand([bad, bad, good]);
    assert.equal(sockets.length, 0);
    await clock.pass(3000);
    assert.equal(sockets.length, 1);
    sockets[0].onopen();
    sockets[0].hear({ type: "hello" });
    assert.deepEqual(sockets[0].sent, [
      { type: "auth", token: "t" },
      { type: "subscribe", topic: "lobby", id: "1" },
    ]);
  });

  it("waits longer and longer for a server that greets and drops", async () => {
    const { clock, sockets } = await byHand(Array(20).fill(good));
    for (let second = 0, met = 0; second < 30; second++) {
      for (; met < sockets.length; met++) {
        sockets[met].hear({ type: "hello" });
        sockets[met].onclose({ code: 1006 });
      }
      await clock.pass(1000);
    }
    assert.ok(sockets.length < 8, `${sockets.length} connections in half a minute`);
  });

  it("keeps the pause that a server asks for, and stays away where it is told to", async () => {
    const { clock, sockets } = await byHand(Array(20).fill(good));
    sockets[0].hear({ type: "server:drain", data: { reconnectInMs: 7000 } });
    sockets[0].onclose({ code: 1001 });
    await clock.pass(6900);
    assert.equal(sockets.length, 1);
    await clock.pass(200);
    assert.equal(sockets.length, 2);
    sockets[1].onclose({ code: 4403 });
    await clock.pass(60_000);
    assert.equal(sockets.length, 2);
  });
});

it("the example for React shows a conversation", async () => {
  const made = fake();
  const code = block("React", "jsx").replace(
    "// …",
    "return <p>{String(joined)} {String(bob?.online)} {messages.length}</p>;",
  );
  const { App } = await run(code, { createClient: made.createClient, token: "t" }, "jsx");
  const at = place();
  const root = createRoot(at);
  await act(async () => root.render(createElement(App)));
  const { all } = made;
  await act(async () => {
    all.link.events.hello(HELLO);
    all.link.find("join")[0].reply({ ok: true });
    all.link.events.event("message:new", { content: "hi" });
  });
  assert.equal(at.textContent, "Connectedtrue undefined 1");
  await act(async () => root.unmount());
});

for (const [number, { code }] of GUIDE.filter(({ language }) => language === "vue").entries())
  it(`example ${number + 1} for Vue is compiled`, () => {
    const { descriptor, errors } = parse(code);
    assert.deepEqual(errors, []);
    const { bindings } = compileScript(descriptor, { id: "x" });
    const { content: source } = descriptor.template;
    const made = compileTemplate({
      source,
      id: "x",
      filename: "x.vue",
      compilerOptions: { bindingMetadata: bindings },
    });
    assert.deepEqual(made.errors, []);
  });

for (const [number, { code }] of GUIDE.filter(({ language }) => language === "svelte").entries())
  it(`example ${number + 1} for Svelte is compiled, without a warning`, () => {
    assert.deepEqual(compile(code, { filename: "x.svelte" }).warnings, []);
  });

it("the example for tabs makes a client", async () => {
  const { createClient } = await import("../dist/shared.js");
  const made = [];
  const names = {
    live,
    createClient: (...given) =>
      made.push(createClient(given[0], { ...given[1], autoConnect: false })),
    userId: "ann",
    token: "t",
  };
  await run(block("One connection for all tabs", "js"), names);
  assert.equal(made.length, 1);
});
