//! What processes say: once, in one order, and what becomes of what cannot be said.

use super::*;

#[tokio::test(flavor = "multi_thread")]
async fn what_several_processes_say_comes_to_each_in_one_order_without_a_hole() {
    let redis = Redis::start();
    let mut all = Vec::new();
    for tag in 1..=3 {
        all.push(Process::start(&redis, tag, settings()).await);
    }
    let mut held = Vec::new();
    for process in &all {
        for name in ["r", "q"] {
            held.push(hold(process, name).await);
        }
    }
    let mut offsets = Vec::new();
    for number in 0..40 {
        for process in &all {
            let name = ["r", "r", "q"][number % 3];
            let scope = room(name);
            let event = format!("{name} {number} of {}", process.tag);
            let said = Message::new(&event, "1");
            offsets.push((name, process.line.say(&target_of(&scope), &said, None)));
        }
    }
    let mut told = Vec::new();
    for (name, offset) in offsets {
        told.push((name, offset.await.expect("it is in the line")));
    }
    for process in &all {
        until(|| (process.events().len() == 120).then_some(())).await;
        let events = process.events();
        assert_eq!(events, all[0].events(), "each hears the same");
        assert!(events.is_sorted_by(|a, b| a.0.id < b.0.id));
        for name in ["r", "q"] {
            let of = events.iter().filter(|event| event.1 == name);
            let mut before = (0, 0);
            for (at, _, _) in of {
                if before.1 == 0 {
                    // Nothing was said before it had members.
                    before.0 = at.epoch - 1;
                }
                assert_eq!((at.before, at.offset), (before.0, before.1 + 1));
                before = (at.id, at.offset);
            }
            let mut answers: Vec<u64> = told
                .iter()
                .filter(|one| one.0 == name)
                .map(|one| one.1)
                .collect();
            answers.sort_unstable();
            assert_eq!(answers, (1..=before.1).collect::<Vec<_>>());
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_batch_that_is_sent_again_is_done_once_and_answered_as_before() {
    type Answer = (String, String, String, Vec<u64>);
    let redis = Redis::start();
    let process = Process::start(&redis, 1, settings()).await;
    let held = hold(&process, "r").await;
    let batch = process.batch(7, 0, &room("r"), &["a", "b"], json!({}));
    let first: Answer = process.raw(&batch).await;
    let again: Answer = process.raw(&batch).await;
    assert_eq!(first.3, [1, 2]);
    assert_eq!(again, first, "whoever said it hears that it was said");
    let earlier = process.batch(6, 0, &room("r"), &["late"], json!({}));
    let late: Answer = process.raw(&earlier).await;
    assert_eq!(late.3, [0u64; 0]);
    let next = process.batch(8, 0, &room("r"), &["c"], json!({}));
    let next: Answer = process.raw(&next).await;
    assert_eq!(next.3, [3]);
    until(|| (process.events().len() == 3).then_some(())).await;
    assert_eq!(process.kept(&room("r")).await, ["a", "b", "c"]);
    drop(held);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_for_a_user_goes_to_the_processes_that_have_sockets_of_theirs() {
    let redis = Redis::start();
    let one = Process::start(&redis, 1, settings()).await;
    let other = Process::start(&redis, 2, settings()).await;
    let ann = user("ann");
    assert_eq!(one.say(&target_of(&ann), "to nobody").await, Some(0));
    assert!(other.attend("ann"));
    other.fanout.remembered().await;
    assert!(!other.attend("ann"), "it is known");
    assert_eq!(one.say(&target_of(&ann), "hello").await, Some(1));
    let heard = until(|| other.events().pop()).await;
    assert_eq!((&*heard.1, heard.2.as_deref()), ("user ann", Some("hello")));
    assert_eq!(one.kept(&ann).await, ["hello"]);
    // That has come behind whatever would have come before.
    assert_eq!(one.events(), []);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_said_in_time_is_told_here_and_a_gap_to_all_when_it_can() {
    let redis = Redis::start();
    let one = Process::start(&redis, 1, settings()).await;
    let other = Process::start(&redis, 2, settings()).await;
    let held = [hold(&one, "r").await, hold(&other, "r").await];
    *locked(&one.ears.followed) = vec![room("r")];
    *locked(&other.ears.followed) = vec![room("r")];
    one.say(&target_of(&room("r")), "before").await.unwrap();
    one.redis(&["CLIENT", "PAUSE", "4000", "WRITE"]).await;
    assert_eq!(one.say(&target_of(&room("r")), "alone").await, None);
    assert!(one.told().contains(&Told::Alone("alone".into())));
    let r = room("r");
    let after = one.say(&target_of(&r), "after").await;
    for process in [&one, &other] {
        let events = || {
            let events = process.events().into_iter();
            events
                .map(|event| event.2.unwrap_or("gap".into()))
                .collect::<Vec<_>>()
        };
        until(|| (events().len() >= 2).then_some(())).await;
        let expected: &[&str] = match after {
            Some(_) => &["before", "gap", "after"],
            None => &["before", "gap"],
        };
        until(|| (events() == expected).then_some(())).await;
    }
    drop(held);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_process_that_ends_has_said_that_something_is_missing() {
    let redis = Redis::start();
    let one = Process::start(&redis, 1, settings()).await;
    let other = Process::start(&redis, 2, settings()).await;
    let held = [hold(&one, "r").await, hold(&other, "r").await];
    one.redis(&["CLIENT", "PAUSE", "3500", "WRITE"]).await;
    assert_eq!(one.say(&target_of(&room("r")), "alone").await, None);
    one.line.finish().await;
    drop(one);
    until(|| {
        other
            .events()
            .iter()
            .any(|event| event.2.is_none())
            .then_some(())
    })
    .await;
    drop(held);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_said_to_a_socket_follows_it_until_it_has_come() {
    let redis = Redis::start();
    let one = Process::start(&redis, 1, settings()).await;
    let other = Process::start(&redis, 2, settings()).await;
    let name = socket(1, 7);
    one.fanout
        .remember(name, Some(session("ann", "rooms", false)));
    one.fanout.remembered().await;
    let say = |text: &str| {
        one.fanout
            .say_to(&"/".into(), name, &Message::new(text, "1"))
    };
    let heard = |process: &Process, text: &str| {
        let events = process.events().into_iter();
        let mut found = events.filter(|event| event.2.as_deref() == Some(text));
        found.next().map(|event| (event.0.id, event.1))
    };
    say("a");
    assert_eq!(until(|| heard(&one, "a")).await.1, "socket");
    other.line.claim(name, "ann", None, 0).await.unwrap();
    say("b");
    let (second, _) = until(|| heard(&other, "b")).await;
    assert_eq!((heard(&one, "b"), heard(&other, "a")), (None, None));
    assert_eq!(other.kept(&alone(name)).await, ["a", "b"]);
    // What has come is kept no more, and nothing is missing.
    other.fanout.received(name, second - 1);
    until_kept(&other, &alone(name), &["b"]).await;
    other.fanout.received(name, second);
    until_kept(&other, &alone(name), &[]).await;
    let (_, known, _) = other.end(&alone(name)).await;
    assert_eq!(known, Extent::default());
    // What a cut loses is found, also if nothing comes after it.
    other.redis(&["CLIENT", "PAUSE", "200", "ALL"]).await;
    other
        .fanout
        .say_to(&"/".into(), name, &Message::new("c", "1"));
    let _: Result<Value, _> = other.commands.query(&killed()).await;
    until(|| heard(&other, "c")).await;
    // With the session all of it goes.
    other.fanout.remember(name, None);
    other.fanout.remembered().await;
    assert!(other.kept(&alone(name)).await.is_empty());
}

async fn until_kept(process: &Process, scope: &Scope, expected: &[&str]) {
    let deadline = Instant::now() + Duration::from_secs(60);
    while process.kept(scope).await != expected {
        assert!(Instant::now() < deadline, "it is not {expected:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn changes_of_presence_are_in_the_line_once_whichever_nodes_put_them_there() {
    let redis = Redis::start();
    let one = Process::start(&redis, 1, settings()).await;
    let other = Process::start(&redis, 2, settings()).await;
    let changes = |after: u64, to: u64| Changes {
        after,
        to,
        parts: vec![ChangesPart {
            namespace: "/".into(),
            tenant: None,
            count: (to - after) as usize,
            message: Message::new(&format!("up to {to}"), "[]"),
        }],
    };
    one.redis(&["SET", "{p}:edge", "9"]).await;
    for (process, after, to) in [(&one, 3, 5), (&other, 3, 5), (&other, 4, 6), (&one, 5, 6)] {
        assert!(process.fanout.say_changes(changes(after, to)).await);
    }
    let told = |process: &Process| -> Vec<_> {
        let events = process.events().into_iter();
        events.map(|(at, _, text)| (at, text.unwrap())).collect()
    };
    until(|| (told(&one).len() == 2 && told(&other).len() == 2).then_some(())).await;
    assert_eq!(told(&one), told(&other));
    let [first, second] = told(&one).try_into().unwrap();
    assert_eq!((&*first.1, &*second.1), ("up to 5", "up to 6"));
    assert_eq!(
        second.0.id - first.0.id,
        2,
        "each change has a number of its own"
    );
    assert_eq!(second.0.before, first.0.id);
    // Where some are gone for all, nobody is resumed over that.
    let line = first.0.line;
    assert!(one.fanout.say_changes(changes(8, 9)).await);
    assert!(one.fanout.say_changes(changes(8, 9)).await);
    let is_another = |told: &Told| matches!(told, Told::Reached(reached) if reached.line != line);
    until(|| one.told().iter().any(is_another).then_some(())).await;
    // The registry has forgotten, and counts anew.
    one.redis(&["SET", "{p}:edge", "1"]).await;
    assert!(other.fanout.say_changes(changes(0, 1)).await);
    until(|| {
        told(&one)
            .iter()
            .any(|(_, text)| text == "up to 1")
            .then_some(())
    })
    .await;
}

/// What a process was told so far, when all that it has said has come back.
async fn back(process: &Process) -> Vec<Option<String>> {
    let number = process.line.last_said();
    if let Some(back) = process.line.back(number) {
        back.await;
    }
    assert!(process.line.back(number).is_none());
    let events = process.events().into_iter();
    events.map(|(_, _, text)| text).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_process_knows_when_what_it_has_said_has_come_back_or_comes_to_nobody_here() {
    let redis = Redis::start();
    let process = Process::start(&redis, 1, settings()).await;
    assert!(process.line.back(process.line.last_said()).is_none());
    let _held = hold(&process, "r").await;
    let followed = room("r");
    let mut expected = Vec::new();
    for round in 0..10 {
        for event in ["a", "b", "c"] {
            let said = Message::new(&format!("{event}{round}"), "1");
            expected.push(Some(said.event.to_string()));
            // Nobody waits for the answer.
            drop(process.line.say(&target_of(&followed), &said, None));
        }
        assert_eq!(back(&process).await, expected, "round {round}");
        // Nothing of another room comes; what is said in this one before it does.
        let said = Message::new(&format!("d{round}"), "1");
        expected.push(Some(said.event.to_string()));
        drop(process.line.say(&target_of(&followed), &said, None));
        let other = room("nobody is here");
        drop(process.line.say(&target_of(&other), &said, None));
        assert_eq!(back(&process).await, expected, "round {round}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_said_is_waited_for_until_it_is_given_up() {
    let redis = Redis::start();
    let process = Process::start(&redis, 1, settings()).await;
    let _held = hold(&process, "r").await;
    redis.signal("-STOP");
    let begun = Instant::now();
    let said = Message::new("a", "1");
    drop(process.line.say(&target_of(&room("r")), &said, None));
    back(&process).await;
    assert!(process.told().contains(&Told::Alone("a".into())));
    // What is said when it is known to be away is so too: whatever waits for it comes behind it.
    let said = Message::new("b", "1");
    drop(process.line.say(&target_of(&room("r")), &said, None));
    back(&process).await;
    assert!(process.told().contains(&Told::Alone("b".into())));
    assert!(begun.elapsed() < Duration::from_secs(16));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_said_first_after_an_outage_is_waited_for() {
    let redis = Redis::start();
    let settings = LineSettings {
        refuse: true,
        ..settings()
    };
    let process = Process::start(&redis, 1, settings).await;
    let _held = hold(&process, "r").await;
    redis.signal("-STOP");
    assert_eq!(process.say(&target_of(&room("r")), "a").await, None);
    // Nothing is owed to anybody, so nothing was said since.
    redis.signal("-CONT");
    let said = Message::new("b", "1");
    drop(process.line.say(&target_of(&room("r")), &said, None));
    let waits = process.line.back(process.line.last_said());
    waits.expect("it has not come back").await;
    let heard = process.events();
    assert!(
        heard.iter().any(|event| event.2.as_deref() == Some("b")),
        "{heard:?}"
    );
}
