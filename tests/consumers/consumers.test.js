// The package as npm packs it, in the tools and runtimes that people use it in. `make test-consumers`
// installs them; some hundred megabytes, so it is no part of `make test`.
import assert from "node:assert/strict";
import { execFile, spawn } from "node:child_process";
import { once } from "node:events";
import { mkdtempSync, readFileSync, readdirSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, before, it } from "node:test";
import { promisify } from "node:util";
import { freePort, serve, token, until } from "../e2e/lib/server.js";

const here = import.meta.dirname;
const client = join(here, "../../clients/js");
const folder = mkdtempSync(join(tmpdir(), "heartline-consumers-"));
const tool = (name) => join(here, "node_modules", ".bin", name);
const run = (cwd, command, ...args) =>
  promisify(execFile)(command, args, {
    cwd,
    timeout: 180_000,
    env: { ...process.env, NEXT_TELEMETRY_DISABLED: "1", DENO_NO_UPDATE_CHECK: "1" },
  }).then(
    ({ stdout }) => stdout,
    (error) => assert.fail(`${command} ${args.join(" ")}: ${error.stdout}${error.stderr}`),
  );

before(async () => {
  const packed = await run(client, "npm", "pack", "--json", "--pack-destination", folder);
  const [{ filename }] = JSON.parse(packed.slice(packed.indexOf("[\n")));
  const quiet = ["--no-audit", "--no-fund", "--loglevel=error"];
  await run(here, "npm", "install", "--no-save", ...quiet, join(folder, filename));
});
after(() => rmSync(folder, { recursive: true, force: true }));

/** All scripts of a folder, as one text. */
const scripts = (at) =>
  readdirSync(at, { recursive: true })
    .filter((name) => name.endsWith(".js"))
    .map((name) => readFileSync(join(at, name), "utf8"))
    .join("\n");

it("is built by Vite, and live brings nothing of Socket.IO", async () => {
  const { build } = await import("vite");
  const outDir = join(folder, "vite");
  await build({ root: here, logLevel: "error", build: { outDir, emptyOutDir: true } });
  assert.match(scripts(outDir), /Reconnecting…/);
  assert.doesNotMatch(scripts(outDir), /engine\.io|reconnect_attempt/);
});

it("is built by webpack, and live brings nothing of Socket.IO", async () => {
  const { default: webpack } = await import("webpack");
  const path = join(folder, "webpack");
  // No loader: the page as a bundler without JSX gets it.
  const { transform } = await import("vite").then(({ transformWithOxc }) => ({
    transform: transformWithOxc,
  }));
  const { code } = await transform(readFileSync(join(here, "page.jsx"), "utf8"), "page.jsx");
  const entry = `data:text/javascript,${encodeURIComponent(code)}`;
  const stats = await promisify(webpack)({
    mode: "production",
    context: here,
    entry,
    output: { path },
  });
  assert.ok(!stats.hasErrors(), stats.toString({ all: false, errors: true }));
  assert.match(scripts(path), /Reconnecting…/);
  assert.doesNotMatch(scripts(path), /engine\.io|reconnect_attempt/);
});

/** What only those parts say that a small client takes by name, or does not have. */
const PARTS = /was left|visibilitychange|recover:|history:get/;

it("is a small client without what is not named, built by Vite and by webpack", async () => {
  const { build } = await import("vite");
  const outDir = join(folder, "small-vite");
  const input = join(here, "small.js");
  await build({ root: here, logLevel: "error", build: { outDir, rolldownOptions: { input } } });
  const { default: webpack } = await import("webpack");
  const path = join(folder, "small-webpack");
  const mode = "production";
  const stats = await promisify(webpack)({ mode, context: here, entry: input, output: { path } });
  assert.ok(!stats.hasErrors(), stats.toString({ all: false, errors: true }));
  for (const at of [outDir, path]) {
    assert.match(scripts(at), /UNCONFIRMED/);
    assert.doesNotMatch(scripts(at), PARTS);
  }
});

it("is rendered by Next.js from a server component, and connects nothing there", async () => {
  const app = join(here, "app");
  await run(app, tool("next"), "build");
  const port = await freePort();
  const server = spawn(tool("next"), ["start", "--port", String(port)], {
    cwd: app,
    stdio: "ignore",
  });
  try {
    const get = () =>
      fetch(`http://127.0.0.1:${port}/`).then(
        (page) => page.text(),
        () => "",
      );
    const page = await until(get, "the page", 120_000);
    assert.match(page, /role="status"[^>]*>Connecting…</);
    assert.match(page, />lobby: on the way, 0 people</);
    assert.doesNotMatch(page.match(/<span class="heartline-status".*?<\/svg>/)[0], /style=/);
  } finally {
    server.kill("SIGTERM");
    await once(server, "exit");
  }
});

for (const [name, args] of [
  ["deno", ["run", "--allow-all", "--node-modules-dir=manual"]],
  ["bun", ["run"]],
])
  it(`talks in ${name}, and in a worker there`, async () => {
    const node = await serve();
    try {
      const said = await run(here, tool(name), ...args, "main.mjs", node.live, token("ann"));
      assert.equal(said, "here: hello\nin a worker: hello\n");
    } finally {
      await node.kill();
    }
  });
