//! Where messages are kept.

use super::ports::Running;
use super::report::Check;
use crate::config::{Settings, StoreUrl};

const NAME: &str = "store";

/// Whether somebody has named the file. A node that cannot have the usual one serves all the same.
#[cfg(feature = "sqlite")]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Wanted {
    Named,
    Usual,
}

/// What becomes of messages where the usual file cannot be had.
#[cfg(feature = "sqlite")]
const IN_MEMORY: &str = "so messages would be in memory";

/// The checks, and how far the clock of PostgreSQL is ahead, milliseconds.
pub(super) async fn look(
    settings: &Settings,
    running: Option<Running>,
) -> (Vec<Check>, Option<i64>) {
    let checks = match &settings.store {
        StoreUrl::Memory => {
            // Without a database in this build.
            let _ = running;
            let found = "messages are in memory, until the node ends (store.url)";
            vec![Check::ok(NAME, found)]
        }
        #[cfg(feature = "postgres")]
        StoreUrl::Postgres(url) => return database::postgres(url).await,
        #[cfg(feature = "sqlite")]
        StoreUrl::Sqlite(path) => database::sqlite(path, running, Wanted::Named),
        #[cfg(feature = "sqlite")]
        StoreUrl::Usual(path) => database::sqlite(path, running, Wanted::Usual),
    };
    (checks, None)
}

#[cfg(any(feature = "postgres", feature = "sqlite"))]
mod database {
    #[cfg(feature = "postgres")]
    use std::time::Duration;

    use heartline_store::Looked;

    #[cfg(feature = "sqlite")]
    use super::super::ports::Running;
    use super::{Check, NAME};
    #[cfg(feature = "sqlite")]
    use super::{IN_MEMORY, Wanted};

    /// From where on the way to a database is long: a message is acknowledged when it is there.
    #[cfg(feature = "postgres")]
    const FAR: Duration = Duration::from_millis(20);

    /// The version of the tables, in words.
    fn tables(looked: &Looked) -> String {
        match (looked.version, looked.known) {
            (0, known) => format!("a start makes its tables (schema {known})"),
            (version, known) if version == known => format!("schema {version}"),
            (version, known) => format!("a start brings schema {version} to {known}"),
        }
    }

    #[cfg(feature = "postgres")]
    pub(super) async fn postgres(url: &heartline_store::PostgresUrl) -> (Vec<Check>, Option<i64>) {
        match heartline_store::PostgresStore::look(url).await {
            Ok(looked) => (judge_postgres(&looked), looked.ahead),
            Err(error) => {
                let todo =
                    format!("psql '{url}' -c 'SELECT 1', with the password, on this machine");
                (
                    vec![Check::problem(NAME, error.to_string(), Some(todo))],
                    None,
                )
            }
        }
    }

    #[cfg(feature = "postgres")]
    fn judge_postgres(looked: &Looked) -> Vec<Check> {
        let what = looked.what.as_deref().unwrap_or("PostgreSQL");
        let round_trip = looked.round_trip.unwrap_or_default();
        let took = round_trip.as_secs_f64() * 1e3;
        let found = format!("{what} answers in {took:.1} ms; {}", tables(looked));
        let mut checks = vec![match round_trip > FAR {
            true => Check::warning(
                NAME,
                format!("{found}: a message waits for it"),
                Some("put the nodes and the database into one place".into()),
            ),
            false => Check::ok(NAME, found),
        }];
        checks.extend(looked.warnings.iter().map(|what| {
            let todo = "ALTER SYSTEM SET fsync = on, or synchronous_commit = on; then SELECT \
                        pg_reload_conf()";
            Check::warning(NAME, what, Some(todo.into()))
        }));
        checks
    }

    #[cfg(feature = "sqlite")]
    pub(super) fn sqlite(
        path: &std::path::Path,
        running: Option<Running>,
        wanted: Wanted,
    ) -> Vec<Check> {
        let looked = match heartline_store::SqliteStore::look(path) {
            Ok(looked) => looked,
            Err(error) if error.is_refused() => {
                let todo = "let the node's user have it, or set store.url";
                return vec![refused(wanted, error.to_string(), todo.into())];
            }
            Err(error) => return vec![Check::problem(NAME, error.to_string(), None)],
        };
        let holder = looked.is_in_use.then(|| holder(path)).flatten();
        let shown = path.display().to_string();
        let mut checks = vec![judge_sqlite(&shown, &looked, holder, running, wanted)];
        let folder = path.canonicalize().unwrap_or_else(|_| path.to_owned());
        let folder = super::super::folder_of(&folder);
        let without = (wanted == Wanted::Usual).then_some(IN_MEMORY);
        checks.extend(super::super::disk::look(
            NAME,
            "store.url",
            &folder,
            without,
        ));
        checks
    }

    /// A file that a node would not get.
    #[cfg(feature = "sqlite")]
    fn refused(wanted: Wanted, found: String, todo: String) -> Check {
        match wanted {
            Wanted::Named => Check::problem(NAME, found, Some(todo)),
            Wanted::Usual => Check::warning(NAME, format!("{found}; {IN_MEMORY}"), Some(todo)),
        }
    }

    #[cfg(feature = "sqlite")]
    fn judge_sqlite(
        path: &str,
        looked: &Looked,
        holder: Option<u32>,
        running: Option<Running>,
        wanted: Wanted,
    ) -> Check {
        let what = looked.what.as_deref().unwrap_or("SQLite");
        let found = format!("{path} ({what}): {}", tables(looked));
        if !looked.is_in_use {
            return Check::ok(NAME, found);
        }
        let who = holder.map_or(String::new(), |pid| format!(", process {pid}"));
        // The node that has the ports has its file too.
        let is_own = match (holder, running) {
            (Some(holder), Some(running)) => holder == running.pid,
            (None, Some(_)) => true,
            (_, None) => false,
        };
        match is_own {
            true => Check::ok(NAME, format!("{found}; the running node has it open{who}")),
            false => {
                let stop = holder.map_or(String::new(), |pid| format!("kill {pid}, "));
                refused(
                    wanted,
                    format!("{found}; another gateway has it open{who}, and one has it at a time"),
                    format!("stop that: {stop}or set store.url to another file"),
                )
            }
        }
    }

    /// The process that has the lock of a database, if the kernel says it (proc(5), /proc/locks).
    #[cfg(all(feature = "sqlite", unix))]
    fn holder(path: &std::path::Path) -> Option<u32> {
        use std::os::unix::fs::MetadataExt as _;
        let mut lock = path.canonicalize().ok()?.into_os_string();
        lock.push(".lock");
        let inode = std::fs::metadata(lock).ok()?.ino();
        holder_in(&std::fs::read_to_string("/proc/locks").ok()?, inode)
    }

    #[cfg(all(feature = "sqlite", not(unix)))]
    fn holder(_: &std::path::Path) -> Option<u32> {
        None
    }

    #[cfg(all(feature = "sqlite", unix))]
    fn holder_in(locks: &str, inode: u64) -> Option<u32> {
        let end = format!(":{inode}");
        locks.lines().find_map(|line| {
            let fields: Vec<&str> = line.split_whitespace().collect();
            let [_, "FLOCK", _, _, pid, file, ..] = fields[..] else {
                return None;
            };
            file.ends_with(&end).then(|| pid.parse().ok())?
        })
    }

    #[cfg(all(test, feature = "sqlite"))]
    mod tests {
        use super::super::super::report::Status;
        use super::*;

        #[test]
        #[cfg(unix)]
        fn the_process_that_has_a_file_is_read_from_what_the_kernel_says() {
            let locks = "1: POSIX  ADVISORY  WRITE 12 08:01:99 0 EOF\n\
                         2: FLOCK  ADVISORY  WRITE 4711 08:01:1099 0 EOF\n\
                         2: -> FLOCK  ADVISORY  WRITE 4712 08:01:1099 0 EOF\n";
            assert_eq!(holder_in(locks, 1099), Some(4711));
            assert_eq!(holder_in(locks, 99), None);
        }

        #[test]
        fn a_file_that_another_gateway_has_is_a_problem_and_ones_own_is_not() {
            let looked = |version, is_in_use| Looked {
                version,
                known: 20,
                is_in_use,
                ..Looked::default()
            };
            let running = |pid| Some(Running { pid });
            for (looked, holder, running, expected) in [
                (looked(0, false), None, None, Status::Ok),
                (looked(3, false), None, None, Status::Ok),
                (looked(20, true), Some(7), running(7), Status::Ok),
                (looked(20, true), None, running(7), Status::Ok),
                (looked(20, true), Some(8), running(7), Status::Problem),
                (looked(20, true), None, None, Status::Problem),
            ] {
                let check = judge_sqlite("x.db", &looked, holder, running, Wanted::Named);
                assert_eq!(check.status, expected, "{check:?}");
                let usual = judge_sqlite("x.db", &looked, holder, running, Wanted::Usual);
                match expected {
                    Status::Problem => {
                        assert_eq!(usual.status, Status::Warning, "{usual:?}");
                        assert!(usual.found.ends_with(IN_MEMORY), "{usual:?}");
                    }
                    _ => assert_eq!(usual, check),
                }
            }
        }

        #[test]
        fn a_file_in_a_folder_that_is_not_there_is_wanted_by_who_named_it() {
            let path = std::path::Path::new("/there/is/none.db");
            let last = |wanted| sqlite(path, None, wanted).pop().unwrap();
            assert_eq!(last(Wanted::Named).status, Status::Problem);
            let usual = last(Wanted::Usual);
            assert_eq!(usual.status, Status::Warning, "{usual:?}");
            assert!(usual.found.ends_with(IN_MEMORY), "{usual:?}");
        }

        #[test]
        #[cfg(feature = "postgres")]
        fn a_database_that_is_far_or_forgets_is_warned_of() {
            let mut looked = Looked {
                version: 3,
                known: 3,
                round_trip: Some(Duration::from_millis(1)),
                ..Looked::default()
            };
            assert_eq!(judge_postgres(&looked)[0].status, Status::Ok);
            looked.round_trip = Some(Duration::from_millis(21));
            looked.warnings.push("PostgreSQL has fsync = off".into());
            let checks = judge_postgres(&looked);
            assert!(checks.iter().all(|check| check.status == Status::Warning));
        }
    }
}
