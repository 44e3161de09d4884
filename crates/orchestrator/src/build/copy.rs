//! Getting files into a build's guest.

use std::{
    io::{self, Read},
    sync::Arc,
};

use dockerfile::{Pattern, Source};
use proto::message::{FileKind, FileList, FileRead, Ownership};
use tar::EntryType;
use tokio::sync::mpsc;

use super::{
    archives,
    context::{END, Header, Place, Selection, padding},
    guest::Guest,
};
use crate::{Error, Kind, Result, Sandbox, error::Kind as K};

/// Pieces of an archive that wait for the guest.
const PIECES: usize = 4;

/// Bytes of an archive that are read at a time.
const PIECE: usize = 256 << 10;

/// How a copy is to come out.
#[derive(Debug, Clone)]
pub(super) struct Target {
    /// Absolute path.
    pub dest: String,
    /// Whether it was written as a directory.
    pub directory: bool,
    /// Whom it is to belong to.
    pub chown: Option<String>,
    /// Permission bits in place of those that there are.
    pub mode: Option<u32>,
}

impl Target {
    fn owner(&self) -> Ownership {
        self.chown.clone().map_or(Ownership::Archive, |owner| Ownership::One { owner })
    }
}

fn invalid(message: impl Into<String>) -> Error {
    Error::new(Kind::BuildInvalid, message)
}

/// Copies what was selected of a context; with `unpacks` a single archive is unpacked.
pub(super) async fn from_context(
    guest: &Guest,
    selection: Arc<Selection>,
    target: &Target,
    unpacks: bool,
) -> Result<()> {
    let sandbox = guest.sandbox()?;
    if unpacks && let Some(archive) = opened(Arc::clone(&selection)).await? {
        let owner = target.owner();
        return put(sandbox, target.dest.clone(), owner, move |to| pass_on(archive, &to)).await;
    }
    let place = selection.place(&target.dest, target.directory).map_err(invalid)?;
    let (directory, name) = settle(guest, place).await?;
    put(sandbox, directory, target.owner(), move |to| selection.pack(name.as_deref(), &to)).await
}

/// The archive that is the only thing selected.
async fn opened(selection: Arc<Selection>) -> Result<Option<Box<dyn Read + Send>>> {
    let open = move || {
        let content = || selection.only_file().map(|file| Box::new(file) as Box<dyn Read + Send>);
        Ok(archives::open(content)?)
    };
    crate::node::blocking(open).await
}

fn pass_on(
    mut from: Box<dyn Read + Send>,
    to: &mpsc::Sender<io::Result<Vec<u8>>>,
) -> io::Result<()> {
    loop {
        let mut piece = vec![0; PIECE];
        let length = from.read(&mut piece)?;
        if length == 0 {
            return Ok(());
        }
        piece.truncate(length);
        to.blocking_send(Ok(piece)).map_err(|_| io::Error::from(io::ErrorKind::BrokenPipe))?;
    }
}

/// The directory that something goes into, and what a single file is called there.
async fn settle(guest: &Guest, place: Place) -> Result<(String, Option<String>)> {
    match place {
        Place::Directory(path) => Ok((path, None)),
        Place::File(path) if guest.has_directory(&path).await? => Ok((path, None)),
        Place::File(path) => {
            let (parent, name) = path.rsplit_once('/').unwrap_or(("", &path));
            let parent = if parent.is_empty() { "/" } else { parent };
            Ok((parent.to_owned(), Some(name.to_owned())))
        }
    }
}

/// Unpacks an archive that a thread packs meanwhile.
async fn put(
    sandbox: &Sandbox,
    path: String,
    owner: Ownership,
    pack: impl FnOnce(mpsc::Sender<io::Result<Vec<u8>>>) -> io::Result<()> + Send + 'static,
) -> Result<()> {
    let mut writing = sandbox.unpack_for(path, owner).await?;
    let (sender, mut pieces) = mpsc::channel(PIECES);
    let failed = sender.clone();
    tokio::task::spawn_blocking(move || {
        if let Err(error) = pack(sender) {
            // Nobody listens if the guest has refused the rest.
            let _ = failed.blocking_send(Err(error));
        }
    });
    while let Some(piece) = pieces.recv().await {
        let piece = piece.map_err(|error| match error.kind() {
            // What is in the context is its sender's.
            io::ErrorKind::InvalidData | io::ErrorKind::InvalidInput => {
                invalid(format!("the archive cannot be read: {error}"))
            }
            _ => error.into(),
        })?;
        writing.write(&piece).await?;
    }
    writing.finish().await
}

/// Makes a directory, root's unless it is there.
pub(super) async fn directory(guest: &Guest, path: &str) -> Result<()> {
    let sandbox = guest.sandbox()?;
    let mut writing = sandbox.unpack_for(path.to_owned(), Ownership::Archive).await?;
    writing.write(&END).await?;
    writing.finish().await
}

/// What a source in another guest is.
enum Item {
    Tree(String),
    File(String),
}

/// Copies out of another guest.
pub(super) async fn from_guest(
    guest: &Guest,
    other: &Guest,
    sources: &[Source],
    target: &Target,
) -> Result<()> {
    let mut items = Vec::new();
    for source in sources {
        let Source::Path(path) = source else {
            return Err(invalid("a here-document is no file of another stage"));
        };
        find(other, path, &mut items).await?;
    }
    let place = match &items[..] {
        _ if target.directory => Place::Directory(target.dest.clone()),
        [Item::Tree(_)] => Place::Directory(target.dest.clone()),
        [_] => Place::File(target.dest.clone()),
        _ => return Err(invalid("to copy several things the destination has to end with /")),
    };
    let (directory, name) = settle(guest, place).await?;
    for item in items {
        match item {
            Item::Tree(path) => tree(guest, other, path, &directory, target).await?,
            Item::File(path) => {
                let own = path.rsplit('/').next().unwrap_or_default().to_owned();
                let name = name.clone().unwrap_or(own);
                file(guest, other, path, (&directory, &name), target).await?;
            }
        }
    }
    Ok(())
}

/// Adds what a path or pattern in another guest names.
async fn find(other: &Guest, source: &str, items: &mut Vec<Item>) -> Result<()> {
    let sandbox = other.sandbox()?;
    let mut found = vec![String::new()];
    for part in source.split('/').filter(|part| !matches!(*part, "" | ".")) {
        if !Pattern::is_special(part) {
            found.iter_mut().for_each(|path| *path = format!("{path}/{part}"));
            continue;
        }
        let pattern = Pattern::path(part).map_err(|error| invalid(error.to_string()))?;
        let mut next = Vec::new();
        for path in &found {
            let list = FileList { path: format!("{path}/"), ..FileList::default() };
            let listing = match sandbox.file_list(list).await {
                Err(error) if matches!(error.kind, K::FileNotFound | K::NotDirectory) => continue,
                listing => listing?,
            };
            let names = listing.entries.into_iter().map(|entry| entry.name);
            next.extend(names.filter(|n| pattern.matches(n)).map(|n| format!("{path}/{n}")));
        }
        found = next;
    }
    let before = items.len();
    let exact = !Pattern::is_special(source);
    for path in found {
        let path = if path.is_empty() { "/".to_owned() } else { path };
        match sandbox.file_stat(&path).await {
            Ok(stat) if stat.kind == FileKind::Directory => items.push(Item::Tree(path)),
            Ok(stat) if stat.kind == FileKind::File => items.push(Item::File(path)),
            Ok(_) => return Err(invalid(format!("{path:?} is no file, directory or link there"))),
            Err(error) if exact || error.kind != K::FileNotFound => return Err(error),
            Err(_) => {}
        }
    }
    match items.len() == before {
        true => Err(invalid(format!("nothing there matches {source:?}"))),
        false => Ok(()),
    }
}

async fn tree(
    guest: &Guest,
    other: &Guest,
    path: String,
    directory: &str,
    target: &Target,
) -> Result<()> {
    if target.mode.is_some() {
        return Err(invalid("--chmod is not supported for directories of another stage")
            .hint("change them with RUN chmod in that stage"));
    }
    let mut reading = other.sandbox()?.pack(path).await?;
    let sandbox = guest.sandbox()?;
    let mut writing = sandbox.unpack_for(directory.to_owned(), target.owner()).await?;
    while let Some(piece) = reading.next().await? {
        writing.write(&piece).await?;
    }
    writing.finish().await
}

async fn file(
    guest: &Guest,
    other: &Guest,
    path: String,
    (directory, name): (&str, &str),
    target: &Target,
) -> Result<()> {
    let read = FileRead { path: path.clone(), ..FileRead::default() };
    let mut reading = other.sandbox()?.file_read(read).await?;
    let stat = reading.stat().clone();
    let header = Header {
        kind: EntryType::Regular,
        name: name.as_bytes(),
        link: b"",
        mode: target.mode.unwrap_or(stat.mode),
        owner: (stat.uid, stat.gid),
        mtime: u64::try_from(stat.mtime).unwrap_or(0),
        size: stat.size,
    };
    let sandbox = guest.sandbox()?;
    let mut writing = sandbox.unpack_for(directory.to_owned(), target.owner()).await?;
    writing.write(&header.bytes()).await?;
    let mut length = 0;
    while let Some(piece) = reading.next().await? {
        length += piece.len() as u64;
        if length > stat.size {
            break;
        }
        writing.write(&piece).await?;
    }
    if length != stat.size {
        return Err(invalid(format!("{path:?} changes while it is copied")));
    }
    writing.write(padding(stat.size)).await?;
    writing.write(&END).await?;
    writing.finish().await
}
