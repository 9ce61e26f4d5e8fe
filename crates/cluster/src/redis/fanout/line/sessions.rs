//! What this node writes down of its sockets, and what it takes up of others'.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use hashbrown::{HashMap, HashSet};
use heartline_core::auth::{BoxFuture, UserKey};
use heartline_core::backplane::line::{Away, Scope, Session, Unclaimed};
use heartline_core::presence::SocketAddress;
use redis::{FromRedisValue, RedisResult, Value};
use serde_json::json;
use tokio::sync::watch;
use tokio::time::Instant;

use super::ends::{End, Ends};
use super::{FIRST_PAUSE, Line, MAX_PAUSE, PATIENCE};
use crate::locked::locked;
use crate::names;
use crate::registry::tag_of_process;

/// Sessions in one call: the store does nothing else meanwhile.
const SESSIONS_PER_CALL: usize = 128;
/// And the bytes of what they have: rooms, and what apps remember.
const MAX_BYTES_PER_CALL: usize = 1 << 20;
/// How long a join waits until it is written down.
pub(super) const MAX_WAIT_FOR_WRITING: Duration = Duration::from_secs(1);
/// How often the store is told that this node is there.
const REFRESH: Duration = Duration::from_secs(10);
/// For how long, at least, it is remembered of whom this node has sessions, and when that is said
/// anew.
const ATTENDED: Duration = Duration::from_secs(24 * 3600);
const ATTENDED_ANEW: Duration = Duration::from_secs(12 * 3600);
/// After so long this node does not count on it any more.
const STILL_ATTENDED: Duration = Duration::from_secs(23 * 3600);
/// Of how many of them the store is asked at each refresh whether it still knows: of fifty
/// thousand in four minutes.
const ASKED_PER_REFRESH: usize = 2048;
/// Users who are known to be attended. When there are more, all are said anew.
const MAX_ATTENDED: usize = 1 << 20;
/// Sessions that are known to be elsewhere: more than come back at once.
const MAX_LOST: usize = 65_536;
/// Receipts in one call.
const RECEIPTS_PER_CALL: usize = 256;

/// A user whose sessions are to be ended, and a type, or `*`. Who asks hears how far the line is
/// then.
type EndOfUser = End<(String, String), u64>;
/// A session that is to be ended. Who asks hears whether there was something to end.
type EndOfSession = End<SocketAddress, bool>;

#[derive(Default)]
pub(super) struct Sessions {
    /// What is to be written, the newest of each socket.
    changed: HashMap<SocketAddress, Option<Session>>,
    order: VecDeque<SocketAddress>,
    /// Users to be attended.
    users: HashSet<String>,
    /// How often some were added to these.
    named: u64,
    attended: HashMap<String, Instant>,
    /// Users who have sockets here, though nobody else knows it yet: they are owed a gap.
    late: HashSet<String>,
    /// Users whose sessions are to be ended.
    ended: Ends<(String, String), u64>,
    /// Sessions that are.
    ending: Ends<SocketAddress, bool>,
    /// Sockets here that other nodes have named.
    foreign: HashSet<SocketAddress>,
    /// Sockets that were taken up here, each with the number of the claim.
    taken: HashMap<SocketAddress, u64>,
    /// Sockets that were taken up elsewhere, each with the number of the claim: there is no more to
    /// be written of them here.
    lost: HashMap<SocketAddress, u64>,
    /// Up to which number sockets have received what was said to them alone.
    received: HashMap<SocketAddress, u64>,
    /// How many changes there were.
    count: u64,
}

impl Sessions {
    /// Whether all ends that were asked for are known to be done.
    pub(super) fn has_ended_all(&self) -> bool {
        self.ended.is_done() && self.ending.is_done()
    }

    /// A user is let in though nobody else knows it yet.
    #[cfg(test)]
    pub(super) fn let_in_late(&mut self, user: &str) {
        self.late.insert(user.to_owned());
    }

    /// Those of some users who are owed a gap.
    fn late_of(&self, users: &[String]) -> Vec<String> {
        let late = users.iter().filter(|user| self.late.contains(*user));
        late.cloned().collect()
    }

    /// The store knows that there are sessions of these users here.
    fn note_attended(&mut self, users: &[String]) {
        if self.attended.len() + users.len() > MAX_ATTENDED {
            self.attended.clear();
        }
        let now = Instant::now();
        let users = users.iter().map(|user| (user.clone(), now));
        self.attended.extend(users);
    }

    /// The users of whom the store should still know it.
    fn still_attended(&mut self) -> Vec<String> {
        self.attended.retain(|_, at| at.elapsed() < STILL_ATTENDED);
        self.attended.keys().cloned().collect()
    }
}

/// What is to be written at once. What is written is taken out.
#[derive(Default)]
pub(super) struct Writing {
    users: Vec<String>,
    /// Users were named so often before.
    named: u64,
    ended: Vec<EndOfUser>,
    ending: Vec<EndOfSession>,
    sessions: Vec<Change>,
    receipts: Vec<(SocketAddress, u64)>,
}

impl Writing {
    fn is_empty(&self) -> bool {
        self.users.is_empty()
            && self.ended.is_empty()
            && self.ending.is_empty()
            && self.sessions.is_empty()
            && self.receipts.is_empty()
    }
}

/// What a socket has, or that it is gone for good.
type Change = (SocketAddress, Option<Session>);

/// All is done up to a number.
fn note(done: &watch::Sender<u64>, up_to: u64) {
    done.send_if_modified(|done| {
        let is_news = *done < up_to;
        *done = up_to.max(*done);
        is_news
    });
}

impl Line {
    /// Writes down what a socket has.
    pub(in super::super) fn remember(&self, name: SocketAddress, session: Option<Session>) {
        let mut sessions = locked(&self.sessions);
        if name.0.tag() != self.tag {
            match &session {
                Some(session) if !session.is_lost => sessions.foreign.insert(name),
                _ => sessions.foreign.remove(&name),
            };
        }
        if sessions.lost.contains_key(&name) {
            if session.is_none() {
                sessions.lost.remove(&name);
            }
            return;
        }
        if session.is_none() {
            sessions.taken.remove(&name);
        }
        sessions.count += 1;
        if sessions.changed.insert(name, session).is_none() {
            sessions.order.push_back(name);
        }
        drop(sessions);
        self.change.notify_one();
    }

    /// A socket has received what was said to it alone, up to a number.
    pub(in super::super) fn received(&self, name: SocketAddress, id: u64) {
        let mut sessions = locked(&self.sessions);
        let is_news = sessions.received.is_empty();
        sessions.received.insert(name, id);
        drop(sessions);
        if is_news {
            self.change.notify_one();
        }
    }

    /// This node has sessions of a user.
    pub(in super::super) fn attend(self: &Arc<Self>, user: &UserKey) -> Option<BoxFuture<()>> {
        let name = names::user_name(user.tenant_id.as_deref(), &user.user_id).to_string();
        let mut sessions = locked(&self.sessions);
        let known = sessions.attended.get(&name);
        if known.is_some_and(|at| at.elapsed() < ATTENDED_ANEW) {
            return None;
        }
        // Only said anew: it is known all the while.
        let is_known = known.is_some();
        sessions.count += 1;
        sessions.named += 1;
        sessions.users.insert(name.clone());
        drop(sessions);
        self.change.notify_one();
        let (line, soon) = (self.clone(), self.remembered());
        Some(Box::pin(async move {
            soon.await;
            let mut sessions = locked(&line.sessions);
            if !is_known && !sessions.attended.contains_key(&name) {
                sessions.late.insert(name);
            }
        }))
    }

    /// What users have begun so far is nobody's any more. Resolves when that is known in the store,
    /// and this node has heard up to where: what begins here after that is behind it.
    pub(in super::super) fn end_all(
        self: &Arc<Self>,
        user: String,
        kind: String,
    ) -> BoxFuture<Result<(), Away>> {
        let Some(answer) = locked(&self.sessions).ended.ask((user, kind)) else {
            return Box::pin(std::future::ready(Err(Away)));
        };
        self.change.notify_one();
        let line = self.clone();
        Box::pin(async move {
            let done = tokio::time::timeout(MAX_WAIT_FOR_WRITING, answer).await;
            let last = done.map_err(|_| Away)?.map_err(|_| Away)?;
            let mut heard = line.heard.subscribe();
            let heard = heard.wait_for(|heard| *heard >= last);
            // If that is late, less is theirs than could be.
            let _ = tokio::time::timeout(MAX_WAIT_FOR_WRITING, heard).await;
            Ok(())
        })
    }

    /// It may be forgotten whose sessions this node has.
    pub(super) fn name_users_anew(&self) {
        let mut sessions = locked(&self.sessions);
        let users = std::mem::take(&mut sessions.attended).into_keys();
        sessions.users.extend(users);
        sessions.count += 1;
        sessions.named += 1;
        drop(sessions);
        self.change.notify_one();
    }

    /// Resolves when this node hears what is said to the users whose sessions it has now.
    pub(in super::super) async fn all_attended(&self) {
        let named = locked(&self.sessions).named;
        let mut attended = self.attended.subscribe();
        // The sender lives as long as this does.
        let _ = attended.wait_for(|attended| *attended >= named).await;
    }

    /// Resolves when all that was to be written is, or will not be for now.
    pub(in super::super) fn remembered(&self) -> BoxFuture<()> {
        let count = locked(&self.sessions).count;
        let mut written = self.written.subscribe();
        Box::pin(async move {
            let all = written.wait_for(|written| *written >= count);
            let _ = tokio::time::timeout(MAX_WAIT_FOR_WRITING, all).await;
        })
    }

    pub(super) async fn write_all(&self) {
        let mut pause = FIRST_PAUSE;
        loop {
            let (count, mut writing) = self.next_writing();
            if writing.is_empty() {
                note(&self.written, count);
                note(&self.attended, writing.named);
                self.change.notified().await;
                continue;
            }
            match self.write(&mut writing).await {
                Ok(()) => {
                    pause = FIRST_PAUSE;
                    note(&self.written, count);
                }
                Err(error) => {
                    self.complain(&error, "sessions are not written down");
                    self.write_again(writing);
                    tokio::time::sleep(pause).await;
                    pause = (pause * 2).min(MAX_PAUSE);
                }
            }
        }
    }

    /// What is to be written, and which change is the last before which all is, then.
    pub(super) fn next_writing(&self) -> (u64, Writing) {
        let mut sessions = locked(&self.sessions);
        let users = std::mem::take(&mut sessions.users).into_iter().collect();
        // So many of each that what sockets have does not wait for all of them.
        let ended = sessions.ended.take(SESSIONS_PER_CALL);
        let ending = sessions.ending.take(SESSIONS_PER_CALL);
        let receipts = sessions.received.iter().take(RECEIPTS_PER_CALL);
        let receipts: Vec<_> = receipts.map(|(name, id)| (*name, *id)).collect();
        for (name, _) in &receipts {
            sessions.received.remove(name);
        }
        let (mut batch, mut bytes) = (Vec::new(), 0);
        while batch.len() < SESSIONS_PER_CALL
            && bytes < MAX_BYTES_PER_CALL
            && let Some(name) = sessions.order.pop_front()
        {
            if let Some(session) = sessions.changed.remove(&name) {
                bytes += session.as_ref().map_or(0, |session| session.record.len());
                batch.push((name, session));
            }
        }
        let writing = Writing {
            users,
            named: sessions.named,
            ended,
            ending,
            sessions: batch,
            receipts,
        };
        let is_all = sessions.order.is_empty();
        (if is_all { sessions.count } else { 0 }, writing)
    }

    /// Writes all of it, or what comes first: no session before it is known whose it is.
    pub(super) async fn write(&self, writing: &mut Writing) -> RedisResult<()> {
        self.write_ends_of_users(&mut writing.ended).await?;
        self.write_ends(&mut writing.ending).await?;
        while !writing.users.is_empty() {
            let rest = writing.users.len().saturating_sub(SESSIONS_PER_CALL);
            self.write_users(&writing.users[rest..]).await?;
            writing.users.truncate(rest);
        }
        note(&self.attended, writing.named);
        if !writing.receipts.is_empty() {
            let mut command = self.call("receive", json!({}));
            for (name, id) in &writing.receipts {
                command.arg(&name.0.to_bytes()[..]).arg(*id);
            }
            self.ask::<Value>(&command).await?;
            writing.receipts.clear();
        }
        if !writing.sessions.is_empty() {
            self.write_sessions(&writing.sessions).await?;
            writing.sessions.clear();
        }
        Ok(())
    }

    /// Numbered, as an answer may be lost: what they have begun since they were ended is theirs.
    async fn write_ends_of_users(&self, ends: &mut Vec<EndOfUser>) -> RedisResult<()> {
        if ends.is_empty() {
            return Ok(());
        }
        let named = ends.iter_mut().map(|end| {
            end.is_again = true;
            let (user, kind) = &end.what;
            json!([end.number, user, kind])
        });
        let users: Vec<_> = named.collect();
        let arguments = json!({ "users": users, "ttl": self.user_ttl() });
        let call = self.call("end_all", arguments);
        let (epoch, begin, last): (String, String, String) = self.ask(&call).await?;
        let last = self.note_reached(&epoch, &begin, &last).last;
        ends.drain(..).for_each(|end| end.tell(last));
        Ok(())
    }

    /// Whoever asked hears whether there was something to end; one that is said again may have
    /// ended it itself.
    async fn write_ends(&self, ends: &mut Vec<EndOfSession>) -> RedisResult<()> {
        if ends.is_empty() {
            return Ok(());
        }
        let mut command = self.call("end", json!({}));
        for end in &*ends {
            command
                .arg(end.what.0.tag())
                .arg(&end.what.0.to_bytes()[..]);
        }
        let were_again: Vec<bool> = ends
            .iter_mut()
            .map(|end| std::mem::replace(&mut end.is_again, true))
            .collect();
        let found: Vec<u64> = self.ask(&command).await?;
        for ((end, was_again), found) in ends.drain(..).zip(were_again).zip(found) {
            end.tell(found == 1 || (was_again && found == 2));
        }
        Ok(())
    }

    async fn write_sessions(&self, batch: &[Change]) -> RedisResult<()> {
        let mut command = self.call("remember", json!({ "ttl": self.ttl() }));
        {
            let sessions = locked(&self.sessions);
            for (name, session) in batch {
                command.arg(name.0.tag()).arg(&name.0.to_bytes()[..]);
                match session {
                    Some(session) => {
                        command.arg(if session.is_lost { "1" } else { "0" });
                        command.arg(&session.owner).arg(&session.record);
                    }
                    None => {
                        command.arg("-").arg("").arg("");
                    }
                }
                command.arg(sessions.taken.get(name).copied().unwrap_or_default());
            }
        }
        self.ask::<Value>(&command).await.map(drop)
    }

    /// Some users, [`SESSIONS_PER_CALL`] at most, are known to be attended, and who is owed a gap
    /// has it.
    async fn write_users(&self, users: &[String]) -> RedisResult<()> {
        let late = loop {
            let line = locked(&self.known).line;
            let late = locked(&self.sessions).late_of(users);
            self.tell_attended(users, &late).await?;
            let mut sessions = locked(&self.sessions);
            for user in &late {
                sessions.late.remove(user);
            }
            // Otherwise it may have been said in the line before, and those who are known to be
            // attended are named anew already.
            if locked(&self.known).line == line {
                // From here on nobody comes to be late: what is said to them comes.
                sessions.note_attended(users);
                break sessions.late_of(users);
            }
        };
        if !late.is_empty() {
            self.tell_attended(&late, &late).await?;
            let mut sessions = locked(&self.sessions);
            for user in &late {
                sessions.late.remove(user);
            }
        }
        Ok(())
    }

    /// Tells the store that there are sessions of these users here, [`SESSIONS_PER_CALL`] at most.
    /// What was said to some of them has not come: in the same step, all nodes are told of a gap
    /// in it.
    async fn tell_attended(&self, users: &[String], missed: &[String]) -> RedisResult<()> {
        let namespaces = self.node().map(|node| node.namespaces());
        let namespaces = namespaces.unwrap_or_default();
        let arguments = json!({ "users": users, "ttl": self.user_ttl() });
        let mut command = self.call("attend", arguments);
        let mut says = false;
        for name in missed {
            let Some((tenant, user)) = names::tenant_and_user(name) else {
                continue;
            };
            for namespace in &namespaces {
                let scope = Scope::User {
                    namespace: namespace.clone(),
                    tenant: tenant.clone(),
                    user: user.into(),
                };
                let body = self.gap_in(&scope);
                command.arg(self.name(&scope)).arg(name).arg(body);
                says = true;
            }
        }
        let (epoch, begin, last): (String, String, String) = self.ask(&command).await?;
        let reached = self.note_reached(&epoch, &begin, &last);
        if says {
            self.note_said(reached);
        }
        Ok(())
    }

    /// Finds users of whom the store has forgotten that they have sessions here: their key was
    /// evicted, and what was said to them since has come to nobody. They are owed a gap.
    /// `rest` is who is to be looked at in this round, `forgotten` who was found and has none yet.
    pub(super) async fn look_for_forgotten(
        &self,
        rest: &mut Vec<String>,
        forgotten: &mut Vec<String>,
    ) -> RedisResult<()> {
        if forgotten.is_empty() {
            if rest.is_empty() {
                *rest = locked(&self.sessions).still_attended();
            }
            let some = rest.split_off(rest.len().saturating_sub(ASKED_PER_REFRESH));
            for users in some.chunks(SESSIONS_PER_CALL) {
                let command = self.call("forgotten", json!({ "users": users }));
                forgotten.extend(self.ask::<Vec<String>>(&command).await?);
            }
        }
        while !forgotten.is_empty() {
            let rest = forgotten.len().saturating_sub(SESSIONS_PER_CALL);
            self.tell_attended(&forgotten[rest..], &forgotten[rest..])
                .await?;
            forgotten.truncate(rest);
        }
        Ok(())
    }

    /// These are not known to be written.
    pub(super) fn write_again(&self, writing: Writing) {
        let mut sessions = locked(&self.sessions);
        sessions.users.extend(writing.users);
        sessions.ended.give_back(writing.ended);
        sessions.ending.give_back(writing.ending);
        for (name, id) in writing.receipts {
            let known = sessions.received.entry(name).or_default();
            *known = id.max(*known);
        }
        for (name, session) in writing.sessions {
            // What is newer stays.
            if !sessions.changed.contains_key(&name) {
                sessions.changed.insert(name, session);
                sessions.order.push_back(name);
            }
        }
    }

    /// For how long what this node has written stays there without it, milliseconds.
    pub(super) fn ttl(&self) -> u64 {
        (2 * self.settings.window + 6 * REFRESH).as_millis() as u64
    }

    /// For how long it is known of users whose sessions there are, and that some were ended, with
    /// nothing said anew, milliseconds: for no shorter time than these may be taken up.
    fn user_ttl(&self) -> u64 {
        self.ttl().max(ATTENDED.as_millis() as u64)
    }

    pub(super) async fn refresh_all(&self) {
        let mut cursors: HashMap<u32, String> = HashMap::new();
        let (mut rest, mut forgotten) = (Vec::new(), Vec::new());
        loop {
            let mut tags: Vec<u32> = {
                let sessions = locked(&self.sessions);
                let foreign = sessions.foreign.iter().map(|name| name.0.tag());
                foreign.chain([self.tag]).collect()
            };
            tags.sort_unstable();
            tags.dedup();
            cursors.retain(|tag, _| tags.contains(tag));
            let at: Vec<String> = tags
                .iter()
                .map(|tag| cursors.get(tag).cloned().unwrap_or_else(|| "0".into()))
                .collect();
            let names: Vec<String> = tags.iter().map(u32::to_string).collect();
            let arguments = json!({ "tags": names, "ttl": self.ttl(), "cursors": at });
            match self
                .ask::<Vec<String>>(&self.call("refresh", arguments))
                .await
            {
                Ok(next) => cursors = tags.into_iter().zip(next).collect(),
                Err(error) => self.complain(&error, "sessions are not kept alive"),
            }
            if let Err(error) = self.look_for_forgotten(&mut rest, &mut forgotten).await {
                self.complain(&error, "whether users are heard of is not known");
            }
            tokio::time::sleep(REFRESH).await;
        }
    }

    /// The node that has a socket of this name.
    pub(in super::super) async fn holder(&self, name: SocketAddress) -> Result<Option<u32>, Away> {
        let arguments = json!({ "tag": name.0.tag().to_string() });
        let mut command = self.call("holder", arguments);
        command.arg(&name.0.to_bytes()[..]);
        let process: String = self.ask(&command).await.map_err(|_| Away)?;
        Ok(tag_of_process(&process))
    }

    /// Takes a session up.
    pub(in super::super) async fn claim(
        &self,
        name: SocketAddress,
        owner: &str,
        user: Option<&UserKey>,
        begin: u64,
    ) -> Result<Session, Unclaimed> {
        let window = self.settings.window.as_millis() as u64;
        let tag = name.0.tag().to_string();
        let mut arguments = json!({ "tag": tag, "user": owner, "window": window, "begin": begin });
        let user = user.map(names::typed_user);
        let kind = user.as_ref().map(|user| user.kind.clone());
        let user = user.map(|user| user.user);
        if let (Some(user), Some(kind)) = (&user, kind) {
            arguments["attended"] = json!(&**user);
            arguments["kind"] = json!(&*kind);
            arguments["ttl"] = json!(self.user_ttl());
        }
        let mut command = self.call("claim", arguments);
        command.arg(&name.0.to_bytes()[..]);
        let answer = self.ask::<Vec<Value>>(&command).await;
        let answer = answer.map_err(|error| {
            self.complain(&error, "sessions cannot be taken up");
            Unclaimed::Unreachable
        })?;
        let text = |index: usize| -> String {
            let value = answer.get(index).cloned();
            value
                .and_then(|value| String::from_redis_value(value).ok())
                .unwrap_or_default()
        };
        match &*text(0) {
            "taken" => {
                let line = self.note_reached(&text(2), &text(3), &text(4)).line;
                let claim = text(5).parse().unwrap_or(0);
                let mut sessions = locked(&self.sessions);
                // Unless all are named anew already.
                if let Some(user) = user
                    && locked(&self.known).line == Some(line)
                {
                    sessions.note_attended(&[user.to_string()]);
                }
                // What others do may be heard before the answer to what was done before.
                if sessions.lost.get(&name).is_some_and(|other| *other > claim) {
                    return Err(Unclaimed::Unknown);
                }
                sessions.lost.remove(&name);
                sessions.taken.insert(name, claim);
                drop(sessions);
                let record = answer.get(1).cloned();
                let record = record.and_then(|value| Vec::from_redis_value(value).ok());
                Ok(Session {
                    owner: owner.to_owned(),
                    is_lost: false,
                    was_here: text(6) == *self.process,
                    record: record.ok_or(Unclaimed::Unknown)?,
                })
            }
            "foreign" => Err(Unclaimed::Foreign),
            _ => {
                // Whatever this node has of it.
                locked(&self.sessions).taken.remove(&name);
                Err(Unclaimed::Unknown)
            }
        }
    }

    /// What a socket has is nobody's from here on.
    pub(in super::super) fn end(&self, name: SocketAddress) -> BoxFuture<Result<bool, Away>> {
        let Some(answer) = locked(&self.sessions).ending.ask(name) else {
            return Box::pin(std::future::ready(Err(Away)));
        };
        self.change.notify_one();
        Box::pin(async move {
            let answer = tokio::time::timeout(PATIENCE, answer).await;
            answer.map_err(|_| Away)?.map_err(|_| Away)
        })
    }

    /// Whether this node has taken a session up, and no other one has since.
    pub(in super::super) fn has_claimed(&self, name: SocketAddress) -> bool {
        locked(&self.sessions).taken.contains_key(&name)
    }

    /// Whether this node has a session no more that another one has taken up.
    pub(in super::super) fn has_lost(&self, name: SocketAddress, claim: u64) -> bool {
        let mut sessions = locked(&self.sessions);
        let is_later = sessions.taken.get(&name).is_none_or(|mine| *mine < claim);
        if is_later {
            sessions.taken.remove(&name);
            sessions.foreign.remove(&name);
            sessions.changed.remove(&name);
            if sessions.lost.len() >= MAX_LOST {
                sessions.lost.clear();
            }
            sessions.lost.insert(name, claim);
        }
        is_later
    }
}

#[cfg(test)]
mod tests {
    use heartline_wire::id::Sid;

    use super::super::super::super::{Commands, Server};
    use super::super::LineSettings;
    use super::*;

    #[tokio::test]
    async fn what_apps_remember_of_many_sockets_is_written_a_megabyte_at_a_time() {
        let settings = LineSettings {
            window: Duration::from_secs(60),
            age: Duration::from_secs(90),
            events: 256,
            bytes: 256 << 10,
            refuse: false,
            patience: Duration::from_secs(10),
        };
        // Nothing is asked of it.
        let server = Arc::new(Server::parse("redis://127.0.0.1:1").unwrap());
        let own = (Arc::from("n.1"), 1);
        let commands = (Commands::new(server), false);
        let line = Line::new(settings, "{p}", own, commands, Arc::default());
        let most = 25 << 10;
        for number in 0..200 {
            let session = Session {
                owner: String::new(),
                is_lost: false,
                was_here: true,
                record: vec![b'1'; most],
            };
            line.remember(SocketAddress(Sid::from_bytes([number; 24])), Some(session));
        }
        let (mut written, mut is_all) = (0, 0);
        loop {
            let (count, writing) = line.next_writing();
            if writing.is_empty() {
                break;
            }
            let bytes = most * writing.sessions.len();
            assert!(bytes < MAX_BYTES_PER_CALL + most, "{bytes} at once");
            (written, is_all) = (written + writing.sessions.len(), count);
        }
        assert_eq!((written, is_all), (200, 200));
    }
}
