//! How a socket comes to be: credentials, identity, admission, hello.
//!
//! Nothing is registered, announced or counted before the identity is known
//! and the device policy has let the newcomer in. The connection's input
//! waits meanwhile, so what a client sends early is neither lost nor taken
//! for an anonymous socket's. Those who have to go for the newcomer go when it is there.

use std::sync::Arc;

use heartline_core::auth::{AuthError, Credentials, Identity, UserKey};
use heartline_core::line::Place;
use heartline_core::namespaces::NamespaceId;
use heartline_core::policy::AuthMode;
use heartline_core::presence::{Admitted, SocketAddress};
use heartline_engine::shard::engine::Engine;
use heartline_engine::tasks::guarded;
use heartline_wire::codes::Code;
use heartline_wire::id::Slot;
use heartline_wire::live;
use heartline_wire::reason::Reason;
use heartline_wire::time::Micros;
use tokio::sync::oneshot;

use super::Hub;
use super::admission::{Comer, authenticate, take_back};
use super::answers::{About, Called};
use super::deadlines::EXPIRY_SPREAD;
use super::link::{Displaced, Joining, SocketState};
use super::resume::fetching::Earlier;
use super::resume::{Missed, Ticket};
use super::tasks::TaskKind;
use crate::event::{EventError, OTHER_USER};
use crate::handler::{Body, Event, Handle};
use crate::op::{Connecting, Op, Refusal, Replaced};
use crate::publication::Encoding;
use crate::socket::{Socket, presented};

impl Hub {
    /// Begins to let a socket into `namespace`.
    pub(super) fn connect(
        &mut self,
        engine: &mut Engine,
        slot: Slot,
        namespace: NamespaceId,
        token: Option<String>,
        payload: Option<String>,
        mut ticket: Option<Ticket>,
        id: Option<&str>,
    ) {
        let secret = engine.secret();
        let (Some(conn), Some(remote)) = (engine.id(slot), engine.conn(slot).map(|conn| conn.ip()))
        else {
            return;
        };
        let shared = self.shared.clone();
        let handlers = self.handlers.clone();
        let has_connect_handlers = handlers.connect(namespace).next().is_some();
        let before = self.somebody(engine, slot, namespace);
        let Some(link) = self.link_mut(slot) else {
            return;
        };
        let here = Arc::new(());
        let waits = Arc::downgrade(&here);
        // A turn may have begun before the earlier connection did, on another shard.
        let now = engine.now.max(shared.clock.now());
        let earlier = ticket.as_mut();
        let earlier = earlier.and_then(|ticket| Earlier::of(ticket, &shared, remote, now));
        link.joining = Some(Box::new(Joining {
            ticket: ticket.map(Box::new),
            namespace,
            secret,
            payload: payload.clone().filter(|_| has_connect_handlers),
            id: id.map(Into::into),
            _here: here,
            displaced: None,
        }));
        let handshake = link.handshake().cloned();
        engine.pause(slot);
        let mode = shared.fanout.namespaces.get(namespace).config.auth_mode;
        let credentials = Credentials {
            token,
            payload,
            namespace: shared.fanout.namespaces.get(namespace).name.to_string(),
            remote_addr: remote,
            handshake,
        };
        let socket = SocketAddress::new(conn, namespace, secret);
        let comer = Comer {
            socket,
            earlier,
            before,
        };
        let time = shared.config.auth_timeout;
        let work = async move {
            let outcome = authenticate(&shared, &handlers, mode, credentials, comer, waits);
            if let Some(authenticated) = outcome.await {
                let told = authenticated.told(&shared, socket);
                shared.fanout.post(conn.shard, Op::Connecting(told));
            }
        };
        self.start(engine, work, TaskKind::Connect(socket), time);
    }

    /// The socket that a connection has in a namespace, and its user, if it is somebody's.
    fn somebody(
        &self,
        engine: &Engine,
        slot: Slot,
        namespace: NamespaceId,
    ) -> Option<(SocketAddress, Arc<UserKey>)> {
        let socket = self.link(slot)?.socket(namespace)?;
        let user = socket.identity.user.clone()?;
        Some((self.address(engine, slot, namespace)?, user))
    }

    /// The authentication did not come to an end.
    pub(super) fn connect_failed(
        &mut self,
        engine: &mut Engine,
        socket: SocketAddress,
        refusal: Refusal,
    ) {
        self.connecting(
            engine,
            Connecting {
                socket,
                outcome: Err(refusal),
                begin: None,
                is_foreign: false,
                turn: None,
            },
        );
    }

    /// The authentication has ended.
    pub(super) fn connecting(
        &mut self,
        engine: &mut Engine,
        Connecting {
            socket,
            outcome,
            begin,
            is_foreign,
            turn: _turn,
        }: Connecting,
    ) {
        let slot = engine.find(socket.0.conn);
        let joining = slot.and_then(|slot| {
            let link = self.link_mut(slot)?;
            let joining = link
                .joining
                .take_if(|joining| joining.secret == socket.0.secret)?;
            Some((slot, joining))
        });
        let Some((slot, joining)) = joining else {
            // The connection ended meanwhile, or was refused for its slowness.
            if let Ok((identity, admitted)) = &outcome {
                take_back(&self.shared, socket, identity, admitted);
            }
            return;
        };
        match outcome {
            Ok((identity, admitted)) => {
                let mut joining = *joining;
                if let Some(ticket) = joining.ticket.as_mut().filter(|_| is_foreign) {
                    ticket.is_anothers();
                }
                let displaced = joining.displaced.take();
                self.establish(engine, slot, joining, identity.clone(), begin);
                self.close_displaced(&admitted, &identity);
                if let Some(user) = identity.user.as_ref().filter(|_| admitted.reserved) {
                    self.shared.fanout.backplane.established(user, socket);
                }
                if let Some(Displaced { by, node, reason }) = displaced {
                    self.replaced(engine, &socket, by.as_deref(), &node, reason);
                }
            }
            Err(refusal) => self.refuse_connection(engine, slot, &joining, refusal),
        }
        self.listen_again(engine, slot);
        self.rearm(engine, slot);
    }

    /// Those whose places the newcomer took are told and let go.
    fn close_displaced(&self, admitted: &Admitted, newcomer: &Identity) {
        let by = &newcomer.device_id;
        for (list, reason) in [
            (&admitted.replaced, Reason::Replaced),
            (&admitted.evicted, Reason::DeviceLimit),
        ] {
            for &to in list {
                let op = Op::Replaced(Replaced {
                    to,
                    by: by.clone(),
                    node: self.shared.node_id.clone(),
                    reason,
                });
                self.shared.fanout.post(to.0.conn.shard, op);
            }
        }
    }

    fn refuse_connection(
        &mut self,
        engine: &mut Engine,
        slot: Slot,
        joining: &Joining,
        refusal: Refusal,
    ) {
        if refusal == Refusal::OtherUser {
            // It stays who it is.
            let error = EventError::new(Code::Forbidden, OTHER_USER);
            return self.refuse_live(engine, slot, &error, None, joining.id.as_deref());
        }
        self.metrics.refused(refusal.code()).add(1);
        let live = self
            .link(slot)
            .is_some_and(|link| link.encoding == Encoding::Live);
        if live || refusal.is_passing() {
            let has_nothing = refusal == Refusal::Auth(AuthError::Required);
            if has_nothing && self.shared.authenticator.wants_handshake() {
                // There was nothing in the handshake; an `auth` frame may come yet.
                return;
            }
            if live && refusal.has_more_to_say() {
                // The close frame has room for 123 bytes, and none for data.
                let (code, id) = (refusal.code_told(), joining.id.as_deref());
                let data = refusal.data();
                self.send_live(engine, slot, |text| {
                    live::push_refusal(&code, refusal.message(), data.as_deref(), id, text);
                });
            }
            let (reason, code, text) = refusal.closing();
            engine.close_with(slot, reason, code, text);
            return;
        }
        let name = self.namespace_name(joining.namespace).clone();
        let data = refusal.data();
        self.connect_error(engine, slot, &name, refusal.message(), data.as_deref());
    }

    /// The socket exists from here on.
    fn establish(
        &mut self,
        engine: &mut Engine,
        slot: Slot,
        joining: Joining,
        identity: Arc<Identity>,
        begin: Option<Place>,
    ) {
        let namespace = joining.namespace;
        // A live connection that was anonymous so far becomes somebody: what the nobody had
        // joined is left behind, and what was counted is not.
        if let Some(link) = self.link_mut(slot) {
            link.keep_counts(namespace);
        }
        self.forget_socket(engine, slot, namespace, Reason::ClientLeft);
        self.add_socket(engine, slot, namespace, joining.secret, &identity);
        let ticket = joining.ticket.as_deref();
        let missed = ticket.and_then(|ticket| self.take_up(engine, slot, namespace, ticket));
        if missed.is_none() {
            self.note_open(engine, slot, namespace);
        }
        let Some(handle) = self.handle(engine, slot, namespace) else {
            return;
        };
        let socket_id = handle.id();
        tracing::debug!(
            socket_id,
            user_id = identity.user_id(),
            namespace = %self.namespace_name(namespace),
            "connected"
        );
        let name = *handle.name.as_deref().unwrap_or(&handle.address);
        let begin = match (&missed, ticket) {
            (Some(_), Some(ticket)) => ticket.begin(),
            _ => begin,
        };
        let pid = begin.and_then(|begin| self.resume_token(&name, begin));
        let is_live = self
            .link(slot)
            .is_some_and(|link| link.encoding == Encoding::Live);
        if !is_live {
            let reply = (&*socket_id, pid.as_deref());
            self.answer_connect(engine, slot, namespace, reply, missed.as_ref());
        }
        if self.shared.config.hello {
            let id = joining.id.as_deref();
            let pid = pid.as_deref().filter(|_| is_live);
            // What was missed comes after it, each event with its own place.
            let is_told_all = missed
                .as_ref()
                .is_none_or(|missed| missed.events.is_empty());
            let place = self.passing(slot, namespace).filter(|_| is_told_all);
            self.hello(
                engine, slot, namespace, &identity, &socket_id, pid, place, id,
            );
        }
        if let Some(missed) = &missed {
            if is_live {
                self.replay(engine, slot, namespace, missed);
            }
            self.tell_taken(engine, slot, namespace, missed);
        }
        if let Some(ticket) = ticket.filter(|_| is_live) {
            self.resume_topics(engine, slot, ticket);
        }
        self.note_memberships(engine, &identity);
        self.run_connect_handlers(engine, slot, &handle, joining.payload.as_deref());
    }

    /// Answers a CONNECT, and tells what was missed: first where that does no harm, as on Node.
    /// socket.io-client keeps what comes before the answer until that comes, even by another
    /// connection. Had this one broken between the two, it would hear twice what is sent again.
    fn answer_connect(
        &mut self,
        engine: &mut Engine,
        slot: Slot,
        namespace: NamespaceId,
        (socket_id, pid): (&str, Option<&str>),
        missed: Option<&Missed>,
    ) {
        let is_first = engine.is_heard_whole(slot);
        if let Some(missed) = missed.filter(|_| is_first) {
            self.replay(engine, slot, namespace, missed);
        }
        self.connect_reply(engine, slot, namespace, socket_id, pid);
        if let Some(missed) = missed.filter(|_| !is_first) {
            self.replay(engine, slot, namespace, missed);
        }
    }

    fn add_socket(
        &mut self,
        engine: &mut Engine,
        slot: Slot,
        namespace: NamespaceId,
        secret: [u8; 12],
        identity: &Arc<Identity>,
    ) {
        let now = engine.now;
        // Tokens of clients that came together do not expire together.
        let jitter = engine.random_time(EXPIRY_SPREAD);
        // Nor do they get their heartbeats together: the first comes a little earlier.
        let next_heartbeat = self.shared.config.heartbeat.app_interval;
        let next_heartbeat =
            next_heartbeat.map(|every| now + (every - engine.random_time(every / 2)));
        let Some(link) = self.link_mut(slot) else {
            return;
        };
        link.ever_joined = true;
        let counts = link.take_counts(namespace);
        engine.let_in(slot);
        // Almost always the only one.
        link.sockets.reserve_exact(1);
        let expires = identity.expires_at;
        let expires = expires.map_or(Micros::MAX, |at| engine.clock.at_unix_millis(at) + jitter);
        let identity = identity.clone();
        let mut socket = SocketState::new(namespace, secret, identity, expires, counts, now);
        if let Some(at) = next_heartbeat {
            socket.set_next_heartbeat(at);
        }
        link.sockets.push(socket);
        if let Some(transport) = engine.transport_name(slot) {
            self.metrics.connections(transport, namespace).add(1);
        }
    }

    fn run_connect_handlers(
        &mut self,
        engine: &mut Engine,
        slot: Slot,
        handle: &Socket,
        payload: Option<&str>,
    ) {
        let handlers = self.handlers.clone();
        let handshake = self.link(slot).and_then(|link| link.handshake().cloned());
        let socket = || handle.clone();
        for handler in handlers.connect(handle.address.namespace()) {
            let event = Event {
                socket: Handle::new(&socket),
                name: "connect",
                body: Body::Args(payload.unwrap_or("")),
                attachments: &[],
                gateway: &handlers.gateway,
                handshake: handshake.as_ref(),
                ending: None,
            };
            let called = Called::of(guarded(|| handler.call(&event)));
            let about = About {
                address: handle.address,
                name: event.name,
                body: event.body,
                ack: None,
            };
            self.handled(engine, slot, &about, called);
        }
    }

    /// A socket's token was renewed; `reply` is told when that is done.
    pub(super) fn refresh(
        &mut self,
        engine: &mut Engine,
        to: &SocketAddress,
        identity: Arc<Identity>,
        reply: oneshot::Sender<Vec<Arc<str>>>,
    ) {
        let Some(slot) = self.locate(engine, to) else {
            return;
        };
        let expires = identity
            .expires_at
            .map_or(Micros::MAX, |at| engine.clock.at_unix_millis(at));
        let Some(socket) = self
            .link_mut(slot)
            .and_then(|link| link.socket_mut(to.namespace()))
        else {
            return;
        };
        let before = std::mem::replace(&mut socket.identity, identity.clone());
        socket.expires = expires;
        let in_doubt = self.leave_what_was_taken(engine, slot, to.namespace(), &before);
        self.note_granted(engine, slot, to.namespace(), &before);
        self.note_memberships(engine, &identity);
        self.rearm(engine, slot);
        let _ = reply.send(in_doubt);
    }

    /// A live connection has begun: who brought a token, or a handshake that the
    /// authenticator wants, is looked at; who may come without is let in; the others have
    /// `auth_timeout`.
    pub(super) fn live_opened(
        &mut self,
        engine: &mut Engine,
        slot: Slot,
        handshake: heartline_engine::shard::request::Handshake,
    ) {
        let token = handshake.token.and_then(|token| presented(&token));
        let mode = self
            .shared
            .fanout
            .namespaces
            .get(NamespaceId::ROOT)
            .config
            .auth_mode;
        let wants_handshake = self.shared.authenticator.wants_handshake();
        if token.is_some() || mode != AuthMode::Required || wants_handshake {
            self.connect(engine, slot, NamespaceId::ROOT, token, None, None, None);
        }
    }
}
