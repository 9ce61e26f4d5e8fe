//! Changes of presence on their way to those who are to know.
//!
//! The first leaves at once; what follows it within a moment leaves together, in one
//! write to each socket. So a thousand logins a second cost each client twenty
//! writes, not a thousand.

use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use tokio::sync::Notify;

use crate::auth::UserKey;
use crate::presence::Edge;
use crate::publication::NsId;
use crate::rooms::Room;
use crate::shared::Shared;

/// How long changes are gathered after some have left.
const WINDOW: Duration = Duration::from_millis(50);

/// What is told of a user.
pub(crate) enum News {
    /// Online now, or offline now.
    Changed {
        edge: Edge,
        /// The rooms that the user was in last, where those are who is told.
        rooms: Option<(NsId, Vec<Arc<Room>>)>,
    },
    /// The first socket has come into a room: those who know the user from the other
    /// rooms are not told.
    Arrived {
        user: Arc<UserKey>,
        namespace: NsId,
        room: Arc<Room>,
        others: Vec<Arc<Room>>,
        at: u64,
    },
}

/// News that wait to be told.
#[derive(Default)]
pub(crate) struct Announcer {
    waiting: Mutex<Vec<News>>,
    work: Notify,
}

impl Announcer {
    /// Tells these after those that came before. Does not wait, and calls nobody.
    pub(crate) fn push(&self, news: impl IntoIterator<Item = News>) {
        self.waiting
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .extend(news);
        self.work.notify_one();
    }

    fn take(&self) -> Vec<News> {
        std::mem::take(&mut self.waiting.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// Tells until it is aborted, or the gateway has gone.
pub(crate) async fn run(announcer: Arc<Announcer>, shared: Weak<Shared>) {
    loop {
        let news = announcer.take();
        if news.is_empty() {
            announcer.work.notified().await;
            continue;
        }
        match shared.upgrade() {
            Some(shared) => shared.announce(news),
            None => return,
        }
        tokio::time::sleep(WINDOW).await;
    }
}
