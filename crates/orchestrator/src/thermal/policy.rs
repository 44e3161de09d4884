//! Whether and when a sandbox sleeps, decided without touching anything.

use std::time::Duration;

use super::{COLD, WARM, time};
use crate::model::{IdlePolicy, Policy, Sleeps, Thermal};

/// What is done to a sandbox that is idle.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Step {
    /// Its vCPUs are paused.
    GoWarm,
    /// It goes to disk.
    GoCold,
}

/// What comes next if nothing happens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Next {
    /// Nothing.
    Wait,
    /// A step in so long.
    After(Duration, Step),
    /// A step that is due.
    Now(Step),
}

/// The narrowest that says something wins: sandbox, user, node.
pub(crate) fn sleeps(sandbox: Policy, user: IdlePolicy, node: IdlePolicy) -> Sleeps {
    if sandbox.keep_hot {
        return Sleeps { warm: None, cold: None };
    }
    let warm = sandbox.idle.warm.or(user.warm).or(node.warm);
    let cold = sandbox.idle.cold.or(user.cold).or(node.cold);
    Sleeps { warm: warm.map_or(Some(WARM), time), cold: cold.map_or(Some(COLD), time) }
}

/// `idle` is since when there has been nothing, `None` while there is something. Both limits count
/// from that moment, so one that goes cold before or when it would go warm goes cold at once.
pub(crate) fn next(thermal: Thermal, idle: Option<Duration>, sleeps: Sleeps) -> Next {
    let Some(idle) = idle else { return Next::Wait };
    let cold = sleeps.cold.map(|cold| (cold, Step::GoCold));
    // Pausing what is about to go to disk would be for nothing.
    let warm =
        sleeps.warm.filter(|warm| sleeps.cold.is_none_or(|cold| *warm < cold && idle < cold));
    let first = match thermal {
        Thermal::Hot => warm.map(|warm| (warm, Step::GoWarm)).or(cold),
        Thermal::Warm => cold,
        Thermal::Cold => None,
    };
    match first {
        None => Next::Wait,
        Some((limit, step)) if idle < limit => Next::After(limit - idle, step),
        Some((_, step)) => Next::Now(step),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::model::IdleLimit::{After, Never};

    const SECOND: Duration = Duration::from_secs(1);

    fn limits(warm: u32, cold: u32) -> Sleeps {
        Sleeps { warm: Some(SECOND * warm), cold: Some(SECOND * cold) }
    }

    #[test]
    fn the_narrowest_that_says_something_wins() {
        let says = |warm, cold| IdlePolicy { warm, cold };
        let nobody = IdlePolicy::default();
        let sandbox = |idle| Policy { keep_hot: false, idle };
        let defaults = Sleeps { warm: Some(SECOND * 30), cold: Some(SECOND * 1800) };
        assert_eq!(sleeps(sandbox(nobody), nobody, nobody), defaults);
        let node = says(Some(After(5)), Some(Never));
        assert_eq!(
            sleeps(sandbox(nobody), nobody, node),
            Sleeps { warm: Some(SECOND * 5), cold: None }
        );
        let user = says(Some(Never), Some(After(7)));
        let of_user = Sleeps { warm: None, cold: Some(SECOND * 7) };
        assert_eq!(sleeps(sandbox(nobody), user, node), of_user);
        let own = sandbox(says(Some(After(0)), None));
        assert_eq!(sleeps(own, user, node), limits(0, 7));
        let hot = Policy { keep_hot: true, ..own };
        assert_eq!(sleeps(hot, user, node), Sleeps { warm: None, cold: None });
    }

    #[test]
    fn each_step_comes_at_its_limit_and_a_step_for_nothing_is_left_out() {
        use Step::{GoCold, GoWarm};
        use Thermal::{Cold, Hot, Warm};
        let at = |thermal, seconds, sleeps| next(thermal, Some(SECOND * seconds), sleeps);
        assert_eq!(at(Hot, 3, limits(5, 10)), Next::After(SECOND * 2, GoWarm));
        assert_eq!(at(Hot, 5, limits(5, 10)), Next::Now(GoWarm));
        assert_eq!(at(Warm, 5, limits(5, 10)), Next::After(SECOND * 5, GoCold));
        assert_eq!(at(Warm, 10, limits(5, 10)), Next::Now(GoCold));
        assert_eq!(at(Cold, 10, limits(5, 10)), Next::Wait);
        assert_eq!(at(Hot, 10, limits(5, 10)), Next::Now(GoCold), "at once");
        assert_eq!(at(Hot, 3, limits(5, 5)), Next::After(SECOND * 2, GoCold));
        assert_eq!(at(Hot, 3, limits(5, 4)), Next::After(SECOND, GoCold));
        let never_warm = Sleeps { warm: None, ..limits(0, 1800) };
        assert_eq!(at(Hot, 30, never_warm), Next::After(SECOND * 1770, GoCold));
        let never_cold = Sleeps { cold: None, ..limits(30, 0) };
        assert_eq!(at(Hot, 30, never_cold), Next::Now(GoWarm));
        assert_eq!(at(Warm, 1 << 30, never_cold), Next::Wait);
    }

    fn limit() -> impl Strategy<Value = Option<Duration>> {
        proptest::option::of((0..100_u32).prop_map(|seconds| SECOND * seconds))
    }

    fn thermal() -> impl Strategy<Value = Thermal> {
        prop_oneof![Just(Thermal::Hot), Just(Thermal::Warm), Just(Thermal::Cold)]
    }

    fn after(thermal: Thermal, step: Step) -> Thermal {
        assert_ne!(thermal, Thermal::Cold);
        match step {
            Step::GoWarm => Thermal::Warm,
            Step::GoCold => Thermal::Cold,
        }
    }

    fn depth(thermal: Thermal) -> u8 {
        match thermal {
            Thermal::Hot => 0,
            Thermal::Warm => 1,
            Thermal::Cold => 2,
        }
    }

    /// Where it is in the end if nothing happens, having been idle for `idle` already, and when it
    /// took its steps.
    fn live(
        mut thermal: Thermal,
        mut idle: Duration,
        sleeps: Sleeps,
        until: Duration,
    ) -> (Thermal, Vec<(Duration, Step)>) {
        let mut steps = Vec::new();
        loop {
            match next(thermal, Some(idle), sleeps) {
                Next::After(left, _) if idle + left <= until => idle += left,
                Next::Wait | Next::After(..) => return (thermal, steps),
                Next::Now(step) => {
                    steps.push((idle, step));
                    assert!(steps.len() <= 2, "{steps:?}");
                    thermal = after(thermal, step);
                }
            }
        }
    }

    proptest! {
        #[test]
        fn while_there_is_something_nothing_is_done(
            thermal in thermal(), warm in limit(), cold in limit(),
        ) {
            prop_assert_eq!(next(thermal, None, Sleeps { warm, cold }), Next::Wait);
        }

        #[test]
        fn what_is_kept_hot_never_sleeps(
            warm in any::<Option<u64>>(), cold in any::<Option<u64>>(), idle in any::<u32>(),
        ) {
            let idle_policy =
                IdlePolicy { warm: warm.map(After), cold: cold.map(After) };
            let policy = Policy { keep_hot: true, idle: idle_policy };
            let sleeps = sleeps(policy, idle_policy, idle_policy);
            let idle = Some(SECOND * idle);
            prop_assert_eq!(next(Thermal::Hot, idle, sleeps), Next::Wait);
            prop_assert_eq!(next(Thermal::Warm, idle, sleeps), Next::Wait);
        }

        #[test]
        fn no_step_comes_before_its_limit_and_each_when_it_is_due(
            start in thermal(), idle in 0..200_u32, warm in limit(), cold in limit(),
            until in 0..300_u32,
        ) {
            let sleeps = Sleeps { warm, cold };
            let (idle, until) = (SECOND * idle, SECOND * until.max(idle));
            let (end, steps) = live(start, idle, sleeps, until);
            for (at, step) in steps {
                let limit = match step { Step::GoWarm => warm, Step::GoCold => cold };
                prop_assert_eq!(at, limit.unwrap().max(idle));
            }
            let reached = |limit: Option<Duration>| limit.is_some_and(|limit| limit <= until);
            let documented = match start {
                Thermal::Cold => Thermal::Cold,
                _ if reached(cold) => Thermal::Cold,
                Thermal::Hot if reached(warm) && cold.is_none_or(|cold| warm < Some(cold)) => {
                    Thermal::Warm
                }
                awake => awake,
            };
            prop_assert_eq!(end, documented);
        }

        /// Who has been idle for longer, or may be for less long, never sleeps less deeply.
        #[test]
        fn longer_idleness_and_shorter_limits_never_keep_it_warmer(
            idle in 0..200_u32, more in 0..100_u32, warm in limit(), cold in 0..100_u32,
            less in 0..100_u32,
        ) {
            let (idle, cold) = (SECOND * idle, SECOND * cold);
            let sleeps = Sleeps { warm, cold: Some(cold) };
            let now = live(Thermal::Hot, Duration::ZERO, sleeps, idle).0;
            let later = live(Thermal::Hot, Duration::ZERO, sleeps, idle + SECOND * more).0;
            prop_assert!(depth(later) >= depth(now));
            let sooner = Sleeps { cold: Some(cold.saturating_sub(SECOND * less)), ..sleeps };
            let strict = live(Thermal::Hot, Duration::ZERO, sooner, idle).0;
            prop_assert!(depth(strict) >= depth(now));
        }
    }
}
