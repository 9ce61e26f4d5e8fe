// The example app, with the events it makes up itself.
import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { once } from "node:events";
import { after, before, it } from "node:test";
import { fileURLToPath } from "node:url";
import { Socket } from "./lib.js";

let child, url;
before(async () => {
  const folder =
    process.env.EXAMPLES ??
    fileURLToPath(new URL("../../target/release/examples", import.meta.url));
  child = spawn(`${folder}/chat`, ["--listen", "127.0.0.1:0"], {
    stdio: ["ignore", "pipe", "inherit"],
  });
  const [line] = await once(child.stdout, "data");
  url = String(line).match(/127\.0\.0\.1:\d+/)[0];
});
after(async () => {
  child.kill("SIGKILL");
  await once(child, "exit");
});

async function enter(name) {
  const socket = new Socket(`ws://${url}/socket.io/?EIO=4&transport=websocket`);
  await socket.next();
  socket.send("40");
  await socket.next();
  assert.match(await socket.next(), /server:hello/);
  socket.send(`420["enter",{"name":"${name}"}]`);
  return { socket, here: JSON.parse((await socket.next()).slice(3))[0] };
}

it("lets people enter, speak and leave", async () => {
  const ann = await enter("ann");
  assert.deepEqual(ann.here, ["ann"]);
  const bob = await enter("bob");
  assert.deepEqual(bob.here.sort(), ["ann", "bob"]);
  bob.socket.send('42["say",{"text":"hello"}]');
  for (const { socket } of [ann, bob])
    assert.equal(await socket.next(), '42["said",{"name":"bob","text":"hello"}]');
  bob.socket.terminate();
  assert.equal(await ann.socket.next(), '42["left","bob"]');
  ann.socket.send('421["say",{"nothing":1}]');
  assert.match(await ann.socket.next(), /"code":"INVALID_DATA"/);
  ann.socket.terminate();
});
