//! socketioxide on axum, as its documentation builds it, with the system's
//! allocator. `WORKERS` sets the runtime's threads.

use std::time::Duration;

use axum::serve::ListenerExt;
use serde::Deserialize;
use serde_json::{Value, json};
use socketioxide::SocketIo;
use socketioxide::extract::{AckSender, Data, SocketRef};

#[derive(Deserialize)]
struct Join {
    room: String,
}

#[derive(Deserialize)]
struct Publish {
    room: String,
    event: String,
    data: Value,
}

async fn connected(socket: SocketRef) {
    socket.on("echo", async |Data::<Value>(data), ack: AckSender| {
        ack.send(&data).ok();
    });
    socket.on(
        "join",
        async |socket: SocketRef, Data::<Join>(join), ack: AckSender| {
            socket.join(join.room.clone());
            ack.send(&json!({ "ok": true, "room": join.room })).ok();
        },
    );
    socket.on("publish", async |io: SocketIo, Data::<Publish>(publish)| {
        io.to(publish.room)
            .emit(publish.event, &publish.data)
            .await
            .ok();
    });
}

fn variable(name: &str, default: u64) -> u64 {
    std::env::var(name)
        .ok()
        .and_then(|value| value.parse().ok())
        .unwrap_or(default)
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let port: u16 = std::env::args().nth(1).ok_or("which port?")?.parse()?;
    let mut runtime = tokio::runtime::Builder::new_multi_thread();
    if let workers @ 1.. = variable("WORKERS", 0) {
        runtime.worker_threads(workers as usize);
    }
    runtime.enable_all().build()?.block_on(async {
        let (layer, io) = SocketIo::builder()
            .ping_interval(Duration::from_millis(variable("PING_INTERVAL_MS", 25_000)))
            .max_payload(1_000_000)
            .build_layer();
        io.ns("/", connected);
        let app = axum::Router::new().layer(layer);
        let socket = tokio::net::TcpSocket::new_v4()?;
        socket.set_reuseaddr(true)?;
        socket.bind(([0, 0, 0, 0], port).into())?;
        let listener = socket.listen(4096)?.tap_io(|tcp| {
            let _ = tcp.set_nodelay(true);
        });
        println!("listening on {port}");
        axum::serve(listener, app).await?;
        Ok(())
    })
}
