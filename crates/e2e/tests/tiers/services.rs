//! systemd is the real one, whatever becomes of the machine around it.

use api::{BuildEvent, BuildImage, ExecRequest, JobStatus, StartFrom, Status};
use e2e::{DISK_MB, Guest, Node, Terminal, root, sh, signal};

use super::sandbox_of;

/// Counts in a file, a line each time it begins.
const UNIT: &str = "cat > /etc/systemd/system/counter.service <<'END'
[Service]
ExecStart=/bin/sh -c 'echo began >> /root/begun; n=0; while sleep 0.3; do n=$((n+1)); echo $n > /run/count; done'
Restart=always
RestartSec=0
[Install]
WantedBy=multi-user.target
END
systemctl daemon-reload && systemctl enable --now --quiet counter";

async fn with_services(node: &Node) -> Guest {
    let mut guest = sandbox_of(node, "services", 256, DISK_MB).await;
    assert_eq!(guest.sh("systemctl is-system-running").await, "running");
    guest
}

async fn main_pid(guest: &mut Guest) -> String {
    guest.sh("systemctl show --property=MainPID --value counter").await
}

/// Waits until the counter has gone on.
async fn counts(guest: &mut Guest) {
    guest
        .sh("was=$(cat /run/count); until [ \"$(cat /run/count)\" != \"$was\" ]; do sleep 0.2; done")
        .await;
}

#[tokio::test]
async fn units_run_and_are_started_again_and_keep_a_journal() {
    let node = Node::start();
    let mut guest = with_services(&node).await;
    guest.root(UNIT).await;
    let first = main_pid(&mut guest).await;
    guest
        .root(&format!("kill -9 {first}; until [ $(wc -l < /root/begun) = 2 ]; do sleep 0.1; done"))
        .await;
    let second = main_pid(&mut guest).await;
    assert_ne!(first, second);
    let journal = guest.root("journalctl --unit=counter --output=cat --no-pager").await;
    assert!(journal.contains("code=killed, status=9/KILL"), "{journal}");
    assert_eq!(
        guest.sh("cat /proc/self/cgroup; systemctl is-active counter").await,
        "0::/commands\nactive"
    );
    // What belongs to the agent or the host is left to them.
    let masked =
        guest.sh("systemctl is-enabled systemd-udevd getty@tty1 systemd-networkd; true").await;
    assert!(masked.lines().all(|line| line == "masked-runtime"), "{masked}");
    assert_eq!(guest.sh("cat /etc/hostname; hostname").await, "services\nservices");
    // Each end of the mounts sees those of the other.
    guest.root("mkdir -p /mnt/x && mount -t tmpfs none /mnt/x && echo there > /mnt/x/file").await;
    let read = guest.read("/mnt/x/file", api::client::FilePart::default()).await.unwrap();
    assert_eq!(read, b"there\n");
}

#[tokio::test]
async fn commands_are_among_the_services_and_end_as_they_always_do() {
    let node = Node::start();
    let mut guest = with_services(&node).await;
    assert_eq!(guest.sh("cat /proc/1/comm").await, "systemd");
    let code = |answer: api::ExecResponse| (answer.exit_code, answer.timed_out);
    assert_eq!(code(guest.exec(&sh("exit 7")).await.unwrap()), (7, false));
    assert_eq!(code(guest.exec(&sh("kill -9 $$")).await.unwrap()), (137, false));
    let late = ExecRequest { timeout_sec: Some(1), ..sh("sleep 1000 & sleep 1001") };
    assert_eq!(code(guest.exec(&late).await.unwrap()), (137, true));
    assert_eq!(guest.sh("pgrep -f 'sleep 100[0]' || echo none").await, "none");

    let job = guest.detach(&sh("echo $$; exec sleep 2000")).await;
    let shown = guest.client.job(&guest.id, &job).await.unwrap();
    let mut terminal = Terminal::open(&guest, "").await;
    terminal.type_in("echo pid=$$ tty=$(tty)\n").await;
    let said = terminal.until("tty=/dev/pts/").await;
    let session = guest.client.sessions(&guest.id).await.unwrap().remove(0);
    assert!(said.contains(&format!("pid={} ", session.pid)), "{said}");
    let all = guest.sh(&format!("ps -o args= -p {},{}", shown.pid, session.pid)).await;
    assert_eq!(all.lines().next(), Some("sleep 2000"), "{all}");
    assert!(all.lines().nth(1).is_some_and(|line| line.contains("bash")), "{all}");
    guest.client.session_kill(&guest.id, &session.session_id, &signal("KILL")).await.unwrap();
    terminal.end().await;
    guest.client.job_kill(&guest.id, &job, &signal("TERM")).await.unwrap();
    e2e::until("the job has ended", async || {
        let job = guest.client.job(&guest.id, &job).await.unwrap();
        (job.status == JobStatus::Exited).then_some(job.exit_code)
    })
    .await;
    guest
        .root("systemd-run --quiet --unit=web --socket-property=ListenStream=127.0.0.1:8000 true")
        .await;
    let ports = guest.client.ports(&guest.id).await.unwrap();
    assert_eq!((ports[0].container_port, ports[0].pid), (8000, Some(1)), "{ports:?}");
}

#[tokio::test]
async fn copies_and_those_that_slept_have_their_services_and_are_machines_of_their_own() {
    let node = Node::start();
    let mut guest = with_services(&node).await;
    guest.root(UNIT).await;
    let pid = main_pid(&mut guest).await;
    let mut copies = guest.fork("copy", 2, || node.admin()).await;
    guest.stop().await;
    let mut ids = vec![guest.sh("cat /etc/machine-id").await];
    for copy in &mut copies {
        ids.push(copy.sh("cat /etc/machine-id").await);
        assert_eq!(copy.sh("hostname").await, copy.view().await.name);
        // What was in the journal is there, and what comes gets there.
        copy.root("echo said-in-the-copy | systemd-cat; journalctl --sync").await;
        let journal = copy.root("journalctl --output=cat --no-pager").await;
        assert!(
            journal.contains("Started counter") && journal.contains("said-in-the-copy"),
            "{journal}"
        );
    }
    for machine in copies.iter_mut().chain([&mut guest]) {
        assert_eq!(main_pid(machine).await, pid);
        counts(machine).await;
        assert_eq!(machine.sh("systemctl is-system-running").await, "running");
        machine.root("systemctl restart counter").await;
        assert_ne!(main_pid(machine).await, pid);
    }
    // What asks for the machine's id gets the one that it has now.
    let asked = copies[0].sh("hostnamectl | sed -n 's/.*Machine ID: //p'").await;
    assert_eq!(asked, ids[1]);
    ids.sort();
    ids.dedup();
    assert_eq!(ids.len(), 3);
}

#[tokio::test]
async fn a_machine_whose_systemd_dies_still_runs_commands() {
    let node = Node::start();
    let mut guest = with_services(&node).await;
    let mut waiting = guest.by(node.admin());
    let kill = "echo 1000 > /proc/1/oom_score_adj; echo f > /proc/sysrq-trigger; sleep 1000";
    // The kernel ends all that were with it.
    assert_eq!(waiting.exec(&root(kill)).await.unwrap().exit_code, 137);
    assert_eq!(guest.sh("cat /proc/self/cgroup; cat /proc/1/comm").await, "0::/\ninit");
    let said = guest.root("dmesg | grep 'lohar:'").await;
    assert!(said.contains("systemd was killed by 9, and all services with it"), "{said}");
    assert_ne!(guest.exec(&sh("systemctl is-system-running")).await.unwrap().exit_code, 0);
    let mut copy = guest.fork("copy", 1, || node.admin()).await.remove(0);
    assert_eq!(copy.sh("echo fine").await, "fine");
}

#[tokio::test]
async fn a_machine_that_systemd_turns_off_is_off_and_starts_again_with_its_units() {
    let node = Node::start();
    node.expect_warning("the VM ended");
    node.expect_warning("connection is lost");
    node.expect_warning("code=agent_unreachable");
    node.expect_warning("code=vm_died");
    let mut guest = with_services(&node).await;
    guest.root(UNIT).await;
    let id = guest.sh("cat /etc/machine-id").await;
    // It may be gone before it can answer.
    let _ = guest.exec(&root("touch /tmp/kept; systemctl poweroff")).await;
    guest.failed().await;
    let started = guest.start(None).await.unwrap();
    assert_eq!(started.status, Status::Running);
    guest.sh("until [ -e /run/count ]; do sleep 0.5; done").await;
    assert_eq!(
        guest.sh("systemctl is-system-running --wait; cat /etc/machine-id").await,
        format!("running\n{id}")
    );
    // It was asked to end, and found what it had written; nobody empties directories in passing.
    guest.root("test -e /tmp/kept && test $(wc -l < /root/begun) = 2").await;
    let journal = guest.root("journalctl --output=cat --no-pager").await;
    assert!(journal.contains("Started counter"), "{journal}");
}

/// What a machine says that has systemd and does not run it.
const WITHOUT: &str = "init\n0::/\noffline";

#[tokio::test]
async fn an_image_whose_label_says_so_is_without_its_services_at_each_boot() {
    let node = Node::start();
    let request = BuildImage {
        name: "quiet".to_owned(),
        dockerfile: "FROM services\nLABEL bhatti.services=off\n".to_owned(),
        ..BuildImage::default()
    };
    let nothing = std::io::Cursor::new(vec![0; 1024]);
    let mut admin = node.admin();
    let mut events = admin.image_build(&request, nothing).await.unwrap();
    while let Some(event) = events.next().await.unwrap() {
        assert!(!matches!(event, BuildEvent::Error(_)), "{event:?}");
    }
    let mut quiet = sandbox_of(&node, "quiet", 256, DISK_MB).await;
    let looked = "cat /proc/1/comm /proc/self/cgroup; systemctl is-system-running; true";
    assert_eq!(quiet.sh(looked).await, WITHOUT);
    // The image's own file says so too, and so does what its sandbox makes of that.
    let mut other = with_services(&node).await;
    other.root("echo services off > /etc/bhatti.conf; sync").await;
    for machine in [&mut quiet, &mut other] {
        machine.stop().await;
        machine.start(Some(StartFrom::Disk)).await.unwrap();
        assert_eq!(machine.sh(looked).await, WITHOUT);
    }
}
