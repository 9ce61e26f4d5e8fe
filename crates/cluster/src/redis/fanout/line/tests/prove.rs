//! Another line, and what was said in the one before.

use super::super::prove::{Known, SaidUpTo};
use super::*;

#[tokio::test(flavor = "multi_thread")]
async fn another_run_of_the_server_is_another_line_in_which_rooms_begin_anew() {
    let redis = Redis::start();
    let process = Process::start(&redis, 1, settings()).await;
    let held = hold(&process, "r").await;
    let scope = room("r");
    for event in ["1", "2"] {
        process.say(&target_of(&scope), event).await.unwrap();
    }
    process.say(&keyed("r", "k"), "k").await.unwrap();
    assert!(process.attend("ann"));
    process.fanout.remembered().await;
    *locked(&process.ears.followed) = vec![scope.clone(), room("quiet")];
    let (before, known, _) = process.end(&scope).await;
    process.redis(&["HSET", "{p}:line", "run", "another"]).await;
    process.redis(&["DEL", "{p}:lw::ann"]).await;
    assert_eq!(process.say(&target_of(&scope), "3").await, Some(1));
    let (numbers, after, events) = process.end(&scope).await;
    assert!(numbers.0 > before.0, "its offsets are of another epoch");
    assert_eq!(
        events.iter().map(|event| &*event.1).collect::<Vec<_>>(),
        ["3"]
    );
    assert!(after.last > known.last);
    let events = process.events();
    let (last, _, _) = events.last().unwrap();
    assert_ne!(last.line, events[0].0.line);
    let is_told = |told: &Told| {
        matches!(told, Told::Reached(reached)
            if reached.line == last.line && reached.begin > known.last && reached.begin < last.id)
    };
    assert!(process.told().iter().any(is_told));
    // All are told, where nothing is said too, and users are heard of as before.
    let missed = Told::Missed("Line".into());
    let of_quiet = |told: &Told| matches!(told, Told::End(of, ..) if *of == room("quiet"));
    until(|| process.told().contains(&missed).then_some(())).await;
    until(|| process.told().iter().any(of_quiet).then_some(())).await;
    process
        .say(&target_of(&user("ann")), "hello")
        .await
        .unwrap();
    until(|| {
        process
            .events()
            .into_iter()
            .find(|event| event.1 == "user ann")
    })
    .await;
    // Also if the server has forgotten everything, and its clock goes back.
    process.redis(&["FLUSHALL"]).await;
    let future = 1u64 << 52;
    let said = process.batch(90, 0, &scope, &["4"], json!({}));
    let _: Value = process.raw(&said).await;
    process.redis(&["FLUSHALL"]).await;
    locked(&process.raw.known).last = future;
    let said = process.batch(91, 0, &scope, &["5"], json!({ "run": "yet another" }));
    let answer: (u32, u64, u64, Vec<u64>) = process.raw(&said).await;
    assert!(answer.1 > future && answer.2 > answer.1);
    drop(held);
}

/// Has the server forget what the line was told last, as a replica does that takes over without it.
async fn lose(process: &Process, events: u64) {
    let Value::BulkString(last) = process.redis(&["HGET", "{p}:line", "i"]).await else {
        panic!("there is a line");
    };
    let last: u64 = str::from_utf8(&last).unwrap().parse().unwrap();
    let before = (last - events).to_string();
    process
        .redis(&["HSET", "{p}:line", "i", &before, "run", "another"])
        .await;
}

fn lines_told(process: &Process) -> usize {
    let told = process.told().into_iter();
    told.filter(|told| matches!(told, Told::Missed(whose) if whose == "Line"))
        .count()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_acknowledged_and_lost_in_a_failover_is_a_gap_also_for_who_knew_of_that_before() {
    // What the first said last is lost or not, and was said before the other one went over, when
    // that is told of a gap anyway, or after.
    for (lost, is_late, lines) in [(0, true, 1), (1, false, 1), (1, true, 2)] {
        let redis = Redis::start();
        let first = Process::start(&redis, 1, settings()).await;
        let second = Process::start(&redis, 2, settings()).await;
        let _held = [hold(&first, "r").await, hold(&second, "r").await];
        let scope = room("r");
        assert!(first.say(&target_of(&scope), "kept").await.is_some());
        assert!(first.say(&target_of(&scope), "last").await.is_some());
        if is_late && let Some(said) = &mut locked(&first.line.known).current {
            said.at += Duration::from_secs(60);
        }
        lose(&second, lost).await;
        assert!(second.say(&target_of(&scope), "new").await.is_some());
        let is_told = || (lines_told(&second) > 0 && lines_told(&first) > 0).then_some(());
        until(is_told).await;
        assert!(first.say(&target_of(&scope), "more").await.is_some());
        until(|| locked(&first.line.known).open.is_empty().then_some(())).await;
        assert!(first.say(&target_of(&scope), "and more").await.is_some());
        let ends = second.redis(&["HGET", "{p}:line", "p"]).await;
        let Value::BulkString(ends) = ends else {
            panic!("there were lines before");
        };
        let ends = ends.iter().filter(|byte| **byte == b':').count();
        assert_eq!(ends, lines, "{lost} lost, late: {is_late}");
        let last = first.events().last().map(|event| event.0.line);
        let hears_it = || (second.events().last().map(|event| event.0.line) == last).then_some(());
        until(hears_it).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_knows_less_of_the_line_than_others_begins_another() {
    let redis = Redis::start();
    let process = Process::start(&redis, 1, settings()).await;
    let scope = room("r");
    let _held = hold(&process, "r").await;
    for event in ["a", "b"] {
        assert!(process.say(&target_of(&scope), event).await.is_some());
    }
    let lines = lines_told(&process);
    // The same run, by its own word: a server that may not say which one it is has none.
    let Value::BulkString(run) = process.redis(&["HGET", "{p}:line", "run"]).await else {
        panic!("there is a line");
    };
    lose(&process, 1).await;
    process
        .redis(&["HSET", "{p}:line", "run", str::from_utf8(&run).unwrap()])
        .await;
    assert!(process.say(&target_of(&scope), "c").await.is_some());
    until(|| (lines_told(&process) > lines).then_some(())).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_master_that_is_none_any_more_is_not_heard() {
    let redis = Redis::start();
    let process = Process::start(&redis, 1, settings()).await;
    let scope = room("r");
    let _held = hold(&process, "r").await;
    assert!(process.say(&target_of(&scope), "old").await.is_some());
    let old = until(|| process.events().first().cloned()).await.0;
    lose(&process, 0).await;
    assert!(process.say(&target_of(&scope), "new").await.is_some());
    until(|| {
        process
            .events()
            .last()
            .is_some_and(|event| event.2.as_deref() == Some("new"))
            .then_some(())
    })
    .await;
    // What the earlier one goes on to say, by its numbers.
    let message = Message::new("stale", "1");
    let body = kept::body(
        0,
        None,
        Origin {
            tag: 9,
            number: 1,
            after: 0,
        },
        &target_of(&scope),
        &message,
        &Seal::default(),
    );
    let numbers = [old.id + 1, old.id, old.epoch, old.offset + 1];
    let mut event = vec![3];
    event.extend(old.line.to_be_bytes());
    numbers
        .iter()
        .for_each(|number| event.extend(number.to_be_bytes()));
    event.extend(body);
    let mut publish = redis::cmd("PUBLISH");
    publish.arg(process.line.channel(&scope)).arg(event);
    let heard: u64 = process.commands.query(&publish).await.unwrap();
    assert_eq!(heard, 1);
    assert!(process.say(&target_of(&scope), "newer").await.is_some());
    until(|| {
        process
            .events()
            .last()
            .is_some_and(|event| event.2.as_deref() == Some("newer"))
            .then_some(())
    })
    .await;
    let names: Vec<_> = process
        .events()
        .into_iter()
        .filter_map(|event| event.2)
        .collect();
    assert!(!names.contains(&"stale".into()), "{names:?}");
}

fn reached(line: u32, last: u64) -> Reached {
    Reached {
        line,
        begin: last,
        last,
    }
}

#[test]
fn what_comes_late_of_an_earlier_line_takes_nobody_back_to_it() {
    let mut known = Known::default();
    assert!(!known.note(reached(1, 10)), "it is the first");
    assert!(!known.note(reached(1, 12)));
    assert!(!known.note(reached(1, 11)));
    assert!(known.note(reached(2, 20)));
    assert!(!known.note(reached(1, 13)));
    assert_eq!((known.line, known.last), (Some(2), 20));
    assert!(!known.note(reached(2, 15)));
    assert!(known.note(reached(3, 30)));
    assert_eq!((known.line, known.last), (Some(3), 30));
}

#[test]
fn nothing_that_was_said_is_forgotten_before_it_is_proved_in_whichever_order_it_is_answered() {
    let now = Instant::now();
    let said = |line, id, seconds| SaidUpTo {
        line,
        id,
        at: now + Duration::from_secs(seconds),
    };
    let mut known = Known::default();
    known.note(reached(1, 10));
    known.said(said(1, 12, 1));
    known.said(said(1, 11, 2));
    assert_eq!(known.current, Some(said(1, 12, 2)));
    // The first answer in another line is what tells of it, or not.
    known.note(reached(2, 20));
    known.said(said(2, 21, 3));
    // What was on its way.
    known.said(said(1, 14, 4));
    known.said(said(1, 13, 5));
    assert_eq!(known.current, Some(said(2, 21, 3)));
    assert_eq!(known.open, [said(1, 14, 5)]);
    known.note(reached(3, 30));
    assert_eq!(known.open, [said(1, 14, 5), said(2, 21, 3)]);
    assert_eq!(known.current, None);
}

/// Has a line that does not run say something, by itself.
async fn say_by_hand(line: &Line, process: &Process, number: u64) {
    let batch = process.batch(number, 0, &room("r"), &["said"], json!({}));
    let (epoch, begin, last, _): (String, String, String, Vec<u64>) =
        line.ask(&batch).await.unwrap();
    line.note_said(line.note_reached(&epoch, &begin, &last));
}

fn open(line: &Line) -> Vec<SaidUpTo> {
    locked(&line.known).open.clone()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_master_that_is_none_any_more_proves_nothing() {
    let redis = Redis::start();
    let process = Process::start(&redis, 1, settings()).await;
    let line = &process.raw;
    say_by_hand(line, &process, 1).await;
    // Another server has begun another line, and this one goes on to answer.
    let last = locked(&line.known).last + (1 << 40);
    line.note(reached(7, last));
    let said = open(line);
    assert_eq!(said.len(), 1);
    assert!(line.prove().await.is_err());
    assert_eq!(open(line), said, "it is looked for again");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_proof_that_could_not_be_had_is_looked_for_again() {
    let redis = Redis::start();
    let process = Process::start(&redis, 1, settings()).await;
    let line = process.raw.clone();
    let saying = line.clone();
    let saying = tokio::spawn(async move { saying.say_all().await });
    let scope = room("r");
    let last = Message::new("last", "1");
    assert!(line.say(&target_of(&scope), &last, None).await.is_some());
    if let Some(said) = &mut locked(&line.known).current {
        said.at += Duration::from_secs(60);
    }
    lose(&process, 1).await;
    assert!(process.say(&target_of(&scope), "new").await.is_some());
    let now = {
        let known = locked(&process.line.known);
        reached(known.line.unwrap(), known.last)
    };
    // Nothing is answered for a while.
    let may_ask = async |may: &str| {
        process.redis(&["ACL", "SETUSER", "default", may]).await;
    };
    may_ask("-evalsha").await;
    line.note(now);
    let errors = &line.counters.errors;
    until(|| (errors.load(Ordering::Relaxed) > 0).then_some(())).await;
    assert!(!line.has_said_all());
    may_ask("+evalsha").await;
    until(|| line.has_said_all().then_some(())).await;
    // It was lost: all are told.
    let lines = lines_told(&process);
    assert!(process.say(&target_of(&scope), "newer").await.is_some());
    until(|| (lines_told(&process) > lines).then_some(())).await;
    saying.abort();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_comes_to_be_owed_while_a_line_is_ended_stays_owed() {
    let redis = Redis::start();
    let process = Process::start(&redis, 1, settings()).await;
    let line = &process.raw;
    locked(&line.queue).owes_all = true;
    let owe = async {
        until(|| (!locked(&line.queue).owes_all).then_some(())).await;
        assert!(!line.has_said_all(), "nobody has been told yet");
        locked(&line.queue).owes_all = true;
    };
    process.redis(&["CLIENT", "PAUSE", "100", "ALL"]).await;
    tokio::join!(line.end_line(), owe);
    assert!(locked(&line.queue).owes_all);
}

#[tokio::test(flavor = "multi_thread")]
async fn that_a_line_was_ended_is_looked_for_like_what_was_said() {
    let redis = Redis::start();
    let process = Process::start(&redis, 1, settings()).await;
    let line = &process.raw;
    say_by_hand(line, &process, 1).await;
    let lines = "{p}:line";
    process.redis(&["COPY", lines, "{p}:before"]).await;
    line.end_line().await;
    // Lines that begin in one millisecond at two servers look the same.
    let ended = Instant::now();
    until(|| (ended.elapsed() > Duration::from_millis(1)).then_some(())).await;
    // Where it is known, that is all.
    assert!(line.prove().await.is_ok());
    assert!(open(line).is_empty() && !locked(&line.queue).owes_all);
    // A server takes over that was not told.
    process
        .redis(&["COPY", "{p}:before", lines, "REPLACE"])
        .await;
    lose(&process, 0).await;
    if let Some(said) = &mut locked(&line.known).current {
        said.at += Duration::from_secs(60);
    }
    say_by_hand(line, &process, 2).await;
    assert!(line.prove().await.is_ok());
    assert!(locked(&line.queue).owes_all);
}
