//! Time as an argument: nothing in this crate reads a clock.

use heartline_wire::time::Micros;

/// A moment, by both clocks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Moment {
    /// By the monotonic clock.
    pub at: Micros,
    /// Unix milliseconds.
    pub unix_millis: u64,
}

/// Tells the present moment.
pub type Now = Box<dyn Fn() -> Moment + Send + Sync>;
