//! The validator: one pass, no recursion, and a bit of memory for each open array or object.

/// How many arrays and objects may be open at once in what is passed on.
///
/// RFC 8259 §9 leaves the limit to the implementation. Heartline's own code does not
/// recurse, and validates whatever fits its memory; but the peers that parse a relayed
/// payload do recurse, and some end their connection where they refuse to. Python's `json`
/// takes nearly 1 000 levels, Java's parsers 512 or 1 000, browsers and Node many more.
pub const MAX_DEPTH: usize = 512;

/// Index behind the value that starts at `start`, after optional whitespace.
///
/// Strict RFC 8259: no comments, no trailing commas, no bare control
/// characters in strings. `None` if there is no valid value. Whitespace
/// behind the value is not consumed. It may be nested as deep as it likes;
/// see [`is_deeper_than`].
///
/// ```
/// use heartline_wire::json::skip_value;
///
/// assert_eq!(skip_value(r#" [1,"a"] tail"#, 0), Some(8));
/// assert_eq!(skip_value("[1,]", 0), None);
/// ```
#[inline]
pub fn skip_value(text: &str, start: usize) -> Option<usize> {
    let bytes = text.as_bytes();
    let at = skip_space(bytes, start);
    match *bytes.get(at)? {
        // Most values: told here, without a call.
        b'"' => skip_string(bytes, at),
        b'{' | b'[' => skip_nested(bytes, at),
        _ => skip_scalar(bytes, at),
    }
}

/// Behind the array or object that opens at `start`.
fn skip_nested(bytes: &[u8], start: usize) -> Option<usize> {
    let mut at = start;
    // One bit per open container, the innermost lowest: 1 for an object; above them a 1 that
    // says how many they are. Those that no word has room for are put by, a word at a time.
    let mut open = 1u64;
    let mut outer: Vec<u64> = Vec::new();
    loop {
        // A value begins here.
        at = skip_space(bytes, at);
        match *bytes.get(at)? {
            bracket @ (b'{' | b'[') => {
                let is_object = bracket == b'{';
                at = skip_space(bytes, at + 1);
                // The closing brackets lie two above the opening ones in ASCII.
                if bytes.get(at) == Some(&(bracket + 2)) {
                    at += 1;
                } else {
                    if open.leading_zeros() == 0 {
                        outer.push(std::mem::replace(&mut open, 1));
                    }
                    open = open << 1 | u64::from(is_object);
                    if is_object {
                        at = skip_key(bytes, at)?;
                    }
                    continue;
                }
            }
            _ => at = skip_scalar(bytes, at)?,
        }
        // A value has ended: close what ends with it, or find the next.
        loop {
            if open == 1 {
                match outer.pop() {
                    Some(word) => open = word,
                    None => return Some(at),
                }
            }
            at = skip_space(bytes, at);
            let in_object = open & 1 == 1;
            match (*bytes.get(at)?, in_object) {
                (b',', false) => {
                    at += 1;
                    break;
                }
                (b',', true) => {
                    at = skip_key(bytes, skip_space(bytes, at + 1))?;
                    break;
                }
                (b']', false) | (b'}', true) => {
                    at += 1;
                    open >>= 1;
                }
                _ => return None,
            }
        }
    }
}

/// Behind the value at `at` that is no array or object.
#[inline]
fn skip_scalar(bytes: &[u8], at: usize) -> Option<usize> {
    match *bytes.get(at)? {
        b'"' => skip_string(bytes, at),
        b'-' | b'0'..=b'9' => skip_number(bytes, at),
        b't' => skip_word(bytes, at, b"true"),
        b'f' => skip_word(bytes, at, b"false"),
        b'n' => skip_word(bytes, at, b"null"),
        _ => None,
    }
}

/// Whether more than `levels` arrays and objects are open at once anywhere in valid JSON,
/// one value or several with commas between them.
///
/// Almost always it is told by the length, or by a count of the opening brackets.
///
/// ```
/// use heartline_wire::json::is_deeper_than;
///
/// assert!(is_deeper_than(r#"[1, {"a": []}]"#, 2));
/// assert!(!is_deeper_than(r#"[], [[]], "[[[", {}"#, 2));
/// ```
pub fn is_deeper_than(text: &str, levels: usize) -> bool {
    let bytes = text.as_bytes();
    let opening = || bytes.iter().filter(|byte| matches!(byte, b'[' | b'{'));
    if bytes.len() / 2 <= levels || opening().count() <= levels {
        return false;
    }
    let (mut depth, mut at) = (0usize, 0);
    while let Some(byte) = bytes.get(at) {
        at += 1;
        match byte {
            b'"' => at = skip_string(bytes, at - 1).unwrap_or(bytes.len()),
            b'[' | b'{' => depth += 1,
            b']' | b'}' => depth = depth.saturating_sub(1),
            _ => {}
        }
        if depth > levels {
            return true;
        }
    }
    false
}

/// Whether `text` is exactly one JSON value, whitespace around it allowed.
///
/// ```
/// use heartline_wire::json::is_valid;
///
/// assert!(is_valid(" {\"a\":[1,2.5e3,null]}\n"));
/// assert!(!is_valid("{'a':1}"));
/// ```
pub fn is_valid(text: &str) -> bool {
    skip_value(text, 0).is_some_and(|end| skip_space(text.as_bytes(), end) == text.len())
}

/// First index at or after `at` that holds no JSON whitespace.
#[inline]
pub(crate) fn skip_space(bytes: &[u8], mut at: usize) -> usize {
    while let Some(b' ' | b'\t' | b'\n' | b'\r') = bytes.get(at) {
        at += 1;
    }
    at
}

/// Behind the string literal whose opening quote is at `at`.
#[inline]
pub(crate) fn skip_string(bytes: &[u8], at: usize) -> Option<usize> {
    if bytes.get(at) != Some(&b'"') {
        return None;
    }
    let end = plain_until(bytes, at + 1);
    match *bytes.get(end)? {
        b'"' => Some(end + 1),
        b'\\' => skip_escapes(bytes, end),
        // A bare control character (RFC 8259 §7).
        _ => None,
    }
}

/// Behind the string literal that has an escape at `at`.
fn skip_escapes(bytes: &[u8], mut at: usize) -> Option<usize> {
    loop {
        match *bytes.get(at)? {
            b'"' => return Some(at + 1),
            b'\\' => match *bytes.get(at + 1)? {
                b'"' | b'\\' | b'/' | b'b' | b'f' | b'n' | b'r' | b't' => at += 2,
                b'u' => {
                    let digits = bytes.get(at + 2..at + 6)?;
                    if !digits.iter().all(u8::is_ascii_hexdigit) {
                        return None;
                    }
                    at += 6;
                }
                _ => return None,
            },
            _ => return None,
        }
        at = plain_until(bytes, at);
    }
}

/// First index at or after `at` whose byte ends a run of plain characters in
/// a string literal (quote, backslash or control character); the length if
/// there is none.
#[inline]
pub(super) fn plain_until(bytes: &[u8], at: usize) -> usize {
    let rest = bytes.get(at..).unwrap_or_default();
    let Some(word) = rest.first_chunk::<8>() else {
        return at + plain_bytes(rest);
    };
    // Names are short: most runs end in their first eight bytes.
    match plain_in(word) {
        8 => long_plain_until(bytes, at + 8),
        plain => at + plain,
    }
}

/// The same for a run that is long: most of a payload is such runs.
fn long_plain_until(bytes: &[u8], mut at: usize) -> usize {
    while let Some(block) = bytes[at..].first_chunk::<32>()
        && is_plain(block)
    {
        at += 32;
    }
    while let Some(word) = bytes[at..].first_chunk::<8>() {
        match plain_in(word) {
            8 => at += 8,
            plain => return at + plain,
        }
    }
    at + plain_bytes(&bytes[at..])
}

/// How many plain characters `bytes` begins with.
fn plain_bytes(bytes: &[u8]) -> usize {
    let is_special = |byte: &u8| matches!(byte, b'"' | b'\\' | 0..0x20);
    bytes.iter().position(is_special).unwrap_or(bytes.len())
}

/// How many plain characters a word begins with.
#[inline]
fn plain_in(word: &[u8; 8]) -> usize {
    special_bytes(u64::from_le_bytes(*word)).trailing_zeros() as usize / 8
}

/// Whether no byte is special; without a branch, so that one instruction looks at many.
#[inline]
fn is_plain(block: &[u8; 32]) -> bool {
    let (words, _) = block.as_chunks::<8>();
    let hits = words
        .iter()
        .map(|word| special_bytes(u64::from_le_bytes(*word)));
    hits.fold(0, |all, hits| all | hits) == 0
}

/// High bit set in each byte of `word` that is a quote, a backslash or below
/// 0x20. Subtraction may carry into bytes above a hit, so only the lowest set
/// bit counts.
#[inline]
fn special_bytes(word: u64) -> u64 {
    const ONES: u64 = u64::from_ne_bytes([1; 8]);
    const HIGH: u64 = ONES << 7;
    let quotes = word ^ (ONES * b'"' as u64);
    let slashes = word ^ (ONES * b'\\' as u64);
    let below =
        quotes.wrapping_sub(ONES) | slashes.wrapping_sub(ONES) | word.wrapping_sub(ONES * 0x20);
    // What has its high bit is none of them, and neither is its difference from them.
    below & !word & HIGH
}

/// Behind `"key" :`, given the index of the key's quote.
#[inline]
fn skip_key(bytes: &[u8], at: usize) -> Option<usize> {
    let colon = skip_space(bytes, skip_string(bytes, at)?);
    (bytes.get(colon) == Some(&b':')).then_some(colon + 1)
}

/// RFC 8259 §6: `-`, an integer without leading zeros, fraction, exponent.
#[inline]
fn skip_number(bytes: &[u8], mut at: usize) -> Option<usize> {
    if bytes.get(at) == Some(&b'-') {
        at += 1;
    }
    at = match bytes.get(at)? {
        b'0' => at + 1,
        _ => skip_digits(bytes, at)?,
    };
    if bytes.get(at) == Some(&b'.') {
        at = skip_digits(bytes, at + 1)?;
    }
    if let Some(b'e' | b'E') = bytes.get(at) {
        at += 1;
        if let Some(b'+' | b'-') = bytes.get(at) {
            at += 1;
        }
        at = skip_digits(bytes, at)?;
    }
    Some(at)
}

/// Behind a run of at least one digit.
#[inline]
fn skip_digits(bytes: &[u8], start: usize) -> Option<usize> {
    let mut at = start;
    while let Some(b'0'..=b'9') = bytes.get(at) {
        at += 1;
    }
    (at > start).then_some(at)
}

#[inline]
fn skip_word(bytes: &[u8], at: usize, word: &[u8]) -> Option<usize> {
    bytes
        .get(at..)?
        .starts_with(word)
        .then_some(at + word.len())
}
