//! Merging the layers of a paused VM's writable disk.

use serde_json::json;

use super::{Vm, qmp::Event};
use crate::VmError;

/// The job's name.
const JOB: &str = "merge";

impl Vm {
    /// Merges all layers of the writable disk into the lowest one; there are `layers` of them, and
    /// the VM was launched for merging. It must be paused and not be resumed afterwards. At every
    /// moment, also if this breaks off, the layers together read as before.
    pub async fn merge_layers(&self, layers: usize) -> Result<(), VmError> {
        let qmp = self.qmp().await?;
        let mut events = qmp.events();
        let job = json!({
            "job-id": JOB, "device": format!("scratch{layers}"), "base-node": "scratch1"
        });
        qmp.command("block-commit", job).await?;
        let merged = async {
            loop {
                let Ok(Event { name, data }) = events.recv().await else {
                    return Err(refused("the monitor's events were lost"));
                };
                match name.as_str() {
                    "BLOCK_JOB_READY" => {
                        qmp.command("block-job-complete", json!({"device": JOB})).await?;
                    }
                    "BLOCK_JOB_COMPLETED" => {
                        return match data["error"].as_str() {
                            None => Ok(()),
                            Some(error) => Err(refused(error)),
                        };
                    }
                    "BLOCK_JOB_CANCELLED" => return Err(refused("the job was cancelled")),
                    _ => {}
                }
            }
        };
        tokio::select! {
            biased;
            merged = merged => merged,
            ended = self.ended() => Err(ended),
        }
    }
}

fn refused(reason: &str) -> VmError {
    VmError::Refused { command: "block-commit".to_owned(), reason: reason.to_owned() }
}
