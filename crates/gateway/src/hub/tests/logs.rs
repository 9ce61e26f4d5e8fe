//! What the log says of connections.

use std::fmt::{self, Write};

use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing::{Metadata, Subscriber};

use super::*;

/// Lines of the log: the level, then each field.
#[derive(Default, Clone)]
struct Lines(Arc<Mutex<Vec<String>>>);

impl Lines {
    /// Those about this, since the last time.
    fn take(&self, about: &str) -> Vec<String> {
        let lines = std::mem::take(&mut *self.0.lock().unwrap()).into_iter();
        lines.filter(|line| line.contains(about)).collect()
    }
}

struct Line(String);

impl Visit for Line {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        write!(self.0, " {}={value:?}", field.name()).unwrap();
    }
}

impl Subscriber for Lines {
    fn enabled(&self, _: &Metadata<'_>) -> bool {
        true
    }
    fn new_span(&self, _: &Attributes<'_>) -> Id {
        Id::from_u64(1)
    }
    fn record(&self, _: &Id, _: &Record<'_>) {}
    fn record_follows_from(&self, _: &Id, _: &Id) {}
    fn event(&self, event: &tracing::Event<'_>) {
        let mut line = Line(event.metadata().level().to_string());
        event.record(&mut line);
        self.0.lock().unwrap().push(line.0);
    }
    fn enter(&self, _: &Id) {}
    fn exit(&self, _: &Id) {}
}

/// What the log says while something happens on this thread.
fn logged(happens: impl FnOnce(&Lines)) {
    let lines = Lines::default();
    tracing::subscriber::with_default(lines.clone(), || happens(&lines));
}

/// The end of a connection that was in no namespace, without the address.
fn early(level: &str, reason: &str, more: &str) -> String {
    let message = "message=disconnected before it was in a namespace";
    format!(r#"{level} {message} remote=127.0.0.1 reason="{reason}"{more}"#)
}

#[test]
fn the_end_of_a_connection_that_was_never_let_in_is_in_the_log_with_its_reason() {
    logged(|lines| {
        let mut world = World::new(config());
        let ends = |world: &mut World, mut client: Client, packet: &str| {
            let heard = world.ask(&mut client, packet);
            assert!(heard.last().is_some_and(|one| one.starts_with("close")));
            drop(client);
            world.settle();
            let said = lines.take("disconnected");
            assert!(!said.iter().any(|line| line.contains("bad")), "{said:?}");
            said
        };
        let refused = r#"{"type":"auth","token":"bad"}"#;
        let live = world.open(Opening::plain());
        let first = ends(&mut world, live, refused);
        assert_eq!(first, [early("INFO", "auth_failed", " connections=1")]);
        // Those of the next seconds are one line.
        for _ in 0..2 {
            let live = world.open(Opening::plain());
            let next = ends(&mut world, live, refused);
            assert_eq!(next, [early("DEBUG", "auth_failed", "")]);
        }
        let engineio = world.engineio();
        let broken = ends(&mut world, engineio, r#"42["early"]"#);
        assert_eq!(broken, [early("DEBUG", "protocol_violation", "")]);
        let mut gone = world.engineio();
        gone.0.end();
        world.settle();
        let gone = lines.take("disconnected");
        assert_eq!(gone, [early("DEBUG", "transport_closed", "")]);
        world.run(seconds(5));
        let live = world.open(Opening::plain());
        let later = ends(&mut world, live, refused);
        assert_eq!(later, [early("INFO", "auth_failed", " connections=3")]);
        for (reason, count) in [
            ("auth_failed", 4),
            ("protocol_violation", 1),
            ("transport_closed", 1),
        ] {
            let name = format!(r#"heartline_disconnects_total{{reason="{reason}"}}"#);
            assert_eq!(world.metric(&name), count, "{reason}");
        }
        // Whoever was in a namespace has a line of their own, and no other.
        let mut ann = world.socketio("user=ann");
        ann.says("41");
        world.settle();
        drop(ann);
        world.settle();
        let said = lines.take("disconnected");
        assert_eq!(said.len(), 1, "{said:?}");
        assert!(said[0].contains(r#"reason="client_left""#), "{said:?}");
    });
}
