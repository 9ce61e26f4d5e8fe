//! What is said goes into a line where it is kept: the node's own, or that of all nodes.

use std::sync::Arc;

use heartline_core::auth::BoxFuture;
use heartline_core::backplane::{Subscription, Target};
use heartline_core::line::ring::Only;
use heartline_core::line::shelf::ScopeRef;
use heartline_core::message::Message;
use heartline_core::namespaces::NamespaceId;
use heartline_core::presence::SocketAddress;
use heartline_core::rooms::{Room, RoomRef};
use heartline_wire::reason::Reason;
use tokio::sync::oneshot;

use super::{Fanout, Published};
use crate::in_order::{self, Later};
use crate::op::{Held, LineOp, Op};
use crate::publication::{Publication, Told, may_mislead};
use crate::recovery::Recovery;

impl Fanout {
    /// Gives members of a room something that has no number there.
    pub(crate) fn pass(
        &self,
        room: &Arc<Room>,
        message: Message,
        skip: Option<SocketAddress>,
        told: Option<Told>,
    ) {
        let name = self.namespaces.get(room.key.namespace).name.clone();
        let topic = Some(room.key.name.clone());
        let publication = Publication::new(name, message, topic, None, None).at(told);
        let publication = Arc::new(publication);
        room.pass(|shard, offset| {
            let op = Op::Deliver {
                room: room.clone(),
                offset,
                publication: publication.clone(),
                skip,
            };
            self.post(shard as u16, op);
        });
    }

    /// Whether events are kept for who comes back, and those of this room are not.
    pub(crate) fn leaves_out(&self, room: &str) -> bool {
        let recovery = self.recovery.as_ref();
        recovery.is_some_and(|recovery| !recovery.keeps(room))
    }

    /// Has a room's publications of other nodes come for as long as it is held.
    pub(crate) fn hold(
        &self,
        namespace: &str,
        tenant: Option<&str>,
        room: &str,
    ) -> Option<Arc<dyn Subscription>> {
        match self.common() {
            Some((recovery, common)) if recovery.keeps(room) => {
                Some(common.hold(namespace, tenant, room))
            }
            _ => self.backplane.subscribe(namespace, tenant, room),
        }
    }

    /// The same for who is going to join the room. One whose publications are kept is there
    /// from now on, so that what is kept of it is.
    pub(crate) fn hold_room(
        &self,
        namespace: NamespaceId,
        tenant: Option<&Arc<str>>,
        name: &str,
    ) -> Held {
        let tenant_name = tenant.map(|tenant| &**tenant);
        match self.common() {
            Some((recovery, _)) if recovery.keeps(name) => {
                let room = RoomRef {
                    namespace,
                    tenant: tenant_name,
                    name,
                };
                self.rooms.open(&room, tenant).subscription().cloned()
            }
            _ => {
                let namespace = self.namespace_name(namespace);
                self.backplane.subscribe(namespace, tenant_name, name)
            }
        }
    }

    /// Waits until a socket's rooms are as it is told: what is said there arrives, and other
    /// nodes know that it is there.
    pub(crate) async fn settle(&self, socket: SocketAddress, held: Held) {
        let ready = held.and_then(|held| held.ready());
        let was_ready = ready.is_none();
        if let Some(ready) = ready {
            ready.await;
        }
        let Some((_, common)) = self.common() else {
            return;
        };
        if !was_ready {
            let (reply, done) = oneshot::channel();
            self.post(socket.0.conn.shard, Op::Line(LineOp::Settle(reply)));
            // An error: there is no such shard.
            let _ = done.await;
        }
        common.remembered().await;
    }

    /// Puts a publication into the line that all nodes share, if there is one and it is kept;
    /// `None`, and the message is as it was, if not. Whoever does not wait for what becomes of it
    /// cannot be refused: it is told to those here then, should the line be away.
    pub(super) fn say_in_common(
        &self,
        target: &Target<'_>,
        is_kept: impl FnOnce(&Recovery) -> bool,
        message: &Message,
        skip: Option<SocketAddress>,
    ) -> Option<Published> {
        let (recovery, common) = self.common()?;
        is_kept(recovery).then(|| {
            let said = common.say(target, message, skip);
            in_order::says(common.last_said());
            Published::InLine {
                said,
                is_numbered: matches!(target, Target::Room { .. }),
                refuse: recovery.refuse_unreachable,
            }
        })
    }

    /// Where a publication of the handler that runs on this thread waits until what its connection
    /// has said before has come back: one that is not kept would be heard before that. And whether it
    /// is kept.
    pub(super) fn later(&self, is_kept: impl Fn(&Recovery) -> bool) -> Option<(Arc<Later>, bool)> {
        let is_kept = || self.common().is_some_and(|(recovery, _)| is_kept(recovery));
        let later = in_order::later(|said| !is_kept() && self.is_coming(said))?;
        Some((later, is_kept()))
    }

    /// Gives an event to a socket of this node as [`emit`](Self::emit) does: behind what the handler
    /// that runs on this thread, and its client, have published before, which the socket may hear.
    pub(crate) fn emit_in_turn(
        self: &Arc<Self>,
        name: SocketAddress,
        at: SocketAddress,
        message: Message,
    ) {
        let is_kept = self
            .common()
            .is_some_and(|(recovery, _)| recovery.keeps_all());
        let Some(later) = in_order::later_in_line(|said| !is_kept && self.is_coming(said)) else {
            return self.emit(name, at, message);
        };
        let fanout = self.clone();
        later.publish(message.size(), is_kept, move || {
            fanout.emit(name, at, message)
        });
    }

    /// Ends a socket behind what the handler that runs on this thread, and its client, have said
    /// before.
    pub(crate) fn disconnect_in_turn(self: &Arc<Self>, to: SocketAddress) {
        let fanout = self.clone();
        let disconnect = move || {
            let op = Op::Disconnect {
                to,
                reason: Reason::Kicked,
                reply: None,
            };
            fanout.post(to.0.conn.shard, op);
        };
        match in_order::later(|said| self.is_coming(said)) {
            Some(later) => later.act(disconnect),
            None => disconnect(),
        }
    }

    /// Resolves when all that the connection has said before is heard and stored whose handler
    /// runs on this thread, or when nobody will say so any more; `None`: it is.
    pub(crate) fn own(&self) -> Option<impl Future<Output = ()> + use<>> {
        let later = in_order::later(|said| self.is_coming(said))?;
        in_order::ask();
        let (done, is_done) = oneshot::channel();
        later.act(move || {
            let _ = done.send(());
        });
        Some(async move { drop(is_done.await) })
    }

    /// Whether something of this node's own, up to a number, is on its way back.
    fn is_coming(&self, said: u64) -> bool {
        let common = self.common();
        common.is_some_and(|(_, common)| common.back(said).is_some())
    }

    /// The handler that runs on this thread stores something that is told in a room then. Resolves
    /// when what its connection has said before is heard; `None`: it is, or comes by the same way.
    pub(crate) fn turn(&self, room: &str) -> Option<BoxFuture<()>> {
        let said = in_order::stores();
        let (_, common) = self
            .common()
            .filter(|(recovery, _)| !recovery.keeps(room))?;
        let back = common.back(said)?;
        in_order::ask();
        Some(back)
    }

    /// The place in the line that an event brings along which is not kept: that of what has
    /// been said before, where it would be taken for a place itself.
    pub(crate) fn passing(&self, message: &Message) -> Option<Told> {
        let recovery = self.recovery.as_ref()?;
        may_mislead(message).then(|| Told {
            place: recovery.line.place(recovery.line.last()),
            is_own: false,
        })
    }

    /// Says something to no single room: kept where that is done, with its place in the line.
    /// `post` puts it into the mailboxes.
    pub(crate) fn say(
        &self,
        scope: ScopeRef<'_>,
        is_kept: impl FnOnce(&Recovery) -> bool,
        message: Message,
        only: impl FnOnce() -> Only,
        post: impl FnOnce(Message, Option<Told>),
    ) {
        match &self.recovery {
            Some(recovery) if recovery.common.is_none() && is_kept(recovery) => {
                let event = recovery.kept(&message, only(), self.clock.now());
                recovery.keep(scope, vec![event], |place| post(message, place));
            }
            _ => {
                let place = self.passing(&message);
                post(message, place);
            }
        }
    }
}
