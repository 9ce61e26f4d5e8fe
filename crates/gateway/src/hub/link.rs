//! What the hub remembers of a connection and of its sockets.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use hashbrown::HashMap;
use heartline_core::auth::Identity;
use heartline_core::namespaces::NamespaceId;
use heartline_core::presence::SocketAddress;
use heartline_core::rate_limit::Gcra;
use heartline_core::rooms::Membership;
use heartline_wire::handshake::Handshake;
use heartline_wire::reason::Reason;
use heartline_wire::time::Micros;
use tokio::sync::oneshot;

use super::resume::Ticket;
use crate::event::{Args, EventError};
use crate::in_order::Later;
use crate::publication::Encoding;

/// For how long the user of a connection that is taken over stays online without one: another
/// is being let in.
const TAKING_OVER: Duration = Duration::from_secs(5);

/// One connection above its transport.
pub(crate) struct Link {
    pub(crate) encoding: Encoding,
    /// The parser is settled: the first message has come.
    pub(crate) settled: bool,
    /// It has been in a namespace at some time.
    pub(crate) ever_joined: bool,
    /// Live: frames in a row that fit nothing.
    pub(crate) violations: u8,
    /// Handlers that are running.
    pub(crate) in_flight: u16,
    /// What its next event has to wait for: handlers that change its rooms, and
    /// subscriptions that are not there yet.
    pub(crate) holding: u16,
    /// Those of the handlers that store something.
    pub(crate) sends: u16,
    /// It is let go as soon as its handlers are done.
    pub(crate) leaving: bool,
    pub(crate) sockets: Vec<SocketState>,
    /// The namespace that is being joined.
    pub(crate) joining: Option<Box<Joining>>,
    /// A packet that waits for its attachments.
    pub(crate) partial: Option<Box<Partial>>,
    /// What it says for no socket: CONNECTs, pings of its transport.
    events: Gcra,
    joins: Gcra,
    refused: u16,
    pub(crate) user_agent: Option<Arc<str>>,
    rare: Option<Box<Rare>>,
}

/// What few connections need, and those only for a while. It costs the others a pointer.
pub(crate) struct Rare {
    /// When a spread-out drain, or a shedding, lets the connection go.
    pub(crate) drain_at: Option<Micros>,
    /// Until when its client is expected back, because it was told to come; the beginning if
    /// it was not.
    pub(crate) back_by: Micros,
    /// When it left the last namespace that it was in; the beginning if it never did.
    pub(crate) left_at: Micros,
    /// Until when it is in no topic that it would have to wait for, because it has waited for one
    /// in vain; the beginning if it has not.
    pub(crate) no_waiting_until: Micros,
    /// The number of what its handlers have put last into the line that all nodes share; 0:
    /// nothing.
    pub(crate) said: u64,
    /// What waits for that, and whether it waits for nothing but the store any more.
    pub(crate) later: Option<Arc<Later>>,
    pub(crate) later_is_due: bool,
    /// The counts of sockets that have ended: whoever comes back into a namespace goes on with
    /// what was counted. At most one for each namespace.
    pub(crate) counts_kept: Vec<(NamespaceId, Counts)>,
    /// The connection's first request, where an app looks at it.
    pub(crate) handshake: Option<Arc<Handshake>>,
    /// The token of the handshake, for namespaces joined without one.
    pub(crate) token: Option<Box<str>>,
}

impl Link {
    /// What few connections need; made by the first who needs it.
    pub(crate) fn rare(&mut self) -> &mut Rare {
        self.rare.get_or_insert_with(|| {
            Box::new(Rare {
                drain_at: None,
                back_by: Micros::ZERO,
                left_at: Micros::ZERO,
                no_waiting_until: Micros::ZERO,
                said: 0,
                later: None,
                later_is_due: false,
                counts_kept: Vec::new(),
                handshake: None,
                token: None,
            })
        })
    }

    /// When a spread-out drain, or a shedding, lets it go; `Micros::MAX` when there is none.
    pub(crate) fn drain_at(&self) -> Micros {
        let at = self.rare.as_ref().and_then(|rare| rare.drain_at);
        at.unwrap_or(Micros::MAX)
    }

    pub(crate) fn handshake(&self) -> Option<&Arc<Handshake>> {
        self.rare.as_ref()?.handshake.as_ref()
    }

    pub(crate) fn token(&self) -> Option<&str> {
        self.rare.as_ref()?.token.as_deref()
    }

    pub(crate) fn new(encoding: Encoding) -> Self {
        Link {
            encoding,
            settled: encoding == Encoding::Live,
            ever_joined: false,
            violations: 0,
            in_flight: 0,
            holding: 0,
            sends: 0,
            leaving: false,
            sockets: Vec::new(),
            joining: None,
            partial: None,
            events: Gcra::default(),
            joins: Gcra::default(),
            refused: 0,
            user_agent: None,
            rare: None,
        }
    }

    pub(crate) fn socket(&self, namespace: NamespaceId) -> Option<&SocketState> {
        self.sockets
            .iter()
            .find(|socket| socket.namespace == namespace)
    }

    pub(crate) fn socket_mut(&mut self, namespace: NamespaceId) -> Option<&mut SocketState> {
        self.sockets
            .iter_mut()
            .find(|socket| socket.namespace == namespace)
    }

    /// What the socket of a namespace, or the connection itself, is counted by.
    pub(crate) fn meter(&mut self, of: Option<NamespaceId>) -> Option<Meter<'_>> {
        match of {
            Some(namespace) => Some(self.socket_mut(namespace)?.meter()),
            None => Some(Meter {
                events: &mut self.events,
                joins: &mut self.joins,
                refused: &mut self.refused,
            }),
        }
    }

    /// Whether handlers are at work, or something that its client has said waits for its turn.
    pub(crate) fn is_at_work(&self) -> bool {
        self.in_flight > 0 || self.holding > 0 || self.said().1.is_some()
    }

    /// Until when it is not to wait for a topic; the beginning if it may.
    pub(crate) fn no_waiting_until(&self) -> Micros {
        let rare = self.rare.as_ref();
        rare.map_or(Micros::ZERO, |rare| rare.no_waiting_until)
    }

    /// The number of what its handlers have put last into the line that all nodes share, 0 if
    /// nothing, and what waits for that.
    pub(crate) fn said(&self) -> (u64, Option<&Arc<Later>>) {
        let rare = self.rare.as_ref();
        rare.map_or((0, None), |rare| (rare.said, rare.later.as_ref()))
    }

    /// Since when it has been in no namespace, if it is in none and was in one before.
    pub(crate) fn left_at(&self) -> Option<Micros> {
        let rare = self.rare.as_ref().filter(|_| self.sockets.is_empty());
        let left_at = rare.map(|rare| rare.left_at);
        left_at.filter(|at| *at > Micros::ZERO)
    }

    /// A socket has ended while the connection stays; if it was the last, that moment is noted.
    pub(crate) fn note_left(&mut self, now: Micros) {
        if self.sockets.is_empty() {
            self.rare().left_at = now;
        }
    }

    /// Until when its client is expected back; the beginning if it was not told to come.
    pub(crate) fn back_by(&self) -> Micros {
        self.rare.as_ref().map_or(Micros::ZERO, |rare| rare.back_by)
    }

    /// Its client goes on by another connection, here or at another node.
    pub(crate) fn note_taken_over(&mut self, now: Micros) {
        let rare = self.rare();
        rare.back_by = rare.back_by.max(now + TAKING_OVER);
    }

    /// Keeps what was counted of a socket that ends while the connection stays.
    pub(crate) fn keep_counts(&mut self, namespace: NamespaceId) {
        if let Some(socket) = self.socket_mut(namespace) {
            let counts = Counts {
                events: std::mem::take(&mut socket.events),
                joins: std::mem::take(&mut socket.joins),
                refused: socket.refused,
            };
            self.rare().counts_kept.push((namespace, counts));
        }
    }

    /// Takes what was counted of an earlier socket of the namespace.
    pub(crate) fn take_counts(&mut self, namespace: NamespaceId) -> Counts {
        let Some(rare) = &mut self.rare else {
            return Counts::default();
        };
        let kept = &mut rare.counts_kept;
        let index = kept.iter().position(|(of, _)| *of == namespace);
        index.map_or_else(Counts::default, |index| kept.swap_remove(index).1)
    }
}

/// How much somebody has said lately.
pub(crate) struct Meter<'a> {
    pub(crate) events: &'a mut Gcra,
    pub(crate) joins: &'a mut Gcra,
    /// Events refused, each that was allowed since taken off.
    pub(crate) refused: &'a mut u16,
}

/// The same, kept from an earlier socket.
#[derive(Default)]
pub(crate) struct Counts {
    pub(crate) events: Gcra,
    pub(crate) joins: Gcra,
    pub(crate) refused: u16,
}

/// One socket: the connection's place in a namespace.
pub(crate) struct SocketState {
    pub(crate) namespace: NamespaceId,
    pub(crate) secret: [u8; 12],
    pub(crate) identity: Arc<Identity>,
    pub(crate) connected_at: Micros,
    pub(crate) last_activity: Micros,
    /// When the token expires on this clock; `Micros::MAX` for never.
    pub(crate) expires: Micros,
    pub(crate) rooms: Vec<Membership>,
    pub(crate) events: Gcra,
    pub(crate) joins: Gcra,
    pub(crate) refused: u16,
    rare: Option<Box<SocketRare>>,
}

/// What few sockets need.
struct SocketRare {
    acks: PendingAcks,
    /// Of a socket that has come back.
    back: Option<Box<Back>>,
    /// The place in the line of the last event before it left a room; 0: it left none.
    left: u64,
    /// How many kept events wait until the store has said whether they are for it.
    asked: u32,
    /// The place that came with the last of those that were sent late, as long as it may not have
    /// come; 0: there is none.
    late: u64,
    /// When the next `heartbeat` event is due; `Micros::MAX` when none is.
    next_heartbeat: Micros,
    /// What was said to it alone, or late, and may not have come: when each of it was sent, and
    /// its number.
    direct: VecDeque<(Micros, u64)>,
}

impl SocketState {
    pub(crate) fn new(
        namespace: NamespaceId,
        secret: [u8; 12],
        identity: Arc<Identity>,
        expires: Micros,
        counts: Counts,
        now: Micros,
    ) -> Self {
        SocketState {
            namespace,
            secret,
            identity,
            connected_at: now,
            last_activity: now,
            expires,
            rooms: Vec::new(),
            events: counts.events,
            joins: counts.joins,
            refused: counts.refused,
            rare: None,
        }
    }

    fn meter(&mut self) -> Meter<'_> {
        Meter {
            events: &mut self.events,
            joins: &mut self.joins,
            refused: &mut self.refused,
        }
    }

    fn rare(&mut self) -> &mut SocketRare {
        self.rare.get_or_insert_with(|| {
            Box::new(SocketRare {
                acks: PendingAcks::default(),
                back: None,
                left: 0,
                asked: 0,
                late: 0,
                next_heartbeat: Micros::MAX,
                direct: VecDeque::new(),
            })
        })
    }

    /// Events that wait for the client's acknowledgement, if there have ever been some.
    pub(crate) fn acks(&mut self) -> Option<&mut PendingAcks> {
        self.rare.as_mut().map(|rare| &mut rare.acks)
    }

    /// The same, for one more.
    pub(crate) fn acks_for_more(&mut self) -> &mut PendingAcks {
        &mut self.rare().acks
    }

    /// What there is of a socket that has come back.
    pub(crate) fn back(&self) -> Option<&Back> {
        self.rare.as_ref()?.back.as_deref()
    }

    pub(crate) fn set_back(&mut self, back: Back) {
        self.rare().back = Some(Box::new(back));
    }

    /// The place in the line from which on its client can go on; 0: from any. It is that of the last
    /// event before it left a room. What is sent late brings a place that something before it may
    /// have brought: until it has come, only a later place tells that it has. While it is still to be
    /// sent, none does.
    pub(crate) fn left(&self) -> u64 {
        let Some(rare) = &self.rare else {
            return 0;
        };
        match (rare.asked, rare.late) {
            (0, 0) => rare.left,
            (0, late) => rare.left.max(late + 1),
            _ => u64::MAX,
        }
    }

    /// A kept event for it waits until the store has answered; whether it is the only one.
    pub(crate) fn waits_for_answer(&mut self) -> bool {
        let rare = self.rare();
        rare.asked += 1;
        rare.asked == 1
    }

    /// The store has answered, or does not; whether no event waits for that any more.
    pub(crate) fn is_answered(&mut self) -> bool {
        let rare = self.rare();
        rare.asked = rare.asked.saturating_sub(1);
        rare.asked == 0
    }

    /// An event was sent to it behind later ones, with this place.
    pub(crate) fn note_late(&mut self, place: u64) {
        self.rare().late = place;
    }

    pub(crate) fn set_left(&mut self, place: u64) {
        self.rare().left = place;
    }

    /// Something was sent to it alone that is kept until it has come.
    pub(crate) fn note_direct(&mut self, at: Micros, id: u64) {
        let direct = &mut self.rare().direct;
        let is_full = direct.len() >= MAX_MOMENTS;
        match direct.back_mut() {
            // Of one moment, and of too many, the last says it for all.
            Some(last) if last.0 == at || is_full => *last = (at, id),
            _ => direct.push_back((at, id)),
        }
    }

    /// All has come that was sent before a moment.
    pub(crate) fn direct_received(&mut self, before: Micros) -> Received {
        let Some(rare) = &mut self.rare else {
            return Received::default();
        };
        let mut last = None;
        while let Some((_, id)) = rare.direct.front().filter(|(at, _)| *at < before) {
            last = Some(*id);
            rare.direct.pop_front();
        }
        if rare.direct.is_empty() {
            rare.direct = VecDeque::new();
        }
        // Something else may have been sent with the same place since.
        let is_last = rare.direct.front().is_none_or(|(_, id)| *id > rare.late);
        let is_proved = rare.late > 0 && is_last && last.is_some_and(|last| last >= rare.late);
        if is_proved {
            rare.left = rare.left.max(std::mem::take(&mut rare.late));
        }
        Received {
            last,
            is_more: !rare.direct.is_empty(),
            is_proved,
        }
    }

    /// When the next `heartbeat` event is due; `Micros::MAX` when none is.
    pub(crate) fn next_heartbeat(&self) -> Micros {
        let rare = self.rare.as_ref();
        rare.map_or(Micros::MAX, |rare| rare.next_heartbeat)
    }

    pub(crate) fn set_next_heartbeat(&mut self, at: Micros) {
        self.rare().next_heartbeat = at;
    }
}

/// A socket that was lost and has come back by another connection.
#[derive(Debug, Clone)]
pub(crate) struct Back {
    /// The id under which it is known.
    pub(crate) name: SocketAddress,
    /// Where it was before, each with the number of the last event that was sent to it there.
    pub(crate) places: Vec<(SocketAddress, u64)>,
    /// When its client has come with it.
    pub(crate) came_at: Micros,
}

impl Back {
    /// Whether it was at this address.
    pub(crate) fn was_at(&self, address: &SocketAddress) -> bool {
        self.places.iter().any(|(place, _)| place == address)
    }
}

/// Events that wait for the client's acknowledgement.
#[derive(Default)]
pub(crate) struct PendingAcks {
    pub(crate) next: u64,
    pub(crate) waiting: HashMap<u64, oneshot::Sender<Result<Args, EventError>>>,
}

/// Moments at which something was sent to one socket alone, as far as they are told apart: what
/// came in more is known to have come when the last of it has.
const MAX_MOMENTS: usize = 32;

/// Most acknowledgements one socket may owe.
pub(crate) const MAX_PENDING_ACKS: usize = 1024;

/// A namespace on its way to being joined.
pub(crate) struct Joining {
    pub(crate) namespace: NamespaceId,
    pub(crate) secret: [u8; 12],
    /// The CONNECT payload, for connect handlers.
    pub(crate) payload: Option<String>,
    /// What an earlier connection of its client had.
    pub(crate) ticket: Option<Box<Ticket>>,
    /// The id of a live `auth` frame.
    pub(crate) id: Option<Box<str>>,
    /// Lives as long as the connection waits: whoever looks at its token sees by it whether
    /// there is anybody left to let in.
    pub(crate) _here: Arc<()>,
    /// Another one took its place before it had it.
    pub(crate) displaced: Option<Displaced>,
}

/// How a socket lost its place.
pub(crate) struct Displaced {
    pub(crate) by: Option<Box<str>>,
    pub(crate) node: Box<str>,
    pub(crate) reason: Reason,
}

/// What has come of what was said to a socket alone, or late.
#[derive(Default)]
pub(crate) struct Received {
    /// The number of the last of it that was kept, if there was any.
    pub(crate) last: Option<u64>,
    /// Something is left that may not have come.
    pub(crate) is_more: bool,
    /// What was sent late has come just now.
    pub(crate) is_proved: bool,
}

/// A binary event or acknowledgement, its attachments still coming.
pub(crate) struct Partial {
    pub(crate) text: String,
    /// Attachments that are still to come.
    pub(crate) expected: usize,
    /// Those that came; none once they are over the bound.
    pub(crate) attachments: Vec<Bytes>,
    /// Bytes so far, whether they are kept or not.
    pub(crate) size: usize,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_client_goes_on_from_behind_what_was_sent_late_until_that_has_come() {
        let (who, never) = (Arc::new(Identity::default()), Micros::MAX);
        let (counts, now) = (Counts::default(), Micros(5));
        let mut socket = SocketState::new(NamespaceId::ROOT, [0; 12], who, never, counts, now);
        socket.set_left(7);
        assert!(socket.waits_for_answer() && !socket.waits_for_answer());
        assert!(!socket.is_answered());
        assert_eq!(socket.left(), u64::MAX);
        assert!(socket.is_answered());
        // It was for others.
        assert_eq!(socket.left(), 7);
        for (place, at) in [(11, 20), (12, 30)] {
            socket.note_late(place);
            socket.note_direct(Micros(at), place);
            assert_eq!(socket.left(), place + 1);
        }
        // The first of them has come, then the second.
        assert!(!socket.direct_received(Micros(25)).is_proved);
        assert_eq!(socket.left(), 13);
        assert!(socket.direct_received(Micros(35)).is_proved);
        assert_eq!(socket.left(), 12);
        // Two with the same place: the second has to come as well.
        for at in [40, 50] {
            socket.note_late(12);
            socket.note_direct(Micros(at), 12);
        }
        assert!(!socket.direct_received(Micros(45)).is_proved);
        assert_eq!(socket.left(), 13);
        assert!(socket.direct_received(Micros(55)).is_proved);
        assert_eq!(socket.left(), 12);
    }

    #[test]
    fn a_connection_costs_what_the_sizing_page_says() {
        // Each is one of the allocator's sizes, or lies in a vector of its shard.
        assert!(
            size_of::<SocketState>() <= 96,
            "{}",
            size_of::<SocketState>()
        );
        assert!(
            size_of::<Option<Link>>() <= 96,
            "{}",
            size_of::<Option<Link>>()
        );
    }
}
