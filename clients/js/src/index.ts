/**
 * The client on `socket.io-client`: polling where WebSocket does not get through,
 * binary data, and a server that speaks Socket.IO.
 *
 * @module
 */
import { io, type ManagerOptions, type SocketOptions } from "socket.io-client";
import { Client, type Options } from "./client.js";
import { CODES, REFUSALS, refused } from "./refusals.js";
import type { Dial, End, Hello, Reason, Reply, Session } from "./types.js";

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

/** What the protocol resumes by: the socket, and the last event that came. */
interface Earlier extends Session {
  readonly pid: string;
  offset?: string;
}

/** The first packet of the protocol, and its answer. */
const CONNECT = 0;

type Data = Record<string, unknown>;

/** What a CONNECT brings, with what the app brings of its own. */
function credentials(
  own: SocketOptions["auth"],
  earlier: Data | undefined,
  token: string | undefined,
): SocketOptions["auth"] {
  const all = (data: object): Data => ({
    ...earlier,
    ...data,
    ...(token !== undefined && { token }),
  });
  return typeof own === "function" ? (done) => own((data) => done(all(data))) : all(own ?? {});
}

/** An attempt over `socket.io-client`, whose own reconnecting is off. */
export function socketIo(url: string, options: Partial<ManagerOptions & SocketOptions> = {}): Dial {
  return (token, events, earlier) => {
    const before = earlier as Earlier | undefined;
    let session = before;
    const socket = io(url, {
      ...options,
      forceNew: true,
      reconnection: false,
      autoConnect: false,
      auth: credentials(options.auth, before && { ...before }, token)!,
    });
    let over = false;
    const close = (forGood: boolean) => {
      over = true;
      socket.offAny();
      socket.off();
      socket.io.off();
      // Then there is nothing left by which it could say goodbye.
      if (!forGood) socket.io.engine?.close();
      socket.disconnect();
      // An attempt that has not come to anything is no connection yet.
      socket.io.engine?.close();
    };
    const end = (how: End) => {
      if (over) return;
      close(false);
      events.end(how);
    };
    socket.io.on("packet", ({ type, data }) => {
      if (type !== CONNECT || over) return;
      const pid = data?.pid;
      // What was heard by another connection is no place in a new one.
      if (pid !== before?.pid) session = pid === undefined ? undefined : { pid };
    });
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
    /** What was missed comes before the hello, and is told after it. */
    const missed: [string, any[]][] = [];
    const heard = (name: string, args: any[]) => {
      // The place of an event is its last argument, if its socket can be resumed.
      const place = session && args.at(-1);
      const isPlaced = typeof place === "string";
      if (isPlaced) session!.offset = place;
      events.event(name, isPlaced && args.length === 1 ? undefined : args[0]);
    };
    socket.onAny((name: string, ...args: any[]) => {
      if (name !== "server:hello") {
        if (before && !isGreeted) missed.push([name, args]);
        else heard(name, args);
        return;
      }
      const [hello] = args;
      // Anybody in a room can say it; only the server does so with the id that its CONNECT gave.
      if (!isGreeted && hello?.socketId === socket.id) {
        isGreeted = true;
        events.hello(hello as Hello);
        heard(name, args);
        for (const [name, args] of missed.splice(0)) if (!over) heard(name, args);
      }
    });
    const emit = (event: string, data: unknown, reply?: (reply: Reply) => void) => {
      if (reply) socket.emit(event, data, reply);
      else socket.emit(event, data);
    };
    socket.connect();
    return {
      emit,
      join: (room, reply) => emit("join", { room }, reply),
      leave: (room, reply) => emit("leave", { room }, reply),
      ping: (reply) => emit("ping", {}, reply),
      session: () => session,
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
