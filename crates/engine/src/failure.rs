//! The end of a shard's thread by a panic.
//!
//! Calls into code that is not ours are guarded, so such a panic is a fault of the engine
//! or of what stands behind it. The connections of the shard are dead then, and newcomers
//! that it is given would hang; the process must end instead of going on without them.

use std::io;

use tokio::sync::watch;

/// Tells of the first shard whose thread has ended so.
#[derive(Clone, Default)]
pub struct Failure(watch::Sender<Option<u16>>);

impl Failure {
    /// The thread of the shard `number` has ended.
    pub fn report(&self, number: u16) {
        self.0.send_replace(Some(number));
    }

    /// Resolves when one has; the sentence is for the operator.
    pub async fn happens(&self) -> io::Error {
        let mut failed = self.0.subscribe();
        let seen = failed.wait_for(Option::is_some).await;
        // An error would say that the sender is gone, which is `self`.
        let number = seen.map_or(0, |number| number.unwrap_or_default());
        io::Error::other(format!(
            "the thread shard-{number} ended by a panic, and its connections with it; \
             this process cannot go on"
        ))
    }
}
