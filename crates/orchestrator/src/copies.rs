//! Snapshots, what is made of them, and copies of living sandboxes.

use crate::{
    Error, Kind, Orchestrator, Result, Sandbox,
    facade::Progress,
    model::{Edit, ForkRequest, SandboxView, SnapshotKind, SnapshotTaken, SnapshotView, User},
};

fn not_yet<T>() -> Result<T> {
    Err(Error::new(Kind::Internal, "not yet"))
}

impl Orchestrator {
    /// Keeps what a sandbox is now under a name. It goes on after a moment.
    pub async fn take_snapshot(
        &self,
        _owner: &User,
        _sandbox: &Sandbox,
        _name: &str,
        _kind: SnapshotKind,
    ) -> Result<SnapshotTaken> {
        not_yet()
    }

    /// The owner's snapshots by name.
    pub async fn snapshots(&self, _owner: &User) -> Result<Vec<SnapshotView>> {
        not_yet()
    }

    /// One of the owner's snapshots by name or id.
    pub async fn snapshot(&self, _owner: &User, _name_or_id: &str) -> Result<SnapshotView> {
        not_yet()
    }

    /// Removes a snapshot. What was made of it goes on.
    pub async fn delete_snapshot(&self, _owner: &User, _name_or_id: &str) -> Result<SnapshotView> {
        not_yet()
    }

    /// Makes a sandbox that goes on where the snapshot was taken.
    pub async fn resume_snapshot(
        &self,
        _owner: &User,
        _snapshot: &str,
        _name: Option<String>,
        _progress: Progress,
    ) -> Result<SandboxView> {
        not_yet()
    }

    /// Makes copies of a sandbox as it is now. It goes on after a moment.
    pub async fn fork(
        &self,
        _owner: &User,
        _sandbox: &Sandbox,
        _request: ForkRequest,
        _progress: Progress,
    ) -> Result<Vec<SandboxView>> {
        not_yet()
    }

    /// Changes what its owner may change of a sandbox.
    pub async fn edit(&self, sandbox: &Sandbox, edit: Edit) -> Result<SandboxView> {
        sandbox.edit(edit).await
    }
}
