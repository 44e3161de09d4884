//! Sandboxes with volumes, made of what stood ready before it was known which volumes.

use api::{CreateSandbox, CreateVolume, ForkSandbox, ResizeVolume, VolumeMount};
use e2e::{Guest, Node, agreed, create_request, root};

use crate::{ready, spare};

pub(crate) async fn volume(node: &Node, name: &str) {
    let request = CreateVolume { name: name.to_owned(), size_mb: 32 };
    node.admin().create_volume(&request).await.unwrap();
}

pub(crate) fn at(name: &str, mount: &str) -> VolumeMount {
    VolumeMount { name: name.to_owned(), mount: mount.to_owned(), read_only: false }
}

pub(crate) fn request(name: &str, volumes: &[VolumeMount]) -> CreateSandbox {
    CreateSandbox { volumes: volumes.to_vec(), ..create_request(name) }
}

/// Has what stands ready be for sandboxes like this.
pub(crate) async fn warm_for(node: &Node, wanted: &CreateSandbox) {
    // What stands ready just after the first may still be for others.
    for name in ["one", "two"] {
        let request = CreateSandbox { name: Some(name.to_owned()), ..wanted.clone() };
        Guest::create_by(node.admin(), request).await.destroy().await;
        node.stands_ready().await;
    }
}

/// Makes a sandbox, which has to be of a guest that stood ready.
async fn made_ready(node: &Node, wanted: &CreateSandbox) -> Guest {
    warm_for(node, wanted).await;
    let standing = spare(node);
    let guest = Guest::create_by(node.admin(), wanted.clone()).await;
    assert!(standing.contains(&node.monitor(&guest.id)), "nothing stood ready for {wanted:?}");
    guest
}

/// How large a mounted file system is, MB.
const MEGABYTES: &str = "df -m /data | awk 'NR == 2 { print $2 }'";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_volume_goes_through_everything_in_what_stood_ready() {
    let mut node = ready(false).await;
    for name in ["data", "more"] {
        volume(&node, name).await;
    }
    let both = [at("data", "/data"), at("more", "/more")];
    let mut guest = made_ready(&node, &request("dev", &both)).await;
    assert_eq!(guest.view().await.volumes.len(), 2);
    guest.sh("echo 1 > /data/log; head -c 3000000 /dev/urandom > /more/big").await;
    let big = guest.sh("sha256sum < /more/big").await;
    node.stands_ready().await;
    for round in 2..4 {
        guest.sh(&format!("exec 3>> /data/log; echo {round} >&3")).await;
        guest.stop().await;
        let standing = spare(&node);
        guest.start(None).await.unwrap();
        assert!(standing.contains(&node.monitor(&guest.id)), "nothing stood ready");
        guest.sh(&format!("tail -n 1 /data/log | grep -x {round}; exec 3>&-")).await;
        node.stands_ready().await;
    }
    let standing = spare(&node);
    let copies = guest.client.fork(&guest.id, &ForkSandbox::default()).await.unwrap();
    let mut copy = Guest { client: node.admin(), id: copies[0].id.clone() };
    assert!(standing.contains(&node.monitor(&copy.id)), "nothing stood ready");
    copy.sh("echo copy >> /data/log; rm /more/big").await;
    let grown = ResizeVolume { size_mb: 64 };
    node.admin().resize_volume("data", &grown).await.unwrap();
    guest.sh("head -c 40000000 /dev/urandom > /data/large && sync /data/large").await;
    // Another daemon finds all of it in the monitors.
    node.kill9();
    node.restart();
    let mut guest = guest.by(node.admin());
    let mut copy = copy.by(node.admin());
    assert_eq!(guest.sh("xargs < /data/log; sha256sum < /more/big").await, format!("1 2 3\n{big}"));
    guest.stop().await;
    copy.stop().await;
    assert_eq!(copy.sh("xargs < /data/log").await, "1 2 3 copy");
    copy.destroy().await;
    assert_eq!(guest.sh("xargs < /data/log; sha256sum < /more/big").await, format!("1 2 3\n{big}"));
    guest.destroy().await;
    // Each is found where it is wanted, as large as it is by now.
    let swapped = [at("more", "/more"), at("data", "/data")];
    let mut guest = made_ready(&node, &request("again", &swapped)).await;
    assert_eq!(guest.sh("xargs < /data/log; sha256sum < /more/big").await, format!("1 2 3\n{big}"));
    let megabytes: u64 = guest.sh(MEGABYTES).await.parse().unwrap();
    assert!(megabytes > 45, "{megabytes}");
    guest.destroy().await;
    agreed(&node, "after all").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_may_only_read_cannot_write_in_what_stood_ready_either() {
    let node = ready(false).await;
    volume(&node, "data").await;
    let mut writer = made_ready(&node, &request("writer", &[at("data", "/data")])).await;
    writer.sh("echo kept > /data/f").await;
    writer.destroy().await;
    let only = VolumeMount { read_only: true, ..at("data", "/data") };
    let mut reader = made_ready(&node, &request("reader", &[only])).await;
    assert_eq!(reader.sh("cat /data/f").await, "kept");
    let device = reader.root("awk '$2 == \"/data\" { print $1 }' /proc/mounts").await;
    for attempt in [
        "touch /data/x".to_owned(),
        "mount -o remount,rw /data && touch /data/x && sync /data/x".to_owned(),
        format!("dd if=/dev/zero of={device} bs=4096 count=1 conv=fsync"),
    ] {
        let answer = reader.exec(&root(&attempt)).await.unwrap();
        assert_ne!(answer.exit_code, 0, "{attempt}: {answer:?}");
    }
    reader.stop().await;
    assert_eq!(reader.sh("cat /data/f").await, "kept");
    // A place for a reader is none for a writer.
    let mut copies = reader.fork("copy", 1, || node.admin()).await;
    assert_eq!(copies[0].sh("cat /data/f").await, "kept");
}
