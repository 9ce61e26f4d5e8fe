//! Whether a pong proves that all has come that was sent before its ping.
//!
//! TCP keeps the order. So if nothing waited when a ping left, the answer to it says that
//! everything before it has come. Pongs name no ping: which one it is that a pong answers is
//! known only while a single one is on its way.

/// What one connection's pings prove.
#[derive(Debug, Default, Clone, Copy)]
pub(crate) struct Receipt {
    /// Pings without an answer. One that has not answered so many is not believed any more.
    in_flight: u8,
    /// Somebody wants to know.
    is_wanted: bool,
    /// The answer to the only ping on its way proves it.
    is_asked: bool,
}

impl Receipt {
    /// Has the next ping ask.
    pub(crate) fn want(&mut self) {
        self.is_wanted = true;
    }

    /// A ping leaves; nothing is before it that has not left, or there is.
    pub(crate) fn ping(&mut self, is_first: bool) {
        self.is_asked = self.is_wanted && is_first && self.in_flight == 0;
        self.in_flight = self.in_flight.saturating_add(1);
    }

    /// A pong has come: whether it proves that all has come that was sent before the last ping.
    /// Then nobody wants to know any more.
    pub(crate) fn pong(&mut self) -> bool {
        if self.in_flight != u8::MAX {
            self.in_flight = self.in_flight.saturating_sub(1);
        }
        let proves = std::mem::take(&mut self.is_asked);
        self.is_wanted &= !proves;
        proves
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pong_proves_what_left_before_the_only_ping_on_its_way() {
        let mut receipt = Receipt::default();
        // Nobody wants to know.
        receipt.ping(true);
        assert!(!receipt.pong());
        receipt.want();
        assert!(!receipt.pong());
        // Something was still to leave.
        receipt.ping(false);
        assert!(!receipt.pong());
        receipt.ping(true);
        assert!(receipt.pong() && !receipt.pong());
        receipt.ping(true);
        assert!(!receipt.pong());
    }

    #[test]
    fn of_several_pings_no_pong_proves_anything() {
        let mut receipt = Receipt::default();
        receipt.want();
        receipt.ping(true);
        receipt.ping(true);
        // The answer to the first, of which the second is not sure.
        assert!(!receipt.pong());
        receipt.ping(true);
        assert!(!receipt.pong() && !receipt.pong());
        receipt.ping(true);
        assert!(receipt.pong());
        // So many that they are not counted any more.
        receipt.want();
        for _ in 0..300 {
            receipt.ping(true);
        }
        for _ in 0..300 {
            assert!(!receipt.pong());
        }
        receipt.ping(true);
        assert!(!receipt.pong());
    }
}
