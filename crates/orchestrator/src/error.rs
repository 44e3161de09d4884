//! The one error of the orchestrator: a stable kind, words for people, a hint, and the cause for
//! the log. Knows nothing of HTTP; the daemon gives every kind its status.

use std::{error::Error as StdError, fmt};

/// What went wrong, as callers tell failures apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Kind {
    /// No sandbox of that name or id belongs to the caller.
    SandboxNotFound,
    /// No such user.
    UserNotFound,
    /// No image of that name.
    ImageNotFound,
    /// The caller has another image of that name.
    ImageExists,
    /// The image cannot be had from where it is said to be.
    ImageUnavailable,
    /// The registry wants to know who asks, or refuses whoever asks.
    RegistryDenied,
    /// The registry may not be asked by this user.
    RegistryForbidden,
    /// What was to become an image is none, or a dangerous one.
    ImageInvalid,
    /// What was sent is larger than is taken.
    TooLarge,
    /// There is no such task.
    TaskNotFound,
    /// The task was cancelled.
    Cancelled,
    /// A Dockerfile or its context makes no sense.
    BuildInvalid,
    /// A command of a build has failed.
    BuildFailed,
    /// A path does not exist in the guest.
    FileNotFound,
    /// Something is at that path already.
    FileExists,
    /// The directory still has entries.
    DirectoryNotEmpty,
    /// The sandbox has no such job.
    JobNotFound,
    /// The sandbox has no such session.
    SessionNotFound,
    /// The session has a client.
    SessionAttached,
    /// Nothing in the sandbox listens on the port.
    PortClosed,
    /// The owner has no volume of that name.
    VolumeNotFound,
    /// The owner has a volume of that name.
    VolumeExists,
    /// Sandboxes have the volume in a way that does not allow it.
    VolumeInUse,
    /// The volume was not unmounted, which only a sandbox that may write to it can mend.
    VolumeUnclean,
    /// The volume's size is out of range.
    VolumeSizeInvalid,
    /// The volumes of the user would be larger than allowed.
    QuotaVolumes,
    /// The user has as many backups as allowed.
    QuotaBackups,
    /// The owner has no backup of that id.
    BackupNotFound,
    /// No place for backups is configured, or none of that name.
    BackupUnconfigured,
    /// The place where backups are kept does not do what it should.
    BackupStorageFailed,
    /// What is kept is not what was made.
    BackupCorrupt,
    /// The backup is encrypted, and the key that it was given does not open it, if any.
    BackupLocked,
    /// The schedule cannot be understood.
    ScheduleInvalid,
    /// The owner has no snapshot of that name.
    SnapshotNotFound,
    /// The owner has a snapshot of that name.
    SnapshotExists,
    /// The name belongs to a sandbox with another specification.
    NameTaken,
    /// A user of that name exists.
    UserExists,
    /// The user still owns sandboxes.
    UserInUse,
    /// The request makes no sense.
    InvalidRequest,
    /// The name has a shape that names must not have.
    InvalidName,
    /// No command was given.
    CommandMissing,
    /// The command does not exist in the guest.
    CommandNotFound,
    /// The command cannot be executed.
    CommandNotExecutable,
    /// The user does not exist in the guest.
    UnknownGuestUser,
    /// A directory stands where a file is wanted.
    IsDirectory,
    /// A file stands where a directory is wanted.
    NotDirectory,
    /// The guest's permissions forbid it.
    PermissionDenied,
    /// The memory size is out of range.
    MemoryInvalid,
    /// The host has not that much memory.
    MemoryExceedsHost,
    /// The number of vCPUs is out of range.
    CpusInvalid,
    /// The disk size is out of range.
    DiskInvalid,
    /// The user has as many sandboxes as allowed.
    QuotaSandboxes,
    /// The user has as many snapshots as allowed.
    QuotaSnapshots,
    /// The user may not have so many vCPUs in one sandbox.
    QuotaCpus,
    /// The user may not have so much memory in one sandbox.
    QuotaMemory,
    /// No kernel bundle was prepared.
    NoKernel,
    /// The virtual machine monitor is not installed.
    EngineMissing,
    /// The virtual machine monitor is too old.
    EngineTooOld,
    /// The host has not enough free memory now.
    HostOverloaded,
    /// The guest's disk is full.
    GuestDiskFull,
    /// The host's disk is full; nothing was lost.
    HostDiskFull,
    /// The sandbox has failed and waits for its owner's decision.
    SandboxFailed,
    /// The operation does not fit the sandbox's state.
    WrongState,
    /// A snapshot does not verify.
    SnapshotCorrupt,
    /// A snapshot was taken by another engine, kernel or agent than this host has.
    SnapshotIncompatible,
    /// The virtual machine ended in the middle of the operation.
    VmDied,
    /// The guest agent does not answer as it should.
    AgentUnreachable,
    /// It took longer than it may.
    Timeout,
    /// A limit of the guest agent is reached.
    GuestLimit,
    /// Sandboxes cannot be connected to their networks on this host.
    NetworkUnavailable,
    /// This host has no networks that can do what was asked.
    NetworkUnsupported,
    /// The alias belongs to another publication.
    AliasTaken,
    /// The port of the host belongs to another publication or program.
    HostPortTaken,
    /// The port is published in another way.
    PublicationDiffers,
    /// The port is not published.
    PublicationNotFound,
    /// The sandbox has as many published ports as allowed.
    QuotaPublications,
    /// The sandbox has no such share.
    ShareNotFound,
    /// The sandbox has as many shares as allowed.
    QuotaShares,
    /// It cannot be said what is needed, so nothing is removed.
    StorageUnclear,
    /// A defect of ours or of the host.
    Internal,
}

/// See the module.
#[derive(Debug)]
pub struct Error {
    /// What callers branch on.
    pub kind: Kind,
    /// What went wrong, a sentence without full stop, fit to be shown to the caller.
    pub message: String,
    /// What the caller can do about it.
    pub hint: Option<String>,
    source: Option<Box<dyn StdError + Send + Sync>>,
}

/// Shorthand.
pub type Result<T, E = Error> = std::result::Result<T, E>;

impl Error {
    /// An error without hint or cause.
    pub fn new(kind: Kind, message: impl Into<String>) -> Self {
        Self { kind, message: message.into(), hint: None, source: None }
    }

    /// A failure inside the host: the cause goes to the log, not to the caller.
    pub fn internal(
        message: impl Into<String>,
        source: impl Into<Box<dyn StdError + Send + Sync>>,
    ) -> Self {
        Self::new(Kind::Internal, message).caused_by(source)
    }

    /// The same once more, for another who waits for it. The cause stays with the first.
    pub fn told_again(&self) -> Self {
        let Self { kind, message, hint, source: _ } = self;
        Self { kind: *kind, message: message.clone(), hint: hint.clone(), source: None }
    }

    /// Adds what the caller can do.
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// Adds the cause.
    pub fn caused_by(mut self, source: impl Into<Box<dyn StdError + Send + Sync>>) -> Self {
        self.source = Some(source.into());
        self
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl StdError for Error {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        self.source.as_deref().map(|e| e as &(dyn StdError + 'static))
    }
}

impl From<base::ids::InvalidName> for Error {
    fn from(error: base::ids::InvalidName) -> Self {
        Self::new(Kind::InvalidName, error.to_string())
    }
}

impl From<rusqlite::Error> for Error {
    fn from(error: rusqlite::Error) -> Self {
        let full = error.sqlite_error_code() == Some(rusqlite::ErrorCode::DiskFull);
        if full {
            return Self::new(Kind::HostDiskFull, "the host's disk is full").caused_by(error);
        }
        Self::internal("the store failed", error)
    }
}

impl From<proto::message::WireError> for Error {
    fn from(error: proto::message::WireError) -> Self {
        use proto::message::ErrorCode as Wire;
        let kind = match error.code {
            Wire::NotFound => Kind::FileNotFound,
            Wire::IsDirectory => Kind::IsDirectory,
            Wire::NotDirectory => Kind::NotDirectory,
            Wire::Permission => Kind::PermissionDenied,
            Wire::Exists => Kind::FileExists,
            Wire::NotEmpty => Kind::DirectoryNotEmpty,
            Wire::UnknownJob => Kind::JobNotFound,
            Wire::UnknownSession => Kind::SessionNotFound,
            Wire::Attached => Kind::SessionAttached,
            Wire::PortClosed => Kind::PortClosed,
            Wire::NoSpace => Kind::GuestDiskFull,
            Wire::Unclean => Kind::VolumeUnclean,
            Wire::CommandNotFound => Kind::CommandNotFound,
            Wire::CommandNotExecutable => Kind::CommandNotExecutable,
            Wire::UnknownUser => Kind::UnknownGuestUser,
            Wire::Invalid => Kind::InvalidRequest,
            Wire::Limit => Kind::GuestLimit,
            Wire::Unauthenticated | Wire::Unsupported => Kind::AgentUnreachable,
            Wire::Failed => Kind::Internal,
        };
        Self::new(kind, error.message)
    }
}
