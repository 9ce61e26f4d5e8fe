import { HeartlineError, type End, type Reason } from "./types.js";

const end = (kind: End["kind"], reason: Reason): End => ({ kind, reason });
const unavailable = end("retry", "unavailable");
const protocol = end("final", "protocol");
const limit = end("final", "device_limit");
const expired = end("token", "auth_expired");

/** What becomes of a client that the server does not let in, by the server's code. */
export const REFUSALS: Readonly<Record<string, End>> = {
  AUTH_REQUIRED: end("token", "auth_required"),
  AUTH_TOKEN_INVALID: end("token", "auth_invalid"),
  AUTH_TOKEN_EXPIRED: expired,
  DEVICE_LIMIT: limit,
  DRAINING: unavailable,
  AUTH_UNAVAILABLE: unavailable,
  INTERNAL: unavailable,
};

/** The app does not let this client in. */
export const refused = (code: string | undefined, message: string, data?: unknown): End => ({
  kind: "final",
  reason: "refused",
  error: new HeartlineError(code ?? "REFUSED", message, undefined, data),
});

/** What the close code of a WebSocket means; the others are lost connections. */
export const CODES: Readonly<Record<number, End>> = {
  1001: unavailable,
  1002: protocol,
  1003: protocol,
  1007: protocol,
  1008: protocol,
  1009: protocol,
  1011: unavailable,
  1013: unavailable,
  4401: expired,
  4403: end("final", "kicked"),
  4408: end("retry", "heartbeat_timeout"),
  4409: limit,
  4429: { ...unavailable, afterMs: 10_000, what: "rate_limited" },
};
