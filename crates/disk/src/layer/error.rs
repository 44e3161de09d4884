//! Why a layer cannot be taken, kept or given out.

use std::io;

use super::LayerId;
use crate::DiskError;

/// A layer cannot be used. What is stored is as it was before.
#[derive(Debug, thiserror::Error)]
pub enum LayerError {
    /// Whoever sends the layer failed.
    #[error("the layer's bytes cannot be read")]
    Source(#[source] io::Error),
    /// The compressed stream is damaged.
    #[error("the layer's {format} stream is damaged: {reason}")]
    Compression {
        /// `gzip` or `zstd`.
        format: &'static str,
        /// What is wrong.
        reason: String,
    },
    /// It is compressed by something that is not read.
    #[error("the layer is compressed with {0}")]
    UnknownCompression(&'static str),
    /// It ends in the middle.
    #[error("the layer ends too early: {0}")]
    Truncated(&'static str),
    /// What should be a header of the archive is none.
    #[error("no tar header at byte {at} of the layer: {reason}")]
    Header {
        /// Where in the uncompressed archive.
        at: u64,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// An entry says something that a file system cannot have.
    #[error("entry {name:?} of the layer is refused: {reason}")]
    Entry {
        /// Its name as the archive says it, shortened, with anything unusual replaced.
        name: String,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// A hard link leads to nothing that could be linked.
    #[error("hard link {name:?} is refused: {reason}: {target:?}")]
    Link {
        /// The link.
        name: String,
        /// What it should be another name of.
        target: String,
        /// What is wrong with that.
        reason: &'static str,
    },
    /// It has more of something than is allowed.
    #[error("the layer has more than {limit} {what}")]
    TooLarge {
        /// Of what.
        what: &'static str,
        /// How many it may have.
        limit: u64,
    },
    /// It is another layer than the one that was asked for.
    #[error("the layer's sha256 is {found}, not {expected} as was said")]
    Digest {
        /// The one that was asked for.
        expected: LayerId,
        /// The one that came.
        found: LayerId,
    },
    /// The text names no layer.
    #[error("{0:?} is not the sha256 of a layer: 64 lower-case hexadecimal digits")]
    BadId(String),
    /// The layer is not stored.
    #[error("layer {0} is not stored")]
    Missing(LayerId),
    /// What an exported layer is written to failed.
    #[error("the layer cannot be written out")]
    Sink(#[source] io::Error),
    /// The store failed, or what is stored is damaged.
    #[error(transparent)]
    Disk(#[from] DiskError),
}

impl From<io::Error> for LayerError {
    fn from(error: io::Error) -> Self {
        Self::Disk(error.into())
    }
}

impl LayerError {
    /// What the user can do about it, if anything.
    pub fn hint(&self) -> Option<String> {
        let text = match self {
            Self::Source(_)
            | Self::Compression { .. }
            | Self::Truncated(_)
            | Self::Digest { .. } => {
                "get the image again; if that does not help, what offers it is damaged"
            }
            Self::UnknownCompression(_) => "unpack it first: plain tar, gzip and zstd are read",
            Self::Header { .. } => "is it a tar archive? check with: tar tvf FILE",
            Self::Entry { .. } | Self::Link { .. } => {
                "the archive was not made by a usual tool or is meant to do harm; make it again with \
                 tar --format=pax, without --sparse and --absolute-names"
            }
            Self::TooLarge { .. } => "make a smaller image, or split the layer in two",
            Self::Missing(_) => "pull or import the image again",
            Self::BadId(_) | Self::Sink(_) => return None,
            Self::Disk(error) => return error.hint(),
        };
        Some(text.to_owned())
    }

    /// Whether what came from outside is at fault, and not this host.
    pub fn is_of_the_image(&self) -> bool {
        !matches!(self, Self::Source(_) | Self::Missing(_) | Self::Sink(_) | Self::Disk(_))
    }
}

/// A name as it may be shown: short, and without anything that a terminal would obey.
pub(crate) fn shown(name: &[u8]) -> String {
    const SHOWN_MAX: usize = 120;
    let mut text: String = String::from_utf8_lossy(name)
        .chars()
        .map(|c| if c.is_control() { char::REPLACEMENT_CHARACTER } else { c })
        .take(SHOWN_MAX + 1)
        .collect();
    if text.chars().count() > SHOWN_MAX {
        text.pop();
        text.push('…');
    }
    text
}
