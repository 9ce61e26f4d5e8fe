//! The rooms' channels that this node listens to: which have users, which the server has
//! confirmed, and in which something was missed.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use hashbrown::HashMap;
use heartline_core::auth::BoxFuture;
use heartline_core::backplane::Subscription;
use tokio::sync::{Notify, oneshot};

use super::numbers::Numbers;
use crate::envelope::Origin;
use crate::locked::locked;

/// How long a join waits for its room's subscription.
const MAX_WAIT_OF_A_JOIN: Duration = Duration::from_secs(1);

#[derive(Default)]
struct Channel {
    users: usize,
    confirmed: bool,
    /// Somebody counts on what is published there, and some of that may not have come. They are
    /// told before the next publication or mark, and a moment after the subscription is
    /// confirmed.
    missed: bool,
    /// The server has ended the subscription, which is not confirmed again yet.
    is_taken: bool,
    numbers: Numbers,
    waiting: Vec<oneshot::Sender<()>>,
}

#[derive(Default)]
struct Table {
    connected: bool,
    channels: HashMap<Arc<str>, Channel>,
    /// Channels to be subscribed to or left, if that is still so when they are looked at.
    changed: Vec<Arc<str>>,
    /// Channels that are heard again, and in which something was missed.
    again: Vec<Arc<str>>,
}

/// Channels whose subscriptions are to be changed.
#[derive(Debug, Default)]
pub(super) struct Changes {
    pub(super) wanted: Vec<Arc<str>>,
    pub(super) unwanted: Vec<Arc<str>>,
}

#[derive(Default)]
pub(super) struct Channels {
    table: Mutex<Table>,
    work: Notify,
    again: Notify,
}

/// A room's channel, for as long as it is held.
struct RoomChannel {
    channels: Arc<Channels>,
    name: Arc<str>,
}

impl Subscription for RoomChannel {
    fn ready(&self) -> Option<BoxFuture<()>> {
        let mut table = locked(&self.channels.table);
        let connected = table.connected;
        let channel = table.channels.get_mut(&self.name)?;
        if channel.confirmed {
            return None;
        }
        // Nobody waits for a server that is away.
        if !connected {
            channel.missed = true;
            return None;
        }
        let (confirmed, confirmation) = oneshot::channel();
        channel.waiting.push(confirmed);
        let (channels, name) = (self.channels.clone(), self.name.clone());
        Some(Box::pin(async move {
            let confirmed = tokio::time::timeout(MAX_WAIT_OF_A_JOIN, confirmation).await;
            if !matches!(confirmed, Ok(Ok(()))) {
                channels.goes_without(&name);
            }
        }))
    }
}

impl Drop for RoomChannel {
    fn drop(&mut self) {
        let mut table = locked(&self.channels.table);
        if let Some(channel) = table.channels.get_mut(&self.name) {
            channel.users -= 1;
            if channel.users == 0 {
                table.changed.push(self.name.clone());
                self.channels.work.notify_one();
            }
        }
    }
}

impl Channels {
    /// Holds a channel.
    pub(super) fn hold(self: &Arc<Self>, name: Arc<str>) -> Arc<dyn Subscription> {
        let mut table = locked(&self.table);
        let channel = table.channels.entry(name.clone()).or_default();
        channel.users += 1;
        if channel.users == 1 {
            table.changed.push(name.clone());
            self.work.notify_one();
        }
        drop(table);
        Arc::new(RoomChannel {
            channels: self.clone(),
            name,
        })
    }

    /// Somebody counts on a channel before it is confirmed.
    fn goes_without(&self, name: &str) {
        let mut table = locked(&self.table);
        if let Some(channel) = table.channels.get_mut(name) {
            channel.missed |= !channel.confirmed;
        }
    }

    /// Whether what is published in a channel from now on is heard, or its loss is noticed.
    pub(super) fn is_heard(&self, name: &str) -> bool {
        let table = locked(&self.table);
        let channel = table.channels.get(name);
        channel.is_some_and(|channel| channel.confirmed)
    }

    /// A publication has come in a channel. Were others lost before it, of which nobody was
    /// told?
    pub(super) fn came(&self, name: &str, origin: Origin) -> bool {
        let mut table = locked(&self.table);
        let Some(channel) = table.channels.get_mut(name) else {
            return false;
        };
        let Origin { tag, number, after } = origin;
        let hole = channel.numbers.came(tag, number, after);
        std::mem::take(&mut channel.missed) || hole
    }

    /// A mark has come in a channel. Is it to be told?
    pub(super) fn lost(&self, name: &str, origin: Origin) -> bool {
        let mut table = locked(&self.table);
        let Some(channel) = table.channels.get_mut(name) else {
            return false;
        };
        let is_news = channel.numbers.lost(origin.tag, origin.after);
        // What was missed besides is told with it.
        std::mem::take(&mut channel.missed) || is_news
    }

    /// The connection by which everything came had ended here.
    pub(super) fn cut(&self) {
        let mut table = locked(&self.table);
        table.again.clear();
        for channel in table.channels.values_mut() {
            channel.missed = true;
            channel.numbers.forget();
        }
    }

    /// A channel was confirmed here. What was missed before, if anything was, is
    /// [told later](Self::take_again).
    pub(super) fn is_heard_again(&self, name: &str) {
        let table = &mut *locked(&self.table);
        if let Some((name, channel)) = table.channels.get_key_value(name)
            && channel.missed
        {
            table.again.push(name.clone());
            self.again.notify_one();
        }
    }

    /// Returns when there are channels that are heard again, and of which something is to be
    /// told.
    pub(super) async fn heard_again(&self) {
        self.again.notified().await;
    }

    /// Those of them of which nobody was told since. They are told now.
    pub(super) fn take_again(&self) -> Vec<Arc<str>> {
        let table = &mut *locked(&self.table);
        let mut again = std::mem::take(&mut table.again);
        again.retain(|name| {
            let channel = table.channels.get_mut(name);
            channel.is_some_and(|channel| std::mem::take(&mut channel.missed))
        });
        again
    }

    /// A channel is heard. Was something missed before, of which nobody was told?
    pub(super) fn goes_on(&self, name: &str) -> bool {
        let mut table = locked(&self.table);
        let channel = table.channels.get_mut(name);
        channel.is_some_and(|channel| std::mem::take(&mut channel.missed))
    }

    /// What was missed in a channel is told now.
    pub(super) fn told(&self, name: &str) {
        let mut table = locked(&self.table);
        if let Some(channel) = table.channels.get_mut(name) {
            channel.missed = false;
            channel.numbers.forget();
        }
    }

    /// The server has ended a subscription; true: one that nobody has given up, and which is asked
    /// for anew.
    pub(super) fn taken_away(&self, name: &str) -> bool {
        let mut table = locked(&self.table);
        let table = &mut *table;
        let Some((name, _)) = table.channels.get_key_value(name) else {
            return false;
        };
        let name = name.clone();
        let Some(channel) = table.channels.get_mut(&name).filter(|one| one.confirmed) else {
            return false;
        };
        channel.confirmed = false;
        channel.missed = true;
        channel.is_taken = true;
        channel.numbers.forget();
        table.changed.push(name);
        self.work.notify_one();
        true
    }

    /// A channel was confirmed here. Had it been [taken away](Self::taken_away)?
    pub(super) fn is_back(&self, name: &str) -> bool {
        let mut table = locked(&self.table);
        let channel = table.channels.get_mut(name);
        channel.is_some_and(|channel| std::mem::take(&mut channel.is_taken))
    }

    /// Whether what is published in the channels arrives.
    pub(super) fn is_connected(&self) -> bool {
        locked(&self.table).connected
    }

    /// Returns when there may be [changes](Self::take_changes).
    pub(super) async fn changed(&self) {
        self.work.notified().await;
    }

    /// A new connection: all channels that have users are to be subscribed to.
    pub(super) fn all_wanted(&self) -> Vec<Arc<str>> {
        let mut table = locked(&self.table);
        table.changed.clear();
        table.channels.retain(|_, channel| channel.users > 0);
        table.channels.keys().cloned().collect()
    }

    /// All channels that were wanted are subscribed to.
    pub(super) fn set_connected(&self) {
        locked(&self.table).connected = true;
    }

    /// The connection has ended; whoever waits for a confirmation waits no longer. Returns
    /// whether [`set_connected`](Self::set_connected) was called before.
    pub(super) fn set_disconnected(&self) -> bool {
        let mut table = locked(&self.table);
        for channel in table.channels.values_mut() {
            channel.confirmed = false;
            channel.waiting.clear();
        }
        std::mem::take(&mut table.connected)
    }

    /// What has changed since the last call. Channels without users are forgotten.
    pub(super) fn take_changes(&self) -> Changes {
        let mut table = locked(&self.table);
        let mut changed = std::mem::take(&mut table.changed);
        changed.sort_unstable();
        changed.dedup();
        let mut changes = Changes::default();
        for name in changed {
            match table.channels.get(&name) {
                Some(channel) if channel.users > 0 && !channel.confirmed => {
                    changes.wanted.push(name);
                }
                Some(channel) if channel.users == 0 => {
                    table.channels.remove(&name);
                    changes.unwanted.push(name);
                }
                _ => {}
            }
        }
        changes
    }

    /// The server has confirmed subscriptions.
    pub(super) fn confirm(&self, names: &[Arc<str>]) {
        let mut table = locked(&self.table);
        for name in names {
            if let Some(channel) = table.channels.get_mut(name) {
                channel.confirmed = true;
                for waiting in channel.waiting.drain(..) {
                    let _ = waiting.send(());
                }
            }
        }
    }
}
