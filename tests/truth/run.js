// Presence, as clients see it, against the truth: three nodes and a Redis, and everything that
// docs/truth.md names goes wrong, by seeds that can be used again.
//
//   node tests/truth/run.js [SECONDS [SEED]]          `make truth SECONDS=… SEED=…`
//
// The first round is the one of SEED, and each next one has the next seed. FAULTS=cut,kill chooses
// among the kinds of faults, REDIS=plain,sentinel,cluster among the ways to run Redis,
// ANNOUNCE=namespace,rooms among who hears; OTHER_BIN=PATH is another build, which nodes are
// replaced by and by which they are replaced. HISTORIES=all keeps the histories of green rounds too.
import { existsSync } from "node:fs";
import { within } from "../lib/wait.js";
import { check } from "./check.js";
import { Cluster } from "./cluster.js";
import { clock } from "./clock.js";
import { Dice } from "./dice.js";
import { KINDS } from "./faults.js";
import { History } from "./history.js";
import { observers } from "./observers.js";
import { BEGIN, schedule } from "./schedule.js";
import { table } from "./summary.js";
import { Users } from "./users.js";

const SECONDS = Number(process.argv[2] || 120);
const SEED = Number(process.argv[3] || Date.now() % 1_000_000);
const [ONLY, REDIS, ANNOUNCE] = ["FAULTS", "REDIS", "ANNOUNCE"].map((name) =>
  process.env[name]?.split(","),
);
const OTHER = process.env.OTHER_BIN;
const KEEPS = process.env.HISTORIES === "all";
/** Milliseconds. The slack is for machines that have something else to do as well. */
const SETTINGS = { lease: 4000, refresh: 800, silence: 1200, heartbeat: 3000, slack: 1200 };
const USERS = Array.from({ length: 14 }, (_, index) => `u${index}`);
const ROOM = "lobby";
const NODE = {
  "cluster.lease_ttl": `${SETTINGS.lease}ms`,
  "cluster.lease_refresh": `${SETTINGS.refresh}ms`,
  "cluster.failure_timeout": `${SETTINGS.silence}ms`,
  "heartbeat.interval": "2s",
  "heartbeat.timeout": "1s",
  "server.drain_timeout": "1s",
  "limits.events": "off",
  "limits.joins": "off",
};

/** A round that takes longer hangs, in milliseconds. */
const LONGEST = 150_000;

const pause = (ms) => new Promise((resolve) => setTimeout(resolve, ms));

async function faults(cluster, plan, history, watchers, counts) {
  const begun = history.now;
  let id = 0;
  const hurt = async (fault) => {
    const mine = id++;
    const { kind, node, observer, ...detail } = fault;
    const watcher = watchers[observer % watchers.length];
    const begins = () =>
      history.add("fault", {
        id: mine,
        kind,
        ...(node !== undefined && { node: cluster.nodes[node].id }),
        ...(kind === "replace" && { build: 1 - cluster.nodes[node].build }),
        ...(observer !== undefined && { observer: watcher.name }),
        ...detail,
      });
    const ends = (more) => history.add("healed", { id: mine, ...more });
    counts[kind] = (counts[kind] ?? 0) + 1;
    if (kind !== "deaf") return cluster.hurt(fault, begins, ends);
    begins();
    watcher.proxy.all("stop");
    ends();
  };
  const one = async ({ at, ...fault }) => {
    await pause(Math.max(0, begun + at - history.now));
    if (fault.kind !== "roll") return hurt(fault);
    counts.roll = (counts.roll ?? 0) + 1;
    for (const node of cluster.nextToReplace(fault.first))
      await hurt({ kind: "replace", node, ms: fault.ms });
  };
  await Promise.all(plan.map(one));
}

/** One round, from clients who come to the verdict. */
async function round(cluster, plan, tell) {
  const dice = new Dice(plan.seed ^ 0x5eed);
  const announce = plan.announce === "rooms" ? ROOM : undefined;
  const history = new History(plan.seed, { ...SETTINGS, announce }, plan.faults);
  const { heartbeat, lease, slack } = SETTINGS;
  const shared = { history, users: USERS, room: ROOM, heartbeat, announce };
  const watchers = await observers(cluster.nodes, shared);
  // Users do not look for a node that a kill has just taken away.
  const users = new Users({ ...shared, dice, nodes: () => cluster.up });
  const counts = {};
  let isOver = false;
  const every = async (from, to, act) => {
    while (!isOver) {
      await pause(dice.between(from, to));
      if (!isOver) act();
    }
  };
  const lively = [
    every(30, 150, () => users.act()),
    every(2000, 6000, () => {
      const to = dice.one(cluster.up);
      if (to) dice.one(watchers).move(to.port, dice.one(["cut", "reset", "halfOpen"]));
    }),
    // Whoever finds nobody at home is led to another node, as by a balancer.
    every(200, 300, () => {
      const ports = cluster.up.map(({ port }) => port);
      for (const one of watchers)
        if (!one.isHere && ports.length > 0 && !ports.includes(one.proxy.to))
          if (dice.chance(0.3)) one.proxy.to = dice.one(ports);
    }),
  ];
  let asks = true;
  const asking = watchers.map(async (one) => {
    while (asks) {
      await pause(400 + Math.random() * 800);
      if (asks) one.ask();
    }
  });
  try {
    await pause(slack);
    await faults(cluster, plan.faults, history, watchers, counts);
    tell("faults are over");
    await pause(Math.max(0, BEGIN - history.now) + lease);
    isOver = true;
    await Promise.all(lively);
    // Who was let go by a drain counts as there for a while.
    await pause(lease + 2 * slack + 1000 + (counts.drain || counts.replace ? 3000 : 0));
    history.add("quiet");
    await pause(100);
  } finally {
    isOver = asks = false;
    history.end();
    await Promise.all([...asking, ...lively]);
    users.close();
    for (const one of watchers) one.close();
  }
  return { history, counts, result: check(history.events) };
}

/** What a round's cluster is, in words. */
function words({ topology, announce }, cluster) {
  const hears = announce === "rooms" ? ", rooms hear" : "";
  const others = cluster.nodes.filter(({ build }) => build === 1).map(({ id }) => id);
  return topology + hears + (OTHER ? `, other build: ${others.join(" ") || "none"}` : "");
}

async function main() {
  if (OTHER && !existsSync(OTHER)) throw new Error(`OTHER_BIN: there is no ${OTHER}`);
  const begun = Date.now();
  const end = begun + SECONDS * 1000;
  const rows = [];
  let cluster, way;
  let red = 0;
  const time = clock();
  const options = {
    lease: SETTINGS.lease,
    only: ONLY,
    redis: REDIS,
    announce: ANNOUNCE,
    hasClock: !!time,
    hasBuilds: !!OTHER,
  };
  console.error(
    `seed ${SEED}, ${SECONDS} s${time ? "" : "; without steps of the clock: there is no cc"}`,
  );
  for (let seed = SEED; Date.now() < end; seed++) {
    const plan = schedule(seed, options);
    const tell = (text) =>
      console.error(`${Math.round((Date.now() - begun) / 1000)} s, round ${seed}: ${text}`);
    const { topology, announce } = plan;
    try {
      if (way !== `${topology} ${announce}`) {
        await cluster?.kill();
        way = `${topology} ${announce}`;
        const settings = { ...NODE, "presence.announce": announce };
        cluster = await Cluster.start(topology, settings, { clock: time, other: OTHER });
      }
      const list = plan.faults.map(({ kind, node, ms }) => `${kind}${node ?? ""} ${ms}`);
      tell(`(${words(plan, cluster)}) ${list.join(", ")}`);
      const going = round(cluster, plan, tell);
      const { history, counts, result } = await within(going, "the round's end", LONGEST);
      rows.push({ seed, topology, announce, hasBuilds: !!OTHER, done: counts, ...result });
      const { violations } = result;
      if (violations.length > 0) {
        red++;
        tell(`${violations.length} violations, in ${history.write()}`);
        for (const { rule, text } of violations.slice(0, 6)) console.error(`  ${rule}: ${text}`);
      } else if (KEEPS) history.write();
      await cluster.whole();
      // What this round's clients have left behind is gone before the next.
      await pause(SETTINGS.slack);
    } catch (error) {
      red++;
      tell(`the round did not end: ${error.stack}`);
      await cluster?.kill();
      cluster = way = undefined;
    }
  }
  await cluster?.kill();
  time?.remove();
  console.log(table(rows, KINDS));
  console.log(red === 0 ? "\nwhat clients were told is true" : `\nFAILED: ${red} rounds`);
  process.exit(red === 0 ? 0 : 1);
}

// However this ends, it leaves nobody behind.
for (const signal of ["SIGINT", "SIGTERM"]) process.on(signal, () => process.exit(130));
await main();
