//! What an event says, and why it was refused.

use std::borrow::Cow;
use std::fmt;
use std::time::Duration;

use bytes::Bytes;
use heartline_core::message::{Message, MessageError, check};
use heartline_core::misfit::in_words;
use heartline_core::rooms::RoomError;
use heartline_core::store::temp_id::{of_json, of_text};
use heartline_wire::codes::Code;
use heartline_wire::json;
use heartline_wire::names::{self, Speaker};
use heartline_wire::socketio::{self, MAX_ATTACHMENTS};
use heartline_wire::time::micros;
use serde::Serialize;

use crate::binary;

/// Why a connection that is somebody does not become somebody else.
pub(crate) const OTHER_USER: &str = "The token must be for the user that is connected";

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

    /// The arguments as the inside of a JSON array for who takes no attachments: an attachment
    /// is a text, base64, as on the live protocol.
    pub(crate) fn into_text(self) -> String {
        if self.attachments.is_empty() {
            return self.json;
        }
        let mut text = String::new();
        socketio::inline_attachments(&self.json, &self.attachments, &mut text);
        text
    }

    /// The binary attachments.
    pub fn attachments(&self) -> &[Bytes] {
        &self.attachments
    }

    /// One argument. [`Binary`](crate::Binary) within it becomes an attachment; a number that
    /// JSON has not (NaN, an infinity) is `null`, as on Node.
    ///
    /// # Errors
    /// `INTERNAL` when the value cannot be written as JSON; `INVALID_DATA` when, beside
    /// attachments, it has anything else that looks like one's placeholder.
    pub fn one<T: Serialize + ?Sized>(value: &T) -> Result<Args, EventError> {
        let (json, attachments) = binary::write(value).map_err(EventError::unwritable)?;
        // A client's JSON that looks like a placeholder would end whoever reads it.
        check(&json, &attachments, usize::MAX)?;
        Ok(Args { json, attachments })
    }

    /// Several arguments, from a tuple or a list.
    ///
    /// ```
    /// # use heartline::Args;
    /// let args = Args::many(&("news", 1, [2, 3])).unwrap();
    /// assert_eq!(args.json(), r#""news",1,[2,3]"#);
    /// ```
    ///
    /// # Errors
    /// As [`one`](Self::one), and `INTERNAL` when the value is no tuple or list.
    pub fn many<T: Serialize + ?Sized>(values: &T) -> Result<Args, EventError> {
        let mut args = Args::one(values)?;
        if args.json == "null" {
            args.json.clear(); // The empty tuple.
            return Ok(args);
        }
        // A value that brings JSON of its own may have room around its arguments, or for none.
        let inside = socketio::array_inside(&args.json).map(str::to_owned);
        args.json = inside
            .ok_or_else(|| EventError::new(Code::Internal, "the arguments are no tuple or list"))?;
        Ok(args)
    }

    /// The arguments as a typed value: a tuple, or a list.
    ///
    /// # Errors
    /// `INVALID_DATA` when they do not fit.
    pub fn read<T: serde::de::DeserializeOwned>(&self) -> Result<T, EventError> {
        binary::read_list(&format!("[{}]", self.json), &self.attachments)
            .map_err(EventError::misfit)
    }
}

/// What a client wants to publish: the argument of `publish`, or a live `publish` frame.
#[derive(Debug)]
pub struct PublishRequest {
    /// The room.
    pub room: String,
    /// The event's name.
    pub event: String,
    /// Its only argument.
    pub data: Args,
    /// Set where only the newest per room and key matters to a slow reader.
    pub key: Option<String>,
    /// Whether the publisher is to hear it too, if it is in the room.
    pub to_self: bool,
}

/// Why an app does not let somebody in: CONNECT_ERROR's text and data; on the live protocol
/// the close frame's text, with code 4403.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConnectRefused {
    pub(crate) message: String,
    /// JSON.
    pub(crate) data: Option<String>,
}

impl ConnectRefused {
    /// A refusal with this text.
    pub fn new(message: impl Into<String>) -> Self {
        ConnectRefused {
            message: message.into(),
            data: None,
        }
    }

    /// The same with `data`, which Socket.IO clients find as `error.data`. Data that is no
    /// JSON is left out.
    pub fn with_data<T: serde::Serialize + ?Sized>(mut self, data: &T) -> Self {
        self.data = serde_json::to_string(data).ok();
        self
    }
}

/// Longest explanation of what does not fit, characters.
const MAX_WHY: usize = 200;

/// What an error's JSON has besides its details: a name that is written twice is read as what
/// stands last, also by whoever looks for `ok`.
const OWN_MEMBERS: [&str; 5] = ["ok", "error", "code", "retryAfterMs", "tempId"];

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
    /// As [`temp_id`](heartline_core::store::temp_id) says.
    #[serde(
        rename = "tempId",
        skip_serializing_if = "Option::is_none",
        serialize_with = "heartline_core::store::temp_id::serialize"
    )]
    pub(crate) temp_id: Option<String>,
    #[serde(flatten)]
    details: serde_json::Map<String, serde_json::Value>,
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
            details: serde_json::Map::new(),
            announced: false,
        }
    }

    /// The event's data is not what its handler takes. The sentence repeats little of it:
    /// serde quotes a text that stands in the wrong place whole, in up to seven times its bytes.
    pub(crate) fn misfit(error: serde_json::Error) -> Self {
        let why = in_words(&error.to_string());
        EventError::new(
            Code::InvalidData,
            format!("The event's data does not fit: {why:.MAX_WHY$}"),
        )
    }

    /// What the app wants to say cannot be written.
    pub(crate) fn unwritable(error: serde_json::Error) -> Self {
        EventError::new(Code::Internal, format!("the value is no JSON: {error}"))
    }

    /// Its sentence.
    pub fn message(&self) -> &str {
        &self.error
    }

    /// After how long trying again makes sense, milliseconds.
    pub fn retry_after_ms(&self) -> Option<u64> {
        self.retry_after_ms
    }

    /// The same, told as `message:error` even if an acknowledgement says it.
    pub fn announce(mut self) -> Self {
        self.announced = true;
        self
    }

    /// The same with the `tempId` of the message that it is about, a text.
    pub fn about(mut self, temp_id: Option<String>) -> Self {
        self.temp_id = temp_id.map(|id| of_text(&id).into_owned());
        self
    }

    /// The same with one more member: what a client has to know to do better. The members that
    /// every error has, or that another function sets, stay as they are: `ok`, `error`, `code`,
    /// `retryAfterMs`, `tempId`.
    ///
    /// ```
    /// # use heartline::EventError;
    /// let error = EventError::new("TOO_FAR", "That is too far").with("max", 10);
    /// assert_eq!(serde_json::to_value(&error).unwrap()["max"], 10);
    /// ```
    pub fn with(mut self, name: &str, value: impl Into<serde_json::Value>) -> Self {
        if !OWN_MEMBERS.contains(&name) {
            self.details.insert(name.to_owned(), value.into());
        }
        self
    }

    /// The same with the time after which trying again makes sense, milliseconds.
    pub fn retry_after(mut self, milliseconds: u64) -> Self {
        self.retry_after_ms = Some(milliseconds);
        self
    }

    /// Over a limit; the wait is in microseconds.
    pub(crate) fn rate_limited(wait: Duration) -> Self {
        let mut error = EventError::from(Code::RateLimited);
        error.retry_after_ms = Some(micros(wait).div_ceil(1000));
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

impl From<Code> for EventError {
    /// One of the gateway's codes, with its own sentence.
    fn from(code: Code) -> Self {
        EventError::new(code, code.sentence())
    }
}

impl From<RoomError> for EventError {
    fn from(error: RoomError) -> Self {
        error.code().into()
    }
}

impl From<MessageError> for EventError {
    /// `PAYLOAD_TOO_LARGE` tells who sent it that less would have passed; everything else
    /// is malformed however small it is, which is `INVALID_DATA`.
    fn from(error: MessageError) -> Self {
        let code = match error {
            MessageError::TooLarge(_) => Code::PayloadTooLarge,
            _ => Code::InvalidData,
        };
        EventError::new(code, error.to_string())
    }
}

/// Longest `tempId` that a refusal repeats, bytes: also one with which no message is taken is
/// named, that its sender knows what was refused, and a much longer one was never meant so.
const MAX_TEMP_ID: usize = 4096;

/// The `tempId` of an event's first argument, as stores keep it: a text or a number.
pub(crate) fn temp_id(args: &str) -> Option<String> {
    let first = json::elements(args).next()?;
    let id = of_json(json::field(first, "tempId")?)?;
    (1..=MAX_TEMP_ID)
        .contains(&id.len())
        .then(|| id.into_owned())
}

pub(crate) fn to_json<T: Serialize + ?Sized>(value: &T) -> Result<String, EventError> {
    serde_json::to_string(value).map_err(EventError::unwritable)
}

/// An event of the app's to many, under any name but those that would break a client's
/// parser.
///
/// # Errors
/// `INVALID_EVENT`, and `INVALID_DATA` for more than ten attachments.
pub(crate) fn said(event: &str, args: &Args) -> Result<Message, EventError> {
    message(event, args, names::may_say(Speaker::Backend, event))
}

/// The same to a single socket.
///
/// # Errors
/// As [`said`].
pub(crate) fn said_to_one(event: &str, args: &Args) -> Result<Message, EventError> {
    message(event, args, names::may_emit(event))
}

fn message(event: &str, args: &Args, is_fine: bool) -> Result<Message, EventError> {
    if !is_fine {
        return Err(EventError::new(
            Code::InvalidEvent,
            "An event's name has 1 to 128 bytes and is none of the protocols' own",
        ));
    }
    // More may have come from a msgpack client; they are not for others.
    if args.attachments.len() > MAX_ATTACHMENTS {
        return Err(MessageError::TooManyAttachments(MAX_ATTACHMENTS).into());
    }
    Ok(Message {
        attachments: args.attachments.clone(),
        ..Message::new(event, &args.json)
    })
}
