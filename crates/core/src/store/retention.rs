//! What is removed of what is stored, and by which node.

use std::time::Duration;

/// For how long an invite that has expired or was taken back is known: who comes late is told which
/// of the two it is.
pub const ENDED_INVITES: Duration = Duration::from_secs(30 * 86_400);

/// What is to be kept of messages. The newest of a conversation may outlive both bounds, because
/// what is removed is a beginning: an offset that was kept is never missing in between.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Retention {
    /// How old messages become; `None`: as old as they like.
    pub messages: Option<Duration>,
    /// How many of a conversation or open room there are; `None`: as many as there like.
    pub per_conversation: Option<u64>,
}

impl Retention {
    /// What has to be done now, Unix milliseconds: everything that is removed every so often.
    /// Invites that ended [`ENDED_INVITES`] ago are removed whatever is to be kept of messages.
    pub fn cleanings(&self, now: u64) -> Vec<Cleaning> {
        let before = |age: Duration| {
            let age = u64::try_from(age.as_millis()).unwrap_or(u64::MAX);
            now.saturating_sub(age)
        };
        let of_age = |age| Cleaning::MessagesBefore {
            time: before(age),
            now,
        };
        let age = self.messages.map(of_age);
        let number = self.per_conversation.map(Cleaning::MessagesBeyond);
        let invites = Cleaning::InvitesBefore(before(ENDED_INVITES));
        let messages = age.into_iter().chain(number);
        messages.chain([invites]).collect()
    }
}

/// A kind of thing that is removed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cleaning {
    /// Messages that were stored before a moment, and what came before them in their
    /// conversations. What is stamped later than now was stored by a node whose clock was ahead,
    /// and says nothing of what came after it.
    MessagesBefore {
        /// The moment, Unix milliseconds.
        time: u64,
        /// The present, Unix milliseconds.
        now: u64,
    },
    /// Messages of each conversation and open room but the newest so many.
    MessagesBeyond(u64),
    /// Invites that expired or were taken back before this moment, Unix milliseconds, and who came
    /// by which. An invite without an end stays, also one that is used up.
    InvitesBefore(u64),
}

impl Cleaning {
    /// What it removes, as a word for logs.
    pub fn word(&self) -> &'static str {
        match self {
            Cleaning::MessagesBefore { .. } => "messages by age",
            Cleaning::MessagesBeyond(_) => "messages by number",
            Cleaning::InvitesBefore(_) => "invites",
        }
    }
}

/// What a step of it came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Cleaned {
    /// So many rows were removed.
    pub rows: u64,
    /// From where the next step goes on; `None`: all is done.
    pub next: Option<u64>,
}

/// What is known of something that is done every so often, by one node at a time.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Job {
    /// When it was done last, Unix milliseconds.
    pub last_at: Option<u64>,
    owner: Option<String>,
    owned_until: u64,
}

impl Job {
    /// Whether this node has it from now on until then, Unix milliseconds: nobody else has it,
    /// or the time that somebody had it for is over, or lies after [`Job::horizon`].
    pub fn take(&mut self, owner: &str, now: u64, until: u64) -> bool {
        let is_free = self.owned_until <= now
            || self.owned_until > Job::horizon(now, until)
            || self.owner.as_deref() == Some(owner);
        if is_free {
            self.owner = Some(owner.to_owned());
            self.owned_until = until;
        }
        is_free
    }

    /// Until when a job can be taken at most, Unix milliseconds, where this node takes it until
    /// then: what was taken for more than ten times as long was by a clock that was ahead.
    pub fn horizon(now: u64, until: u64) -> u64 {
        let longest = until.saturating_sub(now).saturating_mul(10);
        now.saturating_add(longest)
    }

    /// The node that has it has done it at this moment, or not at all, and nobody has it. Of one
    /// whose time was over, and that another has, nothing changes.
    pub fn end(&mut self, owner: &str, done: Option<u64>) {
        if self.owner.as_deref() != Some(owner) {
            return;
        }
        self.last_at = self.last_at.max(done);
        self.owner = None;
        self.owned_until = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_job_is_one_nodes_until_its_time_is_over() {
        let mut job = Job::default();
        assert!(job.take("a", 10, 20));
        assert!(!job.take("b", 19, 30));
        assert!(job.take("a", 19, 29));
        assert!(!job.take("b", 28, 38));
        assert!(job.take("b", 29, 39));
        // The time was over for the one before.
        job.end("a", Some(29));
        assert!(job.last_at.is_none() && !job.take("a", 30, 40));
        job.end("b", Some(29));
        assert_eq!(job.last_at, Some(29));
        assert!(job.take("a", 30, 40));
        job.end("a", None);
        assert_eq!(job.last_at, Some(29));
    }

    #[test]
    fn a_job_that_a_clock_far_ahead_took_is_free() {
        let mut job = Job::default();
        assert!(job.take("ahead", 1_000_000, 1_000_010));
        // Its time is not over for long, and nobody takes one for so long.
        assert!(job.take("b", 20, 30));
        assert!(!job.take("c", 21, 31));
        // A clock that is a little ahead is no reason.
        assert!(job.take("b", 110, 120));
        assert!(!job.take("c", 20, 30));
        assert!(job.take("c", 19, 29));
        assert!(job.take("d", 40, u64::MAX) && !job.take("e", 41, u64::MAX));
    }

    #[test]
    fn what_is_off_removes_no_message_and_ended_invites_all_the_same() {
        const MONTH: u64 = 30 * 86_400_000;
        let none = Retention::default();
        assert_eq!(none.cleanings(100_000), [Cleaning::InvitesBefore(0)]);
        let invites = Cleaning::InvitesBefore(7);
        assert_eq!(none.cleanings(MONTH + 7), [invites]);
        let all = Retention {
            messages: Some(Duration::from_secs(10)),
            per_conversation: Some(7),
        };
        let expected = [
            Cleaning::MessagesBefore {
                time: 90_000,
                now: 100_000,
            },
            Cleaning::MessagesBeyond(7),
            Cleaning::InvitesBefore(0),
        ];
        assert_eq!(all.cleanings(100_000), expected);
    }
}
