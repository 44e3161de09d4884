//! Who looks at shared terminals, and how many may.

use std::{
    collections::HashMap,
    hash::Hash,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use base::ids::{SandboxId, ShareId};
use orchestrator::shares::Share;

/// Most who look through one share.
pub(super) const PER_SHARE: u32 = 16;
/// Most who look at one sandbox: fewer than may be attached, so that its owner comes in, too.
pub(super) const PER_SANDBOX: u32 = 32;

/// How many look, of those that somebody looks at.
#[derive(Debug, Default)]
pub(crate) struct Viewers {
    counts: Mutex<Counts>,
}

#[derive(Debug, Default)]
struct Counts {
    shares: HashMap<ShareId, u32>,
    sandboxes: HashMap<SandboxId, u32>,
}

/// Somebody who looks.
#[derive(Debug)]
pub(super) struct Viewer {
    of: Arc<Viewers>,
    share: ShareId,
    sandbox: SandboxId,
}

impl Viewers {
    /// Counts one more, if there may be one more.
    pub(super) fn enter(self: &Arc<Self>, share: &Share) -> Option<Viewer> {
        let mut counts = self.counts();
        let has = |count: Option<&u32>| count.copied().unwrap_or(0);
        if has(counts.shares.get(&share.id)) >= PER_SHARE
            || has(counts.sandboxes.get(&share.sandbox)) >= PER_SANDBOX
        {
            return None;
        }
        *counts.shares.entry(share.id.clone()).or_default() += 1;
        *counts.sandboxes.entry(share.sandbox.clone()).or_default() += 1;
        drop(counts);
        let (share, sandbox) = (share.id.clone(), share.sandbox.clone());
        Some(Viewer { of: Arc::clone(self), share, sandbox })
    }

    /// How many look through a share.
    pub(crate) fn of(&self, share: &ShareId) -> u32 {
        self.counts().shares.get(share).copied().unwrap_or(0)
    }

    fn counts(&self) -> MutexGuard<'_, Counts> {
        self.counts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Viewer {
    fn drop(&mut self) {
        let mut counts = self.of.counts();
        one_less(&mut counts.shares, &self.share);
        one_less(&mut counts.sandboxes, &self.sandbox);
    }
}

fn one_less<K: Hash + Eq>(counts: &mut HashMap<K, u32>, key: &K) {
    if let Some(count) = counts.get_mut(key) {
        *count -= 1;
        if *count == 0 {
            counts.remove(key);
        }
    }
}

#[cfg(test)]
mod tests {
    use base::ids::UserId;

    use super::*;

    fn share(sandbox: &SandboxId) -> Share {
        Share {
            id: ShareId::random(),
            sandbox: sandbox.clone(),
            owner: UserId::random(),
            token_sha256: String::new(),
            read_only: false,
            session: None,
            created_at: 0,
            expires_at: 1,
        }
    }

    #[test]
    fn so_many_look_through_one_share_and_at_one_sandbox_and_nothing_is_kept_of_them() {
        let (viewers, sandbox) = (Arc::<Viewers>::default(), SandboxId::random());
        let shares = [share(&sandbox), share(&sandbox), share(&sandbox)];
        let mut all = Vec::new();
        for _ in 0..PER_SHARE {
            all.push(viewers.enter(&shares[0]).unwrap());
        }
        assert!(viewers.enter(&shares[0]).is_none());
        assert_eq!(viewers.of(&shares[0].id), PER_SHARE);
        for _ in PER_SHARE..PER_SANDBOX {
            all.push(viewers.enter(&shares[1]).unwrap());
        }
        assert!(viewers.enter(&shares[2]).is_none());
        assert!(viewers.enter(&share(&SandboxId::random())).is_some());
        all.clear();
        assert!(viewers.counts().shares.is_empty() && viewers.counts().sandboxes.is_empty());
    }
}
