//! Codes of invites in what people paste.

use heartline_wire::invite::{LENGTH, MAX_TEXT, address, is_template, make, parse};
use proptest::prelude::*;

/// What clients are tested with as well.
const TABLE: &str = include_str!("../../../../tests/lib/invites.json");

#[test]
fn a_code_is_found_in_what_is_pasted_or_there_is_none() {
    let table: Vec<(String, Option<String>)> = serde_json::from_str(TABLE).unwrap();
    assert!(table.len() >= 60, "{}", table.len());
    for (pasted, code) in table {
        assert_eq!(parse(&pasted), code, "{pasted:?}");
    }
}

#[test]
fn what_is_too_long_is_not_looked_at() {
    let fits = format!(
        "https://app.example/invite/k3Jd81LmQz?{}",
        "a".repeat(2_000)
    );
    assert_eq!(parse(&fits).as_deref(), Some("k3Jd81LmQz"));
    let long = format!(
        "https://app.example/invite/k3Jd81LmQz?{}",
        "a".repeat(MAX_TEXT)
    );
    assert_eq!(parse(&long), None);
    assert_eq!(parse(&"/invite/k3Jd81LmQz".repeat(120_000)), None);
}

#[test]
fn a_code_favours_no_character() {
    let mut state = 7u64;
    let mut fill = |bytes: &mut [u8]| {
        for byte in bytes {
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1);
            *byte = (state >> 56) as u8;
        }
    };
    let mut counts = std::collections::BTreeMap::new();
    for _ in 0..62_000 {
        let code = make(&mut fill);
        assert_eq!(code.len(), LENGTH);
        for character in code.chars() {
            *counts.entry(character).or_insert(0u32) += 1;
        }
    }
    // Of the remainder of 256 by 62 the first eight would come a quarter more often.
    assert_eq!(counts.len(), 62);
    assert!(
        counts.values().all(|count| (9_500..10_500).contains(count)),
        "{counts:?}"
    );
    // Bytes that favour are thrown away.
    let mut first = true;
    let code = make(|bytes| {
        bytes.fill(if std::mem::take(&mut first) { 255 } else { 61 });
    });
    assert_eq!(code, "zzzzzzzzzz");
}

proptest! {
    #[test]
    fn a_code_is_found_in_any_address_around_it(
        code in "[0-9A-Za-z]{10}",
        host in "[a-z]{1,12}(\\.[a-z]{2,5}){1,2}",
        before in prop::collection::vec("[a-z0-9-]{1,8}", 0..4),
        sign in prop::sample::select(vec!["invite", "invites", "i", "join", "INVITE"]),
        slash in prop::sample::select(vec!["", "/", "//"]),
        query in prop::option::of("[a-z]{1,5}=[a-zA-Z0-9]{0,12}"),
        fragment in prop::option::of("[a-zA-Z0-9/]{0,12}"),
    ) {
        let path: String = before.iter().map(|part| format!("/{part}")).collect();
        let mut template = format!("https://{host}{path}/{sign}/{{code}}{slash}");
        query.iter().for_each(|query| template.push_str(&format!("?{query}")));
        fragment.iter().for_each(|fragment| template.push_str(&format!("#{fragment}")));
        prop_assert!(is_template(&template));
        prop_assert_eq!(parse(&address(&template, &code)), Some(code));
    }

    #[test]
    fn nothing_that_is_pasted_panics_and_only_codes_are_found(text in "\\PC{0,200}") {
        if let Some(code) = parse(&text) {
            prop_assert!((4..=64).contains(&code.len()));
            prop_assert!(code.bytes().all(|byte| byte.is_ascii_alphanumeric()));
        }
    }
}
