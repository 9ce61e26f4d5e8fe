//! Whether other nodes live, as one node finds by asking a few of them again and again. Time is
//! an argument, and what comes of it is said by whoever asks them.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use heartline_core::backplane::Probed;
use tokio::time::Instant;

/// How many nodes before this one in the ring are asked, and how many after it: whoever dies
/// is missed by up to twice as many, and the cost does not depend on how many nodes there are.
pub(crate) const NEIGHBOURS_EACH_WAY: usize = 2;
/// Questions to one node that are remembered without an answer: the oldest and the newest.
const MAX_WAITING: usize = 8;
/// Refusals in a row from which on nobody is taken to be there: one may be a listener's bad luck.
const REFUSALS: u32 = 2;
/// How long whoever has refuted a suspicion is not suspected again, the first time; twice as
/// long each further time, up to the most.
const MIN_TRUST: Duration = Duration::from_secs(2);
const MAX_TRUST: Duration = Duration::from_secs(60);

/// How often is asked, and how long waited, all by one setting.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Rhythm {
    /// For how long a node may be silent; answers that are slow anyway are given more.
    timeout: Duration,
}

impl Rhythm {
    pub(crate) fn new(timeout: Duration) -> Rhythm {
        Rhythm { timeout }
    }

    /// Between two questions to one node.
    pub(crate) fn interval(self) -> Duration {
        self.timeout / 4
    }

    /// Between two [turns](Probes::turn) at most.
    fn tick(self) -> Duration {
        self.timeout / 12
    }

    /// Before a question that failed is put again.
    fn between_failures(self) -> Duration {
        self.timeout / 24
    }

    /// How long an answer is waited for: it is worth something after the timeout too.
    pub(crate) fn patience(self) -> Duration {
        self.timeout * 2
    }

    /// How long whoever is suspected has time to refute it.
    pub(crate) fn window(self) -> Duration {
        self.timeout / 3
    }

    /// Between two times that the same is said of a node: a little more than the window, so
    /// that it has passed where it is measured.
    fn between_suspicions(self) -> Duration {
        self.window() * 9 / 8
    }

    /// How long nobody is suspected after the store was out of reach: others may have as much
    /// trouble to reach it, and could not refute it.
    fn calm(self) -> Duration {
        self.timeout * 5 / 2
    }
}

/// What is to be done now.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Turn {
    /// Whom to ask, each question with its number.
    pub(crate) ask: Vec<(Arc<str>, u64)>,
    /// Of whom to say that it may be dead; whether this was said before.
    pub(crate) suspect: Vec<(Arc<str>, bool)>,
}

/// A suspicion that was not refuted yet.
struct Suspicion {
    /// When to say it next.
    next: Instant,
    said: bool,
}

struct Peer {
    next: Instant,
    /// Questions since the last answer, the oldest first.
    waiting: VecDeque<(u64, Instant)>,
    refusals: u32,
    /// The mean of the time that answers take, and how far they are from it.
    round_trip: (Duration, Duration),
    suspicion: Option<Suspicion>,
    trusted_until: Option<Instant>,
    trust: Duration,
}

impl Peer {
    fn new(now: Instant) -> Peer {
        Peer {
            next: now,
            waiting: VecDeque::new(),
            refusals: 0,
            round_trip: Default::default(),
            suspicion: None,
            trusted_until: None,
            trust: MIN_TRUST,
        }
    }

    fn answered(&mut self, id: u64, now: Instant) {
        if let Some((_, asked)) = self.waiting.iter().find(|(asked, _)| *asked == id) {
            let took = now.saturating_duration_since(*asked);
            let (mean, spread) = self.round_trip;
            let mean = (mean * 7 + took) / 8;
            self.round_trip = (mean, (spread * 3 + mean.abs_diff(took)) / 4);
        }
        // However long ago it was asked: it answers now.
        self.waiting.clear();
        self.refusals = 0;
        self.suspicion = None;
        self.trust = MIN_TRUST;
    }

    fn is_silent(&self, rhythm: Rhythm, now: Instant) -> bool {
        let (mean, spread) = self.round_trip;
        let usual = (mean + spread * 4).min(rhythm.timeout);
        let since = self.waiting.front().map(|(_, asked)| *asked);
        self.refusals >= REFUSALS
            || since
                .is_some_and(|asked| now.saturating_duration_since(asked) >= rhythm.timeout + usual)
    }
}

/// What one node knows of those that it asks.
pub(crate) struct Probes {
    rhythm: Rhythm,
    peers: BTreeMap<Arc<str>, Peer>,
    /// When the next turn is due.
    due: Option<Instant>,
    number: u64,
    calm_until: Option<Instant>,
}

impl Probes {
    pub(crate) fn new(rhythm: Rhythm) -> Probes {
        Probes {
            rhythm,
            peers: BTreeMap::new(),
            due: None,
            number: 0,
            calm_until: None,
        }
    }

    /// These are asked from now on, and no others.
    pub(crate) fn ask_only(&mut self, names: &[Arc<str>], now: Instant) {
        self.peers.retain(|name, _| names.contains(name));
        for name in names {
            let peers = &mut self.peers;
            peers.entry(name.clone()).or_insert_with(|| Peer::new(now));
        }
    }

    /// When the next turn is due; it may come before.
    pub(crate) fn due(&mut self, now: Instant) -> Instant {
        let peers = self.peers.values();
        let next = peers.flat_map(|peer| {
            let suspicion = peer.suspicion.as_ref();
            [Some(peer.next), suspicion.map(|suspicion| suspicion.next)]
        });
        let next = next.flatten().min().unwrap_or(now + self.rhythm.tick());
        let due = next.min(now + self.rhythm.tick()).max(now);
        self.due = Some(due);
        due
    }

    /// What is to be done now.
    pub(crate) fn turn(&mut self, now: Instant) -> Turn {
        self.notice_pause(now);
        let rhythm = self.rhythm;
        let is_calm = self.calm_until.is_some_and(|until| now < until);
        let mut turn = Turn::default();
        for (name, peer) in &mut self.peers {
            if now >= peer.next {
                peer.next = now + rhythm.interval();
                self.number += 1;
                if peer.waiting.len() == MAX_WAITING {
                    peer.waiting.pop_back();
                }
                peer.waiting.push_back((self.number, now));
                turn.ask.push((name.clone(), self.number));
            }
            let is_trusted = peer.trusted_until.is_some_and(|until| now < until);
            if is_calm || is_trusted || !peer.is_silent(rhythm, now) {
                continue;
            }
            let suspicion = peer.suspicion.get_or_insert(Suspicion {
                next: now,
                said: false,
            });
            if now >= suspicion.next {
                turn.suspect.push((name.clone(), suspicion.said));
                suspicion.next = now + rhythm.between_suspicions();
                suspicion.said = true;
            }
        }
        turn
    }

    /// Silence counts only as far as was listened: in a pause of this process nobody could have
    /// been heard.
    fn notice_pause(&mut self, now: Instant) {
        let due = self.due.unwrap_or(now);
        let pause = now.saturating_duration_since(due);
        if pause < self.rhythm.interval() / 2 {
            return;
        }
        for peer in self.peers.values_mut() {
            peer.suspicion = None;
            for (_, asked) in &mut peer.waiting {
                *asked += pause;
            }
        }
        self.due = Some(now);
    }

    /// What came of a question.
    pub(crate) fn probed(&mut self, name: &str, number: u64, probed: Probed, now: Instant) {
        let Some(peer) = self.peers.get_mut(name) else {
            return;
        };
        match probed {
            Probed::Answered => return peer.answered(number, now),
            // Nothing is learned by asking again at once.
            Probed::Refused if peer.refusals + 1 >= REFUSALS => {
                peer.refusals = REFUSALS;
                return;
            }
            Probed::Refused => peer.refusals += 1,
            Probed::Failed => peer.refusals = 0,
        }
        peer.next = peer.next.min(now + self.rhythm.between_failures());
    }

    /// Whoever was suspected is there: it is only not reached from here.
    pub(crate) fn refuted(&mut self, name: &str, now: Instant) {
        if let Some(peer) = self.peers.get_mut(name) {
            peer.suspicion = None;
            peer.trusted_until = Some(now + peer.trust);
            peer.trust = (peer.trust * 2).min(MAX_TRUST);
        }
    }

    /// Whoever was suspected is dead.
    pub(crate) fn died(&mut self, name: &str) {
        self.peers.remove(name);
    }

    /// The store was out of reach: nobody is suspected for a while.
    pub(crate) fn store_failed(&mut self, now: Instant) {
        self.calm_until = Some(now + self.rhythm.calm());
        for peer in self.peers.values_mut() {
            peer.suspicion = None;
        }
    }
}

/// Whom a node asks: its neighbours in the ring of all, by the ends of their names, which are
/// drawn. So nodes that stand in one place, and go together, are not each other's only ones.
pub(crate) fn neighbours(all: &[Arc<str>], own: &str) -> Vec<Arc<str>> {
    let key = |name: &Arc<str>| {
        let drawn = name.rsplit_once('.').map_or(&**name, |(_, drawn)| drawn);
        (drawn.to_owned(), name.clone())
    };
    let mut ring: Vec<Arc<str>> = all.to_vec();
    ring.sort_by_cached_key(key);
    let Some(at) = ring.iter().position(|name| **name == *own) else {
        return Vec::new();
    };
    let len = ring.len();
    let steps = (1..=NEIGHBOURS_EACH_WAY).flat_map(|step| [step % len, len - step % len]);
    let mut found: Vec<Arc<str>> = Vec::new();
    for step in steps {
        let name = &ring[(at + step) % len];
        if **name != *own && !found.contains(name) {
            found.push(name.clone());
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    const TIMEOUT: Duration = Duration::from_millis(1200);

    fn ms(millis: u64) -> Duration {
        Duration::from_millis(millis)
    }

    /// One node asks another, `p`, which answers as `answer` says: what it is asked when.
    struct Trial {
        probes: Probes,
        now: Instant,
        begun: Instant,
        /// When it was suspected, and whether that was said before.
        suspected: Vec<(Duration, bool)>,
    }

    impl Trial {
        fn new() -> Trial {
            let now = Instant::now();
            let mut probes = Probes::new(Rhythm::new(TIMEOUT));
            probes.ask_only(&["p".into()], now);
            Trial {
                probes,
                now,
                begun: now,
                suspected: Vec::new(),
            }
        }

        fn run(&mut self, for_how_long: Duration, answer: impl Fn() -> Option<Probed>) {
            let until = self.now + for_how_long;
            while self.now < until {
                let turn = self.probes.turn(self.now);
                for (_, again) in turn.suspect {
                    self.suspected.push((self.now - self.begun, again));
                }
                self.now = self.probes.due(self.now).max(self.now + ms(10));
                for (name, number) in turn.ask {
                    if let Some(probed) = answer() {
                        self.probes.probed(&name, number, probed, self.now);
                    }
                }
            }
        }

        fn first(&self) -> Option<Duration> {
            self.suspected.first().map(|(at, _)| *at)
        }
    }

    #[test]
    fn who_answers_is_not_suspected_and_asked_a_few_times_a_second() {
        let mut trial = Trial::new();
        trial.run(ms(10_000), || Some(Probed::Answered));
        assert_eq!(trial.suspected, []);
        assert!((30..=40).contains(&trial.probes.number));
    }

    #[test]
    fn where_nobody_listens_any_more_is_suspected_at_once_and_again_after_the_window() {
        let mut trial = Trial::new();
        trial.run(ms(1_000), || Some(Probed::Answered));
        trial.run(ms(1_200), || Some(Probed::Refused));
        let first = trial.first().expect("it is suspected");
        assert!(first <= ms(1_500), "{first:?}");
        let (second, again) = trial.suspected[1];
        assert!(again && second - first >= Rhythm::new(TIMEOUT).window());
        assert!(second - first <= ms(600), "{:?}", second - first);
    }

    #[test]
    fn one_refusal_is_no_suspicion() {
        let mut trial = Trial::new();
        let turn = std::cell::Cell::new(0);
        trial.run(ms(20_000), || {
            turn.set(turn.get() + 1);
            Some([Probed::Refused, Probed::Answered, Probed::Failed][turn.get() % 3])
        });
        assert_eq!(trial.suspected, []);
    }

    #[test]
    fn who_stands_still_for_a_second_is_not_suspected_and_who_does_for_longer_is() {
        let mut trial = Trial::new();
        trial.run(ms(3_000), || Some(Probed::Answered));
        trial.run(ms(1_000), || None);
        trial.run(ms(3_000), || Some(Probed::Answered));
        assert_eq!(trial.suspected, []);
        let silent = trial.now - trial.begun;
        trial.run(ms(2_000), || None);
        let first = trial.first().expect("it is suspected");
        assert!((ms(1_100)..=ms(1_700)).contains(&(first - silent)));
    }

    #[test]
    fn who_was_stopped_itself_suspects_nobody_when_it_goes_on() {
        let mut trial = Trial::new();
        trial.run(ms(3_000), || Some(Probed::Answered));
        trial.run(ms(300), || None);
        trial.now += ms(30_000);
        trial.run(ms(600), || None);
        trial.run(ms(600), || Some(Probed::Answered));
        assert_eq!(trial.suspected, []);
    }

    #[test]
    fn who_refutes_is_left_alone_for_longer_and_longer() {
        let mut trial = Trial::new();
        let mut times = Vec::new();
        for _ in 0..600 {
            let before = trial.suspected.len();
            trial.run(ms(100), || None);
            if trial.suspected.len() > before {
                trial.probes.refuted("p", trial.now);
                times.push(trial.now - trial.begun);
            }
        }
        let gaps: Vec<u64> = times
            .windows(2)
            .map(|two| (two[1] - two[0]).as_secs())
            .collect();
        assert_eq!(gaps, [2, 4, 8, 16]);
    }

    #[test]
    fn nobody_is_suspected_where_the_store_was_out_of_reach_a_moment_ago() {
        let mut trial = Trial::new();
        trial.run(ms(2_000), || None);
        assert!(!trial.suspected.is_empty());
        trial.suspected.clear();
        trial.probes.store_failed(trial.now);
        trial.run(ms(2_900), || None);
        assert_eq!(trial.suspected, []);
        trial.run(ms(300), || None);
        assert!(!trial.suspected[0].1, "it is said anew");
    }

    #[test]
    fn answers_that_are_slow_anyway_are_waited_for_longer() {
        let mut slow = Peer::new(Instant::now());
        for id in 0..50 {
            let asked = Instant::now();
            slow.waiting.push_back((id, asked));
            slow.answered(id, asked + ms(if id % 2 == 0 { 700 } else { 100 }));
        }
        let asked = Instant::now();
        slow.waiting.push_back((99, asked));
        let rhythm = Rhythm::new(TIMEOUT);
        assert!(!slow.is_silent(rhythm, asked + ms(2_000)));
        assert!(slow.is_silent(rhythm, asked + TIMEOUT * 2));
    }

    #[test]
    fn each_node_is_asked_by_as_many_as_it_asks() {
        for count in 1..12usize {
            let all: Vec<Arc<str>> = (0..count)
                .map(|node| format!("n{node}.0.{:x}", (node * 7919) % 1009).into())
                .collect();
            let expected = (count - 1).min(2 * NEIGHBOURS_EACH_WAY);
            for own in &all {
                let asked = neighbours(&all, own);
                assert_eq!(asked.len(), expected, "of {count}");
                for other in &asked {
                    assert!(neighbours(&all, other).contains(own));
                }
            }
        }
        assert!(neighbours(&["a.0.1".into()], "b.0.2").is_empty());
    }
}
