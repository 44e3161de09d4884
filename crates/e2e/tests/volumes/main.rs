//! Disks that outlive sandboxes.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use api::{
    CopyVolume, CreateSandbox, CreateUser, CreateVolume, ErrorBody, ErrorCode, ResizeVolume,
    StartFrom, Volume, VolumeMount, client::ClientError,
};
use e2e::{Guest, Node, agreed, create_request, refused, root, sh, signal, until};
use rustix::process::{Pid, Signal, kill_process};

const SIZE_MB: u64 = 64;

async fn volume(node: &Node, name: &str) -> Volume {
    let request = CreateVolume { name: name.to_owned(), size_mb: SIZE_MB };
    node.admin().create_volume(&request).await.unwrap()
}

fn at(name: &str, mount: &str) -> VolumeMount {
    VolumeMount { name: name.to_owned(), mount: mount.to_owned(), read_only: false }
}

fn to_read(name: &str, mount: &str) -> VolumeMount {
    VolumeMount { read_only: true, ..at(name, mount) }
}

fn request(name: &str, volumes: &[VolumeMount]) -> CreateSandbox {
    CreateSandbox { volumes: volumes.to_vec(), ..create_request(name) }
}

async fn create(node: &Node, name: &str, volumes: &[VolumeMount]) -> Guest {
    Guest::create_by(node.admin(), request(name, volumes)).await
}

/// The refusal of a sandbox with this volume.
async fn cannot_have(node: &Node, volume: VolumeMount) -> ErrorBody {
    refused(node.admin().create(&request("refused", &[volume]), drop).await)
}

async fn clone_of(node: &Node, from: &str, name: &str) -> Result<Volume, ClientError> {
    node.admin().copy_volume(from, &CopyVolume { name: name.to_owned() }).await
}

async fn resized(node: &Node, name: &str, size_mb: u64) -> Result<Volume, ClientError> {
    node.admin().resize_volume(name, &ResizeVolume { size_mb }).await
}

#[tokio::test]
async fn what_was_written_outlives_its_sandbox_and_has_one_writer_or_many_readers() {
    let node = Node::start();
    let made = volume(&node, "data").await;
    assert_eq!((made.size_mb, made.attachments.len()), (SIZE_MB, 0));
    assert!(made.size_bytes < 1 << 20, "{made:?}");
    let mut writer = create(&node, "writer", &[at("data", "/srv/new/place/")]).await;
    // An empty volume belongs to whoever commands run as. Nothing is flushed by hand.
    let hash = "cd /srv/new/place && head -c 3000000 /dev/urandom > f && sha256sum < f";
    let written = writer.sh(hash).await;
    let shown = writer.view().await;
    assert_eq!(shown.volumes[0].mount, "/srv/new/place");
    assert_eq!(shown.volumes[0].copied_at, None);
    for wanted in [at("data", "/d"), to_read("data", "/d")] {
        let error = cannot_have(&node, wanted).await;
        assert_eq!(error.code, ErrorCode::VolumeInUse);
        assert!(error.error.contains("sandbox writer writes to it"), "{error:?}");
    }
    writer.destroy().await;

    let mut readers = Vec::new();
    for name in ["one", "two"] {
        let mut reader = create(&node, name, &[to_read("data", "/d")]).await;
        assert_eq!(reader.sh("sha256sum < /d/f").await, written);
        // Neither by way of the file system nor of the device, whatever the guest's root does.
        let device = reader.root("awk '$2 == \"/d\" { print $1 }' /proc/mounts").await;
        for attempt in [
            "touch /d/x".to_owned(),
            "mount -o remount,rw /d && touch /d/x && sync /d/x".to_owned(),
            format!("dd if=/dev/zero of={device} bs=4096 count=1 conv=fsync"),
        ] {
            let answer = reader.exec(&root(&attempt)).await.unwrap();
            assert_ne!(answer.exit_code, 0, "{attempt}: {answer:?}");
        }
        readers.push(reader);
    }
    let error = cannot_have(&node, at("data", "/d")).await;
    assert!(error.error.contains("sandbox one reads it"), "{error:?}");
    let listed = node.admin().volumes().await.unwrap();
    let users: Vec<&str> = listed[0].attachments.iter().map(|user| user.sandbox.as_str()).collect();
    assert_eq!(users, ["one", "two"]);
    for (code, outcome) in [
        (ErrorCode::VolumeInUse, node.admin().delete_volume("data").await.map(drop)),
        (ErrorCode::VolumeInUse, resized(&node, "data", 2 * SIZE_MB).await.map(drop)),
    ] {
        assert_eq!(refused(outcome).code, code);
    }
    for reader in readers {
        reader.destroy().await;
    }
    let mut writer = create(&node, "again", &[at("data", "/d")]).await;
    assert_eq!(writer.sh("touch /d/x && sha256sum < /d/f").await, written);
    writer.destroy().await;
    node.admin().delete_volume("data").await.unwrap();
    assert!(node.admin().volumes().await.unwrap().is_empty());
    agreed(&node, "after all").await;
}

#[tokio::test]
async fn a_volume_goes_through_all_that_its_sandbox_goes_through() {
    let mut node = Node::start();
    volume(&node, "data").await;
    let mut guest = create(&node, "dev", &[at("data", "/data")]).await;
    guest.sh("echo 1 > /data/log").await;
    for round in 2..5 {
        guest.sh(&format!("exec 3>> /data/log; echo {round} >&3")).await;
        guest.stop().await;
        assert_eq!(cannot_have(&node, to_read("data", "/d")).await.code, ErrorCode::VolumeInUse);
        node.kill9();
        node.restart();
        guest.client = node.admin();
        guest.sh(&format!("tail -n 1 /data/log | grep -x {round}")).await;
    }
    guest.client.pause(&guest.id).await.unwrap();
    node.kill9();
    node.restart();
    guest.client = node.admin();
    guest.sh("echo 5 >> /data/log").await;
    node.kill9();
    node.restart();
    guest.client = node.admin();
    // The older state of the sandbox is that of the volume, too.
    guest.stop().await;
    guest.sh("echo lost >> /data/log; sync").await;
    guest.client = node.admin();
    kill_monitor(&node, &mut guest).await;
    guest.start(Some(StartFrom::Snapshot)).await.unwrap();
    assert_eq!(guest.sh("xargs < /data/log").await, "1 2 3 4 5");
    guest.sh("echo 6 >> /data/log; sync").await;
    kill_monitor(&node, &mut guest).await;
    guest.start(Some(StartFrom::Disk)).await.unwrap();
    assert_eq!(guest.sh("xargs < /data/log").await, "1 2 3 4 5 6");
    guest.stop().await;
    // What was not written yet when it was stopped is on the volume.
    guest.destroy().await;
    let mut reader = create(&node, "reader", &[to_read("data", "/data")]).await;
    assert_eq!(reader.sh("xargs < /data/log").await, "1 2 3 4 5 6");
    agreed(&node, "after all").await;
}

/// Kills the sandbox's monitor.
async fn kill_monitor(node: &Node, guest: &mut Guest) {
    node.expect_warning("the VM ended");
    node.expect_warning("connection is lost");
    let monitor = Pid::from_raw(node.monitor(&guest.id)).unwrap();
    kill_process(monitor, Signal::KILL).unwrap();
    guest.failed().await;
}

#[tokio::test]
async fn copies_have_data_of_their_own_and_the_original_goes_on() {
    let mut node = Node::start();
    volume(&node, "data").await;
    let mut guest = create(&node, "dev", &[at("data", "/data")]).await;
    guest.sh("head -c 2000000 /dev/urandom > /data/big; echo common > /data/f").await;
    let big = guest.sh("sha256sum < /data/big").await;
    let mut fork = guest.fork("fork", 1, || node.admin()).await.remove(0);
    guest.checkpoint("memory").await;
    guest.checkpoint_disk("disk").await;
    guest.sh("echo original >> /data/f; rm /data/big").await;
    fork.sh("echo fork >> /data/f; rm /data/big; head -c 2000000 /dev/zero > /data/big").await;
    let mut resumed = Guest::resumed(node.admin(), "memory", "resumed").await;
    let mut booted = Guest::resumed(node.admin(), "disk", "booted").await;
    for (copy, said) in [(&mut resumed, "resumed"), (&mut booted, "booted")] {
        assert_eq!(copy.sh("cat /data/f; sha256sum < /data/big").await, format!("common\n{big}"));
        copy.sh(&format!("echo {said} >> /data/f; sync")).await;
        let shown = copy.view().await.volumes;
        assert!(shown[0].copied_at.is_some() && shown[0].name == "data", "{shown:?}");
    }
    let attached = node.admin().volume("data").await.unwrap().attachments;
    assert_eq!(attached.len(), 1, "{attached:?}");
    assert_eq!(guest.sh("xargs < /data/f").await, "common original");
    // Neither sleep nor another daemon nor a copy of the copy gives any of them the data of another.
    for copy in [&mut fork, &mut resumed] {
        copy.stop().await;
    }
    node.kill9();
    node.restart();
    guest.by(node.admin()).destroy().await;
    node.admin().delete_snapshot("memory").await.unwrap();
    let mut reader = create(&node, "reader", &[to_read("data", "/data")]).await;
    assert_eq!(reader.sh("xargs < /data/f; ls /data/big 2>&1 | wc -l").await, "common original\n1");
    reader.destroy().await;
    node.admin().delete_volume("data").await.unwrap();
    for (copy, said) in [(fork, "fork"), (resumed, "resumed"), (booted, "booted")] {
        let mut copy = copy.by(node.admin());
        assert_eq!(copy.sh("xargs < /data/f").await, format!("common {said}"));
        let mut again = copy.fork(&format!("{said}-2"), 1, || node.admin()).await.remove(0);
        copy.destroy().await;
        assert_eq!(again.sh("xargs < /data/f").await, format!("common {said}"));
        again.destroy().await;
    }
    agreed(&node, "after all").await;
}

#[tokio::test]
async fn a_clone_is_whole_while_its_source_is_being_written() {
    let node = Node::start();
    volume(&node, "data").await;
    let mut guest = create(&node, "dev", &[at("data", "/data")]).await;
    let count = "n=0; while :; do n=$((n+1)); echo $n >> /data/log; done";
    let counting = guest.detach(&sh(count)).await;
    until("it counts", async || {
        guest
            .exec(&sh("test $(wc -l < /data/log) -gt 20"))
            .await
            .unwrap()
            .exit_code
            .eq(&0)
            .then_some(())
    })
    .await;
    clone_of(&node, "data", "first").await.unwrap();
    let was: u64 = guest.sh("wc -l < /data/log").await.parse().unwrap();
    guest.client.pause(&guest.id).await.unwrap();
    clone_of(&node, "data", "second").await.unwrap();
    guest.sh(&format!("while [ $(wc -l < /data/log) -le {was} ]; do usleep 1000; done")).await;
    guest.client.job_kill(&guest.id, &counting, &signal("KILL")).await.unwrap();
    guest.stop().await;
    clone_of(&node, "data", "third").await.unwrap();
    guest.destroy().await;
    clone_of(&node, "data", "fourth").await.unwrap();
    let clones = ["first", "second", "third", "fourth"];
    let volumes: Vec<VolumeMount> =
        clones.iter().map(|name| to_read(name, &format!("/{name}"))).collect();
    // All can be read at once: none needs to be mended.
    let mut reader = create(&node, "reader", &volumes).await;
    let mut before = 0;
    for name in clones {
        let gapless = format!("awk 'NR != $1 {{ exit 1 }} END {{ print NR }}' /{name}/log");
        let lines: u64 = reader.sh(&gapless).await.parse().unwrap();
        assert!(lines >= before && lines > 20, "{name}: {lines} after {before}");
        before = lines;
    }
    reader.destroy().await;
    // What is written to one is not in the others.
    let mut writer = create(&node, "writer", &[at("first", "/first")]).await;
    writer.sh("rm /first/log").await;
    let mut reader = create(&node, "reader", &[to_read("second", "/second")]).await;
    reader.sh("test -s /second/log").await;
    assert_eq!(refused(clone_of(&node, "data", "first").await).code, ErrorCode::VolumeExists);
    agreed(&node, "after all").await;
}

#[tokio::test]
async fn a_volume_grows_at_once_or_when_it_is_next_used() {
    let mut node = Node::start();
    let small = CreateVolume { name: "data".to_owned(), size_mb: 32 };
    node.admin().create_volume(&small).await.unwrap();
    let megabytes = "df -m /data | awk 'NR == 2 { print $2 }'";
    let fill = |mb: u64| format!("head -c {} /dev/urandom > /data/big && sync /data/big", mb << 20);
    let mut guest = create(&node, "dev", &[at("data", "/data")]).await;
    assert_eq!(guest.exec(&sh(&fill(32))).await.unwrap().exit_code, 1);
    resized(&node, "data", 64).await.unwrap();
    guest.sh(&fill(40)).await;
    // Also of one that has booted, which knows its device's true size, and while it is paused.
    guest.stop().await;
    let stopped = refused(resized(&node, "data", 80).await);
    assert_eq!(stopped.code, ErrorCode::WrongState);
    assert_eq!(node.admin().volume("data").await.unwrap().size_mb, 64);
    guest.start(Some(StartFrom::Disk)).await.unwrap();
    guest.client.pause(&guest.id).await.unwrap();
    resized(&node, "data", 80).await.unwrap();
    let now: u64 = guest.sh(megabytes).await.parse().unwrap();
    assert!(now > 66, "{now}");
    guest.stop().await;
    node.kill9();
    node.restart();
    let mut guest = guest.by(node.admin());
    guest.sh(&fill(60)).await;
    let written = guest.sh("sha256sum < /data/big").await;
    guest.destroy().await;
    resized(&node, "data", 400).await.unwrap();
    assert_eq!(refused(resized(&node, "data", 399).await).code, ErrorCode::VolumeSizeInvalid);
    // A reader has it as it is: there is more room only once somebody writes.
    let mut reader = create(&node, "reader", &[to_read("data", "/data")]).await;
    assert_eq!(reader.sh("sha256sum < /data/big").await, written);
    reader.destroy().await;
    let mut guest = create(&node, "dev", &[at("data", "/data")]).await;
    let now: u64 = guest.sh(megabytes).await.parse().unwrap();
    assert!(now > 360, "{now}");
    assert_eq!(guest.sh("sha256sum < /data/big").await, written);
    agreed(&node, "after all").await;
}

#[tokio::test]
async fn a_killed_monitor_leaves_a_volume_that_a_writer_mends() {
    let node = Node::start();
    volume(&node, "data").await;
    let mut guest = create(&node, "dev", &[at("data", "/data")]).await;
    guest.sh("mkdir /data/d; for n in $(seq 300); do echo $n > /data/d/$n; done; sync").await;
    guest.sh("rm /data/d/300; echo x > /data/unsynced").await;
    kill_monitor(&node, &mut guest).await;
    let gone = guest.client.destroy(&guest.id).await.unwrap();
    assert!(gone.warning.unwrap().contains("may be lost"));
    let unclean = cannot_have(&node, to_read("data", "/data")).await;
    assert_eq!(unclean.code, ErrorCode::VolumeUnclean);
    assert!(unclean.hint.unwrap().contains("mends it"));
    agreed(&node, "after a refusal").await;
    let mut writer = create(&node, "writer", &[at("data", "/data")]).await;
    writer.sh("for n in $(seq 299); do [ $(cat /data/d/$n) = $n ] || exit 1; done").await;
    let gone = writer.client.destroy(&writer.id).await.unwrap();
    assert_eq!(gone.warning, None);
    let mut reader = create(&node, "reader", &[to_read("data", "/data")]).await;
    reader.sh("test $(cat /data/d/299) = 299").await;
}

#[tokio::test]
async fn a_full_volume_fails_its_writers_and_nobody_else() {
    let node = Node::start();
    let request = CreateVolume { name: "small".to_owned(), size_mb: 16 };
    node.admin().create_volume(&request).await.unwrap();
    let mut guest = create(&node, "dev", &[at("small", "/small")]).await;
    let answer = guest.exec(&sh("cat /dev/zero > /small/f")).await.unwrap();
    assert!(answer.exit_code != 0 && answer.stderr.contains("No space left"), "{answer:?}");
    guest.sh("echo fine > /tmp/f").await;
    guest.stop().await;
    guest.sh("cat /tmp/f; rm /small/f; echo again > /small/f").await;
    let copy = guest.fork("copy", 1, || node.admin()).await.remove(0);
    copy.destroy().await;
    guest.destroy().await;
    let mut reader = create(&node, "reader", &[to_read("small", "/s")]).await;
    assert_eq!(reader.sh("cat /s/f").await, "again");
}

#[tokio::test]
async fn volumes_keep_their_places() {
    let mut node = Node::start();
    let names: Vec<String> = ["c", "a", "b"].iter().map(|name| format!("vol-{name}")).collect();
    for name in &names {
        volume(&node, name).await;
    }
    let volumes: Vec<VolumeMount> =
        names.iter().map(|name| at(name, &format!("/{name}"))).collect();
    let mut guest = create(&node, "dev", &volumes).await;
    for name in &names {
        guest.sh(&format!("echo {name} > /{name}/me")).await;
    }
    let check: String =
        names.iter().map(|name| format!("[ $(cat /{name}/me) = {name} ] || exit 1; ")).collect();
    let mut fork = guest.fork("fork", 1, || node.admin()).await.remove(0);
    fork.sh(&check).await;
    guest.stop().await;
    fork.stop().await;
    node.kill9();
    node.restart();
    for mut one in [guest.by(node.admin()), fork.by(node.admin())] {
        one.sh(&check).await;
        one.stop().await;
        one.start(Some(StartFrom::Disk)).await.unwrap();
        one.sh(&check).await;
        one.destroy().await;
    }
    // Others, or the same in another order, are another sandbox.
    let mut turned: Vec<VolumeMount> = volumes.clone();
    turned.rotate_left(1);
    let mut other = create(&node, "dev", &turned).await;
    other.sh(&check).await;
    let same = node.admin().create(&request("dev", &turned), drop).await.unwrap();
    assert!(same.existing);
    let error = refused(node.admin().create(&request("dev", &volumes), drop).await);
    assert_eq!(error.code, ErrorCode::NameTaken);
}

#[tokio::test]
async fn what_cannot_be_is_refused_and_leaves_nothing() {
    let mut node = Node::start();
    volume(&node, "data").await;
    let missing = cannot_have(&node, at("nothing", "/d")).await;
    assert_eq!((missing.code.http_status(), missing.code), (404, ErrorCode::VolumeNotFound));
    assert!(missing.hint.unwrap().contains("bhatti volume create nothing --size 1G"));
    for place in ["/", "/etc", "/proc/x", "d", "/a/../etc"] {
        assert_eq!(cannot_have(&node, at("data", place)).await.code, ErrorCode::InvalidRequest);
    }
    let new = |name: &str, size_mb| CreateVolume { name: name.to_owned(), size_mb };
    for (request, code) in [
        (new("data", 64), ErrorCode::VolumeExists),
        (new("a b", 64), ErrorCode::InvalidName),
        (new("x", 1), ErrorCode::VolumeSizeInvalid),
        (new("x", 1 << 40), ErrorCode::VolumeSizeInvalid),
    ] {
        assert_eq!(refused(node.admin().create_volume(&request).await).code, code, "{request:?}");
    }
    let bob = CreateUser { name: "bob".into(), max_volume_mb: Some(100), ..CreateUser::default() };
    let bob = node.user(bob).await;
    let mut client = node.client(&bob);
    client.create_volume(&new("data", 60)).await.unwrap();
    for outcome in [
        client.create_volume(&new("more", 60)).await,
        client.copy_volume("data", &CopyVolume { name: "more".into() }).await,
        client.resize_volume("data", &ResizeVolume { size_mb: 101 }).await,
    ] {
        assert_eq!(refused(outcome).code, ErrorCode::QuotaVolumes);
    }
    client.resize_volume("data", &ResizeVolume { size_mb: 100 }).await.unwrap();
    assert_eq!(client.volumes().await.unwrap().len(), 1, "others' volumes are nobody else's");
    assert_eq!(refused(node.admin().delete_user("bob").await).code, ErrorCode::UserInUse);
    client.delete_volume("data").await.unwrap();
    assert_eq!(refused(client.volume("data").await).code, ErrorCode::VolumeNotFound);
    agreed(&node, "after all").await;

    // What no row speaks of is kept: the store may be an older one than the data.
    node.expect_warning("a directory without a row is set aside");
    node.kill9();
    let stray = node.data().join("volumes/vol_00112233aabb");
    fs_err::create_dir(&stray).unwrap();
    fs_err::write(stray.join("disk.raw"), "precious").unwrap();
    node.restart();
    let kept = node.data().join("volumes/lost-vol_00112233aabb");
    assert_eq!(fs_err::read(kept.join("disk.raw")).unwrap(), b"precious");
    fs_err::remove_dir_all(kept).unwrap();
}
