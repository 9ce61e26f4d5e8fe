//! What a namespace allows: its configuration, read once.

use std::time::Duration;

/// Settings that may differ from namespace to namespace.
#[derive(Debug, Clone)]
pub struct NamespaceConfig {
    /// Who may connect.
    pub auth_mode: AuthMode,
    /// How many devices a user may have.
    pub devices: DevicePolicy,
    /// How many sockets a user key may have, whatever the policy: what is asked about a user
    /// costs as much as it has sockets.
    pub max_sockets: usize,
    /// Rate limits.
    pub limits: LimitsConfig,
    /// Who hears `user:online` and `user:offline`.
    pub announce: Announce,
}

impl Default for NamespaceConfig {
    fn default() -> Self {
        NamespaceConfig {
            auth_mode: AuthMode::default(),
            devices: DevicePolicy::default(),
            max_sockets: 1_000,
            limits: LimitsConfig::default(),
            announce: Announce::default(),
        }
    }
}

/// Who may connect to a namespace.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum AuthMode {
    /// Only sockets with a valid token.
    #[default]
    Required,
    /// Anonymous sockets too; a token that is presented must be valid.
    Optional,
    /// Everybody is anonymous; tokens are not looked at.
    Off,
}

/// Who may join a conversation that their token does not name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum ConversationAccess {
    /// Its members.
    #[default]
    Members,
    /// Any user whose token has no list of rooms; its members in any case.
    Open,
}

/// What a token may do in rooms that its claims do not speak of, conversations excepted. Who has
/// no token has no claims either.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum RoomsDefault {
    /// Without `rooms` it may join all of them, without `publish` it may publish to all.
    #[default]
    Open,
    /// Without the one it joins none, without the other it publishes to none.
    Closed,
}

/// What decides of rooms where a token's claims do not.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct RoomAccess {
    /// Of those of conversations.
    pub conversations: ConversationAccess,
    /// Of all others.
    pub rooms: RoomsDefault,
}

/// What happens when a user connects another device.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum DevicePolicy {
    /// Any number of devices.
    #[default]
    Unlimited,
    /// One device: the newcomer wins.
    Replace,
    /// At most `max` devices.
    Limit {
        /// Devices a user may have at once; at least 1.
        max: usize,
        /// What happens to the one too many.
        on_excess: OnExcess,
    },
}

/// What happens to the device over the limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum OnExcess {
    /// The newcomer is refused with `DEVICE_LIMIT`.
    #[default]
    Reject,
    /// The device connected longest goes.
    EvictOldest,
}

/// Who hears presence edges.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Announce {
    /// Every socket of the namespace and tenant.
    #[default]
    Namespace,
    /// Those who share a room with the user.
    Rooms,
    /// Nobody.
    Off,
}

/// At most `count` in any `window`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Limit {
    /// How many; at least 1.
    pub count: u32,
    /// In how long.
    pub window: Duration,
}

impl Limit {
    /// A limit of `count` per `seconds`.
    pub const fn per(count: u32, seconds: u64) -> Limit {
        Limit {
            count,
            window: Duration::from_secs(seconds),
        }
    }

    /// Whether nothing would ever be allowed, or all of it: no count, or no time.
    pub const fn is_nothing(&self) -> bool {
        self.count == 0 || self.window.is_zero()
    }

    /// Whether so many refusals are over the limit by far, each that was allowed since taken
    /// off: the connection is closed then. Ten times the count, and at least 100, so that a client which only
    /// retries eagerly is not thrown out.
    pub const fn is_far_over(&self, refused: u32) -> bool {
        let far = self.count.saturating_mul(10);
        refused >= if far > 100 { far } else { 100 }
    }
}

/// The limit on new connections per address.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum ConnectLimit {
    /// 1 000 in 10 s, loopback addresses excepted: behind a local proxy that
    /// is not in `trusted_proxies`, everybody has the same one.
    #[default]
    Default,
    /// As given, for every address.
    Limit(Limit),
    /// None.
    Off,
}

/// Rate limits of a namespace; `None` switches one off.
#[derive(Debug, Clone)]
pub struct LimitsConfig {
    /// `message:send` and `chat:send`, per user key, per socket when anonymous.
    pub messages: Option<Limit>,
    /// Every application event, per socket.
    pub events: Option<Limit>,
    /// Joins, per socket.
    pub joins: Option<Limit>,
}

impl Default for LimitsConfig {
    fn default() -> Self {
        LimitsConfig {
            messages: Some(Limit::per(10, 10)),
            events: Some(Limit::per(10_000, 10)),
            joins: Some(Limit::per(500, 10)),
        }
    }
}
