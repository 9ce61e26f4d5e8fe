// What is done to a cluster in a round: it follows from the round's seed alone.
import { Dice } from "./dice.js";
import { KINDS } from "./faults.js";

/** Milliseconds in which a round's faults begin. */
export const BEGIN = 6000;
const NODES = [0, 1, 2];

/** Over long before a lease is, about when it is, or long after. */
function pause(dice, lease) {
  const [from, to] = dice.one([
    [0.05, 0.35],
    [0.6, 1.1],
    [1, 2.5],
  ]);
  return dice.between(from * lease, to * lease);
}

/** How long a fault lasts, in milliseconds; nothing: it has no end of its own. */
const LASTS = {
  cut: pause,
  slow: (dice, lease) => dice.between(lease / 2, 2 * lease),
  stop: pause,
  kill: (dice, lease) => dice.between(100, 2 * lease),
  drain: (dice, lease) => dice.between(100, lease),
  replace: (dice, lease) => dice.between(0, lease / 2),
  roll: (dice, lease) => dice.between(0, lease / 4),
  outage: pause,
  stall: pause,
  restart: (dice, lease) => (dice.chance(0.6) ? 0 : dice.between(0, 2 * lease)),
  reshard: pause,
};
/** The kinds that each way to run Redis has, the more frequent ones more than once. */
const USUAL = {
  plain: [
    "cut",
    "cut",
    "slow",
    "stop",
    "stop",
    "kill",
    "kill",
    "drain",
    "outage",
    "stall",
    "restart",
    "wipe",
    "evict",
    "deaf",
    "step",
  ],
  sentinel: ["failover", "failover", "split", "stop", "kill", "wipe", "evict", "deaf"],
  cluster: [
    "failover",
    "split",
    "shard",
    "handover",
    "reshard",
    "reshard",
    "stop",
    "kill",
    "drain",
    "wipe",
    "evict",
    "deaf",
  ],
};
/** With two builds, these as well. */
const BUILDS = ["replace", "replace", "roll", "roll"];
const TOPOLOGIES = ["plain", "plain", "plain", "sentinel", "cluster"];
const ANNOUNCE = ["namespace", "namespace", "rooms"];

const isOfStore = ({ kind }) => KINDS[kind].scope === "store";
const isOfNode = ({ kind, node }) => kind === "roll" || node !== undefined;
const isFailover = ({ kind }) => kind === "failover" || kind === "split" || kind === "shard";

/** Whether two faults must not overlap: of one node, or both of the store. */
function meet(one, other) {
  if (isOfStore(one)) return isOfStore(other);
  if (!isOfNode(one) || !isOfNode(other)) return false;
  return one.kind === "roll" || other.kind === "roll" || one.node === other.node;
}

/** When it is over, about: what comes back takes a while besides. */
function endOf({ kind, at, ms }) {
  if (kind === "roll") return at + NODES.length * (ms + 4000);
  const takes = /kill|drain|replace|restart|failover|split|shard|handover/;
  return at + ms + (takes.test(kind) ? 4000 : 500);
}

function draw(dice, kind, lease) {
  const at = dice.between(500, BEGIN);
  const fault = { at, kind, ms: LASTS[kind]?.(dice, lease) ?? 0 };
  if (kind === "deaf") fault.observer = dice.between(0, 1000);
  else if (KINDS[kind].scope === "node") fault.node = dice.one(NODES);
  if (kind === "roll") fault.first = dice.one(NODES);
  if (kind === "slow") fault.late = dice.between(20, 250);
  if (kind === "evict") fault.key = dice.between(0, 1_000_000);
  if (kind === "step") fault.by = dice.one([-1, 1]) * dice.between(1, 30);
  return fault;
}

/**
 * `{ seed, topology, announce, faults }`; each of the faults has `at`, `kind`, `ms`, and `node` or
 * `observer` by number. Faults of one node, and of the store, do not overlap. `only` are the kinds
 * to choose from, `redis` and `announce` what is taken of these; `hasBuilds`: there are two.
 */
export function schedule(seed, { lease, only, redis, announce, hasClock, hasBuilds }) {
  const dice = new Dice(seed);
  const kinds = (topology) =>
    [...USUAL[topology], ...(hasBuilds ? BUILDS : [])].filter(
      (kind) => (only?.includes(kind) ?? true) && (hasClock || kind !== "step"),
    );
  const isPossible = (topology) =>
    (redis?.includes(topology) ?? true) && kinds(topology).length > 0;
  const possible = TOPOLOGIES.filter(isPossible);
  if (possible.length === 0) throw new Error("there are no such faults with such a Redis");
  const topology = dice.one(possible);
  const who = dice.one(ANNOUNCE.filter((one) => announce?.includes(one) ?? true));
  const usual = kinds(topology);
  const faults = [];
  for (let count = dice.between(1, 4), tries = 0; faults.length < count && tries < 20; tries++) {
    const fault = draw(dice, dice.one(usual), lease);
    const isTaken = faults.some(
      (one) => meet(one, fault) && one.at < endOf(fault) && fault.at < endOf(one),
    );
    // Until the old master is a replica there is none to fail over to.
    const isAgain = isFailover(fault) && faults.some(isFailover);
    if (!isTaken && !isAgain) faults.push(fault);
  }
  faults.sort((a, b) => a.at - b.at);
  return { seed, topology, announce: who, faults };
}
