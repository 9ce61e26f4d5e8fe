// What the packages weigh, minified and compressed; the build fails when they grow too heavy.
import { gzipSync } from "node:zlib";
import { fileURLToPath } from "node:url";
import { build } from "esbuild";

/** Bytes, and what of the module is weighed if that is not all of it. */
const LIMITS = {
  // What every client has: more than half is the state machine, an eighth the queue, and a sixth
  // the live protocol, a third of which is going on where a connection was lost.
  "live, small": [7.6 * 1024, "live", "createSmallClient"],
  // With what fills in missed messages, and rooms as objects.
  live: [9.1 * 1024, "live", "createClient"],
  outbox: [2.5 * 1024],
  people: [1.5 * 1024],
  presence: [2 * 1024],
  react: [7 * 1024],
  index: [22 * 1024],
};

for (const [name, [limit, module = name, part]] of Object.entries(LIMITS)) {
  const path = fileURLToPath(new URL(`../dist/${module}.js`, import.meta.url));
  const { outputFiles } = await build({
    stdin: {
      contents: `export ${part ? `{ ${part} }` : "*"} from ${JSON.stringify(path)}`,
      resolveDir: ".",
    },
    bundle: true,
    minify: true,
    write: false,
    format: "esm",
    target: "es2022",
    external: ["react", "react/jsx-runtime"],
  });
  const size = gzipSync(outputFiles[0].contents, { level: 9 }).length;
  console.log(
    `@heartline/client${name === "index" ? "" : `/${name}`}: ` +
      `${size} bytes compressed, at most ${limit}`,
  );
  if (size > limit) process.exitCode = 1;
}
