//! How a connection ends: what its peer is told, how long it has for its part, and when the slot
//! is free again.

use std::time::Duration;

use heartline_wire::id::Slot;
use heartline_wire::reason::Reason;
use heartline_wire::ws;

use crate::shard::conn::{Ending, PeerEnds, Phase, Transport};
use crate::shard::engine::Engine;
use crate::shard::polling::{Farewell, Polling};
use crate::shard::request::Reply;
use crate::shard::writes::Waits;

/// How long a peer has to finish a closing handshake.
pub(super) const CLOSE_WAIT: Duration = Duration::from_secs(5);
/// The same for a slow consumer, who first has to read what the kernel holds.
const SLOW_CLOSE_WAIT: Duration = Duration::from_secs(15);
/// How long a closed polling session waits for the GET that takes the news
/// (Engine.IO's `closeTimeout`).
const POLLING_CLOSE_WAIT: Duration = Duration::from_secs(30);

impl Engine {
    /// Ends a connection for what its peer has said, as [`close`](Self::close) does, but behind
    /// the answers to what it said before: they may stand in the shard's mailbox. Nothing more is
    /// heard of it meanwhile.
    pub fn close_behind(&mut self, slot: Slot, reason: Reason) {
        self.close_behind_with(slot, reason, reason.close_code(), "");
    }

    /// The same with a close code and text of its own.
    pub fn close_behind_with(&mut self, slot: Slot, reason: Reason, code: u16, text: &'static str) {
        self.end_behind(slot, Ending::Said { reason, code, text });
    }

    /// A peer has ended its connection: that is acted on when all that was posted by now has
    /// been worked off.
    pub(super) fn end_behind(&mut self, slot: Slot, ending: Ending) {
        let Some(conn) = self.conns.get_mut(slot) else {
            return;
        };
        if conn.phase != Phase::Open {
            return self.end_by_peer(slot, ending);
        }
        if std::mem::replace(&mut conn.ends, true) {
            return;
        }
        conn.paused = true;
        let generation = conn.generation;
        self.endings.push(PeerEnds {
            slot,
            generation,
            ending,
        });
    }

    /// Ends the first `count` of the connections whose peers have ended them.
    pub(super) fn end_the_ended(&mut self, count: usize) {
        let later = self.endings.split_off(count);
        for ended in std::mem::replace(&mut self.endings, later) {
            let conn = self.conns.get(ended.slot);
            if conn.is_some_and(|conn| conn.generation == ended.generation) {
                self.end_by_peer(ended.slot, ended.ending);
            }
        }
    }

    fn end_by_peer(&mut self, slot: Slot, ending: Ending) {
        match ending {
            Ending::Half => {
                // Who has only ended their side gets the answers to what they said.
                self.flush(slot);
                self.lost(slot, Reason::TransportClosed);
            }
            Ending::Broken(error) => {
                let reason = match error {
                    ws::Error::TooBig => Reason::PayloadTooLarge,
                    _ => Reason::ProtocolViolation,
                };
                self.close_with(slot, reason, error.close_code(), "");
            }
            Ending::Close(code) => {
                self.close_with(slot, Reason::ClientLeft, code, "");
                // Both closes are under way: nothing is waited for but the write.
                self.flush(slot);
                self.end_when_written(slot);
            }
            Ending::Said { reason, code, text } => self.close_with(slot, reason, code, text),
        }
    }

    /// Ends a connection in good order: the peer is told, then the transport
    /// closes. The application hears of it in this turn.
    pub fn close(&mut self, slot: Slot, reason: Reason) {
        self.close_with(slot, reason, reason.close_code(), "");
    }

    /// The same with a close code and text of its own.
    pub fn close_with(&mut self, slot: Slot, reason: Reason, code: u16, text: &str) {
        let now = self.now;
        let Some(conn) = self.conns.get_mut(slot) else {
            return;
        };
        if conn.phase != Phase::Open {
            return;
        }
        conn.phase = Phase::Closing(reason);
        self.closed.push((slot, reason));
        match &mut conn.transport {
            Transport::WebSocket(_) => {
                // The peer's own close must be heard.
                let paused = std::mem::take(&mut conn.paused);
                conn.close_deadline = now + CLOSE_WAIT;
                if reason == Reason::SlowConsumer {
                    conn.close_deadline = now + SLOW_CLOSE_WAIT;
                    if let Some(out) = &mut conn.out {
                        out.keep_frame_in_flight();
                    }
                }
                if paused {
                    self.read_later(slot);
                }
                self.append_close(slot, code, text);
            }
            Transport::Polling(polling) => {
                // A client that is changing over polls no more: it hears the last on
                // its WebSocket.
                let changes = polling.probe.as_ref().is_some_and(|probe| probe.probed);
                polling.farewell = Farewell::of(reason, code);
                let has_events = conn.out.as_ref().is_some_and(|out| !out.is_empty());
                let lingers = match reason {
                    Reason::ProtocolViolation
                    | Reason::ClientLeft
                    | Reason::HeartbeatTimeout
                    | Reason::StaleSweep
                    | Reason::TransportClosed
                    | Reason::TransportError => false,
                    _ => has_events || changes || polling.farewell != Farewell::Silence,
                };
                if !(lingers && changes) {
                    polling.probe = None;
                }
                polling.end_posts();
                conn.close_deadline = now + POLLING_CLOSE_WAIT;
                if reason == Reason::SlowConsumer {
                    if let Some(out) = &mut conn.out {
                        out.keep_frame_in_flight();
                    }
                }
                if polling.get.is_some() || !lingers {
                    self.finish_polling(slot);
                    return;
                }
            }
        }
        self.rearm(slot);
    }

    /// A close frame behind all that waits.
    pub(super) fn append_close(&mut self, slot: Slot, code: u16, text: &str) {
        if let Some((out, waits, writes)) = self.queue(slot) {
            out.append(|buffer| ws::push_close(code, text, buffer));
            writes.push(slot, waits, Waits::Alone);
        }
    }

    /// The transport has ended by itself, or must end now.
    pub(super) fn lost(&mut self, slot: Slot, reason: Reason) {
        if let Some(conn) = self.conns.get_mut(slot) {
            if conn.phase == Phase::Open {
                conn.phase = Phase::Closing(reason);
                self.closed.push((slot, reason));
            }
        }
        self.end_transport(slot);
    }

    /// Frees the slot, as soon as the application knows.
    pub(super) fn end_transport(&mut self, slot: Slot) {
        if let Some(conn) = self.conns.get_mut(slot) {
            conn.gone = true;
            self.wheel.cancel(slot);
            if conn.told {
                self.forget(slot);
            }
        }
    }

    /// Both sides have closed: the transport ends once what waits is written, the
    /// close frame behind it, or the deadline for that has passed.
    pub(super) fn end_when_written(&mut self, slot: Slot) {
        match self.conns.get_mut(slot) {
            Some(conn) if conn.out.is_some() || conn.piece.is_some() => conn.discard = true,
            _ => self.end_transport(slot),
        }
    }

    pub(super) fn forget(&mut self, slot: Slot) {
        self.wheel.cancel(slot);
        if let Some(conn) = self.conns.remove(slot) {
            if let Some(piece) = conn.piece {
                self.pieces.release(piece);
            }
            if let Some(out) = conn.out {
                self.recycle(out);
            }
        }
    }

    /// Ends all transports that still wait for their peers.
    pub fn force_closing(&mut self) {
        let closing: Vec<Slot> = self
            .conns
            .slots()
            .filter(|&slot| {
                self.conns
                    .get(slot)
                    .is_some_and(|conn| matches!(conn.phase, Phase::Closing(_)))
            })
            .collect();
        for slot in closing {
            self.end_transport(slot);
        }
    }

    /// Answers a closing session's GET: with what still waits, or, that done,
    /// with the session's [`Farewell`], and then the session is forgotten. They never
    /// travel together: a client that sees a close in a payload drops the
    /// events beside it.
    pub(super) fn finish_polling(&mut self, slot: Slot) {
        let Some(conn) = self.conns.get_mut(slot) else {
            return;
        };
        if let Transport::Polling(polling) = &mut conn.transport {
            if let Some(get) = polling.get.take() {
                let payload = Polling::drain(&mut conn.out);
                let farewell = polling.farewell;
                if payload.is_empty() || farewell == Farewell::Noop {
                    let _ = get.reply.send(farewell.reply());
                } else {
                    let _ = get.reply.send(Reply::Payload(payload));
                    if farewell != Farewell::Silence {
                        self.rearm(slot);
                        return;
                    }
                }
            }
        }
        self.end_transport(slot);
    }
}
