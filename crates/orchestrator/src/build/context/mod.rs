//! What `COPY` copies from: an archive that somebody sent, which lies in a file without a name.
//!
//! It is never unpacked on this host. Its headers become an index, and what is selected is read
//! from the file and packed anew for the guest. A link in it leads to another entry or nowhere.

mod archive;
mod header;
mod select;
#[cfg(test)]
mod tests;

use std::{
    collections::BTreeMap,
    fs::File,
    io,
    path::{Path, PathBuf},
    sync::Arc,
};

use tar::EntryType;
use tokio::io::AsyncWriteExt as _;

use self::archive::{Found, Reader, invalid};
pub(crate) use self::{
    header::{END, Header, padding},
    select::{Place, Selection},
};
use crate::{Error, Kind, Result, node::blocking};

/// Most entries of a context.
const ENTRIES_MAX: usize = 1_000_000;

/// Most bytes of all their names and links.
const NAMES_MAX: usize = 128 << 20;

/// How many links may lead to one another.
const LINKS_MAX: usize = 40;

/// One file, directory or link.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Entry {
    pub kind: EntryKind,
    pub mode: u32,
    pub mtime: u64,
}

/// What it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum EntryKind {
    Directory,
    Link(Vec<u8>),
    File { offset: u64, size: u64 },
}

/// A context of which all has come.
#[derive(Debug, Clone)]
pub(crate) struct Context {
    file: Arc<File>,
    /// By path, without slashes at its ends; the top is the empty one.
    entries: Arc<BTreeMap<Vec<u8>, Entry>>,
}

/// A context that still comes. Dropped, it is gone.
#[derive(Debug)]
pub(crate) struct Spool {
    file: tokio::fs::File,
    length: u64,
    max: u64,
}

impl Spool {
    /// Begins a context of at most `max` bytes in `directory`.
    pub(crate) async fn begin(directory: PathBuf, max: u64) -> Result<Self> {
        let file = blocking(move || Ok(nameless(&directory)?)).await?;
        Ok(Self { file: tokio::fs::File::from_std(file), length: 0, max })
    }

    /// Takes the next bytes.
    ///
    /// # Errors
    /// [`Kind::TooLarge`], [`Kind::HostDiskFull`].
    pub(crate) async fn write(&mut self, bytes: &[u8]) -> Result<()> {
        self.length = self.length.saturating_add(bytes.len() as u64);
        if self.length > self.max {
            let message = format!("the context is larger than {} bytes", self.max);
            return Err(Error::new(Kind::TooLarge, message).hint(
                "leave out what is not needed with a .dockerignore; whoever runs this node can \
                 allow more: max_context_bytes of [images]",
            ));
        }
        Ok(self.file.write_all(bytes).await?)
    }

    /// Reads what has come.
    ///
    /// # Errors
    /// [`Kind::BuildInvalid`] if it is no archive, or one with something in it that has no place in
    /// a tree of files.
    pub(crate) async fn finish(mut self) -> Result<Context> {
        self.file.flush().await?;
        let file = self.file.into_std().await;
        blocking(move || Context::read(file)).await
    }
}

/// A file that nobody else can open and that is gone with this process.
fn nameless(directory: &Path) -> io::Result<File> {
    fs_err::create_dir_all(directory)?;
    let path = directory.join(base::random::hex::<8>());
    let mut options = fs_err::OpenOptions::new();
    let file = options.read(true).write(true).create_new(true).open(&path)?;
    fs_err::remove_file(&path)?;
    Ok(file.into_parts().0)
}

impl Context {
    /// A context without anything in it.
    pub(crate) fn empty(file: File) -> Self {
        let top = Entry { kind: EntryKind::Directory, mode: 0o755, mtime: 0 };
        Self { file: Arc::new(file), entries: Arc::new([(Vec::new(), top)].into()) }
    }

    fn read(file: File) -> Result<Self> {
        let length = file.metadata()?.len();
        if length == 0 {
            return Ok(Self::empty(file));
        }
        let entries = index(file.try_clone()?).map_err(|error| match error.kind() {
            io::ErrorKind::InvalidData => {
                Error::new(Kind::BuildInvalid, format!("the context cannot be used: {error}"))
            }
            _ => error.into(),
        })?;
        Ok(Self { file: Arc::new(file), entries: Arc::new(entries) })
    }

    /// Where a path of the context leads; `None` if nowhere. The top is the root of everything.
    fn resolve(&self, path: &[u8]) -> Option<Vec<u8>> {
        let mut links = 0;
        let mut at: Vec<u8> = Vec::new();
        // Parts that are still to be walked, the next one last.
        let mut parts: Vec<Vec<u8>> = split(path);
        while let Some(part) = parts.pop() {
            if part == b".." {
                let parent = at.iter().rposition(|byte| *byte == b'/').unwrap_or(0);
                at.truncate(parent);
                continue;
            }
            let next = join(&at, &part);
            match &self.entries.get(&next)?.kind {
                EntryKind::Link(to) => {
                    links += 1;
                    if links > LINKS_MAX {
                        return None;
                    }
                    if to.starts_with(b"/") {
                        at.clear();
                    }
                    parts.extend(split(to));
                }
                EntryKind::File { .. } if !parts.is_empty() => return None,
                EntryKind::File { .. } | EntryKind::Directory => at = next,
            }
        }
        Some(at)
    }
}

/// The parts of a path, first one last, without those that mean nothing.
fn split(path: &[u8]) -> Vec<Vec<u8>> {
    let parts = path.split(|byte| *byte == b'/').filter(|part| !matches!(*part, b"" | b"."));
    parts.rev().map(<[u8]>::to_vec).collect()
}

fn join(directory: &[u8], name: &[u8]) -> Vec<u8> {
    if directory.is_empty() { name.to_vec() } else { [directory, b"/", name].concat() }
}

fn index(file: File) -> io::Result<BTreeMap<Vec<u8>, Entry>> {
    let directory = || Entry { kind: EntryKind::Directory, mode: 0o755, mtime: 0 };
    let mut entries = BTreeMap::from([(Vec::new(), directory())]);
    let mut reader = Reader::new(file)?;
    let mut names = 0_usize;
    while let Some(found) = reader.next()? {
        let path = clean(&found.name)?;
        names = names.saturating_add(path.len() + found.link.len());
        if entries.len() > ENTRIES_MAX || names > NAMES_MAX {
            return Err(invalid("it has too many entries; leave some out with a .dockerignore"));
        }
        for at in path.iter().enumerate().filter(|(_, byte)| **byte == b'/').map(|(at, _)| at) {
            let parent = entries.entry(path[..at].to_vec()).or_insert_with(directory);
            if parent.kind != EntryKind::Directory {
                let shown = String::from_utf8_lossy(&path);
                return Err(invalid(format!("{shown:?} is below something that is no directory")));
            }
        }
        let entry = understand(&entries, &path, &found)?;
        if path.is_empty() && entry.kind != EntryKind::Directory {
            return Err(invalid("its top is no directory"));
        }
        let is_directory = entry.kind == EntryKind::Directory;
        let before = entries.insert(path.clone(), entry);
        if before.is_some_and(|before| before.kind == EntryKind::Directory) && !is_directory {
            let shown = String::from_utf8_lossy(&path);
            return Err(invalid(format!("{shown:?} is a directory and then something else")));
        }
    }
    Ok(entries)
}

fn understand(entries: &BTreeMap<Vec<u8>, Entry>, path: &[u8], found: &Found) -> io::Result<Entry> {
    let shown = || String::from_utf8_lossy(path);
    let kind = match found.kind {
        EntryType::Regular | EntryType::Continuous => {
            EntryKind::File { offset: found.offset, size: found.size }
        }
        EntryType::Directory => EntryKind::Directory,
        EntryType::Symlink => EntryKind::Link(found.link.clone()),
        EntryType::Link => match entries.get(&clean(&found.link)?) {
            Some(first) if first.kind != EntryKind::Directory => return Ok(first.clone()),
            _ => return Err(invalid(format!("{:?} is linked to nothing", shown()))),
        },
        _ => return Err(invalid(format!("{:?} is no file, directory or link", shown()))),
    };
    Ok(Entry { kind, mode: found.mode, mtime: found.mtime })
}

/// The path of an entry below the top, empty for that itself.
fn clean(name: &[u8]) -> io::Result<Vec<u8>> {
    let refuse = |what: &str| {
        let name = String::from_utf8_lossy(&name[..name.len().min(200)]).into_owned();
        invalid(format!("{name:?} {what}"))
    };
    if name.starts_with(b"/") {
        return Err(refuse("is an absolute path"));
    }
    if name.contains(&0) {
        return Err(refuse("holds a null character"));
    }
    let mut path = Vec::with_capacity(name.len());
    for part in name.split(|byte| *byte == b'/') {
        match part {
            b"" | b"." => {}
            b".." => return Err(refuse("leads outside")),
            part => path = join(&path, part),
        }
    }
    Ok(path)
}
