// Bun's native WebSocket server, uWebSockets underneath. It speaks plain frames
// with the least work there can be, and as much of the live protocol as shows
// what the same work costs here: JSON in, JSON out, numbered publications.
const [port] = process.argv.slice(2);
const interval = Number(process.env.PING_INTERVAL_MS ?? 25000);

const offsets = new Map();

function live(socket, { type, id, topic, event, data }) {
  switch (type) {
    case "emit":
      socket.send(JSON.stringify({ type: "ack", id, data }));
      break;
    case "publish": {
      const offset = offsets.get(topic) + 1;
      offsets.set(topic, offset);
      server.publish(topic, JSON.stringify({ type: event, topic, data, offset }));
      break;
    }
    case "subscribe": {
      if (!offsets.has(topic)) offsets.set(topic, 0);
      socket.subscribe(topic);
      const offset = offsets.get(topic);
      socket.send(JSON.stringify({ type: "subscribed", topic, id, epoch: "1", offset, snapshot: [], recovered: false }));
      break;
    }
  }
}

const server = Bun.serve({
  port: Number(port),
  hostname: "0.0.0.0",
  ...(process.env.TLS_CERT && { tls: { cert: Bun.file(process.env.TLS_CERT), key: Bun.file(process.env.TLS_KEY) } }),
  fetch(request, server) {
    const data = { live: new URL(request.url).pathname === "/live" };
    return server.upgrade(request, { data }) ? undefined : new Response("a WebSocket is wanted", { status: 426 });
  },
  websocket: {
    // Bun pings by itself, before a connection has been idle for this long
    // (whole seconds, 8 at least).
    idleTimeout: Math.max(8, Math.round(interval / 1000) + 10),
    sendPings: true,
    perMessageDeflate: false,
    maxPayloadLength: 1_000_000,
    backpressureLimit: 1_000_000,
    closeOnBackpressureLimit: false,
    publishToSelf: true,
    open(socket) {
      if (socket.data.live) socket.send(JSON.stringify({ type: "hello", pingInterval: interval }));
    },
    message(socket, message) {
      switch (message[0]) {
        case "{":
          live(socket, JSON.parse(message));
          break;
        case "e":
          socket.send(message);
          break;
        case "p":
          server.publish("room", message);
          break;
        case "s":
          socket.subscribe("room");
          socket.send(message);
          break;
      }
    },
  },
});

process.on("SIGTERM", () => process.exit(0));
console.log(`listening on ${server.port}`);
