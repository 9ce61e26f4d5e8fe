// Clients that write down what they hear, and what is wrong with it afterwards.
import { Live, Returning, socketIo } from "./clients.js";
import { token } from "./server.js";

/** What is said in rooms: each room's numbers from 1 on, and one more over all of them. */
export class Book {
  #rooms;
  said = 0;

  constructor(rooms) {
    this.#rooms = new Map(rooms.map((room) => [room, { next: 1, there: new Set() }]));
  }

  get rooms() {
    return [...this.#rooms.keys()];
  }

  /**
   * Says the next thing in a room by `send`, which gives whether that was acknowledged. What was
   * not may have been said or not, and its number is not used again.
   */
  async say(room, send) {
    const data = { room, number: this.#rooms.get(room).next++, all: ++this.said };
    if (await send(data)) this.heard(data);
  }

  heard({ room, number }) {
    this.#rooms.get(room).there.add(number);
  }

  /** The number of the next thing that is said in a room. */
  next(room) {
    return this.#rooms.get(room).next;
  }

  /** All that was acknowledged, and all that somebody heard, which is then for everybody. */
  there(room) {
    return [...this.#rooms.get(room).there].sort((a, b) => a - b);
  }
}

/**
 * How much later a client may be told of a gap than it heard what came behind the gap, in
 * milliseconds: what a master of Redis acknowledges that is none any more is known to be lost when
 * its gateway knows of the new one.
 */
const LATE = 5000;

/** What one client heard of each room, in sections that begin with a fresh start. */
export class Witness {
  recovered = 0;
  fresh = 0;
  /** How often it was told that it has missed something. */
  gaps = 0;
  /** Events that came out of the order over all rooms, of a client who gets one line of them. */
  crossed = [];
  #last = 0;

  constructor(book, rooms, { isLine = false, now = Date.now } = {}) {
    Object.assign(this, { book, isLine, now });
    this.rooms = new Map(rooms.map((room) => [room, []]));
  }

  begins(room) {
    this.rooms.get(room).push({ numbers: [], times: [] });
    this.#last = 0;
  }

  /** It was told that events of a room were lost: what comes next may be any. */
  misses(room) {
    const section = this.rooms.get(room)?.at(-1);
    if (section && section.numbers.length > 0) {
      section.gapAt = this.now();
      this.begins(room);
    } else if (section) {
      delete section.from;
    }
    this.gaps++;
  }

  /** It was told that it is in a room: from here on it hears everything. */
  joined(room) {
    this.rooms.get(room).at(-1).from ??= this.book.next(room);
  }

  hears(data) {
    const { room, number, all } = data;
    this.book.heard(data);
    const section = this.rooms.get(room).at(-1);
    section.numbers.push(number);
    section.times.push(this.now());
    if (this.isLine && all < this.#last) this.crossed.push(`${all} after ${this.#last}`);
    this.#last = Math.max(this.#last, all);
  }

  /** Whether it has the last that was said in each of its rooms, or came after that. */
  isDone() {
    return [...this.rooms].every(([room, sections]) => {
      const { numbers = [], from = 0 } = sections.at(-1) ?? {};
      const next = this.book.next(room);
      return numbers.at(-1) === next - 1 || from >= next;
    });
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
      for (const [index, { numbers, times, from, gapAt }] of sections.entries()) {
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
        const holes = new Set();
        const late = new Set();
        for (const [nth, number] of numbers.entries()) {
          const place = places.get(number);
          if (place > at) {
            for (let missing = at + 1; missing < place; missing++) {
              holes.add(missing);
              if (gapAt - times[nth] <= LATE) late.add(missing);
            }
            at = place;
          } else if (holes.delete(place)) {
            verdict.inversions.push(`${which}: ${number} after ${events[at]}`);
          } else {
            verdict.duplicates.push(`${which}: ${number} again after ${events[at]}`);
          }
        }
        if (isLast && isHere)
          for (let place = at + 1; place < events.length; place++) holes.add(place);
        end = at;
        for (const place of holes) {
          if (late.has(place)) verdict.late++;
          else verdict.gaps.push(`${which}: ${events[place]} is missing`);
        }
      }
    }
    return verdict;
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
  socket.on(event, (data) => witness.hears(read(data)));
  socket.on("room:gap", ({ room }) => witness.misses(room));
  // In the order of its packets: a fresh start is known before anything of it is heard.
  socket.on("connect", () => {
    witness[socket.recovered ? "recovered" : "fresh"]++;
    if (!socket.recovered) {
      life++;
      inside.clear();
      for (const room of witness.rooms.keys()) witness.begins(room);
    }
    for (const room of witness.rooms.keys()) if (!inside.has(room)) join(room);
  });
  return {
    witness,
    publish: (room, data) =>
      socket.connected && socket.emit("publish", { room, event: "noise", data }),
    isHere: () => socket.connected,
    close: () => socket.disconnect(),
  };
}

/** A live client that resumes with all that it knows, again and again. */
export function liveWitness(url, user, witness, { event = "news", read, silence = 60000 } = {}) {
  const topics = [...witness.rooms.keys()];
  const one = new Returning({ live: url }, user);
  const take = one.take.bind(one);
  let over = false;
  one.take = (frame) => {
    take(frame);
    one.got.length = 0;
    one.hellos.length = Math.min(one.hellos.length, 1);
    if (frame.type === "hello") {
      witness[frame.recovered ? "recovered" : "fresh"]++;
      for (const topic of topics)
        if (!one.topics.has(topic)) one.live.send({ type: "subscribe", topic });
    } else if (frame.type === "subscribed" && witness.rooms.has(frame.topic)) {
      if (!frame.recovered || witness.rooms.get(frame.topic).length === 0)
        witness.begins(frame.topic);
      witness.joined(frame.topic);
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
    let late = setTimeout(() => live.close(), 4000);
    const alive = () => {
      clearTimeout(late);
      late = setTimeout(() => live.close(), silence);
    };
    live.ws.on("ping", alive);
    live.ws.on("message", (data) => {
      alive();
      if (one.live === live) one.take(JSON.parse(data.toString()));
    });
    live.closed.then(() => {
      clearTimeout(late);
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
