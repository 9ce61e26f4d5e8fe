// What the parts of a client have to do with each other, and nobody else.
import type { HeartlineError, Hello, Message, Place, Session } from "./types.js";

/** A room that somebody wants to be in. */
export interface Wanted {
  /** Who wants it. */
  readonly users: Set<unknown>;
  /** Who waits to be in it. */
  readonly waiting: ((error?: HeartlineError) => void)[];
  /** The answer that is waited for. */
  entering?: Promise<unknown> | undefined;
  /** The server has let this client into it. */
  isIn?: boolean;
  /** It was joined once. */
  wasIn?: boolean;
  /** It is not known yet whether something was missed since then. */
  isStale?: boolean;
  /** What is known of its history. */
  history?: unknown;
}

/** Rooms by their names. */
type Rooms = ReadonlyMap<string, Wanted>;

/** What was missed of conversations is filled in by this, if it is there. */
export interface Filler {
  /** The connection is lost. */
  drop(rooms: Rooms, session: Session | undefined): void;
  /** There is one again, perhaps to another node. */
  hello(hello: Hello, rooms: Rooms): void;
  /** A room is joined for the first time. */
  joining(name: string, room: Wanted): void;
  /** A room of a connection that goes on where it was lost. */
  lookBack(name: string, room: Wanted): void;
  /** A room was joined, and goes on where it was lost. */
  goesOn(name: string, room: Wanted): void;
  /** Events of a room were missed. False: nothing can be done about it. */
  missed(name: string, room: Wanted): boolean;
  /** A message was heard, in this room if that is known. */
  message(message: Message, room: string | undefined, at: Place): void;
}

/** Whether the same may be asked again after a pause. */
export const isPassing = ({ code, retryAfterMs }: HeartlineError): boolean =>
  retryAfterMs !== undefined || /^(RATE_LIMITED|OVERLOADED|TIMEOUT)$/.test(code);
