/**
 * React: the state of the connection, rooms and presence as hooks, and a status light.
 *
 * @module
 */
import {
  createContext,
  useCallback,
  useContext,
  useEffect,
  useMemo,
  useRef,
  useState,
  useSyncExternalStore,
  type CSSProperties,
  type ReactNode,
} from "react";
import type { Client } from "./client.js";
import { NOBODY, watchRoom, watchUsers, type Picture, type PresenceState } from "./presence.js";
import type { Reason, State, WatchedUser } from "./types.js";

type AnyClient = Client<any, any>;

const Context = createContext<AnyClient | null>(null);

/** What a server renders: nobody is connected yet. */
const AT_FIRST: State = { status: "connecting" };

/**
 * Gives a client to all that is within, connects it when it is shown, and disconnects
 * it when it is not any more. Make the client once, with `autoConnect: false`:
 *
 * ```tsx
 * const heartline = createClient(url, { token, autoConnect: false });
 * <HeartlineProvider client={heartline}>…</HeartlineProvider>
 * ```
 */
export function HeartlineProvider({
  client,
  children,
}: {
  client: AnyClient;
  children?: ReactNode;
}) {
  useEffect(() => {
    client.connect();
    return () => client.disconnect();
  }, [client]);
  return <Context.Provider value={client}>{children}</Context.Provider>;
}

/** The client of the provider around. */
export function useHeartline<T extends AnyClient = AnyClient>(): T {
  const client = useContext(Context);
  if (!client) throw new Error("useHeartline needs a <HeartlineProvider> around it");
  return client as T;
}

/** What is true of the connection, and a new render with each change. */
export function useConnectionStatus(): State {
  const client = useHeartline();
  const subscribe = useCallback((changed: () => void) => client.subscribe(changed), [client]);
  return useSyncExternalStore(
    subscribe,
    () => client.state,
    () => AT_FIRST,
  );
}

/** Hears an event for as long as the component is there. The handler may be new at each render. */
export function useEvent(event: string, handler: (data: any) => void): void {
  const client = useHeartline();
  const latest = useRef(handler);
  useEffect(() => {
    latest.current = handler;
  });
  useEffect(() => client.on(event, (data: any) => latest.current(data)), [client, event]);
}

/**
 * Calls `load` when what is shown of a room has to be loaded afresh: events of it were missed,
 * and cannot be had. Messages of conversations come by themselves wherever they can.
 */
export function useMissed(room: string, load: () => void): void {
  useEvent("room:missed", (missed: { room: string; filled: boolean }) => {
    if (missed.room === room && !missed.filled) load();
  });
}

/** How a client and the components that use a room agree on who leaves it. */
const users = new WeakMap<AnyClient, Map<string, number>>();

/**
 * Is in a room for as long as the component is there, over all reconnections. Returns
 * whether it is in there now, and if the server has refused, why.
 */
export function useRoom(room: string): { joined: boolean; error?: Error } {
  const client = useHeartline();
  const { status } = useConnectionStatus();
  const [error, setError] = useState<Error>();
  const wanted = status !== "disconnected" && status !== "failed";
  useEffect(() => {
    if (!wanted) return;
    let there = true;
    const counts = users.get(client) ?? new Map<string, number>();
    users.set(client, counts);
    counts.set(room, (counts.get(room) ?? 0) + 1);
    client.join(room).catch((error: Error) => there && setError(error));
    const off = client.on("room:lost", (lost: { room: string; code: string }) => {
      if (lost.room === room) setError(new Error(lost.code));
    });
    return () => {
      there = false;
      off();
      setError(undefined);
      const left = (counts.get(room) ?? 1) - 1;
      counts.set(room, left);
      if (left === 0) {
        counts.delete(room);
        client.leave(room);
      }
    };
  }, [client, room, wanted]);
  const subscribe = useCallback(
    (changed: () => void) => {
      const offs = [
        client.subscribe(changed),
        client.on("room:in", changed),
        client.on("room:lost", changed),
      ];
      return () => offs.forEach((off) => off());
    },
    [client],
  );
  const joined = useSyncExternalStore(
    subscribe,
    () => client.isIn(room),
    () => false,
  );
  return error ? { joined, error } : { joined };
}

/** A user who is watched, and on how many devices, where `refresh` asks for that. */
export type PresentUser = WatchedUser & { readonly devices?: number };

/** Users by their ids, and how true that is: `state`. */
export interface PresencePicture extends ReadonlyMap<string, PresentUser> {
  readonly state: PresenceState;
}

/** What is asked of, again every so many milliseconds: how many devices is not announced. */
function useDevices(names: string, refresh: number | undefined): ReadonlyMap<string, number> {
  const client = useHeartline();
  const { status } = useConnectionStatus();
  const [devices, setDevices] = useState<ReadonlyMap<string, number>>(new Map());
  useEffect(() => {
    const users: unknown = JSON.parse(names);
    if (refresh === undefined || status !== "connected" || !Array.isArray(users)) return;
    let there = true;
    const ask = () =>
      client.presence(users).then(
        (all) => there && setDevices(new Map(all.map((one) => [one.userId, one.devices]))),
        // What was known stays, until the next time.
        () => {},
      );
    void ask();
    const timer = setInterval(ask, refresh);
    return () => {
      there = false;
      clearInterval(timer);
    };
  }, [client, names, status, refresh]);
  return devices;
}

/**
 * Presence of users by their ids, or of whoever is in a room, kept up to date; its `state` says
 * whether it is complete, catching up, or stale, and since when. How many devices users have is
 * not announced: with `refresh` it is asked for again every so many milliseconds.
 */
export function usePresence(
  what: readonly string[] | { readonly room: string },
  { refresh }: { refresh?: number } = {},
): PresencePicture {
  const client = useHeartline();
  const names = JSON.stringify(what);
  const [picture, setPicture] = useState<Picture>(NOBODY);
  useEffect(() => {
    const wanted = JSON.parse(names) as typeof what;
    const watching =
      "room" in wanted ? watchRoom(client, wanted.room) : watchUsers(client, wanted);
    setPicture(watching.picture);
    watching.subscribe(setPicture);
    return () => watching.close();
  }, [client, names]);
  const devices = useDevices(names, refresh);
  return useMemo(() => {
    if (devices.size === 0) return picture;
    const all = [...picture].map(([id, user]) => {
      const count = devices.get(id);
      // Who has gone since has none.
      return [id, count === undefined || !user.online ? user : { ...user, devices: count }] as const;
    });
    return Object.assign(new Map<string, PresentUser>(all), { state: picture.state });
  }, [picture, devices]);
}

const COLORS: Record<State["status"], string> = {
  connecting: "var(--heartline-reconnecting, #9a6700)",
  connected: "var(--heartline-connected, #1a7f37)",
  reconnecting: "var(--heartline-reconnecting, #9a6700)",
  failed: "var(--heartline-failed, #b42318)",
  disconnected: "var(--heartline-disconnected, #57606a)",
};

const REASONS: Partial<Record<Reason, string>> = {
  replaced: "opened in another place",
  device_limit: "too many devices",
  kicked: "disconnected by the server",
  auth_required: "please sign in",
  auth_invalid: "please sign in again",
  auth_expired: "please sign in again",
  attempts_exhausted: "the server cannot be reached",
};

/** A state in words. */
export function describe(state: State): string {
  switch (state.status) {
    case "connecting":
      return "Connecting…";
    case "connected":
      return "Connected";
    case "reconnecting":
      return `Reconnecting, attempt ${state.attempt}`;
    case "failed":
      return `Connection failed: ${REASONS[state.reason] ?? state.reason.replaceAll("_", " ")}`;
    case "disconnected":
      return "Disconnected";
  }
}

/**
 * The status light: a shape and a text, which screen readers are told of, and a button
 * when it takes somebody to try again. Colours, sizes and fonts are CSS variables:
 * `--heartline-connected`, `-reconnecting`, `-failed`, `-disconnected`, `-text`, `-gap`
 * and `-dot`.
 */
export function ConnectionStatus({
  className,
  style,
  labels = describe,
}: {
  className?: string;
  style?: CSSProperties;
  /** The words, in another language. */
  labels?: (state: State) => string;
}) {
  const client = useHeartline();
  const state = useConnectionStatus();
  const color = COLORS[state.status];
  const isFull = state.status === "connected";
  return (
    <span
      className={`heartline-status${className ? ` ${className}` : ""}`}
      data-status={state.status}
      style={{
        display: "inline-flex",
        alignItems: "center",
        gap: "var(--heartline-gap, 0.5em)",
        color: "var(--heartline-text, inherit)",
        ...style,
      }}
    >
      <span
        aria-hidden="true"
        style={{
          width: "var(--heartline-dot, 0.7em)",
          height: "var(--heartline-dot, 0.7em)",
          boxSizing: "border-box",
          flex: "none",
          border: `0.15em solid ${color}`,
          // Full, hollow or square: not by colour alone.
          background: isFull ? color : "transparent",
          borderRadius: state.status === "failed" ? 0 : "50%",
        }}
      />
      <span role="status" aria-live="polite">
        {labels(state)}
      </span>
      {(state.status === "failed" || state.status === "disconnected") && (
        <button type="button" style={{ flex: "none" }} onClick={() => client.connect()}>
          {state.status === "failed" ? "Try again" : "Connect"}
        </button>
      )}
    </span>
  );
}
