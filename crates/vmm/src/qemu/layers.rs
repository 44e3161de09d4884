//! Layers of a running VM's writable disk: another on top, several made one, all made one.
//!
//! ```text
//!   guest                      guest
//!     │                          │
//!  layer-7 ◄─ written         layer-9 ◄─ written      the descriptor set of layer-n is 2000 + n
//!     │          switch          │
//!  layer-3       ─────►       layer-7, never written again
//!     │                          │
//!  scratch0                   layer-3 …
//! ```
//! Nothing of this is kept here: it follows from the layers' numbers and from what the monitor says,
//! so it holds for a VM that an earlier daemon has launched.

use std::os::fd::{AsFd as _, OwnedFd};

use serde_json::{Value, json};

use super::{
    Vm,
    argv::{RAW_DISK, layer_node, layer_number, layer_set},
    qmp::Event,
    vm::ANSWER,
};
use crate::VmError;

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
        number: u32,
        read_write: OwnedFd,
        read_only: OwnedFd,
    ) -> Result<(), VmError> {
        let prepared = async {
            self.add_to_set(number, read_write).await?;
            // This is what the monitor opens once there is a layer above.
            self.add_to_set(number, read_only).await?;
            let node = json!({
                "driver": "qcow2", "node-name": layer_node(number), "backing": null,
                "discard": "unmap", "detect-zeroes": "unmap",
                "file": {
                    "driver": "file", "filename": format!("/dev/fdset/{}", layer_set(number)),
                    "locking": "off", "discard": "unmap",
                },
            });
            self.command("blockdev-add", node).await.map(drop)
        };
        let prepared = prepared.await;
        if prepared.is_err() {
            // What went wrong is told already.
            let _ = self.remove_set(number).await;
        }
        prepared
    }

    /// From now on the guest writes to the prepared layer; what was on top before is never
    /// written again.
    ///
    /// # Errors
    /// [`VmError`], also while layers are being flattened; the guest goes on writing to the old top
    /// then.
    pub async fn switch_to_layer(&self, number: u32) -> Result<(), VmError> {
        // The monitor flushes the old top and opens it again read-only. If it cannot, because the
        // raw disk has only one descriptor, it leaves it as it is and does not write to it either.
        let old = self.top_layer().await?.map_or_else(|| RAW_DISK.to_owned(), layer_node);
        let layers = json!({"node": old, "overlay": layer_node(number)});
        self.command("blockdev-snapshot", layers).await.map(drop)
    }

    /// Forgets a prepared layer that was not switched to.
    ///
    /// # Errors
    /// [`VmError`] if there is none, or the guest uses it.
    pub async fn drop_layer(&self, number: u32) -> Result<(), VmError> {
        self.command("blockdev-del", json!({"node-name": layer_node(number)})).await?;
        self.remove_set(number).await
    }

    /// The layer that the guest writes to now, as the monitor says; `None` if it writes to the
    /// raw disk itself.
    pub async fn top_layer(&self) -> Result<Option<u32>, VmError> {
        let devices = self.command("query-block", json!({})).await?;
        let devices = devices.as_array().into_iter().flatten();
        let mut nodes = devices.filter_map(|device| device["inserted"]["node-name"].as_str());
        Ok(nodes.find_map(layer_number))
    }

    /// Merges the layers from the top down to and including `base` into `base`, which `base_file`
    /// is open for writing of. The VM must be paused and not be resumed afterwards. At every
    /// moment, also if this breaks off, the layers together read as before. Layers below `base` are
    /// only read.
    ///
    /// # Errors
    /// [`VmError`], also if `base` is none of the layers.
    pub async fn merge_layers(&self, base: u32, base_file: OwnedFd) -> Result<(), VmError> {
        let Some(top) = self.top_layer().await? else {
            return Err(refused("block-commit", "there are no layers"));
        };
        if top == base {
            return Ok(());
        }
        // The base is open read-only; the monitor looks in its set for what it needs.
        self.add_to_set(base, base_file).await?;
        let job = json!({
            "job-id": MERGE, "device": layer_node(top), "base-node": layer_node(base)
        });
        self.run_job("block-commit", MERGE, job).await
    }

    /// Copies what all lower layers hold into the top one, the raw disk excepted, and closes their
    /// files. The guest may run meanwhile. If this is dropped, the monitor goes on with it.
    ///
    /// # Errors
    /// [`VmError`], also if layers are being flattened already. All layers are still needed then.
    pub async fn flatten_layers(&self) -> Result<(), VmError> {
        let Some(top) = self.top_layer().await? else { return Ok(()) };
        let lower = self.lower_layers(top).await?;
        if lower.is_empty() {
            return Ok(());
        }
        // Without a name of ours the monitor writes its own for the base into the layer, and what
        // names a backing file is refused.
        let job = json!({
            "job-id": FLATTEN, "device": layer_node(top), "base-node": RAW_DISK,
            "backing-file": "",
        });
        self.run_job("block-stream", FLATTEN, job).await?;
        for layer in lower {
            self.drop_layer(layer).await?;
        }
        Ok(())
    }

    /// The layers below `top`, highest first.
    async fn lower_layers(&self, top: u32) -> Result<Vec<u32>, VmError> {
        let nodes = self.command("query-named-block-nodes", json!({})).await?;
        let mut layers: Vec<(usize, u32)> = nodes
            .as_array()
            .into_iter()
            .flatten()
            .filter_map(|node| {
                let number = layer_number(node["node-name"].as_str()?)?;
                Some((backing_images(&node["image"]), number))
            })
            // One that is only prepared has nothing below it.
            .filter(|(depth, number)| *depth > 0 && *number != top)
            .collect();
        layers.sort_unstable_by(|a, b| b.cmp(a));
        Ok(layers.into_iter().map(|(_, number)| number).collect())
    }

    pub(super) async fn add_to_set(&self, layer: u32, file: OwnedFd) -> Result<(), VmError> {
        let set = json!({"fdset-id": layer_set(layer)});
        let add = self.qmp().await?.command_with("add-fd", set, Some(file.as_fd()));
        self.guard("add-fd", ANSWER, add).await.map(drop)
    }

    async fn remove_set(&self, layer: u32) -> Result<(), VmError> {
        self.command("remove-fd", json!({"fdset-id": layer_set(layer)})).await.map(drop)
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

/// How many images lie below this one. The monitor's own number is always 0.
fn backing_images(image: &Value) -> usize {
    std::iter::successors(image.get("backing-image"), |image| image.get("backing-image")).count()
}

fn refused(command: &str, reason: &str) -> VmError {
    VmError::Refused { command: command.to_owned(), reason: reason.to_owned() }
}

#[cfg(test)]
mod tests;
