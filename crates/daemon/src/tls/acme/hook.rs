//! The operator's program that makes records in DNS and takes them away.

use std::{
    io::{self, Read as _, Seek as _, SeekFrom},
    os::unix::process::CommandExt as _,
    path::Path,
    process::Stdio,
    time::Duration,
};

use base::process::{Command, Exit, ProcessError};
use rustix::fs::{MemfdFlags, memfd_create};
use tokio::time::timeout;

/// How long it may take. A record is to be seen by others when it ends.
pub(super) const HOOK_TIME: Duration = Duration::from_secs(180);
/// How much of what it wrote to stderr an error quotes, bytes.
const QUOTED: i64 = 2000;

/// Why there is no record.
#[derive(Debug, thiserror::Error)]
pub(super) enum HookError {
    #[error(transparent)]
    Process(#[from] ProcessError),
    #[error("{program} {what} ended with {exit}{}", quoted(.stderr))]
    Failed { program: String, what: &'static str, exit: Exit, stderr: String },
    #[error("{program} {what} took longer than {} s{}", .limit.as_secs(), quoted(.stderr))]
    Late { program: String, what: &'static str, limit: Duration, stderr: String },
    #[error("what a program says cannot be kept")]
    Stderr(#[source] io::Error),
}

fn quoted(stderr: &str) -> String {
    if stderr.is_empty() { String::new() } else { format!(": {stderr}") }
}

/// A record that is there until it is taken away.
pub(super) struct Record<'a> {
    pub(super) hook: &'a Path,
    pub(super) name: String,
    pub(super) value: String,
}

impl Record<'_> {
    pub(super) async fn present(&self, limit: Duration) -> Result<(), HookError> {
        self.run("present", limit).await
    }

    pub(super) async fn cleanup(&self, limit: Duration) -> Result<(), HookError> {
        self.run("cleanup", limit).await
    }

    /// Runs the program to its end, and whatever it started if that takes too long. What it says is
    /// kept in memory and not in a pipe, which somebody might hold open.
    async fn run(&self, what: &'static str, limit: Duration) -> Result<(), HookError> {
        let said = memfd_create("hook", MemfdFlags::CLOEXEC);
        let said = said.map_err(|error| HookError::Stderr(error.into()))?;
        let mut said = std::fs::File::from(said);
        let stderr = said.try_clone().map_err(HookError::Stderr)?;
        let command = Command::new(self.hook).args([what, &self.name, &self.value]);
        let mut command = command.stdout(Stdio::null()).stderr(stderr);
        command.as_std_mut().process_group(0);
        let process = command.spawn()?;
        let ended = timeout(limit, process.exited()).await;
        if ended.is_err()
            && let Some(group) = rustix::process::Pid::from_raw(process.pid())
        {
            let _ = rustix::process::kill_process_group(group, rustix::process::Signal::KILL);
        }
        let program = self.hook.display().to_string();
        let stderr = tail(&mut said).map_err(HookError::Stderr)?;
        match ended {
            Ok(Exit::Code(0)) => Ok(()),
            Ok(exit) => Err(HookError::Failed { program, what, exit, stderr }),
            Err(_) => Err(HookError::Late { program, what, limit, stderr }),
        }
    }
}

/// The end of what was said.
fn tail(said: &mut std::fs::File) -> io::Result<String> {
    let length = said.seek(SeekFrom::End(0))?.cast_signed();
    said.seek(SeekFrom::End(-length.min(QUOTED)))?;
    let mut bytes = Vec::new();
    said.take(QUOTED.cast_unsigned()).read_to_end(&mut bytes)?;
    Ok(String::from_utf8_lossy(&bytes).trim().to_owned())
}

#[cfg(test)]
mod tests {
    use std::{fs::Permissions, os::unix::fs::PermissionsExt as _};

    use base::process::{Process, start_time};

    use super::*;

    /// Whoever is not dead by then lives on.
    const HANGS: Duration = Duration::from_secs(30);

    async fn present(script: &str, limit: Duration) -> (Result<(), HookError>, String) {
        let dir = tempfile::tempdir().unwrap();
        let hook = dir.path().join("hook");
        fs_err::write(&hook, format!("#!/bin/sh\ncd {}\n{script}\n", dir.path().display()))
            .unwrap();
        fs_err::set_permissions(&hook, Permissions::from_mode(0o755)).unwrap();
        let (name, value) = ("_acme-challenge.x.example".to_owned(), "v".to_owned());
        let ended = Record { hook: &hook, name, value }.present(limit).await;
        (ended, fs_err::read_to_string(dir.path().join("out")).unwrap_or_default())
    }

    #[tokio::test]
    async fn it_is_told_what_to_make_and_what_it_says_is_told() {
        let (ended, out) = present("echo \"$@\" >out", HOOK_TIME).await;
        ended.unwrap();
        assert_eq!(out, "present _acme-challenge.x.example v\n");
        let told = present("echo no such zone >&2; exit 3", HOOK_TIME).await.0.unwrap_err();
        assert!(told.to_string().ends_with("exit status 3: no such zone"), "{told}");
    }

    #[tokio::test]
    async fn it_ends_in_time_with_all_that_it_started() {
        let script = "echo working >&2; sleep 1000 & echo $! >pid; echo $! >out; wait";
        let (ended, pid) = present(script, Duration::from_millis(300)).await;
        let told = ended.unwrap_err().to_string();
        assert!(told.contains("took longer") && told.ends_with("working"), "{told}");
        let pid: i32 = pid.trim().parse().unwrap();
        // Who was killed is dead soon, and not at once.
        if let Ok(started) = start_time(pid)
            && let Some(process) = Process::adopt(pid, started).unwrap()
        {
            assert_eq!(timeout(HANGS, process.exited()).await, Ok(Exit::Unknown));
        }
    }
}
