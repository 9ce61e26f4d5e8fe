/**
 * The client on the browser's own WebSocket and the live protocol: a few kilobytes, and
 * no other package.
 *
 * @module
 */
import { Client, type Options } from "./client.js";
import { CODES, REFUSALS, refused } from "./refusals.js";
import type { Dial, End, Hello, Reply } from "./types.js";

export { Client, type Options, type SendOptions, type Token } from "./client.js";
export * from "./types.js";

/** The server's own frames about a topic; each other one with a topic was said in it. */
const ABOUT_TOPICS = new Set(["subscribed", "unsubscribed", "gap"]);

/** An attempt over a WebSocket. */
export function live(
  url: string,
  open: (url: string) => WebSocket = (url) => new WebSocket(url),
): Dial {
  return (token, events) => {
    const address = new URL(url.replace(/^http/, "ws"));
    if (token !== undefined) address.searchParams.set("token", token);
    let over = false;
    let isIn = false;
    let number = 0;
    /** What an app that does not let this client in says before it closes. */
    let refusal: End | undefined;
    const replies = new Map<string, (reply: Reply) => void>();
    const socket = open(address.href);
    const close = () => {
      over = true;
      replies.clear();
      socket.onmessage = socket.onclose = null;
      // Also one that is opening; it says so in the console, and nothing else.
      socket.close(1000);
    };
    // A close says the same; but Node's `ws` throws an error that nobody listens to, also one of a
    // connection that was given up while it was opening.
    socket.onerror = () => {};
    socket.onclose = ({ code, reason }) => {
      if (over) return;
      close();
      if (code === 4403 && refusal) return events.end(refusal);
      events.end(REFUSALS[reason] ?? CODES[code] ?? { kind: "retry", reason: "transport" });
    };
    socket.onmessage = ({ data: text }) => {
      events.alive();
      const frame = JSON.parse(text);
      const { type, id, topic } = frame;
      const data = "data" in frame ? frame.data : frame;
      if (topic !== undefined && !ABOUT_TOPICS.has(type)) return events.event(type, data, topic);
      const reply = id !== undefined && replies.get(id);
      if (reply) {
        replies.delete(id);
        if (type === "error") reply({ ok: false, code: frame.code, error: frame.message });
        else reply(type === "ack" ? frame.data : frame);
      } else if (type === "hello") {
        const hello: Hello = data;
        isIn = true;
        events.hello(hello);
        events.event("server:hello", hello);
      } else if (type === "unsubscribed") {
        // Without a reason it confirms what this client asked for.
        if (frame.reason !== undefined)
          events.event("room:left", { room: topic, reason: frame.reason });
      } else if (type === "error" && !isIn) {
        refusal = refused(frame.code, frame.message, frame.data);
      } else if (type === "gap") {
        events.event("room:gap", { room: topic });
      } else if (type !== "pong" && type !== "ack") {
        events.event(type, data, topic);
      }
    };
    const say = (frame: object, reply?: (reply: Reply) => void) => {
      if (socket.readyState !== 1) return;
      const id = reply && String(++number);
      if (id) replies.set(id, reply!);
      socket.send(JSON.stringify(id ? { ...frame, id } : frame));
    };
    return {
      isDeaf: true,
      emit: (event, data, reply) => say({ type: "emit", event, data }, reply),
      join: (room, reply) => say({ type: "subscribe", topic: room }, reply),
      leave: (room) => say({ type: "unsubscribe", topic: room }),
      ping: (reply) => say({ type: "ping" }, () => reply()),
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
