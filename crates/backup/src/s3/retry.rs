//! What is tried again, how often, and when.

use std::time::Duration;

use tokio::time::{Instant, sleep_until};

use super::S3Error;

/// How often anything is tried.
const TRIES: u32 = 7;
/// The longest that is waited for the second try.
const FIRST: Duration = Duration::from_millis(200);
/// The longest that is waited at all.
const LONGEST: Duration = Duration::from_secs(15);

/// Counts how often something was tried.
#[derive(Debug, Default)]
pub(super) struct Tries(u32);

impl Tries {
    /// Waits until it may be tried again after this error, or gives it back if it may not.
    pub(super) async fn again(&mut self, error: S3Error) -> Result<(), S3Error> {
        self.0 += 1;
        if self.0 == TRIES || !passes(&error) {
            return Err(error);
        }
        tracing::debug!("{}, trying again", base::chain(&error));
        pause(self.0).await;
        Ok(())
    }
}

/// Waits before the next try: longer each time, and never the same, so that many do not come at
/// once.
pub(super) async fn pause(tried: u32) {
    let longest = LONGEST.min(FIRST.saturating_mul(1 << (tried - 1).min(10)));
    let part = u32::from(base::random::bytes::<1>()[0]);
    sleep_until(Instant::now() + longest / 2 + longest / 2 * part / 255).await;
}

/// Whether an error may be gone when it is tried again.
pub(super) fn passes(error: &S3Error) -> bool {
    match error {
        S3Error::Io(_) | S3Error::Late | S3Error::Differs(_) => true,
        S3Error::Refused { status, code, .. } => {
            let status = matches!(status, 408 | 429 | 500 | 502 | 503 | 504);
            let code = matches!(
                code.as_str(),
                "InternalError"
                    | "SlowDown"
                    | "ServiceUnavailable"
                    | "RequestTimeout"
                    | "BadDigest"
                    | "IncompleteBody"
            );
            status || code
        }
        S3Error::Answer(_) | S3Error::Local(_) => false,
    }
}
