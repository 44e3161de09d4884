//! Detached jobs: `/sandboxes/:id/jobs`.
//!
//! * `POST /sandboxes/:id/exec` with `detach` starts one and answers [`JobStarted`].
//! * `GET /sandboxes/:id/jobs` lists them as [`Job`]s, oldest first; `GET …/jobs/:job` is one.
//! * `GET …/jobs/:job/output?offset=N&follow=true` sends what it has written from that cursor on,
//!   both outputs in the order in which they came. With `Accept: application/x-ndjson` a line per
//!   [`JobEvent`]; else the bare bytes, with
//!   [`OUTPUT_OFFSET`](crate::headers::OUTPUT_OFFSET) saying where they begin.
//! * `POST …/jobs/:job/kill` takes a [`Kill`]; `DELETE …/jobs/:job` forgets one that has ended.

use serde::{Deserialize, Serialize};

use crate::{ErrorBody, Payload, text_enum::text_enum};

text_enum! {
    /// What a job is doing.
    pub enum JobStatus {
        /// It runs.
        Running = "running",
        /// It has ended; see [`Job::exit_code`].
        Exited = "exited",
        /// The guest was turned off under it.
        Lost = "lost",
    }
}

/// The answer to a detached exec.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct JobStarted {
    /// The job's id.
    pub job_id: String,
    /// Its process id in the sandbox.
    pub pid: i32,
    /// Always true.
    pub detached: bool,
}

/// A detached job.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Job {
    /// Its id, never used twice in a sandbox.
    pub id: String,
    /// Program and arguments; cut if they are long.
    pub cmd: Vec<String>,
    /// Its process id in the sandbox.
    pub pid: i32,
    /// What it is doing.
    pub status: JobStatus,
    /// How it ended, as in [`ExecResponse::exit_code`](crate::ExecResponse::exit_code).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exit_code: Option<i32>,
    /// Whether it was killed because its time was up.
    #[serde(default)]
    pub timed_out: bool,
    /// When it was started, RFC 3339.
    pub started_at: String,
    /// When it ended, RFC 3339.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ended_at: Option<String>,
    /// Cursor of the oldest byte of output that is kept.
    pub output_start: u64,
    /// Bytes of output so far.
    pub output_end: u64,
    /// Whether it keeps the sandbox awake while it runs.
    #[serde(default)]
    pub keep_awake: bool,
}

/// One line of a job's output.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum JobEvent {
    /// Bytes of its standard output.
    Stdout {
        /// Cursor of the first of them.
        offset: u64,
        /// The bytes.
        #[serde(flatten)]
        payload: Payload,
    },
    /// Bytes of its standard error.
    Stderr {
        /// Cursor of the first of them.
        offset: u64,
        /// The bytes.
        #[serde(flatten)]
        payload: Payload,
    },
    /// Output before this cursor is not kept any more.
    Missed {
        /// Cursor of the oldest byte that is.
        offset: u64,
    },
    /// That is all for now, or for ever if the job does not run; nothing follows.
    End {
        /// Where to go on.
        offset: u64,
        /// What the job was doing then.
        status: JobStatus,
        /// How it ended.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        exit_code: Option<i32>,
    },
    /// The output could not be read to its end; nothing follows.
    Error(ErrorBody),
    /// An event of a newer version, which means nothing to this one.
    #[serde(other)]
    Unknown,
}

impl JobEvent {
    /// Whether nothing follows.
    pub fn is_last(&self) -> bool {
        matches!(self, Self::End { .. } | Self::Error(_))
    }
}

/// Asks for a job or session to be signalled.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Kill {
    /// Name such as `TERM` or `SIGTERM`, or a number; `TERM` if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub signal: Option<String>,
}

/// The answer to a request that has nothing else to say.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Done {
    /// What was done, one word such as `killed` or `removed`.
    pub status: String,
}
