//! What Socket.IO servers on Node want of this node, and the answers to it.

use std::sync::Arc;
use std::time::Duration;

use heartline_core::backplane::{Acknowledgement, Action, Message, Node};
use heartline_core::presence::SocketAddress;
use tokio::task::JoinSet;

use crate::redis::{Commands, Fanout, Foreign, Reply, Server, Wish};

/// Sockets that one answer tells of, or one event waits for: more would be megabytes in
/// one message. A server that asks for more is not answered, so its caller hears of it.
const MAX_SOCKETS: usize = 10_000;
/// Rooms that one answer tells of.
const MAX_ROOMS: usize = 100_000;
/// How often a stream of the streams adapter's is looked for.
const STREAM_INTERVAL: Duration = Duration::from_secs(600);

/// Does what a server wants, and answers it in the background. Never waits.
pub(crate) fn obey(node: &Arc<dyn Node>, fanout: &Arc<Fanout>, foreign: Foreign) {
    let Foreign {
        namespace,
        rooms,
        except,
        wish,
    } = foreign;
    let wish = match wish {
        Wish::Do(action) => return node.select(&namespace, &rooms, &except, action),
        other => other,
    };
    let server = Answering {
        node: node.clone(),
        fanout: fanout.clone(),
        namespace,
        rooms,
        except,
    };
    tokio::spawn(async move {
        match wish {
            Wish::Do(_) => {}
            Wish::Ask(message, time, reply) => server.ask(message, time, &reply).await,
            Wish::Fetch(reply) => {
                let found = server.find().await;
                server.say(&reply, found.map(|found| reply.sockets(&found)));
            }
            Wish::Ids(reply) => {
                let found = server.find().await;
                server.say(&reply, found.map(|found| reply.ids(&found)));
            }
            Wish::Rooms(reply) => {
                let rooms = server.node.rooms(&server.namespace, MAX_ROOMS).await;
                server.say(&reply, Some(reply.rooms(&rooms)));
            }
            Wish::Nothing(reply) => server.say(&reply, Some(reply.nothing())),
        }
    });
}

/// A question on its way to its answer.
struct Answering {
    node: Arc<dyn Node>,
    fanout: Arc<Fanout>,
    namespace: String,
    rooms: Vec<String>,
    except: Vec<String>,
}

impl Answering {
    async fn find(&self) -> Option<Vec<heartline_core::entries::SocketEntry>> {
        let found = self
            .node
            .find(&self.namespace, &self.rooms, &self.except, MAX_SOCKETS);
        let found = found.await;
        if found.is_none() {
            tracing::warn!(
                max = MAX_SOCKETS,
                "a Socket.IO server asked about more sockets than one answer has room for"
            );
        }
        found
    }

    fn say(&self, reply: &Reply, answer: Option<Vec<u8>>) {
        if let Some(answer) = answer {
            self.fanout.answer(reply.channel(), answer);
        }
    }

    /// Gives an event to sockets, says how many they are, and passes on what they answer.
    async fn ask(&self, message: Message, time: Duration, reply: &Reply) {
        let Some(found) = self.find().await else {
            let action = Action::Emit(message);
            self.node
                .select(&self.namespace, &self.rooms, &self.except, action);
            return;
        };
        // The live protocol has no acknowledgements to the server: who speaks it hears the
        // event, and is not waited for.
        let (live, others): (Vec<_>, Vec<_>) = found
            .into_iter()
            .partition(|entry| entry.transport == "live");
        if !live.is_empty() {
            let ids: Vec<String> = live.into_iter().map(|entry| entry.socket_id).collect();
            let action = Action::Emit(message.clone());
            self.node.select(&self.namespace, &ids, &[], action);
        }
        let mut asked: JoinSet<Option<Acknowledgement>> = JoinSet::new();
        for entry in others {
            if let Some(socket) = SocketAddress::parse(&entry.socket_id) {
                asked.spawn(self.node.ask(socket, message.clone()));
            }
        }
        self.say(reply, Some(reply.count(asked.len())));
        let answers = async {
            while let Some(answer) = asked.join_next().await {
                if let Ok(Some(answer)) = answer {
                    self.say(reply, Some(reply.acknowledged(&answer)));
                }
            }
        };
        // Whoever has not answered by then is not waited for by the server either.
        let _ = tokio::time::timeout(time, answers).await;
    }
}

/// Says once that there are servers with the streams adapter, which cannot be heard.
pub(crate) async fn look_for_streams(server: Arc<Server>, key: String) {
    loop {
        // A connection of its own, which is closed: it is needed this once.
        let commands = Commands::new(server.clone());
        let kind = commands.query::<String>(redis::cmd("TYPE").arg(&key)).await;
        if kind.is_ok_and(|kind| kind == "stream") {
            tracing::warn!(
                stream = %key,
                "there are Socket.IO servers that use @socket.io/redis-streams-adapter, which \
                 Heartline does not speak: use createAdapter or createShardedAdapter of \
                 @socket.io/redis-adapter"
            );
            return;
        }
        drop(commands);
        tokio::time::sleep(STREAM_INTERVAL).await;
    }
}
