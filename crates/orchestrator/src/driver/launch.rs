//! What create, wake and cold boot have in common.

use base::fault;
use proto::message::{Identify, Init, RestartPolicy};
use vmm::{Boot, Disks, Machine, Plan, Vm, memory::Ram};

use super::{Driver, Live, Phase};
use crate::{
    Result,
    contents::Contents,
    facade::Progress,
    guest::{self, Channel, Patience, fresh},
    node::Engine,
    processes::Processes,
    record::State,
    sandbox_dir::Layers,
    template,
    thermal::pressure,
};

impl Driver {
    pub(super) fn machine(&self) -> Machine {
        Machine { cpus: self.record.spec.cpus, memory_mib: self.record.spec.memory_mib }
    }

    /// Launches a VM over the given disk layers, the last of which it may write.
    ///
    /// # Errors
    /// [`Kind::HostOverloaded`] if the host has too little memory, though every sandbox that may
    /// went to disk.
    pub(super) async fn launch(
        &self,
        engine: &Engine,
        files: BootFiles,
        layers: &Layers,
    ) -> Result<Vm> {
        pressure::make_room(&self.node).await?;
        if let Some(vm) = self.launch_spare(engine, &files, layers).await {
            return Ok(vm);
        }
        let name = self.record.id.as_str();
        let nic = self.node.networking.connect(&self.record).await?;
        let (slot, machine, connects) = (self.record.slot + 1, self.machine(), nic.connects());
        let plan = Plan {
            machine,
            ram: files.ram,
            disks: Disks {
                base: template::open_all(&files.image)?,
                modules: template::open(&files.modules)?,
                scratch: template::open(&files.scratch)?,
                layers: self.directory.open_disk(layers)?,
                volumes: self.directory.open_volumes(layers)?,
            },
            nic: Some(nic),
            boot: files.boot,
            run_dir: self.node.make_run(name)?,
            confinement: Some(self.node.confinement(name, slot, machine, connects)?),
        };
        self.node.note_engine(name, &engine.qemu.fingerprint())?;
        let vm = engine.qemu.launch(plan)?;
        self.node.pressure.look();
        Ok(vm)
    }

    /// Tells a guest that is nobody yet who it is, and has it mount its volumes.
    pub(super) async fn identify(&self, vm: &Vm, patience: Patience) -> Result<Channel> {
        let channel = Channel::open(vm, patience).await?;
        channel.identify(self.identity()?).await?;
        self.mount_volumes(&channel).await?;
        Ok(channel)
    }

    /// What its image says about processes.
    pub(super) fn processes(&self) -> Result<&Processes> {
        if let Some(known) = self.processes.get() {
            return Ok(known);
        }
        let image = self.node.image_of(&self.directory.origin()?)?;
        let said = Processes::of(&image)?;
        Ok(self.processes.get_or_init(|| said))
    }

    /// Who the guest is to be.
    pub(super) fn identity(&self) -> Result<Identify> {
        let identity = &self.record.identity;
        Ok(Identify {
            sandbox_id: self.record.id.as_str().to_owned(),
            hostname: self.record.name.as_str().to_owned(),
            machine_id: identity.machine_id.clone(),
            token: identity.token.clone(),
            env: self.record.spec.env.clone(),
            defaults: self.processes()?.defaults.clone(),
            interface: self.node.networking.interface(&self.record),
            refresh: fresh(),
        })
    }

    /// Gives a guest that has just booted, or looks like it, what its owner wants in it before
    /// anybody may use it. Costs nothing if that is nothing.
    pub(super) async fn furnish(
        &self,
        vm: &Vm,
        channel: &Channel,
        contents: Contents,
        progress: &Progress,
    ) -> Result<()> {
        let init = self.init()?;
        if contents.is_empty() && init.is_none() {
            return Ok(());
        }
        // What runs in it from here on is its owner's.
        vm.limits_hold().await?;
        let session = channel.session();
        if !contents.is_empty() {
            progress.say("writing files");
        }
        for file in contents.files {
            guest::write_file(session, file).await?;
        }
        if let Some(archive) = contents.archive {
            guest::unpack(session, archive).await?;
        }
        match init {
            Some(init) => guest::start_init(session, init).await,
            None => Ok(()),
        }
    }

    /// What is to run in it: what its owner says, or else its image.
    fn init(&self) -> Result<Option<Init>> {
        let spec = &self.record.spec;
        if let Some(init) = &spec.init {
            return Ok(Some(init.into()));
        }
        let program = &self.processes()?.program;
        if spec.no_init || program.is_empty() {
            return Ok(None);
        }
        let (command, restart) = (String::new(), RestartPolicy::default());
        Ok(Some(Init { command, argv: program.clone(), restart }))
    }

    /// The VM is up and its agent answers: from now on the sandbox is hot.
    pub(super) async fn is_hot(&mut self, vm: Vm, channel: Channel) -> Result<()> {
        vm.limits_hold().await?;
        fault::point("hot.limited")?;
        let handle = vm.handle();
        let state =
            State::Running { pid: handle.pid, start_time: handle.start_time, paused: false };
        self.phase = Phase::Hot(Live::new(vm, Some(channel)));
        self.enter(state).await?;
        Ok(fault::point("hot.recorded")?)
    }
}

/// What a launch needs besides the sandbox's own directory.
pub(super) struct BootFiles {
    pub ram: Ram,
    /// What the image's disk consists of.
    pub image: Vec<std::path::PathBuf>,
    pub modules: std::path::PathBuf,
    /// The template's disk, which lies below all layers.
    pub scratch: std::path::PathBuf,
    pub boot: Boot,
    /// The template that memory and disk are of, if it is one.
    pub template: Option<String>,
}
