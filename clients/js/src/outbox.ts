/**
 * An outbox that outlives the page: what was given to it is kept until the server has taken it or
 * refused it, over reloads and crashes. Functions beside the client, so that whoever does without
 * them does not load them.
 *
 * @module
 */
import { encode } from "./encode.js";
import { unique, type SendOptions } from "./queue.js";
import type { Small } from "./small.js";
import { guarded } from "./told.js";
import { HeartlineError, type Reply } from "./types.js";

type AnyClient = Pick<
  Small<any, any>,
  "send" | "state" | "subscribe" | "pending" | "subscribePending" | "platform"
>;

/** A message that is kept. Its `tempId` is in its data as well, there as it was given. */
export interface Stored {
  readonly tempId: string;
  /**
   * Its own: `tempId` may be that of another message too, of another conversation. One that was kept
   * by an earlier version has none, and is known by its `tempId`.
   */
  readonly key?: string;
  readonly event: string;
  readonly data: { readonly [name: string]: unknown };
  /** When it was given, Unix milliseconds. */
  readonly at: number;
}

/**
 * Where messages are kept. Each may reject, or throw: then a message is sent all the same, and
 * `unkept` told.
 */
export interface OutboxStore {
  /**
   * Calls `found` with what earlier pages have left, the first first, and again when another page
   * that had some is closed. Resolves when all has been looked at that can be now.
   */
  load(found: (messages: readonly Stored[]) => void): Promise<void>;
  put(message: Stored): Promise<void>;
  /**
   * Forgets the message of this `tempId`. Who has a `key` is known by that: another one may have the
   * same `tempId`, of another conversation.
   */
  remove(tempId: string, key?: string): Promise<void>;
  /**
   * The outbox is closed: what was kept for it, or left to it, is for the next one, of this page too.
   * What was given before may still be put and removed; the store may be loaded again once it is put.
   */
  close?(): void;
}

export interface OutboxOptions {
  /** The server has taken a message that an earlier page has left. */
  sent?(message: Stored, reply: Reply): void;
  /** It has refused one of those, or nobody has ever answered. It is kept no more. */
  failed?(message: Stored, error: HeartlineError): void;
  /** A message could not be kept, and is lost with the page if it is not sent before. */
  unkept?(error: unknown, message: Stored | undefined): void;
}

export interface Outbox {
  /**
   * As the client's `send`, for objects. It waits over `disconnect()`, too: only the answer of the
   * server settles it, or that there was none for too long, or `close()`.
   */
  send(
    event: string,
    data: { readonly [name: string]: unknown },
    options?: SendOptions,
  ): Promise<Reply>;
  /** Everything that earlier pages have left has been given to the client. */
  readonly ready: Promise<void>;
  /**
   * What is kept stays so, for the next outbox. What the client has not got, because it was
   * disconnected or has no room, rejects with `DISCONNECTED`; what it has got it goes on sending.
   */
  close(): void;
}

interface Entry {
  readonly message: Stored;
  readonly options: SendOptions | undefined;
  /** Its place among those that were given. */
  place?: number;
  /** What is said of it if it was sent: it may have left. */
  sent?: HeartlineError["sent"];
  resolve(reply: Reply): void;
  reject(error: HeartlineError): void;
  /** It stays kept, and this outbox is closed. */
  leave?(error: HeartlineError): void;
}

const closed = (tempId?: string, sent: HeartlineError["sent"] = "no") =>
  Object.assign(new HeartlineError("DISCONNECTED", "the outbox is closed"), { tempId, sent });

/**
 * Gives messages to a client in their order: those for which it has no connection or no room wait
 * here. `forget` is told of each that is settled.
 */
function line(client: AnyClient, forget: (message: Stored) => void) {
  let isClosed = false;
  const parked: Entry[] = [];
  let places = 0;
  /** The client has refused one, and says why a moment later. */
  let isRefusing = false;

  const leave = ({ message, sent, ...entry }: Entry) => entry.leave?.(closed(message.tempId, sent));
  const give = (entry: Entry): void => {
    const { message } = entry;
    entry.place ??= places++;
    if (isClosed) return leave(entry);
    // Nobody overtakes those that wait for room, or are about to.
    if (isRefusing || parked.length) return void parked.push(entry);
    // Whatever the application throws about it, it is done.
    const done = (settle: () => void) => {
      guarded(settle);
      forget(message);
    };
    const { pending } = client;
    const sent = client.send(message.event, message.data, entry.options);
    const isRefused = (isRefusing = client.pending === pending);
    sent.then(
      (reply) => done(() => entry.resolve(reply)),
      (error: HeartlineError) => {
        if (isRefused) isRefusing = false;
        const { code } = error;
        // Whoever finds no room in an empty queue never will.
        const isLater = code === "QUEUE_FULL" ? pending.count > 0 : code === "DISCONNECTED";
        if (error.sent === "unknown") entry.sent = error.sent;
        if (isLater && isClosed) leave(entry);
        else if (isLater) parked.push(entry);
        else done(() => entry.reject(error));
        // What it waits for may have come meanwhile; those behind one that is settled wait no more.
        if (isLater ? client.pending.count === 0 : isRefused) queueMicrotask(again);
      },
    );
  };
  const again = () => {
    const { state } = client;
    const isOver = state.status === "failed" || ("reason" in state && state.reason === "client");
    if (isClosed || isOver) return;
    for (const entry of parked.splice(0).sort((a, b) => a.place! - b.place!)) give(entry);
  };
  const offs = [
    client.subscribe(({ status }) => {
      // What is rejected by an end is parked a moment later.
      if (status === "connecting" || status === "connected") queueMicrotask(again);
    }),
    client.subscribePending(({ count }) => {
      if (count === 0) queueMicrotask(again);
    }),
  ];
  const close = () => {
    isClosed = true;
    for (const off of offs) off();
    parked.splice(0).forEach(leave);
  };
  return { give, close };
}

/** What outboxes that were closed still keep, by their stores: whoever looks before would miss it. */
const keeping = new WeakMap<OutboxStore, Promise<unknown>>();

/**
 * Keeps what is sent by it, and sends what earlier pages have kept. A store is one user's: give it
 * another name for each.
 *
 * ```ts
 * const outbox = openOutbox(heartline, indexedDb(`outbox of ${userId}`));
 * await outbox.send("message:send", { conversationId: "42", content: "hello" });
 * ```
 */
export function openOutbox(
  client: AnyClient,
  store: OutboxStore,
  options: OutboxOptions = {},
): Outbox {
  let isClosed = false;
  const unkept = (message?: Stored) => (error: unknown) =>
    guarded(() => options.unkept?.(error, message));
  const { give, close } = line(client, (message) => {
    const forget = async () => store.remove(message.tempId, message.key);
    forget().catch(unkept(message));
  });

  const load = async () => {
    await keeping.get(store);
    // It was closed meanwhile: the store is another one's.
    if (isClosed) return;
    return store.load((messages) => {
      for (const message of messages) {
        if (isClosed) return;
        give({
          message,
          options: undefined,
          resolve: (reply) => options.sent?.(message, reply),
          reject: (error) => options.failed?.(message, error),
        });
      }
    });
  };
  const ready = load().catch((error) => {
    if (!isClosed) unkept()(error);
  });

  /** One after another: what is given first is kept first, and sent first. */
  let last: Promise<unknown> = ready;
  return {
    ready,
    send(event, data, sendOptions) {
      return new Promise((resolve, reject) => {
        if (isClosed) throw closed();
        if (typeof data !== "object" || data === null || Array.isArray(data))
          throw new HeartlineError("INVALID_DATA", "only an object has a tempId to be known by");
        const { platform } = client;
        const at = platform.unix();
        const tempId = (data.tempId as string | number) ?? unique(platform);
        const key = `${tempId} ${unique(platform)}`;
        const copy = { ...(JSON.parse(encode(data)) as object), tempId };
        const message = { tempId: `${tempId}`, key, event, data: copy, at };
        last = last
          .then(() => store.put(message))
          .catch(unkept(message))
          .then(() => give({ message, options: sendOptions, resolve, reject, leave: reject }));
      });
    },
    close() {
      // Once: the store may be another one's since.
      if (isClosed) return;
      isClosed = true;
      keeping.set(store, last);
      close();
      store.close?.();
    },
  };
}

/** Keeps messages as long as the page lives: for tests, and where there is nothing else. */
export function memory(kept: Map<string, Stored> = new Map()): OutboxStore {
  return {
    async load(found) {
      found([...kept.values()]);
    },
    async put(message) {
      kept.set(message.key ?? message.tempId, message);
    },
    async remove(tempId, key = tempId) {
      kept.delete(key);
    },
  };
}

const TABLE = "messages";
/** How long a page that has just gone may take to be gone, in milliseconds. */
const LOCK_TIME = 1_000;

/**
 * A row: the number is its place. Its `tempId` is what it is found by, the message's key; the one that
 * the server knows it by is in its data.
 */
interface Row extends Stored {
  readonly number?: number;
  /** The page that sends it. */
  readonly owner: string;
}

const settled = <T>(request: IDBRequest<T>): Promise<T> =>
  new Promise((resolve, reject) => {
    request.onsuccess = () => resolve(request.result);
    request.onerror = () => reject(request.error);
  });

/**
 * The browser's database of this name: does something in a transaction, and resolves once that is on the
 * disk. One that has failed, or was closed, is opened anew.
 */
function database(name: string) {
  let opened: Promise<IDBDatabase> | undefined;
  const forget = () => {
    opened = undefined;
  };
  const open = (): Promise<IDBDatabase> => {
    if (opened) return opened;
    opened = new Promise<IDBDatabase>((resolve, reject) => {
      const request = indexedDB.open(name, 1);
      request.onupgradeneeded = () =>
        request.result
          .createObjectStore(TABLE, { keyPath: "number", autoIncrement: true })
          .createIndex("tempId", "tempId");
      request.onsuccess = () => {
        const { result } = request;
        result.onclose = forget;
        // Whoever deletes it, or changes it, waits until it is closed everywhere.
        result.onversionchange = () => {
          forget();
          result.close();
        };
        resolve(result);
      };
      request.onerror = () => reject(request.error);
    });
    opened.catch(forget);
    return opened;
  };
  return async <T>(
    work: (table: IDBObjectStore) => Promise<T>,
    mode: IDBTransactionMode = "readwrite",
  ): Promise<T> => {
    const begin = async () => (await open()).transaction(TABLE, mode);
    const transaction = await begin().catch(() => {
      // It was closed meanwhile.
      forget();
      return begin();
    });
    const done = new Promise<void>((resolve, reject) => {
      transaction.oncomplete = () => resolve();
      transaction.onabort = () => reject(transaction.error);
    });
    const [result] = await Promise.all([work(transaction.objectStore(TABLE)), done]);
    return result;
  };
}

/** What is in a row. */
const stored = ({ number: _, owner: __, tempId, ...rest }: Row): Stored => ({
  ...rest,
  key: tempId,
  tempId: `${rest.data.tempId}`,
});

/**
 * What pages say to each other, where they can: whose something is. It is said while that is being
 * written; whoever hears it looks for it after that.
 */
function word(name: string) {
  const { BroadcastChannel: Channel } = globalThis as {
    BroadcastChannel?: typeof BroadcastChannel;
  };
  return {
    say(owner: string) {
      if (!Channel) return;
      const channel = new Channel(name);
      channel.postMessage(owner);
      channel.close();
    },
    hear(heard: (owner: string) => void, { signal }: AbortController) {
      if (!Channel) return;
      const channel = new Channel(name);
      channel.onmessage = ({ data }) => heard(data);
      signal.addEventListener("abort", () => channel.close());
    },
  };
}

/**
 * Keeps messages in the browser's database, for one user: name it after them. Several pages may be
 * open: each sends its own, and one of them those of a page that was closed.
 */
export function indexedDb(name: string): OutboxStore {
  const random = () => crypto.getRandomValues(new Uint32Array(4)).join("-");
  let owner = random();
  let closing = new AbortController();
  const lock = (of: string) => `heartline ${name} ${of}`;
  const { locks } = navigator as { locks?: LockManager };
  const { say, hear } = word(`heartline ${name}`);
  const change = database(`heartline ${name}`);
  const all = (table: IDBObjectStore) => settled(table.getAll()) as Promise<Row[]>;
  return {
    async load(found) {
      if (closing.signal.aborted) {
        closing = new AbortController();
        owner = random();
      }
      const { signal } = closing;
      const own = owner;
      /** Takes over what others have left, and tells whether it is this page's now. */
      const claim = async (of: (row: Row) => boolean): Promise<boolean> => {
        const taken = await change(async (table) => {
          const rows = (await all(table)).filter((row) => !signal.aborted && of(row));
          for (const row of rows) table.put({ ...row, owner: own });
          if (rows.length) say(own);
          return rows;
        }).catch(() => undefined);
        // Where nothing can be written any more they are sent all the same.
        const rows = taken ?? (await change(all, "readonly")).filter(of);
        found(rows.map(stored));
        return !!taken;
      };
      if (!locks) return void (await claim((row) => row.owner !== own));
      const gone = new Promise<void>((resolve) =>
        signal.addEventListener("abort", () => resolve()),
      );
      // Held until the page is gone, or this is closed.
      locks.request(lock(own), { signal }, () => gone).catch(() => {});
      /** Whose are waited for, or need not be. */
      const waited = new Set([own]);
      const take = (other: string): Promise<void> | undefined => {
        if (waited.has(other)) return;
        waited.add(other);
        // Granted when that page is gone, be it much later.
        return locks.request(lock(other), { signal }, async () => {
          waited.delete(other);
          // What is that page's still, no other one is to send as well.
          if (!(await claim((row) => row.owner === other))) await gone;
        });
      };
      hear((other) => void take(other)?.catch(() => {}), closing);
      const taken = (await change(all, "readonly")).map((row) => take(row.owner));
      const late = new Promise<void>((resolve) => setTimeout(resolve, LOCK_TIME));
      await Promise.race([Promise.all(taken), late]);
    },
    put: ({ key, ...message }) =>
      change(async (table) => {
        const added = settled(table.add({ ...message, tempId: key ?? message.tempId, owner }));
        say(owner);
        await added;
      }),
    remove: (tempId, key = tempId) =>
      change(async (table) => {
        const keys = await settled(table.index("tempId").getAllKeys(key));
        for (const number of keys) table.delete(number);
      }),
    close: () => closing.abort(),
  };
}

/**
 * Asks whoever closes the page whether they mean it, while something waits to be sent. Returns what
 * ends that.
 */
export function warnBeforeUnload(client: Pick<AnyClient, "subscribePending">): () => void {
  const warn = (event: BeforeUnloadEvent) => {
    event.preventDefault();
    // What older browsers look at.
    event.returnValue = true;
  };
  const off = client.subscribePending(({ count }) => {
    // Without anything that waits, the page is not to be kept from the back and forward cache.
    if (count > 0) addEventListener("beforeunload", warn);
    else removeEventListener("beforeunload", warn);
  });
  return () => {
    off();
    removeEventListener("beforeunload", warn);
  };
}
