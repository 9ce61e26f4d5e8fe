//! Changes that this node caused, and that other nodes may not have read yet.
//!
//! Should the store lose its memory now, they are lost to whoever has not read them.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use hashbrown::HashSet;
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
    /// Users who came in a hold, are announced when it ends, and were not yet, as far as this node
    /// has read; and until when that is remembered of all of them.
    coming: HashSet<TypedUser>,
    coming_until: Option<Instant>,
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

    /// A user came in a hold, which is over by then.
    pub(super) fn expect(&mut self, who: TypedUser, until: Instant) {
        if self.coming.len() < MAX_UNREAD {
            self.coming.insert(who);
            self.coming_until = self.coming_until.max(Some(until + READ_WITHIN));
        }
    }

    /// A user is announced as online.
    pub(super) fn note_online(&mut self, who: &TypedUser) {
        self.coming.remove(who);
    }

    /// Whether a user came in a hold, and nobody was told of it yet.
    pub(super) fn is_expected(&self, who: &TypedUser) -> bool {
        self.coming.contains(who)
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
        if self
            .coming_until
            .take_if(|until| *until < sure_at)
            .is_some()
        {
            self.coming.clear();
        }
    }

    /// The store has lost its memory: of whom a change may be lost, and what was announced of
    /// them before, as far as this node knows.
    pub(super) fn take(&mut self) -> BTreeMap<TypedUser, bool> {
        let coming = self.coming.drain().map(|who| (who, false));
        let mut first: BTreeMap<TypedUser, bool> = coming.collect();
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
    fn who_came_in_a_hold_was_announced_only_when_that_is_read() {
        let (mut unread, now) = (Unread::default(), Instant::now());
        for name in [":a", ":b"] {
            unread.expect(user(name), now);
        }
        unread.note_online(&user(":a"));
        unread.push(now, user(":b"), true);
        assert_eq!(unread.take(), [(user(":b"), false)].into());
        // Whose announcement was never read is taken for announced in the end.
        unread.expect(user(":c"), now);
        unread.be_sure(now + READ_WITHIN);
        assert!(unread.is_expected(&user(":c")));
        unread.be_sure(now + READ_WITHIN * 2);
        assert!(!unread.is_expected(&user(":c")) && unread.take().is_empty());
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
