//! Where archives and layers lie while they come in.
//!
//! `incoming/<random>`: whoever makes one removes it; what a killed daemon leaves goes when the
//! next one begins, which is the only one then.

use std::{
    fs::DirBuilder,
    os::unix::fs::DirBuilderExt as _,
    path::{Path, PathBuf},
};

use base::files;

use crate::{Result, layout::Layout};

/// A directory that is gone when this is.
#[derive(Debug)]
pub(super) struct Incoming(PathBuf);

impl Incoming {
    pub(super) fn make(layout: &Layout) -> Result<Self> {
        let path = layout.incoming().join(base::random::hex::<8>());
        // Somebody's images are nobody else's business on this host.
        DirBuilder::new().recursive(true).mode(0o700).create(&path)?;
        Ok(Self(path))
    }

    pub(super) fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Incoming {
    fn drop(&mut self) {
        if let Err(error) = files::remove_any(&self.0) {
            tracing::warn!(%error, "what was coming in stays behind until the next start");
        }
    }
}

/// Removes what an earlier daemon left.
pub(crate) fn sweep(layout: &Layout) -> Result<()> {
    Ok(files::remove_any(&layout.incoming())?)
}
