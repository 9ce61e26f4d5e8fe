// What a storm of logins costs: how many users a second get in, and what reaches a
// client that watches them come. Prints; writes nothing.
//
//   node bench/logins.js [USERS]
import { spawn } from "node:child_process";
import { once } from "node:events";
import { redis } from "../tests/e2e/lib/redis.js";
import { BINARY, SECRET, serve, token, until } from "../tests/e2e/lib/server.js";
import { Live } from "../tests/e2e/lib/clients.js";

const USERS = Number(process.argv[2] ?? 10_000);
const OPEN = { "limits.connects_per_ip": "off" };

/** So many users come as fast as they can and go again; the load generator's report. */
async function storm(node) {
  const flags = {
    url: node.http,
    protocol: "live",
    set: `auth.jwt.secret=${SECRET}`,
    connections: USERS,
    threads: 1,
    duration: "1s",
    warmup: "100ms",
  };
  const given = Object.entries(flags).flatMap(([name, value]) => [`--${name}`, `${value}`]);
  const args = ["load", "idle", "--tokens", ...given];
  const child = spawn(BINARY, args, { stdio: ["ignore", "pipe", "inherit"] });
  let out = "";
  child.stdout.on("data", (data) => (out += data));
  const [code] = await once(child, "close");
  if (code !== 0) throw new Error(`heartline load: exit ${code}`);
  return JSON.parse(out);
}
const ready = (node) => until(async () => (await node.api("/readyz")).body.status === "ready", "ready", 60_000);

const store = await redis();
for (const [what, cluster] of [["one node", {}], ["a cluster", { "cluster.url": store.url }]]) {
  const quiet = await serve({ ...OPEN, ...cluster, "presence.announce": "off" });
  await ready(quiet);
  console.log(`${what}, nobody told: ${Math.round((await storm(quiet)).connects_per_second)} logins/s`);
  await quiet.kill();
}

const set = { ...OPEN, "cluster.url": store.url, "cluster.prefix": "watched" };
const one = await serve(set), two = await serve(set);
await Promise.all([one, two].map(ready));
const watcher = await Live.connect(two.live, token("watcher"));
let writes = 0, bytes = 0, came = 0, at;
const began = Date.now();
watcher.ws._socket.on("data", (data) => {
  if (came < USERS) (writes += 1), (bytes += data.length);
});
watcher.ws.on("message", (data) => {
  if (JSON.parse(data).type === "user:online" && ++came === USERS) at = Date.now();
});
const { connects_per_second } = await storm(one);
await until(() => came >= USERS, "all of them", 60_000);
console.log(
  `a cluster, everybody told: ${Math.round(connects_per_second)} logins/s; ` +
    `a client on the other node hears of ${came} ` +
    `within ${((at - began) / 1000).toFixed(1)} s, in ${writes} writes of ${Math.round(bytes / came)} bytes a user`,
);
await Promise.all([one.kill(), two.kill()]);
store.kill();
process.exit(0);
