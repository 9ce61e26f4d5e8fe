// Nothing is lost: real clients and writers, while connections break at any byte, the gateway is
// killed and stopped, its database crashes, its disk is full, and a cluster's Redis fails over.
// Afterwards all that was heard and kept is compared with all that was said.
//
//   node tests/torture/run.js [SECONDS [PHASE,… [HURT,…]]]     `make torture SECONDS=…`
//
// A cluster is hurt in all ways, or in those that are named (tests/torture/cluster.js), "failover".
// SECONDS is for all phases together, so it decides how many cuts and kills there are. Phases
// that begin with "node" torture Socket.IO on Node in the same way: what they lose is told, and
// no fault of the run.
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { redis } from "../e2e/lib/redis.js";
import { within } from "../e2e/lib/server.js";
import { Cluster, HURTS, Pair } from "./cluster.js";
import { History, tables } from "./report.js";
import { between, pause, rooms } from "./rooms.js";
import { Heartline, Node } from "./servers.js";
import { database, disk, sqlite } from "./store.js";

/** What is done to a server of rooms, again and again. */
function hurting(done) {
  const hurt = (name, act) => {
    done[name] = 0;
    return async (server, history) => {
      await pause(between(0, 300));
      history.add(name);
      await act(server);
      done[name]++;
    };
  };
  return {
    kill: () =>
      hurt("kill -9", async (server) => {
        await server.kill();
        await server.start();
      }),
    stop: () =>
      hurt("SIGSTOP", async (server) => {
        server.signal("SIGSTOP");
        await pause(between(100, 6000));
        server.signal("SIGCONT");
      }),
  };
}

/** A phase with rooms; `make` gives the server, and `hurt` names what is done to it. */
const inRooms = (title, make, { hurt, ...mix } = {}) => ({
  kind: "rooms",
  title,
  run: async (options) => {
    const folder = mkdtempSync(join(tmpdir(), "heartline-torture-"));
    const keeper = make === streams ? await redis() : undefined;
    const done = {};
    try {
      const act = hurt && hurting(done)[hurt]();
      const result = await rooms(make(keeper, folder), { ...options, ...mix, hurt: act });
      return { ...result, done };
    } finally {
      await keeper?.kill();
      rmSync(folder, { recursive: true, force: true });
    }
  },
});
/** The same with three gateways, a Redis and its replica. */
const inCluster = (title) => ({
  kind: "rooms",
  title,
  run: async (options) => {
    const pair = new Pair();
    const named = process.argv[4]?.split(",");
    const hurts = HURTS.filter(([name]) => !named || named.includes(name));
    const done = Object.fromEntries(hurts.map(([name]) => [name, 0]));
    const all = hurts.flatMap(([name, times, act]) => Array(times).fill([name, act]));
    const hurt = async (cluster, history) => {
      const [name, act] = all[Math.floor(Math.random() * all.length)];
      history.add(name);
      await act(cluster);
      done[name]++;
    };
    try {
      const cluster = new Cluster(await pair.start());
      // One of three is killed: a part of the clients comes back for it.
      const how = { ...ALL, hurt, count: 120, waits: 1 / 8 };
      const result = await rooms(cluster, { ...options, ...how });
      return { ...result, done };
    } finally {
      await pair.end();
    }
  },
});
const memory = () => new Heartline();
const journal = (_, folder) => new Heartline({ "recovery.journal": join(folder, "journal") });
const node = () => new Node();
const streams = (keeper) => new Node(keeper);
const ALL = { live: true, own: true, users: true };

const inStore = (title, run, hurts) => ({
  kind: "store",
  title,
  run: (options) => run({ ...options, hurts }),
});

/** With each its part of the time. */
const PHASES = {
  memory: { part: 2, ...inRooms("Heartline, in memory", memory, ALL) },
  stopped: { part: 2, ...inRooms("Heartline, stopped", memory, { ...ALL, hurt: "stop" }) },
  journal: {
    part: 8,
    ...inRooms("Heartline with a journal, killed", journal, { ...ALL, hurt: "kill" }),
  },
  cluster: { part: 10, ...inCluster("Heartline, three gateways and a Redis that fails over") },
  sqlite: {
    part: 4,
    ...inStore("SQLite, gateway killed and stopped", sqlite, ["kill", "kill", "kill", "stop"]),
  },
  postgres: {
    part: 9,
    ...inStore("PostgreSQL, it and the gateway killed", database, ["crash", "crash", "kill"]),
  },
  disk: { part: 2, ...inStore("SQLite, disk full", disk, ["fill"]) },
  heartline: { part: 3, ...inRooms("Heartline", memory) },
  node: { part: 3, ...inRooms("Node, in memory", node), isPeer: true },
  nodeStreams: { part: 3, ...inRooms("Node, Redis streams", streams), isPeer: true },
  heartlineKilled: {
    part: 2,
    ...inRooms("Heartline with a journal, killed", journal, { hurt: "kill" }),
  },
  nodeKilled: {
    part: 2,
    ...inRooms("Node, in memory, killed", node, { hurt: "kill" }),
    isPeer: true,
  },
  nodeStreamsKilled: {
    part: 2,
    ...inRooms("Node, Redis streams, killed", streams, { hurt: "kill" }),
    isPeer: true,
  },
};

/** How much longer than its time a phase may take to begin, to settle and to end, milliseconds. */
const SETTLING = 200_000;

const SECONDS = Number(process.argv[2] ?? 300);
// Peers, and what stands beside them, only where they are named.
const usual = Object.keys(PHASES).slice(0, Object.keys(PHASES).indexOf("heartline"));
const names = process.argv[3]?.split(",") ?? usual;
/** The first faults of each kind. */
function someOfEach(faults) {
  const counts = new Map();
  return faults.filter((fault) => {
    const kind = /^\S+ \d+: (\w+):/.exec(fault)?.[1];
    counts.set(kind, (counts.get(kind) ?? 0) + 1);
    return counts.get(kind) <= 5;
  });
}

const parts = names.reduce((sum, name) => sum + PHASES[name].part, 0);
const results = [];
let red = 0;
let isStuck = false;
for (const name of names) {
  const { part, kind, title, isPeer, run } = PHASES[name];
  const seconds = (SECONDS * part) / parts;
  const history = new History();
  const begun = Date.now();
  let next = 0;
  const tell = (text) => {
    const now = Date.now();
    if (now < next) return;
    next = now + 5000;
    console.error(
      `${name}: ${Math.round((now - begun) / 1000)} of ${Math.round(seconds)} s, ${text}`,
    );
  };
  let result;
  let isOver = false;
  const running = run({ seconds, history, tell }).finally(() => (isOver = true));
  try {
    result = await within(running, "the end of the phase", seconds * 1000 + SETTLING);
  } catch (error) {
    result = { faults: [error.stack] };
    isStuck = !isOver;
  }
  if (result.heard !== undefined) results.push({ name, kind, title, ...result });
  const { faults, ...rest } = result;
  console.error(`${name}: ${JSON.stringify(rest)}`);
  if (faults.length === 0) continue;
  const path = history.write(name, result);
  console.error(`${name}: ${faults.length} faults, in ${path}`);
  for (const fault of someOfEach(faults)) console.error(`  ${fault.slice(0, 600)}`);
  if (!isPeer || isStuck) red++;
  // What still runs of it would be in the way of the next.
  if (isStuck) break;
}
console.log(tables(results));
console.log(red === 0 ? "\nnothing is lost" : "\nFAILED");
process.exit(red === 0 ? 0 : 1);
