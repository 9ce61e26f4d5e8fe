//! What a member knows of its present incarnation, and why that ends.

use std::collections::VecDeque;
use std::sync::Arc;

use hashbrown::{HashMap, HashSet};
use tokio::sync::mpsc;
use tokio::time::Instant;

use super::Request;
use super::comparison::Comparison;
use super::pace::Pace;
use crate::registry::{Millis, TypedUser};

/// Why an incarnation ended.
pub(super) enum End {
    /// Its lease was over, or the store does not know it.
    Fenced,
    /// The member leaves its cluster.
    Left,
}

/// One incarnation's state.
pub(super) struct Incarnation<'a> {
    /// As the registry knows it.
    pub(super) name: Arc<str>,
    pub(super) renew_at: Instant,
    /// When there is something to maintain; `None` if nothing is known of.
    pub(super) maintain_at: Option<Instant>,
    /// Sockets of dead nodes that were swept, since the last of these was done with.
    pub(super) swept: u32,
    /// The node's place among the living, from 0 on.
    pub(super) rank: u32,
    /// Users to be registered.
    pub(super) restore: Line,
    /// Whether all were registered at some time: later on, users are said again one by one.
    pub(super) restored: bool,
    /// Sockets that lost their places and were told, which the registry does not know.
    pub(super) done: Vec<Arc<str>>,
    /// The hold of which the last renewal told.
    pub(super) hold: Option<Millis>,
    /// The hold for which everything is being compared, or was.
    pub(super) compared_for: Option<Millis>,
    /// The hold in which everything was found to be complete.
    pub(super) complete: Option<Millis>,
    pub(super) comparison: Comparison,
    pub(super) pace: Pace,
    /// Who asks for admission.
    pub(super) requests: &'a mut mpsc::UnboundedReceiver<Request>,
    /// Those who are asked for next.
    pub(super) newcomers: Vec<Request>,
    /// Those who are being asked for.
    pub(super) asking: Vec<Request>,
}

/// Why a user's sockets are to be registered.
#[derive(Default, Clone, Copy)]
pub(super) struct Why {
    /// What [`State::unregistered`](super::State) knew.
    pub(super) doubt: Option<bool>,
    /// The registry was found to have them otherwise.
    pub(super) mended: bool,
    /// All nodes are to be told again what the user is.
    pub(super) retold: bool,
}

/// Users whose sockets are to be registered, each once, in the order in which they came.
#[derive(Default)]
pub(super) struct Line {
    order: VecDeque<TypedUser>,
    why: HashMap<TypedUser, Why>,
}

impl Line {
    /// All of these, each with what was known of it before it was told.
    pub(super) fn of(
        users: impl IntoIterator<Item = TypedUser>,
        doubt: impl Fn(&TypedUser) -> Option<bool>,
    ) -> Line {
        let mut line = Line::default();
        for who in users {
            let doubt = doubt(&who);
            line.push(
                who,
                Why {
                    doubt,
                    ..Why::default()
                },
            );
        }
        line
    }

    pub(super) fn push(&mut self, who: TypedUser, why: Why) {
        if let Some(known) = self.why.get_mut(&who) {
            known.doubt = known.doubt.max(why.doubt);
            known.mended |= why.mended;
            known.retold |= why.retold;
            return;
        }
        self.why.insert(who.clone(), why);
        self.order.push_back(who);
    }

    pub(super) fn pop(&mut self) -> Option<(TypedUser, Why)> {
        let who = self.order.pop_front()?;
        let why = self.why.remove(&who).unwrap_or_default();
        Some((who, why))
    }

    pub(super) fn contains(&self, who: &TypedUser) -> bool {
        self.why.contains_key(who)
    }

    pub(super) fn len(&self) -> usize {
        self.order.len()
    }
}

impl Incarnation<'_> {
    /// When something is due next.
    pub(super) fn next_deadline(&self) -> Instant {
        let next = self.renew_at.min(self.comparison.at);
        self.maintain_at.map_or(next, |at| at.min(next))
    }

    /// Whether the registry has all that this node knows, and takes nobody for there who is not.
    pub(super) fn is_settled(&mut self) -> bool {
        self.restored |= self.restore.len() == 0;
        self.restored && self.hold.is_none()
    }

    /// Takes what fits into one operation; nobody waits any more for some.
    pub(super) fn take_newcomers(&mut self) {
        self.newcomers.retain(|request| !request.reply.is_closed());
        while self.newcomers.len() < self.pace.size() {
            match self.requests.try_recv() {
                Ok(request) => self.newcomers.push(request),
                Err(_) => break,
            }
        }
    }

    /// Those who ask and are not answered; what they ask for is told without them.
    pub(super) fn give_up_on_answers(&mut self, announced: &HashSet<TypedUser>) {
        for request in self.asking.drain(..) {
            let announced = announced.contains(&request.newcomer.who);
            let _ = request.reply.send(Err(announced));
        }
        for request in self.newcomers.drain(..) {
            let _ = request.reply.send(Err(false));
        }
    }
}
