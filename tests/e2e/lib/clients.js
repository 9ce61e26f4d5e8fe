// Clients whose events can be awaited.
import { io } from "socket.io-client";
import WebSocket from "ws";
import { PATIENCE, token, until, within } from "./server.js";

export { default as msgpack } from "socket.io-msgpack-parser";
export { WebSocket };

/** A socket.io-client that remembers all that it heard. */
export function socketIo(url, options = {}) {
  const socket = io(url, {
    forceNew: true,
    reconnectionDelay: 100,
    reconnectionDelayMax: 300,
    ...options,
  });
  const heard = [];
  socket.onAny((event, ...args) => heard.push({ event, args, at: Date.now() }));
  return Object.assign(socket, {
    heard,
    /** The first event of this name, come or still to come; its first argument. */
    hear: async (event, fits = () => true, ms = PATIENCE) => {
      const find = () => heard.find((one) => one.event === event && fits(...one.args));
      return (await until(find, `event ${event}; heard ${heard.map((one) => one.event)}`, ms))
        .args[0];
    },
    count: (event) => heard.filter((one) => one.event === event).length,
    connection: () =>
      within(
        new Promise((resolve, reject) => {
          if (socket.connected) return resolve(socket);
          socket.once("connect", () => resolve(socket));
          socket.once("connect_error", reject);
        }),
        "connect",
      ),
    refusal: () =>
      within(new Promise((resolve) => socket.once("connect_error", resolve)), "connect_error"),
    ending: () =>
      within(new Promise((resolve) => socket.once("disconnect", resolve)), "disconnect"),
    ask: (event, ...args) => socket.timeout(PATIENCE).emitWithAck(event, ...args),
  });
}

/** A plain WebSocket of the live protocol. */
export class Live {
  constructor(url, options) {
    this.ws = new WebSocket(url, options);
    this.heard = [];
    this.nextId = 1;
    this.ws.on("message", (data) => this.heard.push(JSON.parse(data.toString())));
    this.ws.on("error", (error) => (this.error = error));
    this.opened = new Promise((resolve, reject) => {
      this.ws.on("open", resolve);
      this.ws.on("error", reject);
    });
    this.opened.catch(() => {});
    this.closed = new Promise((resolve) => {
      this.ws.on("close", (code, reason) => resolve({ code, reason: reason.toString() }));
    });
  }

  static async connect(url, token) {
    const live = new Live(token ? `${url}?token=${token}` : url);
    await live.hear("hello");
    return live;
  }

  send(frame) {
    this.ws.send(
      typeof frame === "string" || Buffer.isBuffer(frame) ? frame : JSON.stringify(frame),
    );
  }

  /** The first frame of this type, come or still to come. */
  hear(type, fits = () => true, ms = PATIENCE) {
    const find = () => this.heard.find((frame) => frame.type === type && fits(frame));
    return until(find, `frame ${type}; heard ${this.heard.map((frame) => frame.type)}`, ms);
  }

  /** Sends with an id; the answer that brings it back. */
  async ask(frame) {
    const id = `q${this.nextId++}`;
    this.send({ ...frame, id });
    return until(() => this.heard.find((one) => one.id === id), `an answer to ${frame.type}`);
  }

  end(ms = PATIENCE) {
    return within(this.closed, "close", ms);
  }

  count(type) {
    return this.heard.filter((frame) => frame.type === type).length;
  }

  close() {
    this.ws.terminate();
  }
}

/** A live client that comes back by its own token and offsets, as docs/clients.md says. */
export class Returning {
  topics = new Map();

  constructor(proxy, user = "ann", claims = {}) {
    Object.assign(this, { proxy, user, claims, got: [], hellos: [] });
  }

  async connect() {
    const live = new Live(this.proxy.live);
    await live.opened;
    live.ws.on("message", (data) => this.take(JSON.parse(data.toString())));
    this.live = live;
    const topics = Object.fromEntries(this.topics);
    const resume = this.resume && { resume: this.resume, topics, place: this.place };
    const before = this.hellos.length;
    live.send({ type: "auth", token: token(this.user, this.claims), ...resume });
    await until(() => this.hellos.length > before, "a hello");
    return this.hellos.at(-1);
  }

  take(frame) {
    const { type, topic, epoch, offset } = frame;
    if (type === "hello") {
      this.hellos.push(frame);
      this.resume = frame.resume;
    } else if (type === "subscribed") {
      this.topics.set(topic, { epoch, offset });
      this.subscribed = { ...this.subscribed, [topic]: frame };
    } else if (type === "unsubscribed") {
      this.topics.delete(topic);
    } else if (type === "gap") {
      // Of a user's own room too, which is no topic.
      if (this.topics.has(topic)) this.topics.set(topic, { epoch, offset });
    } else if (offset !== undefined) {
      this.topics.get(topic).offset = offset;
    }
    if (frame.place !== undefined) this.place = frame.place;
    this.got.push(frame);
  }

  async subscribe(...topics) {
    for (const topic of topics) await this.live.ask({ type: "subscribe", topic });
  }

  data(type) {
    return this.got.filter((frame) => frame.type === type).map((frame) => frame.data);
  }

  async lose(how = "cut") {
    this.proxy.all(how);
    await this.live.end();
  }
}
