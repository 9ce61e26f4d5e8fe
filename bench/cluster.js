// Measures what a cluster costs and gives, and writes CLUSTER.md.
//
//   node bench/cluster.js           all of it, about six minutes
//   QUICK=1 node bench/cluster.js   a smoke run: everything once, small, writes nothing
import { spawn } from "node:child_process";
import { once } from "node:events";
import { writeFileSync } from "node:fs";
import { connect } from "node:net";
import { cpus } from "node:os";
import { fileURLToPath } from "node:url";
import WebSocket from "./peers/adapter/node_modules/ws/wrapper.mjs";
import { freePort, serve, token, until } from "../tests/e2e/lib/server.js";
import { redis } from "../tests/e2e/lib/redis.js";

const QUICK = Boolean(process.env.QUICK);
const here = (path) => fileURLToPath(new URL(path, import.meta.url));
const say = (text) => console.log(text);
const pause = (ms) => new Promise((resolve) => setTimeout(resolve, ms));
const started = [];
const OFF = { "limits.events": "off", "limits.joins": "off", "limits.connects_per_ip": "off", "log.level": "warn" };

async function node(store, id, set = {}) {
  const one = await serve({ "server.node_id": id, "cluster.url": store.url, ...OFF, ...set });
  started.push(one);
  await until(async () => (await one.api("/readyz")).body.status === "ready", "ready", 10000);
  return one;
}

/** One field of `INFO`. */
async function info(port, section, field) {
  const text = await new Promise((resolve) => {
    const socket = connect(port, "127.0.0.1", () => socket.write(`INFO ${section}\r\nPING\r\n`));
    let all = "";
    socket.on("data", (data) => {
      all += data;
      if (all.endsWith("+PONG\r\n")) socket.destroy(), resolve(all);
    });
  });
  return Number(text.match(new RegExp(`^${field}:?(\\d+)`, "m"))?.[1] ?? 0);
}

/** Commands that clients send to a Redis in a second, those of scripts left out. */
async function rate(store, seconds) {
  const calls = async () => {
    let sum = 0;
    for (const name of ["evalsha", "eval", "xread", "ping", "publish", "set", "exists", "hello"]) {
      sum += await info(store.port, "commandstats", `cmdstat_${name}:calls=`);
    }
    return sum;
  };
  const [before, bytes] = [await calls(), await info(store.port, "stats", "total_net_input_bytes")];
  await pause(seconds * 1000);
  const [after, all] = [await calls(), await info(store.port, "stats", "total_net_input_bytes")];
  return { commands: (after - before) / seconds, bytes: (all - bytes) / seconds };
}

/** Live connections of as many users. */
async function users(to, count, offset = 0) {
  const sockets = [];
  for (let begin = 0; begin < count; begin += 200) {
    const batch = Array.from({ length: Math.min(200, count - begin) }, (_, index) => {
      const socket = new WebSocket(`${to.live}?token=${token(`user${offset + begin + index}`)}`);
      sockets.push(socket);
      return once(socket, "message");
    });
    await Promise.all(batch);
  }
  return sockets;
}

async function idleCost() {
  const rows = [];
  const seconds = QUICK ? 2 : 30;
  for (const count of QUICK ? [50, 100] : [100, 1000, 10000]) {
    const store = await redis();
    const nodes = await Promise.all(["n1", "n2", "n3"].map((id) => node(store, id, { "presence.announce": "off" })));
    const sockets = await users(nodes[0], count);
    await pause(QUICK ? 200 : 3000);
    const ours = await rate(store, seconds);
    const memory = (await info(store.port, "memory", "used_memory")) / count;
    for (const socket of sockets) socket.terminate();
    await Promise.all(nodes.map((one) => one.kill()));
    await store.kill();

    const other = await redis();
    const byHand = spawn("node", [here("peers/adapter/presence.js"), other.url, `${count}`], { stdio: "inherit" });
    await pause(QUICK ? 500 : 26000);
    const theirs = await rate(other, seconds);
    byHand.kill("SIGKILL");
    await other.kill();
    rows.push({ count, ours, theirs, memory });
    say(`${count} idle users: ${ours.commands.toFixed(1)} commands/s, by hand ${theirs.commands.toFixed(1)}`);
  }
  return rows;
}

async function timeToOffline() {
  const store = await redis();
  const [one, two] = [await node(store, "n1"), await node(store, "n2")];
  const count = QUICK ? 50 : 1000;
  const watcher = (await users(one, 1, 1_000_000))[0];
  const offline = [];
  watcher.on("message", (data) => {
    if (JSON.parse(data).type === "user:offline") offline.push(Date.now());
  });
  const sockets = await users(two, count);
  // Its lease was renewed at some moment of the last five seconds.
  const killed = Date.now();
  await two.kill();
  await until(() => offline.length === count, "all are offline", 30000);
  const seconds = (at) => (at - killed) / 1000;
  const result = { count, first: seconds(offline[0]), last: seconds(offline.at(-1)) };
  for (const socket of [watcher, ...sockets]) socket.terminate();
  await one.kill();
  await store.kill();
  say(`${count} users of a killed node: offline after ${result.first.toFixed(1)} to ${result.last.toFixed(1)} s`);
  return result;
}

/** A Socket.IO client in a few lines, so that it costs the same for both servers. */
async function member(url, user) {
  const socket = new WebSocket(`${url.replace("http", "ws")}/socket.io/?EIO=4&transport=websocket`, { perMessageDeflate: false });
  const connected = new Promise((resolve) => {
    socket.on("message", (data) => {
      const text = data.toString();
      if (text[0] === "0") socket.send(`40${JSON.stringify({ token: token(user) })}`);
      else if (text === "2") socket.send("3");
      else if (text.startsWith("40")) socket.send('420["join",{"room":"r"}]');
      else if (text.startsWith("430")) resolve();
    });
  });
  await connected;
  return socket;
}

/** One speaks on one server; many hear it on the other. */
async function across(speakTo, hearAt, members, messages, inFlight) {
  const listeners = await Promise.all(Array.from({ length: members }, (_, index) => member(hearAt, `m${index}`)));
  const speaker = await member(speakTo, "speaker");
  const data = "x".repeat(100);
  const latencies = [];
  let sent = 0, heard = 0, done;
  const all = new Promise((resolve) => (done = resolve));
  const speak = () => {
    sent++;
    speaker.send(`42["publish",{"room":"r","event":"m","data":{"at":${performance.now()},"data":"${data}"}}]`);
  };
  for (const [index, listener] of listeners.entries()) {
    listener.on("message", (frame) => {
      const text = frame.toString();
      if (!text.startsWith('42["m"')) return;
      heard++;
      if (index === 0) {
        latencies.push(performance.now() - JSON.parse(text.slice(2))[1].at);
        if (sent < messages) speak();
      }
      if (heard === messages * members) done();
    });
  }
  const begin = performance.now();
  for (let count = 0; count < inFlight; count++) speak();
  await Promise.race([all, pause(60000)]);
  const seconds = (performance.now() - begin) / 1000;
  latencies.sort((a, b) => a - b);
  for (const socket of [speaker, ...listeners]) socket.terminate();
  return { rate: heard / seconds, lost: messages * members - heard, p50: latencies[latencies.length >> 1], p99: latencies[Math.floor(latencies.length * 0.99)] };
}

async function crossNode() {
  const store = await redis();
  const ours = [await node(store, "n1", { "presence.announce": "off" }), await node(store, "n2", { "presence.announce": "off" })];
  const theirs = [];
  for (let index = 0; index < 2; index++) {
    const port = await freePort();
    const child = spawn("node", [here("peers/adapter/server.js"), `${port}`, store.url], { stdio: "inherit" });
    started.push({ kill: () => child.kill("SIGKILL") });
    const url = `http://127.0.0.1:${port}`;
    // An answer of any kind: it takes WebSockets only.
    await until(() => fetch(`${url}/socket.io/?EIO=4&transport=polling`).then(() => true, () => false), "the peer listens", 10000);
    theirs.push({ http: url });
  }
  const rows = [];
  const [members, messages] = QUICK ? [5, 50] : [100, 2000];
  for (const inFlight of [1, 16]) {
    const results = { heartline: [], node: [] };
    for (let round = 0; round < (QUICK ? 1 : 3); round++) {
      results.heartline.push(await across(ours[0].http, ours[1].http, members, messages, inFlight));
      results.node.push(await across(theirs[0].http, theirs[1].http, members, messages, inFlight));
    }
    const median = (list, key) => list.map((one) => one[key]).sort((a, b) => a - b)[list.length >> 1];
    const row = { inFlight, members };
    for (const [name, list] of Object.entries(results)) {
      row[name] = { rate: median(list, "rate"), p50: median(list, "p50"), p99: median(list, "p99"), lost: list.reduce((sum, one) => sum + one.lost, 0) };
    }
    rows.push(row);
    say(`across nodes, ${inFlight} in flight: ${row.heartline.rate.toFixed(0)}/s, Socket.IO ${row.node.rate.toFixed(0)}/s`);
  }
  await Promise.all(ours.map((one) => one.kill()));
  await store.kill();
  return rows;
}

function document(idle, offline, cross) {
  const table = (head, rows) => [head, head.map(() => "---:"), ...rows].map((row) => `| ${row.join(" | ")} |`).join("\n");
  return `# What a cluster costs and gives

Written by \`node bench/cluster.js\` on ${new Date().toISOString().slice(0, 10)}, on ${cpus().length} × ${cpus()[0].model}: three
nodes, Redis and the clients share the processors, so read the ratios.

## Redis, while nobody does anything

Commands that clients send per second to Redis, for three nodes with leases of 15 s, and for the
design that teams write by hand (\`bench/peers/adapter/presence.js\`: a key with a lifetime for each user,
renewed every 25 s, looked at every 30 s).

${table(["idle users", "Heartline, commands/s", "bytes/s to Redis", "by hand, commands/s", "bytes/s to Redis"], idle.map((row) => [row.count, row.ours.commands.toFixed(1), row.ours.bytes.toFixed(0), row.theirs.commands.toFixed(1), row.theirs.bytes.toFixed(0)]))}

Redis used ${idle.at(-1).memory.toFixed(0)} bytes per user in the last run, all included.

## From kill -9 to offline

${offline.count} users were connected to the node that was killed; with default leases (15 s, renewed every 5 s), another
node's client heard of the first after ${offline.first.toFixed(1)} s and of the last after ${offline.last.toFixed(1)} s.

## Broadcasts across nodes

One client publishes on one node, ${cross[0].members} members of the room hear it on the other; medians of three runs,
beside Socket.IO 4.8.4 on Node with its Redis adapter, on the same Redis.

${table(["in flight", "Heartline, deliveries/s", "p50 ms", "p99 ms", "Socket.IO, deliveries/s", "p50 ms", "p99 ms"], cross.map((row) => [row.inFlight, ...["heartline", "node"].flatMap((name) => [row[name].rate.toFixed(0), row[name].p50.toFixed(2), row[name].p99.toFixed(2)])]))}

Lost: ${cross.map((row) => `${row.heartline.lost} and ${row.node.lost}`).join("; ")}.
`;
}

process.on("exit", () => started.forEach((one) => one.kill()));
const idle = await idleCost();
const offline = await timeToOffline();
const cross = await crossNode();
if (!QUICK) {
  writeFileSync(here("CLUSTER.md"), document(idle, offline, cross));
  say(`written: ${here("CLUSTER.md")}`);
}
process.exit(0);
