//! Pings and what their answers say, as pure state: time is an argument.
//!
//! A ping goes out every `interval`, whatever else is sent: an Engine.IO
//! client counts nothing but pings as life. The peer is dead when a ping has
//! gone unanswered for `timeout`; a pong that comes twice, early or unasked is
//! no error.

use super::wheel::Micros;

#[derive(Debug, Clone, Copy)]
pub(crate) struct Rhythm {
    pub(crate) interval: Micros,
    pub(crate) timeout: Micros,
}

#[derive(Debug, Clone, Copy)]
pub(crate) struct Heartbeat {
    next_ping: Micros,
    last_ping: Micros,
    /// When the oldest unanswered ping left; 0 when all are answered.
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
            last_ping: 0,
            unanswered: 0,
        }
    }

    /// What is to be done at `now`. `deaf` says that the peer's bytes are not
    /// being read at present: its silence then proves nothing.
    pub(crate) fn beat(&mut self, now: Micros, rhythm: Rhythm, deaf: bool) -> Beat {
        if self.unanswered != 0 && now >= self.unanswered + rhythm.timeout {
            if !deaf {
                return Beat::Dead;
            }
            self.unanswered = now;
        }
        if now < self.next_ping {
            return Beat::Nothing;
        }
        self.last_ping = now;
        if self.unanswered == 0 {
            self.unanswered = now;
        }
        // The rhythm is kept; after a pause of the whole process it begins anew.
        self.next_ping += rhythm.interval;
        if self.next_ping <= now {
            self.next_ping = now + rhythm.interval;
        }
        Beat::Ping
    }

    /// A pong has come: the round trip, if it answers anything.
    pub(crate) fn pong(&mut self, now: Micros) -> Option<Micros> {
        let answered = std::mem::take(&mut self.unanswered) != 0;
        answered.then(|| now.saturating_sub(self.last_ping))
    }

    /// When `beat` has something to do next.
    pub(crate) fn deadline(&self, rhythm: Rhythm) -> Micros {
        if self.unanswered == 0 {
            self.next_ping
        } else {
            self.next_ping.min(self.unanswered + rhythm.timeout)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RHYTHM: Rhythm = Rhythm {
        interval: 300,
        timeout: 200,
    };

    #[test]
    fn silence_is_death_at_interval_plus_timeout() {
        let mut heart = Heartbeat::new(300);
        assert_eq!(heart.beat(299, RHYTHM, false), Beat::Nothing);
        assert_eq!(heart.beat(300, RHYTHM, false), Beat::Ping);
        assert_eq!(heart.deadline(RHYTHM), 500);
        assert_eq!(heart.beat(499, RHYTHM, false), Beat::Nothing);
        assert_eq!(heart.beat(500, RHYTHM, false), Beat::Dead);
    }

    #[test]
    fn pongs_that_come_twice_early_or_late_are_no_error() {
        let mut heart = Heartbeat::new(300);
        assert_eq!(heart.pong(100), None);
        assert_eq!(heart.beat(300, RHYTHM, false), Beat::Ping);
        assert_eq!(heart.pong(350), Some(50));
        assert_eq!(heart.pong(351), None);
        assert_eq!(heart.beat(550, RHYTHM, false), Beat::Nothing);
        assert_eq!(heart.beat(600, RHYTHM, false), Beat::Ping);
    }

    #[test]
    fn pings_go_on_while_an_answer_is_awaited() {
        let slow = Rhythm {
            interval: 100,
            timeout: 350,
        };
        let mut heart = Heartbeat::new(100);
        for now in [100, 200, 300, 400] {
            assert_eq!(heart.beat(now, slow, false), Beat::Ping);
        }
        assert_eq!(heart.beat(450, slow, false), Beat::Dead);
    }

    #[test]
    fn a_peer_we_do_not_listen_to_is_not_dead() {
        let mut heart = Heartbeat::new(300);
        assert_eq!(heart.beat(300, RHYTHM, true), Beat::Ping);
        assert_eq!(heart.beat(500, RHYTHM, true), Beat::Nothing);
        assert_eq!(heart.deadline(RHYTHM), 600);
    }

    #[test]
    fn a_frozen_process_does_not_ping_in_bursts_when_it_wakes() {
        let mut heart = Heartbeat::new(300);
        assert_eq!(heart.beat(10_000, RHYTHM, false), Beat::Ping);
        assert_eq!(heart.pong(10_001), Some(1));
        assert_eq!(heart.beat(10_002, RHYTHM, false), Beat::Nothing);
    }
}
