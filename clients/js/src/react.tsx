"use client";
/**
 * React: the state of the connection, rooms and presence as hooks, and a status light.
 *
 * @module
 */
import {
  createContext,
  useContext,
  useEffect,
  useMemo,
  useRef,
  useSyncExternalStore,
  type CSSProperties,
  type ReactNode,
} from "react";
import {
  AT_FIRST,
  OUTSIDE,
  hold,
  isMissed,
  roomOf,
  statusOf,
  type AnyClient,
  type Events,
  type RoomState,
  type Store,
  type TheClient,
} from "./bindings.js";
import { NOBODY } from "./presence.js";
import { presenceOf, type PresenceOptions, type PresencePicture, type Whom } from "./together.js";
import type { State } from "./types.js";
import { describe, describeButton, dotted, drawn, laidOut } from "./words.js";

export type { Events, Register, RoomState } from "./bindings.js";
export type { PresenceOptions, PresencePicture, PresentUser, Whom } from "./together.js";
export { describe, describeButton } from "./words.js";

const Context = createContext<AnyClient | null>(null);

/** It comes before the children: what their effects send finds a client that connects. */
function Connection({ client }: { client: AnyClient }) {
  useEffect(() => hold(client), [client]);
  return null;
}

/**
 * Gives a client to all that is within, and connects it while it is shown. A provider that is
 * shown anew at once, elsewhere or with another key, finds the same connection, and all that
 * waits for it; of several, the last one to go disconnects it. Make the client once, with
 * `autoConnect: false`:
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
  return (
    <Context.Provider value={client}>
      <Connection client={client} />
      {children}
    </Context.Provider>
  );
}

/** The client of the provider around. */
export function useHeartline<T extends AnyClient = TheClient>(): T {
  const client = useContext(Context);
  if (!client) throw new Error("useHeartline needs a <HeartlineProvider> around it");
  return client as T;
}

function useStore<T>({ subscribe, get }: Store<T>, atFirst: T): T {
  return useSyncExternalStore(subscribe, get, () => atFirst);
}

/** What is true of the connection, and a new render with each change. */
export function useConnectionStatus(): State {
  const client = useHeartline<AnyClient>();
  return useStore(
    useMemo(() => statusOf(client), [client]),
    AT_FIRST,
  );
}

/** Hears an event for as long as the component is there. The handler may be new at each render. */
export function useEvent<E extends keyof Events & string>(
  event: E,
  handler: (data: Events[E]) => void,
): void {
  const client = useHeartline<AnyClient>();
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
  useEvent("room:missed", (missed) => {
    if (isMissed(missed, room)) load();
  });
}

/**
 * Is in a room for as long as some component asks for it, over all reconnections. Returns
 * whether it is in there now, and if the server has refused, why.
 */
export function useRoom(room: string): RoomState {
  const client = useHeartline<AnyClient>();
  return useStore(
    useMemo(() => roomOf(client, room), [client, room]),
    OUTSIDE,
  );
}

/**
 * Presence of users by their ids, or of whoever is in a room, kept up to date; its `state` says
 * whether it is complete, catching up, or stale, and since when. All components that ask in one
 * tick ask the server together. How many devices users have is not announced: with `refresh` it
 * is asked for again every so many milliseconds.
 */
export function usePresence(whom: Whom, { refresh }: PresenceOptions = {}): PresencePicture {
  const client = useHeartline<AnyClient>();
  const names = JSON.stringify(whom);
  return useStore(
    useMemo(
      () => presenceOf(client, JSON.parse(names) as Whom, { refresh }),
      [client, names, refresh],
    ),
    NOBODY,
  );
}

/**
 * The status light: a shape and a text, which screen readers are told of, and a button
 * while it takes somebody to try, or may help to. Colours, sizes and fonts are CSS variables:
 * `--heartline-connected`, `-reconnecting`, `-failed`, `-disconnected`, `-text`, `-gap`
 * and `-dot`.
 */
export function ConnectionStatus({
  className,
  style,
  labels = describe,
  buttonLabels = describeButton,
}: {
  className?: string;
  style?: CSSProperties;
  /** The words, in another language. A screen reader speaks them whenever they change. */
  labels?: (state: State) => string;
  /** Those on the button; without any, there is none. */
  buttonLabels?: (state: State) => string | undefined;
}) {
  const client = useHeartline<AnyClient>();
  const state = useConnectionStatus();
  const button = buttonLabels(state);
  const words = useRef<HTMLSpanElement>(null);
  const isFocused = useRef(false);
  useEffect(() => {
    // Whoever has pressed the button that is gone is not sent back to the top of the page.
    if (button || !isFocused.current) return;
    isFocused.current = false;
    words.current?.focus();
  }, [button]);
  const { "stroke-width": strokeWidth, ...light } = drawn(state);
  return (
    <span
      className={`heartline-status${className ? ` ${className}` : ""}`}
      data-status={state.status}
      ref={laidOut}
      style={style}
    >
      <svg aria-hidden="true" viewBox="0 0 10 10" width="0.8em" height="0.8em" ref={dotted}>
        <path {...light} strokeWidth={strokeWidth} />
      </svg>
      <span role="status" aria-live="polite" tabIndex={-1} ref={words}>
        {labels(state)}
      </span>
      {button && (
        <button
          type="button"
          onFocus={() => (isFocused.current = true)}
          onBlur={() => (isFocused.current = false)}
          onClick={() => client.connect()}
        >
          {button}
        </button>
      )}
    </span>
  );
}
