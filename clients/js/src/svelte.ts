/**
 * Svelte: the state of the connection, rooms and presence as stores, and a status light as an
 * action; for Svelte 4 and 5. An event needs nothing of this: `$effect(() => heartline.on(…))`.
 *
 * @module
 */
import { getContext, onMount, setContext } from "svelte";
import {
  hold,
  isMissed,
  roomOf,
  statusOf,
  type AnyClient,
  type RoomState,
  type TheClient,
} from "./bindings.js";
import { presenceOf, type PresenceOptions, type PresencePicture, type Whom } from "./together.js";
import type { State } from "./types.js";
import { describe, describeButton, dotted, drawn, laidOut } from "./words.js";

export type { Events, Register, RoomState } from "./bindings.js";
export type { PresenceOptions, PresencePicture, PresentUser, Whom } from "./together.js";
export { describe, describeButton } from "./words.js";

/** What `$store` reads. */
export interface Readable<T> {
  subscribe(listener: (value: T) => void): () => void;
}

const KEY = Symbol("heartline");

/**
 * Gives a client to this component and all that is within, and connects it while the component is
 * there. One that is shown anew at once finds the same connection, and all that waits for it; of
 * several, the last one to go disconnects it. Make the client once, with `autoConnect: false`.
 */
export function setHeartline(client: AnyClient): void {
  setContext(KEY, client);
  // A child is mounted before its parent, and may send: it finds a client that connects. On a
  // server nothing is held, as nothing would end it.
  if (typeof window === "undefined") return;
  const release = hold(client);
  onMount(() => release);
}

/** The client that a component around has set. */
export function getHeartline<T extends AnyClient = TheClient>(): T {
  const client = getContext<T | undefined>(KEY);
  if (!client) throw new Error("getHeartline needs a component around it that calls setHeartline");
  return client;
}

/** What is true of the connection. */
export const connectionStatus = (client: AnyClient = getHeartline()): Readable<State> =>
  statusOf(client);

/**
 * Is in a room for as long as somebody subscribes, over all reconnections. Says whether it is in
 * there now, and if the server has refused, why.
 */
export const room = (name: string, client: AnyClient = getHeartline()): Readable<RoomState> =>
  roomOf(client, name);

/**
 * Presence of users by their ids, or of whoever is in a room, kept up to date; its `state` says
 * whether it is complete, catching up, or stale, and since when. All that are asked for in one
 * tick are asked of the server together. How many devices users have is not announced: with
 * `refresh` it is asked for again every so many milliseconds.
 */
export const presence = (
  whom: Whom,
  options?: PresenceOptions,
  client: AnyClient = getHeartline(),
): Readable<PresencePicture> => presenceOf(client, whom, options);

/**
 * Calls `load` when what is shown of a room has to be loaded afresh: events of it were missed,
 * and cannot be had. Returns what ends that: `$effect(() => missed(client, "lobby", load))`.
 */
export const missed = (client: AnyClient, name: string, load: () => void): (() => void) =>
  client.on("room:missed", (what) => {
    if (isMissed(what, name)) load();
  });

export interface StatusOptions {
  client: AnyClient;
  /** The words, in another language. A screen reader speaks them whenever they change. */
  labels?: (state: State) => string;
  /** Those on the button; without any, there is none. */
  buttonLabels?: (state: State) => string | undefined;
}

/**
 * An action that makes the status light of an empty element, `<span use:statusLight={{ client }}>`:
 * a shape and a text, which screen readers are told of, and a button while it takes somebody to
 * try, or may help to. Colours, sizes and fonts are CSS variables: `--heartline-connected`,
 * `-reconnecting`, `-failed`, `-disconnected`, `-text`, `-gap` and `-dot`.
 */
export function statusLight(
  node: HTMLElement,
  { client, labels = describe, buttonLabels = describeButton }: StatusOptions,
): { destroy(): void } {
  const make = (name: string, attributes: Record<string, string>, parent: Element = node) => {
    const isDrawn = name === "svg" || name === "path";
    const space = isDrawn ? "http://www.w3.org/2000/svg" : "http://www.w3.org/1999/xhtml";
    const element = document.createElementNS(space, name) as HTMLElement;
    for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
    return parent.appendChild(element);
  };
  node.classList.add("heartline-status");
  laidOut(node);
  const size = "0.8em";
  const svg = make("svg", {
    "aria-hidden": "true",
    viewBox: "0 0 10 10",
    width: size,
    height: size,
  });
  dotted(svg);
  const path = make("path", {}, svg);
  const words = make("span", { role: "status", "aria-live": "polite", tabindex: "-1" });
  const button = make("button", { type: "button" }) as HTMLButtonElement;
  button.onclick = () => client.connect();
  const off = statusOf(client).subscribe((state) => {
    node.dataset.status = state.status;
    for (const [key, value] of Object.entries(drawn(state))) path.setAttribute(key, String(value));
    const said = labels(state);
    // Set anew, even the same would be spoken again.
    if (words.textContent !== said) words.textContent = said;
    const label = buttonLabels(state);
    // Whoever has pressed the button that goes is not sent back to the top of the page.
    if (!label && document.activeElement === button) words.focus();
    button.hidden = !label;
    button.textContent = label ?? "";
  });
  return {
    destroy() {
      off();
      node.replaceChildren();
    },
  };
}
