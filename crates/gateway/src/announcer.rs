//! Changes of presence on their way to those who are to know.
//!
//! The first leaves at once; what follows it within a moment leaves together, in one
//! write to each socket. So a thousand logins a second cost each client twenty
//! writes, not a thousand.
//!
//! Where nodes share a line of kept events, changes go by it: whoever was away is told of them
//! at their place among everything else. Each node reads them all, and the first to do so puts
//! them there for all.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use hashbrown::HashMap;
use heartline_core::auth::UserKey;
use heartline_core::backplane::line::{Changes, ChangesPart};
use heartline_core::line::ring::{Kept, Only};
use heartline_core::line::shelf::ScopeRef;
use heartline_core::message::Message;
use heartline_core::namespaces::NamespaceId;
use heartline_core::policy::Announce;
use heartline_core::presence::{Edge, RoomAddress};
use heartline_core::rooms::Room;
use serde::{Deserialize, Serialize};
use tokio::sync::Notify;

use crate::fanout::Fanout;
use crate::op::Op;
use crate::publication::{Publication, Told};
use crate::recovery::Recovery;

/// How long changes are gathered after some have left.
const WINDOW: Duration = Duration::from_millis(50);
/// Changes of presence in one write: a bound on what a client has to take at once.
const MAX_EDGES_PER_WRITE: usize = 256;
/// Changes in one event of the line, and their bytes: less than what is kept of one event.
const MAX_EDGES_IN_LINE: usize = 128;
const MAX_BYTES_IN_LINE: usize = 32 << 10;
/// The name of such an event.
const CHANGES: &str = "presence:changes";

/// Changes that wait to be told.
#[derive(Default)]
struct Waiting {
    edges: Vec<Edge>,
    /// Which of them come after some that are gone.
    after_holes: Vec<usize>,
    /// Some that were taken may not have been told yet.
    is_telling: bool,
}

/// Changes of presence on their way.
#[derive(Default)]
pub(crate) struct Announcer {
    waiting: Mutex<Waiting>,
    work: Notify,
    done: Notify,
}

impl Announcer {
    fn waiting(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Tells these after those that came before. Does not wait, and calls nobody.
    pub(crate) fn push(&self, edges: impl IntoIterator<Item = Edge>) {
        self.waiting().edges.extend(edges);
        self.work.notify_one();
    }

    /// Some are gone before those that come next.
    pub(crate) fn missed(&self) {
        let mut waiting = self.waiting();
        let at = waiting.edges.len();
        waiting.after_holes.push(at);
    }

    /// What waits, in pieces without a hole.
    fn take(&self) -> (Vec<Edge>, Vec<usize>) {
        let mut waiting = self.waiting();
        let Waiting {
            edges, after_holes, ..
        } = std::mem::take(&mut *waiting);
        waiting.is_telling = !edges.is_empty();
        if edges.is_empty() {
            self.done.notify_waiters();
        }
        (edges, after_holes)
    }

    /// Resolves when all that has happened was told.
    pub(crate) async fn quiet(&self) {
        loop {
            let done = self.done.notified();
            tokio::pin!(done);
            done.as_mut().enable();
            let is_done = {
                let waiting = self.waiting();
                waiting.edges.is_empty() && !waiting.is_telling
            };
            if is_done {
                return;
            }
            done.await;
        }
    }
}

/// Tells until it is aborted, or the gateway has gone.
pub(crate) async fn run(announcer: Arc<Announcer>, fanout: Weak<Fanout>) {
    // The number of the last change that was read.
    let mut known = 0;
    loop {
        let (edges, holes) = announcer.take();
        if edges.is_empty() {
            if !holes.is_empty() {
                known = 0;
            }
            announcer.work.notified().await;
            continue;
        }
        let mut from = 0;
        for to in holes.iter().copied().chain([edges.len()]) {
            let piece = edges.get(from..to).unwrap_or_default();
            if !tell(&fanout, piece, &mut known).await {
                return;
            }
            if to < edges.len() || holes.last() == Some(&to) {
                known = 0;
            }
            from = to;
        }
        tokio::time::sleep(WINDOW).await;
    }
}

/// Tells some changes that follow each other; false: the gateway has gone.
async fn tell(fanout: &Weak<Fanout>, edges: &[Edge], known: &mut u64) -> bool {
    let mut rest = edges;
    while !rest.is_empty() {
        let Some(there) = fanout.upgrade() else {
            return false;
        };
        let common = there.common().filter(|(recovery, _)| recovery.keeps_all());
        // Those that other versions have written have no numbers.
        let is_numbered = rest.first().is_some_and(|edge| edge.number > 0);
        let alike = rest
            .iter()
            .position(|edge| (edge.number > 0) != is_numbered);
        let (alike, others) = rest.split_at(alike.unwrap_or(rest.len()));
        let Some((recovery, common)) = common.filter(|_| is_numbered) else {
            announce_and_note(&there, alike);
            rest = others;
            continue;
        };
        if alike.first().is_some_and(|edge| edge.number <= *known) {
            // The registry counts anew.
            *known = 0;
        }
        let (changes, count) = changes(&there, alike, *known);
        let to = changes.to;
        // Where numbers may have gone back, what was told before says nothing.
        let is_told = *known > 0 && recovery.edges_told() >= to;
        let is_said = is_told || common.say_changes(changes).await;
        if is_said && !is_told {
            recovery.note_edges_told(to);
        }
        if is_said {
            *known = to;
            rest = rest.get(count..).unwrap_or_default();
        } else {
            tokio::time::sleep(WINDOW).await;
        }
    }
    true
}

/// Tells of some changes, which a journal has so that whatever becomes of this process, who was
/// told that somebody is online is told of the end of it.
fn announce_and_note(fanout: &Fanout, edges: &[Edge]) {
    let recovery = fanout.recovery.as_ref();
    let journal = recovery.and_then(|recovery| recovery.journal.as_ref());
    let changes = edges.iter().filter(|edge| edge.others.is_none());
    if let Some(journal) = journal {
        journal.online(changes.clone().filter(|edge| edge.online));
    }
    announce(fanout, edges);
    if let Some(journal) = journal {
        journal.offline(changes.filter(|edge| !edge.online));
    }
}

/// What is told of the first of some changes to whom, and how many of them these are.
fn changes(fanout: &Fanout, edges: &[Edge], known: u64) -> (Changes, usize) {
    let first = edges.first().map_or(0, |edge| edge.number);
    let mut changes = Changes {
        after: if known > 0 {
            known
        } else {
            first.saturating_sub(1)
        },
        to: first,
        parts: Vec::new(),
    };
    let mut bytes = 0;
    let mut some: Vec<(&Edge, String)> = Vec::new();
    for edge in edges.iter().take(MAX_EDGES_IN_LINE) {
        let written = serde_json::to_string(&Written::of(edge)).unwrap_or_default();
        bytes += written.len();
        if bytes > MAX_BYTES_IN_LINE && !some.is_empty() {
            break;
        }
        changes.to = edge.number;
        some.push((edge, written));
    }
    let mut tenants: HashMap<Option<&Arc<str>>, Vec<&(&Edge, String)>> = HashMap::new();
    for one in &some {
        let tenant = one.0.user.tenant_id.as_ref();
        tenants.entry(tenant).or_default().push(one);
    }
    for (_, namespace) in fanout.namespaces.iter() {
        for (tenant, all) in &tenants {
            let is_told = |edge: &Edge| match namespace.config.announce {
                Announce::Namespace => edge.others.is_none(),
                Announce::Rooms => edge
                    .rooms
                    .iter()
                    .any(|room| room.namespace == namespace.name),
                Announce::Off => false,
            };
            let told = all.iter().filter(|(edge, _)| is_told(edge));
            let told: Vec<&str> = told.map(|(_, written)| &**written).collect();
            if !told.is_empty() {
                changes.parts.push(ChangesPart {
                    namespace: namespace.name.clone(),
                    tenant: tenant.cloned(),
                    count: told.len(),
                    message: Message::new(CHANGES, &format!("[{}]", told.join(","))),
                });
            }
        }
    }
    (changes, some.len())
}

/// A change as the line has it.
#[derive(Serialize, Deserialize)]
struct Written {
    n: u64,
    user: String,
    kind: Option<String>,
    online: bool,
    rev: u64,
    at: u64,
    /// Each with its namespace.
    rooms: Vec<(String, String)>,
    others: Option<Vec<(String, String)>>,
}

impl Written {
    fn of(edge: &Edge) -> Written {
        let names = |place: &RoomAddress| (place.namespace.to_string(), place.room.to_string());
        let others = edge.others.as_ref();
        Written {
            n: edge.number,
            user: edge.user.user_id.to_string(),
            kind: edge.user.user_type.as_deref().map(Into::into),
            online: edge.online,
            rev: edge.rev,
            at: edge.at,
            rooms: edge.rooms.iter().map(names).collect(),
            others: others.map(|others| others.list().iter().map(names).collect()),
        }
    }

    fn read(self, tenant: Option<&Arc<str>>) -> Edge {
        let place = |(namespace, room): (String, String)| RoomAddress {
            namespace: namespace.into(),
            room: room.into(),
        };
        Edge {
            user: Arc::new(UserKey {
                tenant_id: tenant.cloned(),
                user_id: self.user.into(),
                user_type: self.kind.map(Into::into),
            }),
            online: self.online,
            rev: self.rev,
            at: self.at,
            number: self.n,
            rooms: self.rooms.into_iter().map(place).collect(),
            others: self
                .others
                .map(|others| others.into_iter().map(place).collect()),
        }
    }
}

/// Reads changes that have come by the line, each of which has a number there. `None`: it cannot
/// be read. What is no list of changes is one that cannot.
pub(crate) fn read(message: &Message, tenant: Option<&Arc<str>>) -> Vec<Option<Edge>> {
    if let Ok(written) = serde_json::from_str::<Vec<Written>>(&message.args) {
        let read = written.into_iter().map(|one| Some(one.read(tenant)));
        return read.collect();
    }
    let Ok(written) = serde_json::from_str::<Vec<serde_json::Value>>(&message.args) else {
        return vec![None];
    };
    let read = written.into_iter().map(|one| {
        let one: Written = serde_json::from_value(one).ok()?;
        Some(one.read(tenant))
    });
    read.collect()
}

/// Changes that can be read as they are kept, with their numbers in the line, of which this is the
/// last. Those up to a number were said before.
pub(crate) fn kept(
    fanout: &Fanout,
    recovery: &Recovery,
    (namespace, edges): (NamespaceId, &[Edge]),
    (last, after): (u64, u64),
) -> Vec<Kept> {
    let (name, now) = (&fanout.namespaces.get(namespace).name, fanout.clock.now());
    let announce = fanout.namespaces.get(namespace).config.announce;
    let first = (last + 1).saturating_sub(edges.len() as u64);
    let new = (first..).zip(edges).filter(|(_, edge)| edge.number > after);
    let kept = new.map(|(id, edge)| {
        let only = match announce {
            Announce::Rooms => for_whom(name, edge, names_in(name, &edge.rooms)),
            _ => Only {
                about: Some(edge.user.clone()),
                ..Only::default()
            },
        };
        Kept {
            id,
            ..recovery.kept(&edge_message(edge), only, now)
        }
    });
    kept.collect()
}

/// Tells those here of changes that have come by the line.
pub(crate) fn tell_here(
    fanout: &Fanout,
    namespace: NamespaceId,
    tenant: Option<&Arc<str>>,
    edges: &[Edge],
    told: impl Fn(usize) -> Told,
) {
    let name = fanout.namespaces.get(namespace).name.clone();
    if edges.is_empty() {
        return;
    }
    match fanout.namespaces.get(namespace).config.announce {
        Announce::Namespace => {
            let messages = edges.iter().map(edge_message).collect();
            let about: Arc<[Arc<UserKey>]> = edges.iter().map(|edge| edge.user.clone()).collect();
            let publication = Publication::of_many(name, messages).at(Some(told(0)));
            let publication = Arc::new(publication);
            fanout.post_to_all(|| Op::Broadcast {
                namespace,
                tenant: tenant.cloned(),
                publication: publication.clone(),
                about: Some(about.clone()),
            });
        }
        Announce::Rooms => {
            for (index, edge) in edges.iter().enumerate() {
                let tenant = tenant.map(|tenant| &**tenant);
                let rooms = fanout.find_rooms(namespace, tenant, &edge.rooms);
                post_around(
                    fanout,
                    &name,
                    (edge, rooms),
                    edge_message(edge),
                    Some(told(index)),
                );
            }
        }
        Announce::Off => {}
    }
}

fn edge_message(edge: &Edge) -> Message {
    let user = &edge.user;
    let data = serde_json::json!({
        "userId": &*user.user_id,
        "userType": user.user_type.as_deref(),
        "at": edge.at,
        "rev": edge.rev,
    });
    let event = if edge.online {
        "user:online"
    } else {
        "user:offline"
    };
    Message::new(event, &data.to_string())
}

/// Tells those here who are to know of changes of presence: everybody but the
/// user's own sockets.
fn announce(fanout: &Fanout, edges: &[Edge]) {
    let mut tenants: HashMap<Option<&Arc<str>>, Vec<&Edge>> = HashMap::new();
    for edge in edges.iter().filter(|edge| edge.others.is_none()) {
        let tenant = edge.user.tenant_id.as_ref();
        tenants.entry(tenant).or_default().push(edge);
    }
    for (id, namespace) in fanout.namespaces.iter() {
        match namespace.config.announce {
            Announce::Namespace => {
                for (tenant, edges) in &tenants {
                    for edges in edges.chunks(MAX_EDGES_PER_WRITE) {
                        announce_some(fanout, id, &namespace.name, *tenant, edges);
                    }
                }
            }
            Announce::Rooms => {
                for edge in edges {
                    announce_around(fanout, id, &namespace.name, edge);
                }
            }
            Announce::Off => {}
        }
    }
}

fn announce_some(
    fanout: &Fanout,
    namespace: NamespaceId,
    name: &Arc<str>,
    tenant: Option<&Arc<str>>,
    edges: &[&Edge],
) {
    let messages: Vec<Message> = edges.iter().map(|edge| edge_message(edge)).collect();
    let about: Arc<[Arc<UserKey>]> = edges.iter().map(|edge| edge.user.clone()).collect();
    let scope = ScopeRef {
        namespace,
        tenant: tenant.map(|tenant| &**tenant),
        user: None,
    };
    let post = |messages, place| {
        let publication = Publication::of_many(name.clone(), messages).at(place);
        let publication = Arc::new(publication);
        fanout.post_to_all(|| Op::Broadcast {
            namespace,
            tenant: tenant.cloned(),
            publication: publication.clone(),
            about: Some(about.clone()),
        });
    };
    match fanout
        .recovery
        .as_ref()
        .filter(|recovery| recovery.common.is_none() && recovery.keeps_all())
    {
        None => post(messages, None),
        Some(recovery) => {
            let now = fanout.clock.now();
            let events: Vec<Kept> = std::iter::zip(&messages, about.iter())
                .map(|(message, about)| {
                    let only = Only {
                        about: Some(about.clone()),
                        ..Only::default()
                    };
                    recovery.kept(message, only, now)
                })
                .collect();
            recovery.keep(scope, events, |place| post(messages, place));
        }
    }
}

/// Tells the members of the rooms that a change concerns.
fn announce_around(fanout: &Fanout, namespace: NamespaceId, name: &Arc<str>, edge: &Edge) {
    let tenant = edge.user.tenant_id.as_deref();
    let rooms = fanout.find_rooms(namespace, tenant, &edge.rooms);
    if rooms.is_empty() {
        return;
    }
    let scope = ScopeRef {
        namespace,
        tenant,
        user: None,
    };
    let names = rooms.iter().map(|room| room.key.name.to_string()).collect();
    fanout.say(
        scope,
        Recovery::keeps_all,
        edge_message(edge),
        || for_whom(name, edge, names),
        |message, place| post_around(fanout, name, (edge, rooms.clone()), message, place),
    );
}

/// Who hears of a change that is told to the members of some rooms of a namespace.
fn for_whom(namespace: &Arc<str>, edge: &Edge, rooms: Vec<String>) -> Only {
    Only {
        about: Some(edge.user.clone()),
        among: Some(rooms.into()),
        except: match &edge.others {
            Some(others) => names_in(namespace, &others.list()).into(),
            None => Box::default(),
        },
        ..Only::default()
    }
}

/// The rooms of a namespace.
fn names_in(namespace: &Arc<str>, places: &[RoomAddress]) -> Vec<String> {
    let here = places.iter().filter(|place| place.namespace == *namespace);
    here.map(|place| place.room.to_string()).collect()
}

fn post_around(
    fanout: &Fanout,
    name: &Arc<str>,
    (edge, rooms): (&Edge, Vec<Arc<Room>>),
    message: Message,
    place: Option<Told>,
) {
    let publication = Publication::new(name.clone(), message, None, None, None).at(place);
    let publication = Arc::new(publication);
    fanout.post_to_all(|| Op::DeliverAround {
        user: edge.user.clone(),
        rooms: rooms.clone(),
        others: edge.others.clone(),
        publication: publication.clone(),
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    fn edge(number: u64) -> Edge {
        Edge {
            user: Arc::new(UserKey {
                tenant_id: None,
                user_id: format!("u{number}").into(),
                user_type: None,
            }),
            online: true,
            rev: 5,
            at: 7,
            number,
            rooms: Vec::new(),
            others: None,
        }
    }

    #[test]
    fn a_change_in_the_line_that_cannot_be_read_takes_no_other_with_it() {
        let written = |number| serde_json::to_string(&Written::of(&edge(number))).unwrap();
        let strange = written(2).replace("\"online\":true", "\"online\":\"perhaps\"");
        let read = |args: &str| {
            let edges = read(&Message::new(CHANGES, args), None).into_iter();
            let numbers = edges.map(|edge| edge.map(|edge| edge.number));
            numbers.collect::<Vec<Option<u64>>>()
        };
        let all = [written(1), strange, written(3)].join(",");
        assert_eq!(read(&format!("[{all}]")), [Some(1), None, Some(3)]);
        let good = [written(1), written(3)].join(",");
        assert_eq!(read(&format!("[{good}]")), [Some(1), Some(3)]);
        assert_eq!(read("nonsense"), [None]);
        assert_eq!(read("[]"), []);
    }
}
