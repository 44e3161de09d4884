//! The end of a VM that nobody asked for, and of a sandbox.

use base::{clock, fault, process::Exit};
use vmm::{Vm, VmError};

use super::{Driver, Phase};
use crate::{Error, Kind, Result, model::Failure, node::blocking, record::State};

/// Why something could not be done with a VM: if it is gone, that is why.
pub(super) async fn blame(vm: &Vm, error: Error) -> Error {
    match error.kind {
        Kind::Internal => vm.gone().await.map_or(error, Error::from),
        _ => error,
    }
}

/// A sandbox that is no more.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Destroyed {
    /// What did not go as it should have, though the sandbox is gone.
    pub warning: Option<String>,
}

impl Driver {
    /// The VM is gone and nobody asked for it.
    pub(super) async fn vm_ended(&mut self, error: VmError) {
        tracing::warn!(sandbox = %self.record.id, error = base::chain(&error), "the VM ended");
        let cause = match error {
            VmError::Ended { exit: Exit::Code(0), .. } => {
                "the guest turned itself off, rebooted or panicked".to_owned()
            }
            other => other.to_string(),
        };
        self.fail(cause).await;
    }

    pub(super) async fn fail(&mut self, cause: String) {
        if let Some(live) = self.phase.take_live() {
            live.vm.kill().await;
        }
        self.node.clean_run(self.record.id.as_str());
        self.node.networking.rests(&self.record, true);
        let taken_at = match self.directory.snapshot() {
            Ok(Some(snapshot)) => Some(snapshot.manifest.facts.taken_at),
            _ => None,
        };
        let failure = Failure { cause, snapshot_taken_at: taken_at };
        self.phase = Phase::Failed;
        if let Err(error) = self.enter(State::Failed(failure)).await {
            tracing::error!(sandbox = %self.record.id, error = base::chain(&error),
                "a failed sandbox could not be recorded");
            self.show();
        }
    }

    /// Removes the sandbox. From the moment that this is recorded it can only be repeated, by its
    /// owner or by the next start of the daemon.
    /// What it had of volumes it leaves whole; if that cannot be, it says so.
    pub(super) async fn destroy(&mut self) -> Result<Destroyed> {
        if !matches!(self.record.state, State::Destroying) {
            self.enter(State::Destroying).await?;
        }
        let _ = fault::point("destroy.recorded");
        let warning = self.leave_volumes().await;
        self.remove_all().await?;
        Ok(Destroyed { warning })
    }

    /// Removes everything that there is of the sandbox. What cannot be removed now keeps its row.
    pub(super) async fn remove_all(&mut self) -> Result<()> {
        if let Some(live) = self.phase.take_live() {
            live.vm.kill().await;
        }
        self.phase = Phase::Gone;
        self.node.networking.left(&self.record).await;
        let name = self.record.id.as_str().to_owned();
        self.node.clean_run(&name);
        let _ = fault::point("destroy.killed");
        let directory = self.directory.clone();
        let removed = blocking(move || directory.remove()).await;
        let removed = match removed {
            Ok(()) => self.node.store.delete_sandbox(&self.record.id).await,
            Err(error) => Err(error),
        };
        match &removed {
            Ok(()) => self.node.registry.remove(&self.record.id),
            Err(error) => tracing::error!(
                sandbox = name,
                error = base::chain(error),
                "a destroyed sandbox is not wholly removed yet"
            ),
        }
        removed
    }

    pub(super) fn not_running(&self, what: &str) -> Error {
        let name = &self.record.name;
        match &self.record.state {
            State::Failed(failure) => self.failed_error(failure),
            _ => Error::new(
                Kind::WrongState,
                format!("{name} is not running, so it cannot be {what}"),
            )
            .hint(format!("start it: bhatti start {name}")),
        }
    }

    fn failed_error(&self, failure: &Failure) -> Error {
        let name = &self.record.name;
        let hint = match failure.snapshot_taken_at {
            Some(at) => {
                let ago = (clock::unix_seconds() - at).max(0);
                format!(
                    "go on from its disk (processes are lost): bhatti start {name} --from disk, or \
                     from its snapshot of {ago} s ago (later changes are lost): bhatti start \
                     {name} --from snapshot"
                )
            }
            None => format!("go on from its disk (processes are lost): bhatti start {name}"),
        };
        Error::new(Kind::SandboxFailed, format!("{name} has failed: {}", failure.cause)).hint(hint)
    }
}
