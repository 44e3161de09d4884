//! What of a context one instruction copies, and where to.

use std::{
    fs::File,
    io::{self, Read},
    os::unix::fs::FileExt as _,
};

use base::hash;
use dockerfile::{Pattern, Source};
use tar::EntryType;
use tokio::sync::mpsc;

use super::{Context, END, Entry, EntryKind, Header, padding};

/// Bytes that are read at a time.
const PIECE: usize = 256 << 10;

/// One thing that an instruction copies.
#[derive(Debug, Clone)]
enum Item {
    /// A file of the context, by path, and what it is called.
    File(Vec<u8>, Vec<u8>),
    /// A directory of the context, whose contents are copied.
    Tree(Vec<u8>),
    /// A file that stands in the Dockerfile.
    Inline(Vec<u8>, String),
}

/// What an instruction copies.
#[derive(Debug, Clone)]
pub(crate) struct Selection {
    context: Context,
    items: Vec<Item>,
    /// Permission bits in place of those that there are.
    mode: Option<u32>,
}

/// Where something is put.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Place {
    /// Into this directory.
    Directory(String),
    /// It becomes this file, unless a directory is there: then it goes into that.
    File(String),
}

impl Selection {
    /// Finds what the sources are.
    ///
    /// # Errors
    /// Says which of them is nothing.
    pub(crate) fn of(
        context: &Context,
        sources: &[Source],
        mode: Option<u32>,
    ) -> Result<Self, String> {
        let mut items = Vec::new();
        for source in sources {
            match source {
                Source::Path(path) => context.find(path, &mut items)?,
                Source::Inline { name, content, .. } => {
                    let name = name.rsplit('/').next().unwrap_or_default();
                    items.push(Item::Inline(name.as_bytes().to_vec(), content.clone()));
                }
            }
        }
        Ok(Self { context: context.clone(), items, mode })
    }

    /// Where it is put if the instruction says `dest`, an absolute path; `directory` is whether that
    /// was written as one.
    ///
    /// # Errors
    /// Several things cannot become one file.
    pub(crate) fn place(&self, dest: &str, directory: bool) -> Result<Place, String> {
        match &self.items[..] {
            _ if directory => Ok(Place::Directory(dest.to_owned())),
            [Item::Tree(_)] => Ok(Place::Directory(dest.to_owned())),
            [_] => Ok(Place::File(dest.to_owned())),
            _ => Err("to copy several things the destination has to end with /".to_owned()),
        }
    }

    /// The only file that is copied, if it is one of the context.
    pub(crate) fn only_file(&self) -> Option<Content> {
        let [Item::File(path, _)] = &self.items[..] else { return None };
        self.content_of(path)
    }

    /// A hash that is another whenever what is copied is another. Reads all of it.
    pub(crate) fn hash(&self) -> io::Result<String> {
        let mut parts: Vec<Vec<u8>> = Vec::new();
        self.each(None, &mut |entry| {
            let content = match entry.content {
                Data::None => String::new(),
                Data::Text(text) => hash::bytes(text.as_bytes()),
                Data::File(mut content) => content.hash()?,
            };
            let mode = format!("{:?} {:o}", entry.kind, entry.mode);
            parts.extend([entry.name, entry.link, mode.into_bytes(), content.into_bytes()]);
            Ok(())
        })?;
        Ok(hash::key(parts.iter().map(Vec::as_slice)))
    }

    /// Packs it; `name` is what a single file is to be called.
    pub(crate) fn pack(
        &self,
        name: Option<&str>,
        to: &mpsc::Sender<io::Result<Vec<u8>>>,
    ) -> io::Result<()> {
        self.each(name, &mut |entry| {
            let size = match &entry.content {
                Data::None => 0,
                Data::Text(text) => text.len() as u64,
                Data::File(content) => content.left,
            };
            let header = Header {
                kind: entry.kind,
                name: &entry.name,
                link: &entry.link,
                mode: entry.mode,
                owner: (0, 0),
                mtime: entry.mtime,
                size,
            };
            send(to, header.bytes())?;
            match entry.content {
                Data::None => {}
                Data::Text(text) => send(to, text.into_bytes())?,
                Data::File(mut content) => {
                    while let Some(piece) = content.piece()? {
                        send(to, piece)?;
                    }
                }
            }
            send(to, padding(size).to_vec())
        })?;
        send(to, END.to_vec())
    }

    fn each(
        &self,
        name: Option<&str>,
        to: &mut dyn FnMut(Packed) -> io::Result<()>,
    ) -> io::Result<()> {
        for item in &self.items {
            let called = |own: &[u8]| name.map_or(own.to_vec(), |name| name.as_bytes().to_vec());
            match item {
                Item::File(path, own) => {
                    if let Some(entry) = self.context.entries.get(path) {
                        to(self.packed(called(own), entry))?;
                    }
                }
                Item::Tree(top) => self.tree(top, to)?,
                Item::Inline(own, text) => to(Packed {
                    kind: EntryType::Regular,
                    name: called(own),
                    link: Vec::new(),
                    mode: self.mode.unwrap_or(0o644),
                    mtime: 0,
                    content: Data::Text(text.clone()),
                })?,
            }
        }
        Ok(())
    }

    fn tree(&self, top: &[u8], to: &mut dyn FnMut(Packed) -> io::Result<()>) -> io::Result<()> {
        let entries = &self.context.entries;
        if let Some(entry) = entries.get(top) {
            to(self.packed(b"./".to_vec(), entry))?;
        }
        let prefix = if top.is_empty() { Vec::new() } else { [top, b"/"].concat() };
        let below =
            entries.range(prefix.clone()..).take_while(|(path, _)| path.starts_with(&prefix));
        for (path, entry) in below {
            if path.len() > prefix.len() {
                to(self.packed(path[prefix.len()..].to_vec(), entry))?;
            }
        }
        Ok(())
    }

    fn packed(&self, name: Vec<u8>, entry: &Entry) -> Packed {
        let (kind, link, content) = match &entry.kind {
            EntryKind::Directory => (EntryType::Directory, Vec::new(), Data::None),
            EntryKind::Link(to) => (EntryType::Symlink, to.clone(), Data::None),
            EntryKind::File { offset, size } => {
                let content = Content { context: self.context.clone(), at: *offset, left: *size };
                (EntryType::Regular, Vec::new(), Data::File(content))
            }
        };
        let mode = match kind {
            // A link's are nobody's business.
            EntryType::Symlink => 0o777,
            _ => self.mode.unwrap_or(entry.mode),
        };
        Packed { kind, name, link, mode, mtime: entry.mtime, content }
    }

    fn content_of(&self, path: &[u8]) -> Option<Content> {
        match self.context.entries.get(path)?.kind {
            EntryKind::File { offset, size } => {
                Some(Content { context: self.context.clone(), at: offset, left: size })
            }
            _ => None,
        }
    }
}

impl Context {
    /// Adds what a source names.
    fn find(&self, source: &str, items: &mut Vec<Item>) -> Result<(), String> {
        let parts: Vec<&str> =
            source.split('/').filter(|part| !matches!(*part, "" | ".")).collect();
        if parts.contains(&"..") {
            return Err(format!("{source:?} leads out of the context"));
        }
        let path = parts.join("/");
        if !Pattern::is_special(&path) {
            return match self.add(path.as_bytes(), items) {
                true => Ok(()),
                false => Err(format!(
                    "{source:?} is not in the context; a .dockerignore may leave it out"
                )),
            };
        }
        let pattern = Pattern::path(&path).map_err(|error| error.to_string())?;
        let before = items.len();
        for name in self.entries.keys().filter(|name| !name.is_empty()) {
            if pattern.matches(&String::from_utf8_lossy(name)) {
                self.add(name, items);
            }
        }
        match items.len() == before {
            true => Err(format!("nothing in the context matches {source:?}")),
            false => Ok(()),
        }
    }

    /// Adds what a path leads to; false if it leads nowhere.
    fn add(&self, path: &[u8], items: &mut Vec<Item>) -> bool {
        let Some(real) = self.resolve(path) else { return false };
        let Some(entry) = self.entries.get(&real) else { return false };
        items.push(match entry.kind {
            EntryKind::Directory => Item::Tree(real),
            _ => {
                let name = path.rsplit(|byte| *byte == b'/').next().unwrap_or_default();
                Item::File(real, name.to_vec())
            }
        });
        true
    }
}

/// An entry as it is packed.
struct Packed {
    kind: EntryType,
    name: Vec<u8>,
    link: Vec<u8>,
    mode: u32,
    mtime: u64,
    content: Data,
}

enum Data {
    None,
    Text(String),
    File(Content),
}

/// The content of one file of the context.
#[derive(Debug)]
pub(crate) struct Content {
    context: Context,
    at: u64,
    left: u64,
}

impl Content {
    fn hash(&mut self) -> io::Result<String> {
        let mut hash = hash::Stream::default();
        while let Some(piece) = self.piece()? {
            hash.update(&piece);
        }
        Ok(hash.finish())
    }

    fn piece(&mut self) -> io::Result<Option<Vec<u8>>> {
        let mut piece = vec![0; usize::try_from(self.left).unwrap_or(PIECE).min(PIECE)];
        let length = self.read(&mut piece)?;
        piece.truncate(length);
        Ok((length > 0).then_some(piece))
    }
}

impl Read for Content {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let most = usize::try_from(self.left).unwrap_or(usize::MAX).min(buffer.len());
        if most == 0 {
            return Ok(0);
        }
        let file: &File = &self.context.file;
        let length = file.read_at(&mut buffer[..most], self.at)?;
        if length == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        self.at += length as u64;
        self.left -= length as u64;
        Ok(length)
    }
}

fn send(to: &mpsc::Sender<io::Result<Vec<u8>>>, bytes: Vec<u8>) -> io::Result<()> {
    if bytes.is_empty() {
        return Ok(());
    }
    to.blocking_send(Ok(bytes)).map_err(|_| io::ErrorKind::BrokenPipe.into())
}
