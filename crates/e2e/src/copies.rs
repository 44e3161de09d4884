//! Snapshots and copies of a sandbox.

use std::path::{Path, PathBuf};

use api::{
    CreateSnapshot, ForkSandbox, ResumeSnapshot, Sandbox, SnapshotTaken, SnapshotType,
    client::{Client, ClientError},
};

use crate::{Guest, guest::told};

impl Guest {
    /// Keeps memory and disk under a name.
    ///
    /// # Panics
    /// If that fails.
    pub async fn checkpoint(&mut self, name: &str) -> SnapshotTaken {
        let taken = self.snapshot_of(name, SnapshotType::Memory).await;
        taken.unwrap_or_else(|error| panic!("checkpoint: {}", told(&error)))
    }

    /// Keeps the disk under a name.
    ///
    /// # Panics
    /// If that fails.
    pub async fn checkpoint_disk(&mut self, name: &str) -> SnapshotTaken {
        let taken = self.snapshot_of(name, SnapshotType::Disk).await;
        taken.unwrap_or_else(|error| panic!("checkpoint of the disk: {}", told(&error)))
    }

    /// Asks for a snapshot.
    pub async fn snapshot_of(
        &mut self,
        name: &str,
        kind: SnapshotType,
    ) -> Result<SnapshotTaken, ClientError> {
        let request = CreateSnapshot { name: name.to_owned(), kind: Some(kind) };
        self.client.checkpoint(&self.id, &request).await
    }

    /// A sandbox made of a snapshot of the client's user.
    ///
    /// # Panics
    /// If it cannot be made.
    pub async fn resumed(mut client: Client, snapshot: &str, name: &str) -> Self {
        let request = ResumeSnapshot { name: Some(name.to_owned()) };
        let made = client.resume_snapshot(snapshot, &request).await;
        let made = made.unwrap_or_else(|error| panic!("resume {snapshot}: {}", told(&error)));
        Self { client, id: made.id }
    }

    /// Asks for copies with a name.
    pub async fn copies(&mut self, name: &str, count: u32) -> Result<Vec<Sandbox>, ClientError> {
        let request = ForkSandbox { name: Some(name.to_owned()), count: Some(count) };
        self.client.fork(&self.id, &request).await
    }

    /// Copies, each with a connection of its own by `client`.
    ///
    /// # Panics
    /// If they cannot be made.
    pub async fn fork(&mut self, name: &str, count: u32, client: impl Fn() -> Client) -> Vec<Self> {
        let made = self.copies(name, count).await;
        let made = made.unwrap_or_else(|error| panic!("fork: {}", told(&error)));
        assert_eq!(made.len(), usize::try_from(count).unwrap_or(usize::MAX));
        made.into_iter().map(|copy| Self { client: client(), id: copy.id }).collect()
    }

    /// Removes the sandbox.
    ///
    /// # Panics
    /// If it cannot be removed.
    pub async fn destroy(mut self) {
        let gone = self.client.destroy(&self.id).await;
        gone.unwrap_or_else(|error| panic!("destroy: {}", told(&error)));
    }
}

/// All files below a directory.
///
/// # Panics
/// If it cannot be read.
pub fn files_below(directory: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs_err::read_dir(directory).expect("the directory can be read") {
        let path = entry.expect("the directory can be read").path();
        if path.is_dir() {
            found.extend(files_below(&path));
        } else {
            found.push(path);
        }
    }
    found.sort();
    found
}

/// Flips one bit of a file at `at` thousandths of it, or after that: not in a hole, which may well
/// be skipped.
///
/// # Panics
/// If the file is empty or cannot be written.
pub fn flip_bit(path: &Path, at: usize) {
    let mut bytes = fs_err::read(path).expect("the file can be read");
    let from = bytes.len() * at / 1000;
    let found = (from..bytes.len()).chain(0..from).find(|at| bytes[*at] != 0);
    bytes[found.expect("the file says something")] ^= 1;
    fs_err::write(path, bytes).expect("the file can be written");
}

/// Cuts off the last `cut` bytes of a file, at most all.
///
/// # Panics
/// If the file cannot be written.
pub fn truncate(path: &Path, cut: u64) {
    let file = fs_err::OpenOptions::new().write(true).open(path).expect("the file is there");
    let length = file.metadata().expect("the file is there").len();
    file.set_len(length.saturating_sub(cut)).expect("the file can be cut");
}
