import { given } from "./given.js";
import { OWN, PERSONAL } from "./names.js";
import { clocks } from "./platform.js";
import { Queue, failure, type SendOptions } from "./queue.js";
import { MAX_TIMER, Timers } from "./timers.js";
import { Told, guarded } from "./told.js";
import {
  HeartlineError,
  type Cause,
  type Dial,
  type End,
  type Hello,
  type Link,
  type LinkEvents,
  type Pending,
  type Place,
  type Platform,
  type Reason,
  type Reply,
  type ServerEvents,
  type ServerRequests,
  type Session,
  type State,
} from "./types.js";

/**
 * A token, or how to get one: asked before every attempt, and before the last one expires. Whoever
 * throws, or gives no text, is asked again; `SignedOut` ends that. The signal says that nobody
 * waits for it any more.
 */
export type Token =
  string | ((asked: { readonly signal: AbortSignal }) => string | Promise<string>);

export interface Options {
  token?: Token | undefined;
  /** Connects at once. Default: true. */
  autoConnect?: boolean;
  /**
   * How often to try again, in a row, before giving up; not counted while offline. Default: for
   * ever.
   */
  attempts?: number;
  /** Milliseconds before the second attempt; each later pause is twice as long. Default: 1 000. */
  backoff?: number;
  /** The longest pause in milliseconds. Default: 10 000. */
  maxBackoff?: number;
  /**
   * How long an attempt may take, and the token for it, in milliseconds. Default: 12 000, more than
   * servers wait for a token.
   */
  connectTimeout?: number;
  /** How many messages may wait to be sent. Default: 1 000. */
  queue?: number;
  /** How many bytes they may have, as JSON. Default: 4 000 000. */
  queueBytes?: number;
  /** Is told what happens, in words, without data and tokens: `console.debug`, say. */
  debug?: ((what: string) => void) | undefined;
  /** For tests. */
  platform?: Platform;
}

type Handler = (data: never) => void;
/** What other states lack is undefined there. */
type Reconnecting = Extract<State, { status: "reconnecting" }>;

const DEFAULTS = {
  autoConnect: true,
  attempts: Infinity,
  backoff: 1_000,
  maxBackoff: 10_000,
  connectTimeout: 12_000,
  queue: 1_000,
  queueBytes: 4_000_000,
  platform: clocks,
};
/** What is silent for less than this after a sleep is asked whether it lives, in milliseconds. */
const PROBE = 2_000;
/**
 * Who finds silence so many milliseconds later than was meant asks once more: what has come meanwhile
 * may wait to be read.
 */
const LATE = 100;
/** How often silence is looked at, at least. */
const TICK = 5_000;
/** A connection that lasted so long counts as a good one. */
const STABLE = 5_000;
/** Tokens are renewed so long before they expire, or in the last fifth of their time. */
const REFRESH_AHEAD = 60_000;
const REQUEST_TIMEOUT = 10_000;
/** The longest pause that servers ask for before a reconnection, in milliseconds. */
const MAX_PAUSE = 60_000;
/** An end that was announced comes within this, in milliseconds; later it is another end. */
const ANNOUNCED = 30_000;
/**
 * How often an event may make this client say something by itself, in milliseconds: over
 * Socket.IO, whoever is in a room with it might be the one who sends the event.
 */
export const SELDOM = 1_000;
/** The states in which nothing happens until `connect()`. */
const OVER = /^(disconnected|failed)$/;
/** What says why the connection ends, or for how long. */
const ANNOUNCES = /^(server:drain|connection:(closed|replaced)|auth:error)$/;
/** When a JSON Web Token expires, in Unix milliseconds; no number if it is none or does not say. */
function expiry(token: string | undefined): number | undefined {
  try {
    const payload = token!.split(".")[1]!.replace(/-/g, "+").replace(/_/g, "/");
    return JSON.parse(atob(payload)).exp * 1000;
  } catch {}
}

export const nothing = () => {};
const disconnected = (reason: Reason) =>
  new HeartlineError("DISCONNECTED", `not connected: ${reason}`);

/**
 * A connection to Heartline that says what is true of it, comes back by itself, and
 * loses nothing that it was given to send. Rooms are what `Core` adds.
 *
 * `Incoming` names the events of the application and their data, `Outward` those that
 * it sends.
 */
export class Small<
  Incoming extends object = Record<string, any>,
  Outward extends object = Record<string, unknown>,
> {
  readonly #dial: Dial;
  readonly #options: Options & typeof DEFAULTS;
  /** All of them end with the connection or the attempt. */
  protected readonly timers: Timers;
  readonly #queue: Queue;
  #token: Token | undefined;

  readonly #state = new Told<State>({ status: "disconnected", reason: "not_started" });
  readonly #handlers = new Map<string, Set<Handler>>();
  /** What the last connection has left to the next one. */
  #session: Session | undefined;
  /** There was a connection. */
  #wasIn = false;

  /** Counts attempts: what belongs to another one comes too late. */
  #attempt = 0;
  protected link: Link | undefined;
  #failures = 0;
  #renewals = 0;
  #hello: Hello | undefined;
  /** What the server promises: a ping so often, and how late it may be, in milliseconds. */
  #interval = 0;
  #grace = 0;
  /** When something was heard last, by `platform.now()`. */
  protected heardAt = 0;
  /** When it was asked whether it lives, where pings are not heard. */
  #askedAt = 0;
  /** Unix milliseconds of the server's clock less those of this one's. */
  #skew = 0;
  #isOffline = false;
  /** The server has asked for the pause before the next attempt. */
  #isAsked = false;
  /** What was said of this connection's end, not long ago. Only the end itself can confirm it. */
  #announced: { [name: string]: any } = {};
  /** When the token of this connection expires, if that is known, in the server's Unix milliseconds. */
  #expires: number | undefined;
  #latency: number | undefined;
  #place: Place = {};
  #unwatch: (() => void) | undefined;
  /** The two clocks when they were last compared: apart by more, the machine has slept. */
  #clocks = { now: 0, unix: 0 };

  constructor(dial: Dial, options: Options = {}) {
    this.#dial = dial;
    this.#token = options.token;
    const all = (this.#options = { ...DEFAULTS, ...given(options) });
    this.timers = new Timers(all.platform);
    this.#queue = new Queue(this, all);
    if (all.autoConnect) this.connect();
  }

  // --- what builds on this ---------------------------------------------

  /** There is a connection; nobody has been told yet. */
  protected hello?(hello: Hello): void;
  /** All have been told. True: what waits to be sent waits until `open` is called. */
  protected entering?(open: () => void): boolean;
  /** An event was heard, in a room if that is known. True: it is told in another way. */
  protected hears?(name: string, data: unknown, room: string | undefined, at: Place): boolean;
  /** The connection or the attempt has ended, and this is left of it. */
  protected drop?(session: Session | undefined): void;
  /** Nothing happens any more until `connect()`. */
  protected over?(error: () => HeartlineError): void;

  /** Its clocks and timers, for what stands beside the client. */
  get platform(): Platform {
    return this.#options.platform;
  }

  // --- state -----------------------------------------------------------

  /** What is true now. */
  get state(): State {
    return this.#state.value;
  }

  /** Milliseconds there and back, as measured last. */
  get latency(): number | undefined {
    return this.#latency;
  }

  /** Where the event that is being told was said. Only in the handler itself, before it awaits. */
  get place(): Place {
    return this.#place;
  }

  /** Calls `listener` with the state now and each one that follows. Returns what ends that. */
  subscribe(listener: (state: State) => void): () => void {
    return this.#state.subscribe(listener);
  }

  #become(state: State): void {
    this.#debug(`state ${state.status} ${(state as Reconnecting).reason ?? ""}`);
    this.#state.become(state);
  }

  #debug(what: string): void {
    guarded(() => this.#options.debug?.(what));
  }

  // --- connecting ------------------------------------------------------

  /** Connects, or tries again at once if it was about to. */
  connect(): void {
    if (this.timers.has("retry")) return this.#begin();
    if (!OVER.test(this.state.status)) return;
    this.#failures = this.#renewals = 0;
    this.#unwatch ??= this.platform.watch?.((to) => this.#surroundings(to));
    const state: State = { status: "connecting" };
    this.#become(state);
    if (this.#state.value === state) this.#begin();
  }

  /** Ends the connection, and whatever waits for it. Nothing is left behind. */
  disconnect(): void {
    this.#drop(true);
    this.#stop({ status: "disconnected", reason: "client" });
  }

  #stop(state: State & { reason: Reason }): void {
    this.#drop();
    this.#unwatch?.();
    this.#unwatch = undefined;
    this.#isOffline = false;
    const error = () => disconnected(state.reason);
    this.#queue.fail(error);
    this.over?.(error);
    // Once is enough, however often it is disconnected.
    if (this.#reason() !== "client") this.#become(state);
  }

  /** Lets go of the connection or the attempt, for good or until the next one goes on. */
  #drop(forGood = false): void {
    this.#attempt++;
    const link = this.link;
    this.link = this.#hello = undefined;
    if (link) this.#session = link.session?.();
    if (forGood) this.#session = undefined;
    this.drop?.(this.#session);
    this.#announced = {};
    this.#queue.drop();
    this.timers.drop();
    link?.close(forGood);
  }

  #begin(): void {
    this.#drop();
    this.#isAsked = false;
    const attempt = this.#attempt;
    /** Whether this attempt, and the connection that it became, is still the one. */
    const current = () => attempt === this.#attempt;
    const state = this.state as Reconnecting;
    // Earlier than was told.
    const unix = this.platform.unix();
    if (state.nextRetryAt > unix + 1) {
      this.#become({ ...state, nextRetryAt: unix });
      if (!current()) return;
    }
    const ended = (end: End) => current() && this.#ended(end);
    const events = (token: string | undefined): LinkEvents => ({
      hello: (hello) => current() && this.#opened(hello, token),
      event: (...said) => current() && this.#event(...said),
      alive: () => current() && this.#alive(),
      end: ended,
    });
    const go = (token: string | undefined) => {
      if (!current()) return;
      this.timers.set("attempt", this.#options.connectTimeout, () =>
        this.#ended({ kind: "retry", reason: "connect_timeout" }),
      );
      try {
        const link = this.#dial(token, events(token), this.#session);
        // It may have ended already.
        if (current()) this.link = link;
        else link.close(false);
      } catch (error) {
        // An address that is none, or nothing to connect with: it would be the same each time.
        const what = new HeartlineError("UNSUPPORTED", (error as Error).message);
        ended({ kind: "final", reason: "transport", error: what });
      }
    };
    if (typeof this.#token !== "function") return go(this.#token);
    this.#askToken().then(go, (error) => ended(this.#untold(error)));
  }

  #opened(hello: Hello, token: string | undefined): void {
    if (this.#hello) return;
    const { pingInterval, pingTimeout, recovered, serverTime, socketId, userId } = hello;
    this.#hello = hello;
    this.#interval = pingInterval > 0 ? pingInterval : 25_000;
    this.#grace = pingTimeout > 0 ? pingTimeout : 20_000;
    this.#queue.most = hello.maxPayload ?? Infinity;
    this.timers.clear("attempt");
    this.#alive();
    // From now on.
    this.#hasSlept();
    this.#compare(serverTime);
    this.timers.set("stable", STABLE, () => {
      this.#failures = this.#renewals = 0;
    });
    this.#look();
    this.#renewBefore(expiry(token));
    this.hello?.(hello);
    this.#become(given({ status: "connected", socketId, recovered, userId }));
    if (this.#wasIn) this.tell("session:back", { recovered });
    this.#wasIn = true;
    if (this.#hello !== hello) return;
    const open = () => this.#queue.open();
    if (!this.entering?.(open)) open();
  }

  #ended(end: End): void {
    const { kind, afterMs } = end;
    const reason = this.#explained(end.reason);
    const why = reason === "kicked" && this.#announced["connection:closed"]?.reason;
    const error =
      end.error ?? (why ? new HeartlineError(why, `the server said ${why}`) : undefined);
    // A server that goes away closes the connection.
    const isClosed = end.reason === "transport" || end.reason === "unavailable";
    const drain = isClosed ? this.#announced["server:drain"]?.reconnectInMs : undefined;
    const cause: Cause = given({
      what: end.what ?? (drain === undefined ? this.#what(reason) : "drained"),
      code: end.code ?? error?.code,
      message: end.message || error?.message || undefined,
    });
    this.#debug(`end ${reason} ${cause.code ?? ""}`);
    const failed = (reason: Reason) =>
      this.#stop(given({ status: "failed", reason, cause, error }));
    let pause = afterMs! >= 0 ? afterMs : drain && Math.min(drain, MAX_PAUSE);
    this.#isAsked = pause !== undefined;
    this.#drop();
    if (kind === "final") return failed(reason);
    if (kind === "token") {
      // A new token may be had once at once; one that is refused too is the last.
      if (typeof this.#token !== "function" || this.#renewals++ > 0) return failed(reason);
      pause = 0;
    }
    const { attempts, maxBackoff } = this.#options;
    // Without a network nothing can be tried: that is nobody's failure.
    if (!this.#isOffline && ++this.#failures > attempts) return failed("attempts_exhausted");
    pause ??= this.#isOffline ? maxBackoff : this.pause(this.#failures);
    pause = Math.min(pause, MAX_TIMER);
    // Before the state is told: a listener may call `connect` or `disconnect`.
    this.timers.set("retry", pause, () => this.#begin());
    this.#become({
      status: "reconnecting",
      attempt: this.#failures || 1,
      nextRetryAt: this.platform.unix() + pause,
      reason,
      cause,
    });
  }

  #what(reason: Reason): Cause["what"] {
    if (/auth|token|signed/.test(reason)) return "token";
    if (/timeout/.test(reason)) return "timeout";
    if (reason === "transport") return this.#hello ? "lost" : "unreachable";
    return reason as Cause["what"];
  }

  /**
   * The reason of an end, in the light of what was announced. An announcement never
   * changes what becomes of the client: that follows from the end alone.
   */
  #explained(reason: Reason): Reason {
    const isTurnedOut = reason === "kicked" || reason === "device_limit";
    if (isTurnedOut && this.#announced["connection:replaced"]) return "replaced";
    return reason === "transport" && this.#announced["auth:error"] ? "auth_expired" : reason;
  }

  /** Doubles up to the cap; half of it is chance, so that not all come back together. */
  protected pause(failures: number, cap = this.#options.maxBackoff): number {
    const most = Math.min(cap, this.#options.backoff * 2 ** Math.min(failures - 1, 30));
    return most * (0.5 + this.platform.random() / 2);
  }

  #surroundings(to: "online" | "offline" | "awake"): void {
    if (to !== "awake") this.#isOffline = to === "offline";
    const { nextRetryAt } = this.state as Reconnecting;
    if (to === "offline") {
      if (this.link) this.#ended({ kind: "retry", reason: "offline" });
    } else if (this.#hello) {
      this.#look();
    } else if (this.timers.has("retry")) {
      // A pause that the server has asked for is kept.
      if (!this.#isAsked || this.platform.unix() >= nextRetryAt) this.#begin();
    }
  }

  // --- silence ---------------------------------------------------------

  /** Whether the machine has slept since the clocks were last looked at. */
  #hasSlept(): boolean {
    const before = this.#clocks;
    const now = this.platform.now();
    const unix = this.platform.unix();
    this.#clocks = { now, unix };
    const passed = now - before.now;
    return Math.abs(unix - before.unix - passed) > PROBE || passed > TICK + PROBE;
  }

  /**
   * Looks whether the connection is as alive as the server promised, and when to look again. Where
   * pings are not heard it asks, and has the time of a ping for the answer from then on.
   */
  #look(): void {
    // What was asked before is waited for, whatever else wakes up meanwhile.
    if (this.timers.has("probe")) return;
    if (this.#hasSlept()) return this.#probe();
    const { now } = this.#clocks;
    const isDeaf = this.link?.isDeaf;
    let until = this.heardAt + this.#interval;
    if (isDeaf && now >= until) {
      if (this.#askedAt < until) {
        this.#askedAt = now;
        this.ping().catch(nothing);
      }
      until = this.#askedAt + this.#grace;
    } else if (!isDeaf) until += this.#grace;
    if (now < until) this.timers.set("watch", Math.min(TICK, until - now), () => this.#look());
    else if (now > until + LATE) this.#probe();
    else this.#ended({ kind: "retry", reason: "heartbeat_timeout" });
  }

  /**
   * Asks whether it lives: perhaps a clock was set, or the browser keeps a hidden tab's timers
   * waiting. What had come before, and waited to be read, is no answer; what comes later is. Where
   * the time for an answer ends late too, as it does each time in a hidden tab, it is asked once
   * more and not again.
   */
  #probe(isFirst = true): void {
    const asked = this.platform.now();
    this.timers.set("probe", PROBE, () => {
      const isLate = this.#hasSlept() || this.platform.now() - asked > PROBE + LATE;
      const isHeard = this.heardAt - asked > PROBE / 2;
      if (isHeard || (isLate && isFirst)) this.#probe(isHeard);
      else this.#ended({ kind: "retry", reason: "heartbeat_timeout" });
    });
    this.ping().then(() => {
      this.timers.clear("probe");
      this.#look();
    }, nothing);
  }

  #alive(): void {
    this.heardAt = this.platform.now();
  }

  /** Milliseconds to the server and back. */
  ping(): Promise<number> {
    return this.#measure((reply) =>
      // Also one that is refused is a sign of life.
      this.link?.ping((pong) => reply({ ...pong, ok: true })),
    );
  }

  /** Sets this clock beside the server's, if that has said its time: either may be set meanwhile. */
  #compare(time: unknown): void {
    if ((time as number) > 0) this.#skew = (time as number) - this.platform.unix();
  }

  /** By this client's own clock, how long an answer takes. */
  async #measure(ask: (reply: (reply: Reply) => void) => void): Promise<number> {
    const asked = this.platform.now();
    const { timestamp } = await this.ask(ask);
    this.#alive();
    this.#compare(timestamp);
    return (this.#latency = this.heardAt - asked);
  }

  // --- the token -------------------------------------------------------

  /**
   * Another token, or another way to get one: for the next attempt, and for the connection that
   * is, of the same user. Resolves when the server has taken it, when another one has come in its
   * place, or at once where there is no connection.
   */
  async setToken(token: Token): Promise<void> {
    this.#token = token;
    this.#renewals = 0;
    if (this.#hello) await this.#renew();
    else if (!this.#isAsked && !OVER.test(this.state.status)) this.#begin();
  }

  /** What the function gives, in time; nothing else than a text with something in it will do. */
  async #askToken(): Promise<string> {
    const ask = this.#token;
    if (typeof ask !== "function") return ask!;
    const asking = new AbortController();
    const answer = async () => ask({ signal: asking.signal });
    const token = await this.#within(
      this.#options.connectTimeout,
      "token",
      (given, failed) => void answer().then(given, failed),
      () => asking.abort(),
    );
    // The page of a proxy that answers in the place of the app is no token.
    if (typeof token === "string" && /^\s*[^\s<]/.test(token)) return token;
    throw new HeartlineError("NO_TOKEN", "no token");
  }

  /** The end of an attempt without a token. */
  #untold(error: any): End {
    if (error?.code === "SIGNED_OUT") return { kind: "final", reason: "signed_out", error };
    return {
      kind: "retry",
      reason: "token_unavailable",
      code: error?.code,
      message: error?.message,
    };
  }

  #renewBefore(expires: number | undefined): void {
    this.#expires = expires;
    const left = expires! - this.platform.unix() - this.#skew;
    this.timers.clear("token");
    if (typeof this.#token === "function" && left > 0)
      this.timers.set(
        "token",
        Math.max(SELDOM, left * 0.8, left - REFRESH_AHEAD),
        () => void this.#renew(1),
      );
  }

  /**
   * A new token for the connection that is, unless `setToken` has given another one meanwhile. With
   * a number of tries it is asked for again until it expires; without one, it rejects.
   */
  async #renew(tries = 0): Promise<void> {
    const attempt = this.#attempt;
    const asked = this.#token;
    const isWanted = () => attempt === this.#attempt && asked === this.#token;
    try {
      const token = await this.#askToken();
      if (!isWanted()) return;
      const { expiresAt } = await this.request("auth:refresh", { token } as never);
      if (isWanted()) this.#renewBefore((expiresAt as number) ?? expiry(token));
    } catch (error) {
      if (isWanted()) {
        const end = this.#untold(error);
        if (!tries) {
          // What was under way for the token before is not heard any more.
          if (!this.timers.has("token")) this.#renewBefore(this.#expires);
        } else if (end.kind === "final") this.#ended(end);
        else this.timers.set("token", this.pause(tries), () => void this.#renew(tries + 1));
      }
      if (!tries) throw error;
    }
  }

  // --- events ----------------------------------------------------------

  /** An event that the transport heard; with a `room`, if the transport knows it was said there. */
  #event(name: string, data: any, room?: string, offset?: number): void {
    if (OWN.test(name)) return;
    if (room === undefined) this.#mind(name, Object(data));
    else if (PERSONAL.test(name)) return;
    const at: Place = given({ room, offset });
    this.#debug(`heard ${name} ${room ?? ""}`);
    if (!this.hears?.(name, data, room, at)) this.tell(name, data, at);
  }

  /**
   * What the server says, or, over Socket.IO, somebody in a room who speaks in its name.
   * Nothing here ends or changes anything by itself.
   */
  #mind(name: string, data: any): void {
    const { reason, reconnectInMs, timestamp } = data;
    if (name === "heartbeat" && typeof timestamp === "number") this.#answer(timestamp);
    else if (
      ANNOUNCES.test(name) &&
      (name !== "server:drain" || (typeof reconnectInMs === "number" && reconnectInMs >= 0)) &&
      (name !== "connection:closed" || typeof reason === "string") &&
      (name !== "auth:error" || data.code === "AUTH_TOKEN_EXPIRED")
    ) {
      this.#announced[name] = data;
      this.timers.set(name, ANNOUNCED, () => delete this.#announced[name]);
    }
  }

  /** Answers a heartbeat, and measures how long that takes. */
  #answer(timestamp: number): void {
    if (this.timers.has("heartbeat")) return;
    this.timers.set("heartbeat", SELDOM, nothing);
    this.#measure((reply) => this.link?.emit("heartbeat:response", { timestamp }, reply)).catch(
      nothing,
    );
  }

  protected tell(name: string, data: unknown, at: Place = {}): void {
    for (const handler of [...(this.#handlers.get(name) ?? [])]) {
      this.#place = at;
      guarded(() => handler(data as never));
    }
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
    if (handlers?.delete(handler as Handler) && !handlers.size) this.#handlers.delete(event);
  }

  // --- requests --------------------------------------------------------

  /** What is answered in time and by this connection; or else it is `over`, and rejects. */
  #within<T>(
    ms: number,
    what: string,
    ask: (resolve: (answer: T) => void, reject: (error: unknown) => void) => void,
    over = nothing,
  ): Promise<T> {
    return new Promise<T>((resolve, reject) => {
      const fail = (error: HeartlineError) => {
        over();
        reject(error);
      };
      this.timers.set(
        ask,
        ms,
        () => fail(new HeartlineError("TIMEOUT", `no ${what} within ${ms} ms`)),
        () => fail(disconnected("transport")),
      );
      ask(resolve, reject);
    }).finally(() => this.timers.clear(ask));
  }

  /** A promise of a reply that settles with the connection at the latest. */
  protected async ask(
    put: (reply: (reply: Reply) => void) => void,
    timeout = REQUEST_TIMEOUT,
  ): Promise<Reply> {
    if (!this.#hello) throw disconnected(this.#reason());
    const reply = (await this.#within<Reply>(timeout, "answer", put)) ?? {};
    if (reply.ok === false) throw failure(reply);
    return reply;
  }

  #reason(): Reason {
    return (this.state as { reason?: Reason }).reason ?? "transport";
  }

  protected put(event: string, data: unknown, reply?: (reply: Reply) => void): boolean | void {
    this.#debug(`say ${event}`);
    return this.link?.emit(event, data, reply);
  }

  /**
   * Sends an event now, or not at all: false says that there is no connection. Throws `TOO_LARGE`
   * or `INVALID_DATA` for what no server would get.
   */
  emit<K extends keyof Outward & string>(event: K, data: Outward[K]): boolean {
    return !!this.#hello && this.put(event, data) !== false;
  }

  /**
   * Sends an event now and waits for its acknowledgement. Never sends twice, and rejects at
   * once without a connection.
   */
  request<K extends keyof (Outward & ServerRequests) & string>(
    event: K,
    data: (Outward & ServerRequests)[K],
    timeout?: number,
  ): Promise<Reply> {
    return this.ask((reply) => this.put(event, data, reply), timeout);
  }

  // --- sending, surely -------------------------------------------------

  /**
   * Sends an event until it is acknowledged, in the order of the calls, waiting for a
   * connection if there is none. An object gets a `tempId`, the same at each try, by
   * which the server knows a message that it has had: `message:send` and `chat:send`
   * are stored once, however often they were sent.
   *
   * Rejects when the server refuses, when `retries` were in vain (`UNCONFIRMED`), when
   * too much waits (`QUEUE_FULL`), when it cannot be sent at all (`INVALID_DATA`,
   * `TOO_LARGE`), and at `disconnect()` or failure (`DISCONNECTED`). The error has the
   * `tempId`, and says by `sent` whether the message may have been received.
   */
  send<K extends keyof Outward & string>(
    event: K,
    data: Outward[K],
    options: SendOptions = {},
  ): Promise<Reply> {
    const reason = this.#reason();
    // Before the first connect it waits.
    const isOver = OVER.test(this.state.status) && reason !== "not_started";
    return this.#queue.add(event, data, options, isOver ? disconnected(reason) : undefined);
  }

  /** What waits to be sent or acknowledged. Never changed; what is different is a new one. */
  get pending(): Pending {
    return this.#queue.pending.value;
  }

  /** Calls `listener` with what waits now, and each time that it is different. */
  subscribePending(listener: (pending: Pending) => void): () => void {
    return this.#queue.pending.subscribe(listener);
  }
}
