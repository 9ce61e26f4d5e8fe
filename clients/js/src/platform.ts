import type { Platform } from "./types.js";

/** The browser's, a worker's, React Native's, or Node's, each as far as it has what is watched. */
export const browser: Platform = {
  now: () => performance.now(),
  unix: () => Date.now(),
  random: () => Math.random(),
  setTimeout: (callback, ms) => setTimeout(callback, ms),
  clearTimeout: (timer) => clearTimeout(timer as number),
  watch(changed) {
    const offs: (() => void)[] = [];
    const hear = (
      target: Partial<EventTarget> | undefined,
      name: string,
      call: (event: any) => void,
    ) => {
      target?.addEventListener?.(name, call);
      offs.push(() => target?.removeEventListener?.(name, call));
    };
    const { document } = globalThis;
    hear(globalThis, "online", () => changed("online"));
    hear(globalThis, "offline", () => changed("offline"));
    hear(
      document,
      "visibilitychange",
      () => document.visibilityState === "visible" && changed("awake"),
    );
    // A browser that keeps the page for the back button would answer the server's pings for it.
    hear(globalThis, "pagehide", ({ persisted }) => persisted && changed("offline"));
    hear(globalThis, "pageshow", ({ persisted }) => persisted && changed("online"));
    return () => offs.forEach((off) => off());
  },
};
