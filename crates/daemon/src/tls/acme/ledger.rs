//! What went wrong and when it may be tried again, and how many certificates strangers have caused.
//! It is kept over a restart, so that one does not start the count anew.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

const MINUTE: i64 = 60;
const DAY: i64 = 24 * 60 * MINUTE;
/// How long after the first failure it is tried again, seconds; then three times as long each time. An
/// authority that counts failures takes five an hour.
const FIRST_WAIT: i64 = MINUTE;
const LONGEST_WAIT: i64 = DAY;
/// How long it is let be that an authority refuses because there was too much, seconds.
const LIMITED_WAIT: i64 = 3 * 60 * MINUTE;
/// How long what strangers caused counts, seconds.
const WEEK: i64 = 7 * DAY;
/// Most orders in a week that somebody's visit caused. Authorities make 50 for a domain.
pub(super) const MOST_ON_DEMAND: usize = 40;
/// Most names that failures are kept of.
const MOST_NAMES: usize = 1000;

/// The record of one authority.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(super) struct Ledger {
    failures: BTreeMap<String, Failed>,
    /// When orders were made because somebody came, Unix seconds.
    on_demand: Vec<i64>,
}

/// What went wrong with a certificate.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Failed {
    /// How often since it last went well.
    pub(super) count: u32,
    /// When it may be tried again, Unix seconds.
    pub(super) next_at: i64,
    /// For people.
    pub(super) why: String,
}

impl Ledger {
    pub(super) fn failed(&self, id: &str) -> Option<&Failed> {
        self.failures.get(id)
    }

    /// All that something went wrong with.
    pub(super) fn names(&self) -> impl Iterator<Item = &String> {
        self.failures.keys()
    }

    /// When it may be tried, Unix seconds; in the past if at once.
    pub(super) fn allowed_at(&self, id: &str) -> i64 {
        self.failures.get(id).map_or(0, |failed| failed.next_at)
    }

    pub(super) fn went_well(&mut self, id: &str) {
        self.failures.remove(id);
    }

    /// Notes a failure; `limited` if it was too much, `dice` from 0 to 255 spreads what is tried again.
    pub(super) fn went_wrong(&mut self, id: &str, why: String, limited: bool, now: i64, dice: u8) {
        let count = self.failures.get(id).map_or(0, |failed| failed.count).saturating_add(1);
        let wait = FIRST_WAIT.saturating_mul(3_i64.saturating_pow(count - 1)).min(LONGEST_WAIT);
        let wait = if limited { wait.max(LIMITED_WAIT) } else { wait };
        let next_at = now + wait + wait / 4 * i64::from(dice) / 255;
        self.failures.insert(id.to_owned(), Failed { count, next_at, why });
        if self.failures.len() > MOST_NAMES {
            let oldest = self.failures.iter().min_by_key(|(_, failed)| failed.next_at);
            if let Some(oldest) = oldest.map(|(id, _)| id.clone()) {
                self.failures.remove(&oldest);
            }
        }
    }

    /// Counts one more that somebody's visit caused, if there may be one.
    pub(super) fn take_on_demand(&mut self, now: i64) -> bool {
        // Also what a clock that was wrong says.
        self.on_demand.retain(|at| (now - WEEK..=now).contains(at));
        let free = self.on_demand.len() < MOST_ON_DEMAND;
        if free {
            self.on_demand.push(now);
        }
        free
    }

    /// Forgets failures of what nobody wants any more.
    pub(super) fn keep_only(&mut self, wanted: impl Fn(&str) -> bool) {
        self.failures.retain(|id, _| wanted(id));
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn an_hour_has_no_more_failures_than_an_authority_takes() {
        let mut ledger = Ledger::default();
        let (mut now, mut tries) = (1_000_000, 0);
        while now < 1_000_000 + 60 * MINUTE {
            tries += 1;
            ledger.went_wrong("a", "no".to_owned(), false, now, 0);
            now = ledger.allowed_at("a");
        }
        assert!(tries <= 5, "{tries}");
        ledger.went_well("a");
        assert_eq!((ledger.allowed_at("a"), ledger.failed("a")), (0, None));
        ledger.went_wrong("b", "too much".to_owned(), true, now, 0);
        assert!(ledger.allowed_at("b") >= now + LIMITED_WAIT);
        ledger.keep_only(|id| id != "b");
        assert_eq!(ledger, Ledger { on_demand: Vec::new(), failures: BTreeMap::new() });
    }

    #[test]
    fn strangers_cause_so_many_in_a_week_whatever_they_do() {
        let mut ledger = Ledger::default();
        let taken = (0..100).filter(|n| ledger.take_on_demand(n * 60)).count();
        assert_eq!(taken, MOST_ON_DEMAND);
        let text = serde_json::to_string(&ledger).unwrap();
        let mut after: Ledger = serde_json::from_str(&text).unwrap();
        assert!(!after.take_on_demand(6 * DAY), "also after a restart");
        assert!(after.take_on_demand(8 * DAY));
    }

    proptest! {
        #[test]
        fn waits_grow_and_end(count in 1u32..400, dice: u8, limited: bool) {
            let mut ledger = Ledger::default();
            let mut last = 0;
            for _ in 0..count {
                ledger.went_wrong("a", String::new(), limited, 0, 0);
                prop_assert!(ledger.allowed_at("a") >= last);
                last = ledger.allowed_at("a");
            }
            ledger.went_wrong("a", String::new(), limited, 0, dice);
            prop_assert!((FIRST_WAIT..=LONGEST_WAIT * 5 / 4).contains(&ledger.allowed_at("a")));
        }
    }
}
