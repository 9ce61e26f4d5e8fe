//! Many Heartline nodes as one gateway.
//!
//! [`Cluster`] is the [`Backplane`](heartline_core::backplane::Backplane) that does it, on
//! Redis or Valkey. Its parts, from the pure to the real:
//!
//! * [`registry`]: what nodes keep together, as a trait of a dozen atomic operations
//!   and the rules they follow;
//! * [`member`]: one node's part in it: leases, recovery, batches;
//! * [`names`], [`envelope`], [`seal`]: how users are named, publications written and signed;
//! * [`redis`]: the registry as a script, and the fan-out over pub/sub.

mod answer;
mod cluster;
mod diagnosis;
pub mod envelope;
pub mod kept;
mod last;
mod local;
mod locked;
mod lookups;
pub mod member;
pub mod names;
mod nodes;
mod probes;
pub mod redis;
pub mod registry;
mod replica;
pub mod seal;
mod seldom;
mod servers;
#[cfg(test)]
mod simulation;
mod watch;

pub use cluster::{Cluster, Settings};
pub use diagnosis::{Diagnosis, Unusable, diagnose, place};
pub use member::Timing;
pub use redis::{
    BadUrl, Condition, Finding, LineSettings, OnceBounds, OnceKnown, RedisChallenges, RedisOnce,
    SocketIoAdapter, check_url, faults, own_address,
};
