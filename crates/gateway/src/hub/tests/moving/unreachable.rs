//! What is said while the line cannot be reached, or is lost in it: whoever is concerned is told.

use heartline_core::backplane::Target;
use heartline_core::backplane::line::{Heard, Position};

use super::super::resume::{Tracking, kept};
use super::super::*;
use super::line::LINE;
use super::{Cluster, come};
use crate::api::{Broadcast, Publish, PublishError};

#[test]
fn who_says_what_cannot_be_kept_hears_that_whomever_it_was_for() {
    let mut config = kept();
    config.recovery.refuse_unreachable = true;
    let mut cluster = Cluster::with(&config);
    let mut ann = Tracking::lost(cluster.worlds[0].engineio(), "user=ann");
    come(&mut cluster, &mut ann, 0);
    cluster.meeting.lock().unwrap().ways[0].is_away = true;
    let said = |cluster: &mut Cluster, room: Option<&str>, except: &[&str]| {
        let gateway = cluster.worlds[0].gateway.clone();
        let (namespace, event, data) = ("/".into(), "news".into(), "1".into());
        let except = except.iter().map(ToString::to_string).collect();
        let publish = room.map(ToOwned::to_owned);
        cluster.worlds[0].finish(async move {
            let Some(room) = publish else {
                return gateway
                    .broadcast(Broadcast {
                        tenant_id: None,
                        namespace,
                        event,
                        data,
                        except,
                    })
                    .await;
            };
            gateway
                .publish(Publish {
                    tenant_id: None,
                    namespace,
                    room,
                    event,
                    data,
                    key: None,
                    except,
                })
                .await
        })
    };
    for room in [Some("a"), Some("user:ann"), None] {
        for except in [&[][..], &["b"]] {
            let said = said(&mut cluster, room, except);
            assert_eq!(said.err(), Some(PublishError::Unreachable), "{room:?}");
        }
    }
    let gateway = cluster.worlds[0].gateway.clone();
    let emitted = async move {
        let ann = (None, "ann");
        gateway.emit_to_users(ann, None, "news", "1").await
    };
    let emitted = cluster.worlds[0].finish(emitted);
    assert_eq!(emitted, Err(PublishError::Unreachable));
    let publish = r#"421["publish",{"room":"user:ann","event":"news","data":1}]"#;
    let answer = cluster.worlds[0].ask(&mut ann.client, publish);
    assert!(answer[0].contains(r#""code":"SEND_FAILED""#), "{answer:?}");
}

#[test]
fn all_are_told_where_what_was_said_to_everybody_is_lost() {
    let mut cluster = Cluster::new();
    let mut ann = Tracking::lost(cluster.worlds[0].engineio(), "user=ann");
    come(&mut cluster, &mut ann, 0);
    let world = &mut cluster.worlds[0];
    let fanout = world.gateway.shared.fanout.clone();
    let target = Target::All {
        namespace: "/",
        tenant: None,
    };
    let at = Position {
        line: LINE,
        id: 101,
        before: 100,
        epoch: 1,
        offset: 1,
    };
    fanout.hear(Heard {
        at,
        target,
        message: None,
        skip: None,
        to: None,
        edges_after: None,
    });
    world.settle();
    let heard = ann.client.hears();
    assert!(heard[0].starts_with(r#"42["room:gap",{"room":"user:ann"}"#));
}

#[test]
fn a_live_client_whose_topic_cannot_be_reached_hears_so_and_keeps_its_connection() {
    let mut cluster = Cluster::new();
    let mut ann = cluster.worlds[0].live("user=ann");
    cluster.settle();
    ann.hears();
    let world = &mut cluster.worlds[0];
    // What all nodes have of it does not come.
    let subscribe = r#"{"type":"subscribe","topic":"a","id":1}"#;
    assert!(world.ask(&mut ann, subscribe).is_empty());
    // What it says meanwhile waits.
    ann.says(r#"{"type":"ping","id":2}"#);
    world.run(ms(7_900));
    assert!(ann.hears().is_empty());
    world.run(ms(200));
    let heard = ann.hears();
    let error = concat!(
        r#"{"type":"error","code":"INTERNAL","message":"The topic was not reached in time","#,
        r#""retryAfterMs":20000,"data":{"topic":"a"},"id":1}"#,
    );
    assert_eq!(heard[0], error);
    assert!(heard[1].contains(r#""pong","id":2"#), "{heard:?}");
    assert_eq!(heard.len(), 2);
    assert_eq!(world.gateway.connection_count(), 1);
}

#[test]
fn several_topics_that_cannot_be_reached_hold_up_a_live_client_no_longer_than_one() {
    let mut cluster = Cluster::new();
    let mut ann = cluster.worlds[0].live("user=ann");
    cluster.settle();
    ann.hears();
    let world = &mut cluster.worlds[0];
    for (id, topic) in ["a", "b", "c"].into_iter().enumerate() {
        ann.says(&format!(
            r#"{{"type":"subscribe","topic":"{topic}","id":{id}}}"#
        ));
    }
    ann.says(r#"{"type":"ping","id":3}"#);
    world.run(ms(8_100));
    let heard = ann.hears();
    for (id, told) in heard[..3].iter().enumerate() {
        let told: serde_json::Value = serde_json::from_str(told).unwrap();
        assert_eq!(told["code"], "INTERNAL", "{told}");
        assert_eq!(told["id"], id, "{told}");
        let pause = told["retryAfterMs"].as_u64().unwrap();
        assert!((19_000..=20_000).contains(&pause), "{told}");
    }
    assert!(heard[3].contains(r#""pong","id":3"#), "{heard:?}");
    // Later, what is left of the pause; and after it, one is waited for again.
    world.run(ms(10_000));
    let subscribe = r#"{"type":"subscribe","topic":"b","id":4}"#;
    let told = world.ask(&mut ann, subscribe);
    let told: serde_json::Value = serde_json::from_str(&told[0]).unwrap();
    let pause = told["retryAfterMs"].as_u64().unwrap();
    assert!((9_000..=10_000).contains(&pause), "{told}");
    world.run(ms(pause));
    ann.hears();
    assert!(world.ask(&mut ann, subscribe).is_empty());
    world.run(ms(8_100));
    assert!(ann.hears()[0].contains(r#""retryAfterMs":20000"#));
}
