// What members hear while one of two nodes is killed, and while a deploy drains it: of what is
// published in that time, how much comes within 250 ms, and how late the latest hundredth is.
// Two gateways on a Redis, and two Socket.IO servers on Node with connection state recovery and
// the adapter that has it, in the same run. Prints; writes nothing.
//
//   node bench/leaving.js [ROUNDS]          three rounds, two minutes
//   QUICK=1 node bench/leaving.js           a smoke run of seconds, no claims
//
// Clients are socket.io-client for both, and come back as fast for both; they and the backend
// that publishes ask a node that is in rotation, as behind a balancer that knows at once. What
// could not be published at the first attempt is late from that attempt on; what a member
// has never heard is late too.
import { createRequire } from "node:module";
import { redis } from "../tests/e2e/lib/redis.js";
import { token, until } from "../tests/e2e/lib/server.js";
import { Heartline, Node } from "../tests/torture/servers.js";

const { io } = createRequire(new URL("../tests/e2e/package.json", import.meta.url))("socket.io-client");

const QUICK = Boolean(process.env.QUICK);
const ROUNDS = QUICK ? 1 : Number(process.argv[2] ?? 3);
const [MEMBERS, ROOMS] = QUICK ? [20, 4] : [200, 20];
/** Publications a second. */
const RATE = QUICK ? 50 : 100;
/** What came within so many milliseconds has come on time. */
const ON_TIME = 250;
/** Milliseconds: before something happens; in which what is published counts; for latecomers. */
const [BEFORE, WINDOW, AFTER] = QUICK ? [500, 1500, 1500] : [2000, 5000, 5000];
/** When a node that has gone is replaced, milliseconds. */
const REPLACED = 1000;

const pause = (ms) => new Promise((resolve) => setTimeout(resolve, ms));
const roomOf = (member) => `room${member % ROOMS}`;

/** Two nodes of one kind; those in rotation are asked. */
class Pair {
  constructor(make) {
    this.nodes = [make(0), make(1)];
    this.rotation = [...this.nodes];
    this.turn = 0;
  }

  async start() {
    await Promise.all(this.nodes.map((node) => node.start()));
    await Promise.all(this.nodes.map(isReady));
  }

  get next() {
    return this.rotation[this.turn++ % this.rotation.length];
  }

  /** Takes the first out of rotation, ends it by `how`, and puts a new one in its place. */
  async lose(how) {
    const [node] = this.nodes;
    this.rotation = this.rotation.filter((one) => one !== node);
    const gone = how(node);
    await pause(REPLACED);
    await gone;
    await node.start();
    await isReady(node);
    this.rotation.push(node);
  }

  async end() {
    await Promise.all(this.nodes.map((node) => node.end()));
  }
}

async function isReady({ node }) {
  if (node) await until(async () => (await node.api("/readyz")).body?.status === "ready", "ready", 60_000);
}

/** A member of a room, who remembers when it heard of what. */
function join(pair, index, heard) {
  const room = roomOf(index);
  const url = () => `http://127.0.0.1:${pair.next.port}`;
  const options = { forceNew: true, transports: ["websocket"], reconnectionDelay: 50, reconnectionDelayMax: 500 };
  const socket = io(url(), { ...options, auth: { token: token(`member${index}`) } });
  socket.io.on("reconnect_attempt", () => (socket.io.uri = url()));
  socket.on("news", ({ id }) => {
    const key = `${id} ${index}`;
    if (!heard.has(key)) heard.set(key, performance.now());
  });
  return {
    socket,
    joined: new Promise((resolve) => {
      socket.on("connect", () => {
        if (socket.recovered) return;
        socket.emit("join", { room }, resolve);
      });
    }),
  };
}

/** Publishes until it has worked; the moment of the first attempt is what counts. */
async function publish(pair, id, told) {
  const room = roomOf(id);
  told.push({ id, room, at: performance.now() });
  while (!(await pair.next.publish({ id, room }))) await pause(5);
}

/** What came of what was told between two moments. */
function judge(told, heard, from, to) {
  const late = [];
  for (const { id, at } of told) {
    if (at < from || at >= to) continue;
    for (let member = id % ROOMS; member < MEMBERS; member += ROOMS) {
      const came = heard.get(`${id} ${member}`);
      late.push(came === undefined ? Infinity : came - at);
    }
  }
  late.sort((a, b) => a - b);
  const share = (fits) => late.filter(fits).length / late.length;
  return {
    onTime: share((ms) => ms <= ON_TIME),
    missed: share((ms) => ms === Infinity),
    p50: late[late.length >> 1],
    p99: late[Math.floor(late.length * 0.99)],
  };
}

async function run(make, how) {
  const pair = new Pair(make);
  await pair.start();
  const [told, heard] = [[], new Map()];
  const members = Array.from({ length: MEMBERS }, (_, index) => join(pair, index, heard));
  await Promise.all(members.map(({ joined }) => joined));
  let number = 0;
  const began = performance.now();
  let [last, still] = [began, 0];
  const ticks = setInterval(() => {
    const now = performance.now();
    [last, still] = [now, Math.max(still, now - last)];
    for (; number < ((performance.now() - began) * RATE) / 1000; number++) publish(pair, number, told);
  }, 5);
  await pause(BEFORE);
  const at = performance.now();
  const replaced = how && pair.lose(how);
  await pause(WINDOW);
  clearInterval(ticks);
  await pause(AFTER);
  await replaced;
  for (const { socket } of members) socket.disconnect();
  await pair.end();
  return { ...judge(told, heard, at, at + WINDOW), still };
}

/** The same, anew while it was the client that stood still: that says nothing of a server. */
async function measure(name, make, how) {
  for (let tries = 1; ; tries++) {
    const result = await run(make, how);
    if (result.still < ON_TIME / 2 || tries === 3) return result;
    console.log(`  ${name}: the client stood still for ${result.still.toFixed(0)} ms, once more`);
  }
}

const HAPPENS = {
  nothing: undefined,
  "kill -9": (node) => node.kill(),
  // A deploy tells the process to end in good order, and waits for that.
  "a drain": async (node) => {
    node.signal("SIGTERM");
    await (node.node?.exited ?? node.exited);
  },
};

const median = (values) => [...values].sort((a, b) => a - b)[values.length >> 1];
const percent = (share) => `${(share * 100).toFixed(2)} %`;
const results = {};
for (let round = 1; round <= ROUNDS; round++) {
  for (const [what, how] of Object.entries(HAPPENS)) {
    const store = await redis();
    const kinds = {
      Heartline: (index) =>
        new Heartline({
          "server.node_id": `n${index}`,
          "cluster.url": store.url,
          "server.drain_timeout": undefined,
        }),
      "Socket.IO": () => new Node(store),
    };
    // Whoever is first meets a Redis and a machine that have rested.
    const order = Object.entries(kinds);
    for (const [name, make] of round % 2 ? order : order.reverse()) {
      const result = await measure(name, make, how);
      ((results[what] ??= {})[name] ??= []).push(result);
      const { onTime, missed, p50, p99 } = result;
      console.log(
        `${round} ${what.padEnd(8)} ${name.padEnd(10)} on time ${percent(onTime)}, ` +
          `missed ${percent(missed)}, p50 ${p50.toFixed(1)} ms, p99 ${p99.toFixed(0)} ms`,
      );
    }
    await store.kill();
  }
}
console.log(
  `\n${MEMBERS} members of ${ROOMS} rooms on two nodes, ${RATE} publications/s; medians of ${ROUNDS}, ` +
    `of what was published in ${WINDOW / 1000} s from then on\n`,
);
console.log("| one of two nodes | | within 250 ms | never | p50 | p99 |\n| --- | --- | ---: | ---: | ---: | ---: |");
for (const [what, kinds] of Object.entries(results)) {
  for (const [name, all] of Object.entries(kinds)) {
    const of = (key) => median(all.map((one) => one[key]));
    const p99 = Number.isFinite(of("p99")) ? `${of("p99").toFixed(0)} ms` : "never";
    const shares = [percent(of("onTime")), percent(of("missed"))];
    const cells = [what, name, ...shares, `${of("p50").toFixed(1)} ms`, p99];
    console.log(`| ${cells.join(" | ")} |`);
  }
}
process.exit(0);
