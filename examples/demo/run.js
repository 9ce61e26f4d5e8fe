// Starts a node for development and the demo in front of it, until Ctrl-C. The page may kill the
// node, which comes back where it was.
import { spawn } from "node:child_process";
import { once } from "node:events";
import { mkdtempSync, rmSync } from "node:fs";
import { createServer as listen } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { createServer } from "vite";

const binary = process.env.HEARTLINE_BIN ?? fileURLToPath(new URL("../../target/release/heartline", import.meta.url));

async function freePort() {
  const server = listen();
  server.listen(0, "127.0.0.1");
  await once(server, "listening");
  const { port } = server.address();
  server.close();
  await once(server, "close");
  return port;
}

const [port, adminPort] = [await freePort(), await freePort()];
process.env.HEARTLINE = `http://127.0.0.1:${port}`;
const files = mkdtempSync(join(tmpdir(), "heartline-demo-"));
const set = {
  "server.listen": `127.0.0.1:${port}`,
  "admin.listen": `127.0.0.1:${adminPort}`,
  "server.allowed_origins": '["*"]',
  // What lets clients go on after `kill -9`.
  "recovery.window": "2m",
  "recovery.journal": join(files, "journal"),
  "store.url": `sqlite://${join(files, "heartline.db")}`,
};
const flags = Object.entries(set).flatMap(([key, value]) => ["--set", `${key}=${value}`]);
/** For how long a node that was killed stays away, in milliseconds: so that it is seen. */
const AWAY = 1500;

let node;
let page;
let ending = false;
let isKilled = false;

function start() {
  isKilled = false;
  node = spawn(binary, ["serve", "--dev", ...flags], { stdio: ["ignore", "ignore", "inherit"] });
  node.once("error", (error) => {
    console.error(`cannot start ${binary}: ${error.message}\nBuild it with \`make release\`.`);
    void stop(1);
  });
  node.once("exit", (code) => isKilled || void stop(code ?? 1));
}

async function stop(code) {
  if (ending) return;
  ending = true;
  await page?.close();
  if (node.pid !== undefined && node.exitCode === null && node.signalCode === null) {
    node.kill("SIGTERM");
    await once(node, "exit");
  }
  rmSync(files, { recursive: true, force: true });
  process.exit(code);
}

/** `DELETE /demo/node`, which no other page can ask for, kills the node. */
const killer = {
  name: "kill-the-node",
  configureServer({ middlewares }) {
    middlewares.use("/demo/node", (request, response) => {
      response.statusCode = request.method === "DELETE" && !isKilled && !ending ? 204 : 409;
      response.end();
      if (response.statusCode !== 204) return;
      isKilled = true;
      node.kill("SIGKILL");
      node.once("exit", () => setTimeout(() => ending || start(), AWAY));
    });
  },
};

start();
page = await createServer({ plugins: [killer], configFile: fileURLToPath(new URL("vite.config.js", import.meta.url)) });
// It would end the process before the node has ended.
process.removeAllListeners("SIGTERM");
for (const signal of ["SIGINT", "SIGTERM"]) process.once(signal, () => void stop(0));
await page.listen();
console.log(`
  The demo: ${page.resolvedUrls.local[0]}
  Open it twice, and once more as somebody else. Its node: ${process.env.HEARTLINE}
  Kill that node with the button, or with kill -9: nothing is missing afterwards.
  Ctrl-C ends both.
`);
