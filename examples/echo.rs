//! The smallest server with an event of its own: `echo` is acknowledged with
//! what it was given. The benchmarks' acknowledged events run against it.
//!
//! `cargo run --release --example echo -- --listen 127.0.0.1:3000`

use heartline::config::{AuthMode, NamespaceConfig};
use heartline::{Args, Config, Gateway};

#[path = "flags.rs"]
mod flags;

// As in the heartline binary.
#[cfg(not(target_env = "msvc"))]
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let flags = flags::Flags::read(&["--listen", "--threads"]);
    let listen = flags.text("--listen", "127.0.0.1:3000");
    let mut open = NamespaceConfig {
        auth_mode: AuthMode::Off,
        ..NamespaceConfig::default()
    };
    open.limits.events = None;
    let config = Config {
        worker_threads: flags.number("--threads", 0),
        namespaces: [("/".to_owned(), open)].into(),
        ..Config::default()
    };
    let gateway = Gateway::builder(config)
        .on("echo", |args: Args| async move { args })
        .build()?;
    let listener = tokio::net::TcpListener::bind(&listen)
        .await
        .unwrap_or_else(|error| flags::fail(&format!("cannot listen on {listen}: {error}")));
    println!("listening on {}", listener.local_addr()?);
    gateway.serve(listener).await?;
    Ok(())
}
