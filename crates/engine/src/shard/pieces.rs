//! What waits for many connections and is kept once.
//!
//! A publication to a large room waits for thousands at a time. A queue and a copy for each
//! of them would be memory that is touched once, and the caches are lost to it. So a member
//! for whom nothing else waits holds a [`Piece`], a number; and of those who hold one piece
//! when the next publication comes, all hold the same joined piece afterwards, made once.
//!
//! Whoever holds a piece counts. It may be held while nothing of it has left: what is partly
//! written, waits for a slow peer or is for one connection alone is in the connection's own
//! queue ([`Outbound`](super::outbound::Outbound)).

use std::num::NonZero;

use bytes::Bytes;

/// Bytes up to which pieces are joined. Joining copies both, once for all who hold the first,
/// and makes one write without a list of slices; beyond that a copy costs more than the list.
const JOIN_BELOW: usize = 16 * 1024;

/// Frames that wait for one connection or more. Counted by hand, so it must go back by
/// [`Pieces::release`], or be joined.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Piece(NonZero<u32>);

impl Piece {
    fn index(&self) -> usize {
        self.0.get() as usize - 1
    }
}

#[derive(Debug, Default)]
struct Entry {
    bytes: Bytes,
    /// Connections that hold it, and entries that are `joined` to it.
    holders: u32,
    /// What was put behind it last, and what came of that.
    joined: Option<(Bytes, Piece)>,
}

/// The pieces of one shard.
#[derive(Debug, Default)]
pub(crate) struct Pieces {
    entries: Vec<Entry>,
    free: Vec<Piece>,
    /// The piece made last, while somebody holds it.
    newest: Option<usize>,
}

/// Whether both are the same bytes at the same place. Who asks holds both, so the place
/// has not been given to others.
fn is_same(a: &Bytes, b: &Bytes) -> bool {
    a.as_ptr() == b.as_ptr() && a.len() == b.len()
}

impl Pieces {
    /// Holds `bytes` for one connection more.
    pub(crate) fn hold(&mut self, bytes: &Bytes) -> Piece {
        if let Some(index) = self.newest {
            let entry = &mut self.entries[index];
            if is_same(&entry.bytes, bytes) {
                entry.holders += 1;
                return piece(index);
            }
        }
        self.add(bytes.clone())
    }

    fn add(&mut self, bytes: Bytes) -> Piece {
        let piece = self.free.pop().unwrap_or_else(|| {
            self.entries.push(Entry::default());
            piece(self.entries.len() - 1)
        });
        let entry = &mut self.entries[piece.index()];
        entry.bytes = bytes;
        entry.holders = 1;
        self.newest = Some(piece.index());
        piece
    }

    /// Puts `bytes` behind `first` for one of those who hold that.
    ///
    /// # Errors
    /// It would be more than `bound` bytes, or more than is worth being joined: `first` is
    /// given back.
    pub(crate) fn join(
        &mut self,
        first: Piece,
        bytes: &Bytes,
        bound: usize,
    ) -> Result<Piece, Piece> {
        let entry = &self.entries[first.index()];
        let known = entry.joined.as_ref();
        let joined = match known.filter(|(second, _)| is_same(second, bytes)) {
            Some((_, joined)) => joined.index(),
            None => {
                let length = entry.bytes.len() + bytes.len();
                if length > bound.min(JOIN_BELOW) {
                    return Err(first);
                }
                let mut both = Vec::with_capacity(length);
                both.extend_from_slice(&entry.bytes);
                both.extend_from_slice(bytes);
                let newest = self.newest;
                let joined = self.add(both.into());
                self.newest = newest;
                let index = joined.index();
                let before = self.entries[first.index()]
                    .joined
                    .replace((bytes.clone(), joined));
                if let Some((_, before)) = before {
                    self.release(before);
                }
                index
            }
        };
        self.entries[joined].holders += 1;
        self.release(first);
        Ok(piece(joined))
    }

    /// The frames of a piece.
    pub(crate) fn bytes(&self, piece: &Piece) -> &Bytes {
        &self.entries[piece.index()].bytes
    }

    /// One connection holds it no longer.
    pub(crate) fn release(&mut self, piece: Piece) {
        let mut next = Some(piece);
        while let Some(piece) = next.take() {
            let entry = &mut self.entries[piece.index()];
            entry.holders -= 1;
            if entry.holders > 0 {
                return;
            }
            entry.bytes = Bytes::new();
            next = entry.joined.take().map(|(_, joined)| joined);
            if self.newest == Some(piece.index()) {
                self.newest = None;
            }
            self.free.push(piece);
        }
    }

    /// Pieces that somebody holds.
    #[cfg(test)]
    pub(crate) fn len(&self) -> usize {
        self.entries.len() - self.free.len()
    }
}

fn piece(index: usize) -> Piece {
    let number = u32::try_from(index)
        .ok()
        .and_then(|index| NonZero::new(index + 1));
    Piece(number.expect("a shard has fewer connections than there are numbers"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn one_publication_after_the_other_is_kept_once_for_all() {
        let mut pieces = Pieces::default();
        let [a, b] = ["a", "b"].map(|text| Bytes::from_static(text.as_bytes()));
        let first: Vec<Piece> = (0..5).map(|_| pieces.hold(&a)).collect();
        assert_eq!(pieces.len(), 1);
        let (mut both, mut held) = (Vec::new(), first.into_iter());
        for first in held.by_ref().take(3) {
            both.push(pieces.join(first, &b, 100).unwrap());
        }
        // Some have been written the first by now: they hold the second alone.
        held.for_each(|first| pieces.release(first));
        both.push(pieces.hold(&b));
        assert_eq!(pieces.len(), 2);
        let texts: Vec<&[u8]> = both.iter().map(|piece| &pieces.bytes(piece)[..]).collect();
        assert_eq!(texts, [&b"ab"[..], b"ab", b"ab", b"b"]);
        both.into_iter().for_each(|piece| pieces.release(piece));
        assert_eq!(pieces.len(), 0);
    }

    #[test]
    fn what_is_too_long_is_not_joined() {
        let mut pieces = Pieces::default();
        let text = Bytes::from_static(b"text");
        let first = pieces.hold(&text);
        let first = pieces.join(first, &text, 7).unwrap_err();
        let both = pieces.join(first, &text, 8).unwrap();
        let long = Bytes::from(vec![0; JOIN_BELOW]);
        let both = pieces.join(both, &long, usize::MAX).unwrap_err();
        pieces.release(both);
        assert_eq!(pieces.len(), 0);
    }

    proptest! {
        /// Members who are sent and written to in any order get what each was sent.
        #[test]
        fn everybody_gets_what_they_were_sent(
            steps in prop::collection::vec((0_usize..6, 0_usize..5), 0..200),
        ) {
            let texts: Vec<Bytes> = (0..5).map(|n| Bytes::from(vec![n; 1 + n as usize])).collect();
            let mut pieces = Pieces::default();
            let mut members: [(Option<Piece>, Vec<u8>); 6] = Default::default();
            for (member, text) in steps {
                let (held, sent) = &mut members[member];
                match texts.get(text).filter(|_| text < 4) {
                    None => {
                        if let Some(piece) = held.take() {
                            prop_assert_eq!(&pieces.bytes(&piece)[..], &sent[..]);
                            pieces.release(piece);
                            sent.clear();
                        }
                    }
                    Some(text) => {
                        let piece = match held.take() {
                            None => pieces.hold(text),
                            Some(first) => pieces.join(first, text, usize::MAX).unwrap(),
                        };
                        sent.extend_from_slice(text);
                        prop_assert_eq!(&pieces.bytes(&piece)[..], &sent[..]);
                        *held = Some(piece);
                    }
                }
            }
            for (held, sent) in members {
                if let Some(piece) = held {
                    prop_assert_eq!(&pieces.bytes(&piece)[..], &sent[..]);
                    pieces.release(piece);
                }
            }
            prop_assert_eq!(pieces.len(), 0);
        }
    }
}
