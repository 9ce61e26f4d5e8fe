// The package as npm packs it from a clean checkout, and as others use it.
import assert from "node:assert/strict";
import { execFile } from "node:child_process";
import {
  cpSync,
  mkdirSync,
  mkdtempSync,
  readFileSync,
  rmSync,
  symlinkSync,
  writeFileSync,
} from "node:fs";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import { after, before, describe, it } from "node:test";
import { promisify } from "node:util";
import { checkPackage, createPackageFromTarballData } from "@arethetypeswrong/core";
import { build } from "esbuild";
import { publint } from "publint";

const here = join(import.meta.dirname, "..");
const folder = mkdtempSync(join(tmpdir(), "heartline-package-"));
const clone = join(folder, "clone", "clients", "js");
const consumer = join(folder, "consumer");
const installed = join(consumer, "node_modules", "@heartline", "client");
after(() => rmSync(folder, { recursive: true, force: true }));

const run = (cwd, command, ...args) =>
  promisify(execFile)(command, args, { cwd, timeout: 60_000 }).catch((error) =>
    assert.fail(`${command} ${args.join(" ")}: ${error.stdout}${error.stderr}`),
  );
const node = (...args) => run(consumer, process.execPath, ...args);
const manifest = (at) => JSON.parse(readFileSync(join(at, "package.json"), "utf8"));
const ENTRIES = Object.keys(manifest(here).exports).filter((entry) => entry !== "./package.json");
const specifier = (entry) => `@heartline/client${entry.slice(1)}`;

/** Compiles a program as strictly as can be. */
function check(file, options, text) {
  const compilerOptions = {
    module: "NodeNext",
    target: "ES2022",
    strict: true,
    exactOptionalPropertyTypes: true,
    types: [],
    noEmit: true,
    ...options,
  };
  writeFileSync(join(consumer, file), text);
  writeFileSync(join(consumer, `${file}.json`), JSON.stringify({ compilerOptions, files: [file] }));
  return node(join(here, "node_modules", "typescript", "bin", "tsc"), "-p", `${file}.json`);
}

let tarball, files;
before(async () => {
  for (const name of ["src", "README.md", "build.js", "package.json", "tsconfig.json"])
    cpSync(join(here, name), join(clone, name), { recursive: true });
  cpSync(join(here, "../../LICENSE"), join(folder, "clone", "LICENSE"));
  symlinkSync(join(here, "node_modules"), join(clone, "node_modules"));
  await run(clone, "git", "init", "--quiet");
  await run(clone, "git", "remote", "add", "origin", "git@forge.example:team/heartline.git");
  const { stdout } = await run(clone, "npm", "pack", "--json", "--pack-destination", folder);
  const [packed] = JSON.parse(stdout.slice(stdout.indexOf("[\n")));
  files = packed.files.map(({ path }) => path);
  tarball = readFileSync(join(folder, packed.filename));
  mkdirSync(dirname(installed), { recursive: true });
  await run(folder, "tar", "-xf", packed.filename);
  cpSync(join(folder, "package"), installed, { recursive: true });
  for (const name of ["@types", "react", "socket.io-client", "svelte", "vue"])
    symlinkSync(join(here, "node_modules", name), join(consumer, "node_modules", name));
});

describe("what is packed", () => {
  it("is all that is exported, the license, and no source that is not the package's", () => {
    const used = JSON.stringify(manifest(here).exports).match(/dist\/[\w/]+\.js/g);
    const missing = [...used, "LICENSE", "README.md"].filter((file) => !files.includes(file));
    assert.deepEqual(missing, []);
    const other = files.filter(
      (file) =>
        !/^(dist\/.*\.(js|js\.map|d\.ts|json)|LICENSE|README\.md|package\.json)$/.test(file),
    );
    assert.deepEqual(other, []);
  });

  it("has maps that bring their sources", () => {
    const maps = files.filter((file) => file.endsWith(".map"));
    assert.ok(maps.length > 20);
    for (const file of maps) {
      const { sourcesContent } = JSON.parse(readFileSync(join(installed, file), "utf8"));
      assert.ok(sourcesContent?.[0]?.length > 0, file);
    }
  });

  it("names the repository that it was packed in, and leaves the checkout as it was", async () => {
    const { homepage, bugs, repository } = manifest(installed);
    assert.equal(homepage, "https://forge.example/team/heartline#readme");
    assert.equal(bugs, "https://forge.example/team/heartline/issues");
    assert.deepEqual(repository, {
      type: "git",
      url: "git+https://forge.example/team/heartline.git",
      directory: "clients/js",
    });
    assert.deepEqual(manifest(clone), manifest(here));
  });

  it("has a README whose links lead somewhere from wherever it is read", () => {
    const text = readFileSync(join(installed, "README.md"), "utf8");
    const links = [...text.matchAll(/\]\(([^)]+)\)/g)].map(([, link]) => link);
    assert.deepEqual(
      links.filter((link) => !/^https:\/\//.test(link)),
      [],
    );
  });

  it("is as publint wants it", async () => {
    const { messages } = await publint({
      pack: {
        tarball: tarball.buffer.slice(tarball.byteOffset, tarball.byteOffset + tarball.length),
      },
      strict: true,
    });
    assert.deepEqual(messages, []);
  });

  it("has types that are right, however they are looked for", async () => {
    const { problems } = await checkPackage(createPackageFromTarballData(tarball));
    assert.deepEqual(problems, []);
  });
});

describe("who uses it", () => {
  it("may import or require each part of it", async () => {
    writeFileSync(
      join(consumer, "all.mjs"),
      ENTRIES.map((entry) => `await import("${specifier(entry)}");`).join("\n"),
    );
    writeFileSync(
      join(consumer, "all.cjs"),
      `const { createClient, HeartlineError } = require("@heartline/client");
       const live = require("@heartline/client/live");
       if (live.HeartlineError !== HeartlineError) throw new Error("there are two of them");
       createClient("http://127.0.0.1:1", { autoConnect: false });
       ${ENTRIES.map((entry) => `require("${specifier(entry)}");`).join("\n")}`,
    );
    await Promise.all([node("all.mjs"), node("all.cjs")]);
  });

  it("has its types, as a module and with require, and may say which its events are", async () => {
    const page = `
      import { createClient, type State } from "@heartline/client";
      import { createClient as createLive } from "@heartline/client/live";
      import { watchUsers } from "@heartline/client/presence";
      import { inbox } from "@heartline/client/people";
      import { ConnectionStatus, useEvent, useHeartline, usePresence } from "@heartline/client/react";
      import { useRoom } from "@heartline/client/vue";
      import { room } from "@heartline/client/svelte";
      const heartline = createClient<{ "message:new": { content: string } }, { said: string }>("https://x.example");
      declare module "@heartline/client/react" {
        interface Register { client: typeof heartline }
      }
      export function Page() {
        useEvent("message:new", ({ content }) => content.length);
        useEvent("room:missed", ({ filled }) => !filled);
        // @ts-expect-error: no such event
        useEvent("message:old", () => {});
        // @ts-expect-error: no such field
        useEvent("message:new", ({ text }) => text);
        useHeartline().emit("said", "hi");
        // @ts-expect-error: no such event
        useHeartline().emit("sayd", "hi");
        return [ConnectionStatus, usePresence(["ann"]).get("ann")?.devices];
      }
      const state: State = heartline.state;
      export const all = [state, createLive, watchUsers, inbox, useRoom, room];`;
    writeFileSync(join(consumer, "package.json"), '{ "type": "module" }');
    writeFileSync(join(consumer, "page.mts"), page);
    writeFileSync(join(consumer, "page.cts"), page);
    await check("page.mts", { skipLibCheck: true }, page);
    await check("page.cts", { skipLibCheck: true }, page);
  });

  it("over live needs no types of a browser", () =>
    check(
      "bare.mts",
      { lib: ["ES2022"] },
      `
      import { createClient } from "@heartline/client/live";
      import { createClient as share } from "@heartline/client/shared";
      import { watchUsers } from "@heartline/client/presence";
      import { inbox } from "@heartline/client/people";
      import { openOutbox } from "@heartline/client/outbox";
      const token = async ({ signal }: { signal: AbortSignal }) => String(signal);
      const heartline = createClient("wss://x.example", { token });
      export const all = [heartline, share, watchUsers, inbox, openOutbox];`,
    ));

  it("over live alone has no socket.io-client in the bundle", async () => {
    const { metafile } = await build({
      stdin: {
        contents: 'export { createClient } from "@heartline/client/live";',
        resolveDir: consumer,
      },
      bundle: true,
      write: false,
      metafile: true,
      format: "esm",
    });
    assert.deepEqual(
      Object.keys(metafile.inputs).filter((input) => /socket\.io|engine/.test(input)),
      [],
    );
  });
});
