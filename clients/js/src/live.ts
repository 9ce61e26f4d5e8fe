/**
 * The client on the browser's own WebSocket and the live protocol: a few kilobytes, and
 * no other package.
 *
 * @module
 */
import { Client, type Options } from "./client.js";
import { REFUSALS } from "./refusals.js";
import type { Dial, End, Hello, Reply } from "./types.js";

export { Client, type Options, type SendOptions, type Token } from "./client.js";
export * from "./types.js";

/** What a close code means; the others are lost connections. */
const CODES: Record<number, End> = {
  1001: { kind: "retry", reason: "unavailable" },
  1002: { kind: "final", reason: "protocol" },
  1003: { kind: "final", reason: "protocol" },
  1007: { kind: "final", reason: "protocol" },
  1008: { kind: "final", reason: "protocol" },
  1009: { kind: "final", reason: "protocol" },
  4401: { kind: "token", reason: "auth_expired" },
  4403: { kind: "final", reason: "kicked" },
  4408: { kind: "retry", reason: "heartbeat_timeout" },
  4409: { kind: "final", reason: "device_limit" },
  4429: { kind: "retry", reason: "unavailable", afterMs: 10_000 },
};

/** An attempt over a WebSocket. */
export function live(url: string, open: (url: string) => WebSocket = (url) => new WebSocket(url)): Dial {
  return (token, events) => {
    const address = new URL(url.replace(/^http/, "ws"));
    if (token !== undefined) address.searchParams.set("token", token);
    let over = false;
    let number = 0;
    const replies = new Map<string, (reply: Reply) => void>();
    const socket = open(address.href);
    const close = () => {
      over = true;
      replies.clear();
      socket.onmessage = socket.onclose = socket.onerror = null;
      // Also one that is opening; it says so in the console, and nothing else.
      socket.close(1000);
    };
    socket.onclose = ({ code, reason }) => {
      if (over) return;
      close();
      events.end(REFUSALS[reason] ?? CODES[code] ?? { kind: "retry", reason: "transport" });
    };
    socket.onmessage = ({ data }) => {
      events.alive();
      const frame = JSON.parse(data);
      const { type, id } = frame;
      const reply = id !== undefined && replies.get(id);
      if (reply) {
        replies.delete(id);
        if (type === "error") reply({ ok: false, code: frame.code, error: frame.message });
        else reply(type === "ack" ? frame.data : frame);
      } else if (type === "hello") {
        const hello: Hello = frame.data ?? frame;
        events.hello(hello);
        events.event("server:hello", hello);
      } else if (type !== "pong" && type !== "ack") {
        events.event(type, frame.data ?? frame);
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
