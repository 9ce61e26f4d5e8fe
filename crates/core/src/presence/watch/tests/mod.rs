//! A board by itself: what readers are told, who is in rooms, what is doubted, and what clients
//! believe after all that.

mod beliefs;
mod doubt;
mod readers;
mod rooms;

use heartline_wire::id::{ConnId, Sid, Slot};
use serde_json::Value;

use super::*;
use crate::auth::UserKey;
use crate::entries::{TypePresence, UserPresence};
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
