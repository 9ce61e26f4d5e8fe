//! Answers to Node servers, in the words of the adapter that asked.

use heartline_core::backplane::Acknowledgement;
use heartline_core::entries::SocketEntry;
use heartline_wire::json;
use serde_json::json;
use serde_json::value::RawValue;

use super::close;

/// Where an answer goes, and to which question.
#[derive(Debug, Clone)]
pub struct Reply {
    channel: String,
    /// The request's id, JSON.
    id: String,
    /// For the sharded adapter: this node's name and the namespace, JSON.
    sender: Option<(String, String)>,
}

impl Reply {
    pub(super) fn classic(channel: String, id: &str) -> Reply {
        Reply {
            channel,
            id: json::quote(id),
            sender: None,
        }
    }

    pub(super) fn sharded(channel: String, id: &str, uid: String, namespace: &str) -> Reply {
        Reply {
            channel,
            id: json::quote(id),
            sender: Some((json::quote(&uid), json::quote(namespace))),
        }
    }

    /// The channel that the answer is published in.
    pub fn channel(&self) -> &str {
        &self.channel
    }

    /// An answer whose type is called so by the classic adapter and so by the sharded, with
    /// one more member; `None`: without.
    fn write(&self, types: (Option<u8>, u8), member: Option<(&str, &str)>) -> String {
        let member = member.map_or(String::new(), |(name, value)| {
            format!(r#","{name}":{value}"#)
        });
        let id = &self.id;
        match (&self.sender, types) {
            (Some((uid, namespace)), (_, kind)) => format!(
                r#"{{"uid":{uid},"nsp":{namespace},"type":{kind},"data":{{"requestId":{id}{member}}}}}"#
            ),
            (None, (Some(kind), _)) => format!(r#"{{"type":{kind},"requestId":{id}{member}}}"#),
            (None, (None, _)) => format!(r#"{{"requestId":{id}{member}}}"#),
        }
    }

    /// So many sockets were asked.
    pub fn count(&self, sockets: usize) -> Vec<u8> {
        let count = sockets.to_string();
        self.write((Some(8), 11), Some(("clientCount", &count)))
            .into()
    }

    /// One of them has answered: its first argument is told, as Node servers do.
    pub fn acknowledged(&self, answer: &Acknowledgement) -> Vec<u8> {
        let args = format!("[{}]", answer.args);
        let args: Vec<&RawValue> = serde_json::from_str(&args).unwrap_or_default();
        let first = args.first().map(|first| ("packet", first.get()));
        close(&self.write((Some(9), 12), first), &answer.attachments)
    }

    /// Who the sockets are.
    pub fn sockets(&self, entries: &[SocketEntry]) -> Vec<u8> {
        let entries: Vec<_> = entries.iter().map(remote_socket).collect();
        let entries = json!(entries).to_string();
        self.write((None, 8), Some(("sockets", &entries))).into()
    }

    /// The sockets' ids.
    pub fn ids(&self, entries: &[SocketEntry]) -> Vec<u8> {
        let ids: Vec<&str> = entries.iter().map(|entry| &*entry.socket_id).collect();
        let ids = json!(ids).to_string();
        self.write((None, 8), Some(("sockets", &ids))).into()
    }

    /// The rooms there are.
    pub fn rooms(&self, rooms: &[String]) -> Vec<u8> {
        let rooms = json!(rooms).to_string();
        self.write((None, 8), Some(("rooms", &rooms))).into()
    }

    /// This server's code has nothing to say.
    pub fn nothing(&self) -> Vec<u8> {
        let name = match self.sender {
            Some(_) => "packet",
            None => "data",
        };
        self.write((Some(6), 10), Some((name, "null"))).into()
    }
}

/// A socket as `fetchSockets()` tells of one.
fn remote_socket(entry: &SocketEntry) -> serde_json::Value {
    // On Node a socket is in a room of its own id.
    let mut rooms = vec![&entry.socket_id];
    rooms.extend(&entry.rooms);
    let mut headers = serde_json::Map::new();
    if let Some(agent) = &entry.user_agent {
        headers.insert("user-agent".into(), agent.as_str().into());
    }
    json!({
        "id": entry.socket_id,
        "handshake": {
            "headers": headers,
            "address": entry.remote_addr,
            "issued": entry.connected_at,
            "query": {},
            "auth": {},
        },
        "rooms": rooms,
        "data": {
            "userId": entry.user_id,
            "userType": entry.user_type,
            "deviceId": entry.device_id,
            "nodeId": entry.node_id,
        },
    })
}
