//! What goes with a client from node to node: that it may go on, whom it is sent away by, what
//! the app remembers of it; and when it begins afresh instead.

use heartline_core::presence::SocketAddress;

use super::super::resume::{Handles, Tracking, kept, said};
use super::super::*;
use super::line::LINE;
use super::{Cluster, come, news};

#[test]
fn who_began_in_a_line_that_a_node_does_not_follow_begins_afresh_there() {
    for line in [LINE, LINE + 1] {
        let mut cluster = Cluster::new();
        let mut ann = Tracking::lost(cluster.worlds[0].engineio(), "user=ann");
        // Her node is at a master that has gone on by itself.
        cluster.goes_over(0, line);
        come(&mut cluster, &mut ann, 0);
        said(&cluster.worlds[0], "user:ann", "1");
        cluster.settle();
        ann.hear(usize::MAX);
        assert_eq!(news(&mut ann), [r#"["news","1"]"#]);
        ann.is_cut(&mut cluster.worlds[0]);
        cluster.settle();
        come(&mut cluster, &mut ann, 1);
        assert_eq!(ann.recovered, line == LINE);
    }
}

#[test]
fn who_has_been_in_a_later_line_begins_afresh_at_a_node_that_has_not_heard_of_it() {
    for line in [LINE, LINE + 1] {
        let mut cluster = Cluster::new();
        let mut ann = Tracking::lost(cluster.worlds[0].engineio(), "user=ann");
        come(&mut cluster, &mut ann, 0);
        cluster.goes_over(0, line);
        said(&cluster.worlds[0], "user:ann", "1");
        cluster.settle();
        ann.hear(usize::MAX);
        assert_eq!(news(&mut ann), [r#"["news","1"]"#]);
        ann.is_cut(&mut cluster.worlds[0]);
        cluster.settle();
        come(&mut cluster, &mut ann, 1);
        assert_eq!(ann.recovered, line == LINE);
    }
}

#[test]
fn who_joined_a_room_before_a_failover_is_in_it_also_after_their_node_has_died() {
    let mut cluster = Cluster::new();
    let mut ann = Tracking::lost(cluster.worlds[0].engineio(), "user=ann");
    come(&mut cluster, &mut ann, 0);
    let before = cluster.meeting.lock().unwrap().sessions.clone();
    ann.client.says(r#"42["join","a"]"#);
    cluster.settle();
    // A replica takes over that has not heard of it.
    cluster.meeting.lock().unwrap().sessions = before;
    cluster.goes_over(0, LINE + 1);
    cluster.goes_over(1, LINE + 1);
    said(&cluster.worlds[0], "a", "1");
    cluster.settle();
    ann.hear(usize::MAX);
    cluster.meeting.lock().unwrap().cut(0);
    let next = cluster.worlds[0].engineio();
    let _dead = std::mem::replace(&mut ann.client, next);
    come(&mut cluster, &mut ann, 1);
    assert!(ann.recovered);
    said(&cluster.worlds[1], "a", "2");
    cluster.settle();
    ann.hear(usize::MAX);
    assert_eq!(news(&mut ann), [r#"["news","1"]"#, r#"["news","2"]"#]);
}

#[test]
fn a_room_that_a_renewed_token_grants_is_left_at_another_node_where_the_next_token_does_not() {
    let handles = Handles::default();
    let filled = handles.clone();
    let mut cluster = Cluster::filled(&kept(), move |builder| filled.filled_by(builder));
    let mut ann = Tracking::lost(cluster.worlds[0].engineio(), "user=ann rooms=a");
    come(&mut cluster, &mut ann, 0);
    // The app puts her there, and then her token grants it: nothing else of her changes behind that.
    let socket = handles.first();
    let put = cluster.worlds[0].begin(async move { socket.join("b").await });
    cluster.settle();
    assert!(put.is_finished());
    ann.asks(
        &mut cluster.worlds[0],
        r#"42["auth:refresh",{"token":"user=ann rooms=a,b"}]"#,
    );
    cluster.settle();
    cluster.meeting.lock().unwrap().cut(0);
    let next = cluster.worlds[0].engineio();
    let _dead = std::mem::replace(&mut ann.client, next);
    ann.got();
    come(&mut cluster, &mut ann, 1);
    assert!(ann.recovered);
    assert_eq!(
        ann.got(),
        [r#"["room:left",{"reason":"forbidden","room":"b"}]"#]
    );
}

#[test]
fn what_is_said_to_a_user_waits_for_who_was_lost_on_another_node() {
    let mut cluster = Cluster::new();
    let mut ann = Tracking::lost(cluster.worlds[0].engineio(), "user=ann");
    come(&mut cluster, &mut ann, 0);
    ann.is_cut(&mut cluster.worlds[0]);
    cluster.settle();
    let gateway = cluster.worlds[1].gateway.clone();
    let emitted = async move {
        let ann = (None, "ann");
        gateway.emit_to_users(ann, None, "news", "\"1\"").await
    };
    let reached = cluster.worlds[1].finish(emitted).unwrap();
    assert_eq!(reached.sockets, 0);
    cluster.settle();
    come(&mut cluster, &mut ann, 0);
    assert!(ann.recovered);
    assert_eq!(news(&mut ann), [r#"["news","1"]"#]);
}

/// How a client is sent away, by a node that reaches no other one.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Away {
    User,
    Type,
    Socket,
}

fn is_sent_away(cluster: &mut Cluster, node: usize, ann: &Tracking, how: Away) {
    let gateway = cluster.worlds[node].gateway.clone();
    let id = ann.sid.clone();
    let user = UserKey {
        tenant_id: None,
        user_id: "ann".into(),
        user_type: Some("rider".into()),
    };
    cluster.worlds[node].finish(async move {
        match how {
            Away::User => drop(gateway.disconnect_users((None, "ann")).await),
            Away::Type => drop(gateway.disconnect_user(&user).await),
            Away::Socket => assert_eq!(gateway.disconnect(&id).await.unwrap().sockets, 1),
        }
    });
    cluster.settle();
}

#[test]
fn who_is_sent_away_while_lost_begins_afresh_wherever_they_were_and_wherever_they_come() {
    for how in [Away::User, Away::Type, Away::Socket] {
        // Their node has them still, or hears nothing any more.
        for (to, is_dead) in [(0, false), (1, false), (1, true)] {
            let mut cluster = Cluster::new();
            let mut ann = Tracking::lost(cluster.worlds[0].engineio(), "user=ann/rider");
            come(&mut cluster, &mut ann, 0);
            // Another one with the same id, and the same node.
            let mut other = Tracking::lost(cluster.worlds[0].engineio(), "user=ann/driver");
            come(&mut cluster, &mut other, 0);
            if is_dead {
                cluster.meeting.lock().unwrap().cut(0);
            } else {
                ann.is_cut(&mut cluster.worlds[0]);
                other.is_cut(&mut cluster.worlds[0]);
            }
            cluster.settle();
            is_sent_away(&mut cluster, 1, &ann, how);
            let _dead = std::mem::replace(&mut ann.client, cluster.worlds[1].engineio());
            come(&mut cluster, &mut ann, to);
            assert!(!ann.recovered, "{how:?}, to {to}");
            let _dead = std::mem::replace(&mut other.client, cluster.worlds[1].engineio());
            come(&mut cluster, &mut other, to);
            assert_eq!(other.recovered, how != Away::User, "{how:?}, to {to}");
            // What begins after that is theirs.
            ann.is_cut(&mut cluster.worlds[to]);
            cluster.settle();
            come(&mut cluster, &mut ann, 1);
            assert!(ann.recovered, "{how:?}, to {to}");
        }
    }
}

/// Where the last newcomer is, and with which socket it goes on.
fn last_newcomer(cluster: &Cluster) -> (usize, SocketAddress, Option<SocketAddress>) {
    *cluster.meeting.lock().unwrap().came.last().unwrap()
}

#[test]
fn who_goes_on_elsewhere_while_still_there_is_waited_for_and_takes_the_place_of_the_old_one() {
    let mut cluster = Cluster::new();
    let mut ann = Tracking::lost(cluster.worlds[0].engineio(), "user=ann");
    come(&mut cluster, &mut ann, 0);
    let (mut at, mut place, _) = last_newcomer(&cluster);
    let known_as = |cluster: &Cluster| cluster.meeting.lock().unwrap().known_as;
    assert_eq!(known_as(&cluster), None);
    let mut half_open = Vec::new();
    // Her connection is still there where she was, or its end was seen.
    for (to, is_seen) in [(1, false), (0, false), (1, true), (1, false), (0, true)] {
        if is_seen {
            ann.is_cut(&mut cluster.worlds[at]);
            cluster.settle();
        }
        let next = cluster.worlds[to].engineio();
        half_open.push(std::mem::replace(&mut ann.client, next));
        come(&mut cluster, &mut ann, to);
        assert!(ann.recovered, "from {at} to {to}");
        let (_, new, instead_of) = last_newcomer(&cluster);
        assert_eq!(instead_of, Some(place), "from {at} to {to}");
        assert_eq!(known_as(&cluster), SocketAddress::parse(&ann.sid));
        let went = cluster.meeting.lock().unwrap().went.clone();
        let (node, socket, keep) = *went.last().unwrap();
        assert_eq!((node, socket), (at, place));
        assert_eq!(keep.is_zero(), is_seen, "from {at} to {to}: {keep:?}");
        (at, place) = (to, new);
    }
}

/// The id and the token with which Ann's client is let into a namespace (`""`, `"/chat,"`).
fn let_in(
    cluster: &mut Cluster,
    client: &mut Client,
    namespace: &str,
    pid: Option<&str>,
) -> (String, String) {
    let mut auth = serde_json::json!({ "token": "user=ann" });
    if let Some(pid) = pid {
        auth["pid"] = pid.into();
    }
    client.says(&format!("40{namespace}{auth}"));
    cluster.settle();
    let (heard, prefix) = (client.hears(), format!("40{namespace}"));
    let reply = heard.iter().find_map(|text| text.strip_prefix(&prefix));
    let reply: serde_json::Value = serde_json::from_str(reply.unwrap()).unwrap();
    let text = |name: &str| reply[name].as_str().unwrap().to_owned();
    (text("sid"), text("pid"))
}

#[test]
fn who_goes_on_elsewhere_while_still_there_goes_on_in_each_namespace() {
    let mut cluster = Cluster::new();
    let namespaces = ["", "/chat,"];
    let mut half_open = cluster.worlds[0].engineio();
    let began = namespaces.map(|name| let_in(&mut cluster, &mut half_open, name, None));
    let mut next = cluster.worlds[1].engineio();
    for (name, (sid, pid)) in namespaces.iter().zip(&began) {
        let (now, _) = let_in(&mut cluster, &mut next, name, Some(pid));
        assert_eq!(now, *sid, "in {name:?}");
    }
}

#[test]
fn who_is_sent_away_by_a_node_that_reaches_no_other_is_not_waited_for() {
    let mut cluster = Cluster::new();
    let mut ann = Tracking::lost(cluster.worlds[0].engineio(), "user=ann/rider");
    come(&mut cluster, &mut ann, 0);
    let (_, place, _) = last_newcomer(&cluster);
    is_sent_away(&mut cluster, 1, &ann, Away::Socket);
    let went = cluster.meeting.lock().unwrap().went.clone();
    assert_eq!(went, [(0, place, Duration::ZERO)]);
}

#[test]
fn nobody_is_taken_for_a_forger_by_a_node_that_has_not_joined_the_others() {
    let mut cluster = Cluster::new();
    let mut ann = Tracking::lost(cluster.worlds[0].engineio(), "user=ann");
    come(&mut cluster, &mut ann, 0);
    ann.is_cut(&mut cluster.worlds[0]);
    cluster.settle();
    cluster.meeting.lock().unwrap().ways[1].is_alone = true;
    come(&mut cluster, &mut ann, 1);
    assert!(!ann.recovered);
    let outcomes = |cluster: &Cluster, name| {
        let name = format!("heartline_resumes_total{{outcome=\"{name}\"}} ");
        cluster.worlds[1].metric(&name)
    };
    assert_eq!(outcomes(&cluster, "bad_token"), 0);
    assert_eq!(outcomes(&cluster, "unknown"), 1);
}

#[test]
fn what_the_app_remembers_of_a_socket_is_there_on_the_node_to_which_its_client_comes() {
    let handles = Handles::default();
    let mut cluster = Cluster::filled(&kept(), |builder| {
        let builder = builder.on_disconnect(|socket: Socket| async move {
            let times: u32 = socket.remembered("ends").unwrap_or(0);
            socket.remember("ends", &(times + 1)).unwrap();
        });
        handles.filled_by(builder)
    });
    let mut ann = Tracking::lost(cluster.worlds[0].engineio(), "user=ann");
    come(&mut cluster, &mut ann, 0);
    let socket = handles.find(&ann.sid, false);
    socket.remember("gone", &1).unwrap();
    cluster.settle();
    socket.remember("gone", &()).unwrap();
    socket.remember("bet", &("red\n\"", 10)).unwrap();
    socket.remember("bet", &("red\n\"", 20)).unwrap();
    socket.data().insert(7u32);
    cluster.settle();
    // Her node is killed: nothing of her end is written, nor heard.
    cluster.meeting.lock().unwrap().cut(0);
    let killed = std::mem::replace(&mut ann.client, cluster.worlds[0].engineio());
    let bet = Some(("red\n\"".to_owned(), 20));
    // Then she is cut off, and comes back to the same node, and to another.
    for (node, ends) in [(1, 0u32), (1, 1), (0, 2)] {
        come(&mut cluster, &mut ann, node);
        assert!(ann.recovered, "at {node} after {ends} ends");
        let socket = handles.find(&ann.sid, false);
        assert_eq!(socket.remembered("bet"), bet, "at {node}");
        assert_eq!(socket.remembered::<u32>("gone"), None);
        assert_eq!(socket.remembered("ends"), (ends > 0).then_some(ends));
        // What another node has is no JSON, and stays there.
        assert_eq!(socket.data().get::<u32>(), None);
        assert_eq!(socket.remembered("late"), ends.checked_sub(1));
        ann.is_cut(&mut cluster.worlds[node]);
        cluster.settle();
        // A handler that has not ended yet goes on.
        socket.remember("late", &ends).unwrap();
        cluster.settle();
        if ends == 1 {
            cluster.mend();
        }
    }
    drop(killed);
}

#[test]
fn what_another_build_has_written_of_a_socket_is_gone_on_with_or_set_aside() {
    type Change = fn(&mut serde_json::Value);
    let cases: [(bool, Option<u32>, Change); 5] = [
        (true, Some(7), |record| {
            record["new"] = serde_json::json!({ "of": "another" });
        }),
        // A build before this one wrote nothing of it.
        (true, None, |record| {
            record.as_object_mut().unwrap().remove("remembered");
        }),
        (false, None, |record| record["remembered"] = 7.into()),
        (false, None, |record| record["remembered"]["n"] = 7.into()),
        (false, None, |record| {
            record["remembered"]["long"] = "1".repeat(4_096).into();
        }),
    ];
    for (index, (recovers, remembered, change)) in cases.into_iter().enumerate() {
        let handles = Handles::default();
        let mut cluster = Cluster::filled(&kept(), |builder| handles.filled_by(builder));
        let mut ann = Tracking::lost(cluster.worlds[0].engineio(), "user=ann");
        come(&mut cluster, &mut ann, 0);
        let id = ann.sid.clone();
        handles.find(&id, false).remember("n", &7).unwrap();
        ann.is_cut(&mut cluster.worlds[0]);
        cluster.settle();
        cluster.rewrite(&id, change);
        come(&mut cluster, &mut ann, 1);
        assert_eq!((index, ann.recovered), (index, recovers));
        let socket = handles.find(&ann.sid, false);
        assert_eq!((index, socket.remembered("n")), (index, remembered));
        let name = SocketAddress::parse(&id).unwrap();
        let is_kept = cluster.meeting.lock().unwrap().sessions.contains_key(&name);
        assert_eq!((index, is_kept), (index, recovers));
    }
}
