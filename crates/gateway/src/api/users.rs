//! Users over all nodes: who they are, which sockets they have, and the end of these.

use std::sync::Arc;

use heartline_core::auth::UserKey;
use heartline_core::backplane::{Peers, Probed, UserSocket};
use heartline_core::entries::{Missing, SocketEntry};
use heartline_wire::id::Sid;
use tokio::task::JoinSet;

use super::everywhere::missing_of;
use super::{Ended, NotKnown};
use crate::gateway::Gateway;
use crate::peers::{self, Users};

impl Gateway {
    /// Sockets of the users with this id, of all types and on all nodes. True: those of other nodes
    /// may be missing, as the cluster's store is away.
    async fn sockets_of(&self, tenant: Option<&str>, user_id: &str) -> (Vec<UserSocket>, bool) {
        let backplane = &self.shared.fanout.backplane;
        if let Some(known) = backplane.sockets(tenant, user_id).await {
            return (known, !backplane.is_trusted());
        }
        let mut sockets = Vec::new();
        for user in backplane.local().find(tenant, user_id) {
            for socket in backplane.local().sockets(tenant, user_id, Some(&user)) {
                let namespace = self.shared.fanout.namespaces.get(socket.namespace());
                sockets.push(UserSocket {
                    id: socket.id().into(),
                    namespace: namespace.name.clone(),
                    user: user.clone(),
                });
            }
        }
        (sockets, backplane.tag().is_some())
    }

    /// The users with this id that have sockets, or may come back to some of this node: one for
    /// each user type.
    pub async fn find_users(&self, tenant: Option<&str>, user_id: &str) -> Vec<Arc<UserKey>> {
        let mut users: Vec<Arc<UserKey>> = Vec::new();
        for socket in self.sockets_of(tenant, user_id).await.0 {
            if !users.contains(&socket.user) {
                users.push(socket.user);
            }
        }
        if let Some(recovery) = &self.shared.fanout.recovery {
            let mut suspended = recovery.sessions.users(tenant, user_id);
            suspended.retain(|user| !users.contains(user));
            users.append(&mut suspended);
        }
        users
    }

    /// How many sockets of a user, or of all users with this id, other nodes have, in one
    /// namespace or in all. True: there may be others, as what other nodes have is not known at
    /// present.
    pub(crate) async fn count_elsewhere(
        &self,
        tenant: Option<&str>,
        user_id: &str,
        only: Option<&UserKey>,
        namespace: Option<&str>,
    ) -> (usize, bool) {
        let Some(own) = self.shared.fanout.backplane.tag() else {
            return (0, false);
        };
        let backplane = &self.shared.fanout.backplane;
        let sockets = backplane.sockets(tenant, user_id).await;
        let elsewhere = |socket: &&UserSocket| {
            only.is_none_or(|only| *socket.user == *only)
                && namespace.is_none_or(|namespace| *socket.namespace == *namespace)
                && Sid::decode(&socket.id).is_some_and(|name| name.tag() != own)
        };
        let is_partial = sockets.is_none() || !backplane.is_trusted();
        let sockets = sockets.unwrap_or_default();
        (sockets.iter().filter(elsewhere).count(), is_partial)
    }

    /// A user's sockets; of those that were lost and may come back, this node's. And what is
    /// missing among them.
    pub async fn user_connections(&self, user: &UserKey) -> (Vec<SocketEntry>, Missing) {
        let who = (user.tenant_id.as_deref(), &*user.user_id);
        self.users_connections(who, |other| other == user).await
    }

    /// The same of the users with an id that are `meant`.
    pub async fn users_connections(
        &self,
        (tenant, user_id): (Option<&str>, &str),
        meant: impl Fn(&UserKey) -> bool,
    ) -> (Vec<SocketEntry>, Missing) {
        let (known, partial) = self.sockets_of(tenant, user_id).await;
        let asked = self.for_each_socket(
            known.into_iter().filter(|socket| meant(&socket.user)),
            |gateway, id| async move { gateway.connection(&id).await },
        );
        let mut missing = Missing {
            partial,
            ..Missing::default()
        };
        let mut found: Vec<SocketEntry> = Vec::new();
        for entry in asked.await {
            match entry {
                Ok(entry) => found.extend(entry),
                Err(NotKnown { node_id: Some(id) }) => missing.add(&id),
                Err(NotKnown { node_id: None }) => missing.partial = true,
            }
        }
        let recovery = self.shared.fanout.recovery.as_ref();
        let lost = recovery.map(|recovery| recovery.sessions.users(tenant, user_id));
        for user in lost.unwrap_or_default().iter().filter(|user| meant(user)) {
            for lost in self.suspended_of(user) {
                // It may have been lost since it was found.
                if !found.iter().any(|entry| entry.socket_id == lost.socket_id) {
                    found.push(lost);
                }
            }
        }
        (found, missing)
    }

    /// Ends all of a user's sockets; how many there were. Those that were lost do not find what
    /// they had, whichever node they come to and whatever has become of theirs; of these, as many
    /// count as the nodes know that answer.
    pub async fn disconnect_user(&self, user: &UserKey) -> Ended {
        self.disconnect_all(Users::one(user)).await
    }

    /// The same of the users with this id, of all types.
    pub async fn disconnect_users(&self, (tenant, user_id): (Option<&str>, &str)) -> Ended {
        let users = Users {
            tenant_id: tenant.map(ToOwned::to_owned),
            user_id: user_id.to_owned(),
            only: None,
        };
        self.disconnect_all(users).await
    }

    async fn disconnect_all(&self, users: Users) -> Ended {
        let (tenant, user_id, only) = (users.tenant_id.as_deref(), &*users.user_id, users.key());
        let mut is_marked = true;
        if let Some((_, common)) = self.shared.fanout.common() {
            // From here on no node lets them go on, also not one that does not answer.
            let marked = common.end_all(tenant, user_id, only.as_ref()).await;
            is_marked = marked.is_ok();
        }
        let here = self.disconnect_users_here(&users).await;
        let asked = peers::DisconnectUsers {
            users: users.clone(),
        };
        let (elsewhere, mut missing) = self.ask_all(asked).await;
        let mut sockets = here + elsewhere.iter().sum::<usize>();
        if !missing.unreachable.is_empty() {
            sockets += self.disconnect_one_by_one(&users, &mut missing).await;
        }
        missing.partial |= !is_marked;
        Ended { sockets, missing }
    }

    /// Ends users' sockets at nodes that do not know how to end all of a user's, as they are of an
    /// older build; how many there were. Those nodes are not `missing` any more.
    async fn disconnect_one_by_one(&self, users: &Users, missing: &mut Missing) -> usize {
        let (tenant, user_id, only) = (users.tenant_id.as_deref(), &*users.user_id, users.key());
        let (known, is_partial) = self.sockets_of(tenant, user_id).await;
        let meant = |user: &UserKey| only.as_ref().is_none_or(|only| *user == *only);
        let theirs = known.into_iter().filter(|socket| meant(&socket.user));
        let act =
            |gateway: Gateway, id: Arc<str>| async move { gateway.disconnect_at_holder(&id).await };
        let ending = self.for_each_socket(theirs, act);
        let peers = self.shared.fanout.backplane.peers().await;
        let (done, living) = tokio::join!(ending, self.living(&peers, &missing.unreachable));
        let ended = done.iter().filter(|ended| **ended == Ok(true)).count();
        let failed = missing_of(&peers);
        let mut failed = done.into_iter().fold(failed, |mut failed, ended| {
            match ended {
                Ok(_) => {}
                Err(NotKnown { node_id: Some(id) }) => failed.add(&id),
                Err(NotKnown { node_id: None }) => failed.partial = true,
            }
            failed
        });
        // Of one that is silent, and of all if it is not known who has what, nothing is known.
        for node in &missing.unreachable {
            if is_partial || !living.contains(node) {
                failed.add(node);
            }
        }
        *missing = failed;
        ended
    }

    /// Which of some nodes say that they live.
    async fn living(&self, peers: &Peers, of: &[String]) -> Vec<String> {
        let mut probes = JoinSet::new();
        let believed = peers.believed.iter();
        for peer in believed.filter(|peer| of.iter().any(|id| **id == *peer.node_id)) {
            let (all, peer) = (self.ways.peers.clone(), peer.clone());
            probes.spawn(async move {
                let probed = tokio::time::timeout(peers::ANSWER_TIMEOUT, all.probe(&peer)).await;
                let lives = matches!(probed, Ok(Probed::Answered));
                lives.then(|| peer.node_id.to_string())
            });
        }
        probes.join_all().await.into_iter().flatten().collect()
    }

    /// Does something about each of some sockets, all at once: a node that does not answer is
    /// waited for once.
    async fn for_each_socket<T, F>(
        &self,
        sockets: impl Iterator<Item = UserSocket>,
        act: impl Fn(Gateway, Arc<str>) -> F,
    ) -> Vec<T>
    where
        T: Send + 'static,
        F: Future<Output = T> + Send + 'static,
    {
        let acting: Vec<_> = sockets
            .map(|socket| tokio::spawn(act(self.clone(), socket.id)))
            .collect();
        let mut done = Vec::with_capacity(acting.len());
        for one in acting {
            done.extend(one.await.ok());
        }
        done
    }
}
