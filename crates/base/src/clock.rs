//! Wall-clock readings, in the units that the wire and the store use.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Time since the Unix epoch by the host's wall clock; zero if the clock is set before 1970.
pub fn since_epoch() -> Duration {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()
}

/// Seconds since the Unix epoch.
pub fn unix_seconds() -> i64 {
    i64::try_from(since_epoch().as_secs()).unwrap_or(i64::MAX)
}
