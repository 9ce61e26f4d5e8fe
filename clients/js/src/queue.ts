import { bytes, encode, tooLarge } from "./encode.js";
import { HeartlineError, type Pending, type Platform, type Reply } from "./types.js";

export interface SendOptions {
  /** How long to wait for an acknowledgement, in milliseconds. Default: 10 000. */
  timeout?: number;
  /** How often to send again without one. Default: 5. */
  retries?: number;
}

/** What the queue needs of its client. */
interface Wire {
  /** Says it. Throws for what the server would not take. */
  put(event: string, data: unknown, reply: (reply: Reply) => void): boolean | void;
  /** Calls once, if this connection lasts so long. */
  later(ms: number, call: () => void): () => void;
  /** How long to wait before the next try, in milliseconds. */
  pause(tries: number): number;
  readonly platform: Platform;
  /** Calls what belongs to the application. */
  guarded(call: () => void): void;
}

interface Outgoing {
  readonly event: string;
  /** A copy: what becomes of the original is the application's affair. */
  readonly data: unknown;
  readonly size: number;
  readonly tempId: string | undefined;
  readonly at: number;
  readonly timeout: number;
  readonly retries: number;
  /** Tries that a server which was there has not answered, or has answered with a pause. */
  tries: number;
  /** It was said on this connection, and is not to be said again now. */
  isOut: boolean;
  wasOut: boolean;
  /** Ends the wait for its answer. */
  off?: () => void;
  resolve(reply: Reply): void;
  reject(error: HeartlineError): void;
}

/** Messages that may be on their way at once: the server does them in the order in which they come. */
const WINDOW = 32;

/** Messages that are sent until they are acknowledged, in the order in which they were given. */
export class Queue {
  pending: Pending = { count: 0, bytes: 0 };
  readonly listeners = new Set<(pending: Pending) => void>();
  /** Bytes that a message may have. */
  most = Infinity;
  readonly #all: Outgoing[] = [];
  /** They may be sent. */
  #isOpen = false;
  /** The server has asked for a pause. */
  #isPaused = false;
  #window = WINDOW;

  constructor(
    readonly wire: Wire,
    readonly maxCount: number,
    readonly maxBytes: number,
  ) {}

  /** Takes a message, unless there is an `error` already. */
  add(
    event: string,
    given: unknown,
    { timeout = 10_000, retries = 5 }: SendOptions,
    error?: HeartlineError,
  ): Promise<Reply> {
    return new Promise((resolve, reject) => {
      const { count, bytes: held } = this.pending;
      let data: any;
      let size = 0;
      let tempId: string | undefined;
      try {
        const text = encode(given) as string | undefined;
        data = text && JSON.parse(text);
        if (typeof data === "object" && data && !Array.isArray(data))
          tempId = data.tempId ??= this.#unique();
        size = bytes(text ?? "");
        if (error) throw error;
        if (size > this.most) throw tooLarge(size, this.most);
        if (count >= this.maxCount || held + size > this.maxBytes)
          throw new HeartlineError("QUEUE_FULL", `${count} messages, ${held} bytes, wait already`);
      } catch (error) {
        return reject(Object.assign(error as Error, { tempId, sent: "no" }));
      }
      this.#all.push({
        event,
        data,
        size,
        tempId,
        at: this.wire.platform.unix(),
        timeout,
        retries,
        tries: 0,
        isOut: false,
        wasOut: false,
        resolve,
        reject,
      });
      this.#note(1, size);
      this.#pump();
    });
  }

  #unique(): string {
    const { platform } = this.wire;
    const part = () => Math.floor(platform.random() * 2 ** 32).toString(36);
    return `${platform.unix().toString(36)}-${part()}${part()}`;
  }

  open(): void {
    this.#isOpen = true;
    this.#pump();
  }

  /** The connection is gone, and all that waited for its answers. */
  drop(): void {
    this.#isOpen = this.#isPaused = false;
    for (const one of this.#all) one.isOut = false;
  }

  /** Nothing is sent any more. */
  fail(error: (one: object) => HeartlineError): void {
    for (const one of [...this.#all]) this.#reject(one, error(one));
  }

  #note(count: number, size: number): void {
    const { pending } = this;
    this.pending = {
      count: pending.count + count,
      bytes: pending.bytes + size,
      ...(this.#all[0] && { oldest: this.#all[0].at }),
    };
    for (const listener of [...this.listeners]) this.wire.guarded(() => listener(this.pending));
  }

  /** Takes a message out, once. */
  #done(one: Outgoing): boolean {
    const index = this.#all.indexOf(one);
    if (index < 0) return false;
    one.off?.();
    this.#all.splice(index, 1);
    this.#note(-1, -one.size);
    return true;
  }

  #reject(one: Outgoing, error: HeartlineError, sent = one.wasOut ? "unknown" : "no"): void {
    const { tempId } = one;
    if (this.#done(one)) one.reject(Object.assign(error, { tempId, sent }));
  }

  #pump(): void {
    for (const one of this.#all.slice(0, this.#window)) {
      if (!this.#isOpen || this.#isPaused) return;
      if (!one.isOut) this.#put(one);
    }
  }

  #put(one: Outgoing): void {
    const { wire } = this;
    if (one.tries > one.retries) {
      return this.#reject(one, new HeartlineError("UNCONFIRMED", "sent, and never acknowledged"));
    }
    one.isOut = true;
    const again = () => {
      one.isOut = false;
      this.#pump();
    };
    one.off = wire.later(one.timeout, () => {
      one.off = wire.later(wire.pause(++one.tries), again);
    });
    try {
      const isOut = wire.put(one.event, one.data, (reply) => this.#answered(one, reply));
      one.wasOut ||= isOut !== false;
    } catch (error) {
      this.#reject(one, error as HeartlineError);
      this.#pump();
    }
  }

  /** An answer to an earlier try is one too, as long as nobody has given up. */
  #answered(one: Outgoing, reply: Reply | undefined): void {
    const { wire } = this;
    const pause = reply?.retryAfterMs;
    // What the connection before was told, this one asks again.
    if (!one.isOut) return;
    if (reply?.ok !== false) {
      if (this.#done(one)) one.resolve(reply ?? {});
      // Nothing waits any more: whoever gave too much at once has had to wait for it.
      if (this.#all.length === 0) this.#window = WINDOW;
    } else if (pause !== undefined && one.tries < one.retries) {
      // What follows is not to overtake it: one at a time as long as there is any.
      one.off?.();
      // Those behind the first were refused because of those before them.
      if (one === this.#all[0]) one.tries++;
      one.isOut = false;
      this.#window = 1;
      this.#isPaused = true;
      wire.later(pause, () => {
        this.#isPaused = false;
        this.#pump();
      });
      return;
    } else this.#reject(one, failure(reply), "refused");
    this.#pump();
  }
}

/** What the server has refused with. */
export const failure = (reply: Reply): HeartlineError =>
  new HeartlineError(
    reply.code ?? "FAILED",
    reply.error ?? "the server refused",
    reply.retryAfterMs,
    reply,
  );
