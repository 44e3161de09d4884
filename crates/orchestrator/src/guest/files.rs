//! Files in the guest.

use proto::{
    frame::FrameKind,
    message::{FileEntry, FileList, FileRead, FileStat, FileWrite, Request, Response},
    mux::{Session, Stream},
};

use super::{answer, ask, cut_off, unexpected};
use crate::{Error, Kind, Result, activity::Busy};

/// Entries of one listing; a directory with more is refused rather than held in memory.
const ENTRIES_MAX: usize = 1_000_000;

/// A file that is being read.
#[derive(Debug)]
pub struct FileReading {
    stream: Stream,
    stat: FileStat,
    truncated: bool,
    _busy: Busy,
}

impl FileReading {
    pub(crate) async fn start(session: &Session, read: FileRead, busy: Busy) -> Result<Self> {
        match ask(session, &Request::FileRead(read)).await? {
            (stream, Response::FileHeader(stat)) => {
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
    pub async fn next(&mut self) -> Result<Option<Vec<u8>>> {
        let frame = self.stream.recv().await?.ok_or_else(cut_off)?;
        match frame.kind {
            FrameKind::Data => Ok(Some(frame.payload)),
            FrameKind::Json => match serde_json::from_slice(&frame.payload) {
                Ok(Response::FileEnd { truncated }) => {
                    self.truncated = truncated;
                    Ok(None)
                }
                Ok(Response::Error(error)) => Err(error.into()),
                Ok(other) => Err(unexpected(&other)),
                Err(error) => Err(cut_off().caused_by(error)),
            },
            FrameKind::Stdin | FrameKind::Stdout | FrameKind::Stderr => Err(cut_off()),
        }
    }

    /// Whether a window cut the content; known once [`next`](Self::next) gave `None`.
    pub fn truncated(&self) -> bool {
        self.truncated
    }
}

/// A file that is being replaced. Dropped before [`finish`](Self::finish), the old one stays.
#[derive(Debug)]
pub struct FileWriting {
    stream: Stream,
    _busy: Busy,
}

impl FileWriting {
    pub(crate) async fn start(session: &Session, write: FileWrite, busy: Busy) -> Result<Self> {
        let mut stream = session.open().await?;
        stream.send_json(&Request::FileWrite(write)).await?;
        Ok(Self { stream, _busy: busy })
    }

    /// Sends the next piece.
    pub async fn write(&mut self, data: &[u8]) -> Result<()> {
        if data.is_empty() {
            return Ok(());
        }
        match self.stream.send_data(FrameKind::Data, data).await {
            Ok(()) => Ok(()),
            Err(error) => Err(self.refusal().await.unwrap_or_else(|| error.into())),
        }
    }

    /// Puts the new content in place, flushed.
    pub async fn finish(mut self) -> Result<()> {
        if let Err(error) = self.stream.send_data(FrameKind::Data, &[]).await {
            return Err(self.refusal().await.unwrap_or_else(|| error.into()));
        }
        match answer(&mut self.stream).await? {
            Response::Done => Ok(()),
            other => Err(unexpected(&other)),
        }
    }

    /// Why the agent stopped listening, if it said so.
    async fn refusal(&mut self) -> Option<Error> {
        answer(&mut self.stream).await.err()
    }
}

/// Facts about one path.
pub(crate) async fn stat(session: &Session, path: &str) -> Result<FileStat> {
    match ask(session, &Request::FileStat { path: path.to_owned(), no_follow: false }).await? {
        (_, Response::Stat(stat)) => Ok(stat),
        (_, other) => Err(unexpected(&other)),
    }
}

/// All entries of a directory.
pub(crate) async fn list(session: &Session, path: &str) -> Result<Vec<FileEntry>> {
    let (mut stream, mut response) =
        ask(session, &Request::FileList(FileList { path: path.to_owned(), ..FileList::default() }))
            .await?;
    let mut all = Vec::new();
    loop {
        match response {
            Response::List { entries, last, .. } => {
                all.extend(entries);
                if last {
                    return Ok(all);
                }
            }
            other => return Err(unexpected(&other)),
        }
        if all.len() > ENTRIES_MAX {
            let message = format!("{path} has more than {ENTRIES_MAX} entries");
            return Err(Error::new(Kind::GuestLimit, message));
        }
        response = answer(&mut stream).await?;
    }
}
