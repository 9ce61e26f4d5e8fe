//! Users: identity, policy, presence, rooms, limits, and the traits behind which stores and
//! other nodes stand.
//!
//! This crate knows no connection, does no I/O and reads no clock. It is the inside of
//! `heartline`, which exports what of it is for others.

#![forbid(unsafe_code)]

pub mod auth;
pub mod backplane;
pub mod bounded;
pub mod entries;
pub mod line;
pub mod message;
pub mod misfit;
pub mod namespaces;
pub mod policy;
pub mod presence;
pub mod rate_limit;
pub mod rooms;
pub mod store;
pub mod time;
