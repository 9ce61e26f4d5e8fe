//! Times of day, as cron writes them.

use croner::Cron;
use croner::parser::{CronParser, Seconds, Year};
use jiff::tz::TimeZone;
use jiff::{Timestamp, Zoned};

/// What cron's five fields mean in a time zone. Where a clock skips a time it is the one after
/// it, and where it shows one twice it is the first.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Schedule {
    cron: Cron,
    zone: TimeZone,
}

impl Default for Schedule {
    /// Every day at midnight, UTC.
    fn default() -> Self {
        let cron = parse("0 0 * * *").expect("it is a pattern of cron");
        let zone = TimeZone::UTC;
        Schedule { cron, zone }
    }
}

/// What time it is, Unix milliseconds.
pub(crate) fn now() -> u64 {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    now.map_or(0, |now| now.as_millis() as u64)
}

fn parse(pattern: &str) -> Result<Cron, String> {
    let parser = CronParser::builder()
        .seconds(Seconds::Disallowed)
        .year(Year::Disallowed)
        .build();
    parser.parse(pattern).map_err(|error| error.to_string())
}

impl Schedule {
    /// Takes other times.
    ///
    /// # Errors
    /// A sentence without a subject.
    pub(crate) fn set_times(&mut self, pattern: &str) -> Result<(), String> {
        let wrong = |what: &str| {
            format!(
                "must be five fields of cron, like \"0 2 * * *\" for every day at two, not \
                 {pattern:?}: {what}"
            )
        };
        let cron = parse(pattern).map_err(|error| wrong(&error))?;
        let meant = Schedule {
            cron,
            zone: TimeZone::UTC,
        };
        // The 30th of February is a pattern as well.
        if meant.next(0).is_none() {
            return Err(wrong("there is no such day"));
        }
        self.cron = meant.cron;
        Ok(())
    }

    /// Takes another time zone, by its name.
    ///
    /// # Errors
    /// A sentence without a subject.
    pub(crate) fn set_zone(&mut self, name: &str) -> Result<(), String> {
        self.zone = TimeZone::get(name).map_err(|_| {
            format!("must be a time zone's name, like \"UTC\" or \"Europe/Berlin\", not {name:?}")
        })?;
        Ok(())
    }

    /// The first time after a moment, both Unix milliseconds.
    pub(crate) fn next(&self, after: u64) -> Option<u64> {
        let next = self.next_zoned(after)?;
        u64::try_from(next.timestamp().as_millisecond()).ok()
    }

    fn next_zoned(&self, after: u64) -> Option<Zoned> {
        let after = Timestamp::from_millisecond(i64::try_from(after).ok()?).ok()?;
        let after = after.to_zoned(self.zone.clone());
        self.cron.find_next_occurrence(&after, false).ok()
    }

    /// The first times after a moment, Unix milliseconds, as people read them.
    pub(crate) fn show_next(&self, mut after: u64, count: usize) -> Vec<String> {
        let mut times = Vec::new();
        while times.len() < count
            && let Some(next) = self.next_zoned(after)
        {
            times.push(next.strftime("%a %Y-%m-%d %H:%M %Z").to_string());
            after = u64::try_from(next.timestamp().as_millisecond()).unwrap_or(u64::MAX);
        }
        times
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Unix milliseconds of a time.
    fn at(text: &str) -> u64 {
        let time: Timestamp = text.parse().unwrap_or_default();
        u64::try_from(time.as_millisecond()).unwrap_or(0)
    }

    fn schedule(pattern: &str, zone: &str) -> Schedule {
        let mut schedule = Schedule::default();
        schedule.set_times(pattern).unwrap_or_default();
        schedule.set_zone(zone).unwrap_or_default();
        schedule
    }

    #[test]
    fn times_are_those_of_the_zone_and_move_with_its_clocks() {
        let utc = schedule("0 2 * * *", "UTC");
        assert_eq!(
            utc.next(at("2026-11-26T01:59:59Z")),
            Some(at("2026-11-26T02:00:00Z"))
        );
        assert_eq!(
            utc.next(at("2026-11-26T02:00:00Z")),
            Some(at("2026-11-27T02:00:00Z"))
        );
        let berlin = schedule("30 2 * * *", "Europe/Berlin");
        assert_eq!(
            berlin.next(at("2026-11-26T00:00:00Z")),
            Some(at("2026-11-26T01:30:00Z"))
        );
        // A day without half past two, and one with two of them: once each.
        let skipped = berlin.next(at("2026-03-28T12:00:00Z"));
        assert_eq!(skipped, Some(at("2026-03-29T01:00:00Z")));
        let twice = berlin.next(at("2026-10-24T12:00:00Z"));
        assert_eq!(twice, Some(at("2026-10-25T00:30:00Z")));
        let then = berlin.next(at("2026-10-25T00:30:00Z"));
        assert_eq!(then, Some(at("2026-10-26T01:30:00Z")));
    }

    #[test]
    fn what_is_no_schedule_says_what_one_looks_like() {
        let mut schedule = Schedule::default();
        for wrong in [
            "",
            "2",
            "0 2 * *",
            "0 0 2 * * *",
            "0 25 * * *",
            "0 0 30 2 *",
            "at two",
        ] {
            let refused = schedule.set_times(wrong).err().unwrap_or_default();
            assert!(refused.contains("\"0 2 * * *\""), "{wrong}: {refused}");
        }
        for wrong in ["", "Berlin", "CEST+1"] {
            let refused = schedule.set_zone(wrong).err().unwrap_or_default();
            assert!(refused.contains("Europe/Berlin"), "{wrong}: {refused}");
        }
    }

    #[test]
    fn the_next_times_are_shown_with_their_zone() {
        let sundays = schedule("15 4 * * SUN", "America/New_York");
        assert_eq!(
            sundays.show_next(at("2026-10-20T00:00:00Z"), 3),
            [
                "Sun 2026-10-25 04:15 EDT",
                "Sun 2026-11-01 04:15 EST",
                "Sun 2026-11-08 04:15 EST"
            ]
        );
    }
}
