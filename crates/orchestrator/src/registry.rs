//! The sandboxes of a node, by id and by their owners' names for them.

use std::{
    collections::HashMap,
    sync::{Mutex, MutexGuard},
};

use base::ids::{Name, SandboxId, UserId};

use crate::sandbox::Sandbox;

#[derive(Debug, Default)]
pub(crate) struct Registry {
    inner: Mutex<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    by_id: HashMap<SandboxId, Sandbox>,
    by_name: HashMap<(UserId, String), SandboxId>,
}

impl Registry {
    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(|e| e.into_inner())
    }

    pub(crate) fn insert(&self, sandbox: Sandbox) {
        let record = sandbox.record();
        let key = (record.owner.clone(), sandbox.name().as_str().to_owned());
        let id = record.id.clone();
        let mut inner = self.lock();
        inner.by_name.insert(key, id.clone());
        inner.by_id.insert(id, sandbox);
    }

    pub(crate) fn remove(&self, id: &SandboxId) {
        let mut inner = self.lock();
        if let Some(sandbox) = inner.by_id.remove(id) {
            let key = (sandbox.record().owner.clone(), sandbox.name().as_str().to_owned());
            // The name may be in use again by the time the old sandbox is forgotten.
            if inner.by_name.get(&key) == Some(id) {
                inner.by_name.remove(&key);
            }
        }
    }

    /// Whether one of the owner's sandboxes has this name.
    pub(crate) fn has_name(&self, owner: &UserId, name: &Name) -> bool {
        self.lock().by_name.contains_key(&(owner.clone(), name.as_str().to_owned()))
    }

    /// From now on the sandbox is found by another name.
    pub(crate) fn rename(&self, id: &SandboxId, owner: &UserId, before: &Name, name: &Name) {
        let key = |name: &Name| (owner.clone(), name.as_str().to_owned());
        let mut inner = self.lock();
        if inner.by_name.get(&key(before)) == Some(id) {
            inner.by_name.remove(&key(before));
        }
        inner.by_name.insert(key(name), id.clone());
    }

    /// By name first: an owner may well name a sandbox like another one's id.
    pub(crate) fn find(&self, owner: &UserId, name_or_id: &str) -> Option<Sandbox> {
        let inner = self.lock();
        let by_name = inner.by_name.get(&(owner.clone(), name_or_id.to_owned()));
        let id = by_name.cloned().or_else(|| name_or_id.parse().ok())?;
        inner.by_id.get(&id).filter(|s| s.record().owner == *owner).cloned()
    }

    pub(crate) fn by_id(&self, id: &SandboxId) -> Option<Sandbox> {
        self.lock().by_id.get(id).cloned()
    }

    pub(crate) fn of(&self, owner: &UserId) -> Vec<Sandbox> {
        let inner = self.lock();
        inner.by_id.values().filter(|s| s.record().owner == *owner).cloned().collect()
    }

    pub(crate) fn all(&self) -> Vec<Sandbox> {
        self.lock().by_id.values().cloned().collect()
    }
}
