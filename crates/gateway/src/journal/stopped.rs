//! What a gateway that was stopped in good order leaves to the next: a file that is read once.
//!
//! It has the records of a journal, and is either whole or nothing: a digest is its end.

use std::fs::{self, File, TryLockError};
use std::io;
use std::path::{Path, PathBuf};

use heartline_core::line::ring::{Kept, Ring};
use ring::digest::{SHA256, SHA256_OUTPUT_LEN, digest};

use super::files::{head_of, replace};
use super::found::{Found, Place, event_found, event_record};
use super::known::{Size, State};
use super::record::{self, Head, Record};

/// What such a file is of, instead of a start of the machine. Another form has another number.
const MARK: &str = "heartline stopped 2";
/// The form before, which says nothing of who was online.
const MARK_BEFORE: &str = "heartline stopped 1";

const SIZE: Size = Size {
    // So many bytes of events are left to the next process, the newest.
    segment: 64 << 20,
    // What is too old has gone in memory.
    age: u64::MAX,
    // Until when users are expected is known of each.
    wait: 0,
    // They are told apart by who leaves it.
    tells_rooms: Vec::new(),
};

/// The epoch and the secret with which the next process goes on.
pub(crate) type Identity = (u32, [u8; 32]);

impl Found {
    /// Takes in what is kept of a place. `at` says when an event was said, Unix milliseconds.
    pub(crate) fn take_ring(&mut self, place: &Place, ring: &Ring, at: impl Fn(&Kept) -> u64) {
        let events = ring.between(0, u64::MAX);
        let events = events.map(|event| (place.clone(), at(event), Kept::clone(event)));
        self.events.extend(events);
        if ring.dropped() > 0 {
            self.dropped.push((place.clone(), ring.dropped()));
        }
    }
}

/// Where this gateway alone leaves a file: of several that run in one directory, the first to
/// start. Another one's stop would take from the next process what this one has left to it.
#[derive(Debug)]
pub(crate) struct Spot {
    path: PathBuf,
    /// The directory, locked for as long as the process lives.
    _directory: File,
}

impl Spot {
    /// Takes the directory of a file; `None`: another gateway has it.
    ///
    /// # Errors
    /// There is no such directory, or it cannot be locked.
    pub(crate) fn claim(path: &Path) -> io::Result<Option<Spot>> {
        let parent = path.parent().filter(|path| !path.as_os_str().is_empty());
        let directory = File::open(parent.unwrap_or(Path::new(".")))?;
        match directory.try_lock() {
            Ok(()) => Ok(Some(Spot {
                path: path.to_owned(),
                _directory: directory,
            })),
            Err(TryLockError::WouldBlock) => Ok(None),
            Err(TryLockError::Error(error)) => Err(error),
        }
    }

    /// The file.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }
}

/// Leaves a file, which nobody else may read.
///
/// # Errors
/// It cannot be written.
pub(crate) fn write(
    path: &Path,
    namespaces: String,
    (epoch, secret): Identity,
    mut found: Found,
) -> io::Result<()> {
    let mut state = State::new(&SIZE);
    let sockets = std::mem::take(&mut found.sockets).into_iter();
    state.lost = found.lost;
    state.sockets = sockets.map(|known| (known.name, known)).collect();
    state.rooms = std::mem::take(&mut found.rooms).into_iter().collect();
    state.users = std::mem::take(&mut found.users);
    found.events.sort_by_key(|(.., event)| event.id);
    for (place, at, event) in &found.events {
        state.apply(&event_record(place.clone().into(), *at, event));
    }
    let events = found.forget_old(&SIZE, 0);
    let head = Head {
        boot: MARK.into(),
        namespaces,
        epoch,
        secret,
        own_from: found.kept_from.max(1),
    };
    let mut bytes = head_of(&head, &state);
    for (place, id) in found.dropped {
        let (to, place) = (place.into(), id);
        record::push(&Record::Dropped { to, place }, &mut bytes);
    }
    let last = Record::Last { place: found.last };
    record::push(&last, &mut bytes);
    bytes.extend(events);
    let end = digest(&SHA256, &bytes);
    bytes.extend_from_slice(end.as_ref());
    replace(path, &bytes)?.sync_all()
}

/// Takes what an earlier process has left; `None`: nothing. It is there once: nobody may go on
/// from it when somebody else has.
///
/// # Errors
/// What is wrong with the file.
pub(crate) fn take(path: &Path, namespaces: &str) -> Result<Option<(Identity, Found)>, String> {
    let bytes = match fs::read(path) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error.to_string()),
    };
    let damaged = || "it is damaged, or another program's".to_owned();
    let end = bytes.len().checked_sub(SHA256_OUTPUT_LEN);
    let (mut rest, end) = bytes.split_at(end.ok_or_else(damaged)?);
    if digest(&SHA256, rest).as_ref() != end {
        return Err(damaged());
    }
    let Some(Record::Head(head)) = record::take(&mut rest) else {
        return Err(damaged());
    };
    fs::remove_file(path).map_err(|error| error.to_string())?;
    if ![MARK, MARK_BEFORE].contains(&&*head.boot) {
        return Err("another version has written it".into());
    }
    if head.namespaces != namespaces {
        return Err("the gateway that has written it had other namespaces".into());
    }
    let mut state = State::new(&SIZE);
    let mut found = Found {
        kept_from: head.own_from,
        ..Found::default()
    };
    while !rest.is_empty() {
        let record = record::take(&mut rest).ok_or_else(damaged)?;
        state.apply(&record);
        found.last = found.last.max(record.place());
        match record {
            Record::Event(event) if event.id >= head.own_from => {
                found.events.push(event_found(*event));
            }
            Record::Dropped { to, place } => found.dropped.push((to.into(), place)),
            _ => {}
        }
    }
    found.take_in(&state);
    Ok(Some(((head.epoch, head.secret), found)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_several_gateways_in_a_directory_one_leaves_a_file() {
        let name = format!("heartline-spot-{}", std::process::id());
        let home = std::env::temp_dir().join(name);
        fs::create_dir_all(&home).unwrap();
        let path = home.join("heartline.resume");
        let first = Spot::claim(&path).unwrap();
        assert_eq!(first.as_ref().map(Spot::path), Some(&*path));
        assert!(Spot::claim(&path).unwrap().is_none());
        drop(first);
        assert!(Spot::claim(&path).unwrap().is_some());
        assert_eq!(fs::read_dir(&home).unwrap().count(), 0);
        fs::remove_dir(&home).unwrap();
        assert!(Spot::claim(&path).is_err());
    }

    #[test]
    fn a_file_is_whole_or_nothing_and_there_once() {
        let name = format!("heartline-stopped-{}", std::process::id());
        let path = std::env::temp_dir().join(name);
        let found = Found {
            last: 300,
            ..Found::default()
        };
        write(&path, "/ /chat".into(), (7, [3; 32]), found).unwrap();
        let bytes = fs::read(&path).unwrap();
        for at in 0..bytes.len() {
            let mut changed = bytes.clone();
            changed[at] ^= 1;
            for damaged in [&changed[..], &bytes[..at]] {
                fs::write(&path, damaged).unwrap();
                assert!(take(&path, "/ /chat").is_err(), "{at}");
            }
        }
        fs::write(&path, &bytes).unwrap();
        let (identity, found) = take(&path, "/ /chat").unwrap().unwrap();
        assert_eq!((identity, found.last), ((7, [3; 32]), 300));
        assert!(take(&path, "/ /chat").unwrap().is_none());
    }
}
