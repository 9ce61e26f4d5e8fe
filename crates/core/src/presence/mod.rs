//! Who is online, and what the device policy makes of a newcomer: the state of
//! one node, as a pure structure with time as an argument.
//!
//! An entry is a socket, never a user or a device, so the end of an old socket
//! cannot remove what a new one registered. A user is online from the first
//! socket until the last is gone and the grace is over. Each change is an
//! [`Edge`], announced while the user's entry is locked: once per change, in
//! order.

pub mod address;
pub mod audit;
pub mod devices;
pub mod edge;
mod scope;
pub mod watch;

use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};
use std::hash::{BuildHasher, Hash, Hasher};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use hashbrown::{DefaultHashBuilder, Equivalent, HashMap};
use heartline_wire::time::Micros;
use scope::Scope;

use crate::auth::UserKey;
use crate::entries::{TypePresence, UserPresence};
use crate::presence::devices::{Entry, Going, User};

pub use address::SocketAddress;
pub use devices::{Admitted, DeviceLimitReached, Newcomer};
pub use edge::{Edge, EdgeSink, Others, RoomAddress};

const PARTS: usize = 64;
/// Offline users whose `lastSeenAt` is remembered, per part.
const REMEMBERED: usize = 1024;
/// Bytes of their names, per part: 16 MB in all.
const REMEMBERED_BYTES: usize = 256 << 10;

/// Milliseconds. 32 bits of them are two years: nobody is connected for longer.
const SINCE_UNIT: u64 = 16;

/// When somebody connected, in Unix milliseconds, of the lower bits of it.
fn since_millis(since: u32, now: u64) -> u64 {
    let units = now / SINCE_UNIT;
    let age = (units as u32).wrapping_sub(since);
    units.wrapping_sub(u64::from(age)) * SINCE_UNIT
}

/// Tenant and user id: what the API and clients ask by, whatever the type.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Id {
    tenant: Option<Arc<str>>,
    user: Arc<str>,
}

struct IdRef<'a> {
    tenant: Option<&'a str>,
    user: &'a str,
}

impl Hash for IdRef<'_> {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.tenant.hash(state);
        self.user.hash(state);
    }
}

impl Equivalent<Id> for IdRef<'_> {
    fn equivalent(&self, id: &Id) -> bool {
        self.tenant == id.tenant.as_deref() && *self.user == *id.user
    }
}

#[derive(Default)]
struct Part {
    /// One entry per user type, almost always one.
    users: HashMap<Id, Vec<User>>,
    /// Who of them has to go for a newcomer.
    going: Going,
    /// Those who went, one for each user type.
    left: HashMap<Id, Vec<Left>>,
    /// They, in the order in which they are forgotten.
    remembered: VecDeque<Arc<UserKey>>,
    /// Bytes of the remembered names.
    remembered_bytes: usize,
}

/// A user of one type who went.
#[derive(Debug, Clone)]
struct Left {
    user_type: Option<Arc<str>>,
    /// When, Unix milliseconds.
    at: u64,
    /// The number of that change.
    rev: u64,
}

/// A user who is online, as one process leaves it to the next: with those who heard of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Online {
    /// Who.
    pub user: Arc<UserKey>,
    /// The number of the change since which it is.
    pub rev: u64,
    /// Until when it is, if no socket of it comes.
    pub until: Micros,
    /// The rooms whose members have heard of it, where `presence.announce` is `rooms`.
    pub rooms: Vec<RoomAddress>,
}

/// Bytes of a user's names.
fn name_bytes(key: &UserKey) -> usize {
    let others = [&key.tenant_id, &key.user_type];
    let others = others.into_iter().flatten();
    key.user_id.len() + others.map(|name| name.len()).sum::<usize>()
}

/// On how many devices some sockets are: those without a device id are their own.
fn count_devices<'a>(sockets: impl Iterator<Item = &'a Entry> + Clone) -> usize {
    let named = sockets.clone().filter_map(|entry| entry.device_id.as_ref());
    let mut named: Vec<&Arc<str>> = named.collect();
    named.sort_unstable();
    named.dedup();
    named.len() + sockets.filter(|entry| entry.device_id.is_none()).count()
}

/// The users of this node.
pub struct Presence {
    parts: Vec<Mutex<Part>>,
    hasher: DefaultHashBuilder,
    grace: Duration,
    graces: Mutex<BinaryHeap<Reverse<(Micros, Arc<UserKey>)>>>,
    sink: EdgeSink,
    rev: AtomicU64,
    online: AtomicUsize,
}

impl Presence {
    /// Nobody is online. `grace` is `presence.offline_grace`.
    pub fn new(grace: Duration, sink: EdgeSink) -> Self {
        Presence {
            parts: (0..PARTS).map(|_| Mutex::default()).collect(),
            hasher: DefaultHashBuilder::default(),
            grace,
            graces: Mutex::default(),
            sink,
            rev: AtomicU64::new(0),
            online: AtomicUsize::new(0),
        }
    }

    /// The table of a node whose cluster decides who is online.
    pub fn of_one_node_of_many() -> Self {
        Presence::new(Duration::ZERO, Box::new(|_| {}))
    }

    fn part(&self, tenant: Option<&str>, user: &str) -> MutexGuard<'_, Part> {
        let hash = self.hasher.hash_one(IdRef { tenant, user });
        self.parts[(hash >> 48) as usize % PARTS]
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// Lets a socket in, or not. `at` is the Unix time in milliseconds. Those whose places it
    /// takes are there until they [have gone](Self::disconnect), which is for the caller to
    /// see to; should the newcomer go first, they keep their places.
    ///
    /// # Errors
    /// When its namespace's device limit is reached.
    pub fn connect(&self, newcomer: Newcomer, at: u64) -> Result<Admitted, DeviceLimitReached> {
        self.insert(newcomer, at, true)
    }

    /// Enters a socket that was let in elsewhere.
    pub fn enter(&self, newcomer: Newcomer, at: u64) {
        let _ = self.insert(newcomer, at, false);
    }

    fn insert(
        &self,
        newcomer: Newcomer,
        at: u64,
        decide: bool,
    ) -> Result<Admitted, DeviceLimitReached> {
        let Newcomer {
            user: key,
            socket,
            device_id,
            policy,
            max_sockets,
            instead_of,
            known_as: _,
        } = newcomer;
        let mut part = self.part(key.tenant_id.as_deref(), &key.user_id);
        let id = Id {
            tenant: key.tenant_id.clone(),
            user: key.user_id.clone(),
        };
        let Part { users, going, .. } = &mut *part;
        let users = users.entry(id).or_default();
        let index = match users.iter().position(|user| *user.key == *key) {
            Some(index) => index,
            None => {
                users.reserve_exact(1);
                users.push(User {
                    key: key.clone(),
                    sockets: Vec::new(),
                    grace: None,
                    rev: 0,
                    scope: None,
                });
                users.len() - 1
            }
        };
        let user = &mut users[index];
        let was_online = !user.sockets.is_empty() || user.grace.is_some();
        let admitted = match decide {
            true => {
                let device = device_id.as_ref();
                user.make_room(&socket, device, policy, max_sockets, instead_of, going)?
            }
            false => Admitted::default(),
        };
        user.sockets.reserve_exact(1);
        user.sockets.push(Entry {
            socket,
            since: (at / SINCE_UNIT) as u32,
            device_id,
        });
        user.grace = None;
        if !was_online {
            self.online.fetch_add(1, Ordering::Relaxed);
            user.rev = self.next_rev(at);
            self.announce(&key, (true, user.rev), at, None);
        }
        Ok(admitted)
    }

    /// A socket that was entered is gone.
    pub fn leave(&self, key: &Arc<UserKey>, socket: SocketAddress) {
        self.disconnect(key, socket, Micros::ZERO, 0);
    }

    /// A socket of the user is about to go and was told to come back: until then the user is
    /// not offline, unless it comes and goes meanwhile.
    pub fn expect_back(&self, key: &Arc<UserKey>, until: Micros) {
        let mut part = self.part(key.tenant_id.as_deref(), &key.user_id);
        if let Some(user) = part.user(key) {
            user.grace = user.grace.max(Some(until));
        }
    }

    /// A user was online when an earlier process ended, and those who heard of it are told when it
    /// is not any more: it stays online until the time that it has to come back.
    pub fn expect(&self, before: Online) {
        let Online {
            user: key,
            rev,
            until,
            rooms,
        } = before;
        let mut part = self.part(key.tenant_id.as_deref(), &key.user_id);
        if part.user(&key).is_some() {
            return;
        }
        let id = Id {
            tenant: key.tenant_id.clone(),
            user: key.user_id.clone(),
        };
        let user = User {
            key: key.clone(),
            sockets: Vec::new(),
            grace: Some(until),
            rev,
            scope: (!rooms.is_empty()).then(|| Box::new(Scope::of(rooms))),
        };
        part.users.entry(id).or_default().push(user);
        self.rev.fetch_max(rev, Ordering::Relaxed);
        self.online.fetch_add(1, Ordering::Relaxed);
        self.wait(until, key);
    }

    /// Everybody who is online, for another process that [expects](Self::expect) them.
    pub fn all(&self) -> Vec<Online> {
        let parts = self.parts.iter().flat_map(|part| {
            let part = part.lock().unwrap_or_else(PoisonError::into_inner);
            let users = part.users.values().flatten();
            let users = users.map(|user| Online {
                user: user.key.clone(),
                rev: user.rev,
                until: user.grace.unwrap_or_default(),
                rooms: user
                    .scope
                    .as_ref()
                    .map_or_else(Vec::new, |scope| scope.places()),
            });
            users.collect::<Vec<_>>()
        });
        parts.collect()
    }

    /// A user's grace is looked at when it is over.
    fn wait(&self, until: Micros, key: Arc<UserKey>) {
        let mut graces = self.graces.lock().unwrap_or_else(PoisonError::into_inner);
        graces.push(Reverse((until, key)));
    }

    /// A socket is gone; who was to go for it stays.
    pub fn disconnect(&self, key: &Arc<UserKey>, socket: SocketAddress, now: Micros, at: u64) {
        let mut part = self.part(key.tenant_id.as_deref(), &key.user_id);
        part.going.end(socket);
        let Some(user) = part.user(key) else {
            return;
        };
        let before = user.sockets.len();
        user.sockets.retain(|entry| entry.socket != socket);
        if let Some(scope) = &mut user.scope {
            scope.end(socket);
        }
        if before == 0 || !user.sockets.is_empty() {
            return;
        }
        let until = user.grace.unwrap_or_default().max(now + self.grace);
        if until > now {
            user.grace = Some(until);
            self.wait(until, key.clone());
        } else {
            self.depart(&mut part, key, at);
        }
    }

    /// Ends the graces that are over; when the next one is.
    pub fn expire(&self, now: Micros, at: u64) -> Option<Micros> {
        loop {
            let key = {
                let mut graces = self.graces.lock().unwrap_or_else(PoisonError::into_inner);
                match graces.peek() {
                    None => return None,
                    Some(Reverse((until, _))) if *until > now => return Some(*until),
                    Some(_) => graces.pop().map(|Reverse((_, key))| key)?,
                }
            };
            let mut part = self.part(key.tenant_id.as_deref(), &key.user_id);
            let over = part
                .user(&key)
                .filter(|user| user.sockets.is_empty())
                .is_some_and(|user| user.grace.is_some_and(|until| until <= now));
            if over {
                self.depart(&mut part, &key, at);
            }
        }
    }

    fn depart(&self, part: &mut Part, key: &Arc<UserKey>, at: u64) {
        let id = IdRef {
            tenant: key.tenant_id.as_deref(),
            user: &key.user_id,
        };
        let mut scope = None;
        if let Some(users) = part.users.get_mut(&id) {
            if let Some(index) = users.iter().position(|user| *user.key == **key) {
                scope = users.swap_remove(index).scope;
            }
            if users.is_empty() {
                part.users.remove(&id);
            }
        }
        let rev = self.next_rev(at);
        part.remember(key, at, rev);
        self.online.fetch_sub(1, Ordering::Relaxed);
        self.announce(key, (false, rev), at, scope);
    }

    /// The number of the next change: greater than all before it. It is no less than the time,
    /// so that it is greater than those of an earlier process as well.
    fn next_rev(&self, at: u64) -> u64 {
        let next = |last: u64| (last + 1).max(at);
        let last = self
            .rev
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |last| {
                Some(next(last))
            });
        last.map_or_else(next, next)
    }

    fn announce(
        &self,
        user: &Arc<UserKey>,
        (online, rev): (bool, u64),
        at: u64,
        scope: Option<Box<Scope>>,
    ) {
        let rooms = scope.map(|scope| scope.places());
        (self.sink)(&Edge {
            user: user.clone(),
            online,
            rev,
            at,
            number: 0,
            rooms: rooms.unwrap_or_default(),
            others: None,
        });
    }

    /// A socket has come into a room whose members are to know of its user. Whether
    /// the user is new there.
    pub fn enter_room(
        &self,
        key: &Arc<UserKey>,
        socket: SocketAddress,
        place: RoomAddress,
        at: u64,
    ) -> bool {
        let mut part = self.part(key.tenant_id.as_deref(), &key.user_id);
        let Some(user) = part.user(key) else {
            return false;
        };
        // Who lost its place is on the way out.
        if !user.sockets.iter().any(|entry| entry.socket == socket) {
            return false;
        }
        let others = user.scope.get_or_insert_default().enter(socket, &place);
        let is_new = others.is_some();
        if is_new {
            (self.sink)(&Edge {
                user: key.clone(),
                online: true,
                rev: user.rev,
                at,
                number: 0,
                rooms: vec![place],
                others,
            });
        }
        is_new
    }

    /// A socket has left a room of which [`enter_room`](Self::enter_room) was told, and
    /// goes on.
    pub fn leave_room(&self, key: &UserKey, socket: SocketAddress, place: &RoomAddress) {
        let mut part = self.part(key.tenant_id.as_deref(), &key.user_id);
        if let Some(scope) = part.user(key).and_then(|user| user.scope.as_mut()) {
            scope.leave(socket, place);
        }
    }

    /// The rooms of a user's sockets of which [`enter_room`](Self::enter_room) was told.
    pub fn rooms(&self, key: &UserKey) -> Vec<(SocketAddress, RoomAddress)> {
        let mut part = self.part(key.tenant_id.as_deref(), &key.user_id);
        let scope = part.user(key).and_then(|user| user.scope.as_ref());
        scope.map_or_else(Vec::new, |scope| scope.memberships())
    }

    /// Users that are online.
    pub fn online(&self) -> usize {
        self.online.load(Ordering::Relaxed)
    }

    /// Whether a user of any type is online; `now` is for `lastSeenAt`.
    pub fn get(&self, tenant: Option<&str>, user: &str, now: u64) -> UserPresence {
        let part = self.part(tenant, user);
        let id = IdRef { tenant, user };
        let users = part.users.get(&id).map_or(&[][..], |users| users);
        let stays = |entry: &&Entry| !part.going.includes(&entry.socket);
        let sockets = users.iter().flat_map(|user| &user.sockets);
        let online = !users.is_empty();
        let left = part.left.get(&id).map_or(&[][..], |left| left);
        let there = users.iter().map(|user| TypePresence {
            user_type: user.key.user_type.clone(),
            online: true,
            rev: user.rev,
            is_there: true,
            devices: count_devices(user.sockets.iter().filter(stays)),
            last_seen_at: Some(now),
        });
        let is_back = |left: &Left| {
            let mut keys = users.iter().map(|user| &user.key);
            keys.any(|key| key.user_type == left.user_type)
        };
        let gone = left.iter().filter(|left| !is_back(left));
        let gone = gone.map(|left| TypePresence {
            user_type: left.user_type.clone(),
            rev: left.rev,
            last_seen_at: Some(left.at),
            ..TypePresence::default()
        });
        let types: Vec<TypePresence> = there.chain(gone).collect();
        let revs = types.iter().map(|known| known.rev);
        let last_seen_at = match online {
            true => Some(now),
            false => left.iter().map(|left| left.at).max(),
        };
        UserPresence {
            user_id: user.to_owned(),
            online,
            devices: count_devices(sockets.filter(stays)),
            last_seen_at,
            rev: revs
                .chain(left.iter().map(|left| left.rev))
                .max()
                .unwrap_or(0),
            stale: false,
            types,
        }
    }

    /// The online users with this id, one for each user type.
    pub fn find(&self, tenant: Option<&str>, user: &str) -> Vec<Arc<UserKey>> {
        let part = self.part(tenant, user);
        let users = part.users.get(&IdRef { tenant, user });
        users
            .into_iter()
            .flatten()
            .map(|user| user.key.clone())
            .collect()
    }

    /// The sockets of the users with this id, of one type or of any.
    pub fn sockets(
        &self,
        tenant: Option<&str>,
        user: &str,
        only: Option<&UserKey>,
    ) -> Vec<SocketAddress> {
        let part = self.part(tenant, user);
        let users = part.users.get(&IdRef { tenant, user });
        users
            .into_iter()
            .flatten()
            .filter(|user| only.is_none_or(|only| *user.key == *only))
            .flat_map(|user| user.sockets.iter().map(|entry| entry.socket))
            .collect()
    }

    /// Visits everybody who is online.
    pub fn each_user(&self, mut visit: impl FnMut(&Arc<UserKey>)) {
        for part in &self.parts {
            let part = part.lock().unwrap_or_else(PoisonError::into_inner);
            for user in part.users.values().flatten() {
                visit(&user.key);
            }
        }
    }

    /// Visits a user's sockets: where, on which device, and since when in Unix
    /// milliseconds, rounded down to a multiple of 16. `now` is the Unix time.
    pub fn each_socket(
        &self,
        key: &UserKey,
        now: u64,
        mut visit: impl FnMut(SocketAddress, Option<&Arc<str>>, u64),
    ) {
        let mut part = self.part(key.tenant_id.as_deref(), &key.user_id);
        if let Some(user) = part.user(key) {
            for entry in &user.sockets {
                let since = since_millis(entry.since, now);
                visit(entry.socket, entry.device_id.as_ref(), since);
            }
        }
    }

    /// Up to `limit` online users.
    pub fn some(&self, limit: usize) -> Vec<Arc<UserKey>> {
        let mut found = Vec::new();
        for part in &self.parts {
            let part = part.lock().unwrap_or_else(PoisonError::into_inner);
            for user in part.users.values().flatten() {
                if found.len() == limit {
                    return found;
                }
                found.push(user.key.clone());
            }
        }
        found
    }

    /// Into how many parts the users are divided, about evenly.
    pub const fn parts() -> usize {
        PARTS
    }

    /// Entries of a shard in a part of the users whose sockets are not there any more, by `alive`;
    /// and how many users were looked at.
    pub fn orphans_in(
        &self,
        part: usize,
        shard: u16,
        alive: impl Fn(&SocketAddress) -> bool,
    ) -> (Vec<(Arc<UserKey>, SocketAddress)>, usize) {
        let Some(part) = self.parts.get(part) else {
            return (Vec::new(), 0);
        };
        let part = part.lock().unwrap_or_else(PoisonError::into_inner);
        let users = part.users.values().flatten();
        let orphans = users.flat_map(|user| {
            let of_shard = |entry: &&Entry| entry.socket.0.conn.shard == shard;
            let mine = user.sockets.iter().filter(of_shard);
            let orphans = mine.filter(|entry| !alive(&entry.socket));
            orphans.map(|entry| (user.key.clone(), entry.socket))
        });
        (orphans.collect(), part.users.len())
    }
}

impl Part {
    fn user(&mut self, key: &UserKey) -> Option<&mut User> {
        let id = IdRef {
            tenant: key.tenant_id.as_deref(),
            user: &key.user_id,
        };
        self.users
            .get_mut(&id)?
            .iter_mut()
            .find(|user| *user.key == *key)
    }

    fn remember(&mut self, key: &Arc<UserKey>, at: u64, rev: u64) {
        let id = Id {
            tenant: key.tenant_id.clone(),
            user: key.user_id.clone(),
        };
        let left = self.left.entry(id).or_default();
        let mut known = left.iter_mut();
        if let Some(known) = known.find(|left| left.user_type == key.user_type) {
            (known.at, known.rev) = (at, rev);
            return;
        }
        left.push(Left {
            user_type: key.user_type.clone(),
            at,
            rev,
        });
        self.remembered_bytes += name_bytes(key);
        self.remembered.push_back(key.clone());
        while self.remembered.len() > REMEMBERED || self.remembered_bytes > REMEMBERED_BYTES {
            let Some(oldest) = self.remembered.pop_front() else {
                return;
            };
            self.forget(&oldest);
        }
    }

    fn forget(&mut self, key: &UserKey) {
        self.remembered_bytes -= name_bytes(key);
        let id = IdRef {
            tenant: key.tenant_id.as_deref(),
            user: &key.user_id,
        };
        if let Some(left) = self.left.get_mut(&id) {
            left.retain(|left| left.user_type != key.user_type);
            if left.is_empty() {
                self.left.remove(&id);
            }
        }
    }
}

#[cfg(test)]
mod tests;
