//! What monitors of a node run under: user ids, control groups, and how they are known to be ours.

use std::{
    collections::HashSet,
    path::Path,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use base::files;
use vmm::{Confinement, Machine, cgroup::Cgroup};

use super::Node;
use crate::{Error, Kind, Result, spares::FIRST_SLOT};

/// When a control group that is still busy is looked at again.
const GROUP_RETRIES: [Duration; 4] = [
    Duration::from_millis(5),
    Duration::from_millis(50),
    Duration::from_millis(500),
    Duration::from_secs(5),
];

/// The first user id that monitors run under; one a sandbox.
const FIRST_UID: u32 = 600_000;
/// User ids of one node. Nodes on the same host take different ranges as far as chance allows, so
/// that monitors of two nodes do not share one.
const UIDS_PER_NODE: u32 = 10_000;
const NODES: u32 = 1000;

/// The file in a VM's directory of control sockets that says which control group it is in, if that
/// does not follow from its name.
const GROUP: &str = "group";

impl Node {
    /// Under which limits a VM's monitor runs. `slot` is 0 for templates, `connects` is whether it
    /// passes connections of its guest on as its own.
    pub(crate) fn confinement(
        &self,
        name: &str,
        slot: u32,
        machine: Machine,
        connects: bool,
    ) -> Result<Confinement> {
        if slot >= FIRST_SLOT {
            return Err(Error::new(Kind::Internal, "there are no user ids left"));
        }
        let cgroup = self.make_group(name, machine);
        self.jail(name, slot, machine, connects, cgroup)
    }

    /// The confinement of a monitor of whatever kind. Every slot has a user id of its own, where
    /// there can be any.
    pub(crate) fn jail(
        &self,
        name: &str,
        slot: u32,
        machine: Machine,
        connects: bool,
        cgroup: Cgroup,
    ) -> Result<Confinement> {
        let home = (!self.standing.is_root()).then(std::env::home_dir).flatten();
        let home = home.filter(|home| home != Path::new("/"));
        Ok(Confinement {
            walls: self.standing.walls(self.first_uid() + slot, machine, connects),
            covered: home.into_iter().chain([self.layout.data().to_owned()]).collect(),
            cgroup,
            marker: self.marker(name),
        })
    }

    fn first_uid(&self) -> u32 {
        let node = u32::from_str_radix(&self.tag, 16).unwrap_or(0) % NODES;
        FIRST_UID + node * UIDS_PER_NODE
    }

    /// Notes that a VM of an earlier daemon runs under this user id.
    pub(crate) fn keep_uid(&self, name: &str, uid: u32) {
        if let Some(slot) = uid.checked_sub(self.first_uid()) {
            self.spares.slots.keep(name, slot);
        }
    }

    /// The environment variable by which a monitor is known to be ours.
    pub(crate) fn marker(&self, name: &str) -> String {
        format!("{}/{name}", self.tag)
    }

    fn group(&self, name: &str) -> String {
        format!("{}-{name}", self.tag)
    }

    /// The control group of a VM: if it was a spare one, the one that it had as such.
    fn group_of(&self, name: &str) -> String {
        let said = fs_err::read_to_string(self.layout.run(name).join(GROUP));
        said.unwrap_or_else(|_| self.group(name))
    }

    /// Keeps that a VM stays in its control group whatever it is called later.
    pub(crate) fn note_group(&self, name: &str) -> Result<()> {
        Ok(fs_err::write(self.layout.run(name).join(GROUP), self.group(name))?)
    }

    /// Removes what a VM that is gone leaves: sockets and control group.
    pub(crate) fn clean_run(&self, name: &str) {
        self.spares.slots.free(name);
        let group = self.group_of(name);
        if let Err(error) = files::remove_any(&self.layout.run(name)) {
            tracing::warn!(%error, "control sockets stay behind");
        }
        let mut doomed = self.doomed.lock().unwrap_or_else(PoisonError::into_inner);
        let known = self.cgroups.adopt(&group);
        if known.remove().is_err() && doomed.insert(group.clone()) {
            tokio::spawn(remove_later(group, known, Arc::clone(&self.doomed)));
        }
    }

    /// Makes the control group of a VM.
    pub(crate) fn make_group(&self, name: &str, machine: Machine) -> Cgroup {
        let mut doomed = self.doomed.lock().unwrap_or_else(PoisonError::into_inner);
        doomed.remove(&self.group(name));
        self.cgroups.create(&self.group(name), machine.cpus, machine.memory_mib)
    }

    /// Names of VMs that have control sockets or a control group.
    pub(crate) fn leftovers(&self) -> Result<Vec<String>> {
        let prefix = format!("{}-", self.tag);
        let mut names = Vec::new();
        let mut groups = HashSet::new();
        for entry in fs_err::read_dir(self.layout.runs())? {
            let name = entry?.file_name().to_string_lossy().into_owned();
            groups.insert(self.group_of(&name));
            names.push(name);
        }
        let others = self.cgroups.existing().into_iter().filter(|group| !groups.contains(group));
        names.extend(others.filter_map(|group| Some(group.strip_prefix(&prefix)?.to_owned())));
        names.sort();
        names.dedup();
        Ok(names)
    }

    /// Which limits monitors get: some of memory, cpu, pids.
    pub(crate) fn limits(&self) -> Vec<&'static str> {
        self.cgroups.limits()
    }
}

/// Tries again to remove a control group in which a dead process waits for init to reap it. There
/// is no event for that, so it is looked at a few times, ever more seldom; what is left after that
/// goes at the next start.
async fn remove_later(name: String, group: Cgroup, doomed: Arc<Mutex<HashSet<String>>>) {
    for wait in GROUP_RETRIES {
        #[expect(clippy::disallowed_methods, reason = "reaping by init cannot be waited for")]
        tokio::time::sleep(wait).await;
        let mut doomed = doomed.lock().unwrap_or_else(PoisonError::into_inner);
        if !doomed.contains(&name) {
            return;
        }
        if group.remove().is_ok() {
            doomed.remove(&name);
            return;
        }
    }
    tracing::warn!(?group, "a control group stays behind");
}
