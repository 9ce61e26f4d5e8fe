//! Pings and what their answers say, as pure state: time is an argument.
//!
//! A ping goes out every `interval`, whatever else is sent: an Engine.IO
//! client counts nothing but pings as life. The peer is dead when a ping has
//! gone unanswered for `timeout`; a pong that comes twice, early or unasked is
//! no error. While something of the peer's is on its way before which no pong can come
//! (the rest of a large message), what comes of it is as good as one, and half of the time is
//! left for the pong behind it. Each connection keeps its phase: those whose pings were spread out
//! stay so, also when the process stood still for longer than `interval`.

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

/// How late a ping may leave without the peer getting more time for its answer: as late
/// as the wheel and a busy turn make it, and never more than a quarter of that time.
const LATE: Duration = Duration::from_millis(50);

#[derive(Debug, Clone, Copy)]
pub(crate) struct Heartbeat {
    next_ping: Micros,
    last_ping: Micros,
    /// When the oldest unanswered ping was due, or from when on its answer is waited for because it
    /// was held up before; [`Micros::ZERO`] when all are answered.
    unanswered: Micros,
    /// The same without what time was left for the answer behind something else: that is half of
    /// it in all, or who says much and answers nothing would stay for ever.
    waits_since: Micros,
}

#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Beat {
    Nothing,
    Ping,
    /// The time for an answer is over, and it may have come: listen once more, and ask
    /// again.
    Listen,
    Dead,
}

impl Heartbeat {
    pub(crate) fn new(first_ping: Micros) -> Self {
        Heartbeat {
            next_ping: first_ping,
            last_ping: Micros::ZERO,
            unanswered: Micros::ZERO,
            waits_since: Micros::ZERO,
        }
    }

    /// Whether the time for an answer is over.
    pub(crate) fn is_over(&self, now: Micros, heartbeat_timing: HeartbeatTiming) -> bool {
        self.unanswered != Micros::ZERO && now >= self.unanswered + heartbeat_timing.timeout
    }

    /// No answer can have come before `until`, when something came that had to come first: its
    /// time begins there.
    pub(crate) fn is_held_up(&mut self, until: Micros) {
        if self.unanswered != Micros::ZERO && until > self.unanswered {
            self.unanswered = until;
            self.waits_since = until;
        }
    }

    /// What has held the answer up from `since` to `now` is over: half of its time is left for it.
    /// What began when half of it was over already has held nothing up.
    pub(crate) fn may_answer(
        &mut self,
        since: Micros,
        now: Micros,
        heartbeat_timing: HeartbeatTiming,
    ) {
        let half = heartbeat_timing.timeout / 2;
        let latest = self.waits_since + half;
        if self.unanswered != Micros::ZERO && since <= latest {
            self.unanswered = self.unanswered.max((now - half).min(latest));
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
        if self.is_over(now, heartbeat_timing) {
            if heard >= self.unanswered + heartbeat_timing.timeout {
                return Beat::Dead;
            }
            if heard != Micros::ZERO {
                return Beat::Listen;
            }
            self.is_held_up(now);
        }
        if now < self.next_ping {
            return Beat::Nothing;
        }
        self.last_ping = now;
        if self.unanswered == Micros::ZERO {
            let late = LATE.min(heartbeat_timing.timeout / 4);
            self.unanswered = self.next_ping.max(now - late);
            self.waits_since = self.unanswered;
        }
        self.next_ping = self.next_ping.next_in_phase(heartbeat_timing.interval, now);
        Beat::Ping
    }

    /// A pong has come: the round trip, if it answers anything.
    pub(crate) fn pong(&mut self, now: Micros) -> Option<Duration> {
        let answered = std::mem::take(&mut self.unanswered) != Micros::ZERO;
        answered.then(|| now - self.last_ping)
    }

    /// When the last ping left.
    pub(crate) fn last_ping(&self) -> Micros {
        self.last_ping
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
        assert_eq!(heart.beat(Micros(560), RHYTHM, Micros(310)), Beat::Listen);
        assert_eq!(heart.pong(Micros(561)), Some(Duration::from_micros(261)));
        assert_eq!(heart.beat(Micros(600), RHYTHM, Micros(600)), Beat::Ping);
        assert_eq!(heart.beat(Micros(800), RHYTHM, Micros(799)), Beat::Listen);
        assert_eq!(heart.beat(Micros(801), RHYTHM, Micros(800)), Beat::Dead);
    }

    #[test]
    fn an_answer_that_was_held_up_has_its_time_from_then_on() {
        let mut heart = Heartbeat::new(Micros(300));
        // Before a ping there is nothing to wait for.
        heart.is_held_up(Micros(250));
        assert_eq!(beat(&mut heart, 300), Beat::Ping);
        assert!(!heart.is_over(Micros(499), RHYTHM) && heart.is_over(Micros(500), RHYTHM));
        heart.is_held_up(Micros(480));
        assert_eq!(beat(&mut heart, 500), Beat::Nothing);
        heart.is_held_up(Micros(470));
        assert_eq!(heart.deadline(RHYTHM), Micros(600));
        assert_eq!(beat(&mut heart, 600), Beat::Ping);
        assert_eq!(beat(&mut heart, 679), Beat::Nothing);
        assert_eq!(beat(&mut heart, 680), Beat::Dead);
    }

    #[test]
    fn half_of_its_time_is_left_to_an_answer_behind_what_held_it_up() {
        let mut heart = Heartbeat::new(Micros(300));
        let over = |heart: &mut Heartbeat, since: u64, now: u64| {
            heart.may_answer(Micros(since), Micros(now), RHYTHM);
            heart.deadline(RHYTHM)
        };
        assert_eq!(over(&mut heart, 100, 200), Micros(300));
        assert_eq!(beat(&mut heart, 300), Beat::Ping);
        // Half of it is left anyway.
        assert_eq!(over(&mut heart, 100, 390), Micros(500));
        assert_eq!(over(&mut heart, 390, 450), Micros(550));
        // What began late, and what came before.
        assert_eq!(over(&mut heart, 401, 490), Micros(550));
        assert_eq!(over(&mut heart, 100, 440), Micros(550));
        // No more than that in all.
        assert_eq!(over(&mut heart, 399, 549), Micros(600));
        assert_eq!(beat(&mut heart, 549), Beat::Nothing);
        assert_eq!(heart.pong(Micros(549)), Some(Duration::from_micros(249)));
        // The next has its own time.
        assert_eq!(beat(&mut heart, 600), Beat::Ping);
        assert_eq!(over(&mut heart, 600, 790), Micros(890));
        assert_eq!(beat(&mut heart, 890), Beat::Dead);
        // One that is waited for anew has it anew.
        let mut heart = Heartbeat::new(Micros(300));
        assert_eq!(beat(&mut heart, 300), Beat::Ping);
        heart.is_held_up(Micros(480));
        assert_eq!(over(&mut heart, 350, 590), Micros(600));
        assert_eq!(beat(&mut heart, 600), Beat::Ping);
        assert_eq!(over(&mut heart, 350, 690), Micros(780));
        assert_eq!(beat(&mut heart, 780), Beat::Dead);
    }

    /// With everything heard until then.
    fn beat(heart: &mut Heartbeat, now: u64) -> Beat {
        heart.beat(Micros(now), RHYTHM, Micros(now))
    }

    #[test]
    fn the_time_for_an_answer_counts_from_when_the_ping_was_due() {
        let mut heart = Heartbeat::new(Micros(300));
        assert_eq!(beat(&mut heart, 308), Beat::Ping);
        assert_eq!(beat(&mut heart, 499), Beat::Nothing);
        assert_eq!(beat(&mut heart, 500), Beat::Dead);
        // A ping that left far too late leaves three quarters of the time at least.
        let mut heart = Heartbeat::new(Micros(300));
        assert_eq!(beat(&mut heart, 400), Beat::Ping);
        assert_eq!(beat(&mut heart, 549), Beat::Nothing);
        assert_eq!(beat(&mut heart, 550), Beat::Dead);
    }

    #[test]
    fn a_frozen_process_pings_once_when_it_wakes_and_goes_on_in_its_phase() {
        let mut heart = Heartbeat::new(Micros(300));
        assert_eq!(beat(&mut heart, 10_010), Beat::Ping);
        assert_eq!(heart.pong(Micros(10_011)), Some(Duration::from_micros(1)));
        assert_eq!(beat(&mut heart, 10_012), Beat::Nothing);
        assert_eq!(heart.deadline(RHYTHM), Micros(10_200));
    }
}
