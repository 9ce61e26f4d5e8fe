const names = (text: string): ReadonlySet<string> => new Set(text.split(" "));

/** What the server says to one connection, and never in a room. */
export const PERSONAL = names(
  "server:hello server:drain connection:success connection:replaced connection:closed auth:error " +
    "session:resume presence:change heartbeat ping pong message:sent message:error " +
    "metrics:response room:joined room:left room:gap",
);

/** What only this client itself tells. */
export const OWN = names("room:in room:out room:lost room:missed room:snapshot session:back");
