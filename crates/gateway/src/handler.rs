//! Handlers: async functions with typed arguments.
//!
//! ```
//! # use heartline::{Config, Gateway, Json, Socket, EventError};
//! # use serde::Deserialize;
//! #[derive(Deserialize)]
//! struct Order { id: u64 }
//!
//! async fn order_update(socket: Socket, Json(order): Json<Order>) -> Result<Json<u64>, EventError> {
//!     socket.publish("orders", "order:changed", &order.id).await?;
//!     Ok(Json(order.id))
//! }
//! # let _ = Gateway::builder(Config::default()).on("order:update", order_update);
//! ```
//!
//! Arguments are taken from the event before the function is called; an event
//! that does not fit is refused with `INVALID_DATA`. What the function returns
//! is the acknowledgement, if the client asked for one. A handler must not
//! block its thread: the thread is shared with many connections.

use std::borrow::Cow;
use std::fmt;
use std::future::Future;

use bytes::Bytes;
use heartline_wire::json;
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::engine::tasks::Work;
use crate::hub::Op;
use crate::publication::AckId;
use crate::socket::Socket;

/// An event on its way to its handler.
pub struct Event<'a> {
    pub(crate) socket: &'a Socket,
    pub(crate) name: &'a str,
    pub(crate) args: &'a str,
    pub(crate) attachments: &'a [Bytes],
}

impl<'a> Event<'a> {
    /// The event's name.
    pub fn name(&self) -> &'a str {
        self.name
    }

    /// The socket it came from.
    pub fn socket(&self) -> &'a Socket {
        self.socket
    }

    /// The arguments as the inside of a JSON array: `1,{"a":2}`.
    pub fn args(&self) -> &'a str {
        self.args
    }

    /// The first argument's JSON, `null` if there is none.
    pub fn first(&self) -> &'a str {
        json::elements(self.args).next().unwrap_or("null")
    }
}

/// Something a handler takes from an event.
pub trait FromEvent: Sized {
    /// Takes it, or says why the event does not fit.
    fn from_event(event: &Event<'_>) -> Result<Self, EventError>;
}

impl FromEvent for Socket {
    fn from_event(event: &Event<'_>) -> Result<Self, EventError> {
        Ok(event.socket.clone())
    }
}

/// The event's first argument, or a handler's answer, as a typed value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Json<T>(pub T);

impl<T: DeserializeOwned> FromEvent for Json<T> {
    fn from_event(event: &Event<'_>) -> Result<Self, EventError> {
        serde_json::from_str(event.first())
            .map(Json)
            .map_err(|error| {
                EventError::new(
                    "INVALID_DATA",
                    format!("The event's data does not fit: {error}"),
                )
            })
    }
}

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

impl FromEvent for Args {
    fn from_event(event: &Event<'_>) -> Result<Self, EventError> {
        Ok(Args {
            json: event.args.to_owned(),
            attachments: event.attachments.to_vec(),
        })
    }
}

/// The event's name, for a handler of several.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EventName(pub String);

impl FromEvent for EventName {
    fn from_event(event: &Event<'_>) -> Result<Self, EventError> {
        Ok(EventName(event.name.to_owned()))
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

/// What a handler's return value is on the wire.
pub trait IntoReply {
    /// Turns it into the acknowledgement's arguments.
    fn into_reply(self) -> Result<Args, EventError>;
}

impl IntoReply for () {
    fn into_reply(self) -> Result<Args, EventError> {
        Ok(Args::default())
    }
}

impl IntoReply for Args {
    fn into_reply(self) -> Result<Args, EventError> {
        Ok(self)
    }
}

impl<T: Serialize> IntoReply for Json<T> {
    fn into_reply(self) -> Result<Args, EventError> {
        Args::one(&self.0)
    }
}

impl<T: IntoReply> IntoReply for Result<T, EventError> {
    fn into_reply(self) -> Result<Args, EventError> {
        self?.into_reply()
    }
}

pub(crate) fn to_json<T: Serialize + ?Sized>(value: &T) -> Result<String, EventError> {
    serde_json::to_string(value)
        .map_err(|error| EventError::new("INTERNAL", format!("the value is no JSON: {error}")))
}

/// Sends a handler's answer, whatever becomes of the handler.
pub(crate) struct Responder {
    socket: Socket,
    ack: Option<AckId>,
    done: bool,
}

impl Responder {
    pub(crate) fn new(socket: Socket, ack: Option<AckId>) -> Self {
        Responder {
            socket,
            ack,
            done: false,
        }
    }

    pub(crate) fn finish(mut self, reply: Result<Args, EventError>) {
        self.send(reply);
    }

    fn send(&mut self, reply: Result<Args, EventError>) {
        self.done = true;
        let ack = self.ack.take();
        match (reply, ack) {
            (Ok(args), Some(ack)) => self.socket.post(Op::Ack {
                to: self.socket.address(),
                ack,
                args,
            }),
            (Ok(_), None) => {}
            (Err(error), ack) => self.socket.post(Op::Refuse {
                to: self.socket.address(),
                ack,
                error: Box::new(error),
            }),
        }
    }
}

impl Drop for Responder {
    /// The handler panicked or ran out of time: the client is told all the same.
    fn drop(&mut self) {
        if !self.done {
            self.send(Err(EventError::new(
                "INTERNAL",
                "The event could not be processed",
            )));
        }
    }
}

/// A handler whose types are forgotten.
pub(crate) trait ErasedHandler: Send + Sync + 'static {
    /// Takes what it needs from the event. The work sends the answer itself.
    fn call(&self, event: &Event<'_>, responder: Responder) -> Option<Work>;
}

/// An async function that can handle events: up to four arguments, each
/// [`FromEvent`], and an answer that is [`IntoReply`].
pub trait Handler<Arguments>: Send + Sync + Sized + 'static {
    /// Begins to handle.
    #[doc(hidden)]
    fn begin(
        &self,
        event: &Event<'_>,
    ) -> Result<impl Future<Output = Result<Args, EventError>> + Send + 'static, EventError>;
}

macro_rules! handlers {
    ($($argument:ident),*) => {
        impl<F, Fut, R, $($argument,)*> Handler<($($argument,)*)> for F
        where
            F: Fn($($argument),*) -> Fut + Send + Sync + 'static,
            Fut: Future<Output = R> + Send + 'static,
            R: IntoReply,
            $($argument: FromEvent,)*
        {
            #[allow(unused_variables)]
            fn begin(
                &self,
                event: &Event<'_>,
            ) -> Result<impl Future<Output = Result<Args, EventError>> + Send + 'static, EventError> {
                let future = self($($argument::from_event(event)?),*);
                Ok(async move { future.await.into_reply() })
            }
        }
    };
}

handlers!();
handlers!(A);
handlers!(A, B);
handlers!(A, B, C);
handlers!(A, B, C, D);

pub(crate) struct Erased<H, A> {
    handler: H,
    arguments: std::marker::PhantomData<fn(A)>,
}

impl<H: Handler<A>, A: 'static> Erased<H, A> {
    pub(crate) fn boxed(handler: H) -> Box<dyn ErasedHandler> {
        Box::new(Erased {
            handler,
            arguments: std::marker::PhantomData,
        })
    }
}

impl<H: Handler<A>, A: 'static> ErasedHandler for Erased<H, A> {
    fn call(&self, event: &Event<'_>, responder: Responder) -> Option<Work> {
        match self.handler.begin(event) {
            Ok(future) => Some(Box::pin(async move { responder.finish(future.await) })),
            Err(error) => {
                responder.finish(Err(error));
                None
            }
        }
    }
}

/// The handlers of a gateway by event name.
#[derive(Default)]
pub(crate) struct Handlers {
    exact: hashbrown::HashMap<Box<str>, Box<dyn ErasedHandler>>,
    /// By what stands before the first colon, from names like `join:*`.
    families: hashbrown::HashMap<Box<str>, Box<dyn ErasedHandler>>,
    pub(crate) connect: Vec<Box<dyn ErasedHandler>>,
    pub(crate) disconnect: Vec<DisconnectHandler>,
}

pub(crate) type DisconnectHandler =
    Box<dyn Fn(Socket, crate::reason::Reason) -> Work + Send + Sync>;

impl Handlers {
    /// Registers; a later handler takes an earlier one's place.
    pub(crate) fn insert(&mut self, name: &str, handler: Box<dyn ErasedHandler>) {
        match name.strip_suffix(":*") {
            Some(family) => self.families.insert(family.into(), handler),
            None => self.exact.insert(name.into(), handler),
        };
    }

    pub(crate) fn contains(&self, name: &str) -> bool {
        match name.strip_suffix(":*") {
            Some(family) => self.families.contains_key(family),
            None => self.exact.contains_key(name),
        }
    }

    pub(crate) fn find(&self, name: &str) -> Option<&dyn ErasedHandler> {
        if let Some(handler) = self.exact.get(name) {
            return Some(&**handler);
        }
        let (family, _) = name.split_once(':')?;
        self.families.get(family).map(|handler| &**handler)
    }
}
