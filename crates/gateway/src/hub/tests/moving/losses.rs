//! What is lost on the line, and what is lost beside it: nobody is told of what they cannot have
//! missed, and nobody twice.

use heartline_core::backplane::Missed;

use super::super::resume::kept;
use super::super::*;
use super::Cluster;

const ROOM: Missed<'_> = Missed::Room {
    namespace: "/",
    tenant: None,
    room: "k",
};
const ANN: Missed<'_> = Missed::User {
    tenant: None,
    user: "ann",
};

/// The rooms for which a client has heard of a gap, in alphabetical order.
fn gaps(client: &mut Client) -> String {
    let heard = client.hears();
    let heard = heard.iter().filter_map(|text| {
        let text = text.strip_prefix("42").unwrap_or(text);
        let said: serde_json::Value = serde_json::from_str(text).ok()?;
        let room = match (said.get(0), said.get("type")) {
            (Some(event), _) if event == "room:gap" => &said[1]["room"],
            (_, Some(kind)) if kind == "gap" => &said["topic"],
            _ => return None,
        };
        Some(room.as_str()?.to_owned())
    });
    let mut rooms: Vec<String> = heard.collect();
    rooms.sort_unstable();
    rooms.join(" ")
}

/// Who is told of which rooms at once: a user, the same by the live protocol, and somebody without a
/// user; all of them are in rooms k and u. And of which they are told with what comes there next.
fn told(rooms: &[&str], missed: Missed<'_>) -> [String; 4] {
    let mut config = kept();
    config.recovery.rooms = rooms.iter().map(|room| (*room).into()).collect();
    let mut cluster = Cluster::with(&config);
    let world = &mut cluster.worlds[0];
    let mut all = [
        world.socketio("user=ann"),
        world.live("user=ann device=live"),
        world.socketio("nobody"),
    ];
    for room in ["k", "u"] {
        for client in [0, 2] {
            all[client].says(&format!(r#"42["join","{room}"]"#));
        }
        all[1].says(&format!(r#"{{"type":"subscribe","topic":"{room}"}}"#));
        cluster.settle();
    }
    all.iter_mut().for_each(|client| drop(client.hears()));
    cluster.worlds[0].gateway.shared.fanout.missed(missed);
    cluster.settle();
    let [ann, live, bob] = all.each_mut().map(gaps);
    let mut joe = cluster.worlds[1].socketio("user=joe");
    for room in ["k", "u"] {
        joe.says(&format!(
            r#"42["publish",{{"room":"{room}","event":"e","data":1}}]"#
        ));
    }
    cluster.settle();
    let [next, again, also] = all.each_mut().map(gaps);
    assert!(next == again && next == also, "{next}, {again}, {also}");
    [ann, live, bob, next]
}

#[test]
fn where_all_goes_by_the_line_nothing_is_lost_beside_it() {
    let beside = [
        ROOM,
        ANN,
        Missed::Users,
        Missed::Unaddressed,
        Missed::Anybody,
    ];
    for missed in beside {
        assert_eq!(told(&["*"], missed), ["", "", "", ""], "{missed:?}");
    }
    let line = told(&["*"], Missed::Line);
    assert_eq!(line, ["user:ann", "user:ann", "", "k u"]);
    // Servers that know of no line speak in its rooms too.
    let servers = told(&["*"], Missed::Foreign);
    assert_eq!(servers, ["k u user:ann", "k u user:ann", "k u", ""]);
}

#[test]
fn where_some_goes_by_the_line_each_loss_is_told_to_those_whose_it_may_be() {
    let cases = [
        (ROOM, ["", "", ""]),
        (ANN, ["user:ann", "user:ann", ""]),
        (Missed::Users, ["user:ann", "user:ann", ""]),
        // Whoever has no user hears of what was said to everybody by their rooms.
        (Missed::Unaddressed, ["user:ann", "user:ann", "k"]),
        (Missed::Anybody, ["u user:ann", "u user:ann", "k u"]),
        (Missed::Foreign, ["k", "k", ""]),
    ];
    for (missed, expected) in cases {
        let all = told(&["k*"], missed);
        assert_eq!(
            (&all[..3], &*all[3]),
            (&expected.map(str::to_owned)[..], ""),
            "{missed:?}"
        );
    }
    let line = told(&["k*"], Missed::Line);
    assert_eq!(line, ["user:ann", "user:ann", "u", "k"]);
}

#[test]
fn a_user_whose_events_go_by_the_line_is_told_of_what_was_said_to_everybody() {
    let rooms = ["k*", "user:*"];
    for missed in [ANN, Missed::Users] {
        assert_eq!(told(&rooms, missed), ["", "", "", ""], "{missed:?}");
    }
    let all = told(&rooms, Missed::Unaddressed);
    assert_eq!(all, ["user:ann", "user:ann", "k", ""]);
}
