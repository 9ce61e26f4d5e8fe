//! What a node says of itself when it lacks something.

use heartline_core::backplane::Backplane;

use super::*;
use crate::cluster::{Cluster, Settings};
use crate::member::Timing;

pub(super) fn settings(url: &str) -> Settings {
    Settings {
        url: url.to_owned(),
        prefix: "p".into(),
        timing: Timing {
            ttl: Duration::from_secs(6),
            refresh: Duration::from_secs(2),
            grace: Duration::from_secs(1),
            failure: Some(Duration::from_secs(2)),
        },
        node_id: "n".into(),
        tag: 1,
        address: String::new(),
        version: "1".into(),
        socketio_adapter: SocketIoAdapter::Off,
        alike: Vec::new(),
        socketio_key: "socket.io".into(),
        line: None,
        key: None,
        key_previous: None,
    }
}

/// Whether it is degraded, and whether that is because the server is not reached.
pub(super) async fn until_it_says(cluster: &Cluster, degraded: bool, unreachable: bool) {
    until(|| {
        let status = cluster.status()?;
        assert!(status.degraded || !status.unreachable, "that is worse");
        let says = (status.degraded, status.unreachable);
        (says == (degraded, unreachable)).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_is_away_is_told_from_one_that_only_lets_no_changes_be_read() {
    let redis = Redis::start();
    let hand = Commands::new(Arc::new(Server::parse(&redis.url).unwrap()));
    let allow = async |what: &str| {
        let mut command = redis::cmd("ACL");
        command.arg("SETUSER").arg("default").arg(what);
        hand.query::<Value>(&command).await.unwrap();
    };
    let cluster = Cluster::new(settings(&redis.url)).unwrap();
    until_it_says(&cluster, true, true).await;
    cluster.attach(Arc::new(Ears::default()));
    until_it_says(&cluster, false, false).await;
    allow("-xread").await;
    until_it_says(&cluster, true, false).await;
    allow("+xread").await;
    until_it_says(&cluster, false, false).await;
    redis.signal("-STOP");
    until_it_says(&cluster, true, true).await;
    redis.signal("-CONT");
    until_it_says(&cluster, false, false).await;
}
