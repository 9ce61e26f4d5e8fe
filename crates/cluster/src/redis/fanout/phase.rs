//! What the line sends to this node, in its order; and what it missed while it was cut off.
//!
//! All that is kept comes by one connection, so what a cut loses is one piece of the line. While
//! the ends of all scopes are asked for, what comes after the cut waits; then both are told as
//! one, in the order of their numbers. So a number never says more than a client has heard.

use std::sync::atomic::Ordering;

use heartline_core::backplane::line::Heard;
use heartline_core::backplane::{Missed, Node};

use super::line::Line;
use crate::kept::{self, Sent};
use crate::locked::locked;

/// Bytes that may wait, of what was missed and of what came after it. When there is more,
/// everybody is told of a gap.
const MAX_BYTES: usize = 64 << 20;

/// What was heard since a cut.
#[derive(Default)]
pub(super) struct Phase {
    /// The ends of scopes that were asked for.
    ends: Vec<Vec<u8>>,
    /// What has come since.
    waiting: Vec<Vec<u8>>,
    bytes: usize,
    is_over: bool,
}

impl Phase {
    fn push(&mut self, payload: &[u8], is_end: bool) {
        self.bytes += payload.len();
        if self.bytes > MAX_BYTES {
            self.is_over = true;
            self.ends = Vec::new();
            self.waiting = Vec::new();
            return;
        }
        let list = match is_end {
            true => &mut self.ends,
            false => &mut self.waiting,
        };
        list.push(payload.to_vec());
    }
}

impl Line {
    /// Something of the line is lost: from here on it waits until that is found.
    pub(super) fn cut(&self) {
        let mut phase = locked(&self.phase);
        // What waited so far is in what will be found.
        *phase = Some(Phase::default());
    }

    /// The store sends something; `max` are the bytes that an event may have.
    pub(super) fn hear(&self, payload: &[u8], max: usize) {
        let Some(sent) = kept::read(payload, max) else {
            return;
        };
        {
            let mut phase = locked(&self.phase);
            if let Some(phase) = phase.as_mut() {
                let at_once = match &sent {
                    Sent::End(request, _) => self.is_of_phase(*request),
                    Sent::Claimed(..) => true,
                    Sent::Tail(request, ..) if self.is_of_phase(*request) => {
                        return phase.push(payload, true);
                    }
                    Sent::Event(..) | Sent::Tail(..) => false,
                };
                if !at_once {
                    return phase.push(payload, false);
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
            Sent::Event(mut heard, origin) => {
                if self.was_told_alone(origin) {
                    heard.message = None;
                }
                self.tell_event(&**node, heard);
            }
            Sent::Tail(request, index, tail) => {
                if let Some(scope) = self.asked(request, index) {
                    node.take_in(&scope, tail);
                }
            }
            Sent::End(request, reached) => {
                self.reached(reached);
                // All that is for this node up to there has come before.
                node.reach(reached);
                self.came(request);
            }
            // Unless it has come back meanwhile.
            Sent::Claimed(name, times) if self.has_lost(name, times) => node.lose_session(name),
            Sent::Claimed(..) => {}
        }
    }

    fn tell_event(&self, node: &dyn Node, heard: Heard<'_>) {
        self.delivered.fetch_max(heard.at.id, Ordering::Relaxed);
        node.hear(heard);
    }

    /// All that was missed is there: it is told, and what has come since.
    pub(super) fn goes_on(&self, max: usize) {
        let Some(phase) = locked(&self.phase).take() else {
            return;
        };
        let Some(node) = self.node() else {
            return;
        };
        if phase.is_over {
            node.missed(Missed::Anybody);
            return;
        }
        let ends = phase.ends.iter().filter_map(|end| kept::read(end, max));
        let mut missed: Vec<Heard<'_>> = Vec::new();
        for end in ends {
            if let Sent::Tail(_, _, tail) = end {
                missed.extend(tail.events);
            }
        }
        missed.sort_by_key(|heard| heard.at.id);
        missed.dedup_by_key(|heard| heard.at.id);
        let mut missed = missed.into_iter().peekable();
        for payload in &phase.waiting {
            let Some(sent) = kept::read(payload, max) else {
                continue;
            };
            if let Sent::Event(heard, _) = &sent {
                let id = heard.at.id;
                while let Some(earlier) = missed.next_if(|earlier| earlier.at.id <= id) {
                    self.tell_event(&**node, earlier);
                }
            }
            self.tell(sent);
        }
        missed.for_each(|heard| self.tell_event(&**node, heard));
    }

    /// Finds what was missed, until it is found.
    pub(super) async fn catch_up(&self) {
        loop {
            let after = self.delivered.load(Ordering::Relaxed);
            let scopes = match (self.node(), after) {
                (Some(node), 1..) => node.followed(),
                _ => Vec::new(),
            };
            if self.collect_all(scopes, after).await {
                return;
            }
            tokio::time::sleep(super::line::FIRST_PAUSE).await;
        }
    }
}
