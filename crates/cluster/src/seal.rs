//! Signatures of what nodes say to each other: with a key, writing to Redis is not enough to
//! speak as a node.
//!
//! HMAC-SHA-256 (RFC 2104) over the cluster's prefix, the place where it is said and all bytes
//! before the signature, which stands at the end. The envelope inside says which process has said
//! it and under which number, so that none can be sent by another way, changed, or sent once more.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};

use ring::hmac;
use subtle::ConstantTimeEq;

use crate::envelope::{self, SIGNED};
use crate::seldom::LogLimit;

/// Bytes of a signature.
pub const SIGNATURE: usize = 32;
/// Shortest key, bytes: as long as a signature (RFC 2104, section 3).
pub const MIN_KEY: usize = 32;
/// What is written for [`Also::Unsigned`]; no key is so short.
const UNSIGNED: &str = "unsigned";

/// What is believed besides what the key has signed, while keys are changed.
#[derive(Clone)]
pub enum Also {
    /// What another key has signed.
    Key(String),
    /// What nobody has signed: nodes get their first key.
    Unsigned,
}

impl Also {
    /// Reads what an operator has written: a key, or `unsigned`.
    pub fn read(text: &str) -> Also {
        match text {
            UNSIGNED => Also::Unsigned,
            key => Also::Key(key.to_owned()),
        }
    }
}

/// Signs what this node says, and tells what nodes have said from what others have.
#[derive(Default)]
pub struct Seal {
    prefix: String,
    key: Option<hmac::Key>,
    previous: Option<hmac::Key>,
    takes_unsigned: bool,
    unsigned: AtomicU64,
    forged: AtomicU64,
    /// Events of the line that are believed, and that this build cannot read.
    unread: AtomicU64,
    logged: LogLimit,
}

impl fmt::Debug for Seal {
    /// Without the keys.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Seal(signs: {})", self.key.is_some())
    }
}

fn hmac_key(text: &str) -> hmac::Key {
    hmac::Key::new(hmac::HMAC_SHA256, text.as_bytes())
}

/// A name for a key by which two nodes see whether they have the same, and by which nobody finds
/// the key.
pub fn fingerprint(key: &str) -> String {
    let name = hmac::sign(&hmac_key(key), b"heartline: which key is it?");
    let bytes = name.as_ref().iter().take(4);
    bytes.map(|byte| format!("{byte:02x}")).collect()
}

impl Seal {
    /// Signs with `key`; without one nothing is signed, and everything is believed. `prefix` is
    /// that of the cluster.
    pub fn new(prefix: &str, key: Option<&str>, also: Option<&Also>) -> Seal {
        let previous = match also {
            Some(Also::Key(key)) => Some(hmac_key(key)),
            _ => None,
        };
        Seal {
            prefix: prefix.to_owned(),
            key: key.map(hmac_key),
            previous,
            takes_unsigned: matches!(also, Some(Also::Unsigned)),
            ..Seal::default()
        }
    }

    /// Whether numbers of publications are surely their senders'.
    pub(crate) fn is_strict(&self) -> bool {
        self.key.is_some() && !self.takes_unsigned
    }

    /// What was dropped as nobody had signed it, and as the signature was wrong.
    pub(crate) fn dropped(&self) -> (u64, u64) {
        let read = |count: &AtomicU64| count.load(Ordering::Relaxed);
        (read(&self.unsigned), read(&self.forged))
    }

    fn context(&self, key: &hmac::Key, place: &str) -> hmac::Context {
        let mut context = hmac::Context::with_key(key);
        for part in [&*self.prefix, place] {
            // Behind its length: no two ways to cut the same bytes.
            context.update(&(part.len() as u32).to_be_bytes());
            context.update(part.as_bytes());
        }
        context
    }

    /// Makes room for a signature behind an envelope, which says that it is signed from now on.
    pub(crate) fn prepare(&self, envelope: &mut Vec<u8>) {
        if let (Some(_), Some(version)) = (&self.key, envelope.first_mut()) {
            *version = SIGNED;
            envelope.extend_from_slice(&[0; SIGNATURE]);
        }
    }

    /// Signs bytes that were [prepared](Self::prepare), for the place where they are said.
    pub(crate) fn sign(&self, place: &str, bytes: &mut [u8]) {
        let end = bytes.len().saturating_sub(SIGNATURE);
        if let Some(key) = &self.key {
            let (said, signature) = bytes.split_at_mut(end);
            let mut context = self.context(key, place);
            context.update(said);
            signature.copy_from_slice(context.sign().as_ref());
        }
    }

    /// What was said in a place, without its signature; the envelope in it begins at `envelope`.
    /// `None`: it is not to be believed, which is counted.
    pub(crate) fn open<'a>(
        &self,
        place: &str,
        bytes: &'a [u8],
        envelope: usize,
    ) -> Option<&'a [u8]> {
        let signed = match envelope::is_signed(bytes.get(envelope..)?) {
            true => bytes.split_last_chunk::<SIGNATURE>(),
            false => None,
        };
        let Some(key) = &self.key else {
            return Some(signed.map_or(bytes, |(said, _)| said));
        };
        let Some((said, signature)) = signed else {
            if self.takes_unsigned {
                return Some(bytes);
            }
            self.unsigned.fetch_add(1, Ordering::Relaxed);
            self.complain("it is not signed: another node has no cluster.key, or somebody forges");
            return None;
        };
        // They are compared in a time that says nothing of where they differ.
        let is_by = |key: &hmac::Key| {
            let mut context = self.context(key, place);
            context.update(said);
            context.sign().as_ref().ct_eq(signature).into()
        };
        if is_by(key) || self.previous.as_ref().is_some_and(is_by) {
            return Some(said);
        }
        self.forged.fetch_add(1, Ordering::Relaxed);
        self.complain(
            "its signature is wrong: another node has another cluster.key, or somebody forges",
        );
        None
    }

    /// An event of the line was believed and cannot be read.
    pub(crate) fn note_unread(&self) {
        self.unread.fetch_add(1, Ordering::Relaxed);
        self.complain("an event of the line is of another version, or damaged");
    }

    /// How many those were.
    pub(crate) fn unread(&self) -> u64 {
        self.unread.load(Ordering::Relaxed)
    }

    fn complain(&self, why: &str) {
        self.logged
            .warn(&why, "something said in the name of a node was dropped");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::envelope::{Origin, encode, read};
    use heartline_core::backplane::{Message, Target};

    const KEY: &str = "a key of thirty-two bytes, or so.";
    const OTHER: &str = "another key of the same length...";

    fn seal(key: Option<&str>, also: Option<&str>) -> Seal {
        Seal::new("hl", key, also.map(Also::read).as_ref())
    }

    /// An envelope that a node of this seal sends.
    fn said(by: &Seal, place: &str) -> Vec<u8> {
        let origin = Origin {
            tag: 1,
            number: 7,
            after: 0,
        };
        let mut bytes = encode(origin, &Target::Nodes, &Message::new("e", "1"));
        by.prepare(&mut bytes);
        by.sign(place, &mut bytes);
        bytes
    }

    fn takes(seal: &Seal, place: &str, bytes: &[u8]) -> bool {
        let opened = seal.open(place, bytes, 0);
        opened.is_some_and(|said| read(said).is_some())
    }

    #[test]
    fn what_is_signed_is_believed_where_it_was_said_and_as_it_was_said() {
        let node = seal(Some(KEY), None);
        let bytes = said(&node, "room");
        assert!(takes(&node, "room", &bytes));
        assert!(!takes(&node, "another room", &bytes));
        let elsewhere = Seal::new("test", Some(KEY), None);
        assert!(!takes(&elsewhere, "room", &bytes));
        assert!(!takes(&seal(Some(OTHER), None), "room", &bytes));
        for at in 0..bytes.len() {
            let mut changed = bytes.clone();
            changed[at] ^= 1;
            assert!(!takes(&node, "room", &changed), "byte {at} was changed");
        }
        for length in 0..bytes.len() {
            assert!(!takes(&node, "room", &bytes[..length]));
        }
    }

    #[test]
    fn what_is_dropped_is_counted_by_its_cause() {
        let node = seal(Some(KEY), None);
        assert!(!takes(&node, "room", &said(&seal(None, None), "room")));
        assert!(!takes(
            &node,
            "room",
            &said(&seal(Some(OTHER), None), "room")
        ));
        assert!(!takes(
            &node,
            "room",
            &said(&seal(Some(OTHER), None), "room")
        ));
        assert_eq!(node.dropped(), (1, 2));
    }

    #[test]
    fn keys_are_given_and_changed_while_nodes_run() {
        let bare = seal(None, None);
        let first = seal(Some(KEY), Some(UNSIGNED));
        let settled = seal(Some(KEY), None);
        let ready = seal(Some(KEY), Some(OTHER));
        let changed = seal(Some(OTHER), Some(KEY));
        let done = seal(Some(OTHER), None);
        for (before, after) in [
            (&bare, &first),
            (&first, &settled),
            (&settled, &ready),
            (&ready, &changed),
            (&changed, &done),
        ] {
            for (from, to) in [(before, after), (after, before)] {
                assert!(takes(to, "room", &said(from, "room")));
            }
        }
        assert!(!takes(&settled, "room", &said(&bare, "room")));
        assert!(!takes(&done, "room", &said(&settled, "room")));
    }

    #[test]
    fn a_key_is_named_without_being_told() {
        let name = fingerprint(KEY);
        assert_eq!(name.len(), 8);
        assert_ne!(name, fingerprint(OTHER));
        assert!(!format!("{:?}", seal(Some(KEY), None)).contains("thirty"));
    }

    /// What a signature costs, and its check: `cargo test --release -p heartline-cluster --lib
    /// seal -- --ignored --nocapture`.
    #[test]
    #[ignore = "it measures"]
    fn what_a_signature_costs() {
        let (bare, node) = (seal(None, None), seal(Some(KEY), None));
        for size in [100, 300, 1_000, 10_000, 100_000] {
            let args = format!("\"{}\"", "x".repeat(size));
            let message = Message::new("message:new", &args);
            let each = |seal: &Seal| {
                let rounds = 20_000_000 / (size + 1_000);
                let start = std::time::Instant::now();
                for number in 0..rounds {
                    let origin = Origin {
                        tag: 1,
                        number: number as u64,
                        after: 0,
                    };
                    let mut bytes = encode(origin, &Target::Nodes, &message);
                    seal.prepare(&mut bytes);
                    seal.sign("hl:r:1:/::room", &mut bytes);
                    let opened = seal.open("hl:r:1:/::room", &bytes, 0);
                    assert!(std::hint::black_box(read(opened.unwrap())).is_some());
                }
                start.elapsed().as_secs_f64() * 1e9 / rounds as f64
            };
            let (without, with) = (each(&bare), each(&node));
            println!("{size} bytes: {without:.0} ns written and read, {with:.0} ns signed as well");
        }
    }
}
