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
//! is the acknowledgement, if the client asked for one; [`NoAnswer`] is none. A handler
//! must not block its thread: the thread is shared with many connections.

mod extract;
mod table;

use std::future::Future;

use heartline_core::presence::SocketAddress;
use heartline_engine::tasks::Work;
use heartline_wire::codes::Code;

use crate::event::{Args, EventError};
use crate::op::Op;
use crate::publication::AckId;
use crate::shared::OwnShared;
use crate::socket::Socket;

pub use extract::{All, Event, EventName, FromEvent, IntoReply, Json, LeftRooms, NoAnswer};
pub(crate) use extract::{Body, Ending, PublishFrame};
pub(crate) use table::Handlers;
pub use table::{Arrival, HandlerSet};

/// Sends a handler's answer, whatever becomes of the handler.
pub(crate) struct Responder {
    shared: OwnShared,
    to: SocketAddress,
    ack: Option<AckId>,
    announced: Announced,
    done: bool,
}

/// Whether a refusal is told as `message:error` even where an acknowledgement says it, and
/// then the `tempId` that it is about.
pub(crate) type Announced = Option<Option<String>>;

impl Responder {
    pub(crate) fn new(socket: &Socket, ack: Option<AckId>) -> Self {
        Responder {
            shared: socket.shared.clone(),
            to: socket.address(),
            ack,
            announced: None,
            done: false,
        }
    }

    pub(crate) fn announcing(mut self, announced: Announced) -> Self {
        self.announced = announced;
        self
    }

    pub(crate) fn finish(mut self, reply: Result<Option<Args>, EventError>) {
        self.send(reply);
    }

    fn send(&mut self, reply: Result<Option<Args>, EventError>) {
        self.done = true;
        let ack = self.ack.take();
        let op = match (reply, ack) {
            (Ok(Some(args)), Some(ack)) => Op::Ack {
                to: self.to,
                ack,
                args,
            },
            (Ok(_), _) => return,
            (Err(mut error), ack) => {
                if let Some(temp_id) = self.announced.take() {
                    error.announced = true;
                    error.temp_id = error.temp_id.or(temp_id);
                }
                Op::Refuse {
                    to: self.to,
                    ack,
                    error: Box::new(error),
                }
            }
        };
        self.shared.fanout.post(self.to.0.conn.shard, op);
    }
}

impl Drop for Responder {
    /// The handler panicked or ran out of time: the client is told all the same.
    fn drop(&mut self) {
        if !self.done {
            self.send(Err(Code::Internal.into()));
        }
    }
}

/// A type-erased handler.
pub(crate) trait ErasedHandler: Send + Sync + 'static {
    /// Takes what it needs from the event. The work sends the answer itself.
    fn call(&self, event: &Event<'_>, responder: Responder) -> Option<Work>;

    /// Whether it looks at the connection's first request.
    fn needs_handshake(&self) -> bool;
}

/// An async function that can handle events: up to four arguments, each
/// [`FromEvent`], and an answer that is [`IntoReply`].
pub trait Handler<Arguments>: Send + Sync + Sized + 'static {
    /// Whether it looks at the connection's first request.
    #[doc(hidden)]
    const NEEDS_HANDSHAKE: bool;

    /// Begins to handle.
    #[doc(hidden)]
    fn begin(
        &self,
        event: &Event<'_>,
    ) -> Result<impl Future<Output = Result<Option<Args>, EventError>> + Send + 'static, EventError>;
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
            const NEEDS_HANDSHAKE: bool = false $(|| $argument::NEEDS_HANDSHAKE)*;

            #[allow(unused_variables)]
            fn begin(
                &self,
                event: &Event<'_>,
            ) -> Result<impl Future<Output = Result<Option<Args>, EventError>> + Send + 'static, EventError> {
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

    fn needs_handshake(&self) -> bool {
        H::NEEDS_HANDSHAKE
    }
}
