//! Connections that are lost and come back: what they missed, once and in order, or nothing
//! and plainly.

use proptest::prelude::*;

use super::*;
use crate::config::RecoveryConfig;

/// A gateway that keeps what goes to rooms for a minute.
pub(super) fn kept() -> Config {
    Config {
        recovery: RecoveryConfig {
            window: Some(seconds(60)),
            ..RecoveryConfig::default()
        },
        ..config()
    }
}

/// A client that remembers what socket.io-client remembers.
/// Source: socket.io-client, `Socket.emitEvent` and `Socket._sendConnectPacket`.
pub(super) struct Tracking {
    pub(super) client: Client,
    token: String,
    pub(super) sid: String,
    pid: Option<String>,
    offset: Option<String>,
    /// The arguments of the events that have come, without places.
    got: Vec<String>,
    /// Whether the last CONNECT went on with the session before.
    pub(super) recovered: bool,
}

impl Tracking {
    fn new(world: &mut World, token: &str) -> Tracking {
        let mut tracking = Tracking::lost(world.engineio(), token);
        tracking.connect(world);
        tracking
    }

    /// One that has not joined yet.
    pub(super) fn lost(client: Client, token: &str) -> Tracking {
        Tracking {
            client,
            token: token.into(),
            sid: String::new(),
            pid: None,
            offset: None,
            got: Vec::new(),
            recovered: false,
        }
    }

    /// What it says when it connects.
    pub(super) fn hello(&self) -> String {
        let mut auth = format!(r#""token":"{}""#, self.token);
        if let Some(pid) = &self.pid {
            auth.push_str(&format!(r#","pid":"{pid}""#));
            if let Some(offset) = &self.offset {
                auth.push_str(&format!(r#","offset":"{offset}""#));
            }
        }
        format!("40{{{auth}}}")
    }

    fn connect(&mut self, world: &mut World) {
        let hello = self.hello();
        self.client.says(&hello);
        world.settle();
        self.hear(usize::MAX);
    }

    /// Comes back by another connection.
    fn return_to(&mut self, world: &mut World) {
        self.client = world.engineio();
        self.connect(world);
    }

    /// Receives what has come, but for all after the first few texts.
    pub(super) fn hear(&mut self, most: usize) {
        let texts = self.client.hears().into_iter();
        self.take(texts.take(most));
    }

    pub(super) fn take(&mut self, texts: impl IntoIterator<Item = String>) {
        for text in texts {
            if let Some(reply) = text.strip_prefix("40") {
                let reply: serde_json::Value = serde_json::from_str(reply).unwrap();
                let pid = reply["pid"].as_str().map(ToOwned::to_owned);
                self.recovered = pid.is_some() && pid == self.pid;
                self.pid = pid;
                self.sid = reply["sid"].as_str().unwrap().into();
            } else if let Some(event) = text.strip_prefix("42") {
                let mut args: Vec<serde_json::Value> = serde_json::from_str(event).unwrap();
                if let Some(last) = args.last().and_then(|last| last.as_str()) {
                    self.offset = Some(last.to_owned());
                    if last.starts_with("hl.") {
                        args.pop();
                    }
                }
                self.got.push(serde_json::to_string(&args).unwrap());
            } else if text == "2" {
                self.client.says("3");
            }
        }
    }

    fn asks(&mut self, world: &mut World, text: &str) {
        self.client.says(text);
        world.settle();
        self.hear(usize::MAX);
    }

    pub(super) fn got(&mut self) -> Vec<String> {
        std::mem::take(&mut self.got)
    }

    pub(super) fn is_cut(&mut self, world: &mut World) {
        self.client.0.end();
        world.settle();
    }
}

pub(super) fn said(world: &World, room: &str, text: &str) {
    let to = world.gateway.to("/", None, room).unwrap();
    to.emit("news", text).unwrap();
}

#[test]
fn a_client_that_was_cut_off_has_its_id_its_rooms_and_what_it_missed() {
    let mut world = World::new(kept());
    let mut ann = Tracking::new(&mut world, "user=ann");
    assert!(!ann.recovered && ann.pid.is_some());
    ann.asks(&mut world, r#"42["join","lobby"]"#);
    said(&world, "lobby", "one");
    world.settle();
    ann.hear(9);
    let sid = ann.sid.clone();
    ann.got();
    ann.is_cut(&mut world);
    assert_eq!(world.metric("heartline_suspended"), 1);
    said(&world, "lobby", "two");
    said(&world, "other", "never");
    said(&world, "user:ann", "three");
    world
        .gateway
        .everybody("/", None)
        .unwrap()
        .emit("news", "four")
        .unwrap();
    world.settle();
    ann.return_to(&mut world);
    assert!(ann.recovered);
    assert_eq!(ann.sid, sid);
    let missed = ["two", "three", "four"].map(|text| format!(r#"["news","{text}"]"#));
    assert_eq!(ann.got(), missed);
    // It is in its room again, and known by its id.
    said(&world, "lobby", "five");
    said(&world, &sid, "six");
    world.settle();
    ann.hear(9);
    assert_eq!(ann.got(), [r#"["news","five"]"#, r#"["news","six"]"#]);
    assert_eq!(world.metric("heartline_suspended"), 0);
    assert_eq!(
        world.metric(r#"heartline_resumes_total{outcome="recovered"}"#),
        1
    );
}

#[test]
fn what_was_sent_and_did_not_arrive_comes_again_and_nothing_twice() {
    let mut world = World::new(kept());
    let mut ann = Tracking::new(&mut world, "user=ann");
    ann.asks(&mut world, r#"42["join","a"]"#);
    for text in ["one", "two", "three"] {
        said(&world, "a", text);
    }
    world.settle();
    ann.got();
    ann.hear(1);
    ann.is_cut(&mut world);
    ann.return_to(&mut world);
    let all = ["one", "two", "three"].map(|text| format!(r#"["news","{text}"]"#));
    assert_eq!(ann.got(), all);
    // Again, without anything new: nothing comes.
    ann.is_cut(&mut world);
    ann.return_to(&mut world);
    assert!(ann.recovered);
    assert_eq!(ann.got(), [] as [&str; 0]);
}

#[test]
fn who_says_goodbye_or_is_sent_away_begins_afresh() {
    let mut world = World::with(kept(), |builder| {
        builder.on("kick", |socket: Socket| async move { socket.disconnect() })
    });
    for goodbye in ["41", r#"42["kick"]"#] {
        let mut ann = Tracking::new(&mut world, "user=ann");
        ann.asks(&mut world, goodbye);
        ann.is_cut(&mut world);
        ann.return_to(&mut world);
        assert!(!ann.recovered, "{goodbye}");
    }
    // The transport's end alone is no goodbye.
    let mut ann = Tracking::new(&mut world, "user=ann");
    ann.client.says("1");
    world.settle();
    ann.return_to(&mut world);
    assert!(ann.recovered);
}

#[test]
fn a_session_is_its_users_and_once() {
    let mut world = World::new(kept());
    let mut ann = Tracking::new(&mut world, "user=ann");
    ann.is_cut(&mut world);
    let mut eve = Tracking::new(&mut world, "user=eve");
    (eve.pid, eve.offset) = (ann.pid.clone(), ann.offset.clone());
    eve.return_to(&mut world);
    assert!(!eve.recovered);
    ann.return_to(&mut world);
    assert!(ann.recovered);
    // A second one takes the place of the first, which may be half-open: never both.
    let mut again = Tracking::new(&mut world, "user=ann");
    (again.pid, again.offset) = (ann.pid.clone(), ann.offset.clone());
    world.run(seconds(1));
    again.return_to(&mut world);
    assert!(again.recovered);
    assert_eq!(again.sid, ann.sid);
    assert!(
        ann.client
            .hears()
            .iter()
            .any(|one| one.starts_with("close"))
    );
}

#[test]
fn after_the_window_or_with_nonsense_everything_is_fresh() {
    let mut world = World::new(kept());
    let mut ann = Tracking::new(&mut world, "user=ann");
    ann.asks(&mut world, r#"42["join","a"]"#);
    ann.is_cut(&mut world);
    world.run(seconds(61));
    ann.return_to(&mut world);
    assert!(!ann.recovered);
    for (pid, offset) in [
        (Some("x"), None),
        (None, Some("x")),
        (None, Some("hl.zzzzzz.1")),
        (None, Some("")),
        (Some(&*"A".repeat(59)), None),
    ] {
        let mut ann = Tracking::new(&mut world, "user=ann");
        ann.is_cut(&mut world);
        let is_of_another_run = offset.is_some_and(|offset| offset.starts_with("hl."));
        if let Some(pid) = pid {
            ann.pid = Some(pid.into());
        }
        ann.offset = offset.map(Into::into);
        ann.return_to(&mut world);
        assert_eq!(ann.recovered, is_of_another_run, "{pid:?} {offset:?}");
    }
}

#[test]
fn a_room_that_its_new_token_does_not_grant_is_left() {
    let mut world = World::new(kept());
    let mut ann = Tracking::new(&mut world, "user=ann rooms=a,b");
    for room in ["a", "b"] {
        ann.asks(&mut world, &format!(r#"42["join","{room}"]"#));
    }
    ann.is_cut(&mut world);
    said(&world, "a", "one");
    said(&world, "b", "two");
    world.settle();
    ann.got();
    ann.token = "user=ann rooms=a".into();
    ann.return_to(&mut world);
    assert!(ann.recovered);
    let left = r#"["room:left",{"reason":"forbidden","room":"b"}]"#;
    assert_eq!(ann.got(), [r#"["news","one"]"#, left]);
    said(&world, "b", "three");
    world.settle();
    ann.hear(9);
    assert_eq!(ann.got(), [] as [&str; 0]);
}

#[test]
fn more_than_is_kept_is_a_fresh_start() {
    let mut config = kept();
    config.recovery.events = 4;
    let mut world = World::new(config);
    for (count, recovers) in [(4, true), (5, false)] {
        let mut ann = Tracking::new(&mut world, "user=ann");
        ann.asks(&mut world, r#"42["join","a"]"#);
        ann.is_cut(&mut world);
        for number in 0..count {
            said(&world, "a", &number.to_string());
        }
        world.settle();
        ann.got();
        ann.return_to(&mut world);
        assert_eq!(ann.recovered, recovers, "{count}");
        assert_eq!(ann.got().len(), if recovers { 4 } else { 0 });
        ann.asks(&mut world, "41");
    }
    assert_eq!(
        world.metric(r#"heartline_resumes_total{outcome="trimmed"}"#),
        1
    );
}

#[test]
fn of_a_key_the_newest_is_told_and_the_publisher_does_not_hear_itself() {
    let mut world = World::new(kept());
    let mut ann = Tracking::new(&mut world, "user=ann");
    ann.asks(&mut world, r#"42["join","map"]"#);
    let publish = |key: &str, data: u32, to_self: bool| {
        format!(
            r#"42["publish",{{"room":"map","event":"at","data":{data},"key":"{key}","self":{to_self}}}]"#
        )
    };
    ann.asks(&mut world, &publish("x", 1, false));
    ann.got();
    ann.is_cut(&mut world);
    let mut bob = Tracking::new(&mut world, "user=bob");
    for (key, data) in [("y", 2), ("z", 3), ("y", 4)] {
        bob.asks(&mut world, &publish(key, data, true));
    }
    ann.offset = None;
    ann.return_to(&mut world);
    assert!(ann.recovered);
    assert_eq!(ann.got(), [r#"["at",3]"#, r#"["at",4]"#]);
}

#[test]
fn a_cut_within_what_was_missed_does_not_tell_it_twice() {
    let mut world = World::new(Config {
        hello: true,
        ..kept()
    });
    let mut ann = Tracking::new(&mut world, "user=ann");
    ann.asks(&mut world, r#"42["join","a"]"#);
    ann.is_cut(&mut world);
    for text in ["one", "two"] {
        said(&world, "a", text);
    }
    world.settle();
    ann.got();
    // socket.io-client keeps what comes before the answer to CONNECT, also over a cut.
    ann.client = world.engineio();
    ann.client.says(&format!(
        r#"40{{"token":"user=ann","pid":"{}","offset":"{}"}}"#,
        ann.pid.clone().unwrap(),
        ann.offset.clone().unwrap(),
    ));
    world.settle();
    let texts = ann.client.hears();
    let answer = texts
        .iter()
        .position(|text| text.starts_with("40"))
        .unwrap();
    let first = texts.iter().position(|text| text.contains("one")).unwrap();
    assert!(answer < first, "{texts:?}");
    // The hello says that all has come: it comes last.
    assert!(
        texts
            .iter()
            .position(|text| text.contains("hello"))
            .unwrap()
            > first
    );
}

/// An operator ends a socket; whether there was one.
fn sent_away(world: &mut World, id: &str) -> bool {
    let (gateway, id) = (world.gateway.clone(), id.to_owned());
    let asked = world.begin(async move { gateway.disconnect(&id).await });
    while !asked.is_finished() {
        world.settle();
    }
    world.runtime.block_on(asked).unwrap()
}

#[test]
fn a_socket_that_has_come_back_is_sent_away_by_its_id() {
    let mut world = World::new(kept());
    let mut ann = Tracking::new(&mut world, "user=ann");
    ann.is_cut(&mut world);
    ann.return_to(&mut world);
    assert!(ann.recovered);
    assert!(sent_away(&mut world, &ann.sid));
    // One that is lost at present does not find what it had.
    let mut bob = Tracking::new(&mut world, "user=bob");
    bob.is_cut(&mut world);
    assert!(sent_away(&mut world, &bob.sid));
    bob.return_to(&mut world);
    assert!(!bob.recovered);
}

#[test]
fn nothing_changes_on_the_wire_where_nothing_is_kept() {
    let mut world = World::new(config());
    let mut ann = Tracking::new(&mut world, "user=ann");
    assert_eq!(ann.pid, None);
    ann.asks(&mut world, r#"42["join","a"]"#);
    said(&world, "a", "text");
    world.settle();
    let heard = ann.client.hears();
    assert_eq!(heard, [r#"42["news","text"]"#]);
}

#[test]
fn no_text_of_an_event_is_taken_for_a_place() {
    let mut config = kept();
    config.recovery.rooms = vec!["kept:*".into()];
    let mut world = World::with(config, |builder| {
        builder.on("volatile", |socket: Socket| async move {
            socket.emit_volatile("status", "connected")
        })
    });
    let mut ann = Tracking::new(&mut world, "user=ann");
    for room in ["kept:a", "loose"] {
        ann.asks(&mut world, &format!(r#"42["join","{room}"]"#));
    }
    said(&world, "kept:a", "one");
    said(&world, "loose", "two");
    ann.asks(&mut world, r#"42["volatile"]"#);
    ann.got();
    ann.is_cut(&mut world);
    said(&world, "loose", "lost");
    said(&world, "kept:a", "three");
    world.settle();
    ann.return_to(&mut world);
    assert!(ann.recovered);
    assert_eq!(ann.got(), [r#"["news","three"]"#]);
}

#[test]
fn two_connections_on_their_way_at_once_do_not_cost_a_client_its_session() {
    let mut world = World::new(kept());
    let mut ann = Tracking::new(&mut world, "user=ann");
    ann.asks(&mut world, r#"42["join","lobby"]"#);
    said(&world, "lobby", "one");
    let sid = ann.sid.clone();
    let hello = ann.hello();
    // The gateway stood still: the client has given the first of them up, and it does not know.
    let [mut earlier, mut later] = [world.engineio(), world.engineio()];
    earlier.says(&hello);
    later.says(&hello);
    world.settle();
    earlier.0.end();
    world.settle();
    // Whichever of them came up last had it: the client finds it by the next.
    ann.client = later;
    ann.hear(9);
    ann.is_cut(&mut world);
    ann.return_to(&mut world);
    assert!(ann.recovered && ann.sid == sid);
    said(&world, "lobby", "two");
    world.settle();
    ann.hear(9);
    let metrics = world.gateway.encode_metrics();
    assert!(metrics.contains("heartline_resumes_total{outcome=\"unknown\"} 0"));
    let got = ann.got();
    let news: Vec<_> = got.iter().filter(|one| one.contains("news")).collect();
    assert_eq!(news, [r#"["news","one"]"#, r#"["news","two"]"#]);
}

#[test]
fn what_is_said_to_one_socket_comes_over_a_cut_once_and_in_its_place() {
    let handles = Handles::default();
    let mut world = World::with(kept(), |builder| handles.filled_by(builder));
    let mut ann = Tracking::new(&mut world, "user=ann");
    ann.asks(&mut world, r#"42["join","a"]"#);
    let socket = handles.find(&ann.sid, true);
    ann.got();
    socket.emit("news", "one").unwrap();
    world.settle();
    ann.hear(9);
    said(&world, "a", "two");
    socket.emit("news", "three").unwrap();
    world.settle();
    // Sent, and lost with the connection.
    ann.client.hears();
    ann.is_cut(&mut world);
    said(&world, "a", "four");
    socket.emit("news", "five").unwrap();
    let emit = |world: &mut World, id: &str, text: &str| {
        let (gateway, id, data) = (world.gateway.clone(), id.to_owned(), format!("{text:?}"));
        let asked =
            world.begin(async move { gateway.emit(&id, "news", &data, None).await.unwrap() });
        while !asked.is_finished() {
            world.settle();
        }
        world.runtime.block_on(asked).unwrap().is_ok()
    };
    let sid = ann.sid.clone();
    assert!(emit(&mut world, &sid, "six"));
    ann.return_to(&mut world);
    assert!(ann.recovered);
    let told = ["one", "two", "three", "four", "five", "six"];
    assert_eq!(ann.got(), told.map(|text| format!(r#"["news","{text}"]"#)));
    // The handle that it had before leads to where it is now.
    socket.emit("news", "seven").unwrap();
    assert!(emit(&mut world, &sid, "eight"));
    world.settle();
    ann.hear(9);
    assert_eq!(ann.got(), [r#"["news","seven"]"#, r#"["news","eight"]"#]);
    // Who is gone for good hears nothing, and nothing waits for them.
    ann.asks(&mut world, "41");
    socket.emit("news", "nine").unwrap();
    assert!(!emit(&mut world, &sid, "ten"));
    ann.return_to(&mut world);
    assert!(!ann.recovered && ann.got().is_empty());
    let recovery = world.gateway.shared.fanout.recovery.as_ref().unwrap();
    assert!(recovery.direct.is_empty());
}

#[test]
fn what_has_come_is_not_kept_any_longer() {
    let mut config = kept();
    config.heartbeat.interval = PING;
    let handles = Handles::default();
    let mut world = World::with(config, |builder| handles.filled_by(builder));
    let mut ann = Tracking::new(&mut world, "user=ann");
    let kept = |world: &World| world.metric("heartline_kept_bytes");
    // Answers are not kept at all.
    ann.asks(&mut world, r#"42["join","a"]"#);
    ann.asks(&mut world, r#"42["ping"]"#);
    assert_eq!(kept(&world), 0);
    handles.find(&ann.sid, true).emit("news", "one").unwrap();
    world.settle();
    assert!(kept(&world) > 0);
    world.run(PING + ms(20));
    assert!(kept(&world) > 0);
    // The event has come, and the ping after it, and is answered.
    ann.hear(9);
    world.settle();
    assert_eq!(kept(&world), 0);
    ann.is_cut(&mut world);
    ann.return_to(&mut world);
    assert!(ann.recovered);
}

#[test]
fn what_is_said_to_one_live_socket_comes_over_a_cut() {
    let handles = Handles::default();
    let mut world = World::with(live_config(), |builder| handles.filled_by(builder));
    let mut ann = world.open(Opening::plain());
    let hello = asked(&mut world, &mut ann, &auth("user=ann"));
    let id = hello[0]["socketId"].as_str().unwrap();
    let socket = handles.find(id, true);
    socket.emit("news", "one").unwrap();
    world.settle();
    let heard = frames(&mut ann);
    assert_eq!(heard[0]["data"], "one");
    socket.emit("news", "two").unwrap();
    world.settle();
    ann.0.end();
    world.settle();
    socket.emit("news", "three").unwrap();
    let mut again = world.open(Opening::plain());
    let frame = serde_json::json!({
        "type": "auth", "token": "user=ann", "resume": hello[0]["resume"],
        "place": heard[0]["place"], "topics": {},
    });
    let told = asked(&mut world, &mut again, &frame);
    assert_eq!(told[0]["recovered"], true);
    let data: Vec<_> = told
        .iter()
        .filter(|frame| frame["type"] == "news")
        .collect();
    assert_eq!(data.len(), 2, "{told:?}");
    assert_eq!(
        (&data[0]["data"], &data[1]["data"]),
        (&"two".into(), &"three".into())
    );
}

/// What happens in one step of a history.
#[derive(Debug, Clone)]
enum Step {
    Say(usize),
    Broadcast,
    ToUser,
    ToSocket,
    /// A handler says it: one that began with the session, or with this connection.
    Direct {
        is_old: bool,
    },
    /// The time of a ping comes.
    Ping,
    Join(usize),
    Leave(usize),
    /// So many of the texts that are on their way arrive.
    Arrive(usize),
    /// So many of them arrive, the rest is lost.
    Cut(usize),
    Return,
    /// What is in the mailbox is delivered.
    Settle,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => (0usize..3).prop_map(Step::Say),
        1 => Just(Step::Broadcast),
        1 => Just(Step::ToUser),
        1 => Just(Step::ToSocket),
        3 => any::<bool>().prop_map(|is_old| Step::Direct { is_old }),
        2 => Just(Step::Ping),
        2 => (0usize..3).prop_map(Step::Join),
        1 => (0usize..3).prop_map(Step::Leave),
        2 => (0usize..5).prop_map(Step::Arrive),
        3 => (0usize..5).prop_map(Step::Cut),
        3 => Just(Step::Return),
        2 => Just(Step::Settle),
    ]
}

/// The time between two pings in a history.
const PING: Duration = Duration::from_millis(50);

/// Handles of sockets, in the order in which they were made.
#[derive(Clone, Default)]
struct Handles(Arc<Mutex<Vec<Socket>>>);

impl Handles {
    fn filled_by(&self, builder: GatewayBuilder) -> GatewayBuilder {
        let handles = self.0.clone();
        builder.on_connect(move |socket: Socket| {
            handles.lock().unwrap().push(socket);
            async {}
        })
    }

    /// The first of a socket's handles, or the last.
    fn find(&self, id: &str, is_first: bool) -> Socket {
        let handles = self.0.lock().unwrap();
        let mut of_it = handles.iter().filter(|socket| socket.id() == id);
        let first = of_it.next().expect("it has connected");
        let last = of_it.next_back().unwrap_or(first);
        if is_first { first } else { last }.clone()
    }
}

/// One history, in which the gateway is killed before each return if there is a folder for its
/// journal: whoever watches a client sees one unbroken story, or that it begins anew.
fn tell(
    steps: Vec<Step>,
    config: &Config,
    folder: Option<&std::path::Path>,
) -> Result<(), TestCaseError> {
    const ROOMS: [&str; 3] = ["a", "b", "c"];
    let config = &Config {
        heartbeat: HeartbeatConfig {
            interval: PING,
            ..config.heartbeat.clone()
        },
        ..config.clone()
    };
    let handles = Handles::default();
    let start = || World::with(config.clone(), |builder| handles.filled_by(builder));
    let mut world = start();
    let mut ann = Tracking::new(&mut world, "user=ann");
    // Bob keeps two of the rooms alive; the third comes and goes with Ann.
    let mut bob = Tracking::new(&mut world, "user=bob");
    for room in &ROOMS[..2] {
        bob.asks(&mut world, &format!(r#"42["join","{room}"]"#));
    }
    let (mut rooms, mut expected, mut got) = ([false; 3], Vec::new(), Vec::new());
    let (mut is_there, mut said_so_far, mut has_left) = (true, 0, false);
    let mut unread: Vec<String> = Vec::new();
    for step in steps {
        let text = said_so_far.to_string();
        let mut is_for_ann = false;
        match step {
            Step::Say(room) => {
                said(&world, ROOMS[room], &text);
                is_for_ann = rooms[room];
            }
            Step::Broadcast => {
                world
                    .gateway
                    .everybody("/", None)
                    .unwrap()
                    .emit("news", &text)
                    .unwrap();
                is_for_ann = true;
            }
            Step::ToUser => {
                said(&world, "user:ann", &text);
                is_for_ann = true;
            }
            Step::ToSocket => {
                said(&world, &ann.sid, &text);
                is_for_ann = true;
            }
            Step::Direct { is_old } => {
                let handle = handles.find(&ann.sid, is_old);
                handle.emit("news", &text).unwrap();
                is_for_ann = true;
            }
            Step::Ping if is_there => world.run(PING + ms(20)),
            Step::Join(room) if is_there => {
                // What was said before is delivered before.
                world.settle();
                ann.client.says(&format!(r#"42["join","{}"]"#, ROOMS[room]));
                world.settle();
                rooms[room] = true;
            }
            Step::Leave(room) if is_there => {
                world.settle();
                ann.client
                    .says(&format!(r#"42["leave","{}"]"#, ROOMS[room]));
                world.settle();
                has_left |= rooms[room];
                rooms[room] = false;
            }
            Step::Arrive(most) if is_there => {
                unread.extend(ann.client.hears());
                let most = most.min(unread.len());
                let some: Vec<String> = unread.drain(..most).collect();
                ann.take(some);
            }
            Step::Cut(most) if is_there => {
                unread.extend(ann.client.hears());
                let most = most.min(unread.len());
                let some: Vec<String> = unread.drain(..most).collect();
                ann.take(some);
                unread.clear();
                ann.is_cut(&mut world);
                is_there = false;
            }
            Step::Return if !is_there => {
                if config.recovery.stopped.is_some() {
                    world.settle();
                    stopped(world);
                    handles.0.lock().unwrap().clear();
                    world = start();
                } else if let Some(folder) = folder {
                    world.settle();
                    killed(world, folder);
                    handles.0.lock().unwrap().clear();
                    world = start();
                }
                ann.return_to(&mut world);
                is_there = true;
                if !ann.recovered {
                    // It may have missed the end of a room that it had left.
                    prop_assert!(has_left, "a needless refusal");
                    rooms = [false; 3];
                    expected.clear();
                    got.clear();
                    ann.got();
                    has_left = false;
                    world.settle();
                    ann.client.hears();
                }
            }
            Step::Settle => {
                world.settle();
            }
            _ => {}
        }
        if is_for_ann {
            expected.push(format!(r#"["news","{text}"]"#));
        }
        said_so_far += 1;
        got.extend(
            ann.got()
                .into_iter()
                .filter(|one| one.starts_with(r#"["news""#)),
        );
        prop_assert!(expected.starts_with(&got), "{got:?} of {expected:?}");
    }
    if !is_there {
        ann.return_to(&mut world);
        unread.clear();
    }
    world.settle();
    let rest: Vec<String> = unread.drain(..).chain(ann.client.hears()).collect();
    ann.take(rest);
    if is_there || ann.recovered {
        got.extend(
            ann.got()
                .into_iter()
                .filter(|one| one.starts_with(r#"["news""#)),
        );
        prop_assert_eq!(got, expected);
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn whatever_happens_a_resumed_client_has_all_of_it_once_and_in_order(
        steps in prop::collection::vec(step(), 1..60)
    ) {
        tell(steps, &kept(), None)?;
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(50))]

    #[test]
    fn the_same_with_a_gateway_that_is_killed(steps in prop::collection::vec(step(), 1..60)) {
        let (config, folder) = journaled("story");
        let told = tell(steps, &config, Some(&folder));
        std::fs::remove_dir_all(folder).unwrap();
        told?;
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(30))]

    #[test]
    fn the_same_with_a_gateway_that_is_stopped(steps in prop::collection::vec(step(), 1..60)) {
        let (config, folder) = leaving("stopped-story");
        let told = tell(steps, &config, None);
        std::fs::remove_dir_all(folder).unwrap();
        told?;
    }
}

/// What a live client is told, as JSON.
fn frames(client: &mut Client) -> Vec<serde_json::Value> {
    let texts = client.hears().into_iter();
    texts
        .map(|text| serde_json::from_str(&text).unwrap_or(serde_json::Value::String(text)))
        .collect()
}

fn asked(
    world: &mut World,
    client: &mut Client,
    frame: &serde_json::Value,
) -> Vec<serde_json::Value> {
    client.says(&frame.to_string());
    world.settle();
    frames(client)
}

fn live_config() -> Config {
    Config {
        hello: true,
        ..kept()
    }
}

fn auth(token: &str) -> serde_json::Value {
    serde_json::json!({"type": "auth", "token": token})
}

fn subscribe(topic: &str, recover: Option<(&str, u64)>) -> serde_json::Value {
    let recover =
        recover.map(|(epoch, offset)| serde_json::json!({"epoch": epoch, "offset": offset}));
    serde_json::json!({"type": "subscribe", "topic": topic, "id": 1, "recover": recover})
}

#[test]
fn a_topic_is_gone_on_with_after_the_last_offset_that_came() {
    let mut world = World::new(live_config());
    let mut ann = world.open(Opening::plain());
    asked(&mut world, &mut ann, &auth("user=ann"));
    let answer = asked(&mut world, &mut ann, &subscribe("a", None));
    assert_eq!(answer[0]["recovered"], false);
    let epoch = answer[0]["epoch"].as_str().unwrap().to_owned();
    said(&world, "a", "one");
    world.settle();
    assert_eq!(frames(&mut ann)[0]["offset"], 1);
    ann.0.end();
    world.settle();
    for text in ["two", "three"] {
        said(&world, "a", text);
    }
    world.settle();
    let mut ann = world.open(Opening::plain());
    asked(&mut world, &mut ann, &auth("user=ann"));
    let answer = asked(&mut world, &mut ann, &subscribe("a", Some((&epoch, 1))));
    assert_eq!(answer[0]["recovered"], true);
    assert_eq!(answer[0]["offset"], 1);
    let told: Vec<_> = answer[1..]
        .iter()
        .map(|event| {
            (
                event["data"].as_str().unwrap(),
                event["offset"].as_u64().unwrap(),
            )
        })
        .collect();
    assert_eq!(told, [("two", 2), ("three", 3)]);
    said(&world, "a", "four");
    world.settle();
    assert_eq!(frames(&mut ann)[0]["offset"], 4);
    // From the future, or of another time: afresh, at the present.
    for recover in [(&*epoch, 99), ("x", 1)] {
        let mut other = world.open(Opening::plain());
        asked(&mut world, &mut other, &auth("user=bob"));
        let answer = asked(&mut world, &mut other, &subscribe("a", Some(recover)));
        assert_eq!(answer.len(), 1);
        assert_eq!(answer[0]["recovered"], false);
        assert_eq!(answer[0]["offset"], 4);
    }
}

#[test]
fn who_comes_new_to_a_topic_gets_the_newest_of_each_key() {
    let mut world = World::new(live_config());
    let mut ann = world.open(Opening::plain());
    asked(&mut world, &mut ann, &auth("user=ann"));
    asked(&mut world, &mut ann, &subscribe("map", None));
    for (key, data) in [
        ("x", "1"),
        ("y", "2"),
        ("x", "3"),
        ("z", "4"),
        ("z", "null"),
    ] {
        ann.says(&format!(
            r#"{{"type":"publish","topic":"map","event":"at","data":{data},"key":"{key}"}}"#
        ));
    }
    world.settle();
    let mut bob = world.open(Opening::plain());
    asked(&mut world, &mut bob, &auth("user=bob"));
    let answer = asked(&mut world, &mut bob, &subscribe("map", None));
    let snapshot = serde_json::json!([
        {"key": "y", "event": "at", "data": 2, "offset": 2},
        {"key": "x", "event": "at", "data": 3, "offset": 3},
    ]);
    assert_eq!(answer[0]["snapshot"], snapshot);
    assert_eq!(answer[0]["offset"], 5);
}

#[test]
fn a_live_session_goes_on_with_its_id_and_all_its_topics() {
    let mut world = World::new(live_config());
    let mut ann = world.open(Opening::plain());
    let hello = asked(&mut world, &mut ann, &auth("user=ann"));
    let (id, resume) = (&hello[0]["socketId"], &hello[0]["resume"]);
    assert_eq!(hello[0]["recovered"], false);
    let a = asked(&mut world, &mut ann, &subscribe("a", None));
    let b = asked(&mut world, &mut ann, &subscribe("b", None));
    said(&world, "a", "one");
    said(&world, "user:ann", "two");
    world.settle();
    let heard = frames(&mut ann);
    let place = heard[1]["place"].as_str().unwrap();
    ann.0.end();
    world.settle();
    said(&world, "user:ann", "three");
    said(&world, "b", "four");
    world.settle();
    let mut again = world.open(Opening::plain());
    let frame = serde_json::json!({
        "type": "auth", "token": "user=ann", "resume": resume, "place": place,
        "topics": {"a": {"epoch": a[0]["epoch"], "offset": 1}, "b": {"epoch": b[0]["epoch"], "offset": 0}},
    });
    let told = asked(&mut world, &mut again, &frame);
    assert_eq!(
        (&told[0]["type"], &told[0]["recovered"]),
        (&"hello".into(), &true.into())
    );
    assert_eq!(&told[0]["socketId"], id);
    assert_eq!(&told[0]["resume"], resume);
    let rest: Vec<String> = told[1..]
        .iter()
        .filter(|frame| frame["type"] != "connection:success")
        .map(|frame| {
            let data = frame["data"].as_str().unwrap_or("");
            let topic = frame["topic"].as_str().unwrap_or("");
            format!("{} {topic} {data}", frame["type"].as_str().unwrap())
        })
        .collect();
    assert_eq!(
        rest,
        [
            "news user:ann three",
            "subscribed a ",
            "subscribed b ",
            "news b four"
        ]
    );
}

#[test]
fn a_live_session_whose_last_events_may_be_lost_says_so() {
    let mut world = World::new(live_config());
    let topics = |epoch: &serde_json::Value, offset: u64| serde_json::json!({"a": {"epoch": epoch, "offset": offset}});
    // Without a place the topics tell what has come: what was said before an event of a topic
    // has come with it, and of what was said after it nobody knows.
    for (last, recovered) in [("a", true), ("user:ann", false)] {
        let mut ann = world.open(Opening::plain());
        let hello = asked(&mut world, &mut ann, &auth("user=ann"));
        let a = asked(&mut world, &mut ann, &subscribe("a", None));
        let before = a[0]["offset"].as_u64().unwrap();
        said(&world, "user:ann", "one");
        said(&world, last, "two");
        world.settle();
        ann.0.end();
        world.settle();
        let mut again = world.open(Opening::plain());
        let offset = before + u64::from(last == "a");
        let frame = serde_json::json!({
            "type": "auth", "token": "user=ann", "resume": hello[0]["resume"],
            "topics": topics(&a[0]["epoch"], offset),
        });
        let told = asked(&mut world, &mut again, &frame);
        assert_eq!(told[0]["recovered"], recovered, "{last}");
        let topic = told
            .iter()
            .find(|frame| frame["type"] == "subscribed")
            .unwrap();
        assert_eq!(topic["recovered"], true);
        again.0.close(1000);
        world.settle();
    }
    // A goodbye is one.
    let mut ann = world.open(Opening::plain());
    let hello = asked(&mut world, &mut ann, &auth("user=ann"));
    ann.0.close(1000);
    world.settle();
    let mut again = world.open(Opening::plain());
    let frame = serde_json::json!({
        "type": "auth", "token": "user=ann", "resume": hello[0]["resume"], "topics": {},
    });
    assert_eq!(asked(&mut world, &mut again, &frame)[0]["recovered"], false);
}

/// A gateway that writes down what it keeps, in a folder of its own.
fn journaled(name: &str) -> (Config, std::path::PathBuf) {
    let folder = std::env::temp_dir().join(format!("heartline-{name}-{}", std::process::id()));
    let _ = std::fs::remove_dir_all(&folder);
    std::fs::create_dir(&folder).unwrap();
    let mut config = kept();
    config.recovery.journal = Some(folder.join("journal"));
    (config, folder)
}

/// What is left of a killed gateway: its files. Nobody is told anything, and nothing is
/// written any more.
fn killed(world: World, folder: &std::path::Path) {
    let saved: Vec<_> = std::fs::read_dir(folder)
        .unwrap()
        .map(|file| file.unwrap().path())
        .map(|path| (path.clone(), std::fs::read(path).unwrap()))
        .collect();
    drop(world);
    for (path, bytes) in saved {
        std::fs::write(path, bytes).unwrap();
    }
}

#[test]
fn a_client_of_a_killed_gateway_goes_on_with_the_next() {
    let (config, folder) = journaled("killed");
    let mut world = World::new(config.clone());
    let mut ann = Tracking::new(&mut world, "user=ann rooms=a,b,c");
    for room in ["a", "b", "c"] {
        ann.asks(&mut world, &format!(r#"42["join","{room}"]"#));
    }
    ann.asks(&mut world, r#"42["leave","c"]"#);
    said(&world, "a", "one");
    world.settle();
    ann.hear(1);
    // Bob was lost before, and is expected back as well.
    let mut bob = Tracking::new(&mut world, "user=bob");
    bob.asks(&mut world, r#"42["join","a"]"#);
    bob.is_cut(&mut world);
    ann.got();
    said(&world, "a", "two");
    said(&world, "user:ann", "three");
    said(&world, "c", "never");
    world
        .gateway
        .everybody("/", None)
        .unwrap()
        .emit("news", "four")
        .unwrap();
    world.settle();
    let sid = ann.sid.clone();
    killed(world, &folder);

    let mut world = World::new(config.clone());
    said(&world, "b", "five");
    ann.return_to(&mut world);
    assert!(ann.recovered);
    assert_eq!(ann.sid, sid);
    let missed = ["two", "three", "four", "five"].map(|text| format!(r#"["news","{text}"]"#));
    assert_eq!(ann.got(), missed);
    said(&world, "a", "six");
    world.settle();
    ann.hear(9);
    assert_eq!(ann.got(), [r#"["news","six"]"#]);
    bob.got();
    bob.return_to(&mut world);
    assert!(bob.recovered);
    let missed = ["two", "four", "six"].map(|text| format!(r#"["news","{text}"]"#));
    assert_eq!(bob.got(), missed);
    // And once more, with nothing said meanwhile.
    killed(world, &folder);
    let mut world = World::new(config);
    ann.return_to(&mut world);
    assert!(ann.recovered);
    assert_eq!(ann.got(), [] as [&str; 0]);
    said(&world, "b", "seven");
    world.settle();
    ann.hear(9);
    assert_eq!(ann.got(), [r#"["news","seven"]"#]);
    std::fs::remove_dir_all(folder).unwrap();
}

#[test]
fn a_live_topic_goes_on_over_a_kill_and_so_do_its_keys() {
    let (config, folder) = journaled("killed-live");
    let config = Config {
        hello: true,
        ..config
    };
    let mut world = World::new(config.clone());
    let mut ann = world.open(Opening::plain());
    let hello = asked(&mut world, &mut ann, &auth("user=ann"));
    let answer = asked(&mut world, &mut ann, &subscribe("map", None));
    ann.says(r#"{"type":"publish","topic":"map","event":"at","data":1,"key":"x"}"#);
    world.settle();
    said(&world, "map", "two");
    world.settle();
    killed(world, &folder);
    let mut world = World::new(config);
    let mut bob = world.open(Opening::plain());
    asked(&mut world, &mut bob, &auth("user=bob"));
    let told = asked(&mut world, &mut bob, &subscribe("map", None));
    assert_eq!(told[0]["snapshot"][0]["data"], 1);
    assert_eq!(
        (&told[0]["offset"], &told[0]["epoch"]),
        (&2.into(), &answer[0]["epoch"])
    );
    let mut again = world.open(Opening::plain());
    let frame = serde_json::json!({
        "type": "auth", "token": "user=ann", "resume": hello[0]["resume"],
        "topics": {"map": {"epoch": answer[0]["epoch"], "offset": 1}},
    });
    let told = asked(&mut world, &mut again, &frame);
    assert_eq!(
        (&told[0]["recovered"], &told[0]["socketId"]),
        (&true.into(), &hello[0]["socketId"])
    );
    assert_eq!(
        (&told[2]["recovered"], &told[3]["data"]),
        (&true.into(), &"two".into())
    );
    std::fs::remove_dir_all(folder).unwrap();
}

#[test]
fn a_journal_has_one_gateway_and_nothing_of_a_damaged_one_is_believed() {
    let (config, folder) = journaled("damaged");
    let mut world = World::new(config.clone());
    let mut ann = Tracking::new(&mut world, "user=ann");
    let runtime = tokio::runtime::Builder::new_current_thread()
        .build()
        .unwrap();
    let second = runtime.block_on(async { GatewayBuilder::new(config.clone()).build() });
    let refused = second.map(drop).unwrap_err().to_string();
    assert!(refused.contains("another gateway"), "{refused}");
    killed(world, &folder);
    std::fs::write(folder.join("journal"), b"rubbish").unwrap();
    let mut world = World::new(config);
    ann.return_to(&mut world);
    assert!(!ann.recovered);
    std::fs::remove_dir_all(folder).unwrap();
}

#[test]
fn who_was_away_when_something_was_lost_between_nodes_begins_afresh() {
    use heartline_core::backplane::Missed;

    let lobby = Missed::Room {
        namespace: "/",
        tenant: None,
        room: "lobby",
    };
    let user = |user| Missed::User { tenant: None, user };
    let cases = [
        (lobby, false),
        (user("ann"), false),
        (user("bob"), true),
        (Missed::Users, false),
        (Missed::Anybody, false),
    ];
    let (config, folder) = journaled("lost");
    for (missed, recovers) in cases {
        for kill in [false, true] {
            let mut world = World::new(config.clone());
            let mut ann = Tracking::new(&mut world, "user=ann");
            ann.asks(&mut world, r#"42["join","lobby"]"#);
            ann.is_cut(&mut world);
            world.gateway.shared.fanout.missed(missed);
            world.settle();
            if kill && !matches!(missed, Missed::User { .. }) {
                killed(world, &folder);
                world = World::new(config.clone());
            }
            ann.return_to(&mut world);
            assert_eq!(ann.recovered, recovers, "{missed:?} {kill}");
            // What is said from here on is complete again.
            ann.is_cut(&mut world);
            ann.return_to(&mut world);
            assert!(ann.recovered);
            drop(world);
        }
    }
    std::fs::remove_dir_all(folder).unwrap();
}

#[path = "../../../tests/support/conversations_of.rs"]
mod conversations_of;
#[path = "../../../tests/support/invites_of.rs"]
mod invites_of;

use heartline_core::store::memory::MemoryStore;
use heartline_core::store::{
    Channel, History, HistoryQuery, MessageStore, NewMessage, StoreError, Stored, Tell,
};

/// A store that outlives its gateway, and lets nobody read while it is held.
#[derive(Clone)]
struct Durable(Arc<MemoryStore>, Arc<tokio::sync::Semaphore>);

impl Default for Durable {
    fn default() -> Self {
        let open = tokio::sync::Semaphore::new(1);
        Durable(Arc::default(), Arc::new(open))
    }
}

impl Durable {
    /// Another way into the store, of which nobody hears: so it is when a process ends there.
    fn stores(&self, temp_id: &str) {
        let new = NewMessage {
            sender: Arc::new(UserKey {
                tenant_id: None,
                user_id: "ann".into(),
                user_type: None,
            }),
            channel: Channel::Conversation("1".into()),
            content: temp_id.into(),
            temp_id: Some(temp_id.into()),
            created_at: 7,
        };
        drop(self.append(new, Box::new(|_| ())));
    }
}

/// Ann writes a message, which is its own name.
fn writes(ann: &mut Tracking, world: &mut World, text: &str) {
    let data = format!(r#"{{"conversationId":"1","content":"{text}","tempId":"{text}"}}"#);
    ann.asks(world, &format!(r#"42["message:send",{data}]"#));
}

/// The messages of which Ann was told.
fn messages(ann: &mut Tracking) -> Vec<String> {
    let got = ann.got().into_iter();
    let told = got.filter_map(|event| {
        let event: serde_json::Value = serde_json::from_str(&event).unwrap();
        let content = event[1]["content"].as_str()?.to_owned();
        (event[0] == "message:new").then_some(content)
    });
    told.collect()
}

impl MessageStore for Durable {
    fn append(&self, new: NewMessage, tell: Tell) -> BoxFuture<Result<Stored, StoreError>> {
        self.0.append(new, tell)
    }

    fn history(&self, query: HistoryQuery) -> BoxFuture<Result<History, StoreError>> {
        let (store, open) = (self.0.clone(), self.1.clone());
        Box::pin(async move {
            let _open = open.acquire().await.unwrap();
            store.history(query).await
        })
    }
}

conversations_of::has_conversations_of!(Durable, 0);
invites_of::has_invites_of!(Durable, 0);

#[test]
fn a_message_that_was_stored_and_not_told_of_is_told_after_the_kill() {
    let (config, folder) = journaled("untold");
    let store = Durable::default();
    let start = || World::with(config.clone(), |builder| builder.store(store.clone()));
    let mut world = start();
    let mut ann = Tracking::new(&mut world, "user=ann rooms=conversation:*");
    ann.asks(&mut world, r#"42["join","conversation:1"]"#);
    // Bob belongs to it, and is in no room.
    let mut bob = Tracking::new(&mut world, "user=bob rooms=conversation:*");
    bob.asks(&mut world, r#"42["join","conversation:1"]"#);
    bob.asks(&mut world, r#"42["leave","conversation:1"]"#);
    writes(&mut ann, &mut world, "one");
    bob.hear(9);
    let notified = |bob: &mut Tracking| -> Vec<String> {
        let got = bob.got().into_iter();
        got.filter(|one| one.contains("message:notification"))
            .collect()
    };
    assert_eq!(notified(&mut bob).len(), 1);
    store.stores("two");
    killed(world, &folder);
    ann.got();
    let mut world = start();
    ann.return_to(&mut world);
    assert!(ann.recovered);
    world.settle();
    ann.hear(9);
    assert_eq!(messages(&mut ann), ["two"]);
    bob.return_to(&mut world);
    assert!(bob.recovered);
    bob.hear(9);
    let told = notified(&mut bob);
    assert_eq!(told.len(), 1, "{told:?}");
    let expected = r#"["message:notification",{"conversationId":"1","message":{"content":"two","#;
    assert!(told[0].starts_with(expected), "{told:?}");
    // It is told once.
    killed(world, &folder);
    let mut world = start();
    ann.return_to(&mut world);
    world.settle();
    ann.hear(9);
    assert!(ann.recovered && ann.got().is_empty());
    world.settle();
    std::fs::remove_dir_all(folder).unwrap();
}

#[test]
fn messages_of_a_killed_process_and_those_of_the_next_are_told_once_and_in_order() {
    let (config, folder) = journaled("in-doubt");
    let store = Durable::default();
    let start = || World::with(config.clone(), |builder| builder.store(store.clone()));
    let mut world = start();
    let mut ann = Tracking::new(&mut world, "user=ann rooms=conversation:*");
    ann.asks(&mut world, r#"42["join","conversation:1"]"#);
    writes(&mut ann, &mut world, "one");
    store.stores("two");
    killed(world, &folder);
    ann.got();

    // The next has not read yet what the one before has left, and writes already.
    let held = store.1.clone().try_acquire_owned().unwrap();
    let mut world = start();
    ann.return_to(&mut world);
    assert!(ann.recovered);
    writes(&mut ann, &mut world, "three");
    assert_eq!(messages(&mut ann), Vec::<String>::new());
    drop(held);
    world.settle();
    ann.hear(9);
    assert_eq!(messages(&mut ann), ["two", "three"]);
    writes(&mut ann, &mut world, "four");
    assert_eq!(messages(&mut ann), ["four"]);

    // The database is still storing what the killed one had sent to it.
    store.stores("five");
    writes(&mut ann, &mut world, "six");
    world.settle();
    ann.hear(9);
    assert_eq!(messages(&mut ann), ["five", "six"]);
    // Who sends it again is told that it is there; so are the others.
    store.stores("seven");
    writes(&mut ann, &mut world, "seven");
    world.settle();
    ann.hear(9);
    assert_eq!(messages(&mut ann), ["seven"]);
    world.run(Duration::from_secs(61));
    writes(&mut ann, &mut world, "eight");
    assert_eq!(messages(&mut ann), ["eight"]);
    std::fs::remove_dir_all(folder).unwrap();
}

#[test]
fn a_store_that_has_lost_its_messages_tells_of_new_ones() {
    let (config, folder) = journaled("another-store");
    let start = |store: &Durable| {
        let store = store.clone();
        World::with(config.clone(), |builder| builder.store(store))
    };
    let mut world = start(&Durable::default());
    let mut ann = Tracking::new(&mut world, "user=ann rooms=conversation:*");
    ann.asks(&mut world, r#"42["join","conversation:1"]"#);
    for text in ["one", "two", "three"] {
        writes(&mut ann, &mut world, text);
    }
    killed(world, &folder);
    ann.got();
    let store = Durable::default();
    let held = store.1.clone().try_acquire_owned().unwrap();
    let mut world = start(&store);
    ann.return_to(&mut world);
    writes(&mut ann, &mut world, "new");
    drop(held);
    world.settle();
    ann.hear(9);
    writes(&mut ann, &mut world, "newer");
    assert_eq!(messages(&mut ann), ["new", "newer"]);
    std::fs::remove_dir_all(folder).unwrap();
}

#[test]
fn who_has_come_back_often_goes_on_after_a_kill_too() {
    let (config, folder) = journaled("often");
    let mut world = World::new(config.clone());
    let mut ann = Tracking::new(&mut world, "user=ann");
    ann.asks(&mut world, r#"42["join","a"]"#);
    for round in 0..60 {
        said(&world, "a", &round.to_string());
        world.settle();
        ann.hear(9);
        if round % 10 == 9 {
            killed(world, &folder);
            world = World::new(config.clone());
        } else {
            ann.is_cut(&mut world);
        }
        ann.return_to(&mut world);
        assert!(ann.recovered, "{round}");
    }
    drop(world);
    std::fs::remove_dir_all(folder).unwrap();
}

#[test]
fn the_newest_of_each_key_survives_kills_however_old_it_is() {
    let (config, folder) = journaled("keys");
    let mut world = World::new(config.clone());
    let publish = |world: &mut World, client: &mut Client, key: &str, data: &str| {
        client.says(&format!(
            r#"{{"type":"publish","topic":"map","event":"at","data":{data},"key":"{key}"}}"#
        ));
        world.settle();
    };
    let mut ann = world.open(Opening::plain());
    asked(&mut world, &mut ann, &auth("user=ann"));
    asked(&mut world, &mut ann, &subscribe("map", None));
    for (key, data) in [
        ("x", "1"),
        ("y", "2"),
        ("x", "3"),
        ("z", "4"),
        ("z", "null"),
    ] {
        publish(&mut world, &mut ann, key, data);
    }
    let snapshot = |world: &mut World| {
        let mut bob = world.open(Opening::plain());
        asked(world, &mut bob, &auth("user=bob"));
        asked(world, &mut bob, &subscribe("map", None))[0].clone()
    };
    let expected = |x: u64| {
        let x_offset = if x == 3 { 3 } else { 6 };
        serde_json::json!([
            {"key": "y", "event": "at", "data": 2, "offset": 2},
            {"key": "x", "event": "at", "data": x, "offset": x_offset},
        ])
    };
    let before = snapshot(&mut world);
    assert_eq!(before["snapshot"], expected(3));
    // Longer than any other event is kept; and once more, from what the next process wrote.
    for _ in 0..2 {
        for client in 0..2 {
            // Somebody is there all the time.
            let mut stays = world.open(Opening::plain());
            asked(
                &mut world,
                &mut stays,
                &auth(&format!("user=stays{client}")),
            );
            asked(&mut world, &mut stays, &subscribe("map", None));
        }
        killed(world, &folder);
        world = World::later(config.clone(), seconds(20_000));
        let after = snapshot(&mut world);
        assert_eq!(after["snapshot"], expected(3));
        assert_eq!(
            (&after["offset"], &after["epoch"]),
            (&5.into(), &before["epoch"])
        );
    }
    let mut ann = world.open(Opening::plain());
    asked(&mut world, &mut ann, &auth("user=ann"));
    asked(&mut world, &mut ann, &subscribe("map", None));
    publish(&mut world, &mut ann, "x", "5");
    killed(world, &folder);
    let mut world = World::new(config);
    assert_eq!(snapshot(&mut world)["snapshot"], expected(5));
    // What was said between is gone: who has not got it is told so, and the others go on.
    for (offset, recovered) in [(4, false), (5, true)] {
        let mut eve = world.open(Opening::plain());
        asked(&mut world, &mut eve, &auth("user=eve"));
        let epoch = before["epoch"].as_str().unwrap();
        let told = asked(
            &mut world,
            &mut eve,
            &subscribe("map", Some((epoch, offset))),
        );
        assert_eq!(told[0]["recovered"], recovered, "{offset}");
    }
    std::fs::remove_dir_all(folder).unwrap();
}

/// A gateway that leaves what it keeps to the next when it is stopped.
fn leaving(name: &str) -> (Config, std::path::PathBuf) {
    let (mut config, folder) = journaled(name);
    config.recovery.journal = None;
    config.recovery.stopped = Some(folder.join("left"));
    (config, folder)
}

/// Stops a gateway in good order.
fn drained(world: &mut World) {
    let gateway = world.gateway.clone();
    let drained = world.begin(async move { gateway.drain().await });
    while !drained.is_finished() {
        world.run(ms(100));
    }
}

/// The same, and its process ends.
fn stopped(mut world: World) {
    drained(&mut world);
}

#[test]
fn what_the_app_remembers_of_a_socket_is_there_when_it_goes_on_also_at_the_next_process() {
    // Cut, killed twice, and stopped in good order twice.
    let (journaled, folder) = journaled("remembered");
    let (leaving, other) = leaving("remembered-left");
    for (config, end) in [
        (&journaled, killed as fn(World, &std::path::Path)),
        (&leaving, |world, _| stopped(world)),
    ] {
        let handles = Handles::default();
        let start = || {
            World::with(config.clone(), |builder| {
                let builder = builder.on_connect(|socket: Socket| async move {
                    let times: u32 = socket.remembered("times").unwrap_or(0);
                    socket.remember("times", &(times + 1)).unwrap();
                });
                handles.filled_by(builder)
            })
        };
        let mut world = start();
        let mut ann = Tracking::new(&mut world, "user=ann");
        ann.asks(&mut world, r#"42["join","a"]"#);
        let socket = handles.find(&ann.sid, false);
        socket.remember("bet", &("red", 20)).unwrap();
        socket.remember("gone", &1).unwrap();
        socket.remember("gone", &()).unwrap();
        ann.is_cut(&mut world);
        ann.return_to(&mut world);
        assert!(ann.recovered);
        drop(socket);
        for process in 3..5 {
            // Whoever has a handle holds the gateway.
            handles.0.lock().unwrap().clear();
            end(world, &folder);
            world = start();
            ann.return_to(&mut world);
            assert!(ann.recovered);
            let socket = handles.find(&ann.sid, false);
            assert_eq!(socket.remembered("bet"), Some(("red".to_owned(), 20)));
            assert_eq!(socket.remembered::<u32>("gone"), None);
            assert_eq!(socket.remembered("times"), Some(process));
        }
        // Another socket of the same user has nothing of it.
        let new = Tracking::new(&mut world, "user=ann");
        let socket = handles.find(&new.sid, false);
        assert_eq!(socket.remembered::<(String, u32)>("bet"), None);
        let refused = socket.remember("long", &"x".repeat(4_096)).unwrap_err();
        assert_eq!(refused.code(), "TOO_LARGE");
        assert_eq!(socket.remembered("times"), Some(1));
        drop(world);
    }
    std::fs::remove_dir_all(folder).unwrap();
    std::fs::remove_dir_all(other).unwrap();
}

#[test]
fn a_client_of_a_stopped_gateway_goes_on_with_the_next() {
    use std::os::unix::fs::PermissionsExt as _;

    let (config, folder) = leaving("stopped");
    let file = folder.join("left");
    let handles = Handles::default();
    let start = || World::with(config.clone(), |builder| handles.filled_by(builder));
    let mut world = start();
    let mut ann = Tracking::new(&mut world, "user=ann");
    ann.asks(&mut world, r#"42["join","a"]"#);
    let mut bob = Tracking::new(&mut world, "user=bob");
    bob.asks(&mut world, r#"42["join","a"]"#);
    let mut kicked = Tracking::new(&mut world, "user=eve");
    kicked.is_cut(&mut world);
    ann.got();
    bob.got();
    bob.is_cut(&mut world);
    said(&world, "a", "one");
    said(&world, "user:ann", "two");
    handles.find(&ann.sid, true).emit("news", "three").unwrap();
    world
        .gateway
        .everybody("/", None)
        .unwrap()
        .emit("news", "four")
        .unwrap();
    world.settle();
    // None of it arrives.
    ann.client.hears();
    assert!(sent_away(&mut world, &kicked.sid));
    stopped(world);
    let mode = std::fs::metadata(&file).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);

    let mut world = start();
    assert!(!file.exists());
    ann.return_to(&mut world);
    bob.return_to(&mut world);
    kicked.return_to(&mut world);
    assert!(ann.recovered && bob.recovered && !kicked.recovered);
    let told = |texts: &[&str]| -> Vec<String> {
        texts
            .iter()
            .map(|text| format!(r#"["news","{text}"]"#))
            .collect()
    };
    assert_eq!(ann.got(), told(&["one", "two", "three", "four"]));
    assert_eq!(bob.got(), told(&["one", "four"]));
    said(&world, "a", "five");
    world.settle();
    ann.hear(9);
    assert_eq!(ann.got(), told(&["five"]));
    // Stopped again, and then killed: what only the file of the first stop knew is gone.
    stopped(world);
    drop(start());
    let mut world = start();
    ann.return_to(&mut world);
    assert!(!ann.recovered);
    std::fs::remove_dir_all(folder).unwrap();
}

#[test]
fn after_a_stop_no_message_is_told_again_and_one_of_which_nobody_was_told_is() {
    let (mut config, folder) = leaving("stopped-untold");
    config.recovery.bytes = 4_000;
    let store = Durable::default();
    let start = || World::with(config.clone(), |builder| builder.store(store.clone()));
    let mut world = start();
    let mut ann = Tracking::new(&mut world, "user=ann rooms=conversation:*");
    ann.asks(&mut world, r#"42["join","conversation:1"]"#);
    let say = |text: &str| {
        let data = format!(r#"{{"conversationId":"1","content":"{text}"}}"#);
        format!(r#"42["message:send",{data}]"#)
    };
    let messages = |ann: &mut Tracking| -> Vec<String> {
        let got = ann.got().into_iter();
        got.filter(|one| one.contains("message:new")).collect()
    };
    // The second is too large to be kept.
    ann.asks(&mut world, &say("one"));
    ann.asks(&mut world, &say(&"x".repeat(4_000)));
    assert_eq!(messages(&mut ann).len(), 2);
    stopped(world);
    let mut world = start();
    ann.return_to(&mut world);
    world.settle();
    ann.hear(9);
    assert!(ann.recovered);
    assert_eq!(messages(&mut ann), [""; 0]);
    ann.asks(&mut world, &say("three"));
    assert_eq!(messages(&mut ann).len(), 1);
    let new = NewMessage {
        sender: Arc::new(UserKey {
            tenant_id: None,
            user_id: "bob".into(),
            user_type: None,
        }),
        channel: Channel::Conversation("1".into()),
        content: "four".into(),
        temp_id: None,
        created_at: 7,
    };
    drop(store.append(new, Box::new(|_| ())));
    stopped(world);
    let mut world = start();
    ann.return_to(&mut world);
    world.settle();
    ann.hear(9);
    let told = messages(&mut ann);
    assert!(ann.recovered && told.len() == 1, "{told:?}");
    assert!(told[0].contains(r#""content":"four""#), "{told:?}");
    std::fs::remove_dir_all(folder).unwrap();
}

#[test]
fn what_was_left_too_long_ago_or_is_damaged_is_not_gone_on_with() {
    let (config, folder) = leaving("damaged-left");
    let file = folder.join("left");
    let other_namespaces = |config: &mut Config| {
        config.namespaces.remove("/chat");
    };
    let cases: [(&str, fn(&std::path::Path)); 4] = [
        ("as it is", |_| ()),
        ("cut short", |file| {
            let bytes = std::fs::read(file).unwrap();
            std::fs::write(file, &bytes[..bytes.len() - 1]).unwrap();
        }),
        ("changed", |file| {
            let mut bytes = std::fs::read(file).unwrap();
            let middle = bytes.len() / 2;
            bytes[middle] ^= 1;
            std::fs::write(file, bytes).unwrap();
        }),
        ("foreign", |file| {
            std::fs::write(file, "something else").unwrap()
        }),
    ];
    for (case, change) in cases {
        for (later, is_other) in [(0, false), (61, false), (0, true)] {
            let mut world = World::new(config.clone());
            let mut ann = Tracking::new(&mut world, "user=ann");
            stopped(world);
            change(&file);
            let mut config = config.clone();
            if is_other {
                other_namespaces(&mut config);
            }
            let mut world = World::later(config, seconds(later));
            ann.return_to(&mut world);
            let recovers = case == "as it is" && later == 0 && !is_other;
            assert_eq!(ann.recovered, recovers, "{case} {later} {is_other}");
            let _ = std::fs::remove_file(&file);
        }
    }
    std::fs::remove_dir_all(folder).unwrap();
}

#[test]
fn what_happens_after_the_end_makes_all_begin_afresh() {
    let (config, folder) = leaving("late");
    let deeds: [fn(&mut World, &str); 2] = [
        |world, _| said(world, "a", "late"),
        |world, id| assert!(sent_away(world, id)),
    ];
    for deed in deeds {
        let mut world = World::new(config.clone());
        let mut ann = Tracking::new(&mut world, "user=ann");
        ann.asks(&mut world, r#"42["join","a"]"#);
        drained(&mut world);
        assert!(folder.join("left").exists());
        deed(&mut world, &ann.sid);
        assert!(!folder.join("left").exists());
        drop(world);
        let mut world = World::new(config.clone());
        ann.return_to(&mut world);
        assert!(!ann.recovered);
    }
    std::fs::remove_dir_all(folder).unwrap();
}

#[test]
fn who_missed_more_than_was_kept_before_a_stop_begins_afresh() {
    let (mut config, folder) = leaving("stopped-dropped");
    config.recovery.events = 2;
    // Of what goes to everybody more is kept.
    let ways: [(usize, fn(&World, &Socket)); 4] = [
        (3, |world, _| said(world, "a", "text")),
        (3, |world, _| said(world, "user:ann", "text")),
        (3, |_, socket| socket.emit("news", "text").unwrap()),
        (129, |world, _| {
            let all = world.gateway.everybody("/", None).unwrap();
            all.emit("news", "text").unwrap();
        }),
    ];
    for (index, (too_many, say)) in ways.into_iter().enumerate() {
        for times in [too_many - 1, too_many] {
            let handles = Handles::default();
            let start = || World::with(config.clone(), |builder| handles.filled_by(builder));
            let mut world = start();
            let mut ann = Tracking::new(&mut world, "user=ann");
            ann.asks(&mut world, r#"42["join","a"]"#);
            ann.got();
            ann.is_cut(&mut world);
            for _ in 0..times {
                say(&world, &handles.find(&ann.sid, true));
            }
            world.settle();
            handles.0.lock().unwrap().clear();
            stopped(world);
            let mut world = start();
            ann.return_to(&mut world);
            assert_eq!(ann.recovered, times < too_many, "{index} {times}");
            handles.0.lock().unwrap().clear();
        }
    }
    std::fs::remove_dir_all(folder).unwrap();
}
