import { clocks } from "./platform.js";
import type { Platform } from "./types.js";

/** What the events of a page or a worker mean. */
const CHANGES = {
  online: "online",
  offline: "offline",
  visibilitychange: "awake",
  // A browser that keeps the page for the back button would answer the server's pings for it.
  pagehide: "offline",
  pageshow: "online",
} as const;

/** The browser's, a worker's, React Native's, or Node's, each as far as it has what is watched. */
export const browser: Platform = {
  ...clocks,
  watch(changed) {
    const { document } = globalThis;
    const isOffline = () => globalThis.navigator?.onLine === false;
    const hear = ({ type, persisted }: any) => {
      const isSeen = document?.visibilityState === "visible";
      if (!(type === "visibilitychange" ? isSeen : (persisted ?? true))) return;
      // While nobody saw the page, the network may have gone, and nobody has said so.
      if (type === "pageshow" && isOffline()) changed("offline");
      else changed(CHANGES[type as keyof typeof CHANGES]);
    };
    const each = (change: "addEventListener" | "removeEventListener") => {
      for (const type in CHANGES) {
        const target = type === "visibilitychange" ? document : globalThis;
        (target as Partial<EventTarget> | undefined)?.[change]?.(type, hear);
      }
    };
    each("addEventListener");
    // A page may begin without a network, and hears only of changes.
    if (isOffline()) changed("offline");
    return () => each("removeEventListener");
  },
};
