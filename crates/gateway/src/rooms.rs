//! Rooms: who hears what.
//!
//! A room lives as long as it has a member. Its members are in the shards, as
//! plain vectors of slots; a member keeps its position, so leaving is a swap.
//! The [`RoomDirectory`] knows which shards have members, numbers a room's
//! publications, and puts them into the shards' mailboxes under the room's
//! lock, so that all see them in the order of their offsets.

use std::hash::{BuildHasher, Hash, Hasher};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use hashbrown::{DefaultHashBuilder, Equivalent, HashMap};

use crate::auth::{Identity, RoomPattern};
use crate::backplane::Subscription;
use crate::namespaces::NamespaceId;

/// Longest room name, bytes.
pub(crate) const MAX_NAME: usize = 256;
const PARTS: usize = 64;
const NONE: u32 = u32::MAX;

/// A room's name within its tenant and namespace.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct RoomKey {
    pub(crate) namespace: NamespaceId,
    pub(crate) tenant: Option<Arc<str>>,
    pub(crate) name: Arc<str>,
}

/// The same, borrowed, for looking up.
pub(crate) struct RoomRef<'a> {
    pub(crate) namespace: NamespaceId,
    pub(crate) tenant: Option<&'a str>,
    pub(crate) name: &'a str,
}

impl Hash for RoomRef<'_> {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.namespace.hash(state);
        self.tenant.hash(state);
        self.name.hash(state);
    }
}

impl Equivalent<RoomKey> for RoomRef<'_> {
    fn equivalent(&self, key: &RoomKey) -> bool {
        self.namespace == key.namespace
            && self.tenant == key.tenant.as_deref()
            && *self.name == *key.name
    }
}

/// A room that has members.
#[derive(Debug)]
pub(crate) struct Room {
    pub(crate) key: RoomKey,
    /// Tells this room from an earlier one of the same name.
    pub(crate) incarnation: u64,
    /// Publications so far. Held while one is handed to the shards.
    sequence: Mutex<u64>,
    /// Other nodes' publications come as long as the room is there.
    subscription: Option<Arc<dyn Subscription>>,
    /// Index of the member list in each shard.
    locals: Box<[AtomicU32]>,
}

impl Room {
    /// The shard's index of its member list.
    pub(crate) fn local(&self, shard: u16) -> Option<u32> {
        let local = self.locals[usize::from(shard)].load(Ordering::Acquire);
        (local != NONE).then_some(local)
    }

    fn is_empty(&self) -> bool {
        self.locals
            .iter()
            .all(|local| local.load(Ordering::Acquire) == NONE)
    }

    /// Numbers a publication and hands it, by `to_shard`, to each shard with
    /// members, in order.
    pub(crate) fn publish<T>(
        &self,
        make: impl FnOnce(u64) -> T,
        mut to_shard: impl FnMut(usize, &T),
    ) -> u64 {
        let mut sequence = self.sequence.lock().unwrap_or_else(PoisonError::into_inner);
        *sequence += 1;
        let publication = make(*sequence);
        for (shard, local) in self.locals.iter().enumerate() {
            if local.load(Ordering::Acquire) != NONE {
                to_shard(shard, &publication);
            }
        }
        *sequence
    }
}

type Part = Mutex<HashMap<RoomKey, Arc<Room>>>;

/// The rooms of this node.
pub(crate) struct RoomDirectory {
    parts: Vec<Part>,
    hasher: DefaultHashBuilder,
    shards: usize,
    incarnations: std::sync::atomic::AtomicU64,
    subscribe: OnceLock<Subscribe>,
}

/// Tells the backplane of a room that has members from now on.
type Subscribe = Box<dyn Fn(&RoomKey) -> Option<Arc<dyn Subscription>> + Send + Sync>;

impl RoomDirectory {
    pub(crate) fn new(shards: usize) -> Self {
        RoomDirectory {
            parts: (0..PARTS).map(|_| Mutex::default()).collect(),
            hasher: DefaultHashBuilder::default(),
            shards,
            incarnations: std::sync::atomic::AtomicU64::new(1),
            subscribe: OnceLock::new(),
        }
    }

    /// Has `subscribe` called for each room that comes to be.
    pub(crate) fn on_open(
        &self,
        subscribe: impl Fn(&RoomKey) -> Option<Arc<dyn Subscription>> + Send + Sync + 'static,
    ) {
        let _ = self.subscribe.set(Box::new(subscribe));
    }

    fn part(&self, room: &RoomRef<'_>) -> &Part {
        &self.parts[(self.hasher.hash_one(room) >> 48) as usize % PARTS]
    }

    /// The room, if it has members.
    pub(crate) fn find(&self, room: &RoomRef<'_>) -> Option<Arc<Room>> {
        let part = self
            .part(room)
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        part.get(room).cloned()
    }

    /// Announces that a shard has members under `local`. Answers the room and
    /// how many publications it has had: the first this shard will get is the next.
    fn enter(
        &self,
        room: &RoomRef<'_>,
        tenant: Option<&Arc<str>>,
        shard: u16,
        local: u32,
    ) -> (Arc<Room>, u64) {
        let mut part = self
            .part(room)
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let found = match part.get(room) {
            Some(found) => found.clone(),
            None => {
                let key = RoomKey {
                    namespace: room.namespace,
                    tenant: tenant.cloned(),
                    name: room.name.into(),
                };
                let subscribe = self.subscribe.get();
                let made = Arc::new(Room {
                    subscription: subscribe.and_then(|subscribe| subscribe(&key)),
                    key: key.clone(),
                    incarnation: self.incarnations.fetch_add(1, Ordering::Relaxed),
                    sequence: Mutex::new(0),
                    locals: (0..self.shards).map(|_| AtomicU32::new(NONE)).collect(),
                });
                part.insert(key, made.clone());
                made
            }
        };
        let offset = {
            let sequence = found
                .sequence
                .lock()
                .unwrap_or_else(PoisonError::into_inner);
            found.locals[usize::from(shard)].store(local, Ordering::Release);
            *sequence
        };
        (found, offset)
    }

    /// Announces that a shard has no members any more.
    fn exit(&self, room: &Room, shard: u16) {
        let key = RoomRef {
            namespace: room.key.namespace,
            tenant: room.key.tenant.as_deref(),
            name: &room.key.name,
        };
        let mut part = self
            .part(&key)
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        room.locals[usize::from(shard)].store(NONE, Ordering::Release);
        if room.is_empty() {
            part.remove(&key);
            if part.is_empty() {
                part.shrink_to_fit();
            }
        }
    }

    /// How many rooms there are.
    pub(crate) fn len(&self) -> usize {
        self.parts
            .iter()
            .map(|part| part.lock().unwrap_or_else(PoisonError::into_inner).len())
            .sum()
    }
}

/// A socket's place in a room.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Membership {
    pub(crate) room: u32,
    position: u32,
}

struct LocalRoom {
    room: Arc<Room>,
    members: Vec<u32>,
    /// Offset of the last publication this shard has handed to the members.
    delivered: u64,
}

/// The members that one shard holds.
pub(crate) struct LocalRooms {
    directory: Arc<RoomDirectory>,
    shard: u16,
    rooms: Vec<Option<LocalRoom>>,
    free: Vec<u32>,
}

/// What joining came to.
#[derive(Debug, Clone)]
pub(crate) struct Joined {
    pub(crate) incarnation: u64,
    /// The first publication the new member gets is the one after this.
    pub(crate) offset: u64,
    /// Where those of other nodes come from.
    pub(crate) held: Option<Arc<dyn Subscription>>,
}

impl LocalRooms {
    pub(crate) fn new(directory: Arc<RoomDirectory>, shard: u16) -> Self {
        LocalRooms {
            directory,
            shard,
            rooms: Vec::new(),
            free: Vec::new(),
        }
    }

    /// Puts `slot` into a room. `memberships` are those of its socket. Joining
    /// twice changes nothing.
    pub(crate) fn join(
        &mut self,
        namespace: NamespaceId,
        tenant: Option<&Arc<str>>,
        name: &str,
        slot: u32,
        memberships: &mut Vec<Membership>,
    ) -> Joined {
        let key = RoomRef {
            namespace,
            tenant: tenant.map(|tenant| &**tenant),
            name,
        };
        let known = self
            .directory
            .find(&key)
            .and_then(|room| room.local(self.shard));
        let index = known.unwrap_or_else(|| {
            let index = self.free.pop().unwrap_or_else(|| {
                self.rooms.push(None);
                self.rooms.len() as u32 - 1
            });
            let (room, delivered) = self.directory.enter(&key, tenant, self.shard, index);
            self.rooms[index as usize] = Some(LocalRoom {
                room,
                members: Vec::new(),
                delivered,
            });
            index
        });
        let Some(local) = &mut self.rooms[index as usize] else {
            unreachable!("a room that the directory names is there");
        };
        if !memberships.iter().any(|member| member.room == index) {
            memberships.push(Membership {
                room: index,
                position: local.members.len() as u32,
            });
            local.members.push(slot);
        }
        Joined {
            incarnation: local.room.incarnation,
            offset: local.delivered,
            held: local.room.subscription.clone(),
        }
    }

    /// Takes a member out. `moved` is told which slot has another position now.
    pub(crate) fn leave(
        &mut self,
        membership: Membership,
        mut moved: impl FnMut(u32, Membership, Membership),
    ) {
        let Some(local) = &mut self.rooms[membership.room as usize] else {
            return;
        };
        let last = local.members.len() as u32 - 1;
        local.members.swap_remove(membership.position as usize);
        if membership.position != last {
            let from = Membership {
                room: membership.room,
                position: last,
            };
            moved(
                local.members[membership.position as usize],
                from,
                membership,
            );
        }
        if local.members.is_empty() {
            self.directory.exit(&local.room, self.shard);
            self.rooms[membership.room as usize] = None;
            self.free.push(membership.room);
        } else if local.members.capacity() > 64
            && local.members.len() < local.members.capacity() / 4
        {
            local.members.shrink_to(local.members.len() * 2);
        }
    }

    /// The members of a room here; marks `offset` as handed to them.
    pub(crate) fn deliver(&mut self, room: &Room, offset: u64) -> Option<Vec<u32>> {
        let local = self
            .rooms
            .get_mut(room.local(self.shard)? as usize)?
            .as_mut()?;
        if local.room.incarnation != room.incarnation {
            return None;
        }
        local.delivered = local.delivered.max(offset);
        Some(std::mem::take(&mut local.members))
    }

    /// Gives back what `deliver` took.
    pub(crate) fn restore(&mut self, room: &Room, members: Vec<u32>) {
        let local = room
            .local(self.shard)
            .and_then(|index| self.rooms.get_mut(index as usize))
            .and_then(Option::as_mut);
        if let Some(local) = local {
            local.members = members;
        }
    }

    /// How many members a room has here.
    pub(crate) fn count(&self, room: &Room) -> usize {
        room.local(self.shard)
            .and_then(|index| self.rooms.get(index as usize)?.as_ref())
            .map_or(0, |local| local.members.len())
    }

    /// The members of a room here.
    pub(crate) fn members(&self, room: &Room) -> &[u32] {
        room.local(self.shard)
            .and_then(|index| self.rooms.get(index as usize)?.as_ref())
            .map_or(&[], |local| &local.members)
    }

    /// The room of a membership.
    pub(crate) fn room(&self, membership: Membership) -> Option<&Arc<Room>> {
        self.rooms
            .get(membership.room as usize)?
            .as_ref()
            .map(|local| &local.room)
    }

    /// All rooms with their members here.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (&Arc<Room>, &[u32])> {
        self.rooms
            .iter()
            .flatten()
            .map(|local| (&local.room, &*local.members))
    }
}

/// Why a room may not be joined or published to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum RoomError {
    Forbidden,
    Invalid,
    Limit,
}

impl RoomError {
    pub(crate) fn code(self) -> &'static str {
        match self {
            RoomError::Forbidden => "FORBIDDEN",
            RoomError::Invalid => "INVALID_ROOM",
            RoomError::Limit => "ROOM_LIMIT",
        }
    }

    pub(crate) fn message(self) -> &'static str {
        match self {
            RoomError::Forbidden => "This room is not open to you",
            RoomError::Invalid => "A room's name has 1 to 256 bytes and no control characters",
            RoomError::Limit => "You are in as many rooms as one socket may be in",
        }
    }
}

/// The prefix of rooms that belong to one user.
pub(crate) const PRIVATE: &str = "user:";

/// The prefix of rooms that belong to conversations.
const CONVERSATION: &str = "conversation:";

/// The room of a conversation.
pub(crate) fn of_conversation(id: &str) -> String {
    format!("{CONVERSATION}{id}")
}

/// The conversation whose room this is.
pub(crate) fn conversation_of(room: &str) -> Option<&str> {
    room.strip_prefix(CONVERSATION)
}

/// Whether `name` can be a room's name.
pub(crate) fn is_valid_name(name: &str) -> bool {
    !name.is_empty() && name.len() <= MAX_NAME && !name.chars().any(char::is_control)
}

/// Whether `identity` may do what `patterns` of its token are about.
fn allowed(
    name: &str,
    identity: &Identity,
    patterns: Option<&Arc<[RoomPattern]>>,
) -> Result<(), RoomError> {
    if !is_valid_name(name) {
        return Err(RoomError::Invalid);
    }
    if let Some(owner) = name.strip_prefix(PRIVATE) {
        return match identity.user_id() {
            Some(user) if user == owner => Ok(()),
            _ => Err(RoomError::Forbidden),
        };
    }
    match patterns {
        None => Ok(()),
        Some(patterns) if patterns.iter().any(|pattern| pattern.matches(name)) => Ok(()),
        Some(_) => Err(RoomError::Forbidden),
    }
}

/// Whether the room may be joined.
pub(crate) fn may_join(name: &str, identity: &Identity) -> Result<(), RoomError> {
    allowed(name, identity, identity.rooms.as_ref())
}

/// Whether the room may be published to.
pub(crate) fn may_publish(name: &str, identity: &Identity) -> Result<(), RoomError> {
    allowed(name, identity, identity.publish.as_ref())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_room_ends_with_its_last_member() {
        let directory = Arc::new(RoomDirectory::new(1));
        let mut rooms = LocalRooms::new(directory.clone(), 0);
        let (mut a, mut b) = (Vec::new(), Vec::new());
        rooms.join(NamespaceId::ROOT, None, "r", 1, &mut a);
        rooms.join(NamespaceId::ROOT, None, "r", 2, &mut b);
        rooms.join(NamespaceId::ROOT, None, "r", 2, &mut b);
        assert_eq!((directory.len(), b.len()), (1, 1));
        rooms.leave(a[0], |slot, from, to| {
            assert_eq!((slot, from), (2, b[0]));
            b[0] = to;
        });
        rooms.leave(b[0], |_, _, _| unreachable!());
        assert_eq!((directory.len(), rooms.iter().count()), (0, 0));
    }

    #[test]
    fn tenants_and_namespaces_do_not_share_rooms() {
        let directory = Arc::new(RoomDirectory::new(1));
        let mut rooms = LocalRooms::new(directory.clone(), 0);
        let tenant: Arc<str> = "t".into();
        rooms.join(NamespaceId::ROOT, None, "r", 1, &mut Vec::new());
        rooms.join(NamespaceId::ROOT, Some(&tenant), "r", 2, &mut Vec::new());
        rooms.join(NamespaceId(1), None, "r", 3, &mut Vec::new());
        assert_eq!(directory.len(), 3);
    }

    #[test]
    fn a_joiner_learns_the_offset_its_shard_has_reached() {
        let directory = Arc::new(RoomDirectory::new(1));
        let mut rooms = LocalRooms::new(directory.clone(), 0);
        assert_eq!(
            rooms
                .join(NamespaceId::ROOT, None, "r", 1, &mut Vec::new())
                .offset,
            0
        );
        let room = directory
            .find(&RoomRef {
                namespace: NamespaceId::ROOT,
                tenant: None,
                name: "r",
            })
            .unwrap();
        let offset = room.publish(|offset| offset, |_, _| {});
        // Published, but still in the mailbox: the joiner will get it.
        assert_eq!(
            rooms
                .join(NamespaceId::ROOT, None, "r", 2, &mut Vec::new())
                .offset,
            0
        );
        let members = rooms.deliver(&room, offset).unwrap();
        assert_eq!(members, [1, 2]);
        rooms.restore(&room, members);
        assert_eq!(
            rooms
                .join(NamespaceId::ROOT, None, "r", 3, &mut Vec::new())
                .offset,
            1
        );
    }

    #[test]
    fn private_rooms_are_their_owners() {
        let owner = Identity {
            user: Some(Arc::new(crate::auth::UserKey {
                tenant_id: None,
                user_id: "7".into(),
                user_type: None,
            })),
            rooms: Some([RoomPattern::new("*")].into()),
            ..Identity::default()
        };
        assert_eq!(may_join("user:7", &owner), Ok(()));
        assert_eq!(may_join("user:8", &owner), Err(RoomError::Forbidden));
        assert_eq!(
            may_join("user:7", &Identity::default()),
            Err(RoomError::Forbidden)
        );
        assert_eq!(may_join("lobby", &Identity::default()), Ok(()));
        assert_eq!(may_join("", &owner), Err(RoomError::Invalid));
        assert_eq!(may_join("a\nb", &owner), Err(RoomError::Invalid));
    }

    proptest! {
        #[test]
        fn positions_stay_true(ops in prop::collection::vec((0u32..8, 0usize..4, prop::bool::ANY), 1..200)) {
            let directory = Arc::new(RoomDirectory::new(1));
            let mut rooms = LocalRooms::new(directory, 0);
            let mut sockets: Vec<Vec<Membership>> = vec![Vec::new(); 8];
            let mut model = std::collections::BTreeSet::new();
            for (slot, room, join) in ops {
                let name = ["a", "b", "c", "d"][room];
                if join {
                    rooms.join(NamespaceId::ROOT, None, name, slot, &mut sockets[slot as usize]);
                    model.insert((name, slot));
                } else if model.remove(&(name, slot)) {
                    let index = sockets[slot as usize].iter()
                        .position(|m| &*rooms.room(*m).unwrap().key.name == name).unwrap();
                    let membership = sockets[slot as usize].swap_remove(index);
                    rooms.leave(membership, |moved, from, to| {
                        let entry = sockets[moved as usize].iter_mut().find(|m| **m == from).unwrap();
                        *entry = to;
                    });
                }
                let real: std::collections::BTreeSet<_> = rooms.iter()
                    .flat_map(|(room, members)| members.iter().map(|m| (room.key.name.to_string(), *m)))
                    .collect();
                let expected: std::collections::BTreeSet<_> = model.iter()
                    .map(|(name, slot)| ((*name).to_string(), *slot)).collect();
                prop_assert_eq!(real, expected);
            }
        }
    }
}
