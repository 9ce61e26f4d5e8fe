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
    title: `deliveries/s, ${members / 1000} 000 members, ${flights === 2 ? "two" : "four"} publications in flight, each a write of its own`,
    load: load("broadcast", members, { "in-flight": flights, apart: true, ...BRIEF }), peers: ALL, busy: true,
    value: perSecond, better: "higher", unit: "/s", also: { "CPU s per million": cpu },
  }))),
  {
    key: "echo8Apart", title: "acknowledged events/s, 50 connections, eight in flight on each, each event a write of its own",
    load: load("echo", 50, { event: "echo", "in-flight": 8, apart: true, ...BRIEF }), peers: ALL, busy: true,
    value: perSecond, better: "higher", unit: "/s", also: { "CPU s per million": cpu },
  },
  ...[[1000, 2], [1000, 4], [10000, 2], [10000, 4]].map(([members, publishers]) => ({
    key: `publishers${publishers}In${members / 1000}k`,
    title: `deliveries/s, ${members / 1000} 000 members, ${publishers === 2 ? "two" : "four"} of whom publish one after the other's beginning, each one at a time`,
    load: load("broadcast", members, { "in-flight": publishers, publishers, apart: true, ...BRIEF }), peers: ALL, busy: true,
    value: perSecond, better: "higher", unit: "/s", also: { "CPU s per million": cpu },
  })),
  {
    key: "tls", title: "deliveries/s over TLS, 1 000 members, one publication in flight",
    load: load("broadcast", 1000, { ...BRIEF }), peers: ["live", "socketio", "bunLive", "bun", "node"], options: { tls: true }, busy: true,
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
  ...[["slow", 10, "one in ten of whom does not read"], ["slowNone", 0, "all of whom read"]].map(([key, percent, who]) => ({
    key, title: `p99 of 100 publications/s of 10 KB to 200 members, ${who}`,
    // Long and large enough for the slow ones' buffers to overflow.
    load: load("slow", 200, { "publish-rate": 100, size: 10000, duration: "8s", "slow-percent": percent }),
    peers: ["live", "socketio"], value: p99, better: "lower", unit: "ms",
  })),
  ...["echo8", "broadcast1k"].map((key) => ({
    key: `${key}Threads`, title: `CPU seconds per million, two worker threads instead of one: ${key === "echo8" ? "events, eight in flight" : "deliveries, 1 000 members"}`,
    load: key === "echo8" ? load("echo", 50, { event: "echo", "in-flight": 8 }) : load("broadcast", 1000),
    peers: ["live", "socketio"], options: { threads: 2 }, value: cpu, better: "lower", unit: "s",
  })),
];

/** How a figure grows. Each point is a load; with a `limit`, the bare loop shows what the machine makes of it. */
export const GROWTH = [
  {
    key: "growthMemory", title: "Resident bytes per connection", x: "connections", unit: "B",
    points: [1000, 4000, 16000].map((n) => ({ x: n, load: load("idle", n, { duration: "1s", tokens: true, rooms: 1 }) })),
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

/**
 * The budgets: `measured` gives the figure from the medians, as the ratio or size
 * that `holds` judges. `m(figure, peer)` is a median, `c` its CPU per million.
 */
export const BUDGETS = [
  ["memory of an idle Socket.IO connection, authenticated, in one room", "under 2 048 B", ({ m }) => m("memory", "socketio"), (v) => v < 2048],
  ["memory of an idle live connection, the same", "under 1 280 B", ({ m }) => m("memory", "live"), (v) => v < 1280],
  ...["broadcast1k", "broadcast10k"].flatMap((figure) => {
    const members = figure === "broadcast1k" ? "1 000" : "10 000";
    return [
      [`deliveries/s, ${members} members: live to Bun's`, "at least 1", ({ m }) => m(figure, "live") / m(figure, "bunLive"), (v) => v >= 1],
      [`deliveries/s, ${members} members: Socket.IO to Bun's`, "at least 0.9", ({ m }) => m(figure, "socketio") / m(figure, "bunLive"), (v) => v >= 0.9],
      [`deliveries/s, ${members} members: the slower of both to socketioxide's`, "over 1.6", ({ m }) => Math.min(m(figure, "live"), m(figure, "socketio")) / m(figure, "socketioxide"), (v) => v > 1.6],
      [`deliveries/s, ${members} members: the slower of both to Node's`, "over 2", ({ m }) => Math.min(m(figure, "live"), m(figure, "socketio")) / m(figure, "node"), (v) => v > 2],
    ];
  }),
  ...[["1k", "1 000", 1.5], ["10k", "10 000", 1.2]].flatMap(([key, members, least]) => ["two", "four"].flatMap((many) => {
    const flights = many === "two" ? 2 : 4;
    return [[`broadcast${key}In${flights}`, `${many} in flight`], [`publishers${flights}In${key}`, `${many} publishers`]].flatMap(([figure, what]) => [
      [`deliveries/s, ${members} members, ${what}: live to Bun's`, `at least ${least}`, ({ m }) => m(figure, "live") / m(figure, "bunLive"), (v) => v >= least],
      [`deliveries/s, ${members} members, ${what}: live to Socket.IO`, "0.9 to 1.1", ({ m }) => m(figure, "live") / m(figure, "socketio"), (v) => v >= 0.9 && v <= 1.1],
    ]);
  })),
  ["events/s, each a write of its own: live to the bare loop's", "at least 1", ({ m }) => m("echo8Apart", "live") / m("echo8Apart", "bare"), (v) => v >= 1],
  ["events/s, each a write of its own: live to Bun's", "at least 1", ({ m }) => m("echo8Apart", "live") / m("echo8Apart", "bunLive"), (v) => v >= 1],
  ["deliveries/s, 1 000 rooms of four: the slower of both to Bun's", "at least 1", ({ m }) => Math.min(m("rooms", "live"), m("rooms", "socketio")) / m("rooms", "bunLive"), (v) => v >= 1],
  ["deliveries/s over TLS: the slower of both to Bun's", "at least 1", ({ m }) => Math.min(m("tls", "live"), m("tls", "socketio")) / m("tls", "bunLive"), (v) => v >= 1],
  ["deliveries/s, 16 in flight: live to Bun's", "at least 1.3", ({ m }) => m("broadcast16", "live") / m("broadcast16", "bunLive"), (v) => v >= 1.3],
  ["deliveries/s, 16 in flight: Socket.IO to socketioxide's", "over 1", ({ m }) => m("broadcast16", "socketio") / m("broadcast16", "socketioxide"), (v) => v > 1],
  ["events/s, one in flight: live to Bun's", "at least 0.85", ({ m }) => m("echo1", "live") / m("echo1", "bunLive"), (v) => v >= 0.85],
  ["events/s, one in flight: Socket.IO to socketioxide's", "at least 1.2", ({ m }) => m("echo1", "socketio") / m("echo1", "socketioxide"), (v) => v >= 1.2],
  ["events/s, eight in flight: live to Bun's", "at least 1.5", ({ m }) => m("echo8", "live") / m("echo8", "bunLive"), (v) => v >= 1.5],
  ["events/s, eight in flight: Socket.IO to socketioxide's", "at least 1.5", ({ m }) => m("echo8", "socketio") / m("echo8", "socketioxide"), (v) => v >= 1.5],
  ["CPU per delivery, one in flight: live to Bun's", "at most 1.1", ({ c }) => c("broadcast1k", "live") / c("broadcast1k", "bunLive"), (v) => v <= 1.1],
  ["CPU per event, one in flight: live to Bun's", "at most 1.1", ({ c }) => c("echo1", "live") / c("echo1", "bunLive"), (v) => v <= 1.1],
  ["CPU per event, eight in flight: live to Bun's", "at most 1.1", ({ c }) => c("echo8", "live") / c("echo8", "bunLive"), (v) => v <= 1.1],
  ["idle CPU, 16 000 heartbeats every 5 s: live to the bare loop's", "at most 1.5", ({ m }) => m("heartbeats", "live") / m("heartbeats", "bare"), (v) => v <= 1.5],
  ["connections/s with a token: Socket.IO to socketioxide's without", "over 1.2", ({ m }) => m("connects", "socketio") / m("connects", "socketioxide"), (v) => v > 1.2],
  ["connections/s with a token: live to Bun's without", "at least 1", ({ m }) => m("connects", "live") / m("connects", "bunLive"), (v) => v >= 1],
  ["CPU per connection with a token: live to Bun's without", "at most 1.1", ({ c }) => c("connects", "live") / c("connects", "bunLive"), (v) => v <= 1.1],
  ["p99 with one slow member in ten to that without: live", "at most 1.2", ({ m }) => m("slow", "live") / m("slowNone", "live"), (v) => v <= 1.2],
  ["p99 with one slow member in ten to that without: Socket.IO", "at most 1.2", ({ m }) => m("slow", "socketio") / m("slowNone", "socketio"), (v) => v <= 1.2],
  ["CPU per event, two threads to one: live", "at most 1.15", ({ m, c }) => m("echo8Threads", "live") / c("echo8", "live"), (v) => v <= 1.15],
  ["CPU per delivery, two threads to one: live", "at most 1.15", ({ m, c }) => m("broadcast1kThreads", "live") / c("broadcast1k", "live"), (v) => v <= 1.15],
].map(([what, budget, measured, holds]) => ({ what, budget, measured, holds }));
