//! What may have been missed is said to be stale, asked about again, and believed then.

use super::*;
use crate::presence::audit::Believed;

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
