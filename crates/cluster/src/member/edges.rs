//! Changes of presence in the whole cluster, as the registry's stream has them.

use std::sync::atomic::Ordering;
use std::time::Duration;

use hashbrown::{HashMap, HashSet};
use tokio::time::Instant;

use super::told::Told;
use super::unread::READ_WITHIN;
use super::{DEAF_AFTER, Local, Member, pause_after};
use crate::registry::{
    DevicesChange, Edge, EdgeId, Edges, Registry, Stream, TypedUser, Unavailable,
};

/// How long after a read the next one begins. So all nodes together read seldom, however many
/// changes there are, and what waits is read at once.
const BETWEEN_READS: Duration = Duration::from_millis(40);

/// How long a read waits at the store. Its end proves that nothing was missed until then: while
/// somebody asks, what a node knows of others is not older than this, and a little.
const WAIT_WHILE_ASKED: Duration = Duration::from_secs(1);
/// The same while nobody does, and a node is to cost the store little. Who asks first may be told
/// what the read before the one under way has proved, from its beginning on: that was twice as long
/// ago, which is less than the five seconds that answers may be old without being called stale.
const WAIT: Duration = Duration::from_secs(2);

/// How often it is looked whether the stream still has what was read last. A new master is noticed
/// by a read that fails, but for one that a Redis Cluster hides.
const LOOK: Duration = Duration::from_secs(30);

/// How long a read waits that is to tell soon whether there is anything.
const WAIT_IN_DOUBT: Duration = Duration::from_millis(1);
/// For how long it is remembered what was told of whom. A loss is noticed after a renewal, and the
/// hold that follows lasts a lease at most; but an old memory may come back some time later.
const TOLD_FOR: Duration = Duration::from_secs(600);

/// A place in the stream of edges.
#[derive(Clone)]
pub(super) struct Place {
    /// Of the last edge that was read.
    pub(super) id: EdgeId,
    /// Its number.
    pub(super) number: u64,
    /// Of the last change of devices; 0: none was read.
    pub(super) devices: u64,
    /// What is there was read: the stream has it, if it is still the same.
    pub(super) is_read: bool,
    /// The stream is another than before, and began after this edge, which has this number.
    pub(super) begun_after: Option<(EdgeId, u64)>,
    /// Numbers went back on the way here: this may be a place in the life that is told of next.
    pub(super) began_again: bool,
    /// When the last edge was read; of a place that a join has told, when that was asked.
    pub(super) at: Instant,
}

/// The parts of a stream's id: a time and a count.
fn parts(id: &str) -> (u64, u64) {
    let (time, count) = id.split_once('-').unwrap_or((id, "0"));
    (time.parse().unwrap_or(0), count.parse().unwrap_or(0))
}

impl Place {
    /// Before everything.
    fn start(at: Instant) -> Place {
        Place {
            id: "0".into(),
            number: 0,
            devices: 0,
            is_read: false,
            begun_after: None,
            began_again: false,
            at,
        }
    }

    /// Whether the stream is the one that was read up to here: then nothing was missed, and what is
    /// missing of what follows shows by its numbers.
    fn is_in(&self, stream: &Stream) -> bool {
        let is_it = |number| number == 0 || number == self.number;
        let was_never_there = !self.is_read || parts(&self.id) == (0, 0);
        was_never_there || stream.at.is_some_and(is_it)
    }

    /// The reader is here when it learns that the stream has another life, which has come as far as
    /// `reached`; and whether it may have missed something of that. Ids are times: if its server's
    /// clock is behind, that life began before the reader's place; if an old memory has come back, it
    /// has edges of long ago.
    fn in_new_life(self, reached: &Place, begun_after: (EdgeId, u64)) -> (Place, bool) {
        let (id, number) = begun_after;
        let (here, begun) = (parts(&self.id), parts(&id));
        if here == begun {
            return (Place { number, ..self }, false);
        }
        // It has read of that life already, or of one between: the stream shows which.
        if self.began_again {
            let began_again = false;
            return (
                Place {
                    began_again,
                    ..self
                },
                false,
            );
        }
        // It has read since the join was asked: what is of that life, but perhaps not its first edges.
        if self.at >= reached.at {
            return (self, true);
        }
        let place = match here > parts(&reached.id) || here < begun {
            true => Place {
                id,
                number,
                ..Place::start(reached.at)
            },
            // Its number was of another life: what comes next shows whether it is the first.
            false => Place {
                number: u64::MAX,
                is_read: false,
                ..self
            },
        };
        (place, false)
    }

    /// Goes on to an edge: how many were missed before it, none if it has no number. `None`: nobody
    /// knows whether any were. Numbers go back on a new master, which lacks the end of what was read
    /// and has written others since, and in another life, which begins with 1.
    fn go_on(&mut self, number: u64) -> Option<u64> {
        if number == 0 {
            return Some(0);
        }
        let before = std::mem::replace(&mut self.number, number);
        self.began_again |= number <= before && before != u64::MAX;
        match number {
            1 => Some(0),
            _ => number.checked_sub(before.saturating_add(1)),
        }
    }

    /// Goes on over changes of devices: whether any is missing before or between them.
    fn go_on_with_devices(&mut self, changes: &[DevicesChange]) -> bool {
        let mut missed = false;
        for change in changes {
            missed |= self.devices != 0 && change.number != self.devices + 1;
            self.devices = change.number;
        }
        missed
    }
}

/// Where revisions of a user fall within one read, the store has lost what it knew of the user in
/// between. It goes on from the last change: those that say otherwise are left out, and it is as late
/// as any of them.
fn end_with_the_last(edges: &mut Vec<(u64, Edge)>) {
    let mut last: HashMap<TypedUser, (u64, Option<bool>)> = HashMap::new();
    for (_, edge) in edges.iter_mut() {
        let of_user = last.entry(edge.who.clone());
        let (rev, fell_to) = of_user.or_insert((edge.rev, None));
        if edge.rev < *rev || fell_to.is_some() {
            *fell_to = Some(edge.online);
        }
        *rev = edge.rev.max(*rev);
        edge.rev = *rev;
    }
    if last.values().any(|(_, fell_to)| fell_to.is_some()) {
        edges.retain(|(_, edge)| {
            let fell_to = last.get(&edge.who).and_then(|(_, fell_to)| *fell_to);
            fell_to.is_none_or(|online| online == edge.online)
        });
    }
}

/// How far the stream of edges was read, and what came of it.
struct Reader {
    place: Place,
    told: Told,
    /// When it was looked whether the stream has what was read last, since the last failure.
    looked: Option<Instant>,
    /// It had not: what lies before the next edge may be missing.
    has_hole: bool,
}

impl<R: Registry, L: Local> Member<R, L> {
    /// What may have to be told if the store loses its memory.
    fn note_edges(&self, edges: &[(u64, Edge)]) {
        // Shards wait for the state: what takes time is done before.
        let edges = || edges.iter().map(|(_, edge)| edge);
        let gone = edges().filter(|edge| !edge.online);
        let here: HashSet<&TypedUser> = gone
            .map(|edge| &edge.who)
            .filter(|who| !self.local.entries(who).is_empty())
            .collect();
        let now = Instant::now();
        let mut state = self.state();
        for Edge { who, online, .. } in edges() {
            // The registry knows better by now.
            state.believed.remove(who);
            if *online {
                state.offline.remove(who);
                state.unread.note_online(who);
                if let Some(announced) = state.asking.get_mut(who) {
                    *announced = true;
                }
                continue;
            }
            if state.in_grace.remove(who).is_some() {
                state.unread.push(now, who.clone(), true);
            }
            if here.contains(who) || state.departures.include(who) {
                state.offline.insert(who.clone());
            }
        }
    }

    /// Reads the stream of edges, from the first join on.
    pub(super) async fn follow_edges(&self) {
        let mut reader = Reader {
            place: Place::start(Instant::now()),
            told: Told::new(TOLD_FOR.max((self.timing.ttl + READ_WITHIN) * 2)),
            looked: None,
            has_hole: false,
        };
        let (mut failures, mut is_told_deaf) = (0u32, false);
        self.joined.notified().await;
        loop {
            let reached = self.state().read_from.take();
            if let Some(reached) = reached {
                reader.place = match reached.begun_after.clone() {
                    Some(begun_after) => {
                        let (place, has_hole) = reader.place.in_new_life(&reached, begun_after);
                        reader.has_hole |= has_hole;
                        reader.looked = None;
                        place
                    }
                    None => {
                        // Whoever asks from now on is told what was there then, or later.
                        self.local.heard_until(reached.at.elapsed());
                        reached
                    }
                };
            }
            let asked = Instant::now();
            let read = tokio::select! {
                biased;
                () = self.joined.notified() => continue,
                read = self.read_on(&mut reader) => read,
            };
            let pause = match read {
                Ok(is_all) => {
                    (failures, is_told_deaf) = (0, false);
                    self.state().deaf_since = None;
                    if is_all {
                        self.local.heard_until(asked.elapsed());
                        // What came while nothing could be read is announced by now.
                        self.hears.store(true, Ordering::Relaxed);
                    }
                    BETWEEN_READS
                }
                Err(error) => {
                    self.note_deaf(&error, &mut is_told_deaf);
                    reader.looked = None;
                    self.counters.errors.fetch_add(1, Ordering::Relaxed);
                    failures += 1;
                    if failures == 1 {
                        // It may be another store by now: what it has forgotten is to be known soon.
                        self.nudge();
                    }
                    self.hears.store(false, Ordering::Relaxed);
                    pause_after(failures)
                }
            };
            tokio::time::sleep(self.about(pause)).await;
        }
    }

    /// Changes could not be read. If that goes on while the store answers otherwise, it is said
    /// once: what keeps them away is nothing that passes.
    fn note_deaf(&self, error: &Unavailable, is_told: &mut bool) {
        let is_away = !self.is_trusted();
        let mut state = self.state();
        if is_away {
            state.deaf_since = None;
            return;
        }
        let since = *state.deaf_since.get_or_insert_with(Instant::now);
        drop(state);
        if !*is_told && since.elapsed() >= DEAF_AFTER {
            *is_told = true;
            tracing::warn!(
                %error,
                "changes of presence cannot be read, so nobody here hears who comes and who goes: \
                 heartline doctor says what the user of cluster.url may not do"
            );
        }
    }

    /// Reads once, and announces what was read. Whether that was all there is.
    async fn read_on(&self, reader: &mut Reader) -> Result<bool, Unavailable> {
        if reader.looked.is_none_or(|looked| looked.elapsed() >= LOOK) {
            self.look(reader).await?;
            reader.looked = Some(Instant::now());
        }
        let wait = match self.local.is_asked() {
            _ if reader.has_hole || !self.hears.load(Ordering::Relaxed) => WAIT_IN_DOUBT,
            true => WAIT_WHILE_ASKED,
            false => WAIT,
        };
        let read = self.registry.edges(&reader.place.id, wait).await?;
        let is_all = !read.is_cut;
        self.forget_told(&mut reader.told);
        self.pass_on(read, reader);
        Ok(is_all)
    }

    /// Whether the stream is the one that was read: then it is read on, and nothing was missed,
    /// however long it could not be read. A store that lost its memory has another; a new master
    /// may lack what the old one had not given it yet. If its clock is behind too, it writes before
    /// the reader's place, where nobody would read. What it has written there is taken for lost,
    /// and the reader goes on behind it.
    async fn look(&self, reader: &mut Reader) -> Result<(), Unavailable> {
        let place = &mut reader.place;
        let Some(stream) = self.registry.stream(&place.id).await? else {
            return Ok(());
        };
        reader.has_hole |= !place.is_in(&stream);
        if parts(&place.id) > parts(&stream.last) {
            reader.has_hole = true;
            *place = Place {
                id: stream.last,
                number: stream.number,
                ..Place::start(Instant::now())
            };
        }
        Ok(())
    }

    /// Counts changes that are gone.
    fn lose(&self, missed: u64) {
        let counter = &self.counters.missed_edges;
        counter.fetch_add(missed, Ordering::Relaxed);
        tracing::warn!(
            missed,
            "changes of presence were gone before they were read"
        );
    }

    /// Counts a change that cannot be read: it is lost as one that is gone.
    fn skip(&self) {
        let counter = &self.counters.unreadable_edges;
        counter.fetch_add(1, Ordering::Relaxed);
        tracing::warn!("a change of presence could not be read");
    }

    /// When all have said who is there, and what may have been lost was written again, nothing is
    /// that was told before: whoever comes back later is announced, as others have been told that
    /// nobody is there.
    fn forget_told(&self, told: &mut Told) {
        let within = self.timing.refresh + READ_WITHIN;
        if let Some(at) = self.state().settled_at.take_if(|at| at.elapsed() > within) {
            told.forget_until(at);
        }
    }

    /// Announces what was read, up to a hole, and from there on.
    fn pass_on(&self, read: Edges, reader: &mut Reader) {
        let has_hole = std::mem::take(&mut reader.has_hole);
        let Reader { place, told, .. } = reader;
        if has_hole {
            // What is known of devices is forgotten with it.
            (place.is_read, place.devices) = (false, 0);
            self.local.missed_edges();
        }
        let mut lost = u64::from(has_hole);
        let mut edges = Vec::with_capacity(read.edges.len());
        // Nothing could be read since the last hole was told: it is one with the next.
        let mut is_told = has_hole;
        for (number, edge) in read.edges {
            let missed = place.go_on(number);
            let edge = edge.filter(|edge| self.local.is_user(&edge.who));
            let count = missed.unwrap_or(0).max(std::mem::take(&mut lost));
            if count > 0 {
                self.lose(count);
            }
            if edge.is_none() {
                self.skip();
            }
            if (missed != Some(0) || edge.is_none()) && !is_told {
                self.announce(&mut edges, told);
                self.local.missed_edges();
            }
            is_told = edge.is_none();
            edges.extend(edge.map(|edge| (number, edge)));
        }
        self.announce(&mut edges, told);
        if lost > 0 {
            self.lose(lost);
        }
        if !read.devices.is_empty() {
            let missed = place.go_on_with_devices(&read.devices);
            self.local.note_devices(&read.devices, missed);
        }
        if let Some(id) = read.last {
            (place.id, place.at, place.is_read) = (id, Instant::now(), true);
        }
    }

    fn announce(&self, edges: &mut Vec<(u64, Edge)>, told: &mut Told) {
        let revs = edges.iter().map(|(_, edge)| edge.rev);
        self.rev
            .fetch_max(revs.max().unwrap_or(0), Ordering::Relaxed);
        end_with_the_last(edges);
        let now = Instant::now();
        // One after the other: what is news depends on those before.
        edges.retain_mut(|(_, edge)| {
            let is_news = told.is_news(edge);
            if is_news {
                told.compare(edge, now);
            }
            is_news
        });
        if edges.is_empty() {
            return;
        }
        self.note_edges(edges);
        self.counters
            .edges
            .fetch_add(edges.len() as u64, Ordering::Relaxed);
        self.local.announce(edges);
        edges.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place(id: &str, number: u64) -> Place {
        Place {
            id: id.into(),
            number,
            devices: 0,
            is_read: true,
            begun_after: None,
            began_again: false,
            at: Instant::now(),
        }
    }

    #[test]
    fn a_jump_of_the_numbers_of_devices_is_a_hole_but_for_the_first() {
        let told = |numbers: &[u64]| -> Vec<DevicesChange> {
            let changes = numbers.iter().map(|&number| DevicesChange {
                user: ":u".into(),
                number,
                devices: None,
            });
            changes.collect()
        };
        let mut at = place("7-0", 7);
        assert!(!at.go_on_with_devices(&told(&[12, 13])));
        assert!(!at.go_on_with_devices(&told(&[14])));
        assert!(at.go_on_with_devices(&told(&[16, 17])));
        assert!(at.go_on_with_devices(&told(&[1])), "another life");
        assert!(!at.go_on_with_devices(&told(&[2])));
    }

    #[test]
    fn a_jump_of_the_numbers_is_a_hole() {
        let mut at = place("7-0", 7);
        assert_eq!(at.go_on(8), Some(0));
        assert_eq!(at.go_on(12), Some(3));
        assert_eq!(at.go_on(1), Some(0), "another life");
        assert_eq!(at.go_on(2), Some(0));
        assert_eq!(at.go_on(1), Some(0));
        let mut at = place("9-0", 9);
        assert_eq!(at.go_on(8), None, "a master that lacked two");
        assert_eq!(at.go_on(9), Some(0));
        assert_eq!(at.go_on(9), None);
    }

    /// A place that is told to whoever asks from now on.
    fn reached(id: &str, number: u64) -> Place {
        let place = place(id, number);
        let at = place.at + Duration::from_millis(1);
        Place { at, ..place }
    }

    #[test]
    fn a_stream_whose_clock_is_behind_is_read_from_its_beginning() {
        let reached = reached("1000-3", 4);
        let read_from = |place: Place| place.in_new_life(&reached, ("0-0".into(), 0)).0.id;
        assert_eq!(&*read_from(place("2000-0", 90)), "0-0");
        assert_eq!(&*read_from(place("1000-2", 3)), "1000-2");
        assert_eq!(&*read_from(place("1000-12", 90)), "0-0");
    }

    #[test]
    fn an_old_memory_that_has_come_back_is_read_from_then_on() {
        let reached = reached("1000-3", 4);
        for place in [place("2000-0", 90), place("900-0", 2), place("1000-1", 2)] {
            let (mut at, is_missed) = place.in_new_life(&reached, ("1000-1".into(), 2));
            assert_eq!((&*at.id, is_missed), ("1000-1", false));
            assert_eq!(at.go_on(3), Some(0));
        }
        let (mut at, _) = place("1000-2", 1).in_new_life(&reached, ("1000-1".into(), 2));
        assert_eq!(&*at.id, "1000-2");
        assert_eq!(
            at.go_on(4),
            None,
            "nobody knows which number that place has"
        );
        assert_eq!(at.go_on(5), Some(0));
    }

    #[test]
    fn a_new_life_whose_numbers_go_on_by_chance_may_have_had_others_before() {
        let asked = reached("1000-0", 3);
        // The first two lie before the reader's place, as the clock is behind.
        let mut at = place("900-0", 2);
        assert_eq!(at.go_on(3), Some(0));
        (at.id, at.at) = ("901-0".into(), asked.at);
        let (at, is_missed) = at.in_new_life(&asked, ("0-0".into(), 0));
        assert_eq!((&*at.id, is_missed), ("901-0", true));
    }

    #[test]
    fn what_was_read_of_a_new_life_before_the_reader_knew_of_it_is_not_read_again() {
        let asked = reached("2000-0", 3);
        let mut at = place("900-0", 90);
        assert_eq!((at.go_on(1), at.go_on(2)), (Some(0), Some(0)));
        at.id = "1001-0".into();
        let (mut at, is_missed) = at.in_new_life(&asked, ("0-0".into(), 0));
        assert_eq!((&*at.id, is_missed), ("1001-0", false));
        assert!(at.is_read, "the stream shows whether it is that life");
        assert_eq!(at.go_on(3), Some(0));
        // The next life after that is another one again, and its server's clock is behind.
        let asked = Place {
            at: asked.at + Duration::from_millis(1),
            ..place("700-0", 0)
        };
        assert_eq!(&*at.in_new_life(&asked, ("0-0".into(), 0)).0.id, "0-0");
    }

    fn edge(who: &str, online: bool, rev: u64) -> (u64, Edge) {
        let edge = Edge {
            who: TypedUser {
                user: who.into(),
                kind: "".into(),
            },
            online,
            rev,
            at: rev,
            rooms: Vec::new(),
            others: None,
        };
        (0, edge)
    }

    #[test]
    fn where_revisions_fall_within_a_read_the_last_change_counts_once() {
        let ended = |edges: &[(u64, Edge)]| {
            let mut edges = edges.to_vec();
            end_with_the_last(&mut edges);
            edges
        };
        let on = |rev| edge(":a", true, rev);
        let off = |rev| edge(":a", false, rev);
        let other = edge(":b", true, 3);
        let right = [on(1), other.clone(), off(2), on(5), off(6)];
        assert_eq!(ended(&right), right);
        let gone = (0, Edge { rev: 9, ..off(5).1 });
        assert_eq!(
            ended(&[on(9), other.clone(), off(5)]),
            [other, gone.clone()]
        );
        let back = (0, Edge { rev: 9, ..on(6).1 });
        assert_eq!(ended(&[on(9), off(5), on(6)]), [on(9), back]);
        assert_eq!(
            ended(&[off(2), on(9), off(5), off(10)]),
            [off(2), gone, off(10)]
        );
    }
}
