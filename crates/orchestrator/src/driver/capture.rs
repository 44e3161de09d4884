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
use vmm::{Drive, Vm, memory::GuestMemory};

use super::{Driver, Phase, saved::Captured};
use crate::{
    Error, Kind, Result,
    copying::Room,
    facade::Progress,
    fingerprint::Fingerprint,
    guest,
    model::{SnapshotKind, StoppedBy},
    node::blocking,
    record::State,
    sandbox_dir::{Facts, Layers, Readers, SandboxDir},
    template::BLANK,
};

/// What is to be copied, and where to.
#[derive(Debug)]
pub(crate) struct CopyOrder {
    /// What of it.
    pub kind: SnapshotKind,
    /// Directories that are made, one a copy.
    pub into: Vec<PathBuf>,
    /// What becomes of volumes that are only read.
    pub readers: Readers,
}

/// What a copy consists of besides the directories that were made.
#[derive(Debug, Clone)]
pub(crate) struct Copied {
    /// The memory, unless it is in the directories already or was not asked for.
    pub memory: Option<Arc<Captured>>,
    /// How long the guest stood still, if it ran.
    pub stall: Option<Duration>,
}

/// What copying the memory takes.
struct Plan {
    facts: Facts,
    memory: GuestMemory,
    room: Room,
}

/// What came of the moment in which the guest stood still.
struct Stood {
    captured: Result<Option<Captured>>,
    /// Whether it runs again, if it ran before.
    resumed: Result<()>,
    stall: Duration,
}

impl Driver {
    /// Makes directories that share the sandbox's disk as it is now, and copies its memory if that
    /// is asked for. The sandbox goes on as it was, also if this fails.
    pub(super) async fn copy(&mut self, order: CopyOrder) -> Result<Copied> {
        let readers = order.readers;
        match (&self.phase, order.kind) {
            (Phase::Hot(_) | Phase::Warm(_), SnapshotKind::Memory) => self.copy_living(order).await,
            (Phase::Hot(_) | Phase::Warm(_), SnapshotKind::Disk) => {
                self.copy_living_disk(order).await
            }
            (Phase::Cold, SnapshotKind::Memory) => {
                let found = self.directory.snapshot().map_err(|error| self.way_out(error))?;
                let snapshot = found.ok_or_else(|| {
                    let message = format!("{} has no memory to copy", self.record.name);
                    Error::new(Kind::WrongState, message).hint("copy its disk: --type disk")
                })?;
                let copy = move |from: &SandboxDir, path| {
                    from.copy_with_snapshot(path, &snapshot, readers)
                };
                self.share(order.into, copy).await?;
                Ok(Copied { memory: None, stall: None })
            }
            (Phase::Cold, SnapshotKind::Disk) => self.copy_sleeping_disk(order).await,
            (Phase::Failed, SnapshotKind::Disk) => {
                let layers = self.directory.layers()?;
                self.share(order.into, move |from, path| from.copy_to(path, &layers, readers))
                    .await?;
                Ok(Copied { memory: None, stall: None })
            }
            (Phase::Failed | Phase::Beginning | Phase::Gone, _) => Err(self.not_running("copied")),
        }
    }

    /// What the guest believes to have written may be in its memory only, so it has to be awake for
    /// a moment.
    async fn copy_sleeping_disk(&mut self, order: CopyOrder) -> Result<Copied> {
        let by = match self.record.state {
            State::Stopped { by, .. } => by,
            _ => StoppedBy::Owner,
        };
        self.start(None, &Progress::default()).await?;
        let copied = self.copy_living(order).await;
        // One that fell asleep by itself does so again, unless it is used by now.
        if by == StoppedBy::Owner {
            self.stop(by).await?;
        }
        Ok(Copied { stall: None, ..copied? })
    }

    async fn copy_living_disk(&mut self, order: CopyOrder) -> Result<Copied> {
        let warm = matches!(self.phase, Phase::Warm(_));
        self.resume().await?;
        self.ensure_channel().await?;
        let copied = self.copy_living(order).await;
        if warm {
            self.pause().await?;
            return Ok(Copied { stall: None, ..copied? });
        }
        copied
    }

    async fn copy_living(&mut self, order: CopyOrder) -> Result<Copied> {
        let CopyOrder { kind, into, readers } = order;
        self.keep_chains_short().await?;
        let hot = matches!(self.phase, Phase::Hot(_));
        let Some(live) = self.phase.live() else { return Err(self.not_running("copied")) };
        let vm = &live.vm;
        if kind == SnapshotKind::Disk
            && let Some(channel) = &live.channel
        {
            // What the guest believes to have written has to be in the copy, for it will boot.
            guest::sync(channel.session()).await?;
        }
        let layers = self.directory.layers()?;
        // An agent that was paused has not noticed yet if nobody is connected any more.
        let connected = !hot || live.channel.is_some();
        let plan = match kind {
            SnapshotKind::Memory => {
                let room = self.node.copying.reserve(vm.private_bytes()?)?;
                Some(Plan {
                    facts: self.facts(vm, layers.clone(), connected)?,
                    memory: ready(vm).await?,
                    room,
                })
            }
            SnapshotKind::Disk => None,
        };
        let drives: Vec<Drive> = layers.each().map(|(drive, _)| drive).collect();
        let next = self.prepare_layers(vm, &drives).await?;
        let Stood { captured, resumed, stall } = stand_still(vm, hot, &next, plan).await;
        if captured.is_err() {
            self.drop_layers(vm, &next).await;
        }
        if resumed.is_ok()
            && hot
            && let Some(channel) = &live.channel
        {
            // While it stood still its clock did, too.
            if let Err(error) = channel.refresh().await {
                tracing::debug!(error = base::chain(&error), "a clock was not brought up to date");
            }
        }
        if let Err(error) = resumed {
            // It can be let run again by the next request.
            self.phase.cool_down();
            let state = self.running_state(true)?;
            self.enter(state).await?;
            return Err(error);
        }
        let memory = captured?.map(Arc::new);
        fault::point("copy.resumed")?;
        self.share(into, move |from, path| from.copy_to(path, &layers, readers)).await?;
        fault::point("copy.linked")?;
        Ok(Copied { memory, stall: hot.then_some(stall) })
    }

    /// What a memory that is saved now has to be loaded with.
    pub(super) fn facts(&self, vm: &Vm, layers: Layers, connected: bool) -> Result<Facts> {
        let origin = self.directory.origin()?;
        let engine = self.node.noted_engine(self.record.id.as_str())?;
        let fingerprint = Fingerprint::new(engine, &origin.kernel_id, &self.record.spec);
        let memory_base = if vm.shares_template() { origin.template } else { BLANK.to_owned() };
        let taken_at = clock::unix_seconds();
        let by = StoppedBy::default();
        Ok(Facts { taken_at, fingerprint, memory_base, layers, connected, by })
    }

    /// Makes the directories of all copies and has them on the disk.
    pub(super) async fn share(
        &self,
        into: Vec<PathBuf>,
        copy: impl Fn(&SandboxDir, PathBuf) -> Result<SandboxDir> + Send + 'static,
    ) -> Result<()> {
        let from = self.directory.clone();
        blocking(move || {
            let copies: Vec<SandboxDir> =
                into.into_iter().map(|path| copy(&from, path)).collect::<Result<_>>()?;
            // After all of them are made: the first flush then takes the others along.
            copies.iter().try_for_each(SandboxDir::flush_entries)
        })
        .await
    }
}

/// The guest's memory, with the host's taken that its copy will need: a page costs more to take than
/// to copy, and until here the guest runs.
async fn ready(vm: &Vm) -> Result<GuestMemory> {
    let memory = vm.memory()?;
    blocking(move || {
        memory.make_room()?;
        Ok(memory)
    })
    .await
}

/// What happens while the guest stands still. It runs again afterwards, if it did before.
async fn stand_still(vm: &Vm, hot: bool, next: &[(Drive, u32)], plan: Option<Plan>) -> Stood {
    let began = Instant::now();
    let captured = async {
        if hot {
            vm.pause().await?;
        }
        fault::point("copy.paused")?;
        let Some(Plan { facts, memory, room }) = plan else {
            vm.switch_to_layers(next).await?;
            return Ok(None);
        };
        let rest = async {
            let devices = vm.device_state().await?;
            vm.switch_to_layers(next).await?;
            Ok::<_, Error>(devices)
        };
        let (memory, devices) = tokio::join!(blocking(move || Ok(memory.capture()?)), rest);
        fault::point("copy.captured")?;
        Ok(Some(Captured { facts, devices: devices?, memory: memory?, _room: room }))
    };
    let captured = captured.await;
    // A pause that was given up on may still have happened.
    let resumed = match hot {
        true => vm.resume().await.map_err(Error::from),
        false => Ok(()),
    };
    Stood { captured, resumed, stall: began.elapsed() }
}
