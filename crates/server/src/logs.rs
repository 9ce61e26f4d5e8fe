//! Structured logs on standard error, which neither panic nor block.

use std::backtrace::{Backtrace, BacktraceStatus};
use std::io;
use std::panic::PanicHookInfo;

use serde_json::json;
use tracing::{Level, Metadata};
use tracing_subscriber::filter::{LevelFilter, Targets};
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::fmt::format::FmtSpan;
use tracing_subscriber::prelude::*;

use crate::config::{LogFormat, Settings};
use crate::out;

/// The variable whose targets and levels override the configured level.
const RUST_LOG: &str = "RUST_LOG";

/// Begins to log. `RUST_LOG` overrides the configured level.
pub(crate) fn start(settings: &Settings) {
    let given = std::env::var(RUST_LOG).ok();
    let filter = filter(given.as_deref(), &settings.log_level);
    let builder = tracing_subscriber::fmt()
        .with_max_level(LevelFilter::TRACE)
        .with_span_events(FmtSpan::NONE)
        .with_target(false)
        // It would print them with a macro that panics.
        .log_internal_errors(false)
        .with_writer(Lines);
    let ansi = io::IsTerminal::is_terminal(&io::stderr());
    out::start(note_lost);
    // A second start in one process (a test) changes nothing.
    let _ = match settings.log_format {
        LogFormat::Text => builder.with_ansi(ansi).finish().with(filter).try_init(),
        LogFormat::Json => {
            let builder = builder.json().flatten_event(true);
            builder.finish().with(filter).try_init()
        }
    };
    std::panic::set_hook(Box::new(note_panic));
}

/// Says that `RUST_LOG` decides what is logged, if it does: also where it lets nothing of ours pass.
pub(crate) fn note_override(settings: &Settings) {
    let given = std::env::var(RUST_LOG).ok();
    let Some(what) = overridden(given.as_deref()) else {
        return;
    };
    match settings.log_format {
        _ if tracing::enabled!(Level::WARN) => tracing::warn!("{what}"),
        LogFormat::Text => out::complain(what),
        LogFormat::Json => {
            let line = json!({ "level": "WARN", "message": what });
            out::line(format!("{line}\n").as_bytes());
        }
    }
}

/// That the configured level does not count, in a sentence, if that is so.
fn overridden(given: Option<&str>) -> Option<&'static str> {
    targets(given).map(|_| "RUST_LOG is set: it decides what is logged, and log.level does not")
}

/// The targets and levels of `RUST_LOG` (`warn,heartline=debug`), where there are some that can
/// be read.
fn targets(given: Option<&str>) -> Option<Targets> {
    let given = given.filter(|given| !given.trim().is_empty());
    given?.parse().ok()
}

/// What is logged: those of `RUST_LOG`; otherwise the gateway at the configured level, all else at
/// `warn`.
fn filter(given: Option<&str>, level: &str) -> Targets {
    if let Some(targets) = targets(given) {
        return targets;
    }
    let level = level.parse().unwrap_or(LevelFilter::INFO);
    Targets::new()
        .with_default(LevelFilter::WARN)
        .with_target("heartline", level)
}

fn note_lost(lines: u64) {
    tracing::warn!(lines, "lines of this log were lost: nobody read them");
}

/// What the standard library's hook says, as a line of the log: its own way would
/// wait for a reader that has stopped reading.
fn note_panic(panic: &PanicHookInfo<'_>) {
    let thread = std::thread::current();
    let thread = thread.name().unwrap_or("unnamed");
    let payload = panic.payload();
    let message = payload.downcast_ref::<&str>().copied();
    let message = message.or_else(|| payload.downcast_ref().map(String::as_str));
    let message = message.unwrap_or("(not a text)");
    let place = panic.location().map(ToString::to_string);
    let place = place.as_deref().unwrap_or("an unknown place");
    let trace = Backtrace::capture();
    let trace = (trace.status() == BacktraceStatus::Captured).then_some(trace);
    if tracing::enabled!(Level::ERROR) {
        let backtrace = trace.as_ref().map(tracing::field::display);
        tracing::error!(thread, place, backtrace, "panicked: {message}");
    } else {
        // A filter that lets nothing of ours pass was not meant to hide this.
        let trace = trace.map_or(String::new(), |trace| format!("\n{trace}"));
        let line = format!("heartline: thread {thread} panicked at {place}: {message}{trace}\n");
        out::urgent_line(line.as_bytes());
    }
}

/// Makes writers of one line each.
struct Lines;

/// A line of the log, on its way to standard error.
struct Line {
    /// Errors are waited for: the process may be about to end because of one.
    urgent: bool,
}

impl<'a> MakeWriter<'a> for Lines {
    type Writer = Line;

    fn make_writer(&'a self) -> Line {
        Line { urgent: false }
    }

    fn make_writer_for(&'a self, metadata: &Metadata<'_>) -> Line {
        Line {
            urgent: *metadata.level() == Level::ERROR,
        }
    }
}

impl io::Write for Line {
    /// Takes the line, which comes as one piece.
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        match self.urgent {
            true => out::urgent_line(line),
            false => out::line(line),
        }
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::process::{Command, Stdio};

    use super::*;

    #[test]
    fn what_is_logged_follows_the_configuration_and_the_environment() {
        let shows =
            |given, level, target, at: Level| filter(given, level).would_enable(target, &at);
        assert!(shows(
            None,
            "debug",
            "heartline_engine::shard",
            Level::DEBUG
        ));
        assert!(!shows(None, "info", "heartline", Level::DEBUG));
        assert!(shows(None, "info", "hyper", Level::WARN));
        assert!(!shows(None, "trace", "hyper", Level::INFO));
        assert!(shows(Some("hyper=trace"), "info", "hyper", Level::TRACE));
        assert!(!shows(
            Some("hyper=trace"),
            "info",
            "heartline",
            Level::ERROR
        ));
        assert!(shows(
            Some("no=such=form"),
            "info",
            "heartline",
            Level::INFO
        ));
        assert!(shows(Some(" "), "info", "heartline", Level::INFO));
    }

    #[test]
    fn who_set_a_level_hears_that_the_environment_overrides_it() {
        for given in ["debug", "warn,heartline=debug", "hyper=trace", "off"] {
            let said = overridden(Some(given)).unwrap_or_default();
            assert!(said.contains("log.level does not"), "{given}: {said}");
        }
        for given in [None, Some(""), Some(" "), Some("no=such=form")] {
            assert_eq!(overridden(given), None, "{given:?}");
        }
    }

    /// In a process of its own, this test does what it is to look at.
    const ROLE: &str = "HEARTLINE_TEST_PANICS_IN";

    /// A thread panics, and the process ends because of it.
    fn panic_and_end(format: &str) -> ! {
        let log_format = match format {
            "json" => LogFormat::Json,
            _ => LogFormat::Text,
        };
        let settings = Settings {
            log_format,
            log_level: "info".into(),
            ..Settings::default()
        };
        start(&settings);
        let shard = std::thread::Builder::new().name("shard-7".into());
        let ended = shard.spawn(|| panic!("out of luck")).unwrap().join();
        assert!(ended.is_err());
        tracing::error!("a shard has ended, so this node ends");
        std::process::exit(1);
    }

    #[test]
    fn a_panic_and_why_the_process_ends_are_read_before_it_has_ended() {
        if let Ok(format) = std::env::var(ROLE) {
            panic_and_end(&format);
        }
        let run = |role: &str, filter: &str| {
            let mut command = Command::new(std::env::current_exe().unwrap());
            command
                .args(["--nocapture", "--exact"])
                .arg("logs::tests::a_panic_and_why_the_process_ends_are_read_before_it_has_ended")
                .env(ROLE, role)
                .env("RUST_LOG", filter)
                .env("RUST_BACKTRACE", "0")
                .stdout(Stdio::null())
                .stderr(Stdio::piped());
            command
        };
        for role in ["text", "json"] {
            let output = run(role, "info").output().unwrap();
            let log = String::from_utf8(output.stderr).unwrap();
            let lines: Vec<_> = log.lines().collect();
            assert_eq!((output.status.code(), lines.len()), (Some(1), 2));
            let [panic, end] = [lines[0], lines[1]];
            assert!(panic.contains("panicked: out of luck"), "{panic}");
            assert!(panic.contains("shard-7"), "{panic}");
            assert!(end.contains("a shard has ended"), "{end}");
        }
        // A filter for something else hides the log, but no panic.
        let output = run("text", "hyper=debug").output().unwrap();
        let log = String::from_utf8(output.stderr).unwrap();
        assert!(
            log.starts_with("heartline: thread shard-7 panicked at "),
            "{log}"
        );
        assert_eq!(log.lines().count(), 1, "{log}");
        // Without a reader the process ends the same way.
        let mut child = run("text", "info").spawn().unwrap();
        drop(child.stderr.take());
        assert_eq!(child.wait().unwrap().code(), Some(1));
    }
}
