//! Which handler an event has: by namespace, name, family, or none of these.

use std::future::Future;
use std::net::IpAddr;
use std::sync::Arc;

use heartline_core::auth::{BoxFuture, Identity};
use heartline_core::namespaces::NamespaceId;
use heartline_wire::handshake::Handshake;
use heartline_wire::socketio::RESERVED_EVENTS;

use super::{Erased, ErasedHandler, Handler};
use crate::event::ConnectRefused;
use crate::gateway::GatewayCell;

/// Somebody who has proved to be `identity` and is not let in yet.
#[derive(Debug, Clone)]
pub struct Arrival {
    /// Who it is.
    pub identity: Arc<Identity>,
    /// The namespace that is to be joined.
    pub namespace: String,
    /// The CONNECT payload as JSON text.
    pub payload: Option<String>,
    /// The client's address.
    pub remote_addr: IpAddr,
    /// The HTTP request by which the connection began.
    pub handshake: Arc<Handshake>,
}

/// Decides who comes in.
pub(crate) type Admission =
    Box<dyn Fn(Arrival) -> BoxFuture<Result<(), ConnectRefused>> + Send + Sync>;

/// Handlers of one namespace, or of all.
#[derive(Default)]
pub struct HandlerSet {
    exact: hashbrown::HashMap<Box<str>, Box<dyn ErasedHandler>>,
    /// By what stands before a colon, from names like `join:*`.
    families: hashbrown::HashMap<Box<str>, Box<dyn ErasedHandler>>,
    /// Bytes of the longest of them: what stands before a colon that comes later is none.
    longest: usize,
    /// For events that nothing else handles.
    any: Option<Box<dyn ErasedHandler>>,
    connect: Vec<Box<dyn ErasedHandler>>,
    disconnect: Vec<Box<dyn ErasedHandler>>,
    pub(crate) admissions: Vec<Admission>,
    needs_handshake: bool,
}

impl HandlerSet {
    /// Handles an event; a later handler of the same name takes an earlier one's place. A
    /// name that ends in `:*` handles all events that begin with what stands before the star, of
    /// several such the longest, and `*` all others, unless they have a handler of their own. A
    /// name that no event can have is refused by [`build`](crate::GatewayBuilder::build).
    pub fn on<A: 'static>(mut self, event: &str, handler: impl Handler<A>) -> Self {
        self.insert(event, handler);
        self
    }

    /// The same, unless there is a handler of this very name already.
    pub fn or_on<A: 'static>(self, event: &str, handler: impl Handler<A>) -> Self {
        match self.contains(event) {
            true => self,
            false => self.on(event, handler),
        }
    }

    /// Runs for each socket that has connected; of several, each, in the order in which they were
    /// added, a namespace's own before those of all. The CONNECT payload is the event's first
    /// argument. An error is told to the client as `message:error`; the socket stays.
    pub fn on_connect<A: 'static>(mut self, handler: impl Handler<A>) -> Self {
        let handler = self.note(Erased::boxed(handler));
        self.connect.push(handler);
        self
    }

    /// Runs for each socket that has gone, in the same order. Besides the usual arguments it may take the
    /// [`Reason`](crate::Reason) and the [`LeftRooms`](super::LeftRooms).
    pub fn on_disconnect<A: 'static>(mut self, handler: impl Handler<A>) -> Self {
        let handler = self.note(Erased::boxed(handler));
        self.disconnect.push(handler);
        self
    }

    /// Decides about each socket before it connects, when its token has been looked at:
    /// those of all namespaces before the namespace's own, each in the order in which they
    /// were added; the first refusal counts. They share `auth_timeout` with the
    /// authenticator. One that panics refuses with `INTERNAL`.
    pub fn admit<F, Fut>(mut self, decide: F) -> Self
    where
        F: Fn(Arrival) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<(), ConnectRefused>> + Send + 'static,
    {
        self.needs_handshake = true;
        self.admissions
            .push(Box::new(move |arrival| Box::pin(decide(arrival))));
        self
    }

    /// Both, `other` being the later.
    pub(crate) fn merged_with(mut self, other: HandlerSet) -> HandlerSet {
        self.exact.extend(other.exact);
        self.families.extend(other.families);
        self.longest = self.longest.max(other.longest);
        self.any = other.any.or(self.any);
        self.connect.extend(other.connect);
        self.disconnect.extend(other.disconnect);
        self.admissions.extend(other.admissions);
        self.needs_handshake |= other.needs_handshake;
        self
    }

    fn note(&mut self, handler: Box<dyn ErasedHandler>) -> Box<dyn ErasedHandler> {
        self.needs_handshake |= handler.needs_handshake();
        handler
    }

    fn insert<A: 'static>(&mut self, name: &str, handler: impl Handler<A>) {
        let handler = self.note(Erased::boxed(handler));
        match name.strip_suffix(":*") {
            Some(family) => {
                self.longest = self.longest.max(family.len());
                self.families.insert(family.into(), handler);
            }
            None if name == "*" => self.any = Some(handler),
            None => drop(self.exact.insert(name.into(), handler)),
        }
    }

    /// A name of a handler that no event can have: one of Socket.IO's own.
    pub(crate) fn impossible(&self) -> Option<&str> {
        let names = self.exact.keys().map(|name| &**name);
        names.filter(|name| RESERVED_EVENTS.contains(name)).min()
    }

    /// Whether there is a handler under exactly this name.
    fn contains(&self, name: &str) -> bool {
        match name.strip_suffix(":*") {
            Some(family) => self.families.contains_key(family),
            None if name == "*" => self.any.is_some(),
            None => self.exact.contains_key(name),
        }
    }

    /// The handler of this name, or of the longest family that it is of. A client may say a name of
    /// a megabyte of colons: no more of it is looked at for a family than the longest has bytes.
    fn find(&self, name: &str) -> Option<&dyn ErasedHandler> {
        if let Some(handler) = self.exact.get(name) {
            return Some(&**handler);
        }
        if self.families.is_empty() {
            return None;
        }
        let bytes = name.as_bytes();
        let colons = (0..bytes.len().min(self.longest + 1)).rev();
        let mut ends = colons.filter(|&end| bytes[end] == b':');
        let handler = ends.find_map(|end| self.families.get(&name[..end]));
        handler.map(|handler| &**handler)
    }
}

/// The handlers of a gateway.
#[derive(Default)]
pub(crate) struct Handlers {
    /// Those of all namespaces.
    pub(crate) all: HandlerSet,
    /// Those of one namespace, by its number.
    pub(crate) of: Vec<HandlerSet>,
    /// What handlers that ask for the gateway get.
    pub(crate) gateway: GatewayCell,
}

impl Handlers {
    fn sets(&self, namespace: NamespaceId) -> impl Iterator<Item = &HandlerSet> {
        let own = self.of.get(usize::from(namespace.0));
        own.into_iter().chain(std::iter::once(&self.all))
    }

    /// The handler of an event: the namespace's own comes first.
    pub(crate) fn find(&self, namespace: NamespaceId, name: &str) -> Option<&dyn ErasedHandler> {
        let named = self.sets(namespace).find_map(|set| set.find(name));
        named.or_else(|| self.sets(namespace).find_map(|set| set.any.as_deref()))
    }

    /// Those that run when a socket has connected.
    pub(crate) fn connect(
        &self,
        namespace: NamespaceId,
    ) -> impl Iterator<Item = &dyn ErasedHandler> {
        self.sets(namespace)
            .flat_map(|set| &set.connect)
            .map(|handler| &**handler)
    }

    /// Those that run when a socket has gone.
    pub(crate) fn disconnect(
        &self,
        namespace: NamespaceId,
    ) -> impl Iterator<Item = &dyn ErasedHandler> {
        self.sets(namespace)
            .flat_map(|set| &set.disconnect)
            .map(|handler| &**handler)
    }

    /// Those that decide who connects: first those of all namespaces, as what holds
    /// everywhere may be taken for granted by who decides about one.
    pub(crate) fn admissions(&self, namespace: NamespaceId) -> impl Iterator<Item = &Admission> {
        let own = self.of.get(usize::from(namespace.0));
        let sets = std::iter::once(&self.all).chain(own);
        sets.flat_map(|set| &set.admissions)
    }

    /// Whether any of them looks at a connection's first request.
    pub(crate) fn need_handshakes(&self) -> bool {
        self.all.needs_handshake || self.of.iter().any(|set| set.needs_handshake)
    }
}
