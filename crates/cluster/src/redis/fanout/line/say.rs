//! What this node says.
//!
//! One batch is on its way at a time, under a number: a batch whose answer got lost is sent
//! again, and done once. What cannot be said for too long is delivered here alone, and a gap
//! is said in its stead as soon as the store is back.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use hashbrown::HashSet;
use heartline_core::auth::BoxFuture;
use heartline_core::backplane::line::{Changes, ChangesPart, Scope};
use heartline_core::backplane::{Message, Target};
use heartline_core::presence::SocketAddress;
use serde_json::json;
use tokio::sync::oneshot;
use tokio::time::Instant;

use super::super::send::{MAX_QUEUED, MAX_QUEUED_BYTES, MAX_WAIT};
use super::{FIRST_PAUSE, Line, LineSettings, MAX_PAUSE, PATIENCE, target_of};
use crate::envelope::{self, Body, Origin};
use crate::kept;
use crate::locked::locked;
use crate::names;

/// Events in one call: the store does nothing else meanwhile.
const MAX_PER_CALL: usize = 64;
/// And their bytes.
const MAX_BYTES_PER_CALL: usize = 1 << 20;
/// The same of one that is asked for again, because there was none.
const SECOND_PATIENCE: Duration = Duration::from_millis(500);
/// Scopes that are owed a gap; when there are more, everybody's sessions end.
const MAX_OWED: usize = 4096;
/// Own events that were delivered here alone, and may yet come back.
const MAX_ALONE: usize = 65_536;
/// Own events to sockets of which it is known that they have not come back; older ones among
/// more have been lost on purpose.
const MAX_UNHEARD: usize = 65_536;

/// An event on its way.
struct Saying {
    scope: Scope,
    /// The key, or the name of the user.
    key: Vec<u8>,
    flags: u8,
    body: Vec<u8>,
    at: Instant,
    number: u64,
    /// What is delivered here, should it not get into the line.
    said: Option<Said>,
    reply: Option<oneshot::Sender<u64>>,
}

/// An event, owned.
struct Said {
    target: OwnedTarget,
    message: Message,
    /// Who is left out, or the one whom it is for.
    named: Option<SocketAddress>,
}

/// A target that outlives its publisher, as an envelope.
struct OwnedTarget(Vec<u8>);

#[derive(Default)]
pub(super) struct Queue {
    waiting: VecDeque<Saying>,
    bytes: usize,
    number: u64,
    /// The number of the last event; gaps have some too.
    last_said: u64,
    /// Some of it is on its way.
    is_busy: bool,
    /// Whose events were given up; and whether there were more of them.
    owed: HashSet<Scope>,
    pub(super) owes_all: bool,
    /// Own events to sockets, by their numbers, that have not come back yet.
    unheard: BTreeMap<u64, Scope>,
}

impl Queue {
    /// The number of the last event that was put here.
    pub(super) fn last_said(&self) -> u64 {
        self.last_said
    }
}

fn scope_of(target: &Target<'_>) -> Option<Scope> {
    Some(match *target {
        Target::Room {
            namespace,
            tenant,
            room,
            ..
        } => Scope::Room {
            namespace: namespace.into(),
            tenant: tenant.map(Into::into),
            room: room.into(),
        },
        Target::User {
            namespace,
            tenant,
            user,
            ..
        } => Scope::User {
            namespace: namespace.into(),
            tenant: tenant.map(Into::into),
            user: user.into(),
        },
        Target::All { namespace, tenant }
        | Target::Rooms {
            namespace, tenant, ..
        } => Scope::All {
            namespace: namespace.into(),
            tenant: tenant.map(Into::into),
        },
        Target::Users { .. } | Target::Nodes => return None,
    })
}

/// What the script looks a scope's people up by: a user's name, a socket's bytes.
fn key_of(scope: &Scope) -> Vec<u8> {
    match scope {
        Scope::User { tenant, user, .. } => names::user_name(tenant.as_deref(), user)
            .as_bytes()
            .to_vec(),
        Scope::Socket { name, .. } => name.0.to_bytes().to_vec(),
        Scope::Room { .. } | Scope::All { .. } => Vec::new(),
    }
}

impl Line {
    /// Puts an event in line.
    pub(in super::super) fn say(
        &self,
        target: &Target<'_>,
        message: &Message,
        skip: Option<SocketAddress>,
    ) -> BoxFuture<Option<u64>> {
        let Some(scope) = scope_of(target) else {
            return Box::pin(std::future::ready(None));
        };
        let key = match target {
            Target::Room { key: Some(key), .. } => key.as_bytes().to_vec(),
            _ => key_of(&scope),
        };
        let flags = match target {
            Target::Room { key: Some(_), .. } if &*message.args == "null" => kept::REMOVES,
            Target::Room { key: Some(_), .. } => kept::KEYED,
            _ => 0,
        };
        let answer = self.put_in_line((scope, key, flags), target, message, skip);
        Box::pin(async move { answer.await.ok() })
    }

    /// Puts an event to a socket in line.
    pub(in super::super) fn say_to(
        &self,
        namespace: &Arc<str>,
        name: SocketAddress,
        message: &Message,
    ) {
        let scope = Scope::Socket {
            namespace: namespace.clone(),
            name,
        };
        let key = key_of(&scope);
        let target = Target::All {
            namespace,
            tenant: None,
        };
        let said = (scope, key, kept::DIRECT);
        drop(self.put_in_line(said, &target, message, Some(name)));
    }

    fn put_in_line(
        &self,
        (scope, key, flags): (Scope, Vec<u8>, u8),
        target: &Target<'_>,
        message: &Message,
        named: Option<SocketAddress>,
    ) -> oneshot::Receiver<u64> {
        let (reply, answer) = oneshot::channel();
        let mut queue = locked(&self.queue);
        queue.number += 1;
        queue.last_said = queue.number;
        let origin = Origin {
            tag: self.tag,
            number: queue.number,
            after: 0,
        };
        let body = kept::body(flags, named, origin, target, message, &self.seal);
        let said = Said {
            target: OwnedTarget(envelope::encode(origin, target, &Message::default())),
            message: message.clone(),
            named,
        };
        let number = queue.number;
        if flags == kept::DIRECT {
            while queue.unheard.len() >= MAX_UNHEARD {
                queue.unheard.pop_first();
            }
            queue.unheard.insert(number, scope.clone());
        }
        queue.bytes += body.len();
        queue.waiting.push_back(Saying {
            scope,
            key,
            flags,
            body,
            at: Instant::now(),
            number,
            said: Some(said),
            reply: Some(reply),
        });
        let is_full = queue.waiting.len() > MAX_QUEUED || queue.bytes > MAX_QUEUED_BYTES;
        let oldest = is_full.then(|| queue.waiting.pop_front()).flatten();
        if let Some(oldest) = &oldest {
            queue.bytes -= oldest.body.len();
        }
        drop(queue);
        if let Some(oldest) = oldest {
            self.give_up(oldest);
        }
        self.work.notify_one();
        answer
    }

    /// An own event to a socket has come back.
    pub(in super::super) fn came_back(&self, number: u64) {
        locked(&self.queue).unheard.remove(&number);
    }

    /// The sockets to which something was said that has not come back.
    pub(in super::super) fn unheard(&self) -> HashSet<Scope> {
        locked(&self.queue).unheard.values().cloned().collect()
    }

    /// Whether an own event that comes back has been delivered here already.
    pub(in super::super) fn was_told_alone(&self, origin: Origin) -> bool {
        origin.tag == self.tag && locked(&self.alone).contains(&origin.number)
    }

    /// An event could not be said in time.
    fn give_up(&self, saying: Saying) {
        self.counters.undelivered.fetch_add(1, Ordering::Relaxed);
        let is_waited_for = |reply: &oneshot::Sender<u64>| !reply.is_closed();
        if self.settings.refuse && saying.reply.as_ref().is_some_and(is_waited_for) {
            // Who has said it hears that it was not. Should it be in the line after all, all
            // nodes have it. Nobody can be refused what they do not wait for.
            return;
        }
        {
            let mut alone = locked(&self.alone);
            if alone.len() >= MAX_ALONE {
                alone.clear();
            }
            alone.insert(saying.number);
        }
        self.owe(saying.scope);
        self.came_back(saying.number);
        if let Some(Said {
            target,
            message,
            named,
        }) = saying.said
            && let Some((_, Body::Said(said))) = envelope::read(&target.0)
            && let Some(node) = self.node()
        {
            match named.filter(|_| saying.flags == kept::DIRECT) {
                Some(to) => node.deliver_alone_to(to, message),
                None => node.deliver_alone(&said.target(), message, named),
            }
        }
    }

    /// What comes first in line.
    fn next_batch(&self, batch: &mut Vec<Saying>) {
        let mut queue = locked(&self.queue);
        let mut bytes = 0;
        while batch.len() < MAX_PER_CALL
            && bytes < MAX_BYTES_PER_CALL
            && let Some(saying) = queue.waiting.pop_front()
        {
            bytes += saying.body.len();
            queue.bytes -= saying.body.len();
            batch.push(saying);
        }
        queue.is_busy = !batch.is_empty();
    }

    /// An event was given up that others may not hear of: a gap is to be said in its place.
    pub(super) fn owe(&self, scope: Scope) {
        let mut queue = locked(&self.queue);
        match queue.owed.len() < MAX_OWED {
            true => drop(queue.owed.insert(scope)),
            false => queue.owes_all |= !queue.owed.contains(&scope),
        }
    }

    /// A gap in a scope, as it is said.
    pub(super) fn gap_in(&self, scope: &Scope) -> Vec<u8> {
        self.gap(&mut locked(&self.queue), scope)
    }

    fn gap(&self, queue: &mut Queue, scope: &Scope) -> Vec<u8> {
        queue.number += 1;
        let origin = Origin {
            tag: self.tag,
            number: queue.number,
            after: 0,
        };
        let (flags, named) = match scope {
            Scope::Socket { name, .. } => (kept::GAP | kept::DIRECT, Some(*name)),
            _ => (kept::GAP, None),
        };
        let (target, none) = (target_of(scope), Message::default());
        kept::body(flags, named, origin, &target, &none, &self.seal)
    }

    /// Gaps that stand for what was given up.
    fn owed(&self) -> Vec<Saying> {
        let mut queue = locked(&self.queue);
        let owed: Vec<Scope> = queue.owed.iter().take(MAX_PER_CALL).cloned().collect();
        let mut gaps = Vec::new();
        for scope in owed {
            queue.owed.remove(&scope);
            let body = self.gap(&mut queue, &scope);
            gaps.push(Saying {
                key: key_of(&scope),
                flags: kept::GAP,
                body,
                at: Instant::now(),
                number: queue.number,
                said: None,
                reply: None,
                scope,
            });
        }
        queue.is_busy = !gaps.is_empty();
        gaps
    }

    pub(super) async fn say_all(&self) {
        let mut number = 0;
        loop {
            if let Err(error) = self.prove().await {
                self.complain(&error, "nobody knows what is lost of what was published");
                tokio::time::sleep(MAX_PAUSE).await;
            }
            if locked(&self.queue).owes_all {
                self.end_line().await;
            }
            // What is missing comes first: it is older than what waits.
            let mut batch = self.owed();
            if batch.is_empty() {
                self.next_batch(&mut batch);
            }
            if batch.is_empty() {
                // What could not be found out, or said, is tried again.
                let is_done = locked(&self.known).open.is_empty() && !locked(&self.queue).owes_all;
                if is_done {
                    self.work.notified().await;
                }
                continue;
            }
            number += 1;
            // Gaps are nobody's words.
            let said = batch.iter().rfind(|saying| saying.said.is_some());
            let last = said.map_or(0, |saying| saying.number);
            let is_in_line = self.say_batch(&mut batch, number).await;
            self.back.settle(last, is_in_line);
        }
    }

    /// Nobody can be told of all that is missing: another line begins.
    pub(super) async fn end_line(&self) {
        {
            let mut queue = locked(&self.queue);
            // What comes to be owed from here on may be behind the end of the line.
            queue.owes_all = false;
            queue.is_busy = true;
        }
        type Answer = (String, String, String);
        match self.ask::<Answer>(&self.call("end_line", json!({}))).await {
            // That it has ended may be lost as well.
            Ok((epoch, begin, last)) => self.note_said(self.note_reached(&epoch, &begin, &last)),
            Err(error) => {
                locked(&self.queue).owes_all = true;
                self.complain(&error, "that publications are missing is not in the line");
                tokio::time::sleep(MAX_PAUSE).await;
            }
        }
    }

    /// Whether nothing waits, is on its way, or is owed.
    pub(super) fn has_said_all(&self) -> bool {
        let queue = locked(&self.queue);
        let is_proved = locked(&self.known).open.is_empty();
        let owes = !queue.owed.is_empty() || queue.owes_all;
        is_proved && !owes && !queue.is_busy && queue.waiting.is_empty()
    }

    /// Says a batch, again and again until it is said or too old. False: it was given up.
    async fn say_batch(&self, batch: &mut Vec<Saying>, number: u64) -> bool {
        let LineSettings { events, bytes, .. } = self.settings;
        let mut pause = FIRST_PAUSE;
        for attempt in 0u32.. {
            let mut command = self.call(
                "say",
                json!({
                    "number": number, "events": events, "bytes": bytes,
                }),
            );
            for saying in &*batch {
                command.arg(self.name(&saying.scope));
                command.arg(self.channel(&saying.scope));
                command.arg(saying.flags).arg(&saying.key).arg(&saying.body);
            }
            type Answer = (String, String, String, Vec<u64>);
            let time = if attempt == 0 {
                PATIENCE
            } else {
                SECOND_PATIENCE
            };
            match self.ask_for::<Answer>(time, &command).await {
                Ok((epoch, begin, last, offsets)) => {
                    self.note_said(self.note_reached(&epoch, &begin, &last));
                    let count = batch.len() as u64;
                    self.counters.sent.fetch_add(count, Ordering::Relaxed);
                    // Those at the front were given up since it was sent first.
                    let given_up = offsets.len().saturating_sub(batch.len());
                    let mut offsets = offsets.into_iter().skip(given_up);
                    for saying in batch.drain(..) {
                        if let (Some(reply), Some(offset)) = (saying.reply, offsets.next()) {
                            let _ = reply.send(offset);
                        }
                    }
                    return true;
                }
                Err(error) => {
                    self.complain(&error, "kept publications are not in the line");
                    // It may have been this process that stood still: it asks again before it takes
                    // the store for away. All of it with the oldest: what is younger would come
                    // before its gap.
                    let is_old = |saying: &Saying| attempt > 0 && saying.at.elapsed() >= MAX_WAIT;
                    let old = batch.iter().any(is_old).then(|| std::mem::take(batch));
                    for old in old.into_iter().flatten() {
                        match old.said.is_some() {
                            true => self.give_up(old),
                            false => self.owe(old.scope),
                        }
                    }
                    if attempt > 0 {
                        self.drop_old_waiting();
                    }
                    tokio::time::sleep(pause).await;
                    pause = (pause * 2).min(MAX_PAUSE);
                    if batch.is_empty() {
                        return false;
                    }
                }
            }
        }
        false
    }

    fn drop_old_waiting(&self) {
        loop {
            let mut queue = locked(&self.queue);
            let is_old = |saying: &Saying| saying.at.elapsed() >= MAX_WAIT;
            if !queue.waiting.front().is_some_and(is_old) {
                return;
            }
            let Some(old) = queue.waiting.pop_front() else {
                return;
            };
            queue.bytes -= old.body.len();
            drop(queue);
            let number = old.number;
            self.give_up(old);
            // What was on its way is older, and was given up before.
            self.back.settle(number, false);
        }
    }

    /// Has changes of presence in the line; false: nobody knows.
    pub(in super::super) async fn say_changes(&self, changes: Changes) -> bool {
        let LineSettings { events, bytes, .. } = self.settings;
        let Changes { after, to, parts } = changes;
        let arguments = json!({ "after": after, "to": to, "events": events, "bytes": bytes });
        let mut command = self.call("changes", arguments);
        for part in parts {
            let ChangesPart {
                namespace,
                tenant,
                count,
                message,
            } = part;
            let scope = Scope::All { namespace, tenant };
            let origin = Origin {
                tag: self.tag,
                ..Origin::default()
            };
            let target = target_of(&scope);
            let body = kept::body(kept::CHANGES, None, origin, &target, &message, &self.seal);
            command.arg(self.name(&scope)).arg(self.channel(&scope));
            command.arg(count).arg(body);
        }
        match self.ask::<(String, String, String)>(&command).await {
            Ok((epoch, begin, last)) => {
                self.note_said(self.note_reached(&epoch, &begin, &last));
                self.work.notify_one();
                true
            }
            Err(error) => {
                self.complain(&error, "changes of presence are not in the line");
                false
            }
        }
    }
}
