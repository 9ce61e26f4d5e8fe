//! What goes over a real server: publications to users, and what is noticed of a server that is
//! not what it was.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use super::tests::Redis;
use super::{
    Adapter, Calls, Commands, Driver, Heard, Link, Outgoing, Recipients, RedisDriver,
    RedisRegistry, Server, SocketIoAdapter, faults,
};
use crate::registry::{
    Departure, Doubts, Entry, Newcomer, NodeInfo, Policy, Registry, Turn, TypedUser, UserName,
};

const TTL: u64 = 15_000;

/// One node: what it hears as a process, and how it publishes.
struct Node {
    registry: RedisRegistry,
    driver: RedisDriver,
    incarnation: Arc<str>,
    told: AtomicU64,
    heard: Arc<Mutex<Vec<String>>>,
    link: <RedisDriver as Driver>::Link,
}

impl Node {
    async fn start(server: &Arc<Server>, number: u32) -> Node {
        let calls = Calls::new("test");
        let info = NodeInfo {
            node_id: format!("n{number}").into(),
            tag: number,
            ..NodeInfo::default()
        };
        let registry = RedisRegistry::new(server.clone(), calls.clone(), Doubts::default());
        let joined = registry
            .join(&info, TTL, None, 1, 0)
            .await
            .unwrap()
            .unwrap();
        let adapter = Adapter::new(SocketIoAdapter::Off, "", number);
        let process = info.process();
        let driver = RedisDriver::new(server.clone(), calls, process.clone(), &adapter);
        let heard: Arc<Mutex<Vec<String>>> = Arc::default();
        let hear = heard.clone();
        let listener = move |one| {
            if let Heard::Message { payload, .. } = one {
                let text = String::from_utf8(payload).unwrap();
                // A nudge has none.
                if !text.is_empty() {
                    hear.lock().unwrap().push(text);
                }
            }
        };
        let mut link = driver.listen(Arc::new(listener)).await.unwrap();
        let own = format!("{{test}}:n:{process}");
        link.listen_always(&[own], &[]).await.unwrap();
        Node {
            registry,
            driver,
            incarnation: joined.incarnation,
            told: AtomicU64::new(0),
            heard,
            link,
        }
    }

    /// The next of what it tells.
    fn turn(&self) -> Turn<'_> {
        Turn {
            incarnation: &self.incarnation,
            number: self.told.fetch_add(1, Ordering::Relaxed) + 1,
        }
    }

    async fn has(&self, user: &TypedUser, socket: &str) {
        let newcomer = Newcomer {
            who: user.clone(),
            entry: Entry {
                socket: socket.into(),
                namespace: "/".into(),
                device: "".into(),
                since: 1,
                policy: Policy::Unlimited,
                rooms: Vec::new(),
            },
            max_sockets: 10,
            instead_of: None,
        };
        let admitted = self.registry.connect(self.turn(), &[newcomer]).await;
        assert!(admitted.unwrap().is_ok());
    }

    async fn has_no_more(&self, user: &TypedUser, socket: &str) {
        let departure = Departure {
            who: user.clone(),
            socket: socket.into(),
            grace: 0,
            announced: true,
        };
        let told = self.registry.depart(self.turn(), &[departure]).await;
        assert!(told.unwrap().is_ok());
    }

    async fn tell(&self, user: &UserName, texts: &[&str]) {
        let batch: Vec<Outgoing> = texts
            .iter()
            .map(|text| Outgoing {
                to: Recipients::User(user.clone()),
                bytes: text.as_bytes().to_vec(),
                at: tokio::time::Instant::now(),
                number: None,
            })
            .collect();
        self.driver.send(&batch).await.unwrap();
    }

    /// What came, once that much has.
    async fn hears(&self, count: usize) -> Vec<String> {
        self.hears_until(|heard| heard.len() >= count).await
    }

    /// What came, once it is enough.
    async fn hears_until(&self, is_enough: impl Fn(&[String]) -> bool) -> Vec<String> {
        let until = Instant::now() + Duration::from_secs(30);
        while !is_enough(&self.heard.lock().unwrap()) {
            assert!(Instant::now() < until, "{:?}", self.heard.lock().unwrap());
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        std::mem::take(&mut *self.heard.lock().unwrap())
    }
}

#[tokio::test]
async fn what_is_told_to_a_user_reaches_each_node_that_the_user_is_at_in_order() {
    let redis = Redis::start();
    let server = Arc::new(Server::parse(&redis.url).unwrap());
    let mut nodes = Vec::new();
    for number in 1..=3 {
        nodes.push(Node::start(&server, number).await);
    }
    let [one, two, three] = &mut nodes[..] else {
        panic!("three");
    };
    let ann = TypedUser {
        user: ":ann".into(),
        kind: "".into(),
    };
    two.has(&ann, "a").await;
    one.tell(&ann.user, &["1", "2"]).await;
    assert_eq!(two.hears(2).await, ["1", "2"]);
    // Another type of the same user, on a node of which nothing was known.
    let kind = TypedUser {
        kind: "=bot".into(),
        ..ann.clone()
    };
    three.has(&kind, "b").await;
    one.has(&ann, "c").await;
    one.tell(&ann.user, &["3", "4", "5"]).await;
    assert_eq!(two.hears(3).await, ["3", "4", "5"]);
    assert_eq!(three.hears(3).await, ["3", "4", "5"]);
    // Of two sockets one goes: the user is there all the same.
    two.has(&ann, "d").await;
    two.has_no_more(&ann, "a").await;
    three.has_no_more(&kind, "b").await;
    one.tell(&ann.user, &["6"]).await;
    one.tell(&ann.user, &["7"]).await;
    assert_eq!(two.hears(2).await, ["6", "7"]);
    two.has_no_more(&ann, "d").await;
    // Where it was last, that is still sent; it comes back elsewhere at once.
    three.has(&ann, "e").await;
    one.tell(&ann.user, &["8"]).await;
    one.tell(&ann.user, &["9"]).await;
    // It may have heard what was said to who had just gone there.
    let is_enough = |heard: &[String]| heard.last().is_some_and(|last| last == "9");
    let heard = three.hears_until(is_enough).await;
    assert_eq!(heard[heard.len() - 2..], ["8", "9"]);
    assert!(one.heard.lock().unwrap().is_empty(), "it has had its own");
}

#[tokio::test]
async fn a_master_that_was_demoted_is_left_and_none_is_begun_with() {
    let redis = Redis::start();
    let server = Arc::new(Server::parse(&redis.url).unwrap());
    let mut node = Node::start(&server, 1).await;
    node.link.ping().await.unwrap();
    node.link.ping().await.unwrap();
    assert!(faults(&redis.url).await.is_empty());
    let mut demote = redis::cmd("REPLICAOF");
    demote.arg("127.0.0.1").arg(1);
    let commands = super::Commands::new(server.clone());
    commands.query::<redis::Value>(&demote).await.unwrap();
    let error = node.link.ping().await.unwrap_err();
    assert!(error.to_string().contains("replica"), "{error}");
    let listened = node.driver.listen(Arc::new(|_| {})).await;
    assert!(
        listened.is_err(),
        "its publications would reach nobody else"
    );
    let told = faults(&redis.url).await;
    assert!(told[0].contains("is a replica"), "{told:?}");
}

#[tokio::test]
async fn what_is_published_and_does_not_come_back_ends_the_connection() {
    let (redis, other) = (Redis::start(), Redis::start());
    let server = Arc::new(Server::parse(&redis.url).unwrap());
    let mut node = Node::start(&server, 1).await;
    node.link.ping().await.unwrap();
    // Publications go to one server, and another one is listened to.
    let elsewhere = Arc::new(Server::parse(&other.url).unwrap());
    let mut stray = Node::start(&elsewhere, 1).await.link;
    stray.publish_by(&server);
    let error = stray.ping().await.unwrap_err();
    assert!(error.to_string().contains("come back"), "{error}");
}

/// A Sentinel of one master, in a folder of its own. It decides nothing by itself: a machine that
/// is busy for a while is no server that stood still.
struct Sentinel {
    process: std::process::Child,
    folder: std::path::PathBuf,
    port: u16,
}

impl Sentinel {
    fn start(master: &Redis) -> Sentinel {
        let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let port = free.local_addr().unwrap().port();
        drop(free);
        let folder = std::env::temp_dir().join(format!("heartline-sentinel-{port}"));
        std::fs::create_dir_all(&folder).unwrap();
        let file = folder.join("sentinel.conf");
        let lines = [
            format!("port {port}"),
            "bind 127.0.0.1".into(),
            format!("sentinel monitor main 127.0.0.1 {} 1", master.port()),
            "sentinel down-after-milliseconds main 3600000".into(),
            "sentinel failover-timeout main 60000".into(),
            String::new(),
        ];
        std::fs::write(&file, lines.join("\n")).unwrap();
        let process = std::process::Command::new("redis-server")
            .arg(&file)
            .arg("--sentinel")
            .current_dir(&folder)
            .stdout(std::process::Stdio::null())
            .spawn()
            .unwrap();
        Sentinel {
            process,
            folder,
            port,
        }
    }

    /// Its URL, as the one of its master.
    fn url(&self) -> String {
        format!("redis+sentinel://127.0.0.1:{}/main", self.port)
    }

    /// Tells it something, once it is there and does so.
    async fn does<T: redis::FromRedisValue>(&self, words: &[&str]) -> T {
        let server = Server::parse(&format!("redis://127.0.0.1:{}", self.port)).unwrap();
        let told = Commands::new(Arc::new(server));
        let mut command = redis::cmd(words[0]);
        command.arg(&words[1..]);
        let mut answer = None;
        until(&words.join(" "), async || {
            answer = told.query(&command).await.ok();
            answer.is_some()
        })
        .await;
        answer.unwrap()
    }
}

impl Drop for Sentinel {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}

/// Asks for the port of the server that a node would write to.
async fn port_of(commands: &Commands) -> Option<String> {
    let mut ask = redis::cmd("CONFIG");
    ask.arg("GET").arg("port");
    let answer: (String, String) = commands.query(&ask).await.ok()?;
    Some(answer.1)
}

async fn until(what: &str, mut condition: impl AsyncFnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(30);
    while !condition().await {
        assert!(Instant::now() < deadline, "not in time: {what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

#[tokio::test]
async fn a_master_that_stood_still_is_left_before_it_can_answer_again() {
    let first = Redis::start();
    let second = Redis::start_with(&["--replicaof", "127.0.0.1", first.port()]);
    let sentinel = Sentinel::start(&first);
    let server = Arc::new(Server::parse(&sentinel.url()).unwrap());
    let followed = server.clone();
    let following = tokio::spawn(async move { followed.follow().await });
    // They wait for their answers for as long as it takes.
    let commands = Arc::new(Commands::that_wait(server.clone()));
    let is_at = async |redis: &Redis| port_of(&commands).await.as_deref() == Some(redis.port());
    until("the master is found", async || is_at(&first).await).await;
    until("the Sentinel knows the replica", async || {
        let replicas: Vec<redis::Value> = sentinel.does(&["SENTINEL", "REPLICAS", "main"]).await;
        replicas.len() == 1
    })
    .await;
    assert_eq!(server.term(), 0, "nobody has decided anything");
    first.signal("-STOP");
    // It waits for an answer of the one that stands still, which would come as soon as it goes on.
    let mut count = redis::cmd("INCR");
    count.arg("count");
    let (counts, counted) = (commands.clone(), count.clone());
    let counting = tokio::spawn(async move { counts.query::<u64>(&counted).await });
    let _: redis::Value = sentinel.does(&["SENTINEL", "FAILOVER", "main"]).await;
    until("it is left", async || counting.is_finished()).await;
    let error = counting.await.unwrap().unwrap_err();
    assert!(error.to_string().contains("became the master"), "{error}");
    first.signal("-CONT");
    until("the other master is found", async || is_at(&second).await).await;
    assert_eq!(commands.query::<u64>(&count).await.unwrap(), 1);
    following.abort();
}

#[tokio::test]
async fn a_master_that_was_found_before_it_was_named_is_not_left_when_it_is() {
    let redis = Redis::start();
    let sentinel = Sentinel::start(&redis);
    // It tells of all masters, and answers no question after one.
    let told = [
        "ACL",
        "SETUSER",
        "default",
        "-sentinel",
        "+sentinel|masters",
    ];
    let _: redis::Value = sentinel.does(&told).await;
    let server = Arc::new(Server::parse(&sentinel.url()).unwrap());
    let commands = Arc::new(Commands::that_wait(server.clone()));
    until("the master is found", async || {
        port_of(&commands).await.as_deref() == Some(redis.port())
    })
    .await;
    assert_eq!(server.sentinels().address(), None);
    let waits = commands.clone();
    let waiting = tokio::spawn(async move {
        let mut wait = redis::cmd("BLPOP");
        wait.arg("list").arg(0);
        waits.query::<(String, String)>(&wait).await
    });
    let others = Commands::new(Arc::new(Server::parse(&redis.url).unwrap()));
    let mut info = redis::cmd("INFO");
    info.arg("clients");
    until("it waits", async || {
        let info: String = others.query(&info).await.unwrap();
        info.contains("blocked_clients:1")
    })
    .await;
    let _: redis::Value = sentinel
        .does(&["ACL", "SETUSER", "default", "+sentinel"])
        .await;
    let followed = server.clone();
    let following = tokio::spawn(async move { followed.follow().await });
    until("it is named", async || {
        server.sentinels().address().is_some()
    })
    .await;
    let mut push = redis::cmd("RPUSH");
    push.arg("list").arg("this");
    others.query::<u64>(&push).await.unwrap();
    let (_, popped) = waiting.await.unwrap().unwrap();
    assert_eq!((&*popped, server.term()), ("this", 0));
    following.abort();
}

#[tokio::test]
async fn a_master_that_does_not_answer_is_not_waited_for_when_another_one_is_named() {
    let still = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let redis = Redis::start();
    let server = Arc::new(Server::parse("redis+sentinel://127.0.0.1:1/main").unwrap());
    let sentinels = server.sentinels();
    sentinels.name(0, still.local_addr().unwrap().port());
    let commands = Commands::once(server.clone());
    let ask = async || port_of(&commands).await;
    let name = async || {
        still.set_nonblocking(true).unwrap();
        let mut connections = Vec::new();
        until("it is asked", async || {
            connections.extend(still.accept());
            !connections.is_empty()
        })
        .await;
        sentinels.name(1, redis.port().parse().unwrap());
    };
    let (port, ()) = tokio::join!(ask(), name());
    assert_eq!(port.as_deref(), Some(redis.port()));
}

#[tokio::test]
async fn a_node_goes_on_by_the_one_sentinel_that_is_left_and_that_its_url_does_not_name() {
    let (first, second) = (Redis::start(), Redis::start());
    let (named, other) = (Sentinel::start(&first), Sentinel::start(&first));
    // One is gone from the beginning.
    let url = format!("redis+sentinel://127.0.0.1:{},127.0.0.1:1/main", named.port);
    let server = Arc::new(Server::parse(&url).unwrap());
    server.sentinels().hurry();
    let followed = server.clone();
    let following = tokio::spawn(async move { followed.follow().await });
    let commands = Commands::once(server.clone());
    until("the master is found", async || {
        port_of(&commands).await.as_deref() == Some(first.port())
    })
    .await;
    until("the other Sentinel is heard", async || {
        server.sentinels().has_learned()
    })
    .await;
    drop(named);
    first.signal("-KILL");
    // It is made to forget what it knew, and told of another master.
    let _: redis::Value = other.does(&["SENTINEL", "REMOVE", "main"]).await;
    let monitor = [
        "SENTINEL",
        "MONITOR",
        "main",
        "127.0.0.1",
        second.port(),
        "1",
    ];
    let _: redis::Value = other.does(&monitor).await;
    until("the other master is found", async || {
        port_of(&commands).await.as_deref() == Some(second.port())
    })
    .await;
    following.abort();
}
