//! A session and a client, over a WebSocket.
//!
//! ```text
//!  client ──► stream ──► input ──► guest     waits while the program does not read
//!         ◄── sink ◄── output ◄──            waits while the client does not read
//! ```
//! Neither direction waits for the other. Whoever ends first ends both.

use std::{future::Future, pin::pin, sync::Arc, time::Duration};

use api::{ClientMessage, ErrorBody, ErrorCode, ServerMessage};
use bytes::Bytes;
use futures_util::{Sink, SinkExt as _, Stream, StreamExt as _};
use orchestrator::{AttachEvent, AttachInput, Attachment, message as guest};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    sync::watch,
    time::{Instant, MissedTickBehavior, interval_at, timeout},
};
use tokio_tungstenite::{
    WebSocketStream,
    tungstenite::{
        Error as SocketError, Message,
        protocol::{CloseFrame, Role, WebSocketConfig, frame::coding::CloseCode},
    },
};

use crate::{
    connections::stopped,
    failure::Failure,
    heard::{Heard, Listening},
    websocket::Socket,
};

/// Most bytes of one message of a client.
const MESSAGE_MAX: usize = 1 << 20;
/// Bytes that are read from a client at once.
const READ: usize = 16 << 10;

/// How long things may take.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Times {
    /// How often a client is asked for a sign of life.
    pub(crate) ping: Duration,
    /// After how long without one it is gone.
    pub(crate) gone: Duration,
    /// How long the closing handshake may take.
    pub(crate) close: Duration,
}

impl Default for Times {
    fn default() -> Self {
        let (ping, gone) = (Duration::from_secs(30), Duration::from_secs(90));
        // Shorter than what requests get when the daemon ends.
        Self { ping, gone, close: Duration::from_secs(5) }
    }
}

/// A client's place in a session, as [`Attachment`] is.
pub(crate) trait Attached: Send {
    /// The way in.
    type Input: Typing;

    /// See [`Attachment::next`].
    fn next(&mut self) -> impl Future<Output = orchestrator::Result<AttachEvent>> + Send;

    /// See [`Attachment::take_input`].
    fn take_input(&mut self) -> Option<Self::Input>;
}

/// The way into a session, as [`AttachInput`] is.
pub(crate) trait Typing: Send {
    /// Acts on what the client said; waits while the program does not read.
    fn act(&mut self, said: Said) -> impl Future<Output = orchestrator::Result<()>> + Send;
}

impl Attached for Attachment {
    type Input = AttachInput;

    fn next(&mut self) -> impl Future<Output = orchestrator::Result<AttachEvent>> + Send {
        Self::next(self)
    }

    fn take_input(&mut self) -> Option<AttachInput> {
        Self::take_input(self)
    }
}

impl Typing for AttachInput {
    async fn act(&mut self, said: Said) -> orchestrator::Result<()> {
        match said {
            Said::Input(data) => self.send(&data).await,
            Said::Resize(size) => self.resize(size).await,
            Said::Eof => self.close().await,
        }
    }
}

/// What a client says that concerns the program.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Said {
    /// Bytes of input, at least one.
    Input(Bytes),
    /// Its terminal has this size.
    Resize(guest::WindowSize),
    /// There is no more input.
    Eof,
}

/// A place and what goes with it.
pub(crate) struct Place<'a, A> {
    pub(crate) attachment: A,
    /// The first message.
    pub(crate) hello: ServerMessage,
    /// Whether the session has a terminal.
    pub(crate) tty: bool,
    /// Makes what the client is told of a failure.
    pub(crate) explain: &'a (dyn Fn(orchestrator::Error) -> ErrorBody + Sync),
}

/// How it ends.
#[derive(Debug, PartialEq, Eq)]
enum End {
    /// With a last message.
    Told(ServerMessage),
    /// By a close frame with that code.
    Close(CloseCode),
    /// The client is gone, nobody hears us.
    Left,
}

/// A WebSocket over which a client is served.
pub(crate) struct Talk<S = Socket> {
    socket: WebSocketStream<Listening<S>>,
    heard: Arc<Heard>,
    stop: watch::Receiver<bool>,
    times: Times,
}

impl Talk {
    pub(crate) async fn new(io: Socket, stop: watch::Receiver<bool>) -> Self {
        Self::over(io, stop, Times::default()).await
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin + Send> Talk<S> {
    async fn over(io: S, stop: watch::Receiver<bool>, times: Times) -> Self {
        let (io, heard) = Listening::new(io);
        let config = WebSocketConfig::default()
            .read_buffer_size(READ)
            .max_message_size(Some(MESSAGE_MAX))
            .max_frame_size(Some(MESSAGE_MAX));
        let socket = WebSocketStream::from_raw_socket(io, Role::Server, Some(config)).await;
        Self { socket, heard, stop, times }
    }

    /// The client's first message, or why there is none. `None` if there is nobody to tell.
    pub(crate) async fn first(&mut self, limit: Duration) -> Option<Result<Bytes, Failure>> {
        let message = async {
            loop {
                match self.socket.next().await {
                    Some(Ok(Message::Text(text))) => return Some(Ok(text.into())),
                    Some(Ok(Message::Binary(data))) => return Some(Ok(data)),
                    Some(Ok(_)) => {}
                    Some(Err(error)) => match end_of(&error) {
                        End::Close(code) => return Some(Err(End::Close(code))),
                        _ => return None,
                    },
                    None => return None,
                }
            }
        };
        let end = tokio::select! {
            message = timeout(limit, message) => match message {
                Ok(Some(Ok(message))) => return Some(Ok(message)),
                Ok(Some(Err(end))) => end,
                Ok(None) => return None,
                Err(_) => {
                    let told = format!("no first message came within {} s", limit.as_secs());
                    return Some(Err(Failure::new(ErrorCode::Timeout, told)));
                }
            },
            () = stopped(&mut self.stop) => End::Close(CloseCode::Away),
        };
        self.finish(end).await;
        None
    }

    /// Tells the client that it cannot be done.
    pub(crate) async fn refuse(mut self, error: ErrorBody) {
        self.finish(End::Told(ServerMessage::Error(error))).await;
    }

    /// Says something before a session is there; whether the client is still there.
    pub(crate) async fn say(&mut self, message: &ServerMessage) -> bool {
        let Self { socket, heard, stop, times } = self;
        tokio::select! {
            said = socket.send(text(message)) => said.is_ok(),
            () = heard.gone(times.gone) => false,
            () = stopped(stop) => false,
        }
    }

    /// Does something for a client that waits, unless that leaves, or `over` says what it is to be
    /// told. What it says meanwhile is not heard. `None` if there is nobody to go on with.
    pub(crate) async fn wait<T>(
        &mut self,
        work: impl Future<Output = T>,
        over: impl Future<Output = ServerMessage>,
    ) -> Option<T> {
        let Self { socket, stop, .. } = self;
        let leaves = async {
            loop {
                match socket.next().await {
                    Some(Ok(_)) => {}
                    Some(Err(error)) => return end_of(&error),
                    None => return End::Left,
                }
            }
        };
        let end = tokio::select! {
            biased;
            done = work => return Some(done),
            told = over => End::Told(told),
            end = leaves => end,
            () = stopped(stop) => End::Close(CloseCode::Away),
        };
        self.finish(end).await;
        None
    }

    /// Connects the client with the session until either has enough.
    pub(crate) async fn serve<A: Attached>(self, place: Place<'_, A>) {
        self.serve_until(place, std::future::pending()).await;
    }

    /// As [`serve`](Self::serve), or until `over` says what the client is to be told last.
    pub(crate) async fn serve_until<A: Attached>(
        mut self,
        place: Place<'_, A>,
        over: impl Future<Output = ServerMessage>,
    ) {
        let Place { mut attachment, hello, tty, explain } = place;
        let Some(typing) = attachment.take_input() else { return };
        let end = {
            let (mut sink, mut stream) = (&mut self.socket).split();
            let output = async {
                if sink.send(text(&hello)).await.is_err() {
                    return End::Left;
                }
                output(&mut sink, &mut attachment, explain, self.times.ping).await
            };
            tokio::select! {
                biased;
                told = over => End::Told(told),
                end = output => end,
                end = input(&mut stream, typing, tty, &self.heard) => end,
                () = self.heard.gone(self.times.gone) => End::Left,
                () = stopped(&mut self.stop) => End::Close(CloseCode::Away),
            }
        };
        // However long the client takes to hear of it, the session is free for another one.
        drop(attachment);
        self.finish(end).await;
    }

    /// Says the last word and waits until the client has heard it. One that reads slowly is waited
    /// for, unless the daemon ends.
    async fn finish(&mut self, end: End) {
        let (told, code) = match end {
            End::Left => return,
            End::Close(code) => (None, code),
            End::Told(message) => {
                let code = close_code(&message);
                (Some(message), code)
            }
        };
        let Self { socket, heard, stop, times } = self;
        let say = async {
            if let Some(message) = &told {
                socket.send(text(message)).await?;
            }
            socket.send(Message::Close(Some(CloseFrame { code, reason: "".into() }))).await
        };
        let out_of_time = async {
            stopped(stop).await;
            let _ = timeout(times.close, std::future::pending::<()>()).await;
        };
        let said = tokio::select! {
            said = say => said.is_ok(),
            () = heard.gone(times.gone) => false,
            () = out_of_time => false,
        };
        if said {
            let answer = async { while let Some(Ok(_)) = socket.next().await {} };
            let _ = timeout(times.close, answer).await;
        }
    }
}

/// From the session to the client.
async fn output<A: Attached>(
    sink: &mut (impl Sink<Message, Error = SocketError> + Unpin),
    attachment: &mut A,
    explain: &(dyn Fn(orchestrator::Error) -> ErrorBody + Sync),
    ping: Duration,
) -> End {
    let mut pings = interval_at(Instant::now() + ping, ping);
    pings.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        let message = tokio::select! {
            event = attachment.next() => match event {
                Ok(AttachEvent::Output(data)) => Message::Binary(data.into()),
                Ok(AttachEvent::Exited(exited)) => {
                    return End::Told(ServerMessage::Exit { exit_code: exited.code });
                }
                Ok(AttachEvent::Resized(size)) => {
                    text(&ServerMessage::Resized { rows: size.rows, cols: size.cols })
                }
                Ok(AttachEvent::Skipped(bytes)) => text(&ServerMessage::Skipped { bytes }),
                Ok(AttachEvent::Detached(guest::DetachReason::TakenOver)) => {
                    let reason = "taken_over".to_owned();
                    return End::Told(ServerMessage::Detached { reason });
                }
                Err(error) => return End::Told(ServerMessage::Error(explain(error))),
            },
            _ = pings.tick() => Message::Ping(Bytes::new()),
        };
        if sink.send(message).await.is_err() {
            return End::Left;
        }
    }
}

/// From the client to the session.
async fn input(
    stream: &mut (impl Stream<Item = Result<Message, SocketError>> + Unpin),
    mut typing: impl Typing,
    tty: bool,
    heard: &Heard,
) -> End {
    loop {
        let message = match stream.next().await {
            Some(Ok(message)) => message,
            Some(Err(error)) => return end_of(&error),
            None => return End::Left,
        };
        if let Some(said) = understand(message, tty) {
            // While the program does not read we do not listen to the client.
            let deaf = heard.deaf();
            // If it has ended, its output says so.
            let _ = pin!(typing.act(said)).await;
            drop(deaf);
        }
    }
}

/// What a message means to the program, if anything.
fn understand(message: Message, tty: bool) -> Option<Said> {
    let data = match message {
        Message::Binary(data) => data,
        Message::Text(text) => match serde_json::from_str(&text) {
            Ok(ClientMessage::Resize { rows, cols }) => {
                let size = guest::WindowSize { rows, cols };
                return (tty && rows > 0 && cols > 0).then_some(Said::Resize(size));
            }
            Ok(ClientMessage::Eof) => return (!tty).then_some(Said::Eof),
            Err(_) => text.into(),
        },
        Message::Ping(_) | Message::Pong(_) | Message::Close(_) | Message::Frame(_) => return None,
    };
    (!data.is_empty()).then_some(Said::Input(data))
}

/// How a connection ends on which that went wrong.
fn end_of(error: &SocketError) -> End {
    match error {
        SocketError::Capacity(_) => End::Close(CloseCode::Size),
        SocketError::Utf8(_) => End::Close(CloseCode::Invalid),
        SocketError::Protocol(_) => End::Close(CloseCode::Protocol),
        _ => End::Left,
    }
}

fn close_code(message: &ServerMessage) -> CloseCode {
    match message {
        ServerMessage::Error(error) if error.code.http_status() >= 500 => CloseCode::Error,
        ServerMessage::Error(_) => CloseCode::Policy,
        _ => CloseCode::Normal,
    }
}

fn text(message: &ServerMessage) -> Message {
    let json = serde_json::to_string(message).unwrap_or_else(|error| {
        tracing::error!("a message has no JSON form: {error}");
        "{}".to_owned()
    });
    Message::text(json)
}

#[cfg(test)]
mod tests;
