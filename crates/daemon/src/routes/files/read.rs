//! Content, facts and listings.

use std::io;

use api::{ErrorCode, FileInfo, headers};
use axum::{
    Json,
    body::Body,
    http::{HeaderMap, HeaderValue, StatusCode, Uri, header},
    response::{IntoResponse as _, Response},
};
use bytes::{Bytes, BytesMut};
use futures_util::{Stream, StreamExt as _, stream};
use orchestrator::{FileReading, Sandbox, message as guest};

use super::{FilesQuery, describe, invalid, queried_path, range::Range};
use crate::{app::RequestId, auth::OwnedSandbox, body, failure::Failure, show};

/// How much of a file is read before the answer begins. A file within it is answered with its
/// length, and with a proper error if it cannot be read.
const READ_AHEAD: usize = 256 << 10;

pub(crate) async fn read(
    OwnedSandbox(sandbox): OwnedSandbox,
    id: RequestId,
    asked: HeaderMap,
    uri: Uri,
) -> Result<Response, Failure> {
    let query: FilesQuery = body::query(&uri)?;
    if query.ls {
        return list(&sandbox, query).await;
    }
    let path = queried_path(query.path)?;
    if query.offset == Some(0) {
        return Err(invalid("offset counts lines from 1"));
    }
    let (offset, limit, max_bytes) = (query.offset, query.limit, query.max_bytes);
    let windowed = offset.is_some() || limit.is_some() || max_bytes.is_some();
    if !windowed && let Some(range) = Range::of(&asked) {
        return part(&sandbox, path, range, id).await;
    }
    let read = guest::FileRead { path, offset, limit, max_bytes, skip_bytes: None };
    let mut reading = sandbox.file_read(read).await?;
    let stat = reading.stat().clone();
    let ahead = Ahead::of(&mut reading).await?;
    // A size is no length to promise unless there is that much: files of `/proc` have more than
    // they say, those of `/sys` less.
    let whole = stat.kind == guest::FileKind::File && !windowed;
    let length = whole.then_some(stat.size).filter(|size| *size > ahead.length);
    Ok(answer(headers::OCTETS, &stat, ahead, Reading { reading, left: length, id }))
}

pub(crate) async fn stat(
    OwnedSandbox(sandbox): OwnedSandbox,
    uri: Uri,
) -> Result<Response, Failure> {
    let query: FilesQuery = body::query(&uri)?;
    let stat = sandbox.file_stat(&queried_path(query.path)?).await?;
    let mut response = ().into_response();
    describe(&mut response, &stat);
    Ok(response)
}

/// `GET /sandboxes/:id/archive`
pub(crate) async fn pack(
    OwnedSandbox(sandbox): OwnedSandbox,
    id: RequestId,
    uri: Uri,
) -> Result<Response, Failure> {
    let query: FilesQuery = body::query(&uri)?;
    let mut reading = sandbox.pack(queried_path(query.path)?).await?;
    let ahead = Ahead::of(&mut reading).await?;
    Ok(stream_of(headers::TAR, ahead, Reading { reading, left: None, id }))
}

async fn list(sandbox: &Sandbox, query: FilesQuery) -> Result<Response, Failure> {
    if query.limit == Some(0) {
        return Err(invalid("limit has to be at least 1"));
    }
    let path = queried_path(query.path)?;
    let (after, limit) = (query.after, query.limit);
    let listing = sandbox.file_list(guest::FileList { path, after, limit }).await?;
    let entries: Vec<FileInfo> = listing.entries.into_iter().map(show::file).collect();
    let more = if listing.more { "true" } else { "false" };
    Ok(([(headers::MORE, more)], Json(entries)).into_response())
}

/// Answers a range. How large the file is, is said by the answer that brings the bytes; only bytes
/// counted from the end need to be told before.
async fn part(
    sandbox: &Sandbox,
    path: String,
    range: Range,
    id: RequestId,
) -> Result<Response, Failure> {
    let (first, wanted) = match range {
        Range::From { first, last } => (first, last.map(|last| (last - first).saturating_add(1))),
        Range::Suffix(_) => {
            let stat = sandbox.file_stat(&path).await?;
            match range.within(stat.size) {
                Some((first, count)) => (first, Some(count)),
                // A directory is no file with an odd size.
                None if stat.kind == guest::FileKind::Directory => (0, None),
                None => return Ok(outside(stat.size)),
            }
        }
    };
    let read = guest::FileRead {
        path,
        skip_bytes: Some(first),
        max_bytes: wanted,
        ..guest::FileRead::default()
    };
    let mut reading = sandbox.file_read(read).await?;
    let stat = reading.stat().clone();
    let last = wanted.map(|wanted| first.saturating_add(wanted - 1));
    let Some((first, count)) = (Range::From { first, last }).within(stat.size) else {
        return Ok(outside(stat.size));
    };
    let ahead = Ahead::of(&mut reading).await?;
    // Nothing has been promised yet, so a file that has become shorter is no failure.
    let count = if ahead.ended { ahead.length } else { count };
    if count == 0 {
        return Ok(outside(stat.size));
    }
    let left = Some(count).filter(|_| !ahead.ended);
    let mut response = answer(headers::OCTETS, &stat, ahead, Reading { reading, left, id });
    *response.status_mut() = StatusCode::PARTIAL_CONTENT;
    let place = format!("bytes {first}-{}/{}", first + count - 1, stat.size.max(first + count));
    if let Ok(place) = HeaderValue::from_str(&place) {
        response.headers_mut().insert(header::CONTENT_RANGE, place);
    }
    Ok(response)
}

fn outside(size: u64) -> Response {
    let message = format!("the file has {size} bytes, and none in that range");
    let mut response = Failure::new(ErrorCode::RangeInvalid, message).into_response();
    if let Ok(value) = HeaderValue::from_str(&format!("bytes */{size}")) {
        response.headers_mut().insert(header::CONTENT_RANGE, value);
    }
    response
}

/// The beginning of a content.
struct Ahead {
    pieces: Vec<Bytes>,
    length: u64,
    ended: bool,
}

impl Ahead {
    async fn of(reading: &mut FileReading) -> Result<Self, Failure> {
        let mut ahead = Self { pieces: Vec::new(), length: 0, ended: false };
        while !ahead.ended && ahead.length < READ_AHEAD as u64 {
            match reading.next().await? {
                Some(data) => {
                    ahead.length += data.len() as u64;
                    ahead.pieces.push(data);
                }
                None => ahead.ended = true,
            }
        }
        Ok(ahead)
    }

    fn into_bytes(mut self) -> Bytes {
        if self.pieces.len() == 1 {
            return self.pieces.swap_remove(0);
        }
        let mut whole = BytesMut::new();
        self.pieces.iter().for_each(|piece| whole.extend_from_slice(piece));
        whole.freeze()
    }
}

/// A content that is being sent. `left` is what of a promised length is still to come.
struct Reading {
    reading: FileReading,
    left: Option<u64>,
    id: RequestId,
}

impl Reading {
    async fn next(&mut self) -> Result<Option<Bytes>, Failure> {
        let data = self.reading.next().await?;
        let Some(left) = &mut self.left else { return Ok(data) };
        match data {
            Some(_) if *left == 0 => Ok(None),
            Some(mut data) => {
                // What was added to the file meanwhile does not belong to the answer.
                data.truncate(usize::try_from(*left).unwrap_or(usize::MAX));
                *left -= data.len() as u64;
                Ok(Some(data))
            }
            None if *left == 0 => Ok(None),
            None => {
                let message = "the file became shorter while it was read";
                Err(Failure::new(ErrorCode::WrongState, message))
            }
        }
    }
}

fn answer(kind: &'static str, stat: &guest::FileStat, ahead: Ahead, rest: Reading) -> Response {
    let mut response = stream_of(kind, ahead, rest);
    describe(&mut response, stat);
    response
}

/// A small content in one piece, a larger one as it comes.
fn stream_of(kind: &'static str, mut ahead: Ahead, mut rest: Reading) -> Response {
    if ahead.ended {
        return ([(header::CONTENT_TYPE, kind)], ahead.into_bytes()).into_response();
    }
    let length = rest.left;
    if let Some(left) = &mut rest.left {
        *left = left.saturating_sub(ahead.length);
    }
    let first = stream::iter(std::mem::take(&mut ahead.pieces).into_iter().map(Ok));
    let body = Body::from_stream(first.chain(pieces(rest)));
    let mut response = ([(header::CONTENT_TYPE, kind)], body).into_response();
    if let Some(length) = length {
        response.headers_mut().insert(header::CONTENT_LENGTH, length.into());
    }
    response
}

/// What is still to be read. An error in it makes the server break the connection off, which is
/// the only way left to tell the client that the content is not whole.
fn pieces(reading: Reading) -> impl Stream<Item = io::Result<Bytes>> + Send {
    stream::unfold(Some(reading), async |open| {
        let mut reading = open?;
        match reading.next().await {
            Ok(Some(data)) => Some((Ok(data), Some(reading))),
            Ok(None) => None,
            Err(failure) => {
                let told = failure.report(&reading.id);
                Some((Err(io::Error::other(told.error)), None))
            }
        }
    })
}
