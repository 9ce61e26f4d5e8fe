// A PostgreSQL of a test's own.
import { execFileSync } from "node:child_process";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { freePort } from "./server.js";

const SCRIPT = fileURLToPath(new URL("../../../scripts/test-postgres", import.meta.url));

/** Starts one in a folder of its own; says what is missing if there is no PostgreSQL. */
export async function postgres() {
  const folder = mkdtempSync(join(tmpdir(), "heartline-postgres-"));
  const script = (action, ...args) => {
    const stdio = ["ignore", "pipe", "inherit"];
    return execFileSync(SCRIPT, [action, folder, ...args], { encoding: "utf8", stdio }).trim();
  };
  return {
    url: script("start", `${await freePort()}`),
    /** Ends it as pg_ctl's mode says; "immediate" is a crash. */
    stop: (mode = "immediate") => script("stop", mode),
    up: () => script("up"),
    remove() {
      try {
        script("stop", "immediate");
      } catch {
        // It was down.
      }
      rmSync(folder, { recursive: true, force: true });
    },
  };
}
