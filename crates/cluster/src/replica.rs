//! What this node was told of users, kept current by the changes of presence that it reads
//! anyhow: who asks again is answered without asking the store.
//!
//! What is kept, and for how long, follows from what those changes tell:
//!
//! * A user who is away, and was announced so, comes back by a change. What was said of them is
//!   kept until there is one, and is as new as the changes that were read.
//! * Whether a user who is there still is, changes tell as well; on how many devices, the
//!   registry tells of whoever was asked about. Where it does not (a node of an older build lives,
//!   or the user has too many sockets to count them each time), that is kept for a moment, and is
//!   of the moment when it was asked.
//! * What is on its way from one to the other, such as the users of a node that has died, is
//!   not kept.
//!
//! An answer that a change has overtaken is not kept either: it may be older than the change.
//! Nothing is kept over a hole in the changes, nor over a [`Standing`] of the node: the registry
//! may believe what it announces to nobody while it comes to its memory.

use hashbrown::HashMap;
use heartline_core::bounded::Bounded;
use heartline_core::entries::UserPresence;

use crate::last::Last;
use crate::member::Standing;
use crate::names;
use crate::registry::{DEVICES_ARE_TOLD, DevicesChange, Edge, Millis, TypedUser, UserName};

/// For how long the answer about a user who is there is good where nobody tells of devices: so long
/// may another one go unseen. Who asks all the time causes one question in it.
const DEVICES_FOR: Millis = 2_000;
/// How old the changes that were read may be for an answer: some times what lies between reads.
const MAX_BEHIND: Millis = 3_000;
/// After how long a user is asked about in any case, which is less than the registry tells of
/// their devices for.
const ASKED_AGAIN_AFTER: Millis = 300_000;
/// After how long without a question a user is forgotten: then changes of theirs cost nothing.
const UNASKED_FOR: Millis = 120_000;
/// For how long after a question it is of interest how new the changes are that were read.
const ASKED_LATELY: Millis = 10_000;
/// Users whose answers are kept, and bytes of them: as many as a node with as many clients may
/// be asked about, and what they need at most.
const MAX_KEPT: usize = 65_536;
const MAX_BYTES: usize = 32 << 20;
/// Bytes of an answer without its names, in the table and its order; and those of a type.
const KEPT_BYTES: usize = 256;
const TYPE_BYTES: usize = 64;

struct Kept {
    found: UserPresence,
    /// Changes of devices after this one make a difference; `None`: not all are told.
    devices_from: Option<u64>,
    /// The question was put at this time: the answer is not older.
    asked_at: Millis,
    used_at: Millis,
}

impl Kept {
    /// Until when it is known to be so, if that is late enough.
    fn as_of(&self, read_until: Millis, now: Millis) -> Option<Millis> {
        let (as_of, limit) = match self.found.online && self.devices_from.is_none() {
            true => (self.asked_at, DEVICES_FOR),
            false => (self.asked_at.max(read_until), MAX_BEHIND),
        };
        let is_good = now.saturating_sub(as_of) <= limit
            && now.saturating_sub(self.asked_at) <= ASKED_AGAIN_AFTER;
        is_good.then_some(as_of)
    }
}

/// A question to the registry that is on its way.
pub(crate) struct Asked {
    number: u64,
    users: Vec<UserName>,
    standing: Option<Standing>,
    at: Millis,
}

/// The answers that are kept.
pub(crate) struct Replica {
    kept: Bounded<UserName, Kept>,
    /// What is said of users while nothing can be asked.
    last: Last,
    /// Users who are being asked about, and by which question: the answer is kept, unless
    /// something happens to them in between.
    asked: HashMap<UserName, u64>,
    questions: u64,
    standing: Option<Standing>,
    /// All changes up to this time have been heard.
    read_until: Millis,
    /// When anybody asked last.
    last_asked: Millis,
    /// How many answers were looked at, of all in their order.
    looked_at: usize,
}

impl Replica {
    pub(crate) fn new() -> Replica {
        Replica {
            kept: Bounded::new(MAX_KEPT, MAX_BYTES),
            last: Last::new(),
            asked: HashMap::new(),
            questions: 0,
            standing: None,
            read_until: 0,
            last_asked: 0,
            looked_at: 0,
        }
    }

    /// What is known of a user without asking.
    pub(crate) fn read(
        &mut self,
        standing: Standing,
        user: &UserName,
        now: Millis,
    ) -> Option<UserPresence> {
        self.stand(standing);
        self.last_asked = self.last_asked.max(now);
        let kept = self.kept.get_mut(user)?;
        let Some(as_of) = kept.as_of(self.read_until, now) else {
            // It may be good again, when more changes have been read.
            return None;
        };
        kept.used_at = now;
        let mut found = kept.found.clone();
        if found.online {
            found.last_seen_at = Some(as_of);
        }
        Some(found)
    }

    /// The registry is about to be asked.
    pub(crate) fn ask(
        &mut self,
        standing: Option<Standing>,
        users: &[UserName],
        now: Millis,
    ) -> Asked {
        if let Some(standing) = standing {
            self.stand(standing);
        }
        self.questions += 1;
        for user in users {
            // The earlier of two questions about a user decides: under any number of them, one
            // is answered without another in between.
            self.asked.entry(user.clone()).or_insert(self.questions);
        }
        Asked {
            number: self.questions,
            users: users.to_vec(),
            standing,
            at: now,
        }
    }

    /// What was answered of each user, whether what is announced agrees with it, and from where on
    /// changes of devices are told; nothing, if there was no answer. `standing` is the node's by
    /// now.
    pub(crate) fn learn(
        &mut self,
        asked: Asked,
        standing: Option<Standing>,
        found: impl IntoIterator<Item = (UserPresence, bool, Option<u64>)>,
    ) {
        if let Some(standing) = standing {
            self.stand(standing);
        }
        let mut found = found.into_iter();
        for user in asked.users {
            let found = found.next();
            let holds = standing.is_some() && standing == asked.standing;
            if let Some((found, ..)) = found.as_ref().filter(|_| holds) {
                self.last.learn(&user, found);
            }
            if self.asked.get(&user) != Some(&asked.number) {
                continue;
            }
            self.asked.remove(&user);
            let Some((found, true, devices_from)) = found.filter(|_| holds) else {
                continue;
            };
            let all_tell = standing.is_some_and(|now| now.version >= DEVICES_ARE_TOLD);
            let kinds = found
                .types
                .iter()
                .map(|known| TYPE_BYTES + known.user_type.as_ref().map_or(0, |kind| kind.len()));
            let bytes = KEPT_BYTES + user.len() + found.user_id.len() + kinds.sum::<usize>();
            let kept = Kept {
                found,
                devices_from: devices_from.filter(|_| all_tell),
                asked_at: asked.at,
                used_at: asked.at,
            };
            self.kept.put(user, kept, bytes);
        }
    }

    /// What is to be said of a user of whom the store has said nothing that could be believed, but
    /// perhaps what was `found`: what was known last. `None`: nothing is known.
    pub(crate) fn recall(
        &mut self,
        (name, user): (&UserName, &str),
        found: Option<UserPresence>,
        now: Millis,
    ) -> Option<UserPresence> {
        let times = (self.read_until, now);
        self.last.recall((name, user), found, times)
    }

    /// A user is on another number of devices at this node, and the store cannot be told. Who has left
    /// the last that is known of is gone from `at` on.
    pub(crate) fn count_own(&mut self, who: &TypedUser, counts: (usize, usize), at: Millis) {
        self.last.count_own(who, counts, at);
    }

    /// What would be answered of users: of those who are to be looked at `again`, and
    /// of `some` others, each time of others.
    pub(crate) fn sample(
        &mut self,
        standing: Standing,
        again: &[UserName],
        some: usize,
        now: Millis,
    ) -> Vec<(UserName, UserPresence)> {
        self.stand(standing);
        let mut sample: Vec<UserName> = again.to_vec();
        let others = self.kept.iter().skip(self.looked_at).take(some);
        let others: Vec<&UserName> = others.map(|(user, _)| user).collect();
        self.looked_at += some;
        if others.len() < some {
            self.looked_at = 0;
        }
        let others = others.into_iter().filter(|user| !again.contains(user));
        sample.extend(others.cloned());
        let found = sample.into_iter().filter_map(|user| {
            let kept = self.kept.peek(&user)?;
            kept.as_of(self.read_until, now)?;
            Some((user, kept.found.clone()))
        });
        found.collect()
    }

    /// Changes were read. What says of a user what was known already is none.
    pub(crate) fn hear(&mut self, edges: &[(u64, Edge)]) {
        for (_, edge) in edges {
            let user = &edge.who.user;
            self.asked.remove(user);
            self.last.hear(edge);
            let is_known = self.kept.peek(user).is_some_and(|kept| {
                let kind = names::kind(&edge.who.kind);
                let mut types = kept.found.types.iter();
                types.any(|known| known.user_type == kind && known.rev >= edge.rev)
            });
            if !is_known {
                self.kept.take(user);
            }
        }
    }

    /// Users are on other devices.
    pub(crate) fn note_devices(&mut self, changes: &[DevicesChange]) {
        for change in changes {
            // What is on its way here may be older.
            self.asked.remove(&change.user);
            let Some(kept) = self.kept.peek_mut(&change.user) else {
                continue;
            };
            if kept.devices_from.is_none_or(|from| from >= change.number) {
                continue;
            }
            kept.devices_from = change.devices.map(|_| change.number);
            if let Some(devices) = change.devices {
                kept.found.devices = devices as usize;
                self.last.note_devices(&change.user, devices as usize);
            }
        }
    }

    /// All changes up to this time have been heard; it matters to somebody at `now`.
    pub(crate) fn heard_until(&mut self, now: Millis) -> Millis {
        self.last_asked = self.last_asked.max(now);
        self.read_until
    }

    /// Whether anybody asked about users lately.
    pub(crate) fn is_asked(&self, now: Millis) -> bool {
        now.saturating_sub(self.last_asked) <= ASKED_LATELY
    }

    /// All changes up to this time have been heard.
    pub(crate) fn read_up_to(&mut self, until: Millis, now: Millis) {
        self.read_until = self.read_until.max(until);
        let is_over = |kept: &Kept| now.saturating_sub(kept.used_at) > UNASKED_FOR;
        while self.kept.oldest().is_some_and(is_over) {
            self.kept.take_oldest();
        }
    }

    /// A user of this node has come or gone: what is known of them is older.
    pub(crate) fn touch(&mut self, user: &UserName) {
        self.asked.remove(user);
        self.kept.take(user);
    }

    /// Changes of devices may have been missed.
    pub(crate) fn forget_devices(&mut self) {
        self.asked.clear();
        self.kept.clear();
    }

    /// Changes may have been missed.
    pub(crate) fn forget(&mut self) {
        self.forget_devices();
        self.last.forget();
    }

    fn stand(&mut self, standing: Standing) {
        if self.standing != Some(standing) {
            self.forget();
            self.standing = Some(standing);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use heartline_core::entries::TypePresence;

    const HERE: Standing = Standing {
        joins: 1,
        hold: 0,
        version: DEVICES_ARE_TOLD,
    };

    fn user() -> UserName {
        ":u".into()
    }

    fn away(rev: u64) -> UserPresence {
        UserPresence {
            user_id: "u".into(),
            online: false,
            devices: 0,
            last_seen_at: Some(5),
            rev,
            stale: false,
            types: vec![TypePresence {
                user_type: None,
                online: false,
                rev,
                ..TypePresence::default()
            }],
        }
    }

    fn there(rev: u64) -> UserPresence {
        let mut found = away(rev);
        (found.online, found.devices, found.types[0].online) = (true, 2, true);
        found
    }

    fn edge(rev: u64) -> Edge {
        Edge {
            who: TypedUser {
                user: user(),
                kind: "".into(),
            },
            online: true,
            rev,
            at: rev,
            rooms: Vec::new(),
            others: None,
        }
    }

    /// A replica that has asked about the user at 1 000.
    fn told(found: UserPresence) -> Replica {
        let mut replica = Replica::new();
        let asked = replica.ask(Some(HERE), &[user()], 1_000);
        replica.learn(asked, Some(HERE), [(found, true, None)]);
        replica
    }

    /// The same, of somebody who is there: changes of devices after the tenth are told.
    fn told_of_devices() -> Replica {
        let mut replica = Replica::new();
        let asked = replica.ask(Some(HERE), &[user()], 1_000);
        replica.learn(asked, Some(HERE), [(there(7), true, Some(10))]);
        replica
    }

    fn on(number: u64, devices: Option<u32>) -> [DevicesChange; 1] {
        [DevicesChange {
            user: user(),
            number,
            devices,
        }]
    }

    fn read(replica: &mut Replica, now: Millis) -> Option<bool> {
        let read = replica.read(HERE, &user(), now);
        read.map(|found| found.online)
    }

    #[test]
    fn who_is_away_is_not_asked_about_again_and_the_answer_is_as_new_as_the_changes() {
        let mut replica = told(away(7));
        assert_eq!(read(&mut replica, 1_500), Some(false));
        replica.read_up_to(60_000, 60_040);
        assert_eq!(read(&mut replica, 61_000), Some(false));
        assert_eq!(read(&mut replica, 60_000 + MAX_BEHIND + 1), None);
        replica.read_up_to(64_000, 64_040);
        assert_eq!(read(&mut replica, 64_100), Some(false), "it is known again");
        replica.hear(&[(0, edge(7))]);
        assert!(read(&mut replica, 64_100).is_some(), "that was known");
        replica.hear(&[(0, edge(8))]);
        assert_eq!(read(&mut replica, 64_100), None);
    }

    #[test]
    fn who_is_there_is_not_asked_about_again_either_and_devices_are_as_told() {
        let mut replica = told_of_devices();
        replica.read_up_to(60_000, 60_040);
        let mut devices = |change: &[DevicesChange]| {
            replica.note_devices(change);
            let found = replica.read(HERE, &user(), 61_000)?;
            assert_eq!(found.last_seen_at, Some(60_000));
            Some(found.devices)
        };
        assert_eq!(devices(&[]), Some(2));
        assert_eq!(devices(&on(10, Some(1))), Some(2), "that was known");
        assert_eq!(devices(&on(11, Some(3))), Some(3));
        assert_eq!(devices(&on(13, Some(0))), Some(0), "within a grace");
        assert_eq!(devices(&on(12, Some(3))), Some(0));
        // Too many to count: it is good for a moment after it was asked, and asked again then.
        assert_eq!(devices(&on(14, None)), None);
        replica.hear(&[(0, edge(8))]);
        assert!(replica.kept.peek(&user()).is_none());
    }

    #[test]
    fn an_answer_that_a_change_of_devices_has_overtaken_is_not_kept() {
        let mut replica = Replica::new();
        let asked = replica.ask(Some(HERE), &[user()], 1_000);
        replica.note_devices(&on(11, Some(1)));
        replica.learn(asked, Some(HERE), [(there(7), true, Some(10))]);
        assert_eq!(read(&mut replica, 1_100), None);
    }

    #[test]
    fn where_an_older_build_lives_devices_may_come_without_being_told() {
        let older = Standing {
            version: DEVICES_ARE_TOLD - 1,
            ..HERE
        };
        let mut replica = Replica::new();
        let asked = replica.ask(Some(older), &[user()], 1_000);
        replica.learn(asked, Some(older), [(there(7), true, Some(10))]);
        replica.read_up_to(60_000, 60_040);
        assert!(replica.read(older, &user(), 1_000 + DEVICES_FOR).is_some());
        assert!(replica.read(older, &user(), 1_001 + DEVICES_FOR).is_none());
        assert!(
            replica.read(HERE, &user(), 1_100).is_none(),
            "it came before"
        );
    }

    #[test]
    fn who_came_back_to_the_registry_without_being_announced_is_there_again() {
        // As if nothing was known: the user's record was lost.
        let mut replica = told(away(0));
        replica.hear(&[(0, edge(9))]);
        assert_eq!(read(&mut replica, 1_100), None);
        let mut mended = edge(9);
        mended.others = Some(Vec::new());
        let mut replica = told(away(0));
        replica.hear(&[(0, mended.clone())]);
        assert_eq!(read(&mut replica, 1_100), None);
        let mut replica = told(there(9));
        replica.hear(&[(0, mended)]);
        assert!(read(&mut replica, 1_100).is_some(), "that was known");
    }

    #[test]
    fn how_new_the_changes_are_is_of_interest_for_some_seconds_after_a_question() {
        let mut replica = Replica::new();
        assert!(!replica.is_asked(60_000));
        assert_eq!(read(&mut replica, 60_000), None);
        assert!(replica.is_asked(60_000 + ASKED_LATELY));
        assert!(!replica.is_asked(60_001 + ASKED_LATELY));
    }

    #[test]
    fn who_is_there_is_asked_about_once_in_a_moment_where_devices_are_not_told() {
        let mut replica = told(there(7));
        replica.read_up_to(2_900, 2_940);
        let found = replica.read(HERE, &user(), 3_000).unwrap();
        assert_eq!(found.last_seen_at, Some(1_000));
        assert_eq!(read(&mut replica, 1_000 + DEVICES_FOR + 1), None);
    }

    #[test]
    fn an_answer_that_a_change_has_overtaken_is_not_kept() {
        let mut replica = Replica::new();
        for act in [
            |replica: &mut Replica| replica.hear(&[(0, edge(9))]),
            |replica: &mut Replica| replica.touch(&user()),
            |replica: &mut Replica| replica.forget(),
        ] {
            let asked = replica.ask(Some(HERE), &[user()], 1_000);
            act(&mut replica);
            // A later question is one of its own.
            let again = replica.ask(Some(HERE), &[user()], 1_001);
            replica.learn(asked, Some(HERE), [(away(7), true, None)]);
            assert_eq!(read(&mut replica, 1_100), None);
            replica.learn(again, Some(HERE), [(away(7), true, None)]);
            assert_eq!(read(&mut replica, 1_100), Some(false));
            act(&mut replica);
            assert_eq!(read(&mut replica, 1_100), None);
        }
    }

    #[test]
    fn of_two_questions_at_once_one_is_kept_and_one_without_an_answer_leaves_nothing() {
        let mut replica = Replica::new();
        let [one, other] = [0; 2].map(|_| replica.ask(Some(HERE), &[user()], 1_000));
        replica.learn(other, Some(HERE), [(away(7), true, None)]);
        assert_eq!(read(&mut replica, 1_100), None);
        replica.learn(one, Some(HERE), [(away(7), true, None)]);
        assert!(read(&mut replica, 1_100).is_some());
        replica.forget();
        let asked = replica.ask(Some(HERE), &[user()], 1_000);
        replica.learn(asked, Some(HERE), []);
        assert!(replica.asked.is_empty() && read(&mut replica, 1_100).is_none());
    }

    #[test]
    fn nothing_is_kept_that_may_not_be_believed_or_is_on_its_way() {
        let after = Standing { hold: 3, ..HERE };
        for (asked_in, told_in, agrees) in [
            (None, Some(HERE), true),
            (Some(HERE), None, true),
            (Some(HERE), Some(after), true),
            (Some(HERE), Some(HERE), false),
        ] {
            let mut replica = Replica::new();
            let asked = replica.ask(asked_in, &[user()], 1_000);
            replica.learn(asked, told_in, [(away(7), agrees, None)]);
            assert!(replica.read(HERE, &user(), 1_100).is_none());
            assert!(replica.read(after, &user(), 1_100).is_none());
        }
        let mut replica = told(away(7));
        assert!(replica.read(after, &user(), 1_100).is_none());
        assert!(read(&mut replica, 1_100).is_none(), "it is gone for good");
    }

    #[test]
    fn a_sample_is_of_others_each_time_and_says_what_would_be_answered() {
        let mut replica = Replica::new();
        let all: Vec<UserName> = (0..10).map(|user| format!(":{user}").into()).collect();
        let asked = replica.ask(Some(HERE), &all, 1_000);
        let found = (0..10).map(|user| (if user < 8 { away(7) } else { there(7) }, true, Some(1)));
        replica.learn(asked, Some(HERE), found);
        let mut seen: Vec<UserName> = (0..4)
            .flat_map(|_| replica.sample(HERE, &[], 3, 1_100))
            .map(|(user, _)| user)
            .collect();
        seen.sort_unstable();
        assert_eq!(seen, all);
        let again = replica.sample(HERE, &all[2..3], 0, 1_100);
        assert_eq!((again.len(), again[0].1.rev), (1, 7));
        let late = 1_000 + MAX_BEHIND + 1;
        assert!(replica.sample(HERE, &all, 0, late).is_empty());
    }

    #[test]
    fn whom_nobody_asks_about_is_forgotten_and_everybody_is_asked_about_some_time() {
        let mut replica = told(away(7));
        let mut now = 1_000;
        while now < ASKED_AGAIN_AFTER {
            now += 1_000;
            replica.read_up_to(now, now);
            assert_eq!(read(&mut replica, now), Some(false));
        }
        replica.read_up_to(now + 1_001, now + 1_001);
        assert_eq!(read(&mut replica, now + 1_001), None);
        let asked = replica.ask(Some(HERE), &[user()], now);
        replica.learn(asked, Some(HERE), [(away(7), true, None)]);
        replica.read_up_to(now + UNASKED_FOR, now + UNASKED_FOR);
        assert!(replica.kept.oldest().is_some());
        replica.read_up_to(now + UNASKED_FOR, now + UNASKED_FOR + 1);
        assert!(replica.kept.oldest().is_none());
    }
}
