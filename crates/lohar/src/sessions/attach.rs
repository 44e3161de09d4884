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

/// A client that has been let in.
struct Entered {
    session: Arc<Session>,
    generation: u64,
    created: bool,
    replay: u64,
}

/// Serves one [`Attach`] until the client leaves or the session ends.
pub(crate) async fn serve(
    agent: &Arc<Agent>,
    request: &Attach,
    mut send: SendHalf,
    mut recv: RecvHalf,
) {
    let entered = match enter(agent, request) {
        Ok(entered) => entered,
        Err(error) => {
            // Whoever asked may be gone.
            let _ = send.send_json(&Response::Error(error)).await;
            return;
        }
    };
    let (session, generation) = (Arc::clone(&entered.session), entered.generation);
    let told = tokio::select! {
        biased;
        told = tell(&entered, &mut send) => told,
        () = listen(agent, &session, generation, &mut recv) => Ok(false),
    };
    session.leave(generation);
    if matches!(told, Ok(true)) {
        agent.sessions.forget(&session);
    }
}

fn enter(agent: &Arc<Agent>, request: &Attach) -> Result<Entered, WireError> {
    let found = match &request.target {
        Target::Session { id, if_detached } => Some((agent.sessions.find(id)?, !if_detached)),
        Target::NewestOr(_) => agent.sessions.newest_detached().map(|found| (found, false)),
        Target::New(_) => None,
    };
    let (session, take_over, created) = match (&request.target, found) {
        (_, Some((session, take_over))) => (session, take_over, false),
        (Target::New(new) | Target::NewestOr(new), None) => {
            (create(agent, new, request.size)?, false, true)
        }
        (Target::Session { id, .. }, None) => (agent.sessions.find(id)?, false, false),
    };
    let (generation, replay) = session.attach(agent, take_over)?;
    if let Some(size) = request.size.filter(|_| !created) {
        session.resize(generation, size);
    }
    Ok(Entered { session, generation, created, replay })
}

fn create(
    agent: &Arc<Agent>,
    request: &NewSession,
    size: Option<WindowSize>,
) -> Result<Arc<Session>, WireError> {
    agent.sessions.check_limit()?;
    let command = Command::for_session(agent, request)?;
    let id = agent.sessions.next_id();
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
        generation: 0,
        input: VecDeque::new(),
        input_ended: false,
        input_closed: false,
        terminal: ends.tty.as_ref().map(|tty| tty.terminal.clone()),
        pid: program.pid,
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

/// Tells the client what was and what comes; whether it knows how the session ended.
async fn tell(entered: &Entered, send: &mut SendHalf) -> Result<bool, MuxError> {
    let Entered { session, generation, created, replay } = entered;
    send.send_json(&Response::Attached {
        session: session.info(),
        created: *created,
        replay: *replay,
    })
    .await?;
    loop {
        match until(&session.told, || session.next(*generation)).await {
            Next::Output(piece) => send.send_data(FrameKind::Stdout, &piece).await?,
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
