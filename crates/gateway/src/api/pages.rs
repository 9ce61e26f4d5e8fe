//! Lists in pages: sockets, rooms in the order of their names, members, and cursors.

use std::collections::BTreeMap;

use heartline_core::auth::UserKey;
use heartline_core::entries::{MemberEntry, Missing, Page, RoomEntry, SocketEntry};
use heartline_wire::id::Slot;

use super::{BadCursor, MAX_MEMBERS};
use crate::op::{ListPlace, RoomPlace};

/// Rooms by name, namespace and tenant, and how many are in them.
pub(crate) type RoomsByKey = BTreeMap<RoomPlace, usize>;

/// The first rooms as a page; with `more`, there are others behind them.
pub(crate) fn rooms_page(all: RoomsByKey, limit: usize, more: bool) -> Page<RoomEntry> {
    let items: Vec<RoomEntry> = all
        .into_iter()
        .take(limit)
        .map(|((room, namespace, tenant_id), members)| RoomEntry {
            room,
            namespace,
            tenant_id,
            members,
            kept: None,
        })
        .collect();
    let next_cursor = items.last().filter(|_| more).map(|last| {
        let key = (&last.room, &last.namespace, &last.tenant_id);
        encode_cursor(&serde_json::to_string(&key).unwrap_or_default())
    });
    Page {
        items,
        next_cursor,
        missing: Missing::default(),
    }
}

/// A place in the list of a node's sockets: those that are connected come first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum SocketPlace {
    /// A shard, and a place in its list.
    Connected(u16, ListPlace),
    /// Among those that are suspended, which loss.
    Suspended(u64),
}

/// What the cursor of a place among suspended sockets begins with.
const SUSPENDED: &str = "lost.";

impl SocketPlace {
    /// Where the list begins.
    pub(crate) const FIRST: SocketPlace = SocketPlace::Connected(0, (Slot(0), 0));

    fn cursor(self) -> String {
        match self {
            SocketPlace::Connected(shard, (slot, namespace)) => {
                format!("{shard}.{}.{namespace}", slot.0)
            }
            SocketPlace::Suspended(loss) => format!("{SUSPENDED}{loss}"),
        }
    }

    /// The place of a cursor; `None` for what is none.
    pub(crate) fn parse(cursor: &str) -> Option<SocketPlace> {
        if let Some(loss) = cursor.strip_prefix(SUSPENDED) {
            return loss.parse().ok().map(SocketPlace::Suspended);
        }
        let mut parts = cursor.split('.');
        let shard = parts.next()?.parse().ok()?;
        let slot = Slot(parts.next()?.parse().ok()?);
        let place = (slot, parts.next()?.parse().ok()?);
        let is_all = parts.next().is_none();
        is_all.then_some(SocketPlace::Connected(shard, place))
    }
}

/// The first sockets as a page; the next one begins with what is over the limit.
pub(crate) fn sockets_page(
    mut found: Vec<(SocketPlace, SocketEntry)>,
    limit: usize,
) -> Page<SocketEntry> {
    let next = found.get(limit).map(|(place, _)| place.cursor());
    found.truncate(limit);
    Page {
        items: found.into_iter().map(|(_, entry)| entry).collect(),
        next_cursor: next,
        missing: Missing::default(),
    }
}

/// Users by id and type, and how many of their devices are somewhere.
pub(crate) type DevicesByUser = BTreeMap<(String, Option<String>), usize>;

/// Counts devices of a user, if not too many other users are counted already.
pub(crate) fn count_devices(users: &mut DevicesByUser, user: &UserKey, devices: usize) {
    let key = (
        user.user_id.to_string(),
        user.user_type.as_ref().map(ToString::to_string),
    );
    if devices > 0 && (users.len() < MAX_MEMBERS || users.contains_key(&key)) {
        *users.entry(key).or_default() += devices;
    }
}

/// The first of them.
pub(crate) fn member_entries(users: DevicesByUser) -> Vec<MemberEntry> {
    let entry = |((user_id, user_type), devices)| MemberEntry {
        user_id,
        user_type,
        devices,
    };
    users.into_iter().take(MAX_MEMBERS).map(entry).collect()
}

/// Sees to it that a user who comes into a room is in the list of its members, with one more
/// device if that `is_new` there. Of too many members the last one makes room.
pub(crate) fn count_newcomer(members: &mut Vec<MemberEntry>, user: &UserKey, is_new: bool) {
    let key = (&*user.user_id, user.user_type.as_deref());
    let of = |member: &MemberEntry| (&*member.user_id, member.user_type.as_deref()).cmp(&key);
    match members.binary_search_by(of) {
        Ok(own) => members[own].devices += usize::from(is_new),
        Err(place) => {
            members.truncate(MAX_MEMBERS - 1);
            let (user_id, user_type) = (key.0.to_owned(), key.1.map(ToOwned::to_owned));
            let entry = MemberEntry {
                user_id,
                user_type,
                devices: 1,
            };
            members.insert(place.min(members.len()), entry);
        }
    }
}

pub(crate) fn encode_cursor(key: &str) -> String {
    use base64::Engine as _;
    base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(key)
}

pub(crate) fn decode_cursor(cursor: &str) -> Result<String, BadCursor> {
    use base64::Engine as _;
    let bytes = base64::engine::general_purpose::URL_SAFE_NO_PAD
        .decode(cursor)
        .map_err(|_| BadCursor)?;
    String::from_utf8(bytes).map_err(|_| BadCursor)
}
