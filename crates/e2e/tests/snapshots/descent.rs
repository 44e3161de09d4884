//! Parents, children and grandchildren, none of which needs another.

use api::{SnapshotType, Status, Thermal};
use e2e::{Counting, Guest, Living, Node, Terminal};

/// Layers of a disk that is being written to, at most.
const MOST_LAYERS: usize = 33;

/// To disk and back, and everything is there.
async fn survives_a_stop(living: &Living, guest: &mut Guest, when: &str) {
    guest.stop().await;
    living.check(guest, when).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_snapshot_disturbs_nothing_and_each_copy_of_it_goes_on_by_itself() {
    let node = Node::start();
    // Of the client that is attached when it is stopped.
    node.expect_warning("code=agent_unreachable");
    let mut guest = Guest::create(&node, "dev").await;
    let living = Living::plant(&mut guest).await;
    let (mut watching, looking) = (guest.by(node.admin()), guest.by(node.admin()));
    let mut counting = Counting::begin(&mut watching).await;
    let mut shell = Terminal::open(&looking, "new=true").await;
    shell.type_in("secret=kept; echo re''ady\n").await;
    shell.until("ready\r\n").await;
    for number in 1..=3 {
        assert_eq!(Living::ask(&mut guest).await, number);
    }
    counting.goes_on(3).await;

    let before = guest.view().await;
    let taken = guest.checkpoint("base").await;
    assert!(taken.paused_ms.is_some_and(|ms| ms > 0.0), "{taken:?}");
    let snapshot = &taken.snapshot;
    assert_eq!((snapshot.kind.clone(), snapshot.name.as_str()), (SnapshotType::Memory, "base"));
    assert_eq!((snapshot.source_sandbox.as_str(), snapshot.memory_mb), ("dev", e2e::MEMORY_MB));
    assert_eq!(guest.client.snapshot("base").await.unwrap(), *snapshot);
    let after = guest.view().await;
    assert_eq!((&after.status, &after.thermal), (&Status::Running, &Some(Thermal::Hot)));
    assert_eq!(after.activity.as_ref().unwrap().attached, before.activity.unwrap().attached);
    shell.type_in("echo \"<$secret>\"\n").await;
    shell.until("<kept>\r\n").await;
    counting.goes_on(10).await;
    living.check(&mut guest, "the source").await;

    let mut one = Guest::resumed(node.admin(), "base", "one").await;
    let mut two = Guest::resumed(node.admin(), "base", "two").await;
    for (guest, times) in [(&mut one, 1), (&mut guest, 2), (&mut two, 3)] {
        for time in 1..=times {
            assert_eq!(Living::ask(guest).await, 3 + time, "each counts on from the snapshot");
        }
    }
    for (guest, name) in [(&mut one, "one"), (&mut guest, "dev"), (&mut two, "two")] {
        guest.sh("hostname > /tmp/who; hostname > /dev/shm/who").await;
        living.check(guest, name).await;
    }
    for (guest, name) in [(&mut one, "one"), (&mut guest, "dev"), (&mut two, "two")] {
        assert_eq!(guest.sh("cat /tmp/who /dev/shm/who").await, format!("{name}\n{name}"));
        let mut shell = match name {
            "dev" => continue,
            _ => Terminal::open(guest, &format!("session={}", shell.session)).await,
        };
        assert!(!shell.created);
        shell.replayed().await;
        shell.type_in("echo \"<$secret>\"\n").await;
        shell.until("<kept>\r\n").await;
    }
    // What ends in the source ends nowhere else.
    guest.sh("touch /tmp/enough").await;
    counting.ends().await;
    one.sh("test ! -e /tmp/enough").await;

    guest.client.delete_snapshot("base").await.unwrap();
    for guest in [&mut one, &mut guest, &mut two] {
        survives_a_stop(&living, guest, "after the snapshot went").await;
    }
    drop(shell);
    guest.destroy().await;
    for guest in [&mut one, &mut two] {
        survives_a_stop(&living, guest, "after the source went").await;
    }
    one.destroy().await;
    survives_a_stop(&living, &mut two, "after the other copy went").await;
    assert_eq!(Living::ask(&mut two).await, 7);
}

#[tokio::test]
async fn ten_generations_need_none_of_their_ancestors() {
    let node = Node::start();
    let mut guest = Guest::create(&node, "gen-0").await;
    let living = Living::plant(&mut guest).await;
    for generation in 1..=10 {
        guest.sh(&format!("echo {generation} >> /tmp/generations")).await;
        assert_eq!(Living::ask(&mut guest).await, generation);
        guest.checkpoint("parent").await;
        let child = Guest::resumed(node.admin(), "parent", &format!("gen-{generation}")).await;
        guest.client.delete_snapshot("parent").await.unwrap();
        std::mem::replace(&mut guest, child).destroy().await;
        let generations: String = (1..=generation).map(|n| format!("{n}\n")).collect();
        assert_eq!(
            guest.sh("hostname; cat /tmp/generations").await,
            format!("gen-{generation}\n{generations}").trim_end()
        );
    }
    living.check(&mut guest, "the tenth generation").await;
    survives_a_stop(&living, &mut guest, "the tenth generation on disk and back").await;
    assert_eq!(Living::ask(&mut guest).await, 11);
}

#[tokio::test]
async fn a_disk_of_more_layers_than_are_kept_is_put_together_and_its_ancestors_stay() {
    let node = Node::start();
    let mut guest = Guest::create(&node, "dev").await;
    let living = Living::plant(&mut guest).await;
    let directory = node.data().join("sandboxes").join(&guest.id);
    let layers = || {
        let files = e2e::files_below(&directory);
        files.iter().filter(|file| file.to_string_lossy().ends_with(".qcow2")).count()
    };
    // Each leaves a layer below which the snapshot shares, so that none can be merged.
    let (mut before, mut shortened) = (0, false);
    for number in 0..40 {
        guest.sh(&format!("echo {number} >> /tmp/numbers")).await;
        guest.checkpoint(&format!("s{number}")).await;
        shortened |= layers() < before;
        before = layers();
        assert!(before <= MOST_LAYERS, "{before} layers");
    }
    assert!(shortened, "{before} layers");
    living.check(&mut guest, "put together while it runs").await;
    // As many as there may be, and then a stop puts them together.
    while layers() < MOST_LAYERS {
        guest.checkpoint(&format!("more-{}", layers())).await;
    }
    survives_a_stop(&living, &mut guest, "put together in a stop").await;
    assert!(layers() <= 3, "{} layers", layers());
    let numbers: Vec<String> = (0..40).map(|number| number.to_string()).collect();
    assert_eq!(guest.sh("cat /tmp/numbers").await, numbers.join("\n"));
    for (snapshot, numbers) in [("s0", &numbers[..1]), ("s34", &numbers[..35])] {
        let mut copy = Guest::resumed(node.admin(), snapshot, snapshot).await;
        assert_eq!(copy.sh("cat /tmp/numbers").await, numbers.join("\n"));
        survives_a_stop(&living, &mut copy, snapshot).await;
    }
}
