//! HTTP long-polling: what a session remembers between its requests.
//!
//! The HTTP side reads requests and writes responses; everything that decides
//! happens here, on the shard: at most one GET and one POST at a time, a GET
//! answered at once if there is something to say, a session that ends with its
//! aborted request. Source: Engine.IO protocol 4, "HTTP long-polling".

use heartline_wire::{engineio, ws};
use tokio::sync::oneshot;

use super::conn::WebSocket;
use super::wheel::Micros;

/// What a polling request is answered with.
#[derive(Debug)]
pub(crate) enum Reply {
    /// 200 and this payload.
    Payload(Vec<u8>),
    /// 200 `ok`, to a POST.
    Accepted,
    /// This status and no body.
    Status(u16),
    /// The protocol's own error.
    Error(engineio::RequestError),
}

/// Tells a session's requests apart.
pub(crate) type RequestId = u64;

pub(crate) struct Pending {
    pub(crate) id: RequestId,
    pub(crate) reply: oneshot::Sender<Reply>,
}

/// A POST whose packets are not all processed, because the session was paused.
pub(crate) struct Held {
    pub(crate) text: String,
    pub(crate) at: usize,
    pub(crate) reply: oneshot::Sender<Reply>,
}

/// A WebSocket that wants to take over from polling.
pub(crate) struct Probe {
    pub(crate) websocket: WebSocket,
    /// The window of permessage-deflate, if that was negotiated.
    pub(crate) deflate: Option<u8>,
    pub(crate) deadline: Micros,
    /// `2probe` came and was answered.
    pub(crate) probed: bool,
}

#[derive(Default)]
pub(crate) struct Polling {
    pub(crate) get: Option<Pending>,
    /// The POST whose body is being read; dropped to abort it.
    pub(crate) post: Option<(RequestId, oneshot::Sender<()>)>,
    pub(crate) held: Option<Held>,
    pub(crate) probe: Option<Box<Probe>>,
}

/// Makes a polling payload of WebSocket frames that this side wrote: packets
/// joined by the separator, binary as base64.
pub(crate) fn payload_from_frames(frames: &[u8]) -> Vec<u8> {
    let mut payload = String::with_capacity(frames.len() + 16);
    each_frame(frames, |binary, data| {
        if !payload.is_empty() {
            payload.push(engineio::SEPARATOR);
        }
        if binary {
            engineio::push_base64(data, &mut payload);
        } else {
            payload.push_str(&String::from_utf8_lossy(data));
        }
    });
    payload.into_bytes()
}

/// Makes frames for a `b64=1` WebSocket: binary messages as base64 text.
pub(crate) fn base64_frames(frames: &[u8], out: &mut Vec<u8>) {
    each_frame(frames, |binary, data| {
        if binary {
            let mut text = String::new();
            engineio::push_base64(data, &mut text);
            ws::push_frame(ws::OpCode::Text, text.as_bytes(), out);
        } else {
            ws::push_frame(ws::OpCode::Text, data, out);
        }
    });
}

/// Walks over whole unmasked data frames.
pub(crate) fn each_frame(mut frames: &[u8], mut each: impl FnMut(bool, &[u8])) {
    while frames.len() >= 2 {
        let binary = frames[0] & 0x0f == 2;
        let (header, length) = match frames[1] & 0x7f {
            126 => (4, usize::from(u16::from_be_bytes([frames[2], frames[3]]))),
            127 => {
                let mut wide = [0; 8];
                wide.copy_from_slice(&frames[2..10]);
                (10, u64::from_be_bytes(wide) as usize)
            }
            short => (2, usize::from(short)),
        };
        let (frame, rest) = frames.split_at(header + length);
        each(binary, &frame[header..]);
        frames = rest;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_become_packets() {
        let mut frames = Vec::new();
        ws::push_frame(ws::OpCode::Text, b"4hello", &mut frames);
        ws::push_frame(ws::OpCode::Binary, &[1, 2, 3], &mut frames);
        let long = "4".repeat(70_000);
        ws::push_frame(ws::OpCode::Text, long.as_bytes(), &mut frames);
        let payload = payload_from_frames(&frames);
        assert_eq!(payload, format!("4hello\x1ebAQID\x1e{long}").into_bytes());
    }
}
