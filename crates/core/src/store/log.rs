//! What was said, in memory and within bounds: the model of what a store keeps.

use std::collections::{HashMap, VecDeque};
use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;

use crate::auth::UserKey;
use crate::bounded::Bounded;
use crate::store::{
    Channel, Cleaning, History, HistoryQuery, NewMessage, Part, Stored, StoredMessage, Window,
};

/// How many messages are kept.
const MESSAGES: usize = 65_536;

/// What they may weigh, bytes: the longest have 40 KB.
const BYTES: usize = 64 << 20;

/// Of how many messages that are not kept any more it is known that they were sent: twice as many
/// as whose senders may repeat them for nothing. About 150 bytes each.
const PAST: usize = 65_536;

/// How many conversations are remembered of which no message is kept.
const EMPTY: usize = 65_536;

/// What these may weigh, bytes.
const EMPTY_BYTES: usize = 16 << 20;

/// What a message costs besides its texts, about, bytes.
const OVERHEAD: usize = 256;

/// A conversation or open room of a tenant.
type Place = Arc<(Option<Arc<str>>, Channel)>;

/// What one message is known by, however often it is sent.
type Attempt = (Arc<UserKey>, Place, String);

/// A message that is not kept any more, for want of room.
struct Past {
    /// The number of its conversation.
    row: u64,
    offset: u64,
    created_at: u64,
}

/// A conversation.
#[derive(Clone)]
struct Talk {
    /// Its number.
    row: u64,
    /// The offset of its last message.
    head: u64,
    /// Those that are kept: the last is that of `head`.
    messages: VecDeque<Kept>,
}

#[derive(Clone)]
struct Kept {
    message: StoredMessage,
    sender: Arc<UserKey>,
    bytes: usize,
}

impl Talk {
    fn floor(&self) -> u64 {
        self.head - self.messages.len() as u64
    }
}

/// The newest messages of all conversations; the oldest goes first.
pub(super) struct Log {
    last_row: u64,
    /// Those of which a message is kept.
    talks: HashMap<Place, Talk>,
    /// The number and the head of others.
    empty: Bounded<Place, (u64, u64)>,
    /// Where each message that is kept was said, in the order in which they came.
    order: VecDeque<Place>,
    attempts: HashMap<Attempt, u64>,
    /// Those that are not kept any more, by hashes of their attempts.
    past: Bounded<[u64; 2], Past>,
    /// Two, so that no two attempts have the same hashes.
    hashing: [RandomState; 2],
    bytes: usize,
}

impl Default for Log {
    fn default() -> Self {
        Log {
            last_row: 0,
            talks: HashMap::new(),
            empty: Bounded::new(EMPTY, EMPTY_BYTES),
            order: VecDeque::new(),
            attempts: HashMap::new(),
            past: Bounded::new(PAST, PAST),
            hashing: Default::default(),
            bytes: 0,
        }
    }
}

impl Log {
    /// Keeps a message, or finds it.
    pub(super) fn append(&mut self, new: NewMessage) -> Stored {
        let tenant = new.sender.tenant_id.clone();
        let mut place = Arc::new((tenant, new.channel));
        if let Some((known, _)) = self.talks.get_key_value(&place) {
            place = known.clone();
        }
        let attempt = new
            .temp_id
            .clone()
            .map(|temp_id| (new.sender.clone(), place.clone(), temp_id));
        if let Some(attempt) = &attempt
            && let Some(message) = self
                .find(attempt)
                .or_else(|| self.find_past(attempt, &new.content))
        {
            return Stored {
                message,
                duplicate: true,
            };
        }
        if !self.talks.contains_key(&place) {
            let talk = self.begin(&place, new.created_at);
            self.talks.insert(place.clone(), talk);
        }
        let talk = self.talks.get_mut(&place).expect("it was put there");
        talk.head += 1;
        let message = StoredMessage {
            id: StoredMessage::id_of(talk.row, talk.head),
            offset: talk.head,
            conversation_id: place.1.name().to_owned(),
            sender_id: new.sender.user_id.to_string(),
            sender_type: new.sender.user_type.as_ref().map(ToString::to_string),
            content: new.content,
            temp_id: new.temp_id,
            created_at: new.created_at,
        };
        // Names are there twice, in the key and in the message.
        let names = place.1.name().len() + message.temp_id.as_ref().map_or(0, String::len);
        let bytes = OVERHEAD + message.content.len() + 2 * (names + message.sender_id.len());
        talk.messages.push_back(Kept {
            message: message.clone(),
            sender: new.sender,
            bytes,
        });
        if let Some(attempt) = attempt {
            self.attempts.insert(attempt, message.offset);
        }
        self.order.push_back(place);
        self.bytes += bytes;
        while self.order.len() > 1 && (self.order.len() > MESSAGES || self.bytes > BYTES) {
            self.forget_oldest();
        }
        Stored {
            message,
            duplicate: false,
        }
    }

    /// A part of what was said.
    pub(super) fn history(&mut self, query: &HistoryQuery) -> History {
        let place = Arc::new((query.tenant.clone(), query.channel.clone()));
        let talk = self.talks.get(&place);
        let (head, floor) = match talk {
            Some(talk) => (talk.head, talk.floor()),
            None => self
                .empty
                .get(&place)
                .map_or((0, 0), |(_, head)| (*head, *head)),
        };
        let window = Window::of(query.from, query.limit, head, floor);
        let mut part = Part::new(&window, query.bytes);
        if let Some(talk) = talk.filter(|_| !window.offsets.is_empty()) {
            let index = |offset: u64| (offset - floor - 1) as usize;
            let range = index(window.offsets.start)..index(window.offsets.end);
            let range = talk.messages.range(range).map(|kept| kept.message.clone());
            let full = |message| !part.take(message);
            match window.newest_first {
                true => range.rev().any(full),
                false => { range }.any(full),
            };
        }
        History {
            messages: part.finish(),
            head,
            floor,
            complete: window.complete,
        }
    }

    /// Removes beginnings of conversations; how many messages those were.
    pub(super) fn clean(&mut self, what: Cleaning) -> u64 {
        let mut gone: HashMap<Place, usize> = HashMap::new();
        for (place, talk) in &self.talks {
            let messages = &talk.messages;
            let count = match what {
                Cleaning::MessagesBefore { time, .. } => {
                    let is_old = |kept: &Kept| kept.message.created_at < time;
                    messages
                        .iter()
                        .rposition(is_old)
                        .map_or(0, |index| index + 1)
                }
                Cleaning::MessagesBeyond(newest) => messages
                    .len()
                    .saturating_sub(usize::try_from(newest).unwrap_or(usize::MAX)),
                Cleaning::InvitesBefore(_) => 0,
            };
            gone.insert(place.clone(), count);
        }
        let order = std::mem::take(&mut self.order);
        let mut rows = 0;
        for place in order {
            match gone.get_mut(&place) {
                Some(count) if *count > 0 => {
                    *count -= 1;
                    rows += 1;
                    self.forget_first(&place);
                }
                _ => self.order.push_back(place),
            }
        }
        rows
    }

    fn find(&self, attempt: &Attempt) -> Option<StoredMessage> {
        let offset = self.attempts.get(attempt)?;
        let talk = self.talks.get(&attempt.1)?;
        let index = offset - talk.floor() - 1;
        Some(talk.messages.get(index as usize)?.message.clone())
    }

    /// A message that is not kept any more, which comes again with this text.
    fn find_past(&mut self, attempt: &Attempt, content: &str) -> Option<StoredMessage> {
        let hashes = self.hashes(attempt);
        let past = self.past.get(&hashes)?;
        let (sender, place, temp_id) = attempt;
        Some(StoredMessage {
            id: StoredMessage::id_of(past.row, past.offset),
            offset: past.offset,
            conversation_id: place.1.name().to_owned(),
            sender_id: sender.user_id.to_string(),
            sender_type: sender.user_type.as_ref().map(ToString::to_string),
            content: content.to_owned(),
            temp_id: Some(temp_id.clone()),
            created_at: past.created_at,
        })
    }

    fn hashes(&self, attempt: &Attempt) -> [u64; 2] {
        let hashing = self.hashing.each_ref();
        hashing.map(|hashing| hashing.hash_one(attempt))
    }

    /// A conversation that goes on from where it is remembered to have been.
    fn begin(&mut self, place: &Place, now: u64) -> Talk {
        let (row, head) = self.empty.take(place).unwrap_or_else(|| {
            // Numbers go on rising across a restart: no two messages have one id.
            self.last_row = (self.last_row + 1).max(now.saturating_mul(1000));
            (self.last_row, 0)
        });
        Talk {
            row,
            head,
            messages: VecDeque::new(),
        }
    }

    /// Makes room. That the message was sent stays known: nobody asked for it to be removed.
    fn forget_oldest(&mut self) {
        let forgotten = self.order.pop_front();
        if let Some((attempt, past)) = forgotten.and_then(|place| self.forget_first(&place)) {
            self.past.put(self.hashes(&attempt), past, 1);
        }
    }

    /// Forgets the first message that is kept of a conversation; `order` has it no more. What it
    /// was known by.
    fn forget_first(&mut self, place: &Place) -> Option<(Attempt, Past)> {
        let talk = self.talks.get_mut(place)?;
        let row = talk.row;
        let forgotten = talk.messages.pop_front().and_then(|kept| {
            self.bytes -= kept.bytes;
            let attempt = (kept.sender, place.clone(), kept.message.temp_id?);
            self.attempts.remove(&attempt);
            let past = Past {
                row,
                offset: kept.message.offset,
                created_at: kept.message.created_at,
            };
            Some((attempt, past))
        });
        if talk.messages.is_empty() {
            let known = (talk.row, talk.head);
            self.talks.remove(place);
            let tenant = place.0.as_ref().map_or(0, |tenant| tenant.len());
            let bytes = OVERHEAD + place.1.name().len() + tenant;
            self.empty.put(place.clone(), known, bytes);
        }
        forgotten
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::Start;

    fn message(temp_id: &str) -> NewMessage {
        NewMessage {
            sender: Arc::new(UserKey {
                tenant_id: None,
                user_id: "u".into(),
                user_type: None,
            }),
            channel: Channel::Conversation("c".into()),
            content: "hello".into(),
            temp_id: Some(temp_id.into()),
            created_at: 1,
        }
    }

    fn history(log: &mut Log, from: Start, limit: usize) -> (Vec<u64>, u64, u64, bool) {
        let history = log.history(&HistoryQuery {
            tenant: None,
            channel: Channel::Conversation("c".into()),
            from,
            limit,
            bytes: usize::MAX,
        });
        let offsets = history.messages.iter().map(|message| message.offset);
        (
            offsets.collect(),
            history.head,
            history.floor,
            history.complete,
        )
    }

    #[test]
    fn the_same_temp_id_twice_is_one_message() {
        let mut log = Log::default();
        let first = log.append(message("t1"));
        let second = log.append(message("t1"));
        let third = log.append(message("t2"));
        assert!(!first.duplicate && second.duplicate && !third.duplicate);
        assert_eq!(first.message, second.message);
        assert_eq!((first.message.offset, third.message.offset), (1, 2));
        assert_ne!(first.message.id, third.message.id);
    }

    #[test]
    fn the_same_temp_id_elsewhere_is_another_message() {
        let mut log = Log::default();
        let first = log.append(message("t1"));
        for channel in [
            Channel::Conversation("d".into()),
            Channel::Conversation("e".into()),
            Channel::Room("c".into()),
        ] {
            let elsewhere = log.append(NewMessage {
                channel,
                ..message("t1")
            });
            assert!(!elsewhere.duplicate && elsewhere.message.id != first.message.id);
            assert_eq!(elsewhere.message.offset, 1);
        }
    }

    #[test]
    fn the_oldest_messages_go_and_what_is_left_says_so() {
        let mut log = Log::default();
        for number in 0..MESSAGES + 10 {
            log.append(message(&number.to_string()));
        }
        assert_eq!(log.attempts.len(), MESSAGES);
        let head = MESSAGES as u64 + 10;
        assert_eq!(
            history(&mut log, Start::After(9), 2),
            (vec![11, 12], head, 10, false)
        );
        assert_eq!(
            history(&mut log, Start::After(10), 1),
            (vec![11], head, 10, true)
        );
        assert_eq!(
            history(&mut log, Start::End, 1),
            (vec![head], head, 10, true)
        );
        assert_eq!(
            history(&mut log, Start::Before(12), 3),
            (vec![11], head, 10, false)
        );
    }

    #[test]
    fn long_messages_are_kept_within_a_bound_of_bytes() {
        let mut log = Log::default();
        for number in 0..3_000 {
            log.append(NewMessage {
                content: "x".repeat(40_000),
                ..message(&number.to_string())
            });
        }
        assert!(log.bytes <= BYTES);
        assert!(log.append(message("2999")).duplicate);
        assert!(!log.append(message("3000")).duplicate);
    }

    #[test]
    fn a_message_that_comes_again_is_the_same_also_when_it_is_not_kept_any_more() {
        let mut log = Log::default();
        let first = log.append(message("first")).message;
        for number in 0..MESSAGES {
            log.append(message(&number.to_string()));
        }
        assert_eq!(history(&mut log, Start::After(0), 0).2, 1);
        let later = || NewMessage {
            created_at: 9,
            ..message("first")
        };
        let again = log.append(later());
        assert!(again.duplicate && again.message == first);
        // It is known for as long as a bound says, longer if it is asked for.
        for number in 0..PAST + 1 {
            log.append(message(&format!("more {number}")));
            if number == PAST / 2 {
                assert!(log.append(later()).duplicate);
            }
        }
        assert!(log.append(later()).duplicate);
        for number in 0..PAST + 1 {
            log.append(message(&format!("yet more {number}")));
        }
        let anew = log.append(later());
        assert!(!anew.duplicate && anew.message.id != first.id);
        assert!(log.past.len() <= PAST);
    }

    #[test]
    fn a_conversation_goes_on_after_its_last_message_is_gone() {
        let mut log = Log::default();
        let first = log.append(message("first")).message;
        for number in 0..MESSAGES {
            log.append(NewMessage {
                channel: Channel::Room("elsewhere".into()),
                ..message(&number.to_string())
            });
        }
        assert_eq!(history(&mut log, Start::After(0), 9), (vec![], 1, 1, false));
        let second = log.append(message("second")).message;
        assert_eq!(second.offset, 2);
        assert_eq!(first.id.split('-').next(), second.id.split('-').next());
        assert_eq!(history(&mut log, Start::After(1), 9), (vec![2], 2, 1, true));
    }

    #[test]
    fn what_lies_before_all_that_is_kept_is_empty_and_says_so() {
        let mut log = Log::default();
        for number in 0..5 {
            log.append(message(&number.to_string()));
        }
        assert_eq!(log.clean(Cleaning::MessagesBeyond(2)), 3);
        for before in [1, 2, 4] {
            let part = history(&mut log, Start::Before(before), 9);
            assert_eq!(part, (vec![], 5, 3, before == 1), "{before}");
        }
        // As in a database, what was removed on purpose is not known any more.
        assert!(!log.append(message("0")).duplicate);
        assert!(log.append(message("4")).duplicate);
    }

    #[test]
    fn a_part_is_bounded_by_its_bytes_from_either_end() {
        let mut log = Log::default();
        for number in 0..9 {
            log.append(message(&number.to_string()));
        }
        let mut read = |from, bytes| {
            let channel = Channel::Conversation("c".into());
            let history = log.history(&HistoryQuery {
                tenant: None,
                channel,
                from,
                limit: 9,
                bytes,
            });
            let offsets = history.messages.iter().map(|message| message.offset);
            offsets.collect::<Vec<_>>()
        };
        assert_eq!(read(Start::After(2), 450), [3, 4]);
        assert_eq!(read(Start::End, 450), [8, 9]);
        assert_eq!(read(Start::Before(5), 1), [4]);
    }
}
