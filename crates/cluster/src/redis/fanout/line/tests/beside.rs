//! What a node has on its server beside the line: channels by which Socket.IO servers speak to its
//! sockets, and what is done once over all nodes.

use std::collections::BTreeSet;

use heartline_core::backplane::{Backplane, Subscription};
use heartline_core::policy::OnExcess;
use heartline_core::presence::Newcomer;
use heartline_core::store::{Challenge, Challenges, Redeemed};

use super::status::{settings, until_it_says};
use super::*;
use crate::cluster::{Cluster, Settings};
use crate::redis::OnceBounds;

const ONE_DEVICE: DevicePolicy = DevicePolicy::Limit {
    max: 1,
    on_excess: OnExcess::Reject,
};

/// A node that serves beside Socket.IO servers, and a look at what it listens to.
struct Beside {
    redis: Redis,
    hand: Commands,
    cluster: Cluster,
}

impl Beside {
    async fn start() -> Beside {
        let redis = Redis::start();
        let hand = Commands::new(Arc::new(Server::parse(&redis.url).unwrap()));
        let cluster = Cluster::new(Settings {
            socketio_adapter: SocketIoAdapter::Sharded,
            ..settings(&redis.url)
        });
        let cluster = cluster.unwrap();
        cluster.attach(Arc::new(Ears {
            policy: Some(ONE_DEVICE),
            ..Ears::default()
        }));
        until_it_says(&cluster, false, false).await;
        Beside {
            redis,
            hand,
            cluster,
        }
    }

    fn ann() -> Arc<UserKey> {
        Arc::new(UserKey {
            tenant_id: None,
            user_id: "ann".into(),
            user_type: None,
        })
    }

    /// Ann comes with one more socket, on a device of its own; whether it is let in.
    async fn comes(&self, number: u8, known_as: Option<SocketAddress>) -> bool {
        let newcomer = Newcomer {
            user: Beside::ann(),
            socket: socket(1, number),
            device_id: Some(format!("d{number}").into()),
            policy: ONE_DEVICE,
            max_sockets: 10,
            instead_of: None,
            known_as,
        };
        self.cluster.connect(newcomer).await.is_ok()
    }

    /// The channels that are listened to.
    async fn channels(&self) -> BTreeSet<String> {
        let mut ask = redis::cmd("PUBSUB");
        ask.arg("SHARDCHANNELS");
        let channels: Vec<String> = self.hand.query(&ask).await.unwrap();
        channels.into_iter().collect()
    }

    async fn until_channels_are(&self, expected: &BTreeSet<String>) {
        let deadline = Instant::now() + Duration::from_secs(20);
        while self.channels().await != *expected {
            let now = Instant::now();
            assert!(now < deadline, "{:?}, {expected:?}", self.channels().await);
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    /// A room is held, and with it is done what was asked for before.
    async fn holds(&self, room: &str) -> Arc<dyn Subscription> {
        let held = self.cluster.subscribe("/", None, room).unwrap();
        if let Some(ready) = held.ready() {
            ready.await;
        }
        held
    }
}

/// The channels of these names.
fn channels_of(names: &[&str]) -> BTreeSet<String> {
    let names = names.iter().map(|name| format!("socket.io#/#{name}#"));
    names.chain(["socket.io#/#".to_owned()]).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_who_was_not_let_in_is_listened_for() {
    let beside = Beside::start().await;
    assert!(beside.comes(0, None).await);
    let first = socket(1, 0).id();
    beside
        .until_channels_are(&channels_of(&[&first, "user:ann"]))
        .await;
    for number in 1..=50 {
        assert!(!beside.comes(number, None).await, "one device is allowed");
    }
    // Others do not wait until it is said whether they may.
    beside.redis.signal("-STOP");
    for number in 51..=60 {
        let comes = beside.comes(number, Some(socket(2, number)));
        let came = tokio::time::timeout(Duration::from_millis(1), comes);
        assert!(came.await.is_err(), "nobody has answered");
    }
    beside.redis.signal("-CONT");
    let _held = beside.holds("last").await;
    beside
        .until_channels_are(&channels_of(&[&first, "user:ann", "last"]))
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_has_kept_a_name_is_listened_for_by_that_as_well() {
    let beside = Beside::start().await;
    let (own, kept) = (socket(1, 3), socket(2, 9));
    assert!(beside.comes(3, Some(kept)).await);
    let names = [own, kept].map(|name| name.id());
    beside
        .until_channels_are(&channels_of(&[&names[0], &names[1], "user:ann"]))
        .await;
    let ann = Beside::ann();
    beside.cluster.disconnect(&ann, own, Duration::ZERO);
    beside.until_channels_are(&channels_of(&[])).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_done_once_goes_to_the_master_that_was_named_last() {
    let (first, second) = (Redis::start(), Redis::start());
    let cluster = Cluster::new(settings("redis+sentinel://127.0.0.1:1/main")).unwrap();
    let names = |epoch, redis: &Redis| {
        let sentinels = cluster.server().sentinels();
        sentinels.name(epoch, redis.port().parse().unwrap());
    };
    let bounds = OnceBounds {
        kept_for: 10_000,
        runs_for: 1_000,
        requests: 10,
        bytes: 10_000,
    };
    let (once, challenges) = (cluster.once(bounds), cluster.challenges());
    let claims = async |token| once.claim("k", &[7; 32], token, 1_000).await.unwrap();
    let challenge = Challenge {
        hash: [1; 32],
        wallet: [2; 32],
        expires_at: 9_000,
    };
    let redeems = async || challenges.redeem([1; 32], [2; 32], 1_000).await.unwrap();
    names(0, &first);
    assert!(claims(1).await.is_none() && claims(2).await.is_some());
    challenges.issue(challenge.clone(), 1_000).await.unwrap();
    // The first goes on answering, and would say the same again.
    names(1, &second);
    assert!(claims(2).await.is_none(), "the other one knows nothing");
    assert_eq!(redeems().await, Redeemed::Unknown);
    challenges.issue(challenge, 1_000).await.unwrap();
    assert_eq!(redeems().await, Redeemed::Taken);
}
