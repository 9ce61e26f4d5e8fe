//! Conversations are those of all namespaces, and a message is known by its sender's name for it.

use super::*;

/// One that may join conversations, in these namespaces on one connection.
fn member(world: &mut World, name: &str, namespaces: &[&str]) -> Client {
    let mut client = world.socketio(&format!("user={name} rooms=conversation:*"));
    for namespace in namespaces {
        let token = format!(r#"{{"token":"user={name} rooms=conversation:*"}}"#);
        world.ask(&mut client, &format!("40{namespace},{token}"));
    }
    client
}

const SAY: &str = r#"1["message:send",{"conversationId":"1","content":"hello"}]"#;

/// What has come of messages: before the data, and whether it is of `content`.
fn told(client: &mut Client, content: &str) -> Vec<String> {
    let heard = client
        .hears()
        .into_iter()
        .filter(|one| one.contains(content));
    let told = heard.filter_map(|one| {
        let (event, _) = one.split_once(",{")?;
        one.contains("\"message:").then(|| event.to_owned())
    });
    told.collect()
}

#[test]
fn a_message_is_told_in_every_namespace_and_on_no_socket_twice() {
    let mut world = World::new(config());
    let mut ann = member(&mut world, "ann", &["/chat"]);
    let mut ben = member(&mut world, "ben", &[]);
    let mut cid = member(&mut world, "cid", &["/chat"]);
    let mut dan = member(&mut world, "dan", &[]);
    let mut eve = world.live("user=eve rooms=conversation:*");
    let mut stranger = member(&mut world, "stranger", &["/chat"]);
    for client in [&mut ben, &mut dan] {
        world.ask(client, r#"421["join","conversation:1"]"#);
    }
    // In the one namespace in the room, and in the other not.
    world.ask(&mut cid, r#"42/chat,1["join","conversation:1"]"#);
    world.ask(&mut dan, r#"421["leave","conversation:1"]"#);
    world.ask(&mut eve, r#"{"type":"subscribe","topic":"conversation:1"}"#);
    ann.says(&format!("42/chat,{SAY}"));
    world.settle();
    assert_eq!(told(&mut ann, "hello"), [r#"42/chat,["message:sent""#]);
    assert_eq!(told(&mut ben, "hello"), [r#"42["message:new""#]);
    let mut heard = told(&mut cid, "hello");
    heard.sort();
    let expected = [r#"42/chat,["message:new""#, r#"42["message:notification""#];
    assert_eq!(heard, expected);
    assert_eq!(told(&mut dan, "hello"), [r#"42["message:notification""#]);
    let heard = eve.hears().into_iter();
    let heard: Vec<_> = heard.filter(|frame| frame.contains("hello")).collect();
    assert_eq!(heard.len(), 1, "{heard:?}");
    assert!(heard[0].starts_with(r#"{"type":"message:new","topic":"conversation:1""#));
    assert_eq!(told(&mut stranger, "hello"), Vec::<String>::new());
    // And the other way.
    ben.says(&format!("42{SAY}"));
    world.settle();
    let mut heard = told(&mut ben, "hello");
    heard.sort();
    assert_eq!(heard, [r#"42["message:new""#, r#"42["message:sent""#]);
    assert_eq!(
        told(&mut ann, "hello"),
        [
            r#"42["message:notification""#,
            r#"42/chat,["message:notification""#,
        ]
    );
}

#[test]
fn an_open_room_is_one_of_its_namespace() {
    let mut world = World::new(config());
    let mut ann = member(&mut world, "ann", &["/chat"]);
    let mut ben = world.socketio("user=ben");
    world.ask(&mut ben, r#"40/chat,{"token":"user=ben"}"#);
    world.ask(&mut ben, r#"421["join","lobby"]"#);
    world.ask(&mut ben, r#"42/chat,1["join","lobby"]"#);
    ann.says(r#"42/chat,1["chat:send",{"room":"lobby","content":"hello"}]"#);
    world.settle();
    assert_eq!(told(&mut ben, "hello"), [r#"42/chat,["message:new""#]);
}

#[test]
fn a_temp_id_comes_back_as_it_was_given() {
    let mut world = World::new(config());
    let mut ann = member(&mut world, "ann", &[]);
    let mut ben = member(&mut world, "ben", &[]);
    for client in [&mut ann, &mut ben] {
        world.ask(client, r#"421["join","conversation:1"]"#);
    }
    ann.hears();
    let given = [
        "1795791863015",
        "5",
        "\"5\"",
        "9007199254740993",
        "1e400",
        "-0.5",
        "\"t\"",
        r#""\"5\"""#,
    ];
    let about = |data: &str, id: &str| {
        let name = format!(r#""tempId":{id},"#);
        assert!(data.contains(&name), "{data}");
    };
    for (number, id) in given.iter().enumerate() {
        let say = format!(
            r#"421["message:send",{{"conversationId":"1","content":"c{number}","tempId":{id}}}]"#
        );
        // Whoever sends it again is answered again.
        for _ in 0..2 {
            let heard = world.ask(&mut ann, &say);
            let (_, answers): (Vec<_>, Vec<_>) =
                heard.iter().partition(|one| one.contains("message:new"));
            assert_eq!(answers.len(), 2, "{heard:?}");
            for answer in answers {
                about(answer, id);
                assert_eq!(answer.matches(&format!(r#""tempId":{id},"#)).count(), 2);
                assert!(
                    answer.contains(&format!(r#""content":"c{number}""#)),
                    "{answer}"
                );
            }
        }
        let told = ben.hears();
        assert_eq!(told.len(), 1, "{told:?}");
        about(&told[0], id);
    }
    let history = world.ask(&mut ben, r#"421["history:get",{"conversationId":"1"}]"#);
    for id in given {
        about(&history[0], id);
    }
    let refused = world.ask(
        &mut ann,
        r#"421["message:send",{"conversationId":"1","content":"","tempId":5}]"#,
    );
    for refused in refused {
        assert!(refused.ends_with(r#""tempId":5}]"#), "{refused}");
    }
}
