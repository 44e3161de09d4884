//! Unpacking what comes out of a sandbox, which may be anything.
//!
//! Invariant: nothing outside of the directory is touched. Every path is walked from there, part by
//! part, never through a link; what is there is replaced, never written to.

use std::{
    cell::Cell,
    ffi::OsStr,
    fs::File,
    io::{self, Read, Seek as _, SeekFrom, Write as _},
    os::{
        fd::{AsFd as _, OwnedFd},
        unix::ffi::OsStrExt as _,
    },
    rc::Rc,
};

use anyhow::{Context as _, Result, bail};
use rustix::{
    fs::{
        AtFlags, CWD, FileType, Mode, OFlags, Timespec, Timestamps, UTIME_OMIT, fchmod, futimens,
        linkat, mkdirat, openat, renameat, statat, symlinkat, unlinkat,
    },
    io::Errno,
};
use tar::{Archive, Entry, EntryType};
use tokio::task::JoinHandle;

use super::pipe::{self, AsyncWriter, BlockingReader};
use crate::table::printable;

/// Most bytes between two contents: headers, with names of any sensible length.
const MAX_HEADERS: u64 = 1 << 20;
/// Longest path in an archive; the system has the same limit.
const MAX_PATH: usize = 4096;
/// Bytes copied at a time.
const PIECE: usize = 128 << 10;
/// Names that are told of those that were left out.
const NAMES_TOLD: usize = 10;
/// Permission bits that are kept: nothing of the sandbox's makes a program special here.
const MODE: u32 = 0o777;

/// Entries that were left out: devices, pipes and sockets.
#[derive(Debug, Default)]
pub(crate) struct Skipped {
    /// How many.
    pub(crate) count: u64,
    /// The first ones.
    pub(crate) names: Vec<String>,
}

/// An archive that is being unpacked.
#[derive(Debug)]
pub(crate) struct Unpacking(JoinHandle<Result<Skipped>>);

impl Unpacking {
    /// Waits for the end.
    ///
    /// # Errors
    /// If the archive is cut or hostile, or cannot be written. What is unpacked by then stays.
    pub(crate) async fn finish(self) -> Result<Skipped> {
        self.0.await.context("wait for the unpacking")?
    }
}

/// Unpacks what is sent into a directory; `itself`: it is new, and gets the permission bits that
/// the archive has for it.
pub(crate) fn unpack(directory: OwnedFd, itself: bool) -> (AsyncWriter, Unpacking) {
    let (writer, reader) = pipe::to_thread();
    let work = move || unpack_all(reader, directory, itself);
    (writer, Unpacking(tokio::task::spawn_blocking(work)))
}

fn unpack_all(mut reader: BlockingReader, directory: OwnedFd, itself: bool) -> Result<Skipped> {
    let skipped = unpack_from(&mut reader, directory, itself)?;
    // What follows the archive's end is padding.
    io::copy(&mut reader, &mut io::sink()).context("read the archive")?;
    Ok(skipped)
}

fn unpack_from(reader: impl Read, directory: OwnedFd, itself: bool) -> Result<Skipped> {
    let allowance = Rc::new(Cell::new(MAX_HEADERS));
    let reader = Rationed { reader, allowance: Rc::clone(&allowance) };
    let mut archive = Archive::new(reader);
    let mut tree = Tree { root: directory, itself, made: Vec::new(), buffer: vec![0; PIECE] };
    let mut skipped = Skipped::default();
    for entry in archive.entries().context("read the archive")? {
        let mut entry = entry.context("read the archive")?;
        allowance.set(u64::MAX);
        if !tree.unpack(&mut entry)? {
            skipped.count += 1;
            if skipped.names.len() < NAMES_TOLD {
                let name = String::from_utf8_lossy(&entry.path_bytes()).into_owned();
                skipped.names.push(printable(&name));
            }
        }
        io::copy(&mut entry, &mut io::sink()).context("read the archive")?;
        allowance.set(MAX_HEADERS);
    }
    tree.finish()?;
    Ok(skipped)
}

/// A reader that yields no more than it is allowed to. Names are read into memory, however long
/// the archive says that they are.
struct Rationed<R> {
    reader: R,
    allowance: Rc<Cell<u64>>,
}

impl<R: Read> Read for Rationed<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let allowed = self.allowance.get();
        if allowed == 0 {
            let what = "a name in the archive is too long";
            return Err(io::Error::new(io::ErrorKind::InvalidData, what));
        }
        let most = usize::try_from(allowed).unwrap_or(usize::MAX).min(buffer.len());
        let length = self.reader.read(&mut buffer[..most])?;
        if allowed != u64::MAX {
            self.allowance.set(allowed - u64::try_from(length).unwrap_or(allowed));
        }
        Ok(length)
    }
}

/// A directory that was made, whose permission bits are set when all is in it.
struct Made {
    path: Vec<u8>,
    mode: u32,
    mtime: u64,
}

struct Tree {
    root: OwnedFd,
    itself: bool,
    made: Vec<Made>,
    buffer: Vec<u8>,
}

impl Tree {
    /// Unpacks one entry; false if it is of a kind that is left out.
    fn unpack(&mut self, entry: &mut Entry<'_, impl Read>) -> Result<bool> {
        let bytes = entry.path_bytes().into_owned();
        let shown = printable(&String::from_utf8_lossy(&bytes));
        let path = parts(&bytes).with_context(|| refused(&shown))?;
        let context = || format!("unpack {shown}");
        let header = entry.header();
        let mode = header.mode().unwrap_or(0o644) & MODE;
        let mtime = header.mtime().unwrap_or(0);
        let kind = header.entry_type();
        match kind {
            EntryType::Directory => self.directory(&path, mode, mtime).with_context(context)?,
            // How archives had it before there were types.
            EntryType::Regular if bytes.ends_with(b"/") => {
                self.directory(&path, mode, mtime).with_context(context)?;
            }
            EntryType::Regular | EntryType::Continuous | EntryType::GNUSparse => {
                self.file(&path, mode, mtime, entry).with_context(context)?;
            }
            EntryType::Symlink => {
                let target = entry.link_name_bytes().unwrap_or_default().into_owned();
                self.place(&path, |parent, name| {
                    Ok(symlinkat(OsStr::from_bytes(&target), parent, name)?)
                })
                .with_context(context)?;
            }
            EntryType::Link => {
                let target = entry.link_name_bytes().unwrap_or_default().into_owned();
                let target = parts(&target).with_context(|| refused(&shown))?;
                self.hard_link(&path, &target).with_context(context)?;
            }
            EntryType::XGlobalHeader => {}
            _ => return Ok(false),
        }
        Ok(true)
    }

    fn directory(&mut self, path: &[&OsStr], mode: u32, mtime: u64) -> Result<()> {
        let Some((name, parents)) = path.split_last() else {
            if self.itself {
                self.made.push(Made { path: Vec::new(), mode, mtime });
            }
            return Ok(());
        };
        let parent = self.walk(parents, true)?;
        match mkdirat(&parent, *name, Mode::from_raw_mode(0o700)) {
            Ok(()) => {
                let path = path.join(OsStr::new("/")).as_bytes().to_vec();
                self.made.push(Made { path, mode, mtime });
                Ok(())
            }
            // One that is there keeps its permissions; that it is one is checked.
            Err(Errno::EXIST) => open_directory(&parent, name).map(drop),
            Err(error) => Err(error.into()),
        }
    }

    fn file(
        &mut self,
        path: &[&OsStr],
        mode: u32,
        mtime: u64,
        content: &mut Entry<'_, impl Read>,
    ) -> Result<()> {
        let mut buffer = std::mem::take(&mut self.buffer);
        let placed = self.place(path, |parent, name| {
            let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW;
            let file = openat(parent, name, flags | OFlags::CLOEXEC, Mode::from_raw_mode(0o600))?;
            let mut file = File::from(file);
            copy(content, &mut file, &mut buffer)?;
            fchmod(&file, Mode::from_raw_mode(mode))?;
            futimens(&file, &modified(mtime))?;
            Ok(())
        });
        self.buffer = buffer;
        placed
    }

    fn hard_link(&self, path: &[&OsStr], target: &[&OsStr]) -> Result<()> {
        let Some((linked, parents)) = target.split_last() else { bail!("a link to a directory") };
        let from = self.walk(parents, false)?;
        let stat = statat(&from, *linked, AtFlags::SYMLINK_NOFOLLOW)?;
        if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
            bail!("a hard link to something that is not a file");
        }
        self.place(path, |parent, name| Ok(linkat(&from, *linked, parent, name, AtFlags::empty())?))
    }

    /// Makes something under a name that nobody has, then gives it the right one in one step.
    fn place(
        &self,
        path: &[&OsStr],
        make: impl FnOnce(&OwnedFd, &str) -> Result<()>,
    ) -> Result<()> {
        let Some((name, parents)) = path.split_last() else { bail!("it has no name") };
        let parent = self.walk(parents, true)?;
        let temporary = format!(".bhatti-{}.part", base::random::hex::<8>());
        let placed = make(&parent, &temporary)
            .and_then(|()| renameat(&parent, &*temporary, &parent, *name).map_err(in_the_way));
        // Also after a success: two names of one file are not made into one by renaming.
        let _ = unlinkat(&parent, &*temporary, AtFlags::empty());
        placed
    }

    /// Opens a directory below the root, following no link.
    fn walk(&self, path: &[&OsStr], make: bool) -> Result<OwnedFd> {
        let mut directory = self.root.try_clone().context("open the directory")?;
        for name in path {
            directory = match open_directory(&directory, name) {
                Err(error) if make && error.downcast_ref() == Some(&Errno::NOENT) => {
                    match mkdirat(&directory, *name, Mode::from_raw_mode(0o777)) {
                        Ok(()) | Err(Errno::EXIST) => open_directory(&directory, name)?,
                        Err(error) => return Err(error.into()),
                    }
                }
                opened => opened?,
            };
        }
        Ok(directory)
    }

    /// Sets what would have been in the way before: the deepest directories first.
    fn finish(mut self) -> Result<()> {
        while let Some(Made { path, mode, mtime }) = self.made.pop() {
            let set = || -> Result<()> {
                let directory = self.walk(&parts(&path)?, false)?;
                fchmod(&directory, Mode::from_raw_mode(mode))?;
                futimens(&directory, &modified(mtime))?;
                Ok(())
            };
            let shown = || printable(&String::from_utf8_lossy(&path));
            set().with_context(|| format!("set the permissions of {}", shown()))?;
        }
        Ok(())
    }
}

/// The parts of a path below the root.
fn parts(path: &[u8]) -> Result<Vec<&OsStr>> {
    if path.len() > MAX_PATH {
        bail!("the path is too long");
    }
    if path.starts_with(b"/") {
        bail!("the path is absolute");
    }
    let mut parts = Vec::new();
    for part in path.split(|byte| *byte == b'/') {
        match part {
            b"" | b"." => {}
            b".." => bail!("the path leads out of the directory"),
            _ => parts.push(OsStr::from_bytes(part)),
        }
    }
    Ok(parts)
}

fn refused(shown: &str) -> String {
    format!("the archive was refused at {shown}")
}

fn open_directory(parent: &OwnedFd, name: &OsStr) -> Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    match openat(parent, name, flags, Mode::empty()) {
        Ok(directory) => Ok(directory),
        Err(error @ (Errno::NOTDIR | Errno::LOOP)) => {
            let name = printable(&name.to_string_lossy());
            Err(anyhow::Error::new(error)
                .context(format!("{name} is no directory here, and links are not followed")))
        }
        Err(error) => Err(error.into()),
    }
}

fn in_the_way(error: Errno) -> anyhow::Error {
    match error {
        Errno::ISDIR | Errno::NOTEMPTY | Errno::EXIST => {
            anyhow::Error::new(error).context("a directory is there")
        }
        error => error.into(),
    }
}

fn modified(seconds: u64) -> Timestamps {
    let tv_sec = i64::try_from(seconds).unwrap_or(0);
    Timestamps {
        last_access: Timespec { tv_sec: 0, tv_nsec: UTIME_OMIT },
        last_modification: Timespec { tv_sec, tv_nsec: 0 },
    }
}

/// Copies everything; of a sparse file the zeros take no room.
fn copy(from: &mut Entry<'_, impl Read>, to: &mut File, buffer: &mut [u8]) -> Result<()> {
    let sparse = from.header().entry_type() == EntryType::GNUSparse;
    let announced = from.size();
    let mut size = 0;
    loop {
        let length = from.read(buffer).context("read the archive")?;
        if length == 0 {
            break;
        }
        size += u64::try_from(length).unwrap_or(0);
        let bytes = &buffer[..length];
        if sparse && bytes.iter().all(|byte| *byte == 0) {
            to.seek(SeekFrom::Start(size))?;
        } else {
            to.write_all(bytes)?;
        }
    }
    if size != announced {
        bail!("the archive ends in the middle of it");
    }
    if sparse {
        to.set_len(size)?;
    }
    Ok(())
}

/// Opens a directory of this machine to unpack into.
pub(crate) fn open_root(path: &std::path::Path) -> Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    openat(CWD.as_fd(), path, flags, Mode::empty())
        .with_context(|| format!("open the directory {}", path.display()))
}

#[cfg(test)]
mod tests;
