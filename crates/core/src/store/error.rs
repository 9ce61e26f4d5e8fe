//! Why a store did not do something.

use std::fmt;

/// Why the store did not do what it was asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StoreError {
    /// It could not, for this reason, which is for operators. A message may have been kept all
    /// the same: to send it again with its `temp_id` finds out.
    Failed(String),
    /// Too much waits to be stored; nothing of this was.
    Overloaded,
}

impl fmt::Display for StoreError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            StoreError::Failed(reason) => f.write_str(reason),
            StoreError::Overloaded => f.write_str("too much waits to be stored"),
        }
    }
}

impl std::error::Error for StoreError {}
