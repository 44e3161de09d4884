//! What is done to sandboxes, and in which state they are before.

use api::{
    CreateSnapshot, ForkSandbox, ResumeSnapshot, Sandbox, SnapshotType, StartSandbox,
    client::{Client, ClientError},
};
use e2e::create_request;

/// The sandbox that has something to lose.
pub(crate) const KEPT: &str = "kept";
/// The sandbox that an operation makes.
pub(crate) const MADE: &str = "made";
/// The volume that [`KEPT`] may write to, and the one file on it.
pub(crate) const VOLUME: &str = "data";
pub(crate) const ON_VOLUME: &str = "/data/kept";
/// The snapshot of [`KEPT`].
pub(crate) const TAKEN: &str = "taken";

/// What is done when something goes wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Operation {
    Create,
    Pause,
    Resume,
    Stop,
    Wake,
    Destroy,
    TakeSnapshot,
    ResumeSnapshot,
    DeleteSnapshot,
    Fork,
}

/// What an operation finds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Before {
    Nothing,
    /// [`KEPT`], in this state.
    Hot,
    Warm,
    Cold,
    /// The same, and a snapshot that was taken of it earlier.
    ColdAndTaken,
}

impl Operation {
    pub(crate) fn before(self) -> Before {
        match self {
            Self::Create => Before::Nothing,
            Self::Pause | Self::Stop | Self::Destroy | Self::TakeSnapshot | Self::Fork => {
                Before::Hot
            }
            Self::Resume => Before::Warm,
            Self::Wake => Before::Cold,
            Self::ResumeSnapshot | Self::DeleteSnapshot => Before::ColdAndTaken,
        }
    }

    /// Whether [`KEPT`] writes to the volume [`VOLUME`]: where something is done for volumes, all that is
    /// done without any is done, too.
    pub(crate) fn has_volume(self) -> bool {
        matches!(
            self,
            Self::Stop
                | Self::Wake
                | Self::Destroy
                | Self::TakeSnapshot
                | Self::ResumeSnapshot
                | Self::Fork
        )
    }

    /// The sandbox or snapshot that is there once it has succeeded.
    pub(crate) fn makes(self) -> Option<&'static str> {
        match self {
            Self::Create | Self::ResumeSnapshot | Self::Fork => Some(MADE),
            Self::TakeSnapshot => Some(TAKEN),
            _ => None,
        }
    }

    /// The sandbox or snapshot that is gone once it has succeeded.
    pub(crate) fn removes(self) -> Option<&'static str> {
        match self {
            Self::Destroy => Some(KEPT),
            Self::DeleteSnapshot => Some(TAKEN),
            _ => None,
        }
    }

    /// Does it once.
    pub(crate) async fn act(self, client: &mut Client) -> Result<(), ClientError> {
        match self {
            Self::Create => client.create(&create_request(MADE), drop).await.map(drop),
            Self::Pause => client.pause(KEPT).await.map(drop),
            Self::Resume => client.resume(KEPT).await.map(drop),
            Self::Stop => client.stop(KEPT, drop).await.map(drop),
            Self::Wake => start(client, KEPT).await.map(drop),
            Self::Destroy => client.destroy(KEPT).await.map(drop),
            Self::TakeSnapshot => take(client).await,
            Self::ResumeSnapshot => resume_snapshot(client).await,
            Self::DeleteSnapshot => client.delete_snapshot(TAKEN).await.map(drop),
            Self::Fork => {
                let request = ForkSandbox { name: Some(MADE.to_owned()), count: None };
                client.fork(KEPT, &request).await.map(drop)
            }
        }
    }
}

/// Starts a sandbox from whatever keeps most.
pub(crate) async fn start(client: &mut Client, name: &str) -> Result<Sandbox, ClientError> {
    client.start(name, &StartSandbox::default(), drop).await
}

/// Takes the snapshot [`TAKEN`].
pub(crate) async fn take(client: &mut Client) -> Result<(), ClientError> {
    let request = CreateSnapshot { name: TAKEN.to_owned(), kind: Some(SnapshotType::Memory) };
    client.checkpoint(KEPT, &request).await.map(drop)
}

/// Makes [`MADE`] of [`TAKEN`].
pub(crate) async fn resume_snapshot(client: &mut Client) -> Result<(), ClientError> {
    let request = ResumeSnapshot { name: Some(MADE.to_owned()) };
    client.resume_snapshot(TAKEN, &request).await.map(drop)
}
