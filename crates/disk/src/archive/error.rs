//! Why an archive is no image, or an image no archive.

use std::io;

use crate::layer::LayerError;

/// An archive cannot be taken in, or an image not written as one.
#[derive(Debug, thiserror::Error)]
pub enum ArchiveError {
    /// A layer is refused, or the store failed.
    #[error(transparent)]
    Layer(#[from] LayerError),
    /// The archive cannot be read.
    #[error("the archive cannot be read")]
    Source(#[source] io::Error),
    /// What the archive is written to failed.
    #[error("the archive cannot be written")]
    Sink(#[source] io::Error),
    /// A document says what cannot be understood.
    #[error("{name:?} in the archive is refused: {reason}")]
    Document {
        /// Which, shortened.
        name: String,
        /// What is wrong with it.
        reason: String,
    },
    /// Something that another part speaks of is not there.
    #[error("the archive has no {name:?}, or more than one")]
    Missing {
        /// What is not there, shortened.
        name: String,
    },
    /// A part is not what its digest or size says.
    #[error("{name:?} in the archive is not what it should be: {reason}")]
    Digest {
        /// Which, shortened.
        name: String,
        /// How it differs.
        reason: String,
    },
    /// Something is larger than is allowed.
    #[error("{name:?} in the archive is larger than {limit} bytes")]
    TooLarge {
        /// Which, shortened.
        name: String,
        /// What is allowed, in bytes.
        limit: u64,
    },
    /// There are several images, and nobody said which.
    #[error("the archive has several images: {}", found.join(", "))]
    Several {
        /// What they are called.
        found: Vec<String>,
    },
    /// There is no image of that name.
    #[error("the archive has no image {wanted:?}")]
    NoImage {
        /// What was asked for.
        wanted: String,
        /// What there is.
        found: Vec<String>,
    },
    /// The image is not made for this machine.
    #[error("the image is made for {}, not for {wanted}", found.join(", "))]
    WrongArchitecture {
        /// What this machine is.
        wanted: String,
        /// What there is.
        found: Vec<String>,
    },
    /// It is something else than an image of a known kind.
    #[error("the archive has {what}, which is not supported")]
    Unsupported {
        /// What it is.
        what: String,
    },
    /// The name cannot be one in an archive.
    #[error("{0:?} is not what an image can be called in an archive")]
    Reference(String),
}

impl ArchiveError {
    /// What the user can do about it, if anything.
    pub fn hint(&self) -> Option<String> {
        let hint = match self {
            Self::Layer(error) => return error.hint(),
            Self::Several { .. } => "say which one is wanted",
            Self::NoImage { found, .. } if !found.is_empty() => {
                return Some(format!("there are: {}", found.join(", ")));
            }
            Self::Document { .. } | Self::Missing { .. } | Self::Digest { .. } => {
                "make the archive again; if that does not help, what makes it is broken"
            }
            Self::WrongArchitecture { .. } => "make it of an image for this machine",
            Self::Reference(_) => "write it as docker does, for example mine:latest",
            Self::Source(_)
            | Self::Sink(_)
            | Self::TooLarge { .. }
            | Self::NoImage { .. }
            | Self::Unsupported { .. } => return None,
        };
        Some(hint.to_owned())
    }

    /// Whether what came from outside is at fault, and not this host.
    pub fn is_of_the_image(&self) -> bool {
        match self {
            Self::Layer(error) => error.is_of_the_image(),
            Self::Source(_) | Self::Sink(_) => false,
            _ => true,
        }
    }
}
