/** An error of the application is its own: it is thrown where nobody is disturbed. */
export function guarded(call: () => void): void {
  try {
    call();
  } catch (error) {
    queueMicrotask(() => {
      throw error;
    });
  }
}

/** A value that is told whenever it is another one. Never changed itself. */
export class Told<T> {
  readonly #listeners = new Set<(value: T) => void>();

  constructor(public value: T) {}

  become(value: T): void {
    this.value = value;
    for (const listener of [...this.#listeners]) {
      listener(value);
      // What a listener did about it has been told to all by now.
      if (this.value !== value) return;
    }
  }

  /** Calls `listener` with the value now and each one that follows. Returns what ends that. */
  subscribe(listener: (value: T) => void): () => void {
    // Its own function, so that one that subscribes twice is told twice.
    const own = (value: T) => guarded(() => listener(value));
    this.#listeners.add(own);
    own(this.value);
    return () => void this.#listeners.delete(own);
  }
}
