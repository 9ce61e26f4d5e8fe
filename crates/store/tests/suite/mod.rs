//! The stores that every test of a suite is run on.

#![allow(dead_code, reason = "each suite uses what it needs")]

use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::{Duration, Instant};

use heartline_core::store::MessageStore;
use heartline_core::store::memory::MemoryStore;
use heartline_store::SqliteStore;
use tokio::runtime::Handle;

#[path = "../support/mod.rs"]
mod support;

use support::Server;

/// A store that goes on where another process ended.
pub(crate) enum Kept {
    /// A file in this folder.
    Sqlite(PathBuf),
    Postgres(Arc<Server>),
}

impl Kept {
    fn sqlite() -> Kept {
        static NUMBER: AtomicU64 = AtomicU64::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let name = format!("heartline-suite-{}-{number}", std::process::id());
        let folder = std::env::temp_dir().join(name);
        std::fs::create_dir(&folder).unwrap();
        Kept::Sqlite(folder)
    }

    /// Opens it; the one before is let go of within ten seconds.
    pub(crate) fn open(&self) -> Arc<dyn MessageStore> {
        let folder = match self {
            Kept::Sqlite(folder) => folder,
            Kept::Postgres(server) => {
                let opens = || Handle::current().block_on(server.open_locally());
                return Arc::new(tokio::task::block_in_place(opens));
            }
        };
        let until = Instant::now() + Duration::from_secs(60);
        loop {
            match SqliteStore::open(&folder.join("heartline.db")) {
                Ok(store) => return Arc::new(store),
                Err(error) => assert!(Instant::now() < until, "{error}"),
            }
            std::thread::yield_now();
        }
    }
}

impl Drop for Kept {
    fn drop(&mut self) {
        if let Kept::Sqlite(folder) = self {
            let _ = std::fs::remove_dir_all(folder);
        }
    }
}

fn run(test: impl Future<Output = ()>) {
    tokio::runtime::Runtime::new().unwrap().block_on(test);
}

/// The server that the tests of one process have together, while any of them runs.
fn server() -> Arc<Server> {
    static SHARED: Mutex<Weak<Server>> = Mutex::new(Weak::new());
    let mut shared = SHARED.lock().unwrap_or_else(PoisonError::into_inner);
    shared.upgrade().unwrap_or_else(|| {
        let server = Arc::new(Server::start());
        *shared = Arc::downgrade(&server);
        server
    })
}

/// Runs a test on each store.
pub(crate) fn on_each(test: impl AsyncFn(Arc<dyn MessageStore>)) {
    run(test(Arc::new(MemoryStore::default())));
    on_each_kept(async |kept| test(kept.open()).await);
}

/// Runs a test of very many steps on the stores of this process.
pub(crate) fn on_each_here(test: impl AsyncFn(Arc<dyn MessageStore>)) {
    run(test(Arc::new(MemoryStore::default())));
    run(async { test(Kept::sqlite().open()).await });
}

/// Runs a test on each store that outlives its process.
pub(crate) fn on_each_kept(test: impl AsyncFn(&Kept)) {
    static ALONE: Mutex<()> = Mutex::new(());
    run(async { test(&Kept::sqlite()).await });
    let server = server();
    // One test has the database at a time.
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    run(async {
        server.clear().await;
        test(&Kept::Postgres(server.clone())).await;
    });
}
