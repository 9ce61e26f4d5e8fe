//! Publications with a key: the last one of each room and key is the same on all nodes.
//!
//! A room's channel has one order, in which everybody hears it. A node delivers what it
//! publishes itself at once, and thereby before its place in that order. From then on, until
//! its own publication comes back by the channel, whatever others say under the same key came
//! before it there, and is not delivered here any more. So what a node delivers of a key are
//! publications of the channel in the channel's order, and the last one is among them.
//!
//! One's own publication that comes back although nobody has waited for it (the subscription
//! has ended and begun again meanwhile) has its place there, and is delivered like another's.

use std::hash::BuildHasher;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use hashbrown::{DefaultHashBuilder, HashMap};
use tokio::time::Instant;

use crate::locked::locked;

/// Rooms are spread over so many locks.
const PARTS: usize = 64;
/// After this time a publication that has not come back will not: twice as long as it may
/// wait to be sent. Should it come nevertheless, it is delivered then.
const MAX_RETURN: Duration = Duration::from_secs(5);
/// Publications on their way, in one part, from which on those that will not come back are
/// looked for: as many as wait to be sent at most, and evenly spread, are 1 024.
const CLEAN_FROM: usize = 4096;

/// One's own publication on its way.
struct Flight {
    number: u64,
    at: Instant,
}

#[derive(Default)]
struct Part {
    /// By channel and key.
    rooms: HashMap<Arc<str>, HashMap<Box<str>, Flight>>,
    count: usize,
    /// When there are so many, it is looked for those that will not come back.
    clean_at: usize,
}

impl Part {
    fn get(&self, channel: &str, key: &str) -> Option<&Flight> {
        self.rooms.get(channel)?.get(key)
    }

    fn insert(&mut self, channel: &str, key: &str, flight: Flight) {
        if self.count >= self.clean_at.max(CLEAN_FROM) {
            self.retain(|_, flight| flight.at.elapsed() < MAX_RETURN);
            self.clean_at = self.count * 2;
        }
        let room = match self.rooms.get_mut(channel) {
            Some(room) => room,
            None => self.rooms.entry(channel.into()).or_default(),
        };
        let before = room.insert(key.into(), flight);
        self.count += usize::from(before.is_none());
    }

    fn remove(&mut self, channel: &str, key: &str) {
        let Some(room) = self.rooms.get_mut(channel) else {
            return;
        };
        self.count -= usize::from(room.remove(key).is_some());
        if room.is_empty() {
            self.rooms.remove(channel);
        }
    }

    /// Keeps some, by their channels.
    fn retain(&mut self, keep: impl Fn(&str, &Flight) -> bool) {
        self.rooms.retain(|channel, room| {
            room.retain(|_, flight| keep(channel, flight));
            !room.is_empty()
        });
        self.count = self.rooms.values().map(HashMap::len).sum();
    }
}

/// What becomes of another node's publication.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Foreign {
    /// It was delivered.
    Delivered,
    /// There is a newer one here, which is on its way to the others.
    Older,
    /// It was delivered; the one on its way must have been lost.
    Overdue,
}

/// One's own publications that are on their way to the others, and back.
pub(super) struct Keyed {
    parts: Vec<Mutex<Part>>,
    hasher: DefaultHashBuilder,
}

impl Default for Keyed {
    fn default() -> Self {
        Keyed {
            parts: (0..PARTS).map(|_| Mutex::default()).collect(),
            hasher: DefaultHashBuilder::default(),
        }
    }
}

impl Keyed {
    fn part(&self, channel: &str) -> &Mutex<Part> {
        &self.parts[self.hasher.hash_one(channel) as usize % PARTS]
    }

    /// Publishes: `push` puts it in line for the others and answers its number, `here` delivers
    /// it. `comes_back` says whether this node hears the channel.
    pub(super) fn publish(
        &self,
        (channel, key): (&str, &str),
        comes_back: impl FnOnce() -> bool,
        push: impl FnOnce() -> u64,
        here: impl FnOnce(),
    ) {
        let mut part = locked(self.part(channel));
        let comes_back = comes_back();
        let number = push();
        if comes_back {
            let at = Instant::now();
            part.insert(channel, key, Flight { number, at });
        }
        here();
    }

    /// Another node's has come; `deliver` delivers it, unless it is older than what is here.
    pub(super) fn came(&self, channel: &str, key: &str, deliver: impl FnOnce()) -> Foreign {
        let mut part = locked(self.part(channel));
        let verdict = match part.get(channel, key) {
            None => Foreign::Delivered,
            Some(flight) if flight.at.elapsed() < MAX_RETURN => return Foreign::Older,
            Some(_) => {
                part.remove(channel, key);
                Foreign::Overdue
            }
        };
        deliver();
        verdict
    }

    /// One's own has come back; `deliver` delivers it, if nobody has waited for it.
    pub(super) fn came_back(&self, channel: &str, key: &str, number: u64, deliver: impl FnOnce()) {
        let mut part = locked(self.part(channel));
        match part.get(channel, key) {
            Some(flight) if flight.number == number => part.remove(channel, key),
            // A newer one was delivered meanwhile.
            Some(flight) if flight.number > number => {}
            _ => deliver(),
        }
    }

    /// Publications up to this number will not be sent, in a channel or in all. Answers the
    /// channels in which somebody has waited for one.
    pub(super) fn give_up(&self, channel: Option<&str>, last: u64) -> Vec<Arc<str>> {
        let mut given_up = Vec::new();
        let mut give_up = |part: &Mutex<Part>| {
            let mut part = locked(part);
            let is_lost = |name: &str, flight: &Flight| {
                channel.is_none_or(|channel| channel == name) && flight.number <= last
            };
            let rooms = part.rooms.iter();
            let hit = rooms.filter(|(name, room)| room.values().any(|one| is_lost(name, one)));
            given_up.extend(hit.map(|(name, _)| name.clone()));
            part.retain(|name, flight| !is_lost(name, flight));
        };
        match channel {
            Some(channel) => give_up(self.part(channel)),
            None => self.parts.iter().for_each(give_up),
        }
        given_up
    }

    /// A channel is not heard any more.
    pub(super) fn forget(&self, channel: &str) {
        let mut part = locked(self.part(channel));
        if let Some(room) = part.rooms.remove(channel) {
            part.count -= room.len();
        }
    }

    /// None is.
    pub(super) fn forget_all(&self) {
        for part in &self.parts {
            *locked(part) = Part::default();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;
    use std::collections::VecDeque;

    use proptest::prelude::*;

    use super::*;

    /// Nodes on one channel with one order, and what each has delivered last of a key.
    struct World {
        nodes: Vec<Node>,
        /// The channel, as it was heard: node and number.
        order: Vec<(usize, u64)>,
        /// The last publication's number.
        number: u64,
    }

    #[derive(Default)]
    struct Node {
        keyed: Keyed,
        /// What is not sent yet.
        queue: VecDeque<u64>,
        /// How much of the channel it has heard.
        heard: usize,
        listens: bool,
        last: RefCell<Option<(usize, u64)>>,
    }

    impl World {
        fn publish(&mut self, who: usize) {
            self.number += 1;
            let number = self.number;
            let node = &mut self.nodes[who];
            let (queue, listens) = (&mut node.queue, node.listens);
            let push = || {
                queue.push_back(number);
                number
            };
            let here = || *node.last.borrow_mut() = Some((who, number));
            node.keyed.publish(("c", "k"), || listens, push, here);
        }

        fn send(&mut self, who: usize) {
            let sent = self.nodes[who].queue.pop_front();
            self.order.extend(sent.map(|number| (who, number)));
        }

        fn hear(&mut self, who: usize) {
            let node = &mut self.nodes[who];
            let Some(&(by, number)) = self.order.get(node.heard).filter(|_| node.listens) else {
                return;
            };
            node.heard += 1;
            let deliver = || *node.last.borrow_mut() = Some((by, number));
            match by == who {
                true => node.keyed.came_back("c", "k", number, deliver),
                false => drop(node.keyed.came("c", "k", deliver)),
            }
        }

        /// It is cut off, or listens again from here on, and has missed what was between.
        fn cut(&mut self, who: usize, listens: bool) {
            let node = &mut self.nodes[who];
            if node.listens != listens {
                node.listens = listens;
                node.heard = self.order.len();
                node.keyed.forget_all();
            }
        }
    }

    proptest! {
        #[test]
        fn all_nodes_end_with_the_same(
            steps in prop::collection::vec((0..8u8, 0..3usize), 1..80),
            cuts: bool,
        ) {
            let nodes = (0..3).map(|_| Node { listens: true, ..Node::default() });
            let mut world = World { nodes: nodes.collect(), order: Vec::new(), number: 0 };
            for (step, who) in &steps {
                match step {
                    0 | 1 => world.publish(*who),
                    2..=4 => world.send(*who),
                    5 | 6 => world.hear(*who),
                    _ if cuts => world.cut(*who, !world.nodes[*who].listens),
                    _ => {}
                }
            }
            // Those who were cut off listen again; somebody says something afterwards.
            (0..3).for_each(|who| world.cut(who, true));
            if cuts {
                world.publish(0);
            }
            for who in 0..3 {
                while !world.nodes[who].queue.is_empty() {
                    world.send(who);
                }
            }
            for who in 0..3 {
                while world.nodes[who].heard < world.order.len() {
                    world.hear(who);
                }
            }
            let last = world.order.last().copied();
            for node in &world.nodes {
                prop_assert_eq!(*node.last.borrow(), last);
                let flights = node.keyed.parts.iter().map(|part| locked(part).count);
                prop_assert_eq!(flights.sum::<usize>(), 0);
            }
        }
    }

    #[tokio::test(start_paused = true)]
    async fn what_was_lost_does_not_keep_others_out() {
        let keyed = Keyed::default();
        let at = ("c", "k");
        keyed.publish(at, || true, || 7, || {});
        assert_eq!(
            keyed.came("c", "k", || panic!("it is older")),
            Foreign::Older
        );
        assert_eq!(keyed.came("c", "other", || {}), Foreign::Delivered);
        assert!(keyed.give_up(Some("c"), 6).is_empty());
        assert_eq!(keyed.give_up(Some("c"), 7), [Arc::<str>::from("c")]);
        assert_eq!(keyed.came("c", "k", || {}), Foreign::Delivered);
        keyed.publish(at, || true, || 8, || {});
        tokio::time::advance(MAX_RETURN).await;
        assert_eq!(keyed.came("c", "k", || {}), Foreign::Overdue);
        assert_eq!(keyed.came("c", "k", || {}), Foreign::Delivered);
    }
}
