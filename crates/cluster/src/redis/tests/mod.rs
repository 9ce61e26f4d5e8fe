//! The parts of this folder on a real server: the script against its model, what one node of
//! several may do, and what the registry writes where nodes differ or records cannot be read.

mod once;
mod registry;
mod script;

use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crate::registry::{Doubts, Millis};

/// A server of this test's own.
pub(super) struct Redis {
    child: Child,
    pub(super) url: String,
}

impl Redis {
    pub(super) fn start() -> Redis {
        Redis::start_with(&[])
    }

    /// The same with more on its command line.
    pub(super) fn start_with(arguments: &[&str]) -> Redis {
        let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let port = free.local_addr().unwrap().port();
        drop(free);
        let child = Command::new("redis-server")
            .args(["--port", &port.to_string(), "--bind", "127.0.0.1"])
            .args(["--save", "", "--appendonly", "no"])
            .args(arguments)
            .stdout(Stdio::null())
            .spawn()
            .expect("redis-server is needed for this test; scripts/install-test-tools installs it");
        let until = Instant::now() + Duration::from_secs(60);
        while std::net::TcpStream::connect(("127.0.0.1", port)).is_err() {
            assert!(Instant::now() < until, "redis-server does not answer");
            std::thread::yield_now();
        }
        Redis {
            child,
            url: format!("redis://127.0.0.1:{port}"),
        }
    }

    pub(super) fn port(&self) -> &str {
        self.url.rsplit_once(':').map_or("", |(_, port)| port)
    }

    /// Sends it a signal.
    pub(super) fn signal(&self, name: &str) {
        let id = self.child.id().to_string();
        let sent = Command::new("kill").args([name, &id]).status();
        assert!(sent.is_ok_and(|status| status.success()));
    }
}

impl Drop for Redis {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

const TTL: Millis = 15_000;
const DOUBTS: Doubts = Doubts {
    lease_left: 7_500,
    again: 5_000,
};
