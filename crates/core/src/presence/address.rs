//! Where a socket is.

use heartline_wire::id::{ConnId, Sid};

use crate::namespaces::NamespaceId;

/// A socket, wherever it is in this process.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct SocketAddress(pub Sid);

impl SocketAddress {
    /// The socket of a connection in a namespace.
    pub fn new(conn: ConnId, namespace: NamespaceId, secret: [u8; 12]) -> Self {
        SocketAddress(Sid {
            conn,
            namespace: namespace.0,
            secret,
        })
    }

    /// The namespace it is in.
    pub fn namespace(&self) -> NamespaceId {
        NamespaceId(self.0.namespace)
    }

    /// The socket's id.
    pub fn id(&self) -> String {
        self.0.encode()
    }

    /// The socket of an id; `None` for what is none.
    pub fn parse(id: &str) -> Option<SocketAddress> {
        Sid::decode(id).map(SocketAddress)
    }
}
