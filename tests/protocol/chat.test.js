// The example app, with the events it makes up itself.
import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { once } from "node:events";
import { after, before, it } from "node:test";
import { fileURLToPath } from "node:url";
import { Socket, until } from "./lib.js";

let child, url;
before(async () => {
  const folder =
    process.env.EXAMPLES ??
    fileURLToPath(new URL("../../target/release/examples", import.meta.url));
  const flags = ["--listen", "127.0.0.1:0", "--moderator", "ann", "--backend", "secret"];
  child = spawn(`${folder}/chat`, flags, { stdio: ["ignore", "pipe", "inherit"] });
  const [line] = await once(child.stdout, "data");
  url = String(line).match(/127\.0\.0\.1:\d+/)[0];
});
after(() => child.kill("SIGKILL"));

const post = (path, body, headers) =>
  fetch(`http://${url}${path}`, { method: "POST", body, headers });

async function logIn(name) {
  const answer = await post("/login", JSON.stringify({ name }));
  assert.equal(answer.status, 204);
  return answer.headers.get("set-cookie").split(";")[0];
}

/** Somebody who listens to the app; who is online is told in the gateway's own time. */
class Guest extends Socket {
  async next() {
    for (;;) {
      const message = await super.next();
      if (!/^42(\/moderators,)?\["user:(online|offline)"/.test(message)) return message;
    }
  }
}

/** Somebody who is in the lobby. */
async function come(name) {
  const cookie = await logIn(name);
  const target = `ws://${url}/socket.io/?EIO=4&transport=websocket`;
  const socket = new Guest(target, { headers: { cookie } });
  await socket.next();
  socket.send("40");
  await socket.next();
  assert.match(await socket.next(), new RegExp(`^42\\["welcome","${name}",\\d\\]$`));
  return socket;
}

it("lets people in by their cookie, and no one twice", async () => {
  const nobody = new Socket(`ws://${url}/socket.io/?EIO=4&transport=websocket`);
  await nobody.next();
  nobody.send("40");
  assert.match(await nobody.next(), /^44.*AUTH_REQUIRED/);
  nobody.terminate();
  await logIn("eve");
  assert.equal((await post("/login", '{"name":"eve"}')).status, 409);
  assert.equal((await post("/login", '{"name":"<b>"}')).status, 400);
  assert.equal((await post("/login", "?")).status, 400);
  assert.equal((await post("/nothing", "")).status, 404);
});

it("lets people speak, whisper, show and leave, and moderators dismiss them", async () => {
  const ann = await come("ann");
  const bob = await come("bob");
  assert.equal(await ann.next(), '42["came","bob"]');
  ann.send('420["say",["r"]]');
  assert.match(await ann.next(), /^430.*INVALID_DATA/);
  ann.send('420["say","r","hello"]');
  assert.match(await ann.next(), /^430.*NOT_THERE/);
  ann.send('420["enter","r"]');
  assert.equal(await ann.next(), '430[["ann"]]');
  bob.send('420["enter","r"]');
  assert.equal(await bob.next(), '430[["ann","bob"]]');
  assert.equal(await ann.next(), '42["entered","r","bob"]');

  bob.send('420["typing","r",true]');
  bob.send('421["say","r","hello"]');
  assert.equal(await ann.next(), '42["typing","r","bob",true]');
  for (const socket of [ann, bob])
    assert.equal(await socket.next(), '42["said",{"room":"r","name":"bob","text":"hello"}]');
  assert.equal(await bob.next(), "431[1]");

  bob.send('420["whisper","ann","psst"]');
  assert.equal(await ann.next(), '42["whispered","bob","ann","psst"]');
  assert.equal(await bob.next(), "430[true]");

  bob.send('451-2["image","r","cat",{"_placeholder":true,"num":0}]');
  bob.send(Buffer.from([1, 2, 3]));
  assert.equal(await bob.next(), "432[3]");
  assert.equal(
    await ann.next(),
    '451-["image","r","bob","cat",{"_placeholder":true,"num":0}]',
  );
  assert.deepEqual([...(await ann.next())], [1, 2, 3]);

  bob.send('420["dance"]');
  assert.match(await bob.next(), /^430.*UNKNOWN/);
  const told = await post("/announce", "tea is ready", { authorization: "Bearer secret" });
  assert.equal(told.status, 204);
  assert.equal((await post("/announce", "x")).status, 401);
  for (const socket of [ann, bob])
    assert.equal(await socket.next(), '42["announced","tea is ready"]');

  bob.send("40/moderators,");
  assert.match(await bob.next(), /^44\/moderators,.*You are no moderator.*NO_MODERATOR/);
  ann.send("40/moderators,");
  assert.match(await ann.next(), /^40\/moderators,/);
  ann.send('42/moderators,5["dismiss","bob","bye"]');
  assert.equal(await bob.next(), '420["dismissed","bye"]');
  bob.send('430["farewell"]');
  assert.equal(await bob.next(), "41");
  const ends = [await ann.next(), await ann.next(), await ann.next()].sort();
  assert.deepEqual(ends, ['42["left","lobby","bob"]', '42["left","r","bob"]', "43/moderators,5[1]"]);

  child.kill("SIGINT");
  assert.match(await ann.next(), /server:drain/);
  await ann.end();
  await until(() => child.exitCode !== null, "the end of the server");
  assert.equal(child.exitCode, 0);
});
