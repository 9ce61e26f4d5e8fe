// The archive, its symbols, the sums, and the example configuration in it.
import assert from "node:assert/strict";
import { chmodSync, copyFileSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { test } from "node:test";
import {
  BINARY, DIST, IS_ROOT, ROOT, SECRET, connect, folder, freePort, output, packed, run, serve, tree,
  version,
} from "./lib.js";

const EXAMPLE = readFileSync(join(ROOT, "packaging/heartline.toml"), "utf8");

/** Unpacks the archive, and its symbols if wanted; the folder that is in it. */
function unpack(t, ...endings) {
  const root = folder(t);
  for (const ending of endings) {
    output(["tar", "--extract", "--file", packed(ending), "--directory", root]);
  }
  const [top] = tree(root);
  return join(root, top);
}

/** The version of a crate that Cargo.lock names. */
const lockedAt = (name) =>
  readFileSync(join(ROOT, "Cargo.lock"), "utf8").match(
    new RegExp(`^name = "${name}"\nversion = "(?<version>.*)"`, "m"),
  ).groups;

test("the archive has the binary of this version, its licence, a configuration and a unit", (t) => {
  const root = unpack(t, "-linux.tar.gz");
  const names = tree(root);
  const wanted = ["LICENSE", "README.md", "THIRD-PARTY", "docs/install.md", "heartline",
    "heartline.service", "heartline.toml"];
  for (const name of wanted) assert.ok(names.includes(name), `${name} in: ${names}`);
  assert.equal(output([join(root, "heartline"), "--version"]), `heartline ${version()}\n`);
});

test("archive and package say what of others is in the binary, with its licences", (t) => {
  const said = readFileSync(join(DIST, "THIRD-PARTY"), "utf8");
  for (const name of ["rusqlite", "libsqlite3-sys", "ring", "tokio", "tikv-jemallocator"]) {
    const { version } = lockedAt(name);
    assert.match(said, new RegExp(`^${name} +${version.replaceAll(".", "\\.")} +[A-Z]`, "m"));
    assert.match(said, new RegExp(`^${name} ${version.replaceAll(".", "\\.")}: LICENSE`, "m"));
  }
  for (const words of [/^SQLite, .*public domain/m, /^musl, .*MIT/m,
    /Copyright .*Tokio Contributors/, /Apache License\s+Version 2\.0/,
    /Permission is hereby granted, free of charge/]) {
    assert.match(said, words);
  }
  assert.doesNotMatch(said, /^heartline(-\w+)? +\d/m);
  assert.doesNotMatch(said, /\/(home|root|tmp)\//);
  assert.equal(readFileSync(join(unpack(t, "-linux.tar.gz"), "THIRD-PARTY"), "utf8"), said);
  const root = folder(t);
  output(["dpkg-deb", "--extract", packed(".deb"), root]);
  assert.equal(readFileSync(join(root, "usr/share/doc/heartline/THIRD-PARTY"), "utf8"), said);
});

test("the sums are those of the archives and the package", () => {
  const sums = output(["sha256sum", "--check", "SHA256SUMS"], { cwd: DIST });
  assert.equal(sums.match(/: OK$/gm).length, 3, sums);
});

test("who packs the same binary again gets the same bytes", (t) => {
  const again = folder(t);
  output([join(ROOT, "scripts/dist"), BINARY, again]);
  const sums = (path) => readFileSync(join(path, "SHA256SUMS"), "utf8");
  assert.equal(sums(again), sums(DIST));
});

test("the binary carries no symbols", () => {
  const sections = output(["readelf", "--sections", "--wide", BINARY]);
  assert.doesNotMatch(sections, /\.debug_info|\.symtab/);
  assert.match(sections, /\.gnu_debuglink/);
});

/** What a node prints when the system lets it have too few threads: a panic and its backtrace. */
function panic(binary) {
  // A user that has no other processes; how many threads it takes to that panic depends on what
  // starts threads before.
  const user = `${200_000 + process.pid}`;
  for (let threads = 2; threads < 10; threads++) {
    const { stderr } = run(
      ["setpriv", `--reuid=${user}`, "--clear-groups", "prlimit", `--nproc=${threads}`, binary,
        "serve", "--dev", "--set", "server.listen=127.0.0.1:0", "--set", "admin.listen=127.0.0.1:0"],
      { env: { RUST_BACKTRACE: "1" }, timeout: 10_000, killSignal: "SIGKILL" },
    );
    if (/spawn worker thread/.test(stderr)) return stderr;
  }
  throw new Error("no number of threads made it panic");
}

test(
  "a backtrace names lines of the source as soon as the symbols lie beside the binary",
  { skip: !IS_ROOT && "only root can take a user with no other processes: run this as root" },
  (t) => {
    const root = unpack(t, "-linux.tar.gz", "-symbols.tar.gz");
    chmodSync(join(root, ".."), 0o755);
    const binary = join(root, "heartline");
    assert.match(panic(binary), /crates\/server\/src\/serve\.rs:\d+/);
    rmSync(`${binary}.debug`);
    assert.doesNotMatch(panic(binary), /crates\/server\/src\/serve\.rs:\d+/);
  },
);

const check = (path, env) => run([BINARY, "config", "check", "--config", path], { env });

test("the example configuration is good, and says what is missing until it is set", (t) => {
  const path = join(folder(t), "heartline.toml");
  writeFileSync(path, EXAMPLE);
  const missing = check(path);
  assert.equal(missing.status, 0, missing.stderr);
  assert.match(missing.stderr, /no authentication is configured/);
  writeFileSync(path, EXAMPLE.replace("#secret =", "secret ="));
  const good = check(path);
  assert.deepEqual([good.status, good.stderr], [0, ""]);
});

test("every line of the example that is commented out can be used", (t) => {
  const root = folder(t);
  const path = join(root, "heartline.toml");
  // Files that it names need not be on this machine; of the three ways to check tokens one is used,
  // and of a journal and a cluster one, because a journal is for a node alone.
  const parts = { journal: /^#journal = .*$/m, cluster: /^\[cluster\]\n(#.*\n)+/m };
  for (const [name, part] of Object.entries(parts)) {
    assert.match(EXAMPLE, part, name);
    const used = EXAMPLE.replace(part, "").replace(/^#(?=[a-z[])(?!tls\.|public_key|secret)/gm, "");
    assert.match(used, /^jwks_url = /m);
    assert.match(used, /^\[namespaces/m);
    writeFileSync(path, used);
    const good = check(path);
    assert.deepEqual([good.status, good.stderr], [0, ""]);
  }
});

test("a node from the archive serves with the example configuration and ends with 0", async (t) => {
  const root = unpack(t, "-linux.tar.gz");
  const port = await freePort();
  const node = await serve(
    t,
    [join(root, "heartline"), "serve", "--config", join(root, "heartline.toml")],
    port,
    {
      HEARTLINE__AUTH__JWT__SECRET: SECRET,
      HEARTLINE__SERVER__LISTEN: `127.0.0.1:${port}`,
      HEARTLINE__ADMIN__LISTEN: "127.0.0.1:0",
    },
  );
  const token = output([join(root, "heartline"), "token", "--set", `auth.jwt.secret=${SECRET}`,
    "--user", "ann"]).trim();
  assert.match(await connect(node.http, token), /^40\{"sid"/);
  assert.deepEqual(await node.stop(), { code: 0, signal: null });
});
