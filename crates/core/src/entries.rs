//! What the gateway tells of its connections, rooms and users: the shapes that
//! the API, hooks and the dashboard share.

use std::borrow::Cow;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::auth::Identity;

/// One socket as the registry knows it. One that is [suspended](ConnectionState::Suspended) is as
/// it was when its connection was lost; if a process before this one lost it, or another node,
/// nothing is known of its connection.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
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
    /// `websocket`, `polling` or `live`; empty, and absent in JSON, if it is not known.
    #[serde(default, skip_serializing_if = "str::is_empty")]
    pub transport: Cow<'static, str>,
    /// The namespace.
    pub namespace: String,
    /// The peer's address; empty, and absent in JSON, if it is not known.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub remote_addr: String,
    /// The `User-Agent` header, cut to 256 bytes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub user_agent: Option<String>,
    /// The word for its [`ConnectionState`].
    pub state: Cow<'static, str>,
    /// Unix milliseconds; this and the next two: 0, and absent in JSON, if it is not known.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub connected_at: u64,
    /// Unix milliseconds of the last packet of any kind from the client.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub last_seen_at: u64,
    /// Unix milliseconds of the last application event from the client.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub last_activity_at: u64,
    /// The last ping's round trip, milliseconds; absent before the first.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rtt_ms: Option<f64>,
    /// Rooms it is in, its `user:ID` room included.
    pub rooms: Vec<String>,
}

fn is_zero(number: &u64) -> bool {
    *number == 0
}

impl SocketEntry {
    /// What an identity says of the socket of this id.
    pub fn of(socket_id: String, identity: &Identity) -> SocketEntry {
        let user = identity.user.as_deref();
        let text = |value: Option<&Arc<str>>| value.map(ToString::to_string);
        SocketEntry {
            socket_id,
            user_id: user.map(|user| user.user_id.to_string()),
            user_type: text(user.and_then(|user| user.user_type.as_ref())),
            tenant_id: text(identity.tenant_id()),
            device_id: text(identity.device_id.as_ref()),
            wallet_address: text(identity.wallet_address.as_ref()),
            ..SocketEntry::default()
        }
    }
}

/// Whether a socket has a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ConnectionState {
    /// It has.
    Connected,
    /// Its connection is gone, and its client may still come back to what it had.
    Suspended,
}

impl ConnectionState {
    /// The contract's word.
    pub fn as_str(self) -> &'static str {
        match self {
            ConnectionState::Connected => "connected",
            ConnectionState::Suspended => "suspended",
        }
    }
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
    /// `false` where events are kept for who comes back (`recovery.window`), and those of this
    /// room are not (`recovery.rooms`); absent otherwise.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kept: Option<bool>,
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

impl UserPresence {
    /// The same of the one type that is meant, if all of it is of one moment.
    #[must_use]
    pub fn of_type(self, user_type: &str) -> UserPresence {
        let is_meant = |one: &TypePresence| one.user_type.as_deref() == Some(user_type);
        let mut types = self.types;
        types.retain(is_meant);
        let known = types.first();
        UserPresence {
            online: known.is_some_and(|one| one.is_there),
            devices: known.map_or(0, |one| one.devices),
            last_seen_at: known.and_then(|one| one.last_seen_at),
            rev: known.map_or(0, |one| one.rev),
            // Who has come and is not announced has the number of their going until then.
            stale: self.stale || known.is_some_and(|one| one.is_there && !one.online),
            user_id: self.user_id,
            types,
        }
    }
}

/// Whether a user of one type was announced as online.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TypePresence {
    /// The kind of user.
    pub user_type: Option<Arc<str>>,
    /// What was announced last.
    pub online: bool,
    /// The number of that.
    pub rev: u64,
    /// Whether any connection of this type is live (or within its grace).
    pub is_there: bool,
    /// On how many devices it is, when it was asked about.
    pub devices: usize,
    /// When it was seen last, Unix milliseconds, if that is known.
    pub last_seen_at: Option<u64>,
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
    /// What is not in it, nor in the parts before or after.
    #[serde(flatten)]
    pub missing: Missing,
}

/// What is missing in an answer that is to be of all nodes.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Missing {
    /// Nodes that did not answer: what is there is missing.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub unreachable: Vec<String>,
    /// The answer may not be the whole: nodes did not answer, or it is not known at present which
    /// there are. Absent in JSON otherwise.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub partial: bool,
}

impl Missing {
    /// A node did not answer.
    pub fn add(&mut self, node_id: &str) {
        self.partial = true;
        if !self.unreachable.iter().any(|known| *known == *node_id) {
            self.unreachable.push(node_id.to_owned());
        }
    }
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
    /// Only those that are connected, or those that are not.
    #[serde(default)]
    pub state: Option<ConnectionState>,
}

impl SocketFilter {
    /// Whether sockets in this state are meant.
    pub fn takes(&self, state: ConnectionState) -> bool {
        self.state.is_none_or(|wanted| wanted == state)
    }

    /// Whether a socket of an identity in a namespace is meant, whatever its state; `is_in` says
    /// whether it is in a room.
    pub fn fits(
        &self,
        identity: &Identity,
        namespace: &str,
        is_in: impl FnOnce(&str) -> bool,
    ) -> bool {
        let same = |wanted: &Option<String>, value: Option<&str>| {
            wanted.is_none() || wanted.as_deref() == value
        };
        let user_type = identity.user.as_ref().map(|user| user.user_type.as_deref());
        let tenant = identity.tenant_id().map(|tenant| &**tenant);
        same(&self.user_id, identity.user_id())
            && same(&self.user_type, user_type.flatten())
            && same(&self.tenant_id, tenant)
            && same(&self.namespace, Some(namespace))
            && self.room.as_deref().is_none_or(is_in)
    }
}

/// A name of what is known of users elsewhere: two are of one knowledge, or not.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Standing(pub [u64; 3]);
