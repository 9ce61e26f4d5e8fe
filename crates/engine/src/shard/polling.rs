//! HTTP long-polling: what a session remembers between its requests.
//!
//! The HTTP side reads requests and writes responses; everything that decides
//! happens here, on the shard: at most one GET and one POST at a time, a GET
//! answered at once if there is something to say, a session that ends with its
//! aborted request. Source: Engine.IO protocol 4, "HTTP long-polling".

use heartline_wire::time::Micros;
use tokio::sync::oneshot;

use crate::shard::frames::payload_from_frames;
use crate::shard::outbound::Outbound;
use crate::shard::request::{Reply, RequestId};
use crate::shard::stream::WebSocket;

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

impl Polling {
    /// Everything that waits, as a payload.
    pub(super) fn drain(out: &mut Option<Box<Outbound>>) -> Vec<u8> {
        match out {
            Some(out) if !out.is_empty() => {
                let mut frames = Vec::with_capacity(out.waiting());
                out.take_all(&mut frames);
                payload_from_frames(&frames)
            }
            _ => Vec::new(),
        }
    }
}
