//! Histories of one client and two nodes: random ones, and one that once went wrong.

use proptest::prelude::*;

use super::super::resume::{Tracking, said};
use super::line::KEPT;
use super::{Cluster, come, news};

#[derive(Debug, Clone)]
enum Step {
    /// Something is said in a room, to all or to the user, at a node.
    Say(usize, usize),
    Broadcast(usize),
    ToUser(usize),
    /// To the socket, at the node that has it.
    ToSocket,
    /// A user comes online, which one of the nodes reads first.
    Online(usize),
    Join(usize),
    Leave(usize),
    /// So many of the texts that are on their way arrive.
    Arrive(usize),
    /// So many of them do, and the connection ends; or nobody notices that it has.
    Cut(usize),
    Abandon(usize),
    /// It comes back at a node.
    Return(usize),
    /// A node hears nothing of the line; or does again.
    CutLine(usize),
    Mend,
    Settle,
}

fn step() -> impl Strategy<Value = Step> {
    let node = || 0usize..2;
    prop_oneof![
        8 => (0usize..3, node()).prop_map(|(room, node)| Step::Say(room, node)),
        1 => node().prop_map(Step::Broadcast),
        1 => node().prop_map(Step::ToUser),
        3 => Just(Step::ToSocket),
        2 => node().prop_map(Step::Online),
        3 => (0usize..3).prop_map(Step::Join),
        1 => (0usize..3).prop_map(Step::Leave),
        2 => (0usize..5).prop_map(Step::Arrive),
        3 => (0usize..5).prop_map(Step::Cut),
        2 => (0usize..5).prop_map(Step::Abandon),
        5 => node().prop_map(Step::Return),
        1 => node().prop_map(Step::CutLine),
        1 => Just(Step::Mend),
        2 => Just(Step::Settle),
    ]
}

const ROOMS: [&str; 3] = ["a", "b", "c"];

/// One history; how often the client came back, and how often it went on.
fn tell(steps: Vec<Step>) -> Result<(), TestCaseError> {
    let mut cluster = Cluster::new();
    let mut ann = Tracking::lost(cluster.worlds[0].engineio(), "user=ann");
    come(&mut cluster, &mut ann, 0);
    // Bob keeps two of the rooms alive at one of the nodes.
    let mut bob = Tracking::lost(cluster.worlds[1].engineio(), "user=bob");
    come(&mut cluster, &mut bob, 1);
    for room in &ROOMS[..2] {
        bob.client.says(&format!(r#"42["join","{room}"]"#));
        cluster.settle();
    }
    let mut abandoned = Vec::new();
    let (mut rooms, mut expected, mut got) = ([false; 3], Vec::new(), Vec::new());
    let (mut is_there, mut at, mut may_refuse, mut is_line_cut) = (true, 0, false, false);
    let mut unread: Vec<String> = Vec::new();
    let (mut since, mut edges) = (0, 0);
    for (number, step) in steps.into_iter().enumerate() {
        let text = number.to_string();
        let mut is_for_ann = false;
        match step {
            Step::Say(room, node) => {
                said(&cluster.worlds[node], ROOMS[room], &text);
                is_for_ann = rooms[room];
                since += 1;
            }
            Step::Broadcast(node) => {
                let everybody = cluster.worlds[node].gateway.everybody("/", None).unwrap();
                everybody.emit("news", &text).unwrap();
                is_for_ann = true;
                since += 1;
            }
            Step::ToUser(node) => {
                said(&cluster.worlds[node], "user:ann", &text);
                is_for_ann = true;
                since += 1;
            }
            Step::ToSocket => {
                cluster.say_to(at, &ann.sid, &text);
                is_for_ann = true;
                since += 1;
            }
            Step::Online(first) => {
                edges += 1;
                cluster.comes_online(edges, &text, first);
                is_for_ann = true;
                since += 1;
            }
            Step::Join(room) if is_there && !is_line_cut => {
                cluster.settle();
                ann.client.says(&format!(r#"42["join","{}"]"#, ROOMS[room]));
                cluster.settle();
                rooms[room] = true;
            }
            Step::Leave(room) if is_there && !is_line_cut => {
                cluster.settle();
                ann.client
                    .says(&format!(r#"42["leave","{}"]"#, ROOMS[room]));
                cluster.settle();
                may_refuse |= rooms[room];
                rooms[room] = false;
            }
            Step::Arrive(most) if is_there => {
                unread.extend(ann.client.hears());
                let most = most.min(unread.len());
                ann.take(unread.drain(..most).collect::<Vec<_>>());
            }
            Step::Cut(most) | Step::Abandon(most) if is_there => {
                unread.extend(ann.client.hears());
                let most = most.min(unread.len());
                ann.take(unread.drain(..most).collect::<Vec<_>>());
                unread.clear();
                is_there = false;
                match step {
                    Step::Cut(_) => ann.is_cut(&mut cluster.worlds[at]),
                    _ => {
                        let next = cluster.worlds[at].engineio();
                        abandoned.push(std::mem::replace(&mut ann.client, next));
                    }
                }
                cluster.settle();
                since = 0;
            }
            Step::Return(node) if !is_there => {
                at = node;
                come(&mut cluster, &mut ann, node);
                is_there = true;
                if !ann.recovered {
                    // It was away for longer than is kept, or has left something.
                    prop_assert!(may_refuse || since > KEPT / 2, "a needless refusal");
                    cluster.mend();
                    is_line_cut = false;
                    ann.hear(usize::MAX);
                    rooms = [false; 3];
                    expected.clear();
                    got.clear();
                    ann.got();
                    may_refuse = false;
                }
            }
            Step::CutLine(node) => {
                cluster.meeting.lock().unwrap().cut(node);
                is_line_cut = true;
                may_refuse = true;
            }
            Step::Mend => {
                cluster.mend();
                is_line_cut = false;
            }
            Step::Settle => cluster.settle(),
            _ => {}
        }
        if is_for_ann {
            expected.push(format!(r#"["news","{text}"]"#));
        }
        got.extend(news(&mut ann));
        prop_assert!(expected.starts_with(&got), "{got:?} of {expected:?}");
    }
    cluster.mend();
    if !is_there {
        unread.clear();
        come(&mut cluster, &mut ann, 0);
        if !ann.recovered {
            return Ok(());
        }
    }
    let rest: Vec<String> = unread.drain(..).chain(ann.client.hears()).collect();
    let is_told_of_gap = rest.iter().any(|text| text.contains("room:gap"));
    ann.take(rest);
    got.extend(news(&mut ann));
    if !is_told_of_gap {
        prop_assert_eq!(got, expected);
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn a_client_that_moves_between_nodes_has_all_of_it_once_and_in_order(
        steps in prop::collection::vec(step(), 1..60)
    ) {
        tell(steps)?;
    }
}

#[test]
fn a_node_that_did_not_hear_where_a_client_went_takes_it_up_as_it_was_there() {
    let steps = vec![
        Step::Join(0),
        Step::CutLine(0),
        Step::Abandon(9),
        Step::Return(1),
        Step::Mend,
        Step::Join(1),
        Step::Cut(9),
        Step::Return(0),
        Step::Say(1, 1),
        Step::Settle,
    ];
    tell(steps).unwrap();
}
