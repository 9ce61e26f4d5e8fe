//! What clients believe of users, whatever is lost on the way to the node or to them, held
//! against what is true.

use std::collections::{BTreeMap, VecDeque};

use proptest::prelude::*;

use super::*;

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
}
