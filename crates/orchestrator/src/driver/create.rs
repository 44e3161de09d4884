//! From nothing to hot.

use base::fault;
use vmm::{Boot, Vm};

use super::{Driver, launch::BootFiles};
use crate::{
    Result,
    contents::Contents,
    facade::Progress,
    guest::{Channel, Patience},
    node::Engine,
    processes::Processes,
    sandbox_dir::Origin,
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
        let (vm, channel) = match self.become_guest(&engine, &files, &origin).await {
            Some(made) => made,
            None => self.restore_template(&engine, files, &origin).await?,
        };
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
    ) -> Result<(Vm, Channel)> {
        self.directory.create(origin)?;
        let layers = self.first_layers(origin).await?;
        fault::point("create.directory")?;
        let vm = self.launch(engine, files, &layers).await?;
        fault::point("create.launched")?;
        let channel = self.identify(&vm, Patience::Running).await?;
        Ok((vm, channel))
    }
}
