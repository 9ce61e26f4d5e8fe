// Users who come and go. What is written down is the truth: when sockets really were there.
import { Live, socketIo } from "../e2e/lib/clients.js";
import { token } from "../e2e/lib/server.js";

/** An attempt that takes longer is given up, in milliseconds. */
const PATIENCE = 4000;
const MOST_SOCKETS = 3;

let names = 0;

/** A socket of a user on a node. */
class Socket {
  rooms = new Map();
  isUp = false;
  isOver = false;

  constructor(history, user, node, kind, device) {
    Object.assign(this, { history, user, node, kind, name: `s${++names}` });
    const claims = device ? { deviceId: device } : {};
    history.add("dial", { socket: this.name, user, node: node.id, kind, device });
    const auth = { token: token(user, claims) };
    if (kind === "live") this.openLive(node, auth.token);
    else this.openSocketIo(node, auth, kind);
    this.timer = setTimeout(() => this.isUp || this.close(), PATIENCE);
  }

  openLive(node, token) {
    const live = new Live(`ws://127.0.0.1:${node.port}/live?token=${token}`);
    live.heard.push = () => 0;
    let id = 0;
    const asked = new Map();
    live.ws.on("message", (text) => {
      const frame = JSON.parse(text.toString());
      if (frame.type === "hello") this.up(frame.data ?? frame);
      asked.get(frame.id)?.(frame);
      asked.delete(frame.id);
    });
    live.closed.then(() => this.down("lost"));
    this.request = (type, topic, then) => {
      asked.set(`${++id}`, (frame) => then(frame.type !== "error"));
      live.send({ type: type === "join" ? "subscribe" : "unsubscribe", topic, id: `${id}` });
    };
    this.end = () => live.ws.terminate();
    this.goodbye = () => live.ws.close(1000);
    // The kernel goes on saying that it is there.
    this.pause = () => live.ws._socket?.pause();
  }

  openSocketIo(node, auth, transport) {
    const url = `http://127.0.0.1:${node.port}`;
    const socket = socketIo(url, {
      auth,
      transports: [transport],
      reconnection: false,
      timeout: PATIENCE,
    });
    socket.offAny();
    socket.on("server:hello", (hello) => this.up(hello));
    socket.on("connect_error", () => this.down("refused"));
    socket.on("disconnect", () => this.down("lost"));
    this.request = (type, room, then) =>
      socket.timeout(8000).emit(type, { room }, (error, answer) => then(!error && answer.ok));
    this.end = this.goodbye = () => socket.disconnect();
  }

  up({ nodeId }) {
    if (this.isOver) return;
    this.isUp = true;
    this.history.add("up", { socket: this.name, node: nodeId });
  }

  down(how) {
    if (this.isOver) return;
    this.isOver = true;
    this.isUp = false;
    clearTimeout(this.timer);
    this.history.add("down", { socket: this.name, how });
  }

  /** Ends it: with a goodbye, or without. */
  close(isPolite = true) {
    this.down("closed");
    if (isPolite) this.goodbye();
    else this.end();
  }

  /** It goes silent, and the node finds that out. */
  hang(ms) {
    this.pause();
    this.down("hung");
    setTimeout(() => this.end(), ms);
  }

  /** Into a room, or out of it. */
  step(room) {
    const is = this.rooms.get(room);
    if (is === undefined) {
      this.rooms.set(room, "joining");
      this.say("join", room);
      this.request("join", room, (ok) => this.done(ok, "in", room));
    } else if (is === "in") {
      this.rooms.set(room, "leaving");
      this.say("leave", room);
      this.request("leave", room, (ok) => this.done(ok, "out", room));
    }
  }

  say(what, room) {
    if (!this.isOver) this.history.add(what, { socket: this.name, room });
  }

  done(ok, what, room) {
    // Of what was not answered nobody knows: it stays as it is.
    if (!ok || this.isOver) return;
    if (what === "in") this.rooms.set(room, "in");
    else this.rooms.delete(room);
    this.say(what, room);
  }
}

/** All users. Those that are steady always have a socket, the others come and go. */
export class Users {
  sockets = [];

  constructor({ history, dice, nodes, users, room, heartbeat }) {
    Object.assign(this, { history, dice, nodes, users, room, heartbeat });
    this.steady = new Set(users.slice(0, Math.ceil(users.length / 3)));
  }

  of(user) {
    this.sockets = this.sockets.filter((one) => !one.isOver);
    return this.sockets.filter((one) => one.user === user);
  }

  open(user, node = this.dice.one(this.nodes())) {
    if (!node) return;
    const kind = this.dice.one(["websocket", "websocket", "polling", "live", "live"]);
    const device = this.dice.chance(0.3) ? `d${this.dice.between(1, 2)}` : undefined;
    const socket = new Socket(this.history, user, node, kind, device);
    this.sockets.push(socket);
    if (this.dice.chance(0.5)) {
      const enter = () => socket.isUp && socket.step(this.room);
      setTimeout(enter, this.dice.between(50, 800));
    }
    return socket;
  }

  /** One thing that one of them does. */
  act() {
    const { dice } = this;
    const user = dice.one(this.users);
    const mine = this.of(user);
    const up = mine.filter((one) => one.isUp);
    const isSteady = this.steady.has(user);
    if (mine.length === 0 || (mine.length < MOST_SOCKETS && dice.chance(0.15))) {
      this.open(user);
    } else if (up.length > 0 && dice.chance(0.3)) {
      dice.one(up).step(this.room);
    } else if (up.length > 0 && dice.chance(0.3)) {
      // To another node, or device: the new socket comes before the old one goes, or after.
      const old = dice.one(up);
      if (dice.chance(0.5) || isSteady) {
        const next = this.open(user);
        setTimeout(() => next?.isUp && old.close(dice.chance(0.5)), 500);
      } else {
        old.close(dice.chance(0.5));
        this.open(user);
      }
    } else if (up.length > (isSteady ? 1 : 0) && dice.chance(0.5)) {
      const old = dice.one(up);
      if (old.kind === "live" && dice.chance(0.3)) old.hang(this.heartbeat + 3000);
      else old.close(dice.chance(0.5));
    }
    // Whoever was cut off comes back.
    for (const user of this.steady) if (this.of(user).length === 0) this.open(user);
  }

  close() {
    for (const one of this.sockets) if (!one.isOver) one.close();
  }
}
