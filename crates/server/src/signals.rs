//! The signals that a node obeys, heard from before it starts.

use std::future::Future;
use std::io;
use std::sync::Arc;

use heartline::Gateway;
use heartline::rustls::pki_types::UnixTime;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::mpsc;

use crate::exit::{Exit, refuse};
use crate::tls::Certificate;

/// SIGTERM and SIGINT end a node, SIGHUP has it read its certificates again.
pub(crate) struct Signals {
    terminate: Signal,
    interrupt: Signal,
    hangup: Signal,
}

impl Signals {
    /// From here on none of these signals ends the process by itself.
    ///
    /// # Errors
    /// The exit code; the reason is on standard error.
    pub(crate) fn listen() -> Result<Self, Exit> {
        let listen = || -> io::Result<_> {
            Ok(Signals {
                terminate: signal(SignalKind::terminate())?,
                interrupt: signal(SignalKind::interrupt())?,
                hangup: signal(SignalKind::hangup())?,
            })
        };
        listen().map_err(|error| refuse(Exit::Failed, format!("signals cannot be heard: {error}")))
    }

    /// Waits for a signal that ends a node.
    async fn end(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }

    /// Does `work`, unless a signal to end comes first: then `None`, and `work` is dropped.
    pub(crate) async fn until_ended<T>(&mut self, work: impl Future<Output = T>) -> Option<T> {
        tokio::select! {
            done = work => Some(done),
            () = self.end() => None,
        }
    }

    /// Waits until a signal, or the API by `drain_wanted`, ends the node.
    pub(crate) async fn until_told(
        &mut self,
        certificate: Option<Arc<Certificate>>,
        drain_wanted: &mut mpsc::Receiver<()>,
    ) {
        loop {
            tokio::select! {
                _ = self.terminate.recv() => return,
                _ = self.interrupt.recv() => return,
                Some(()) = drain_wanted.recv() => return,
                _ = self.hangup.recv() => reload(certificate.as_deref()),
            }
        }
    }

    /// Drains; a second signal ends at once.
    ///
    /// # Errors
    /// The exit code of a node that was not drained to the end.
    pub(crate) async fn drain(&mut self, gateway: &Gateway) -> Result<(), Exit> {
        tracing::info!(connections = gateway.connection_count(), "draining");
        match self.until_ended(gateway.drain()).await {
            Some(()) => {
                tracing::info!("stopped");
                Ok(())
            }
            None => Err(refuse(Exit::Failed, "stopped at once by a second signal")),
        }
    }
}

fn reload(certificate: Option<&Certificate>) {
    match certificate.map(Certificate::reload) {
        None => tracing::info!("SIGHUP: there are no certificates to read again"),
        Some(Ok(())) => tracing::info!("SIGHUP: certificates were read again"),
        Some(Err(error)) => tracing::error!(%error, "SIGHUP: the old certificates stay in use"),
    }
    if let Some(warning) = certificate.and_then(|used| used.warning(UnixTime::now())) {
        tracing::warn!("{warning}");
    }
}
