// Socket.IO on Node with its Redis adapter: a member of room `r` joins by itself, and
// `say` goes to all other members.
import { createServer } from "node:http";
import { createAdapter } from "@socket.io/redis-adapter";
import { createClient } from "redis";
import { Server } from "socket.io";

const [port, url] = process.argv.slice(2);
// The Redis of a measurement ends before its servers.
const [publisher, subscriber] = await Promise.all([0, 1].map(() => createClient({ url }).on("error", () => {}).connect()));
const http = createServer();
const io = new Server(http, { adapter: createAdapter(publisher, subscriber), transports: ["websocket"], perMessageDeflate: false });
io.on("connection", (socket) => {
  socket.on("join", ({ room }, ack) => {
    socket.join(room);
    ack?.({ ok: true });
  });
  socket.on("publish", ({ room, event, data }) => io.to(room).emit(event, data));
});
http.listen(Number(port), "127.0.0.1");
