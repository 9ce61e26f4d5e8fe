//! A shard from its peers' side, on the harness.

mod arrivals;
mod backlog;
mod ends;
mod fairness;
mod liveness;
mod order;
mod polling;
mod tls;
mod upgrade;
mod websocket;

use std::time::Duration;

use heartline_wire::id::Slot;
use heartline_wire::reason::Reason;
use heartline_wire::time::Micros;
use heartline_wire::ws::{self, OpCode};

use crate::app::{App, Data};
use crate::harness::{Answer, Harness, Opening, Peer, Told, settings};
use crate::shard::conn::TransportName;
use crate::shard::engine::{Engine, Settings};
use crate::shard::frames::Frames;
use crate::shard::request::{Handshake, Protocol};

/// What another thread asks of a [`Recorder`].
type Order = Box<dyn FnOnce(&mut Engine, &mut Recorder) + Send>;

/// Writes down what it is told. It answers `echo …` with the rest, ends who says `kick`,
/// and after `pause` it wants to hear no more of a connection.
#[derive(Default)]
struct Recorder {
    opened: Vec<Slot>,
    heard: Vec<String>,
    closed: Vec<(Slot, Reason)>,
    /// How those who have ended travelled then.
    travelled: Vec<TransportName>,
    upgraded: Vec<Slot>,
    /// Deadlines of its own that have come, and when.
    due: Vec<(Slot, Micros)>,
    overloaded: bool,
    /// Pings that have come.
    pings: usize,
    /// Before when all that was sent has come, as far as it was told.
    received: Vec<Micros>,
    /// It has no use for the last words of who has left.
    impatient: bool,
}

impl App for Recorder {
    type Op = Order;

    fn opened(&mut self, _: &mut Engine, slot: Slot, _: Handshake) {
        self.opened.push(slot);
    }

    fn received(&mut self, _: &mut Engine, _: Slot, before: Micros) {
        self.received.push(before);
    }

    fn message(&mut self, engine: &mut Engine, slot: Slot, data: Data<'_>) {
        let text = match data {
            Data::Text(text) => text.to_owned(),
            Data::Binary(bytes) => format!("{bytes:?}"),
        };
        if let Some(text) = text.strip_prefix("echo ") {
            say(engine, slot, text);
        }
        match text.as_str() {
            "pause" => engine.pause(slot),
            "kick" => engine.close(slot, Reason::Kicked),
            _ => {}
        }
        self.heard.push(text);
    }

    fn closed(&mut self, engine: &mut Engine, slot: Slot, reason: Reason) {
        self.closed.push((slot, reason));
        self.travelled.extend(engine.transport_name(slot));
    }

    fn hears_out(&self, _: Slot) -> bool {
        !self.impatient
    }

    fn pinged(&mut self, _: &mut Engine, _: Slot) {
        self.pings += 1;
    }

    fn upgraded(&mut self, _: &mut Engine, slot: Slot) {
        self.upgraded.push(slot);
    }

    fn deadline(&mut self, engine: &mut Engine, slot: Slot) {
        self.due.push((slot, engine.now));
    }

    fn op(&mut self, engine: &mut Engine, order: Order) {
        order(engine, self);
    }

    fn plain_binary(&self) -> bool {
        true
    }

    fn is_overloaded(&self) -> bool {
        self.overloaded
    }
}

/// Sends a message to one connection.
fn say(engine: &mut Engine, slot: Slot, text: &str) {
    let frame = frame_for(engine, slot, text);
    engine.send_with(slot, |out| out.extend_from_slice(&frame));
}

/// Publishes a message to all connections of `slots`, which speak the same.
fn publish(engine: &mut Engine, slots: &[Slot], text: &str) {
    let frames = Frames::from(frame_for(engine, slots[0], text));
    for &slot in slots {
        engine.send(slot, &frames);
    }
}

fn frame_for(engine: &Engine, slot: Slot, text: &str) -> Vec<u8> {
    let protocol = engine.conn(slot).map(|conn| conn.protocol);
    let packet = match protocol {
        Some(Protocol::EngineIo) => format!("4{text}"),
        _ => text.to_owned(),
    };
    let mut frame = Vec::new();
    ws::push_frame(OpCode::Text, packet.as_bytes(), &mut frame);
    frame
}

fn harness(settings: Settings) -> Harness<Recorder> {
    Harness::new(settings, |_| Recorder::default())
}

impl Harness<Recorder> {
    /// Asks as another thread would.
    fn post_order(&self, order: impl FnOnce(&mut Engine, &mut Recorder) + Send + 'static) {
        self.handle().post(Box::new(order), 0);
    }

    /// Opens a WebSocket; its slot and its client.
    fn join(&mut self, opening: Opening) -> (Slot, Peer) {
        let engineio = opening.protocol == Protocol::EngineIo;
        let mut peer = self.websocket(opening);
        self.settle();
        if engineio {
            assert!(matches!(&peer.read()[..], [Told::Text(open)] if open.starts_with("0{")));
        }
        (*self.app().opened.last().unwrap(), peer)
    }

    /// What has been heard since it was last asked.
    fn heard(&mut self) -> Vec<String> {
        std::mem::take(&mut self.app().heard)
    }

    /// Who has ended since it was last asked.
    fn closed(&mut self) -> Vec<(Slot, Reason)> {
        std::mem::take(&mut self.app().closed)
    }
}

/// How late a deadline may fire.
const TICK: Duration = Duration::from_micros(8_192);

fn ms(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

fn seconds(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

fn texts(texts: &[&str]) -> Vec<Told> {
    texts.iter().map(|&text| Told::text(text)).collect()
}
