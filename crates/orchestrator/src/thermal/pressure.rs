//! The host's memory, and whose sandbox gives some of it back.
//!
//! ```text
//! the kernel: processes wait for memory ─┐
//! a VM was started ──────────────────────┴► is it below the mark? ► the idlest goes cold, again
//! a VM is to be started and cannot ──────► the same, and it waits for that
//! ```

use std::{
    collections::HashSet,
    fs::File,
    io::{self, Write as _},
    os::fd::OwnedFd,
    sync::{Arc, Weak},
    time::Duration,
};

use base::ids::SandboxId;
use fs_err::os::unix::fs::OpenOptionsExt as _;
use tokio::{
    io::{Interest, unix::AsyncFd},
    sync::{Mutex, Notify},
    time::timeout,
};

use crate::{Error, Kind, Result, admission, node::Node, sandbox::Sandbox};

/// Where the kernel tells, and after what: some process waited for memory for 300 ms of two seconds,
/// the shortest time that it watches for everybody. See Documentation/accounting/psi.rst of the
/// kernel.
const TOLD_AT: &str = "/proc/pressure/memory";
const TOLD_WHEN: &[u8] = b"some 300000 2000000\0";

/// A sandbox that was used this moment is likely to be used again.
const YOUNG: Duration = Duration::from_secs(2);
/// How long one sandbox may take to go to disk before the next one is asked.
const PATIENCE: Duration = Duration::from_secs(60);
/// The mark is this part of the host's memory, and at least so many MiB: what the host needs to
/// start a few VMs and to write what goes to disk.
const PART: u64 = 20;
const LEAST_MIB: u64 = 512;
/// A host with less available memory than this starts no more VMs, MiB.
const RESERVE_MIB: u64 = 256;

/// See the module.
#[derive(Debug)]
pub(crate) struct Pressure {
    low_mib: u64,
    /// One after the other: who waits may find that there is enough by then.
    relieving: Mutex<()>,
    look: Notify,
}

/// A sandbox that could go to disk.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Candidate {
    id: SandboxId,
    idle: Duration,
}

impl Pressure {
    /// `low_mib` is the mark, if the operator has one in mind.
    pub(crate) fn new(low_mib: Option<u64>) -> Self {
        let host = admission::host().memory_mib;
        let low_mib = low_mib.unwrap_or_else(|| (host / PART).max(LEAST_MIB));
        Self { low_mib, relieving: Mutex::new(()), look: Notify::new() }
    }

    /// Available memory below which idle sandboxes go to disk, MiB.
    pub(crate) fn low_mib(&self) -> u64 {
        self.low_mib
    }

    /// Memory has just been taken: somebody has a look, later.
    pub(crate) fn look(&self) {
        self.look.notify_one();
    }
}

/// Has the host have enough memory for one more VM.
///
/// # Errors
/// [`Kind::HostOverloaded`] if it has too little, though every sandbox that may went to disk.
pub(crate) async fn make_room(node: &Node) -> Result<()> {
    relieve(node, RESERVE_MIB).await;
    if admission::available_mib().is_some_and(|mib| mib < RESERVE_MIB) {
        let message = "the host has not enough free memory to start another sandbox";
        return Err(Error::new(Kind::HostOverloaded, message)
            .hint("stop or destroy some sandboxes, then try again"));
    }
    Ok(())
}

/// Sandboxes go to disk until the host has so much memory, or nobody is left who may.
pub(crate) async fn relieve(node: &Node, wanted_mib: u64) {
    let short = || admission::available_mib().is_some_and(|mib| mib < wanted_mib);
    if !short() {
        return;
    }
    let _one_at_a_time = node.pressure.relieving.lock().await;
    // What nobody uses goes before what somebody may come back to.
    node.spares.give_up(node).await;
    let mut tried = HashSet::new();
    while short() {
        let sandboxes = node.registry.all();
        let Some(id) = idlest(sandboxes.iter().filter_map(candidate), &tried) else { return };
        tried.insert(id.clone());
        let Some(sandbox) = sandboxes.into_iter().find(|s| s.record().id == id) else { continue };
        match timeout(PATIENCE, sandbox.make_room()).await {
            Ok(Ok(true)) => {
                tracing::info!(sandbox = %id, "went to disk early, the host is short of memory");
            }
            Ok(Ok(false)) => {}
            Ok(Err(error)) => tracing::debug!(sandbox = %id, %error, "makes no room"),
            Err(_) => tracing::debug!(sandbox = %id, "takes long to make room"),
        }
    }
}

fn candidate(sandbox: &Sandbox) -> Option<Candidate> {
    let id = sandbox.record().id.clone();
    sandbox.could_make_room().map(|idle| Candidate { id, idle })
}

/// Whose turn it is: who has been idle longest, of those that were not asked yet.
fn idlest(
    candidates: impl Iterator<Item = Candidate>,
    tried: &HashSet<SandboxId>,
) -> Option<SandboxId> {
    candidates
        .filter(|candidate| candidate.idle >= YOUNG && !tried.contains(&candidate.id))
        .max_by(|a, b| a.idle.cmp(&b.idle).then_with(|| b.id.cmp(&a.id)))
        .map(|candidate| candidate.id)
}

/// Keeps the host's memory above the mark for as long as there is a node.
pub(crate) async fn watch(node: Weak<Node>) {
    let told = match subscribe() {
        Ok(told) => Some(told),
        Err(error) => {
            tracing::info!(%error, "the kernel does not tell of a shortage of memory; it is looked \
                for whenever a VM was started");
            None
        }
    };
    let Some(pressure) = node.upgrade().map(|node| Arc::clone(&node.pressure)) else { return };
    loop {
        tokio::select! {
            () = pressure.look.notified() => {}
            () = next_word(told.as_ref()) => {}
        }
        let Some(node) = node.upgrade() else { return };
        relieve(&node, pressure.low_mib).await;
    }
}

/// Has the kernel tell us.
fn subscribe() -> io::Result<AsyncFd<OwnedFd>> {
    let nonblock = i32::try_from(rustix::fs::OFlags::NONBLOCK.bits()).unwrap_or(0);
    let mut file: File = fs_err::OpenOptions::new()
        .read(true)
        .write(true)
        .custom_flags(nonblock)
        .open(TOLD_AT)?
        .into();
    file.write_all(TOLD_WHEN)?;
    base::watch(file.into(), Interest::PRIORITY)
}

async fn next_word(told: Option<&AsyncFd<OwnedFd>>) {
    let Some(told) = told else { return std::future::pending().await };
    match told.ready(Interest::PRIORITY).await {
        Ok(mut ready) => ready.clear_ready(),
        // Nothing is told any more; starting VMs still makes somebody look.
        Err(_) => std::future::pending().await,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn all(idle: &[u64]) -> Vec<Candidate> {
        let candidate =
            |seconds| Candidate { id: SandboxId::random(), idle: Duration::from_secs(seconds) };
        idle.iter().copied().map(candidate).collect()
    }

    proptest! {
        #[test]
        fn the_idlest_go_first_each_once_and_no_young_one(
            idle in prop::collection::vec(0..100u64, 0..20),
        ) {
            let candidates = all(&idle);
            let (mut tried, mut order) = (HashSet::new(), Vec::new());
            while let Some(id) = idlest(candidates.iter().cloned(), &tried) {
                let chosen = candidates.iter().find(|c| c.id == id).unwrap();
                order.push(chosen.idle);
                prop_assert!(tried.insert(id));
            }
            prop_assert!(order.windows(2).all(|pair| pair[0] >= pair[1]));
            let old = candidates.iter().filter(|c| c.idle >= YOUNG).count();
            prop_assert_eq!(order.len(), old);
        }
    }

    #[tokio::test]
    async fn the_kernel_s_word_can_be_waited_for_where_there_is_one() {
        match subscribe() {
            Ok(told) => {
                let word = timeout(Duration::from_millis(20), next_word(Some(&told))).await;
                // Whether the host is short of memory now is not ours to say.
                drop(word);
            }
            Err(error) => eprintln!("NOT CHECKED: the kernel tells of no shortage: {error}"),
        }
    }
}
