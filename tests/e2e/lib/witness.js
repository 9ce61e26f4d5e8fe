// Clients that write down what they hear, and what is wrong with it afterwards.
import { Live, Returning, socketIo } from "./clients.js";
import { token } from "./server.js";

/** The scope of what is said to everybody; that of a user is their room, `user:ID`. */
export const EVERYBODY = "*";
/** Whether nobody has to join there. */
export const isOwn = (scope) => scope === EVERYBODY || scope.startsWith("user:");

/** One thing that was said, and what became of it. */
class Said {
  /** When an acknowledgement came, of which life of a gateway, and to what. */
  acknowledged;
  by;
  way;
  /** How many have heard it, on which gateways, and in which lines of the cluster's. */
  hearers = 0;
  nodes = new Set();
  lines = new Set();

  constructor(at) {
    this.at = at;
  }
}

/** What is said in each scope: its numbers from 1 on, and one more over all of them. */
export class Book {
  said = 0;
  #scopes;
  #now;

  constructor(scopes, { now = Date.now } = {}) {
    this.#scopes = new Map(scopes.map((scope) => [scope, { next: 1, all: new Map() }]));
    this.#now = now;
  }

  get scopes() {
    return [...this.#scopes.keys()];
  }

  /**
   * Says the next thing in a scope by `send`, which gives whether that was acknowledged, or `by`
   * whom and to which `way`; gives whether it was. What was not may have been said or not, and its
   * number is not used again.
   */
  async say(room, send) {
    const data = { room, number: this.#scopes.get(room).next++, all: ++this.said };
    const said = this.#find(room, data.number);
    const answer = await send(data);
    if (!answer) return false;
    said.acknowledged = this.#now();
    ({ by: said.by, way: said.way } = answer);
    return true;
  }

  #find(room, number) {
    const { all } = this.#scopes.get(room);
    if (!all.has(number)) all.set(number, new Said(this.#now()));
    return all.get(number);
  }

  /** Somebody hears something, in a line and on a gateway. */
  heard({ room, number }, { line, node } = {}) {
    const said = this.#find(room, number);
    said.hearers++;
    if (line !== undefined) said.lines.add(line);
    if (node !== undefined) said.nodes.add(node);
  }

  /** The number of the next thing that is said in a scope. */
  next(room) {
    return this.#scopes.get(room).next;
  }

  /** All that was acknowledged, and all that somebody heard, which is then for everybody. */
  there(room) {
    const there = [...this.#scopes.get(room).all].filter(
      ([, said]) => said.hearers > 0 || said.acknowledged,
    );
    return there.map(([number]) => number).sort((a, b) => a - b);
  }

  /** Whether two things of a scope were heard in one line of the cluster's. */
  areOfOneLine(room, one, other) {
    const [lines, others] = [one, other].map((number) => this.#find(room, number).lines);
    return [...lines].some((line) => others.has(line));
  }

  /** What is known of something, in words. */
  tell(room, number) {
    const { at, acknowledged, by, way, hearers, nodes, lines } = this.#find(room, number);
    const to = way ? ` to ${way}` : "";
    const parts = [
      `said ${time(at)}`,
      acknowledged ? `acknowledged ${time(acknowledged)} by ${by}${to}` : "not acknowledged",
      `heard by ${hearers}`,
      nodes.size > 0 && nodes.size < 9 && `on ${[...nodes].sort().join(" ")}`,
      lines.size > 0 && `in line ${[...lines].join(" ")}`,
    ];
    return parts.filter(Boolean).join(", ");
  }
}

/** A time of day. */
export const time = (at) => new Date(at).toISOString().slice(11, 23);

/**
 * How much later a client may be told of a loss than it heard what came behind it, in
 * milliseconds: what a master of Redis acknowledges that is none any more is known to be lost when
 * its gateway knows of the new one.
 */
const LATE = 5000;

/** How much is remembered of what happened to a client. */
const TRAIL = 40;

/** A place in the line, as Socket.IO's clients get it: which line, and the number there. */
function placeOf(text) {
  const [, line, id] = /^hl\.([0-9a-z]{1,7})\.([0-9a-z]{1,11})$/.exec(text ?? "") ?? [];
  return line === undefined ? undefined : { line, id: parseInt(id, 36) };
}

/**
 * What one client heard of each scope, in sections that begin with a fresh start, or with word of
 * a gap.
 */
export class Witness {
  recovered = 0;
  fresh = 0;
  /** How often it was told that it has missed something. */
  gaps = 0;
  /** Events that came out of the order over all scopes, of a client who gets one line of them. */
  crossed = [];
  /** What happened to it last, and the gateway and the id that it had then. */
  trail = [];
  node;
  id;
  lostAt;
  /** Rooms in which it wants to be, and has no word that it is. */
  waitsFor = new Set();
  #isThere = false;
  #last = 0;
  #place = 0;

  /**
   * `rooms` are joined, in `own` it is as soon as it is there: its user's, and everybody's.
   * `isLine`: what comes is one line over all scopes.
   */
  constructor(book, rooms, { own = [], isLine = false, now = Date.now } = {}) {
    Object.assign(this, { book, own, isLine, now });
    this.rooms = new Map([...rooms, ...own].map((room) => [room, []]));
  }

  /** Those of its scopes that it has to join. */
  get joins() {
    return [...this.rooms.keys()].filter((room) => !this.own.includes(room));
  }

  /** Notes what happens to it, for whoever looks for a reason. */
  note(what) {
    const last = this.trail.at(-1);
    if (last?.what === what) return void (last.times = (last.times ?? 1) + 1);
    this.trail.push({ at: time(this.now()), what });
    if (this.trail.length > TRAIL) this.trail.shift();
  }

  /** It begins afresh in a scope. */
  begins(room) {
    this.#ends(room, this.lostAt ?? this.now());
    this.#opens(room);
    this.#last = 0;
    this.#place = 0;
  }

  #opens(room) {
    this.rooms.get(room).push({ numbers: [], times: [], heard: new Set(), most: 0 });
  }

  #ends(room, at) {
    const section = this.rooms.get(room).at(-1);
    if (section) section.endAt = at;
  }

  /** The same in all that it does not have to join. */
  beginsOwn() {
    for (const room of this.own) {
      this.begins(room);
      this.joined(room);
    }
  }

  /**
   * It was told that events of a room were lost: what was said up to now may be among them. What
   * was said to everybody has no room: who is in a user's is told there.
   */
  misses(room) {
    this.gaps++;
    this.lastGap = { room, at: this.now() };
    this.note(`gap of ${room}`);
    for (const scope of this.own.includes(room) ? this.own : [room]) {
      const section = this.rooms.get(scope)?.at(-1);
      if (!section) continue;
      if (section.numbers.length > 0) {
        this.#ends(scope, this.now());
        this.#opens(scope);
      }
      this.rooms.get(scope).at(-1).from = this.book.next(scope);
    }
  }

  /** It was told that it is in a room: from here on it hears everything. */
  joined(room) {
    this.waitsFor.delete(room);
    this.rooms.get(room).at(-1).from ??= this.book.next(room);
  }

  /** Its connection is lost, or one that it has tried. */
  loses(why) {
    if (this.#isThere) this.lostAt = this.now();
    this.#isThere = false;
    this.note(`lost: ${why}`);
  }

  /** It is there again, or for the first time. */
  comes(isRecovered) {
    this[isRecovered ? "recovered" : "fresh"]++;
    this.note(isRecovered ? "recovered" : "afresh");
    this.#isThere = true;
    if (!isRecovered) this.beginsOwn();
  }

  /** It was told where it is. */
  greeted({ nodeId, socketId }) {
    this.note(`on ${nodeId} as ${socketId}`);
    Object.assign(this, { node: nodeId, id: socketId });
  }

  hears(data, placeText) {
    const { room, number, all } = data;
    const place = placeOf(placeText);
    this.book.heard(data, { line: place?.line, node: this.node });
    const section = this.rooms.get(room).at(-1);
    section.numbers.push(number);
    section.times.push(this.now());
    section.most = Math.max(section.most, number);
    // What comes twice is told as that, and not as what comes too late.
    if (section.heard.has(number) || !this.isLine) return;
    section.heard.add(number);
    if (all < this.#last) this.crossed.push(`${room}: ${all} after ${this.#last}`);
    this.#last = Math.max(this.#last, all);
    if (!place) return;
    if (place.id < this.#place) this.crossed.push(`${room}: ${number} at an earlier place`);
    this.#place = Math.max(this.#place, place.id);
  }

  /** Which of its scopes it has not got the last of, unless it came after that. */
  lacks() {
    const lacking = [...this.rooms].map(([scope, sections]) => {
      const { most: has = 0, from = 0 } = sections.at(-1) ?? {};
      const last = this.book.next(scope) - 1;
      return has < last && from <= last && { scope, has, last };
    });
    return lacking.filter(Boolean);
  }

  /** Whether it has the last that was said in each of its scopes, or came after that. */
  isDone() {
    return this.lacks().length === 0;
  }

  /**
   * What is wrong: `gaps`, `duplicates` and `inversions` as texts; and what is not: how many
   * events it heard, and how many it knows that it missed, since it began afresh or was told of a
   * gap, of which `late` those that were told after it had heard what came behind them. Who is not
   * `here` at the end may still hear what came last.
   */
  verdict(there = (room) => this.book.there(room), isHere = true) {
    const inversions = [...this.crossed];
    const verdict = { gaps: [], duplicates: [], inversions, heard: 0, told: 0, late: 0 };
    for (const [room, sections] of this.rooms) {
      const events = there(room);
      const places = new Map(events.map((number, index) => [number, index]));
      let end = -1;
      for (const [index, section] of sections.entries()) {
        const { numbers, from } = section;
        const which = `${room}, section ${index}`;
        verdict.heard += numbers.length;
        const first = numbers.length > 0 ? places.get(numbers[0]) : Infinity;
        const promised = from === undefined ? Infinity : events.findIndex((one) => one >= from);
        const start = Math.min(first, promised < 0 ? Infinity : promised);
        const isLast = index === sections.length - 1;
        if (start === Infinity) {
          // Nothing came of what may have been said before it knew that it was in.
          if (isLast && isHere && from === undefined) verdict.gaps.push(`${which}: never in it`);
          continue;
        }
        if (end >= 0) verdict.told += Math.max(0, start - end - 1);
        let at = start - 1;
        // Each with what came behind it.
        const holes = new Map();
        const seen = new Set();
        for (const [nth, number] of numbers.entries()) {
          const place = places.get(number);
          if (seen.has(number)) {
            verdict.duplicates.push(`${which}: ${number} again after ${events[at]}`);
          } else if (place > at) {
            for (let missing = at + 1; missing < place; missing++) holes.set(missing, nth);
            at = place;
          } else {
            holes.delete(place);
            const text = `${number} after ${events[at]}${this.#tell(room, number)}`;
            verdict.inversions.push(`${which}: ${text}`);
          }
          seen.add(number);
        }
        if (isLast && isHere)
          for (let place = at + 1; place < events.length; place++) holes.set(place, undefined);
        end = at;
        for (const [place, behind] of holes) {
          const number = events[place];
          if (this.#isToldLate(room, number, behind, section, sections.slice(index + 1)))
            verdict.late++;
          else verdict.gaps.push(`${which}: ${number} is missing${this.#tell(room, number)}`);
        }
      }
    }
    return verdict;
  }

  /**
   * Whether the end of a section tells of what is missing in it before its `behind`-th event. That
   * is so where a master of Redis has acknowledged it that was none any more: it was in another
   * line than what came behind it, and then another line began for all.
   */
  #isToldLate(room, number, behind, { numbers, times, endAt }, later) {
    if (behind === undefined || endAt === undefined || endAt - times[behind] > LATE) return false;
    const isOfThisLine = (one) => this.book.areOfOneLine(room, one, numbers[behind]);
    const next = later.find((section) => section.numbers.length > 0);
    return next !== undefined && !isOfThisLine(number) && !isOfThisLine(next.numbers[0]);
  }

  #tell(room, number) {
    return ` (${this.book.tell(room, number)})`;
  }
}

/** A socket.io-client that joins its rooms when it begins afresh. `event` has what it hears. */
export function socketIoWitness(url, user, witness, options = {}) {
  const { event = "news", read = (data) => data, enter = "join", ...rest } = options;
  const socket = socketIo(url, {
    auth: { token: token(user) },
    reconnectionDelay: 20,
    reconnectionDelayMax: 100,
    timeout: 4000,
    ...rest,
  });
  socket.offAny();
  // What a fresh start made it ask for is of no interest after the next.
  let life = 0;
  const inside = new Set();
  const join = (room) => {
    const mine = life;
    witness.waitsFor.add(room);
    socket.timeout(5000).emit(enter, { room }, (error, answer) => {
      if (mine !== life || inside.has(room)) return;
      if (!error && answer.ok) {
        inside.add(room);
        witness.joined(room);
      } else if (socket.connected) {
        join(room);
      }
    });
  };
  socket.on(event, (data, place) => witness.hears(read(data), place));
  socket.on("room:gap", ({ room }) => witness.misses(room));
  socket.on("server:hello", (hello) => witness.greeted(hello));
  socket.on("disconnect", (reason) => witness.loses(reason));
  socket.on("connect_error", ({ message }) => witness.note(`no way in: ${message}`));
  // In the order of its packets: a fresh start is known before anything of it is heard.
  socket.on("connect", () => {
    witness.comes(socket.recovered);
    if (!socket.recovered) {
      life++;
      inside.clear();
      for (const room of witness.joins) witness.begins(room);
    }
    for (const room of witness.joins) if (!inside.has(room)) join(room);
  });
  return {
    witness,
    publish: (room, data) =>
      socket.connected && socket.emit("publish", { room, event: "noise", data }),
    isHere: () => socket.connected,
    close: () => socket.disconnect(),
  };
}

/**
 * A live client that resumes with all that it knows, again and again. A connection that does not
 * come about within `timeout` milliseconds is given up, and one that is silent for `silence`.
 */
export function liveWitness(url, user, witness, options = {}) {
  const { event = "news", read, silence = 60000, timeout = 4000 } = options;
  const topics = witness.joins;
  const one = new Returning({ live: url }, user);
  const take = one.take.bind(one);
  const subscribe = (topic) =>
    one.live.ws.readyState === 1 && one.live.send({ type: "subscribe", topic, id: topic });
  let over = false;
  one.take = (frame) => {
    take(frame);
    one.got.length = 0;
    one.hellos.length = Math.min(one.hellos.length, 1);
    if (frame.type === "hello") {
      witness.comes(frame.recovered);
      witness.greeted(frame);
      // Also of those that it had.
      witness.waitsFor = new Set(topics);
      for (const topic of topics) if (!one.topics.has(topic)) subscribe(topic);
    } else if (frame.type === "subscribed" && topics.includes(frame.topic)) {
      if (!frame.recovered || witness.rooms.get(frame.topic).length === 0)
        witness.begins(frame.topic);
      witness.joined(frame.topic);
    } else if (frame.type === "error" && topics.includes(frame.id)) {
      // Nobody is in a topic who was refused, and who wants to be asks again.
      witness.note(`not in ${frame.id}: ${frame.code}`);
      const { live } = one;
      setTimeout(() => one.live === live && subscribe(frame.id), 100);
    } else if (frame.type === "gap") {
      witness.misses(frame.topic);
    } else if (frame.type === event) {
      witness.hears(read ? read(frame.data) : frame.data);
    }
  };
  const open = () => {
    if (over) return;
    const live = new Live(url);
    one.live = live;
    live.heard.push = () => 0;
    live.ws.on("open", () => {
      const resume = one.resume && {
        resume: one.resume,
        topics: Object.fromEntries(one.topics),
        place: one.place,
      };
      live.send({ type: "auth", token: token(user), ...resume });
    });
    // The gateway pings; who hears nothing for long has lost it.
    let late = setTimeout(() => live.close(), timeout);
    const alive = () => {
      clearTimeout(late);
      late = setTimeout(() => live.close(), silence);
    };
    live.ws.on("ping", alive);
    live.ws.on("message", (data) => {
      alive();
      if (one.live === live) one.take(JSON.parse(data.toString()));
    });
    live.closed.then(({ code }) => {
      clearTimeout(late);
      witness.loses(code);
      setTimeout(open, 20 + Math.random() * 80);
    });
  };
  open();
  return {
    witness,
    publish: (topic, data) =>
      one.live.ws.readyState === 1 &&
      one.topics.size > 0 &&
      one.live.send({ type: "publish", topic, event: "noise", data }),
    isHere: () => one.live.ws.readyState === 1 && one.hellos.length > 0,
    close: () => {
      over = true;
      one.live.close();
    },
  };
}
