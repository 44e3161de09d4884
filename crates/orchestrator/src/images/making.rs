//! Who makes content, and who clears away what did not become any.

use std::{
    collections::HashSet,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use disk::image::{self, Hold};
use tokio::sync::{OwnedRwLockReadGuard, OwnedSemaphorePermit};

use super::Images;
use crate::{
    Error, Result,
    node::{Node, blocking},
};

/// Content is being made: until this is gone no layer and no content is taken for garbage. Whoever
/// works on it in a thread holds it, too.
#[derive(Debug)]
pub(crate) struct Making {
    node: Arc<Node>,
    /// Whether what was made has a name.
    done: AtomicBool,
    /// Against others on this host; gone before those of this process are asked.
    host: Option<Hold>,
    process: Option<OwnedRwLockReadGuard<()>>,
}

impl Making {
    pub(crate) async fn begin(node: &Arc<Node>) -> Result<Arc<Self>> {
        let process = Arc::clone(&node.images.making).read_owned().await;
        let data = node.layout.data().to_owned();
        let host = blocking(move || Ok(image::hold(&data)?)).await?;
        Ok(Arc::new(Self {
            node: Arc::clone(node),
            done: AtomicBool::new(false),
            host: Some(host),
            process: Some(process),
        }))
    }

    /// What was made has a name.
    pub(crate) fn done(&self) {
        self.done.store(true, Ordering::Relaxed);
    }
}

impl Drop for Making {
    fn drop(&mut self) {
        self.host = None;
        self.process = None;
        let images = &self.node.images;
        if !self.done.load(Ordering::Relaxed) {
            images.loose.store(true, Ordering::Relaxed);
        }
        if !images.loose.load(Ordering::Relaxed) {
            return;
        }
        // Whoever is the last sees to it.
        let Ok(alone) = Arc::clone(&images.making).try_write_owned() else { return };
        images.loose.store(false, Ordering::Relaxed);
        let data = self.node.layout.data().to_owned();
        tokio::task::spawn_blocking(move || {
            if let Err(error) = collect_loose(&data) {
                tracing::warn!(error = base::chain(&error), "layers stay behind");
            }
            drop(alone);
        });
    }
}

/// Removes layers of which no content is made. Content stays, whether or not anybody has a name for
/// it.
pub(crate) fn collect_loose(data: &Path) -> Result<()> {
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
    image::collect_garbage(data, &all)?;
    Ok(())
}

impl Images {
    /// A turn to fetch or convert; waits while enough others do.
    pub(super) async fn turn(&self) -> Result<OwnedSemaphorePermit> {
        let turn = Arc::clone(&self.turns).acquire_owned().await;
        turn.map_err(|error| Error::internal("the daemon is ending", error))
    }
}
