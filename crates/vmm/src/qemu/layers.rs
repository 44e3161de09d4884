//! Layers of a running VM's writable disks: another on top, several made one, all made one.
//!
//! ```text
//!   guest                      guest
//!     │                          │
//!  layer-7 ◄─ written         layer-9 ◄─ written      of several disks at the same instant
//!     │          switch          │
//!  layer-3       ─────►       layer-7, never written again
//!     │                          │
//!  scratch0                   layer-3 …
//! ```
//! Nothing of this is kept here: it follows from the layers' numbers and from what the monitor says,
//! so it holds for a VM that an earlier daemon has launched.

use std::os::fd::{AsFd as _, OwnedFd};

use serde_json::{Value, json};

use super::{Vm, qmp::Event, vm::ANSWER};
use crate::{Drive, VmError};

/// The name of the job that merges.
const MERGE: &str = "merge";
/// The name of the job that flattens.
const FLATTEN: &str = "flatten";

impl Vm {
    /// Makes a new empty layer known to the monitor, not yet used. `read_write` and `read_only`
    /// are two open descriptions of the same qcow2 file.
    ///
    /// # Errors
    /// [`VmError`]; the monitor has forgotten the layer then.
    pub async fn prepare_layer(
        &self,
        drive: Drive,
        number: u32,
        read_write: OwnedFd,
        read_only: OwnedFd,
    ) -> Result<(), VmError> {
        let prepared = async {
            self.add_to_set(drive, number, read_write).await?;
            // This is what the monitor opens once there is a layer above.
            self.add_to_set(drive, number, read_only).await?;
            let node = json!({
                "driver": "qcow2", "node-name": drive.layer_node(number), "backing": null,
                "discard": "unmap", "detect-zeroes": "unmap",
                "file": {
                    "driver": "file", "filename": format!("/dev/fdset/{}", drive.layer_set(number)),
                    "locking": "off", "discard": "unmap",
                },
            });
            self.command("blockdev-add", node).await.map(drop)
        };
        let prepared = prepared.await;
        if prepared.is_err() {
            // What went wrong is told already.
            let _ = self.remove_set(drive, number).await;
        }
        prepared
    }

    /// From now on the guest writes to the prepared layers; what was on top of these disks before is
    /// never written again. The disks are switched at the same instant.
    ///
    /// # Errors
    /// [`VmError`], also while layers are being flattened; the guest goes on writing to the old tops
    /// then.
    pub async fn switch_to_layers(&self, layers: &[(Drive, u32)]) -> Result<(), VmError> {
        // The monitor flushes the old top and opens it again read-only. If it cannot, because the
        // raw disk has only one descriptor, it leaves it as it is and does not write to it either.
        let nodes = self.shown_nodes().await?;
        let mut actions = Vec::with_capacity(layers.len());
        for (drive, number) in layers {
            let old = top_of(*drive, &nodes);
            let old = old.map_or_else(|| drive.raw_node(), |top| drive.layer_node(top));
            let layers = json!({"node": old, "overlay": drive.layer_node(*number)});
            actions.push(json!({"type": "blockdev-snapshot", "data": layers}));
        }
        self.command("transaction", json!({"actions": actions})).await.map(drop)
    }

    /// Forgets a prepared layer that was not switched to.
    ///
    /// # Errors
    /// [`VmError`] if there is none, or the guest uses it.
    pub async fn drop_layer(&self, drive: Drive, number: u32) -> Result<(), VmError> {
        self.command("blockdev-del", json!({"node-name": drive.layer_node(number)})).await?;
        self.remove_set(drive, number).await
    }

    /// The layer that the guest writes to now, as the monitor says; `None` if it writes to the
    /// raw disk itself.
    pub async fn top_layer(&self, drive: Drive) -> Result<Option<u32>, VmError> {
        Ok(top_of(drive, &self.shown_nodes().await?))
    }

    /// Makes the disk that the guest sees this large, and tells the guest.
    ///
    /// # Errors
    /// [`VmError`], also if the disk is larger already or read-only.
    pub async fn grow(&self, drive: Drive, bytes: u64) -> Result<(), VmError> {
        let top = self.top_layer(drive).await?;
        let node = top.map_or_else(|| drive.raw_node(), |top| drive.layer_node(top));
        self.command("block_resize", json!({"node-name": node, "size": bytes})).await.map(drop)
    }

    /// The nodes that the guest's devices show.
    async fn shown_nodes(&self) -> Result<Vec<String>, VmError> {
        let devices = self.command("query-block", json!({})).await?;
        let devices = devices.as_array().into_iter().flatten();
        let nodes = devices.filter_map(|device| device["inserted"]["node-name"].as_str());
        Ok(nodes.map(str::to_owned).collect())
    }

    /// Merges the layers from the top down to and including `base` into `base`, which `base_file`
    /// is open for writing of. The VM must be paused and not be resumed afterwards. At every
    /// moment, also if this breaks off, the layers together read as before. Layers below `base` are
    /// only read.
    ///
    /// # Errors
    /// [`VmError`], also if `base` is none of the layers.
    pub async fn merge_layers(
        &self,
        drive: Drive,
        base: u32,
        base_file: OwnedFd,
    ) -> Result<(), VmError> {
        let Some(top) = self.top_layer(drive).await? else {
            return Err(refused("block-commit", "there are no layers"));
        };
        if top == base {
            return Ok(());
        }
        // The base is open read-only; the monitor looks in its set for what it needs.
        self.add_to_set(drive, base, base_file).await?;
        let job = json!({
            "job-id": MERGE, "device": drive.layer_node(top), "base-node": drive.layer_node(base)
        });
        self.run_job("block-commit", MERGE, job).await
    }

    /// Copies what all lower layers hold into the top one, the raw disk excepted, and closes their
    /// files. The guest may run meanwhile. If this is dropped, the monitor goes on with it.
    ///
    /// # Errors
    /// [`VmError`], also if layers are being flattened already. All layers are still needed then.
    pub async fn flatten_layers(&self, drive: Drive) -> Result<(), VmError> {
        let Some(top) = self.top_layer(drive).await? else { return Ok(()) };
        let lower = self.lower_layers(drive, top).await?;
        if lower.is_empty() {
            return Ok(());
        }
        // Without a name of ours the monitor writes its own for the base into the layer, and what
        // names a backing file is refused.
        let job = json!({
            "job-id": FLATTEN, "device": drive.layer_node(top), "base-node": drive.raw_node(),
            "backing-file": "",
        });
        self.run_job("block-stream", FLATTEN, job).await?;
        for layer in lower {
            self.drop_layer(drive, layer).await?;
        }
        Ok(())
    }

    /// The layers below `top`, highest first.
    async fn lower_layers(&self, drive: Drive, top: u32) -> Result<Vec<u32>, VmError> {
        let nodes = self.command("query-named-block-nodes", json!({})).await?;
        let mut layers: Vec<(usize, u32)> = nodes
            .as_array()
            .into_iter()
            .flatten()
            .filter_map(|node| {
                let number = drive.layer_number(node["node-name"].as_str()?)?;
                Some((backing_images(&node["image"]), number))
            })
            // One that is only prepared has nothing below it.
            .filter(|(depth, number)| *depth > 0 && *number != top)
            .collect();
        layers.sort_unstable_by(|a, b| b.cmp(a));
        Ok(layers.into_iter().map(|(_, number)| number).collect())
    }

    pub(super) async fn add_to_set(
        &self,
        drive: Drive,
        layer: u32,
        file: OwnedFd,
    ) -> Result<(), VmError> {
        self.add_fd(drive.layer_set(layer), file).await
    }

    /// Gives the monitor a descriptor of the set of this number.
    pub(super) async fn add_fd(&self, set: u32, file: OwnedFd) -> Result<(), VmError> {
        let set = json!({"fdset-id": set});
        let add = self.qmp().await?.command_with("add-fd", set, Some(file.as_fd()));
        self.guard("add-fd", ANSWER, add).await.map(drop)
    }

    async fn remove_set(&self, drive: Drive, layer: u32) -> Result<(), VmError> {
        self.remove_fds(drive.layer_set(layer)).await
    }

    /// Has the monitor close the descriptors of the set of this number.
    pub(super) async fn remove_fds(&self, set: u32) -> Result<(), VmError> {
        self.command("remove-fd", json!({"fdset-id": set})).await.map(drop)
    }

    /// Starts a job and waits for its end, however long it takes.
    async fn run_job(
        &self,
        command: &'static str,
        id: &str,
        arguments: Value,
    ) -> Result<(), VmError> {
        let qmp = self.qmp().await?;
        let mut events = qmp.events();
        self.command(command, arguments).await?;
        let done = async {
            loop {
                let Ok(Event { name, data }) = events.recv().await else {
                    return Err(refused(command, "the monitor's events were lost"));
                };
                if data["device"] != id {
                    continue;
                }
                match name.as_str() {
                    "BLOCK_JOB_READY" => {
                        qmp.command("block-job-complete", json!({"device": id})).await?;
                    }
                    "BLOCK_JOB_COMPLETED" => {
                        return match data["error"].as_str() {
                            None => Ok(()),
                            Some(error) => Err(refused(command, error)),
                        };
                    }
                    "BLOCK_JOB_CANCELLED" => {
                        return Err(refused(command, "the job was cancelled"));
                    }
                    _ => {}
                }
            }
        };
        tokio::select! {
            biased;
            done = done => done,
            ended = self.ended() => Err(ended),
        }
    }
}

/// The layer of a disk that is on top, by the nodes that devices show.
fn top_of(drive: Drive, shown: &[String]) -> Option<u32> {
    shown.iter().find_map(|node| drive.layer_number(node))
}

/// How many images lie below this one. The monitor's own number is always 0.
fn backing_images(image: &Value) -> usize {
    std::iter::successors(image.get("backing-image"), |image| image.get("backing-image")).count()
}

fn refused(command: &str, reason: &str) -> VmError {
    VmError::Refused { command: command.to_owned(), reason: reason.to_owned() }
}

#[cfg(test)]
mod tests;
