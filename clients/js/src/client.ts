import { Core, type Options } from "./core.js";
import { given } from "./given.js";
import { Missed } from "./missed.js";
import { browser } from "./page.js";
import { Room } from "./room.js";
import type { Dial, Presence } from "./types.js";

export type { Options, Token } from "./core.js";
export type { SendOptions } from "./queue.js";

/** Users that the server takes in one question about their presence. */
const MOST_USERS = 100;

/**
 * A connection to Heartline that says what is true of it, comes back by itself, loses nothing that
 * it was given to send, and fills in what was missed of conversations.
 *
 * `Incoming` names the events of the application and their data, `Outward` those that it sends.
 */
export class Client<
  Incoming extends object = Record<string, any>,
  Outward extends object = Record<string, unknown>,
> extends Core<Incoming, Outward> {
  constructor(dial: Dial, options: Options = {}) {
    super(dial, { platform: browser, ...given(options) }, Missed);
  }

  /**
   * One user's hold on a room: each call gives another. The client is in the room as long as
   * somebody wants it to be.
   */
  room(name: string): Room<Incoming, Outward> {
    return new Room(this, name);
  }

  /** Presence of users, however many. */
  async presence(users: readonly string[]): Promise<readonly Presence[]> {
    const parts: (readonly string[])[] = [];
    for (let at = 0; at === 0 || at < users.length; at += MOST_USERS)
      parts.push(users.slice(at, at + MOST_USERS));
    const ask = (users: readonly string[]) => this.request("presence:get", { users } as never);
    return (await Promise.all(parts.map(ask))).flatMap((reply) => reply.users as Presence[]);
  }
}
