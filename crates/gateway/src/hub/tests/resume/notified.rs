//! Members of a conversation who are not in its room, and miss what is told instead of its events.

use super::*;

fn user(id: &str) -> Arc<UserKey> {
    Arc::new(UserKey {
        tenant_id: None,
        user_id: id.into(),
        user_type: None,
    })
}

/// A backend makes Ann a member of the conversation.
fn invites_ann(world: &mut World) {
    let gateway = world.gateway.clone();
    let added = world.finish(async move { gateway.add_members("1", &[user("ann")]).await });
    assert!(added.iter().all(Result::is_ok));
}

/// And not any more.
fn removes_ann(world: &mut World) {
    let gateway = world.gateway.clone();
    let removed = world.finish(async move { gateway.remove_member("1", &user("ann")).await });
    assert!(removed.unwrap());
}

fn writes(world: &mut World, bob: &mut Client, text: &str) {
    let data = format!(r#"{{"conversationId":"1","content":"{text}"}}"#);
    bob.says(&format!(r#"42["message:send",{data}]"#));
    world.settle();
}

/// The messages of which Ann was told as a member who is elsewhere.
fn notified(ann: &mut Tracking) -> Vec<String> {
    ann.hear(99);
    let got = ann.got().into_iter();
    let told = got.filter_map(|event| {
        let event: serde_json::Value = serde_json::from_str(&event).unwrap();
        let content = event[1]["message"]["content"].as_str()?.to_owned();
        (event[0] == "message:notification").then_some(content)
    });
    told.collect()
}

#[test]
fn who_was_invited_is_told_however_long_it_is_since_the_store_was_asked() {
    for after in ["rooms=lobby", "rooms=conversation:*"] {
        for away in [1, 31] {
            let mut world = World::new(kept());
            let mut bob = world.socketio("user=bob rooms=conversation:*");
            invites_ann(&mut world);
            let mut ann = Tracking::new(&mut world, "user=ann rooms=lobby");
            ann.is_cut(&mut world);
            writes(&mut world, &mut bob, "one");
            world.run(seconds(away));
            ann.token = format!("user=ann {after}");
            ann.return_to(&mut world);
            assert!(ann.recovered, "{after} {away}");
            assert_eq!(notified(&mut ann), ["one"]);
        }
    }
}

#[test]
fn a_conversation_that_is_not_open_to_it_any_more_is_not_told_of() {
    let cases = [
        // As who has joined, with a token that opens other rooms alone.
        ("rooms=conversation:*", "rooms=lobby", false),
        // Whose membership has ended.
        ("", "", true),
        ("rooms=lobby", "rooms=lobby", true),
    ];
    for (before, after, is_removed) in cases {
        let mut world = World::new(kept());
        let mut bob = world.socketio("user=bob rooms=conversation:*");
        let mut ann = Tracking::new(&mut world, &format!("user=ann {before}"));
        if is_removed {
            invites_ann(&mut world);
        } else {
            ann.asks(&mut world, r#"42["join","conversation:1"]"#);
            ann.asks(&mut world, r#"42["leave","conversation:1"]"#);
        }
        // There it is told.
        writes(&mut world, &mut bob, "one");
        assert_eq!(notified(&mut ann), ["one"], "{before}");
        ann.is_cut(&mut world);
        writes(&mut world, &mut bob, "two");
        if is_removed {
            removes_ann(&mut world);
        }
        ann.token = format!("user=ann {after}");
        ann.return_to(&mut world);
        assert!(ann.recovered, "{before}");
        assert_eq!(notified(&mut ann), [""; 0], "{before}");
        writes(&mut world, &mut bob, "three");
        assert_eq!(notified(&mut ann), [""; 0], "{before}");
    }
}
