//! What is said to a user, or to users instead of a room's events.

use std::sync::Arc;

use heartline_core::auth::UserKey;
use heartline_core::backplane::{NameList, Target, user_name};
use heartline_core::line::ring::Only;
use heartline_core::line::shelf::ScopeRef;
use heartline_core::message::Message;
use heartline_core::namespaces::NamespaceId;
use heartline_core::presence::SocketAddress;
use heartline_core::rooms::PRIVATE;
use heartline_engine::shard::outbound::ConflationKey;

use super::{Fanout, Published};
use crate::op::Op;
use crate::publication::{Publication, Told};
use crate::recovery::Recovery;

/// A user's sockets in a namespace.
pub(crate) struct ToUser<'a> {
    pub(crate) namespace: NamespaceId,
    pub(crate) tenant: Option<&'a str>,
    pub(crate) user: &'a str,
    /// Only this type of user.
    pub(crate) only: Option<&'a UserKey>,
    /// The room as which clients know it.
    pub(crate) topic: Option<&'a str>,
    /// It is told instead of this room's events: only to sockets that are not in the room
    /// and may join it.
    pub(crate) instead_of: Option<&'a str>,
    /// Set where only the newest per key matters to a slow reader.
    pub(crate) key: Option<&'a str>,
    /// Not this one of them.
    pub(crate) skip: Option<SocketAddress>,
}

impl<'a> ToUser<'a> {
    /// A user who is told of something instead of a room's events.
    fn instead_of(namespace: NamespaceId, user: &'a UserKey, room: &'a str) -> ToUser<'a> {
        ToUser {
            namespace,
            tenant: user.tenant_id.as_deref(),
            user: &user.user_id,
            only: Some(user),
            topic: None,
            instead_of: Some(room),
            key: None,
            skip: None,
        }
    }
}

/// The scope of the keys of what goes to a connection's own user in a namespace: counted down
/// from the end, as rooms' incarnations are counted up.
fn own_scope(namespace: NamespaceId) -> u64 {
    u64::MAX - u64::from(namespace.0)
}

impl Fanout {
    /// Gives a message to a user's sockets, on all nodes: to how many here, and what becomes of
    /// it.
    pub(crate) fn send_to_user(
        self: &Arc<Self>,
        to: &ToUser<'_>,
        message: Message,
    ) -> (usize, Published) {
        let is_kept = |recovery: &Recovery| recovery.keeps(&format!("{PRIVATE}{}", to.user));
        let Some(later) = self.later(is_kept) else {
            return self.send_now(to, message);
        };
        let (fanout, namespace, skip) = (self.clone(), to.namespace, to.skip);
        let own = |text: Option<&str>| text.map(ToOwned::to_owned);
        let (tenant, user, only) = (own(to.tenant), to.user.to_owned(), to.only.cloned());
        let (topic, instead_of, key) = (own(to.topic), own(to.instead_of), own(to.key));
        let said = message.clone();
        let published = Published::later(&later, &message, move || {
            let to = ToUser {
                namespace,
                tenant: tenant.as_deref(),
                user: &user,
                only: only.as_ref(),
                topic: topic.as_deref(),
                instead_of: instead_of.as_deref(),
                key: key.as_deref(),
                skip,
            };
            fanout.send_now(&to, said).1
        });
        (self.sockets_of(to).len(), published)
    }

    fn send_now(&self, to: &ToUser<'_>, message: Message) -> (usize, Published) {
        let target = self.target(to);
        let is_kept = |recovery: &Recovery| recovery.keeps(&format!("{PRIVATE}{}", to.user));
        if let Some(said) = self.say_in_common(&target, is_kept, &message, to.skip) {
            return (self.sockets_of(to).len(), said);
        }
        self.backplane.publish(&target, &message);
        (self.send_here(to, message), Published::Here(None))
    }

    /// Tells users of something instead of a room's events, in these namespaces on all nodes: on
    /// their sockets that are not in the room and may join it. Of other nodes it is asked once
    /// which of the users have sockets at all.
    pub(crate) async fn send_instead_of_room(
        self: &Arc<Self>,
        namespaces: &[NamespaceId],
        (tenant, room): (Option<Arc<str>>, &str),
        users: &[Arc<UserKey>],
        message: Message,
    ) {
        if self.common().is_some() {
            // Nodes that have nobody of a user's do not hear it.
            for &namespace in namespaces {
                for user in users {
                    let to = ToUser::instead_of(namespace, user, room);
                    drop(self.send_to_user(&to, message.clone()));
                }
            }
            return;
        }
        if self.backplane.tag().is_some() {
            let ids = users.iter().map(|user| user.user_id.to_string()).collect();
            let there = self.backplane.presence(tenant.clone(), ids).await;
            let online = users.iter().zip(&there).filter(|(_, there)| there.online);
            let online: Vec<&UserKey> = online.map(|(user, _)| &**user).collect();
            for &namespace in namespaces {
                self.send_to_users_elsewhere(namespace, (&tenant, room), &online, &message);
            }
        }
        for &namespace in namespaces {
            self.send_to_users_here((namespace, room), users, message.clone());
        }
    }

    /// The part of [`send_instead_of_room`](Self::send_instead_of_room) that goes to other nodes.
    fn send_to_users_elsewhere(
        &self,
        namespace: NamespaceId,
        (tenant, room): (&Option<Arc<str>>, &str),
        online: &[&UserKey],
        message: &Message,
    ) {
        let mut names = Vec::new();
        for user in online {
            match user_name(user) {
                Some(name) => names.push(name),
                None => {
                    let to = ToUser::instead_of(namespace, user, room);
                    self.backplane.publish(&self.target(&to), message);
                }
            }
        }
        if !names.is_empty() {
            let target = Target::Users {
                namespace: self.namespace_name(namespace),
                tenant: tenant.as_deref(),
                users: NameList(&NameList::text(&names)),
                instead_of: room,
            };
            self.backplane.publish(&target, message);
        }
    }

    pub(super) fn send_to_users_here(
        &self,
        (namespace, room): (NamespaceId, &str),
        users: impl IntoIterator<Item = impl AsRef<UserKey>>,
        message: Message,
    ) {
        for user in users {
            let user = user.as_ref();
            if self.has_anybody(user.tenant_id.as_deref(), &user.user_id) {
                let to = ToUser::instead_of(namespace, user, room);
                self.send_here(&to, message.clone());
            }
        }
    }

    fn target<'a>(&'a self, to: &ToUser<'a>) -> Target<'a> {
        Target::User {
            namespace: self.namespace_name(to.namespace),
            tenant: to.tenant,
            user: to.user,
            user_type: to.only.map(|only| only.user_type.as_deref()),
            topic: to.topic,
            instead_of: to.instead_of,
            key: to.key,
        }
    }

    pub(super) fn send_here(&self, to: &ToUser<'_>, message: Message) -> usize {
        let ToUser {
            namespace,
            tenant,
            user,
            only,
            topic,
            instead_of,
            skip,
            ..
        } = *to;
        let scope = ScopeRef {
            namespace,
            tenant,
            user: Some(user),
        };
        let is_kept = |recovery: &Recovery| {
            let is_kept = recovery.keeps(&format!("{PRIVATE}{user}"));
            let is_for_nobody =
                |room| self.all_are_in(recovery, (namespace, tenant, user, only), room);
            is_kept && self.has_anybody(tenant, user) && !instead_of.is_some_and(is_for_nobody)
        };
        let instead_of: Option<Arc<str>> = instead_of.map(Into::into);
        let for_whom = || Only {
            skip,
            user: only.map(|only| Arc::new(only.clone())),
            instead_of: instead_of.clone(),
            topic: topic.map(Into::into),
            ..Only::default()
        };
        let mut reached = 0;
        self.say(scope, is_kept, message, for_whom, |message, place| {
            reached = self.post_to_user(to, message, place);
        });
        reached
    }

    /// Whether what is told instead of a room's events is for nobody here, as all that a user has are
    /// sockets which may come back, in that room: it is not kept then, or it would take the places of
    /// what they are to be told.
    pub(crate) fn all_are_in(
        &self,
        recovery: &Recovery,
        (namespace, tenant, user, only): (NamespaceId, Option<&str>, &str, Option<&UserKey>),
        room: &str,
    ) -> bool {
        let is_here = || {
            let sockets = self.backplane.local().sockets(tenant, user, only);
            sockets.iter().any(|socket| socket.namespace() == namespace)
        };
        let whose = (tenant, user, only);
        // Who is connected meanwhile hears it now, if it is for them.
        !is_here() && recovery.sessions.are_in(namespace, whose, room) && !is_here()
    }

    fn sockets_of(&self, to: &ToUser<'_>) -> Vec<SocketAddress> {
        let ToUser {
            namespace,
            tenant,
            user,
            only,
            skip,
            ..
        } = *to;
        let mut sockets = self.backplane.local().sockets(tenant, user, only);
        sockets.retain(|socket| socket.namespace() == namespace && Some(*socket) != skip);
        sockets
    }

    /// Puts something into the mailboxes of a user's sockets; of how many.
    pub(crate) fn post_to_user(
        &self,
        to: &ToUser<'_>,
        message: Message,
        place: Option<Told>,
    ) -> usize {
        let name = self.namespace_name(to.namespace).clone();
        let topic = to.topic.map(Into::into);
        let conflate = to.key.map(|key| ConflationKey {
            scope: own_scope(to.namespace),
            key: key.into(),
        });
        let publication = Publication::new(name, message, topic, None, conflate).at(place);
        let publication = Arc::new(publication);
        let instead_of: Option<Arc<str>> = to.instead_of.map(Into::into);
        let sockets = self.sockets_of(to);
        for &to in &sockets {
            let op = Op::Send {
                to,
                publication: publication.clone(),
                instead_of: instead_of.clone(),
            };
            self.post(to.0.conn.shard, op);
        }
        sockets.len()
    }

    /// Whether a user has sockets here, or had some that may come back. Who goes has a session
    /// before they have no socket; who comes back has a socket before they have no session.
    pub(crate) fn has_anybody(&self, tenant: Option<&str>, user: &str) -> bool {
        let has_sockets = || {
            !self
                .backplane
                .local()
                .sockets(tenant, user, None)
                .is_empty()
        };
        let sessions = self.recovery.as_ref().map(|recovery| &recovery.sessions);
        has_sockets() || sessions.is_some_and(|all| all.has(tenant, user)) || has_sockets()
    }
}
