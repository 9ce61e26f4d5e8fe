import { encode, measure } from "./encode.js";
import { given } from "./given.js";
import type { Small } from "./small.js";
import { Told } from "./told.js";
import { HeartlineError, type Pending, type Platform, type Reply } from "./types.js";

export interface SendOptions {
  /**
   * How long to wait for an acknowledgement, in milliseconds; longer where nothing else is heard
   * either. Default: 10 000.
   */
  timeout?: number;
  /** How often to send again without one. Default: 5. */
  retries?: number;
}

/** How many messages may wait, and how many bytes they may have. */
interface Limits {
  readonly queue: number;
  readonly queueBytes: number;
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
  isOut?: boolean;
  wasOut?: boolean;
  resolve(reply: Reply): void;
  reject(error: HeartlineError): void;
}

/** Messages that may be on their way at once: the server does them in the order in which they come. */
const WINDOW = 32;
/** So much longer it waits each time that nothing was heard, in milliseconds. */
const LATER = 1_000;

/** Messages that are sent until they are acknowledged, in the order in which they were given. */
export class Queue {
  readonly pending = new Told<Pending>({ count: 0, bytes: 0 });
  /** Bytes that a message may have. */
  most = Infinity;
  readonly #all: Outgoing[] = [];
  /** They may be sent: there is a connection, and the server has asked for no pause. */
  #isOpen = false;
  #window = WINDOW;

  readonly #client: Small<any, any>;
  readonly #limits: Limits;

  constructor(client: Small<any, any>, limits: Limits) {
    this.#client = client;
    this.#limits = limits;
  }

  /** Takes a message, unless there is an `error` already. */
  add(
    event: string,
    original: unknown,
    { timeout = 10_000, retries = 5 }: SendOptions,
    error?: HeartlineError,
  ): Promise<Reply> {
    return new Promise((resolve, reject) => {
      const { count, bytes } = this.pending.value;
      const { platform } = this.#client;
      const at = platform.unix();
      let data: any;
      let size: number;
      let tempId: string | undefined;
      try {
        const text = encode(original) ?? "";
        data = text ? JSON.parse(text) : undefined;
        if (typeof data === "object" && data && !Array.isArray(data))
          tempId = data.tempId ??= unique(platform);
        if (error) throw error;
        size = measure(text, this.most);
        if (count >= this.#limits.queue || bytes + size > this.#limits.queueBytes)
          throw new HeartlineError("QUEUE_FULL", `${count} messages of ${bytes} bytes wait`);
      } catch (error) {
        return reject(Object.assign(error as Error, { tempId, sent: "no" }));
      }
      this.#all.push({
        event,
        data,
        size,
        tempId,
        at,
        timeout,
        retries,
        tries: 0,
        resolve,
        reject,
      });
      this.#note(1, size);
      this.#pump();
    });
  }

  open(): void {
    this.#isOpen = true;
    this.#pump();
  }

  /** The connection is gone, and all that waited for its answers. */
  drop(): void {
    this.#isOpen = false;
    for (const one of this.#all) one.isOut = false;
  }

  /** Nothing is sent any more. */
  fail(error: () => HeartlineError): void {
    for (const one of [...this.#all]) this.#reject(one, error());
  }

  #note(count: number, size: number): void {
    const { value } = this.pending;
    this.pending.become(
      given({
        count: value.count + count,
        bytes: value.bytes + size,
        oldest: this.#all[0]?.at,
      }),
    );
  }

  /** Takes a message out, once. */
  #done(one: Outgoing): boolean {
    const index = this.#all.indexOf(one);
    const isIn = index >= 0;
    if (isIn) {
      this.#client["timers"].clear(one);
      this.#all.splice(index, 1);
      this.#note(-1, -one.size);
    }
    return isIn;
  }

  #reject(one: Outgoing, error: HeartlineError, sent = one.wasOut ? "unknown" : "no"): void {
    if (this.#done(one)) one.reject(Object.assign(error, { tempId: one.tempId, sent }));
  }

  #pump(): void {
    for (const one of this.#all.slice(0, this.#window))
      if (this.#isOpen && !one.isOut) this.#put(one);
  }

  #put(one: Outgoing): void {
    const client = this.#client;
    const timers = client["timers"];
    one.isOut = true;
    const at = client.platform.now();
    const again = () => {
      one.isOut = false;
      this.#pump();
    };
    // Where nothing has been heard since, it is quiet, or no server is there and the connection ends.
    const wait = (ms: number) =>
      timers.set(one, ms, () =>
        client["heardAt"] > at
          ? timers.set(one, client["pause"](++one.tries), again)
          : wait(ms + LATER),
      );
    wait(one.timeout);
    try {
      if (one.tries > one.retries) throw new HeartlineError("UNCONFIRMED", "no answer");
      const isOut = client["put"](one.event, one.data, (reply) => this.#answered(one, reply));
      one.wasOut ||= isOut !== false;
    } catch (error) {
      this.#reject(one, error as HeartlineError);
      this.#pump();
    }
  }

  /** An answer to an earlier try is one too, as long as nobody has given up. */
  #answered(one: Outgoing, reply: Reply | undefined): void {
    const timers = this.#client["timers"];
    const pause = reply?.retryAfterMs;
    // What the connection before was told, this one asks again.
    if (!one.isOut) return;
    if (reply?.ok !== false) {
      if (this.#done(one)) one.resolve(reply ?? {});
      // Nothing waits any more: whoever gave too much at once has had to wait for it.
      if (!this.#all.length) this.#window = WINDOW;
    } else if (pause !== undefined && one.tries < one.retries) {
      // What follows is not to overtake it: one at a time as long as there is any.
      timers.clear(one);
      // Those behind the first were refused because of those before them.
      if (one === this.#all[0]) one.tries++;
      one.isOut = false;
      this.#window = 1;
      this.#isOpen = false;
      return timers.set(this, pause, () => this.open());
    } else this.#reject(one, failure(reply), "refused");
    this.#pump();
  }
}

/** A name that no other message has. */
export function unique({ unix, random }: Platform): string {
  const part = () => Math.floor(random() * 2 ** 32).toString(36);
  return `${unix().toString(36)}-${part()}${part()}`;
}

/** What the server has refused with. */
export const failure = (reply: Reply): HeartlineError =>
  new HeartlineError(
    reply.code ?? "FAILED",
    reply.error ?? "the server refused",
    reply.retryAfterMs,
    reply,
  );
