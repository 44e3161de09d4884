//! Changes as they happen.

use api::WatchEvent;
use axum::{http::Uri, response::Response};
use bytes::{Bytes, BytesMut};
use futures_util::{StreamExt as _, stream};
use orchestrator::Watching;

use super::{FilesQuery, queried_path};
use crate::{app::RequestId, auth::OwnedSandbox, body, failure::Failure, show};

/// The client going away drops the watching, which ends the guest's part.
pub(crate) async fn watch(
    OwnedSandbox(sandbox): OwnedSandbox,
    id: RequestId,
    uri: Uri,
) -> Result<Response, Failure> {
    let query: FilesQuery = body::query(&uri)?;
    let watching = sandbox.watch(queried_path(query.path)?, query.recursive).await?;
    let first = stream::iter([body::line(&WatchEvent::Watching)]);
    let changes = stream::unfold(Some((watching, id)), async |open| {
        let (watching, id) = open?;
        Some(next(watching, id).await)
    });
    Ok(body::lines(first.chain(changes)))
}

/// The next lines, and what is left to watch.
async fn next(mut watching: Watching, id: RequestId) -> (Bytes, Option<(Watching, RequestId)>) {
    match watching.next().await {
        Ok(changes) => {
            let mut lines = BytesMut::new();
            for change in changes {
                lines.extend_from_slice(&body::line(&show::change(change)));
            }
            (lines.freeze(), Some((watching, id)))
        }
        Err(error) => {
            let told = Failure::from(error).report(&id);
            (body::line(&WatchEvent::Error(told)), None)
        }
    }
}
