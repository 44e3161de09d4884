//! Sessions, which a client can leave and come back to.

use proto::{
    frame::FrameKind,
    message::{
        Attach, AttachControl, DetachReason, Exited, Join, Request, Response, SessionInfo,
        WindowSize,
    },
    mux::{RecvHalf, SendHalf, Session},
};

use super::{
    ask, cut_off,
    lost::{Trace, Witness},
    unexpected,
};
use crate::{Error, Result, activity::Busy};

/// What a client of a session is told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AttachEvent {
    /// Bytes of output.
    Output(Vec<u8>),
    /// The program has ended, and with it the session; nothing follows.
    Exited(Exited),
    /// The session goes on without this client; nothing follows.
    Detached(DetachReason),
    /// The terminal of a session that was joined has another size.
    Resized(WindowSize),
    /// So many bytes of output came too fast for whoever has joined, and are left out here.
    Skipped(u64),
}

/// A client's place in a session. When this and its [`AttachInput`] are dropped the session goes on
/// without a client.
#[derive(Debug)]
pub struct Attachment {
    session: SessionInfo,
    created: bool,
    replay: u64,
    joined: Joined,
    send: Option<SendHalf>,
    recv: RecvHalf,
    witness: Witness,
    _busy: Busy,
}

/// What only those are told who join a session.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Joined {
    /// Cursor of the first byte that comes.
    pub start: u64,
    /// Size of the terminal.
    pub size: Option<WindowSize>,
}

/// The way into a session, usable while its output is read elsewhere.
#[derive(Debug)]
pub struct AttachInput {
    send: SendHalf,
}

impl Attachment {
    pub(crate) async fn start(
        session: &Session,
        attach: Attach,
        witness: Witness,
        mut busy: Busy,
    ) -> Result<Self> {
        match ask(session, &Request::Attach(attach)).await? {
            (stream, Response::Attached { session, created, replay }) => {
                let (send, recv) = stream.split();
                let (send, joined) = (Some(send), Joined::default());
                busy.begun();
                Ok(Self { session, created, replay, joined, send, recv, witness, _busy: busy })
            }
            (_, other) => Err(unexpected(&other)),
        }
    }

    pub(crate) async fn join(
        session: &Session,
        join: Join,
        witness: Witness,
        mut busy: Busy,
    ) -> Result<Self> {
        match ask(session, &Request::Join(join)).await? {
            (stream, Response::Joined { session, created, start, replay, size }) => {
                let (send, recv) = stream.split();
                let (send, joined) = (Some(send), Joined { start, size });
                busy.begun();
                Ok(Self { session, created, replay, joined, send, recv, witness, _busy: busy })
            }
            (_, other) => Err(unexpected(&other)),
        }
    }

    /// What it was told besides if it has joined.
    pub fn joined(&self) -> Joined {
        self.joined
    }

    /// The session.
    pub fn session(&self) -> &SessionInfo {
        &self.session
    }

    /// Whether it was made for this client.
    pub fn created(&self) -> bool {
        self.created
    }

    /// How many of the bytes that come are old output.
    pub fn replay(&self) -> u64 {
        self.replay
    }

    /// The next event. The last one is not [`AttachEvent::Output`], or an error. May be abandoned.
    pub async fn next(&mut self) -> Result<AttachEvent> {
        let frame = match self.recv.recv().await {
            Ok(frame) => frame.ok_or_else(cut_off)?,
            Err(error) => {
                let trace = Trace::Session(self.session.id.clone());
                return Err(self.witness.explain(error, &trace).await);
            }
        };
        match frame.kind {
            FrameKind::Stdout | FrameKind::Stderr => Ok(AttachEvent::Output(frame.payload)),
            FrameKind::Json => match serde_json::from_slice(&frame.payload) {
                Ok(Response::Exited(exited)) => Ok(AttachEvent::Exited(exited)),
                Ok(Response::Detached { reason }) => Ok(AttachEvent::Detached(reason)),
                Ok(Response::Resized(size)) => Ok(AttachEvent::Resized(size)),
                Ok(Response::Skipped { bytes }) => Ok(AttachEvent::Skipped(bytes)),
                Ok(Response::Error(error)) => Err(error.into()),
                Ok(other) => Err(unexpected(&other)),
                Err(error) => Err(cut_off().caused_by(error)),
            },
            FrameKind::Stdin | FrameKind::Data => Err(cut_off()),
        }
    }

    /// The way in; `None` if it was taken already.
    pub fn take_input(&mut self) -> Option<AttachInput> {
        self.send.take().map(|send| AttachInput { send })
    }
}

impl AttachInput {
    /// Sends input; waits while the program does not read.
    pub async fn send(&mut self, data: &[u8]) -> Result<()> {
        // An empty frame would close the input.
        if data.is_empty() {
            return Ok(());
        }
        self.send.send_data(FrameKind::Stdin, data).await.map_err(Error::from)
    }

    /// Closes the input of a session without a terminal.
    pub async fn close(&mut self) -> Result<()> {
        self.send.send_data(FrameKind::Stdin, &[]).await.map_err(Error::from)
    }

    /// Tells the size of the client's terminal.
    pub async fn resize(&mut self, size: WindowSize) -> Result<()> {
        self.send.send_json(&AttachControl::Resize(size)).await.map_err(Error::from)
    }
}

/// All sessions, oldest first.
pub(crate) async fn sessions(session: &Session) -> Result<Vec<SessionInfo>> {
    match ask(session, &Request::Sessions).await? {
        (_, Response::Sessions { sessions }) => Ok(sessions),
        (_, other) => Err(unexpected(&other)),
    }
}

#[cfg(test)]
mod tests {
    use proto::{message::Target, mux::Stream};

    use super::*;
    use crate::{
        Kind,
        activity::{Activity, Work},
        guest::{
            lost::tests::witness,
            testing::{FakeAgent, published},
        },
        model::Status,
    };

    fn info() -> SessionInfo {
        SessionInfo {
            id: "s1".to_owned(),
            argv: vec!["sh".to_owned()],
            tty: true,
            pid: 5,
            exited: None,
            attached: true,
            created_at: 0,
            restarts: 0,
            joined: 0,
        }
    }

    async fn attached(stream: &mut Stream) {
        let attached = Response::Attached { session: info(), created: false, replay: 3 };
        stream.send_json(&attached).await.unwrap();
        stream.send_data(FrameKind::Stdout, b"old").await.unwrap();
    }

    async fn attach(agent: &FakeAgent, witness: Witness) -> Attachment {
        let target = Target::Session { id: "s1".to_owned(), if_detached: false };
        let busy = Activity::new().begin(Work::Attachment).unwrap();
        let attach = Attach { target, size: None };
        Attachment::start(&agent.session, attach, witness, busy).await.unwrap()
    }

    #[tokio::test]
    async fn a_client_types_resizes_and_is_taken_over() {
        let agent = FakeAgent::new(async |_, mut stream| {
            attached(&mut stream).await;
            let typed = stream.recv().await.unwrap().unwrap();
            assert_eq!((typed.kind, typed.payload.as_slice()), (FrameKind::Stdin, &b"ls\n"[..]));
            let AttachControl::Resize(size) = stream.recv_json().await.unwrap().unwrap();
            assert_eq!(size, WindowSize { rows: 2, cols: 3 });
            assert!(stream.recv().await.unwrap().unwrap().payload.is_empty());
            let reason = DetachReason::TakenOver;
            stream.send_json(&Response::Detached { reason }).await.unwrap();
        })
        .await;
        let (witness, _publish) = witness(&agent.session);
        let mut client = attach(&agent, witness).await;
        assert_eq!(
            (client.session().id.as_str(), client.created(), client.replay()),
            ("s1", false, 3)
        );
        let mut input = client.take_input().unwrap();
        assert!(client.take_input().is_none());
        input.send(b"").await.unwrap();
        input.send(b"ls\n").await.unwrap();
        input.resize(WindowSize { rows: 2, cols: 3 }).await.unwrap();
        input.close().await.unwrap();
        assert_eq!(client.next().await.unwrap(), AttachEvent::Output(b"old".to_vec()));
        let detached = AttachEvent::Detached(DetachReason::TakenOver);
        assert_eq!(client.next().await.unwrap(), detached);
    }

    #[tokio::test]
    async fn whoever_joins_is_told_of_sizes_and_of_what_is_left_out() {
        const SIZE: WindowSize = WindowSize { rows: 2, cols: 3 };
        let agent = FakeAgent::new(async |_, mut stream| {
            let session = info();
            let (created, start, replay, size) = (true, 7, 3, Some(SIZE));
            let joined = Response::Joined { session, created, start, replay, size };
            stream.send_json(&joined).await.unwrap();
            stream.send_json(&Response::Skipped { bytes: 9 }).await.unwrap();
            stream.send_json(&Response::Resized(WindowSize { rows: 4, cols: 5 })).await.unwrap();
        })
        .await;
        let (witness, _publish) = witness(&agent.session);
        let busy = Activity::new().begin(Work::Attachment).unwrap();
        let session = "s1".to_owned();
        let join = Join { session, new: None, size: None, input: false, resume: None };
        let mut joined = Attachment::join(&agent.session, join, witness, busy).await.unwrap();
        assert_eq!(joined.joined(), Joined { start: 7, size: Some(SIZE) });
        assert_eq!((joined.created(), joined.replay()), (true, 3));
        assert_eq!(joined.next().await.unwrap(), AttachEvent::Skipped(9));
        let other = WindowSize { rows: 4, cols: 5 };
        assert_eq!(joined.next().await.unwrap(), AttachEvent::Resized(other));
    }

    #[tokio::test]
    async fn a_stop_in_the_middle_says_that_the_session_goes_on() {
        let agent = FakeAgent::new(async |_, mut stream| {
            attached(&mut stream).await;
            let _stream = stream;
            std::future::pending::<()>().await;
        })
        .await;
        let (witness, publish) = witness(&agent.session);
        let mut client = attach(&agent, witness).await;
        client.next().await.unwrap();
        agent.hang_up().await;
        publish.send_replace(published(Status::Stopped, None));
        let error = client.next().await.unwrap_err();
        assert_eq!(error.kind, Kind::AgentUnreachable);
        assert!(error.hint.unwrap().contains("session goes on when the sandbox is started again"));
    }
}
