// What may go wrong, and what that allows: docs/cluster.md as a table.

/**
 * `scope`: whom it befalls. `isMute`: a node, or all, cannot speak to Redis, so that what happens
 * on it is not known elsewhere. `forgets`: Redis may have lost what it knew. `doubts`: for so many
 * leases after it anything may be said of anybody.
 */
export const KINDS = {
  cut: { scope: "node", isMute: true, title: "link to Redis cut" },
  slow: { scope: "node", title: "link to Redis slow" },
  stop: { scope: "node", isMute: true, title: "SIGSTOP" },
  kill: { scope: "node", title: "kill -9 and start" },
  drain: { scope: "node", title: "SIGTERM and start" },
  outage: { scope: "store", isMute: true, title: "all links to Redis cut" },
  stall: { scope: "store", isMute: true, title: "Redis SIGSTOP" },
  restart: {
    scope: "store",
    isMute: true,
    forgets: true,
    title: "Redis killed and started, empty",
  },
  wipe: { scope: "store", forgets: true, title: "FLUSHALL" },
  evict: { scope: "store", doubts: 2, title: "key evicted" },
  failover: {
    scope: "store",
    isMute: true,
    forgets: true,
    lag: 3000,
    title: "failover by Sentinel",
  },
  split: {
    scope: "store",
    isMute: true,
    forgets: true,
    lag: 3000,
    doubts: 2,
    title: "failover, and the old master wakes as one",
  },
  step: { scope: "store", doubts: 2, title: "clock of Redis steps" },
  deaf: { scope: "observer", title: "client's link goes dead" },
};
