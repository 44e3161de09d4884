//! What host and agent say to each other: one JSON request opens a stream, JSON or data frames
//! answer it.
//!
//! Fields may be added with a default; none may change its meaning. A side that meets an unknown
//! request answers [`ErrorCode::Unsupported`].

mod exec;
mod file;
mod identity;
mod port;
mod session;
mod volume;

pub use self::exec::{Detach, Exec, Exited, JobInfo, JobOutput, JobState};
pub use self::file::{
    Change, ChangeKind, FileEntry, FileKind, FileList, FileRead, FileStat, FileWrite, Ownership,
};
pub use self::identity::{Defaults, Hello, Identify, Interface, Refresh, Welcome};
pub use self::port::{Activity, PortInfo, Resting};
pub use self::session::{
    Attach, AttachControl, DetachReason, Init, Join, NewSession, RestartPolicy, Resume,
    SessionInfo, Target, WindowSize,
};

pub use self::volume::MountVolume;

use serde::{Deserialize, Serialize};

/// The session that runs what a sandbox was created to run.
pub const INIT: &str = "init";

/// The first frame of every stream that the host opens.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "op", rename_all = "snake_case")]
pub enum Request {
    /// Proves who the host is and asks who the guest is. Must be answered before anything else is
    /// served on this session.
    Hello(Hello),
    /// Gives a guest its identity. A fresh child of a template has none and takes it without a
    /// [`Request::Hello`] before. A copy of another sandbox takes a new one in place of the one
    /// that it was copied with, from a host that has proved by [`Request::Hello`] to hold the
    /// other's token.
    Identify(Identify),
    /// Does all that [`Request::Identify`] does but to become somebody, in a guest that is nobody yet
    /// and stays so: what has been done once is done faster. Answered by [`Response::Done`].
    Rehearse(Identify),
    /// Brings the same sandbox up to date after it slept.
    Refresh(Refresh),
    /// The vCPUs are about to be stopped: says what runs, to be shown while nobody can be asked.
    /// Answered by [`Response::Resting`].
    Rest {
        /// Whether the host also hangs up, so that commands in the foreground become jobs: they
        /// are told as the jobs that they will be.
        hang_up: bool,
    },
    /// Writes everything that is not on the disks yet to them; answered by [`Response::Done`].
    Sync,
    /// Mounts volumes; answered by [`Response::Done`] once all are mounted and were looked at.
    MountVolumes {
        /// The volumes, in the order in which they are mounted.
        volumes: Vec<MountVolume>,
    },
    /// Writes everything that is not on the volumes yet to them and lets nobody write to them from then
    /// on, so that each is as if it had been unmounted; answered by [`Response::Done`]. Ends with
    /// [`Request::ThawVolumes`] and with a [`Request::Hello`] that proves itself.
    FreezeVolumes,
    /// Lets volumes be written to again; answered by [`Response::Done`].
    ThawVolumes,
    /// Makes the file system of a mounted volume larger once its device is; answered by
    /// [`Response::Done`].
    GrowVolume {
        /// Which volume.
        slot: u32,
        /// How large the device is or is about to be, bytes.
        bytes: u64,
    },
    /// Answers [`Response::Done`].
    Ping,
    /// Runs a command; see [`Exec`].
    Exec(Exec),
    /// Lists the detached jobs, oldest first; answered by [`Response::Jobs`].
    Jobs,
    /// Reads what a job has written; see [`JobOutput`].
    JobOutput(JobOutput),
    /// Forgets a job that has ended, and its output; answered by [`Response::Done`].
    JobRemove {
        /// The job's id.
        job: String,
    },
    /// Signals the whole process group of a job, or all processes of a session's terminal;
    /// answered by [`Response::Done`]. One that has ended already is no error.
    Kill {
        /// Id of a job or of a session.
        id: String,
        /// Number of the signal.
        signal: i32,
    },
    /// Opens a session or joins one; see [`Attach`].
    Attach(Attach),
    /// Joins a session beside its client; see [`Join`].
    Join(Join),
    /// Lists the sessions, oldest first; answered by [`Response::Sessions`].
    Sessions,
    /// Starts the session named [`INIT`](crate::message::INIT); answered by [`Response::Done`].
    StartInit(Init),
    /// Reads a file; see [`FileRead`].
    FileRead(FileRead),
    /// Writes a file; see [`FileWrite`].
    FileWrite(FileWrite),
    /// Describes one path; answered by [`Response::Stat`].
    FileStat {
        /// Absolute path in the guest.
        path: String,
        /// Whether a symbolic link is described itself.
        #[serde(default)]
        no_follow: bool,
    },
    /// Lists a directory; see [`FileList`].
    FileList(FileList),
    /// Makes a directory; answered by [`Response::Done`].
    MakeDirectory {
        /// Absolute path in the guest.
        path: String,
        /// Permission bits; 0755 if absent.
        #[serde(default)]
        mode: Option<u32>,
        /// Whether missing parents are made too and a directory that is there is no error.
        #[serde(default)]
        parents: bool,
    },
    /// Renames, over file systems by copying; answered by [`Response::Done`].
    FileMove {
        /// Absolute path in the guest.
        from: String,
        /// Absolute path in the guest: the new name, never a directory to move into.
        to: String,
        /// Whether a file that is there is replaced; it is [`ErrorCode::Exists`] otherwise.
        #[serde(default)]
        replace: bool,
    },
    /// Removes a file, link or directory; answered by [`Response::Done`].
    FileRemove {
        /// Absolute path in the guest.
        path: String,
        /// Whether a directory is removed with all that is in it.
        #[serde(default)]
        recursive: bool,
    },
    /// Tells of changes below a path until the host drops the stream. Answered by
    /// [`Response::Done`] once every later change will be told, then [`Response::Changed`].
    Watch {
        /// Absolute path of a file or directory in the guest.
        path: String,
        /// Whether directories below it are watched too, new ones included.
        #[serde(default)]
        recursive: bool,
    },
    /// Sends a file or tree as a tar archive: [`Response::FileHeader`], `Data` frames,
    /// [`Response::FileEnd`]. A directory's entries are named relative to it, itself being `./`; a
    /// file is one entry with its last name.
    Pack {
        /// Absolute path in the guest.
        path: String,
    },
    /// Sends a part of what an image consists of, as a layer of an image: answered as [`Request::Pack`]. What
    /// is gone is said by names (`.wh.`), extended attributes are there.
    PackLayer {
        /// The volume in that slot is the disk of a saved image, and what it holds over its image is
        /// sent. If absent, what is sent is the image that the guest was booted with, without what was
        /// written since.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        disk: Option<u32>,
    },
    /// Unpacks a tar archive. The host sends `Data` frames and an empty one to end; answered by
    /// [`Response::Done`]. Entries keep their modes and times. No entry ends up outside of the
    /// directory.
    Unpack {
        /// Absolute path of the directory in the guest; it is made if missing.
        path: String,
        /// Whom what is unpacked belongs to; if absent, new entries belong to whom a file written
        /// there would. If it is said, directories that are there stay as they are, and something
        /// else in the place of a directory is refused instead of replaced.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        owner: Option<Ownership>,
    },
    /// Lists the TCP ports that something in the guest listens on; answered by
    /// [`Response::Ports`].
    Ports,
    /// Connects to a TCP port of the guest's own loopback. Answered by [`Response::Done`], then
    /// `Data` frames both ways, an empty one ending a direction.
    Tunnel {
        /// The port.
        port: u16,
    },
    /// What is going on in the guest; answered by [`Response::Activity`].
    Activity,
    /// As [`Request::Activity`], and again with every change until the host drops the stream.
    ActivityWatch,
    /// Fork, exec and reap `/bin/true` once; answered by [`Response::SpawnTimed`]. The floor that
    /// an exec is measured against.
    TimeSpawn,
    /// Flush everything and power off; answered by [`Response::Done`] just before.
    PowerOff,
}

/// The agent's JSON answers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "re", rename_all = "snake_case")]
pub enum Response {
    /// Answers [`Request::Hello`].
    Welcome(Welcome),
    /// Answers [`Request::Identify`]; every part was applied and read back.
    Identified,
    /// The operation is complete.
    Done,
    /// Answers [`Request::Rest`].
    Resting(Resting),
    /// The command runs.
    Started {
        /// Its process id in the guest.
        pid: i32,
        /// The id under which it is found as a job, if it is detached or once it is.
        #[serde(default)]
        job: String,
    },
    /// The command is gone; last frame of an exec, and of an attachment to a session that ended.
    Exited(Exited),
    /// Answers [`Request::Jobs`].
    Jobs {
        /// The jobs.
        jobs: Vec<JobInfo>,
    },
    /// Answers [`Request::JobOutput`]; `Stdout` and `Stderr` frames follow.
    JobOutput {
        /// Cursor of the first byte that follows: the one asked for, or the oldest that is kept.
        start: u64,
    },
    /// Last frame of a [`Request::JobOutput`].
    JobOutputEnd {
        /// Where to go on.
        next: u64,
        /// The job as it was then.
        state: JobState,
    },
    /// Answers [`Request::Attach`]; `Stdout` frames follow.
    Attached {
        /// The session.
        session: SessionInfo,
        /// Whether it was made by this request.
        created: bool,
        /// How many of the bytes that follow are old output.
        replay: u64,
    },
    /// Answers [`Request::Join`]; `Stdout` frames follow.
    Joined {
        /// The session.
        session: SessionInfo,
        /// Whether it was made by this request.
        created: bool,
        /// Cursor of the first byte that follows: the one asked for, or the oldest that is kept.
        start: u64,
        /// How many of the bytes that follow are old output.
        replay: u64,
        /// Size of the terminal, if it has one.
        #[serde(default)]
        size: Option<WindowSize>,
    },
    /// The terminal of a session that was joined has another size.
    Resized(WindowSize),
    /// Whoever has joined was too slow for output that is not kept any more.
    Skipped {
        /// How much of it is left out here.
        bytes: u64,
    },
    /// The session goes on without this host's stream; last frame of an attachment.
    Detached {
        /// Why.
        reason: DetachReason,
    },
    /// Answers [`Request::Sessions`].
    Sessions {
        /// The sessions.
        sessions: Vec<SessionInfo>,
    },
    /// What is about to be sent.
    FileHeader(FileStat),
    /// The content is complete.
    FileEnd {
        /// Whether `limit` or `max_bytes` cut it.
        truncated: bool,
    },
    /// Answers [`Request::FileStat`].
    Stat(FileStat),
    /// Some entries of a directory, sorted by name over all frames.
    List {
        /// The entries of this frame.
        entries: Vec<FileEntry>,
        /// Whether this is the last frame.
        last: bool,
        /// In the last frame: whether the directory has entries after these.
        #[serde(default)]
        more: bool,
    },
    /// Something below a watched path has changed.
    Changed {
        /// The changes, oldest first.
        changes: Vec<Change>,
    },
    /// Answers [`Request::Ports`].
    Ports {
        /// The ports, lowest first.
        ports: Vec<PortInfo>,
    },
    /// Answers [`Request::Activity`] and [`Request::ActivityWatch`].
    Activity(Activity),
    /// Answers [`Request::TimeSpawn`].
    SpawnTimed {
        /// Nanoseconds from before the fork to after the reaping; 0 if there is no `/bin/true`.
        nanos: u64,
    },
    /// The operation failed; last frame of its stream.
    Error(WireError),
}

/// An operation that failed in the guest.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{message}")]
pub struct WireError {
    /// What kind of failure it is.
    pub code: ErrorCode,
    /// What went wrong, for people.
    pub message: String,
}

/// Kinds of failure, stable on the wire.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ErrorCode {
    /// A path does not exist.
    NotFound,
    /// A directory stands where a file is wanted.
    IsDirectory,
    /// A file stands where a directory is wanted.
    NotDirectory,
    /// The guest's own permissions forbid it.
    Permission,
    /// Something is there already.
    Exists,
    /// The directory still has entries.
    NotEmpty,
    /// The guest's disk is full.
    NoSpace,
    /// A volume was not unmounted and may not be written to, so it cannot be made whole.
    Unclean,
    /// There is no such job.
    UnknownJob,
    /// There is no such session.
    UnknownSession,
    /// The session has a client, and it was not to be taken over.
    Attached,
    /// Nothing in the guest accepts connections on the port.
    PortClosed,
    /// The command was not found.
    CommandNotFound,
    /// The command is not executable.
    CommandNotExecutable,
    /// The user does not exist in the guest.
    UnknownUser,
    /// The request makes no sense.
    Invalid,
    /// A limit is reached.
    Limit,
    /// The session has not proved itself, or its proof is wrong.
    Unauthenticated,
    /// This agent does not know the request.
    Unsupported,
    /// Anything else; the message says what.
    Failed,
}
