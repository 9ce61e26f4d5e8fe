/**
 * What the bindings to frameworks have in common: who uses a client, and what is true of it as
 * stores that frameworks subscribe to. All is counted for each client and let go a tick after its
 * last user has gone, so that whoever is shown anew in the same breath finds it as it was.
 */
import type { Client } from "./client.js";
import type { Core } from "./core.js";
import { guarded } from "./told.js";
import type { HeartlineError, ServerEvents, State } from "./types.js";

export type AnyClient = Core<any, any>;

/**
 * Where an app says which its client is; then events and their data are checked:
 *
 * ```ts
 * declare module "@heartline/client/react" {
 *   interface Register {
 *     client: typeof heartline;
 *   }
 * }
 * ```
 */
export interface Register {}
/** The client that the app has registered, or any. */
export type TheClient = Register extends { client: infer C extends AnyClient } ? C : AnyClient;
/** By its own name: what a class takes is not found again from its members. */
type Incoming<C> =
  C extends Client<infer In, any> ? In : C extends Core<infer In, any> ? In : never;
/** What it hears: data by the events' names. */
export type Events = Incoming<TheClient> & ServerEvents;

/** Something that is true now, and is told at each change. Never changed; replaced. */
export interface Store<T> {
  get(): T;
  /** Calls `listener` now and at each change, until what it returns is called. */
  subscribe(listener: (value: T) => void): () => void;
}

/** A thing that several use: its end comes a tick after the last of them has gone. */
export class Hold {
  #count = 0;
  #ending: unknown;

  constructor(
    readonly client: AnyClient,
    readonly end: () => void,
  ) {}

  get isHeld(): boolean {
    return this.#count > 0;
  }

  /** Says whether it begins. */
  take(): boolean {
    const isOn = this.#count++ > 0 || this.#ending !== undefined;
    if (this.#ending !== undefined) this.client.platform.clearTimeout(this.#ending);
    this.#ending = undefined;
    return !isOn;
  }

  release(): void {
    if (--this.#count > 0) return;
    this.#ending = this.client.platform.setTimeout(() => {
      this.#ending = undefined;
      this.end();
    }, 0);
  }
}

interface Uses {
  /** Providers that show it. */
  readonly hold: Hold;
  readonly rooms: Map<string, RoomUse>;
}

const known = new WeakMap<AnyClient, Uses>();

function usesOf(client: AnyClient): Uses {
  let uses = known.get(client);
  if (!uses) {
    uses = { hold: new Hold(client, () => client.disconnect()), rooms: new Map() };
    known.set(client, uses);
  }
  return uses;
}

/**
 * Connects a client for as long as somebody holds it. Returns what lets go; a tick after the last
 * has done so, it is disconnected.
 */
export function hold(client: AnyClient): () => void {
  const uses = usesOf(client);
  if (uses.hold.take()) client.connect();
  return () => uses.hold.release();
}

// --- the state ---------------------------------------------------------

/** Before there is a connection; also what a server renders. */
export const AT_FIRST: State = { status: "connecting" };

/** The state; of a client that is about to be held, what it is to be then. */
export function statusOf(client: AnyClient): Store<State> {
  const get = () =>
    client.state.status === "disconnected" && !usesOf(client).hold.isHeld ? AT_FIRST : client.state;
  return { get, subscribe: (listener) => client.subscribe(() => listener(get())) };
}

// --- rooms -------------------------------------------------------------

/** Whether a client is in a room now, and if the server has refused, why. */
export interface RoomState {
  readonly joined: boolean;
  readonly error?: Error;
}

export const OUTSIDE: RoomState = { joined: false };

class RoomUse {
  readonly hold: Hold;
  readonly listeners = new Set<(state: RoomState) => void>();
  state = OUTSIDE;
  #error: Error | undefined;
  #isAsked = false;
  readonly #offs: (() => void)[];

  constructor(
    readonly client: AnyClient,
    readonly room: string,
    end: () => void,
  ) {
    this.hold = new Hold(client, () => {
      for (const off of this.#offs) off();
      client.leave(room, this);
      end();
    });
    this.#offs = [
      client.subscribe(({ status }) => {
        const isWanted = status !== "disconnected" && status !== "failed";
        if (isWanted && !this.#isAsked) this.#ask();
        this.#isAsked = isWanted;
        this.#show();
      }),
      client.on("room:in", ({ room }) => room === this.room && this.#show()),
      client.on("room:lost", ({ room, code }) => {
        if (room === this.room) this.#show(new Error(code));
      }),
    ];
  }

  #ask(): void {
    this.#error = undefined;
    this.client.join(this.room, this).then(
      () => this.#show(),
      (error: HeartlineError) => {
        // Neither is a refusal: the one is in the state, the other somebody has wanted.
        if (error.code !== "DISCONNECTED" && error.code !== "LEFT") this.#show(error);
      },
    );
  }

  #show(error = this.#error): void {
    const joined = this.client.isIn(this.room);
    this.#error = error = joined ? undefined : error;
    if (joined === this.state.joined && error === this.state.error) return;
    this.state = error ? { joined, error } : { joined };
    for (const listener of [...this.listeners]) listener(this.state);
  }
}

/** A room that the client is in for as long as somebody subscribes to this. */
export function roomOf(client: AnyClient, room: string): Store<RoomState> {
  const { rooms } = usesOf(client);
  return {
    get: () => rooms.get(room)?.state ?? OUTSIDE,
    subscribe(listener) {
      let use = rooms.get(room)!;
      if (!use) rooms.set(room, (use = new RoomUse(client, room, () => rooms.delete(room))));
      use.hold.take();
      // Its own function, so that one that subscribes twice is told twice.
      const own = (state: RoomState) => guarded(() => listener(state));
      use.listeners.add(own);
      own(use.state);
      return () => {
        if (use.listeners.delete(own)) use.hold.release();
      };
    },
  };
}

/** What `useMissed` hears. */
export const isMissed = (missed: { room: string; filled: boolean }, room: string) =>
  missed.room === room && !missed.filled;
