//! Changes of presence on their way to those who are to know.
//!
//! The first leaves at once; what follows it within a moment leaves together, in one
//! write to each socket. So a thousand logins a second cost each client twenty
//! writes, not a thousand.

use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use hashbrown::HashMap;
use heartline_core::auth::UserKey;
use heartline_core::line::ring::{Kept, Only};
use heartline_core::line::shelf::ScopeRef;
use heartline_core::message::Message;
use heartline_core::namespaces::NamespaceId;
use heartline_core::policy::Announce;
use heartline_core::presence::Edge;
use tokio::sync::Notify;

use crate::fanout::Fanout;
use crate::op::Op;
use crate::publication::Publication;
use crate::recovery::Recovery;

/// How long changes are gathered after some have left.
const WINDOW: Duration = Duration::from_millis(50);
/// Changes of presence in one write: a bound on what a client has to take at once.
const MAX_EDGES_PER_WRITE: usize = 256;

/// Changes that wait to be told.
#[derive(Default)]
pub(crate) struct Announcer {
    waiting: Mutex<Vec<Edge>>,
    work: Notify,
}

impl Announcer {
    /// Tells these after those that came before. Does not wait, and calls nobody.
    pub(crate) fn push(&self, edges: impl IntoIterator<Item = Edge>) {
        self.waiting
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .extend(edges);
        self.work.notify_one();
    }

    fn take(&self) -> Vec<Edge> {
        std::mem::take(&mut self.waiting.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// Tells until it is aborted, or the gateway has gone.
pub(crate) async fn run(announcer: Arc<Announcer>, fanout: Weak<Fanout>) {
    loop {
        let edges = announcer.take();
        if edges.is_empty() {
            announcer.work.notified().await;
            continue;
        }
        match fanout.upgrade() {
            Some(fanout) => announce(&fanout, &edges),
            None => return,
        }
        tokio::time::sleep(WINDOW).await;
    }
}

fn edge_message(user: &UserKey, online: bool, at: u64) -> Message {
    let data = serde_json::json!({
        "userId": &*user.user_id,
        "userType": user.user_type.as_deref(),
        "at": at,
    });
    let event = if online {
        "user:online"
    } else {
        "user:offline"
    };
    Message::new(event, &data.to_string())
}

/// Tells those here who are to know of changes of presence: everybody but the
/// user's own sockets.
fn announce(fanout: &Fanout, edges: &[Edge]) {
    let mut tenants: HashMap<Option<&Arc<str>>, Vec<&Edge>> = HashMap::new();
    for edge in edges.iter().filter(|edge| edge.others.is_none()) {
        let tenant = edge.user.tenant_id.as_ref();
        tenants.entry(tenant).or_default().push(edge);
    }
    for (id, namespace) in fanout.namespaces.iter() {
        match namespace.config.announce {
            Announce::Namespace => {
                for (tenant, edges) in &tenants {
                    for edges in edges.chunks(MAX_EDGES_PER_WRITE) {
                        announce_some(fanout, id, &namespace.name, *tenant, edges);
                    }
                }
            }
            Announce::Rooms => {
                for edge in edges {
                    announce_around(fanout, id, &namespace.name, edge);
                }
            }
            Announce::Off => {}
        }
    }
}

fn announce_some(
    fanout: &Fanout,
    namespace: NamespaceId,
    name: &Arc<str>,
    tenant: Option<&Arc<str>>,
    edges: &[&Edge],
) {
    let messages: Vec<Message> = edges
        .iter()
        .map(|edge| edge_message(&edge.user, edge.online, edge.at))
        .collect();
    let about: Arc<[Arc<UserKey>]> = edges.iter().map(|edge| edge.user.clone()).collect();
    let scope = ScopeRef {
        namespace,
        tenant: tenant.map(|tenant| &**tenant),
        user: None,
    };
    let post = |messages, place| {
        let publication = Publication::of_many(name.clone(), messages).at(place);
        let publication = Arc::new(publication);
        fanout.post_to_all(|| Op::Broadcast {
            namespace,
            tenant: tenant.cloned(),
            publication: publication.clone(),
            about: Some(about.clone()),
        });
    };
    match fanout
        .recovery
        .as_ref()
        .filter(|recovery| recovery.common.is_none() && recovery.keeps_all())
    {
        None => post(messages, None),
        Some(recovery) => {
            let now = fanout.clock.now();
            let events: Vec<Kept> = std::iter::zip(&messages, about.iter())
                .map(|(message, about)| {
                    let only = Only {
                        about: Some(about.clone()),
                        ..Only::default()
                    };
                    recovery.kept(message, only, now)
                })
                .collect();
            recovery.keep(scope, events, |place| post(messages, place));
        }
    }
}

/// Tells the members of the rooms that a change concerns.
fn announce_around(fanout: &Fanout, namespace: NamespaceId, name: &Arc<str>, edge: &Edge) {
    let tenant = edge.user.tenant_id.as_deref();
    let rooms = fanout.find_rooms(namespace, tenant, &edge.rooms);
    if rooms.is_empty() {
        return;
    }
    let message = edge_message(&edge.user, edge.online, edge.at);
    let scope = ScopeRef {
        namespace,
        tenant,
        user: None,
    };
    let for_whom = || Only {
        about: Some(edge.user.clone()),
        among: Some(rooms.iter().map(|room| room.key.name.to_string()).collect()),
        except: match &edge.others {
            Some(others) => {
                let others = others.list().into_iter();
                let here = others.filter(|place| place.namespace == *name);
                here.map(|place| place.room.to_string()).collect()
            }
            None => Box::default(),
        },
        ..Only::default()
    };
    fanout.say(
        scope,
        Recovery::keeps_all,
        message,
        for_whom,
        |message, place| {
            let publication = Publication::new(name.clone(), message, None, None, None).at(place);
            let publication = Arc::new(publication);
            fanout.post_to_all(|| Op::DeliverAround {
                user: edge.user.clone(),
                rooms: rooms.clone(),
                others: edge.others.clone(),
                publication: publication.clone(),
            });
        },
    );
}
