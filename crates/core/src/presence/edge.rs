//! Changes of presence, and who is to be told of them.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use hashbrown::{Equivalent, HashMap, HashSet};

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
    /// Its number among the edges of all nodes; 0: it has none.
    pub number: u64,
    /// The rooms whose members are to know, where `presence.announce` is `rooms`.
    pub rooms: Vec<RoomAddress>,
    /// Set if this is no change: an online user has come into `rooms`. Who is in these
    /// others as well has heard of it.
    pub others: Option<Others>,
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

/// Rooms that a user's ended sockets were in, as long as it is online: so many are
/// told when it goes.
const MAX_LEFT: usize = 1000;

/// The rooms that have heard of a user, numbered in the order in which they did.
#[derive(Debug, Default)]
pub(super) struct Heard {
    places: HashMap<RoomAddress, Place>,
    /// The number of the last.
    last: u64,
    /// Rooms of which no socket is left.
    left: usize,
}

#[derive(Debug)]
struct Place {
    number: u64,
    sockets: usize,
}

impl Heard {
    /// One more socket in a room. Its number, if the user is new there.
    pub(super) fn enter(&mut self, place: &RoomAddress) -> Option<u64> {
        if let Some(known) = self.places.get_mut(place) {
            self.left -= usize::from(known.sockets == 0);
            known.sockets += 1;
            return None;
        }
        self.last += 1;
        let new = Place {
            number: self.last,
            sockets: 1,
        };
        self.places.insert(place.clone(), new);
        Some(self.last)
    }

    /// A room has heard of the user, in which no socket is.
    pub(super) fn remember(&mut self, place: RoomAddress) {
        self.last += 1;
        let new = Place {
            number: self.last,
            sockets: 0,
        };
        if self.places.insert(place, new).is_none() {
            self.left += 1;
        }
    }

    /// A socket has left a room; with the last of them the room is forgotten.
    pub(super) fn leave(&mut self, place: &RoomAddress) {
        if self.is_last(place) {
            self.places.remove(place);
        }
    }

    /// A socket in a room has ended; with the last of them the room is remembered.
    pub(super) fn end(&mut self, place: &RoomAddress) {
        if self.is_last(place) {
            if self.left < MAX_LEFT {
                self.left += 1;
            } else {
                self.places.remove(place);
            }
        }
    }

    /// Counts a socket less; whether it was the last.
    fn is_last(&mut self, place: &RoomAddress) -> bool {
        let Some(known) = self.places.get_mut(place) else {
            return false;
        };
        known.sockets = known.sockets.saturating_sub(1);
        known.sockets == 0
    }

    /// The rooms with lower numbers, in the order of their names.
    pub(super) fn before(&self, number: u64) -> Vec<RoomAddress> {
        let earlier = self.places.iter().filter(|(_, at)| at.number < number);
        let mut places: Vec<RoomAddress> = earlier.map(|(place, _)| place.clone()).collect();
        places.sort_unstable();
        places
    }
}

/// The rooms that heard of a user before another did, without those that the user has left
/// meanwhile. They are looked at only where there is somebody who may have to be told.
#[derive(Debug, Clone)]
pub struct Others(Listing);

#[derive(Debug, Clone)]
enum Listing {
    These(Arc<HashSet<RoomAddress>>),
    Before(Arc<Mutex<Heard>>, u64),
}

impl Others {
    pub(super) fn before(heard: Arc<Mutex<Heard>>, number: u64) -> Others {
        Others(Listing::Before(heard, number))
    }

    /// About how many they are, and no fewer.
    pub fn len_at_most(&self) -> usize {
        match &self.0 {
            Listing::These(places) => places.len(),
            Listing::Before(heard, _) => locked(heard).places.len(),
        }
    }

    /// Whether a room is one of them.
    pub fn contains(&self, namespace: &str, room: &str) -> bool {
        let place = PlaceRef { namespace, room };
        match &self.0 {
            Listing::These(places) => places.contains(&place),
            Listing::Before(heard, number) => {
                let heard = locked(heard);
                let known = heard.places.get(&place);
                known.is_some_and(|known| known.number < *number)
            }
        }
    }

    /// All of them.
    pub fn list(&self) -> Vec<RoomAddress> {
        match &self.0 {
            Listing::These(places) => places.iter().cloned().collect(),
            Listing::Before(heard, number) => locked(heard).before(*number),
        }
    }
}

impl FromIterator<RoomAddress> for Others {
    fn from_iter<T: IntoIterator<Item = RoomAddress>>(places: T) -> Others {
        Others(Listing::These(Arc::new(places.into_iter().collect())))
    }
}

fn locked(heard: &Mutex<Heard>) -> MutexGuard<'_, Heard> {
    heard.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A [`RoomAddress`], borrowed.
#[derive(Hash)]
struct PlaceRef<'a> {
    namespace: &'a str,
    room: &'a str,
}

impl Equivalent<RoomAddress> for PlaceRef<'_> {
    fn equivalent(&self, place: &RoomAddress) -> bool {
        *self.namespace == *place.namespace && *self.room == *place.room
    }
}
