//! What an event says, and why it was refused.

use std::borrow::Cow;
use std::fmt;

use bytes::Bytes;
use heartline_core::message::MessageError;
use heartline_core::rooms::RoomError;
use serde::Serialize;

/// All arguments as they came, binary attachments included.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Args {
    pub(crate) json: String,
    pub(crate) attachments: Vec<Bytes>,
}

impl Args {
    /// The arguments as the inside of a JSON array; an attachment is
    /// `{"_placeholder":true,"num":N}`.
    pub fn json(&self) -> &str {
        &self.json
    }

    /// Bytes of the arguments and the attachments.
    pub(crate) fn size(&self) -> usize {
        self.json.len() + self.attachments.iter().map(Bytes::len).sum::<usize>()
    }

    /// The binary attachments.
    pub fn attachments(&self) -> &[Bytes] {
        &self.attachments
    }

    /// One argument.
    pub fn one<T: Serialize + ?Sized>(value: &T) -> Result<Args, EventError> {
        Ok(Args {
            json: to_json(value)?,
            attachments: Vec::new(),
        })
    }
}

/// Why an event was refused. It becomes the acknowledgement
/// `{ ok: false, error, code }`, or, where none was asked for, the event
/// `message:error` (live: an `error` frame).
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct EventError {
    ok: bool,
    pub(crate) error: Cow<'static, str>,
    pub(crate) code: Cow<'static, str>,
    #[serde(rename = "retryAfterMs", skip_serializing_if = "Option::is_none")]
    pub(crate) retry_after_ms: Option<u64>,
    #[serde(rename = "tempId", skip_serializing_if = "Option::is_none")]
    pub(crate) temp_id: Option<String>,
    /// The `message:error` goes out even if an acknowledgement does.
    #[serde(skip)]
    pub(crate) announced: bool,
}

impl EventError {
    /// An error with one of the app's codes (`NOT_FOUND`) and a sentence.
    pub fn new(code: impl Into<Cow<'static, str>>, error: impl Into<Cow<'static, str>>) -> Self {
        EventError {
            ok: false,
            error: error.into(),
            code: code.into(),
            retry_after_ms: None,
            temp_id: None,
            announced: false,
        }
    }

    /// The event's data is not what its handler takes.
    pub(crate) fn misfit(error: serde_json::Error) -> Self {
        EventError::new(
            "INVALID_DATA",
            format!("The event's data does not fit: {error}"),
        )
    }

    /// Over a limit; the wait is in microseconds.
    pub(crate) fn rate_limited(wait: u64) -> Self {
        let mut error = EventError::new("RATE_LIMITED", "Rate limit exceeded. Please slow down.");
        error.retry_after_ms = Some(wait.div_ceil(1000));
        error
    }

    /// The code.
    pub fn code(&self) -> &str {
        &self.code
    }
}

impl fmt::Display for EventError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({})", self.error, self.code)
    }
}

impl std::error::Error for EventError {}

impl From<RoomError> for EventError {
    fn from(error: RoomError) -> Self {
        EventError::new(error.code(), error.message())
    }
}

impl From<MessageError> for EventError {
    /// `PAYLOAD_TOO_LARGE` tells who sent it that less would have passed; everything else
    /// is malformed however small it is, which is `INVALID_DATA`.
    fn from(error: MessageError) -> Self {
        let code = match error {
            MessageError::TooLarge(_) => "PAYLOAD_TOO_LARGE",
            _ => "INVALID_DATA",
        };
        EventError::new(code, error.to_string())
    }
}

pub(crate) fn to_json<T: Serialize + ?Sized>(value: &T) -> Result<String, EventError> {
    serde_json::to_string(value)
        .map_err(|error| EventError::new("INTERNAL", format!("the value is no JSON: {error}")))
}
