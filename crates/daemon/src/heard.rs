//! Whether the other end of a connection is still there.

use std::{
    io,
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll},
    time::Duration,
};

use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    time::{Instant, timeout_at},
};

/// When the other end last gave a sign of life: it sent something, or it took something after it
/// had let us wait. What merely fits into the buffers on the way proves nothing.
#[derive(Debug)]
pub(crate) struct Heard(Mutex<State>);

#[derive(Debug)]
struct State {
    last: Instant,
    /// How many of us do not listen now, so that silence means nothing.
    deaf: u32,
}

/// A connection that notes signs of life.
#[derive(Debug)]
pub(crate) struct Listening<S> {
    io: S,
    heard: Arc<Heard>,
    waiting: bool,
}

/// Held by whoever does not listen.
#[derive(Debug)]
pub(crate) struct Deaf<'a>(&'a Heard);

impl Heard {
    /// Waits until there was no sign of life for that long.
    pub(crate) async fn gone(&self, limit: Duration) {
        loop {
            let deadline = {
                let state = self.state();
                if state.deaf > 0 { Instant::now() + limit } else { state.last + limit }
            };
            if deadline <= Instant::now() {
                return;
            }
            let _ = timeout_at(deadline, std::future::pending::<()>()).await;
        }
    }

    /// Silence counts again from the moment at which the answer is dropped.
    pub(crate) fn deaf(&self) -> Deaf<'_> {
        self.state().deaf += 1;
        Deaf(self)
    }

    fn note(&self) {
        self.state().last = Instant::now();
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Deaf<'_> {
    fn drop(&mut self) {
        let mut state = self.0.state();
        state.deaf -= 1;
        state.last = Instant::now();
    }
}

impl<S> Listening<S> {
    pub(crate) fn new(io: S) -> (Self, Arc<Heard>) {
        let heard = Arc::new(Heard(Mutex::new(State { last: Instant::now(), deaf: 0 })));
        (Self { io, heard: Arc::clone(&heard), waiting: false }, heard)
    }

    fn wrote<T>(&mut self, written: Poll<T>) -> Poll<T> {
        if written.is_pending() {
            self.waiting = true;
        } else if std::mem::take(&mut self.waiting) {
            self.heard.note();
        }
        written
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Listening<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let read = Pin::new(&mut self.io).poll_read(cx, buffer);
        if buffer.filled().len() > before {
            self.heard.note();
        }
        read
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Listening<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.io).poll_write(cx, bytes);
        self.wrote(written)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use tokio::{
        io::{AsyncReadExt as _, AsyncWriteExt as _, duplex},
        time::timeout,
    };

    use super::*;

    const SHORT: Duration = Duration::from_millis(50);
    const LONG: Duration = Duration::from_secs(20);

    #[tokio::test]
    async fn silence_is_noticed_unless_nobody_listens() {
        let (_other, io) = duplex(64);
        let (_io, heard) = Listening::new(io);
        timeout(LONG, heard.gone(SHORT)).await.unwrap();
        let deaf = heard.deaf();
        timeout(4 * SHORT, heard.gone(SHORT)).await.unwrap_err();
        drop(deaf);
        timeout(LONG, heard.gone(SHORT)).await.unwrap();
    }

    #[tokio::test]
    async fn what_fits_into_a_buffer_is_no_sign_of_life_and_what_is_taken_from_a_full_one_is() {
        let (mut other, io) = duplex(64);
        let (mut io, heard) = Listening::new(io);
        let begin = heard.state().last;
        io.write_all(&[1; 64]).await.unwrap();
        assert_eq!(heard.state().last, begin);
        let (written, read) = tokio::join!(io.write_all(&[2; 64]), async {
            tokio::task::yield_now().await;
            other.read_exact(&mut [0; 128]).await
        });
        (written.unwrap(), read.unwrap());
        let taken = heard.state().last;
        assert!(taken > begin);
        other.write_all(&[3]).await.unwrap();
        io.read_u8().await.unwrap();
        assert!(heard.state().last > taken);
    }
}
