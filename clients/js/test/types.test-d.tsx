// What the public surface must and must not accept: compiled, never run.
import { watchRoom, watchUsers, type Watching } from "../dist/presence.js";
import {
  createClient,
  HeartlineError,
  SignedOut,
  type Cause,
  type Client,
  type Pending,
  type State,
} from "../dist/index.js";
import {
  createClient as createLive,
  createSmallClient,
  page,
  resuming,
  rooms,
} from "../dist/live.js";
import { indexedDb, openOutbox, warnBeforeUnload, type OutboxStore } from "../dist/outbox.js";
import { checkpoint, inbox, joinByInvite, parseInvite, signIn } from "../dist/people.js";
import {
  ConnectionStatus,
  HeartlineProvider,
  useConnectionStatus,
  useHeartline,
  useMissed,
  usePresence,
  useRoom,
} from "../dist/react.js";

interface Incoming {
  "message:new": { id: string; content: string };
}
interface Outgoing {
  "message:send": { conversationId: string; content: string };
}

const typed = createClient<Incoming, Outgoing>("https://example.com", {
  token: async () => "t",
  attempts: 3,
});
typed.on("message:new", (message) => message.content.length);
typed.on("user:online", ({ userId, at }) => `${userId} ${at + 1}`);
// @ts-expect-error: no such member
typed.on("message:new", (message) => message.nothing);
// @ts-expect-error: no such event
typed.on("message:old", () => {});
const off: () => void = typed.on("heartbeat", ({ timestamp }) => timestamp.toFixed());
off();
typed.on("connection:success", ({ userType }) => userType?.length);
typed.on("message:sent", ({ tempId, message }) => [tempId, message.offset + 1]);
typed.on("message:error", ({ error, code, retryAfterMs = 0, tempId }) => [
  error.length + code.length + retryAfterMs,
  tempId,
]);
// @ts-expect-error: no such member
typed.on("message:error", ({ message }) => message);
void typed
  .send("message:send", { conversationId: "1", content: "hi" }, { timeout: 1, retries: 0 })
  .then(({ ok }) => ok);
// @ts-expect-error: the content is missing
void typed.send("message:send", { conversationId: "1" });
// @ts-expect-error: no such event
typed.emit("message:sent", {});
const sent: boolean = typed.emit("message:send", { conversationId: "1", content: "hi" });
void sent;

// What a gateway answers is known, and a mistyped event does not compile.
void typed.request("history:get", { conversationId: "1", limit: 1 });
void typed.request("message:send", { conversationId: "1", content: "hi" }, 500);
// @ts-expect-error: no such event
void typed.request("history:got", {});
// @ts-expect-error: the conversation is missing
void typed.request("history:get", {});
void typed.publish("lobby", "message:new", { id: "1", content: "hi" });
// @ts-expect-error: no such event
void typed.publish("lobby", "message:now", {});
// @ts-expect-error: no such member
void typed.publish("lobby", "message:new", { text: "hi" });

const room = typed.room("lobby");
void room.join().then(() => room.state.status === "in");
room.on("message:new", ({ content }, { offset }) => content.length + (offset ?? 0));
// @ts-expect-error: no such event
room.on("message:now", () => {});
void room.publish("message:new", { id: "1", content: "hi" });
// @ts-expect-error: no such event
void room.publish("message:now", {});
void room.history({ before: 7 }).then(({ messages: [first] }) => first?.content);
watchRoom(room).close();
// @ts-expect-error: a state is not to be changed
room.state.status = "in";

createClient("https://example.com", { token: undefined, debug: undefined });
createClient("https://example.com", {
  token: async ({ signal }) => {
    const response = await fetch("/my-token", { signal });
    if (response.status === 401) throw new SignedOut();
    return response.text();
  },
  debug: console.debug,
});
// @ts-expect-error: a token is a text
createClient("https://example.com", { token: async () => 7 });
void typed.setToken("t").then(() => {});
const pending: Pending = typed.pending;
typed.subscribePending(({ count, bytes, oldest }) => count + bytes + (oldest ?? 0));
// @ts-expect-error: what waits is not to be changed
pending.count = 0;
function because({ what, code, message }: Cause): string {
  return what === "drained" || what === "offline" ? what : `${code} ${message}`;
}
const small = createSmallClient<Incoming, Outgoing>("wss://example.com/live");
small.on("message:new", ({ content }) => content.length);
void small.send("message:send", { conversationId: "1", content: "hi" }).then(({ ok }) => ok);
void inbox(small);
openOutbox(small, indexedDb("ann")).close();
watchUsers(small, ["bob"]).close();
// @ts-expect-error: rooms were not taken
void small.join("lobby");
// @ts-expect-error: nor were they here
void createSmallClient("wss://example.com/live", { page, resuming }).join("lobby");
// @ts-expect-error: who is in no rooms joins none by an invite
void joinByInvite(small, "k3Jd81LmQz");
const roomy = createSmallClient<Incoming, Outgoing>("wss://example.com/live", { rooms, resuming });
void roomy.join("lobby").then(() => roomy.isIn("lobby"));
void joinByInvite(roomy, "k3Jd81LmQz");
// @ts-expect-error: rooms as objects are not in it
roomy.room("lobby");
// @ts-expect-error: no such part
createSmallClient("wss://example.com/live", { history: true });
<HeartlineProvider client={roomy}>hi</HeartlineProvider>;
// @ts-expect-error: what is shown may be in rooms
<HeartlineProvider client={small}>hi</HeartlineProvider>;
createLive("wss://example.com/live", { WebSocket });
const store: OutboxStore = indexedDb("ann");
const outbox = openOutbox(typed, store, {
  failed: ({ tempId }, { code, sent }) => [tempId, code, sent],
});
void outbox.send("message:send", { content: "hi" }).then(({ ok }) => ok);
// @ts-expect-error: only what has a name is kept
void outbox.send("message:send", "hi");
warnBeforeUnload(typed)();
const anyone: Client<any, any> = typed;
void anyone;

function inWords(state: State): string {
  switch (state.status) {
    case "connecting":
      return "";
    case "connected":
      return state.socketId;
    case "reconnecting":
      return `${state.attempt} ${state.nextRetryAt} ${because(state.cause)}`;
    case "failed":
      return because(state.cause);
    case "disconnected":
      return state.reason;
  }
}
typed.subscribe((state) => {
  inWords(state);
  // @ts-expect-error: only some states have a reason
  state.reason;
  // @ts-expect-error: states are not to be changed
  state.status = "failed";
});

typed.on("room:missed", ({ room, filled }) => filled || room.length);
typed.on("room:snapshot", ({ snapshot }) =>
  snapshot.map(({ key, data, offset }) => [key, data, offset + 1]),
);
typed.on("session:back", ({ recovered }): boolean => recovered);
typed.on("session:resume", ({ metadata, version }) => [metadata, version + 1]);
// @ts-expect-error: a snapshot is not to be changed
typed.on("room:snapshot", ({ snapshot }) => snapshot.pop());
const code: string | undefined = parseInvite("k3Jd81LmQz");
void code;
void joinByInvite(typed, "k3Jd81LmQz").then(({ room }) => room.length);
void inbox(typed).then(({ conversations: [first] }) => first?.unread.toFixed());
void checkpoint(typed, { tab: 1 }, { ifVersion: 1 }).then((version) => version + 1);
void signIn("https://example.com", "G", async (text) => text.trim()).then(({ token }) => token);
function words(error: HeartlineError): string {
  switch (error.code) {
    case "FORBIDDEN":
    case "INVITE_EXPIRED":
    case "UNCONFIRMED":
      return error.code;
    default:
      return "";
  }
}
void words;

// Without names for events, any will do.
const loose = createLive("wss://example.com/live");
loose.on("anything", (data) => data.whatever);
loose.emit("anything", 1);
// @ts-expect-error: the queue is a number
createLive("wss://example.com/live", { queue: "long" });
// @ts-expect-error: what socket.io-client takes is its own
createLive("wss://example.com/live", { socketio: {} });
createClient("https://example.com", { socketio: { transports: ["polling"] } });

const watching: Watching = watchUsers(loose, new Set(["ann"]));
const heard: () => void = watching.subscribe(({ state, size }) => [state.status, size]);
watchRoom(typed, "lobby").close();
heard();
loose.on("presence:change", ({ rev, users, ended }) => [rev + 1, users[0]?.in, ended?.length]);
// @ts-expect-error: a picture is never changed
watching.picture.set("ann", {});

loose.presence(["a"]).then(
  ([one]) => one?.online,
  (error: unknown) => error instanceof HeartlineError && error.code,
);

function Page() {
  const state = useConnectionStatus();
  const { joined, error } = useRoom("lobby");
  const people = usePresence(["ann"], { refresh: 5000 });
  const online: boolean | undefined = people.get("ann")?.online;
  const devices: number | undefined = people.get("ann")?.devices;
  const here = usePresence({ room: "lobby" }).state;
  const since: number | undefined = here.status === "stale" ? here.since : devices;
  // @ts-expect-error: only what is stale has a since
  void here.since;
  // @ts-expect-error: a room has a name
  usePresence({ room: 7 });
  useMissed("lobby", () => location.reload());
  const client = useHeartline<typeof typed>();
  client.on("message:new", ({ id }) => id);
  return (
    <p title={error?.message ?? inWords(state)} data-since={since}>
      {String(joined && online)} <ConnectionStatus className="x" labels={({ status }) => status} />
    </p>
  );
}
export const app = (
  <HeartlineProvider client={typed}>
    <Page />
  </HeartlineProvider>
);
// @ts-expect-error: a client is needed
export const none = <HeartlineProvider />;
