// A browser with tabs that share a connection, and what they do over and over.
import assert from "node:assert/strict";
import { createClient } from "../dist/shared.js";
import { Clock, HELLO, settled } from "./fake.js";
import { Tabs } from "./tabs.js";

/** Lets what tabs say to each other arrive, and what follows from it. */
export async function heard() {
  for (let turn = 0; turn < 8; turn++) await settled();
}

/** A browser with tabs, each with its client; and all real connections that came about. */
export function world(link = {}) {
  const tabs = new Tabs();
  const clock = new Clock();
  const links = [];
  const dial = (tab) => (token, events, earlier) => {
    const one = {
      tab,
      token,
      earlier,
      events,
      said: [],
      closed: [],
      emit: (event, data, reply) => one.said.push({ event, data, reply }),
      join: (room, reply) => one.said.push({ event: "join", data: room, reply }),
      leave: (room, reply) => one.said.push({ event: "leave", data: room, reply }),
      ping: (reply) => one.said.push({ event: "ping", reply }),
      session: () => ({ of: links.indexOf(one) }),
      close: (forGood) => one.closed.push(forGood),
      find: (event) => one.said.filter((said) => said.event === event),
      ...link,
    };
    links.push(one);
    return one;
  };
  const open = (name, options = {}) => {
    const page = tabs.open();
    const client = createClient(dial(name), {
      name: "ann",
      token: name,
      platform: clock,
      browser: page.browser,
      ...options,
    });
    const events = [];
    for (const event of ["note", "server:hello", "session:back", "room:missed"])
      client.on(event, (data) => events.push([event, data]));
    return {
      ...page,
      client,
      clock: client.platform,
      events,
      names: () => events.map(([event]) => event),
      notes: () => events.filter(([event]) => event === "note").map(([, data]) => data),
    };
  };
  const all = {
    tabs,
    clock,
    links,
    open,
    get link() {
      return links.at(-1);
    },
    /** The data of what the newest connection was asked under a name. */
    said: (event) => all.link.find(event).map(({ data }) => data),
    /** The newest connection is let in. */
    greet: async (more) => {
      all.link.events.hello({ ...HELLO, ...more });
      await heard();
    },
    /** It is, and goes on where the one before it was. */
    goOn: () => all.greet({ recovered: true }),
    /** It is lost, or does not come about. */
    lose: async () => {
      all.link.events.end({ kind: "retry", reason: "transport" });
      await heard();
    },
    /** It is lost, and the next one goes on. */
    comeBack: async () => {
      await all.lose();
      await all.pass(1000);
      await all.goOn();
    },
    /** Time passes for all tabs that have no clock of their own. */
    pass: async (ms) => {
      await clock.pass(ms);
      await heard();
    },
    /** The nth question for a room is answered. */
    answerJoin: async (answer = { ok: true }, nth = 0) => {
      all.link.find("join")[nth].reply(answer);
      await heard();
    },
    /** These tabs come into the lobby, for which nobody has asked yet. */
    enter: async (...tabs) => {
      for (const { client } of tabs) void client.join("lobby");
      await heard();
      await all.answerJoin();
    },
  };
  return all;
}

/** Tabs with a connection, which the first one carries; `own` names those with timers of their own. */
export async function connected(names, own = "", link = {}) {
  const all = world(link);
  const tabs = {};
  for (const name of names)
    tabs[name] = all.open(name, own.includes(name) ? { platform: new Clock() } : {});
  await heard();
  await all.greet();
  assert.deepEqual(status(...Object.values(tabs)), Array(names.length).fill("connected"));
  return { all, tabs, ...tabs };
}
export const two = (link) => connected("ab", "", link);
export const status = (...tabs) => tabs.map(({ client }) => client.state.status);

/** A tab leaves the lobby. */
export async function leave({ client }) {
  client.leave("lobby");
  await heard();
}

/** How transports come back: with the rooms that they were in, or room by room. */
export const WAYS_BACK = [
  ["rooms are not joined again", {}],
  ["they are", { isByRoom: true, isDeaf: true }],
];
