//! Sending an archive that is there already.

use std::io::{BufWriter, Write};

use anyhow::{Context as _, Result};
use tokio::task::JoinHandle;

use super::pipe::{self, AsyncReader, AsyncWriter};

/// Bytes that are handed on at a time.
const PIECE: usize = 128 << 10;

/// An archive that is being sent.
#[derive(Debug)]
pub(crate) struct Sending(JoinHandle<Result<()>>);

impl Sending {
    /// Waits for the end.
    ///
    /// # Errors
    /// If it could not be read. To be looked at before the error of the request that sends it, which
    /// fails because of it.
    pub(crate) async fn finish(self) -> Result<()> {
        self.0.await.context("wait for the archive")?
    }
}

/// Sends what `work` writes, while it is read.
pub(crate) fn send(
    work: impl FnOnce(&mut dyn Write) -> Result<()> + Send + 'static,
) -> (AsyncReader, Sending) {
    let (writer, reader) = pipe::from_thread();
    let sending = tokio::task::spawn_blocking(move || {
        let mut writer = BufWriter::with_capacity(PIECE, writer);
        // Dropping the writer without a word means to the reader that the archive was cut.
        work(&mut writer)?;
        let writer = writer.into_inner().map_err(|error| error.into_error())?;
        writer.finish();
        Ok(())
    });
    (reader, Sending(sending))
}

/// Sends what a task passes on, which ends with the runtime.
pub(crate) fn send_from<F>(work: impl FnOnce(AsyncWriter) -> F) -> (AsyncReader, Sending)
where
    F: Future<Output = Result<()>> + Send + 'static,
{
    let (writer, reader) = pipe::between_tasks();
    (reader, Sending(tokio::spawn(work(writer))))
}
