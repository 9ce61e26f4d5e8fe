//! Events of the line as bytes: as nodes send them, and as the store sends them on.
//!
//! A node sends flags, the socket that is left out, if one is, and an envelope. The store puts
//! a head in front: one byte of kind, four of the line's epoch, then the number, the one before
//! it in the scope, the epoch of the offset and the offset, eight bytes each. Numbers are
//! big-endian. `redis/line.lua` is the other end.

use heartline_core::backplane::line::{Heard, Position, Reached, Tail};
use heartline_core::backplane::{Message, Target};
use heartline_core::line::ring::Extent;
use heartline_core::presence::SocketAddress;
use heartline_wire::id::Sid;

use crate::envelope::{self, Body, Origin};

/// The newest of its key is kept beside the others.
pub const KEYED: u8 = 1;
/// A socket is left out.
const SKIPS: u8 = 2;
/// Events were lost, and this stands for them.
pub const GAP: u8 = 4;
/// The key has no newest event any more.
pub const REMOVES: u8 = 8;

/// Bytes of a socket's name.
const NAME: usize = 24;

/// Writes an event as its node sends it.
pub fn body(
    flags: u8,
    skip: Option<SocketAddress>,
    origin: Origin,
    target: &Target<'_>,
    message: &Message,
) -> Vec<u8> {
    let mut out = Vec::with_capacity(32);
    // What removes a key is an event like any other.
    let flags = flags & !REMOVES;
    match skip {
        Some(skip) => {
            out.push(flags | SKIPS);
            out.extend_from_slice(&skip.0.to_bytes());
        }
        None => out.push(flags),
    }
    out.extend_from_slice(&envelope::encode(origin, target, message));
    out
}

/// What the store sends.
#[derive(Debug)]
pub enum Sent<'a> {
    /// An event, and whose it was.
    Event(Heard<'a>, Origin),
    /// The end of a scope: which request it answers, and which of its scopes it is.
    Tail(u64, usize, Tail<'a>),
    /// All scopes of a request were sent.
    End(u64, Reached),
    /// Another node has taken a session up, as the so manieth.
    Claimed(SocketAddress, u64),
}

struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn take(&mut self, count: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(count)?;
        self.0 = rest;
        Some(taken)
    }

    fn u8(&mut self) -> Option<u8> {
        self.take(1).map(|byte| byte[0])
    }

    fn u32(&mut self) -> Option<u32> {
        Some(u32::from_be_bytes(self.take(4)?.try_into().ok()?))
    }

    fn u64(&mut self) -> Option<u64> {
        Some(u64::from_be_bytes(self.take(8)?.try_into().ok()?))
    }

    fn name(&mut self) -> Option<SocketAddress> {
        let bytes: [u8; NAME] = self.take(NAME)?.try_into().ok()?;
        Some(SocketAddress(Sid::from_bytes(bytes)))
    }
}

/// Reads what the store sends; events are held to `max` bytes. `None`: it is nothing that this
/// version knows.
pub fn read(bytes: &[u8], max: usize) -> Option<Sent<'_>> {
    let mut reader = Reader(bytes);
    let kind = reader.u8()?;
    let line = reader.u32()?;
    match kind {
        3 => read_event(&mut reader, line, max).map(|(heard, origin)| Sent::Event(heard, origin)),
        4 => read_tail(&mut reader, max),
        5 => Some(Sent::End(
            reader.u64()?,
            Reached {
                line,
                begin: reader.u64()?,
                last: reader.u64()?,
            },
        )),
        6 => {
            let times = reader.u64()?;
            reader.name().map(|name| Sent::Claimed(name, times))
        }
        _ => None,
    }
}

fn read_event<'a>(reader: &mut Reader<'a>, line: u32, max: usize) -> Option<(Heard<'a>, Origin)> {
    let at = Position {
        line,
        id: reader.u64()?,
        before: reader.u64()?,
        epoch: reader.u64()?,
        offset: reader.u64()?,
    };
    let flags = reader.u8()?;
    let skip = match flags & SKIPS {
        0 => None,
        _ => Some(reader.name()?),
    };
    let (origin, Body::Said(said)) = envelope::read(reader.0)? else {
        return None;
    };
    let target = said.target;
    // What breaks a bound is as good as lost.
    let message = match flags & GAP {
        0 => said.check(max).ok().map(|(_, message)| message),
        _ => None,
    };
    let heard = Heard {
        at,
        target,
        message,
        skip,
    };
    Some((heard, origin))
}

fn read_tail<'a>(reader: &mut Reader<'a>, max: usize) -> Option<Sent<'a>> {
    let (request, index) = (reader.u64()?, reader.u64()? as usize);
    let (epoch, offset) = (reader.u64()?, reader.u64()?);
    let known = Extent {
        last: reader.u64()?,
        dropped: reader.u64()?,
        dropped_offset: reader.u64()?,
    };
    let mut events = Vec::new();
    while !reader.0.is_empty() {
        let length = reader.u32()? as usize;
        let mut event = Reader(reader.take(length)?);
        let (3, line) = (event.u8()?, event.u32()?) else {
            return None;
        };
        events.push(read_event(&mut event, line, max)?.0);
    }
    events.sort_by_key(|event| event.at.id);
    events.dedup_by_key(|event| event.at.id);
    let tail = Tail {
        epoch,
        offset,
        known,
        events,
    };
    Some(Sent::Tail(request, index, tail))
}
