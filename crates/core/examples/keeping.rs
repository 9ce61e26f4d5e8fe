//! What keeping a publication costs beside numbering it, and what reading costs what somebody
//! missed: `cargo run --release -p heartline-core --example keeping`. Two threads publish into
//! rooms with one member; all that differs between the two ways is what keeps.

#![allow(
    clippy::unwrap_used,
    reason = "a measurement that cannot go on should stop"
)]

use std::hint::black_box;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use heartline_core::line::ring::Kept;
use heartline_core::line::{Bounds, Line};
use heartline_core::message::Message;
use heartline_core::namespaces::NamespaceId;
use heartline_core::rooms::{LocalRooms, Room, RoomDirectory, RoomRef};
use heartline_wire::id::Slot;
use heartline_wire::time::Micros;

/// Publications of a run.
const COUNT: usize = 1_000_000;

/// Runs of each, of which the median counts.
const ROUNDS: usize = 9;

const BOUNDS: Bounds = Bounds {
    age: Duration::from_secs(120),
    events: 256,
    bytes: 256 << 10,
    buffer: 256 << 20,
};

/// What a shard is handed.
type Mailbox = Mutex<Vec<Arc<(u64, Message)>>>;

struct World {
    line: Line,
    rooms: Vec<Arc<Room>>,
    mailbox: Mailbox,
    // The rooms are there while they have members.
    _members: LocalRooms,
}

impl World {
    fn new(rooms: usize) -> World {
        let line = Line::new(BOUNDS, 1);
        let directory = Arc::new(RoomDirectory::new(1));
        directory.keep(line.account.clone(), false, |_| true);
        let mut members = LocalRooms::new(directory.clone(), 0);
        let rooms = (0..rooms).map(|number| {
            let name = format!("room-{number}");
            members.join(
                NamespaceId::ROOT,
                None,
                &name,
                Slot(number as u32),
                &mut Vec::new(),
                0,
            );
            let room = RoomRef {
                namespace: NamespaceId::ROOT,
                tenant: None,
                name: &name,
            };
            directory.find(&room).unwrap()
        });
        World {
            line,
            rooms: rooms.collect(),
            mailbox: Mutex::default(),
            _members: members,
        }
    }

    fn publish(&self, number: usize, is_kept: bool) {
        let room = &self.rooms[number % self.rooms.len()];
        let message = Message::new("news", PAYLOAD);
        let to_shard = |_: usize, told: &Arc<(u64, Message)>| {
            let mut mailbox = self.mailbox.lock().unwrap();
            mailbox.push(told.clone());
            if mailbox.len() == 64 {
                mailbox.clear();
            }
        };
        if is_kept {
            let kept = Kept {
                id: 0,
                offset: 0,
                at: Micros(number as u64),
                message: message.clone(),
                key: None,
                only: None,
            };
            let make = |offset, _| Arc::new((offset, message));
            room.publish_kept(&self.line, kept, |_| (), make, to_shard);
        } else {
            room.publish(|offset| Arc::new((offset, message)), to_shard);
        }
    }

    /// Nanoseconds for a publication.
    fn run(&self, threads: usize, is_kept: bool) -> f64 {
        let begin = Instant::now();
        std::thread::scope(|scope| {
            for thread in 0..threads {
                scope.spawn(move || {
                    for number in 0..COUNT / threads {
                        self.publish(number * threads + thread, is_kept);
                    }
                });
            }
        });
        begin.elapsed().as_nanos() as f64 / COUNT as f64
    }
}

/// 200 bytes of JSON.
const PAYLOAD: &str = concat!(
    r#"{"text":"0123456789012345678901234567890123456789012345678901234567890123456789012345678"#,
    r#"9012345678901234567890123456789012345678901234567890123456789012345678901234567890123456"#,
    r#"78901234567890123456789"}"#
);

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

fn keeping(rooms: usize, threads: usize) {
    let world = World::new(rooms);
    // Every ring is full: each publication takes the place of another.
    for number in 0..rooms * BOUNDS.events {
        world.publish(number, true);
    }
    let mut runs = (Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        runs.0.push(world.run(threads, false));
        runs.1.push(world.run(threads, true));
    }
    let differences = runs.0.iter().zip(&runs.1);
    let more = median(differences.map(|(without, with)| with - without).collect());
    let (without, with) = (median(runs.0), median(runs.1));
    println!(
        "{rooms:>5} rooms, {threads} threads: {without:.0} ns, kept {with:.0} ns: {more:+.0} ns"
    );
}

/// What 5 rooms of 1 000 have kept since a place: 100 events among 10 000.
fn collecting() {
    let world = World::new(1_000);
    for number in 0..8_000 {
        world.publish(number, true);
    }
    let since = world.line.last();
    for number in 0..2_000 {
        let own = number % 20 == 0;
        world.publish(
            if own {
                number / 20 % 5
            } else {
                5 + number % 995
            },
            true,
        );
    }
    let now = world.line.last();
    let rounds = 10_000;
    let begin = Instant::now();
    for _ in 0..rounds {
        let mut missed: Vec<Arc<Kept>> = Vec::new();
        for room in &world.rooms[..5] {
            let is_complete = room.with_ring(|ring| {
                missed.extend(ring.between(since, now).cloned());
                ring.is_complete_after(since)
            });
            assert_eq!(is_complete, Some(true));
        }
        missed.sort_by_key(|event| event.id);
        assert_eq!(black_box(&missed).len(), 100);
    }
    let micros = begin.elapsed().as_secs_f64() * 1e6 / f64::from(rounds);
    println!(
        "100 missed of 5 rooms among 10 000 kept: {micros:.1} µs, {:.3} µs each",
        micros / 100.0
    );
}

fn main() {
    for (rooms, threads) in [(10, 1), (10, 2), (1_000, 1), (1_000, 2)] {
        keeping(rooms, threads);
    }
    collecting();
}
