//! The end of a VM that nobody asked for, and of a sandbox.

use base::{clock, fault, process::Exit};
use vmm::VmError;

use super::{Driver, Phase};
use crate::{Error, Kind, Result, model::Failure, node::blocking, record::State};

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

    pub(super) async fn destroy(&mut self) -> Result<()> {
        self.enter(State::Destroying).await?;
        fault::point("destroy.recorded")?;
        if let Some(live) = self.phase.take_live() {
            live.vm.kill().await;
        }
        self.phase = Phase::Gone;
        self.remove_all().await;
        Ok(())
    }

    /// Removes everything that there is of the sandbox. What cannot be removed now keeps its row,
    /// so that the next start of the daemon tries again.
    pub(super) async fn remove_all(&mut self) {
        if let Some(live) = self.phase.take_live() {
            live.vm.kill().await;
        }
        let name = self.record.id.as_str().to_owned();
        self.node.clean_run(&name);
        let _ = fault::point("destroy.killed");
        let directory = self.directory.clone();
        let removed = blocking(move || directory.remove()).await;
        let removed = match removed {
            Ok(()) => self.node.store.delete_sandbox(&self.record.id).await,
            Err(error) => Err(error),
        };
        if let Err(error) = removed {
            tracing::error!(
                sandbox = name,
                error = base::chain(&error),
                "a destroyed sandbox is not wholly removed yet"
            );
        }
        self.node.registry.remove(&self.record.id);
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
