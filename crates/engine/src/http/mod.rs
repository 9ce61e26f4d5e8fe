//! The HTTP front: from a TCP connection to a request of a shard.

pub(crate) mod accept;
pub(crate) mod answer;
mod arrive;
mod begin;
pub mod body;
mod client_files;
mod compress;
pub mod cors;
pub mod forward;
pub mod front;
mod head;
mod listen;
pub mod nodes;
pub(crate) mod remote;
mod route;
pub(crate) mod served;
mod session;
pub mod token;
pub(crate) mod upgrade;
pub mod visitor;
