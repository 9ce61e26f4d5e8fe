//! What is said to everybody of a namespace.

use std::sync::Arc;

use heartline_core::backplane::Target;
use heartline_core::line::ring::Only;
use heartline_core::line::shelf::ScopeRef;
use heartline_core::message::Message;
use heartline_core::namespaces::NamespaceId;

use super::{Fanout, Published};
use crate::op::Op;
use crate::publication::{Publication, Told};
use crate::recovery::Recovery;

impl Fanout {
    /// Gives a message to all sockets of a namespace and tenant, on all nodes.
    pub(crate) fn broadcast(
        self: &Arc<Self>,
        namespace: NamespaceId,
        tenant: Option<Arc<str>>,
        message: Message,
    ) -> Published {
        let Some(later) = self.later(Recovery::keeps_all) else {
            return self.broadcast_now(namespace, tenant, message);
        };
        let (fanout, said) = (self.clone(), message.clone());
        Published::later(&later, &message, move || {
            fanout.broadcast_now(namespace, tenant, said)
        })
    }

    fn broadcast_now(
        &self,
        namespace: NamespaceId,
        tenant: Option<Arc<str>>,
        message: Message,
    ) -> Published {
        let target = Target::All {
            namespace: self.namespace_name(namespace),
            tenant: tenant.as_deref(),
        };
        let said = self.say_in_common(&target, Recovery::keeps_all, &message, None);
        if let Some(said) = said {
            return said;
        }
        self.backplane.publish(&target, &message);
        self.broadcast_here(namespace, tenant, message);
        Published::Here(None)
    }

    pub(super) fn broadcast_here(
        &self,
        namespace: NamespaceId,
        tenant: Option<Arc<str>>,
        message: Message,
    ) {
        let scope = ScopeRef {
            namespace,
            tenant: tenant.as_deref(),
            user: None,
        };
        let everybody = Only::default;
        self.say(
            scope,
            Recovery::keeps_all,
            message,
            everybody,
            |message, place| self.post_to_everybody(namespace, tenant.clone(), message, place),
        );
    }

    /// Puts something into the mailboxes of all sockets of a namespace and tenant.
    pub(crate) fn post_to_everybody(
        &self,
        namespace: NamespaceId,
        tenant: Option<Arc<str>>,
        message: Message,
        place: Option<Told>,
    ) {
        let name = self.namespace_name(namespace).clone();
        let publication = Publication::new(name, message, None, None, None).at(place);
        let publication = Arc::new(publication);
        self.post_to_all(|| Op::Broadcast {
            namespace,
            tenant: tenant.clone(),
            publication: publication.clone(),
            about: None,
        });
    }
}
