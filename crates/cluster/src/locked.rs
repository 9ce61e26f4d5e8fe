//! Mutexes whose holders do not leave things half done.

use std::sync::{Mutex, MutexGuard, PoisonError};

/// Locks; also after a holder has panicked, for what is behind these mutexes is whole
/// after each statement.
pub(crate) fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
