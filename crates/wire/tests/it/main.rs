//! Table and property tests of the codecs, one module each.

#![allow(clippy::unwrap_used)]

mod engineio;
mod invite;
mod json;
mod live;
mod msgpack;
mod msgpack_bytes;
mod reference;
mod socketio;
mod socketio_properties;
mod strategies;
mod ws;
mod ws_conformance;
mod ws_stream;
mod ws_utf8;
