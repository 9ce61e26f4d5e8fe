//! A cluster on Redis or Valkey: the registry as one script, of which each operation is
//! a call, and the fan-out over pub/sub.

mod answer;
#[cfg(test)]
mod builds;
#[cfg(test)]
mod by_hand;
mod calls;
mod challenges;
#[cfg(test)]
mod cluster_tests;
mod condition;
mod fanout;
#[cfg(test)]
mod mended;
mod needs;
mod once;
mod registry;
mod sentinels;
mod server;
#[cfg(test)]
mod server_tests;
mod socketio;
#[cfg(test)]
mod tests;
mod whereabouts;

pub use calls::Calls;
pub use challenges::RedisChallenges;
pub(crate) use condition::{ANSWER_TIMEOUT, examine, misnamed};
pub use condition::{Condition, Finding};
pub use fanout::{
    Counters as FanoutCounters, Driver, Fanout, Heard, Incoming, Line, LineSettings, Link,
    Listener, Outgoing, Queue, Recipients, RedisDriver, Unsent,
};
pub(crate) use needs::forbidden;
pub use once::{OnceBounds, OnceKnown, RedisOnce};
pub use registry::RedisRegistry;
pub use server::{BadUrl, Commands, Connection, Pushed, Server};
pub use socketio::{Adapter, Foreign, Reply, SocketIoAdapter, Wish};

/// How long a start waits to hear what its server is: without an answer it goes on.
const MAX_EXAMINATION: std::time::Duration = std::time::Duration::from_secs(2);

/// Whether a URL names a server.
///
/// # Errors
/// When it does not.
pub fn check_url(url: &str) -> Result<(), BadUrl> {
    Server::parse(url).map(|_| ())
}

/// What makes a server unfit, one sentence each about "the Redis"; nothing, if it does not answer.
pub async fn faults(url: &str) -> Vec<String> {
    let Ok(server) = Server::parse(url) else {
        return Vec::new();
    };
    let examined = tokio::time::timeout(MAX_EXAMINATION, examine(&server)).await;
    let condition = examined.ok().and_then(Result::ok).unwrap_or_default();
    let fatal = condition.findings.iter().filter(|finding| finding.is_fatal);
    fatal.map(Finding::to_string).collect()
}

/// By which of its addresses this machine reaches a server: where other machines that
/// reach it will find this one. Sends nothing.
pub async fn own_address(url: &str) -> Option<std::net::IpAddr> {
    let (host, port) = Server::parse(url).ok()?.some_address()?;
    for address in tokio::net::lookup_host((host, port)).await.ok()? {
        let any: std::net::IpAddr = match address.is_ipv4() {
            true => std::net::Ipv4Addr::UNSPECIFIED.into(),
            false => std::net::Ipv6Addr::UNSPECIFIED.into(),
        };
        let Ok(socket) = tokio::net::UdpSocket::bind((any, 0)).await else {
            continue;
        };
        if socket.connect(address).await.is_ok() {
            return Some(socket.local_addr().ok()?.ip());
        }
    }
    None
}
