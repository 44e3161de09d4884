//! Commands and detached jobs.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// Runs a command. Answered by [`Response::Started`](super::Response::Started), then `Stdout` and
/// `Stderr` frames, then [`Response::Exited`](super::Response::Exited). The host sends `Stdin`
/// frames, an empty one closing the command's input. If the host's side of the stream goes away,
/// the command's process group is killed; if the whole session does, as after a restore, it goes on
/// as a detached job. With `detach` it is one from the start and the answer ends with `Started`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Exec {
    /// Program and arguments; the program is looked up in the `PATH` of the command's environment.
    pub argv: Vec<String>,
    /// Variables on top of the sandbox's own.
    #[serde(default)]
    pub env: BTreeMap<String, String>,
    /// Working directory; the image's if absent, the user's home if it names none, `/` if that is
    /// missing.
    #[serde(default)]
    pub cwd: Option<String>,
    /// User name or numeric id, with a group after a colon if it is to be another than the user's;
    /// the image's user if absent, uid 1000 if it names none.
    #[serde(default)]
    pub user: Option<String>,
    /// After this many milliseconds the process group is killed and `timed_out` is set.
    #[serde(default)]
    pub timeout_ms: Option<u64>,
    /// Whether `Stdin` frames will come; otherwise the command reads end of file at once.
    #[serde(default)]
    pub stdin: bool,
    /// Runs it as a detached job.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub detach: Option<Detach>,
}

/// What a detached job asks for.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Detach {
    /// Whether the sandbox counts as active for as long as the job runs.
    #[serde(default)]
    pub keep_awake: bool,
    /// Most bytes of output that are kept, oldest dropped first; the agent's default if absent.
    #[serde(default)]
    pub output_max: Option<u64>,
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

/// Reads what a job has written, both outputs in the order in which they came. Answered by
/// [`Response::JobOutput`](super::Response::JobOutput), `Stdout` and `Stderr` frames, and
/// [`Response::JobOutputEnd`](super::Response::JobOutputEnd).
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct JobOutput {
    /// The job's id.
    pub job: String,
    /// Cursor of the first wanted byte: how many bytes the job had written before it. If that is
    /// not kept any more, the oldest that is.
    #[serde(default)]
    pub offset: u64,
    /// Whether to go on with what is written later, until the job has ended.
    #[serde(default)]
    pub follow: bool,
}

/// A detached job.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct JobInfo {
    /// Its id, never used twice in a sandbox.
    pub id: String,
    /// Program and arguments; cut if they are long.
    pub argv: Vec<String>,
    /// Process id in the guest, and process group.
    pub pid: i32,
    /// When it was started, seconds since the Unix epoch.
    pub started_at: i64,
    /// What it is doing.
    #[serde(flatten)]
    pub state: JobState,
    /// Cursor of the oldest byte of output that is kept.
    pub output_start: u64,
    /// Bytes of output so far.
    pub output_end: u64,
    /// Whether it keeps the sandbox awake while it runs.
    #[serde(default)]
    pub keep_awake: bool,
}

/// What a job is doing.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "state", rename_all = "snake_case")]
pub enum JobState {
    /// It runs.
    Running,
    /// It has ended.
    Exited {
        /// How.
        #[serde(flatten)]
        exited: Exited,
        /// When, seconds since the Unix epoch.
        at: i64,
    },
    /// The guest was turned off under it; how far it came is not known.
    Lost,
}
