//! Pings and what their answers say, as pure state: time is an argument.
//!
//! A ping goes out every `interval`, whatever else is sent: an Engine.IO
//! client counts nothing but pings as life. The peer is dead when a ping has
//! gone unanswered for `timeout`; a pong that comes twice, early or unasked is
//! no error.

use std::time::Duration;

use heartline_wire::time::Micros;

/// How often to ping, and when to give up.
#[derive(Debug, Clone, Copy)]
pub struct HeartbeatTiming {
    /// Time between pings.
    pub interval: Duration,
    /// Time a peer has to answer one.
    pub timeout: Duration,
}

#[derive(Debug, Clone, Copy)]
pub(crate) struct Heartbeat {
    next_ping: Micros,
    last_ping: Micros,
    /// When the oldest unanswered ping left; [`Micros::ZERO`] when all are answered.
    unanswered: Micros,
}

#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Beat {
    Nothing,
    Ping,
    Dead,
}

impl Heartbeat {
    pub(crate) fn new(first_ping: Micros) -> Self {
        Heartbeat {
            next_ping: first_ping,
            last_ping: Micros::ZERO,
            unanswered: Micros::ZERO,
        }
    }

    /// What is to be done at `now`. What the peer sent before `heard` has been
    /// read, so its silence proves something up to then: after an overload or
    /// a freeze of the process, the pong may lie in the socket. [`Micros::ZERO`] says that the
    /// peer is not listened to at all; its time then begins anew.
    pub(crate) fn beat(
        &mut self,
        now: Micros,
        heartbeat_timing: HeartbeatTiming,
        heard: Micros,
    ) -> Beat {
        if self.unanswered != Micros::ZERO && now >= self.unanswered + heartbeat_timing.timeout {
            if heard >= self.unanswered + heartbeat_timing.timeout {
                return Beat::Dead;
            }
            if heard == Micros::ZERO {
                self.unanswered = now;
            }
        }
        if now < self.next_ping {
            return Beat::Nothing;
        }
        self.last_ping = now;
        if self.unanswered == Micros::ZERO {
            self.unanswered = now;
        }
        // The heartbeat_timing is kept; after a pause of the whole process it begins anew.
        self.next_ping += heartbeat_timing.interval;
        if self.next_ping <= now {
            self.next_ping = now + heartbeat_timing.interval;
        }
        Beat::Ping
    }

    /// A pong has come: the round trip, if it answers anything.
    pub(crate) fn pong(&mut self, now: Micros) -> Option<Duration> {
        let answered = std::mem::take(&mut self.unanswered) != Micros::ZERO;
        answered.then(|| now - self.last_ping)
    }

    /// When `beat` has something to do next.
    pub(crate) fn deadline(&self, heartbeat_timing: HeartbeatTiming) -> Micros {
        if self.unanswered == Micros::ZERO {
            self.next_ping
        } else {
            self.next_ping
                .min(self.unanswered + heartbeat_timing.timeout)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RHYTHM: HeartbeatTiming = HeartbeatTiming {
        interval: Duration::from_micros(300),
        timeout: Duration::from_micros(200),
    };

    #[test]
    fn silence_is_death_at_interval_plus_timeout() {
        let mut heart = Heartbeat::new(Micros(300));
        assert_eq!(heart.beat(Micros(299), RHYTHM, Micros(299)), Beat::Nothing);
        assert_eq!(heart.beat(Micros(300), RHYTHM, Micros(300)), Beat::Ping);
        assert_eq!(heart.deadline(RHYTHM), Micros(500));
        assert_eq!(heart.beat(Micros(499), RHYTHM, Micros(499)), Beat::Nothing);
        assert_eq!(heart.beat(Micros(500), RHYTHM, Micros(500)), Beat::Dead);
    }

    #[test]
    fn pongs_that_come_twice_early_or_late_are_no_error() {
        let mut heart = Heartbeat::new(Micros(300));
        assert_eq!(heart.pong(Micros(100)), None);
        assert_eq!(heart.beat(Micros(300), RHYTHM, Micros(300)), Beat::Ping);
        assert_eq!(heart.pong(Micros(350)), Some(Duration::from_micros(50)));
        assert_eq!(heart.pong(Micros(351)), None);
        assert_eq!(heart.beat(Micros(550), RHYTHM, Micros(550)), Beat::Nothing);
        assert_eq!(heart.beat(Micros(600), RHYTHM, Micros(600)), Beat::Ping);
    }

    #[test]
    fn pings_go_on_while_an_answer_is_awaited() {
        let slow = HeartbeatTiming {
            interval: Duration::from_micros(100),
            timeout: Duration::from_micros(350),
        };
        let mut heart = Heartbeat::new(Micros(100));
        for now in [100, 200, 300, 400].map(Micros) {
            assert_eq!(heart.beat(now, slow, now), Beat::Ping);
        }
        assert_eq!(heart.beat(Micros(450), slow, Micros(450)), Beat::Dead);
    }

    #[test]
    fn a_peer_we_do_not_listen_to_is_not_dead() {
        let mut heart = Heartbeat::new(Micros(300));
        assert_eq!(heart.beat(Micros(300), RHYTHM, Micros(0)), Beat::Ping);
        assert_eq!(heart.beat(Micros(500), RHYTHM, Micros(0)), Beat::Nothing);
        assert_eq!(heart.deadline(RHYTHM), Micros(600));
    }

    #[test]
    fn silence_counts_only_as_far_as_was_listened() {
        let mut heart = Heartbeat::new(Micros(300));
        assert_eq!(heart.beat(Micros(300), RHYTHM, Micros(300)), Beat::Ping);
        // Frozen until 560, and not everything is read yet.
        assert_eq!(heart.beat(Micros(560), RHYTHM, Micros(310)), Beat::Nothing);
        assert_eq!(heart.pong(Micros(561)), Some(Duration::from_micros(261)));
        assert_eq!(heart.beat(Micros(600), RHYTHM, Micros(600)), Beat::Ping);
        assert_eq!(heart.beat(Micros(800), RHYTHM, Micros(799)), Beat::Nothing);
        assert_eq!(heart.beat(Micros(801), RHYTHM, Micros(800)), Beat::Dead);
    }

    #[test]
    fn a_frozen_process_does_not_ping_in_bursts_when_it_wakes() {
        let mut heart = Heartbeat::new(Micros(300));
        assert_eq!(
            heart.beat(Micros(10_000), RHYTHM, Micros(10_000)),
            Beat::Ping
        );
        assert_eq!(heart.pong(Micros(10_001)), Some(Duration::from_micros(1)));
        assert_eq!(
            heart.beat(Micros(10_002), RHYTHM, Micros(10_002)),
            Beat::Nothing
        );
    }
}
