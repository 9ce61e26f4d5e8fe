//! Values as people write them: durations, sizes, limits, lists.

use std::time::Duration;

use heartline::config::Limit;
use toml::Value;

/// What is wrong with a value, as the end of a sentence that begins with the
/// key's name.
pub(crate) type Wrong = String;

/// Text, also where TOML took it for a number or a truth value.
pub(crate) fn text(value: &Value) -> Result<String, Wrong> {
    match value {
        Value::String(text) => Ok(text.clone()),
        Value::Integer(_) | Value::Float(_) | Value::Boolean(_) => Ok(value.to_string()),
        _ => Err("must be text".into()),
    }
}

/// The same where it is written in a form of its own.
fn written(value: &Value, form: &str) -> Result<String, Wrong> {
    text(value).map_err(|_| format!("must be {form}"))
}

/// What is shown in place of a secret.
pub(super) const MASK: &str = "********";

/// A URL without what in it is for nobody else's eyes: what stands before the `@` of its
/// authority, what its query has under a name that says so or under none, and its fragment. `None`
/// if it is no URL.
pub(super) fn masked_url(text: &str) -> Option<String> {
    with_secrets(text, |_| MASK.to_owned())
}

/// Whether one of those parts of a URL has been masked already.
pub(super) fn is_masked_url(text: &str) -> bool {
    let mut is_masked = false;
    let _ = with_secrets(text, |secret| {
        is_masked |= secret.contains(MASK);
        String::new()
    });
    is_masked
}

/// A URL with something else in place of each part that is a secret.
fn with_secrets(text: &str, mut shown: impl FnMut(&str) -> String) -> Option<String> {
    let (scheme, rest) = text.split_once("://")?;
    // The crate that speaks with PostgreSQL takes all before the @ for user and password, a slash
    // as well.
    let ends: &[char] = match scheme.starts_with("postgres") {
        true => &['?'],
        false => &['/', '?', '#'],
    };
    let (authority, rest) = rest.split_at(rest.find(ends).unwrap_or(rest.len()));
    let mut url = format!("{scheme}://");
    match authority.rsplit_once('@') {
        Some((who, place)) => url += &format!("{}@{place}", shown(who)),
        None => url += authority,
    }
    let (rest, fragment) = rest
        .split_once('#')
        .map_or((rest, None), |(rest, fragment)| (rest, Some(fragment)));
    let (path, query) = rest
        .split_once('?')
        .map_or((rest, None), |(path, query)| (path, Some(query)));
    url += path;
    // The place of an invite's code is no secret.
    let mut shown = |part: &str| match part.is_empty() || part.contains("{code}") {
        true => part.to_owned(),
        false => shown(part),
    };
    if let Some(query) = query {
        let pairs = query.split('&').map(|pair| match pair.split_once('=') {
            Some((name, value)) if is_secret(name) => format!("{name}={}", shown(value)),
            Some(_) => pair.to_owned(),
            None => shown(pair),
        });
        let pairs: Vec<String> = pairs.collect();
        url += &format!("?{}", pairs.join("&"));
    }
    if let Some(fragment) = fragment {
        url += &format!("#{}", shown(fragment));
    }
    Some(url)
}

/// Whether a query's parameter of this name, as it is written there, is for nobody else's eyes.
fn is_secret(name: &str) -> bool {
    let words = [
        "pass", "pwd", "secret", "token", "key", "auth", "sig", "cred",
    ];
    form_urlencoded::parse(name.as_bytes()).any(|(name, _)| {
        let name = name.to_ascii_lowercase();
        words.iter().any(|word| name.contains(word))
    })
}

/// `off`, `false`, or no text at all.
pub(crate) fn is_off(value: &Value) -> bool {
    match value {
        Value::String(text) => {
            text.is_empty()
                || ["off", "false"]
                    .iter()
                    .any(|off| text.eq_ignore_ascii_case(off))
        }
        Value::Boolean(on) => !on,
        _ => false,
    }
}

/// `None` where the value is `off`.
pub(crate) fn optional<T>(
    value: &Value,
    read: fn(&Value) -> Result<T, Wrong>,
) -> Result<Option<T>, Wrong> {
    if is_off(value) {
        return Ok(None);
    }
    read(value)
        .map(Some)
        .map_err(|wrong| match wrong.contains("\"off\"") {
            true => wrong,
            false => format!("{wrong}; or it is \"off\""),
        })
}

/// `25s`, `300ms`, `1m30s`, `0s`.
pub(crate) fn duration(value: &Value) -> Result<Duration, Wrong> {
    let form = "a duration like \"25s\", \"300ms\" or \"1m30s\"";
    let text = written(value, form)?;
    parse_duration(&text).ok_or_else(|| {
        let wrong = format!("must be {form}, not {text:?}");
        match !text.is_empty() && text.chars().all(|c| c.is_ascii_digit()) {
            true => format!("{wrong}: write \"{text}s\" or \"{text}ms\""),
            false => wrong,
        }
    })
}

/// The same from text.
pub(crate) fn parse_duration(text: &str) -> Option<Duration> {
    // A capital M would be a month, where a minute is meant.
    let is_plain = !text.contains(char::is_uppercase);
    is_plain.then(|| humantime::parse_duration(text).ok())?
}

/// A year at most; `off` is none.
pub(crate) fn duration_or_none(value: &Value) -> Result<Duration, Wrong> {
    match is_off(value) {
        true => Ok(Duration::ZERO),
        false => match duration(value)? {
            Duration::ZERO => Ok(Duration::ZERO),
            _ => positive_duration(value),
        },
    }
}

/// More than nothing.
pub(crate) fn positive_duration(value: &Value) -> Result<Duration, Wrong> {
    let duration = duration(value)?;
    // Deadlines are a matter of milliseconds; days are as long as it gets.
    if duration < Duration::from_millis(1) || duration > Duration::from_secs(366 * 86_400) {
        return Err("must be between 1ms and 366d".into());
    }
    Ok(duration)
}

/// Largest size, bytes: no machine has more, and four times as much can still be counted.
const MAX_SIZE: (usize, &str) = (1 << 40, "1TiB");
/// Largest message, and most that waits for one connection, bytes.
const MAX_FOR_ONE: (usize, &str) = (1 << 30, "1GiB");
/// Largest whole number: no node has as much of anything that is counted.
const MAX_COUNT: usize = u32::MAX as usize;

/// `1MB` (a million), `1MiB`, `64KB`, or plain bytes; 1 TiB at most.
pub(crate) fn size(value: &Value) -> Result<usize, Wrong> {
    size_up_to(MAX_SIZE, value)
}

/// A size that has an end, and how that is written.
fn size_up_to((most, in_words): (usize, &str), value: &Value) -> Result<usize, Wrong> {
    let form = "a size like \"1MB\", \"64KiB\" or a number of bytes";
    let text = written(value, form)?;
    let size: Option<bytesize::ByteSize> = ungrouped(&text).parse().ok();
    let size = size.filter(|size| size.as_u64() > 0);
    let size = size.ok_or_else(|| format!("must be {form}, not {text:?}"))?;
    usize::try_from(size.as_u64())
        .ok()
        .filter(|size| *size <= most)
        .ok_or_else(|| format!("must be at most {in_words}, not {text:?}"))
}

/// A size with the least with which anything works; 1 GiB at most.
pub(crate) fn size_from(least: usize, value: &Value) -> Result<usize, Wrong> {
    match size_up_to(MAX_FOR_ONE, value)? {
        size if size >= least => Ok(size),
        size => Err(format!(
            "must be at least {least} bytes, not {size}: a client's first packets would not fit"
        )),
    }
}

/// A whole number from one to 4 294 967 295.
pub(crate) fn count(value: &Value) -> Result<usize, Wrong> {
    match whole(value)? {
        0 => Err("must be at least 1".into()),
        count => Ok(count),
    }
}

/// A whole number, 4 294 967 295 at most.
pub(crate) fn whole(value: &Value) -> Result<usize, Wrong> {
    whole_up_to(MAX_COUNT, value)
}

/// A whole number that is not larger than this one.
pub(crate) fn whole_up_to(most: usize, value: &Value) -> Result<usize, Wrong> {
    let text = written(value, "a whole number")?;
    let number = ungrouped(&text);
    let is_number = !number.is_empty() && number.chars().all(|c| c.is_ascii_digit());
    match number.parse() {
        Ok(number) if number <= most => Ok(number),
        Ok(_) => Err(format!("must be at most {most}, not {text}")),
        // It has more digits than a number.
        Err(_) if is_number => Err(format!("must be at most {most}, not {text:.40}")),
        Err(_) => Err(format!("must be a whole number, not {text:?}")),
    }
}

/// A number without the lines between its digits, with which TOML groups them.
fn ungrouped(text: &str) -> String {
    let is_number = text.starts_with(|c: char| c.is_ascii_digit()) && !text.ends_with('_');
    match is_number {
        true => text.replace('_', ""),
        false => text.to_owned(),
    }
}

/// `true` or `false`.
pub(crate) fn truth(value: &Value) -> Result<bool, Wrong> {
    match written(value, "true or false")?.as_str() {
        "true" | "on" | "yes" | "1" => Ok(true),
        "false" | "off" | "no" | "0" => Ok(false),
        other => Err(format!("must be true or false, not {other:?}")),
    }
}

/// One of these words, in any case, with `-` for `_` too.
pub(crate) fn one_of<T: Copy>(value: &Value, choices: &[(&str, T)]) -> Result<T, Wrong> {
    let text = text(value)?;
    let names: Vec<&str> = choices.iter().map(|(name, _)| *name).collect();
    let plain = text.to_ascii_lowercase().replace('-', "_");
    choices
        .iter()
        .find(|(name, _)| *name == plain)
        .map(|(_, choice)| *choice)
        .ok_or_else(|| format!("must be one of {}, not {text:?}", names.join(", ")))
}

/// A list of texts; one text is a list of one, commas separate several.
pub(crate) fn list(value: &Value) -> Result<Vec<String>, Wrong> {
    match value {
        Value::Array(items) => items.iter().map(text).collect::<Result<_, _>>(),
        Value::Table(_) => Err(String::new()),
        off if is_off(off) => Ok(Vec::new()),
        other => Ok(text(other)?
            .split(',')
            .map(|item| item.trim().to_owned())
            .filter(|item| !item.is_empty())
            .collect()),
    }
    .map_err(|_| "must be a list of texts, like [\"one\", \"other\"]".into())
}

/// `{ count = 10, window = "10s" }`, or `10/10s` for short.
pub(crate) fn limit(value: &Value) -> Result<Limit, Wrong> {
    let form = "{ count = N, window = \"10s\" } or \"off\"";
    let wrong = || format!("must be {form}");
    let (number, window) = match value {
        Value::Table(members) => {
            let known = ["count", "window"];
            if let Some(unknown) = members.keys().find(|key| !known.contains(&key.as_str())) {
                return Err(format!("has no member {unknown:?}; it must be {form}"));
            }
            let member = |name| members.get(name).cloned();
            (member("count"), member("window"))
        }
        value => {
            let parts = value.as_str().and_then(|text| text.split_once('/'));
            let (number, window) = parts.ok_or_else(wrong)?;
            let part = |part: &str| Some(Value::String(part.trim().to_owned()));
            (part(number), part(window))
        }
    };
    let (Some(number), Some(window)) = (number, window) else {
        return Err(format!("needs both members of {form}"));
    };
    let number = count(&number)
        .and_then(|number| {
            u32::try_from(number).map_err(|_| format!("must be at most {MAX_COUNT}"))
        })
        .map_err(|wrong| format!("has a count that {wrong}"))?;
    let window =
        positive_duration(&window).map_err(|wrong| format!("has a window that {wrong}"))?;
    Ok(Limit {
        count: number,
        window,
    })
}

/// Whether two values are the same, however each was written: a number may be text, with
/// underscores in it.
pub(super) fn are_alike(one: &Value, other: &Value) -> bool {
    let plain = |value: &Value| match value {
        Value::String(text) => toml::from_str::<toml::Table>(&format!("v = {text}"))
            .ok()
            .and_then(|mut table| table.remove("v"))
            .unwrap_or_else(|| value.clone()),
        value => value.clone(),
    };
    one == other || (is_off(one) && is_off(other)) || plain(one) == plain(other)
}

/// A text of `--set`, or of an environment variable: a TOML string, list or
/// table where it is one, else itself. A number stays text: what looks like
/// one may be a secret, and every reader takes text.
pub(crate) fn literal(text: &str) -> Value {
    toml::from_str::<toml::Table>(&format!("v = {text}"))
        .ok()
        .and_then(|mut table| table.remove("v"))
        .filter(|value| value.is_str() || value.is_array() || value.is_table())
        .unwrap_or_else(|| Value::String(text.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_is_shown_without_what_is_secret_in_it() {
        for (given, shown) in [
            ("redis://u:p@h:1/0", "redis://********@h:1/0"),
            ("redis://u:p@w?x@h:1", "redis://********@w?********"),
            (
                "https://idp/keys?tenant=a@b&api_key=S3CRET",
                "https://idp/keys?tenant=a@b&api_key=********",
            ),
            (
                "https://u:p@idp/k/a@b?api%5Fk%65y=s&p%61ss=s",
                "https://********@idp/k/a@b?api%5Fk%65y=********&p%61ss=********",
            ),
            ("https://idp/k#access_token=s", "https://idp/k#********"),
            (
                "https://app/join?token={code}#{code}",
                "https://app/join?token={code}#{code}",
            ),
            ("postgres://u:p/w#x@h/d", "postgres://********@h/d"),
            ("redis://h:1?password=p", "redis://h:1?password=********"),
            (
                "https://h/k?kid=1&access_token=t&sslpassword=p",
                "https://h/k?kid=1&access_token=********&sslpassword=********",
            ),
            (
                "postgres://u:p@h/d?sslmode=require",
                "postgres://********@h/d?sslmode=require",
            ),
            ("https://h/k", "https://h/k"),
        ] {
            assert_eq!(masked_url(given).as_deref(), Some(shown));
        }
        assert_eq!(masked_url("no URL"), None);
    }

    #[test]
    fn what_is_no_text_is_told_what_is_wanted() {
        let table = literal("{ a = 1 }");
        assert!(duration(&table).unwrap_err().contains("a duration"));
        assert!(size(&table).unwrap_err().contains("a size"));
        assert!(whole(&table).unwrap_err().contains("a whole number"));
        assert!(truth(&table).unwrap_err().contains("true or false"));
    }

    #[test]
    fn durations() {
        let read = |text: &str| parse_duration(text).map(|duration| duration.as_millis());
        assert_eq!(read("25s"), Some(25_000));
        assert_eq!(read("1m30s"), Some(90_000));
        assert_eq!(read("300ms"), Some(300));
        assert_eq!(read("0s"), Some(0));
        assert_eq!(read("1d"), Some(86_400_000));
        assert_eq!(read("0"), Some(0));
        assert_eq!(read("45 sec"), Some(45_000));
        assert_eq!(read(" 1h 30minutes "), Some(5_400_000));
        for wrong in ["", "25", "s", "25 parsecs", "-1s", "5M", "5S"] {
            assert_eq!(read(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn sizes() {
        let read = |text: &str| size(&Value::String(text.into())).ok();
        assert_eq!(read("1MB"), Some(1_000_000));
        assert_eq!(read("1MiB"), Some(1_048_576));
        assert_eq!(read("64KB"), Some(64_000));
        assert_eq!(read("123"), Some(123));
        assert_eq!(read("64k"), Some(64_000));
        assert_eq!(read("1 mb"), Some(1_000_000));
        assert_eq!(read("1.5 MB"), Some(1_500_000));
        assert_eq!(read("1TiB"), Some(1 << 40));
        for wrong in ["", "0", "0MB", "-1", "MB", "NaN", "1e6", "12 bananas"] {
            assert_eq!(read(wrong), None, "{wrong}");
        }
        for large in ["1025GiB", "99999999TiB", "18446744073709551616", "9e99PB"] {
            let wrong = size(&Value::String(large.into())).expect_err(large);
            assert!(wrong.contains("must be"), "{large}: {wrong}");
        }
        let payload = |text: &str| size_from(128, &Value::String(text.into()));
        assert_eq!(payload("1GiB"), Ok(1 << 30));
        assert!(payload("2GiB").unwrap_err().contains("at most 1GiB"));
        assert!(payload("99999999TiB").unwrap_err().contains("at most 1GiB"));
    }

    #[test]
    fn whole_numbers_have_an_end() {
        let read = |text: &str| whole(&Value::String(text.into()));
        assert_eq!(read("4_294_967_295"), Ok(4_294_967_295));
        for large in ["4294967296", "99999999999999999999999"] {
            let wrong = read(large).expect_err(large);
            assert!(wrong.contains("at most 4294967295"), "{wrong}");
        }
        assert!(read("-1").unwrap_err().contains("a whole number"));
    }

    #[test]
    fn limits() {
        let read = |text: &str| limit(&literal(text));
        assert_eq!(read("{count=10, window=\"10s\"}"), Ok(Limit::per(10, 10)));
        assert!(read("{count=0, window=\"10s\"}").is_err());
        assert!(read("{count=1, window=\"10s\", burst=3}").is_err());
        assert_eq!(read("10/10s"), Ok(Limit::per(10, 10)));
        assert_eq!(read("10 / 10s"), Ok(Limit::per(10, 10)));
        for (wrong, says) in [
            ("10", "must be {"),
            ("{count=0, window=\"10s\"}", "count that must be at least 1"),
            ("{count=5000000000, window=\"10s\"}", "at most 4294967295"),
            ("{count=1, window=10}", "\"10s\" or \"10ms\""),
            ("{count=1, window=\"0s\"}", "window that must be between"),
            ("{count=1}", "needs both"),
        ] {
            let sentence = read(wrong).expect_err(wrong);
            assert!(sentence.contains(says), "{wrong}: {sentence}");
        }
    }
}
