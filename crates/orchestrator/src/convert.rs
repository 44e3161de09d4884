//! From the errors of the crates below to ours.

use base::chain;
use disk::{
    DiskError, archive::ArchiveError, image::ImageError, kernel::KernelError, layer::LayerError,
};
use proto::mux::MuxError;
use vmm::VmError;

use crate::{Error, Kind};

impl From<VmError> for Error {
    fn from(error: VmError) -> Self {
        let install = "install it: apt-get install qemu-system-x86";
        match &error {
            VmError::Missing { .. } => {
                Self::new(Kind::EngineMissing, error.to_string()).hint(install)
            }
            VmError::TooOld { .. } => {
                Self::new(Kind::EngineTooOld, error.to_string()).hint(install)
            }
            VmError::Ended { .. } => Self::new(Kind::VmDied, error.to_string()),
            VmError::Corrupt { .. } => {
                // Whoever knows the sandbox or the snapshot says what can be done.
                Self::new(Kind::SnapshotCorrupt, "the memory snapshot does not verify")
                    .caused_by(error)
            }
            VmError::Silent { .. } => Self::new(Kind::Timeout, error.to_string()),
            _ if error.is_disk_full() => disk_full(error),
            VmError::Spawn(_) | VmError::Refused { .. } | VmError::Io { .. } => {
                Self::internal("the virtual machine monitor failed", error)
            }
        }
    }
}

fn disk_full(error: impl std::error::Error + Send + Sync + 'static) -> Error {
    no_room().caused_by(error)
}

/// What is said of a full disk of the host.
pub(crate) fn no_room() -> Error {
    Error::new(Kind::HostDiskFull, "the host's disk is full; nothing was lost")
        .hint("free some space below the data directory and try again")
}

impl From<MuxError> for Error {
    fn from(error: MuxError) -> Self {
        Self::new(Kind::AgentUnreachable, "the connection to the guest agent broke")
            .caused_by(error)
    }
}

impl From<std::io::Error> for Error {
    fn from(error: std::io::Error) -> Self {
        match error.kind() {
            std::io::ErrorKind::StorageFull | std::io::ErrorKind::QuotaExceeded => disk_full(error),
            _ => Self::internal("a file operation failed", error),
        }
    }
}

impl From<KernelError> for Error {
    fn from(error: KernelError) -> Self {
        match error {
            KernelError::NoKernel => Self::new(Kind::NoKernel, "no guest kernel is prepared yet")
                .hint("run once: bhatti kernel"),
            other => Self::internal("the guest kernel cannot be used", other),
        }
    }
}

impl From<ImageError> for Error {
    fn from(error: ImageError) -> Self {
        let hint = error.hint();
        let converted = match error {
            ImageError::Unknown { .. } => Self::new(Kind::ImageNotFound, chain(&error)),
            full if full.is_disk_full() => return disk_full(full),
            ImageError::TooManyLayers(_) => Self::new(Kind::ImageInvalid, chain(&error)),
            ImageError::Layer(error) => return error.into(),
            other => Self::internal("the image cannot be used", other),
        };
        match hint {
            Some(hint) => converted.hint(hint),
            None => converted,
        }
    }
}

/// What came from outside is no image.
fn no_image(message: String, hint: Option<String>) -> Error {
    let told = Error::new(Kind::ImageInvalid, message);
    match hint {
        Some(hint) => told.hint(hint),
        None => told,
    }
}

impl From<LayerError> for Error {
    fn from(error: LayerError) -> Self {
        if error.is_of_the_image() {
            return no_image(chain(&error), error.hint());
        }
        match error {
            LayerError::Disk(error) => error.into(),
            LayerError::Source(error) | LayerError::Sink(error) => error.into(),
            other => Self::internal("a layer cannot be used", other),
        }
    }
}

impl From<ArchiveError> for Error {
    fn from(error: ArchiveError) -> Self {
        if error.is_of_the_image() {
            return no_image(chain(&error), error.hint());
        }
        match error {
            ArchiveError::Layer(error) => error.into(),
            ArchiveError::Source(error) | ArchiveError::Sink(error) => error.into(),
            other => Self::internal("an archive cannot be used", other),
        }
    }
}

impl From<DiskError> for Error {
    fn from(error: DiskError) -> Self {
        match error {
            DiskError::Io(error) => error.into(),
            other => Self::internal("a disk operation failed", other),
        }
    }
}
