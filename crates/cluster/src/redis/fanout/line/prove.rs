//! Which line it is, how far it is, and whether what this node has said in it is in what others
//! have.

use std::time::Duration;

use heartline_core::backplane::line::Reached;
use redis::RedisResult;
use serde_json::json;
use tokio::time::Instant;

use super::Line;
use crate::locked::locked;

/// The end of what this node has said in a line: it was acknowledged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct SaidUpTo {
    pub(super) line: u32,
    pub(super) id: u64,
    /// When it was known to be there.
    pub(super) at: Instant,
}

impl SaidUpTo {
    /// The same line's end, as far as it is known from both.
    fn and(self, other: SaidUpTo) -> SaidUpTo {
        SaidUpTo {
            id: self.id.max(other.id),
            at: self.at.max(other.at),
            ..self
        }
    }
}

/// What is known of the line, and what this node has said, as far as it may be lost: a master that
/// stood still acknowledges, though another one has taken its place.
#[derive(Debug, Default)]
pub(super) struct Known {
    /// Which line it is, once somebody has told.
    pub(super) line: Option<u32>,
    /// The last number. Numbers only grow, from line to line too.
    pub(super) last: u64,
    /// What was said in that line.
    pub(super) current: Option<SaidUpTo>,
    /// In lines before it, one for each: nobody has looked yet whether it is in what others have.
    pub(super) open: Vec<SaidUpTo>,
}

impl Known {
    /// How far the line is. True: it is another one.
    pub(super) fn note(&mut self, reached: Reached) -> bool {
        let is_late = reached.last < self.last;
        self.last = self.last.max(reached.last);
        // What is of an earlier line was on its way.
        if self.line == Some(reached.line) || (self.line.is_some() && is_late) {
            return false;
        }
        let is_another = self.line.replace(reached.line).is_some();
        if let Some(said) = self.current.take() {
            self.leave_open(said);
        }
        is_another
    }

    /// This node has said something. Answers may come in another order than they were given, and
    /// after it is another line.
    pub(super) fn said(&mut self, said: SaidUpTo) {
        if self.line != Some(said.line) {
            return self.leave_open(said);
        }
        let before = self.current;
        self.current = Some(before.map_or(said, |before| said.and(before)));
    }

    fn leave_open(&mut self, said: SaidUpTo) {
        match self.open.iter_mut().find(|one| one.line == said.line) {
            Some(one) => *one = one.and(said),
            None => self.open.push(said),
        }
    }
}

impl Line {
    /// The answers of the store say how far the line is.
    pub(super) fn note_reached(&self, epoch: &str, begin: &str, last: &str) -> Reached {
        let read = |text: &str| text.parse::<u64>().unwrap_or_default();
        let reached = Reached {
            line: read(epoch) as u32,
            begin: read(begin),
            last: read(last),
        };
        self.note(reached);
        reached
    }

    /// How far the line is. If it is another one, what was said and who hears it may be
    /// forgotten there: users are named anew, and what was missed is looked for.
    pub(in super::super) fn note(&self, reached: Reached) {
        {
            let mut known = locked(&self.known);
            if known.line == Some(reached.line) {
                known.note(reached);
                return;
            }
        }
        {
            let mut phase = locked(&self.phase);
            if !locked(&self.known).note(reached) {
                return;
            }
            // In the same step: nobody hears of the new line what is not to wait.
            self.cut_in(&mut phase);
        }
        self.work.notify_one();
        self.name_users_anew();
        self.behind.notify_one();
    }

    /// Whether a line is the one that is known, or the first one.
    pub(in super::super) fn is_known(&self, line: u32) -> bool {
        let known = locked(&self.known).line;
        known.is_none_or(|known| known == line)
    }

    /// What this node has said is in a line, up to there.
    pub(super) fn note_said(&self, Reached { line, last, .. }: Reached) {
        let said = SaidUpTo {
            line,
            id: last,
            at: Instant::now(),
        };
        locked(&self.known).said(said);
    }

    /// Looks whether what this node has said in earlier lines is in what others have. If it is not,
    /// and was said when this line was there already, some of those who were told of that have not
    /// heard it: another line begins for all.
    pub(super) async fn prove(&self) -> RedisResult<()> {
        loop {
            let (line, said) = {
                let known = locked(&self.known);
                match known.open.first() {
                    Some(said) => (known.line, *said),
                    None => return Ok(()),
                }
            };
            let mut command = self.call("has", json!({ "line": said.line, "id": said.id }));
            let asked = Instant::now();
            type Answer = (u8, u64, String, String, String);
            let answer = self.ask::<Answer>(command.arg("")).await?;
            let (is_there, age, epoch, begin, last) = answer;
            let reached = self.note_reached(&epoch, &begin, &last);
            if line != Some(reached.line) || locked(&self.known).line != line {
                // A master that is none any more has all that it was told. It does not know of the
                // line in which that is asked, unless it has just begun one.
                return Err((redis::ErrorKind::Io, "it is of another line").into());
            }
            // As old as the line may have been when the answer was received.
            let age = Duration::from_millis(age) + asked.elapsed();
            if is_there == 0 && said.at.elapsed() <= age {
                tracing::warn!(
                    "the Redis of cluster.url has lost publications that it had acknowledged: \
                     everybody is told of a gap"
                );
                locked(&self.queue).owes_all = true;
            }
            // Behind that: whoever ends waits for the one or the other.
            locked(&self.known).open.retain(|one| *one != said);
        }
    }
}
