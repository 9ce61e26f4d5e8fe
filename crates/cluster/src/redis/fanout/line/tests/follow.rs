//! The ends of places, and what a cut lost.

use super::super::super::driver::Heard;
use super::*;

#[tokio::test(flavor = "multi_thread")]
async fn the_ends_of_places_are_told_from_a_number_on_or_from_the_beginning() {
    let redis = Redis::start();
    let process = Process::start(&redis, 1, settings()).await;
    let held = [hold(&process, "r").await, hold(&process, "quiet").await];
    let scopes = vec![room("quiet"), room("r"), room("new")];
    process
        .say(&target_of(&room("quiet")), "before")
        .await
        .unwrap();
    process.say(&target_of(&room("r")), "1").await.unwrap();
    let (_, first, _) = process.end(&room("r")).await;
    process.say(&target_of(&room("r")), "2").await.unwrap();
    let ends = |told: Vec<Told>| {
        let ends = told.into_iter().filter_map(|told| match told {
            Told::End(scope, _, _, events) => {
                let names = events.into_iter().map(|event| event.1).collect::<Vec<_>>();
                Some((scope, names))
            }
            _ => None,
        });
        ends.collect::<Vec<_>>()
    };
    let before = process.told().len();
    let missed = process.line.collect(scopes.clone(), Some(first.last)).await;
    assert_eq!(missed, Some(1));
    let all = [(room("r"), vec!["2".into()]), (room("new"), vec![])];
    assert_eq!(ends(process.told().split_off(before)), all);
    let before = process.told().len();
    assert_eq!(process.line.collect(scopes, None).await, Some(1));
    let told = process.told().split_off(before);
    assert!(
        matches!(told.last(), Some(Told::Reached(_))),
        "and how far the line is"
    );
    let all = [
        (room("quiet"), vec!["before".into()]),
        (room("r"), vec!["1".into(), "2".into()]),
        (room("new"), vec![]),
    ];
    assert_eq!(ends(told), all);
    drop(held);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_cut_lost_is_told_in_its_order_before_anybody_counts_on_it() {
    let redis = Redis::start();
    let process = Process::start(&redis, 1, settings()).await;
    let held = [hold(&process, "r").await, hold(&process, "q").await];
    *locked(&process.ears.followed) = vec![room("r"), room("q")];
    process.say(&target_of(&room("r")), "0").await.unwrap();
    until(|| process.events().pop()).await;
    for round in 0..5u64 {
        let mut pipeline = vec![killed()];
        for (at, name) in ["r", "q", "r", "r", "q"].iter().enumerate() {
            let number = 100 + 10 * round + at as u64;
            let event = format!("{name} {round} {at}");
            pipeline.push(process.batch(number, 0, &room(name), &[&event], json!({})));
        }
        process.commands.pipeline(pipeline).await.unwrap();
        let count = 1 + 5 * (round as usize + 1);
        until(|| (process.events().len() >= count).then_some(())).await;
        assert_eq!(process.events().len(), count);
    }
    let mut last = (0, 0);
    for told in process.told() {
        match told {
            Told::Event(at, _, _) => {
                assert!(at.id > last.0, "{at:?} comes late");
                assert!(at.id > last.1, "{at:?} was thought to have come");
                last.0 = at.id;
            }
            Told::Reached(reached) => last.1 = reached.last,
            Told::Missed(whose) => panic!("nothing was missed: {whose}"),
            _ => {}
        }
    }
    drop(held);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_cut_lost_and_nobody_has_kept_is_a_gap_at_once() {
    let redis = Redis::start();
    let few = LineSettings {
        events: 2,
        ..settings()
    };
    let process = Process::start(&redis, 1, few).await;
    let held = hold(&process, "r").await;
    *locked(&process.ears.followed) = vec![room("r")];
    process.say(&target_of(&room("r")), "0").await.unwrap();
    until(|| process.events().pop()).await;
    let mut pipeline = vec![killed()];
    let said = ["1", "2", "3", "4"];
    let bounds = json!({ "events": 2 });
    pipeline.push(process.batch(100, 0, &room("r"), &said, bounds.clone()));
    pipeline.push(process.batch(101, kept::GAP, &room("r"), &[""], bounds));
    process.commands.pipeline(pipeline).await.unwrap();
    let gap = until(|| process.events().into_iter().find(|event| event.2.is_none())).await;
    let (numbers, known, _) = process.end(&room("r")).await;
    assert_eq!((gap.0.epoch, gap.0.offset), (numbers.0, 5));
    assert_eq!(gap.0.id, known.last);
    drop(held);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_said_while_the_server_had_taken_a_channel_away_is_found() {
    let redis = Redis::start();
    let process = Process::start(&redis, 1, settings()).await;
    process.say(&target_of(&everybody()), "0").await.unwrap();
    until(|| process.events().pop()).await;
    let requests = || process.line.next_request.load(Ordering::Relaxed);
    let asked = requests();
    let listener = locked(&process.tap).clone().unwrap();
    listener(Heard::Unsubscribed {
        channel: "{p}:c".into(),
    });
    until(|| (requests() > asked).then_some(())).await;
    until(|| locked(&process.line.phase).is_none().then_some(())).await;
}

/// A server that closes a connection for which more than 2 MB wait.
fn strict_redis() -> Redis {
    Redis::start_with(&["--client-output-buffer-limit", "pubsub", "2mb", "0", "0"])
}

/// Says as many events of 40 KB in each room as another process, beginning with its batch of this
/// number.
async fn fill(process: &Process, rooms: &[Scope], events: usize, first: u64) {
    for (number, scope) in (first..).zip(rooms) {
        let names: Vec<String> = (0..events)
            .map(|at| format!("{number} {at} {}", "x".repeat(40_000)))
            .collect();
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        let bounds = json!({ "bytes": 4 << 20 });
        let batch = process.batch(number, 0, scope, &names, bounds);
        let _: Value = process.raw(&batch).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn more_than_the_server_lets_wait_is_found_after_a_cut() {
    let redis = strict_redis();
    let process = Process::start(&redis, 1, settings()).await;
    // It hears nothing of these but what it asks for.
    let rooms: Vec<Scope> = (0..64).map(|at| room(&format!("q{at}"))).collect();
    for room in &rooms {
        assert!(process.line.follow(room.clone()).await);
    }
    let held = hold(&process, "r").await;
    process.say(&target_of(&room("r")), "0").await.unwrap();
    until(|| process.events().pop()).await;
    fill(&process, &rooms, 1, 100).await;
    *locked(&process.ears.followed) = rooms;
    process.commands.query::<Value>(&killed()).await.unwrap();
    until(|| (process.events().len() > 64).then_some(())).await;
    until(|| locked(&process.line.phase).is_none().then_some(())).await;
    let whose: Vec<String> = process.events().into_iter().map(|event| event.1).collect();
    let mut all = vec!["r".to_owned()];
    all.extend((0..64).map(|at| format!("q{at}")));
    assert_eq!(whose, all);
    // And goes on from there.
    process.say(&target_of(&room("r")), "1").await.unwrap();
    until(|| (process.events().len() > 65).then_some(())).await;
    drop(held);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_ends_of_places_that_are_followed_at_once_come_though_they_are_large() {
    let redis = strict_redis();
    let process = Process::start(&redis, 1, settings()).await;
    let rooms: Vec<Scope> = (0..48).map(|at| room(&format!("q{at}"))).collect();
    fill(&process, &rooms, 4, 100).await;
    let followed: Vec<_> = rooms
        .iter()
        .map(|room| process.line.follow(room.clone()))
        .collect();
    for has_come in followed {
        assert!(has_come.await);
    }
    let ends = process.told().into_iter().filter_map(|told| match told {
        Told::End(scope, _, _, events) => Some((scope, events.len())),
        Told::Without(scope) => panic!("{scope:?} is gone without"),
        _ => None,
    });
    let all: Vec<_> = rooms.into_iter().map(|room| (room, 4)).collect();
    assert_eq!(ends.collect::<Vec<_>>(), all);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_end_of_one_place_comes_in_one_however_large_it_is() {
    let redis = Redis::start();
    let process = Process::start(&redis, 1, settings()).await;
    let rooms = [room("large"), room("small")];
    fill(&process, &rooms[..1], 40, 100).await;
    fill(&process, &rooms[1..], 1, 101).await;
    assert!(process.line.collect(rooms.to_vec(), None).await.is_some());
    let ends = process.told().into_iter().filter_map(|told| match told {
        Told::End(scope, _, _, events) => Some((scope, events.len())),
        _ => None,
    });
    let all = vec![(room("large"), 40), (room("small"), 1)];
    assert_eq!(ends.collect::<Vec<_>>(), all);
    let after = process.line.delivered.load(Ordering::Relaxed);
    fill(&process, &rooms[..1], 40, 102).await;
    fill(&process, &rooms[1..], 1, 103).await;
    let requests = process.line.collect_all(rooms.to_vec(), after).await;
    assert_eq!(requests, Some(2));
}
