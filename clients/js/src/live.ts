/**
 * The client on the browser's own WebSocket and the live protocol: a few kilobytes, and
 * no other package.
 *
 * @module
 */
import { Client, type Options } from "./client.js";
import { Core } from "./core.js";
import { encode, measure } from "./encode.js";
import { browser } from "./page.js";
import { CODES, REFUSALS, refused } from "./refusals.js";
import { resuming, type Answered } from "./resuming.js";
import { Small } from "./small.js";
import type { Dial, End } from "./types.js";

export { Client, type Options, type SendOptions, type Token } from "./client.js";
export { Core, Core as rooms } from "./core.js";
export { browser as page } from "./page.js";
export { resuming } from "./resuming.js";
export type { HistoryPart, Room, RoomState } from "./room.js";
export { Small } from "./small.js";
export * from "./types.js";

/** As much of a WebSocket as is needed: the browser's, Node's from 22 on, or that of a package. */
export interface Socket {
  readonly readyState: number;
  onopen: ((event: any) => void) | null;
  onmessage: ((event: any) => void) | null;
  onclose: ((event: any) => void) | null;
  onerror: ((event: any) => void) | null;
  send(text: string): void;
  close(code?: number): void;
}

export interface LiveOptions extends Options {
  /** Where there is none, as in Node 20: `WebSocket` of the package `ws`. */
  WebSocket?: new (url: string) => Socket;
}

/** The server's own frames about a topic; each other one with a topic was said in it. */
const ABOUT_TOPICS = /^((un)?subscribed|gap)$/;
/** Answers that nobody waits for any more. */
const ANSWERS = /^(pong|ack|subscribed)$/;

/** Names the answer to the first frame, which has the token. */
const FIRST = "0";
/** Answers that may be waited for: who asks has a bound in time, and none says that it is over. */
const MOST_REPLIES = 1_000;

/** An attempt over a WebSocket, which goes on where an earlier one was lost if `resume` does. */
function dialling(
  url: string,
  open: (url: string) => Socket,
  resume: typeof resuming | undefined,
): Dial {
  return (token, events, earlier) => {
    const { href } = new URL(url, (globalThis as { location?: Location }).location?.href);
    let isIn = false;
    let number = 0;
    /** What is said before the close of who does not let this client in, or not yet. */
    let refusal: End | undefined;
    const replies = new Map<string, Answered>();
    /** Bytes that a message may have. */
    let most = Infinity;
    /** Who has said who they are waits for that answer: they are greeted as nobody first. */
    let first: string | undefined;
    const socket = open(href.replace(/^http/, "ws"));
    const close = (forGood: boolean) => {
      replies.clear();
      socket.onopen = socket.onmessage = socket.onclose = null;
      // Also one that is opening; it says so in the console, and nothing else. 1000 is goodbye.
      socket.close(forGood ? 1000 : undefined);
    };
    // A close says the same; but Node's `ws` throws an error that nobody listens to, also one of a
    // connection that was given up while it was opening.
    socket.onerror = () => {};
    socket.onclose = ({ code, reason }) => {
      close(false);
      const end = REFUSALS[reason] ?? CODES[code] ?? { kind: "retry", reason: "transport" };
      const isTold = refusal && (code === 4403 || refusal.kind === "retry");
      events.end({ code, message: reason, ...(isTold ? refusal! : end) });
    };
    const say = (frame: object, reply?: Answered): boolean => {
      if (socket.readyState !== 1) return false;
      const id = reply && String(++number);
      const text = encode(id ? { ...frame, id } : frame);
      measure(text, most);
      if (id) replies.set(id, reply!);
      if (replies.size > MOST_REPLIES) replies.delete(replies.keys().next().value!);
      socket.send(text);
      return true;
    };
    const going = resume?.(earlier, say);
    socket.onopen = () => {
      const more = going?.first();
      if (!more && token === undefined) return;
      if (say({ type: "auth", id: FIRST, token: token ?? "", ...more })) first = FIRST;
    };
    socket.onmessage = ({ data: text }) => {
      let frame: any;
      try {
        frame = JSON.parse(text);
      } catch {}
      // What is no frame is nothing that the server said.
      if (typeof frame?.type !== "string") return;
      events.alive();
      const { type, id, topic, data = frame } = frame;
      if (type === "hello" && id !== first) return;
      const afterMs = frame.retryAfterMs ?? frame.data?.retryAfterMs;
      const isSaid = topic !== undefined && !ABOUT_TOPICS.test(type);
      const answered = !isSaid && id;
      let reply = replies.get(answered);
      replies.delete(answered);
      if (going) reply = going.hears(frame, isSaid, reply);
      if (reply) {
        if (type === "error")
          reply({ ...frame, ok: false, error: frame.message, retryAfterMs: afterMs });
        else reply(type === "ack" ? frame.data : frame);
      } else if (isSaid) {
        events.event(type, data, topic, frame.offset);
      } else if (type === "hello") {
        isIn = true;
        most = data.maxPayload ?? Infinity;
        events.hello(data);
        events.event("server:hello", data);
      } else if (type === "unsubscribed") {
        // Without a reason it confirms what this client asked for.
        if (frame.reason !== undefined)
          events.event("room:left", { room: topic, reason: frame.reason });
      } else if (type === "error" && !isIn) {
        // What is said to pass is waited for, whatever it is.
        refusal =
          afterMs === undefined
            ? refused(frame.code, frame.message, frame.data)
            : { kind: "retry", reason: "unavailable", afterMs };
      } else if (type === "gap") {
        events.event("room:gap", { room: topic });
      } else if (!ANSWERS.test(type)) {
        events.event(type, data, topic);
      }
    };
    return {
      isDeaf: true,
      isByRoom: true,
      emit: (event, data, reply) => say({ type: "emit", event, data }, reply),
      join(room, reply) {
        if (!going?.join(room, reply)) say({ type: "subscribe", topic: room }, reply);
      },
      leave(room, reply) {
        going?.leave(room);
        say({ type: "unsubscribe", topic: room }, reply);
      },
      ping: (reply) => say({ type: "ping" }, reply),
      session: going?.session,
      close,
    };
  };
}

/** Opens a WebSocket: the runtime's, unless there is an own one. */
const opening =
  (Own?: new (url: string) => Socket) =>
  (url: string): Socket =>
    new (Own ?? WebSocket)(url);

/** An attempt over a WebSocket. */
export function live(url: string, open: (url: string) => Socket = opening()): Dial {
  return dialling(url, open, resuming);
}

/**
 * A client of the gateway's live endpoint, `wss://realtime.example.com/live`.
 *
 * ```ts
 * const heartline = createClient("wss://realtime.example.com/live", { token: fetchToken });
 * ```
 */
export function createClient<
  Incoming extends object = Record<string, any>,
  Outgoing extends object = Record<string, unknown>,
>(url: string, { WebSocket: Own, ...options }: LiveOptions = {}): Client<Incoming, Outgoing> {
  return new Client(dialling(url, opening(Own), resuming), options);
}

/** What a small client takes of this module; it does without what is not named. */
export interface SmallOptions extends LiveOptions {
  /** Hears what becomes of the network and the page. */
  page?: typeof browser | undefined;
  /** Goes on where a connection was lost. */
  resuming?: typeof resuming | undefined;
  /** Joins rooms, and joins them again. */
  rooms?: typeof Core | undefined;
}

/**
 * The client with its queue, and of the rest what it is given:
 *
 * ```ts
 * import { createSmallClient, page, resuming, rooms } from "@heartline/client/live";
 *
 * const heartline = createSmallClient("/live", { token: fetchToken, page, resuming, rooms });
 * ```
 *
 * Without `rooms` it has no `join`. Without `resuming` each connection begins afresh. Without
 * `page` it notices by the silence alone that the network or the machine was away. With all of
 * them it is what `createClient` makes, without rooms as objects and without what fills in the
 * messages that were missed.
 */
export function createSmallClient<
  Incoming extends object = Record<string, any>,
  Outgoing extends object = Record<string, unknown>,
>(url: string, options: SmallOptions & { rooms: typeof Core }): Core<Incoming, Outgoing>;
export function createSmallClient<
  Incoming extends object = Record<string, any>,
  Outgoing extends object = Record<string, unknown>,
>(url: string, options?: SmallOptions): Small<Incoming, Outgoing>;
export function createSmallClient(
  url: string,
  { WebSocket: Own, page, resuming, rooms: Kind = Small as never, ...options }: SmallOptions = {},
): Small {
  return new Kind(dialling(url, opening(Own), resuming), { platform: page!, ...options });
}
