//! A small app on the library: an open chat with events of its own. Whoever
//! connects says `enter { name }`, then `say { text }`; everybody in the room
//! hears `said { name, text }`, and `left { name }` when somebody goes.
//!
//! `cargo run --release --example chat -- --listen 127.0.0.1:3000`

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use heartline::config::{AuthMode, NamespaceConfig};
use heartline::{Config, EventError, Gateway, Json, Reason, Socket};
use serde::{Deserialize, Serialize};

#[path = "flags.rs"]
mod flags;

const ROOM: &str = "chat";

/// Who is here, by socket id.
#[derive(Clone, Default)]
struct Names(Arc<Mutex<HashMap<String, String>>>);

impl Names {
    fn with<T>(&self, change: impl FnOnce(&mut HashMap<String, String>) -> T) -> T {
        change(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

#[derive(Deserialize)]
struct Enter {
    name: String,
}

#[derive(Deserialize)]
struct Say {
    text: String,
}

#[derive(Serialize)]
struct Said {
    name: String,
    text: String,
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let flags = flags::Flags::read(&["--listen"]);
    let listen = flags.text("--listen", "127.0.0.1:3000");
    let open = NamespaceConfig {
        auth_mode: AuthMode::Off,
        ..NamespaceConfig::default()
    };
    let config = Config {
        namespaces: [("/".to_owned(), open)].into(),
        ..Config::default()
    };
    let names = Names::default();

    let entering = names.clone();
    let enter = move |socket: Socket, Json(enter): Json<Enter>| {
        let names = entering.clone();
        async move {
            if enter.name.trim().is_empty() {
                return Err(EventError::new("NO_NAME", "Tell your name"));
            }
            socket.join(ROOM).await?;
            names.with(|names| names.insert(socket.id(), enter.name));
            Ok(Json(
                names.with(|names| names.values().cloned().collect::<Vec<_>>()),
            ))
        }
    };

    let saying = names.clone();
    let say = move |socket: Socket, Json(say): Json<Say>| {
        let name = saying.with(|names| names.get(&socket.id()).cloned());
        async move {
            let name = name.ok_or_else(|| EventError::new("NOT_HERE", "Enter first"))?;
            let said = Said {
                name,
                text: say.text,
            };
            socket.publish(ROOM, "said", &said).await
        }
    };

    let leaving = names.clone();
    let left = move |socket: Socket, _: Reason| {
        let name = leaving.with(|names| names.remove(&socket.id()));
        async move {
            if let Some(name) = name {
                // The room may be empty by now; nobody is left to be told then.
                let _ = socket.publish(ROOM, "left", &name).await;
            }
        }
    };

    let gateway = Gateway::builder(config)
        .on("enter", enter)
        .on("say", say)
        .on_disconnect(left)
        .build()?;
    let listener = tokio::net::TcpListener::bind(&listen)
        .await
        .unwrap_or_else(|error| flags::fail(&format!("cannot listen on {listen}: {error}")));
    println!("chat on http://{}", listener.local_addr()?);
    gateway.serve(listener).await?;
    Ok(())
}
