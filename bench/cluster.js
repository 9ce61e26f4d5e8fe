// Measures what a cluster costs and gives, and writes CLUSTER.md.
//
//   node bench/cluster.js             all of it, about twelve minutes
//   node bench/cluster.js kills cuts  some of its parts: idle, kills, cuts, across
//   QUICK=1 node bench/cluster.js     a smoke run: everything once, small, writes nothing
//
// USERS=54000 is how many users there are while links are cut; NOTE="…" is written beside the date.
import { spawn } from "node:child_process";
import { once } from "node:events";
import { readFileSync, writeFileSync } from "node:fs";
import { connect } from "node:net";
import { cpus } from "node:os";
import { fileURLToPath } from "node:url";
import { Live, WebSocket } from "../tests/e2e/lib/clients.js";
import { ask, link, redis } from "../tests/e2e/lib/redis.js";
import { BINARY, SECRET, freePort, serve, token, until } from "../tests/e2e/lib/server.js";

const QUICK = Boolean(process.env.QUICK);
const USERS = Number(process.env.USERS ?? (QUICK ? 300 : 54_000));
const here = (path) => fileURLToPath(new URL(path, import.meta.url));
const say = (text) => console.log(text);
const pause = (ms) => new Promise((resolve) => setTimeout(resolve, ms));
const started = [];
const OFF = { "limits.events": "off", "limits.joins": "off", "limits.connects_per_ip": "off", "log.level": "warn" };

async function node(store, id, set = {}) {
  const one = await serve({ "server.node_id": id, "cluster.url": store.url, ...OFF, ...set });
  started.push(one);
  await until(async () => (await one.api("/readyz")).body.status === "ready", "ready", 60_000);
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

/** Commands that clients have sent to a Redis, those of scripts left out. */
async function calls(store) {
  let sum = 0;
  for (const name of ["evalsha", "eval", "xread", "ping", "publish", "set", "exists", "hello"]) {
    sum += await info(store.port, "commandstats", `cmdstat_${name}:calls=`);
  }
  return sum;
}

/** How many of them there are in a second. */
async function rate(store, seconds) {
  const [before, bytes] = [await calls(store), await info(store.port, "stats", "total_net_input_bytes")];
  await pause(seconds * 1000);
  const [after, all] = [await calls(store), await info(store.port, "stats", "total_net_input_bytes")];
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

async function idleCosts() {
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

/** A node is killed again and again, and another one's client hears that its users have gone. */
async function kills() {
  const [count, each] = QUICK ? [2, 10] : [30, 100];
  const store = await redis();
  const staying = [await node(store, "n1"), await node(store, "n2")];
  const watcher = (await users(staying[0], 1, 1_000_000))[0];
  const heard = { "user:online": 0, "user:offline": 0 };
  watcher.on("message", (data) => heard[JSON.parse(data).type]++);
  const first = [], last = [];
  for (let turn = 1; turn <= count; turn++) {
    const three = await node(store, `n${2 + turn}`);
    const sockets = await users(three, each, turn * each);
    await until(() => heard["user:online"] === turn * each, "all are online", 60_000);
    // Its lease was renewed at some moment of the last five seconds.
    await pause(Math.random() * 5000);
    const killed = performance.now();
    await three.kill();
    await until(() => heard["user:offline"] > (turn - 1) * each, "one is offline", 60_000);
    first.push(performance.now() - killed);
    await until(() => heard["user:offline"] === turn * each, "all are offline", 60_000);
    last.push(performance.now() - killed);
    for (const socket of sockets) socket.terminate();
  }
  watcher.terminate();
  await Promise.all(staying.map((one) => one.kill()));
  await store.kill();
  const of = (times, share) => `${(sorted(times)[Math.ceil(share * times.length) - 1] / 1000).toFixed(2)} s`;
  const times =
    `the first of them after ${of(first, 0.5)} (half of the kills) to ${of(first, 1)} (all), ` +
    `of the last after ${of(last, 0.5)} to ${of(last, 1)}`;
  say(`${count} kills: ${times}`);
  return `A node with ${each} users was killed ${count} times, at any time between two renewals of its lease (15 s,
renewed every 5 s); two others stay. A client of one of these heard that the users are offline: of
${times}.`;
}

const sorted = (list) => [...list].sort((a, b) => a - b);

/** Many users who do nothing on three nodes, while links to Redis are cut. */
async function cuts() {
  const each = Math.floor(USERS / 3);
  const store = await redis();
  const links = await Promise.all([1, 2, 3].map(() => link(store.port)));
  const set = { "presence.announce": "off" };
  const nodes = await Promise.all(links.map((one, index) => node(one, `n${index + 1}`, set)));
  const begun = performance.now();
  nodes.forEach((one, index) => idle(one, each, `of${index}`));
  const registered = async () => {
    const counts = (await ask(store.port, "HVALS", "{hl}:sockets")).split("\n");
    return counts.reduce((sum, one) => sum + Number(one), 0);
  };
  await until(async () => (await registered()) >= each * 3, "all are registered", 600_000);
  say(`${each * 3} users after ${((performance.now() - begun) / 1000).toFixed(0)} s`);
  // Each watches some of the users of all nodes.
  const some = Array.from({ length: 30 }, (_, at) => Math.floor((at * each) / 30));
  const names = nodes.flatMap((_, index) => some.map((at) => `of${index}-${at}`));
  const watchers = await Promise.all(nodes.map((one, index) => Live.connect(one.live, token(`watcher${index}`))));
  const request = async (watcher, event, data) => {
    const answer = await watcher.ask({ type: "emit", event, data });
    return answer.data ?? answer;
  };
  for (const watcher of watchers) await request(watcher, "presence:watch", { users: names });
  await pause(QUICK ? 1000 : 20_000);
  const seconds = QUICK ? 2 : 20;
  const usual = (await rate(store, seconds)).commands;
  const rows = [];
  for (const [what, cut] of [
    ["`CLIENT KILL TYPE normal`", () => ask(store.port, "CLIENT", "KILL", "TYPE", "normal")],
    ["`CLIENT KILL TYPE pubsub`", () => ask(store.port, "CLIENT", "KILL", "TYPE", "pubsub")],
    ["all links cut for a second", async () => {
      links.forEach((one) => one.cut());
      await pause(1000);
      links.forEach((one) => one.heal());
    }],
  ]) {
    const edges = async () => Number(await ask(store.port, "GET", "{hl}:edge"));
    const joined = async () => Promise.all(nodes.map((one) => one.metric("heartline_cluster_incarnations_total")));
    const isChange = ({ type, data, users }) =>
      type === "presence:change" && (data?.users ?? users)?.length > 0;
    const changed = () => watchers.map(({ heard }) => heard.filter(isChange).length);
    const [before, asked, old, shown] = [await edges(), await calls(store), await joined(), changed()];
    await cut();
    const healed = performance.now();
    let doubted = 0;
    const isSure = async () => {
      const answers = await Promise.all(watchers.map((one) => request(one, "presence:get", { users: names })));
      const states = await Promise.all(nodes.map(async (one) => (await one.api("/readyz")).body?.status));
      const isRight = answers.every(
        ({ users }) =>
          users?.length === names.length && users.every(({ online, stale }) => online && !stale),
      );
      return isRight && states.every((state) => state === "ready");
    };
    // From when on all are sure for two seconds on end.
    for (let sure = healed; performance.now() - sure < 2000; ) {
      if (!(await isSure())) (doubted = performance.now() - healed), (sure = performance.now());
      if (performance.now() - healed > 60_000) throw new Error("not sure within a minute");
      await pause(20);
    }
    // Two leases later nobody comes any more who has not come.
    await pause(QUICK ? 1000 : Math.max(0, 30_000 - (performance.now() - healed)));
    const took = (performance.now() - healed) / 1000;
    const more = (await calls(store)) - asked - usual * took;
    const [after, now] = [await edges(), await joined()];
    const grown = (to, from) => to.reduce((sum, one, index) => sum + one - from[index], 0);
    const row = {
      what,
      sure: doubted,
      commands: Math.max(0, more),
      edges: after - before,
      joined: grown(now, old),
      changes: grown(changed(), shown),
    };
    rows.push(row);
    say(JSON.stringify(row));
  }
  started.forEach((one) => one.kill());
  await store.kill();
  const head = [
    "what is done to Redis's clients",
    "sure after",
    "commands besides",
    "registered again",
    "changes of presence",
    "of those who are watched",
  ];
  const cells = rows.map((row) => [
    row.what,
    `${row.sure.toFixed(0)} ms`,
    row.commands.toFixed(0),
    `${row.joined} nodes`,
    row.edges,
    row.changes,
  ]);
  return `${each * 3} users who do nothing on three nodes, with default leases. On each node a client watches
${names.length} users of all nodes. From when on all answers are certain and right and all nodes ready; what Redis was
asked in half a minute besides the ${usual.toFixed(1)} commands/s of before; and what that changed, where the truth is
that nobody came or went.

${table(head, cells)}`;
}

/** As many idle users as that, by the load generator, until this process ends. */
function idle(to, count, prefix) {
  const flags = {
    url: to.http,
    protocol: "live",
    set: `auth.jwt.secret=${SECRET}`,
    connections: count,
    threads: 1,
    duration: "3600s",
    "user-prefix": prefix,
  };
  const given = Object.entries(flags).flatMap(([name, value]) => [`--${name}`, `${value}`]);
  const args = ["load", "idle", "--tokens", ...given];
  const child = spawn(BINARY, args, { stdio: "ignore" });
  started.push({ kill: () => child.kill("SIGKILL") });
}

/** A Socket.IO client in a few lines, so that it costs the same for both servers. */
async function member(url, user) {
  const at = `${url.replace("http", "ws")}/socket.io/?EIO=4&transport=websocket`;
  const socket = new WebSocket(at, { perMessageDeflate: false });
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
  return {
    rate: heard / seconds,
    lost: messages * members - heard,
    p50: latencies[latencies.length >> 1],
    p99: latencies[Math.floor(latencies.length * 0.99)],
  };
}

async function crossNode() {
  const store = await redis();
  const set = { "presence.announce": "off" };
  const ours = [await node(store, "n1", set), await node(store, "n2", set)];
  const theirs = [];
  for (let index = 0; index < 2; index++) {
    const port = await freePort();
    const child = spawn("node", [here("peers/adapter/server.js"), `${port}`, store.url], { stdio: "inherit" });
    started.push({ kill: () => child.kill("SIGKILL") });
    const url = `http://127.0.0.1:${port}`;
    // An answer of any kind: it takes WebSockets only.
    const at = `${url}/socket.io/?EIO=4&transport=polling`;
    const listens = () => fetch(at).then(() => true, () => false);
    await until(listens, "the peer listens", 60_000);
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
      row[name] = {
        rate: median(list, "rate"),
        p50: median(list, "p50"),
        p99: median(list, "p99"),
        lost: list.reduce((sum, one) => sum + one.lost, 0),
      };
    }
    rows.push(row);
    const [our, their] = [row.heartline, row.node].map(({ rate }) => rate.toFixed(0));
    say(`across nodes, ${inFlight} in flight: ${our}/s, Socket.IO ${their}/s`);
  }
  await Promise.all(ours.map((one) => one.kill()));
  await store.kill();
  return rows;
}

function table(head, rows) {
  const sides = head.map((_, index) => (index === 0 && isNaN(rows[0][0]) ? "---" : "---:"));
  return [head, sides, ...rows].map((row) => `| ${row.join(" | ")} |`).join("\n");
}

async function idleText() {
  const rows = await idleCosts();
  const head = ["idle users", "Heartline, commands/s", "bytes/s to Redis", "by hand, commands/s", "bytes/s to Redis"];
  const costs = ({ commands, bytes }) => [commands.toFixed(1), bytes.toFixed(0)];
  const cells = rows.map((row) => [row.count, ...costs(row.ours), ...costs(row.theirs)]);
  return `Commands that clients send per second to Redis, for three nodes with leases of 15 s, and for the
design that teams write by hand (\`bench/peers/adapter/presence.js\`: a key with a lifetime for each user,
renewed every 25 s, looked at every 30 s).

${table(head, cells)}

Redis used ${rows.at(-1).memory.toFixed(0)} bytes per user in the last run, all included.`;
}

async function acrossText() {
  const rows = await crossNode();
  const columns = (name) => [`${name}, deliveries/s`, "p50 ms", "p99 ms"];
  const head = ["in flight", ...columns("Heartline"), ...columns("Socket.IO")];
  const figures = ({ rate, p50, p99 }) => [rate.toFixed(0), p50.toFixed(2), p99.toFixed(2)];
  const cells = rows.map((row) => [row.inFlight, ...figures(row.heartline), ...figures(row.node)]);
  return `One client publishes on one node, ${rows[0].members} members of the room hear it on the other; medians of
three runs, beside Socket.IO 4.8.4 on Node with its Redis adapter, on the same Redis.

${table(head, cells)}

Lost: ${rows.map((row) => `${row.heartline.lost} and ${row.node.lost}`).join("; ")}.`;
}

const PARTS = {
  idle: ["Redis, while nobody does anything", idleText],
  kills: ["From kill -9 to offline", kills],
  cuts: ["Redis's clients are cut off", cuts],
  across: ["Broadcasts across nodes", acrossText],
};

/** Puts a part into the page, in the place of what is there under its heading. */
function write(name, heading, text) {
  const path = here("CLUSTER.md");
  const parts = readFileSync(path, "utf8").split(/^(?=## )/m).map((part) => part.trimEnd());
  const at = parts.findIndex((part) => part.startsWith(`## ${heading}\n`));
  const note = process.env.NOTE ? `; ${process.env.NOTE}` : "";
  const machine = `${cpus().length} × ${cpus()[0].model}`;
  const day = new Date().toISOString().slice(0, 10);
  const when = `\`node bench/cluster.js ${name}\` on ${day}, on ${machine}${note}.`;
  parts.splice(at < 0 ? parts.length : at, at < 0 ? 0 : 1, `## ${heading}\n\n${when}\n\n${text}`);
  writeFileSync(path, `${parts.join("\n\n")}\n`);
  say(`written: ${path}`);
}

process.on("exit", () => started.forEach((one) => one.kill()));
const chosen = process.argv.slice(2);
for (const [name, [heading, measure]] of Object.entries(PARTS)) {
  if (chosen.length > 0 && !chosen.includes(name)) continue;
  const text = await measure();
  if (!QUICK) write(name, heading, text);
}
process.exit(0);
