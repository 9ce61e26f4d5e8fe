//! Why connections end: one closed list, and two tables.
//!
//! A reason's word is the same in logs, metric labels, the API and the
//! timeline; its close code is what a WebSocket peer sees. The tables in
//! docs/clients.md are compared with these by a test.

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

/// Who ends a connection, or speaks with a code.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Who {
    /// The client.
    Client,
    /// The node that holds the connection, by its own rules.
    Gateway,
    /// An operator or the app, by the API, a handler or a signal.
    Operator,
    /// Nobody: the transport is gone, so no close code is heard.
    Network,
    /// Another node, after the one that held the connection: no close code is heard.
    Cluster,
}

impl Who {
    /// The word in the documentation.
    pub const fn as_str(self) -> &'static str {
        match self {
            Who::Client => "client",
            Who::Gateway => "gateway",
            Who::Operator => "operator or app",
            Who::Network => "network",
            Who::Cluster => "another node",
        }
    }

    /// Whether the client is still there to hear why.
    pub const fn is_heard(self) -> bool {
        !matches!(self, Who::Network | Who::Cluster)
    }
}

/// Whether a client should come back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Return {
    /// Yes, with the client's own first pause.
    AtOnce,
    /// Yes, after the pause that was announced, else a long one.
    Later,
    /// With another token than the one it had.
    WithNewToken,
    /// No: it would end in the same way, or take somebody else's place.
    Never,
    /// Nobody but the client wanted the end.
    AsTheAppLikes,
}

impl Return {
    /// The words in the documentation.
    pub const fn as_str(self) -> &'static str {
        match self {
            Return::AtOnce => "yes",
            Return::Later => "after a pause",
            Return::WithNewToken => "with a new token",
            Return::Never => "no",
            Return::AsTheAppLikes => "as the app likes",
        }
    }
}

/// What a closed connection is told, and what its client should make of it.
struct Entry {
    reason: Reason,
    word: &'static str,
    close_code: u16,
    who: Who,
    comes_back: Return,
    /// Socket.IO clients get a namespace DISCONNECT first, which keeps them away.
    is_final: bool,
    when: &'static str,
}

const TABLE: [Entry; 17] = {
    const fn entry(
        (reason, word, close_code): (Reason, &'static str, u16),
        who: Who,
        comes_back: Return,
        when: &'static str,
    ) -> Entry {
        Entry {
            reason,
            word,
            close_code,
            who,
            comes_back,
            is_final: false,
            when,
        }
    }
    const fn last(entry: Entry) -> Entry {
        Entry {
            is_final: true,
            ..entry
        }
    }
    use Reason::*;
    use Return::*;
    use Who::*;
    [
        entry(
            (ClientLeft, "client_left", 1000),
            Client,
            AsTheAppLikes,
            "The client said goodbye: a DISCONNECT, an Engine.IO close or a close frame",
        ),
        entry(
            (TransportClosed, "transport_closed", 1000),
            Network,
            AtOnce,
            "The transport ended without a goodbye",
        ),
        entry(
            (TransportError, "transport_error", 1011),
            Network,
            AtOnce,
            "The transport failed",
        ),
        entry(
            (HeartbeatTimeout, "heartbeat_timeout", 4408),
            Gateway,
            AtOnce,
            "A ping had no answer within `heartbeat.timeout`",
        ),
        entry(
            (StaleSweep, "stale_sweep", 4408),
            Gateway,
            AtOnce,
            "The sweep found it silent for longer than `heartbeat.stale_after`",
        ),
        entry(
            (IdleTimeout, "idle_timeout", 4408),
            Gateway,
            AtOnce,
            "No event of the app came for `heartbeat.idle_timeout`",
        ),
        entry(
            (AuthFailed, "auth_failed", 4401),
            Gateway,
            WithNewToken,
            "No token came in time, or one that is not accepted, or the app did not let the client in (4403)",
        ),
        entry(
            (TokenExpired, "token_expired", 4401),
            Gateway,
            WithNewToken,
            "The token expired during the connection, or before it",
        ),
        last(entry(
            (Kicked, "kicked", 4403),
            Operator,
            Never,
            "An operator or the app asked for it",
        )),
        last(entry(
            (Replaced, "replaced", 4409),
            Gateway,
            Never,
            "A newer connection of the same user or device took its place",
        )),
        last(entry(
            (DeviceLimit, "device_limit", 4409),
            Gateway,
            Never,
            "The user has too many devices: this one was refused, or made room",
        )),
        entry(
            (RateLimited, "rate_limited", 4429),
            Gateway,
            Later,
            "The client went on far over a rate limit",
        ),
        entry(
            (SlowConsumer, "slow_consumer", 4413),
            Gateway,
            AtOnce,
            "What waited for the client outgrew `server.send_buffer`",
        ),
        entry(
            (PayloadTooLarge, "payload_too_large", 1009),
            Gateway,
            Never,
            "A message had more than `server.max_payload` bytes",
        ),
        entry(
            (ProtocolViolation, "protocol_violation", 1008),
            Gateway,
            Never,
            "The client sent what its protocol does not allow",
        ),
        entry(
            (Drained, "drained", 1001),
            Gateway,
            Later,
            "The node goes away; `server:drain` has said when to come back",
        ),
        entry(
            (NodeLost, "node_lost", 1001),
            Cluster,
            AtOnce,
            "The node that held it died; counted by the node that found out",
        ),
    ]
};

impl Reason {
    /// Every reason, in the order of its discriminant.
    pub fn all() -> impl Iterator<Item = Reason> {
        TABLE.iter().map(|entry| entry.reason)
    }

    /// How many there are.
    pub const COUNT: usize = TABLE.len();

    const fn entry(self) -> &'static Entry {
        &TABLE[self as usize]
    }

    /// The reason's word: `heartbeat_timeout`.
    pub const fn as_str(self) -> &'static str {
        self.entry().word
    }

    /// The WebSocket close code that goes with it, where nothing closer is known
    /// ([`CLOSE_CODES`]).
    pub const fn close_code(self) -> u16 {
        self.entry().close_code
    }

    /// Who ends connections for this reason.
    pub const fn who(self) -> Who {
        self.entry().who
    }

    /// When that happens: a sentence without its full stop.
    pub const fn when(self) -> &'static str {
        self.entry().when
    }

    /// Whether the client should come back.
    pub const fn comes_back(self) -> Return {
        self.entry().comes_back
    }

    /// Whether a Socket.IO client is told not to come back: it gets a
    /// namespace DISCONNECT before its transport closes.
    pub const fn is_final(self) -> bool {
        self.entry().is_final
    }
}

/// What a close code of a WebSocket says.
#[derive(Debug, Clone, Copy)]
pub struct CloseCode {
    /// The number.
    pub code: u16,
    /// Who closes with it.
    pub who: Who,
    /// Whether the client should come back.
    pub comes_back: Return,
    /// The reasons whose close code this is; an end is counted under one of them, unless
    /// `when` of another says so.
    pub reasons: &'static [Reason],
    /// When that happens: a sentence without its full stop.
    pub when: &'static str,
}

/// Every close code of the gateway, in order. Source: Heartline's contract, "Transports".
pub const CLOSE_CODES: &[CloseCode] = {
    const fn code(
        code: u16,
        who: Who,
        comes_back: Return,
        reasons: &'static [Reason],
        when: &'static str,
    ) -> CloseCode {
        CloseCode {
            code,
            who,
            comes_back,
            reasons,
            when,
        }
    }
    use Reason::*;
    use Return::*;
    use Who::*;
    &[
        code(
            1000,
            Client,
            AsTheAppLikes,
            &[ClientLeft],
            "The client closed; a code of its own comes back instead",
        ),
        code(
            1001,
            Gateway,
            Later,
            &[Drained],
            "This node is going away; the pause is the `reconnectInMs` of `server:drain`",
        ),
        code(
            1002,
            Gateway,
            Never,
            &[ProtocolViolation],
            "A frame broke the WebSocket protocol",
        ),
        code(
            1003,
            Gateway,
            Never,
            &[ProtocolViolation],
            "A binary frame came on the live endpoint",
        ),
        code(
            1007,
            Gateway,
            Never,
            &[ProtocolViolation],
            "A text frame was not UTF-8",
        ),
        code(
            1008,
            Gateway,
            Never,
            &[ProtocolViolation],
            "A packet broke its protocol, or more than twenty live frames in a row fitted nothing",
        ),
        code(
            1009,
            Gateway,
            Never,
            &[PayloadTooLarge],
            "A message had more than `server.max_payload` bytes",
        ),
        code(
            1011,
            Gateway,
            Later,
            &[],
            "Who decides about connecting failed (`INTERNAL`)",
        ),
        code(
            1013,
            Gateway,
            Later,
            &[],
            "Tokens cannot be checked just now (`AUTH_UNAVAILABLE`), or a place is held by a node \
             that may be dead (`DEVICE_LIMIT`, with `retryAfterMs` in the frame `error` before)",
        ),
        code(
            4401,
            Gateway,
            WithNewToken,
            &[AuthFailed, TokenExpired],
            "The token is missing, invalid or expired",
        ),
        code(
            4403,
            Operator,
            Never,
            &[Kicked],
            "An operator or the app disconnected the client, or the app did not let it in",
        ),
        code(
            4408,
            Gateway,
            AtOnce,
            &[HeartbeatTimeout, StaleSweep, IdleTimeout],
            "No heartbeat came, or no event for too long",
        ),
        code(
            4409,
            Gateway,
            Never,
            &[Replaced, DeviceLimit],
            "A newer connection took this one's place, or there are too many devices",
        ),
        code(
            4413,
            Gateway,
            AtOnce,
            &[SlowConsumer],
            "The client was too slow: what waited outgrew `server.send_buffer`",
        ),
        code(
            4429,
            Gateway,
            Later,
            &[RateLimited],
            "The client went on far over a rate limit",
        ),
    ]
};

impl std::fmt::Display for Reason {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.as_str())
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

    #[test]
    fn a_close_code_says_what_its_reasons_say() {
        for row in CLOSE_CODES {
            for reason in row.reasons {
                assert!(reason.who().is_heard(), "{reason}");
                assert_eq!(reason.comes_back(), row.comes_back, "{reason}");
            }
        }
        for reason in Reason::all().filter(|reason| reason.who().is_heard()) {
            let row = CLOSE_CODES
                .iter()
                .find(|row| row.code == reason.close_code());
            assert!(
                row.is_some_and(|row| row.reasons.contains(&reason)),
                "{reason}"
            );
        }
    }

    #[test]
    fn codes_are_in_order_and_close_frames_may_have_them() {
        assert!(
            CLOSE_CODES
                .windows(2)
                .all(|pair| pair[0].code < pair[1].code)
        );
        for row in CLOSE_CODES {
            assert!(crate::ws::is_valid_close_code(row.code), "{}", row.code);
        }
    }

    #[test]
    fn who_is_told_not_to_come_back_does_not() {
        for reason in Reason::all().filter(|reason| reason.is_final()) {
            assert_eq!(reason.comes_back(), Return::Never, "{reason}");
        }
    }
}
