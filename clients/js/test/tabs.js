// A browser's tabs without a browser: channels that deliver a moment later, and locks with a line.
/** Tabs of one origin. */
export class Tabs {
  #channels = new Map();
  #locks = new Map();

  /** What a tab has of the browser, and what may become of it. */
  open() {
    const asleep = { is: false, later: [] };
    const own = { channels: new Set(), left: new Set(), isAlive: true, waits: [], asleep };
    const isAlive = () => own.isAlive;
    const channel = (name) => {
      const all = this.#channels.get(name) ?? new Set();
      this.#channels.set(name, all);
      const one = {
        onmessage: null,
        postMessage: (message) => {
          if (!isAlive()) return;
          for (const other of all) {
            if (other === one) continue;
            const data = structuredClone(message);
            queueMicrotask(() => other.deliver(data));
          }
        },
        deliver: (data) => {
          if (!isAlive()) return;
          if (asleep.is) asleep.later.push(() => one.onmessage?.({ data }));
          else one.onmessage?.({ data });
        },
        close: () => all.delete(one),
      };
      all.add(one);
      own.channels.add(one);
      return one;
    };
    return {
      browser: {
        channel,
        locks: { request: (name, options, held) => this.#request(own, name, options, held) },
        onLeave: (left) => {
          own.left.add(left);
          return () => own.left.delete(left);
        },
      },
      /** It is closed, as a page is that is told before. */
      close: () => {
        for (const left of [...own.left]) left();
        this.#end(own);
      },
      /** It ends without a word. */
      crash: () => this.#end(own),
      /** It neither hears nor says anything. */
      sleep: () => (asleep.is = true),
      wake: () => {
        asleep.is = false;
        for (const call of asleep.later.splice(0)) call();
      },
    };
  }

  /** Locks that are held or waited for, and channels that are open. */
  get left() {
    const locks = [...this.#locks.values()].flatMap(({ holder, line }) => [holder, ...line]);
    const channels = [...this.#channels.values()].flatMap((all) => [...all]);
    return [...locks.filter(Boolean), ...channels].length;
  }

  #end(own) {
    own.isAlive = false;
    for (const all of this.#channels.values()) for (const one of own.channels) all.delete(one);
    for (const [name, lock] of this.#locks) {
      lock.line = lock.line.filter((one) => one.own !== own);
      if (lock.holder?.own === own) {
        lock.holder = undefined;
        this.#next(name);
      }
    }
  }

  #request(own, name, { steal = false, signal }, held) {
    const lock = this.#locks.get(name) ?? { holder: undefined, line: [] };
    this.#locks.set(name, lock);
    return new Promise((resolve, reject) => {
      const one = { own, held, resolve, reject };
      const abort = () => {
        const index = lock.line.indexOf(one);
        if (index >= 0) lock.line.splice(index, 1);
        if (index >= 0) reject(new Error("aborted"));
      };
      if (signal?.aborted) return reject(new Error("aborted"));
      signal?.addEventListener("abort", abort);
      if (steal) {
        const { own, reject } = lock.holder ?? {};
        const stolen = () => reject(new Error("stolen"));
        // Whoever sleeps hears of that, as of all else, when it wakes.
        if (own?.asleep.is) own.asleep.later.push(stolen);
        else if (own) stolen();
        lock.holder = undefined;
        lock.line.unshift(one);
      } else lock.line.push(one);
      this.#next(name);
    });
  }

  #next(name) {
    const lock = this.#locks.get(name);
    if (lock.holder || lock.line.length === 0) return;
    const one = (lock.holder = lock.line.shift());
    queueMicrotask(async () => {
      if (!one.own.isAlive) return;
      await one.held();
      one.resolve();
      if (lock.holder !== one) return;
      lock.holder = undefined;
      this.#next(name);
    });
  }
}
