import { HeartlineError, type End } from "./types.js";

/** What becomes of a client that the server does not let in, by the server's code. */
export const REFUSALS: Readonly<Record<string, End>> = {
  AUTH_REQUIRED: { kind: "token", reason: "auth_required" },
  AUTH_TOKEN_INVALID: { kind: "token", reason: "auth_invalid" },
  AUTH_TOKEN_EXPIRED: { kind: "token", reason: "auth_expired" },
  DEVICE_LIMIT: { kind: "final", reason: "device_limit" },
  DRAINING: { kind: "retry", reason: "unavailable" },
  AUTH_UNAVAILABLE: { kind: "retry", reason: "unavailable" },
  INTERNAL: { kind: "retry", reason: "unavailable" },
};

/** The app does not let this client in. */
export const refused = (code: string | undefined, message: string, data?: unknown): End => ({
  kind: "final",
  reason: "refused",
  error: new HeartlineError(code ?? "REFUSED", message, undefined, data),
});

/** What the close code of a WebSocket means; the others are lost connections. */
export const CODES: Readonly<Record<number, End>> = {
  1001: { kind: "retry", reason: "unavailable" },
  1002: { kind: "final", reason: "protocol" },
  1003: { kind: "final", reason: "protocol" },
  1007: { kind: "final", reason: "protocol" },
  1008: { kind: "final", reason: "protocol" },
  1009: { kind: "final", reason: "protocol" },
  1011: { kind: "retry", reason: "unavailable" },
  1013: { kind: "retry", reason: "unavailable" },
  4401: { kind: "token", reason: "auth_expired" },
  4403: { kind: "final", reason: "kicked" },
  4408: { kind: "retry", reason: "heartbeat_timeout" },
  4409: { kind: "final", reason: "device_limit" },
  4429: { kind: "retry", reason: "unavailable", afterMs: 10_000 },
};
