use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};

use proto::frame::FrameKind;
use proto::message::{ErrorCode, FileList, FileWrite, Request, Response};
use tokio::time::timeout;

use super::{code, is_root, names, of, read, send, write};
use crate::testing::{Guest, PATIENCE, ask, hear, open};

#[tokio::test]
async fn a_file_comes_back_as_it_was_written() {
    let guest = Guest::new().await;
    let host = guest.owned().await;
    let content: Vec<u8> = (0..=255).cycle().take(700_000).collect();
    let done = write(&host, "/new/dir/file", Some(0o600), &content).await;
    assert_eq!(done, Response::Done);
    assert_eq!(read(&host, of("/new/dir/file")).await, Ok((content, false)));
    let meta = fs::metadata(guest.path().join("new/dir/file")).unwrap();
    assert_eq!(meta.mode() & 0o7777, 0o600);
    let parent = fs::metadata(guest.path().join("new")).unwrap();
    let root = fs::metadata(guest.path()).unwrap();
    assert_eq!((parent.uid(), parent.mode() & 0o7777), (root.uid(), 0o755));
}

#[tokio::test]
async fn failures_have_their_own_codes() {
    let guest = Guest::new().await;
    let host = guest.owned().await;
    fs::write(guest.path().join("file"), "").unwrap();
    assert_eq!(read(&host, of("/none")).await, Err(ErrorCode::NotFound));
    assert_eq!(read(&host, of("/etc")).await, Err(ErrorCode::IsDirectory));
    assert_eq!(read(&host, of("/file/x")).await, Err(ErrorCode::NotDirectory));
    assert_eq!(read(&host, of("etc")).await, Err(ErrorCode::Invalid));
    assert_eq!(read(&host, of("/a\0b")).await, Err(ErrorCode::Invalid));
    assert_eq!(code(write(&host, "/etc", None, b"").await), ErrorCode::IsDirectory);
    assert_eq!(code(write(&host, "/file/x", None, b"").await), ErrorCode::NotDirectory);
    assert_eq!(code(write(&host, "x", None, b"").await), ErrorCode::Invalid);
    let stat = Request::FileStat { path: "/none".to_owned(), no_follow: false };
    assert_eq!(code(ask(&host, &stat).await), ErrorCode::NotFound);
    let list = Request::FileList(FileList { path: "/file".to_owned(), ..FileList::default() });
    assert_eq!(code(ask(&host, &list).await), ErrorCode::NotDirectory);
}

#[tokio::test]
async fn a_client_that_vanishes_leaves_the_old_file_and_nothing_else() {
    let guest = Guest::new().await;
    let host = guest.owned().await;
    fs::create_dir(guest.path().join("d")).unwrap();
    fs::write(guest.path().join("d/file"), "old").unwrap();
    let request =
        Request::FileWrite(FileWrite { path: "/d/file".to_owned(), ..FileWrite::default() });
    let mut stream = open(&host, &request).await;
    stream.send_data(FrameKind::Data, b"half").await.unwrap();
    drop(stream);
    // Answered after the agent has seen the end of the other: both go the same way.
    assert_eq!(ask(&host, &Request::Ping).await, Response::Done);
    assert_eq!(fs::read_to_string(guest.path().join("d/file")).unwrap(), "old");
    assert_eq!(fs::read_dir(guest.path().join("d")).unwrap().count(), 1);
}

#[tokio::test]
async fn two_writers_of_one_file_do_not_mix() {
    let guest = Guest::new().await;
    let host = guest.owned().await;
    let (a, b) = (vec![b'a'; 500_000], vec![b'b'; 500_000]);
    let (first, second) =
        tokio::join!(write(&host, "/both", None, &a), write(&host, "/both", None, &b));
    assert_eq!((first, second), (Response::Done, Response::Done));
    let content = fs::read(guest.path().join("both")).unwrap();
    assert!(content == a || content == b);
    assert_eq!(fs::read_dir(guest.path()).unwrap().count(), 3);
}

#[tokio::test]
async fn what_is_replaced_keeps_its_mode_and_a_link_stays_one() {
    let guest = Guest::new().await;
    let host = guest.owned().await;
    let real = guest.path().join("real");
    fs::write(&real, "old").unwrap();
    fs::set_permissions(&real, fs::Permissions::from_mode(0o751)).unwrap();
    symlink(&real, guest.path().join("link")).unwrap();
    assert_eq!(write(&host, "/link", None, b"new").await, Response::Done);
    assert_eq!(fs::read_to_string(&real).unwrap(), "new");
    assert_eq!(fs::metadata(&real).unwrap().mode() & 0o7777, 0o751);
    assert!(fs::symlink_metadata(guest.path().join("link")).unwrap().is_symlink());
}

#[tokio::test]
async fn a_large_write_that_is_cut_off_leaves_nothing() {
    let guest = Guest::new().await;
    let host = guest.owned().await;
    let directory = guest.path().join("d");
    fs::create_dir(&directory).unwrap();
    let request =
        Request::FileWrite(FileWrite { path: "/d/file".to_owned(), ..FileWrite::default() });
    let mut stream = open(&host, &request).await;
    stream.send_data(FrameKind::Data, &vec![1; 900_000]).await.unwrap();
    timeout(PATIENCE, async {
        while names(&directory).is_empty() {
            ask(&host, &Request::Ping).await;
        }
        drop(stream);
        while !names(&directory).is_empty() {
            ask(&host, &Request::Ping).await;
        }
    })
    .await
    .unwrap();
}

#[tokio::test]
async fn only_files_are_replaced() {
    let guest = Guest::new().await;
    let host = guest.owned().await;
    let mode = rustix::fs::Mode::from_raw_mode(0o600);
    let kind = rustix::fs::FileType::Fifo;
    let pipe = guest.path().join("pipe");
    rustix::fs::mknodat(rustix::fs::CWD, &pipe, kind, mode, 0).unwrap();
    assert_eq!(code(write(&host, "/pipe", None, b"x").await), ErrorCode::Invalid);
    assert_eq!(code(write(&host, "/new/", None, b"x").await), ErrorCode::IsDirectory);
    symlink("/nowhere/at/all", guest.path().join("dangling")).unwrap();
    assert_eq!(write(&host, "/dangling", None, b"x").await, Response::Done);
    assert!(guest.path().join("dangling").is_file());
    let append = FileWrite { path: "/pipe".to_owned(), append: true, ..FileWrite::default() };
    assert_eq!(code(send(&host, &Request::FileWrite(append), b"x").await), ErrorCode::Invalid);
}

#[tokio::test]
async fn the_owner_is_who_was_asked_for() {
    if !is_root() {
        return;
    }
    let guest = Guest::new().await;
    let host = guest.owned().await;
    fs::write(guest.path().join("etc/passwd"), "ann:x:1234:2345::/:/bin/sh\n").unwrap();
    fs::write(guest.path().join("etc/group"), "crew:x:3456:\n").unwrap();
    let owned = async |owner: &str, append: bool| {
        let path = format!("/{}-{append}", owner.replace(':', "-"));
        let owner = Some(owner.to_owned());
        let write = FileWrite { path: path.clone(), owner, append, mode: Some(0o4755) };
        let answer = send(&host, &Request::FileWrite(write), b"x").await;
        let meta = fs::metadata(guest.path().join(&path[1..])).ok();
        (answer, meta.map(|meta| (meta.uid(), meta.gid(), meta.mode() & 0o7777)))
    };
    for append in [false, true] {
        for (owner, uid, gid) in [
            ("ann", 1234, 2345),
            ("ann:", 1234, 2345),
            ("ann:crew", 1234, 3456),
            ("77:crew", 77, 3456),
            ("77:88", 77, 88),
            (":crew", 0, 3456),
        ] {
            let (answer, meta) = owned(owner, append).await;
            assert_eq!((answer, meta), (Response::Done, Some((uid, gid, 0o4755))), "{owner}");
        }
        for unknown in ["bob", "ann:nobody-here", "", ":", "ann:crew:x", "-1"] {
            let (answer, meta) = owned(unknown, append).await;
            assert_eq!((code(answer), meta), (ErrorCode::UnknownUser, None), "{unknown}");
        }
    }
}

#[tokio::test]
async fn what_is_appended_is_there_when_it_has_come() {
    let guest = Guest::new().await;
    let host = guest.owned().await;
    let file = guest.path().join("a/b/log");
    let append = FileWrite { path: "/a/b/log".to_owned(), append: true, ..FileWrite::default() };
    let request = Request::FileWrite(append);
    let mut stream = open(&host, &request).await;
    let mut expected = String::new();
    for line in ["one\n", "two\n", "three\n"] {
        stream.send_data(FrameKind::Data, line.as_bytes()).await.unwrap();
        expected.push_str(line);
        timeout(PATIENCE, async {
            while fs::read_to_string(&file).unwrap_or_default() != expected {
                ask(&host, &Request::Ping).await;
            }
        })
        .await
        .unwrap();
    }
    // Whoever vanishes has added what it sent.
    drop(stream);
    assert_eq!(send(&host, &request, b"four\n").await, Response::Done);
    expected.push_str("four\n");
    assert_eq!(fs::read_to_string(&file).unwrap(), expected);
    assert_eq!(fs::metadata(&file).unwrap().mode() & 0o7777, 0o644);
    fs::set_permissions(&file, fs::Permissions::from_mode(0o640)).unwrap();
    assert_eq!(send(&host, &request, &vec![b'x'; 700_000]).await, Response::Done);
    let meta = fs::metadata(&file).unwrap();
    assert_eq!((meta.len(), meta.mode() & 0o7777), (expected.len() as u64 + 700_000, 0o640));
}

#[tokio::test]
async fn nothing_but_data_may_follow() {
    let guest = Guest::new().await;
    let host = guest.owned().await;
    let request = Request::FileWrite(FileWrite { path: "/f".to_owned(), ..FileWrite::default() });
    let mut stream = open(&host, &request).await;
    stream.send_json(&Request::Ping).await.unwrap();
    assert_eq!(code(hear(&mut stream).await), ErrorCode::Invalid);
    assert!(!guest.path().join("f").exists());
}
