//! Socket.IO packets, in the default parser's text and in msgpack.

use bytes::Bytes;
use heartline_core::message::{MessageError, check_heard};
use heartline_core::namespaces::NamespaceId;
use heartline_engine::app::Data;
use heartline_engine::shard::engine::Engine;
use heartline_wire::codes::Code;
use heartline_wire::id::Slot;
use heartline_wire::msgpack::{self, Fault};
use heartline_wire::reason::Reason;
use heartline_wire::socketio::{self, PacketType};
use heartline_wire::{json, ws};

use super::Hub;
use super::events::InboundEvent;
use super::link::Partial;
use crate::event::{Args, EventError};
use crate::handler::Body;
use crate::metrics::Inbound;
use crate::publication::{AckRef, Encoding};
use crate::socket::presented;

/// What is known of a packet that is not looked into.
struct Head<'a> {
    kind: PacketType,
    namespace: &'a str,
    id: Option<u64>,
    /// Its payload, where it was kept.
    data: Option<&'a str>,
}

impl Hub {
    pub(super) fn socketio_message(&mut self, engine: &mut Engine, slot: Slot, data: Data<'_>) {
        let Some(link) = self.link_mut(slot) else {
            return;
        };
        if !link.settled {
            // A msgpack client's first packet, as all of its packets, is
            // binary; the default parser's is text.
            link.settled = true;
            if matches!(data, Data::Binary(_)) {
                link.encoding = Encoding::Msgpack;
            }
        }
        let fine = match (link.encoding, data) {
            (Encoding::Msgpack, Data::Binary(bytes)) => self.msgpack_packet(engine, slot, bytes),
            (Encoding::Text, Data::Text(text)) => self.text_packet(engine, slot, text),
            (Encoding::Text, Data::Binary(bytes)) => self.attachment(engine, slot, bytes),
            _ => None,
        };
        if fine.is_none() {
            engine.close_behind(slot, Reason::ProtocolViolation);
        }
    }

    /// `None` is a violation of the protocol, here and below.
    fn text_packet(&mut self, engine: &mut Engine, slot: Slot, text: &str) -> Option<()> {
        if self.link(slot)?.partial.is_some() {
            // Text where attachments were promised.
            return None;
        }
        let packet = socketio::decode(text).ok()?;
        match packet.kind {
            PacketType::BinaryEvent | PacketType::BinaryAck => {
                // Before any CONNECT nothing is kept of it, and its attachments need not come.
                if !self.link(slot)?.ever_joined {
                    return None;
                }
                self.link_mut(slot)?.partial = Some(Box::new(Partial {
                    text: text.to_owned(),
                    expected: packet.attachments,
                    attachments: Vec::new(),
                    size: text.len(),
                }));
                Some(())
            }
            kind => self.packet(
                engine,
                slot,
                kind,
                packet.namespace,
                packet.id,
                packet.data,
                &[],
            ),
        }
    }

    /// One of the attachments that the text before has announced. Together they may have
    /// `max_payload` bytes: beyond that they are counted and not kept, and at the last of
    /// them the event is refused.
    fn attachment(&mut self, engine: &mut Engine, slot: Slot, bytes: &[u8]) -> Option<()> {
        let max = engine.settings.max_payload;
        let link = self.link_mut(slot)?;
        let partial = link.partial.as_mut()?;
        partial.size = partial.size.saturating_add(bytes.len());
        if partial.size > max {
            partial.attachments = Vec::new();
        } else {
            partial.attachments.push(Bytes::copy_from_slice(bytes));
        }
        partial.expected -= 1;
        if partial.expected > 0 {
            return Some(());
        }
        let partial = link.partial.take()?;
        let packet = socketio::decode(&partial.text).ok()?;
        let kind = match packet.kind {
            PacketType::BinaryEvent => PacketType::Event,
            _ => PacketType::Ack,
        };
        if partial.size > max {
            let head = Head {
                kind,
                namespace: packet.namespace,
                id: packet.id,
                data: packet.data,
            };
            return self.unfit(engine, slot, head, MessageError::TooLarge(max));
        }
        self.packet(
            engine,
            slot,
            kind,
            packet.namespace,
            packet.id,
            packet.data,
            &partial.attachments,
        )
    }

    fn msgpack_packet(&mut self, engine: &mut Engine, slot: Slot, bytes: &[u8]) -> Option<()> {
        let packet = msgpack::decode(bytes, engine.settings.max_payload).ok()?;
        if let Some(fault) = packet.fault {
            let error = match fault {
                Fault::TooLarge => MessageError::TooLarge(engine.settings.max_payload),
                Fault::TooDeep => MessageError::TooDeep,
            };
            let head = Head {
                kind: packet.kind,
                namespace: &packet.namespace,
                id: packet.id,
                data: packet.data.as_deref(),
            };
            return self.unfit(engine, slot, head, error);
        }
        self.packet(
            engine,
            slot,
            packet.kind,
            &packet.namespace,
            packet.id,
            packet.data.as_deref(),
            &packet.attachments,
        )
    }

    /// A packet whose payload breaks a bound: over `max_payload`, as JSON text and
    /// attachments, or too deep.
    fn unfit(
        &mut self,
        engine: &mut Engine,
        slot: Slot,
        packet: Head<'_>,
        error: MessageError,
    ) -> Option<()> {
        let known = self.shared.fanout.namespaces.find(packet.namespace);
        match packet.kind {
            PacketType::Event => {
                self.count_inbound(Inbound::Event);
                if let Some(namespace) = self.joined(engine, slot, known)? {
                    // What msgpack leaves out for its size has no name here.
                    let named = packet.data.and_then(socketio::split_event);
                    let (name, args) = named.unwrap_or_default();
                    let inbound = InboundEvent {
                        namespace,
                        name: &name,
                        body: Body::Args(args),
                        attachments: &[],
                        ack: packet.id.map(AckRef::Number),
                    };
                    self.refuse_event(engine, slot, &inbound, error.into());
                }
            }
            PacketType::Ack => {
                self.count_inbound(Inbound::Ack);
                if let Some(namespace) = self.joined(engine, slot, known)? {
                    self.acknowledged(engine, slot, namespace, packet.id, Err(error.into()))?;
                }
            }
            _ if error == MessageError::TooDeep => return None,
            _ => engine.close_behind(slot, Reason::PayloadTooLarge),
        }
        Some(())
    }

    /// An answer to one of this side's events. One that nobody has asked for costs as much as
    /// an event.
    fn acknowledged(
        &mut self,
        engine: &mut Engine,
        slot: Slot,
        namespace: NamespaceId,
        id: Option<u64>,
        answer: Result<Args, EventError>,
    ) -> Option<()> {
        let acks = self.link_mut(slot)?.socket_mut(namespace)?.acks();
        let waiting = acks.and_then(|acks| acks.waiting.remove(&id.unwrap_or(u64::MAX)));
        match waiting {
            Some(waiting) => drop(waiting.send(answer)),
            None => drop(self.count_event(engine, slot, Some(namespace))),
        }
        Some(())
    }

    fn packet(
        &mut self,
        engine: &mut Engine,
        slot: Slot,
        kind: PacketType,
        namespace: &str,
        id: Option<u64>,
        data: Option<&str>,
        attachments: &[Bytes],
    ) -> Option<()> {
        let known = self.shared.fanout.namespaces.find(namespace);
        match kind {
            PacketType::Connect => {
                self.count_inbound(Inbound::Connect);
                self.socketio_connect(engine, slot, namespace, known, data)
            }
            PacketType::Disconnect => {
                self.count_inbound(Inbound::Disconnect);
                if let Some(namespace) = self.joined(engine, slot, known)? {
                    self.leave_namespace(engine, slot, namespace, Reason::ClientLeft);
                }
                Some(())
            }
            PacketType::Event => {
                self.count_inbound(Inbound::Event);
                let Some(namespace) = self.joined(engine, slot, known)? else {
                    return Some(());
                };
                let (name, args) = socketio::split_event(data?)?;
                let inbound = InboundEvent {
                    namespace,
                    name: &name,
                    body: Body::Args(args),
                    attachments,
                    ack: id.map(AckRef::Number),
                };
                self.event(engine, slot, inbound);
                Some(())
            }
            PacketType::Ack => {
                self.count_inbound(Inbound::Ack);
                let Some(namespace) = self.joined(engine, slot, known)? else {
                    return Some(());
                };
                let json = socketio::array_inside(data?)?;
                let answer = check_heard(json, attachments, engine.settings.max_payload, 0)
                    .map(|()| Args {
                        json: json.to_owned(),
                        attachments: attachments.to_vec(),
                    })
                    .map_err(EventError::from);
                self.acknowledged(engine, slot, namespace, id, answer)
            }
            PacketType::ConnectError | PacketType::BinaryEvent | PacketType::BinaryAck => None,
        }
    }

    /// The namespace, if the connection is in it. A packet for one that it has
    /// just been removed from is counted and ignored; one before any CONNECT is a violation.
    fn joined(
        &mut self,
        engine: &mut Engine,
        slot: Slot,
        namespace: Option<NamespaceId>,
    ) -> Option<Option<NamespaceId>> {
        let link = self.link(slot)?;
        if !link.ever_joined {
            return None;
        }
        let there = namespace.filter(|&namespace| link.socket(namespace).is_some());
        if there.is_none() {
            let _ = self.count_event(engine, slot, None);
        }
        Some(there)
    }

    fn socketio_connect(
        &mut self,
        engine: &mut Engine,
        slot: Slot,
        name: &str,
        namespace: Option<NamespaceId>,
        payload: Option<&str>,
    ) -> Option<()> {
        let counted = self.count_event(engine, slot, None);
        let Some(namespace) = namespace else {
            // Costs no more than to say that it came too soon.
            self.connect_error(engine, slot, name, Code::InvalidNamespace.as_str(), None);
            return Some(());
        };
        let link = self.link(slot)?;
        if link.joining.is_some() || link.socket(namespace).is_some() {
            return None;
        }
        // Coming and going costs a verification and tells everybody each time. Clients wait for
        // an answer for ever, and come back where the transport closes.
        if counted.is_err() || self.count_join(engine, slot, None).is_err() {
            engine.close_behind(slot, Reason::RateLimited);
            return Some(());
        }
        let link = self.link(slot)?;
        if self.shared.is_draining() || link.leaving {
            if link.sockets.is_empty() {
                // A client whose only namespace is refused never comes back by itself; one whose
                // transport closes does. Source: socket.io-client, `Manager._destroy`.
                engine.close_behind(slot, Reason::Drained);
                return Some(());
            }
            let code = Code::Draining;
            let data = format!(r#"{{"code":"{code}"}}"#);
            self.connect_error(engine, slot, name, code.sentence(), Some(&data));
            return Some(());
        }
        let token = payload
            .and_then(|payload| json::field(payload, "token"))
            .and_then(|token| match json::unquote(token) {
                Some(token) => presented(&token),
                // One that is no text is no good, and there all the same.
                None => (token.trim() != "null").then(|| token.to_owned()),
            })
            .or_else(|| link.token().map(ToOwned::to_owned));
        let ticket = payload.and_then(|payload| self.ticket(payload, namespace));
        let payload = payload.map(ToOwned::to_owned);
        self.connect(engine, slot, namespace, token, payload, ticket, None);
        Some(())
    }

    /// Sends a packet in the connection's parser.
    fn send_packet(
        &self,
        engine: &mut Engine,
        slot: Slot,
        as_text: impl FnOnce(&mut String),
        as_msgpack: impl FnOnce(&mut Vec<u8>),
    ) {
        let msgpack = self
            .link(slot)
            .is_some_and(|link| link.encoding == Encoding::Msgpack);
        engine.send_with(slot, |out| {
            if msgpack {
                let mut packet = Vec::new();
                as_msgpack(&mut packet);
                ws::push_frame(ws::OpCode::Binary, &packet, out);
            } else {
                let mut text = String::from("4");
                as_text(&mut text);
                ws::push_frame(ws::OpCode::Text, text.as_bytes(), out);
            }
        });
    }

    /// CONNECT_ERROR; the connection stays and may try again.
    pub(super) fn connect_error(
        &mut self,
        engine: &mut Engine,
        slot: Slot,
        namespace: &str,
        message: &str,
        data: Option<&str>,
    ) {
        self.send_packet(
            engine,
            slot,
            |out| socketio::push_connect_error(namespace, message, data, out),
            |out| msgpack::encode_connect_error(namespace, message, data, out),
        );
    }

    /// CONNECT's answer.
    pub(super) fn connect_reply(
        &mut self,
        engine: &mut Engine,
        slot: Slot,
        namespace: NamespaceId,
        sid: &str,
        pid: Option<&str>,
    ) {
        let name = self.namespace_name(namespace).clone();
        self.send_packet(
            engine,
            slot,
            |out| socketio::push_connect(&name, sid, pid, out),
            |out| msgpack::encode_connect(&name, sid, pid, out),
        );
    }

    /// A namespace DISCONNECT: its client will not come back by itself.
    pub(super) fn disconnect_packet(
        &mut self,
        engine: &mut Engine,
        slot: Slot,
        namespace: NamespaceId,
    ) {
        let name = self.namespace_name(namespace).clone();
        self.send_packet(
            engine,
            slot,
            |out| socketio::push_disconnect(&name, out),
            |out| msgpack::encode_disconnect(&name, out),
        );
    }
}
