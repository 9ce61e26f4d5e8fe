//! What other nodes have said, given to those here whom it is for.

use std::sync::Arc;

use heartline_core::auth::UserKey;
use heartline_core::backplane::{NameList, Target, named_user};
use heartline_core::message::Message;
use heartline_core::namespaces::NamespaceId;
use heartline_wire::names;
use heartline_wire::names::Speaker;

use super::{Fanout, ToRoom, ToRooms, ToUser};

impl Fanout {
    /// Gives a publication of another node to those here whom it is for.
    pub(crate) fn deliver(&self, target: &Target<'_>, message: Message) {
        match names::may_say(Speaker::Backend, &message.event) {
            true => self.deliver_said(target, message),
            false => tracing::debug!("another server's event has a name of a protocol's own"),
        }
    }

    fn deliver_said(&self, target: &Target<'_>, message: Message) {
        // Nodes of another configuration may know more namespaces.
        let namespace = target.namespace();
        let Some(namespace) = namespace.and_then(|name| self.namespaces.find(name)) else {
            return;
        };
        let skip = None;
        match *target {
            Target::Room {
                tenant, room, key, ..
            } => {
                let to = ToRoom {
                    namespace,
                    tenant,
                    room,
                    key,
                    skip,
                };
                self.publish_here(&to, message);
            }
            Target::Rooms {
                tenant,
                rooms,
                except,
                ..
            } => self.deliver_to_rooms(namespace, tenant, [rooms, except], message),
            Target::All { tenant, .. } => {
                self.broadcast_here(namespace, tenant.map(Into::into), message);
            }
            Target::User {
                tenant,
                user,
                user_type,
                topic,
                instead_of,
                key,
                ..
            } => {
                let only = user_type.map(|user_type| UserKey {
                    tenant_id: tenant.map(Into::into),
                    user_id: user.into(),
                    user_type: user_type.map(Into::into),
                });
                let only = only.as_ref();
                let to = ToUser {
                    namespace,
                    tenant,
                    user,
                    only,
                    topic,
                    instead_of,
                    key,
                    skip,
                };
                self.send_here(&to, message);
            }
            Target::Users {
                tenant,
                users,
                instead_of,
                ..
            } => {
                let users = users.iter().map(|name| Arc::new(named_user(tenant, name)));
                self.send_to_users_here((namespace, instead_of), users, message);
            }
            Target::Nodes => {}
        }
    }

    fn deliver_to_rooms(
        &self,
        namespace: NamespaceId,
        tenant: Option<&str>,
        [rooms, except]: [NameList<'_>; 2],
        message: Message,
    ) {
        let names =
            |list: NameList<'_>| -> Vec<String> { list.iter().map(ToOwned::to_owned).collect() };
        let tenant: Option<Arc<str>> = tenant.map(Into::into);
        let to = ToRooms {
            namespace,
            tenant: tenant.as_ref(),
            rooms: &names(rooms),
            except: &names(except),
            skip: None,
        };
        self.send_to_rooms_here(&to, message);
    }
}
