//! What clients watch, on its way to them: the board that knows it, asked and told from outside.
//!
//! The board is locked for as long as something is compared, never while anybody is asked. What
//! is to be told goes into the shards' mailboxes under that lock, so it comes in its order.

use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use heartline_core::auth::UserKey;
use heartline_core::backplane::Target;
use heartline_core::message::Message;
use heartline_core::namespaces::NamespaceId;
use heartline_core::presence::audit::{self, Auditor};
use heartline_core::presence::watch::{Answer, Board, Note, Post, Question, Refused, Scope, What};
use heartline_core::presence::{Edge, RoomAddress, SocketAddress};
use heartline_engine::clock::Clock;
use heartline_wire::time::Micros;
use tokio::sync::{Notify, oneshot};

use crate::event::to_json;
use crate::fanout::Fanout;
use crate::op::{Op, WatchOp};
use crate::publication::Publication;

/// How long changes are gathered after some have left, as for `user:online`.
const WINDOW: Duration = Duration::from_millis(50);
/// How often it is looked whether what is known can be believed, and what is over.
const LOOK: Duration = Duration::from_millis(250);
/// The same while nothing is watched.
const LOOK_SELDOM: Duration = Duration::from_secs(1);
/// An answer that says only what was so longer ago is stale: the read of changes behind it takes
/// two seconds while nobody asks, and is begun when the one before it has ended.
const MAX_AGE: Duration = Duration::from_secs(5);
/// Users in one question to the backplane.
const ASKED: usize = 100;
/// How long a reader waits for other nodes to say who is in a room; without them, it is told that
/// the picture may lack somebody.
const ROSTERS: Duration = Duration::from_secs(2);
/// How often others are asked again, at most, as they said what cannot be read.
const UNREAD_AGAIN: Duration = Duration::from_secs(2);
/// The event by which nodes speak of rooms that are watched.
pub(crate) const NOTE: &str = "presence:watched";

/// What is watched on this node.
pub(crate) struct Watches {
    board: Mutex<Board>,
    fanout: Arc<Fanout>,
    clock: Clock,
    work: Notify,
    /// Another node has said something.
    noted: Notify,
    /// Rooms whose comings and goings matter, and whether anything is watched at all: read at
    /// each join and each end.
    followed: AtomicUsize,
    has_readers: AtomicBool,
    is_idle: AtomicBool,
    /// When what is known could last be believed, Unix milliseconds.
    trusted_at: AtomicU64,
    /// Until when nothing is missing, as was said once, Unix milliseconds.
    reached_at: AtomicU64,
    /// Until when nobody is asked again for what could not be read, by the node's clock.
    unread_until: AtomicU64,
    auditor: Mutex<Auditor>,
    /// The same of what the backplane keeps for those who ask.
    kept: Mutex<Auditor>,
}

/// A reader that waits for its answer. Who is not answered, as what asked for it has ended or was
/// given up, does not watch.
struct Waiting<'a> {
    watches: &'a Watches,
    scope: &'a Arc<Scope>,
    reader: SocketAddress,
    is_answered: bool,
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        if !self.is_answered {
            self.watches.unwatch(self.scope, self.reader);
        }
    }
}

impl Watches {
    pub(crate) fn new(fanout: Arc<Fanout>, clock: Clock) -> Watches {
        Watches {
            board: Mutex::new(Board::new(fanout.life, fanout.shard_count())),
            fanout,
            clock,
            work: Notify::new(),
            noted: Notify::new(),
            followed: AtomicUsize::new(0),
            has_readers: AtomicBool::new(false),
            is_idle: AtomicBool::new(true),
            trusted_at: AtomicU64::new(0),
            reached_at: AtomicU64::new(0),
            unread_until: AtomicU64::new(0),
            auditor: Mutex::default(),
            kept: Mutex::default(),
        }
    }

    fn locked<T>(&self, act: impl FnOnce(&mut Board) -> T) -> T {
        let mut board = self.board.lock().unwrap_or_else(PoisonError::into_inner);
        let done = act(&mut board);
        self.followed.store(board.followed(), Ordering::Relaxed);
        self.has_readers
            .store(board.has_readers(), Ordering::Relaxed);
        self.is_idle.store(board.is_empty(), Ordering::Relaxed);
        done
    }

    /// Whether anybody watches anything.
    #[cfg(test)]
    pub(crate) fn has_readers(&self) -> bool {
        self.has_readers.load(Ordering::Relaxed)
    }

    fn unix_millis(&self) -> u64 {
        // As the backplane tells it.
        self.clock.steady_millis(self.clock.now())
    }

    /// When what is known of users elsewhere could last be believed, as far as this node noticed,
    /// Unix milliseconds: mostly now.
    fn note_trust(&self) -> u64 {
        if !self.fanout.backplane.is_trusted() {
            return self.trusted_at.load(Ordering::Relaxed);
        }
        let now = self.unix_millis();
        self.trusted_at.store(now, Ordering::Relaxed);
        now
    }

    /// Until when nothing is missing in what this node knows of users, Unix milliseconds: changes
    /// may be on their way here. All that was ever heard up to some time stays heard, so it does
    /// not go back.
    fn reached(&self) -> u64 {
        let trusted_at = self.note_trust();
        let Some(heard) = self.fanout.backplane.heard_until() else {
            return trusted_at;
        };
        let reached = heard.min(trusted_at);
        let before = self.reached_at.fetch_max(reached, Ordering::Relaxed);
        before.max(reached)
    }

    /// Until when nothing is missing in what is said of users, Unix milliseconds: a question and a
    /// picture say the same.
    pub(crate) fn as_of(&self) -> u64 {
        let reached = self.reached();
        let doubted = self.locked(|board| board.distrusted());
        doubted.map_or(reached, |since| since.min(reached))
    }

    /// Whether an answer is stale that says what was so at this time, Unix milliseconds, whatever
    /// is believed of it. 0: this node has just joined and read no change yet; its answers are what
    /// it has looked up.
    pub(crate) fn is_old(&self, as_of: u64) -> bool {
        let age = self.unix_millis().saturating_sub(as_of);
        as_of > 0 && age > MAX_AGE.as_millis() as u64
    }

    /// Whether nothing is watched or told to other nodes, how many rooms are followed, and whether
    /// anybody watches.
    #[cfg(test)]
    pub(crate) fn left_over(&self) -> (bool, usize, bool) {
        self.locked(|board| (board.is_empty(), board.followed(), board.has_readers()))
    }

    // --- what happens ----------------------------------------------------

    /// Changes of presence. Does not wait, and calls nobody.
    pub(crate) fn heard(&self, edges: &[Edge]) {
        if !self.is_idle.load(Ordering::Relaxed) && self.locked(|board| board.hear(edges)) {
            self.work.notify_one();
        }
    }

    /// A user's socket has come into a room, or left it.
    pub(crate) fn moved(
        &self,
        (user, namespace, room): (&Arc<UserKey>, &Arc<str>, &str),
        shard: u16,
        enters: bool,
    ) {
        if self.followed.load(Ordering::Relaxed) == 0 {
            return;
        }
        let scope = Scope::room(user.tenant_id.clone(), namespace.clone(), room.into());
        let scope = Arc::new(scope);
        if self.locked(|board| board.note(&scope, shard, &user.user_id, enters)) {
            self.work.notify_one();
        }
    }

    /// A socket has left a room, and hears no more of it: what it is told of that.
    pub(crate) fn left(
        &self,
        reader: SocketAddress,
        namespace: &Arc<str>,
        room: &str,
    ) -> Option<Message> {
        if !self.has_readers.load(Ordering::Relaxed) {
            return None;
        }
        let place = RoomAddress {
            namespace: namespace.clone(),
            room: room.into(),
        };
        let scope = self.locked(|board| board.watch_of_room(&reader, &place))?;
        self.expelled(&scope, reader, ("LEFT", None))
    }

    /// A socket has ended.
    pub(crate) fn gone(&self, reader: SocketAddress) {
        if self.has_readers.load(Ordering::Relaxed) {
            self.locked(|board| board.gone(reader, self.clock.now()));
        }
    }

    /// Another node speaks of a room that is watched.
    pub(crate) fn noted(&self, message: &Message) {
        let now = self.clock.now();
        let Ok((from, note)) = serde_json::from_str::<(u32, Note)>(&message.args) else {
            return self.unread(now);
        };
        if let Some(scope) = self.locked(|board| board.noted(from, note, now)) {
            // The shards say who is there.
            drop(self.follow(&scope));
        }
        self.noted.notify_waiters();
        self.work.notify_one();
    }

    /// What another node said of rooms that are watched cannot be read: it is lost. Who answers
    /// like that is not asked all the time: what it said has a number, and shows later too.
    fn unread(&self, now: Micros) {
        self.fanout.unread.notes.fetch_add(1, Ordering::Relaxed);
        let next = now.0 + UNREAD_AGAIN.as_micros() as u64;
        let due = self
            .unread_until
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |until| {
                (now.0 >= until).then_some(next)
            });
        if due.is_ok() {
            self.missed();
        }
    }

    /// What other nodes said may be lost.
    pub(crate) fn missed(&self) {
        let now = self.clock.now();
        self.locked(|board| board.ask_again(now));
        self.work.notify_one();
    }

    /// Changes of presence are lost: everybody who is watched is asked about.
    pub(crate) fn missed_edges(&self) {
        let as_of = self.reached();
        self.locked(|board| board.distrust(as_of));
        self.work.notify_one();
    }

    /// Who is in a room, of a shard's sockets.
    pub(crate) fn seeded(&self, scope: &Arc<Scope>, shard: u16, users: Vec<Arc<str>>) {
        self.locked(|board| board.seed_here(scope, shard, users));
        self.work.notify_one();
    }

    // --- readers ---------------------------------------------------------

    /// A socket is to hear of something: what it is told first. What follows comes behind the
    /// answer that a handler gives in the same breath.
    pub(crate) async fn watch(
        &self,
        scope: Scope,
        reader: SocketAddress,
        after: Option<(&str, u64)>,
    ) -> Result<Answer, Refused> {
        let scope = Arc::new(scope);
        let now = self.clock.now();
        let is_new = self.locked(|board| board.watch(&scope, reader, now))?;
        self.work.notify_one();
        let mut waiting = Waiting {
            watches: self,
            scope: &scope,
            reader,
            is_answered: false,
        };
        if is_new {
            self.fill(&scope).await;
        }
        let at = (self.clock.now(), self.reached());
        let answer = self.locked(|board| {
            self.stand(board);
            board.answer(&scope, reader, after, at, &mut self.poster())
        });
        let answer = answer?;
        waiting.is_answered = true;
        drop(waiting);
        // It is worked off behind the answer, which is in the mailbox by then.
        let to = reader;
        let op = WatchOp::Begin { to, scope };
        self.fanout.post(reader.0.conn.shard, Op::Watch(op));
        Ok(answer)
    }

    /// A reader has been answered.
    pub(crate) fn begin(&self, scope: &Arc<Scope>, reader: SocketAddress) {
        let now = self.clock.now();
        self.locked(|board| board.begin(scope, reader, now, &mut self.poster()));
    }

    /// Ends a watch; whether there was one.
    pub(crate) fn unwatch(&self, scope: &Arc<Scope>, reader: SocketAddress) -> bool {
        self.locked(|board| board.unwatch(scope, reader, self.clock.now()))
    }

    /// Ends the watch of this epoch, or all; how many there were.
    pub(crate) fn unwatch_some(&self, reader: SocketAddress, epoch: Option<&str>) -> usize {
        let now = self.clock.now();
        self.locked(|board| {
            let scopes = match epoch {
                Some(epoch) => board.scope_of(&reader, epoch).into_iter().collect(),
                None => board.watches(&reader),
            };
            let ended = scopes.iter();
            ended
                .filter(|scope| board.unwatch(scope, reader, now))
                .count()
        })
    }

    /// What a reader is told that may not watch something any more: why, and which is the first
    /// change that it is not given, if there is one. It does not watch it from here on.
    pub(crate) fn expelled(
        &self,
        scope: &Arc<Scope>,
        reader: SocketAddress,
        (why, withheld): (&str, Option<u64>),
    ) -> Option<Message> {
        let now = self.clock.now();
        let said = self.locked(|board| {
            let said = board.last_words(scope, why, withheld);
            said.filter(|_| board.unwatch(scope, reader, now))
        })?;
        Some(Message::new("presence:change", &said))
    }

    /// Finds out what is known of a scope that nobody has watched until now.
    async fn fill(&self, scope: &Arc<Scope>) {
        if let What::Room(_) = &scope.what {
            self.fill_room(scope).await;
            if self.locked(|board| board.is_too_large(scope, self.clock.now())) {
                return;
            }
        }
        let unknown = self.locked(|board| board.unknown(scope));
        for users in unknown.chunks(ASKED) {
            let question = self.locked(|board| board.ask(scope.tenant.clone(), users.to_vec()));
            self.ask(&question).await;
        }
    }

    async fn fill_room(&self, scope: &Arc<Scope>) {
        self.locked(|board| board.follow(scope));
        for seeded in self.follow(scope) {
            // A shard that has ended has nobody.
            let _ = seeded.await;
        }
        if self.locked(|board| board.is_too_large(scope, self.clock.now())) {
            // Other nodes need not say who is there besides.
            return;
        }
        let knows_nodes = self.know_nodes().await;
        self.tell_nodes();
        if !knows_nodes {
            // It is told that somebody may be missing.
            return;
        }
        let all_said = async {
            loop {
                let noted = self.noted.notified();
                tokio::pin!(noted);
                noted.as_mut().enable();
                let now = self.clock.now();
                if self.locked(|board| board.is_too_large(scope, now) || !board.is_in_doubt(scope))
                {
                    return;
                }
                noted.await;
            }
        };
        let _ = tokio::time::timeout(ROSTERS, all_said).await;
    }

    fn follow(&self, scope: &Arc<Scope>) -> Vec<oneshot::Receiver<()>> {
        let shards = 0..self.fanout.shard_count();
        let asked = shards.map(|shard| {
            let (reply, seeded) = oneshot::channel();
            let scope = scope.clone();
            let op = WatchOp::Follow { scope, reply };
            self.fanout.post(shard, Op::Watch(op));
            seeded
        });
        asked.collect()
    }

    /// Looks whether what is known can be believed, and is still the same. False: it cannot be
    /// believed.
    fn stand(&self, board: &mut Board) -> bool {
        let standing = self.fanout.backplane.standing();
        match standing {
            Some(standing) => board.stand(standing, || self.reached()),
            None => board.suspend(self.reached()),
        }
        standing.is_some()
    }

    /// Asks the backplane. False: it knows nothing for certain.
    async fn ask(&self, question: &Question) -> bool {
        let users = question.users.iter().map(ToString::to_string).collect();
        let backplane = &self.fanout.backplane;
        let found = backplane.presence(question.tenant.clone(), users).await;
        let reached = self.reached();
        self.locked(|board| {
            board.learn(question, &found, reached);
            self.stand(board);
        });
        found.iter().any(|user| !user.stale)
    }

    // --- what is told ----------------------------------------------------

    fn poster(&self) -> impl FnMut(Post<'_>) + '_ {
        |post| {
            let mut made: Vec<(NamespaceId, Arc<Publication>)> = Vec::new();
            for &to in post.readers {
                let namespace = to.namespace();
                let known = made.iter().find(|(of, _)| *of == namespace);
                let publication = match known {
                    Some((_, publication)) => publication.clone(),
                    None => {
                        let name = self.fanout.namespaces.get(namespace).name.clone();
                        let message = Message::new("presence:change", post.change);
                        let publication = Publication::new(name, message, None, None, None);
                        let publication = Arc::new(publication);
                        made.push((namespace, publication.clone()));
                        publication
                    }
                };
                let scope = post.scope.clone();
                let op = WatchOp::Changed {
                    to,
                    scope,
                    rev: post.rev,
                    publication,
                };
                self.fanout.post(to.0.conn.shard, Op::Watch(op));
            }
        }
    }

    /// Asks which other nodes there are. False: that is not known.
    async fn know_nodes(&self) -> bool {
        let Some((nodes, age)) = self.fanout.backplane.others().await else {
            return false;
        };
        let asked = self.clock.now() - age;
        self.locked(|board| board.know_nodes(&nodes, asked));
        true
    }

    fn tell_nodes(&self) {
        let now = self.clock.now();
        for note in self.locked(|board| board.notes(now)) {
            self.tell(&note);
        }
    }

    fn tell(&self, note: &Note) {
        let Some(tag) = self.fanout.backplane.tag() else {
            return;
        };
        if let Ok(note) = to_json(&(tag, note)) {
            let message = Message::new(NOTE, &note);
            self.fanout.backplane.publish(&Target::Nodes, &message);
        }
    }

    /// Looks whether what is known can be believed. When it can again, and something of it may have
    /// been lost meanwhile, everybody who is watched is asked about first.
    async fn look(&self) {
        if !self.locked(|board| self.stand(board)) {
            return;
        }
        let now = self.clock.now();
        // What is lost while they are being asked about is a doubt of its own.
        let doubt = self.locked(|board| {
            if !board.is_in_doubt_of_all() {
                board.trust(board.doubt());
                return None;
            }
            board.ask_again(now);
            Some(board.doubt())
        });
        let Some(doubt) = doubt else {
            return;
        };
        self.know_nodes().await;
        for question in self.locked(|board| board.questions(ASKED)) {
            self.ask(&question).await;
            if !self.fanout.backplane.is_trusted() {
                return;
            }
        }
        // Of whom it did not know for certain is asked again, and only of them.
        if self.fanout.backplane.is_trusted() {
            self.locked(|board| board.trust(doubt));
        }
    }

    // --- whether it is so ------------------------------------------------

    /// For how many seconds what was said of users was wrong, and was not said to be stale, by
    /// cause.
    pub(crate) fn wrong(&self) -> Vec<(&'static str, f64)> {
        let mut wrong = audited(&self.auditor).wrong().to_vec();
        let kept = audited(&self.kept).wrong();
        wrong.push(("kept", kept.iter().map(|(_, seconds)| seconds).sum()));
        wrong
    }

    /// Asks again about those of whom the backplane did not know for certain.
    async fn ask_again(&self) {
        if self.locked(|board| board.distrusted().is_some()) {
            return;
        }
        let now = self.clock.now();
        for question in self.locked(|board| board.doubtful(ASKED, now)) {
            if !self.ask(&question).await {
                // It has to do with too much: the others wait as well.
                return;
            }
        }
    }

    /// Compares what the backplane keeps of users with what there is, if it is time.
    async fn audit_kept(&self) {
        let now = self.clock.now();
        let Some((again, some)) = audited(&self.kept).due(now) else {
            return;
        };
        let backplane = &self.fanout.backplane;
        let looked_at = backplane.kept(again, some).await;
        let confirmed = audited(&self.kept).compare(now, looked_at);
        for who in confirmed {
            // It keeps what it is told then.
            let user = vec![who.user.to_string()];
            backplane.presence(who.tenant, user).await;
        }
    }

    /// Compares what clients believe of some users with what there is, if it is time. What stays
    /// wrong is told as it is.
    async fn audit(&self) {
        let now = self.clock.now();
        let Some((again, some)) = audited(&self.auditor).due(now) else {
            return;
        };
        let mut believed = self.locked(|board| board.believed(&again, some));
        believed.sort_by(|one, other| one.who.tenant.cmp(&other.who.tenant));
        let (mut looked_at, mut answers) = (Vec::new(), Vec::new());
        for believed in believed.chunk_by(|one, other| one.who.tenant == other.who.tenant) {
            let tenant = believed[0].who.tenant.clone();
            let users = believed.iter().map(|believed| believed.who.user.clone());
            let question = self.locked(|board| board.ask(tenant.clone(), users.collect()));
            let users = question.users.iter().map(ToString::to_string).collect();
            let found = self.fanout.backplane.presence(tenant, users).await;
            looked_at.extend(believed.iter().cloned().zip(found.iter().cloned()));
            answers.push((question, found));
        }
        let confirmed = audited(&self.auditor).compare(now, looked_at);
        if confirmed.is_empty() {
            return;
        }
        let reached = self.reached();
        self.locked(|board| {
            for (question, found) in &answers {
                board.learn(question, found, reached);
            }
        });
        self.work.notify_one();
    }

    async fn turn(&self) {
        self.look().await;
        self.ask_again().await;
        while let Some(question) = self.locked(|board| board.next_question(ASKED)) {
            self.ask(&question).await;
        }
        let at = self.clock.now();
        let as_of = match self.is_idle.load(Ordering::Relaxed) {
            // Nobody is told.
            true => 0,
            false => self.reached(),
        };
        self.locked(|board| {
            board.expire(at);
            board.flush(at, as_of, &mut self.poster());
        });
        self.tell_nodes();
    }
}

/// Tells until it is aborted.
pub(crate) async fn run(watches: Arc<Watches>) {
    let mut has_begun = false;
    loop {
        let pause = match watches.is_idle.load(Ordering::Relaxed) {
            true => LOOK_SELDOM,
            false => LOOK,
        };
        let _ = tokio::time::timeout(pause, watches.work.notified()).await;
        // Notes when that is so.
        watches.note_trust();
        if !has_begun && watches.fanout.backplane.is_trusted() {
            has_begun = true;
            watches.tell(&Note::Begun);
        }
        let now = watches.clock.now();
        let is_trusted = watches.fanout.backplane.is_trusted();
        if is_trusted && watches.locked(|board| board.wants_nodes(now)) {
            watches.know_nodes().await;
        }
        watches.turn().await;
        tokio::time::sleep(WINDOW).await;
    }
}

fn audited(auditor: &Mutex<Auditor>) -> MutexGuard<'_, Auditor> {
    auditor.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Looks whether it is so, until it is aborted.
pub(crate) async fn audit(watches: Arc<Watches>) {
    loop {
        tokio::time::sleep(audit::AGAIN).await;
        if watches.has_readers.load(Ordering::Relaxed) {
            watches.audit().await;
        } else {
            audited(&watches.auditor).pause();
        }
        watches.audit_kept().await;
    }
}
