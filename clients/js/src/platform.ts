import type { Platform } from "./types.js";

/** The browser's, or Node's, where there is no tab. */
export const browser: Platform = {
  now: () => performance.now(),
  unix: () => Date.now(),
  random: () => Math.random(),
  setTimeout: (callback, ms) => setTimeout(callback, ms),
  clearTimeout: (timer) => clearTimeout(timer as number),
  watch(changed) {
    if (typeof window === "undefined") return () => {};
    const online = () => changed("online");
    const offline = () => changed("offline");
    const shown = () => document.visibilityState === "visible" && changed("awake");
    addEventListener("online", online);
    addEventListener("offline", offline);
    document.addEventListener("visibilitychange", shown);
    return () => {
      removeEventListener("online", online);
      removeEventListener("offline", offline);
      document.removeEventListener("visibilitychange", shown);
    };
  },
};
