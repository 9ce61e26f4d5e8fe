//! Events of the line as bytes: as nodes send them, and as the store sends them on.
//!
//! A node sends flags, the socket that is left out, if one is, and an envelope, all of which it
//! signs if it has a key. The store puts
//! a head in front: one byte of kind, four of the line's epoch, then the number, the one before
//! it in the scope, the epoch of the offset and the offset, eight bytes each. Numbers are
//! big-endian. `redis/line.lua` is the other end.

use heartline_core::backplane::line::{Heard, Lost, Position, Reached, Tail};
use heartline_core::backplane::{Message, Target};
use heartline_core::line::ring::Extent;
use heartline_core::presence::SocketAddress;
use heartline_wire::id::Sid;

use crate::envelope::{self, Body, Origin, Reader};
use crate::seal::Seal;

/// The newest of its key is kept beside the others.
pub const KEYED: u8 = 1;
/// A socket is left out, whose name follows.
const SKIPS: u8 = 2;
/// Events were lost, and this stands for them.
pub const GAP: u8 = 4;
/// The key has no newest event any more.
pub const REMOVES: u8 = 8;
/// Changes of presence: the store puts behind it the number up to which they were said before.
pub const CHANGES: u8 = 16;
/// For one socket alone, whose name follows.
pub const DIRECT: u8 = 32;

/// Behind the name of a session that is nobody's.
const ENDED: u8 = b'-';

/// Bytes of a socket's name.
const NAME: usize = 24;

/// Writes an event as its node sends it; `named` is the socket that is left out, or the one that
/// it is for.
pub fn body(
    flags: u8,
    named: Option<SocketAddress>,
    origin: Origin,
    target: &Target<'_>,
    message: &Message,
    seal: &Seal,
) -> Vec<u8> {
    let mut out = Vec::with_capacity(32);
    // What removes a key is an event like any other.
    let flags = flags & !REMOVES;
    match named {
        Some(named) => {
            out.push(if flags & DIRECT == 0 {
                flags | SKIPS
            } else {
                flags
            });
            out.extend_from_slice(&named.0.to_bytes());
        }
        None => out.push(flags),
    }
    let mut envelope = envelope::encode(origin, target, message);
    seal.prepare(&mut envelope);
    out.extend_from_slice(&envelope);
    seal.sign(place(out[0], &mut [0; 4]), &mut out[1..]);
    out
}

/// The place that signatures are for: what the flags say, but for the one that the store takes
/// away where it does not keep the newest of a key. Whom an event is for stands in the event.
fn place(flags: u8, room: &mut [u8; 4]) -> &str {
    char::from(flags & !KEYED).encode_utf8(room)
}

/// What the store sends.
#[expect(
    clippy::large_enum_variant,
    reason = "it is taken apart as soon as it is read, and nearly all are events"
)]
#[derive(Debug)]
pub enum Sent<'a> {
    /// An event, and whose it was.
    Event(Heard<'a>, Origin),
    /// The end of a scope: which request it answers, which of its scopes it is, and whose its
    /// events were.
    Tail(u64, usize, Tail<'a>, Vec<Origin>),
    /// All scopes of a request were sent.
    End(u64, Reached),
    /// Another node has taken a session up, by the claim of this number, or has ended it.
    Claimed(SocketAddress, u64, Lost),
}

impl Reader<'_> {
    fn u8(&mut self) -> Option<u8> {
        self.take(1).map(|byte| byte[0])
    }

    fn name(&mut self) -> Option<SocketAddress> {
        let bytes: [u8; NAME] = self.take(NAME)?.try_into().ok()?;
        Some(SocketAddress(Sid::from_bytes(bytes)))
    }
}

/// Reads what the store sends; events are held to `max` bytes, as [`envelope::decode`] says, and to
/// their signatures. `None`: it
/// is nothing that this version knows, which is counted, or not to be believed.
pub fn read<'a>(bytes: &'a [u8], max: usize, seal: &Seal) -> Option<Sent<'a>> {
    match read_sent(bytes, max, seal) {
        Ok(sent) => Some(sent),
        Err(why) => {
            why.count(seal);
            None
        }
    }
}

/// Why something is not read.
enum Unread {
    /// Nobody has signed it who may say it: that is counted.
    Unbelieved,
    /// It is of another version, or damaged.
    Strange,
}

impl Unread {
    fn count(self, seal: &Seal) {
        match self {
            Unread::Unbelieved => {}
            Unread::Strange => seal.note_unread(),
        }
    }
}

fn read_sent<'a>(bytes: &'a [u8], max: usize, seal: &Seal) -> Result<Sent<'a>, Unread> {
    match bytes.first() {
        Some(3) => {
            let mut reader = Reader(&bytes[1..]);
            let line = reader.u32().ok_or(Unread::Strange)?;
            let at = read_position(&mut reader, line).ok_or(Unread::Strange)?;
            let (heard, origin) = read_event(reader, at, max, seal)?;
            Ok(Sent::Event(heard, origin))
        }
        _ => read_other(bytes, max, seal).ok_or(Unread::Strange),
    }
}

fn read_other<'a>(bytes: &'a [u8], max: usize, seal: &Seal) -> Option<Sent<'a>> {
    let mut reader = Reader(bytes);
    let kind = reader.u8()?;
    let line = reader.u32()?;
    match kind {
        4 => read_tail(&mut reader, max, seal),
        5 => Some(Sent::End(
            reader.u64()?,
            Reached {
                line,
                begin: reader.u64()?,
                last: reader.u64()?,
            },
        )),
        6 => {
            let claim = reader.u64()?;
            let name = reader.name()?;
            // Builds that do not know of it write nothing there.
            let how = match reader.u8() {
                Some(ENDED) => Lost::Ended,
                _ => Lost::TakenUp,
            };
            Some(Sent::Claimed(name, claim, how))
        }
        _ => None,
    }
}

fn read_position(reader: &mut Reader<'_>, line: u32) -> Option<Position> {
    Some(Position {
        line,
        id: reader.u64()?,
        before: reader.u64()?,
        epoch: reader.u64()?,
        offset: reader.u64()?,
    })
}

fn read_event<'a>(
    mut reader: Reader<'a>,
    at: Position,
    max: usize,
    seal: &Seal,
) -> Result<(Heard<'a>, Origin), Unread> {
    let strange = || Unread::Strange;
    let flags = reader.u8().ok_or_else(strange)?;
    let edges_after = match flags & CHANGES {
        0 => None,
        _ => {
            let cut = reader.0.split_last_chunk::<8>();
            let (rest, after) = cut.ok_or_else(strange)?;
            reader.0 = rest;
            Some(u64::from_be_bytes(*after))
        }
    };
    let signed = reader.0;
    let mut named = |flag: u8| match flags & flag {
        0 => Some(None),
        _ => reader.name().map(Some),
    };
    let (skip, to) = (named(SKIPS), named(DIRECT));
    let (skip, to) = skip.zip(to).ok_or_else(strange)?;
    let begin = signed.len() - reader.0.len();
    let said = seal
        .open(place(flags, &mut [0; 4]), signed, begin)
        .ok_or(Unread::Unbelieved)?;
    let read = said.get(begin..).and_then(envelope::read);
    let Some((origin, Body::Said(said))) = read else {
        return Err(Unread::Strange);
    };
    let target = said.target;
    // What breaks a bound is as good as lost.
    // What the gateway itself says is held to no client's bounds.
    let max = if edges_after.is_some() {
        usize::MAX
    } else {
        max
    };
    let message = match flags & GAP {
        0 => said.check(max).ok().map(|(_, message)| message),
        _ => None,
    };
    let heard = Heard {
        at,
        target,
        message,
        skip,
        to,
        edges_after,
    };
    Ok((heard, origin))
}

fn read_tail<'a>(reader: &mut Reader<'a>, max: usize, seal: &Seal) -> Option<Sent<'a>> {
    let (request, index) = (reader.u64()?, reader.u64()? as usize);
    let (epoch, offset) = (reader.u64()?, reader.u64()?);
    let mut known = Extent {
        last: reader.u64()?,
        dropped: reader.u64()?,
        dropped_offset: reader.u64()?,
    };
    let mut events = Vec::new();
    while !reader.0.is_empty() {
        let length = reader.u32()? as usize;
        let mut event = Reader(reader.take(length)?);
        let (3, line) = (event.u8()?, event.u32()?) else {
            return None;
        };
        let at = read_position(&mut event, line)?;
        match read_event(event, at, max, seal) {
            Ok(read) => events.push(read),
            // What another version has said is as good as lost, and nothing else; so is what
            // nobody has signed.
            Err(why) => {
                why.count(seal);
                known.dropped = known.dropped.max(at.id);
                known.dropped_offset = known.dropped_offset.max(at.offset);
            }
        }
    }
    events.sort_by_key(|(event, _)| event.at.id);
    events.dedup_by_key(|(event, _)| event.at.id);
    let (events, origins) = events.into_iter().unzip();
    let tail = Tail {
        epoch,
        offset,
        known,
        events,
    };
    Some(Sent::Tail(request, index, tail, origins))
}

#[cfg(test)]
mod tests {
    use super::*;
    use heartline_core::backplane::{MAX_ADDED, NameList};
    use proptest::prelude::*;

    /// An event as the store sends it on.
    fn sent(line: u32, numbers: [u64; 4], body: &[u8]) -> Vec<u8> {
        let mut out = head(3, line, &numbers);
        out.extend_from_slice(body);
        out
    }

    fn head(kind: u8, line: u32, numbers: &[u64]) -> Vec<u8> {
        let mut out = vec![kind];
        out.extend_from_slice(&line.to_be_bytes());
        for number in numbers {
            out.extend_from_slice(&number.to_be_bytes());
        }
        out
    }

    /// What a test says.
    #[derive(Debug, Clone)]
    struct Words {
        kind: u8,
        texts: Vec<String>,
        optional: Vec<Option<String>>,
        attachments: Vec<Vec<u8>>,
        flags: u8,
        skip: Option<[u8; NAME]>,
        numbers: [u64; 4],
    }

    fn words() -> impl Strategy<Value = Words> {
        let text = || "\\PC{0,12}";
        let parts = (
            0u8..4,
            prop::collection::vec(text(), 3),
            prop::collection::vec(prop::option::of(text()), 4),
            prop::collection::vec(prop::collection::vec(any::<u8>(), 0..20), 0..3),
            prop_oneof![Just(0), Just(KEYED), Just(REMOVES), Just(GAP)],
            prop::option::of(any::<[u8; NAME]>()),
            any::<[u64; 4]>(),
        );
        parts.prop_map(
            |(kind, texts, optional, attachments, flags, skip, numbers)| Words {
                kind,
                texts,
                optional,
                attachments,
                flags,
                skip,
                numbers,
            },
        )
    }

    impl Words {
        fn target(&self) -> Target<'_> {
            let (namespace, name) = (&*self.texts[0], &*self.texts[1]);
            let [tenant, third, topic, instead_of] =
                [0, 1, 2, 3].map(|at| self.optional[at].as_deref());
            match self.kind {
                0 => Target::Room {
                    namespace,
                    tenant,
                    room: name,
                    key: third,
                },
                1 => Target::All { namespace, tenant },
                2 => Target::Rooms {
                    namespace,
                    tenant,
                    rooms: NameList(name),
                    except: NameList(&self.texts[2]),
                },
                _ => Target::User {
                    namespace,
                    tenant,
                    user: name,
                    user_type: third.map(|_| third),
                    topic,
                    instead_of,
                    key: None,
                },
            }
        }

        fn message(&self) -> Message {
            let placeholders = (0..self.attachments.len())
                .map(|at| format!(r#"{{"_placeholder":true,"num":{at}}}"#));
            let args = placeholders.collect::<Vec<_>>().join(",");
            Message {
                attachments: self.attachments.iter().cloned().map(Into::into).collect(),
                ..Message::new(&self.texts[2], &args)
            }
        }

        fn bytes(&self, origin: Origin) -> Vec<u8> {
            self.bytes_of(origin, &Seal::default())
        }

        fn bytes_of(&self, origin: Origin, seal: &Seal) -> Vec<u8> {
            let skip = self.skip.map(|skip| SocketAddress(Sid::from_bytes(skip)));
            let (target, message) = (self.target(), self.message());
            body(self.flags, skip, origin, &target, &message, seal)
        }

        /// Whether it is what was said.
        fn is(&self, line: u32, heard: &Heard<'_>) -> bool {
            let [id, before, epoch, offset] = self.numbers;
            let at = Position {
                line,
                id,
                before,
                epoch,
                offset,
            };
            let said = self.message();
            let message = heard.message.as_ref().map(|message| {
                (&message.event, &message.args, &message.attachments)
                    == (&said.event, &said.args, &said.attachments)
            });
            heard.at == at
                && heard.target == self.target()
                && heard.skip.map(|skip| skip.0.to_bytes()) == self.skip
                && message == (self.flags != GAP).then_some(true)
        }
    }

    #[test]
    fn what_breaks_a_bound_is_as_good_as_lost() {
        let target = Target::All {
            namespace: "/",
            tenant: None,
        };
        let origin = Origin {
            tag: 1,
            number: 1,
            after: 0,
        };
        let seal = Seal::default();
        let is_heard = |bytes: usize| {
            let text = format!("\"{}\"", "x".repeat(bytes - 2));
            let message = Message::new("e", &text);
            let body = body(0, None, origin, &target, &message, &seal);
            let sent = sent(1, [1, 0, 0, 0], &body);
            match read(&sent, 128, &seal) {
                Some(Sent::Event(heard, _)) => heard.message.is_some(),
                other => panic!("{other:?}"),
            }
        };
        assert!(is_heard(128 + MAX_ADDED));
        assert!(!is_heard(129 + MAX_ADDED));
    }

    proptest! {
        #[test]
        fn events_survive_the_journey(words in words(), line: u32, tag: u32, number in 0..1u64 << 48) {
            let origin = Origin { tag, number, after: 0 };
            let bytes = sent(line, words.numbers, &words.bytes(origin));
            match read(&bytes, 1 << 20, &Seal::default()) {
                Some(Sent::Event(heard, by)) => {
                    prop_assert!(words.is(line, &heard), "{heard:?}");
                    prop_assert_eq!(by, origin);
                }
                other => prop_assert!(false, "{other:?}"),
            }
        }

        #[test]
        fn ends_survive_the_journey_in_the_order_of_their_events(
            all in prop::collection::vec(words(), 0..5),
            line: u32,
            numbers: [u64; 7],
            strange in prop::option::of(any::<[u64; 4]>()),
        ) {
            let mut bytes = head(4, line, &numbers);
            let mut add = |event: &[u8]| {
                bytes.extend_from_slice(&(event.len() as u32).to_be_bytes());
                bytes.extend_from_slice(event);
            };
            // The newest of their keys come first, and again among the others.
            for words in all.iter().take(2).chain(&all) {
                let origin = Origin { tag: 1, number: words.numbers[0] >> 16, after: 0 };
                add(&sent(line, words.numbers, &words.bytes(origin)));
            }
            if let Some(numbers) = strange {
                add(&sent(line, numbers, &[0, 255, 255]));
            }
            let Some(Sent::Tail(request, index, tail, origins)) = read(&bytes, 1 << 20, &Seal::default()) else {
                return Err(TestCaseError::fail("it is not read"));
            };
            prop_assert_eq!((request, index as u64), (numbers[0], numbers[1]));
            prop_assert_eq!((tail.epoch, tail.offset), (numbers[2], numbers[3]));
            let [_, _, _, _, last, dropped, dropped_offset] = numbers;
            let [strange_id, _, _, strange_offset] = strange.unwrap_or_default();
            let known = Extent {
                last,
                dropped: dropped.max(strange_id),
                dropped_offset: dropped_offset.max(strange_offset),
            };
            prop_assert_eq!(tail.known, known);
            let mut expected = all.clone();
            expected.sort_by_key(|words| words.numbers[0]);
            expected.dedup_by_key(|words| words.numbers[0]);
            prop_assert_eq!(tail.events.len(), expected.len());
            for ((words, heard), by) in expected.iter().zip(&tail.events).zip(origins) {
                prop_assert!(words.is(line, heard), "{heard:?}");
                prop_assert_eq!(by.number, words.numbers[0] >> 16);
            }
        }

        #[test]
        fn with_a_key_only_what_is_signed_is_heard(words in words(), at: prop::sample::Index) {
            let seal = Seal::new("{p}", Some("a key of thirty-two bytes, or so."), None);
            let is_heard = |bytes: &[u8]| {
                let read = read(bytes, 1 << 20, &seal);
                matches!(read, Some(Sent::Event(heard, _)) if words.is(1, &heard))
            };
            let signed = words.bytes_of(Origin::default(), &seal);
            prop_assert!(is_heard(&sent(1, words.numbers, &signed)));
            let bare = words.bytes(Origin::default());
            prop_assert!(!is_heard(&sent(1, words.numbers, &bare)));
            let mut changed = signed.clone();
            changed[at.index(signed.len())] ^= 2;
            prop_assert!(read(&sent(1, words.numbers, &changed), 1 << 20, &seal).is_none());
            // The store may take away that it is the newest of its key, and keeps it so.
            let mut other = signed.clone();
            other[0] &= !KEYED;
            prop_assert!(read(&sent(1, words.numbers, &other), 1 << 20, &seal).is_some());
            // Of an end, it is missing.
            let mut end = head(4, 1, &[1, 0, 1, 1, 0, 0, 0]);
            for event in [&signed, &bare].map(|body| sent(1, words.numbers, body)) {
                end.extend_from_slice(&(event.len() as u32).to_be_bytes());
                end.extend_from_slice(&event);
            }
            let Some(Sent::Tail(_, _, tail, _)) = read(&end, 1 << 20, &seal) else {
                return Err(TestCaseError::fail("it is not read"));
            };
            prop_assert_eq!(tail.events.len(), 1);
            prop_assert_eq!(tail.known.dropped, words.numbers[0]);
        }

        #[test]
        fn what_cannot_be_read_is_counted_once_and_what_is_not_believed_otherwise(
            words in words(), is_end: bool,
        ) {
            let seal = Seal::new("{p}", Some("a key of thirty-two bytes, or so."), None);
            let bare = words.bytes(Origin::default());
            // As another version may write it: an envelope that this one does not know.
            let mut strange = bare.clone();
            strange[1 + words.skip.map_or(0, |_| NAME)] = 0xfe;
            let unknown = Seal::default();
            for (seal, body, counted) in [(&unknown, &strange, 1), (&unknown, &bare, 1), (&seal, &bare, 0)] {
                let mut bytes = sent(1, words.numbers, body);
                if is_end {
                    let mut end = head(4, 1, &[1, 0, 1, 1, 0, 0, 0]);
                    end.extend_from_slice(&(bytes.len() as u32).to_be_bytes());
                    end.extend_from_slice(&bytes);
                    bytes = end;
                }
                let _ = read(&bytes, 1 << 20, seal);
                prop_assert_eq!(seal.unread(), counted);
            }
            prop_assert!(read(&[9], 1 << 20, &unknown).is_none());
            prop_assert_eq!(unknown.unread(), 2);
        }

        #[test]
        fn any_bytes_are_refused_or_read(bytes: Vec<u8>, kind in 0u8..8) {
            let _ = read(&bytes, 1 << 10, &Seal::default());
            let mut known = vec![kind];
            known.extend_from_slice(&bytes);
            let _ = read(&known, 1 << 10, &Seal::default());
        }

        #[test]
        fn what_was_damaged_on_its_way_is_refused_or_read(
            words in words(), is_end: bool, at: prop::sample::Index, byte: u8,
            cut: prop::sample::Index,
        ) {
            let event = sent(1, words.numbers, &words.bytes(Origin::default()));
            let mut bytes = event.clone();
            if is_end {
                bytes = head(4, 1, &[1, 0, 1, 1, 1, 0, 0]);
                bytes.extend_from_slice(&(event.len() as u32).to_be_bytes());
                bytes.extend_from_slice(&event);
            }
            let _ = read(&bytes[..cut.index(bytes.len())], 1 << 20, &Seal::default());
            let at = at.index(bytes.len());
            bytes[at] = byte;
            let _ = read(&bytes, 1 << 20, &Seal::default());
        }
    }
}
