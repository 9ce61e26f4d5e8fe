//! A node of a simulation: a real member, the sockets it has, and the ways in which it
//! stops.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use tokio::sync::broadcast::error::RecvError;
use tokio::time::{Instant, sleep};

use super::net::{Net, Process, Ways};
use super::store::{Link, Store, locked};
use crate::member::{Local, Member, Timing};
use crate::registry::{Admission, Displaced, Edge, Entry, Newcomer, NodeInfo, TypedUser, Versions};

/// `cluster.lease_ttl` and `cluster.lease_refresh` of all nodes.
pub(super) const TTL: Duration = Duration::from_secs(15);
const REFRESH: Duration = Duration::from_secs(5);

/// Stops what it wraps while `stopped`, as SIGSTOP does.
pub(super) struct Stoppable<F> {
    pub(super) future: Pin<Box<F>>,
    pub(super) switch: Rc<RefCell<Switch>>,
}

#[derive(Default)]
pub(super) struct Switch {
    pub(super) stopped: bool,
    pub(super) waiting: Vec<Waker>,
}

impl<F: Future> Future for Stoppable<F> {
    type Output = F::Output;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<F::Output> {
        let mut switch = self.switch.borrow_mut();
        if switch.stopped {
            switch.waiting.push(context.waker().clone());
            return Poll::Pending;
        }
        drop(switch);
        self.future.as_mut().poll(context)
    }
}

#[derive(Default)]
pub(super) struct Sockets {
    pub(super) users: BTreeMap<TypedUser, Vec<Entry>>,
    pub(super) heard: Vec<Edge>,
    pub(super) heard_count: usize,
    /// What is heard is only counted: there is much of it.
    pub(super) is_deaf: bool,
    /// Ousted: told to go, and not gone yet.
    pub(super) leaving: Vec<Arc<str>>,
    pub(super) told: Arc<tokio::sync::Notify>,
    /// All changes up to then have been heard.
    pub(super) heard_until: Option<Instant>,
}

pub(super) struct Table(Arc<Mutex<Sockets>>);

impl Local for Table {
    fn users(&self) -> Vec<TypedUser> {
        locked(&self.0).users.keys().cloned().collect()
    }

    fn entries(&self, who: &TypedUser) -> Vec<Entry> {
        locked(&self.0).users.get(who).cloned().unwrap_or_default()
    }

    fn has(&self, who: &TypedUser, socket: &str) -> bool {
        self.entries(who)
            .iter()
            .any(|entry| *entry.socket == *socket)
    }

    fn replace(&self, displaced: &Displaced) {
        let mut sockets = locked(&self.0);
        sockets.leaving.push(displaced.socket.clone());
        sockets.told.notify_one();
    }

    fn announce(&self, edges: &[(u64, Edge)]) {
        let mut sockets = locked(&self.0);
        sockets.heard_count += edges.len();
        if !sockets.is_deaf {
            let edges = edges.iter().map(|(_, edge)| edge.clone());
            sockets.heard.extend(edges);
        }
    }

    fn heard_until(&self, ago: Duration) {
        let mut sockets = locked(&self.0);
        let until = Instant::now() - ago;
        sockets.heard_until = sockets.heard_until.max(Some(until));
    }
}

pub(super) struct Node {
    pub(super) member: Arc<Member<Link, Table>>,
    pub(super) sockets: Arc<Mutex<Sockets>>,
    pub(super) link: Link,
    pub(super) switch: Rc<RefCell<Switch>>,
    pub(super) tasks: Vec<tokio::task::JoinHandle<()>>,
    pub(super) alive: bool,
    /// Edges before it began.
    pub(super) from: usize,
    pub(super) net: Arc<Mutex<Net>>,
}

impl Node {
    pub(super) fn start(
        number: usize,
        tag: u32,
        ways: (&Arc<Mutex<Store>>, &Arc<Mutex<Net>>),
        grace: Duration,
    ) -> Node {
        Node::of_build(number, tag, ways, grace, Versions::OWN)
    }

    /// A node that reads these versions.
    pub(super) fn of_build(
        number: usize,
        tag: u32,
        (store, net): (&Arc<Mutex<Store>>, &Arc<Mutex<Net>>),
        grace: Duration,
        proto: Versions,
    ) -> Node {
        let link = Link {
            store: store.clone(),
            cut: Arc::default(),
            in_doubt: Arc::default(),
        };
        let sockets: Arc<Mutex<Sockets>> = Arc::default();
        let info = NodeInfo {
            node_id: format!("n{number}").into(),
            tag,
            address: "somewhere".into(),
            version: "".into(),
            proto,
            ..NodeInfo::default()
        };
        let timing = Timing {
            ttl: TTL,
            refresh: REFRESH,
            grace,
            failure: locked(net).failure,
        };
        locked(net).processes.insert(tag, Process::Answers);
        let ways = Ways {
            net: net.clone(),
            own: tag,
        };
        let mut nudges = locked(store).nudges.subscribe();
        let process = info.process();
        let (member, requests) = Member::new(link.clone(), Table(sockets.clone()), info, timing);
        let mut node = Node {
            member: member.clone(),
            sockets: sockets.clone(),
            link,
            switch: Rc::default(),
            tasks: Vec::new(),
            alive: true,
            from: locked(store).edges.len(),
            net: net.clone(),
        };
        node.spawn(member.clone().run(requests));
        node.spawn(member.clone().watch_neighbours(ways));
        let (link, nudged) = (node.link.clone(), member.clone());
        node.spawn(async move {
            loop {
                match nudges.recv().await {
                    Ok(whose) if whose == process && !link.cut.load(Ordering::Relaxed) => {
                        sleep(Duration::from_millis(2)).await;
                        nudged.nudge();
                    }
                    Err(RecvError::Closed) => return,
                    _ => {}
                }
            }
        });
        // Ousted sockets go a moment later.
        node.spawn(async move {
            loop {
                let told = locked(&sockets).told.clone();
                told.notified().await;
                sleep(Duration::from_millis(7)).await;
                let leaving = std::mem::take(&mut locked(&sockets).leaving);
                for socket in leaving {
                    close(&member, &sockets, &socket, Duration::ZERO);
                }
            }
        });
        node
    }

    pub(super) fn spawn(&mut self, work: impl Future<Output = ()> + 'static) {
        self.tasks.push(tokio::task::spawn_local(Stoppable {
            future: Box::pin(work),
            switch: self.switch.clone(),
        }));
    }

    fn process(&self, process: Option<Process>) {
        let tag = self.member.info().tag;
        let processes = &mut locked(&self.net).processes;
        match process {
            Some(process) => processes.insert(tag, process),
            None => processes.remove(&tag),
        };
    }

    pub(super) fn stop(&self) {
        if self.alive {
            self.process(Some(Process::Stopped));
        }
        self.switch.borrow_mut().stopped = true;
    }

    pub(super) fn go_on(&self) {
        if self.alive {
            self.process(Some(Process::Answers));
        }
        let waiting = {
            let mut switch = self.switch.borrow_mut();
            switch.stopped = false;
            std::mem::take(&mut switch.waiting)
        };
        waiting.into_iter().for_each(Waker::wake);
    }

    pub(super) fn is_stopped(&self) -> bool {
        self.switch.borrow().stopped
    }

    pub(super) fn kill(&mut self) {
        self.alive = false;
        self.process(None);
        self.go_on();
        for task in self.tasks.drain(..) {
            task.abort();
        }
    }

    pub(super) fn users(&self) -> usize {
        locked(&self.sockets).users.len()
    }

    pub(super) fn is_calm(&self) -> bool {
        self.alive && !self.is_stopped() && !self.link.cut.load(Ordering::Relaxed)
    }
}

/// A socket ends.
pub(super) fn close(
    member: &Member<Link, Table>,
    sockets: &Mutex<Sockets>,
    socket: &str,
    keep: Duration,
) -> bool {
    let mut table = locked(sockets);
    let found = table
        .users
        .iter()
        .find(|(_, entries)| entries.iter().any(|entry| *entry.socket == *socket))
        .map(|(who, _)| who.clone());
    let Some(who) = found else {
        return false;
    };
    let entries = table.users.get_mut(&who).unwrap();
    let index = entries
        .iter()
        .position(|entry| *entry.socket == *socket)
        .unwrap();
    let entry = entries.remove(index);
    if entries.is_empty() {
        table.users.remove(&who);
    }
    drop(table);
    member.disconnect(who, entry.socket, keep);
    true
}

/// Enters a socket that was admitted, or decides by what this node knows.
pub(super) fn enter(
    sockets: &Mutex<Sockets>,
    newcomer: &Newcomer,
    admission: Option<Admission>,
) -> Result<Option<Admission>, ()> {
    let mut table = locked(sockets);
    if matches!(admission, Some(Admission::Refused(_))) {
        return Err(());
    }
    table
        .users
        .entry(newcomer.who.clone())
        .or_default()
        .push(newcomer.entry.clone());
    Ok(admission)
}
