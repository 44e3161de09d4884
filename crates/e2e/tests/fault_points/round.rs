//! One operation, and all that can go wrong in it.

use std::{collections::BTreeMap, time::Duration};

use api::{ErrorCode, Sandbox, StartedFrom, Status, client::ClientError};
use e2e::{Content, Found, Guest, Node, Options, agreed, create_request};

use crate::operation::{Before, KEPT, MADE, Operation, start};

/// An operation that is not over by then never will be.
const HANGS: Duration = Duration::from_secs(60);
/// Of a place that is passed more often than this, only so many passings and the last are tried.
const PASSINGS: usize = 3;

/// What goes wrong at a place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Action {
    /// The daemon dies.
    Kill,
    /// All monitors do.
    Vmm,
    /// All of them do.
    Both,
    /// The place fails, because the disk is full.
    NoSpace,
    /// The place fails, because the disk is broken.
    Io,
}

pub(crate) const DEATHS: [Action; 3] = [Action::Kill, Action::Vmm, Action::Both];
pub(crate) const ERRORS: [Action; 2] = [Action::NoSpace, Action::Io];

impl Action {
    fn name(self) -> &'static str {
        match self {
            Self::Kill => "kill",
            Self::Vmm => "vmm",
            Self::Both => "both",
            Self::NoSpace => "enospc",
            Self::Io => "eio",
        }
    }

    fn ends_daemon(self) -> bool {
        matches!(self, Self::Kill | Self::Both)
    }

    fn ends_monitors(self) -> bool {
        matches!(self, Self::Vmm | Self::Both)
    }
}

/// The rounds of one operation, on one node.
pub(crate) struct Rounds {
    operation: Operation,
    node: Node,
    /// The sandbox that has something to lose, as long as it has.
    kept: Option<(Guest, Content)>,
}

impl Rounds {
    pub(crate) fn of(operation: Operation) -> Self {
        let node = Node::with(&Options { faults: true, ..Options::default() });
        Self { operation, node, kept: None }
    }

    /// Lets each of `actions` happen at every place that the operation passes.
    pub(crate) async fn all(&mut self, actions: &[Action]) {
        let places = self.places().await;
        assert!(!places.is_empty(), "{:?} passes no place", self.operation);
        for (place, passings) in &places {
            for &action in actions {
                for nth in (1..=*passings).filter(|n| *n <= PASSINGS || n == passings) {
                    self.round(place, nth, action).await;
                }
            }
        }
        self.ends_well().await;
    }

    /// The places that the operation passes when nothing goes wrong, and how often.
    async fn places(&mut self) -> BTreeMap<String, usize> {
        self.prepare().await;
        self.node.faults().arm("");
        self.act().await.unwrap_or_else(|error| panic!("{:?}: {error}", self.operation));
        self.node.faults().disarm();
        let mut places = BTreeMap::new();
        for passing in self.node.faults().passed() {
            *places.entry(passing.place).or_default() += 1;
        }
        self.judge("nothing went wrong", None, true).await;
        eprintln!("{:?} passes {places:?}", self.operation);
        places
    }

    async fn round(&mut self, place: &str, nth: usize, action: Action) {
        let when = format!("{:?} with {place}@{nth}={}", self.operation, action.name());
        self.prepare().await;
        self.node.faults().arm(&format!("{place}@{nth}={}", action.name()));
        let outcome = self.act().await;
        self.node.faults().disarm();
        let happened = self.node.faults().happened();
        eprintln!("{when}: {} {}", if happened { "" } else { "NOT REACHED" }, told(&outcome));
        // The first passing is certain; later ones may depend on how much there is to write.
        assert!(happened || nth > 1, "{when}: the place was not passed");
        if happened && action.ends_daemon() {
            let ended = self.node.ended().expect("the daemon ran");
            assert_eq!(std::os::unix::process::ExitStatusExt::signal(&ended), Some(9), "{when}");
            self.node.restart();
        }
        self.judge(&when, happened.then_some(action), outcome.is_ok()).await;
        if let (Err(ClientError::Api(body)), false) = (&outcome, action.ends_daemon()) {
            let clear = match action {
                Action::NoSpace => body.code == ErrorCode::HostDiskFull,
                // A broken disk is nothing that a caller can do something about.
                Action::Io => true,
                _ => body.code != ErrorCode::Internal,
            };
            assert!(clear, "{when}: {body:?}");
        }
    }

    async fn act(&self) -> Result<(), ClientError> {
        let mut client = self.node.admin();
        let acted = tokio::time::timeout(HANGS, self.operation.act(&mut client)).await;
        acted.unwrap_or_else(|_| panic!("{:?} hangs", self.operation))
    }

    /// Brings the sandboxes into the state that the operation finds them in.
    async fn prepare(&mut self) {
        let before = self.operation.before();
        if before == Before::Nothing {
            return;
        }
        let mut client = self.node.admin();
        if self.kept.is_none() {
            let mut guest = Guest::create_by(self.node.admin(), create_request(KEPT)).await;
            let content = Content::plant(&mut guest).await;
            self.kept = Some((guest, content));
        }
        start(&mut client, KEPT).await.unwrap();
        match before {
            Before::Nothing | Before::Hot => {}
            Before::Warm => drop(client.pause(KEPT).await.unwrap()),
            Before::Cold => drop(client.stop(KEPT, drop).await.unwrap()),
        }
    }

    /// Checks that store and world agree, that nothing is lost, and that what is there can be used.
    async fn judge(&mut self, when: &str, action: Option<Action>, succeeded: bool) {
        let all = agreed(&self.node, when).await;
        let find = |name: &str| all.iter().find(|sandbox| sandbox.name == name).cloned();
        let known = all.iter().all(|sandbox| [KEPT, MADE].contains(&sandbox.name.as_str()));
        assert!(known, "{when}: {all:?}");
        if self.operation == Operation::Create {
            self.judge_made(when, action, succeeded, find(MADE)).await;
        } else {
            self.judge_kept(when, action, succeeded, find(KEPT)).await;
        }
    }

    async fn judge_made(
        &mut self,
        when: &str,
        action: Option<Action>,
        succeeded: bool,
        made: Option<Sandbox>,
    ) {
        let mut client = self.node.admin();
        match made {
            None => assert!(!succeeded, "{when}: what was made is not there"),
            Some(made) => {
                self.usable(when, action, &made).await;
                client.destroy(MADE).await.unwrap();
            }
        }
        // It can be made, whether it was half made before or not at all.
        self.act().await.unwrap_or_else(|error| panic!("{when}: again: {error}"));
        let mut again = Guest { client: self.node.admin(), id: MADE.to_owned() };
        assert_eq!(again.sh("hostname").await, MADE, "{when}");
        again.client.destroy(MADE).await.unwrap();
    }

    async fn judge_kept(
        &mut self,
        when: &str,
        action: Option<Action>,
        succeeded: bool,
        kept: Option<Sandbox>,
    ) {
        let Some((guest, content)) = self.kept.take() else { panic!("{when}: it was never made") };
        let Some(kept) = kept else {
            assert!(self.operation.removes(), "{when}: the sandbox is gone");
            return;
        };
        assert!(!(succeeded && self.operation.removes()), "{when}: it is still there");
        let mut guest = guest.by(self.node.admin());
        let found = self.usable(when, action, &kept).await;
        content.check(&mut guest, found, when).await;
        if action.is_some_and(|action| !action.ends_monitors()) {
            assert_eq!(found, Found::Everything, "{when}: processes are lost");
        }
        if self.operation.removes() || found == Found::Disk {
            let destroyed = guest.client.destroy(KEPT).await;
            destroyed.unwrap_or_else(|error| panic!("{when}: again: {error}"));
            return;
        }
        self.kept = Some((guest, content));
    }

    /// Makes sure that a sandbox runs, by the way that its owner is told of, and says what of it is
    /// there then.
    async fn usable(&self, when: &str, action: Option<Action>, sandbox: &Sandbox) -> Found {
        let mut client = self.node.admin();
        if sandbox.status == Status::Failed {
            let killed = action.is_some_and(Action::ends_monitors);
            assert!(killed, "{when}: it has failed: {sandbox:?}");
            let body = e2e::refused(client.exec(&sandbox.id, &e2e::sh("true")).await);
            let way_out = format!("bhatti start {}", sandbox.name);
            assert_eq!(body.code, ErrorCode::SandboxFailed, "{when}: {body:?}");
            assert!(body.hint.is_some_and(|hint| hint.contains(&way_out)), "{when}");
        }
        let started = start(&mut client, &sandbox.id).await;
        let started = started.unwrap_or_else(|error| panic!("{when}: start: {error}"));
        let mut guest = Guest { client, id: sandbox.id.clone() };
        assert_eq!(guest.sh("hostname").await, sandbox.name, "{when}");
        match started.started_from {
            Some(StartedFrom::Disk) => Found::Disk,
            _ => Found::Everything,
        }
    }

    /// After all of that the sandbox is one like any other.
    async fn ends_well(&mut self) {
        let Some((mut guest, content)) = self.kept.take() else { return };
        let when = "at the end";
        guest = guest.by(self.node.admin());
        guest.stop().await;
        guest.start(None).await.unwrap();
        content.check(&mut guest, Found::Everything, when).await;
        agreed(&self.node, when).await;
        guest.client.destroy(KEPT).await.unwrap();
        assert!(agreed(&self.node, when).await.is_empty());
    }
}

fn told(outcome: &Result<(), ClientError>) -> String {
    match outcome {
        Ok(()) => "done".to_owned(),
        Err(error) => {
            let body = error.to_body();
            format!("{}: {}", body.code, body.error)
        }
    }
}
