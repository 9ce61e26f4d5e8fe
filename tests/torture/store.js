// Durable messages under torture: what is acknowledged is there once and in its place, whatever
// is killed, stopped or full; and who reads along hears each message once and in order.
import { spawnSync } from "node:child_process";
import { mkdirSync, mkdtempSync, rmSync, statfsSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { postgres } from "../e2e/lib/postgres.js";
import { Proxy } from "../e2e/lib/proxy.js";
import { until } from "../e2e/lib/server.js";
import { Witness, liveWitness, socketIoWitness } from "../e2e/lib/witness.js";
import { Load } from "../e2e/lib/writers.js";
import { Cuts, between, pause } from "./rooms.js";
import { Heartline, SILENCE } from "./servers.js";

/** What may be answered while a database is away: the message is to be sent again. */
const REFUSALS = ["SEND_FAILED", "OVERLOADED"];
const READERS = 16;

/** A SQLite file; `hurts` are done in turn. */
export async function sqlite(options) {
  const folder = mkdtempSync(join(tmpdir(), "heartline-torture-"));
  try {
    return await durable({ ...options, folder, url: `sqlite://${join(folder, "torture.db")}` });
  } finally {
    rmSync(folder, { recursive: true, force: true });
  }
}

/** A disk of its own, which `fill` fills and `clear` empties. */
export async function disk(options) {
  const folder = mkdtempSync(join(tmpdir(), "heartline-torture-"));
  const on = join(folder, "disk");
  mkdirSync(on);
  const { status, stderr } = spawnSync("mount", ["-t", "tmpfs", "-o", "size=96m", "none", on]);
  if (status !== 0) throw new Error(`a disk of its own cannot be mounted: ${stderr}`);
  const ballast = join(on, "ballast");
  const full = {
    fill: () => {
      const { bavail, bsize } = statfsSync(on);
      // tmpfs has no blocks for its owner alone: nothing is left.
      try {
        writeFileSync(ballast, Buffer.alloc(bavail * bsize));
      } catch (error) {
        // The gateway has written meanwhile: it is full as well.
        if (error.code !== "ENOSPC") throw error;
      }
    },
    clear: () => rmSync(ballast, { force: true }),
  };
  try {
    // The journal is on another one: that of the messages is full.
    const url = `sqlite://${join(on, "torture.db")}`;
    return await durable({ ...options, folder, url, parts: { disk: full } });
  } finally {
    spawnSync("umount", [on]);
    rmSync(folder, { recursive: true, force: true });
  }
}

/** A PostgreSQL. */
export async function database(options) {
  const server = await postgres();
  const folder = mkdtempSync(join(tmpdir(), "heartline-torture-"));
  try {
    return await durable({ ...options, folder, url: server.url, parts: { database: server } });
  } finally {
    server.remove();
    rmSync(folder, { recursive: true, force: true });
  }
}

/** What can be done to a gateway and what it stands on; each gives its name when it is done. */
export const HURTS = {
  kill: async ({ server }) => {
    await server.kill();
    await server.start();
  },
  stop: async ({ server }) => {
    server.signal("SIGSTOP");
    await pause(between(100, 6000));
    server.signal("SIGCONT");
  },
  crash: async ({ parts }) => {
    parts.database.stop("immediate");
    await pause(between(0, 500));
    parts.database.up();
  },
  fill: async ({ parts, load }) => {
    const refused = () => [...load.refused.values()].reduce((sum, one) => sum + one, 0);
    const before = refused();
    parts.disk.fill();
    try {
      await until(() => refused() > before + 20, "messages are refused", 20000);
    } finally {
      parts.disk.clear();
    }
  },
};

async function durable({ seconds, folder, url, parts, hurts, history, tell }) {
  const server = new Heartline({
    "store.url": url,
    "recovery.journal": join(folder, "journal"),
    // More than is written while somebody is away: who comes back is to be told each message.
    "recovery.events": 8192,
    "recovery.bytes": "8MB",
    "recovery.buffer": "512MB",
    "recovery.max_replay": 8000,
    "server.send_buffer": "4MB",
  });
  await server.start();
  const proxy = await Proxy.to(server.port);
  const load = new Load({ refusals: REFUSALS });
  const heads = new Map(load.conversations().map((name) => [`conversation:${name}`, 0]));
  // What is there is known at the end: everything from the first message to the last.
  const book = {
    heard: () => {},
    next: () => Infinity,
    areOfOneLine: () => true,
    tell: () => "in its history",
  };
  const there = (room) => Array.from({ length: heads.get(room) }, (_, index) => index + 1);
  const readers = reading(proxy, book, [...heads.keys()]);
  const cuts = new Cuts(proxy, history, 0.5);
  const done = Object.fromEntries(hurts.map((name) => [name, 0]));
  const faults = [];
  let verdicts = [];
  let ticker;
  try {
    await until(() => readers.every(({ witness }) => witness.fresh > 0), "all read", 20000);
    cuts.begin();
    const end = Date.now() + seconds * 1000;
    const isOver = () => Date.now() >= end;
    ticker = setInterval(() => {
      const what = Object.entries(done).map(([name, count]) => `${count} × ${name}`);
      tell(`${load.acknowledged.size} acknowledged, ${what.join(", ")}, ${cuts.total} cuts`);
    }, 1000);
    let enough = false;
    const writing = (async () => {
      while (!enough) await load.run([server.node], () => enough).catch(() => pause(50));
    })();
    for (let turn = 0; !isOver(); turn++) {
      // It is under load when it happens, and goes on afterwards.
      await load.more(between(20, 300));
      const name = hurts[turn % hurts.length];
      history.add(name);
      await HURTS[name]({ server, parts, load });
      done[name]++;
      await load.more(50, 30000);
    }
    enough = true;
    await writing;
    cuts.end();
    const all = await load.check([server.node]);
    for (const [name, count] of all) heads.set(`conversation:${name}`, count);
    const judge = () => (verdicts = readers.map(({ witness }) => witness.verdict(there)));
    const isTold = () => judge().every(({ gaps }) => gaps.length === 0);
    await until(isTold, "all are told", 10000).catch(() => {});
    for (const [number, verdict] of verdicts.entries()) {
      for (const kind of ["gaps", "duplicates", "inversions"])
        for (const one of verdict[kind]) faults.push(`reader ${number}: ${kind}: ${one}`);
    }
    await server.end();
  } catch (error) {
    faults.push(error.stack);
  } finally {
    clearInterval(ticker);
    for (const one of readers) one.close();
    proxy.close();
    server.discard();
  }
  const total = (name) => verdicts.reduce((sum, one) => sum + (one[name].length ?? one[name]), 0);
  const sum = (name) => readers.reduce((sum, { witness }) => sum + witness[name], 0);
  return {
    faults,
    done,
    cuts: cuts.total,
    acknowledged: load.acknowledged.size,
    sent: load.sent,
    answered: Object.fromEntries(load.refused),
    recovered: sum("recovered"),
    refused: sum("fresh") - READERS,
    outcomes: Object.fromEntries(server.outcomes),
    heard: total("heard"),
    told: total("told"),
    gaps: total("gaps"),
    duplicates: total("duplicates"),
    inversions: total("inversions"),
  };
}

/** Who reads along in all conversations. */
function reading(proxy, book, conversations) {
  const read = ({ conversationId, offset }) => ({
    room: `conversation:${conversationId}`,
    number: offset,
    all: 0,
  });
  return Array.from({ length: READERS }, (_, number) => {
    const witness = new Witness(book, conversations);
    const options = { event: "message:new", read, silence: SILENCE };
    const user = `reader${number}`;
    if (number % 3 === 2) return liveWitness(proxy.live, user, witness, options);
    const transports = number % 4 === 1 ? ["polling"] : ["websocket"];
    return socketIoWitness(proxy.http, user, witness, { ...options, transports });
  });
}
