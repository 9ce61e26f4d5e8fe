//! How many connections there may be, in all and per address, and how fast
//! new ones may come.

use std::net::{IpAddr, Ipv6Addr};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use hashbrown::HashMap;
use ipnet::{IpNet, Ipv4Net};

/// Why a connection was refused before it began.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refused {
    /// `server.max_connections` are there: HTTP 503.
    Full,
    /// Too many from this address: HTTP 429.
    Address,
}

/// What counts as one address: of IPv6 a /64, as one household or machine has a whole one to
/// choose from.
pub fn address_group(ip: IpAddr) -> IpAddr {
    match ip.to_canonical() {
        // All of its network that there is.
        IpAddr::V6(v6) if v6.is_loopback() => ip,
        IpAddr::V6(v6) => Ipv6Addr::from_bits(v6.to_bits() & (u128::MAX << 64)).into(),
        ip => ip,
    }
}

/// A network in the notation in which addresses are compared: one of IPv4 addresses that is written
/// as one of IPv6 (`::ffff:10.0.0.0/104`) is that of IPv4.
pub fn canonical_network(network: IpNet) -> IpNet {
    let mapped = match network {
        IpNet::V6(v6) => v6
            .prefix_len()
            .checked_sub(96)
            .zip(v6.addr().to_ipv4_mapped()),
        IpNet::V4(_) => None,
    };
    let mapped = mapped.and_then(|(prefix, address)| Ipv4Net::new(address, prefix).ok());
    mapped.map_or(network, IpNet::V4)
}

/// Counts the connections of a gateway.
pub struct ConnectionSlots {
    total: AtomicUsize,
    /// Those that travel over HTTP, request by request.
    polling: AtomicUsize,
    max: Option<usize>,
    max_per_ip: Option<usize>,
    per_ip: Mutex<HashMap<IpAddr, usize>>,
    /// Told when the last place, or the last polling session, is given back.
    emptied: tokio::sync::Notify,
}

impl ConnectionSlots {
    /// At most `max` connections, and `max_per_ip` of one [address](address_group); `None` for
    /// no bound.
    pub fn new(max: Option<usize>, max_per_ip: Option<usize>) -> Arc<Self> {
        Arc::new(ConnectionSlots {
            total: AtomicUsize::new(0),
            polling: AtomicUsize::new(0),
            max,
            max_per_ip,
            per_ip: Mutex::default(),
            emptied: tokio::sync::Notify::new(),
        })
    }

    /// Most connections of one address.
    pub(crate) fn max_per_ip(&self) -> Option<usize> {
        self.max_per_ip
    }

    /// Connections there are.
    pub fn total(&self) -> usize {
        self.total.load(Ordering::Acquire)
    }

    /// Resolves once no place is taken.
    pub async fn empty(&self) {
        self.until_none(&self.total).await;
    }

    /// Resolves once there is no polling session.
    pub async fn no_polling(&self) {
        self.until_none(&self.polling).await;
    }

    async fn until_none(&self, count: &AtomicUsize) {
        loop {
            let emptied = self.emptied.notified();
            tokio::pin!(emptied);
            emptied.as_mut().enable();
            if count.load(Ordering::Acquire) == 0 {
                return;
            }
            emptied.await;
        }
    }

    /// Takes a place, or says why there is none.
    pub fn take(self: &Arc<Self>, ip: IpAddr) -> Result<SlotGuard, Refused> {
        let before = self.total.fetch_add(1, Ordering::Relaxed);
        if self.max.is_some_and(|max| before >= max) {
            self.total.fetch_sub(1, Ordering::Relaxed);
            return Err(Refused::Full);
        }
        if let Some(max) = self.max_per_ip {
            let mut per_ip = self.per_ip.lock().unwrap_or_else(PoisonError::into_inner);
            let count = per_ip.entry(address_group(ip)).or_default();
            if *count >= max {
                self.total.fetch_sub(1, Ordering::Relaxed);
                return Err(Refused::Address);
            }
            *count += 1;
        }
        Ok(SlotGuard {
            slots: self.clone(),
            ip,
            polling: false,
        })
    }
}

/// A place taken; dropping it gives it back.
pub struct SlotGuard {
    slots: Arc<ConnectionSlots>,
    ip: IpAddr,
    polling: bool,
}

impl SlotGuard {
    /// Whether the connection needs the HTTP listener to live.
    pub fn set_polling(&mut self, polling: bool) {
        if self.polling == polling {
            return;
        }
        self.polling = polling;
        if polling {
            self.slots.polling.fetch_add(1, Ordering::AcqRel);
        } else if self.slots.polling.fetch_sub(1, Ordering::AcqRel) == 1 {
            self.slots.emptied.notify_waiters();
        }
    }

    /// The address it was taken for.
    pub fn ip(&self) -> IpAddr {
        self.ip
    }
}

impl Drop for SlotGuard {
    fn drop(&mut self) {
        self.set_polling(false);
        if self.slots.total.fetch_sub(1, Ordering::AcqRel) == 1 {
            self.slots.emptied.notify_waiters();
        }
        if self.slots.max_per_ip.is_some() {
            let mut per_ip = self
                .slots
                .per_ip
                .lock()
                .unwrap_or_else(PoisonError::into_inner);
            let address = address_group(self.ip);
            if let Some(count) = per_ip.get_mut(&address) {
                *count -= 1;
                if *count == 0 {
                    per_ip.remove(&address);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_counted_and_given_back() {
        let slots = ConnectionSlots::new(Some(3), Some(2));
        let (a, b) = (IpAddr::from([127, 0, 0, 1]), IpAddr::from([127, 0, 0, 2]));
        let first = slots.take(a).ok().unwrap();
        let _second = slots.take(a).ok().unwrap();
        assert_eq!(slots.take(a).err(), Some(Refused::Address));
        let _third = slots.take(b).ok().unwrap();
        assert_eq!(slots.take(b).err(), Some(Refused::Full));
        drop(first);
        assert!(slots.take(a).is_ok());
        assert_eq!(slots.total(), 2);
    }

    #[test]
    fn addresses_of_one_ipv6_network_share_their_places() {
        let slots = ConnectionSlots::new(None, Some(1));
        let ip = |text: &str| text.parse::<IpAddr>().unwrap();
        let first = slots.take(ip("2001:db8::1")).ok().unwrap();
        assert_eq!(first.ip(), ip("2001:db8::1"));
        let second = slots.take(ip("2001:db8::ffff:0:0:2"));
        assert_eq!(second.err(), Some(Refused::Address));
        let _other = slots.take(ip("2001:db8:0:1::1")).ok().unwrap();
        drop(first);
        assert!(slots.take(ip("2001:db8::2")).is_ok());
        assert!(slots.per_ip.lock().unwrap().len() == 1);
    }

    #[test]
    fn one_machine_is_one_address_in_either_notation() {
        let ip = |text: &str| text.parse::<IpAddr>().unwrap();
        assert_eq!(address_group(ip("::ffff:192.0.2.1")), ip("192.0.2.1"));
        assert_eq!(address_group(ip("192.0.2.1")), ip("192.0.2.1"));
        assert!(address_group(ip("::1")).is_loopback());
        for (written, is) in [
            ("::ffff:10.0.0.5/128", "10.0.0.5/32"),
            ("::ffff:10.1.2.3/104", "10.1.2.3/8"),
            ("::ffff:0:0/96", "0.0.0.0/0"),
            ("::ffff:0:0/95", "::ffff:0:0/95"),
            ("::a00:5/128", "::a00:5/128"),
            ("2001:db8::/32", "2001:db8::/32"),
            ("10.0.0.0/8", "10.0.0.0/8"),
        ] {
            let network = |text: &str| text.parse::<IpNet>().unwrap();
            assert_eq!(canonical_network(network(written)), network(is));
        }
    }
}
