use std::fs;
use std::io::Write;
use std::os::unix::fs::{PermissionsExt, symlink};

use proto::message::{Change, ChangeKind, ErrorCode, Request, Response};
use proto::mux::{Session, Stream};

use super::{code, write};
use crate::agent::WATCHES_MAX;
use crate::testing::{Guest, ask, hear, open};

async fn watch(host: &Session, path: &str, recursive: bool) -> Stream {
    let mut stream = open(host, &Request::Watch { path: path.to_owned(), recursive }).await;
    assert_eq!(hear(&mut stream).await, Response::Done);
    stream
}

/// Changes until one is `last`, which is the last.
async fn until(stream: &mut Stream, last: (ChangeKind, &str)) -> Vec<(ChangeKind, String)> {
    let mut all: Vec<(ChangeKind, String)> = Vec::new();
    loop {
        let changes = changes(stream).await;
        all.extend(changes.into_iter().map(|change| {
            let to = change.to.map(|to| format!(" {to}")).unwrap_or_default();
            (change.kind, change.path + &to)
        }));
        let seen = all.iter().any(|(kind, path)| (*kind, path.as_str()) == last);
        if seen {
            return all;
        }
    }
}

async fn changes(stream: &mut Stream) -> Vec<Change> {
    match hear(stream).await {
        Response::Changed { changes } => changes,
        other => panic!("{other:?}"),
    }
}

fn told(changes: &[(ChangeKind, &str)]) -> Vec<(ChangeKind, String)> {
    changes.iter().map(|(kind, path)| (*kind, (*path).to_owned())).collect()
}

#[tokio::test]
async fn what_happens_in_a_directory_is_told_in_order() {
    use ChangeKind::{Attributes, Create, Remove, Rename, Write};
    let guest = Guest::new().await;
    let host = guest.owned().await;
    let at = |name: &str| guest.path().join("d").join(name);
    fs::create_dir_all(at("sub")).unwrap();
    fs::write(at("old"), "").unwrap();
    let mut stream = watch(&host, "/d/", false).await;
    fs::write(at("new"), "content").unwrap();
    fs::rename(at("new"), at("newer")).unwrap();
    fs::set_permissions(at("newer"), fs::Permissions::from_mode(0o600)).unwrap();
    fs::rename(at("old"), guest.path().join("away")).unwrap();
    fs::rename(guest.path().join("away"), at("back")).unwrap();
    // Not watched.
    fs::write(at("sub/deep"), "").unwrap();
    fs::remove_file(at("newer")).unwrap();
    fs::create_dir(at("end")).unwrap();
    let got = until(&mut stream, (Create, "/d/end")).await;
    let expected = told(&[
        (Create, "/d/new"),
        (Write, "/d/new"),
        (Rename, "/d/new /d/newer"),
        (Attributes, "/d/newer"),
        (Remove, "/d/old"),
        (Create, "/d/back"),
        (Remove, "/d/newer"),
        (Create, "/d/end"),
    ]);
    assert_eq!(got, expected);
    fs::remove_dir(at("sub")).unwrap_err();
    fs::remove_dir_all(guest.path().join("d")).unwrap();
    until(&mut stream, (Remove, "/d")).await;
    assert_eq!(code(hear(&mut stream).await), ErrorCode::NotFound);
}

#[tokio::test]
async fn one_write_is_told_once_and_a_later_one_again() {
    let guest = Guest::new().await;
    let host = guest.owned().await;
    let path = guest.path().join("log");
    let mut file = fs::File::create(&path).unwrap();
    let mut stream = watch(&host, "/", false).await;
    for _ in 0..100 {
        file.write_all(b"line\n").unwrap();
    }
    let first = changes(&mut stream).await;
    assert_eq!(first.len(), 1, "{first:?}");
    assert_eq!((first[0].kind, first[0].path.as_str()), (ChangeKind::Write, "/log"));
    file.write_all(b"more\n").unwrap();
    let second = changes(&mut stream).await;
    assert_eq!((second.len(), second[0].kind), (1, ChangeKind::Write));
    // Closing adds nothing to what was told.
    drop(file);
    fs::write(guest.path().join("end"), "").unwrap();
    let rest = until(&mut stream, (ChangeKind::Create, "/end")).await;
    assert_eq!(rest[0], (ChangeKind::Create, "/end".to_owned()), "{rest:?}");
}

#[tokio::test]
async fn new_directories_are_watched_with_what_is_in_them_already() {
    let guest = Guest::new().await;
    let host = guest.owned().await;
    fs::create_dir_all(guest.path().join("r/there/below")).unwrap();
    let mut stream = watch(&host, "/r", true).await;
    for round in 0..30 {
        let top = guest.path().join(format!("r/{round}"));
        fs::create_dir_all(top.join("a/b")).unwrap();
        fs::write(top.join("a/b/file"), "x").unwrap();
        fs::write(top.join("other"), "x").unwrap();
    }
    fs::write(guest.path().join("r/there/below/end"), "").unwrap();
    let got = until(&mut stream, (ChangeKind::Create, "/r/there/below/end")).await;
    for round in 0..30 {
        for name in ["", "/a", "/a/b", "/a/b/file", "/other"] {
            let created = (ChangeKind::Create, format!("/r/{round}{name}"));
            let count = got.iter().filter(|change| **change == created).count();
            assert_eq!(count, 1, "{created:?}");
        }
    }
    fs::remove_file(guest.path().join("r/7/a/b/file")).unwrap();
    until(&mut stream, (ChangeKind::Remove, "/r/7/a/b/file")).await;
    // A directory that was renamed is followed under its new name.
    fs::rename(guest.path().join("r/8"), guest.path().join("r/eight")).unwrap();
    until(&mut stream, (ChangeKind::Rename, "/r/8 /r/eight")).await;
    fs::write(guest.path().join("r/eight/a/b/file"), "y").unwrap();
    until(&mut stream, (ChangeKind::Write, "/r/eight/a/b/file")).await;
    // One that has left is not, one that comes in is, with all that is in it.
    fs::rename(guest.path().join("r/9"), guest.path().join("nine")).unwrap();
    until(&mut stream, (ChangeKind::Remove, "/r/9")).await;
    fs::write(guest.path().join("nine/a/b/unseen"), "y").unwrap();
    fs::rename(guest.path().join("nine"), guest.path().join("r/nine")).unwrap();
    let got = until(&mut stream, (ChangeKind::Create, "/r/nine/a/b/unseen")).await;
    assert!(got.iter().all(|(kind, _)| *kind == ChangeKind::Create), "{got:?}");
}

#[tokio::test]
async fn a_file_is_watched_through_its_replacement_until_it_is_gone() {
    let guest = Guest::new().await;
    let host = guest.owned().await;
    let path = guest.path().join("file");
    fs::write(&path, "").unwrap();
    let mut stream = watch(&host, "/file", false).await;
    fs::write(guest.path().join("unrelated"), "").unwrap();
    fs::write(&path, "new").unwrap();
    let got = until(&mut stream, (ChangeKind::Write, "/file")).await;
    assert_eq!(got, told(&[(ChangeKind::Write, "/file")]));
    assert_eq!(write(&host, "/file", None, b"newer").await, Response::Done);
    let got = until(&mut stream, (ChangeKind::Create, "/file")).await;
    assert_eq!(got, told(&[(ChangeKind::Create, "/file")]));
    fs::rename(&path, guest.path().join("else")).unwrap();
    let got = until(&mut stream, (ChangeKind::Rename, "/file /else")).await;
    assert_eq!(got.len(), 1);
    assert_eq!(code(hear(&mut stream).await), ErrorCode::NotFound);
}

#[tokio::test]
async fn what_cannot_be_watched_is_refused() {
    let guest = Guest::new().await;
    let host = guest.owned().await;
    let refused = async |path: &str| {
        let request = Request::Watch { path: path.to_owned(), recursive: true };
        code(ask(&host, &request).await)
    };
    assert_eq!(refused("/none").await, ErrorCode::NotFound);
    assert_eq!(refused("none").await, ErrorCode::Invalid);
    symlink("loop", guest.path().join("loop")).unwrap();
    assert_eq!(refused("/loop").await, ErrorCode::Invalid);
}

#[tokio::test]
async fn a_watch_that_is_dropped_makes_room_for_another() {
    let guest = Guest::new().await;
    let host = guest.owned().await;
    let mut streams = Vec::new();
    for _ in 0..WATCHES_MAX {
        streams.push(watch(&host, "/", false).await);
    }
    let request = Request::Watch { path: "/".to_owned(), recursive: false };
    assert_eq!(code(ask(&host, &request).await), ErrorCode::Limit);
    // Other work is not kept out.
    assert_eq!(write(&host, "/file", None, b"x").await, Response::Done);
    drop(streams);
    tokio::time::timeout(crate::testing::PATIENCE, async {
        while ask(&host, &request).await != Response::Done {}
    })
    .await
    .unwrap();
}
