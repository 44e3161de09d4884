//! How often something may happen: many at once after a quiet time, and a steady rate from then on.
//!
//! Of each key only the moment is kept at which all that it has had would be paid for at the steady
//! rate. Tables are two generations of a map: what is used moves to the young one, and when that is
//! full it becomes the old one, whose content goes. So there is a limit on memory, nothing is ever
//! scanned, and whoever is active is not forgotten.

use std::{
    collections::HashMap,
    hash::Hash,
    mem,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use tokio::time::Instant;

/// A steady rate, and how many may come at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Rate {
    /// How many a minute; without limit if 0.
    pub(crate) per_min: u32,
    /// How many at once.
    pub(crate) burst: u32,
}

/// How often each key may come.
#[derive(Debug)]
pub(crate) struct Meter<K> {
    rate: Rate,
    /// Most keys in one generation.
    most: usize,
    generations: Mutex<Generations<K>>,
}

#[derive(Debug)]
struct Generations<K> {
    young: HashMap<K, Instant>,
    old: HashMap<K, Instant>,
}

impl Rate {
    /// Takes one if there is one; else says after what time there will be.
    fn take(self, paid: &mut Instant, now: Instant) -> Result<(), Duration> {
        let interval = Duration::from_secs(60) / self.per_min.max(1);
        let next = (*paid).max(now) + interval;
        let ahead = next.duration_since(now);
        match ahead.checked_sub(interval * self.burst.max(1)) {
            None | Some(Duration::ZERO) => {
                *paid = next;
                Ok(())
            }
            Some(too_early) => Err(too_early),
        }
    }
}

impl<K: Hash + Eq> Meter<K> {
    pub(crate) fn new(rate: Rate, most: usize) -> Self {
        let generations = Generations { young: HashMap::new(), old: HashMap::new() };
        Self { rate, most, generations: Mutex::new(generations) }
    }

    /// Counts one of this key, or says after what time it may come.
    pub(crate) fn take(&self, key: K) -> Result<(), Duration> {
        if self.rate.per_min == 0 {
            return Ok(());
        }
        let now = Instant::now();
        let mut generations = self.generations.lock().unwrap_or_else(PoisonError::into_inner);
        let Generations { young, old } = &mut *generations;
        if let Some(paid) = young.get_mut(&key) {
            return self.rate.take(paid, now);
        }
        let mut paid = old.remove(&key).unwrap_or(now);
        let taken = self.rate.take(&mut paid, now);
        if young.len() >= self.most {
            *old = mem::take(young);
        }
        young.insert(key, paid);
        taken
    }

    /// As [`take`](Self::take), without counting it.
    pub(crate) fn look(&self, key: &K) -> Result<(), Duration> {
        if self.rate.per_min == 0 {
            return Ok(());
        }
        let generations = self.generations.lock().unwrap_or_else(PoisonError::into_inner);
        let paid = generations.young.get(key).or_else(|| generations.old.get(key)).copied();
        drop(generations);
        paid.map_or(Ok(()), |mut paid| self.rate.take(&mut paid, Instant::now()))
    }

    #[cfg(test)]
    fn keys(&self) -> usize {
        let generations = self.generations.lock().unwrap();
        generations.young.len() + generations.old.len()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use tokio::time::advance;

    use super::*;

    const RATE: Rate = Rate { per_min: 60, burst: 3 };

    #[tokio::test(start_paused = true)]
    async fn many_come_at_once_and_then_one_by_one() {
        let meter = Meter::new(RATE, 10);
        for _ in 0..3 {
            meter.take("a").unwrap();
        }
        assert_eq!(meter.take("a"), Err(Duration::from_secs(1)));
        assert_eq!(meter.look(&"a"), Err(Duration::from_secs(1)));
        assert!((0..9).all(|_| meter.look(&"b").is_ok()));
        meter.take("b").unwrap();
        advance(Duration::from_secs(1)).await;
        meter.take("a").unwrap();
        meter.take("a").unwrap_err();
        advance(Duration::from_secs(3600)).await;
        for _ in 0..3 {
            meter.take("a").unwrap();
        }
        meter.take("a").unwrap_err();
        let free = Meter::new(Rate { per_min: 0, burst: 0 }, 10);
        assert!((0..1000).all(|_| free.take(()).is_ok()));
    }

    #[tokio::test(start_paused = true)]
    async fn strangers_fill_no_memory_and_whoever_is_active_is_not_forgotten() {
        let meter = Meter::new(RATE, 100);
        for _ in 0..3 {
            meter.take(0).unwrap();
        }
        for stranger in 1..10_000 {
            meter.take(stranger).unwrap();
            if stranger % 50 == 0 {
                meter.take(0).unwrap_err();
            }
            assert!(meter.keys() <= 200);
        }
    }

    proptest! {
        #[test]
        fn nobody_ever_gets_more_than_burst_and_rate(
            waits in proptest::collection::vec(0_u64..5_000, 1..200),
            per_min in 1_u32..600, burst in 1_u32..50,
        ) {
            let (rate, begin) = (Rate { per_min, burst }, Instant::now());
            let (mut paid, mut now, mut had) = (begin, begin, 0_u32);
            for wait in waits {
                now += Duration::from_millis(wait);
                if rate.take(&mut paid, now).is_ok() {
                    had += 1;
                }
                let passed = now.duration_since(begin).as_secs_f64() / 60.0;
                let most = f64::from(burst) + passed * f64::from(per_min);
                prop_assert!(f64::from(had) <= most + 0.001, "{had} of {most}");
            }
        }
    }
}
