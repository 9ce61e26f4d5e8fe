// A live client that comes back as its protocol has it.
import { Live } from "./clients.js";
import { token, until } from "./server.js";

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
