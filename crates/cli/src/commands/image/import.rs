use std::{io, path::PathBuf, process::ExitCode, time::Instant};

use anyhow::{Context as _, Result};
use api::client::{Client, ClientError};

use super::keeper;
use crate::{
    app::{App, DONE},
    archive::{self, AsyncReader, Sending},
    commands::{cp::meter::Meter, interrupt::unless_interrupted},
    failure::hinted,
    human,
};

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
        let work = async {
            let (reader, sending) = source.open().await?;
            let which = args.tar.as_ref().and(args.reference.as_deref());
            send(client, (&name, which), meter.reading(reader), sending).await
        };
        unless_interrupted(work).await
    })?;
    meter.finish();
    let image = match imported {
        Ok(image) => image,
        Err(interrupted) => return Ok(interrupted.into()),
    };
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
    Keeper(String),
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
                Ok(Self::Keeper(reference))
            }
        }
    }

    fn default_name(&self) -> String {
        match self {
            Self::Keeper(reference) => default_name(reference),
            // Then a name was required.
            Self::File(_) | Self::Stdin => String::new(),
        }
    }

    fn length(&self) -> Result<Option<u64>> {
        let Self::File(path) = self else { return Ok(None) };
        let meta = fs_err::metadata(path)?;
        Ok(meta.is_file().then_some(meta.len()))
    }

    /// Begins to read it.
    async fn open(self) -> Result<(AsyncReader, Sending)> {
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
            Self::Keeper(reference) => keeper::find(&reference).await?.save()?,
        })
    }
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
