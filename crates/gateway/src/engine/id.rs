//! Names of connections: where one is, and a secret that proves it is meant.
//!
//! A name carries its shard, slot and generation, so finding its bearer is an
//! index and a comparison, and no map of names exists. The other 96 bits are
//! random, or 64 of them in a cluster, where the rest names the node: a name cannot be
//! guessed from another.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

/// Where a connection is. A slot is used again; the generation tells its users apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct ConnId {
    pub(crate) shard: u16,
    pub(crate) slot: u32,
    pub(crate) generation: u32,
}

/// A name as it travels: 24 bytes, 32 characters of base64url.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Name {
    pub(crate) conn: ConnId,
    /// Namespace number of a socket; 0 for a connection's own sid.
    pub(crate) part: u16,
    pub(crate) secret: [u8; 12],
}

impl Name {
    /// The node, where there are others.
    pub(crate) fn tag(&self) -> u32 {
        let [a, b, c, d, ..] = self.secret;
        u32::from_be_bytes([a, b, c, d])
    }

    /// The name as text.
    pub(crate) fn encode(&self) -> String {
        let mut bytes = [0u8; 24];
        bytes[..12].copy_from_slice(&self.secret);
        bytes[12..14].copy_from_slice(&self.conn.shard.to_be_bytes());
        bytes[14..18].copy_from_slice(&self.conn.slot.to_be_bytes());
        bytes[18..22].copy_from_slice(&self.conn.generation.to_be_bytes());
        bytes[22..].copy_from_slice(&self.part.to_be_bytes());
        URL_SAFE_NO_PAD.encode(bytes)
    }

    /// Reads a name; `None` for whatever is none.
    pub(crate) fn decode(text: &str) -> Option<Name> {
        if text.len() != 32 {
            return None;
        }
        let mut bytes = [0u8; 24];
        URL_SAFE_NO_PAD.decode_slice(text, &mut bytes).ok()?;
        let u16_at = |at: usize| u16::from_be_bytes([bytes[at], bytes[at + 1]]);
        let u32_at = |at: usize| {
            u32::from_be_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
        };
        let mut secret = [0; 12];
        secret.copy_from_slice(&bytes[..12]);
        Some(Name {
            conn: ConnId {
                shard: u16_at(12),
                slot: u32_at(14),
                generation: u32_at(18),
            },
            part: u16_at(22),
            secret,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn names_survive_the_journey(shard: u16, slot: u32, generation: u32, part: u16, secret: [u8; 12]) {
            let name = Name { conn: ConnId { shard, slot, generation }, part, secret };
            prop_assert_eq!(Name::decode(&name.encode()), Some(name));
        }

        #[test]
        fn any_text_is_refused_or_read(text in ".{0,40}") {
            let _ = Name::decode(&text);
        }
    }
}
