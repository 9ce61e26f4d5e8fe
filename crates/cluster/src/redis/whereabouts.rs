//! Which nodes hold a user's sockets.
//!
//! A publication to a user goes to the channels of these nodes. What was known of a user last
//! is believed at once, and asked about in the same write: whatever nodes are missing have it in
//! a second one, before anything later is sent. So a user costs the registry the reading of one
//! field, once for all that a write has for it, and nobody is missed who was registered when
//! the publication was made.

use std::sync::{Arc, Mutex};

use hashbrown::HashMap;
use redis::Value;

use crate::locked::locked;
use crate::registry::UserName;

/// Users of whom something is known, some megabytes. When there are more, all are forgotten,
/// which costs a second write once.
const MAX_USERS: usize = 65_536;

/// Processes, as the registry names them.
pub(super) type Processes = Arc<[Arc<str>]>;

/// What was known last.
pub(super) struct Whereabouts {
    /// This process: it has had what it publishes.
    own: Arc<str>,
    known: Mutex<HashMap<UserName, Processes>>,
}

impl Whereabouts {
    pub(super) fn new(own: Arc<str>) -> Whereabouts {
        Whereabouts {
            own,
            known: Mutex::default(),
        }
    }

    /// The other processes that held sockets of a user when it was asked last.
    pub(super) fn last(&self, user: &UserName) -> Processes {
        locked(&self.known).get(user).cloned().unwrap_or_default()
    }

    /// The registry's answer for a user, of whom `last` was believed: those that were not
    /// known.
    pub(super) fn learn(&self, user: &UserName, last: &Processes, answer: &Value) -> Processes {
        let now = self.read(answer);
        let new = now.iter().filter(|process| !last.contains(process));
        let new: Processes = new.cloned().collect();
        let mut known = locked(&self.known);
        if now.is_empty() {
            known.remove(user);
        } else if !new.is_empty() || now.len() < last.len() {
            if known.len() >= MAX_USERS {
                known.clear();
            }
            known.insert(user.clone(), now);
        }
        new
    }

    /// `PROCESS=SOCKETS PROCESS=SOCKETS`, or nothing.
    fn read(&self, answer: &Value) -> Processes {
        let text = match answer {
            Value::BulkString(text) => str::from_utf8(text).unwrap_or_default(),
            _ => "",
        };
        let names = text.split(' ').filter_map(|one| one.split_once('='));
        let others = names
            .map(|(name, _)| name)
            .filter(|name| **name != *self.own);
        others.map(Into::into).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(processes: &Processes) -> Vec<&str> {
        processes.iter().map(|process| &**process).collect()
    }

    #[test]
    fn who_has_moved_is_known_with_the_next_answer() {
        let whereabouts = Whereabouts::new("n1.1".into());
        let user: UserName = ":ann".into();
        let hear = |answer: &str| {
            let last = whereabouts.last(&user);
            let answer = Value::BulkString(answer.into());
            let new = whereabouts.learn(&user, &last, &answer);
            (last, new)
        };
        let (last, new) = hear("n1.1=2 n2.2=1");
        assert_eq!((names(&last), names(&new)), (vec![], vec!["n2.2"]));
        let (last, new) = hear("n2.2=1 n3.3=1");
        assert_eq!((names(&last), names(&new)), (vec!["n2.2"], vec!["n3.3"]));
        let (last, new) = hear("n3.3=4");
        assert_eq!((names(&last), names(&new)), (vec!["n2.2", "n3.3"], vec![]));
        let (last, new) = hear("");
        assert_eq!((names(&last), names(&new)), (vec!["n3.3"], vec![]));
        assert!(hear("n1.1=1").0.is_empty());
    }
}
