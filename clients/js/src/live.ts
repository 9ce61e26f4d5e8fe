/**
 * The client on the browser's own WebSocket and the live protocol: a few kilobytes, and
 * no other package.
 *
 * @module
 */
import { Client, type Options } from "./client.js";
import { CODES, REFUSALS, refused } from "./refusals.js";
import type { Dial, End, Hello, Reply, Session } from "./types.js";

export { Client, type Options, type SendOptions, type Token } from "./client.js";
export * from "./types.js";

/** The server's own frames about a topic; each other one with a topic was said in it. */
const ABOUT_TOPICS = new Set(["subscribed", "unsubscribed", "gap"]);

/** Names the answer to the frame by which a connection goes on with an earlier one. */
const RESUME = "0";

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
  open: (url: string) => WebSocket = (url) => new WebSocket(url),
): Dial {
  return (token, events, earlier) => {
    const before = earlier as Earlier | undefined;
    const address = new URL(url.replace(/^http/, "ws"));
    // Who goes on says so with its first frame, and the server is not to begin before that.
    if (token !== undefined && !before) address.searchParams.set("token", token);
    let over = false;
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
    const socket = open(address.href);
    const close = (forGood: boolean) => {
      over = true;
      replies.clear();
      socket.onopen = socket.onmessage = socket.onclose = null;
      // Also one that is opening; it says so in the console, and nothing else. 1000 is goodbye.
      socket.close(forGood ? 1000 : undefined);
    };
    // A close says the same; but Node's `ws` throws an error that nobody listens to, also one of a
    // connection that was given up while it was opening.
    socket.onerror = () => {};
    socket.onclose = ({ code, reason }) => {
      if (over) return;
      close(false);
      if (refusal && (code === 4403 || refusal.kind === "retry")) return events.end(refusal);
      events.end(REFUSALS[reason] ?? CODES[code] ?? { kind: "retry", reason: "transport" });
    };
    const say = (frame: object, reply?: (reply: Reply) => void) => {
      if (socket.readyState !== 1) return;
      const id = reply && String(++number);
      if (id) replies.set(id, reply!);
      socket.send(JSON.stringify(id ? { ...frame, id } : frame));
    };
    if (before)
      socket.onopen = () => {
        const { resume, place } = before;
        const at = Object.fromEntries(topics);
        say({ type: "auth", id: RESUME, token: token ?? "", resume, place, topics: at });
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
      events.event(type, data, topic);
    };
    socket.onmessage = ({ data: text }) => {
      events.alive();
      const frame = JSON.parse(text);
      const { type, id, topic } = frame;
      const data = "data" in frame ? frame.data : frame;
      if (session && frame.place !== undefined) session.place = frame.place;
      if (topic !== undefined && !ABOUT_TOPICS.has(type)) return said(topic, frame, data);
      let reply = id !== undefined && replies.get(id);
      replies.delete(id);
      if (type === "subscribed") {
        stands(topic, frame);
        reply ||= asked.get(topic);
        asked.delete(topic);
        named.delete(topic);
      }
      if (reply) {
        if (type === "error") reply({ ok: false, code: frame.code, error: frame.message });
        else reply(type === "ack" ? frame.data : frame);
      } else if (type === "hello") {
        // Who may come without a token is greeted as nobody first.
        if (before && id !== RESUME) return;
        isIn = true;
        const { resume, recovered } = data as Hello;
        const place = recovered ? before?.place : undefined;
        session = resume === undefined ? undefined : { resume, place, rooms: topics };
        events.hello(data);
        events.event("server:hello", data);
      } else if (type === "unsubscribed") {
        // Without a reason it confirms what this client asked for.
        if (frame.reason === undefined) return;
        topics.delete(topic);
        events.event("room:left", { room: topic, reason: frame.reason });
      } else if (type === "error" && !isIn) {
        // What is said to pass is waited for, whatever it is.
        const afterMs = frame.data?.retryAfterMs;
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
      } else if (type !== "pong" && type !== "ack" && type !== "subscribed") {
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
>(url: string, options: Options = {}): Client<Incoming, Outgoing> {
  return new Client(live(url), options);
}
