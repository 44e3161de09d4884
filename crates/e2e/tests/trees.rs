//! Directories, parts of files, and whole trees.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::{os::unix::fs::PermissionsExt as _, path::Path};

use api::{
    CreateSandbox, ErrorCode, FileKind, MakeDirectory, MoveFile, WatchEvent, WatchKind,
    client::FilePart,
};
use e2e::{Guest, Node, create_request, raw, refused};

fn bytes(length: usize) -> Vec<u8> {
    let mut state = 0x9e37_79b9_u32;
    let next = move || {
        state ^= state << 13;
        state ^= state >> 17;
        state ^= state << 5;
        state.to_le_bytes()[1]
    };
    std::iter::repeat_with(next).take(length).collect()
}

#[tokio::test]
async fn a_hundred_megabytes_come_back_as_they_went() {
    let node = Node::start();
    let mut guest = Guest::create(&node, "dev").await;
    let content = bytes(100 << 20);
    let sum = base::hash::bytes(&content);
    assert_eq!(guest.write("/tmp/big", content).await.unwrap(), 100 << 20);
    assert_eq!(guest.sh("sha256sum /tmp/big").await[..64], sum);
    let read = guest.read("/tmp/big", FilePart::default()).await.unwrap();
    assert_eq!(base::hash::bytes(&read), sum);
}

#[tokio::test]
async fn a_range_of_bytes_is_answered_as_http_says() {
    let node = Node::start();
    let mut guest = Guest::create(&node, "dev").await;
    guest.write("/tmp/f", b"0123456789".to_vec()).await.unwrap();
    let path = format!("/sandboxes/{}/files?path=/tmp/f", guest.id);
    for (range, status, body, content_range) in [
        ("bytes=2-4", 206, "234", Some("bytes 2-4/10")),
        ("bytes=7-", 206, "789", Some("bytes 7-9/10")),
        ("bytes=-3", 206, "789", Some("bytes 7-9/10")),
        ("bytes=0-99", 206, "0123456789", Some("bytes 0-9/10")),
        ("bytes=10-", 416, "", Some("bytes */10")),
        ("lines=1-2", 200, "0123456789", None),
        ("bytes=4-2", 200, "0123456789", None),
    ] {
        let header = format!("range: {range}");
        let answer = raw::unix_with(&node.socket(), "GET", &path, &[&header]).await;
        assert_eq!(answer.status, status, "{range}: {answer:?}");
        assert_eq!(answer.header("content-range"), content_range, "{range}");
        if status == 416 {
            assert_eq!(answer.error().code, ErrorCode::RangeInvalid);
        } else {
            assert_eq!(answer.body, body.as_bytes(), "{range}");
            assert_eq!(answer.header("content-length").unwrap(), body.len().to_string());
        }
    }
}

#[tokio::test]
async fn what_is_appended_is_added_and_owners_are_as_asked() {
    let node = Node::start();
    let mut guest = Guest::create(&node, "dev").await;
    for part in ["one\n", "two\n"] {
        guest.client.file_append(&guest.id, "/tmp/log", part.as_bytes()).await.unwrap();
    }
    assert_eq!(
        guest.sh("cat /tmp/log; stat -c %u:%g:%a /tmp/log").await,
        "one\ntwo\n1000:1000:644"
    );
    let path = format!("/sandboxes/{}/files?path=/tmp/owned&owner=root:12&mode=0640", guest.id);
    let answer = raw::unix(&node.socket(), "PUT", &path, b"x").await;
    assert_eq!(answer.status, 200, "{answer:?}");
    assert_eq!(guest.sh("stat -c %u:%g:%a /tmp/owned").await, "0:12:640");
    let path = format!("/sandboxes/{}/files?path=/tmp/x&owner=nobody-here", guest.id);
    let answer = raw::unix(&node.socket(), "PUT", &path, b"x").await;
    assert_eq!(answer.error().code, ErrorCode::UnknownUserInGuest);
}

#[tokio::test]
async fn directories_are_made_moved_and_removed() {
    let node = Node::start();
    let mut guest = Guest::create(&node, "dev").await;
    let make = |path: &str, parents| MakeDirectory {
        path: path.to_owned(),
        mode: Some("0750".to_owned()),
        parents,
    };
    let id = guest.id.clone();
    let code = |outcome: Result<api::Done, api::client::ClientError>| refused(outcome).code;
    let client = &mut guest.client;
    client.make_directory(&id, &make("/tmp/a/b/c", true)).await.unwrap();
    client.make_directory(&id, &make("/tmp/a/b/c", true)).await.unwrap();
    assert_eq!(
        code(client.make_directory(&id, &make("/tmp/a", false)).await),
        ErrorCode::FileExists
    );
    let missing = client.make_directory(&id, &make("/tmp/x/y", false)).await;
    assert_eq!(code(missing), ErrorCode::FileNotFound);
    let below_file = client.make_directory(&id, &make("/etc/passwd/y", true)).await;
    assert_eq!(code(below_file), ErrorCode::NotDirectory);
    let mv = |from: &str, to: &str, replace| MoveFile {
        from: from.to_owned(),
        to: to.to_owned(),
        replace,
    };
    client.file_append(&id, "/tmp/a/f", &b"f"[..]).await.unwrap();
    client.file_append(&id, "/tmp/a/g", &b"g"[..]).await.unwrap();
    let held = client.move_file(&id, &mv("/tmp/a/f", "/tmp/a/g", false)).await;
    assert_eq!(code(held), ErrorCode::FileExists);
    client.move_file(&id, &mv("/tmp/a/f", "/tmp/a/g", true)).await.unwrap();
    let into_itself = client.move_file(&id, &mv("/tmp/a", "/tmp/a/b/d", false)).await;
    assert_eq!(code(into_itself), ErrorCode::InvalidRequest);
    // To another file system.
    client.move_file(&id, &mv("/tmp/a", "/dev/shm/a", false)).await.unwrap();
    assert_eq!(
        code(client.file_remove(&id, "/dev/shm/a", false).await),
        ErrorCode::DirectoryNotEmpty
    );
    assert_eq!(guest.sh("cat /dev/shm/a/g; stat -c :%a /dev/shm/a/b/c; ls /tmp").await, "f:750");
    guest.sh("ln -s /etc /dev/shm/a/link").await;
    let client = &mut guest.client;
    client.file_remove(&id, "/dev/shm/a", true).await.unwrap();
    assert_eq!(code(client.file_remove(&id, "/dev/shm/a", true).await), ErrorCode::FileNotFound);
    assert_eq!(code(client.file_remove(&id, "/", true).await), ErrorCode::InvalidRequest);
    guest.sh("test -e /etc/passwd").await;
    // What even root may not do there.
    let forbidden = guest.client.file_remove(&id, "/proc/version", false).await;
    assert_eq!(code(forbidden), ErrorCode::PermissionDenied);
    let answer = guest.write("/sys/kernel/none", b"x".to_vec()).await;
    assert_eq!(refused(answer).code, ErrorCode::PermissionDenied);
}

#[tokio::test]
async fn a_directory_of_a_hundred_thousand_entries_is_listed_page_by_page() {
    let node = Node::start();
    // A file system in memory has as many files as half of its pages.
    let request = CreateSandbox { memory_mb: Some(1024), ..create_request("dev") };
    let mut guest = Guest::create_by(node.admin(), request).await;
    guest.root("mkdir /dev/shm/many && cd /dev/shm/many && seq -w 0 99999 | xargs touch").await;
    let (mut after, mut all, mut pages) = (None::<String>, Vec::new(), 0);
    loop {
        let page =
            guest.client.file_list_page(&guest.id, "/dev/shm/many", after.as_deref(), 9000).await;
        let (entries, more) = page.unwrap();
        pages += 1;
        assert!(entries.len() <= 9000);
        all.extend(entries.into_iter().map(|entry| entry.name));
        if !more {
            break;
        }
        after = all.last().cloned();
    }
    assert_eq!(pages, 12);
    assert!(all.iter().enumerate().all(|(index, name)| *name == format!("{index:05}")));
    assert_eq!(all.len(), 100_000);
    let whole = guest.client.file_list(&guest.id, "/dev/shm/many").await.unwrap();
    assert_eq!(whole.len(), 100_000);
}

#[tokio::test]
async fn changes_of_files_are_told_as_they_happen() {
    let node = Node::start();
    let mut guest = Guest::create(&node, "dev").await;
    guest.sh("mkdir -p /tmp/w/sub; echo a > /tmp/w/old").await;
    let mut worker = guest.by(node.admin());
    let mut events = guest.client.watch(&guest.id, "/tmp/w", true).await.unwrap();
    assert_eq!(events.next().await.unwrap(), Some(WatchEvent::Watching));
    worker
        .sh("cd /tmp/w; echo x > new; mv new named; chmod 600 old; mkdir -p deep/er; \
             echo y > deep/er/f; rm old; echo z > sub/last")
        .await;
    let mut seen = Vec::new();
    loop {
        let event = events.next().await.unwrap().unwrap();
        let WatchEvent::Change { kind, path, to, .. } = event else { panic!("{event:?}") };
        let last = kind == WatchKind::Write && path == "/tmp/w/sub/last";
        seen.push((kind, path, to));
        if last {
            break;
        }
    }
    let told = |kind: WatchKind, path: &str, to: Option<&str>| {
        let wanted = (kind, path.to_owned(), to.map(str::to_owned));
        assert!(seen.contains(&wanted), "{wanted:?} is missing in {seen:#?}");
    };
    told(WatchKind::Create, "/tmp/w/new", None);
    told(WatchKind::Write, "/tmp/w/new", None);
    told(WatchKind::Rename, "/tmp/w/new", Some("/tmp/w/named"));
    told(WatchKind::Attributes, "/tmp/w/old", None);
    told(WatchKind::Create, "/tmp/w/deep", None);
    told(WatchKind::Create, "/tmp/w/deep/er", None);
    told(WatchKind::Create, "/tmp/w/deep/er/f", None);
    told(WatchKind::Remove, "/tmp/w/old", None);
    drop(events);
    let missing = guest.client.watch(&guest.id, "/tmp/none", false).await.map(drop);
    assert_eq!(refused(missing).code, ErrorCode::FileNotFound);
}

fn tree(root: &Path) {
    let make = |path: &str, content: &[u8], mode: u32| {
        let path = root.join(path);
        fs_err::create_dir_all(path.parent().unwrap()).unwrap();
        fs_err::write(&path, content).unwrap();
        fs_err::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
    };
    make("a.txt", b"a", 0o640);
    make("bin/run", b"#!/bin/sh\necho ran\n", 0o755);
    make("deep/er/and/deeper/big", &bytes(3 << 20), 0o644);
    make(&format!("deep/{}/{}", "l".repeat(120), "m".repeat(200)), b"long", 0o600);
    make("odd/na me\n\u{e9}%", b"odd", 0o644);
    fs_err::create_dir_all(root.join("empty")).unwrap();
    fs_err::os::unix::fs::symlink("../a.txt", root.join("bin/link")).unwrap();
    fs_err::os::unix::fs::symlink("/nowhere", root.join("dangling")).unwrap();
    fs_err::hard_link(root.join("a.txt"), root.join("same")).unwrap();
}

/// Every path below a directory with what it is.
fn inventory(root: &Path) -> Vec<(String, u32, Vec<u8>)> {
    let (mut found, mut todo) = (Vec::new(), vec![root.to_owned()]);
    while let Some(directory) = todo.pop() {
        for entry in fs_err::read_dir(&directory).unwrap() {
            let path = entry.unwrap().path();
            let meta = fs_err::symlink_metadata(&path).unwrap();
            let name = path.strip_prefix(root).unwrap().to_string_lossy().into_owned();
            let content = if meta.is_symlink() {
                fs_err::read_link(&path).unwrap().into_os_string().into_encoded_bytes()
            } else if meta.is_dir() {
                todo.push(path);
                Vec::new()
            } else {
                fs_err::read(&path).unwrap()
            };
            let mode = if meta.is_symlink() { 0 } else { meta.permissions().mode() };
            found.push((name, mode, content));
        }
    }
    found.sort();
    found
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn cp_takes_files_and_trees_both_ways() {
    let node = Node::start();
    let mut guest = Guest::create(&node, "dev").await;
    let local = tempfile::tempdir().unwrap();
    let source = local.path().join("source");
    fs_err::create_dir(&source).unwrap();
    tree(&source);
    let from = source.to_str().unwrap();
    let cp = |from: &str, to: &str| {
        let output = node.cli(&["cp", from, to]);
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success(), "cp {from} {to}: {said}");
    };
    cp(from, "dev:/tmp/copy");
    assert_eq!(guest.sh("/tmp/copy/bin/run; readlink /tmp/copy/bin/link").await, "ran\n../a.txt");
    assert_eq!(guest.sh("stat -c %u:%g:%a /tmp/copy/a.txt").await, "1000:1000:640");
    let back = local.path().join("back");
    cp("dev:/tmp/copy", back.to_str().unwrap());
    assert_eq!(inventory(&back), inventory(&source));
    // Into what is there, under the last name; contents alone with /.
    guest.sh("mkdir /tmp/into").await;
    cp(from, "dev:/tmp/into");
    cp(&format!("{from}/."), "dev:/tmp/flat");
    assert_eq!(guest.sh("cat /tmp/into/source/a.txt /tmp/flat/a.txt").await, "aa");
    cp(&format!("{from}/a.txt"), "dev:/tmp/into");
    cp("dev:/tmp/into/a.txt", &format!("{from}/b.txt"));
    assert_eq!(fs_err::read(source.join("b.txt")).unwrap(), b"a");
    for (from, to, says) in [
        ("dev:/tmp/none", local.path().to_str().unwrap(), "/tmp/none"),
        ("/no/such/file", "dev:/tmp", "/no/such/file"),
        ("dev:/tmp/copy", "/no/such/parent/x", "/no/such/parent"),
        (from, "dev:/tmp/into/a.txt", "a.txt"),
        ("dev:/tmp", "dev:/tmp", "one"),
    ] {
        let output = node.cli(&["cp", from, to]);
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(1), "cp {from} {to}: {said}");
        assert!(said.contains(says), "cp {from} {to}: {said}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_program_deals_with_files() {
    let node = Node::start();
    Guest::create(&node, "dev").await;
    let ok = |args: &[&str]| {
        let output = node.cli(args);
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success(), "{args:?}: {said}");
        String::from_utf8(output.stdout).unwrap()
    };
    ok(&["file", "mkdir", "-p", "dev", "/tmp/a/b"]);
    ok(&["exec", "dev", "--", "sh", "-c", "printf 'one\\ntwo\\nthree\\n' > /tmp/a/f"]);
    assert_eq!(ok(&["file", "read", "dev", "/tmp/a/f", "--offset", "2", "--limit", "1"]), "two\n");
    assert_eq!(ok(&["file", "read", "dev", "/tmp/a/f", "--range", "4-6"]), "two");
    ok(&["file", "mv", "dev", "/tmp/a/f", "/tmp/a/b/g"]);
    let listed = ok(&["--json", "file", "ls", "dev", "/tmp/a/b"]);
    let entries: Vec<api::FileInfo> = serde_json::from_str(&listed).unwrap();
    assert_eq!((entries[0].name.as_str(), &entries[0].kind), ("g", &FileKind::File));
    let stat = ok(&["file", "stat", "dev", "/tmp/a/b/g"]);
    assert!(stat.contains("14"), "{stat}");
    ok(&["file", "rm", "-r", "dev", "/tmp/a"]);
    let missing = node.cli(&["file", "stat", "dev", "/tmp/a"]);
    assert_eq!(missing.status.code(), Some(1));
}
