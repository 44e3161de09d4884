//! What a sandbox takes longer because it has a volume.

use anyhow::Result;
use api::{CreateSandbox, CreateVolume, VolumeMount};

use super::{
    Bench,
    bare::Kit,
    rounds::WARM_UP_VMS,
    rows::{
        Row::{CreateVolume as CreateWithVolume, VolumeAttach},
        milliseconds,
    },
};

/// The volume, its size in MB, and where it is mounted.
const VOLUME: &str = "bench";
const SIZE_MB: u64 = 256;
const TARGET: &str = "/bench";

impl Bench<'_> {
    /// Every row of this file that was asked for.
    pub(super) async fn volumes(&mut self, n: usize) -> Result<()> {
        let rows = [CreateWithVolume, VolumeAttach];
        if !self.samples.want(&rows) {
            return Ok(());
        }
        let kit = self.kit().await?;
        self.announce(&rows, n, WARM_UP_VMS);
        let volume = CreateVolume { name: VOLUME.to_owned(), size_mb: SIZE_MB };
        self.client.create_volume(&volume).await?;
        for round in 0..n + WARM_UP_VMS {
            self.samples.warming_up = round < WARM_UP_VMS;
            self.volume_round(&kit).await?;
        }
        self.client.delete_volume(VOLUME).await?;
        Ok(())
    }

    async fn volume_round(&mut self, kit: &Kit) -> Result<()> {
        let (name, mount) = (VOLUME.to_owned(), TARGET.to_owned());
        let volumes = vec![VolumeMount { name, mount, read_only: false }];
        let with = CreateSandbox { volumes, ..self.request.clone() };
        let without = self.create_beside(kit).await?;
        self.settle(&with).await?;
        let time = self.create_once(&with).await?;
        self.samples.add_time(CreateWithVolume, time);
        self.samples.add(VolumeAttach, milliseconds(time) - milliseconds(without));
        Ok(())
    }
}
