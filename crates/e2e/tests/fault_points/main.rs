//! Something goes wrong at each place that an operation passes, and nothing is lost or left behind.
//!
//! ```text
//! trace ──► the places that an operation passes
//!   └──► for each place and each way in which something can go wrong:
//!        prepare ──► arm ──► act ──► (the daemon dies, the next one starts) ──► judge
//! ```
//! The places are found, not listed here: what is added to the daemon is tested from then on. How
//! they work is told in `base::fault`.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]
#![allow(clippy::print_stderr, reason = "what was tried is shown with a failure")]

mod deed;
mod deeds;
mod operation;
mod round;

/// The tests of each operation. They are several, so that they run side by side.
macro_rules! operations {
    ($($module:ident: $operation:ident;)*) => {$(
        mod $module {
            use crate::{operation::Operation, round::{Action, Rounds}};

            #[tokio::test]
            async fn loses_nothing_if_the_daemon_dies_at_any_place() {
                Rounds::of(Operation::$operation).all(&[Action::Kill]).await;
            }

            #[tokio::test]
            async fn loses_nothing_if_its_monitors_die_at_any_place() {
                Rounds::of(Operation::$operation).all(&[Action::Vmm]).await;
            }

            #[tokio::test]
            async fn loses_nothing_if_all_of_them_die_at_any_place() {
                Rounds::of(Operation::$operation).all(&[Action::Both]).await;
            }

            #[tokio::test]
            async fn can_be_repeated_if_it_fails_at_any_place() {
                Rounds::of(Operation::$operation).all(&[Action::NoSpace, Action::Io]).await;
            }
        }
    )*};
}

operations! {
    create: Create;
    pause: Pause;
    resume: Resume;
    stop: Stop;
    wake: Wake;
    destroy: Destroy;
    take_snapshot: TakeSnapshot;
    resume_snapshot: ResumeSnapshot;
    delete_snapshot: DeleteSnapshot;
    fork: Fork;
}

/// The tests of deeds that share a node.
macro_rules! deeds {
    ($($module:ident: [$($deed:ident),*];)*) => {$(
        mod $module {
            use crate::{deed::Deed, deeds::Deeds, round::Action};

            const ALL: &[Deed] = &[$(Deed::$deed),*];

            #[tokio::test]
            async fn lose_nothing_if_the_daemon_dies_at_any_place() {
                Deeds::of(ALL).all(&[Action::Kill]).await;
            }

            #[tokio::test]
            async fn can_be_repeated_if_they_fail_at_any_place() {
                Deeds::of(ALL).all(&[Action::NoSpace, Action::Io]).await;
            }
        }
    )*};
}

deeds! {
    volumes_at_rest: [MakeVolume, CloneVolume, GrowVolume, DeleteVolume];
    images: [Import, Pull, PullForAll, DeleteImage, DeleteForAll, Prune];
    builds: [Build, BuildAgain];
    with_a_sandbox: [CloneWritten, GrowWritten, Attach, Save];
}

/// What can be done with one that does not come to be is tried with `create`.
const WITH_MONITORS: &[deed::Deed] =
    &[deed::Deed::CloneWritten, deed::Deed::GrowWritten, deed::Deed::Save];

#[tokio::test]
async fn what_is_done_with_a_sandbox_loses_nothing_if_monitors_die_at_any_place() {
    deeds::Deeds::of(WITH_MONITORS).all(&[round::Action::Vmm, round::Action::Both]).await;
}
