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

/// `off`, or no text at all.
pub(crate) fn is_off(value: &Value) -> bool {
    match value {
        Value::String(text) => text == "off" || text.is_empty(),
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
    read(value).map(Some)
}

/// `25s`, `300ms`, `1m30s`, `0s`.
pub(crate) fn duration(value: &Value) -> Result<Duration, Wrong> {
    let text = text(value)?;
    parse_duration(&text).ok_or_else(|| {
        format!("must be a duration like \"25s\", \"300ms\" or \"1m30s\", not {text:?}")
    })
}

/// The same from text.
pub(crate) fn parse_duration(text: &str) -> Option<Duration> {
    let mut rest = text.trim();
    if rest == "0" {
        return Some(Duration::ZERO);
    }
    let mut total = Duration::ZERO;
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit())?;
        let number: u64 = rest[..digits].parse().ok()?;
        let after = &rest[digits..];
        let letters = after
            .find(|c: char| c.is_ascii_digit())
            .unwrap_or(after.len());
        let (unit, later) = after.split_at(letters);
        let millis = match unit.trim() {
            "ms" => 1,
            "s" => 1_000,
            "m" => 60_000,
            "h" => 3_600_000,
            "d" => 86_400_000,
            _ => return None,
        };
        total = total.checked_add(Duration::from_millis(number.checked_mul(millis)?))?;
        rest = later;
    }
    (total > Duration::ZERO || text.starts_with('0')).then_some(total)
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

/// `1MB` (a million), `1MiB`, `64KB`, or plain bytes.
pub(crate) fn size(value: &Value) -> Result<usize, Wrong> {
    let text = text(value)?;
    let wrong =
        || format!("must be a size like \"1MB\", \"64KiB\" or a number of bytes, not {text:?}");
    let digits = text
        .find(|c: char| !c.is_ascii_digit())
        .unwrap_or(text.len());
    let number: usize = text[..digits].parse().map_err(|_| wrong())?;
    let unit = match text[digits..].trim().to_ascii_lowercase().as_str() {
        "" | "b" => 1,
        "kb" | "k" => 1_000,
        "kib" => 1 << 10,
        "mb" | "m" => 1_000_000,
        "mib" => 1 << 20,
        "gb" | "g" => 1_000_000_000,
        "gib" => 1 << 30,
        _ => return Err(wrong()),
    };
    match number.checked_mul(unit) {
        Some(size) if size > 0 => Ok(size),
        _ => Err(wrong()),
    }
}

/// A whole number of at least one.
pub(crate) fn count(value: &Value) -> Result<usize, Wrong> {
    match whole(value)? {
        0 => Err("must be at least 1, or \"off\" where that is allowed".into()),
        count => Ok(count),
    }
}

/// A whole number.
pub(crate) fn whole(value: &Value) -> Result<usize, Wrong> {
    let text = text(value)?;
    text.parse()
        .map_err(|_| format!("must be a whole number, not {text:?}"))
}

/// `true` or `false`.
pub(crate) fn truth(value: &Value) -> Result<bool, Wrong> {
    match text(value)?.as_str() {
        "true" | "on" => Ok(true),
        "false" | "off" => Ok(false),
        other => Err(format!("must be true or false, not {other:?}")),
    }
}

/// A list of texts; one text is a list of one, commas separate several.
pub(crate) fn list(value: &Value) -> Result<Vec<String>, Wrong> {
    match value {
        Value::Array(items) => items.iter().map(text).collect(),
        other => Ok(text(other)?
            .split(',')
            .map(|item| item.trim().to_owned())
            .filter(|item| !item.is_empty())
            .collect()),
    }
}

/// `{ count = 10, window = "10s" }`.
pub(crate) fn limit(value: &Value) -> Result<Limit, Wrong> {
    let wrong = || "must be { count = N, window = \"10s\" } or \"off\"".to_owned();
    let Value::Table(members) = value else {
        return Err(wrong());
    };
    if let Some(unknown) = members
        .keys()
        .find(|key| !["count", "window"].contains(&key.as_str()))
    {
        return Err(format!("has no member {unknown:?}; it {}", wrong()));
    }
    let (Some(number), Some(window)) = (members.get("count"), members.get("window")) else {
        return Err(wrong());
    };
    let number = count(number).map_err(|_| wrong())?;
    Ok(Limit {
        count: u32::try_from(number).map_err(|_| wrong())?,
        window: positive_duration(window).map_err(|_| wrong())?,
    })
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
    fn durations() {
        let read = |text: &str| parse_duration(text).map(|duration| duration.as_millis());
        assert_eq!(read("25s"), Some(25_000));
        assert_eq!(read("1m30s"), Some(90_000));
        assert_eq!(read("300ms"), Some(300));
        assert_eq!(read("0s"), Some(0));
        assert_eq!(read("1d"), Some(86_400_000));
        for wrong in ["", "25", "s", "25 parsecs", "-1s", "1.5s"] {
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
        assert_eq!(read("0"), None);
        assert_eq!(read("12 bananas"), None);
    }

    #[test]
    fn limits() {
        let read = |text: &str| limit(&literal(text));
        assert_eq!(read("{count=10, window=\"10s\"}"), Ok(Limit::per(10, 10)));
        assert!(read("{count=0, window=\"10s\"}").is_err());
        assert!(read("{count=1, window=\"10s\", burst=3}").is_err());
        assert!(read("10").is_err());
    }
}
