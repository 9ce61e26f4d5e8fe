import { given } from "./given.js";
import type { Filler, Wanted } from "./parts.js";
import { DEFAULTS, SELDOM, Small, nothing, type Options } from "./small.js";
import {
  HeartlineError,
  type Dial,
  type Hello,
  type Message,
  type Place,
  type Reply,
  type Session,
} from "./types.js";

export type { Options, Token } from "./small.js";

/** How long messages wait for rooms that are joined again, in milliseconds. */
const JOIN_TIME = 5_000;

/** Whether the same may be asked again after a pause. */
export const isPassing = ({ code, retryAfterMs }: HeartlineError) =>
  retryAfterMs !== undefined || /^(RATE_LIMITED|OVERLOADED|TIMEOUT)$/.test(code);
/** Tells all who wait to be in a room that they are, or why not. */
const settle = ({ waiting }: Wanted, error?: () => HeartlineError) => {
  for (const told of waiting.splice(0)) told(error?.());
};

/**
 * A connection to Heartline that says what is true of it, comes back by itself, loses nothing that
 * it was given to send, and is in rooms. What was missed is told, and not filled in: that is what
 * `Client` adds.
 *
 * `Incoming` names the events of the application and their data, `Outward` those that
 * it sends.
 */
export class Core<
  Incoming extends object = Record<string, any>,
  Outward extends object = Record<string, unknown>,
> extends Small<Incoming, Outward> {
  /** Rooms to be in. */
  readonly #rooms = new Map<string, Wanted>();
  /** Rooms that were left, as long as the server has not said so. */
  readonly #left = new Set<string>();
  readonly #filler: Filler | undefined;
  readonly #backoff: number;
  /** What the last connection has left to the next one. */
  #session: Session | undefined;
  /** There is a connection. */
  #isOn = false;

  constructor(dial: Dial, options: Options = {}, Filling?: new (client: Core<any, any>) => Filler) {
    // What is here has to be there before it connects.
    super(dial, { ...options, autoConnect: false });
    this.#backoff = options.backoff ?? DEFAULTS.backoff;
    this.#filler = Filling && new Filling(this);
    if (options.autoConnect ?? true) this.connect();
  }

  // --- who wants what --------------------------------------------------

  /**
   * Joins a room, and joins it again after each reconnection until `leave`. Resolves
   * when the server has let this client in; rejects when it does not, or at the end.
   * A room has as many users as have joined it, each once.
   */
  join(name: string, user: unknown = this): Promise<void> {
    const joined = new Promise<void>((resolve, reject) => {
      let room = this.#rooms.get(name);
      if (!room) {
        this.#rooms.set(name, (room = { users: new Set(), waiting: [] }));
        this.#left.delete(name);
      }
      room.users.add(user);
      if (this.isIn(name)) return resolve();
      room.waiting.push((error) => (error ? reject(error) : resolve()));
      if (this.#isOn) void this.#enter(name, room);
    });
    // Who does not wait for it does not have to hear that it came to nothing.
    joined.catch(nothing);
    return joined;
  }

  /** Whether this client is in a room now. */
  isIn(room: string): boolean {
    return this.#isOn && !!this.#rooms.get(room)?.isIn;
  }

  /** Leaves a room, for good, unless somebody else wants to be in it. */
  leave(name: string, user: unknown = this): void {
    const room = this.#rooms.get(name);
    if (!room?.users.delete(user) || room.users.size) return;
    this.#forget(name);
    settle(room, () => new HeartlineError("LEFT", `room ${name} was left`));
    // If it is not heard now, the next connection says it.
    this.#left.add(name);
    if (this.#isOn) this.#depart(name);
    this.tell("room:out", { room: name });
  }

  /** Publishes to a room; with a `key`, a slow reader gets only the newest of each. */
  publish<K extends keyof Incoming & string>(
    room: string,
    event: K,
    data: Incoming[K],
    key?: string,
  ): Promise<Reply> {
    return this.request("publish", { room, event, ...given({ data, key }) } as never);
  }

  #depart(room: string): void {
    // Joined again meanwhile, it has another answer to wait for.
    this.link?.leave(room, () => this.#left.delete(room));
  }

  #forget(name: string): void {
    this.#rooms.delete(name);
    this.#session?.rooms?.delete(name);
  }

  protected wanted(name: string): Wanted | undefined {
    return this.#rooms.get(name);
  }

  // --- getting in ------------------------------------------------------

  /** Asks to be let in, once at a time. Resolves when there is nothing more to wait for. */
  #enter(name: string, room: Wanted): Promise<unknown> {
    if (room.entering) return room.entering;
    // Where it stands, so that it is known what is missed later.
    if (!room.wasIn) this.#filler?.joining(name, room);
    return (room.entering = this.ask((reply) => this.link?.join(name, reply)).then(
      (reply) => {
        // It may have been left, and joined anew by now: that has an answer of its own.
        if (this.#rooms.get(name) !== room) return;
        room.entering = undefined;
        const isNew = !room.isIn;
        room.isIn = true;
        settle(room);
        if (isNew) this.tell("room:in", { room: name });
        this.#entered(name, room, reply);
      },
      (error: HeartlineError) => {
        // What is lost with the connection is joined with the next one.
        if (this.#rooms.get(name) !== room || error.code === "DISCONNECTED") return;
        if (isPassing(error))
          return new Promise((resolve) =>
            this.again(error, () => {
              room.entering = undefined;
              resolve(this.#rooms.get(name) === room && this.#enter(name, room));
            }),
          );
        this.#forget(name);
        settle(room, () => error);
        this.tell("room:lost", { room: name, code: error.code });
      },
    ));
  }

  /** A room was joined: what was missed of it comes by itself, or is filled, or is told of. */
  #entered(name: string, room: Wanted, { recovered, snapshot }: Reply): void {
    // A handler may have left it.
    if (!this.isIn(name)) return;
    if (room.isStale && recovered) this.#filler?.goesOn(name, room);
    else if (room.isStale) this.#missed(name, room);
    room.isStale = false;
    room.wasIn = true;
    if (!recovered && (snapshot as unknown[] | undefined)?.length)
      this.tell("room:snapshot", { room: name, snapshot });
  }

  #missed(name: string, room: Wanted): void {
    if (!this.#filler?.missed(name, room)) this.tell("room:missed", { room: name, filled: false });
  }

  /** After the pause that was asked for, and a little later, so that not all come together. */
  protected again({ retryAfterMs }: HeartlineError, call: () => void): void {
    const chance = 1.25 - this.platform.random() / 4;
    this.timers.set(call, (retryAfterMs ?? this.#backoff) * chance, call);
  }

  // --- the connection --------------------------------------------------

  protected override hello(hello: Hello): void {
    const { recovered } = hello;
    const isByRoom = this.link?.isByRoom;
    this.#isOn = true;
    if (!recovered && !isByRoom) this.#left.clear();
    for (const room of this.#rooms.values()) {
      if (!recovered) room.isIn = false;
      if (room.wasIn && (!recovered || isByRoom)) room.isStale = true;
    }
    this.#filler?.hello(hello, this.#rooms);
  }

  protected override entering(open: () => void): boolean {
    const { timers } = this;
    for (const room of this.#left) this.#depart(room);
    const entering = [...this.#rooms].map(([name, room]) => {
      if (room.isStale || room.waiting.length || !room.isIn) return this.#enter(name, room);
      this.#filler?.lookBack(name, room);
    });
    if (!entering.some(Boolean)) return false;
    // What is sent may be for a room: its own sender is to hear it there.
    const joined = Promise.all(entering);
    timers.set(joined, JOIN_TIME, open);
    void joined.then(() => {
      if (!timers.has(joined)) return;
      timers.clear(joined);
      open();
    });
    return true;
  }

  protected override hears(event: string, data: any, said: string | undefined, at: Place): boolean {
    const { room: name, reason } = Object(data);
    const room = this.#rooms.get(name);
    if (room && said === undefined) {
      if (event === "room:left" && reason !== undefined) this.#doubt(name, room);
      if (event === "room:gap" && this.isIn(name)) this.#missed(name, room);
    }
    if (event !== "message:new" || !this.#filler) return false;
    this.#filler.message(data as Message, said, at);
    return true;
  }

  /** Asks the server for a room that it has perhaps taken away: its refusal would be the proof. */
  #doubt(name: string, room: Wanted): void {
    if (!room.isIn || this.timers.has(room)) return;
    this.timers.set(room, SELDOM, nothing);
    void this.#enter(name, room);
  }

  protected override drop(session: Session | undefined): void {
    this.#isOn = false;
    this.#session = session;
    for (const room of this.#rooms.values()) room.entering = undefined;
    this.#filler?.drop(this.#rooms, session);
  }

  protected override over(error: () => HeartlineError): void {
    for (const [name, room] of this.#rooms) {
      // Who was told that nothing came of it is not to find it done later.
      if (room.waiting.length && !room.wasIn) this.#rooms.delete(name);
      settle(room, error);
    }
  }
}
