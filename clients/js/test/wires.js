// The two transports over wires that say what the test says, without a server.
import { Transport } from "engine.io-client";
import { Client } from "../dist/client.js";
import { socketIo } from "../dist/index.js";
import { createSmallClient, live } from "../dist/live.js";
import { Clock, HELLO } from "./fake.js";

/** A WebSocket that is open, and hears what the test says. */
class Socket {
  readyState = 1;
  said = [];
  constructor(url) {
    this.url = url;
  }
  send = (text) => this.said.push(JSON.parse(text));
  close = (code) => (this.closedWith = code ?? "no code");
}

/** A client over a WebSocket that says what the test says. */
export function overLive(options) {
  return over(
    (open, platform) => new Client(live("ws://here/live", open), { ...options, platform }),
  );
}

/** A small client with what it takes by name, which hears of the page where it takes that. */
export function overSmall(options) {
  return over((open, clock) => {
    const platform = { ...clock, watch: options?.page?.watch };
    function WebSocket(url) {
      return open(url);
    }
    return createSmallClient("ws://here/live", { ...options, platform, WebSocket });
  });
}

function over(make) {
  const sockets = [];
  const clock = new Clock();
  const open = (url) => {
    sockets.push(new Socket(url));
    return sockets.at(-1);
  };
  const client = make(open, clock);
  return {
    client,
    clock,
    sockets,
    say: (frame) => sockets.at(-1).onmessage({ data: JSON.stringify(frame) }),
    open: () => sockets.at(-1).onopen?.(),
    close: (code, reason = "") => sockets.at(-1).onclose({ code, reason }),
    get said() {
      return sockets.at(-1).said;
    },
  };
}

/** A packet of Socket.IO's that is an event. */
export const event = (...args) => `2${JSON.stringify(args)}`;

/** The same over Socket.IO: `say` takes its packets, and `close` a WebSocket's code, or none. */
export async function overSocketIo(options, socketio = {}) {
  const transports = [];
  class Told extends Transport {
    get name() {
      return "websocket";
    }
    doOpen() {
      transports.push(this);
      const data = '{"sid":"e1","upgrades":[],"pingInterval":25000,"pingTimeout":20000}';
      queueMicrotask(() => {
        this.onOpen();
        this.onPacket({ type: "open", data });
      });
    }
    write(packets) {
      for (const { data } of packets) (this.said ??= []).push(data);
      queueMicrotask(() => (this.writable = true) && this.emitReserved("drain"));
    }
    doClose() {}
  }
  const clock = new Clock();
  const client = new Client(socketIo("http://here", { ...socketio, transports: [Told] }), {
    ...options,
    platform: clock,
  });
  const say = async (packet) => {
    transports.at(-1).onPacket({ type: "message", data: packet });
    // Socket.IO's client hears of a packet in a turn of its own.
    await new Promise((resolve) => setImmediate(resolve));
  };
  await new Promise((resolve) => setImmediate(resolve));
  return {
    client,
    clock,
    transports,
    say,
    get said() {
      return transports.at(-1).said ?? [];
    },
    close: (code) => transports.at(-1).onClose(code && { description: "…", context: { code } }),
    greet: async () => {
      await say('0{"sid":"s1"}');
      await say(event("server:hello", HELLO));
    },
  };
}
export const inWords = ({ client }) =>
  [client.state.status, client.state.reason].filter(Boolean).join(" ");
