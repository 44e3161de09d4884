//! A node that lives through hard times: random operations, and again and again something dies or
//! fails in the middle of one.
//!
//! `BHATTI_SOAK_SECONDS` says for how long, `BHATTI_SOAK_SEED` repeats the choices of a run; how they
//! meet the clock is another matter each time.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]
#![allow(clippy::print_stderr, reason = "what was done last says why it failed")]

mod acts;
mod known;

use std::time::{Duration, Instant};

use api::{ErrorCode, Sandbox, StartSandbox, StartedFrom, Status, client::ClientError};
use e2e::{Found, Guest, Node, Options, agreed, images_are_whole};
use rustix::process::{Pid, Signal, kill_process};

use self::{
    acts::{Act, Dice, Kind, Trouble},
    known::Known,
};

/// In continuous integration.
const SECONDS: u64 = 600;
/// Whatever takes longer hangs.
const HANGS: Duration = Duration::from_secs(90);
/// Within so many milliseconds of the beginning of an operation something dies.
const SOON_MS: u64 = 120;

struct Soak {
    node: Node,
    dice: Dice,
    known: Known,
    troubles: u32,
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_lost_whatever_dies_whenever() {
    let number = |name: &str| std::env::var(name).ok().map(|text| text.parse::<u64>().unwrap());
    let seed = number("BHATTI_SOAK_SEED").unwrap_or_else(|| u64::from(std::process::id()) << 20);
    let seconds = number("BHATTI_SOAK_SECONDS").unwrap_or(SECONDS);
    eprintln!("BHATTI_SOAK_SEED={seed} BHATTI_SOAK_SECONDS={seconds}");
    let node = Node::with(&Options { faults: true, ..Options::default() });
    let mut soak = Soak { node, dice: Dice(seed), known: Known::default(), troubles: 0 };
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
        let act = self.known.choose(&mut self.dice);
        let trouble = (self.dice.roll(3) == 0).then(|| self.trouble()).flatten();
        let when = format!("step {number}, {act:?}, {trouble:?}");
        eprintln!("{when}");
        let outcome = self.carry_out(&act, trouble.as_ref()).await;
        if trouble.is_none()
            && let Err(error) = &outcome
        {
            assert!(act.may_fail_with(error), "{when}: {:?}", error.to_body());
        }
        if act.removes().is_some() && matches!(outcome, Err(ClientError::Api(_))) {
            self.removed_again(&act, &when).await;
        }
        self.recover(trouble.as_ref(), &when).await;
        self.known.note(&self.node, &act, outcome.is_ok(), &when).await;
        let of_images = act.makes().or(act.removes()).is_some_and(|(kind, _)| kind == Kind::Image);
        if of_images || matches!(act, Act::Prune) {
            images_are_whole(&self.node, &when).await;
        }
        self.look(&when).await;
    }

    /// What is half removed is good for nothing but to be removed.
    async fn removed_again(&mut self, act: &Act, when: &str) {
        let Err(error) = self.carry_out(act, None).await else { return };
        // All that was left to do was to say so.
        let gone = [ErrorCode::ImageNotFound, ErrorCode::VolumeNotFound];
        let is_gone = error.api_code().is_some_and(|code| gone.contains(code));
        assert!(is_gone, "{when}, again: {:?}", error.to_body());
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
        self.node.admin().destroy(&sandbox.name).await.unwrap();
        self.known.gone(&sandbox.name);
    }

    async fn checked(&mut self, sandbox: &Sandbox, found: Found, when: &str) {
        let mut guest = Guest { client: self.node.admin(), id: sandbox.id.clone() };
        let held = self.known.sandboxes.get_mut(&sandbox.name).unwrap();
        held.check(&mut guest, found, &format!("{when}: {}", sandbox.name)).await;
    }

    async fn end(mut self) {
        for act in self.known.all() {
            let gone = self.carry_out(&act, None).await;
            assert!(gone.is_ok(), "at the end, {act:?}: {gone:?}");
            self.known.note(&self.node, &act, true, "at the end").await;
        }
        assert!(agreed(&self.node, "at the end").await.is_empty());
        images_are_whole(&self.node, "at the end").await;
    }
}
