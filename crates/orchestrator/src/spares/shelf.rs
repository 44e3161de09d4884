//! What is kept ready, and what is to be made next: bookkeeping without processes.

use std::time::{Duration, Instant};

/// How long something is kept ready after its kind was used last.
pub(super) const KEPT: Duration = Duration::from_secs(600);

/// Things that are ready, of the kinds that were used last.
#[derive(Debug)]
pub(super) struct Shelf<R, S> {
    /// How many there should be, of all kinds together.
    wanted: usize,
    /// Used last comes first.
    kinds: Vec<Kind<R, S>>,
}

#[derive(Debug)]
struct Kind<R, S> {
    key: String,
    recipe: R,
    used: Instant,
    ready: Vec<S>,
}

impl<R: Clone, S> Shelf<R, S> {
    pub(super) fn new(wanted: usize) -> Self {
        Self { wanted, kinds: Vec::new() }
    }

    /// Notes that a thing of this kind is needed, and gives one if it is ready.
    pub(super) fn take(&mut self, key: &str, recipe: R, now: Instant) -> Option<S> {
        let found = self.kinds.iter().position(|kind| kind.key == key);
        let mut kind = match found {
            Some(at) => self.kinds.remove(at),
            None => Kind { key: key.to_owned(), recipe, used: now, ready: Vec::new() },
        };
        kind.used = now;
        let taken = kind.ready.pop();
        self.kinds.insert(0, kind);
        taken
    }

    /// Takes out what is not to be kept any more, and forgets kinds that nobody has needed for long
    /// or of which there is none to be ready.
    pub(super) fn surplus(&mut self, now: Instant) -> Vec<S> {
        let mut out = Vec::new();
        let wanted = self.wanted;
        let mut place = 0;
        self.kinds.retain_mut(|kind| {
            let kept = place < wanted && now.saturating_duration_since(kind.used) < KEPT;
            if !kept {
                out.append(&mut kind.ready);
            }
            place += usize::from(kept);
            kept
        });
        let shares = shares(self.kinds.len(), wanted);
        for (kind, share) in self.kinds.iter_mut().zip(shares) {
            let kept = kind.ready.len().min(share);
            out.extend(kind.ready.drain(kept..));
        }
        out
    }

    /// What is to be made next.
    pub(super) fn next(&self) -> Option<R> {
        let shares = shares(self.kinds.len().min(self.wanted), self.wanted);
        let short = self.kinds.iter().zip(shares).find(|(kind, share)| kind.ready.len() < *share);
        short.map(|(kind, _)| kind.recipe.clone())
    }

    /// Gives one that is ready, which is no use of its kind.
    pub(super) fn pick(&mut self, key: &str) -> Option<S> {
        self.kinds.iter_mut().find(|kind| kind.key == key)?.ready.pop()
    }

    /// How things of each kind are made.
    pub(super) fn recipes(&self) -> impl Iterator<Item = &R> {
        self.kinds.iter().map(|kind| &kind.recipe)
    }

    /// How many are ready.
    pub(super) fn ready(&self) -> usize {
        self.kinds.iter().map(|kind| kind.ready.len()).sum()
    }

    /// Keeps what was made, or gives it back if nobody wants it any more.
    pub(super) fn put(&mut self, key: &str, made: S) -> Option<S> {
        match self.kinds.iter_mut().find(|kind| kind.key == key) {
            Some(kind) => {
                kind.ready.push(made);
                None
            }
            None => Some(made),
        }
    }

    /// Forgets everything; what was ready comes out.
    pub(super) fn clear(&mut self) -> Vec<S> {
        self.kinds.drain(..).flat_map(|kind| kind.ready).collect()
    }

    /// When something has been kept for long enough, if nothing happens until then.
    pub(super) fn until(&self) -> Option<Instant> {
        self.kinds.iter().map(|kind| kind.used + KEPT).min()
    }
}

/// How many there should be of each kind; the ones used last have the rest.
fn shares(kinds: usize, wanted: usize) -> impl Iterator<Item = usize> {
    let (each, rest) = (wanted.checked_div(kinds).unwrap_or(0), wanted.checked_rem(kinds));
    (0..kinds).map(move |place| each + usize::from(rest.is_some_and(|rest| place < rest)))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[derive(Debug, Clone)]
    enum Step {
        Take(u8),
        Make,
        Later(u64),
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            (0..5u8).prop_map(Step::Take),
            Just(Step::Make),
            (0..700u64).prop_map(Step::Later),
        ]
    }

    /// Makes all that is wanted, and says how many that were.
    fn fill(shelf: &mut Shelf<u8, u8>) -> usize {
        let mut made = 0;
        while let Some(recipe) = shelf.next() {
            assert_eq!(shelf.put(&recipe.to_string(), recipe), None);
            made += 1;
        }
        made
    }

    proptest! {
        #[test]
        fn there_are_never_more_than_wanted_and_each_is_of_its_kind(
            wanted in 0..6usize,
            steps in prop::collection::vec(step(), 0..60),
        ) {
            let mut shelf = Shelf::<u8, u8>::new(wanted);
            let mut now = Instant::now();
            let mut used = None;
            for step in steps {
                match step {
                    Step::Take(kind) => {
                        let taken = shelf.take(&kind.to_string(), kind, now);
                        prop_assert!(taken.is_none_or(|taken| taken == kind));
                        used = Some((kind, now));
                    }
                    Step::Make => {
                        shelf.surplus(now);
                        fill(&mut shelf);
                    }
                    Step::Later(seconds) => now += Duration::from_secs(seconds),
                }
                shelf.surplus(now);
                prop_assert!(shelf.ready() <= wanted);
                prop_assert!(shelf.until().is_none_or(|until| until > now));
            }
            fill(&mut shelf);
            let all = shelf.clear();
            // All places are used as long as anything was needed of late, and by it.
            let lately = used.filter(|(_, at)| now.saturating_duration_since(*at) < KEPT);
            prop_assert_eq!(all.len(), if lately.is_some() { wanted } else { 0 });
            if let Some((kind, _)) = lately.filter(|_| wanted > 0) {
                prop_assert!(all.contains(&kind));
            }
        }
    }

    #[test]
    fn what_is_made_too_late_is_given_back() {
        let mut shelf = Shelf::<u8, u8>::new(1);
        let now = Instant::now();
        assert_eq!(shelf.take("1", 1, now), None);
        assert_eq!(shelf.take("2", 2, now), None);
        assert!(shelf.surplus(now).is_empty());
        assert_eq!(shelf.put("1", 1), Some(1));
        assert_eq!(shelf.put("2", 2), None);
        assert_eq!(shelf.take("2", 2, now), Some(2));
    }
}
