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
use crate::{Boot, Drive, Layer, Plan, VmError, cgroup::Cgroup};

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
        let Claim { run_dir, layers, state, cgroup } = claim;
        let pid = self.pid();
        let limited = tokio::task::spawn_blocking(move || cgroup.admit(pid));
        let vm = self.0.become_of(run_dir, limited, STATE.to_owned());
        match vm.take(layers, state).await {
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
    /// Gives the monitor its disk and its device state.
    async fn take(&self, layers: Vec<Layer>, state: OwnedFd) -> Result<(), VmError> {
        let numbers: Vec<u32> = layers.iter().map(|layer| layer.number).collect();
        for Layer { number, file } in layers {
            if Some(&number) == numbers.last() {
                let again = read_only(&file).map_err(VmError::io("open the top layer again"))?;
                self.add_to_set(Drive::Scratch, number, again).await?;
            }
            self.add_to_set(Drive::Scratch, number, file).await?;
        }
        let qmp = self.qmp().await?;
        // Sent together and done in this order, because each answer costs a round trip. Only one
        // descriptor may be on its way at a time: the monitor drops one that it has not looked at
        // when the next arrives.
        let opened = disk(&numbers)
            .into_iter()
            .map(|(name, arguments)| qmp.command_with(name, arguments, None));
        let held = qmp.command_with("getfd", json!({"fdname": STATE}), Some(state.as_fd()));
        let sent = async { tokio::try_join!(biased; try_join_all(opened), held) };
        self.guard("its disk", ANSWER, sent).await.map(drop)
    }
}

/// What makes layers, lowest first, the disk.
fn disk(layers: &[u32]) -> Vec<(&'static str, Value)> {
    let mut steps = Vec::new();
    let drive = Drive::Scratch;
    let mut top = drive.raw_node();
    for number in layers {
        let lower = std::mem::replace(&mut top, drive.layer_node(*number));
        let node = json!({
            "driver": "qcow2", "node-name": top, "backing": lower,
            "read-only": Some(number) != layers.last(),
            "discard": "unmap", "detect-zeroes": "unmap",
            "file": {
                "driver": "file", "filename": format!("/dev/fdset/{}", drive.layer_set(*number)),
                "locking": "off", "discard": "unmap",
            },
        });
        steps.push(("blockdev-add", node));
    }
    let path = format!("/machine/peripheral/{}", drive.device());
    steps.push(("qom-set", json!({"path": path, "property": "drive", "value": top})));
    steps
}
