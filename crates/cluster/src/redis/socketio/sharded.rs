//! `createShardedAdapter`: JSON, or msgpack where something is binary, by sharded pub/sub.
//! Broadcasts to one room come by `KEY#NAMESPACE#ROOM#`, all others and requests by
//! `KEY#NAMESPACE#`, answers by `KEY#NAMESPACE#ASKER#`.
//!
//! What this node says goes by the namespace's channel: servers listen to it in every
//! subscription mode, and take a broadcast's rooms from the broadcast.

use bytes::Bytes;
use heartline_core::backplane::Action;
use serde::Deserialize;
use serde_json::value::RawValue;

use super::{Adapter, Broadcast, Foreign, Name, OWN, Options, Packet, Reply, Wish, close, names};

pub(super) fn encode(adapter: &Adapter, broadcast: &Broadcast<'_>) -> (String, Vec<u8>) {
    let Broadcast {
        namespace,
        message,
        packet,
        options,
        ..
    } = broadcast;
    let head = adapter.head(namespace, BROADCAST);
    let text = format!(r#"{{{head},"data":{{"packet":{packet},"opts":{options}}}}}"#);
    (
        adapter.channel(namespace),
        close(&text, &message.attachments),
    )
}

/// The type of a broadcast.
const BROADCAST: u8 = 3;

impl Adapter {
    /// The members that each message has.
    fn head(&self, namespace: &str, kind: u8) -> String {
        let namespace = heartline_wire::json::quote(namespace);
        format!(r#""uid":"{}","nsp":{namespace},"type":{kind}"#, self.uid)
    }
}

#[derive(Deserialize)]
struct Message {
    #[serde(default)]
    uid: String,
    nsp: String,
    #[serde(rename = "type")]
    kind: u8,
    #[serde(default)]
    data: Data,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Data {
    #[serde(default)]
    request_id: Option<String>,
    #[serde(default)]
    opts: Option<Options>,
    #[serde(default)]
    rooms: Vec<Name>,
    #[serde(default)]
    packet: Option<Box<RawValue>>,
}

pub(super) fn decode(adapter: &Adapter, text: &str, attachments: Vec<Bytes>) -> Option<Foreign> {
    let Message {
        uid,
        nsp,
        kind,
        data,
    } = serde_json::from_str(text).ok()?;
    if uid.starts_with(OWN) {
        return None;
    }
    let reply = data.request_id.map(|id| {
        let channel = format!("{}#{nsp}#{uid}#", adapter.key);
        Reply::sharded(channel, &id, adapter.uid.clone(), &nsp)
    });
    let (chosen, wish) = match kind {
        BROADCAST => {
            let packet: Packet = serde_json::from_str(data.packet?.get()).ok()?;
            let (chosen, message) = (data.opts?, packet.message(attachments)?);
            let time = chosen.ack_time();
            let wish = match reply {
                Some(reply) => Wish::Ask(message, time, reply),
                None => Wish::Do(Action::Emit(message)),
            };
            (chosen, wish)
        }
        4 => (data.opts?, Wish::Do(Action::Join(names(data.rooms)))),
        5 => (data.opts?, Wish::Do(Action::Leave(names(data.rooms)))),
        6 => (data.opts?, Wish::Do(Action::Disconnect)),
        7 => (data.opts?, Wish::Fetch(reply?)),
        9 => (Options::default(), Wish::Nothing(reply?)),
        _ => return None,
    };
    Some(chosen.foreign(nsp, wish))
}
