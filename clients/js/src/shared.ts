/**
 * One connection for all tabs of a browser. Each tab has a client of its own, with its own rooms and
 * its own queue; what differs is the transport: one of the tabs, the holder of a lock, has the real
 * connection, and carries for the others over a `BroadcastChannel`. When it is closed, the next in
 * line takes over, and every client sends again what has not been acknowledged.
 *
 * @module
 */
import { Client, type Options } from "./client.js";
import {
  HeartlineError,
  type Dial,
  type End,
  type Hello,
  type Link,
  type LinkEvents,
  type Platform,
  type Reply,
  type Session,
} from "./types.js";

export { Client, type Options } from "./client.js";
export * from "./types.js";

/** The part of a browser's locks that is used: `navigator.locks`. */
export interface Locks {
  request(
    name: string,
    options: { steal?: boolean; signal?: AbortSignal },
    held: () => Promise<unknown>,
  ): Promise<unknown>;
}

/** The part of a `BroadcastChannel` that is used. */
export interface Channel {
  postMessage(message: unknown): void;
  onmessage: ((event: { data: any }) => void) | null;
  close(): void;
}

/** What tabs have in common; tests bring their own. */
export interface Browser {
  readonly locks: Locks;
  channel(name: string): Channel;
  /** Calls when this page is left, until what it returns is called. */
  onLeave(left: () => void): () => void;
}

export interface SharedOptions extends Options {
  /**
   * Tabs of this name share a connection: name it by the user, or two who use one browser would
   * speak as one.
   */
  name: string;
  /** For tests. */
  browser?: Browser | undefined;
}

/** Whoever carries answers within this, in milliseconds, or another tab takes its place. */
const PATIENCE = 3_000;
/** A connection that is in doubt answers within this, in milliseconds, or it is dead. */
const PROBE = 2_000;
/** What a tab that closes has left arrives within this, in milliseconds. */
const LEGACY_TIME = 50;
/** Others are told at most so often that something was heard, in milliseconds. */
const SELDOM = 1_000;
/**
 * Events that are kept for tabs that come later to a connection that goes on. Who comes after more
 * of them begins afresh.
 */
const MOST_KEPT = 500;
/** What is said once, after the hello: to tabs that come later too. */
const GREETINGS = /^(server:hello|connection:success|session:resume)$/;

type Heard = Parameters<LinkEvents["event"]>;
/** A tab's name. */
type Id = `tab:${string}`;

/** What a tab's link over others leaves to the next one: a transport of its own takes nothing of it. */
class Stay implements Session {
  declare readonly rooms?: never;
  constructor(readonly place: string | undefined) {}
}

/** Where a tab was connected, and in which rooms it was. */
interface Before {
  readonly place: string | undefined;
  readonly rooms: readonly string[];
}

/** What a tab says to the one that carries. */
type Said =
  | { what: "dial"; token: string | undefined; before: Before; isWoken: boolean }
  | { what: "emit"; event: string; data: unknown; id: number | undefined }
  | { what: "join" | "leave"; room: string; id: number }
  | { what: "ping"; id: number }
  | { what: "close"; forGood: boolean };

/** What the one that carries says to a tab. */
type Told =
  | { what: "heard" }
  | { what: "hello"; hello: Hello; place: string; isDeaf: boolean; isByRoom: boolean }
  /** What was heard before it came. */
  | { what: "earlier"; args: Heard }
  | { what: "reply"; id: number; reply: Reply }
  | { what: "end"; end: Plain };

/** An end whose error has lost its class on the way. */
type Plain = Omit<End, "error"> & { error?: Partial<HeartlineError> };

/** What all tabs hear. */
type Announced =
  /** From now on this one carries. */
  | { what: "carrier" }
  /** It begins an attempt, or has a connection: whoever waits may come. */
  | { what: "wake" }
  /** It has heard something, and what. */
  | { what: "event"; args: Heard }
  | { what: "alive" }
  /** It goes, and leaves to the next what a connection goes on by. */
  | ({ what: "legacy" } & Legacy);

type ToCarrier = { to: "carrier"; tab: Id; link: number } & Said;
type ToTab = { to: Id; link: number; from: Id } & Told;
type ToAll = { to: "all"; from: Id } & Announced;

const LOST: End = { kind: "retry", reason: "transport" };

function plain({ error, ...end }: End): Plain {
  if (!error) return end;
  const { code, message, retryAfterMs, data } = error;
  return {
    ...end,
    error: { code, message, ...(retryAfterMs !== undefined && { retryAfterMs }), data },
  };
}

function whole({ error, ...end }: Plain): End {
  if (!error) return end;
  const { code = "FAILED", message = "", retryAfterMs, data } = error;
  return { ...end, error: new HeartlineError(code, message, retryAfterMs, data) };
}

type Clocks = Pick<Platform, "now" | "setTimeout" | "clearTimeout">;

interface Legacy {
  readonly session: Session | undefined;
  readonly place: string | undefined;
  /** In which rooms each tab was at the end, as long as it has not come back. */
  readonly had: Map<Id, readonly string[]>;
  /** Rooms of tabs that have gone since. */
  readonly left: Set<string>;
}

const nothing = (): Legacy => ({
  session: undefined,
  place: undefined,
  had: new Map(),
  left: new Set(),
});

interface Guest {
  readonly link: number;
  readonly before: Before;
  isGreeted: boolean;
  /** Rooms that it was in, as long as it has not been told how it goes on in them. */
  goesOn: Set<string>;
  rooms: Set<string>;
  /** What it watches, as the server was asked. */
  readonly watches: Map<string, unknown>;
}

/** The tab that carries: the real connection, and whom it is for. */
class Carrier {
  readonly #guests = new Map<Id, Guest>();
  /** Tabs of which it will hear that they have gone. */
  readonly #watched = new Set<Id>();
  /** Those that have given the connection up, while it is asked whether it lives. */
  readonly #away = new Map<Id, Guest>();
  #link: Link | undefined;
  #hello: Hello | undefined;
  #attempt = 0;
  /** The token of the attempt, and with which each tab has come to it. */
  #token: string | undefined;
  readonly #asked = new Map<Id, string | undefined>();
  #place: string | undefined;
  #last: End = LOST;
  #heardAt = -Infinity;
  /** The timer of a question whether it still lives. */
  #asking: unknown;
  #greetings: Heard[] = [];
  /** All that was heard since the hello, unless that is too much. */
  #kept: Heard[] | undefined;
  /** Who waits for a room that is being joined, and has not been left meanwhile. */
  readonly #joining = new Map<string, ((reply: Reply, isLast: boolean) => void)[]>();
  /** What a connection that goes on has said of each room. */
  readonly #goesOn = new Map<string, Reply>();
  #isOver = false;

  constructor(
    readonly id: Id,
    readonly dial: Dial,
    readonly post: (message: ToTab | ToAll) => void,
    readonly platform: Clocks,
    /** Calls when a tab has gone. */
    readonly whenGone: (tab: Id, gone: () => void) => void,
    /** Nobody wants a connection any more. */
    readonly idle: () => void,
    public legacy: Legacy,
  ) {
    this.#announce({ what: "carrier" });
    // One that has gone meanwhile does not come back, either.
    for (const tab of legacy.had.keys()) this.#watch(tab);
  }

  /** Lets go of the connection, and says by what it can be gone on; or also that its tab is gone. */
  end(isGone: boolean): void {
    if (this.#isOver) return;
    this.#isOver = true;
    const link = this.#link;
    this.#drop();
    link?.close(false);
    if (isGone) this.abandon(this.id);
    this.#announce({ what: "legacy", ...this.legacy });
  }

  #announce(announced: Announced): void {
    this.post({ to: "all", from: this.id, ...announced });
  }

  hear(message: ToCarrier): void {
    const { tab, link: number } = message;
    if (this.#isOver) return;
    if (message.what === "dial") return this.#dialled(tab, number, message);
    const guest = this.#guests.get(tab);
    if (guest?.link !== number) {
      // It has ended meanwhile, and the tab does not come back to it.
      if (message.what === "close" && message.forGood) this.abandon(tab);
      return;
    }
    if (message.what === "close") {
      const { forGood } = message;
      const isAway = !forGood && guest.isGreeted;
      this.#guests.delete(tab);
      // If the connection is dead, it goes on from there with the next one.
      if (isAway) this.#away.set(tab, guest);
      else this.#forget(guest);
      if (this.#guests.size === 0) this.#leave(forGood);
      else if (isAway) this.#ask();
      return;
    }
    const link = this.#link;
    if (!link || !this.#hello) return;
    const { id }: { id: number | undefined } = message;
    const reply = (reply: Reply) =>
      id !== undefined && this.#tell(tab, number, { what: "reply", id, reply: reply ?? {} });
    switch (message.what) {
      case "emit":
        try {
          this.#emit(guest, message.event, message.data, id === undefined ? undefined : reply);
        } catch (error) {
          // It is the other tab's, and so is what it has given.
          const { code, message } = error as HeartlineError;
          reply({ ok: false, code, error: message });
        }
        return;
      case "ping":
        return link.ping((pong) => reply(pong ?? {}));
      case "join":
        return this.#join(guest, message.room, reply);
      case "leave":
        guest.rooms.delete(message.room);
        guest.goesOn.delete(message.room);
        this.#depart(message.room, () => reply({ ok: true }));
    }
  }

  #tell(tab: Id, link: number, told: Told): void {
    this.post({ to: tab, link, from: this.id, ...told });
  }

  get hasGuests(): boolean {
    return this.#guests.size > 0;
  }

  #isWanted(by: (guest: Guest) => boolean): boolean {
    return [...this.#guests.values()].some(by);
  }

  #watch(tab: Id): void {
    if (!this.#watched.has(tab)) this.whenGone(tab, () => this.#gone(tab));
    this.#watched.add(tab);
  }

  #dialled(tab: Id, link: number, { token, before, isWoken }: Said & { what: "dial" }): void {
    const known = this.#guests.get(tab);
    if (known?.link === link) return;
    const isChanged = this.#asked.has(tab) && this.#asked.get(tab) !== token;
    this.#asked.set(tab, token);
    this.#watch(tab);
    const guest: Guest = {
      link,
      before,
      isGreeted: false,
      goesOn: new Set(),
      rooms: new Set(),
      watches: new Map(),
    };
    this.#guests.set(tab, guest);
    this.#tell(tab, link, { what: "heard" });
    if (this.#asking !== undefined) return;
    if (this.#hello) this.#greet(tab, guest);
    else if (this.#link) {
      // A tab has another token than it came with: a refusal of the old one would be final for all.
      if (!isChanged || token === this.#token) return;
      const old = this.#link;
      this.#drop();
      old.close(false);
      this.#begin(token);
    }
    // Who came because of an attempt that has failed meanwhile begins none, or it would never end.
    else if (isWoken) this.#bid(tab, guest, this.#last);
    else this.#begin(token);
  }

  #begin(token: string | undefined): void {
    this.#token = token;
    const attempt = ++this.#attempt;
    const current = () => attempt === this.#attempt;
    const events: LinkEvents = {
      hello: (hello) => {
        if (!current()) return;
        this.#hello = hello;
        this.#kept = hello.recovered ? [] : undefined;
        if (!hello.recovered) this.legacy = nothing();
        this.#place = `${this.id}:${attempt}`;
        for (const [tab, guest] of this.#guests) this.#greet(tab, guest);
        this.#sweep();
        this.#announce({ what: "wake" });
      },
      event: (...args) => {
        if (!current()) return;
        if (GREETINGS.test(args[0])) this.#greetings.push(args);
        if (this.#kept && this.#kept.push(args) > MOST_KEPT) this.#kept = undefined;
        this.#announce({ what: "event", args });
      },
      alive: () => {
        if (!current() || this.platform.now() - this.#heardAt < SELDOM) return;
        this.#heardAt = this.platform.now();
        this.#announce({ what: "alive" });
      },
      end: (end) => current() && this.#give(end),
    };
    this.#announce({ what: "wake" });
    try {
      const link = this.dial(token, events, this.legacy.session);
      if (current()) this.#link = link;
      else link.close(false);
    } catch (error) {
      // As in a client of its own: it would be the same each time.
      const what = new HeartlineError("UNSUPPORTED", (error as Error).message);
      events.end({ kind: "final", reason: "transport", error: what });
    }
  }

  /** A tab has given the connection up: either that tab has gone to sleep, or it is dead for all. */
  #ask(): void {
    if (this.#asking !== undefined) return;
    const attempt = this.#attempt;
    this.#asking = this.platform.setTimeout(() => this.#give(LOST), PROBE);
    this.#link?.ping(() => {
      if (attempt !== this.#attempt) return;
      this.#known();
      for (const guest of this.#away.values()) this.#forget(guest);
      this.#away.clear();
      this.#sweep();
      for (const [tab, guest] of this.#guests) this.#greet(tab, guest);
    });
  }

  /** Whether it lives is in no doubt any more. */
  #known(): void {
    this.platform.clearTimeout(this.#asking);
    this.#asking = undefined;
  }

  #greet(tab: Id, guest: Guest): void {
    if (guest.isGreeted) return;
    guest.isGreeted = true;
    // It was connected where this connection goes on from, and what came since then is known.
    const { place } = guest.before;
    const { legacy } = this;
    const recovered =
      place !== undefined && place === legacy.place && legacy.had.has(tab) && !!this.#kept;
    if (recovered) guest.goesOn = new Set(guest.before.rooms);
    const isByRoom = !!this.#link?.isByRoom;
    if (recovered && !isByRoom) guest.rooms = new Set(guest.before.rooms);
    this.#tell(tab, guest.link, {
      what: "hello",
      hello: { ...this.#hello!, recovered },
      place: this.#place!,
      isDeaf: !!this.#link?.isDeaf,
      isByRoom,
    });
    if (recovered) legacy.had.delete(tab);
    else this.abandon(tab);
    const earlier = recovered ? this.#kept! : this.#greetings;
    for (const args of earlier) this.#tell(tab, guest.link, { what: "earlier", args });
  }

  /** It has ended, for all. */
  #give(end: End): void {
    const link = this.#link;
    this.#drop();
    link?.close(false);
    this.#asked.clear();
    this.#last = end.kind === "retry" ? end : LOST;
    for (const [tab, guest] of [...this.#guests]) this.#bid(tab, guest, end);
  }

  #bid(tab: Id, { link }: Guest, end: End): void {
    this.#guests.delete(tab);
    this.#tell(tab, link, { what: "end", end: plain(end) });
  }

  #drop(): void {
    this.#known();
    this.#attempt++;
    const link = this.#link;
    const session = link?.session?.();
    const { legacy } = this;
    for (const [tab, { isGreeted, rooms, goesOn }] of [...this.#away, ...this.#guests])
      if (isGreeted) legacy.had.set(tab, [...rooms, ...goesOn]);
    this.#away.clear();
    if (link) this.legacy = { ...legacy, session, place: session && (this.#place ?? legacy.place) };
    this.#link = this.#hello = this.#place = undefined;
    this.#greetings = [];
    this.#kept = undefined;
    this.#joining.clear();
    this.#goesOn.clear();
  }

  /** Nobody wants the connection any more. */
  #leave(forGood: boolean): void {
    const link = this.#link;
    this.#drop();
    this.#asked.clear();
    if (forGood) this.legacy = nothing();
    link?.close(forGood);
    this.idle();
  }

  #gone(tab: Id): void {
    const guest = this.#guests.get(tab);
    this.#watched.delete(tab);
    this.#asked.delete(tab);
    this.#guests.delete(tab);
    if (guest) this.#forget(guest);
    this.abandon(tab);
    if (this.#guests.size > 0 || this.#isOver) return;
    if (guest) this.#leave(true);
    // While a connection is looked for, those who wait for it are nobody's guests.
    else if (!this.legacy.had.has(this.id)) this.idle();
  }

  /** A tab does not come back to the rooms that it had: this connection, or the next, leaves them. */
  abandon(tab: Id): void {
    const { had, left } = this.legacy;
    for (const room of had.get(tab) ?? []) left.add(room);
    had.delete(tab);
    this.#sweep();
  }

  #sweep(): void {
    if (!this.#hello || this.#asking !== undefined) return;
    for (const room of this.legacy.left) this.#depart(room);
    this.legacy.left.clear();
  }

  /** Leaves the rooms and ends the watches that nobody else wants. */
  #forget({ rooms, goesOn, watches }: Guest): void {
    if (!this.#hello) return;
    for (const room of new Set([...rooms, ...goesOn])) this.#depart(room);
    rooms.clear();
    goesOn.clear();
    for (const [key, what] of watches)
      if (!this.#isWanted((guest) => guest.watches.has(key)))
        this.#link?.emit("presence:unwatch", what);
  }

  #emit(guest: Guest, event: string, data: any, reply?: (reply: Reply) => void): void {
    const isWatch = event === "presence:watch";
    if (isWatch || event === "presence:unwatch") {
      const { after: _, ...what } = data ?? {};
      const key = JSON.stringify(what);
      if (isWatch) guest.watches.set(key, what);
      else {
        guest.watches.delete(key);
        if (this.#isWanted(({ watches }) => watches.has(key))) return void reply?.({ ok: true });
      }
    }
    this.#link!.emit(event, data, reply);
  }

  /** Leaves a room that nobody wants any more: whoever joins it from now on has to ask again. */
  #depart(room: string, reply = () => {}): void {
    if (this.#isWanted(({ rooms, goesOn }) => rooms.has(room) || goesOn.has(room))) return reply();
    // Who has not come back yet finds itself in there.
    if ([...this.legacy.had.values()].some((rooms) => rooms.includes(room))) return reply();
    this.legacy.left.delete(room);
    this.#goesOn.delete(room);
    this.#joining.delete(room);
    this.#link?.leave(room, reply);
  }

  #join(guest: Guest, room: string, reply: (reply: Reply) => void, isAgain = false): void {
    guest.rooms.add(room);
    const goesOn = guest.goesOn.delete(room);
    const known = this.#goesOn.get(room);
    if (known && goesOn) return reply(known);
    const answered = (answer: Reply, isLast: boolean) => {
      if (isLast && answer.ok === false) guest.rooms.delete(room);
      // That is how others go on: who was not in there asks for itself.
      if (isLast && answer.recovered && !goesOn && !isAgain && guest.rooms.has(room))
        this.#join(guest, room, reply, true);
      else reply(answer);
    };
    const waiting = this.#joining.get(room);
    if (waiting) return void waiting.push(answered);
    const all = [answered];
    this.#joining.set(room, all);
    this.#link!.join(room, (answer) => {
      const isLast = this.#joining.get(room) === all;
      if (isLast) this.#joining.delete(room);
      if (isLast && answer?.recovered) this.#goesOn.set(room, answer);
      for (const one of all) one(answer ?? {}, isLast);
    });
  }
}

/** What a tab's link is to the tab. */
interface Current {
  /** It was answered by somebody who carries. */
  isCarried(): boolean;
  begin(): void;
  /** This tab carries no more: another one does. */
  uncarried(): void;
  hear(message: ToTab | ToAll): void;
  lose(): void;
}

/** This tab: a transport for its client, and a place in the line of those who may carry. */
class Tab {
  readonly id: Id = `tab:${Math.random().toString(36).slice(2)}${Math.random().toString(36).slice(2)}`;
  /** Connects, if the client was about to. */
  wake = () => {};
  #channel: Channel | undefined;
  #carrier: Carrier | undefined;
  #current: Current | undefined;
  #isIn = false;
  /** The browser lets it have no locks or no channel: its client dials for itself. */
  #isAlone = false;
  #number = 0;
  /** Those of the last connection. */
  #rooms: ReadonlySet<string> = new Set();
  /** The attempt that begins now is not this tab's own. */
  isWoken = false;
  #legacy = nothing();
  #leaving = new AbortController();
  #offLeave = () => {};

  constructor(
    readonly name: string,
    readonly real: Dial,
    readonly browser: Browser,
    readonly platform: Clocks,
  ) {}

  /** Takes part. */
  #enter(): void {
    if (this.#channel || this.#isAlone) return;
    try {
      this.#channel = this.browser.channel(`heartline:${this.name}`);
    } catch {
      return this.#denied();
    }
    this.#channel.onmessage = ({ data }) => this.#heard(data);
    this.#leaving = new AbortController();
    this.#offLeave = this.browser.onLeave(() => this.leave(true));
    // By this whoever carries sees that this tab has gone; before that it would seem to have.
    this.#isIn = false;
    this.#lock(this.#own(this.id), {}, () => {
      this.#isIn = true;
      this.#current?.begin();
    });
    this.#line(false);
  }

  #own(tab: Id): string {
    return `heartline:${this.name}:${tab}`;
  }

  /** The browser has locks and channels, and this page is not to have them. */
  #denied(): void {
    this.#isAlone = true;
    this.leave();
  }

  /** Holds a lock until this tab leaves, or `lost` is called. */
  #lock(name: string, how: { steal?: boolean }, held: () => void, lost = () => {}): void {
    const { signal } = this.#leaving;
    const options = how.steal ? how : { signal };
    let wasHeld = false;
    this.browser.locks
      .request(name, options, () => {
        wasHeld = true;
        if (!signal.aborted) held();
        return until(signal);
      })
      .catch(() => signal.aborted || (wasHeld ? lost() : this.#denied()));
  }

  /** Gets into the line, or to its head: whoever is there does not answer. */
  #line(steal: boolean): void {
    const { signal } = this.#leaving;
    const carry = () => signal.aborted || this.#carry();
    this.#lock(
      `heartline:${this.name}`,
      { steal },
      () => {
        // What the last one has left may still be on its way.
        if (this.#current?.isCarried() ?? true) this.platform.setTimeout(carry, LEGACY_TIME);
        else carry();
      },
      () => {
        // This tab was asleep, and another one has taken its place.
        this.#uncarry();
        this.#line(false);
        this.#current?.uncarried();
      },
    );
  }

  #carry(): void {
    this.#carrier ??= new Carrier(
      this.id,
      this.real,
      (message) => this.#post(message),
      this.platform,
      (tab, gone) => {
        const { signal } = this.#leaving;
        this.browser.locks.request(this.#own(tab), { signal }, async () => gone()).catch(() => {});
      },
      () => this.#current ?? this.leave(),
      this.#legacy,
    );
  }

  #uncarry(isGone = false): void {
    const carrier = this.#carrier;
    this.#carrier = undefined;
    if (!carrier) return;
    carrier.end(isGone);
    this.#legacy = carrier.legacy;
  }

  /**
   * Takes part no more, or not until its client wants a connection again: another tab carries from
   * now on. Its own link ends as lost.
   */
  leave(isGone = false): void {
    if (!this.#channel) return;
    this.#uncarry(isGone);
    this.#channel.onmessage = null;
    this.#channel.close();
    this.#channel = undefined;
    this.#offLeave();
    this.#leaving.abort();
    this.#current?.lose();
  }

  /** The client wants no connection any more. */
  rest(): void {
    this.#carrier?.abandon(this.id);
    // Who carries for others goes on; and a connection that is there ends with its last guest.
    if (this.#carrier?.hasGuests) return;
    this.leave(true);
    // It was a goodbye: if it comes again, and nobody is there, it begins afresh.
    this.#legacy = nothing();
  }

  #post(message: ToCarrier | ToTab | ToAll): void {
    const { to } = message;
    const isHere = to === this.id || (to === "carrier" && this.#carrier !== undefined);
    const channel = this.#channel;
    if (!isHere) channel?.postMessage(message);
    if (!isHere && to !== "all") return;
    // As from another tab: later, and without what is changed meanwhile.
    const copy = structuredClone(message);
    queueMicrotask(() => channel === this.#channel && this.#heard(copy));
  }

  #heard(message: ToCarrier | ToTab | ToAll): void {
    if (message.to === "carrier") return this.#carrier?.hear(message);
    if (message.to !== "all" && message.to !== this.id) return;
    if (message.what === "legacy") {
      const { session, place, had, left } = message;
      // A tab with an earlier version of this does not say who was where: then all begin afresh.
      this.#legacy = had ? { session, place, had, left } : nothing();
    } else if (message.what === "wake") {
      // Who has an attempt of its own on the way is not woken for the next one.
      if (!this.#current) this.wake();
    } else this.#current?.hear(message);
  }

  readonly dial: Dial = (token, events, earlier) => {
    this.#enter();
    if (this.#isAlone)
      return this.real(token, events, earlier instanceof Stay ? undefined : earlier);
    const number = ++this.#number;
    const before: Before = {
      place: (earlier as Stay | undefined)?.place,
      rooms: [...this.#rooms],
    };
    let { isWoken } = this;
    this.isWoken = false;
    const rooms = new Set<string>();
    const replies = new Map<number, (reply: Reply) => void>();
    let asked = 0;
    let carrier: Id | undefined;
    let place: string | undefined;
    const say = (said: Said) => this.#post({ to: "carrier", tab: this.id, link: number, ...said });
    const ask = (said: (id: number) => Said, reply: (reply: Reply) => void) => {
      const id = ++asked;
      // What no tab can say to another throws, and no answer to it is waited for.
      say(said(id));
      replies.set(id, reply);
    };
    const begin = () => {
      if (!this.#isIn) return;
      say({ what: "dial", token, before, isWoken });
    };
    const over = () => {
      this.platform.clearTimeout(timer);
      replies.clear();
      if (this.#current === current) this.#current = undefined;
    };
    const end = (end: End) => {
      over();
      events.end(end);
    };
    const heard = (args: Heard) => {
      const [, , room] = args;
      if (room === undefined || rooms.has(room)) events.event(...args);
    };
    const current: Current = {
      isCarried: () => carrier !== undefined,
      begin,
      uncarried: () => {
        if (carrier === this.id) current.lose();
        else if (carrier === undefined) begin();
      },
      lose: () => end({ ...LOST, afterMs: 0 }),
      hear: (message) => {
        if (message.what === "carrier") {
          // The connection that was is gone with whoever carried it.
          if (carrier !== undefined) return current.lose();
          isWoken = false;
          return begin();
        }
        if (message.to === "all") {
          if (message.from !== carrier || place === undefined) return;
          events.alive();
          if (message.what === "event") heard(message.args);
          return;
        }
        if (message.link !== number) return;
        // One that was asleep still answers, though another has its place.
        if ((carrier ??= message.from) !== message.from) return;
        events.alive();
        if (message.what === "heard") clear();
        else if (message.what === "hello") {
          const { hello, isDeaf, isByRoom } = message;
          ({ place } = message);
          // Rooms of which the connection says by itself that it is in there.
          if (hello.recovered && !isByRoom) for (const room of before.rooms) rooms.add(room);
          this.#rooms = rooms;
          Object.assign(link, { isDeaf, isByRoom });
          events.hello(hello);
        } else if (message.what === "earlier") heard(message.args);
        else if (message.what === "end") end(whole(message.end));
        else {
          const reply = replies.get(message.id);
          replies.delete(message.id);
          reply?.(message.reply);
        }
      },
    };
    const link: Link = {
      emit(event, data, reply) {
        try {
          if (reply) ask((id) => ({ what: "emit", event, data, id }), reply);
          else say({ what: "emit", event, data, id: undefined });
        } catch (error) {
          // What no tab can say to another.
          throw new HeartlineError("INVALID_DATA", (error as Error).message);
        }
      },
      join(room, reply) {
        rooms.add(room);
        ask((id) => ({ what: "join", room, id }), reply);
      },
      leave(room, reply) {
        rooms.delete(room);
        ask(
          (id) => ({ what: "leave", room, id }),
          () => reply(),
        );
      },
      ping: (reply) => ask((id) => ({ what: "ping", id }), reply),
      session: () => new Stay(place ?? before.place),
      close: (forGood) => {
        over();
        say({ what: "close", forGood });
      },
    };
    const clear = () => this.platform.clearTimeout(timer);
    const timer = this.platform.setTimeout(() => this.#carrier || this.#line(true), PATIENCE);
    this.#current = current;
    begin();
    return link;
  };
}

const until = (signal: AbortSignal) =>
  new Promise<void>((resolve) =>
    signal.aborted ? resolve() : signal.addEventListener("abort", () => resolve()),
  );

/** Where there are no locks or channels, each tab is for itself. */
function surroundings(): Browser | undefined {
  const { navigator, BroadcastChannel } = globalThis as {
    navigator?: { locks?: Locks };
    BroadcastChannel?: new (name: string) => unknown;
  };
  const locks = navigator?.locks;
  if (!locks || !BroadcastChannel) return undefined;
  return {
    locks,
    channel: (name) => new BroadcastChannel(name) as Channel,
    onLeave(left) {
      globalThis.addEventListener?.("pagehide", left);
      return () => globalThis.removeEventListener?.("pagehide", left);
    },
  };
}

/**
 * A client that shares its connection with all tabs that have one of the same name. The server sees
 * one device, however many tabs there are.
 *
 * ```ts
 * import { live } from "@heartline/client/live";
 * import { createClient } from "@heartline/client/shared";
 *
 * const heartline = createClient(live("wss://realtime.example.com/live"), { name: userId, token });
 * ```
 *
 * Without Web Locks, as in a page that did not come over HTTPS, each tab has its own.
 */
export function createClient<
  Incoming extends object = Record<string, any>,
  Outgoing extends object = Record<string, unknown>,
>(
  dial: Dial,
  { name, browser = surroundings(), autoConnect = true, ...options }: SharedOptions,
): Client<Incoming, Outgoing> {
  if (!browser) return new Client(dial, { ...options, autoConnect });
  let tab: Tab | undefined;
  const client: Client<Incoming, Outgoing> = new Client(
    (...attempt) => (tab ??= begin()).dial(...attempt),
    { ...options, autoConnect: false },
  );
  function begin(): Tab {
    const tab = new Tab(name, dial, browser!, client.platform);
    tab.wake = () => {
      if (client.state.status !== "reconnecting") return;
      tab.isWoken = true;
      client.connect();
    };
    client.subscribe(({ status }) => status === "disconnected" && tab.rest());
    return tab;
  }
  if (autoConnect) client.connect();
  return client;
}
