//! Content that comes in.

use api::FileWritten;
use axum::{
    Json,
    body::{Body, HttpBody as _},
    http::Uri,
};
use bytes::Bytes;
use futures_util::FutureExt as _;
use http_body_util::BodyExt as _;
use hyper::body::Frame;
use orchestrator::{FileWriting, message as guest};

use super::{FilesQuery, invalid, parse_mode, queried_path};
use crate::{auth::OwnedSandbox, body, failure::Failure};

/// A body of at most this length is sent to the guest in one piece, together with its request,
/// however its bytes come in.
const SMALL: u64 = 64 << 10;

/// Until `finish` succeeds an old file stays, however this ends: dropping the writing gives it up.
pub(crate) async fn write(
    OwnedSandbox(sandbox): OwnedSandbox,
    uri: Uri,
    body: Body,
) -> Result<Json<FileWritten>, Failure> {
    let query: FilesQuery = body::query(&uri)?;
    let write = guest::FileWrite {
        path: queried_path(query.path)?,
        mode: query.mode.as_deref().map(parse_mode).transpose()?,
        owner: query.owner,
        append: query.append,
    };
    Ok(told(fill(sandbox.file_write(write).await?, body).await?))
}

/// `PUT /sandboxes/:id/archive`
pub(crate) async fn unpack(
    OwnedSandbox(sandbox): OwnedSandbox,
    uri: Uri,
    body: Body,
) -> Result<Json<FileWritten>, Failure> {
    let query: FilesQuery = body::query(&uri)?;
    Ok(told(fill(sandbox.unpack(queried_path(query.path)?).await?, body).await?))
}

fn told(size: u64) -> Json<FileWritten> {
    Json(FileWritten { status: "ok".to_owned(), size })
}

/// Sends a body on and says how long it was.
async fn fill(mut writing: FileWriting, mut body: Body) -> Result<u64, Failure> {
    let small = body.size_hint().exact().is_some_and(|length| length <= SMALL);
    let mut size = 0;
    loop {
        let frame = if small { body.frame().await } else { next(&mut writing, &mut body).await? };
        let Some(frame) = frame else { break };
        let frame = frame.map_err(|_| invalid("the upload ended early"))?;
        if let Ok(data) = frame.into_data() {
            writing.write(&data).await?;
            size += data.len() as u64;
        }
    }
    writing.finish().await?;
    Ok(size)
}

/// The next piece of a body. What came in before goes on together, but does not wait for what has
/// not come yet.
async fn next(
    writing: &mut FileWriting,
    body: &mut Body,
) -> Result<Option<Result<Frame<Bytes>, axum::Error>>, Failure> {
    if let Some(frame) = body.frame().now_or_never() {
        return Ok(frame);
    }
    // The connection cuts its next piece out of what it has read while this waits.
    tokio::task::yield_now().await;
    if let Some(frame) = body.frame().now_or_never() {
        return Ok(frame);
    }
    writing.flush().await?;
    Ok(body.frame().await)
}
