//! What clients watch, on both protocols: a picture, and each change with the next number.

mod elsewhere;
mod here;

use heartline_core::presence::Edge;
use serde_json::{Value, json};

use super::*;

/// What is said in a packet or a frame: the acknowledgement, or `presence:change`.
fn told(text: &str) -> Option<Value> {
    let from = text.find(['[', '{'])?;
    let value: Value = serde_json::from_str(&text[from..]).ok()?;
    match &value {
        Value::Array(parts) if parts[0] == "presence:change" => Some(parts[1].clone()),
        Value::Array(parts) => Some(parts[0].clone()),
        _ if value["type"] == "ack" || value["type"] == "presence:change" => {
            Some(value["data"].clone())
        }
        _ => None,
    }
}

/// The words of a protocol for an event with an acknowledgement.
fn emit(is_live: bool, event: &str, data: &Value) -> String {
    match is_live {
        true => json!({ "type": "emit", "event": event, "data": data, "id": "q" }).to_string(),
        false => format!("42{}{}", 7, json!([event, data])),
    }
}

struct Watcher {
    client: Client,
    is_live: bool,
}

impl Watcher {
    fn new(world: &mut World, token: &str, is_live: bool) -> Watcher {
        let client = match is_live {
            true => world.live(token),
            false => world.socketio(token),
        };
        Watcher { client, is_live }
    }

    fn ask(&mut self, world: &mut World, event: &str, data: Value) -> Value {
        let text = emit(self.is_live, event, &data);
        self.client.says(&text);
        world.run(ms(20));
        let heard = self.client.hears();
        // `room:joined` and the like come before it.
        let answer = heard.iter().rev().find_map(|text| told(text));
        answer.unwrap_or_else(|| panic!("no answer to {event}: {heard:?}"))
    }

    /// Changes that have come within a moment.
    fn changes(&mut self, world: &mut World) -> Vec<Value> {
        world.run(ms(200));
        let heard = self.client.hears();
        let changes = heard.iter().filter(|text| text.contains("presence:change"));
        changes.filter_map(|text| told(text)).collect()
    }
}

/// A user and what is said of it.
fn states(of: &Value) -> Vec<(String, bool)> {
    let users = of["users"].as_array().unwrap();
    let state = |user: &Value| {
        let online = user["online"].as_bool().unwrap();
        (user["userId"].as_str().unwrap().to_owned(), online)
    };
    users.iter().map(state).collect()
}

/// A change of a user that comes from elsewhere; `at` in Unix milliseconds.
fn edge_of(user: &str, online: bool, rev: u64, at: u64) -> Edge {
    Edge {
        user: Arc::new(UserKey {
            tenant_id: None,
            user_id: user.into(),
            user_type: None,
        }),
        online,
        rev,
        at,
        number: 0,
        rooms: Vec::new(),
        others: None,
    }
}
