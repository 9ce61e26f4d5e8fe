//! The rings of what was said to single sockets: of each until it is known that it came.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use hashbrown::HashMap;
use heartline_wire::time::Micros;

use crate::line::ring::{Extent, Kept, Ring};
use crate::line::{Bounds, Line};
use crate::presence::address::SocketAddress;

type Shared = Arc<Mutex<Ring>>;

/// The rings of sockets, by the ids under which these are known. Whoever has received all has
/// none.
#[derive(Debug, Default)]
pub struct Direct {
    rings: Mutex<HashMap<SocketAddress, Shared>>,
}

fn lock(ring: &Shared) -> MutexGuard<'_, Ring> {
    ring.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Direct {
    fn rings(&self) -> MutexGuard<'_, HashMap<SocketAddress, Shared>> {
        self.rings.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The ring of a socket, if it has one.
    pub fn find(&self, name: &SocketAddress) -> Option<Shared> {
        self.rings().get(name).cloned()
    }

    fn find_or_make(&self, name: SocketAddress, line: &Line) -> Shared {
        let mut rings = self.rings();
        let make = || Arc::new(Mutex::new(Ring::new(line.account.clone())));
        rings.entry(name).or_insert_with(make).clone()
    }

    /// Keeps an event. `note` sees it when it has its number; then `post` gets that, and puts
    /// it into the mailbox of wherever the socket is. A later one is posted after it.
    pub fn keep(
        &self,
        name: SocketAddress,
        line: &Line,
        mut event: Kept,
        note: impl FnOnce(&Kept),
        post: impl FnOnce(u64),
    ) {
        let ring = self.find_or_make(name, line);
        let mut ring = lock(&ring);
        line.take(1, |id| {
            event.id = id;
            note(&event);
            post(id);
        });
        ring.push(event, &line.bounds);
    }

    /// Keeps an event whose number was taken elsewhere, `before` being that of the one before it
    /// to the socket; `post` puts it into a mailbox.
    pub fn follow(
        &self,
        name: SocketAddress,
        line: &Line,
        before: u64,
        event: Kept,
        post: impl FnOnce(),
    ) {
        let ring = self.find_or_make(name, line);
        let mut ring = lock(&ring);
        if event.id <= ring.last() {
            return;
        }
        if before > ring.last() && ring.last() > 0 {
            ring.skip(before, 0);
        }
        line.follow(event.id, post);
        ring.push(event, &line.bounds);
    }

    /// All nodes hear that something to a socket was lost.
    pub fn follow_loss(&self, name: SocketAddress, line: &Line, id: u64) {
        let ring = self.find_or_make(name, line);
        line.follow(id, || ());
        lock(&ring).skip(id, 0);
    }

    /// Takes in what all nodes together have kept for a socket.
    pub fn take_in(&self, name: SocketAddress, line: &Line, known: Extent, events: Vec<Kept>) {
        if known.last == 0 && self.find(&name).is_none() {
            return;
        }
        let ring = self.find_or_make(name, line);
        lock(&ring).take_in(known, events, &line.bounds);
    }

    /// Keeps an event of an earlier process.
    pub fn restore(&self, name: SocketAddress, line: &Line, event: Kept) {
        let ring = self.find_or_make(name, line);
        lock(&ring).push(event, &line.bounds);
    }

    /// Something of a socket was dropped by an earlier process.
    pub fn restore_dropped(&self, name: SocketAddress, line: &Line, id: u64) {
        let ring = self.find_or_make(name, line);
        lock(&ring).skip(id, 0);
    }

    /// All up to a number has come: nobody will ask for it.
    pub fn received(&self, name: &SocketAddress, id: u64) {
        let mut rings = self.rings();
        let Some(ring) = rings.get(name) else {
            return;
        };
        let is_done = {
            let mut ring = lock(ring);
            ring.forget_up_to(id);
            ring.last() <= id
        };
        // Unless somebody is at it, to put another event in.
        if is_done && Arc::strong_count(ring) == 1 {
            rings.remove(name);
            if rings.is_empty() {
                rings.shrink_to_fit();
            }
        }
    }

    /// A socket is gone, and will not come back.
    pub fn end(&self, name: &SocketAddress) {
        let mut rings = self.rings();
        rings.remove(name);
        if rings.is_empty() {
            rings.shrink_to_fit();
        }
    }

    /// Drops what is too old. A ring stays, however empty, while its socket may come back: it
    /// knows what it has dropped.
    pub fn trim(&self, now: Micros, bounds: &Bounds) {
        for ring in self.rings().values() {
            lock(ring).trim(now, bounds);
        }
    }

    /// All rings.
    pub fn all(&self) -> Vec<(SocketAddress, Shared)> {
        let rings = self.rings();
        rings
            .iter()
            .map(|(name, ring)| (*name, ring.clone()))
            .collect()
    }

    /// How many sockets have one.
    pub fn len(&self) -> usize {
        self.rings().len()
    }

    /// Whether none has one.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use heartline_wire::id::{ConnId, Slot};

    use super::*;
    use crate::message::Message;
    use crate::namespaces::NamespaceId;

    #[test]
    fn what_has_come_is_forgotten_and_what_was_dropped_is_not() {
        let bounds = Bounds {
            age: Duration::from_secs(10),
            events: 2,
            bytes: 1 << 20,
            buffer: 1 << 20,
        };
        let line = Line::new(bounds, 1);
        let conn = ConnId {
            shard: 0,
            slot: Slot(1),
            generation: 1,
        };
        let socket = SocketAddress::new(conn, NamespaceId::ROOT, [0; 12]);
        let (direct, at) = (Direct::default(), |seconds: u64| {
            Micros(seconds * 1_000_000)
        });
        let say = |text: &str| {
            let event = Kept {
                id: 0,
                offset: 0,
                at: at(1),
                message: Message::new("e", text),
                key: None,
                only: None,
            };
            let mut posted = 0;
            direct.keep(socket, &line, event, |_| {}, |id| posted = id);
            posted
        };
        let kept_after = |id| {
            let ring = direct.find(&socket)?;
            let ring = lock(&ring);
            ring.is_complete_after(id)
                .then(|| ring.between(id, u64::MAX).count())
        };
        let (one, two) = (say("1"), say("2"));
        assert_eq!(kept_after(0), Some(2));
        direct.received(&socket, one);
        assert_eq!(kept_after(0), Some(1));
        direct.received(&socket, two);
        assert!(direct.is_empty() && line.account.held() == 0);
        // More than it may hold: whoever has not got the first is not told half of it.
        let (three, _, five) = (say("3"), say("4"), say("5"));
        assert_eq!((kept_after(two), kept_after(three)), (None, Some(2)));
        direct.trim(at(60), &bounds);
        assert_eq!((kept_after(three), kept_after(five)), (None, Some(0)));
        direct.received(&socket, five);
        assert!(direct.is_empty());
        say("6");
        direct.end(&socket);
        assert!(direct.is_empty() && line.account.held() == 0);
    }
}
