//! What the line sends to this node, in its order; and what it missed while it was cut off.
//!
//! All that is kept comes by one connection, so what a cut loses is one piece of the line. While
//! the ends of all scopes are asked for, what comes after the cut waits; then both are told as
//! one, in the order of their numbers. So a number never says more than a client has heard.

use std::sync::atomic::Ordering;

use hashbrown::HashSet;
use heartline_core::backplane::line::{Heard, Position, Reached, Scope};
use heartline_core::backplane::{Missed, Node};
use heartline_core::line::ring::Extent;

use super::line::{FIRST_PAUSE, Line, NO_LINE, target_of};
use crate::envelope::Origin;
use crate::kept::{self, Sent};
use crate::locked::locked;

/// Bytes that may wait, of what was missed and of what came after it. When there is more,
/// everybody is told of a gap.
const MAX_BYTES: usize = 64 << 20;

/// What was heard since a cut.
#[derive(Default)]
pub(super) struct Phase {
    /// The ends of scopes that were asked for.
    ends: Vec<(Scope, Vec<u8>)>,
    /// How many requests for them were answered, and how far the line was at the last.
    answered: usize,
    reached: Option<Reached>,
    /// What has come since.
    waiting: Vec<Vec<u8>>,
    bytes: usize,
    is_over: bool,
    /// The number of the last event that has come since.
    last: u64,
}

impl Phase {
    fn push(&mut self, payload: &[u8], end_of: Option<Scope>) {
        self.bytes += payload.len();
        if self.bytes > MAX_BYTES {
            self.is_over = true;
            self.ends = Vec::new();
            self.waiting = Vec::new();
            return;
        }
        match end_of {
            Some(scope) => self.ends.push((scope, payload.to_vec())),
            None => self.waiting.push(payload.to_vec()),
        }
    }
}

/// The loss of what is not kept any more of a scope, as if it was heard.
fn gap(scope: &Scope, line: u32, epoch: u64, known: Extent) -> Heard<'_> {
    Heard {
        at: Position {
            line,
            id: known.dropped,
            before: 0,
            epoch,
            offset: known.dropped_offset,
        },
        target: target_of(scope),
        message: None,
        skip: None,
        to: match scope {
            Scope::Socket { name, .. } => Some(*name),
            _ => None,
        },
        edges_after: None,
    }
}

impl Line {
    /// Something of the line is lost: from here on it waits until that is found.
    pub(super) fn cut(&self) {
        self.cut_in(&mut locked(&self.phase));
    }

    /// Something of the line is lost, and can be found at once.
    pub(super) fn falls_behind(&self) {
        self.cut();
        self.behind.notify_one();
    }

    /// The same as a [cut](Self::cut), for who holds the phase.
    pub(super) fn cut_in(&self, phase: &mut Option<Phase>) {
        // What waited so far is in what will be found.
        *phase = Some(Phase::default());
        self.forget_what_was_missed();
    }

    /// The store sends something; `max` are the bytes that an event may have.
    pub(super) fn hear(&self, payload: &[u8], max: usize) {
        let Some(sent) = kept::read(payload, max, &self.seal) else {
            return;
        };
        let line = match &sent {
            Sent::Event(heard, _) => {
                let before = heard.at.id.saturating_sub(1);
                self.note(Reached {
                    line: heard.at.line,
                    begin: before,
                    last: before,
                });
                Some(heard.at.line)
            }
            Sent::End(_, reached) => {
                self.note(*reached);
                Some(reached.line)
            }
            Sent::Tail(..) | Sent::Claimed(..) => None,
        };
        {
            let mut phase = locked(&self.phase);
            // A master that is none any more goes on: everybody was told of a gap in what it says.
            if line.is_some_and(|line| !self.is_known(line)) {
                return;
            }
            if let Some(phase) = phase.as_mut() {
                match &sent {
                    Sent::Claimed(..) => {}
                    Sent::End(request, reached) if self.is_of_phase(*request) => {
                        phase.answered += 1;
                        phase.reached = Some(*reached);
                        return self.came(*request);
                    }
                    Sent::Tail(request, index, ..) if self.is_of_phase(*request) => {
                        let scope = self.asked(*request, *index);
                        return phase.push(payload, scope);
                    }
                    Sent::Event(heard, _) => {
                        phase.last = phase.last.max(heard.at.id);
                        return phase.push(payload, None);
                    }
                    Sent::Tail(..) | Sent::End(..) => return phase.push(payload, None),
                }
            }
        }
        self.tell(sent);
    }

    fn tell(&self, sent: Sent<'_>) {
        let Some(node) = self.node() else {
            return;
        };
        match sent {
            Sent::Event(heard, origin) => self.tell_event(&**node, heard, origin),
            Sent::Tail(request, index, mut tail, origins) => {
                for (heard, origin) in tail.events.iter_mut().zip(origins) {
                    heard.message.take_if(|_| self.was_told_alone(origin));
                }
                if let Some(scope) = self.asked(request, index) {
                    node.take_in(&scope, tail);
                    self.took_in(request);
                }
            }
            Sent::End(request, reached) => {
                // All that is for this node up to there has come before.
                self.delivered.fetch_max(reached.last, Ordering::Relaxed);
                node.reach(reached);
                self.has_heard(reached.last);
                self.came(request);
            }
            // Unless it has come back meanwhile.
            Sent::Claimed(name, claim, how) if self.has_lost(name, claim) => {
                node.lose_session(name, how);
            }
            Sent::Claimed(..) => {}
        }
    }

    fn tell_event(&self, node: &dyn Node, mut heard: Heard<'_>, origin: Origin) {
        self.delivered.fetch_max(heard.at.id, Ordering::Relaxed);
        let own = self.own_number(&heard, origin);
        heard.message.take_if(|_| self.was_told_alone(origin));
        if heard.to.is_some() && origin.tag == self.tag() {
            self.came_back(origin.number);
        }
        node.hear(heard);
        if let Some(number) = own {
            self.has_come(number);
        }
    }

    /// All that was missed is there: it is told, and what has come since.
    pub(super) fn goes_on(&self, max: usize) {
        let (phase, reached) = {
            let mut phase = locked(&self.phase);
            // There was another cut since: what it lost is being found.
            let Some(reached) = phase.as_ref().and_then(|phase| phase.reached) else {
                return;
            };
            (phase.take().unwrap_or_default(), reached)
        };
        let Some(node) = self.node() else {
            return;
        };
        let line = u64::from(reached.line);
        let before = self.followed_line.swap(line, Ordering::Relaxed);
        let is_another = before != NO_LINE && before != line;
        match before {
            NO_LINE => node.reach(reached),
            _ if is_another => node.reach(Reached {
                last: reached.begin,
                ..reached
            }),
            _ => {}
        }
        if phase.is_over || is_another {
            node.missed(Missed::Line);
            // Where nothing comes, that is told at once too.
            for scope in node.followed() {
                if let Scope::Room { .. } = scope {
                    drop(self.follow(scope));
                }
            }
        }
        self.tell_missed(&**node, &phase, reached.line, max);
        let reached = match phase.is_over {
            true => {
                // What was too much is kept nowhere here: nobody comes back over it.
                let last = phase.last.max(reached.last);
                let begin = last;
                Reached {
                    begin,
                    last,
                    ..reached
                }
            }
            false => reached,
        };
        self.delivered.fetch_max(reached.last, Ordering::Relaxed);
        node.reach(reached);
        self.has_heard(reached.last);
    }

    /// The node has heard all that is for it, up to a number.
    fn has_heard(&self, last: u64) {
        self.heard.send_if_modified(|heard| {
            let is_news = *heard < last;
            *heard = last.max(*heard);
            is_news
        });
    }

    fn tell_missed(&self, node: &dyn Node, phase: &Phase, line: u32, max: usize) {
        let after = self.delivered.load(Ordering::Relaxed);
        let mut missed: Vec<(Heard<'_>, Origin)> = Vec::new();
        // What was asked for again, as no answer came in time, may have come twice.
        let mut seen = HashSet::new();
        for (scope, end) in phase.ends.iter().rev() {
            if !seen.insert(scope) {
                continue;
            }
            let Some(Sent::Tail(_, _, tail, origins)) = kept::read(end, max, &self.seal) else {
                continue;
            };
            if tail.known.dropped > after {
                let gap = gap(scope, line, tail.epoch, tail.known);
                missed.push((gap, Origin::default()));
            }
            // Everybody has been told of a gap in what was said in another line.
            let events = tail.events.into_iter().zip(origins);
            missed.extend(events.filter(|(heard, _)| heard.at.line == line));
        }
        missed.sort_by_key(|(heard, _)| heard.at.id);
        let mut missed = missed.into_iter().peekable();
        for payload in &phase.waiting {
            let Some(sent) = kept::read(payload, max, &self.seal) else {
                continue;
            };
            // Before whatever counts on it.
            let before = match &sent {
                Sent::Event(heard, _) => heard.at.id,
                Sent::Tail(_, _, tail, _) => tail.known.last + 1,
                Sent::End(_, reached) => reached.last + 1,
                Sent::Claimed(..) => 0,
            };
            while let Some((earlier, by)) = missed.next_if(|(earlier, _)| earlier.at.id < before) {
                self.tell_event(node, earlier, by);
            }
            if let Sent::Event(heard, _) = &sent {
                let id = heard.at.id;
                while missed.next_if(|(same, _)| same.at.id == id).is_some() {}
            }
            self.tell(sent);
        }
        missed.for_each(|(heard, origin)| self.tell_event(node, heard, origin));
    }

    /// Finds what was missed, until it is found.
    pub(super) async fn catch_up(&self) {
        loop {
            // Whoever is to be heard of is.
            self.remembered().await;
            self.all_attended().await;
            let Some(node) = self.node() else {
                tokio::time::sleep(FIRST_PAUSE).await;
                continue;
            };
            let after = self.delivered.load(Ordering::Relaxed);
            let scopes = match after {
                0 => Vec::new(),
                _ => node.followed().into_iter().chain(self.unheard()).collect(),
            };
            if let Some(answers) = self.collect_all(scopes, after).await {
                let phase = locked(&self.phase);
                // Otherwise there was a cut in between.
                if phase.as_ref().is_none_or(|phase| phase.answered >= answers) {
                    return;
                }
            }
            tokio::time::sleep(FIRST_PAUSE).await;
        }
    }
}
