//! Into a sandbox, for those who may.

use std::{net::IpAddr, sync::Arc};

use orchestrator::{Hold, Ready, Sandbox, model::Caller};

use crate::{
    failure::Failure,
    public::{Door, Place},
};

/// How a request or connection gets into its sandbox.
#[derive(Debug, Clone)]
pub(crate) enum Way {
    /// With its owner's key.
    Owner,
    /// By a public address, where others come, too; with whom it is.
    Public(Arc<Door>, IpAddr),
}

/// A sandbox that is awake, and the place that was taken in it.
#[derive(Debug)]
pub(crate) struct Entered {
    pub(crate) ready: Ready,
    pub(crate) place: Option<Place>,
}

/// What is held while something goes on in a sandbox.
#[derive(Debug)]
pub(crate) struct Keep {
    _hold: Option<Hold>,
    _place: Option<Place>,
}

impl Way {
    /// Wakes the sandbox if it sleeps.
    pub(crate) async fn enter(&self, sandbox: &Sandbox) -> Result<Entered, Failure> {
        match self {
            Self::Owner => Ok(Entered { ready: sandbox.awake(Caller::Owner).await?, place: None }),
            Self::Public(door, client) => door.enter(sandbox, *client).await,
        }
    }

    /// Waits until nobody may come this way any more.
    pub(crate) fn withdrawn(&self) -> impl Future<Output = ()> + Send + use<> {
        let withdrawn = match self {
            Self::Owner => None,
            Self::Public(door, _) => Some(door.withdrawn()),
        };
        async move {
            match withdrawn {
                Some(withdrawn) => withdrawn.await,
                None => std::future::pending().await,
            }
        }
    }
}

impl Entered {
    /// For a connection that exists already.
    pub(crate) fn into_keep(self) -> Keep {
        Keep::new(Some(self.ready.into_hold()), self.place)
    }
}

impl Keep {
    pub(crate) fn new(hold: Option<Hold>, place: Option<Place>) -> Self {
        Self { _hold: hold, _place: place }
    }
}
