// Rooms under torture: publications that are numbered, clients whose connections break at any
// byte, and a server that is killed or stopped meanwhile.
import { msgpack } from "../e2e/lib/clients.js";
import { Proxy } from "../e2e/lib/proxy.js";
import { until } from "../e2e/lib/server.js";
import { Book, Witness, liveWitness, socketIoWitness } from "../e2e/lib/witness.js";
import { SILENCE } from "./servers.js";

const ROOMS = Array.from({ length: 60 }, (_, number) => `r${number}`);
/** Time between two publications in milliseconds: 240 clients hear 2 400 events/s by it. */
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

/** As many clients as `count`, of all kinds that the server knows. */
function clients(proxy, book, count, { live, own }) {
  return Array.from({ length: count }, (_, number) => {
    const rooms = [0, 7, 31].map((step) => ROOMS[(number + step) % ROOMS.length]);
    const isLive = live && number % 3 === 2;
    const witness = new Witness(book, rooms, { isLine: !isLive });
    const user = `u${number}`;
    if (isLive) return liveWitness(proxy.live, user, witness, { silence: SILENCE });
    const kinds = [["websocket"], ["polling"], ["polling", "websocket"], ["websocket"]];
    return socketIoWitness(proxy.http, user, witness, {
      transports: kinds[number % kinds.length],
      ...(own && number % 6 === 0 && { parser: msgpack }),
    });
  });
}

/**
 * Tortures a server for `seconds`. `hurt(server, history)` is done to it again and again
 * meanwhile, each time when a part (`waits`) of all clients is back. Gives the counts of what happened, and what is wrong as `faults`.
 */
export async function rooms(
  server,
  { seconds, count = 240, live, own, hurt, waits = 1 / 3, history, tell },
) {
  await server.start();
  const proxy = await Proxy.to(server.port);
  // Of several gateways each connection goes to any.
  Object.defineProperty(proxy, "to", { get: () => server.port });
  const book = new Book(ROOMS);
  const all = clients(proxy, book, count, { live, own });
  const cuts = new Cuts(proxy, history);
  const sum = (name) => all.reduce((sum, { witness }) => sum + witness[name], 0);
  const late = () => all.filter(({ witness }) => !witness.isDone()).length;
  let ticker;
  let noise;
  let away = [];
  try {
    await until(() => all.every(({ witness }) => witness.fresh > 0), "all are there", 60000);
    cuts.begin();
    const end = Date.now() + seconds * 1000;
    const isOver = () => Date.now() >= end;
    const often = async (act) => {
      while (!isOver()) await act();
    };
    const say = (data) => server.publish(data);
    ticker = setInterval(
      () => tell(`${cuts.total} cuts, ${book.said} said, ${sum("recovered")} back`),
      1000,
    );
    noise = setInterval(() => pick(all).publish(pick(ROOMS), 1), 20);
    let at = 0;
    await Promise.all([
      often(async () => {
        const next = Date.now() + PACE;
        await book.say(ROOMS[at++ % ROOMS.length], say);
        if (Date.now() < next) await pause(next - Date.now());
      }),
      hurt &&
        often(async () => {
          const before = sum("recovered") + sum("fresh");
          await hurt(server, history);
          // Most are back before it happens again, however slow the machine is.
          const areBack = () =>
            isOver() || sum("recovered") + sum("fresh") > before + count * waits;
          await until(areBack, "most are back", 15000).catch(() => {});
        }),
    ]);
    clearInterval(noise);
    cuts.end();
    // One last word, which everybody has to hear.
    for (const room of ROOMS) {
      await until(async () => {
        const before = book.there(room).at(-1);
        await book.say(room, say);
        return book.there(room).at(-1) !== before;
      }, "the last word");
    }
    await until(() => late() === 0, "all have the last event", 40000).catch(() => {});
    away = all.filter((one) => !one.isHere());
    await server.end();
  } finally {
    clearInterval(noise);
    clearInterval(ticker);
    for (const one of all) one.close();
    proxy.close();
    server.discard();
  }
  const verdicts = all.map((one) => one.witness.verdict(undefined, !away.includes(one)));
  const total = (name) => verdicts.reduce((sum, one) => sum + (one[name].length ?? one[name]), 0);
  const faults = verdicts.flatMap(({ gaps, duplicates, inversions }, number) => [
    ...gaps.map((one) => `client ${number}: gap: ${one}`),
    ...duplicates.map((one) => `client ${number}: duplicate: ${one}`),
    ...inversions.map((one) => `client ${number}: inversion: ${one}`),
  ]);
  if (faults.length > 0 && server.log) history.add("what gateways said", { log: server.log });
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
    late: late(),
    away: away.length,
  };
}
