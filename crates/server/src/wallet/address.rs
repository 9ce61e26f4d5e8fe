//! Addresses of wallets: a public key in one of its ways of being written.

use base64::Engine as _;
use ed25519_dalek::VerifyingKey;

/// Longest text that is looked at, bytes: the longest address has 69.
const MAX_TEXT: usize = 128;

/// The version byte of an account's public key (SEP-23), its `G`.
const ACCOUNT: u8 = 6 << 3;

/// The alphabet of base32 (RFC 4648, section 6).
const BASE32: &[u8; 32] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZ234567";

/// A wallet by its public key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Wallet(VerifyingKey);

impl Wallet {
    /// Reads a Stellar address (`G…`), or an ed25519 public key as 64 digits of hex or as base64.
    ///
    /// # Errors
    /// What is wrong, a sentence for people.
    pub(super) fn parse(text: &str) -> Result<Wallet, String> {
        const LIKE: &str = "must be a Stellar address (G…, 56 characters), or an ed25519 public \
                            key as 64 digits of hex or as base64 of 32 bytes";
        if text.len() > MAX_TEXT || !text.is_ascii() {
            return Err(LIKE.into());
        }
        let looks_like = |first, length| text.starts_with(first) && text.len() == length;
        if looks_like('M', 69) {
            return Err(
                "is a muxed address (M…), which has no key of its own: give the G… address of \
                 its account"
                    .into(),
            );
        }
        if looks_like('C', 56) {
            return Err("is a contract (C…), which has no key that could sign".into());
        }
        if looks_like('S', 56) {
            return Err(
                "is a secret seed (S…), which nobody but its wallet should ever see: \
                        give the G… address"
                    .into(),
            );
        }
        let key = match text.len() {
            56 => account(text)?,
            64 => hex(text).ok_or(LIKE)?,
            _ => base64_of(text).ok_or(LIKE)?,
        };
        let key = VerifyingKey::from_bytes(&key)
            .map_err(|_| "is no public key: it is no point of the curve".to_owned())?;
        match key.is_weak() {
            true => Err("is a key of small order, for which anybody can sign".into()),
            false => Ok(Wallet(key)),
        }
    }

    pub(super) fn key(&self) -> &VerifyingKey {
        &self.0
    }

    /// Its Stellar address: one wallet has one, however it was written.
    pub(super) fn address(&self) -> String {
        let mut bytes = [0; 35];
        bytes[0] = ACCOUNT;
        bytes[1..33].copy_from_slice(self.0.as_bytes());
        let sum = crc16(&bytes[..33]);
        bytes[33..].copy_from_slice(&sum.to_le_bytes());
        let eight = |five: &[u8]| {
            let bits = five
                .iter()
                .fold(0, |bits, byte| bits << 8 | u64::from(*byte));
            (0..8).map(move |place| BASE32[(bits >> (35 - 5 * place)) as usize & 31] as char)
        };
        bytes.chunks_exact(5).flat_map(eight).collect()
    }
}

/// The key of an account's address (SEP-23): version, key and checksum in base32.
fn account(text: &str) -> Result<[u8; 32], String> {
    let mut bytes = Vec::with_capacity(35);
    for eight in text.as_bytes().chunks_exact(8) {
        let mut bits = 0;
        for letter in eight {
            let value = BASE32.iter().position(|one| one == letter);
            let value = value.ok_or("is no Stellar address: it holds a character that none has")?;
            bits = bits << 5 | value as u64;
        }
        bytes.extend_from_slice(&bits.to_be_bytes()[3..]);
    }
    let (body, sum) = bytes.split_at(33);
    if crc16(body).to_le_bytes() != sum {
        return Err("is no Stellar address: its checksum is wrong (a mistyped character?)".into());
    }
    match body[0] {
        ACCOUNT => Ok(std::array::from_fn(|index| body[1 + index])),
        _ => Err("is no address of an account: those begin with G".into()),
    }
}

/// CRC-16/XMODEM.
fn crc16(bytes: &[u8]) -> u16 {
    bytes.iter().fold(0, |sum, byte| {
        (0..8).fold(sum ^ u16::from(*byte) << 8, |sum, _| match sum & 0x8000 {
            0 => sum << 1,
            _ => sum << 1 ^ 0x1021,
        })
    })
}

/// So many bytes as digits of hex.
pub(super) fn hex<const LENGTH: usize>(text: &str) -> Option<[u8; LENGTH]> {
    if text.len() != 2 * LENGTH {
        return None;
    }
    let mut bytes = [0; LENGTH];
    for (byte, pair) in bytes.iter_mut().zip(text.as_bytes().chunks_exact(2)) {
        let digit = |digit: u8| char::from(digit).to_digit(16);
        *byte = (digit(pair[0])? << 4 | digit(pair[1])?) as u8;
    }
    Some(bytes)
}

/// So many bytes as base64, of the standard alphabet or that of URLs, padded or not.
pub(super) fn base64_of<const LENGTH: usize>(text: &str) -> Option<[u8; LENGTH]> {
    use base64::alphabet;
    use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
    const ANY: GeneralPurposeConfig =
        GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent);
    const STANDARD: GeneralPurpose = GeneralPurpose::new(&alphabet::STANDARD, ANY);
    const URL: GeneralPurpose = GeneralPurpose::new(&alphabet::URL_SAFE, ANY);
    let bytes = STANDARD.decode(text).or_else(|_| URL.decode(text)).ok()?;
    bytes.try_into().ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use base64::engine::general_purpose::{STANDARD, STANDARD_NO_PAD, URL_SAFE};

    /// Of SEP-53's test cases.
    const ADDRESS: &str = "GBXFXNDLV4LSWA4VB7YIL5GBD7BVNR22SGBTDKMO2SBZZHDXSKZYCP7L";

    #[test]
    fn one_key_is_one_wallet_however_it_is_written() {
        let wallet = Wallet::parse(ADDRESS).unwrap();
        assert_eq!(wallet.address(), ADDRESS);
        let key = wallet.key().as_bytes();
        let hex: String = key.iter().map(|byte| format!("{byte:02x}")).collect();
        for written in [
            hex.to_uppercase(),
            hex,
            STANDARD.encode(key),
            STANDARD_NO_PAD.encode(key),
            URL_SAFE.encode(key),
        ] {
            assert_eq!(Wallet::parse(&written), Ok(wallet), "{written}");
        }
    }

    #[test]
    fn what_is_no_wallet_is_refused_with_the_reason() {
        let muxed = "MA7QYNF7SOWQ3GLR2BGMZEHXAVIRZA4KVWLTJJFC7MGXUA74P7UJVAAAAAAAAAAAAAJLK";
        let contract = "CA7QYNF7SOWQ3GLR2BGMZEHXAVIRZA4KVWLTJJFC7MGXUA74P7UJUWDA";
        let seed = "SAKICEVQLYWGSOJS4WW7HZJWAHZVEEBS527LHK5V4MLJALYKICQCJXMW";
        let mistyped = ADDRESS.replace("XFXN", "XFXM");
        let lower = ADDRESS.to_lowercase();
        let weak = format!("01{}", "0".repeat(62));
        let off_the_curve = format!("02{}", "0".repeat(62));
        let long = "A".repeat(100_000);
        for (text, why) in [
            (muxed, "muxed"),
            (contract, "contract"),
            (seed, "secret seed"),
            (&*mistyped, "checksum"),
            (&*lower, "a character that none has"),
            (&ADDRESS[..55], "must be a Stellar address"),
            (&*weak, "small order"),
            (&*"0".repeat(64), "small order"),
            (&*off_the_curve, "no point"),
            ("", "must be a Stellar address"),
            ("Gé", "must be a Stellar address"),
            (&*long, "must be a Stellar address"),
        ] {
            let refused = Wallet::parse(text).unwrap_err();
            assert!(refused.contains(why), "{text:.80}: {refused}");
        }
    }

    #[test]
    fn an_address_of_another_kind_is_refused_for_its_kind() {
        // A hash (X…) with a checksum that is right.
        let mut bytes = [7; 35];
        bytes[0] = 23 << 3;
        let sum = crc16(&bytes[..33]).to_le_bytes();
        bytes[33..].copy_from_slice(&sum);
        let text: String = (0..56)
            .map(|place| {
                let bit = |bit: usize| bytes[bit / 8] >> (7 - bit % 8) & 1;
                let value = (0..5).fold(0, |value, one| value << 1 | bit(place * 5 + one));
                BASE32[usize::from(value)] as char
            })
            .collect();
        assert!(text.starts_with('X'));
        assert!(Wallet::parse(&text).unwrap_err().contains("begin with G"));
    }
}
