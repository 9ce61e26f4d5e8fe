//! Connections: the HTTP front, the shards, the transports and their liveness, below any
//! meaning of what is said.
//!
//! A gateway has a few **shards**, each a thread with an epoll, the connections it owns, a
//! timing wheel and a mailbox. HTTP (hyper, on the control runtime) does the handshakes; an
//! upgraded socket is taken from it and given to the shard with the fewest connections,
//! where it stays. What one turn of a shard produces for a connection leaves in one call at
//! the turn's end.
//!
//! **Architecture invariant:** nothing in here knows of Socket.IO, users or rooms. An
//! [`App`](app::App) is told of connections and messages, and answers through
//! [`Engine`](shard::engine::Engine); the two are fields of the same shard and share no
//! lock.
//!
//! This crate is the inside of `heartline`, which exports what of it is for others:
//! [`engineio`].

pub mod app;
pub mod clock;
pub mod descriptors;
pub mod engineio;
pub mod failure;
#[cfg(any(test, feature = "harness"))]
pub mod harness;
pub mod http;
pub mod random;
pub mod seldom;
pub mod shard;
pub mod slots;
pub mod tasks;
