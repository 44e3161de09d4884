//! Backups of volumes: whether those that are due are made.

use api::BackupReport;

use super::judge::Finding;

const CHECK: &str = "backups";
/// Most failures that are told one by one.
const MOST: usize = 5;

/// A line for each of some that failed, or one that says how many there are.
pub(super) fn judge(report: Option<&BackupReport>) -> Vec<Finding> {
    let Some(BackupReport { destinations, schedules, failures }) = report else {
        return vec![Finding::ok(CHECK, "not looked at: no daemon tells of them")];
    };
    if failures.is_empty() {
        let found = match (&destinations[..], schedules) {
            ([], 0) => "no place for them is configured".to_owned(),
            (all, 0) => format!("kept in {}; no volume has a schedule", all.join(", ")),
            (all, 1) => format!("kept in {}; one schedule does what it is for", all.join(", ")),
            (all, n) => {
                format!("kept in {}; all {n} schedules do what they are for", all.join(", "))
            }
        };
        return vec![Finding::ok(CHECK, found)];
    }
    let mut findings: Vec<Finding> = failures
        .iter()
        .take(MOST)
        .map(|one| {
            let found = format!("volume {} of {}: {}", one.volume, one.user, one.error);
            let hint = "it is tried again when it is due; see [backup] in docs/configuration.md";
            Finding::warn(CHECK, found, hint)
        })
        .collect();
    if let Some(more) = failures.len().checked_sub(MOST).filter(|more| *more > 0) {
        let hint = "the daemon's log and bhatti volume inspect tell of each";
        findings.push(Finding::warn(CHECK, format!("and {more} more schedules fail"), hint));
    }
    findings
}

#[cfg(test)]
mod tests {
    use api::ScheduleFailure;

    use super::{super::judge::Status, *};

    fn report(failures: usize) -> BackupReport {
        let failure = |n| ScheduleFailure {
            volume: format!("data{n}"),
            user: "ada".into(),
            error: "no room".into(),
        };
        BackupReport {
            destinations: vec!["cloud".into(), "disk".into()],
            schedules: failures + 2,
            failures: (0..failures).map(failure).collect(),
        }
    }

    #[test]
    fn schedules_that_fail_are_told_one_by_one_up_to_a_number() {
        let one = &judge(Some(&report(1)))[..];
        assert!(matches!(one, [f] if f.status == Status::Warn), "{one:?}");
        assert_eq!(one[0].found, "volume data0 of ada: no room");
        let many = judge(Some(&report(MOST + 3)));
        assert_eq!(many.len(), MOST + 1);
        assert_eq!(many[MOST].found, "and 3 more schedules fail");
        assert_eq!(judge(Some(&report(MOST))).len(), MOST);
    }

    #[test]
    fn what_is_well_or_unknown_is_one_line() {
        let says = |report: Option<BackupReport>| {
            let [finding] = &judge(report.as_ref())[..] else { panic!() };
            assert_eq!(finding.status, Status::Ok);
            finding.found.clone()
        };
        assert_eq!(
            says(Some(report(0))),
            "kept in cloud, disk; all 2 schedules do what they are for"
        );
        assert_eq!(says(Some(BackupReport::default())), "no place for them is configured");
        assert!(says(None).contains("not looked at"));
    }
}
