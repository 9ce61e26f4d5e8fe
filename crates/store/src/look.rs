//! What is there of a database, before anybody opens it to write.

use std::time::Duration;

/// What was found of a database, of which nothing was changed.
#[derive(Debug, Default)]
pub struct Looked {
    /// What it is, if it says so.
    pub what: Option<String>,
    /// The version of its tables; 0: it has none yet, or is not there.
    pub version: i64,
    /// The version that this program makes them.
    pub known: i64,
    /// A gateway has it open.
    pub is_in_use: bool,
    /// How long an answer takes, where it is on another machine.
    pub round_trip: Option<Duration>,
    /// How far the clock of that machine is ahead of this one's, milliseconds.
    pub ahead: Option<i64>,
    /// What its operator should know, a sentence each.
    pub warnings: Vec<String>,
}
