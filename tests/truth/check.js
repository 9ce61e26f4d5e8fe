// Whether what clients were told of presence was true. A history is a list of events, each with
// its time `t` in milliseconds of one monotonic clock; docs/truth.md names them, and the rules.
// Nothing here reads a clock, or knows how a history was made.
//
//   node tests/truth/check.js FILE       a history as `make truth` leaves it: JSON lines
import { readFileSync } from "node:fs";
import { pathToFileURL } from "node:url";
import { KINDS } from "./faults.js";
import { common, covers, outside, touches, union, without } from "./spans.js";

/** How long after a sweep was due it is done, and its edges are read, in milliseconds. */
const SWEEP = 1000;
/** How often a node looks which other nodes there are, while a room is watched. */
const NODES = 5000;
/** A drain lets users be online until they were to come back, and so long after that. */
const DRAINED = 10_000;
/** What is known of a user's devices stands beside what is known of their rooms, behind this. */
const DEVICE = "device ";
/** Faults in which a node knows on what it knew. */
const AWAY = new Set(["cut", "outage", "stall", "stop"]);
/** How often the client for browsers looks whether it still hears anything, after `heartbeat`. */
const TICK = 1000;

/** What a history is in the light of the bounds. */
class Truth {
  constructor(events) {
    this.events = events;
    const begin = events.find(({ what }) => what === "begin");
    if (!begin) throw new Error("the history has no beginning");
    // lease, refresh, silence, heartbeat, slack; `announce`: the room whose members alone hear of
    // its users, if it is so.
    Object.assign(this, begin.settings);
    this.unix = begin.unix;
    this.end = events.at(-1).t;
    this.faults = [];
    this.sockets = new Map();
    this.observers = new Map();
    const blind = [];
    for (const event of events) this.read(event, blind);
    /** When the clients themselves were not up to it: nothing is held against the server. */
    this.blind = union(blind);
    this.users = new Map();
    for (const socket of this.sockets.values()) this.judge(socket);
    for (const all of this.users.values())
      for (const of of all.values()) {
        of.allowed = union(of.allowed);
        of.required = union(of.required);
      }
  }

  read(event, blind) {
    const { t, what } = event;
    if (what === "fault") {
      this.faults.push({ ...KINDS[event.kind], ...event, from: t, to: Infinity });
    } else if (what === "healed") {
      this.faults.find(({ id }) => id === event.id).to = t;
    } else if (what === "stall") {
      blind.push([t - event.ms - this.slack, t + this.slack]);
    } else if (what === "dial") {
      this.sockets.set(event.socket, { ...event, dialed: t, rooms: [] });
    } else if (what === "up") {
      Object.assign(this.sockets.get(event.socket), { up: t, node: event.node });
    } else if (what === "down") {
      const socket = this.sockets.get(event.socket);
      if (socket.down === undefined) Object.assign(socket, { down: t, how: event.how });
    } else if (what === "join" || what === "in" || what === "leave" || what === "out") {
      this.room(event);
    } else if (what === "here" || what === "away") {
      const { observer, node } = event;
      const stays = this.observers.get(observer) ?? [];
      this.observers.set(observer, stays);
      if (stays.at(-1)) stays.at(-1).to = Math.min(stays.at(-1).to, t);
      if (what === "here") stays.push({ from: t, to: Infinity, node });
    } else if (what === "joined") {
      const stay = this.observers.get(event.observer)?.at(-1);
      if (stay) stay.joined ??= t;
    }
  }

  room({ t, what, socket, room }) {
    const { rooms } = this.sockets.get(socket);
    const last = rooms.findLast((one) => one.room === room);
    if (what === "join") rooms.push({ room, asked: t });
    else if (what === "in") last.in ??= t;
    else if (what === "leave") last.leaves ??= t;
    else last.out ??= t;
  }

  /** Faults that matter to what a node says. */
  of(node) {
    return this.faults.filter((one) => one.scope === "store" || one.node === node);
  }

  /**
   * Whether a node may not know any more at `t` what was told there at `told`. While it is cut off it
   * does; when that is over, it asks anew. A node of another build may never have known.
   */
  mayForget(node, told, t) {
    const { lease, slack } = this;
    const rests = (one) => one.to + lease * 2 + slack >= told && one.from - slack <= t;
    const isAway = ({ kind, to }) => AWAY.has(kind) && to > t;
    return (
      this.faults.some(({ kind }) => kind === "replace" || kind === "roll") ||
      this.of(node).some((one) => rests(one) && !isAway(one))
    );
  }

  /** When all have to know of what was there on a node from `t` on. */
  knownFrom(t, node) {
    const { lease, slack } = this;
    let known = t + slack;
    for (const { from, to, ends, scope, doubts = 0, lag = 0 } of this.of(node)) {
      const after = ends ? 0 : lease * (scope === "store" ? 2 : 1);
      const rest = Math.max(after, doubts * lease);
      if (from - lag - slack < known && to + rest > t) known = Math.max(known, to + rest + slack);
    }
    return known;
  }

  /** Until when what ended on a node at `t` may be told as if it were there. */
  knownBy(t, node, how, more = 0) {
    const { lease, heartbeat, slack } = this;
    const takes = { hung: heartbeat, killed: lease + SWEEP + more, drained: DRAINED };
    let known = t + (takes[how] ?? 0) + slack;
    for (const fault of this.of(node)) {
      const { kind, ends, scope, from, to, doubts = 0, lag = 0 } = fault;
      if (from - lag - slack >= known || to + lease * 2 <= t) continue;
      let end;
      if (scope === "store") end = to + Math.max(2, doubts) * lease;
      else if (ends === "killed") end = from + lease + SWEEP + more;
      else if (ends === "drained") end = to + DRAINED;
      else if (kind === "slow") end = to + lease;
      // Its lease is over by then, or it is back.
      else end = Math.min(to, from + lease + SWEEP + more) + lease;
      known = Math.max(known, end + slack);
    }
    return known;
  }

  /**
   * When sockets that were registered on a node may be taken for gone: its lease may be over, or it
   * stood still for as long as its neighbours wait for an answer (`silence`), or nearly: the last
   * answer is from before.
   */
  doubtful(node) {
    const { lease, refresh, slack, silence = Infinity } = this;
    const all = [];
    let chain;
    for (const { kind, isMute, scope, from, to, doubts } of this.of(node)) {
      if (doubts) all.push([from - slack, to + doubts * lease + slack]);
      if (kind === "stop" && to - from > (silence * 3) / 4) all.push([from, to + lease + slack]);
      if (!isMute) continue;
      if (chain && from < chain.to + refresh + slack) chain.to = Math.max(chain.to, to);
      else chain = { from, to, isOwn: false };
      chain.isOwn ||= scope === "node";
      // If all are silent, nobody is taken for gone.
      const sure = lease - refresh - slack;
      if (chain.isOwn && chain.to - chain.from > sure)
        all.push([chain.from + sure, chain.to + lease + slack]);
    }
    return union(all);
  }

  /** What one socket says of its user. */
  judge(socket) {
    const { user, node, dialed, up, down = Infinity, how, rooms, device = socket.socket } = socket;
    this.known(user);
    const own = this.faults.filter((one) => one.node === node);
    const kill = own.find(
      ({ ends, from }) => ends === "killed" && from > dialed && from < down,
    );
    const drain = own.find(({ ends, from, to }) => ends === "drained" && from < down && to > down);
    const isKilled = kill !== undefined && up !== undefined;
    const ended = isKilled ? kill.from : down;
    const why = isKilled ? "killed" : drain ? "drained" : how;
    // Whoever ends it knows first.
    const byServer = why === "lost" || why === "drained" || why === "replaced";
    const sure = byServer ? ended - this.slack : ended;
    Object.assign(socket, { ended, why });
    const doubtful = this.doubtful(node);
    const note = (of, asked, known, ends, left, more) => {
      const { allowed, required } = this.known(user, of);
      const by = left === Infinity ? Infinity : this.knownBy(left, node, why, more);
      allowed.push([asked, by]);
      if (known !== undefined)
        required.push(...without([[this.knownFrom(known, node), ends]], doubtful));
    };
    for (const of of ["", `${DEVICE}${device}`]) note(of, dialed, up, sure, ended, 0);
    for (const one of rooms) {
      const left = Math.min(one.out ?? Infinity, ended);
      const ends = Math.min(one.leaves ?? Infinity, sure);
      note(one.room, one.asked, one.in, ends, left, NODES);
    }
  }

  /** `allowed`: when a user may be told to be online, or in a room. `required`: when they must. */
  known(user, room = "") {
    const all = this.users.get(user) ?? new Map();
    this.users.set(user, all);
    const of = all.get(room) ?? { allowed: [], required: [] };
    all.set(room, of);
    return of;
  }

  /** How many devices a user has at least, all that time, and at most, at any time in it. */
  devices(user, from, to) {
    const all = [...this.users.get(user)].filter(([of]) => of.startsWith(DEVICE));
    return [
      all.filter(([, { required }]) => covers(required, from, to)).length,
      all.filter(([, { allowed }]) => touches(allowed, from, to)).length,
    ];
  }

  /** When it is wrong to say so of a user. */
  wrong(user, room, isOnline) {
    const { allowed, required } = this.known(user, room);
    return isOnline ? outside(allowed) : required;
  }

  /** Whether a user may have left the room whose members hear of them, by themselves. */
  mayHaveLeft(user, since, t) {
    const isLeft = ({ room, leaves, out = Infinity }) =>
      room === this.announce && leaves < t && out > since;
    return [...this.sockets.values()].some((one) => one.user === user && one.rooms.some(isLeft));
  }

  nodeOf(observer, t) {
    return this.observers.get(observer)?.findLast(({ from }) => from <= t)?.node;
  }

  /** When an observer's own node, or link, was at fault, and it could not know that yet. */
  unaware(observer) {
    const { lease, heartbeat, slack } = this;
    const all = [...this.blind];
    for (const { kind, scope, node, from, to, observer: whose } of this.faults) {
      if (scope === "store") continue;
      const notices = heartbeat + TICK;
      let until;
      if (scope === "observer") {
        if (whose === observer) until = from + notices;
      } else if (kind === "slow") until = to + lease;
      else if (kind === "cut") until = Math.max(from + lease, Math.min(to, from + lease) + SWEEP);
      else until = Math.min(to, from + notices);
      if (until === undefined) continue;
      const span = [from - slack, until + slack];
      const stays = this.observers.get(observer) ?? [];
      const there = stays.filter((stay) => scope === "observer" || stay.node === node);
      all.push(...common([span], union(there.map((stay) => [stay.from, stay.to + slack]))));
    }
    return union(all);
  }

  /** What an observer hears at `t` may have been true, and late, since then. */
  lateSince(observer, t) {
    const { lease, slack } = this;
    let since = t - slack;
    const node = this.nodeOf(observer, t);
    const mine = [
      ...this.of(node).map(({ from, to, doubts = 1, lag = 0, ends }) =>
        ends === "killed" ? [from, to] : [from - lag, to + (doubts + 1) * lease],
      ),
      ...this.faults
        .filter((one) => one.observer === observer)
        .map(({ from }) => [from, from + this.heartbeat + TICK]),
      ...this.blind,
    ];
    for (const [from, to] of union(mine).reverse())
      if (from < t && to + slack > since) since = Math.min(since, from - slack);
    return since;
  }

  /**
   * Whether somebody may be announced again between the two: if memory was lost twice, or while
   * something else was wrong as well, or in a way that Redis does not notice.
   */
  mayRepeat(from, to) {
    const { lease, slack } = this;
    const near = 2 * lease + slack;
    return this.faults.some(
      (one) =>
        (one.forgets || one.doubts) &&
        one.from - slack < to &&
        one.to + near > from &&
        (one.doubts ||
          one.lag ||
          this.faults.some(
            (other) =>
              other !== one &&
              other.scope !== "observer" &&
              other.from < one.to + near &&
              other.to + near > one.from,
          )),
    );
  }

  /** Whether Redis may have forgotten something between the two. */
  forgot(from, to) {
    const { lease, slack } = this;
    return this.faults.some(
      (one) =>
        (one.forgets || one.doubts) && one.from - slack < to && one.to + 2 * lease + slack > from,
    );
  }
}

const seconds = (ms) => `${(ms / 1000).toFixed(2)} s`;

/** What is found: `violations` by rules, and how much was looked at. */
class Findings {
  violations = [];
  excused = 0;
  counts = { edges: 0, answers: 0, pictures: 0, changes: 0, pairs: 0 };

  add(rule, t, text, detail = {}) {
    this.violations.push({ rule, t, text: `${seconds(t)}: ${text}`, ...detail });
  }
}

/** `user:online` and `user:offline`, as each observer heard them. */
function checkEdges(truth, found) {
  const last = new Map(); // by observer
  const told = new Map(); // by observer, their stay and user
  for (const { t, what, observer, user, online, rev } of truth.events) {
    if (what === "here") last.set(observer, new Map());
    if (what !== "edge") continue;
    found.counts.edges++;
    const who = `${observer} of ${user}`;
    const mine = last.get(observer) ?? new Map();
    last.set(observer, mine);
    const before = mine.get(user);
    const word = (is) => (is ? "online" : "offline");
    // Who leaves the room is forgotten there, and new when they come into it again.
    const isAgain =
      online && before?.online && truth.mayHaveLeft(user, truth.lateSince(observer, before.t), t);
    if (before && (isAgain ? rev < before.rev : rev <= before.rev))
      found.add("order", t, `${who}: ${word(online)} with rev ${rev} after ${before.rev}`);
    if (before && online === before.online && !isAgain) {
      if (truth.mayRepeat(before.t, t)) found.excused++;
      else found.add("alternation", t, `${who}: ${word(online)} again after ${seconds(before.t)}`);
    }
    const since = truth.lateSince(observer, t);
    if (covers(truth.wrong(user, online ? truth.announce : "", online), since, t + 1))
      found.add("edge", t, `${who}: ${word(online)}, wrong at least since ${seconds(since)}`);
    mine.set(user, { t, online, rev });
    const stay = truth.observers.get(observer)?.findLastIndex(({ from }) => from <= t);
    const key = `${observer}/${stay}`;
    if (!told.has(key)) told.set(key, []);
    told.get(key).push({ t, user, online });
  }
  checkAllTold(truth, found, told);
}

/**
 * What an observer has to have been told of a user by `t`, and what it was told: online, offline,
 * or nothing that could be held against it. `last`: the last that it was told, if anything.
 */
function wanted(truth, user, stay, last, t) {
  const { slack, announce } = truth;
  const is = (room, from, to) => {
    const { allowed, required } = truth.known(user, room);
    if (covers(required, from, to)) return true;
    return touches(allowed, from, to) ? undefined : false;
  };
  const since = announce ? stay.joined : stay.from;
  if (since === undefined || since > t - slack) return [];
  const then = last ? last.online : is(announce, since - slack, since + slack);
  const now = is(announce, t - slack, t);
  if (!announce || now) return [now, then];
  // Where somebody has left by themselves, nobody hears that they have gone.
  const heard = last ? truth.lateSince(stay.observer, last.t) : since - slack;
  const isGone = is("", t - slack, t) === false && !truth.mayHaveLeft(user, heard, t);
  return [isGone ? false : undefined, then];
}

/** At a moment of quiet, each observer has heard of each change since it came. */
function checkAllTold(truth, found, told) {
  const { lease } = truth;
  for (const { t } of truth.events.filter(({ what }) => what === "quiet"))
    for (const [observer, stays] of truth.observers) {
      const index = stays.findLastIndex(({ from }) => from <= t);
      const stay = stays[index];
      if (!stay || stay.to < t) continue;
      const edges = (told.get(`${observer}/${index}`) ?? []).filter((edge) => edge.t <= t);
      for (const user of truth.users.keys()) {
        const last = edges.findLast((edge) => edge.user === user);
        const [now, then] = wanted(truth, user, { ...stay, observer }, last, t);
        if (now === undefined || then === undefined || now === then) continue;
        // If memory was lost: nobody is left who could say so of a node that died, and what was
        // announced while the observer's own node was cut off was lost with it. Of rooms, who came
        // into one meanwhile is not announced there.
        const isLost =
          truth.forgot(stay.from, t) &&
          (truth.announce !== undefined ||
            truth.faults.some(
              (one) =>
                one.scope === "node" &&
                (!now || one.node === stay.node) &&
                one.from < t &&
                one.to + 2 * lease > stay.from,
            ));
        if (isLost) found.excused++;
        else
          found.add(
            "untold",
            t,
            `${observer} was not told that ${user} is ${now ? "online" : "offline"}` +
              (last ? `; last told at ${seconds(last.t)}` : `, since ${seconds(stay.from)}`),
          );
      }
    }
}

/**
 * Answers to `presence:get`: true when they were given, or as of when they say. Nothing is known only of
 * those of whom nothing was told there.
 */
function checkAnswers(truth, found) {
  const { slack } = truth;
  const told = new Map();
  for (const { t, what, observer, asked, asOf, user, rev, users } of truth.events) {
    if (what === "edge" && rev > 0) told.set(`${observer} ${user}`, t);
    if (what !== "answer") continue;
    const at = asOf - truth.unix;
    if (at > t + slack) found.add("asOf", t, `${observer} was told what will be at ${seconds(at)}`);
    for (const { userId, online, rev, stale, devices } of users) {
      found.counts.answers++;
      const before = told.get(`${observer} ${userId}`);
      if (rev > 0) told.set(`${observer} ${userId}`, t);
      // Nothing is known of them, and it says so.
      if (stale && rev === 0 && !online) {
        const stay = truth.observers.get(observer)?.findLast(({ from }) => from <= asked);
        if (before > stay?.from && !truth.mayForget(stay.node, before, t))
          found.add("answer", t, `${observer}: nothing is known of ${userId}, of whom it was told`);
        continue;
      }
      const from = (stale ? Math.min(at, asked) : asked) - slack;
      if (touches(truth.blind, from, t)) continue;
      if (covers(truth.wrong(userId, "", online), from, t + 1))
        found.add(
          "answer",
          t,
          `${observer}: ${userId} is ${online ? "online" : "offline"}` +
            (stale ? `, stale, as of ${seconds(at)}` : ""),
        );
      else if (online && !stale && devices !== undefined) {
        const [least, most] = truth.devices(userId, from, t + 1);
        if (devices < least || devices > most)
          found.add(
            "devices",
            t,
            `${observer}: ${userId} is on ${devices} devices, not ${least} to ${most}`,
          );
      }
    }
  }
}

/** Changes with their numbers, and the pictures that follow from them. */
function checkChanges(truth, found) {
  const pictures = [];
  const watches = new Map();
  for (const event of truth.events) {
    const { t, what, observer, of } = event;
    const key = `${observer} ${of}`;
    if (what === "away" || what === "here") {
      for (const [key, watch] of watches)
        if (watch.observer === observer && watch.isOpen) {
          watch.isOpen = false;
          pictures.push({ t, observer, of: watch.of, status: "stale", users: {} });
        }
      continue;
    }
    if (what === "watch") pictures.push({ t, observer, of, status: "stale", users: {} });
    if (what !== "watched" && what !== "change") continue;
    found.counts.changes++;
    let watch = watches.get(key);
    if (what === "watched") {
      const goesOn = event.recovered && watch?.epoch === event.epoch;
      const { epoch, rev, head } = event;
      watch = { observer, of, epoch, rev, head, isOpen: true, users: goesOn ? watch.users : {} };
      watches.set(key, watch);
    } else {
      if (!watch?.isOpen || event.epoch !== watch.epoch) continue;
      if (event.ended) {
        watch.isOpen = false;
      } else if (event.rev !== watch.rev + 1) {
        found.add("hole", t, `${key}: change ${event.rev} after ${watch.rev}`);
      }
      watch.rev = event.rev;
    }
    const users = { ...watch.users };
    for (const [user, [online, rev, isIn]] of Object.entries(event.users)) {
      const before = users[user];
      if (before && rev > 0 && rev < before[1])
        found.add("order", t, `${key}: ${user} with rev ${rev} after ${before[1]}`);
      if (of !== "users" && !(online && isIn !== false)) delete users[user];
      else users[user] = [online, rev];
    }
    watch.users = users;
    const isComplete = watch.isOpen && !event.stale && watch.rev >= watch.head;
    pictures.push({ t, observer, of, status: isComplete ? "complete" : "stale", users });
  }
  return pictures;
}

/** Pictures that say that they are complete: each user in them, for as long as they say so. */
function checkPictures(truth, found, pictures) {
  const shown = new Map();
  const unaware = new Map();
  const show = (key, { observer, of, status, users }, from, to) => {
    if (status !== "complete") return;
    if (!unaware.has(observer)) unaware.set(observer, truth.unaware(observer));
    const names = of === "users" ? Object.keys(users) : truth.users.keys();
    for (const user of names) {
      found.counts.pairs++;
      const online = of === "users" ? users[user][0] : user in users;
      const room = of === "users" ? "" : of.slice("room:".length);
      const bad = without(
        common(truth.wrong(user, room, online), [[from, to]]),
        unaware.get(observer),
      );
      for (const [begin, end] of bad) wrong(key, user, online, begin, end);
    }
  };
  const wrongs = new Map();
  const wrong = (key, user, online, from, to) => {
    const name = `${key} ${user}`;
    const before = wrongs.get(name);
    if (before && from - before.to < 1 && before.online === online) before.to = to;
    else {
      if (before) report(before);
      wrongs.set(name, { name, online, from, to });
    }
  };
  const report = ({ name, online, from, to }) =>
    found.add(
      "picture",
      from,
      `${name} is ${online ? "online" : "offline"} in a complete picture, wrong for ${seconds(to - from)} beyond the bound`,
      { for: to - from },
    );
  for (const picture of pictures) {
    found.counts.pictures++;
    const key = `${picture.observer} ${picture.of}`;
    const before = shown.get(key);
    if (before) {
      show(key, before, before.t, picture.t);
      for (const [user, [, rev]] of Object.entries(picture.users)) {
        const was = before.users[user]?.[1] ?? 0;
        const isBack = rev > 0 && rev < was && picture.status === "complete";
        if (isBack && !truth.forgot(before.t, picture.t))
          found.add("order", picture.t, `${key}: ${user} with rev ${rev} after ${was}`);
      }
    }
    shown.set(key, picture);
  }
  for (const [key, last] of shown) show(key, last, last.t, truth.end);
  for (const one of wrongs.values()) report(one);
}

/**
 * One number of a user is one change, whoever is told of it. A user whose node's lease is over is
 * offline in answers before that has a number; but who was offline is not online again by it.
 */
function checkOneHistory(truth, found, pictures) {
  const edges = new Map();
  const gone = new Map();
  const at = ({ by, t }) => `${by} at ${seconds(t)}`;
  const edge = (one) => {
    const key = `${one.user} ${one.rev}`;
    const before = edges.get(key) ?? one;
    edges.set(key, before);
    if (before.online !== one.online)
      found.add("one history", one.t, `${one.user} at rev ${one.rev}: ${at(one)}, ${at(before)}`);
  };
  const named = new Set();
  const said = ({ t, asked = t, by, user, rev, online }) => {
    if (!rev) return;
    const key = `${user} ${rev}`;
    if (!online) gone.set(key, gone.get(key) ?? { by, t });
    if (!online) return;
    const change = edges.get(key);
    const went = gone.get(key);
    const isBack = went && went.t < asked;
    // Of a change before the history there is the user's absence alone.
    const came = truth.known(user).allowed[0]?.[0] ?? Infinity;
    const isOfOffline = change ? !change.online : isBack && went.t < came;
    if (isOfOffline && !named.has(`${key} ${by}`)) {
      named.add(`${key} ${by}`);
      const when = change ?? went;
      found.add("rev", t, `${user}: online at rev ${rev} by ${by}, offline by ${at(when)}`);
    } else if (!isOfOffline && isBack) {
      gone.delete(key);
      found.add("one history", t, `${user}: online at rev ${rev} by ${by}, offline by ${at(went)}`);
    }
  };
  for (const { t, what, observer: by, user, online, rev } of truth.events)
    if (what === "edge") edge({ t, by, user, online, rev });
  const shown = pictures
    .filter(({ of, status }) => status === "complete" && of === "users")
    .flatMap(({ t, observer: by, users }) =>
      // A picture may be late: of one that says online the number is all that is looked at.
      Object.entries(users).map(([user, [online, rev]]) => ({ t, by, user, rev, online })),
    );
  for (const one of shown) if (!one.online) said(one);
  for (const { t, what, observer: by, asked, users } of truth.events)
    if (what === "answer")
      for (const { userId: user, online, rev, stale } of users)
        if (!stale) said({ t, asked, by, user, rev, online });
  for (const one of shown) if (one.online) said({ ...one, asked: -Infinity });
}

/** Every picture is complete again one lease after the last fault, and stays so. */
function checkHealing(truth, found, pictures) {
  const { lease, slack, end } = truth;
  const sick = truth.faults.map(({ from, to, doubts = 1 }) => [
    from - slack,
    to + doubts * lease + slack,
  ]);
  const well = common(outside(union([...sick, ...truth.blind])), [[0, end]]);
  const incomplete = new Map();
  const since = new Map();
  for (const { t, observer, of, status } of pictures) {
    const key = `${observer} ${of}`;
    if (!incomplete.has(key)) incomplete.set(key, { observer, spans: [] });
    if (since.has(key)) incomplete.get(key).spans.push([since.get(key), t]);
    since.delete(key);
    if (status !== "complete") since.set(key, t);
  }
  for (const [key, from] of since) incomplete.get(key).spans.push([from, end]);
  for (const [key, { observer, spans }] of incomplete) {
    const stays = truth.observers.get(observer) ?? [];
    // Who has moved by themselves has a moment to come back and ask.
    const away = union(
      stays.flatMap(({ from, to }, index) => [
        [index === 0 ? 0 : from - 2 * slack, from + 2 * slack],
        [to - slack, to + 2 * slack],
      ]),
    );
    for (const [from, to] of common(without(union(spans), away), well))
      if (to - from > slack)
        found.add("healing", from, `${key} is not complete for ${seconds(to - from)} in peace`);
  }
}

/**
 * How long changes took to be in complete pictures, in milliseconds: of users whose first socket
 * came, whose last one was closed, went silent, or was on a node that was killed. The first three
 * where nothing else was wrong.
 */
function latencies(truth, pictures) {
  const { lease, slack } = truth;
  const all = { online: [], closed: [], hung: [], killed: [] };
  const real = new Map();
  for (const { user, up, ended, why } of truth.sockets.values())
    if (up !== undefined) {
      if (!real.has(user)) real.set(user, []);
      real.get(user).push({ from: up, to: ended, why });
    }
  const last = new Map();
  for (const { t, observer, of, status, users } of pictures) {
    if (of !== "users") continue;
    const before = last.get(observer);
    const now = status === "complete" ? users : undefined;
    last.set(observer, now);
    if (!before || !now) continue;
    for (const [user, [online]] of Object.entries(now)) {
      if (before[user]?.[0] === online || before[user] === undefined) continue;
      const mine = real.get(user) ?? [];
      const there = mine.filter(({ from, to }) => from <= t && t < to);
      let since, kind;
      if (online && there.length > 0) {
        [since, kind] = [Math.min(...there.map(({ from }) => from)), "online"];
        if (mine.some(({ from, to }) => from < since && to > since - slack)) continue;
      } else if (!online && there.length === 0) {
        const gone = mine.filter(({ to }) => to <= t).sort((a, b) => b.to - a.to)[0];
        [since, kind] = [gone?.to, gone?.why];
      }
      if (!all[kind]) continue;
      const near = truth.faults.filter(
        ({ from, to }) => from < t && to + 2 * lease + slack > since,
      );
      const isKilled = kind === "killed" && near.every((one) => one.kind === "kill");
      if (near.length === 0 || isKilled) all[kind].push(Math.round(t - since));
    }
  }
  return all;
}

/** All that is wrong with a history, and how much was looked at. */
export function check(events) {
  const truth = new Truth(events);
  const found = new Findings();
  checkEdges(truth, found);
  checkAnswers(truth, found);
  const pictures = [
    ...checkChanges(truth, found),
    ...events.filter(({ what }) => what === "picture"),
  ];
  pictures.sort((a, b) => a.t - b.t);
  checkPictures(truth, found, pictures);
  checkOneHistory(truth, found, pictures);
  checkHealing(truth, found, pictures);
  found.violations.sort((a, b) => a.t - b.t);
  const { violations, excused, counts } = found;
  return {
    violations,
    excused,
    latencies: latencies(truth, pictures),
    counts: { ...counts, users: truth.users.size, sockets: truth.sockets.size },
    faults: truth.faults.map(({ id, kind, node, from, to }) => ({ id, kind, node, from, to })),
  };
}

/** A history as it is kept: JSON lines. */
export const parse = (text) =>
  text
    .split("\n")
    .filter(Boolean)
    .map((line) => JSON.parse(line));

if (process.argv[1] && import.meta.url === pathToFileURL(process.argv[1]).href) {
  const { violations, excused, counts } = check(parse(readFileSync(process.argv[2], "utf8")));
  console.log(JSON.stringify({ ...counts, excused }));
  for (const { rule, text } of violations) console.log(`${rule}: ${text}`);
  console.log(violations.length === 0 ? "true" : `${violations.length} violations`);
  process.exit(violations.length === 0 ? 0 : 1);
}
