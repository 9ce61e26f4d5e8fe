//! Codes of invites: how one is made, and how it is found in what somebody pastes.
//!
//! ```
//! use heartline_wire::invite;
//!
//! assert_eq!(invite::parse("k3Jd81LmQz").as_deref(), Some("k3Jd81LmQz"));
//! let pasted = " https://app.example/invite/k3Jd81LmQz?from=mail#top ";
//! assert_eq!(invite::parse(pasted).as_deref(), Some("k3Jd81LmQz"));
//! assert_eq!(invite::parse("https://app.example/"), None);
//! ```

/// Characters of a code that is made: 59.5 bits, which nobody guesses at ten a minute.
pub const LENGTH: usize = 10;

/// Longest text that is looked at, bytes.
pub const MAX_TEXT: usize = 2_048;

/// Characters that a code may have.
const MIN: usize = 4;
const MAX: usize = 64;

const ALPHABET: &[u8; 62] = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";

/// A new code. `fill` fills bytes with randomness; those that would favour some characters are
/// thrown away.
pub fn make(mut fill: impl FnMut(&mut [u8])) -> String {
    let fair = 256 - 256 % ALPHABET.len();
    let mut code = String::with_capacity(LENGTH);
    while code.len() < LENGTH {
        let mut bytes = [0; 2 * LENGTH];
        fill(&mut bytes);
        let fair = bytes
            .iter()
            .map(|byte| usize::from(*byte))
            .filter(|byte| *byte < fair);
        let characters = fair.map(|byte| char::from(ALPHABET[byte % ALPHABET.len()]));
        code.extend(characters.take(LENGTH - code.len()));
    }
    code
}

fn is_code(text: &str) -> bool {
    (MIN..=MAX).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_alphanumeric())
}

/// The code in a text: the code itself, or an address with it. Of an address the path counts,
/// percent-decoded once: what follows the last segment `invite`, `invites`, `i` or `join`, else
/// the last segment; else the parameters `code` and `invite` of the query. The host is anybody's.
pub fn parse(text: &str) -> Option<String> {
    let text = text.trim();
    if text.len() > MAX_TEXT {
        return None;
    }
    if is_code(text) {
        return Some(text.to_owned());
    }
    let (rest, _fragment) = text.split_once('#').unwrap_or((text, ""));
    let (place, query) = rest.split_once('?').unwrap_or((rest, ""));
    let path = match place.split_once("//") {
        Some((scheme, host)) if scheme.is_empty() || scheme.ends_with(':') => {
            host.split_once('/').map_or("", |(_host, path)| path)
        }
        _ => place,
    };
    let path = decoded(path);
    let segments: Vec<&str> = path.split('/').filter(|part| !part.is_empty()).collect();
    let is_sign = |segment: &str| {
        let signs = ["invite", "invites", "i", "join"];
        signs.iter().any(|sign| segment.eq_ignore_ascii_case(sign))
    };
    let after_sign = segments.windows(2).rev().find(|pair| is_sign(pair[0]));
    let named = after_sign.map(|pair| pair[1]);
    // A sign at the end is followed by nothing.
    let last = segments.last().copied().filter(|segment| !is_sign(segment));
    let of_path = named.into_iter().chain(last);
    if let Some(code) = of_path.into_iter().find(|part| is_code(part)) {
        return Some(code.to_owned());
    }
    ["code", "invite"].into_iter().find_map(|name| {
        let mut parameters = form_urlencoded::parse(query.as_bytes());
        let found = parameters.find(|(key, value)| key == name && is_code(value))?;
        Some(found.1.into_owned())
    })
}

/// A path with its percent signs decoded, once; what is none stays.
fn decoded(path: &str) -> String {
    let bytes = path.as_bytes();
    let digit = |at: usize| {
        bytes
            .get(at)
            .and_then(|byte| char::from(*byte).to_digit(16))
    };
    let mut out = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while let Some(byte) = bytes.get(at) {
        match (byte, digit(at + 1), digit(at + 2)) {
            (b'%', Some(high), Some(low)) => {
                out.push((high * 16 + low) as u8);
                at += 3;
            }
            _ => {
                out.push(*byte);
                at += 1;
            }
        }
    }
    String::from_utf8_lossy(&out).into_owned()
}

/// The address of a code, by a template with `{code}` in it.
pub fn address(template: &str, code: &str) -> String {
    template.replace("{code}", code)
}

/// Whether the codes are found again in the addresses that a template makes.
pub fn is_template(template: &str) -> bool {
    let mut codes = ["k3Jd81LmQz", "Zx90aPq7Rt"].into_iter();
    codes.all(|code| parse(&address(template, code)).as_deref() == Some(code))
}
