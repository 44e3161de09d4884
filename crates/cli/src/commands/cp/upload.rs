//! From this machine into a sandbox.

use std::{
    fs::{self, Metadata},
    os::unix::{ffi::OsStrExt as _, fs::PermissionsExt as _},
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result, bail};
use api::client::{Client, ClientError};

use super::{
    Copied, Copy, There,
    place::{Found, Place, Side, Source, join, means_contents, means_directory, place},
    utf8,
};
use crate::archive;

impl Copy<'_> {
    pub(super) async fn upload(
        &self,
        client: &mut Client,
        from: Side,
        there: &There,
    ) -> Result<Copied> {
        let Side::Here(from) = from else { return self.upload_archive(client, there).await };
        let metadata = fs::metadata(&from).with_context(|| format!("read {}", from.display()))?;
        let written = from.as_os_str().as_bytes();
        let directory = metadata.is_dir();
        if !directory && means_directory(written) {
            bail!("{} is not a directory", from.display());
        }
        let source = Source { directory, contents: means_contents(written) };
        let (path, new) = target(client, &from, source, there).await?;
        let bytes = if directory {
            self.upload_tree(client, &from, there, &path, new).await?
        } else {
            self.upload_file(client, &from, &metadata, there, &path).await?
        };
        Ok(Copied { path: format!("{}:{path}", there.sandbox), bytes })
    }

    async fn upload_archive(&self, client: &mut Client, there: &There) -> Result<Copied> {
        let meter = self.meter(None);
        let content = meter.reading(tokio::io::stdin());
        client.archive_write(&there.sandbox, &there.path, content).await?;
        Ok(Copied { path: format!("{}:{}", there.sandbox, there.path), bytes: meter.finish() })
    }

    async fn upload_file(
        &self,
        client: &mut Client,
        from: &Path,
        metadata: &Metadata,
        there: &There,
        path: &str,
    ) -> Result<u64> {
        let context = || format!("read {}", from.display());
        let file = tokio::fs::File::open(from).await.with_context(context)?;
        // A pipe or device has neither a size nor a mode worth keeping.
        let regular = metadata.is_file();
        let meter = self.meter(regular.then_some(metadata.len()));
        let mode = regular.then(|| format!("{:04o}", metadata.permissions().mode() & 0o7777));
        let content = meter.reading(file);
        client.file_write(&there.sandbox, path, mode.as_deref(), content).await?;
        Ok(meter.finish())
    }

    /// Sends a tree; `new`: the directory is not there yet, and gets the permission bits of ours.
    async fn upload_tree(
        &self,
        client: &mut Client,
        from: &Path,
        there: &There,
        path: &str,
        new: bool,
    ) -> Result<u64> {
        let root = from.to_owned();
        let (reader, packing) = archive::pack(move |packer| packer.tree(&root, new));
        let meter = self.meter(None);
        let sent = client.archive_write(&there.sandbox, path, meter.reading(reader)).await;
        let bytes = meter.finish();
        // A refusal stops the packing; else what stopped the packing is why the request failed.
        if let Err(error @ ClientError::Api(_)) = sent {
            return Err(error.into());
        }
        let skipped = packing.finish().await?;
        sent?;
        let count = u64::try_from(skipped.len()).unwrap_or(u64::MAX);
        self.tell_skipped(count, skipped.iter().map(|path| path.display().to_string()));
        Ok(bytes)
    }
}

/// The path that the copy gets, and whether nothing is there yet.
async fn target(
    client: &mut Client,
    from: &Path,
    source: Source,
    there: &There,
) -> Result<(String, bool)> {
    let found = found(client, there, &there.path).await?;
    let slash = means_directory(there.path.as_bytes());
    let at = |path: &str| format!("copy to {}:{path}", there.sandbox);
    let decided = place(source, found, slash).map_err(anyhow::Error::msg);
    match decided.with_context(|| at(&there.path))? {
        Place::Exactly => Ok((there.path.clone(), matches!(found, Found::Nothing { .. }))),
        Place::Inside => {
            let path = join(&there.path, utf8(&name(from)?)?);
            if !source.directory {
                // A directory that is in the way is the daemon's to refuse.
                return Ok((path, true));
            }
            match self::found(client, there, &path).await? {
                Found::File | Found::Device => {
                    let error = anyhow::Error::msg("a file is there, and a directory is copied");
                    Err(error.context(at(&path)))
                }
                found => Ok((path, matches!(found, Found::Nothing { .. }))),
            }
        }
    }
}

/// What is at a path of the sandbox; missing directories can always be made.
async fn found(client: &mut Client, there: &There, path: &str) -> Result<Found> {
    Ok(match there.stat(client, path).await? {
        None => Found::Nothing { possible: true },
        Some(stat) if stat.is_dir => Found::Directory,
        Some(_) => Found::File,
    })
}

/// The last name of a path of this machine.
fn name(path: &Path) -> Result<std::ffi::OsString> {
    if let Some(name) = path.file_name() {
        return Ok(name.to_owned());
    }
    let whole: PathBuf = path.canonicalize().with_context(|| format!("read {}", path.display()))?;
    match whole.file_name() {
        Some(name) => Ok(name.to_owned()),
        None => bail!("{} has no name", path.display()),
    }
}
