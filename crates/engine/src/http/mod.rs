//! The HTTP front: from a TCP connection to a request of a shard.

pub(crate) mod accept;
pub(crate) mod answer;
mod arrive;
pub mod body;
mod client_files;
mod compress;
pub mod cors;
pub mod forward;
pub mod front;
pub mod nodes;
pub(crate) mod remote;
pub(crate) mod served;
pub mod token;
pub(crate) mod upgrade;
pub mod visitor;
