// The Debian package: into a root folder of its own and out again, without touching this machine.
import assert from "node:assert/strict";
import { chmodSync, existsSync, mkdirSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { test } from "node:test";
import {
  AS_ROOT, IS_ROOT, SECRET, folder, freePort, output, packed, run, serve, tree, version,
} from "./lib.js";

/** A root folder with dpkg's own files and nothing else. */
function emptyRoot(t) {
  const root = folder(t);
  for (const path of ["info", "updates"]) {
    mkdirSync(join(root, "var/lib/dpkg", path), { recursive: true });
  }
  writeFileSync(join(root, "var/lib/dpkg/status"), "");
  return root;
}

/** dpkg on that root. The package's scripts run outside it: there is no shell within. */
const dpkg = (root, ...command) =>
  output([...AS_ROOT, "dpkg", "--root", root, "--force-script-chrootless", "--force-depends",
    "--force-bad-path", ...command]);

/** What there is in the root, apart from dpkg's own files. */
const content = (root) =>
  tree(root).filter((path) => !path.startsWith("var/lib/dpkg") && !/^var(\/lib)?$/.test(path));

test("the package says what it is, and depends on no more than glibc", () => {
  const field = (name) => output(["dpkg-deb", "--field", packed(".deb"), name]).trim();
  assert.equal(field("Package"), "heartline");
  assert.equal(field("Version"), version().replace("-", "~"));
  assert.match(field("Depends"), /^(libc6 \(>= 2\.\d+\), libgcc-s1)?$/);
});

test("an installed node serves and ends with 0; after a purge nothing is left", async (t) => {
  const root = emptyRoot(t);
  const said = dpkg(root, "--install", packed(".deb"));
  assert.match(said, /not started yet/);
  const binary = join(root, "usr/bin/heartline");
  const config = join(root, "etc/heartline/heartline.toml");
  assert.equal(output([binary, "--version"]), `heartline ${version()}\n`);
  assert.match(run([binary, "config", "check", "--config", config]).stderr, /no authentication/);

  const port = await freePort();
  writeFileSync(config, readFileSync(config, "utf8")
    .replace(/^#secret = .*$/m, `secret = "${SECRET}"`)
    .replace(/^#listen = "0.*$/m, `listen = "127.0.0.1:${port}"`)
    .replace(/^#listen = "127.*$/m, 'listen = "127.0.0.1:0"'));
  const good = run([binary, "config", "check", "--config", config]);
  assert.deepEqual([good.status, good.stderr], [0, ""]);
  const node = await serve(t, [binary, "serve", "--config", config], port);
  assert.deepEqual(await node.stop(), { code: 0, signal: null });

  const mine = readFileSync(config, "utf8");
  assert.doesNotMatch(dpkg(root, "--install", packed(".deb")), /not started yet/);
  assert.equal(readFileSync(config, "utf8"), mine, "an upgrade leaves the configuration");
  mkdirSync(join(root, "var/lib/heartline"), { recursive: true });
  writeFileSync(join(root, "etc/heartline/heartline.env"), "HEARTLINE__ADMIN__TOKEN=x\n");
  dpkg(root, "--remove", "heartline");
  assert.ok(!existsSync(binary));
  assert.equal(readFileSync(config, "utf8"), mine, "a removal leaves the configuration");
  dpkg(root, "--purge", "heartline");
  assert.deepEqual(content(root), []);
});

/** A folder with a `systemctl` that only notes what it is asked. */
function noting(t) {
  const root = folder(t);
  writeFileSync(join(root, "systemctl"), '#!/bin/sh\necho "$*" >>"$NOTES"\n');
  chmodSync(join(root, "systemctl"), 0o755);
  return root;
}

// A /run of their own, in which systemd seems to run.
const WITH_SYSTEMD = ["unshare", "--mount", ...(IS_ROOT ? [] : ["--map-root-user"]), "sh", "-c",
  'mount -t tmpfs none /run && mkdir -p /run/systemd/system && exec "$@"', "-"];

test(
  "a new installation starts nothing, an upgrade restarts what runs, a removal ends it",
  {
    skip: run([...WITH_SYSTEMD, "true"]).status !== 0 &&
      "`unshare --mount` is forbidden here: run this where it is not",
  },
  (t) => {
    const root = noting(t);
    const NOTES = join(root, "notes");
    output(["dpkg-deb", "--control", packed(".deb"), join(root, "control")]);
    const asked = (script, ...words) => {
      writeFileSync(NOTES, "");
      const PATH = `${root}:${process.env.PATH}`;
      output([...WITH_SYSTEMD, join(root, "control", script), ...words], { env: { NOTES, PATH } });
      return readFileSync(NOTES, "utf8").split("\n").filter(Boolean);
    };
    assert.deepEqual(asked("postinst", "configure", ""), ["daemon-reload"]);
    assert.deepEqual(asked("postinst", "configure", "0.0.1"),
      ["daemon-reload", "try-restart heartline.service"]);
    assert.deepEqual(asked("prerm", "upgrade", "9.9.9"), []);
    assert.deepEqual(asked("prerm", "remove"), ["disable --now heartline.service"]);
    assert.deepEqual(asked("postrm", "upgrade", "9.9.9"), []);
    assert.deepEqual(asked("postrm", "remove"), ["daemon-reload"]);
  },
);
