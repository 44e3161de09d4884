//! What is said of a list of samples.

/// A list of samples in five numbers.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Summary {
    pub(super) n: usize,
    pub(super) min: f64,
    pub(super) p50: f64,
    pub(super) p90: f64,
    pub(super) p99: f64,
}

impl Summary {
    /// `None` of no samples.
    pub(super) fn of(samples: &[f64]) -> Option<Self> {
        let mut sorted = samples.to_vec();
        sorted.sort_by(f64::total_cmp);
        Some(Self {
            n: sorted.len(),
            min: *sorted.first()?,
            p50: nearest_rank(&sorted, 50)?,
            p90: nearest_rank(&sorted, 90)?,
            p99: nearest_rank(&sorted, 99)?,
        })
    }
}

/// The smallest of the sorted samples that at least `percent` of a hundred of them do not exceed:
/// always one that was measured, never one in between.
fn nearest_rank(sorted: &[f64], percent: usize) -> Option<f64> {
    let rank = (sorted.len() * percent).div_ceil(100);
    sorted.get(rank.max(1) - 1).copied()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn count_to(n: u32) -> Vec<f64> {
        (1..=n).map(f64::from).collect()
    }

    #[test]
    fn of_a_hundred_samples_the_rank_is_the_percentage() {
        let all = count_to(100);
        for (percent, expected) in [(1, 1.0), (50, 50.0), (90, 90.0), (99, 99.0), (100, 100.0)] {
            assert_eq!(nearest_rank(&all, percent), Some(expected));
        }
    }

    #[test]
    fn the_textbook_example_holds() {
        let sorted = [15.0, 20.0, 35.0, 40.0, 50.0];
        let ranks = [5, 30, 40, 50, 100].map(|percent| nearest_rank(&sorted, percent));
        assert_eq!(ranks, [15.0, 20.0, 20.0, 35.0, 50.0].map(Some));
    }

    #[test]
    fn the_order_of_samples_does_not_matter_and_few_are_enough() {
        let mut samples = count_to(10);
        samples.reverse();
        let summary = Summary::of(&samples).unwrap();
        let expected = Summary { n: 10, min: 1.0, p50: 5.0, p90: 9.0, p99: 10.0 };
        assert_eq!(summary, expected);
        let single = Summary::of(&[7.0]).unwrap();
        assert_eq!((single.min, single.p50, single.p99), (7.0, 7.0, 7.0));
        assert_eq!(Summary::of(&[]), None);
    }
}
