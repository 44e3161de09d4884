//! The certificates that the daemon shows: what is known of them, and what that means.

use std::collections::BTreeMap;

use api::CertificateState;
use base::clock;
use jiff::Timestamp;

use super::judge::Finding;

const CHECK: &str = "certificates";
const DAY: i64 = 24 * 3600;
/// With fewer days than that left somebody has to look.
const DAYS_WARN: i64 = 14;
/// Most names that one line says.
const MOST_NAMES: usize = 4;

/// One certificate, or one that should be there.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Certificate {
    /// Who shows it, and where it comes from.
    pub(super) listeners: Vec<String>,
    pub(super) source: String,
    pub(super) names: Vec<String>,
    /// Full days until it ends, negative if it has ended; `None` if there is none.
    pub(super) days_left: Option<i64>,
    pub(super) problem: Option<String>,
    pub(super) next_try_at: Option<String>,
}

/// What the daemon says, with times from now on.
pub(super) fn facts(said: Vec<CertificateState>) -> Vec<Certificate> {
    let now = clock::unix_seconds();
    let days = |text: String| {
        let end = text.parse::<Timestamp>().ok()?;
        Some((end.as_second() - now).div_euclid(DAY))
    };
    let of = |state: CertificateState| Certificate {
        listeners: state.listeners,
        source: state.source,
        names: state.names,
        days_left: state.not_after.and_then(days),
        problem: state.problem,
        next_try_at: state.next_try_at,
    };
    said.into_iter().map(of).collect()
}

/// A line for each that somebody has to look after, and one for the others of each source.
pub(super) fn judge(certificates: Option<&[Certificate]>) -> Vec<Finding> {
    let Some(all) = certificates else {
        return vec![Finding::ok(CHECK, "not looked at: no daemon tells of them")];
    };
    if all.is_empty() {
        return vec![Finding::ok(CHECK, "none: no listener is encrypted")];
    }
    let mut findings = Vec::new();
    let mut good: BTreeMap<(&str, &[String]), Vec<&Certificate>> = BTreeMap::new();
    for one in all {
        match one.worry() {
            Some(worry) => findings.push(Finding::warn(CHECK, worry, one.hint())),
            None => good.entry((&one.source, &one.listeners)).or_default().push(one),
        }
    }
    for ((source, listeners), all) in good {
        let names: Vec<&str> = all.iter().flat_map(|one| &one.names).map(String::as_str).collect();
        let days = all.iter().filter_map(|one| one.days_left).min().unwrap_or_default();
        let (listeners, names) = (listeners.join(" and "), told(&names));
        let found = format!("{source}, for {listeners}{names}: {days} days left");
        findings.push(Finding::ok(CHECK, found));
    }
    findings
}

impl Certificate {
    fn worry(&self) -> Option<String> {
        let names: Vec<&str> = self.names.iter().map(String::as_str).collect();
        let what = format!("{}, for {}{}", self.source, self.listeners.join(" and "), told(&names));
        let why = match (self.days_left, &self.problem) {
            (None, None) => "none yet; it is being asked for".to_owned(),
            (None, Some(why)) => format!("none yet: {why}"),
            (Some(days), problem) if days < DAYS_WARN || problem.is_some() => {
                let ends = match days {
                    ..0 => "it has ended".to_owned(),
                    _ => format!("{days} days left"),
                };
                problem
                    .as_ref()
                    .map_or(ends.clone(), |why| format!("{ends}, and no new one: {why}"))
            }
            (Some(_), _) => return None,
        };
        Some(format!("{what}: {why}"))
    }

    fn hint(&self) -> String {
        match (self.source.as_str(), &self.next_try_at) {
            ("files", _) => {
                "renew the files that tls_cert and tls_key name; they are read again by themselves"
                    .to_owned()
            }
            ("local-ca", _) => {
                "restart the daemon, and trust what bhatti ca prints then".to_owned()
            }
            (_, Some(at)) => format!("it is tried again at {at}; see docs/publishing.md"),
            (_, None) => "see the daemon's log and docs/publishing.md".to_owned(),
        }
    }
}

/// Some of the names, after a comma.
fn told(names: &[&str]) -> String {
    let more = names.len().saturating_sub(MOST_NAMES);
    let shown: String = names.iter().take(MOST_NAMES).map(|name| format!(", {name}")).collect();
    if more > 0 { format!("{shown} and {more} more") } else { shown }
}

#[cfg(test)]
mod tests {
    use super::{super::judge::Status, *};

    fn one(source: &str, days: Option<i64>, problem: Option<&str>) -> Certificate {
        Certificate {
            listeners: vec!["public".into()],
            source: source.into(),
            names: vec!["box.example".into()],
            days_left: days,
            problem: problem.map(Into::into),
            next_try_at: problem.map(|_| "2026-01-01T00:00:00Z".into()),
        }
    }

    fn told(certificate: Certificate) -> (Status, String) {
        let [finding] = &judge(Some(&[certificate]))[..] else { panic!() };
        let hint = finding.hint.clone().unwrap_or_default();
        (finding.status, format!("{} / {hint}", finding.found))
    }

    #[test]
    fn what_ends_soon_or_is_missing_is_said_with_what_to_do() {
        let says = |certificate, words: &str| {
            let (status, text) = told(certificate);
            assert!(status == Status::Warn && text.contains(words), "{text}");
        };
        says(one("files", Some(13), None), "box.example: 13 days left / renew the files");
        says(one("files", Some(-1), None), "it has ended");
        says(one("files", Some(50), Some("no key")), "50 days left, and no new one: no key");
        says(one("acme", None, None), "none yet; it is being asked for");
        says(one("acme", None, Some("no such name")), "none yet: no such name / it is tried again");
        says(one("local-ca", Some(3), None), "bhatti ca");
    }

    #[test]
    fn what_is_well_is_one_line() {
        let all: Vec<_> = (20..30).map(|days| one("acme", Some(days), None)).collect();
        let [finding] = &judge(Some(&all))[..] else { panic!() };
        let names = "box.example, box.example, box.example, box.example and 6 more";
        assert_eq!(finding.found, format!("acme, for public, {names}: 20 days left"));
        assert_eq!(judge(None)[0].status, Status::Ok);
        assert_eq!(judge(Some(&[]))[0].status, Status::Ok);
    }
}
