// Clients who watch, each behind a proxy of its own, and write down what they are told.
import { Client } from "../../clients/js/dist/client.js";
import { socketIo as overSocketIo } from "../../clients/js/dist/index.js";
import { live as overLive } from "../../clients/js/dist/live.js";
import { watchRoom, watchUsers } from "../../clients/js/dist/presence.js";
import { Live, WebSocket, socketIo } from "../e2e/lib/clients.js";
import { Proxy } from "../e2e/lib/proxy.js";
import { token } from "../e2e/lib/server.js";

/** Before something is asked again, in milliseconds. */
const PAUSE = 500;

/** What all of them have: a name, a way to a node that may change, and the history. */
class Observer {
  /** `announce`: the room that they have to be in to hear of users, if it is so. */
  constructor(name, proxy, { history, users, room, heartbeat, announce }) {
    Object.assign(this, { name, proxy, history, users, room, heartbeat, announce });
    this.isOver = false;
    this.timers = new Set();
  }

  note(what, detail) {
    return this.isOver ? 0 : this.history.add(what, { observer: this.name, ...detail });
  }

  here({ nodeId }) {
    this.isHere = true;
    this.note("here", { node: nodeId });
  }

  away() {
    if (this.isHere) this.note("away");
    this.isHere = false;
  }

  edge(online, { userId: user, rev }) {
    if (this.users.includes(user)) this.note("edge", { user, online, rev });
  }

  /** Asks who is online by `presence:get`; `get` gives the answer, or nothing. */
  async askOnce(get) {
    const asked = this.history.now;
    const answer = await get().catch(() => undefined);
    if (answer?.users)
      this.note("answer", {
        asked,
        asOf: answer.asOf,
        users: answer.users.map(({ userId, online, rev, stale, devices }) => ({
          userId,
          online,
          rev,
          stale,
          devices,
        })),
      });
  }

  later(act, ms = PAUSE) {
    const timer = setTimeout(() => {
      this.timers.delete(timer);
      if (!this.isOver) act();
    }, ms);
    this.timers.add(timer);
  }

  /** To another node: what there is is closed, reset, or goes on unheard. */
  move(port, how = "cut") {
    this.proxy.to = port;
    this.proxy.all(how);
  }

  close() {
    this.isOver = true;
    for (const timer of this.timers) clearTimeout(timer);
    this.end();
    this.proxy.close();
  }
}

const told = (users) =>
  Object.fromEntries(
    users.map((user) => [
      user.userId,
      user.in === undefined ? [user.online, user.rev] : [user.online, user.rev, user.in],
    ]),
  );

/** The client for browsers, and the pictures that it keeps. */
class Mirror extends Observer {
  begin(dial) {
    const options = { token: token(this.name), backoff: 50, maxBackoff: 400, connectTimeout: 4000 };
    const client = (this.client = new Client(dial, options));
    client.on("server:hello", (hello) => this.here(hello));
    client.subscribe(({ status }) => status !== "connected" && this.away());
    client.on("user:online", (user) => this.edge(true, user));
    client.on("user:offline", (user) => this.edge(false, user));
    client.on("room:in", () => this.note("joined"));
    if (this.announce) client.join(this.announce);
    this.watching = [
      ["users", watchUsers(client, this.users)],
      [`room:${this.room}`, watchRoom(client, this.room)],
    ];
    for (const [of, watching] of this.watching) {
      const note = (picture) =>
        this.note("picture", {
          of,
          status: picture.state.status,
          code: picture.state.code,
          users: told([...picture.values()]),
        });
      note(watching.picture);
      watching.subscribe(note);
    }
  }

  ask() {
    if (this.isHere)
      void this.askOnce(() => this.client.request("presence:get", { users: this.users }));
  }

  end() {
    for (const [, watching] of this.watching) watching.close();
    this.client.disconnect();
  }
}

/** A client that speaks the protocol itself: it asks, and writes down what it is told. */
class Plain extends Observer {
  life = 0;
  #places = new Map();

  get scopes() {
    return [
      ["users", { users: this.users }],
      [`room:${this.room}`, { room: this.room }],
    ];
  }

  begun() {
    this.life++;
    if (this.announce) this.enter();
    for (const [of, what] of this.scopes) this.watch(of, what);
  }

  enter() {
    const life = this.life;
    this.join(this.announce, (ok) => {
      if (life !== this.life || this.isOver) return;
      if (ok) this.note("joined");
      else this.later(() => life === this.life && this.enter());
    });
  }

  watch(of, what) {
    const after = this.#places.get(of);
    const life = this.life;
    this.note("watch", { of });
    this.request("presence:watch", { ...what, ...(after && { after }) }, (answer) => {
      if (life !== this.life || this.isOver) return;
      if (!answer?.users) return this.later(() => life === this.life && this.watch(of, what));
      const { epoch, rev, head, recovered, stale, users } = answer;
      this.#places.set(of, { epoch, rev });
      this.note("watched", { of, epoch, rev, head, recovered, stale, users: told(users) });
    });
  }

  changed({ epoch, rev, room, users, stale, ended }) {
    const of = room === undefined ? "users" : `room:${room}`;
    this.note("change", { of, epoch, rev, stale, ended, users: told(users ?? []) });
    const place = this.#places.get(of);
    if (place?.epoch !== epoch) return;
    place.rev = rev;
    const [, what] = this.scopes.find(([name]) => name === of);
    const life = this.life;
    if (ended) this.later(() => life === this.life && this.watch(of, what));
  }

  ask() {
    const get = () =>
      new Promise((resolve) => this.request("presence:get", { users: this.users }, resolve));
    if (this.isHere) void this.askOnce(get);
  }
}

class PlainSocketIo extends Plain {
  begin(transports) {
    const socket = (this.socket = socketIo(this.proxy.http, {
      auth: { token: token(this.name) },
      transports,
      timeout: 4000,
    }));
    socket.offAny();
    socket.on("server:hello", (hello) => {
      this.here(hello);
      this.begun();
    });
    socket.on("disconnect", () => this.away());
    socket.on("presence:change", (change) => this.changed(change));
    socket.on("user:online", (user) => this.edge(true, user));
    socket.on("user:offline", (user) => this.edge(false, user));
  }

  request(event, data, then) {
    this.socket
      .timeout(5000)
      .emit(event, data, (error, answer) => then(error ? undefined : answer));
  }

  join(room, then) {
    this.request("join", { room }, (answer) => then(answer?.ok));
  }

  end() {
    this.socket.disconnect();
  }
}

class PlainLive extends Plain {
  begin() {
    const live = new Live(`${this.proxy.live}?token=${token(this.name)}`);
    const asked = new Map();
    live.heard.push = () => 0;
    this.live = live;
    this.asked = asked;
    let late;
    const alive = (ms = this.heartbeat) => {
      clearTimeout(late);
      late = setTimeout(() => live.close(), ms);
    };
    alive(4000);
    live.ws.on("ping", () => alive());
    live.ws.on("message", (text) => {
      if (this.live !== live || this.isOver) return;
      alive();
      const { type, id, data, ...rest } = JSON.parse(text.toString());
      const said = data ?? rest;
      if (type === "hello") {
        this.here(said);
        this.begun();
      } else if (asked.has(id)) {
        asked.get(id)(said, type);
        asked.delete(id);
      } else if (type === "presence:change") {
        this.changed(said);
      } else if (type === "user:online" || type === "user:offline") {
        this.edge(type === "user:online", said);
      }
    });
    live.closed.then(() => {
      clearTimeout(late);
      this.away();
      this.later(() => this.begin(), 50 + Math.random() * 200);
    });
  }

  request(event, data, then) {
    this.say({ type: "emit", event, data }, then);
  }

  join(topic, then) {
    this.say({ type: "subscribe", topic }, (_, type) => then(type && type !== "error"));
  }

  say(frame, then) {
    if (this.live.ws.readyState !== 1) return then(undefined);
    const id = `q${this.live.nextId++}`;
    this.asked.set(id, then);
    this.live.send({ ...frame, id });
  }

  end() {
    this.live.close();
  }
}

const WAYS = [
  [
    "mirror-io",
    Mirror,
    (one) => one.begin(overSocketIo(one.proxy.http, { transports: ["websocket"] })),
  ],
  [
    "mirror-live",
    Mirror,
    (one) => one.begin(overLive(one.proxy.live, (url) => new WebSocket(url))),
  ],
  ["plain-io", PlainSocketIo, (one) => one.begin(["websocket"])],
  ["plain-live", PlainLive, (one) => one.begin()],
];

/** One of each way at each node. */
export async function observers(nodes, shared) {
  const all = [];
  for (const node of nodes)
    for (const [way, Kind, begin] of WAYS) {
      const one = new Kind(`${way}-${node.index}`, await Proxy.to(node.port), shared);
      all.push(one);
      begin(one);
    }
  return all;
}
