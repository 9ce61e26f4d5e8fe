// Rooms, users and everybody under torture: publications that are numbered, clients whose
// connections break at any byte, and a server that is killed or stopped meanwhile.
import { msgpack } from "../e2e/lib/clients.js";
import { Proxy } from "../e2e/lib/proxy.js";
import { until, within } from "../e2e/lib/server.js";
import {
  Book,
  EVERYBODY,
  Witness,
  isOwn,
  liveWitness,
  socketIoWitness,
  time,
} from "../e2e/lib/witness.js";
import { SILENCE } from "./servers.js";

const ROOMS = Array.from({ length: 60 }, (_, number) => `r${number}`);
/** How long it may take until all is said, until all have the last of it, and to end: ms. */
const LAST_WORD = 60_000;
const SETTLE = 40_000;
const END = 30_000;
/** How a fault is called. */
const KINDS = { gaps: "gap", duplicates: "duplicate", inversions: "inversion" };
/** Of how many clients that have not got the last event their gateways are asked. */
const MOST_ASKED = 20;
/** Time between two publications in milliseconds: 240 clients hear 2 400 events/s of rooms by it. */
const PACE = 5;

export const pick = (list) => list[Math.floor(Math.random() * list.length)];
export const between = (from, to) => from + Math.random() * (to - from);
export const pause = (ms) => new Promise((resolve) => setTimeout(resolve, ms));

/** What happens to connections, and how often each did. */
export class Cuts {
  counts = { cut: 0, reset: 0, halfOpen: 0, pause: 0 };

  constructor(proxy, history, scale = 1) {
    Object.assign(this, { proxy, history, scale });
  }

  get total() {
    return Object.values(this.counts).reduce((sum, one) => sum + one, 0);
  }

  /** From here on each connection breaks at some byte to either side. */
  begin() {
    for (const pair of this.proxy.pairs) this.#plan(pair);
    this.proxy.onPair = (pair) => this.#plan(pair);
  }

  #plan(pair) {
    const to = Math.random() < 0.2 ? "node" : "client";
    // Clients say little, and hear much. Some come so far that all that was missed gets through.
    const most = this.scale * (to === "node" ? 1000 : pick([5000, 5000, 5000, 50_000]));
    const bytes = 1 + Math.floor(Math.random() * most);
    const way = pick(["cut", "cut", "reset", "reset", "halfOpen", "pause"]);
    const act = () => {
      this.counts[way]++;
      this.history.add(way, { bytes, to });
      if (way !== "pause") return pair[way]();
      pair.pause(between(50, 2000));
      this.#plan(pair);
    };
    pair.after(bytes, act, to);
  }

  /** Lets everything through again. */
  end() {
    this.proxy.onPair = () => {};
    for (const pair of this.proxy.pairs) pair.after(Infinity, () => {});
  }
}

/** Whose client this is: one of three is the only one of its user, the others are two. */
const userOf = (number) => `u${number % 3 === 0 ? number : number - (number % 3) + 1}`;

/** As many clients as `count`, of all kinds that the server knows. */
function clients(proxy, book, count, { live, own, users }) {
  return Array.from({ length: count }, (_, number) => {
    const rooms = [0, 7, 31].map((step) => ROOMS[(number + step) % ROOMS.length]);
    const isLive = live && number % 3 === 2;
    const user = userOf(number);
    const witness = new Witness(book, rooms, {
      own: users ? [`user:${user}`, EVERYBODY] : [],
      isLine: !isLive,
    });
    const as = (kind, one) => Object.assign(one, { number, kind, user });
    if (isLive) return as("live", liveWitness(proxy.live, user, witness, { silence: SILENCE }));
    const kinds = [["websocket"], ["polling"], ["polling", "websocket"], ["websocket"]];
    const transports = kinds[number % kinds.length];
    const isPacked = own && number % 6 === 0;
    const options = { transports, ...(isPacked && { parser: msgpack }) };
    const kind = `${transports.join(" to ")}${isPacked ? ", msgpack" : ""}`;
    return as(kind, socketIoWitness(proxy.http, user, witness, options));
  });
}

/** What is known of a client that has not got the last of all; and what its gateway says. */
function state({ number, kind, user, witness, isHere }) {
  const { node, id, trail, lastGap } = witness;
  const known = { node, id, lacks: witness.lacks(), lastGap, trail };
  return { number, kind, user, isHere: isHere(), waitsFor: [...witness.waitsFor], ...known };
}
function inWords({ number, kind, user, isHere, waitsFor, node, lacks, lastGap, trail }) {
  const lacking = lacks.map(({ scope, has, last }) => `${scope} (has ${has} of ${last})`);
  const gap = lastGap ? `of ${lastGap.room} ${time(lastGap.at)}` : "none";
  const last = trail.at(-1);
  const waits = waitsFor.length > 0 ? `no word of ${waitsFor.join(", ")}; ` : "";
  return (
    `client ${number}: late: ${kind}, ${user}, ${isHere ? "here" : "away"}, last on ${node}: ` +
    `has not got the last of ${lacking.join(", ") || "nothing"}; ${waits}last gap: ${gap}; ` +
    `last: ${last?.at} ${last?.what}`
  );
}

/** Says the last word in each scope, which everybody has to hear. */
async function lastWords(book, all, say, faults) {
  const by = Date.now() + LAST_WORD;
  const rest = () => Math.max(0, by - Date.now());
  const areThere = () => all.every((one) => one.isHere());
  const isSaid = (scope) =>
    until(() => book.say(scope, say), `the last word in ${scope}`, rest()).catch((error) =>
      faults.push(error.stack),
    );
  for (const room of book.scopes.filter((scope) => !isOwn(scope))) await isSaid(room);
  // What users hear who are away was heard of before.
  await until(areThere, "all are there", rest() / 2).catch(() => {});
  for (const scope of book.scopes.filter(isOwn)) await isSaid(scope);
}

/**
 * Tortures a server for `seconds`. `hurt(server, history)` is done to it again and again
 * meanwhile, each time when a part (`waits`) of all clients is back. Gives the counts of what
 * happened, and what is wrong as `faults`; there is a verdict whatever happens.
 */
export async function rooms(server, options) {
  const { seconds, count = 240, users, hurt, waits = 1 / 3, history, tell } = options;
  const logs = () => (server.log ? [["what gateways said", { log: server.log }]] : []);
  history.last = logs;
  const faults = [];
  await server.start();
  const proxy = await Proxy.to(server.port);
  // Of several gateways each connection goes to any.
  Object.defineProperty(proxy, "to", { get: () => server.port });
  const ofUsers = Array.from(new Set(Array.from({ length: count }, (_, number) => userOf(number))));
  const own = users ? [...ofUsers.map((user) => `user:${user}`), EVERYBODY] : [];
  const book = new Book([...ROOMS, ...own]);
  const all = clients(proxy, book, count, options);
  const cuts = new Cuts(proxy, history);
  const sum = (name) => all.reduce((sum, { witness }) => sum + witness[name], 0);
  const late = () => all.filter(({ witness }) => !witness.isDone());
  // Should it not come to a verdict.
  history.last = () => [...late().map((one) => ["is late", state(one)]), ...logs()];
  const say = (data) => server.publish(data);
  let end = Infinity;
  const isOver = () => Date.now() >= end;
  const often = async (act) => {
    while (!isOver()) await act();
  };
  // What fails ends the torture, and leaves the verdict.
  const orEnd = (what) =>
    what.catch((error) => {
      end = 0;
      faults.push(error.stack);
    });
  let at = 0;
  const speak = async () => {
    const turn = at++;
    const next = Date.now() + PACE;
    await book.say(ROOMS[turn % ROOMS.length], say);
    if (users && turn % 3 === 0) await book.say(own[(turn / 3) % (own.length - 1)], say);
    if (users && turn % ROOMS.length === 0) await book.say(EVERYBODY, say);
    if (Date.now() < next) await pause(next - Date.now());
  };
  const torment = async () => {
    const before = sum("recovered") + sum("fresh");
    await hurt(server, history);
    // Most are back before it happens again, however slow the machine is.
    const areBack = () => isOver() || sum("recovered") + sum("fresh") > before + count * waits;
    await until(areBack, "most are back", 15000).catch(() => {});
  };
  let ticker;
  let noise;
  let away = [];
  let lacking = [];
  try {
    const areThere = () => all.every(({ witness }) => witness.fresh > 0);
    await orEnd(until(areThere, "all are there", 60000));
    cuts.begin();
    end = Math.min(end, Date.now() + seconds * 1000);
    ticker = setInterval(
      () => tell(`${cuts.total} cuts, ${book.said} said, ${sum("recovered")} back`),
      1000,
    );
    noise = setInterval(() => pick(all).publish(pick(ROOMS), 1), 20);
    await Promise.all([orEnd(often(speak)), hurt && orEnd(often(torment))]);
    clearInterval(noise);
    cuts.end();
    history.add("all is whole again");
    await lastWords(book, all, say, faults);
    history.add("all is said");
    await until(() => late().length === 0, "all have the last event", SETTLE).catch(() => {});
    away = all.filter((one) => !one.isHere());
    lacking = late();
    faults.push(...lacking.map((one) => inWords(state(one))));
    for (const [index, one] of lacking.entries()) {
      const { id } = one.witness;
      const known = id && index < MOST_ASKED && (await server.ask?.(`/v1/connections/${id}`));
      history.add("has not got the last", { ...state(one), known });
    }
    await within(server.end(), "the end", END).catch((error) => faults.push(error.stack));
  } finally {
    clearInterval(noise);
    clearInterval(ticker);
    for (const one of all) one.close();
    proxy.close();
    server.discard();
  }
  history.last = logs;
  faults.push(...(server.unanswered ?? []));
  const verdicts = all.map((one) => one.witness.verdict(undefined, !away.includes(one)));
  const total = (name) => verdicts.reduce((sum, one) => sum + (one[name].length ?? one[name]), 0);
  for (const [number, verdict] of verdicts.entries()) {
    const wrong = Object.entries(KINDS).flatMap(([kind, name]) =>
      verdict[kind].map((one) => `client ${number}: ${name}: ${one}`),
    );
    faults.push(...wrong);
    if (wrong.length > 0) history.add("has heard wrongly", state(all[number]));
  }
  return {
    faults,
    clients: count,
    said: book.said,
    cuts: cuts.total,
    ways: cuts.counts,
    recovered: sum("recovered"),
    refused: sum("fresh") - count,
    outcomes: Object.fromEntries(server.outcomes),
    heard: total("heard"),
    told: total("told") + total("late"),
    toldLate: total("late"),
    gaps: total("gaps"),
    duplicates: total("duplicates"),
    inversions: total("inversions"),
    late: lacking.length,
    away: away.length,
  };
}
