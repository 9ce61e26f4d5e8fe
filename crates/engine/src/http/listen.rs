//! The public listener: from a TCP connection to one that speaks HTTP. Without TLS the shards
//! accept, and what they do not take up [comes here](super::arrive).

use std::io;
use std::net::IpAddr;
use std::os::fd::{AsRawFd, RawFd};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use hyper::{Method, Request as HttpRequest};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;

use crate::descriptors;
use crate::http::accept::{Door, Inside};
use crate::http::front::{HttpFront, Sender};
use crate::http::head::Query;
use crate::http::served::{self, AT_ONCE, Asking, OWED};
use crate::http::upgrade::{Reclaim, TLS};
use crate::shard::newcomers::HEADER_TIMEOUT;

/// Bytes of a connection that may wait in the kernel to be sent. The kernel would take megabytes
/// more for a client that does not read; they are better kept here, where newer events of the
/// same key replace older ones and `server.send_buffer` bounds them all.
const MAX_UNSENT: u32 = 128 << 10;

impl<Op: Send + 'static> HttpFront<Op> {
    /// Resolves when no connection speaks HTTP.
    pub async fn no_http(&self) {
        while self.door.get().is_some_and(|door| door.total() > 0) {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    /// Accepts connections until the drain begins, and as long as polling
    /// sessions are left: their clients come by new connections, to be told.
    pub async fn serve(
        self: Arc<Self>,
        listener: TcpListener,
        tls: Option<TlsAcceptor>,
    ) -> io::Result<()> {
        // Inherited by what it accepts. Without them, events only arrive later.
        let socket = socket2::SockRef::from(&listener);
        let _ = socket.set_tcp_nodelay(true);
        let _ = socket.set_tcp_notsent_lowat(MAX_UNSENT);
        let mut draining = self.parts.draining.clone();
        let slots = self.parts.slots.clone();
        let failure = self.parts.failure.clone();
        let drained = async move {
            // An error says that the gateway is gone.
            let _ = draining.wait_for(|draining| *draining).await;
            slots.no_polling().await;
        };
        let failed = failure.happens();
        tokio::pin!(drained, failed);
        let accepting = async {
            match tls {
                None => self.accept_by_shards(listener, drained).await,
                Some(tls) => self.accept_tls(listener, tls, drained).await,
            }
        };
        tokio::select! {
            biased;
            error = &mut failed => Err(error),
            done = accepting => done,
        }
    }

    /// Accepts connections that are encrypted: here, since a handshake takes its time.
    async fn accept_tls(
        self: &Arc<Self>,
        listener: TcpListener,
        tls: TlsAcceptor,
        mut drained: impl Future<Output = ()> + Unpin,
    ) -> io::Result<()> {
        loop {
            let accepted = tokio::select! {
                biased;
                () = &mut drained => return Ok(()),
                accepted = listener.accept() => accepted,
            };
            match accepted {
                Ok((tcp, peer)) => self.accepted(tcp, peer.ip(), tls.clone()),
                Err(error) => self.not_accepted(error, "public").await,
            }
        }
    }

    pub(super) async fn not_accepted(&self, error: io::Error, listener: &'static str) {
        let clock = self.parts.clock;
        self.accept_failures.after(error, listener, clock).await;
    }

    /// Lets a connection in with the descriptor `descriptor`, or tells the log why not.
    pub(super) fn let_in(&self, descriptor: RawFd, peer: IpAddr) -> Option<Inside> {
        let sessions = self.parts.slots.max_per_ip();
        let door = self
            .door
            .get_or_init(|| Door::new(descriptors::limit(), sessions));
        let descriptor = usize::try_from(descriptor).unwrap_or(usize::MAX);
        match door.enter(peer, descriptor, &self.settings.trusted_proxies) {
            Ok(inside) => Some(inside),
            Err(why) => {
                door.log(why, peer, self.parts.clock.now());
                None
            }
        }
    }

    fn accepted(self: &Arc<Self>, tcp: TcpStream, peer: IpAddr, tls: TlsAcceptor) {
        let Some(inside) = self.let_in(tcp.as_raw_fd(), peer) else {
            return;
        };
        let front = self.clone();
        tokio::spawn(async move {
            let handshake = tokio::time::timeout(HEADER_TIMEOUT, tls.accept(tcp));
            if let Ok(Ok(stream)) = handshake.await {
                let early = Bytes::new();
                front
                    .connection(stream, early, peer, TLS, inside, HEADER_TIMEOUT)
                    .await;
            }
        });
    }

    /// Speaks HTTP with a connection of which `early` was read. Its first request may take
    /// `patience`.
    pub(super) async fn connection<S>(
        self: &Arc<Self>,
        stream: S,
        early: Bytes,
        peer: IpAddr,
        take: Reclaim,
        inside: Inside,
        patience: Duration,
    ) where
        S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin + Send + 'static,
    {
        let sender = Sender {
            ip: peer,
            is_node: false,
            tls: take.tls,
            take,
        };
        let idle = || inside.patience();
        let owed = |request: &HttpRequest<Asking>| self.owed(request);
        let answer = |request| self.clone().answer(request, sender);
        served::serve(stream, early, patience, idle, owed, answer).await;
    }

    /// How long a client that says no more is still answered. A poll's answer may be a minute in
    /// coming, and who has left meanwhile is to be missed at once.
    pub(super) fn owed<B>(&self, request: &HttpRequest<B>) -> Duration {
        let polls = request.method() == Method::GET
            && request.uri().path() == self.settings.engineio_path
            && Query::of(request).get("sid").is_some();
        match polls {
            true => AT_ONCE,
            false => OWED,
        }
    }
}
