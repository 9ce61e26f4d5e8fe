//! A table that forgets what has rested longest, when it is full.
//!
//! It is bounded by number and by bytes: what somebody may put there has a size of their own
//! choice. A new entry always finds room.

use std::collections::BTreeMap;
use std::hash::Hash;

use hashbrown::HashMap;

struct Entry<V> {
    value: V,
    bytes: usize,
    /// Grows with every use of any entry.
    used: u64,
}

/// Values by key, at most so many, and of so many bytes.
pub struct Bounded<K, V> {
    entries: HashMap<K, Entry<V>>,
    /// The keys by their last use.
    order: BTreeMap<u64, K>,
    uses: u64,
    bytes: usize,
    max_entries: usize,
    max_bytes: usize,
}

impl<K: Clone + Eq + Hash, V> Bounded<K, V> {
    /// An empty table.
    pub fn new(max_entries: usize, max_bytes: usize) -> Self {
        Bounded {
            entries: HashMap::new(),
            order: BTreeMap::new(),
            uses: 0,
            bytes: 0,
            max_entries,
            max_bytes,
        }
    }

    /// How many entries there are.
    #[cfg(test)]
    pub(crate) fn len(&self) -> usize {
        self.entries.len()
    }

    /// What they weigh together, bytes.
    #[cfg(test)]
    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    /// The value of a key, which counts as a use.
    pub fn get(&mut self, key: &K) -> Option<&V> {
        self.get_mut(key).map(|value| &*value)
    }

    /// The same, to change it.
    pub fn get_mut(&mut self, key: &K) -> Option<&mut V> {
        let entry = self.entries.get_mut(key)?;
        self.uses += 1;
        if let Some(key) = self.order.remove(&entry.used) {
            self.order.insert(self.uses, key);
        }
        entry.used = self.uses;
        Some(&mut entry.value)
    }

    /// The same, which does not count as a use.
    pub fn peek(&self, key: &K) -> Option<&V> {
        Some(&self.entries.get(key)?.value)
    }

    /// The same, to change it.
    pub fn peek_mut(&mut self, key: &K) -> Option<&mut V> {
        Some(&mut self.entries.get_mut(key)?.value)
    }

    /// All of them, in no order that means anything.
    pub fn iter(&self) -> impl Iterator<Item = (&K, &V)> {
        let all = self.entries.iter();
        all.map(|(key, entry)| (key, &entry.value))
    }

    /// Takes a value out.
    pub fn take(&mut self, key: &K) -> Option<V> {
        let entry = self.entries.remove(key)?;
        self.order.remove(&entry.used);
        self.bytes -= entry.bytes;
        Some(entry.value)
    }

    /// The value that has rested longest.
    pub fn oldest(&self) -> Option<&V> {
        let (_, key) = self.order.first_key_value()?;
        self.peek(key)
    }

    /// Takes that one out.
    pub fn take_oldest(&mut self) -> Option<(K, V)> {
        let (_, key) = self.order.pop_first()?;
        let value = self.take(&key)?;
        Some((key, value))
    }

    /// Takes all out.
    pub fn clear(&mut self) {
        self.entries.clear();
        self.order.clear();
        self.bytes = 0;
    }

    /// Keeps a value of so many bytes, in the place of an earlier one. Those that have rested
    /// longest go as long as there is too much, and are answered; the newest stays, whatever it
    /// weighs.
    pub fn put(&mut self, key: K, value: V, bytes: usize) -> Vec<(K, V)> {
        self.take(&key);
        self.uses += 1;
        let used = self.uses;
        self.order.insert(used, key.clone());
        self.bytes += bytes;
        self.entries.insert(key, Entry { value, bytes, used });
        let mut gone = Vec::new();
        while self.entries.len() > 1
            && (self.entries.len() > self.max_entries || self.bytes > self.max_bytes)
        {
            let Some(oldest) = self.take_oldest() else {
                break;
            };
            gone.push(oldest);
        }
        gone
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn what_has_rested_longest_goes_when_there_are_too_many() {
        let mut table = Bounded::new(2, 100);
        table.put("a", 1, 10);
        table.put("b", 2, 10);
        assert_eq!(table.get(&"a"), Some(&1));
        table.put("c", 3, 10);
        assert_eq!(table.get(&"b"), None);
        assert_eq!(table.get(&"a"), Some(&1));
        assert_eq!(table.len(), 2);
    }

    #[test]
    fn a_heavy_one_takes_the_place_of_several_and_the_heaviest_that_of_all() {
        let mut table = Bounded::new(100, 100);
        for number in 0..10 {
            table.put(number, (), 10);
        }
        table.put(10, (), 35);
        assert_eq!((table.len(), table.bytes()), (7, 95));
        assert!(table.get(&3).is_none() && table.get(&4).is_some());
        table.put(11, (), 1000);
        assert_eq!((table.len(), table.bytes()), (1, 1000));
    }

    proptest! {
        #[test]
        fn its_books_balance(ops in prop::collection::vec((0u8..12, 0u8..3, 0usize..60), 1..200)) {
            let mut table = Bounded::new(6, 150);
            for (key, op, bytes) in ops {
                match op {
                    0 => drop(table.take(&key)),
                    1 => drop(table.get(&key).copied()),
                    _ => drop(table.put(key, bytes, bytes)),
                }
                let sum: usize = table.entries.values().map(|entry| entry.bytes).sum();
                prop_assert_eq!(table.bytes, sum);
                prop_assert_eq!(table.order.len(), table.entries.len());
                prop_assert!(table.len() <= 6);
                prop_assert!(table.bytes <= 150);
                for (used, key) in &table.order {
                    prop_assert_eq!(table.entries[key].used, *used);
                }
            }
        }
    }
}
