// Socket.IO on Node with ws: what most teams run.
import { createServer } from "node:http";
import { Server } from "socket.io";

const [port] = process.argv.slice(2);
const http = createServer();
const io = new Server(http, {
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
http.listen({ port: Number(port), host: "0.0.0.0", backlog: 4096 }, () => console.log(`listening on ${port}`));
