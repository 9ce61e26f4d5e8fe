//! `session:checkpoint` and `session:resume`: what a client wants to find again.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::Value;
use serde_json::value::RawValue;

use crate::store::Checkpoint;
use crate::{Args, Code, Event, EventError, FromEvent, Gateway, Json, Socket};

/// A patch, and the version that it is for.
pub(super) struct Wanted {
    patch: String,
    if_version: Option<u64>,
}

impl FromEvent for Wanted {
    /// The patch is the first argument, `{ ifVersion }` the second; or one argument is the list
    /// of both, as a live frame has only one.
    fn from_event(event: &Event<'_>) -> Result<Self, EventError> {
        #[derive(Deserialize, Default)]
        #[serde(rename_all = "camelCase")]
        struct Options {
            if_version: Option<u64>,
        }
        let misfit = |what| EventError::new(Code::InvalidData, what);
        if !Args::from_event(event)?.attachments().is_empty() {
            return Err(misfit(
                "A checkpoint is an object of JSON, and bytes are none",
            ));
        }
        let args = heartline_wire::json::whole(event.args());
        let args = match event.first().starts_with('[') {
            true => args.into_owned(),
            false => format!("[{args}]"),
        };
        let args: Vec<&RawValue> = serde_json::from_str(&args)
            .map_err(|_| misfit("Give the object, and then { ifVersion } if you like"))?;
        let [patch, options @ ..] = &args[..] else {
            return Err(misfit("A checkpoint is an object of JSON"));
        };
        let options = match options {
            [] => Options::default(),
            // Of a list, serde would take the first element.
            [options] if options.get().starts_with('[') => {
                return Err(misfit("The version is given as { ifVersion }"));
            }
            [options] => serde_json::from_str::<Option<Options>>(options.get())
                .map_err(|_| misfit("ifVersion must be a version: a whole number"))?
                .unwrap_or_default(),
            _ => return Err(misfit("A checkpoint and { ifVersion } are all there is")),
        };
        Ok(Wanted {
            patch: patch.get().to_owned(),
            if_version: options.if_version,
        })
    }
}

/// When the store is asked again that has too many questions: after a restart all users come at
/// once. Milliseconds.
const PAUSES: [u64; 3] = [200, 800, 3_000];

/// What is kept of a user. Without an answer of the store the client goes on as if nothing was;
/// the log says so.
async fn kept(socket: &Socket) -> Option<Checkpoint> {
    let mut pauses = PAUSES.into_iter();
    loop {
        match socket.kept_before().await {
            Ok(kept) => return kept,
            Err(error) if error.code() == Code::Overloaded.as_str() => {
                tokio::time::sleep(Duration::from_millis(pauses.next()?)).await;
            }
            Err(_) => return None,
        }
    }
}

#[derive(Debug, Serialize)]
pub(super) struct Kept {
    ok: bool,
    version: u64,
}

/// Keeps a client's patch.
pub(super) async fn keep(socket: Socket, wanted: Wanted) -> Result<Json<Kept>, EventError> {
    let version = socket.checkpoint(&wanted.patch, wanted.if_version).await?;
    Ok(Json(Kept { ok: true, version }))
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Resumed<'a> {
    metadata: Value,
    rooms: &'a [String],
    version: u64,
    last_seen_at: u64,
}

#[derive(Serialize)]
struct RoomEvent<'a> {
    room: &'a str,
}

/// Tells a user who has come what is kept, and puts the socket back into the rooms where that
/// is wanted: those that the token grants now.
pub(super) async fn resume(socket: Socket, gateway: Gateway) {
    if socket.identity().user.is_none() {
        return;
    }
    let Some(kept) = kept(&socket).await else {
        return;
    };
    if socket.recovered() {
        // It has everything.
        return;
    }
    if gateway.config().session_rejoin {
        // The newest last, as they were joined.
        for room in kept.rooms.iter().rev() {
            if socket.ask_to_join(room).await.is_ok() {
                let _ = socket.answer("room:joined", &RoomEvent { room });
            }
        }
    }
    let resumed = Resumed {
        metadata: serde_json::from_str(&kept.metadata).unwrap_or_default(),
        rooms: &kept.rooms,
        version: kept.version,
        last_seen_at: kept.last_seen_at,
    };
    let _ = socket.answer("session:resume", &resumed);
}
