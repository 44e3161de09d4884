//! Running commands: `POST /sandboxes/:id/exec`.
//!
//! The body is an [`ExecRequest`]. With `Content-Type: application/x-ndjson` its first line is, and
//! all bytes after that line are the command's input, as they come; the end of the body closes it.
//!
//! The answer is one [`ExecResponse`], or with `Accept: application/x-ndjson` a line per
//! [`StreamEvent`]. A stream is complete only if its last event is `exit` or `error`.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::{ErrorBody, Payload, payload};

/// How long a command may run if the request does not say, in seconds.
pub const DEFAULT_TIMEOUT_SEC: u64 = 300;
/// The longest time that a request may ask for, in seconds; more is an error.
pub const MAX_TIMEOUT_SEC: u64 = 86_400;
/// The most standard input that fits into a request, in bytes before base64.
pub const MAX_STDIN_BYTES: usize = 8 << 20;

/// Asks for a command to be run.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ExecRequest {
    /// Program and arguments. No shell is involved.
    pub cmd: Vec<String>,
    /// Variables on top of the sandbox's own.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub env: BTreeMap<String, String>,
    /// Working directory; the user's home if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cwd: Option<String>,
    /// User name or numeric id; the sandbox's own user if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user: Option<String>,
    /// Seconds until the command is killed: [`DEFAULT_TIMEOUT_SEC`] if absent, at most
    /// [`MAX_TIMEOUT_SEC`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeout_sec: Option<u64>,
    /// The whole standard input in base64, at most [`MAX_STDIN_BYTES`]; without it the command
    /// reads end of file at once.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stdin_b64: Option<String>,
    /// Runs it as a job that nobody waits for; answered by [`JobStarted`](crate::JobStarted).
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub detach: bool,
    /// Whether the sandbox counts as active for as long as the job runs; only with `detach`.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub keep_awake: bool,
    /// Most bytes of the job's output that are kept, oldest dropped first; only with `detach`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub output_max_bytes: Option<u64>,
}

impl ExecRequest {
    /// Sets the standard input.
    pub fn set_stdin(&mut self, bytes: &[u8]) {
        self.stdin_b64 = Some(payload::encode(bytes));
    }

    /// The standard input, if there is one.
    ///
    /// # Errors
    /// If `stdin_b64` is not base64.
    pub fn stdin(&self) -> Result<Option<Vec<u8>>, base64::DecodeError> {
        self.stdin_b64.as_deref().map(payload::decode).transpose()
    }
}

/// What a command did, once it has ended.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExecResponse {
    /// Exit status; 128 + signal number if a signal ended it, as shells count.
    pub exit_code: i32,
    /// Standard output; bytes that are not UTF-8 are replaced.
    pub stdout: String,
    /// Standard error; bytes that are not UTF-8 are replaced.
    pub stderr: String,
    /// The exact standard output in base64, if `stdout` is not exact.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stdout_b64: Option<String>,
    /// The exact standard error in base64, if `stderr` is not exact.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stderr_b64: Option<String>,
    /// Whether it was killed because its time was up; the output so far is kept.
    #[serde(default)]
    pub timed_out: bool,
    /// Whether there was more output than an answer holds.
    #[serde(default)]
    pub truncated: bool,
}

impl ExecResponse {
    /// An answer with this output, neither timed out nor truncated.
    pub fn new(exit_code: i32, stdout: Vec<u8>, stderr: Vec<u8>) -> Self {
        let (stdout, stdout_b64) = lossy(stdout);
        let (stderr, stderr_b64) = lossy(stderr);
        Self { exit_code, stdout, stderr, stdout_b64, stderr_b64, ..Self::default() }
    }

    /// The exact standard output.
    ///
    /// # Errors
    /// If `stdout_b64` is not base64.
    pub fn stdout_bytes(&self) -> Result<Vec<u8>, base64::DecodeError> {
        self.stdout_b64
            .as_deref()
            .map_or_else(|| Ok(self.stdout.clone().into_bytes()), payload::decode)
    }
}

/// Text for people, and the exact bytes if the text is not exact.
fn lossy(bytes: Vec<u8>) -> (String, Option<String>) {
    match String::from_utf8(bytes) {
        Ok(text) => (text, None),
        Err(error) => {
            let bytes = error.as_bytes();
            (String::from_utf8_lossy(bytes).into_owned(), Some(payload::encode(bytes)))
        }
    }
}

/// One line of a streamed exec.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum StreamEvent {
    /// The command runs; the first event.
    Started {
        /// Its process id in the sandbox.
        pid: i32,
        /// The job that it becomes if the daemon loses it, as when the sandbox is stopped.
        #[serde(default)]
        job_id: String,
    },
    /// Bytes from the command's standard output.
    Stdout(Payload),
    /// Bytes from the command's standard error.
    Stderr(Payload),
    /// The command has ended; nothing follows.
    Exit {
        /// As in [`ExecResponse::exit_code`].
        exit_code: i32,
        /// As in [`ExecResponse::timed_out`].
        #[serde(default)]
        timed_out: bool,
    },
    /// The command could not be run to its end; nothing follows.
    Error(ErrorBody),
    /// An event of a newer version, which means nothing to this one.
    #[serde(other)]
    Unknown,
}

impl StreamEvent {
    /// Whether nothing follows.
    pub fn is_last(&self) -> bool {
        matches!(self, Self::Exit { .. } | Self::Error(_))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ErrorCode;

    #[test]
    fn events_have_the_documented_shape() {
        let events = [
            (StreamEvent::Stdout(Payload::new("a\n")), r#"{"type":"stdout","data":"a\n"}"#),
            (
                StreamEvent::Stderr(Payload::new(vec![0xff])),
                r#"{"type":"stderr","data_b64":"/w=="}"#,
            ),
            (
                StreamEvent::Exit { exit_code: 3, timed_out: false },
                r#"{"type":"exit","exit_code":3,"timed_out":false}"#,
            ),
            (
                StreamEvent::Error(ErrorBody::new(ErrorCode::VmDied, "the VM ended")),
                r#"{"type":"error","error":"the VM ended","code":"vm_died"}"#,
            ),
        ];
        for (event, json) in events {
            assert_eq!(serde_json::to_string(&event).unwrap(), json);
            assert_eq!(serde_json::from_str::<StreamEvent>(json).unwrap(), event);
        }
        let newer = r#"{"type":"cpu_time","ms":3}"#;
        assert_eq!(serde_json::from_str::<StreamEvent>(newer).unwrap(), StreamEvent::Unknown);
    }

    #[test]
    fn output_that_is_not_text_is_also_there_exactly() {
        let answer = ExecResponse::new(0, vec![b'a', 0xff], b"plain".to_vec());
        assert_eq!(answer.stdout, "a\u{fffd}");
        assert_eq!(answer.stdout_bytes().unwrap(), [b'a', 0xff]);
        assert_eq!(answer.stderr_b64, None);
    }

    #[test]
    fn a_misspelt_field_is_named() {
        let error = serde_json::from_str::<ExecRequest>(r#"{"cmd":["true"],"timeout":3}"#)
            .unwrap_err()
            .to_string();
        assert!(error.contains("unknown field `timeout`"), "{error}");
        assert!(error.contains("timeout_sec"), "{error}");
    }
}
