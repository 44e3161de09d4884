//! Taking a sandbox up after the daemon was away.

use std::sync::Arc;

use base::process::Process;
use vmm::{Vm, VmHandle};

use super::{Driver, Live, Phase};
use crate::{
    Result,
    guest::{Channel, Patience},
    record::State,
    sandbox_dir::{Facts, Snapshot},
};

impl Driver {
    /// Makes the store and the world agree; says whether the sandbox goes on.
    pub(super) async fn recover(&mut self) -> bool {
        match self.record.state.clone() {
            State::Creating | State::Destroying => {
                return self.remove_all().await.is_err();
            }
            State::Stopped { .. } | State::Failed(_) => {
                if let Ok(Some(snapshot)) = self.directory.snapshot() {
                    self.set_resting(snapshot.resting().map(Arc::new));
                }
                if let Err(error) = self.directory.sweep() {
                    tracing::warn!(sandbox = %self.record.id, error = base::chain(&error),
                        "half-made files could not be removed");
                }
                self.node.clean_run(self.record.id.as_str());
                self.show();
            }
            State::Running { pid, start_time, paused } => {
                self.take_up(VmHandle { pid, start_time }, paused).await;
            }
        }
        true
    }

    async fn take_up(&mut self, handle: VmHandle, paused: bool) {
        let swept = self.directory.sweep();
        let run_dir = self.node.layout.run(self.record.id.as_str());
        match Vm::adopt(handle, run_dir) {
            Ok(Some(vm)) => {
                if let Err(error) = self.vouch_for(vm, paused).await {
                    tracing::warn!(sandbox = %self.record.id, error = base::chain(&error),
                        "a running VM could not be vouched for");
                    let cause =
                        format!("the VM did not prove itself after the daemon's restart: {error}");
                    self.settle(handle, cause).await;
                } else {
                    tracing::info!(sandbox = %self.record.id, pid = handle.pid, "VM taken up");
                }
            }
            Ok(None) => {
                let cause = "the VM ended while the daemon was not running".to_owned();
                self.settle(handle, cause).await;
            }
            Err(error) => self.settle(handle, base::chain(&error)).await,
        }
        if let Err(error) = swept {
            tracing::warn!(error = base::chain(&error), "half-made files could not be removed");
        }
    }

    /// There is no VM to go on with; what there may be of one is ended. If that was in the middle of
    /// a stop that had already put everything on disk, the stop is simply complete.
    async fn settle(&mut self, handle: VmHandle, cause: String) {
        if let Some(live) = self.phase.take_live() {
            live.vm.kill().await;
        } else if let Ok(Some(rest)) = Process::adopt(handle.pid, handle.start_time) {
            rest.kill_and_wait().await;
        }
        self.settle_without_vm(cause).await;
    }

    /// The VM is gone: what is on disk says what the sandbox is now.
    pub(super) async fn settle_without_vm(&mut self, cause: String) {
        if let Err(error) = self.directory.drop_blank_layers() {
            tracing::warn!(sandbox = %self.record.id, error = base::chain(&error),
                "the disk's layers could not be looked through");
        }
        match self.complete_snapshot() {
            Some(snapshot) => self.finish_stop(&snapshot).await,
            None => self.fail(cause).await,
        }
    }

    /// When a snapshot was committed that covers the disk as it is now, if so. A VM that is still
    /// there must then not run on: it would write to what the snapshot holds.
    fn complete_snapshot(&self) -> Option<Snapshot> {
        let snapshot = self.directory.snapshot().ok()??;
        let layers = self.directory.layers().ok()?;
        (layers == snapshot.manifest.facts.layers).then_some(snapshot)
    }

    async fn finish_stop(&mut self, snapshot: &Snapshot) {
        self.node.clean_run(self.record.id.as_str());
        self.phase = Phase::Cold;
        self.set_resting(snapshot.resting().map(Arc::new));
        let Facts { taken_at: since, by, .. } = snapshot.manifest.facts;
        if let Err(error) = self.enter(State::Stopped { since, by }).await {
            tracing::error!(error = base::chain(&error), "a state could not be recorded");
        }
    }

    async fn vouch_for(&mut self, vm: Vm, paused: bool) -> Result<()> {
        let running = match vm.is_running().await {
            Ok(running) => running,
            Err(error) => {
                self.phase = Phase::Hot(Live::new(vm, None));
                return Err(error.into());
            }
        };
        if !running && let Some(snapshot) = self.complete_snapshot() {
            vm.kill().await;
            self.finish_stop(&snapshot).await;
            return Ok(());
        }
        self.drop_unused_layers(&vm).await;
        if running {
            self.keep_resting(None);
            self.phase = Phase::Hot(Live::new(vm, None));
            return self.challenge().await;
        }
        // Whatever the store says: a pause is only noted, and a stop may have been under way. A
        // paused guest cannot answer; it is challenged when it is resumed.
        self.phase = Phase::Warm(Live::new(vm, None));
        let resting = self.kept_resting();
        self.set_resting(resting);
        if paused {
            self.show();
        } else {
            self.note(self.running_state(true)?).await;
        }
        Ok(())
    }

    async fn challenge(&mut self) -> Result<()> {
        if let Phase::Hot(live) = &mut self.phase {
            let channel = Channel::open(&live.vm, Patience::Running).await?;
            let jobs = channel.meet(self.record.id.as_str(), &self.record.identity).await?;
            self.awake.met(channel.session(), jobs);
            live.channel = Some(channel);
        }
        let state = self.running_state(false)?;
        self.enter(state).await
    }
}
