//! What is to go wrong inside a daemon.

use std::{
    ffi::OsString,
    path::{Path, PathBuf},
};

use fs_err as fs;

/// A place that the daemon has passed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Passing {
    /// The place's name.
    pub place: String,
    /// What went wrong there, if anything.
    pub action: Option<String>,
}

/// The places of a node's daemons at which something can go wrong: `base::fault`.
#[derive(Debug)]
pub struct Faults {
    armed: PathBuf,
    trace: PathBuf,
}

impl Faults {
    /// Those of the daemons on a data directory.
    pub(crate) fn of(data: &Path) -> Self {
        Self { armed: data.join("faults.armed"), trace: data.join("faults.trace") }
    }

    /// What a daemon has to know.
    pub(crate) fn environment(&self) -> Vec<(&'static str, OsString)> {
        let (armed, trace) = (self.armed.clone(), self.trace.clone());
        vec![("BHATTI_FAULT_FILE", armed.into()), ("BHATTI_FAULT_TRACE", trace.into())]
    }

    /// From the next place on that is passed, `fault` is what goes wrong, `NAME[@N]=ACTION,…`, and
    /// nothing that was armed before. The trace begins anew.
    ///
    /// # Panics
    /// If it cannot be told.
    pub fn arm(&self, fault: &str) {
        let _none_is_passed = self.lock();
        base::files::remove_any(&self.trace).expect("the data directory can be written to");
        self.write(fault);
    }

    /// Nothing goes wrong any more, and what did is in the trace, which stays.
    ///
    /// # Panics
    /// If it cannot be told.
    pub fn disarm(&self) {
        let _none_is_passed = self.lock();
        self.write("");
    }

    fn write(&self, fault: &str) {
        let written = base::files::write_atomic(&self.armed, fault.as_bytes(), 0o600);
        written.expect("the data directory can be written to");
    }

    /// Holds up every daemon at its next place, until it is dropped.
    fn lock(&self) -> std::fs::File {
        let lock =
            base::fault::lock_file(&self.armed).expect("the data directory can be written to");
        lock.lock().expect("no daemon dies while it holds the lock and keeps it");
        lock
    }

    /// The places that were passed since the last arming, in order.
    pub fn passed(&self) -> Vec<Passing> {
        let trace = fs::read_to_string(&self.trace).unwrap_or_default();
        let passing = |line: &str| match line.split_once('=') {
            Some((place, action)) => {
                Passing { place: place.to_owned(), action: Some(action.to_owned()) }
            }
            None => Passing { place: line.to_owned(), action: None },
        };
        trace.lines().map(passing).collect()
    }

    /// Whether something has gone wrong since the last arming.
    pub fn happened(&self) -> bool {
        self.passed().iter().any(|passing| passing.action.is_some())
    }
}
