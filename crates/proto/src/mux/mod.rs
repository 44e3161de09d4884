//! Many streams over one byte stream.
//!
//! ```text
//!   Stream ─┐ frames                    ┌─ byte stream (virtio-serial, vsock)
//!   Stream ─┼─► yamux ─► write buffer ──┤
//!   Stream ─┘        ◄── read buffer ◄──┘
//!              all moved by the Driver, one write for whatever is ready
//! ```
//!
//! [`establish`] exchanges preambles and answers three parts: the [`Driver`], which must be polled
//! for anything to move; the [`Session`], which opens streams; the [`Incoming`] streams that the
//! peer opens. The session ends when the byte stream does, when the last [`Session`] is dropped,
//! or when the driver is.

mod buffered;
mod stream;
#[cfg(test)]
mod tests;

use std::future::{Future, poll_fn};
use std::io;
use std::pin::{Pin, pin};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use futures_util::task::AtomicWaker;
use thiserror::Error;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, watch};
use tokio::time::timeout;
use yamux::{Config, Connection, ConnectionError, Mode};

use self::buffered::{Buffered, Wire};
use self::stream::Shared;
pub use self::stream::{RecvHalf, SendHalf, Stream};
use crate::frame::{DATA_CHUNK, FRAME_HEADER, FrameError};
use crate::preamble::{HAIL, Hail, Preamble, PreambleError, Scanner, VERSION};

/// Streams that one side may have open at once; more wait in [`Session::open`].
pub const STREAMS_MAX: usize = 1600;

/// Going over this ends the session, so it is well above what both sides can have open: a dropped
/// stream still counts until its reset has been sent.
const YAMUX_STREAMS: usize = 4 * STREAMS_MAX;

/// Bytes by which all streams together may outgrow their first window of 256 KiB each.
const WINDOW_GROWTH: usize = 4 * 1024 * 1024;

/// Streams that the peer has opened and nobody has taken yet; more are refused.
const INCOMING_MAX: usize = STREAMS_MAX;

/// How long a host waits for the guest's preamble before it asks for it, again and again.
const HAIL_AFTER: Duration = Duration::from_millis(250);

/// Bytes read at once while looking for the preamble.
const SCAN_CHUNK: usize = 4096;

/// Which end of the byte stream this is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    /// The daemon.
    Host,
    /// The agent.
    Guest,
}

/// Why a session or stream is of no more use.
#[derive(Debug, Error)]
pub enum MuxError {
    /// The byte stream failed.
    #[error("session i/o: {0}")]
    Io(#[from] io::Error),
    /// The peer did not introduce itself.
    #[error(transparent)]
    Preamble(#[from] PreambleError),
    /// The peer broke the multiplexing protocol.
    #[error("multiplexer: {0}")]
    Multiplexer(ConnectionError),
    /// The peer sent what is not a frame, or the frame to send is too large.
    #[error(transparent)]
    Frame(#[from] FrameError),
    /// A message is not what was expected, or cannot be written.
    #[error("message: {0}")]
    Message(#[from] serde_json::Error),
    /// A data frame came where a message is expected.
    #[error("data where a message is expected")]
    UnexpectedData,
    /// The peer left in the middle of a frame.
    #[error("stream ended within a frame")]
    Truncated,
    /// The peer reset this stream.
    #[error("stream was closed by the peer")]
    StreamClosed,
    /// The whole session is over.
    #[error("session has ended")]
    SessionEnded,
}

/// What driver, session and streams share.
struct Core {
    /// `None` once the session has ended; whoever sees a stream end looks here, under the lock
    /// that the driver holds while it ends things, to learn whether only the stream did.
    connection: Mutex<Option<Connection<Wire>>>,
    wire: Wire,
    closing: AtomicBool,
    driver: AtomicWaker,
    ended: watch::Sender<bool>,
    permits: Arc<Semaphore>,
    /// The connection remembers only one task that waits to open.
    opening: tokio::sync::Mutex<()>,
    /// Who waits for a stream to be closed; the multiplexer itself tells only readers and writers.
    watchers: Mutex<Vec<(Weak<Shared>, Waker)>>,
}

impl Core {
    fn connection(&self) -> MutexGuard<'_, Option<Connection<Wire>>> {
        self.connection.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn is_live(&self) -> bool {
        self.connection().is_some()
    }

    fn close(&self) {
        self.closing.store(true, Ordering::Release);
        self.driver.wake();
    }

    fn end(&self) {
        let connection = self.connection().take();
        self.permits.close();
        self.ended.send_replace(true);
        // Outside the lock: this wakes every stream.
        drop(connection);
        self.wake_watchers(true);
    }

    fn watch(&self, stream: &Arc<Shared>, waker: &Waker) {
        let mut watchers = self.watchers.lock().unwrap_or_else(PoisonError::into_inner);
        watchers.retain(|(other, _)| {
            other.strong_count() > 0 && !std::ptr::eq(other.as_ptr(), Arc::as_ptr(stream))
        });
        watchers.push((Arc::downgrade(stream), waker.clone()));
    }

    /// Wakes those whose stream is closed, or all if the session is over.
    fn wake_watchers(&self, all: bool) {
        let mut watchers = self.watchers.lock().unwrap_or_else(PoisonError::into_inner);
        watchers.retain(|(stream, waker)| {
            let waits = !all && stream.upgrade().is_some_and(|stream| !stream.is_closed());
            if !waits {
                waker.wake_by_ref();
            }
            waits
        });
    }

    async fn ended(&self) {
        // An error means that the sender is gone, which `self` holds.
        let _ = self.ended.subscribe().wait_for(|ended| *ended).await;
    }
}

/// Introduces both sides to each other over `io` and makes a session of it. Bytes that precede the
/// peer's preamble are discarded. `nonce` must be fresh random bytes.
///
/// The guest speaks first: what a host sends before the guest has opened its port anew is lost.
/// The host's preamble leaves together with its first request, so both drivers must be polled for
/// either side to be established.
///
/// # Errors
/// `io` fails or ends, or too many bytes hold no preamble.
pub async fn establish<T>(
    mut io: T,
    side: Side,
    nonce: [u8; 32],
) -> Result<(Session, Incoming, Driver), MuxError>
where
    T: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let own = Preamble { version: VERSION, nonce }.encode();
    if side == Side::Guest {
        say(&mut io, &own).await?;
    }
    let mut hail = Hail::default();
    let mut scanner = Scanner::new();
    let mut chunk = vec![0; SCAN_CHUNK];
    let peer = loop {
        let count = match timeout(HAIL_AFTER, io.read(&mut chunk)).await {
            Ok(count) => count?,
            Err(_) if side == Side::Host => {
                say(&mut io, &HAIL).await?;
                continue;
            }
            Err(_) => io.read(&mut chunk).await?,
        };
        if count == 0 {
            return Err(MuxError::SessionEnded);
        }
        let hailed = hail.is_heard(&chunk[..count]);
        if let Some(peer) = scanner.push(&chunk[..count])? {
            break peer;
        }
        if hailed && side == Side::Guest {
            say(&mut io, &own).await?;
        }
    };
    let unsent = if side == Side::Host { own.to_vec() } else { Vec::new() };
    let wire = Buffered::over(Box::new(io), scanner.into_rest(), unsent);
    let mode = match side {
        Side::Host => Mode::Client,
        Side::Guest => Mode::Server,
    };
    let core = Arc::new(Core {
        connection: Mutex::new(Some(Connection::new(wire.clone(), config(), mode))),
        wire,
        closing: AtomicBool::new(false),
        driver: AtomicWaker::new(),
        ended: watch::Sender::new(false),
        permits: Arc::new(Semaphore::new(STREAMS_MAX)),
        opening: tokio::sync::Mutex::new(()),
        watchers: Mutex::new(Vec::new()),
    });
    let (sender, receiver) = mpsc::channel(INCOMING_MAX);
    let driver = Driver { core: Arc::clone(&core), incoming: Some(sender) };
    let session = Session { guard: Arc::new(Guard { core, peer, own_nonce: nonce }) };
    Ok((session, Incoming { receiver }, driver))
}

async fn say(io: &mut (impl AsyncWrite + Unpin), bytes: &[u8]) -> Result<(), MuxError> {
    io.write_all(bytes).await?;
    io.flush().await?;
    Ok(())
}

fn config() -> Config {
    let mut config = Config::default();
    // The order matters: the setters refuse a window that is too small for the streams so far.
    config.set_max_connection_receive_window(None);
    config.set_max_num_streams(YAMUX_STREAMS);
    let window = YAMUX_STREAMS * yamux::DEFAULT_CREDIT as usize + WINDOW_GROWTH;
    config.set_max_connection_receive_window(Some(window));
    config.set_split_send_size(DATA_CHUNK + FRAME_HEADER);
    config
}

/// Opens streams. The session lives as long as any clone of this.
#[derive(Debug, Clone)]
pub struct Session {
    guard: Arc<Guard>,
}

struct Guard {
    core: Arc<Core>,
    peer: Preamble,
    own_nonce: [u8; 32],
}

impl std::fmt::Debug for Guard {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Guard").field("peer", &self.peer).finish_non_exhaustive()
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        self.core.close();
    }
}

impl Session {
    /// Opens a stream; waits while [`STREAMS_MAX`] are open. The peer learns of it with the first
    /// frame.
    ///
    /// # Errors
    /// The session has ended.
    pub async fn open(&self) -> Result<Stream, MuxError> {
        let core = &self.guard.core;
        let permits = Arc::clone(&core.permits);
        let permit = permits.acquire_owned().await.map_err(|_| MuxError::SessionEnded)?;
        let _turn = core.opening.lock().await;
        let mut ended = pin!(core.ended());
        let stream = poll_fn(|cx| {
            if core.closing.load(Ordering::Acquire) {
                return Poll::Ready(Err(MuxError::SessionEnded));
            }
            let opened = match core.connection().as_mut() {
                None => return Poll::Ready(Err(MuxError::SessionEnded)),
                Some(connection) => connection.poll_new_outbound(cx),
            };
            match opened {
                Poll::Ready(result) => Poll::Ready(result.map_err(MuxError::Multiplexer)),
                Poll::Pending => ended.as_mut().poll(cx).map(|()| Err(MuxError::SessionEnded)),
            }
        })
        .await?;
        // The driver does not yet listen to the new stream.
        core.driver.wake();
        Ok(Stream::new(stream, Arc::clone(core), Some(permit)))
    }

    /// What the peer introduced itself with.
    pub fn peer(&self) -> &Preamble {
        &self.guard.peer
    }

    /// The nonce that this side sent, which the peer's proof must be over.
    pub fn own_nonce(&self) -> &[u8; 32] {
        &self.guard.own_nonce
    }

    /// Ends the session once what was sent so far is flushed.
    pub fn close(&self) {
        self.guard.core.close();
    }

    /// Waits until the session has ended.
    pub async fn closed(&self) {
        self.guard.core.ended().await;
    }

    /// Whether the session has ended.
    pub fn is_closed(&self) -> bool {
        !self.guard.core.is_live()
    }
}

/// The streams that the peer opens. When this is dropped, they are refused.
#[derive(Debug)]
pub struct Incoming {
    receiver: mpsc::Receiver<Stream>,
}

impl Incoming {
    /// The next stream, `None` once the session has ended.
    pub async fn next(&mut self) -> Option<Stream> {
        self.receiver.recv().await
    }
}

/// Moves the bytes of a session; spawn it. Ends with the session, which dropping it ends too.
#[must_use = "nothing moves unless the driver is polled"]
pub struct Driver {
    core: Arc<Core>,
    incoming: Option<mpsc::Sender<Stream>>,
}

impl std::fmt::Debug for Driver {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Driver").finish_non_exhaustive()
    }
}

impl Driver {
    /// One round: takes in and hands out all that can be, then writes what came together.
    fn poll_round(&self, cx: &mut Context<'_>) -> Poll<Result<(), MuxError>> {
        let mut slot = self.core.connection();
        loop {
            let Some(connection) = slot.as_mut() else { return Poll::Ready(Ok(())) };
            let closing = self.core.closing.load(Ordering::Acquire);
            let over = loop {
                match connection.poll_next_inbound(cx) {
                    Poll::Ready(Some(Ok(stream))) => self.accept(stream),
                    Poll::Ready(Some(Err(ConnectionError::Closed)) | None) => break Some(Ok(())),
                    Poll::Ready(Some(Err(error))) => break Some(Err(error)),
                    Poll::Pending => break None,
                }
            };
            if let Some(result) = over {
                // Under the lock, so that a stream that was just woken finds the reason.
                *slot = None;
                return Poll::Ready(result.map_err(MuxError::Multiplexer));
            }
            self.core.wake_watchers(false);
            if let Err(error) = std::task::ready!(self.core.wire.poll_drain(cx)) {
                *slot = None;
                return Poll::Ready(Err(error.into()));
            }
            if self.core.wire.take_refused() {
                continue;
            }
            if closing {
                *slot = None;
                return Poll::Ready(Ok(()));
            }
            return Poll::Pending;
        }
    }

    fn accept(&self, stream: yamux::Stream) {
        if let Some(incoming) = &self.incoming {
            // A stream that nobody takes is reset by being dropped.
            let _ = incoming.try_send(Stream::new(stream, Arc::clone(&self.core), None));
        }
    }
}

impl Future for Driver {
    type Output = Result<(), MuxError>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        self.core.driver.register(cx.waker());
        let result = std::task::ready!(self.poll_round(cx));
        self.incoming = None;
        self.core.end();
        if result.is_ok() {
            // The peer must see the end even if `io` outlives this; it is best effort.
            let _ = self.core.wire.poll_shutdown(cx);
        }
        Poll::Ready(result)
    }
}

impl Drop for Driver {
    fn drop(&mut self) {
        self.core.end();
        self.core.wire.disconnect();
    }
}

/// A held place among the [`STREAMS_MAX`].
type Permit = Option<OwnedSemaphorePermit>;
