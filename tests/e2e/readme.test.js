// The README's examples, as they stand there, against a node as `make serve` starts it.
import assert from "node:assert/strict";
import { execFile } from "node:child_process";
import { readFileSync } from "node:fs";
import { after, before, describe, it } from "node:test";
import { promisify } from "node:util";
import { io } from "socket.io-client";
import WebSocket from "ws";
import { serve, until } from "./lib/server.js";

const README = readFileSync(new URL("../../README.md", import.meta.url), "utf8");

/** The first block after these words, with this node's ports in place of the usual ones. */
function block(words) {
  const from = README.indexOf(words);
  assert.ok(from >= 0, `the README says ${words}`);
  const [, code] = README.slice(from).match(/^```\w*\n([^]*?)^```$/m);
  const api = new URL(node.admin).port;
  return code.replaceAll(":8080", `:${node.port}`).replaceAll(":9090", `:${api}`);
}

/** Runs an example; its socket, and what it writes to the console. */
async function run(words, names) {
  const written = [];
  const console = { log: (...line) => written.push(line) };
  // What it imports is given.
  const code = block(words).replace(/^import .*\n/gm, "");
  const given = { ...names, TOKEN: token(), console };
  const body = `return (async () => {${code}\nreturn socket;})()`;
  const socket = await new Function(...Object.keys(given), body)(...Object.values(given));
  return { socket, written };
}

let node;
// As it is printed at the start.
const token = () => node.out.match(/^ *(eyJ[\w.-]+)$/m)[1];

describe("the README's example", { timeout: 180000 }, () => {
  before(async () => (node = await serve({}, { dev: true })));
  after(() => node.kill());

  it("for Socket.IO is connected, and hears what it says", async () => {
    const { socket, written } = await run("**Socket.IO**, with the client you have", { io });
    try {
      const both = () => written.length >= 2;
      await until(both, "the greeting and the message");
      assert.deepEqual(written, [
        ["connected as", "alice"],
        ["alice", "hello"],
      ]);
    } finally {
      socket.disconnect();
    }
  });

  it("for a plain WebSocket subscribes, and hears what it publishes", async () => {
    const { socket, written } = await run("**Live**, with the browser's own", { WebSocket });
    try {
      await until(() => written.length > 0, "its own event");
      assert.deepEqual(written, [[1, { x: 1 }]]);
      socket.close(1000);
      await until(() => written.length > 1, "the end");
      assert.deepEqual(written[1], ["closed with", 1000]);
    } finally {
      socket.terminate();
    }
  });

  it("for a backend publishes to a room, and knows who is there", async () => {
    const { stdout } = await promisify(execFile)("sh", ["-ec", block("**From a backend:**")]);
    assert.match(stdout, /^\{"delivered":\d+\}\s*\{.*"userId":"alice"/);
  });
});
