//! Sending a file or tree as a tar archive.
//!
//! A thread of its own walks the tree and fills buffers; as many as [`BUFFERS`] wait to be sent.
//! Directories are looked up from the open top, so that no link leads out of it.

mod changes;

use std::collections::HashMap;
use std::ffi::CString;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use proto::frame::FrameKind;
use proto::message::{ErrorCode, FileStat, Response};
use proto::mux::Stream;
use rustix::buffer::spare_capacity;
use rustix::fs::{AtFlags, CWD, FileType, Mode, OFlags, Stat, fstat, open, readlinkat, statat};
use rustix::io::{Errno, read, retry_on_intr};
use tar::{EntryType, Header};
use tokio::sync::{mpsc, oneshot};

use super::archive::BLOCK;
use super::at::{beneath, each_entry, open_beneath, split};
use super::stat::facts;
use super::{Failure, explain, locate};
use crate::agent::{Agent, refuse};
use crate::parts::Part;

/// Bytes that are sent at once.
const BUFFER: usize = 256 * 1024;

/// Buffers that wait to be sent.
const BUFFERS: usize = 2;

/// Bytes that a header has for a name.
const NAME: usize = 100;

/// What is sent, and how it is told.
#[derive(Debug)]
pub(super) enum Source {
    /// What is at an absolute path, as it is, without extended attributes.
    Tree(String),
    /// A part of an image as a layer of one: see [`changes`].
    Layer(Part),
}

/// How a tree is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Style {
    Tree,
    Layer,
}

enum Piece {
    Header(FileStat),
    Data(Vec<u8>),
}

/// Serves one `Pack` or `PackLayer`.
pub(super) async fn pack(
    agent: &Arc<Agent>,
    source: Source,
    stream: &mut Stream,
) -> Result<Response, Failure> {
    let (sender, mut pieces) = mpsc::channel(BUFFERS);
    let (used, empty) = mpsc::channel(BUFFERS);
    let (done, result) = oneshot::channel();
    let agent = Arc::clone(agent);
    let work = move || {
        let out = Out { sender, empty, buffer: Vec::new() };
        let (style, path) = match &source {
            Source::Tree(path) => (Style::Tree, path.as_str()),
            Source::Layer(part) => (Style::Layer, part.path()),
        };
        // Nobody listens any more if the host has left.
        let _ = done.send(Pack { out, style, linked: HashMap::new() }.run(&agent, path));
    };
    super::on_own_thread("pack", work)?;
    while let Some(piece) = pieces.recv().await {
        match piece {
            Piece::Header(stat) => stream.send_json(&Response::FileHeader(stat)).await?,
            Piece::Data(mut data) => {
                stream.send_data(FrameKind::Data, &data).await?;
                data.clear();
                // There are others if it does not fit.
                let _ = used.try_send(data);
            }
        }
    }
    result.await.map_err(|_| Failure::Gone)??;
    Ok(Response::FileEnd { truncated: false })
}

/// Where the archive goes.
struct Out {
    sender: mpsc::Sender<Piece>,
    empty: mpsc::Receiver<Vec<u8>>,
    buffer: Vec<u8>,
}

impl Out {
    fn put(&mut self, mut bytes: &[u8]) -> Result<(), Failure> {
        while !bytes.is_empty() {
            let (now, later) = bytes.split_at(bytes.len().min(self.room()?));
            self.buffer.extend_from_slice(now);
            bytes = later;
        }
        Ok(())
    }

    fn zeros(&mut self, mut count: u64) -> Result<(), Failure> {
        while count > 0 {
            let room = self.room()?;
            let now = usize::try_from(count).unwrap_or(room).min(room);
            self.buffer.resize(self.buffer.len() + now, 0);
            count -= now as u64;
        }
        Ok(())
    }

    /// Makes room in the buffer; answers how much.
    fn room(&mut self) -> Result<usize, Failure> {
        if self.buffer.len() >= BUFFER {
            self.flush()?;
        }
        if self.buffer.capacity() < BUFFER {
            self.buffer = self.empty.try_recv().unwrap_or_else(|_| Vec::with_capacity(BUFFER));
        }
        Ok(BUFFER - self.buffer.len())
    }

    fn flush(&mut self) -> Result<(), Failure> {
        let full = std::mem::take(&mut self.buffer);
        self.sender.blocking_send(Piece::Data(full)).map_err(|_| Failure::Gone)
    }

    /// Reads at most `most` bytes of a file into the buffer.
    fn fill(&mut self, file: &OwnedFd, most: u64) -> Result<Result<usize, Errno>, Failure> {
        let room = self.room()?;
        let most = usize::try_from(most).unwrap_or(room).min(room);
        let before = self.buffer.len();
        if most == room {
            return Ok(retry_on_intr(|| read(file, spare_capacity(&mut self.buffer)))
                .inspect(|_| self.buffer.truncate(BUFFER))
                .map(|_| self.buffer.len() - before));
        }
        self.buffer.resize(before + most, 0);
        let count = retry_on_intr(|| read(file, &mut self.buffer[before..]));
        self.buffer.truncate(before + *count.as_ref().unwrap_or(&0));
        Ok(count)
    }
}

struct Pack {
    out: Out,
    style: Style,
    /// First names of files that have more than one.
    linked: HashMap<(u64, u64), Vec<u8>>,
}

impl Pack {
    fn run(mut self, agent: &Agent, path: &str) -> Result<(), Failure> {
        let failed = |errno: Errno| explain("pack", path, &errno.into());
        let place = locate(&agent.root, path)?;
        let mut meta = statat(CWD, &place, AtFlags::empty()).map_err(failed)?;
        let kind = FileType::from_raw_mode(meta.st_mode);
        let mut top = None;
        if kind.is_dir() || kind.is_file() {
            let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
            let opened = open(&place, flags, Mode::empty()).map_err(failed)?;
            meta = fstat(&opened).map_err(failed)?;
            top = Some(opened);
        }
        let header = Piece::Header(facts(&meta));
        self.out.sender.blocking_send(header).map_err(|_| Failure::Gone)?;
        let name = path.trim_end_matches('/').rsplit('/').next().unwrap_or_default().as_bytes();
        match (top, FileType::from_raw_mode(meta.st_mode)) {
            (Some(top), FileType::Directory) => {
                // Where the part of an image is open is nobody's business.
                let shown = if self.style == Style::Layer { "" } else { path };
                self.tree(shown, &top, &meta)?;
            }
            (Some(file), FileType::RegularFile) => self.file(path, name, &file, &meta)?,
            (_, FileType::Socket) => {
                let message = format!("{path} is a socket, which no archive can hold");
                return Err(refuse(ErrorCode::Invalid, message).into());
            }
            (_, kind) => self.special(name, kind, &meta)?,
        }
        self.out.zeros(2 * BLOCK as u64)?;
        self.out.flush()
    }

    fn tree(&mut self, path: &str, top: &OwnedFd, meta: &Stat) -> Result<(), Failure> {
        self.attributes(top)?.map_err(|errno| explain("pack", path, &errno.into()))?;
        self.header(b"./", EntryType::Directory, meta, 0, &[])?;
        let mut left = children(top, b"").map_err(|errno| explain("pack", path, &errno.into()))?;
        let mut parent: Option<(Vec<u8>, OwnedFd)> = None;
        while let Some(below) = left.pop() {
            let explained = |errno: Errno| {
                let place = format!("{path}/{}", String::from_utf8_lossy(&below));
                Failure::from(explain("pack", &place, &errno.into()))
            };
            let (directory, name) = split(&below);
            if parent.as_ref().is_none_or(|(known, _)| known != directory) {
                let flags = OFlags::PATH | OFlags::DIRECTORY;
                parent = match open_beneath(top, directory, flags) {
                    // Gone since it was listed, as is everything in it.
                    Err(Errno::NOENT) => continue,
                    opened => Some((directory.to_vec(), opened.map_err(explained)?)),
                };
            }
            let Some((_, parent)) = &parent else { continue };
            let name = CString::new(name).map_err(|_| explained(Errno::INVAL))?;
            let added = match statat(parent, &name, AtFlags::SYMLINK_NOFOLLOW) {
                Err(errno) => Err(errno),
                Ok(meta) => self.entry(path, &below, (parent, &name), &meta)?,
            };
            match added {
                Ok(mut children) => left.append(&mut children),
                Err(Errno::NOENT) => {}
                Err(errno) => return Err(explained(errno)),
            }
        }
        Ok(())
    }

    /// Adds one entry of the tree; answers those in it, last first.
    fn entry(
        &mut self,
        path: &str,
        below: &[u8],
        (parent, name): (&OwnedFd, &CString),
        meta: &Stat,
    ) -> Result<Result<Vec<Vec<u8>>, Errno>, Failure> {
        let kind = FileType::from_raw_mode(meta.st_mode);
        let key = (meta.st_dev, meta.st_ino);
        if self.style == Style::Layer {
            if changes::is_left_out(below) {
                return Ok(Ok(Vec::new()));
            }
            changes::check_name(below)?;
        }
        if kind.is_dir() {
            let opened = open_beneath(parent, name, OFlags::RDONLY | OFlags::DIRECTORY);
            let listed = opened.and_then(|opened| Ok((children(&opened, below)?, opened)));
            let (children, directory) = match listed {
                Ok(listed) => listed,
                Err(errno) => return Ok(Err(errno)),
            };
            if let Err(errno) = self.attributes(&directory)? {
                return Ok(Err(errno));
            }
            self.header(&beneath(below, b""), EntryType::Directory, meta, 0, &[])?;
            if self.style == Style::Layer && changes::is_opaque(&directory) {
                self.header(&beneath(below, changes::ALL_GONE), EntryType::Regular, meta, 0, &[])?;
            }
            return Ok(Ok(children));
        }
        // The overlay makes one node and links it wherever something is gone.
        if self.style == Style::Layer && changes::is_whiteout(meta) {
            self.header(&changes::whiteout(below), EntryType::Regular, meta, 0, &[])?;
            return Ok(Ok(Vec::new()));
        }
        if meta.st_nlink > 1 {
            if let Some(first) = self.linked.get(&key) {
                let first = first.clone();
                self.header(below, EntryType::Link, meta, 0, &first)?;
                return Ok(Ok(Vec::new()));
            }
            self.linked.insert(key, below.to_vec());
        }
        match kind {
            FileType::RegularFile => {
                let flags = OFlags::RDONLY | OFlags::NONBLOCK;
                match open_beneath(parent, name, flags) {
                    Ok(file) => {
                        let place = format!("{path}/{}", String::from_utf8_lossy(below));
                        self.file(&place, below, &file, meta)?;
                    }
                    Err(errno) => {
                        self.linked.remove(&key);
                        return Ok(Err(errno));
                    }
                }
            }
            FileType::Symlink => match readlinkat(parent, name, Vec::new()) {
                Ok(to) => self.header(below, EntryType::Symlink, meta, 0, to.to_bytes())?,
                Err(errno) => return Ok(Err(errno)),
            },
            FileType::Socket => {}
            kind => self.special(below, kind, meta)?,
        }
        Ok(Ok(Vec::new()))
    }

    /// Adds a file; one that has another size by now is cut or filled up.
    fn file(
        &mut self,
        place: &str,
        name: &[u8],
        file: &OwnedFd,
        meta: &Stat,
    ) -> Result<(), Failure> {
        let size = u64::try_from(meta.st_size).unwrap_or(0);
        self.attributes(file)?.map_err(|errno| explain("pack", place, &errno.into()))?;
        self.header(name, EntryType::Regular, meta, size, &[])?;
        let mut left = size;
        while left > 0 {
            let count = self.out.fill(file, left)?;
            match count.map_err(|errno| explain("pack", place, &errno.into()))? {
                0 => break,
                count => left -= count as u64,
            }
        }
        self.out.zeros(left + size.next_multiple_of(BLOCK as u64) - size)
    }

    /// Says the extended attributes of the next entry before it.
    fn attributes(&mut self, file: &OwnedFd) -> Result<Result<(), Errno>, Failure> {
        if self.style == Style::Tree {
            return Ok(Ok(()));
        }
        let records = match changes::attributes(file) {
            Ok(attributes) => changes::records(&attributes),
            Err(errno) => return Ok(Err(errno)),
        };
        if records.is_empty() {
            return Ok(Ok(()));
        }
        let mut header = Header::new_ustar();
        header.set_entry_type(EntryType::XHeader);
        header.set_mode(0o644);
        header.set_size(records.len() as u64);
        self.finish(header, b"././@PaxHeader", &[])?;
        self.out.put(&records)?;
        let padding = records.len().next_multiple_of(BLOCK) - records.len();
        self.out.zeros(padding as u64).map(Ok)
    }

    fn special(&mut self, name: &[u8], kind: FileType, meta: &Stat) -> Result<(), Failure> {
        let kind = match kind {
            FileType::Fifo => EntryType::Fifo,
            FileType::BlockDevice => EntryType::Block,
            _ => EntryType::Char,
        };
        self.header(name, kind, meta, 0, &[])
    }

    fn header(
        &mut self,
        name: &[u8],
        kind: EntryType,
        meta: &Stat,
        size: u64,
        link: &[u8],
    ) -> Result<(), Failure> {
        self.long(EntryType::GNULongLink, link)?;
        self.long(EntryType::GNULongName, name)?;
        let mut header = Header::new_gnu();
        header.set_entry_type(kind);
        header.set_mode(meta.st_mode & 0o7777);
        header.set_uid(meta.st_uid.into());
        header.set_gid(meta.st_gid.into());
        header.set_size(size);
        header.set_mtime(u64::try_from(meta.st_mtime).unwrap_or(0));
        if matches!(kind, EntryType::Block | EntryType::Char) {
            let unnamed = |_| refuse(ErrorCode::Failed, "a device has no place in the header");
            let (major, minor) = (rustix::fs::major(meta.st_rdev), rustix::fs::minor(meta.st_rdev));
            header.set_device_major(major).map_err(unnamed)?;
            header.set_device_minor(minor).map_err(unnamed)?;
        }
        self.finish(header, name, link)
    }

    /// Says a name that is too long for a header before it.
    fn long(&mut self, kind: EntryType, name: &[u8]) -> Result<(), Failure> {
        if name.len() <= NAME {
            return Ok(());
        }
        let mut header = Header::new_gnu();
        header.set_entry_type(kind);
        header.set_mode(0o644);
        let size = name.len() as u64 + 1;
        header.set_size(size);
        header.set_uid(0);
        header.set_gid(0);
        header.set_mtime(0);
        self.finish(header, b"././@LongLink", &[])?;
        self.out.put(name)?;
        self.out.zeros(size.next_multiple_of(BLOCK as u64) - name.len() as u64)
    }

    fn finish(&mut self, mut header: Header, name: &[u8], link: &[u8]) -> Result<(), Failure> {
        let fields = header.as_old_mut();
        let put = |field: &mut [u8; NAME], bytes: &[u8]| {
            let count = bytes.len().min(NAME);
            field[..count].copy_from_slice(&bytes[..count]);
        };
        put(&mut fields.name, name);
        put(&mut fields.linkname, link);
        header.set_cksum();
        self.out.put(header.as_bytes())
    }
}

/// The entries of a directory, last first.
fn children(directory: &OwnedFd, below: &[u8]) -> Result<Vec<Vec<u8>>, Errno> {
    let mut names = Vec::new();
    each_entry(directory, |name, _| {
        names.push(beneath(below, name.to_bytes()));
        Ok(())
    })?;
    names.sort_unstable_by(|a, b| b.cmp(a));
    Ok(names)
}
