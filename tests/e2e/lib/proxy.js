// A TCP proxy that can be cut like a cable.
import { once } from "node:events";
import { connect, createServer } from "node:net";

/** Passes on to a port of this machine; `cut` ends everything, and nobody gets through until `mend`. */
export async function proxy(port) {
  const open = new Set();
  let isCut = false;
  const server = createServer((client) => {
    if (isCut) return client.destroy();
    const node = connect(port, "127.0.0.1");
    for (const [from, to] of [
      [client, node],
      [node, client],
    ]) {
      open.add(from);
      from.on("error", () => {});
      from.on("close", () => (open.delete(from), to.destroy()));
      from.pipe(to);
    }
  }).listen(0, "127.0.0.1");
  await once(server, "listening");
  const { port: own } = server.address();
  const cut = () => {
    isCut = true;
    for (const socket of open) socket.destroy();
  };
  return {
    http: `http://127.0.0.1:${own}`,
    live: `ws://127.0.0.1:${own}/live`,
    cut,
    mend: () => void (isCut = false),
    kill() {
      cut();
      server.close();
    },
  };
}
