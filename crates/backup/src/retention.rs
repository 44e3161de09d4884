//! Which backups are no longer wanted: a pure function.

use std::collections::BTreeSet;

use jiff::{Timestamp, Zoned, tz::TimeZone};
use serde::{Deserialize, Serialize};

/// How many are kept. Each rule keeps its own, and what any rule keeps stays.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Keep {
    /// So many of the newest.
    pub last: u32,
    /// The newest of each of so many of the latest days that have any.
    pub daily: u32,
    /// The newest of each of so many of the latest weeks, which begin on Monday.
    pub weekly: u32,
    /// The newest of each of so many of the latest months.
    pub monthly: u32,
}

impl Keep {
    /// Whether there is no rule, which keeps everything.
    pub fn is_all(&self) -> bool {
        *self == Self::default()
    }
}

/// A backup, as far as it matters here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Backup<T> {
    /// Which one.
    pub id: T,
    /// When it was made, in seconds since the Unix epoch.
    pub at: i64,
    /// It was made, kept and not found damaged.
    pub good: bool,
}

/// Those of `backups` that `keep` does not want, in no particular order. The newest good one is
/// always wanted. What failed counts for nothing, and goes once something newer is good.
pub fn expired<T: Clone>(keep: Keep, zone: &TimeZone, backups: &[Backup<T>]) -> Vec<T> {
    let mut good: Vec<&Backup<T>> = backups.iter().filter(|backup| backup.good).collect();
    // Of two that are of one second the later in the list is the newer.
    good.reverse();
    good.sort_by_key(|backup| std::cmp::Reverse(backup.at));
    let Some(newest) = good.first().map(|backup| backup.at) else { return Vec::new() };
    let failed = backups.iter().filter(|backup| !backup.good && backup.at < newest);
    let mut gone: Vec<T> = failed.map(|backup| backup.id.clone()).collect();
    if keep.is_all() {
        return gone;
    }
    let mut wanted: BTreeSet<usize> = (0..good.len().min(keep.last.max(1) as usize)).collect();
    let at: Vec<Zoned> = good.iter().map(|backup| moment(backup.at, zone)).collect();
    wanted.extend(newest_of_each(&at, keep.daily, |at| at.date()));
    wanted.extend(newest_of_each(&at, keep.weekly, |at| {
        let week = at.date().iso_week_date();
        (week.year(), week.week())
    }));
    wanted.extend(newest_of_each(&at, keep.monthly, |at| (at.year(), at.month())));
    let unwanted = good.iter().enumerate().filter(|(index, _)| !wanted.contains(index));
    gone.extend(unwanted.map(|(_, backup)| backup.id.clone()));
    gone
}

fn moment(seconds: i64, zone: &TimeZone) -> Zoned {
    Timestamp::from_second(seconds).unwrap_or(Timestamp::UNIX_EPOCH).to_zoned(zone.clone())
}

/// Of moments, newest first, the first of each of the first `count` periods.
fn newest_of_each<P: PartialEq>(
    at: &[Zoned],
    count: u32,
    period: impl Fn(&Zoned) -> P,
) -> Vec<usize> {
    let (mut found, mut last) = (Vec::new(), None);
    for (index, at) in at.iter().enumerate() {
        let this = period(at);
        if last.as_ref() != Some(&this) {
            if found.len() == count as usize {
                break;
            }
            found.push(index);
            last = Some(this);
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const DAY: i64 = 86_400;

    fn daily(days: i64) -> Vec<Backup<i64>> {
        // From Thursday, 1 January 1970, at noon.
        (0..days).map(|day| Backup { id: day, at: day * DAY + DAY / 2, good: true }).collect()
    }

    fn left(keep: Keep, backups: &[Backup<i64>]) -> Vec<i64> {
        let gone = expired(keep, &TimeZone::UTC, backups);
        backups.iter().map(|b| b.id).filter(|id| !gone.contains(id)).collect()
    }

    #[test]
    fn each_rule_keeps_its_own() {
        let backups = daily(70);
        assert_eq!(left(Keep { last: 3, ..Keep::default() }, &backups), [67, 68, 69]);
        assert_eq!(left(Keep { daily: 2, ..Keep::default() }, &backups), [68, 69]);
        // Day 69 is a Wednesday; 66 and 59 are Sundays before it.
        assert_eq!(left(Keep { weekly: 3, ..Keep::default() }, &backups), [59, 66, 69]);
        // The last days of January and February.
        assert_eq!(left(Keep { monthly: 3, ..Keep::default() }, &backups), [30, 58, 69]);
        let all = Keep { last: 1, daily: 2, weekly: 2, monthly: 2 };
        assert_eq!(left(all, &backups), [58, 66, 68, 69]);
        assert_eq!(left(Keep::default(), &backups).len(), 70);
    }

    #[test]
    fn what_failed_neither_counts_nor_stays_for_ever() {
        let mut backups = daily(6);
        backups[1].good = false;
        backups[4].good = false;
        backups[5].good = false;
        // The newest that failed is still to be seen.
        assert_eq!(left(Keep { last: 2, ..Keep::default() }, &backups), [2, 3, 4, 5]);
        for backup in &mut backups {
            backup.good = false;
        }
        assert_eq!(left(Keep { last: 2, ..Keep::default() }, &backups).len(), 6);
    }

    proptest! {
        #[test]
        fn the_newest_good_one_stays_and_a_second_look_finds_nothing_more(
            made in prop::collection::vec((0i64..400 * DAY, any::<bool>()), 0..60),
            last in 0u32..5, days in 0u32..5, weekly in 0u32..5, monthly in 0u32..5,
        ) {
            let keep = Keep { last, daily: days, weekly, monthly };
            let backup = |(id, (at, good))| Backup { id, at, good };
            let backups: Vec<Backup<usize>> = made.into_iter().enumerate().map(backup).collect();
            let gone = expired(keep, &TimeZone::UTC, &backups);
            let stays: Vec<Backup<usize>> =
                backups.iter().filter(|b| !gone.contains(&b.id)).cloned().collect();

            let newest = backups.iter().filter(|b| b.good).map(|b| b.at).max();
            prop_assert_eq!(stays.iter().filter(|b| b.good).map(|b| b.at).max(), newest);
            let good = stays.iter().filter(|b| b.good).count();
            let all = backups.iter().filter(|b| b.good).count();
            prop_assert!(good >= all.min(last as usize));
            if !keep.is_all() {
                prop_assert!(good <= ((last + days + weekly + monthly) as usize).max(1));
            }
            // Whatever the rules are, they do not eat on.
            prop_assert!(expired(keep, &TimeZone::UTC, &stays).is_empty());
            // What failed changes nothing for what is good.
            let only: Vec<Backup<usize>> = backups.iter().filter(|b| b.good).cloned().collect();
            let of_only = expired(keep, &TimeZone::UTC, &only);
            prop_assert!(of_only.iter().all(|id| gone.contains(id)));
            prop_assert_eq!(of_only.len(), all - good);
        }
    }
}
