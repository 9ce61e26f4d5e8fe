//! A client that watches, and mirrors what it is told as docs/clients.md says.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Value, json};

use super::super::*;
use super::store::{HERE, Name, Place, Store};
use super::{LISTS, Pace, ROOMS};

/// What a client watches.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Subject {
    List(usize),
    Room(usize),
}

/// Where a client is with what it watches.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// It has asked, and is to be answered first; or it asked again as it saw a hole, and what
    /// comes before the answer is not for it.
    Asked,
    AskedAgain,
    Follows,
    /// It has lost a change.
    Lost,
    /// It watches it no more, and may ask again from there.
    Over,
}

#[derive(Debug)]
struct Mirror {
    state: State,
    epoch: String,
    rev: u64,
    head: u64,
    stale: bool,
    as_of: u64,
    /// In the room, or watched by name: online or not, and the number of that.
    users: BTreeMap<String, Seen>,
    /// Since when the picture has been wrong about users, while it says that it is complete.
    wrong: BTreeMap<String, u64>,
}

#[derive(Debug, Clone, Copy)]
struct Seen {
    online: bool,
    rev: u64,
    last_seen: Option<u64>,
}

#[derive(Debug)]
enum Pending {
    Watch(Subject),
    /// Of this, or of all.
    Unwatch(Option<Subject>),
    Join(usize),
    Leave(usize),
}

/// A user's client, with the connection that it has at present.
pub(super) struct Reader {
    tenant: Option<Arc<str>>,
    pub(super) user: Arc<str>,
    namespace: &'static str,
    client: Option<Client>,
    is_live: bool,
    asked: u64,
    pending: BTreeMap<u64, Pending>,
    rooms: BTreeSet<usize>,
    mirrors: BTreeMap<Subject, Mirror>,
    /// The greatest number that it was told of a user, where it watches the same.
    revs: BTreeMap<(Subject, String), u64>,
}

/// What a client was told.
enum Told {
    Answer(u64, Value),
    Change(Value),
}

fn told(text: &str) -> Option<Told> {
    if text.starts_with('{') {
        let frame: Value = serde_json::from_str(text).unwrap();
        let data = frame["data"].clone();
        return match frame["type"].as_str().unwrap() {
            "ack" => Some(Told::Answer(frame["id"].as_str()?.parse().ok()?, data)),
            "presence:change" => Some(Told::Change(data)),
            _ => None,
        };
    }
    let rest = text.strip_prefix("42").or(text.strip_prefix("43"))?;
    let rest = rest.strip_prefix("/chat,").unwrap_or(rest);
    let from = rest.find('[')?;
    let parts: Value = serde_json::from_str(&rest[from..]).unwrap();
    if text.starts_with("43") {
        return Some(Told::Answer(rest[..from].parse().ok()?, parts[0].clone()));
    }
    (parts[0] == "presence:change").then(|| Told::Change(parts[1].clone()))
}

impl Reader {
    pub(super) fn new(tenant: Option<&str>, user: &str, namespace: &'static str) -> Reader {
        Reader {
            tenant: tenant.map(Into::into),
            user: user.into(),
            namespace,
            client: None,
            is_live: false,
            asked: 0,
            pending: BTreeMap::new(),
            rooms: BTreeSet::new(),
            mirrors: BTreeMap::new(),
            revs: BTreeMap::new(),
        }
    }

    pub(super) fn is_there(&self) -> bool {
        self.client.is_some()
    }

    pub(super) fn comes(&mut self, world: &mut World, is_live: bool) {
        let mut token = format!("user={}", self.user);
        if let Some(tenant) = &self.tenant {
            token = format!("{token} tenant={tenant}");
        }
        self.is_live = is_live && self.namespace == "/";
        self.client = Some(match (self.is_live, self.namespace) {
            (true, _) => world.live(&token),
            (false, "/") => world.socketio(&token),
            (false, namespace) => {
                let mut client = world.engineio();
                client.says(&format!(r#"40{namespace},{{"token":"{token}"}}"#));
                world.settle();
                let answer = client.hears();
                assert!(answer[0].starts_with("40/chat,{\"sid\""), "{answer:?}");
                client
            }
        });
    }

    /// The connection is cut, whatever has been asked.
    pub(super) fn is_cut(&mut self, store: &mut Store, known_by: u64) {
        self.client = None;
        self.pending.clear();
        for mirror in self.mirrors.values_mut() {
            mirror.state = State::Over;
        }
        for room in std::mem::take(&mut self.rooms) {
            let moved = (HERE, false);
            store.moves(&self.place(room), &self.user, moved, known_by);
        }
    }

    fn place_of(&self) -> impl Fn(usize) -> Place + use<> {
        let (tenant, namespace) = (self.tenant.clone(), self.namespace);
        move |room| Place {
            tenant: tenant.clone(),
            namespace,
            room: ROOMS[room],
        }
    }

    fn place(&self, room: usize) -> Place {
        self.place_of()(room)
    }

    fn asks(&mut self, event: &str, data: Value, pending: Pending) {
        self.asked += 1;
        let id = self.asked;
        let text = match (self.is_live, self.namespace) {
            (true, _) => {
                let id = id.to_string();
                json!({ "type": "emit", "event": event, "data": data, "id": id }).to_string()
            }
            (false, "/") => format!("42{id}{}", json!([event, data])),
            (false, namespace) => format!("42{namespace},{id}{}", json!([event, data])),
        };
        self.client.as_mut().unwrap().says(&text);
        self.pending.insert(id, pending);
    }

    fn subject(subject: Subject) -> Value {
        match subject {
            Subject::List(list) => json!({ "users": LISTS[list] }),
            Subject::Room(room) => json!({ "room": ROOMS[room] }),
        }
    }

    // --- what it does ----------------------------------------------------

    /// Watches, from where it stands if it does; nothing if it watches that already, and has lost
    /// nothing.
    pub(super) fn watches(&mut self, subject: Subject) {
        let mut data = Reader::subject(subject);
        let asks = |pending: &Pending| matches!(pending, Pending::Watch(of) if *of == subject);
        if self.pending.values().any(asks) {
            return;
        }
        if let Some(mirror) = self.mirrors.get_mut(&subject) {
            mirror.state = match mirror.state {
                State::Over => State::Asked,
                State::Lost => State::AskedAgain,
                _ => return,
            };
            data["after"] = json!({ "epoch": mirror.epoch, "rev": mirror.rev });
        }
        self.asks("presence:watch", data, Pending::Watch(subject));
    }

    /// Does not watch something any more, or nothing at all.
    pub(super) fn unwatches(&mut self, subject: Option<Subject>, by_epoch: bool) {
        let mirror = subject.and_then(|subject| self.mirrors.get(&subject));
        let data = match (subject, mirror) {
            (None, _) => json!({}),
            (Some(_), Some(mirror)) if by_epoch && mirror.state == State::Follows => {
                json!({ "epoch": mirror.epoch })
            }
            (Some(subject), _) => Reader::subject(subject),
        };
        self.asks("presence:unwatch", data, Pending::Unwatch(subject));
    }

    /// Goes into a room, or leaves it.
    pub(super) fn turns(&mut self, room: usize) {
        let asks = |pending: &Pending| match pending {
            Pending::Join(of) | Pending::Leave(of) => *of == room,
            _ => false,
        };
        if self.pending.values().any(asks) {
            return;
        }
        let data = json!({ "room": ROOMS[room] });
        match self.rooms.contains(&room) {
            true => self.asks("leave", data, Pending::Leave(room)),
            false => self.asks("join", data, Pending::Join(room)),
        }
    }

    /// Loses whatever comes of something from here on, until it asks again.
    pub(super) fn loses(&mut self, subject: Subject) {
        if let Some(mirror) = self.mirrors.get_mut(&subject)
            && mirror.state == State::Follows
        {
            mirror.state = State::Lost;
        }
    }

    // --- what it hears ---------------------------------------------------

    /// Takes in what has come.
    pub(super) fn hears(&mut self, store: &mut Store, pace: &Pace, now: u64) {
        let Some(client) = &mut self.client else {
            return;
        };
        for text in client.hears() {
            match told(&text) {
                Some(Told::Answer(id, answer)) => {
                    let pending = self.pending.remove(&id).expect("an answer to a question");
                    self.answered(pending, &answer, (store, pace, now));
                }
                Some(Told::Change(change)) => self.changed(&change, store, now),
                None => assert!(text != "end" && !text.starts_with("close"), "{text}"),
            }
        }
    }

    fn answered(&mut self, pending: Pending, answer: &Value, at: (&mut Store, &Pace, u64)) {
        let (store, pace, now) = at;
        let is_refused = answer["ok"] == false;
        match pending {
            Pending::Watch(subject) => self.shown(subject, answer, store, now),
            Pending::Unwatch(which) => {
                assert!(!is_refused, "{answer}");
                for (subject, mirror) in &mut self.mirrors {
                    // What it has asked for is answered by itself.
                    let is_told = matches!(mirror.state, State::Follows | State::Lost);
                    if is_told && which.is_none_or(|which| which == *subject) {
                        mirror.state = State::Over;
                    }
                }
            }
            Pending::Join(room) => {
                assert!(!is_refused && self.rooms.insert(room), "{answer}");
                let known_by = now + pace.told();
                store.moves(&self.place(room), &self.user, (HERE, true), known_by);
            }
            Pending::Leave(room) => {
                assert!(!is_refused && self.rooms.remove(&room), "{answer}");
                let known_by = now + pace.told();
                store.moves(&self.place(room), &self.user, (HERE, false), known_by);
                let mirror = self.mirrors.get(&Subject::Room(room));
                let state = mirror.map(|mirror| mirror.state);
                assert_ne!(state, Some(State::Follows), "nobody said that it is over");
            }
        }
    }

    /// The answer to a question to watch something.
    fn shown(&mut self, subject: Subject, answer: &Value, store: &Store, now: u64) {
        let mirror = self.mirrors.get_mut(&subject);
        if answer["ok"] == false {
            // It was given up meanwhile, by a word that it has said itself.
            assert_eq!(answer["code"], "DISCONNECTED", "{answer}");
            if let Some(mirror) = mirror {
                mirror.state = State::Over;
            }
            return;
        }
        let number = |name: &str| answer[name].as_u64().unwrap();
        let epoch = answer["epoch"].as_str().unwrap().to_owned();
        let (rev, head, as_of) = (number("rev"), number("head"), number("asOf"));
        let stale = answer["stale"] == true;
        if answer["recovered"] == true {
            let mirror = mirror.expect("it had a picture");
            let place = (&*mirror.epoch, mirror.rev);
            assert_eq!((&*epoch, rev), place, "it goes on where the client stood");
            assert!(head >= rev && answer["users"] == json!([]), "{answer}");
            (mirror.state, mirror.head, mirror.stale) = (State::Follows, head, stale);
            mirror.as_of = as_of;
        } else {
            assert_eq!(rev, head, "a new picture has all");
            let mirror = Mirror {
                state: State::Follows,
                epoch,
                rev,
                head,
                stale,
                as_of,
                users: BTreeMap::new(),
                wrong: BTreeMap::new(),
            };
            self.mirrors.insert(subject, mirror);
            self.take(subject, answer, store);
        }
        self.looked_through(subject, store, now);
    }

    fn changed(&mut self, change: &Value, store: &Store, now: u64) {
        let found = self.mirrors.iter_mut().find(|(subject, mirror)| {
            let room = match subject {
                Subject::Room(room) => json!(ROOMS[*room]),
                Subject::List(_) => Value::Null,
            };
            mirror.epoch == change["epoch"] && change["room"] == room
        });
        let asks = |pending: &Pending| match pending {
            Pending::Watch(Subject::Room(room)) => change["room"] == ROOMS[*room],
            _ => false,
        };
        let Some((&subject, mirror)) = found else {
            // Whoever leaves a room is told before there was a picture, too.
            let is_asked = self.pending.values().any(asks);
            assert!(
                is_asked && change["ended"] == "LEFT",
                "of nothing: {change}"
            );
            return;
        };
        let rev = change["rev"].as_u64().unwrap();
        if let Some(why) = change["ended"].as_str() {
            assert_eq!(why, "LEFT", "{change}");
            assert_ne!(mirror.state, State::Over, "it is over already: {change}");
            if mirror.state == State::Follows {
                assert_eq!(rev, mirror.rev, "the end has the last one's number");
            }
            mirror.state = State::Over;
            return;
        }
        match mirror.state {
            State::Lost | State::AskedAgain => return,
            State::Follows => {}
            State::Asked | State::Over => panic!("it does not watch this: {change}"),
        }
        assert_eq!(rev, mirror.rev + 1, "a hole: {change}");
        mirror.rev = rev;
        mirror.stale = change["stale"] == true;
        mirror.as_of = change["asOf"].as_u64().unwrap();
        self.take(subject, change, store);
        self.looked_through(subject, store, now);
    }

    /// Puts the users of a picture or a change into the mirror.
    fn take(&mut self, subject: Subject, said: &Value, store: &Store) {
        let mirror = self.mirrors.get_mut(&subject).unwrap();
        for user in said["users"].as_array().unwrap() {
            let id = user["userId"].as_str().unwrap();
            let (online, rev) = (user["online"] == true, user["rev"].as_u64().unwrap());
            let last = self.revs.entry((subject, id.to_owned())).or_default();
            // Nothing is known of who could not be asked about.
            assert!(
                rev >= *last || rev == 0,
                "{id} goes back from {last}: {said}"
            );
            *last = rev.max(*last);
            let name = (self.tenant.clone(), Arc::from(id));
            if rev > 0 {
                let after = store.after(&name, rev);
                assert!(after.is_some(), "{id} has no change {rev}: {said}");
                let is_one = !store.is_of_one_type(&name) || after == Some(online);
                assert!(is_one, "{id} was otherwise after {rev}: {said}");
            }
            let last_seen = user["lastSeenAt"].as_u64();
            let seen = Seen {
                online,
                rev,
                last_seen,
            };
            match user["in"] == false {
                true => mirror.users.remove(id),
                false => mirror.users.insert(id.to_owned(), seen),
            };
        }
    }

    // --- whether it is so ------------------------------------------------

    /// Nothing is missing until `asOf`: each user is what they were at some time since.
    fn looked_through(&self, subject: Subject, store: &Store, now: u64) {
        let mirror = &self.mirrors[&subject];
        assert!(mirror.as_of <= now, "nothing is told of the future");
        if mirror.rev < mirror.head && mirror.state == State::Follows {
            // The answer is of its head.
            return;
        }
        for (user, seen) in &mirror.users {
            let name: Name = (self.tenant.clone(), user.as_str().into());
            // Of two types, what was lost of one and heard of the other may never have been so
            // at once.
            let is_part = !store.is_of_one_type(&name);
            let is_unknown = mirror.stale && seen.rev == 0;
            assert!(
                is_unknown || is_part || store.was(&name, seen.online, mirror.as_of),
                "{user} was not {seen:?} since {}, {} ms ago: {mirror:?}",
                mirror.as_of,
                now - mirror.as_of
            );
        }
    }

    /// Whether anything is believed that is wrong for longer than that can be. `doubted`: since
    /// when the node knows that it knows nothing.
    pub(super) fn is_right(&mut self, store: &Store, pace: &Pace, doubted: Option<u64>, now: u64) {
        let place = self.place_of();
        for (subject, mirror) in &mut self.mirrors {
            let is_complete = mirror.rev >= mirror.head && !mirror.stale;
            if mirror.state != State::Follows || !is_complete {
                mirror.wrong.clear();
                continue;
            }
            let since = doubted.unwrap_or(now);
            assert!(
                now - since <= pace.told(),
                "nobody says that this is in doubt"
            );
            for (user, seen) in &mirror.users {
                let name: Name = (self.tenant.clone(), user.as_str().into());
                if store.is_online(&name) == seen.online {
                    mirror.wrong.remove(user);
                    continue;
                }
                let since = *mirror.wrong.entry(user.clone()).or_insert(now);
                let is_late = now - since > pace.told();
                assert!(!is_late, "{user} is not {seen:?}: {mirror:?}");
            }
            let Subject::Room(room) = subject else {
                continue;
            };
            for user in super::NAMES {
                let (is_in, known_by) = store.is_in(&place(*room), user);
                let is_shown = mirror.users.contains_key(user);
                assert!(
                    is_in == is_shown || now <= known_by,
                    "{user} in {}: {is_in}, to be known by {known_by}, it is {now}: {mirror:?}",
                    ROOMS[*room]
                );
            }
        }
    }

    /// Whether all is known, as nothing has happened for long.
    pub(super) fn knows_all(&self, store: &Store) {
        assert!(self.pending.is_empty(), "no answer to {:?}", self.pending);
        for (subject, mirror) in &self.mirrors {
            if mirror.state != State::Follows {
                continue;
            }
            assert!(!mirror.stale, "in doubt for ever: {subject:?} {mirror:?}");
            assert_eq!(mirror.rev, mirror.head.max(mirror.rev), "{mirror:?}");
            let whom: Vec<&str> = match subject {
                Subject::List(list) => LISTS[*list].to_vec(),
                Subject::Room(room) => {
                    let place = self.place(*room);
                    let mut all = super::NAMES.to_vec();
                    all.retain(|user| store.is_in(&place, user).0);
                    all
                }
            };
            assert!(mirror.users.keys().eq(whom.iter()), "{whom:?}: {mirror:?}");
            for (user, seen) in &mirror.users {
                let name: Name = (self.tenant.clone(), user.as_str().into());
                let online = store.is_online(&name);
                let last_seen = store.last_seen(&name).filter(|_| !online);
                let so = (online, store.rev(&name), last_seen);
                let told = (seen.online, seen.rev, seen.last_seen);
                assert_eq!(told, so, "{user} in {subject:?}");
            }
        }
    }
}
