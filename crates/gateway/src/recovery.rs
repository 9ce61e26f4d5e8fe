//! What lets a lost connection be resumed: the line of kept events, sessions that wait, and the
//! names of sockets that have come back.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError, RwLock};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use hashbrown::{HashMap, HashSet};
use heartline_core::auth::{RoomPattern, UserKey};
use heartline_core::backplane::Backplane;
use heartline_core::backplane::line::SharedLine;
use heartline_core::line::direct::Direct;
use heartline_core::line::ring::{Kept, Only};
use heartline_core::line::session::{Session, Sessions};
use heartline_core::line::shelf::{Scope, ScopeRef, Shelf};
use heartline_core::line::{Bounds, Line, Place};
use heartline_core::message::Message;
use heartline_core::namespaces::Namespaces;
use heartline_core::policy::Announce;
use heartline_core::presence::{Online, Presence, RoomAddress, SocketAddress};
use heartline_core::rooms::{Left, RoomDirectory, RoomKey};
use heartline_engine::clock::Clock;
use heartline_wire::id::Sid;
use heartline_wire::time::Micros;
use ring::hmac;

use crate::config::{HeartbeatConfig, RecoveryConfig};
use crate::data::SocketData;
use crate::in_doubt::InDoubt;
use crate::journal::stopped::Spot;
use crate::journal::{Found, Journal, Known, KnownRoom, KnownUser, Place as Written, stopped};
use crate::publication::Told;

/// Bytes of a resume token that prove the gateway has given it out.
const PROOF: usize = 12;

/// How often it is tried to leave something to the next process while events are published.
const LEAVE_ATTEMPTS: usize = 3;

/// Bytes of a socket's id.
const NAME: usize = 24;

/// Bytes of a line's epoch.
const EPOCH: usize = 4;

/// Bytes of the id and of the place in the line at which the socket began.
const CLAIM: usize = NAME + EPOCH + 8;

/// Events of rooms, by the rooms' incarnations.
type OfRooms = HashMap<(RoomKey, u64), Vec<Kept>>;

/// What proves that a resume token was given out by this gateway.
enum Key {
    /// Its own.
    Own(hmac::Key),
    /// That of all nodes, as soon as this one knows it.
    Common {
        backplane: Arc<dyn Backplane>,
        known: Mutex<Option<(Arc<str>, hmac::Key)>>,
    },
}

impl Key {
    fn get(&self) -> Option<hmac::Key> {
        let (backplane, known) = match self {
            Key::Own(key) => return Some(key.clone()),
            Key::Common { backplane, known } => (backplane, known),
        };
        let secret = backplane.secret()?;
        let mut known = known.lock().unwrap_or_else(PoisonError::into_inner);
        match &*known {
            Some((of, key)) if *of == secret => Some(key.clone()),
            _ => {
                // Nodes show each other the secret itself.
                let text = format!("resume tokens of {secret}");
                let key = hmac::Key::new(hmac::HMAC_SHA256, text.as_bytes());
                *known = Some((secret, key.clone()));
                Some(key)
            }
        }
    }
}

/// Why a resume token names no socket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Unnamed {
    /// This gateway has not given it out.
    Forged,
    /// What proves it is not known yet.
    Unsure,
}

/// The bytes of what has the length and the letters of a resume token: claim and proof.
fn claimed(token: &str) -> Option<[u8; CLAIM + PROOF]> {
    if token.len() != ((CLAIM + PROOF) * 4).div_ceil(3) {
        return None;
    }
    let mut bytes = [0; CLAIM + PROOF];
    let read = URL_SAFE_NO_PAD.decode_slice(token, &mut bytes).ok()?;
    (read == bytes.len()).then_some(bytes)
}

/// The socket that a claim names, and the place at which it began.
fn read_claim(claim: &[u8]) -> Option<(SocketAddress, Place)> {
    let (name, begin) = claim.split_at(NAME);
    let name: [u8; NAME] = name.try_into().ok()?;
    let (epoch, id) = begin.split_at(EPOCH);
    let begin = Place {
        epoch: u32::from_be_bytes(epoch.try_into().ok()?),
        id: u64::from_be_bytes(id.try_into().ok()?),
    };
    Some((SocketAddress(Sid::from_bytes(name)), begin))
}

/// Connections that want to go on with the same socket have their turn one after the other.
type Coming = Mutex<HashMap<SocketAddress, Arc<tokio::sync::Mutex<()>>>>;

/// A connection's turn to go on with a socket.
pub(crate) struct Turn {
    coming: Arc<Coming>,
    name: SocketAddress,
    held: Option<tokio::sync::OwnedMutexGuard<()>>,
}

impl Drop for Turn {
    fn drop(&mut self) {
        let mut coming = self.coming.lock().unwrap_or_else(PoisonError::into_inner);
        self.held = None;
        // Nobody waits for it.
        if coming
            .get(&self.name)
            .is_some_and(|turn| Arc::strong_count(turn) == 1)
        {
            coming.remove(&self.name);
        }
    }
}

/// What a gateway keeps for clients that come back.
pub(crate) struct Recovery {
    /// The numbers of kept events.
    pub(crate) line: Line,
    /// Those that went to no room.
    pub(crate) shelf: Shelf,
    /// Those to single sockets.
    pub(crate) direct: Direct,
    /// Sockets that may come back.
    pub(crate) sessions: Sessions<Option<SocketData>>,
    /// Where sockets are now that have come back, by the ids under which they are known.
    names: RwLock<HashMap<SocketAddress, SocketAddress>>,
    rooms: Box<[RoomPattern]>,
    /// Most events in one resume.
    pub(crate) max_replay: usize,
    key: Key,
    /// The line that all nodes share: numbers are taken there.
    pub(crate) common: Option<Arc<dyn SharedLine>>,
    /// What cannot be said there is refused.
    pub(crate) refuse_unreachable: bool,
    /// Since this place in it this node has heard all that is for everybody.
    follows_from: AtomicU64,
    /// Up to this number changes of presence have come by it.
    edges_told: AtomicU64,
    /// What the key is made of.
    secret: [u8; 32],
    /// Where something may be left to the next process.
    spot: Mutex<Option<Spot>>,
    /// What was left to the next process.
    left: OnceLock<PathBuf>,
    /// Up to this place in the line events may be missing that nobody has dropped.
    missing: AtomicU64,
    /// Rooms of an earlier process, and which stored messages they were told of.
    pub(crate) in_doubt: InDoubt,
    /// Sockets of which it is found out who goes on with them.
    coming: Arc<Coming>,
    /// Where all of it is written down, if it is.
    pub(crate) journal: Option<Journal>,
}

impl Recovery {
    /// Nothing is kept yet; lost connections can be resumed within the window.
    pub(crate) fn new(
        window: Duration,
        config: &RecoveryConfig,
        heartbeat: &HeartbeatConfig,
        (epoch, secret): (u32, [u8; 32]),
        journal: Option<Journal>,
        backplane: &Arc<dyn Backplane>,
    ) -> Self {
        let common = backplane.line();
        let bounds = Bounds {
            age: heartbeat.age_kept(window),
            events: config.events,
            bytes: config.bytes,
            buffer: config.buffer,
        };
        Recovery {
            line: Line::new(bounds, epoch),
            shelf: Shelf::default(),
            direct: Direct::default(),
            sessions: Sessions::new(window, config.sessions),
            names: RwLock::default(),
            rooms: config
                .rooms
                .iter()
                .map(|room| RoomPattern::new(room))
                .collect(),
            max_replay: config.max_replay,
            key: match common {
                None => Key::Own(hmac::Key::new(hmac::HMAC_SHA256, &secret)),
                Some(_) => Key::Common {
                    backplane: backplane.clone(),
                    known: Mutex::default(),
                },
            },
            common,
            refuse_unreachable: config.refuse_unreachable,
            follows_from: AtomicU64::new(u64::MAX),
            edges_told: AtomicU64::new(0),
            secret,
            spot: Mutex::default(),
            left: OnceLock::new(),
            missing: AtomicU64::new(0),
            in_doubt: InDoubt::default(),
            coming: Arc::default(),
            journal,
        }
    }

    /// The same, which may leave something there to the next process.
    pub(crate) fn leaving_at(self, spot: Option<Spot>) -> Self {
        Recovery {
            spot: Mutex::new(spot),
            ..self
        }
    }

    /// Goes on with what an earlier process has written down: the rooms and what was said in
    /// them, and the sockets, which were lost with it.
    pub(crate) fn restore(&self, mut found: Found, rooms: &RoomDirectory, clock: &Clock) {
        self.line.go_on_after(found.last);
        let missing = found.kept_from.saturating_sub(1).max(found.lost);
        self.missing.store(missing, Ordering::Relaxed);
        let mut of_rooms = self.restore_events(&mut found, clock);
        let told = found.rooms.iter().filter(|(_, known)| known.told > 0);
        self.in_doubt
            .begin(told.map(|(key, known)| (key.clone(), known.told)));
        let mut restored = HashMap::new();
        for (key, known) in found.rooms {
            let place = (key, known.incarnation);
            let events = of_rooms.remove(&place).unwrap_or_default();
            let (key, _) = place;
            let left = Left {
                incarnation: known.incarnation,
                epoch: known.epoch,
                offset: known.offset,
                missing: missing.max(known.lost),
                whole_from: found.kept_from.max(known.lost + 1),
            };
            if let Some(room) = rooms.restore(&key, left, events, &self.line.bounds) {
                restored.insert(key, room);
            }
        }
        let now = clock.now();
        let was_there = |(place, end): (_, u64)| (place, end.min(found.last));
        let oldest = clock.unix_millis(now);
        let oldest = oldest.saturating_sub(self.sessions.window().as_millis() as u64);
        for socket in found.sockets {
            if socket.lost_at.is_some_and(|at| at < oldest) {
                self.ended(socket.name);
                continue;
            }
            let places = socket.rooms.iter();
            let places = places.filter_map(|(key, since)| {
                let room = restored.get(key)?;
                Some((room.clone(), *since))
            });
            self.park(Session {
                name: socket.name,
                identity: Arc::new(socket.identity()),
                rooms: places.collect(),
                left: socket.left,
                end: found.last,
                // Where the clock has been set back, no later than now.
                lost_at: socket
                    .lost_at
                    .map_or(now, |at| clock.at_unix_millis(at).min(now)),
                places: socket.places.into_iter().map(was_there).collect(),
                taken: Vec::new(),
                seen: None,
                data: Some(socket.remembered)
                    .filter(|texts| !texts.is_empty())
                    .map(SocketData::of),
            });
        }
    }

    /// Who was online with an earlier process, each until it is not expected back any more: `longest`
    /// from now, whatever that process took for the time.
    pub(crate) fn expected(
        users: HashMap<Arc<UserKey>, KnownUser>,
        namespaces: &Namespaces,
        clock: &Clock,
        longest: Duration,
    ) -> Vec<Online> {
        let place = |key: RoomKey| RoomAddress {
            namespace: namespaces.get(key.namespace).name.clone(),
            room: key.name,
        };
        let tells = |key: &RoomKey| {
            let namespace = namespaces.iter().find(|(id, _)| *id == key.namespace);
            namespace.is_some_and(|(_, one)| one.config.announce == Announce::Rooms)
        };
        let users = users.into_iter().map(|(user, known)| Online {
            user,
            rev: known.rev,
            until: clock.at_unix_millis(known.until).min(clock.now() + longest),
            rooms: known.rooms.into_iter().filter(tells).map(place).collect(),
        });
        users.collect()
    }

    /// Who is online, for the next process. Nobody has a socket any more: whose was lost by the stop
    /// that began then is expected back within the window, and everybody else as long as before.
    fn online(
        &self,
        presence: &Presence,
        (namespaces, stopped): (&Namespaces, Micros),
        clock: &Clock,
    ) -> HashMap<Arc<UserKey>, KnownUser> {
        let mut lost = HashSet::new();
        self.sessions.for_each(|session| {
            // Of who was lost by an earlier process, its last view is not known.
            let is_of_stop = session.seen.is_some() && session.lost_at >= stopped;
            let user = session.identity.user.as_ref();
            lost.extend(user.filter(|_| is_of_stop).cloned());
        });
        let later = clock.now() + self.sessions.window();
        let users = presence.all().into_iter().map(|online| {
            let rooms = online.rooms.iter().filter_map(|place| {
                Some(RoomKey {
                    namespace: namespaces.find(&place.namespace)?,
                    tenant: online.user.tenant_id.clone(),
                    name: place.room.clone(),
                })
            });
            // Who is still there has no end of its time.
            let is_lost = online.until == Micros::ZERO || lost.contains(&online.user);
            let until = match is_lost {
                true => online.until.max(later),
                false => online.until,
            };
            let known = KnownUser {
                rev: online.rev,
                until: clock.unix_millis(until),
                rooms: rooms.collect(),
            };
            (online.user, known)
        });
        users.collect()
    }

    /// Goes on with the events but those of rooms, which it answers.
    fn restore_events(&self, found: &mut Found, clock: &Clock) -> OfRooms {
        let names: HashSet<SocketAddress> = found.sockets.iter().map(|one| one.name).collect();
        let is_known = |name: &SocketAddress| names.contains(name);
        for (place, id) in &found.dropped {
            self.restore_dropped(place, *id, is_known);
        }
        let mut of_rooms = OfRooms::new();
        for (place, at, event) in std::mem::take(&mut found.events) {
            let at = clock.at_unix_millis(at);
            let event = Kept { at, ..event };
            match place {
                Written::Room(key, incarnation) => {
                    of_rooms.entry((key, incarnation)).or_default().push(event);
                }
                Written::Scope {
                    namespace,
                    tenant,
                    user,
                } => {
                    let scope = ScopeRef {
                        namespace,
                        tenant: tenant.as_deref(),
                        user: user.as_deref(),
                    };
                    self.shelf.restore(scope, &self.line, event);
                }
                Written::Socket(name) if is_known(&name) => {
                    self.direct.restore(name, &self.line, event);
                }
                Written::Socket(_) => {}
            }
        }
        of_rooms
    }

    fn restore_dropped(&self, place: &Written, id: u64, is_known: impl Fn(&SocketAddress) -> bool) {
        match place {
            // A room says it itself.
            Written::Room(..) => {}
            Written::Scope {
                namespace,
                tenant,
                user,
            } => {
                let scope = ScopeRef {
                    namespace: *namespace,
                    tenant: tenant.as_deref(),
                    user: user.as_deref(),
                };
                self.shelf.restore_dropped(scope, &self.line, id);
            }
            Written::Socket(name) if is_known(name) => {
                self.direct.restore_dropped(*name, &self.line, id);
            }
            Written::Socket(_) => {}
        }
    }

    /// All that is kept now, for another process. Everybody is gone, by a stop that began then.
    fn all(
        &self,
        presence: &Presence,
        (namespaces, rooms, stopped): (&Namespaces, &RoomDirectory, Micros),
        clock: &Clock,
    ) -> Found {
        let mut found = Found {
            last: self.line.last(),
            lost: self.missing(),
            ..Found::default()
        };
        found.users = self.online(presence, (namespaces, stopped), clock);
        let at = |event: &Kept| clock.unix_millis(event.at);
        for room in rooms.all() {
            let place = Written::Room(room.key.clone(), room.incarnation);
            let dropped = room.with_ring(|ring| {
                found.take_ring(&place, ring, at);
                ring.dropped()
            });
            let known = dropped.map(|dropped| KnownRoom::of(&room, dropped));
            found
                .rooms
                .extend(known.map(|known| (room.key.clone(), known)));
        }
        let scopes = self.shelf.all().into_iter().map(|(scope, ring)| {
            let Scope {
                namespace,
                tenant,
                user,
            } = scope;
            let place = Written::Scope {
                namespace,
                tenant,
                user,
            };
            (place, ring)
        });
        let sockets = self.direct.all().into_iter();
        let sockets = sockets.map(|(name, ring)| (Written::Socket(name), ring));
        for (place, ring) in scopes.chain(sockets) {
            let ring = ring.lock().unwrap_or_else(PoisonError::into_inner);
            found.take_ring(&place, &ring, at);
        }
        self.sessions.for_each(|session| {
            let lost_at = clock.unix_millis(session.lost_at);
            found.sockets.push(Known::of(session, lost_at));
        });
        found
    }

    /// Where that is, if something may be left to the next process: once.
    pub(crate) fn spot(&self) -> Option<Spot> {
        self.spot
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take()
    }

    /// Leaves all that is kept to the next process, in a file, at the end of a stop that began then.
    /// What happens after it would be missing there: then the file is removed.
    ///
    /// # Errors
    /// It cannot be written, or there was no end of what happened.
    pub(crate) fn leave(
        &self,
        (path, names): (&Path, &str),
        presence: &Presence,
        all: (&Namespaces, &RoomDirectory, Micros),
        clock: &Clock,
    ) -> io::Result<()> {
        for _ in 0..LEAVE_ATTEMPTS {
            let found = self.all(presence, all, clock);
            let last = found.last;
            let identity = (self.line.epoch(), self.secret);
            let (sockets, begun) = (found.sockets.len(), clock.now());
            stopped::write(path, names.to_owned(), identity, found)?;
            let file = path.to_owned();
            if self.line.ends_at(last, move || drop(fs::remove_file(file))) {
                let _ = self.left.set(path.to_owned());
                let took = clock.now() - begun;
                tracing::info!(sockets, ?took, "lost sockets are left to the next process");
                return Ok(());
            }
            fs::remove_file(path)?;
        }
        Err(io::Error::other("events are still published"))
    }

    /// Up to this place in the line events may be missing: an earlier process has said them.
    pub(crate) fn missing(&self) -> u64 {
        self.missing.load(Ordering::Relaxed)
    }

    /// Up to this place events may be missing.
    pub(crate) fn miss(&self, place: u64) {
        self.missing.fetch_max(place, Ordering::Relaxed);
    }

    /// From this place on this node hears what all nodes say.
    pub(crate) fn follows_from(&self, place: u64) {
        self.follows_from.store(place, Ordering::Relaxed);
    }

    /// Whether this node has heard all that was for everybody since a place.
    pub(crate) fn has_followed_since(&self, place: u64) -> bool {
        self.follows_from.load(Ordering::Relaxed) <= place
    }

    /// Up to which number changes of presence have come by the line of all nodes.
    pub(crate) fn edges_told(&self) -> u64 {
        self.edges_told.load(Ordering::Relaxed)
    }

    /// They are in it up to this one. It may be a smaller one than before: the registry counts
    /// anew where it has forgotten.
    pub(crate) fn note_edges_told(&self, to: u64) {
        self.edges_told.store(to, Ordering::Relaxed);
    }

    /// Something was lost, and nobody knows whose it was.
    pub(crate) fn lose_all(&self) {
        if self.common.is_some() {
            // What goes by the line of all nodes is not lost unnoticed.
            return;
        }
        self.line.take(1, |place| {
            if let Some(journal) = &self.journal {
                journal.lost(place);
            }
            self.missing.fetch_max(place, Ordering::Relaxed);
        });
    }

    /// Keeps what a socket had whose connection is lost.
    pub(crate) fn park(&self, session: Session<Option<SocketData>>) {
        self.give_up(self.sessions.park(session));
    }

    /// These do not come back.
    pub(crate) fn give_up(&self, names: Vec<SocketAddress>) {
        names.into_iter().for_each(|name| self.ended(name));
    }

    fn ended(&self, name: SocketAddress) {
        if let Some(common) = &self.common {
            common.remember(name, None);
        }
        self.direct.end(&name);
        if let Some(file) = self.left.get() {
            // It says that this one may come back.
            let _ = fs::remove_file(file);
        }
        if let Some(journal) = &self.journal {
            journal.ended(name);
        }
    }

    /// A socket is not where it was. Unless it was lost or has come back, this was its end.
    pub(crate) fn may_have_ended(&self, name: SocketAddress) {
        if !self.may_come_back(&name) {
            self.ended(name);
        }
    }

    /// Whether a socket that is not at the place of its name was lost, or has come back. Who
    /// takes up a session is at another place in the same step.
    pub(crate) fn may_come_back(&self, name: &SocketAddress) -> bool {
        self.sessions.holds(name) || self.whereabouts(*name) != *name
    }

    /// Whether what is said in a room is kept.
    pub(crate) fn keeps(&self, room: &str) -> bool {
        self.rooms.iter().any(|pattern| pattern.matches(room))
    }

    /// The same of what goes to a whole namespace, or to a socket.
    pub(crate) fn keeps_all(&self) -> bool {
        self.rooms.iter().any(|pattern| pattern.matches_all())
    }

    /// An event that is to be kept now.
    pub(crate) fn kept(&self, message: &Message, only: Only, at: Micros) -> Kept {
        let is_for_all = only.is_for_all();
        Kept {
            id: 0,
            offset: 0,
            at,
            message: message.clone(),
            key: None,
            only: (!is_for_all).then(|| Box::new(only)),
        }
    }

    /// Keeps events that go to no single room; `post` gets the place of the first.
    pub(crate) fn keep(
        &self,
        scope: ScopeRef<'_>,
        events: Vec<Kept>,
        post: impl FnOnce(Option<Told>),
    ) {
        let note = |events: &[Kept]| {
            if let Some(journal) = &self.journal {
                journal.events(scope, events);
            }
        };
        self.shelf.keep(scope, &self.line, events, note, |id| {
            post(Some(Told {
                place: self.line.place(id),
                is_own: true,
            }));
        });
    }

    /// The rooms instead of whose events something was told in a scope that is kept, behind a place.
    pub(crate) fn told_instead_of(&self, scope: ScopeRef<'_>, after: u64) -> HashSet<Arc<str>> {
        let Some(ring) = self.shelf.find(scope) else {
            return HashSet::new();
        };
        let ring = ring.lock().unwrap_or_else(PoisonError::into_inner);
        let only = ring.between(after, u64::MAX);
        let only = only.filter_map(|event| event.only.as_ref());
        only.filter_map(|only| only.instead_of.clone()).collect()
    }

    /// Keeps an event to one socket; `post` gets its place.
    pub(crate) fn keep_direct(&self, name: SocketAddress, event: Kept, post: impl FnOnce(Told)) {
        let note = |event: &Kept| {
            if let Some(journal) = &self.journal {
                journal.direct(name, event);
            }
        };
        self.direct.keep(name, &self.line, event, note, |id| {
            post(Told {
                place: self.line.place(id),
                is_own: true,
            });
        });
    }

    /// The token by which a socket is resumed that began at a place in the line: it brings
    /// along what would have to be remembered otherwise, and the proof that it is true.
    /// `None`: it is not known yet how that is proved.
    pub(crate) fn token(&self, name: &SocketAddress, begin: Place) -> Option<String> {
        let key = self.key.get()?;
        let mut bytes = [0; CLAIM + PROOF];
        bytes[..NAME].copy_from_slice(&name.0.to_bytes());
        bytes[NAME..NAME + EPOCH].copy_from_slice(&begin.epoch.to_be_bytes());
        bytes[NAME + EPOCH..CLAIM].copy_from_slice(&begin.id.to_be_bytes());
        let proof = hmac::sign(&key, &bytes[..CLAIM]);
        bytes[CLAIM..].copy_from_slice(&proof.as_ref()[..PROOF]);
        Some(URL_SAFE_NO_PAD.encode(bytes))
    }

    /// The socket of a token that this gateway has given out, or any of its cluster, and the
    /// place at which it began.
    ///
    /// # Errors
    /// It is no such token, or nobody knows yet: this node has not joined its cluster.
    pub(crate) fn named(&self, token: &str) -> Result<(SocketAddress, Place), Unnamed> {
        let bytes = claimed(token).ok_or(Unnamed::Forged)?;
        let (claim, proof) = bytes.split_at(CLAIM);
        let right = hmac::sign(&self.key.get().ok_or(Unnamed::Unsure)?, claim);
        // In a time that tells nothing of how much was right.
        let differs = std::iter::zip(&right.as_ref()[..PROOF], proof);
        let differs = differs.fold(0, |differs, (a, b)| differs | (a ^ b));
        let read = read_claim(claim).filter(|_| differs == 0);
        read.ok_or(Unnamed::Forged)
    }

    /// Waits until nobody else is about to go on with a socket.
    pub(crate) async fn turn(&self, name: SocketAddress) -> Turn {
        let turn = {
            let mut coming = self.coming.lock().unwrap_or_else(PoisonError::into_inner);
            coming.entry(name).or_default().clone()
        };
        Turn {
            coming: self.coming.clone(),
            name,
            held: Some(turn.lock_owned().await),
        }
    }

    /// Where a socket is that is known by this id.
    pub(crate) fn whereabouts(&self, name: SocketAddress) -> SocketAddress {
        let names = self.names.read().unwrap_or_else(PoisonError::into_inner);
        names.get(&name).copied().unwrap_or(name)
    }

    /// A socket has come back: it is here now.
    pub(crate) fn is_at(&self, name: SocketAddress, address: SocketAddress) {
        let mut names = self.names.write().unwrap_or_else(PoisonError::into_inner);
        names.insert(name, address);
    }

    /// A socket that had come back is gone.
    pub(crate) fn is_gone(&self, name: SocketAddress, address: SocketAddress) {
        let mut names = self.names.write().unwrap_or_else(PoisonError::into_inner);
        if names.get(&name) == Some(&address) {
            names.remove(&name);
        }
        if names.is_empty() {
            names.shrink_to_fit();
        }
    }
}

/// What proves that a resume token is this gateway's.
pub(crate) fn random_secret() -> [u8; 32] {
    let mut secret = [0; 32];
    heartline_engine::random::fill(&mut secret);
    secret
}

/// How often what is kept is gone through for what is too old.
pub(crate) const TRIM_INTERVAL: Duration = Duration::from_secs(5);

#[cfg(test)]
mod tests {
    use super::*;
    use heartline_core::backplane::local::LocalBackplane;
    use heartline_core::namespaces::NamespaceId;
    use heartline_wire::id::{ConnId, Slot};

    fn socket(number: u32) -> SocketAddress {
        let conn = ConnId {
            shard: 1,
            slot: Slot(number),
            generation: 3,
        };
        SocketAddress::new(conn, NamespaceId::ROOT, [7; 12])
    }

    fn make() -> Recovery {
        let (config, heartbeat) = (RecoveryConfig::default(), HeartbeatConfig::default());
        let alone: Arc<dyn Backplane> = Arc::new(LocalBackplane::new(
            Duration::ZERO,
            Box::new(|| unreachable!("nobody connects")),
        ));
        Recovery::new(
            Duration::from_secs(60),
            &config,
            &heartbeat,
            (9, random_secret()),
            None,
            &alone,
        )
    }

    #[test]
    fn a_token_is_believed_from_who_made_it_alone() {
        let (ours, theirs) = (make(), make());
        let begin = Place { epoch: 7, id: 300 };
        let token = ours.token(&socket(5), begin).unwrap();
        assert_eq!(token.len(), 64);
        assert_eq!(ours.named(&token), Ok((socket(5), begin)));
        assert_eq!(theirs.named(&token), Err(Unnamed::Forged));
        for bad in ["", "x", &token[1..], &format!("{token}A"), &socket(5).id()] {
            assert_eq!(ours.named(bad), Err(Unnamed::Forged), "{bad}");
        }
        for at in 0..token.len() {
            let mut other = token.clone().into_bytes();
            other[at] = if other[at] == b'A' { b'B' } else { b'A' };
            let other = String::from_utf8(other).unwrap_or_default();
            assert_eq!(ours.named(&other), Err(Unnamed::Forged), "{other}");
        }
    }

    #[test]
    fn a_name_leads_to_where_its_socket_is_now() {
        let recovery = make();
        assert_eq!(recovery.whereabouts(socket(1)), socket(1));
        recovery.is_at(socket(1), socket(2));
        assert_eq!(recovery.whereabouts(socket(1)), socket(2));
        recovery.is_at(socket(1), socket(3));
        recovery.is_gone(socket(1), socket(2));
        assert_eq!(recovery.whereabouts(socket(1)), socket(3));
        recovery.is_gone(socket(1), socket(3));
        assert_eq!(recovery.whereabouts(socket(1)), socket(1));
    }
}
