//! From disk to memory.

use base::{clock, fault};
use proto::mux::Session;
use vmm::memory::Ram;

use super::{Driver, Phase, launch::BootFiles, saved::Saved};
use crate::{
    Error, Kind, Result,
    contents::Contents,
    facade::Progress,
    guest::{Channel, Patience},
    model::{StartFrom, StoppedBy},
    record::State,
    recorder,
    sandbox_dir::Snapshot,
    template,
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
        let started = match self.chosen_snapshot(from)? {
            Some((snapshot, which)) => {
                let started = self.start_from_snapshot(&snapshot).await;
                started.map(|()| which).map_err(|error| self.way_out(error))
            }
            None => self.start_from_disk(progress).await.map(|()| StartFrom::Disk),
        };
        if started.is_err() {
            self.after_failed_start().await;
        }
        started
    }

    /// The snapshot to start from, and what that is called; `None` for the disk.
    fn chosen_snapshot(&self, from: Option<StartFrom>) -> Result<Option<(Snapshot, StartFrom)>> {
        let failed = matches!(self.phase, Phase::Failed);
        let (chosen, which) = match from {
            Some(StartFrom::Disk) => return Ok(None),
            None if failed => return Ok(None),
            Some(StartFrom::Previous) => (self.directory.previous_snapshot(), StartFrom::Previous),
            Some(StartFrom::Snapshot | StartFrom::Memory) | None => {
                (self.directory.snapshot(), StartFrom::Snapshot)
            }
        };
        match chosen.map_err(|error| self.way_out(error))? {
            Some(snapshot) => Ok(Some((snapshot, which))),
            None if from.is_none() => Ok(None),
            None => {
                let message = format!("{} has no such snapshot to start from", self.record.name);
                Err(Error::new(Kind::WrongState, message).hint("start it with --from disk"))
            }
        }
    }

    /// What an owner can do whose snapshot cannot be used.
    pub(super) fn way_out(&self, error: Error) -> Error {
        let about_memory = matches!(error.kind, Kind::SnapshotCorrupt | Kind::SnapshotIncompatible);
        if !about_memory || error.hint.is_some() {
            return error;
        }
        let name = &self.record.name;
        let previous = match self.directory.previous_snapshot() {
            Ok(Some(previous)) => {
                let ago = clock::unix_seconds() - previous.manifest.facts.taken_at;
                format!(
                    ". Or go back to its state of {} s ago, which loses every later change: bhatti \
                     start {name} --from previous",
                    ago.max(0)
                )
            }
            _ => String::new(),
        };
        error.hint(format!(
            "its disk is whole: bhatti start {name} --from disk boots it, and loses only what was \
             in memory: running processes, and what they had not written{previous}"
        ))
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
            let since = clock::unix_seconds();
            if let Err(error) = self.enter(State::Stopped { since, by: StoppedBy::Owner }).await {
                tracing::error!(error = base::chain(&error), "a state could not be recorded");
            }
        }
        self.show();
    }

    async fn start_from_snapshot(&mut self, snapshot: &Snapshot) -> Result<()> {
        let facts = &snapshot.manifest.facts;
        let mut opened = self.open_saved(Saved::File(snapshot)).await?;
        let _turn = self.node.turn().await?;
        if self.directory.has_newer_layers(&snapshot.manifest)? {
            // They are about to be thrown away for the snapshot, so it had better be good.
            opened = opened.verify().await?;
            self.directory.keep_only(snapshot)?;
            self.directory.keep_layers(&facts.layers)?;
        }
        let layers = self.directory.add_layers(&facts.layers)?;
        fault::point("wake.layer")?;
        let vm = self.launch_saved(opened, &layers).await?;
        let channel = Channel::open(&vm, Patience::Running).await?;
        // Brings the clock up to date before any request is let in: the guest believes that it is
        // still the moment of the stop.
        let jobs = channel.meet(self.record.id.as_str(), &self.record.identity).await?;
        fault::point("wake.met")?;
        self.awake.met(channel.session(), jobs);
        self.is_hot(vm, channel).await
    }

    /// Boots from the disk as it is now. Snapshots are older than the disk from then on, so they
    /// go, but only once the boot has worked.
    pub(super) async fn start_from_disk(&mut self, progress: &Progress) -> Result<()> {
        progress.say("booting from disk");
        let engine = self.node.engine().await?;
        let origin = self.directory.origin()?;
        let shape = self.node.shape_again(&self.record.spec, &origin)?;
        let files = BootFiles {
            ram: Ram::fresh(self.record.spec.memory_mib)?,
            image: shape.image.files().to_vec(),
            modules: shape.bundle.modules_image(),
            scratch: template::disk(&self.node.layout.template(&origin.template)),
            boot: recorder::cold_boot(&shape, &engine)?,
            template: None,
        };
        let _turn = self.node.turn().await?;
        if let Ok(Some(snapshot)) = self.directory.snapshot() {
            // Without one of its layers the disk would be something that never was.
            self.directory.has_newer_layers(&snapshot.manifest)?;
        }
        // A layer of its own, so that the snapshot's layers stay as they are if the boot fails.
        let before = self.directory.layers()?;
        let layers = self.directory.add_layers(&before)?;
        let vm = self.launch(&engine, files, &layers).await?;
        fault::point("boot.launched")?;
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
        fault::point("boot.furnished")?;
        self.directory.forget_snapshots()?;
        self.is_hot(vm, channel).await
    }
}
