use std::collections::{BTreeMap, VecDeque};

use heartline_wire::id::{ConnId, Sid, Slot};
use proptest::prelude::*;
use serde_json::Value;

use super::*;
use crate::auth::UserKey;
use crate::backplane::MAX_TO_NODES;
use crate::entries::{TypePresence, UserPresence};
use crate::presence::audit::Believed;
use crate::presence::edge::Edge;

/// Where it does not matter when.
const NOW: Micros = Micros::ZERO;
const NAMES: [&str; 3] = ["ann", "bob", "cid"];

fn reader(slot: u32) -> SocketAddress {
    SocketAddress(Sid {
        conn: ConnId {
            shard: 0,
            slot: Slot(slot),
            generation: 0,
        },
        namespace: 0,
        secret: [0; 12],
    })
}

fn users(names: &[&str]) -> Arc<Scope> {
    Arc::new(Scope::users(
        None,
        names.iter().map(|name| Arc::from(*name)),
    ))
}

fn room() -> Arc<Scope> {
    Arc::new(Scope::room(None, "/".into(), "r".into()))
}

fn edge(user: &str, user_type: &str, online: bool, rev: u64) -> Edge {
    Edge {
        user: Arc::new(UserKey {
            tenant_id: None,
            user_id: user.into(),
            user_type: Some(user_type)
                .filter(|kind| !kind.is_empty())
                .map(Into::into),
        }),
        online,
        rev,
        at: rev,
        number: 0,
        rooms: Vec::new(),
        others: None,
    }
}

fn found(types: &[(&str, bool, u64)]) -> UserPresence {
    let types: Vec<TypePresence> = (types.iter())
        .map(|(kind, online, rev)| TypePresence {
            user_type: Some(*kind).filter(|kind| !kind.is_empty()).map(Into::into),
            online: *online,
            rev: *rev,
            ..TypePresence::default()
        })
        .collect();
    UserPresence {
        user_id: String::new(),
        online: types.iter().any(|one| one.online),
        devices: 0,
        last_seen_at: None,
        rev: types.iter().map(|one| one.rev).max().unwrap_or(0),
        stale: false,
        types,
    }
}

/// What was posted to whom, in its order.
type Posts = Vec<(SocketAddress, Value)>;

fn flush(board: &mut Board) -> Posts {
    let mut posts = Posts::new();
    board.flush(NOW, 1, &mut |post| keep(&mut posts, &post));
    posts
}

fn keep(posts: &mut Posts, post: &Post<'_>) {
    let change: Value = serde_json::from_str(post.change).unwrap();
    posts.extend(post.readers.iter().map(|reader| (*reader, change.clone())));
}

fn fill(board: &mut Board, scope: &Arc<Scope>, found: impl Fn(&str) -> UserPresence) {
    let unknown = board.unknown(scope);
    let question = board.ask(None, unknown);
    let answers: Vec<UserPresence> = question.users.iter().map(|user| found(user)).collect();
    board.learn(&question, &answers, 1);
}

/// Watches from now on; what the reader is told first.
fn watched(board: &mut Board, scope: &Arc<Scope>, who: SocketAddress) -> Answer {
    board.watch(scope, who, NOW).unwrap();
    fill(board, scope, |_| found(&[]));
    let answer = board
        .answer(scope, who, None, (NOW, 1), &mut |_| {})
        .unwrap();
    board.begin(scope, who, NOW, &mut |_| {});
    answer
}

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
fn an_audit_sees_what_readers_believe_of_others_each_time_but_not_what_is_said_to_be_stale() {
    let mut board = Board::new(7, 1);
    let scope = users(&["ann", "bob", "eve"]);
    watched(&mut board, &scope, reader(1));
    let mut seen: Vec<Believed> = (0..3).flat_map(|_| board.believed(&[], 1)).collect();
    seen.sort_by(|one, other| one.who.user.cmp(&other.who.user));
    let names: Vec<&str> = seen.iter().map(|seen| &*seen.who.user).collect();
    assert_eq!(names, ["ann", "bob", "eve"]);
    board.hear(&[edge("bob", "", true, 6)]);
    let bob = [seen[1].who.clone()];
    let believes = |board: &mut Board| {
        let seen = board.believed(&bob, 0);
        seen.first().map(|seen| (seen.online, seen.rev))
    };
    assert_eq!(
        believes(&mut board),
        Some((false, 0)),
        "it was not told yet"
    );
    flush(&mut board);
    assert_eq!(believes(&mut board), Some((true, 6)));
    assert_eq!(board.believed(&bob, 9).len(), 3, "each is seen once");
    board.distrust(1);
    flush(&mut board);
    assert_eq!(believes(&mut board), None);
    board.trust(board.doubt());
    assert_eq!(believes(&mut board), None, "readers do not know that yet");
    flush(&mut board);
    assert_eq!(believes(&mut board), Some((true, 6)));
    board.gone(reader(1), Micros::ZERO);
    assert_eq!(believes(&mut board), None, "nobody believes anything");
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
fn a_node_in_doubt_says_so_and_says_when_it_is_over() {
    let mut board = Board::new(7, 1);
    let scope = users(&["ann"]);
    watched(&mut board, &scope, reader(1));
    board.distrust(40);
    let posts = flush(&mut board);
    assert_eq!(
        (&posts[0].1["stale"], &posts[0].1["asOf"]),
        (&true.into(), &40.into())
    );
    let questions = board.questions(100);
    board.hear(&[edge("ann", "", true, 5)]);
    // What was heard since is not undone by an answer that does not mention it.
    board.learn(&questions[0], &[found(&[])], 1);
    board.trust(board.doubt());
    let posts = flush(&mut board);
    assert_eq!(posts.len(), 1);
    assert!(posts[0].1.get("stale").is_none());
    assert_eq!(posts[0].1["users"][0]["online"], true);
    // And one that was asked later tells of what was forgotten.
    let questions = board.questions(100);
    board.learn(&questions[0], &[found(&[])], 1);
    assert_eq!(flush(&mut board)[0].1["users"][0]["online"], false);
}

/// A room that is watched, on a node alone.
fn watched_room(board: &mut Board, members: &[&str]) -> Answer {
    let scope = room();
    board.watch(&scope, reader(1), NOW).unwrap();
    board.follow(&scope);
    let members = members.iter().map(|user| Arc::from(*user)).collect();
    board.seed_here(&scope, 0, members);
    board.know_nodes(&[], Micros::ZERO);
    fill(board, &scope, |_| found(&[("", true, 1)]));
    let answer = board.answer(&scope, reader(1), None, (NOW, 1), &mut |_| {});
    board.begin(&scope, reader(1), NOW, &mut |_| {});
    answer.unwrap()
}

#[test]
fn of_a_room_it_is_told_who_comes_who_leaves_and_who_goes() {
    let mut board = Board::new(7, 1);
    let scope = room();
    let answer = watched_room(&mut board, &["ann", "ann", "bob"]);
    assert_eq!(answer.users.len(), 2);
    let ann = Arc::from("ann");
    board.note(&scope, 0, &ann, false);
    assert!(flush(&mut board).is_empty(), "another socket is there");
    board.note(&scope, 0, &ann, false);
    let posts = flush(&mut board);
    assert_eq!(posts[0].1["users"][0]["in"], false);
    // Of who has left it is still told when they go, and then no more.
    board.hear(&[edge("ann", "", false, 5)]);
    assert_eq!(flush(&mut board)[0].1["users"][0]["online"], false);
    board.hear(&[edge("ann", "", true, 6)]);
    assert!(flush(&mut board).is_empty());
    board.note(&scope, 0, &Arc::from("cid"), true);
    assert!(flush(&mut board).is_empty(), "it is asked first");
    let question = board.next_question(100).unwrap();
    board.learn(&question, &[found(&[("", true, 3)])], 1);
    assert_eq!(flush(&mut board)[0].1["users"][0]["userId"], "cid");
}

#[test]
fn a_room_stands_at_what_is_certain_while_a_node_has_not_said_who_is_in_it_there() {
    let later = |seconds| Micros::ZERO + Duration::from_secs(seconds);
    let tell = |board: &mut Board, as_of: u64| {
        let mut posts = Posts::new();
        board.flush(NOW, as_of, &mut |post| keep(&mut posts, &post));
        let told = posts.into_iter().map(|(_, told)| told);
        told.map(|told| (told["asOf"].as_u64().unwrap(), told.get("stale").is_some()))
            .collect::<Vec<_>>()
    };
    let comes = |board: &mut Board, who: &str| {
        board.note(&room(), 0, &Arc::from(who), true);
        let question = board.next_question(100).unwrap();
        board.learn(&question, &[found(&[("", true, 1)])], 1);
    };
    let mut board = Board::new(1, 1);
    watched_room(&mut board, &["ann"]);
    assert_eq!(tell(&mut board, 100), []);
    // Another node has come since.
    board.know_nodes(&[2], later(1));
    assert_eq!(tell(&mut board, 200), [(100, true)]);
    comes(&mut board, "bob");
    assert_eq!(tell(&mut board, 300), [(100, true)]);
    board.watch(&room(), reader(2), NOW).unwrap();
    let answer = board.answer(&room(), reader(2), None, (NOW, 400), &mut |_| {});
    let answer = answer.unwrap();
    assert_eq!((answer.as_of, answer.stale), (100, true));
    let (mut other, now) = (Board::new(2, 1), later(2));
    for note in board.notes(now) {
        if let Some(scope) = other.noted(1, note, now) {
            other.seed_here(&scope, 0, Vec::new());
        }
    }
    for note in other.notes(now) {
        board.noted(2, note, now);
    }
    assert_eq!(tell(&mut board, 500), [(500, false)]);
    // And so it does when something that was said is lost.
    board.ask_again(later(3));
    assert_eq!(tell(&mut board, 600), [(500, true)]);
    assert_eq!(tell(&mut board, 700), []);
    comes(&mut board, "cid");
    assert_eq!(tell(&mut board, 800), [(500, true)]);
}

#[test]
fn a_room_of_too_many_is_not_watched_any_more() {
    let mut board = Board::new(7, 1);
    let scope = room();
    watched_room(&mut board, &["ann"]);
    for number in 0..MAX_IN_ROOM {
        board.note(&scope, 0, &Arc::from(format!("u{number}")), true);
    }
    while let Some(question) = board.next_question(100) {
        let all = vec![found(&[("", true, 1)]); question.users.len()];
        board.learn(&question, &all, 1);
    }
    let posts = flush(&mut board);
    assert_eq!(posts.last().unwrap().1["ended"], "TOO_LARGE");
    assert!(!board.has_readers() && board.shown == 0);
}

#[test]
fn what_nodes_say_of_a_room_keeps_to_its_bound_however_many_come_at_once() {
    let (mut board, mut other) = (Board::new(1, 1), Board::new(2, 1));
    let (scope, now) = (room(), Micros::ZERO + Duration::from_secs(1));
    watched_room(&mut board, &["ann"]);
    for note in board.notes(now) {
        if let Some(scope) = other.noted(1, note, now) {
            other.seed_here(&scope, 0, vec!["bob".into()]);
        }
    }
    assert_eq!(other.notes(now).len(), 1);
    // Longest ids, each byte of which is escaped.
    let user = |number: usize| Arc::from(format!("{number:06}{}", "\"".repeat(250)));
    let said = |enters: bool, other: &mut Board| {
        for number in 0..3 * MAX_IN_ROOM {
            other.note(&scope, 0, &user(number), enters);
        }
        let notes = other.notes(now);
        let bytes = notes.iter();
        let bytes = bytes.map(|note| serde_json::to_string(&(1, note)).unwrap().len());
        bytes.collect::<Vec<usize>>()
    };
    for enters in [true, false] {
        let bytes = said(enters, &mut other);
        assert_eq!(bytes.len(), 1);
        assert!(bytes[0] <= MAX_TO_NODES, "{bytes:?}");
    }
}

#[test]
fn that_too_many_are_in_a_room_is_found_before_they_are_asked_about_and_remembered_a_while() {
    let at = |seconds: u64| Micros(seconds * 1_000_000);
    let mut board = Board::new(7, 1);
    let scope = room();
    let many = || (0..=MAX_IN_ROOM).map(|number| Arc::from(format!("u{number}")));
    let attempt = |board: &mut Board, now: Micros| {
        board.watch(&scope, reader(1), now)?;
        board.follow(&scope);
        board.seed_here(&scope, 0, many().collect());
        assert_eq!(board.next_question(100), None, "it is known already");
        let answer = board.answer(&scope, reader(1), None, (now, 1), &mut |_| {});
        board.unwatch(&scope, reader(1), now);
        answer.map(|_| ())
    };
    for now in [at(1), at(2), at(10), at(11)] {
        assert_eq!(attempt(&mut board, now), Err(Refused::TooManyInRoom));
        let is_known = board.watch(&scope, reader(2), now);
        assert_eq!(is_known, Err(Refused::TooManyInRoom));
    }
    assert!(board.logs.is_empty() && !board.has_readers());
    // One that grows while it is watched is remembered as well.
    let mut board = Board::new(7, 1);
    watched_room(&mut board, &["ann"]);
    for user in many() {
        board.note(&scope, 0, &user, true);
    }
    while let Some(question) = board.next_question(100) {
        let all = vec![found(&[("", true, 1)]); question.users.len()];
        board.learn(&question, &all, 1);
    }
    board.flush(at(5), 1, &mut |_| {});
    let again = |board: &mut Board, now| board.watch(&scope, reader(1), now);
    assert_eq!(again(&mut board, at(14)), Err(Refused::TooManyInRoom));
    assert_eq!(again(&mut board, at(15)), Ok(true));
    // No more are remembered than there is place for.
    for number in 0..=MAX_LARGE {
        let scope = Scope::room(None, "/".into(), number.to_string().into());
        board.note_large(&Arc::new(scope), at(15));
    }
    assert_eq!(board.large.len(), MAX_LARGE);
    board.expire(at(26));
    assert!(board.large.is_empty());
}

#[test]
fn a_node_that_is_no_more_has_nobody_in_a_room() {
    let mut board = Board::new(1, 1);
    let mut other = Board::new(2, 1);
    let scope = room();
    watched_room(&mut board, &["ann"]);
    let now = Micros::ZERO + Duration::from_secs(1);
    board.know_nodes(&[2], now);
    assert!(board.is_in_doubt(&scope));
    for note in board.notes(now) {
        if let Some(scope) = other.noted(1, note, now) {
            other.seed_here(&scope, 0, vec!["bob".into()]);
        }
    }
    for note in other.notes(now) {
        board.noted(2, note, now);
    }
    let bob = Arc::from("bob");
    assert!(!board.is_in_doubt(&scope) && board.follows[&scope].is_in(&bob));
    board.know_nodes(&[2], now);
    assert!(board.follows[&scope].is_in(&bob));
    board.know_nodes(&[], now);
    assert!(!board.follows[&scope].is_in(&bob) && !board.is_in_doubt(&scope));
}

/// A room that is watched on a node of many, which has begun, and what the other is to be told.
fn watched_room_of_many(board: &mut Board, now: Micros) -> (Arc<Scope>, Vec<Note>) {
    let scope = room();
    board.watch(&scope, reader(1), NOW).unwrap();
    board.follow(&scope);
    board.seed_here(&scope, 0, vec!["ann".into()]);
    let notes = board.notes(now);
    fill(board, &scope, |_| found(&[("", true, 1)]));
    board
        .answer(&scope, reader(1), None, (NOW, 1), &mut |_| {})
        .unwrap();
    board.begin(&scope, reader(1), NOW, &mut |_| {});
    (scope, notes)
}

#[test]
fn a_room_is_not_complete_until_it_is_known_which_nodes_there_are() {
    let at = |millis: u64| Micros(millis * 1_000);
    let (mut board, mut other) = (Board::new(1, 1), Board::new(2, 1));
    let (scope, _) = watched_room_of_many(&mut board, at(1));
    assert!(board.is_in_doubt(&scope) && board.wants_nodes(at(1)));
    // Nobody could be asked. Then the store is back, and what was known before it is not enough.
    board.distrust(1);
    board.ask_again(at(500));
    board.know_nodes(&[], at(400));
    board.trust(board.doubt());
    for (_, change) in flush(&mut board) {
        assert_eq!(change["stale"], true, "{change}");
    }
    assert!(board.wants_nodes(at(510)));
    assert!(!board.wants_nodes(at(520)) && board.wants_nodes(at(760)));
    board.know_nodes(&[2], at(760));
    for note in board.notes(at(800)) {
        if let Some(scope) = other.noted(1, note, at(800)) {
            other.seed_here(&scope, 0, vec!["bob".into()]);
        }
    }
    assert!(board.is_in_doubt(&scope));
    for note in other.notes(at(800)) {
        board.noted(2, note, at(800));
    }
    fill(&mut board, &scope, |_| found(&[("", true, 1)]));
    let posts = flush(&mut board);
    let (_, change) = posts.last().unwrap();
    assert!(change.get("stale").is_none(), "{change}");
    assert_eq!(change["users"][0]["userId"], "bob");
}

#[test]
fn a_node_that_has_begun_since_the_list_was_asked_for_is_waited_for() {
    let at = |millis: u64| Micros(millis * 1_000);
    let mut board = Board::new(1, 1);
    let (scope, _) = watched_room_of_many(&mut board, at(1));
    board.know_nodes(&[], at(100));
    assert!(!board.is_in_doubt(&scope));
    board.noted(2, Note::Begun, at(200));
    board.know_nodes(&[], at(150));
    assert!(board.is_in_doubt(&scope));
    // It has gone again.
    board.know_nodes(&[], at(300));
    assert!(!board.is_in_doubt(&scope));
}

#[test]
fn a_node_does_not_say_who_is_in_a_room_before_all_its_shards_have() {
    let now = Micros(1_000);
    let (mut board, mut other) = (Board::new(1, 1), Board::new(2, 2));
    let (scope, notes) = watched_room_of_many(&mut board, now);
    board.know_nodes(&[2], now);
    for note in notes {
        other.noted(1, note, now);
    }
    assert_eq!(other.notes(now), []);
    other.seed_here(&scope, 0, Vec::new());
    assert_eq!(other.notes(now), []);
    assert!(board.is_in_doubt(&scope));
    other.seed_here(&scope, 1, vec!["bob".into()]);
    for note in other.notes(now) {
        board.noted(2, note, now);
    }
    assert!(!board.is_in_doubt(&scope) && board.follows[&scope].is_in(&"bob".into()));
    // Nor is its own picture complete before that.
    let mut alone = Board::new(3, 2);
    alone.watch(&scope, reader(1), NOW).unwrap();
    alone.follow(&scope);
    alone.know_nodes(&[], now);
    alone.seed_here(&scope, 0, Vec::new());
    assert!(alone.is_in_doubt(&scope));
    alone.seed_here(&scope, 1, Vec::new());
    assert!(!alone.is_in_doubt(&scope));
}

/// A client's mirror, as the one in `clients/js`.
#[derive(Debug, Default)]
struct Client {
    socket: u32,
    place: Option<(String, u64)>,
    head: u64,
    users: BTreeMap<String, bool>,
    stale: bool,
    /// What is on its way.
    inbox: VecDeque<Value>,
    /// Something was lost that no later change has shown yet.
    has_lost: bool,
    is_asking: bool,
}

impl Client {
    fn hear(&mut self, change: &Value) {
        let rev = change["rev"].as_u64().unwrap();
        let Some((epoch, at)) = self.place.clone() else {
            return;
        };
        if change["epoch"] != *epoch || rev <= at || self.is_asking {
            return;
        }
        self.is_asking = rev > at + 1;
        if !self.is_asking {
            self.place = Some((epoch, rev));
            self.stale = change.get("stale").is_some();
            for user in change["users"].as_array().unwrap() {
                let name = user["userId"].as_str().unwrap().to_owned();
                self.users.insert(name, user["online"].as_bool().unwrap());
            }
        }
    }

    fn is_complete(&self) -> bool {
        let place = self.place.as_ref();
        place.is_some_and(|(_, rev)| *rev >= self.head) && !self.stale && !self.is_asking
    }
}

/// One node, its clients, and what is true.
struct World {
    board: Board,
    runs: u32,
    sockets: u32,
    clients: Vec<Client>,
    /// By user and type.
    truth: BTreeMap<(&'static str, &'static str), (bool, u64)>,
    rev: u64,
    stream: VecDeque<Edge>,
    /// Questions that were asked, with what was true then.
    asked: Vec<(Question, Vec<UserPresence>)>,
    /// The doubt because of which they were.
    checking: Option<u64>,
}

impl World {
    fn new() -> World {
        World {
            board: Board::new(0, 1),
            runs: 0,
            sockets: 0,
            clients: Vec::new(),
            truth: BTreeMap::new(),
            rev: 0,
            stream: VecDeque::new(),
            asked: Vec::new(),
            checking: None,
        }
    }

    fn look_up(&self, user: &str) -> UserPresence {
        let types = self.truth.iter().filter(|((of, _), _)| *of == user);
        // Who has been offline for long is forgotten.
        let types = types.filter(|(_, (online, rev))| *online || rev % 3 > 0);
        let types: Vec<_> = types
            .map(|((_, kind), (online, rev))| (*kind, *online, *rev))
            .collect();
        found(&types)
    }

    fn post(&mut self, posts: Posts) {
        for (to, change) in posts {
            let found = self.clients.iter_mut();
            let mut found = found.filter(|client| client.socket == to.0.conn.slot.0);
            if let Some(client) = found.next() {
                client.inbox.push_back(change);
            }
        }
    }

    fn flush(&mut self) {
        let posts = flush(&mut self.board);
        self.post(posts);
    }

    /// A client asks, and is answered.
    fn ask(&mut self, index: usize) {
        let scope = users(&NAMES);
        let who = reader(self.clients[index].socket);
        self.board.watch(&scope, who, NOW).unwrap();
        let unknown = self.board.unknown(&scope);
        let question = self.board.ask(None, unknown);
        let answers: Vec<_> = (question.users.iter())
            .map(|user| self.look_up(user))
            .collect();
        self.board.learn(&question, &answers, 1);
        let place = self.clients[index].place.clone();
        let after = place.as_ref().map(|(epoch, rev)| (&**epoch, *rev));
        let mut posts = Posts::new();
        let mut post = |post: Post<'_>| keep(&mut posts, &post);
        let answer = self.board.answer(&scope, who, after, (NOW, 1), &mut post);
        let answer = answer.unwrap();
        self.board.begin(&scope, who, NOW, &mut post);
        self.post(posts);
        let client = &mut self.clients[index];
        if !answer.recovered {
            client.users.clear();
            let all = answer.users.iter();
            client
                .users
                .extend(all.map(|user| (user.user_id.to_string(), user.online)));
        }
        client.place = Some((answer.epoch, answer.rev));
        client.head = answer.head;
        client.stale = answer.stale;
        (client.is_asking, client.has_lost) = (false, false);
    }

    fn reconnect(&mut self, index: usize) {
        self.sockets += 1;
        let client = &mut self.clients[index];
        let before = std::mem::replace(&mut client.socket, self.sockets);
        client.inbox.clear();
        // Nothing comes, and it knows that.
        client.stale = true;
        self.board.gone(reader(before), Micros::ZERO);
    }

    fn step(&mut self, what: u8, which: usize) {
        let user = NAMES[which % 3];
        match what {
            0..=3 => {
                self.rev += 1;
                let kind = ["", "x"][which / 3 % 2];
                let state = self.truth.entry((user, kind)).or_default();
                *state = (!state.0, self.rev);
                self.stream.push_back(edge(user, kind, state.0, self.rev));
            }
            4 | 5 => {
                let edges: Vec<Edge> = self.stream.drain(..).collect();
                self.board.hear(&edges);
                if which.is_multiple_of(4) {
                    self.board.hear(&edges);
                }
            }
            6 => {
                // Lost; the node knows only that.
                if self.stream.pop_front().is_some() {
                    self.board.distrust(1);
                }
            }
            7 => {
                self.checking = Some(self.board.doubt());
                let questions = self.board.questions(2);
                let truth = |question: &Question| {
                    let all = question.users.iter();
                    all.map(|user| self.look_up(user)).collect()
                };
                self.asked = (questions.into_iter())
                    .map(|question| {
                        let found = truth(&question);
                        (question, found)
                    })
                    .collect();
            }
            8 => {
                if let Some((question, found)) = self.asked.pop() {
                    self.board.learn(&question, &found, 1);
                }
                if let Some(doubt) = self.checking.filter(|_| self.asked.is_empty()) {
                    self.checking = None;
                    self.board.trust(doubt);
                }
            }
            9 if self.clients.len() < 4 => {
                self.sockets += 1;
                self.clients.push(Client {
                    socket: self.sockets,
                    ..Client::default()
                });
                self.ask(self.clients.len() - 1);
            }
            10 if !self.clients.is_empty() => self.reconnect(which % self.clients.len()),
            11 if which.is_multiple_of(8) => {
                self.runs += 1;
                self.board = Board::new(self.runs, 1);
                self.checking = None;
                self.asked.clear();
                self.stream.clear();
                (0..self.clients.len()).for_each(|index| self.reconnect(index));
            }
            12 => {
                if let Some(client) = self.clients.iter_mut().find(|one| !one.inbox.is_empty()) {
                    client.inbox.pop_front();
                    client.has_lost = true;
                }
            }
            _ => {
                for index in 0..self.clients.len() {
                    let client = &self.clients[index];
                    let is_new = !self.board.readers.contains_key(&reader(client.socket));
                    if is_new || client.is_asking {
                        self.ask(index);
                    }
                }
            }
        }
        self.flush();
        for client in &mut self.clients {
            while let Some(change) = client.inbox.pop_front() {
                client.hear(&change);
            }
            // The next change shows what was lost.
            client.has_lost &= !client.is_asking;
        }
    }

    fn online(&self, user: &str) -> bool {
        let mut types = self.truth.iter().filter(|((of, _), _)| *of == user);
        types.any(|(_, (online, _))| *online)
    }

    fn check(&self) -> Result<usize, TestCaseError> {
        if !self.stream.is_empty() {
            return Ok(0);
        }
        let complete = self.clients.iter();
        let complete = complete.filter(|client| client.is_complete() && !client.has_lost);
        let mut checked = 0;
        for client in complete {
            for user in NAMES {
                let shown = client.users.get(user).copied();
                prop_assert_eq!(shown, Some(self.online(user)), "{} of {:?}", user, client);
                checked += 1;
            }
        }
        Ok(checked)
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    #[test]
    fn nobody_is_shown_wrong_in_a_picture_that_is_complete(
        steps in prop::collection::vec((0u8..16, 0usize..24), 1..120)
    ) {
        let mut world = World::new();
        for (what, which) in steps {
            world.step(what, which);
            world.check()?;
        }
        // And all are complete again once everything goes through.
        for what in [4, 7, 8, 8, 8, 13, 13] {
            world.step(what, 1);
        }
        for client in &mut world.clients {
            // A tail that was lost is seen with the next change only.
            if client.has_lost {
                client.is_asking = true;
            }
        }
        world.step(13, 1);
        prop_assert_eq!(world.check()?, world.clients.len() * NAMES.len());
    }

    #[test]
    fn nodes_agree_on_who_is_in_a_room_whatever_was_lost_between_them(
        steps in prop::collection::vec((0u8..8, 0usize..3, 0usize..3), 1..80)
    ) {
        let scope = room();
        let mut now = Micros::ZERO;
        let mut nodes: Vec<Board> = (0..3).map(|run| Board::new(run, 1)).collect();
        for board in &mut nodes {
            board.watch(&scope, reader(1), NOW).unwrap();
            board.follow(&scope);
            board.seed_here(&scope, 0, Vec::new());
        }
        let mut there = [[false; 3]; 3];
        let exchange = |nodes: &mut Vec<Board>, now: Micros, loses: bool| {
            for from in 0..3 {
                let others: Vec<u32> = (0..3).filter(|node| *node != from).collect();
                nodes[from as usize].know_nodes(&others, now);
                for note in nodes[from as usize].notes(now) {
                    for to in &others {
                        if !loses || !(now.0 / 7 + u64::from(*to)).is_multiple_of(3) {
                            nodes[*to as usize].noted(from, note.clone(), now);
                        }
                    }
                }
            }
        };
        for (what, node, user) in steps {
            now += Duration::from_millis(1 + u64::from(what) * 900);
            if what < 5 {
                let enters = !there[node][user];
                there[node][user] = enters;
                nodes[node].note(&scope, 0, &Arc::from(NAMES[user]), enters);
            }
            exchange(&mut nodes, now, what % 2 == 0);
            nodes.iter_mut().for_each(|board| board.expire(now));
        }
        for _ in 0..8 {
            now += Duration::from_secs(11);
            exchange(&mut nodes, now, false);
            exchange(&mut nodes, now, false);
            nodes.iter_mut().for_each(|board| board.expire(now));
        }
        for board in &nodes {
            prop_assert!(!board.is_in_doubt(&scope));
            for (user, name) in NAMES.iter().enumerate() {
                let expected = there.iter().any(|node| node[user]);
                prop_assert_eq!(board.follows[&scope].is_in(&Arc::from(*name)), expected);
            }
        }
    }
}

#[test]
fn a_lost_word_of_a_room_that_a_node_had_forgotten_is_noticed() {
    let scope = room();
    let at = |seconds: u64| Micros(seconds * 1_000_000);
    let (mut watching, mut speaking) = (Board::new(0, 1), Board::new(1, 1));
    watching.watch(&scope, reader(1), NOW).unwrap();
    watching.follow(&scope);
    watching.seed_here(&scope, 0, Vec::new());
    let tell = |watching: &mut Board, speaking: &mut Board, now: Micros, is_lost: bool| {
        watching.know_nodes(&[1], now);
        for note in watching.notes(now) {
            if speaking.noted(0, note, now).is_some() {
                speaking.seed_here(&scope, 0, vec!["ann".into()]);
            }
        }
        let said = speaking.notes(now).into_iter();
        for note in said.filter(|_| !is_lost) {
            watching.noted(1, note, now);
        }
    };
    tell(&mut watching, &mut speaking, at(1), false);
    assert!(watching.follows[&scope].is_in(&"ann".into()));
    // The speaking node hears for so long of nobody who watches that it forgets the room.
    speaking.expire(at(67));
    assert!(!speaking.follows.contains_key(&scope));
    // What it says first when it is asked again is lost, and what it says next is not.
    tell(&mut watching, &mut speaking, at(67), true);
    speaking.note(&scope, 0, &"ann".into(), false);
    speaking.note(&scope, 0, &"bob".into(), true);
    tell(&mut watching, &mut speaking, at(68), false);
    assert!(watching.is_in_doubt(&scope));
    tell(&mut watching, &mut speaking, at(80), false);
    assert!(!watching.is_in_doubt(&scope));
    for (user, is_in) in [("ann", false), ("bob", true)] {
        assert_eq!(watching.follows[&scope].is_in(&user.into()), is_in);
    }
}

#[test]
fn a_store_that_went_back_in_time_is_believed_when_it_is_asked_again() {
    let mut board = Board::new(7, 1);
    let scope = users(&["ann"]);
    board.watch(&scope, reader(1), NOW).unwrap();
    fill(&mut board, &scope, |_| found(&[("", true, 5)]));
    board
        .answer(&scope, reader(1), None, (NOW, 9), &mut |_| {})
        .unwrap();
    board.begin(&scope, reader(1), NOW, &mut |_| {});
    // Said by a master whose last moments are lost with it.
    board.hear(&[edge("ann", "", false, 8)]);
    flush(&mut board);
    board.distrust(9);
    flush(&mut board);
    let question = board.ask(None, vec!["ann".into()]);
    board.learn(&question, &[found(&[("", true, 5)])], 1);
    board.trust(board.doubt());
    let posts = flush(&mut board);
    let (_, change) = posts.last().unwrap();
    assert_eq!(change["users"][0]["online"], true, "{change}");
}

#[test]
fn a_room_is_complete_again_when_everybody_in_it_has_been_asked_about() {
    let mut board = Board::new(7, 1);
    let scope = room();
    watched_room(&mut board, &["bob"]);
    board.distrust(9);
    flush(&mut board);
    board.note(&scope, 0, &"ann".into(), true);
    board.trust(board.doubt());
    for (_, change) in flush(&mut board) {
        assert_eq!(change["stale"], true, "{change}");
    }
    let question = board.next_question(100).unwrap();
    board.learn(&question, &[found(&[("", true, 5)])], 1);
    let posts = flush(&mut board);
    let (_, change) = posts.last().unwrap();
    assert_eq!(change["users"][0]["userId"], "ann");
    assert!(change.get("stale").is_none(), "{change}");
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
fn until_when_nothing_is_missing_does_not_go_back_unless_it_was_wrong() {
    let mut board = Board::new(7, 1);
    let scope = users(&["ann"]);
    board.watch(&scope, reader(1), NOW).unwrap();
    fill(&mut board, &scope, |_| found(&[("", true, 5)]));
    let as_of = |board: &mut Board, reached: u64| {
        let answer = board.answer(&scope, reader(1), None, (NOW, reached), &mut |_| {});
        answer.unwrap().as_of
    };
    assert_eq!(as_of(&mut board, 100), 100);
    assert_eq!(as_of(&mut board, 95), 100, "that was said");
    board.begin(&scope, reader(1), NOW, &mut |_| {});
    board.hear(&[edge("ann", "", false, 8)]);
    let mut posts = Posts::new();
    board.flush(NOW, 110, &mut |post| keep(&mut posts, &post));
    assert_eq!(posts[0].1["asOf"], 110);
    board.distrust(70);
    assert_eq!(as_of(&mut board, 120), 70);
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
fn what_is_lost_while_everybody_is_asked_about_is_asked_about_again() {
    let mut board = Board::new(7, 1);
    let scope = users(&["ann", "bob"]);
    watched(&mut board, &scope, reader(1));
    board.distrust(1);
    let (doubt, questions) = (board.doubt(), board.questions(1));
    board.learn(&questions[0], &[found(&[])], 1);
    // A change of who was asked about already is lost.
    board.distrust(2);
    board.learn(&questions[1], &[found(&[])], 1);
    board.trust(doubt);
    assert_eq!(board.distrusted(), Some(1));
    let (doubt, questions) = (board.doubt(), board.questions(2));
    board.learn(&questions[0], &[found(&[]), found(&[])], 1);
    board.trust(doubt);
    assert_eq!(board.distrusted(), None);
}

#[test]
fn what_could_not_be_believed_for_a_while_is_believed_again_if_it_is_still_the_same() {
    let (same, other) = (Standing([1, 0, 0]), Standing([1, 9, 0]));
    let mut board = Board::new(7, 1);
    let scope = users(&["ann"]);
    board.stand(same, || {
        unreachable!("it is the first, and all is believed")
    });
    watched(&mut board, &scope, reader(1));
    board.suspend(40);
    let posts = flush(&mut board);
    assert_eq!(posts[0].1["stale"], true);
    board.stand(same, || unreachable!("it is the same"));
    assert!(!board.is_in_doubt_of_all() && board.distrusted() == Some(40));
    board.trust(board.doubt());
    assert!(flush(&mut board)[0].1.get("stale").is_none());
    // What is lost meanwhile is lost.
    board.suspend(50);
    board.distrust(60);
    board.stand(same, || unreachable!("it is the same"));
    assert!(board.is_in_doubt_of_all() && board.distrusted() == Some(50));
    board.trust(board.doubt());
    assert!(!board.is_in_doubt_of_all() && board.distrusted().is_none());
    // And so is what is another one, also if nobody has noticed that it was not to be believed.
    board.stand(other, || 70);
    assert!(board.is_in_doubt_of_all() && board.distrusted() == Some(70));
    // Nobody knows what was known before the first.
    let mut board = Board::new(7, 1);
    board.suspend(40);
    board.stand(same, || 50);
    assert!(board.is_in_doubt_of_all() && board.distrusted() == Some(40));
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

#[test]
fn what_ends_while_it_rests_makes_place_for_others_that_rest() {
    let mut board = Board::new(7, 1);
    let scope = room();
    watched_room(&mut board, &["ann"]);
    board.gone(reader(1), NOW);
    assert_eq!(board.resting, 1);
    for number in 0..MAX_IN_ROOM {
        board.note(&scope, 0, &Arc::from(format!("u{number}")), true);
    }
    while let Some(question) = board.next_question(100) {
        let all = vec![found(&[("", true, 1)]); question.users.len()];
        board.learn(&question, &all, 1);
    }
    flush(&mut board);
    assert!(board.logs.is_empty());
    assert_eq!(board.resting, 0);
}

#[test]
fn a_doubtful_answer_is_a_doubt_about_that_user_and_costs_nobody_else_anything() {
    let at = |millis: u64| Micros(millis * 1_000);
    let mut board = Board::new(7, 1);
    for (scope, who) in [(users(&["ann", "eve"]), 1), (users(&["bob"]), 2)] {
        watched(&mut board, &scope, reader(who));
    }
    assert!(board.doubtful(100, at(1)).is_empty());
    let stale = || UserPresence {
        stale: true,
        ..found(&[])
    };
    let question = board.ask(None, vec!["ann".into(), "bob".into()]);
    board.learn(&question, &[stale(), found(&[])], 40);
    let posts = flush(&mut board);
    assert_eq!(posts.len(), 1, "{posts:?}");
    let (who, change) = &posts[0];
    assert_eq!((*who, &change["stale"]), (reader(1), &true.into()));
    assert_eq!(change["asOf"], 40);
    assert_eq!(board.distrusted(), None);
    // They are asked about again, and nobody else is, and not all the time.
    let questions = board.doubtful(100, at(1_000));
    let names: Vec<_> = questions.iter().map(|question| &question.users).collect();
    assert_eq!(names, [&vec![Arc::from("ann")]]);
    assert!(board.doubtful(100, at(1_100)).is_empty());
    board.learn(&questions[0], &[stale()], 50);
    assert!(flush(&mut board).is_empty(), "that is known");
    let questions = board.doubtful(100, at(1_250));
    board.learn(&questions[0], &[found(&[("", true, 5)])], 60);
    let posts = flush(&mut board);
    assert_eq!(posts.len(), 1, "{posts:?}");
    let (who, change) = &posts[0];
    assert_eq!((*who, change.get("stale")), (reader(1), None));
    assert_eq!(change["users"][0]["online"], true);
    assert!(board.doubtful(100, at(9_000)).is_empty());
    // Whom nobody watches any more nobody is in doubt about.
    let question = board.ask(None, vec!["bob".into()]);
    board.learn(&question, &[stale()], 70);
    board.gone(reader(2), at(0));
    board.expire(at(0) + RESTS);
    assert!(board.doubtful.is_empty());
}

#[test]
fn an_answer_that_is_older_than_a_change_heard_before_it_does_not_undo_that() {
    let mut board = Board::new(7, 1);
    let scope = users(&["ann"]);
    watched(&mut board, &scope, reader(1));
    let earlier = board.ask(None, vec!["ann".into()]);
    let later = board.ask(None, vec!["ann".into()]);
    // The one that was asked earlier is of a later moment.
    board.learn(&earlier, &[found(&[("", false, 8)])], 1);
    board.hear(&[edge("ann", "", false, 8)]);
    board.learn(&later, &[found(&[("", true, 7)])], 1);
    let posts = flush(&mut board);
    assert_eq!(
        posts.last().unwrap().1["users"][0]["online"],
        false,
        "{posts:?}"
    );
}
