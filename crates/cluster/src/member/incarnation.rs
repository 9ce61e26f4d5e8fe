//! What a member knows of its present incarnation, and why that ends.

use std::collections::VecDeque;
use std::sync::Arc;

use hashbrown::HashSet;
use tokio::time::Instant;

use crate::registry::{Fenced, Guarded, TypedUser, Unavailable};

/// Why an incarnation ended.
pub(super) enum End {
    Fenced,
    Unavailable(Unavailable),
    Left,
}

impl From<Unavailable> for End {
    fn from(error: Unavailable) -> Self {
        End::Unavailable(error)
    }
}

impl From<Fenced> for End {
    fn from(Fenced: Fenced) -> Self {
        End::Fenced
    }
}

impl End {
    /// Why an operation failed that needs the lease. Must not be asked of one that has
    /// succeeded: that would be taken for fenced.
    pub(super) fn of<T>(failed: Guarded<T>) -> End {
        match failed {
            Err(error) => End::Unavailable(error),
            Ok(_) => End::Fenced,
        }
    }
}

/// One incarnation's state.
pub(super) struct Incarnation {
    /// As the registry knows it.
    pub(super) name: Arc<str>,
    pub(super) renew_at: Instant,
    /// When there is something to maintain; `None` if nothing is known of.
    pub(super) maintain_at: Option<Instant>,
    /// The node's place among the living, from 0 on.
    pub(super) rank: u32,
    /// Users to be registered.
    pub(super) restore: VecDeque<Pending>,
    /// Incarnations to be retired as soon as all users are registered.
    pub(super) earlier: Vec<Arc<str>>,
    /// Sockets that lost their places and were told, which the registry does not know.
    pub(super) done: Vec<Arc<str>>,
    /// Sockets that the registry had at the last audit and this node had not.
    pub(super) suspects: HashSet<Arc<str>>,
}

/// A user whose sockets are to be registered.
pub(super) struct Pending {
    pub(super) who: TypedUser,
    /// What [`State::unregistered`](super::State) knew.
    pub(super) doubt: Option<bool>,
}

impl Incarnation {
    /// When something is due next.
    pub(super) fn next_deadline(&self) -> Instant {
        self.maintain_at
            .map_or(self.renew_at, |at| at.min(self.renew_at))
    }
}
