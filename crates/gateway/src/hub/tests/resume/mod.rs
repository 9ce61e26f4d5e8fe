//! Connections that are lost and come back: what they missed, once and in order, or nothing
//! and plainly.

mod cut;
mod direct;
mod instead;
mod killed;
mod live;
mod notified;
mod stopped;
mod story;
mod suspended;
mod untold;
mod users;

use super::*;
use crate::config::RecoveryConfig;

/// A gateway that keeps what goes to rooms for a minute.
pub(super) fn kept() -> Config {
    Config {
        recovery: RecoveryConfig {
            window: Some(seconds(60)),
            ..RecoveryConfig::default()
        },
        ..config()
    }
}

/// A client that remembers what socket.io-client remembers.
/// Source: socket.io-client, `Socket.emitEvent` and `Socket._sendConnectPacket`.
pub(super) struct Tracking {
    pub(super) client: Client,
    token: String,
    pub(super) sid: String,
    pid: Option<String>,
    offset: Option<String>,
    /// The arguments of the events that have come, without places.
    got: Vec<String>,
    /// Whether the last CONNECT went on with the session before.
    pub(super) recovered: bool,
}

impl Tracking {
    pub(super) fn new(world: &mut World, token: &str) -> Tracking {
        let mut tracking = Tracking::lost(world.engineio(), token);
        tracking.connect(world);
        tracking
    }

    /// One that has not joined yet.
    pub(super) fn lost(client: Client, token: &str) -> Tracking {
        Tracking {
            client,
            token: token.into(),
            sid: String::new(),
            pid: None,
            offset: None,
            got: Vec::new(),
            recovered: false,
        }
    }

    /// What it says when it connects.
    pub(super) fn hello(&self) -> String {
        let mut auth = format!(r#""token":"{}""#, self.token);
        if let Some(pid) = &self.pid {
            auth.push_str(&format!(r#","pid":"{pid}""#));
            if let Some(offset) = &self.offset {
                auth.push_str(&format!(r#","offset":"{offset}""#));
            }
        }
        format!("40{{{auth}}}")
    }

    fn connect(&mut self, world: &mut World) {
        let hello = self.hello();
        self.client.says(&hello);
        world.settle();
        self.hear(usize::MAX);
    }

    /// Comes back by another connection.
    fn return_to(&mut self, world: &mut World) {
        self.client = world.engineio();
        self.connect(world);
    }

    /// Receives what has come, but for all after the first few texts.
    pub(super) fn hear(&mut self, most: usize) {
        let texts = self.client.hears().into_iter();
        self.take(texts.take(most));
    }

    pub(super) fn take(&mut self, texts: impl IntoIterator<Item = String>) {
        for text in texts {
            if let Some(reply) = text.strip_prefix("40") {
                let reply: serde_json::Value = serde_json::from_str(reply).unwrap();
                let pid = reply["pid"].as_str().map(ToOwned::to_owned);
                self.recovered = pid.is_some() && pid == self.pid;
                self.pid = pid;
                self.sid = reply["sid"].as_str().unwrap().into();
            } else if let Some(event) = text.strip_prefix("42") {
                let mut args: Vec<serde_json::Value> = serde_json::from_str(event).unwrap();
                if let Some(last) = args.last().and_then(|last| last.as_str()) {
                    self.offset = Some(last.to_owned());
                    if last.starts_with("hl.") {
                        args.pop();
                    }
                }
                self.got.push(serde_json::to_string(&args).unwrap());
            } else if text == "2" {
                self.client.says("3");
            }
        }
    }

    pub(super) fn asks(&mut self, world: &mut World, text: &str) {
        self.client.says(text);
        world.settle();
        self.hear(usize::MAX);
    }

    pub(super) fn got(&mut self) -> Vec<String> {
        std::mem::take(&mut self.got)
    }

    pub(super) fn is_cut(&mut self, world: &mut World) {
        self.client.0.end();
        world.settle();
    }
}

pub(super) fn said(world: &World, room: &str, text: &str) {
    let to = world.gateway.to("/", None, room).unwrap();
    to.emit("news", text).unwrap();
}

/// Says something to everybody of `/`.
fn said_to_all(world: &World, text: &str) {
    let all = world.gateway.everybody("/", None).unwrap();
    all.emit("news", text).unwrap();
}

/// An operator ends a socket; whether there was one.
fn sent_away(world: &mut World, id: &str) -> bool {
    let (gateway, id) = (world.gateway.clone(), id.to_owned());
    let asked = world.begin(async move { gateway.disconnect(&id).await.unwrap().sockets > 0 });
    while !asked.is_finished() {
        world.settle();
    }
    world.runtime.block_on(asked).unwrap()
}

/// Handles of sockets, in the order in which they were made.
#[derive(Clone, Default)]
pub(super) struct Handles(Arc<Mutex<Vec<Socket>>>);

impl Handles {
    pub(super) fn filled_by(&self, builder: GatewayBuilder) -> GatewayBuilder {
        let handles = self.0.clone();
        builder.on_connect(move |socket: Socket| {
            handles.lock().unwrap().push(socket);
            async {}
        })
    }

    /// The one that was made first.
    pub(super) fn first(&self) -> Socket {
        self.0.lock().unwrap()[0].clone()
    }

    /// The first of a socket's handles, or the last.
    pub(super) fn find(&self, id: &str, is_first: bool) -> Socket {
        let handles = self.0.lock().unwrap();
        let mut of_it = handles.iter().filter(|socket| socket.id() == id);
        let first = of_it.next().expect("it has connected");
        let last = of_it.next_back().unwrap_or(first);
        if is_first { first } else { last }.clone()
    }
}
