//! Live topics: what a client says of each, what it missed, and the newest of each key.

use std::sync::Arc;

use heartline_core::line::ring::Kept;
use heartline_core::message::Message;
use heartline_core::namespaces::NamespaceId;
use heartline_core::presence::SocketAddress;
use heartline_core::rooms::Room;
use heartline_engine::shard::engine::Engine;
use heartline_wire::id::Slot;
use heartline_wire::json;

use super::parking::Parked;
use super::ticket::Ticket;
use crate::hub::Hub;
use crate::publication::{self, Encoding, Head};

impl Hub {
    /// The live topics that a client has named, as if it had subscribed to each.
    pub(in crate::hub) fn resume_topics(
        &mut self,
        engine: &mut Engine,
        slot: Slot,
        ticket: &Ticket,
    ) {
        for (topic, at) in &ticket.topics {
            self.subscribe(engine, slot, topic, None, at.clone(), false);
        }
    }

    /// The place up to which a live client has received everything, as its topics tell: what
    /// was queued for it before an event that came has come as well. When it was put into a
    /// topic says nothing: the answer to that may have been lost with the connection.
    pub(super) fn heard_on_topics(&self, session: &Parked, ticket: &Ticket) -> u64 {
        let fanout = &self.shared.fanout;
        let places = ticket.topics.iter().filter_map(|(topic, at)| {
            let (epoch, offset) = at.as_ref()?;
            let mut rooms = session.rooms.iter().map(|(room, _)| room);
            let room = rooms.find(|room| *room.key.name == **topic)?;
            if fanout.epoch(room.epoch()) != **epoch {
                return None;
            }
            room.with_ring(|ring| ring.id_of(*offset)).flatten()
        });
        // It cannot have received more than was sent.
        places.max().unwrap_or(0).min(session.end)
    }

    /// What a live client missed of a topic, if it can be told: the events with their offsets.
    pub(in crate::hub) fn missed_of_topic(
        &self,
        room: &Room,
        (epoch, offset): (&str, u64),
        to: u64,
    ) -> Option<Vec<Arc<Kept>>> {
        if self.shared.fanout.epoch(room.epoch()) != epoch || offset > to {
            return None;
        }
        let found = room.with_ring(|ring| {
            let is_complete = ring.is_complete_after_offset(offset);
            is_complete.then(|| {
                let events = ring.between_offsets(offset, to);
                events.cloned().collect::<Vec<_>>()
            })
        })??;
        self.may_bring(&found).then_some(found)
    }

    /// Takes out what a live client has said itself and did not want to hear.
    fn without_own(
        &self,
        engine: &Engine,
        slot: Slot,
        mut missed: Vec<Arc<Kept>>,
    ) -> Vec<Arc<Kept>> {
        let here = self.address(engine, slot, NamespaceId::ROOT);
        missed.retain(|event| {
            let skip = event.only.as_ref().and_then(|only| only.skip);
            let is_own =
                |by: SocketAddress| Some(by) == here || self.is_own(slot, NamespaceId::ROOT, &by);
            !skip.is_some_and(is_own)
        });
        missed
    }

    /// Tells a live client what it missed of a topic.
    pub(in crate::hub) fn replay_topic(
        &mut self,
        engine: &mut Engine,
        slot: Slot,
        topic: &str,
        missed: Vec<Arc<Kept>>,
    ) {
        let missed = self.without_own(engine, slot, missed);
        for event in &missed {
            let head = Head {
                topic: Some(topic),
                offset: Some(event.offset),
                ..Head::default()
            };
            engine.send_with(slot, |out| {
                publication::push_event(Encoding::Live, &head, &event.message, out);
            });
        }
        self.metrics.replayed.add(missed.len() as u64);
    }
}

/// The newest of each key of a topic, as the `snapshot` of `subscribed`.
pub(in crate::hub) fn snapshot(room: &Room, to: u64) -> String {
    let listed = room.with_ring(|ring| {
        let mut text = String::from("[");
        for event in ring.newest(to) {
            if text.len() > 1 {
                text.push(',');
            }
            push_snapshot(event, &mut text);
        }
        text.push(']');
        text
    });
    listed.unwrap_or_else(|| "[]".into())
}

fn push_snapshot(event: &Kept, out: &mut String) {
    let Message {
        event: name,
        args,
        attachments,
    } = &event.message;
    out.push_str(r#"{"key":"#);
    json::quote_into(event.key.as_deref().unwrap_or(""), out);
    out.push_str(r#","event":"#);
    json::quote_into(name, out);
    out.push_str(r#","data":"#);
    out.push_str(&publication::live_data(args, attachments));
    out.push_str(&format!(r#","offset":{}}}"#, event.offset));
}
