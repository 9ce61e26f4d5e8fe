//! What a step removes: so little that nobody waits for it.

use std::collections::BTreeMap;

use heartline_core::store::Cleaned;

/// How many messages a step looks at, or removes; and how many invites, and uses of these, it
/// removes.
pub(crate) const ROWS: usize = 500;

/// How many conversations a step looks at.
pub(crate) const TALKS: usize = 1_000;

/// A message that a step looks at, in the order of their ids: the order in which they came.
pub(crate) struct Row {
    pub(crate) id: i64,
    pub(crate) conversation: i64,
    pub(crate) offset: i64,
    pub(crate) created_at: i64,
}

/// A conversation that a step looks at, in the order of their ids.
pub(crate) struct Talk {
    pub(crate) id: i64,
    pub(crate) head: i64,
    pub(crate) floor: i64,
}

/// What a step does.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Plan {
    /// The floors that conversations get: what is not above them goes.
    pub(crate) floors: BTreeMap<i64, i64>,
    /// After which id the next step begins; `None`: there is nothing left.
    pub(crate) next: Option<i64>,
}

/// Removes what is older than a moment: at the first step that finds nothing old, all is done,
/// since what follows is newer. Behind a message of the future, which a clock that was ahead has
/// stamped, there may be older ones.
pub(crate) fn by_age(rows: &[Row], before: i64, now: i64) -> Plan {
    let mut plan = Plan::default();
    for row in rows.iter().filter(|row| row.created_at < before) {
        let floor = plan.floors.entry(row.conversation).or_default();
        *floor = row.offset.max(*floor);
    }
    if !plan.floors.is_empty() || rows.iter().any(|row| row.created_at > now) {
        plan.next = rows.last().map(|row| row.id);
    }
    plan
}

/// Removes all but the newest `keep` of each conversation.
pub(crate) fn by_number(talks: &[Talk], keep: i64) -> Plan {
    let mut plan = Plan::default();
    let mut left = ROWS as i64;
    for talk in talks {
        let excess = (talk.head - talk.floor).saturating_sub(keep);
        if excess <= 0 {
            continue;
        }
        if left == 0 {
            plan.next = Some(talk.id - 1);
            return plan;
        }
        let gone = excess.min(left);
        left -= gone;
        plan.floors.insert(talk.id, talk.floor + gone);
        if gone < excess {
            plan.next = Some(talk.id - 1);
            return plan;
        }
    }
    if talks.len() >= TALKS {
        plan.next = talks.last().map(|talk| talk.id);
    }
    plan
}

/// What a step came to that removed so many uses of ended invites, and then so many invites. If it
/// removed as much as a step may of either there may be more, at the beginning again.
pub(crate) fn of_invites(uses: u64, invites: u64) -> Cleaned {
    let is_full = uses.max(invites) >= ROWS as u64;
    Cleaned {
        rows: uses + invites,
        next: is_full.then_some(0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_goes_with_all_that_came_before_it() {
        let row = |id, conversation, offset, created_at| Row {
            id,
            conversation,
            offset,
            created_at,
        };
        // A node's clock was ahead when it stored the first.
        let rows = [
            row(1, 7, 1, 900),
            row(2, 7, 2, 10),
            row(3, 8, 1, 20),
            row(4, 7, 3, 30),
        ];
        let plan = by_age(&rows, 25, 1_000);
        assert_eq!(plan.floors, BTreeMap::from([(7, 2), (8, 1)]));
        assert_eq!(plan.next, Some(4));
        assert_eq!(by_age(&rows[3..], 25, 1_000), Plan::default());
        assert_eq!(by_age(&[], 25, 1_000), Plan::default());
    }

    #[test]
    fn what_a_clock_that_was_ahead_has_stamped_hides_nothing_old_behind_it() {
        let row = |id, created_at| Row {
            id,
            conversation: 7,
            offset: id,
            created_at,
        };
        // A whole step of them, and then what is old.
        let mut rows: Vec<_> = (1..=ROWS as i64).map(|id| row(id, 900)).collect();
        let on = Plan {
            next: Some(ROWS as i64),
            ..Plan::default()
        };
        assert_eq!(by_age(&rows, 25, 100), on);
        rows = vec![row(501, 10), row(502, 30)];
        assert_eq!(by_age(&rows, 25, 100).floors, BTreeMap::from([(7, 501)]));
        // Later they are not of the future any more, nor old.
        assert_eq!(by_age(&[row(1, 900)], 25, 900), Plan::default());
    }

    #[test]
    fn a_long_conversation_is_shortened_step_by_step() {
        let talk = |id, head, floor| Talk { id, head, floor };
        let talks = [talk(1, 10, 0), talk(2, 2_000, 100), talk(3, 20, 0)];
        let plan = by_number(&talks, 10);
        assert_eq!(plan.floors, BTreeMap::from([(2, 600)]));
        assert_eq!(plan.next, Some(1));
        let plan = by_number(&[talk(2, 2_000, 1_600), talk(3, 20, 0)], 10);
        assert_eq!(plan.floors, BTreeMap::from([(2, 1_990), (3, 10)]));
        assert_eq!(plan.next, None);
        let many: Vec<_> = (1..=TALKS as i64).map(|id| talk(id, 1, 0)).collect();
        assert_eq!(by_number(&many, 1).next, Some(TALKS as i64));
        assert_eq!(by_number(&many, 0).next, Some(500));
    }
}
