//! Out of a sandbox onto this machine.

use std::{
    fs::{self, File, Permissions},
    io::{self, IsTerminal as _, Write as _},
    os::unix::{
        ffi::OsStrExt as _,
        fs::{FileTypeExt as _, OpenOptionsExt as _, PermissionsExt as _},
    },
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result, bail};
use api::{
    FileStat,
    client::{Client, FileContent, FilePart},
};

use super::{
    Copied, Copy, There,
    meter::Meter,
    place::{Found, Place, Side, Source, last_name, means_contents, means_directory, place},
};
use crate::{
    archive,
    commands::interrupt::{Interrupted, unless_interrupted},
    failure::hinted,
};

/// Permission bits that are kept.
const MODE: u32 = 0o777;

impl Copy<'_> {
    /// Copies, unless it is interrupted.
    pub(super) async fn download(
        &self,
        client: &mut Client,
        there: &There,
        to: Side,
    ) -> Result<Result<Copied, Interrupted>> {
        let Side::Here(to) = to else { return self.download_archive(client, there).await };
        let Some(stat) = there.stat(client, &there.path).await? else {
            bail!("{}:{} does not exist", there.sandbox, there.path);
        };
        let written = there.path.as_bytes();
        if !stat.is_dir && means_directory(written) {
            bail!("{}:{} is not a directory", there.sandbox, there.path);
        }
        let source = Source { directory: stat.is_dir, contents: means_contents(written) };
        let path = target(&to, source, there)?;
        let bytes = if stat.is_dir {
            self.download_tree(client, there, &path).await?
        } else {
            unless_interrupted(self.download_file(client, there, &stat, &path)).await?
        };
        Ok(bytes.map(|bytes| Copied { path: path.display().to_string(), bytes }))
    }

    async fn download_archive(
        &self,
        client: &mut Client,
        there: &There,
    ) -> Result<Result<Copied, Interrupted>> {
        if io::stdout().is_terminal() {
            let hint = "send it into a file or a program: bhatti cp SANDBOX:/PATH - | tar x";
            return Err(hinted("a tar archive is nothing for a terminal", hint));
        }
        let meter = self.meter(None);
        let copying = async {
            let mut content = client.archive_read(&there.sandbox, &there.path).await?;
            while let Some(chunk) = content.chunk().await? {
                meter.add(chunk.len());
                self.printer.bytes(&chunk)?;
            }
            Ok(Copied { path: "-".to_owned(), bytes: meter.finish() })
        };
        unless_interrupted(copying).await
    }

    async fn download_file(
        &self,
        client: &mut Client,
        there: &There,
        stat: &FileStat,
        path: &Path,
    ) -> Result<u64> {
        let mut content =
            client.file_read(&there.sandbox, &there.path, FilePart::default()).await?;
        let meter = self.meter(content.size.filter(|size| *size > 0));
        let mode = u32::from_str_radix(&stat.mode, 8).unwrap_or(0o644) & MODE;
        let context = || format!("write {}", path.display());
        let existing = fs::metadata(path).ok();
        if existing.is_some_and(|there| is_device(&there)) {
            let mut device = File::options().write(true).open(path).with_context(context)?;
            fill(&mut device, &mut content, &meter).await.with_context(context)?;
            return Ok(meter.finish());
        }
        let mut file = Unfinished::beside(path).with_context(context)?;
        fill(&mut file.file, &mut content, &meter).await.with_context(context)?;
        file.finish(path, mode).with_context(context)?;
        Ok(meter.finish())
    }

    async fn download_tree(
        &self,
        client: &mut Client,
        there: &There,
        path: &Path,
    ) -> Result<Result<u64, Interrupted>> {
        let mut content = client.archive_read(&there.sandbox, &there.path).await?;
        let context = || format!("make the directory {}", path.display());
        let new = match fs::create_dir(path) {
            Ok(()) => true,
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => false,
            Err(error) => return Err(error).with_context(context),
        };
        let (writer, unpacking) = archive::unpack(archive::open_root(path)?, new);
        let meter = self.meter(None);
        let feeding = async {
            while let Some(chunk) = content.chunk().await? {
                meter.add(chunk.len());
                if !writer.send(chunk).await {
                    return Ok(());
                }
            }
            writer.finish().await;
            Ok(())
        };
        // The writer is gone afterwards however it went, and with that the unpacking ends.
        let fed = unless_interrupted(feeding).await;
        let unpacked = unpacking.finish().await;
        let bytes = meter.finish();
        match fed {
            Ok(Err(interrupted)) => Ok(Err(interrupted)),
            Ok(Ok(())) => {
                let skipped = unpacked.with_context(|| format!("copy to {}", path.display()))?;
                self.tell_skipped(skipped.count, skipped.names);
                Ok(Ok(bytes))
            }
            Err(error) => Err(error),
        }
    }
}

/// The path that the copy gets.
fn target(to: &Path, source: Source, there: &There) -> Result<PathBuf> {
    let at = |path: &Path| format!("copy to {}", path.display());
    let slash = means_directory(to.as_os_str().as_bytes());
    let decided = place(source, found(to)?, slash).map_err(anyhow::Error::msg);
    let path = match decided.with_context(|| at(to))? {
        // What the user names is meant, also if it is a link.
        Place::Exactly => to.canonicalize().unwrap_or_else(|_| to.to_owned()),
        Place::Inside if !to.is_dir() => bail!("{}: it is not a directory", at(to)),
        Place::Inside => {
            let Some(name) = last_name(&there.path) else {
                bail!("{}:{} has no name", there.sandbox, there.path);
            };
            let path = to.join(name);
            // What stands in a directory may be a link that leads anywhere.
            match (source.directory, fs::symlink_metadata(&path).ok().map(|found| found.is_dir())) {
                (true, Some(false)) => {
                    bail!("{}: something is there that is not a directory", at(&path))
                }
                (false, Some(true)) => bail!("{}: a directory is there", at(&path)),
                _ => path,
            }
        }
    };
    Ok(path)
}

/// What is at a path of this machine.
fn found(path: &Path) -> Result<Found> {
    match fs::metadata(path) {
        Ok(there) if there.is_dir() => Ok(Found::Directory),
        Ok(there) if is_device(&there) => Ok(Found::Device),
        Ok(_) => Ok(Found::File),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty());
            Ok(Found::Nothing { possible: parent.unwrap_or(Path::new(".")).is_dir() })
        }
        Err(error) => Err(error).with_context(|| format!("look at {}", path.display())),
    }
}

fn is_device(there: &fs::Metadata) -> bool {
    let kind = there.file_type();
    kind.is_char_device() || kind.is_block_device() || kind.is_fifo() || kind.is_socket()
}

async fn fill(file: &mut File, content: &mut FileContent<'_>, meter: &Meter) -> Result<()> {
    while let Some(chunk) = content.chunk().await? {
        file.write_all(&chunk)?;
        meter.add(chunk.len());
    }
    Ok(())
}

/// A file that gets its name when it is complete, and vanishes if it never is.
struct Unfinished {
    file: File,
    path: PathBuf,
}

impl Unfinished {
    fn beside(path: &Path) -> io::Result<Self> {
        let temporary = path.with_file_name(format!(".bhatti-{}.part", base::random::hex::<8>()));
        let file = File::options().write(true).create_new(true).mode(0o600).open(&temporary)?;
        Ok(Self { file, path: temporary })
    }

    fn finish(self, path: &Path, mode: u32) -> io::Result<()> {
        self.file.set_permissions(Permissions::from_mode(mode))?;
        fs::rename(&self.path, path)
    }
}

impl Drop for Unfinished {
    fn drop(&mut self) {
        // It is not there any more if it has its name.
        let _ = fs::remove_file(&self.path);
    }
}
