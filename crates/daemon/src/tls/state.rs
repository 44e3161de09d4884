//! How the certificates are doing, for people: in the log, and for who asks.

use api::CertificateState;

use crate::show;

const DAY: i64 = 24 * 3600;
/// How long before its end a certificate is worried about, days.
const EARLY_DAYS: i64 = 14;

/// One certificate, or one that should be there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct State {
    pub(super) names: Vec<String>,
    /// Unix seconds; `None` if there is none.
    pub(super) not_after: Option<i64>,
    /// What went wrong last.
    pub(super) problem: Option<String>,
    /// When that is tried again, Unix seconds.
    pub(super) next_try_at: Option<i64>,
}

impl State {
    pub(super) fn shown(self, listeners: &[&str], source: &str) -> CertificateState {
        CertificateState {
            listeners: listeners.iter().map(|&listener| listener.to_owned()).collect(),
            source: source.to_owned(),
            names: self.names,
            not_after: self.not_after.map(show::time),
            problem: self.problem,
            next_try_at: self.next_try_at.map(show::time),
        }
    }

    /// What is to be worried about.
    pub(super) fn worry(&self, now: i64) -> Option<String> {
        let left = self.not_after? - now;
        let names = self.names.join(", ");
        match left {
            ..0 => Some(format!("the certificate for {names} has ended")),
            _ if left < EARLY_DAYS * DAY => {
                Some(format!("the certificate for {names} ends in {} days", left / DAY))
            }
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_end_that_is_near_is_worried_about() {
        let state = |days: Option<i64>| State {
            names: vec!["box.example".to_owned()],
            not_after: days.map(|days| days * DAY),
            problem: None,
            next_try_at: None,
        };
        assert_eq!(state(None).worry(0), None);
        assert_eq!(state(Some(14)).worry(0), None);
        let soon = state(Some(14)).worry(DAY);
        assert_eq!(soon.as_deref(), Some("the certificate for box.example ends in 13 days"));
        assert!(state(Some(1)).worry(2 * DAY).unwrap().ends_with("has ended"));
    }
}
