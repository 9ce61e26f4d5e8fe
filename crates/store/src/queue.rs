//! What waits for a thread, within bounds.

use std::collections::VecDeque;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

/// Why something does not wait.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Refused {
    /// There is too much already.
    Full,
    /// Nobody takes anything any more.
    Closed,
}

/// A queue from which threads, or one task, take all that waits, as much as they can do at once.
pub(crate) struct Queue<T> {
    waiting: Mutex<Waiting<T>>,
    changed: Condvar,
    task: Notify,
    max_entries: usize,
    max_bytes: usize,
}

struct Waiting<T> {
    entries: VecDeque<(T, usize)>,
    bytes: usize,
    closed: bool,
}

impl<T> Waiting<T> {
    fn take(&mut self, most: usize, most_bytes: usize) -> Vec<T> {
        let mut taken = Vec::new();
        let mut bytes = 0;
        while let Some((_, next)) = self.entries.front()
            && (taken.is_empty() || (taken.len() < most && bytes + next <= most_bytes))
        {
            bytes += next;
            taken.extend(self.entries.pop_front().map(|(entry, _)| entry));
        }
        self.bytes -= bytes;
        taken
    }
}

impl<T> Queue<T> {
    /// A queue of at most so many entries, which weigh at most so many bytes.
    pub(crate) fn new(max_entries: usize, max_bytes: usize) -> Self {
        let waiting = Waiting {
            entries: VecDeque::new(),
            bytes: 0,
            closed: false,
        };
        Queue {
            waiting: Mutex::new(waiting),
            changed: Condvar::new(),
            task: Notify::new(),
            max_entries,
            max_bytes,
        }
    }

    fn lock(&self) -> MutexGuard<'_, Waiting<T>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Puts something of so many bytes at the end, or says at once that it cannot wait.
    pub(crate) fn put(&self, entry: T, bytes: usize) -> Result<(), Refused> {
        let mut waiting = self.lock();
        if waiting.closed {
            return Err(Refused::Closed);
        }
        let is_full = waiting.entries.len() >= self.max_entries;
        if is_full || waiting.bytes + bytes > self.max_bytes {
            return Err(Refused::Full);
        }
        waiting.entries.push_back((entry, bytes));
        waiting.bytes += bytes;
        drop(waiting);
        self.changed.notify_one();
        self.task.notify_one();
        Ok(())
    }

    /// Waits until there is something, and takes what there is: at most so many entries, and of
    /// so many bytes, but one in any case. `None`: the queue is closed, and empty.
    #[cfg(any(feature = "sqlite", test))]
    pub(crate) fn take(&self, most: usize, most_bytes: usize) -> Option<Vec<T>> {
        let mut waiting = self.lock();
        while waiting.entries.is_empty() {
            if waiting.closed {
                return None;
            }
            let woken = self.changed.wait(waiting);
            waiting = woken.unwrap_or_else(PoisonError::into_inner);
        }
        Some(waiting.take(most, most_bytes))
    }

    /// The same for a task, of which there is one. Nothing is taken when it does not wait to
    /// the end.
    #[cfg(feature = "postgres")]
    pub(crate) async fn take_soon(&self, most: usize, most_bytes: usize) -> Option<Vec<T>> {
        loop {
            {
                let mut waiting = self.lock();
                if !waiting.entries.is_empty() {
                    return Some(waiting.take(most, most_bytes));
                }
                if waiting.closed {
                    return None;
                }
            }
            self.task.notified().await;
        }
    }

    /// Nothing more is put. What waits can still be taken.
    pub(crate) fn close(&self) {
        self.lock().closed = true;
        self.changed.notify_all();
        self.task.notify_one();
    }

    /// Nothing more is put, and what waits is dropped.
    pub(crate) fn abandon(&self) {
        self.close();
        let entries = std::mem::take(&mut self.lock().entries);
        drop(entries);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_too_much_is_refused_at_once() {
        let queue = Queue::new(3, 10);
        assert_eq!(queue.put("a", 6), Ok(()));
        assert_eq!(queue.put("b", 5), Err(Refused::Full));
        assert_eq!(queue.put("c", 2), Ok(()));
        assert_eq!(queue.put("d", 2), Ok(()));
        assert_eq!(queue.put("e", 0), Err(Refused::Full));
        assert_eq!(queue.take(2, 7), Some(vec!["a"]));
        assert_eq!(queue.take(1, 1), Some(vec!["c"]));
        assert_eq!(queue.put("f", 8), Ok(()));
        queue.close();
        assert_eq!(queue.put("g", 0), Err(Refused::Closed));
        assert_eq!(queue.take(9, 99), Some(vec!["d", "f"]));
        assert_eq!(queue.take(9, 99), None);
    }
}
