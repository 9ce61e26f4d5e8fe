/**
 * Presence for the bindings to frameworks: components ask one by one, and the server is asked for
 * all of them together, once a tick.
 */
import { Hold, type AnyClient, type Store } from "./bindings.js";
import { NOBODY, watchRoom, watchUsers, type PresenceState, type Watching } from "./presence.js";
import { MAX_TIMER } from "./timers.js";
import { guarded } from "./told.js";
import type { Presence, Reply, WatchedUser } from "./types.js";

/** A user who is watched, and on how many devices, where `refresh` asks for that. */
export type PresentUser = WatchedUser & { readonly devices?: number };

/** Users by their ids, and how true that is: `state`. */
export interface PresencePicture extends ReadonlyMap<string, PresentUser> {
  readonly state: PresenceState;
}

/** Users, or whoever is in a room. */
export type Whom = readonly string[] | { readonly room: string };

export interface PresenceOptions {
  /** How many devices users have is asked for again every so many milliseconds. */
  refresh?: number | undefined;
}

/** Users that were asked for in one tick: one watch of the server's. */
interface Group {
  readonly watching: Watching;
  readonly names: Set<string>;
}

const COMPLETE: PresenceState = { status: "complete" };
/** Users that the server takes in one question. */
const MOST_USERS = 100;
/** Groups before they become one: a server takes 128 watches of a connection. */
const MOST_GROUPS = 16;

/** Whom somebody wants to see, of one client: asked for together, once a tick. */
class People {
  readonly #wanted = new Map<string, number>();
  readonly #groups = new Map<string, Group>();
  readonly #listeners = new Set<() => void>();
  #tick: unknown;
  #asked: Set<string> | undefined;
  #answer: Promise<ReadonlyMap<string, number>> | undefined;

  constructor(readonly client: AnyClient) {}

  /** Watches them until what it returns is called. */
  watch(names: readonly string[], changed: () => void): () => void {
    for (const name of names) this.#wanted.set(name, (this.#wanted.get(name) ?? 0) + 1);
    this.#listeners.add(changed);
    this.#soon();
    return () => {
      this.#listeners.delete(changed);
      for (const name of names) {
        const left = this.#wanted.get(name)! - 1;
        if (left > 0) this.#wanted.set(name, left);
        else this.#wanted.delete(name);
      }
      this.#soon();
    };
  }

  /** What is known of them. */
  picture(names: readonly string[]): PresencePicture {
    const users = new Map<string, WatchedUser>();
    let state = COMPLETE;
    for (const name of names) {
      const picture = this.#groups.get(name)?.watching.picture ?? NOBODY;
      const user = picture.get(name);
      if (user) users.set(name, user);
      state = worse(state, picture.state);
    }
    return Object.assign(users, { state });
  }

  /** On how many devices they are; whoever asks in the same tick gets the same answer. */
  devices(names: readonly string[]): Promise<ReadonlyMap<string, number>> {
    const asked = (this.#asked ??= new Set());
    for (const name of names) asked.add(name);
    return (this.#answer ??= new Promise((resolve, reject) =>
      this.client.platform.setTimeout(() => {
        this.#asked = this.#answer = undefined;
        this.#ask([...asked]).then(resolve, reject);
      }, 0),
    ));
  }

  async #ask(names: readonly string[]): Promise<ReadonlyMap<string, number>> {
    const parts: Promise<Reply>[] = [];
    for (let at = 0; at < names.length; at += MOST_USERS) {
      const users = names.slice(at, at + MOST_USERS);
      parts.push(this.client.request("presence:get", { users }));
    }
    const all = (await Promise.all(parts)).flatMap(({ users }) => users as Presence[]);
    return new Map(all.map((one) => [one.userId, one.devices]));
  }

  #soon(): void {
    this.#tick ??= this.client.platform.setTimeout(() => {
      this.#tick = undefined;
      this.#regroup();
    }, 0);
  }

  #regroup(): void {
    const before = new Set(this.#groups.values());
    if (before.size >= MOST_GROUPS) this.#groups.clear();
    for (const [name, { names }] of [...this.#groups])
      if (![...names].some((one) => this.#wanted.has(one))) this.#groups.delete(name);
    const missing = [...this.#wanted.keys()].filter((name) => !this.#groups.has(name));
    if (missing.length > 0) {
      const watching = watchUsers(this.client, missing);
      watching.subscribe(() => this.#tell());
      for (const name of missing) this.#groups.set(name, { watching, names: new Set(missing) });
    }
    const now = new Set([...this.#groups.values()].map(({ watching }) => watching));
    for (const { watching } of before) if (!now.has(watching)) watching.close();
    if (missing.length > 0) this.#tell();
  }

  #tell(): void {
    for (const changed of [...this.#listeners]) changed();
  }
}

const known = new WeakMap<AnyClient, People>();

function peopleOf(client: AnyClient): People {
  let people = known.get(client);
  if (!people) known.set(client, (people = new People(client)));
  return people;
}

/** The less true of two. */
function worse(one: PresenceState, other: PresenceState): PresenceState {
  if (one.status === "stale")
    return other.status === "stale" && other.since < one.since ? other : one;
  return other.status === "complete" ? one : other;
}

/** Presence of users or of a room, watched for as long as somebody subscribes to this. */
export function presenceOf(
  client: AnyClient,
  whom: Whom,
  { refresh }: PresenceOptions = {},
): Store<PresencePicture> {
  const listeners = new Set<(picture: PresencePicture) => void>();
  let picture: PresencePicture = NOBODY;
  let offs: (() => void)[] = [];
  const hold = new Hold(client, () => {
    for (const off of offs.splice(0)) off();
  });
  const begin = () => {
    const people = peopleOf(client);
    let devices: ReadonlyMap<string, number> = new Map();
    let read: () => PresencePicture;
    const show = () => {
      let next = read();
      if (devices.size > 0) {
        const all = [...next].map(([id, user]) => {
          const count = devices.get(id);
          const { devices: before } = picture.get(id) ?? {};
          // Who has gone since has none.
          if (count === undefined || !user.online) return [id, user] as const;
          // The same object, as long as nothing of it is different.
          const known = before === count && picture.get(id)!.rev === user.rev;
          return [id, known ? picture.get(id)! : { ...user, devices: count }] as const;
        });
        next = Object.assign(new Map(all), { state: next.state });
      }
      const isSame =
        next.state === picture.state &&
        next.size === picture.size &&
        [...next].every(([id, user]) => picture.get(id) === user);
      if (isSame) return;
      picture = next;
      for (const listener of [...listeners]) listener(picture);
    };
    if ("room" in whom) {
      const watching = watchRoom(client, whom.room);
      read = () => watching.picture;
      offs = [watching.subscribe(show), () => watching.close()];
    } else {
      read = () => people.picture(whom);
      offs = [people.watch(whom, show)];
      if (refresh !== undefined) offs.push(poll(client, refresh, ask));
    }
    function ask() {
      people.devices(whom as readonly string[]).then(
        (all) => {
          devices = all;
          if (offs.length > 0) show();
        },
        // What was known stays, until the next time.
        () => {},
      );
    }
    show();
  };
  return {
    get: () => picture,
    subscribe(listener) {
      const own = (picture: PresencePicture) => guarded(() => listener(picture));
      if (hold.take()) begin();
      listeners.add(own);
      own(picture);
      return () => {
        if (listeners.delete(own)) hold.release();
      };
    },
  };
}

/** Calls with each connection, and every so many milliseconds while it lasts. */
function poll(client: AnyClient, ms: number, call: () => void): () => void {
  let timer: unknown;
  const { platform } = client;
  const again = () => {
    timer = platform.setTimeout(again, Math.min(ms, MAX_TIMER));
    call();
  };
  const rest = () => {
    if (timer !== undefined) platform.clearTimeout(timer);
    timer = undefined;
  };
  const off = client.subscribe(({ status }) => {
    if (status !== "connected") rest();
    else if (timer === undefined) again();
  });
  return () => {
    off();
    rest();
  };
}
