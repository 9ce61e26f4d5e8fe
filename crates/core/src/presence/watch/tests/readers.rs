//! A reader gets a picture, and then each change with the next number; what it may watch has
//! bounds.

use super::*;

#[test]
fn a_reader_gets_a_picture_and_then_each_change_with_the_next_number() {
    let mut board = Board::new(7, 1);
    let scope = users(&["bob", "ann", "bob"]);
    assert!(board.watch(&scope, reader(1), NOW).unwrap());
    fill(&mut board, &scope, |user| found(&[("", user == "ann", 5)]));
    let mut none = |_: Post<'_>| panic!("nothing is told before the answer");
    let answer = board
        .answer(&scope, reader(1), None, (NOW, 9), &mut none)
        .unwrap();
    let told: Vec<(&str, bool, u64)> = (answer.users.iter())
        .map(|user| (&*user.user_id, user.online, user.rev))
        .collect();
    assert_eq!(told, [("ann", true, 5), ("bob", false, 5)]);
    assert_eq!((answer.rev, answer.as_of, answer.stale), (0, 9, false));
    // Behind the answer comes what happened since.
    board.hear(&[edge("bob", "", true, 6)]);
    assert!(flush(&mut board).is_empty());
    let mut posts = Posts::new();
    board.begin(&scope, reader(1), NOW, &mut |post| keep(&mut posts, &post));
    board.hear(&[edge("ann", "", false, 7), edge("eve", "", true, 8)]);
    posts.extend(flush(&mut board));
    let changes: Vec<(u64, &str, bool)> = (posts.iter())
        .map(|(_, change)| {
            assert_eq!(change["epoch"], *answer.epoch);
            let user = &change["users"][0];
            let online = user["online"].as_bool().unwrap();
            (
                change["rev"].as_u64().unwrap(),
                user["userId"].as_str().unwrap(),
                online,
            )
        })
        .collect();
    assert_eq!(changes, [(1, "bob", true), (2, "ann", false)]);
    assert_eq!(posts[1].1["users"][0]["lastSeenAt"], 7);
}

#[test]
fn a_change_that_comes_twice_or_late_is_none_and_a_user_is_online_by_any_type() {
    let mut board = Board::new(7, 1);
    let scope = users(&["ann"]);
    watched(&mut board, &scope, reader(1));
    board.hear(&[
        edge("ann", "rider", true, 5),
        edge("ann", "driver", true, 6),
    ]);
    assert_eq!(flush(&mut board).len(), 1);
    for late in [
        edge("ann", "rider", true, 5),
        edge("ann", "rider", false, 4),
    ] {
        board.hear(&[late]);
        assert!(flush(&mut board).is_empty());
    }
    board.hear(&[edge("ann", "rider", false, 7)]);
    assert_eq!(flush(&mut board)[0].1["users"][0]["online"], true);
    board.hear(&[edge("ann", "driver", false, 8)]);
    assert_eq!(flush(&mut board)[0].1["users"][0]["online"], false);
}

#[test]
fn who_comes_back_in_time_goes_on_and_who_comes_late_gets_a_new_picture() {
    let mut board = Board::new(7, 1);
    let scope = users(&["ann"]);
    let first = watched(&mut board, &scope, reader(1));
    board.gone(reader(1), Micros::ZERO);
    assert!(!board.has_readers());
    board.hear(&[edge("ann", "", true, 5)]);
    flush(&mut board);
    let again = |board: &mut Board, epoch: &str, rev| {
        board.watch(&scope, reader(2), NOW).unwrap();
        let after = Some((epoch, rev));
        board
            .answer(&scope, reader(2), after, (NOW, 1), &mut |_| {})
            .unwrap()
    };
    let answer = again(&mut board, &first.epoch, 0);
    assert!(answer.recovered && answer.users.is_empty());
    assert_eq!((answer.rev, answer.head), (0, 1));
    let mut posts = Posts::new();
    board.begin(&scope, reader(2), NOW, &mut |post| keep(&mut posts, &post));
    assert_eq!((posts.len(), &posts[0].1["rev"]), (1, &Value::from(1)));
    for (epoch, rev) in [("else", 0), (&*first.epoch, 2)] {
        assert!(!again(&mut board, epoch, rev).recovered);
    }
    board.gone(reader(2), Micros::ZERO);
    board.expire(Micros::ZERO + RESTS);
    assert!(board.is_empty() && board.users.is_empty() && board.shown == 0);
}

#[test]
fn who_has_missed_more_than_is_kept_gets_a_new_picture() {
    let mut board = Board::new(7, 1);
    let scope = users(&["ann"]);
    let first = watched(&mut board, &scope, reader(1));
    let mut goes_on = Vec::new();
    for rev in 1..=300 {
        board.hear(&[edge("ann", "", rev % 2 == 1, rev)]);
        flush(&mut board);
        let after = Some((&*first.epoch, 0));
        let answer = board.answer(&scope, reader(1), after, (NOW, 1), &mut |_| {});
        goes_on.push(answer.unwrap().recovered);
        board.begin(&scope, reader(1), NOW, &mut |_| {});
    }
    assert!(goes_on[255] && !goes_on[256]);
    assert!(goes_on.iter().rposition(|goes_on| *goes_on) == Some(255));
}

#[test]
fn what_a_socket_watches_has_bounds_and_its_end_makes_place() {
    let mut board = Board::new(7, 1);
    let many = |from: usize, count: usize| {
        let names = (from..from + count).map(|number| Arc::from(format!("u{number}")));
        Arc::new(Scope::users(None, names))
    };
    for part in 0..MAX_USERS / 100 {
        board.watch(&many(part * 100, 100), reader(1), NOW).unwrap();
    }
    assert_eq!(
        board.watch(&users(&["one"]), reader(1), NOW),
        Err(Refused::TooMuch)
    );
    // The same again is no more, and another socket has its own.
    assert!(board.watch(&many(0, 100), reader(1), NOW).is_ok());
    assert!(board.watch(&users(&["one"]), reader(2), NOW).is_ok());
    assert!(board.unwatch(&many(0, 100), reader(1), Micros::ZERO));
    assert!(board.watch(&users(&["one"]), reader(1), NOW).is_ok());
    let long = [&*"x".repeat(MAX_BYTES + 1)];
    assert_eq!(
        board.watch(&users(&long), reader(3), NOW),
        Err(Refused::TooMuch)
    );
    for number in 0..MAX_WATCHES {
        let place = Scope::room(None, "/".into(), format!("{number}").into());
        board.watch(&Arc::new(place), reader(4), NOW).unwrap();
    }
    assert_eq!(board.watch(&room(), reader(4), NOW), Err(Refused::TooMuch));
}

#[test]
fn users_of_other_tenants_are_other_users() {
    let mut board = Board::new(7, 1);
    let scope = users(&["ann"]);
    watched(&mut board, &scope, reader(1));
    let mut other = edge("ann", "", true, 5);
    other.user = Arc::new(UserKey {
        tenant_id: Some("t".into()),
        ..UserKey::clone(&other.user)
    });
    assert!(!board.hear(&[other]));
    assert!(flush(&mut board).is_empty());
}

#[test]
fn who_was_thought_gone_is_there_again_when_their_node_has_said_so_to_nodes_alone() {
    let mut board = Board::new(7, 1);
    let scope = users(&["ann"]);
    board.watch(&scope, reader(1), NOW).unwrap();
    // Their record was lost when it was asked for.
    fill(&mut board, &scope, |_| found(&[]));
    let mut nobody = |_: Post<'_>| {};
    let picture = board
        .answer(&scope, reader(1), None, (NOW, 9), &mut nobody)
        .unwrap();
    assert!(!picture.users[0].online);
    board.begin(&scope, reader(1), NOW, &mut nobody);
    let mended = Edge {
        others: Some([].into_iter().collect()),
        ..edge("ann", "", true, 8)
    };
    assert!(board.hear(std::slice::from_ref(&mended)));
    let posts = flush(&mut board);
    assert_eq!(posts[0].1["users"][0]["online"], true);
    // As a user who comes into one more room.
    assert!(!board.hear(&[mended]), "that is known");
}

#[test]
fn whoever_watches_what_is_still_being_asked_about_waits_for_that_as_well() {
    let mut board = Board::new(7, 1);
    let scope = users(&["ann"]);
    assert_eq!(board.watch(&scope, reader(1), NOW), Ok(true));
    // A turn comes before anybody was asked about.
    assert!(flush(&mut board).is_empty());
    assert_eq!(board.watch(&scope, reader(2), NOW), Ok(true));
    assert_eq!(board.unknown(&scope), ["ann".into()]);
    fill(&mut board, &scope, |_| found(&[("", true, 5)]));
    for who in [reader(1), reader(2)] {
        let answer = board.answer(&scope, who, None, (NOW, 1), &mut |_| {});
        assert_eq!(answer.unwrap().users.len(), 1);
    }
    assert_eq!(board.watch(&scope, reader(3), NOW), Ok(false));
}

#[test]
fn what_a_change_costs_grows_as_those_who_watch_the_user_do_and_no_faster() {
    // Each watches a list of their own, in which all have the same user.
    let spent = |watchers: u32| {
        let mut board = Board::new(7, 1);
        for number in 0..watchers {
            let own = (0..9).map(|own| Arc::from(format!("u{number}-{own}")));
            let list = own.chain([Arc::from("support")]);
            let scope = Arc::new(Scope::users(None, list));
            watched(&mut board, &scope, reader(number));
        }
        let mut told = 0;
        let begun = std::time::Instant::now();
        for rev in 1..=4 {
            board.hear(&[edge("support", "", rev % 2 == 1, rev)]);
            board.flush(NOW, 1, &mut |post| told += post.readers.len());
        }
        assert_eq!(told, watchers as usize * 4);
        begun.elapsed()
    };
    let few = (0..3).map(|_| spent(500)).min().unwrap();
    let many = spent(10_000);
    // Twenty times as many: with each compared with each, it is four hundred times as much.
    assert!(many < few * 100, "{few:?} for 500, {many:?} for 10 000");
}

#[test]
fn a_change_that_is_too_large_to_keep_is_seen_to_be_missing() {
    let mut board = Board::new(7, 1);
    let names: Vec<String> = (0..600).map(|id| format!("{id:0100}")).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let scope = users(&names);
    let first = watched(&mut board, &scope, reader(1));
    let goes_on = |board: &mut Board, who, rev| {
        let after = Some((&*first.epoch, rev));
        board.watch(&scope, who, NOW).unwrap();
        let answer = board.answer(&scope, who, after, (NOW, 1), &mut |_| {});
        answer.unwrap()
    };
    let answer = goes_on(&mut board, reader(2), 0);
    assert_eq!((answer.recovered, answer.rev), (true, 0));
    // All come between the answer and what follows it.
    let edges: Vec<Edge> = names.iter().map(|name| edge(name, "", true, 5)).collect();
    board.hear(&edges);
    assert_eq!(flush(&mut board).len(), 1);
    let mut posts = Posts::new();
    board.begin(&scope, reader(2), NOW, &mut |post| keep(&mut posts, &post));
    assert_eq!(posts.len(), 1, "{posts:?}");
    let (who, change) = &posts[0];
    assert_eq!((*who, &change["ended"]), (reader(2), &"TIMEOUT".into()));
    // Whoever asks again from there has missed nothing.
    assert_eq!(change["rev"], 0);
    let again = goes_on(&mut board, reader(2), 0);
    assert_eq!((again.recovered, again.users.len()), (false, 600));
    assert!(goes_on(&mut board, reader(1), 1).recovered);
}
