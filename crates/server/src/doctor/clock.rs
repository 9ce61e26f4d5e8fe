//! Whether this machine knows what time it is: tokens and certificates end by its clock.

use std::time::{Duration, UNIX_EPOCH};

use super::report::Check;

/// 2026-01-01, before which this program was not, and 2100-01-01, Unix seconds.
const BEGIN: u64 = 1_767_225_600;
const END: u64 = 4_102_444_800;
/// How far two clocks may differ, milliseconds: less than `auth.jwt.leeway` usually is.
const MAX_DIFFERENCE: u64 = 2000;

/// `others`: whose clocks there are besides, and how far each is ahead, milliseconds, if it said so.
pub(super) fn judge(now: u64, others: &[(&str, Option<i64>)]) -> Check {
    const NAME: &str = "clock";
    const SYNC: &str = "timedatectl set-ntp true; timedatectl says whether it is in step";
    let time = humantime::format_rfc3339_seconds(UNIX_EPOCH + Duration::from_secs(now));
    let todo = Some(SYNC.to_owned());
    if !(BEGIN..END).contains(&now) {
        let found = format!("it is {time} here, which cannot be: no token and no certificate fits");
        return Check::problem(NAME, found, todo);
    }
    let known = || {
        others
            .iter()
            .filter_map(|(whose, ahead)| Some((*whose, (*ahead)?)))
    };
    let told = known().map(|(whose, ahead)| format!("; the clock of {whose} is {}", apart(ahead)));
    let found = format!("it is {time}{}", told.collect::<String>());
    match known().any(|(_, ahead)| ahead.unsigned_abs() > MAX_DIFFERENCE) {
        true => Check::warning(
            NAME,
            format!("{found}: on one of these machines it is wrong"),
            todo,
        ),
        false => Check::ok(NAME, found),
    }
}

/// A difference in words.
fn apart(ahead: i64) -> String {
    let way = if ahead < 0 { "behind" } else { "ahead" };
    match ahead.unsigned_abs() {
        difference @ 0..1000 => format!("{difference} ms {way}"),
        difference => format!("{:.1} s {way}", difference as f64 / 1000.0),
    }
}

#[cfg(test)]
mod tests {
    use super::super::report::Status;
    use super::*;

    #[test]
    fn a_wrong_year_is_a_problem_and_another_time_than_elsewhere_a_warning() {
        let now = 1_800_000_000;
        for (now, redis, postgres, expected) in [
            (now, None, None, Status::Ok),
            (now, Some(-2000), Some(2000), Status::Ok),
            (now, Some(2001), None, Status::Warning),
            (now, None, Some(2001), Status::Warning),
            (now, Some(0), Some(-86_400_000), Status::Warning),
            (0, None, None, Status::Problem),
            (BEGIN - 1, Some(0), None, Status::Problem),
            (END, Some(0), None, Status::Problem),
        ] {
            let others = [("Redis", redis), ("PostgreSQL", postgres)];
            assert_eq!(judge(now, &others).status, expected, "{now} {others:?}");
        }
        let others = [("Redis", Some(-3200)), ("PostgreSQL", Some(7))];
        let found = judge(now, &others).found;
        assert!(found.contains("Redis is 3.2 s behind; "), "{found}");
        assert!(found.contains("PostgreSQL is 7 ms ahead: on"), "{found}");
    }
}
