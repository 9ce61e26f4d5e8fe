//! What is said and heard in each protocol. No I/O, no clock.
//!
//! Events carry two numbers in their data: `n`, the publication's number, and
//! `t`, the microsecond it was due. Acknowledgements are numbered by the
//! microsecond their event left, so nothing needs to be remembered of it.

use std::fmt::Write as _;

use crate::plan::{Plan, Protocol};

/// The event that publications arrive as.
const EVENT: &str = "position";
/// Raw frames have no names, so the numbers stand in fixed columns.
const COLUMNS: usize = 20;

/// A message from the server, as far as it matters.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Heard<'a> {
    /// The transport is open (Engine.IO's `0`), under this session id.
    Open(&'a str),
    /// The socket is connected.
    Connected,
    /// The room is joined.
    Joined,
    /// An event that left at this microsecond is acknowledged.
    Ack(u64),
    /// A publication: number and microsecond.
    Event(u64, u64),
    /// To be answered with a pong.
    Ping,
    /// The server closes the session.
    Closed,
    /// The server said no.
    Refused(String),
    /// Nothing that matters.
    Other,
}

/// What the connections of one run say.
pub(crate) struct Speech {
    protocol: Protocol,
    padding: String,
    event: String,
    keyed: bool,
}

/// The id of the event that joins a room: no time is that early.
const JOIN: u64 = 0;

impl Speech {
    pub(crate) fn new(plan: &Plan) -> Self {
        Speech {
            protocol: plan.protocol,
            padding: "x".repeat(plan.size),
            event: plan.event.clone(),
            keyed: plan.keyed,
        }
    }

    /// Joins the namespace, where that is a message.
    pub(crate) fn connect(&self, token: Option<&str>, out: &mut String) {
        match (self.protocol, token) {
            (Protocol::SocketIo | Protocol::Polling, None) => out.push_str("40"),
            (Protocol::SocketIo | Protocol::Polling, Some(token)) => {
                let _ = write!(out, "40{{\"token\":\"{token}\"}}");
            }
            // The token travels in the handshake.
            (Protocol::Live | Protocol::Raw, _) => {}
        }
    }

    pub(crate) fn join(&self, room: usize, out: &mut String) {
        let _ = match self.protocol {
            Protocol::SocketIo | Protocol::Polling => {
                write!(out, "42{JOIN}[\"join\",{{\"room\":\"load:{room}\"}}]")
            }
            Protocol::Live => write!(
                out,
                "{{\"type\":\"subscribe\",\"topic\":\"load:{room}\",\"id\":{JOIN}}}"
            ),
            Protocol::Raw => out.write_str("s"),
        };
    }

    /// An event that is to be acknowledged.
    pub(crate) fn echo(&self, now: u64, out: &mut String) {
        let Speech { padding, event, .. } = self;
        let _ = match self.protocol {
            Protocol::SocketIo | Protocol::Polling => {
                write!(out, "42{now}[\"{event}\",{{\"p\":\"{padding}\"}}]")
            }
            Protocol::Live => write!(
                out,
                "{{\"type\":\"emit\",\"event\":\"{event}\",\"data\":{{\"p\":\"{padding}\"}},\"id\":{now}}}"
            ),
            Protocol::Raw => write!(out, "e{now:0COLUMNS$}{padding}"),
        };
    }

    /// A publication to a room.
    pub(crate) fn publish(&self, room: usize, number: u64, due: u64, out: &mut String) {
        let Speech { padding, .. } = self;
        let data = format_args!("{{\"n\":{number},\"t\":{due},\"p\":\"{padding}\"}}");
        let key = if self.keyed { ",\"key\":\"k\"" } else { "" };
        let _ = match self.protocol {
            Protocol::SocketIo | Protocol::Polling => write!(
                out,
                "42[\"publish\",{{\"room\":\"load:{room}\",\"event\":\"{EVENT}\",\"data\":{data}{key}}}]"
            ),
            Protocol::Live => write!(
                out,
                "{{\"type\":\"publish\",\"topic\":\"load:{room}\",\"event\":\"{EVENT}\",\"data\":{data}{key}}}"
            ),
            Protocol::Raw => write!(out, "p{number:0COLUMNS$}{due:0COLUMNS$}{padding}"),
        };
    }

    pub(crate) fn hear<'a>(&self, text: &'a str) -> Heard<'a> {
        match self.protocol {
            Protocol::SocketIo | Protocol::Polling => hear_engineio(text),
            Protocol::Live => hear_live(text),
            Protocol::Raw => hear_raw(text),
        }
    }
}

fn hear_engineio(text: &str) -> Heard<'_> {
    let mut bytes = text.bytes();
    match (bytes.next(), bytes.next()) {
        (Some(b'4'), Some(kind)) => hear_socketio(kind, text.get(2..).unwrap_or_default()),
        (Some(b'2'), _) => Heard::Ping,
        (Some(b'0'), _) => match string_at(text, "\"sid\":\"") {
            Some(sid) => Heard::Open(sid),
            None => Heard::Refused("an open packet without a sid".into()),
        },
        (Some(b'1'), _) => Heard::Closed,
        _ => Heard::Other,
    }
}

fn hear_socketio(kind: u8, rest: &str) -> Heard<'_> {
    match kind {
        b'2' => event(rest),
        b'3' => match number(rest.as_bytes()) {
            Some(JOIN) => joined(rest),
            Some(id) => Heard::Ack(id),
            None => Heard::Other,
        },
        b'0' => Heard::Connected,
        b'1' => Heard::Closed,
        b'4' => Heard::Refused(string_at(rest, "\"message\":\"").unwrap_or(rest).to_owned()),
        _ => Heard::Other,
    }
}

fn joined(answer: &str) -> Heard<'_> {
    if answer.contains("\"ok\":false") {
        let code = string_at(answer, "\"code\":\"").unwrap_or("no room");
        return Heard::Refused(format!("join: {code}"));
    }
    Heard::Joined
}

fn hear_live(text: &str) -> Heard<'_> {
    let Some(kind) = string_at(text, "{\"type\":\"") else {
        return Heard::Other;
    };
    match kind {
        EVENT => event(text),
        "ack" => match number_at(text, "\"id\":") {
            Some(id) => Heard::Ack(id),
            None => Heard::Other,
        },
        "hello" => Heard::Connected,
        "subscribed" => Heard::Joined,
        "error" => Heard::Refused(
            string_at(text, "\"code\":\"")
                .unwrap_or("an error without a code")
                .to_owned(),
        ),
        _ => Heard::Other,
    }
}

fn hear_raw(text: &str) -> Heard<'_> {
    let column = |at: usize| number(text.as_bytes().get(at..at + COLUMNS)?);
    match text.as_bytes().first() {
        Some(b's') => Heard::Joined,
        Some(b'e') => column(1).map_or(Heard::Other, Heard::Ack),
        Some(b'p') => match (column(1), column(1 + COLUMNS)) {
            (Some(number), Some(due)) => Heard::Event(number, due),
            _ => Heard::Other,
        },
        _ => Heard::Other,
    }
}

/// What is heard a million times a second is read without searching where it is as expected.
fn event(text: &str) -> Heard<'_> {
    let mut objects = text.match_indices('{');
    let numbers = objects
        .find_map(|(at, _)| text[at..].strip_prefix("{\"n\":"))
        .and_then(|rest| {
            let n = number(rest.as_bytes())?;
            let behind = rest.trim_start_matches(|digit: char| digit.is_ascii_digit());
            let t = match behind.strip_prefix(",\"t\":") {
                Some(t) => number(t.as_bytes()),
                None => number_at(behind, "\"t\":"),
            };
            Some((n, t?))
        });
    numbers.map_or(Heard::Other, |(number, due)| Heard::Event(number, due))
}

/// The digits at the front of `bytes`.
fn number(bytes: &[u8]) -> Option<u64> {
    let digits = bytes.iter().take_while(|byte| byte.is_ascii_digit());
    let mut value = None;
    for digit in digits {
        value = Some(value.unwrap_or(0_u64).wrapping_mul(10) + u64::from(digit - b'0'));
    }
    value
}

fn number_at(text: &str, before: &str) -> Option<u64> {
    let at = text.find(before)? + before.len();
    number(&text.as_bytes()[at..])
}

/// The string behind `before`, if it has no escapes worth minding.
fn string_at<'a>(text: &'a str, before: &str) -> Option<&'a str> {
    let rest = match text.strip_prefix(before) {
        Some(rest) => rest,
        None => &text[text.find(before)? + before.len()..],
    };
    rest.find('"').map(|end| &rest[..end])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::Scenario;

    fn speech(protocol: Protocol) -> Speech {
        let mut plan = Plan::new(Scenario::Echo, "http://127.0.0.1:1".parse().unwrap());
        plan.protocol = protocol;
        plan.size = 3;
        Speech::new(&plan)
    }

    fn said(say: impl FnOnce(&mut String)) -> String {
        let mut out = String::new();
        say(&mut out);
        out
    }

    #[test]
    fn socketio() {
        let speech = speech(Protocol::SocketIo);
        assert_eq!(said(|out| speech.connect(None, out)), "40");
        assert_eq!(
            said(|out| speech.connect(Some("a.b"), out)),
            r#"40{"token":"a.b"}"#
        );
        assert_eq!(
            said(|out| speech.echo(17, out)),
            r#"4217["ping",{"p":"xxx"}]"#
        );
        assert_eq!(
            said(|out| speech.publish(2, 5, 9, out)),
            r#"42["publish",{"room":"load:2","event":"position","data":{"n":5,"t":9,"p":"xxx"}}]"#
        );
        for (text, heard) in [
            (r#"0{"sid":"abc","upgrades":[]}"#, Heard::Open("abc")),
            (r#"40{"sid":"x"}"#, Heard::Connected),
            (r#"44{"message":"no"}"#, Heard::Refused("no".into())),
            (r#"430[{"ok":true}]"#, Heard::Joined),
            (
                r#"430[{"ok":false,"code":"FORBIDDEN"}]"#,
                Heard::Refused("join: FORBIDDEN".into()),
            ),
            (r#"4317[1]"#, Heard::Ack(17)),
            (r#"42["position",{"n":5,"t":9,"p":""}]"#, Heard::Event(5, 9)),
            ("2", Heard::Ping),
            ("1", Heard::Closed),
            ("41", Heard::Closed),
            (r#"42["server:hello",{}]"#, Heard::Other),
        ] {
            assert_eq!(speech.hear(text), heard, "{text}");
        }
    }

    #[test]
    fn live() {
        let speech = speech(Protocol::Live);
        assert_eq!(
            said(|out| speech.join(1, out)),
            r#"{"type":"subscribe","topic":"load:1","id":0}"#
        );
        for (text, heard) in [
            (r#"{"type":"hello","socketId":"x"}"#, Heard::Connected),
            (
                r#"{"type":"subscribed","topic":"load:1","id":0}"#,
                Heard::Joined,
            ),
            (r#"{"type":"ack","id":17,"data":null}"#, Heard::Ack(17)),
            (
                r#"{"type":"position","topic":"load:0","data":{"n":5,"t":9,"p":""},"offset":1}"#,
                Heard::Event(5, 9),
            ),
            (
                r#"{"type":"error","code":"FORBIDDEN","message":"m"}"#,
                Heard::Refused("FORBIDDEN".into()),
            ),
            (r#"{"type":"pong"}"#, Heard::Other),
        ] {
            assert_eq!(speech.hear(text), heard, "{text}");
        }
    }

    #[test]
    fn raw_is_heard_as_it_is_said() {
        let speech = speech(Protocol::Raw);
        let echo = said(|out| speech.echo(123, out));
        assert_eq!(speech.hear(&echo), Heard::Ack(123));
        let publication = said(|out| speech.publish(0, 7, 9, out));
        assert_eq!(speech.hear(&publication), Heard::Event(7, 9));
        assert_eq!(speech.hear("s"), Heard::Joined);
        assert_eq!(speech.hear(""), Heard::Other);
    }
}
