//! Images of sandboxes.

use std::{path::PathBuf, sync::Arc};

use base::{fault, files, random};
use disk::image::{self, Config, Hold, Image, SavedDisk};

use crate::{
    Error, Orchestrator, Result,
    model::SnapshotKind,
    node::{Node, blocking},
    sandbox::Sandbox,
    sandbox_dir::{Readers, SandboxDir},
    template,
};

/// An image that nobody has named yet. It is not collected while this lives.
#[derive(Debug)]
pub struct SavedImage {
    /// The image.
    pub image: Image,
    _hold: Hold,
}

impl SavedImage {
    /// Removes what got no name. Nobody else can know of it: each has a digest of its own.
    pub(crate) async fn discard(self, node: &Arc<Node>) {
        let digest = self.image.digest();
        // An answer may have been lost, and a name be there all the same.
        let cached = node.store.cached_digests().await;
        if node.store.image_digests().contains(digest)
            || !cached.is_ok_and(|cached| !cached.contains(digest))
        {
            return;
        }
        let (data, digest) = (node.layout.data().to_owned(), digest.to_owned());
        if let Err(error) = blocking(move || Ok(image::discard(&data, &digest)?)).await {
            tracing::warn!(error = base::chain(&error), "an image without a name stays");
        }
    }
}

impl Orchestrator {
    /// Makes an image of what is on a sandbox's disk now. The sandbox goes on after a moment; of one that
    /// is stopped the guest is woken, so that what it had not written yet is in the image. Nothing is
    /// copied: the image shares the disk's layers. It has no name yet. Goes on to its end even if the caller
    /// leaves.
    ///
    /// `change` may change what the image that the sandbox was made of says about processes.
    ///
    /// # Errors
    /// Those of a copy; nothing of the image stays then.
    pub async fn save(
        &self,
        sandbox: &Sandbox,
        change: impl FnOnce(&mut Config) + Send + 'static,
        source: String,
    ) -> Result<SavedImage> {
        let (node, sandbox) = (Arc::clone(&self.node), sandbox.clone());
        let saving = tokio::spawn(async move {
            // Not below the images: only what is whole may ever be seen there.
            let place = node.layout.snapshots().join(random::hex::<8>());
            let directory = files::temporary_sibling(&place);
            let saved = save(&node, &sandbox, &directory, change, source).await;
            let removed = blocking(move || Ok(files::remove_any(&directory)?)).await;
            if let Err(error) = removed {
                tracing::warn!(
                    error = base::chain(&error),
                    "a copy of a disk stays until the next start"
                );
            }
            saved
        });
        saving.await.map_err(|error| Error::internal("a task failed", error))?
    }
}

async fn save(
    node: &Arc<Node>,
    sandbox: &Sandbox,
    directory: &std::path::Path,
    change: impl FnOnce(&mut Config) + Send + 'static,
    source: String,
) -> Result<SavedImage> {
    let disk_mib = sandbox.view().spec.disk_mib;
    sandbox.copy(SnapshotKind::Disk, vec![directory.to_owned()], Readers::Attached).await?;
    fault::point("save.copied")?;
    let (node, copy) = (Arc::clone(node), SandboxDir::at(directory.to_owned()));
    blocking(move || {
        let origin = copy.origin()?;
        let data = node.layout.data();
        let base = image::open_digest(data, &origin.image_digest)?;
        let raw = template::disk(&node.layout.template(&origin.template));
        let disk = copy.disk();
        let layers: Vec<PathBuf> =
            disk.layers()?.into_iter().map(|number| disk.layer(number)).collect();
        // The base image may have been saved itself: what it says is in these layers as well.
        let mut config = base.config().clone();
        change(&mut config);
        let disk = SavedDisk { size_mib: disk_mib, raw, layers };
        let hold = image::hold(data)?;
        let image = image::save(data, &base, &disk, config, source)?;
        if let Err(error) = fault::point("save.made") {
            image::discard(data, image.digest())?;
            return Err(error.into());
        }
        Ok(SavedImage { image, _hold: hold })
    })
    .await
}
