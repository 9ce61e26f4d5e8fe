//! What waits while it is found out what was missed, without a server.

use tokio::sync::oneshot;
use tokio::sync::oneshot::error::TryRecvError;

use super::*;

const LINE: u32 = 7;
/// Up to there it was heard.
const HEARD: u64 = 10;
/// Bytes of an event.
const MAX: usize = 1 << 20;

/// A node that hears what a test has a server send.
struct Hearing {
    line: Arc<Line>,
    ears: Arc<Ears>,
}

fn head(kind: u8, line: u32, numbers: &[u64]) -> Vec<u8> {
    let mut out = vec![kind];
    out.extend(line.to_be_bytes());
    numbers
        .iter()
        .for_each(|number| out.extend(number.to_be_bytes()));
    out
}

fn event(line: u32, id: u64, scope: &Scope, args: &str) -> Vec<u8> {
    let origin = Origin {
        tag: 9,
        number: id,
        after: 0,
    };
    let message = Message::new(&id.to_string(), args);
    let seal = Seal::default();
    let body = kept::body(0, None, origin, &target_of(scope), &message, &seal);
    [head(3, line, &[id, 0, 1, id]), body].concat()
}

/// The end of a request's first scope, with these events.
fn tail(line: u32, request: u64, scope: &Scope, ids: &[u64]) -> Vec<u8> {
    let last = ids.last().copied().unwrap_or_default();
    let mut out = head(4, line, &[request, 0, 1, last, last, 0, 0]);
    for id in ids {
        let event = event(line, *id, scope, "1");
        out.extend((event.len() as u32).to_be_bytes());
        out.extend(event);
    }
    out
}

fn end(line: u32, request: u64, begin: u64, last: u64) -> Vec<u8> {
    head(5, line, &[request, begin, last])
}

impl Hearing {
    fn start() -> Hearing {
        let server = Arc::new(Server::parse("redis://127.0.0.1:1").unwrap());
        let commands = (Commands::new(server), false);
        let own = ("n.1".into(), 1);
        let line = Line::new(settings(), "{p}", own, commands, Arc::default());
        let ears: Arc<Ears> = Arc::default();
        assert!(line.node.set(ears.clone()).is_ok());
        let hearing = Hearing { line, ears };
        let (first, _answer) = hearing.line.begin_request(Vec::new(), true);
        hearing.hears(&end(LINE, first, 1, HEARD));
        hearing.goes_on();
        hearing.told();
        hearing
    }

    fn hears(&self, bytes: &[u8]) {
        self.line.hear(bytes, MAX);
    }

    /// The end of what was missed of a scope is asked for.
    fn asks(&self, scope: Scope) -> (u64, oneshot::Receiver<usize>) {
        self.line.begin_request(vec![scope], true)
    }

    fn goes_on(&self) {
        self.line.goes_on(MAX);
    }

    /// What it was told since it was asked last.
    fn told(&self) -> Vec<String> {
        let told = std::mem::take(&mut *locked(&self.ears.told)).into_iter();
        let told = told.map(|told| match told {
            Told::Event(_, whom, Some(event)) => format!("{event} to {whom}"),
            Told::End(scope, _, _, _) => format!("the end of {}", whom(&target_of(&scope))),
            Told::Reached(reached) => format!("from {} to {}", reached.begin, reached.last),
            Told::Missed(whose) => format!("missed: {whose}"),
            other => panic!("{other:?}"),
        });
        told.collect()
    }
}

#[test]
fn what_was_missed_is_told_before_whatever_counts_on_it() {
    let node = Hearing::start();
    node.line.cut();
    // Meanwhile somebody comes into a room.
    let (joined, _comes) = node.line.begin_request(vec![room("r")], false);
    node.hears(&tail(LINE, joined, &room("r"), &[12]));
    node.hears(&end(LINE, joined, 1, 14));
    let (users, _found) = node.asks(user("ann"));
    node.hears(&tail(LINE, users, &user("ann"), &[11, 14]));
    node.hears(&end(LINE, users, 1, 14));
    node.hears(&event(LINE, 15, &room("r"), "1"));
    let (all, _found) = node.asks(everybody());
    node.hears(&tail(LINE, all, &everybody(), &[13, 16]));
    node.hears(&end(LINE, all, 1, 16));
    node.goes_on();
    assert_eq!(
        node.told(),
        [
            "11 to user ann",
            "the end of r",
            "13 to all",
            "14 to user ann",
            "from 1 to 14",
            "15 to r",
            "16 to all",
            "from 1 to 16"
        ]
    );
}

#[test]
fn what_came_of_another_line_before_it_was_known_is_asked_for_again() {
    let node = Hearing::start();
    node.line.cut();
    let (first, mut answer) = node.asks(user("ann"));
    node.hears(&tail(LINE + 1, first, &user("ann"), &[21]));
    node.hears(&end(LINE + 1, first, 20, 21));
    assert_eq!(answer.try_recv(), Err(TryRecvError::Closed));
    node.goes_on();
    assert_eq!(node.told(), [""; 0], "it is not known yet what was missed");
    let (again, mut answer) = node.asks(user("ann"));
    node.hears(&tail(LINE + 1, again, &user("ann"), &[21]));
    node.hears(&end(LINE + 1, again, 20, 21));
    assert_eq!(answer.try_recv(), Ok(0));
    node.goes_on();
    assert_eq!(
        node.told(),
        [
            "from 20 to 20",
            "missed: Line",
            "21 to user ann",
            "from 20 to 21",
            "from 20 to 21"
        ]
    );
}

#[test]
fn what_came_before_a_second_cut_is_asked_for_again() {
    let node = Hearing::start();
    node.line.cut();
    let (first, mut answer) = node.asks(user("ann"));
    node.hears(&tail(LINE, first, &user("ann"), &[11]));
    node.line.cut();
    node.hears(&end(LINE, first, 1, 11));
    assert_eq!(answer.try_recv(), Err(TryRecvError::Closed));
    node.goes_on();
    assert_eq!(node.told(), [""; 0]);
    let (again, _found) = node.asks(user("ann"));
    node.hears(&tail(LINE, again, &user("ann"), &[11]));
    node.hears(&end(LINE, again, 1, 11));
    node.goes_on();
    let told = node.told();
    assert_eq!(told, ["11 to user ann", "from 1 to 11", "from 1 to 11"]);
}

#[test]
fn nothing_that_a_master_of_before_says_goes_to_a_node_that_knows_of_another_line() {
    let node = Hearing::start();
    node.line.note(Reached {
        line: LINE + 1,
        begin: 20,
        last: 20,
    });
    let (first, _answer) = node.asks(user("ann"));
    node.hears(&event(LINE, 11, &user("ann"), "1"));
    node.hears(&tail(LINE, first, &user("ann"), &[11]));
    node.hears(&end(LINE, first, 1, 11));
    node.goes_on();
    assert_eq!(node.told(), [""; 0]);
    let (again, _answer) = node.asks(everybody());
    node.hears(&end(LINE + 1, again, 20, 20));
    node.goes_on();
    let told = node.told();
    assert_eq!(told, ["from 20 to 20", "missed: Line", "from 20 to 20"]);
    // Nor does the end of a request.
    node.hears(&end(LINE, first, 1, 12));
    assert_eq!(node.told(), [""; 0]);
}

#[test]
fn nobody_comes_back_over_more_than_could_wait() {
    let node = Hearing::start();
    node.line.cut();
    let (first, _answer) = node.asks(user("ann"));
    node.hears(&tail(LINE, first, &user("ann"), &[11]));
    node.hears(&event(LINE, 12, &user("ann"), &"1".repeat(65 << 20)));
    node.hears(&end(LINE, first, 1, 11));
    node.goes_on();
    assert_eq!(node.told(), ["missed: Line", "from 12 to 12"]);
}
