//! The rings of what goes to no room: of namespaces, and of users.

use std::hash::{Hash, Hasher};
use std::sync::{Arc, Mutex, PoisonError};

use hashbrown::{Equivalent, HashMap};
use heartline_wire::time::Micros;

use crate::line::ring::{Extent, Kept, Ring};
use crate::line::{Bounds, Line};
use crate::namespaces::NamespaceId;

/// How many times as much as of a room is kept of a namespace: all users' comings and goings
/// are told there.
const NAMESPACE: usize = 64;

/// All sockets of a namespace and tenant, or those of one user there.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Scope {
    /// The namespace.
    pub namespace: NamespaceId,
    /// The tenant; `None` where there are none.
    pub tenant: Option<Arc<str>>,
    /// The user's id; `None`: everybody.
    pub user: Option<Arc<str>>,
}

/// The same, borrowed, for looking up.
#[derive(Debug, Clone, Copy)]
pub struct ScopeRef<'a> {
    /// The namespace.
    pub namespace: NamespaceId,
    /// The tenant; `None` where there are none.
    pub tenant: Option<&'a str>,
    /// The user's id; `None`: everybody.
    pub user: Option<&'a str>,
}

impl Hash for ScopeRef<'_> {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.namespace.hash(state);
        self.tenant.hash(state);
        self.user.hash(state);
    }
}

impl Equivalent<Scope> for ScopeRef<'_> {
    fn equivalent(&self, key: &Scope) -> bool {
        self.namespace == key.namespace
            && self.tenant == key.tenant.as_deref()
            && self.user == key.user.as_deref()
    }
}

type Shared = Arc<Mutex<Ring>>;

/// The rings of namespaces and users.
#[derive(Debug, Default)]
pub struct Shelf {
    rings: Mutex<HashMap<Scope, Shared>>,
}

impl Shelf {
    /// The ring of a scope, if it has one.
    pub fn find(&self, scope: ScopeRef<'_>) -> Option<Shared> {
        let rings = self.rings.lock().unwrap_or_else(PoisonError::into_inner);
        rings.get(&scope).cloned()
    }

    fn find_or_make(&self, scope: ScopeRef<'_>, line: &Line) -> Shared {
        let mut rings = self.rings.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(ring) = rings.get(&scope) {
            return ring.clone();
        }
        let key = Scope {
            namespace: scope.namespace,
            tenant: scope.tenant.map(Into::into),
            user: scope.user.map(Into::into),
        };
        let ring = Arc::new(Mutex::new(Ring::new(line.account.clone())));
        rings.insert(key, ring.clone());
        ring
    }

    /// Keeps events in a scope. `note` sees them when they have their numbers; then `post` gets
    /// the first of these, and puts them into the mailboxes of those who are there. A later
    /// event of the scope is posted after them.
    pub fn keep(
        &self,
        scope: ScopeRef<'_>,
        line: &Line,
        mut events: Vec<Kept>,
        note: impl FnOnce(&[Kept]),
        post: impl FnOnce(u64),
    ) {
        let ring = self.find_or_make(scope, line);
        let mut ring = ring.lock().unwrap_or_else(PoisonError::into_inner);
        line.take(events.len(), |first| {
            for (id, event) in (first..).zip(&mut events) {
                event.id = id;
            }
            note(&events);
            post(first);
        });
        let bounds = bounds(scope, &line.bounds);
        for event in events {
            ring.push(event, &bounds);
        }
    }

    /// Keeps events whose numbers were taken elsewhere, `before` being that of the one before them
    /// in the scope; `post` puts them into the mailboxes. False: they were there already.
    pub fn follow(
        &self,
        scope: ScopeRef<'_>,
        line: &Line,
        before: u64,
        events: Vec<Kept>,
        post: impl FnOnce(),
    ) -> bool {
        let ring = self.find_or_make(scope, line);
        let mut ring = ring.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(last) = events.last().map(|event| event.id) else {
            return false;
        };
        if last <= ring.last() {
            return false;
        }
        if before > ring.last() {
            ring.skip(before, 0);
        }
        line.follow(last, post);
        for event in events {
            ring.push(event, &bounds(scope, &line.bounds));
        }
        true
    }

    /// The same of an event that is for nobody here, so that it need not be kept.
    pub fn pass_over(&self, scope: ScopeRef<'_>, line: &Line, before: u64, id: u64) {
        let ring = self.find_or_make(scope, line);
        let mut ring = ring.lock().unwrap_or_else(PoisonError::into_inner);
        line.follow(id, || ());
        if before > ring.last() {
            ring.skip(before, 0);
        }
        ring.pass_over(id);
    }

    /// All nodes hear that something of a scope was lost.
    pub fn follow_loss(&self, scope: ScopeRef<'_>, line: &Line, id: u64) {
        let ring = self.find_or_make(scope, line);
        let mut ring = ring.lock().unwrap_or_else(PoisonError::into_inner);
        line.follow(id, || ());
        ring.skip(id, 0);
    }

    /// Takes in what all nodes together have kept of a scope.
    pub fn take_in(&self, scope: ScopeRef<'_>, line: &Line, known: Extent, events: Vec<Kept>) {
        let ring = self.find_or_make(scope, line);
        let mut ring = ring.lock().unwrap_or_else(PoisonError::into_inner);
        ring.take_in(known, events, &bounds(scope, &line.bounds));
    }

    /// Something of a scope was lost on its way: it is not complete for who comes back from
    /// before now.
    pub fn lose(&self, scope: ScopeRef<'_>, line: &Line, now: Micros) {
        let ring = self.find_or_make(scope, line);
        let mut ring = ring.lock().unwrap_or_else(PoisonError::into_inner);
        let place = line.take(1, |_| ());
        ring.lose(place, now);
    }

    /// Keeps an event of an earlier process.
    pub fn restore(&self, scope: ScopeRef<'_>, line: &Line, event: Kept) {
        let ring = self.find_or_make(scope, line);
        let mut ring = ring.lock().unwrap_or_else(PoisonError::into_inner);
        ring.push(event, &bounds(scope, &line.bounds));
    }

    /// Something of a scope was dropped by an earlier process.
    pub fn restore_dropped(&self, scope: ScopeRef<'_>, line: &Line, id: u64) {
        let ring = self.find_or_make(scope, line);
        let mut ring = ring.lock().unwrap_or_else(PoisonError::into_inner);
        ring.skip(id, 0);
    }

    /// All rings.
    pub fn all(&self) -> Vec<(Scope, Shared)> {
        let rings = self.rings.lock().unwrap_or_else(PoisonError::into_inner);
        let all = rings.iter();
        all.map(|(scope, ring)| (scope.clone(), ring.clone()))
            .collect()
    }

    /// Drops what is too old, and the rings of users of whom nobody `is_left` to ask. A ring
    /// that has nothing still knows what it had: while there is somebody who may not have
    /// received that, it stays.
    pub fn trim(
        &self,
        now: Micros,
        of: &Bounds,
        is_left: impl Fn(NamespaceId, Option<&str>, &str) -> bool,
    ) {
        let mut rings = self.rings.lock().unwrap_or_else(PoisonError::into_inner);
        rings.retain(|scope, ring| {
            if Arc::strong_count(ring) > 1 {
                // Somebody is at it.
                return true;
            }
            let mut ring = ring.lock().unwrap_or_else(PoisonError::into_inner);
            let scope = ScopeRef {
                namespace: scope.namespace,
                tenant: scope.tenant.as_deref(),
                user: scope.user.as_deref(),
            };
            ring.trim(now, &bounds(scope, of));
            let is_recent = now - ring.last_at() <= of.age;
            let asks = |user| is_left(scope.namespace, scope.tenant, user);
            !ring.is_empty() || is_recent || scope.user.is_none_or(asks)
        });
        if rings.is_empty() {
            rings.shrink_to_fit();
        }
    }

    /// How many rings there are.
    pub fn len(&self) -> usize {
        let rings = self.rings.lock().unwrap_or_else(PoisonError::into_inner);
        rings.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

fn bounds(scope: ScopeRef<'_>, of: &Bounds) -> Bounds {
    match scope.user {
        Some(_) => *of,
        None => Bounds {
            events: of.events.saturating_mul(NAMESPACE),
            bytes: of.bytes.saturating_mul(NAMESPACE),
            ..*of
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::line::MAX_EVENT;
    use crate::message::Message;
    use std::time::Duration;

    #[test]
    fn a_ring_without_events_still_knows_that_one_was_dropped() {
        let bounds = Bounds {
            age: Duration::from_secs(10),
            events: 4,
            bytes: 1 << 20,
            buffer: 1 << 20,
        };
        let line = Line::new(bounds, 1);
        let (shelf, at) = (Shelf::default(), |seconds: u64| Micros(seconds * 1_000_000));
        let user = ScopeRef {
            namespace: NamespaceId::ROOT,
            tenant: None,
            user: Some("ann"),
        };
        let large = Kept {
            id: 0,
            offset: 0,
            at: at(0),
            message: Message::new("large", &"1".repeat(MAX_EVENT)),
            key: None,
            only: None,
        };
        shelf.keep(user, &line, vec![large], |_| {}, |_| {});
        let is_complete = || {
            let ring = shelf.find(user);
            ring.is_none_or(|ring| ring.lock().unwrap().is_complete_after(0))
        };
        shelf.trim(at(5), &bounds, |_, _, _| false);
        assert!(!is_complete());
        // However long ago: somebody may still have it before them.
        shelf.trim(at(50), &bounds, |_, _, user| user == "ann");
        assert!(!is_complete());
        shelf.trim(at(50), &bounds, |_, _, _| false);
        assert!(shelf.is_empty());
    }
}
