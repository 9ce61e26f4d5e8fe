//! A publication on its way to other nodes, as bytes.
//!
//! One byte of version (or of version and that a signature stands at the end, which
//! [`Seal`](crate::seal::Seal) writes and takes off), one of kind, the sender's tag and its running number, the number
//! that it had before in the same channel, then the target's and the message's texts, each
//! behind its length. Numbers are big-endian. A publication that is lost shows in the next
//! one's number; if there is none, a mark says it.

use bytes::Bytes;
use heartline_core::backplane::{
    MAX_ADDED, MAX_TO_NODES, Message, MessageError, NameList, Target, check, check_key,
};
use heartline_wire::socketio::MAX_ATTACHMENTS;

const VERSION: u8 = 2;
/// The same, with a signature.
pub(crate) const SIGNED: u8 = 3;
/// No process says so much: at a million a second it takes nine years.
const MAX_NUMBER: u64 = 1 << 48;
/// The kind of a mark.
const MARK: u8 = 5;
/// The kind of what is for one type of a user, with a key: in the place of the room instead of
/// which others are told.
const KEYED_TYPED: u8 = 8;
/// Where the running number is, with the one before it behind it.
const NUMBERS: usize = 6;
/// The length of a text that is not there.
const NONE: u32 = u32::MAX;

/// Whose publication it is: a process, and how many it had sent before.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Origin {
    /// The process's tag.
    pub tag: u32,
    /// Its running number, from 1 on.
    pub number: u64,
    /// The number of what the process sent into the same channel before; 0: nobody knows. Of
    /// a mark: the last that was lost there.
    pub after: u64,
}

fn put(text: Option<&[u8]>, out: &mut Vec<u8>) {
    match text {
        None => out.extend_from_slice(&NONE.to_be_bytes()),
        Some(text) => {
            out.extend_from_slice(&(text.len() as u32).to_be_bytes());
            out.extend_from_slice(text);
        }
    }
}

/// Gives a publication the numbers that it has once it is in line.
pub fn stamp(envelope: &mut [u8], number: u64, after: u64) {
    for (place, value) in [(NUMBERS, number), (NUMBERS + 8, after)] {
        if let Some(bytes) = envelope.get_mut(place..place + 8) {
            bytes.copy_from_slice(&value.to_be_bytes());
        }
    }
}

fn put_head(kind: u8, origin: Origin, out: &mut Vec<u8>) {
    out.extend_from_slice(&[VERSION, kind]);
    out.extend_from_slice(&origin.tag.to_be_bytes());
    out.extend_from_slice(&origin.number.to_be_bytes());
    out.extend_from_slice(&origin.after.to_be_bytes());
}

/// Writes a mark: publications into the channel by which it comes were lost before they were
/// sent, or some for a user.
pub fn mark(origin: Origin, user: Option<&str>) -> Vec<u8> {
    let mut out = Vec::with_capacity(32);
    put_head(MARK, origin, &mut out);
    put(user.map(str::as_bytes), &mut out);
    out
}

/// Whether a signature stands behind an envelope.
pub(crate) fn is_signed(envelope: &[u8]) -> bool {
    envelope.first() == Some(&SIGNED)
}

/// A target as its kind and texts.
fn texts_of<'a>(target: &Target<'a>) -> (u8, [Option<&'a str>; 6]) {
    match *target {
        Target::Room {
            namespace,
            tenant,
            room,
            key,
        } => (0, [Some(namespace), tenant, Some(room), key, None, None]),
        Target::Rooms {
            namespace,
            tenant,
            rooms,
            except,
        } => (
            4,
            [
                Some(namespace),
                tenant,
                Some(rooms.0),
                Some(except.0),
                None,
                None,
            ],
        ),
        Target::All { namespace, tenant } => (1, [Some(namespace), tenant, None, None, None, None]),
        Target::User {
            namespace,
            tenant,
            user,
            user_type,
            topic,
            instead_of,
            key,
        } => {
            // Nodes that know of no keys of users pass over the third text of kind 2, and all
            // of kind 8.
            let (kind, third, last) = match (user_type, key) {
                (None, key) => (2, key, instead_of),
                (Some(user_type), None) => (3, user_type, instead_of),
                (Some(user_type), Some(key)) => (KEYED_TYPED, user_type, Some(key)),
            };
            let texts = [Some(namespace), tenant, Some(user), third, topic, last];
            (kind, texts)
        }
        Target::Users {
            namespace,
            tenant,
            users,
            instead_of,
        } => (
            6,
            [
                Some(namespace),
                tenant,
                Some(users.0),
                None,
                None,
                Some(instead_of),
            ],
        ),
        Target::Nodes => (7, [Some(""), None, None, None, None, None]),
    }
}

/// Writes a publication.
pub fn encode(origin: Origin, target: &Target<'_>, message: &Message) -> Vec<u8> {
    let attached: usize = message
        .attachments
        .iter()
        .map(|bytes| bytes.len() + 4)
        .sum();
    let mut out = Vec::with_capacity(message.args.len() + attached + 160);
    let (kind, texts) = texts_of(target);
    put_head(kind, origin, &mut out);
    for text in texts {
        put(text.map(str::as_bytes), &mut out);
    }
    put(Some(message.event.as_bytes()), &mut out);
    put(Some(message.args.as_bytes()), &mut out);
    out.extend_from_slice(&(message.attachments.len() as u32).to_be_bytes());
    for attachment in &message.attachments {
        put(Some(attachment), &mut out);
    }
    out
}

/// Bytes that are read from the front.
pub(crate) struct Reader<'a>(pub(crate) &'a [u8]);

impl<'a> Reader<'a> {
    pub(crate) fn take(&mut self, count: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(count)?;
        self.0 = rest;
        Some(taken)
    }

    pub(crate) fn u32(&mut self) -> Option<u32> {
        Some(u32::from_be_bytes(self.take(4)?.try_into().ok()?))
    }

    pub(crate) fn u64(&mut self) -> Option<u64> {
        Some(u64::from_be_bytes(self.take(8)?.try_into().ok()?))
    }

    fn bytes(&mut self) -> Option<Option<&'a [u8]>> {
        match self.u32()? {
            NONE => Some(None),
            length => self.take(length as usize).map(Some),
        }
    }

    fn text(&mut self) -> Option<Option<&'a str>> {
        match self.bytes()? {
            None => Some(None),
            Some(bytes) => std::str::from_utf8(bytes).ok().map(Some),
        }
    }
}

/// Why something from another node is not delivered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unread {
    /// It is no publication, or none for this node.
    Nothing,
    /// A node that holds its clients to the same bounds would not have sent it.
    Refused(MessageError),
}

impl From<MessageError> for Unread {
    fn from(error: MessageError) -> Self {
        Unread::Refused(error)
    }
}

/// Reads a publication. `max`: bytes that a client may say; what a node makes of that may have
/// [`MAX_ADDED`] more, and what nodes say to each other alone has [`MAX_TO_NODES`].
///
/// # Errors
/// Whatever is no publication, and what [`check`] or [`check_key`] refuses; nothing has
/// been copied then.
pub fn decode(bytes: &[u8], max: usize) -> Result<(Origin, Target<'_>, Message), Unread> {
    match read(bytes) {
        Some((origin, Body::Said(said))) => {
            let (target, message) = said.check(max)?;
            Ok((origin, target, message))
        }
        _ => Err(Unread::Nothing),
    }
}

/// What an envelope has in it.
#[derive(Debug)]
pub enum Body<'a> {
    /// A publication.
    Said(Said<'a>),
    /// A mark, and the user whose publications were lost, if it was one's.
    Lost(Option<&'a str>),
}

/// A publication's parts, borrowed.
#[derive(Debug)]
pub struct Said<'a> {
    /// Whom it is for.
    pub target: Target<'a>,
    event: &'a str,
    args: &'a str,
    attachments: Result<Vec<&'a [u8]>, MessageError>,
}

impl<'a> Said<'a> {
    /// Whom it is for.
    pub fn target(&self) -> Target<'a> {
        self.target
    }

    /// The publication, if it keeps to the bounds; `max`: as [`decode`].
    ///
    /// # Errors
    /// What [`check`] or [`check_key`] refuses; nothing has been copied then.
    pub fn check(self, max: usize) -> Result<(Target<'a>, Message), MessageError> {
        let attachments = self.attachments?;
        if let Target::Room { key, .. } | Target::User { key, .. } = self.target {
            check_key(key)?;
        }
        let max = match self.target {
            Target::Nodes => MAX_TO_NODES,
            _ => max.saturating_add(MAX_ADDED),
        };
        check(self.args, &attachments, max)?;
        let copied = attachments.into_iter().map(Bytes::copy_from_slice);
        let message = Message {
            event: self.event.into(),
            args: self.args.into(),
            attachments: copied.collect(),
        };
        Ok((self.target, message))
    }
}

/// Whom a publication of this kind is for.
fn read_target<'a>(kind: u8, reader: &mut Reader<'a>) -> Option<Target<'a>> {
    let namespace = reader.text()??;
    let tenant = reader.text()?;
    let (name, third) = (reader.text()?, reader.text()?);
    let (topic, instead_of) = (reader.text()?, reader.text()?);
    Some(match kind {
        0 => Target::Room {
            namespace,
            tenant,
            room: name?,
            key: third,
        },
        1 => Target::All { namespace, tenant },
        4 => Target::Rooms {
            namespace,
            tenant,
            rooms: NameList(name?),
            except: NameList(third?),
        },
        2 => Target::User {
            namespace,
            tenant,
            user: name?,
            user_type: None,
            topic,
            instead_of,
            key: third,
        },
        3 | KEYED_TYPED => {
            let is_keyed = kind == KEYED_TYPED;
            Target::User {
                namespace,
                tenant,
                user: name?,
                user_type: Some(third),
                topic,
                instead_of: instead_of.filter(|_| !is_keyed),
                key: instead_of.filter(|_| is_keyed),
            }
        }
        6 => Target::Users {
            namespace,
            tenant,
            users: NameList(name?),
            instead_of: instead_of?,
        },
        7 => Target::Nodes,
        _ => return None,
    })
}

/// Whether something that cannot be [`read`] is of a version that this build does not know.
pub fn is_of_another_version(bytes: &[u8]) -> bool {
    bytes
        .first()
        .is_some_and(|version| ![VERSION, SIGNED].contains(version))
}

/// Reads what another node has sent, without its signature and without a look at its bounds;
/// `None`: it is nothing that this version knows.
pub fn read(bytes: &[u8]) -> Option<(Origin, Body<'_>)> {
    let mut reader = Reader(bytes);
    let [version, kind] = *reader.take(2)? else {
        return None;
    };
    if ![VERSION, SIGNED].contains(&version) {
        return None;
    }
    let tag = reader.u32()?;
    let number = reader.u64()?;
    let after = reader.u64()?;
    // Whoever believed it would take what its sender says next for old.
    if number.max(after) > MAX_NUMBER {
        return None;
    }
    let origin = Origin { tag, number, after };
    if kind == MARK {
        let user = reader.text()?;
        return reader.0.is_empty().then_some((origin, Body::Lost(user)));
    }
    let target = read_target(kind, &mut reader)?;
    let event = reader.text()??;
    let args = reader.text()??;
    let attachments = match reader.u32()? as usize {
        // How many there are is not believed before they are there.
        count if count > MAX_ATTACHMENTS => Err(MessageError::TooManyAttachments(MAX_ATTACHMENTS)),
        count => {
            let mut attachments = Vec::with_capacity(count);
            for _ in 0..count {
                attachments.push(reader.bytes()??);
            }
            if !reader.0.is_empty() {
                return None;
            }
            Ok(attachments)
        }
    };
    let said = Said {
        target,
        event,
        args,
        attachments,
    };
    Some((origin, Body::Said(said)))
}

/// How far back a publication may come and still be taken for new. A sender waits for
/// the answers to a batch before it sends the next; on a Redis Cluster its parts come by
/// different ways, of which one may be slower than the others for a while.
const WINDOW: u64 = 4096;
/// Numbers in a row that are further back than the window, after which their sender is believed.
const MAX_FAR_BACK: u8 = 16;

/// Tells publications that came before, also out of order, from new ones. 512 bytes for
/// each sender.
#[derive(Debug, Clone)]
pub struct Seen {
    highest: u64,
    /// How many in a row were further back than the window.
    far_back: u8,
    /// Which of the last [`WINDOW`] numbers came: a ring of bits.
    window: Box<[u64; (WINDOW / 64) as usize]>,
}

impl Default for Seen {
    fn default() -> Self {
        Seen {
            highest: 0,
            far_back: 0,
            window: Box::new([0; (WINDOW / 64) as usize]),
        }
    }
}

impl Seen {
    fn bit(&mut self, number: u64) -> (&mut u64, u64) {
        let place = number % WINDOW;
        (&mut self.window[(place / 64) as usize], 1 << (place % 64))
    }

    /// Whether `number` is new; it is not from here on. What is further back than the window is
    /// taken for old. Unless all numbers are surely their sender's (`is_sure`), that is not for
    /// ever: no sender repeats so much of what is so old, so the highest number was not its own.
    pub fn is_new(&mut self, number: u64, is_sure: bool) -> bool {
        if number > self.highest {
            if number - self.highest >= WINDOW {
                self.window.fill(0);
            } else {
                for skipped in self.highest + 1..number {
                    let (word, bit) = self.bit(skipped);
                    *word &= !bit;
                }
            }
            self.highest = number;
            self.far_back = 0;
            let (word, bit) = self.bit(number);
            *word |= bit;
            return true;
        }
        if self.highest - number >= WINDOW {
            self.far_back = self.far_back.saturating_add(1);
            if is_sure || self.far_back < MAX_FAR_BACK {
                return false;
            }
            *self = Seen {
                highest: number,
                ..Seen::default()
            };
            let (word, bit) = self.bit(number);
            *word |= bit;
            return true;
        }
        self.far_back = 0;
        let (word, bit) = self.bit(number);
        let new = *word & bit == 0;
        *word |= bit;
        new
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn text() -> impl Strategy<Value = String> {
        "\\PC{0,12}"
    }

    proptest! {
        #[test]
        fn publications_survive_the_journey(
            kind in 0..8, tag: u32, number in 0..=MAX_NUMBER, after in 0..=MAX_NUMBER,
            texts in prop::collection::vec(text(), 5),
            optional in prop::collection::vec(prop::option::of(text()), 4),
            attachments in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..20), 0..3),
        ) {
            let (namespace, name) = (&*texts[0], &*texts[1]);
            let [tenant, third, topic, instead_of] =
                [0, 1, 2, 3].map(|at| optional[at].as_deref());
            let target = match kind {
                0 => Target::Room { namespace, tenant, room: name, key: third },
                1 => Target::All { namespace, tenant },
                4 => Target::Users {
                    namespace, tenant, users: NameList(name), instead_of: &texts[4],
                },
                5 => Target::Nodes,
                kind => Target::User {
                    namespace, tenant, user: name,
                    user_type: matches!(kind, 3 | 6).then_some(third), topic,
                    instead_of: instead_of.filter(|_| kind < 6),
                    key: instead_of.filter(|_| kind >= 6),
                },
            };
            let message = Message {
                event: texts[2].as_str().into(),
                args: texts[3].as_str().into(),
                attachments: attachments.into_iter().map(Into::into).collect(),
            };
            let origin = Origin { tag, number, after };
            let mut bytes = encode(Origin { tag, number: 0, after: 0 }, &target, &message);
            stamp(&mut bytes, number, after);
            prop_assert_eq!(&bytes, &encode(origin, &target, &message));
            let (from, to, what) = decode(&bytes, usize::MAX).unwrap();
            prop_assert_eq!((from, &to), (origin, &target));
            prop_assert_eq!(what.event, message.event);
            prop_assert_eq!(what.args, message.args);
            prop_assert_eq!(what.attachments, message.attachments);
            for length in 0..bytes.len() {
                prop_assert_eq!(decode(&bytes[..length], usize::MAX).unwrap_err(), Unread::Nothing);
            }
        }

        #[test]
        fn any_bytes_are_refused_or_read(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = decode(&bytes, usize::MAX);
        }

        #[test]
        fn each_number_is_new_once(
            base in 0u64..3 * WINDOW,
            numbers in prop::collection::vec(1u64..WINDOW, 1..200),
        ) {
            let mut seen = Seen::default();
            let mut there = std::collections::HashSet::new();
            for number in numbers {
                let number = base + number;
                prop_assert_eq!(seen.is_new(number, false), there.insert(number));
            }
        }
    }

    #[test]
    fn a_mark_is_no_publication() {
        let origin = Origin {
            tag: 1,
            number: 9,
            after: 7,
        };
        for user in [None, Some("=t:ann")] {
            let bytes = mark(origin, user);
            assert_eq!(decode(&bytes, 100).unwrap_err(), Unread::Nothing);
            let Some((from, Body::Lost(whose))) = read(&bytes) else {
                panic!("a mark");
            };
            assert_eq!((from, whose), (origin, user));
            assert!(read(&bytes[..bytes.len() - 1]).is_none());
        }
    }

    #[test]
    fn what_no_client_may_say_no_node_may_either() {
        let origin = Origin {
            tag: 1,
            number: 1,
            after: 0,
        };
        let placeholder = r#"{"_placeholder":true,"num":0}"#;
        let said = |key: &str, args: &str, attachments: &[&'static str]| {
            let target = Target::Room {
                namespace: "/",
                tenant: None,
                room: "r",
                key: Some(key),
            };
            let message = Message {
                event: "e".into(),
                args: args.into(),
                attachments: attachments.iter().copied().map(Bytes::from).collect(),
            };
            let bytes = encode(origin, &target, &message);
            decode(&bytes, 100).map(|(_, _, message)| message.attachments.len())
        };
        assert_eq!(said("k", placeholder, &["bin"]), Ok(1));
        let twice = format!("{placeholder},[{placeholder}]");
        // Without attachments they are objects like any other.
        assert_eq!(said("k", &twice, &[]), Ok(0));
        for (refused, why) in [
            (said(&"k".repeat(257), "1", &[]), MessageError::InvalidKey),
            (
                said("k", &twice, &["bin"]),
                MessageError::RepeatedAttachment,
            ),
            (
                said("k", placeholder, &["x"; 11]),
                MessageError::TooManyAttachments(MAX_ATTACHMENTS),
            ),
            (
                said("k", &format!("\"{}\"", "x".repeat(99 + MAX_ADDED)), &[]),
                MessageError::TooLarge(100 + MAX_ADDED),
            ),
        ] {
            assert_eq!(refused, Err(Unread::Refused(why)));
        }
    }

    #[test]
    fn what_nodes_say_of_their_own_is_not_held_to_what_a_client_may_say() {
        // The smallest `server.max_payload`.
        let max = 128;
        let origin = Origin {
            tag: 1,
            number: 1,
            after: 0,
        };
        let heard = |target: &Target<'_>, bytes: usize| {
            let text = format!("\"{}\"", "x".repeat(bytes - 2));
            let bytes = encode(origin, target, &Message::new("e", &text));
            decode(&bytes, max).map(|(_, _, message)| message.args.len())
        };
        let refused = |max| Err(Unread::Refused(MessageError::TooLarge(max)));
        // Who is in a room: ids of 256 bytes, each escaped, in quotes, and a comma.
        let roster = 1_001 * (256 * 2 + 3) + 2_000;
        assert_eq!(heard(&Target::Nodes, roster), Ok(roster));
        assert_eq!(
            heard(&Target::Nodes, MAX_TO_NODES + 1),
            refused(MAX_TO_NODES)
        );
        let room = Target::Room {
            namespace: "/",
            tenant: None,
            room: "r",
            key: None,
        };
        // Somebody has left a conversation: three ids.
        assert_eq!(heard(&room, 3 * 256 + 60), Ok(3 * 256 + 60));
        assert_eq!(heard(&room, max + MAX_ADDED + 1), refused(max + MAX_ADDED));
    }

    #[test]
    fn what_is_too_far_back_is_old() {
        let mut seen = Seen::default();
        assert!(seen.is_new(10_000, false));
        assert!(seen.is_new(10_000 - (WINDOW - 1), false));
        assert!(!seen.is_new(10_000 - WINDOW, false));
        assert!(seen.is_new(50_000, false));
        assert!(seen.is_new(50_000 - 1, false));
        assert!(!seen.is_new(10_000, false));
    }

    #[test]
    fn an_absurd_number_does_not_mute_its_sender_for_ever() {
        let mut seen = Seen::default();
        assert!(seen.is_new(7, false));
        assert!(seen.is_new(u64::MAX, false));
        let heard: Vec<u64> = (8..100)
            .filter(|number| seen.is_new(*number, false))
            .collect();
        let first = 8 + u64::from(MAX_FAR_BACK) - 1;
        assert_eq!(heard, (first..100).collect::<Vec<_>>());
        assert!(!seen.is_new(first, false));
        // Where all numbers are signed, what comes again is old for ever.
        let mut seen = Seen::default();
        assert!(seen.is_new(10_000, true));
        assert!((1..100).all(|number| !seen.is_new(number, true)));
    }

    #[test]
    fn a_number_that_no_process_reaches_is_nobodys() {
        let origin = |number, after| Origin {
            tag: 1,
            number,
            after,
        };
        for origin in [origin(u64::MAX, 0), origin(1, u64::MAX)] {
            let bytes = encode(origin, &Target::Nodes, &Message::default());
            assert!(read(&bytes).is_none());
            assert!(read(&mark(origin, None)).is_none());
        }
    }
}
