// Measures Heartline and its peers, interleaved, and writes RESULTS.md.
//
//   node bench/run.js            all of it, about three quarters of an hour
//   QUICK=1 node bench/run.js    a smoke run: everything once, small, no claims
//   ONLY=echo8,memory …          some figures only, to look at; writes nothing
//   BASELINE=DIR ONLY=…          an earlier build beside this one, in place of the peers:
//                                DIR is its target/release; prints after / before
import { spawn } from "node:child_process";
import { once } from "node:events";
import { mkdirSync, writeFileSync } from "node:fs";
import { availableParallelism } from "node:os";
import { fileURLToPath } from "node:url";
import { BUDGETS, FIGURES, GROWTH } from "./figures.js";
import { BINARY, PEERS, SECRET, before, start, variant } from "./peers.js";
import { document, growthPeers } from "./report.js";

const QUICK = Boolean(process.env.QUICK);
const ONLY = process.env.ONLY?.split(",");
const BASELINE = process.env.BASELINE;
const BEFORE = " before";
const ROUNDS = QUICK ? 1 : Number(process.env.ROUNDS ?? 3);
// With two processors, one is the server's and one the client's.
const [SERVER, CLIENT] = availableParallelism() >= 2 ? [0, 1] : [];

const median = (values) => {
  const sorted = [...values].sort((a, b) => a - b);
  const middle = sorted.length >> 1;
  return sorted.length % 2 ? sorted[middle] : (sorted[middle - 1] + sorted[middle]) / 2;
};

/** Runs `heartline load`, on the processor `cpu` where there are some; its report. */
async function loadWith(args, cpu = CLIENT) {
  const pinned = cpu === undefined ? [BINARY, "load", ...args] : ["taskset", "-c", `${cpu}`, BINARY, "load", ...args];
  const child = spawn(pinned[0], pinned.slice(1), { stdio: ["ignore", "pipe", "pipe"] });
  let out = "", log = "";
  child.stdout.on("data", (data) => (out += data));
  child.stderr.on("data", (data) => (log += data));
  const [code] = await once(child, "close");
  if (code !== 0) throw new Error(`${pinned.join(" ")}: exit ${code}: ${log}`);
  return JSON.parse(out);
}

/** The same against a server. */
async function loadOnce(server, peer, load) {
  const { scenario, connections, tokens, ...options } = load;
  const given = {
    duration: "3s", warmup: "700ms", settle: scenario === "idle" ? "1500ms" : "200ms", ...options,
    ...(QUICK && { duration: "200ms", warmup: "50ms", settle: "20ms" }),
  };
  const count = QUICK ? Math.min(connections, 200) : connections;
  const args = [
    scenario, "--url", server.url, "--protocol", peer.protocol,
    "--connections", `${count}`, "--threads", "1", "--pid", `${server.pid}`,
    ...Object.entries(given).flatMap(([name, value]) => {
      if (value === true) return [`--${name}`];
      return [`--${name}`, `${QUICK && name === "rooms" ? Math.min(value, 50) : value}`];
    }),
    ...(tokens && peer.ours ? ["--tokens", "--set", `auth.jwt.secret=${SECRET}`] : []),
  ];
  return loadWith(args);
}

function subject(key, figure) {
  const { pingInterval, tls } = figure.options ?? {};
  const options = { cpu: SERVER, pingInterval, tls };
  if (key.endsWith(BEFORE)) {
    const peer = before(key.slice(0, -BEFORE.length), BASELINE, figure.options);
    const command = figure.load?.event === "echo" ? peer.echo : peer.command;
    return { peer, command, options };
  }
  const peer = figure.options && PEERS[key].ours ? variant(key, figure.options) : PEERS[key];
  const echoes = figure.load?.event === "echo" && peer.echo;
  return { peer, command: echoes || peer.command, options };
}

async function measure(key, figure, load = figure.load) {
  const { peer, command, options } = subject(key, figure);
  const server = await start(command, options);
  try {
    const report = await loadOnce(server, peer, load);
    if (report.lost > 0 || Object.keys(report.failures).length > 0) {
      note(`${key} ${figure.key}: ${report.lost} lost, ${JSON.stringify(report.failures)}`);
    }
    return report;
  } finally {
    await server.stop();
  }
}

const remarks = [];
function note(text) {
  remarks.push(text);
  console.error(`  ${text}`);
}

const began = Date.now();
// A smoke run asks no peer for what only the load's options make another figure, and none that
// takes longer to build than to run.
const LONG_TO_BUILD = ["uws", "socketioxide"];
const isQuick = (key) => !LONG_TO_BUILD.includes(key);
const smoke = ({ busy, peers }) => (busy ? peers.slice(0, 1) : peers.filter(isQuick));
const ours = (peers) => peers.filter((key) => PEERS[key].ours).flatMap((key) => [key, key + BEFORE]);
const figures = FIGURES.filter((figure) => !ONLY || ONLY.includes(figure.key))
  .map((figure) => (QUICK ? { ...figure, peers: smoke(figure) } : figure))
  .map((figure) => (BASELINE ? { ...figure, peers: ours(figure.peers) } : figure));
const growth = BASELINE ? [] : GROWTH.filter((figure) => !ONLY || ONLY.includes(figure.key));
const reports = {};
const record = (figure, key, report) => ((reports[figure] ??= {})[key] ??= []).push(report);

const sum = (list, count) => list.reduce((sum, figure) => sum + count(figure), 0);
const total =
  ROUNDS *
  (sum(figures, ({ peers }) => peers.length) +
    sum(growth, (figure) => figure.points.length * growthPeers(figure).length));
let done = 0;
const step = (what) => {
  done += 1;
  const minutes = ((Date.now() - began) / 60000).toFixed(1);
  console.error(`[${done}/${total}, ${minutes} min] ${what}`);
};

/** A figure as it is printed. */
const short = (value) => Number(value?.toPrecision(4));

const calibrations = [];
for (let round = 1; round <= ROUNDS; round += 1) {
  calibrations.push(await loadWith(["calibrate", "--duration", QUICK ? "50ms" : "1s"], SERVER));
  for (const figure of figures) {
    for (const key of figure.peers) {
      const report = await measure(key, figure);
      record(figure.key, key, report);
      const value = `${short(figure.value(report))} ${figure.unit}`;
      step(`round ${round}, ${figure.key}, ${PEERS[key]?.name ?? key}: ${value}`);
    }
  }
  for (const figure of growth) {
    for (const key of growthPeers(figure)) {
      for (const point of figure.points) {
        const report = await measure(key, figure, point.load);
        record(figure.key, `${key} ${point.x}`, report);
        const value = `${short(figure.value(report))} ${figure.unit}`;
        step(`round ${round}, ${figure.key}, ${PEERS[key].name}, ${point.x}: ${value}`);
      }
    }
  }
}

const all = [...figures, ...growth];
const of = (figure, key, read) => {
  const values = (reports[figure]?.[key] ?? []).map(read).filter((value) => Number.isFinite(value));
  return values.length > 0 ? median(values) : undefined;
};
const m = (figure, key) => of(figure, key, all.find((one) => one.key === figure)?.value ?? (() => NaN));
const c = (figure, key) => of(figure, key, (report) => report.server.cpu_per_million);
const budgets = BUDGETS.map(({ what, budget, measured, holds }) => {
  const value = measured({ m, c });
  return { what, budget, value, reached: holds(value) };
}).filter(({ value }) => Number.isFinite(value));

for (const figure of BASELINE ? figures : []) {
  for (const key of figure.peers.filter((key) => key.endsWith(BEFORE))) {
    const own = key.slice(0, -BEFORE.length);
    const [now, then] = [m(figure.key, own), m(figure.key, key)];
    const [cpu, cpuThen] = [c(figure.key, own), c(figure.key, key)];
    const costs = cpu ? `, CPU ${(cpu / cpuThen).toFixed(3)}` : "";
    const values = `${short(now)} / ${short(then)} ${figure.unit}, ${figure.better} is better`;
    const name = `${figure.key.padEnd(14)} ${own.padEnd(9)}`;
    console.log(`${name} after/before ${(now / then).toFixed(3)}${costs}  (${values})`);
  }
}

// A smoke run has no say in budgets.
for (const { what, budget, value, reached } of QUICK ? [] : budgets) {
  const verdict = reached ? "reached    " : "NOT reached";
  console.log(`${verdict} ${value.toFixed(2).padStart(9)}  ${budget.padEnd(14)} ${what}`);
}
if (!ONLY && !BASELINE) {
  const folder = new URL(QUICK ? "../target/bench/" : "./", import.meta.url);
  mkdirSync(folder, { recursive: true });
  const minutes = (Date.now() - began) / 60000;
  const how = { rounds: ROUNDS, quick: QUICK, minutes };
  const measured = { figures, growth, budgets, m, c, reports, calibrations, remarks };
  const { markdown, plots } = await document({ ...measured, ...how });
  writeFileSync(new URL("RESULTS.md", folder), markdown);
  for (const [name, svg] of Object.entries(plots)) writeFileSync(new URL(name, folder), svg);
  console.error(`written: ${fileURLToPath(new URL("RESULTS.md", folder))}`);
}
