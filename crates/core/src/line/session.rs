//! Sockets whose connection was lost, until they come back or are given up.

use std::collections::VecDeque;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use hashbrown::HashMap;
use heartline_wire::time::Micros;

use crate::auth::{Identity, UserKey};
use crate::line::ring::{Kept, Only};
use crate::namespaces::NamespaceId;
use crate::presence::SocketAddress;
use crate::rooms::{PRIVATE, Room, conversation_of};

/// Where a socket was that has been lost so often, and has received nothing meanwhile.
pub const MAX_PLACES: usize = 16;

/// Users of whom it is remembered when their sessions were ended: more than are ended while somebody
/// who had come before that is on their way to what they had.
const MAX_ENDED: usize = 4096;

/// How many times as long as the table the order of losses may become by who has come back.
const SLACK: usize = 2;

/// What a socket had when its connection was lost.
#[derive(Debug)]
pub struct Session<D> {
    /// The id under which it is known.
    pub name: SocketAddress,
    /// Where it was, the last place last, each with the number of the last event that was sent
    /// to it there.
    pub places: Vec<(SocketAddress, u64)>,
    /// Whose it was.
    pub identity: Arc<Identity>,
    /// Its rooms, each with the number of the last event before it joined.
    pub rooms: Vec<(Arc<Room>, u64)>,
    /// Those of them that it may not be in any more: it hears nothing of these.
    pub taken: Vec<Arc<str>>,
    /// The number of the last event before it left a room; 0: it left none.
    pub left: u64,
    /// The number of the last event that was sent to it, or would have been.
    pub end: u64,
    /// When it was lost.
    pub lost_at: Micros,
    /// What was known of its connection then; `None`: another process lost it.
    pub seen: Option<Box<Seen>>,
    /// What the app remembers of it.
    pub data: D,
}

/// What was known of a connection when it was lost: a hundred bytes, and the text of the browser,
/// which those of one kind share.
#[derive(Debug)]
pub struct Seen {
    /// `websocket`, `polling` or `live`.
    pub transport: &'static str,
    /// The peer's address.
    pub remote_addr: IpAddr,
    /// The `User-Agent` header.
    pub user_agent: Option<Arc<str>>,
    /// When the socket began.
    pub connected_at: Micros,
    /// When something came from the client for the last time.
    pub last_seen: Micros,
    /// When an application event did.
    pub last_activity: Micros,
    /// The last ping's round trip, µs; 0: none was measured.
    pub rtt: u32,
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
        let skipped = only.skip.is_some_and(|skip| self.was_at(&skip));
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
        let may_hear = |name: &String| !self.taken.iter().any(|taken| **taken == **name);
        let hears = |name: &String| is_in(name) && may_hear(name);
        let among = only.among.as_ref();
        among.is_none_or(|among| among.iter().any(hears)) && !only.except.iter().any(is_in)
    }

    fn was_at(&self, address: &SocketAddress) -> bool {
        self.places.iter().any(|(place, _)| place == address)
    }

    /// Forgets the oldest of too many places. What was said from there would not be known as
    /// its own: who has received nothing since then is not told the rest.
    fn forget_places(&mut self) {
        while self.places.len() > MAX_PLACES {
            let (_, end) = self.places.remove(0);
            self.left = self.left.max(end);
        }
    }

    /// Whether it was in a room, or is the socket of this name, when an event was said.
    fn is_in(&self, name: &str, id: u64) -> bool {
        if let Some(user) = name.strip_prefix(PRIVATE) {
            return self.identity.user_id() == Some(user);
        }
        let is_it = SocketAddress::parse(name);
        let is_it = is_it.is_some_and(|it| it == self.name || self.was_at(&it));
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
    /// It was ended since its client has come.
    Ended,
}

/// A user of a tenant, by id.
type Owner = (Option<Arc<str>>, Arc<str>);

fn owner(user: Option<&Arc<UserKey>>) -> Option<Owner> {
    user.map(|user| (user.tenant_id.clone(), user.user_id.clone()))
}

/// Whose sessions were ended of late: what such a user had may be on its way from another node.
#[derive(Default)]
struct Ended {
    /// How many times somebody's were.
    count: u64,
    /// The last time for each user, and all in their order.
    users: HashMap<Owner, u64>,
    order: VecDeque<(u64, Owner)>,
    /// Whose were up to this time, nobody knows any more.
    forgotten: u64,
}

impl Ended {
    fn note(&mut self, owner: Owner) {
        if self.order.len() >= MAX_ENDED
            && let Some((time, oldest)) = self.order.pop_front()
        {
            self.forgotten = time;
            if self.users.get(&oldest) == Some(&time) {
                self.users.remove(&oldest);
            }
        }
        self.count += 1;
        self.users.insert(owner.clone(), self.count);
        self.order.push_back((self.count, owner));
    }

    /// Whether a user's may have been since there were so many times.
    fn is_later(&self, owner: &Owner, than: u64) -> bool {
        let last = self.users.get(owner);
        than < self.forgotten || last.is_some_and(|last| than < *last)
    }
}

/// A socket was lost.
#[derive(Clone, Copy)]
struct Loss {
    /// Which loss it was.
    number: u64,
    name: SocketAddress,
    at: Micros,
}

struct Table<D> {
    sessions: HashMap<SocketAddress, Session<D>>,
    /// The names in the order in which they were lost, of which some have been taken up.
    order: VecDeque<Loss>,
    /// How many have been lost.
    losses: u64,
    /// Their names, by whose they are.
    owners: HashMap<Owner, Vec<SocketAddress>>,
    ended: Ended,
}

impl<D> Table<D> {
    fn take(&mut self, name: &SocketAddress) -> Option<Session<D>> {
        let session = self.sessions.remove(name)?;
        if let Some(owner) = owner(session.identity.user.as_ref())
            && let Some(names) = self.owners.get_mut(&owner)
        {
            names.retain(|theirs| theirs != name);
            if names.is_empty() {
                self.owners.remove(&owner);
            }
        }
        Some(session)
    }

    fn names(&self, user: &UserKey) -> Vec<SocketAddress> {
        let owner = (user.tenant_id.clone(), user.user_id.clone());
        let mut names = self.owners.get(&owner).cloned().unwrap_or_default();
        names.retain(|name| {
            let session = self.sessions.get(name);
            session.is_some_and(|session| session.identity.user.as_deref() == Some(user))
        });
        names
    }

    /// Forgets in the order who has come back, once these are most of it.
    fn compact(&mut self) {
        if self.order.len() <= SLACK * self.sessions.len() + 64 {
            return;
        }
        let sessions = &self.sessions;
        self.order.retain(|loss| loss.of(sessions).is_some());
    }
}

impl Loss {
    /// What the socket had, if it has not come back since.
    fn of<'a, D>(
        &self,
        sessions: &'a HashMap<SocketAddress, Session<D>>,
    ) -> Option<&'a Session<D>> {
        let session = sessions.get(&self.name);
        session.filter(|session| session.lost_at == self.at)
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
            losses: 0,
            owners: HashMap::new(),
            ended: Ended::default(),
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
    pub fn park(&self, mut session: Session<D>) -> Vec<SocketAddress> {
        session.forget_places();
        let mut gone = Vec::new();
        let mut table = self.table();
        let (name, at) = (session.name, session.lost_at);
        let before = table.take(&name);
        while table.sessions.len() >= self.most.max(1) {
            let Some(oldest) = table.order.pop_front() else {
                break;
            };
            if oldest.of(&table.sessions).is_some() {
                gone.extend(table.take(&oldest.name));
            }
        }
        if let Some(owner) = owner(session.identity.user.as_ref()) {
            table.owners.entry(owner).or_default().push(name);
        }
        table.sessions.insert(name, session);
        let number = table.losses;
        table.losses += 1;
        table.order.push_back(Loss { number, name, at });
        table.compact();
        // Without the lock: what is dropped may be the app's.
        drop(table);
        drop(before);
        gone.iter().map(|session| session.name).collect()
    }

    /// Takes a session up: of several who try, one has it. Its client has come when so many
    /// [ends](Self::ends) had been. `taken` is called in that step: nobody finds neither a session
    /// nor what it leaves behind.
    ///
    /// # Errors
    /// There is none of this name, or it is not this user's, or it was ended since.
    pub fn claim(
        &self,
        name: &SocketAddress,
        user: Option<&Arc<UserKey>>,
        ends: u64,
        now: Micros,
        taken: impl FnOnce(),
    ) -> Result<Session<D>, Unclaimed> {
        let mut table = self.table();
        let session = table.sessions.get(name).ok_or(Unclaimed::Unknown)?;
        if now - session.lost_at > self.window {
            return Err(Unclaimed::Unknown);
        }
        if session.identity.user.as_ref() != user {
            return Err(Unclaimed::Foreign);
        }
        if owner(user).is_some_and(|owner| table.ended.is_later(&owner, ends)) {
            return Err(Unclaimed::Ended);
        }
        let session = table.take(name).ok_or(Unclaimed::Unknown)?;
        taken();
        Ok(session)
    }

    /// Gives a session up, and tells whether there was one.
    pub fn give_up(&self, name: &SocketAddress) -> bool {
        let taken = self.table().take(name);
        taken.is_some()
    }

    /// Gives up all sessions of the users with an id, of one type or of any: their names. What is
    /// on its way from another node, for a client that has come before, cannot be taken up either.
    pub fn end_all(
        &self,
        tenant: Option<&str>,
        user: &str,
        only: Option<&UserKey>,
    ) -> Vec<SocketAddress> {
        let owner: Owner = (tenant.map(Into::into), user.into());
        let mut table = self.table();
        let mut names = table.owners.get(&owner).cloned().unwrap_or_default();
        names.retain(|name| {
            let session = table.sessions.get(name);
            let theirs = session.and_then(|session| session.identity.user.as_deref());
            only.is_none_or(|only| theirs == Some(only))
        });
        let gone: Vec<_> = names.iter().filter_map(|name| table.take(name)).collect();
        table.ended.note(owner);
        drop(table);
        drop(gone);
        names
    }

    /// How many times somebody's sessions were [ended](Self::end_all).
    pub fn ends(&self) -> u64 {
        self.table().ended.count
    }

    /// The names of a user's sockets that may come back.
    pub fn names(&self, user: &UserKey) -> Vec<SocketAddress> {
        self.table().names(user)
    }

    /// What a socket had; `None`: it may not come back, or its time is over.
    pub fn look<T>(
        &self,
        name: &SocketAddress,
        now: Micros,
        look: impl FnOnce(&Session<D>) -> T,
    ) -> Option<T> {
        let table = self.table();
        let session = table.sessions.get(name)?;
        (now - session.lost_at <= self.window).then(|| look(session))
    }

    /// Looks at some of those whose time is not over, in the order in which they were lost: at
    /// most at the next `most` losses from a place on. `look` gets the place of each, and says
    /// whether it wants to see more; answers the place to go on from, `None` at the end.
    pub fn look_at_some(
        &self,
        from: u64,
        most: usize,
        now: Micros,
        mut look: impl FnMut(u64, &Session<D>) -> bool,
    ) -> Option<u64> {
        let table = self.table();
        let begin = table.order.partition_point(|loss| loss.number < from);
        let mut losses = table.order.range(begin..);
        for loss in losses.by_ref().take(most) {
            let session = loss.of(&table.sessions);
            let session = session.filter(|session| now - session.lost_at <= self.window);
            if session.is_some_and(|session| !look(loss.number, session)) {
                return Some(loss.number + 1);
            }
        }
        losses.next().map(|loss| loss.number)
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

    /// The rooms of a socket that may come back; `None`: it may not.
    pub fn rooms(&self, name: &SocketAddress) -> Option<Vec<Arc<Room>>> {
        let table = self.table();
        let session = table.sessions.get(name)?;
        Some(session.rooms.iter().map(|(room, _)| room.clone()).collect())
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

    /// Whether all sockets in a namespace that may come back of a user, or of all with this id, are
    /// in a room: they are told its events, and of nothing that is said instead of these.
    pub fn are_in(
        &self,
        namespace: NamespaceId,
        (tenant, user, only): (Option<&str>, &str, Option<&UserKey>),
        room: &str,
    ) -> bool {
        let table = self.table();
        let owner = (tenant.map(Into::into), user.into());
        let names = table.owners.get(&owner).into_iter().flatten();
        let sessions = names.filter_map(|name| table.sessions.get(name));
        let mut meant = sessions.filter(|session| {
            let is_it = |only| session.identity.user.as_deref() == Some(only);
            session.name.namespace() == namespace && only.is_none_or(is_it)
        });
        meant.all(|session| session.is_in(room, u64::MAX))
    }

    /// The users with this id that have sockets which may come back.
    pub fn users(&self, tenant: Option<&str>, user: &str) -> Vec<Arc<UserKey>> {
        let table = self.table();
        if table.owners.is_empty() {
            return Vec::new();
        }
        let owner = (tenant.map(Into::into), user.into());
        let names = table.owners.get(&owner).into_iter().flatten();
        let mut users: Vec<_> = names
            .filter_map(|name| table.sessions.get(name)?.identity.user.clone())
            .collect();
        users.sort_unstable();
        users.dedup();
        users
    }

    /// Gives up who did not come back in time: their names.
    pub fn expire(&self, now: Micros) -> Vec<SocketAddress> {
        let mut gone = Vec::new();
        let mut table = self.table();
        while let Some(oldest) = table.order.front().copied()
            && now - oldest.at > self.window
        {
            table.order.pop_front();
            if oldest.of(&table.sessions).is_some() {
                gone.extend(table.take(&oldest.name));
            }
        }
        if table.order.is_empty() {
            table.order.shrink_to_fit();
            table.sessions.shrink_to_fit();
        }
        drop(table);
        gone.iter().map(|session| session.name).collect()
    }

    /// For how long a socket may come back.
    pub fn window(&self) -> Duration {
        self.window
    }

    /// Looks at one; nobody takes it up meanwhile.
    pub fn look_at<T>(
        &self,
        name: &SocketAddress,
        look: impl FnOnce(&mut Session<D>) -> T,
    ) -> Option<T> {
        self.table().sessions.get_mut(name).map(look)
    }

    /// Looks at each.
    pub fn for_each(&self, look: impl FnMut(&Session<D>)) {
        self.table().sessions.values().for_each(look);
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::namespaces::NamespaceId;
    use heartline_wire::id::{ConnId, Slot};

    fn socket(number: u32) -> SocketAddress {
        let conn = ConnId {
            shard: 0,
            slot: Slot(number),
            generation: 1,
        };
        SocketAddress::new(conn, NamespaceId::ROOT, [0; 12])
    }

    fn lost(number: u32, at: u64) -> Session<()> {
        let user = UserKey {
            tenant_id: None,
            user_id: "ann".into(),
            user_type: None,
        };
        let identity = Identity {
            user: Some(Arc::new(user)),
            ..Identity::default()
        };
        Session {
            name: socket(number),
            places: Vec::new(),
            identity: Arc::new(identity),
            rooms: Vec::new(),
            taken: Vec::new(),
            left: 0,
            end: 0,
            lost_at: Micros(at),
            seen: None,
            data: (),
        }
    }

    #[test]
    fn who_comes_and_goes_for_ever_costs_no_more_than_who_has_gone_once() {
        let sessions = Sessions::new(Duration::from_secs(3600), 1_000);
        let mut session = lost(1, 0);
        for at in 1..5_000u32 {
            session.lost_at = Micros(at.into());
            session.places.push((socket(at), at.into()));
            sessions.park(session);
            let user = Some(lost(1, 0).identity.user.clone().unwrap());
            session = sessions
                .claim(&socket(1), user.as_ref(), 0, Micros(at.into()), || ())
                .unwrap();
        }
        // What it said at the places that are forgotten is not told to it as another's.
        assert_eq!(
            (session.places.len(), session.left),
            (MAX_PLACES, 4_999 - 16)
        );
        assert!(sessions.table().order.len() < 100);
        assert!(sessions.is_empty() && !sessions.has(None, "ann"));
    }

    #[test]
    fn who_stays_away_is_listed_once_however_many_come_back_between_the_parts() {
        let sessions = Sessions::new(Duration::from_secs(3600), 1_000);
        (0..500).for_each(|number| drop(sessions.park(lost(number, number.into()))));
        let now = Micros(1_000);
        let (mut seen, mut place, mut parts) = (Vec::new(), Some(0), 0);
        while let Some(from) = place {
            // A part has at most 20 of the next 30.
            let mut part = 0;
            place = sessions.look_at_some(from, 30, now, |_, session| {
                seen.push(session.name);
                part += 1;
                part < 20
            });
            assert!(part <= 20);
            parts += 1;
            // Every second of those that were seen comes back, and ten more are lost.
            for name in seen.iter().rev().take(20).step_by(2) {
                sessions.give_up(name);
            }
            if parts < 10 {
                let at = 600 + parts * 10;
                (0..10).for_each(|one| drop(sessions.park(lost(at + one, at.into()))));
            }
        }
        let listed: std::collections::HashSet<_> = seen.iter().copied().collect();
        assert_eq!((listed.len(), seen.len()), (590, 590));
        // None of them can come back any more, though nobody has given them up yet.
        let late = now + Duration::from_secs(3601);
        assert_eq!(
            sessions.look_at_some(0, 1_000, late, |_, _| unreachable!()),
            None
        );
        assert!(sessions.look(&socket(0), late, |_| ()).is_none());
        assert!(sessions.holds(&socket(0)) && sessions.look(&socket(0), now, |_| ()).is_some());
    }

    #[test]
    fn a_users_sessions_are_found_and_given_up_together() {
        let sessions = Sessions::new(Duration::from_secs(3600), 1_000);
        (1..=3).for_each(|number| drop(sessions.park(lost(number, 0))));
        let [ann] = sessions.users(None, "ann").try_into().unwrap();
        assert_eq!(sessions.users(Some("t"), "ann").len(), 0);
        assert_eq!(sessions.names(&ann), [1, 2, 3].map(socket));
        assert!(sessions.give_up(&socket(2)) && !sessions.give_up(&socket(2)));
        let other = UserKey {
            user_type: Some("rider".into()),
            ..(*ann).clone()
        };
        assert!(sessions.end_all(None, "ann", Some(&other)).is_empty());
        assert_eq!(sessions.end_all(None, "ann", Some(&ann)).len(), 2);
        assert!(sessions.is_empty() && sessions.users(None, "ann").is_empty());
    }

    #[test]
    fn what_was_ended_while_it_was_on_its_way_is_not_taken_up_and_what_comes_later_is() {
        let sessions = Sessions::new(Duration::from_secs(3600), 1_000);
        let user = lost(1, 0).identity.user.clone();
        let comes = |ends| {
            sessions.park(lost(1, 0));
            let claimed = sessions.claim(&socket(1), user.as_ref(), ends, Micros(1), || ());
            claimed.map(|session| session.name)
        };
        let before = sessions.ends();
        sessions.end_all(Some("t"), "ann", None);
        assert_eq!(comes(before), Ok(socket(1)));
        sessions.end_all(None, "ann", None);
        assert_eq!(comes(before), Err(Unclaimed::Ended));
        let after = sessions.ends();
        assert_eq!(comes(after), Ok(socket(1)));
        // Of more than are remembered, nobody knows whether it was among them.
        (0..=MAX_ENDED).for_each(|one| drop(sessions.end_all(None, &one.to_string(), None)));
        assert_eq!(comes(after), Err(Unclaimed::Ended));
        assert_eq!(comes(sessions.ends()), Ok(socket(1)));
        assert!(sessions.table().ended.users.len() <= MAX_ENDED);
    }
}
