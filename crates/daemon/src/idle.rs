//! When idle sandboxes sleep, as requests and the configuration say it.

use api::IdleSetting;
use orchestrator::model::{IdleLimit, IdlePolicy};

/// The limit that is asked for; none if the next wider one is to hold.
pub(crate) fn limit(setting: IdleSetting) -> Option<IdleLimit> {
    match setting {
        IdleSetting::After(seconds) => Some(IdleLimit::After(seconds)),
        IdleSetting::Never => Some(IdleLimit::Never),
        IdleSetting::Default => None,
    }
}

/// What two settings come to where there was nothing before.
pub(crate) fn policy(warm: Option<IdleSetting>, cold: Option<IdleSetting>) -> IdlePolicy {
    IdlePolicy { warm: warm.and_then(limit), cold: cold.and_then(limit) }
}
