//! Codes of errors: one closed list, one table.
//!
//! A code is the machine's half of a refusal, beside a sentence for people. Apps have
//! codes of their own beside these. The table in docs/clients.md is compared with this one
//! by a test.
//!
//! ```
//! use heartline_wire::codes::{Code, Retry};
//!
//! assert_eq!(Code::RateLimited.as_str(), "RATE_LIMITED");
//! assert_eq!(Code::RateLimited.retry(), Retry::Later);
//! ```

use std::borrow::Cow;
use std::fmt;

/// Who answers with a code, or ends something with it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Issuer {
    /// A Socket.IO CONNECT that is refused; live: the text of the close frame.
    Connect,
    /// The gateway's own events, such as `join`.
    Event,
    /// An `error` frame of the live protocol, about a frame that came to no event.
    Live,
    /// What the app waits for from a client, in its handlers and by the API. No client
    /// hears of it.
    Asking,
}

impl Issuer {
    /// The words in the documentation.
    pub const fn as_str(self) -> &'static str {
        match self {
            Issuer::Connect => "connecting",
            Issuer::Event => "events",
            Issuer::Live => "live frames",
            Issuer::Asking => "the app's own requests",
        }
    }
}

/// Whether trying again makes sense.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Retry {
    /// No: it would be refused again.
    Never,
    /// After the `retryAfterMs` that came with it, else after a pause of one's own.
    Later,
    /// Once something about the request is different.
    AfterChange,
    /// With another token.
    WithNewToken,
}

impl Retry {
    /// The words in the documentation.
    pub const fn as_str(self) -> &'static str {
        match self {
            Retry::Never => "no",
            Retry::Later => "after a pause",
            Retry::AfterChange => "not unchanged",
            Retry::WithNewToken => "with a new token",
        }
    }
}

/// A code of the gateway's own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Code {
    /// A token is needed and none came, or none that names a user.
    AuthRequired,
    /// The token is not accepted.
    AuthTokenInvalid,
    /// The token was good once.
    AuthTokenExpired,
    /// The token could not be checked now.
    AuthUnavailable,
    /// The user has too many devices.
    DeviceLimit,
    /// The node is going away.
    Draining,
    /// There is no such namespace: the message of Socket.IO's own refusal.
    InvalidNamespace,
    /// The token does not grant it.
    Forbidden,
    /// The room's name is no name of a room, or of another kind of room.
    InvalidRoom,
    /// The socket is in as many rooms as it may be in.
    RoomLimit,
    /// Over a limit.
    RateLimited,
    /// The text of a message is empty or too long.
    InvalidContent,
    /// The event's data is not what its handler takes.
    InvalidData,
    /// The event's name may not be used.
    InvalidEvent,
    /// The event is too large.
    PayloadTooLarge,
    /// The message could not be stored.
    SendFailed,
    /// Too much waits to be stored.
    Overloaded,
    /// What a client wants to keep could not be kept.
    SaveFailed,
    /// What a client wants to keep would be too much.
    TooLarge,
    /// Somebody else was faster.
    Conflict,
    /// There is nothing that looks like an invite's code.
    InvalidInvite,
    /// There is no such invite.
    InviteNotFound,
    /// The invite's time is over.
    InviteExpired,
    /// The invite was used as often as it may be.
    InviteExhausted,
    /// The invite was taken back.
    InviteRevoked,
    /// Nobody handles this event.
    NotImplemented,
    /// The handler panicked or ran out of time, or who decides about connecting panicked.
    Internal,
    /// The frame is no JSON or fits no type.
    ProtocolViolation,
    /// Nobody handles this event, in the words of the live protocol.
    LiveNotImplemented,
    /// The socket is gone.
    Disconnected,
    /// No acknowledgement in time.
    Timeout,
    /// The client's protocol has no acknowledgements.
    NotSupported,
    /// The client owes too many acknowledgements.
    TooManyAcks,
    /// The socket's node does not answer.
    NodeUnreachable,
}

struct Entry {
    code: Code,
    text: &'static str,
    issuers: &'static [Issuer],
    retry: Retry,
    sentence: &'static str,
    when: &'static str,
}

const TABLE: [Entry; 34] = {
    const fn entry(
        (code, text): (Code, &'static str),
        issuers: &'static [Issuer],
        retry: Retry,
        sentence: &'static str,
        when: &'static str,
    ) -> Entry {
        Entry {
            code,
            text,
            issuers,
            retry,
            sentence,
            when,
        }
    }
    use Code::*;
    use Issuer::*;
    use Retry::*;
    [
        entry(
            (AuthRequired, "AUTH_REQUIRED"),
            &[Connect, Event],
            WithNewToken,
            "Authentication required",
            "A token is needed and none came; a message needs a token that names a user",
        ),
        entry(
            (AuthTokenInvalid, "AUTH_TOKEN_INVALID"),
            &[Connect, Event],
            WithNewToken,
            "The token is not valid",
            "The token is not accepted",
        ),
        entry(
            (AuthTokenExpired, "AUTH_TOKEN_EXPIRED"),
            &[Connect, Event],
            WithNewToken,
            "The token has expired",
            "The token was good once; also in `auth:error`",
        ),
        entry(
            (AuthUnavailable, "AUTH_UNAVAILABLE"),
            &[Connect, Event],
            Later,
            "The token cannot be checked at the moment",
            "The keys for tokens cannot be had just now; the token may be good",
        ),
        entry(
            (DeviceLimit, "DEVICE_LIMIT"),
            &[Connect],
            Never,
            "Too many devices are connected",
            "The user has `devices.max` devices, or `devices.max_sockets` sockets, already. With \
             `retryAfterMs` it is passing: a place is held by a node that may be dead",
        ),
        entry(
            (Draining, "DRAINING"),
            &[Connect],
            Later,
            "This node is going away",
            "One more namespace was asked for while the node goes away; who is in none is closed with 1001",
        ),
        entry(
            (InvalidNamespace, "Invalid namespace"),
            &[Connect],
            AfterChange,
            "Invalid namespace",
            "There is no such namespace: the `message`, without a `code`, as Socket.IO has it",
        ),
        entry(
            (Forbidden, "FORBIDDEN"),
            &[Event, Live],
            AfterChange,
            "This room is not open to you",
            "The token does not grant it, and the user is no member of the conversation",
        ),
        entry(
            (InvalidRoom, "INVALID_ROOM"),
            &[Event, Live],
            AfterChange,
            "A room's name has 1 to 256 bytes (user: in front is not counted) and no control characters, and a conversation's an id behind conversation:",
            "The room has no name that a room can have, or `chat:send` names a conversation's",
        ),
        entry(
            (RoomLimit, "ROOM_LIMIT"),
            &[Event, Live],
            AfterChange,
            "You are in as many rooms as one socket may be in",
            "The socket is in `rooms.max_per_socket` rooms",
        ),
        entry(
            (RateLimited, "RATE_LIMITED"),
            &[Event, Live],
            Later,
            "Rate limit exceeded. Please slow down.",
            "Over `limits.events`, `limits.joins` or `limits.messages`, or more than ten invites in a minute that there are not; nothing was done",
        ),
        entry(
            (InvalidContent, "INVALID_CONTENT"),
            &[Event],
            AfterChange,
            "A message has 1 to 10000 characters",
            "The text is empty, has nothing but white space (of Unicode: spaces, tabs, line ends), or has more than 10 000 characters (`chat:send`: 500)",
        ),
        entry(
            (InvalidData, "INVALID_DATA"),
            &[Event],
            AfterChange,
            "The event's data does not fit",
            "The data, its attachments or the key are not what the event takes",
        ),
        entry(
            (InvalidEvent, "INVALID_EVENT"),
            &[Event],
            AfterChange,
            "An event's name has 1 to 128 bytes and is neither the gateway's nor a protocol's own",
            "`publish` names an event that is reserved, empty or over 128 bytes",
        ),
        entry(
            (PayloadTooLarge, "PAYLOAD_TOO_LARGE"),
            &[Event],
            AfterChange,
            "The event is too large",
            "Data and attachments have more than `server.max_payload` bytes as JSON",
        ),
        entry(
            (SendFailed, "SEND_FAILED"),
            &[Event],
            Later,
            "The message could not be stored; try again",
            "The message could not be stored; the same `tempId` again makes no second one",
        ),
        entry(
            (Overloaded, "OVERLOADED"),
            &[Event],
            Later,
            "Too much waits to be stored; try again",
            "More messages wait to be stored than may; nothing was done",
        ),
        entry(
            (SaveFailed, "SAVE_FAILED"),
            &[Event],
            Later,
            "This could not be kept; try again",
            "A checkpoint could not be kept; it may have been, if the store was slow",
        ),
        entry(
            (TooLarge, "TOO_LARGE"),
            &[Event],
            AfterChange,
            "This is more than is kept",
            "A checkpoint would have `size` of what it may have `max`; nothing was changed",
        ),
        entry(
            (Conflict, "CONFLICT"),
            &[Event],
            AfterChange,
            "Somebody else was faster",
            "A checkpoint has another version than `ifVersion`: `version` and `metadata` are what there is",
        ),
        entry(
            (InvalidInvite, "INVALID_INVITE"),
            &[Event],
            AfterChange,
            "This is no invite",
            "There is nothing in the text that looks like an invite's code; HTTP 400",
        ),
        entry(
            (InviteNotFound, "INVITE_NOT_FOUND"),
            &[Event],
            AfterChange,
            "There is no such invite",
            "There is no invite of this code for the user's tenant; HTTP 404",
        ),
        entry(
            (InviteExpired, "INVITE_EXPIRED"),
            &[Event],
            Never,
            "The invite has expired",
            "The invite's time is over; HTTP 410",
        ),
        entry(
            (InviteExhausted, "INVITE_EXHAUSTED"),
            &[Event],
            Never,
            "The invite was used as often as it may be",
            "As many as may have come by the invite, or the conversation or the user's list is full; HTTP 410",
        ),
        entry(
            (InviteRevoked, "INVITE_REVOKED"),
            &[Event],
            Never,
            "The invite was taken back",
            "The invite was taken back; HTTP 410",
        ),
        entry(
            (NotImplemented, "NOT_IMPLEMENTED"),
            &[Event],
            Never,
            "Nobody here handles this event",
            "Nobody handles the event, and an acknowledgement was asked for",
        ),
        entry(
            (Internal, "INTERNAL"),
            &[Connect, Event, Live],
            Later,
            "The event could not be processed",
            "The handler failed or ran out of time, what it had done stays done; who decides about connecting failed; or a topic could not be reached in time",
        ),
        entry(
            (ProtocolViolation, "protocol-violation"),
            &[Live],
            AfterChange,
            "The frame fits no type",
            "The frame is no JSON or fits no type",
        ),
        entry(
            (LiveNotImplemented, "not-implemented"),
            &[Live],
            Never,
            "Nobody here handles this event",
            "Nobody handles the event of an `emit`",
        ),
        entry(
            (Disconnected, "DISCONNECTED"),
            &[Asking],
            Never,
            "The socket is gone",
            "The socket is gone",
        ),
        entry(
            (Timeout, "TIMEOUT"),
            &[Asking],
            Later,
            "No acknowledgement in time",
            "The client has not acknowledged in time; it may have heard the event",
        ),
        entry(
            (NotSupported, "NOT_SUPPORTED"),
            &[Asking],
            Never,
            "The live protocol has no acknowledgements from clients",
            "The client speaks the live protocol, where clients acknowledge nothing",
        ),
        entry(
            (TooManyAcks, "TOO_MANY_ACKS"),
            &[Asking],
            Later,
            "The client owes too many acknowledgements",
            "The client owes too many acknowledgements",
        ),
        entry(
            (NodeUnreachable, "NODE_UNREACHABLE"),
            &[Asking],
            Later,
            "The socket's node does not answer",
            "The node that holds the socket does not answer",
        ),
    ]
};

impl Code {
    /// Every code, in the order of its discriminant.
    pub fn all() -> impl Iterator<Item = Code> {
        TABLE.iter().map(|entry| entry.code)
    }

    const fn entry(self) -> &'static Entry {
        &TABLE[self as usize]
    }

    /// The code as clients see it: `RATE_LIMITED`.
    pub const fn as_str(self) -> &'static str {
        self.entry().text
    }

    /// The sentence for people that goes with it, where nothing closer is known.
    pub const fn sentence(self) -> &'static str {
        self.entry().sentence
    }

    /// Who answers with it.
    pub const fn issuers(self) -> &'static [Issuer] {
        self.entry().issuers
    }

    /// When that happens: a sentence without its full stop.
    pub const fn when(self) -> &'static str {
        self.entry().when
    }

    /// Whether trying again makes sense.
    pub const fn retry(self) -> Retry {
        self.entry().retry
    }
}

impl fmt::Display for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl From<Code> for Cow<'static, str> {
    fn from(code: Code) -> Self {
        Cow::Borrowed(code.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_is_in_the_order_of_the_enum() {
        for (index, code) in Code::all().enumerate() {
            assert_eq!(code as usize, index);
        }
    }

    #[test]
    fn no_two_codes_read_the_same() {
        for code in Code::all() {
            let same = Code::all().filter(|other| other.as_str() == code.as_str());
            assert_eq!(same.count(), 1, "{code}");
        }
    }
}
