//! What the gateway tells of its connections, rooms and users: the shapes that
//! the API, hooks and the dashboard share.

use std::borrow::Cow;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

/// One socket as the registry knows it.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SocketEntry {
    /// The socket's id.
    pub socket_id: String,
    /// The user, if authenticated.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub user_id: Option<String>,
    /// The kind of user.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub user_type: Option<String>,
    /// The tenant.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tenant_id: Option<String>,
    /// The device.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub device_id: Option<String>,
    /// The wallet address.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub wallet_address: Option<String>,
    /// The node that holds it.
    pub node_id: String,
    /// `websocket`, `polling` or `live`.
    pub transport: Cow<'static, str>,
    /// The namespace.
    pub namespace: String,
    /// The peer's address.
    pub remote_addr: String,
    /// The `User-Agent` header, cut to 256 bytes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub user_agent: Option<String>,
    /// `connected`.
    pub state: Cow<'static, str>,
    /// Unix milliseconds.
    pub connected_at: u64,
    /// Unix milliseconds of the last packet of any kind from the client.
    pub last_seen_at: u64,
    /// Unix milliseconds of the last application event from the client.
    pub last_activity_at: u64,
    /// The last ping's round trip, milliseconds; absent before the first.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rtt_ms: Option<f64>,
    /// Rooms it is in, its `user:ID` room included.
    pub rooms: Vec<String>,
}

/// A member of a conversation.
#[derive(Debug, Clone, Serialize, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct ConversationMember {
    /// The user.
    pub user_id: String,
    /// The kind of user.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub user_type: Option<String>,
    /// By an invite or a backend: whatever rooms the user's token names.
    pub invited: bool,
    /// Since when, Unix milliseconds.
    pub joined_at: u64,
    /// The offset of the last message that was read; 0: none.
    pub read_offset: u64,
}

/// A user in a room.
#[derive(Debug, Clone, Serialize, Deserialize, PartialEq, Eq, PartialOrd, Ord)]
#[serde(rename_all = "camelCase")]
pub struct MemberEntry {
    /// The user.
    pub user_id: String,
    /// The kind of user.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub user_type: Option<String>,
    /// How many of the user's devices are in the room.
    pub devices: usize,
}

/// One room.
#[derive(Debug, Clone, Serialize, Deserialize, PartialEq, Eq, PartialOrd, Ord)]
#[serde(rename_all = "camelCase")]
pub struct RoomEntry {
    /// The room's name.
    pub room: String,
    /// The namespace.
    pub namespace: String,
    /// The tenant.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tenant_id: Option<String>,
    /// Sockets in it.
    pub members: usize,
}

/// Whether a user is there.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct UserPresence {
    /// The user.
    pub user_id: String,
    /// Whether any connection of the user is live (or within its grace).
    pub online: bool,
    /// How many devices are connected.
    pub devices: usize,
    /// Unix milliseconds; absent for a user never seen by this node.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_seen_at: Option<u64>,
    /// The number of the last change that is known: it grows with each, also over a restart. 0:
    /// none is.
    pub rev: u64,
    /// What other nodes have may be missing: the cluster's store could not be asked, or is not to
    /// be believed at present. Whoever has a socket at the node that answers is online all the
    /// same. Absent otherwise.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub stale: bool,
    /// The same of each type of user that is known; those without an entry are offline.
    #[serde(skip)]
    pub types: Vec<TypePresence>,
}

/// Whether a user of one type was announced as online.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TypePresence {
    /// The kind of user.
    pub user_type: Option<Arc<str>>,
    /// What was announced last.
    pub online: bool,
    /// The number of that.
    pub rev: u64,
}

/// One node.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct NodeEntry {
    /// Its id.
    pub node_id: String,
    /// `ready`, `degraded`, `draining`, or `unreachable` for one that does not answer.
    pub state: Cow<'static, str>,
    /// Transport sessions there.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub connections: Option<usize>,
    /// Users with connections there.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub users: Option<usize>,
    /// Since it started.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub uptime_seconds: Option<u64>,
    /// What it runs.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub version: Option<String>,
}

/// A part of a list and where the next part begins.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Page<T> {
    /// This part.
    pub items: Vec<T>,
    /// Give this back to get the next part; absent at the end.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub next_cursor: Option<String>,
    /// Nodes that did not answer: what is there is missing.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub unreachable: Vec<String>,
}

/// Which sockets to list; all fields must fit.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct SocketFilter {
    /// Only this user's.
    pub user_id: Option<String>,
    /// Only this kind of user.
    pub user_type: Option<String>,
    /// Only this tenant's.
    pub tenant_id: Option<String>,
    /// Only in this namespace.
    pub namespace: Option<String>,
    /// Only in this room.
    pub room: Option<String>,
}
