//! Those who join a session beside its client: they see all, some of them type, and none holds up
//! the program while there is a client. Without one the fastest of those who type does, so that
//! what it sees is whole; whoever only watches never does.

use std::sync::Arc;

use proto::message::{ErrorCode, Join, Response, WindowSize, WireError};
use proto::mux::{RecvHalf, SendHalf};

use super::attach::{Entered, create, talk};
use super::ring::Ring;
use super::{Client, Next, Session, State};
use crate::activity::{Counted, Held};
use crate::agent::{Agent, lock, refuse};

/// Most that may have joined one session.
pub(super) const JOINED_MAX: usize = 64;

/// Longest id that a session may be given, bytes.
const NAME_MAX: usize = 64;

/// One who has joined.
#[derive(Debug)]
pub(super) struct Joined {
    pub(super) place: Client,
    /// Whether it types.
    pub(super) input: bool,
    /// The size that it knows of.
    pub(super) knows: Option<WindowSize>,
}

/// Serves one [`Join`] until whoever joined leaves or the session ends.
pub(crate) async fn serve(agent: &Arc<Agent>, request: &Join, mut send: SendHalf, recv: RecvHalf) {
    let (entered, joined) = match enter(agent, request) {
        Ok(entered) => entered,
        Err(error) => {
            // Whoever asked may be gone.
            let _ = send.send_json(&Response::Error(error)).await;
            return;
        }
    };
    // That it has ended is kept for the client, so nothing is forgotten here.
    talk(agent, &entered, joined, send, recv).await;
}

fn enter(agent: &Arc<Agent>, request: &Join) -> Result<(Entered, Response), WireError> {
    let found = agent.sessions.find(&request.session);
    let (session, created) = match (found, &request.new) {
        (Ok(session), Some(_)) if session.is_living() => (session, false),
        (Ok(session), None) => (session, false),
        (Err(error), None) => return Err(error),
        (found, Some(new)) => {
            if !is_name(&request.session) {
                let message = format!("{:?} is no id for a session", request.session);
                return Err(refuse(ErrorCode::Invalid, message));
            }
            if let Ok(ended) = found {
                agent.sessions.forget(&ended);
            }
            (create(agent, Some(&request.session), new, request.size)?, true)
        }
    };
    let (generation, start, replay) = session.join(agent, request)?;
    if let Some(size) = request.size.filter(|_| !created) {
        session.resize(generation, size);
    }
    let size = session.knows(generation);
    let joined = Response::Joined { session: session.info(), created, start, replay, size };
    Ok((Entered { session, generation }, joined))
}

/// Whether a session may be given this id. No id that the agent makes up, for a session or a job,
/// has its form.
pub(super) fn is_name(id: &str) -> bool {
    let legal = |b| matches!(b, b'a'..=b'z' | b'0'..=b'9' | b'_' | b'-');
    let own = id.contains('_') && !id.starts_with('j');
    own && id.len() <= NAME_MAX && id.bytes().all(legal)
}

impl Joined {
    /// What it has to be told before more output.
    pub(super) fn missed(&mut self, ring: &Ring, size: Option<WindowSize>) -> Option<Next> {
        if let Some(size) = size.filter(|size| self.knows != Some(*size)) {
            self.knows = Some(size);
            return Some(Next::Resized(size));
        }
        let bytes = ring.start().saturating_sub(self.place.cursor);
        if bytes == 0 {
            return None;
        }
        self.place.cursor = ring.start();
        Some(Next::Skipped(bytes))
    }
}

impl State {
    /// Whether whoever has this generation may type.
    pub(super) fn types(&self, generation: u64) -> bool {
        let of = |client: &Client| client.generation == generation;
        self.client.as_ref().is_some_and(of)
            || self.joined.iter().any(|one| one.input && of(&one.place))
    }

    /// Whether whoever has this generation says how large the terminal is.
    pub(super) fn decides_size(&self, generation: u64) -> bool {
        match &self.client {
            Some(client) => client.generation == generation,
            None => self.types(generation),
        }
    }

    /// Up to where the output has been taken by those for whom the program waits.
    pub(super) fn taken(&self) -> Option<u64> {
        let typing = self.joined.iter().filter(|one| one.input).map(|one| one.place.cursor);
        self.client.as_ref().map(|client| client.cursor).or_else(|| typing.max())
    }

    /// Whether somebody is here.
    pub(super) fn is_attended(&self) -> bool {
        self.client.is_some() || !self.joined.is_empty()
    }
}

impl Session {
    /// Lets one in; its generation, where its output begins, and how much of it is old.
    ///
    /// # Errors
    /// There are [`JOINED_MAX`] already.
    fn join(&self, agent: &Arc<Agent>, request: &Join) -> Result<(u64, u64, u64), WireError> {
        let mut state = lock(&self.state);
        if state.joined.len() >= JOINED_MAX {
            let message = format!("{JOINED_MAX} have joined session {} already", self.id);
            return Err(refuse(ErrorCode::Limit, message));
        }
        state.generation += 1;
        let resume = request.resume.filter(|resume| {
            resume.created_at == self.created_at && resume.cursor <= state.ring.end()
        });
        let oldest = state.ring.start();
        let cursor = resume.map_or(oldest, |resume| resume.cursor.max(oldest));
        let (generation, replay) = (state.generation, state.ring.end() - cursor);
        let place = Client { generation, cursor, _held: Held::new(agent, Counted::Attachment) };
        let knows = state.size;
        state.joined.push(Joined { place, input: request.input, knows });
        if !state.killed {
            state.hung_up = None;
        }
        drop(state);
        self.wake.notify_one();
        Ok((generation, cursor, replay))
    }

    /// The size that whoever has joined with this generation is told first.
    fn knows(&self, generation: u64) -> Option<WindowSize> {
        let mut state = lock(&self.state);
        let size = state.size;
        let mut joined = state.joined.iter_mut();
        let one = joined.find(|one| one.place.generation == generation);
        if let Some(one) = one {
            one.knows = size;
        }
        size
    }
}
