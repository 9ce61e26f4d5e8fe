//! The file: who may have it open, how it is opened, and which tables it has.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use rusqlite::config::DbConfig;
use rusqlite::{Connection, ErrorCode, OpenFlags, TransactionBehavior};

use crate::error::OpenError;
use crate::look::Looked;

/// The tables, step by step, in the order of their numbers.
const MIGRATIONS: &[(i64, &str)] = &[
    (1, include_str!("migrations/0001.sql")),
    (2, include_str!("migrations/0002.sql")),
    (3, include_str!("migrations/0003.sql")),
    (10, include_str!("migrations/0010.sql")),
    (11, include_str!("migrations/0011.sql")),
    (20, include_str!("migrations/0020.sql")),
    (21, include_str!("migrations/0021.sql")),
];

/// How long a start waits for a stranger that has the file locked.
const PATIENCE: Duration = Duration::from_secs(5);

/// How much of the log is written anew at a time, bytes.
const PIECE: usize = 1 << 20;

/// A database that no other gateway has open.
pub(crate) struct Database {
    path: PathBuf,
    /// Locked for as long as it is open.
    _lock: File,
}

impl Database {
    /// Makes the file if there is none, and takes its lock.
    pub(crate) fn claim(path: &Path) -> Result<Database, OpenError> {
        let failed = |what: &str, error: io::Error| {
            OpenError::refused(format!("the database {} {what}: {error}", path.display()))
        };
        let file = private().open(path);
        drop(file.map_err(|error| failed("cannot be opened", error))?);
        // Two names of one file have one lock.
        let path = path
            .canonicalize()
            .map_err(|error| failed("cannot be found", error))?;
        let file = private().open(lock_of(&path));
        let file = file.map_err(|error| failed("cannot be locked", error))?;
        match file.try_lock() {
            Ok(()) => {
                let database = Database { path, _lock: file };
                database.settle()?;
                Ok(database)
            }
            Err(TryLockError::WouldBlock) => Err(OpenError::refused(format!(
                "the database {} is in use by another gateway: one process has it at a time",
                path.display()
            ))),
            Err(TryLockError::Error(error)) => Err(failed("cannot be locked", error)),
        }
    }

    /// Has the log on the disk as it is read. Whoever had it before may have been told that a
    /// sync failed: what the disk did not take then is still read, but counts as written, and no
    /// later sync writes it. So it is written anew, byte for byte; nobody may have it open.
    ///
    /// # Errors
    /// When the disk does not take it.
    pub(crate) fn settle(&self) -> Result<(), OpenError> {
        let log = beside(&self.path, "-wal");
        rewrite(&log).map_err(|error| {
            let log = log.display();
            OpenError::refused(format!(
                "the database's log {log} cannot be synced: {error}"
            ))
        })
    }

    /// The file, as logs name it.
    pub(crate) fn path(&self) -> std::path::Display<'_> {
        self.path.display()
    }

    /// The connection that writes, with all tables.
    pub(crate) fn writer(&self) -> Result<Connection, OpenError> {
        let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let opened = Connection::open_with_flags(&self.path, flags).and_then(|mut connection| {
            connection.busy_timeout(PATIENCE)?;
            prepare(&connection)?;
            let known = migrate(&mut connection)?;
            connection.busy_timeout(Duration::ZERO)?;
            Ok((connection, known))
        });
        match opened {
            Ok((connection, Ok(()))) => Ok(connection),
            Ok((_, Err(what))) => Err(OpenError::of(format!(
                "the database {} {what}",
                self.path.display()
            ))),
            Err(error) => Err(self.unusable(&error)),
        }
    }

    /// A connection that can only read.
    pub(crate) fn reader(&self) -> Result<Connection, OpenError> {
        let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let opened = Connection::open_with_flags(&self.path, flags).and_then(|connection| {
            connection.busy_timeout(PATIENCE)?;
            connection.execute_batch("PRAGMA query_only = 1; PRAGMA temp_store = MEMORY")?;
            leave_the_log(&connection)?;
            Ok(connection)
        });
        opened.map_err(|error| self.unusable(&error))
    }

    pub(crate) fn unusable(&self, error: &rusqlite::Error) -> OpenError {
        unusable(&self.path, error)
    }
}

fn unusable(path: &Path, error: &rusqlite::Error) -> OpenError {
    let path = path.display();
    OpenError::of(match is_damaged(error) {
        true => format!(
            "the database {path} is damaged, or is not a database ({error}): nothing was changed. \
             Keep a copy of it together with {path}-wal, and put a good one in its place, or set \
             store.url to another file"
        ),
        false => format!("the database {path} cannot be used: {error}"),
    })
}

/// Has the log left as it is when the connection is closed, also as the last one.
pub(crate) fn leave_the_log(connection: &Connection) -> rusqlite::Result<()> {
    let no_checkpoint = DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE;
    connection.set_db_config(no_checkpoint, true).map(drop)
}

/// Writes a file's own bytes into it, and syncs it. A file that is not there is as it should be.
fn rewrite(path: &Path) -> io::Result<()> {
    let mut file = match OpenOptions::new().read(true).write(true).open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error),
    };
    let (mut piece, mut at) = (vec![0; PIECE], 0);
    loop {
        file.seek(SeekFrom::Start(at))?;
        let count = file.read(&mut piece)?;
        if count == 0 {
            return if at == 0 { Ok(()) } else { file.sync_all() };
        }
        file.seek(SeekFrom::Start(at))?;
        file.write_all(&piece[..count])?;
        at += count as u64;
    }
}

/// Files that others have no business with.
fn private() -> OpenOptions {
    let mut options = OpenOptions::new();
    options.read(true).write(true).create(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    options
}

/// Whether the file itself is bad: it is written to no more.
pub(crate) fn is_damaged(error: &rusqlite::Error) -> bool {
    let code = error.sqlite_error_code();
    matches!(
        code,
        Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase)
    )
}

/// A commit is on the disk when it is done. The writer checkpoints by itself, between two
/// transactions: nobody else does.
fn prepare(connection: &Connection) -> rusqlite::Result<()> {
    connection.execute_batch(
        "PRAGMA journal_mode = WAL;
         PRAGMA synchronous = FULL;
         PRAGMA temp_store = MEMORY;
         PRAGMA cache_size = -32000;
         PRAGMA wal_autocheckpoint = 0;
         PRAGMA journal_size_limit = 67108864;",
    )
}

/// The version of the tables that this program makes.
fn known() -> i64 {
    MIGRATIONS.last().map_or(0, |(number, _)| *number)
}

/// The version of the tables that are there, 0 without any; or why they are no use.
fn version(connection: &Connection) -> rusqlite::Result<Result<i64, String>> {
    let count = |sql: &str| connection.query_row(sql, [], |row| row.get::<_, i64>(0));
    let tables = count("SELECT count(*) FROM sqlite_schema WHERE type = 'table'")?;
    let own = count("SELECT count(*) FROM sqlite_schema WHERE name = 'migration'")?;
    if own == 0 {
        return Ok(match tables {
            0 => Ok(0),
            _ => Err("is another program's: set store.url to another file".into()),
        });
    }
    let version = count("SELECT ifnull(max(version), 0) FROM migration")?;
    let known = known();
    Ok(match version > known {
        true => Err(format!(
            "has tables of a newer Heartline (schema {version}, and this one knows {known}): run \
             that version, or set store.url to another file"
        )),
        false => Ok(version),
    })
}

/// The file that says by its lock whether a gateway has the database open.
fn lock_of(path: &Path) -> PathBuf {
    beside(path, ".lock")
}

/// A file beside another, whose name goes on so.
fn beside(path: &Path, more: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(more);
    name.into()
}

/// Looks at a file without changing anything; a gateway may have it open.
pub(crate) fn look(path: &Path) -> Result<Looked, OpenError> {
    let mut looked = Looked {
        known: known(),
        what: Some(format!("SQLite {}", rusqlite::version())),
        ..Looked::default()
    };
    if !path.exists() {
        return Ok(looked);
    }
    let path = path.canonicalize().unwrap_or_else(|_| path.to_owned());
    if let Err(error) = File::open(&path) {
        let path = path.display();
        let what = format!("the database {path} cannot be opened: {error}");
        return Err(OpenError::refused(what));
    }
    if let Ok(lock) = File::open(lock_of(&path)) {
        looked.is_in_use = matches!(lock.try_lock(), Err(TryLockError::WouldBlock));
    }
    let database = |what: String| OpenError::of(format!("the database {} {what}", path.display()));
    let log = beside(&path, "-wal");
    // A file that nobody has open, and whose log is in it, is read as it is: otherwise even who
    // reads leaves files beside it.
    let is_whole = !looked.is_in_use && !log.exists();
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let opened = match (is_whole, path.to_str()) {
        (true, Some(text)) => {
            let quoted = text
                .replace('%', "%25")
                .replace('?', "%3f")
                .replace('#', "%23");
            let url = format!("file:{quoted}?immutable=1");
            Connection::open_with_flags(url, flags | OpenFlags::SQLITE_OPEN_URI)
        }
        _ => Connection::open_with_flags(&path, flags),
    };
    let found = opened.and_then(|connection| {
        connection.busy_timeout(PATIENCE)?;
        version(&connection)
    });
    match found {
        Ok(Ok(version)) => Ok(Looked { version, ..looked }),
        Ok(Err(what)) => Err(database(what)),
        Err(error) => Err(unusable(&path, &error)),
    }
}

/// Brings the tables to what this version knows; or says why it cannot.
fn migrate(connection: &mut Connection) -> rusqlite::Result<Result<(), String>> {
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    if let Err(what) = version(&transaction)? {
        return Ok(Err(what));
    }
    transaction.execute_batch(
        "CREATE TABLE IF NOT EXISTS migration (version INTEGER PRIMARY KEY, at INTEGER NOT NULL) \
         STRICT",
    )?;
    for (number, sql) in MIGRATIONS {
        let done = "INSERT OR IGNORE INTO migration (version, at) VALUES (?1, unixepoch() * 1000)";
        if transaction.execute(done, [number])? > 0 {
            transaction.execute_batch(sql)?;
        }
    }
    transaction.commit()?;
    Ok(Ok(()))
}
