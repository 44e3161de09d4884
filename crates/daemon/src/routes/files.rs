//! Files in a sandbox.

use std::io;

use api::{ErrorCode, FileInfo, FileWritten, headers};
use axum::{
    Json,
    body::Body,
    http::{HeaderName, HeaderValue, Uri, header},
    response::{IntoResponse as _, Response},
};
use bytes::{Bytes, BytesMut};
use futures_util::{StreamExt as _, stream};
use http_body_util::BodyExt as _;
use orchestrator::{FileReading, FileWriting, message as guest};
use serde::Deserialize;

use crate::{app::RequestId, auth::OwnedSandbox, body, failure::Failure, show};

/// How much of a file is read before the answer begins. A file within it is answered with its
/// length, and with a proper error if it cannot be read.
const READ_AHEAD: usize = 256 << 10;

/// What the query of a files request can hold.
#[derive(Debug, Default, Deserialize)]
pub(crate) struct FilesQuery {
    path: Option<String>,
    #[serde(default)]
    ls: bool,
    offset: Option<u64>,
    limit: Option<u64>,
    max_bytes: Option<u64>,
    mode: Option<String>,
}

pub(crate) async fn read(
    OwnedSandbox(sandbox): OwnedSandbox,
    id: RequestId,
    uri: Uri,
) -> Result<Response, Failure> {
    let query: FilesQuery = body::query(&uri)?;
    let path = guest_path(query.path)?;
    if query.ls {
        let entries = sandbox.file_list(&path).await?;
        let entries: Vec<FileInfo> = entries.into_iter().map(show::file).collect();
        return Ok(Json(entries).into_response());
    }
    if query.offset == Some(0) {
        let message = "offset counts lines from 1";
        return Err(Failure::new(ErrorCode::InvalidRequest, message));
    }
    let (offset, limit, max_bytes) = (query.offset, query.limit, query.max_bytes);
    let reading = sandbox
        .file_read(guest::FileRead { path, offset, limit, max_bytes, ..guest::FileRead::default() })
        .await?;
    content(reading, id).await
}

pub(crate) async fn stat(
    OwnedSandbox(sandbox): OwnedSandbox,
    uri: Uri,
) -> Result<Response, Failure> {
    let query: FilesQuery = body::query(&uri)?;
    let stat = sandbox.file_stat(&guest_path(query.path)?).await?;
    let mut response = ().into_response();
    describe(&mut response, &stat);
    Ok(response)
}

/// Until `finish` succeeds the old file stays, however this ends: dropping the writing gives it up.
pub(crate) async fn write(
    OwnedSandbox(sandbox): OwnedSandbox,
    uri: Uri,
    mut body: Body,
) -> Result<Json<FileWritten>, Failure> {
    let query: FilesQuery = body::query(&uri)?;
    let (path, mode) =
        (guest_path(query.path)?, query.mode.as_deref().map(parse_mode).transpose()?);
    let written = async {
        let mut writing = sandbox
            .file_write(guest::FileWrite { path, mode, ..guest::FileWrite::default() })
            .await?;
        let size = copy(&mut body, &mut writing).await?;
        writing.finish().await?;
        Ok(size)
    };
    match written.await {
        Ok(size) => Ok(Json(FileWritten { status: "ok".to_owned(), size })),
        Err(failure) => {
            body::discard(body).await;
            Err(failure)
        }
    }
}

/// Sends a body on as it comes and says how long it was.
async fn copy(body: &mut Body, writing: &mut FileWriting) -> Result<u64, Failure> {
    let mut size = 0;
    while let Some(frame) = body.frame().await {
        let frame =
            frame.map_err(|_| Failure::new(ErrorCode::InvalidRequest, "the upload ended early"))?;
        // An empty piece would mean the end of the file to the guest.
        if let Ok(data) = frame.into_data()
            && !data.is_empty()
        {
            writing.write(&data).await?;
            size += data.len() as u64;
        }
    }
    Ok(size)
}

/// A small file in one piece, a larger one as it comes. The size in `stat` is no length to promise:
/// files of `/proc` have more than they say, those of `/sys` less, and logs grow.
async fn content(mut reading: FileReading, id: RequestId) -> Result<Response, Failure> {
    let mut ahead = BytesMut::new();
    let mut ended = false;
    while !ended && ahead.len() < READ_AHEAD {
        match reading.next().await? {
            Some(data) => ahead.extend_from_slice(&data),
            None => ended = true,
        }
    }
    let stat = reading.stat().clone();
    let body = if ended {
        Body::from(ahead.freeze())
    } else {
        let first = stream::iter([Ok(ahead.freeze())]);
        Body::from_stream(first.chain(rest(reading, id)))
    };
    let mut response = ([(header::CONTENT_TYPE, headers::OCTETS)], body).into_response();
    describe(&mut response, &stat);
    Ok(response)
}

/// What is still to be read. An error in it makes the server break the connection off, which is
/// the only way left to tell the client that the content is not whole.
fn rest(
    reading: FileReading,
    id: RequestId,
) -> impl futures_util::Stream<Item = io::Result<Bytes>> + Send {
    stream::unfold(Some((reading, id)), async |open| {
        let (mut reading, id) = open?;
        match reading.next().await {
            Ok(Some(data)) => Some((Ok(data.into()), Some((reading, id)))),
            Ok(None) => None,
            Err(error) => {
                let told = Failure::from(error).report(&id);
                Some((Err(io::Error::other(told.error)), None))
            }
        }
    })
}

fn describe(response: &mut Response, stat: &guest::FileStat) {
    let is_dir = if stat.kind == guest::FileKind::Directory { "true" } else { "false" };
    let set = response.headers_mut();
    set.insert(HeaderName::from_static(headers::FILE_SIZE), stat.size.into());
    set.insert(HeaderName::from_static(headers::FILE_IS_DIR), HeaderValue::from_static(is_dir));
    if let Ok(mode) = HeaderValue::from_str(&show::mode(stat.mode)) {
        set.insert(HeaderName::from_static(headers::FILE_MODE), mode);
    }
}

fn guest_path(path: Option<String>) -> Result<String, Failure> {
    let invalid = |message| Failure::new(ErrorCode::InvalidRequest, message);
    let path = path.ok_or_else(|| invalid("the query has no path".to_owned()))?;
    if !path.starts_with('/') {
        let message = format!("{path:?} is not an absolute path");
        return Err(Failure::new(ErrorCode::PathNotAbsolute, message));
    }
    if path.contains('\0') {
        return Err(invalid(format!("{path:?} contains a NUL character")));
    }
    Ok(path)
}

fn parse_mode(text: &str) -> Result<u32, Failure> {
    let digits = !text.is_empty() && text.bytes().all(|byte| matches!(byte, b'0'..=b'7'));
    let mode = u32::from_str_radix(text, 8).ok().filter(|mode| digits && *mode <= 0o7777);
    mode.ok_or_else(|| {
        let message = format!("mode {text:?} is not octal permission bits, such as 0644");
        Failure::new(ErrorCode::InvalidRequest, message)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

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
        assert_eq!(guest_path(Some("/a b".into())).unwrap(), "/a b");
        for (bad, code) in [
            (None, ErrorCode::InvalidRequest),
            (Some(""), ErrorCode::PathNotAbsolute),
            (Some("etc/passwd"), ErrorCode::PathNotAbsolute),
            (Some("/a\0"), ErrorCode::InvalidRequest),
        ] {
            assert_eq!(guest_path(bad.map(str::to_owned)).unwrap_err().code, code, "{bad:?}");
        }
    }
}
