//! Named snapshots and copies.

use hyper::Method;

use super::{encode, sandbox_path};
use crate::{
    CreateSnapshot, Deleted, ForkSandbox, ResumeSnapshot, Sandbox, Snapshot, SnapshotTaken,
    client::{Call, Client, ClientError, body::json},
};

impl Client {
    /// Keeps what a sandbox is now under a name. It goes on after a moment.
    pub async fn checkpoint(
        &mut self,
        id: &str,
        request: &CreateSnapshot,
    ) -> Result<SnapshotTaken, ClientError> {
        let call = Call::new(Method::POST, sandbox_path(id, "/checkpoint")).json(request)?;
        json(self.send(call).await?).await
    }

    /// The caller's snapshots by name.
    pub async fn snapshots(&mut self) -> Result<Vec<Snapshot>, ClientError> {
        json(self.send(Call::new(Method::GET, "/snapshots")).await?).await
    }

    /// One snapshot.
    pub async fn snapshot(&mut self, name: &str) -> Result<Snapshot, ClientError> {
        json(self.send(Call::new(Method::GET, snapshot_path(name, ""))).await?).await
    }

    /// Removes a snapshot. What was made of it goes on.
    pub async fn delete_snapshot(&mut self, name: &str) -> Result<Deleted, ClientError> {
        json(self.send(Call::new(Method::DELETE, snapshot_path(name, ""))).await?).await
    }

    /// Makes a sandbox that goes on where the snapshot was taken.
    pub async fn resume_snapshot(
        &mut self,
        name: &str,
        request: &ResumeSnapshot,
    ) -> Result<Sandbox, ClientError> {
        json(self.send(resume(name).json(request)?).await?).await
    }

    /// As [`resume_snapshot`](Self::resume_snapshot), telling `progress` what is being done.
    pub async fn resume_snapshot_watched(
        &mut self,
        name: &str,
        request: &ResumeSnapshot,
        progress: impl FnMut(String),
    ) -> Result<Sandbox, ClientError> {
        let call = resume(name).json(request)?.streamed();
        Ok(self.watched(call, progress).await?.sandbox)
    }

    /// Makes copies of a sandbox as it is now. It goes on after a moment.
    pub async fn fork(
        &mut self,
        id: &str,
        request: &ForkSandbox,
    ) -> Result<Vec<Sandbox>, ClientError> {
        let call = Call::new(Method::POST, sandbox_path(id, "/fork")).json(request)?;
        json(self.send(call).await?).await
    }
}

fn resume(name: &str) -> Call {
    Call::new(Method::POST, snapshot_path(name, "/resume"))
}

fn snapshot_path(name: &str, rest: &str) -> String {
    format!("/snapshots/{}{rest}", encode(name))
}
