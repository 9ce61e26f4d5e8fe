//! A file from which a gateway goes on after it was killed: the events that are kept, and the
//! sockets that were there.
//!
//! Every record is written, not synced, before anybody hears of it: the kernel has it, and a
//! process that is killed loses nothing. What a machine that stops has not put onto its disk is
//! gone; so the file is of one start of the machine, and begins anew with the next. There are
//! two files, of which the older one goes when the newer one is full.
//!
//! Here is what is written and when a file is full; `files` reads them at a start, `known` is
//! what their records come to, `found` what of it a start goes on with.

mod files;
mod found;
mod known;
mod record;
pub(crate) mod stopped;

use std::fs::File;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use heartline_core::auth::Identity;
use heartline_core::line::ring::Kept;
use heartline_core::line::shelf::ScopeRef;
use heartline_core::presence::{Edge, SocketAddress};
use heartline_core::rooms::{Gap, Room, RoomKey};

pub(crate) use found::{Found, Place};
pub(crate) use known::{Known, KnownRoom, KnownUser, Size};

use found::event_record;
use known::{State, grants_of};
use record::{Head, Record, RoomRecord, Where};

/// The newer file, and what has been written of it.
struct Tape {
    file: File,
    /// Events before this number are in neither file.
    kept_from: u64,
    /// Events before this number are not in the newer one.
    own_from: u64,
    /// The number of the last event.
    last: u64,
    length: u64,
    /// What it begins with, bytes.
    head: u64,
    state: State,
    buffer: Vec<u8>,
    broken: bool,
}

impl Tape {
    fn write(&mut self) -> io::Result<()> {
        let written = self.file.write_all(&self.buffer);
        self.length += self.buffer.len() as u64;
        self.buffer.clear();
        if self.buffer.capacity() > 1 << 20 {
            self.buffer = Vec::new();
        }
        written
    }
}

/// The journal of a gateway.
pub(crate) struct Journal {
    path: PathBuf,
    head: Head,
    size: Size,
    tape: Mutex<Tape>,
    /// Unix milliseconds of now.
    now: Box<dyn Fn() -> u64 + Send + Sync>,
    /// A second gateway must not write into the same.
    _lock: File,
}

impl Journal {
    /// Opens the journal and reads what is in it, if it is of this start of the machine and of
    /// the same namespaces. Else it begins anew, with this epoch and secret.
    ///
    /// # Errors
    /// The file cannot be used, or another gateway has it.
    pub(crate) fn open(
        path: &Path,
        namespaces: String,
        (epoch, secret): (u32, [u8; 32]),
        size: Size,
        now: Box<dyn Fn() -> u64 + Send + Sync>,
    ) -> io::Result<(Journal, Found)> {
        let lock = files::lock(path)?;
        let mut head = Head {
            boot: files::boot(),
            namespaces,
            epoch,
            secret,
            own_from: 1,
        };
        let (mut state, mut found) = match files::read(path, &head, &size) {
            Some((before, state, found)) => {
                (head.epoch, head.secret) = (before.epoch, before.secret);
                (state, found)
            }
            None => (State::new(&size), Found::default()),
        };
        let begun = now();
        let events = found.forget_old(&size, begun);
        let kept_from = found.kept_from.max(1);
        state.forget_rooms(kept_from);
        // Written down with all the rest: a process that ends soon gives nobody more time.
        state.lose(begun, begun.saturating_add(size.wait));
        found.take_in(&state);
        head.own_from = kept_from;
        // All that is still needed goes into a new file.
        let mut buffer = files::head_of(&head, &state);
        let begin = buffer.len() as u64;
        buffer.extend(events);
        let tape = Tape {
            file: files::replace(path, &buffer)?,
            kept_from,
            own_from: kept_from,
            last: found.last,
            length: buffer.len() as u64,
            head: begin,
            state,
            buffer: Vec::new(),
            broken: false,
        };
        files::remove_older(path);
        let journal = Journal {
            path: path.into(),
            head,
            size,
            tape: Mutex::new(tape),
            now,
            _lock: lock,
        };
        Ok((journal, found))
    }

    /// Its epoch and its secret.
    pub(crate) fn identity(&self) -> (u32, [u8; 32]) {
        (self.head.epoch, self.head.secret)
    }

    fn tape(&self) -> MutexGuard<'_, Tape> {
        self.tape.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The file becomes the older one, and a new one begins with all that is known.
    fn turn_over(&self, tape: &mut Tape) -> io::Result<()> {
        tape.kept_from = tape.own_from;
        tape.own_from = tape.last + 1;
        tape.state.forget_rooms(tape.kept_from);
        let head = Head {
            own_from: tape.own_from,
            ..self.head.clone()
        };
        let begin = files::head_of(&head, &tape.state);
        tape.file = files::turn_over(&self.path, &begin)?;
        tape.length = begin.len() as u64;
        tape.head = tape.length;
        Ok(())
    }

    /// Whether the newer file is full. One that begins with much has room for as much again: it would
    /// be written anew with each record otherwise.
    fn is_full(&self, tape: &Tape) -> bool {
        tape.length > self.size.segment.max(2 * tape.head)
    }

    fn note(&self, records: &[Record]) {
        let mut tape = self.tape();
        if tape.broken {
            return;
        }
        for record in records {
            tape.state.apply(record);
            record::push(record, &mut tape.buffer);
            tape.last = tape.last.max(record.place());
        }
        let written = tape.write();
        let written = written.and_then(|()| match self.is_full(&tape) {
            true => self.turn_over(&mut tape),
            false => Ok(()),
        });
        if let Err(error) = written {
            tracing::error!(
                %error,
                path = %self.path.display(),
                "the journal cannot be written: nothing of it survives the end of this process"
            );
            tape.broken = true;
            // Half of it would be taken for all.
            files::remove(&self.path);
        }
    }

    /// Notes an event of a room, before anybody hears of it.
    pub(crate) fn room_event(&self, room: &Room, event: &Kept) {
        let to = Where::Room(RoomRecord {
            key: room.key.clone(),
            incarnation: room.incarnation,
            offset: event.offset,
        });
        self.note(&[event_record(to, (self.now)(), event)]);
    }

    /// The same of events that went to no room.
    pub(crate) fn events(&self, scope: ScopeRef<'_>, events: &[Kept]) {
        let to = Where::Scope {
            namespace: scope.namespace,
            tenant: scope.tenant.map(Into::into),
            user: scope.user.map(Into::into),
        };
        let now = (self.now)();
        let records = events.iter();
        let records: Vec<Record> = records
            .map(|event| event_record(to.clone(), now, event))
            .collect();
        self.note(&records);
    }

    /// The same of one to a single socket.
    pub(crate) fn direct(&self, name: SocketAddress, event: &Kept) {
        self.note(&[event_record(Where::Socket(name), (self.now)(), event)]);
    }

    /// Publications of a room were lost.
    pub(crate) fn gap(&self, room: &Room, gap: Gap) {
        self.note(&[Record::Gap {
            room: RoomRecord {
                key: room.key.clone(),
                incarnation: room.incarnation,
                offset: gap.offset,
            },
            epoch: gap.epoch,
            place: gap.place,
        }]);
    }

    /// Publications were lost, and nobody knows whose.
    pub(crate) fn lost(&self, place: u64) {
        self.note(&[Record::Lost { place }]);
    }

    /// A socket has begun.
    pub(crate) fn opened(&self, name: SocketAddress, identity: &Identity) {
        self.note(&[Record::Opened {
            name,
            user: identity.user.clone(),
            rooms: grants_of(identity),
        }]);
    }

    /// Its token was renewed, and it has left what was taken from it: until then the one before says
    /// what it was granted, and not that the app has put it there.
    pub(crate) fn granted(&self, name: SocketAddress, identity: &Identity) {
        let rooms = grants_of(identity);
        self.note(&[Record::Granted { name, rooms }]);
    }

    /// It has come into a room.
    pub(crate) fn joined(&self, name: SocketAddress, room: &Room, offset: u64, since: u64) {
        self.note(&[Record::Joined {
            name,
            room: RoomRecord {
                key: room.key.clone(),
                incarnation: room.incarnation,
                offset,
            },
            since,
        }]);
    }

    /// It has left a room.
    pub(crate) fn left(&self, name: SocketAddress, room: &RoomKey, place: u64) {
        self.note(&[Record::Left {
            name,
            room: room.clone(),
            place,
        }]);
    }

    /// Something is remembered of it under a name, as JSON; `None`: no more.
    pub(crate) fn remembered(&self, name: SocketAddress, key: &str, text: Option<&str>) {
        self.note(&[Record::Remembered {
            name,
            key: key.to_owned(),
            text: text.map(ToOwned::to_owned),
        }]);
    }

    /// Its connection is lost.
    pub(crate) fn parked(&self, name: SocketAddress) {
        let at = (self.now)();
        self.note(&[Record::Parked { name, at }]);
    }

    /// It has come back, and is in the rooms in which it was, but for those that are `gone`. Up to
    /// `end` it was sent events where it was before. `granted`: by a token that grants other rooms.
    pub(crate) fn back<'a>(
        &self,
        name: SocketAddress,
        (address, end): (SocketAddress, u64),
        gone: impl Iterator<Item = &'a RoomKey>,
        granted: Option<&Identity>,
    ) {
        // Whatever part of this is written, the next process takes no room away from who was not
        // told yet that they are back.
        let gone = gone.map(|room| Record::Left {
            name,
            room: room.clone(),
            place: 0,
        });
        // Behind these, as in `granted`.
        let granted = granted.map(|identity| Record::Granted {
            name,
            rooms: grants_of(identity),
        });
        let back = std::iter::once(Record::Back { name, address, end });
        self.note(&back.chain(gone).chain(granted).collect::<Vec<_>>());
    }

    /// These users are online, of which nobody has heard yet.
    pub(crate) fn online<'a>(&self, edges: impl Iterator<Item = &'a Edge>) {
        let records = edges.map(|edge| Record::Online {
            user: edge.user.clone(),
            rev: edge.rev,
            until: 0,
            rooms: Vec::new(),
        });
        self.note(&records.collect::<Vec<_>>());
    }

    /// These are offline, and that was told: what a killed process has told to nobody is told by
    /// the next.
    pub(crate) fn offline<'a>(&self, edges: impl Iterator<Item = &'a Edge>) {
        let records = edges.map(|edge| Record::Offline {
            user: edge.user.clone(),
            rev: edge.rev,
        });
        self.note(&records.collect::<Vec<_>>());
    }

    /// It will not come back.
    pub(crate) fn ended(&self, name: SocketAddress) {
        self.note(&[Record::Ended { name }]);
    }
}

#[cfg(test)]
mod tests {
    use super::record::keyed;
    use super::*;
    use heartline_core::message::Message;
    use heartline_core::namespaces::NamespaceId;
    use heartline_wire::id::Sid;
    use heartline_wire::time::Micros;

    fn open(path: &Path) -> (Journal, Found) {
        let size = Size {
            segment: 10_000,
            age: 1_000,
            wait: 60_000,
            tells_rooms: vec![NamespaceId::ROOT],
        };
        let now = Box::new(|| 7);
        Journal::open(path, "/".into(), (1, [2; 32]), size, now).unwrap()
    }

    /// A folder of its own for a test.
    fn folder(name: &str) -> PathBuf {
        let name = format!("heartline-{name}-{}", std::process::id());
        let folder = std::env::temp_dir().join(name);
        let _ = std::fs::remove_dir_all(&folder);
        std::fs::create_dir(&folder).unwrap();
        folder
    }

    #[test]
    fn the_newest_of_each_key_goes_from_file_to_file() {
        let folder = folder("journal-keys");
        let path = folder.join("journal");
        let (journal, _) = open(&path);
        let text = format!("\"{}\"", "x".repeat(1_000));
        for (id, key, args) in [
            (1, "a", "1"),
            (2, "b", "2"),
            (3, "a", "3"),
            (4, "b", "null"),
        ] {
            journal.note(&[keyed(id, key, args)]);
        }
        // Other rooms have filled both files since; nobody else forgets the room.
        let scope = ScopeRef {
            namespace: NamespaceId::ROOT,
            tenant: None,
            user: None,
        };
        let socket = SocketAddress::parse("AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA").unwrap();
        journal.opened(socket, &Identity::default());
        let Record::Event(event) = keyed(4, "b", "null") else {
            unreachable!("it was made as one")
        };
        let Where::Room(room) = event.to else {
            unreachable!("it goes to a room")
        };
        let joined = Record::Joined {
            name: socket,
            room,
            since: 0,
        };
        journal.note(&[joined]);
        for id in 5..50 {
            let event = Kept {
                id,
                offset: 0,
                at: Micros::ZERO,
                message: Message::new("e", &text),
                key: None,
                only: None,
            };
            journal.events(scope, &[event]);
        }
        drop(journal);
        for _ in 0..2 {
            let (journal, found) = open(&path);
            assert!(found.kept_from > 30);
            let first = &found.events[0].2;
            assert_eq!((first.id, &*first.message.args), (3, "3"));
            assert!(found.events[1].2.id >= found.kept_from);
            drop(journal);
        }
        std::fs::remove_dir_all(folder).unwrap();
    }

    #[test]
    fn a_file_that_begins_with_more_than_it_may_have_is_not_written_anew_with_each_record() {
        let folder = folder("journal-head");
        let path = folder.join("journal");
        let (journal, _) = open(&path);
        let socket = |number: u8| SocketAddress(Sid::from_bytes([number; 24]));
        for number in 0..250 {
            journal.opened(socket(number), &Identity::default());
            journal.remembered(socket(number), "key", Some(&"x".repeat(100)));
        }
        assert!(journal.tape().head > journal.size.segment);
        let (mut times, mut before) = (0, journal.tape().length);
        for round in 0..2_000 {
            let text = format!("{round:0100}");
            journal.remembered(socket(7), "key", Some(&text));
            let length = journal.tape().length;
            times += usize::from(length <= before);
            assert!(length <= 3 * journal.tape().head, "{length}");
            before = length;
        }
        assert!((1..20).contains(&times), "{times}");
        drop(journal);
        let (_, found) = open(&path);
        let known = found.sockets.iter().find(|one| one.name == socket(7));
        assert_eq!(known.unwrap().remembered["key"], format!("{:0100}", 1_999));
        std::fs::remove_dir_all(folder).unwrap();
    }

    #[test]
    fn a_journal_of_a_form_before_is_read_and_what_is_written_says_another() {
        let folder = folder("journal-form");
        let path = folder.join("journal");
        let (journal, _) = open(&path);
        let socket = SocketAddress(Sid::from_bytes([1; 24]));
        journal.opened(socket, &Identity::default());
        drop(journal);
        let boot = std::fs::read_to_string(files::BOOT).unwrap();
        let head_of = |bytes: &mut &[u8]| match record::take(bytes) {
            Some(Record::Head(head)) => head,
            other => panic!("{other:?}"),
        };
        let bytes = std::fs::read(&path).unwrap();
        let mut rest = &bytes[..];
        let head = head_of(&mut rest);
        let written_now = format!("3 {boot}");
        assert_eq!(head.boot, written_now);
        let forms = [("", true), ("2 ", true), ("1 ", false), ("4 ", false)];
        for (boot, is_read) in forms.map(|(form, is_read)| (format!("{form}{boot}"), is_read)) {
            let mut before = Vec::new();
            let other = Head {
                boot,
                ..head.clone()
            };
            record::push(&Record::Head(other), &mut before);
            before.extend_from_slice(rest);
            std::fs::write(&path, before).unwrap();
            let (journal, found) = open(&path);
            assert_eq!(found.sockets.len(), usize::from(is_read));
            drop(journal);
            let again = std::fs::read(&path).unwrap();
            assert_eq!(head_of(&mut &again[..]).boot, written_now);
        }
        std::fs::remove_dir_all(folder).unwrap();
    }

    #[test]
    fn two_files_hold_what_is_newest_and_say_from_where_on() {
        let folder = folder("journal");
        let path = folder.join("journal");
        let (mut journal, found) = open(&path);
        assert_eq!((found.last, found.kept_from), (0, 0));
        let scope = ScopeRef {
            namespace: NamespaceId::ROOT,
            tenant: None,
            user: None,
        };
        let event = |id| Kept {
            id,
            offset: 0,
            at: Micros::ZERO,
            message: Message::new("e", &format!("\"{}\"", "x".repeat(1_000))),
            key: None,
            only: None,
        };
        let mut identity = journal.identity();
        for id in 1..=200 {
            journal.events(scope, &[event(id)]);
            // Killed at any moment: what is there is without a gap up to the last.
            if id % 7 != 0 {
                continue;
            }
            drop(journal);
            let (again, found) = open(&path);
            assert_eq!(again.identity(), identity);
            identity = again.identity();
            assert_eq!(found.last, id);
            let ids: Vec<u64> = found.events.iter().map(|(.., event)| event.id).collect();
            assert_eq!(ids, (found.kept_from.max(1)..=id).collect::<Vec<_>>());
            assert!(ids.len() >= 7 && ids.len() < 20, "{}", ids.len());
            journal = again;
        }
        std::fs::remove_dir_all(folder).unwrap();
    }
}
