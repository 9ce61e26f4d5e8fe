//! Changes of presence, and who is to be told of them.

use std::sync::Arc;

use crate::auth::UserKey;

/// A change of a user's presence.
#[derive(Debug, Clone)]
pub struct Edge {
    /// Whose.
    pub user: Arc<UserKey>,
    /// Online now, or offline now.
    pub online: bool,
    /// Counts edges; of two edges of a user, the one with the greater `rev` is
    /// the later.
    pub rev: u64,
    /// Unix milliseconds.
    pub at: u64,
    /// The rooms whose members are to know, where `presence.announce` is `rooms`.
    pub rooms: Vec<RoomAddress>,
    /// Set if this is no change: an online user has come into `rooms`. Who is in these
    /// others as well has heard of it.
    pub others: Option<Vec<RoomAddress>>,
}

/// Hears edges, in order for each user, while that user's entry is locked: it
/// must not call back.
pub type EdgeSink = Box<dyn Fn(&Edge) + Send + Sync>;

/// A room, within the tenant of whoever is in it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RoomAddress {
    /// The room's namespace.
    pub namespace: Arc<str>,
    /// Its name.
    pub room: Arc<str>,
}
