//! What nodes of tests have, by hand: a table of users, and what they were told.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use crate::locked::locked;
use crate::member::Local;
use crate::registry::{DevicesChange, Displaced, Edge, Entry, TypedUser};

#[derive(Default)]
pub(super) struct Table {
    pub(super) users: Mutex<BTreeMap<TypedUser, Vec<Entry>>>,
    /// Who came and went.
    pub(super) heard: Mutex<Vec<Edge>>,
    /// Who was said to be there, to nobody but nodes.
    pub(super) reminded: Mutex<Vec<TypedUser>>,
    /// How many devices users were said to be on.
    pub(super) devices: Mutex<Vec<(String, Option<u32>)>>,
    /// How many had been told who came or went when some were said to be missing.
    pub(super) missed: Mutex<Vec<usize>>,
    /// The same when it was said that all had been told.
    pub(super) all_heard: Mutex<Vec<usize>>,
    /// Whether anybody wants to know how new that is.
    pub(super) is_asked: bool,
}

impl Table {
    fn note(&self, place: &Mutex<Vec<usize>>) {
        let heard = locked(&self.heard).len();
        locked(place).push(heard);
    }
}

impl Local for Arc<Table> {
    fn users(&self) -> Vec<TypedUser> {
        locked(&self.users).keys().cloned().collect()
    }

    fn entries(&self, who: &TypedUser) -> Vec<Entry> {
        locked(&self.users).get(who).cloned().unwrap_or_default()
    }

    fn has(&self, who: &TypedUser, socket: &str) -> bool {
        let entries = self.entries(who);
        entries.iter().any(|entry| *entry.socket == *socket)
    }

    fn replace(&self, _: &Displaced) {}

    fn announce(&self, edges: &[(u64, Edge)]) {
        let edges = edges.iter().map(|(_, edge)| edge.clone());
        let (changes, others): (Vec<Edge>, _) = edges.partition(|edge| edge.others.is_none());
        locked(&self.heard).extend(changes);
        let reminders = others.into_iter().filter(|edge| edge.rooms.is_empty());
        locked(&self.reminded).extend(reminders.map(|edge| edge.who));
    }

    fn missed_edges(&self) {
        self.note(&self.missed);
    }

    fn heard_until(&self, _: Duration) {
        self.note(&self.all_heard);
    }

    fn note_devices(&self, changes: &[DevicesChange], _: bool) {
        let changes = changes.iter();
        let changes = changes.map(|change| (change.user.to_string(), change.devices));
        locked(&self.devices).extend(changes);
    }

    fn is_asked(&self) -> bool {
        self.is_asked
    }
}

/// A user of no tenant and no type.
pub(super) fn user(name: &str) -> TypedUser {
    TypedUser {
        user: format!(":{name}").into(),
        kind: "".into(),
    }
}
