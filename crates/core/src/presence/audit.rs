//! Whether what clients believe of users is so: pictures of some, compared with what there is.
//!
//! What differs may be on its way. It is looked at again a moment later, and if the picture has
//! not changed by then, the time in between was wrong; and so on until it is right. What is
//! counted is thus seconds of users who were looked at, never too many: a sample of all.

use std::sync::Arc;
use std::time::Duration;

use hashbrown::HashMap;
use heartline_wire::time::Micros;

use crate::entries::UserPresence;

/// How often some are looked at.
pub const EVERY: Duration = Duration::from_secs(10);
/// How many: one question.
pub const SAMPLE: usize = 20;
/// After how long what differs is looked at again. What is on its way has come by then, unless
/// it is late.
pub const AGAIN: Duration = Duration::from_secs(1);
/// How many differ at most of whom that is known: one question. There are more only where
/// something is wrong with all.
const MAX_SUSPECTS: usize = 80;

/// Why a picture that did not say that it is stale was wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cause {
    /// The change was announced, and has not come to this node's clients.
    Late,
    /// The user has a socket, and was not announced as online.
    Unannounced,
    /// The user has no socket any more, and was not announced as offline.
    Unswept,
    /// Announced is what is so, and nothing after what the clients were told.
    Lost,
}

impl Cause {
    /// All, as labels.
    pub const WORDS: [&str; 4] = ["late", "unannounced", "unswept", "lost"];

    /// Why what is believed is wrong; `None`: it is right.
    fn of(believed: &Believed, found: &UserPresence) -> Option<Cause> {
        let announced = found.types.iter().any(|known| known.online);
        if believed.online == found.online {
            None
        } else if announced != found.online {
            Some(match found.online {
                true => Cause::Unannounced,
                false => Cause::Unswept,
            })
        } else if found.rev > believed.rev {
            Some(Cause::Late)
        } else {
            Some(Cause::Lost)
        }
    }
}

/// A user within a tenant.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Who {
    /// The tenant; `None` where there are none.
    pub tenant: Option<Arc<str>>,
    /// The user.
    pub user: Arc<str>,
}

/// A user in a picture that is not said to be stale.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Believed {
    /// The user.
    pub who: Who,
    /// As clients were told.
    pub online: bool,
    /// The number of the change that they were told of last.
    pub rev: u64,
}

#[derive(Debug)]
struct Suspect {
    believed: Believed,
    /// It was so when it was looked at last.
    at: Micros,
}

/// What is known of pictures that are wrong.
#[derive(Debug, Default)]
pub struct Auditor {
    suspects: HashMap<Who, Suspect>,
    sampled: Option<Micros>,
    looked: Option<Micros>,
    wrong: [Duration; Cause::WORDS.len()],
}

impl Auditor {
    /// Whether it is time to look: at whom again, and at how many others. `None`: it is not.
    pub fn due(&mut self, now: Micros) -> Option<(Vec<Who>, usize)> {
        let is_over =
            |since: Option<Micros>, pause: Duration| since.is_none_or(|since| now - since >= pause);
        let others = is_over(self.sampled, EVERY);
        let again = !self.suspects.is_empty() && is_over(self.looked, AGAIN);
        if !others && !again {
            return None;
        }
        self.looked = Some(now);
        if others {
            self.sampled = Some(now);
        }
        let some = if others { SAMPLE } else { 0 };
        Some((self.suspects.keys().cloned().collect(), some))
    }

    /// Nobody believes anything for a while: what is wrong after it is looked at anew.
    pub fn pause(&mut self) {
        self.suspects.clear();
    }

    /// What clients believed at `now`, and what was found of each after that: all who were to be
    /// looked at again, if they are believed anything still, and others. Answers those who were
    /// found to be wrong for some time: nothing is on its way that would mend it.
    pub fn compare(
        &mut self,
        now: Micros,
        looked_at: impl IntoIterator<Item = (Believed, UserPresence)>,
    ) -> Vec<Who> {
        let before = std::mem::take(&mut self.suspects);
        let mut confirmed = Vec::new();
        for (believed, found) in looked_at {
            if found.stale || self.suspects.len() >= MAX_SUSPECTS {
                continue;
            }
            let Some(cause) = Cause::of(&believed, &found) else {
                continue;
            };
            let who = believed.who.clone();
            if let Some(suspect) = before
                .get(&who)
                .filter(|before| before.believed == believed)
            {
                self.wrong[cause as usize] += now - suspect.at;
                confirmed.push(who.clone());
            }
            self.suspects.insert(who, Suspect { believed, at: now });
        }
        confirmed
    }

    /// For how many seconds users were wrong in pictures, by the cause's word.
    pub fn wrong(&self) -> [(&'static str, f64); Cause::WORDS.len()] {
        let mut all = Cause::WORDS.map(|word| (word, 0.0));
        for ((_, seconds), wrong) in all.iter_mut().zip(self.wrong) {
            *seconds = wrong.as_secs_f64();
        }
        all
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::entries::TypePresence;

    const SECOND: Duration = Duration::from_secs(1);

    fn who(user: &str) -> Who {
        Who {
            tenant: None,
            user: user.into(),
        }
    }

    fn believed(user: &str, online: bool, rev: u64) -> Believed {
        let who = who(user);
        Believed { who, online, rev }
    }

    /// Has a socket or not, and was announced so or not.
    fn found(online: bool, announced: bool, rev: u64) -> UserPresence {
        UserPresence {
            user_id: String::new(),
            online,
            devices: 0,
            last_seen_at: None,
            rev,
            stale: false,
            types: vec![TypePresence {
                user_type: None,
                online: announced,
                rev,
            }],
        }
    }

    #[test]
    fn a_picture_that_stays_wrong_is_counted_from_the_first_look_on_by_its_cause() {
        for (online, found, word) in [
            (false, found(true, true, 8), "late"),
            (true, found(false, false, 8), "late"),
            (false, found(true, true, 7), "lost"),
            (false, found(true, false, 7), "unannounced"),
            (true, found(false, true, 7), "unswept"),
        ] {
            let mut auditor = Auditor::default();
            let mut now = Micros::ZERO;
            for look in 0..4 {
                let seen = (believed("ann", online, 7), found.clone());
                let confirmed = auditor.compare(now, [seen]);
                assert_eq!(confirmed.is_empty(), look == 0, "{word}");
                now += SECOND;
            }
            let seen = (believed("ann", found.online, 8), found.clone());
            assert!(auditor.compare(now, [seen]).is_empty());
            for (cause, seconds) in auditor.wrong() {
                let expected = if cause == word { 3.0 } else { 0.0 };
                assert_eq!(seconds, expected, "{word}: {cause}");
            }
        }
    }

    #[test]
    fn while_nobody_believes_anything_nothing_is_wrong() {
        let mut auditor = Auditor::default();
        let at = |seconds: u64| Micros(seconds * 1_000_000);
        let wrong = || [(believed("ann", false, 7), found(true, true, 7))];
        auditor.compare(at(0), wrong());
        auditor.pause();
        assert!(auditor.compare(at(60), wrong()).is_empty());
        auditor.compare(at(61), wrong());
        let counted: f64 = auditor.wrong().iter().map(|(_, seconds)| seconds).sum();
        assert_eq!(counted, 1.0);
    }

    #[test]
    fn what_is_right_on_its_way_or_not_known_counts_nothing() {
        let stale = UserPresence {
            stale: true,
            ..found(true, true, 9)
        };
        for seen in [
            [(true, found(true, true, 7)), (true, found(true, true, 7))],
            [(false, found(true, true, 8)), (true, found(true, true, 8))],
            // Another change each time: it is told, though slowly.
            [(false, found(true, true, 8)), (false, found(true, true, 9))],
            [(false, stale.clone()), (false, stale)],
        ] {
            let mut auditor = Auditor::default();
            for (look, (online, found)) in seen.into_iter().enumerate() {
                let seen = (believed("ann", online, look as u64), found);
                auditor.compare(Micros(look as u64 * 1_000_000), [seen]);
            }
            assert!(auditor.wrong().iter().all(|(_, seconds)| *seconds == 0.0));
        }
    }

    #[test]
    fn who_differed_is_looked_at_again_soon_and_whoever_nobody_watches_is_let_go() {
        let mut auditor = Auditor::default();
        let at = |seconds: u64| Micros(seconds * 1_000_000);
        assert_eq!(auditor.due(at(0)), Some((Vec::new(), SAMPLE)));
        assert_eq!(auditor.due(at(9)), None);
        auditor.compare(at(0), [(believed("ann", false, 7), found(true, true, 8))]);
        assert_eq!(auditor.due(at(9)), Some((vec![who("ann")], 0)));
        assert_eq!(auditor.due(at(10)), Some((vec![who("ann")], SAMPLE)));
        auditor.compare(at(10), []);
        assert_eq!(auditor.due(at(19)), None);
        let many = (0..1000).map(|number| {
            let who = number.to_string();
            (believed(&who, false, 7), found(true, true, 8))
        });
        auditor.compare(at(20), many);
        assert_eq!(auditor.suspects.len(), MAX_SUSPECTS);
    }
}
