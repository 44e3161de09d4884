//! From a sandbox to an image.

use base::{clock, ids::Name};

use super::{ImageView, NewImage, find::Meaning, pull::check_name};
use crate::{Error, Orchestrator, Result, model::User, sandbox::Sandbox, store::image_taken};

impl Orchestrator {
    /// Makes an image of what is on a sandbox's disk now, under a name of its owner's. What is only in
    /// memory, processes for example, is not in it. The sandbox goes on after a moment. Goes on to its end
    /// even if the caller leaves.
    ///
    /// # Errors
    /// [`Kind::ImageExists`](crate::Kind::ImageExists) and those of a copy of the disk; no image is there then.
    pub async fn save_image(
        &self,
        owner: &User,
        sandbox: &Sandbox,
        name: &str,
    ) -> Result<ImageView> {
        let name: Name = name.parse()?;
        check_name(&name)?;
        if self.node.store.own_image(&owner.id, &name).is_some() {
            return Err(image_taken(&name));
        }
        let (this, owner, sandbox) = (self.clone(), owner.id.clone(), sandbox.clone());
        let saving = tokio::spawn(async move {
            let source = format!("saved:{}", sandbox.name());
            let saved = this.save(&sandbox, |_| {}, source.clone()).await?;
            let kept = NewImage {
                owner: owner.clone(),
                name,
                digest: saved.image.digest().to_owned(),
                reference: None,
                source,
                created_at: clock::unix_seconds(),
            };
            match this.node.store.keep_image(kept).await {
                Ok(record) => Ok(Meaning::Kept(record).view(&owner, Some(&saved.image))),
                Err(error) => {
                    saved.discard(&this.node).await;
                    Err(error)
                }
            }
        });
        saving.await.map_err(|error| Error::internal("a task failed", error))?
    }
}
