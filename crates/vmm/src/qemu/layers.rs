//! Layers of a running VM's writable disk: adding, switching, merging, flattening.

use std::os::fd::{AsFd as _, OwnedFd};

use serde_json::{Value, json};

use super::{
    Vm,
    argv::{RAW_DISK, layer_node, layer_set},
    qmp::{Event, Qmp},
};
use crate::VmError;

/// The name of the job that merges.
const MERGE: &str = "merge";
/// The name of the job that flattens.
const FLATTEN: &str = "flatten";

impl Vm {
    /// Makes a new empty layer known to the monitor, not yet used. `read_write` and `read_only`
    /// are two open descriptions of the same qcow2 file.
    pub async fn prepare_layer(
        &self,
        number: u32,
        read_write: OwnedFd,
        read_only: OwnedFd,
    ) -> Result<(), VmError> {
        let qmp = self.qmp().await?;
        let set = json!({"fdset-id": layer_set(number)});
        for fd in [&read_write, &read_only] {
            qmp.command_with("add-fd", set.clone(), Some(fd.as_fd())).await?;
        }
        let node = json!({
            "driver": "qcow2", "node-name": layer_node(number), "backing": null,
            "discard": "unmap", "detect-zeroes": "unmap",
            "file": {
                "driver": "file", "filename": format!("/dev/fdset/{}", layer_set(number)),
                "locking": "off", "discard": "unmap",
            },
        });
        qmp.command("blockdev-add", node).await.map(drop)
    }

    /// From now on the guest writes to the prepared layer; what was on top before is never
    /// written again.
    pub async fn switch_to_layer(&self, number: u32) -> Result<(), VmError> {
        let old = self.top_layer().await?.map_or_else(|| RAW_DISK.to_owned(), layer_node);
        let layers = json!({"node": old, "overlay": layer_node(number)});
        self.qmp().await?.command("blockdev-snapshot", layers).await.map(drop)
    }

    /// Forgets a prepared layer that was not switched to.
    pub async fn drop_layer(&self, number: u32) -> Result<(), VmError> {
        let qmp = self.qmp().await?;
        qmp.command("blockdev-del", json!({"node-name": layer_node(number)})).await?;
        qmp.command("remove-fd", json!({"fdset-id": layer_set(number)})).await.map(drop)
    }

    /// The layer that the guest writes to now, as the monitor says; `None` if it writes to the
    /// raw disk itself.
    pub async fn top_layer(&self) -> Result<Option<u32>, VmError> {
        let devices = self.qmp().await?.command("query-block", json!({})).await?;
        let nodes = devices.as_array().into_iter().flatten();
        let mut names = nodes.filter_map(|device| device["inserted"]["node-name"].as_str());
        Ok(names.find_map(|name| name.strip_prefix("layer-")?.parse().ok()))
    }

    /// Merges the layers from the top down to and including `base` into `base`, which `base_file`
    /// is open for writing of. The VM must be paused and not be resumed afterwards. At every
    /// moment, also if this breaks off, the layers together read as before.
    pub async fn merge_layers(&self, base: u32, base_file: OwnedFd) -> Result<(), VmError> {
        let Some(top) = self.top_layer().await? else {
            return Err(refused("block-commit", "there are no layers"));
        };
        if top == base {
            return Ok(());
        }
        let qmp = self.qmp().await?;
        let set = json!({"fdset-id": layer_set(base)});
        qmp.command_with("add-fd", set, Some(base_file.as_fd())).await?;
        let job = json!({
            "job-id": MERGE, "device": layer_node(top), "base-node": layer_node(base)
        });
        self.job(qmp, "block-commit", MERGE, job).await
    }

    /// Copies what all lower layers (not the raw disk) hold into the top one, so that they are not
    /// needed any more. The guest may run meanwhile.
    pub async fn flatten_layers(&self) -> Result<(), VmError> {
        let Some(top) = self.top_layer().await? else { return Ok(()) };
        let qmp = self.qmp().await?;
        let job = json!({"job-id": FLATTEN, "device": layer_node(top), "base-node": RAW_DISK});
        self.job(qmp, "block-stream", FLATTEN, job).await
    }

    async fn job(
        &self,
        qmp: &Qmp,
        command: &'static str,
        id: &str,
        arguments: Value,
    ) -> Result<(), VmError> {
        let mut events = qmp.events();
        qmp.command(command, arguments).await?;
        let done = async {
            loop {
                let Ok(Event { name, data }) = events.recv().await else {
                    return Err(refused(command, "the monitor's events were lost"));
                };
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

fn refused(command: &str, reason: &str) -> VmError {
    VmError::Refused { command: command.to_owned(), reason: reason.to_owned() }
}
