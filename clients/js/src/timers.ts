import type { Platform } from "./types.js";

/** Longest time that a timer can be set to, in milliseconds. */
export const MAX_TIMER = 2 ** 31 - 1;

interface Due {
  readonly timer: unknown;
  readonly gone: (() => void) | undefined;
}

/**
 * What is due later, each by a name or an object of its own, as long as this connection or this
 * attempt lasts.
 */
export class Timers {
  readonly #due = new Map<unknown, Due>();

  constructor(readonly platform: Platform) {}

  has(name: unknown): boolean {
    return this.#due.has(name);
  }

  /** Calls once, in the place of what is due by that name; or `gone`, if all is dropped before. */
  set(name: unknown, ms: number, call: () => void, gone?: () => void): void {
    this.clear(name);
    const timer = this.platform.setTimeout(
      () => {
        this.#due.delete(name);
        call();
      },
      Math.min(ms, MAX_TIMER),
    );
    this.#due.set(name, { timer, gone });
  }

  clear(name: unknown): void {
    this.platform.clearTimeout(this.#due.get(name)?.timer);
    this.#due.delete(name);
  }

  drop(): void {
    for (const [name, { gone }] of this.#due) {
      this.clear(name);
      gone?.();
    }
  }
}
