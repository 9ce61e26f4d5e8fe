//! Why a database cannot be used.

use std::fmt;

/// Why a database cannot be used: a sentence for operators.
#[derive(Debug)]
pub struct OpenError {
    sentence: String,
    refused: bool,
}

impl OpenError {
    /// Nothing is wrong with the file: another gateway has it, or there may be none.
    pub fn is_refused(&self) -> bool {
        self.refused
    }

    pub(crate) fn of(sentence: String) -> OpenError {
        OpenError {
            sentence,
            refused: false,
        }
    }

    #[cfg(feature = "sqlite")]
    pub(crate) fn refused(sentence: String) -> OpenError {
        OpenError {
            sentence,
            refused: true,
        }
    }

    #[cfg(feature = "sqlite")]
    pub(crate) fn no_thread(error: std::io::Error) -> OpenError {
        OpenError::of(format!("the store's threads cannot be started: {error}"))
    }
}

impl fmt::Display for OpenError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.sentence)
    }
}

impl std::error::Error for OpenError {}
