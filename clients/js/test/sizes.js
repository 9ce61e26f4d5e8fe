// What the packages weigh, minified and compressed; the build fails when they grow too heavy.
import { gzipSync } from "node:zlib";
import { fileURLToPath } from "node:url";
import { build } from "esbuild";

/** What bindings need of presence, which comes on top of them. */
const PRESENCE = ["./presence.js", "./together.js"];

/** Bytes; what of a module is weighed, if not all of it; and what is not weighed with it. */
const LIMITS = {
  // What every client has: more than half is the state machine, an eighth the queue, and a sixth
  // the live protocol, a third of which is going on where a connection was lost.
  "live, small": [7.6 * 1024, { module: "live", part: "createSmallClient" }],
  // With what fills in missed messages, and rooms as objects.
  live: [9.1 * 1024, { part: "createClient" }],
  outbox: [2.5 * 1024],
  people: [1.5 * 1024],
  presence: [2 * 1024],
  // Bindings to frameworks weigh the same.
  react: [2.5 * 1024, { beside: PRESENCE }],
  vue: [2.5 * 1024, { beside: PRESENCE }],
  svelte: [2.5 * 1024, { beside: PRESENCE }],
  "presence of a binding": [2.75 * 1024, { module: "together" }],
  // Beside a transport and its client.
  shared: [3.75 * 1024, { part: "createClient", beside: ["./client.js", "./types.js"] }],
  index: [22 * 1024],
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
      `${size} bytes compressed, at most ${Math.floor(limit)}`,
  );
  if (size > limit) process.exitCode = 1;
}
