//! Futures that a shard carries: handlers, authentications.
//!
//! A future is polled at once, on the shard, where it was made; most are ready
//! then and never enter a table. The others wait here and are polled again when
//! their waker has posted their number to the shard's mailbox. Panics stay
//! inside.

use std::future::Future;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, Wake, Waker};

use heartline_wire::time::Micros;

/// A boxed future that may move between threads.
pub type BoxFuture<T> = Pin<Box<dyn Future<Output = T> + Send>>;

/// What a task does; `T` is what its owner gets when it is done.
pub type Work<T> = BoxFuture<T>;

/// Number of a task that waits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TaskId {
    slot: u32,
    generation: u32,
}

/// Posts a woken task's number to where its shard will find it.
pub trait Wakes: Send + Sync + 'static {
    /// The task can go on; called from any thread.
    fn wake(&self, task: TaskId);
}

struct TaskWaker<P> {
    to: Arc<P>,
    task: TaskId,
    posted: AtomicBool,
}

impl<P: Wakes> Wake for TaskWaker<P> {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        if !self.posted.swap(true, Ordering::AcqRel) {
            self.to.wake(self.task);
        }
    }
}

/// A task's waker: as its owner looks at it, and as its future gets it. The second is kept, so
/// that a poll counts no references.
struct Wakers<P> {
    own: Arc<TaskWaker<P>>,
    given: Waker,
}

struct Task<P, M, T> {
    work: Work<T>,
    wakers: Wakers<P>,
    meta: M,
    deadline: Micros,
    /// Where it stands among those that wait.
    place: usize,
}

struct Entry<P, M, T> {
    generation: u32,
    task: Option<Task<P, M, T>>,
}

/// How a first poll ended.
pub enum Started<T> {
    /// It goes on under this number.
    Waiting(TaskId),
    /// It is done, with this result.
    Done(T),
    /// It panicked.
    Panicked,
}

/// How a later poll ended.
pub enum Ended<M, T> {
    /// It goes on.
    Waiting,
    /// It is done, with this result.
    Done(M, T),
    /// It panicked.
    Panicked(M),
}

/// `M` is what the owner wants to know of a task that has waited when it ends, `T` the result.
pub struct Tasks<P, M, T> {
    to: Arc<P>,
    entries: Vec<Entry<P, M, T>>,
    free: Vec<u32>,
    /// The entries of those that wait, in no order.
    waiting: Vec<u32>,
    /// The waker for the next task; a task that is ready at once leaves it be.
    spare: Option<(TaskId, Wakers<P>)>,
}

impl<P> Wakers<P> {
    /// Whether nobody has kept one.
    fn are_alone(&self) -> bool {
        Arc::strong_count(&self.own) == 2
    }
}

impl<P: Wakes, M, T> Tasks<P, M, T> {
    /// `to` is told of tasks that can go on.
    pub fn new(to: Arc<P>) -> Self {
        Tasks {
            to,
            entries: Vec::new(),
            free: Vec::new(),
            waiting: Vec::new(),
            spare: None,
        }
    }

    /// How many wait.
    pub fn waiting(&self) -> usize {
        self.waiting.len()
    }

    /// Polls `work` for the first time. `meta` is asked for if it waits.
    pub fn start(
        &mut self,
        mut work: Work<T>,
        deadline: Micros,
        meta: impl FnOnce() -> M,
    ) -> Started<T> {
        let (id, wakers) = self.spare.take().unwrap_or_else(|| self.reserve());
        match poll(&mut work, &wakers.given) {
            Ok(Poll::Ready(result)) => {
                discard(work);
                if wakers.are_alone() && !wakers.own.posted.load(Ordering::Acquire) {
                    self.spare = Some((id, wakers));
                } else {
                    self.release(id.slot);
                }
                Started::Done(result)
            }
            Ok(Poll::Pending) => {
                self.entries[id.slot as usize].task = Some(Task {
                    work,
                    wakers,
                    meta: meta(),
                    deadline,
                    place: self.waiting.len(),
                });
                self.waiting.push(id.slot);
                Started::Waiting(id)
            }
            Err(()) => {
                discard(work);
                self.release(id.slot);
                Started::Panicked
            }
        }
    }

    /// Polls a task that was woken. `None`: it is gone.
    pub fn resume(&mut self, id: TaskId) -> Option<Ended<M, T>> {
        let entry = self.entries.get_mut(id.slot as usize)?;
        if entry.generation != id.generation {
            return None;
        }
        let task = entry.task.as_mut()?;
        task.wakers.own.posted.swap(false, Ordering::AcqRel);
        let polled = poll(&mut task.work, &task.wakers.given);
        if matches!(polled, Ok(Poll::Pending)) {
            return Some(Ended::Waiting);
        }
        let Task { work, meta, .. } = self.end(id.slot)?;
        discard(work);
        Some(match polled {
            Ok(Poll::Ready(result)) => Ended::Done(meta, result),
            Ok(Poll::Pending) => Ended::Waiting,
            Err(()) => Ended::Panicked(meta),
        })
    }

    /// What the owner knows of a task that waits.
    pub fn meta_mut(&mut self, id: TaskId) -> Option<&mut M> {
        let entry = self.entries.get_mut(id.slot as usize)?;
        let task = entry.task.as_mut()?;
        (entry.generation == id.generation).then_some(&mut task.meta)
    }

    /// Drops the tasks whose deadline has passed and hands out their metas.
    pub fn expire(&mut self, now: Micros, mut each: impl FnMut(M)) {
        // From the end: whoever takes an ended one's place has been looked at.
        for place in (0..self.waiting.len()).rev() {
            let slot = self.waiting[place];
            let task = self.entries[slot as usize].task.as_ref();
            if task.is_some_and(|task| task.deadline <= now) {
                if let Some(task) = self.end(slot) {
                    discard(task.work);
                    each(task.meta);
                }
            }
        }
    }

    /// Takes a task that waits out of the table.
    fn end(&mut self, slot: u32) -> Option<Task<P, M, T>> {
        let task = self.entries.get_mut(slot as usize)?.task.take()?;
        self.waiting.swap_remove(task.place);
        if let Some(&moved) = self.waiting.get(task.place) {
            if let Some(moved) = &mut self.entries[moved as usize].task {
                moved.place = task.place;
            }
        }
        self.release(slot);
        Some(task)
    }

    fn reserve(&mut self) -> (TaskId, Wakers<P>) {
        let slot = self.free.pop().unwrap_or_else(|| {
            self.entries.push(Entry {
                generation: 0,
                task: None,
            });
            self.entries.len() as u32 - 1
        });
        let task = TaskId {
            slot,
            generation: self.entries[slot as usize].generation,
        };
        let own = Arc::new(TaskWaker {
            to: self.to.clone(),
            task,
            posted: AtomicBool::new(false),
        });
        let given = Waker::from(own.clone());
        (task, Wakers { own, given })
    }

    fn release(&mut self, slot: u32) {
        let entry = &mut self.entries[slot as usize];
        entry.generation = entry.generation.wrapping_add(1);
        self.free.push(slot);
    }
}

/// Calls code that is not ours; `None` if it panicked.
pub fn guarded<T>(call: impl FnOnce() -> T) -> Option<T> {
    catch_unwind(AssertUnwindSafe(call)).ok()
}

/// Calls code that is not ours and waits for what it has begun; `None` if either panicked.
pub async fn guarded_wait<T>(begin: impl FnOnce() -> BoxFuture<T>) -> Option<T> {
    let mut work = guarded(begin)?;
    let done = std::future::poll_fn(|context| match guarded(|| work.as_mut().poll(context)) {
        Some(Poll::Ready(value)) => Poll::Ready(Some(value)),
        Some(Poll::Pending) => Poll::Pending,
        None => Poll::Ready(None),
    })
    .await;
    discard(work);
    done
}

/// Drops a future. A destructor that panics is the future's own fault.
fn discard<T>(work: BoxFuture<T>) {
    guarded(move || drop(work));
}

fn poll<T>(work: &mut Work<T>, waker: &Waker) -> Result<Poll<T>, ()> {
    let mut context = Context::from_waker(waker);
    catch_unwind(AssertUnwindSafe(|| work.as_mut().poll(&mut context))).map_err(drop)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Mutex;
    use tokio::sync::oneshot;

    #[derive(Default)]
    struct Posted(Mutex<Vec<TaskId>>);
    impl Wakes for Posted {
        fn wake(&self, task: TaskId) {
            self.0.lock().unwrap().push(task);
        }
    }

    #[test]
    fn a_ready_future_leaves_nothing_behind() {
        let mut tasks = Tasks::new(Arc::new(Posted::default()));
        for _ in 0..3 {
            assert!(matches!(
                tasks.start(Box::pin(async { 7 }), Micros(0), || ()),
                Started::Done(7)
            ));
        }
        assert_eq!((tasks.waiting(), tasks.entries.len()), (0, 1));
    }

    #[test]
    fn a_waker_that_outlives_its_future_wakes_no_other() {
        let posted = Arc::new(Posted::default());
        let mut tasks = Tasks::new(posted.clone());
        let (keep, kept) = std::sync::mpsc::channel();
        let ready = std::future::poll_fn(move |context| {
            let _ = keep.send(context.waker().clone());
            Poll::Ready(())
        });
        tasks.start(Box::pin(ready), Micros(100), || 1);
        tasks.start(Box::pin(std::future::pending()), Micros(100), || 2);
        kept.recv().unwrap().wake();
        let woken = posted.0.lock().unwrap().pop().unwrap();
        assert!(tasks.resume(woken).is_none());
        assert_eq!(tasks.waiting(), 1);
    }

    #[test]
    fn a_waiting_future_is_resumed_by_its_waker() {
        let posted = Arc::new(Posted::default());
        let mut tasks = Tasks::new(posted.clone());
        let (sender, receiver) = oneshot::channel::<()>();
        let work = Box::pin(async move { drop(receiver.await) });
        assert!(matches!(
            tasks.start(work, Micros(100), || 1),
            Started::Waiting(_)
        ));
        assert_eq!(tasks.waiting(), 1);
        sender.send(()).unwrap();
        let woken = posted.0.lock().unwrap().pop().unwrap();
        assert!(matches!(tasks.resume(woken), Some(Ended::Done(1, ()))));
        assert!(tasks.resume(woken).is_none());
        assert_eq!(tasks.waiting(), 0);
    }

    #[test]
    fn a_destructor_that_panics_ends_only_its_own_future() {
        struct Bomb(Poll<()>);
        impl Future for Bomb {
            type Output = ();
            fn poll(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<()> {
                self.0
            }
        }
        impl Drop for Bomb {
            fn drop(&mut self) {
                panic!("a destructor's fault");
            }
        }
        let mut tasks = Tasks::new(Arc::new(Posted::default()));
        let ready = Box::pin(Bomb(Poll::Ready(())));
        assert!(matches!(
            tasks.start(ready, Micros(0), || 1),
            Started::Done(())
        ));
        let endless = Box::pin(Bomb(Poll::Pending));
        assert!(matches!(
            tasks.start(endless, Micros(50), || 2),
            Started::Waiting(_)
        ));
        let mut expired = Vec::new();
        tasks.expire(Micros(50), |meta| expired.push(meta));
        assert_eq!((expired, tasks.waiting()), (vec![2], 0));
    }

    #[test]
    fn those_whose_time_is_over_end_and_the_others_wait_on() {
        let mut tasks = Tasks::new(Arc::new(Posted::default()));
        for number in 0..100 {
            let endless: Work<()> = Box::pin(std::future::pending());
            let due = Micros(number * 7 % 10);
            tasks.start(endless, due, || number);
        }
        let mut ended = Vec::new();
        for now in 0..10 {
            tasks.expire(Micros(now), |number| ended.push((number * 7 % 10, number)));
            assert_eq!(ended.len() as u64, (now + 1) * 10);
            assert!(ended.iter().all(|(due, _)| *due <= now));
            assert_eq!(tasks.waiting(), 100 - ended.len());
        }
        ended.sort_by_key(|(_, number)| *number);
        assert!(ended.iter().map(|(_, number)| *number).eq(0..100));
    }

    #[test]
    fn panics_and_endless_futures_end_alone() {
        let mut tasks = Tasks::new(Arc::new(Posted::default()));
        let bad: Work<()> = Box::pin(async { panic!("a handler's fault") });
        assert!(matches!(
            tasks.start(bad, Micros(0), || 1),
            Started::Panicked
        ));
        tasks.start(Box::pin(std::future::pending()), Micros(50), || 2);
        let mut expired = Vec::new();
        tasks.expire(Micros(49), |meta| expired.push(meta));
        assert!(expired.is_empty());
        tasks.expire(Micros(50), |meta| expired.push(meta));
        assert_eq!(expired, [2]);
    }
}
