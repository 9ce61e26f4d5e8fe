//! The numbers of a channel's publications: whether one is missing.
//!
//! What a node sends into a channel says which number it had there before. Whoever listens
//! remembers the highest that it knows of: a publication behind a number that it does not know
//! of tells of a loss. For each sender this holds: whatever it has published from the first
//! number that was heard on up to the highest was heard, or its loss was told. What came before
//! the first may have been lost as well; the sender says so, if it knows.

use hashbrown::HashMap;

/// Senders that are remembered, as their restarts add up: more than a cluster has nodes.
const MAX_SENDERS: usize = 1024;

/// How far a publication may be behind another one of its sender in the same channel: further
/// than what is ever sent again.
pub(super) const MAX_BEHIND: u64 = 65_536;

/// Of all numbers between these it is known what became of them.
#[derive(Debug, Clone, Copy)]
struct Known {
    first: u64,
    highest: u64,
}

/// What is known of each sender's numbers in one channel.
#[derive(Debug, Default)]
pub(super) struct Numbers(HashMap<u32, Known>);

impl Numbers {
    /// A sender's publication has come, behind another one: was that lost?
    pub(super) fn came(&mut self, tag: u32, number: u64, after: u64) -> bool {
        let (first, highest) = (number, number);
        // A sender that does not know of an earlier one begins again. So does one of which a
        // number was heard that cannot have been its own.
        let before = self.0.get_mut(&tag);
        let is_absurd = |known: &&mut Known| known.highest.saturating_sub(number) > MAX_BEHIND;
        let was_absurd = before.as_ref().is_some_and(is_absurd);
        let Some(known) = before.filter(|_| after > 0 && !was_absurd) else {
            self.know(tag, Known { first, highest });
            return was_absurd;
        };
        let is_hole = after > known.highest;
        known.highest = known.highest.max(highest);
        is_hole
    }

    /// A sender says that it has lost publications, of which this is the last. Was nobody told?
    pub(super) fn lost(&mut self, tag: u32, last: u64) -> bool {
        let (first, highest) = (last, last);
        let Some(known) = self.0.get_mut(&tag) else {
            self.know(tag, Known { first, highest });
            return true;
        };
        let is_news = last < known.first || last > known.highest;
        known.first = known.first.min(first);
        known.highest = known.highest.max(highest);
        is_news
    }

    /// Nothing is known any more: the listener has missed something, and told.
    pub(super) fn forget(&mut self) {
        self.0 = HashMap::new();
    }

    fn know(&mut self, tag: u32, known: Known) {
        if self.0.len() >= MAX_SENDERS && !self.0.contains_key(&tag) {
            self.0.clear();
        }
        self.0.insert(tag, known);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_hole_is_told_once() {
        let mut numbers = Numbers::default();
        assert!(
            !numbers.came(1, 5, 4),
            "nobody knows whether it was for this node"
        );
        assert!(!numbers.came(2, 9, 3));
        assert!(!numbers.came(1, 8, 5));
        assert!(numbers.came(1, 12, 10));
        assert!(!numbers.came(1, 13, 12));
        assert!(!numbers.lost(1, 10), "that was told");
        assert!(numbers.lost(1, 20));
        assert!(!numbers.came(1, 21, 20));
        assert!(!numbers.came(1, 40, 0), "the sender has forgotten");
        assert!(
            numbers.lost(1, 39),
            "it has lost that before this node knew of it"
        );
        assert!(!numbers.lost(1, 39));
    }

    #[test]
    fn after_an_absurd_number_holes_are_told_again() {
        let mut numbers = Numbers::default();
        numbers.came(1, 5, 4);
        numbers.came(1, u64::MAX, 5);
        assert!(
            numbers.came(1, 9, 8),
            "nobody knows what was lost meanwhile"
        );
        assert!(!numbers.came(1, 10, 9));
        assert!(numbers.came(1, 12, 11));
    }

    proptest! {
        /// A sender's publications, of which some are lost on the way and some before they
        /// were sent, which a mark says sooner or later.
        #[test]
        fn no_loss_stays_untold(fates in prop::collection::vec(0..4u8, 1..60)) {
            let mut numbers = Numbers::default();
            numbers.came(1, 1, 0);
            let (mut before, mut untold, mut owed) = (1, false, None);
            for (fate, number) in fates.into_iter().zip(2..) {
                match fate {
                    0 | 1 => {
                        let told = numbers.came(1, number, before);
                        prop_assert_eq!(told, untold, "at {}", number);
                        untold = false;
                    }
                    2 => untold = true,
                    _ => {
                        untold = true;
                        owed = Some(number);
                    }
                }
                before = number;
                if let Some(last) = owed.take_if(|_| fate == 1) {
                    prop_assert!(!numbers.lost(1, last), "the number has shown it");
                }
            }
            if let Some(last) = owed {
                let told = numbers.lost(1, last);
                prop_assert!(told || !untold || last < before);
            }
        }
    }
}
