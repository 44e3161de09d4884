//! The volumes of a sandbox: mounted when it begins, settled before it stops, copied and grown while it
//! runs.

use std::path::PathBuf;

use base::fault;
use proto::message::MountVolume;
use vmm::{Drive, Vm};

use super::{Driver, Phase};
use crate::{
    Error, Kind, Result,
    chain::Chain,
    guest::{self, Channel},
    node::blocking,
};

impl Driver {
    /// Whether the sandbox writes to any volume.
    fn writes_to_volumes(&self) -> bool {
        self.record.spec.volumes.iter().any(|volume| !volume.read_only)
    }

    /// The layers of volumes that a new sandbox begins with, by slot.
    pub(super) async fn first_layers_of_volumes(&self) -> Result<Vec<(u32, Vec<u32>)>> {
        if self.record.spec.volumes.is_empty() {
            return Ok(Vec::new());
        }
        let mut sizes = Vec::new();
        // Nobody is to share layers that are found to be nobody else's.
        let _alone = self.node.volumes.lock().await;
        for volume in &self.record.spec.volumes {
            let found = self.node.store.volume(&volume.volume).await?;
            if !Chain::at(self.node.layout.volume(&volume.volume)).raw().exists() {
                let message = format!("the data of volume {} are not there", volume.name);
                return Err(Error::new(Kind::Internal, message)
                    .hint("bring its directory back from a backup of the data directory"));
            }
            sizes.push(found.size_mib << 20);
        }
        let begun = self.directory.begin_volumes(&sizes)?;
        fault::point("volumes.begun")?;
        Ok(begun)
    }

    /// Has a guest that has just booted, or looks like it, mount its volumes.
    pub(super) async fn mount_volumes(&self, channel: &Channel) -> Result<()> {
        let volumes = &self.record.spec.volumes;
        if volumes.is_empty() {
            return Ok(());
        }
        let sizes = self.directory.volume_bytes()?;
        let wanted = (0..).zip(volumes.iter().zip(sizes)).map(|(slot, (volume, bytes))| {
            let (target, read_only) = (volume.target.clone(), volume.read_only);
            MountVolume { slot, target, read_only, bytes }
        });
        guest::mount_volumes(channel.session(), wanted.collect()).await.map_err(
            |error| match error.kind {
                Kind::VolumeUnclean => error.hint(
                    "a sandbox that may write to it mends it, and leaves it whole when it is \
                     destroyed: bhatti create --volume NAME:/PATH",
                ),
                _ => error,
            },
        )?;
        Ok(fault::point("volumes.mounted")?)
    }

    /// Has all that was written to volumes on them, whole, and nothing more written until the guest is
    /// called again.
    pub(super) async fn settle_volumes(&self) -> Result<()> {
        let channel = self.phase.live().and_then(|live| live.channel.as_ref());
        match channel {
            Some(channel) if self.writes_to_volumes() => {
                guest::freeze_volumes(channel.session()).await?;
                Ok(fault::point("volumes.settled")?)
            }
            None if self.writes_to_volumes() => {
                Err(Error::new(Kind::AgentUnreachable, "the guest agent does not answer"))
            }
            _ => Ok(()),
        }
    }

    /// Before the sandbox is gone: leaves volumes as if they had been unmounted. Says what is wrong with
    /// them otherwise.
    pub(super) async fn leave_volumes(&mut self) -> Option<String> {
        if !self.writes_to_volumes() {
            return None;
        }
        if matches!(self.phase, Phase::Failed) {
            return Some(not_whole("its VM had ended"));
        }
        self.phase.live()?;
        let left = async {
            self.shut().await;
            if matches!(self.phase, Phase::Warm(_)) {
                self.thaw().await?;
            }
            self.ensure_channel().await?;
            self.settle_volumes().await?;
            let Some(live) = self.phase.live() else { return Ok(()) };
            live.vm.pause().await?;
            fault::point("volumes.left")?;
            self.shorten_volumes(&live.vm).await
        };
        match left.await {
            Ok(()) => None,
            Err(error) => {
                tracing::warn!(sandbox = %self.record.id, error = base::chain(&error),
                    "volumes could not be left as they should be");
                Some(not_whole(&error.message))
            }
        }
    }

    /// A volume that is used by one sandbox after another must not collect layers for ever.
    async fn shorten_volumes(&self, vm: &Vm) -> Result<()> {
        let layers = self.directory.layers()?;
        let mut wanted = self.directory.shorten(&layers)?;
        wanted.retain(|(drive, _)| *drive != Drive::Scratch);
        if wanted.is_empty() {
            return Ok(());
        }
        let rest = self.merge_layers(vm, &layers, &wanted).await?;
        // No snapshot of the sandbox is of use any more, and none must name what is not there.
        self.directory.forget_snapshots()?;
        for (drive, _) in wanted {
            let (chain, keep) = (self.chain(drive)?, rest.of(drive).to_vec());
            blocking(move || {
                keep.iter().try_for_each(|number| chain.flush_layer(*number))?;
                chain.keep_layers(&keep)
            })
            .await?;
        }
        Ok(())
    }

    /// Makes a directory that shares one of the volumes as it is now, whole. The sandbox goes on as it
    /// was.
    pub(super) async fn copy_volume(&mut self, slot: u32, into: PathBuf) -> Result<()> {
        let drive = Drive::Volume(slot);
        match &self.phase {
            Phase::Hot(_) => self.copy_living_volume(drive, into).await,
            Phase::Warm(_) => {
                self.resume().await?;
                let copied = self.copy_living_volume(drive, into).await;
                self.pause().await?;
                copied
            }
            // It was settled when the sandbox stopped; after a failure its journal makes it whole.
            Phase::Cold | Phase::Failed => {
                let chain = self.chain(drive)?;
                let layers = chain.layers()?;
                share(chain, into, layers).await
            }
            Phase::Beginning | Phase::Gone => Err(self.not_running("copied from")),
        }
    }

    async fn copy_living_volume(&mut self, drive: Drive, into: PathBuf) -> Result<()> {
        self.keep_chains_short().await?;
        self.ensure_channel().await?;
        let chain = self.chain(drive)?;
        let layers = chain.layers()?;
        let Some(live) = self.phase.live() else { return Err(self.not_running("copied from")) };
        let Some(channel) = &live.channel else { return Err(self.not_running("copied from")) };
        let next = self.prepare_layers(&live.vm, &[drive]).await?;
        let switched = async {
            guest::freeze_volumes(channel.session()).await?;
            fault::point("volumes.frozen")?;
            Ok::<_, Error>(live.vm.switch_to_layers(&next).await?)
        };
        let switched = switched.await;
        let thawed = guest::thaw_volumes(channel.session()).await;
        if switched.is_err() {
            self.drop_layers(&live.vm, &next).await;
        }
        switched?;
        thawed?;
        share(chain, into, layers).await
    }

    /// Makes a volume larger while the guest uses it.
    pub(super) async fn grow_volume(&mut self, slot: u32, bytes: u64) -> Result<()> {
        let warm = match &self.phase {
            Phase::Hot(_) => false,
            Phase::Warm(_) => true,
            _ => return Err(self.not_running("used to grow a volume")),
        };
        self.resume().await?;
        self.ensure_channel().await?;
        let Some(live) = self.phase.live() else { return Err(self.not_running("used")) };
        let Some(channel) = &live.channel else { return Err(self.not_running("used")) };
        let grown = async {
            if self.chain(Drive::Volume(slot))?.bytes()? < bytes {
                live.vm.grow(Drive::Volume(slot), bytes).await?;
            }
            fault::point("volumes.grown")?;
            guest::grow_volume(channel.session(), slot, bytes).await
        };
        let grown = grown.await;
        if warm {
            self.pause().await?;
        }
        grown
    }
}

async fn share(chain: Chain, into: PathBuf, layers: Vec<u32>) -> Result<()> {
    blocking(move || {
        chain.link_to(&into, &layers)?;
        Chain::at(into).flush()
    })
    .await
}

fn not_whole(why: &str) -> String {
    format!(
        "what was written last to its volumes may be lost: {why}. The next sandbox that may write to \
         them makes their file systems whole"
    )
}
