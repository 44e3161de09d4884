//! Rows about sandboxes that sleep when they are called: paused, on disk, and on disk with nothing
//! of it in the page cache.

use std::path::Path;

use anyhow::{Context as _, Result};
use api::StartSandbox;
use fs_err as fs;
use rustix::fs::{Advice, fadvise};

use super::{
    Bench,
    bare::Kit,
    calls::all_at_once,
    rounds::{WARM_UP_CALLS, WARM_UP_VMS, exec_true, timed},
    rows::{
        Row::{
            self, GuestForkExec, WakeColdCached, WakeColdDropped, WakeStorm100, WakeWarmOverHot,
        },
        milliseconds,
    },
};

/// Rows of sandboxes that are on disk.
const COLD: [Row; 2] = [WakeColdCached, WakeColdDropped];
/// Commands that find a sandbox asleep at the same time.
const STORM: usize = 100;
/// What the cheapest call that the guest has to answer asks about.
const ANYTHING: &str = "/";

impl Bench<'_> {
    /// Every row of this file that was asked for.
    pub(super) async fn wakes(&mut self, n: usize, n_at_once: usize) -> Result<()> {
        if self.samples.want(&[WakeWarmOverHot]) {
            self.warm_rounds(n).await?;
        }
        if self.samples.want(&COLD) || self.samples.want(&[WakeStorm100]) {
            let kit = self.kit().await?;
            // One after the other: what the second drops, the first must not have to read again.
            for row in COLD {
                if self.samples.want(&[row]) {
                    self.cold_rounds(&kit, row, n).await?;
                }
            }
            if self.samples.want(&[WakeStorm100]) {
                self.storm_rounds(&kit, n_at_once).await?;
            }
        }
        Ok(())
    }

    /// What the same call takes longer if the vCPUs are paused.
    async fn warm_rounds(&mut self, n: usize) -> Result<()> {
        self.announce(&[WakeWarmOverHot], n, WARM_UP_CALLS);
        let id = self.create().await?.id;
        for round in 0..n + WARM_UP_CALLS {
            self.samples.warming_up = round < WARM_UP_CALLS;
            let (hot, _) = timed(self.client.file_stat(&id, ANYTHING)).await?;
            self.client.pause(&id).await?;
            let (warm, _) = timed(self.client.file_stat(&id, ANYTHING)).await?;
            self.samples.add(WakeWarmOverHot, milliseconds(warm) - milliseconds(hot));
        }
        self.client.destroy(&id).await?;
        Ok(())
    }

    async fn cold_rounds(&mut self, kit: &Kit, row: Row, n: usize) -> Result<()> {
        self.announce(&[row], n, WARM_UP_VMS);
        for round in 0..n + WARM_UP_VMS {
            self.samples.warming_up = round < WARM_UP_VMS;
            let id = self.asleep().await?;
            // Before anything is dropped, because it reads the template too.
            self.floor(kit).await?;
            if row == WakeColdDropped {
                let own = self.daemon.data().join("sandboxes").join(&id);
                for path in kit.shared_files().into_iter().chain([own.as_path()]) {
                    drop_cached(path).with_context(|| format!("drop {}", path.display()))?;
                }
            }
            let (time, _) = timed(self.client.start(&id, &StartSandbox::default(), |_| {})).await?;
            self.samples.add_time(row, time);
            self.client.destroy(&id).await?;
        }
        Ok(())
    }

    /// As many commands at once as connections on a sandbox that is on disk, until the last answer.
    async fn storm_rounds(&mut self, kit: &Kit, n: usize) -> Result<()> {
        self.announce(&[WakeStorm100], n, WARM_UP_VMS);
        let vm = kit.launch(kit.plan()?).await?;
        vm.hello().await?;
        let mut clients = self.connections(STORM).await?;
        for round in 0..n + WARM_UP_VMS {
            self.samples.warming_up = round < WARM_UP_VMS;
            let id = self.asleep().await?;
            self.samples.add_time(GuestForkExec, vm.time_spawn().await?);
            let time = all_at_once(&mut clients, &id).await?;
            self.samples.add_time(WakeStorm100, time);
            self.client.destroy(&id).await?;
        }
        vm.end().await
    }

    /// A new sandbox that has run a command and was then stopped.
    async fn asleep(&mut self) -> Result<String> {
        let id = self.create().await?.id;
        exec_true(&mut self.client, &id).await?;
        self.client.stop(&id, |_| {}).await?;
        Ok(id)
    }
}

/// Has the kernel forget what it keeps in memory of a file, or of all files of a directory. What it
/// has not written to the disk yet cannot be forgotten, so that is written first.
fn drop_cached(path: &Path) -> Result<()> {
    if path.is_dir() {
        return fs::read_dir(path)?.try_for_each(|entry| drop_cached(&entry?.path()));
    }
    let file = fs::File::open(path)?;
    file.sync_all()?;
    Ok(fadvise(file.file(), 0, None, Advice::DontNeed)?)
}
