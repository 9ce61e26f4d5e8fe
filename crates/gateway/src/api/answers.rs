//! What other nodes are answered.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use heartline_core::auth::BoxFuture;
use tokio::net::TcpListener;

use crate::gateway::Gateway;
use crate::peers::{Asked, Question};

/// Longest question without data, bytes: one that names as many users, sockets and rooms as the API
/// takes at once, in a body of 2 MB.
const LISTS: usize = 2 << 20;
/// What stands around the data in a question, bytes.
const AROUND: usize = 64 << 10;

/// Longest question of another node where data has `max_payload` bytes: it is text there, in which
/// each quotation mark and each backslash is two bytes.
const fn max_question(max_payload: usize) -> usize {
    let emit = max_payload.saturating_mul(2).saturating_add(AROUND);
    if emit > LISTS { emit } else { LISTS }
}

impl Gateway {
    /// Serves other nodes of the cluster on a listener of its own, until the runtime
    /// ends. Every request has to show the cluster's secret.
    pub async fn serve_nodes(&self, listener: TcpListener) {
        let shared = Arc::downgrade(&self.shared);
        let proof = move || shared.upgrade()?.fanout.backplane.secret();
        let gateway = self.clone();
        let answerer = move |question| -> BoxFuture<Vec<u8>> {
            let gateway = gateway.clone();
            Box::pin(async move { gateway.answer(question).await })
        };
        let max_question = max_question(self.shared.config.max_payload);
        self.ways
            .front
            .clone()
            .serve_nodes(listener, proof, Arc::new(answerer), max_question)
            .await;
    }

    /// Nothing, if the question is not one of this version's.
    async fn answer(&self, question: Bytes) -> Vec<u8> {
        let Ok(question) = serde_json::from_slice(&question) else {
            return Vec::new();
        };
        match question {
            Question::Connections(asked) => {
                let (filter, cursor) = (asked.filter.clone(), asked.cursor.clone());
                let found = self.connections_here(filter, cursor, asked.limit).await;
                write(&asked, found.ok())
            }
            Question::Connection(asked) => {
                write(&asked, self.connection_here(&asked.socket_id).await)
            }
            Question::Disconnect(asked) => {
                write(&asked, self.disconnect_here(&asked.socket_id).await)
            }
            Question::DisconnectUsers(asked) => {
                write(&asked, self.disconnect_users_here(&asked.users).await)
            }
            Question::Emit(asked) => {
                let within = asked.ack_within.map(Duration::from_millis);
                let emitted = self.emit_here(&asked.socket_id, &asked.event, &asked.data, within);
                write(&asked, emitted.await)
            }
            Question::Rooms(asked) => {
                let (namespace, tenant) = (asked.namespace.as_deref(), asked.tenant.as_deref());
                let rooms = self.rooms_here(namespace, tenant, asked.cursor.clone(), asked.limit);
                write(&asked, rooms.await.ok())
            }
            Question::Members(asked) => {
                let tenant = asked.tenant.as_deref();
                let members = self.members_here(&asked.namespace, tenant, &asked.room);
                write(&asked, members.await)
            }
            Question::RoomMembers(asked) => {
                let tenant = asked.tenant.as_deref();
                let members = self.room_members_here(&asked.namespace, tenant, &asked.room);
                write(&asked, members.await)
            }
            Question::Move(asked) => {
                let moved = self.move_here(&asked.which, &asked.room, asked.join);
                write(&asked, moved.await)
            }
            Question::Shed(asked) => {
                let over = Duration::from_millis(asked.over_ms);
                write(&asked, self.shed_here(asked.part, over))
            }
            Question::Alive(asked) => write(&asked, self.shared.fanout.backplane.tag()),
            Question::AboutNode(asked) => write(&asked, self.node_here()),
        }
    }
}

fn write<Q: Asked>(_: &Q, answer: Q::Answer) -> Vec<u8> {
    serde_json::to_vec(&answer).unwrap_or_default()
}
