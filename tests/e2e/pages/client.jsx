// What the browser test drives: the packages as an application uses them.
import { StrictMode, useState } from "react";
import { createRoot } from "react-dom/client";
import { createClient as overSocketIo, socketIo } from "@heartline/client";
import { createClient as overLive, live } from "@heartline/client/live";
import { createClient as shared } from "@heartline/client/shared";
import {
  ConnectionStatus,
  HeartlineProvider,
  useEvent,
  usePresence,
  useRoom,
} from "@heartline/client/react";

const query = new URLSearchParams(location.search);
const fetchToken = async () =>
  (await fetch(`/token?user=${query.get("user")}&seconds=${query.get("seconds")}`)).text();
const token = query.get("token") ?? fetchToken;
const options = {
  token,
  autoConnect: false,
  backoff: 200,
  maxBackoff: 1000,
  ...(query.has("attempts") && { attempts: Number(query.get("attempts")) }),
};
const node = query.get("node");
const client = {
  live: () => overLive(`${node}/live`, options),
  socketio: () => overSocketIo(node, options),
  shared: () => shared(live(`${node}/live`), { ...options, name: query.get("user") }),
  "shared-socketio": () => shared(socketIo(node), { ...options, name: query.get("user") }),
}[query.get("transport")]();
window.heartline = client;
window.states = [];
client.subscribe((state) => window.states.push(state));

function Room({ name }) {
  const { joined, error } = useRoom(name);
  const [heard, setHeard] = useState([]);
  const presence = usePresence(["ann", "bob"]);
  useEvent("message:new", ({ content }) => setHeard((before) => [...before, content]));
  return (
    <section aria-label={`Room ${name}`}>
      <p id="joined">
        {joined
          ? "in the room"
          : error
            ? `not in the room: ${error.message}`
            : "not in the room yet"}
      </p>
      <ul id="presence" aria-label="Who is there">
        {[...presence.values()].map(({ userId, online }) => (
          <li key={userId}>{`${userId} is ${online ? "online" : "offline"}`}</li>
        ))}
      </ul>
      <ol id="messages" aria-label="Messages">
        {heard.map((content, index) => (
          <li key={index}>{content}</li>
        ))}
      </ol>
    </section>
  );
}

function Page() {
  const [shown, setShown] = useState(true);
  const [key, setKey] = useState(0);
  window.show = setShown;
  window.remount = () => setKey((key) => key + 1);
  if (!shown) return <main>Nothing is shown.</main>;
  return (
    <HeartlineProvider client={client} key={key}>
      <main>
        <h1>Lobby</h1>
        <ConnectionStatus />
        <Room name="conversation:lobby" />
      </main>
    </HeartlineProvider>
  );
}

createRoot(document.getElementById("app")).render(
  <StrictMode>
    <Page />
  </StrictMode>,
);
