//! Copying a sandbox as it is, for a named snapshot or for forks.
//!
//! The guest stands still only while its device state and its changed pages are copied into
//! memory. Before that its disk gets a new layer to go on with, so what lies below is never written
//! again and copies share it.

use std::{
    path::PathBuf,
    sync::Arc,
    time::{Duration, Instant},
};

use base::{clock, fault};
use vmm::Vm;

use super::{Driver, Phase, saved::Captured};
use crate::{
    Error, Kind, Result,
    facade::Progress,
    fingerprint::Fingerprint,
    guest,
    model::{SnapshotKind, StoppedBy},
    node::blocking,
    record::State,
    sandbox_dir::{Facts, SandboxDir},
    template::BLANK,
};

/// What a copy consists of besides the directories that were made.
#[derive(Debug, Clone)]
pub(crate) struct Copied {
    /// The memory, unless it is in the directories already or was not asked for.
    pub memory: Option<Arc<Captured>>,
    /// How long the guest stood still, if it ran.
    pub stall: Option<Duration>,
}

impl Driver {
    /// Makes directories that share the sandbox's disk as it is now, and copies its memory if that
    /// is asked for. The sandbox goes on as it was, also if this fails.
    pub(super) async fn copy(&mut self, kind: SnapshotKind, into: Vec<PathBuf>) -> Result<Copied> {
        match (&self.phase, kind) {
            (Phase::Hot(_) | Phase::Warm(_), _) => self.copy_living(kind, into).await,
            (Phase::Cold, SnapshotKind::Memory) => {
                let snapshot = self.directory.snapshot()?.ok_or_else(|| {
                    let message = format!("{} has no memory to copy", self.record.name);
                    Error::new(Kind::WrongState, message).hint("copy its disk: --type disk")
                })?;
                let from = self.directory.clone();
                blocking(move || {
                    into.into_iter()
                        .try_for_each(|path| from.copy_with_snapshot(path, &snapshot).map(drop))
                })
                .await?;
                Ok(Copied { memory: None, stall: None })
            }
            (Phase::Cold, SnapshotKind::Disk) => self.copy_sleeping_disk(into).await,
            (Phase::Failed, SnapshotKind::Disk) => {
                let layers = self.directory.layers()?;
                self.share_layers(layers, into).await?;
                Ok(Copied { memory: None, stall: None })
            }
            (Phase::Failed | Phase::Beginning | Phase::Gone, _) => Err(self.not_running("copied")),
        }
    }

    /// What the guest believes to have written may be in its memory only, so it has to be awake for
    /// a moment.
    async fn copy_sleeping_disk(&mut self, into: Vec<PathBuf>) -> Result<Copied> {
        let by = match self.record.state {
            State::Stopped { by, .. } => by,
            _ => StoppedBy::Owner,
        };
        self.start(None, &Progress::default()).await?;
        let copied = self.copy_living(SnapshotKind::Disk, into).await;
        self.stop(by).await?;
        Ok(Copied { stall: None, ..copied? })
    }

    async fn copy_living(&mut self, kind: SnapshotKind, into: Vec<PathBuf>) -> Result<Copied> {
        if kind == SnapshotKind::Disk {
            // What the guest believes to have written has to be in the copy, for it will boot.
            self.resume().await?;
            self.ensure_channel().await?;
            if let Some(channel) = self.phase.live().and_then(|live| live.channel.as_ref()) {
                guest::sync(channel.session()).await?;
            }
        }
        let hot = matches!(self.phase, Phase::Hot(_));
        let Some(live) = self.phase.live() else { return Err(self.not_running("copied")) };
        let vm = &live.vm;
        let number = self.prepare_layer(vm).await?;
        let layers: Vec<u32> =
            self.directory.layers()?.into_iter().filter(|layer| *layer != number).collect();
        let began = Instant::now();
        // An agent that was paused has not noticed yet if nobody is connected any more.
        let connected = !hot || live.channel.is_some();
        let stood = self.stand_still(vm, hot, kind, number, (layers.clone(), connected)).await;
        let stall = began.elapsed();
        let memory = match stood {
            Ok(memory) => memory.map(Arc::new),
            Err(error) => {
                self.drop_layer(vm, number).await;
                return Err(error);
            }
        };
        fault::point("copy.resumed")?;
        if hot && let Some(channel) = &live.channel {
            // While it stood still its clock did, too.
            if let Err(error) = channel.refresh().await {
                tracing::debug!(error = base::chain(&error), "a clock was not brought up to date");
            }
        }
        self.share_layers(layers, into).await?;
        fault::point("copy.linked")?;
        Ok(Copied { memory, stall: hot.then_some(stall) })
    }

    /// Makes a new layer that the monitor can switch to at once, and has what was written so far
    /// on the disk, so that the guest does not stand still for that.
    async fn prepare_layer(&self, vm: &Vm) -> Result<u32> {
        let directory = self.directory.clone();
        let top = vm.top_layer().await?;
        if let Some(top) = top {
            let flushing = directory.clone();
            blocking(move || flushing.flush_layer(top)).await?;
        }
        let number = directory.add_layer(self.record.spec.disk_mib)?;
        let prepared = async {
            let read_write = directory.open_layer(number, true)?;
            let read_only = directory.open_layer(number, false)?;
            vm.prepare_layer(number, read_write, read_only).await?;
            Ok(fault::point("copy.prepared")?)
        };
        match prepared.await {
            Ok(()) => Ok(number),
            Err(error) => {
                self.drop_layer(vm, number).await;
                Err(error)
            }
        }
    }

    /// Forgets a layer that was prepared and not used. If even that fails it stays, empty and on
    /// top, and does no harm.
    async fn drop_layer(&self, vm: &Vm, number: u32) {
        if vm.top_layer().await.is_ok_and(|top| top == Some(number)) {
            return;
        }
        let dropped = match vm.drop_layer(number).await {
            Ok(()) => self.directory.remove_layer(number),
            Err(error) => Err(error.into()),
        };
        if let Err(error) = dropped {
            tracing::debug!(sandbox = %self.record.id, error = base::chain(&error),
                "an unused layer stays");
        }
    }

    /// What happens while the guest stands still. It runs again afterwards, if it did before.
    async fn stand_still(
        &self,
        vm: &Vm,
        hot: bool,
        kind: SnapshotKind,
        number: u32,
        (layers, connected): (Vec<u32>, bool),
    ) -> Result<Option<Captured>> {
        if hot {
            vm.pause().await?;
        }
        let copied = async {
            fault::point("copy.paused")?;
            let captured = match kind {
                SnapshotKind::Memory => Some(self.capture(vm, layers, connected).await?),
                SnapshotKind::Disk => None,
            };
            fault::point("copy.captured")?;
            vm.switch_to_layer(number).await?;
            fault::point("copy.switched")?;
            Ok(captured)
        };
        let copied = copied.await;
        if hot {
            vm.resume().await?;
        }
        copied
    }

    async fn capture(&self, vm: &Vm, layers: Vec<u32>, connected: bool) -> Result<Captured> {
        let memory = vm.memory()?;
        let (devices, memory) =
            tokio::join!(vm.device_state(), blocking(move || Ok(memory.capture()?)));
        let facts = self.facts(vm, layers, connected)?;
        Ok(Captured { facts, devices: devices?, memory: memory? })
    }

    /// What a memory that is saved now has to be loaded with.
    pub(super) fn facts(&self, vm: &Vm, layers: Vec<u32>, connected: bool) -> Result<Facts> {
        let origin = self.directory.origin()?;
        let engine = self.node.noted_engine(self.record.id.as_str())?;
        let fingerprint = Fingerprint::new(engine, &origin.kernel_id, &self.record.spec);
        let memory_base = if vm.shares_template() { origin.template } else { BLANK.to_owned() };
        let taken_at = clock::unix_seconds();
        Ok(Facts { taken_at, fingerprint, memory_base, layers, connected })
    }

    async fn share_layers(&self, layers: Vec<u32>, into: Vec<PathBuf>) -> Result<()> {
        let from: SandboxDir = self.directory.clone();
        blocking(move || {
            into.into_iter().try_for_each(|path| from.copy_to(path, &layers).map(drop))
        })
        .await
    }
}
