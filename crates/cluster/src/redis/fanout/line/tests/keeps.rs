//! What the script keeps of places, and what it knows to be missing.

use super::*;

#[tokio::test(flavor = "multi_thread")]
async fn of_a_room_so_much_is_kept_and_the_last_that_is_not_is_known() {
    let redis = Redis::start();
    let few = LineSettings {
        events: 4,
        bytes: 4 << 10,
        ..settings()
    };
    let process = Process::start(&redis, 1, few).await;
    let held = hold(&process, "r").await;
    let (scope, r) = (room("r"), room("r"));
    let r = target_of(&r);
    for event in ["1", "2", "3", "4", "5", "6"] {
        process.say(&r, event).await.unwrap();
    }
    let id_of = |name: &str| {
        let events = process.events();
        let found = events.iter().find(|event| event.2.as_deref() == Some(name));
        found.map(|event| event.0.id)
    };
    let second = until(|| id_of("2")).await;
    until(|| id_of("6")).await;
    let (numbers, known, events) = process.end(&scope).await;
    assert_eq!(numbers.1, 6);
    assert_eq!((known.dropped, known.dropped_offset), (second, 2));
    assert_eq!(Some(known.last), id_of("6"));
    assert_eq!(events.len(), 4);
    // Heavy ones take the places of several.
    process.say_with(&r, "7", &"7".repeat(3_700)).await.unwrap();
    let (_, known, events) = process.end(&scope).await;
    assert_eq!(events.last().unwrap().1, "7");
    assert!(events.len() < 4);
    assert_eq!(Some(known.dropped), id_of(&(7 - events.len()).to_string()));
    // What is too heavy for the room alone.
    process.say_with(&r, "8", &"8".repeat(5_000)).await.unwrap();
    let (numbers, known, events) = process.end(&scope).await;
    assert_eq!((numbers.1, known.dropped_offset, events.len()), (8, 8, 0));
    assert_eq!(known.dropped, known.last);
    process.say(&r, "9").await.unwrap();
    let (_, known, events) = process.end(&scope).await;
    assert_eq!((known.dropped_offset, &*events[0].1), (8, "9"));
    drop(held);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_too_large_or_too_old_to_be_kept_is_known_to_be_missing() {
    let redis = Redis::start();
    let process = Process::start(&redis, 1, settings()).await;
    let held = hold(&process, "r").await;
    let (scope, r) = (room("r"), room("r"));
    let r = target_of(&r);
    process.say(&r, "1").await.unwrap();
    process
        .say_with(&r, "large", &"1".repeat(65_536))
        .await
        .unwrap();
    let (_, known, events) = process.end(&scope).await;
    assert_eq!((known.dropped, known.dropped_offset), (known.last, 2));
    assert!(events.is_empty());
    process.say(&r, "3").await.unwrap();
    // It is too old.
    let list = format!("{{p}}:ll:{}", process.line.name(&scope));
    process.redis(&["DEL", &list]).await;
    let (numbers, known, events) = process.end(&scope).await;
    assert_eq!((known.dropped, known.dropped_offset), (known.last, 3));
    assert_eq!((numbers.1, events.len()), (3, 0));
    process.say(&r, "4").await.unwrap();
    let (_, after, events) = process.end(&scope).await;
    assert_eq!((after.dropped, after.dropped_offset), (known.last, 3));
    assert_eq!(events[0].1, "4");
    let ttl = process.redis(&["PTTL", &list]).await;
    assert!(matches!(ttl, Value::Int(80_000..=90_000)), "{ttl:?}");
    drop(held);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_newest_of_each_key_outlasts_what_came_after_it() {
    let redis = Redis::start();
    let few = LineSettings {
        events: 4,
        ..settings()
    };
    let process = Process::start(&redis, 1, few).await;
    let held = hold(&process, "r").await;
    let scope = room("r");
    process.say(&keyed("r", "a"), "a1").await.unwrap();
    process.say(&keyed("r", "a"), "a2").await.unwrap();
    process.say(&keyed("r", "gone"), "gone").await.unwrap();
    for event in ["b1", "b2", "b3", "b4", "b5", "b6"] {
        process.say(&keyed("r", "b"), event).await.unwrap();
    }
    let (numbers, known, _) = process.end(&scope).await;
    assert_eq!(
        known.dropped,
        numbers.0 - 1,
        "nobody misses what a newer one of its key has replaced"
    );
    let all = ["a2", "gone", "b3", "b4", "b5", "b6"];
    assert_eq!(process.kept(&scope).await, all);
    process
        .say_with(&keyed("r", "gone"), "removed", "null")
        .await
        .unwrap();
    assert_eq!(
        process.kept(&scope).await,
        ["a2", "b4", "b5", "b6", "removed"]
    );
    for event in ["1", "2", "3", "4"] {
        process.say(&target_of(&scope), event).await.unwrap();
    }
    let (_, known, events) = process.end(&scope).await;
    let names: Vec<&str> = events.iter().map(|event| &*event.1).collect();
    assert_eq!(names, ["a2", "b6", "1", "2", "3", "4"]);
    // That a key was removed is an event that may be missed.
    assert_eq!(known.dropped_offset, 10);
    drop(held);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_too_many_is_kept_as_an_event_among_others() {
    let redis = Redis::start();
    let few = LineSettings {
        events: 4,
        ..settings()
    };
    let process = Process::start(&redis, 1, few).await;
    let held = hold(&process, "r").await;
    let scope = room("r");
    let mut said = Vec::new();
    for number in 0..=1_000 {
        let key = number.to_string();
        said.push(
            process
                .line
                .say(&keyed("r", &key), &Message::new("k", "1"), None),
        );
    }
    for said in said {
        said.await.unwrap();
    }
    let keys = format!("{{p}}:lk:{}", process.line.name(&scope));
    assert_eq!(process.redis(&["HLEN", &keys]).await, Value::Int(1_000));
    let (numbers, known, events) = process.end(&scope).await;
    assert_eq!((known.dropped, events.len()), (numbers.0 - 1, 1_001));
    for event in ["1", "2", "3", "4"] {
        process.say(&target_of(&scope), event).await.unwrap();
    }
    let (_, known, events) = process.end(&scope).await;
    assert_eq!((known.dropped_offset, events.len()), (1_001, 1_004));
    drop(held);
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_that_are_gone_take_no_place() {
    let redis = Redis::start();
    let few = LineSettings {
        bytes: 80 << 10,
        ..settings()
    };
    let process = Process::start(&redis, 1, few).await;
    let held = hold(&process, "r").await;
    let scope = room("r");
    let keys = format!("{{p}}:lk:{}", process.line.name(&scope));
    for round in 0..4 {
        let text = "1".repeat(30_000);
        process
            .say_with(&keyed("r", "a"), "a", &text)
            .await
            .unwrap();
        let there = process.redis(&["HLEN", &keys]).await;
        assert_eq!(there, Value::Int(1), "in round {round}");
        match round % 2 {
            // They were remembered for a day.
            0 => drop(process.redis(&["DEL", &keys]).await),
            // Something of the key is too large.
            _ => {
                let text = "1".repeat(70_000);
                process
                    .say_with(&keyed("r", "a"), "a", &text)
                    .await
                    .unwrap();
            }
        }
    }
    // What is remembered of a room is, with its keys, for as long as anything is said there.
    process.say(&keyed("r", "a"), "a").await.unwrap();
    process.redis(&["EXPIRE", &keys, "100"]).await;
    process.say(&target_of(&scope), "b").await.unwrap();
    let ttl = process.redis(&["TTL", &keys]).await;
    assert!(matches!(ttl, Value::Int(80_000..)), "{ttl:?}");
    drop(held);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gap_ends_what_was_kept_of_a_room_or_a_user() {
    let redis = Redis::start();
    let process = Process::start(&redis, 1, settings()).await;
    let held = hold(&process, "r").await;
    assert!(process.attend("ann"));
    process.fanout.remembered().await;
    for (at, scope) in [room("r"), user("ann")].iter().enumerate() {
        let number = 10 * at as u64 + 1;
        let said = process.batch(number, 0, scope, &["a", "b"], json!({}));
        let _: Value = process.raw(&said).await;
        let (before, _, _) = process.end(scope).await;
        let gap = process.batch(number + 1, kept::GAP, scope, &[""], json!({}));
        let _: Value = process.raw(&gap).await;
        let (numbers, known, events) = process.end(scope).await;
        assert_eq!(events, [], "{scope:?}");
        assert_eq!((known.dropped, known.dropped_offset), (known.last, 2));
        assert_eq!(numbers.1, before.1, "a gap has no number of its own");
        assert!(numbers.0 > before.0, "the offsets are of another epoch");
        let said = process.batch(number + 2, 0, scope, &["c"], json!({}));
        let _: Value = process.raw(&said).await;
        assert_eq!(process.kept(scope).await, ["c"]);
    }
    let gaps = process
        .events()
        .into_iter()
        .filter(|event| event.2.is_none());
    assert_eq!(
        gaps.map(|event| event.1).collect::<Vec<_>>(),
        ["r", "user ann"]
    );
    drop(held);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_place_whose_numbers_the_store_has_lost_is_not_taken_for_one_in_which_nothing_was_said() {
    let redis = Redis::start();
    let process = Process::start(&redis, 1, settings()).await;
    let held = hold(&process, "r").await;
    assert!(process.attend("ann") && process.attend("bob"));
    process.fanout.remembered().await;
    let places = [room("r"), user("ann"), everybody()];
    for lost in [":lm:", ":ll:"] {
        for scope in &places {
            process.say(&target_of(scope), "lost").await.unwrap();
            let (_, known, _) = process.end(scope).await;
            let key = |kind: &str| format!("{{p}}{kind}{}", process.line.name(scope));
            process.redis(&["DEL", &key(lost)]).await;
            let (_, found, events) = process.end(scope).await;
            assert!(found.dropped >= known.last, "{scope:?} without {lost}");
            assert!(events.is_empty());
            // What comes next does not make it whole.
            process.say(&target_of(scope), "next").await.unwrap();
            let (_, after, events) = process.end(scope).await;
            assert!(after.dropped >= known.last && after.last > after.dropped);
            assert_eq!(events.len(), 1);
            // Also if nobody has asked in between.
            process.redis(&["DEL", &key(":lm:")]).await;
            process.say(&target_of(scope), "and next").await.unwrap();
            let (_, found, _) = process.end(scope).await;
            assert!(found.dropped >= after.last, "{scope:?}");
        }
    }
    // Of a user to whom nothing was said before, all is there.
    process
        .say(&target_of(&user("bob")), "first")
        .await
        .unwrap();
    let (_, known, _) = process.end(&user("bob")).await;
    assert_eq!(known.dropped, 0);
    // Who has a user's sockets may be forgotten too.
    process.redis(&["DEL", "{p}:lw::bob"]).await;
    process
        .say(&target_of(&user("bob")), "second")
        .await
        .unwrap();
    let second = |event: &(Position, String, Option<String>)| event.2.as_deref() == Some("second");
    until(|| process.events().iter().any(second).then_some(())).await;
    // And the newest events of keys.
    process.say(&keyed("r", "k"), "of a key").await.unwrap();
    let (_, before, _) = process.end(&room("r")).await;
    let keys = format!("{{p}}:lk:{}", process.line.name(&room("r")));
    process.redis(&["DEL", &keys]).await;
    let (_, after, _) = process.end(&room("r")).await;
    assert_eq!((before.last, after.dropped), (after.last, after.last));
    drop(held);
}
