// Socket.IO 5 on the wire, against what the protocol document says.
import assert from "node:assert/strict";
import { after, before, describe, it } from "node:test";
import { LATE, Socket, start } from "./lib.js";

// Milliseconds; of `hasty` alone. The default is longer than these tests wait for anything.
const CONNECT_TIMEOUT = LATE;
let server, hasty;
before(async () => {
  server = await start("conformance");
  hasty = await start("conformance", ["--connect-timeout", `${CONNECT_TIMEOUT}ms`]);
});
after(() => Promise.all([server.stop(), hasty.stop()]));

async function open(to = server) {
  const socket = new Socket(`${to.ws}/socket.io/?EIO=4&transport=websocket`);
  await socket.next();
  return socket;
}

async function connected(namespace = "") {
  const socket = await open();
  socket.send(`40${namespace}`);
  await socket.say();
  await socket.say();
  return socket;
}

describe("connecting", () => {
  it("to / tells the socket's id and nothing else", async () => {
    const socket = await open();
    socket.send("40");
    const reply = await socket.say();
    assert.match(reply, /^40\{/);
    assert.deepEqual(Object.keys(JSON.parse(reply.slice(2))), ["sid"]);
    assert.equal(await socket.say(), '42["auth",{}]');
    socket.terminate();
  });

  it("hands the auth object on", async () => {
    const socket = await open();
    socket.send('40{"token":"123"}');
    await socket.say();
    assert.equal(await socket.say(), '42["auth",{"token":"123"}]');
    socket.terminate();
  });

  for (const packet of ["40/custom", "40/custom,", '40/custom,{"token":"abc"}']) {
    it(`to a namespace with ${packet}`, async () => {
      const socket = await open();
      socket.send(packet);
      assert.match(await socket.say(), /^40\/custom,\{"sid":"[^"]+"\}$/);
      const auth = packet.includes("{") ? '{"token":"abc"}' : "{}";
      assert.equal(await socket.say(), `42/custom,["auth",${auth}]`);
      socket.terminate();
    });
  }

  it("to a namespace that is not there is refused, and may be tried again", async () => {
    const socket = await open();
    socket.send("40/random");
    assert.equal(await socket.say(), '44/random,{"message":"Invalid namespace"}');
    socket.send("40");
    assert.match(await socket.say(), /^40\{/);
    socket.terminate();
  });

  it("to nothing in time is closed", async () => {
    const began = Date.now();
    const socket = await open(hasty);
    await socket.end();
    const took = Date.now() - began;
    assert.ok(took >= CONNECT_TIMEOUT - 20 && took < CONNECT_TIMEOUT + LATE, `${took} ms`);
  });

  for (const packet of [
    "4abc",
    "40null",
    "40[]",
    '40"x"',
    "40{",
    "42",
    '42["message"]',
    "46",
    "4",
  ]) {
    it(`${packet} before anything else closes`, async () => {
      const socket = await open();
      socket.send(packet);
      await socket.end();
    });
  }

  it("twice to the same namespace closes", async () => {
    const socket = await connected();
    socket.send("40");
    await socket.end();
  });
});

describe("leaving", () => {
  it("one namespace keeps the other", async () => {
    const socket = await connected();
    socket.send("40/custom");
    await socket.say();
    await socket.say();
    socket.send("41");
    socket.send('42["message","lost"]');
    socket.send('42/custom,["message","kept"]');
    assert.equal(await socket.say(), '42/custom,["message-back","kept"]');
    socket.terminate();
  });

  it("and coming back gives another id", async () => {
    const socket = await open();
    socket.send("40");
    const first = await socket.say();
    await socket.say();
    socket.send("41");
    socket.send("40");
    const second = await socket.say();
    assert.match(second, /^40/);
    assert.notEqual(first, second);
    socket.terminate();
  });

  it("with a payload closes", async () => {
    const socket = await connected();
    socket.send("41{}");
    await socket.end();
  });
});

describe("events", () => {
  it("come back with the same arguments", async () => {
    const socket = await connected();
    socket.send('42["message",1,"2",{"3":[true,null]}]');
    assert.equal(await socket.say(), '42["message-back",1,"2",{"3":[true,null]}]');
    socket.send('42["message"]');
    assert.equal(await socket.say(), '42["message-back"]');
    socket.terminate();
  });

  it("are nested as deep as receivers take it, and too deep without harm to others", async () => {
    const socket = await connected();
    const nested = (levels) => "[".repeat(levels) + "]".repeat(levels);
    socket.send(`42["message",${nested(500)}]`);
    assert.equal(await socket.say(), `42["message-back",${nested(500)}]`);
    socket.send(`42["message",${nested(600)}]`);
    assert.match(await socket.say(), /^42\["message:error",\{.*"INVALID_DATA"/);
    socket.send('42["message"]');
    assert.equal(await socket.say(), '42["message-back"]');
    socket.terminate();
  });

  it("in a namespace", async () => {
    const socket = await connected("/custom");
    socket.send('42/custom,["message","é\\u00e9"]');
    assert.equal(await socket.say(), '42/custom,["message-back","é\\u00e9"]');
    socket.terminate();
  });

  it("are acknowledged", async () => {
    const socket = await connected();
    socket.send('42456["message-with-ack",1,"2",{"3":[false]}]');
    assert.equal(await socket.say(), '43456[1,"2",{"3":[false]}]');
    socket.send('420["message-with-ack"]');
    assert.equal(await socket.say(), "430[]");
    socket.terminate();
  });

  it("carry binary both ways, in order", async () => {
    const socket = await connected();
    socket.send('452-["message",{"_placeholder":true,"num":0},"x",{"_placeholder":true,"num":1}]');
    socket.send(Buffer.from([1, 2, 3]));
    socket.send(Buffer.from([4, 5, 6]));
    assert.equal(
      await socket.say(),
      '452-["message-back",{"_placeholder":true,"num":0},"x",{"_placeholder":true,"num":1}]',
    );
    assert.deepEqual(await socket.say(), Buffer.from([1, 2, 3]));
    assert.deepEqual(await socket.say(), Buffer.from([4, 5, 6]));
    socket.send('451-789["message-with-ack",{"_placeholder":true,"num":0}]');
    socket.send(Buffer.from([7]));
    assert.equal(await socket.say(), '461-789[{"_placeholder":true,"num":0}]');
    assert.deepEqual(await socket.say(), Buffer.from([7]));
    socket.terminate();
  });

  const bad = [
    ["42{}"],
    ["42[]"],
    ["42[{}]"],
    ["42"],
    ['42["connect"]'],
    ['42["disconnect","x"]'],
    ['42abc["message"]'],
    ["43[]x"],
    ['4399{"a":1}'],
    ['45["message"]'],
    ['450-["message"]'],
    ['4511-["message"]'],
    [Buffer.from([1])],
    ['451-["message",{"_placeholder":true,"num":0}]', '42["message"]'],
    ['451-["message",{"_placeholder":true,"num":3}]', Buffer.from([1])],
    ["44{}"],
    ["47"],
  ];
  for (const packets of bad) {
    const names = packets.map((packet) => String(packet).slice(0, 40));
    it(`${names.join(" then ")} closes`, async () => {
      const socket = await connected();
      for (const packet of packets) socket.send(packet);
      await socket.end();
    });
  }

  it("acknowledgements that nobody waits for are ignored", async () => {
    const socket = await connected();
    socket.send("4399[]");
    socket.send('42["message"]');
    assert.equal(await socket.say(), '42["message-back"]');
    socket.terminate();
  });

  it("of an unknown name disturb nobody, and have no answer, as on Node", async () => {
    const socket = await connected();
    socket.send('42["what"]');
    socket.send('427["what"]');
    socket.send('42["message"]');
    assert.equal(await socket.say(), '42["message-back"]');
    socket.terminate();
  });
});
