import type { Platform } from "./types.js";

/** Time and chance, and nothing that says how the page fares. */
export const clocks: Platform = {
  now: () => performance.now(),
  unix: () => Date.now(),
  random: () => Math.random(),
  setTimeout: (callback, ms) => setTimeout(callback, ms),
  clearTimeout: (timer) => clearTimeout(timer as number),
};
