//! All shares in memory. The writer's thread changes it after each commit; readers hold the lock for
//! one lookup and never wait for the disk.

use std::{
    collections::HashMap,
    sync::{Arc, PoisonError, RwLock},
};

use base::ids::SandboxId;
use tokio::sync::watch;

use crate::shares::Share;

#[derive(Debug)]
pub(super) struct OpenShares {
    by_id: RwLock<HashMap<String, Arc<Share>>>,
    changes: watch::Sender<u64>,
}

impl OpenShares {
    pub(super) fn of(all: Vec<Share>) -> Self {
        let by_id = all.into_iter().map(|one| (one.id.as_str().to_owned(), Arc::new(one)));
        Self { by_id: RwLock::new(by_id.collect()), changes: watch::Sender::new(0) }
    }

    pub(super) fn add(&self, share: Arc<Share>) {
        let mut by_id = self.by_id.write().unwrap_or_else(PoisonError::into_inner);
        by_id.insert(share.id.as_str().to_owned(), share);
    }

    /// Forgets those, and tells whoever looks through one of them.
    pub(super) fn forget(&self, which: impl Fn(&Share) -> bool) {
        let mut by_id = self.by_id.write().unwrap_or_else(PoisonError::into_inner);
        let before = by_id.len();
        by_id.retain(|_, share| !which(share));
        if by_id.len() < before {
            drop(by_id);
            self.changes.send_modify(|changes| *changes = changes.wrapping_add(1));
        }
    }

    pub(super) fn get(&self, id: &str) -> Option<Arc<Share>> {
        self.by_id.read().unwrap_or_else(PoisonError::into_inner).get(id).cloned()
    }

    /// Oldest first.
    pub(super) fn of_sandbox(&self, sandbox: &SandboxId) -> Vec<Arc<Share>> {
        let by_id = self.by_id.read().unwrap_or_else(PoisonError::into_inner);
        let mut found: Vec<Arc<Share>> =
            by_id.values().filter(|share| share.sandbox == *sandbox).cloned().collect();
        drop(by_id);
        found.sort_by(|a, b| (a.created_at, &a.id).cmp(&(b.created_at, &b.id)));
        found
    }

    pub(super) fn changes(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }
}
