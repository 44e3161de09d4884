//! Builds by the program that people use: of what has to be pulled, of what ends them, and without room.

use std::{
    collections::BTreeMap,
    io::Read as _,
    process::{Output, Stdio},
};

use api::{ErrorBody, ErrorCode};
use e2e::{Node, Options, registry::Registry, until};
use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

use super::{layers_of, names, node, programs, small};

/// A directory with a Dockerfile.
struct Context(TempDir);

impl Context {
    fn of(dockerfile: &str) -> Self {
        let directory = tempfile::tempdir().unwrap();
        fs_err::write(directory.path().join("Dockerfile"), dockerfile).unwrap();
        Self(directory)
    }

    fn args(&self) -> [&str; 9] {
        let path = self.0.path().to_str().unwrap();
        ["image", "build", "-t", "made", "--memory", "128", "--disk-size", "512", path]
    }

    fn build(&self, node: &Node) -> Output {
        node.cli(&self.args())
    }

    /// Builds in vain, and gives what programs are told of it.
    fn refused(&self, node: &Node) -> ErrorBody {
        let output = node.cli(&[&["--json"], &self.args()[..]].concat());
        assert_eq!((output.status.code(), output.stdout.as_slice()), (Some(1), &b""[..]));
        serde_json::from_slice(&output.stderr).unwrap_or_else(|_| panic!("{output:?}"))
    }
}

/// Neither sandbox nor name nor what was on its way, and as many layers as before.
async fn nothing_is_left(node: &Node, layers: usize) {
    until("nothing is left of the build", async || {
        let data = node.data();
        let left = ["incoming", "sandboxes", "snapshots", "run"]
            .map(|directory| names(&data.join(directory)));
        let count = left.iter().sum::<usize>() + node.monitors().len();
        (count == 0 && layers_of(node) == layers).then_some(())
    })
    .await;
    let images = node.admin().images().await.unwrap();
    assert!(!images.iter().any(|image| image.name == "made"), "{images:?}");
}

#[tokio::test]
async fn what_a_build_begins_with_or_copies_from_is_pulled_and_what_cannot_be_is_said() {
    let node = node();
    // Once the registry is gone.
    node.expect_warning("code=image_unavailable");
    let mut registry = Registry::start();
    let base = e2e::registry::Layout::new(
        vec![programs(node.data())],
        &serde_json::json!({"Env": ["PATH=/bin", "WORD=base"]}),
    );
    registry.push(&base, "base:1");
    registry.push(&small("one"), "other:1");
    let [base, other, missing] = ["base:1", "other:1", "missing:1"].map(|n| registry.reference(n));

    let none = Context::of(&format!("FROM {missing}\n")).refused(&node);
    assert_eq!(none.code, ErrorCode::ImageNotFound, "{none:?}");
    assert!(none.error.starts_with("Dockerfile:1: ") && none.error.contains("missing"), "{none:?}");
    nothing_is_left(&node, 0).await;

    let text = format!("FROM {base}\nRUN echo $WORD > /made && cat /made\n");
    let built = Context::of(&text).build(&node);
    let said = String::from_utf8_lossy(&built.stderr).into_owned();
    assert!(built.status.success() && said.contains("\nbase\n"), "{said}");
    assert!(said.contains("fetching 1 layers") && !said.contains("\n …"), "{said}");
    // What was pulled for it is the user's, as after `image pull`.
    assert_eq!(node.admin().image("base-1").await.unwrap().image.reference, Some(base.clone()));
    assert_eq!(node.admin().image("made").await.unwrap().config.env["WORD"], "base");
    node.admin().image_delete("made").await.unwrap();

    let layers = layers_of(&node);
    let bad = Context::of(&format!("FROM {base}\nCOPY --from={missing} /word /word\n"));
    let bad = bad.refused(&node);
    assert_eq!(bad.code, ErrorCode::ImageNotFound, "{bad:?}");
    assert!(bad.error.starts_with("Dockerfile:2: "), "{bad:?}");
    let large = e2e::registry::Layer::default().file("noise", 0o644, &super::noise(4 << 20));
    registry.push(&e2e::registry::Layout::new(vec![large], &serde_json::json!({})), "broken:1");
    registry.damage_largest_blob();
    let broken = format!("FROM {}\n", registry.reference("broken:1"));
    let damaged = Context::of(&broken).refused(&node);
    assert_eq!(damaged.code, ErrorCode::ImageInvalid, "{damaged:?}");
    registry.stop();
    let gone = Context::of(&format!("FROM {other}\n")).refused(&node);
    assert_eq!(gone.code, ErrorCode::ImageUnavailable, "{gone:?}");
    nothing_is_left(&node, layers).await;
    // What is here is asked of nobody.
    let again = Context::of(&text).build(&node);
    assert!(again.status.success(), "{again:?}");
}

#[tokio::test]
async fn a_build_ends_with_whoever_waits_for_it() {
    let node = node();
    let endless = Context::of("FROM busybox\nRUN echo begun; while :; do sleep 1; done\n");
    for signal in [Signal::INT, Signal::TERM] {
        let mut command = node.program(&endless.args()).stderr(Stdio::piped());
        let mut child = command.as_std_mut().spawn().unwrap();
        let mut said = Vec::new();
        let mut byte = [0];
        let stderr = child.stderr.as_mut().unwrap();
        while !String::from_utf8_lossy(&said).contains("\nbegun\n") {
            stderr.read_exact(&mut byte).unwrap();
            said.push(byte[0]);
        }
        assert_eq!(node.monitors().len(), 1);
        kill_process(Pid::from_child(&child), signal).unwrap();
        let output = child.wait_with_output().unwrap();
        assert_eq!(output.status.code(), Some(128 + signal.as_raw()), "{output:?}");
        assert!(String::from_utf8_lossy(&output.stderr).contains("the build was cancelled"));
        nothing_is_left(&node, 0).await;
    }
}

/// Takes all room below the node's data directory but so many bytes.
fn fill(node: &Node, spare: u64) -> std::path::PathBuf {
    let filler = node.data().join("filler");
    let mut file = fs_err::File::create(&filler).unwrap();
    let full = std::io::copy(&mut std::io::repeat(1), &mut file);
    assert_eq!(full.unwrap_err().kind(), std::io::ErrorKind::StorageFull);
    let length = file.metadata().unwrap().len();
    file.set_len(length.saturating_sub(spare)).unwrap();
    filler
}

#[tokio::test]
async fn a_build_on_a_full_disk_says_so_and_gives_back_what_it_took() {
    let node = Node::with(&Options { data_bytes: Some(400 << 20), ..Options::default() });
    for expected in ["code=host_disk_full", "the guest waits for room", "recording once more"] {
        node.expect_warning(expected);
    }
    let first = Context::of("FROM busybox\nRUN echo first > /first\n");
    assert!(first.build(&node).status.success());
    node.admin().image_delete("made").await.unwrap();

    // What a guest writes finds no room: it would wait, and the build with it.
    let filler = fill(&node, 20 << 20);
    let text = "FROM busybox\nRUN echo first > /first\n\
        RUN dd if=/dev/urandom of=/big bs=65536 count=512 && sync\n";
    let large = Context::of(text);
    let full = large.refused(&node);
    assert_eq!(full.code, ErrorCode::HostDiskFull, "{full:?}");
    assert!(full.error.starts_with("Dockerfile:3: "), "{full:?}");
    assert!(full.hint.as_ref().is_some_and(|hint| hint.contains("free some space")), "{full:?}");
    nothing_is_left(&node, 0).await;

    // Not even the context has room.
    fs_err::write(large.0.path().join("noise"), super::noise(2 << 20)).unwrap();
    fs_err::remove_file(&filler).unwrap();
    let filler = fill(&node, 1 << 20);
    let full = large.refused(&node);
    assert_eq!(full.code, ErrorCode::HostDiskFull, "{full:?}");
    nothing_is_left(&node, 0).await;

    // With room again the same build works, and what was done is not done again.
    fs_err::remove_file(&filler).unwrap();
    let built = large.build(&node);
    let said = String::from_utf8_lossy(&built.stderr).into_owned();
    assert!(built.status.success() && said.contains("RUN echo first > /first (cached)"), "{said}");
}

#[tokio::test]
async fn a_build_that_finds_no_room_at_any_step_leaves_nothing() {
    let node = Node::with(&Options { faults: true, ..Options::default() });
    let text = "FROM busybox\nCOPY Dockerfile /in/\nRUN echo made > /made\n";
    let context = Context::of(text);
    node.faults().arm("");
    let args = [&context.args()[..], &["--no-cache"]].concat();
    assert!(node.cli(&args).status.success());
    let mut places: BTreeMap<String, usize> = BTreeMap::new();
    for passing in node.faults().passed() {
        *places.entry(passing.place).or_default() += 1;
    }
    for wanted in ["create.directory", "copy.linked", "image.saved"] {
        assert!(places.contains_key(wanted), "{places:?}");
    }
    node.admin().image_delete("made").await.unwrap();
    // What a build does besides making a sandbox and destroying it, the last time that it does it.
    let own = |place: &&String| {
        let begins = ["copy.", "file.", "image.", "link.", "save.", "store."];
        begins.iter().any(|begin| place.starts_with(begin))
    };
    for place in places.keys().filter(own) {
        let place = format!("{place}@{}", places[place]);
        node.faults().arm(&format!("{place}=enospc"));
        let output = node.cli(&[&["--json"], &args[..]].concat());
        node.faults().disarm();
        if output.status.success() {
            // Of a last word that was lost, or of what only tidies up.
            node.admin().image_delete("made").await.unwrap();
        } else {
            let error: ErrorBody = serde_json::from_slice(&output.stderr).unwrap();
            assert_eq!(error.code, ErrorCode::HostDiskFull, "{place}: {error:?}");
        }
        nothing_is_left(&node, 0).await;
    }
}
