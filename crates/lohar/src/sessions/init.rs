//! The session that runs what the sandbox was created to run.

use std::sync::Arc;
use std::time::Duration;

use proto::message::{ErrorCode, Exited, INIT, Init, NewSession, RestartPolicy, WireError};
use tokio::time::Instant;

use super::Session;
use super::attach::launch;
use crate::agent::{Agent, lock, refuse};
use crate::exec::command::Command;

/// The first pause before a program is started again; each is twice the one before.
const PAUSE_MIN: Duration = Duration::from_millis(100);

/// The longest pause.
const PAUSE_MAX: Duration = Duration::from_secs(30);

/// A program that has lived for so long begins with the first pause again.
const GOOD_LIFE: Duration = Duration::from_secs(10);

/// The user with all rights, whatever it is called.
const ROOT: &str = "0";

/// A program that ends within this time after its owner has signalled it was stopped by him.
const STOPPED_WITHIN: Duration = Duration::from_secs(60);

/// Whether and when a program is started again.
#[derive(Debug)]
pub(super) struct Restart {
    pub(super) command: Command,
    policy: RestartPolicy,
    next: Duration,
}

/// Starts the session named `init`.
///
/// # Errors
/// There has been one already, or the command cannot be started.
pub(crate) fn start(agent: &Arc<Agent>, init: &Init) -> Result<(), WireError> {
    if agent.sessions.find(INIT).is_ok() {
        return Err(refuse(ErrorCode::Invalid, "init has been started already"));
    }
    let request = NewSession { tty: true, max_idle_ms: Some(0), ..what(agent, init) };
    let command = Command::for_session(agent, &request)?;
    launch(agent, INIT, &request, None, command, Some(init.restart)).map(drop)
}

/// What is to run, and as whom. The program of an image that names no user expects to be root.
fn what(agent: &Agent, init: &Init) -> NewSession {
    if init.argv.is_empty() {
        let argv = ["/bin/sh", "-c", &init.command].map(str::to_owned).to_vec();
        return NewSession { argv, ..NewSession::default() };
    }
    let named = agent.identity().is_some_and(|identity| identity.defaults.user.is_some());
    let user = (!named).then(|| ROOT.to_owned());
    NewSession { argv: init.argv.clone(), user, ..NewSession::default() }
}

impl Restart {
    pub(super) fn new(command: Command, policy: RestartPolicy) -> Self {
        Self { command, policy, next: PAUSE_MIN }
    }

    /// How long to wait before the next start, after a program that has `lived` so long; `None` if
    /// there is to be none.
    pub(super) fn pause(
        &mut self,
        exited: &Exited,
        lived: Duration,
        stopped: bool,
    ) -> Option<Duration> {
        let wanted = match self.policy {
            RestartPolicy::No => false,
            RestartPolicy::OnFailure => exited.code != 0,
            RestartPolicy::Always => true,
        };
        if stopped || !wanted {
            return None;
        }
        let pause = if lived >= GOOD_LIFE { PAUSE_MIN } else { self.next };
        self.next = (pause * 2).min(PAUSE_MAX);
        Some(pause)
    }
}

/// What the output says of an end.
pub(super) fn ended(exited: &Exited) -> String {
    match exited.signal {
        Some(signal) => format!("ended by signal {signal}"),
        None => format!("ended with {}", exited.code),
    }
}

impl Session {
    /// Whether the owner has stopped the program.
    pub(super) fn is_stopped(&self) -> bool {
        lock(&self.state).signalled.is_some_and(|at: Instant| at.elapsed() < STOPPED_WITHIN)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::Guest;

    #[tokio::test]
    async fn pauses_grow_and_start_over_after_a_good_life() {
        let guest = Guest::new().await;
        let request = NewSession { argv: vec!["/bin/true".to_owned()], ..NewSession::default() };
        let restart =
            |policy| Restart::new(Command::for_session(&guest.agent, &request).unwrap(), policy);
        let exited = |code| Exited { code, signal: None, timed_out: false };
        let mut always = restart(RestartPolicy::Always);
        let millis: Vec<_> = (0..11)
            .map(|_| always.pause(&exited(0), Duration::ZERO, false).unwrap().as_millis())
            .collect();
        let wanted = [100, 200, 400, 800, 1600, 3200, 6400, 12_800, 25_600, 30_000, 30_000];
        assert_eq!(millis, wanted);
        let after = |lived| always.pause(&exited(0), lived, false).unwrap();
        assert_eq!([GOOD_LIFE, Duration::ZERO].map(after), [PAUSE_MIN, PAUSE_MIN * 2]);
        assert_eq!(always.pause(&exited(1), Duration::ZERO, true), None);
        let mut on_failure = restart(RestartPolicy::OnFailure);
        assert_eq!(on_failure.pause(&exited(0), Duration::ZERO, false), None);
        assert_eq!(on_failure.pause(&exited(1), Duration::ZERO, false), Some(PAUSE_MIN));
        assert_eq!(restart(RestartPolicy::No).pause(&exited(1), Duration::ZERO, false), None);
    }
}
