//! Limits for one monitor, with version 1 hierarchies or the unified one, whichever the host has.
//!
//! A host may lack a controller or forbid us to make groups. What could be applied is data that
//! callers show; nothing fails because of it.

use std::{
    io,
    path::{Path, PathBuf},
};

use fs_err as fs;
use rustix::fs::{Access, access};

/// Memory that a monitor needs besides its guest's, MiB: code, heap, translated blocks.
const MONITOR_OVERHEAD_MIB: u64 = 320;
/// How often a guest page may be charged: a child that is the first to write a page which its
/// template never touched is charged for the template's page, shared from then on, and for its
/// own copy.
const CHARGES_PER_PAGE: u64 = 2;
/// Most tasks of one monitor: vCPUs, I/O threads, the main loop.
const MOST_TASKS: u32 = 256;
/// The period of the CPU quota, µs.
const PERIOD_US: u64 = 100_000;

/// Where the host keeps its control groups.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hierarchy {
    groups: Vec<Controller>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Controller {
    kind: Kind,
    root: PathBuf,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Memory1,
    Cpu1,
    Pids1,
    Unified,
}

impl Hierarchy {
    /// Looks at what the host has mounted, and makes our own group in it.
    pub fn detect() -> Self {
        let mounts = fs::read_to_string("/proc/mounts").unwrap_or_default();
        let mut found = parse_mounts(&mounts);
        found.retain(|controller| prepare(controller).is_ok());
        Self { groups: found }
    }

    /// Which limits will be applied: some of `memory`, `cpu`, `pids`.
    pub fn limits(&self) -> Vec<&'static str> {
        let has = |kind| self.groups.iter().any(|g| g.kind == kind || g.kind == Kind::Unified);
        [(Kind::Memory1, "memory"), (Kind::Cpu1, "cpu"), (Kind::Pids1, "pids")]
            .into_iter()
            .filter(|(kind, _)| has(*kind))
            .map(|(_, name)| name)
            .collect()
    }

    /// Makes the group of one VM. What cannot be applied is left out.
    pub fn create(&self, name: &str, cpus: u32, memory_mib: u64) -> Cgroup {
        let mut paths = Vec::new();
        for controller in &self.groups {
            let path = controller.root.join(name);
            match fs::create_dir(&path) {
                Err(error) if error.kind() != io::ErrorKind::AlreadyExists => continue,
                _ => {}
            }
            for (file, value) in settings(controller.kind, cpus, memory_mib) {
                if let Err(error) = fs::write(path.join(file), value) {
                    tracing::debug!(%error, "a control group limit was not taken");
                }
            }
            paths.push(path);
        }
        Cgroup { paths }
    }

    /// Takes up the group that an earlier daemon made.
    pub fn adopt(&self, name: &str) -> Cgroup {
        let paths = self.groups.iter().map(|g| g.root.join(name)).filter(|p| p.is_dir());
        Cgroup { paths: paths.collect() }
    }

    /// Names of the groups that exist.
    pub fn existing(&self) -> Vec<String> {
        let mut names: Vec<String> = self
            .groups
            .iter()
            .filter_map(|g| fs::read_dir(&g.root).ok())
            .flatten()
            .filter_map(Result::ok)
            .filter(|e| e.file_type().is_ok_and(|t| t.is_dir()))
            .map(|e| e.file_name().to_string_lossy().into_owned())
            .collect();
        names.sort();
        names.dedup();
        names
    }
}

/// The control group of one VM.
#[derive(Debug, Clone, Default)]
pub struct Cgroup {
    paths: Vec<PathBuf>,
}

impl Cgroup {
    /// Moves a process with all of its threads into the group. Blocks for some 15 ms, because the
    /// kernel waits for a grace period, and so is done while the monitor starts.
    pub(crate) fn admit(&self, pid: i32) -> io::Result<()> {
        for path in &self.paths {
            fs::write(path.join("cgroup.procs"), pid.to_string())?;
        }
        Ok(())
    }

    /// Removes the group; all of its processes must be gone.
    ///
    /// # Errors
    /// If the group cannot be removed, for instance because a process that is dead, but was not our
    /// child, still waits to be reaped by init.
    pub fn remove(&self) -> io::Result<()> {
        for path in &self.paths {
            match fs::remove_dir(path) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
        }
        Ok(())
    }
}

fn parse_mounts(mounts: &str) -> Vec<Controller> {
    let mut found = Vec::new();
    for line in mounts.lines() {
        let fields: Vec<&str> = line.split(' ').collect();
        let [_, at, kind, options, ..] = fields[..] else { continue };
        let mut add = |kind| {
            if !found.iter().any(|c: &Controller| c.kind == kind) {
                found.push(Controller { kind, root: Path::new(at).join("bhatti") });
            }
        };
        match kind {
            "cgroup" => {
                for option in options.split(',') {
                    match option {
                        "memory" => add(Kind::Memory1),
                        "cpu" => add(Kind::Cpu1),
                        "pids" => add(Kind::Pids1),
                        _ => {}
                    }
                }
            }
            "cgroup2" => add(Kind::Unified),
            _ => {}
        }
    }
    // With version 1 controllers in use the unified hierarchy has none.
    if found.iter().any(|c| c.kind != Kind::Unified) {
        found.retain(|c| c.kind != Kind::Unified);
    }
    found
}

fn prepare(controller: &Controller) -> io::Result<()> {
    if controller.kind == Kind::Unified
        && let Some(parent) = controller.root.parent()
    {
        let wanted = "+memory +cpu +pids";
        fs::write(parent.join("cgroup.subtree_control"), wanted)?;
        fs::create_dir_all(&controller.root)?;
        return fs::write(controller.root.join("cgroup.subtree_control"), wanted);
    }
    fs::create_dir_all(&controller.root)?;
    // Root may have made it, and then it says nothing about us.
    Ok(access(&controller.root, Access::WRITE_OK)?)
}

fn settings(kind: Kind, cpus: u32, memory_mib: u64) -> Vec<(&'static str, String)> {
    let memory = ((CHARGES_PER_PAGE * memory_mib + MONITOR_OVERHEAD_MIB) << 20).to_string();
    // Half a CPU more than the guest has, for the monitor's own threads.
    let quota = u64::from(cpus) * PERIOD_US + PERIOD_US / 2;
    match kind {
        Kind::Memory1 => vec![("memory.limit_in_bytes", memory)],
        Kind::Cpu1 => vec![
            ("cpu.cfs_period_us", PERIOD_US.to_string()),
            ("cpu.cfs_quota_us", quota.to_string()),
        ],
        Kind::Pids1 => vec![("pids.max", MOST_TASKS.to_string())],
        Kind::Unified => vec![
            ("memory.max", memory),
            ("cpu.max", format!("{quota} {PERIOD_US}")),
            ("pids.max", MOST_TASKS.to_string()),
        ],
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn version_1_wins_over_an_empty_unified_mount() {
        let mounts = "cgroup /sys/fs/cgroup/memory cgroup rw,memory 0 0\n\
                      cgroup /sys/fs/cgroup/cpu,cpuacct cgroup rw,cpu,cpuacct 0 0\n\
                      cgroup2 /sys/fs/cgroup/unified cgroup2 rw 0 0\n";
        let kinds: Vec<Kind> = parse_mounts(mounts).iter().map(|c| c.kind).collect();
        assert_eq!(kinds, [Kind::Memory1, Kind::Cpu1]);
        let unified = parse_mounts("cgroup2 /sys/fs/cgroup cgroup2 rw,nosuid 0 0\n");
        assert_eq!(unified[0].root, Path::new("/sys/fs/cgroup/bhatti"));
    }

    #[test]
    fn a_monitor_has_half_a_cpu_more_than_its_guest() {
        let set = settings(Kind::Unified, 2, 1024);
        assert!(set.contains(&("cpu.max", "250000 100000".to_owned())));
        assert!(set.contains(&("memory.max", ((2 * 1024u64 + 320) << 20).to_string())));
    }
}
