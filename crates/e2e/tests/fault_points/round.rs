//! One operation, and all that can go wrong in it.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use api::{
    CreateVolume, EditSandbox, ErrorCode, Sandbox, StartedFrom, Status, VolumeMount,
    client::ClientError,
};
use e2e::{Content, Found, Guest, Node, Options, Passing, agreed, create_request, refused, sh};

use crate::operation::{
    Before, KEPT, MADE, ON_VOLUME, Operation, TAKEN, VOLUME, resume_snapshot, start, take,
};

/// An operation that is not over by then never will be.
pub(crate) const HANGS: Duration = Duration::from_secs(60);
/// The size of the volume.
const VOLUME_MB: u64 = 16;
/// Places of single files. That a monitor dies just there is no more to the daemon than its death
/// between two steps.
const FILES: [&str; 8] =
    ["devices.", "directory.", "engine.", "file.", "link.", "pages.", "qcow.", "write."];

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

impl Action {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Kill => "kill",
            Self::Vmm => "vmm",
            Self::Both => "both",
            Self::NoSpace => "enospc",
            Self::Io => "eio",
        }
    }

    pub(crate) fn ends_daemon(self) -> bool {
        matches!(self, Self::Kill | Self::Both)
    }

    pub(crate) fn ends_monitors(self) -> bool {
        matches!(self, Self::Vmm | Self::Both)
    }

    /// Of so many passings of a place, the last that is tried. What is there after a dead daemon or a full
    /// disk depends on how much was done; the others only add to one of these.
    fn last_of(self, passings: usize) -> usize {
        if matches!(self, Self::Kill | Self::NoSpace) { passings } else { 1 }
    }

    fn fits(self, place: &str) -> bool {
        !self.ends_monitors() || !FILES.iter().any(|file| place.starts_with(file))
    }
}

/// The rounds of one operation, on one node.
pub(crate) struct Rounds {
    operation: Operation,
    node: Node,
    /// The sandbox that has something to lose, as long as it has, and what that is.
    kept: Option<(Guest, Content)>,
}

/// How an operation ended.
struct Outcome {
    when: String,
    /// What went wrong, if it did.
    action: Option<Action>,
    succeeded: bool,
}

impl Rounds {
    pub(crate) fn of(operation: Operation) -> Self {
        let node = Node::with(&Options { faults: true, ..Options::default() });
        Self { operation, node, kept: None }
    }

    /// Whether all that the operation keeps is a note for which nobody waits, so that it may be
    /// over before it has passed a single place.
    fn notes_only(&self) -> bool {
        matches!(self.operation, Operation::Pause | Operation::Resume)
    }

    /// Lets each of `actions` happen at every place that the operation passes: the first time, and of some
    /// the last.
    pub(crate) async fn all(&mut self, actions: &[Action]) {
        let places = self.places().await;
        assert!(self.notes_only() || !places.is_empty(), "{:?} passes no place", self.operation);
        for (place, passings) in &places {
            for &action in actions.iter().filter(|action| action.fits(place)) {
                for nth in BTreeSet::from([1, action.last_of(*passings)]) {
                    self.round(place, nth, action).await;
                }
            }
        }
        self.ends_well().await;
    }

    /// The places that the operation passes when nothing goes wrong, and how often.
    async fn places(&mut self) -> BTreeMap<String, usize> {
        let mut places = BTreeMap::new();
        // Once before, so that what is made only the first time is there.
        self.succeeds("for the first time").await;
        for passing in self.succeeds("nothing goes wrong").await {
            *places.entry(passing.place).or_default() += 1;
        }
        eprintln!("{:?} passes {places:?}", self.operation);
        places
    }

    /// Does it, and nothing goes wrong. Gives the places that were passed.
    async fn succeeds(&mut self, when: &str) -> Vec<Passing> {
        self.prepare().await;
        self.node.faults().arm("");
        self.act().await.unwrap_or_else(|error| panic!("{when}: {:?}: {error}", self.operation));
        self.node.faults().disarm();
        let passed = self.node.faults().passed();
        self.judge(&Outcome { when: when.to_owned(), action: None, succeeded: true }).await;
        passed
    }

    async fn round(&mut self, place: &str, nth: usize, action: Action) {
        let began = std::time::Instant::now();
        let when = format!("{:?} with {place}@{nth}={}", self.operation, action.name());
        self.prepare().await;
        self.node.faults().arm(&format!("{place}@{nth}={}", action.name()));
        let outcome = self.act().await;
        if self.notes_only() {
            // The note may still be on its way, and would meet the fault when nobody expects it.
            self.written().await;
        }
        self.node.faults().disarm();
        let happened = self.node.faults().happened();
        let reached = if happened { "" } else { "not reached, " };
        eprint!("{when}: {reached}{}", told(&outcome));
        // The first passing is certain; later ones may depend on how much there is to write. What a
        // pause or resume is noted with is written when it is, and nobody waits for that.
        let noted = self.notes_only() && place.starts_with("store.");
        assert!(happened || nth > 1 || noted, "{when}: the place was not passed");
        if happened && action.ends_daemon() {
            let ended = self.node.ended().expect("the daemon ran");
            assert_eq!(std::os::unix::process::ExitStatusExt::signal(&ended), Some(9), "{when}");
            self.node.restart();
        }
        let action = happened.then_some(action);
        let mut succeeded = outcome.is_ok();
        if self.operation.removes().is_some() && matches!(outcome, Err(ClientError::Api(_))) {
            // What is half removed is good for nothing but to be removed.
            succeeded = self.act().await.is_ok();
            assert!(succeeded, "{when}, and again");
        }
        let end = Outcome { when, action, succeeded };
        self.judge(&end).await;
        if let (Err(ClientError::Api(body)), Some(action)) = (&outcome, action) {
            let clear = match action {
                Action::NoSpace => body.code == ErrorCode::HostDiskFull,
                // A broken disk is nothing that a caller can do something about.
                Action::Io => true,
                _ => body.code != ErrorCode::Internal,
            };
            assert!(clear, "{}: {body:?}", end.when);
            self.succeeds(&format!("{}, and again", end.when)).await;
        }
        eprintln!(" ({} ms)", began.elapsed().as_millis());
    }

    /// Waits until what was noted is on the disk, by something that is written after it. That this
    /// may fail is the point of a fault.
    async fn written(&self) {
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
        let labels_add = [("written".to_owned(), now.as_nanos().to_string())].into();
        let edit = EditSandbox { labels_add, ..EditSandbox::default() };
        let _ = self.node.admin().edit(KEPT, &edit).await;
    }

    async fn act(&self) -> Result<(), ClientError> {
        let mut client = self.node.admin();
        let acted = tokio::time::timeout(HANGS, self.operation.act(&mut client)).await;
        acted.unwrap_or_else(|_| panic!("{:?} hangs", self.operation))
    }

    /// Brings everything into the state that the operation finds it in.
    async fn prepare(&mut self) {
        let before = self.operation.before();
        if before == Before::Nothing {
            return;
        }
        let mut client = self.node.admin();
        if self.kept.is_none() {
            let mut guest = self.make_kept().await;
            let content = Content::plant(&mut guest).await;
            self.kept = Some((guest, content));
        }
        if before == Before::ColdAndTaken && client.snapshots().await.unwrap().is_empty() {
            take(&mut client).await.unwrap();
        }
        if matches!(before, Before::Hot | Before::Warm) {
            start(&mut client, KEPT).await.unwrap();
        }
        match before {
            Before::Nothing | Before::Hot => {}
            Before::Warm => drop(client.pause(KEPT).await.unwrap()),
            Before::Cold | Before::ColdAndTaken => drop(client.stop(KEPT, drop).await.unwrap()),
        }
    }

    /// Makes the sandbox that has something to lose. What its volume keeps is there from one of them to
    /// the next.
    async fn make_kept(&self) -> Guest {
        let mut client = self.node.admin();
        let mut request = create_request(KEPT);
        if !self.operation.has_volume() {
            return Guest::create_by(client, request).await;
        }
        let new = client.volume(VOLUME).await.is_err();
        if new {
            let volume = CreateVolume { name: VOLUME.to_owned(), size_mb: VOLUME_MB };
            client.create_volume(&volume).await.unwrap();
        }
        let (name, mount) = (VOLUME.to_owned(), format!("/{VOLUME}"));
        request.volumes.push(VolumeMount { name, mount, read_only: false });
        let mut guest = Guest::create_by(client, request).await;
        if new {
            guest.sh(&format!("echo kept >{ON_VOLUME}; sync")).await;
        }
        self.judge_volume(&mut guest, "in the next sandbox").await;
        guest
    }

    /// What is on the volume, or the copy of it, is whole and can be written to.
    async fn judge_volume(&self, guest: &mut Guest, when: &str) {
        if self.operation.has_volume() {
            let look = format!("cat {ON_VOLUME}; echo more >>/{VOLUME}/more");
            assert_eq!(guest.sh(&look).await, "kept", "{when}: what is on the volume");
        }
    }

    /// Checks that store and world agree, that nothing is lost, and that what is there can be used.
    async fn judge(&mut self, end: &Outcome) {
        let when = &end.when;
        let all = agreed(&self.node, when).await;
        let find = |name: &str| all.iter().find(|sandbox| sandbox.name == name);
        let known = all.iter().all(|sandbox| [KEPT, MADE].contains(&sandbox.name.as_str()));
        assert!(known, "{when}: {all:?}");
        let snapshots = self.node.admin().snapshots().await.unwrap();
        self.expect(end, KEPT, find(KEPT).is_some(), self.operation.before() != Before::Nothing);
        self.expect(end, MADE, find(MADE).is_some(), false);
        let taken = self.operation.before() == Before::ColdAndTaken;
        self.expect(end, TAKEN, !snapshots.is_empty(), taken);
        if let Some(made) = find(MADE) {
            self.judge_made(end, made).await;
        }
        if !snapshots.is_empty() && self.operation != Operation::ResumeSnapshot {
            self.judge_snapshot(end).await;
        }
        match (find(KEPT), self.kept.take()) {
            (Some(kept), Some((guest, content))) => {
                self.judge_kept(end, kept, guest, content).await;
            }
            (None, _) => {}
            (Some(_), None) => panic!("{when}: the sandbox was never made"),
        }
    }

    /// Checks whether something is there that an operation may have made or removed.
    fn expect(&self, end: &Outcome, name: &str, there: bool, was_there: bool) {
        let changed = [self.operation.makes(), self.operation.removes()].contains(&Some(name));
        let wanted = was_there ^ (changed && end.succeeded);
        // A VM that dies may take with it what was just made.
        let open = changed && (!end.succeeded || end.action.is_some_and(Action::ends_monitors));
        assert!(open || there == wanted, "{}: {name}: there is {there}", end.when);
    }

    /// What was made is whole.
    async fn judge_made(&self, end: &Outcome, made: &Sandbox) {
        let (mut guest, found) = self.usable(end, made).await;
        if let (Some((_, content)), true) =
            (&self.kept, [Operation::Fork, Operation::ResumeSnapshot].contains(&self.operation))
        {
            content.check(&mut guest, found, &end.when).await;
            self.judge_volume(&mut guest, &end.when).await;
        }
        guest.client.destroy(MADE).await.unwrap();
    }

    /// The snapshot is whole, and goes.
    async fn judge_snapshot(&self, end: &Outcome) {
        let mut client = self.node.admin();
        let resumed = resume_snapshot(&mut client).await;
        resumed
            .unwrap_or_else(|error| panic!("{}: a snapshot: {}", end.when, error.to_body().error));
        let mut guest = Guest { client, id: MADE.to_owned() };
        let (_, content) = self.kept.as_ref().unwrap();
        content.check(&mut guest, Found::Everything, &end.when).await;
        self.judge_volume(&mut guest, &end.when).await;
        guest.client.destroy(MADE).await.unwrap();
        guest.client.delete_snapshot(TAKEN).await.unwrap();
    }

    /// What was there is whole. It stays if it is as good as new.
    async fn judge_kept(&mut self, end: &Outcome, kept: &Sandbox, guest: Guest, content: Content) {
        drop(guest);
        let (mut guest, found) = self.usable(end, kept).await;
        content.check(&mut guest, found, &end.when).await;
        self.judge_volume(&mut guest, &end.when).await;
        if end.action.is_none_or(|action| !action.ends_monitors()) {
            assert_eq!(found, Found::Everything, "{}: processes are lost", end.when);
        }
        if self.operation.removes() == Some(KEPT) || found == Found::Disk {
            let destroyed = guest.client.destroy(KEPT).await;
            destroyed.unwrap_or_else(|error| panic!("{}: again: {error}", end.when));
            return;
        }
        self.kept = Some((guest, content));
    }

    /// Makes sure that a sandbox runs, by the way that its owner is told of, and says what of it is
    /// there then.
    async fn usable(&self, end: &Outcome, sandbox: &Sandbox) -> (Guest, Found) {
        let when = &end.when;
        let mut client = self.node.admin();
        if sandbox.status == Status::Failed {
            let killed = end.action.is_some_and(Action::ends_monitors);
            assert!(killed, "{when}: it has failed: {sandbox:?}");
            let body = refused(client.exec(&sandbox.id, &sh("true")).await);
            let way_out = format!("bhatti start {}", sandbox.name);
            assert_eq!(body.code, ErrorCode::SandboxFailed, "{when}: {body:?}");
            assert!(body.hint.is_some_and(|hint| hint.contains(&way_out)), "{when}");
        }
        let started = start(&mut client, &sandbox.id).await;
        let started = started.unwrap_or_else(|error| {
            panic!("{when}: start {}: {}", sandbox.name, error.to_body().error)
        });
        let mut guest = Guest { client, id: sandbox.id.clone() };
        assert_eq!(guest.sh("hostname").await, sandbox.name, "{when}");
        match started.started_from {
            Some(StartedFrom::Disk) => (guest, Found::Disk),
            _ => (guest, Found::Everything),
        }
    }

    /// After all of that the sandbox is one like any other.
    async fn ends_well(&mut self) {
        let when = "at the end";
        if let Some((guest, content)) = self.kept.take() {
            let mut guest = guest.by(self.node.admin());
            guest.start(None).await.unwrap();
            guest.stop().await;
            guest.start(None).await.unwrap();
            content.check(&mut guest, Found::Everything, when).await;
            agreed(&self.node, when).await;
            guest.client.destroy(KEPT).await.unwrap();
        }
        let mut client = self.node.admin();
        for snapshot in client.snapshots().await.unwrap() {
            client.delete_snapshot(&snapshot.name).await.unwrap();
        }
        if self.operation.has_volume() {
            client.delete_volume(VOLUME).await.unwrap();
        }
        assert!(agreed(&self.node, when).await.is_empty());
    }
}

pub(crate) fn told(outcome: &Result<(), ClientError>) -> String {
    match outcome {
        Ok(()) => "done".to_owned(),
        Err(error) => {
            let body = error.to_body();
            format!("{}: {}", body.code, body.error)
        }
    }
}
