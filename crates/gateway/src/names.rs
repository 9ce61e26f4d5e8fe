//! What may name things, whichever way the name comes in.

/// Longest conflation key, bytes. A key names a thing whose newest state matters, as a
/// room names a place, so it may be as long as a room's name
/// ([`MAX_NAME`](crate::rooms::MAX_NAME)); every connection that cannot keep up holds the
/// keys of what waits for it.
pub(crate) const MAX_KEY: usize = crate::rooms::MAX_NAME;

/// Whether publications may be conflated by this key.
pub(crate) fn is_valid_key(key: &str) -> bool {
    key.len() <= MAX_KEY
}
