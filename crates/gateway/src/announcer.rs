//! Changes of presence on their way to those who are to know.
//!
//! The first leaves at once; what follows it within a moment leaves together, in one
//! write to each socket. So a thousand logins a second cost each client twenty
//! writes, not a thousand.

use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use tokio::sync::Notify;

use crate::presence::Edge;
use crate::shared::Shared;

/// How long changes are gathered after some have left.
const WINDOW: Duration = Duration::from_millis(50);

/// Changes that wait to be told.
#[derive(Default)]
pub(crate) struct Announcer {
    waiting: Mutex<Vec<Edge>>,
    work: Notify,
}

impl Announcer {
    /// Tells these after those that came before. Does not wait, and calls nobody.
    pub(crate) fn push(&self, edges: impl IntoIterator<Item = Edge>) {
        self.waiting
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .extend(edges);
        self.work.notify_one();
    }

    fn take(&self) -> Vec<Edge> {
        std::mem::take(&mut self.waiting.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// Tells until it is aborted, or the gateway has gone.
pub(crate) async fn run(announcer: Arc<Announcer>, shared: Weak<Shared>) {
    loop {
        let edges = announcer.take();
        if edges.is_empty() {
            announcer.work.notified().await;
            continue;
        }
        match shared.upgrade() {
            Some(shared) => shared.announce(&edges),
            None => return,
        }
        tokio::time::sleep(WINDOW).await;
    }
}
