// The image that packaging/Containerfile describes: its files are put together here as its lines
// say, or by buildah where that is installed, and the node runs with nothing but these files.
import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { generateKeyPairSync, sign } from "node:crypto";
import { once } from "node:events";
import {
  chmodSync, chownSync, cpSync, existsSync, mkdirSync, mkdtempSync, readFileSync, rmSync,
  writeFileSync,
} from "node:fs";
import { createServer } from "node:https";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import { before, test } from "node:test";
import {
  AS_ROOT, BINARY, DIST, IS_ROOT, ROOT, SECRET, connect, folder, freePort, needs, output, run,
  serve, tree, until,
} from "./lib.js";

const CONTAINERFILE = join(ROOT, "packaging/Containerfile");

/** The stages of a Containerfile, each with its base, its name and its instructions. */
function stages(text, args) {
  const found = [];
  const lines = text.replace(/^#.*\n/gm, "").replace(/\\\n/g, " ").split("\n").filter(Boolean);
  for (const line of lines) {
    const [, word, rest] = line.match(/^([A-Z]+) +(.*)$/);
    const words = rest.replace(/\$\{(\w+)\}/g, (_, name) => args[name]).trim().split(/ +/);
    if (word === "ARG") args = { [words[0].split("=")[0]]: words[0].split("=")[1], ...args };
    else if (word === "FROM") found.push({ base: words[0], name: words[2], lines: [] });
    else found.at(-1).lines.push({ word, words, rest });
  }
  return found;
}

/** Puts the files of a stage below `root`; `outside` are folders for stages of other images. */
function assemble(all, stage, root, outside) {
  const base = all.find(({ name }) => name === stage.base);
  if (base) assemble(all, base, root, outside);
  else assert.equal(stage.base, "scratch", `this test cannot make the base ${stage.base}`);
  for (const { word, words, rest } of stage.lines) {
    if (["USER", "EXPOSE", "ENV", "STOPSIGNAL", "ENTRYPOINT", "CMD"].includes(word)) continue;
    assert.equal(word, "COPY", `this test does not know how to do: ${word} ${rest}`);
    const from = words[0].match(/^--from=(.*)$/)?.[1];
    const [source, target] = words.slice(from ? 1 : 0);
    const path = join(root, target);
    mkdirSync(dirname(path), { recursive: true });
    const packed = source.startsWith("dist/");
    if (!from) cpSync(packed ? join(DIST, source.slice(5)) : join(ROOT, source), path);
    else if (outside[from]) cpSync(join(outside[from], source), path);
    else {
      const other = mkdtempSync(join(tmpdir(), "heartline-stage-"));
      assemble(all, all.find(({ name }) => name === from), other, outside);
      cpSync(join(other, source), path);
      rmSync(other, { recursive: true });
    }
  }
}

const all = stages(readFileSync(CONTAINERFILE, "utf8"), { BINARY: "packed" });
const image = all.at(-1);
const value = (word) => image.lines.find((line) => line.word === word)?.rest;

/** What the image's processes find in their environment; nothing of where its messages are. */
const ENVIRONMENT = {
  HEARTLINE__STORE__URL: undefined,
  ...Object.fromEntries(image.lines.filter(({ word }) => word === "ENV")
    .map(({ rest }) => [rest.split("=")[0], rest.slice(rest.indexOf("=") + 1)])),
};

/** An authority of our own and a certificate of it for localhost, made by openssl. */
function authority(path) {
  const openssl = (...words) => output(["openssl", ...words], { cwd: path });
  const key = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"];
  openssl("req", "-x509", ...key, "-keyout", "ca.key", "-out", "ca.pem", "-subj", "/CN=Tests",
    "-days", "2");
  writeFileSync(join(path, "names"), "subjectAltName=DNS:localhost\n");
  openssl("req", ...key, "-keyout", "key.pem", "-out", "request.pem", "-subj", "/CN=localhost");
  openssl("x509", "-req", "-in", "request.pem", "-CA", "ca.pem", "-CAkey", "ca.key",
    "-CAcreateserial", "-out", "cert.pem", "-days", "2", "-extfile", "names");
}

let made, keys, assembled;
before(() => {
  made = mkdtempSync(join(tmpdir(), "heartline-image-"));
  process.on("exit", () => rmSync(made, { recursive: true, force: true }));
  keys = join(made, "keys");
  mkdirSync(keys);
  authority(keys);
  // The stage of certificates needs Debian's image; here its one file holds our authority.
  const certificates = join(made, "certificates");
  mkdirSync(join(certificates, "etc/ssl/certs"), { recursive: true });
  cpSync(join(keys, "ca.pem"), join(certificates, "etc/ssl/certs/ca-certificates.crt"));
  assembled = join(made, "root");
  assemble(all, image, assembled, { certificates });
});

/** What a container's runtime adds, and what a binary needs that is not static. */
function complete(root) {
  mkdirSync(join(root, "etc"), { recursive: true });
  writeFileSync(join(root, "etc/hosts"), "127.0.0.1 localhost\n::1 localhost\n");
  const needs = run(["ldd", BINARY]).stdout;
  for (const [path] of needs.matchAll(/\/\S+\.so\S*/g)) {
    mkdirSync(join(root, dirname(path)), { recursive: true });
    cpSync(path, join(root, path), { dereference: true });
  }
  return root;
}

/** The image's command, in these files and as the image's user. */
const inside = (root) => [...AS_ROOT, "chroot", ...(IS_ROOT ? [`--userspec=${value("USER")}`] : []),
  root, ...JSON.parse(value("ENTRYPOINT")), ...JSON.parse(value("CMD"))];

/** Serves a key set over HTTPS on localhost, with a certificate of our authority. */
async function keySet(t, key) {
  const jwk = { ...key.export({ format: "jwk" }), kid: "k", use: "sig", alg: "EdDSA" };
  const server = createServer(
    { key: readFileSync(join(keys, "key.pem")), cert: readFileSync(join(keys, "cert.pem")) },
    (_, response) => response.end(JSON.stringify({ keys: [jwk] })),
  );
  server.listen(0, "localhost");
  await once(server, "listening");
  t.after(() => server.close());
  return `https://localhost:${server.address().port}/keys`;
}

const part = (value) => Buffer.from(JSON.stringify(value)).toString("base64url");

/** A node in `root` serves as a user without rights, and trusts what the authorities sign. */
async function serves(t, root) {
  const { publicKey, privateKey } = generateKeyPairSync("ed25519");
  const port = await freePort();
  const node = await serve(t, inside(complete(root)), port, {
    ...ENVIRONMENT,
    HEARTLINE__SERVER__LISTEN: `127.0.0.1:${port}`,
    HEARTLINE__ADMIN__LISTEN: "127.0.0.1:0",
    HEARTLINE__AUTH__JWT__JWKS_URL: await keySet(t, publicKey),
  });
  if (IS_ROOT) {
    await until(() => /messages are kept in memory/.test(node.log), "where messages are");
    const status = readFileSync(`/proc/${node.child.pid}/status`, "utf8");
    assert.match(status, /^Uid:\t65532\t/m);
  }
  const said = `${part({ alg: "EdDSA", kid: "k" })}.${part({ sub: "ann", exp: Date.now() })}`;
  const token = `${said}.${sign(null, Buffer.from(said), privateKey).toString("base64url")}`;
  assert.match(await connect(node.http, token), /^40\{"sid"/, node.log);
  assert.deepEqual(await node.stop(), { code: 0, signal: null });
}

test("the image's files are enough for a node, also for keys over HTTPS", async (t) => {
  assert.deepEqual(tree(assembled).filter((path) => !/^etc(\/ssl(\/certs)?)?$/.test(path)),
    ["LICENSE", "THIRD-PARTY", "etc/ssl/certs/ca-certificates.crt", "heartline"]);
  const root = join(folder(t), "root");
  cpSync(assembled, root, { recursive: true });
  await serves(t, root);
});

test("where a mounted file says that messages are, they are", async (t) => {
  const root = join(folder(t), "root");
  cpSync(assembled, root, { recursive: true });
  const messages = join(root, "messages");
  mkdirSync(messages);
  if (IS_ROOT) chownSync(messages, ...value("USER").split(":").map(Number));
  writeFileSync(join(root, "heartline.toml"),
    '[store]\nurl = "sqlite:///messages/heartline.db"\n');
  const port = await freePort();
  const command = [...inside(complete(root)), "--config", "/heartline.toml"];
  const node = await serve(t, command, port, {
    ...ENVIRONMENT,
    HEARTLINE__SERVER__LISTEN: `127.0.0.1:${port}`,
    HEARTLINE__ADMIN__LISTEN: "127.0.0.1:0",
    HEARTLINE__AUTH__JWT__SECRET: SECRET,
  });
  assert.ok(existsSync(join(messages, "heartline.db")), node.log);
  assert.deepEqual(await node.stop(), { code: 0, signal: null });
});

test(
  "within these files a node finds Redis on localhost",
  needs("redis-server"),
  async (t) => {
    const root = join(folder(t), "root");
    cpSync(assembled, root, { recursive: true });
    const redis = await freePort();
    const server = spawn("redis-server", ["--port", `${redis}`, "--save", "", "--bind", "127.0.0.1"],
      { stdio: "ignore" });
    t.after(() => server.kill());
    const [port, admin] = [await freePort(), await freePort()];
    const node = await serve(t, inside(complete(root)), port, {
      HEARTLINE__SERVER__LISTEN: `127.0.0.1:${port}`,
      HEARTLINE__ADMIN__LISTEN: `127.0.0.1:${admin}`,
      HEARTLINE__AUTH__JWT__SECRET: SECRET,
      HEARTLINE__CLUSTER__URL: `redis://localhost:${redis}`,
    });
    const registered = () => run(["redis-cli", "-p", `${redis}`, "keys", "{hl}:nodes"]).stdout.trim();
    await until(registered, "the node in Redis");
    const ready = async () => (await fetch(`http://127.0.0.1:${admin}/readyz`)).ok;
    await until(ready, "ready");
    assert.deepEqual(await node.stop(), { code: 0, signal: null });
  },
);

test(
  "within these files a node keeps conversations in PostgreSQL on localhost",
  needs("initdb=postgresql"),
  async (t) => {
    const root = join(folder(t), "root");
    cpSync(assembled, root, { recursive: true });
    const data = mkdtempSync(join(made, "postgres-"));
    chmodSync(made, 0o755); // PostgreSQL is another user's
    const postgres = (...words) => output([join(ROOT, "scripts/test-postgres"), ...words]).trim();
    const url = postgres("start", data, `${await freePort()}`);
    t.after(() => postgres("stop", data, "immediate"));
    const [port, admin] = [await freePort(), await freePort()];
    const node = await serve(t, inside(complete(root)), port, {
      HEARTLINE__SERVER__LISTEN: `127.0.0.1:${port}`,
      HEARTLINE__ADMIN__LISTEN: `127.0.0.1:${admin}`,
      HEARTLINE__AUTH__JWT__SECRET: SECRET,
      HEARTLINE__STORE__URL: url.replace("127.0.0.1", "localhost"),
    });
    const members = `http://127.0.0.1:${admin}/v1/conversations/c/members`;
    const added = await fetch(`${members}/ann`, { method: "PUT" });
    assert.ok(added.ok, await added.text());
    assert.match(await (await fetch(members)).text(), /"ann"/);
    assert.deepEqual(await node.stop(), { code: 0, signal: null });
  },
);

/** What a test with buildah needs; before 1.27 buildah could not be given the certificates. */
const BUILDAH = !IS_ROOT
  ? { skip: "buildah works here for root alone: run this as root" }
  : needs("buildah", () => / --build-context /.test(run(["buildah", "build", "--help"]).stdout));

/** buildah with a storage of its own below `made`. */
const buildah = (...words) => output(["buildah", "--storage-driver=vfs",
  `--root=${join(made, "storage")}`, `--runroot=${join(made, "run")}`, ...words]);

test("buildah makes that image of it", BUILDAH, async (t) => {
  const context = folder(t);
  mkdirSync(join(context, "dist"));
  for (const name of ["heartline", "THIRD-PARTY"]) {
    cpSync(join(DIST, name), join(context, "dist", name));
  }
  for (const path of ["LICENSE", ".dockerignore"]) cpSync(join(ROOT, path), join(context, path));
  buildah("build", "--isolation=chroot", "--pull-never", `--file=${CONTAINERFILE}`,
    "--build-arg=BINARY=packed", `--build-context=certificates=${join(made, "certificates")}`,
    "--tag=heartline", context);
  const { OCIv1: { config } } = JSON.parse(buildah("inspect", "--type=image", "heartline"));
  assert.deepEqual(
    [config.User, config.StopSignal, config.ExposedPorts, config.Entrypoint, config.Cmd],
    ["65532:65532", "SIGTERM", { "8080/tcp": {} }, ["/heartline"], ["serve"]],
  );
  const container = buildah("from", "--pull-never", "heartline").trim();
  const root = buildah("mount", container).trim();
  assert.deepEqual(tree(root), tree(assembled));
  await serves(t, root);
});

test(
  "the stage that builds is given all that cargo needs, and no more",
  BUILDAH,
  (t) => {
    const root = folder(t);
    writeFileSync(join(root, "Containerfile"), "FROM scratch\nCOPY . /\n");
    buildah("build", `--file=${join(root, "Containerfile")}`, "--tag=context", ROOT);
    const copied = buildah("mount", buildah("from", "--pull-never", "context").trim()).trim();
    output(["cargo", "metadata", "--offline", "--locked", "--format-version=1", "--no-deps"],
      { cwd: copied });
    const tops = new Set(tree(copied).map((path) => path.split("/")[0]));
    assert.deepEqual([...tops].filter((name) => name !== "dist"),
      ["Cargo.lock", "Cargo.toml", "LICENSE", "crates", "examples", "packaging", "scripts"]);
  },
);
