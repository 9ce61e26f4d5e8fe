// What a bundler is given: the live transport and the React binding.
import { createRoot } from "react-dom/client";
import { createClient } from "@heartline/client/live";
import { ConnectionStatus, HeartlineProvider, useRoom } from "@heartline/client/react";

const heartline = createClient("wss://realtime.example.com/live", { autoConnect: false });

function Room() {
  const { joined } = useRoom("lobby");
  return <p>{joined ? "here" : "on the way"}</p>;
}

createRoot(document.getElementById("app")).render(
  <HeartlineProvider client={heartline}>
    <ConnectionStatus />
    <Room />
  </HeartlineProvider>,
);
