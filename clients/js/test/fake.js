// A clock that goes when it is told to, and a transport that does what the test says.
import assert from "node:assert/strict";
import { setFlagsFromString } from "node:v8";
import { runInNewContext } from "node:vm";
import { Client } from "../dist/client.js";

export const HELLO = {
  socketId: "s1",
  pingInterval: 25000,
  pingTimeout: 20000,
  authenticated: true,
  recovered: false,
  serverTime: 0,
};

export class Clock {
  #now = 1000;
  #unix = 1_700_000_000_000;
  #timers = new Map();
  #number = 0;
  chance = 1 - Number.EPSILON;
  watchers = new Set();

  now = () => this.#now;
  unix = () => this.#unix;
  random = () => this.chance;
  setTimeout = (callback, ms) => {
    // Browsers and Node call at once what is to wait for longer.
    if (!(ms >= 0 && ms < 2 ** 31)) throw new Error(`a timer of ${ms} ms`);
    this.#timers.set(++this.#number, { at: this.#now + ms, callback });
    return this.#number;
  };
  clearTimeout = (timer) => void this.#timers.delete(timer);
  watch = (changed) => {
    this.watchers.add(changed);
    return () => this.watchers.delete(changed);
  };
  /** Timers that are set. */
  get timers() {
    return this.#timers.size;
  }
  tell(what) {
    for (const watcher of [...this.watchers]) watcher(what);
  }
  /** Goes on by so many milliseconds, and calls what is due in its order. */
  async pass(ms) {
    const until = this.#now + ms;
    await settled();
    for (;;) {
      const due = [...this.#timers]
        .filter(([, { at }]) => at <= until)
        .sort(([a, x], [b, y]) => x.at - y.at || a - b)[0];
      if (!due) break;
      const [timer, { at, callback }] = due;
      this.#unix += Math.max(at - this.#now, 0);
      this.#now = Math.max(at, this.#now);
      this.#timers.delete(timer);
      callback();
      await settled();
    }
    this.#unix += until - this.#now;
    this.#now = until;
  }
  /** The machine sleeps: the wall's clock goes on, timers do not, and neither does this one. */
  sleep(ms) {
    this.#unix += ms;
  }
  /** As where this one goes on as well: all timers are late. */
  oversleep(ms) {
    this.#unix += ms;
    this.#now += ms;
  }
}

/** Lets what was resolved be heard. */
export async function settled() {
  for (let turn = 0; turn < 12; turn++) await null;
}

/** What nobody has any more is collected, in time. */
export async function collected(...refs) {
  setFlagsFromString("--expose-gc");
  const collect = runInNewContext("gc");
  const isKept = () => refs.some((ref) => ref.deref());
  const deadline = Date.now() + 5_000;
  do {
    await new Promise((resolve) => setImmediate(resolve));
    collect();
  } while (isKept() && Date.now() < deadline);
  assert.ok(!isKept());
}

/** A client, its clock, and all attempts it made. */
export function start(options = {}, link = {}) {
  const clock = options.platform ?? new Clock();
  const links = [];
  const dial = (token, events, earlier) => {
    const one = {
      token,
      events,
      earlier,
      said: [],
      closed: 0,
      emit: (event, data, reply) => one.said.push({ event, data, reply }),
      join: (room, reply) => one.said.push({ event: "join", data: room, reply }),
      leave: (room, reply) => one.said.push({ event: "leave", data: room, reply }),
      ping: (reply) => one.said.push({ event: "ping", reply }),
      close: (forGood) => {
        one.closed++;
        one.forGood = forGood;
      },
      names: () => one.said.map(({ event }) => event),
      find: (event) => one.said.filter((said) => said.event === event),
      ...link,
    };
    links.push(one);
    options.onDial?.(one);
    return one;
  };
  const client = new Client(dial, { ...options, platform: clock });
  const states = [];
  client.subscribe((state) => states.push(state));
  return {
    client,
    clock,
    links,
    states,
    get link() {
      return links.at(-1);
    },
    get status() {
      return client.state.status;
    },
    /** Nothing is left: no timer, no listener to the surroundings. */
    isClean: () => clock.timers === 0 && clock.watchers.size === 0,
  };
}

/** The same, connected. */
export function connected(options, link) {
  const all = start(options, link);
  all.link.events.hello(HELLO);
  return all;
}

/** How a promise fares now. */
export async function outcome(promise) {
  let result = "pending";
  promise.then(
    () => (result = "done"),
    (error) => (result = error.code ?? error.message),
  );
  await settled();
  return result;
}

/** A token that expires so many seconds from the clock's time. */
export function token(clock, seconds, name = "t") {
  const part = (value) => Buffer.from(JSON.stringify(value)).toString("base64url");
  return `${part({ alg: "none" })}.${part({ name, exp: clock.unix() / 1000 + seconds })}.`;
}

/** What an application's own code throws meanwhile: it is thrown again, where nobody is disturbed. */
export async function thrown(call) {
  const { queueMicrotask } = globalThis;
  const errors = [];
  globalThis.queueMicrotask = (throws) => {
    try {
      throws();
    } catch (error) {
      errors.push(error);
    }
  };
  try {
    await call();
  } finally {
    globalThis.queueMicrotask = queueMicrotask;
  }
  return errors;
}
