//! New layers for disks that are being written, and fewer of them.

use base::fault;
use vmm::{Drive, Vm};

use super::{Driver, Phase};
use crate::{
    Error, Result,
    chain::{self, Chain, Shorten},
    node::blocking,
    sandbox_dir::Layers,
};

impl Driver {
    /// One of the disks that the sandbox writes to.
    pub(super) fn chain(&self, drive: Drive) -> Result<Chain> {
        let chain = self.directory.chain(drive);
        chain.ok_or_else(|| Error::internal("there is no such disk", format!("{drive:?}")))
    }

    /// A sandbox that is often copied and never stopped must not collect layers for ever.
    pub(super) async fn keep_chains_short(&self) -> Result<()> {
        let Some(live) = self.phase.live() else { return Ok(()) };
        for (drive, layers) in self.directory.layers()?.each() {
            if chain::is_long(layers) {
                self.keep_chain_short(&live.vm, drive).await?;
            }
        }
        Ok(())
    }

    async fn keep_chain_short(&self, vm: &Vm, drive: Drive) -> Result<()> {
        let chain = self.chain(drive)?;
        let Some(top) = vm.top_layer(drive).await? else { return Ok(()) };
        vm.flatten_layers(drive).await?;
        // On the disk before what it replaces goes: first most of it, then what the monitor has in
        // its caches, for which the guest has to stand still.
        let flushing = chain.clone();
        blocking(move || flushing.flush_layer(top)).await?;
        vm.pause().await?;
        if matches!(self.phase, Phase::Hot(_)) {
            vm.resume().await?;
        }
        let directory = self.directory.clone();
        blocking(move || {
            chain.flush_layer(top)?;
            let mut keep = directory.layers_of_snapshots(drive)?;
            keep.push(top);
            chain.keep_layers(&keep)
        })
        .await
    }

    /// Makes new layers that the monitor can switch to at once, and has what was written so far
    /// on the disk, so that the guest does not stand still for that.
    pub(super) async fn prepare_layers(
        &self,
        vm: &Vm,
        drives: &[Drive],
    ) -> Result<Vec<(Drive, u32)>> {
        let mut prepared = Vec::with_capacity(drives.len());
        for drive in drives {
            match self.prepare_layer(vm, *drive).await {
                Ok(number) => prepared.push((*drive, number)),
                Err(error) => {
                    self.drop_layers(vm, &prepared).await;
                    return Err(error);
                }
            }
        }
        match fault::point("copy.prepared") {
            Ok(()) => Ok(prepared),
            Err(error) => {
                self.drop_layers(vm, &prepared).await;
                Err(error.into())
            }
        }
    }

    async fn prepare_layer(&self, vm: &Vm, drive: Drive) -> Result<u32> {
        let chain = self.chain(drive)?;
        if let Some(top) = vm.top_layer(drive).await? {
            let flushing = chain.clone();
            blocking(move || flushing.flush_layer(top)).await?;
        }
        let number = chain.add_layer(chain.bytes()?)?;
        let prepared = async {
            let read_write = chain.open_layer(number, true)?;
            let read_only = chain.open_layer(number, false)?;
            Ok(vm.prepare_layer(drive, number, read_write, read_only).await?)
        };
        if let Err(error) = prepared.await {
            // The monitor does not know it then.
            chain.remove_layer(number)?;
            return Err(error);
        }
        Ok(number)
    }

    /// Forgets layers that were prepared and not used. If even that fails they stay, empty and on
    /// top, and do no harm; their numbers must not be used again while the monitor knows them.
    pub(super) async fn drop_layers(&self, vm: &Vm, layers: &[(Drive, u32)]) {
        for (drive, number) in layers.iter().copied() {
            if vm.top_layer(drive).await.is_ok_and(|top| top == Some(number)) {
                continue;
            }
            let dropped = match vm.drop_layer(drive, number).await {
                Ok(()) => self.chain(drive).and_then(|chain| chain.remove_layer(number)),
                Err(error) => Err(error.into()),
            };
            if let Err(error) = dropped {
                tracing::debug!(sandbox = %self.record.id, error = base::chain(&error),
                    "an unused layer stays");
            }
        }
    }

    /// Forgets layers that an earlier daemon had prepared when it ended.
    pub(super) async fn drop_unused_layers(&self, vm: &Vm) {
        for (drive, chain) in self.directory.chains() {
            let (Ok(Some(top)), Ok(layers)) = (vm.top_layer(drive).await, chain.layers()) else {
                continue;
            };
            let above = layers.into_iter().filter(|number| *number > top);
            let unused: Vec<(Drive, u32)> = above.map(|number| (drive, number)).collect();
            self.drop_layers(vm, &unused).await;
        }
    }

    /// Makes layers of a VM that stands still for good fewer, and says which are left.
    pub(super) async fn merge_layers(
        &self,
        vm: &Vm,
        layers: &Layers,
        wanted: &[(Drive, Shorten)],
    ) -> Result<Layers> {
        let mut rest = layers.clone();
        for (drive, how) in wanted.iter().copied() {
            let left = match how {
                Shorten::Into(base) => {
                    let file = self.chain(drive)?.open_layer(base, true)?;
                    vm.merge_layers(drive, base, file).await?;
                    layers.of(drive).iter().copied().take_while(|layer| *layer <= base).collect()
                }
                Shorten::Flatten => {
                    vm.flatten_layers(drive).await?;
                    layers.of(drive).last().copied().into_iter().collect()
                }
            };
            rest.replace(drive, left);
        }
        // The VM stands still already, but what it was told since then may be in the monitor's
        // caches only.
        vm.pause().await?;
        Ok(rest)
    }
}
