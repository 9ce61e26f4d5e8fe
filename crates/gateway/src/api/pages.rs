//! Lists in pages: rooms in the order of their names, and cursors.

use std::collections::BTreeMap;

use heartline_core::entries::{Page, RoomEntry};

use super::BadCursor;
use crate::op::RoomPlace;

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
        })
        .collect();
    let next_cursor = items.last().filter(|_| more).map(|last| {
        let key = (&last.room, &last.namespace, &last.tenant_id);
        encode_cursor(&serde_json::to_string(&key).unwrap_or_default())
    });
    Page {
        items,
        next_cursor,
        unreachable: Vec::new(),
    }
}

fn encode_cursor(key: &str) -> String {
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
