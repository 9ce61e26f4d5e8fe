//! Why connections end: one closed list, one table.
//!
//! A reason's word is the same in logs, metric labels, the API and the
//! timeline; its close code is what a WebSocket peer sees.

/// Why a connection or socket ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Reason {
    /// The client said goodbye: a namespace DISCONNECT, an Engine.IO close or a WebSocket close.
    ClientLeft,
    /// The transport ended without a goodbye.
    TransportClosed,
    /// The transport failed.
    TransportError,
    /// No answer to a ping in time.
    HeartbeatTimeout,
    /// The sweep found an entry that nothing had kept alive.
    StaleSweep,
    /// No application event for longer than `heartbeat.idle_timeout`.
    IdleTimeout,
    /// No acceptable identity in time.
    AuthFailed,
    /// The token expired during the connection.
    TokenExpired,
    /// An operator or the backend asked for it.
    Kicked,
    /// A newer connection of the same user or device took its place.
    Replaced,
    /// Over the device limit.
    DeviceLimit,
    /// Over a rate limit by far.
    RateLimited,
    /// The send buffer overflowed.
    SlowConsumer,
    /// A message over `server.max_payload`.
    PayloadTooLarge,
    /// Something the protocol does not allow.
    ProtocolViolation,
    /// This node is going away.
    Drained,
    /// The node that held it died.
    NodeLost,
}

/// What a closed connection is told, and what its client should make of it.
struct Entry {
    reason: Reason,
    word: &'static str,
    close_code: u16,
}

const TABLE: [Entry; 17] = {
    const fn entry(reason: Reason, word: &'static str, close_code: u16) -> Entry {
        Entry {
            reason,
            word,
            close_code,
        }
    }
    use Reason::*;
    [
        entry(ClientLeft, "client_left", 1000),
        entry(TransportClosed, "transport_closed", 1000),
        entry(TransportError, "transport_error", 1011),
        entry(HeartbeatTimeout, "heartbeat_timeout", 4408),
        entry(StaleSweep, "stale_sweep", 4408),
        entry(IdleTimeout, "idle_timeout", 4408),
        entry(AuthFailed, "auth_failed", 4401),
        entry(TokenExpired, "token_expired", 4401),
        entry(Kicked, "kicked", 4403),
        entry(Replaced, "replaced", 4409),
        entry(DeviceLimit, "device_limit", 4409),
        entry(RateLimited, "rate_limited", 4429),
        entry(SlowConsumer, "slow_consumer", 4413),
        entry(PayloadTooLarge, "payload_too_large", 1009),
        entry(ProtocolViolation, "protocol_violation", 1008),
        entry(Drained, "drained", 1001),
        entry(NodeLost, "node_lost", 1001),
    ]
};

impl Reason {
    /// Every reason, in the order of its discriminant.
    pub fn all() -> impl Iterator<Item = Reason> {
        TABLE.iter().map(|entry| entry.reason)
    }

    /// How many there are.
    pub const COUNT: usize = TABLE.len();

    /// The reason's word: `heartbeat_timeout`.
    pub fn word(self) -> &'static str {
        TABLE[self as usize].word
    }

    /// The WebSocket close code that goes with it.
    pub fn close_code(self) -> u16 {
        TABLE[self as usize].close_code
    }

    /// Whether a Socket.IO client is told not to come back: it gets a
    /// namespace DISCONNECT before its transport closes.
    pub fn is_final(self) -> bool {
        matches!(
            self,
            Reason::Kicked | Reason::Replaced | Reason::DeviceLimit
        )
    }
}

impl std::fmt::Display for Reason {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.word())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_is_in_the_order_of_the_enum() {
        for (index, reason) in Reason::all().enumerate() {
            assert_eq!(reason as usize, index);
        }
    }
}
