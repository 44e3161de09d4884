//! Clients of sessions.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use proto::frame::{Frame, FrameKind};
use proto::message::{
    Attach, AttachControl, DetachReason, NewSession, Response, RestartPolicy, Target, WindowSize,
    WireError,
};
use proto::mux::{MuxError, RecvHalf, SendHalf};
use tokio::sync::Notify;
use tokio::time::Instant;

use super::init::Restart;
use super::keeper::Keeper;
use super::ring::Ring;
use super::terminal::{on_pipes, on_terminal};
use super::{IDLE_MAX, Next, Session, State};
use crate::activity::until;
use crate::agent::Agent;
use crate::exec::command::Command;
use crate::jobs::now;

/// One that has been let in.
pub(super) struct Entered {
    pub(super) session: Arc<Session>,
    pub(super) generation: u64,
}

/// Serves one [`Attach`] until the client leaves or the session ends.
pub(crate) async fn serve(
    agent: &Arc<Agent>,
    request: &Attach,
    mut send: SendHalf,
    recv: RecvHalf,
) {
    let (entered, attached) = match enter(agent, request) {
        Ok(entered) => entered,
        Err(error) => {
            // Whoever asked may be gone.
            let _ = send.send_json(&Response::Error(error)).await;
            return;
        }
    };
    if talk(agent, &entered, attached, send, recv).await {
        agent.sessions.forget(&entered.session);
    }
}

/// Lets one that is in see and be heard until either has enough; whether it knows how the session
/// ended.
pub(super) async fn talk(
    agent: &Agent,
    entered: &Entered,
    hello: Response,
    mut send: SendHalf,
    mut recv: RecvHalf,
) -> bool {
    let Entered { session, generation } = entered;
    let told = tokio::select! {
        biased;
        told = tell(entered, &hello, &mut send) => told,
        () = listen(agent, session, *generation, &mut recv) => Ok(false),
    };
    session.leave(*generation);
    matches!(told, Ok(true))
}

fn enter(agent: &Arc<Agent>, request: &Attach) -> Result<(Entered, Response), WireError> {
    let found = match &request.target {
        Target::Session { id, if_detached } => Some((agent.sessions.find(id)?, !if_detached)),
        Target::NewestOr(_) => agent.sessions.newest_detached().map(|found| (found, false)),
        Target::New(_) => None,
    };
    let (session, take_over, created) = match (&request.target, found) {
        (_, Some((session, take_over))) => (session, take_over, false),
        (Target::New(new) | Target::NewestOr(new), None) => {
            (create(agent, None, new, request.size)?, false, true)
        }
        (Target::Session { id, .. }, None) => (agent.sessions.find(id)?, false, false),
    };
    let (generation, replay) = session.attach(agent, take_over)?;
    if let Some(size) = request.size.filter(|_| !created) {
        session.resize(generation, size);
    }
    let attached = Response::Attached { session: session.info(), created, replay };
    Ok((Entered { session, generation }, attached))
}

/// Starts a session under `id`, or under the next one that is free.
///
/// # Errors
/// There are too many, or the command cannot be started.
pub(super) fn create(
    agent: &Arc<Agent>,
    id: Option<&str>,
    request: &NewSession,
    size: Option<WindowSize>,
) -> Result<Arc<Session>, WireError> {
    agent.sessions.check_limit()?;
    let command = Command::for_session(agent, request)?;
    let id = id.map_or_else(|| agent.sessions.next_id(), str::to_owned);
    launch(agent, &id, request, size, command, None)
}

/// Starts a session.
///
/// # Errors
/// The command cannot be started.
pub(super) fn launch(
    agent: &Arc<Agent>,
    id: &str,
    request: &NewSession,
    size: Option<WindowSize>,
    command: Command,
    restart: Option<RestartPolicy>,
) -> Result<Arc<Session>, WireError> {
    let (ends, program) =
        if request.tty { on_terminal(agent, &command, size)? } else { on_pipes(agent, &command)? };
    let state = State {
        ring: Ring::default(),
        client: None,
        joined: Vec::new(),
        generation: 0,
        size: ends.tty.as_ref().and_then(|tty| tty.terminal.size()),
        input: VecDeque::new(),
        input_ended: false,
        input_closed: false,
        terminal: ends.tty.as_ref().map(|tty| tty.terminal.clone()),
        program: program.started,
        restarts: 0,
        exited: None,
        idle_since: Instant::now(),
        hung_up: None,
        killed: false,
        signalled: None,
    };
    let max_idle = request.max_idle_ms.map_or(IDLE_MAX, Duration::from_millis);
    let session = Arc::new(Session {
        id: id.to_owned(),
        argv: command.shown(),
        tty: request.tty,
        created_at: now(),
        max_idle: Some(max_idle).filter(|max| !max.is_zero()),
        told: Notify::new(),
        wake: Notify::new(),
        state: Mutex::new(state),
    });
    agent.sessions.add(&session);
    let keeper = Keeper {
        agent: Arc::clone(agent),
        session: Arc::clone(&session),
        ends,
        restart: restart.map(|policy| Restart::new(command, policy)),
        open: true,
    };
    tokio::spawn(keeper.keep(program));
    Ok(session)
}

/// Tells what was and what comes; whether how the session ended is known then.
async fn tell(entered: &Entered, hello: &Response, send: &mut SendHalf) -> Result<bool, MuxError> {
    let Entered { session, generation } = entered;
    send.send_json(hello).await?;
    loop {
        match until(&session.told, || session.next(*generation)).await {
            Next::Output(piece) => send.send_data(FrameKind::Stdout, &piece).await?,
            Next::Resized(size) => send.send_json(&Response::Resized(size)).await?,
            Next::Skipped(bytes) => send.send_json(&Response::Skipped { bytes }).await?,
            Next::Exited(exited) => {
                send.send_json(&Response::Exited(exited)).await?;
                return Ok(true);
            }
            Next::TakenOver => {
                let reason = DetachReason::TakenOver;
                send.send_json(&Response::Detached { reason }).await?;
                return Ok(false);
            }
        }
    }
}

/// Takes what the client says; ends only when it is gone.
async fn listen(agent: &Agent, session: &Session, generation: u64, recv: &mut RecvHalf) {
    while let Ok(Some(Frame { kind, payload })) = recv.recv().await {
        match kind {
            FrameKind::Stdin => {
                agent.touch();
                let taken = || session.take_input(generation, &payload).then_some(());
                tokio::select! {
                    () = until(&session.told, taken) => {}
                    // A program that does not read must not hide that the client has left.
                    () = recv.closed() => return,
                }
            }
            FrameKind::Json => match serde_json::from_slice(&payload) {
                Ok(AttachControl::Resize(size)) => session.resize(generation, size),
                // Something that a newer host can say.
                Err(_) => {}
            },
            FrameKind::Stdout | FrameKind::Stderr | FrameKind::Data => {}
        }
    }
}
