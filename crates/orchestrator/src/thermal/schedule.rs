//! Waiting for the moment at which one sandbox has to take a step.

use std::{future::pending, sync::Arc, time::Duration};

use tokio::{
    sync::watch,
    time::{Instant, sleep_until},
};

use super::{
    Rules,
    policy::{self, Next, Step},
};
use crate::{
    activity::Activity,
    model::{Policy, Thermal},
};

/// How long a step is left alone after it has failed; twice as long after each further time.
const AGAIN: Duration = Duration::from_secs(5);
/// How long at most.
const AGAIN_MAX: Duration = Duration::from_secs(10 * 60);

/// See the module.
#[derive(Debug)]
pub(crate) struct Schedule {
    activity: Arc<Activity>,
    changes: watch::Receiver<u64>,
    rules: Rules,
    rules_changes: watch::Receiver<u64>,
    /// What had changed last when a step was found to be due.
    seen: u64,
    /// As `seen`, for the last step that was given up because something was under way.
    given_up: Option<u64>,
    warm: Failures,
    cold: Failures,
}

/// How often in a row a step has failed, and until when it is left alone for that.
#[derive(Debug, Default)]
struct Failures {
    count: u32,
    until: Option<Instant>,
}

impl Failures {
    fn one_more(&mut self) {
        let pause = AGAIN.saturating_mul(1 << self.count.min(16)).min(AGAIN_MAX);
        self.count += 1;
        self.until = Some(Instant::now() + pause);
    }

    /// Until when the step is left alone, if so.
    fn rests(&self, now: Instant) -> Option<Instant> {
        self.until.filter(|until| *until > now)
    }
}

impl Schedule {
    pub(crate) fn new(activity: Arc<Activity>, rules: Rules) -> Self {
        let (changes, rules_changes) = (activity.subscribe(), rules.changes());
        let (warm, cold) = (Failures::default(), Failures::default());
        Self { activity, changes, rules, rules_changes, seen: 0, given_up: None, warm, cold }
    }

    /// Waits until a step is due. May be abandoned.
    pub(crate) async fn due(&mut self, thermal: Thermal, policy: Policy) -> Step {
        loop {
            self.seen = *self.changes.borrow_and_update();
            self.rules_changes.borrow_and_update();
            let now = Instant::now();
            let (mut sleeps, idle) = (self.rules.sleeps(policy), self.activity.idle());
            // What cannot go to disk now may at least stop running.
            let resting = [self.warm.rests(now), self.cold.rests(now)];
            sleeps.warm = sleeps.warm.filter(|_| resting[0].is_none());
            sleeps.cold = sleeps.cold.filter(|_| resting[1].is_none());
            let next = match self.given_up {
                Some(then) if then == self.seen => Next::Wait,
                _ => policy::next(thermal, idle, sleeps),
            };
            let deadline = match next {
                Next::Now(step) => return step,
                Next::After(left, _) => now.checked_add(left),
                Next::Wait => None,
            };
            let look_again = resting.into_iter().flatten().chain(deadline).min();
            tokio::select! {
                () = changed(&mut self.changes) => {}
                () = changed(&mut self.rules_changes) => {}
                () = at(look_again) => {}
            }
        }
    }

    /// A step that was due was not taken, because something is under way.
    pub(crate) fn given_up(&mut self) {
        // Not what has changed last now: that may be the end of what was under way.
        self.given_up = Some(self.seen);
    }

    /// A step that was due has failed.
    pub(crate) fn failed(&mut self, step: Step) {
        match step {
            Step::GoWarm => self.warm.one_more(),
            Step::GoCold => self.cold.one_more(),
        }
    }

    /// A step was taken.
    pub(crate) fn done(&mut self, step: Step) {
        self.warm = Failures::default();
        if step == Step::GoCold {
            self.cold = Failures::default();
        }
    }
}

/// Nothing changes any more if nobody is left to say so.
async fn changed(changes: &mut watch::Receiver<u64>) {
    if changes.changed().await.is_err() {
        pending::<()>().await;
    }
}

async fn at(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => sleep_until(deadline).await,
        None => pending().await,
    }
}

#[cfg(test)]
mod tests {
    use base::ids::UserId;
    use tokio::time::{advance, timeout};

    use super::*;
    use crate::{
        activity::Work,
        model::{IdleLimit, IdlePolicy, UserEdit, UserLimits},
        store::Store,
    };

    const SECOND: Duration = Duration::from_secs(1);

    fn policy(warm: u64, cold: u64) -> Policy {
        let after = |seconds| Some(IdleLimit::After(seconds));
        Policy { keep_hot: false, idle: IdlePolicy { warm: after(warm), cold: after(cold) } }
    }

    fn schedule() -> (Arc<Activity>, Schedule) {
        let activity = Activity::new();
        (Arc::clone(&activity), Schedule::new(activity, Rules::plain(UserId::random())))
    }

    /// The step that is due within so long, and after how long.
    async fn due(
        schedule: &mut Schedule,
        thermal: Thermal,
        policy: Policy,
        within: Duration,
    ) -> Option<(Step, Duration)> {
        let began = Instant::now();
        let step = timeout(within, schedule.due(thermal, policy)).await.ok()?;
        Some((step, began.elapsed()))
    }

    #[tokio::test(start_paused = true)]
    async fn a_step_is_due_at_its_deadline_which_anything_puts_off() {
        let (activity, mut schedule) = schedule();
        let (hour, policy) = (SECOND * 3600, policy(5, 60));
        let about = |step, seconds: u32| {
            move |(was, after): (Step, Duration)| {
                was == step && after.abs_diff(SECOND * seconds) < SECOND / 10
            }
        };
        let warm = due(&mut schedule, Thermal::Hot, policy, hour).await;
        assert!(warm.is_some_and(about(Step::GoWarm, 5)), "{warm:?}");
        let cold = due(&mut schedule, Thermal::Warm, policy, hour).await;
        assert!(cold.is_some_and(about(Step::GoCold, 55)), "{cold:?}");
        assert_eq!(due(&mut schedule, Thermal::Cold, policy, hour).await, None);

        let command = activity.begin(Work::Command).unwrap();
        assert_eq!(due(&mut schedule, Thermal::Hot, policy, hour).await, None);
        let ends = async {
            advance(SECOND * 100).await;
            drop(command);
        };
        let (warm, ()) = tokio::join!(due(&mut schedule, Thermal::Hot, policy, hour), ends);
        assert!(warm.is_some_and(about(Step::GoWarm, 105)), "{warm:?}");
        let keep_hot = Policy { keep_hot: true, ..policy };
        assert_eq!(due(&mut schedule, Thermal::Hot, keep_hot, hour).await, None);
    }

    #[tokio::test(start_paused = true)]
    async fn a_step_that_was_given_up_waits_for_the_end_of_what_is_under_way() {
        let (activity, mut schedule) = schedule();
        let (hour, policy) = (SECOND * 3600, policy(5, 7200));
        due(&mut schedule, Thermal::Hot, policy, hour).await.unwrap();
        let question = activity.begin(Work::Control).unwrap();
        schedule.given_up();
        assert_eq!(due(&mut schedule, Thermal::Hot, policy, SECOND * 60).await, None);
        // Abandoned and begun again, as whenever something else happens.
        assert_eq!(due(&mut schedule, Thermal::Hot, policy, SECOND * 60).await, None);
        drop(question);
        let next = due(&mut schedule, Thermal::Hot, policy, SECOND).await;
        assert_eq!(next, Some((Step::GoWarm, Duration::ZERO)), "it did not count as activity");
        // It ended before the step was given up.
        drop(activity.begin(Work::Control).unwrap());
        schedule.given_up();
        let next = due(&mut schedule, Thermal::Hot, policy, SECOND).await;
        assert_eq!(next, Some((Step::GoWarm, Duration::ZERO)));
    }

    #[tokio::test(start_paused = true)]
    async fn what_fails_is_tried_again_ever_more_seldom_and_meanwhile_at_least_paused() {
        let (_activity, mut schedule) = schedule();
        let (day, policy) = (SECOND * 86_400, policy(5, 60));
        advance(SECOND * 60).await;
        let mut pause = Duration::ZERO;
        for _ in 0..20 {
            assert_eq!(
                due(&mut schedule, Thermal::Hot, policy, day).await.unwrap().0,
                Step::GoCold
            );
            schedule.failed(Step::GoCold);
            let (step, at_once) = due(&mut schedule, Thermal::Hot, policy, day).await.unwrap();
            assert_eq!((step, at_once), (Step::GoWarm, Duration::ZERO));
            schedule.done(step);
            let (step, after) = due(&mut schedule, Thermal::Warm, policy, day).await.unwrap();
            assert_eq!(step, Step::GoCold);
            assert!(after >= pause && after >= AGAIN, "{after:?} after {pause:?}");
            assert!(after <= AGAIN_MAX + SECOND, "{after:?}");
            pause = after;
        }
        assert!(pause >= AGAIN_MAX);
        schedule.done(Step::GoCold);
        schedule.failed(Step::GoCold);
        let (_, after) = due(&mut schedule, Thermal::Warm, policy, day).await.unwrap();
        assert!(after <= AGAIN + SECOND, "{after:?}");
    }

    #[tokio::test]
    async fn what_an_admin_says_of_a_user_holds_at_once() {
        let directory = tempfile::tempdir().unwrap();
        let store = Store::open(&directory.path().join("db")).unwrap();
        let (user, _) = store.create_user("u", false, UserLimits::default()).await.unwrap();
        let node = IdlePolicy { warm: Some(IdleLimit::After(1000)), cold: None };
        let rules = Rules::new(user.id, store.clone(), node);
        assert_eq!(rules.sleeps(Policy::default()).warm, Some(SECOND * 1000));
        let mut schedule = Schedule::new(Activity::new(), rules.clone());
        let edit = UserEdit { idle_warm: Some(Some(IdleLimit::After(0))), ..UserEdit::default() };
        let edited = store.edit_user("u", edit);
        let (step, edited) = tokio::join!(schedule.due(Thermal::Hot, Policy::default()), edited);
        edited.unwrap();
        assert_eq!(step, Step::GoWarm);
        assert_eq!(rules.sleeps(Policy::default()).warm, Some(Duration::ZERO));
    }
}
