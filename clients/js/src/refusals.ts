import type { End } from "./types.js";

/** What becomes of a client that the server does not let in, by the server's code. */
export const REFUSALS: Readonly<Record<string, End>> = {
  AUTH_REQUIRED: { kind: "final", reason: "auth_required" },
  AUTH_TOKEN_INVALID: { kind: "final", reason: "auth_invalid" },
  AUTH_TOKEN_EXPIRED: { kind: "token", reason: "auth_expired" },
  DEVICE_LIMIT: { kind: "final", reason: "device_limit" },
  DRAINING: { kind: "retry", reason: "unavailable" },
  AUTH_UNAVAILABLE: { kind: "retry", reason: "unavailable" },
};
