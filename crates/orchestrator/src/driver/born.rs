//! From a copy of another sandbox to hot.

use std::sync::Arc;

use base::fault;

use super::{
    Driver,
    saved::{Captured, Saved},
};
use crate::{
    Result,
    facade::Progress,
    guest::{Channel, Patience},
    record::Likeness,
};

/// What a sandbox begins as besides its directory, which is there already.
#[derive(Debug, Clone)]
pub(crate) struct Seed {
    /// Whom the guest in its memory believes itself to be.
    pub likeness: Likeness,
    /// Where its memory is.
    pub memory: Memory,
}

/// Where the memory of a copy is.
#[derive(Debug, Clone)]
pub(crate) enum Memory {
    /// In ours.
    Captured(Arc<Captured>),
    /// In the snapshot in its directory.
    Directory,
    /// There is none: it boots.
    None,
}

impl Driver {
    /// Lets a copy run and makes it a sandbox of its own. After an error the caller removes what
    /// there is of it: a guest that is not known to have a new identity must not go on.
    pub(super) async fn be_born(&mut self, seed: &Seed, progress: &Progress) -> Result<()> {
        let snapshot;
        let saved = match &seed.memory {
            Memory::None => {
                self.start_from_disk(progress).await?;
                return Ok(());
            }
            Memory::Captured(captured) => Saved::Memory(captured),
            Memory::Directory => match self.directory.snapshot()? {
                Some(found) => {
                    self.directory.has_newer_layers(&found.manifest)?;
                    snapshot = found;
                    Saved::File(&snapshot)
                }
                None => return Err(self.not_running("copied")),
            },
        };
        let opened = self.open_saved(saved).await?;
        let _turn = self.node.turn().await?;
        let layers = self.directory.add_layers(&self.directory.layers()?)?;
        let vm = self.launch_saved(opened, &layers).await?;
        let channel = Channel::open(&vm, Patience::Running).await?;
        let Likeness { sandbox_id, identity } = &seed.likeness;
        let jobs = channel.meet(sandbox_id.as_str(), identity).await?;
        fault::point("born.met")?;
        channel.identify(self.identity()?).await?;
        fault::point("born.identified")?;
        self.awake.met(channel.session(), jobs);
        // It belongs to a guest with another identity.
        self.directory.forget_snapshots()?;
        self.is_hot(vm, channel).await
    }
}
