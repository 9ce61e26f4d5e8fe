//! Whom a publication is for, and what has it come from other nodes.

use crate::auth::{BoxFuture, UserKey};

/// Names of rooms and ids of sockets in one text, with line feeds between them: names have no
/// control characters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct NameList<'a>(pub &'a str);

impl<'a> NameList<'a> {
    /// The text of a list.
    pub fn text(names: &[String]) -> String {
        names.join("\n")
    }

    /// The names.
    pub fn iter(self) -> impl Iterator<Item = &'a str> {
        self.0.split('\n').filter(|name| !name.is_empty())
    }
}

/// Between a user's id and type in a list of names.
const TYPE: char = '\u{1f}';

/// A user in a list of names; `None`: the id or type has control characters, which no list can
/// have.
pub fn user_name(user: &UserKey) -> Option<String> {
    let user_type = user.user_type.as_deref().unwrap_or_default();
    let is_odd = [&*user.user_id, user_type]
        .iter()
        .any(|text| text.contains(char::is_control));
    (!is_odd).then(|| match &user.user_type {
        Some(user_type) => format!("{}{TYPE}{user_type}", user.user_id),
        None => user.user_id.to_string(),
    })
}

/// The user of a tenant that has this name in a list.
pub fn named_user(tenant: Option<&str>, name: &str) -> UserKey {
    let (user_id, user_type) = match name.split_once(TYPE) {
        Some((user_id, user_type)) => (user_id, Some(user_type.into())),
        None => (name, None),
    };
    UserKey {
        tenant_id: tenant.map(Into::into),
        user_id: user_id.into(),
        user_type,
    }
}

/// Whom a publication is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Target<'a> {
    /// The members of a room.
    Room {
        /// The room's namespace.
        namespace: &'a str,
        /// Its tenant.
        tenant: Option<&'a str>,
        /// Its name.
        room: &'a str,
        /// Set where only the newest per room and key matters to a slow reader.
        key: Option<&'a str>,
    },
    /// Everybody in a namespace and tenant who is in any of several rooms (in all of the
    /// namespace, if the list is empty) and in none of others.
    Rooms {
        /// The namespace.
        namespace: &'a str,
        /// The tenant.
        tenant: Option<&'a str>,
        /// The rooms' names.
        rooms: NameList<'a>,
        /// Whoever is in one of these is left out.
        except: NameList<'a>,
    },
    /// Everybody in a namespace and tenant.
    All {
        /// The namespace.
        namespace: &'a str,
        /// The tenant.
        tenant: Option<&'a str>,
    },
    /// A user's sockets in a namespace.
    User {
        /// The namespace.
        namespace: &'a str,
        /// The user's tenant.
        tenant: Option<&'a str>,
        /// The user's id.
        user: &'a str,
        /// Only this type of user, or only those without one.
        user_type: Option<Option<&'a str>>,
        /// The room as which clients know it.
        topic: Option<&'a str>,
        /// Told instead of this room's events: only to sockets that are not in the room and
        /// may join it. Not with a key.
        instead_of: Option<&'a str>,
        /// Set where only the newest per user, namespace and key matters to a slow reader.
        key: Option<&'a str>,
    },
    /// Sockets of several users in a namespace: instead of a room's events, to those that are
    /// not in the room and may join it.
    Users {
        /// The namespace.
        namespace: &'a str,
        /// The users' tenant.
        tenant: Option<&'a str>,
        /// The users, as [`user_name`] has them.
        users: NameList<'a>,
        /// The room.
        instead_of: &'a str,
    },
    /// The nodes themselves: what one of them has changed in the store is not as the others
    /// remember it.
    Nodes,
}

impl<'a> Target<'a> {
    /// The namespace that it is about, if it is about sockets.
    pub fn namespace(&self) -> Option<&'a str> {
        match *self {
            Target::Room { namespace, .. }
            | Target::Rooms { namespace, .. }
            | Target::All { namespace, .. }
            | Target::User { namespace, .. }
            | Target::Users { namespace, .. } => Some(namespace),
            Target::Nodes => None,
        }
    }
}

/// Holds a room's publications of other nodes for as long as it lives.
pub trait Subscription: Send + Sync + 'static {
    /// Resolves when they arrive, or will not for now; `None`: they do already.
    fn ready(&self) -> Option<BoxFuture<()>>;
}

impl std::fmt::Debug for dyn Subscription {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Subscription")
    }
}
