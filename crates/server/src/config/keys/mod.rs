//! Every key that there is: its name, default, meaning and parser stand together here and
//! nowhere else, a file for a part of the reference. docs/configuration.md is printed from it.

mod auth;
mod cluster;
mod kept;
mod key;
mod log;
mod server;
mod users;

pub(crate) use key::{Apply, Key};

/// The parts, in the order of the reference.
const PARTS: [&[Key]; 6] = [
    server::KEYS,
    auth::KEYS,
    users::KEYS,
    kept::KEYS,
    cluster::KEYS,
    log::KEYS,
];

/// All keys, in the order of the reference.
pub(crate) fn all() -> impl Iterator<Item = &'static Key> {
    PARTS.into_iter().flatten()
}
