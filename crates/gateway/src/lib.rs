//! A realtime gateway as a library.
//!
//! Socket.IO v4 clients and plain WebSocket clients connect to a [`Gateway`];
//! it knows who is there, on which device and in which rooms, finds out when
//! they are gone, and brings events to them. An app adds [handlers](handler):
//!
//! ```no_run
//! use heartline::{Config, Gateway, Json, Socket};
//!
//! #[tokio::main]
//! async fn main() -> Result<(), Box<dyn std::error::Error>> {
//!     let gateway = Gateway::builder(Config::default())
//!         .on("shout", |socket: Socket, Json(text): Json<String>| async move {
//!             socket.publish("lobby", "shouted", &text.to_uppercase()).await
//!         })
//!         .build()?;
//!     let listener = tokio::net::TcpListener::bind("127.0.0.1:8080").await?;
//!     gateway.serve(listener).await?;
//!     Ok(())
//! }
//! ```
//!
//! [`engineio`] is the transport layer by itself, without Socket.IO.

// The macros of this crate's tests name it as others do.
#[cfg(test)]
extern crate self as heartline;

mod announcer;
mod api;
mod binary;
mod builder;
mod builtin;
mod common;
pub mod config;
mod data;
mod event;
mod fanout;
mod gateway;
pub mod handler;
mod housekeeping;
mod hub;
mod in_doubt;
mod in_order;
mod intern;
mod journal;
mod limits;
mod markers;
mod members;
mod metrics;
mod node;
mod notices;
mod objects;
mod op;
mod owed;
mod peers;
mod publication;
mod recovery;
mod retention;
mod sessions;
mod shared;
mod socket;
mod to;
mod untold;
mod watches;

pub use api::{
    BadCursor, Broadcast, Ended, Moved, NotKnown, Publish, PublishError, Published, Reached,
    ShedError, Welcome,
};
pub use binary::Binary;
pub use builder::{BuildError, GatewayBuilder};
pub use config::Config;
pub use data::SocketData;
pub use event::{Args, ConnectRefused, EventError, PublishRequest};
pub use gateway::{Counts, Gateway, HandshakeRequest, HeaderMap, HttpRequest, HttpResponse};
pub use handler::{
    All, Arrival, Event, EventName, FromEvent, Handler, HandlerSet, IntoReply, Json, LeftRooms,
    NoAnswer,
};
pub use heartline_core::presence::watch::{Answer as Picture, Watched};
pub use heartline_core::presence::{
    Admitted, DeviceLimitReached, Edge, EdgeSink, Newcomer, Presence, RoomAddress, SocketAddress,
};
pub use heartline_core::rooms::access as rooms;
pub use heartline_core::{auth, backplane, entries, store};
pub use heartline_engine::descriptors::raise_limit as raise_descriptor_limit;
pub use heartline_engine::engineio;
pub use heartline_engine::http::visitor::Visitor;
pub use heartline_wire::codes::Code;
pub use heartline_wire::handshake::Handshake;
pub use heartline_wire::reason::{self, Reason};
pub use peers::{EmitError, Part, Sockets};
pub use retention::{Schedule, Tasks};
pub use socket::Socket;
pub use to::{Notice, To};
pub use tokio_rustls::rustls;
