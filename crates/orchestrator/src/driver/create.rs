//! From nothing to hot.

use base::fault;
use vmm::{Boot, Vm};

use super::{Driver, launch::BootFiles};
use crate::{
    Result,
    chain::Chain,
    contents::Contents,
    facade::Progress,
    guest::{Channel, Patience},
    node::Engine,
    processes::Processes,
    sandbox_dir::{Layers, Origin},
    template,
};

impl Driver {
    /// Makes the sandbox as a child of its shape's template. After an error the caller removes what
    /// there is of it.
    pub(super) async fn create(&mut self, contents: Contents, progress: &Progress) -> Result<()> {
        let engine = self.node.engine().await?;
        let shape = self.node.shape(&self.record.owner, &self.record.spec)?;
        let needed = self.node.keep(&shape, &engine)?;
        self.processes = Processes::of(&shape.image)?.into();
        let template = self.node.templates.of_shape(&self.node, &shape, progress).await?;
        let turn = self.node.turn().await?;
        let origin = Origin::new(&template.instance, shape.image.digest(), shape.bundle.id());
        let files = BootFiles {
            ram: template.ram.clone(),
            image: shape.image.files().to_vec(),
            modules: shape.bundle.modules_image(),
            scratch: template::disk(&template.directory),
            boot: Boot::Restore { state: template.devices()? },
            template: Some(template.instance.clone()),
        };
        let volumes = self.first_layers_of_volumes().await?;
        let (vm, channel) = match self.become_guest(&engine, &files, &origin, &volumes).await {
            Some(made) => made,
            None => self.restore_template(&engine, files, &origin, volumes).await?,
        };
        self.mount_volumes(&channel).await?;
        // From here on the sandbox's directory says so.
        drop(needed);
        fault::point("create.identified")?;
        // Others need not wait for whoever still sends us an archive.
        drop(turn);
        self.furnish(&vm, &channel, contents, progress).await?;
        self.is_hot(vm, channel).await
    }

    async fn restore_template(
        &mut self,
        engine: &Engine,
        files: BootFiles,
        origin: &Origin,
        volumes: Vec<(u32, Vec<u32>)>,
    ) -> Result<(Vm, Channel)> {
        self.directory.create(origin)?;
        let template = Chain::at(self.node.layout.template(&origin.template));
        let disk = self.directory.begin(&template, self.record.spec.disk_mib)?;
        fault::point("create.directory")?;
        let vm = self.launch(engine, files, &Layers { volumes, ..disk }).await?;
        fault::point("create.launched")?;
        let channel = Channel::open(&vm, Patience::Running).await?;
        channel.identify(self.identity()?).await?;
        Ok((vm, channel))
    }
}
