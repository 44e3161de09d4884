//! From memory to disk.

use std::path::Path;

use base::{clock, files};
use vmm::Vm;

use super::{Driver, Live, Phase};
use crate::{
    Result,
    model::StoppedBy,
    node::blocking,
    record::State,
    sandbox_dir::{Snapshot, merges},
    template::{self, BLANK},
};

impl Driver {
    /// Puts the whole VM on disk and frees its memory. If that fails the sandbox runs on.
    pub(super) async fn stop(&mut self, by: StoppedBy) -> Result<()> {
        match &self.phase {
            Phase::Cold => return self.stay_cold(by).await,
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
        let Some(Live { vm, channel, .. }) = self.phase.take_live() else {
            return Err(self.not_running("stopped"));
        };
        if let Some(channel) = channel
            && !channel.hang_up(&vm).await
        {
            tracing::debug!(sandbox = %self.record.id, "the guest did not notice that we hung up");
        }
        let taken_at = clock::unix_seconds();
        match self.save(&vm, taken_at).await {
            Ok(snapshot) => {
                self.merge_layers(&vm, &snapshot).await;
                vm.kill().await;
                self.node.clean_run(self.record.id.as_str());
                self.phase = Phase::Cold;
                self.set_resting(resting);
                self.enter(State::Stopped { since: taken_at, by }).await
            }
            Err(error) => {
                self.go_on_after_failed_stop(vm).await;
                Err(error)
            }
        }
    }

    /// Keeps the number of layers within bounds. A failure leaves more layers, no damage.
    async fn merge_layers(&self, vm: &Vm, snapshot: &Snapshot) {
        let layers = &snapshot.manifest.layers;
        if !merges(layers) {
            return;
        }
        let merged = async {
            vm.merge_layers(layers.len()).await?;
            let (directory, snapshot) = (self.directory.clone(), snapshot.clone());
            blocking(move || directory.layers_merged(&snapshot)).await
        };
        if let Err(error) = merged.await {
            tracing::warn!(sandbox = %self.record.id, error = base::chain(&error),
                "disk layers could not be merged");
        }
    }

    async fn save(&self, vm: &Vm, taken_at: i64) -> Result<Snapshot> {
        vm.pause().await?;
        let temporary = self.directory.begin_snapshot()?;
        let saved = self.save_in(vm, &temporary, taken_at).await;
        if saved.is_err() {
            let _ = files::remove_any(&temporary);
        }
        saved
    }

    async fn save_in(&self, vm: &Vm, temporary: &Path, taken_at: i64) -> Result<Snapshot> {
        let base = self.memory_base(vm)?;
        let memory = vm.memory()?;
        let (tag, pages) = (template::tag(&base), temporary.join("pages"));
        let devices = temporary.join("devices");
        let (devices, stats) = tokio::join!(
            vm.save_devices(&devices),
            blocking(move || Ok(memory.save(&tag, &pages)?))
        );
        devices?;
        tracing::debug!(sandbox = %self.record.id, stats = ?stats?, "memory saved");
        let fingerprint = self.node.noted_engine(self.record.id.as_str())?;
        let (directory, temporary) = (self.directory.clone(), temporary.to_owned());
        blocking(move || directory.commit_snapshot(&temporary, taken_at, fingerprint, base)).await
    }

    /// What the VM's memory differs from: its template, or zeros if it booted by itself.
    fn memory_base(&self, vm: &Vm) -> Result<String> {
        if vm.shares_template() { Ok(self.directory.origin()?.template) } else { Ok(BLANK.into()) }
    }

    async fn go_on_after_failed_stop(&mut self, vm: Vm) {
        if let Err(error) = self.directory.forget_failed_snapshot() {
            tracing::error!(sandbox = %self.record.id, error = base::chain(&error),
                "a failed snapshot could not be removed");
        }
        let resumed = vm.resume().await;
        self.phase = Phase::Hot(Live::new(vm, None));
        match resumed {
            Ok(()) => self.reconnect().await,
            Err(error) => self.fail(error.to_string()).await,
        }
    }
}
