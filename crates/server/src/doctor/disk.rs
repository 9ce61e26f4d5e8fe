//! Folders in which files are written: whether that is possible, how long it takes, and how much
//! room there is.

use std::fs::{self, OpenOptions};
use std::io::{self, Write as _};
use std::path::Path;
use std::time::{Duration, Instant};

use super::report::Check;

/// Bytes that are free below which a database may stop at any moment: its log alone may have so
/// many.
const FULL: u64 = 64 << 20;
/// And those below which it is time to do something.
const NEARLY_FULL: u64 = 1 << 30;
/// How many times something is written; the middle counts.
const WRITES: usize = 5;
/// From where on a disk is slow: a message is acknowledged when it is written.
const SLOW: Duration = Duration::from_millis(50);

/// What was found of a folder.
#[derive(Debug)]
struct Found {
    /// How long a small write takes until it is on the disk.
    write: io::Result<Duration>,
    /// Bytes that are free.
    free: Option<u64>,
}

/// Looks at a folder; `key` is the setting that names it. `without` is what comes of it where the
/// folder is not there for this user, if a node starts all the same.
pub(super) fn look(
    name: &'static str,
    key: &str,
    folder: &Path,
    without: Option<&str>,
) -> Vec<Check> {
    let found = Found {
        write: write(folder),
        free: free(folder),
    };
    judge(name, key, folder, &found, without)
}

/// Writes a file and removes it.
fn write(folder: &Path) -> io::Result<Duration> {
    let path = folder.join(format!(".heartline-doctor-{}", std::process::id()));
    let mut file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .open(&path)?;
    let mut times = Vec::with_capacity(WRITES);
    let mut written = Ok(());
    for _ in 0..WRITES {
        let start = Instant::now();
        written = file.write_all(&[0; 4096]).and_then(|()| file.sync_data());
        if written.is_err() {
            break;
        }
        times.push(start.elapsed());
    }
    let removed = fs::remove_file(&path);
    written.and(removed)?;
    times.sort_unstable();
    Ok(times[WRITES / 2])
}

#[cfg(unix)]
fn free(folder: &Path) -> Option<u64> {
    let found = rustix::fs::statvfs(folder).ok()?;
    Some(found.f_bavail.saturating_mul(found.f_frsize))
}

#[cfg(not(unix))]
fn free(_: &Path) -> Option<u64> {
    None
}

fn judge(
    name: &'static str,
    key: &str,
    folder: &Path,
    found: &Found,
    without: Option<&str>,
) -> Vec<Check> {
    let path = folder.display();
    let write = match &found.write {
        Ok(write) => *write,
        Err(error) => {
            let todo = match error.kind() {
                io::ErrorKind::NotFound => format!("mkdir -p {path}, for the node's user"),
                io::ErrorKind::PermissionDenied => {
                    format!("chown the folder to the node's user: ls -ld {path}")
                }
                io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
                    format!("make room: df -h {path}")
                }
                _ => format!("see what is wrong with it: ls -ld {path}; df -h {path}"),
            };
            let found = format!("nothing can be written in {path} ({key}): {error}");
            // On a full disk a database that is there is opened, and fails.
            let is_full = matches!(
                error.kind(),
                io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded
            );
            return vec![match without.filter(|_| !is_full) {
                Some(without) => Check::warning(name, format!("{found}; {without}"), Some(todo)),
                None => Check::problem(name, found, Some(todo)),
            }];
        }
    };
    let took = write.as_secs_f64() * 1e3;
    let mut checks = Vec::new();
    if write > SLOW {
        let found = format!("a write takes {took:.0} ms in {path} ({key}), and so does a message");
        let todo = format!("put it on a faster disk; df {path} says which it is on");
        checks.push(Check::warning(name, found, Some(todo)));
    }
    let room = |free: u64| format!("{} MB are free in {path} ({key})", free >> 20);
    let todo = || Some(format!("make room: df -h {path}"));
    match found.free {
        Some(free) if free < FULL => checks.push(Check::problem(name, room(free), todo())),
        Some(free) if free < NEARLY_FULL => checks.push(Check::warning(name, room(free), todo())),
        _ => {}
    }
    if checks.is_empty() {
        let free = found
            .free
            .map(|free| format!(", {:.0} GB are free", free as f64 / 1e9));
        let free = free.unwrap_or_default();
        let found = format!("{path} can be written ({key}): a write takes {took:.1} ms{free}");
        checks.push(Check::ok(name, found));
    }
    checks
}

#[cfg(test)]
mod tests {
    use super::super::report::Status;
    use super::*;

    fn statuses(write: io::Result<Duration>, free: Option<u64>) -> Vec<Status> {
        let found = Found { write, free };
        let checks = judge("store", "store.url", Path::new("/data"), &found, None);
        checks.into_iter().map(|check| check.status).collect()
    }

    #[test]
    fn a_folder_is_judged_by_its_speed_and_its_room() {
        let quick = || Ok(Duration::from_millis(2));
        assert_eq!(statuses(quick(), Some(100 << 30)), [Status::Ok]);
        assert_eq!(statuses(quick(), None), [Status::Ok]);
        assert_eq!(statuses(quick(), Some(NEARLY_FULL - 1)), [Status::Warning]);
        assert_eq!(statuses(quick(), Some(FULL - 1)), [Status::Problem]);
        let slow = Ok(Duration::from_millis(51));
        assert_eq!(
            statuses(slow, Some(FULL - 1)),
            [Status::Warning, Status::Problem]
        );
        let refused = Err(io::ErrorKind::PermissionDenied.into());
        assert_eq!(statuses(refused, None), [Status::Problem]);
    }

    #[test]
    fn what_a_node_can_do_without_is_no_problem() {
        let judged = |error: io::ErrorKind| {
            let found = Found {
                write: Err(error.into()),
                free: None,
            };
            let without = Some("so it is otherwise");
            judge("store", "store.url", Path::new("/data"), &found, without).remove(0)
        };
        for kind in [
            io::ErrorKind::PermissionDenied,
            io::ErrorKind::ReadOnlyFilesystem,
        ] {
            let check = judged(kind);
            assert_eq!(check.status, Status::Warning);
            assert!(check.found.ends_with("so it is otherwise"), "{check:?}");
        }
        assert_eq!(judged(io::ErrorKind::StorageFull).status, Status::Problem);
    }

    #[test]
    fn a_folder_is_left_as_it_was() {
        let folder = std::env::temp_dir().join(format!("heartline-doctor-{}", std::process::id()));
        fs::create_dir(&folder).unwrap();
        let checks = look("store", "store.url", &folder, None);
        assert_eq!(fs::read_dir(&folder).unwrap().count(), 0);
        assert_ne!(checks[0].status, Status::Problem, "{checks:?}");
        fs::remove_dir(&folder).unwrap();
        let gone = look("store", "store.url", &folder, None);
        assert_eq!(gone[0].status, Status::Problem);
        assert!(gone[0].todo.as_ref().unwrap().starts_with("mkdir -p"));
    }
}
