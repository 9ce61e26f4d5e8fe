//! What all shards and handles of a gateway have in common.

use std::sync::Arc;
use std::time::Duration;

use heartline_core::auth::{AuthError, Authenticator, Credentials, Identity, MAX_ID, UserKey};
use heartline_core::message::Message;
use heartline_core::namespaces::NamespaceId;
use heartline_core::rooms;
use heartline_core::store::StoreError;
use heartline_core::store::offer::Store;
use heartline_engine::clock::Clock;
use heartline_engine::seldom::Seldom;
use heartline_engine::slots::ConnectionSlots;
use tokio::sync::watch;

use crate::announcer::Announcer;
use crate::config::Config;
use crate::data::AllData;
use crate::fanout::Fanout;
use crate::intern::Interner;
use crate::limits::Limits;
use crate::markers::Markers;
use crate::members::Members;
use crate::metrics::Metrics;
use crate::notices::{Due, Notices};
use crate::sessions::Sessions;
use crate::watches::Watches;

/// Shortest time between two lines of the log about connections that were refused.
pub(crate) const REFUSALS_PERIOD: Duration = Duration::from_secs(5);

/// What all shards and handles of a gateway have in common.
pub(crate) struct Shared {
    /// What the operator has set; never changes.
    pub(crate) config: Config,
    /// The only clock of the gateway; shards read it once a turn.
    pub(crate) clock: Clock,
    /// The ways to sockets, the rooms, and the other nodes: apart, because the announcer
    /// and the backplane's [`Node`](heartline_core::backplane::Node) need only this.
    pub(crate) fanout: Arc<Fanout>,
    /// Asked by each shard when a socket connects, and by `auth:refresh`.
    pub(crate) authenticator: Arc<dyn Authenticator>,
    /// Written by `message:send` and `chat:send`.
    pub(crate) store: Arc<dyn Store>,
    /// Who belongs to conversations: apart, because the backplane's
    /// [`Node`](heartline_core::backplane::Node) needs this as well.
    pub(crate) members: Arc<Members>,
    /// What clients have read, on its way to the store.
    pub(crate) markers: Arc<Markers>,
    /// Notifications that are still to be sent: put there by whoever could not, and sent by
    /// [`tell_members`](crate::untold::tell_members).
    pub(crate) notices: Notices,
    /// What clients watch: apart, as `members`.
    pub(crate) watches: Arc<Watches>,
    /// Changes of presence on their way to clients: a drain waits for them.
    pub(crate) announcer: Arc<Announcer>,
    /// What users' clients keep; told of by `session:checkpoint` and of ends by the hub.
    pub(crate) sessions: Arc<Sessions>,
    /// Each shard writes its own part; the API sums them.
    pub(crate) metrics: Arc<Metrics>,
    /// Limits that several connections share.
    pub(crate) limits: Arc<Limits>,
    /// When the log hears of connections that were refused; asked by each shard at their ends.
    pub(crate) refusals: Seldom,
    /// What apps remember of sockets: apart, because most sockets have none.
    pub(crate) data: AllData,
    /// Tenants' names, once each however many users have them.
    pub(crate) tenants: Interner,
    /// The same of user agents.
    pub(crate) user_agents: Interner,
    /// Who a socket without a token is; one for all, for the memory it saves.
    pub(crate) anonymous: Arc<Identity>,
    /// How many connections there are; written by the HTTP front and by their ends.
    pub(crate) slots: Arc<ConnectionSlots>,
    /// True once the drain has begun; written by [`Gateway::drain`](crate::Gateway::drain).
    pub(crate) draining: watch::Sender<bool>,
    /// `server.node_id`.
    pub(crate) node_id: Arc<str>,
}

/// What the shards share, by a count of references that one shard has to itself:
/// each handle of a socket that a handler asks for clones it, and a count that all shards
/// change would be passed between the processors' caches each time.
pub(crate) type OwnShared = Arc<Arc<Shared>>;

impl Shared {
    /// Who it is, as the authenticator says.
    ///
    /// # Errors
    /// What it says; [`AuthError::Invalid`] of an identity that nobody may have ([`Identity::has_ids`]).
    pub(crate) async fn authenticate(
        &self,
        credentials: Credentials,
    ) -> Result<Identity, AuthError> {
        let identity = self.authenticator.authenticate(credentials).await?;
        if !identity.has_ids() {
            tracing::warn!(
                "the authenticator has given an id that is no id: 1 to {MAX_ID} bytes, none of them \
                 a control character"
            );
            return Err(AuthError::Invalid);
        }
        Ok(self.tenants.intern_identity(identity))
    }

    pub(crate) fn is_draining(&self) -> bool {
        *self.draining.borrow()
    }

    /// Tells the members of a conversation of something that was said there, but not its
    /// speaker: on their sockets in these namespaces that are not in the room and may join it.
    ///
    /// # Errors
    /// The store does not say who the members are.
    pub(crate) async fn notify(
        &self,
        namespaces: &[NamespaceId],
        conversation_id: &str,
        speaker: &UserKey,
        message: Message,
    ) -> Result<(), StoreError> {
        let tenant = speaker.tenant_id.clone();
        let members = self.members.list(tenant.as_ref(), conversation_id).await?;
        let others = members.keys().filter(|member| ***member != *speaker);
        let others: Vec<Arc<UserKey>> = others.cloned().collect();
        if !others.is_empty() {
            let room = rooms::of_conversation(conversation_id);
            let place = (tenant, &*room);
            let fanout = &self.fanout;
            let told = fanout.send_instead_of_room(namespaces, place, &others, message);
            told.await;
        }
        Ok(())
    }

    /// The same of a stored message, in all namespaces. If it is not waited for to the end, nobody
    /// has been told.
    ///
    /// # Errors
    /// As [`notify`](Self::notify).
    pub(crate) async fn notify_of(&self, due: &Due) -> Result<(), StoreError> {
        let everywhere: Vec<_> = self.fanout.namespaces.iter().map(|(id, _)| id).collect();
        let message = due.message.clone();
        self.notify(&everywhere, &due.conversation, &due.speaker, message)
            .await
    }

    pub(crate) fn unix_millis(&self) -> u64 {
        self.clock.unix_millis(self.clock.now())
    }
}
