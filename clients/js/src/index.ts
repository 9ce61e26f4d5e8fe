/**
 * The client on `socket.io-client`: polling where WebSocket does not get through,
 * binary data, and a server that speaks Socket.IO.
 *
 * @module
 */
import { io, type ManagerOptions, type SocketOptions } from "socket.io-client";
import { Client, type Options } from "./client.js";
import { CODES, REFUSALS, refused } from "./refusals.js";
import type { Dial, End, Hello, Reason, Reply } from "./types.js";

export { Client, type Options, type SendOptions, type Token } from "./client.js";
export * from "./types.js";

export interface SocketIoOptions extends Options {
  /** Passed on to `socket.io-client`: `transports`, `path`, `extraHeaders`, … */
  socketio?: Partial<ManagerOptions & SocketOptions>;
}

const INVALID_NAMESPACE: End = { kind: "final", reason: "invalid_namespace" };

const ENDS: Record<string, Reason> = {
  "ping timeout": "heartbeat_timeout",
  "transport close": "transport",
  "transport error": "transport",
};

/** An attempt over `socket.io-client`, whose own reconnecting is off. */
export function socketIo(url: string, options: Partial<ManagerOptions & SocketOptions> = {}): Dial {
  return (token, events) => {
    const socket = io(url, {
      ...options,
      forceNew: true,
      reconnection: false,
      ...(token !== undefined && { auth: { ...(options.auth as object), token } }),
    });
    let over = false;
    const close = () => {
      over = true;
      socket.offAny();
      socket.off();
      socket.io.off();
      socket.disconnect();
      // An attempt that has not come to anything is no connection yet.
      socket.io.engine?.close();
    };
    const end = (how: End) => {
      if (over) return;
      close();
      events.end(how);
    };
    socket.io.on("open", () => socket.io.engine.on("packet", () => over || events.alive()));
    socket.io.on("error", () => end({ kind: "retry", reason: "transport" }));
    socket.on(
      "connect_error",
      (error: Error & { data?: { code?: string; retryAfterMs?: number } }) => {
        const { message, data } = error;
        const refusal =
          message === "Invalid namespace" ? INVALID_NAMESPACE : REFUSALS[data?.code ?? ""];
        const afterMs = data?.retryAfterMs;
        // What is said to pass is waited for, whatever it is.
        if (afterMs !== undefined) end({ kind: "retry", reason: "unavailable", afterMs });
        else if (refusal) end(refusal);
        // A socket that the server has refused is active no more.
        else if (!socket.active) end(refused(data?.code, message, data));
        else end({ kind: "retry", reason: "transport" });
      },
    );
    socket.on("disconnect", (why, details) => {
      if (why === "io server disconnect") return end({ kind: "final", reason: "kicked" });
      // It listens to the browser as well, and may have heard of it first.
      const isOffline =
        details && "description" in details && details.description === "network connection lost";
      // A WebSocket's close code says more than any event: nobody but the server can send one.
      const closed =
        why === "transport close" && details && "context" in details
          ? (details.context as CloseEvent)
          : undefined;
      end(
        CODES[closed?.code ?? 0] ?? {
          kind: "retry",
          reason: isOffline ? "offline" : (ENDS[why] ?? "transport"),
        },
      );
    });
    let isGreeted = false;
    socket.onAny((name: string, data: any) => {
      if (name === "server:hello") {
        // Anybody in a room can say it; only the server does so with the id that its CONNECT gave.
        if (isGreeted || data?.socketId !== socket.id) return;
        isGreeted = true;
        events.hello(data as Hello);
      }
      events.event(name, data);
    });
    const emit = (event: string, data: unknown, reply?: (reply: Reply) => void) => {
      if (reply) socket.emit(event, data, reply);
      else socket.emit(event, data);
    };
    return {
      emit,
      join: (room, reply) => emit("join", { room }, reply),
      leave: (room) => emit("leave", { room }),
      ping: (reply) => emit("ping", {}, reply),
      close,
    };
  };
}

/**
 * A client of the gateway at `url`, over Socket.IO.
 *
 * ```ts
 * const heartline = createClient("https://realtime.example.com", { token: fetchToken });
 * heartline.subscribe((state) => console.log(state.status));
 * heartline.join("lobby");
 * heartline.on("message:new", (message) => console.log(message));
 * await heartline.send("chat:send", { room: "lobby", content: "hello" });
 * ```
 */
export function createClient<
  Incoming extends object = Record<string, any>,
  Outgoing extends object = Record<string, unknown>,
>(url: string, { socketio, ...options }: SocketIoOptions = {}): Client<Incoming, Outgoing> {
  return new Client(socketIo(url, socketio), options);
}
