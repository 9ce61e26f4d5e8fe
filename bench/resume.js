// What coming back costs, beside Socket.IO on Node with its in-memory adapter, in one run:
//
//   taskset -c 1 node bench/resume.js
//
// 1. A resume of who missed 100 events in 5 of 1 000 rooms, with 10 000 kept: the server's
//    processor time, less that of a connection that comes back and missed nothing. And what
//    Node's adapter takes for it by itself, in this process; ours is measured by
//    `cargo run --release -p heartline-core --example keeping`.
// 2. 10 000 clients whose connections are cut at once: until all are back with what they
//    missed, and the server's processor time for it.
import { execFileSync } from "node:child_process";
import { createRequire } from "node:module";
import { connect } from "node:net";
import { readdirSync, readFileSync } from "node:fs";
import { fileURLToPath } from "node:url";
import { token } from "../tests/e2e/lib/server.js";
import { SECRET, start, variant } from "./peers.js";

const PEER = fileURLToPath(new URL("../tests/torture/peer.js", import.meta.url));
const ROUNDS = Number(process.env.ROUNDS ?? 3);
const [ROOMS, OWN, KEPT, MISSED] = [1000, 5, 10_000, 100];
const CLIENTS = 50;
const MANY = Number(process.env.MANY ?? 10_000);
/** Connections that are being made at a time: the server's backlog holds them. */
const AT_A_TIME = 250;

const set = [
  "recovery.window=60s",
  "rooms.max_per_socket=2000",
  "server.send_buffer=4MB",
  "limits.joins=off",
];
const SERVERS = {
  Heartline: variant("socketio", { set }).command,
  Node: (port) => ["node", PEER, `${port}`],
};

const pause = (ms) => new Promise((resolve) => setTimeout(resolve, ms));

/** Nanoseconds for which all threads of a process have run. */
function ran(pid) {
  const threads = readdirSync(`/proc/${pid}/task`);
  return threads.reduce((sum, thread) => {
    const text = readFileSync(`/proc/${pid}/task/${thread}/schedstat`, "utf8");
    return sum + Number(text.split(" ")[0]);
  }, 0);
}

/** A masked text frame; the mask is zero, so that masking costs nothing. */
function frame(text) {
  const data = Buffer.from(text);
  const long = data.length > 125;
  const head = Buffer.alloc(long ? 8 : 6);
  head[0] = 0x81;
  head[1] = 0x80 | (long ? 126 : data.length);
  if (long) head.writeUInt16BE(data.length, 2);
  return Buffer.concat([head, data]);
}

/** A Socket.IO client by WebSocket that does no more than it must. */
class Raw {
  heard = 0;
  offset = undefined;

  constructor(user) {
    this.token = token(user, {}, SECRET);
  }

  /** Connects; answers when the server has, and so many events have come. */
  open(port, { resume = true, events = 0 } = {}) {
    const isBack = resume && this.pid;
    const auth = { token: this.token, ...(isBack && { pid: this.pid, offset: this.offset }) };
    this.heard = 0;
    this.recovered = false;
    this.rest = Buffer.alloc(0);
    return new Promise((resolve, reject) => {
      const socket = connect({ port, host: "127.0.0.1", noDelay: true });
      this.socket = socket;
      let isOpen = false;
      let sid;
      const late = setTimeout(() => {
        reject(new Error(`${this.heard} of ${events} events, recovered ${this.recovered}`));
      }, 30_000);
      this.check = () => {
        if (!sid || this.heard < events) return;
        clearTimeout(late);
        resolve(this);
      };
      this.onText = (text) => {
        if (text.startsWith("0{")) socket.write(frame(`40${JSON.stringify(auth)}`));
        else if (text === "2") socket.write(frame("3"));
        else if (text.startsWith("40")) {
          const reply = JSON.parse(text.slice(2));
          this.recovered = reply.pid === this.pid;
          ({ sid } = reply);
          this.pid = reply.pid;
          this.check();
        } else if (text.startsWith('42["news"')) {
          this.heard++;
          // The last argument.
          this.last = text.slice(text.lastIndexOf(',"') + 2, -2);
          this.check();
        } else if (text.startsWith("43")) {
          this.answered?.();
        } else if (text.startsWith("44")) reject(new Error(text));
      };
      socket.write(
        "GET /socket.io/?EIO=4&transport=websocket HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\n" +
          "Connection: Upgrade\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n",
      );
      socket.on("data", (data) => {
        if (!isOpen) {
          const end = data.indexOf("\r\n\r\n");
          if (end < 0) return;
          isOpen = true;
          data = data.subarray(end + 4);
        }
        this.take(data);
      });
      socket.on("error", reject);
    });
  }

  take(data) {
    let all = this.rest.length > 0 ? Buffer.concat([this.rest, data]) : data;
    for (;;) {
      if (all.length < 2) break;
      let [length, at] = [all[1] & 127, 2];
      if (length === 126) {
        if (all.length < 4) break;
        [length, at] = [all.readUInt16BE(2), 4];
      }
      if (all.length < at + length) break;
      if ((all[0] & 15) === 1) this.onText(all.toString("utf8", at, at + length));
      all = all.subarray(at + length);
    }
    this.rest = all;
  }

  ask(event, data) {
    return new Promise((resolve) => {
      this.answered = resolve;
      this.socket.write(frame(`421${JSON.stringify([event, data])}`));
    });
  }

  /** Publishes, and waits only now and then. */
  async publish(rooms) {
    for (const [index, room] of rooms.entries()) {
      const data = { room, event: "news", data: "x".repeat(200) };
      if (index % 100 === 99) await this.ask("publish", data);
      else this.socket.write(frame(`42${JSON.stringify(["publish", data])}`));
    }
    await this.ask("publish", { room: "nobody", event: "news", data: 1 });
  }

  cut() {
    this.socket.removeAllListeners("data");
    this.socket.destroy();
  }
}

/** Calls `act` for each, so many at a time. */
async function each(list, act, most) {
  const left = list.entries();
  const one = async () => {
    for (const [index, item] of left) await act(item, index);
  };
  await Promise.all(Array.from({ length: most }, one));
}

/** Microseconds of processor time: of a fresh connection, of one that missed nothing, of one that missed 100. */
async function missing(command) {
  const server = await start(command, { cpu: 0 });
  try {
    const own = Array.from({ length: OWN }, (_, index) => `own${index}`);
    const clients = Array.from({ length: CLIENTS }, (_, index) => new Raw(`u${index}`));
    await each(
      clients,
      async (client) => {
        await client.open(server.port);
        for (const room of own) await client.ask("join", { room });
      },
      10,
    );
    const others = Array.from({ length: ROOMS - OWN }, (_, index) => `r${index}`);
    const holder = await new Raw("holder").open(server.port);
    for (const room of others) await holder.ask("join", { room });
    const speaker = await new Raw("speaker").open(server.port);
    const other = (index) => others[index % others.length];
    const before = KEPT - 20 * MISSED;
    await speaker.publish(Array.from({ length: before }, (_, index) => other(index)));
    await speaker.publish([own[0]]);
    while (clients.some(({ heard }) => heard === 0)) await pause(10);
    for (const client of clients) client.offset = client.last;
    const mixed = (index) => (index % 20 === 0 ? own[(index / 20) % OWN] : other(index));
    await speaker.publish(Array.from({ length: 20 * MISSED }, (_, index) => mixed(index)));
    while (clients.some(({ heard }) => heard < 1 + MISSED)) await pause(10);
    const early = clients[0].offset;
    const late = clients[0].last;

    const costs = {};
    const measure = async (name, { offset, resume, events }) => {
      for (const client of clients) client.cut();
      await pause(300);
      const began = ran(server.pid);
      await each(
        clients,
        async (client) => {
          if (offset) client.offset = offset;
          await client.open(server.port, { resume, events });
          if (client.recovered !== resume) throw new Error(`${name}: recovered ${client.recovered}`);
        },
        5,
      );
      (costs[name] ??= []).push((ran(server.pid) - began) / CLIENTS / 1000);
    };
    // The first round warms up. Whoever comes back from one old place more than 16 times is
    // refused: it would have to be remembered who it was each time.
    for (let round = 0; round < 7; round++) {
      await measure("missed", { offset: early, resume: true, events: MISSED });
      await measure("nothing", { offset: late, resume: true, events: 0 });
    }
    await measure("fresh", { resume: false, events: 0 });
    return Object.fromEntries(
      Object.entries(costs).map(([name, all]) => {
        const sorted = (all.length > 1 ? all.slice(1) : all).sort((a, b) => a - b);
        return [name, sorted[sorted.length >> 1]];
      }),
    );
  } finally {
    await server.stop();
  }
}

/** Seconds until all that were cut at once are back, and of the server's processor time. */
async function blip(command) {
  const server = await start(command, { cpu: 0 });
  try {
    const clients = Array.from({ length: MANY }, (_, index) => new Raw(`u${index}`));
    await each(
      clients,
      async (client, index) => {
        await client.open(server.port);
        await client.ask("join", { room: `r${index % ROOMS}` });
      },
      AT_A_TIME,
    );
    const speaker = await new Raw("speaker").open(server.port);
    const rooms = Array.from({ length: ROOMS }, (_, index) => `r${index}`);
    await speaker.publish(rooms);
    while (clients.some(({ heard }) => heard === 0)) await pause(20);
    for (const client of clients) client.offset = client.last;
    for (const client of clients) client.cut();
    await pause(1500);
    await speaker.publish(rooms);
    const [began, cpu] = [performance.now(), ran(server.pid)];
    let recovered = 0;
    await each(
      clients,
      async (client) => {
        // Who is not recovered hears nothing of what it missed.
        const back = client.open(server.port, { events: 1 });
        await Promise.race([back, pause(10_000)]);
        recovered += Number(client.recovered);
      },
      AT_A_TIME,
    );
    const result = {
      seconds: (performance.now() - began) / 1000,
      cpu: (ran(server.pid) - cpu) / 1e9,
      recovered,
    };
    for (const client of clients) client.cut();
    return result;
  } finally {
    await server.stop();
  }
}

/**
 * Microseconds of one `restoreSession` of Node's in-memory adapter: 100 packets are missed among
 * the last `away` of 10 000.
 */
async function restoring(away) {
  const spread = away / MISSED;
  const { SessionAwareAdapter } = createRequire(PEER)("socket.io-adapter");
  const server = { encoder: { encode: () => [] }, opts: {} };
  server.opts.connectionStateRecovery = { maxDisconnectionDuration: 120_000 };
  const adapter = new SessionAwareAdapter({ name: "/", sockets: new Map(), server });
  const own = Array.from({ length: OWN }, (_, index) => `own${index}`);
  let offset;
  for (let index = 0; index < KEPT; index++) {
    const late = index - (KEPT - away);
    const room = late > 0 && late % spread === 1 ? own[((late - 1) / spread) % OWN] : `r${index % (ROOMS - OWN)}`;
    const packet = { type: 2, nsp: "/", data: ["news", "x".repeat(200)] };
    adapter.broadcast(packet, { rooms: new Set([room]), except: new Set(), flags: {} });
    if (late === 0) offset = packet.data.at(-1);
  }
  adapter.persistSession({ sid: "s", pid: "p", rooms: own, data: {} });
  let missed;
  const times = [];
  for (let round = 0; round < 300; round++) {
    const began = performance.now();
    missed = (await adapter.restoreSession("p", offset)).missedPackets.length;
    times.push((performance.now() - began) * 1000);
  }
  if (missed !== MISSED) throw new Error(`${missed} missed`);
  return times.sort((a, b) => a - b)[times.length >> 1];
}

const commit = () => execFileSync("git", ["rev-parse", "--short", "HEAD"], { encoding: "utf8" }).trim();
console.log(`commit ${commit()}, ${ROUNDS} rounds`);
for (let round = 1; round <= ROUNDS; round++) {
  for (const away of [20 * MISSED, KEPT]) {
    const micros = (await restoring(away)).toFixed(0);
    console.log(`${round} Node, restoreSession of the last ${away}: ${micros} µs`);
  }
  const own = {};
  for (const [name, command] of Object.entries(SERVERS)) {
    const { fresh, nothing, missed } = await missing(command);
    own[name] = missed - nothing;
    const text = [fresh, nothing, missed, missed - nothing].map((value) => value.toFixed(1));
    console.log(
      `${round} ${name.padEnd(9)} µs of the server: fresh ${text[0]}, back and missed nothing ${text[1]}, ` +
        `missed ${MISSED} ${text[2]}: ${text[3]} more, ${((missed - nothing) / MISSED).toFixed(2)} for each`,
    );
  }
  console.log(`${round} Node / Heartline: ${(own.Node / own.Heartline).toFixed(1)}`);
  for (const [name, command] of Object.entries(SERVERS)) {
    const { seconds, cpu, recovered } = await blip(command);
    console.log(
      `${round} ${name.padEnd(9)} ${MANY} back in ${seconds.toFixed(2)} s, ` +
        `${cpu.toFixed(2)} s of the server, ${recovered} recovered`,
    );
  }
}
process.exit(0);
