//! The two files: where they are, what each begins with, how one takes the place of the other,
//! and what is read of them at a start.

use std::fs::{File, OpenOptions};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

use super::found::{Found, event_found};
use super::known::{Size, State};
use super::record::{self, Head, Record};

/// Which start of the machine this is.
pub(super) const BOOT: &str = "/proc/sys/kernel/random/boot_id";

/// The form of the records, before the start of the machine: a build that does not know it begins
/// anew.
const FORM: &str = "3 ";
/// The forms before, which are read. The second says nothing of tokens that were renewed; the first
/// nothing of who was online either, and has no number.
const FORMS_BEFORE: [&str; 2] = ["2 ", ""];

/// The file before this one.
fn older(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".1");
    name.into()
}

/// Files that nobody else may read.
fn private() -> OpenOptions {
    let mut options = OpenOptions::new();
    options.read(true).write(true).create(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    options
}

/// Which start of the machine this is, behind the form of the records; empty if it does not say.
pub(super) fn boot() -> String {
    let boot = std::fs::read_to_string(BOOT).unwrap_or_default();
    match boot.is_empty() {
        true => boot,
        false => format!("{FORM}{boot}"),
    }
}

/// Holds the journal for this process, until the file that it answers is closed.
///
/// # Errors
/// The file cannot be opened, or another process holds it.
pub(super) fn lock(path: &Path) -> io::Result<File> {
    let mut name = path.as_os_str().to_owned();
    name.push(".lock");
    let lock = private().open(name)?;
    lock.try_lock()
        .map_err(|_| io::Error::other("another gateway has it open"))?;
    Ok(lock)
}

/// What a file begins with: its head, and all that is known.
pub(super) fn head_of(head: &Head, state: &State) -> Vec<u8> {
    let mut begin = Vec::new();
    record::push(&Record::Head(head.clone()), &mut begin);
    for record in state.records(head.own_from) {
        record::push(&record, &mut begin);
    }
    begin
}

/// Puts a new file in the place of another, at once and with this in it.
///
/// # Errors
/// It cannot be written, or not renamed.
pub(super) fn replace(path: &Path, begin: &[u8]) -> io::Result<File> {
    let mut name = path.as_os_str().to_owned();
    name.push(".new");
    let name = PathBuf::from(name);
    let mut file = private().truncate(true).open(&name)?;
    file.write_all(begin)?;
    std::fs::rename(&name, path)?;
    Ok(file)
}

/// Makes the file the older one and begins a new one with this.
///
/// # Errors
/// The file cannot be renamed, or the new one not be written.
pub(super) fn turn_over(path: &Path, begin: &[u8]) -> io::Result<File> {
    std::fs::rename(path, older(path))?;
    replace(path, begin)
}

/// Removes the older file: what is still needed of it is in the newer one.
pub(super) fn remove_older(path: &Path) {
    let _ = std::fs::remove_file(older(path));
}

/// Removes both files.
pub(super) fn remove(path: &Path) {
    let _ = std::fs::remove_file(path);
    remove_older(path);
}

/// Reads both files; `None` if there is nothing that this gateway can go on with.
pub(super) fn read(path: &Path, expected: &Head, size: &Size) -> Option<(Head, State, Found)> {
    let usable = |file: &Path| {
        let bytes = std::fs::read(file).ok()?;
        let mut rest = &bytes[..];
        let Some(Record::Head(head)) = record::take(&mut rest) else {
            return None;
        };
        let boot = expected.boot.strip_prefix(FORM);
        let is_before = |boot| {
            let mut forms = FORMS_BEFORE.iter();
            forms.any(|form| head.boot.strip_prefix(*form) == Some(boot))
        };
        let is_of_this_start = head.boot == expected.boot || boot.is_some_and(is_before);
        let fits =
            is_of_this_start && !head.boot.is_empty() && head.namespaces == expected.namespaces;
        let begin = bytes.len() - rest.len();
        fits.then_some((head, bytes, begin))
    };
    let newer = usable(path);
    let mut before = usable(&older(path));
    if let (Some((newer, ..)), Some((older, ..))) = (&newer, &before) {
        let goes_on = older.epoch == newer.epoch && older.own_from < newer.own_from;
        before = before.filter(|_| goes_on);
    }
    let kept_from = before.iter().chain(&newer).next()?.0.own_from;
    let (mut state, mut found) = (State::new(size), Found::default());
    let mut last = None;
    for (head, bytes, begin) in before.into_iter().chain(newer) {
        // Each begins with all that is known.
        state = State::new(size);
        let mut rest = &bytes[begin..];
        while let Some(record) = record::take(&mut rest) {
            state.apply(&record);
            found.last = found.last.max(record.place());
            // Before these there is only what is newest of its key.
            if let Record::Event(event) = record
                && event.id >= head.own_from
            {
                found.events.push(event_found(*event));
            }
        }
        found.last = found.last.max(head.own_from - 1);
        last = Some(head);
    }
    found.kept_from = kept_from;
    last.map(|head| (head, state, found))
}
