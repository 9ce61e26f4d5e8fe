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

use std::cell::OnceCell;
use std::future::Future;

use bytes::Bytes;
use heartline_engine::tasks::Work;
use heartline_wire::json;
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::event::{Args, EventError};
use crate::op::Op;
use crate::publication::AckId;
use crate::socket::Socket;

/// An event on its way to its handler.
pub struct Event<'a> {
    pub(crate) socket: &'a Socket,
    pub(crate) name: &'a str,
    pub(crate) body: Body<'a>,
    pub(crate) attachments: &'a [Bytes],
}

/// What an event says.
#[derive(Clone, Copy)]
pub(crate) enum Body<'a> {
    /// The arguments as the inside of a JSON array.
    Args(&'a str),
    /// A live `publish` frame, taken apart already.
    Publish(&'a PublishFrame<'a>),
}

/// The fields of a live `publish` frame. They are the event `publish`, which takes them
/// as they are; only a handler that asks for arguments has them written as JSON.
pub(crate) struct PublishFrame<'a> {
    pub(crate) topic: &'a str,
    pub(crate) event: &'a str,
    /// JSON.
    pub(crate) data: &'a str,
    pub(crate) key: Option<&'a str>,
    args: OnceCell<String>,
}

impl<'a> PublishFrame<'a> {
    pub(crate) fn new(topic: &'a str, event: &'a str, data: &'a str, key: Option<&'a str>) -> Self {
        PublishFrame {
            topic,
            event,
            data,
            key,
            args: OnceCell::new(),
        }
    }

    /// The same as the argument of a Socket.IO client's `publish`.
    fn args(&self) -> &str {
        self.args.get_or_init(|| {
            let mut args = String::from(r#"{"room":"#);
            json::quote_into(self.topic, &mut args);
            args.push_str(r#","event":"#);
            json::quote_into(self.event, &mut args);
            if let Some(key) = self.key {
                args.push_str(r#","key":"#);
                json::quote_into(key, &mut args);
            }
            args.push_str(r#","data":"#);
            args.push_str(self.data);
            args.push('}');
            args
        })
    }
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
        match self.body {
            Body::Args(args) => args,
            Body::Publish(frame) => frame.args(),
        }
    }

    /// The first argument's JSON, `null` if there is none.
    pub fn first(&self) -> &'a str {
        json::elements(self.args()).next().unwrap_or("null")
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
            .map_err(EventError::misfit)
    }
}

impl FromEvent for Args {
    fn from_event(event: &Event<'_>) -> Result<Self, EventError> {
        Ok(Args {
            json: event.args().to_owned(),
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
    Box<dyn Fn(Socket, heartline_wire::reason::Reason) -> Work + Send + Sync>;

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
