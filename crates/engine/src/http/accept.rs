//! Who may come in by TCP, before a byte is read: connections that speak HTTP are counted
//! from the moment they are accepted, for one that never asks for anything takes a
//! descriptor like any other.

use std::io;
use std::net::IpAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use hashbrown::HashMap;
use heartline_wire::time::Micros;
use ipnet::IpNet;

use crate::clock::Clock;
use crate::seldom::Seldom;
use crate::slots::address_group;

/// Connections that may speak HTTP at once, upgraded ones not counted.
const MAX_HTTP_CONNECTIONS: usize = 65_536;
/// Descriptors that the public port leaves to the operators' listener, other nodes, the
/// log and the stores.
const RESERVE: usize = 64;
/// What a polling client has open: its GET and its POST.
const PER_SESSION: usize = 2;
/// What an address may have open besides: pages, connections that browsers open in advance and
/// keep for later, and handshakes, so that those of a burst over the bound are answered 429.
const BESIDES: usize = 256;
/// Where descriptors are few, no more than this part of them, and never fewer than so many.
const BESIDES_PART: usize = 8;
const MIN_BESIDES: usize = 16;
/// Up to so many connections are kept for their next request as long as balancers do.
const MANY: usize = 8192;
/// How long a connection may wait for its next request: longer than the 60 s for which
/// balancers keep theirs, so that they are who ends it, and no request meets a closed door.
const IDLE: Duration = Duration::from_secs(65);
/// The same while there are many.
const IDLE_AMONG_MANY: Duration = Duration::from_secs(10);
/// How long nothing is accepted when nothing can be.
pub(crate) const PAUSE: Duration = Duration::from_millis(50);
/// Shortest time between two lines of the log about one thing.
const LOG_PERIOD: Duration = Duration::from_secs(1);

/// Why a connection is closed as soon as it is accepted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Closed {
    /// Descriptors are short, or too many speak HTTP.
    Full,
    /// Its address has as many as it may.
    Address,
}

/// Counts the connections that speak HTTP.
pub(crate) struct Door {
    /// The process's limit of descriptors.
    descriptors: usize,
    /// Most connections from one address.
    per_address: usize,
    /// Most from one trusted proxy: all clients come by it, and it bounds them itself. What
    /// is left is for the others, should it leak.
    per_proxy: usize,
    total: AtomicUsize,
    by_address: Mutex<HashMap<IpAddr, usize>>,
    refusals: Seldom,
}

impl Door {
    /// `descriptors` is the process's limit of them, `sessions` the bound on an address's
    /// connections (`server.max_connections_per_ip`). Without that, an address may have half
    /// of what there is.
    pub(crate) fn new(descriptors: usize, sessions: Option<usize>) -> Arc<Door> {
        let room = descriptors.min(MAX_HTTP_CONNECTIONS);
        let besides = BESIDES.min(room / BESIDES_PART).max(MIN_BESIDES);
        let bound = |sessions: usize| {
            let sessions = sessions.saturating_mul(PER_SESSION);
            sessions.saturating_add(besides)
        };
        Arc::new(Door {
            descriptors,
            per_address: sessions.map_or(room / 2, bound),
            per_proxy: room / 4 * 3,
            total: AtomicUsize::new(0),
            by_address: Mutex::default(),
            refusals: Seldom::every(LOG_PERIOD),
        })
    }

    /// Connections that speak HTTP.
    pub(crate) fn total(&self) -> usize {
        self.total.load(Ordering::Relaxed)
    }

    /// Lets a connection in. `descriptor` is its number: as the system gives the lowest that
    /// is free, all lower ones are taken.
    pub(crate) fn enter(
        self: &Arc<Self>,
        peer: IpAddr,
        descriptor: usize,
        trusted: &[IpNet],
    ) -> Result<Inside, Closed> {
        let reserve = RESERVE.min(self.descriptors / 4);
        if descriptor >= self.descriptors - reserve || self.total() >= MAX_HTTP_CONNECTIONS {
            return Err(Closed::Full);
        }
        let peer = peer.to_canonical();
        let is_proxy = trusted.iter().any(|net| net.contains(&peer));
        let bound = match is_proxy {
            true => self.per_proxy,
            false => self.per_address,
        };
        let address = address_group(peer);
        let mut by_address = self.addresses();
        let count = by_address.entry(address).or_default();
        if *count >= bound {
            return Err(Closed::Address);
        }
        *count += 1;
        drop(by_address);
        self.total.fetch_add(1, Ordering::Relaxed);
        Ok(Inside {
            door: self.clone(),
            address,
        })
    }

    /// Tells the log that connections are closed at the door, now and then.
    pub(super) fn log(&self, why: Closed, peer: IpAddr, now: Micros) {
        let Some(refused) = self.refusals.speaks_for(now) else {
            return;
        };
        match why {
            Closed::Full => tracing::warn!(
                refused,
                descriptors = self.descriptors,
                "new connections are closed: file descriptors are nearly used up"
            ),
            Closed::Address => tracing::warn!(
                refused,
                %peer,
                "new connections are closed: their address has too many that speak HTTP; \
                 a proxy belongs in server.trusted_proxies"
            ),
        }
    }

    fn addresses(&self) -> std::sync::MutexGuard<'_, HashMap<IpAddr, usize>> {
        self.by_address
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

/// A connection that speaks HTTP; dropping it takes it from the count.
pub(crate) struct Inside {
    door: Arc<Door>,
    address: IpAddr,
}

impl Inside {
    /// How long it may wait for its next request.
    pub(super) fn patience(&self) -> Duration {
        match self.door.total() > MANY.min(self.door.descriptors / 4) {
            true => IDLE_AMONG_MANY,
            false => IDLE,
        }
    }
}

impl Drop for Inside {
    fn drop(&mut self) {
        self.door.total.fetch_sub(1, Ordering::Relaxed);
        let mut by_address = self.door.addresses();
        if let Some(count) = by_address.get_mut(&self.address) {
            *count -= 1;
            if *count == 0 {
                by_address.remove(&self.address);
            }
        }
    }
}

/// Waits out what keeps a listener from accepting. Neither a lack of descriptors nor a
/// connection that died in the queue ends it.
pub(super) struct AcceptFailures(Seldom);

impl AcceptFailures {
    pub(super) fn new() -> Self {
        AcceptFailures(Seldom::every(LOG_PERIOD))
    }

    pub(super) async fn after(&self, error: io::Error, whose: &'static str, clock: Clock) {
        if !self.tell(&error, whose, clock) {
            tokio::time::sleep(PAUSE).await;
        }
    }

    /// Tells the log, now and then. Whether the next one may be accepted at once.
    pub(super) fn tell(&self, error: &io::Error, whose: &'static str, clock: Clock) -> bool {
        if let Some(failures) = self.0.speaks_for(clock.now()) {
            tracing::warn!(%error, failures, listener = whose, "a connection could not be accepted");
        }
        let passing = [
            io::ErrorKind::ConnectionAborted,
            io::ErrorKind::ConnectionReset,
            io::ErrorKind::Interrupted,
        ];
        passing.contains(&error.kind())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn an_address_has_room_for_its_sessions_and_no_more() {
        let door = Door::new(10_000, Some(2));
        let (one, other) = (address("192.0.2.1"), address("192.0.2.2"));
        let mut inside: Vec<_> = (0..2 * PER_SESSION + BESIDES)
            .map(|_| door.enter(one, 10, &[]).ok().unwrap())
            .collect();
        assert_eq!(door.enter(one, 10, &[]).err(), Some(Closed::Address));
        let mapped = address("::ffff:192.0.2.1");
        assert_eq!(door.enter(mapped, 10, &[]).err(), Some(Closed::Address));
        assert!(door.enter(other, 10, &[]).is_ok());
        inside.pop();
        assert!(door.enter(one, 10, &[]).is_ok());
        drop(inside);
        assert_eq!(door.total(), 0);
        assert!(door.addresses().is_empty());
    }

    #[test]
    fn a_network_of_ipv6_counts_as_one_address() {
        let door = Door::new(10_000, Some(0));
        let _inside: Vec<_> = (0..BESIDES)
            .map(|n| door.enter(address(&format!("2001:db8::{n}")), 10, &[]).ok())
            .collect();
        let same = address("2001:db8::ffff:1");
        assert_eq!(door.enter(same, 10, &[]).err(), Some(Closed::Address));
        assert!(door.enter(address("2001:db8:0:1::1"), 10, &[]).is_ok());
    }

    #[test]
    fn a_trusted_proxy_is_not_one_client() {
        let door = Door::new(10_000, Some(1));
        let trusted = ["10.0.0.0/8".parse().unwrap()];
        let proxy = address("10.0.0.1");
        let inside: Vec<_> = (0..7500)
            .map(|_| door.enter(proxy, 10, &trusted).ok().unwrap())
            .collect();
        assert_eq!(door.enter(proxy, 10, &trusted).err(), Some(Closed::Address));
        assert!(door.enter(address("192.0.2.1"), 10, &trusted).is_ok());
        drop(inside);
    }

    #[test]
    fn the_last_descriptors_are_not_for_the_public_port() {
        let peer = address("192.0.2.1");
        let door = Door::new(1024, None);
        assert!(door.enter(peer, 959, &[]).is_ok());
        assert_eq!(door.enter(peer, 960, &[]).err(), Some(Closed::Full));
        let narrow = Door::new(40, None);
        assert!(narrow.enter(peer, 29, &[]).is_ok());
        assert_eq!(narrow.enter(peer, 30, &[]).err(), Some(Closed::Full));
    }

    #[test]
    fn idle_connections_outlive_those_of_balancers_until_there_are_many() {
        let door = Door::new(40, Some(100));
        let peer = address("192.0.2.1");
        let first = door.enter(peer, 10, &[]).ok().unwrap();
        assert!(first.patience() > Duration::from_secs(60));
        let _more: Vec<_> = (0..10).map(|_| door.enter(peer, 10, &[]).ok()).collect();
        assert_eq!(first.patience(), IDLE_AMONG_MANY);
    }
}
