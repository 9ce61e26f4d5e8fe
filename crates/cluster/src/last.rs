//! What this node was told last of users: by answers, and by the changes that it reads. It is what
//! is said of them while the store cannot be asked, or is not to be believed.
//!
//! It is as new as the changes that were read, like what clients watch, and of the same: of each
//! type what was announced last, by its number. So a question and a picture say the same, whoever
//! asks first. Of whom nothing was heard, or too long ago, nothing is known.

use heartline_core::bounded::Bounded;
use heartline_core::entries::{TypePresence, UserPresence};

use crate::names;
use crate::registry::{Edge, Millis, TypedUser, UserName};

/// Users of whom it is kept, and bytes: as many as those whose answers are.
const MAX_USERS: usize = 65_536;
const MAX_BYTES: usize = 16 << 20;
/// Bytes of a user without the name, and of a type without its own.
const USER_BYTES: usize = 128;
const TYPE_BYTES: usize = 80;

/// What was said of a user: of each type what was announced, and on how many devices it is.
struct Told {
    devices: usize,
    types: Vec<TypePresence>,
}

impl Told {
    fn bytes(&self, user: &UserName) -> usize {
        let kinds = self.types.iter();
        let kinds =
            kinds.map(|one| TYPE_BYTES + one.user_type.as_ref().map_or(0, |kind| kind.len()));
        USER_BYTES + user.len() + kinds.sum::<usize>()
    }

    /// The greater number is the newer. Whether that is this one. Who was announced is there, until
    /// it is known that they left.
    fn set(&mut self, one: TypePresence) -> bool {
        let one = TypePresence {
            is_there: one.online,
            ..one
        };
        let mut types = self.types.iter_mut();
        match types.find(|known| known.user_type == one.user_type) {
            Some(known) if known.rev > one.rev => return false,
            Some(known) => *known = one,
            None => self.types.push(one),
        }
        true
    }
}

/// What was said last of each user.
pub(crate) struct Last {
    told: Bounded<UserName, Told>,
}

impl Last {
    pub(crate) fn new() -> Last {
        Last {
            told: Bounded::new(MAX_USERS, MAX_BYTES),
        }
    }

    fn put(&mut self, user: &UserName, told: Told) {
        let bytes = told.bytes(user);
        self.told.put(user.clone(), told, bytes);
    }

    fn taken(&mut self, user: &UserName) -> Told {
        self.told.take(user).unwrap_or(Told {
            devices: 0,
            types: Vec::new(),
        })
    }

    /// The store has said this of a user.
    pub(crate) fn learn(&mut self, user: &UserName, found: &UserPresence) {
        let mut told = self.taken(user);
        let mut is_newest = true;
        for one in &found.types {
            is_newest &= told.set(one.clone());
        }
        if is_newest {
            told.devices = found.devices;
        }
        self.put(user, told);
    }

    /// A change was read.
    pub(crate) fn hear(&mut self, edge: &Edge) {
        let user_type = names::kind(&edge.who.kind);
        let user = &edge.who.user;
        let is_known = |one: &TypePresence| one.user_type == user_type && one.rev >= edge.rev;
        let told = self.told.peek(user);
        if told.is_some_and(|told| told.types.iter().any(is_known)) {
            return;
        }
        let mut told = self.taken(user);
        told.set(TypePresence {
            user_type,
            online: edge.online,
            rev: edge.rev,
            is_there: edge.online,
            devices: usize::from(edge.online),
            last_seen_at: Some(edge.at),
        });
        told.devices = told.types.iter().map(|one| one.devices).sum();
        self.put(user, told);
    }

    /// A user is on so many devices.
    pub(crate) fn note_devices(&mut self, user: &UserName, devices: usize) {
        if let Some(told) = self.told.peek_mut(user) {
            told.devices = devices;
        }
    }

    /// A user of one type is on another number of devices at this node, and the store cannot be told. Who
    /// has left the last device that is known of is gone from `at` on.
    pub(crate) fn count_own(
        &mut self,
        who: &TypedUser,
        (before, after): (usize, usize),
        at: Millis,
    ) {
        let user_type = names::kind(&who.kind);
        let Some(told) = self.told.peek_mut(&who.user) else {
            return;
        };
        told.devices = (told.devices + after).saturating_sub(before);
        let others = told.types.iter();
        let others = others.filter(|one| one.user_type != user_type && one.is_there);
        let others: usize = others.map(|one| one.devices).sum();
        let mut types = told.types.iter_mut();
        let Some(one) = types.find(|one| one.user_type == user_type && one.online) else {
            return;
        };
        one.devices = told.devices.saturating_sub(others);
        one.is_there = one.devices > 0;
        if after < before {
            one.last_seen_at = Some(at);
        }
    }

    /// What is to be said of a user whom the store has said nothing of that could be believed, but
    /// perhaps what was `found`: what was said last, where that is newer, as of a time. `None`:
    /// nothing is known.
    pub(crate) fn recall(
        &mut self,
        (name, user): (&UserName, &str),
        found: Option<UserPresence>,
        (as_of, now): (Millis, Millis),
    ) -> Option<UserPresence> {
        let Some(told) = self.told.get(name) else {
            return found;
        };
        let mut found = found.unwrap_or_else(|| UserPresence {
            user_id: user.to_owned(),
            online: false,
            devices: 0,
            last_seen_at: None,
            rev: 0,
            stale: true,
            types: Vec::new(),
        });
        found.stale = true;
        let mut is_there = false;
        for one in &told.types {
            let mut types = found.types.iter_mut();
            let known = types.find(|known| known.user_type == one.user_type);
            if known.as_ref().is_some_and(|known| known.rev > one.rev) {
                continue;
            }
            let is_waited_for = one.last_seen_at.is_some_and(|at| at > now);
            let is_one = one.online && (one.is_there || is_waited_for);
            is_there |= is_one;
            let last_seen_at = match is_one {
                true => Some(as_of),
                false => one.last_seen_at,
            };
            found.last_seen_at = found.last_seen_at.max(last_seen_at);
            found.rev = found.rev.max(one.rev);
            let said = TypePresence {
                is_there: is_one || known.as_ref().is_some_and(|known| known.is_there),
                devices: (known.as_ref().map_or(0, |known| known.devices)).max(one.devices),
                last_seen_at,
                ..one.clone()
            };
            match known {
                Some(known) => *known = said,
                None => found.types.push(said),
            }
        }
        if is_there {
            found.online = true;
            found.devices = found.devices.max(told.devices);
        }
        Some(found)
    }

    /// Nothing of it is certain any more.
    pub(crate) fn forget(&mut self) {
        self.told.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn user() -> UserName {
        ":u".into()
    }

    fn edge(kind: &str, online: bool, rev: u64) -> Edge {
        Edge {
            who: TypedUser {
                user: user(),
                kind: kind.into(),
            },
            online,
            rev,
            at: rev,
            rooms: Vec::new(),
            others: None,
        }
    }

    fn recall(last: &mut Last, found: Option<UserPresence>) -> Option<(bool, u64, usize)> {
        let found = last.recall((&user(), "u"), found, (90, 100))?;
        assert!(found.stale && found.user_id == "u");
        assert_eq!(found.online, found.types.iter().any(|one| one.is_there));
        if found.online {
            assert_eq!(found.last_seen_at, Some(90));
        }
        Some((found.online, found.rev, found.devices))
    }

    #[test]
    fn what_was_heard_last_is_what_is_known() {
        let mut last = Last::new();
        assert_eq!(recall(&mut last, None), None);
        last.hear(&edge("", true, 7));
        assert_eq!(recall(&mut last, None), Some((true, 7, 1)));
        last.note_devices(&user(), 3);
        last.hear(&edge("", true, 7));
        assert_eq!(recall(&mut last, None), Some((true, 7, 3)), "that is known");
        last.hear(&edge("", false, 9));
        assert_eq!(recall(&mut last, None), Some((false, 9, 0)));
        last.hear(&edge("", true, 8));
        assert_eq!(recall(&mut last, None), Some((false, 9, 0)), "it is older");
        last.hear(&edge("=driver", true, 10));
        assert_eq!(recall(&mut last, None), Some((true, 10, 1)));
        last.forget();
        assert_eq!(recall(&mut last, None), None);
    }

    #[test]
    fn an_answer_is_kept_unless_a_newer_change_was_heard() {
        let mut last = Last::new();
        last.hear(&edge("", true, 7));
        let found = recall_found(&mut last, 7, 4);
        last.learn(&user(), &found);
        assert_eq!(recall(&mut last, None), Some((true, 7, 4)));
        last.hear(&edge("", false, 9));
        last.learn(&user(), &found);
        assert_eq!(recall(&mut last, None), Some((false, 9, 0)));
    }

    fn recall_found(last: &mut Last, rev: u64, devices: usize) -> UserPresence {
        let found = last.recall((&user(), "u"), None, (90, 100)).unwrap();
        assert_eq!(found.rev, rev);
        UserPresence { devices, ..found }
    }

    #[test]
    fn who_has_left_the_last_device_that_is_known_is_gone_when_they_are_not_waited_for() {
        let who = |kind| edge(kind, true, 0).who;
        let mut last = Last::new();
        last.count_own(&who(""), (1, 0), 95);
        assert_eq!(recall(&mut last, None), None, "nobody was heard of");
        last.hear(&edge("", true, 7));
        last.count_own(&who(""), (1, 0), 130);
        assert_eq!(recall(&mut last, None), Some((true, 7, 0)), "in the grace");
        last.count_own(&who(""), (0, 1), 97);
        assert_eq!(recall(&mut last, None), Some((true, 7, 1)));
        last.count_own(&who(""), (1, 0), 98);
        let found = last.recall((&user(), "u"), None, (90, 100)).unwrap();
        assert_eq!((found.online, found.last_seen_at), (false, Some(98)));
        // On another node there is one more.
        last.hear(&edge("", true, 9));
        last.note_devices(&user(), 2);
        last.count_own(&who(""), (1, 0), 98);
        assert_eq!(recall(&mut last, None), Some((true, 9, 1)));
        // Of another type as well.
        last.hear(&edge("=driver", true, 10));
        last.count_own(&who("=driver"), (1, 0), 99);
        let found = last.recall((&user(), "u"), None, (90, 100)).unwrap();
        let there: Vec<bool> = found.types.iter().map(|one| one.is_there).collect();
        assert_eq!((found.devices, there), (1, vec![true, false]));
    }

    #[test]
    fn of_two_that_are_said_the_newer_is_believed() {
        let mut last = Last::new();
        last.hear(&edge("", true, 7));
        let gone = |rev| UserPresence {
            user_id: "u".into(),
            online: false,
            devices: 0,
            last_seen_at: Some(5),
            rev,
            stale: true,
            types: vec![TypePresence {
                rev,
                ..TypePresence::default()
            }],
        };
        // The store has lost its memory, and not everybody is back.
        assert_eq!(recall(&mut last, Some(gone(0))), Some((true, 7, 1)));
        assert_eq!(recall(&mut last, Some(gone(8))), Some((false, 8, 0)));
    }
}
