//! Files in a sandbox.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use api::{ErrorCode, FileKind, client::FilePart};
use e2e::{Guest, Node, raw, refused};
use tokio::io::AsyncWriteExt as _;

fn bytes(length: u32) -> Vec<u8> {
    (0..length).map(|i| i.wrapping_mul(2_654_435_761).to_le_bytes()[2]).collect()
}

#[tokio::test]
async fn what_is_written_is_read_back_byte_for_byte() {
    let node = Node::start();
    let mut guest = Guest::create(&node, "dev").await;
    for length in [0, 1, 255, 65_536, 65_537, 3 << 20] {
        let content = bytes(length);
        let size = guest.write("/tmp/deep/er/f", content.clone()).await.unwrap();
        assert_eq!(size, u64::from(length));
        assert!(guest.read("/tmp/deep/er/f", FilePart::default()).await.unwrap() == content);
        let sum = guest.sh("sha256sum /tmp/deep/er/f").await;
        assert_eq!(sum[..64], base::hash::bytes(&content));
    }
    assert_eq!(guest.sh("stat -c %u:%a /tmp/deep/er/f").await, "1000:644");
    // Names that mean something elsewhere mean themselves.
    let odd = "/tmp/a b%2F?x=1&y#z é\n";
    guest.write(odd, b"odd".to_vec()).await.unwrap();
    assert_eq!(guest.read(odd, FilePart::default()).await.unwrap(), b"odd");
    let version = guest.read("/proc/version", FilePart::default()).await.unwrap();
    assert!(version.starts_with(b"Linux version"), "a file whose size is said to be 0");
}

#[tokio::test]
async fn a_part_of_a_file_is_named_in_lines_and_bytes() {
    let node = Node::start();
    let mut guest = Guest::create(&node, "dev").await;
    let text: String = (1..=100).map(|line| format!("line {line}\n")).collect();
    guest.write("/tmp/f", text.clone().into_bytes()).await.unwrap();
    for (offset, limit, max_bytes, expected) in [
        (Some(99), None, None, "line 99\nline 100\n"),
        (Some(2), Some(2), None, "line 2\nline 3\n"),
        (None, Some(1), None, "line 1\n"),
        (None, None, Some(10), "line 1\nlin"),
        (Some(3), Some(50), Some(6), "line 3"),
        (Some(101), None, None, ""),
        (None, Some(0), None, ""),
    ] {
        let part = FilePart { offset, limit, max_bytes };
        let read = guest.read("/tmp/f", part).await.unwrap();
        assert_eq!(String::from_utf8_lossy(&read), expected, "{part:?}");
    }
    let whole = FilePart { offset: Some(1), limit: Some(1000), max_bytes: Some(1 << 20) };
    assert_eq!(guest.read("/tmp/f", whole).await.unwrap(), text.as_bytes());
    let zero = FilePart { offset: Some(0), ..FilePart::default() };
    assert_eq!(refused(guest.read("/tmp/f", zero).await).code, ErrorCode::InvalidRequest);
    // Longer than any buffer on the way.
    let line = "x".repeat(600_000);
    guest.write("/tmp/long", format!("{line}\nend\n").into_bytes()).await.unwrap();
    let second = FilePart { offset: Some(2), ..FilePart::default() };
    assert_eq!(guest.read("/tmp/long", second).await.unwrap(), b"end\n");
}

#[tokio::test]
async fn what_cannot_be_read_or_written_is_refused_with_the_reason() {
    let node = Node::start();
    let mut guest = Guest::create(&node, "dev").await;
    let all = FilePart::default();
    for (path, code) in [
        ("/tmp/missing", ErrorCode::FileNotFound),
        ("/missing/f", ErrorCode::FileNotFound),
        ("/tmp", ErrorCode::IsDirectory),
        ("/etc/passwd/f", ErrorCode::NotDirectory),
        ("etc/passwd", ErrorCode::PathNotAbsolute),
        ("", ErrorCode::PathNotAbsolute),
    ] {
        let body = refused(guest.read(path, all).await);
        assert_eq!(body.code, code, "{path}: {body:?}");
    }
    for (path, code) in [
        ("/tmp", ErrorCode::IsDirectory),
        ("/etc/passwd/f", ErrorCode::NotDirectory),
        ("tmp/f", ErrorCode::PathNotAbsolute),
    ] {
        let body = refused(guest.write(path, b"x".to_vec()).await);
        assert_eq!(body.code, code, "{path}: {body:?}");
    }
    for (path, code) in
        [("/etc/passwd", ErrorCode::NotDirectory), ("/missing", ErrorCode::FileNotFound)]
    {
        let listed = guest.client.file_list(&guest.id, path).await;
        assert_eq!(refused(listed).code, code, "{path}");
    }
    let path = format!("/sandboxes/{}/files", guest.id);
    let none = raw::unix(&node.socket(), "GET", &path, b"").await;
    assert_eq!((none.status, none.error().code), (400, ErrorCode::InvalidRequest));
    let missing = raw::unix(&node.socket(), "HEAD", &format!("{path}?path=/missing"), b"").await;
    assert_eq!((missing.status, missing.body.len()), (404, 0));
    let mode = raw::unix(&node.socket(), "PUT", &format!("{path}?path=/tmp/f&mode=rw"), b"x").await;
    assert_eq!((mode.status, mode.error().code), (400, ErrorCode::InvalidRequest));
}

#[tokio::test]
async fn a_directory_is_listed_by_name_with_what_is_in_it() {
    let node = Node::start();
    let mut guest = Guest::create(&node, "dev").await;
    let make = "mkdir -p /tmp/d/sub && cd /tmp/d && printf 12345 > b && chmod 4755 b && \
                : > a && ln -s b link && mkfifo pipe && : > .hidden";
    guest.sh(make).await;
    let listed = guest.client.file_list(&guest.id, "/tmp/d").await.unwrap();
    let seen: Vec<(&str, &FileKind, &str)> =
        listed.iter().map(|e| (e.name.as_str(), &e.kind, e.mode.as_str())).collect();
    assert_eq!(seen[0].0, ".hidden");
    assert_eq!(seen[1].0, "a");
    assert_eq!(seen[2], ("b", &FileKind::File, "4755"));
    assert_eq!((seen[3].0, seen[3].1), ("link", &FileKind::Symlink));
    assert_eq!((seen[4].0, seen[4].1), ("pipe", &FileKind::Other));
    assert_eq!((seen[5].0, seen[5].1), ("sub", &FileKind::Directory));
    assert_eq!((listed[2].size, listed[5].is_dir), (5, true));
    let now: i64 = guest.sh("date +%s").await.parse().unwrap();
    assert!((now - listed[1].mtime).abs() < 3600, "{}", listed[1].mtime);

    let stat = guest.client.file_stat(&guest.id, "/tmp/d/link").await.unwrap();
    assert_eq!((stat.size, stat.mode.as_str(), stat.is_dir), (5, "4755", false));
    assert!(guest.client.file_stat(&guest.id, "/tmp/d").await.unwrap().is_dir);
    // More than fits into one message between host and guest.
    guest.sh("mkdir /tmp/many && cd /tmp/many && seq -w 1 20000 | sed s/^/$(printf %075d 0)/ | xargs touch").await;
    let many = guest.client.file_list(&guest.id, "/tmp/many").await.unwrap();
    assert_eq!(many.len(), 20_000);
    assert!(many.windows(2).all(|two| two[0].name < two[1].name));
}

#[tokio::test]
async fn a_replaced_file_keeps_its_mode_or_gets_the_one_asked_for() {
    let node = Node::start();
    let mut guest = Guest::create(&node, "dev").await;
    let mut put = async |mode: Option<&'static str>, text: &'static str| {
        let content = std::io::Cursor::new(text.as_bytes());
        guest.client.file_write(&guest.id, "/tmp/run", mode, content).await.unwrap();
        guest.sh("stat -c %a /tmp/run; cat /tmp/run").await
    };
    assert_eq!(put(None, "1").await, "644\n1");
    assert_eq!(put(Some("0755"), "2").await, "755\n2");
    assert_eq!(put(None, "3").await, "755\n3");
    guest.sh("ln -s /tmp/run /tmp/link").await;
    guest.write("/tmp/link", b"4".to_vec()).await.unwrap();
    assert_eq!(guest.sh("readlink /tmp/link; cat /tmp/run").await, "/tmp/run\n4");
    let open = "exec 3</tmp/run; echo ready; read x <&3; echo $x";
    guest.write("/tmp/run", b"old\n".to_vec()).await.unwrap();
    assert_eq!(guest.sh(open).await, "ready\nold");
}

#[tokio::test]
async fn an_aborted_upload_leaves_the_old_file_and_no_litter() {
    let node = Node::start();
    let mut guest = Guest::create(&node, "dev").await;
    guest.write("/tmp/d/f", b"old".to_vec()).await.unwrap();
    let path = format!("/sandboxes/{}/files?path=/tmp/d/f", guest.id);
    let mut stream = tokio::net::UnixStream::connect(node.socket()).await.unwrap();
    let head = raw::head("PUT", &path, &["content-length: 4000000"]);
    stream.write_all(head.as_bytes()).await.unwrap();
    stream.write_all(&bytes(2_000_000)).await.unwrap();
    // Only once the new file is under way does giving it up mean anything. Seen from the inside.
    guest.sh("while [ $(ls -A /tmp/d | wc -l) != 2 ]; do usleep 10000; done").await;
    assert_eq!(guest.sh("cat /tmp/d/f").await, "old");
    drop(stream);
    guest.sh("while [ $(ls -A /tmp/d | wc -l) != 1 ]; do usleep 10000; done").await;
    assert_eq!(guest.sh("cat /tmp/d/f").await, "old");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_many_writers_one_wins_as_a_whole() {
    let node = Node::start();
    let mut guest = Guest::create(&node, "dev").await;
    let writes: Vec<_> = (0..16_u8)
        .map(|number| {
            let mut guest = guest.by(node.admin());
            tokio::spawn(async move { guest.write("/tmp/d/f", vec![number; 300_000]).await })
        })
        .collect();
    for write in writes {
        assert_eq!(write.await.unwrap().unwrap(), 300_000);
    }
    let read = guest.read("/tmp/d/f", FilePart::default()).await.unwrap();
    assert_eq!(read.len(), 300_000);
    assert!(read.iter().all(|byte| *byte == read[0]));
    assert_eq!(guest.sh("ls -A /tmp/d").await, "f");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_program_reads_writes_and_lists_files_and_wakes_for_it() {
    let node = Node::start();
    let mut guest = Guest::create(&node, "dev").await;
    let file = node.data().join("input");
    std::fs::write(&file, bytes(200_000)).unwrap();
    let input = std::fs::File::open(&file).unwrap();
    let written = node.cli_with(&["file", "write", "dev", "/tmp/f", "--mode", "600"], input);
    assert!(written.status.success(), "{}", String::from_utf8_lossy(&written.stderr));
    guest.stop().await;
    let read = node.cli(&["file", "read", "dev", "/tmp/f"]);
    assert!(read.stdout == bytes(200_000));
    let listed = node.cli(&["file", "list", "dev", "/tmp"]);
    let listed =
        if listed.status.success() { listed } else { node.cli(&["file", "ls", "dev", "/tmp"]) };
    let text = String::from_utf8_lossy(&listed.stdout).into_owned();
    let fields: Vec<&str> = text.lines().next().unwrap().split_whitespace().collect();
    assert_eq!(fields, ["-", "0600", "200000", "f"]);
    let missing = node.cli(&["file", "read", "dev", "/missing"]);
    assert_eq!((missing.status.code(), missing.stdout.len()), (Some(1), 0));
}
