//! Starting a VM with what stands ready.

use base::fault;
use vmm::{Boot, Claim, Vm};

use super::{Driver, launch::BootFiles};
use crate::{
    Error, Result,
    guest::Channel,
    node::Engine,
    sandbox_dir::{Layers, Origin, SandboxDir},
    spares::{Guest, Monitor, Recipe},
};

impl Driver {
    /// What would have been made ahead for a VM like this; nothing if nothing can be.
    fn recipe(&self, engine: &Engine, files: &BootFiles) -> Option<Recipe> {
        let template = files.template.as_ref()?;
        if !self.node.networking.takes_spare(&self.record) {
            return None;
        }
        // How many they are is said by the template already.
        let volumes = self.record.spec.volumes.iter().map(|volume| volume.read_only);
        let volumes: Vec<bool> = volumes.collect();
        Some(Recipe {
            key: format!("{template} {} {volumes:?}", engine.qemu.fingerprint()),
            qemu: engine.qemu.clone(),
            machine: self.machine(),
            disk_mib: self.record.spec.disk_mib,
            ram: files.ram.clone(),
            image: files.image.clone(),
            volumes,
            modules: files.modules.clone(),
            template: self.node.layout.template(template),
        })
    }

    /// Makes the sandbox out of a guest that stands ready, if there is one. If that turns out to be of
    /// no use, it is as if there had been none.
    pub(super) async fn become_guest(
        &mut self,
        engine: &Engine,
        files: &BootFiles,
        origin: &Origin,
        volumes: &[(u32, Vec<u32>)],
    ) -> Option<(Vm, Channel)> {
        let guest = self.node.spares.guest(self.recipe(engine, files)?)?;
        let name = guest.name.clone();
        match self.take_guest(guest, engine, origin, volumes).await {
            Ok(made) => Some(made),
            Err(error) => {
                self.of_no_use(&name, &error);
                if let Err(error) = self.directory.remove() {
                    // Making it anew says the same, to whoever waits.
                    tracing::debug!(error = base::chain(&error), "a directory stays behind");
                }
                None
            }
        }
    }

    async fn take_guest(
        &mut self,
        guest: Guest,
        engine: &Engine,
        origin: &Origin,
        volumes: &[(u32, Vec<u32>)],
    ) -> Result<(Vm, Channel)> {
        let Guest { name, vm, channel, link } = guest;
        let taken = async {
            let ready = SandboxDir::at(self.node.layout.run(&name));
            let disk = self.directory.create_around(origin, &ready)?;
            fault::point("create.around")?;
            let run_dir = self.node.rename_run(&name, self.record.id.as_str())?;
            self.node.note_engine(self.record.id.as_str(), &engine.qemu.fingerprint())?;
            self.node.networking.connect_spare(&self.record, link).await?;
            fault::point("create.connected")?;
            if !self.record.spec.volumes.is_empty() {
                let layers = Layers { volumes: volumes.to_vec(), ..disk };
                vm.attach(self.directory.open_volumes(&layers)?).await?;
                fault::point("volumes.shown")?;
            }
            vm.resume().await?;
            channel.identify(self.identity()?).await?;
            Ok(run_dir)
        };
        match taken.await {
            Ok(run_dir) => Ok((vm.moved(run_dir), channel)),
            Err(error) => {
                vm.kill().await;
                Err(error)
            }
        }
    }

    /// The VM in a monitor that was started ahead, if there is one that fits. If it turns out to be of no
    /// use, that is as if there had been none.
    pub(super) async fn launch_spare(
        &self,
        engine: &Engine,
        files: &BootFiles,
        layers: &Layers,
    ) -> Option<Vm> {
        let monitor = self.node.spares.monitor(self.recipe(engine, files)?)?;
        let name = monitor.name.clone();
        let claimed = self.claim(monitor, engine, files, layers).await;
        claimed.inspect_err(|error| self.of_no_use(&name, error)).ok()
    }

    async fn claim(
        &self,
        monitor: Monitor,
        engine: &Engine,
        files: &BootFiles,
        layers: &Layers,
    ) -> Result<Vm> {
        let name = self.record.id.as_str();
        let (state, at_once) = match &files.boot {
            Boot::Restore { state } => (state, true),
            Boot::RestoreLater { state } => (state, false),
            Boot::Cold { .. } | Boot::Awaited => {
                return Err(Error::internal("no device state to load", "the VM is to boot"));
            }
        };
        let claim = Claim {
            run_dir: self.node.rename_run(&monitor.name, name)?,
            layers: self.directory.open_disk(layers)?,
            volumes: self.directory.open_volumes(layers)?,
            state: state.try_clone()?,
            cgroup: self.node.make_group(name, self.machine()),
        };
        self.node.note_engine(name, &engine.qemu.fingerprint())?;
        let (vm, connected) = tokio::join!(
            monitor.process.claim(claim),
            self.node.networking.connect_spare(&self.record, monitor.link),
        );
        let vm = vm?;
        let ready = async {
            connected?;
            fault::point("spare.claimed")?;
            if at_once {
                vm.load().await?;
            }
            Ok(())
        };
        match ready.await {
            Ok(()) => Ok(vm),
            Err(error) => {
                vm.kill().await;
                Err(error)
            }
        }
    }

    fn of_no_use(&self, spare: &str, error: &Error) {
        tracing::warn!(sandbox = %self.record.id, spare, error = base::chain(error),
            "what was kept ready cannot be used");
        self.node.clean_run(spare);
        self.node.clean_run(self.record.id.as_str());
    }
}
