// A server component; what it shows of the client is rendered here first.
import { ConnectionStatus } from "@heartline/client/react";
import { Realtime } from "./realtime.jsx";
import { Room } from "./room.jsx";

export default function Page() {
  return (
    <Realtime>
      <ConnectionStatus />
      <Room name="lobby" />
    </Realtime>
  );
}
