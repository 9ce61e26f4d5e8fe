//! Questions about users, gathered: whatever clients ask, the store has a few of them to
//! answer at a time, and none that is long.
//!
//! What is asked while all places are taken waits, and is asked together. Two who wait for one
//! user share its answer. Nobody shares one that was under way already: it may be older than
//! what the asker knows.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};

use hashbrown::HashMap;
use tokio::sync::oneshot;

use crate::locked::locked;
use crate::member::{Local, Member};
use crate::registry::{Known, Registry, Unavailable, UserName};

/// Questions of a node that the store has to answer at once. It answers one after the other,
/// and what all nodes have to say to it waits behind them.
const MAX_IN_FLIGHT: usize = 4;
/// Users in one question.
const MAX_PER_QUESTION: usize = 100;
/// Users about whom is to be asked yet: some megabytes. Who asks about more is answered by what
/// the node knows itself.
const MAX_WAITING: usize = 65_536;

/// Where an answer goes; `None`: there is none.
type Reply = oneshot::Sender<Option<Arc<Known>>>;

#[derive(Default)]
struct Waiting {
    in_flight: usize,
    line: VecDeque<UserName>,
    replies: HashMap<UserName, Vec<Reply>>,
}

impl Waiting {
    fn take(&mut self) -> Vec<(UserName, Vec<Reply>)> {
        let count = self.line.len().min(MAX_PER_QUESTION);
        let next = self.line.drain(..count);
        next.filter_map(|user| self.replies.remove_entry(&user))
            .collect()
    }
}

/// What is asked about users.
#[derive(Default)]
pub(crate) struct LookUps(Mutex<Waiting>);

impl LookUps {
    /// What is known of users, in the order asked.
    ///
    /// # Errors
    /// When the registry cannot be asked, or about too many already.
    pub(crate) async fn ask<R: Registry, L: Local>(
        self: &Arc<Self>,
        member: &Arc<Member<R, L>>,
        users: &[UserName],
    ) -> Result<Vec<Arc<Known>>, Unavailable> {
        let mut answers: HashMap<&UserName, Option<Arc<Known>>> = HashMap::new();
        for (user, answer) in self.put_in_line(member, users)? {
            answers.insert(user, answer.await.ok().flatten());
        }
        let known = users.iter().map(|user| answers.get(user)?.clone());
        let known: Option<Vec<Arc<Known>>> = known.collect();
        known.ok_or_else(|| Unavailable("nobody knows of some users".into()))
    }

    fn put_in_line<'a, R: Registry, L: Local>(
        self: &Arc<Self>,
        member: &Arc<Member<R, L>>,
        users: &'a [UserName],
    ) -> Result<HashMap<&'a UserName, oneshot::Receiver<Option<Arc<Known>>>>, Unavailable> {
        let mut waiting = locked(&self.0);
        let waiting = &mut *waiting;
        if waiting.line.len() + users.len() > MAX_WAITING {
            return Err(Unavailable("too much is asked of it".into()));
        }
        let mut answers = HashMap::new();
        for user in users {
            if answers.contains_key(user) {
                continue;
            }
            let (reply, answer) = oneshot::channel();
            answers.insert(user, answer);
            let replies = waiting.replies.entry(user.clone()).or_default();
            if replies.is_empty() {
                waiting.line.push_back(user.clone());
            }
            replies.push(reply);
        }
        let questions = waiting.line.len().div_ceil(MAX_PER_QUESTION);
        for _ in waiting.in_flight..MAX_IN_FLIGHT.min(questions) {
            waiting.in_flight += 1;
            tokio::spawn(self.clone().work_off(member.clone()));
        }
        Ok(answers)
    }

    /// One question after the other, until nothing waits.
    async fn work_off<R: Registry, L: Local>(self: Arc<Self>, member: Arc<Member<R, L>>) {
        loop {
            let batch = {
                let mut waiting = locked(&self.0);
                let batch = waiting.take();
                if batch.is_empty() {
                    waiting.in_flight -= 1;
                    return;
                }
                batch
            };
            let (users, replies): (Vec<UserName>, Vec<Vec<Reply>>) = batch.into_iter().unzip();
            let known = member.look_up(&users).await.unwrap_or_default();
            let mut known = known.into_iter().map(Arc::new);
            for replies in replies {
                let known = known.next();
                for reply in replies {
                    // Who asked may wait no longer.
                    let _ = reply.send(known.clone());
                }
            }
        }
    }
}
