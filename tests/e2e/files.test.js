// The browser client's files beside the endpoint, from the folder of the npm package.
import assert from "node:assert/strict";
import { readFile } from "node:fs/promises";
import { dirname, join } from "node:path";
import { after, before, describe, it } from "node:test";
import { fileURLToPath } from "node:url";
import { serve } from "./lib/server.js";

const BUILD = dirname(fileURLToPath(import.meta.resolve("socket.io-client")));
const DIST = join(BUILD.slice(0, BUILD.indexOf("/build/")), "dist");

describe("the client's files", () => {
  let node;
  before(async () => (node = await serve({ "server.client_files": DIST })));
  after(() => node.stop());

  it("are those of the package, and come once", async () => {
    for (const name of ["socket.io.js", "socket.io.min.js", "socket.io.esm.min.js", "socket.io.msgpack.min.js", "socket.io.min.js.map"]) {
      const url = `${node.http}/socket.io/${name}`;
      const answer = await fetch(url);
      assert.equal(answer.status, 200, name);
      assert.equal(await answer.text(), await readFile(join(DIST, name), "utf8"), name);
      const etag = answer.headers.get("etag");
      const again = await fetch(url, { headers: { "if-none-match": etag } });
      assert.equal(again.status, 304, name);
    }
  });

  it("are the listed ones alone", async () => {
    for (const name of ["package.json", "..%2fpackage.json", "socket.io.js.bak"]) {
      const answer = await fetch(`${node.http}/socket.io/${name}`);
      await answer.arrayBuffer();
      assert.ok([400, 404].includes(answer.status), `${name}: ${answer.status}`);
    }
  });
});
