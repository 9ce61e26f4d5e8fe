//! What is said to one socket.

use heartline_core::line::ring::Only;
use heartline_core::message::Message;
use heartline_core::presence::SocketAddress;
use heartline_wire::codes::Code;
use tokio::sync::oneshot;

use super::Fanout;
use crate::event::{Args, EventError};
use crate::in_order;
use crate::op::{Manner, Op};
use crate::recovery::Recovery;

impl Fanout {
    /// Gives an event to the socket of this node that is known by a name, and is or was at an
    /// address: kept until it has come, where that is done.
    pub(crate) fn emit(&self, name: SocketAddress, at: SocketAddress, message: Message) {
        let post = |to: SocketAddress, message, how| {
            self.post(to.0.conn.shard, Op::Emit { to, message, how });
        };
        // Of another one nobody would find out that it is nowhere.
        let may_be_here = |recovery: &Recovery| {
            usize::from(name.0.conn.shard) < self.shards.len() || recovery.may_come_back(&name)
        };
        let recovery = self.recovery.as_ref();
        let keeps = |recovery: &Recovery| recovery.keeps_all() && may_be_here(recovery);
        let Some(recovery) = recovery.filter(|recovery| keeps(recovery)) else {
            return post(at, message, Manner::Passing);
        };
        if let Some(common) = &recovery.common {
            let namespace = self.namespace_name(name.namespace());
            common.say_to(namespace, name, &message);
            return in_order::says(common.last_said());
        }
        let kept = recovery.kept(&message, Only::default(), self.clock.now());
        recovery.keep_direct(name, kept, |told| {
            post(recovery.whereabouts(name), message, Manner::Kept(told));
        });
    }

    /// Gives an event to a socket of this node and waits for its acknowledgement.
    ///
    /// # Errors
    /// What [`Socket::emit_with_ack`](crate::Socket::emit_with_ack) has, but no `TIMEOUT`.
    pub(crate) async fn ask_socket(
        &self,
        to: SocketAddress,
        message: Message,
    ) -> Result<Args, EventError> {
        let (reply, answer) = oneshot::channel();
        let op = Op::EmitWithAck { to, message, reply };
        self.post(to.0.conn.shard, op);
        answer
            .await
            .unwrap_or_else(|_| Err(Code::Disconnected.into()))
    }
}
