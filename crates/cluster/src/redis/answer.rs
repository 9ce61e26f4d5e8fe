//! The script's answers, read from front to back.

use std::fmt;
use std::sync::Arc;

use redis::Value;
use serde::de::{Error, IgnoredAny, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer};

use crate::registry::{DevicesChange, Edge, Millis, RoomName, Seen, TypedUser, Unavailable};

/// An answer that is not what the operation answers; `what` is missing.
pub(super) fn nonsense(what: &str) -> Unavailable {
    Unavailable(format!("its answer has no {what}"))
}

/// An answer of the script, read from front to back.
pub(super) struct Answer(pub(super) std::vec::IntoIter<Value>);

impl Answer {
    pub(super) fn of(value: Value) -> Result<Answer, Unavailable> {
        match value {
            Value::Array(values) => Ok(Answer(values.into_iter())),
            Value::Nil => Ok(Answer(Vec::new().into_iter())),
            _ => Err(nonsense("list")),
        }
    }

    pub(super) fn next(&mut self) -> Result<Value, Unavailable> {
        self.0.next().ok_or_else(|| nonsense("more items"))
    }

    pub(super) fn number(&mut self) -> Result<i64, Unavailable> {
        match self.next()? {
            Value::Int(number) => Ok(number),
            _ => Err(nonsense("number")),
        }
    }

    pub(super) fn millis(&mut self) -> Result<Option<Millis>, Unavailable> {
        Ok(Millis::try_from(self.number()?).ok())
    }

    pub(super) fn text(&mut self) -> Result<Arc<str>, Unavailable> {
        text(self.next()?)
    }

    pub(super) fn list(&mut self) -> Result<Answer, Unavailable> {
        Answer::of(self.next()?)
    }

    pub(super) fn texts(self) -> Result<Vec<Arc<str>>, Unavailable> {
        self.0.map(text).collect()
    }

    /// Names of sockets, each with its entry.
    pub(super) fn sockets(mut self) -> Result<Vec<Seen>, Unavailable> {
        let mut sockets = Vec::with_capacity(self.0.len() / 2);
        while self.0.len() > 0 {
            let (socket, kept) = (self.text()?, self.text()?);
            // What cannot be read keeps nobody from the others.
            sockets.extend(seen(socket, &kept));
        }
        Ok(sockets)
    }

    pub(super) fn read<T: serde::de::DeserializeOwned>(self) -> Result<Vec<T>, Unavailable> {
        self.0
            .map(|value| serde_json::from_str(&text(value)?).map_err(|_| nonsense("JSON")))
            .collect()
    }
}

/// The first items of an entry as the script keeps it: incarnation, type, namespace and device.
/// What comes behind only the script wants to know.
struct Kept([Arc<str>; 4]);

impl<'de> Deserialize<'de> for Kept {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Kept, D::Error> {
        struct Items;
        impl<'de> Visitor<'de> for Items {
            type Value = Kept;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an entry")
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Kept, A::Error> {
                let mut text = || {
                    let next = items.next_element::<Arc<str>>()?;
                    next.ok_or_else(|| A::Error::custom("too short"))
                };
                let kept = Kept([text()?, text()?, text()?, text()?]);
                while items.next_element::<IgnoredAny>()?.is_some() {}
                Ok(kept)
            }
        }
        from.deserialize_seq(Items)
    }
}

fn seen(socket: Arc<str>, kept: &str) -> Result<Seen, Unavailable> {
    let Kept([incarnation, kind, namespace, device]) =
        serde_json::from_str(kept).map_err(|_| nonsense("entry"))?;
    let process = incarnation.rsplit_once('.').map(|(process, _)| process);
    Ok(Seen {
        socket,
        process: process.map_or(incarnation.clone(), Into::into),
        namespace,
        device,
        kind,
    })
}

fn text(value: Value) -> Result<Arc<str>, Unavailable> {
    match value {
        Value::BulkString(bytes) => String::from_utf8(bytes)
            .map(Into::into)
            .map_err(|_| nonsense("UTF-8")),
        Value::SimpleString(text) => Ok(text.into()),
        _ => Err(nonsense("text")),
    }
}

/// Whose, as the script writes it: `TYPE:USER`.
pub(super) fn typed_user(name: &str) -> Result<TypedUser, Unavailable> {
    let (kind, user) = name.split_once(':').ok_or_else(|| nonsense("user"))?;
    Ok(TypedUser {
        user: user.into(),
        kind: kind.into(),
    })
}

/// A record of the stream.
pub(super) enum Record {
    /// An edge's number, 0 if it has none; and the edge, if it can be read.
    Edge(u64, Option<Edge>),
    /// A user is on other devices.
    Devices(DevicesChange),
}

pub(super) fn record(fields: Value) -> Record {
    let mut all = Vec::new();
    if let Ok(mut fields) = Answer::of(fields) {
        while let (Ok(name), Ok(value)) = (fields.text(), fields.text()) {
            all.push((name, value));
        }
    }
    if let Some(change) = read_devices(&all) {
        return Record::Devices(change);
    }
    let number = field(&all, "n").and_then(|value| value.parse().ok());
    Record::Edge(number.unwrap_or(0), read_edge(&all).ok())
}

type Fields = [(Arc<str>, Arc<str>)];

fn field<'a>(fields: &'a Fields, name: &str) -> Option<&'a str> {
    let mut named = fields.iter().filter(|(known, _)| **known == *name);
    named.next().map(|(_, value)| &**value)
}

/// A record about devices has the fields of an edge that tells nobody anything, and two more.
fn read_devices(fields: &Fields) -> Option<DevicesChange> {
    Some(DevicesChange {
        number: field(fields, "d")?.parse().ok()?,
        user: typed_user(field(fields, "w")?).ok()?.user,
        devices: field(fields, "c")?.parse().ok(),
    })
}

fn read_edge(fields: &Fields) -> Result<Edge, Unavailable> {
    let (mut whose, mut online, mut rev, mut at) = (None, None, None, 0);
    let (mut rooms, mut others) = (Vec::new(), None);
    for (name, value) in fields {
        let number = || value.parse().map_err(|_| nonsense("number"));
        match &**name {
            "w" => whose = Some(typed_user(value)?),
            "o" => online = Some(&**value == "1"),
            "r" => rev = Some(number()?),
            "t" => at = number()?,
            "m" => rooms = room_names(value)?,
            "k" => others = Some(room_names(value)?),
            _ => {}
        }
    }
    Ok(Edge {
        who: whose.ok_or_else(|| nonsense("user"))?,
        online: online.ok_or_else(|| nonsense("change"))?,
        rev: rev.ok_or_else(|| nonsense("revision"))?,
        at,
        rooms,
        others,
    })
}

/// Room names, sorted: the script has them in no order.
fn room_names(json: &str) -> Result<Vec<RoomName>, Unavailable> {
    let mut rooms: Vec<RoomName> = serde_json::from_str(json).map_err(|_| nonsense("rooms"))?;
    rooms.sort_unstable();
    Ok(rooms)
}
