/**
 * People: invites, what they have read, what is kept of them, and signing in with a wallet.
 * Functions beside the client, so that whoever does without them does not load them.
 *
 * @module
 */
import type { Core } from "./core.js";
import type { Small } from "./small.js";
import { HeartlineError, type Message } from "./types.js";

type AnyClient = Pick<Small<any, any>, "request">;

// --- invites -----------------------------------------------------------

/** Longest text in which a code is looked for, bytes. */
const MAX_TEXT = 2_048;
const SIGNS = /^(invites?|i|join)$/i;

const isCode = (text: string | undefined): text is string => /^[0-9A-Za-z]{4,64}$/.test(text ?? "");

/** A text up to a sign and after it; without the sign, all of it and nothing. */
function cut(text: string, sign: string): [string, string] {
  const at = text.indexOf(sign);
  return at < 0 ? [text, ""] : [text.slice(0, at), text.slice(at + sign.length)];
}

/**
 * The code of an invite in what somebody pasted: the code itself, or an address with it. Of an
 * address the path counts, percent-decoded once: what follows the last segment `invite`,
 * `invites`, `i` or `join`, else the last segment; else the parameters `code` and `invite` of
 * the query. The gateway reads addresses in the same way.
 */
export function parseInvite(pasted: string): string | undefined {
  const text = pasted.trim();
  if (new TextEncoder().encode(text).length > MAX_TEXT) return undefined;
  if (isCode(text)) return text;
  const [place, query] = cut(cut(text, "#")[0], "?");
  const [scheme, host] = cut(place, "//");
  const isAddress = place.includes("//") && /(^|:)$/.test(scheme);
  const path = isAddress ? cut(host, "/")[1] : place;
  // Byte by byte: whatever is no ASCII is in no code.
  const decoded = path.replace(/%([0-9a-f]{2})/gi, (_, byte: string) =>
    String.fromCharCode(parseInt(byte, 16)),
  );
  const parts = decoded.split("/").filter(Boolean);
  const sign = parts.slice(0, -1).findLastIndex((part) => SIGNS.test(part));
  const named = sign < 0 ? undefined : parts[sign + 1];
  const last = parts.at(-1);
  if (isCode(named)) return named;
  if (isCode(last) && !SIGNS.test(last)) return last;
  const parameters = new URLSearchParams(query);
  return [...parameters.getAll("code"), ...parameters.getAll("invite")].find(isCode);
}

/** Where an invite has led. */
export interface Welcome {
  readonly conversationId: string;
  readonly room: string;
}

/**
 * Becomes a member of a conversation by a code, or an address with it, and joins its room.
 * Rejects with `INVALID_INVITE`, `INVITE_NOT_FOUND`, `INVITE_EXPIRED`, `INVITE_EXHAUSTED`,
 * `INVITE_REVOKED`, `AUTH_REQUIRED` or `RATE_LIMITED`.
 */
export async function joinByInvite(
  client: AnyClient & Pick<Core<any, any>, "join">,
  pasted: string,
): Promise<Welcome> {
  const code = parseInvite(pasted);
  if (code === undefined) throw new HeartlineError("INVALID_INVITE", "there is no code in it");
  const reply = await client.request("invite:join", { code });
  const { conversationId, room } = reply as unknown as Welcome;
  await client.join(room);
  return { conversationId, room };
}

// --- conversations -----------------------------------------------------

/** A conversation of the user's. */
export interface Conversation {
  readonly conversationId: string;
  /** The offset of the last message. */
  readonly head: number;
  readonly readOffset: number;
  readonly unread: number;
  readonly last: Message | null;
}

export interface Inbox {
  readonly conversations: readonly Conversation[];
  /** The `cursor` of what follows; absent at the end. */
  readonly next?: string;
}

/** The user's conversations, the one with the newest message first: 50 or `limit`, at most 100. */
export async function inbox(
  client: AnyClient,
  options: { limit?: number; cursor?: string } = {},
): Promise<Inbox> {
  return (await client.request("inbox:get", options)) as unknown as Inbox;
}

/** Has read everything up to a message. Where the marker stands then: it never goes back. */
export async function read(
  client: AnyClient,
  conversationId: string,
  offset: number,
): Promise<number> {
  return (await client.request("read", { conversationId, offset })).offset as number;
}

/**
 * Keeps a small object for the user's next connection, which is told of it by `session:resume`:
 * merged into what there is, `null` removes a member. The version that there is then. With
 * `ifVersion` it holds only for that version, and rejects with `CONFLICT` otherwise; the error's
 * `data` has `version` and `metadata`.
 */
export async function checkpoint(
  client: AnyClient,
  patch: object,
  { ifVersion }: { ifVersion?: number } = {},
): Promise<number> {
  const data = ifVersion === undefined ? patch : [patch, { ifVersion }];
  return (await client.request("session:checkpoint", data)).version as number;
}

// --- wallets -----------------------------------------------------------

/** Why a sign-in with a wallet was refused: the `code` of its `HeartlineError`. */
export type WalletCode = (typeof WALLET_CODES)[keyof typeof WALLET_CODES];

const WALLET_CODES = {
  "Validation Error": "INVALID_DATA",
  "Invalid or expired challenge": "CHALLENGE_EXPIRED",
  "Challenge does not match wallet address": "CHALLENGE_MISMATCH",
  "Invalid signature": "INVALID_SIGNATURE",
  Forbidden: "FORBIDDEN",
  "Too Many Requests": "RATE_LIMITED",
  "Service Unavailable": "UNAVAILABLE",
} as const;

export interface Challenge {
  /** The text to sign, exactly as it is. */
  readonly challenge: string;
  /** Unix milliseconds. */
  readonly expiresAt: number;
}

export interface SignedIn {
  readonly token: string;
  /** Unix milliseconds. */
  readonly expiresAt: number;
  readonly user: {
    readonly userId: string;
    readonly walletAddress: string;
    readonly userType?: string;
  };
}

async function post(url: string, path: string, body: object): Promise<unknown> {
  const response = await fetch(new URL(path, url), {
    method: "POST",
    headers: { "content-type": "application/json" },
    body: JSON.stringify(body),
  }).catch((error: Error) => {
    throw new HeartlineError("UNAVAILABLE", error.message);
  });
  // Whatever stands before the gateway may answer with something else.
  const answer = await response.json().catch(() => ({}));
  if (response.ok) return answer;
  const { error, message } = answer as { error?: keyof typeof WALLET_CODES; message?: string };
  const seconds = Number(response.headers.get("retry-after") ?? NaN);
  throw new HeartlineError(
    WALLET_CODES[error!] ?? "UNAVAILABLE",
    message ?? error ?? `HTTP ${response.status}`,
    Number.isNaN(seconds) ? undefined : seconds * 1_000,
  );
}

/** A text for a wallet to sign, good once and for some minutes. */
export async function challenge(url: string, walletAddress: string): Promise<Challenge> {
  return (await post(url, "/auth/challenge", { walletAddress })) as Challenge;
}

/** A token for a signed text. The signature is base64 or hex. */
export async function connect(
  url: string,
  signed: { walletAddress: string; challenge: string; signature: string },
): Promise<SignedIn> {
  return (await post(url, "/auth/connect", signed)) as SignedIn;
}

/** Both: a token for a wallet whose owner signs when asked. */
export async function signIn(
  url: string,
  walletAddress: string,
  sign: (challenge: string) => string | Promise<string>,
): Promise<SignedIn> {
  const { challenge: text } = await challenge(url, walletAddress);
  return connect(url, { walletAddress, challenge: text, signature: await sign(text) });
}
