//! What is to be ended, each once, however often that is asked for until it is done.

use std::collections::BTreeMap;
use std::hash::Hash;

use hashbrown::HashMap;
use tokio::sync::oneshot;

/// Waits at most: more than an operator sends away by hand while the store is away. What is asked
/// for beyond that has to be asked for again.
const MAX_ENDS: usize = 65_536;

/// One that is to be ended. All who have asked hear of it.
pub(super) struct End<K, A> {
    pub(super) what: K,
    /// Numbers grow. One that was said keeps its number, as it may be done though its answer was
    /// lost, until it is asked for again.
    pub(super) number: u64,
    /// It was said before, and may be done.
    pub(super) is_again: bool,
    askers: Vec<oneshot::Sender<A>>,
}

impl<K, A: Clone> End<K, A> {
    /// It is done.
    pub(super) fn tell(self, answer: A) {
        for asker in self.askers {
            // Who waits no longer hears nothing.
            let _ = asker.send(answer.clone());
        }
    }
}

/// All that are to be ended, in the order of their numbers.
pub(super) struct Ends<K, A> {
    waiting: HashMap<K, End<K, A>>,
    order: BTreeMap<u64, K>,
    last: u64,
    /// So many were taken and are not back.
    on_way: usize,
}

impl<K, A> Default for Ends<K, A> {
    fn default() -> Self {
        Ends {
            waiting: HashMap::new(),
            order: BTreeMap::new(),
            last: 0,
            on_way: 0,
        }
    }
}

impl<K: Clone + Eq + Hash, A> Ends<K, A> {
    /// Hears when it is ended: what began before this call is ended then. `None`: too many wait.
    pub(super) fn ask(&mut self, what: K) -> Option<oneshot::Receiver<A>> {
        let (asker, answer) = oneshot::channel();
        if let Some(end) = self.waiting.get_mut(&what) {
            end.askers.retain(|asker| !asker.is_closed());
            end.askers.push(asker);
            if end.is_again {
                // It may be done already, and something may have begun since.
                self.last += 1;
                self.order.remove(&end.number);
                self.order.insert(self.last, what);
                end.number = self.last;
            }
            return Some(answer);
        }
        if self.waiting.len() + self.on_way >= MAX_ENDS {
            return None;
        }
        self.last += 1;
        self.order.insert(self.last, what.clone());
        let end = End {
            what: what.clone(),
            number: self.last,
            is_again: false,
            askers: vec![asker],
        };
        self.waiting.insert(what, end);
        Some(answer)
    }

    /// Takes the first of them, to say them; those that were taken before are done or
    /// [given back](Self::give_back).
    pub(super) fn take(&mut self, at_most: usize) -> Vec<End<K, A>> {
        let mut taken = Vec::new();
        while taken.len() < at_most
            && let Some((_, what)) = self.order.pop_first()
        {
            taken.extend(self.waiting.remove(&what));
        }
        self.on_way = taken.len();
        taken
    }

    /// These were taken, and are not known to be done. One that was asked for anew meanwhile is
    /// said once, under its newer number.
    pub(super) fn give_back(&mut self, taken: Vec<End<K, A>>) {
        self.on_way = 0;
        for end in taken {
            match self.waiting.get_mut(&end.what) {
                Some(newer) => {
                    newer.is_again |= end.is_again;
                    newer.askers.extend(end.askers);
                }
                None => {
                    self.order.insert(end.number, end.what.clone());
                    self.waiting.insert(end.what.clone(), end);
                }
            }
        }
    }

    /// Whether all are known to be done.
    pub(super) fn is_done(&self) -> bool {
        self.waiting.is_empty() && self.on_way == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(ends: &mut Ends<&'static str, u64>) -> Vec<End<&'static str, u64>> {
        let mut taken = ends.take(10);
        taken.iter_mut().for_each(|end| end.is_again = true);
        taken
    }

    #[test]
    fn one_that_may_be_done_is_said_anew_when_it_is_asked_for_again() {
        let mut ends = Ends::default();
        let mut first = ends.ask("ann").unwrap();
        let mut same = ends.ask("ann").unwrap();
        let taken = said(&mut ends);
        assert_eq!(taken.len(), 1, "nobody has said it yet");
        ends.give_back(taken);
        // Said again as it is, it is done once.
        let taken = said(&mut ends);
        assert_eq!((taken[0].number, taken[0].is_again), (1, true));
        ends.give_back(taken);
        let mut anew = ends.ask("ann").unwrap();
        let mut taken = said(&mut ends);
        assert_eq!((taken.len(), taken[0].number), (1, 2));
        taken.remove(0).tell(7);
        for answer in [&mut first, &mut same, &mut anew] {
            assert_eq!(answer.try_recv(), Ok(7));
        }
        assert!(ends.take(10).is_empty() && ends.is_done());
    }

    #[test]
    fn one_that_is_asked_for_while_it_is_on_its_way_is_said_behind_those_before_it() {
        let mut ends = Ends::default();
        let mut first = ends.ask("ann").unwrap();
        let taken = said(&mut ends);
        assert!(!ends.is_done());
        let mut anew = ends.ask("ann").unwrap();
        let _bob = ends.ask("bob").unwrap();
        ends.give_back(taken);
        let mut taken = ends.take(1);
        assert_eq!((taken[0].what, taken[0].number), ("ann", 2));
        taken.remove(0).tell(7);
        assert_eq!((first.try_recv(), anew.try_recv()), (Ok(7), Ok(7)));
    }

    #[test]
    fn there_are_never_too_many_and_never_one_twice() {
        let mut ends: Ends<usize, ()> = Ends::default();
        let answers: Vec<_> = (0..MAX_ENDS).map(|what| ends.ask(what)).collect();
        assert!(answers.iter().all(Option::is_some));
        assert!(ends.ask(MAX_ENDS).is_none());
        let taken = ends.take(128);
        assert!(ends.ask(MAX_ENDS).is_none(), "those may come back");
        ends.give_back(taken);
        for _ in 0..1000 {
            drop(ends.ask(5));
        }
        assert_eq!(ends.waiting.len(), MAX_ENDS);
        assert_eq!(ends.waiting[&5].askers.len(), 2, "the last, and who waits");
        // What was done makes room.
        ends.take(128);
        ends.take(0);
        assert!(ends.ask(MAX_ENDS).is_some());
    }
}
