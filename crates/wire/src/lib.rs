//! Codecs for what Heartline speaks on the wire.
//!
//! | module | protocol |
//! |---|---|
//! | [`ws`] | WebSocket frames, RFC 6455 |
//! | [`engineio`] | Engine.IO protocol 4: packets and polling payloads |
//! | [`socketio`] | Socket.IO protocol 5 with the default parser |
//! | [`msgpack`] | Socket.IO protocol 5 with `socket.io-msgpack-parser` |
//! | [`live`] | Heartline's own JSON protocol over plain WebSocket |
//! | [`handshake`] | the HTTP request by which a connection began |
//! | [`invite`] | codes of invites: how one is found in what somebody pastes |
//! | [`id`], [`names`] | ids of connections and sockets, names of events |
//! | [`reason`], [`codes`] | why connections end, why requests are refused |
//! | [`time`] | moments of a clock that somebody else reads |
//! | [`json`] | JSON as text: validated, split and quoted, never built into a tree |
//!
//! Nothing here does I/O, reads a clock or awaits. A decoder borrows from what
//! it is given wherever it can; JSON payloads stay text from one end to the
//! other. No input makes a decoder panic, and a length that a peer merely
//! claims is never allocated: buffers grow with the bytes that have arrived.

#![forbid(unsafe_code)]

pub mod codes;
pub mod engineio;
pub mod handshake;
pub mod id;
pub mod invite;
pub mod json;
pub mod live;
pub mod msgpack;
pub mod names;
pub mod reason;
pub mod socketio;
pub mod time;
pub mod ws;
