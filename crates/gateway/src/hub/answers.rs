//! Answers to events: where each goes, and when.
//!
//! Nearly every handler is done when it is called. Its answer is written into the connection's
//! queue there and then, and the event has cost no way through the mailbox. But what a handler
//! has said before its answer (emits, publications, changes of rooms) goes through the mailbox,
//! and its client is to hear that first; so does what other handlers said, whose events came
//! before. So an answer goes that way as well while anything stands there.

use heartline_core::namespaces::NamespaceId;
use heartline_core::presence::SocketAddress;
use heartline_engine::shard::engine::Engine;
use heartline_engine::tasks::Work;
use heartline_wire::codes::Code;
use heartline_wire::id::Slot;

use super::Hub;
use crate::event::{EventError, temp_id};
use crate::handler::{Body, Reply};
use crate::op::Op;
use crate::publication::{AckId, AckRef};

/// Whether a refusal is told as `message:error` even where an acknowledgement says it, and
/// then the `tempId` that it is about.
type Announced = Option<Option<String>>;

/// Where the answer of a handler goes that is still at work.
pub(super) struct Asked {
    to: SocketAddress,
    ack: Option<AckId>,
    announced: Announced,
}

/// An event, as far as its answer needs it.
pub(super) struct About<'a> {
    pub(super) address: SocketAddress,
    pub(super) name: &'a str,
    pub(super) body: Body<'a>,
    /// `None`: no answer is wanted.
    pub(super) ack: Option<AckRef<'a>>,
}

/// What came of calling a handler.
pub(super) enum Called {
    /// There is none.
    Nobody,
    Panicked,
    /// It does not take the event.
    Refused(Box<EventError>),
    Begun(Work<Reply>),
}

impl Called {
    /// From what the handler has returned; `None` if it panicked.
    pub(super) fn of(called: Option<Result<Work<Reply>, Box<EventError>>>) -> Called {
        match called {
            None => Called::Panicked,
            Some(Err(error)) => Called::Refused(error),
            Some(Ok(work)) => Called::Begun(work),
        }
    }
}

impl About<'_> {
    /// The contract's messages are sent by clients that may listen to either: whatever refuses
    /// them, they hear it as the acknowledgement and as `message:error`.
    fn announced(&self, builtin_events: bool) -> Announced {
        match self.body {
            Body::Args(args)
                if matches!(self.name, "message:send" | "chat:send") && builtin_events =>
            {
                Some(temp_id(args))
            }
            _ => None,
        }
    }

    fn kept(&self, builtin_events: bool) -> Asked {
        Asked {
            to: self.address,
            ack: self.ack.map(AckRef::kept),
            announced: self.announced(builtin_events),
        }
    }
}

fn announce(error: &mut EventError, announced: Announced) {
    if let Some(temp_id) = announced {
        error.announced = true;
        error.temp_id = error.temp_id.take().or(temp_id);
    }
}

impl Hub {
    /// A handler was called for an event of this connection: it is run to its first wait, and
    /// answers if it is done. A panic costs the event alone.
    pub(super) fn handled(
        &mut self,
        engine: &mut Engine,
        slot: Slot,
        about: &About<'_>,
        called: Called,
    ) {
        let reply = match called {
            Called::Nobody => match self.unhandled(slot, about) {
                Some(error) => Err(Box::new(error)),
                None => return,
            },
            Called::Panicked => {
                self.note_panic();
                Err(Box::new(Code::Internal.into()))
            }
            Called::Refused(error) => Err(error),
            Called::Begun(work) => {
                let builtin_events = self.shared.config.builtin_events;
                let asked = || about.kept(builtin_events);
                let Some(reply) = self.start_handler(engine, slot, work, asked) else {
                    return;
                };
                reply
            }
        };
        self.answer_event(engine, about, reply);
    }

    /// Answers an event whose handler is done: at once, unless something that was said before
    /// is still waiting in the mailbox.
    pub(super) fn answer_event(&mut self, engine: &mut Engine, about: &About<'_>, reply: Reply) {
        if matches!((&reply, about.ack), (Ok(None), _) | (Ok(_), None)) {
            return;
        }
        let builtin_events = self.shared.config.builtin_events;
        if !self.is_next(engine) {
            return self.post_reply(about.kept(builtin_events), reply);
        }
        match (reply, about.ack) {
            (Ok(Some(args)), Some(ack)) => self.ack(engine, &about.address, ack, &args),
            (Ok(_), _) => {}
            (Err(mut error), ack) => {
                announce(&mut error, about.announced(builtin_events));
                self.refuse(engine, &about.address, ack, &error);
            }
        }
    }

    /// Whether an answer may be written at once: nothing that was said before waits in the mailbox.
    pub(super) fn is_next(&self, engine: &Engine) -> bool {
        !engine.works_off() && self.shared.fanout.is_quiet(self.shard)
    }

    /// Answers a frame of the live protocol that is no event, in the order of what its client
    /// said as [`answer_event`](Self::answer_event) does.
    pub(super) fn answer_live(
        &mut self,
        engine: &mut Engine,
        slot: Slot,
        write: impl FnOnce(&mut String),
    ) {
        let to = self.address(engine, slot, NamespaceId::ROOT);
        // Who is in no namespace yet has asked for nothing else.
        match to.filter(|_| !self.is_next(engine)) {
            None => self.send_live(engine, slot, write),
            Some(to) => {
                let mut text = String::new();
                write(&mut text);
                let text = text.into();
                self.shared.fanout.post(self.shard, Op::Answer { to, text });
            }
        }
    }

    /// Such an answer has come to its turn.
    pub(super) fn live_answer(&mut self, engine: &mut Engine, to: &SocketAddress, text: &str) {
        if let Some(slot) = self.locate_asker(engine, to) {
            self.send_live(engine, slot, |out| out.push_str(text));
        }
    }

    /// Refuses a frame of the live protocol that is no event, and perhaps about a topic: in order
    /// as well.
    pub(super) fn refuse_live(
        &mut self,
        engine: &mut Engine,
        slot: Slot,
        error: &EventError,
        topic: Option<&str>,
        id: Option<&str>,
    ) {
        let write = self.error_frame(error, topic, id);
        self.answer_live(engine, slot, write);
    }

    /// The answer of a handler that has waited: behind all that it has said.
    pub(super) fn post_reply(&self, asked: Asked, reply: Reply) {
        let Asked { to, ack, announced } = asked;
        let op = match (reply, ack) {
            (Ok(Some(args)), Some(ack)) => Op::Ack { to, ack, args },
            (Ok(_), _) => return,
            (Err(mut error), ack) => {
                announce(&mut error, announced);
                Op::Refuse { to, ack, error }
            }
        };
        self.shared.fanout.post(self.shard, op);
    }
}
