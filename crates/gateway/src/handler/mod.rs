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
//!
//! A handler that has begun goes on when its socket has ended. After
//! [`handler_timeout`](crate::Config::handler_timeout) it is dropped where it waits, and its event
//! refused with `INTERNAL`; so it is when it panics.

mod extract;
mod table;

use std::future::Future;

use heartline_engine::tasks::Work;

use crate::event::{Args, EventError};

pub use extract::{All, Event, EventName, FromEvent, IntoReply, Json, LeftRooms, NoAnswer};
pub(crate) use extract::{Body, Ending, Handle, PublishFrame};
pub(crate) use table::Handlers;
pub use table::{Arrival, HandlerSet};

/// What a handler comes to: the answer, `None` for no answer, or why the event was refused.
pub(crate) type Reply = Result<Option<Args>, Box<EventError>>;

/// A type-erased handler.
pub(crate) trait ErasedHandler: Send + Sync + 'static {
    /// Takes what it needs from the event, or says why that does not fit.
    fn call(&self, event: &Event<'_>) -> Result<Work<Reply>, Box<EventError>>;

    /// Whether it looks at the connection's first request.
    fn needs_handshake(&self) -> bool;
}

/// An async function that can handle events: up to four arguments, each
/// [`FromEvent`], and an answer that is [`IntoReply`].
#[diagnostic::on_unimplemented(
    message = "`{Self}` cannot handle events",
    note = "a handler is an async function of four arguments at most, each `FromEvent`: `Socket`, \
            `Gateway`, `Json<T>`, `All<(A, B)>`, `Args`, `EventName`, …",
    note = "its answer is `IntoReply`: `()`, `Json<T>`, `All<(A, B)>`, `Args`, `NoAnswer`, or a \
            `Result` of one of these and `EventError`"
)]
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
    fn call(&self, event: &Event<'_>) -> Result<Work<Reply>, Box<EventError>> {
        let future = self.handler.begin(event)?;
        Ok(Box::pin(async move { Ok(future.await?) }))
    }

    fn needs_handshake(&self) -> bool {
        H::NEEDS_HANDSHAKE
    }
}
