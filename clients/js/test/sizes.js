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
  react: 7 * 1024,
  index: 22 * 1024,
};

for (const [name, limit] of Object.entries(LIMITS)) {
  const { outputFiles } = await build({
    entryPoints: [fileURLToPath(new URL(`../dist/${name}.js`, import.meta.url))],
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
