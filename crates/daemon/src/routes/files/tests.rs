use api::{FileInfo, FileWritten, WatchEvent};
use axum::{
    body::Body,
    http::{Response, StatusCode},
};
use bytes::Bytes;
use futures_util::stream;
use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use orchestrator::{
    message::{Request, Response as Answer},
    testing::{Agent, FrameKind, Stream},
};
use tokio::{sync::mpsc, time::timeout};

use super::*;
use crate::testing::{PATIENCE, Served, failure, whole};

/// What the guest was asked for, with the data frames that came along.
type Asked = (Request, Vec<Vec<u8>>);

const LARGE: u64 = 3 << 20;

fn content(size: u64) -> Vec<u8> {
    (0..size).map(|at| u8::try_from(at % 251).unwrap()).collect()
}

fn stat(kind: guest::FileKind, size: u64) -> guest::FileStat {
    guest::FileStat { size, mode: 0o644, kind, mtime: 0, uid: 0, gid: 0, target: None }
}

/// A guest with a file of ten bytes, a large one, and paths where everything fails.
async fn serve(mut agent: Agent, asked: mpsc::Sender<Asked>) {
    while let Some(stream) = agent.incoming.next().await {
        tokio::spawn(serve_one(stream, asked.clone()));
    }
}

async fn serve_one(mut stream: Stream, asked: mpsc::Sender<Asked>) {
    let Ok(Some(request)) = stream.recv_json::<Request>().await else { return };
    if let Some(error) = refusal(&request) {
        stream.send_json(&Answer::Error(error)).await.unwrap();
        return;
    }
    let mut data = Vec::new();
    if matches!(request, Request::FileWrite(_) | Request::Unpack { .. }) {
        loop {
            // A client that leaves ends it without the empty frame.
            let Ok(Some(frame)) = stream.recv().await else { return };
            if frame.payload.is_empty() {
                break;
            }
            data.push(frame.payload);
        }
    }
    let _ = asked.send((request.clone(), data)).await;
    let _ = answer(&mut stream, request).await;
}

async fn answer(stream: &mut Stream, request: Request) -> Option<()> {
    match request {
        Request::FileRead(read) => send_file(stream, read).await,
        Request::Pack { .. } => {
            stream
                .send_json(&Answer::FileHeader(stat(guest::FileKind::Directory, 4096)))
                .await
                .ok()?;
            stream.send_data(FrameKind::Data, &content(LARGE)).await.ok()?;
            stream.send_json(&Answer::FileEnd { truncated: false }).await.ok()
        }
        Request::FileStat { path, .. } => {
            stream.send_json(&Answer::Stat(stat(guest::FileKind::File, size_of(&path)))).await.ok()
        }
        Request::FileList(list) => {
            let all = ["a", "b", "c"].map(str::to_owned).into_iter();
            let rest = all.filter(|name| list.after.as_ref().is_none_or(|after| name > after));
            let mut entries: Vec<_> = rest
                .map(|name| guest::FileEntry { name, stat: stat(guest::FileKind::File, 1) })
                .collect();
            let limit = list.limit.map_or(usize::MAX, |limit| usize::try_from(limit).unwrap());
            let more = entries.len() > limit;
            entries.truncate(limit);
            stream.send_json(&Answer::List { entries, last: true, more }).await.ok()
        }
        Request::Watch { path, .. } => {
            stream.send_json(&Answer::Done).await.ok()?;
            let change = guest::Change {
                kind: guest::ChangeKind::Rename,
                path,
                to: Some("/new".to_owned()),
                is_dir: true,
            };
            stream
                .send_json(&Answer::Changed { changes: vec![change.clone(), change] })
                .await
                .ok()?;
            // Until the host drops it.
            while let Ok(Some(_)) = stream.recv().await {}
            Some(())
        }
        _ => stream.send_json(&Answer::Done).await.ok(),
    }
}

fn size_of(path: &str) -> u64 {
    match path {
        "/empty" => 0,
        "/large" | "/shrinking" => LARGE,
        _ => 10,
    }
}

async fn send_file(stream: &mut Stream, read: guest::FileRead) -> Option<()> {
    let size = size_of(&read.path);
    stream.send_json(&Answer::FileHeader(stat(guest::FileKind::File, size))).await.ok()?;
    let mut all = content(size);
    if read.path == "/shrinking" {
        all.truncate(1 << 20);
    }
    let from = usize::try_from(read.skip_bytes.unwrap_or(0)).unwrap_or(usize::MAX);
    let window = all.get(from..).unwrap_or_default();
    let most = read.max_bytes.and_then(|most| usize::try_from(most).ok());
    let window = &window[..window.len().min(most.unwrap_or(usize::MAX))];
    if !window.is_empty() {
        stream.send_data(FrameKind::Data, window).await.ok()?;
    }
    if read.path == "/proc" {
        // More than its size says.
        stream.send_data(FrameKind::Data, b"more").await.ok()?;
    }
    stream.send_json(&Answer::FileEnd { truncated: false }).await.ok()
}

fn refusal(request: &Request) -> Option<guest::WireError> {
    let path = match request {
        Request::FileRead(read) => &read.path,
        Request::FileWrite(write) => &write.path,
        Request::FileList(list) => &list.path,
        Request::FileStat { path, .. }
        | Request::FileRemove { path, .. }
        | Request::MakeDirectory { path, .. }
        | Request::Pack { path }
        | Request::Unpack { path, .. }
        | Request::Watch { path, .. }
        | Request::FileMove { from: path, .. } => path,
        _ => return None,
    };
    let code = match path.as_str() {
        "/missing" => guest::ErrorCode::NotFound,
        "/dir" => guest::ErrorCode::IsDirectory,
        "/file/x" => guest::ErrorCode::NotDirectory,
        "/secret" => guest::ErrorCode::Permission,
        "/there" => guest::ErrorCode::Exists,
        "/full" => guest::ErrorCode::NotEmpty,
        _ => return None,
    };
    Some(guest::WireError { code, message: format!("{path}: no") })
}

async fn served() -> (Served, mpsc::Receiver<Asked>) {
    let (served, agent) = Served::new().await;
    let (sender, asked) = mpsc::channel(64);
    tokio::spawn(serve(agent, sender));
    (served, asked)
}

async fn ranged(served: &Served, path: &str, range: &str) -> Response<Incoming> {
    let request = served.request("GET", &format!("/sandboxes/box/files?path={path}"));
    served.send(request.header("range", range).body(Body::empty()).unwrap()).await
}

#[test]
fn modes_are_octal() {
    assert_eq!(parse_mode("0644").unwrap(), 0o644);
    assert_eq!(parse_mode("4755").unwrap(), 0o4755);
    for bad in ["", "+644", "0o644", "888", "17777", "rw"] {
        assert!(parse_mode(bad).is_err(), "{bad}");
    }
}

#[test]
fn paths_are_absolute() {
    assert_eq!(queried_path(Some("/a b".into())).unwrap(), "/a b");
    for (bad, code) in [
        (None, ErrorCode::InvalidRequest),
        (Some(""), ErrorCode::PathNotAbsolute),
        (Some("etc/passwd"), ErrorCode::PathNotAbsolute),
        (Some("/a\0"), ErrorCode::InvalidRequest),
    ] {
        assert_eq!(queried_path(bad.map(str::to_owned)).unwrap_err().code, code, "{bad:?}");
    }
}

#[tokio::test]
async fn a_range_of_bytes_is_answered_with_just_those() {
    let (served, _asked) = served().await;
    for (range, place, bytes) in [
        ("bytes=2-5", "bytes 2-5/10", 2..6),
        ("bytes=7-", "bytes 7-9/10", 7..10),
        ("bytes=8-100", "bytes 8-9/10", 8..10),
        ("bytes=-3", "bytes 7-9/10", 7..10),
        ("bytes=-100", "bytes 0-9/10", 0..10),
    ] {
        let response = ranged(&served, "/small", range).await;
        assert_eq!(response.status(), StatusCode::PARTIAL_CONTENT, "{range}");
        assert_eq!(response.headers()["content-range"], place);
        assert_eq!(response.headers()["content-length"], bytes.clone().count().to_string());
        assert_eq!(response.headers()[headers::FILE_SIZE], "10");
        assert_eq!(whole(response).await, content(10)[bytes], "{range}");
    }
    let response = ranged(&served, "/large", "bytes=1000-2500000").await;
    assert_eq!(response.headers()["content-length"], "2499001");
    assert_eq!(response.headers()["content-range"], format!("bytes 1000-2500000/{LARGE}"));
    assert!(whole(response).await == content(LARGE)[1000..=2_500_000]);
}

#[tokio::test]
async fn a_range_that_is_not_in_the_file_says_how_large_it_is() {
    let (served, _asked) = served().await;
    for (path, range, place) in [
        ("/small", "bytes=10-", "bytes */10"),
        ("/small", "bytes=99-100", "bytes */10"),
        ("/small", "bytes=-0", "bytes */10"),
        ("/empty", "bytes=0-", "bytes */0"),
        ("/empty", "bytes=-5", "bytes */0"),
    ] {
        let response = ranged(&served, path, range).await;
        assert_eq!(response.headers()["content-range"], place, "{path} {range}");
        assert_eq!(failure(response).await.code, ErrorCode::RangeInvalid, "{path} {range}");
    }
    for range in ["bytes=0-1,3-4", "bytes=5-2", "lines=1-2", "bytes"] {
        let response = ranged(&served, "/small", range).await;
        assert_eq!(response.status(), StatusCode::OK, "{range}");
        assert_eq!(response.headers()["accept-ranges"], "bytes");
        assert_eq!(whole(response).await, content(10));
    }
    let missing = failure(ranged(&served, "/missing", "bytes=-1").await).await;
    assert_eq!(missing.code, ErrorCode::FileNotFound);
}

#[tokio::test]
async fn a_whole_file_comes_with_its_length_or_breaks_off() {
    let (served, _asked) = served().await;
    let response = served.get("/sandboxes/box/files?path=/large").await;
    assert_eq!(response.headers()["content-length"], LARGE.to_string());
    assert!(whole(response).await == content(LARGE));
    let odd = served.get("/sandboxes/box/files?path=/proc").await;
    assert_eq!(
        (odd.headers()["content-length"].as_bytes(), odd.headers()[headers::FILE_SIZE].as_bytes()),
        (&b"14"[..], &b"10"[..])
    );
    assert_eq!(whole(odd).await.len(), 14);
    let short = served.get("/sandboxes/box/files?path=/shrinking").await;
    assert_eq!(short.headers()["content-length"], LARGE.to_string());
    assert!(timeout(PATIENCE, short.into_body().collect()).await.unwrap().is_err());
}

#[tokio::test]
async fn what_the_guest_refuses_has_a_status_of_its_own() {
    let (served, _asked) = served().await;
    for (method, path, code) in [
        ("GET", "files?path=/missing", ErrorCode::FileNotFound),
        ("GET", "files?path=/dir", ErrorCode::IsDirectory),
        ("GET", "files?path=/secret", ErrorCode::PermissionDenied),
        ("GET", "files?path=/file/x&ls=true", ErrorCode::NotDirectory),
        ("GET", "files?path=/a&ls=true&limit=0", ErrorCode::InvalidRequest),
        ("GET", "files?path=/a&offset=0", ErrorCode::InvalidRequest),
        ("GET", "files/watch?path=/missing", ErrorCode::FileNotFound),
        ("GET", "archive?path=/missing", ErrorCode::FileNotFound),
        ("GET", "archive?path=a", ErrorCode::PathNotAbsolute),
        ("PUT", "files?path=/dir", ErrorCode::IsDirectory),
        ("PUT", "files?path=/secret", ErrorCode::PermissionDenied),
        ("PUT", "files?path=/a&mode=9", ErrorCode::InvalidRequest),
        ("PUT", "archive?path=/file/x", ErrorCode::NotDirectory),
        ("PUT", "archive", ErrorCode::InvalidRequest),
        ("DELETE", "files?path=/missing", ErrorCode::FileNotFound),
        ("DELETE", "files?path=/full", ErrorCode::DirectoryNotEmpty),
        ("DELETE", "files", ErrorCode::InvalidRequest),
    ] {
        // More than the guest takes before it refuses.
        let body = if method == "PUT" { content(2 << 20) } else { Vec::new() };
        let request = served.request(method, &format!("/sandboxes/box/{path}"));
        let response = served.send(request.body(Body::from(body)).unwrap()).await;
        assert_eq!(failure(response).await.code, code, "{method} {path}");
    }
    for (path, body, code) in [
        ("files/mkdir", r#"{"path":"/there"}"#, ErrorCode::FileExists),
        ("files/mkdir", r#"{"path":"there"}"#, ErrorCode::PathNotAbsolute),
        ("files/mkdir", r#"{"path":"/a","mode":"x"}"#, ErrorCode::InvalidRequest),
        ("files/move", r#"{"from":"/there","to":"/b"}"#, ErrorCode::FileExists),
        ("files/move", r#"{"from":"/a","to":"b"}"#, ErrorCode::PathNotAbsolute),
        ("files/move", r#"{"from":"/a","to":"/b","force":true}"#, ErrorCode::UnknownField),
    ] {
        let request = served.request("POST", &format!("/sandboxes/box/{path}"));
        let response = served.send(request.body(Body::from(body)).unwrap()).await;
        assert_eq!(failure(response).await.code, code, "{path} {body}");
    }
}

#[tokio::test]
async fn a_write_says_what_is_wanted_and_small_ones_go_in_one_piece() {
    let (served, mut asked) = served().await;
    let path = "/sandboxes/box/files?path=/a&mode=0600&owner=me:us&append=true";
    let response = served.send(served.request("PUT", path).body("tiny".into()).unwrap()).await;
    let written: FileWritten = serde_json::from_slice(&whole(response).await).unwrap();
    assert_eq!((written.status.as_str(), written.size), ("ok", 4));
    let expected = guest::FileWrite {
        path: "/a".to_owned(),
        mode: Some(0o600),
        owner: Some("me:us".to_owned()),
        append: true,
    };
    let (request, data) = asked.recv().await.unwrap();
    assert_eq!((request, data), (Request::FileWrite(expected), vec![b"tiny".to_vec()]));

    let empty = served.send(served.request("PUT", path).body(Body::empty()).unwrap()).await;
    assert_eq!(empty.status(), StatusCode::OK);
    assert_eq!(asked.recv().await.unwrap().1, Vec::<Vec<u8>>::new());
}

#[tokio::test]
async fn an_upload_of_unknown_length_arrives_whole_in_few_pieces() {
    let (served, mut asked) = served().await;
    for route in ["files", "archive"] {
        let all = content(LARGE);
        let pieces: Vec<Result<Bytes, std::io::Error>> =
            all.chunks(1000).map(|piece| Ok(Bytes::copy_from_slice(piece))).collect();
        let request = served.request("PUT", &format!("/sandboxes/box/{route}?path=/a"));
        let body = Body::from_stream(stream::iter(pieces));
        let response = served.send(request.body(body).unwrap()).await;
        let written: FileWritten = serde_json::from_slice(&whole(response).await).unwrap();
        assert_eq!(written.size, LARGE);
        let (request, data) = asked.recv().await.unwrap();
        assert_eq!(matches!(request, Request::Unpack { .. }), route == "archive");
        assert!(data.len() < 1000, "{} frames", data.len());
        assert!(data.concat() == all);
    }
}

#[tokio::test]
async fn an_upload_that_breaks_off_is_not_completed() {
    let (served, mut asked) = served().await;
    let pieces = [Ok(Bytes::from_static(b"half")), Err(std::io::Error::other("gone"))];
    let request = served.request("PUT", "/sandboxes/box/files?path=/a");
    let request = request.body(Body::from_stream(stream::iter(pieces))).unwrap();
    let mut connection = served.connect().await;
    assert!(timeout(PATIENCE, connection.send_request(request)).await.unwrap().is_err());
    // The next write is the first that the guest was asked for to the end.
    let whole = served.request("PUT", "/sandboxes/box/files?path=/b").body("b".into()).unwrap();
    assert_eq!(served.send(whole).await.status(), StatusCode::OK);
    let (request, _) = asked.recv().await.unwrap();
    assert!(matches!(request, Request::FileWrite(write) if write.path == "/b"));
}

#[tokio::test]
async fn listings_come_in_pages() {
    let (served, _asked) = served().await;
    for (query, names, more) in [
        ("", vec!["a", "b", "c"], "false"),
        ("&limit=2", vec!["a", "b"], "true"),
        ("&limit=2&after=b", vec!["c"], "false"),
        ("&after=c", vec![], "false"),
    ] {
        let path = format!("/sandboxes/box/files?path=/d&ls=true{query}");
        let response = served.get(&path).await;
        assert_eq!(response.headers()[headers::MORE], more, "{query}");
        let listed: Vec<FileInfo> = serde_json::from_slice(&whole(response).await).unwrap();
        let listed: Vec<&str> = listed.iter().map(|entry| entry.name.as_str()).collect();
        assert_eq!(listed, names, "{query}");
    }
}

#[tokio::test]
async fn trees_are_changed_as_asked() {
    let (served, mut asked) = served().await;
    for (method, path, body, expected) in [
        (
            "DELETE",
            "files?path=/a&recursive=true",
            "",
            Request::FileRemove { path: "/a".to_owned(), recursive: true },
        ),
        (
            "POST",
            "files/mkdir",
            r#"{"path":"/a","mode":"0700"}"#,
            Request::MakeDirectory { path: "/a".to_owned(), mode: Some(0o700), parents: false },
        ),
        (
            "POST",
            "files/move",
            r#"{"from":"/a","to":"/b","replace":true}"#,
            Request::FileMove { from: "/a".to_owned(), to: "/b".to_owned(), replace: true },
        ),
    ] {
        let request = served.request(method, &format!("/sandboxes/box/{path}"));
        let response = served.send(request.body(Body::from(body)).unwrap()).await;
        assert_eq!(response.status(), StatusCode::OK, "{method} {path}");
        let done: api::Done = serde_json::from_slice(&whole(response).await).unwrap();
        assert!(!done.status.is_empty());
        assert_eq!(asked.recv().await.unwrap().0, expected);
    }
}

#[tokio::test]
async fn archives_are_streams() {
    let (served, mut asked) = served().await;
    let response = served.get("/sandboxes/box/archive?path=/d").await;
    assert_eq!(response.headers()["content-type"], headers::TAR);
    assert!(whole(response).await == content(LARGE));
    assert_eq!(asked.recv().await.unwrap().0, Request::Pack { path: "/d".to_owned() });
}

#[tokio::test]
async fn a_watch_tells_of_changes_until_it_ends() {
    let (served, agent) = Served::new().await;
    let power = agent.power.clone();
    let (sender, _asked) = mpsc::channel(64);
    tokio::spawn(serve(agent, sender));
    let response = served.get("/sandboxes/box/files/watch?path=/d&recursive=true").await;
    assert_eq!(response.headers()["content-type"], headers::NDJSON);
    let mut body = response.into_body();
    let mut lines = Vec::new();
    while lines.iter().filter(|byte| **byte == b'\n').count() < 3 {
        let frame = timeout(PATIENCE, body.frame()).await.unwrap().unwrap().unwrap();
        lines.extend_from_slice(frame.data_ref().unwrap());
    }
    power.cut();
    lines.extend(timeout(PATIENCE, body.collect()).await.unwrap().unwrap().to_bytes());
    let events: Vec<WatchEvent> = String::from_utf8(lines)
        .unwrap()
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    let change = WatchEvent::Change {
        kind: api::WatchKind::Rename,
        path: "/d".to_owned(),
        to: Some("/new".to_owned()),
        is_dir: true,
    };
    assert_eq!(events[..3], [WatchEvent::Watching, change.clone(), change]);
    assert!(matches!(&events[3..], [WatchEvent::Error(_)]), "{events:?}");
}
