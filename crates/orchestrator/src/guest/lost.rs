//! What it means that a session with the agent was lost in the middle of an operation.

use std::time::Duration;

use base::ids::Name;
use proto::mux::MuxError;
use tokio::{sync::watch, time::timeout};

use crate::{Error, Kind, driver::Published, model::Status};

/// How long the driver may take to say why. Putting a large guest on disk takes longest.
const KNOWN: Duration = Duration::from_secs(60);
/// How long the end of a VM may take to be noticed after that of its agent's port.
const DEATH: Duration = Duration::from_secs(2);

/// Where the operation can be found again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Trace {
    /// Nowhere.
    None,
    /// It is this job.
    Job(String),
    /// It is this session.
    Session(String),
}

/// Knows what has become of a sandbox.
#[derive(Debug, Clone)]
pub(crate) struct Witness {
    name: Name,
    published: watch::Receiver<Published>,
}

impl Witness {
    pub(crate) fn new(name: Name, published: watch::Receiver<Published>) -> Self {
        Self { name, published }
    }

    /// The error for somebody whose operation a lost session has cut off. Waits until the driver
    /// has said what happened.
    pub(crate) async fn explain(&self, error: MuxError, trace: &Trace) -> Error {
        if !matches!(error, MuxError::SessionEnded | MuxError::StreamClosed) {
            return error.into();
        }
        let mut published = self.published.clone();
        let decided = |now: &Published| {
            !now.closing && now.session.as_ref().is_none_or(|session| !session.is_closed())
        };
        let told = timeout(KNOWN, published.wait_for(decided)).await;
        let nobody_tells = matches!(told, Ok(Err(_)));
        drop(told);
        if !nobody_tells {
            let more = |now: &Published| {
                now.status != Status::Running || now.session.is_some() || now.sleeps()
            };
            let _ = timeout(DEATH, published.wait_for(more)).await;
        }
        let status = published.borrow().status;
        let (what, hint) = self.words(status, nobody_tells, trace);
        let explained = Error::new(Kind::AgentUnreachable, what).caused_by(error);
        match hint {
            Some(hint) => explained.hint(hint),
            None => explained,
        }
    }

    fn words(
        &self,
        status: Status,
        nobody_tells: bool,
        trace: &Trace,
    ) -> (&'static str, Option<String>) {
        let name = &self.name;
        match status {
            Status::Stopped => ("the sandbox was stopped meanwhile", self.found_again(trace, true)),
            Status::Failed => (
                "the sandbox's VM ended meanwhile",
                Some(format!("see why, and how it can go on: bhatti inspect {name}")),
            ),
            Status::Destroying => ("the sandbox was destroyed meanwhile", None),
            Status::Creating | Status::Starting | Status::Running if nobody_tells => {
                ("the daemon is ending; the sandbox runs on", self.found_again(trace, false))
            }
            Status::Creating | Status::Starting | Status::Running => {
                ("the connection to the guest agent was lost", self.found_again(trace, false))
            }
        }
    }

    fn found_again(&self, trace: &Trace, stopped: bool) -> Option<String> {
        let name = &self.name;
        let when = if stopped { " when the sandbox is started again" } else { "" };
        match trace {
            Trace::None => None,
            Trace::Job(job) => {
                Some(format!("the command goes on as job {job}{when}: bhatti logs {name} {job}"))
            }
            Trace::Session(_) => Some(format!("the session goes on{when}: bhatti shell {name}")),
        }
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use proto::mux::Session;

    use super::*;
    use crate::guest::testing::{FakeAgent, published};

    /// A witness and the end through which it learns what happens.
    pub(crate) fn witness(session: &Session) -> (Witness, watch::Sender<Published>) {
        let now = published(Status::Running, Some(session.clone()));
        let (publish, published) = watch::channel(now);
        (Witness::new("box".parse().unwrap(), published), publish)
    }

    #[tokio::test]
    async fn a_loss_is_explained_once_it_is_known_what_happened() {
        let agent = FakeAgent::silent().await;
        let (witness, publish) = witness(&agent.session);
        agent.hang_up().await;
        let trace = Trace::Job("j7".to_owned());
        let told = witness.explain(MuxError::SessionEnded, &trace);
        let stop = async {
            tokio::task::yield_now().await;
            publish.send_replace(published(Status::Stopped, None));
        };
        let (told, ()) = tokio::join!(told, stop);
        assert_eq!(told.kind, Kind::AgentUnreachable);
        assert!(told.message.contains("stopped"), "{told}");
        assert!(told.hint.unwrap().ends_with("started again: bhatti logs box j7"));

        publish.send_replace(published(Status::Failed, None));
        let told = witness.explain(MuxError::SessionEnded, &trace).await;
        assert!(told.message.contains("VM ended"), "{told}");
        assert!(!told.hint.unwrap().contains("j7"), "the job is gone with the VM");

        // The port is lost before the VM is known to have ended.
        publish.send_replace(published(Status::Running, None));
        let told = witness.explain(MuxError::SessionEnded, &trace);
        let die = async {
            tokio::task::yield_now().await;
            publish.send_replace(published(Status::Failed, None));
        };
        let (told, ()) = tokio::join!(told, die);
        assert!(told.message.contains("VM ended"), "{told}");

        let next = FakeAgent::silent().await;
        publish.send_replace(published(Status::Running, Some(next.session.clone())));
        let trace = Trace::Session("s1".to_owned());
        let told = witness.explain(MuxError::SessionEnded, &trace).await;
        assert_eq!(told.hint.unwrap(), "the session goes on: bhatti shell box");

        publish.send_replace(published(Status::Running, Some(agent.session.clone())));
        drop(publish);
        let told = witness.explain(MuxError::SessionEnded, &Trace::None).await;
        assert!(told.message.contains("daemon is ending") && told.hint.is_none(), "{told}");
        let told = witness.explain(MuxError::Truncated, &Trace::None).await;
        assert!(told.message.contains("broke"), "{told}");
    }
}
