/** What the server says to one connection, and never in a room. */
export const PERSONAL =
  /^(server:(hello|drain)|connection:(success|replaced|closed)|auth:error|session:resume|presence:change|heartbeat|ping|pong|message:(sent|error)|metrics:response|room:(joined|left|gap))$/;

/** What only this client itself tells. */
export const OWN = /^(room:(in|out|lost|missed|snapshot)|session:back)$/;
