//! What daemon and clients say to each other over HTTP: the JSON types, the error codes and, with
//! the feature `client`, the client itself.
//!
//! ```text
//! cli, e2e, bench ──► client ──► HTTP/1.1 over a Unix socket or TCP ──► daemon
//!                        └────────── the types of this crate ──────────────┘
//! ```
//!
//! Invariant: the wire is additive. A field or a code may be added, none may change its meaning or
//! go; a reader keeps what it does not know, so client and daemon need not be of one version.

#![warn(missing_docs)]

mod backup;
mod build;
mod error;
mod exec;
mod file;
mod idle;
mod image;
mod job;
mod network;
mod payload;
mod port;
mod publish;
mod sandbox;
mod session;
mod share;
mod snapshot;
mod storage;
mod system;
mod text_enum;
mod user;
mod volume;

#[cfg(feature = "client")]
pub mod client;
pub mod headers;

pub use backup::{
    BackUpVolume, BackupEvent, BackupReport, BackupStatus, RestoreVolume, ScheduleFailure,
    SetSchedule, VolumeBackup, VolumeSchedule,
};
pub use build::{BuildEvent, BuildImage, BuiltImage};
pub use error::{ErrorBody, ErrorCode};
pub use exec::{
    DEFAULT_TIMEOUT_SEC, ExecRequest, ExecResponse, MAX_STDIN_BYTES, MAX_TIMEOUT_SEC, StreamEvent,
};
pub use file::{
    FileInfo, FileKind, FileStat, FileWritten, MakeDirectory, MoveFile, WatchEvent, WatchKind,
};
pub use idle::{IdleSetting, IdleTime, MAX_IDLE_SEC};
pub use image::{
    Image, ImageConfig, ImageDetails, ImageScope, ImageShares, PullEvent, PullImage, PullStarted,
    SaveImage, ShareImage, Task, TaskStatus,
};
pub use job::{Done, Job, JobEvent, JobStarted, JobStatus, Kill};
pub use network::{
    CertificateState, Egress, EgressAttempt, EgressLog, EgressMode, Network, NetworkFinding,
    NetworkLimits, NetworkMode, NetworkState,
};
pub use payload::Payload;
pub use port::Port;
pub use publish::{Publish, PublishAuth, PublishRule};
pub use sandbox::{
    Activity, CreateFile, CreateSandbox, Destroyed, EditSandbox, Failure, ProgressEvent,
    RestartPolicy, Sandbox, StartFrom, StartSandbox, StartedFrom, Status, Thermal,
};
pub use session::{ClientMessage, ExecSession, ServerMessage, Session};
pub use share::{Share, ShareHello, ShareLink, ShareResume, SharedPlace, SharedTerminal};
pub use snapshot::{
    CreateSnapshot, ForkSandbox, MAX_FORKS, ResumeSnapshot, Snapshot, SnapshotTaken, SnapshotType,
};
pub use storage::{Prune, Pruned, PrunedItem, Storage, StorageUse};
pub use system::{Health, Prestarted};
pub use user::{CreateUser, Deleted, EditUser, User, UserKey};
pub use volume::{
    CopyVolume, CreateVolume, ResizeVolume, SandboxVolume, Volume, VolumeAttachment, VolumeMount,
    VolumeStatus,
};
