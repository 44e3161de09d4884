//! One connection to a session.

use std::{io, time::Duration};

use anyhow::{Context as _, Result};
use api::{
    ClientMessage, ServerMessage,
    client::{ClientError, WebSocket},
};
use bytes::{Bytes, BytesMut};
use futures_util::{
    SinkExt as _, StreamExt as _,
    stream::{SplitSink, SplitStream},
};
use tokio::{
    io::AsyncReadExt as _,
    signal::unix::{Signal, SignalKind, signal},
    sync::mpsc,
    task::JoinHandle,
    time::{Instant, timeout_at},
};
use tokio_tungstenite::tungstenite::Message;

use crate::{printer::Printer, terminal};

/// Ctrl+\, the key that leaves a session running.
const DETACH: u8 = 0x1c;
/// What a terminal makes of the end of input.
const END_OF_INPUT: u8 = 0x04;
/// Bytes of input read at a time.
const PIECE: usize = 16 << 10;
/// Most input that waits for the connection while the keys are still looked at.
const MAX_PENDING: usize = 1 << 20;
/// Messages that wait to be written.
const QUEUE: usize = 8;
/// After so long without a word from the daemon it is asked whether it is there.
const ASK_AFTER: Duration = Duration::from_secs(30);
/// After so long without an answer it is not.
const GIVE_UP_AFTER: Duration = Duration::from_secs(30);
/// Longest wait for the last words to be written.
const FAREWELL: Duration = Duration::from_secs(1);

/// How an attachment ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum End {
    /// The program ended with this status.
    Exit(i32),
    /// The user left.
    Left,
    /// The session goes on without this client, for this reason.
    Detached(String),
    /// The daemon or the way to it has gone.
    Lost,
    /// This process was told to end.
    Signalled(u8),
}

/// A connection to a session.
pub(super) struct Attachment {
    /// The session's id.
    pub(super) session: String,
    output: SplitStream<WebSocket>,
    input: mpsc::Sender<Message>,
    writer: JoinHandle<()>,
}

/// What the loop waits for.
enum Happened {
    Typed(io::Result<usize>),
    Room,
    Said(Option<Message>),
    Silence,
    Resized,
    Signalled(u8),
}

impl Attachment {
    /// Waits for the daemon to say which session it is.
    pub(super) async fn join(socket: WebSocket) -> Result<Self> {
        let (sink, mut output) = socket.split();
        let session = loop {
            let message = output.next().await.and_then(Result::ok).ok_or(ClientError::StreamCut)?;
            let Message::Text(text) = message else { continue };
            match parse(text.as_str())? {
                ServerMessage::Session { session_id, .. } => break session_id,
                ServerMessage::Error(body) => return Err(ClientError::Api(Box::new(body)).into()),
                _ => {}
            }
        };
        let (input, messages) = mpsc::channel(QUEUE);
        // Writing must not keep the keys from being read.
        let writer = tokio::spawn(write(sink, messages));
        Ok(Self { session, output, input, writer })
    }

    /// Passes keys and output on until one side has enough. `interactive`: stdin is a terminal.
    pub(super) async fn run(&mut self, interactive: bool, printer: &Printer) -> Result<End> {
        let end = self.pass_on(interactive, printer).await;
        if matches!(end, Ok(End::Left | End::Signalled(_))) {
            // The daemon finds out anyway; this way it does so at once.
            let _ = self.input.try_send(Message::Close(None));
        }
        let (input, _) = mpsc::channel(1);
        self.input = input;
        if timeout_at(Instant::now() + FAREWELL, &mut self.writer).await.is_err() {
            self.writer.abort();
        }
        end
    }

    async fn pass_on(&mut self, interactive: bool, printer: &Printer) -> Result<End> {
        let mut stdin = tokio::io::stdin();
        let mut signals = Signals::new()?;
        let mut resized = signal(SignalKind::window_change()).context("wait for signals")?;
        let mut buffer = vec![0; PIECE];
        let mut keys = Keys { pending: BytesMut::new(), open: true, line_open: false };
        let mut resize = false;
        let mut asked = false;
        let mut deadline = Instant::now() + ASK_AFTER;
        loop {
            let waiting = resize || !keys.pending.is_empty();
            let happened = tokio::select! {
                number = signals.ending() => Happened::Signalled(number),
                _ = resized.recv(), if interactive => Happened::Resized,
                message = timeout_at(deadline, self.output.next()) => match message {
                    Ok(message) => Happened::Said(message.and_then(Result::ok)),
                    Err(_) => Happened::Silence,
                },
                permit = self.input.reserve(), if waiting => {
                    let Ok(permit) = permit else { return Ok(End::Lost) };
                    permit.send(next_message(&mut resize, &mut keys)?);
                    Happened::Room
                },
                read = stdin.read(&mut buffer), if keys.wanted() => Happened::Typed(read),
            };
            match happened {
                Happened::Room => {}
                Happened::Resized => resize = true,
                Happened::Signalled(number) => return Ok(End::Signalled(number)),
                Happened::Silence if asked => return Ok(End::Lost),
                Happened::Silence => {
                    asked = true;
                    deadline = Instant::now() + GIVE_UP_AFTER;
                    // If there is no room for it, it is not read there either.
                    let _ = self.input.try_send(Message::Ping(Bytes::new()));
                }
                Happened::Said(None) => return Ok(End::Lost),
                Happened::Said(Some(message)) => {
                    (asked, deadline) = (false, Instant::now() + ASK_AFTER);
                    if let Some(end) = said(message, printer)? {
                        return Ok(end);
                    }
                }
                Happened::Typed(read) => {
                    let length = read.context("read stdin")?;
                    if interactive && is_detach(&buffer[..length]) {
                        return Ok(End::Left);
                    }
                    if interactive && length == 0 {
                        // The terminal has gone.
                        return Ok(End::Left);
                    }
                    keys.typed(&buffer[..length]);
                }
            }
        }
    }
}

/// What comes from the daemon; the end if this is it.
fn said(message: Message, printer: &Printer) -> Result<Option<End>> {
    match message {
        Message::Binary(bytes) => printer.bytes(&bytes)?,
        Message::Text(text) => match parse(text.as_str())? {
            ServerMessage::Exit { exit_code } => return Ok(Some(End::Exit(exit_code))),
            ServerMessage::Detached { reason } => return Ok(Some(End::Detached(reason))),
            ServerMessage::Error(body) => return Err(ClientError::Api(Box::new(body)).into()),
            // Of shared terminals, which this is none of, and of a newer daemon.
            ServerMessage::Session { .. }
            | ServerMessage::Connected(_)
            | ServerMessage::Resized { .. }
            | ServerMessage::Skipped { .. }
            | ServerMessage::Unknown => {}
        },
        Message::Close(_) => return Ok(Some(End::Lost)),
        Message::Ping(_) | Message::Pong(_) | Message::Frame(_) => {}
    }
    Ok(None)
}

fn parse(text: &str) -> Result<ServerMessage> {
    let parsed = serde_json::from_str(text);
    Ok(parsed.map_err(|error| ClientError::BadAnswer(error.to_string()))?)
}

/// Ctrl+\ is the key only if it was pressed alone; in what is pasted it is a byte as any other.
fn is_detach(typed: &[u8]) -> bool {
    typed == [DETACH]
}

/// Input on its way.
struct Keys {
    pending: BytesMut,
    /// Whether there may be more.
    open: bool,
    /// Whether the last line has no end.
    line_open: bool,
}

impl Keys {
    fn wanted(&self) -> bool {
        self.open && self.pending.len() < MAX_PENDING
    }

    /// Takes what was read; nothing means that there is no more.
    fn typed(&mut self, bytes: &[u8]) {
        match bytes.last() {
            Some(last) => {
                self.pending.extend_from_slice(bytes);
                self.line_open = *last != b'\n';
            }
            None => {
                self.open = false;
                // After half a line, the first one only passes on what there is.
                let count = if self.line_open { 2 } else { 1 };
                self.pending.extend_from_slice(&[END_OF_INPUT; 2][..count]);
            }
        }
    }
}

/// What is to be said next: there is something.
fn next_message(resize: &mut bool, keys: &mut Keys) -> Result<Message> {
    if std::mem::take(resize)
        && let Some((rows, cols)) = terminal::size(io::stdout())
    {
        let text = serde_json::to_string(&ClientMessage::Resize { rows, cols });
        return Ok(Message::text(text.context("encode the size")?));
    }
    let length = keys.pending.len().min(PIECE);
    Ok(Message::Binary(keys.pending.split_to(length).freeze()))
}

async fn write(mut sink: SplitSink<WebSocket, Message>, mut messages: mpsc::Receiver<Message>) {
    while let Some(message) = messages.recv().await {
        if sink.send(message).await.is_err() {
            return;
        }
    }
}

/// Signals that end this process.
struct Signals {
    interrupt: Signal,
    terminate: Signal,
    hang_up: Signal,
}

impl Signals {
    fn new() -> Result<Self> {
        let signal = |kind| signal(kind).context("wait for signals");
        Ok(Self {
            interrupt: signal(SignalKind::interrupt())?,
            terminate: signal(SignalKind::terminate())?,
            hang_up: signal(SignalKind::hangup())?,
        })
    }

    /// The number of the signal that ends this process.
    async fn ending(&mut self) -> u8 {
        tokio::select! {
            _ = self.interrupt.recv() => 2,
            _ = self.terminate.recv() => 15,
            _ = self.hang_up.recv() => 1,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_key_alone_leaves() {
        assert!(is_detach(b"\x1c"));
        assert!(!is_detach(b"a\x1c") && !is_detach(b"\x1c\x1c") && !is_detach(b""));
    }

    #[test]
    fn the_end_of_input_is_what_a_terminal_would_make_of_it() {
        for (typed, sent) in [("ls\n", &b"ls\n\x04"[..]), ("ls", b"ls\x04\x04"), ("", b"\x04")] {
            let mut keys = Keys { pending: BytesMut::new(), open: true, line_open: false };
            if !typed.is_empty() {
                keys.typed(typed.as_bytes());
            }
            keys.typed(b"");
            assert_eq!((&keys.pending[..], keys.wanted()), (sent, false), "{typed:?}");
        }
    }

    #[test]
    fn a_paste_goes_out_in_pieces() {
        let mut keys = Keys { pending: BytesMut::new(), open: true, line_open: false };
        keys.typed(&vec![b'x'; PIECE + 1]);
        let mut resize = false;
        for length in [PIECE, 1] {
            let Message::Binary(piece) = next_message(&mut resize, &mut keys).unwrap() else {
                panic!()
            };
            assert_eq!(piece.len(), length);
        }
    }
}
