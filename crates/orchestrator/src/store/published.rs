//! All publications in memory, found by alias and by sandbox. The writer's thread changes it after
//! each commit; readers hold the lock for one lookup and never wait for the disk.

use std::{
    collections::HashMap,
    sync::{Arc, PoisonError, RwLock, RwLockWriteGuard},
};

use base::ids::SandboxId;
use tokio::sync::watch;

use crate::publications::{Place, Publication};

#[derive(Debug)]
pub(super) struct PublishedPorts {
    inner: RwLock<Inner>,
    changes: watch::Sender<u64>,
}

#[derive(Debug, Default)]
struct Inner {
    by_alias: HashMap<String, Arc<Publication>>,
    /// Lowest port first.
    by_sandbox: HashMap<SandboxId, Vec<Arc<Publication>>>,
}

impl PublishedPorts {
    pub(super) fn of(all: Vec<Publication>) -> Self {
        let mut inner = Inner::default();
        all.into_iter().for_each(|one| inner.add(Arc::new(one)));
        Self { inner: RwLock::new(inner), changes: watch::Sender::new(0) }
    }

    pub(super) fn add(&self, publication: Arc<Publication>) {
        self.write().add(publication);
        self.changed();
    }

    pub(super) fn forget_port(&self, sandbox: &SandboxId, port: u16) {
        self.write().remove(sandbox, |publication| publication.port == port);
        self.changed();
    }

    pub(super) fn forget_sandbox(&self, sandbox: &SandboxId) {
        self.write().remove(sandbox, |_| true);
        self.changed();
    }

    pub(super) fn by_alias(&self, alias: &str) -> Option<Arc<Publication>> {
        self.read(|inner| inner.by_alias.get(alias).cloned())
    }

    pub(super) fn of_sandbox(&self, sandbox: &SandboxId) -> Vec<Arc<Publication>> {
        self.read(|inner| inner.by_sandbox.get(sandbox).cloned()).unwrap_or_default()
    }

    pub(super) fn on_host_ports(&self) -> Vec<Arc<Publication>> {
        let on_host = |one: &&Arc<Publication>| matches!(one.place, Place::HostPort(_));
        self.read(|inner| inner.by_sandbox.values().flatten().filter(on_host).cloned().collect())
    }

    pub(super) fn changes(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }

    fn changed(&self) {
        self.changes.send_modify(|changes| *changes = changes.wrapping_add(1));
    }

    fn read<T>(&self, look: impl FnOnce(&Inner) -> T) -> T {
        look(&self.inner.read().unwrap_or_else(PoisonError::into_inner))
    }

    fn write(&self) -> RwLockWriteGuard<'_, Inner> {
        self.inner.write().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inner {
    fn add(&mut self, publication: Arc<Publication>) {
        if let Some(alias) = publication.alias() {
            self.by_alias.insert(alias.as_str().to_owned(), Arc::clone(&publication));
        }
        let of_sandbox = self.by_sandbox.entry(publication.sandbox.clone()).or_default();
        let at = of_sandbox.partition_point(|other| other.port < publication.port);
        of_sandbox.insert(at, publication);
    }

    fn remove(&mut self, sandbox: &SandboxId, which: impl Fn(&Publication) -> bool) {
        let Some(of_sandbox) = self.by_sandbox.get_mut(sandbox) else { return };
        for gone in of_sandbox.extract_if(.., |one| which(one)) {
            if let Some(alias) = gone.alias() {
                self.by_alias.remove(alias.as_str());
            }
        }
        if of_sandbox.is_empty() {
            self.by_sandbox.remove(sandbox);
        }
    }
}
