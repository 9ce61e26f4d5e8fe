//! Which rooms are told of a user's presence, where `presence.announce` is `rooms`.

use std::collections::BTreeSet;

use super::address::SocketAddress;
use crate::presence::edge::RoomAddress;

/// Rooms that a user's ended sockets were in, as long as it is online: so many are
/// told when it goes.
const MAX_LEFT: usize = 1000;

/// The rooms whose members have heard that a user is online.
#[derive(Debug, Default)]
pub(super) struct Scope {
    pub(super) sockets: Vec<(SocketAddress, RoomAddress)>,
    /// Rooms that sockets were in when they ended.
    left: BTreeSet<RoomAddress>,
}

impl Scope {
    pub(super) fn places(&self) -> BTreeSet<RoomAddress> {
        let here = self.sockets.iter().map(|(_, place)| place);
        here.chain(&self.left).cloned().collect()
    }

    /// A socket has come into a room. The other rooms, if the user is new there.
    pub(super) fn enter(&mut self, socket: SocketAddress, place: &RoomAddress) -> Option<Vec<RoomAddress>> {
        let others = self.places();
        self.left.remove(place);
        let membership = (socket, place.clone());
        if !self.sockets.contains(&membership) {
            self.sockets.push(membership);
        }
        (!others.contains(place)).then(|| others.into_iter().collect())
    }

    pub(super) fn leave(&mut self, socket: SocketAddress, place: &RoomAddress) {
        self.sockets
            .retain(|(one, room)| *one != socket || room != place);
    }

    pub(super) fn end(&mut self, socket: SocketAddress) {
        let (ended, others): (Vec<_>, Vec<_>) = std::mem::take(&mut self.sockets)
            .into_iter()
            .partition(|(one, _)| *one == socket);
        self.sockets = others;
        for (_, place) in ended {
            let is_there = self.sockets.iter().any(|(_, other)| *other == place);
            if !is_there && self.left.len() < MAX_LEFT {
                self.left.insert(place);
            }
        }
    }
}
