// Socket.IO on Node with its connection state recovery, as its documentation sets it up: in
// memory, or with @socket.io/redis-streams-adapter where a URL is given.
//
//   node tests/torture/peer.js PORT [REDIS_URL]
import { createServer } from "node:http";
import { Server } from "socket.io";

const [port, url] = process.argv.slice(2);
const number = (name, usual) => Number(process.env[name] ?? usual);
const options = {
  pingInterval: number("PING_INTERVAL_MS", 25000),
  pingTimeout: number("PING_TIMEOUT_MS", 20000),
  connectionStateRecovery: { maxDisconnectionDuration: 60000, skipMiddlewares: true },
  perMessageDeflate: false,
  serveClient: false,
};
if (url) {
  const { createAdapter } = await import("@socket.io/redis-streams-adapter");
  const { createClient } = await import("redis");
  const client = await createClient({ url })
    .on("error", () => {})
    .connect();
  options.adapter = createAdapter(client);
}

const http = createServer();
const io = new Server(http, options);
io.on("connection", (socket) => {
  socket.on("join", ({ room }, ack) => {
    socket.join(room);
    ack?.({ ok: true, room });
  });
  socket.on("publish", ({ room, event, data }, ack) => {
    io.to(room).emit(event, data);
    ack?.({ ok: true, room });
  });
});
// As Heartline's API says it: a backend publishes into a room, or into each of so many.
http.on("request", async (request, response) => {
  const [, room] = request.url.match(/^\/v1\/rooms\/([^/]+)\/publish$/) ?? [];
  if (!room) {
    if (request.url === "/healthz") response.end("ok");
    return;
  }
  let body = "";
  for await (const part of request) body += part;
  const { event, data } = JSON.parse(body);
  io.to(room).emit(event, data);
  response.end("{}");
});
http.listen({ port: Number(port), host: "127.0.0.1", backlog: 4096 });
// A deploy: whoever is connected is let go, and comes back elsewhere.
process.on("SIGTERM", () => io.close(() => process.exit(0)));
