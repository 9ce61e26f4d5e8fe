//! The validator against serde_json, and the functions that trust it.

#![no_main]

use heartline_wire::json;
use libfuzzer_sys::fuzz_target;
use serde::de::IgnoredAny;

fuzz_target!(|text: &str| {
    let valid = json::is_valid(text);
    // serde_json knows no limit of depth here, so it may accept more.
    let by_serde = serde_json::from_str::<IgnoredAny>(text).is_ok();
    let deep = text
        .bytes()
        .filter(|byte| matches!(byte, b'[' | b'{'))
        .count()
        > 128;
    assert!(valid == by_serde || (deep && !valid));

    if let Some(literal) = json::unquote(text) {
        assert!(valid);
        assert_eq!(
            json::unquote(&json::quote(&literal)).as_deref(),
            Some(&*literal)
        );
    }
    json::elements(text).for_each(|element| assert!(json::is_valid(element)));
    let mut members = json::members(text);
    for (name, value) in &mut members {
        assert!(json::is_valid(name) && json::is_valid(value));
    }
    assert!(!valid || members.is_complete() == text.trim_start().starts_with('{'));
    let _ = json::field(text, "a");
});
