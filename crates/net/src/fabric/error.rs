//! What can go wrong with networks.

use std::{io, net::Ipv4Addr};

use base::process::ProcessError;
use ipnet::Ipv4Net;

/// Why something about networks could not be done.
#[derive(Debug, thiserror::Error)]
pub enum NetError {
    /// Networks need rights that this process does not have.
    #[error("make networks for sandboxes: this needs root (CAP_NET_ADMIN and CAP_SYS_ADMIN)")]
    Permission(#[source] io::Error),
    /// The tool that sets packet rules is not there.
    #[error("nft is not installed: install the Debian package nftables")]
    NoNft,
    /// The tool that sets packet rules failed.
    #[error("set packet rules")]
    Rules(#[source] ProcessError),
    /// The tool that sets packet rules hangs.
    #[error("nft does not come to an end")]
    Slow,
    /// What the tool printed is not what is known of it.
    #[error("read packet rules")]
    Listing(#[source] serde_json::Error),
    /// The tag cannot be part of an interface's name.
    #[error("{0:?} is no tag of a network: use 1 to 8 lower-case letters and digits")]
    Tag(String),
    /// A kernel setting could not be read or made.
    #[error("set net/{key} to {value}")]
    Sysctl {
        /// Its path below `/proc/sys/net`.
        key: String,
        /// What it was to be.
        value: &'static str,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// The kernel refused something about links, addresses or routes.
    #[error("{action}")]
    Link {
        /// What was to be done, with the link's name.
        action: String,
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
    /// The interface could not be made.
    #[error("make interface {name}")]
    Tap {
        /// Its name.
        name: String,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// A VM still has the interface.
    #[error("interface {0} is still in use")]
    Busy(String),
    /// The network of that place has not been added.
    #[error("there is no network {0}")]
    NoNetwork(u16),
    /// A network of another pool, or one that would hide the way out.
    #[error("{0} is not in the range that networks are taken from")]
    OutsidePool(Ipv4Net),
    /// Every range that could lead out is used on this host.
    #[error("no free address range is left for the link to the host")]
    NoRange,
    /// A namespace could not be made or entered.
    #[error("use a network namespace")]
    Namespace(#[source] io::Error),
    /// A socket inside the namespace could not be made.
    #[error("open a socket on {address} port {port}")]
    Socket {
        /// Where it was to be, or to go.
        address: Ipv4Addr,
        /// The port there.
        port: u16,
        /// What the system said.
        #[source]
        source: io::Error,
    },
}

impl NetError {
    pub(super) fn namespace(error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::PermissionDenied => Self::Permission(error),
            _ => Self::Namespace(error),
        }
    }

    pub(super) fn link(action: impl Into<String>, error: rtnetlink::Error) -> Self {
        let source = match error {
            rtnetlink::Error::NetlinkError(message) => message.to_io(),
            other => io::Error::other(other),
        };
        Self::Link { action: action.into(), source }
    }
}

impl From<ProcessError> for NetError {
    fn from(error: ProcessError) -> Self {
        match error {
            ProcessError::Missing { .. } => Self::NoNft,
            other => Self::Rules(other),
        }
    }
}
