// Runs Autobahn's fuzzing client against the echo example and sums its report up.
//
//   node tests/conformance/run.js PYTHON PACKAGES FOLDER
import { spawn } from "node:child_process";
import { once } from "node:events";
import { readFileSync, rmSync, writeFileSync } from "node:fs";
import { join, resolve } from "node:path";
import { fileURLToPath } from "node:url";
import { freePort } from "../lib/wait.js";

const [python, packages, folder] = process.argv.slice(2);
const here = (path) => fileURLToPath(new URL(path, import.meta.url));
const GROUPS = {
  1: "framing",
  2: "pings and pongs",
  3: "reserved bits",
  4: "opcodes",
  5: "fragmentation",
  6: "UTF-8",
  7: "close handshake",
  9: "limits and performance",
  10: "automatic fragmentation",
  12: "compression",
  13: "compression, negotiated",
};

const port = await freePort();
const echo = spawn(
  here("../../target/release/examples/engineio_echo"),
  [
    "--listen",
    `127.0.0.1:${port}`,
    // Case group 9 sends 16 MB, and 13 compresses everything.
    "--max-payload",
    "20000000",
    "--send-buffer",
    "40000000",
    "--compress-from",
    "0",
  ],
  { stdio: ["ignore", "pipe", "inherit"] },
);
process.on("exit", () => echo.kill("SIGKILL"));
await once(echo.stdout, "data");

const reports = resolve(folder, "reports");
rmSync(reports, { recursive: true, force: true });
const spec = join(folder, "spec.json");
writeFileSync(
  spec,
  JSON.stringify({
    outdir: reports,
    servers: [{ agent: "Heartline", url: `ws://127.0.0.1:${port}/echo`, options: { version: 18 } }],
    cases: process.env.CASES?.split(",") ?? ["*"],
    "exclude-cases": [],
    "exclude-agent-cases": {},
  }),
);

// The packages are a site of their own, so that namespace packages are found.
const launch =
  "import site, sys; site.addsitedir(sys.argv.pop(1)); " +
  "from autobahntestsuite.wstest import run; run()";
const wstest = spawn(
  python,
  ["-W", "ignore", "-c", launch, packages, "-m", "fuzzingclient", "-s", spec],
  {
    stdio: ["ignore", "pipe", "pipe"],
  },
);
let log = "",
  cases = 0;
const follow = (data) => {
  log = (log + data).slice(-4000);
  const before = cases;
  cases += data.toString().split("Running test case").length - 1;
  if (Math.floor(before / 50) < Math.floor(cases / 50)) console.log(`${cases} cases`);
};
wstest.stdout.on("data", follow);
wstest.stderr.on("data", follow);
const [code] = await once(wstest, "close");
let index;
try {
  index = JSON.parse(readFileSync(join(reports, "index.json"), "utf8")).Heartline;
} catch {
  console.error(`Autobahn's client ended with ${code} and no report:\n${log}`);
  process.exit(1);
}

const GOOD = ["OK", "INFORMATIONAL"];
const groups = new Map();
const bad = [];
for (const [name, { behavior, behaviorClose }] of Object.entries(index)) {
  const number = name.split(".")[0];
  const group = groups.get(number) ?? {};
  group[behavior] = (group[behavior] ?? 0) + 1;
  groups.set(number, group);
  if (!GOOD.includes(behavior) || !GOOD.includes(behaviorClose))
    bad.push(`${name}: ${behavior}, close: ${behaviorClose}`);
}
const rows = [...groups]
  .sort(([a], [b]) => a - b)
  .map(
    ([number, counts]) =>
      `| ${number} | ${GROUPS[number] ?? ""} | ${Object.entries(counts)
        .map(([what, count]) => `${count} ${what}`)
        .join(", ")} |`,
  );
const total = Object.keys(index).length;
const day = new Date().toISOString().slice(0, 10);
const notPassed = `Not passed:\n\n${bad.map((line) => `- ${line}`).join("\n")}`;
const summary = `# Autobahn's fuzzing client against Heartline's WebSocket layer

${total} cases, ${total - bad.length} passed. INFORMATIONAL cases have no right answer;
nothing else but OK passes, NON-STRICT included.
Written by \`make conformance\` on ${day}; permessage-deflate is on,
with every message compressed.

| group | what | results |
| --- | --- | --- |
${rows.join("\n")}

${bad.length === 0 ? "No case failed." : notPassed}
`;
console.log(summary);
if (!process.env.CASES) writeFileSync(here("SUMMARY.md"), summary);
process.exit(bad.length === 0 ? 0 : 1);
