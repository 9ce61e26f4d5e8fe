//! Ids of connections and sockets: where one is, and a secret that proves it is meant.
//!
//! An id carries its shard, slot and generation, so finding its bearer is an
//! index and a comparison, and no map of ids exists. The other 96 bits are
//! random, or 64 of them in a cluster, where the rest names the node: an id cannot be
//! guessed from another.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

/// A connection's place among those of its shard.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Slot(pub u32);

impl Slot {
    /// The place as an index into what is kept by slot.
    pub fn index(self) -> usize {
        self.0 as usize
    }
}

/// Where a connection is. A slot is used again; the generation tells its users apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct ConnId {
    /// The thread that owns it.
    pub shard: u16,
    /// Its place there.
    pub slot: Slot,
    /// How often the place was used before.
    pub generation: u32,
}

/// An id as it travels: 24 bytes, 32 characters of base64url.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Sid {
    /// The connection.
    pub conn: ConnId,
    /// The number of a socket's namespace; 0 for a connection's own sid.
    pub namespace: u16,
    /// What cannot be guessed.
    pub secret: [u8; 12],
}

impl Sid {
    /// The node, where there are others.
    pub fn tag(&self) -> u32 {
        let [a, b, c, d, ..] = self.secret;
        u32::from_be_bytes([a, b, c, d])
    }

    /// The name as bytes.
    pub fn to_bytes(&self) -> [u8; 24] {
        let mut bytes = [0u8; 24];
        bytes[..12].copy_from_slice(&self.secret);
        bytes[12..14].copy_from_slice(&self.conn.shard.to_be_bytes());
        bytes[14..18].copy_from_slice(&self.conn.slot.0.to_be_bytes());
        bytes[18..22].copy_from_slice(&self.conn.generation.to_be_bytes());
        bytes[22..].copy_from_slice(&self.namespace.to_be_bytes());
        bytes
    }

    /// The name as text.
    pub fn encode(&self) -> String {
        URL_SAFE_NO_PAD.encode(self.to_bytes())
    }

    /// Reads a name; `None` for whatever is none.
    pub fn decode(text: &str) -> Option<Sid> {
        if text.len() != 32 {
            return None;
        }
        let mut bytes = [0u8; 24];
        URL_SAFE_NO_PAD.decode_slice(text, &mut bytes).ok()?;
        Some(Sid::from_bytes(bytes))
    }

    /// The name of these bytes.
    pub fn from_bytes(bytes: [u8; 24]) -> Sid {
        let u16_at = |at: usize| u16::from_be_bytes([bytes[at], bytes[at + 1]]);
        let u32_at = |at: usize| {
            u32::from_be_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
        };
        let mut secret = [0; 12];
        secret.copy_from_slice(&bytes[..12]);
        Sid {
            conn: ConnId {
                shard: u16_at(12),
                slot: Slot(u32_at(14)),
                generation: u32_at(18),
            },
            namespace: u16_at(22),
            secret,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn names_survive_the_journey(shard: u16, slot: u32, generation: u32, namespace: u16, secret: [u8; 12]) {
            let name = Sid { conn: ConnId { shard, slot: Slot(slot), generation }, namespace, secret };
            prop_assert_eq!(Sid::decode(&name.encode()), Some(name));
        }

        #[test]
        fn any_text_is_refused_or_read(text in ".{0,40}") {
            let _ = Sid::decode(&text);
        }
    }
}
