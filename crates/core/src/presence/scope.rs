//! Which rooms are told of a user's presence, where `presence.announce` is `rooms`. What a
//! socket enters or leaves costs that one room, however many the user is in.

use std::sync::{Arc, Mutex, PoisonError};

use hashbrown::{HashMap, HashSet};

use super::address::SocketAddress;
use crate::presence::edge::{Heard, Others, RoomAddress};

/// The rooms whose members have heard that a user is online.
#[derive(Debug, Default)]
pub(super) struct Scope {
    sockets: HashMap<SocketAddress, HashSet<RoomAddress>>,
    /// Shared with edges on their way.
    heard: Arc<Mutex<Heard>>,
}

impl Scope {
    fn heard<T>(&self, act: impl FnOnce(&mut Heard) -> T) -> T {
        act(&mut self.heard.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// These have heard of a user who has no socket in them.
    pub(super) fn of(places: Vec<RoomAddress>) -> Scope {
        let scope = Scope::default();
        scope.heard(|heard| places.into_iter().for_each(|place| heard.remember(place)));
        scope
    }

    /// All of them, in order.
    pub(super) fn places(&self) -> Vec<RoomAddress> {
        self.heard(|heard| heard.before(u64::MAX))
    }

    /// Where each socket is.
    pub(super) fn memberships(&self) -> Vec<(SocketAddress, RoomAddress)> {
        let all = self.sockets.iter();
        all.flat_map(|(socket, places)| places.iter().map(|place| (*socket, place.clone())))
            .collect()
    }

    /// A socket has come into a room. The other rooms, if the user is new there.
    pub(super) fn enter(&mut self, socket: SocketAddress, place: &RoomAddress) -> Option<Others> {
        let places = self.sockets.entry(socket).or_default();
        if !places.insert(place.clone()) {
            return None;
        }
        let number = self.heard(|heard| heard.enter(place))?;
        Some(Others::before(self.heard.clone(), number))
    }

    /// A socket has left a room, and goes on.
    pub(super) fn leave(&mut self, socket: SocketAddress, place: &RoomAddress) {
        let Some(places) = self.sockets.get_mut(&socket) else {
            return;
        };
        if places.remove(place) {
            if places.is_empty() {
                self.sockets.remove(&socket);
            }
            self.heard(|heard| heard.leave(place));
        }
    }

    /// A socket has ended: the rooms that it was in know of the user all the same.
    pub(super) fn end(&mut self, socket: SocketAddress) {
        let places = self.sockets.remove(&socket).unwrap_or_default();
        self.heard(|heard| places.iter().for_each(|place| heard.end(place)));
    }
}
