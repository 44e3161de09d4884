//! Images that are not made of layers, as archives for others.

use std::{
    fs,
    io::Cursor,
    os::unix::fs::{FileTypeExt as _, MetadataExt as _},
    path::{Path, PathBuf},
};

use api::{CreateSandbox, ErrorCode, Prune, client::Client};
use base::process::Command;
use e2e::{
    Guest, Node, Options, create_request, refused,
    registry::{Layout, Registry, busybox},
    root, until,
};
use serde_json::json;
use tempfile::TempDir;

use super::{layers_of, names, programs, pull, pull_request};

/// The capability to listen on low ports, permitted and effective, as files have it.
const MAY_LISTEN: [u8; 20] = [1, 0, 0, 2, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
const CAPABILITY: &str = "security.capability";

/// Of places that are passed, the one in which an image is packed.
const PACKED: &str = "packing.launched";

fn faulty() -> Node {
    Node::with(&Options { faults: true, ..Options::default() })
}

fn base(node: &Node) -> Layout {
    let busybox = busybox(node.data());
    let layer = programs(node.data())
        .directory("etc")
        .file("etc/passwd", 0o644, b"root:x:0:0::/root:/bin/sh\n")
        .file("etc/group", 0o644, b"root:x:0:\n")
        .directory("srv/all")
        .file("srv/all/old", 0o644, b"old")
        .file("srv/gone", 0o644, b"gone")
        .file("srv/kept", 0o644, b"kept")
        .with_attribute("srv/busybox-low", 0o755, &busybox, (CAPABILITY, &MAY_LISTEN))
        .with_attribute("srv/noted", 0o644, b"noted", ("user.note", b"a\0b"));
    Layout::new(vec![layer], &json!({"Env": ["PATH=/bin", "GREETING=hello"], "Cmd": ["/bin/sh"]}))
}

/// Changes of every kind over that.
const CHANGES: &str = "b=/bin/busybox; cd /srv && $b rm gone && $b rm -r all && $b mkdir all && \
    echo new >all/new && echo own >own && $b chown 33:44 own && $b chmod 4755 own && \
    $b ln own same && $b ln -s ../srv/own soft && $b mkfifo -m 600 pipe && $b touch busybox-low noted && \
    $b mkdir -m 1770 d && $b chown 70000:80000 d && $b truncate -s 3000000 hollow";

async fn exported(client: &mut Client, name: &str) -> Vec<u8> {
    let mut content = client.image_export(name).await.unwrap();
    let mut bytes = Vec::new();
    while let Some(piece) = content.chunk().await.unwrap() {
        bytes.extend_from_slice(&piece);
    }
    bytes
}

async fn made_of(node: &Node, image: &str, name: &str) -> Guest {
    let image = Some(image.to_owned());
    Guest::create_by(node.admin(), CreateSandbox { image, ..create_request(name) }).await
}

/// How often an image was packed since the last arming.
fn packed(node: &Node) -> usize {
    node.faults().passed().iter().filter(|passing| passing.place == PACKED).count()
}

/// What umoci makes of an archive, by way of skopeo, which reads it as `kind`.
struct Unpacked(TempDir);

impl Unpacked {
    fn of(kind: &str, archive: &[u8]) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let path = |name: &str| dir.path().join(name).display().to_string();
        fs::write(path("archive.tar"), archive).unwrap();
        let layout = path("layout");
        let copy = Command::new("skopeo").args(["--insecure-policy", "copy", "--quiet"]);
        let copy =
            copy.args([format!("{kind}:{}", path("archive.tar")), format!("oci:{layout}:x")]);
        copy.env("HOME", dir.path()).env("TMPDIR", dir.path()).output().unwrap();
        let image = format!("{layout}:x");
        let unpack = Command::new("umoci").args(["unpack", "--image", &image, &path("bundle")]);
        unpack.output().unwrap();
        Self(dir)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join("bundle/rootfs").join(name)
    }

    fn meta(&self, name: &str) -> fs::Metadata {
        fs::symlink_metadata(self.path(name)).unwrap()
    }

    /// What commands would be started with.
    fn settings(&self) -> String {
        fs::read_to_string(self.0.path().join("bundle/config.json")).unwrap()
    }

    fn has_changes(&self) {
        for gone in ["srv/gone", "srv/all/old", "var/log/bhatti/jobs"] {
            assert!(!self.path(gone).exists(), "{gone}");
        }
        for (name, content) in [("all/new", "new\n"), ("kept", "kept"), ("noted", "noted")] {
            assert_eq!(fs::read_to_string(self.path("srv").join(name)).unwrap(), content);
        }
        let (own, same) = (self.meta("srv/own"), self.meta("srv/same"));
        assert_eq!((own.mode() & 0o7777, own.uid(), own.gid()), (0o4755, 33, 44));
        assert_eq!((own.ino(), own.nlink()), (same.ino(), 2));
        let directory = self.meta("srv/d");
        let facts = (directory.mode() & 0o7777, directory.uid(), directory.gid());
        assert_eq!(facts, (0o1770, 70000, 80000));
        assert!(self.meta("srv/pipe").file_type().is_fifo());
        assert_eq!(self.meta("srv/hollow").len(), 3_000_000);
        assert_eq!(fs::read_link(self.path("srv/soft")).unwrap(), Path::new("../srv/own"));
        let attribute = |name: &str, attribute: &str| {
            let mut value = [0; 64];
            let length = rustix::fs::getxattr(self.path(name), attribute, &mut value).unwrap();
            value[..length].to_vec()
        };
        assert_eq!(attribute("srv/busybox-low", CAPABILITY), MAY_LISTEN);
        assert_eq!(attribute("srv/noted", "user.note"), b"a\0b");
        assert!(self.settings().contains("GREETING=hello"));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_saved_image_is_exported_as_the_layers_of_its_image_and_what_changed() {
    let node = faulty();
    let mut admin = node.admin();
    let registry = Registry::start();
    registry.push(&base(&node), "x:1");
    pull(&mut admin, &pull_request(&registry.reference("x:1"))).await.unwrap();
    let mut box_ = made_of(&node, "x-1", "box").await;
    box_.root(CHANGES).await;
    box_.detach(&root("echo secret")).await;
    admin.save_image("box", "mine").await.unwrap();
    // What a layer cannot say is refused, and its name is told.
    box_.root("echo x >/srv/.wh.kept").await;
    admin.save_image("box", "odd").await.unwrap();
    admin.destroy("box").await.unwrap();
    let refusal = refused(admin.image_export("odd").await.map(drop));
    assert_eq!(refusal.code, ErrorCode::ImageInvalid);
    assert!(refusal.error.contains("/srv/.wh.kept"), "{refusal:?}");
    admin.image_delete("odd").await.unwrap();

    node.faults().arm("");
    let archive = exported(&mut admin, "mine").await;
    assert_eq!((packed(&node), layers_of(&node)), (1, 2));
    for kind in ["oci-archive", "docker-archive"] {
        Unpacked::of(kind, &archive).has_changes();
    }
    // The second time nothing is started, and it is the same.
    assert!(exported(&mut admin, "mine").await == archive);
    assert_eq!(packed(&node), 1);

    // What others read is what we read.
    admin.image_import("again", None, Cursor::new(archive.clone())).await.unwrap();
    let mut again = made_of(&node, "again", "again").await;
    let look = "cat /srv/all/* /srv/own; echo $GREETING; ls -d /srv/gone /srv/all/old 2>/dev/null; \
                stat -c '%u:%g %a %h' /srv/own /srv/d";
    assert_eq!(again.sh(look).await, "new\nown\nhello\n33:44 4755 2\n70000:80000 1770 2");
    let may = again.sh("/srv/busybox-low grep CapEff /proc/self/status").await;
    assert!(may.ends_with("0000000000000400"), "{may}");
    admin.destroy("again").await.unwrap();
    admin.image_delete("again").await.unwrap();

    // Who needs the room has it packed once more, to the same.
    let prune = Prune { all: true, dry_run: false };
    admin.prune(&prune).await.unwrap();
    assert_eq!(layers_of(&node), 1);
    assert!(exported(&mut admin, "mine").await == archive);
    assert_eq!((packed(&node), layers_of(&node)), (2, 2));
    admin.image_delete("mine").await.unwrap();
    admin.image_delete("x-1").await.unwrap();
    admin.prune(&Prune { all: false, ..prune }).await.unwrap();
    assert_eq!(layers_of(&node), 0);
}

/// Nothing of a packing is left: no VM, no file, no layer.
async fn nothing_is_left(node: &Node) {
    until("nothing is left of the packing", async || {
        let packing = node.monitors().iter().any(|(_, name)| name.starts_with('p'));
        let left =
            [names(&node.data().join("incoming")), names(&node.data().join("images/packed"))];
        (!packing && left == [0, 0] && layers_of(node) == 0).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_export_that_nobody_waits_for_or_that_dies_leaves_nothing() {
    let mut node = faulty();
    // Whoever leaves takes the VM along, which is not even up then.
    let mut client = node.admin();
    let export = tokio::spawn(async move { client.image_export("busybox").await.map(drop) });
    until("it is packed", async || {
        node.monitors().iter().any(|(_, name)| name.starts_with('p')).then_some(())
    })
    .await;
    export.abort();
    nothing_is_left(&node).await;

    for fault in ["packing.launched=enospc", "image.packed=enospc"] {
        node.faults().arm(fault);
        let refusal = refused(node.admin().image_export("busybox").await.map(drop));
        assert_eq!(refusal.code, ErrorCode::HostDiskFull, "{fault}");
        node.faults().disarm();
        nothing_is_left(&node).await;
    }
    node.faults().arm("layer.commit=kill");
    node.admin().image_export("busybox").await.map(drop).unwrap_err();
    node.faults().disarm();
    node.kill9();
    node.restart();
    nothing_is_left(&node).await;

    // What a recipe made is one layer, and comes back as an image.
    let archive = exported(&mut node.admin(), "busybox").await;
    assert_eq!(layers_of(&node), 1);
    node.admin().image_import("again", None, Cursor::new(archive)).await.unwrap();
    let mut again = made_of(&node, "again", "again").await;
    assert_eq!(again.sh("busybox echo $((6*7)); stat -c %a /tmp").await, "42\n1777");
}
