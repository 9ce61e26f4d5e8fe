//! Connections that were lost and come back: what is kept of a socket, and how another
//! connection goes on with it.
//!
//! A resumed socket has gone through the same admission as everybody. It stands at a new
//! address and keeps its id as a name. When it is in its rooms again, a place in the line is
//! taken: what it missed up to there comes from the rings, and what comes after from the
//! mailbox, whose events up to that place are not for it ([`CatchingUp`]). So all it gets is in
//! the order of the line, and the last place it has seen says everything that it has.
//!
//! `parking` keeps what a lost socket had and `ticket` is what its client brings; `fetching`
//! has here what it had elsewhere, `taking_up` decides whether it goes on, `missed` finds and
//! tells what it missed, `topics` the same of live topics, `catching_up` keeps that from coming
//! twice. `written` and `direct` note what another process, and one socket's own events, need
//! for it.

mod catching_up;
mod direct;
pub(super) mod fetching;
mod missed;
mod parking;
mod taking_up;
mod ticket;
mod topics;
mod written;

pub(super) use catching_up::CatchingUp;
pub(super) use missed::Missed;
pub(crate) use ticket::Ticket;
pub(super) use topics::snapshot;

use heartline_core::presence::SocketAddress;

use heartline_core::line::Place;

use super::Hub;
use crate::recovery::Recovery;

impl Hub {
    fn recovery(&self) -> Option<&Recovery> {
        self.shared.fanout.recovery.as_ref()
    }

    /// The token by which a socket can be resumed that begins, or goes on, now.
    pub(super) fn resume_token(&self, name: &SocketAddress, begin: Place) -> Option<String> {
        self.recovery()?.token(name, begin)
    }
}
