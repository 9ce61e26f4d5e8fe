import type { Reason, State } from "./types.js";

const REASONS: Partial<Record<Reason, string>> = {
  replaced: "opened in another place",
  device_limit: "too many devices",
  kicked: "disconnected by the server",
  auth_required: "please sign in",
  auth_invalid: "please sign in again",
  auth_expired: "please sign in again",
  signed_out: "please sign in",
  attempts_exhausted: "the server cannot be reached",
};

/**
 * A state in words. It stays the same from one attempt to the next, so that a screen reader does
 * not speak at each.
 */
export function describe(state: State): string {
  switch (state.status) {
    case "connecting":
      return "Connecting…";
    case "connected":
      return "Connected";
    case "reconnecting":
      return state.reason === "offline" ? "Offline" : "Reconnecting…";
    case "failed":
      return `Connection failed: ${REASONS[state.reason] ?? state.reason.replaceAll("_", " ")}`;
    case "disconnected":
      return "Disconnected";
  }
}

/** What the button says that calls `connect()`; of a state that needs none, nothing. */
export function describeButton({ status }: State): string | undefined {
  switch (status) {
    case "reconnecting":
      return "Try now";
    case "failed":
      return "Try again";
    case "disconnected":
      return "Connect";
    default:
      return undefined;
  }
}

/** The light's colour: a CSS variable, and what it is without one. */
const COLORS: Record<State["status"], string> = {
  connecting: "reconnecting, #9a6700",
  connected: "connected, #1a7f37",
  reconnecting: "reconnecting, #9a6700",
  failed: "failed, #b42318",
  disconnected: "disconnected, #57606a",
};

/**
 * The light as attributes of an SVG path in a square of 10: a full disc, a ring, a square, or a
 * ring that is struck through. Not by colour alone, which a forced palette may take away; and no
 * style attribute, which a page's policy may forbid.
 */
export function drawn({ status }: State) {
  const color = `var(--heartline-${COLORS[status]})`;
  const ring = "M5 1a4 4 0 1 0 .01 0z";
  return {
    d: status === "failed" ? "M1 1h8v8h-8z" : status === "disconnected" ? `${ring}M2 8 8 2` : ring,
    fill: status === "connected" ? color : "none",
    stroke: color,
    "stroke-width": 2,
  };
}

/** How the light is laid out, and its dot. */
const LAYOUT = {
  display: "inline-flex",
  "align-items": "center",
  gap: "var(--heartline-gap, 0.5em)",
  color: "var(--heartline-text, inherit)",
};
const DOT = {
  width: "var(--heartline-dot, 0.8em)",
  height: "var(--heartline-dot, 0.8em)",
  flex: "none",
};

interface Styled {
  readonly style: {
    getPropertyValue(name: string): string;
    setProperty(name: string, value: string): void;
  };
}

/** A script may set styles where a page's policy forbids attributes. What is set already stays. */
function styled(element: Styled | null | undefined, styles: Record<string, string>): void {
  for (const [name, value] of Object.entries(styles))
    if (element?.style.getPropertyValue(name) === "") element.style.setProperty(name, value);
}
export const laidOut = (light: Styled | null) => styled(light, LAYOUT);
export const dotted = (dot: Styled | null) => styled(dot, DOT);
