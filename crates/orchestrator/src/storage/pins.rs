//! What is about to be used by somebody who has no directory yet that says so.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

/// Names of images, kernels and keys of templates, each with how many use it.
#[derive(Debug, Clone, Default)]
pub(crate) struct Pins(Arc<Mutex<HashMap<String, usize>>>);

/// As long as it lives its names are not collected.
#[derive(Debug)]
pub(crate) struct Pin {
    pins: Pins,
    names: Vec<String>,
}

/// Nothing can be pinned while this lives.
#[derive(Debug)]
pub(super) struct Pinned<'a>(MutexGuard<'a, HashMap<String, usize>>);

impl Pins {
    /// Keeps what these names stand for. Whether it is still there has to be asked afterwards.
    pub(crate) fn keep(&self, names: impl IntoIterator<Item = String>) -> Pin {
        let names: Vec<String> = names.into_iter().collect();
        let mut pinned = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        for name in &names {
            *pinned.entry(name.clone()).or_default() += 1;
        }
        drop(pinned);
        Pin { pins: self.clone(), names }
    }

    pub(super) fn hold(&self) -> Pinned<'_> {
        Pinned(self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Pinned<'_> {
    pub(super) fn names(&self) -> impl Iterator<Item = String> {
        self.0.keys().cloned()
    }

    pub(super) fn has(&self, name: &str) -> bool {
        self.0.contains_key(name)
    }
}

impl Drop for Pin {
    fn drop(&mut self) {
        let mut pinned = self.pins.0.lock().unwrap_or_else(PoisonError::into_inner);
        for name in &self.names {
            if let Some(count) = pinned.get_mut(name) {
                *count -= 1;
                if *count == 0 {
                    pinned.remove(name);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_kept_until_the_last_who_pinned_it_is_done() {
        let pins = Pins::default();
        let first = pins.keep(["a".to_owned(), "b".to_owned()]);
        let second = pins.keep(["a".to_owned()]);
        drop(first);
        assert!(pins.hold().has("a"));
        assert!(!pins.hold().has("b"));
        drop(second);
        assert!(!pins.hold().has("a"));
    }
}
