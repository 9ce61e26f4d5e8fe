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
  /** The server is going away, or asks for a pause. */
  | "unavailable";

/** What is true of the connection now. Objects are never changed; a new state is a new one. */
export type State =
  /** The first attempt is on its way. */
  | { readonly status: "connecting" }
  | {
      readonly status: "connected";
      readonly socketId: string;
      readonly userId?: string;
      /** Nothing was missed: rooms are kept. */
      readonly recovered: boolean;
    }
  | {
      readonly status: "reconnecting";
      /** From 1 on. */
      readonly attempt: number;
      /** Unix milliseconds; in the past while the attempt is on its way. */
      readonly nextRetryAt: number;
      readonly reason: Reason;
    }
  /** Given up: nothing happens until `connect()`. */
  | {
      readonly status: "failed";
      readonly reason: Reason;
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
}

/** Presence of a user. */
export interface Presence {
  readonly userId: string;
  readonly online: boolean;
  readonly devices: number;
  /** Unix milliseconds. */
  readonly lastSeenAt?: number;
  /** The cluster could not be asked. */
  readonly stale?: boolean;
}

/** A change of presence. */
export interface PresenceChange {
  readonly userId: string;
  readonly userType?: string | null;
  /** Unix milliseconds. */
  readonly at: number;
}

/** Events that every server sends. */
export interface ServerEvents {
  "server:hello": Hello;
  "server:drain": { readonly reconnectInMs: number };
  "connection:success": {
    readonly userId: string;
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
  "user:online": PresenceChange;
  "user:offline": PresenceChange;
  "room:joined": { readonly room: string };
  /** With a reason if the server has taken the room away; `room:lost` confirms it. */
  "room:left": { readonly room: string; readonly reason?: string };
  /** Events of the room were lost on their way. */
  "room:gap": { readonly room: string };
  /** This client's own: a room was joined, or joined again. */
  "room:in": { readonly room: string };
  /** This client's own: a room that was joined was taken away, or could not be joined again. */
  "room:lost": { readonly room: string; readonly code: string };
}

/** An acknowledgement, or what the server said instead. */
export interface Reply {
  readonly ok?: boolean;
  readonly error?: string;
  readonly code?: string;
  readonly retryAfterMs?: number;
  readonly [more: string]: unknown;
}

/**
 * A request or a connection that failed. `code` is the server's or the app's, or one of
 * `TIMEOUT`, `UNCONFIRMED`, `DISCONNECTED`, `QUEUE_FULL`, `LEFT`.
 */
export class HeartlineError extends Error {
  override readonly name = "HeartlineError";
  constructor(
    readonly code: string,
    message: string,
    readonly retryAfterMs?: number,
    /** What an app's refusal to connect brought with it. */
    readonly data?: unknown,
  ) {
    super(message);
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
  watch(changed: (to: "online" | "offline" | "awake") => void): () => void;
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
}

/** What a transport tells. Nothing after `end`, which comes once. */
export interface LinkEvents {
  hello(hello: Hello): void;
  /** With the `room` that it was said in, where the transport knows: it is not the server's own. */
  event(name: string, data: unknown, room?: string): void;
  /** Something was heard. */
  alive(): void;
  end(end: End): void;
}

/** One attempt to connect, and the connection that becomes of it. */
export interface Link {
  emit(event: string, data: unknown, reply?: (reply: Reply) => void): void;
  join(room: string, reply: (reply: Reply) => void): void;
  leave(room: string): void;
  /** Asks for a sign of life. */
  ping(reply: () => void): void;
  /** The server's own pings cannot be heard: `ping` is needed when it is silent. */
  readonly isDeaf?: boolean;
  /** Ends it. No event follows. */
  close(): void;
}

/** Begins an attempt. */
export type Dial = (token: string | undefined, events: LinkEvents) => Link;
