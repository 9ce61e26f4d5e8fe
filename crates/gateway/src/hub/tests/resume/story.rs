//! Histories of any steps: whoever watches a client sees one unbroken story, or that it
//! begins anew.

use proptest::prelude::*;

use super::killed::{journaled, killed};
use super::stopped::{leaving, stopped};
use super::*;

/// What happens in one step of a history.
#[derive(Debug, Clone)]
enum Step {
    Say(usize),
    Broadcast,
    ToUser,
    ToSocket,
    /// A handler says it: one that began with the session, or with this connection.
    Direct {
        is_old: bool,
    },
    /// The time of a ping comes.
    Ping,
    Join(usize),
    Leave(usize),
    /// So many of the texts that are on their way arrive.
    Arrive(usize),
    /// So many of them arrive, the rest is lost.
    Cut(usize),
    Return,
    /// What is in the mailbox is delivered.
    Settle,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => (0usize..3).prop_map(Step::Say),
        1 => Just(Step::Broadcast),
        1 => Just(Step::ToUser),
        1 => Just(Step::ToSocket),
        3 => any::<bool>().prop_map(|is_old| Step::Direct { is_old }),
        2 => Just(Step::Ping),
        2 => (0usize..3).prop_map(Step::Join),
        1 => (0usize..3).prop_map(Step::Leave),
        2 => (0usize..5).prop_map(Step::Arrive),
        3 => (0usize..5).prop_map(Step::Cut),
        3 => Just(Step::Return),
        2 => Just(Step::Settle),
    ]
}

/// The time between two pings in a history.
pub(super) const PING: Duration = Duration::from_millis(50);

/// One history, in which the gateway is killed before each return if there is a folder for its
/// journal: whoever watches a client sees one unbroken story, or that it begins anew.
fn tell(
    steps: Vec<Step>,
    config: &Config,
    folder: Option<&std::path::Path>,
) -> Result<(), TestCaseError> {
    const ROOMS: [&str; 3] = ["a", "b", "c"];
    let config = &Config {
        heartbeat: HeartbeatConfig {
            interval: PING,
            ..config.heartbeat.clone()
        },
        ..config.clone()
    };
    let handles = Handles::default();
    let start = || World::with(config.clone(), |builder| handles.filled_by(builder));
    let mut world = start();
    let mut ann = Tracking::new(&mut world, "user=ann");
    // Bob keeps two of the rooms alive; the third comes and goes with Ann.
    let mut bob = Tracking::new(&mut world, "user=bob");
    for room in &ROOMS[..2] {
        bob.asks(&mut world, &format!(r#"42["join","{room}"]"#));
    }
    let (mut rooms, mut expected, mut got) = ([false; 3], Vec::new(), Vec::new());
    let (mut is_there, mut said_so_far, mut has_left) = (true, 0, false);
    let mut unread: Vec<String> = Vec::new();
    for step in steps {
        let text = said_so_far.to_string();
        let mut is_for_ann = false;
        match step {
            Step::Say(room) => {
                said(&world, ROOMS[room], &text);
                is_for_ann = rooms[room];
            }
            Step::Broadcast => {
                said_to_all(&world, &text);
                is_for_ann = true;
            }
            Step::ToUser => {
                said(&world, "user:ann", &text);
                is_for_ann = true;
            }
            Step::ToSocket => {
                said(&world, &ann.sid, &text);
                is_for_ann = true;
            }
            Step::Direct { is_old } => {
                let handle = handles.find(&ann.sid, is_old);
                handle.emit("news", &text).unwrap();
                is_for_ann = true;
            }
            Step::Ping if is_there => world.run(PING + ms(20)),
            Step::Join(room) if is_there => {
                // What was said before is delivered before.
                world.settle();
                ann.client.says(&format!(r#"42["join","{}"]"#, ROOMS[room]));
                world.settle();
                rooms[room] = true;
            }
            Step::Leave(room) if is_there => {
                world.settle();
                ann.client
                    .says(&format!(r#"42["leave","{}"]"#, ROOMS[room]));
                world.settle();
                has_left |= rooms[room];
                rooms[room] = false;
            }
            Step::Arrive(most) if is_there => {
                unread.extend(ann.client.hears());
                let most = most.min(unread.len());
                let some: Vec<String> = unread.drain(..most).collect();
                ann.take(some);
            }
            Step::Cut(most) if is_there => {
                unread.extend(ann.client.hears());
                let most = most.min(unread.len());
                let some: Vec<String> = unread.drain(..most).collect();
                ann.take(some);
                unread.clear();
                ann.is_cut(&mut world);
                is_there = false;
            }
            Step::Return if !is_there => {
                if config.recovery.stopped.is_some() {
                    world.settle();
                    stopped(world);
                    handles.0.lock().unwrap().clear();
                    world = start();
                } else if let Some(folder) = folder {
                    world.settle();
                    killed(world, folder);
                    handles.0.lock().unwrap().clear();
                    world = start();
                }
                ann.return_to(&mut world);
                is_there = true;
                if !ann.recovered {
                    // It may have missed the end of a room that it had left.
                    prop_assert!(has_left, "a needless refusal");
                    rooms = [false; 3];
                    expected.clear();
                    got.clear();
                    ann.got();
                    has_left = false;
                    world.settle();
                    ann.client.hears();
                }
            }
            Step::Settle => {
                world.settle();
            }
            _ => {}
        }
        if is_for_ann {
            expected.push(format!(r#"["news","{text}"]"#));
        }
        said_so_far += 1;
        got.extend(
            ann.got()
                .into_iter()
                .filter(|one| one.starts_with(r#"["news""#)),
        );
        prop_assert!(expected.starts_with(&got), "{got:?} of {expected:?}");
    }
    if !is_there {
        ann.return_to(&mut world);
        unread.clear();
    }
    world.settle();
    let rest: Vec<String> = unread.drain(..).chain(ann.client.hears()).collect();
    ann.take(rest);
    if is_there || ann.recovered {
        got.extend(
            ann.got()
                .into_iter()
                .filter(|one| one.starts_with(r#"["news""#)),
        );
        prop_assert_eq!(got, expected);
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn whatever_happens_a_resumed_client_has_all_of_it_once_and_in_order(
        steps in prop::collection::vec(step(), 1..60)
    ) {
        tell(steps, &kept(), None)?;
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(50))]

    #[test]
    fn the_same_with_a_gateway_that_is_killed(steps in prop::collection::vec(step(), 1..60)) {
        let (config, folder) = journaled("story");
        let told = tell(steps, &config, Some(&folder));
        std::fs::remove_dir_all(folder).unwrap();
        told?;
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(30))]

    #[test]
    fn the_same_with_a_gateway_that_is_stopped(steps in prop::collection::vec(step(), 1..60)) {
        let (config, folder) = leaving("stopped-story");
        let told = tell(steps, &config, None);
        std::fs::remove_dir_all(folder).unwrap();
        told?;
    }
}
