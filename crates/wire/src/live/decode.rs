//! From text to frames.

use std::borrow::Cow;

use super::{ClientFrame, FrameError, Position, Resume};
use crate::json;

/// The members that mean something, as raw JSON.
#[derive(Default)]
struct Fields<'a> {
    kind: Option<&'a str>,
    id: Option<&'a str>,
    topic: Option<&'a str>,
    event: Option<&'a str>,
    data: Option<&'a str>,
    key: Option<&'a str>,
    token: Option<&'a str>,
    to_self: Option<&'a str>,
    recover: Option<&'a str>,
    members: Option<&'a str>,
    resume: Option<&'a str>,
    place: Option<&'a str>,
    topics: Option<&'a str>,
}

impl<'a> Fields<'a> {
    /// Reads and validates the object in one pass.
    fn read(text: &'a str) -> Result<Self, FrameError<'a>> {
        let mut fields = Self::default();
        let mut twice = None;
        let mut members = json::members(text);
        for (name, value) in &mut members {
            // Almost every name stands between its quotes as it is.
            let plain = &name[1..name.len() - 1];
            let slot = match fields.slot(plain) {
                None if plain.contains('\\') => {
                    json::unquote(name).and_then(|name| fields.slot(&name))
                }
                slot => slot,
            };
            if let Some(slot) = slot
                && slot.replace(value).is_some()
            {
                twice = Some(name);
            }
        }
        if !members.is_complete() {
            return Err(FrameError::NotJson);
        }
        match twice.and_then(json::unquote) {
            Some(field) => Err(FrameError::Twice {
                field,
                id: fields.id(),
            }),
            None => Ok(fields),
        }
    }

    /// Where a member's value goes, if it means something.
    #[inline]
    fn slot(&mut self, name: &str) -> Option<&mut Option<&'a str>> {
        Some(match name {
            "type" => &mut self.kind,
            "id" => &mut self.id,
            "topic" => &mut self.topic,
            "event" => &mut self.event,
            "data" => &mut self.data,
            "key" => &mut self.key,
            "token" => &mut self.token,
            "self" => &mut self.to_self,
            "recover" => &mut self.recover,
            "members" => &mut self.members,
            "resume" => &mut self.resume,
            "place" => &mut self.place,
            "topics" => &mut self.topics,
            _ => return None,
        })
    }

    /// The id, if it is a string or a number.
    fn id(&self) -> Option<&'a str> {
        self.id
            .filter(|id| matches!(id.as_bytes().first(), Some(b'"' | b'-' | b'0'..=b'9')))
    }

    /// The id, which an answer can repeat; `null` is none.
    fn checked_id(&self) -> Result<Option<&'a str>, FrameError<'a>> {
        match (self.id(), self.id) {
            (None, Some(other)) if other != "null" => Err(FrameError::WrongId),
            (id, _) => Ok(id),
        }
    }

    /// What came of an earlier connection; a `resume` that is no string is none.
    fn resume(&self) -> Option<Box<Resume<'a>>> {
        let token = self.resume.and_then(json::unquote)?;
        let topics = self.topics.into_iter().flat_map(json::members);
        let topics = topics.filter_map(|(topic, at)| Some((json::unquote(topic)?, position(at))));
        Some(Box::new(Resume {
            token,
            place: self.place.and_then(json::unquote),
            topics: topics.collect(),
        }))
    }

    fn data(&self) -> &'a str {
        self.data.unwrap_or("null")
    }
}

/// Decodes a client's frame.
///
/// Unknown members are ignored; a known one that is given twice is refused, as
/// it is in the data of an event, and so is an `id` that is neither string nor number nor
/// `null`: whoever waits for it would wait for ever; and `members` and `self` that are neither
/// `true` nor `false` nor `null`. A `recover` that is not
/// `{"epoch":<string>,"offset":<integer>}` is ignored: the
/// answer then says that nothing was recovered.
///
/// # Errors
///
/// See [`FrameError`].
pub fn decode(text: &str) -> Result<ClientFrame<'_>, FrameError<'_>> {
    let fields = Fields::read(text)?;
    let kind = fields.kind.and_then(json::unquote);
    let id = fields.checked_id()?;
    let kind = kind.ok_or(FrameError::NoType { id })?;
    let need = |kind, field, raw| text_field(kind, field, raw, id);
    Ok(match kind.as_ref() {
        "auth" => ClientFrame::Auth {
            token: need("auth", "token", fields.token)?,
            id,
            resume: fields.resume(),
        },
        "subscribe" => ClientFrame::Subscribe {
            topic: need("subscribe", "topic", fields.topic)?,
            id,
            recover: fields.recover.and_then(position),
            members: bool_field("subscribe", "members", fields.members, id)?.unwrap_or(false),
        },
        "unsubscribe" => ClientFrame::Unsubscribe {
            topic: need("unsubscribe", "topic", fields.topic)?,
            id,
        },
        "publish" => ClientFrame::Publish {
            topic: need("publish", "topic", fields.topic)?,
            event: need("publish", "event", fields.event)?,
            data: fields.data(),
            key: match fields.key {
                None | Some("null") => None,
                key => Some(need("publish", "key", key)?),
            },
            to_self: bool_field("publish", "self", fields.to_self, id)?.unwrap_or(true),
            id,
        },
        "emit" => ClientFrame::Emit {
            event: need("emit", "event", fields.event)?,
            data: fields.data(),
            id,
        },
        "ping" => ClientFrame::Ping { id },
        _ => return Err(FrameError::UnknownType { kind, id }),
    })
}

fn text_field<'a>(
    kind: &'static str,
    field: &'static str,
    raw: Option<&'a str>,
    id: Option<&'a str>,
) -> Result<Cow<'a, str>, FrameError<'a>> {
    raw.and_then(json::unquote)
        .ok_or(FrameError::Missing { kind, field, id })
}

/// Whether something is wished; `None`: nothing is said of it, or `null`.
fn bool_field<'a>(
    kind: &'static str,
    field: &'static str,
    raw: Option<&'a str>,
    id: Option<&'a str>,
) -> Result<Option<bool>, FrameError<'a>> {
    match raw {
        None | Some("null") => Ok(None),
        Some("true") => Ok(Some(true)),
        Some("false") => Ok(Some(false)),
        Some(_) => Err(FrameError::NoBool { kind, field, id }),
    }
}

/// Reads `{"epoch":…,"offset":…}`.
fn position(raw: &str) -> Option<Position<'_>> {
    let epoch = json::unquote(json::field(raw, "epoch")?)?;
    let offset = json::field(raw, "offset")?.parse().ok()?;
    Some((epoch, offset))
}
