/**
 * The client on the browser's own WebSocket and the live protocol: a few kilobytes, and
 * no other package.
 *
 * @module
 */
import { Client, type Options } from "./client.js";
import { Core } from "./core.js";
import { encode, measure } from "./encode.js";
import { CODES, REFUSALS, refused } from "./refusals.js";
import type { Dial, End, Hello, Reply, Session } from "./types.js";

export { Client, type Options, type SendOptions, type Token } from "./client.js";
export { Core } from "./core.js";
export type { HistoryPart, Room, RoomState } from "./room.js";
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

/** The last event of a topic that came. */
interface Position {
  readonly epoch: string;
  offset: number;
}

interface Earlier extends Session {
  readonly resume: string;
  /** Of what is said in no topic. */
  place?: string | undefined;
  readonly rooms: Map<string, Position>;
}

/** An attempt over a WebSocket. */
export function live(
  url: string,
  open: (url: string) => Socket = (url) => new WebSocket(url),
): Dial {
  return (token, events, earlier) => {
    const before = earlier as Earlier | undefined;
    const { href } = new URL(url, (globalThis as { location?: Location }).location?.href);
    let isIn = false;
    let number = 0;
    let session = before;
    const topics: Earlier["rooms"] = before?.rooms ?? new Map();
    /** Topics that the first frame has named, as long as nobody has asked how they fare. */
    const named = new Set(before && topics.keys());
    /** Who waits for what is answered of them. */
    const asked = new Map<string, (reply: Reply) => void>();
    /** What is said before the close of who does not let this client in, or not yet. */
    let refusal: End | undefined;
    const replies = new Map<string, (reply: Reply) => void>();
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
    const say = (frame: object, reply?: (reply: Reply) => void): boolean => {
      if (socket.readyState !== 1) return false;
      const id = reply && String(++number);
      const text = encode(id ? { ...frame, id } : frame);
      measure(text, most);
      if (id) replies.set(id, reply!);
      if (replies.size > MOST_REPLIES) replies.delete(replies.keys().next().value!);
      socket.send(text);
      return true;
    };
    socket.onopen = () => {
      if (!before && token === undefined) return;
      const more = before && {
        resume: before.resume,
        place: before.place,
        topics: Object.fromEntries(topics),
      };
      if (say({ type: "auth", id: FIRST, token: token ?? "", ...more })) first = FIRST;
    };
    const stands = (topic: string, { epoch, offset }: Position) => {
      const at = topics.get(topic);
      // Offsets of an epoch only grow: what is told again has come.
      const seen = at?.epoch === epoch ? at.offset : 0;
      topics.set(topic, { epoch, offset: Math.max(seen, offset) });
    };
    /** An event that was said in a topic, unless it was heard before. */
    const said = (
      topic: string,
      { type, offset }: { type: string; offset?: number },
      data: any,
    ) => {
      const at = topics.get(topic);
      if (at && offset !== undefined) {
        if (offset <= at.offset) return;
        at.offset = offset;
      }
      events.event(type, data, topic, offset);
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
      const afterMs = frame.retryAfterMs ?? frame.data?.retryAfterMs;
      if (session && frame.place !== undefined) session.place = frame.place;
      if (topic !== undefined && !ABOUT_TOPICS.test(type)) return said(topic, frame, data);
      let reply = id !== undefined && replies.get(id);
      replies.delete(id);
      if (type === "subscribed") {
        stands(topic, frame);
        reply ||= asked.get(topic);
        asked.delete(topic);
        named.delete(topic);
      }
      if (reply) {
        if (type === "error")
          reply({ ...frame, ok: false, error: frame.message, retryAfterMs: afterMs });
        else reply(type === "ack" ? frame.data : frame);
      } else if (type === "hello") {
        if (id !== first) return;
        isIn = true;
        most = data.maxPayload ?? Infinity;
        const { resume, recovered } = data as Hello;
        const place = recovered ? before?.place : undefined;
        session = resume ? { resume, place, rooms: topics } : undefined;
        events.hello(data);
        events.event("server:hello", data);
      } else if (type === "unsubscribed") {
        // Without a reason it confirms what this client asked for.
        if (frame.reason === undefined) return;
        topics.delete(topic);
        events.event("room:left", { room: topic, reason: frame.reason });
      } else if (type === "error" && !isIn) {
        // What is said to pass is waited for, whatever it is.
        refusal =
          afterMs === undefined
            ? refused(frame.code, frame.message, frame.data)
            : { kind: "retry", reason: "unavailable", afterMs };
      } else if (type === "error" && asked.size > 0) {
        // It does not say which of the named topics it is about: each is asked for by itself.
        for (const [topic, reply] of asked)
          say({ type: "subscribe", topic, recover: topics.get(topic) }, reply);
        asked.clear();
      } else if (type === "gap") {
        stands(topic, frame);
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
        if (named.delete(room)) asked.set(room, reply);
        else say({ type: "subscribe", topic: room }, reply);
      },
      leave(room, reply) {
        topics.delete(room);
        say({ type: "unsubscribe", topic: room }, reply);
      },
      ping: (reply) => say({ type: "ping" }, () => reply()),
      session: () => session,
      close,
    };
  };
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
  return new Client(live(url, Own && ((url) => new Own(url))), options);
}

/**
 * The same without what fills in the messages that were missed: `room:missed` tells of those, of
 * conversations too. A sixth lighter.
 */
export function createSmallClient<
  Incoming extends object = Record<string, any>,
  Outgoing extends object = Record<string, unknown>,
>(url: string, { WebSocket: Own, ...options }: LiveOptions = {}): Core<Incoming, Outgoing> {
  return new Core(live(url, Own && ((url) => new Own(url))), options);
}
