//! Docker and Podman, which keep images on this machine.
//!
//! They are the user's own programs, so they are found by the user's `PATH` and hear of what the
//! environment says of where they keep things. Each runs as a process that is killed when nobody
//! waits for it any more.

use std::io;

use anyhow::{Context as _, Result, bail};
use base::process::{Command, Exit, Process, ProcessError};
use bytes::BytesMut;
use tokio::{io::AsyncReadExt as _, net::unix::pipe::Receiver};

use crate::{
    archive::{self, AsyncReader, AsyncWriter, Sending},
    failure::hinted,
};

/// In the order in which they are asked.
const KEEPERS: [&str; 2] = ["docker", "podman"];

/// What they find themselves, their images and their daemons by.
const VARIABLES: [&str; 22] = [
    "PATH",
    "HOME",
    "TMPDIR",
    "DOCKER_HOST",
    "DOCKER_CONFIG",
    "DOCKER_CONTEXT",
    "DOCKER_CERT_PATH",
    "DOCKER_TLS",
    "DOCKER_TLS_VERIFY",
    "DOCKER_API_VERSION",
    "CONTAINER_HOST",
    "CONTAINER_CONNECTION",
    "CONTAINER_SSHKEY",
    "CONTAINERS_CONF",
    "CONTAINERS_STORAGE_CONF",
    "STORAGE_DRIVER",
    "STORAGE_OPTS",
    "SSH_AUTH_SOCK",
    "DBUS_SESSION_BUS_ADDRESS",
    "XDG_RUNTIME_DIR",
    "XDG_DATA_HOME",
    "XDG_CONFIG_HOME",
];

/// Bytes that are handed on at a time.
const PIECE: usize = 128 << 10;
/// Most bytes of what an image is known by.
const ID_MAX: u64 = 256;
/// Bytes of the end of what a program complains, of which the last line is told.
const COMPLAINT: usize = 2048;

/// An image that one of them has.
#[derive(Debug)]
pub(super) struct Kept {
    keeper: &'static str,
    /// What it means whatever becomes of its names. Asked for by a name without a tag, Docker would
    /// give all that have that name.
    id: String,
}

/// Who on this machine has that image.
///
/// # Errors
/// If there is none; what was said of it is told.
pub(super) async fn find(reference: &str) -> Result<Kept> {
    let mut told = Vec::new();
    for keeper in KEEPERS {
        let inspect = ["image", "inspect", "--format", "{{.Id}}", "--", reference];
        let Some(asked) = Running::start(keeper, &inspect)? else { continue };
        match asked.end(read_id).await {
            Ok(id) if is_id(&id) => return Ok(Kept { keeper, id }),
            Ok(other) => told.push(format!("{keeper} said {other:?}, which is no image")),
            Err(error) => told.push(format!("{error:#}")),
        }
    }
    if told.is_empty() {
        return Err(hinted(
            "neither docker nor podman is installed here",
            format!(
                "get it from its registry: bhatti image pull {reference}; or import an archive: \
                 bhatti image import --tar FILE --name NAME"
            ),
        ));
    }
    Err(hinted(
        format!("there is no image {reference:?} to import ({})", told.join("; ")),
        format!("get it from its registry: bhatti image pull {reference}"),
    ))
}

impl Kept {
    /// Begins to read it, as an archive. A runtime has to run.
    pub(super) fn save(&self) -> Result<(AsyncReader, Sending)> {
        let keeper = self.keeper;
        let missing = || ProcessError::Missing { program: keeper.to_owned() };
        let saving = Running::start(keeper, &["save", &self.id])?.ok_or_else(missing)?;
        Ok(archive::send_from(async move |writer: AsyncWriter| {
            let pass_on = async |stdout| pass_on(stdout, &writer).await;
            saving.end(pass_on).await?;
            writer.finish().await;
            Ok(())
        }))
    }
}

async fn read_id(stdout: Receiver) -> io::Result<String> {
    let mut said = Vec::new();
    stdout.take(ID_MAX).read_to_end(&mut said).await?;
    Ok(String::from_utf8_lossy(&said).trim().to_owned())
}

/// Whether that is the hash of an image, as both write it.
fn is_id(text: &str) -> bool {
    let hex = text.strip_prefix("sha256:").unwrap_or(text);
    hex.len() == 64 && hex.bytes().all(|byte| byte.is_ascii_hexdigit())
}

async fn pass_on(mut stdout: Receiver, to: &AsyncWriter) -> io::Result<()> {
    loop {
        let mut piece = BytesMut::with_capacity(PIECE);
        if stdout.read_buf(&mut piece).await? == 0 {
            return Ok(());
        }
        if !to.send(piece.freeze()).await {
            return Err(io::ErrorKind::BrokenPipe.into());
        }
    }
}

/// One of them at work. Dropped, it is killed.
#[derive(Debug)]
struct Running {
    keeper: &'static str,
    process: Process,
    stdout: Receiver,
    stderr: Receiver,
}

impl Running {
    /// Nothing if it is not installed.
    fn start(keeper: &'static str, args: &[&str]) -> Result<Option<Self>> {
        let (stdout, its_stdout) = io::pipe().context("make a pipe")?;
        let (stderr, its_stderr) = io::pipe().context("make a pipe")?;
        let set = VARIABLES.iter().filter_map(|name| Some((name, std::env::var_os(name)?)));
        let command =
            set.fold(Command::new(keeper), |command, (name, value)| command.env(name, value));
        let process = match command.args(args).stdout(its_stdout).stderr(its_stderr).spawn() {
            Err(ProcessError::Missing { .. }) => return Ok(None),
            process => process?,
        };
        let stdout = Receiver::from_owned_fd(stdout.into()).context("read from a pipe")?;
        let stderr = Receiver::from_owned_fd(stderr.into()).context("read from a pipe")?;
        Ok(Some(Self { keeper, process, stdout, stderr }))
    }

    /// Reads what it writes, and waits for its end.
    ///
    /// # Errors
    /// If it fails; then that is what it said last.
    async fn end<T>(self, read: impl AsyncFnOnce(Receiver) -> io::Result<T>) -> Result<T> {
        let Self { keeper, process, stdout, stderr } = self;
        let (read, said) = tokio::try_join!(read(stdout), complaint(stderr))?;
        match process.exited().await {
            Exit::Code(0) => Ok(read),
            exit if said.is_empty() => bail!("{keeper} failed with {exit}"),
            _ => bail!("{keeper}: {said}"),
        }
    }
}

/// The last line of what a program complains.
async fn complaint(mut stderr: Receiver) -> io::Result<String> {
    let mut end = Vec::with_capacity(2 * COMPLAINT);
    while stderr.read_buf(&mut end).await? > 0 {
        end.drain(..end.len().saturating_sub(COMPLAINT));
    }
    let text = String::from_utf8_lossy(&end);
    Ok(text.lines().rfind(|line| !line.trim().is_empty()).unwrap_or_default().trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_image_is_known_by_its_hash_and_by_nothing_else() {
        let hex = "0f".repeat(32);
        assert!(is_id(&hex) && is_id(&format!("sha256:{hex}")));
        for other in ["", "sha256:", "-v", "debian:12", "<no value>", &hex[1..], &format!("{hex}0")]
        {
            assert!(!is_id(other), "{other}");
        }
    }
}
