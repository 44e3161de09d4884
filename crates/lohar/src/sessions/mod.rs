//! Sessions: programs on a terminal or on pipes that a client can leave and come back to.
//!
//! ```text
//!   program ─► keeper ─► ring ─► the client, a cursor in the ring
//!      ▲                           │
//!      └────── keeper ◄── input ◄──┘
//! ```
//!
//! A [`keeper`] does all that the program is concerned with, whoever is attached. A client is known
//! by its generation: what is left of one that was taken over can do nothing any more. Others may
//! have joined beside it: they never hold up the program while it has a client.

mod attach;
mod init;
mod join;
mod keeper;
mod ring;
mod terminal;
#[cfg(test)]
mod tests;

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use proto::frame::DATA_CHUNK;
use proto::message::{ErrorCode, Exited, INIT, SessionInfo, WindowSize, WireError};
use rustix::process::{Pid, Signal, kill_process};
use tokio::sync::Notify;
use tokio::time::Instant;

pub(crate) use self::attach::serve;
pub(crate) use self::init::start as start_init;
use self::join::Joined;
pub(crate) use self::join::serve as serve_join;
use self::ring::Ring;
use self::terminal::Terminal;
use crate::activity::{Counted, Held};
use crate::agent::{Agent, lock, refuse};
use crate::sys::Spawned;

/// Sessions that may live at once, the one named `init` not counted.
pub(crate) const SESSIONS_MAX: usize = 20;

/// Sessions that have ended and are kept for a client that comes back.
const ENDED_MAX: usize = 16;

/// How long they are kept.
const ENDED_KEEP: Duration = Duration::from_secs(600);

/// How long a session may be without a client, unless it says otherwise.
const IDLE_MAX: Duration = Duration::from_secs(3600);

/// How long the program of a session that was idle for too long has to end by itself.
const GRACE: Duration = Duration::from_secs(5);

/// Bytes of input that may wait for the program before the client has to.
const INPUT_MAX: usize = 64 * 1024;

/// All sessions of the guest, oldest first.
#[derive(Debug, Default)]
pub(crate) struct Sessions {
    inner: Mutex<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    /// How many there have been.
    count: u64,
    sessions: Vec<Arc<Session>>,
}

/// What a session is from its beginning.
#[derive(Debug)]
struct Session {
    id: String,
    argv: Vec<String>,
    tty: bool,
    created_at: i64,
    max_idle: Option<Duration>,
    /// Tells clients of output, of room for input, of the end and of each other.
    told: Notify,
    /// Tells the keeper of whatever changes what it waits for.
    wake: Notify,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    ring: Ring,
    client: Option<Client>,
    /// Those who have joined beside the client.
    joined: Vec<Joined>,
    /// Clients so far, those who joined included.
    generation: u64,
    /// Size of the terminal, if there is or was one.
    size: Option<WindowSize>,
    input: VecDeque<u8>,
    /// Whether the input ends after what is in `input`.
    input_ended: bool,
    /// Whether the program takes no input any more.
    input_closed: bool,
    /// Absent once the session has ended.
    terminal: Option<Terminal>,
    program: Spawned,
    restarts: u32,
    exited: Option<(Exited, Instant)>,
    /// When the last client left.
    idle_since: Instant,
    /// When it was told to end because it was idle.
    hung_up: Option<Instant>,
    /// Whether it was killed because it did not.
    killed: bool,
    /// When its owner last signalled it.
    signalled: Option<Instant>,
}

/// Who is attached.
#[derive(Debug)]
struct Client {
    generation: u64,
    /// Up to where it has taken the output.
    cursor: u64,
    _held: Held,
}

/// What a client is to be told next.
enum Next {
    Output(Vec<u8>),
    Skipped(u64),
    Resized(WindowSize),
    Exited(Exited),
    TakenOver,
}

impl Sessions {
    pub(crate) fn list(&self) -> Vec<SessionInfo> {
        self.current(|inner| inner.sessions.iter().map(|session| session.info()).collect())
    }

    /// Signals all processes of a session; one that has ended is left alone.
    ///
    /// # Errors
    /// There is no such session.
    pub(crate) fn kill(&self, agent: &Agent, id: &str, signal: Signal) -> Result<(), WireError> {
        let session = self.find(id)?;
        lock(&session.state).signalled = Some(Instant::now());
        session.signal(agent, signal);
        session.wake.notify_one();
        Ok(())
    }

    fn find(&self, id: &str) -> Result<Arc<Session>, WireError> {
        let found = self.current(|inner| {
            inner.sessions.iter().find(|session| session.id == id).map(Arc::clone)
        });
        found.ok_or_else(|| refuse(ErrorCode::UnknownSession, format!("there is no session {id}")))
    }

    /// The newest session with a terminal that runs without a client and has no name.
    fn newest_detached(&self) -> Option<Arc<Session>> {
        self.current(|inner| {
            let free = |session: &&Arc<Session>| {
                let state = lock(&session.state);
                let free = state.client.is_none() && state.exited.is_none();
                free && session.tty && !session.is_named()
            };
            inner.sessions.iter().rev().find(free).map(Arc::clone)
        })
    }

    /// # Errors
    /// [`SESSIONS_MAX`] live already.
    fn check_limit(&self) -> Result<(), WireError> {
        let living = |session: &&Arc<Session>| session.is_living() && session.id != INIT;
        let living = self.current(|inner| inner.sessions.iter().filter(living).count());
        if living >= SESSIONS_MAX {
            let message = format!("there are {SESSIONS_MAX} living sessions already");
            return Err(refuse(ErrorCode::Limit, message));
        }
        Ok(())
    }

    fn next_id(&self) -> String {
        self.current(|inner| {
            inner.count += 1;
            format!("s{}", inner.count)
        })
    }

    fn add(&self, session: &Arc<Session>) {
        self.current(|inner| inner.sessions.push(Arc::clone(session)));
    }

    /// Forgets a session of which its client knows how it ended.
    fn forget(&self, session: &Session) {
        if session.id != INIT {
            self.current(|inner| inner.sessions.retain(|other| other.id != session.id));
        }
    }

    /// Does `what` without those that have been kept for long enough.
    fn current<T>(&self, what: impl FnOnce(&mut Inner) -> T) -> T {
        let mut inner = lock(&self.inner);
        let ended = |session: &Session| session.id != INIT && !session.is_living();
        let ended_count = inner.sessions.iter().filter(|session| ended(session)).count();
        if ended_count > 0 {
            let mut excess = ended_count.saturating_sub(ENDED_MAX);
            inner.sessions.retain(|session| {
                if !ended(session) {
                    return true;
                }
                let keep = excess == 0 && session.is_worth_keeping();
                excess = excess.saturating_sub(1);
                keep
            });
        }
        what(&mut inner)
    }
}

impl Session {
    fn info(&self) -> SessionInfo {
        let state = lock(&self.state);
        SessionInfo {
            id: self.id.clone(),
            argv: self.argv.clone(),
            tty: self.tty,
            pid: state.program.own.as_raw_nonzero().get(),
            exited: state.exited.as_ref().map(|(exited, _)| exited.clone()),
            attached: state.client.is_some(),
            joined: u32::try_from(state.joined.len()).unwrap_or(u32::MAX),
            created_at: self.created_at,
            restarts: state.restarts,
        }
    }

    /// Whether its id is one that somebody gave it.
    fn is_named(&self) -> bool {
        self.id == INIT || join::is_name(&self.id)
    }

    fn is_living(&self) -> bool {
        lock(&self.state).exited.is_none()
    }

    fn is_worth_keeping(&self) -> bool {
        let state = lock(&self.state);
        state.exited.as_ref().is_none_or(|(_, at)| at.elapsed() < ENDED_KEEP)
    }

    /// Makes a new client the one that is attached; its generation, and how much it gets of what
    /// was written before.
    ///
    /// # Errors
    /// There is one and it is not to be taken over.
    fn attach(&self, agent: &Arc<Agent>, take_over: bool) -> Result<(u64, u64), WireError> {
        let mut state = lock(&self.state);
        if state.client.is_some() && !take_over {
            let message = format!("session {} has a client", self.id);
            return Err(refuse(ErrorCode::Attached, message));
        }
        state.generation += 1;
        let (generation, cursor) = (state.generation, state.ring.start());
        let replay = state.ring.end() - cursor;
        let held = Held::new(agent, Counted::Attachment);
        state.client = Some(Client { generation, cursor, _held: held });
        if !state.killed {
            state.hung_up = None;
        }
        drop(state);
        self.told.notify_waiters();
        self.wake.notify_one();
        Ok((generation, replay))
    }

    /// Notes that whoever has this generation has left; no other is touched.
    fn leave(&self, generation: u64) {
        let mut state = lock(&self.state);
        let before = state.joined.len();
        state.joined.retain(|one| one.place.generation != generation);
        let mut left = state.joined.len() < before;
        if state.client.as_ref().is_some_and(|client| client.generation == generation) {
            state.client = None;
            left = true;
        }
        if left {
            state.idle_since = Instant::now();
            drop(state);
            self.wake.notify_one();
        }
    }

    /// What whoever has this generation is to be told next, if there is anything yet.
    fn next(&self, generation: u64) -> Option<Next> {
        let mut state = lock(&self.state);
        let State { ring, client, joined, size, exited, .. } = &mut *state;
        let client = client.as_mut().filter(|client| client.generation == generation);
        let joined = joined.iter_mut().find(|one| one.place.generation == generation);
        let place = match (client, joined) {
            (Some(client), _) => client,
            (None, Some(one)) => {
                if let Some(next) = one.missed(ring, *size) {
                    return Some(next);
                }
                &mut one.place
            }
            (None, None) => return Some(Next::TakenOver),
        };
        if place.cursor < ring.end() {
            let was_full = ring.room_after(place.cursor) == 0;
            let (piece, next) = ring.read(place.cursor, DATA_CHUNK);
            place.cursor = next;
            if was_full {
                self.wake.notify_one();
            }
            return Some(Next::Output(piece));
        }
        exited.as_ref().map(|(exited, _)| Next::Exited(exited.clone()))
    }

    /// Takes input of whoever has this generation if there is room, or if it is not wanted anyway;
    /// whether it was taken.
    fn take_input(&self, generation: u64, bytes: &[u8]) -> bool {
        let mut state = lock(&self.state);
        let heard = state.types(generation);
        if !heard || state.input_closed || state.input_ended || state.exited.is_some() {
            return true;
        }
        if state.input.len() >= INPUT_MAX {
            return false;
        }
        if bytes.is_empty() {
            state.input_ended = !self.tty;
        }
        state.input.extend(bytes);
        self.wake.notify_one();
        true
    }

    fn resize(&self, generation: u64, size: WindowSize) {
        let mut state = lock(&self.state);
        let decides = state.decides_size(generation) && size.rows > 0 && size.cols > 0;
        let terminal = state.terminal.as_ref().filter(|_| decides);
        if let Some(terminal) = terminal {
            terminal.resize(size);
            state.size = Some(size);
            drop(state);
            self.told.notify_waiters();
        }
    }

    /// Signals all processes of the session, if its program runs.
    fn signal(&self, agent: &Agent, signal: Signal) {
        let leader = lock(&self.state).program.pid;
        if agent.reaper.is_waited_for(leader) {
            signal_session(leader, signal);
        }
    }
}

/// Signals all processes whose session is the one that `leader`, which has not been reaped, leads.
fn signal_session(leader: Pid, signal: Signal) {
    // What a process starts just before it is killed is found by the second look.
    let rounds = if signal == Signal::KILL { 2 } else { 1 };
    // One that is stopped would not hear it.
    let resume = matches!(signal, Signal::HUP | Signal::TERM).then_some(Signal::CONT);
    for _ in 0..rounds {
        let entries = std::fs::read_dir("/proc").into_iter().flatten().filter_map(Result::ok);
        let pid = |entry: std::fs::DirEntry| entry.file_name().to_str()?.parse().ok();
        for pid in entries.filter_map(pid).filter_map(Pid::from_raw) {
            if session_of(pid) == Some(leader) {
                for signal in [Some(signal), resume].into_iter().flatten() {
                    // It may just have ended.
                    let _ = kill_process(pid, signal);
                }
            }
        }
    }
}

/// Which session a process belongs to. Asked of its file, because a thread of the kernel is in session 0,
/// which `getsid` of `rustix` cannot say.
fn session_of(pid: Pid) -> Option<Pid> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // Its name may have spaces and brackets in it.
    let (_, rest) = stat.rsplit_once(')')?;
    Pid::from_raw(rest.split_whitespace().nth(3)?.parse().ok()?)
}
