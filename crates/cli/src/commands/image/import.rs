use std::{
    io::{self, Read as _},
    path::PathBuf,
    process::{ExitCode, Stdio},
    time::Instant,
};

use anyhow::{Context as _, Result};
use api::client::{Client, ClientError};
use base::process::Command;

use crate::{
    app::{App, DONE},
    archive::{self, AsyncReader, Sending},
    commands::{
        cp::meter::Meter,
        host_tools::{self, Tool},
        interrupt::{INTERRUPTED, unless_interrupted},
    },
    failure::hinted,
    human,
};

/// What keeps images on this machine, in the order in which they are asked.
const KEEPERS: [Tool; 2] = [host_tools::DOCKER, host_tools::PODMAN];

/// What they find their images by.
const VARIABLES: [&str; 8] = [
    "HOME",
    "DOCKER_HOST",
    "DOCKER_CONFIG",
    "DOCKER_CONTEXT",
    "CONTAINER_HOST",
    "XDG_RUNTIME_DIR",
    "XDG_DATA_HOME",
    "XDG_CONFIG_HOME",
];

/// Most bytes of what a failing program says.
const COMPLAINT_MAX: u64 = 4096;

/// Make an image of one that Docker or Podman has on this machine, or of an archive
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Image of Docker or Podman; with --tar, which one of the archive if there are several
    #[arg(value_name = "REF", required_unless_present = "tar")]
    reference: Option<String>,
    /// Archive: of docker save, of an OCI layout or of a root file system; - for stdin
    #[arg(long, value_name = "FILE", requires = "name")]
    tar: Option<PathBuf>,
    /// Its name here [default: the last part of REF, and the tag unless that is latest]
    #[arg(long)]
    name: Option<String>,
}

pub(crate) fn run(args: &Args, app: &App) -> Result<ExitCode> {
    let start = Instant::now();
    let source = Source::of(args)?;
    let name = args.name.clone().unwrap_or_else(|| source.default_name());
    let seen = app.printer().stderr_is_terminal() && !app.printer().is_json();
    let meter = Meter::new(seen, source.length()?);
    let imported = app.with_client(async |client| {
        let (reader, sending) = source.open()?;
        let which = args.tar.as_ref().and(args.reference.as_deref());
        let work = send(client, (&name, which), meter.reading(reader), sending);
        unless_interrupted(work).await
    })?;
    meter.finish();
    let Some(image) = imported else { return Ok(ExitCode::from(INTERRUPTED)) };
    let took = human::duration(start.elapsed());
    let line = format!("image/{} ready ({} MB) in {took}", image.name, image.size_mb);
    app.printer().outcome(&image, &line)?;
    DONE
}

async fn send(
    client: &mut Client,
    (name, which): (&str, Option<&str>),
    reader: impl tokio::io::AsyncRead + Unpin + Send + 'static,
    sending: Sending,
) -> Result<api::Image> {
    match client.image_import(name, which, reader).await {
        Ok(image) => Ok(image),
        Err(error @ ClientError::Api(_)) => Err(error.into()),
        // What stopped the sending is why the request failed.
        Err(error) => Err(sending.finish().await.err().unwrap_or_else(|| error.into())),
    }
}

/// Where the archive comes from.
enum Source {
    File(PathBuf),
    Stdin,
    Keeper(Tool, String),
}

impl Source {
    fn of(args: &Args) -> Result<Self> {
        match (&args.tar, &args.reference) {
            (Some(path), _) if path.as_os_str() == "-" => Ok(Self::Stdin),
            (Some(path), _) => Ok(Self::File(path.clone())),
            (None, reference) => {
                let reference = reference.clone().unwrap_or_default();
                if reference.starts_with('-') {
                    return Err(hinted(format!("{reference:?} is no image"), "see: docker images"));
                }
                Ok(Self::Keeper(keeper(&reference)?, reference))
            }
        }
    }

    fn default_name(&self) -> String {
        match self {
            Self::Keeper(_, reference) => default_name(reference),
            // Then a name was required.
            Self::File(_) | Self::Stdin => String::new(),
        }
    }

    fn length(&self) -> Result<Option<u64>> {
        let Self::File(path) = self else { return Ok(None) };
        let meta = fs_err::metadata(path)?;
        Ok(meta.is_file().then_some(meta.len()))
    }

    /// Begins to read it, in a thread of its own.
    fn open(self) -> Result<(AsyncReader, Sending)> {
        Ok(match self {
            Self::File(path) => {
                let mut file = fs_err::File::open(&path)?;
                archive::send(move |to| {
                    io::copy(&mut file, to).with_context(|| format!("read {}", path.display()))?;
                    Ok(())
                })
            }
            Self::Stdin => archive::send(|to| {
                io::copy(&mut io::stdin().lock(), to).context("read stdin")?;
                Ok(())
            }),
            Self::Keeper(tool, reference) => {
                let saving = command(tool).args(["save", &reference]);
                let mut child =
                    saving.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn_child()?;
                archive::send(move |to| {
                    if let Some(mut stdout) = child.stdout.take()
                        && let Err(error) = io::copy(&mut stdout, to)
                    {
                        // Nobody wants the rest.
                        let _ = child.kill();
                        let _ = child.wait();
                        return Err(error.into());
                    }
                    let mut said = String::new();
                    if let Some(stderr) = child.stderr.take() {
                        let _ = stderr.take(COMPLAINT_MAX).read_to_string(&mut said);
                    }
                    if child.wait()?.success() {
                        return Ok(());
                    }
                    anyhow::bail!("{} save {reference}: {}", tool.program, said.trim())
                })
            }
        })
    }
}

fn command(tool: Tool) -> Command {
    let set = VARIABLES.iter().filter_map(|name| Some((name, std::env::var_os(name)?)));
    set.fold(Command::new(tool.program), |command, (name, value)| command.env(name, value))
}

/// Who on this machine has that image.
fn keeper(reference: &str) -> Result<Tool> {
    let there: Vec<Tool> =
        KEEPERS.into_iter().filter(|tool| host_tools::missing(&[*tool]).is_empty()).collect();
    if there.is_empty() {
        return Err(hinted(
            "neither docker nor podman is installed here",
            format!(
                "get it from its registry: bhatti image pull {reference}; or import an archive: \
                     bhatti image import --tar FILE --name NAME"
            ),
        ));
    }
    let mut told = Vec::new();
    for tool in there {
        match command(tool).args(["image", "inspect", "--", reference]).output() {
            Ok(_) => return Ok(tool),
            Err(error) => told.push(error.to_string()),
        }
    }
    Err(hinted(
        format!("there is no image {reference:?} to import: {}", told.join("; ")),
        format!("get it from its registry: bhatti image pull {reference}"),
    ))
}

/// The last part of a reference, and its tag unless that is `latest`.
fn default_name(reference: &str) -> String {
    let whole = reference.split('@').next().unwrap_or_default();
    let last = whole.rsplit('/').next().unwrap_or_default();
    match last.split_once(':') {
        None | Some((_, "latest")) => last.split(':').next().unwrap_or_default().to_owned(),
        Some((name, tag)) => format!("{name}-{tag}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::commands::tests::try_args;

    #[test]
    fn an_image_is_called_like_the_one_that_it_was() {
        for (reference, name) in [
            ("debian", "debian"),
            ("debian:12", "debian-12"),
            ("debian:latest", "debian"),
            ("localhost:5000/a/web:1.2", "web-1.2"),
            ("ghcr.io/a/web@sha256:00", "web"),
        ] {
            assert_eq!(default_name(reference), name);
        }
    }

    #[test]
    fn an_archive_needs_a_name() {
        assert!(try_args("image import debian:12").is_ok());
        assert!(try_args("image import --tar a.tar --name a").is_ok());
        assert!(try_args("image import --tar a.tar").is_err());
        assert!(try_args("image import debian:12 --tar a.tar --name a").is_ok());
        assert!(try_args("image import").is_err());
    }
}
