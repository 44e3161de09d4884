//! Manifests, configurations and blobs that are not what they should be.

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use registry::{Client, Digest, Kind, Limits, Options, State};
use serde_json::{Value, json};
use tokio::time::timeout;

use crate::{
    image::{Content, OCI_CONFIG, OCI_INDEX, OCI_LAYER, OCI_MANIFEST, config, descriptor, image},
    kind, options, pull, request, resolve,
    server::{Reply, Server},
};

const HERE: fn() -> String = || registry::Platform::default().architecture;

async fn serving(content: Content) -> Server {
    Server::start(move |asked| content.answer(asked)).await
}

/// What comes of an image whose manifest was changed.
async fn changed(change: impl Fn(&mut Value)) -> Option<Kind> {
    let mut content = Content::default();
    let mut manifest = content.put_image("latest", &HERE(), &[b"one", b"two"]);
    change(&mut manifest);
    content.put_manifest("latest", &manifest);
    kind(resolve(&serving(content).await).await)
}

#[tokio::test]
async fn an_image_that_is_right_comes_layer_by_layer() {
    let large = vec![7_u8; 3 << 20];
    let server = serving(image(&[b"one", &large, b"three", b"one"])).await;
    let remote = resolve(&server).await.unwrap();
    assert_eq!(remote.layers().len(), 4);
    assert!(String::from_utf8_lossy(remote.config()).contains("A=b"));
    let directory = tempfile::tempdir().unwrap();
    let heard = Arc::new(Mutex::new(Vec::new()));
    let told = Arc::clone(&heard);
    let third = remote.layers()[2].diff_id.clone();
    let mut downloads = remote.download(
        directory.path(),
        |layer| layer.diff_id == third,
        move |progress| told.lock().unwrap().push(progress),
    );
    let mut found = Vec::new();
    while let Some(layer) = downloads.next().await {
        let layer = layer.unwrap();
        let content = std::fs::read(&layer.path).unwrap();
        assert_eq!(Digest::of(&content), layer.layer.digest);
        found.push(layer.index);
    }
    found.sort_unstable();
    // The third is here already, and the fourth is the first.
    assert_eq!(found, [0, 1]);
    let heard = heard.lock().unwrap();
    let last = |layer| heard.iter().rev().find(|p| p.layer == layer).unwrap();
    assert_eq!(
        [0, 1, 2, 3].map(|layer| last(layer).state),
        [State::Loaded, State::Loaded, State::Present, State::Present]
    );
    let large: Vec<u64> = heard.iter().filter(|p| p.layer == 1).map(|p| p.bytes).collect();
    assert!(large.is_sorted() && large.len() >= 3, "{large:?}");
}

#[tokio::test]
async fn a_manifest_that_is_not_the_one_asked_for_is_refused() {
    let content = image(&[b"one"]);
    let other = serde_json::to_vec(&json!({"schemaVersion": 2})).unwrap();
    let server = Server::start(move |asked| match asked.path.contains("/manifests/sha256:") {
        true => Reply::ok(&other),
        false => content.answer(asked),
    });
    let server = server.await;
    let reference = format!("{}/x@{}", server.address, Digest::of(b"y"));
    let client = Client::new(options()).unwrap();
    assert_eq!(kind(client.resolve(&request(&reference, None)).await), Some(Kind::BadDigest));
}

#[tokio::test]
async fn a_manifest_with_a_lying_header_is_refused() {
    let content = image(&[b"one"]);
    let server = Server::start(move |asked| {
        let digest = Digest::of(b"y").to_string();
        let manifest = &content.manifests["latest"];
        match asked.path.contains("/manifests/") {
            true => Reply::new("200 OK", &[("Docker-Content-Digest", &digest)], manifest),
            false => content.answer(asked),
        }
    });
    assert_eq!(kind(resolve(&server.await).await), Some(Kind::BadDigest));
}

#[tokio::test]
async fn documents_are_read_up_to_a_limit() {
    for body in
        [&b"Content-Length: 99999999999\r\n\r\n{"[..], b"Transfer-Encoding: chunked\r\n\r\n"]
    {
        let body = body.to_vec();
        let server = Server::start(move |_| {
            let mut bytes = b"HTTP/1.1 200 OK\r\n".to_vec();
            bytes.extend(&body);
            for _ in 0..600 {
                bytes.extend(b"4000\r\n");
                bytes.extend([b' '; 0x4000]);
                bytes.extend(b"\r\n");
            }
            Reply { bytes, hang: false, keep: false, trickle: false }
        });
        assert_eq!(kind(resolve(&server.await).await), Some(Kind::TooLarge));
    }
}

#[tokio::test]
async fn manifests_that_mean_nothing_or_too_much_are_refused() {
    for (text, expected) in [
        ("", Kind::Malformed),
        ("[]", Kind::Malformed),
        ("{\"schemaVersion\":1}", Kind::Unsupported),
        ("{\"schemaVersion\":2}", Kind::Malformed),
        ("{\"schemaVersion\":2,\"manifests\":[],\"layers\":[]}", Kind::Malformed),
        ("{\"schemaVersion\":2,\"mediaType\":\"text/html\"}", Kind::Unsupported),
        (&"[".repeat(100_000), Kind::Malformed),
    ] {
        let mut content = Content::default();
        content.manifests.insert("latest".to_owned(), text.as_bytes().to_vec());
        let found = kind(resolve(&serving(content).await).await);
        assert_eq!(found, Some(expected), "{text:.60}");
    }
}

#[tokio::test]
async fn wrong_numbers_and_types_in_a_manifest_are_refused() {
    type Change = dyn Fn(&mut Value);
    let cases: [(Kind, &Change); 9] = [
        (Kind::Malformed, &|m| m["layers"] = json!([])),
        (Kind::Malformed, &|m| m["config"]["digest"] = json!("sha256:../../../etc/passwd")),
        (Kind::Malformed, &|m| m["layers"][0]["size"] = json!(-1)),
        (Kind::Malformed, &|m| m["layers"][0]["digest"] = json!("md5:00")),
        (Kind::BadDigest, &|m| m["config"]["size"] = json!(1)),
        (Kind::BadDigest, &|m| m["config"]["size"] = json!(100_000)),
        (Kind::TooLarge, &|m| m["layers"][0]["size"] = json!(u64::MAX)),
        (Kind::Unsupported, &|m| {
            m["config"]["mediaType"] = json!("application/vnd.cncf.helm.config.v1+json");
        }),
        (Kind::Unsupported, &|m| {
            m["layers"][0]["mediaType"] =
                json!("application/vnd.docker.image.rootfs.foreign.diff.tar.gzip");
        }),
    ];
    for (at, (expected, change)) in cases.into_iter().enumerate() {
        assert_eq!(changed(change).await, Some(expected), "case {at}");
    }
}

#[tokio::test]
async fn layers_may_not_be_too_many_nor_too_large() {
    let server = serving(image(&[b"one", b"two", b"three"])).await;
    let usual = Limits::default();
    for (limits, refused) in [
        (Limits { layers: 2, ..usual }, true),
        (Limits { layer_bytes: 4, ..usual }, true),
        (Limits { image_bytes: 10, ..usual }, true),
        (Limits { layers: 3, layer_bytes: 5, image_bytes: 11 }, false),
    ] {
        let client = Client::new(Options { limits, ..options() }).unwrap();
        let found = client.resolve(&request(&format!("{}/x", server.address), None)).await;
        assert_eq!(kind(found), refused.then_some(Kind::TooLarge), "{limits:?}");
    }
}

#[tokio::test]
async fn an_index_leads_to_the_image_for_this_machine_and_nowhere_else() {
    let mut content = Content::default();
    let other = if HERE() == "amd64" { "arm64" } else { "amd64" };
    let entry = |content: &mut Content, tag: &str, arch: &str, says: (&str, &str)| {
        content.put_image(tag, arch, &[tag.as_bytes()]);
        let mut entry = descriptor(OCI_MANIFEST, &content.manifests[tag]);
        entry["platform"] = json!({"os": says.0, "architecture": says.1});
        entry
    };
    let here = HERE();
    let a = entry(&mut content, "a", other, ("linux", other));
    let b = entry(&mut content, "b", &here, ("windows", &here));
    let c = entry(&mut content, "c", &here, ("linux", &here));
    let lying = entry(&mut content, "lying", other, ("linux", &here));
    let none = entry(&mut content, "none", &here, ("unknown", "unknown"));
    let index = |entries: &[&Value]| json!({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": entries});
    let good = content.put_manifest("latest", &index(&[&none, &a, &b, &c]));
    let server = serving(content.clone()).await;
    let remote = resolve(&server).await.unwrap();
    assert_eq!(*remote.top_digest(), Digest::of(&good));
    assert_eq!(*remote.digest(), Digest::of(&content.manifests["c"]));

    for entries in [&[&none, &a, &b][..], &[&lying], &[&none], &[]] {
        content.put_manifest("latest", &index(entries));
        let found = resolve(&serving(content.clone()).await).await;
        assert_eq!(kind(found), Some(Kind::WrongArchitecture));
    }
    let mut nested = descriptor(OCI_INDEX, &good);
    nested["platform"] = c["platform"].clone();
    content.put_manifest("latest", &index(&[&nested]));
    assert_eq!(kind(resolve(&serving(content.clone()).await).await), Some(Kind::Unsupported));
    let mut longer = c.clone();
    longer["size"] = json!(1);
    content.put_manifest("latest", &index(&[&longer]));
    assert_eq!(kind(resolve(&serving(content).await).await), Some(Kind::BadDigest));
}

#[tokio::test]
async fn a_configuration_for_another_machine_is_refused() {
    let mut content = Content::default();
    content.put_image("latest", "s390x", &[b"one"]);
    let found = kind(resolve(&serving(content).await).await);
    assert_eq!(found, Some(Kind::WrongArchitecture));
}

#[tokio::test]
async fn a_configuration_with_nothing_set_is_one() {
    let mut content = Content::default();
    let mut empty = config(&HERE(), &[Digest::of(b"t").to_string()]);
    empty["config"] = json!({"Env": null, "ExposedPorts": null, "Entrypoint": null, "Labels": null, "Volumes": null});
    let empty = serde_json::to_vec(&empty).unwrap();
    content.put_blob(&empty);
    content.put_manifest(
        "latest",
        &json!({
            "schemaVersion": 2,
            "config": descriptor(OCI_CONFIG, &empty), "layers": [descriptor(OCI_LAYER, b"x")],
        }),
    );
    assert_eq!(kind(resolve(&serving(content).await).await), None);
}

/// What comes of a pull in which the layer `one` is answered like this.
async fn layer(answer: impl Fn(&str) -> Reply + Send + Sync + 'static) -> (Option<Kind>, usize) {
    let content = image(&[b"one"]);
    let digest = Digest::of(b"one").to_string();
    let server = Server::start(move |asked| match asked.path.ends_with(&digest) {
        true => answer(asked.headers.get("range").map_or("", String::as_str)),
        false => content.answer(asked),
    });
    let (result, left) = pull(&server.await).await;
    (kind(result), left)
}

#[tokio::test]
async fn layers_that_are_not_what_the_manifest_says_are_refused_and_leave_nothing() {
    assert_eq!(layer(|_| Reply::ok(b"two")).await, (Some(Kind::BadDigest), 0));
    assert_eq!(layer(|_| Reply::ok(b"on")).await, (Some(Kind::BadDigest), 0));
    assert_eq!(layer(|_| Reply::ok(b"longer")).await, (Some(Kind::BadDigest), 0));
    assert_eq!(layer(|_| Reply::raw("200 OK", &[], b"longer")).await, (Some(Kind::BadDigest), 0));
    assert_eq!(layer(|_| Reply::not_found()).await, (Some(Kind::NotFound), 0));
    // Broken off each time, with nothing new in between.
    let cut = |_: &str| Reply::raw("200 OK", &[("Content-Length", "3")], b"o");
    assert_eq!(layer(cut).await, (Some(Kind::Unreachable), 0));
    assert_eq!(layer(|_| Reply::raw("200 OK", &[], b"o")).await, (Some(Kind::Unreachable), 0));
    assert_eq!(layer(|_| Reply::new("503 Oh", &[], b"")).await, (Some(Kind::Unreachable), 0));
    // A range that was not asked for.
    let shifted = |_: &str| Reply::new("206 Partial", &[("Content-Range", "bytes 1-3/4")], b"two");
    assert_eq!(layer(shifted).await, (Some(Kind::BadDigest), 0));
}

#[tokio::test]
async fn a_download_that_breaks_off_is_taken_up_where_it_was() {
    for ranges in [true, false] {
        let tries = AtomicUsize::new(0);
        let (found, left) =
            layer(move |range| match (tries.fetch_add(1, Ordering::SeqCst), ranges) {
                (0, _) => Reply::new("502 Oh", &[], b""),
                (1, _) => Reply::raw("200 OK", &[("Content-Length", "3")], b"on"),
                (_, false) => Reply::ok(b"one"),
                (_, true) => {
                    assert_eq!(range, "bytes=2-");
                    Reply::new("206 Partial", &[("Content-Range", "bytes 2-2/3")], b"e")
                }
            })
            .await;
        assert_eq!((found, left), (None, 1), "ranges: {ranges}");
    }
}

#[tokio::test]
async fn whoever_sends_too_slowly_is_given_up() {
    let hang =
        |bytes: &[u8]| Reply { bytes: bytes.to_vec(), hang: true, keep: false, trickle: false };
    let trickle =
        |bytes: &[u8]| Reply { bytes: bytes.to_vec(), hang: false, keep: false, trickle: true };
    const HEAD: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n";
    let begun = tokio::time::Instant::now();
    for reply in [
        || Reply { bytes: Vec::new(), hang: true, keep: false, trickle: false },
        || Reply {
            bytes: b"HTTP/1.1 200 OK\r\nX: ".to_vec(),
            hang: false,
            keep: false,
            trickle: true,
        },
        || Reply { bytes: HEAD.to_vec(), hang: true, keep: false, trickle: false },
        || Reply { bytes: HEAD.to_vec(), hang: false, keep: false, trickle: true },
    ] {
        let server = Server::start(move |_| reply()).await;
        assert_eq!(kind(resolve(&server).await), Some(Kind::Unreachable));
    }
    let head = b"HTTP/1.1 200 OK\r\n\r\n";
    assert_eq!(layer(move |_| hang(head)).await, (Some(Kind::Unreachable), 0));
    // Bytes that come one by one are no reason to wait for ever, and here are also too many.
    let (slow, left) = layer(move |_| trickle(head)).await;
    assert!(matches!(slow, Some(Kind::BadDigest | Kind::Unreachable)) && left == 0);
    assert!(begun.elapsed() < Duration::from_secs(20));
}

#[tokio::test]
async fn dropping_a_pull_ends_it() {
    let content = image(&[b"one"]);
    let digest = Digest::of(b"one").to_string();
    let (gone, mut heard) = tokio::sync::mpsc::channel(1);
    let server = Server::start(move |asked| match asked.path.ends_with(&digest) {
        true => {
            let _ = gone.try_send(());
            Reply {
                bytes: b"HTTP/1.1 200 OK\r\n\r\no".to_vec(),
                hang: true,
                keep: false,
                trickle: false,
            }
        }
        false => content.answer(asked),
    })
    .await;
    let remote = resolve(&server).await.unwrap();
    let directory = tempfile::tempdir().unwrap();
    let downloads = remote.download(directory.path(), |_| false, |_| ());
    heard.recv().await.unwrap();
    drop(downloads);
    timeout(Duration::from_secs(5), server.gone.notified()).await.unwrap();
}

#[tokio::test]
async fn a_connection_is_used_again_as_long_as_it_lives() {
    for (keep, expected) in [(true, 2), (false, 5)] {
        let content = image(&[b"one", b"two"]);
        let server = Server::start(move |asked| {
            let known = [content.manifests.values(), content.blobs.values()];
            let mut all = known.into_iter().flatten();
            let wanted = asked.path.rsplit('/').next().unwrap();
            let found = all.find(|c| wanted == Digest::of(c).to_string());
            Reply::on(keep, found.unwrap_or(&content.manifests["latest"]))
        })
        .await;
        let remote = resolve(&server).await.unwrap();
        let directory = tempfile::tempdir().unwrap();
        let mut downloads = remote.download(directory.path(), |_| false, |_| ());
        while let Some(layer) = downloads.next().await {
            layer.unwrap();
        }
        // One finds out what is spoken. Two layers at once may need another one.
        let found = server.connections.load(Ordering::SeqCst);
        assert!((expected..=expected + 1).contains(&found), "{keep}: {found}");
    }
}
