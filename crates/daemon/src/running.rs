//! A command between guest and client: output goes out and input comes in, each at its own pace.

use std::{future::Future, pin::pin};

use api::ErrorCode;
use futures_util::{FutureExt as _, future::Fuse};
use orchestrator::{ExecEvent, ExecInput, Execution};
use tokio::{
    sync::oneshot,
    task::{AbortHandle, JoinHandle},
};

use crate::{
    failure::Failure,
    lead::{Broken, Rest},
};

/// Input that is there as a whole goes to the guest in pieces of this size.
const PIECE: usize = 64 << 10;

/// A command in a sandbox.
pub(crate) trait Command: Send + 'static {
    /// The way to its input.
    type Input: Input;

    /// See [`Execution::next`].
    fn next(&mut self) -> impl Future<Output = orchestrator::Result<ExecEvent>> + Send;

    /// See [`Execution::take_input`].
    fn take_input(&mut self) -> Option<Self::Input>;
}

/// See [`ExecInput`].
pub(crate) trait Input: Send + 'static {
    /// See [`ExecInput::send`].
    fn send(&mut self, data: &[u8]) -> impl Future<Output = orchestrator::Result<()>> + Send;
}

impl Command for Execution {
    type Input = ExecInput;

    fn next(&mut self) -> impl Future<Output = orchestrator::Result<ExecEvent>> + Send {
        Self::next(self)
    }

    fn take_input(&mut self) -> Option<ExecInput> {
        Self::take_input(self)
    }
}

impl Input for ExecInput {
    fn send(&mut self, data: &[u8]) -> impl Future<Output = orchestrator::Result<()>> + Send {
        Self::send(self, data)
    }
}

/// What a command reads.
#[derive(Debug)]
pub(crate) enum Stdin {
    /// Nothing.
    None,
    /// These bytes.
    Whole(Vec<u8>),
    /// What the client sends.
    Streamed(Rest),
}

/// A command that is being fed. Dropped before its end, it is killed.
#[derive(Debug)]
pub(crate) struct Running<C> {
    command: C,
    feeding: Option<Feeding>,
}

/// The task that sends input. It is one of its own, so that a client that sends everything before
/// it reads anything is served, too.
#[derive(Debug)]
struct Feeding {
    /// Said once the command is gone; whoever still sends is then listened to, but not heard.
    over: Option<oneshot::Sender<()>>,
    /// Comes if the client went away in the middle of the input.
    broken: Fuse<oneshot::Receiver<()>>,
    task: AbortHandle,
}

impl Drop for Feeding {
    fn drop(&mut self) {
        if self.over.is_some() {
            self.task.abort();
        }
    }
}

impl<C: Command> Running<C> {
    pub(crate) fn new(mut command: C, stdin: Stdin) -> Self {
        let feeding = match (stdin, command.take_input()) {
            (Stdin::None, _) | (_, None) => None,
            (Stdin::Whole(bytes), Some(input)) => {
                Some(Feeding::start(|over, broken| tokio::spawn(whole(input, bytes, over, broken))))
            }
            (Stdin::Streamed(rest), Some(input)) => Some(Feeding::start(|over, broken| {
                tokio::spawn(streamed(input, rest, over, broken))
            })),
        };
        Self { command, feeding }
    }

    /// The next event. [`ExecEvent::Exited`] or an error is the last.
    pub(crate) async fn next(&mut self) -> Result<ExecEvent, Failure> {
        let broken = async {
            if let Some(feeding) = &mut self.feeding
                && (&mut feeding.broken).await.is_ok()
            {
                return;
            }
            // The input is complete.
            std::future::pending::<()>().await;
        };
        let event = tokio::select! {
            biased;
            event = self.command.next() => event.map_err(Failure::from),
            () = broken => {
                return Err(Failure::new(ErrorCode::InvalidRequest, "the input ended early"));
            }
        };
        if !matches!(event, Ok(ExecEvent::Stdout(_) | ExecEvent::Stderr(_))) {
            self.end_feeding();
        }
        event
    }

    fn end_feeding(&mut self) {
        if let Some(mut feeding) = self.feeding.take()
            && let Some(over) = feeding.over.take()
        {
            let _ = over.send(());
        }
    }
}

impl Feeding {
    fn start(
        begin: impl FnOnce(oneshot::Receiver<()>, oneshot::Sender<()>) -> JoinHandle<()>,
    ) -> Self {
        let (over, is_over) = oneshot::channel();
        let (breaks, broken) = oneshot::channel();
        let task = begin(is_over, breaks).abort_handle();
        Self { over: Some(over), broken: broken.fuse(), task }
    }
}

/// Sends all input and closes it. A command may end without reading all of it; how it ended is told
/// by its events, so a failure here is nobody's concern.
async fn whole(
    mut input: impl Input,
    bytes: Vec<u8>,
    over: oneshot::Receiver<()>,
    _complete: oneshot::Sender<()>,
) {
    let send = async {
        for piece in bytes.chunks(PIECE) {
            input.send(piece).await?;
        }
        input.send(&[]).await
    };
    tokio::select! {
        _ = send => {}
        _ = over => {}
    }
}

/// Sends on what the client sends, as fast as the command reads.
async fn streamed(
    mut input: impl Input,
    mut rest: Rest,
    over: oneshot::Receiver<()>,
    broken: oneshot::Sender<()>,
) {
    let mut over = pin!(over);
    loop {
        let piece = tokio::select! {
            biased;
            _ = &mut over => break,
            piece = rest.next() => piece,
        };
        let data = match piece {
            Ok(Some(data)) => data,
            Ok(None) => {
                tokio::select! {
                    _ = input.send(&[]) => {}
                    _ = over => {}
                }
                return;
            }
            Err(Broken) => {
                let _ = broken.send(());
                return;
            }
        };
        tokio::select! {
            biased;
            _ = &mut over => break,
            sent = input.send(&data) => {
                if sent.is_err() {
                    break;
                }
            }
        }
    }
}
