//! How the process ends: the contract's exit codes, and the sentence before them.

use std::fmt::Display;
use std::io::ErrorKind;

use crate::out;

/// The contract's exit codes.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Exit {
    Clean = 0,
    Failed = 1,
    BadConfiguration = 2,
}

/// One sentence on standard error, and the code to end with.
pub(crate) fn refuse(exit: Exit, what: impl Display) -> Exit {
    out::complain(what);
    exit
}

/// Writes what a command was asked for to standard output.
///
/// # Errors
/// The exit code. A reader that wants no more (`| head -1`) ends the command
/// quietly and cleanly, as it ends other commands by a signal.
pub(crate) fn print(text: &str) -> Result<(), Exit> {
    out::print(text).map_err(|error| match error.kind() {
        ErrorKind::BrokenPipe => Exit::Clean,
        _ => refuse(
            Exit::Failed,
            format!("standard output cannot be written: {error}"),
        ),
    })
}
