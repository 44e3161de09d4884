use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};

use proto::frame::FrameKind;
use proto::message::{ErrorCode, FileKind, FileList, FileRead, FileWrite, Request, Response};
use proto::mux::Session;
use tokio::time::timeout;

use crate::testing::{Guest, PATIENCE, ask, hear, open};

async fn read(session: &Session, request: FileRead) -> Result<(Vec<u8>, bool), ErrorCode> {
    let mut stream = open(session, &Request::FileRead(request)).await;
    match hear(&mut stream).await {
        Response::FileHeader(_) => {}
        Response::Error(error) => return Err(error.code),
        other => panic!("{other:?}"),
    }
    let mut content = Vec::new();
    loop {
        let frame = timeout(PATIENCE, stream.recv()).await.unwrap().unwrap().unwrap();
        if frame.kind == FrameKind::Data {
            content.extend(frame.payload);
            continue;
        }
        match serde_json::from_slice(&frame.payload).unwrap() {
            Response::FileEnd { truncated } => return Ok((content, truncated)),
            other => panic!("{other:?}"),
        }
    }
}

async fn write(session: &Session, path: &str, mode: Option<u32>, content: &[u8]) -> Response {
    let request =
        Request::FileWrite(FileWrite { path: path.to_owned(), mode, ..FileWrite::default() });
    let mut stream = open(session, &request).await;
    for chunk in content.chunks(100_000) {
        stream.send_data(FrameKind::Data, chunk).await.unwrap();
    }
    stream.send_data(FrameKind::Data, &[]).await.unwrap();
    hear(&mut stream).await
}

fn of(path: &str) -> FileRead {
    FileRead { path: path.to_owned(), ..FileRead::default() }
}

fn code(response: Response) -> ErrorCode {
    match response {
        Response::Error(error) => error.code,
        other => panic!("{other:?}"),
    }
}

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
async fn a_window_of_lines_is_cut_out() {
    let guest = Guest::new().await;
    let host = guest.owned().await;
    let long = "x".repeat(300_000);
    fs::write(guest.path().join("lines"), format!("one\n{long}\nthree\nfour")).unwrap();
    let window = |offset, limit| FileRead { offset, limit, ..of("/lines") };
    let second = read(&host, window(Some(2), Some(1))).await;
    assert_eq!(second, Ok((format!("{long}\n").into_bytes(), true)));
    assert_eq!(read(&host, window(Some(4), Some(9))).await, Ok((b"four".to_vec(), false)));
    assert_eq!(read(&host, window(Some(9), None)).await, Ok((Vec::new(), false)));
    assert_eq!(read(&host, window(Some(0), None)).await, Err(ErrorCode::Invalid));
    let few = FileRead { max_bytes: Some(2), ..of("/lines") };
    assert_eq!(read(&host, few).await, Ok((b"on".to_vec(), true)));
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
async fn a_pipe_is_refused_rather_than_waited_for() {
    let guest = Guest::new().await;
    let host = guest.owned().await;
    let mode = rustix::fs::Mode::from_raw_mode(0o600);
    let path = guest.path().join("pipe");
    let kind = rustix::fs::FileType::Fifo;
    rustix::fs::mknodat(rustix::fs::CWD, &path, kind, mode, 0).unwrap();
    assert_eq!(read(&host, of("/pipe")).await, Err(ErrorCode::Invalid));
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
    assert_eq!(fs::read_dir(guest.path()).unwrap().count(), 2);
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
