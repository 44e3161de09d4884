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

mod operation;
mod round;

use operation::Operation;
use round::{DEATHS, ERRORS, Rounds};

/// One test for the deaths and one for the errors of each operation, so that they run side by side.
macro_rules! operations {
    ($($operation:ident: $deaths:ident, $errors:ident;)*) => {$(
        #[tokio::test]
        async fn $deaths() {
            Rounds::of(Operation::$operation).all(&DEATHS).await;
        }

        #[tokio::test]
        async fn $errors() {
            Rounds::of(Operation::$operation).all(&ERRORS).await;
        }
    )*};
}

operations! {
    Create: a_create_cut_off_anywhere_is_whole_or_gone, a_create_that_fails_anywhere_leaves_nothing;
    Pause: a_pause_cut_off_anywhere_loses_nothing, a_pause_that_fails_anywhere_loses_nothing;
    Resume: a_resume_cut_off_anywhere_loses_nothing, a_resume_that_fails_anywhere_loses_nothing;
    Stop: a_stop_cut_off_anywhere_loses_nothing, a_stop_that_fails_anywhere_loses_nothing;
    Wake: a_wake_cut_off_anywhere_loses_nothing, a_wake_that_fails_anywhere_loses_nothing;
    Destroy: a_destroy_cut_off_anywhere_is_whole_or_gone,
        a_destroy_that_fails_anywhere_can_be_repeated;
}
