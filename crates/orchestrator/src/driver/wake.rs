//! From disk to memory.

use proto::mux::Session;
use vmm::{
    Boot, Vm,
    memory::{PAGE, PageFile, Ram},
};

use super::{Driver, Phase, launch::BootFiles};
use crate::{
    Error, Kind, Result,
    contents::Contents,
    facade::Progress,
    guest::{Channel, Patience},
    model::StartFrom,
    node::blocking,
    record::State,
    recorder,
    sandbox_dir::Snapshot,
    template::{self, BLANK},
};

impl Driver {
    /// Whatever it takes to have a session with the agent.
    pub(super) async fn wake(&mut self) -> Result<Session> {
        match &self.phase {
            Phase::Hot(live) if live.channel.as_ref().is_some_and(|c| !c.session().is_closed()) => {
            }
            Phase::Hot(_) => self.ensure_channel().await?,
            Phase::Warm(_) => self.warm_to_hot().await?,
            Phase::Cold => drop(self.start(None, &Progress::default()).await?),
            Phase::Beginning | Phase::Failed | Phase::Gone => {
                return Err(self.not_running("used"));
            }
        }
        let live = self.phase.live().ok_or_else(|| self.not_running("used"))?;
        let channel = live
            .channel
            .as_ref()
            .ok_or_else(|| Error::new(Kind::AgentUnreachable, "the guest agent does not answer"))?;
        Ok(channel.session().clone())
    }

    /// Starts a sandbox from what its owner says, or from the best there is: memory, the snapshot
    /// of a stopped one, the disk of a failed one.
    pub(super) async fn start(
        &mut self,
        from: Option<StartFrom>,
        progress: &Progress,
    ) -> Result<StartFrom> {
        match (&self.phase, from) {
            (Phase::Hot(_), None | Some(StartFrom::Memory)) => {
                self.ensure_channel().await?;
                return Ok(StartFrom::Memory);
            }
            (Phase::Warm(_), None | Some(StartFrom::Memory)) => {
                self.warm_to_hot().await?;
                return Ok(StartFrom::Memory);
            }
            (Phase::Hot(_) | Phase::Warm(_), Some(_)) => {
                let message = format!("{} is running already", self.record.name);
                return Err(Error::new(Kind::WrongState, message).hint("stop or destroy it first"));
            }
            (Phase::Beginning | Phase::Gone, _) => return Err(self.not_running("started")),
            (Phase::Cold | Phase::Failed, _) => {}
        }
        let failed = matches!(self.phase, Phase::Failed);
        let snapshot = match from {
            Some(StartFrom::Disk) => None,
            None if failed => None,
            Some(StartFrom::Snapshot | StartFrom::Memory) | None => self.directory.snapshot()?,
        };
        if snapshot.is_none() && matches!(from, Some(StartFrom::Snapshot | StartFrom::Memory)) {
            let message = format!("{} has no snapshot to start from", self.record.name);
            return Err(Error::new(Kind::WrongState, message).hint("start it with --from disk"));
        }
        let started = match &snapshot {
            Some(snapshot) => {
                self.start_from_snapshot(snapshot).await.map(|()| StartFrom::Snapshot)
            }
            None => self.start_from_disk(progress).await.map(|()| StartFrom::Disk),
        };
        if started.is_err() {
            self.after_failed_start().await;
        }
        started
    }

    /// Nothing of the failed attempt stays; snapshot and disk are as they were.
    async fn after_failed_start(&mut self) {
        if let Some(live) = self.phase.take_live() {
            live.vm.kill().await;
        }
        self.node.clean_run(self.record.id.as_str());
        self.phase = Phase::of_record(&self.record.state);
        if matches!(self.phase, Phase::Beginning) {
            self.phase = Phase::Cold;
            let since = base::clock::unix_seconds();
            if let Err(error) = self.enter(State::Stopped { since }).await {
                tracing::error!(error = base::chain(&error), "a state could not be recorded");
            }
        }
        self.show();
    }

    async fn start_from_snapshot(&mut self, snapshot: &Snapshot) -> Result<()> {
        let manifest = &snapshot.manifest;
        let engine = self.node.engine().await?;
        if manifest.fingerprint != engine.qemu.fingerprint() {
            let message = format!(
                "the snapshot was taken with {:?}, this host now has {:?}",
                manifest.fingerprint,
                engine.qemu.fingerprint()
            );
            return Err(Error::new(Kind::SnapshotCorrupt, message)
                .hint("its disk is untouched: bhatti start NAME --from disk"));
        }
        let origin = self.directory.origin()?;
        let shape = self.node.shape_again(&self.record.spec, &origin)?;
        let ram = match manifest.memory_base.as_str() {
            BLANK => Ram::fresh(self.record.spec.memory_mib)?,
            instance => self.node.templates.of_instance(&self.node, instance).await?.ram.clone(),
        };
        let guest_pages = ram.bytes() / PAGE as u64;
        let mut pages =
            PageFile::open(&snapshot.pages(), &template::tag(&manifest.memory_base), guest_pages)?;
        let files = BootFiles {
            ram,
            image: shape.image.path().to_owned(),
            modules: shape.bundle.modules_image(),
            scratch: template::disk(&self.node.layout.template(&origin.template)),
            boot: Boot::RestoreLater { state: snapshot.devices()? },
        };
        let _turn = self.node.turn().await?;
        if self.directory.has_newer_layers(manifest)? {
            // They are about to be thrown away for the snapshot, so it had better be good.
            pages = blocking(move || pages.verify().map(|()| pages).map_err(Error::from)).await?;
            self.directory.keep_layers(&manifest.layers)?;
        }
        let mut layers = manifest.layers.clone();
        layers.push(self.directory.add_layer(self.record.spec.disk_mib)?);
        let vm = self.launch(&engine, files, &layers)?;
        let channel = match self.fill_and_meet(&vm, pages).await {
            Ok(channel) => channel,
            Err(error) => {
                vm.kill().await;
                return Err(error);
            }
        };
        self.is_hot(vm, channel).await
    }

    async fn fill_and_meet(&self, vm: &Vm, pages: PageFile) -> Result<Channel> {
        vm.answers().await?;
        let memory = vm.memory()?;
        blocking(move || Ok(memory.restore(&pages)?)).await?;
        vm.load().await?;
        let channel = Channel::open(vm, Patience::Running).await?;
        // Brings the clock up to date before any request is let in: the guest believes that it is
        // still the moment of the stop.
        let jobs = channel.meet(self.record.id.as_str(), &self.record.identity).await?;
        self.awake.met(channel.session(), jobs);
        Ok(channel)
    }

    /// Boots from the disk as it is now. Snapshots are older than the disk from then on, so they
    /// go, but only once the boot has worked.
    async fn start_from_disk(&mut self, progress: &Progress) -> Result<()> {
        progress.say("booting from disk");
        let engine = self.node.engine().await?;
        let origin = self.directory.origin()?;
        let shape = self.node.shape_again(&self.record.spec, &origin)?;
        let files = BootFiles {
            ram: Ram::fresh(self.record.spec.memory_mib)?,
            image: shape.image.path().to_owned(),
            modules: shape.bundle.modules_image(),
            scratch: template::disk(&self.node.layout.template(&origin.template)),
            boot: recorder::cold_boot(&shape, &engine)?,
        };
        let _turn = self.node.turn().await?;
        // A layer of its own, so that the snapshot's layers stay as they are if the boot fails.
        let before = self.directory.layers()?;
        let top = self.directory.add_layer(self.record.spec.disk_mib)?;
        let layers = [before.as_slice(), &[top]].concat();
        let vm = self.launch(&engine, files, &layers)?;
        let begun = async {
            let channel = self.identify(&vm, Patience::Booting).await?;
            self.furnish(&vm, &channel, Contents::default(), progress).await?;
            Ok(channel)
        };
        let channel = match begun.await {
            Ok(channel) => channel,
            Err(error) => {
                let console = vm.console_tail().await.0;
                vm.kill().await;
                self.directory.keep_layers(&before)?;
                tracing::warn!(sandbox = %self.record.id, console, "a boot from disk failed");
                return Err(error);
            }
        };
        self.directory.forget_snapshots()?;
        self.is_hot(vm, channel).await
    }
}
