//! A running command as its caller sees it.

use proto::{
    frame::FrameKind,
    message::{Exec, Exited, Request, Response},
    mux::{RecvHalf, SendHalf, Session},
};

use super::{
    answer, ask, cut_off,
    lost::{Trace, Witness},
    unexpected,
};
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

/// A command that was started.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Started {
    /// Its process id in the guest.
    pub pid: i32,
    /// The job that it is, or becomes if the session with the agent is lost; empty if the agent
    /// knows no jobs.
    pub job: String,
}

/// A running command. When this and its [`ExecInput`] are dropped, its process group is killed.
#[derive(Debug)]
pub struct Execution {
    started: Started,
    send: Option<SendHalf>,
    recv: RecvHalf,
    witness: Witness,
    _busy: Busy,
}

/// The way to a command's standard input, usable while its output is read elsewhere.
#[derive(Debug)]
pub struct ExecInput {
    send: SendHalf,
}

impl Execution {
    pub(crate) async fn start(
        session: &Session,
        exec: Exec,
        witness: Witness,
        mut busy: Busy,
    ) -> Result<Self> {
        let mut stream = session.open().await?;
        stream.send_json(&Request::Exec(exec)).await?;
        match answer(&mut stream).await? {
            Response::Started { pid, job } => {
                let (send, recv) = stream.split();
                let started = Started { pid, job };
                busy.begun();
                Ok(Self { started, send: Some(send), recv, witness, _busy: busy })
            }
            other => Err(unexpected(&other)),
        }
    }

    /// What was started.
    pub fn started(&self) -> &Started {
        &self.started
    }

    /// The next event. [`ExecEvent::Exited`] is the last; a command never ends without it or an
    /// error. May be abandoned.
    pub async fn next(&mut self) -> Result<ExecEvent> {
        let frame = match self.recv.recv().await {
            Ok(frame) => frame.ok_or_else(cut_off)?,
            Err(error) => return Err(self.witness.explain(error, &self.trace()).await),
        };
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

    fn trace(&self) -> Trace {
        let job = &self.started.job;
        if job.is_empty() { Trace::None } else { Trace::Job(job.clone()) }
    }
}

impl ExecInput {
    /// Sends input; an empty slice closes it. Waits while the command does not read.
    pub async fn send(&mut self, data: &[u8]) -> Result<()> {
        self.send.send_data(FrameKind::Stdin, data).await.map_err(Error::from)
    }
}

/// Starts a detached job.
pub(crate) async fn start_job(session: &Session, exec: Exec) -> Result<Started> {
    match ask(session, &Request::Exec(exec)).await? {
        (_, Response::Started { pid, job }) => Ok(Started { pid, job }),
        (_, other) => Err(unexpected(&other)),
    }
}

#[cfg(test)]
mod tests {
    use proto::mux::Stream;

    use super::*;
    use crate::{
        activity::{Activity, Work},
        guest::{
            lost::tests::witness,
            testing::{FakeAgent, published},
        },
        model::Status,
    };

    fn busy() -> Busy {
        Activity::new().begin(Work::Command).unwrap()
    }

    async fn started(stream: &mut Stream) {
        let started = Response::Started { pid: 7, job: "j1".to_owned() };
        stream.send_json(&started).await.unwrap();
    }

    #[tokio::test]
    async fn input_goes_in_while_output_comes_out() {
        let agent = FakeAgent::new(async |_, mut stream| {
            started(&mut stream).await;
            while let Some(frame) = stream.recv().await.unwrap() {
                if frame.payload.is_empty() {
                    break;
                }
                stream.send_data(FrameKind::Stdout, &frame.payload).await.unwrap();
            }
            let exited = Exited { code: 0, signal: None, timed_out: false };
            stream.send_json(&Response::Exited(exited)).await.unwrap();
        })
        .await;
        let (witness, _publish) = witness(&agent.session);
        let mut cat =
            Execution::start(&agent.session, Exec::default(), witness, busy()).await.unwrap();
        assert_eq!(*cat.started(), Started { pid: 7, job: "j1".to_owned() });
        let mut input = cat.take_input().unwrap();
        // More than all buffers on the way hold.
        let feed = async {
            for _ in 0..64 {
                input.send(&[b'x'; 64 << 10]).await.unwrap();
            }
            input.send(&[]).await.unwrap();
        };
        let read = async {
            let mut read = 0;
            loop {
                match cat.next().await.unwrap() {
                    ExecEvent::Stdout(data) => read += data.len(),
                    ExecEvent::Stderr(_) => unreachable!(),
                    ExecEvent::Exited(_) => return read,
                }
            }
        };
        let ((), read) = tokio::join!(feed, read);
        assert_eq!(read, 64 * (64 << 10));
    }

    #[tokio::test]
    async fn a_stop_in_the_middle_says_where_the_command_goes_on() {
        let agent = FakeAgent::new(async |_, mut stream| {
            started(&mut stream).await;
            let _stream = stream;
            std::future::pending::<()>().await;
        })
        .await;
        let (witness, publish) = witness(&agent.session);
        let mut command =
            Execution::start(&agent.session, Exec::default(), witness, busy()).await.unwrap();
        agent.hang_up().await;
        publish.send_replace(published(Status::Stopped, None));
        let error = command.next().await.unwrap_err();
        assert_eq!(error.kind, crate::Kind::AgentUnreachable);
        assert!(error.hint.unwrap().contains("bhatti logs box j1"));
    }

    #[tokio::test]
    async fn the_agent_notices_only_when_output_and_input_are_dropped() {
        let (gone, mut noticed) = tokio::sync::mpsc::channel(1);
        let agent = FakeAgent::new(move |_, mut stream: Stream| {
            let gone = gone.clone();
            async move {
                started(&mut stream).await;
                assert_eq!(stream.recv().await.unwrap(), None);
                gone.send(()).await.unwrap();
            }
        })
        .await;
        let (witness, _publish) = witness(&agent.session);
        let mut command =
            Execution::start(&agent.session, Exec::default(), witness, busy()).await.unwrap();
        let input = command.take_input();
        drop(command);
        noticed.try_recv().unwrap_err();
        drop(input);
        noticed.recv().await.unwrap();
    }
}
