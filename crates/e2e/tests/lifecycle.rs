//! From create to destroy.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use api::{CreateSandbox, ErrorCode, Status, Thermal, headers};
use e2e::{DISK_MB, Guest, MEMORY_MB, Node, create_request, raw, refused};
use tokio::io::AsyncWriteExt as _;

#[tokio::test]
async fn a_sandbox_is_created_listed_inspected_and_destroyed() {
    let node = Node::start();
    let mut client = node.admin();
    assert!(client.sandboxes(&[]).await.unwrap().is_empty());
    let created = client.create(&create_request("dev"), drop).await.unwrap();
    assert!(!created.existing);
    let made = created.sandbox;
    assert_eq!((made.name.as_str(), made.image.as_str()), ("dev", "busybox"));
    assert_eq!((made.cpus, made.memory_mb, made.disk_size_mb), (1, MEMORY_MB, DISK_MB));
    assert_eq!((&made.status, &made.thermal), (&Status::Running, &Some(Thermal::Hot)));
    assert!(made.engine.starts_with("qemu/"), "{}", made.engine);
    assert_eq!((&made.failure, &made.stopped_at, made.snapshot_size_mb), (&None, &None, None));
    assert_eq!(client.sandboxes(&[]).await.unwrap().as_slice(), std::slice::from_ref(&made));
    assert_eq!(client.sandbox("dev").await.unwrap(), made);
    assert_eq!(client.sandbox(&made.id).await.unwrap(), made);
    node.monitor(&made.id);

    let destroyed = client.destroy("dev").await.unwrap();
    assert_eq!((destroyed.status.as_str(), &destroyed.id), ("destroyed", &made.id));
    assert!(node.monitors().is_empty() && node.groups().is_empty());
    assert!(!node.data().join("sandboxes").join(&made.id).exists());
    assert!(client.sandboxes(&[]).await.unwrap().is_empty());
    let gone = refused(client.sandbox("dev").await);
    assert_eq!(gone.code, ErrorCode::SandboxNotFound);
    assert!(gone.hint.is_some());
    assert_eq!(refused(client.destroy(&made.id).await).code, ErrorCode::SandboxNotFound);

    let again = client.create(&create_request("dev"), drop).await.unwrap();
    assert!(!again.existing && again.sandbox.id != made.id);
}

#[tokio::test]
async fn a_second_create_of_the_same_name_finds_the_first_or_is_refused() {
    let node = Node::start();
    let mut client = node.admin();
    let request =
        CreateSandbox { env: [("A".to_owned(), "1".to_owned())].into(), ..create_request("dev") };
    let first = client.create(&request, drop).await.unwrap().sandbox;
    let second = client.create(&request, drop).await.unwrap();
    assert!(second.existing);
    assert_eq!(second.sandbox, first);

    let body = serde_json::to_vec(&request).unwrap();
    let plain = raw::unix(&node.socket(), "POST", "/sandboxes", &body).await;
    assert_eq!((plain.status, plain.header(headers::EXISTING)), (200, Some("true")));
    assert_eq!(plain.json()["id"], first.id.as_str());

    for other in [
        CreateSandbox { memory_mb: Some(MEMORY_MB + 1), ..request.clone() },
        CreateSandbox { env: [("A".to_owned(), "2".to_owned())].into(), ..request.clone() },
        CreateSandbox { labels: [("a".to_owned(), "b".to_owned())].into(), ..request.clone() },
    ] {
        let taken = refused(client.create(&other, drop).await);
        assert_eq!(taken.code, ErrorCode::NameTaken, "{other:?}");
        assert!(taken.hint.is_some());
    }
    assert_eq!(node.monitors().len(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_equal_creates_at_once_make_one_sandbox() {
    let node = Node::start();
    let creates: Vec<_> = (0..8)
        .map(|_| {
            let mut client = node.admin();
            tokio::spawn(async move { client.create(&create_request("dev"), drop).await })
        })
        .collect();
    let (mut ids, mut refusals) = (Vec::new(), Vec::new());
    for create in creates {
        match create.await.unwrap() {
            Ok(created) => ids.push((created.sandbox.id, created.sandbox.status)),
            Err(error) => refusals.push(error.to_body()),
        }
    }
    assert!(refusals.is_empty(), "{} were refused: {:?}", refusals.len(), refusals[0]);
    ids.dedup();
    assert_eq!(ids.len(), 1, "{ids:?}");
    assert_eq!(ids[0].1, Status::Running);
    assert_eq!(node.monitors().len(), 1);
}

#[tokio::test]
async fn a_create_without_a_name_makes_one_up() {
    let node = Node::start();
    let mut client = node.admin();
    let request = CreateSandbox { name: None, ..create_request("") };
    let first = client.create(&request, drop).await.unwrap().sandbox;
    let second = client.create(&request, drop).await.unwrap().sandbox;
    assert_ne!(first.name, second.name);
    let digits = first.name.strip_prefix("sandbox-").unwrap();
    assert!(digits.len() == 6 && digits.bytes().all(|b| b.is_ascii_hexdigit()), "{}", first.name);
    assert_eq!(client.sandbox(&first.name).await.unwrap(), first);
}

#[tokio::test]
async fn a_list_can_be_narrowed_by_labels() {
    let node = Node::start();
    let mut client = node.admin();
    for (name, pairs) in
        [("a", &[("team", "x"), ("kind", "ci")][..]), ("b", &[("team", "x")]), ("c", &[])]
    {
        let labels = pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
        client.create(&CreateSandbox { labels, ..create_request(name) }, drop).await.unwrap();
    }
    for (pairs, expected) in [
        (&[][..], &["a", "b", "c"][..]),
        (&[("team", "x")], &["a", "b"]),
        (&[("team", "x"), ("kind", "ci")], &["a"]),
        (&[("team", "y")], &[]),
    ] {
        let labels: Vec<_> =
            pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
        let found = client.sandboxes(&labels).await.unwrap();
        let names: Vec<&str> = found.iter().map(|s| s.name.as_str()).collect();
        assert_eq!(names, expected, "{pairs:?}");
    }
}

#[tokio::test]
async fn a_create_goes_on_when_its_client_goes_away() {
    let node = Node::with(&e2e::Options { recorded_templates: false, ..e2e::Options::default() });
    let body = serde_json::to_vec(&create_request("dev")).unwrap();
    let length = format!("content-length: {}", body.len());
    let head = raw::head("POST", "/sandboxes", &[&length, "accept: application/x-ndjson"]);
    let mut stream = tokio::net::UnixStream::connect(node.socket()).await.unwrap();
    stream.write_all(head.as_bytes()).await.unwrap();
    stream.write_all(&body).await.unwrap();
    // The first step is told once the sandbox is there to be made.
    let mut first = [0; 1024];
    let mut seen = Vec::new();
    while !seen.windows(9).any(|nine| nine == b"recording") {
        let n = tokio::io::AsyncReadExt::read(&mut stream, &mut first).await.unwrap();
        assert_ne!(n, 0, "{}", String::from_utf8_lossy(&seen));
        seen.extend_from_slice(&first[..n]);
    }
    drop(stream);
    // Finds the one that is being made, and waits for it.
    let created = node.admin().create(&create_request("dev"), drop).await.unwrap();
    assert!(created.existing);
    assert_eq!(created.sandbox.status, Status::Running);
}

#[tokio::test]
async fn the_minimal_image_is_a_debian_to_work_in() {
    let node = Node::start();
    let request = CreateSandbox {
        image: Some("minimal".to_owned()),
        memory_mb: Some(256),
        ..create_request("deb")
    };
    let mut guest = Guest::create_by(node.admin(), request).await;
    assert!(guest.sh(". /etc/os-release; echo $ID").await.contains("debian"));
    assert_eq!(guest.sh("id -u").await, "1000");
    assert_eq!(guest.sh("bash -c 'echo ${BASH_VERSION:+yes}'").await, "yes");
    assert_eq!(
        guest.root("dpkg --print-architecture && touch /usr/x && echo ok").await.lines().last(),
        Some("ok")
    );
    let images = node.admin().images().await.unwrap();
    let names: Vec<&str> = images.iter().map(|image| image.name.as_str()).collect();
    assert!(names.contains(&"minimal") && names.contains(&"busybox"), "{names:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn people_do_all_of_it_with_the_program() {
    let node = Node::start();
    let run = |line: &str| {
        let args: Vec<&str> = line.split(' ').collect();
        let output = node.cli(&args);
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        (output.status.code(), text(&output.stdout), text(&output.stderr))
    };
    let create = "create --name dev --image busybox --memory 128 --disk-size 512";
    let (code, out, err) = run(create);
    assert_eq!(code, Some(0), "{err}");
    let told = "sandbox/dev created (1 vCPU, 128 MB, image busybox)";
    assert!(format!("{out}{err}").contains(told), "{out}{err}");
    let (code, out, err) = run(create);
    assert_eq!(code, Some(0));
    assert!(format!("{out}{err}").contains("unchanged (already exists)"), "{out}{err}");
    let (_, table, _) = run("list");
    let lines: Vec<Vec<&str>> = table.lines().map(|l| l.split_whitespace().collect()).collect();
    assert_eq!(lines[0], ["NAME", "STATUS", "THERMAL", "IMAGE", "CPUS", "MEMORY"]);
    assert_eq!(lines[1], ["dev", "running", "hot", "busybox", "1", "128", "MB"]);
    assert_eq!(run("exec dev -- hostname").1, "dev\n");
    assert_eq!(run("stop dev").0, Some(0));
    let (_, shown, _) = run("inspect dev");
    assert!(shown.contains("stopped"), "{shown}");
    let (code, out, err) = run("start dev");
    assert_eq!(code, Some(0));
    assert!(format!("{out}{err}").contains("(from snapshot)"), "{out}{err}");
    assert_eq!((run("pause dev").0, run("resume dev").0), (Some(0), Some(0)));
    let json: serde_json::Value = serde_json::from_str(&run("--json list").1).unwrap();
    assert_eq!(json[0]["name"], "dev");
    assert_eq!(run("destroy dev").0, Some(1), "nobody was asked");
    assert_eq!(run("destroy -y dev").0, Some(0));
    let (code, _, err) = run("inspect dev");
    assert_eq!(code, Some(1));
    assert!(err.starts_with("error: ") && err.contains("hint: "), "{err}");
}
