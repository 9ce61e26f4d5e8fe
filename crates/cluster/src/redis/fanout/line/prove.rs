//! Whether what this node has said is in what others have.

use std::sync::atomic::Ordering;
use std::time::Duration;

use heartline_core::backplane::line::Reached;
use redis::RedisResult;
use serde_json::json;
use tokio::time::Instant;

use super::Line;
use crate::locked::locked;

/// The end of what this node has said in a line: it was acknowledged.
#[derive(Debug, Clone, Copy)]
pub(super) struct SaidUpTo {
    line: u32,
    id: u64,
    /// When it was known to be there.
    pub(super) at: Instant,
}

/// What this node has said, as far as it may be lost: a master that stood still acknowledges,
/// though another one has taken its place.
#[derive(Default)]
pub(super) struct Proof {
    /// In the line that is known.
    pub(super) current: Option<SaidUpTo>,
    /// In lines before it, one for each: nobody has looked yet whether it is in what others have.
    pub(super) open: Vec<SaidUpTo>,
}

impl Proof {
    pub(super) fn is_open(&mut self, said: SaidUpTo) {
        match self.open.iter_mut().find(|one| one.line == said.line) {
            Some(one) if one.id < said.id => *one = said,
            Some(_) => {}
            None => self.open.push(said),
        }
    }
}

impl Line {
    /// What this node has said is in a line, up to there.
    pub(super) fn note_said(&self, Reached { line, last, .. }: Reached) {
        let said = SaidUpTo {
            line,
            id: last,
            at: Instant::now(),
        };
        let mut proof = locked(&self.proof);
        if u64::from(line) == self.epoch.load(Ordering::Relaxed) {
            proof.current = Some(said);
        } else {
            proof.is_open(said);
        }
    }

    /// Looks whether what this node has said in earlier lines is in what others have. If it is not,
    /// and was said when this line was there already, some of those who were told of that have not
    /// heard it: another line begins for all.
    pub(super) async fn prove(&self) -> RedisResult<()> {
        loop {
            let Some(said) = locked(&self.proof).open.first().copied() else {
                return Ok(());
            };
            let mut command = self.call("has", json!({ "line": said.line, "id": said.id }));
            let asked = Instant::now();
            type Answer = (u8, u64, String, String, String);
            let answer = self.ask::<Answer>(command.arg("")).await?;
            let (is_there, age, epoch, begin, last) = answer;
            let line = self.note_reached(&epoch, &begin, &last).line;
            if u64::from(line) != self.epoch.load(Ordering::Relaxed) {
                // What a master says that is none any more proves nothing.
                return Err((redis::ErrorKind::Io, "it is of another line").into());
            }
            let is_same = |one: &SaidUpTo| (one.line, one.id) == (said.line, said.id);
            locked(&self.proof).open.retain(|one| !is_same(one));
            // As old as the line may have been when the answer was received.
            let age = Duration::from_millis(age) + asked.elapsed();
            if is_there == 0 && said.at.elapsed() <= age {
                tracing::warn!(
                    "the Redis of cluster.url has lost publications that it had acknowledged: \
                     everybody is told of a gap"
                );
                locked(&self.queue).owes_all = true;
            }
        }
    }
}
