use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::symlink;

use proto::message::{ErrorCode, FileEntry, FileKind, FileList, Request, Response};
use proto::mux::Session;

use super::code;
use crate::testing::{Guest, ask, hear, open};

#[tokio::test]
async fn a_directory_of_any_size_is_listed_in_order() {
    let guest = Guest::new().await;
    let host = guest.owned().await;
    let directory = guest.path().join("many");
    fs::create_dir(&directory).unwrap();
    // Control characters take six bytes each as JSON.
    let tail = "\u{1}".repeat(200);
    for index in 0..1500 {
        fs::write(directory.join(format!("{index:05}{tail}")), "").unwrap();
    }
    symlink("/nowhere", directory.join("a-link")).unwrap();
    let mut stream = open(
        &host,
        &Request::FileList(FileList { path: "/many".to_owned(), ..FileList::default() }),
    )
    .await;
    let mut names = Vec::new();
    loop {
        let Response::List { entries, last, .. } = hear(&mut stream).await else { panic!() };
        for entry in entries {
            assert_eq!(entry.stat.kind == FileKind::Symlink, entry.name == "a-link");
            names.push(entry.name);
        }
        if last {
            break;
        }
    }
    assert_eq!(names.len(), 1501);
    assert!(names.is_sorted());
}

async fn page(
    host: &Session,
    path: &str,
    after: Option<&str>,
    limit: u64,
) -> (Vec<FileEntry>, bool) {
    let (path, after) = (path.to_owned(), after.map(str::to_owned));
    let request = Request::FileList(FileList { path, after, limit: Some(limit) });
    let mut stream = open(host, &request).await;
    let mut page = Vec::new();
    loop {
        match hear(&mut stream).await {
            Response::List { entries, last, more } => {
                page.extend(entries);
                if last {
                    return (page, more);
                }
            }
            other => panic!("{other:?}"),
        }
    }
}

#[tokio::test]
async fn a_hundred_thousand_entries_are_paged() {
    let guest = Guest::new().await;
    let host = guest.owned().await;
    let memory = tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap();
    symlink(memory.path(), guest.path().join("many")).unwrap();
    let directory = rustix::fs::open(
        memory.path(),
        rustix::fs::OFlags::DIRECTORY | rustix::fs::OFlags::CLOEXEC,
        rustix::fs::Mode::empty(),
    )
    .unwrap();
    for index in 0..100_000 {
        rustix::fs::symlinkat("x", &directory, format!("{index:06}")).unwrap();
    }
    let (mut got, mut after): (Vec<String>, Option<String>) = (Vec::new(), None);
    loop {
        let (entries, more) = page(&host, "/many", after.as_deref(), 30_000).await;
        assert_eq!(entries.len(), if more { 30_000 } else { 10_000 });
        got.extend(entries.into_iter().map(|entry| entry.name));
        after = got.last().cloned();
        if !more {
            break;
        }
    }
    assert!(got.iter().enumerate().all(|(index, name)| *name == format!("{index:06}")));
    assert_eq!(got.len(), 100_000);
    // Others are served meanwhile.
    let all = FileList { path: "/many".to_owned(), ..FileList::default() };
    let mut stream = open(&host, &Request::FileList(all)).await;
    for _ in 0..5 {
        assert_eq!(ask(&host, &Request::Ping).await, Response::Done);
    }
    assert!(matches!(hear(&mut stream).await, Response::List { last: false, .. }));
}

#[tokio::test]
async fn pages_begin_and_end_where_they_were_asked_to() {
    let guest = Guest::new().await;
    let host = guest.owned().await;
    let directory = guest.path().join("d");
    fs::create_dir(&directory).unwrap();
    fs::create_dir(guest.path().join("empty")).unwrap();
    for name in ["b", "a", "B", "c", "\u{e4}"] {
        fs::write(directory.join(name), name).unwrap();
    }
    fs::write(directory.join(std::ffi::OsStr::from_bytes(b"\xff")), "").unwrap();
    symlink("../etc", directory.join("link")).unwrap();
    let names = |page: &(Vec<FileEntry>, bool)| {
        page.0.iter().map(|entry| entry.name.clone()).collect::<Vec<_>>()
    };
    let all = page(&host, "/d", None, 100).await;
    assert_eq!(names(&all), ["B", "a", "b", "c", "link", "\u{e4}", "\u{fffd}"]);
    assert!(!all.1);
    let link = &all.0[4].stat;
    assert_eq!((link.kind, link.target.as_deref()), (FileKind::Symlink, Some("../etc")));
    let some = page(&host, "/d", Some("a"), 2).await;
    assert_eq!((names(&some), some.1), (vec!["b".to_owned(), "c".to_owned()], true));
    let some = page(&host, "/d", Some("bb"), 4).await;
    assert_eq!((some.0.len(), some.1), (4, false));
    assert_eq!(page(&host, "/d", Some("zzzz\u{10ffff}"), 4).await.0.len(), 2);
    assert_eq!(page(&host, "/d", None, 0).await, (Vec::new(), true));
    assert_eq!(page(&host, "/empty", None, 0).await, (Vec::new(), false));
    let none = FileList { path: "/none".to_owned(), ..FileList::default() };
    assert_eq!(code(ask(&host, &Request::FileList(none)).await), ErrorCode::NotFound);
}
