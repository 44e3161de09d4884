//! The frequency of the host's time stamp counter.
//!
//! A translated guest sees the host's counter, but has nothing to calibrate it against except an
//! emulated timer, and in one boot of three that does not work: the kernel then waits for ticks
//! that never come. Told the frequency, it boots every time and has a precise clock besides.

use std::time::{Duration, Instant};

/// How long the counter is watched. Reading both clocks takes less than 100 ns, so the result is
/// good to ten parts in a million.
const WATCHED: Duration = Duration::from_millis(20);

/// Two frequencies that differ by less than this part are taken for the same counter measured
/// twice.
const SAME_PER: u64 = 1000;

/// The frequency in kHz, measured now: takes 20 ms of CPU time.
#[cfg(target_arch = "x86_64")]
pub(crate) fn measure_khz() -> Option<u64> {
    let (began, first) = (Instant::now(), counter());
    while began.elapsed() < WATCHED {
        std::hint::spin_loop();
    }
    let (ticks, elapsed) = (counter().checked_sub(first)?, began.elapsed());
    let nanos = u64::try_from(elapsed.as_nanos()).ok()?;
    ticks.checked_mul(1_000_000)?.checked_div(nanos)
}

/// Other architectures tell their guests themselves.
#[cfg(not(target_arch = "x86_64"))]
pub(crate) fn measure_khz() -> Option<u64> {
    None
}

#[cfg(target_arch = "x86_64")]
#[expect(unsafe_code, reason = "the instruction has no safe wrapper")]
fn counter() -> u64 {
    // SAFETY: every x86-64 processor has the instruction, and Linux lets programs use it.
    unsafe { std::arch::x86_64::_rdtsc() }
}

/// The earlier measurement if the new one is of the same counter, so that what was recorded with it
/// stays usable.
pub(crate) fn settle(earlier: Option<u64>, now: Option<u64>) -> Option<u64> {
    match (earlier, now) {
        (Some(earlier), Some(now)) if earlier.abs_diff(now) < earlier / SAME_PER => Some(earlier),
        (_, now) => now,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_measurements_agree_and_a_real_change_counts() {
        let (one, two) = (measure_khz(), measure_khz());
        assert_eq!(settle(one, two), one);
        assert_eq!(settle(Some(2_596_098), Some(3_000_000)), Some(3_000_000));
        assert_eq!(settle(None, Some(5)), Some(5));
    }
}
