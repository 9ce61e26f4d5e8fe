//! Listening on what the configuration names.

use std::net::SocketAddr;

use tokio::net::{TcpListener, TcpSocket};

use crate::exit::{Exit, refuse};

/// Connections that may wait to be accepted; the kernel takes the smaller of this
/// and `net.core.somaxconn`. Everybody comes back at once after an outage.
const BACKLOG: u32 = 65_535;

/// Listens on the first address of `address` that can be listened on.
///
/// # Errors
/// What is in the way; [`advice`] says what to do.
pub(crate) async fn bind(address: &str) -> std::io::Result<TcpListener> {
    let mut error = std::io::ErrorKind::AddrNotAvailable.into();
    for address in tokio::net::lookup_host(address).await? {
        let socket = match address {
            SocketAddr::V4(_) => TcpSocket::new_v4()?,
            SocketAddr::V6(_) => TcpSocket::new_v6()?,
        };
        // Or a restart would have to wait for what the last run has closed.
        socket.set_reuseaddr(true)?;
        match socket.bind(address).and_then(|()| socket.listen(BACKLOG)) {
            Ok(listener) => return Ok(listener),
            Err(failed) => error = failed,
        }
    }
    Err(error)
}

/// Listens on `address`, the value of the configuration's `key`.
///
/// # Errors
/// The exit code; the reason and what to do are on standard error.
pub(crate) async fn listen(key: &str, address: &str) -> Result<TcpListener, Exit> {
    bind(address).await.map_err(|error| {
        let advice = advice(key, &error);
        refuse(
            Exit::Failed,
            format!("cannot listen on {address}: {advice}"),
        )
    })
}

/// Why the address of the configuration's `key` cannot be had, and what to do.
pub(crate) fn advice(key: &str, error: &std::io::Error) -> String {
    match error.kind() {
        std::io::ErrorKind::AddrInUse => {
            format!("another program has it; stop that, or set {key} to another port")
        }
        std::io::ErrorKind::PermissionDenied => {
            format!(
                "ports below 1024 need a privilege: AmbientCapabilities=CAP_NET_BIND_SERVICE in \
                 the service's unit; or set {key} to a higher one"
            )
        }
        std::io::ErrorKind::AddrNotAvailable => {
            format!("this machine has no such address; set {key} to one it has")
        }
        _ => format!("{error}; set {key} to an address of this machine"),
    }
}
