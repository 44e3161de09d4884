//! Files in the guest.

use std::time::Duration;

use bytes::Bytes;
use proto::{
    frame::{DATA_CHUNK, FrameKind},
    message::{Change, FileEntry, FileList, FileStat, Request, Response},
    mux::{MuxError, Session, Stream},
};

use super::{answer, ask, cut_off, unexpected, within};
use crate::{Error, Kind, Result, activity::Busy};

/// Entries of one listing; a directory with more is refused rather than held in memory.
const ENTRIES_MAX: usize = 1_000_000;

/// How long a guest that packs a layer may say nothing.
const STALLED: Duration = Duration::from_secs(60);

/// A file that is being read, or an archive that is being made.
#[derive(Debug)]
pub struct FileReading {
    stream: Stream,
    stat: FileStat,
    truncated: bool,
    _busy: Busy,
}

impl FileReading {
    /// `request` is one that is answered by a file.
    pub(crate) async fn start(
        session: &Session,
        request: &Request,
        mut busy: Busy,
    ) -> Result<Self> {
        match ask(session, request).await? {
            (stream, Response::FileHeader(stat)) => {
                busy.begun();
                Ok(Self { stream, stat, truncated: false, _busy: busy })
            }
            (_, other) => Err(unexpected(&other)),
        }
    }

    /// The whole file's facts.
    pub fn stat(&self) -> &FileStat {
        &self.stat
    }

    /// The next piece; `None` at the proper end. An error means that the content is not whole.
    pub async fn next(&mut self) -> Result<Option<Bytes>> {
        match piece(&mut self.stream).await? {
            Piece::Data(data) => Ok(Some(data)),
            Piece::End { truncated } => {
                self.truncated = truncated;
                Ok(None)
            }
        }
    }

    /// Whether a window cut the content; known once [`next`](Self::next) gave `None`.
    pub fn truncated(&self) -> bool {
        self.truncated
    }
}

/// A part of an image that a guest packs as a layer.
#[derive(Debug)]
pub(crate) struct LayerReading(Stream);

impl LayerReading {
    /// Of the image that the guest was booted with, or of the saved disk in a volume's slot.
    pub(crate) async fn start(session: &Session, disk: Option<u32>) -> Result<Self> {
        match ask(session, &Request::PackLayer { disk }).await? {
            (stream, Response::FileHeader(_)) => Ok(Self(stream)),
            (_, other) => Err(unexpected(&other)),
        }
    }

    /// The next piece; `None` at the proper end. An error means that the layer is not whole.
    pub(crate) async fn next(&mut self) -> Result<Option<Bytes>> {
        match within(STALLED, piece(&mut self.0)).await? {
            Piece::Data(data) => Ok(Some(data)),
            Piece::End { .. } => Ok(None),
        }
    }
}

/// A part of what follows a file's header.
enum Piece {
    Data(Bytes),
    End { truncated: bool },
}

async fn piece(stream: &mut Stream) -> Result<Piece> {
    let frame = stream.recv().await?.ok_or_else(cut_off)?;
    match frame.kind {
        FrameKind::Data => Ok(Piece::Data(frame.payload.into())),
        FrameKind::Json => match serde_json::from_slice(&frame.payload) {
            Ok(Response::FileEnd { truncated }) => Ok(Piece::End { truncated }),
            Ok(Response::Error(error)) => Err(error.into()),
            Ok(other) => Err(unexpected(&other)),
            Err(error) => Err(cut_off().caused_by(error)),
        },
        FrameKind::Stdin | FrameKind::Stdout | FrameKind::Stderr => Err(cut_off()),
    }
}

/// A file that is being written, or an archive that is being unpacked. Dropped before
/// [`finish`](Self::finish), a file that was to be replaced stays.
#[derive(Debug)]
pub struct FileWriting {
    stream: Stream,
    _busy: Busy,
}

impl FileWriting {
    /// `request` is one that data follow. It leaves with the first of them.
    pub(crate) async fn start(session: &Session, request: &Request, busy: Busy) -> Result<Self> {
        let mut stream = session.open().await?;
        stream.queue_json(request)?;
        Ok(Self { stream, _busy: busy })
    }

    /// Takes the next piece, which is sent when there is enough to send, at the latest by
    /// [`flush`](Self::flush) or [`finish`](Self::finish).
    pub async fn write(&mut self, data: &[u8]) -> Result<()> {
        let mut rest = data;
        while !rest.is_empty() {
            let (now, later) = rest.split_at(rest.len().min(DATA_CHUNK));
            self.stream.queue_data(FrameKind::Data, now)?;
            if self.stream.queued() >= DATA_CHUNK {
                self.flush().await?;
            }
            rest = later;
        }
        Ok(())
    }

    /// Sends what has gathered.
    pub async fn flush(&mut self) -> Result<()> {
        match self.stream.flush().await {
            Ok(()) => Ok(()),
            Err(error) => Err(self.refusal(error).await),
        }
    }

    /// Ends the content; returns when it is in place, flushed.
    pub async fn finish(mut self) -> Result<()> {
        self.stream.queue_data(FrameKind::Data, &[])?;
        self.flush().await?;
        match answer(&mut self.stream).await? {
            Response::Done => Ok(()),
            other => Err(unexpected(&other)),
        }
    }

    /// Why the agent stopped listening, as it said itself if it did.
    async fn refusal(&mut self, error: MuxError) -> Error {
        match answer(&mut self.stream).await {
            Err(refused) if refused.kind != Kind::AgentUnreachable => refused,
            Ok(_) | Err(_) => error.into(),
        }
    }
}

/// Facts about one path.
pub(crate) async fn stat(session: &Session, path: &str) -> Result<FileStat> {
    match ask(session, &Request::FileStat { path: path.to_owned(), no_follow: false }).await? {
        (_, Response::Stat(stat)) => Ok(stat),
        (_, other) => Err(unexpected(&other)),
    }
}

/// Some entries of a directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listing {
    /// The entries, by name.
    pub entries: Vec<FileEntry>,
    /// Whether the directory has entries after these.
    pub more: bool,
}

/// Entries of a directory.
pub(crate) async fn list(session: &Session, list: FileList) -> Result<Listing> {
    let path = list.path.clone();
    let (mut stream, mut response) = ask(session, &Request::FileList(list)).await?;
    let mut all = Vec::new();
    loop {
        match response {
            Response::List { entries, last, more } => {
                all.extend(entries);
                if last {
                    return Ok(Listing { entries: all, more });
                }
            }
            other => return Err(unexpected(&other)),
        }
        if all.len() > ENTRIES_MAX {
            let message = format!("{path} has more than {ENTRIES_MAX} entries");
            return Err(Error::new(Kind::GuestLimit, message).hint("list it page by page"));
        }
        response = answer(&mut stream).await?;
    }
}

/// Changes of files as they happen.
#[derive(Debug)]
pub struct Watching {
    stream: Stream,
    _busy: Busy,
}

impl Watching {
    /// Returns once every later change will be told.
    pub(crate) async fn start(
        session: &Session,
        request: &Request,
        mut busy: Busy,
    ) -> Result<Self> {
        match ask(session, request).await? {
            (stream, Response::Done) => {
                busy.begun();
                Ok(Self { stream, _busy: busy })
            }
            (_, other) => Err(unexpected(&other)),
        }
    }

    /// The next changes, oldest first. A watch has no proper end but being dropped.
    pub async fn next(&mut self) -> Result<Vec<Change>> {
        match answer(&mut self.stream).await? {
            Response::Changed { changes } => Ok(changes),
            other => Err(unexpected(&other)),
        }
    }
}
