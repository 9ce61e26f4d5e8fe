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
    assert!(process.line.collect(scopes.clone(), Some(first.last)).await);
    let all = [(room("r"), vec!["2".into()]), (room("new"), vec![])];
    assert_eq!(ends(process.told().split_off(before)), all);
    let before = process.told().len();
    assert!(process.line.collect(scopes, None).await);
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
