//! Whether a peer is still writing while its shard already reads.
//!
//! A client that sends eight events in eight writes is met by the shard after the first or
//! second: each costs a read, an answer's write and a lock on the socket that the client is
//! just writing to, and both become slower than they would be with less haste. Who has been
//! heard last in one turn, and speaks first in the next without a wait between, is such a
//! client: the shard lets some microseconds pass before it asks the poller again.
//!
//! How many follows what a connection costs the shard, since the peer's writes are as dear on
//! the same kind of machine: on one where a write costs 1 µs it is the least, on one where it
//! costs 6 µs five times as much.
//!
//! Who waits for an answer before the next event is never met like that.

use std::time::Duration;

use heartline_wire::time::Micros;

/// The least that is waited. Where a write costs 1 µs, a client of eight events in flight on each
/// of 50 connections gets 1.15 times as many answers with it, and they cost 0.92 of the processor
/// time, the waiting included.
const LEAST: Duration = Duration::from_micros(10);
/// The most that is waited.
const MOST: Duration = Duration::from_micros(50);
/// As many connections could be served while one is waited for.
const CONNECTIONS: u32 = 2;
/// A turn counts for one in so many of what a connection is said to cost.
const TURNS: u32 = 16;
/// A poller that takes longer to answer has waited for what it tells.
const AT_ONCE: Duration = Duration::from_micros(3);

/// Who was heard last, and what it costs to hear somebody.
#[derive(Debug, Default)]
pub(crate) struct Gather {
    last: Option<usize>,
    /// How many connections the turn before heard, and since when.
    heard: u32,
    since: Micros,
    /// What was waited after it.
    waited: Duration,
    /// What one of them costs, over some turns.
    each: Duration,
}

impl Gather {
    /// The poller, asked at `asked`, has told of connections at `now`. If the first of them
    /// goes on writing: how long it is to be given before it is read once more.
    pub(crate) fn told(
        &mut self,
        connections: impl Iterator<Item = usize>,
        asked: Micros,
        now: Micros,
    ) -> Option<Duration> {
        self.learn(asked);
        let before = self.last;
        let mut first = None;
        for connection in connections {
            first = first.or(Some(connection));
            self.last = Some(connection);
            self.heard += 1;
        }
        self.since = now;
        if first.is_none() {
            self.last = None;
        }
        let goes_on = first.is_some() && first == before && now - asked <= AT_ONCE;
        goes_on.then(|| (self.each * CONNECTIONS).clamp(LEAST, MOST))
    }

    /// `time` was waited after the turn.
    pub(crate) fn waited(&mut self, time: Duration) {
        self.waited = time;
    }

    /// The turn is over, and what was waited after it.
    fn learn(&mut self, now: Micros) {
        let heard = std::mem::take(&mut self.heard);
        let waited = std::mem::take(&mut self.waited);
        if heard > 0 {
            let took = (now - self.since).saturating_sub(waited) / heard;
            self.each = (self.each * (TURNS - 1) + took.min(MOST)) / TURNS;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(gather: &mut Gather, connections: &[usize], waited: u64) -> bool {
        let (asked, now) = (Micros(1_000), Micros(1_000 + waited));
        gather
            .told(connections.iter().copied(), asked, now)
            .is_some()
    }

    /// What is given to one who goes on writing, after a hundred turns that heard `heard`
    /// connections and took `took` µs each, and as long again as was waited after them.
    fn given(heard: usize, took: u64, waited: u64) -> Duration {
        let mut gather = Gather::default();
        let mut now = 1_000;
        for turn in 0..100 {
            // Nobody goes on.
            let connections = (0..heard).map(|n| turn * 1_000 + n);
            assert_eq!(gather.told(connections, Micros(now), Micros(now)), None);
            gather.waited(Duration::from_micros(waited));
            now += took + waited;
        }
        let last = 99 * 1_000 + heard - 1;
        gather
            .told([last].into_iter(), Micros(now), Micros(now))
            .unwrap()
    }

    #[test]
    fn what_is_given_follows_what_a_connection_costs() {
        assert_eq!(given(1, 3, 0), Duration::from_micros(10));
        assert_eq!(given(8, 24, 0), Duration::from_micros(10));
        let some = given(1, 15, 0);
        assert!((28..=30).contains(&some.as_micros()), "{some:?}");
        assert_eq!(given(1, 15, 40), some, "what was waited is no cost");
        let many = given(10, 150, 0);
        assert!((28..=30).contains(&many.as_micros()), "{many:?}");
        // Who publishes to thousands costs more than anybody should wait.
        assert!(given(1, 30_000, 0) <= Duration::from_micros(50));
        assert!(given(1, 30_000, 0) > Duration::from_micros(48));
    }

    #[test]
    fn who_goes_on_writing_is_given_time() {
        let mut gather = Gather::default();
        assert!(!told(&mut gather, &[7], 50));
        assert!(told(&mut gather, &[7, 8], 0));
        assert!(told(&mut gather, &[8], 1));
        assert!(!told(&mut gather, &[9], 1));
    }

    #[test]
    fn who_waits_for_an_answer_is_heard_at_once() {
        let mut gather = Gather::default();
        for _ in 0..3 {
            assert!(!told(&mut gather, &[7], 20));
        }
        // Others speak in between, or nobody does.
        for connections in [&[8, 9][..], &[7], &[], &[7], &[8]] {
            assert!(!told(&mut gather, connections, 0));
        }
    }
}
