//! When backups are made: cron expressions, in a time zone.
//!
//! Five fields, or six with seconds first, with lists, ranges, steps, names, `L`, `W`, `#` and
//! `@daily` and its like, as croner reads them. Where clocks change, a time of day that is skipped
//! is made up for at the first moment after, and one that comes twice counts the first time; what
//! repeats, such as every ten minutes, just goes on.

use std::{fmt, str::FromStr as _};

use jiff::{Timestamp, tz::TimeZone};

/// Most bytes of an expression.
const TEXT_MAX: usize = 200;

/// An expression and the zone that it is meant in.
#[derive(Clone)]
pub struct Schedule {
    text: String,
    zone: TimeZone,
    cron: croner::Cron,
}

/// Why there is no such schedule.
#[derive(Debug, thiserror::Error)]
pub enum ScheduleError {
    /// It is no cron expression.
    #[error("`{text}` is no cron expression: {reason}")]
    Cron {
        /// What was given.
        text: String,
        /// What is wrong with it.
        reason: String,
    },
    /// It means no moment.
    #[error("`{0}` never comes")]
    Never(String),
    /// This host knows no such zone.
    #[error("`{0}` is no time zone that this host knows, such as UTC or Europe/Berlin")]
    Zone(String),
}

impl Schedule {
    /// Reads an expression; without a zone it is meant in UTC.
    ///
    /// # Errors
    /// [`ScheduleError`] says what is wrong.
    pub fn parse(text: &str, zone: Option<&str>) -> Result<Self, ScheduleError> {
        let told = |text: &str| text.chars().filter(|c| !c.is_control()).take(80).collect();
        let refused = |reason: String| ScheduleError::Cron { text: told(text), reason };
        if text.len() > TEXT_MAX {
            return Err(refused(format!("it is longer than {TEXT_MAX} bytes")));
        }
        let cron = croner::Cron::from_str(text).map_err(|error| refused(error.to_string()))?;
        let zone = match zone {
            None | Some("UTC") => TimeZone::UTC,
            Some(name) => TimeZone::get(name).map_err(|_| ScheduleError::Zone(told(name)))?,
        };
        let schedule = Self { text: text.to_owned(), zone, cron };
        match schedule.after(base::clock::unix_seconds()) {
            Some(_) => Ok(schedule),
            None => Err(ScheduleError::Never(schedule.text)),
        }
    }

    /// The first moment after `time`, both in seconds since the Unix epoch.
    pub fn after(&self, time: i64) -> Option<i64> {
        let from = Timestamp::from_second(time).ok()?.to_zoned(self.zone.clone());
        let next = self.cron.find_next_occurrence(&from, false).ok()?;
        Some(next.timestamp().as_second())
    }

    /// The zone.
    pub fn zone(&self) -> &TimeZone {
        &self.zone
    }
}

impl fmt::Debug for Schedule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Schedule").field("text", &self.text).finish_non_exhaustive()
    }
}

impl fmt::Display for Schedule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seconds(text: &str) -> i64 {
        text.parse::<Timestamp>().unwrap().as_second()
    }

    fn runs(cron: &str, zone: &str, from: &str, count: usize) -> Vec<String> {
        let schedule = Schedule::parse(cron, Some(zone)).unwrap();
        let mut at = seconds(from);
        let next = |_| {
            at = schedule.after(at).unwrap();
            Timestamp::from_second(at).unwrap().to_string()
        };
        (0..count).map(next).collect()
    }

    #[test]
    fn the_syntax_is_that_of_cron() {
        let from = "2026-11-21T10:00:00Z";
        assert_eq!(
            runs("*/20 8-9,22 * * MON-FRI", "UTC", from, 4),
            [
                "2026-11-23T08:00:00Z",
                "2026-11-23T08:20:00Z",
                "2026-11-23T08:40:00Z",
                "2026-11-23T09:00:00Z"
            ]
        );
        assert_eq!(runs("@daily", "UTC", from, 1), ["2026-11-22T00:00:00Z"]);
        assert_eq!(runs("0 3 L * *", "UTC", from, 1), ["2026-11-30T03:00:00Z"]);
        assert_eq!(runs("*/5 * * * * *", "UTC", from, 1), ["2026-11-21T10:00:05Z"]);
        assert_eq!(runs("0 0 29 2 *", "UTC", from, 1), ["2028-02-29T00:00:00Z"]);
    }

    #[test]
    fn a_day_has_one_run_also_where_clocks_change() {
        // 02:30 does not exist on 29 March and comes twice on 25 October in this zone.
        let spring = runs("30 2 * * *", "Europe/Berlin", "2026-03-28T12:00:00Z", 2);
        assert_eq!(spring, ["2026-03-29T01:00:00Z", "2026-03-30T00:30:00Z"]);
        let autumn = runs("30 2 * * *", "Europe/Berlin", "2026-10-24T12:00:00Z", 2);
        assert_eq!(autumn, ["2026-10-25T00:30:00Z", "2026-10-26T01:30:00Z"]);
        // What repeats neither pauses nor hurries.
        let often = runs("*/30 * * * *", "Europe/Berlin", "2026-10-25T00:00:00Z", 4);
        assert_eq!(often[0], "2026-10-25T00:30:00Z");
        assert_eq!(often[3], "2026-10-25T02:00:00Z");
    }

    #[test]
    fn what_is_no_schedule_is_told_why() {
        let long = "*,".repeat(200);
        for bad in ["", "daily", "* * * *", "61 * * * *", "* * * * * * * *", "@never", &long] {
            let error = Schedule::parse(bad, None).unwrap_err();
            assert!(matches!(error, ScheduleError::Cron { .. }), "{bad}: {error}");
        }
        assert!(matches!(Schedule::parse("0 0 30 2 *", None), Err(ScheduleError::Never(_))));
        let error = Schedule::parse("@daily", Some("Mars/Olympus")).unwrap_err();
        assert!(error.to_string().contains("`Mars/Olympus` is no time zone"), "{error}");
    }
}
