//! What can go wrong between a plan and a running VM.

use std::{io, path::PathBuf};

use base::process::{Exit, ProcessError};

/// A virtual machine that could not be made, moved or stopped.
#[derive(Debug, thiserror::Error)]
pub enum VmError {
    /// The monitor's binary is not there.
    #[error("{binary} is not installed")]
    Missing {
        /// The binary's name.
        binary: String,
    },
    /// The monitor is older than what we can drive.
    #[error("{binary} is version {found}, at least {wanted} is needed")]
    TooOld {
        /// The binary's path.
        binary: PathBuf,
        /// What it is.
        found: String,
        /// What it must be.
        wanted: &'static str,
    },
    /// The monitor could not be run.
    #[error("start the virtual machine monitor")]
    Spawn(#[source] ProcessError),
    /// The monitor ended by itself.
    #[error("the virtual machine monitor ended with {exit}{}", said(.stderr))]
    Ended {
        /// How.
        exit: Exit,
        /// The last it wrote to stderr.
        stderr: String,
    },
    /// The monitor refused a command.
    #[error("the virtual machine monitor refused {command}: {reason}")]
    Refused {
        /// The command's name.
        command: String,
        /// Its words.
        reason: String,
    },
    /// The monitor did not answer in time.
    #[error("the virtual machine monitor did not answer {what} in {seconds} s")]
    Silent {
        /// What was waited for.
        what: &'static str,
        /// For how long.
        seconds: u64,
    },
    /// A snapshot file is not what was written.
    #[error("{path} is damaged: {reason}")]
    Corrupt {
        /// The file.
        path: PathBuf,
        /// What does not fit.
        reason: String,
    },
    /// The system refused something.
    #[error("{doing}")]
    Io {
        /// What was being done.
        doing: &'static str,
        /// What the system said.
        #[source]
        source: io::Error,
    },
}

impl VmError {
    /// Wraps an I/O error with what was being done.
    pub fn io(doing: &'static str) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::Io { doing, source }
    }

    /// Whether the host's disk is full.
    pub fn is_disk_full(&self) -> bool {
        match self {
            Self::Io { source, .. } => {
                matches!(source.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
            }
            Self::Refused { reason, .. } => reason.contains("No space left on device"),
            _ => false,
        }
    }
}

fn said(stderr: &str) -> String {
    if stderr.is_empty() { String::new() } else { format!(": {stderr}") }
}
