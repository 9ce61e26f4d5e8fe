//! The members of rooms that one shard holds.

use std::ops::Range;
use std::sync::Arc;

use heartline_wire::id::Slot;

use crate::backplane::Subscription;
use crate::namespaces::NamespaceId;
use crate::rooms::directory::{Gap, Room, RoomDirectory, RoomRef};

/// A socket's place in a room.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Membership {
    pub(super) room: u32,
    position: u32,
}

struct LocalRoom {
    room: Arc<Room>,
    members: Vec<Slot>,
    /// Since which place in the line each of them is here; empty where nothing is kept.
    since: Vec<u64>,
    /// Offset of the last publication this shard has handed to the members.
    delivered: u64,
    /// The epoch in which it has its number.
    epoch: u64,
}

/// The members that one shard holds.
pub struct LocalRooms {
    directory: Arc<RoomDirectory>,
    shard: u16,
    rooms: Vec<Option<LocalRoom>>,
    free: Vec<u32>,
}

/// What joining came to.
#[derive(Debug, Clone)]
pub struct Joined {
    /// Tells this room from an earlier one of the same name.
    pub incarnation: u64,
    /// Offsets of different epochs do not compare: those of an earlier room, and those from
    /// before a loss.
    pub epoch: u64,
    /// The first publication the new member gets is the one after this.
    pub offset: u64,
    /// The same as a place in the line, where publications are kept; else 0.
    pub since: u64,
    /// Where those of other nodes come from.
    pub held: Option<Arc<dyn Subscription>>,
}

impl LocalRooms {
    /// No members yet, in the shard of this number.
    pub fn new(directory: Arc<RoomDirectory>, shard: u16) -> Self {
        LocalRooms {
            directory,
            shard,
            rooms: Vec::new(),
            free: Vec::new(),
        }
    }

    /// Puts `slot` into a room. `memberships` are those of its socket. Joining
    /// twice changes nothing. `place` is that of the last kept event which this shard has
    /// delivered.
    pub fn join(
        &mut self,
        namespace: NamespaceId,
        tenant: Option<&Arc<str>>,
        name: &str,
        slot: Slot,
        memberships: &mut Vec<Membership>,
        place: u64,
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
        let mut since = place;
        let index = known.unwrap_or_else(|| {
            let index = self.free.pop().unwrap_or_else(|| {
                self.rooms.push(None);
                self.rooms.len() as u32 - 1
            });
            let entered = self.directory.enter(&key, tenant, self.shard, index);
            since = since.max(entered.last);
            self.rooms[index as usize] = Some(LocalRoom {
                room: entered.room,
                members: Vec::new(),
                since: Vec::new(),
                delivered: entered.offset,
                epoch: entered.epoch,
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
            if local.room.is_kept() {
                local.since.push(since);
            }
        }
        Joined {
            incarnation: local.room.incarnation,
            epoch: local.epoch,
            offset: local.delivered,
            since: if local.room.is_kept() { since } else { 0 },
            held: local.room.subscription.clone(),
        }
    }

    /// Takes a member out. `moved` is told which slot has another position now.
    pub fn leave(
        &mut self,
        membership: Membership,
        mut moved: impl FnMut(Slot, Membership, Membership),
    ) {
        let Some(local) = &mut self.rooms[membership.room as usize] else {
            return;
        };
        let last = local.members.len() as u32 - 1;
        local.members.swap_remove(membership.position as usize);
        if local.room.is_kept() {
            local.since.swap_remove(membership.position as usize);
        }
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
            let emptied = self.rooms[membership.room as usize].take();
            if let Some(LocalRoom { room, .. }) = emptied {
                self.directory.exit(room, self.shard);
            }
            self.free.push(membership.room);
        } else if local.members.capacity() > 64
            && local.members.len() < local.members.capacity() / 4
        {
            local.members.shrink_to(local.members.len() * 2);
            local.since.shrink_to(local.members.len() * 2);
        }
    }

    /// The offset of the last publication of a room that its members here were handed; `None`: it
    /// has none here.
    pub fn delivered(&self, room: &Room) -> Option<u64> {
        let local = self.rooms.get(room.local(self.shard)? as usize)?;
        local.as_ref().map(|local| local.delivered)
    }

    /// The members of a room here; marks `offset` as handed to them.
    pub fn deliver(&mut self, room: &Room, offset: u64) -> Option<Vec<Slot>> {
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

    /// The members of a room here, who are in a new epoch from now on. As
    /// [`deliver`](Self::deliver).
    pub fn begin_epoch(&mut self, room: &Room, gap: Gap) -> Option<Vec<Slot>> {
        let members = self.deliver(room, gap.offset)?;
        let index = room.local(self.shard)?;
        if let Some(Some(local)) = self.rooms.get_mut(index as usize) {
            // Its numbers may be smaller than those of the one before.
            (local.epoch, local.delivered) = (gap.epoch, gap.offset);
        }
        Some(members)
    }

    /// It is known how far a room is: who is in it has heard of nothing yet. True: there are
    /// members.
    pub fn begin(&mut self, room: &Room, from: Gap) -> bool {
        let local = room.local(self.shard);
        let local = local.and_then(|index| self.rooms.get_mut(index as usize)?.as_mut());
        let Some(local) = local.filter(|local| local.room.incarnation == room.incarnation) else {
            return false;
        };
        (local.epoch, local.delivered) = (from.epoch, from.offset);
        for since in &mut local.since {
            *since = from.place.max(*since);
        }
        true
    }

    /// Gives back what `deliver` took.
    pub fn restore(&mut self, room: &Room, members: Vec<Slot>) {
        let local = room
            .local(self.shard)
            .and_then(|index| self.rooms.get_mut(index as usize))
            .and_then(Option::as_mut);
        if let Some(local) = local {
            local.members = members;
        }
    }

    /// How many members a room has here.
    pub fn count(&self, room: &Room) -> usize {
        room.local(self.shard)
            .and_then(|index| self.rooms.get(index as usize)?.as_ref())
            .map_or(0, |local| local.members.len())
    }

    /// The members of a room here.
    pub fn members(&self, room: &Room) -> &[Slot] {
        room.local(self.shard)
            .and_then(|index| self.rooms.get(index as usize)?.as_ref())
            .map_or(&[], |local| &local.members)
    }

    /// The place in the line since which a member is here; 0 where nothing is kept.
    pub fn since(&self, membership: Membership) -> u64 {
        let local = self.rooms.get(membership.room as usize);
        let local = local.and_then(Option::as_ref);
        let since = local.and_then(|local| local.since.get(membership.position as usize));
        since.copied().unwrap_or(0)
    }

    /// A member was here since an earlier place: it has come back.
    pub fn set_since(&mut self, membership: Membership, place: u64) {
        let local = self.rooms.get_mut(membership.room as usize);
        let local = local.and_then(Option::as_mut);
        let since = local.and_then(|local| local.since.get_mut(membership.position as usize));
        if let Some(since) = since {
            *since = place;
        }
    }

    /// The room of a membership.
    pub fn room(&self, membership: Membership) -> Option<&Arc<Room>> {
        self.rooms
            .get(membership.room as usize)?
            .as_ref()
            .map(|local| &local.room)
    }

    /// Places in this shard's list of rooms, some of them empty.
    pub fn places(&self) -> usize {
        self.rooms.len()
    }

    /// The rooms at some of the places, with their members here.
    pub fn at(&self, places: Range<usize>) -> impl Iterator<Item = (&Arc<Room>, &[Slot])> {
        let end = places.end.min(self.rooms.len());
        self.rooms[places.start.min(end)..end]
            .iter()
            .flatten()
            .map(|local| (&local.room, &*local.members))
    }

    /// All rooms with their members here.
    pub fn iter(&self) -> impl Iterator<Item = (&Arc<Room>, &[Slot])> {
        self.at(0..self.rooms.len())
    }
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
        rooms.join(NamespaceId::ROOT, None, "r", Slot(1), &mut a, 0);
        rooms.join(NamespaceId::ROOT, None, "r", Slot(2), &mut b, 0);
        rooms.join(NamespaceId::ROOT, None, "r", Slot(2), &mut b, 0);
        assert_eq!((directory.count(), b.len()), (1, 1));
        rooms.leave(a[0], |slot, from, to| {
            assert_eq!((slot, from), (Slot(2), b[0]));
            b[0] = to;
        });
        rooms.leave(b[0], |_, _, _| unreachable!());
        assert_eq!((directory.count(), rooms.iter().count()), (0, 0));
    }

    #[test]
    fn tenants_and_namespaces_do_not_share_rooms() {
        let directory = Arc::new(RoomDirectory::new(1));
        let mut rooms = LocalRooms::new(directory.clone(), 0);
        let tenant: Arc<str> = "t".into();
        rooms.join(NamespaceId::ROOT, None, "r", Slot(1), &mut Vec::new(), 0);
        rooms.join(
            NamespaceId::ROOT,
            Some(&tenant),
            "r",
            Slot(2),
            &mut Vec::new(),
            0,
        );
        rooms.join(NamespaceId(1), None, "r", Slot(3), &mut Vec::new(), 0);
        assert_eq!(directory.count(), 3);
    }

    #[test]
    fn a_joiner_learns_the_numbers_of_the_epoch_that_began() {
        let directory = Arc::new(RoomDirectory::new(1));
        let mut rooms = LocalRooms::new(directory.clone(), 0);
        let (mut one, mut other) = (Vec::new(), Vec::new());
        rooms.join(NamespaceId::ROOT, None, "r", Slot(1), &mut one, 0);
        let room = rooms.room(one[0]).unwrap().clone();
        let members = rooms.deliver(&room, 55).unwrap();
        rooms.restore(&room, members);
        // The store has forgotten: numbers begin at 1.
        let gap = Gap {
            epoch: 9,
            offset: 2,
            place: 100,
        };
        let members = rooms.begin_epoch(&room, gap).unwrap();
        rooms.restore(&room, members);
        let joined = rooms.join(NamespaceId::ROOT, None, "r", Slot(2), &mut other, 0);
        assert_eq!((joined.epoch, joined.offset), (9, 2));
    }

    #[test]
    fn a_joiner_learns_the_offset_its_shard_has_reached() {
        let directory = Arc::new(RoomDirectory::new(1));
        let mut rooms = LocalRooms::new(directory.clone(), 0);
        assert_eq!(
            rooms
                .join(NamespaceId::ROOT, None, "r", Slot(1), &mut Vec::new(), 0)
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
                .join(NamespaceId::ROOT, None, "r", Slot(2), &mut Vec::new(), 0)
                .offset,
            0
        );
        let members = rooms.deliver(&room, offset).unwrap();
        assert_eq!(members, [Slot(1), Slot(2)]);
        rooms.restore(&room, members);
        assert_eq!(
            rooms
                .join(NamespaceId::ROOT, None, "r", Slot(3), &mut Vec::new(), 0)
                .offset,
            1
        );
    }

    #[test]
    fn after_a_loss_a_rooms_numbers_go_on_in_a_new_epoch_once_the_shard_has_told_it() {
        let directory = Arc::new(RoomDirectory::new(1));
        let mut rooms = LocalRooms::new(directory.clone(), 0);
        let join = |rooms: &mut LocalRooms, slot| {
            let slot = Slot(slot);
            let joined = rooms.join(NamespaceId::ROOT, None, "r", slot, &mut Vec::new(), 0);
            (joined.epoch, joined.offset)
        };
        let (before, _) = join(&mut rooms, 1);
        let [room] = &directory.all()[..] else {
            panic!("one room");
        };
        let offset = room.publish(|offset| offset, |_, _| {});
        let mut told = Vec::new();
        directory.begin_epoch(room, None, |_| (), |shard, gap| told.push((shard, gap)));
        let [(0, gap)] = told[..] else {
            panic!("{told:?}");
        };
        assert_eq!((gap.offset, gap.place), (1, 0));
        assert_ne!(gap.epoch, before);
        // Both are in the mailbox still.
        assert_eq!(join(&mut rooms, 2), (before, 0));
        let members = rooms.deliver(room, offset).unwrap();
        rooms.restore(room, members);
        assert_eq!(join(&mut rooms, 3), (before, 1));
        let members = rooms.begin_epoch(room, gap).unwrap();
        assert_eq!(members, [Slot(1), Slot(2), Slot(3)]);
        rooms.restore(room, members);
        assert_eq!(join(&mut rooms, 4), (gap.epoch, 1));
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
                    rooms.join(NamespaceId::ROOT, None, name, Slot(slot), &mut sockets[slot as usize], 0);
                    model.insert((name, Slot(slot)));
                } else if model.remove(&(name, Slot(slot))) {
                    let index = sockets[slot as usize].iter()
                        .position(|m| &*rooms.room(*m).unwrap().key.name == name).unwrap();
                    let membership = sockets[slot as usize].swap_remove(index);
                    rooms.leave(membership, |moved, from, to| {
                        let entry = sockets[moved.index()].iter_mut().find(|m| **m == from).unwrap();
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
