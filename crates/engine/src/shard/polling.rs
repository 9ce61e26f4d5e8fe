//! HTTP long-polling: what a session remembers between its requests.
//!
//! The HTTP side reads requests and writes responses; everything that decides
//! happens here, on the shard: at most one GET and one POST at a time, a GET
//! answered at once if there is something to say, a session that ends with its
//! aborted request. Source: Engine.IO protocol 4, "HTTP long-polling".

use heartline_wire::engineio::RequestError;
use heartline_wire::reason::Reason;
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
    /// When its request came.
    pub(crate) since: Micros,
    pub(crate) reply: oneshot::Sender<Reply>,
}

/// A POST whose body is being read.
pub(crate) struct Incoming {
    pub(crate) id: RequestId,
    /// When its head came.
    pub(crate) since: Micros,
    /// What is sent there is its answer; dropped, it is aborted.
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

/// The close code of who may come back at once although it was not let in.
const TRY_AGAIN_LATER: u16 = 1013;

/// What the last GET of a session that is over is answered with, when all events are taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) enum Farewell {
    /// The close packet.
    #[default]
    Close,
    /// The same behind what keeps the client away (Socket.IO's DISCONNECT). A POST is accepted
    /// and not heard until then: engine.io-client takes its refusal for the end, and would come
    /// back without having asked for the rest.
    ForGood,
    /// Nothing: the client itself has closed.
    Noop,
    /// As if the session had never been, so that every client comes back. Some take the
    /// close packet for a goodbye for good (python-socketio does).
    Silence,
    /// 503, for the same reason: nothing was refused.
    ComeLater,
}

impl Farewell {
    pub(super) fn of(reason: Reason, code: u16) -> Self {
        match reason {
            Reason::ClientLeft => Farewell::Noop,
            Reason::Drained => Farewell::Silence,
            _ if code == TRY_AGAIN_LATER => Farewell::ComeLater,
            _ if reason.is_final() => Farewell::ForGood,
            _ => Farewell::Close,
        }
    }

    pub(super) fn reply(self) -> Reply {
        match self {
            Farewell::Close | Farewell::ForGood => Reply::Payload(b"1".to_vec()),
            Farewell::Noop => Reply::Payload(b"6".to_vec()),
            Farewell::Silence => Reply::Error(RequestError::UnknownSid),
            Farewell::ComeLater => Reply::Status(503),
        }
    }

    /// What a POST is answered with that comes after the end.
    pub(super) fn reply_to_post(self) -> Reply {
        match self {
            Farewell::ForGood => Reply::Accepted,
            Farewell::Close | Farewell::Noop | Farewell::Silence | Farewell::ComeLater => {
                Reply::Error(RequestError::UnknownSid)
            }
        }
    }
}

#[derive(Default)]
pub(crate) struct Polling {
    pub(crate) get: Option<Pending>,
    pub(crate) post: Option<Incoming>,
    pub(crate) held: Option<Held>,
    pub(crate) probe: Option<Box<Probe>>,
    /// Decided when the session ends.
    pub(crate) farewell: Farewell,
}

impl Polling {
    /// Whether a POST is on its way, or not all of it is heard: its client waits for the answer
    /// before it says anything else.
    pub(super) fn is_posting(&self) -> bool {
        self.post.is_some() || self.held.is_some()
    }

    /// Gives a WebSocket whose probe was answered until `deadline` at least.
    pub(super) fn prolong_probe(&mut self, deadline: Micros) {
        if let Some(probe) = self.probe.as_mut().filter(|probe| probe.probed) {
            probe.deadline = probe.deadline.max(deadline);
        }
    }

    /// Takes the POST whose body was being read, if it is this one.
    pub(super) fn take_post(&mut self, id: RequestId) -> Option<Incoming> {
        self.post.take_if(|post| post.id == id)
    }

    /// Answers the POSTs that the session's end finds: one that is held, or on its way. Where
    /// nothing is said, HTTP answers as to an unknown `sid`.
    pub(super) fn end_posts(&mut self) {
        let held = self.held.take().map(|held| held.reply);
        let on_its_way = self.post.take().map(|post| post.reply);
        let told = match self.farewell {
            Farewell::ComeLater => [held, None],
            Farewell::ForGood => [held, on_its_way],
            Farewell::Close | Farewell::Noop | Farewell::Silence => [None, None],
        };
        for reply in told.into_iter().flatten() {
            let _ = reply.send(match self.farewell {
                Farewell::ComeLater => self.farewell.reply(),
                farewell => farewell.reply_to_post(),
            });
        }
    }

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
