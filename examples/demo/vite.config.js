// One origin for the page and the node, as behind a proxy in production.
import { defineConfig } from "vite";

const node = process.env.HEARTLINE ?? "http://127.0.0.1:8080";

export default defineConfig({
  root: import.meta.dirname,
  resolve: { dedupe: ["react", "react-dom"] },
  server: {
    host: "127.0.0.1",
    port: Number(process.env.PORT ?? 5173),
    proxy: { "/dev": node, "/socket.io": { target: node, ws: true }, "/live": { target: node, ws: true } },
  },
});
