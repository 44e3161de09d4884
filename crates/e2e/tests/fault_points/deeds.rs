//! Deeds, and all that can go wrong in them.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

use api::{ErrorCode, StartedFrom, Status, client::ClientError};
use e2e::{Content, Found, Guest, Node, Options, agreed, images_are_whole, unnamed_content};

use crate::{
    deed::{DATA, DEV, Deed, Means, make_volume, with},
    operation::start,
    round::{Action, HANGS, told},
};

/// The rounds of several deeds, on one node.
pub(crate) struct Deeds {
    deeds: &'static [Deed],
    node: Node,
    means: Means,
    /// What is in [`DEV`], as long as it is as good as new.
    content: Option<Content>,
}

/// One round.
#[derive(Clone, Copy)]
struct Fault<'a> {
    deed: Deed,
    place: &'a str,
    nth: usize,
    action: Action,
}

impl Fault<'_> {
    fn armed(self) -> String {
        format!("{}@{}={}", self.place, self.nth, self.action.name())
    }
}

impl Deeds {
    pub(crate) fn of(deeds: &'static [Deed]) -> Self {
        let node = Node::with(&Options { faults: true, ..Options::default() });
        Self { deeds, node, means: Means::of(deeds), content: None }
    }

    /// Lets each of `actions` happen at every place that each of them passes.
    pub(crate) async fn all(&mut self, actions: &[Action]) {
        for &deed in self.deeds {
            let places = self.places(deed).await;
            for (place, passings) in &places {
                let fits = |action: &&Action| !action.ends_monitors() || concerns_monitors(place);
                for &action in actions.iter().filter(fits) {
                    // In the middle it is as in the beginning, but for the names.
                    for nth in (1..=*passings).filter(|nth| *nth == 1 || nth == passings) {
                        self.round(Fault { deed, place, nth, action }).await;
                    }
                }
            }
        }
        self.end().await;
    }

    async fn places(&mut self, deed: Deed) -> BTreeMap<String, usize> {
        self.prepare(deed).await;
        if deed == Deed::BuildAgain {
            // All its steps are known then.
            self.act(deed).await.unwrap();
            self.prepare(deed).await;
        }
        self.node.faults().arm("");
        self.act(deed).await.unwrap_or_else(|error| panic!("{deed:?}: {:?}", error.to_body()));
        self.node.faults().disarm();
        let mut places = BTreeMap::new();
        for passing in self.node.faults().passed() {
            if deed.is_at(&passing.place) {
                *places.entry(passing.place).or_default() += 1;
            }
        }
        eprintln!("{deed:?} passes {places:?}");
        assert!(!places.is_empty(), "{deed:?} passes no place");
        self.judge(deed, &format!("{deed:?}"), false).await;
        places
    }

    async fn round(&mut self, fault: Fault<'_>) {
        let began = std::time::Instant::now();
        let Fault { deed, nth, action, .. } = fault;
        let when = format!("{deed:?} with {}", fault.armed());
        self.prepare(deed).await;
        self.node.faults().arm(&fault.armed());
        let mut outcome = self.act(deed).await;
        self.node.faults().disarm();
        let happened = self.node.faults().happened();
        eprint!("{when}: {}{}", if happened { "" } else { "not reached, " }, told(&outcome));
        assert!(happened || nth > 1, "{when}: the place was not passed");
        if happened && action.ends_daemon() {
            self.node.ended().expect("the daemon ran");
            self.node.restart();
        }
        self.is_told_well(fault, &outcome, happened, &when).await;
        let refused = matches!(outcome, Err(ClientError::Api(_)));
        if refused && deed.removes() {
            // What is half removed is good for nothing but to be removed.
            outcome = self.act(deed).await;
            outcome.as_ref().unwrap_or_else(|error| panic!("{when}, and again: {error}"));
        }
        let done = deed.is_done(&self.node, &self.means).await;
        assert!(done || outcome.is_err(), "{when}: it was done and is not");
        self.judge(deed, &when, happened && action.ends_monitors()).await;
        if refused {
            self.prepare(deed).await;
            let again = self.act(deed).await;
            again.unwrap_or_else(|error| panic!("{when}, and again: {:?}", error.to_body()));
            assert!(deed.is_done(&self.node, &self.means).await, "{when}, and again");
        }
        eprintln!(" ({} ms)", began.elapsed().as_millis());
    }

    /// What fails says why, and has done nothing.
    async fn is_told_well(
        &self,
        fault: Fault<'_>,
        outcome: &Result<(), ClientError>,
        happened: bool,
        when: &str,
    ) {
        let Err(ClientError::Api(body)) = outcome else { return };
        assert!(happened, "{when}: {body:?}");
        match fault.action {
            Action::NoSpace => assert_eq!(body.code, ErrorCode::HostDiskFull, "{when}: {body:?}"),
            // A broken disk is nothing that a caller can do something about.
            Action::Io => {}
            _ => assert_ne!(body.code, ErrorCode::Internal, "{when}: {body:?}"),
        }
        let half = !fault.deed.removes() && fault.deed.is_done(&self.node, &self.means).await;
        // It has grown as the row says, and only the file system in it has not.
        let grown = fault.deed == Deed::GrowWritten;
        assert!(!half || grown, "{when}: it failed and is done");
        if fault.deed == Deed::Save {
            let images = self.node.admin().images().await.unwrap();
            assert!(unnamed_content(&self.node, &images).is_empty(), "{when}: content stays");
        }
    }

    async fn act(&self, deed: Deed) -> Result<(), ClientError> {
        let acted = tokio::time::timeout(HANGS, deed.act(&self.node, &self.means)).await;
        acted.unwrap_or_else(|_| panic!("{deed:?} hangs"))
    }

    async fn prepare(&mut self, deed: Deed) {
        if deed.has_sandbox() && self.content.is_none() {
            let mut client = self.node.admin();
            let new = client.volume(DATA).await.is_err();
            if new {
                make_volume(&mut client, DATA).await.unwrap();
            }
            let mut guest = Guest::create_by(client, with(DEV, DATA)).await;
            if new {
                guest.sh("echo kept >/data/kept; sync").await;
            }
            self.content = Some(Content::plant(&mut guest).await);
        }
        deed.prepare(&self.node, &mut self.means).await;
    }

    /// Checks that store and world agree, that nothing is lost and that what is there can be used.
    async fn judge(&mut self, deed: Deed, when: &str, died: bool) {
        let all = agreed(&self.node, when).await;
        images_are_whole(&self.node, when).await;
        if let Some(sandbox) = all.iter().find(|sandbox| sandbox.name == DEV) {
            assert!(died || sandbox.status != Status::Failed, "{when}: {sandbox:?}");
            self.judge_sandbox(when).await;
        }
        if deed == Deed::Attach && all.iter().any(|sandbox| sandbox.name == "new") {
            let mut client = self.node.admin();
            start(&mut client, "new").await.unwrap();
            let mut guest = Guest { client, id: "new".to_owned() };
            guest.sh("echo x >/new/x && cat /new/x").await;
        }
    }

    /// What is in the sandbox and on its volume is there, and the volume is as large as it is said to be.
    async fn judge_sandbox(&mut self, when: &str) {
        let mut client = self.node.admin();
        let started = start(&mut client, DEV).await;
        let started = started.unwrap_or_else(|error| panic!("{when}: {:?}", error.to_body()));
        let mut guest = Guest { client, id: started.id };
        let found = match started.started_from {
            Some(StartedFrom::Disk) => Found::Disk,
            _ => Found::Everything,
        };
        let Some(content) = &self.content else { panic!("{when}: a sandbox from nowhere") };
        content.check(&mut guest, found, when).await;
        assert_eq!(guest.sh("cat /data/kept; echo more >>/data/more").await, "kept", "{when}");
        let volume = guest.client.volume(DATA).await.unwrap();
        let layers = self.node.data().join("volumes").join(&volume.id);
        assert_eq!(disk_mb(&layers), volume.size_mb, "{when}: the disk is not as it is said to be");
        if found == Found::Disk {
            // What counted in it is gone, so it is of no more use here.
            guest.client.destroy(DEV).await.unwrap();
            self.content = None;
        }
    }

    async fn end(&mut self) {
        let mut client = self.node.admin();
        for sandbox in client.sandboxes(&[]).await.unwrap() {
            client.destroy(&sandbox.id).await.unwrap();
        }
        for volume in client.volumes().await.unwrap() {
            client.delete_volume(&volume.name).await.unwrap();
        }
        assert!(agreed(&self.node, "at the end").await.is_empty());
    }
}

/// Whether it makes a difference at a place that monitors die just there. What was in them then is
/// booted from its disk, which takes seconds, so this is not tried everywhere.
fn concerns_monitors(place: &str) -> bool {
    ["copy.", "save.", "volumes."].iter().any(|its| place.starts_with(its))
}

/// How large the disk is whose layers are in a directory, which qcow2 has at byte 24 of the top one.
fn disk_mb(directory: &Path) -> u64 {
    let names = fs_err::read_dir(directory).unwrap().map(|entry| entry.unwrap().path());
    let number = |path: &PathBuf| {
        let name = path.file_name()?.to_str()?.strip_prefix("layer-")?.strip_suffix(".qcow2")?;
        name.parse::<u32>().ok()
    };
    let top = names.filter(|path| number(path).is_some()).max_by_key(number).unwrap();
    let head = fs_err::read(top).unwrap();
    u64::from_be_bytes(head[24..32].try_into().unwrap()) >> 20
}
