// Churn, broadcast and slow consumers together for a while, again and again;
// afterwards nothing may be left of them: no connection, room, user or limiter
// key, and no memory.
//
//   node tests/soak/run.js [SECONDS]
import { spawn } from "node:child_process";
import { once } from "node:events";
import { readFileSync } from "node:fs";
import { BINARY, SECRET, serve, until } from "../e2e/lib/server.js";

const SECONDS = Number(process.argv[2] ?? 120);
const ROUND = Math.min(20, SECONDS / 3);
/** What may be left over of memory from one round to the next, once it has settled. */
const SLACK = 3 * 2 ** 20;

const node = await serve({
  "presence.announce": "rooms",
  "auth.mode": "optional",
  "server.send_buffer": "100KB",
  "limits.events": "off",
  "limits.joins": "off",
  "limits.connects_per_ip": "off",
});

/** Runs `heartline load`; its report. */
async function load(scenario, protocol, options) {
  const given = {
    "user-prefix": `${scenario}-${protocol}`,
    connections: 100,
    threads: 1,
    duration: `${ROUND}s`,
    warmup: "200ms",
    ...options,
  };
  const args = [
    "load",
    scenario,
    "--url",
    node.http,
    "--protocol",
    protocol,
    "--tokens",
    "--set",
    `auth.jwt.secret=${SECRET}`,
  ];
  for (const [name, value] of Object.entries(given))
    args.push(`--${name}`, ...(value === true ? [] : [`${value}`]));
  const child = spawn(BINARY, args, { stdio: ["ignore", "pipe", "pipe"] });
  let out = "",
    log = "";
  child.stdout.on("data", (data) => (out += data));
  child.stderr.on("data", (data) => (log += data));
  const [code] = await once(child, "close");
  if (code !== 0) throw new Error(`heartline ${args.join(" ")}: exit ${code}: ${log}`);
  return JSON.parse(out);
}

const resident = () =>
  Number(readFileSync(`/proc/${node.child.pid}/status`, "utf8").match(/VmRSS:\s+(\d+)/)[1]) * 1024;
const megabytes = (bytes) => `${(bytes / 2 ** 20).toFixed(1)} MB`;

/** Waits until everything is given back; limiter keys are forgotten last. */
async function empty() {
  const gauges = [
    "transports",
    "rooms",
    "users_online",
    "rate_limit_entries",
    ...["polling", "websocket", "live"].map(
      (transport) => `connections{transport="${transport}",namespace="/"}`,
    ),
  ];
  for (const gauge of gauges) {
    await until(
      async () => (await node.metric(`heartline_${gauge}`)) === 0,
      `${gauge} back at zero`,
      120_000,
    );
  }
}

/** The allocator gives pages back in the background, for some seconds. */
async function settled() {
  const before = Math.min(...sizes);
  await until(() => resident() <= before + SLACK / 2, "the pages", 30_000).catch(() => {});
  return resident();
}

const sizes = [];
let rounds = 0,
  slow = 0,
  problems = [];
const end = Date.now() + SECONDS * 1000;
while (Date.now() < end || rounds < 3) {
  const runs = await Promise.all([
    load("churn", "socketio", { connections: 20, "connect-rate": 400, users: 50 }),
    load("churn", "polling", { connections: 10, "connect-rate": 100 }),
    load("churn", "live", { connections: 20, "connect-rate": 400 }),
    load("broadcast", "live", { connections: 300, rooms: 30, "publish-rate": 100 }),
    load("broadcast", "polling", { connections: 30, rooms: 3, "publish-rate": 30 }),
    load("slow", "socketio", {
      connections: 100,
      "publish-rate": 100,
      size: 4000,
      "slow-percent": 20,
    }),
    load("slow", "live", {
      connections: 100,
      "publish-rate": 100,
      size: 4000,
      "slow-percent": 20,
      keyed: true,
    }),
    load("echo", "socketio", { connections: 20 }),
  ]);
  rounds += 1;
  for (const run of runs) {
    // Who does not read is let go with 4413, and nobody else. Deliveries cannot be
    // counted here: all runs share their rooms.
    slow += run.close_codes[4413] ?? 0;
    const others = Object.entries(run.close_codes).filter(([code]) => code !== "4413");
    const refused = Object.keys(run.failures).filter((why) => why !== "RATE_LIMITED");
    if (others.length > 0 || refused.length > 0) {
      problems.push(
        `round ${rounds}, ${run.scenario} ${run.protocol}: ` +
          `closed ${JSON.stringify(run.close_codes)}, failed ${JSON.stringify(run.failures)}`,
      );
    }
  }
  await empty();
  sizes.push(await settled());
  console.log(
    `round ${rounds}: ` +
      runs.map((run) => `${run.scenario} ${Math.round(run.per_second)}/s`).join(", ") +
      `; ${slow} slow ones let go; ${megabytes(sizes.at(-1))} resident`,
  );
}

// The first rounds fill the pools and the allocator's arenas.
const late = sizes.slice(Math.floor(sizes.length / 3));
const growth = late.at(-1) - Math.min(...late);
console.log(`${rounds} rounds; memory once settled: ${late.map(megabytes).join(", ")}`);
if (slow === 0)
  problems.push("no slow consumer was ever let go: the load is too small to show anything");
if (growth > SLACK + late.length * 2 ** 18)
  problems.push(`memory has grown by ${megabytes(growth)}`);
if ((await node.stop()) !== 0) problems.push("the node did not end in good order");
for (const problem of problems) console.error(problem);
console.log(problems.length === 0 ? "nothing is left" : "FAILED");
process.exit(problems.length === 0 ? 0 : 1);
