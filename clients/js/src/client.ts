import { PERSONAL } from "./names.js";
import { browser } from "./platform.js";
import {
  HeartlineError,
  type Dial,
  type End,
  type Hello,
  type Link,
  type LinkEvents,
  type Message,
  type Platform,
  type Presence,
  type Reason,
  type Reply,
  type ServerEvents,
  type Session,
  type State,
} from "./types.js";

/** A token, or how to get one: asked before every attempt, and before the last one expires. */
export type Token = string | (() => string | Promise<string>);

export interface Options {
  token?: Token;
  /** Connects at once. Default: true. */
  autoConnect?: boolean;
  /** How often to try again, in a row, before giving up. Default: for ever. */
  attempts?: number;
  /** Milliseconds before the second attempt; each later pause is twice as long. Default: 1 000. */
  backoff?: number;
  /** The longest pause in milliseconds. Default: 10 000. */
  maxBackoff?: number;
  /**
   * How long an attempt may take, in milliseconds. Default: 12 000, more than servers wait
   * for a token.
   */
  connectTimeout?: number;
  /** How many messages may wait to be sent. Default: 100. */
  queue?: number;
  /** For tests. */
  platform?: Platform;
}

export interface SendOptions {
  /** How long to wait for an acknowledgement, in milliseconds. Default: 10 000. */
  timeout?: number;
  /** How often to send again without one. Default: 5. */
  retries?: number;
}

type Handler = (data: never) => void;
type TimerName = "attempt" | "retry" | "watch" | "stable" | "token" | "send";

interface Waiting {
  resolve(reply: Reply): void;
  reject(error: HeartlineError): void;
}

interface History {
  readonly messages: readonly Message[];
  readonly head: number;
  readonly floor: number;
  readonly complete: boolean;
}

interface Outgoing extends Waiting {
  event: string;
  data: unknown;
  timeout: number;
  retries: number;
  sent: number;
}

/** A room to be in. */
interface Room {
  /** Who waits to be in it. */
  readonly waiting: Waiting[];
  /** It was joined once. */
  wasIn?: boolean;
  /** It is not known yet whether something was missed since then. */
  isStale?: boolean;
  /** Of a conversation: the last message that was told, or was there before it was joined. */
  last?: number;
  /** Ids of the messages told last. */
  readonly told: Set<string>;
  /** Messages that wait until those before them have been told. */
  held?: Message[] | undefined;
  /** Names the reading of its history that goes on. */
  filling?: object | undefined;
  /** Some of what was missed cannot be had. */
  isLacking?: boolean;
  /** Its end may be missing: nobody has asked since the node was another one. */
  isUnsure?: boolean;
  /** Its offsets have holes that its history does not fill: they say nothing. */
  isLoose?: boolean;
}

/** What is silent for less than this after a sleep is asked whether it lives, in milliseconds. */
const PROBE = 2_000;
/** How often silence is looked at, at least. */
const TICK = 5_000;
/** A connection that lasted so long counts as a good one. */
const STABLE = 5_000;
/** Tokens are renewed so long before they expire, or in the last fifth of their time. */
const REFRESH_AHEAD = 60_000;
const REQUEST_TIMEOUT = 10_000;
/** Users that the server takes in one question about their presence. */
const MOST_USERS = 100;
/** Longest time that a timer can be set to. */
const MAX_TIMER = 2 ** 31 - 1;
/** The longest pause that servers ask for before a reconnection, in milliseconds. */
const MAX_PAUSE = 60_000;
/** An end that was announced comes within this, in milliseconds; later it is another end. */
const ANNOUNCED = 30_000;
/**
 * How often an event may make this client say something by itself, in milliseconds: over
 * Socket.IO, whoever is in a room with it might be the one who sends the event.
 */
const SELDOM = 1_000;
/** A conversation's room is this and its id. */
const CONVERSATION = "conversation:";
/** Messages that the server gives in one answer. */
const PART = 200;
/** Messages of a conversation that are known by their ids, so that none is told twice. */
const MOST_TOLD = 2 * PART;
/** Messages that may wait for those before them; what is too much is in the history too. */
const MOST_HELD = 1_000;
/** Messages of a conversation that are filled in. Whoever missed more is to load afresh. */
const MOST_FILLED = 10_000;
/** Events that only this client itself tells. */
const OWN = /^(room:(in|lost|missed|snapshot)|session:back)$/;
/** When a JSON Web Token expires, in Unix milliseconds. */
function expiry(token: string): number | undefined {
  try {
    const payload = token.split(".")[1]!.replace(/-/g, "+").replace(/_/g, "/");
    const { exp } = JSON.parse(atob(payload));
    return typeof exp === "number" ? exp * 1000 : undefined;
  } catch {
    return undefined;
  }
}

const failure = (reply: Reply) =>
  new HeartlineError(
    reply.code ?? "FAILED",
    reply.error ?? "the server refused",
    reply.retryAfterMs,
    reply,
  );
/** Whether the same may be asked again after a pause. */
const isPassing = ({ code }: HeartlineError) =>
  code === "RATE_LIMITED" || code === "OVERLOADED" || code === "TIMEOUT";
const isConversation = (room: string) => room.startsWith(CONVERSATION);
const disconnected = (reason: Reason) =>
  new HeartlineError("DISCONNECTED", `not connected: ${reason}`);

/**
 * A connection to Heartline that says what is true of it, comes back by itself, and
 * loses nothing that it was given to send.
 *
 * `Incoming` names the events of the application and their data, `Outward` those that
 * it sends.
 */
export class Client<
  Incoming extends object = Record<string, any>,
  Outward extends object = Record<string, unknown>,
> {
  readonly #dial: Dial;
  readonly #options: Required<Omit<Options, "token" | "platform" | "autoConnect">>;
  readonly #token: Token | undefined;
  readonly #platform: Platform;

  #state: State = { status: "disconnected", reason: "not_started" };
  #listeners = new Set<(state: State) => void>();
  #handlers = new Map<string, Set<Handler>>();
  /** Rooms to be in. */
  #rooms = new Map<string, Room>();
  /** Rooms that the server has let this client into. */
  #joined = new Set<string>();
  /** Rooms that were left, as long as the server has not said so. */
  #left = new Set<string>();
  /** What the last connection has left to the next one. */
  #session: Session | undefined;
  /** There was a connection, to this node. */
  #wasIn = false;
  #nodeId: string | undefined;
  #queue: Outgoing[] = [];
  /** Requests that wait for their replies. */
  #requests = new Set<Waiting>();

  /** Counts attempts: what belongs to another one comes too late. */
  #attempt = 0;
  #link: Link | undefined;
  #failures = 0;
  #renewals = 0;
  #hello: Hello | undefined;
  /** The rooms are joined: what waits may be sent. */
  #isOpen = false;
  #heardAt = 0;
  /** Counts signs of life. */
  #signs = 0;
  /** What was said of this connection's end, and when. Only the end itself can confirm it. */
  #announced: { [name: string]: { at: number; afterMs?: number; why?: string } | undefined } = {};
  /** When the last of the server's heartbeats was answered. */
  #answeredAt = -Infinity;
  /** Rooms of which it was said, a moment ago, that this client is out of them. */
  #doubted = new Set<string>();
  #latency: number | undefined;
  #unwatch: (() => void) | undefined;
  /** The two clocks when they were last compared: apart by more, the machine has slept. */
  #clocks = { now: 0, unix: 0 };
  #loose = new Set<unknown>();
  #timers: { [name in TimerName]?: unknown } = {};

  constructor(dial: Dial, options: Options = {}) {
    this.#dial = dial;
    this.#token = options.token;
    this.#platform = options.platform ?? browser;
    const {
      attempts = Infinity,
      backoff = 1_000,
      maxBackoff = 10_000,
      connectTimeout = 12_000,
      queue = 100,
    } = options;
    this.#options = { attempts, backoff, maxBackoff, connectTimeout, queue };
    if (options.autoConnect ?? true) this.connect();
  }

  /** Its clocks and timers, for what stands beside the client. */
  get platform(): Platform {
    return this.#platform;
  }

  // --- state -----------------------------------------------------------

  /** What is true now. */
  get state(): State {
    return this.#state;
  }

  /** Milliseconds there and back, as measured last. */
  get latency(): number | undefined {
    return this.#latency;
  }

  /** Calls `listener` with the state now and each one that follows. Returns what ends that. */
  subscribe(listener: (state: State) => void): () => void {
    // Its own function, so that one that subscribes twice is told twice.
    const own = (state: State) => listener(state);
    this.#listeners.add(own);
    own(this.#state);
    return () => void this.#listeners.delete(own);
  }

  #become(state: State): void {
    this.#state = state;
    for (const listener of [...this.#listeners]) {
      this.#guarded(() => listener(state));
      // What a listener did about it has been told to all by now.
      if (this.#state !== state) return;
    }
  }

  /** An error of the application is its own: nobody else is disturbed. */
  #guarded(call: () => void): void {
    try {
      call();
    } catch (error) {
      queueMicrotask(() => {
        throw error;
      });
    }
  }

  // --- connecting ------------------------------------------------------

  /** Connects, or tries again at once if it was about to. */
  connect(): void {
    const { status } = this.#state;
    if (status === "connected" || status === "connecting") return;
    if (status === "reconnecting") {
      if (this.#timers.retry !== undefined) this.#begin();
      return;
    }
    this.#failures = 0;
    this.#renewals = 0;
    this.#unwatch ??= this.#platform.watch((to) => this.#surroundings(to));
    const state: State = { status: "connecting" };
    this.#become(state);
    if (this.state === state) this.#begin();
  }

  /** Ends the connection, and whatever waits for it. Nothing is left behind. */
  disconnect(): void {
    if (this.#state.status === "disconnected") return;
    this.#drop(true);
    this.#stop({ status: "disconnected", reason: "client" });
  }

  #stop(state: State & { reason: Reason }): void {
    this.#drop();
    this.#clear("retry");
    this.#unwatch?.();
    this.#unwatch = undefined;
    const error = disconnected(state.reason);
    for (const message of this.#queue.splice(0)) message.reject(error);
    for (const { waiting } of this.#rooms.values())
      for (const one of waiting.splice(0)) one.reject(error);
    this.#become(state);
  }

  /** Lets go of the connection or the attempt, for good or until the next one goes on. */
  #drop(forGood = false): void {
    this.#attempt++;
    const link = this.#link;
    this.#link = undefined;
    if (link) this.#session = link.session?.();
    if (forGood) this.#session = undefined;
    for (const [name, room] of this.#rooms) {
      room.filling = undefined;
      // What was held has not been told: nobody is to believe that it was.
      if (room.held) this.#session?.rooms?.delete(name);
    }
    this.#hello = undefined;
    this.#isOpen = false;
    this.#announced = {};
    this.#answeredAt = -Infinity;
    this.#doubted.clear();
    for (const timer of ["attempt", "watch", "stable", "token", "send"] as const)
      this.#clear(timer);
    for (const timer of this.#loose) this.#platform.clearTimeout(timer);
    this.#loose.clear();
    link?.close(forGood);
    for (const request of [...this.#requests]) request.reject(disconnected("transport"));
  }

  #begin(): void {
    this.#drop();
    this.#clear("retry");
    const attempt = this.#attempt;
    const current = () => attempt === this.#attempt;
    this.#set("attempt", this.#options.connectTimeout, () =>
      this.#ended({ kind: "retry", reason: "connect_timeout" }),
    );
    const events = (token: string | undefined): LinkEvents => ({
      hello: (hello) => current() && this.#opened(hello, token),
      event: (name, data, room) => current() && this.#event(name, data, room),
      alive: () => current() && this.#alive(),
      end: (end) => current() && this.#ended(end),
    });
    const go = (token: string | undefined) => {
      if (!current()) return;
      const link = this.#dial(token, events(token), this.#session);
      // It may have ended already.
      if (current()) this.#link = link;
      else link.close(false);
    };
    if (typeof this.#token !== "function") return go(this.#token);
    new Promise<string>((resolve) => resolve((this.#token as () => string)())).then(go, () => {
      if (current()) this.#ended({ kind: "retry", reason: "token_unavailable" });
    });
  }

  #opened(hello: Hello, token: string | undefined): void {
    if (this.#hello) return;
    this.#hello = hello;
    this.#clear("attempt");
    this.#heardAt = this.#platform.now();
    this.#clocks = { now: this.#platform.now(), unix: this.#platform.unix() };
    this.#set("stable", STABLE, () => {
      this.#failures = 0;
      this.#renewals = 0;
    });
    this.#watch();
    if (token !== undefined) this.#renewBefore(expiry(token));
    this.#doubtRooms(hello.recovered);
    this.#become({
      status: "connected",
      socketId: hello.socketId,
      recovered: hello.recovered,
      ...(hello.userId !== undefined && { userId: hello.userId }),
    });
    const isElsewhere = this.#nodeId !== hello.nodeId;
    this.#nodeId = hello.nodeId;
    if (this.#wasIn) this.#tell("session:back", { recovered: hello.recovered });
    this.#wasIn = true;
    if (this.#hello !== hello) return;
    for (const room of this.#left) this.#depart(room);
    const rooms = [...this.#rooms].filter(
      ([name, room]) => room.isStale || room.waiting.length > 0 || !this.#joined.has(name),
    );
    for (const [name, room] of this.#rooms) {
      room.isUnsure ||= isElsewhere;
      if (room.wasIn && !room.isStale) this.#lookBack(name, room);
    }
    if (rooms.length === 0) return this.#open();
    // What is sent may be for a room: its own sender is to hear it there.
    const attempt = this.#attempt;
    void Promise.all(rooms.map(([room]) => this.#enter(room))).then(
      () => attempt === this.#attempt && this.#open(),
    );
  }

  /** Of which rooms it is not known, after a hello, whether something was missed. */
  #doubtRooms(isRecovered: boolean): void {
    if (!isRecovered) this.#joined.clear();
    for (const room of this.#rooms.values()) room.isLoose = false;
    const isByRoom = this.#link?.isByRoom;
    if (!isRecovered && !isByRoom) this.#left.clear();
    for (const [name, room] of this.#rooms) {
      // What was being filled when the connection was lost is to be filled now.
      if (!room.wasIn || (isRecovered && !isByRoom && !room.held)) continue;
      room.isStale = true;
      if (isConversation(name)) room.held ??= [];
    }
  }

  #open(): void {
    this.#isOpen = true;
    this.#pump();
  }

  #ended(end: End): void {
    const { kind } = end;
    const reason = this.#explained(end);
    const why = reason === "kicked" && this.#foretold("connection:closed")?.why;
    const error =
      end.error ?? (why ? new HeartlineError(why, `the server said why: ${why}`) : undefined);
    const failed = { status: "failed", reason, ...(error && { error }) } as const;
    // A server that goes away closes the connection.
    const isClosed = end.reason === "transport" || end.reason === "unavailable";
    let pause = end.afterMs ?? (isClosed ? this.#foretold("server:drain")?.afterMs : undefined);
    this.#drop();
    if (kind === "final") return this.#stop(failed);
    if (kind === "token") {
      // A new token may be had once at once; one that is refused too is the last.
      if (typeof this.#token !== "function" || this.#renewals > 0) return this.#stop(failed);
      this.#renewals++;
      pause = 0;
    }
    this.#failures++;
    if (this.#failures > this.#options.attempts)
      return this.#stop({ status: "failed", reason: "attempts_exhausted" });
    this.#retry(pause ?? this.#pause(this.#failures), reason);
  }

  /** What was announced by this event, if that is not too long ago to be about this end. */
  #foretold(event: string): { at: number; afterMs?: number; why?: string } | undefined {
    const announced = this.#announced[event];
    return announced && this.#platform.now() - announced.at <= ANNOUNCED ? announced : undefined;
  }

  /**
   * The reason of an end, in the light of what was announced. An announcement never
   * changes what becomes of the client: that follows from the end alone.
   */
  #explained({ kind, reason }: End): Reason {
    const isTurnedOut = kind === "final" && (reason === "kicked" || reason === "device_limit");
    if (isTurnedOut && this.#foretold("connection:replaced")) return "replaced";
    if (kind === "retry" && reason === "transport" && this.#foretold("auth:error"))
      return "auth_expired";
    return reason;
  }

  /** Doubles up to the cap; half of it is chance, so that not all come back together. */
  #pause(failures: number): number {
    const { backoff, maxBackoff } = this.#options;
    const most = Math.min(maxBackoff, backoff * 2 ** Math.min(failures - 1, 30));
    return most * (0.5 + this.#platform.random() / 2);
  }

  #retry(pause: number, reason: Reason): void {
    // Before the state is told: a listener may call `connect` or `disconnect`.
    this.#set("retry", pause, () => this.#begin());
    this.#become({
      status: "reconnecting",
      attempt: this.#failures,
      nextRetryAt: this.#platform.unix() + pause,
      reason,
    });
  }

  #surroundings(to: "online" | "offline" | "awake"): void {
    if (to === "offline") {
      if (this.#link) this.#ended({ kind: "retry", reason: "offline" });
    } else if (this.#timers.retry !== undefined) {
      this.#begin();
    } else if (this.#hello) {
      this.#look();
    }
  }

  // --- silence ---------------------------------------------------------

  #watch(): void {
    const { pingInterval, pingTimeout } = this.#hello!;
    const silence = this.#platform.now() - this.#heardAt;
    const asks = this.#link?.isDeaf && silence < pingInterval;
    const next = Math.min(TICK, (asks ? pingInterval : pingInterval + pingTimeout) - silence);
    this.#set("watch", Math.max(next, 0), () => this.#look());
  }

  /** Looks whether the connection is as alive as the server promised. */
  #look(): void {
    const now = this.#platform.now(),
      unix = this.#platform.unix();
    const hello = this.#hello!;
    const silence = now - this.#heardAt;
    const slept =
      Math.abs(unix - this.#clocks.unix - (now - this.#clocks.now)) > PROBE ||
      now - this.#clocks.now > TICK + PROBE;
    this.#clocks = { now, unix };
    if (slept) {
      // Or a clock was set, or the browser keeps a hidden tab's timers waiting: only an
      // answer can tell.
      const signs = this.#signs;
      this.#ping();
      this.#set("watch", PROBE, () => {
        if (this.#signs === signs) this.#ended({ kind: "retry", reason: "heartbeat_timeout" });
        else this.#watch();
      });
      return;
    }
    if (silence >= hello.pingInterval + hello.pingTimeout) {
      return this.#ended({ kind: "retry", reason: "heartbeat_timeout" });
    }
    if (this.#link?.isDeaf && silence >= hello.pingInterval) this.#ping();
    this.#watch();
  }

  #alive(): void {
    this.#heardAt = this.#platform.now();
    this.#signs++;
  }

  #ping(): void {
    // What becomes of it is seen by the silence.
    this.ping().catch(() => {});
  }

  /** Milliseconds to the server and back. */
  async ping(): Promise<number> {
    const asked = this.#platform.now();
    await this.#ask((reply) => this.#link?.ping(() => reply({})), REQUEST_TIMEOUT);
    this.#alive();
    return (this.#latency = this.#heardAt - asked);
  }

  // --- the token -------------------------------------------------------

  #renewBefore(expires: number | undefined): void {
    this.#clear("token");
    if (expires === undefined || typeof this.#token !== "function") return;
    const left = expires - this.#platform.unix();
    const ahead = Math.min(REFRESH_AHEAD, left / 5);
    if (left - ahead > MAX_TIMER) return;
    this.#set("token", Math.max(left - ahead, 0), () => void this.#renew());
  }

  /** A new token for the connection that is. If that fails, the old one expires. */
  async #renew(): Promise<void> {
    const attempt = this.#attempt;
    try {
      const token = await (this.#token as () => string | Promise<string>)();
      if (attempt !== this.#attempt) return;
      await this.request("auth:refresh", { token });
      const expires = expiry(token);
      if (attempt === this.#attempt && expires !== undefined && expires > this.#platform.unix())
        this.#renewBefore(expires);
    } catch {
      // The server says when it has expired.
    }
  }

  // --- events ----------------------------------------------------------

  /** An event that the transport heard; with a `room`, if the transport knows it was said there. */
  #event(name: string, data: any, room?: string): void {
    if (OWN.test(name)) return;
    if (room === undefined) this.#mind(name, data);
    else if (PERSONAL.has(name)) return;
    if (name === "message:new") this.#message(data, room);
    else this.#tell(name, data);
  }

  /**
   * What the server says, or, over Socket.IO, somebody in a room who speaks in its name.
   * Nothing here ends or changes anything by itself.
   */
  #mind(name: string, data: any): void {
    const at = this.#platform.now();
    if (name === "server:drain") {
      const asked = data?.reconnectInMs;
      if (typeof asked === "number" && asked >= 0)
        this.#announced[name] = { at, afterMs: Math.min(asked, MAX_PAUSE) };
    } else if (name === "connection:closed") {
      if (typeof data?.reason === "string") this.#announced[name] = { at, why: data.reason };
    } else if (
      name === "connection:replaced" ||
      (name === "auth:error" && data?.code === "AUTH_TOKEN_EXPIRED")
    ) {
      this.#announced[name] = { at };
    } else if (name === "heartbeat") {
      if (typeof data?.timestamp === "number") this.#answer(data.timestamp, at);
    } else if (name === "room:left") {
      if (data?.reason !== undefined) this.#doubt(data.room);
    } else if (name === "room:gap") {
      const room = this.#rooms.get(data?.room);
      if (room && this.isIn(data.room)) this.#missed(data.room, room);
    }
  }

  /** Answers a heartbeat, and measures by this client's own clock how long that takes. */
  #answer(timestamp: number, at: number): void {
    if (at - this.#answeredAt < SELDOM) return;
    this.#answeredAt = at;
    this.#link?.emit("heartbeat:response", { timestamp }, (reply) => {
      if (reply?.ok !== false) this.#latency = this.#platform.now() - at;
    });
  }

  /** Asks the server for a room that it has perhaps taken away: its refusal would be the proof. */
  #doubt(room: string): void {
    if (!this.#joined.has(room) || this.#doubted.has(room)) return;
    this.#doubted.add(room);
    const attempt = this.#attempt;
    void this.#enter(room).then(() => {
      if (attempt === this.#attempt) this.#later(SELDOM, () => this.#doubted.delete(room));
    });
  }

  #tell(name: string, data: unknown): void {
    for (const handler of [...(this.#handlers.get(name) ?? [])])
      this.#guarded(() => handler(data as never));
  }

  /** Hears events of this name, over all reconnections. Returns what ends that. */
  on<K extends keyof (Incoming & ServerEvents) & string>(
    event: K,
    handler: (data: (Incoming & ServerEvents)[K]) => void,
  ): () => void {
    let handlers = this.#handlers.get(event);
    if (!handlers) this.#handlers.set(event, (handlers = new Set()));
    handlers.add(handler as Handler);
    return () => this.off(event, handler);
  }

  /** Ends what `on` began. */
  off<K extends keyof (Incoming & ServerEvents) & string>(
    event: K,
    handler: (data: (Incoming & ServerEvents)[K]) => void,
  ): void {
    const handlers = this.#handlers.get(event);
    if (handlers?.delete(handler as Handler) && handlers.size === 0) this.#handlers.delete(event);
  }

  // --- rooms -----------------------------------------------------------

  /**
   * Joins a room, and joins it again after each reconnection until `leave`. Resolves
   * when the server has let this client in; rejects when it does not, or at the end.
   */
  join(room: string): Promise<void> {
    const joined = new Promise<void>((resolve, reject) => {
      let wanted = this.#rooms.get(room);
      if (!wanted) {
        this.#rooms.set(room, (wanted = { waiting: [], told: new Set() }));
        this.#left.delete(room);
      }
      wanted.waiting.push({ resolve: () => resolve(), reject });
      if (this.#hello) void this.#enter(room);
    });
    // Who does not wait for it does not have to hear that it came to nothing.
    joined.catch(() => {});
    return joined;
  }

  /** Whether this client is in a room now. */
  isIn(room: string): boolean {
    return this.#hello !== undefined && this.#joined.has(room);
  }

  /** Leaves a room, for good. */
  leave(room: string): void {
    const wanted = this.#rooms.get(room);
    if (!wanted) return;
    this.#forget(room);
    for (const one of wanted.waiting)
      one.reject(new HeartlineError("LEFT", `room ${room} was left`));
    // If it is not heard now, the next connection says it.
    this.#left.add(room);
    if (this.#hello) this.#depart(room);
  }

  #depart(room: string): void {
    this.#link?.leave(room, () => this.#left.delete(room));
  }

  #forget(room: string): void {
    this.#rooms.get(room)!.filling = undefined;
    this.#rooms.delete(room);
    this.#joined.delete(room);
    this.#session?.rooms?.delete(room);
  }

  #enter(name: string): Promise<void> {
    const wanted = this.#rooms.get(name)!;
    // Where it stands, so that it is known what is missed later.
    if (!wanted.wasIn && isConversation(name)) void this.#fill(name, wanted, false);
    return this.#ask((reply) => this.#link?.join(name, reply), REQUEST_TIMEOUT).then(
      (reply) => {
        const room = this.#rooms.get(name);
        if (!room) return;
        const isNew = !this.#joined.has(name);
        this.#joined.add(name);
        for (const one of room.waiting.splice(0)) one.resolve({});
        if (isNew) this.#tell("room:in", { room: name });
        this.#entered(name, room, reply);
      },
      (error: HeartlineError) => {
        const room = name;
        const waiting = this.#rooms.get(room)?.waiting;
        // What is lost with the connection is joined with the next one.
        if (!waiting || error.code === "DISCONNECTED") return;
        if (isPassing(error)) {
          return this.#again(error, () => this.#rooms.has(room) && void this.#enter(room));
        }
        this.#forget(room);
        for (const one of waiting) one.reject(error);
        this.#tell("room:lost", { room, code: error.code });
      },
    );
  }

  // --- what was missed -------------------------------------------------

  /** A room was joined: what was missed of it comes by itself, or is filled, or is told of. */
  #entered(name: string, room: Room, { recovered, snapshot }: Reply): void {
    // A handler may have left it.
    if (!this.isIn(name)) return;
    if (room.isStale && recovered) {
      const held = room.held ?? [];
      room.held = undefined;
      for (const message of held) this.#message(message, name);
      this.#lookBack(name, room);
    } else if (room.isStale) this.#missed(name, room);
    room.isStale = false;
    room.wasIn = true;
    if (!recovered && (snapshot as unknown[] | undefined)?.length)
      this.#tell("room:snapshot", { room: name, snapshot });
  }

  /** A message of a conversation that this client is in is told once, after those before it. */
  #message(message: Message, said?: string): void {
    const { conversationId, offset } = message ?? {};
    const name = said ?? CONVERSATION + conversationId;
    const room = this.#rooms.get(name);
    // Over Socket.IO, it may be of the open room of that name: its offsets are others.
    const isSure = said !== undefined || !this.#rooms.has(conversationId);
    if (!room || !isConversation(name) || typeof offset !== "number" || !isSure)
      this.#tell("message:new", message);
    else if (room.held) {
      if (room.held.push(message) > MOST_HELD) room.held.shift();
    } else if (offset > (room.last ?? offset) + 1 && !room.isLoose) {
      room.held = [message];
      void this.#fill(name, room, false);
    } else this.#tellOnce(room, message);
  }

  #tellOnce(room: Room, message: Message): void {
    const { id, offset } = message;
    const { told } = room;
    room.last = Math.max(room.last ?? 0, offset);
    if (told.has(id)) return;
    told.add(id);
    if (told.size > MOST_TOLD) told.delete(told.values().next().value!);
    this.#tell("message:new", message);
  }

  /** Tells what was held, now that all before it has been told. */
  #release(name: string, room: Room): void {
    const held = room.held ?? [];
    room.held = undefined;
    for (const message of held) if (this.#rooms.get(name) === room) this.#tellOnce(room, message);
  }

  /** A node that was killed may have stored what it has told to nobody: who goes on asks. */
  #lookBack(name: string, room: Room): void {
    if (room.isUnsure && isConversation(name)) void this.#fill(name, room, false);
  }

  /** Events of a room were missed: of a conversation, its messages are asked for. */
  #missed(name: string, room: Room): void {
    if (!isConversation(name)) return this.#tell("room:missed", { room: name, filled: false });
    room.held ??= [];
    void this.#fill(name, room, true);
  }

  /** Tells what is new in a conversation's history, or only notes where it stands. */
  async #fill(name: string, room: Room, isMissed: boolean): Promise<void> {
    const filling = (room.filling = {});
    const isOver = () => room.filling !== filling;
    const conversationId = name.slice(CONVERSATION.length);
    let after = room.last;
    try {
      for (;;) {
        const part = after === undefined ? { limit: 1 } : { after, limit: PART };
        const answer = await this.request("history:get", { conversationId, ...part });
        if (isOver()) return;
        const { head, floor, messages, complete } = answer as unknown as History;
        const missed = after === undefined ? 0 : head - room.last!;
        // What is gone of those that were told already is nobody's loss.
        const isGone = missed > MOST_FILLED || (!complete && !(floor <= room.last!));
        const isOther = missed < 0 || missed > MOST_FILLED;
        if (isOther || isGone || after === undefined)
          room.isLacking = isMissed || (isGone && !!room.held);
        // Who has told a message knows better where it stands than who has only asked.
        if (isOther || room.last === undefined) room.last = head;
        if (isOther || after === undefined) break;
        for (const message of messages) this.#tellOnce(room, message);
        // A handler may have left.
        if (isOver()) return;
        room.held = room.held?.filter(({ id }) => !room.told.has(id));
        if (messages.length === 0 || room.last! >= head) break;
        after = room.last;
      }
    } catch (error) {
      if (isOver()) return;
      if (isPassing(error as HeartlineError))
        return this.#again(
          error as HeartlineError,
          () => !isOver() && void this.#fill(name, room, isMissed),
        );
      room.isLacking = isMissed || !!room.held;
    }
    room.filling = undefined;
    room.isUnsure = false;
    room.isLoose = room.held?.some(({ offset }) => offset > room.last! + 1) ?? false;
    this.#release(name, room);
    const filled = !room.isLacking;
    room.isLacking = false;
    if (isMissed || !filled) this.#tell("room:missed", { room: name, filled });
  }

  // --- requests --------------------------------------------------------

  /** A promise of a reply that settles with the connection at the latest. */
  #ask(put: (reply: (reply: Reply) => void) => void, timeout: number): Promise<Reply> {
    return new Promise((resolve, reject) => {
      if (!this.#hello) return reject(disconnected(this.#reason()));
      const finish = () => {
        this.#platform.clearTimeout(timer);
        this.#requests.delete(waiting);
      };
      const waiting: Waiting = {
        resolve(reply) {
          finish();
          resolve(reply);
        },
        reject(error) {
          finish();
          reject(error);
        },
      };
      const late = () =>
        waiting.reject(new HeartlineError("TIMEOUT", `no answer within ${timeout} ms`));
      const timer = this.#platform.setTimeout(late, timeout);
      this.#requests.add(waiting);
      put((reply) =>
        reply?.ok === false ? waiting.reject(failure(reply)) : waiting.resolve(reply ?? {}),
      );
    });
  }

  #reason(): Reason {
    const state = this.#state;
    return "reason" in state ? state.reason : "transport";
  }

  /** Sends an event now, or not at all: false says that there is no connection. */
  emit<K extends keyof Outward & string>(event: K, data: Outward[K]): boolean {
    if (!this.#hello) return false;
    this.#link?.emit(event, data);
    return true;
  }

  /**
   * Sends an event now and waits for its acknowledgement. Never sends twice, and rejects at
   * once without a connection.
   */
  request(event: string, data: unknown, timeout = REQUEST_TIMEOUT): Promise<Reply> {
    return this.#ask((reply) => this.#link?.emit(event, data, reply), timeout);
  }

  /** Publishes to a room; with a `key`, a slow reader gets only the newest of each. */
  publish(room: string, event: string, data: unknown, key?: string): Promise<Reply> {
    return this.request("publish", { room, event, data, ...(key !== undefined && { key }) });
  }

  /** Presence of users, however many. */
  async presence(users: readonly string[]): Promise<readonly Presence[]> {
    const asked: Promise<Reply>[] = [];
    for (let at = 0; at === 0 || at < users.length; at += MOST_USERS) {
      const some = users.slice(at, at + MOST_USERS);
      asked.push(this.request("presence:get", { users: some }));
    }
    return (await Promise.all(asked)).flatMap((reply) => reply.users as Presence[]);
  }

  // --- sending, surely -------------------------------------------------

  /**
   * Sends an event until it is acknowledged, in the order of the calls, waiting for a
   * connection if there is none. An object gets a `tempId`, the same at each try, by
   * which the server knows a message that it has had: `message:send` and `chat:send`
   * are stored once, however often they were sent.
   *
   * Rejects when the server refuses, when `retries` were in vain (`UNCONFIRMED`), when
   * too much waits (`QUEUE_FULL`), and at `disconnect()` or failure (`DISCONNECTED`).
   */
  send<K extends keyof Outward & string>(
    event: K,
    data: Outward[K],
    options: SendOptions = {},
  ): Promise<Reply> {
    const { status } = this.#state;
    if (status === "failed" || status === "disconnected")
      return Promise.reject(disconnected(this.#reason()));
    if (this.#queue.length >= this.#options.queue) {
      return Promise.reject(
        new HeartlineError("QUEUE_FULL", `${this.#queue.length} messages wait already`),
      );
    }
    const { timeout = 10_000, retries = 5 } = options;
    const isObject =
      typeof data === "object" && data !== null && !Array.isArray(data) && !("tempId" in data);
    return new Promise((resolve, reject) => {
      this.#queue.push({
        event,
        data: isObject ? { ...data, tempId: this.#unique() } : data,
        timeout,
        retries,
        sent: 0,
        resolve,
        reject,
      });
      if (this.#queue.length === 1) this.#pump();
    });
  }

  #unique(): string {
    const part = () => Math.floor(this.#platform.random() * 2 ** 32).toString(36);
    return `${this.#platform.unix().toString(36)}-${part()}${part()}`;
  }

  /** Sends the first that waits; the next one follows its answer. */
  #pump(): void {
    const message = this.#queue[0];
    if (!message || !this.#isOpen) return;
    const attempt = this.#attempt;
    const done = (settle: () => void) => {
      this.#queue.shift();
      settle();
      this.#pump();
    };
    if (message.sent > message.retries) {
      return done(() =>
        message.reject(new HeartlineError("UNCONFIRMED", "sent, and never acknowledged")),
      );
    }
    const again = (ms: number) => this.#set("send", ms, () => this.#pump());
    message.sent++;
    const unanswered = () => again(this.#pause(message.sent));
    this.#set("send", message.timeout, unanswered);
    this.#link?.emit(message.event, message.data, (reply) => {
      // An answer to an earlier try is one too, as long as nobody has given up.
      if (attempt !== this.#attempt || this.#queue[0] !== message) return;
      this.#clear("send");
      if (reply?.ok !== false) done(() => message.resolve(reply ?? {}));
      else if (reply.retryAfterMs !== undefined && message.sent <= message.retries)
        again(reply.retryAfterMs);
      else done(() => message.reject(failure(reply)));
    });
  }

  // --- timers ----------------------------------------------------------

  /** Once, if this connection lasts so long. */
  #later(ms: number, call: () => void): void {
    const timer = this.#platform.setTimeout(() => {
      this.#loose.delete(timer);
      call();
    }, ms);
    this.#loose.add(timer);
  }

  /** After the pause that was asked for. */
  #again({ retryAfterMs }: HeartlineError, call: () => void): void {
    this.#later(retryAfterMs ?? this.#options.backoff, call);
  }

  #set(timer: TimerName, ms: number, call: () => void): void {
    this.#clear(timer);
    this.#timers[timer] = this.#platform.setTimeout(() => {
      this.#timers[timer] = undefined;
      call();
    }, ms);
  }

  #clear(timer: TimerName): void {
    if (this.#timers[timer] === undefined) return;
    this.#platform.clearTimeout(this.#timers[timer]);
    this.#timers[timer] = undefined;
  }
}
