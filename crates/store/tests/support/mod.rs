//! A PostgreSQL of its own for a test.

#![allow(dead_code, unreachable_pub, reason = "each test uses its part of it")]
#![allow(clippy::unwrap_used, reason = "a test that cannot go on should stop")]

use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use heartline_store::{PostgresStore, PostgresUrl};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::runtime::Runtime;
use tokio_postgres::{Client, NoTls};

pub struct Server {
    folder: PathBuf,
    port: String,
    url: String,
}

/// What tests with a real server run on.
pub fn runtime() -> Runtime {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .unwrap()
}

/// `scripts/test-postgres`, which says what is missing if anything is.
fn script(arguments: &[&str], folder: &Path) -> String {
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/../../scripts/test-postgres");
    let output = Command::new(script)
        .arg(arguments[0])
        .arg(folder)
        .args(&arguments[1..])
        .output()
        .unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{script} {arguments:?}: {errors}");
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

impl Server {
    /// Makes one that nobody else uses.
    pub fn start() -> Server {
        static NUMBER: AtomicU64 = AtomicU64::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let name = format!("heartline-postgres-{}-{number}", std::process::id());
        let folder = std::env::temp_dir().join(name);
        std::fs::create_dir(&folder).unwrap();
        let free = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = free.local_addr().unwrap().port().to_string();
        drop(free);
        let url = script(&["start", &port], &folder);
        Server { folder, port, url }
    }

    pub fn url(&self) -> &str {
        &self.url
    }

    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Ends it as pg_ctl's mode says; "immediate" is a crash.
    pub fn stop(&self, mode: &str) {
        script(&["stop", mode], &self.folder);
    }

    /// Puts a PgBouncer before it, which hands out connections as this pool_mode says: its URL.
    pub async fn pool(&self, mode: &str) -> PostgresUrl {
        let free = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = free.local_addr().unwrap().port().to_string();
        drop(free);
        let url = script(&["pool", &port, mode], &self.folder);
        let end = Instant::now() + Duration::from_secs(60);
        while TcpStream::connect(format!("127.0.0.1:{port}"))
            .await
            .is_err()
        {
            assert!(Instant::now() < end, "there is no PgBouncer");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        PostgresUrl::parse(&url).unwrap()
    }

    /// Gives it a certificate for 127.0.0.1, which is `ca.pem` in its folder.
    pub fn encrypt(&self) {
        script(&["tls"], &self.folder);
    }

    pub fn up(&self) {
        script(&["up"], &self.folder);
    }

    /// A store that comes by TCP and with a password.
    pub async fn open(&self) -> PostgresStore {
        let url = PostgresUrl::parse(&self.url).unwrap();
        PostgresStore::open(&url).await.unwrap()
    }

    /// One that comes through a link.
    pub async fn open_by(&self, link: &Link) -> PostgresStore {
        let own = format!(":{}/", self.port);
        let url = self.url.replace(&own, &format!(":{}/", link.port));
        let url = PostgresUrl::parse(&url).unwrap();
        PostgresStore::open(&url).await.unwrap()
    }

    /// One whose URL names a host first that is gone without a word.
    pub async fn open_after(&self, gone: std::net::SocketAddr) -> PostgresStore {
        let own = format!("127.0.0.1:{}/", self.port);
        let url = self.url.replace(&own, &format!("{gone},{own}"));
        let url = PostgresUrl::parse(&url).unwrap();
        PostgresStore::open(&url).await.unwrap()
    }

    /// One that comes by the socket: passwords take long to derive in a debug build.
    pub async fn open_locally(&self) -> PostgresStore {
        let (folder, port) = (self.folder.display(), &self.port);
        let url = format!("postgres://heartline@/postgres?host={folder}&port={port}");
        let url = PostgresUrl::parse(&url).unwrap();
        PostgresStore::open(&url).await.unwrap()
    }

    /// A connection to look at what there is.
    pub async fn client(&self) -> Client {
        let (client, connection) = tokio_postgres::connect(&self.url, NoTls).await.unwrap();
        tokio::spawn(connection);
        client
    }

    /// As if no gateway had ever been there.
    pub async fn clear(&self) {
        let drop = "DROP SCHEMA IF EXISTS heartline CASCADE";
        self.client().await.batch_execute(drop).await.unwrap();
    }
}

/// A way to a server on which answers can be lost.
pub struct Link {
    port: u16,
    loses: Arc<AtomicBool>,
}

impl Link {
    pub async fn to(server: &Server) -> Link {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let far = format!("127.0.0.1:{}", server.port);
        let loses = Arc::new(AtomicBool::new(false));
        let lost = loses.clone();
        tokio::spawn(async move {
            while let Ok((near, _)) = listener.accept().await {
                let Ok(far) = TcpStream::connect(&far).await else {
                    continue;
                };
                tokio::spawn(carry(near, far, lost.clone()));
            }
        });
        Link { port, loses }
    }

    /// The next answer on each connection does not arrive, and the connection ends with it.
    pub fn lose_answers(&self, loses: bool) {
        self.loses.store(loses, Ordering::Relaxed);
    }
}

/// Carries bytes both ways until one side ends, or an answer is lost.
async fn carry(near: TcpStream, far: TcpStream, loses: Arc<AtomicBool>) {
    let (mut from_near, mut to_near) = near.into_split();
    let (mut from_far, mut to_far) = far.into_split();
    let questions = async { tokio::io::copy(&mut from_near, &mut to_far).await.map(drop) };
    let answers = async {
        let mut bytes = vec![0; 65_536];
        loop {
            let count = from_far.read(&mut bytes).await?;
            if count == 0 || loses.load(Ordering::Relaxed) {
                return Ok(());
            }
            to_near.write_all(&bytes[..count]).await?;
        }
    };
    let ended: std::io::Result<()> = tokio::select! {
        ended = questions => ended,
        ended = answers => ended,
    };
    drop(ended);
}

impl Drop for Server {
    fn drop(&mut self) {
        // It may be down already.
        let script = concat!(env!("CARGO_MANIFEST_DIR"), "/../../scripts/test-postgres");
        let stop = Command::new(script)
            .args([
                "stop".as_ref(),
                self.folder.as_os_str(),
                "immediate".as_ref(),
            ])
            .output();
        drop(stop);
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}
