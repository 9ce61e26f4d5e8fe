/** What the server says to one connection, and never in a room. */
export const PERSONAL: ReadonlySet<string> = new Set([
  "server:hello",
  "server:drain",
  "connection:success",
  "connection:replaced",
  "auth:error",
  "session:resume",
  "presence:change",
  "heartbeat",
  "ping",
  "pong",
  "message:sent",
  "message:error",
  "metrics:response",
  "room:joined",
  "room:left",
  "room:gap",
]);
