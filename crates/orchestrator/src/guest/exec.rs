//! A running command as its caller sees it.

use proto::{
    frame::FrameKind,
    message::{Exec, Exited, Request, Response},
    mux::{RecvHalf, SendHalf, Session},
};

use super::{answer, cut_off, unexpected};
use crate::{Error, Result, activity::Busy};

/// What a command says and how it ends.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ExecEvent {
    /// Bytes of its standard output.
    Stdout(Vec<u8>),
    /// Bytes of its standard error.
    Stderr(Vec<u8>),
    /// It is gone.
    Exited(Exited),
}

/// A running command. Dropped, its process group is killed.
#[derive(Debug)]
pub struct Execution {
    send: Option<SendHalf>,
    recv: RecvHalf,
    _busy: Busy,
}

/// The way to a command's standard input, usable while its output is read elsewhere.
#[derive(Debug)]
pub struct ExecInput {
    send: SendHalf,
}

impl Execution {
    pub(crate) async fn start(session: &Session, exec: Exec, busy: Busy) -> Result<Self> {
        let mut stream = session.open().await?;
        stream.send_json(&Request::Exec(exec)).await?;
        match answer(&mut stream).await? {
            Response::Started { .. } => {
                let (send, recv) = stream.split();
                Ok(Self { send: Some(send), recv, _busy: busy })
            }
            other => Err(unexpected(&other)),
        }
    }

    /// The next event. [`ExecEvent::Exited`] is the last; a command never ends without it or an
    /// error.
    pub async fn next(&mut self) -> Result<ExecEvent> {
        let frame = self.recv.recv().await?.ok_or_else(cut_off)?;
        match frame.kind {
            FrameKind::Stdout => Ok(ExecEvent::Stdout(frame.payload)),
            FrameKind::Stderr => Ok(ExecEvent::Stderr(frame.payload)),
            FrameKind::Json => match serde_json::from_slice(&frame.payload) {
                Ok(Response::Exited(exited)) => Ok(ExecEvent::Exited(exited)),
                Ok(Response::Error(error)) => Err(error.into()),
                Ok(other) => Err(unexpected(&other)),
                Err(error) => Err(cut_off().caused_by(error)),
            },
            FrameKind::Stdin | FrameKind::Data => Err(cut_off()),
        }
    }

    /// The command's input; `None` if it was taken already.
    pub fn take_input(&mut self) -> Option<ExecInput> {
        self.send.take().map(|send| ExecInput { send })
    }
}

impl ExecInput {
    /// Sends input; an empty slice closes it. Waits while the command does not read.
    pub async fn send(&mut self, data: &[u8]) -> Result<()> {
        self.send.send_data(FrameKind::Stdin, data).await.map_err(Error::from)
    }
}
