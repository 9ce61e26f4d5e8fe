// What happened, in the order in which the clients' side of it saw it.
import { mkdirSync, writeFileSync } from "node:fs";
import { fileURLToPath } from "node:url";

const FOLDER = fileURLToPath(new URL("../../target/truth/", import.meta.url));
/** A timer that is later than this says that this process did not run, in milliseconds. */
const STALL = 250;
const LOOK = 50;

export class History {
  events = [];
  #begun = performance.now();
  #looked = performance.now();
  #timer = setInterval(() => this.#look(), LOOK);

  constructor(seed, settings, faults) {
    this.seed = seed;
    this.add("begin", { seed, settings, faults, unix: Date.now() });
  }

  get now() {
    return Math.round((performance.now() - this.#begun) * 10) / 10;
  }

  /** Returns when that was. */
  add(what, detail = {}) {
    const t = this.now;
    this.events.push({ t, what, ...detail });
    return t;
  }

  #look() {
    const now = performance.now();
    const late = now - this.#looked - LOOK;
    this.#looked = now;
    if (late > STALL) this.add("stall", { ms: Math.round(late) });
  }

  end() {
    clearInterval(this.#timer);
    this.add("end");
  }

  /** Writes it, and gives the file's path. */
  write() {
    mkdirSync(FOLDER, { recursive: true });
    const path = `${FOLDER}${this.seed}.jsonl`;
    writeFileSync(path, this.events.map((event) => JSON.stringify(event)).join("\n") + "\n");
    return path;
  }
}
