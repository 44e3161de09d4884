//! Which of the ways there are to connect sandboxes, and who can have it.

use net::fabric::Uplink;

use super::{NetworkSettings, UserEgress};
use crate::{Error, Kind, Result};

/// How sandboxes are connected.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Connection {
    /// To networks that the daemon makes, for which it has to be root.
    Networks(NetworkSettings),
    /// To one of their monitor's each, for a daemon that is not root.
    User(UserEgress),
}

impl Connection {
    pub(super) fn networks(&self) -> Option<&NetworkSettings> {
        match self {
            Self::Networks(settings) => Some(settings),
            Self::User(_) => None,
        }
    }
}

/// How sandboxes are connected, in a word.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NetworkMode {
    /// To networks with a way out through the host.
    Nat,
    /// To networks without one.
    Isolated,
    /// Not at all.
    Off,
    /// To one of their monitor's each.
    User(UserEgress),
}

/// What an operator's choice comes to: how it is called, and the settings of the networks that the daemon
/// makes, if it does. `root` is whether interfaces can be made in the host.
///
/// # Errors
/// [`Kind::NetworkUnavailable`] if who runs the daemon cannot have it.
pub(super) fn understand(
    connection: Option<Connection>,
    root: bool,
) -> Result<(NetworkMode, Option<NetworkSettings>)> {
    let mode = match &connection {
        None => NetworkMode::Off,
        Some(Connection::User(egress)) => NetworkMode::User(*egress),
        Some(Connection::Networks(it)) if it.uplink == Uplink::None => NetworkMode::Isolated,
        Some(Connection::Networks(_)) => NetworkMode::Nat,
    };
    let refused =
        |message: &str, hint: &str| Err(Error::new(Kind::NetworkUnavailable, message).hint(hint));
    let settings = match (connection, root) {
        (None, _) | (Some(Connection::User(_)), false) => None,
        (Some(Connection::Networks(settings)), true) => Some(settings),
        (Some(Connection::Networks(_)), false) => {
            let hint = "run the daemon as root, or with --network user";
            return refused("networks of this kind need root", hint);
        }
        (Some(Connection::User(_)), true) => {
            let hint = "run the daemon as another user, or with --network nat";
            return refused("networks of this kind are for daemons that are not root", hint);
        }
    };
    Ok((mode, settings))
}
