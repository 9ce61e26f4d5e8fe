//! What an app remembers of a socket, and what it is told at the end.

use std::sync::{Arc, Mutex, Weak};

use heartline::{Json, LeftRooms, Reason, Socket};

use crate::support::{Client, DEADLINE, start, until};
use crate::{app, config, enter, heard, live_heard, user, with_namespaces};

struct Note(&'static str);

#[tokio::test(flavor = "multi_thread")]
async fn data_lasts_as_long_as_its_socket() {
    let last: Arc<Mutex<Option<(Weak<Note>, &str)>>> = Arc::default();
    let kept: Arc<Mutex<Option<Socket>>> = Arc::default();
    let (keep, tell) = (kept.clone(), last.clone());
    let builder = app(with_namespaces(&["/chat"]))
        .on("note", move |socket: Socket| {
            let before = socket.data().insert(Note("first"));
            assert!(before.is_none());
            *keep.lock().unwrap() = Some(socket);
            async {}
        })
        .on("read", |socket: Socket| async move {
            Json(socket.data().get::<Note>().map(|note| note.0))
        })
        .on_disconnect(move |socket: Socket| {
            let note = socket.data().get::<Note>();
            *tell.lock().unwrap() = note.map(|note| (Arc::downgrade(&note), note.0));
            async {}
        });
    let (gateway, address) = start(builder).await;
    let mut client = Client::connect(&address, "").await;
    client.send("40/chat,").await;
    client.hear("40/chat,").await;
    client.send(r#"421["note"]"#).await;
    client.hear("431[]").await;
    client.send(r#"422["read"]"#).await;
    assert_eq!(client.next().await, r#"432["first"]"#);
    // Each namespace's socket has its own, as each connection.
    client.send(r#"42/chat,3["read"]"#).await;
    assert_eq!(client.next().await, "43/chat,3[null]");
    let mut other = Client::connect(&address, "").await;
    other.send(r#"422["read"]"#).await;
    assert_eq!(other.next().await, "432[null]");

    client.send("41").await;
    until(|| last.lock().unwrap().is_some()).await;
    let (note, text) = last.lock().unwrap().take().unwrap();
    assert_eq!(text, "first");
    until(|| note.upgrade().is_none()).await;
    // Whoever comes back is somebody else.
    client.send("40").await;
    client.hear("40{").await;
    client.send(r#"422["read"]"#).await;
    assert_eq!(client.next().await, "432[null]");
    // A handler that is late finds nothing, and leaves nothing.
    let late = kept.lock().unwrap().take().unwrap();
    assert!(late.data().get::<Note>().is_none());
    late.data().insert(Note("late"));
    let note = Arc::downgrade(&late.data().get::<Note>().unwrap());
    gateway.sweep().await;
    assert!(note.upgrade().is_none());
    assert!(late.entry().await.is_none());
}

#[tokio::test(flavor = "multi_thread")]
async fn data_may_be_asked_for_while_data_is_made_or_dropped() {
    struct Outer(Arc<Note>);
    /// Asks for data when it is dropped.
    struct Last(Option<Socket>);
    impl Drop for Last {
        fn drop(&mut self) {
            if let Some(socket) = self.0.take() {
                socket.data().remove::<Note>();
            }
        }
    }
    let kept: Arc<Mutex<Option<Socket>>> = Arc::default();
    let keep = kept.clone();
    let builder = app(config()).on("make", move |socket: Socket| {
        *keep.lock().unwrap() = Some(socket.clone());
        let data = socket.data();
        let outer = data.get_or_insert_with(|| Outer(data.get_or_insert_with(|| Note("inner"))));
        let again = data.get_or_insert_with(|| Outer(Arc::new(Note("another"))));
        async move { Json((outer.0.0, again.0.0)) }
    });
    let (gateway, address) = start(builder).await;
    let mut client = Client::connect(&address, "").await;
    client.send(r#"421["make"]"#).await;
    assert_eq!(client.next().await, r#"431[["inner","inner"]]"#);
    client.send("41").await;
    assert!(client.hear_until("40", "40{").await.is_empty());
    let late = kept.lock().unwrap().take().unwrap();
    late.data().insert(Last(Some(late.clone())));
    let swept = tokio::time::timeout(DEADLINE, gateway.sweep()).await;
    swept.expect("a sweep that ends");
    assert!(heard(&mut client).await.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_live_nobody_who_becomes_somebody_ends_as_every_socket_does() {
    let log: Arc<Mutex<Vec<String>>> = Arc::default();
    let (connects, ends) = (log.clone(), log.clone());
    let who = |socket: &Socket| socket.identity().user_id().unwrap_or("nobody").to_owned();
    let builder = app(config())
        .on_connect(move |socket: Socket| {
            socket.data().insert(Note("kept"));
            connects.lock().unwrap().push(format!("+{}", who(&socket)));
            async {}
        })
        .on_disconnect(move |socket: Socket, LeftRooms(rooms): LeftRooms| {
            let note = socket.data().get::<Note>().is_some();
            let end = format!(
                "-{} {note} {}",
                who(&socket),
                rooms.contains(&"r".to_owned())
            );
            ends.lock().unwrap().push(end);
            async {}
        });
    let (gateway, address) = start(builder).await;
    let mut live = Client::live(&address, "").await;
    live.send(r#"{"type":"subscribe","topic":"r"}"#).await;
    live.hear("subscribed").await;
    live.send(r#"{"type":"auth","token":"ann"}"#).await;
    assert!(live_heard(&mut live).await.is_empty());
    assert_eq!(gateway.counts().sockets, 1);
    drop(live);
    let all = ["+nobody", "-nobody true true", "+ann", "-ann true false"];
    until(|| log.lock().unwrap().len() == all.len()).await;
    assert_eq!(*log.lock().unwrap(), all);
    assert_eq!(gateway.counts().sockets, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_end_of_a_socket_tells_why_and_which_rooms_it_was_in() {
    let ends: Arc<Mutex<Vec<(Reason, Vec<String>, bool)>>> = Arc::default();
    let tell = ends.clone();
    let builder = app(config())
        .on("entry", |socket: Socket| async move {
            let entry = socket.entry().await.unwrap();
            Json((entry.transport, entry.rooms))
        })
        .on("why", |_: Reason| async {})
        .on(
            "leave-me",
            |socket: Socket| async move { socket.disconnect() },
        )
        .on_disconnect(
            move |socket: Socket, reason: Reason, LeftRooms(mut rooms): LeftRooms| {
                let tell = tell.clone();
                async move {
                    rooms.sort();
                    let is_there = socket.entry().await.is_some();
                    tell.lock().unwrap().push((reason, rooms, is_there));
                }
            },
        );
    let (_gateway, address) = start(builder).await;
    let mut client = user(&address, "ann").await;
    enter(&mut client, "a").await;
    enter(&mut client, "b").await;
    client.send(r#"421["entry"]"#).await;
    let entry = client.next().await;
    assert!(entry.starts_with(r#"431[["websocket",["#), "{entry}");
    assert!(
        entry.contains(r#""a""#) && entry.contains(r#""b""#),
        "{entry}"
    );
    client.send(r#"421["why"]"#).await;
    assert!(client.next().await.contains("INTERNAL"));
    client.send("41").await;
    until(|| ends.lock().unwrap().len() == 1).await;
    let mut kicked = Client::connect(&address, "").await;
    kicked.send(r#"42["leave-me"]"#).await;
    assert!(kicked.next().await.contains("connection:closed"));
    assert_eq!(kicked.next().await, "41");
    until(|| ends.lock().unwrap().len() == 2).await;
    let dropped = Client::connect(&address, "").await;
    drop(dropped);
    until(|| ends.lock().unwrap().len() == 3).await;
    let ends = ends.lock().unwrap();
    assert_eq!(ends[0].0, Reason::ClientLeft);
    assert!(ends[0].1.iter().any(|room| room == "a") && ends[0].1.iter().any(|room| room == "b"));
    assert_eq!(ends[1], (Reason::Kicked, Vec::new(), false));
    assert_eq!(ends[2], (Reason::TransportClosed, Vec::new(), false));
    assert!(!ends[0].2, "an entry of a socket that has gone");
}
