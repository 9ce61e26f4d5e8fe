//! A process whose file descriptors are few. Alone in its program, as the limit is for all.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on should stop")]

use heartline::Gateway;
use rlimit::Resource;
use support::{DEADLINE, config, start};
use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;

mod support;

#[tokio::test(flavor = "multi_thread")]
async fn idle_connections_leave_descriptors_for_operators() {
    let (_, hard) = Resource::NOFILE.get().unwrap();
    Resource::NOFILE.set(300, hard).unwrap();
    let (_gateway, address) = start(Gateway::builder(config())).await;
    // Each takes two here, as both its ends are in this process.
    let mut idle = Vec::new();
    let refused = async {
        loop {
            let mut stream = TcpStream::connect(&address).await.unwrap();
            let mut one = [0; 1];
            // An answer to nothing is the end.
            let quick = std::time::Duration::from_millis(20);
            if tokio::time::timeout(quick, stream.read(&mut one))
                .await
                .is_ok()
            {
                return;
            }
            idle.push(stream);
        }
    };
    tokio::time::timeout(DEADLINE, refused)
        .await
        .expect("a connection to be refused");
    let more: Vec<_> = (0..60)
        .map(|_| std::fs::File::open("/dev/null").expect("a descriptor for an operator"))
        .collect();
    drop((more, idle));
    assert_eq!(heartline::raise_descriptor_limit().unwrap(), hard);
    assert_eq!(Resource::NOFILE.get().unwrap().0, hard);
}
