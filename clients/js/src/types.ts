/** Why there is no connection. */
export type Reason =
  /** `connect()` has not been called. */
  | "not_started"
  /** `disconnect()` was called. */
  | "client"
  /** A newer connection took this one's place. */
  | "replaced"
  /** Too many devices. */
  | "device_limit"
  /** The server or an operator ended it. */
  | "kicked"
  /** The app did not let this client in: `error` has the app's code and data. */
  | "refused"
  /** The server wants a token and there is none. */
  | "auth_required"
  /** The server does not accept the token. */
  | "auth_invalid"
  /** The token has expired, and there is no newer one. */
  | "auth_expired"
  /** The namespace does not exist. */
  | "invalid_namespace"
  /** The server did not accept what this client said. */
  | "protocol"
  /** `attempts` were made. */
  | "attempts_exhausted"
  /** Nothing was heard for longer than the server promises. */
  | "heartbeat_timeout"
  /** An attempt to connect took too long. */
  | "connect_timeout"
  /** The transport ended or could not be opened. */
  | "transport"
  /** The browser has no network. */
  | "offline"
  /** The token function failed. */
  | "token_unavailable"
  /** The token function says that there is no token any more: it threw `SignedOut`. */
  | "signed_out"
  /** The server is going away, or asks for a pause. */
  | "unavailable";

/** Why there is no connection, as far as a browser can know it. */
export interface Cause {
  readonly what:
    /** The browser has no network. */
    | "offline"
    /**
     * No connection came about: nobody listens, the name or the certificate is wrong, or something
     * on the way does not let it through. Browsers do not say which.
     */
    | "unreachable"
    /** A connection ended without a word. */
    | "lost"
    /** Nothing came for too long. */
    | "timeout"
    /** There is no token, or the server does not take it. */
    | "token"
    /** The server or the app does not let this client in. */
    | "refused"
    /** The server goes away, and has said when to come back. */
    | "drained"
    /** Too much was asked in too short a time. */
    | "rate_limited"
    /** The server cannot serve anybody now. */
    | "unavailable"
    | "replaced"
    | "device_limit"
    | "kicked"
    /** The server did not accept what this client said. */
    | "protocol";
  /** A WebSocket's close code, a status of HTTP, or the server's code. */
  readonly code?: number | string;
  /** The words of the server, or of the error that the token function threw. */
  readonly message?: string;
}

/** What is true of the connection now. Objects are never changed; a new state is a new one. */
export type State =
  /** The first attempt is on its way. */
  | { readonly status: "connecting" }
  | {
      readonly status: "connected";
      readonly socketId: string;
      readonly userId?: string;
      /**
       * It goes on where the last connection was lost: the same `socketId`, and what was missed
       * comes now. What does not, `room:missed` tells of.
       */
      readonly recovered: boolean;
    }
  | {
      readonly status: "reconnecting";
      /** From 1 on. */
      readonly attempt: number;
      /** Unix milliseconds; in the past while the attempt is on its way. */
      readonly nextRetryAt: number;
      readonly reason: Reason;
      readonly cause: Cause;
    }
  /** Given up: nothing happens until `connect()`. */
  | {
      readonly status: "failed";
      readonly reason: Reason;
      readonly cause: Cause;
      /** What the server said of it, if it said more than the reason. */
      readonly error?: HeartlineError;
    }
  /** Not wanted: nothing happens until `connect()`. */
  | { readonly status: "disconnected"; readonly reason: Reason };

/** What the server says first. Times in milliseconds. */
export interface Hello {
  readonly socketId: string;
  readonly pingInterval: number;
  readonly pingTimeout: number;
  readonly authenticated: boolean;
  readonly recovered: boolean;
  readonly serverTime: number;
  readonly nodeId?: string;
  readonly userId?: string;
  readonly userType?: string;
  readonly deviceId?: string;
  /** The bytes that a message to the server may have. */
  readonly maxPayload?: number;
  /** What the live protocol resumes by. */
  readonly resume?: string;
}

/** A message of a conversation, or of an open room. */
export interface Message {
  readonly id: string;
  /** Its place in the conversation: 1, 2, 3, … without a gap. */
  readonly offset: number;
  readonly conversationId: string;
  readonly senderId: string;
  readonly senderType?: string;
  readonly content: string;
  /** Its sender's own name for it, as it was given. */
  readonly tempId?: string | number;
  /** Unix milliseconds. */
  readonly createdAt: number;
}

/** The newest event of a key. */
export interface Keyed<T = any> {
  readonly key: string;
  readonly event: string;
  readonly data: T;
  readonly offset: number;
}

/** Presence of a user. */
export interface Presence {
  readonly userId: string;
  readonly online: boolean;
  readonly devices: number;
  /** Unix milliseconds. */
  readonly lastSeenAt?: number;
  /** The number of the user's last change: of two answers, the one with the greater is newer. */
  readonly rev: number;
  /** The cluster could not be asked, or is not to be believed now. */
  readonly stale?: boolean;
}

/** A user who is watched. */
export interface WatchedUser {
  readonly userId: string;
  readonly online: boolean;
  /** Unix milliseconds; of one who is not online. */
  readonly lastSeenAt?: number;
  /** The number of the user's last change. */
  readonly rev: number;
  /** `false`: not in the room any more. */
  readonly in?: boolean;
}

/** A change of what is watched: the next number of its epoch, or there is a hole. */
export interface PresenceDelta {
  readonly epoch: string;
  readonly rev: number;
  readonly room?: string;
  /** Those of whom something is different. */
  readonly users: readonly WatchedUser[];
  /** Unix milliseconds by the server's clock. */
  readonly asOf?: number;
  /** What the server knows of users elsewhere is not to be believed now. */
  readonly stale?: boolean;
  /** Nothing follows, and why. It has the number of the last change. */
  readonly ended?: string;
}

/** A change of presence. */
export interface PresenceChange {
  readonly userId: string;
  readonly userType?: string | null;
  /** Unix milliseconds. */
  readonly at: number;
  /** Greater than that of the user's change before. */
  readonly rev: number;
}

/** A member of a conversation. */
export interface Member {
  readonly conversationId: string;
  readonly userId: string;
  readonly userType?: string;
}

/** What a user's clients keep from one connection to the next. */
export interface Kept<T extends object = Record<string, unknown>> {
  readonly metadata: T;
  readonly rooms: readonly string[];
  readonly version: number;
  /** Unix milliseconds. */
  readonly lastSeenAt: number;
}

/** Events that every server sends. */
export interface ServerEvents {
  "server:hello": Hello;
  "server:drain": { readonly reconnectInMs: number };
  "connection:success": {
    readonly userId: string;
    readonly userType: string | null;
    readonly socketId: string;
    readonly serverTime: number;
  };
  "connection:replaced": {
    readonly message: string;
    readonly by: { readonly deviceId: string | null; readonly nodeId: string };
  };
  /** An operator or the app ends this connection; its end follows. */
  "connection:closed": { readonly reason: string };
  "auth:error": { readonly code: string; readonly message: string };
  heartbeat: { readonly timestamp: number };
  /** The answer to `ping`. */
  pong: { readonly timestamp: number };
  "presence:change": PresenceDelta;
  "user:online": PresenceChange;
  "user:offline": PresenceChange;
  "room:joined": { readonly room: string };
  /** With a reason if the server has taken the room away; `room:lost` confirms it. */
  "room:left": { readonly room: string; readonly reason?: string };
  /** Events of the room were lost on their way. */
  "room:gap": { readonly room: string };
  "message:notification": { readonly conversationId: string; readonly message: Message };
  /** This connection's own message is stored. */
  "message:sent": {
    readonly tempId: string | number | null;
    readonly message: Message;
  };
  /** This connection's own event was refused. */
  "message:error": {
    readonly error: string;
    readonly code: ServerCode | (string & {});
    readonly retryAfterMs?: number;
    readonly tempId?: string | number;
  };
  "metrics:response": { readonly [name: string]: unknown };
  /** What a conversation's member has read. */
  "message:read": Member & { readonly offset: number };
  "member:joined": Member;
  "member:left": Member;
  /** What is kept of the user, told after the hello. */
  "session:resume": Kept;
  /**
   * This client's own: there is a connection again. `recovered`: it is the one that was lost;
   * else all is fresh, and `room:missed` follows for each room.
   */
  "session:back": { readonly recovered: boolean };
  /**
   * This client's own: events of a room were missed. `filled`: it is a conversation, and all of
   * its messages have been told since; else load afresh what is shown of it.
   */
  "room:missed": { readonly room: string; readonly filled: boolean };
  /** This client's own: over the live protocol, the newest of each key of a room just joined. */
  "room:snapshot": { readonly room: string; readonly snapshot: readonly Keyed[] };
  /** This client's own: a room was joined, or joined again. */
  "room:in": { readonly room: string };
  /** This client's own: a room that was joined was taken away, or could not be joined again. */
  "room:lost": { readonly room: string; readonly code: string };
  /** This client's own: `leave` was called, and nobody else wants to be in the room. */
  "room:out": { readonly room: string };
}

/** Where an event was said, as far as the transport knows that for certain. */
export interface Place {
  /** Over Socket.IO only of what the gateway itself says in a room. */
  readonly room?: string;
  /** Over the live protocol: its place among the events of the room that are kept. */
  readonly offset?: number;
}

/** What a gateway answers by itself, and what it wants to know. */
export interface ServerRequests {
  join: { readonly room: string; readonly members?: boolean };
  leave: { readonly room: string };
  publish: {
    readonly room: string;
    readonly event: string;
    readonly data?: unknown;
    readonly key?: string;
    readonly self?: boolean;
  };
  "message:send": {
    readonly conversationId: string;
    readonly content: string;
    readonly tempId?: string | number;
  };
  "chat:send": {
    readonly content: string;
    readonly room?: string;
    readonly tempId?: string | number;
  };
  "history:get": {
    readonly conversationId: string;
    readonly after?: number;
    readonly before?: number;
    readonly limit?: number;
  };
  "session:checkpoint": object;
  read: { readonly conversationId: string; readonly offset: number };
  "inbox:get": { readonly limit?: number; readonly cursor?: string };
  "invite:join": { readonly code: string };
  "presence:get": { readonly users: readonly string[] };
  "presence:watch": object;
  "presence:unwatch": object;
  ping: unknown;
  "heartbeat:response": { readonly timestamp: number };
  "auth:refresh": { readonly token: string };
  "metrics:request": unknown;
}

/** What waits to be sent, or to be acknowledged. */
export interface Pending {
  readonly count: number;
  /** What they have as JSON, bytes. */
  readonly bytes: number;
  /** When the first of them was given, Unix milliseconds. */
  readonly oldest?: number;
}

/** An acknowledgement, or what the server said instead. */
export interface Reply {
  readonly ok?: boolean;
  readonly error?: string;
  readonly code?: string;
  readonly retryAfterMs?: number;
  readonly [more: string]: unknown;
}

/** What the server refuses with; a test holds this to docs/clients.md. */
export type ServerCode =
  | "AUTH_REQUIRED"
  | "AUTH_TOKEN_INVALID"
  | "AUTH_TOKEN_EXPIRED"
  | "AUTH_UNAVAILABLE"
  | "DEVICE_LIMIT"
  | "DRAINING"
  | "Invalid namespace"
  | "FORBIDDEN"
  | "INVALID_ROOM"
  | "ROOM_LIMIT"
  | "RATE_LIMITED"
  | "INVALID_CONTENT"
  | "INVALID_DATA"
  | "INVALID_EVENT"
  | "PAYLOAD_TOO_LARGE"
  | "SEND_FAILED"
  | "OVERLOADED"
  | "SAVE_FAILED"
  | "TOO_LARGE"
  | "CONFLICT"
  | "INVALID_INVITE"
  | "INVITE_NOT_FOUND"
  | "INVITE_EXPIRED"
  | "INVITE_EXHAUSTED"
  | "INVITE_REVOKED"
  | "NOT_IMPLEMENTED"
  | "INTERNAL"
  | "protocol-violation"
  | "not-implemented";

/** What this client itself says. */
export type ClientCode =
  | "TIMEOUT"
  | "UNCONFIRMED"
  | "DISCONNECTED"
  | "QUEUE_FULL"
  | "LEFT"
  | "FAILED"
  | "REFUSED"
  | "TOO_LARGE"
  | "INVALID_DATA"
  | "UNSUPPORTED"
  | "NO_TOKEN"
  | "SIGNED_OUT";

/** A request or a connection that failed. `code` is the server's, this client's or the app's. */
export class HeartlineError extends Error {
  override readonly name = "HeartlineError";
  constructor(
    readonly code: ServerCode | ClientCode | (string & {}),
    message: string,
    readonly retryAfterMs?: number,
    /** What came with it: an app's own data, or all that the server answered. */
    readonly data?: unknown,
  ) {
    super(message);
  }
  /** Of a message that was given to `send`: the name by which it is stored once. */
  declare readonly tempId?: string | number;
  /**
   * Of such a message: `no`, it has never left; `unknown`, it has, and nobody has said what became
   * of it; `refused`, the server has said that it does not take it.
   */
  declare readonly sent?: "no" | "unknown" | "refused";
}

/** What a token function throws when nobody is signed in any more: it is not asked again. */
export class SignedOut extends HeartlineError {
  constructor(message = "nobody is signed in") {
    super("SIGNED_OUT", message);
  }
}

/** Time, chance and the surroundings; tests bring their own. */
export interface Platform {
  /** Milliseconds that only grow. */
  now(): number;
  /** Unix milliseconds. */
  unix(): number;
  /** From 0 up to, but without, 1. */
  random(): number;
  setTimeout(callback: () => void, ms: number): unknown;
  clearTimeout(timer: unknown): void;
  /** Says when the network or the tab comes back or goes, until what it returns is called. */
  watch?(changed: (to: "online" | "offline" | "awake") => void): () => void;
}

/** How a connection ended. */
export interface End {
  /** `retry`: try again; `token`: with a new token; `final`: do not come back. */
  readonly kind: "retry" | "token" | "final";
  readonly reason: Reason;
  /** Not earlier than after so many milliseconds. */
  readonly afterMs?: number;
  /** What the server said of it. */
  readonly error?: HeartlineError;
  /** What it was, if the reason does not say that. */
  readonly what?: Cause["what"];
  readonly code?: number | string | undefined;
  readonly message?: string | undefined;
}

/** What a transport tells. Nothing after `end`, which comes once. */
export interface LinkEvents {
  hello(hello: Hello): void;
  /** With the `room` that it was said in, where the transport knows: it is not the server's own. */
  event(name: string, data: unknown, room?: string, offset?: number): void;
  /** Something was heard. */
  alive(): void;
  end(end: End): void;
}

/** What a lost connection leaves to the next one: whatever its transport goes on by. */
export interface Session {
  /** Where each room of it stands, if the transport says that. */
  readonly rooms?: Map<string, unknown>;
}

/** One attempt to connect, and the connection that becomes of it. */
export interface Link {
  /**
   * False if it cannot be said any more. Throws `TOO_LARGE` or `INVALID_DATA` for what the server
   * would not take or the protocol does not carry; the connection is not touched by that.
   */
  emit(event: string, data: unknown, reply?: (reply: Reply) => void): boolean | void;
  /** The reply may say `recovered`, and bring a `snapshot`. */
  join(room: string, reply: (reply: Reply) => void): void;
  leave(room: string, reply: () => void): void;
  /** Asks for a sign of life. The reply may say the server's time: `timestamp`, Unix milliseconds. */
  ping(reply: (pong?: Reply) => void): void;
  /** The server's own pings cannot be heard: `ping` is needed when it is silent. */
  readonly isDeaf?: boolean;
  /** Each room has to be joined again, also by a connection that is recovered. */
  readonly isByRoom?: boolean;
  /** What the next attempt needs to go on from here. */
  session?: (() => Session | undefined) | undefined;
  /** Ends it: for good, or so that another attempt can go on. No event follows. */
  close(forGood: boolean): void;
}

/** Begins an attempt, which goes on where an earlier one was lost if it can. */
export type Dial = (token: string | undefined, events: LinkEvents, earlier?: Session) => Link;

declare global {
  /** Named here for programs whose types know no browser. Where they do, it is theirs. */
  interface AbortSignal {}
}
