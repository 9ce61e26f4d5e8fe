// What the packages weigh, minified and compressed; the build fails when they grow too heavy.
import { gzipSync } from "node:zlib";
import { fileURLToPath } from "node:url";
import { build } from "esbuild";

/** What bindings need of presence, which comes on top of them where somebody uses it. */
const PRESENCE = ["./presence.js", "./together.js"];

/** Bytes; what of a module is weighed, if not all of it; and what is not weighed with it. */
const LIMITS = {
  // The state machine and the queue over a WebSocket, and what a page adds by name.
  "live, small": [6_144, { module: "live", part: "createSmallClient" }],
  "live, small, rooms": [7_200, { module: "live", part: "createSmallClient, rooms" }],
  "live, small, resuming": [6_500, { module: "live", part: "createSmallClient, resuming" }],
  "live, small, page": [6_370, { module: "live", part: "createSmallClient, page" }],
  "live, small, all": [7_750, { module: "live", part: "createSmallClient, page, resuming, rooms" }],
  // With all of that, with what fills in missed messages, and rooms as objects.
  live: [9_310, { part: "createClient" }],
  outbox: [2_550],
  people: [1_350],
  presence: [1_770],
  // Bindings to frameworks weigh the same. All of React's but presence, as a page gets it that
  // does not use `usePresence`, and with it.
  react: [
    2_200,
    {
      part:
        "HeartlineProvider, ConnectionStatus, useConnectionStatus, useEvent, useHeartline, " +
        "useMissed, useRoom",
    },
  ],
  "react, presence": [4_720, { module: "react" }],
  vue: [2_350, { beside: PRESENCE }],
  svelte: [2_250, { beside: PRESENCE }],
  // Beside a transport and its client.
  shared: [4_420, { part: "createClient", beside: ["./client.js", "./types.js"] }],
  index: [22_300],
};

for (const [name, [limit, { module = name, part, beside = [] } = {}]] of Object.entries(LIMITS)) {
  const path = fileURLToPath(new URL(`../dist/${module}.js`, import.meta.url));
  const what = part ? `{ ${part} }` : "*";
  const { outputFiles } = await build({
    stdin: { contents: `export ${what} from ${JSON.stringify(path)}`, resolveDir: "." },
    bundle: true,
    minify: true,
    write: false,
    format: "esm",
    target: "es2022",
    external: ["react", "react/jsx-runtime", "vue", "svelte", ...beside],
  });
  const size = gzipSync(outputFiles[0].contents, { level: 9 }).length;
  console.log(
    `@heartline/client${name === "index" ? "" : `/${name}`}: ` +
      `${size} bytes compressed, at most ${limit}`,
  );
  if (size > limit) process.exitCode = 1;
}
