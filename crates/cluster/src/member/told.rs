//! What this node told its clients last of each user, for as long as it may be told once more.
//!
//! When the store has lost its memory, the last changes are written again: some node may not have
//! read them. This one tells only what is otherwise than what it told last.

use std::collections::BTreeSet;
use std::time::Duration;

use heartline_core::bounded::Bounded;
use tokio::time::Instant;

use crate::registry::{Edge, RoomName, TypedUser};

/// Changes that are remembered: as many as the registry keeps for who is behind. The oldest are
/// forgotten for others: what is written again of those is told again.
const MAX_TOLD: usize = 65_536;
/// Their bytes: users and rooms have names of up to 256.
const MAX_BYTES: usize = 32 << 20;
/// Bytes of a user without the names, and of a room without its own.
const USER_BYTES: usize = 192;
const ROOM_BYTES: usize = 48;

struct Last {
    online: bool,
    rev: u64,
    /// Rooms that were told that the user is online.
    rooms: BTreeSet<RoomName>,
    at: Instant,
}

impl Last {
    fn bytes(&self, who: &TypedUser) -> usize {
        let rooms = self.rooms.iter().map(|room| ROOM_BYTES + room.len());
        USER_BYTES + who.user.len() + who.kind.len() + rooms.sum::<usize>()
    }
}

/// The last change of each user of whom there was one lately.
pub(super) struct Told {
    of: Bounded<TypedUser, Last>,
    /// For how long they are remembered.
    kept_for: Duration,
    /// What was told until then is no more what clients are held to know.
    void_until: Option<Instant>,
}

impl Told {
    pub(super) fn new(kept_for: Duration) -> Told {
        Told {
            of: Bounded::new(MAX_TOLD, MAX_BYTES),
            kept_for,
            void_until: None,
        }
    }

    /// Whether a change is later than what was told of its user: in an old memory of the store that
    /// has come back there are changes of long ago, and what was read before may be read again.
    pub(super) fn is_news(&self, edge: &Edge) -> bool {
        let Some(last) = self.of.peek(&edge.who) else {
            return true;
        };
        let is_told = edge.online == last.online && edge.others.is_none();
        edge.rev > last.rev || (edge.rev == last.rev && !is_told)
    }

    /// Makes of an edge what this node's clients do not know: what was told already is no change,
    /// and what is said to be none is one for who was told otherwise.
    pub(super) fn compare(&mut self, edge: &mut Edge, now: Instant) {
        let last = self.of.take(&edge.who);
        let rev = last.as_ref().map_or(0, |last| last.rev);
        let is_valid = |last: &Last| self.void_until.is_none_or(|until| last.at > until);
        let last = last.filter(is_valid);
        let mut known = match &last {
            Some(last) if last.online && edge.online => last.rooms.clone(),
            _ => BTreeSet::new(),
        };
        if let Some(last) = last {
            if last.online == edge.online && edge.others.is_none() {
                edge.rooms
                    .retain(|room| edge.online && !known.contains(room));
                edge.others = Some(known.iter().cloned().collect());
            } else if last.online != edge.online && edge.rev > last.rev {
                edge.rooms.extend(edge.others.take().unwrap_or_default());
            }
        }
        if edge.online {
            known.extend(edge.rooms.iter().cloned());
        }
        let last = Last {
            online: edge.online,
            rev: edge.rev.max(rev),
            rooms: known,
            at: now,
        };
        let bytes = last.bytes(&edge.who);
        self.of.put(edge.who.clone(), last, bytes);
        let is_over = |last: &Last| now.saturating_duration_since(last.at) > self.kept_for;
        while self.of.oldest().is_some_and(is_over) {
            self.of.take_oldest();
        }
    }

    /// Forgets what was told until then, but for how late it was.
    pub(super) fn forget_until(&mut self, then: Instant) {
        self.void_until = Some(then);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEPT_FOR: Duration = Duration::from_secs(10);

    fn edge(online: bool, rev: u64, rooms: &[&str], others: Option<&[&str]>) -> Edge {
        let names = |rooms: &[&str]| rooms.iter().map(|&room| RoomName::from(room)).collect();
        Edge {
            who: TypedUser {
                user: ":u".into(),
                kind: "".into(),
            },
            online,
            rev,
            at: rev,
            rooms: names(rooms),
            others: others.map(names),
        }
    }

    fn compared(told: &mut Told, edge: &Edge, now: Instant) -> Edge {
        let mut edge = edge.clone();
        told.compare(&mut edge, now);
        edge
    }

    #[test]
    fn what_was_told_is_no_change_but_for_rooms_that_were_not() {
        let (mut told, now) = (Told::new(KEPT_FOR), Instant::now());
        let came = edge(true, 1, &["r"], None);
        assert_eq!(compared(&mut told, &came, now), came);
        let joined = edge(true, 1, &["s"], Some(&["r"]));
        assert_eq!(compared(&mut told, &joined, now), joined);
        let again = edge(true, 5, &["r", "s", "t"], None);
        let expected = edge(true, 5, &["t"], Some(&["r", "s"]));
        assert_eq!(compared(&mut told, &again, now), expected);
        let went = edge(false, 6, &["r", "s", "t"], None);
        assert_eq!(compared(&mut told, &went, now), went);
        let again = edge(false, 9, &["r"], None);
        assert_eq!(
            compared(&mut told, &again, now),
            edge(false, 9, &[], Some(&[]))
        );
    }

    #[test]
    fn what_is_said_to_be_no_change_is_one_for_who_was_told_otherwise() {
        let (mut told, now) = (Told::new(KEPT_FOR), Instant::now());
        let still = edge(true, 5, &[], Some(&["r"]));
        assert_eq!(
            compared(&mut told, &still, now),
            still,
            "as nothing is known"
        );
        let gone = edge(false, 6, &[], Some(&[]));
        assert_eq!(compared(&mut told, &gone, now), edge(false, 6, &[], None));
        let back = edge(true, 7, &[], Some(&["r"]));
        assert_eq!(compared(&mut told, &back, now), edge(true, 7, &["r"], None));
        let late = edge(false, 3, &[], Some(&[]));
        assert_eq!(compared(&mut told, &late, now), late, "of the past");
    }

    #[test]
    fn what_was_told_is_remembered_for_a_while_and_of_so_many() {
        let (mut told, now) = (Told::new(KEPT_FOR), Instant::now());
        let came = edge(true, 1, &["r"], None);
        compared(&mut told, &came, now);
        let later = now + KEPT_FOR * 2;
        let mut other = came.clone();
        other.who.user = ":v".into();
        compared(&mut told, &other, later);
        assert_eq!(told.of.iter().count(), 1);
        assert_eq!(compared(&mut told, &came, later), came);
        told.forget_until(later);
        let next = edge(true, 2, &["r"], None);
        assert_eq!(compared(&mut told, &next, later), next);
        assert!(!told.is_news(&came), "it is old all the same");
        for number in 0..MAX_TOLD + 10 {
            let mut other = came.clone();
            other.who.user = format!(":{number}").into();
            compared(&mut told, &other, later);
        }
        assert_eq!(told.of.iter().count(), MAX_TOLD);
    }

    #[test]
    fn what_was_told_is_bounded_by_its_bytes_too() {
        let (mut told, now) = (Told::new(KEPT_FOR), Instant::now());
        let rooms: Vec<String> = (0..20).map(|room| format!("{room:0>256}")).collect();
        let rooms: Vec<&str> = rooms.iter().map(String::as_str).collect();
        for number in 0..8_000 {
            let mut came = edge(true, 1, &rooms, None);
            came.who.user = format!(":{number:0>255}").into();
            compared(&mut told, &came, now);
        }
        let kept = told.of.iter().count();
        assert!(kept * 20 * 256 <= 32 << 20, "{kept}");
        assert!(kept > 4_000, "{kept}");
    }
}
