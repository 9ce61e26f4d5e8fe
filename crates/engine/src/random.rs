//! Randomness for identifiers and jitter, from the operating system and from a
//! small generator seeded by it.

/// Fills `bytes` with unpredictable bytes, for identifiers that are secrets.
///
/// # Panics
/// When the operating system has no randomness to give; nothing that needs
/// unguessable identifiers may go on then.
pub fn fill(bytes: &mut [u8]) {
    getrandom::fill(bytes).expect("the operating system gives randomness");
}

/// SplitMix64: fast, good enough for spreading things out, useless for secrets.
/// Seeded by the caller, so that a simulation can repeat itself.
#[derive(Debug, Clone)]
pub(crate) struct Spread(u64);

impl Spread {
    pub(crate) fn new(seed: u64) -> Self {
        Spread(seed)
    }

    pub(crate) fn from_os() -> Self {
        let mut seed = [0; 8];
        fill(&mut seed);
        Spread::new(u64::from_ne_bytes(seed))
    }

    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    /// A number in `0..bound`; 0 when `bound` is 0.
    pub(crate) fn below(&mut self, bound: u64) -> u64 {
        ((u128::from(self.next()) * u128::from(bound)) >> 64) as u64
    }
}

/// A buffered source of secret bytes: one system call for many identifiers.
pub(crate) struct SecretSource {
    buffer: [u8; 512],
    used: usize,
}

impl SecretSource {
    pub(crate) fn new() -> Self {
        SecretSource {
            buffer: [0; 512],
            used: 512,
        }
    }

    pub(crate) fn take<const N: usize>(&mut self) -> [u8; N] {
        const { assert!(N <= 512) };
        if self.used + N > self.buffer.len() {
            fill(&mut self.buffer);
            self.used = 0;
        }
        let mut bytes = [0; N];
        bytes.copy_from_slice(&self.buffer[self.used..self.used + N]);
        // Handed out once: not left lying in memory.
        self.buffer[self.used..self.used + N].fill(0);
        self.used += N;
        bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spread_stays_below_its_bound() {
        let mut spread = Spread::new(7);
        assert_eq!(spread.below(0), 0);
        assert!((0..1000).all(|_| spread.below(10) < 10));
    }

    #[test]
    fn secrets_differ() {
        let mut source = SecretSource::new();
        let all: std::collections::HashSet<[u8; 12]> = (0..200).map(|_| source.take()).collect();
        assert_eq!(all.len(), 200);
    }
}
