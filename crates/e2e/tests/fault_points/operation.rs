//! What is done to sandboxes, and in which state they are before.

use api::{
    Sandbox, StartSandbox,
    client::{Client, ClientError},
};
use e2e::create_request;

/// The sandbox that has something to lose.
pub(crate) const KEPT: &str = "kept";
/// The sandbox that an operation makes.
pub(crate) const MADE: &str = "made";

/// What is done when something goes wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Operation {
    Create,
    Pause,
    Resume,
    Stop,
    Wake,
    Destroy,
}

/// In which state an operation finds [`KEPT`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Before {
    Nothing,
    Hot,
    Warm,
    Cold,
}

impl Operation {
    pub(crate) fn before(self) -> Before {
        match self {
            Self::Create => Before::Nothing,
            Self::Pause | Self::Stop | Self::Destroy => Before::Hot,
            Self::Resume => Before::Warm,
            Self::Wake => Before::Cold,
        }
    }

    /// Whether [`KEPT`] may be gone afterwards.
    pub(crate) fn removes(self) -> bool {
        self == Self::Destroy
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
        }
    }
}

/// Starts a sandbox from whatever keeps most.
pub(crate) async fn start(client: &mut Client, name: &str) -> Result<Sandbox, ClientError> {
    client.start(name, &StartSandbox::default(), drop).await
}
