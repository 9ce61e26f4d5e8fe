// What the packages weigh, minified and compressed; the build fails when they grow too heavy.
import { gzipSync } from "node:zlib";
import { fileURLToPath } from "node:url";
import { build } from "esbuild";

const LIMITS = {
  // A third more than without coming back: resuming costs 0.4 KiB of it, and filling what no
  // gateway brings back from the history, which every transport needs, the rest.
  live: 6.5 * 1024,
  people: 1.5 * 1024,
  presence: 2 * 1024,
  // Bindings to frameworks weigh the same, and what they need of presence comes on top of that.
  react: 2.5 * 1024,
  vue: 2.5 * 1024,
  svelte: 2.5 * 1024,
  together: 2.5 * 1024,
  // Beside a transport and the client.
  shared: 3.5 * 1024,
  index: 22 * 1024,
};
const FRAMEWORKS = ["react", "react/jsx-runtime", "vue", "svelte"];
const BESIDE = { shared: ["./client.js", "./types.js"] };
const PRESENCE = ["./presence.js", "./together.js"];

for (const [name, limit] of Object.entries(LIMITS)) {
  const isBinding = FRAMEWORKS.includes(name);
  const { outputFiles } = await build({
    entryPoints: [fileURLToPath(new URL(`../dist/${name}.js`, import.meta.url))],
    bundle: true,
    minify: true,
    write: false,
    format: "esm",
    target: "es2022",
    external: [...FRAMEWORKS, ...(isBinding ? PRESENCE : (BESIDE[name] ?? []))],
  });
  const size = gzipSync(outputFiles[0].contents, { level: 9 }).length;
  const entry = name === "index" ? "" : name === "together" ? " presence for bindings" : `/${name}`;
  console.log(`@heartline/client${entry}: ${size} bytes compressed, at most ${limit}`);
  if (size > limit) process.exitCode = 1;
}
