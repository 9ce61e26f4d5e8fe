//! `createAdapter`: broadcasts as msgpack by `KEY#NAMESPACE#ROOM#`, requests as JSON or
//! msgpack by `KEY-request#NAMESPACE#`, answers by `KEY-response#NAMESPACE#`.

use bytes::Bytes;
use heartline_core::backplane::Action;
use serde::Deserialize;

use super::{
    Adapter, Broadcast, Foreign, Name, OWN, Options, Packet, Reply, Wish, names, to_msgpack,
};

pub(super) fn encode(adapter: &Adapter, broadcast: &Broadcast<'_>) -> (String, Vec<u8>) {
    let Broadcast {
        namespace,
        rooms,
        message,
        packet,
        options,
    } = broadcast;
    let text = format!(r#"["{}",{packet},{options}]"#, adapter.uid);
    let channel = match &**rooms {
        [room] => format!("{}#{namespace}#{room}#", adapter.key),
        _ => adapter.channel(namespace),
    };
    (channel, to_msgpack(&text, &message.attachments))
}

pub(super) fn decode_broadcast(text: &str, attachments: Vec<Bytes>) -> Option<Foreign> {
    let (uid, packet, options): (String, Packet, Options) = serde_json::from_str(text).ok()?;
    if uid.starts_with(OWN) {
        return None;
    }
    let message = packet.message(attachments)?;
    let namespace = packet.nsp.unwrap_or_else(|| "/".into());
    Some(options.foreign(namespace, Wish::Do(Action::Emit(message))))
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Request {
    #[serde(default)]
    uid: String,
    #[serde(default)]
    request_id: Option<String>,
    #[serde(rename = "type")]
    kind: u8,
    #[serde(default)]
    opts: Option<Options>,
    #[serde(default)]
    rooms: Vec<Name>,
    /// Before there were `opts`: one socket, and one room.
    #[serde(default)]
    sid: Option<Name>,
    #[serde(default)]
    room: Option<Name>,
    #[serde(default)]
    packet: Option<Packet>,
}

pub(super) fn decode_request(
    adapter: &Adapter,
    namespace: &str,
    text: &str,
    attachments: Vec<Bytes>,
) -> Option<Foreign> {
    let mut request: Request = serde_json::from_str(text).ok()?;
    if request.uid.starts_with(OWN) {
        return None;
    }
    let reply = request.request_id.take().map(|id| {
        // Every server listens to the answers to all, and to those to itself.
        let asker = match &*request.uid {
            "" => String::new(),
            uid => format!("{uid}#"),
        };
        let channel = format!("{}-response#{namespace}#{asker}", adapter.key);
        Reply::classic(channel, &id)
    });
    let (opts, sid) = (request.opts.take(), request.sid.take());
    // Whoever names neither rooms nor a socket means nobody: an empty list would be all.
    let chosen = opts.or_else(|| {
        let rooms = vec![sid?];
        Some(Options {
            rooms,
            ..Options::default()
        })
    });
    let rooms = match request.room.take() {
        Some(room) => vec![room],
        None => std::mem::take(&mut request.rooms),
    };
    let (chosen, wish) = match request.kind {
        0 => {
            let chosen = Options {
                rooms,
                ..Options::default()
            };
            (chosen, Wish::Ids(reply?))
        }
        1 => (Options::default(), Wish::Rooms(reply?)),
        2 => (chosen?, Wish::Do(Action::Join(names(rooms)))),
        3 => (chosen?, Wish::Do(Action::Leave(names(rooms)))),
        4 => (chosen?, Wish::Do(Action::Disconnect)),
        5 => (chosen?, Wish::Fetch(reply?)),
        6 => (Options::default(), Wish::Nothing(reply?)),
        7 => {
            let (chosen, message) = (chosen?, request.packet?.message(attachments)?);
            let time = chosen.ack_time();
            (chosen, Wish::Ask(message, time, reply?))
        }
        _ => return None,
    };
    Some(chosen.foreign(namespace.to_owned(), wish))
}
