//! What this process may do on its host, which decides how it can confine its monitors.

use vmm::{Machine, NetworkNamespace, UserWalls, Walls};

use crate::{Error, Result};

/// Who runs the daemon.
#[derive(Debug)]
pub(crate) enum Standing {
    /// Root.
    Root {
        /// The empty namespace that monitors are in.
        network: NetworkNamespace,
    },
    /// Anybody else.
    User {
        /// Whether the host lets users make namespaces.
        namespaces: bool,
    },
}

impl Standing {
    /// That of this process. Blocks for some milliseconds.
    pub(crate) fn find() -> Result<Self> {
        if vmm::is_root() {
            let network = NetworkNamespace::empty().map_err(|error| {
                Error::internal("no network namespace can be made", error)
                    .hint("in a container, give it CAP_SYS_ADMIN")
            })?;
            return Ok(Self::Root { network });
        }
        let possible = UserWalls::possible();
        let walls = match &possible {
            Ok(()) => "in user namespaces".to_owned(),
            Err(error) => format!(
                "and WITHOUT namespaces, so a VM that is broken out of can do what you can ({})",
                base::chain(error)
            ),
        };
        tracing::info!(
            "running without root: monitors run as you, {walls}, without control groups; \
             bhatti doctor lists what differs"
        );
        Ok(Self::User { namespaces: possible.is_ok() })
    }

    pub(crate) fn is_root(&self) -> bool {
        matches!(self, Self::Root { .. })
    }

    /// What a monitor is kept apart by. `uid` is its own if it can have one; `connects` is whether it
    /// passes connections of its guest on as its own.
    pub(crate) fn walls(&self, uid: u32, machine: Machine, connects: bool) -> Walls {
        match self {
            Self::Root { network } => Walls::Root { uid, network: network.clone() },
            Self::User { namespaces } => Walls::User(UserWalls {
                namespaces: *namespaces,
                network: connects,
                memory_mib: machine.memory_mib,
            }),
        }
    }
}
