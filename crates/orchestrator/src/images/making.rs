//! Who makes content, and who clears away what did not become any.

use std::{
    collections::HashSet,
    fs::Permissions,
    os::unix::fs::PermissionsExt as _,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use disk::{
    image::{self, Config, Hold, Image},
    layer::LayerId,
};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::Images;
use crate::{
    Error, Result,
    node::{Node, blocking},
};

/// Content is being made or about to be used: until this is gone no layer and no content is taken for
/// garbage. Whoever works on it in a thread holds it, too.
#[derive(Debug)]
pub(crate) struct Making {
    node: Arc<Node>,
    /// Whether what was made has a name.
    done: AtomicBool,
    hold: Option<Hold>,
}

impl Making {
    pub(crate) async fn begin(node: &Arc<Node>) -> Result<Arc<Self>> {
        let data = node.layout.data().to_owned();
        let hold = blocking(move || Ok(image::hold(&data)?)).await?;
        let done = AtomicBool::new(false);
        Ok(Arc::new(Self { node: Arc::clone(node), done, hold: Some(hold) }))
    }

    /// What was made has a name.
    pub(crate) fn done(&self) {
        self.done.store(true, Ordering::Relaxed);
    }
}

impl Drop for Making {
    fn drop(&mut self) {
        self.hold = None;
        let images = &self.node.images;
        if !self.done.load(Ordering::Relaxed) {
            images.loose.store(true, Ordering::Relaxed);
        }
        if !images.loose.load(Ordering::Relaxed) {
            return;
        }
        let node = Arc::clone(&self.node);
        tokio::task::spawn_blocking(move || match collect_loose(node.layout.data()) {
            Ok(true) => node.images.loose.store(false, Ordering::Relaxed),
            // Whoever is the last sees to it.
            Ok(false) => {}
            Err(error) => tracing::warn!(error = base::chain(&error), "layers stay behind"),
        });
    }
}

/// Makes an image of stored layers that nobody but the daemon's user can read on this host: it may be one
/// that is not everybody's. Monitors get it opened.
pub(super) fn assemble(
    data: &Path,
    layers: &[LayerId],
    config: Config,
    source: String,
) -> Result<Image> {
    let image = image::assemble(data, layers, config, source)?;
    if let Some(content) = image.files().first().and_then(|root| root.parent()) {
        fs_err::set_permissions(content, Permissions::from_mode(0o700))?;
    }
    hide_layers(data)?;
    Ok(image)
}

/// Has nobody but the daemon's user look into layers on this host.
pub(super) fn hide_layers(data: &Path) -> Result<()> {
    let layers = data.join("images/layers");
    if layers.exists() {
        fs_err::set_permissions(layers, Permissions::from_mode(0o700))?;
    }
    Ok(())
}

/// Removes layers of which no content is made, unless somebody makes some; whether it could. Content
/// stays, whether or not anybody has a name for it.
pub(crate) fn collect_loose(data: &Path) -> Result<bool> {
    let Some(collector) = image::collector(data)? else { return Ok(false) };
    let mut all = HashSet::new();
    match fs_err::read_dir(data.join("images/content")) {
        Ok(entries) => {
            for entry in entries {
                all.insert(entry?.file_name().to_string_lossy().into_owned());
            }
        }
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
        Err(error) => return Err(error.into()),
    }
    collector.collect(&all)?;
    Ok(true)
}

impl Images {
    /// A turn to fetch or convert; waits while enough others do.
    pub(super) async fn turn(&self) -> Result<OwnedSemaphorePermit> {
        turn_of(&self.turns).await
    }

    /// A turn to pack an image; waits while enough others do.
    pub(super) async fn packing_turn(&self) -> Result<OwnedSemaphorePermit> {
        turn_of(&self.packing_turns).await
    }
}

async fn turn_of(turns: &Arc<Semaphore>) -> Result<OwnedSemaphorePermit> {
    let turn = Arc::clone(turns).acquire_owned().await;
    turn.map_err(|error| Error::internal("the daemon is ending", error))
}
