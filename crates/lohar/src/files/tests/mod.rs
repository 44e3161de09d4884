//! Each kind of request over a real session.

mod list;
mod pack;
mod read;
mod tree;
mod unpack;
mod watch;
mod write;

use std::path::Path;

use proto::frame::FrameKind;
use proto::message::{ErrorCode, FileRead, FileWrite, Request, Response};
use proto::mux::{Session, Stream};
use tokio::time::timeout;

use crate::testing::{PATIENCE, hear, open};

async fn read(session: &Session, request: FileRead) -> Result<(Vec<u8>, bool), ErrorCode> {
    content(&mut open(session, &Request::FileRead(request)).await).await
}

/// What follows a header until the end.
async fn content(stream: &mut Stream) -> Result<(Vec<u8>, bool), ErrorCode> {
    match hear(stream).await {
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
            Response::Error(error) => return Err(error.code),
            other => panic!("{other:?}"),
        }
    }
}

/// Sends a request and the content that belongs to it.
async fn send(session: &Session, request: &Request, content: &[u8]) -> Response {
    let mut stream = open(session, request).await;
    for chunk in content.chunks(100_000) {
        // An agent that has refused it already does not listen.
        if stream.send_data(FrameKind::Data, chunk).await.is_err() {
            return hear(&mut stream).await;
        }
    }
    let _ = stream.send_data(FrameKind::Data, &[]).await;
    hear(&mut stream).await
}

async fn write(session: &Session, path: &str, mode: Option<u32>, content: &[u8]) -> Response {
    let write = FileWrite { path: path.to_owned(), mode, ..FileWrite::default() };
    send(session, &Request::FileWrite(write), content).await
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

/// What is in a directory, sorted.
fn names(directory: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(directory).unwrap();
    let mut names: Vec<String> =
        entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}
