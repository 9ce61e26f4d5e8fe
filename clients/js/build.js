// Builds dist/: ES modules with types and maps, and in dist/cjs the same for whoever calls
// `require`. With --pack, also what belongs into the package and is elsewhere in the repository.
import { execFileSync } from "node:child_process";
import * as fs from "node:fs";
import { createRequire } from "node:module";
import { dirname, join } from "node:path";
import { build } from "esbuild";

const { copyFileSync, existsSync, readFileSync, readdirSync, renameSync, rmSync, writeFileSync } =
  fs;
const here = import.meta.dirname;
const at = (...path) => join(here, ...path);
const MANIFEST = at("package.json");
/** What is as it was before packing, once that is done. */
const KEPT = at("package.json.kept");
const LICENSE = at("LICENSE");

async function compile() {
  rmSync(at("dist"), { recursive: true, force: true });
  const tsc = join(
    dirname(createRequire(import.meta.url).resolve("typescript/package.json")),
    "bin/tsc",
  );
  execFileSync(process.execPath, [tsc, "-p", here], { stdio: "inherit" });
  const sources = readdirSync(at("src")).map((name) => at("src", name));
  await build({
    entryPoints: sources,
    outdir: at("dist", "cjs"),
    format: "cjs",
    target: "es2022",
    jsx: "automatic",
    sourcemap: true,
    logLevel: "warning",
  });
  for (const name of readdirSync(at("dist")).filter((name) => name.endsWith(".d.ts")))
    copyFileSync(at("dist", name), at("dist", "cjs", name));
  writeFileSync(at("dist", "cjs", "package.json"), '{ "type": "commonjs" }\n');
}

/** Where the repository is, as a web address; a checkout that came from nowhere does not say. */
function origin() {
  try {
    const url = execFileSync("git", ["remote", "get-url", "origin"], { cwd: here, stdio: "pipe" });
    return /^(?:https:\/\/|(?:ssh:\/\/)?git@)(?:[^@/]*@)?([^:/]+)[:/](.+?)(?:\.git)?\s*$/.exec(url);
  } catch {
    return undefined;
  }
}

/** A fork's package names the fork: what links to the repository is written when it is packed. */
function pack() {
  copyFileSync(at("../../LICENSE"), LICENSE);
  const [, host, path] = origin() ?? [];
  if (!host) return;
  copyFileSync(MANIFEST, KEPT);
  const web = `https://${host}/${path}`;
  const manifest = {
    ...JSON.parse(readFileSync(MANIFEST, "utf8")),
    homepage: `${web}#readme`,
    bugs: `${web}/issues`,
    repository: { type: "git", url: `git+${web}.git`, directory: "clients/js" },
  };
  writeFileSync(MANIFEST, `${JSON.stringify(manifest, null, 2)}\n`);
}

function packed() {
  rmSync(LICENSE, { force: true });
  if (existsSync(KEPT)) renameSync(KEPT, MANIFEST);
}

if (process.argv.includes("--packed")) packed();
else {
  await compile();
  if (process.argv.includes("--pack")) pack();
}
