//! Monitors that are started before it is known for whom.
//!
//! Starting QEMU takes longer than all else that a restored VM needs. What it takes of a template is
//! the same for all of its children: the shape, the memory, the image. What is a sandbox's own is
//! given to it over its control socket: the disk's layers and the device state, and with them begins
//! what [`crate::Boot::RestoreLater`] would have begun.

use std::{
    os::fd::{AsFd as _, OwnedFd},
    path::PathBuf,
};

use futures_util::future::try_join_all;
use serde_json::{Value, json};

use super::{Qemu, Vm, launch::read_only, vm::ANSWER};
use crate::{Boot, Drive, Layer, Plan, VmError, Volume, cgroup::Cgroup};

/// Under which name the monitor holds the device state.
const STATE: &str = "state";

/// A monitor that nobody has claimed yet. Dropped, it is killed.
#[derive(Debug)]
pub struct Spare(Vm);

/// Whose a spare monitor becomes.
#[derive(Debug)]
pub struct Claim {
    /// Where its control sockets are now. They were made in another directory, which was renamed.
    pub run_dir: PathBuf,
    /// qcow2 layers of the disk, lowest first; only the last is written.
    pub layers: Vec<Layer>,
    /// Its volumes, as many as the monitor was started for and as they were said to be written or not.
    /// None if they are not known yet either: [`Vm::attach`].
    pub volumes: Vec<Volume>,
    /// The device state, at offset 0 of an open description that nobody else reads.
    pub state: OwnedFd,
    /// The control group that it joins.
    pub cgroup: Cgroup,
}

impl Qemu {
    /// Starts a monitor for whoever will claim it. How `plan` begins and its layers do not matter.
    ///
    /// # Errors
    /// As for [`launch`](Self::launch).
    pub fn prepare(&self, plan: Plan) -> Result<Spare, VmError> {
        let disks = crate::Disks { layers: Vec::new(), ..plan.disks };
        self.launch(Plan { boot: Boot::Awaited, disks, ..plan }).map(Spare)
    }
}

impl Spare {
    /// Waits until the monitor can be claimed without waiting for it.
    ///
    /// # Errors
    /// [`VmError`] if it ended, or does not answer.
    pub async fn ready(&self) -> Result<(), VmError> {
        self.0.answers().await
    }

    /// The monitor's process id.
    pub fn pid(&self) -> i32 {
        self.0.handle().pid
    }

    /// Makes the monitor a VM that waits for [`Vm::load`].
    ///
    /// # Errors
    /// [`VmError`]; the monitor is killed then.
    pub async fn claim(self, claim: Claim) -> Result<Vm, VmError> {
        let Claim { run_dir, layers, volumes, state, cgroup } = claim;
        let pid = self.pid();
        let limited = tokio::task::spawn_blocking(move || cgroup.admit(pid));
        let vm = self.0.become_of(run_dir, limited, STATE.to_owned());
        match vm.take(layers, volumes, state).await {
            Ok(()) => Ok(vm),
            Err(error) => {
                vm.kill().await;
                Err(error)
            }
        }
    }

    /// Ends the monitor and waits until it is gone.
    pub async fn kill(self) {
        self.0.kill().await;
    }
}

impl Vm {
    /// Shows a guest volumes where so far it was [awaited](Volume::Awaited) which they are; places that are
    /// still awaited, and those behind the last, stay. The guest must not be using their devices.
    ///
    /// # Errors
    /// [`VmError`]; the VM is of no use then.
    pub async fn attach(&self, volumes: Vec<Volume>) -> Result<(), VmError> {
        let steps = self.open_volumes(volumes).await?;
        let qmp = self.qmp().await?;
        let sent = steps.into_iter().map(|(name, what)| qmp.command_with(name, what, None));
        self.guard("its volumes", ANSWER, try_join_all(sent)).await.map(drop)
    }

    /// Takes a volume away, whose layers these are, so that it is as if it had never been there. The guest
    /// must not be using its device, but has to run.
    ///
    /// # Errors
    /// [`VmError`]; the VM is of no use then.
    pub async fn detach(&self, slot: u32, layers: &[u32]) -> Result<(), VmError> {
        let drive = Drive::Volume(slot);
        let (name, arguments) = show(drive, &drive.awaited_node());
        self.command(name, arguments).await?;
        for number in layers.iter().rev() {
            self.drop_layer(drive, *number).await?;
        }
        self.command("blockdev-del", json!({"node-name": drive.raw_node()})).await?;
        self.remove_fds(drive.raw_set()).await
    }

    /// Gives the monitor its disks and its device state.
    async fn take(
        &self,
        layers: Vec<Layer>,
        volumes: Vec<Volume>,
        state: OwnedFd,
    ) -> Result<(), VmError> {
        let mut steps =
            disk(Drive::Scratch, &self.open_layers(Drive::Scratch, layers, true).await?);
        steps.extend(self.open_volumes(volumes).await?);
        let qmp = self.qmp().await?;
        // Sent together and done in this order, because each answer costs a round trip. Only one
        // descriptor may be on its way at a time: the monitor drops one that it has not looked at
        // when the next arrives.
        let opened =
            steps.into_iter().map(|(name, arguments)| qmp.command_with(name, arguments, None));
        let held = qmp.command_with("getfd", json!({"fdname": STATE}), Some(state.as_fd()));
        let sent = async { tokio::try_join!(biased; try_join_all(opened), held) };
        self.guard("its disk", ANSWER, sent).await.map(drop)
    }

    /// Gives the monitor the files of volumes. Returns what makes them disks.
    async fn open_volumes(&self, volumes: Vec<Volume>) -> Result<Vec<Step>, VmError> {
        let mut steps = Vec::new();
        for (slot, volume) in (0..).zip(volumes) {
            let drive = Drive::Volume(slot);
            let Volume::Kept { raw, layers, read_only } = volume else { continue };
            self.add_fd(drive.raw_set(), raw).await?;
            steps.push(open_raw(drive));
            let layers = self.open_layers(drive, layers, !read_only).await?;
            steps.extend(disk(drive, &layers));
        }
        Ok(steps)
    }

    /// Gives the monitor the files of layers, of which the last is written if any is.
    async fn open_layers(
        &self,
        drive: Drive,
        layers: Vec<Layer>,
        written: bool,
    ) -> Result<Opened, VmError> {
        let numbers: Vec<u32> = layers.iter().map(|layer| layer.number).collect();
        for Layer { number, file } in layers {
            if written && Some(&number) == numbers.last() {
                let again = read_only(&file).map_err(VmError::io("open the top layer again"))?;
                self.add_to_set(drive, number, again).await?;
            }
            self.add_to_set(drive, number, file).await?;
        }
        Ok(Opened { numbers, written })
    }
}

/// A command for the monitor and its arguments.
type Step = (&'static str, Value);

/// Layers whose files a monitor has.
struct Opened {
    /// Lowest first.
    numbers: Vec<u32>,
    /// Whether the last is written.
    written: bool,
}

/// What makes the file of a volume's raw disk known, which is never written.
fn open_raw(drive: Drive) -> Step {
    let node = json!({
        "driver": "raw", "node-name": drive.raw_node(), "read-only": true,
        "discard": "unmap", "detect-zeroes": "unmap",
        "file": file(drive.raw_set()),
    });
    ("blockdev-add", node)
}

/// What makes layers the disk.
fn disk(drive: Drive, layers: &Opened) -> Vec<Step> {
    let mut steps = Vec::new();
    let mut top = drive.raw_node();
    for number in &layers.numbers {
        let lower = std::mem::replace(&mut top, drive.layer_node(*number));
        let written = layers.written && Some(number) == layers.numbers.last();
        let node = json!({
            "driver": "qcow2", "node-name": top, "backing": lower, "read-only": !written,
            "discard": "unmap", "detect-zeroes": "unmap",
            "file": file(drive.layer_set(*number)),
        });
        steps.push(("blockdev-add", node));
    }
    steps.push(show(drive, &top));
    steps
}

/// What makes a device show a node.
fn show(drive: Drive, node: &str) -> Step {
    let path = format!("/machine/peripheral/{}", drive.device());
    ("qom-set", json!({"path": path, "property": "drive", "value": node}))
}

fn file(set: u32) -> Value {
    json!({
        "driver": "file", "filename": format!("/dev/fdset/{set}"), "locking": "off",
        "discard": "unmap",
    })
}
