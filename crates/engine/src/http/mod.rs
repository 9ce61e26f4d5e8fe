//! The HTTP front: from a TCP connection to a request of a shard.

pub(crate) mod answer;
pub mod cors;
pub mod forward;
pub mod front;
pub mod nodes;
pub(crate) mod remote;
pub(crate) mod served;
pub(crate) mod upgrade;
