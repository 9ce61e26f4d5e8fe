//! Members of conversations in memory, within bounds: the model of what a store keeps of them.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use hashbrown::HashMap;

use crate::auth::UserKey;
use crate::bounded::Bounded;
use crate::store::conversations::{
    Added, MAX_CONVERSATIONS, MAX_MEMBERS, Marked, Member, Membership,
};

/// How many conversations it keeps members of.
const CONVERSATIONS: usize = 65_536;

/// What these may weigh, bytes.
const CONVERSATION_BYTES: usize = 64 << 20;

/// What an entry costs besides its texts, about, bytes.
const OVERHEAD: usize = 256;

type Conversation = (Option<Arc<str>>, Arc<str>);

/// What is known of a member.
#[derive(Clone, Copy)]
pub(super) struct Entry {
    pub(super) membership: Membership,
    pub(super) joined_at: u64,
    pub(super) read_offset: u64,
}

/// The members of a conversation.
#[derive(Default)]
struct Members {
    /// By their ids and types.
    entries: BTreeMap<Arc<UserKey>, Entry>,
    /// What they weigh.
    bytes: usize,
}

/// The members of the conversations that were used last.
pub(super) struct People {
    conversations: Bounded<Conversation, Members>,
    /// The conversations of each member.
    of: HashMap<Arc<UserKey>, BTreeSet<Arc<str>>>,
}

impl Default for People {
    fn default() -> Self {
        People {
            conversations: Bounded::new(CONVERSATIONS, CONVERSATION_BYTES),
            of: HashMap::new(),
        }
    }
}

/// What a user among members weighs, bytes: there, and in the list of the user's conversations.
fn weight(user: &UserKey) -> usize {
    let text = |text: &Option<Arc<str>>| text.as_ref().map_or(0, |text| text.len());
    OVERHEAD + user.user_id.len() + text(&user.tenant_id) + text(&user.user_type)
}

impl People {
    pub(super) fn add(
        &mut self,
        conversation_id: &str,
        user: &Arc<UserKey>,
        membership: Membership,
        now: u64,
    ) -> Added {
        let key = (user.tenant_id.clone(), conversation_id.into());
        let mut members = self.conversations.take(&key).unwrap_or_default();
        let many = self.of.get(user).map_or(0, BTreeSet::len);
        let is_full = members.entries.len() >= MAX_MEMBERS || many >= MAX_CONVERSATIONS;
        let added = match members.entries.get_mut(user) {
            Some(entry) if entry.membership < membership => {
                entry.membership = membership;
                Added::Raised
            }
            Some(_) => Added::Known,
            None if is_full => Added::Full,
            None => {
                let entry = Entry {
                    membership,
                    joined_at: now,
                    read_offset: 0,
                };
                members.entries.insert(user.clone(), entry);
                members.bytes += weight(user);
                let own = self.of.entry(user.clone()).or_default();
                own.insert(key.1.clone());
                Added::New
            }
        };
        if !members.entries.is_empty() {
            self.put(key, members);
        }
        added
    }

    pub(super) fn is_member(&self, conversation_id: &str, user: &Arc<UserKey>) -> bool {
        let key = (user.tenant_id.clone(), conversation_id.into());
        let members = self.conversations.peek(&key);
        members.is_some_and(|members| members.entries.contains_key(user))
    }

    pub(super) fn remove(&mut self, conversation_id: &str, user: &Arc<UserKey>) -> bool {
        let key = (user.tenant_id.clone(), conversation_id.into());
        let Some(mut members) = self.conversations.take(&key) else {
            return false;
        };
        let removed = members.entries.remove(user).is_some();
        if removed {
            members.bytes -= weight(user);
            self.forget(user, &key.1);
        }
        if !members.entries.is_empty() {
            self.put(key, members);
        }
        removed
    }

    pub(super) fn members(&mut self, tenant: Option<&str>, conversation_id: &str) -> Vec<Member> {
        let key = (tenant.map(Arc::from), conversation_id.into());
        let known = self.conversations.get(&key);
        let entries = known.into_iter().flat_map(|members| &members.entries);
        let member = |(user, entry): (&Arc<UserKey>, &Entry)| Member {
            user: user.clone(),
            membership: entry.membership,
            joined_at: entry.joined_at,
            read_offset: entry.read_offset,
        };
        entries.map(member).collect()
    }

    /// Moves a member's marker forward.
    pub(super) fn mark_read(
        &mut self,
        conversation_id: &str,
        user: &Arc<UserKey>,
        offset: u64,
    ) -> Option<Marked> {
        let key = (user.tenant_id.clone(), conversation_id.into());
        let mut members = self.conversations.take(&key)?;
        let entry = members.entries.get_mut(user);
        let marked = entry.map(|entry| {
            let moved = offset > entry.read_offset;
            entry.read_offset = entry.read_offset.max(offset);
            Marked {
                offset: entry.read_offset,
                moved,
            }
        });
        self.put(key, members);
        marked
    }

    /// The conversations of a user, each with what is known of this member.
    pub(super) fn conversations_of(&self, user: &Arc<UserKey>) -> Vec<(Arc<str>, Entry)> {
        let own = self.of.get(user).into_iter().flatten().cloned();
        let entry = |id: Arc<str>| {
            let key = (user.tenant_id.clone(), id);
            let entry = *self.conversations.peek(&key)?.entries.get(user)?;
            Some((key.1, entry))
        };
        own.filter_map(entry).collect()
    }

    fn put(&mut self, key: Conversation, members: Members) {
        let bytes = OVERHEAD + 2 * key.1.len() + members.bytes;
        for ((_, id), gone) in self.conversations.put(key, members, bytes) {
            for user in gone.entries.keys() {
                self.forget(user, &id);
            }
        }
    }

    fn forget(&mut self, user: &Arc<UserKey>, id: &Arc<str>) {
        if let Some(own) = self.of.get_mut(user) {
            own.remove(id);
            if own.is_empty() {
                self.of.remove(user);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn user(id: &str) -> Arc<UserKey> {
        Arc::new(UserKey {
            tenant_id: None,
            user_id: id.into(),
            user_type: None,
        })
    }

    fn names(people: &mut People, conversation: &str) -> Vec<String> {
        let members = people.members(None, conversation);
        let names = members.iter().map(|member| member.user.user_id.to_string());
        names.collect()
    }

    #[test]
    fn a_new_conversation_has_members_however_many_there_were_before() {
        let mut people = People::default();
        let mut add = |conversation: &str, who: &str| {
            people.add(conversation, &user(who), Membership::Joined, 1);
        };
        add("first", "a");
        add("second", "c");
        for number in 0..CONVERSATIONS {
            add(&number.to_string(), &number.to_string());
            // It is used, so it stays.
            add("first", "b");
        }
        assert_eq!(names(&mut people, "65535"), ["65535"]);
        assert_eq!(names(&mut people, "first"), ["a", "b"]);
        assert!(names(&mut people, "second").is_empty());
        assert_eq!(people.conversations.len(), CONVERSATIONS);
        // Nothing is left of who was in what is forgotten.
        assert!(people.of.len() <= CONVERSATIONS + 1);
        assert!(people.conversations_of(&user("c")).is_empty());
    }

    #[test]
    fn one_member_more_than_may_be_is_refused() {
        let mut people = People::default();
        for number in 0..MAX_MEMBERS {
            let who = user(&number.to_string());
            assert_eq!(people.add("c", &who, Membership::Joined, 1), Added::New);
        }
        let (new, old) = (user("new"), user("7"));
        assert_eq!(people.add("c", &new, Membership::Joined, 1), Added::Full);
        assert_eq!(people.add("c", &old, Membership::Invited, 1), Added::Raised);
        assert!(people.remove("c", &old) && !people.remove("c", &old));
        assert_eq!(people.add("c", &new, Membership::Joined, 1), Added::New);
    }
}
