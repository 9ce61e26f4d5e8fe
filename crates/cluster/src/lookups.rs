//! Questions about users, gathered: whatever clients ask, the store has a few of them to
//! answer at a time, and none that is long.
//!
//! What is asked while all places are taken waits, and is asked together. Two who wait for one
//! user share its answer. Nobody shares one that was under way already: it may be older than
//! what the asker knows.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};

use hashbrown::HashMap;
use heartline_core::auth::BoxFuture;
use tokio::sync::oneshot;

use crate::locked::locked;
use crate::registry::{Known, Unavailable, UserName};

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

/// Where answers come from.
type Answers<'a> = HashMap<&'a UserName, oneshot::Receiver<Option<Arc<Known>>>>;

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

/// Asks the store about users.
type Ask = dyn Fn(Vec<UserName>) -> BoxFuture<Result<Vec<Known>, Unavailable>> + Send + Sync;

/// What is asked about users.
pub(crate) struct LookUps {
    ask: Box<Ask>,
    waiting: Mutex<Waiting>,
}

impl LookUps {
    /// `ask` asks the store about users.
    pub(crate) fn new(
        ask: impl Fn(Vec<UserName>) -> BoxFuture<Result<Vec<Known>, Unavailable>>
        + Send
        + Sync
        + 'static,
    ) -> Arc<LookUps> {
        Arc::new(LookUps {
            ask: Box::new(ask),
            waiting: Mutex::default(),
        })
    }

    /// What is known of users, in the order asked.
    ///
    /// # Errors
    /// When the store cannot be asked, or about too many already.
    pub(crate) async fn ask(
        self: &Arc<Self>,
        users: &[UserName],
    ) -> Result<Vec<Arc<Known>>, Unavailable> {
        let mut answers: HashMap<&UserName, Option<Arc<Known>>> = HashMap::new();
        for (user, answer) in self.put_in_line(users)? {
            answers.insert(user, answer.await.ok().flatten());
        }
        let known = users.iter().map(|user| answers.get(user)?.clone());
        let known: Option<Vec<Arc<Known>>> = known.collect();
        known.ok_or_else(|| Unavailable("nobody knows of some users".into()))
    }

    fn put_in_line<'a>(
        self: &Arc<Self>,
        users: &'a [UserName],
    ) -> Result<Answers<'a>, Unavailable> {
        let mut waiting = locked(&self.waiting);
        let waiting = &mut *waiting;
        if waiting.line.len() + users.len() > MAX_WAITING {
            return Err(Unavailable("too much is asked of it".into()));
        }
        let mut answers = Answers::new();
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
        let free = MAX_IN_FLIGHT - waiting.in_flight;
        for _ in 0..questions.min(free) {
            waiting.in_flight += 1;
            tokio::spawn(self.clone().work_off());
        }
        Ok(answers)
    }

    /// One question after the other, until nothing waits.
    async fn work_off(self: Arc<Self>) {
        loop {
            let batch = {
                let mut waiting = locked(&self.waiting);
                let batch = waiting.take();
                if batch.is_empty() {
                    waiting.in_flight -= 1;
                    return;
                }
                batch
            };
            let (users, replies): (Vec<UserName>, Vec<Vec<Reply>>) = batch.into_iter().unzip();
            let known = (self.ask)(users).await.unwrap_or_default();
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

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::sync::Semaphore;

    /// Answers once it may, and remembers what it was asked.
    fn store(may: &Arc<Semaphore>) -> (Arc<LookUps>, Arc<Mutex<Vec<Vec<UserName>>>>) {
        let asked: Arc<Mutex<Vec<Vec<UserName>>>> = Arc::default();
        let (remember, may) = (asked.clone(), may.clone());
        let look_ups = LookUps::new(move |users: Vec<UserName>| {
            locked(&remember).push(users.clone());
            let may = may.clone();
            Box::pin(async move {
                may.acquire().await.unwrap().forget();
                let known = users.iter().map(|user| Known {
                    last_seen: user.parse().ok(),
                    ..Known::default()
                });
                Ok(known.collect())
            })
        });
        (look_ups, asked)
    }

    fn names(numbers: std::ops::Range<u64>) -> Vec<UserName> {
        numbers.map(|number| number.to_string().into()).collect()
    }

    #[tokio::test]
    async fn the_store_has_few_questions_at_a_time_and_whoever_waits_for_one_user_shares_them() {
        let may = Arc::new(Semaphore::new(0));
        let (look_ups, asked) = store(&may);
        let ask = |users: Vec<UserName>| {
            let look_ups = look_ups.clone();
            tokio::spawn(async move { look_ups.ask(&users).await.unwrap() })
        };
        // Four places for a thousand who each ask about one user, and two who ask about many.
        let mut askers: Vec<_> = (0..1000).map(|_| ask(names(7..8))).collect();
        askers.push(ask(names(0..550)));
        askers.push(ask([names(100..200), names(100..101)].concat()));
        tokio::task::yield_now().await;
        while locked(&asked).len() < MAX_IN_FLIGHT {
            tokio::task::yield_now().await;
        }
        for _ in 0..100 {
            tokio::task::yield_now().await;
        }
        assert_eq!(locked(&asked).len(), MAX_IN_FLIGHT);
        may.add_permits(1000);
        for (number, asker) in askers.into_iter().enumerate() {
            let known = asker.await.unwrap();
            let seen: Vec<u64> = known.iter().filter_map(|known| known.last_seen).collect();
            match number {
                1000 => assert_eq!(seen, (0..550).collect::<Vec<_>>()),
                1001 => assert_eq!(seen, (100..200).chain([100]).collect::<Vec<_>>()),
                _ => assert_eq!(seen, [7]),
            }
        }
        let asked = locked(&asked);
        assert!(asked.len() < 10, "{}", asked.len());
        assert!(asked.iter().all(|users| users.len() <= MAX_PER_QUESTION));
    }

    #[tokio::test]
    async fn who_asks_a_store_that_is_away_hears_so() {
        let look_ups = LookUps::new(|_| {
            let away = Err(Unavailable("away".into()));
            Box::pin(std::future::ready(away))
        });
        assert!(look_ups.ask(&names(0..300)).await.is_err());
        assert_eq!(look_ups.ask(&[]).await, Ok(Vec::new()));
    }
}
