//! Packing what is on this machine.

use std::{
    ffi::OsString,
    fs::{self, File},
    io::{self, BufWriter, Read},
    os::unix::fs::{MetadataExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result};
use tar::{Builder, EntryType, Header};
use tokio::task::JoinHandle;

use super::pipe::{self, AsyncReader, BlockingWriter};

/// Bytes that are handed on at a time.
const PIECE: usize = 128 << 10;
/// The permission bits of a mode, with those for setuid and the like.
const MODE: u32 = 0o7777;

/// An archive that is being packed.
#[derive(Debug)]
pub(crate) struct Packing(JoinHandle<Result<Vec<PathBuf>>>);

impl Packing {
    /// Waits for the end, and gives the paths that were left out: sockets, pipes and devices.
    ///
    /// # Errors
    /// If something could not be read. To be looked at before the error of the request that sends
    /// the archive, which fails because of it.
    pub(crate) async fn finish(self) -> Result<Vec<PathBuf>> {
        self.0.await.context("wait for the packing")?
    }
}

/// Packs what `work` adds, while it is read.
pub(crate) fn pack(
    work: impl FnOnce(&mut Packer) -> Result<()> + Send + 'static,
) -> (AsyncReader, Packing) {
    let (writer, reader) = pipe::from_thread();
    let packing = tokio::task::spawn_blocking(move || {
        let mut builder = Builder::new(BufWriter::with_capacity(PIECE, writer));
        builder.follow_symlinks(false);
        let mut packer = Packer { builder, skipped: Vec::new() };
        // Dropping the packer without a word means to the reader that the archive was cut.
        work(&mut packer)?;
        packer.finish()
    });
    (reader, Packing(packing))
}

/// An archive in the making.
pub(crate) struct Packer {
    builder: Builder<BufWriter<BlockingWriter>>,
    skipped: Vec<PathBuf>,
}

impl Packer {
    /// Adds a file under another name, relative to the directory that the archive is unpacked in.
    pub(crate) fn file(&mut self, path: &Path, name: &Path, mode: Option<u32>) -> Result<()> {
        let file = File::open(path).with_context(|| format!("read {}", path.display()))?;
        self.content(path, &file, name, mode)
    }

    /// Adds all that is in a directory, and with `itself` the directory's own permission bits.
    pub(crate) fn tree(&mut self, root: &Path, itself: bool) -> Result<()> {
        if itself {
            let metadata =
                fs::metadata(root).with_context(|| format!("read {}", root.display()))?;
            self.entry(&metadata, EntryType::Directory, Path::new("./"))?;
        }
        // Directories that are still to be read, relative to the root; the last one is next.
        let mut pending = vec![PathBuf::new()];
        while let Some(directory) = pending.pop() {
            for name in names(&root.join(&directory))? {
                let relative = directory.join(name);
                if self.add(&root.join(&relative), &relative)? {
                    pending.push(relative);
                }
            }
        }
        Ok(())
    }

    /// Adds one path, and says whether it is a directory.
    pub(crate) fn add(&mut self, path: &Path, name: &Path) -> Result<bool> {
        let context = || format!("read {}", path.display());
        let metadata = fs::symlink_metadata(path).with_context(context)?;
        let kind = metadata.file_type();
        if kind.is_dir() {
            // The slash says so to whoever does not look at the type.
            self.entry(&metadata, EntryType::Directory, &name.join(""))?;
        } else if kind.is_symlink() {
            let target = fs::read_link(path).with_context(context)?;
            let mut header = header(&metadata, EntryType::Symlink);
            self.builder.append_link(&mut header, name, target).with_context(|| writing(name))?;
        } else if kind.is_file() {
            // What has become something else meanwhile must neither be followed nor waited for.
            let flags = rustix::fs::OFlags::NOFOLLOW | rustix::fs::OFlags::NONBLOCK;
            let flags = i32::try_from(flags.bits()).unwrap_or(0);
            let file = File::options().read(true).custom_flags(flags).open(path);
            self.content(path, &file.with_context(context)?, name, None)?;
        } else {
            self.skipped.push(path.to_owned());
        }
        Ok(kind.is_dir())
    }

    fn content(&mut self, path: &Path, file: &File, name: &Path, mode: Option<u32>) -> Result<()> {
        let metadata = file.metadata().with_context(|| format!("read {}", path.display()))?;
        if !metadata.is_file() {
            anyhow::bail!("{} is not a regular file", path.display());
        }
        let mut header = header(&metadata, EntryType::Regular);
        if let Some(mode) = mode {
            header.set_mode(mode);
        }
        header.set_size(metadata.len());
        let content = Exactly { file, left: metadata.len() };
        self.builder
            .append_data(&mut header, name, content)
            .with_context(|| format!("pack {}", path.display()))
    }

    fn entry(&mut self, metadata: &fs::Metadata, kind: EntryType, name: &Path) -> Result<()> {
        let mut header = header(metadata, kind);
        self.builder.append_data(&mut header, name, io::empty()).with_context(|| writing(name))
    }

    /// Tells the reader that this is all.
    fn finish(self) -> Result<Vec<PathBuf>> {
        let Self { builder, skipped } = self;
        let flushed = builder.into_inner().and_then(|writer| Ok(writer.into_inner()?));
        flushed.context("pack")?.finish();
        Ok(skipped)
    }
}

fn writing(name: &Path) -> String {
    format!("pack {}", name.display())
}

/// Names in a directory, sorted, so that the same tree makes the same archive.
fn names(directory: &Path) -> Result<Vec<OsString>> {
    let read = || -> io::Result<Vec<OsString>> {
        fs::read_dir(directory)?.map(|entry| Ok(entry?.file_name())).collect()
    };
    let mut names = read().with_context(|| format!("read {}", directory.display()))?;
    names.sort();
    Ok(names)
}

fn header(metadata: &fs::Metadata, kind: EntryType) -> Header {
    let mut header = Header::new_gnu();
    header.set_entry_type(kind);
    header.set_mode(metadata.mode() & MODE);
    header.set_mtime(u64::try_from(metadata.mtime()).unwrap_or(0));
    header.set_size(0);
    header.set_uid(0);
    header.set_gid(0);
    header
}

/// Reads as many bytes of a file as were announced: it may grow or shrink meanwhile.
struct Exactly<'a> {
    file: &'a File,
    left: u64,
}

impl Read for Exactly<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let most = usize::try_from(self.left).unwrap_or(usize::MAX).min(buffer.len());
        if most == 0 {
            return Ok(0);
        }
        let length = self.file.read(&mut buffer[..most])?;
        if length == 0 {
            let what = "it shrank while it was read";
            return Err(io::Error::new(io::ErrorKind::UnexpectedEof, what));
        }
        self.left -= u64::try_from(length).unwrap_or(0);
        Ok(length)
    }
}
