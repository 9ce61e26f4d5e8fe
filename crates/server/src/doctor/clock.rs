//! Whether this machine knows what time it is: tokens and certificates end by its clock.

use std::time::{Duration, UNIX_EPOCH};

use super::report::Check;

/// 2026-01-01, before which this program was not, and 2100-01-01, Unix seconds.
const BEGIN: u64 = 1_767_225_600;
const END: u64 = 4_102_444_800;
/// How far two clocks may differ, milliseconds: less than `auth.jwt.leeway` usually is.
const MAX_DIFFERENCE: u64 = 2000;

/// `ahead`: how far the clock of Redis is ahead, milliseconds.
pub(super) fn judge(now: u64, ahead: Option<i64>) -> Check {
    const NAME: &str = "clock";
    const SYNC: &str = "timedatectl set-ntp true; timedatectl says whether it is in step";
    let time = humantime::format_rfc3339_seconds(UNIX_EPOCH + Duration::from_secs(now));
    let todo = Some(SYNC.to_owned());
    if !(BEGIN..END).contains(&now) {
        let found = format!("it is {time} here, which cannot be: no token and no certificate fits");
        return Check::problem(NAME, found, todo);
    }
    let Some(ahead) = ahead else {
        return Check::ok(NAME, format!("it is {time}"));
    };
    let way = if ahead < 0 { "behind" } else { "ahead" };
    let difference = ahead.unsigned_abs();
    let found = match difference {
        0..1000 => format!("it is {time}; the clock of Redis is {difference} ms {way}"),
        _ => format!(
            "it is {time}; the clock of Redis is {:.1} s {way}",
            difference as f64 / 1000.0
        ),
    };
    match difference > MAX_DIFFERENCE {
        true => Check::warning(
            NAME,
            format!("{found}: on one of the two machines it is wrong"),
            todo,
        ),
        false => Check::ok(NAME, found),
    }
}

#[cfg(test)]
mod tests {
    use super::super::report::Status;
    use super::*;

    #[test]
    fn a_wrong_year_is_a_problem_and_another_time_than_that_of_redis_a_warning() {
        let now = 1_800_000_000;
        for (now, ahead, expected) in [
            (now, None, Status::Ok),
            (now, Some(-2000), Status::Ok),
            (now, Some(2001), Status::Warning),
            (now, Some(-86_400_000), Status::Warning),
            (0, None, Status::Problem),
            (BEGIN - 1, Some(0), Status::Problem),
            (END, Some(0), Status::Problem),
        ] {
            assert_eq!(judge(now, ahead).status, expected, "{now} {ahead:?}");
        }
        let found = judge(now, Some(-3200)).found;
        assert!(found.contains("3.2 s behind"), "{found}");
    }
}
