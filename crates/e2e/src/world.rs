//! Whether the store equals the world: what the daemon says, and what is on the host.

use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
    time::Duration,
};

use api::{Sandbox, Snapshot, SnapshotType, Status, Volume, VolumeStatus};
use fs_err as fs;

use crate::{
    Node,
    host::{SPARE, names},
};

/// Store and world that do not agree by then never will.
const HANGS: Duration = Duration::from_secs(30);
/// How often they are compared until they do.
const LOOK: Duration = Duration::from_millis(10);

/// The admin's sandboxes, once each of them, each snapshot and each volume is in a lasting state and has on the host what that
/// state needs, and nothing else of this node is there: no monitor, socket, control group, directory
/// or half-made file. Wakes and disturbs none.
///
/// Looks again until that is so, because nothing tells of the moment when what a daemon takes up
/// after its start, or a control group that init still has to empty, has come to rest.
///
/// # Panics
/// If it never is so; `when` says where the test was.
pub async fn agreed(node: &Node, when: &str) -> Vec<Sandbox> {
    let mut client = node.admin();
    let mut again = tokio::time::interval(LOOK);
    let mut differences = Vec::new();
    let looking = async {
        loop {
            again.tick().await;
            let all = client.sandboxes(&[]).await.expect("sandboxes can be listed");
            let snapshots = client.snapshots().await.expect("snapshots can be listed");
            let volumes = client.volumes().await.expect("volumes can be listed");
            differences = compare(node, &all);
            differences.extend(compare_volumes(node, &volumes, &all));
            differences.extend(compare_snapshots(node, &snapshots));
            if differences.is_empty() {
                return all;
            }
        }
    };
    match tokio::time::timeout(HANGS, looking).await {
        Ok(all) => all,
        Err(_) => panic!("{when}: store and world differ:\n{}", differences.join("\n")),
    }
}

/// Everything in which the host is not as `all` have it.
fn compare(node: &Node, all: &[Sandbox]) -> Vec<String> {
    let mut wrong = Vec::new();
    let with = |status: &[Status]| -> BTreeSet<String> {
        all.iter().filter(|s| status.contains(&s.status)).map(|s| s.id.clone()).collect()
    };
    let known = with(&[Status::Running, Status::Stopped, Status::Failed]);
    let running = with(&[Status::Running]);
    for sandbox in all.iter().filter(|sandbox| !known.contains(&sandbox.id)) {
        wrong.push(format!("sandbox {} is {}", sandbox.id, sandbox.status));
    }
    let spares = node.keeps_spares();
    let counts = |name: &String| !(spares && name.starts_with(SPARE));
    let monitors: Vec<_> = node.monitors().into_iter().filter(|(_, id)| counts(id)).collect();
    let monitored: Vec<String> = monitors.iter().map(|(_, id)| id.clone()).collect();
    let grouped: BTreeSet<String> =
        node.groups().iter().map(|group| of_group(node, group)).filter(counts).collect();
    wrong.extend(unequal("monitors", &monitored.iter().cloned().collect(), &running));
    if monitored.len() > running.len() {
        wrong.push(format!("there are too many monitors: {monitors:?}"));
    }
    wrong.extend(unequal("control groups", &grouped, &running));
    let below = |directory: &str| names(&node.data().join(directory)).into_iter().collect();
    let run: BTreeSet<String> = below("run");
    wrong.extend(unequal("run", &run.into_iter().filter(counts).collect(), &running));
    wrong.extend(unequal("sandboxes", &below("sandboxes"), &known));
    for sandbox in all.iter().filter(|sandbox| known.contains(&sandbox.id)) {
        let directory = node.data().join("sandboxes").join(&sandbox.id);
        wrong.extend(incomplete(sandbox, &names(&directory)));
    }
    let half_made = half_made(node.data());
    wrong.extend(half_made.iter().map(|path| format!("half-made: {}", path.display())));
    wrong
}

/// Everything in which the named snapshots are not on the disk as `all` have it.
fn compare_snapshots(node: &Node, all: &[Snapshot]) -> Vec<String> {
    let directory = node.data().join("snapshots");
    let known = all.iter().map(|snapshot| snapshot.id.clone()).collect();
    let mut wrong: Vec<String> =
        unequal("snapshots", &names(&directory).into_iter().collect(), &known)
            .into_iter()
            .collect();
    for snapshot in all {
        let there = names(&directory.join(&snapshot.id));
        let memories = usize::from(snapshot.kind == SnapshotType::Memory);
        if !well_formed(&there) || count(&there, "snapshot-") != memories {
            wrong.push(format!("snapshots/{} has {there:?}", snapshot.id));
        }
    }
    wrong
}

/// Everything in which the volumes are not on the disk as `all` have it, or not had by whom the
/// sandboxes say.
fn compare_volumes(node: &Node, all: &[Volume], sandboxes: &[Sandbox]) -> Vec<String> {
    let directory = node.data().join("volumes");
    let known = all.iter().map(|volume| volume.id.clone()).collect();
    let mut wrong: Vec<String> =
        unequal("volumes", &names(&directory).into_iter().collect(), &known).into_iter().collect();
    for volume in all {
        let there = names(&directory.join(&volume.id));
        let layers = count(&there, "layer-");
        if count(&there, "disk.raw") != 1 || there.len() != layers + 1 {
            wrong.push(format!("volumes/{} has {there:?}", volume.id));
        }
        if volume.status != VolumeStatus::Ready {
            wrong.push(format!("volume {} is {}", volume.name, volume.status));
        }
        let users = volume.attachments.iter().map(|user| user.sandbox_id.clone()).collect();
        let having = |sandbox: &&Sandbox| {
            let mut its = sandbox.volumes.iter();
            its.any(|its| its.name == volume.name && its.copied_at.is_none())
        };
        let wanted = sandboxes.iter().filter(having).map(|sandbox| sandbox.id.clone()).collect();
        wrong.extend(unequal(&format!("sandboxes with volume {}", volume.name), &users, &wanted));
    }
    wrong
}

fn unequal(what: &str, found: &BTreeSet<String>, wanted: &BTreeSet<String>) -> Option<String> {
    (found != wanted).then(|| format!("{what}: {found:?} instead of {wanted:?}"))
}

/// The sandbox of a control group, which is named `<tag>-<id>`, or otherwise if the VM was not
/// started for it.
fn of_group(node: &Node, group: &Path) -> String {
    let name = group.file_name().unwrap_or_default().to_string_lossy();
    let run = node.data().join("run");
    let claimed = names(&run)
        .into_iter()
        .find(|id| fs::read_to_string(run.join(id).join("group")).is_ok_and(|group| group == name));
    if let Some(id) = claimed {
        return id;
    }
    name.split_once('-').map_or_else(|| name.to_string(), |(_, id)| id.to_owned())
}

/// What is wrong with the names in a sandbox's directory.
fn incomplete(sandbox: &Sandbox, there: &[String]) -> Vec<String> {
    let snapshots = count(there, "snapshot-");
    let mut wrong = Vec::new();
    // The newest, and perhaps the one before as a second way back.
    if !well_formed(there) || snapshots > 2 {
        wrong.push(format!("sandboxes/{} has {there:?}", sandbox.id));
    }
    if sandbox.status == Status::Stopped && snapshots == 0 {
        wrong.push(format!("sandbox {} is stopped and has only {there:?}", sandbox.id));
    }
    wrong
}

/// Whether a directory has what every disk has, and nothing strange.
fn well_formed(there: &[String]) -> bool {
    let (origins, layers) = (count(there, "origin.json"), count(there, "layer-"));
    let lists = count(there, "layers.json");
    let volumes = count(there, "volume-");
    let strange = there.len() - layers - count(there, "snapshot-") - origins - lists - volumes;
    origins == 1 && layers > 0 && lists < 2 && strange == 0
}

fn count(names: &[String], prefix: &str) -> usize {
    names.iter().filter(|name| name.starts_with(prefix)).count()
}

/// Files and directories of the data directory that were not committed. What it has from elsewhere
/// is left out.
fn half_made(directory: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(directory).into_iter().flatten().filter_map(Result::ok) {
        let own_directory = entry.file_type().is_ok_and(|kind| kind.is_dir());
        if entry.file_name().to_string_lossy().starts_with(".tmp-") {
            found.push(entry.path());
        } else if own_directory {
            found.extend(half_made(&entry.path()));
        }
    }
    found
}
