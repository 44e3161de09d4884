//! Starting a VM in a monitor that runs already.

use base::fault;
use vmm::{Boot, Claim, Vm};

use super::{Driver, launch::BootFiles};
use crate::{
    Error, Result,
    node::Engine,
    spares::{Recipe, Spare},
};

impl Driver {
    /// The VM in a monitor that was started ahead, if there is one that fits. If it turns out to be of no
    /// use, that is as if there had been none.
    pub(super) async fn launch_spare(
        &self,
        engine: &Engine,
        files: &BootFiles,
        layers: &[u32],
    ) -> Option<Vm> {
        let spare = self.spare(engine, files)?;
        let name = spare.name.clone();
        let claimed = self.claim(spare, engine, files, layers).await;
        claimed
            .inspect_err(|error| {
                tracing::warn!(sandbox = %self.record.id, spare = name, error = base::chain(error),
                    "a monitor that was kept ready cannot be used");
                self.node.clean_run(&name);
            })
            .ok()
    }

    fn spare(&self, engine: &Engine, files: &BootFiles) -> Option<Spare> {
        let template = files.template.as_ref()?;
        if !self.node.networking.takes_spare(&self.record) {
            return None;
        }
        self.node.spares.take(Recipe {
            key: format!("{template} {}", engine.qemu.fingerprint()),
            qemu: engine.qemu.clone(),
            machine: self.machine(),
            ram: files.ram.clone(),
            image: files.image.clone(),
            modules: files.modules.clone(),
            scratch: files.scratch.clone(),
        })
    }

    async fn claim(
        &self,
        spare: Spare,
        engine: &Engine,
        files: &BootFiles,
        layers: &[u32],
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
            run_dir: self.node.rename_run(&spare.name, name)?,
            layers: self.directory.open_layers(layers)?,
            state: state.try_clone()?,
            cgroup: self.node.make_group(name, self.machine()),
        };
        self.node.note_engine(name, &engine.qemu.fingerprint())?;
        let (vm, connected) = tokio::join!(
            spare.monitor.claim(claim),
            self.node.networking.connect_spare(&self.record, spare.link),
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
}
