// What is done to a cluster in a round: it follows from the round's seed alone.
import { Dice } from "./dice.js";

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
  outage: pause,
  stall: pause,
  restart: (dice, lease) => (dice.chance(0.6) ? 0 : dice.between(0, 2 * lease)),
};
const PLAIN = [
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
];
const SENTINEL = ["failover", "failover", "split", "stop", "kill", "wipe", "evict", "deaf"];
const STORE = new Set(["outage", "stall", "restart", "wipe", "evict", "failover", "split", "step"]);

const isFailover = ({ kind }) => kind === "failover" || kind === "split";

/**
 * `{ seed, topology, faults }`; each of the faults has `at`, `kind`, `ms`, and `node` or
 * `observer` by number. Faults of one node, and of the store, do not overlap. `only` are the kinds
 * to choose from.
 */
export function schedule(seed, { lease, only, hasClock }) {
  const dice = new Dice(seed);
  const isPart = (kind) => !only || only.includes(kind);
  const topology = only
    ? only.some((kind) => isFailover({ kind }))
      ? "sentinel"
      : "plain"
    : dice.chance(0.25)
      ? "sentinel"
      : "plain";
  const usual = topology === "plain" ? [...PLAIN, ...(hasClock ? ["step"] : [])] : SENTINEL;
  const kinds = usual.filter(isPart);
  const faults = [];
  for (let count = dice.between(1, 4), tries = 0; faults.length < count && tries < 20; tries++) {
    const kind = dice.one(kinds);
    const at = dice.between(500, BEGIN);
    const ms = LASTS[kind]?.(dice, lease) ?? 0;
    const fault = { at, kind, ms };
    if (kind === "deaf") fault.observer = dice.between(0, 1000);
    else if (!STORE.has(kind)) fault.node = dice.one(NODES);
    if (kind === "slow") fault.late = dice.between(20, 250);
    if (kind === "evict") fault.key = dice.between(0, 1_000_000);
    if (kind === "step") fault.by = dice.one([-1, 1]) * dice.between(1, 30);
    // What comes back takes a while besides.
    const ends = (one) =>
      one.at + one.ms + (/kill|drain|restart|failover|split/.test(one.kind) ? 4000 : 500);
    const isTaken = faults.some(
      (one) =>
        (STORE.has(kind)
          ? STORE.has(one.kind)
          : one.node === fault.node && one.node !== undefined) &&
        one.at < ends(fault) &&
        at < ends(one),
    );
    // Until the old master is a replica there is none to fail over to.
    const isAgain = isFailover(fault) && faults.some(isFailover);
    if (!isTaken && !isAgain) faults.push(fault);
  }
  faults.sort((a, b) => a.at - b.at);
  return { seed, topology, faults };
}
