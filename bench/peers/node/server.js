// Socket.IO on Node with ws: what most teams run.
import { readFileSync } from "node:fs";
import * as http from "node:http";
import * as https from "node:https";
import { Server } from "socket.io";

const [port] = process.argv.slice(2);
const { TLS_CERT, TLS_KEY } = process.env;
const server = TLS_CERT ? https.createServer({ cert: readFileSync(TLS_CERT), key: readFileSync(TLS_KEY) }) : http.createServer();
const io = new Server(server, {
  pingInterval: Number(process.env.PING_INTERVAL_MS ?? 25000),
  perMessageDeflate: false,
  httpCompression: false,
  serveClient: false,
});

io.on("connection", (socket) => {
  socket.on("echo", (data, ack) => ack(data));
  socket.on("join", ({ room }, ack) => {
    socket.join(room);
    ack({ ok: true, room });
  });
  socket.on("publish", ({ room, event, data }, ack) => {
    io.to(room).emit(event, data);
    ack?.({ ok: true, room });
  });
});

process.on("SIGTERM", () => process.exit(0));
server.listen({ port: Number(port), host: "0.0.0.0", backlog: 4096 }, () => console.log(`listening on ${port}`));
