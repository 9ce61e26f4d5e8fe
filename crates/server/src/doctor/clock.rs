//! Whether this machine knows what time it is: tokens and certificates end by its clock.

use std::process::{Command, Stdio};
use std::time::{Duration, Instant, UNIX_EPOCH};

use super::report::Check;

/// 2026-01-01, before which this program was not, and 2100-01-01, Unix seconds.
const BEGIN: u64 = 1_767_225_600;
const END: u64 = 4_102_444_800;
/// How far two clocks may differ, milliseconds: less than `auth.jwt.leeway` usually is.
const MAX_DIFFERENCE: u64 = 2000;

/// How long `timedatectl` has to answer: it asks a service, which may have to be started first.
const ANSWER: Duration = Duration::from_secs(2);
const LOOK: Duration = Duration::from_millis(10);

/// Whether a time server sets this machine's clock: what its kernel says to `timedatectl`. `None`:
/// nobody says, as in most containers, and where there is no systemd.
pub(super) async fn is_set() -> Option<bool> {
    let mut asked = Command::new("timedatectl");
    asked.args(["show", "--property=NTPSynchronized", "--value"]);
    answer(asked, ANSWER).await.as_deref().and_then(understand)
}

/// What a program says on its standard output, if it ends well and in `time`.
async fn answer(mut program: Command, time: Duration) -> Option<String> {
    program.stdin(Stdio::null()).stderr(Stdio::null());
    let mut child = program.stdout(Stdio::piped()).spawn().ok()?;
    let begun = Instant::now();
    while child.try_wait().ok()?.is_none() {
        if begun.elapsed() >= time {
            let _ = child.kill();
            let _ = child.wait();
            return None;
        }
        tokio::time::sleep(LOOK).await;
    }
    let output = child.wait_with_output().ok()?;
    let is_well = output.status.success();
    String::from_utf8(output.stdout).ok().filter(|_| is_well)
}

fn understand(said: &str) -> Option<bool> {
    match said.trim() {
        "yes" => Some(true),
        "no" => Some(false),
        _ => None,
    }
}

/// `is_set`: whether a time server sets this clock, if that is known. `others`: whose clocks there
/// are besides, and how far each is ahead, milliseconds, if it said so.
pub(super) fn judge(now: u64, is_set: Option<bool>, others: &[(&str, Option<i64>)]) -> Check {
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
    let set = match is_set {
        Some(true) => "a time server sets it",
        Some(false) => "no time server sets it",
        None => "whether a time server sets it is not known on this system",
    };
    let found = format!("it is {time}; {set}{}", told.collect::<String>());
    if known().any(|(_, ahead)| ahead.unsigned_abs() > MAX_DIFFERENCE) {
        let found = format!("{found}: on one of these machines it is wrong");
        return Check::warning(NAME, found, todo);
    }
    match is_set {
        Some(false) => Check::warning(NAME, found, todo),
        _ => Check::ok(NAME, found),
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
            let status = judge(now, Some(true), &others).status;
            assert_eq!(status, expected, "{now} {others:?}");
        }
        let others = [("Redis", Some(-3200)), ("PostgreSQL", Some(7))];
        let found = judge(now, None, &others).found;
        assert!(found.contains("Redis is 3.2 s behind; "), "{found}");
        assert!(found.contains("PostgreSQL is 7 ms ahead: on"), "{found}");
    }

    #[test]
    fn a_clock_that_nobody_sets_is_a_warning_and_one_of_which_nothing_is_known_says_so() {
        let now = 1_800_000_000;
        for (said, is_set, expected, word) in [
            (
                Some("yes\n"),
                Some(true),
                Status::Ok,
                "; a time server sets it",
            ),
            (
                Some("no\n"),
                Some(false),
                Status::Warning,
                "; no time server sets it",
            ),
            (Some(""), None, Status::Ok, "is not known on this system"),
            (None, None, Status::Ok, "is not known on this system"),
        ] {
            assert_eq!(said.and_then(understand), is_set);
            let check = judge(now, is_set, &[("Redis", None)]);
            assert_eq!(check.status, expected, "{said:?}");
            assert!(check.found.ends_with(word), "{}", check.found);
        }
    }

    #[cfg(unix)]
    #[tokio::test]
    async fn a_program_that_is_missing_fails_or_hangs_says_nothing() {
        let shell = |what: &str| {
            let mut shell = Command::new("sh");
            shell.args(["-c", what]);
            shell
        };
        let long = Duration::from_secs(60);
        let missing = Command::new("/nowhere/timedatectl");
        assert_eq!(answer(missing, long).await, None);
        assert_eq!(answer(shell("echo yes; exit 1"), long).await, None);
        let hangs = shell("exec sleep 600");
        assert_eq!(answer(hangs, Duration::from_millis(50)).await, None);
        let says = answer(shell("echo yes"), long).await;
        assert_eq!(says.as_deref(), Some("yes\n"));
    }
}
