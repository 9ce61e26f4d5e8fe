//! Sockets whose connection was lost, until they come back or are given up.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use hashbrown::HashMap;
use heartline_wire::time::Micros;

use crate::auth::{Identity, UserKey};
use crate::line::ring::{Kept, Only};
use crate::presence::SocketAddress;
use crate::rooms::{PRIVATE, Room, conversation_of};

/// What a socket had when its connection was lost.
#[derive(Debug)]
pub struct Session<D> {
    /// The id under which it is known.
    pub name: SocketAddress,
    /// Where it was, the last place last.
    pub places: Vec<SocketAddress>,
    /// Whose it was.
    pub identity: Arc<Identity>,
    /// Its rooms, each with the number of the last event before it joined.
    pub rooms: Vec<(Arc<Room>, u64)>,
    /// The number of the last event before it left a room; 0: it left none.
    pub left: u64,
    /// The number of the last event that was sent to it, or would have been.
    pub end: u64,
    /// When it was lost.
    pub lost_at: Micros,
    /// What the app remembers of it.
    pub data: D,
}

impl<D> Session<D> {
    /// Whether an event that was kept for all who are in some place was for this socket.
    /// `is_open` says whether it might have joined a room.
    pub fn hears(&self, event: &Kept, is_open: impl Fn(&str) -> bool) -> bool {
        let Some(only) = &event.only else {
            return true;
        };
        self.passes(only, event.id, is_open)
    }

    fn passes(&self, only: &Only, id: u64, is_open: impl Fn(&str) -> bool) -> bool {
        let user = self.identity.user.as_ref();
        let skipped = only.skip.is_some_and(|skip| self.places.contains(&skip));
        let other = only.user.as_ref().is_some_and(|meant| user != Some(meant));
        let about = only.about.as_ref().is_some_and(|about| user == Some(about));
        if skipped || other || about {
            return false;
        }
        if let Some(room) = &only.instead_of {
            if self.is_in(room, id) || !is_open(room) {
                return false;
            }
        }
        let is_in = |name: &String| self.is_in(name, id);
        let among = only.among.as_ref();
        among.is_none_or(|among| among.iter().any(is_in)) && !only.except.iter().any(is_in)
    }

    /// Whether it was in a room, or is the socket of this name, when an event was said.
    fn is_in(&self, name: &str, id: u64) -> bool {
        if let Some(user) = name.strip_prefix(PRIVATE) {
            return self.identity.user_id() == Some(user);
        }
        let is_it = SocketAddress::parse(name);
        let is_it = is_it.is_some_and(|it| it == self.name || self.places.contains(&it));
        let joined = |(room, joined): &(Arc<Room>, u64)| *joined < id && *room.key.name == *name;
        is_it || self.rooms.iter().any(joined)
    }
}

/// Why a session cannot be taken up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unclaimed {
    /// There is none, or not any more.
    Unknown,
    /// It is another user's.
    Foreign,
}

/// A user of a tenant, by id.
type Owner = (Option<Arc<str>>, Arc<str>);

fn owner(user: Option<&Arc<UserKey>>) -> Option<Owner> {
    user.map(|user| (user.tenant_id.clone(), user.user_id.clone()))
}

struct Table<D> {
    sessions: HashMap<SocketAddress, Session<D>>,
    /// The names in the order in which they were lost, of which some have been taken up.
    order: VecDeque<(SocketAddress, Micros)>,
    /// How many are whose.
    owners: HashMap<Owner, usize>,
}

impl<D> Table<D> {
    fn take(&mut self, name: &SocketAddress) -> Option<Session<D>> {
        let session = self.sessions.remove(name)?;
        if let Some(owner) = owner(session.identity.user.as_ref())
            && let Some(count) = self.owners.get_mut(&owner)
        {
            *count -= 1;
            if *count == 0 {
                self.owners.remove(&owner);
            }
        }
        Some(session)
    }
}

/// Sockets that may come back.
pub struct Sessions<D> {
    table: Mutex<Table<D>>,
    window: Duration,
    most: usize,
}

impl<D> Sessions<D> {
    /// Room for so many sockets, each of which may come back within the window.
    pub fn new(window: Duration, most: usize) -> Self {
        let table = Table {
            sessions: HashMap::new(),
            order: VecDeque::new(),
            owners: HashMap::new(),
        };
        Sessions {
            table: Mutex::new(table),
            window,
            most,
        }
    }

    fn table(&self) -> MutexGuard<'_, Table<D>> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Keeps what a socket had. When there are too many, those that were lost first go: their
    /// names.
    pub fn park(&self, session: Session<D>) -> Vec<SocketAddress> {
        let mut gone = Vec::new();
        let mut table = self.table();
        let (name, at) = (session.name, session.lost_at);
        let before = table.take(&name);
        while table.sessions.len() >= self.most.max(1) {
            let Some((oldest, lost_at)) = table.order.pop_front() else {
                break;
            };
            let still = |session: &Session<D>| session.lost_at == lost_at;
            if table.sessions.get(&oldest).is_some_and(still) {
                gone.extend(table.take(&oldest));
            }
        }
        if let Some(owner) = owner(session.identity.user.as_ref()) {
            *table.owners.entry(owner).or_default() += 1;
        }
        table.sessions.insert(name, session);
        table.order.push_back((name, at));
        // Without the lock: what is dropped may be the app's.
        drop(table);
        drop(before);
        gone.iter().map(|session| session.name).collect()
    }

    /// Takes a session up: of several who try, one has it.
    ///
    /// # Errors
    /// There is none of this name, or it is not this user's.
    pub fn claim(
        &self,
        name: &SocketAddress,
        user: Option<&Arc<UserKey>>,
        now: Micros,
    ) -> Result<Session<D>, Unclaimed> {
        let mut table = self.table();
        let session = table.sessions.get(name).ok_or(Unclaimed::Unknown)?;
        if now - session.lost_at > self.window {
            return Err(Unclaimed::Unknown);
        }
        if session.identity.user.as_ref() != user {
            return Err(Unclaimed::Foreign);
        }
        table.take(name).ok_or(Unclaimed::Unknown)
    }

    /// The conversations whose rooms a socket was in: who looks whether they are still open to
    /// it may have to ask.
    pub fn conversations(&self, name: &SocketAddress) -> Vec<Arc<str>> {
        let table = self.table();
        let session = table.sessions.get(name);
        let rooms = session.into_iter().flat_map(|session| &session.rooms);
        let names = rooms.map(|(room, _)| &room.key.name);
        let names = names.filter(|name| conversation_of(name).is_some());
        names.cloned().collect()
    }

    /// Whether a socket may come back.
    pub fn holds(&self, name: &SocketAddress) -> bool {
        self.table().sessions.contains_key(name)
    }

    /// Whether a user has sockets that may come back.
    pub fn has(&self, tenant: Option<&str>, user: &str) -> bool {
        let table = self.table();
        if table.owners.is_empty() {
            return false;
        }
        let owner = (tenant.map(Into::into), user.into());
        table.owners.contains_key(&owner)
    }

    /// Gives up who did not come back in time: their names.
    pub fn expire(&self, now: Micros) -> Vec<SocketAddress> {
        let mut gone = Vec::new();
        let mut table = self.table();
        while let Some((name, lost_at)) = table.order.front().copied()
            && now - lost_at > self.window
        {
            table.order.pop_front();
            let still = |session: &Session<D>| session.lost_at == lost_at;
            if table.sessions.get(&name).is_some_and(still) {
                gone.extend(table.take(&name));
            }
        }
        if table.order.is_empty() {
            table.order.shrink_to_fit();
            table.sessions.shrink_to_fit();
        }
        drop(table);
        gone.iter().map(|session| session.name).collect()
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.table().sessions.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}
