//! Notifications of stored messages that nobody has sent yet: whoever was to do that had no time any
//! more, or could not learn who the members are.
//!
//! Those of one conversation go one after the other, in their order; of several, some at once.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use hashbrown::HashMap;
use heartline_core::auth::UserKey;
use heartline_core::message::Message;
use heartline_core::store::StoredMessage;
use heartline_wire::json;
use tokio::sync::Notify;

/// What may wait, bytes: twice what may wait for a store, as it is longer here.
const MAX_BYTES: usize = 128 << 20;

/// What one of them costs besides its texts, about, bytes.
const OVERHEAD: usize = 512;

/// How often one is tried: more than a store needs that is there again, as each try may wait
/// seconds for it.
const TRIES: u32 = 20;

/// Members of a conversation are to hear of a message.
pub(crate) struct Due {
    pub(crate) conversation: Arc<str>,
    /// Who has sent it, and hears nothing.
    pub(crate) speaker: UserKey,
    pub(crate) message: Message,
    tries: u32,
}

impl Due {
    /// Of a message of this tenant's conversation, which is `json`.
    pub(crate) fn new(
        tenant: Option<Arc<str>>,
        conversation: &str,
        (message, json): (&StoredMessage, &str),
    ) -> Due {
        let speaker = UserKey {
            tenant_id: tenant,
            user_id: message.sender_id.as_str().into(),
            user_type: message.sender_type.as_deref().map(Into::into),
        };
        let quoted = json::quote(conversation);
        let data = format!(r#"{{"conversationId":{quoted},"message":{json}}}"#);
        Due {
            conversation: conversation.into(),
            speaker,
            message: Message::new("message:notification", &data),
            tries: 0,
        }
    }

    fn place(&self) -> Conversation {
        (self.speaker.tenant_id.clone(), self.conversation.clone())
    }

    fn weight(&self) -> usize {
        OVERHEAD + self.message.size() + self.conversation.len()
    }
}

/// The tenant, and the id.
type Conversation = (Option<Arc<str>>, Arc<str>);

/// Notifications that wait.
#[derive(Default)]
pub(crate) struct Notices {
    waiting: Mutex<Waiting>,
    work: Notify,
    done: Notify,
}

#[derive(Default)]
struct Waiting {
    /// Of each conversation those after the one that is being sent.
    due: HashMap<Conversation, VecDeque<Due>>,
    /// Conversations of which none is being sent.
    ready: VecDeque<Conversation>,
    bytes: usize,
}

impl Waiting {
    /// Makes room for one in its conversation; `None`: there is none.
    fn entry(&mut self, due: &Due) -> Option<&mut VecDeque<Due>> {
        let bytes = self.bytes + due.weight();
        if bytes > MAX_BYTES {
            return None;
        }
        self.bytes = bytes;
        let place = due.place();
        if !self.due.contains_key(&place) {
            self.ready.push_back(place.clone());
        }
        Some(self.due.entry(place).or_default())
    }
}

impl Notices {
    fn waiting(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// One more is to be sent. Does not wait, and calls nobody.
    pub(crate) fn put(&self, due: Due) {
        match self.waiting().entry(&due) {
            Some(queue) => queue.push_back(due),
            None => lost("too many messages are to be told"),
        }
        self.work.notify_one();
    }

    /// The next one. Its conversation has its turn again when this one was [`sent`](Self::sent), or
    /// [given back](Self::give_back).
    pub(crate) async fn next(&self) -> Due {
        loop {
            if let Some(due) = self.take() {
                return due;
            }
            self.work.notified().await;
        }
    }

    fn take(&self) -> Option<Due> {
        let mut waiting = self.waiting();
        let place = waiting.ready.pop_front()?;
        let due = waiting.due.get_mut(&place)?.pop_front()?;
        waiting.bytes -= due.weight();
        Some(due)
    }

    /// One was sent.
    pub(crate) fn sent(&self, due: &Due) {
        let mut waiting = self.waiting();
        let place = due.place();
        if waiting.due.get(&place).is_some_and(VecDeque::is_empty) {
            waiting.due.remove(&place);
        } else {
            waiting.ready.push_back(place);
        }
        if waiting.due.is_empty() {
            self.done.notify_waiters();
        }
        drop(waiting);
        self.work.notify_one();
    }

    /// One could not be sent: it is the next of its conversation, or has been tried often enough.
    pub(crate) fn give_back(&self, mut due: Due) {
        due.tries += 1;
        if due.tries >= TRIES {
            lost("a conversation's members could not be read");
            return self.sent(&due);
        }
        let mut waiting = self.waiting();
        let place = due.place();
        waiting.bytes += due.weight();
        waiting
            .due
            .entry(place.clone())
            .or_default()
            .push_front(due);
        waiting.ready.push_back(place);
        drop(waiting);
        self.work.notify_one();
    }

    /// Resolves when none waits, and none is being sent.
    pub(crate) async fn quiet(&self) {
        loop {
            let done = self.done.notified();
            tokio::pin!(done);
            done.as_mut().enable();
            if self.waiting().due.is_empty() {
                return;
            }
            done.await;
        }
    }
}

fn lost(why: &str) {
    tracing::error!(why, "members of a conversation are not told of a message");
}

#[cfg(test)]
mod tests {
    use super::*;

    fn due(conversation: &str, text: &str) -> Due {
        let message = StoredMessage {
            id: "1-1".into(),
            offset: 1,
            conversation_id: conversation.into(),
            sender_id: "ann".into(),
            sender_type: None,
            content: String::new(),
            temp_id: None,
            created_at: 7,
        };
        Due::new(None, conversation, (&message, text))
    }

    /// What is to be sent next, if anything is.
    fn next(notices: &Notices) -> Option<(Due, String)> {
        let due = notices.take()?;
        let said = due.message.args.to_string();
        Some((due, said))
    }

    fn said(conversation: &str, text: &str) -> String {
        format!(r#"{{"conversationId":"{conversation}","message":{text}}}"#)
    }

    #[test]
    fn those_of_one_conversation_go_one_after_the_other() {
        let notices = Notices::default();
        for (conversation, text) in [("a", "1"), ("a", "2"), ("b", "3"), ("a", "4")] {
            notices.put(due(conversation, text));
        }
        let (first, told) = next(&notices).unwrap();
        assert_eq!(told, said("a", "1"));
        let (other, told) = next(&notices).unwrap();
        assert_eq!(told, said("b", "3"));
        assert!(next(&notices).is_none());
        // What could not be sent comes before what follows it.
        notices.give_back(first);
        let (first, told) = next(&notices).unwrap();
        assert_eq!(told, said("a", "1"));
        notices.sent(&other);
        assert!(next(&notices).is_none());
        notices.sent(&first);
        for text in ["2", "4"] {
            let (one, told) = next(&notices).unwrap();
            assert_eq!(told, said("a", text));
            notices.sent(&one);
        }
        let waiting = notices.waiting();
        assert!(waiting.due.is_empty() && waiting.ready.is_empty() && waiting.bytes == 0);
    }

    #[test]
    fn one_is_tried_so_often() {
        let notices = Notices::default();
        notices.put(due("a", "1"));
        notices.put(due("a", "2"));
        for _ in 0..TRIES {
            let (one, told) = next(&notices).unwrap();
            assert_eq!(told, said("a", "1"));
            notices.give_back(one);
        }
        let (one, told) = next(&notices).unwrap();
        assert_eq!(told, said("a", "2"));
        notices.sent(&one);
        assert!(next(&notices).is_none());
    }

    #[test]
    fn what_is_too_much_is_not_kept() {
        let notices = Notices::default();
        let long = format!("\"{}\"", "x".repeat(MAX_BYTES / 4));
        for _ in 0..5 {
            notices.put(due("a", &long));
        }
        assert!(notices.waiting().bytes <= MAX_BYTES);
        let mut kept = 0;
        while let Some((one, _)) = next(&notices) {
            notices.sent(&one);
            kept += 1;
        }
        assert_eq!(kept, 3);
    }
}
