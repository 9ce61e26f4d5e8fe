//! Sessions that are written down, and taken up.

use super::*;

#[tokio::test(flavor = "multi_thread")]
async fn a_session_is_taken_up_by_whoever_asks_last_and_by_nobody_else() {
    let redis = Redis::start();
    let one = Process::start(&redis, 1, settings()).await;
    let other = Process::start(&redis, 2, settings()).await;
    let name = socket(1, 7);
    one.fanout
        .remember(name, Some(session("ann", "rooms", false)));
    one.fanout.remembered().await;
    assert_eq!(one.fanout.holder(name).await, Ok(Some(1)));
    assert_eq!(
        other.line.claim(name, "bob", None, 0).await,
        Err(Unclaimed::Foreign)
    );
    assert_eq!(
        other.line.claim(socket(1, 8), "ann", None, 0).await,
        Err(Unclaimed::Unknown)
    );
    let taken = other.line.claim(name, "ann", None, 0).await.unwrap();
    assert_eq!(taken.record, b"rooms");
    assert_eq!(other.fanout.holder(name).await, Ok(Some(2)));
    let lost = |process: &Process| {
        process
            .told()
            .contains(&Told::LostSession(name, Lost::TakenUp))
    };
    until(|| lost(&one).then_some(())).await;
    // What the one that had it writes late changes nothing.
    one.fanout
        .remember(name, Some(session("ann", "late", true)));
    one.fanout
        .remember(socket(1, 9), Some(session("ann", "other", true)));
    one.fanout.remembered().await;
    one.fanout.remember(name, None);
    one.fanout.remembered().await;
    other
        .fanout
        .remember(name, Some(session("ann", "newer", true)));
    other.fanout.remembered().await;
    let again = one.line.claim(name, "ann", None, 0).await.unwrap();
    assert_eq!(again.record, b"newer");
    assert!(!again.was_here, "another one has had it");
    assert!(one.line.claim(name, "ann", None, 0).await.unwrap().was_here);
    until(|| lost(&other).then_some(())).await;
    assert!(one.line.has_claimed(name) && !other.line.has_claimed(name));
    one.fanout.remember(name, None);
    one.fanout.remembered().await;
    assert_eq!(
        other.line.claim(name, "ann", None, 0).await,
        Err(Unclaimed::Unknown)
    );
    assert_eq!(
        other
            .line
            .claim(socket(1, 9), "ann", None, 0)
            .await
            .unwrap()
            .record,
        b"other"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn of_two_processes_that_race_for_a_session_one_keeps_it() {
    let redis = Redis::start();
    let all = [
        Process::start(&redis, 1, settings()).await,
        Process::start(&redis, 2, settings()).await,
        Process::start(&redis, 3, settings()).await,
    ];
    for round in 0..20 {
        let name = socket(1, round);
        all[0]
            .fanout
            .remember(name, Some(session("ann", "rooms", true)));
        all[0].fanout.remembered().await;
        let (a, b) = tokio::join!(
            all[1].line.claim(name, "ann", None, 0),
            all[2].line.claim(name, "ann", None, 0)
        );
        assert!(
            a.is_ok() || b.is_ok(),
            "who is not last hears that before or later"
        );
        let holder = all[0].fanout.holder(name).await.unwrap().unwrap();
        let winners = || {
            let have = all[1..]
                .iter()
                .filter(|process| process.line.has_claimed(name));
            have.map(|process| process.tag).collect::<Vec<_>>()
        };
        until(|| (winners() == [holder]).then_some(())).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_is_there_for_the_window_and_its_node_for_as_long_as_it_says_so() {
    let redis = Redis::start();
    let short = LineSettings {
        window: Duration::from_millis(50),
        ..settings()
    };
    let one = Process::start(&redis, 1, settings()).await;
    let other = Process::start(&redis, 2, short).await;
    let (lost, there) = (socket(1, 7), socket(1, 8));
    one.fanout
        .remember(lost, Some(session("ann", "rooms", true)));
    one.fanout
        .remember(there, Some(session("ann", "rooms", false)));
    one.fanout.remembered().await;
    tokio::time::sleep(Duration::from_millis(60)).await;
    assert_eq!(
        other.line.claim(lost, "ann", None, 0).await,
        Err(Unclaimed::Unknown)
    );
    assert!(other.line.claim(there, "ann", None, 0).await.is_ok());
    let ttl = one.line.ttl() as i64;
    for key in ["{p}:z:1", "{p}:line:on:n.00000001"] {
        let left = one.redis(&["PTTL", key]).await;
        assert!(
            matches!(left, Value::Int(left) if left > ttl - 11_000),
            "{key}: {left:?}"
        );
    }
    // What a process has left behind goes, once nobody has seen it for long.
    let gone = socket(1, 9);
    let mut command = one.line.call("remember", json!({ "ttl": ttl }));
    command
        .arg("1")
        .arg(&gone.0.to_bytes()[..])
        .arg("0")
        .arg("ann")
        .arg("rooms")
        .arg(0);
    let _: Value = one.raw(&command).await;
    let refresh = |process: &Process| {
        let arguments = json!({ "tags": ["1"], "ttl": ttl, "cursors": ["0"] });
        process.line.call("refresh", arguments)
    };
    let _: Value = other.raw(&refresh(&other)).await;
    assert!(other.fanout.holder(gone).await.unwrap().is_some());
    one.redis(&["DEL", "{p}:line:on:n.00000001"]).await;
    let _: Value = other.raw(&refresh(&other)).await;
    assert_eq!(other.fanout.holder(gone).await, Ok(None));
    assert_eq!(other.fanout.holder(there).await, Ok(Some(2)));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_that_was_taken_up_is_had_also_where_the_server_has_lost_that() {
    let redis = Redis::start();
    let one = Process::start(&redis, 1, settings()).await;
    let other = Process::start(&redis, 2, settings()).await;
    let name = socket(1, 7);
    one.fanout
        .remember(name, Some(session("ann", "old", false)));
    one.fanout.remembered().await;
    one.redis(&["COPY", "{p}:z:1", "{p}:before"]).await;
    other.line.claim(name, "ann", None, 0).await.unwrap();
    let lost = |process: &Process| {
        let told = process.told().into_iter();
        told.filter(|told| *told == Told::LostSession(name, Lost::TakenUp))
            .count()
    };
    until(|| (lost(&one) == 1).then_some(())).await;
    // A replica has taken over that had not heard of it.
    one.redis(&["COPY", "{p}:before", "{p}:z:1", "REPLACE"])
        .await;
    assert_eq!(one.fanout.holder(name).await, Ok(Some(1)));
    other
        .fanout
        .remember(name, Some(session("ann", "new", true)));
    other.fanout.remembered().await;
    assert_eq!(one.fanout.holder(name).await, Ok(Some(2)));
    until(|| (lost(&one) == 2).then_some(())).await;
    // Whoever takes it up from there has it for good.
    assert_eq!(
        one.line.claim(name, "ann", None, 0).await.unwrap().record,
        b"new"
    );
    other
        .fanout
        .remember(name, Some(session("ann", "late", true)));
    other.fanout.remembered().await;
    assert_eq!(
        other.line.claim(name, "ann", None, 0).await.unwrap().record,
        b"new"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_user_who_is_named_while_another_line_begins_is_named_in_that_too() {
    let redis = Redis::start();
    let process = Process::start(&redis, 1, settings()).await;
    let raw = &process.raw;
    raw.note(Reached {
        line: 1,
        begin: 1,
        last: 1,
    });
    let ann = UserKey {
        tenant_id: None,
        user_id: "ann".into(),
        user_type: None,
    };
    assert!(raw.attend(&ann).is_some());
    let (_, mut writing) = raw.next_writing();
    let another = async {
        raw.note(Reached {
            line: 2,
            begin: 2,
            last: 2,
        });
    };
    // It is not answered before that.
    process.redis(&["CLIENT", "PAUSE", "200", "ALL"]).await;
    let (written, ()) = tokio::join!(raw.write(&mut writing), another);
    written.unwrap();
    assert!(raw.attend(&ann).is_none(), "it is known");
    // Nobody knows in which of them it was said first.
    let said = process.redis(&["INFO", "commandstats"]).await;
    let said = redis::from_redis_value::<String>(said).unwrap();
    assert!(said.contains("cmdstat_sadd:calls=2,"), "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_cut_lost_counts_as_found_when_all_users_are_heard_of_and_not_before() {
    let redis = Redis::start();
    let process = Process::start(&redis, 1, settings()).await;
    // What is no set cannot be added to.
    process.redis(&["SET", "{p}:lw::ann", "1"]).await;
    assert!(process.attend("ann"));
    let _: Result<Value, _> = process.commands.query(&killed()).await;
    let is_cut = || locked(&process.line.phase).is_some();
    until(|| is_cut().then_some(())).await;
    // As long as anybody waits for what is to be written.
    process.fanout.remembered().await;
    process.fanout.remembered().await;
    assert!(is_cut());
    process.redis(&["DEL", "{p}:lw::ann"]).await;
    until(|| (!is_cut()).then_some(())).await;
    assert!(!process.attend("ann"), "it is known");
}

fn ann() -> UserKey {
    UserKey {
        tenant_id: None,
        user_id: "ann".into(),
        user_type: None,
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn whose_key_was_evicted_before_anything_was_said_to_them_begins_afresh() {
    let redis = Redis::start();
    let one = Process::start(&redis, 1, settings()).await;
    let other = Process::start(&redis, 2, settings()).await;
    assert!(one.attend("ann"));
    for number in 7..10 {
        one.fanout
            .remember(socket(1, number), Some(session("ann", "rooms", true)));
    }
    one.fanout.remembered().await;
    let ann = ann();
    let claim = async |process: &Process, number: u8| {
        let name = socket(1, number);
        process.line.claim(name, "ann", Some(&ann), 0).await
    };
    assert!(claim(&other, 7).await.is_ok());
    // What is said from then on goes to both.
    let (scope, heard) = (user("ann"), |process: &Process, text: &str| {
        let mut events = process.events().into_iter();
        events.any(|event| event.2.as_deref() == Some(text))
    });
    other.say(&target_of(&scope), "both").await.unwrap();
    until(|| (heard(&one, "both") && heard(&other, "both")).then_some(())).await;
    assert!(!other.attend("ann"), "it is known there already");
    // All that is known of the user is gone, and so is what is said meanwhile.
    for key in ["lw::ann", "lm:u:1:/::ann", "ll:u:1:/::ann"] {
        one.redis(&["DEL", &format!("{{p}}:{key}")]).await;
    }
    other.say(&target_of(&scope), "lost").await.unwrap();
    assert_eq!(claim(&other, 8).await, Err(Unclaimed::Unknown));
    // Also where another process has come to have sessions of the user since.
    let third = Process::start(&redis, 3, settings()).await;
    assert!(third.attend("ann"));
    third.fanout.remembered().await;
    assert_eq!(claim(&third, 9).await, Err(Unclaimed::Unknown));
    assert!(!heard(&one, "lost") && !heard(&other, "lost"));
}

#[tokio::test(flavor = "multi_thread")]
async fn whose_key_was_evicted_while_they_are_here_is_told_of_a_gap_and_heard_of_again() {
    let redis = Redis::start();
    let process = Process::start(&redis, 1, settings()).await;
    assert!(process.attend("ann") && process.attend("bob"));
    process.fanout.remembered().await;
    let (mut rest, mut forgotten) = (Vec::new(), Vec::new());
    let mut look = async || {
        let line = &process.line;
        line.look_for_forgotten(&mut rest, &mut forgotten).await
    };
    look().await.unwrap();
    process.redis(&["DEL", "{p}:lw::ann"]).await;
    let (ann, bob) = (user("ann"), user("bob"));
    process.say(&target_of(&ann), "lost").await.unwrap();
    look().await.unwrap();
    let gap = |event: &(Position, String, Option<String>)| event.2.is_none();
    let gap = until(|| process.events().into_iter().find(gap)).await;
    assert_eq!(gap.1, "user ann");
    process.say(&target_of(&ann), "heard").await.unwrap();
    process.say(&target_of(&bob), "heard too").await.unwrap();
    // Whoever comes back from before that is not told that nothing is missing.
    let (_, known, events) = process.end(&ann).await;
    assert_eq!((known.dropped, events.len()), (gap.0.id, 1));
    let ttl = process.redis(&["TTL", "{p}:lw::ann"]).await;
    assert!(matches!(ttl, Value::Int(80_000..)), "{ttl:?}");
    // Nobody else is told, and nobody again.
    look().await.unwrap();
    process.say(&target_of(&ann), "last").await.unwrap();
    until(|| {
        let events = process.events();
        let is_last = events.last()?.2.as_deref() == Some("last");
        is_last.then_some(())
    })
    .await;
    let gaps = process.events().into_iter();
    assert_eq!(gaps.filter(|event| event.2.is_none()).count(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_users_have_begun_is_nobodys_once_it_was_ended_and_what_they_begin_then_is_theirs() {
    let redis = Redis::start();
    let one = Process::start(&redis, 1, settings()).await;
    let other = Process::start(&redis, 2, settings()).await;
    let typed = |kind: Option<&str>| UserKey {
        user_type: kind.map(Into::into),
        ..ann()
    };
    let (plain, rider) = (typed(None), typed(Some("rider")));
    one.attend("ann");
    for number in 1..=6 {
        one.fanout.remember(
            socket(1, number),
            Some(session("ann", "rooms", number % 2 == 0)),
        );
    }
    one.fanout.remembered().await;
    let reached = || {
        let told = one.told().into_iter().rev();
        let mut reached = told.filter_map(|told| match told {
            Told::Reached(reached) => Some(reached.last),
            _ => None,
        });
        reached.next().unwrap_or(0)
    };
    let claim = async |number: u8, user: &UserKey, begin: u64| {
        let claimed = other
            .line
            .claim(socket(1, number), "ann", Some(user), begin);
        claimed.await.map(|session| session.record)
    };
    let before = reached();
    other
        .fanout
        .end_all(None, "ann", Some(&rider))
        .await
        .unwrap();
    assert_eq!(claim(1, &rider, before).await, Err(Unclaimed::Unknown));
    assert!(claim(1, &plain, before).await.is_ok());
    // All nodes hear where that was: what begins there begins behind it.
    let between = until(|| Some(reached()).filter(|reached| *reached > before)).await;
    assert!(claim(2, &rider, between).await.is_ok());
    other.fanout.end_all(None, "ann", None).await.unwrap();
    for user in [&plain, &rider] {
        assert_eq!(claim(3, user, between).await, Err(Unclaimed::Unknown));
    }
    // Not even where it was taken up before.
    assert!(!other.line.has_claimed(socket(1, 3)));
    assert_eq!(claim(1, &plain, between).await, Err(Unclaimed::Unknown));
    assert!(!other.line.has_claimed(socket(1, 1)));
    let after = until(|| Some(reached()).filter(|reached| *reached > between)).await;
    assert!(claim(4, &plain, after).await.is_ok());
    let ttl = one.redis(&["TTL", "{p}:lx::ann"]).await;
    assert!(matches!(ttl, Value::Int(80_000..)), "{ttl:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn that_users_were_sent_away_is_said_as_soon_as_the_server_is_back() {
    let redis = Redis::start();
    let process = Process::start(&redis, 1, settings()).await;
    process.attend("ann");
    process
        .fanout
        .remember(socket(1, 1), Some(session("ann", "rooms", true)));
    process.fanout.remembered().await;
    // What is no hash takes no field.
    process.redis(&["SET", "{p}:lx::ann", "1"]).await;
    let ended = process.fanout.end_all(None, "ann", None).await;
    assert_eq!(ended, Err(Away));
    process.redis(&["DEL", "{p}:lx::ann"]).await;
    until(|| has_ended_all(&process)).await;
    let ann = ann();
    let claimed = process.line.claim(socket(1, 1), "ann", Some(&ann), 1).await;
    assert_eq!(claimed, Err(Unclaimed::Unknown));
}

fn has_ended_all(process: &Process) -> Option<()> {
    let sessions = locked(&process.line.sessions);
    sessions.has_ended_all().then_some(())
}

/// The number up to which all that ann has begun was ended.
async fn end_of_ann(process: &Process) -> Option<String> {
    let end = process.redis(&["HGET", "{p}:lx::ann", "*"]).await;
    redis::from_redis_value(end).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn who_begins_afresh_after_they_were_sent_away_keeps_that_though_something_is_not_written() {
    let redis = Redis::start();
    let process = Process::start(&redis, 1, settings()).await;
    // What is no hash takes no field.
    process.redis(&["SET", "{p}:z:1", "1"]).await;
    process
        .fanout
        .remember(socket(1, 1), Some(session("ann", "rooms", true)));
    process.fanout.end_all(None, "ann", None).await.unwrap();
    let errors = || process.line.counters.errors.load(Ordering::Relaxed);
    let some_more = |before: u64| move || (errors() >= before + 3).then_some(());
    until(some_more(0)).await;
    let end = end_of_ann(&process).await;
    assert!(end.is_some());
    until(some_more(errors())).await;
    assert_eq!(end_of_ann(&process).await, end);
}

#[tokio::test(flavor = "multi_thread")]
async fn that_users_were_sent_away_is_said_once_though_the_answer_to_it_was_lost() {
    let redis = Redis::start();
    let process = Process::start(&redis, 1, settings()).await;
    let end = async |users: &[(u64, &str, &str)]| {
        let arguments = json!({ "users": users, "ttl": 90_000 });
        let command = process.raw.call("end_all", arguments);
        process.raw(&command).await
    };
    let first: (String, String, String) = end(&[(1, ":ann", "*")]).await;
    let ended = end_of_ann(&process).await;
    // Sent again, alone or with what came meanwhile.
    assert_eq!(end(&[(1, ":ann", "*")]).await, first);
    let more = end(&[(1, ":ann", "*"), (2, ":bob", "*")]).await;
    assert_ne!(more, first);
    assert_eq!(end_of_ann(&process).await, ended);
    let bob = process.redis(&["EXISTS", "{p}:lx::bob"]).await;
    assert_eq!(bob, Value::Int(1));
    // Sent away another time.
    end(&[(3, ":ann", "*")]).await;
    assert_ne!(end_of_ann(&process).await, ended);
}

#[tokio::test(flavor = "multi_thread")]
async fn who_was_sent_away_is_known_for_as_long_as_anything_of_theirs_may_be_taken_up() {
    let redis = Redis::start();
    let days = settings();
    let days = LineSettings {
        window: 2 * Duration::from_secs(24 * 3600),
        ..days
    };
    let process = Process::start(&redis, 1, days).await;
    process.attend("ann");
    process.fanout.end_all(None, "ann", None).await.unwrap();
    for key in ["lx", "lw"] {
        let ttl = process.redis(&["TTL", &format!("{{p}}:{key}::ann")]).await;
        assert!(matches!(ttl, Value::Int(172_800..)), "{key}: {ttl:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_socket_that_was_ended_is_taken_up_by_nobody_though_its_process_does_not_know_yet() {
    let redis = Redis::start();
    let one = Process::start(&redis, 1, settings()).await;
    let other = Process::start(&redis, 2, settings()).await;
    let name = socket(1, 7);
    let written = |text| Some(session("", text, true));
    // By one that does not listen.
    one.raw.remember(name, written("rooms"));
    one.raw.write(&mut one.raw.next_writing().1).await.unwrap();
    assert_eq!(other.line.end(name).await, Ok(true));
    assert_eq!(other.line.end(name).await, Ok(false));
    assert_eq!(other.line.end(socket(1, 8)).await, Ok(false));
    one.raw.remember(name, written("late"));
    one.raw.write(&mut one.raw.next_writing().1).await.unwrap();
    for process in [&one, &other] {
        let claimed = process.line.claim(name, "", None, 0).await;
        assert_eq!(claimed, Err(Unclaimed::Unknown));
        assert_eq!(process.fanout.holder(name).await, Ok(None));
    }
    // One that does loses it.
    let name = socket(1, 9);
    one.fanout.remember(name, written("rooms"));
    one.fanout.remembered().await;
    assert_eq!(other.line.end(name).await, Ok(true));
    let lost = Told::LostSession(name, Lost::Ended);
    until(|| one.told().contains(&lost).then_some(())).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn that_a_session_is_ended_is_said_as_soon_as_the_server_is_back() {
    let redis = Redis::start();
    let process = Process::start(&redis, 1, settings()).await;
    let name = socket(2, 7);
    process.raw.remember(name, Some(session("", "rooms", true)));
    let mut writing = process.raw.next_writing().1;
    process.raw.write(&mut writing).await.unwrap();
    // What is no hash has no field.
    process.redis(&["RENAME", "{p}:z:2", "{p}:aside"]).await;
    process.redis(&["SET", "{p}:z:2", "1"]).await;
    assert_eq!(process.fanout.end(name).await, Err(Away));
    assert_eq!(process.fanout.holder(name).await, Err(Away));
    process.redis(&["RENAME", "{p}:aside", "{p}:z:2"]).await;
    until(|| has_ended_all(&process)).await;
    assert_eq!(process.fanout.holder(name).await, Ok(None));
    let claimed = process.line.claim(name, "", None, 0).await;
    assert_eq!(claimed, Err(Unclaimed::Unknown));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_that_was_ended_was_there_though_the_answer_to_that_was_lost() {
    let redis = Redis::start();
    let process = Process::start(&redis, 1, settings()).await;
    let name = socket(1, 7);
    process.raw.remember(name, Some(session("", "rooms", true)));
    let mut writing = process.raw.next_writing().1;
    process.raw.write(&mut writing).await.unwrap();
    // Their time begins when they are waited for.
    let (ended, same) = (process.raw.end(name), process.raw.end(name));
    fail_to_write(&process, "{p}:z:1").await;
    // It has been done all the same.
    let mut command = process.raw.call("end", json!({}));
    command.arg(name.0.tag()).arg(&name.0.to_bytes()[..]);
    assert_eq!(process.raw::<Vec<u64>>(&command).await, [1]);
    process
        .raw
        .write(&mut process.raw.next_writing().1)
        .await
        .unwrap();
    assert_eq!((ended.await, same.await), (Ok(true), Ok(true)));
    let again = process.raw.end(name);
    process
        .raw
        .write(&mut process.raw.next_writing().1)
        .await
        .unwrap();
    assert_eq!(again.await, Ok(false), "another one has ended it");
}

/// What is to be written is not, as there is something else under a key.
async fn fail_to_write(process: &Process, key: &str) {
    process.redis(&["SET", "{p}:aside", "1"]).await;
    process.redis(&["SET", "{p}:other", "1"]).await;
    process.redis(&["COPY", key, "{p}:aside", "REPLACE"]).await;
    process.redis(&["COPY", "{p}:other", key, "REPLACE"]).await;
    let mut writing = process.raw.next_writing().1;
    process.raw.write(&mut writing).await.unwrap_err();
    process.raw.write_again(writing);
    process.redis(&["RENAME", "{p}:aside", key]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn users_who_are_sent_away_again_while_it_is_not_known_that_they_were_are_so_twice() {
    let redis = Redis::start();
    let process = Process::start(&redis, 1, settings()).await;
    let raw = &process.raw;
    let send_away = || raw.end_all(":ann".to_owned(), "*".to_owned());
    let first = send_away();
    process.redis(&["HSET", "{p}:lx::ann", "*", "0"]).await;
    fail_to_write(&process, "{p}:lx::ann").await;
    // It has been done all the same.
    let arguments = json!({ "users": [(1, ":ann", "*")], "ttl": 90_000 });
    let command = raw.call("end_all", arguments);
    process.raw::<Value>(&command).await;
    let ended = end_of_ann(&process).await;
    assert_ne!(ended.as_deref(), Some("0"));
    // Meanwhile ann has begun another session.
    let second = send_away();
    raw.write(&mut raw.next_writing().1).await.unwrap();
    assert_ne!(end_of_ann(&process).await, ended);
    raw.heard.send_replace(u64::MAX);
    assert_eq!((first.await, second.await), (Ok(()), Ok(())));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_to_be_ended_is_said_once_however_often_it_was_asked_for_and_many_in_one_call() {
    let redis = Redis::start();
    let process = Process::start(&redis, 1, settings()).await;
    let raw = &process.raw;
    raw.remember(socket(1, 7), Some(session("", "rooms", true)));
    raw.write(&mut raw.next_writing().1).await.unwrap();
    process.redis(&["CONFIG", "RESETSTAT"]).await;
    let asked: Vec<_> = (0..1_000).map(|_| raw.end(socket(1, 7))).collect();
    let others: Vec<_> = (8..100).map(|other| raw.end(socket(1, other))).collect();
    raw.write(&mut raw.next_writing().1).await.unwrap();
    let asked = JoinSet::from_iter(asked).join_all().await;
    assert!(asked.iter().all(|found| *found == Ok(true)));
    let others = JoinSet::from_iter(others).join_all().await;
    assert!(others.iter().all(|found| *found == Ok(false)));
    let said = process.redis(&["INFO", "commandstats"]).await;
    let said = redis::from_redis_value::<String>(said).unwrap();
    let looked = said.split("cmdstat_hget:calls=").nth(1).unwrap();
    let looked: usize = looked.split(',').next().unwrap().parse().unwrap();
    assert!((93..200).contains(&looked), "{looked}");
}

#[tokio::test(flavor = "multi_thread")]
async fn who_begins_here_after_they_were_sent_away_begins_behind_that() {
    let redis = Redis::start();
    let process = Process::start(&redis, 1, settings()).await;
    for round in 0..100 {
        process.fanout.end_all(None, "ann", None).await.unwrap();
        let told = process.told().into_iter().rev();
        let mut reached = told.filter_map(|told| match told {
            Told::Reached(reached) => Some(reached.last),
            _ => None,
        });
        let heard = reached.next().unwrap_or(0);
        let end: u64 = end_of_ann(&process).await.unwrap().parse().unwrap();
        assert!(heard > end, "round {round}: {heard} is not behind {end}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_said_to_a_user_before_it_was_known_where_they_are_is_a_gap() {
    let redis = Redis::start();
    let process = Process::start(&redis, 1, settings()).await;
    let other = Process::start(&redis, 2, settings()).await;
    let ann = ann();
    other.attend("ann");
    other.fanout.remembered().await;
    // What is no set cannot be added to.
    process.redis(&["RENAME", "{p}:lw::ann", "{p}:aside"]).await;
    process.redis(&["SET", "{p}:lw::ann", "1"]).await;
    // Clients are let in all the same, and what is said to them then does not come.
    let attended = (0..30).map(|_| process.fanout.attend(&ann).unwrap());
    JoinSet::from_iter(attended).join_all().await;
    process
        .fanout
        .remember(socket(1, 7), Some(session("ann", "rooms", true)));
    let scope = user("ann");
    process
        .redis(&["EVAL", SWAPPED, "2", "{p}:lw::ann", "{p}:aside"])
        .await;
    let is_gap = |event: &(Position, String, Option<String>)| event.2.is_none();
    let gap = until(|| process.events().into_iter().find(is_gap)).await;
    assert_eq!(gap.1, "user ann");
    process.fanout.remembered().await;
    // Nobody goes on over it; and what comes after it is heard.
    let (_, known, _) = other.end(&scope).await;
    assert_eq!(known.dropped, gap.0.id);
    other.say(&target_of(&scope), "heard").await.unwrap();
    let is_last = |event: &(Position, String, Option<String>)| event.2.is_some();
    let last = until(|| process.events().into_iter().find(is_last)).await;
    assert_eq!(last.2.as_deref(), Some("heard"));
    // Whoever is in time, and comes again, misses nothing; and of thirty who came late, one user
    // has missed something.
    assert!(process.fanout.attend(&ann).is_none());
    let gaps = process.events().into_iter();
    assert_eq!(gaps.filter(is_gap).count(), 1);
}

/// The one key has what the other had.
const SWAPPED: &str = "redis.call('DEL', KEYS[1]) redis.call('RENAME', KEYS[2], KEYS[1]) return 1";

#[tokio::test(flavor = "multi_thread")]
async fn who_is_named_within_a_second_is_told_of_no_gap() {
    let redis = Redis::start();
    let process = Process::start(&redis, 1, settings()).await;
    let attended = process.fanout.attend(&ann()).unwrap();
    attended.await;
    process.fanout.remembered().await;
    let scope = user("ann");
    process.say(&target_of(&scope), "heard").await.unwrap();
    let event = until(|| process.events().into_iter().next()).await;
    assert_eq!(event.2.as_deref(), Some("heard"));
}

#[tokio::test(flavor = "multi_thread")]
async fn of_many_users_those_are_named_again_who_were_let_in_meanwhile_and_no_others() {
    const USERS: usize = 1_000;
    const LATE: usize = 10;
    let redis = Redis::start();
    let process = Process::start(&redis, 1, settings()).await;
    let raw = &process.raw;
    let attend = |name: usize| {
        raw.attend(&UserKey {
            user_id: name.to_string().into(),
            ..ann()
        })
    };
    // So that it knows which line it is.
    raw.attend(&ann());
    raw.write(&mut raw.next_writing().1).await.unwrap();
    process.redis(&["CONFIG", "RESETSTAT"]).await;
    assert!((0..USERS).all(|name| attend(name).is_some()));
    let (_, mut writing) = raw.next_writing();
    // Some are let in while the first of them are named.
    let late = async {
        let mut sessions = locked(&raw.sessions);
        (0..LATE).for_each(|name| sessions.let_in_late(&format!(":{name}")));
    };
    process.redis(&["CLIENT", "PAUSE", "200", "ALL"]).await;
    let (written, ()) = tokio::join!(raw.write(&mut writing), late);
    written.unwrap();
    assert!((0..USERS).all(|name| attend(name).is_none()));
    let said = process.redis(&["INFO", "commandstats"]).await;
    let said = redis::from_redis_value::<String>(said).unwrap();
    let named = said.split("cmdstat_sadd:calls=").nth(1).unwrap();
    let named: usize = named.split(',').next().unwrap().parse().unwrap();
    assert!((USERS..=USERS + LATE).contains(&named), "{named}");
}
