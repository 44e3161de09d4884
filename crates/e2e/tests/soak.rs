//! A node that lives through hard times: random operations, and again and again something dies or
//! fails in the middle of one.
//!
//! `BHATTI_SOAK_SECONDS` says for how long, `BHATTI_SOAK_SEED` repeats the choices of a run; how they
//! meet the clock is another matter each time.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]
#![allow(clippy::print_stderr, reason = "what was done last says why it failed")]

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use api::{
    CreateSnapshot, ErrorCode, ForkSandbox, ResumeSnapshot, Sandbox, StartSandbox, StartedFrom,
    Status,
    client::{Client, ClientError},
};
use e2e::{Content, Found, Guest, Node, Options, agreed, create_request};
use rustix::process::{Pid, Signal, kill_process};

/// In continuous integration.
const SECONDS: u64 = 600;
/// Whatever takes longer hangs.
const HANGS: Duration = Duration::from_secs(90);
/// Most sandboxes and snapshots that there are at a time.
const SANDBOXES: usize = 4;
const SNAPSHOTS: usize = 2;
/// Within so many milliseconds of the beginning of an operation something dies.
const SOON_MS: u64 = 120;

/// Numbers that look random and can be had again: splitmix64.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % sides
    }

    fn pick<'a, T>(&mut self, of: &'a [T]) -> Option<&'a T> {
        let index = self.roll(u64::try_from(of.len()).unwrap().max(1));
        of.get(usize::try_from(index).unwrap())
    }
}

#[derive(Debug, Clone)]
enum Act {
    Create(String),
    Check(String),
    Stop(String),
    Start(String),
    Pause(String),
    Destroy(String),
    Fork(String, String),
    Snapshot(String, String),
    Resume(String, String),
    Forget(String),
}

impl Act {
    async fn carry_out(&self, client: &mut Client) -> Result<(), ClientError> {
        match self {
            Self::Create(name) => client.create(&create_request(name), drop).await.map(drop),
            Self::Check(name) => client.exec(name, &e2e::sh("true")).await.map(drop),
            Self::Stop(name) => client.stop(name, drop).await.map(drop),
            Self::Start(name) => client.start(name, &StartSandbox::default(), drop).await.map(drop),
            Self::Pause(name) => client.pause(name).await.map(drop),
            Self::Destroy(name) => client.destroy(name).await.map(drop),
            Self::Fork(from, name) => {
                let request = ForkSandbox { name: Some(name.clone()), count: Some(1) };
                client.fork(from, &request).await.map(drop)
            }
            Self::Snapshot(from, name) => {
                let request = CreateSnapshot { name: name.clone(), kind: None };
                client.checkpoint(from, &request).await.map(drop)
            }
            Self::Resume(from, name) => {
                let request = ResumeSnapshot { name: Some(name.clone()) };
                client.resume_snapshot(from, &request).await.map(drop)
            }
            Self::Forget(name) => client.delete_snapshot(name).await.map(drop),
        }
    }
}

/// What goes wrong.
#[derive(Debug, Clone)]
enum Trouble {
    /// So many milliseconds after the operation has begun: the daemon, a monitor.
    Death { after_ms: u64, daemon: bool, monitor: bool },
    /// At a place that an earlier operation has passed.
    Armed(String),
}

struct Soak {
    node: Node,
    dice: Dice,
    /// What the sandboxes hold, by name; `None` if not even a file has to be in it.
    held: BTreeMap<String, Option<Content>>,
    /// What each snapshot is of.
    taken: BTreeMap<String, Option<Content>>,
    made: u32,
    troubles: u32,
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_lost_whatever_dies_whenever() {
    let number = |name: &str| std::env::var(name).ok().map(|text| text.parse::<u64>().unwrap());
    let seed = number("BHATTI_SOAK_SEED").unwrap_or_else(|| u64::from(std::process::id()) << 20);
    let seconds = number("BHATTI_SOAK_SECONDS").unwrap_or(SECONDS);
    eprintln!("BHATTI_SOAK_SEED={seed} BHATTI_SOAK_SECONDS={seconds}");
    let node = Node::with(&Options { faults: true, ..Options::default() });
    let (held, taken) = (BTreeMap::new(), BTreeMap::new());
    let mut soak = Soak { node, dice: Dice(seed), held, taken, made: 0, troubles: 0 };
    let began = Instant::now();
    let mut steps = 0;
    while began.elapsed() < Duration::from_secs(seconds) {
        steps += 1;
        soak.step(steps).await;
    }
    eprintln!("{steps} operations, {} of them in trouble", soak.troubles);
    assert!(soak.troubles > 0, "nothing went wrong");
    soak.end().await;
}

impl Soak {
    async fn step(&mut self, number: u32) {
        let act = self.choose();
        let trouble = (self.dice.roll(3) == 0).then(|| self.trouble()).flatten();
        let when = format!("step {number}, {act:?}, {trouble:?}");
        eprintln!("{when}");
        let outcome = self.carry_out(&act, trouble.as_ref()).await;
        if trouble.is_none()
            && let Err(error) = &outcome
        {
            // Of a stopped one there are no vCPUs to pause.
            let fits =
                matches!(act, Act::Pause(_)) && error.api_code() == Some(&ErrorCode::WrongState);
            assert!(fits, "{when}: {:?}", error.to_body());
        }
        if matches!(act, Act::Destroy(_) | Act::Forget(_))
            && matches!(outcome, Err(ClientError::Api(_)))
        {
            // What is half removed is good for nothing but to be removed.
            let again = self.carry_out(&act, None).await;
            again.unwrap_or_else(|error| panic!("{when}, again: {:?}", error.to_body()));
        }
        self.recover(trouble.as_ref(), &when).await;
        self.note(&act, outcome.is_ok(), &when).await;
        self.look(&when).await;
    }

    fn choose(&mut self) -> Act {
        let names: Vec<String> = self.held.keys().cloned().collect();
        let snapshots: Vec<String> = self.taken.keys().cloned().collect();
        loop {
            let some = self.dice.pick(&names).cloned();
            let room = names.len() < SANDBOXES;
            let act = match (self.dice.roll(12), some) {
                (_, None) => Act::Create(self.name("s")),
                (0, _) if room => Act::Create(self.name("s")),
                (1 | 2, Some(name)) => Act::Stop(name),
                (3 | 4, Some(name)) => Act::Start(name),
                (5, Some(name)) => Act::Pause(name),
                (6, Some(name)) => Act::Check(name),
                (7, Some(name)) if names.len() > 1 => Act::Destroy(name),
                (8, Some(name)) if room => Act::Fork(name, self.name("f")),
                (9, Some(name)) if snapshots.len() < SNAPSHOTS => {
                    Act::Snapshot(name, self.name("t"))
                }
                (10, _) if room && !snapshots.is_empty() => {
                    Act::Resume(self.dice.pick(&snapshots).unwrap().clone(), self.name("r"))
                }
                (11, _) if !snapshots.is_empty() => {
                    Act::Forget(self.dice.pick(&snapshots).unwrap().clone())
                }
                _ => continue,
            };
            return act;
        }
    }

    fn name(&mut self, kind: &str) -> String {
        self.made += 1;
        format!("{kind}{}", self.made)
    }

    fn trouble(&mut self) -> Option<Trouble> {
        self.troubles += 1;
        if self.dice.roll(2) == 0 {
            let after_ms = self.dice.roll(SOON_MS);
            let (daemon, monitor) = [(true, false), (false, true), (true, true)]
                [usize::try_from(self.dice.roll(3)).unwrap()];
            return Some(Trouble::Death { after_ms, daemon, monitor });
        }
        let places: Vec<String> =
            self.node.faults().passed().into_iter().map(|passing| passing.place).collect();
        let place = self.dice.pick(&places)?.clone();
        let action =
            ["kill", "vmm", "both", "enospc", "eio"][usize::try_from(self.dice.roll(5)).unwrap()];
        Some(Trouble::Armed(format!("{place}={action}")))
    }

    /// Does it, and has something go wrong meanwhile.
    async fn carry_out(&mut self, act: &Act, trouble: Option<&Trouble>) -> Result<(), ClientError> {
        let mut client = self.node.admin();
        if let Some(Trouble::Armed(fault)) = trouble {
            self.node.faults().arm(fault);
        }
        let doing = act.clone();
        let doing = tokio::spawn(async move { doing.carry_out(&mut client).await });
        if let Some(Trouble::Death { after_ms, daemon, monitor }) = trouble {
            #[expect(clippy::disallowed_methods, reason = "a moment that nothing tells of")]
            tokio::time::sleep(Duration::from_millis(*after_ms)).await;
            let monitors = self.node.monitors();
            if *monitor && let Some((pid, _)) = self.dice.pick(&monitors) {
                // It may just have ended by itself.
                let _ = kill_process(Pid::from_raw(*pid).unwrap(), Signal::KILL);
                // Until then nobody can know that it is dead.
                e2e::until("the monitor is gone", async || {
                    e2e::process_start(*pid).is_err().then_some(())
                })
                .await;
            }
            if *daemon {
                self.node.kill9();
            }
        }
        let done = tokio::time::timeout(HANGS, doing).await;
        self.node.faults().disarm();
        done.unwrap_or_else(|_| panic!("{act:?} hangs")).unwrap()
    }

    /// A daemon serves again, and what it says is so.
    async fn recover(&mut self, trouble: Option<&Trouble>, when: &str) {
        let died = match trouble {
            Some(Trouble::Death { daemon, .. }) => *daemon,
            Some(Trouble::Armed(fault)) if self.node.faults().happened() => {
                let died = fault.ends_with("=kill") || fault.ends_with("=both");
                if died {
                    let _how = self.node.ended();
                }
                died
            }
            _ => false,
        };
        if died {
            self.node.restart();
        }
        agreed(&self.node, when).await;
    }

    /// Notes what there is now.
    async fn note(&mut self, act: &Act, succeeded: bool, when: &str) {
        let all = self.node.admin().sandboxes(&[]).await.unwrap();
        let there = |name: &String| all.iter().any(|sandbox| sandbox.name == *name);
        match act {
            Act::Create(name) if there(name) => drop(self.held.insert(name.clone(), None)),
            Act::Fork(from, name) if there(name) => {
                let content = self.held[from].clone();
                self.held.insert(name.clone(), content);
            }
            Act::Resume(from, name) if there(name) => {
                let content = self.taken[from].clone();
                self.held.insert(name.clone(), content);
            }
            Act::Destroy(name) if !there(name) => drop(self.held.remove(name)),
            Act::Create(name) | Act::Fork(_, name) | Act::Resume(_, name) => {
                assert!(!succeeded, "{when}: {name} was made and is not there");
            }
            Act::Destroy(name) => assert!(!succeeded, "{when}: {name} is still there"),
            Act::Snapshot(..) | Act::Forget(_) => {}
            Act::Check(_) | Act::Stop(_) | Act::Start(_) | Act::Pause(_) => {}
        }
        let snapshots = self.node.admin().snapshots().await.unwrap();
        let there = |name: &String| snapshots.iter().any(|snapshot| snapshot.name == *name);
        if let Act::Snapshot(from, name) = act {
            assert!(there(name) || !succeeded, "{when}: {name} was taken and is not there");
            if there(name) {
                self.taken.insert(name.clone(), self.held[from].clone());
            }
        }
        if let Act::Forget(name) = act {
            assert!(!there(name) || !succeeded, "{when}: {name} is still there");
        }
        self.taken.retain(|name, _| there(name));
        assert_eq!(snapshots.len(), self.taken.len(), "{when}: {snapshots:?}");
        let (known, found) = (self.held.len(), all.len());
        assert_eq!(known, found, "{when}: {all:?}");
    }

    /// Looks into every sandbox that runs and one of the others; one that failed is started.
    async fn look(&mut self, when: &str) {
        let all = self.node.admin().sandboxes(&[]).await.unwrap();
        let asleep: Vec<&Sandbox> = all.iter().filter(|s| s.status == Status::Stopped).collect();
        let woken = match self.dice.roll(4) {
            0 => self.dice.pick(&asleep).map(|sandbox| sandbox.id.clone()),
            _ => None,
        };
        for sandbox in &all {
            match sandbox.status {
                Status::Failed => self.started_again(sandbox, when).await,
                Status::Stopped if woken.as_ref() != Some(&sandbox.id) => {}
                _ => self.checked(sandbox, Found::Everything, when).await,
            }
        }
    }

    async fn started_again(&mut self, sandbox: &Sandbox, when: &str) {
        let started = self.node.admin().start(&sandbox.name, &StartSandbox::default(), drop).await;
        let started = started.unwrap_or_else(|error| {
            panic!("{when}: {} cannot be started: {:?}", sandbox.name, error.to_body())
        });
        assert_eq!(started.started_from, Some(StartedFrom::Disk), "{when}");
        self.checked(sandbox, Found::Disk, when).await;
        // What counted in it is gone, so it is of no more use here.
        self.held.remove(&sandbox.name);
        self.node.admin().destroy(&sandbox.name).await.unwrap();
    }

    /// What has to be in it is in it. One that holds nothing yet gets something.
    async fn checked(&mut self, sandbox: &Sandbox, found: Found, when: &str) {
        let mut guest = Guest { client: self.node.admin(), id: sandbox.id.clone() };
        match &self.held[&sandbox.name] {
            Some(content) => content.check(&mut guest, found, when).await,
            None if found == Found::Everything => {
                let content = Content::plant(&mut guest).await;
                self.held.insert(sandbox.name.clone(), Some(content));
            }
            None => {}
        }
    }

    async fn end(mut self) {
        let mut client = self.node.admin();
        for name in self.taken.keys() {
            client.delete_snapshot(name).await.unwrap();
        }
        for name in std::mem::take(&mut self.held).into_keys() {
            let gone = client.destroy(&name).await;
            assert!(
                gone.as_ref().err().and_then(ClientError::api_code) != Some(&ErrorCode::Internal),
                "{gone:?}"
            );
        }
        assert!(agreed(&self.node, "at the end").await.is_empty());
    }
}
