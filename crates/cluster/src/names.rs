//! How the cluster names tenants, users and user types: text that cannot be taken
//! for another's.

use std::sync::Arc;

use heartline_core::auth::UserKey;
use heartline_core::presence::RoomAddress;

use crate::registry::{RoomName, TypedUser, UserName};

/// Optional text: nothing, or `=` and the text.
fn push_optional(value: Option<&str>, out: &mut String) {
    if let Some(value) = value {
        out.push('=');
        for char in value.chars() {
            match char {
                '%' => out.push_str("%25"),
                ':' => out.push_str("%3A"),
                char => out.push(char),
            }
        }
    }
}

fn optional(text: &str) -> Option<Arc<str>> {
    let text = text.strip_prefix('=')?;
    Some(text.replace("%3A", ":").replace("%25", "%").into())
}

/// Tenant and user in one: `=TENANT:USER`, or `:USER` without a tenant.
pub fn user_name(tenant: Option<&str>, user: &str) -> UserName {
    let mut name = String::with_capacity(user.len() + 8);
    push_optional(tenant, &mut name);
    name.push(':');
    name.push_str(user);
    name.into()
}

/// Tenant and user of a name; `None` if it is not one that [`user_name`] gives.
pub fn tenant_and_user(name: &str) -> Option<(Option<Arc<str>>, &str)> {
    let (tenant, user) = name.split_once(':')?;
    Some((optional(tenant), user))
}

/// A tenant by itself, encoded as in [`user_name`].
pub fn tenant_name(tenant: Option<&str>) -> String {
    let mut name = String::new();
    push_optional(tenant, &mut name);
    name
}

/// A user key as the store has it.
pub fn typed_user(key: &UserKey) -> TypedUser {
    let mut kind = String::new();
    push_optional(key.user_type.as_deref(), &mut kind);
    TypedUser {
        user: user_name(key.tenant_id.as_deref(), &key.user_id),
        kind: kind.into(),
    }
}

/// The type of a user of an encoded one.
pub fn kind(kind: &str) -> Option<Arc<str>> {
    optional(kind)
}

/// The user key of a name; `None` if it is not one that [`typed_user`] gives.
pub fn user_key(user: &TypedUser) -> Option<UserKey> {
    let (tenant_id, user_id) = tenant_and_user(&user.user)?;
    Some(UserKey {
        tenant_id,
        user_id: user_id.into(),
        user_type: optional(&user.kind),
    })
}

/// The name of a room: its namespace, a line's end, and itself.
pub fn room_name(place: &RoomAddress) -> RoomName {
    format!("{}\n{}", place.namespace, place.room).into()
}

/// The room of a name; `None` if it is not one that [`room_name`] gives.
pub fn place(name: &str) -> Option<RoomAddress> {
    let (namespace, room) = name.split_once('\n')?;
    Some(RoomAddress {
        namespace: namespace.into(),
        room: room.into(),
    })
}

/// A room of a channel's name: its namespace, tenant and name.
pub type RoomOfChannel<'a> = (&'a str, Option<Arc<str>>, &'a str);

/// The channel of a room, among those whose names begin with `prefix`. Without a hash tag: a
/// Redis Cluster spreads rooms over its shards.
pub fn room_channel(prefix: &str, namespace: &str, tenant: Option<&str>, room: &str) -> String {
    let tenant = tenant_name(tenant);
    // A namespace has no colon unless it is its own doing; its length says where it ends.
    format!("{prefix}:r:{}:{namespace}:{tenant}:{room}", namespace.len())
}

/// The room of a channel; `None` if it is not one that [`room_channel`] gives.
pub fn room_of_channel<'a>(prefix: &str, channel: &'a str) -> Option<RoomOfChannel<'a>> {
    let rest = channel.strip_prefix(prefix)?.strip_prefix(":r:")?;
    let (length, rest) = rest.split_once(':')?;
    let (namespace, rest) = rest.split_at_checked(length.parse().ok()?)?;
    let (tenant, room) = rest.strip_prefix(':')?.split_once(':')?;
    Some((namespace, optional(tenant), room))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn names_survive_the_journey_and_differ(
            a in prop::option::of("[a:%=]{0,3}"), b in "[a:%=]{0,3}", c in prop::option::of("[a:%=]{0,3}"),
            x in prop::option::of("[a:%=]{0,3}"), y in "[a:%=]{0,3}", z in prop::option::of("[a:%=]{0,3}"),
        ) {
            let key = |tenant: &Option<String>, user: &String, kind: &Option<String>| UserKey {
                tenant_id: tenant.as_deref().map(Into::into),
                user_id: user.as_str().into(),
                user_type: kind.as_deref().map(Into::into),
            };
            let (one, other) = (key(&a, &b, &c), key(&x, &y, &z));
            prop_assert_eq!(user_key(&typed_user(&one)), Some(one.clone()));
            prop_assert_eq!(typed_user(&one) == typed_user(&other), one == other);
            let channel = room_channel("hl", &b, a.as_deref(), &y);
            let place = (&*b, a.as_deref().map(Into::into), &*y);
            prop_assert_eq!(room_of_channel("hl", &channel), Some(place));
        }
    }
}
