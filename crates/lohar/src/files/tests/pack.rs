use std::fs;
use std::io::Read;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use proto::message::{ErrorCode, Request, Response};
use proto::mux::Session;

use super::{content, send};
use crate::testing::{Guest, ask, open};

async fn pack(host: &Session, path: &str) -> Result<Vec<u8>, ErrorCode> {
    let mut stream = open(host, &Request::Pack { path: path.to_owned() }).await;
    let (archive, truncated) = content(&mut stream).await?;
    assert!(!truncated && archive.len().is_multiple_of(512));
    Ok(archive)
}

fn listed(archive: &[u8]) -> Vec<(PathBuf, char)> {
    let mut archive = tar::Archive::new(archive);
    let entry = |entry: std::io::Result<tar::Entry<'_, &[u8]>>| {
        let entry = entry.unwrap();
        let kind = char::from(entry.header().entry_type().as_byte());
        (entry.path().unwrap().into_owned(), kind)
    };
    archive.entries().unwrap().map(entry).collect()
}

#[tokio::test]
async fn a_tree_comes_out_as_it_went_in() {
    let guest = Guest::new().await;
    let host = guest.owned().await;
    let tree = guest.path().join("tree");
    let long = "n".repeat(200);
    fs::create_dir_all(tree.join("b").join(&long)).unwrap();
    fs::write(tree.join("b").join(&long).join("file"), "deep").unwrap();
    fs::write(tree.join("a"), vec![3; 700_001]).unwrap();
    fs::write(tree.join("empty"), "").unwrap();
    fs::hard_link(tree.join("a"), tree.join("b/same")).unwrap();
    symlink(format!("..//{long}/../{long}"), tree.join("b/link")).unwrap();
    fs::set_permissions(tree.join("a"), fs::Permissions::from_mode(0o4750)).unwrap();
    let _socket = std::os::unix::net::UnixListener::bind(tree.join("socket")).unwrap();
    let archive = pack(&host, "/tree").await.unwrap();
    let names: Vec<_> = listed(&archive);
    let expected = [
        ("./", '5'),
        ("a", '0'),
        ("b/", '5'),
        ("b/link", '2'),
        (&format!("b/{long}/"), '5'),
        (&format!("b/{long}/file"), '0'),
        ("b/same", '1'),
        ("empty", '0'),
    ]
    .map(|(name, kind)| (PathBuf::from(name), kind));
    assert_eq!(names, expected);

    let answer =
        send(&host, &Request::Unpack { path: "/x/y".to_owned(), owner: None }, &archive).await;
    assert_eq!(answer, Response::Done);
    let out = guest.path().join("x/y");
    assert_eq!(fs::read(out.join("a")).unwrap(), vec![3; 700_001]);
    assert_eq!(fs::read_to_string(out.join("b").join(&long).join("file")).unwrap(), "deep");
    let link = fs::read_link(out.join("b/link")).unwrap();
    assert_eq!(link, fs::read_link(tree.join("b/link")).unwrap());
    let (old, new) = (fs::metadata(tree.join("a")).unwrap(), fs::metadata(out.join("a")).unwrap());
    assert_eq!((new.mode(), new.mtime(), new.nlink()), (old.mode(), old.mtime(), 2));
    let mtime = |path: &Path| fs::metadata(path).unwrap().mtime();
    assert_eq!(mtime(&out.join("b")), mtime(&tree.join("b")));
    assert_eq!(pack(&host, "/x/y").await.unwrap(), archive);
}

#[tokio::test]
async fn a_file_is_one_entry() {
    let guest = Guest::new().await;
    let host = guest.owned().await;
    fs::write(guest.path().join("file"), "content").unwrap();
    symlink("file", guest.path().join("link")).unwrap();
    let archive = pack(&host, "/file").await.unwrap();
    let mut reader = tar::Archive::new(archive.as_slice());
    let mut entries = reader.entries().unwrap();
    let mut entry = entries.next().unwrap().unwrap();
    assert_eq!(entry.path().unwrap(), Path::new("file"));
    let mut text = String::new();
    entry.read_to_string(&mut text).unwrap();
    assert_eq!(text, "content");
    assert!(entries.next().is_none());
    let followed = pack(&host, "/link").await.unwrap();
    assert_eq!(listed(&followed), [(PathBuf::from("link"), '0')]);
    assert_eq!(pack(&host, "/none").await, Err(ErrorCode::NotFound));
    let _socket = std::os::unix::net::UnixListener::bind(guest.path().join("socket")).unwrap();
    assert_eq!(pack(&host, "/socket").await, Err(ErrorCode::Invalid));
}

#[tokio::test]
async fn a_file_that_changes_meanwhile_fills_its_place() {
    let guest = Guest::new().await;
    let host = guest.owned().await;
    let tree = guest.path().join("tree");
    fs::create_dir(&tree).unwrap();
    fs::write(tree.join("a"), vec![1; 8_000_000]).unwrap();
    fs::write(tree.join("z"), "after").unwrap();
    let mut stream = open(&host, &Request::Pack { path: "/tree".to_owned() }).await;
    // The header has been sent by then, and what follows waits to be read.
    assert!(matches!(crate::testing::hear(&mut stream).await, Response::FileHeader(_)));
    let first = stream.recv().await.unwrap().unwrap().payload;
    fs::File::options().write(true).open(tree.join("a")).unwrap().set_len(100_000).unwrap();
    let mut archive = first;
    loop {
        let frame = stream.recv().await.unwrap().unwrap();
        if frame.kind == proto::frame::FrameKind::Json {
            break;
        }
        archive.extend(frame.payload);
    }
    let mut reader = tar::Archive::new(archive.as_slice());
    let sizes: Vec<u64> = reader.entries().unwrap().map(|entry| entry.unwrap().size()).collect();
    assert_eq!(sizes, [0, 8_000_000, 5]);
}

#[tokio::test]
async fn archives_that_nobody_reads_keep_nobody_out() {
    let guest = Guest::new().await;
    let host = guest.owned().await;
    fs::write(guest.path().join("large"), vec![1; 4_000_000]).unwrap();
    let mut stalled = Vec::new();
    for _ in 0..crate::agent::ARCHIVES_MAX {
        stalled.push(open(&host, &Request::Pack { path: "/large".to_owned() }).await);
    }
    assert_eq!(super::write(&host, "/small", None, b"x").await, Response::Done);
    let request = Request::Pack { path: "/large".to_owned() };
    assert_eq!(super::code(ask(&host, &request).await), ErrorCode::Limit);
    drop(stalled);
    tokio::time::timeout(crate::testing::PATIENCE, async {
        while matches!(ask(&host, &request).await, Response::Error(_)) {}
    })
    .await
    .unwrap();
}

#[tokio::test]
async fn what_was_written_over_an_image_is_a_layer() {
    use rustix::fs::{CWD, FileType, Mode, XattrFlags, makedev, mknodat, setxattr};

    let guest = Guest::new().await;
    let host = guest.owned().await;
    let upper = guest.path().join("upper");
    fs::create_dir_all(upper.join("etc/all-new")).unwrap();
    fs::write(upper.join("etc/a"), "a").unwrap();
    let gone = upper.join("etc/gone");
    let made = mknodat(CWD, &gone, FileType::CharacterDevice, Mode::empty(), makedev(0, 0));
    if made.is_err() {
        println!("SKIPPED: only root may make device nodes");
        return;
    }
    // The overlay has one node for all that is gone.
    fs::hard_link(&gone, upper.join("etc/gone-too")).unwrap();
    let flags = XattrFlags::empty();
    setxattr(upper.join("etc/all-new"), "trusted.overlay.opaque", b"y", flags).unwrap();
    setxattr(upper.join("etc/all-new"), "trusted.of-its-own", b"1", flags).unwrap();
    setxattr(upper.join("etc/a"), "trusted.of-its-own", b"2\0=", flags).unwrap();
    // What the sandbox did is nobody's who is made of it.
    let jobs = upper.join(crate::jobs::DIRECTORY);
    fs::create_dir_all(jobs.join("1")).unwrap();

    let mut stream = open(&host, &Request::PackLayer { disk: Some(0) }).await;
    let (archive, _) = content(&mut stream).await.unwrap();
    let expected = [
        ("./", '5'),
        ("etc/", '5'),
        ("etc/.wh.gone", '0'),
        ("etc/.wh.gone-too", '0'),
        ("etc/a", '0'),
        ("etc/all-new/", '5'),
        ("etc/all-new/.wh..wh..opq", '0'),
        ("var/", '5'),
        ("var/log/", '5'),
        ("var/log/bhatti/", '5'),
    ]
    .map(|(name, kind)| (PathBuf::from(name), kind));
    let mut names = listed(&archive);
    names.sort();
    assert_eq!(names, expected);
    let mut attributes = Vec::new();
    for entry in tar::Archive::new(archive.as_slice()).entries().unwrap() {
        let mut entry = entry.unwrap();
        let name = entry.path().unwrap().into_owned();
        if let Some(records) = entry.pax_extensions().unwrap() {
            let said = records.map(|record| {
                let record = record.unwrap();
                (record.key().unwrap().to_owned(), record.value_bytes().to_owned())
            });
            attributes.push((name, said.collect::<Vec<_>>()));
        }
    }
    attributes.sort();
    let key = "SCHILY.xattr.trusted.of-its-own".to_owned();
    assert_eq!(
        attributes,
        [
            ("etc/a".into(), vec![(key.clone(), b"2\0=".to_vec())]),
            ("etc/all-new/".into(), vec![(key, b"1".to_vec())]),
        ]
    );
}

#[tokio::test]
async fn what_would_be_another_in_a_layer_is_refused() {
    use rustix::fs::{XattrFlags, setxattr};

    let guest = Guest::new().await;
    let host = guest.owned().await;
    let upper = guest.path().join("upper");
    fs::create_dir_all(upper.join("a")).unwrap();
    let refused = async || {
        let mut stream = open(&host, &Request::PackLayer { disk: None }).await;
        content(&mut stream).await.unwrap_err()
    };
    fs::write(upper.join("a/.wh.b"), "").unwrap();
    assert_eq!(refused().await, ErrorCode::Invalid);
    fs::remove_file(upper.join("a/.wh.b")).unwrap();
    let renamed = "trusted.overlay.redirect";
    if setxattr(upper.join("a"), renamed, b"/b", XattrFlags::empty()).is_err() {
        println!("SKIPPED: only root may say so");
        return;
    }
    assert_eq!(refused().await, ErrorCode::Failed);
}
