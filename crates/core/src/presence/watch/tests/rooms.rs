//! Who is in a room that is watched, on this node and on the others.

use proptest::prelude::*;

use super::*;
use crate::backplane::MAX_TO_NODES;

/// Everybody of whom it is not known is found online.
fn all_are_online(board: &mut Board) {
    while let Some(question) = board.next_question(100) {
        let all = vec![found(&[("", true, 1)]); question.users.len()];
        board.learn(&question, &all, 1);
    }
}

/// The node 1 asks the node 2 who is in its rooms; these are in them there.
fn ask_who_is_in(board: &mut Board, other: &mut Board, members: &[&str], now: Micros) {
    for note in board.notes(now) {
        if let Some(scope) = other.noted(1, note, now) {
            let members = members.iter().map(|user| Arc::from(*user)).collect();
            other.seed_here(&scope, 0, members);
        }
    }
}

/// The node 2 tells the node 1 who is in its rooms.
fn tell_who_is_in(other: &mut Board, board: &mut Board, now: Micros) {
    for note in other.notes(now) {
        board.noted(2, note, now);
    }
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
    ask_who_is_in(&mut board, &mut other, &[], now);
    tell_who_is_in(&mut other, &mut board, now);
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
    all_are_online(&mut board);
    let posts = flush(&mut board);
    assert_eq!(posts.last().unwrap().1["ended"], "TOO_LARGE");
    assert!(!board.has_readers() && board.shown == 0);
}

#[test]
fn what_nodes_say_of_a_room_keeps_to_its_bound_however_many_come_at_once() {
    let (mut board, mut other) = (Board::new(1, 1), Board::new(2, 1));
    let (scope, now) = (room(), Micros::ZERO + Duration::from_secs(1));
    watched_room(&mut board, &["ann"]);
    ask_who_is_in(&mut board, &mut other, &["bob"], now);
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
    all_are_online(&mut board);
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
    ask_who_is_in(&mut board, &mut other, &["bob"], now);
    tell_who_is_in(&mut other, &mut board, now);
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
    ask_who_is_in(&mut board, &mut other, &["bob"], at(800));
    assert!(board.is_in_doubt(&scope));
    tell_who_is_in(&mut other, &mut board, at(800));
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
    tell_who_is_in(&mut other, &mut board, now);
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
fn what_ends_while_it_rests_makes_place_for_others_that_rest() {
    let mut board = Board::new(7, 1);
    let scope = room();
    watched_room(&mut board, &["ann"]);
    board.gone(reader(1), NOW);
    assert_eq!(board.resting, 1);
    for number in 0..MAX_IN_ROOM {
        board.note(&scope, 0, &Arc::from(format!("u{number}")), true);
    }
    all_are_online(&mut board);
    flush(&mut board);
    assert!(board.logs.is_empty());
    assert_eq!(board.resting, 0);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

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
