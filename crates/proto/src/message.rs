//! What host and agent say to each other: one JSON request opens a stream, JSON or data frames
//! answer it.
//!
//! Fields may be added with a default; none may change its meaning. A side that meets an unknown
//! request answers [`ErrorCode::Unsupported`].

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// The first frame of every stream that the host opens.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "op", rename_all = "snake_case")]
pub enum Request {
    /// Proves who the host is and asks who the guest is. Must be answered before anything else is
    /// served on this session.
    Hello(Hello),
    /// Gives a fresh child of a template its identity. Allowed once, and only to an agent that has
    /// none; needs no [`Request::Hello`] before it, and is one.
    Identify(Identify),
    /// Brings the same sandbox up to date after it slept.
    Refresh(Refresh),
    /// Answers [`Response::Done`].
    Ping,
    /// Runs a command; see [`Exec`].
    Exec(Exec),
    /// Reads a file; see [`FileRead`].
    FileRead(FileRead),
    /// Replaces a file in one step; see [`FileWrite`].
    FileWrite(FileWrite),
    /// Describes one path; answered by [`Response::Stat`].
    FileStat {
        /// Absolute path in the guest.
        path: String,
    },
    /// Lists a directory; answered by [`Response::List`] frames.
    FileList {
        /// Absolute path in the guest.
        path: String,
    },
    /// What is going on in the guest; answered by [`Response::Activity`].
    Activity,
    /// Fork, exec and reap `/bin/true` once; answered by [`Response::SpawnTimed`]. The floor that
    /// an exec is measured against.
    TimeSpawn,
    /// Flush everything and power off; answered by [`Response::Done`] just before.
    PowerOff,
}

/// See [`Request::Hello`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hello {
    /// The newest protocol version that the host speaks; both sides then use the lower one.
    pub version: u16,
    /// HMAC over the guest's preamble nonce, proving that the host holds the sandbox's token;
    /// absent when the host means to give an identity to a blank agent.
    pub proof: Option<String>,
    /// Clock and randomness for a guest that slept, brought up to date before it answers, so that
    /// waking takes one round trip.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub refresh: Option<Refresh>,
}

/// Everything that makes one sandbox different from its siblings.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Identify {
    /// The sandbox's id.
    pub sandbox_id: String,
    /// The guest's host name.
    pub hostname: String,
    /// 32 hexadecimal digits for `/etc/machine-id`.
    pub machine_id: String,
    /// The secret, as hexadecimal, with which host and agent prove themselves from now on.
    pub token: String,
    /// Variables that every command in the sandbox sees.
    #[serde(default)]
    pub env: BTreeMap<String, String>,
    /// Clock and randomness.
    pub refresh: Refresh,
}

impl std::fmt::Debug for Identify {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Identify").field("sandbox_id", &self.sandbox_id).finish_non_exhaustive()
    }
}

/// What any guest needs after its memory was restored.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Refresh {
    /// Wall-clock time, nanoseconds since the Unix epoch.
    pub time_ns: u64,
    /// 32 fresh random bytes as hexadecimal; credited, and the generator is reseeded.
    pub seed: String,
}

impl std::fmt::Debug for Refresh {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Refresh").field("time_ns", &self.time_ns).finish_non_exhaustive()
    }
}

/// Runs a command. Answered by [`Response::Started`], then `Stdout` and `Stderr` frames, then
/// [`Response::Exited`]. The host sends `Stdin` frames, an empty one closing the command's input.
/// If the host's side of the stream goes away, the command's process group is killed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Exec {
    /// Program and arguments; the program is looked up in the `PATH` of the command's environment.
    pub argv: Vec<String>,
    /// Variables on top of the sandbox's own.
    #[serde(default)]
    pub env: BTreeMap<String, String>,
    /// Working directory; the user's home if absent, `/` if that is missing.
    #[serde(default)]
    pub cwd: Option<String>,
    /// User name or numeric id; uid 1000 if absent.
    #[serde(default)]
    pub user: Option<String>,
    /// After this many milliseconds the process group is killed and `timed_out` is set.
    #[serde(default)]
    pub timeout_ms: Option<u64>,
    /// Whether `Stdin` frames will come; otherwise the command reads end of file at once.
    #[serde(default)]
    pub stdin: bool,
}

/// Reads a file. Answered by [`Response::FileHeader`], `Data` frames and [`Response::FileEnd`].
/// Without a line window the content is the exact bytes.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileRead {
    /// Absolute path in the guest.
    pub path: String,
    /// First line to send, counted from 1.
    #[serde(default)]
    pub offset: Option<u64>,
    /// Most lines to send.
    #[serde(default)]
    pub limit: Option<u64>,
    /// Most bytes to send.
    #[serde(default)]
    pub max_bytes: Option<u64>,
}

/// Replaces a file. The host sends `Data` frames and an empty one to end; answered by
/// [`Response::Done`] when the new content is in place, flushed. If the stream ends without the
/// empty frame the old file stays.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileWrite {
    /// Absolute path in the guest; missing parent directories are made.
    pub path: String,
    /// Permission bits; those of the file that is replaced, or 0644, if absent.
    #[serde(default)]
    pub mode: Option<u32>,
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
    /// The command runs.
    Started {
        /// Its process id in the guest.
        pid: i32,
    },
    /// The command is gone; last frame of an exec.
    Exited(Exited),
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
    },
    /// Answers [`Request::Activity`].
    Activity(Activity),
    /// Answers [`Request::TimeSpawn`].
    SpawnTimed {
        /// Nanoseconds from before the fork to after the reaping.
        nanos: u64,
    },
    /// The operation failed; last frame of its stream.
    Error(WireError),
}

/// See [`Request::Hello`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Welcome {
    /// The newest protocol version that the agent speaks.
    pub version: u16,
    /// The agent's own version, for people.
    pub agent: String,
    /// The sandbox that this guest is; absent before it was told.
    pub sandbox_id: Option<String>,
    /// HMAC over the host's preamble nonce; absent from a blank agent.
    pub proof: Option<String>,
}

/// How a command ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Exited {
    /// Exit status; 128 + signal number if a signal ended it, as shells count.
    pub code: i32,
    /// The signal that ended it.
    #[serde(default)]
    pub signal: Option<i32>,
    /// Whether it was killed because its time was up.
    #[serde(default)]
    pub timed_out: bool,
}

/// One file's facts.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileStat {
    /// Size in bytes.
    pub size: u64,
    /// Permission bits.
    pub mode: u32,
    /// What it is; symbolic links are followed.
    pub kind: FileKind,
    /// Modification time, seconds since the Unix epoch.
    pub mtime: i64,
}

/// One entry of a directory.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileEntry {
    /// Its name; bytes that are not UTF-8 are replaced.
    pub name: String,
    /// Its facts; a symbolic link is not followed.
    #[serde(flatten)]
    pub stat: FileStat,
}

/// What a path is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FileKind {
    /// A regular file.
    File,
    /// A directory.
    Directory,
    /// A symbolic link.
    Symlink,
    /// A socket, pipe or device.
    Other,
}

/// What is going on in the guest.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Activity {
    /// Commands that run now.
    pub running: u32,
    /// Milliseconds since the last operation other than this question.
    pub idle_ms: u64,
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
    /// The guest's disk is full.
    NoSpace,
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
