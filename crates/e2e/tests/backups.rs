//! Volumes that are kept elsewhere and brought back.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::{os::unix::fs::FileExt as _, path::PathBuf};

use api::{
    BackUpVolume, BackupStatus, CreateSandbox, CreateUser, CreateVolume, EditUser, ErrorCode,
    RestoreVolume, SetSchedule, Volume, VolumeBackup, VolumeMount, client::ClientError,
};
use backup::testing::{Moto, keys};
use e2e::{Guest, Node, Options, create_request, refused, until};

const SIZE_MB: u64 = 128;

/// A node that keeps backups in a directory of its own, and what else the text says.
fn node(more: &str, faults: bool) -> (Node, PathBuf, tempfile::TempDir) {
    let place = tempfile::tempdir().unwrap();
    let kept = place.path().join("kept");
    fs_err::create_dir(&kept).unwrap();
    let config = format!(
        "[backup]\ndefault = 'disk'\n[backup.destinations.disk]\ndirectory = '{}'\n{more}",
        kept.display()
    );
    // What a node is told lives as long as the test.
    let config = Box::leak(config.into_boxed_str());
    let node = Node::with(&Options { config, faults, ..Options::default() });
    (node, kept, place)
}

fn bucket(moto: &Moto) -> String {
    let config = moto.config();
    format!(
        "[backup.destinations.cloud]\nendpoint = '{}'\nbucket = '{}'\nprefix = 'a'\n\
         path_style = true\naccess_key = '{}'\nsecret_key = '{}'\n",
        moto.endpoint, config.bucket, config.access_key, config.secret_key
    )
}

async fn volume(node: &Node, name: &str) -> Volume {
    let request = CreateVolume { name: name.to_owned(), size_mb: SIZE_MB };
    node.admin().create_volume(&request).await.unwrap()
}

async fn guest(node: &Node, name: &str, volume: &str, read_only: bool) -> Guest {
    let mount = VolumeMount { name: volume.to_owned(), mount: "/d".to_owned(), read_only };
    let request = CreateSandbox { volumes: vec![mount], ..create_request(name) };
    Guest::create_by(node.admin(), request).await
}

async fn back_up(node: &Node, volume: &str, to: &str, key: &[&str]) -> VolumeBackup {
    let encrypt = key.iter().map(|key| (*key).to_owned()).collect();
    let request = BackUpVolume { to: Some(to.to_owned()), encrypt };
    node.admin().back_up_volume(volume, &request, drop).await.unwrap()
}

async fn restore(
    node: &Node,
    backup: &VolumeBackup,
    new_name: Option<&str>,
    identity: Option<&str>,
) -> Result<Volume, ClientError> {
    let request = RestoreVolume {
        backup_id: backup.id.clone(),
        new_name: new_name.map(ToOwned::to_owned),
        identity: identity.map(ToOwned::to_owned),
    };
    node.admin().restore_volume(&backup.volume_name, &request, drop).await
}

/// What is under way of backups on the host, which is nothing if none is.
fn under_way(node: &Node) -> usize {
    fs_err::read_dir(node.data().join("backups")).unwrap().count()
}

const HASH: &str = "cd /d && find . -type f | sort | xargs sha256sum | sha256sum";

#[tokio::test]
async fn a_volume_that_is_written_to_is_backed_up_whole_and_comes_back() {
    let (node, kept, _place) = node("", false);
    volume(&node, "data").await;
    let mut writer = guest(&node, "writer", "data", false).await;
    // Each file says of itself whether it is whole, and their order whether any is missing.
    let busy = "cd /d && i=0; while true; do i=$((i+1)); head -c 20000 /dev/urandom > t; \
                sha256sum < t > s; mv t f$i; mv s s$i; sync f$i s$i; done";
    let job = writer.detach(&e2e::sh(busy)).await;
    until("something is written", async || {
        (writer.sh("ls /d | wc -l").await.trim().parse::<u32>().unwrap() > 24).then_some(())
    })
    .await;
    writer.sh("echo before > /d/before; sync").await;
    let made = back_up(&node, "data", "disk", &[]).await;
    assert_eq!((made.status.clone(), made.encrypted), (BackupStatus::Ready, false));
    writer.sh("echo after > /d/after; sync").await;
    let file = kept.join(&made.key);
    assert_eq!(fs_err::metadata(&file).unwrap().len(), made.size_bytes);
    assert_eq!(base::hash::file(&file).unwrap(), made.sha256);
    assert_eq!(under_way(&node), 0);

    let volume = restore(&node, &made, Some("again"), None).await.unwrap();
    assert_eq!((volume.name.as_str(), volume.size_mb), ("again", SIZE_MB));
    // To be read only, its file system has to be whole without being mended.
    let mut reader = guest(&node, "reader", "again", true).await;
    assert_eq!(reader.sh("cat /d/before; ls /d/after 2>&1 | grep -c such").await, "before\n1");
    let whole = "cd /d && n=0; for s in s[0-9]*; do f=f${s#s}; test \"$(sha256sum < $f)\" = \
                 \"$(cat $s)\" || exit 1; n=$((n+1)); done; test $n -ge 10 && echo whole";
    assert_eq!(reader.sh(whole).await, "whole");

    // Over one that somebody has it is not restored.
    let error = refused(restore(&node, &made, None, None).await);
    assert_eq!(error.code, ErrorCode::VolumeInUse);
    assert!(error.hint.unwrap().contains("--as"));
    writer.sh("ls /d > /dev/null").await;
    drop(job);
    writer.destroy().await;
    restore(&node, &made, None, None).await.unwrap();
    let mut back = guest(&node, "back", "data", false).await;
    assert_eq!(back.sh("ls /d/after 2>&1 | grep -c such").await, "1");
    assert_eq!(back.sh(whole).await, "whole");
    back.destroy().await;

    // It outlives its volume, and makes it anew.
    node.admin().delete_volume("data").await.unwrap();
    assert_eq!(node.admin().volume_backups("data").await.unwrap(), std::slice::from_ref(&made));
    assert_eq!(restore(&node, &made, None, None).await.unwrap().name, "data");
    node.admin().delete_backup("data", &made.id).await.unwrap();
    assert!(!file.exists());
    let error = refused(restore(&node, &made, Some("late"), None).await);
    assert_eq!(error.code, ErrorCode::BackupNotFound);
}

#[tokio::test]
async fn what_is_encrypted_opens_for_whom_it_is_and_what_is_damaged_changes_nothing() {
    let (node, kept, _place) = node("", false);
    let ((public, secret), (_, other)) = (keys(), keys());
    volume(&node, "data").await;
    let mut writer = guest(&node, "writer", "data", false).await;
    let before = writer.sh(&format!("head -c 3000000 /dev/urandom > /d/f; {HASH}")).await;
    writer.destroy().await;
    // Nobody has it: it is read as it is.
    let made = back_up(&node, "data", "disk", &[&public]).await;
    assert!(made.encrypted && made.key.ends_with(".age"));
    let file =
        fs_err::OpenOptions::new().read(true).write(true).open(kept.join(&made.key)).unwrap();
    let mut first = [0; 21];
    file.file().read_exact_at(&mut first, 0).unwrap();
    assert_eq!(&first, b"age-encryption.org/v1");

    for identity in [None, Some(other.as_str())] {
        let error = refused(restore(&node, &made, Some("no"), identity).await);
        assert_eq!(error.code, ErrorCode::BackupLocked, "{error}");
    }
    restore(&node, &made, Some("again"), Some(&secret)).await.unwrap();
    let mut reader = guest(&node, "reader", "again", true).await;
    assert_eq!(reader.sh(HASH).await, before);
    reader.destroy().await;

    let middle = made.size_bytes / 2;
    let mut byte = [0];
    file.file().read_exact_at(&mut byte, middle).unwrap();
    file.file().write_all_at(&[byte[0] ^ 1], middle).unwrap();
    for into in [Some("no"), None] {
        let error = refused(restore(&node, &made, into, Some(&secret)).await);
        assert_eq!(error.code, ErrorCode::BackupCorrupt, "{error}");
    }
    file.set_len(middle).unwrap();
    let error = refused(restore(&node, &made, None, Some(&secret)).await);
    assert_eq!(error.code, ErrorCode::BackupCorrupt, "{error}");
    fs_err::remove_file(kept.join(&made.key)).unwrap();
    let error = refused(restore(&node, &made, None, Some(&secret)).await);
    assert_eq!(error.code, ErrorCode::BackupCorrupt, "{error}");

    let names: Vec<String> =
        node.admin().volumes().await.unwrap().into_iter().map(|volume| volume.name).collect();
    assert_eq!(names, ["again", "data"]);
    let mut reader = guest(&node, "reader", "data", true).await;
    assert_eq!(reader.sh(HASH).await, before);
    let error = refused(
        node.admin()
            .back_up_volume(
                "data",
                &BackUpVolume { to: Some("moon".into()), ..<_>::default() },
                drop,
            )
            .await,
    );
    assert_eq!(error.code, ErrorCode::BackupUnconfigured);
    assert_eq!(error.hint.unwrap(), "there is: disk");
    let request = BackUpVolume { to: None, encrypt: vec!["age1nobody".to_owned()] };
    let error = refused(node.admin().back_up_volume("data", &request, drop).await);
    assert_eq!(error.code, ErrorCode::InvalidRequest);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_schedule_keeps_what_is_wanted_in_a_bucket_and_says_what_fails() {
    let moto = Moto::start().await;
    let (mut node, _kept, _place) = node(&bucket(&moto), false);
    volume(&node, "data").await;
    let mut writer = guest(&node, "writer", "data", false).await;
    // More than one part.
    let before = writer.sh(&format!("head -c 12000000 /dev/urandom > /d/f; sync; {HASH}")).await;
    let by_hand = back_up(&node, "data", "cloud", &[]).await;
    assert!(by_hand.size_bytes > 12_000_000, "{by_hand:?}");
    restore(&node, &by_hand, Some("again"), None).await.unwrap();
    let mut reader = guest(&node, "reader", "again", true).await;
    assert_eq!(reader.sh(HASH).await, before);
    reader.destroy().await;
    writer.sh("rm /d/f").await;

    let often = SetSchedule {
        cron: "* * * * * *".to_owned(),
        to: Some("cloud".to_owned()),
        keep_last: 2,
        ..SetSchedule::default()
    };
    node.admin().schedule_volume("data", &often).await.unwrap();
    // Also a daemon that comes later does it.
    node.restart();
    let seen = std::sync::Mutex::new(std::collections::BTreeSet::new());
    until("four were made", async || {
        let all = node.admin().volume_backups("data").await.unwrap();
        let ready = |backup: &&VolumeBackup| backup.status == BackupStatus::Ready;
        let mut seen = seen.lock().unwrap();
        seen.extend(all.iter().filter(ready).map(|backup| backup.id.clone()));
        (seen.len() > 4).then_some(())
    })
    .await;
    until("what is not wanted is gone", async || {
        let all = node.admin().volume_backups("data").await.unwrap();
        let scheduled = all.iter().filter(|backup| backup.scheduled).count();
        (scheduled <= 3 && all.iter().any(|backup| backup.id == by_hand.id)).then_some(())
    })
    .await;

    // Its storage is gone: that is told, and what there was stays.
    node.expect_warning("a backup failed");
    node.expect_warning("a scheduled backup failed");
    node.expect_warning("is not whole");
    let broken = SetSchedule { to: Some("disk".to_owned()), ..often.clone() };
    fs_err::remove_dir_all(&_kept).unwrap();
    node.admin().schedule_volume("data", &broken).await.unwrap();
    let told = until("the failure is told", async || {
        node.admin().volume("data").await.unwrap().schedule?.last_error
    })
    .await;
    assert!(told.contains("directory for backups"), "{told}");
    let report = node.admin().backup_report().await.unwrap();
    let failures: Vec<_> =
        report.failures.iter().map(|one| (&one.volume[..], &one.error)).collect();
    assert_eq!((report.schedules, failures), (1, vec![("data", &told)]));
    assert_eq!(report.destinations, ["cloud", "disk"]);
    node.admin().unschedule_volume("data").await.unwrap();
    assert_eq!(node.admin().volume("data").await.unwrap().schedule, None);
    assert_eq!(node.admin().backup_report().await.unwrap().schedules, 0);
    let error = refused(
        node.admin().schedule_volume("data", &SetSchedule { cron: "daily".into(), ..often }).await,
    );
    assert_eq!(error.code, ErrorCode::ScheduleInvalid);
}

#[tokio::test(flavor = "multi_thread")]
async fn whenever_the_daemon_dies_a_backup_is_whole_or_failed_and_the_volume_is_as_it_was() {
    let moto = Moto::start().await;
    let (mut node, kept, _place) = node(&bucket(&moto), true);
    node.expect_warning("unfinished backups");
    volume(&node, "data").await;
    let mut writer = guest(&node, "writer", "data", false).await;
    let before = writer.sh(&format!("head -c 12000000 /dev/urandom > /d/f; sync; {HASH}")).await;
    writer.destroy().await;
    for (to, place) in [
        ("disk", "backup.begun"),
        ("cloud", "backup.frozen"),
        ("disk", "backup.rename"),
        ("cloud", "backup.sending"),
        ("disk", "backup.keep"),
        ("disk", "backup.sent"),
        ("cloud", "backup.sent"),
    ] {
        node.faults().arm(&format!("{place}=kill"));
        let request = BackUpVolume { to: Some(to.to_owned()), ..BackUpVolume::default() };
        let told = node.admin().back_up_volume("data", &request, drop).await;
        assert!(told.is_err(), "{place}: {told:?}");
        node.ended();
        node.faults().disarm();
        node.restart();
        let made = until("it is decided", async || {
            let all = node.admin().volume_backups("data").await.unwrap();
            let last = all.into_iter().next_back().unwrap();
            matches!(last.status, BackupStatus::Ready | BackupStatus::Failed).then_some(last)
        })
        .await;
        let goes_on = ["backup.sending", "backup.keep", "backup.sent"].contains(&place);
        assert_eq!(made.status == BackupStatus::Ready, goes_on, "{place}: {made:?}");
        until("nothing is left", async || (under_way(&node) == 0).then_some(())).await;
    }

    let all = node.admin().volume_backups("data").await.unwrap();
    let good: Vec<&VolumeBackup> =
        all.iter().filter(|backup| backup.status == BackupStatus::Ready).collect();
    assert_eq!(good.len(), 4);
    for place in ["restore.written", "restore.exchange", "restore.exchanged"] {
        node.faults().arm(&format!("{place}=kill"));
        assert!(restore(&node, good[0], None, None).await.is_err(), "{place}");
        node.ended();
        node.faults().disarm();
        node.restart();
        let names = fs_err::read_dir(node.data().join("volumes")).unwrap().count();
        assert_eq!(names, 1, "{place}");
        let mut reader = guest(&node, "reader", "data", true).await;
        assert_eq!(reader.sh(HASH).await, before, "{place}");
        reader.destroy().await;
    }
    // A full disk fails it, and leaves nothing.
    node.expect_warning("a backup failed");
    for place in ["backup.write", "backup.keep"] {
        node.faults().arm(&format!("{place}=enospc"));
        let request = BackUpVolume { to: Some("disk".to_owned()), ..BackUpVolume::default() };
        let error = refused(node.admin().back_up_volume("data", &request, drop).await);
        assert_eq!(error.code, ErrorCode::HostDiskFull, "{place}: {error}");
        node.faults().disarm();
        assert_eq!(under_way(&node), 0);
    }
    let files = |at: &std::path::Path| {
        let volumes = fs_err::read_dir(at.join("volumes")).unwrap().map(|d| d.unwrap().path());
        volumes.flat_map(|volume| fs_err::read_dir(volume).unwrap()).count()
    };
    assert_eq!(files(&kept), 2, "what was kept, and nothing else");
}

#[tokio::test]
async fn a_user_has_so_many_backups_and_no_more() {
    let (node, kept, _place) = node("", false);
    node.expect_warning("a backup failed");
    node.expect_warning("request failed: the directory for backups");
    let bob = CreateUser { name: "bob".into(), max_backups: Some(1), ..CreateUser::default() };
    let bob = node.user(bob).await;
    let mut client = node.client(&bob);
    let request = CreateVolume { name: "data".into(), size_mb: 16 };
    client.create_volume(&request).await.unwrap();
    // One that failed is none.
    let away = kept.with_extension("away");
    fs_err::rename(&kept, &away).unwrap();
    let request = BackUpVolume::default();
    let failed = refused(client.back_up_volume("data", &request, drop).await);
    assert_eq!(failed.code, ErrorCode::BackupStorageFailed, "{failed:?}");
    assert!(!failed.error.contains(kept.to_str().unwrap()), "{failed:?}");
    fs_err::rename(&away, &kept).unwrap();

    let first = client.back_up_volume("data", &request, drop).await.unwrap();
    let one_more = refused(client.back_up_volume("data", &request, drop).await);
    assert_eq!(one_more.code, ErrorCode::QuotaBackups, "{one_more:?}");
    assert_eq!(client.volume_backups("data").await.unwrap().len(), 2, "and what failed");
    client.delete_backup("data", &first.id).await.unwrap();
    client.back_up_volume("data", &request, drop).await.unwrap();
    let more = EditUser { max_backups: Some(2), ..EditUser::default() };
    assert_eq!(node.admin().edit_user("bob", &more).await.unwrap().max_backups, 2);
    client.back_up_volume("data", &request, drop).await.unwrap();
}
