//! Signatures of wallets.

use ed25519_dalek::Signature;
use ring::digest::{Context, SHA256};

use super::address::{Wallet, base64_of, hex};

/// What wallets put before a message that they sign (SEP-53).
const PREFIX: &[u8] = b"Stellar Signed Message:\n";

/// Reads a signature: 64 bytes as base64 or hex, as wallets give either.
pub(super) fn parse(text: &str) -> Option<Signature> {
    let bytes = hex(text).or_else(|| base64_of(text))?;
    Some(Signature::from_bytes(&bytes))
}

/// Whether the wallet has signed this message: as SEP-53 says, which is how wallets sign text,
/// or its bytes as they are.
pub(super) fn is_signed(wallet: &Wallet, message: &[u8], signature: &Signature) -> bool {
    let mut hash = Context::new(&SHA256);
    hash.update(PREFIX);
    hash.update(message);
    let hash = hash.finish();
    let by = |bytes| wallet.key().verify_strict(bytes, signature).is_ok();
    by(hash.as_ref()) || by(message)
}

#[cfg(test)]
mod tests {
    use super::*;
    use base64::Engine as _;
    use base64::engine::general_purpose::STANDARD;

    const ADDRESS: &str = "GBXFXNDLV4LSWA4VB7YIL5GBD7BVNR22SGBTDKMO2SBZZHDXSKZYCP7L";

    fn is_good(message: &[u8], signature: &str) -> bool {
        let signature = parse(signature).unwrap();
        is_signed(&Wallet::parse(ADDRESS).unwrap(), message, &signature)
    }

    #[test]
    fn the_published_signatures_of_sep_53_are_good() {
        let binary = STANDARD.decode("2zZDP1sa1BVBfLP7TeeMk3sUbaxAkUhBhDiNdrksaFo=");
        let binary = binary.unwrap();
        for (message, base64, hex) in [
            (
                &b"Hello, World!"[..],
                "fO5dbYhXUhBMhe6kId/cuVq/AfEnHRHEvsP8vXh03M1uLpi5e46yO2Q8rEBzu3feXQewcQE5GArp88u6ePK6BA==",
                "7cee5d6d885752104c85eea421dfdcb95abf01f1271d11c4bec3fcbd7874dccd\
                 6e2e98b97b8eb23b643cac4073bb77de5d07b0710139180ae9f3cbba78f2ba04",
            ),
            (
                "こんにちは、世界！".as_bytes(),
                "CDU265Xs8y3OWbB/56H9jPgUss5G9A0qFuTqH2zs2YDgTm+++dIfmAEceFqB7bhfN3am59lCtDXrCtwH2k1GBA==",
                "083536eb95ecf32dce59b07fe7a1fd8cf814b2ce46f40d2a16e4ea1f6cecd980\
                 e04e6fbef9d21f98011c785a81edb85f3776a6e7d942b435eb0adc07da4d4604",
            ),
            (
                &*binary,
                "VA1+7hefNwv2NKScH6n+Sljj15kLAge+M2wE7fzFOf+L0MMbssA1mwfJZRyyrhBORQRle10X1Dxpx+UOI4EbDQ==",
                "540d7eee179f370bf634a49c1fa9fe4a58e3d7990b0207be336c04edfcc539ff\
                 8bd0c31bb2c0359b07c9651cb2ae104e4504657b5d17d43c69c7e50e23811b0d",
            ),
        ] {
            let url = base64.replace('+', "-").replace('/', "_");
            for written in [
                base64,
                base64.trim_end_matches('='),
                &*url,
                url.trim_end_matches('='),
                hex,
                &*hex.to_uppercase(),
            ] {
                assert!(is_good(message, written), "{written}");
            }
            assert!(!is_good(b"Hello, world!", base64));
        }
    }

    #[test]
    fn the_bytes_as_they_are_may_be_signed_too_but_by_nobody_else() {
        let pair = ring::signature::Ed25519KeyPair::from_seed_unchecked(&[7; 32]).unwrap();
        let key = ring::signature::KeyPair::public_key(&pair);
        let own = Wallet::parse(&STANDARD.encode(key)).unwrap();
        let signature = parse(&STANDARD.encode(pair.sign(b"a challenge"))).unwrap();
        assert!(is_signed(&own, b"a challenge", &signature));
        assert!(!is_signed(&own, b"a challenge!", &signature));
        let other = Wallet::parse(ADDRESS).unwrap();
        assert!(!is_signed(&other, b"a challenge", &signature));
    }

    #[test]
    fn what_has_not_64_bytes_is_no_signature() {
        for text in ["", "00", "AAAA", &"0".repeat(126), &"A".repeat(88), "é"] {
            assert!(parse(text).is_none(), "{text}");
        }
    }
}
