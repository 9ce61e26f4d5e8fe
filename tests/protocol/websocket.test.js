// The WebSocket layer alone (RFC 6455, RFC 7692), by raw bytes: everything that
// Autobahn's fuzzing client checks, so that CI needs no Python 2.7 for it.
import assert from "node:assert/strict";
import { once } from "node:events";
import { connect } from "node:net";
import { after, before, describe, it } from "node:test";
import { deflateRawSync, inflateRawSync } from "node:zlib";
import { MAX_PAYLOAD, start, within } from "./lib.js";

let server, compressing, roomy;
before(async () => {
  server = await start("engineio_echo");
  compressing = await start("engineio_echo", ["--compress-from", "0"]);
  const large = ["--max-payload", "20000000", "--send-buffer", "40000000"];
  roomy = await start("engineio_echo", large);
});
after(() => Promise.all([server, compressing, roomy].map((one) => one.stop())));

// --- what is sent ----------------------------------------------------------

const CONTINUATION = 0,
  TEXT = 1,
  BINARY = 2,
  CLOSE = 8,
  PING = 9,
  PONG = 10;
const MASK = Buffer.from([0x12, 0x34, 0x56, 0x78]);

/** A client's frame; `size` writes its length in that many bytes. */
function frame(opcode, payload = "", { fin = true, reserved = 0, masked = true, size } = {}) {
  const data = Buffer.from(payload);
  size ??= data.length < 126 ? 0 : data.length < 65536 ? 2 : 8;
  const head = Buffer.alloc(2 + size);
  head[0] = (fin ? 0x80 : 0) | (reserved << 4) | opcode;
  head[1] = (masked ? 0x80 : 0) | (size === 0 ? data.length : size === 2 ? 126 : 127);
  if (size === 2) head.writeUInt16BE(data.length, 2);
  if (size === 8) head.writeBigUInt64BE(BigInt(data.length), 2);
  if (!masked) return Buffer.concat([head, data]);
  return Buffer.concat([head, MASK, data.map((byte, index) => byte ^ MASK[index % 4])]);
}
const part = (opcode, payload, options) => frame(opcode, payload, { fin: false, ...options });
const code = (number, reason = "") =>
  Buffer.concat([Buffer.from([number >> 8, number & 255]), Buffer.from(reason)]);
const close = (number = 1000, reason) => frame(CLOSE, code(number, reason));
/** One message cut into frames of `size` bytes. */
function fragments(opcode, payload, size) {
  const data = Buffer.from(payload),
    frames = [];
  for (let at = 0; at < data.length; at += size) {
    frames.push(
      frame(at === 0 ? opcode : CONTINUATION, data.subarray(at, at + size), {
        fin: at + size >= data.length,
      }),
    );
  }
  return frames;
}

// --- what comes back -------------------------------------------------------

async function open(to = server, headers = {}) {
  const socket = connect(to.port, "127.0.0.1").setNoDelay(true);
  let input = Buffer.alloc(0);
  const ended = once(socket, "end");
  socket.on("error", () => {});
  socket.on("data", (data) => (input = Buffer.concat([input, data])));
  const extra = Object.entries(headers)
    .map(([name, value]) => `${name}: ${value}\r\n`)
    .join("");
  socket.write(
    "GET /echo HTTP/1.1\r\nHost: here\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n" +
      "Sec-WebSocket-Version: 13\r\n" +
      `Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n${extra}\r\n`,
  );
  while (!input.includes("\r\n\r\n")) await within(once(socket, "data"), "handshake");
  const end = input.indexOf("\r\n\r\n");
  const head = input.subarray(0, end).toString();
  assert.match(head, /^HTTP\/1\.1 101 /);
  assert.match(head, /sec-websocket-accept: s3pPLMBiTxaQ9kYGzzhZRbK\+xOo=/i);
  input = input.subarray(end + 4);
  return {
    socket,
    head,
    ended,
    get input() {
      return input;
    },
  };
}

/** How many whole frames there are, the server's pings not counted. */
function count(input) {
  let frames = 0;
  while (input.length >= 2) {
    let length = input[1] & 0x7f,
      at = 2;
    if (length === 126 && input.length >= 4) [length, at] = [input.readUInt16BE(2), 4];
    else if (length === 127 && input.length >= 10)
      [length, at] = [Number(input.readBigUInt64BE(2)), 10];
    if (input.length < at + length) break;
    if ((input[0] & 15) !== PING) frames += 1;
    input = input.subarray(at + length);
  }
  return frames;
}

/** The server's frames in words; its own pings are not counted. */
function words(input) {
  const said = [];
  while (input.length >= 2) {
    assert.equal(input[1] & 0x80, 0, "a server does not mask");
    assert.equal(input[0] & 0x80, 0x80, "this server does not fragment");
    let length = input[1] & 0x7f,
      at = 2;
    if (length === 126) [length, at] = [input.readUInt16BE(2), 4];
    else if (length === 127) [length, at] = [Number(input.readBigUInt64BE(2)), 10];
    const payload = input.subarray(at, at + length);
    assert.equal(payload.length, length, "a whole frame");
    const opcode = input[0] & 15,
      compressed = (input[0] & 0x40) !== 0;
    const data = compressed
      ? inflateRawSync(Buffer.concat([payload, Buffer.from([0, 0, 255, 255])]), { finishFlush: 2 })
      : payload;
    const mark = compressed ? "compressed " : "";
    if (opcode === TEXT) said.push(`${mark}text ${data}`);
    else if (opcode === BINARY) said.push(`${mark}binary ${data.toString("hex")}`);
    else if (opcode === PONG) said.push(`pong ${payload.toString("latin1")}`);
    else if (opcode === CLOSE)
      said.push(payload.length === 0 ? "close" : `close ${payload.readUInt16BE(0)}`);
    else assert.equal(opcode, PING);
    input = input.subarray(at + length);
  }
  assert.equal(input.length, 0, "a whole header");
  return said;
}

/**
 * Says all of `bytes`, in pieces of `chop`, and closes when `answers` have come;
 * without a number, the server is to close. What it said until it ended the stream.
 */
async function converse(bytes, { chop, to, headers, answers } = {}) {
  const connection = await open(to, headers);
  const all = Buffer.concat(bytes.flat());
  const size = chop ?? (all.length || 1);
  for (let at = 0; at < all.length; at += size) {
    if (!connection.socket.write(all.subarray(at, at + size)))
      await within(
        Promise.race([once(connection.socket, "drain"), connection.ended]),
        "room to write",
      );
  }
  if (answers !== undefined) {
    while (count(connection.input) < answers)
      await within(once(connection.socket, "data"), "answer");
    connection.socket.write(close());
  }
  await within(connection.ended, "end of the stream");
  connection.socket.destroy();
  return words(connection.input);
}

/**
 * Rows of [name, bytes, what comes back, options]; a closing handshake follows each that does
 * not end by itself.
 */
function table(rows) {
  for (const [name, bytes, expected, options] of rows) {
    it(name, async () => {
      const ends = expected.at(-1)?.startsWith("close");
      const said = await converse(bytes, {
        ...options,
        to: options?.deflate ? compressing : server,
        answers: ends ? undefined : expected.length,
      });
      assert.deepEqual(said, ends ? expected : [...expected, "close 1000"]);
    });
  }
}

const BROKEN = ["close 1002"],
  NOT_UTF8 = ["close 1007"];
const x = (length) => "x".repeat(length);

// --- the tables ------------------------------------------------------------

describe("framing", () => {
  for (const length of [0, 1, 125, 126, 127, 128, 65535, 65536]) {
    table([
      [`text of ${length} bytes`, [frame(TEXT, x(length))], [`text ${x(length)}`]],
      [`binary of ${length} bytes`, [frame(BINARY, x(length))], [`binary ${"78".repeat(length)}`]],
    ]);
  }
  table([
    ["text in pieces of one byte", [frame(TEXT, x(300))], [`text ${x(300)}`], { chop: 1 }],
    [
      "a long message in pieces of 997 bytes",
      [frame(TEXT, x(65536))],
      [`text ${x(65536)}`],
      { chop: 997 },
    ],
    [
      "many messages in one piece",
      Array.from({ length: 50 }, (_, n) => frame(TEXT, `${n}`)),
      Array.from({ length: 50 }, (_, n) => `text ${n}`),
    ],
    [
      "a length in more bytes than it needs",
      [frame(TEXT, "hi", { size: 2 }), frame(TEXT, "ho", { size: 8 })],
      ["text hi", "text ho"],
    ],
    [
      "a length in more bytes than it needs, in pieces of one byte",
      [frame(TEXT, "hi", { size: 8 })],
      ["text hi"],
      { chop: 1 },
    ],
    ["a frame without a mask", [frame(TEXT, "hi", { masked: false })], BROKEN],
    ["a control frame without a mask", [frame(PING, "hi", { masked: false })], BROKEN],
    [
      "a length with its top bit set",
      [Buffer.from([0x81, 0xff, 0x80, 0, 0, 0, 0, 0, 0, 1])],
      BROKEN,
    ],
  ]);
});

describe("pings and pongs", () => {
  const most = x(125),
    odd = Buffer.from([0x00, 0xff, 0xfe, 0xfd, 0xfc, 0xfb, 0x00, 0xff]);
  const ten = Array.from({ length: 10 }, (_, n) => frame(PING, `${n}`)),
    answers = ten.map((_, n) => `pong ${n}`);
  table([
    ["a ping without payload", [frame(PING)], ["pong "]],
    ["a ping with payload", [frame(PING, "hello")], ["pong hello"]],
    ["a ping with 125 bytes", [frame(PING, most)], [`pong ${most}`]],
    ["a ping in pieces of one byte", [frame(PING, most)], [`pong ${most}`], { chop: 1 }],
    ["a ping with bytes that are no text", [frame(PING, odd)], [`pong ${odd.toString("latin1")}`]],
    ["a ping with 126 bytes", [frame(PING, x(126))], BROKEN],
    ["a short ping with a long length", [frame(PING, "hello", { size: 2 })], BROKEN],
    ["a pong nobody asked for", [frame(PONG)], []],
    [
      "one with payload, and a ping behind it",
      [frame(PONG, "unasked"), frame(PING, "asked")],
      ["pong asked"],
    ],
    ["ten pings", ten, answers],
    ["ten pings in pieces of one byte", ten, answers, { chop: 1 }],
    ["a ping right before a close", [frame(PING, "last"), close()], ["pong last", "close 1000"]],
  ]);
});

describe("reserved bits, where nothing was negotiated", () => {
  for (const opcode of [TEXT, BINARY, CLOSE, PING, PONG]) {
    for (const reserved of [1, 2, 3, 4, 5, 6, 7]) {
      table([
        [
          `${reserved} on opcode ${opcode}`,
          [frame(TEXT, "before"), frame(opcode, "", { reserved })],
          ["text before", ...BROKEN],
        ],
      ]);
    }
  }
  table([
    ["on a continuation", [part(TEXT, "x"), frame(CONTINUATION, "y", { reserved: 4 })], BROKEN],
    [
      "in pieces of one byte",
      [frame(TEXT, "before"), frame(TEXT, "x", { reserved: 2 })],
      ["text before", ...BROKEN],
      { chop: 1 },
    ],
    [
      "a ping behind them is not answered",
      [frame(TEXT, "x", { reserved: 1 }), frame(PING)],
      BROKEN,
    ],
  ]);
});

describe("reserved opcodes", () => {
  for (const opcode of [3, 4, 5, 6, 7, 11, 12, 13, 14, 15]) {
    table([
      [
        `${opcode}`,
        [frame(TEXT, "before"), frame(opcode, "x"), frame(PING)],
        ["text before", ...BROKEN],
      ],
      [
        `${opcode}, without payload and in pieces of one byte`,
        [frame(opcode)],
        BROKEN,
        { chop: 1 },
      ],
    ]);
  }
});

describe("fragmentation", () => {
  table([
    ["two fragments", [part(TEXT, "one"), frame(CONTINUATION, "two")], ["text onetwo"]],
    [
      "the same in pieces of one byte",
      [part(TEXT, "one"), frame(CONTINUATION, "two")],
      ["text onetwo"],
      { chop: 1 },
    ],
    ["empty fragments", [part(TEXT), part(CONTINUATION), frame(CONTINUATION)], ["text "]],
    [
      "binary fragments",
      [part(BINARY, "a"), part(CONTINUATION, "b"), frame(CONTINUATION, "c")],
      ["binary 616263"],
    ],
    [
      "a ping between fragments",
      [part(TEXT, "one"), frame(PING, "p"), frame(CONTINUATION, "two")],
      ["pong p", "text onetwo"],
    ],
    [
      "many pings between fragments",
      [
        part(TEXT, "1"),
        frame(PING, "a"),
        part(CONTINUATION, "2"),
        frame(PING, "b"),
        frame(CONTINUATION, "3"),
      ],
      ["pong a", "pong b", "text 123"],
    ],
    [
      "a ping between fragments, in pieces of one byte",
      [part(TEXT, "one"), frame(PING, "p"), frame(CONTINUATION, "two")],
      ["pong p", "text onetwo"],
      { chop: 1 },
    ],
    [
      "a pong between fragments",
      [part(TEXT, "one"), frame(PONG), frame(CONTINUATION, "two")],
      ["text onetwo"],
    ],
    ["a ping in fragments", [part(PING, "one"), frame(CONTINUATION, "two")], BROKEN],
    ["a pong in fragments", [part(PONG, "one"), frame(CONTINUATION, "two")], BROKEN],
    ["a close in fragments", [part(CLOSE, code(1000)), frame(CONTINUATION, "")], BROKEN],
    ["a continuation of nothing", [frame(CONTINUATION, "x"), frame(TEXT, "y")], BROKEN],
    ["an unfinished continuation of nothing", [part(CONTINUATION, "x"), frame(TEXT, "y")], BROKEN],
    [
      "a continuation of what is finished",
      [frame(TEXT, "x"), frame(CONTINUATION, "y")],
      ["text x", ...BROKEN],
    ],
    [
      "a continuation of nothing, behind a message in fragments",
      [part(TEXT, "one"), frame(CONTINUATION, "two"), part(CONTINUATION, "x"), frame(TEXT, "y")],
      ["text onetwo", ...BROKEN],
    ],
    ["a new message within one", [part(TEXT, "x"), frame(TEXT, "y")], BROKEN],
    ["a new message within one, of another kind", [part(TEXT, "x"), part(BINARY, "y")], BROKEN],
    ["a close between fragments", [part(TEXT, "x"), close(1000)], ["close 1000"]],
    ["fragments of 1 300 bytes", fragments(TEXT, x(65536), 1300), [`text ${x(65536)}`]],
  ]);
});

describe("UTF-8", () => {
  const valid = {
    "two bytes": "ß",
    "three bytes": "€",
    "four bytes": "𝄞",
    "a mixture": "Hello-µ@ßöäüàá-UTF-8!!",
    kosme: "κόσμε",
    "the first of each length": "\u0000\u0080\u0800\u{10000}",
    "the last of each length": "\u007f\u07ff\uffff\u{10ffff}",
    "around the surrogates": "\ud7ff\ue000\ufffd",
    "non-characters": "\ufffe\uffff\u{1fffe}\u{10fffe}\u{10ffff}",
  };
  const whole = Buffer.from(valid["a mixture"]);
  for (const [name, text] of Object.entries(valid)) {
    table([
      [`${name}`, [frame(TEXT, text)], [`text ${text}`]],
      [`${name}, each byte a fragment`, fragments(TEXT, text, 1), [`text ${text}`]],
      [`${name}, in pieces of one byte`, [frame(TEXT, text)], [`text ${text}`], { chop: 1 }],
    ]);
  }
  const invalid = {
    "a continuation byte alone": [0x80],
    "the last of them": [0xbf],
    "a lead byte alone": [0xc2],
    "a lead byte and ASCII": [0xc3, 0x28],
    "a cut off sequence of three": [0xe2, 0x82],
    "a cut off sequence of four": [0xf0, 0x9d, 0x84],
    "an overlong slash": [0xc0, 0xaf],
    "an overlong slash of three bytes": [0xe0, 0x80, 0xaf],
    "an overlong slash of four bytes": [0xf0, 0x80, 0x80, 0xaf],
    "an overlong zero": [0xc0, 0x80],
    "a high surrogate": [0xed, 0xa0, 0x80],
    "a low surrogate": [0xed, 0xbf, 0xbf],
    "a pair of surrogates": [0xed, 0xa0, 0x80, 0xed, 0xb0, 0x80],
    "beyond the last character": [0xf4, 0x90, 0x80, 0x80],
    "five bytes": [0xf8, 0x88, 0x80, 0x80, 0x80],
    "six bytes": [0xfc, 0x84, 0x80, 0x80, 0x80, 0x80],
    fe: [0xfe],
    ff: [0xff],
    "fe fe ff ff": [0xfe, 0xfe, 0xff, 0xff],
  };
  for (const [name, bytes] of Object.entries(invalid)) {
    const data = Buffer.concat([whole, Buffer.from(bytes)]);
    table([
      [`not: ${name}`, [frame(TEXT, data)], NOT_UTF8],
      [`not: ${name}, each byte a fragment`, fragments(TEXT, data, 1), NOT_UTF8],
    ]);
  }

  it("fails at the first bad byte, whatever is still to come", async () => {
    const bad = Buffer.concat([whole, Buffer.from([0xf4, 0x90])]);
    // The frame claims more than it brings, and the message a further fragment.
    const unfinished = frame(TEXT, Buffer.concat([bad, Buffer.alloc(100)])).subarray(0, -100);
    for (const bytes of [
      [unfinished],
      [part(TEXT, bad)],
      [part(TEXT, whole), part(CONTINUATION, [0xf4]), part(CONTINUATION, [0x90])],
    ]) {
      for (const chop of [undefined, 1])
        assert.deepEqual(await converse(bytes, { chop }), NOT_UTF8);
    }
  });

  table([
    [
      "a ping between the halves of a character",
      [part(TEXT, [0xc3]), frame(PING, "p"), frame(CONTINUATION, [0x9f])],
      ["pong p", "text ß"],
    ],
  ]);

  it("is not asked of binary messages", async () => {
    assert.deepEqual(await converse([frame(BINARY, Buffer.from([0xff]))], { answers: 1 }), [
      "binary ff",
      "close 1000",
    ]);
  });
});

describe("the closing handshake", () => {
  for (const number of [
    1000, 1001, 1002, 1003, 1007, 1008, 1009, 1010, 1011, 1012, 1013, 1014, 3000, 3999, 4000, 4999,
  ]) {
    table([[`with ${number} is answered with it`, [close(number)], [`close ${number}`]]]);
  }
  for (const number of [0, 999, 1004, 1005, 1006, 1015, 1016, 1100, 2000, 2999, 5000, 65535]) {
    table([[`with ${number} is not allowed`, [close(number)], BROKEN]]);
  }
  table([
    ["without a code", [frame(CLOSE)], ["close 1000"]],
    ["with one byte", [frame(CLOSE, "x")], BROKEN],
    ["with a reason", [close(1000, "goodbye")], ["close 1000"]],
    ["with the longest reason", [close(1000, x(123))], ["close 1000"]],
    ["with a reason too long", [close(1000, x(124))], BROKEN],
    [
      "with a reason that is no UTF-8",
      [close(1000, Buffer.from([0xce, 0xba, 0xed, 0xa0]))],
      NOT_UTF8,
    ],
    ["in pieces of one byte", [close(1000, "goodbye")], ["close 1000"], { chop: 1 }],
    ["nothing behind it counts: a message", [close(), frame(TEXT, "late")], ["close 1000"]],
    ["nothing behind it counts: a ping", [close(), frame(PING, "late")], ["close 1000"]],
    ["nothing behind it counts: a second close", [close(), close(1001)], ["close 1000"]],
  ]);

  it("answers also when earlier messages are still on their way out", async () => {
    // More than the kernel takes for a client that does not read.
    const connection = await open(roomy),
      size = 16_000_000;
    connection.socket.write(frame(BINARY, Buffer.alloc(size)));
    await within(once(connection.socket, "data"), "begin of the answer");
    connection.socket.write(close());
    await within(connection.ended, "end of the stream");
    connection.socket.destroy();
    assert.equal(connection.input.length, 10 + size + 4, "the whole answer and a close");
    assert.deepEqual([...connection.input.subarray(-4)], [0x88, 2, 0x03, 0xe8]);
  });
});

describe("limits", () => {
  table([
    [
      "the largest message",
      [frame(BINARY, x(MAX_PAYLOAD))],
      [`binary ${"78".repeat(MAX_PAYLOAD)}`],
    ],
    [
      "the same in fragments of 64 bytes",
      fragments(BINARY, x(MAX_PAYLOAD), 64),
      [`binary ${"78".repeat(MAX_PAYLOAD)}`],
    ],
    [
      "the same in pieces of 1 447 bytes",
      [frame(BINARY, x(MAX_PAYLOAD))],
      [`binary ${"78".repeat(MAX_PAYLOAD)}`],
      { chop: 1447 },
    ],
    ["the largest text", [frame(TEXT, x(MAX_PAYLOAD))], [`text ${x(MAX_PAYLOAD)}`]],
    [
      "the largest text in fragments of 64 bytes",
      fragments(TEXT, x(MAX_PAYLOAD), 64),
      [`text ${x(MAX_PAYLOAD)}`],
    ],
    ["one byte more", [frame(BINARY, x(MAX_PAYLOAD + 1))], ["close 1009"]],
    [
      "one byte more, in fragments",
      [part(TEXT, x(MAX_PAYLOAD)), frame(CONTINUATION, "x")],
      ["close 1009"],
    ],
    [
      "one byte more claimed by a last fragment, which is not waited for",
      [part(BINARY, x(MAX_PAYLOAD)), frame(CONTINUATION, "x").subarray(0, 6)],
      ["close 1009"],
    ],
    [
      "the longest claim there is",
      [Buffer.from([0x82, 0xff, 0x7f, 255, 255, 255, 255, 255, 255, 255, 1, 2, 3, 4])],
      ["close 1009"],
    ],
    [
      "the longest claim by a last fragment",
      [
        part(BINARY, "x"),
        Buffer.from([0x80, 0xff, 0x7f, 255, 255, 255, 255, 255, 255, 255, 1, 2, 3, 4]),
      ],
      ["close 1009"],
    ],
    [
      "a claim of 4 GB, which is not waited for",
      [Buffer.from([0x82, 0xff, 0, 0, 0, 1, 0, 0, 0, 0, 1, 2, 3, 4])],
      ["close 1009"],
    ],
  ]);
});

describe("permessage-deflate", () => {
  const squeeze = (text) => deflateRawSync(text, { finishFlush: 2 }).subarray(0, -4);
  const offer = (value) => ({ to: compressing, headers: { "Sec-WebSocket-Extensions": value } });
  const on = { deflate: true, headers: { "Sec-WebSocket-Extensions": "permessage-deflate" } };
  const compressed = (text, options) => frame(TEXT, squeeze(text), { reserved: 4, ...options });
  const long = "who is really there? ".repeat(200);

  it("is agreed on without context takeover, and declined where it cannot be kept", async () => {
    for (const [offered, answer] of [
      [
        "permessage-deflate",
        "permessage-deflate; server_no_context_takeover; client_no_context_takeover",
      ],
      [
        "permessage-deflate; client_max_window_bits",
        "permessage-deflate; server_no_context_takeover; client_no_context_takeover",
      ],
      [
        "permessage-deflate; server_max_window_bits=9",
        "permessage-deflate; server_no_context_takeover; client_no_context_takeover; " +
          "server_max_window_bits=9",
      ],
      ["permessage-deflate; server_max_window_bits=8", undefined],
      ["permessage-deflate; unknown", undefined],
      ["x-unknown", undefined],
    ]) {
      const { to, headers } = offer(offered);
      const connection = await open(to, headers);
      assert.equal(connection.head.match(/sec-websocket-extensions: (.*)/i)?.[1], answer, offered);
      connection.socket.destroy();
    }
  });

  table([
    ["a compressed message", [compressed(long)], [`compressed text ${long}`], on],
    [
      "each message stands alone",
      [compressed(long), compressed(long)],
      [`compressed text ${long}`, `compressed text ${long}`],
      on,
    ],
    ["one that is not compressed, where it could be", [frame(TEXT, "plain")], ["text plain"], on],
    ["an empty one", [frame(TEXT, Buffer.from([0]), { reserved: 4 })], ["compressed text "], on],
    [
      "in fragments, a ping between them",
      [
        part(TEXT, squeeze(long).subarray(0, 10), { reserved: 4 }),
        frame(PING, "p"),
        frame(CONTINUATION, squeeze(long).subarray(10)),
      ],
      ["pong p", `compressed text ${long}`],
      on,
    ],
    ["in pieces of one byte", [compressed(long)], [`compressed text ${long}`], { ...on, chop: 1 }],
    [
      "stored blocks",
      [
        frame(TEXT, deflateRawSync("stored", { level: 0, finishFlush: 2 }).subarray(0, -4), {
          reserved: 4,
        }),
      ],
      ["text stored"],
      on,
    ],
    [
      "marked on a continuation",
      [part(TEXT, "x"), frame(CONTINUATION, "y", { reserved: 4 })],
      BROKEN,
      on,
    ],
    ["marked on a ping", [frame(PING, "", { reserved: 4 })], BROKEN, on],
    ["another reserved bit", [frame(TEXT, "x", { reserved: 2 })], BROKEN, on],
    [
      "text that is no UTF-8 once inflated",
      [frame(TEXT, squeeze(Buffer.from([0x61, 0xff])), { reserved: 4 })],
      NOT_UTF8,
      on,
    ],
    [
      "what is no compressed data",
      [frame(TEXT, Buffer.alloc(8, 0xff), { reserved: 4 })],
      BROKEN,
      on,
    ],
    [
      "a message that inflates beyond the limit",
      [frame(BINARY, squeeze(Buffer.alloc(MAX_PAYLOAD + 1)), { reserved: 4 })],
      ["close 1009"],
      on,
    ],
  ]);
});
