//! Sockets by where they are: what is said to them, and what is done with them.

use std::sync::Arc;

use hashbrown::HashSet;
use heartline_core::backplane::{Action, NameList, Target};
use heartline_core::line::ring::Only;
use heartline_core::line::shelf::ScopeRef;
use heartline_core::message::Message;
use heartline_core::namespaces::NamespaceId;
use heartline_core::presence::SocketAddress;
use heartline_core::rooms::{PRIVATE, RoomRef};
use heartline_wire::socketio;

use super::{Fanout, Published};
use crate::op::{Chosen, FIRST_CHOICE, Op, Query, SelectedAction, Selection};
use crate::publication::{Publication, Told};
use crate::recovery::Recovery;

/// Sockets by where they are.
#[derive(Clone, Copy)]
pub(crate) struct ToRooms<'a> {
    pub(crate) namespace: NamespaceId,
    pub(crate) tenant: Option<&'a Arc<str>>,
    /// In any of these; in all of the namespace, if there are none.
    pub(crate) rooms: &'a [String],
    /// In none of these.
    pub(crate) except: &'a [String],
    /// Not this one.
    pub(crate) skip: Option<SocketAddress>,
}

/// Whether what is said to several rooms, or to everybody, is kept.
fn keeps_any(recovery: &Recovery, rooms: &[String]) -> bool {
    match rooms {
        [] => recovery.keeps_all(),
        rooms => rooms.iter().any(|room| recovery.keeps(room)),
    }
}

impl Fanout {
    /// Gives a message to sockets by where they are, on all nodes.
    pub(crate) fn send_to_rooms(self: &Arc<Self>, to: &ToRooms<'_>, message: Message) -> Published {
        let Some(later) = self.later(|recovery| keeps_any(recovery, to.rooms)) else {
            return self.send_to_rooms_now(to, message);
        };
        let (fanout, namespace, skip) = (self.clone(), to.namespace, to.skip);
        let (tenant, rooms, except) = (to.tenant.cloned(), to.rooms.to_vec(), to.except.to_vec());
        let said = message.clone();
        Published::later(&later, &message, move || {
            let to = ToRooms {
                namespace,
                tenant: tenant.as_ref(),
                rooms: &rooms,
                except: &except,
                skip,
            };
            fanout.send_to_rooms_now(&to, said)
        })
    }

    fn send_to_rooms_now(&self, to: &ToRooms<'_>, message: Message) -> Published {
        let target = Target::Rooms {
            namespace: self.namespace_name(to.namespace),
            tenant: to.tenant.map(|tenant| &**tenant),
            rooms: NameList(&NameList::text(to.rooms)),
            except: NameList(&NameList::text(to.except)),
        };
        let is_kept = |recovery: &Recovery| keeps_any(recovery, to.rooms);
        let said = self.say_in_common(&target, is_kept, &message, to.skip);
        if let Some(said) = said {
            return said;
        }
        self.backplane.publish(&target, &message);
        self.send_to_rooms_here(to, message);
        Published::Here(None)
    }

    pub(super) fn send_to_rooms_here(&self, to: &ToRooms<'_>, message: Message) {
        let scope = ScopeRef {
            namespace: to.namespace,
            tenant: to.tenant.map(|tenant| &**tenant),
            user: None,
        };
        let is_kept = |recovery: &Recovery| keeps_any(recovery, to.rooms);
        // Live subscribers know an event's room; of several, there is none to tell.
        let topic: Option<Arc<str>> = match to.rooms {
            [only] => Some(only.as_str().into()),
            _ => None,
        };
        let for_whom = || Only {
            skip: to.skip,
            among: (!to.rooms.is_empty()).then(|| to.rooms.into()),
            except: to.except.into(),
            topic: topic.clone(),
            ..Only::default()
        };
        self.say(scope, is_kept, message, for_whom, |message, place| {
            self.post_to_rooms(to, message, place);
        });
    }

    /// Puts something into the mailboxes of sockets by where they are.
    pub(crate) fn post_to_rooms(&self, to: &ToRooms<'_>, message: Message, place: Option<Told>) {
        let name = self.namespace_name(to.namespace).clone();
        let topic = match to.rooms {
            [only] => Some(only.as_str().into()),
            _ => None,
        };
        let publication = Publication::new(name, message, topic, None, None).at(place);
        self.select_here(to, SelectedAction::Send(Arc::new(publication)));
    }

    /// Does something to sockets of this node that are chosen by their rooms.
    pub(crate) fn select(
        &self,
        namespace: &str,
        rooms: &[String],
        except: &[String],
        action: Action,
    ) {
        let Some(namespace) = self.namespaces.find(namespace) else {
            return;
        };
        let to = ToRooms {
            namespace,
            tenant: None,
            rooms,
            except,
            skip: None,
        };
        let action = match action {
            Action::Emit(message) if socketio::RESERVED_EVENTS.contains(&&*message.event) => {
                // It would break every client that hears it.
                tracing::debug!("another server's event has a name of the protocol's own");
                return;
            }
            Action::Emit(message) => return self.send_to_rooms_here(&to, message),
            Action::Join(rooms) => SelectedAction::Join(rooms.into()),
            Action::Leave(rooms) => SelectedAction::Leave(rooms.into()),
            Action::Disconnect => SelectedAction::Disconnect,
        };
        self.select_here(&to, action);
    }

    /// Sockets of this node by where they are; none, if there is no such namespace.
    pub(crate) async fn choose(
        &self,
        namespace: &str,
        tenant: Option<&str>,
        rooms: &[String],
        except: &[String],
    ) -> Vec<SocketAddress> {
        let Some(namespace) = self.namespaces.find(namespace) else {
            return Vec::new();
        };
        let tenant: Option<Arc<str>> = tenant.map(Into::into);
        let selection = self.selection(&ToRooms {
            namespace,
            tenant: tenant.as_ref(),
            rooms,
            except,
            skip: None,
        });
        let mut chosen = Vec::new();
        for shard in 0..self.shard_count() {
            let (mut seen, mut place) = (HashSet::new(), Some(FIRST_CHOICE));
            while let Some(from) = place {
                let selection = selection.clone();
                let some = self.query(shard, |reply| Query::Choose {
                    selection,
                    from,
                    reply,
                });
                let (some, next) = some.await.unwrap_or_default();
                chosen.extend(some.into_iter().filter(|socket| seen.insert(*socket)));
                place = next;
            }
        }
        chosen
    }

    fn selection(&self, to: &ToRooms<'_>) -> Arc<Selection> {
        let tenant = to.tenant.map(|tenant| &**tenant);
        Arc::new(Selection {
            namespace: to.namespace,
            tenant: to.tenant.cloned(),
            all: to.rooms.is_empty(),
            among: self.places(to.namespace, tenant, to.rooms),
            except: self.places(to.namespace, tenant, to.except),
            skip: to.skip,
        })
    }

    fn select_here(&self, to: &ToRooms<'_>, action: SelectedAction) {
        let selection = self.selection(to);
        self.post_to_all(|| Op::Select {
            selection: selection.clone(),
            action: action.clone(),
        });
    }

    /// Rooms and sockets by the names that Socket.IO has for both.
    fn places(&self, namespace: NamespaceId, tenant: Option<&str>, names: &[String]) -> Chosen {
        let mut places = Chosen::default();
        for name in names {
            if let Some(user) = name.strip_prefix(PRIVATE) {
                let sockets = self.backplane.local().sockets(tenant, user, None);
                places.sockets.extend(sockets);
            } else if let Some(socket) = self.find_socket(name) {
                places.sockets.push(socket);
            }
            places.rooms.extend(self.rooms.find(&RoomRef {
                namespace,
                tenant,
                name,
            }));
        }
        places
    }
}
