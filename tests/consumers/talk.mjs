// Connects over live, joins a room, says something and hears it: in Deno, Bun, or a worker of theirs.
import { createClient } from "@heartline/client/live";
import "@heartline/client";

export async function talk(url, token) {
  const heartline = createClient(url, { token });
  try {
    const heard = new Promise((resolve) => heartline.on("message:new", resolve));
    await heartline.join("conversation:lobby");
    await heartline.send("message:send", { conversationId: "lobby", content: "hello" });
    return (await heard).content;
  } finally {
    heartline.disconnect();
  }
}
