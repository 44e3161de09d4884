//! From an image to an archive that others can read.

use std::{
    io::{self, Write},
    sync::Arc,
};

use bytes::Bytes;
use disk::{archive, image::Image};
use tokio::sync::mpsc;

use super::packing;
use crate::{Error, Result, node::Node};

/// Bytes that are sent at once.
const PIECE: usize = 256 << 10;

/// Pieces that may wait for whoever reads.
const AHEAD: usize = 4;

/// An archive that is being written. Dropping it ends that.
#[derive(Debug)]
pub struct Export(mpsc::Receiver<Result<Bytes>>);

impl Export {
    /// Of an image that is no layers yet these are made first.
    pub(super) async fn begin(node: &Arc<Node>, image: Image, name: String) -> Result<Self> {
        let whole = packing::whole(node, &image).await?;
        let (sender, receiver) = mpsc::channel(AHEAD);
        let data = node.layout.data().to_owned();
        tokio::task::spawn_blocking(move || {
            let mut writer = Pieces { sender, piece: Vec::with_capacity(PIECE) };
            let config = image.config();
            let written = archive::export(&data, &whole.layers, config, &name, &mut writer);
            let written = written.map_err(Error::from).and_then(|()| Ok(writer.flush()?));
            if let Err(error) = written {
                // Without its end nobody takes it for whole.
                let _ = writer.sender.blocking_send(Err(error));
            }
        });
        Ok(Self(receiver))
    }

    /// The next bytes; `None` at the proper end.
    ///
    /// # Errors
    /// What is stored cannot be read.
    pub async fn next(&mut self) -> Option<Result<Bytes>> {
        self.0.recv().await
    }
}

struct Pieces {
    sender: mpsc::Sender<Result<Bytes>>,
    piece: Vec<u8>,
}

impl Write for Pieces {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let count = bytes.len().min(PIECE - self.piece.len());
        self.piece.extend_from_slice(&bytes[..count]);
        if self.piece.len() == PIECE {
            self.flush()?;
        }
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        if self.piece.is_empty() {
            return Ok(());
        }
        let piece = std::mem::replace(&mut self.piece, Vec::with_capacity(PIECE));
        let sent = self.sender.blocking_send(Ok(piece.into()));
        sent.map_err(|_| io::Error::new(io::ErrorKind::BrokenPipe, "nobody reads it any more"))
    }
}
