//! What is kept of one place: the newest events, and the newest of each key.

use std::collections::{BTreeMap, VecDeque};
use std::ops::Bound;
use std::sync::Arc;

use hashbrown::HashMap;
use heartline_wire::time::Micros;

use crate::auth::UserKey;
use crate::line::{Account, Bounds, MAX_EVENT, MAX_KEYS};
use crate::message::Message;
use crate::presence::address::SocketAddress;

/// What an event costs besides its texts, about, bytes: its own allocation, its place in the
/// ring, and what the allocations of its texts have before these.
const OVERHEAD: usize = 192;

/// What a condition costs, about, bytes.
const CONDITION: usize = 192;

/// An event that is kept.
#[derive(Debug, Clone)]
pub struct Kept {
    /// Its place in the line.
    pub id: u64,
    /// Its number in its room; 0 where it went to no room.
    pub offset: u64,
    /// When it was published.
    pub at: Micros,
    /// What was said.
    pub message: Message,
    /// Of events with the same key only the last one matters.
    pub key: Option<Box<str>>,
    /// Who of those in the place heard it; `None`: all.
    pub only: Option<Box<Only>>,
}

/// Who of those in a place hears an event.
#[derive(Debug, Clone, Default)]
pub struct Only {
    /// Not this socket: it has said it.
    pub skip: Option<SocketAddress>,
    /// This user alone, of all that have the id.
    pub user: Option<Arc<UserKey>>,
    /// Not this user: it is about them.
    pub about: Option<Arc<UserKey>>,
    /// Who may join this room and is not in it.
    pub instead_of: Option<Arc<str>>,
    /// Who is in any of these rooms, of which some are sockets' names; `None`: all.
    pub among: Option<Box<[String]>>,
    /// Who is in none of these.
    pub except: Box<[String]>,
    /// The room as which live clients know where it went.
    pub topic: Option<Arc<str>>,
}

impl Only {
    /// Whether everybody in the place hears it.
    pub fn is_for_all(&self) -> bool {
        self.skip.is_none()
            && self.user.is_none()
            && self.about.is_none()
            && self.instead_of.is_none()
            && self.among.is_none()
            && self.except.is_empty()
            && self.topic.is_none()
    }
}

impl Kept {
    /// Whether it is what its key is now. Whoever missed that there is nothing any more must hear
    /// of it, and who comes new has nothing to hear.
    fn is_newest_of_key(&self) -> bool {
        self.key.is_some() && &*self.message.args != "null"
    }

    fn size(&self) -> usize {
        let key = self.key.as_ref().map_or(0, |key| 2 * key.len());
        let only = self.only.as_ref().map_or(0, |only| {
            let names = |names: &[String]| names.iter().map(|name| 24 + name.len()).sum();
            let among: usize = only.among.as_deref().map_or(0, names);
            let except: usize = names(&only.except);
            CONDITION + among + except
        });
        OVERHEAD + self.message.size() + key + only
    }
}

/// How much is known of a place.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Extent {
    /// The number of the last event that is not kept any more; 0: all are.
    pub dropped: u64,
    /// The same as an offset.
    pub dropped_offset: u64,
    /// The number of the last event; 0: there was none.
    pub last: u64,
}

/// The newest events of a place.
#[derive(Debug)]
pub struct Ring {
    account: Arc<Account>,
    /// By their numbers. Whoever collects them shares them.
    entries: VecDeque<(u64, Arc<Kept>)>,
    /// Those with keys, by their numbers.
    keyed: BTreeMap<u64, Arc<Kept>>,
    keys: HashMap<Box<str>, u64>,
    /// What all weighs.
    bytes: usize,
    /// What of this the account knows: it is all threads', so that an event which takes the place
    /// of another of its size leaves it alone.
    counted: usize,
    /// The number of the last event that is not kept any more: before it nothing is complete.
    dropped: u64,
    /// The same as an offset.
    dropped_offset: u64,
    /// The number of the last event.
    last: u64,
    /// When it was published.
    last_at: Micros,
    /// When an event was last lost on its way.
    lost_at: Option<Micros>,
    /// The number of the last event that was for nobody who is here; 0: there was none.
    passed: u64,
    /// Somebody comes who may miss such an event.
    lacks_passed: bool,
}

impl Ring {
    /// An empty ring.
    pub fn new(account: Arc<Account>) -> Ring {
        Ring {
            account,
            entries: VecDeque::new(),
            keyed: BTreeMap::new(),
            keys: HashMap::new(),
            bytes: 0,
            counted: 0,
            dropped: 0,
            dropped_offset: 0,
            last: 0,
            last_at: Micros::ZERO,
            lost_at: None,
            passed: 0,
            lacks_passed: false,
        }
    }

    /// The number of the last event; 0: there was none.
    pub fn last(&self) -> u64 {
        self.last
    }

    /// The number of the last event that is not kept any more; 0: all are.
    pub fn dropped(&self) -> u64 {
        self.dropped
    }

    /// Whether nothing is kept, and nothing known to be lost.
    pub fn is_empty(&self) -> bool {
        self.lost_at.is_none() && self.entries.is_empty() && self.keyed.is_empty()
    }

    /// When the last event was published, kept or not.
    pub fn last_at(&self) -> Micros {
        self.last_at
    }

    /// Keeps an event, whose number is higher than all before. What is too much goes: of this
    /// ring, the oldest first.
    pub fn push(&mut self, event: Kept, bounds: &Bounds) {
        let (size, mut spare) = (event.size(), None);
        if self.make_room(&event, size, bounds, &mut spare) {
            self.put(shared(event, spare), size);
        }
        self.count();
    }

    /// Sees that there is room for an event of so many bytes, and leaves in `spare` what it took
    /// the place of; false: it is not kept.
    fn make_room(
        &mut self,
        event: &Kept,
        size: usize,
        bounds: &Bounds,
        spare: &mut Option<Arc<Kept>>,
    ) -> bool {
        self.last = event.id;
        self.last_at = event.at;
        if let Some(key) = &event.key {
            self.forget_key(key);
        }
        self.drop_old(event.at, bounds);
        let mut fits = event.message.size() <= MAX_EVENT && size <= bounds.bytes;
        while fits && (self.bytes + size > bounds.bytes || self.held() + size > bounds.buffer) {
            let oldest = self.drop_oldest();
            fits = oldest.is_some();
            *spare = oldest.or(spare.take());
        }
        if !fits {
            self.dropped = self.dropped.max(event.id);
            self.dropped_offset = self.dropped_offset.max(event.offset);
        } else if event.is_newest_of_key() {
            if self.keyed.len() >= MAX_KEYS {
                self.drop_oldest_key();
            }
        } else if self.entries.len() >= bounds.events {
            *spare = self.drop_oldest_plain();
        }
        fits
    }

    fn put(&mut self, event: Arc<Kept>, size: usize) {
        self.bytes += size;
        match &event.key {
            Some(key) if event.is_newest_of_key() => {
                self.keys.insert(key.clone(), event.id);
                self.keyed.insert(event.id, event);
            }
            _ => self.entries.push_back((event.id, event)),
        }
    }

    /// What all rings hold, with what this one has not counted yet.
    fn held(&self) -> usize {
        (self.account.held() + self.bytes).saturating_sub(self.counted)
    }

    /// Tells the account what has become more or less.
    fn count(&mut self) {
        if self.bytes > self.counted {
            self.account.add(self.bytes - self.counted);
        } else if self.bytes < self.counted {
            self.account.sub(self.counted - self.bytes);
        }
        self.counted = self.bytes;
    }

    fn note_dropped(&mut self, event: &Kept) {
        self.bytes -= event.size();
        self.dropped = self.dropped.max(event.id);
        self.dropped_offset = self.dropped_offset.max(event.offset);
    }

    fn drop_oldest_plain(&mut self) -> Option<Arc<Kept>> {
        let (_, oldest) = self.entries.pop_front()?;
        self.note_dropped(&oldest);
        Some(oldest)
    }

    fn drop_oldest_key(&mut self) -> Option<Arc<Kept>> {
        let (_, oldest) = self.keyed.pop_first()?;
        if let Some(key) = &oldest.key {
            self.keys.remove(key);
        }
        self.note_dropped(&oldest);
        Some(oldest)
    }

    fn drop_oldest(&mut self) -> Option<Arc<Kept>> {
        let plain = self.entries.front().map(|(id, _)| *id);
        let keyed = self.keyed.first_key_value().map(|(id, _)| *id);
        match (plain, keyed) {
            (Some(plain), Some(keyed)) if keyed < plain => self.drop_oldest_key(),
            (None, _) => self.drop_oldest_key(),
            _ => self.drop_oldest_plain(),
        }
    }

    /// A newer event of the key makes this one unneeded: nobody misses it.
    fn forget_key(&mut self, key: &str) {
        let known = self.keys.remove(key);
        if let Some(event) = known.and_then(|id| self.keyed.remove(&id)) {
            self.bytes -= event.size();
        }
    }

    /// All up to a number has come: nobody misses it.
    pub fn forget_up_to(&mut self, id: u64) {
        let come = self.entries.partition_point(|(own, _)| *own <= id);
        let come = self.entries.drain(..come);
        self.bytes -= come.map(|(_, event)| event.size()).sum::<usize>();
        self.count();
    }

    /// An event was not kept, or was lost on its way: who did not hear it cannot be told.
    pub fn skip(&mut self, id: u64, offset: u64) {
        self.last = self.last.max(id);
        self.dropped = self.dropped.max(id);
        self.dropped_offset = self.dropped_offset.max(offset);
    }

    /// An event was for nobody who is here: nobody misses it but
    /// [who comes from elsewhere](Self::is_for_others).
    pub fn pass_over(&mut self, id: u64) {
        self.last = self.last.max(id);
        self.passed = self.passed.max(id);
    }

    /// Somebody comes from another node, for whom what was passed over here may have been: what all
    /// nodes have kept is to be [taken in](Self::take_in), and what they have not, is gone.
    pub fn is_for_others(&mut self) {
        self.lacks_passed |= self.passed > self.dropped;
    }

    /// The numbers in the room begin anew behind this one, and in the line behind that: of what
    /// is kept nobody can be told any more, and its numbers would be taken for those to come.
    pub fn begin_anew(&mut self, id: u64, offset: u64) {
        while self.drop_oldest().is_some() {}
        self.count();
        self.last = self.last.max(id);
        self.dropped = self.last;
        self.dropped_offset = offset;
    }

    /// The same of something that was lost now: it is remembered for as long as an event.
    pub fn lose(&mut self, id: u64, now: Micros) {
        self.skip(id, 0);
        self.lost_at = Some(now);
    }

    /// Takes in what all nodes together have kept of the place, up to what they knew: together
    /// with what is here, if there is nothing between the two.
    pub fn take_in(&mut self, known: Extent, events: Vec<Kept>, bounds: &Bounds) {
        let lacks_passed = self.lacks_passed;
        let has_all = !lacks_passed && known.last <= self.last && known.dropped >= self.dropped;
        if has_all || known.last < self.dropped {
            return;
        }
        let mut all: BTreeMap<u64, Arc<Kept>> = BTreeMap::new();
        let events = events.into_iter();
        all.extend(events.map(|event| (event.id, Arc::new(event))));
        let meets = known.dropped <= self.last && self.dropped <= known.last;
        let mut ring = Ring::new(self.account.clone());
        (ring.dropped, ring.dropped_offset) = (known.dropped, known.dropped_offset);
        ring.lost_at = self.lost_at;
        // Who is there already does not need it.
        let is_taken_in = lacks_passed && self.passed <= known.last;
        ring.passed = if is_taken_in { 0 } else { self.passed };
        if meets {
            if self.dropped < known.dropped && !lacks_passed {
                (ring.dropped, ring.dropped_offset) = (self.dropped, self.dropped_offset);
            }
            all.extend(std::mem::take(&mut self.entries));
            all.append(&mut self.keyed);
            ring.last = self.last;
        }
        self.bytes = 0;
        self.count();
        let last = ring.last.max(known.last);
        for event in all.into_values() {
            let size = event.size();
            if ring.make_room(&event, size, bounds, &mut None) {
                ring.put(event, size);
            }
            ring.count();
        }
        ring.last = ring.last.max(last);
        ring.last_at = ring.last_at.max(self.last_at);
        *self = ring;
    }

    /// Drops what is older than it may be. What is newest of its key stays.
    pub fn trim(&mut self, now: Micros, bounds: &Bounds) {
        self.drop_old(now, bounds);
        self.count();
        if self.entries.is_empty() {
            self.entries.shrink_to_fit();
        }
    }

    fn drop_old(&mut self, now: Micros, bounds: &Bounds) {
        while let Some((_, oldest)) = self.entries.front()
            && now - oldest.at > bounds.age
        {
            self.drop_oldest_plain();
        }
        self.lost_at = self.lost_at.filter(|at| now - *at <= bounds.age);
    }

    /// Whether all that came after the number is kept.
    pub fn is_complete_after(&self, id: u64) -> bool {
        id >= self.dropped
    }

    /// The same for a number in the room.
    pub fn is_complete_after_offset(&self, offset: u64) -> bool {
        offset >= self.dropped_offset
    }

    /// What is kept after one number and up to another, by the numbers.
    pub fn between(&self, after: u64, to: u64) -> impl Iterator<Item = &Arc<Kept>> {
        let to = to.max(after);
        let from = self.entries.partition_point(|(id, _)| *id <= after);
        let plain = self.entries.range(from..).map(|(_, event)| event);
        let keyed = (Bound::Excluded(after), Bound::Unbounded);
        let keyed = self.keyed.range(keyed).map(|(_, event)| event);
        let all = merged(plain, keyed);
        all.take_while(move |event| event.id <= to)
    }

    /// What is kept after one number in the room and up to another, by the numbers.
    pub fn between_offsets(&self, after: u64, to: u64) -> impl Iterator<Item = &Arc<Kept>> {
        let is_come = |(_, event): &(u64, Arc<Kept>)| event.offset <= after;
        let from = self.entries.partition_point(is_come);
        let plain = self.entries.range(from..).map(|(_, event)| event);
        let all = merged(plain, self.keyed.values());
        all.filter(move |event| event.offset > after && event.offset <= to)
    }

    /// The newest events of the keys, up to a number in the room.
    pub fn newest(&self, to: u64) -> impl Iterator<Item = &Kept> {
        let newest = self.keyed.values().map(|event| &**event);
        newest.filter(move |event| event.offset <= to)
    }

    /// The number, in the line, of the last event that is kept up to a number in the room.
    pub fn id_of(&self, offset: u64) -> Option<u64> {
        let come = |(_, event): &(u64, Arc<Kept>)| event.offset <= offset;
        let plain = self.entries.partition_point(come);
        let plain = plain.checked_sub(1).and_then(|at| self.entries.get(at));
        let plain = plain.map(|(_, event)| event);
        let keyed = self
            .keyed
            .values()
            .rev()
            .find(|event| event.offset <= offset);
        plain.into_iter().chain(keyed).map(|event| event.id).max()
    }
}

/// An event that can be shared: by what had the place before, where nobody else has that.
fn shared(event: Kept, spare: Option<Arc<Kept>>) -> Arc<Kept> {
    if let Some(mut spare) = spare
        && let Some(old) = Arc::get_mut(&mut spare)
    {
        *old = event;
        return spare;
    }
    Arc::new(event)
}

/// Both by their numbers, as each is.
fn merged<'a>(
    plain: impl Iterator<Item = &'a Arc<Kept>>,
    keyed: impl Iterator<Item = &'a Arc<Kept>>,
) -> impl Iterator<Item = &'a Arc<Kept>> {
    let (mut plain, mut keyed) = (plain.peekable(), keyed.peekable());
    std::iter::from_fn(move || match (plain.peek(), keyed.peek()) {
        (Some(one), Some(other)) if other.id < one.id => keyed.next(),
        (None, Some(_)) => keyed.next(),
        _ => plain.next(),
    })
}

impl Drop for Ring {
    fn drop(&mut self) {
        self.account.sub(self.counted);
    }
}

#[cfg(test)]
mod tests;
