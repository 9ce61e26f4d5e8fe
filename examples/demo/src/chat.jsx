import { useEffect, useRef, useState } from "react";
import { ConnectionStatus, useConnectionStatus, useEvent, useHeartline, useMissed, usePresence, useRoom } from "@heartline/client/react";

const ROOMS = ["lobby", "kitchen", "garden"];
/** How long somebody is typing after the last key, in milliseconds. */
const TYPING = 3000;
const clock = new Intl.DateTimeFormat(undefined, { hour: "2-digit", minute: "2-digit" });
const text = (value) => (typeof value === "string" ? value : "");
/** Times that a `Date` can be. */
const isTime = (at) => typeof at === "number" && Math.abs(at) <= 8.64e15;
const time = (at) => (isTime(at) ? clock.format(at) : "");

/**
 * What is said in a room may be said by anybody in it, in the server's name too: a message is what
 * has the form of one, and nothing else is shown.
 */
function messageOf(data) {
  const { id, tempId, conversationId, senderId, content, createdAt } = data ?? {};
  if (typeof id !== "string" || typeof content !== "string") return undefined;
  return {
    id,
    content: content.slice(0, 2000),
    conversationId: text(conversationId),
    senderId: text(senderId).slice(0, 64),
    createdAt: isTime(createdAt) ? createdAt : Date.now(),
    ...(typeof tempId === "string" && { tempId }),
  };
}

/** Everybody who was online when this page came, or came since. */
function usePeople() {
  const { status } = useConnectionStatus();
  const [names, setNames] = useState([]);
  const add = (more) => setNames((before) => [...new Set([...before, ...more])].sort());
  useEffect(() => {
    if (status !== "connected") return;
    fetch("/dev/online")
      .then((response) => response.json())
      .then(({ users }) => add(users.map(({ userId }) => userId)))
      .catch(() => {});
  }, [status]);
  useEvent("user:online", (user) => text(user?.userId) && add([user.userId]));
  return usePresence(names, { refresh: 5000 });
}

/** Who is typing in a room, except this one. */
function useTyping(room, me) {
  const client = useHeartline();
  const [until, setUntil] = useState({});
  const told = useRef(0);
  useEvent("typing", (data) => {
    const user = text(data?.user).slice(0, 64);
    if (user && data.in === room && user !== me) setUntil((before) => ({ ...before, [user]: Date.now() + TYPING }));
  });
  useEvent("message:new", (data) => setUntil(({ [text(data?.senderId)]: _, ...others }) => others));
  useEffect(() => {
    const next = Math.min(...Object.values(until)) - Date.now();
    if (!Number.isFinite(next)) return;
    const timer = setTimeout(() => setUntil((all) => Object.fromEntries(Object.entries(all).filter(([, at]) => at > Date.now()))), Math.max(next, 0) + 10);
    return () => clearTimeout(timer);
  }, [until]);
  useEffect(() => setUntil({}), [room]);
  const tell = () => {
    if (Date.now() - told.current < TYPING / 2) return;
    told.current = Date.now();
    // Worth nothing later: said now, or not at all.
    client.emit("publish", { room, event: "typing", data: { user: me, in: room }, key: me });
  };
  return [Object.keys(until), tell];
}

/** A room's messages since this page came, and this one's own on their way. */
function useMessages(room) {
  const client = useHeartline();
  const [all, setAll] = useState([]);
  const put = (message) =>
    setAll((before) => {
      const index = before.findIndex(({ tempId, id }) => (message.tempId && tempId === message.tempId) || (message.id && id === message.id));
      return index < 0 ? [...before, message].slice(-500) : before.with(index, { ...before[index], ...message });
    });
  useEvent("message:new", (data) => {
    const message = messageOf(data);
    if (message) put(message);
  });
  // It has no place to load them from: a real chat would read its history here.
  useMissed(room, () => put({ id: `missed-${Date.now()}`, conversationId: room, senderId: "", content: "Something may be missing here.", createdAt: Date.now() }));
  const send = (content, senderId) => {
    const tempId = crypto.randomUUID();
    put({ tempId, conversationId: room, senderId, content, createdAt: Date.now(), fate: "sending…" });
    client.send("chat:send", { room, content, tempId }).then(
      () => put({ tempId, fate: undefined }),
      (error) => put({ tempId, fate: `not sent: ${error.message}` }),
    );
  };
  return [all.filter(({ conversationId }) => conversationId === room), send];
}

function Latency() {
  const client = useHeartline();
  const { status } = useConnectionStatus();
  const [ms, setMs] = useState();
  useEffect(() => {
    if (status !== "connected") return setMs(undefined);
    const ask = () => client.ping().then((ms) => setMs(Math.round(ms)), () => {});
    ask();
    const timer = setInterval(ask, 10_000);
    return () => clearInterval(timer);
  }, [client, status]);
  return ms === undefined ? null : <span className="latency">{ms} ms</span>;
}

/** Ends the node as a crash would. */
function Kill() {
  const [isKilled, setKilled] = useState(false);
  const kill = async () => {
    setKilled(true);
    await fetch("/demo/node", { method: "DELETE" }).catch(() => {});
    setTimeout(() => setKilled(false), 3000);
  };
  return (
    <p>
      <button onClick={kill} disabled={isKilled}>
        Kill the node
      </button>{" "}
      as <code>kill -9</code> does. It is back in two seconds, and nothing is missing.
    </p>
  );
}

export function Chat({ me, onLeave }) {
  const [room, setRoom] = useState(ROOMS[0]);
  const { status } = useConnectionStatus();
  const { joined, error } = useRoom(room);
  const people = usePeople();
  const [messages, send] = useMessages(room);
  const [typing, tellTyping] = useTyping(room, me);
  const end = useRef(null);
  useEffect(() => void end.current?.scrollIntoView({ block: "end" }), [messages.length]);
  const submit = (event) => {
    event.preventDefault();
    const form = event.currentTarget;
    const content = new FormData(form).get("content").trim();
    if (content) send(content, me);
    form.reset();
  };
  return (
    <div className="chat">
      <header>
        <h1>Heartline demo</h1>
        <ConnectionStatus />
        <Latency />
        <span className="me">
          You are <b>{me}</b>. <button onClick={onLeave}>Leave</button>
        </span>
      </header>
      <nav aria-label="Rooms">
        {ROOMS.map((name) => (
          <button key={name} aria-pressed={name === room} onClick={() => setRoom(name)}>
            {name}
          </button>
        ))}
      </nav>
      <main>
        <h2>
          {room} {!joined && <small>{error ? `closed to you: ${error.message}` : "joining…"}</small>}
        </h2>
        <ol className="messages" aria-label="Messages" tabIndex={0}>
          {messages.map(({ id, tempId, senderId, content, createdAt, fate }) => (
            <li key={tempId ?? id} className={senderId === me ? "mine" : undefined}>
              <b>{senderId}</b> <time dateTime={new Date(createdAt).toISOString()}>{time(createdAt)}</time>
              {fate && <em> {fate}</em>}
              <p>{content}</p>
            </li>
          ))}
          <li ref={end} className="end" aria-hidden="true" />
        </ol>
        <p className="typing" aria-live="polite">
          {typing.length > 0 && `${typing.join(", ")} ${typing.length > 1 ? "are" : "is"} typing…`}
        </p>
        <form onSubmit={submit}>
          <label className="hidden" htmlFor="content">
            Message
          </label>
          <input id="content" name="content" maxLength={500} autoComplete="off" placeholder={`Say something in ${room}`} onInput={tellTyping} />
          <button>Send</button>
        </form>
      </main>
      <aside>
        <h2>People {status !== "connected" && <small>as last heard</small>}</h2>
        <ul>
          {[...people.values()]
            .sort((a, b) => Number(b.online) - Number(a.online) || a.userId.localeCompare(b.userId))
            .map(({ userId, online, devices = 1, lastSeenAt }) => (
              <li key={userId} data-online={online}>
                <b>{userId}</b>
                <span>{online ? `${devices} ${devices === 1 ? "device" : "devices"}` : time(lastSeenAt) ? `left at ${time(lastSeenAt)}` : "away"}</span>
              </li>
            ))}
        </ul>
        <p>
          <a href={location.pathname} target="_blank" rel="noopener">
            Another tab
          </a>{" "}
          is another device, or another person.
        </p>
        <Kill />
      </aside>
    </div>
  );
}
