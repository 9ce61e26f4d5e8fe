//! Databases for messages: what is answered is on the disk, once, in its place.

#![forbid(unsafe_code)]

mod queue;
mod sqlite;

pub use sqlite::{OpenError, SqliteStore};
