//! From memory to disk.

use std::path::Path;

use base::{fault, files};
use proto::message::Resting;
use vmm::Vm;

use super::{Driver, Live, Phase, end::blame};
use crate::{
    Result,
    model::StoppedBy,
    node::blocking,
    record::State,
    sandbox_dir::{Facts, Snapshot},
    template,
};

impl Driver {
    /// Puts the whole VM on disk and frees its memory. If that fails the sandbox runs on.
    pub(super) async fn stop(&mut self, by: StoppedBy) -> Result<()> {
        match &self.phase {
            Phase::Cold => return self.stopped_by(by).await,
            // The agent has to notice that we hang up, so the guest must run for a moment.
            Phase::Warm(_) => {
                let thawed = self.thaw().await;
                if thawed.is_err() {
                    self.show_again();
                }
                thawed?;
            }
            Phase::Hot(_) => {}
            Phase::Beginning | Phase::Failed | Phase::Gone => {
                return Err(self.not_running("stopped"));
            }
        }
        self.shut().await;
        let resting = self.come_to_rest(true).await;
        if let Err(error) = self.settle_volumes().await {
            // They are in its memory, from where they go on.
            tracing::warn!(sandbox = %self.record.id, error = base::chain(&error),
                "volumes are not settled, so nobody but the sandbox should go on with them");
        }
        let Some(Live { vm, channel, .. }) = self.phase.take_live() else {
            return Err(self.not_running("stopped"));
        };
        if let Some(channel) = channel
            && !channel.hang_up(&vm).await
        {
            tracing::debug!(sandbox = %self.record.id, "the guest did not notice that we hung up");
        }
        // Recorded while the VM could still go on, so that what cannot be recorded has not happened.
        let saved = match self.save(&vm, by, resting.as_deref()).await {
            Ok(snapshot) => {
                let since = snapshot.manifest.facts.taken_at;
                self.keep(State::Stopped { since, by }).await.map(|()| snapshot)
            }
            Err(error) => Err(error),
        };
        match saved {
            Ok(snapshot) => {
                self.shorten(&vm, &snapshot).await;
                vm.kill().await;
                self.node.clean_run(self.record.id.as_str());
                self.phase = Phase::Cold;
                self.node.networking.rests(&self.record, false);
                self.set_resting(resting);
                self.show();
                Ok(())
            }
            Err(error) => {
                let error = blame(&vm, error).await;
                self.go_on_after_failed_stop(vm).await;
                Err(error)
            }
        }
    }

    /// A sandbox that sleeps by itself may now be stopped by its owner, and not the other way.
    async fn stopped_by(&mut self, by: StoppedBy) -> Result<()> {
        match self.record.state {
            State::Stopped { since, by: StoppedBy::Idleness } if by == StoppedBy::Owner => {
                self.enter(State::Stopped { since, by }).await
            }
            _ => Ok(()),
        }
    }

    /// Keeps the number of layers within bounds. A failure leaves more layers, no damage.
    async fn shorten(&self, vm: &Vm, snapshot: &Snapshot) {
        let shortened = async {
            let layers = &snapshot.manifest.facts.layers;
            let how = self.directory.shorten(layers)?;
            if how.is_empty() {
                return Ok(());
            }
            // What an older one reads from these layers is about to change.
            self.directory.keep_only(snapshot)?;
            let rest = self.merge_layers(vm, layers, &how).await?;
            fault::point("stop.merged")?;
            let (directory, snapshot) = (self.directory.clone(), snapshot.clone());
            blocking(move || directory.layers_shortened(&snapshot, &rest)).await
        };
        if let Err(error) = shortened.await {
            tracing::warn!(sandbox = %self.record.id, error = base::chain(&error),
                "disk layers could not be merged");
        }
    }

    async fn save(&self, vm: &Vm, by: StoppedBy, resting: Option<&Resting>) -> Result<Snapshot> {
        vm.pause().await?;
        fault::point("stop.paused")?;
        let temporary = self.directory.begin_snapshot()?;
        let saved = match resting.map(|known| self.directory.write_resting(&temporary, known)) {
            Some(Err(error)) => Err(error),
            Some(Ok(())) | None => self.save_in(vm, by, &temporary).await,
        };
        if saved.is_err() {
            let _ = files::remove_any(&temporary);
        }
        saved
    }

    async fn save_in(&self, vm: &Vm, by: StoppedBy, temporary: &Path) -> Result<Snapshot> {
        let facts = Facts { by, ..self.facts(vm, self.directory.layers()?, false)? };
        let memory = vm.memory()?;
        let (tag, pages) = (template::tag(&facts.memory_base), temporary.join("pages"));
        let devices = temporary.join("devices");
        let (devices, stats) = tokio::join!(
            vm.save_devices(&devices),
            blocking(move || Ok(memory.save(&tag, &pages)?))
        );
        devices?;
        let stats = stats?;
        tracing::debug!(sandbox = %self.record.id, ?stats, "memory saved");
        fault::point("stop.saved")?;
        let (directory, temporary) = (self.directory.clone(), temporary.to_owned());
        let snapshot = blocking(move || directory.commit_snapshot(&temporary, facts)).await?;
        fault::point("stop.committed")?;
        Ok(snapshot)
    }

    async fn go_on_after_failed_stop(&mut self, vm: Vm) {
        if let Err(error) = self.directory.forget_failed_snapshot() {
            tracing::error!(sandbox = %self.record.id, error = base::chain(&error),
                "a snapshot that may be whole could not be removed");
            // Were it whole, the guest would now write to the disk that it holds.
            vm.kill().await;
            return self.settle_without_vm("its memory could not be saved".to_owned()).await;
        }
        let resumed = vm.resume().await;
        self.phase = Phase::Hot(Live::new(vm, None));
        match resumed {
            Ok(()) => self.reconnect().await,
            Err(error) => self.fail(error.to_string()).await,
        }
    }
}
