// Presence as teams write it by hand: a key with a lifetime for each user, renewed at
// each heartbeat, and a look at each user's key at each sweep.
import { createClient } from "redis";

const [url, count] = process.argv.slice(2);
const HEARTBEAT = 25_000, SWEEP = 30_000;
const client = await createClient({ url }).on("error", () => {}).connect();
const users = Array.from({ length: Number(count) }, (_, index) => `presence:user${index}`);
for (const [index, user] of users.entries()) {
  const beat = () => client.set(user, "1", { EX: 35 });
  beat();
  setTimeout(() => setInterval(beat, HEARTBEAT), (HEARTBEAT * index) / users.length);
  setTimeout(() => setInterval(() => client.exists(user), SWEEP), (SWEEP * index) / users.length);
}
