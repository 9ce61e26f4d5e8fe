//! What a shard carries above the engine.

use heartline_wire::id::Slot;
use heartline_wire::reason::Reason;
use heartline_wire::time::Micros;

use crate::shard::engine::Engine;
use crate::shard::request::Handshake;

/// A message as the application sees it.
#[derive(Debug, Clone, Copy)]
pub enum Data<'a> {
    /// Text.
    Text(&'a str),
    /// Binary.
    Binary(&'a [u8]),
}

/// What a shard carries above the engine.
pub trait App: Send + 'static {
    /// What other threads may ask of it.
    type Op: Send + 'static;

    /// A connection has begun.
    fn opened(&mut self, engine: &mut Engine, slot: Slot, handshake: Handshake);
    /// A message has come. Not called while the connection is paused or closing.
    fn message(&mut self, engine: &mut Engine, slot: Slot, data: Data<'_>);
    /// The connection is over; exactly once for each that was opened.
    fn closed(&mut self, engine: &mut Engine, slot: Slot, reason: Reason);
    /// The peer of a paused connection has ended. Whether what it said before that still
    /// counts, and is taken in on resume; else the connection is over.
    fn hears_out(&self, _slot: Slot) -> bool {
        true
    }
    /// Something of the transport has come that nobody waits for: a WebSocket ping, which is
    /// answered, a pong to no ping, a packet without a meaning.
    fn pinged(&mut self, _engine: &mut Engine, _slot: Slot) {}
    /// What was sent before this moment has come. Told once for each
    /// [`Engine::want_receipt`], and to nobody else.
    fn received(&mut self, _engine: &mut Engine, _slot: Slot, _before: Micros) {}
    /// A polling session travels over WebSocket from now on; told before [`closed`](Self::closed)
    /// or not at all.
    fn upgraded(&mut self, _engine: &mut Engine, _slot: Slot) {}
    /// The deadline set with [`Engine::set_app_deadline`] has come.
    fn deadline(&mut self, engine: &mut Engine, slot: Slot);
    /// Somebody asks.
    fn op(&mut self, engine: &mut Engine, op: Self::Op);
    /// Whether plain WebSockets may send binary messages; else they end with 1003.
    fn plain_binary(&self) -> bool {
        false
    }
    /// Whether what clients send must wait, because somewhere too much is
    /// waiting to be worked off.
    fn is_overloaded(&self) -> bool {
        false
    }
    /// Once in each turn of the loop, before output leaves.
    fn turn(&mut self, _engine: &mut Engine) {}
    /// When `turn` wants to be called next, if nothing else happens.
    fn next_wake(&self) -> Option<Micros> {
        None
    }
}
