//! The stores that every test of a suite is run on.

#![allow(dead_code, reason = "each suite uses what it needs")]

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use heartline_core::store::MessageStore;
use heartline_core::store::memory::MemoryStore;
use heartline_store::SqliteStore;

/// A store that goes on where another process ended.
pub(crate) struct Kept {
    folder: PathBuf,
}

impl Kept {
    fn sqlite() -> Kept {
        static NUMBER: AtomicU64 = AtomicU64::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let name = format!("heartline-suite-{}-{number}", std::process::id());
        let folder = std::env::temp_dir().join(name);
        std::fs::create_dir(&folder).unwrap();
        Kept { folder }
    }

    /// Opens it; the one before is let go of within ten seconds.
    pub(crate) fn open(&self) -> Arc<dyn MessageStore> {
        let until = Instant::now() + Duration::from_secs(10);
        loop {
            match SqliteStore::open(&self.folder.join("heartline.db")) {
                Ok(store) => return Arc::new(store),
                Err(error) => assert!(Instant::now() < until, "{error}"),
            }
            std::thread::yield_now();
        }
    }
}

impl Drop for Kept {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}

fn run(test: impl Future<Output = ()>) {
    tokio::runtime::Runtime::new().unwrap().block_on(test);
}

/// Runs a test on each store.
pub(crate) fn on_each(test: impl AsyncFn(Arc<dyn MessageStore>)) {
    run(test(Arc::new(MemoryStore::default())));
    on_each_kept(async |kept| test(kept.open()).await);
}

/// Runs a test on each store that outlives its process.
pub(crate) fn on_each_kept(test: impl AsyncFn(&Kept)) {
    run(async { test(&Kept::sqlite()).await });
}
