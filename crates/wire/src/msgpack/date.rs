//! Dates, as JavaScript's `Date.prototype.toJSON` writes them.

use std::fmt::Write;

/// The range of a JavaScript date (ECMA-262, "Time Values and Time Range").
const MAX_MS: i64 = 8_640_000_000_000_000;
const MS_PER_DAY: i64 = 86_400_000;

/// Appends a time in milliseconds since 1970 as a JSON string in ISO 8601,
/// UTC. A time that no JavaScript date can hold becomes `null`.
pub(super) fn push_iso(ms: i64, out: &mut String) {
    if !(-MAX_MS..=MAX_MS).contains(&ms) {
        out.push_str("null");
        return;
    }
    let (year, month, day) = civil(ms.div_euclid(MS_PER_DAY));
    let in_day = ms.rem_euclid(MS_PER_DAY);
    let (second, milli) = (in_day / 1000, in_day % 1000);
    let (hour, minute, second) = (second / 3600, second / 60 % 60, second % 60);
    out.push('"');
    // Writing to a string cannot fail.
    let _ = match year {
        0..=9999 => write!(out, "{year:04}"),
        _ => write!(out, "{year:+07}"),
    };
    let _ = write!(
        out,
        "-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{milli:03}Z\""
    );
}

/// Year, month and day of a day counted from 1970-01-01 in the proleptic
/// Gregorian calendar.
///
/// Years are counted from March, so that the leap day is a year's last; 400
/// of them are always 146 097 days.
fn civil(days: i64) -> (i64, i64, i64) {
    // 719 468 days lie between 0000-03-01 and 1970-01-01.
    let days = days + 719_468;
    let era = days.div_euclid(146_097);
    let day_of_era = days.rem_euclid(146_097);
    let year_of_era =
        (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    // From March on, month lengths repeat 31 30 31 30 31: 153 days for five.
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = (month_from_march + 2) % 12 + 1;
    let year = era * 400 + year_of_era + i64::from(month <= 2);
    (year, month, day)
}
