//! Changes that this node caused, and that other nodes may not have read yet.
//!
//! Should the store lose its memory now, they are lost to whoever has not read them.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use tokio::time::Instant;

use crate::registry::TypedUser;

/// In how long nodes read what is written, if they can.
pub(super) const READ_WITHIN: Duration = Duration::from_secs(2);
/// Changes that are remembered. The oldest are taken for read if there are more.
const MAX_UNREAD: usize = 65_536;

#[derive(Default)]
pub(super) struct Unread {
    /// In the order in which they happened; whether the user was announced as online before.
    changes: VecDeque<(Instant, TypedUser, bool)>,
    /// The store had not lost its memory then.
    sure_at: Option<Instant>,
}

impl Unread {
    /// A user has come or gone, and was announced as online or offline before.
    pub(super) fn push(&mut self, at: Instant, who: TypedUser, before: bool) {
        self.changes.push_back((at, who, before));
        if self.changes.len() > MAX_UNREAD {
            self.changes.pop_front();
        }
    }

    /// At this time the store had its memory.
    pub(super) fn be_sure(&mut self, at: Instant) {
        self.sure_at = self.sure_at.max(Some(at));
        let Some(sure_at) = self.sure_at else {
            return;
        };
        let is_read = |at: Instant| at + READ_WITHIN < sure_at;
        while self.changes.front().is_some_and(|(at, ..)| is_read(*at)) {
            self.changes.pop_front();
        }
    }

    /// The store has lost its memory: of whom a change may be lost, and what was announced of
    /// them before, as far as this node knows.
    pub(super) fn take(&mut self) -> BTreeMap<TypedUser, bool> {
        let mut first = BTreeMap::new();
        for (_, who, before) in self.changes.drain(..) {
            first.entry(who).or_insert(before);
        }
        first
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn user(name: &str) -> TypedUser {
        TypedUser {
            user: name.into(),
            kind: "".into(),
        }
    }

    #[test]
    fn the_first_change_that_may_be_unread_says_what_was_before() {
        let (mut unread, now) = (Unread::default(), Instant::now());
        unread.push(now, user(":a"), false);
        unread.push(now, user(":b"), true);
        unread.push(now, user(":a"), true);
        unread.be_sure(now + READ_WITHIN);
        let before = unread.take();
        assert_eq!(before, [(user(":a"), false), (user(":b"), true)].into());
        assert!(unread.take().is_empty());
    }

    #[test]
    fn what_happened_long_before_the_store_had_its_memory_is_read() {
        let (mut unread, now) = (Unread::default(), Instant::now());
        unread.push(now, user(":a"), true);
        let later = now + Duration::from_millis(1);
        unread.push(later, user(":b"), false);
        unread.be_sure(later + READ_WITHIN);
        // An answer that comes late says less.
        unread.be_sure(now);
        assert_eq!(unread.take(), [(user(":b"), false)].into());
    }

    #[test]
    fn so_many_are_remembered() {
        let (mut unread, now) = (Unread::default(), Instant::now());
        for number in 0..MAX_UNREAD + 10 {
            unread.push(now, user(&number.to_string()), true);
        }
        assert_eq!(unread.take().len(), MAX_UNREAD);
    }
}
