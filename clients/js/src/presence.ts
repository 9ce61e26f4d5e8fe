/**
 * Presence that says how true it is: a picture of users, or of a room, and its changes. Functions
 * beside the client, so that whoever does without them does not load them.
 *
 * @module
 */
import { isPassing } from "./parts.js";
import type { Small } from "./small.js";
import { MAX_TIMER } from "./timers.js";
import { guarded } from "./told.js";
import type { HeartlineError, PresenceDelta, Reply, WatchedUser } from "./types.js";

type AnyClient = Pick<
  Small<any, any>,
  "request" | "emit" | "on" | "subscribe" | "state" | "platform"
>;

/** How true a picture is. */
export type PresenceState =
  /** It is as the server has it, up to the last change that was told. */
  | { readonly status: "complete" }
  /** There is a connection, and what is missing has been asked for. */
  | { readonly status: "catching-up" }
  /** It was complete until then, Unix milliseconds by this machine's clock. */
  | {
      readonly status: "stale";
      readonly since: number;
      /** Why the server does not tell it: `FORBIDDEN`, `LEFT`, `TOO_LARGE`, … */
      readonly code?: string;
    };

/** Users by their ids, and how true that is. Never changed; what is different is a new one. */
export interface Picture extends ReadonlyMap<string, WatchedUser> {
  readonly state: PresenceState;
}

/** What somebody watches, until `close()`. */
export interface Watching {
  readonly picture: Picture;
  /** Calls `listener` with each picture that follows. Returns what ends that. */
  subscribe(listener: (picture: Picture) => void): () => void;
  close(): void;
}

/** Users that the server takes in one question. */
const MOST_USERS = 100;
/** Changes that are kept while an answer is on its way: a turn of the server's, or two. */
const MOST_EARLY = 256;
/** Before something is asked again, if the server does not say when, in milliseconds. */
const PAUSE = 1_000;

const COMPLETE: PresenceState = { status: "complete" };
const CATCHING_UP: PresenceState = { status: "catching-up" };

class Users extends Map<string, WatchedUser> implements Picture {
  constructor(
    readonly state: PresenceState,
    users?: Iterable<readonly [string, WatchedUser]>,
  ) {
    super(users ?? []);
  }
}

/** What a server renders, and what is shown of nobody. */
export const NOBODY: Picture = new Users(CATCHING_UP);

type What = { readonly room: string } | { readonly users: readonly string[] };

interface Answer {
  readonly epoch: string;
  readonly rev: number;
  readonly head: number;
  readonly users: readonly WatchedUser[];
  readonly recovered: boolean;
  readonly stale?: boolean;
}

/** One watch of the server's, shared by all who want it of one client. */
class Mirror {
  picture: Users;
  /** How many want it. */
  wanted = 0;
  readonly listeners = new Set<() => void>();
  #place: { epoch: string; rev: number } | undefined;
  /** The change with which it has caught up. */
  #head = 0;
  /** What the server says of itself. */
  #isStale = false;
  #code: string | undefined;
  #asking: object | undefined;
  /** Changes that came while it was asking: the last may be behind the answer already. */
  readonly #early: PresenceDelta[] = [];
  #isConnected = false;
  #since: number;
  #timer: unknown;
  readonly #offs: (() => void)[];

  constructor(
    readonly client: AnyClient,
    readonly what: What,
    /** Those that the client has: what they know of users is shown until there is an answer. */
    others: Map<string, Mirror>,
  ) {
    this.#since = client.platform.unix();
    const users = new Map<string, WatchedUser>();
    for (const other of others.values())
      for (const name of "users" in what ? what.users : []) {
        const { picture } = other;
        const user = picture.get(name);
        if (!user || user.rev < (users.get(name)?.rev ?? 0)) continue;
        users.set(name, user);
        // It is as old as there.
        if (picture.state !== COMPLETE) this.#since = Math.min(this.#since, other.#since);
      }
    this.picture = new Users({ status: "stale", since: this.#since }, users);
    this.#offs = [
      // Over Socket.IO, anything may come under this name.
      client.on("presence:change", (change) => change && this.#changed(change)),
      client.on("room:in", ({ room }) => {
        if ("room" in what && room === what.room && this.#code !== undefined) this.#ask();
      }),
      client.subscribe(({ status }) => {
        const isConnected = status === "connected";
        if (isConnected === this.#isConnected) return;
        this.#isConnected = isConnected;
        this.#asking = undefined;
        if (isConnected) this.#ask();
        else this.#show();
      }),
    ];
  }

  close(): void {
    for (const off of this.#offs) off();
    this.#asking = undefined;
    this.#pause();
    this.client.emit("presence:unwatch", this.what);
  }

  #pause(ms?: number): void {
    const { platform } = this.client;
    if (this.#timer !== undefined) platform.clearTimeout(this.#timer);
    this.#timer =
      ms === undefined
        ? undefined
        : platform.setTimeout(() => this.#ask(), Math.min(ms, MAX_TIMER));
  }

  #ask(): void {
    this.#pause();
    this.#code = undefined;
    if (!this.#isConnected) return;
    const asking = (this.#asking = {});
    this.#early.length = 0;
    const after = this.#place && { after: this.#place };
    this.#show();
    this.client.request("presence:watch", { ...this.what, ...after }).then(
      (reply) => asking === this.#asking && this.#answered(reply as Reply & Answer),
      (error: HeartlineError) => {
        if (asking !== this.#asking) return;
        this.#asking = undefined;
        const { code, retryAfterMs } = error;
        if (isPassing(error)) this.#pause(retryAfterMs ?? PAUSE);
        // The next connection asks by itself.
        else if (code !== "DISCONNECTED") this.#code = code;
        this.#show();
      },
    );
  }

  #answered({ epoch, rev, head, users, recovered, stale }: Answer): void {
    this.#asking = undefined;
    this.#place = { epoch, rev };
    this.#head = head;
    this.#isStale = !!stale;
    if (recovered) this.#show();
    else this.#put(new Map(), users);
    // What came before the answer is in it, or is told again.
    for (const change of this.#early.splice(0)) {
      // Of that answer, or of what was before: the next one tells.
      if (change.ended !== undefined) return this.#ask();
      if (change.rev === this.#place.rev + 1) this.#changed(change);
    }
  }

  #changed(change: PresenceDelta): void {
    if (this.#asking) {
      if (this.#early.push(change) > MOST_EARLY) this.#early.shift();
      return;
    }
    const { epoch, rev, users, stale, ended } = change;
    const place = this.#place;
    if (epoch !== place?.epoch) return;
    if (ended !== undefined) {
      this.#code = ended;
      // Whether the server has to be asked first is its own affair.
      if (ended === "TIMEOUT") this.#pause(PAUSE);
      return this.#show();
    }
    // What comes after a hole is told again.
    if (rev <= place.rev) return;
    if (rev > place.rev + 1) return this.#timer === undefined ? this.#ask() : undefined;
    this.#place = { epoch, rev };
    this.#isStale = !!stale;
    this.#put(new Map(this.picture), users);
  }

  #put(all: Map<string, WatchedUser>, users: readonly WatchedUser[]): void {
    for (const user of users) {
      // Who is not there any more is in no picture of a room.
      if ("room" in this.what && !(user.online && user.in !== false)) all.delete(user.userId);
      else all.set(user.userId, user);
    }
    this.#show(all);
  }

  #show(all: Map<string, WatchedUser> = this.picture): void {
    const state = this.#state();
    if (all === this.picture && state === this.picture.state) return;
    this.picture = new Users(state, all);
    for (const listener of [...this.listeners]) listener();
  }

  #state(): PresenceState {
    const code = this.#code;
    if (this.#isConnected && code === undefined && !this.#isStale) {
      const { rev } = this.#place ?? { rev: -1 };
      if (this.#asking || this.#timer !== undefined || rev < this.#head) {
        this.#noteEnd();
        return CATCHING_UP;
      }
      return COMPLETE;
    }
    this.#noteEnd();
    const { state } = this.picture;
    const since = this.#since;
    if (state.status === "stale" && state.since === since && state.code === code) return state;
    return { status: "stale", since, ...(code !== undefined && { code }) };
  }

  /** It was complete until now. */
  #noteEnd(): void {
    if (this.picture.state.status === "complete") this.#since = this.client.platform.unix();
  }
}

const mirrors = new WeakMap<AnyClient, Map<string, Mirror>>();

/** The worst of several states. */
function worst(states: readonly PresenceState[]): PresenceState {
  let all = COMPLETE;
  for (const state of states) {
    if (state.status === "stale" && (all.status !== "stale" || state.since < all.since))
      all = state;
    else if (state.status === "catching-up" && all.status === "complete") all = state;
  }
  return all;
}

function watch(client: AnyClient, parts: readonly What[]): Watching {
  const known = mirrors.get(client) ?? new Map<string, Mirror>();
  mirrors.set(client, known);
  const keys = parts.map((what) => JSON.stringify(what));
  const all = keys.map((key, index) => {
    const mirror = known.get(key) ?? new Mirror(client, parts[index]!, known);
    known.set(key, mirror);
    mirror.wanted++;
    return mirror;
  });
  const listeners = new Set<(picture: Picture) => void>();
  const compose = () =>
    all.length === 1
      ? all[0]!.picture
      : new Users(
          worst(all.map(({ picture }) => picture.state)),
          all.flatMap(({ picture }) => [...picture]),
        );
  let picture: Picture = compose();
  const changed = () => {
    picture = compose();
    for (const listener of [...listeners]) guarded(() => listener(picture));
  };
  for (const mirror of all) mirror.listeners.add(changed);
  let isOver = false;
  return {
    get picture() {
      return picture;
    },
    subscribe(listener) {
      const own = (picture: Picture) => listener(picture);
      listeners.add(own);
      return () => void listeners.delete(own);
    },
    close() {
      if (isOver) return;
      isOver = true;
      all.forEach((mirror, index) => {
        mirror.listeners.delete(changed);
        if (--mirror.wanted > 0) return;
        known.delete(keys[index]!);
        mirror.close();
      });
    },
  };
}

/**
 * Watches users, over all reconnections: who of them is online, and whether that is known for
 * certain. A hole in what the server tells is noticed and filled.
 *
 * ```ts
 * const watching = watchUsers(heartline, ["ann", "bob"]);
 * watching.subscribe((picture) => console.log(picture.state.status, picture.get("bob")?.online));
 * ```
 */
export function watchUsers(client: AnyClient, users: Iterable<string>): Watching {
  const names = [...new Set(users)].sort();
  const parts: What[] = [];
  for (let at = 0; at < names.length; at += MOST_USERS)
    parts.push({ users: names.slice(at, at + MOST_USERS) });
  return watch(client, parts);
}

/**
 * The same of whoever is in a room, on any node: `watchRoom(client, "lobby")`, or with a room
 * as an object. The client has to be in it, or to be allowed to
 * join it; the watch rests while it has left it.
 */
export function watchRoom(room: { readonly client: AnyClient; readonly name: string }): Watching;
export function watchRoom(client: AnyClient, room: string): Watching;
export function watchRoom(
  of: AnyClient | { readonly client: AnyClient; readonly name: string },
  room?: string,
): Watching {
  return "client" in of ? watch(of.client, [{ room: of.name }]) : watch(of, [{ room: room! }]);
}
