// What may go wrong, and what that allows: docs/cluster.md as a table.

/**
 * `scope`: whom it befalls. `isMute`: a node, or all, cannot speak to Redis, so that what happens
 * on it is not known elsewhere. `forgets`: Redis may have lost what it knew. `doubts`: for so many
 * leases after it anything may be said of anybody. `ends`: what becomes of a node's clients.
 */
export const KINDS = {
  cut: { scope: "node", isMute: true, title: "link to Redis cut" },
  slow: { scope: "node", title: "link to Redis slow" },
  stop: { scope: "node", isMute: true, title: "SIGSTOP" },
  kill: { scope: "node", ends: "killed", title: "kill -9 and start" },
  drain: { scope: "node", ends: "drained", title: "SIGTERM and start" },
  replace: { scope: "node", ends: "drained", title: "SIGTERM, and the other build starts" },
  // Each of its nodes is a `replace`.
  roll: { title: "the other build, node by node" },
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
    title: "master killed, and a failover",
  },
  split: {
    scope: "store",
    isMute: true,
    forgets: true,
    lag: 3000,
    doubts: 2,
    title: "failover, and the old master wakes as one",
  },
  shard: { scope: "store", isMute: true, title: "master without presence killed, and a failover" },
  handover: { scope: "store", isMute: true, title: "CLUSTER FAILOVER" },
  reshard: { scope: "store", isMute: true, title: "slot of presence moves" },
  step: { scope: "store", doubts: 2, title: "clock of Redis steps" },
  deaf: { scope: "observer", title: "client's link goes dead" },
};
