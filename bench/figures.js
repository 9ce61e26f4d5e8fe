// What is measured, and the budgets that Heartline is held to.

/** The peers that speak Socket.IO or less and can be asked for everything. */
const ALL = ["live", "socketio", "bunLive", "bun", "uws", "node", "socketioxide", "bare"];
/** Those of them that know rooms by name. */
const ROOMS = ["live", "socketio", "bunLive", "node", "socketioxide"];

/** Options for `heartline load`; `quick` is what a smoke run makes of them. */
const load = (scenario, connections, options = {}) => ({ scenario, connections, ...options });

/** There are many of these. */
const BRIEF = { duration: "1500ms" };

const perSecond = (report) => report.per_second;
const cpu = (report) => report.server.cpu_per_million;
const p99 = (report) => report.latency_us.p99 / 1000;

// `value` reads a figure from a report; `better` says which way is up.
export const FIGURES = [
  {
    key: "memory", title: "resident bytes per idle connection (slope, an eighth to all of 16 000)",
    load: load("idle", 16000, { duration: "1s", tokens: true, rooms: 1 }), peers: ALL, fresh: true,
    value: (report) => report.server.bytes_per_connection, better: "lower", unit: "B",
  },
  {
    key: "connects", title: "connections/s, each closed once it is there (Heartline: with its token checked)",
    load: load("churn", 64, { tokens: true }), peers: ALL,
    value: perSecond, better: "higher", unit: "/s", also: { "CPU s per million": cpu },
  },
  {
    key: "echo1", title: "acknowledged events/s, 50 connections, one in flight on each",
    load: load("echo", 50, { event: "echo" }), peers: ALL,
    value: perSecond, better: "higher", unit: "/s", also: { "CPU s per million": cpu },
  },
  {
    key: "echo8", title: "acknowledged events/s, 50 connections, eight in flight on each",
    load: load("echo", 50, { event: "echo", "in-flight": 8 }), peers: ALL,
    value: perSecond, better: "higher", unit: "/s", also: { "CPU s per million": cpu },
  },
  {
    key: "broadcast1k", title: "deliveries/s, 1 000 members, one publication in flight",
    load: load("broadcast", 1000), peers: ALL,
    value: perSecond, better: "higher", unit: "/s", also: { "CPU s per million": cpu },
  },
  {
    key: "broadcast16", title: "deliveries/s, 1 000 members, 16 publications in flight",
    load: load("broadcast", 1000, { "in-flight": 16 }), peers: ALL,
    value: perSecond, better: "higher", unit: "/s", also: { "CPU s per million": cpu },
  },
  ...[1000, 10000].flatMap((members) => [2, 4].map((flights) => ({
    key: `broadcast${members / 1000}kIn${flights}`,
    title: `deliveries/s, ${members / 1000} 000 members, ${flights === 2 ? "two" : "four"} publications in flight, ` +
      "each a write of its own",
    load: load("broadcast", members, { "in-flight": flights, apart: true, ...BRIEF }), peers: ALL, busy: true,
    value: perSecond, better: "higher", unit: "/s", also: { "CPU s per million": cpu },
  }))),
  {
    key: "echo8Apart",
    title: "acknowledged events/s, 50 connections, eight in flight on each, each event a write of its own",
    load: load("echo", 50, { event: "echo", "in-flight": 8, apart: true, ...BRIEF }), peers: ALL, busy: true,
    value: perSecond, better: "higher", unit: "/s", also: { "CPU s per million": cpu },
  },
  ...[[1000, 2], [1000, 4], [10000, 2], [10000, 4]].map(([members, publishers]) => ({
    key: `publishers${publishers}In${members / 1000}k`,
    title: `deliveries/s, ${members / 1000} 000 members, ${publishers === 2 ? "two" : "four"} of whom publish ` +
      "one after the other's beginning, each one at a time",
    load: load("broadcast", members, { "in-flight": publishers, publishers, apart: true, ...BRIEF }),
    peers: ALL, busy: true,
    value: perSecond, better: "higher", unit: "/s", also: { "CPU s per million": cpu },
  })),
  {
    key: "tls", title: "deliveries/s over TLS, 1 000 members, one publication in flight",
    load: load("broadcast", 1000, { ...BRIEF }), peers: ["live", "socketio", "bunLive", "bun", "node"],
    options: { tls: true }, busy: true,
    value: perSecond, better: "higher", unit: "/s", also: { "CPU s per million": cpu },
  },
  {
    key: "rooms", title: "deliveries/s, 1 000 rooms of four, one publication in flight in each",
    load: load("broadcast", 4000, { rooms: 1000, apart: true, ...BRIEF }), peers: ROOMS, busy: true,
    value: perSecond, better: "higher", unit: "/s", also: { "CPU s per million": cpu },
  },
  {
    key: "broadcast10k", title: "deliveries/s, 10 000 members, one publication in flight",
    load: load("broadcast", 10000), peers: ALL,
    value: perSecond, better: "higher", unit: "/s", also: { "CPU s per million": cpu },
  },
  {
    key: "latency", title: "p99 at 40 000 deliveries/s, 1 000 members",
    load: load("broadcast", 1000, { "publish-rate": 40 }), peers: ALL,
    value: p99, better: "lower", unit: "ms",
  },
  {
    key: "heartbeats", title: "one processor's share with 16 000 idle connections, a ping each every 5 s",
    load: load("idle", 16000, { duration: "15s", rooms: 1 }), peers: ["live", "socketio", "bare"], fresh: true,
    options: { pingInterval: 5000, set: ["heartbeat.interval=5s"] },
    value: (report) => report.server.cpu_share * 100, better: "lower", unit: "%",
  },
  ...[
    ["slow", 10, "one in ten of whom does not read"],
    ["slowNone", 0, "all of whom read"],
  ].map(([key, percent, who]) => ({
    key, title: `p99 of 100 publications/s of 10 KB to 200 members, ${who}`,
    // Long and large enough for the slow ones' buffers to overflow.
    load: load("slow", 200, { "publish-rate": 100, size: 10000, duration: "8s", "slow-percent": percent }),
    peers: ["live", "socketio"], value: p99, better: "lower", unit: "ms",
  })),
  ...[
    ["echo8", "events, eight in flight"],
    ["broadcast1k", "deliveries, 1 000 members"],
  ].map(([key, what]) => ({
    key: `${key}Threads`, title: `CPU seconds per million, two worker threads instead of one: ${what}`,
    load: key === "echo8" ? load("echo", 50, { event: "echo", "in-flight": 8 }) : load("broadcast", 1000),
    peers: ["live", "socketio"], options: { threads: 2 }, value: cpu, better: "lower", unit: "s",
  })),
];

/** How a figure grows. Each point is a load; with a `limit`, the bare loop shows what the machine makes of it. */
export const GROWTH = [
  {
    key: "growthMemory", title: "Resident bytes per connection", x: "connections", unit: "B",
    points: [1000, 4000, 16000].map((n) => {
      return { x: n, load: load("idle", n, { duration: "1s", tokens: true, rooms: 1 }) };
    }),
    fresh: true, value: (report) => report.server.bytes_per_connection,
  },
  {
    key: "growthMembers", title: "CPU per delivery, by members of one room", x: "members", unit: "µs",
    points: [1000, 4000, 16000].map((n) => ({ x: n, load: load("broadcast", n) })),
    value: cpu, limit: true,
  },
  {
    key: "growthRooms", title: "CPU per delivery, 4 000 connections, by rooms", x: "rooms", unit: "µs",
    points: [1, 10, 1000].map((n) => ({ x: n, load: load("broadcast", 4000, { rooms: n }) })),
    value: cpu,
  },
];

const atLeast = (bound) => [`at least ${bound}`, (v) => v >= bound];
const atMost = (bound) => [`at most ${bound}`, (v) => v <= bound];
const over = (bound) => [`over ${bound}`, (v) => v > bound];
const between = (low, high) => [`${low} to ${high}`, (v) => v >= low && v <= high];
const under = (bound, text) => [`under ${text}`, (v) => v < bound];

/** A figure of one peer to that of another, or to the same peer's `other` figure; and CPU per million. */
const ratio = (figure, peer, to, other = figure) => ({ m }) => m(figure, peer) / m(other, to);
const costs = (figure, peer, to) => ({ c }) => c(figure, peer) / c(figure, to);
/** The slower of both protocols to another peer. */
const slower = (figure, to) => ({ m }) =>
  Math.min(m(figure, "live"), m(figure, "socketio")) / m(figure, to);
/** What a second worker thread adds to the CPU of a figure. */
const threads = (figure) => ({ m, c }) => m(`${figure}Threads`, "live") / c(figure, "live");

/** One publication in flight, in rooms of two sizes. */
const ALONE = [["broadcast1k", "1 000"], ["broadcast10k", "10 000"]].flatMap(([figure, members]) => {
  const what = `deliveries/s, ${members} members`;
  return [
    [`${what}: live to Bun's`, atLeast(1), ratio(figure, "live", "bunLive")],
    [`${what}: Socket.IO to Bun's`, atLeast(0.9), ratio(figure, "socketio", "bunLive")],
    [`${what}: the slower of both to socketioxide's`, over(1.6), slower(figure, "socketioxide")],
    [`${what}: the slower of both to Node's`, over(2), slower(figure, "node")],
  ];
});

/** Two and four of them, by one client and by as many, in the same rooms. */
const TOGETHER = [["1k", "1 000", 1.5], ["10k", "10 000", 1.2]].flatMap(([key, members, least]) =>
  [["two", 2], ["four", 4]].flatMap(([many, flights]) =>
    [
      [`broadcast${key}In${flights}`, `${many} in flight`],
      [`publishers${flights}In${key}`, `${many} publishers`],
    ].flatMap(([figure, how]) => {
      const what = `deliveries/s, ${members} members, ${how}`;
      return [
        [`${what}: live to Bun's`, atLeast(least), ratio(figure, "live", "bunLive")],
        [`${what}: live to Socket.IO`, between(0.9, 1.1), ratio(figure, "live", "socketio")],
      ];
    }),
  ),
);

/**
 * The budgets: `measured` gives the figure from the medians, as the ratio or size
 * that `holds` judges. `m(figure, peer)` is a median, `c` its CPU per million.
 */
export const BUDGETS = [
  ["memory of an idle Socket.IO connection, authenticated, in one room", under(2048, "2 048 B"),
    ({ m }) => m("memory", "socketio")],
  ["memory of an idle live connection, the same", under(1280, "1 280 B"),
    ({ m }) => m("memory", "live")],
  ...ALONE,
  ...TOGETHER,
  ["events/s, each a write of its own: live to the bare loop's", atLeast(1),
    ratio("echo8Apart", "live", "bare")],
  ["events/s, each a write of its own: live to Bun's", atLeast(1),
    ratio("echo8Apart", "live", "bunLive")],
  ["deliveries/s, 1 000 rooms of four: the slower of both to Bun's", atLeast(1), slower("rooms", "bunLive")],
  ["deliveries/s over TLS: the slower of both to Bun's", atLeast(1), slower("tls", "bunLive")],
  ["deliveries/s, 16 in flight: live to Bun's", atLeast(1.3), ratio("broadcast16", "live", "bunLive")],
  ["deliveries/s, 16 in flight: Socket.IO to socketioxide's", over(1),
    ratio("broadcast16", "socketio", "socketioxide")],
  ["events/s, one in flight: live to Bun's", atLeast(0.85), ratio("echo1", "live", "bunLive")],
  ["events/s, one in flight: Socket.IO to socketioxide's", atLeast(1.2),
    ratio("echo1", "socketio", "socketioxide")],
  ["events/s, eight in flight: live to Bun's", atLeast(1.5), ratio("echo8", "live", "bunLive")],
  ["events/s, eight in flight: Socket.IO to socketioxide's", atLeast(1.5),
    ratio("echo8", "socketio", "socketioxide")],
  ["CPU per delivery, one in flight: live to Bun's", atMost(1.1), costs("broadcast1k", "live", "bunLive")],
  ["CPU per event, one in flight: live to Bun's", atMost(1.1), costs("echo1", "live", "bunLive")],
  ["CPU per event, eight in flight: live to Bun's", atMost(1.1), costs("echo8", "live", "bunLive")],
  ["idle CPU, 16 000 heartbeats every 5 s: live to the bare loop's", atMost(1.5),
    ratio("heartbeats", "live", "bare")],
  ["connections/s with a token: Socket.IO to socketioxide's without", over(1.2),
    ratio("connects", "socketio", "socketioxide")],
  ["connections/s with a token: live to Bun's without", atLeast(1), ratio("connects", "live", "bunLive")],
  ["CPU per connection with a token: live to Bun's without", atMost(1.1), costs("connects", "live", "bunLive")],
  ["p99 with one slow member in ten to that without: live", atMost(1.2),
    ratio("slow", "live", "live", "slowNone")],
  ["p99 with one slow member in ten to that without: Socket.IO", atMost(1.2),
    ratio("slow", "socketio", "socketio", "slowNone")],
  ["CPU per event, two threads to one: live", atMost(1.15), threads("echo8")],
  ["CPU per delivery, two threads to one: live", atMost(1.15), threads("broadcast1k")],
].map(([what, [budget, holds], measured]) => ({ what, budget, measured, holds }));
