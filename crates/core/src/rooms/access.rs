//! Names of rooms, and who may join and publish.

use heartline_wire::codes::Code;
use std::sync::Arc;

use crate::auth::{Identity, RoomPattern};

/// Why a room may not be joined or published to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RoomError {
    /// The token does not grant it, or it is another user's.
    Forbidden,
    /// Only users may: conversations and private rooms are somebody's.
    AuthRequired,
    /// It cannot be a room's name.
    Invalid,
    /// The socket is in as many rooms as it may be in.
    Limit,
}

impl RoomError {
    /// The contract's code.
    pub fn code(self) -> Code {
        match self {
            RoomError::Forbidden => Code::Forbidden,
            RoomError::AuthRequired => Code::AuthRequired,
            RoomError::Invalid => Code::InvalidRoom,
            RoomError::Limit => Code::RoomLimit,
        }
    }

    /// One sentence for people.
    pub fn message(self) -> &'static str {
        self.code().sentence()
    }
}

/// Longest room name, bytes.
pub const MAX_NAME: usize = 256;

/// The prefix of rooms that belong to one user.
pub const PRIVATE: &str = "user:";

/// The prefix of rooms that belong to conversations.
const CONVERSATION: &str = "conversation:";

/// The room of a conversation.
pub fn of_conversation(id: &str) -> String {
    format!("{CONVERSATION}{id}")
}

/// The conversation whose room this is.
pub fn conversation_of(room: &str) -> Option<&str> {
    room.strip_prefix(CONVERSATION)
}

/// Whether `name` can be a room's name.
pub fn is_valid_name(name: &str) -> bool {
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
    let private = name.strip_prefix(PRIVATE);
    if identity.user.is_none() && (private.is_some() || conversation_of(name).is_some()) {
        return Err(RoomError::AuthRequired);
    }
    if let Some(owner) = private {
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
pub fn may_join(name: &str, identity: &Identity) -> Result<(), RoomError> {
    allowed(name, identity, identity.rooms.as_ref())
}

/// Whether the room may be published to.
pub fn may_publish(name: &str, identity: &Identity) -> Result<(), RoomError> {
    allowed(name, identity, identity.publish.as_ref())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::auth::RoomPattern;

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
            Err(RoomError::AuthRequired)
        );
        assert_eq!(
            may_join("conversation:1", &Identity::default()),
            Err(RoomError::AuthRequired)
        );
        assert_eq!(
            may_publish("conversation:1", &Identity::default()),
            Err(RoomError::AuthRequired)
        );
        assert_eq!(may_join("lobby", &Identity::default()), Ok(()));
        assert_eq!(may_join("", &owner), Err(RoomError::Invalid));
        assert_eq!(may_join("a\nb", &owner), Err(RoomError::Invalid));
    }
}
