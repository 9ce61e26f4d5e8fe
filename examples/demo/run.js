// Starts a node for development and the demo in front of it, until Ctrl-C.
import { spawn } from "node:child_process";
import { once } from "node:events";
import { createServer as listen } from "node:net";
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
const set = { "server.listen": `127.0.0.1:${port}`, "admin.listen": `127.0.0.1:${adminPort}`, "server.allowed_origins": '["*"]' };
const flags = Object.entries(set).flatMap(([key, value]) => ["--set", `${key}=${value}`]);
const node = spawn(binary, ["serve", "--dev", ...flags], { stdio: ["ignore", "ignore", "inherit"] });
let page;
let ending = false;

async function stop(code) {
  if (ending) return;
  ending = true;
  await page?.close();
  if (node.pid !== undefined && node.exitCode === null) {
    node.kill("SIGTERM");
    await once(node, "exit");
  }
  process.exit(code);
}
node.once("error", (error) => {
  console.error(`cannot start ${binary}: ${error.message}\nBuild it with \`make release\`.`);
  void stop(1);
});
node.once("exit", (code) => void stop(code ?? 1));

page = await createServer({ configFile: fileURLToPath(new URL("vite.config.js", import.meta.url)) });
// It would end the process before the node has ended.
process.removeAllListeners("SIGTERM");
for (const signal of ["SIGINT", "SIGTERM"]) process.once(signal, () => void stop(0));
await page.listen();
console.log(`
  The demo: ${page.resolvedUrls.local[0]}
  Open it twice, and once more as somebody else. Its node: ${process.env.HEARTLINE}
  Ctrl-C ends both.
`);
