//! Names of rooms, and who may join and publish.

use heartline_wire::codes::Code;

use crate::auth::{Identity, RoomPattern, is_id};
use crate::policy::{ConversationAccess, RoomAccess, RoomsDefault};
use crate::store::conversations::Membership;

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

/// Longest room name, bytes; behind [`PRIVATE`] as long a user's id may be.
pub const MAX_NAME: usize = 256;

/// The prefix of rooms that belong to one user.
pub const PRIVATE: &str = "user:";

/// What is said to who wants to leave one.
pub const STAYS: &str = "A user's own room cannot be left";

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

/// Whether `name` can be a room's name. A conversation's has its id in it; that of a user is
/// [`PRIVATE`] and the id, which may have [`MAX_ID`](crate::auth::MAX_ID) bytes by itself.
///
/// ```
/// use heartline_core::rooms::is_valid_name;
/// let id = "i".repeat(256);
/// assert!(is_valid_name(&id) && is_valid_name(&format!("user:{id}")));
/// assert!(!is_valid_name(&format!("{id}i")) && !is_valid_name(&format!("user:{id}i")));
/// ```
pub fn is_valid_name(name: &str) -> bool {
    let is_users = name.strip_prefix(PRIVATE).is_some_and(is_id);
    let fits = is_users || name.len() <= MAX_NAME;
    !matches!(name, "" | CONVERSATION) && fits && !name.chars().any(char::is_control)
}

/// Whether a room can have a name that this pattern fits.
///
/// ```
/// use heartline_core::auth::RoomPattern;
/// use heartline_core::rooms::can_fit;
/// assert!(can_fit(&RoomPattern::new("lobby")) && can_fit(&RoomPattern::new("conversation:*")));
/// assert!(!can_fit(&RoomPattern::new("")) && !can_fit(&RoomPattern::new("conversation:")));
/// ```
pub fn can_fit(pattern: &RoomPattern) -> bool {
    match pattern.exact() {
        Some(name) => is_valid_name(name),
        // What it begins with is the whole name of a room, or all but its end.
        None => {
            let text = pattern.text();
            let beginning = text.strip_suffix('*').unwrap_or(&text);
            beginning.is_empty() || beginning == CONVERSATION || is_valid_name(beginning)
        }
    }
}

/// What a token comes to for a room, before anybody has asked who its members are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Grant {
    /// It is open.
    Given,
    /// It is a conversation, and open to its members: to all of them, or only to those who
    /// were invited, because the token names other rooms.
    ToMembers(Membership),
}

impl Grant {
    /// Whether a room is open to a user who is this kind of member, or none.
    ///
    /// # Errors
    /// [`RoomError::Forbidden`].
    pub fn for_member(self, membership: Option<Membership>) -> Result<(), RoomError> {
        match self {
            Grant::Given => Ok(()),
            Grant::ToMembers(least) if membership.is_some_and(|own| own >= least) => Ok(()),
            Grant::ToMembers(_) => Err(RoomError::Forbidden),
        }
    }
}

/// Whether the patterns of a token have this room in them; they are there.
fn named(name: &str, patterns: &[RoomPattern]) -> Result<Grant, RoomError> {
    match patterns.iter().any(|pattern| pattern.matches(name)) {
        true => Ok(Grant::Given),
        false => Err(RoomError::Forbidden),
    }
}

/// What holds of a room whatever a token says: some are somebody's own.
fn own(name: &str, identity: &Identity) -> Result<Option<Grant>, RoomError> {
    if !is_valid_name(name) {
        return Err(RoomError::Invalid);
    }
    let private = name.strip_prefix(PRIVATE);
    if identity.user.is_none() && (private.is_some() || conversation_of(name).is_some()) {
        return Err(RoomError::AuthRequired);
    }
    match private {
        Some(owner) if identity.user_id() == Some(owner) => Ok(Some(Grant::Given)),
        Some(_) => Err(RoomError::Forbidden),
        None => Ok(None),
    }
}

/// What holds of a room that is no conversation, where no claim speaks of it.
fn unnamed(access: RoomAccess) -> Result<Grant, RoomError> {
    match access.rooms {
        RoomsDefault::Open => Ok(Grant::Given),
        RoomsDefault::Closed => Err(RoomError::Forbidden),
    }
}

/// Whether a room may be joined.
///
/// # Errors
/// When it may not, whoever is a member of it.
pub fn may_join(name: &str, identity: &Identity, access: RoomAccess) -> Result<Grant, RoomError> {
    if let Some(grant) = own(name, identity)? {
        return Ok(grant);
    }
    let is_conversation = conversation_of(name).is_some();
    match &identity.rooms {
        Some(patterns) => named(name, patterns).or_else(|error| match is_conversation {
            true => Ok(Grant::ToMembers(Membership::Invited)),
            false => Err(error),
        }),
        None if is_conversation => Ok(match access.conversations {
            ConversationAccess::Members => Grant::ToMembers(Membership::Joined),
            ConversationAccess::Open => Grant::Given,
        }),
        None => unnamed(access),
    }
}

/// Whether a room may be published to. A token without a list of where its bearer may publish
/// leaves conversations to those who may join them.
///
/// # Errors
/// When it may not, whoever is a member of it.
pub fn may_publish(
    name: &str,
    identity: &Identity,
    access: RoomAccess,
) -> Result<Grant, RoomError> {
    if let Some(grant) = own(name, identity)? {
        return Ok(grant);
    }
    match &identity.publish {
        Some(patterns) => named(name, patterns),
        None if conversation_of(name).is_some() => may_join(name, identity, access),
        None => unnamed(access),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;

    fn identity(rooms: Option<&[&str]>, publish: Option<&[&str]>) -> Identity {
        let patterns = |of: Option<&[&str]>| {
            of.map(|all| {
                all.iter()
                    .map(|pattern| RoomPattern::new(pattern))
                    .collect()
            })
        };
        Identity {
            user: Some(Arc::new(crate::auth::UserKey {
                tenant_id: None,
                user_id: "7".into(),
                user_type: None,
            })),
            rooms: patterns(rooms),
            publish: patterns(publish),
            ..Identity::default()
        }
    }

    fn access(conversations: ConversationAccess) -> RoomAccess {
        RoomAccess {
            conversations,
            ..RoomAccess::default()
        }
    }

    #[test]
    fn where_nothing_is_open_by_default_a_token_may_do_what_it_says() {
        let closed = RoomAccess {
            rooms: RoomsDefault::Closed,
            ..RoomAccess::default()
        };
        let lobby: Option<&[&str]> = Some(&["lobby"]);
        let (fine, forbidden) = (Ok(Grant::Given), Err(RoomError::Forbidden));
        for (rooms, publish, join, say) in [
            (None, None, forbidden, forbidden),
            (lobby, None, fine, forbidden),
            (None, lobby, forbidden, fine),
            (lobby, lobby, fine, fine),
        ] {
            let who = identity(rooms, publish);
            assert_eq!(may_join("lobby", &who, closed), join);
            assert_eq!(may_publish("lobby", &who, closed), say);
            assert_eq!(may_join("user:7", &who, closed), fine);
            assert_eq!(may_publish("user:7", &who, closed), fine);
            // Who has no token has no claims.
            let nobody = Identity::default();
            assert_eq!(may_join("lobby", &nobody, closed), forbidden);
            assert_eq!(may_publish("lobby", &nobody, closed), forbidden);
        }
        // Of conversations something else decides.
        let anybody = identity(None, None);
        let to_members = Ok(Grant::ToMembers(Membership::Joined));
        assert_eq!(may_join("conversation:1", &anybody, closed), to_members);
        assert_eq!(may_publish("conversation:1", &anybody, closed), to_members);
        let open = RoomAccess {
            conversations: ConversationAccess::Open,
            ..closed
        };
        assert_eq!(may_join("conversation:1", &anybody, open), fine);
        assert_eq!(may_publish("conversation:1", &anybody, open), fine);
    }

    #[test]
    fn private_rooms_are_their_owners() {
        let owner = identity(Some(&["*"]), None);
        let open = access(ConversationAccess::Open);
        let may_join = |name: &str, identity: &Identity| may_join(name, identity, open).map(drop);
        assert_eq!(may_join("user:7", &owner), Ok(()));
        assert_eq!(may_join("user:8", &owner), Err(RoomError::Forbidden));
        let nobody = Identity::default();
        for name in ["user:7", "conversation:1"] {
            assert_eq!(may_join(name, &nobody), Err(RoomError::AuthRequired));
            let publish = may_publish(name, &nobody, open);
            assert_eq!(publish, Err(RoomError::AuthRequired));
        }
        assert_eq!(may_join("lobby", &nobody), Ok(()));
        assert_eq!(may_join("", &owner), Err(RoomError::Invalid));
        assert_eq!(may_join("a\nb", &owner), Err(RoomError::Invalid));
    }

    #[test]
    fn a_conversation_is_open_by_a_token_or_to_its_members() {
        use Membership::{Invited, Joined};
        let open = access(ConversationAccess::Open);
        let members = access(ConversationAccess::Members);
        let fits: Option<&[&str]> = Some(&["conversation:*"]);
        let others: Option<&[&str]> = Some(&["lobby"]);
        for (rooms, access, expected) in [
            (fits, members, Grant::Given),
            (None, members, Grant::ToMembers(Joined)),
            (None, open, Grant::Given),
            // A token that names other rooms has taken this one away; an invite has not.
            (others, members, Grant::ToMembers(Invited)),
            (others, open, Grant::ToMembers(Invited)),
        ] {
            let who = identity(rooms, None);
            assert_eq!(may_join("conversation:1", &who, access), Ok(expected));
            assert_eq!(may_publish("conversation:1", &who, access), Ok(expected));
        }
        let reader = identity(fits, Some(&[]));
        let publish = may_publish("conversation:1", &reader, open);
        assert_eq!(publish, Err(RoomError::Forbidden));
        let writer = identity(others, fits);
        let publish = may_publish("conversation:1", &writer, members);
        assert_eq!(publish, Ok(Grant::Given));
        let grant = Grant::ToMembers(Invited);
        assert!(grant.for_member(Some(Invited)).is_ok());
        for who in [None, Some(Joined)] {
            assert_eq!(grant.for_member(who), Err(RoomError::Forbidden));
        }
        assert!(Grant::ToMembers(Joined).for_member(Some(Invited)).is_ok());
    }
}
