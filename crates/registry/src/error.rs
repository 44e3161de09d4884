//! Why an image cannot be had.

use std::{io, net::IpAddr, time::Duration};

/// What went wrong, for programs. These never change.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Kind {
    /// What was asked for is not a reference.
    Reference,
    /// The registry has no such image or blob.
    NotFound,
    /// The registry wants other credentials, or credentials cannot be sent safely.
    Unauthorized,
    /// The registry does not answer, answers too slowly, or fails.
    Unreachable,
    /// The registry, or where it leads, is a place that must not be connected to.
    Forbidden,
    /// What came is not what its digest or size says.
    BadDigest,
    /// The image, or a part of it, is larger than allowed.
    TooLarge,
    /// What the reference means is not a container image of a known kind.
    Unsupported,
    /// The image is not made for this machine.
    WrongArchitecture,
    /// The registry wants fewer requests.
    RateLimited,
    /// The registry's answer makes no sense.
    Malformed,
    /// Files on this host cannot be written.
    Io,
}

/// Why an image cannot be had. Nothing in here holds credentials.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// What was asked for is not a reference.
    #[error("{text:?} names no image: {reason}")]
    Reference {
        /// What was asked for, shortened.
        text: String,
        /// What is wrong with it.
        reason: String,
    },
    /// The registry has no such image or blob.
    #[error("{host} has no {what}")]
    NotFound {
        /// The registry.
        host: String,
        /// What was asked for.
        what: String,
    },
    /// The registry wants other credentials, or credentials cannot be sent safely.
    #[error("{host} refuses access: {reason}")]
    Unauthorized {
        /// Who refused.
        host: String,
        /// Why.
        reason: String,
    },
    /// The registry does not answer, answers too slowly, or fails.
    #[error("cannot reach {host}: {reason}")]
    Unreachable {
        /// Who does not answer.
        host: String,
        /// What happened.
        reason: String,
    },
    /// A name leads to a place that must not be connected to.
    #[error("{host} is at {address}, which images must not come from")]
    ForbiddenAddress {
        /// The name.
        host: String,
        /// The address.
        address: IpAddr,
    },
    /// A way that must not be taken.
    #[error("{host} leads to {to}, which is refused: {reason}")]
    ForbiddenWay {
        /// Who leads there.
        host: String,
        /// Where it leads.
        to: String,
        /// Why it is refused.
        reason: &'static str,
    },
    /// What came is not what its digest or size says.
    #[error("{what} is not what it should be: {reason}")]
    BadDigest {
        /// What was fetched.
        what: String,
        /// How it differs.
        reason: String,
    },
    /// The image, or a part of it, is larger than allowed.
    #[error("{what} is too large: {size}, where {limit} are allowed")]
    TooLarge {
        /// What is too large.
        what: String,
        /// How large it is, or what it is known to exceed, in bytes if nothing else is said.
        size: u64,
        /// What is allowed.
        limit: u64,
    },
    /// What the reference means is not a container image of a known kind.
    #[error("{what} is not supported")]
    Unsupported {
        /// What it is.
        what: String,
    },
    /// The image is not made for this machine.
    #[error("the image is made for {}, not for {wanted}", found.join(", "))]
    WrongArchitecture {
        /// What this machine is.
        wanted: String,
        /// What there is.
        found: Vec<String>,
    },
    /// The registry wants fewer requests.
    #[error("{host} wants fewer requests")]
    RateLimited {
        /// The registry.
        host: String,
        /// When it wants to be asked again, if it says so.
        retry_after: Option<Duration>,
    },
    /// The registry's answer makes no sense.
    #[error("{host} answers what cannot be understood: {reason}")]
    Malformed {
        /// The registry.
        host: String,
        /// What is wrong with the answer.
        reason: String,
    },
    /// Files on this host cannot be written.
    #[error("store what was downloaded")]
    Io(#[from] io::Error),
}

impl Error {
    /// What went wrong, for programs.
    pub fn kind(&self) -> Kind {
        match self {
            Self::Reference { .. } => Kind::Reference,
            Self::NotFound { .. } => Kind::NotFound,
            Self::Unauthorized { .. } => Kind::Unauthorized,
            Self::Unreachable { .. } => Kind::Unreachable,
            Self::ForbiddenAddress { .. } | Self::ForbiddenWay { .. } => Kind::Forbidden,
            Self::BadDigest { .. } => Kind::BadDigest,
            Self::TooLarge { .. } => Kind::TooLarge,
            Self::Unsupported { .. } => Kind::Unsupported,
            Self::WrongArchitecture { .. } => Kind::WrongArchitecture,
            Self::RateLimited { .. } => Kind::RateLimited,
            Self::Malformed { .. } => Kind::Malformed,
            Self::Io(_) => Kind::Io,
        }
    }

    /// What the user can do about it, if anything.
    pub fn hint(&self) -> Option<String> {
        let hint = match self {
            Self::Reference { .. } => {
                "write it as docker does, for example alpine, alpine:3.20 or ghcr.io/owner/name:tag"
            }
            Self::NotFound { .. } => "check the name and the tag",
            Self::Unauthorized { .. } => {
                "give credentials that may read the image, and check its name: many registries say \
                 the same of images that they do not have"
            }
            Self::Unreachable { .. } => {
                "check the registry's name, and that this host reaches it over HTTPS with a \
                 certificate that it trusts"
            }
            Self::ForbiddenAddress { .. } | Self::ForbiddenWay { .. } => {
                "whoever runs this node can allow registries in private networks and registries \
                 without TLS in its configuration"
            }
            Self::BadDigest { .. } => {
                "try again; if it stays like this, the registry or something before it is broken"
            }
            Self::WrongArchitecture { .. } => "ask for an image that is made for this machine",
            Self::RateLimited { retry_after: Some(after), .. } => {
                return Some(format!("try again in {} s", after.as_secs().max(1)));
            }
            Self::RateLimited { retry_after: None, .. } => {
                "try again later, or with credentials: known users may ask more often"
            }
            Self::TooLarge { .. }
            | Self::Unsupported { .. }
            | Self::Malformed { .. }
            | Self::Io(_) => {
                return None;
            }
        };
        Some(hint.to_owned())
    }

    /// Whether the same request may work a moment later.
    pub(crate) fn is_passing(&self) -> bool {
        matches!(self, Self::Unreachable { .. })
    }
}
