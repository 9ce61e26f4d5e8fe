/**
 * The client on `socket.io-client`: polling where WebSocket does not get through,
 * binary data, and a server that speaks Socket.IO.
 *
 * @module
 */
import { io, type ManagerOptions, type SocketOptions } from "socket.io-client";
import { Client, type Options } from "./client.js";
import { encode, measure, whole } from "./encode.js";
import { CODES, REFUSALS, refused } from "./refusals.js";
import type { Dial, End, Hello, Reason, Reply, Session } from "./types.js";

export { Client, type Options, type SendOptions, type Token } from "./client.js";
export type { HistoryPart, Room, RoomState } from "./room.js";
export * from "./types.js";

export interface SocketIoOptions extends Options {
  /** Passed on to `socket.io-client`: `transports`, `path`, `extraHeaders`, … */
  socketio?: Partial<ManagerOptions & SocketOptions>;
}

const INVALID_NAMESPACE: End = { kind: "final", reason: "invalid_namespace", what: "refused" };

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

/** How long a goodbye may take before the requests on their way are ended, in milliseconds. */
const GOODBYE = 2_000;

type Parser = ManagerOptions["parser"];

/**
 * Throws for an event that is too large, measured as JSON and its binary parts, or that JSON does not
 * carry whole beside these. What a `parser` of the app's carries is its own affair.
 */
function check(event: string, data: unknown, most: number, parser: Parser): void {
  // With the type of the packet and the number of its acknowledgement, without these names.
  let more = 17;
  const text = encode({ event, data }, function (this: any, key, value) {
    const part = this[key];
    // The same as `socket.io-parser` holds for binary.
    const isBytes = part instanceof ArrayBuffer || ArrayBuffer.isView(part);
    if (!isBytes && !(typeof Blob === "function" && part instanceof Blob))
      return parser ? value : whole.call(this, key, value);
    more += (part as any).byteLength ?? (part as any).size;
    return 0;
  });
  measure(text, most, more);
}

/** Node's. */
interface Agent {
  destroy(): void;
}

/** Node's requests are not to be ended one by one; with an agent of their own, all are. */
function agentFor(url: string): Agent | undefined {
  const { process } = globalThis as {
    process?: { getBuiltinModule?(name: string): { Agent: new () => Agent } };
  };
  const module = process?.getBuiltinModule?.(/^(http|ws)s:/.test(url) ? "https" : "http");
  return module && new module.Agent();
}

/** A request of `engine.io-client`'s: what is public of it ends the listening, not the request. */
interface Request {
  _xhr?: { abort(): void } | null;
}
interface Engine {
  readonly readyState: string;
  readonly transport: {
    readonly name: string;
    readonly pollXhr?: Request;
    request?(options?: object): Request;
  };
  close(): void;
  _onClose?(reason: string): void;
}

/**
 * Knows what an engine has asked by HTTP. Returns what ends all of that: the engine itself leaves
 * alone what has been asked and not been answered, and a browser has room for six of it.
 */
function requestsOf(engine: Engine, agent: Agent | undefined): () => void {
  const { transport } = engine;
  let post: Request | undefined;
  const request = transport.request?.bind(transport);
  if (request)
    transport.request = (options) => {
      const asked = request(options);
      if (options) post = asked;
      return asked;
    };
  return () => {
    agent?.destroy();
    if (typeof XMLHttpRequest === "undefined") return;
    for (const asked of [transport.pollXhr, post]) asked?._xhr?.abort();
  };
}

/** Whether an attempt failed by an answer of HTTP: a status, and how long to wait. */
function answered(error: object): Partial<End> & { code?: number } {
  const { description, context } = error as { description?: unknown; context?: any };
  // Of a WebSocket, it is an event.
  if (typeof description !== "number" || description < 400) return {};
  const isLimit = description === 429;
  const isAway = isLimit || description === 503;
  // Asked for by its name, a header that the page may not see makes browsers complain.
  const headers = (isAway && context?.getAllResponseHeaders?.()) || "";
  const seconds = Number(/^retry-after: *(\d+)/im.exec(headers)?.[1]);
  return {
    code: description,
    ...(isAway && { reason: "unavailable", what: isLimit ? "rate_limited" : "unavailable" }),
    ...(seconds && { afterMs: seconds * 1_000 }),
  };
}

/** An attempt over `socket.io-client`, whose own reconnecting is off. */
export function socketIo(url: string, options: Partial<ManagerOptions & SocketOptions> = {}): Dial {
  return (token, events, earlier) => {
    const before = earlier as Earlier | undefined;
    let session = before;
    const agent = options.agent === undefined ? agentFor(url) : undefined;
    const socket = io(url, {
      ...(agent && { agent: agent as never }),
      ...options,
      forceNew: true,
      reconnection: false,
      autoConnect: false,
      auth: credentials(options.auth, before && { ...before }, token)!,
    });
    let over = false;
    let abort = () => {};
    const close = (forGood: boolean) => {
      over = true;
      socket.offAny();
      socket.off();
      socket.io.off();
      const engine = socket.io.engine as unknown as Engine | undefined;
      const wasOpen = engine?.readyState === "open";
      // Then there is nothing left by which it could say goodbye.
      if (!forGood) engine?.close();
      socket.disconnect();
      // An attempt that has not come to anything is no connection yet.
      engine?.close();
      if (!wasOpen) return abort();
      if (engine!.transport.name !== "polling") return;
      // By HTTP, a goodbye takes as long as its answer, or as the end of an upgrade before it.
      const timer: unknown = setTimeout(() => {
        engine!._onClose?.("forced close");
        abort();
      }, GOODBYE);
      (timer as { unref?(): void }).unref?.();
    };
    const end = (how: End) => {
      if (over) return;
      close(false);
      events.end(how);
    };
    /** What the CONNECT of this attempt gave; it is gone on with once the hello has come. */
    let next: Earlier | undefined;
    socket.io.on("packet", ({ type, data }) => {
      if (type === CONNECT && !over) next = data?.pid && { pid: data.pid };
    });
    socket.io.on("open", () => socket.io.engine.on("packet", () => over || events.alive()));
    socket.io.on("error", (error) =>
      end({ kind: "retry", reason: "transport", ...answered(error) }),
    );
    socket.on(
      "connect_error",
      (error: Error & { data?: { code?: string; retryAfterMs?: number } }) => {
        const { message, data } = error;
        const refusal =
          message === "Invalid namespace" ? INVALID_NAMESPACE : REFUSALS[data?.code ?? ""];
        const afterMs = data?.retryAfterMs;
        const said = { code: data?.code, message };
        // What is said to pass is waited for, whatever it is.
        if (afterMs !== undefined) end({ kind: "retry", reason: "unavailable", afterMs, ...said });
        else if (refusal) end({ ...refusal, ...said });
        // A socket that the server has refused is active no more.
        else if (!socket.active) end(refused(data?.code, message, data));
        else end({ kind: "retry", reason: "transport", ...answered(error) });
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
      const ending = CODES[closed?.code ?? 0] ?? {
        kind: "retry",
        reason: isOffline ? "offline" : (ENDS[why] ?? "transport"),
      };
      end({ code: closed?.code, message: closed?.reason, ...ending });
    });
    let isGreeted = false;
    /** Bytes that an event may have. */
    let most = Infinity;
    /** What was missed comes before the hello, and is told after it. */
    const missed: [string, any[]][] = [];
    const heard = (name: string, args: any[]) => {
      // The place of an event is its last argument, if its socket can be resumed.
      const place = next && args.at(-1);
      const isPlaced = typeof place === "string";
      if (isPlaced) next!.offset = place;
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
        most = hello.maxPayload ?? Infinity;
        // What was heard by another socket is no place in a new one.
        session = next = next && { ...(hello.recovered && before), ...next };
        events.hello(hello as Hello);
        heard(name, args);
        for (const [name, args] of missed.splice(0)) if (!over) heard(name, args);
      }
    });
    const emit = (event: string, data: unknown, reply?: (reply: Reply) => void) => {
      check(event, data, most, options.parser);
      if (reply) socket.emit(event, data, reply);
      else socket.emit(event, data);
    };
    socket.connect();
    abort = requestsOf(socket.io.engine as unknown as Engine, agent);
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
