// A TCP proxy between clients and a node that breaks connections as networks do.
import { once } from "node:events";
import { connect, createServer } from "node:net";

/** One connection: the client's end and the node's. */
class Pair {
  constructor(client, node) {
    Object.assign(this, { client, node, left: { client: Infinity, node: Infinity } });
    for (const [from, to, name] of [
      [client, node, "node"],
      [node, client, "client"],
    ]) {
      from.setNoDelay(true);
      from.on("error", () => {});
      from.on("data", (data) => this.pass(data, to, name));
      // After what was passed before.
      from.on("end", () => to.end());
      from.on("close", () => !this.held && to.destroy());
    }
  }

  pass(data, to, name) {
    if (this.held || to.destroyed) return;
    const some = data.subarray(0, this.left[name]);
    this.left[name] -= some.length;
    to.write(some);
    if (this.left[name] <= 0) this.broken();
  }

  /** Lets so many bytes more go to the client, or the node, and then does `what`. */
  after(bytes, what, to = "client") {
    this.left[to] = bytes;
    this.broken = () => what(this);
  }

  /** Both ends see a connection that was closed. */
  cut() {
    this.client.destroy();
    this.node.destroy();
  }

  /** Both ends see a reset. */
  reset() {
    this.client.resetAndDestroy();
    this.node.resetAndDestroy();
  }

  /** The client sees that it is gone; the node hears nothing any more, not even that. */
  halfOpen() {
    this.held = true;
    this.client.destroy();
  }

  /** Nothing gets through any more, and nobody is told. */
  stop() {
    this.held = true;
    this.client.pause();
    this.node.pause();
  }
}

export class Proxy {
  pairs = new Set();
  refusing = false;

  /** The node's port: new connections go there. */
  to;

  /** Called with each new connection. */
  onPair = () => {};

  static async to(port) {
    const proxy = new Proxy();
    proxy.to = port;
    proxy.server = createServer({ pauseOnConnect: false }, (client) => {
      if (proxy.refusing) return client.destroy();
      const pair = new Pair(client, connect(proxy.to, "127.0.0.1"));
      proxy.pairs.add(pair);
      for (const end of [pair.client, pair.node]) {
        end.on("close", () => {
          if (pair.client.destroyed && pair.node.destroyed) proxy.pairs.delete(pair);
        });
      }
      proxy.onPair(pair);
    });
    proxy.server.listen(0, "127.0.0.1");
    await once(proxy.server, "listening");
    proxy.port = proxy.server.address().port;
    proxy.http = `http://127.0.0.1:${proxy.port}`;
    proxy.live = `ws://127.0.0.1:${proxy.port}/live`;
    return proxy;
  }

  /** Does `what` to all connections whose client is still there. */
  all(what) {
    for (const pair of [...this.pairs]) if (!pair.client.destroyed) pair[what]();
  }

  close() {
    for (const pair of this.pairs) pair.cut();
    this.server.close();
  }
}

/** The whole of it as one cable: `cut` ends everything, and nobody gets through until `mend`. */
export async function proxy(port) {
  const all = await Proxy.to(port);
  const cut = () => {
    all.refusing = true;
    all.all("cut");
  };
  return {
    http: all.http,
    live: all.live,
    cut,
    mend: () => void (all.refusing = false),
    kill() {
      cut();
      all.close();
    },
  };
}
