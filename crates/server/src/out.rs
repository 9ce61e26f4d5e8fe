//! The two ways out of the process: standard output and standard error.
//!
//! Neither can make the process panic. While a node runs, standard error has a
//! queue and a thread of its own, so that a reader who stops reading cannot hold
//! a node up either: what does not fit is dropped and counted, and a note says
//! how many lines are missing as soon as something can be written again.
//!
//! `tracing-appender` has such a queue as well, but bounds it by lines, says
//! nothing of what it dropped or could not write, and prints with a macro that
//! panics when it cannot end in time.

use std::fmt::Display;
use std::io::{self, ErrorKind, Write};
use std::sync::{Condvar, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

/// Most bytes that wait to be written to standard error. It is what some seconds
/// of a node's busiest log take, and little beside a node's memory; as much again
/// can be with the thread that writes.
const MAX_WAITING: usize = 1 << 20;
/// A buffer larger than this is given back once it is written.
const MAX_KEPT: usize = 64 * 1024;
/// How long the end of the process waits for what has not been written yet.
const FLUSH_TIMEOUT: Duration = Duration::from_secs(1);
/// How long the writer of an urgent line waits for it.
const URGENT_TIMEOUT: Duration = Duration::from_millis(250);
/// Pause before standard error is tried again where somebody has made it
/// non-blocking, and it is full.
const RETRY: Duration = Duration::from_millis(5);

/// Standard error's queue, once there is one.
static QUEUE: OnceLock<Queue> = OnceLock::new();

/// Writes to standard output.
///
/// # Errors
/// `BrokenPipe` if nobody reads it any more, or what else was in the way.
pub(crate) fn print(text: &str) -> io::Result<()> {
    let mut stdout = io::stdout().lock();
    stdout.write_all(text.as_bytes())?;
    stdout.flush()
}

/// Writes a sentence to standard error, or does nothing if that is not possible.
pub(crate) fn complain(what: impl Display) {
    line(format!("heartline: {what}\n").as_bytes());
}

/// Writes a line, with its end, to standard error, behind all that came before.
pub(crate) fn line(line: &[u8]) {
    match QUEUE.get() {
        Some(queue) => queue.push(line),
        // Whoever cannot be told needs not be told that.
        None => drop(io::stderr().write_all(line)),
    }
}

/// Like [`line`], and waits until it is written, as the process may be about to
/// end. At most [`URGENT_TIMEOUT`], and not at all behind a wait that took that
/// long already.
pub(crate) fn urgent_line(text: &[u8]) {
    line(text);
    if let Some(queue) = QUEUE.get() {
        queue.wait_unless_stalled();
    }
}

/// Gives standard error its queue and thread. `note` is told how many lines were
/// lost, and is to write a line about it.
pub(crate) fn start(note: fn(u64)) {
    let queue = QUEUE.get_or_init(|| Queue::new(MAX_WAITING));
    let writing = std::thread::Builder::new().name("log".into());
    let started = writing.spawn(move || queue.write_to(&mut io::stderr().lock(), note));
    if let Err(error) = started {
        // A machine without room for a thread will not run a node either.
        let _ = writeln!(io::stderr(), "heartline: nothing can be logged: {error}");
    }
}

/// Waits until all is written, at most [`FLUSH_TIMEOUT`].
pub(crate) fn flush() {
    if let Some(queue) = QUEUE.get() {
        queue.wait(FLUSH_TIMEOUT);
    }
}

/// Lines on their way to one writer, in order.
struct Queue {
    state: Mutex<State>,
    /// Something waits.
    pushed: Condvar,
    /// Something was written, or given up.
    written: Condvar,
    max_waiting: usize,
}

#[derive(Default)]
struct State {
    waiting: Vec<u8>,
    /// Bytes that were ever put into `waiting`, and those of them that are done with.
    pushed: u64,
    done: u64,
    /// Lines that nobody will read, and that no note has told of yet.
    lost: u64,
    /// The last write failed: no note would arrive either.
    broken: bool,
    /// Somebody has waited in vain since the last write ended.
    stalled: bool,
}

impl Queue {
    fn new(max_waiting: usize) -> Self {
        Queue {
            state: Mutex::default(),
            pushed: Condvar::new(),
            written: Condvar::new(),
            max_waiting,
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn push(&self, line: &[u8]) {
        let mut state = self.state();
        if state.waiting.len() + line.len() > self.max_waiting {
            state.lost += 1;
            return;
        }
        state.waiting.extend_from_slice(line);
        state.pushed += line.len() as u64;
        drop(state);
        self.pushed.notify_one();
    }

    /// Waits until what is in the queue now is written; false if that takes longer.
    fn wait(&self, timeout: Duration) -> bool {
        let state = self.state();
        let until = state.pushed;
        let waited = self
            .written
            .wait_timeout_while(state, timeout, |state| state.done < until);
        let (mut state, result) = waited.unwrap_or_else(PoisonError::into_inner);
        state.stalled |= result.timed_out();
        !result.timed_out()
    }

    fn wait_unless_stalled(&self) {
        let stalled = self.state().stalled;
        if !stalled {
            self.wait(URGENT_TIMEOUT);
        }
    }

    /// Takes what waits into `lines`, once something does. Answers how many lines
    /// are missing behind it, if that can be told.
    fn take(&self, lines: &mut Vec<u8>) -> u64 {
        let waited = self
            .pushed
            .wait_while(self.state(), |state| state.waiting.is_empty());
        let mut state = waited.unwrap_or_else(PoisonError::into_inner);
        std::mem::swap(&mut state.waiting, lines);
        match state.broken {
            true => 0,
            false => std::mem::take(&mut state.lost),
        }
    }

    /// Writes for as long as the process lives.
    fn write_to(&self, to: &mut impl Write, note: fn(u64)) {
        let mut lines = Vec::new();
        loop {
            let lost = self.take(&mut lines);
            if lost > 0 {
                // It comes behind what was taken: where the lines are missing.
                note(lost);
            }
            let unwritten = write(to, &lines);
            let mut state = self.state();
            state.done += lines.len() as u64;
            state.stalled = false;
            state.broken = unwritten.is_some();
            state.lost += unwritten.map_or(0, |rest| {
                rest.iter().filter(|byte| **byte == b'\n').count() as u64
            });
            drop(state);
            self.written.notify_all();
            match lines.capacity() > MAX_KEPT {
                true => lines = Vec::new(),
                false => lines.clear(),
            }
        }
    }
}

/// Writes all of `bytes`; what could not be written, if that was not possible.
fn write<'a>(to: &mut impl Write, mut bytes: &'a [u8]) -> Option<&'a [u8]> {
    while !bytes.is_empty() {
        match to.write(bytes) {
            Ok(0) => return Some(bytes),
            Ok(n) => bytes = &bytes[n..],
            Err(error) => match error.kind() {
                ErrorKind::Interrupted => {}
                ErrorKind::WouldBlock => std::thread::sleep(RETRY),
                _ => return Some(bytes),
            },
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    const LONG: Duration = Duration::from_secs(60);

    /// A writer whose writes wait until they are told how they end.
    struct Told {
        begun: mpsc::Sender<String>,
        ends: mpsc::Receiver<io::Result<()>>,
    }

    impl Write for Told {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            let text = String::from_utf8_lossy(bytes).into_owned();
            let _ = self.begun.send(text);
            self.ends.recv().unwrap_or(Ok(())).map(|()| bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    /// A queue in front of such a writer; `note` is what is told of lost lines.
    fn queue(
        max_waiting: usize,
        note: fn(u64),
    ) -> (
        &'static Queue,
        mpsc::Receiver<String>,
        mpsc::Sender<io::Result<()>>,
    ) {
        let queue: &Queue = Box::leak(Box::new(Queue::new(max_waiting)));
        let (begun, begins) = mpsc::channel();
        let (end, ends) = mpsc::channel();
        std::thread::spawn(move || queue.write_to(&mut Told { begun, ends }, note));
        (queue, begins, end)
    }

    fn next(begins: &mpsc::Receiver<String>) -> String {
        begins.recv_timeout(LONG).unwrap()
    }

    #[test]
    fn lines_keep_their_order_and_the_end_waits_for_them() {
        let (queue, begins, end) = queue(100, |_| {});
        queue.push(b"1\n");
        assert_eq!(next(&begins), "1\n");
        queue.push(b"2\n");
        queue.push(b"3\n");
        assert!(!queue.wait(Duration::ZERO));
        drop(end);
        assert!(queue.wait(LONG));
        assert_eq!(next(&begins), "2\n3\n");
    }

    #[test]
    fn a_full_queue_drops_lines_and_says_how_many_where_they_are_missing() {
        static LOST: Mutex<Vec<u64>> = Mutex::new(Vec::new());
        let (queue, begins, end) = queue(4, |lost| LOST.lock().unwrap().push(lost));
        queue.push(b"1\n");
        assert_eq!(next(&begins), "1\n");
        for line in ["2\n", "3\n", "4\n", "5\n", "6\n"] {
            queue.push(line.as_bytes());
        }
        end.send(Ok(())).unwrap();
        assert_eq!(next(&begins), "2\n3\n");
        assert_eq!(*LOST.lock().unwrap(), [3]);
        queue.push(b"7\n");
        end.send(Ok(())).unwrap();
        assert_eq!(next(&begins), "7\n");
        assert_eq!(*LOST.lock().unwrap(), [3]);
    }

    #[test]
    fn lines_that_could_not_be_written_are_told_of_once_others_can() {
        static LOST: Mutex<Vec<u64>> = Mutex::new(Vec::new());
        let (queue, begins, end) = queue(100, |lost| LOST.lock().unwrap().push(lost));
        let gone = || Err(ErrorKind::BrokenPipe.into());
        for line in ["1\n", "2\n"] {
            queue.push(line.as_bytes());
            end.send(gone()).unwrap();
            assert_eq!(next(&begins), line);
            assert!(queue.wait(LONG));
        }
        end.send(Ok(())).unwrap();
        queue.push(b"3\n");
        assert_eq!(next(&begins), "3\n");
        assert!(queue.wait(LONG));
        assert!(LOST.lock().unwrap().is_empty());
        queue.push(b"4\n");
        assert_eq!(next(&begins), "4\n");
        assert_eq!(*LOST.lock().unwrap(), [2]);
    }

    #[test]
    fn a_reader_that_stops_reading_holds_urgent_lines_up_once() {
        let (queue, begins, end) = queue(100, |_| {});
        queue.push(b"1\n");
        assert_eq!(next(&begins), "1\n");
        queue.wait_unless_stalled();
        assert!(queue.state().stalled);
        let before = std::time::Instant::now();
        for _ in 0..1000 {
            queue.wait_unless_stalled();
        }
        assert!(before.elapsed() < 100 * URGENT_TIMEOUT);
        drop(end);
        assert!(queue.wait(LONG));
        assert!(!queue.state().stalled);
    }
}
