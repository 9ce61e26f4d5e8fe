//! What goes over a Redis Cluster, by a way of which a test says when answers come.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};

use redis::Value;

use super::tests::Redis;
use super::{Adapter, Calls, Commands, Driver, Link, RedisDriver, Server, SocketIoAdapter};

/// Channels that a node asks for at once.
const MANY: usize = 512;
/// What a subscription begins with on the wire.
const SUBSCRIPTION: &[u8] = b"SSUBSCRIBE";

/// A Redis Cluster of one server, whose clients go through a door.
struct Cluster {
    redis: Redis,
    folder: std::path::PathBuf,
    door: u16,
}

/// Subscriptions that clients have asked for.
#[derive(Default)]
struct Asked {
    count: Mutex<usize>,
    more: Condvar,
}

impl Drop for Cluster {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}

impl Cluster {
    async fn start() -> Cluster {
        let door = TcpListener::bind("127.0.0.1:0").unwrap();
        let announced = door.local_addr().unwrap().port();
        let bus = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = bus.local_addr().unwrap().port().to_string();
        drop(bus);
        let folder = std::env::temp_dir().join(format!("heartline-cluster-{announced}"));
        std::fs::create_dir_all(&folder).unwrap();
        let redis = Redis::start_with(&[
            "--cluster-enabled",
            "yes",
            "--cluster-port",
            &port,
            "--cluster-announce-ip",
            "127.0.0.1",
            "--cluster-announce-port",
            &announced.to_string(),
            "--dir",
            folder.to_str().unwrap(),
        ]);
        let cluster = Cluster {
            redis,
            folder,
            door: announced,
        };
        cluster.is_formed().await;
        let (asked, port) = (Arc::<Asked>::default(), cluster.redis.port().to_owned());
        // They end with their connections, or with the test.
        std::thread::spawn(move || {
            for client in door.incoming().map_while(Result::ok) {
                let Ok(server) = TcpStream::connect(format!("127.0.0.1:{port}")) else {
                    return;
                };
                let (back, answers) = (client.try_clone().unwrap(), server.try_clone().unwrap());
                let (counted, heeded) = (asked.clone(), asked.clone());
                std::thread::spawn(move || bring_questions(client, server, &counted));
                std::thread::spawn(move || bring_answers(answers, back, &heeded));
            }
        });
        cluster
    }

    async fn is_formed(&self) {
        let server = Arc::new(Server::parse(&self.redis.url).unwrap());
        let commands = Commands::new(server);
        let mut add = redis::cmd("CLUSTER");
        add.arg("ADDSLOTSRANGE").arg(0).arg(16383);
        commands.query::<Value>(&add).await.unwrap();
        let mut ask = redis::cmd("CLUSTER");
        ask.arg("INFO");
        let deadline = Instant::now() + Duration::from_secs(30);
        loop {
            let info: String = commands.query(&ask).await.unwrap();
            if info.contains("cluster_state:ok") {
                return;
            }
            assert!(Instant::now() < deadline, "{info}");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }
}

/// Counts the subscriptions on their way to the server.
fn bring_questions(mut from: TcpStream, mut to: TcpStream, asked: &Asked) {
    let (mut part, mut seen) = (vec![0; 64 << 10], Vec::new());
    while let Ok(count @ 1..) = from.read(&mut part) {
        seen.extend_from_slice(&part[..count]);
        let words = seen.windows(SUBSCRIPTION.len());
        *asked.count.lock().unwrap() += words.filter(|word| *word == SUBSCRIPTION).count();
        asked.more.notify_all();
        // The beginning of the next one may have come.
        let rest = seen.len().saturating_sub(SUBSCRIPTION.len() - 1);
        seen.drain(..rest);
        if to.write_all(&part[..count]).is_err() {
            return;
        }
    }
}

/// Holds answers back from the first subscription on until all have been asked for.
fn bring_answers(mut answers: TcpStream, mut back: TcpStream, asked: &Asked) {
    let mut part = vec![0; 64 << 10];
    while let Ok(count @ 1..) = answers.read(&mut part) {
        let is_early = |count: &mut usize| (1..MANY).contains(count);
        let count_now = asked.count.lock().unwrap();
        drop(asked.more.wait_while(count_now, is_early).unwrap());
        if back.write_all(&part[..count]).is_err() {
            return;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_asks_for_its_rooms_without_waiting_for_each() {
    let cluster = Cluster::start().await;
    let url = format!("redis+cluster://127.0.0.1:{}", cluster.door);
    let server = Arc::new(Server::parse(&url).unwrap());
    let adapter = Adapter::new(SocketIoAdapter::Off, "", 1);
    let driver = RedisDriver::new(server, Calls::new("test"), "n.1".into(), &adapter);
    let mut link = driver.listen(Arc::new(|_| {})).await.unwrap();
    let rooms: Vec<Arc<str>> = (0..MANY)
        .map(|number| format!("test:r:{number}").into())
        .collect();
    link.subscribe(&rooms).await.unwrap();
    let hand = Commands::new(Arc::new(Server::parse(&cluster.redis.url).unwrap()));
    let mut ask = redis::cmd("PUBSUB");
    ask.arg("SHARDCHANNELS");
    let held: Vec<String> = hand.query(&ask).await.unwrap();
    assert_eq!(held.len(), MANY);
}
