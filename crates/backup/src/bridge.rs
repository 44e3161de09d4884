//! From bytes that arrive to somebody who reads and blocks.

use std::io::{self, Read};

use bytes::{Buf as _, Bytes};
use tokio::sync::mpsc;

/// Pieces that may wait for the reader.
const PIECES: usize = 16;

pub(crate) type Sender = mpsc::Sender<io::Result<Bytes>>;

/// What arrives, in order. Blocks; not for use where futures run.
#[derive(Debug)]
pub(crate) struct Arriving {
    receiver: mpsc::Receiver<io::Result<Bytes>>,
    piece: Bytes,
}

pub(crate) fn channel() -> (Sender, Arriving) {
    let (sender, receiver) = mpsc::channel(PIECES);
    (sender, Arriving { receiver, piece: Bytes::new() })
}

impl Read for Arriving {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.piece.is_empty() {
            match self.receiver.blocking_recv() {
                Some(piece) => self.piece = piece?,
                None => return Ok(0),
            }
        }
        let n = buffer.len().min(self.piece.len());
        self.piece.copy_to_slice(&mut buffer[..n]);
        Ok(n)
    }
}
