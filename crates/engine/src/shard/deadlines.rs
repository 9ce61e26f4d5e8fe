//! When something is due for a connection (a ping, its end, the application's own), and what is
//! done then.

use std::time::Duration;

use bytes::Bytes;
use heartline_wire::id::Slot;
use heartline_wire::reason::Reason;
use heartline_wire::time::Micros;

use crate::shard::conn::{Conn, Phase, Transport};
use crate::shard::engine::Engine;
use crate::shard::heartbeat::Beat;
use crate::shard::request::Protocol;
use crate::shard::writes::Waits;

/// Deadlines in one tick of the wheel above which a first ping moves away.
const MAX_PINGS_PER_TICK: u32 = 4;
/// How late a deadline may come before the process counts as having stood still: well above
/// a tick of the wheel and a long turn.
const STOOD_STILL: Duration = Duration::from_millis(100);
/// A deadline that is acted on later than this was missed: a first ping may be late by as much.
const LATE: Duration = Duration::from_millis(100);

/// Until when a connection's pong cannot have come, because something that had to come first was
/// on its way: the rest of a message (as far as it has come), or a POST, whose answer a polling
/// client waits for. HTTP gives that half a minute.
fn held_up_until(conn: &Conn, now: Micros) -> Micros {
    match &conn.transport {
        Transport::WebSocket(websocket) if websocket.decoder.is_inside() => conn.last_seen,
        Transport::Polling(polling) if polling.is_posting() => now,
        Transport::WebSocket(_) | Transport::Polling(_) => Micros::ZERO,
    }
}

impl Engine {
    /// After `interval`, or earlier where too many would be pinged together.
    pub(super) fn first_ping(&mut self) -> Micros {
        let interval = self.settings.heartbeat_timing.interval;
        let mut best = self.now + interval;
        let mut crowd = self.wheel.crowd(best);
        for _ in 0..6 {
            if crowd <= MAX_PINGS_PER_TICK {
                break;
            }
            let candidate = self.now + interval - self.random_time(interval / 2);
            let there = self.wheel.crowd(candidate);
            if there < crowd {
                (best, crowd) = (candidate, there);
            }
        }
        best
    }

    /// When the application wants to be asked about this connection.
    pub fn set_app_deadline(&mut self, slot: Slot, deadline: Micros) {
        if let Some(conn) = self.conns.get_mut(slot) {
            if conn.app_deadline != deadline {
                conn.app_deadline = deadline;
                self.rearm(slot);
            }
        }
    }

    /// When the earliest deadline may come; `None` if there is none.
    pub(super) fn next_wake(&self) -> Option<Micros> {
        self.wheel.next_wake()
    }

    /// Begins a turn at `now`.
    pub(super) fn begin_turn(&mut self, now: Micros) {
        if self.next_wake().is_some_and(|due| now - due > LATE) {
            self.punctual_since = now;
        }
        self.now = now;
    }

    /// Acts on the deadlines that have come.
    pub(super) fn fire(&mut self) {
        let mut due = std::mem::take(&mut self.due);
        due.append(&mut self.doubtful);
        self.wheel.advance(self.now, &mut due);
        for slot in due.drain(..) {
            self.deadline(slot);
        }
        self.due = due;
    }

    pub(super) fn rearm(&mut self, slot: Slot) {
        let Some(conn) = self.conns.get(slot) else {
            return;
        };
        let deadline = match conn.phase {
            Phase::Closing(_) => conn.close_deadline,
            Phase::Open => {
                let probe = match &conn.transport {
                    Transport::Polling(polling) => polling
                        .probe
                        .as_ref()
                        .map_or(Micros::MAX, |probe| probe.deadline),
                    Transport::WebSocket(_) => Micros::MAX,
                };
                conn.heartbeat
                    .deadline(self.settings.heartbeat_timing)
                    .min(conn.app_deadline)
                    .min(probe)
            }
        };
        if deadline == Micros::MAX {
            self.wheel.cancel(slot);
        } else {
            self.wheel.set(slot, deadline);
        }
    }

    /// A connection's deadline has come: finds out which, and acts.
    pub(super) fn deadline(&mut self, slot: Slot) {
        let (now, upgrade_timeout) = (self.now, self.settings.upgrade_timeout);
        let Some(conn) = self.conns.get_mut(slot) else {
            self.nobody_due.push(slot);
            return;
        };
        if matches!(conn.phase, Phase::Closing(_)) {
            if now >= conn.close_deadline {
                self.end_transport(slot);
            } else {
                self.rearm(slot);
            }
            return;
        }
        if !self.beat(slot) {
            return;
        }
        let Some(conn) = self.conns.get_mut(slot) else {
            return;
        };
        if let Transport::Polling(polling) = &mut conn.transport {
            // A client changes over when its POST is answered, and does not poll until then.
            // Source: engine.io-client, `Polling.pause`.
            if polling.is_posting() {
                polling.prolong_probe(now + upgrade_timeout);
            }
            polling.probe.take_if(|probe| now >= probe.deadline);
        }
        if conn.app_deadline <= now {
            conn.app_deadline = Micros::MAX;
            self.app_due.push(slot);
        }
        self.rearm(slot);
    }

    /// Pings an open connection if it is time, or ends it if its time is over; whether it
    /// goes on.
    pub(super) fn beat(&mut self, slot: Slot) -> bool {
        let now = self.now;
        let Some(conn) = self.conns.get_mut(slot) else {
            return false;
        };
        if conn.phase != Phase::Open {
            return false;
        }
        let timing = self.settings.heartbeat_timing;
        let late = now - conn.heartbeat.deadline(timing);
        let heard = match &conn.transport {
            _ if conn.paused => Micros::ZERO,
            Transport::WebSocket(_) => self.heard_until,
            // HTTP brings what it says at once, unless the whole process stood still: then
            // HTTP has as much to catch up with. Or the shard has, with what HTTP has brought.
            Transport::Polling(_) if late > STOOD_STILL || self.is_behind => Micros::ZERO,
            Transport::Polling(_) => now,
        };
        if conn.heartbeat.is_over(now, timing) {
            conn.heartbeat.is_held_up(held_up_until(conn, now));
        }
        match conn.heartbeat.beat(now, timing, heard) {
            Beat::Nothing => {}
            Beat::Ping => self.ping(slot),
            Beat::Listen => self.doubtful.push(slot),
            Beat::Dead => {
                self.close(slot, Reason::HeartbeatTimeout);
                return false;
            }
        }
        true
    }

    /// What a pong had to come behind, and was on its way since `since`, has come or is answered.
    /// An upgrade may have waited for the same.
    pub(super) fn may_answer(&mut self, slot: Slot, since: Micros) {
        let (now, timing) = (self.now, self.settings.heartbeat_timing);
        if let Some(conn) = self.conns.get_mut(slot) {
            conn.heartbeat.may_answer(since, now, timing);
            if let Transport::Polling(polling) = &mut conn.transport {
                polling.prolong_probe(now + self.settings.upgrade_timeout);
            }
        }
    }

    /// Whether the rest of something is to come before whatever else a WebSocket says.
    pub(super) fn is_inside(&self, slot: Slot) -> bool {
        let conn = self.conns.get(slot);
        conn.is_some_and(|conn| match &conn.transport {
            Transport::WebSocket(websocket) => websocket.decoder.is_inside(),
            Transport::Polling(_) => false,
        })
    }

    pub(super) fn ping(&mut self, slot: Slot) {
        let Some(conn) = self.conns.get_mut(slot) else {
            return;
        };
        // `2` as a text frame; an empty ping frame.
        let frame: &'static [u8] = match conn.protocol {
            Protocol::EngineIo => b"\x81\x012",
            Protocol::Plain => b"\x89\x00",
        };
        let is_first = conn.piece.is_none() && conn.out.as_ref().is_none_or(|out| out.is_empty());
        conn.receipt.ping(is_first);
        if let Some((out, waits, writes)) = self.queue(slot) {
            out.push_urgent(Bytes::from_static(frame));
            writes.push(slot, waits, Waits::Alone);
        }
    }
}
