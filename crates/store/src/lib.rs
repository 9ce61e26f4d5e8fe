//! Databases for messages: what is answered is on the disk, once, in its place.

#![forbid(unsafe_code)]

mod clean;
mod error;
mod look;
#[cfg(feature = "postgres")]
mod postgres;
mod queue;
#[cfg(feature = "sqlite")]
mod sqlite;
mod waiting;

pub use error::OpenError;
pub use look::Looked;
#[cfg(feature = "postgres")]
pub use postgres::{PostgresStore, PostgresUrl};
#[cfg(feature = "sqlite")]
pub use sqlite::SqliteStore;
