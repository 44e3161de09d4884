//! What a new sandbox holds before anybody may use it.

use std::time::Duration;

use bytes::Bytes;
use tokio::{sync::mpsc, time::timeout};

use crate::{Error, Kind, Result};

/// Pieces of an archive that wait for the guest.
const PIECES: usize = 4;
/// How long whoever sends an archive may pause.
const PAUSE: Duration = Duration::from_secs(60);

/// Files for a new sandbox. They are no part of its specification.
#[derive(Debug, Default)]
pub struct Contents {
    /// Small files, written in this order.
    pub files: Vec<NewFile>,
    /// A tar archive that is unpacked into `/` after them.
    pub archive: Option<Archive>,
}

/// One file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewFile {
    /// Absolute path in the guest.
    pub path: String,
    /// Permission bits; 0644 if absent.
    pub mode: Option<u32>,
    /// All of it.
    pub content: Vec<u8>,
}

/// A tar archive that is still being sent.
#[derive(Debug)]
pub struct Archive {
    pieces: mpsc::Receiver<Piece>,
}

/// The end into which an archive is sent. Dropped before [`end`](Self::end), the archive is not
/// whole and the create fails.
#[derive(Debug)]
pub struct ArchiveSender {
    pieces: mpsc::Sender<Piece>,
}

#[derive(Debug)]
enum Piece {
    Data(Bytes),
    End,
}

/// Nobody wants the rest of an archive: the sandbox was there already, or could not be made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Unwanted;

impl Archive {
    /// An archive and the end into which it is sent.
    pub fn channel() -> (ArchiveSender, Self) {
        let (sender, pieces) = mpsc::channel(PIECES);
        (ArchiveSender { pieces: sender }, Self { pieces })
    }

    /// The next piece, never empty; `None` at the proper end.
    pub(crate) async fn next(&mut self) -> Result<Option<Bytes>> {
        match timeout(PAUSE, self.pieces.recv()).await {
            Ok(Some(Piece::Data(data))) => Ok(Some(data)),
            Ok(Some(Piece::End)) => Ok(None),
            Ok(None) => {
                Err(Error::new(Kind::InvalidRequest, "the archive was not sent to its end"))
            }
            Err(_) => {
                let message = format!("no more of the archive came for {} s", PAUSE.as_secs());
                Err(Error::new(Kind::Timeout, message))
            }
        }
    }
}

impl ArchiveSender {
    /// Sends the next piece; waits while the guest is busy with earlier ones.
    pub async fn send(&self, data: Bytes) -> Result<(), Unwanted> {
        if data.is_empty() {
            return Ok(());
        }
        self.pieces.send(Piece::Data(data)).await.map_err(|_| Unwanted)
    }

    /// Says that the archive is whole.
    pub async fn end(self) -> Result<(), Unwanted> {
        self.pieces.send(Piece::End).await.map_err(|_| Unwanted)
    }
}

impl Contents {
    pub(crate) fn is_empty(&self) -> bool {
        self.files.is_empty() && self.archive.is_none()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn an_archive_is_whole_only_if_its_sender_says_so() {
        let (sender, mut archive) = Archive::channel();
        sender.send(Bytes::new()).await.unwrap();
        sender.send(Bytes::from_static(b"a")).await.unwrap();
        sender.end().await.unwrap();
        assert_eq!(archive.next().await.unwrap().as_deref(), Some(&b"a"[..]));
        assert_eq!(archive.next().await.unwrap(), None);

        let (sender, mut archive) = Archive::channel();
        sender.send(Bytes::from_static(b"a")).await.unwrap();
        drop(sender);
        archive.next().await.unwrap();
        assert_eq!(archive.next().await.unwrap_err().kind, Kind::InvalidRequest);

        let (sender, archive) = Archive::channel();
        drop(archive);
        assert_eq!(sender.send(Bytes::from_static(b"a")).await, Err(Unwanted));
    }
}
