//! What the nodes of a cluster keep together of requests under keys: who does one, and its answer.

use std::sync::Arc;
use std::time::Duration;

use heartline::Gateway;
use heartline::auth::BoxFuture;
use heartline_cluster::{OnceKnown, RedisOnce};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, sleep, timeout};

use super::{Answer, Claim, Fingerprint, MAX_RUNNING, RUNS_FOR};

/// How long the others' memory is waited for, before and after a request is done: it is no reason
/// not to do it.
pub(in crate::admin) const PATIENCE: Duration = Duration::from_secs(2);

/// How long after they could not be told the others are told again: a failover takes some seconds.
const AGAIN: Duration = Duration::from_secs(2);

/// Answers that wait until the others can be told of them: as many as requests may run. Each has
/// 64 KB at most, which the node's own table has as well.
const UNTOLD: usize = MAX_RUNNING;

/// A request that is done by this node.
#[derive(Clone)]
pub(super) struct Ask {
    pub(super) key: Arc<str>,
    pub(super) fingerprint: Fingerprint,
    /// Tells it from the same request at another node.
    pub(super) token: u64,
    pub(super) begun: Instant,
}

/// What nodes share. One that does not answer knows nothing.
pub(super) trait Shelf: Send + Sync + 'static {
    /// Whether it is known not to be reached at present.
    fn is_away(&self) -> bool;

    /// As [`RedisOnce::claim`].
    fn claim(&self, ask: &Ask) -> BoxFuture<Result<Option<OnceKnown>, String>>;

    /// As [`RedisOnce::finish`].
    fn finish(&self, ask: &Ask, answer: Option<&Answer>) -> BoxFuture<Result<(), String>>;
}

/// It is Redis.
pub(super) struct InRedis {
    pub(super) once: Arc<RedisOnce>,
    pub(super) gateway: Gateway,
}

impl Shelf for InRedis {
    fn is_away(&self) -> bool {
        let status = self.gateway.cluster_status();
        status.is_some_and(|status| status.unreachable)
    }

    fn claim(&self, ask: &Ask) -> BoxFuture<Result<Option<OnceKnown>, String>> {
        let (once, ask, now) = (self.once.clone(), ask.clone(), self.gateway.unix_millis());
        Box::pin(async move {
            let claimed = once.claim(&ask.key, &ask.fingerprint, ask.token, now).await;
            claimed.map_err(|error| error.to_string())
        })
    }

    fn finish(&self, ask: &Ask, answer: Option<&Answer>) -> BoxFuture<Result<(), String>> {
        let (once, ask, now) = (self.once.clone(), ask.clone(), self.gateway.unix_millis());
        let answer = answer.map(Answer::write);
        Box::pin(async move {
            let (fingerprint, answer) = (&ask.fingerprint, answer.as_deref());
            let told = once.finish(&ask.key, fingerprint, ask.token, answer, now);
            told.await.map_err(|error| error.to_string())
        })
    }
}

/// Whether the others know that a request is done by this node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Claimed {
    /// They have said so.
    Surely,
    /// They have been asked, and have not answered.
    Perhaps,
    /// They were away.
    Not,
}

/// What nodes of a cluster keep together.
pub(super) struct Together {
    shelf: Box<dyn Shelf>,
    untold: Arc<Semaphore>,
}

impl Together {
    pub(super) fn on(shelf: impl Shelf) -> Together {
        Together {
            shelf: Box::new(shelf),
            untold: Arc::new(Semaphore::new(UNTOLD)),
        }
    }

    /// What becomes of a request, as the others know; where they know nothing, it is begun.
    pub(super) async fn claim(&self, ask: &Ask) -> (Claim, Claimed) {
        if self.shelf.is_away() {
            return (Claim::Begun, Claimed::Not);
        }
        let known = match timeout(PATIENCE, self.shelf.claim(ask)).await {
            Ok(Ok(None)) => return (Claim::Begun, Claimed::Surely),
            Ok(Ok(Some(known))) => known,
            Ok(Err(error)) => {
                tracing::debug!(%error, "whether a request was done elsewhere is not known");
                return (Claim::Begun, Claimed::Perhaps);
            }
            Err(_) => return (Claim::Begun, Claimed::Perhaps),
        };
        if known.fingerprint != ask.fingerprint {
            return (Claim::Reused, Claimed::Not);
        }
        let answer = known.answer.and_then(|answer| Answer::read(&answer));
        let claim = answer.map_or(Claim::Running, Claim::Done);
        (claim, Claimed::Not)
    }

    /// A request is done, and its answer is kept; without one it may be done again, by whichever
    /// node. Where the others know that it runs here, they are told before its caller is answered,
    /// if they can be. Who cannot be told now is told later, and nobody waits for that.
    pub(super) async fn finish(
        self: Arc<Self>,
        ask: Ask,
        claimed: Claimed,
        answer: Option<Answer>,
    ) {
        if claimed == Claimed::Not && answer.is_none() {
            return;
        }
        if claimed == Claimed::Surely && self.tell(&ask, answer.as_ref()).await {
            return;
        }
        let Ok(room) = self.untold.clone().try_acquire_owned() else {
            tracing::debug!("too many answers are not known to other nodes; one more is not");
            return;
        };
        tokio::spawn(self.insist(ask, answer, room));
    }

    /// Tells the others again and again until they know, or it is too late.
    async fn insist(
        self: Arc<Self>,
        ask: Ask,
        answer: Option<Answer>,
        _room: OwnedSemaphorePermit,
    ) {
        while is_worth_telling(ask.begun, Instant::now()) {
            sleep(AGAIN).await;
            if self.tell(&ask, answer.as_ref()).await {
                return;
            }
        }
        tracing::debug!("an answer to a request under a key stays unknown to other nodes");
    }

    /// Whether the others know now.
    async fn tell(&self, ask: &Ask, answer: Option<&Answer>) -> bool {
        if self.shelf.is_away() {
            return false;
        }
        let error = match timeout(PATIENCE, self.shelf.finish(ask, answer)).await {
            Ok(Ok(())) => return true,
            Ok(Err(error)) => error,
            Err(_) => "no answer in time".to_owned(),
        };
        tracing::debug!(error, "an answer is not known to other nodes yet");
        false
    }
}

/// Whether others are still to be told of a request that was begun then: later, they have given it
/// up, and may have begun it themselves.
fn is_worth_telling(begun: Instant, now: Instant) -> bool {
    now.duration_since(begun) + AGAIN < RUNS_FOR
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use std::sync::Mutex;

    use axum::body::Bytes;
    use axum::http::{HeaderMap, StatusCode};

    /// What the shelf of a test does when it is asked.
    #[derive(Debug, Clone, Copy, PartialEq, Eq)]
    pub(in super::super) enum Mood {
        Answers,
        Fails,
        IsSilent,
        IsAway,
    }

    /// A shelf of a test, and what it was told: of which key, and whether with an answer.
    #[derive(Clone)]
    pub(in super::super) struct Moody {
        pub(in super::super) mood: Arc<Mutex<Mood>>,
        pub(in super::super) told: Arc<Mutex<Vec<(String, bool)>>>,
        /// How often it was asked for anything.
        pub(in super::super) asked: Arc<Mutex<usize>>,
    }

    impl Moody {
        pub(in super::super) fn new(mood: Mood) -> Moody {
            Moody {
                mood: Arc::new(Mutex::new(mood)),
                told: Arc::default(),
                asked: Arc::default(),
            }
        }

        pub(in super::super) fn is_now(&self, mood: Mood) {
            *self.mood.lock().unwrap() = mood;
        }

        pub(in super::super) fn told(&self) -> Vec<(String, bool)> {
            self.told.lock().unwrap().clone()
        }

        fn asked(&self) -> usize {
            *self.asked.lock().unwrap()
        }

        fn answer<T: Send + 'static>(&self, answer: T) -> BoxFuture<Result<T, String>> {
            *self.asked.lock().unwrap() += 1;
            match *self.mood.lock().unwrap() {
                Mood::Answers => Box::pin(async { Ok(answer) }),
                Mood::Fails => Box::pin(async { Err("cut".to_owned()) }),
                Mood::IsSilent => Box::pin(std::future::pending()),
                Mood::IsAway => unreachable!("nobody asks who is known to be away"),
            }
        }
    }

    impl Shelf for Moody {
        fn is_away(&self) -> bool {
            *self.mood.lock().unwrap() == Mood::IsAway
        }

        fn claim(&self, _: &Ask) -> BoxFuture<Result<Option<OnceKnown>, String>> {
            self.answer(None)
        }

        fn finish(&self, ask: &Ask, answer: Option<&Answer>) -> BoxFuture<Result<(), String>> {
            let finished = self.answer(());
            if *self.mood.lock().unwrap() == Mood::Answers {
                let told = (ask.key.to_string(), answer.is_some());
                self.told.lock().unwrap().push(told);
            }
            finished
        }
    }

    fn ask() -> Ask {
        Ask {
            key: "k".into(),
            fingerprint: [0; 32],
            token: 1,
            begun: Instant::now(),
        }
    }

    fn answer() -> Option<Answer> {
        Answer::kept(StatusCode::OK, &HeaderMap::new(), &Bytes::new())
    }

    fn on(mood: Mood) -> (Moody, Arc<Together>) {
        let shelf = Moody::new(mood);
        (shelf.clone(), Arc::new(Together::on(shelf)))
    }

    /// How long something takes.
    async fn takes(what: impl Future<Output = ()>) -> Duration {
        let begun = Instant::now();
        let done = timeout(RUNS_FOR, what).await;
        assert!(done.is_ok(), "it does not end");
        begun.elapsed()
    }

    #[tokio::test(start_paused = true)]
    async fn a_silent_redis_delays_a_request_by_two_seconds_before_it_is_done() {
        let (_, together) = on(Mood::IsSilent);
        let took = takes(async {
            let (claim, claimed) = together.claim(&ask()).await;
            assert_eq!((claim, claimed), (Claim::Begun, Claimed::Perhaps));
        });
        assert_eq!(took.await, Duration::from_secs(2));
        let (_, together) = on(Mood::IsAway);
        let took = takes(async {
            assert_eq!(together.claim(&ask()).await, (Claim::Begun, Claimed::Not));
        });
        assert_eq!(took.await, Duration::ZERO);
    }

    #[tokio::test(start_paused = true)]
    async fn an_answer_waits_two_seconds_for_others_who_know_of_it_and_not_at_all_for_those_who_do_not()
     {
        for (claimed, time) in [
            (Claimed::Surely, 2),
            (Claimed::Perhaps, 0),
            (Claimed::Not, 0),
        ] {
            let (shelf, together) = on(Mood::IsSilent);
            let took = takes(together.finish(ask(), claimed, answer())).await;
            assert_eq!(took, Duration::from_secs(time), "{claimed:?}");
            shelf.is_now(Mood::Answers);
            sleep(AGAIN * 3).await;
            assert_eq!(shelf.told(), [("k".into(), true)], "{claimed:?}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn others_who_could_not_be_told_of_an_answer_are_told_when_they_can_be() {
        for mood in [Mood::Fails, Mood::IsSilent, Mood::IsAway] {
            for given in [answer(), None] {
                let (shelf, together) = on(mood);
                let is_kept = given.is_some();
                together.finish(ask(), Claimed::Surely, given).await;
                sleep(RUNS_FOR / 2).await;
                assert!(shelf.told().is_empty());
                shelf.is_now(Mood::Answers);
                sleep(AGAIN + PATIENCE).await;
                assert_eq!(shelf.told(), [("k".to_owned(), is_kept)], "{mood:?}");
                // Once is enough.
                sleep(RUNS_FOR).await;
                assert_eq!(shelf.told().len(), 1);
            }
        }
        // Who knows nothing of it need not hear that it came to nothing.
        let (shelf, together) = on(Mood::Answers);
        together.finish(ask(), Claimed::Not, None).await;
        sleep(RUNS_FOR).await;
        assert_eq!(shelf.asked(), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn others_are_told_no_more_when_they_may_have_begun_it_themselves() {
        let (shelf, together) = on(Mood::Fails);
        let room = together.untold.clone();
        let mut late = ask();
        late.begun = Instant::now() - RUNS_FOR / 2;
        together.finish(late, Claimed::Surely, answer()).await;
        sleep(RUNS_FOR / 2).await;
        let asked = shelf.asked();
        assert!((2..=31).contains(&asked), "{asked}");
        assert_eq!(room.available_permits(), UNTOLD);
        shelf.is_now(Mood::Answers);
        sleep(RUNS_FOR).await;
        assert!(shelf.told().is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn no_more_answers_wait_for_redis_than_there_is_room_for() {
        let (shelf, together) = on(Mood::IsAway);
        for _ in 0..UNTOLD + 10 {
            let told = together.clone();
            told.finish(ask(), Claimed::Not, answer()).await;
        }
        assert_eq!(together.untold.available_permits(), 0);
        // Who waits for a caller's answer is not among them, nor is it kept from being told.
        let told = together.clone();
        told.finish(ask(), Claimed::Surely, answer()).await;
        shelf.is_now(Mood::Answers);
        let told = together.clone();
        told.finish(ask(), Claimed::Surely, answer()).await;
        assert_eq!(shelf.told().len(), 1);
        sleep(AGAIN * 2).await;
        assert_eq!(shelf.told().len(), 1 + UNTOLD);
        assert_eq!(together.untold.available_permits(), UNTOLD);
    }
}
