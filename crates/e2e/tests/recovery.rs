//! Daemons that die, and what the next one makes of it.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::time::Duration;

use api::{Status, Thermal};
use e2e::{Guest, Node, agreed, create_request, process_start, sh};

const COUNTER: &str = "(n=0; while :; do n=$((n+1)); echo $n >> /tmp/count; usleep 5000; done) \
                       >/dev/null 2>&1 & sync";
const GAPLESS: &str = "awk 'NR != $1 { exit 1 }' /tmp/count; was=$(wc -l < /tmp/count); \
                       while [ $(wc -l < /tmp/count) = $was ]; do usleep 1000; done; \
                       awk 'NR != $1 { exit 1 }' /tmp/count";

#[tokio::test]
async fn a_running_sandbox_outlives_its_daemon_and_is_taken_up() {
    let mut node = Node::start();
    let mut guest = Guest::create(&node, "dev").await;
    guest.sh(COUNTER).await;
    let monitor = node.monitor(&guest.id);
    let started = process_start(monitor).unwrap();
    for round in 0..4 {
        if round % 2 == 0 {
            node.kill9();
        } else {
            node.terminate();
        }
        assert_eq!(node.monitor(&guest.id), monitor, "it died with its daemon");
        node.restart();
        guest = guest.by(node.admin());
        assert_eq!(node.monitor(&guest.id), monitor);
        assert_eq!(process_start(monitor).unwrap(), started);
        guest.sh(GAPLESS).await;
        let view = guest.view().await;
        assert_eq!((&view.status, &view.thermal), (&Status::Running, &Some(Thermal::Hot)));
    }
    guest.stop().await;
    assert!(node.monitors().is_empty() && node.groups().is_empty(), "an adopted one is freed too");
    node.kill9();
    node.restart();
    guest.by(node.admin()).sh(GAPLESS).await;
}

#[tokio::test]
async fn every_state_is_found_again_as_it_was() {
    let mut node = Node::start();
    node.expect_warning("the VM ended");
    node.expect_warning("connection is lost");
    let mut paused = Guest::create(&node, "paused").await;
    let mut stopped = Guest::create(&node, "stopped").await;
    let mut failed = Guest::create(&node, "failed").await;
    let mut dies = Guest::create(&node, "dies").await;
    for guest in [&mut paused, &mut stopped, &mut failed, &mut dies] {
        guest.sh("echo kept > /tmp/kept; sync").await;
    }
    paused.client.pause(&paused.id).await.unwrap();
    stopped.stop().await;
    let kill = |pid| {
        let pid = rustix::process::Pid::from_raw(pid).unwrap();
        rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
    };
    kill(node.monitor(&failed.id));
    let cause = failed.failed().await.failure.unwrap().cause;
    let unharmed = node.monitor(&paused.id);
    node.kill9();
    kill(node.monitor(&dies.id));
    node.restart();
    for guest in [&mut paused, &mut stopped, &mut failed, &mut dies] {
        *guest = guest.by(node.admin());
    }

    let all = agreed(&node, "after the restart").await;
    let of = |name: &str| all.iter().find(|sandbox| sandbox.name == name).unwrap();
    assert_eq!(
        (&of("paused").status, &of("paused").thermal),
        (&Status::Running, &Some(Thermal::Warm))
    );
    assert_eq!(node.monitor(&paused.id), unharmed);
    assert_eq!(of("stopped").status, Status::Stopped);
    assert_eq!(of("failed").failure.as_ref().unwrap().cause, cause);
    assert_eq!(of("dies").status, Status::Failed);
    let cause = &of("dies").failure.as_ref().unwrap().cause;
    assert!(cause.contains("daemon was not running"), "{cause}");
    failed.start(None).await.unwrap();
    dies.start(None).await.unwrap();
    for guest in [&mut paused, &mut stopped, &mut failed, &mut dies] {
        assert_eq!(guest.sh("cat /tmp/kept").await, "kept");
    }
}

/// A small generator whose numbers are the same every time.
struct Seeded(u64);

impl Seeded {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % limit
    }
}

/// What is under way when the daemon is killed.
#[derive(Debug, Clone, Copy)]
enum Step {
    Create,
    Stop,
    Wake,
    Destroy,
}

async fn take(node: &Node, step: Step, round: usize) {
    let mut client = node.admin();
    // How it ends is not told to anybody: the daemon is killed.
    match step {
        Step::Create => {
            let _ = client.create(&create_request(&format!("made-{round}")), drop).await;
        }
        Step::Stop => drop(client.stop("dev", drop).await),
        Step::Wake => drop(client.exec("dev", &sh("true")).await),
        Step::Destroy => {
            let other = format!("made-{}", round.wrapping_sub(1));
            drop(client.destroy(&other).await);
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_daemon_killed_at_any_moment_leaves_nothing_half_made() {
    let mut node = Node::start();
    for warning in ["killing a VM that no sandbox owns", "could not be vouched for", "the VM ended"]
    {
        node.expect_warning(warning);
    }
    let mut guest = Guest::create(&node, "dev").await;
    guest.sh(COUNTER).await;
    // The same moments every time, unless somebody goes looking for others.
    let seed = std::env::var("BHATTI_TEST_SEED").ok().and_then(|seed| seed.parse().ok());
    let mut random = Seeded(seed.unwrap_or(0x5eed_cafe_f00d_0001));
    let steps = [Step::Stop, Step::Wake, Step::Create, Step::Stop, Step::Wake, Step::Destroy];
    for round in 0..24 {
        let step = steps[round % steps.len()];
        let delay = Duration::from_micros(random.below(120_000));
        let when = format!("round {round}: killed {delay:?} into {step:?}");
        eprintln!("{when}");
        // The moment is the point of this test, so a timer it is.
        let _ = tokio::time::timeout(delay, take(&node, step, round)).await;
        node.kill9();
        node.restart();
        guest = guest.by(node.admin());
        let all = agreed(&node, &when).await;
        let dev = all.iter().find(|sandbox| sandbox.name == "dev").expect(&when);
        assert_ne!(dev.status, Status::Failed, "{when}: {dev:?}");
        guest.sh(GAPLESS).await;
        for other in all.iter().filter(|sandbox| sandbox.name != "dev") {
            assert_ne!(other.status, Status::Failed, "{when}: {other:?}");
            let mut other = Guest { client: node.admin(), id: other.id.clone() };
            assert_eq!(other.sh("echo usable").await, "usable", "{when}");
            if !matches!(step, Step::Create) {
                other.client.destroy(&other.id).await.unwrap();
            }
        }
    }
}
