//! What can be watched: some users, or a room.

use std::sync::Arc;

use super::super::edge::RoomAddress;

/// What is watched, by one tenant.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Scope {
    /// The tenant; `None` where there are none.
    pub tenant: Option<Arc<str>>,
    /// Of it.
    pub what: What,
}

/// Users, or a room.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum What {
    /// These, of any type, in any namespace; in the order of their names, each once.
    Users(Arc<[Arc<str>]>),
    /// Whoever is in it.
    Room(RoomAddress),
}

impl Scope {
    /// These users.
    pub fn users(tenant: Option<Arc<str>>, users: impl IntoIterator<Item = Arc<str>>) -> Scope {
        let mut users: Vec<Arc<str>> = users.into_iter().collect();
        users.sort_unstable();
        users.dedup();
        Scope {
            tenant,
            what: What::Users(users.into()),
        }
    }

    /// Whoever is in a room.
    pub fn room(tenant: Option<Arc<str>>, namespace: Arc<str>, room: Arc<str>) -> Scope {
        Scope {
            tenant,
            what: What::Room(RoomAddress { namespace, room }),
        }
    }

    /// The room's name, if it is one.
    pub fn room_name(&self) -> Option<&Arc<str>> {
        match &self.what {
            What::Room(place) => Some(&place.room),
            What::Users(_) => None,
        }
    }

    pub(super) fn len(&self) -> usize {
        match &self.what {
            What::Users(users) => users.len(),
            What::Room(_) => 0,
        }
    }

    pub(super) fn bytes(&self) -> usize {
        match &self.what {
            What::Users(users) => users.iter().map(|user| user.len()).sum(),
            What::Room(place) => place.room.len(),
        }
    }
}
