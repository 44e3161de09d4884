//! Rows about copies of a sandbox that runs: named snapshots and forks.
//!
//! Every sample has a sandbox of its own, because each copy leaves the source another disk layer.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll},
};

use anyhow::{Context as _, Result, ensure};
use api::{CreateSnapshot, ForkSandbox};
use tokio::io::{AsyncRead, ReadBuf};

use super::{
    Bench,
    bare::Kit,
    rounds::{WARM_UP_VMS, exec_true, timed},
    rows::Row::{
        self, Fork1, Fork10, SnapshotMb0, SnapshotMb50, SnapshotMb300, SnapshotStall0,
        SnapshotStall50, SnapshotStall300, SnapshotTotal0, SnapshotTotal50, SnapshotTotal300,
    },
};

/// The name of the only snapshot.
const SNAPSHOT: &str = "bench";
/// Where the guest's memory is changed: a file here is nothing but memory.
pub(super) const DIRT: &str = "/dev/shm/dirt";
pub(super) const MIB: u64 = 1 << 20;

/// Snapshots of guests that have changed so much of their memory.
struct Snapshots {
    /// MB.
    dirty: u64,
    stall: Row,
    total: Row,
    size: Row,
    /// Whether each takes so long that fewer will do.
    large: bool,
}

const SNAPSHOTS: [Snapshots; 3] = [
    Snapshots {
        dirty: 0,
        stall: SnapshotStall0,
        total: SnapshotTotal0,
        size: SnapshotMb0,
        large: false,
    },
    Snapshots {
        dirty: 50,
        stall: SnapshotStall50,
        total: SnapshotTotal50,
        size: SnapshotMb50,
        large: false,
    },
    Snapshots {
        dirty: 300,
        stall: SnapshotStall300,
        total: SnapshotTotal300,
        size: SnapshotMb300,
        large: true,
    },
];

/// Forks, with how many copies each makes.
const FORKS: [(Row, u32); 2] = [(Fork1, 1), (Fork10, 10)];

impl Bench<'_> {
    /// Snapshots of sandboxes that go on.
    pub(super) async fn snapshots(&mut self, n: usize, n_large: usize) -> Result<()> {
        for snapshots in SNAPSHOTS {
            let rows = [snapshots.stall, snapshots.total, snapshots.size];
            if !self.samples.want(&rows) {
                continue;
            }
            // What is kept in memory as files may be half of it.
            if 2 * snapshots.dirty > self.request.memory_mb.unwrap_or_default() {
                self.say(&format!("{}: left out, the guest is too small", rows[0].name()));
                continue;
            }
            let n = if snapshots.large { n_large } else { n };
            self.announce(&rows, n, WARM_UP_VMS);
            let kit = self.kit().await?;
            for round in 0..n + WARM_UP_VMS {
                self.samples.warming_up = round < WARM_UP_VMS;
                self.snapshot_round(&kit, &snapshots).await?;
            }
        }
        Ok(())
    }

    async fn snapshot_round(&mut self, kit: &Kit, snapshots: &Snapshots) -> Result<()> {
        let id = self.create().await?.id;
        exec_true(&mut self.client, &id).await?;
        if snapshots.dirty > 0 {
            let noise = Noise::new(snapshots.dirty * MIB);
            self.client.file_write(&id, DIRT, None, noise).await.context("fill memory")?;
        }
        self.floor(kit).await?;
        let request = CreateSnapshot { name: SNAPSHOT.to_owned(), kind: None };
        let (time, taken) = timed(self.client.checkpoint(&id, &request)).await?;
        let stall = taken.paused_ms.context("the sandbox did not run")?;
        self.samples.add(snapshots.stall, stall);
        self.samples.add_time(snapshots.total, time);
        self.samples.add(snapshots.size, taken.snapshot.size_bytes as f64 / MIB as f64);
        self.client.delete_snapshot(SNAPSHOT).await?;
        self.client.destroy(&id).await?;
        Ok(())
    }

    /// Copies that run beside their source.
    pub(super) async fn forks(&mut self, n: usize, n_at_once: usize) -> Result<()> {
        for (row, count) in FORKS {
            if !self.samples.want(&[row]) {
                continue;
            }
            let n = if count > 1 { n_at_once } else { n };
            self.announce(&[row], n, WARM_UP_VMS);
            let kit = self.kit().await?;
            for round in 0..n + WARM_UP_VMS {
                self.samples.warming_up = round < WARM_UP_VMS;
                self.fork_round(&kit, row, count).await?;
            }
        }
        Ok(())
    }

    async fn fork_round(&mut self, kit: &Kit, row: Row, count: u32) -> Result<()> {
        let id = self.create().await?.id;
        exec_true(&mut self.client, &id).await?;
        self.floor(kit).await?;
        let request = ForkSandbox { name: None, count: Some(count) };
        let (time, made) = timed(self.client.fork(&id, &request)).await?;
        ensure!(made.len() == count as usize, "{} copies of {count} were made", made.len());
        self.samples.add_time(row, time);
        for copy in made {
            self.client.destroy(&copy.id).await?;
        }
        self.client.destroy(&id).await?;
        Ok(())
    }
}

/// A file's content that nothing makes smaller: no two pages of it are equal, none is empty.
#[derive(Debug)]
pub(super) struct Noise {
    /// Of the generator, which is Vigna's splitmix64.
    state: u64,
    left: u64,
}

impl Noise {
    pub(super) fn new(bytes: u64) -> Self {
        Self { state: u64::from_ne_bytes(base::random::bytes()), left: bytes }
    }

    fn next(&mut self) -> u64 {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.state ^ (self.state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }
}

impl io::Read for Noise {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let count = into.len().min(usize::try_from(self.left).unwrap_or(usize::MAX));
        for part in into[..count].chunks_mut(size_of::<u64>()) {
            let bytes = self.next().to_ne_bytes();
            part.copy_from_slice(&bytes[..part.len()]);
        }
        self.left -= count as u64;
        Ok(count)
    }
}

impl AsyncRead for Noise {
    fn poll_read(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
        into: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let count = io::Read::read(&mut *self, into.initialize_unfilled())?;
        into.advance(count);
        Poll::Ready(Ok(()))
    }
}

#[cfg(test)]
mod tests {
    use std::{collections::HashSet, io::Read as _};

    use super::*;

    #[test]
    fn noise_is_as_long_as_told_and_repeats_nothing() {
        let mut content = Vec::new();
        Noise::new(MIB + 5).read_to_end(&mut content).unwrap();
        assert_eq!(content.len() as u64, MIB + 5);
        let words: HashSet<&[u8]> = content.chunks_exact(8).collect();
        assert_eq!(words.len() as u64, MIB / 8);
    }
}
