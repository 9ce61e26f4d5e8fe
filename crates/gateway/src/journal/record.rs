//! What a journal says, as bytes: each record with its length before it.

use std::sync::Arc;

use bytes::Bytes;
use heartline_core::auth::UserKey;
use heartline_core::line::ring::Only;
use heartline_core::message::Message;
use heartline_core::namespaces::NamespaceId;
use heartline_core::presence::SocketAddress;
use heartline_core::rooms::RoomKey;
use heartline_wire::id::Sid;

/// A record.
#[derive(Debug, Clone)]
pub(super) enum Record {
    Head(Head),
    /// How far a room is.
    Room(RoomRecord),
    Event(Box<EventRecord>),
    /// Something of a room was lost on its way, before this number in the line.
    Gap {
        room: RoomRecord,
        epoch: u64,
        place: u64,
    },
    /// The same of something of which nobody knows where it was to go.
    Lost {
        place: u64,
    },
    /// Something that was said there is not kept any more, up to this number in the line.
    Dropped {
        to: Where,
        place: u64,
    },
    /// The last number in the line.
    Last {
        place: u64,
    },
    /// A room was told of a stored message with this offset.
    Told {
        room: RoomKey,
        offset: u64,
    },
    /// A socket has begun.
    Opened {
        name: SocketAddress,
        user: Option<Arc<UserKey>>,
        /// The patterns of rooms that its token grants; `None`: it does not say.
        rooms: Option<Vec<String>>,
    },
    /// Its token was renewed, or it has come back with another, which grants these.
    Granted {
        name: SocketAddress,
        rooms: Option<Vec<String>>,
    },
    Joined {
        name: SocketAddress,
        room: RoomRecord,
        since: u64,
    },
    /// It has left a room, and this was the last kept event before.
    Left {
        name: SocketAddress,
        room: RoomKey,
        place: u64,
    },
    /// Its connection is lost, at this Unix time in milliseconds.
    Parked {
        name: SocketAddress,
        at: u64,
    },
    /// It has come back, is here now, and in the rooms in which it was.
    Back {
        name: SocketAddress,
        address: SocketAddress,
        /// The number of the last event that it was sent where it was before.
        end: u64,
    },
    /// Something is remembered of it under a name, as JSON; `None`: no more.
    Remembered {
        name: SocketAddress,
        key: String,
        text: Option<String>,
    },
    /// It will not come back.
    Ended {
        name: SocketAddress,
    },
    /// A user is online, since this change.
    Online {
        user: Arc<UserKey>,
        rev: u64,
        /// Until when, if no socket of it comes, Unix milliseconds; 0: nobody knows yet.
        until: u64,
        /// Rooms that have heard of it, besides those of its sockets.
        rooms: Vec<RoomKey>,
    },
    /// It is offline since this change, and that was told.
    Offline {
        user: Arc<UserKey>,
        rev: u64,
    },
}

impl Record {
    /// The number that it has in the line; 0: none.
    pub(super) fn place(&self) -> u64 {
        match self {
            Record::Event(event) => event.id,
            Record::Gap { place, .. } | Record::Lost { place } | Record::Last { place } => *place,
            _ => 0,
        }
    }
}

/// What a file begins with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Head {
    /// Which start of the machine it is of: what was only in its memory is gone after it. The form of
    /// the records stands before it.
    pub(super) boot: String,
    /// The namespaces, whose numbers the records have.
    pub(super) namespaces: String,
    pub(super) epoch: u32,
    pub(super) secret: [u8; 32],
    /// Events before this number are in an older file, if in any.
    pub(super) own_from: u64,
}

#[derive(Debug, Clone)]
pub(super) struct RoomRecord {
    pub(super) key: RoomKey,
    pub(super) incarnation: u64,
    pub(super) offset: u64,
}

/// Where an event went.
#[derive(Debug, Clone)]
pub(super) enum Where {
    Room(RoomRecord),
    Scope {
        namespace: NamespaceId,
        tenant: Option<Arc<str>>,
        user: Option<Arc<str>>,
    },
    Socket(SocketAddress),
}

#[derive(Debug, Clone)]
pub(super) struct EventRecord {
    pub(super) to: Where,
    pub(super) id: u64,
    /// Unix milliseconds.
    pub(super) at: u64,
    pub(super) message: Message,
    pub(super) key: Option<Box<str>>,
    pub(super) only: Option<Box<Only>>,
}

/// Appends a record.
pub(super) fn push(record: &Record, out: &mut Vec<u8>) {
    let begin = out.len();
    out.extend_from_slice(&[0; 4]);
    let mut writer = Writer(out);
    writer.record(record);
    let length = (out.len() - begin - 4) as u32;
    out[begin..begin + 4].copy_from_slice(&length.to_le_bytes());
}

/// Takes the first record off; `None` at the end, or where it is not whole or makes no sense.
pub(super) fn take(bytes: &mut &[u8]) -> Option<Record> {
    let (length, rest) = bytes.split_at_checked(4)?;
    let length = u32::from_le_bytes(length.try_into().ok()?) as usize;
    let (record, rest) = rest.split_at_checked(length)?;
    let mut reader = Reader(record);
    let record = reader.record()?;
    if !reader.0.is_empty() {
        return None;
    }
    *bytes = rest;
    Some(record)
}

struct Writer<'a>(&'a mut Vec<u8>);

impl Writer<'_> {
    fn byte(&mut self, byte: u8) {
        self.0.push(byte);
    }

    fn number(&mut self, number: u64) {
        self.0.extend_from_slice(&number.to_le_bytes());
    }

    fn bytes(&mut self, bytes: &[u8]) {
        self.number(bytes.len() as u64);
        self.0.extend_from_slice(bytes);
    }

    fn optional(&mut self, text: Option<&str>) {
        self.byte(text.is_some().into());
        if let Some(text) = text {
            self.bytes(text.as_bytes());
        }
    }

    fn list<'a>(&mut self, texts: impl ExactSizeIterator<Item = &'a String>) {
        self.number(texts.len() as u64);
        texts.for_each(|text| self.bytes(text.as_bytes()));
    }

    fn patterns(&mut self, rooms: Option<&Vec<String>>) {
        self.byte(rooms.is_some().into());
        if let Some(rooms) = rooms {
            self.list(rooms.iter());
        }
    }

    fn socket(&mut self, socket: &SocketAddress) {
        self.0.extend_from_slice(&socket.0.to_bytes());
    }

    /// A record of this kind, about a socket.
    fn of(&mut self, kind: u8, name: &SocketAddress) {
        self.byte(kind);
        self.socket(name);
    }

    fn user(&mut self, user: Option<&UserKey>) {
        self.byte(user.is_some().into());
        if let Some(user) = user {
            self.named(user);
        }
    }

    fn named(&mut self, user: &UserKey) {
        self.optional(user.tenant_id.as_deref());
        self.bytes(user.user_id.as_bytes());
        self.optional(user.user_type.as_deref());
    }

    fn key(&mut self, key: &RoomKey) {
        self.number(key.namespace.0.into());
        self.optional(key.tenant.as_deref());
        self.bytes(key.name.as_bytes());
    }

    fn room(&mut self, room: &RoomRecord) {
        self.key(&room.key);
        self.number(room.incarnation);
        self.number(room.offset);
    }

    fn only(&mut self, only: &Only) {
        self.byte(only.skip.is_some().into());
        if let Some(skip) = &only.skip {
            self.socket(skip);
        }
        self.user(only.user.as_deref());
        self.user(only.about.as_deref());
        self.optional(only.instead_of.as_deref());
        self.byte(only.among.is_some().into());
        if let Some(among) = &only.among {
            self.list(among.iter());
        }
        self.list(only.except.iter());
        self.optional(only.topic.as_deref());
    }

    fn place(&mut self, to: &Where) {
        match to {
            Where::Room(room) => {
                self.byte(0);
                self.room(room);
            }
            Where::Scope {
                namespace,
                tenant,
                user,
            } => {
                self.byte(1);
                self.number(namespace.0.into());
                self.optional(tenant.as_deref());
                self.optional(user.as_deref());
            }
            Where::Socket(name) => {
                self.byte(2);
                self.socket(name);
            }
        }
    }

    fn event(&mut self, event: &EventRecord) {
        self.place(&event.to);
        self.number(event.id);
        self.number(event.at);
        self.bytes(event.message.event.as_bytes());
        self.bytes(event.message.args.as_bytes());
        self.number(event.message.attachments.len() as u64);
        for attachment in &event.message.attachments {
            self.bytes(attachment);
        }
        self.optional(event.key.as_deref());
        self.byte(event.only.is_some().into());
        if let Some(only) = &event.only {
            self.only(only);
        }
    }

    fn head(&mut self, head: &Head) {
        self.bytes(head.boot.as_bytes());
        self.bytes(head.namespaces.as_bytes());
        self.number(head.epoch.into());
        self.0.extend_from_slice(&head.secret);
        self.number(head.own_from);
    }

    fn record(&mut self, record: &Record) {
        match record {
            Record::Head(head) => {
                self.byte(0);
                self.head(head);
            }
            Record::Room(room) => {
                self.byte(1);
                self.room(room);
            }
            Record::Event(event) => {
                self.byte(2);
                self.event(event);
            }
            Record::Gap { room, epoch, place } => {
                self.byte(9);
                self.room(room);
                self.number(*epoch);
                self.number(*place);
            }
            Record::Lost { place } => {
                self.byte(10);
                self.number(*place);
            }
            Record::Dropped { to, place } => {
                self.byte(12);
                self.place(to);
                self.number(*place);
            }
            Record::Last { place } => {
                self.byte(13);
                self.number(*place);
            }
            Record::Told { room, offset } => {
                self.byte(11);
                self.key(room);
                self.number(*offset);
            }
            of_socket => self.of_socket(of_socket),
        }
    }

    fn of_socket(&mut self, record: &Record) {
        match record {
            Record::Opened { name, user, rooms } => {
                self.of(3, name);
                self.user(user.as_deref());
                self.patterns(rooms.as_ref());
            }
            Record::Granted { name, rooms } => {
                self.of(17, name);
                self.patterns(rooms.as_ref());
            }
            Record::Joined { name, room, since } => {
                self.of(4, name);
                self.room(room);
                self.number(*since);
            }
            Record::Left { name, room, place } => {
                self.of(5, name);
                self.key(room);
                self.number(*place);
            }
            Record::Parked { name, at } => {
                self.of(6, name);
                self.number(*at);
            }
            Record::Back { name, address, end } => {
                self.of(7, name);
                self.socket(address);
                self.number(*end);
            }
            Record::Ended { name } => {
                self.of(8, name);
            }
            Record::Remembered { name, key, text } => {
                self.of(14, name);
                self.bytes(key.as_bytes());
                self.optional(text.as_deref());
            }
            of_user => self.of_user(of_user),
        }
    }

    fn of_user(&mut self, record: &Record) {
        match record {
            Record::Online {
                user,
                rev,
                until,
                rooms,
            } => {
                self.byte(15);
                self.named(user);
                self.number(*rev);
                self.number(*until);
                self.number(rooms.len() as u64);
                rooms.iter().for_each(|room| self.key(room));
            }
            Record::Offline { user, rev } => {
                self.byte(16);
                self.named(user);
                self.number(*rev);
            }
            _ => {}
        }
    }
}

struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn raw(&mut self, length: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(length)?;
        self.0 = rest;
        Some(taken)
    }

    fn byte(&mut self) -> Option<u8> {
        Some(self.raw(1)?[0])
    }

    fn flag(&mut self) -> Option<bool> {
        match self.byte()? {
            0 => Some(false),
            1 => Some(true),
            _ => None,
        }
    }

    fn number(&mut self) -> Option<u64> {
        Some(u64::from_le_bytes(self.raw(8)?.try_into().ok()?))
    }

    fn bytes(&mut self) -> Option<&'a [u8]> {
        let length = self.number()?;
        self.raw(usize::try_from(length).ok()?)
    }

    fn text(&mut self) -> Option<&'a str> {
        std::str::from_utf8(self.bytes()?).ok()
    }

    fn optional(&mut self) -> Option<Option<&'a str>> {
        match self.flag()? {
            true => self.text().map(Some),
            false => Some(None),
        }
    }

    fn list(&mut self) -> Option<Vec<String>> {
        let count = self.number()?;
        (0..count).map(|_| Some(self.text()?.to_owned())).collect()
    }

    fn patterns(&mut self) -> Option<Option<Vec<String>>> {
        match self.flag()? {
            true => self.list().map(Some),
            false => Some(None),
        }
    }

    fn socket(&mut self) -> Option<SocketAddress> {
        let bytes = self.raw(24)?.try_into().ok()?;
        Some(SocketAddress(Sid::from_bytes(bytes)))
    }

    fn user(&mut self) -> Option<Option<Arc<UserKey>>> {
        match self.flag()? {
            true => self.named().map(Some),
            false => Some(None),
        }
    }

    fn named(&mut self) -> Option<Arc<UserKey>> {
        Some(Arc::new(UserKey {
            tenant_id: self.optional()?.map(Into::into),
            user_id: self.text()?.into(),
            user_type: self.optional()?.map(Into::into),
        }))
    }

    fn namespace(&mut self) -> Option<NamespaceId> {
        Some(NamespaceId(u16::try_from(self.number()?).ok()?))
    }

    fn key(&mut self) -> Option<RoomKey> {
        Some(RoomKey {
            namespace: self.namespace()?,
            tenant: self.optional()?.map(Into::into),
            name: self.text()?.into(),
        })
    }

    fn room(&mut self) -> Option<RoomRecord> {
        Some(RoomRecord {
            key: self.key()?,
            incarnation: self.number()?,
            offset: self.number()?,
        })
    }

    fn only(&mut self) -> Option<Only> {
        Some(Only {
            skip: match self.flag()? {
                true => Some(self.socket()?),
                false => None,
            },
            user: self.user()?,
            about: self.user()?,
            instead_of: self.optional()?.map(Into::into),
            among: match self.flag()? {
                true => Some(self.list()?.into()),
                false => None,
            },
            except: self.list()?.into(),
            topic: self.optional()?.map(Into::into),
        })
    }

    fn place(&mut self) -> Option<Where> {
        Some(match self.byte()? {
            0 => Where::Room(self.room()?),
            1 => Where::Scope {
                namespace: self.namespace()?,
                tenant: self.optional()?.map(Into::into),
                user: self.optional()?.map(Into::into),
            },
            2 => Where::Socket(self.socket()?),
            _ => return None,
        })
    }

    fn event(&mut self) -> Option<EventRecord> {
        Some(EventRecord {
            to: self.place()?,
            id: self.number()?,
            at: self.number()?,
            message: Message {
                event: self.text()?.into(),
                args: self.text()?.into(),
                attachments: {
                    let count = self.number()?;
                    let attachment = |_| Some(Bytes::copy_from_slice(self.bytes()?));
                    (0..count).map(attachment).collect::<Option<_>>()?
                },
            },
            key: self.optional()?.map(Into::into),
            only: match self.flag()? {
                true => Some(Box::new(self.only()?)),
                false => None,
            },
        })
    }

    fn head(&mut self) -> Option<Head> {
        Some(Head {
            boot: self.text()?.to_owned(),
            namespaces: self.text()?.to_owned(),
            epoch: u32::try_from(self.number()?).ok()?,
            secret: self.raw(32)?.try_into().ok()?,
            own_from: self.number()?,
        })
    }

    fn record(&mut self) -> Option<Record> {
        Some(match self.byte()? {
            0 => Record::Head(self.head()?),
            1 => Record::Room(self.room()?),
            2 => Record::Event(Box::new(self.event()?)),
            3 => Record::Opened {
                name: self.socket()?,
                user: self.user()?,
                rooms: self.patterns()?,
            },
            17 => Record::Granted {
                name: self.socket()?,
                rooms: self.patterns()?,
            },
            4 => Record::Joined {
                name: self.socket()?,
                room: self.room()?,
                since: self.number()?,
            },
            5 => Record::Left {
                name: self.socket()?,
                room: self.key()?,
                place: self.number()?,
            },
            6 => Record::Parked {
                name: self.socket()?,
                at: self.number()?,
            },
            7 => Record::Back {
                name: self.socket()?,
                address: self.socket()?,
                end: self.number()?,
            },
            8 => Record::Ended {
                name: self.socket()?,
            },
            9 => Record::Gap {
                room: self.room()?,
                epoch: self.number()?,
                place: self.number()?,
            },
            10 => Record::Lost {
                place: self.number()?,
            },
            14 => Record::Remembered {
                name: self.socket()?,
                key: self.text()?.to_owned(),
                text: self.optional()?.map(Into::into),
            },
            12 => Record::Dropped {
                to: self.place()?,
                place: self.number()?,
            },
            13 => Record::Last {
                place: self.number()?,
            },
            11 => Record::Told {
                room: self.key()?,
                offset: self.number()?,
            },
            kind => return self.of_user(kind),
        })
    }

    fn of_user(&mut self, kind: u8) -> Option<Record> {
        Some(match kind {
            15 => Record::Online {
                user: self.named()?,
                rev: self.number()?,
                until: self.number()?,
                rooms: {
                    let count = self.number()?;
                    (0..count).map(|_| self.key()).collect::<Option<_>>()?
                },
            },
            16 => Record::Offline {
                user: self.named()?,
                rev: self.number()?,
            },
            _ => return None,
        })
    }
}

/// An event in a room, under a key, as tests need them.
#[cfg(test)]
pub(super) fn keyed(id: u64, key: &str, args: &str) -> Record {
    Record::Event(Box::new(EventRecord {
        to: Where::Room(RoomRecord {
            key: RoomKey {
                namespace: NamespaceId::ROOT,
                tenant: None,
                name: "map".into(),
            },
            incarnation: 3,
            offset: id,
        }),
        id,
        at: 7,
        message: Message::new("e", args),
        key: Some(key.into()),
        only: None,
    }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use heartline_wire::id::{ConnId, Slot};
    use proptest::prelude::*;

    fn socket(number: u32) -> SocketAddress {
        let conn = ConnId {
            shard: 1,
            slot: Slot(number),
            generation: 3,
        };
        SocketAddress::new(conn, NamespaceId(2), [7; 12])
    }

    fn records() -> Vec<Record> {
        let user = Arc::new(UserKey {
            tenant_id: Some("t".into()),
            user_id: "é".into(),
            user_type: None,
        });
        let room = RoomRecord {
            key: RoomKey {
                namespace: NamespaceId(1),
                tenant: None,
                name: "lobby".into(),
            },
            incarnation: 5,
            offset: 1 << 40,
        };
        let other = room.clone();
        let at = room.key.clone();
        let event = |to| {
            Record::Event(Box::new(EventRecord {
                to,
                id: 9,
                at: 11,
                message: Message {
                    event: "e".into(),
                    args: r#"{"x":"é"}"#.into(),
                    attachments: vec![Bytes::from_static(&[0, 255])],
                },
                key: Some("k".into()),
                only: Some(Box::new(Only {
                    skip: Some(socket(1)),
                    user: Some(user.clone()),
                    about: None,
                    instead_of: Some("room".into()),
                    among: Some(["a".into(), "b".into()].into()),
                    except: ["c".into()].into(),
                    topic: Some("t".into()),
                })),
            }))
        };
        let scope = Where::Scope {
            namespace: NamespaceId(1),
            tenant: Some("t".into()),
            user: None,
        };
        vec![
            Record::Head(Head {
                boot: "b".into(),
                namespaces: "/".into(),
                epoch: u32::MAX,
                secret: [9; 32],
                own_from: 3,
            }),
            Record::Room(room.clone()),
            event(Where::Room(room.clone())),
            event(scope),
            event(Where::Socket(socket(3))),
            Record::Opened {
                name: socket(1),
                user: Some(user.clone()),
                rooms: Some(vec!["a*".into()]),
            },
            Record::Granted {
                name: socket(1),
                rooms: Some(vec!["a*".into(), "b".into()]),
            },
            Record::Granted {
                name: socket(1),
                rooms: None,
            },
            Record::Joined {
                name: socket(1),
                room: room.clone(),
                since: 7,
            },
            Record::Left {
                name: socket(1),
                room: room.key,
                place: 8,
            },
            Record::Parked {
                name: socket(1),
                at: 12,
            },
            Record::Back {
                name: socket(1),
                address: socket(2),
                end: 4,
            },
            Record::Ended { name: socket(2) },
            Record::Remembered {
                name: socket(1),
                key: "score".into(),
                text: Some(r#"{"é":1}"#.into()),
            },
            Record::Told {
                room: other.key.clone(),
                offset: 6,
            },
            Record::Gap {
                room: other,
                epoch: 8,
                place: 9,
            },
            Record::Lost { place: 10 },
            Record::Last { place: 12 },
            Record::Online {
                user: user.clone(),
                rev: 1 << 41,
                until: 1 << 42,
                rooms: vec![at.clone(), at],
            },
            Record::Offline { user, rev: 1 << 43 },
            Record::Dropped {
                to: Where::Socket(socket(4)),
                place: 11,
            },
        ]
    }

    #[test]
    fn what_is_written_is_read_and_what_is_cut_short_is_the_end() {
        let mut bytes = Vec::new();
        let mut ends = vec![0];
        for record in records() {
            push(&record, &mut bytes);
            ends.push(bytes.len());
        }
        for length in 0..=bytes.len() {
            let mut rest = &bytes[..length];
            let mut read = Vec::new();
            while let Some(record) = take(&mut rest) {
                read.push(record);
            }
            let whole = ends.iter().filter(|end| **end <= length).count() - 1;
            assert_eq!(read.len(), whole);
            let told = format!("{read:?}");
            assert_eq!(told, format!("{:?}", &records()[..whole]));
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_refused_or_read(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            let mut framed = (bytes.len() as u32).to_le_bytes().to_vec();
            framed.extend(bytes);
            let _ = take(&mut &framed[..]);
        }
    }
}
