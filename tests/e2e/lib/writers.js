// Users who write durable messages, and whether each is there once and in its place afterwards.
import assert from "node:assert/strict";
import { Live } from "./clients.js";
import { token, until } from "./server.js";

/** All that is kept of a conversation, read in parts as a backend does. */
export async function history(node, conversation) {
  const all = [];
  for (;;) {
    const path = `/v1/conversations/${conversation}/messages?limit=200&after=${all.length}`;
    const { status, body } = await node.api(path);
    assert.equal(status, 200);
    assert.ok(body.complete && body.floor === 0);
    all.push(...body.messages);
    if (all.length === body.head) return all;
    assert.ok(body.messages.length > 0, `a part without messages before ${body.head}`);
  }
}

/** A live client that keeps nothing of what it heard but the answers that it waits for. */
class Asking extends Live {
  #waiting = new Map();

  static async open(url, token) {
    const live = new Asking(`${url}?token=${token}`);
    await live.opened;
    live.heard.push = () => 0;
    live.ws.on("message", (data) => {
      const frame = JSON.parse(data.toString());
      live.#waiting.get(frame.id)?.(frame);
      live.#waiting.delete(frame.id);
    });
    return live;
  }

  /** Nothing if the connection ends before the answer. */
  request(frame) {
    const id = `q${this.nextId++}`;
    const answer = new Promise((resolve) => this.#waiting.set(id, resolve));
    this.send({ ...frame, id });
    return Promise.race([answer, this.closed.then(() => undefined)]);
  }
}

/** Users who send until they are told to stop, and send again what was not acknowledged. */
export class Load {
  CONVERSATIONS = 4;
  acknowledged = new Map(); // by sender and tempId
  refused = new Map(); // how often, by code
  sent = 0;
  next = 0;

  /** `refusals` are the codes of answers after which a message is sent again, and not a fault. */
  constructor({ users = 6, inFlight = 24, refusals = [] } = {}) {
    Object.assign(this, { inFlight, refusals });
    this.waiting = Array.from({ length: users }, () => new Set()); // sent, or still to be sent
  }

  get unanswered() {
    return this.waiting.reduce((sum, one) => sum + one.size, 0);
  }

  conversations() {
    return Array.from({ length: this.CONVERSATIONS }, (_, number) => `c${number}`);
  }

  /** One user's messages, until the connection ends or `enough` says so. */
  async send(client, user, enough) {
    const mine = this.waiting[user];
    const again = [...mine];
    const one = async () => {
      while (!client.ended && (again.length > 0 || !enough())) {
        const message = again.pop() ?? {
          conversationId: `c${this.next % this.CONVERSATIONS}`,
          content: `message ${this.next}`,
          tempId: `t${this.next++}`,
        };
        mine.add(message);
        this.sent++;
        const ack = await client.request({ type: "emit", event: "message:send", data: message });
        if (ack?.type !== "ack") return;
        if (ack.data.ok) {
          this.acknowledged.set(`u${user} ${message.tempId}`, ack.data.message);
          mine.delete(message);
        } else {
          const { code, retryAfterMs } = ack.data;
          assert.ok(this.refusals.includes(code), JSON.stringify(ack));
          this.refused.set(code, (this.refused.get(code) ?? 0) + 1);
          // Like a client that waits as long as it is told.
          await new Promise((resolve) => setTimeout(resolve, Math.min(retryAfterMs ?? 200, 500)));
          again.push(message);
        }
      }
    };
    await Promise.all(Array.from({ length: this.inFlight }, one));
  }

  /** All users, each on one of the nodes in turn. */
  async run(nodes, enough) {
    const clients = await Promise.all(
      this.waiting.map((_, user) =>
        Asking.open(nodes[user % nodes.length].live, token(`u${user}`)),
      ),
    );
    for (const client of clients) client.closed.then(() => (client.ended = true));
    await Promise.all(clients.map((client, user) => this.send(client, user, enough)));
    for (const client of clients) client.close();
  }

  /** Waits for so many more acknowledgements. */
  more(count, ms = 60000) {
    const before = this.acknowledged.size;
    const isThere = () => this.acknowledged.size > before + count;
    return until(isThere, `${count} more messages than ${before} are acknowledged`, ms);
  }

  /** Sends what is left, and looks at all that a node has; what that is, by conversation. */
  async check(nodes) {
    await this.run(nodes, () => true);
    assert.equal(this.unanswered, 0);
    assert.equal(this.acknowledged.size, this.next);
    const kept = new Map();
    const all = new Map();
    for (const conversation of this.conversations()) {
      const messages = await history(nodes[0], conversation);
      messages.forEach((message, index) => assert.equal(message.offset, index + 1));
      for (const message of messages) {
        const key = `${message.senderId} ${message.tempId}`;
        assert.ok(!kept.has(key), `${key} is there twice`);
        kept.set(key, message);
      }
      all.set(conversation, messages.length);
    }
    assert.equal(kept.size, this.next);
    for (const [key, message] of this.acknowledged) assert.deepEqual(kept.get(key), message);
    return all;
  }
}
